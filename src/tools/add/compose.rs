//! What the sidecar's service looks like in a compose file.

use crate::core::step::{Step, parse_steps};
use crate::tools::document::Node;
use crate::tools::model::{ContainerDefinition, NetworkMode, TaskDefinition};

use super::tree::{SidecarDefinition, Tree};
use super::{AddOptions, NotAdded};

/// What a rehearsal on a laptop gets: ECS's own default.
const USUAL_STOP_S: u64 = 30;

/// The tag that `docker/build` gives.
const BUILT: &str = "ecs-prestop:dev";

pub(super) fn definition<'a>(
    task: &TaskDefinition<'a>,
    app: &ContainerDefinition<'a>,
    options: &AddOptions,
) -> Result<(SidecarDefinition, String), NotAdded> {
    let name = "prestop";
    if task.container(name).is_some() {
        return Err(NotAdded::because(format!(
            "there is a service `{name}` already, and it is not the sidecar"
        )));
    }
    if options.protect {
        return Err(NotAdded::because(
            "--protect asks ECS, which does not run this file: try it with `ecs-prestop simulate`, or add it to the task \
             definition",
        ));
    }
    let drain = drain(app, options)?;
    let stop = format!("{}s", options.stop_timeout_s.unwrap_or(USUAL_STOP_S));
    let image = options.image.as_deref().unwrap_or(BUILT);
    let (held, left_out) = dependencies(task, app);
    let words = match drain.as_str() {
        "quiet" => "it waits until the app owes nobody an answer".to_owned(),
        steps => format!("it drains by `{steps}`"),
    };
    let mut story = format!(
        "`{name}` is wired in: {words}, and depends on {}; its image is {image}",
        held.iter()
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ")
    );
    if options.image.is_none() {
        story.push_str(", which docker/build makes (another: --image)");
    }
    for (service, why) in left_out {
        story.push_str(&format!("; it does not depend on `{service}`, {why}"));
    }
    let mut environment = vec![
        ("PRESTOP_DRAIN".to_owned(), Tree::text(drain.as_str())),
        ("PRESTOP_STOP_TIMEOUT".to_owned(), Tree::text(stop.as_str())),
        // On a laptop there is no instance metadata to ask.
        ("PRESTOP_WATCH".to_owned(), Tree::text("none")),
    ];
    if let Some(seconds) = options.settle_s {
        environment.push(("PRESTOP_SETTLE".to_owned(), Tree::text(format!("{seconds}s"))));
    }
    if let Some(capacity) = &options.capacity {
        environment.push(("PRESTOP_CAPACITY".to_owned(), Tree::text(capacity.as_str())));
    }
    let steps = parse_steps(&drain).unwrap_or_default();
    let looks = steps.iter().any(|step| matches!(step, Step::Quiet(_)));
    if steps.contains(&Step::Ack) && task.network() != NetworkMode::Shared && !looks {
        environment.push(("PRESTOP_LISTEN".to_owned(), Tree::text("0.0.0.0:9911")));
    }
    let mut fields = vec![
        ("image", Tree::text(image)),
        (
            "depends_on",
            Tree::List(held.into_iter().map(Tree::text).collect()),
        ),
        ("environment", Tree::Pairs(environment)),
        ("stop_grace_period", Tree::text(stop)),
        ("read_only", Tree::Flag(true)),
        ("cap_drop", Tree::texts(&["ALL"])),
        ("security_opt", Tree::texts(&["no-new-privileges:true"])),
    ];
    match app.node.get("network_mode") {
        Some(node) => fields.push(("network_mode", Tree::of(node))),
        // What the app's connections are is seen from within its network only.
        None if looks => fields.push(("network_mode", Tree::text(format!("service:{}", app.name.text)))),
        None => {
            if let Some(node) = app.node.get("networks") {
                // The names only: an address or an alias of the app's is not the sidecar's.
                let names = node.entries().iter().map(|entry| Tree::text(entry.key.as_ref()));
                let listed = node.items().iter().map(Tree::of);
                fields.push(("networks", Tree::List(names.chain(listed).collect())));
            }
        }
    }
    let body = Tree::Fields(fields);
    Ok((SidecarDefinition { name, body }, story))
}

/// The services that have to live through the drain, and those left out, with the reason.
fn dependencies<'t>(
    task: &'t TaskDefinition<'_>,
    app: &ContainerDefinition<'_>,
) -> (Vec<&'t str>, Vec<(&'t str, &'static str)>) {
    let mut held = Vec::new();
    let mut left_out = Vec::new();
    for service in &task.containers {
        let name = service.name.text.as_ref();
        let is_app = std::ptr::eq(service.node, app.node);
        // Compose refuses a dependency on a service whose profile is not asked for.
        let optional = service
            .node
            .get("profiles")
            .is_some_and(|node| !node.items().is_empty());
        if !is_app && optional {
            left_out.push((name, "which runs only where its profile is asked for"));
        } else if task.ends_early(service) {
            left_out.push((name, "which has ended by then"));
        } else {
            held.push(name);
        }
    }
    (held, left_out)
}

fn drain(app: &ContainerDefinition<'_>, options: &AddOptions) -> Result<String, NotAdded> {
    if let Some(text) = &options.drain {
        parse_steps(text).map_err(|why| NotAdded::because(format!("--drain: {why}")))?;
        return Ok(text.clone());
    }
    if app.keeps_data() {
        return Ok("sleep 5s".to_owned());
    }
    let name = app.name.text.as_ref();
    let port = port(app.node);
    // On the host's network everything else of the laptop is in sight, too.
    let on_host = app.node.get("network_mode").and_then(Node::text) == Some("host");
    match port {
        Some(port) if on_host => Ok(format!("quiet :{port}")),
        None if on_host => Err(NotAdded::because(format!(
            "`{name}` lists no port: say which is the app's, such as `--drain 'quiet :8080'`"
        ))),
        None if app.is_worker() => Err(NotAdded::because(format!(
            "`{name}` lists no port and works on jobs, so how it drains is not known: give --drain, such as `--drain ack` or \
             `--drain 'sleep 15s'`"
        ))),
        Some(_) | None => Ok("quiet".to_owned()),
    }
}

/// The container's side of the first of `ports` or `expose`: `8080`, `80:8080`, `127.0.0.1:80:8080/tcp`,
/// or `target: 8080`.
fn port(service: &Node<'_>) -> Option<u16> {
    let first = ["ports", "expose"]
        .into_iter()
        .filter_map(|field| service.get(field)?.items().first())
        .next()?;
    let word = first.get("target").unwrap_or(first).word()?;
    // UDP speaks no HTTP.
    let inner = word.rsplit(':').next()?.trim_end_matches("/tcp");
    inner.parse().ok()
}
