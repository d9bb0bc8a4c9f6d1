//! The sidecar at work: feeds what happens to the lifecycle and carries out its commands.
//!
//! One loop, one channel, one owner of state. Everything slow runs in tasks that are dropped at the
//! end; nothing here is awaited that the deadline could not cut short.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use crate::config::{Capacity, Config};
use crate::core::deadline::CEILING;
use crate::core::lifecycle::{Code, Command, Event, Lifecycle, Report};
use crate::core::notice::{Notice, Reason};
use crate::core::plan::{Plan, PlannedStep};
use crate::core::superseded::Superseded;
use crate::core::task::Task;
use crate::core::timeline::Outcome;
use crate::sidecar::aws::leaving::Departure;
use crate::sidecar::aws_side::{AwsSide, Circumstances};
use crate::sidecar::clock::{now, wall_clock};
use crate::sidecar::drain::quiet::sockets::Sockets;
use crate::sidecar::drain::quiet::{self, ConnectionView, Looks};
use crate::sidecar::drain::{Drain, Urgency};
use crate::sidecar::endpoints::{self, Endpoints};
use crate::sidecar::http::Network;
use crate::sidecar::mailbox::{Mailbox, Message, Signal, WatchState};
use crate::sidecar::protection::{ProtectionHandle, ProtectionLoop};
use crate::sidecar::status::{Status, SupersededReport};
use crate::sidecar::task_metadata::TaskMetadata;
use crate::sidecar::telemetry::Telemetry;
use crate::sidecar::watch::instance_metadata::InstanceMetadata;

/// What the log is behind what happens: formatting it takes longer than sending the drain call.
const LOG_LAG: Duration = Duration::from_millis(1);

#[derive(Clone, Debug)]
pub struct Ending {
    pub code: Code,
    pub report: Report,
    /// What to tell people, where settings were wrong.
    pub complaints: Vec<String>,
    /// When all had to be over; the last lines are written in what is left until SIGKILL.
    pub deadline: Option<Instant>,
}

/// The networks of the sidecar's parts: a name that hangs in one must not hold up another.
#[derive(Clone)]
pub struct Networks {
    pub drain: Network,
    /// For what the host and the ECS agent answer, and for the busy URL.
    pub metadata: Network,
    pub aws: Network,
    /// For `quiet` steps.
    pub sockets: Arc<dyn Sockets>,
}

/// Runs until the end. The caller watches the signals, through the mailbox. `endpoints`: the socket of
/// the local endpoints and the network by which `/ready` asks the app.
pub async fn run(
    config: Config,
    networks: Networks,
    telemetry: Telemetry,
    (mailbox, mut messages): (Mailbox, mpsc::Receiver<Message>),
    endpoints: Option<(TcpListener, Network)>,
) -> Ending {
    let mut sidecar = Sidecar::new(config, networks, telemetry, mailbox);
    sidecar.start(endpoints);
    while sidecar.lifecycle.ended().is_none() {
        let timeout = sidecar.lifecycle.next_timeout();
        // In this order: the deadline first, so that no flood of messages can hide it, and the log
        // last, so that the app is told before it is written.
        let event = tokio::select! {
            biased;
            () = sleep_until(timeout.unwrap_or_else(now).into()), if timeout.is_some() => Some(Event::Timeout),
            Some(message) = messages.recv() => sidecar.receive(message),
            Some(ended) = sidecar.steps.join_next() => {
                ended.ok().map(|(number, outcome)| Event::StepEnded(number, outcome))
            }
            () = sleep(LOG_LAG), if sidecar.has_news() => {
                sidecar.log_timeline();
                None
            }
        };
        if let Some(event) = event {
            sidecar.apply(event);
        }
        sidecar.publish();
    }
    sidecar.log_timeline();
    sidecar.ending()
}

struct Sidecar {
    config: Config,
    networks: Networks,
    /// What ECS says of this task; missing outside of ECS.
    metadata: Option<TaskMetadata>,
    /// For `quiet` steps.
    view: ConnectionView,
    /// What each `quiet` step sees, by its number.
    looks: BTreeMap<usize, Looks>,
    telemetry: Telemetry,
    mailbox: Mailbox,
    aws_side: AwsSide,
    /// Where task protection is asked for, if it is wanted.
    protection: Option<ProtectionHandle>,
    lifecycle: Lifecycle,
    task: Option<Arc<Task>>,
    /// Whether that was read after the first notice.
    fresh: bool,
    /// Why the task metadata could not be read the last time.
    task_trouble: Option<String>,
    /// The running steps; dropping it drops them.
    steps: JoinSet<(usize, Outcome)>,
    /// Watchers, endpoints and readers, which live as long as the sidecar.
    companions: JoinSet<()>,
    watches: Vec<WatchState>,
    /// Whether the instance metadata is watched already.
    watching_instance: bool,
    interrupts: u32,
    /// Whether the `start` line is out.
    log_started: bool,
    /// How much of the timeline has been logged.
    logged: usize,
    /// Whether the `quiet` steps look already.
    quiet_observed: bool,
    urgency: Option<watch::Sender<Urgency>>,
    status: watch::Sender<Arc<Status>>,
    /// The first part of the idempotency key outside of ECS.
    local_key: String,
    complaints: Vec<String>,
    /// Whether ECS wants this task gone.
    superseded: Option<Superseded>,
    /// Until when somebody at the endpoints wants to know that.
    questions: watch::Sender<Option<Instant>>,
}

impl Sidecar {
    fn new(config: Config, networks: Networks, telemetry: Telemetry, mailbox: Mailbox) -> Sidecar {
        let metadata = config.task_metadata.clone();
        let metadata = metadata.map(|uri| TaskMetadata::new(networks.metadata.clone(), uri));
        let aws_side = AwsSide::new(config.aws.clone(), networks.aws.clone(), mailbox.clone());
        let view = ConnectionView::new(
            Arc::clone(&networks.sockets),
            config.listen.map(|address| address.port()),
        );
        let mut plan = Plan::from_setting(&config.drain);
        if config.task_metadata.is_none() {
            // There are no labels to wait for.
            plan = plan.or_else(|| Some(Plan::without_settings()));
        }
        let lifecycle = Lifecycle::new(config.policy, plan);
        let status = watch::Sender::new(Arc::new(Status::new(lifecycle.report())));
        Sidecar {
            config,
            metadata,
            networks,
            view,
            looks: BTreeMap::new(),
            telemetry,
            mailbox,
            aws_side,
            protection: None,
            lifecycle,
            task: None,
            fresh: false,
            task_trouble: None,
            steps: JoinSet::new(),
            companions: JoinSet::new(),
            watches: Vec::new(),
            watching_instance: false,
            interrupts: 0,
            log_started: false,
            logged: 0,
            quiet_observed: false,
            urgency: None,
            status,
            local_key: format!("local-{}", jiff::Timestamp::now().as_millisecond()),
            complaints: Vec::new(),
            superseded: None,
            questions: watch::Sender::new(None),
        }
    }

    fn start(&mut self, endpoints: Option<(TcpListener, Network)>) {
        self.protect();
        if let Some((listener, network)) = endpoints {
            let endpoints = Endpoints {
                status: self.status.subscribe(),
                mailbox: self.mailbox.clone(),
                token: self.config.token.clone(),
                ready_url: self.config.ready_url.clone(),
                network,
                protect: self.protection.clone(),
                view: self.view.clone(),
                telemetry: self.telemetry.clone(),
                questions: self.config.watch_superseded.then(|| self.questions.clone()),
            };
            self.companions.spawn(endpoints::serve(listener, endpoints));
        }
        if self.metadata.is_some() {
            // The first answer, whatever it is, lets the log start: its lines name the task.
            self.read_task();
            return;
        }
        self.log_start();
        let plan = self.lifecycle.plan().cloned();
        self.announce_plan(plan.as_ref());
        self.watch_instance();
        self.publish();
    }

    /// Begins to protect the task where that is wanted and there is an agent to ask.
    fn protect(&mut self) {
        let Some(agent) = self.config.agent.clone().filter(|_| self.config.protect) else {
            return;
        };
        let (network, busy_url) = (self.networks.metadata.clone(), self.config.busy_url.clone());
        let (protection, handle) = ProtectionLoop::new(network, agent, busy_url, self.status.subscribe());
        self.companions.spawn(protection.run());
        self.protection = Some(handle);
    }

    /// Translates a message for the lifecycle; what only concerns the shell is done here.
    fn receive(&mut self, message: Message) -> Option<Event> {
        match message {
            Message::Signal(Signal::Int) => {
                self.interrupts += 1;
                let second = self.interrupts > 1;
                Some(if second {
                    Event::Interrupt
                } else {
                    Event::Notice(self.sigterm())
                })
            }
            Message::Signal(Signal::Term) => Some(Event::Notice(self.sigterm())),
            Message::Notice(notice) => Some(Event::Notice(notice)),
            Message::Ack(container) => Some(Event::Ack(container)),
            Message::Progress(step, progress) => Some(Event::Progress(step, progress)),
            Message::Watch(state) => {
                self.note_watch(state);
                None
            }
            Message::Superseded(superseded) => {
                self.note_superseded(superseded);
                None
            }
            Message::Task(read) => self.note_task(read),
            Message::Aws(news) => self.aws_side.note(news, self.lifecycle.policy().limits),
        }
    }

    /// SIGTERM says nothing of the host; the capacity may.
    fn sigterm(&self) -> Notice {
        let may_be_spot = self.task.as_deref().is_some_and(Task::may_be_spot);
        let host_may_end = match self.config.capacity {
            Capacity::Spot => true,
            Capacity::OnDemand => false,
            Capacity::Auto => may_be_spot,
        };
        if host_may_end {
            let end = now() + CEILING;
            match self.config.capacity {
                Capacity::Auto => Notice::host_may_end_at(Reason::Sigterm, end),
                _ => Notice::host_ends_at(Reason::Sigterm, end),
            }
        } else {
            Notice::new(Reason::Sigterm)
        }
    }

    /// It changes nothing of a shutdown.
    fn note_superseded(&mut self, superseded: Option<Superseded>) {
        let message = superseded.map_or("ECS keeps this task again", |superseded| superseded.why);
        tracing::info!(event = "superseded", holds = superseded.is_some(), message,);
        self.superseded = superseded;
    }

    fn note_watch(&mut self, state: WatchState) {
        match &state.why {
            _ if !state.log => {}
            None => tracing::info!(event = "watch", watch = state.watch, message = "watching"),
            Some(why) => {
                tracing::warn!(event = "watch", watch = state.watch, message = why.as_str())
            }
        }
        self.watches.retain(|other| other.watch != state.watch);
        self.watches.push(state);
    }

    /// Begins to watch the instance metadata, once, unless there is none.
    fn watch_instance(&mut self) {
        if std::mem::replace(&mut self.watching_instance, true) || self.config.watch.is_empty() {
            return;
        }
        if self.task.as_deref().is_some_and(Task::on_fargate) {
            tracing::info!(
                event = "watch",
                watch = "instance",
                message = "there is no instance metadata on Fargate: SIGTERM brings the Spot notice"
            );
            return;
        }
        let client = InstanceMetadata::new(
            self.networks.metadata.clone(),
            self.config.instance_metadata.clone(),
        );
        self.companions.spawn(crate::sidecar::watch::instance_metadata(
            client,
            self.config.watch.clone(),
            self.config.poll_interval,
            self.mailbox.clone(),
        ));
    }

    fn apply(&mut self, event: Event) {
        let commands = self.lifecycle.on(event, now());
        self.spread_urgency();
        self.observe_quiet();
        for command in commands {
            match command {
                // Outside of ECS there are none.
                Command::ReadLabels if self.metadata.is_none() => self.apply(Event::Labels(None)),
                Command::ReadLabels => self.read_task(),
                Command::Start { step, more_behind } => self.start_step(step, more_behind),
                Command::Aws(call) => {
                    let circumstances = self.circumstances();
                    self.aws_side.ask(call, circumstances);
                }
                Command::DropSteps => self.steps.abort_all(),
            }
        }
    }

    fn start_step(&mut self, step: PlannedStep, more_behind: bool) {
        let number = step.number;
        let Some(urgency) = self.urgency.as_ref().map(watch::Sender::subscribe) else {
            // Nothing is started before a notice; were it otherwise, nobody must take it for drained.
            let why = format!("{}: there is no notice to drain for", step.step);
            return self.apply(Event::StepEnded(number, Outcome::Failed(why)));
        };
        let drain = self.drain(number, more_behind, urgency);
        self.steps
            .spawn(async move { (number, drain.carry_out(step).await) });
    }

    fn circumstances(&self) -> Circumstances {
        Circumstances {
            reason: self
                .lifecycle
                .notice()
                .map_or("", |notice| notice.reason.as_str()),
            bridged: self.task.as_deref().is_some_and(Task::is_bridged),
            departure: match self.lifecycle.plan() {
                Some(plan) if plan.begins_with_quiet() => Departure::Draining,
                _ => Departure::Unused,
            },
            protection: self.protection.clone(),
        }
    }

    /// From the notice on, `quiet` steps look: what moves before their turn tells them what rests.
    fn observe_quiet(&mut self) {
        if self.lifecycle.deadline().is_none() || self.lifecycle.ended().is_some() || self.quiet_observed {
            return;
        }
        let Some(plan) = self.lifecycle.plan() else { return };
        self.quiet_observed = true;
        for (planned, step) in plan.quiets() {
            let (view, mailbox) = (self.view.clone(), self.mailbox.clone());
            let (looks, looking) = quiet::observe(view, planned.clone(), step.clone(), mailbox);
            self.looks.insert(planned.number, looks);
            self.companions.spawn(looking);
        }
    }

    /// What running steps tell the app.
    fn spread_urgency(&mut self) {
        let (Some(notice), Some(deadline)) = (self.lifecycle.notice(), self.lifecycle.deadline()) else {
            return;
        };
        let urgency = Urgency { notice, deadline };
        match &self.urgency {
            Some(sender) => {
                sender.send_if_modified(|now| std::mem::replace(now, urgency) != urgency);
            }
            None => self.urgency = Some(watch::Sender::new(urgency)),
        }
    }

    fn drain(&mut self, number: usize, more_behind: bool, urgency: watch::Receiver<Urgency>) -> Drain {
        let task_id = self.task.as_deref().and_then(|task| task.identity.task_id());
        Drain {
            network: self.networks.drain.clone(),
            urgency,
            task: self.task.clone(),
            fresh: self.fresh,
            metadata: self.metadata.clone(),
            looks: self.looks.remove(&number),
            more_behind,
            key: task_id.unwrap_or(&self.local_key).into(),
            token: self.config.token.clone(),
            mailbox: self.mailbox.clone(),
        }
    }

    /// Whether the timeline has entries that are not in the log yet.
    fn has_news(&self) -> bool {
        self.logged < self.lifecycle.timeline().entries().len()
    }

    fn log_timeline(&mut self) {
        self.log_start();
        let entries = self.lifecycle.timeline().entries();
        for entry in entries.iter().skip(self.logged) {
            self.telemetry.log(entry, || self.lifecycle.report());
        }
        self.logged = entries.len();
    }

    fn publish(&self) {
        let task = self.task.clone();
        self.status.send_replace(Arc::new(Status {
            identity: task
                .as_ref()
                .map(|task| task.identity.clone())
                .unwrap_or_default(),
            watches: self.watches.clone(),
            unhealthy: self.unhealthy(),
            report: self.lifecycle.report(),
            protection: None,
            superseded: self.superseded.map(|superseded| SupersededReport {
                since: wall_clock(superseded.since),
                why: superseded.why,
            }),
            notice: self.lifecycle.notice(),
            deadline: self.lifecycle.deadline(),
            task,
        }));
    }

    fn ending(self) -> Ending {
        Ending {
            code: self.lifecycle.ended().unwrap_or(Code::Fault),
            report: self.lifecycle.report(),
            complaints: self.complaints,
            deadline: self.lifecycle.deadline(),
        }
    }
}

mod announce;
mod labels;
