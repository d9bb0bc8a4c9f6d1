//! Reads a compose file as if its services were the containers of a task: what a laptop can rehearse.
//!
//! A service without `image`, `build` or `extends` is laid over another file's, so that what it does not
//! say is not known to be absent.

use std::borrow::Cow;
use std::time::Duration;

use crate::config::duration;
use crate::tools::document::{Node, NodeKind, Span};

use super::ecs::{capabilities, labels};
use super::fields::{Fields, name, process_word, process_words, text};
use super::{
    ContainerDefinition, Dependency, DocumentForm, Log, MAX_CONTAINERS, Name, TaskDefinition, Text, Value,
    Variable,
};

const FORM: DocumentForm = DocumentForm::Compose;

/// What compose gives a container to stop (compose file reference, *stop_grace_period*).
pub(super) const DEFAULT_GRACE: Duration = Duration::from_secs(10);

pub(super) fn task<'a>(root: &'a Node<'a>, services: &'a Node<'a>, at: Span) -> TaskDefinition<'a> {
    let entries = services.entries();
    let containers: Vec<_> = entries
        .iter()
        .filter(|entry| matches!(entry.value.kind, NodeKind::Map(_)))
        .take(MAX_CONTAINERS)
        .map(|entry| {
            let name = Name {
                text: Cow::Borrowed(&entry.key),
                literal: true,
                node: &entry.value,
            };
            container(name, &entry.value)
        })
        .collect();
    let anywhere = |field: &str| {
        let holder = entries.iter().find(|entry| entry.value.get(field).is_some());
        holder.map_or(Value::Absent, |entry| Fields::of(FORM, &entry.value).text(field))
    };
    let network = match anywhere("network_mode") {
        // Some share a network and others do not: that is no mode of ECS.
        Value::Known(_, node) => Value::Unknown(node),
        other => other,
    };
    let pid_mode = match anywhere("pid") {
        Value::Known(_, node) => Value::Known(Cow::Borrowed("task"), node),
        other => other,
    };
    TaskDefinition {
        form: FORM,
        name: "services".to_owned(),
        node: root,
        at,
        list: services,
        more_containers: containers.len() < entries.len()
            || root.get("include").is_some()
            || containers.iter().any(is_overlay),
        containers,
        compatibilities: Value::Absent,
        network_mode: network,
        pid_mode,
        task_role: Value::Unknown(root),
        memory_mib: Value::Absent,
        system: Value::Absent,
        proxy: Value::Absent,
        services: Vec::new(),
        short_hops: Vec::new(),
        instances: Vec::new(),
        agent_stop_timeout_s: None,
        scheduled_on_spot: Vec::new(),
    }
}

fn is_overlay(container: &ContainerDefinition<'_>) -> bool {
    let node = container.node;
    node.get("image").is_none() && node.get("build").is_none()
}

fn container<'a>(name: Name<'a>, node: &'a Node<'a>) -> ContainerDefinition<'a> {
    let fields = Fields::of(FORM, node);
    // What an overlay or a base in another file may say.
    let elsewhere =
        fields.node("extends").is_some() || (node.get("image").is_none() && node.get("build").is_none());
    let (environment, more_environment) = environment(&fields);
    let (labels, more_labels) = match fields.node("labels") {
        Some(list) if matches!(list.kind, NodeKind::List(_)) => (std::collections::BTreeMap::new(), true),
        node => labels(FORM, node),
    };
    ContainerDefinition {
        node,
        condition: None,
        starts: None,
        name,
        image: absent(fields.text("image"), elsewhere, node),
        essential: Value::Unknown(node),
        depends_on: depends_on(&fields),
        more_dependencies: elsewhere,
        stop_timeout_s: absent(seconds(&fields), elsewhere, node),
        entry_point: absent(command(&fields, "entrypoint"), elsewhere, node),
        command: absent(command(&fields, "command"), elsewhere, node),
        environment,
        more_environment: more_environment || elsewhere || fields.node("env_file").is_some(),
        secrets: Vec::new(),
        // `expose` and `ports` are for others; containers of one network reach every port.
        ports: Value::Unknown(node),
        speaks_http2: false,
        log: fields.object("logging").map(log),
        firelens: None,
        health_check: match fields.object("healthcheck") {
            Some(check) => command(&check, "test"),
            // The image's own check counts here, other than on ECS.
            None => Value::Unknown(node),
        },
        init: absent(fields.flag("init"), elsewhere, node),
        capabilities: capabilities(&fields.words("cap_add"), &fields.words("cap_drop")),
        user: absent(fields.text("user"), elsewhere, node),
        read_only: absent(fields.flag("read_only"), elsewhere, node),
        memory_mib: Value::Unknown(node),
        labels,
        more_labels: more_labels || elsewhere,
        restarts: Value::Unknown(node),
    }
}

fn absent<'a, T>(value: Value<'a, T>, elsewhere: bool, node: &'a Node<'a>) -> Value<'a, T> {
    if value.is_absent() && elsewhere {
        Value::Unknown(node)
    } else {
        value
    }
}

fn seconds<'a>(fields: &Fields<'a>) -> Value<'a, f64> {
    fields
        .text("stop_grace_period")
        .and_then(|text| duration(&text).map(|grace| grace.as_secs_f64()))
}

/// A list, or a text that is split into words as a shell would, but run by none (compose file
/// reference, *command*).
fn command<'a>(fields: &Fields<'a>, name: &str) -> Value<'a, Vec<Text<'a>>> {
    let Some(node) = fields.node(name) else {
        return Value::Absent;
    };
    if matches!(node.kind, NodeKind::List(_)) {
        return process_words(FORM, node);
    }
    Value::Known(process_word(FORM, node), node)
        .and_then(|line| Some(shlex::split(&line)?.into_iter().map(Cow::Owned).collect()))
}

fn depends_on<'a>(fields: &Fields<'a>) -> Vec<Dependency<'a>> {
    let Some(node) = fields.node("depends_on") else {
        return Vec::new();
    };
    let short = node.items().iter().map(|item| Dependency {
        on: name(FORM, item),
        condition: Value::Known(Cow::Borrowed("START"), item),
    });
    let long = node.entries().iter().map(|entry| Dependency {
        on: Name {
            text: Cow::Borrowed(&entry.key),
            literal: true,
            node: &entry.value,
        },
        condition: Fields::of(FORM, &entry.value)
            .text("condition")
            .and_then(in_words_of_ecs),
    });
    short.chain(long).collect()
}

fn in_words_of_ecs(condition: Text<'_>) -> Option<Text<'_>> {
    let word = match condition.as_ref() {
        "service_started" => "START",
        "service_healthy" => "HEALTHY",
        "service_completed_successfully" => "SUCCESS",
        _ => return None,
    };
    Some(Cow::Borrowed(word))
}

fn environment<'a>(fields: &Fields<'a>) -> (Vec<Variable<'a>>, bool) {
    let Some(node) = fields.node("environment") else {
        return (Vec::new(), false);
    };
    let mut variables = Vec::new();
    for entry in node.entries() {
        variables.push(Variable {
            name: Cow::Borrowed(&entry.key),
            value: text(FORM, &entry.value),
            node: &entry.value,
        });
    }
    for item in node.items() {
        let Some(line) = item.text() else { continue };
        let (name, value) = match line.split_once('=') {
            // Without a value it comes from the shell that runs compose.
            None => (line, Value::Unknown(item)),
            Some((name, value)) if value.contains('$') => (name, Value::Unknown(item)),
            Some((name, value)) => (name, Value::Known(Cow::Borrowed(value), item)),
        };
        variables.push(Variable {
            name: Cow::Borrowed(name),
            value,
            node: item,
        });
    }
    let more = node.items().iter().any(|item| item.text().is_none());
    (variables, more)
}

fn log(fields: Fields<'_>) -> Log<'_> {
    Log {
        node: fields.node,
        driver: fields.text("driver"),
        mode: fields
            .object("options")
            .map_or(Value::Absent, |options| options.text("mode")),
    }
}
