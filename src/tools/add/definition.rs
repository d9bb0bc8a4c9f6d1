//! What the sidecar's container looks like in a given task definition.

use crate::core::deadline::{CEILING, MAX_RESERVE, Reserve};
use crate::core::plan::DRAIN_LABEL;
use crate::core::step::{Step, parse_steps};
use crate::tools::model::{
    self, ContainerDefinition, Host, NetworkMode, PROTECT_POLICY, SUPERSEDED_POLICY, TargetGroup,
    TaskDefinition, Value,
};

use super::balancer::{Balancer, balancer};
use super::image::image;
use super::tree::{SidecarDefinition, Tree};
use super::{AddOptions, NotAdded, first_port};

/// Names for it, the first that is free.
const NAMES: [&str; 2] = ["prestop", "ecs-prestop"];

/// 10 containers a task (developer guide, *Service quotas*).
const MAX_CONTAINERS: usize = 10;

/// What a drain gets where the app leaves more: three quarters of what Spot gives.
const USUAL_STOP_S: f64 = 90.0;

/// A sidecar with less is not worth having.
const LEAST_STOP_S: f64 = 10.0;

/// The user of the image (docker/Dockerfile).
const UID: &str = "65532";

pub(super) fn definition<'a>(
    task: &TaskDefinition<'a>,
    app: &ContainerDefinition<'a>,
    options: &AddOptions,
) -> Result<(SidecarDefinition, String), NotAdded> {
    fits(task)?;
    let name = free_name(task)?;
    let drain = drain(task, app, options)?;
    let times = times(task, options)?;
    let steps = drain.steps();
    let balancer = balancer(task, app, options, &times)?;
    if options.protect && task.task_role.is_absent() {
        return Err(NotAdded::because(format!(
            "--protect asks ECS to protect the task, and `{}` has no role to ask as: give it one with the policies \
             {IAM}/{PROTECT_POLICY} and {IAM}/{SUPERSEDED_POLICY}",
            task.name
        )));
    }
    let listen = listen(task, &steps, &balancer, options.protect);
    let image = image(app, options)?;
    let mut environment = Vec::new();
    let mut set = |name: &str, value: Option<Tree>| {
        environment.extend(value.map(|value| Tree::variable(name, value)));
    };
    let may_be_spot = times.capacity.is_none() && task.on_managed_instances();
    let stop = format!("{}s", times.stop_s);
    set("PRESTOP_DRAIN", drain.setting);
    set("PRESTOP_STOP_TIMEOUT", Some(Tree::text(stop)));
    set("PRESTOP_CAPACITY", times.capacity.map(Tree::text));
    set("PRESTOP_RESERVE", times.reserve_s.map(seconds));
    set("PRESTOP_SETTLE", balancer.settle.clone().map(Tree::text));
    set(
        "PRESTOP_DEREGISTER",
        balancer.deregisters.then(|| Tree::text("true")),
    );
    set("PRESTOP_PROTECT", options.protect.then(|| Tree::text("true")));
    set("PRESTOP_LISTEN", listen.map(Tree::text));
    set("PRESTOP_READY_URL", balancer.ready_url.clone().map(Tree::text));
    let mut story = format!("`{name}` is wired in: {}", drain.story);
    if let Some(words) = &balancer.story {
        story.push_str(&format!("; {words}"));
    }
    story.push_str(&format!(
        "; it has {} s to do so, and depends on {}; its image is {}{}",
        times.stop_s,
        names(&dependencies(task)),
        image.words,
        if options.image.is_some() {
            ""
        } else {
            ", in the registry of the app (another: --image)"
        }
    ));
    if options.protect {
        story.push_str(&format!(
            "; jobs protect the task by leases on `/protect`, for which its role needs {IAM}/{PROTECT_POLICY}, and \
             {IAM}/{SUPERSEDED_POLICY} to learn that ECS wants the task gone"
        ));
    }
    if may_be_spot {
        story.push_str(
            "; managed instances may be Spot, so it reckons with 120 s from SIGTERM on until ECS says that they are on demand \
             (--capacity on-demand or spot says it at once)",
        );
    }
    for container in task
        .containers
        .iter()
        .filter(|container| task.ends_early(container))
    {
        story.push_str(&format!(
            "; it does not depend on `{}`, which has ended by then",
            container.name.text
        ));
    }
    let mut fields = vec![
        ("name", Tree::text(name)),
        ("image", image.tree),
        ("essential", Tree::Flag(false)),
        (
            "dependsOn",
            Tree::List(dependencies(task).into_iter().map(dependency).collect()),
        ),
        ("stopTimeout", Tree::Number(times.stop_s)),
        ("environment", Tree::List(environment)),
    ];
    if listen != Some(OFF) {
        fields.push((
            "healthCheck",
            Tree::Fields(vec![("command", Tree::texts(&["CMD", "/ecs-prestop", "health"]))]),
        ));
    }
    if task.on_fargate() == Some(true) || task.on_managed_instances() {
        // On EC2 it takes agent 1.86.0, and a task that asks for more than an agent has is placed nowhere.
        fields.push((
            "restartPolicy",
            Tree::Fields(vec![
                ("enabled", Tree::Flag(true)),
                (
                    "ignoredExitCodes",
                    Tree::List([0, 3, 4, 78].map(Tree::Number).to_vec()),
                ),
            ]),
        ));
    }
    if task.memory_mib.is_absent() {
        fields.push(("memoryReservation", Tree::Number(16)));
        fields.push(("memory", Tree::Number(32)));
    }
    fields.extend([
        ("user", Tree::text(user(task, &steps))),
        ("readonlyRootFilesystem", Tree::Flag(true)),
        (
            "linuxParameters",
            Tree::Fields(vec![(
                "capabilities",
                Tree::Fields(vec![("drop", Tree::texts(&["ALL"]))]),
            )]),
        ),
    ]);
    if let Some(log) = log(app) {
        fields.push(("logConfiguration", log));
    }
    let body = Tree::Fields(fields);
    Ok((SidecarDefinition { name, body }, story))
}

/// Where the policies for settings stand.
const IAM: &str = "task-definitions/iam";

/// `PRESTOP_LISTEN` without endpoints.
const OFF: &str = "off";

/// Where others than the task's own containers reach the endpoints.
const EVERYWHERE: &str = "0.0.0.0:9911";

fn seconds(seconds: u64) -> Tree {
    Tree::text(format!("{seconds}s"))
}

/// Who has to reach the sidecar's endpoints; `None` for its own task only.
fn listen(
    task: &TaskDefinition<'_>,
    steps: &[Step],
    balancer: &Balancer,
    protects: bool,
) -> Option<&'static str> {
    let waits = protects || steps.contains(&Step::Ack);
    let on_host = task.network_mode.known().is_some_and(|mode| mode == "host");
    if balancer.asks_the_sidecar || (waits && task.network() == NetworkMode::Apart) {
        Some(EVERYWHERE)
    } else if on_host && !waits {
        // All tasks of an instance share its ports, and the second one would find this one taken.
        Some(OFF)
    } else {
        None
    }
}

/// Whether there can be a sidecar at all.
fn fits(task: &TaskDefinition<'_>) -> Result<(), NotAdded> {
    if task.on_windows() {
        return Err(NotAdded::because(
            "this task runs Windows, and the sidecar's image is for Linux",
        ));
    }
    if task.containers.len() >= MAX_CONTAINERS {
        return Err(NotAdded::because(format!(
            "`{}` has {} containers, and ECS takes no more than {MAX_CONTAINERS}",
            task.name,
            task.containers.len()
        )));
    }
    Ok(())
}

fn free_name(task: &TaskDefinition<'_>) -> Result<&'static str, NotAdded> {
    NAMES
        .into_iter()
        .find(|name| task.container(name).is_none())
        .ok_or_else(|| {
            NotAdded::because(format!(
                "the names {} are taken by other containers",
                NAMES.join(" and ")
            ))
        })
}

/// What the sidecar does at a notice.
struct DrainSetting {
    /// `PRESTOP_DRAIN`; `None` where labels say it.
    setting: Option<Tree>,
    /// The same for people.
    story: String,
}

impl DrainSetting {
    fn steps(&self) -> Vec<Step> {
        let Some(Tree::Text(text)) = &self.setting else {
            return Vec::new();
        };
        parse_steps(text).unwrap_or_default()
    }

    fn by(setting: impl Into<String>, story: impl Into<String>) -> DrainSetting {
        DrainSetting {
            setting: Some(Tree::text(setting)),
            story: story.into(),
        }
    }
}

fn drain(
    task: &TaskDefinition<'_>,
    app: &ContainerDefinition<'_>,
    options: &AddOptions,
) -> Result<DrainSetting, NotAdded> {
    if let Some(text) = &options.drain {
        let steps = parse_steps(text).map_err(|why| NotAdded::because(format!("--drain: {why}")))?;
        let signals = steps.iter().any(|step| matches!(step, Step::Signal(_)));
        if signals && task.pid_mode.is_absent() {
            return Err(NotAdded::because(
                "a signal step needs `pidMode: task`, which shares the processes of all containers: set it first if you want that",
            ));
        }
        return Ok(DrainSetting::by(text, format!("it drains by `{text}`")));
    }
    if task
        .containers
        .iter()
        .any(|container| container.labels.contains_key(DRAIN_LABEL))
    {
        return Ok(DrainSetting {
            setting: None,
            story: format!("it drains by what the labels {DRAIN_LABEL} say"),
        });
    }
    let name = &app.name.text;
    let shares_processes = !task.pid_mode.is_absent();
    let signal = stop_signal(app).filter(|_| shares_processes && app.name.literal);
    let Some(signal) = signal else {
        return wait(task, app);
    };
    let step = format!("signal {signal} {name}");
    let story =
        format!("it sends SIG{signal}, by which `{name}` finishes what it has, and waits for its end");
    if app.keeps_data() || !somebody_listens(task) {
        return Ok(DrainSetting::by(step, story));
    }
    // At the signal it takes no more connections, and load balancers have to look away before that.
    let (first, before) = wait_setting(task, app)?;
    Ok(DrainSetting::by(
        format!("{first}, {step}"),
        format!("{before}; then {story}"),
    ))
}

/// How the app is waited for by a sidecar that only looks on.
fn wait(task: &TaskDefinition<'_>, app: &ContainerDefinition<'_>) -> Result<DrainSetting, NotAdded> {
    let (setting, story) = wait_setting(task, app)?;
    Ok(DrainSetting::by(setting, story))
}

fn wait_setting(
    task: &TaskDefinition<'_>,
    app: &ContainerDefinition<'_>,
) -> Result<(String, String), NotAdded> {
    let name = &app.name.text;
    if app.keeps_data() {
        return Ok((
            SHORT_SLEEP.to_owned(),
            format!("it serves on for 5 s, since `{name}` is not asked by requests that could be waited for"),
        ));
    }
    if task.network() == NetworkMode::Apart {
        return Ok((
            SLEEP.to_owned(),
            "it serves on for 15 s, since under bridge networking it does not see the app's connections (with awsvpc it waits \
             until no answer is owed)"
                .to_owned(),
        ));
    }
    if task.network_mode.known().is_some_and(|mode| mode == "host") {
        let port = first_port(app).ok_or_else(|| {
            NotAdded::because(format!(
                "`{name}` lists no port, and under host networking the connections of the whole instance are in sight: say \
                 which port is the app's, such as `--drain 'quiet :8080'`"
            ))
        })?;
        return Ok((
            format!("quiet :{port}"),
            format!("it waits until no answer is owed on port {port}"),
        ));
    }
    if !somebody_listens(task) {
        return Err(NotAdded::because(format!(
            "no container lists a port, so how `{name}` drains is not known: give --drain, such as `--drain quiet` if it \
             listens for requests, `--drain 'sleep 15s'`, `--drain ack` or `--drain 'signal TERM {name}'` for a worker"
        )));
    }
    let moves = app.speaks_http2
        || task
            .services
            .iter()
            .flat_map(|service| &service.target_groups)
            .any(TargetGroup::speaks_http2);
    let (setting, story) = if moves {
        (
            "quiet moves",
            "it waits until no byte moves on the app's connections any more",
        )
    } else {
        ("quiet", "it waits until the app owes nobody an answer")
    };
    Ok((setting.to_owned(), story.to_owned()))
}

/// How long to serve on where connections are not in sight: what load balancers and clients need to look
/// away, and most requests to be answered.
const SLEEP: &str = "sleep 15s";

/// The same for what is asked by a task's neighbours only.
const SHORT_SLEEP: &str = "sleep 5s";

/// The signal by which an image's program finishes what it has: its own STOPSIGNAL where that is not
/// SIGTERM (Docker Official Images, nginx, php (fpm) and httpd, their Dockerfiles).
fn stop_signal(app: &ContainerDefinition<'_>) -> Option<&'static str> {
    let image = app.image.known()?;
    match app.image_name()? {
        "nginx" | "openresty" => Some("QUIT"),
        "php" if image.contains("fpm") => Some("QUIT"),
        "httpd" => Some("WINCH"),
        "mariadb" | "memcached" | "mongo" | "mysql" | "rabbitmq" | "redis" | "valkey" => Some("TERM"),
        // PostgreSQL's fast shutdown: SIGTERM would wait for every client.
        "postgres" => Some("INT"),
        _ => None,
    }
}

/// Whether some container of the task is there to be called.
fn somebody_listens(task: &TaskDefinition<'_>) -> bool {
    let called = task.services.iter().any(|service| service.is_called);
    called
        || task
            .containers
            .iter()
            .any(|container| !container.only_observes() && container.may_be_called())
}

/// The seconds that the sidecar has, and what is kept for those after it.
pub(super) struct Times {
    pub(super) stop_s: u64,
    pub(super) reserve_s: Option<u64>,
    pub(super) capacity: Option<String>,
}

/// How the 120 s are shared between the drain and those that stop after it.
fn times(task: &TaskDefinition<'_>, options: &AddOptions) -> Result<Times, NotAdded> {
    let (chain, after) = task.longest_stop();
    let chain = names(&chain);
    let spot = matches!(task.host(), Host::Goes(_));
    let told = match task.host() {
        Host::Goes(_) => Some("spot".to_owned()),
        // A launch type or a capacity provider says so.
        Host::Stays => Some("on-demand".to_owned()),
        Host::MayGo | Host::Unknown => None,
    };
    let capacity = options.capacity.clone().or(told);
    let on_demand = capacity.as_deref() == Some("on-demand");
    if on_demand && spot {
        return Err(NotAdded::because(
            "--capacity is on-demand, but a service of this template runs it on FARGATE_SPOT",
        ));
    }
    let ceiling = CEILING.as_secs_f64();
    let left = if on_demand { ceiling } else { ceiling - after };
    let stop_s = match options.stop_timeout_s {
        Some(seconds) => seconds,
        None if left < LEAST_STOP_S => {
            return Err(NotAdded::because(format!(
                "the stops of {chain} take {after} s, which leaves nothing of the 120 s of a Spot notice: lower their \
                 stopTimeout, or say --capacity on-demand if this task never runs on Spot"
            )));
        }
        None => left.min(USUAL_STOP_S) as u64,
    };
    let wanted = after > Reserve::DEFAULT.get().as_secs_f64() && !on_demand;
    if wanted && after > MAX_RESERVE.as_secs_f64() {
        return Err(NotAdded::because(format!(
            "the stops of {chain} take {after} s; no more than {} s can be kept for them: lower their stopTimeout",
            MAX_RESERVE.as_secs()
        )));
    }
    Ok(Times {
        stop_s,
        reserve_s: wanted.then_some(after.ceil() as u64),
        capacity,
    })
}

/// Everybody that has to live through the drain, in front of the app and behind it: all but those that
/// have ended by then. What stops together with the sidecar is gone while the app still answers.
fn dependencies<'t, 'a>(task: &'t TaskDefinition<'a>) -> Vec<&'t ContainerDefinition<'a>> {
    let mut held: Vec<&ContainerDefinition<'a>> = Vec::new();
    for container in &task.containers {
        let known = held
            .iter()
            .any(|other| other.name.text == container.name.text && other.condition == container.condition);
        if !known && container.name.text != model::NAMELESS && !task.ends_early(container) {
            held.push(container);
        }
    }
    held
}

fn dependency(container: &ContainerDefinition<'_>) -> Tree {
    let name = if container.name.literal {
        Tree::text(container.name.text.as_ref())
    } else {
        Tree::of(container.name.node)
    };
    let entry = Tree::Fields(vec![("containerName", name), ("condition", Tree::text("START"))]);
    match container.condition {
        Some(condition) => Tree::under(condition, entry),
        None => entry,
    }
}

/// Names for people.
fn names(containers: &[&ContainerDefinition<'_>]) -> String {
    let names: Vec<String> = containers
        .iter()
        .map(|container| format!("`{}`", container.name.text))
        .collect();
    names.join(", ")
}

/// A signal needs the rights of the process that gets it; everything else needs none.
fn user(task: &TaskDefinition<'_>, steps: &[Step]) -> String {
    let target = steps.iter().find_map(|step| match step {
        Step::Signal(signal) => task.container(&signal.container),
        _ => None,
    });
    match target.map(|target| target.user.known()) {
        Some(Some(user)) => user.to_string(),
        Some(None) => "0".to_owned(),
        None => UID.to_owned(),
    }
}

/// As the app logs, but never so that a line can hold the drain.
fn log<'a>(app: &ContainerDefinition<'a>) -> Option<Tree> {
    let log = app.log.as_ref()?;
    let blocking = matches!(&log.mode, Value::Known(mode, _) if mode == "blocking");
    let options = log.node.get("options").or(log.node.get("Options"))?;
    if !blocking {
        return Some(Tree::of(log.node));
    }
    let pairs = options.entries().iter().map(|entry| {
        let value = if entry.key == "mode" {
            Tree::text("non-blocking")
        } else {
            Tree::of(&entry.value)
        };
        (entry.key.to_string(), value)
    });
    let mut fields = vec![
        ("logDriver", Tree::text(log.driver.known()?.as_ref())),
        ("options", Tree::Pairs(pairs.collect())),
    ];
    if let Some(secrets) = log.node.get("secretOptions").or(log.node.get("SecretOptions")) {
        fields.push(("secretOptions", Tree::of(secrets)));
    }
    Some(Tree::Fields(fields))
}
