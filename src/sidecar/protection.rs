//! Task protection at work: carries leases from the endpoints and the busy URL to
//! [`crate::core::leases`], which decides, and its calls to ECS's agent.
//!
//! One task beside the sidecar, which owns the state machine; everything reaches it over bounded
//! channels. It lives as long as the sidecar does: at the end nothing is awaited.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};

use crate::core::leases::{Answer, Asker, CALL_LIMIT, Command, Event, LeaseName, Protection, Said};
use crate::core::lifecycle::ShutdownState;
use crate::core::task::Container;
use crate::core::timeline::AwsOutcome;
use crate::core::url::HttpUrl;
use crate::sidecar::aws::protection::tell;
use crate::sidecar::clock::{now, wall_clock};
use crate::sidecar::http::{Ask, Network, Way};
use crate::sidecar::status::{Calls, Lease, ProtectionReport, Status};

/// Requests wait their turn when it is full; each is taken in microseconds.
const CAPACITY: usize = 64;

/// How often the busy URL is asked.
const BUSY_EVERY: Duration = Duration::from_secs(10);

/// What it gets to answer: it must not take longer than the interval, and no app is busy saying so.
const BUSY_LIMIT: Duration = Duration::from_secs(2);

/// By then the task metadata has been read, where there is any.
const TASK_KNOWN: Duration = Duration::from_secs(2);

/// What a 200 of the busy URL is worth: thirty questions, so that an app that is too busy to answer
/// some of them stays protected.
const BUSY_LEASE: Duration = Duration::from_secs(300);

/// What the end of a protection gets before the sidecar leaves: one try behind a call under way, and a
/// second more. Beyond that it ends by itself.
const RELEASE_LIMIT: Duration = CALL_LIMIT
    .saturating_mul(2)
    .saturating_add(Duration::from_secs(1));

/// A request of an endpoint.
#[derive(Debug)]
pub struct Request {
    /// Which lease.
    pub name: LeaseName,
    /// For how long, or back.
    pub what: What,
    /// Gets exactly one answer, unless the sidecar ends first.
    pub answer: oneshot::Sender<Answer>,
}

/// What is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A lease, or a renewal.
    Take(Duration),
    /// Its end.
    GiveBack,
}

/// What the endpoints need of it; cheap to clone.
#[derive(Clone, Debug)]
pub struct Desk {
    /// Where requests go.
    pub requests: mpsc::Sender<Request>,
    /// How it stands.
    pub report: watch::Receiver<Arc<ProtectionReport>>,
    /// Whether the lease `busy` is the busy URL's.
    pub asks_app: bool,
}

impl Desk {
    /// Asks and waits for the answer; `None` where the sidecar ends first.
    pub async fn ask(&self, name: LeaseName, what: What) -> Option<Answer> {
        let (answer, answered) = oneshot::channel();
        let request = Request { name, what, answer };
        self.requests.send(request).await.ok()?;
        answered.await.ok()
    }

    /// Waits until ECS protects the task no longer, which the end of the drain sees to.
    pub async fn released(mut self) -> AwsOutcome {
        let released = self.report.wait_for(|report| !report.perhaps);
        match timeout(RELEASE_LIMIT, released).await {
            Ok(Ok(_)) => AwsOutcome::Done("ECS does not protect this task any more".to_owned()),
            _ => AwsOutcome::Failed(format!(
                "ECS's agent has not ended the protection within {} s; it ends by itself within the hour",
                RELEASE_LIMIT.as_secs()
            )),
        }
    }
}

/// Makes the desk and what serves it; the caller runs [`Office::run`] beside the sidecar.
pub fn open(
    network: Network,
    agent: HttpUrl,
    busy_url: Option<HttpUrl>,
    status: watch::Receiver<Arc<Status>>,
) -> (Desk, Office) {
    let (sender, requests) = mpsc::channel(CAPACITY);
    let report = watch::Sender::new(Arc::default());
    let desk = Desk {
        requests: sender,
        report: report.subscribe(),
        asks_app: busy_url.is_some(),
    };
    let office = Office {
        network,
        agent,
        busy_url,
        status,
        requests,
        report,
        protection: Protection::default(),
        asked: HashMap::new(),
        next_asker: 0,
        calls: JoinSet::new(),
        busy_url_failures: 0,
        busy_url_fails: false,
        complained: None,
    };
    (desk, office)
}

/// Serves the desk.
pub struct Office {
    network: Network,
    agent: HttpUrl,
    busy_url: Option<HttpUrl>,
    status: watch::Receiver<Arc<Status>>,
    requests: mpsc::Receiver<Request>,
    report: watch::Sender<Arc<ProtectionReport>>,
    protection: Protection,
    /// Who waits for an answer. Bounded, since the state machine keeps no more waiting and answers
    /// the others at once.
    asked: HashMap<Asker, oneshot::Sender<Answer>>,
    next_asker: Asker,
    /// The call that is under way.
    calls: JoinSet<Said>,
    busy_url_failures: u64,
    /// Whether it failed the last time; told once for each time that it begins to.
    busy_url_fails: bool,
    /// The trouble that was logged last.
    complained: Option<String>,
}

impl Office {
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
            // A notice that is there comes before a request that came after it.
            let event = tokio::select! {
                biased;
                changed = self.status.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.course_of_things()
                }
                Some(ended) = self.calls.join_next() => {
                    let said = ended.unwrap_or_else(|why| Said::Silent(why.to_string()));
                    Some(Event::Said(said))
                }
                Some(busy) = busy_answers.recv() => self.note_busy(busy),
                request = self.requests.recv(), if requests_open => {
                    requests_open = request.is_some();
                    request.map(|request| self.receive(request))
                }
                () = sleep_until(timeout.unwrap_or_else(now).into()), if timeout.is_some() => Some(Event::Timeout),
            };
            if let Some(event) = event {
                self.apply(event);
                self.publish();
            }
        }
    }

    /// What the sidecar's state means for leases.
    fn course_of_things(&mut self) -> Option<Event> {
        let status = self.status.borrow_and_update();
        if matches!(status.report.state, ShutdownState::Waiting | ShutdownState::Ended) {
            Some(Event::Drained)
        } else {
            status.notice.is_some().then_some(Event::Notice)
        }
    }

    fn receive(&mut self, request: Request) -> Event {
        let asker = self.next_asker();
        self.asked.insert(asker, request.answer);
        let name = request.name;
        match request.what {
            What::Take(length) => Event::Take { asker, name, length },
            What::GiveBack => Event::GiveBack { asker, name },
        }
    }

    /// Nobody waits for the answers to these.
    fn note_busy(&mut self, busy: Result<bool, String>) -> Option<Event> {
        let name = LeaseName::busy();
        let asker = self.next_asker();
        if busy.is_ok() {
            self.busy_url_fails = false;
        }
        match busy {
            Ok(true) => Some(Event::Take {
                asker,
                name,
                length: BUSY_LEASE,
            }),
            Ok(false) => Some(Event::GiveBack { asker, name }),
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

    fn next_asker(&mut self) -> Asker {
        self.next_asker += 1;
        self.next_asker
    }

    fn apply(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for command in self.protection.on(event, now()) {
                match command {
                    Command::Call(call) => {
                        let (network, agent) = (self.network.clone(), self.agent.clone());
                        self.calls
                            .spawn(async move { tell(&network, &agent, call).await });
                    }
                    Command::Tell(asker, answer) => {
                        let Some(waits) = self.asked.remove(&asker) else {
                            continue;
                        };
                        // A worker that has gone away holds no lease.
                        if let Err(Answer::Granted(grant)) = waits.send(answer) {
                            events.push(Event::Unheard(grant));
                        }
                    }
                }
            }
        }
    }

    fn publish(&mut self) {
        let state = self.protection.state();
        let trouble = state.trouble.map(|said| format!("task protection fails: {said}"));
        if self.complained != trouble {
            match &trouble {
                Some(why) => tracing::warn!(event = "watch", watch = "protection", message = why.as_str()),
                None => tracing::info!(
                    event = "watch",
                    watch = "protection",
                    message = "no trouble any more"
                ),
            }
            self.complained.clone_from(&trouble);
        }
        let report = ProtectionReport {
            protected: state.held.is_some(),
            perhaps: state.perhaps,
            protected_until: state.held.map(|held| protected_until(&held)),
            leases: state
                .leases
                .into_iter()
                .map(|(name, until)| Lease {
                    name: name.as_str().to_owned(),
                    until: wall_clock(until),
                })
                .collect(),
            calls: Calls(state.calls),
            busy_url_failures: self.busy_url_failures,
            trouble,
        };
        self.report.send_replace(Arc::new(report));
    }
}

/// As ECS says it, by its own clock; else by this host's.
pub fn protected_until(held: &crate::core::leases::Held) -> String {
    held.expires.map_or_else(
        || wall_clock(held.until),
        |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    )
}

/// Asks the app at each interval, until nobody listens: busy, not busy, or why that is not known.
async fn ask_app(
    network: Network,
    url: HttpUrl,
    mut status: watch::Receiver<Arc<Status>>,
    answers: mpsc::Sender<Result<bool, String>>,
) {
    // Its host may be a container of the task, which is known in a moment, or never in local mode.
    let _ = timeout(TASK_KNOWN, status.wait_for(|status| status.task.is_some())).await;
    let mut ticks = interval(BUSY_EVERY);
    // After a suspended host one question is as good as many.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let task = Arc::clone(&status.borrow().task);
        let container = task.as_ref().as_ref().and_then(|task| task.container(url.host()));
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
