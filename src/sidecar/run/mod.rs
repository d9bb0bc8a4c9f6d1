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
use tokio::time::{Instant as Clock, sleep, sleep_until};

use crate::config::{Capacity, Config};
use crate::core::deadline::CEILING;
use crate::core::lifecycle::{Code, Command, Event, Lifecycle, Report};
use crate::core::notice::{Notice, Reason};
use crate::core::plan::Plan;
use crate::core::step::{QuietStep, Step};
use crate::core::task::Task;
use crate::core::timeline::{Outcome, millis};
use crate::sidecar::aws::task_metadata;
use crate::sidecar::drain::quiet::sockets::Sockets;
use crate::sidecar::drain::quiet::{self, Looks, Sight};
use crate::sidecar::drain::{AskTask, ContainerAt, Drain, Urgency};
use crate::sidecar::endpoints::{self, Endpoints};
use crate::sidecar::http::Network;
use crate::sidecar::mailbox::{Mailbox, Message, Signal, WatchState};
use crate::sidecar::protection;
use crate::sidecar::status::Status;
use crate::sidecar::telemetry::Telemetry;
use crate::sidecar::watch::instance_metadata::InstanceMetadata;
use aws_side::Cloud;

mod aws_side;

/// The task metadata is asked again this often at most while it cannot be read.
const LONGEST_READ_PAUSE: Duration = Duration::from_secs(10);
const FIRST_READ_PAUSE: Duration = Duration::from_millis(200);

/// What the log is behind what happens: formatting it takes longer than sending the drain call.
const LOG_LAG: Duration = Duration::from_millis(1);

const NEEDS_DRAINED: &str = "there is an `ack` step, but nobody could acknowledge: PRESTOP_LISTEN is `off`, so there is \
                             no `/drained`; let PRESTOP_LISTEN be, or take `quiet`, a URL or a signal in place of `ack`";

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Ending {
    /// The exit code.
    pub code: Code,
    /// What happened.
    pub report: Report,
    /// What to tell people, where settings were wrong.
    pub complaints: Vec<String>,
}

/// The networks of the sidecar's parts: a name that hangs in one must not hold up another.
#[derive(Clone)]
pub struct Networks {
    /// For metadata and drain calls.
    pub drain: Network,
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
    network: Network,
    aws_network: Network,
    /// For `quiet` steps.
    sight: Sight,
    /// What each `quiet` step sees, by its number.
    looks: BTreeMap<usize, Looks>,
    telemetry: Telemetry,
    mailbox: Mailbox,
    cloud: Cloud,
    /// Where task protection is asked for, if it is wanted.
    desk: Option<protection::Desk>,
    lifecycle: Lifecycle,
    /// What is known of the task.
    task: Arc<Option<Task>>,
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
}

impl Sidecar {
    fn new(config: Config, networks: Networks, telemetry: Telemetry, mailbox: Mailbox) -> Sidecar {
        let sight = Sight::new(networks.sockets, config.listen.map(|address| address.port()));
        let mut plan = Plan::from_setting(&config.drain);
        if config.task_metadata.is_none() {
            // There are no labels to wait for.
            plan = plan.or_else(|| Some(Plan::without_settings()));
        }
        let lifecycle = Lifecycle::new(config.policy, plan);
        let task = Arc::new(None);
        let status = watch::Sender::new(Arc::new(Status {
            identity: crate::core::task::Identity::default(),
            watches: Vec::new(),
            unhealthy: None,
            report: lifecycle.report(),
            protection: None,
            notice: None,
            deadline: None,
            task: Arc::clone(&task),
        }));
        Sidecar {
            config,
            network: networks.drain,
            aws_network: networks.aws,
            sight,
            looks: BTreeMap::new(),
            telemetry,
            mailbox,
            cloud: Cloud::default(),
            desk: None,
            lifecycle,
            task,
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
                protect: self.desk.clone(),
                sight: self.sight.clone(),
                telemetry: self.telemetry.clone(),
            };
            self.companions.spawn(endpoints::serve(listener, endpoints));
        }
        if self.config.task_metadata.is_some() {
            // The first answer, whatever it is, lets the log start: its lines name the task.
            self.read_task();
            return;
        }
        self.log_start();
        match self.lifecycle.plan().cloned() {
            Some(plan) if self.cannot_acknowledge(&plan) => self.refuse(vec![NEEDS_DRAINED.to_owned()]),
            plan => self.announce_plan(plan.as_ref()),
        }
        self.watch_instance();
        self.publish();
    }

    /// Begins to protect the task where that is wanted and there is an agent to ask.
    fn protect(&mut self) {
        let Some(agent) = self.config.agent.clone().filter(|_| self.config.protect) else {
            return;
        };
        let (network, busy_url) = (self.network.clone(), self.config.busy_url.clone());
        let (desk, office) = protection::open(network, agent, busy_url, self.status.subscribe());
        self.companions.spawn(office.run());
        self.desk = Some(desk);
    }

    fn log_start(&mut self) {
        if std::mem::replace(&mut self.log_started, true) {
            return;
        }
        let Config { policy, watch, .. } = &self.config;
        let steps: Vec<String> = self.lifecycle.plan().map_or_else(Vec::new, |plan| {
            plan.steps()
                .iter()
                .map(|planned| planned.step.to_string())
                .collect()
        });
        let watch: Vec<&str> = watch.iter().map(|item| item.name()).collect();
        let listen = self
            .config
            .listen
            .map_or_else(|| "off".to_owned(), |address| address.to_string());
        let local = self.config.task_metadata.is_none();
        tracing::info!(
            event = "start",
            version = env!("CARGO_PKG_VERSION"),
            mode = if local { "local" } else { "ecs" },
            drain = if steps.is_empty() {
                "from docker labels".to_owned()
            } else {
                steps.join(", ")
            },
            stop_timeout_ms = millis(policy.limits.stop_timeout.get()),
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
            Message::Task(read) => self.note_task(read),
            Message::Aws(news) => self.note_aws(news),
        }
    }

    /// SIGTERM says nothing of the host; the capacity may.
    fn sigterm(&self) -> Notice {
        let fargate = self.task.as_ref().as_ref().is_some_and(Task::on_fargate);
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

    fn note_watch(&mut self, state: WatchState) {
        match &state.why {
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
        tracing::info!(
            event = "watch",
            watch = "task",
            message = "task metadata read",
            containers = task
                .containers
                .iter()
                .map(|c| c.name.as_str())
                .collect::<Vec<_>>()
                .join(","),
            launch_type = task.launch_type.as_deref().unwrap_or("unknown"),
        );
        self.task_trouble = None;
        self.task = Arc::new(Some(task.clone()));
        self.fresh = self.lifecycle.deadline().is_some();
        self.watch_instance();
        self.look_up(&task);
        if let Some(plan) = self.lifecycle.plan() {
            if self.lifecycle.deadline().is_none() {
                let plan = plan.clone();
                match self.cannot_work(&plan, &task) {
                    Some(complaint) => self.refuse(vec![complaint]),
                    None => self.announce_plan(Some(&plan)),
                }
            }
            return None;
        }
        let (plan, errors) = Plan::from_labels(&task);
        let before_notice = self.lifecycle.deadline().is_none();
        let mut complaints: Vec<String> = errors.iter().map(ToString::to_string).collect();
        // A label that is wrong is no reason to do something else than what it says.
        let plan = plan.or_else(|| (errors.is_empty() || !before_notice).then(Plan::without_settings));
        complaints.extend(plan.as_ref().and_then(|plan| self.cannot_work(plan, &task)));
        for complaint in &complaints {
            tracing::error!(event = "watch", watch = "task", message = complaint.as_str());
        }
        if complaints.is_empty() || !before_notice {
            self.announce_plan(plan.as_ref());
            // Too late to be strict: what can be done is done.
            return Some(plan.map_or(Event::Refuse(Code::Failed), Event::Plan));
        }
        self.refuse(complaints);
        None
    }

    /// Why that plan cannot be carried out here, and what to set.
    fn cannot_work(&self, plan: &Plan, task: &Task) -> Option<String> {
        let nobody = self.cannot_acknowledge(plan).then(|| NEEDS_DRAINED.to_owned());
        nobody.or_else(|| cannot_be_quiet(plan, task))
    }

    fn cannot_acknowledge(&self, plan: &Plan) -> bool {
        self.config.listen.is_none() && plan.steps().iter().any(|planned| planned.step == Step::Ack)
    }

    fn refuse(&mut self, complaints: Vec<String>) {
        self.complaints = complaints;
        self.apply(Event::Refuse(Code::Settings));
    }

    /// Begins to watch the instance metadata, once, unless there is none.
    fn watch_instance(&mut self) {
        if std::mem::replace(&mut self.watching_instance, true) || self.config.watch.is_empty() {
            return;
        }
        if self.task.as_ref().as_ref().is_some_and(Task::on_fargate) {
            tracing::info!(
                event = "watch",
                watch = "instance",
                message = "there is no instance metadata on Fargate: SIGTERM brings the Spot notice"
            );
            return;
        }
        let client = InstanceMetadata::new(self.network.clone(), self.config.instance_metadata.clone());
        self.companions.spawn(crate::sidecar::watch::instance_metadata(
            client,
            self.config.watch.clone(),
            self.config.poll_interval,
            self.mailbox.clone(),
        ));
    }

    /// Reads the task metadata until that succeeds.
    fn read_task(&mut self) {
        let Some(uri) = self.config.task_metadata.clone() else {
            return;
        };
        let (network, mailbox) = (self.network.clone(), self.mailbox.clone());
        self.companions.spawn(async move {
            let mut pause = FIRST_READ_PAUSE;
            loop {
                let read = task_metadata::read(&network, &uri)
                    .await
                    .map_err(|why| why.to_string());
                let done = read.is_ok();
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
                Command::ReadLabels => self.read_task(),
                Command::Start(step) => {
                    if let Some(urgency) = &self.urgency {
                        let (number, urgency) = (step.number, urgency.subscribe());
                        let drain = self.drain(number, urgency);
                        self.steps
                            .spawn(async move { (number, drain.carry_out(step).await) });
                    }
                }
                Command::Aws(call) => self.ask_aws(call),
                Command::DropSteps => self.steps.abort_all(),
                Command::Exit(_) => {}
            }
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
            let (sight, mailbox) = (self.sight.clone(), self.mailbox.clone());
            let (looks, looking) = quiet::observe(sight, planned.clone(), step.clone(), mailbox);
            self.looks.insert(planned.number, looks);
            self.companions.spawn(looking);
        }
    }

    /// Says what of the plan does not fit and, soon after the start, whether a `quiet` step would see anybody.
    fn announce_plan(&mut self, plan: Option<&Plan>) {
        let too_long = plan.and_then(|plan| self.config.policy.too_long(plan));
        if let Some(message) = too_long.filter(|_| !self.config.stop_timeout_auto) {
            tracing::warn!(event = "watch", watch = "time", message);
        }
        let steps: Vec<QuietStep> = plan
            .into_iter()
            .flat_map(Plan::quiets)
            .map(|(_, step)| step.clone())
            .collect();
        if !steps.is_empty() {
            let announced = quiet::announce(self.sight.clone(), steps, self.mailbox.clone());
            self.companions.spawn(announced);
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

    fn drain(&mut self, number: usize, urgency: watch::Receiver<Urgency>) -> Drain {
        let task_id = self
            .task
            .as_ref()
            .as_ref()
            .and_then(|task| task.identity.task_id());
        Drain {
            network: self.network.clone(),
            urgency,
            task: Arc::clone(&self.task),
            fresh: self.fresh,
            ask_task: self.ask_task(),
            container_at: self.container_at(),
            looks: self.looks.remove(&number),
            key: task_id.unwrap_or(&self.local_key).into(),
            token: self.config.token.clone(),
            mailbox: self.mailbox.clone(),
        }
    }

    fn ask_task(&self) -> AskTask {
        let (network, uri) = (self.network.clone(), self.config.task_metadata.clone());
        Arc::new(move || {
            let (network, uri) = (network.clone(), uri.clone());
            Box::pin(async move { task_metadata::read(&network, uri.as_ref()?).await.ok() })
        })
    }

    fn container_at(&self) -> ContainerAt {
        let network = self.network.clone();
        Arc::new(move |uri| {
            let network = network.clone();
            Box::pin(async move {
                task_metadata::container_name(&network, &uri.parse().ok()?)
                    .await
                    .ok()
            })
        })
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
        let task = Arc::clone(&self.task);
        self.status.send_replace(Arc::new(Status {
            identity: task
                .as_ref()
                .as_ref()
                .map(|task| task.identity.clone())
                .unwrap_or_default(),
            watches: self.watches.clone(),
            unhealthy: self.unhealthy(),
            report: self.lifecycle.report(),
            protection: None,
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
        }
    }
}

/// Why a `quiet` step of that plan would see nothing of the app, or too much, and what to set.
fn cannot_be_quiet(plan: &Plan, task: &Task) -> Option<String> {
    let (planned, _) = plan
        .quiets()
        .find(|(_, step)| task.is_bridged() || (task.on_host_network && step.ports.is_empty()))?;
    let step = &planned.step;
    Some(if task.is_bridged() {
        format!(
            "`{step}` cannot work under bridge networking, where the app's connections are in a network namespace of \
             its own: set PRESTOP_DRAIN to a URL, `signal NAME CONTAINER` (with pidMode: task) or `sleep 15s`, or the \
             task's networkMode to awsvpc"
        )
    } else {
        format!(
            "`{step}` cannot work under host networking without a port, since the network namespace is the whole \
             instance's: set PRESTOP_DRAIN='quiet :PORT' with the port of the app"
        )
    })
}

fn now() -> Instant {
    Clock::now().into_std()
}
