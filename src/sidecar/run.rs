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
use crate::core::step::QuietStep;
use crate::core::superseded::Superseded;
use crate::core::task::Task;
use crate::core::timeline::{Outcome, millis};
use crate::sidecar::aws_side::{AwsSide, Circumstances, LookUp};
use crate::sidecar::clock::{now, wall_clock};
use crate::sidecar::drain::quiet::sockets::Sockets;
use crate::sidecar::drain::quiet::{self, ConnectionView, Looks};
use crate::sidecar::drain::{Drain, Urgency};
use crate::sidecar::endpoints::{self, Endpoints};
use crate::sidecar::http::Network;
use crate::sidecar::mailbox::{Mailbox, Message, Signal, WatchState};
use crate::sidecar::protection::{ProtectionHandle, ProtectionLoop};
use crate::sidecar::status::{Status, SupersededReport};
use crate::sidecar::superseded::Askers;
use crate::sidecar::task_metadata::TaskMetadata;
use crate::sidecar::telemetry::Telemetry;
use crate::sidecar::watch::instance_metadata::InstanceMetadata;

/// The task metadata is asked again this often at most while it cannot be read.
const LONGEST_READ_PAUSE: Duration = Duration::from_secs(10);
const FIRST_READ_PAUSE: Duration = Duration::from_millis(200);

/// What the log is behind what happens: formatting it takes longer than sending the drain call.
const LOG_LAG: Duration = Duration::from_millis(1);

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Ending {
    /// The exit code.
    pub code: Code,
    /// What happened.
    pub report: Report,
    /// What to tell people, where settings were wrong.
    pub complaints: Vec<String>,
    /// When all had to be over; the last lines are written in what is left until SIGKILL.
    pub deadline: Option<Instant>,
}

/// The networks of the sidecar's parts: a name that hangs in one must not hold up another.
#[derive(Clone)]
pub struct Networks {
    /// For drain calls.
    pub drain: Network,
    /// For what the host and the ECS agent answer, and for the busy URL.
    pub metadata: Network,
    /// For the calls to AWS.
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
    /// What is known of the task.
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
        let status = watch::Sender::new(Arc::new(Status {
            identity: crate::core::task::Identity::default(),
            watches: Vec::new(),
            unhealthy: None,
            report: lifecycle.report(),
            protection: None,
            superseded: None,
            notice: None,
            deadline: None,
            task: None,
        }));
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

    fn log_start(&mut self) {
        if std::mem::replace(&mut self.log_started, true) {
            return;
        }
        let Config {
            watch,
            stop_timeout_auto,
            ..
        } = &self.config;
        let policy = self.lifecycle.policy();
        let steps: Vec<String> = self.lifecycle.plan().map_or_else(Vec::new, |plan| {
            plan.steps()
                .iter()
                .map(|planned| planned.step.to_string())
                .collect()
        });
        let items = watch.iter().map(|item| item.name());
        let watch: Vec<&str> = items
            .chain(self.config.watch_superseded.then_some("superseded"))
            .collect();
        let listen = self
            .config
            .listen
            .map_or_else(|| "off".to_owned(), |address| address.to_string());
        let local = self.metadata.is_none();
        tracing::info!(
            event = "start",
            version = env!("CARGO_PKG_VERSION"),
            mode = if local { "local" } else { "ecs" },
            drain = if steps.is_empty() {
                "from docker labels".to_owned()
            } else {
                steps.join(", ")
            },
            // Not known yet where ECS is asked for it; the answer has a line of its own.
            stop_timeout_ms = (!stop_timeout_auto).then(|| millis(policy.limits.stop_timeout.get())),
            stop_timeout = stop_timeout_auto.then_some("auto"),
            reserve_ms = millis(policy.limits.reserve.get()),
            settle_ms = millis(policy.settle_of(self.lifecycle.plan())),
            watch = if watch.is_empty() {
                "signals only".to_owned()
            } else {
                watch.join(",")
            },
            listen,
        );
        if local {
            tracing::info!(
                event = "watch",
                watch = "task",
                message =
                    "ECS_CONTAINER_METADATA_URI_V4 is not set: running in local mode, without task metadata"
            );
            if self.config.protect && self.config.agent.is_none() {
                tracing::warn!(
                    event = "watch",
                    watch = "protection",
                    message = "PRESTOP_PROTECT is true and ECS_AGENT_URI is not set: there is nobody to ask for protection"
                );
            }
        }
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
        let fargate = self.task.as_deref().is_some_and(Task::on_fargate);
        let host_may_end = match self.config.capacity {
            Capacity::Spot => true,
            Capacity::OnDemand => false,
            Capacity::Auto => fargate,
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

    /// The first answer also decides what is watched, and may bring the plan.
    fn note_task(&mut self, read: Result<Task, String>) -> Option<Event> {
        let task = match read {
            Ok(task) => task,
            Err(why) => {
                self.log_start();
                if self.task_trouble.is_none() {
                    tracing::warn!(
                        event = "watch",
                        watch = "task",
                        message = format!("{why}; asking again")
                    );
                }
                self.task_trouble = Some(why);
                self.watch_instance();
                return None;
            }
        };
        self.telemetry.identify(&task.identity);
        self.log_start();
        let before = self.task.as_deref();
        let (first, news) = (
            before.is_none(),
            before.is_none_or(|before| before.names() != task.names()),
        );
        if news || self.task_trouble.is_some() {
            tracing::info!(
                event = "watch",
                watch = "task",
                message = "task metadata read",
                containers = task.names().join(","),
                launch_type = task.launch_type.as_deref().unwrap_or("unknown"),
            );
        }
        self.task_trouble = None;
        self.task = Some(Arc::new(task.clone()));
        self.fresh = self.lifecycle.deadline().is_some();
        self.watch_instance();
        let wanted = LookUp {
            policy: *self.lifecycle.policy(),
            stop_timeout: self.config.stop_timeout_auto,
        };
        self.aws_side.look_up(&task, wanted);
        if first && self.config.watch_superseded {
            self.aws_side.watch_superseded(Askers {
                protection: self.protection.clone(),
                questions: self.questions.subscribe(),
            });
        }
        if first {
            self.announce_balancer();
        }
        let labels = self.labels_of(&task, news);
        if first && task.stopping && self.lifecycle.deadline().is_none() {
            tracing::info!(
                event = "watch",
                watch = "task",
                message =
                    "ECS wants this task STOPPED already: its SIGTERM came before this process could see it"
            );
            labels.into_iter().for_each(|event| self.apply(event));
            return Some(Event::Notice(self.sigterm()));
        }
        labels
    }

    /// What the labels bring, where there is no setting. Before a notice nothing wrong is let pass, but only a
    /// task that is complete can be known to have no step.
    fn labels_of(&mut self, task: &Task, news: bool) -> Option<Event> {
        if self.config.drain.is_empty() {
            return self.plan_of_labels(task, news);
        }
        let plan = self.lifecycle.plan()?.clone();
        if self.lifecycle.deadline().is_none() {
            match self.cannot_be_quiet(&plan, task) {
                Some(complaint) => self.refuse(vec![complaint]),
                None => self.announce_plan(Some(&plan)),
            }
        }
        None
    }

    /// Before a notice nothing wrong is let pass, but only a task that is complete can be known to have no label.
    fn plan_of_labels(&mut self, task: &Task, news: bool) -> Option<Event> {
        let (plan, errors) = Plan::from_labels(task);
        let before_notice = self.lifecycle.deadline().is_none();
        let mut complaints: Vec<String> = errors.iter().map(ToString::to_string).collect();
        // A label that is wrong is no reason to do something else than what it says.
        let complete = !task.starting && (errors.is_empty() || !before_notice);
        let plan = plan.or_else(|| (complete && !self.lifecycle.has_plan()).then(Plan::without_settings));
        if let Some(plan) = &plan {
            complaints.extend(self.cannot_be_quiet(plan, task));
            complaints.extend(self.config.refuses(plan).map(|problem| problem.to_string()));
        }
        if before_notice && !complaints.is_empty() {
            self.refuse(complaints);
            return None;
        }
        if news {
            // After a notice it is too late to be strict: what can be done is done.
            log_complaints(&complaints);
            self.announce_plan(plan.as_ref());
        }
        Some(Event::Labels(plan))
    }

    /// Why a `quiet` step of that plan would see nothing of the app, or too much, and what to set.
    fn cannot_be_quiet(&self, plan: &Plan, task: &Task) -> Option<String> {
        let apart = task.is_bridged() && !self.view.look_at_others();
        let (planned, _) = plan
            .quiets()
            .find(|(_, step)| apart || (task.on_host_network && step.ports.is_empty()))?;
        let step = &planned.step;
        Some(if apart {
            format!(
                "`{step}` cannot work under bridge networking, where the app's connections are in a network namespace of \
                 its own, unless its processes are in sight: set \"pidMode\": \"task\" in the task definition (every open \
                 connection counts as owing then), or its networkMode to awsvpc, or set PRESTOP_DRAIN to a URL or \
                 `sleep 15s`"
            )
        } else {
            format!(
                "`{step}` cannot work under host networking without a port, since the network namespace is the whole \
                 instance's: set PRESTOP_DRAIN='quiet :PORT' with the port of the app"
            )
        })
    }

    fn refuse(&mut self, complaints: Vec<String>) {
        log_complaints(&complaints);
        self.complaints = complaints;
        self.apply(Event::Refuse(Code::Settings));
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

    /// Reads the task metadata until that succeeds and ECS has made all containers.
    fn read_task(&mut self) {
        let Some(metadata) = self.metadata.clone() else {
            return;
        };
        let mailbox = self.mailbox.clone();
        self.companions.spawn(async move {
            let mut pause = FIRST_READ_PAUSE;
            loop {
                let read = metadata.read().await.map_err(|why| why.to_string());
                let done = read.as_ref().is_ok_and(|task| !task.starting);
                if mailbox.send(Message::Task(read)).await.is_err() || done {
                    return;
                }
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_READ_PAUSE);
            }
        });
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
                Command::Start(step) => self.start_step(step),
                Command::Aws(call) => {
                    let circumstances = self.circumstances();
                    self.aws_side.ask(call, circumstances);
                }
                Command::DropSteps => self.steps.abort_all(),
            }
        }
    }

    fn start_step(&mut self, step: PlannedStep) {
        let number = step.number;
        let Some(urgency) = self.urgency.as_ref().map(watch::Sender::subscribe) else {
            // Nothing is started before a notice; were it otherwise, nobody must take it for drained.
            let why = format!("{}: there is no notice to drain for", step.step);
            return self.apply(Event::StepEnded(number, Outcome::Failed(why)));
        };
        let drain = self.drain(number, urgency);
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

    /// Says what of the plan does not fit and, soon after the start, whether a `quiet` step would see anybody.
    fn announce_plan(&mut self, plan: Option<&Plan>) {
        let too_long = plan.and_then(|plan| self.lifecycle.policy().too_long(plan));
        if let Some(message) = too_long.filter(|_| !self.config.stop_timeout_auto) {
            tracing::warn!(event = "watch", watch = "time", message);
        }
        let steps: Vec<QuietStep> = plan
            .into_iter()
            .flat_map(Plan::quiets)
            .map(|(_, step)| step.clone())
            .collect();
        if !steps.is_empty() {
            let announced = quiet::announce(self.view.clone(), steps, self.mailbox.clone());
            self.companions.spawn(announced);
        }
    }

    /// Says who tells a load balancer to look away: where nobody does, waiting gains nothing.
    fn announce_balancer(&self) {
        let policy = self.lifecycle.policy();
        let asks_ready = self.config.ready_url.is_some()
            || self
                .config
                .listen
                .is_some_and(|address| !address.ip().is_loopback());
        let message = if policy.aws.deregister {
            "PRESTOP_DEREGISTER takes this task out of its load balancer at a notice"
        } else if asks_ready {
            "a load balancer looks away where its health check asks /ready; PRESTOP_SETTLE has to last until it does"
        } else {
            "nothing here tells a load balancer to look away. ECS does before its SIGTERM in deployments, at scale-in \
             and on Fargate Spot; for EC2 Spot and StopTask set PRESTOP_DEREGISTER=true, or let the health check ask \
             /ready"
        };
        tracing::info!(event = "watch", watch = "load-balancer", message);
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

    fn drain(&mut self, number: usize, urgency: watch::Receiver<Urgency>) -> Drain {
        let task_id = self.task.as_deref().and_then(|task| task.identity.task_id());
        Drain {
            network: self.networks.drain.clone(),
            urgency,
            task: self.task.clone(),
            fresh: self.fresh,
            metadata: self.metadata.clone(),
            looks: self.looks.remove(&number),
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

    /// A watcher that cannot see now is not dead: it goes on trying, and says so elsewhere.
    fn unhealthy(&self) -> Option<String> {
        if self.lifecycle.has_plan() {
            return None;
        }
        let why = self.task_trouble.as_deref()?;
        Some(format!(
            "no step is known yet, since PRESTOP_DRAIN is not set and the labels cannot be read: {why}"
        ))
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

fn log_complaints(complaints: &[String]) {
    for complaint in complaints {
        tracing::error!(event = "watch", watch = "task", message = complaint.as_str());
    }
}
