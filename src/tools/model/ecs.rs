//! Reads a task definition of ECS, in the casing of the API or of CloudFormation.

use std::collections::BTreeMap;

use crate::tools::document::{Node, NodeKind, Span};

use super::fields::{Fields, branches, is_expression, is_no_value, name, process_words, text};
use super::{
    Capabilities, Condition, ContainerDefinition, Dependency, DocumentForm, Log, MAX_CONTAINERS, NAMELESS,
    Name, TaskDefinition, Text, Value, Variable,
};

/// `node` holds the fields, `list` the containers.
pub(super) fn task<'a>(
    form: DocumentForm,
    name: String,
    at: Span,
    node: &'a Node<'a>,
    list: &'a Node<'a>,
) -> TaskDefinition<'a> {
    let fields = Fields::of(form, node);
    let (containers, unknown) = containers(form, list);
    let platform = fields.object("runtimePlatform");
    TaskDefinition {
        form,
        name,
        node,
        at,
        list,
        more_containers: is_expression(form, list) || unknown,
        containers,
        compatibilities: fields.words("requiresCompatibilities"),
        network_mode: fields.text("networkMode"),
        pid_mode: fields.text("pidMode"),
        task_role: match fields.node("taskRoleArn") {
            None => Value::Absent,
            Some(node) => Value::Known((), node),
        },
        memory_mib: memory(&fields),
        system: platform.map_or(Value::Absent, |platform| platform.text("operatingSystemFamily")),
        proxy: fields
            .object("proxyConfiguration")
            .map_or(Value::Absent, |proxy| proxy.text("containerName"))
            .and_then(|name| (!name.is_empty()).then_some(name)),
        services: Vec::new(),
        short_hops: Vec::new(),
        instances: Vec::new(),
        agent_stop_timeout_s: None,
        scheduled_on_spot: Vec::new(),
    }
}

/// The containers of a list, those behind `!If` among them, and whether there may be others.
fn containers<'a>(form: DocumentForm, list: &'a Node<'a>) -> (Vec<ContainerDefinition<'a>>, bool) {
    let mut containers = Vec::new();
    let mut unknown = false;
    for item in list.items() {
        if containers.len() >= MAX_CONTAINERS {
            unknown = true;
            break;
        }
        if let Some((name, branches)) = branches(form, item) {
            for (branch, holds) in branches.into_iter().zip([true, false]) {
                if is_expression(form, branch) || !matches!(branch.kind, NodeKind::Map(_)) {
                    unknown |= !is_no_value(branch);
                } else {
                    containers.push(ContainerDefinition {
                        condition: Some(Condition { name, holds }),
                        ..container(form, branch)
                    });
                }
            }
        } else if is_expression(form, item) {
            unknown |= !is_no_value(item);
        } else {
            containers.push(container(form, item));
        }
    }
    (containers, unknown)
}

/// MiB, or with a unit as the console writes it: `2GB`, `1 GB`.
fn memory<'a>(fields: &Fields<'a>) -> Value<'a, u64> {
    fields.text("memory").and_then(|word| {
        let word = word.trim().to_ascii_uppercase();
        match word.strip_suffix("GB") {
            Some(number) => number.trim().parse::<u64>().ok()?.checked_mul(1024),
            None => word.parse().ok(),
        }
    })
}

pub(super) fn container<'a>(form: DocumentForm, node: &'a Node<'a>) -> ContainerDefinition<'a> {
    let fields = Fields::of(form, node);
    let (dependencies, more_dependencies) = fields.possible_items("dependsOn");
    let (environment, more_variables) = fields.items("environment");
    let (secrets, _) = fields.items("secrets");
    let linux = fields.object("linuxParameters");
    let unknown_linux = fields
        .node("linuxParameters")
        .filter(|node| is_expression(form, node));
    let (labels, more_labels) = labels(form, fields.node("dockerLabels"));
    ContainerDefinition {
        node,
        condition: None,
        starts: None,
        name: fields.name("name").unwrap_or(Name {
            text: Text::Borrowed(NAMELESS),
            literal: false,
            node,
        }),
        image: fields.text("image"),
        essential: fields.flag("essential"),
        depends_on: dependencies
            .into_iter()
            .filter_map(|item| dependency(Fields::of(form, item)))
            .chain(implied(&fields))
            .collect(),
        more_dependencies,
        stop_timeout_s: fields.number("stopTimeout"),
        entry_point: process(&fields, "entryPoint"),
        command: process(&fields, "command"),
        environment: environment
            .into_iter()
            .filter_map(|item| variable(Fields::of(form, item)))
            .collect(),
        more_environment: more_variables || fields.node("environmentFiles").is_some(),
        secrets: secrets
            .into_iter()
            .filter_map(|item| Fields::of(form, item).name("name"))
            .collect(),
        ports: ports(&fields),
        speaks_http2: fields.items("portMappings").0.into_iter().any(|mapping| {
            let protocol = Fields::of(form, mapping).text("appProtocol");
            protocol
                .known()
                .is_some_and(|word| matches!(word.as_ref(), "http2" | "grpc"))
        }),
        log: fields.object("logConfiguration").map(log),
        // The AWS CLI's skeleton has an empty one.
        firelens: fields.node("firelensConfiguration").filter(|node| {
            Fields::of(form, node)
                .text("type")
                .known()
                .is_none_or(|kind| !kind.is_empty())
        }),
        health_check: match fields.object("healthCheck") {
            None => Value::Absent,
            Some(check) if is_expression(form, check.node) => Value::Unknown(check.node),
            Some(check) => match check.words("command") {
                Value::Absent => Value::Unknown(check.node),
                command => command,
            },
        },
        init: match (unknown_linux, linux) {
            (Some(node), _) => Value::Unknown(node),
            (None, Some(linux)) => linux.flag("initProcessEnabled"),
            (None, None) => Value::Absent,
        },
        capabilities: linux
            .and_then(|linux| linux.object("capabilities"))
            .map(|capabilities| self::capabilities(&capabilities.words("add"), &capabilities.words("drop")))
            .unwrap_or_default(),
        user: fields.text("user"),
        read_only: fields.flag("readonlyRootFilesystem"),
        memory_mib: fields.whole("memory"),
        labels,
        more_labels,
        restarts: restarts(&fields),
    }
}

fn dependency(fields: Fields<'_>) -> Option<Dependency<'_>> {
    Some(Dependency {
        on: fields.name("containerName")?,
        condition: fields.text("condition"),
    })
}

/// The agent adds a dependency for each link and each `volumesFrom` (agent, agent/api/task/task.go,
/// initializeContainerOrdering).
fn implied<'a>(fields: &Fields<'a>) -> impl Iterator<Item = Dependency<'a>> {
    let (links, _) = fields.items("links");
    let (volumes, _) = fields.items("volumesFrom");
    let form = fields.form;
    let linked = links
        .into_iter()
        .filter(|item| item.text() != Some(""))
        .map(move |item| {
            let mut name = name(form, item);
            if let (true, Some((own, _alias))) = (name.literal, name.text.split_once(':')) {
                name.text = Text::Owned(own.to_owned());
            }
            name
        });
    let sources = volumes
        .into_iter()
        .filter_map(move |item| Fields::of(form, item).name("sourceContainer"));
    linked.chain(sources).map(|on| Dependency {
        on,
        condition: Value::Absent,
    })
}

fn process<'a>(fields: &Fields<'a>, name: &str) -> Value<'a, Vec<Text<'a>>> {
    // An empty list is as if it were not there.
    let given = fields
        .node(name)
        .filter(|node| !matches!(&node.kind, NodeKind::List(items) if items.is_empty()));
    given.map_or(Value::Absent, |node| process_words(fields.form, node))
}

fn variable(fields: Fields<'_>) -> Option<Variable<'_>> {
    let name = fields.name("name").filter(|name| name.literal)?;
    let value = fields.text("value");
    let node = value.node().unwrap_or(name.node);
    Some(Variable {
        name: name.text,
        value,
        node,
    })
}

fn ports<'a>(fields: &Fields<'a>) -> Value<'a, Vec<u16>> {
    let Some(node) = fields.node("portMappings") else {
        return Value::Absent;
    };
    let (mappings, more) = fields.items("portMappings");
    let mut ports = Vec::new();
    for mapping in &mappings {
        let mapping = Fields::of(fields.form, mapping);
        // No drain call goes there.
        if mapping
            .text("protocol")
            .known()
            .is_some_and(|protocol| protocol == "udp")
        {
            continue;
        }
        match mapping.whole("containerPort") {
            Value::Known(port, _) => ports.extend(u16::try_from(port)),
            // A range: whether a port is in it is not told apart.
            Value::Absent | Value::Unknown(_) => return Value::Unknown(node),
        }
    }
    if more {
        Value::Unknown(node)
    } else {
        Value::Known(ports, node)
    }
}

fn log(fields: Fields<'_>) -> Log<'_> {
    Log {
        node: fields.node,
        driver: fields.text("logDriver"),
        // The options have names of their own, which templates do not capitalise.
        mode: match fields
            .node("options")
            .map(|options| (options, options.get("mode")))
        {
            None | Some((_, None)) => Value::Absent,
            Some((_, Some(mode))) => text(fields.form, mode),
        },
    }
}

pub(super) fn capabilities<'a>(
    add: &Value<'a, Vec<Text<'a>>>,
    drop: &Value<'a, Vec<Text<'a>>>,
) -> Capabilities<'a> {
    Capabilities {
        add: add.known().cloned().unwrap_or_default(),
        drop: drop.known().cloned().unwrap_or_default(),
        unknown: matches!(add, Value::Unknown(_)) || matches!(drop, Value::Unknown(_)),
    }
}

type Labels<'a> = BTreeMap<Text<'a>, (Text<'a>, &'a Node<'a>)>;

pub(super) fn labels<'a>(form: DocumentForm, node: Option<&'a Node<'a>>) -> (Labels<'a>, bool) {
    let Some(node) = node else {
        return (Labels::new(), false);
    };
    let mut labels = Labels::new();
    let mut more = is_expression(form, node);
    for entry in node.entries() {
        match text(form, &entry.value) {
            Value::Known(text, value) => {
                labels.insert(Text::Borrowed(&entry.key), (text, value));
            }
            _ => more = true,
        }
    }
    (labels, more)
}

fn restarts<'a>(fields: &Fields<'a>) -> Value<'a, Vec<i64>> {
    let Some(policy) = fields.object("restartPolicy") else {
        return Value::Absent;
    };
    match policy.flag("enabled") {
        Value::Known(true, _) => {}
        Value::Known(false, _) | Value::Absent => return Value::Absent,
        Value::Unknown(node) => return Value::Unknown(node),
    }
    match policy.words("ignoredExitCodes") {
        Value::Absent => Value::Known(Vec::new(), policy.node),
        Value::Unknown(node) => Value::Unknown(node),
        Value::Known(codes, node) => match codes.iter().map(|code| code.parse().ok()).collect() {
            Some(codes) => Value::Known(codes, node),
            None => Value::Unknown(node),
        },
    }
}
