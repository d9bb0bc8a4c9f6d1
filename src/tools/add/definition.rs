//! What the sidecar's container looks like in a given task definition.

use crate::core::deadline::{CEILING, MAX_RESERVE, Reserve};
use crate::core::plan::DRAIN_LABEL;
use crate::core::step::{Step, parse_steps};
use crate::tools::model::{self, Container, Form, Host, Network, Task, Value};

use super::tree::{Definition, Tree};
use super::{Refusal, Wishes, first_port};

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
    task: &Task<'a>,
    app: &Container<'a>,
    wishes: &Wishes,
) -> Result<(Definition, String), Refusal> {
    fits(task)?;
    let name = free_name(task)?;
    let drain = drain(task, app, wishes)?;
    let times = times(task, app, wishes)?;
    let mut environment = Vec::new();
    let mut story = format!("`{name}` is wired in: it depends on `{}`", app.name.text);
    if let Some((setting, words)) = drain {
        environment.push(Tree::variable("PRESTOP_DRAIN", setting));
        story.push_str(&format!(", drains by `{words}`"));
    }
    environment.push(Tree::variable(
        "PRESTOP_STOP_TIMEOUT",
        Tree::text(format!("{}s", times.stop_s)),
    ));
    if let Some(capacity) = &times.capacity {
        environment.push(Tree::variable("PRESTOP_CAPACITY", Tree::text(capacity.as_str())));
    }
    if let Some(reserve_s) = times.reserve_s {
        environment.push(Tree::variable(
            "PRESTOP_RESERVE",
            Tree::text(format!("{reserve_s}s")),
        ));
    }
    let steps = known_steps(wishes);
    if task.network() == Network::Apart && steps.contains(&Step::Ack) {
        environment.push(Tree::variable("PRESTOP_LISTEN", Tree::text("0.0.0.0:9911")));
    }
    let image = image(app, wishes);
    story.push_str(&format!(
        ", and has {} s to do so; its image is {image}{}",
        times.stop_s,
        if wishes.image.is_some() {
            ""
        } else {
            " (another: --image)"
        }
    ));
    let mut fields = vec![
        ("name", Tree::text(name)),
        ("image", Tree::text(image)),
        ("essential", Tree::Flag(false)),
        ("dependsOn", dependencies(task, app, wishes)),
        ("stopTimeout", Tree::Number(times.stop_s)),
        ("environment", Tree::List(environment)),
        (
            "healthCheck",
            Tree::Fields(vec![("command", Tree::texts(&["CMD", "/ecs-prestop", "health"]))]),
        ),
    ];
    if task.on_fargate() == Some(true) {
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
    Ok((Definition { name, body }, story))
}

/// Whether there can be a sidecar at all.
fn fits(task: &Task<'_>) -> Result<(), Refusal> {
    if task.on_windows() {
        return Err(Refusal::because(
            "this task runs Windows, and the sidecar's image is for Linux",
        ));
    }
    if task.containers.len() >= MAX_CONTAINERS {
        return Err(Refusal::because(format!(
            "`{}` has {} containers, and ECS takes no more than {MAX_CONTAINERS}",
            task.name,
            task.containers.len()
        )));
    }
    Ok(())
}

fn free_name(task: &Task<'_>) -> Result<&'static str, Refusal> {
    NAMES
        .into_iter()
        .find(|name| task.container(name).is_none())
        .ok_or_else(|| {
            Refusal::because(format!(
                "the names {} are taken by other containers",
                NAMES.join(" and ")
            ))
        })
}

fn known_steps(wishes: &Wishes) -> Vec<Step> {
    wishes
        .drain
        .as_deref()
        .and_then(|text| parse_steps(text).ok())
        .unwrap_or_default()
}

/// The setting, and the same for people. `None` where labels say it.
fn drain<'a>(
    task: &Task<'a>,
    app: &Container<'a>,
    wishes: &Wishes,
) -> Result<Option<(Tree, String)>, Refusal> {
    if let Some(text) = &wishes.drain {
        let steps = parse_steps(text).map_err(|why| Refusal::because(format!("--drain: {why}")))?;
        let signals = steps.iter().any(|step| matches!(step, Step::Signal(_)));
        if signals && task.pid_mode.is_absent() {
            return Err(Refusal::because(
                "a signal step needs `pidMode: task`, which shares the processes of all containers: set it first if you want that",
            ));
        }
        return Ok(Some((Tree::text(text.as_str()), text.clone())));
    }
    if task
        .containers
        .iter()
        .any(|container| container.labels.contains_key(DRAIN_LABEL))
    {
        return Ok(None);
    }
    // Loopback where the name is an expression: it is the same host there.
    let host = match (app.name.literal, task.network()) {
        (true, _) => app.name.text.as_ref(),
        (false, Network::Shared) => "127.0.0.1",
        (false, _) => {
            return Err(Refusal::because(format!(
                "the name of `{}` is not in this file: give --drain",
                app.name.text
            )));
        }
    };
    if let Some(port) = first_port(app) {
        let url = format!("http://{host}:{port}/drain");
        return Ok(Some((Tree::text(url.as_str()), format!("POST {url}"))));
    }
    if let (Form::CloudFormation, Some(parameter)) = (task.form, port_parameter(app)) {
        let url = format!("http://{host}:${{{parameter}}}/drain");
        return Ok(Some((Tree::Sub(url.clone()), format!("POST {url}"))));
    }
    Err(Refusal::because(format!(
        "`{}` lists no port, so how it drains is not known: give --drain, such as `--drain 'POST http://{host}:8080/drain'`, \
         `--drain ack` or `--drain 'signal QUIT {host}'`",
        app.name.text
    )))
}

/// `ContainerPort: !Ref AppPort`
fn port_parameter<'a>(app: &Container<'a>) -> Option<&'a str> {
    let mapping = app.ports.node()?.items().first()?;
    let parameter = model::reference(mapping.get("ContainerPort")?)?;
    (!parameter.contains("::")).then_some(parameter)
}

struct Times {
    stop_s: u64,
    reserve_s: Option<u64>,
    capacity: Option<String>,
}

/// How the 120 s are shared between the drain and those that stop after it.
fn times(task: &Task<'_>, app: &Container<'_>, wishes: &Wishes) -> Result<Times, Refusal> {
    let own = task.stop_timeout_s(app).unwrap_or(model::DEFAULT_STOP_TIMEOUT_S);
    let (_, later) = task.stop_after(app);
    let after = own + later;
    let spot = matches!(task.host(), Host::Goes(_));
    let capacity = wishes.capacity.clone().or(spot.then(|| "spot".to_owned()));
    let on_demand = capacity.as_deref() == Some("on-demand");
    if on_demand && spot {
        return Err(Refusal::because(
            "--capacity is on-demand, but a service of this template runs it on FARGATE_SPOT",
        ));
    }
    let ceiling = CEILING.as_secs_f64();
    let left = if on_demand { ceiling } else { ceiling - after };
    let stop_s = match wishes.stop_timeout_s {
        Some(seconds) => seconds,
        None if left < LEAST_STOP_S => {
            return Err(Refusal::because(format!(
                "`{}` and what stops after it take {after} s, which leaves nothing of the 120 s of a Spot notice: lower their \
                 stopTimeout, or say --capacity on-demand if this task never runs on Spot",
                app.name.text
            )));
        }
        None => left.min(USUAL_STOP_S) as u64,
    };
    let wanted = after > Reserve::DEFAULT.get().as_secs_f64() && !on_demand;
    if wanted && after > MAX_RESERVE.as_secs_f64() {
        return Err(Refusal::because(format!(
            "`{}` and what stops after it take {after} s; no more than {} s can be kept for them: lower their stopTimeout",
            app.name.text,
            MAX_RESERVE.as_secs()
        )));
    }
    Ok(Times {
        stop_s,
        reserve_s: wanted.then_some(after.ceil() as u64),
        capacity,
    })
}

/// The app, whoever else is drained, and the log router.
fn dependencies<'a>(task: &Task<'a>, app: &Container<'a>, wishes: &Wishes) -> Tree {
    let mut names = vec![&app.name];
    for container in &task.containers {
        let labelled = wishes.drain.is_none() && container.labels.contains_key(DRAIN_LABEL);
        let called = known_steps(wishes).iter().any(|step| match step {
            Step::Call(call) => container.name.text == call.url.host(),
            Step::Signal(signal) => container.name.text == signal.container.as_str(),
            Step::Ack | Step::Quiet(_) | Step::Sleep(_) => false,
        });
        let routes = container.firelens.is_some() && logs_through_firelens(app);
        let known = names.iter().any(|name| name.text == container.name.text);
        if (labelled || called || routes) && !known {
            names.push(&container.name);
        }
    }
    let entry = |name: &&model::Name<'a>| {
        let name = if name.literal {
            Tree::text(name.text.as_ref())
        } else {
            Tree::of(name.node)
        };
        Tree::Fields(vec![("containerName", name), ("condition", Tree::text("START"))])
    };
    Tree::List(names.iter().map(entry).collect())
}

fn logs_through_firelens(container: &Container<'_>) -> bool {
    let driver = container.log.as_ref().and_then(|log| log.driver.known());
    driver.is_some_and(|driver| driver == "awsfirelens")
}

/// `ecs-prestop` where the app's image comes from, if that is a private registry of ECR.
pub(super) fn image(app: &Container<'_>, wishes: &Wishes) -> String {
    if let Some(image) = &wishes.image {
        return image.clone();
    }
    let own = concat!("ecs-prestop:", env!("CARGO_PKG_VERSION"));
    let registry = app
        .image
        .known()
        .and_then(|image| image.split_once('/'))
        .map(|(registry, _)| registry);
    match registry.filter(|registry| registry.contains(".dkr.ecr.")) {
        Some(registry) => format!("{registry}/{own}"),
        None => own.to_owned(),
    }
}

/// A signal needs the rights of the process that gets it; everything else needs none.
fn user(task: &Task<'_>, steps: &[Step]) -> String {
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
fn log<'a>(app: &Container<'a>) -> Option<Tree> {
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
