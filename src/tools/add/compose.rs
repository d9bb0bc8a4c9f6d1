//! What the sidecar's service looks like in a compose file.

use crate::core::step::parse_steps;
use crate::tools::document::Node;
use crate::tools::model::{Container, Network, Task};

use super::definition::image;
use super::tree::{Definition, Tree};
use super::{Refusal, Wishes};

/// What a rehearsal on a laptop gets: ECS's own default.
const USUAL_STOP_S: u64 = 30;

pub(super) fn definition<'a>(
    task: &Task<'a>,
    app: &Container<'a>,
    wishes: &Wishes,
) -> Result<(Definition, String), Refusal> {
    let name = "prestop";
    if task.container(name).is_some() {
        return Err(Refusal::because(format!(
            "there is a service `{name}` already, and it is not the sidecar"
        )));
    }
    let drain = drain(app, wishes)?;
    let stop = format!("{}s", wishes.stop_timeout_s.unwrap_or(USUAL_STOP_S));
    let image = image(app, wishes);
    let story = format!(
        "`{name}` is wired in: it depends on `{}`, drains by `{drain}`; its image is {image}",
        app.name.text
    );
    let mut environment = vec![
        ("PRESTOP_DRAIN".to_owned(), Tree::text(drain.as_str())),
        ("PRESTOP_STOP_TIMEOUT".to_owned(), Tree::text(stop.as_str())),
    ];
    if let Some(capacity) = &wishes.capacity {
        environment.push(("PRESTOP_CAPACITY".to_owned(), Tree::text(capacity.as_str())));
    }
    if drain.split(',').any(|step| step.trim() == "ack") && task.network() != Network::Shared {
        environment.push(("PRESTOP_LISTEN".to_owned(), Tree::text("0.0.0.0:9911")));
    }
    let mut fields = vec![
        ("image", Tree::text(image)),
        ("depends_on", Tree::List(vec![Tree::text(app.name.text.as_ref())])),
        ("environment", Tree::Pairs(environment)),
        ("stop_grace_period", Tree::text(stop)),
        ("read_only", Tree::Flag(true)),
        ("cap_drop", Tree::texts(&["ALL"])),
        ("security_opt", Tree::texts(&["no-new-privileges:true"])),
    ];
    if let Some(node) = app.node.get("networks") {
        // The names only: an address or an alias of the app's is not the sidecar's.
        let names = node.entries().iter().map(|entry| Tree::text(entry.key.as_ref()));
        let listed = node.items().iter().map(Tree::of);
        fields.push(("networks", Tree::List(names.chain(listed).collect())));
    }
    if let Some(node) = app.node.get("network_mode") {
        fields.push(("network_mode", Tree::of(node)));
    }
    let body = Tree::Fields(fields);
    Ok((Definition { name, body }, story))
}

fn drain(app: &Container<'_>, wishes: &Wishes) -> Result<String, Refusal> {
    if let Some(text) = &wishes.drain {
        parse_steps(text).map_err(|why| Refusal::because(format!("--drain: {why}")))?;
        return Ok(text.clone());
    }
    // On the host's network there are no names of services.
    let on_host = app.node.get("network_mode").and_then(Node::text) == Some("host");
    let name = if on_host {
        "127.0.0.1"
    } else {
        app.name.text.as_ref()
    };
    port(app.node)
        .map(|port| format!("POST http://{name}:{port}/drain"))
        .ok_or_else(|| {
            Refusal::because(format!(
                "`{name}` lists no port, so how it drains is not known: give --drain, such as `--drain 'POST http://{name}:8080/drain'`"
            ))
        })
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
