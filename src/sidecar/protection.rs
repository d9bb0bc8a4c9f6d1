//! Task protection at work: carries requests for leases from the endpoints and the busy URL to
//! [`crate::core::leases`], which decides, and its calls to ECS's agent.
//!
//! [`ProtectionLoop`] owns the state machine and runs as one task beside the sidecar; a
//! [`ProtectionHandle`] reaches it over a bounded channel. It lives as long as the sidecar does: at the end
//! nothing is awaited.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};

use crate::core::leases::{
    AgentAnswer, Agreement, CALL_LIMIT, LeaseAnswer, LeaseCommand, LeaseEvent, LeaseName, Protection,
    RequestId,
};
use crate::core::lifecycle::ShutdownState;
use crate::core::task::Container;
use crate::core::timeline::AwsOutcome;
use crate::core::url::HttpUrl;
use crate::sidecar::aws::protection::call_agent;
use crate::sidecar::clock::{now, wall_clock};
use crate::sidecar::http::{Ask, Network, Way};
use crate::sidecar::status::{CallCounts, LeaseReport, ProtectionReport, Status};

/// Requests that wait to be taken out of the channel, each for microseconds.
const CAPACITY: usize = 64;

/// How often the busy URL is asked.
const BUSY_INTERVAL: Duration = Duration::from_secs(10);

/// What an answer of the busy URL may take: less than the interval, and long for a word that an app has
/// at hand.
const BUSY_LIMIT: Duration = Duration::from_secs(2);

/// What a 200 of the busy URL is worth: thirty intervals, so that an app that is too busy to answer some
/// of the questions stays protected.
const BUSY_LEASE: Duration = Duration::from_secs(300);

/// The task metadata is read within this time, where there is any.
const TASK_KNOWN_LIMIT: Duration = Duration::from_secs(2);

/// How long a sidecar that leaves waits for the end of the protection: one call behind another that is
/// under way, and a second more. After that the protection ends by itself.
const RELEASE_LIMIT: Duration = CALL_LIMIT
    .saturating_mul(2)
    .saturating_add(Duration::from_secs(1));

/// What an endpoint asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseAction {
    /// A lease of that length, or the renewal of one.
    Take(Duration),
    /// The end of a lease.
    GiveBack,
}

#[derive(Debug)]
struct LeaseRequest {
    name: LeaseName,
    action: LeaseAction,
    /// Gets exactly one answer, unless the sidecar ends first.
    reply: oneshot::Sender<LeaseAnswer>,
}

/// What others know of the protection; cheap to clone.
#[derive(Clone, Debug)]
pub struct ProtectionHandle {
    requests: mpsc::Sender<LeaseRequest>,
    /// The latest state.
    pub report: watch::Receiver<Arc<ProtectionReport>>,
    /// Whether the busy URL is asked, so that the lease `busy` is nobody else's.
    pub asks_app: bool,
}

impl ProtectionHandle {
    /// Waits for the answer; `None` where the sidecar ends first.
    pub async fn request(&self, name: LeaseName, action: LeaseAction) -> Option<LeaseAnswer> {
        let (reply, answer) = oneshot::channel();
        let request = LeaseRequest { name, action, reply };
        self.requests.send(request).await.ok()?;
        answer.await.ok()
    }

    /// Waits until ECS does not protect the task any more, which the end of the drain brings about.
    pub async fn released(mut self) -> AwsOutcome {
        let released = self.report.wait_for(|report| !report.may_be_protected);
        match timeout(RELEASE_LIMIT, released).await {
            Ok(Ok(_)) => AwsOutcome::Done("ECS does not protect this task any more".to_owned()),
            _ => AwsOutcome::Failed(format!(
                "ECS's agent has not ended the protection within {} s; it ends by itself within the hour",
                RELEASE_LIMIT.as_secs()
            )),
        }
    }
}

/// The task that owns the state machine and calls ECS's agent for it.
pub struct ProtectionLoop {
    network: Network,
    agent: HttpUrl,
    busy_url: Option<HttpUrl>,
    status: watch::Receiver<Arc<Status>>,
    requests: mpsc::Receiver<LeaseRequest>,
    report: watch::Sender<Arc<ProtectionReport>>,
    protection: Protection,
    /// Who waits for an answer. Bounded, since the state machine bounds the requests that wait and
    /// answers all others at once.
    replies: HashMap<RequestId, oneshot::Sender<LeaseAnswer>>,
    last_request: RequestId,
    /// The call that is under way.
    calls: JoinSet<AgentAnswer>,
    busy_url_failures: u64,
    /// Whether the last question to the busy URL failed, so that a failure is logged once and not at
    /// each question.
    busy_url_fails: bool,
    logged_trouble: Option<String>,
    /// What the state machine knows of it.
    superseded: bool,
}

impl ProtectionLoop {
    /// Makes the loop and a handle of it; the caller runs it with [`ProtectionLoop::run`].
    pub fn new(
        network: Network,
        agent: HttpUrl,
        busy_url: Option<HttpUrl>,
        status: watch::Receiver<Arc<Status>>,
    ) -> (ProtectionLoop, ProtectionHandle) {
        let (sender, requests) = mpsc::channel(CAPACITY);
        let report = watch::Sender::new(Arc::default());
        let handle = ProtectionHandle {
            requests: sender,
            report: report.subscribe(),
            asks_app: busy_url.is_some(),
        };
        let protection_loop = ProtectionLoop {
            network,
            agent,
            busy_url,
            status,
            requests,
            report,
            protection: Protection::default(),
            replies: HashMap::new(),
            last_request: 0,
            calls: JoinSet::new(),
            busy_url_failures: 0,
            busy_url_fails: false,
            logged_trouble: None,
            superseded: false,
        };
        (protection_loop, handle)
    }

    /// Runs until it is dropped, or until the sidecar has gone.
    pub async fn run(mut self) {
        let (busy, mut busy_answers) = mpsc::channel(1);
        let mut companions = JoinSet::new();
        if let Some(url) = self.busy_url.clone() {
            companions.spawn(ask_app(self.network.clone(), url, self.status.clone(), busy));
        }
        let mut requests_open = true;
        loop {
            let timeout = self.protection.next_timeout();
            // In this order: a notice that is there comes before a request that came after it.
            let event = tokio::select! {
                biased;
                changed = self.status.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.event_of_status()
                }
                Some(ended) = self.calls.join_next() => {
                    let answer = ended.unwrap_or_else(|why| AgentAnswer::Silent(why.to_string()));
                    Some(LeaseEvent::AgentAnswered(answer))
                }
                Some(busy) = busy_answers.recv() => self.event_of_busy_url(busy),
                request = self.requests.recv(), if requests_open => {
                    requests_open = request.is_some();
                    request.map(|request| self.event_of_request(request))
                }
                () = sleep_until(timeout.unwrap_or_else(now).into()), if timeout.is_some() => {
                    Some(LeaseEvent::Timeout)
                }
            };
            if let Some(event) = event {
                self.apply(event);
                self.publish();
            }
        }
    }

    /// What the sidecar's state means for leases.
    fn event_of_status(&mut self) -> Option<LeaseEvent> {
        let status = self.status.borrow_and_update();
        if matches!(status.report.state, ShutdownState::Waiting | ShutdownState::Ended) {
            Some(LeaseEvent::Drained)
        } else {
            if status.notice.is_some() {
                return Some(LeaseEvent::Notice);
            }
            let superseded = status.superseded.is_some();
            let changed = std::mem::replace(&mut self.superseded, superseded) != superseded;
            changed.then_some(LeaseEvent::Superseded(superseded))
        }
    }

    fn event_of_request(&mut self, LeaseRequest { name, action, reply }: LeaseRequest) -> LeaseEvent {
        let request = self.next_request();
        self.replies.insert(request, reply);
        match action {
            LeaseAction::Take(length) => LeaseEvent::Take {
                request,
                name,
                length,
            },
            LeaseAction::GiveBack => LeaseEvent::GiveBack { request, name },
        }
    }

    /// Nobody waits for the answers to the requests that these make.
    fn event_of_busy_url(&mut self, busy: Result<bool, String>) -> Option<LeaseEvent> {
        let name = LeaseName::busy();
        let request = self.next_request();
        if busy.is_ok() {
            self.busy_url_fails = false;
        }
        match busy {
            Ok(true) => Some(LeaseEvent::Take {
                request,
                name,
                length: BUSY_LEASE,
            }),
            Ok(false) => Some(LeaseEvent::GiveBack { request, name }),
            Err(why) => {
                if !std::mem::replace(&mut self.busy_url_fails, true) {
                    tracing::warn!(event = "watch", watch = "busy", message = why.as_str());
                }
                self.busy_url_failures += 1;
                self.publish();
                None
            }
        }
    }

    fn next_request(&mut self) -> RequestId {
        self.last_request += 1;
        self.last_request
    }

    fn apply(&mut self, event: LeaseEvent) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for command in self.protection.on(event, now()) {
                match command {
                    LeaseCommand::CallAgent(call) => {
                        let (network, agent) = (self.network.clone(), self.agent.clone());
                        self.calls
                            .spawn(async move { call_agent(&network, &agent, call).await });
                    }
                    LeaseCommand::Answer(request, answer) => {
                        let Some(reply) = self.replies.remove(&request) else {
                            continue;
                        };
                        // A worker that has hung up holds no lease.
                        if let Err(LeaseAnswer::Granted(grant)) = reply.send(answer) {
                            events.push(LeaseEvent::GrantUnheard(grant));
                        }
                    }
                }
            }
        }
    }

    fn publish(&mut self) {
        let state = self.protection.state();
        let trouble = state.trouble.map(|why| format!("task protection fails: {why}"));
        if self.logged_trouble != trouble {
            match &trouble {
                Some(why) => tracing::warn!(event = "watch", watch = "protection", message = why.as_str()),
                None => tracing::info!(
                    event = "watch",
                    watch = "protection",
                    message = "no trouble any more"
                ),
            }
            self.logged_trouble.clone_from(&trouble);
        }
        let report = ProtectionReport {
            protected: state.agreement.is_some(),
            may_be_protected: state.may_be_protected,
            protected_until: state.agreement.map(|agreement| protected_until(&agreement)),
            leases: state
                .leases
                .into_iter()
                .map(|(name, until)| LeaseReport {
                    name: name.as_str().to_owned(),
                    until: wall_clock(until),
                })
                .collect(),
            calls: CallCounts(state.calls),
            busy_url_failures: self.busy_url_failures,
            trouble,
        };
        // Whoever waits for a change is not woken where there is none.
        self.report.send_if_modified(|last| {
            let changed = **last != report;
            if changed {
                *last = Arc::new(report);
            }
            changed
        });
    }
}

/// The end by ECS's clock where ECS has said it, else by the clock of this host.
pub fn protected_until(agreement: &Agreement) -> String {
    agreement.expires.map_or_else(
        || wall_clock(agreement.until),
        |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    )
}

/// Asks the busy URL at each interval and sends what it says: busy, not busy, or why that is not known.
/// Ends once nobody receives that any more.
async fn ask_app(
    network: Network,
    url: HttpUrl,
    mut status: watch::Receiver<Arc<Status>>,
    answers: mpsc::Sender<Result<bool, String>>,
) {
    // The host may be a container of the task, which the task metadata resolves.
    let _ = timeout(TASK_KNOWN_LIMIT, status.wait_for(|status| status.task.is_some())).await;
    let mut ticks = interval(BUSY_INTERVAL);
    // After a suspension of the host one question is as good as many.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let task = status.borrow().task.clone();
        let container = task.as_deref().and_then(|task| task.container(url.host()));
        let known = container.map_or_else(Vec::new, Container::reached_at);
        let busy = match timeout(BUSY_LIMIT, network.ask(Ask::get(&url), &mut Way::known(&known))).await {
            Ok(Ok(answer)) if answer.status() == StatusCode::OK => Ok(true),
            Ok(Ok(answer)) if answer.status() == StatusCode::NO_CONTENT => Ok(false),
            Ok(Ok(answer)) => Err(format!("HTTP {}", answer.status().as_u16())),
            Ok(Err(why)) => Err(why.to_string()),
            Err(_) => Err(format!("no answer within {} s", BUSY_LIMIT.as_secs())),
        };
        let busy = busy.map_err(|why| {
            format!("PRESTOP_BUSY_URL {url}: {why}. 200 is busy, 204 is not; anything else changes nothing")
        });
        if answers.send(busy).await.is_err() {
            return;
        }
    }
}
