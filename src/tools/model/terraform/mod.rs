//! Finds the task definitions in Terraform: the resource, the modules that many use in its place, and
//! what `terraform show -json` prints of a plan or a state.
//!
//! The names are Terraform's (`stop_timeout`), those of the API stand in lists of containers, and modules
//! have some of their own. Who runs a task, and through which target groups, is told by references.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::tools::document::{ELSEWHERE, Member, Node, NodeKind, Span};

use super::fields::is_expression;
use super::template::{
    Around, Instances, Offer, Scheduled, TargetGroup, instances, longest_ttl, managed, mixed_with_spot,
    service, short_hop, started_on_spot, target_group, with_instances,
};
use super::{DocumentForm, MAX_CONTAINERS, NAMELESS, Name, TaskDefinition, ecs};

mod modules;
mod printed;

use modules::{
    defaults_of_module, is_container_module, is_of_terraform_aws_modules, of_module, variables_by_name,
};
use printed::of_printed;

const FORM: DocumentForm = DocumentForm::Terraform;

/// What a file of `.tf.json` may hold (Terraform documentation, *JSON Configuration Syntax*).
const BLOCKS: [&str; 13] = [
    "//",
    "check",
    "data",
    "ephemeral",
    "import",
    "locals",
    "module",
    "moved",
    "output",
    "provider",
    "resource",
    "terraform",
    "variable",
];

/// Names that differ by more than the case from those of the API: in the resources, in cloudposse's
/// modules, in those of terraform-aws-modules.
const NAMES: [(&str, &[&str]); 19] = [
    ("TTL", &["ttl"]),
    (
        "capacityProviderStrategy",
        &["capacity_provider_strategy", "capacity_provider_strategies"],
    ),
    ("command", &["command"]),
    ("cpu", &["container_cpu", "cpu"]),
    (
        "dependsOn",
        &["dependsOn", "container_depends_on", "dependencies"],
    ),
    ("ecsParameters", &["ecs_parameters", "ecs_target"]),
    ("entryPoint", &["entryPoint", "entrypoint", "entry_point"]),
    ("environmentFiles", &["environmentFiles", "environment_files"]),
    ("healthCheck", &["healthCheck", "health_check", "healthcheck"]),
    ("image", &["container_image", "image"]),
    ("loadBalancers", &["load_balancer", "ecs_load_balancers"]),
    ("memory", &["container_memory", "task_memory", "memory"]),
    (
        "memoryReservation",
        &[
            "container_memory_reservation",
            "memory_reservation",
            "memoryReservation",
        ],
    ),
    ("name", &["container_name", "name"]),
    ("services", &["service", "services"]),
    ("taskRoleArn", &["task_role_arn", "tasks_iam_role_arn"]),
    ("minimumHealthyPercent", &["deployment_minimum_healthy_percent"]),
    (
        "readonlyRootFilesystem",
        &["readonlyRootFilesystem", "readonly_root_filesystem"],
    ),
    ("volumesFrom", &["volumesFrom", "volumes_from"]),
];

/// A field under one of its names.
pub(super) fn get<'t, 'a>(node: &'t Node<'a>, name: &str) -> Option<&'t Node<'a>> {
    match NAMES.iter().find(|(known, _)| *known == name) {
        Some((_, names)) => names.iter().find_map(|name| node.get(name)),
        None => node.get(name).or_else(|| node.get(&in_snake_case(name))),
    }
}

/// `stopTimeout` is `stop_timeout`.
pub fn in_snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// A nested block that stands once, or the values of a module's map of such blocks.
pub(super) fn blocks<'a>(form: DocumentForm, node: &'a Node<'a>) -> Option<Vec<&'a Node<'a>>> {
    if form != FORM || node.tag.is_some() {
        return None;
    }
    let NodeKind::Map(entries) = &node.kind else {
        return None;
    };
    let named = |entry: &Member<'_>| matches!(entry.value.kind, NodeKind::Map(_));
    Some(if entries.iter().all(named) {
        entries.iter().map(|entry| &entry.value).collect()
    } else {
        vec![node]
    })
}

/// In JSON a block is a list of one.
pub(super) fn only_block<'a>(form: DocumentForm, node: &'a Node<'a>) -> &'a Node<'a> {
    match node.items() {
        [only] if form == FORM => only,
        _ => node,
    }
}

/// The name of the first resource of a kind that an expression refers to.
pub(super) fn referred<'a>(node: &'a Node<'a>, kind: &str) -> Option<&'a str> {
    references(node, kind).next()
}

fn references<'a>(node: &'a Node<'a>, kind: &str) -> impl Iterator<Item = &'a str> {
    let text = node.text().unwrap_or("");
    text.match_indices(kind).filter_map(move |(at, found)| {
        let rest = text.get(at + found.len()..)?.strip_prefix('.')?;
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_' && c != '-')
            .unwrap_or(rest.len());
        rest.get(..end).filter(|name| !name.is_empty())
    })
}

/// Every task definition; `None` where the document is not Terraform's.
pub(super) fn tasks<'a>(root: &'a Node<'a>) -> Option<Vec<TaskDefinition<'a>>> {
    if root.get("format_version").is_some() {
        let printed = ["planned_values", "values"]
            .iter()
            .find_map(|part| root.get(part)?.get("root_module"))?;
        let configuration = root
            .get("configuration")
            .and_then(|configuration| configuration.get("root_module"));
        let mut all = Vec::new();
        of_printed(printed, configuration, &mut all);
        return Some(all);
    }
    let ours = |entry: &Member<'_>| BLOCKS.contains(&entry.key.as_ref());
    let has = |part: &str| {
        root.get(part)
            .is_some_and(|part| matches!(part.kind, NodeKind::Map(_)))
    };
    if !root.entries().iter().all(ours) || !(has("resource") || has("module")) {
        return None;
    }
    Some(of_configuration(root))
}

/// A resource or a module.
struct Part<'a> {
    name: &'a str,
    at: Span,
    body: &'a Node<'a>,
}

fn parts<'a>(root: &'a Node<'a>, path: &[&str]) -> Vec<Part<'a>> {
    let folder = path.iter().try_fold(root, |node, key| node.get(key));
    let entries = folder.map_or(&[][..], Node::entries);
    entries
        .iter()
        .map(|entry| Part {
            name: &entry.key,
            at: entry.key_span,
            body: only_block(FORM, &entry.value),
        })
        .collect()
}

fn of_configuration<'a>(root: &'a Node<'a>) -> Vec<TaskDefinition<'a>> {
    let modules = parts(root, &["module"]);
    let groups: BTreeMap<&str, TargetGroup<'a>> = ["aws_lb_target_group", "aws_alb_target_group"]
        .iter()
        .flat_map(|kind| parts(root, &["resource", kind]))
        .map(|part| (part.name, target_group(FORM, part.name, part.at, part.body)))
        .collect();
    let find = |arn: &'a Node<'a>| {
        let name = referred(arn, "aws_lb_target_group").or_else(|| referred(arn, "aws_alb_target_group"))?;
        groups.get(name).cloned()
    };
    let ttls: BTreeMap<&str, (u64, &'a Node<'a>)> = parts(root, &["resource", CLOUD_MAP])
        .into_iter()
        .filter_map(|part| Some((part.name, longest_ttl(FORM, part.body)?)))
        .collect();
    let find_ttl = |arn: &'a Node<'a>| ttls.get(referred(arn, CLOUD_MAP)?).copied();
    let providers: BTreeMap<&str, Offer> = parts(root, &["resource", PROVIDER])
        .into_iter()
        .filter_map(|part| Some((part.name, managed(FORM, part.body)?)))
        .collect();
    let find_provider = |name: &'a Node<'a>| providers.get(referred(name, PROVIDER)?).copied();
    let clusters: Vec<(&str, &'a Node<'a>)> =
        parts(root, &["resource", "aws_ecs_cluster_capacity_providers"])
            .into_iter()
            .filter_map(|part| Some((referred(part.body.get("cluster_name")?, CLUSTER)?, part.body)))
            .collect();
    let find_cluster = |id: &'a Node<'a>| {
        let name = referred(id, CLUSTER)?;
        let found = clusters.iter().find(|(known, _)| *known == name);
        found.map(|(_, body)| *body)
    };
    let around = Around {
        cluster: &find_cluster,
        group: &find,
        ttl: &find_ttl,
        provider: &find_provider,
    };
    let short_hops: Vec<&'a Node<'a>> = parts(root, &["resource", "aws_launch_template"])
        .into_iter()
        .filter(|part| part.body.tag.as_deref() != Some(ELSEWHERE))
        .filter_map(|part| short_hop(FORM, part.body))
        .collect();
    let starters: Vec<Part<'a>> = STARTERS
        .iter()
        .flat_map(|kind| parts(root, &["resource", kind]))
        .collect();
    let instances = all_instances(root);
    let stop_timeout_s = instances.iter().find_map(|(_, found)| found.stop_timeout_s);
    let runners = parts(root, &["resource", "aws_ecs_service"]);
    let mut all = Vec::new();
    // Those of other files are found where they stand.
    let here = |part: &Part<'_>| part.body.tag.as_deref() != Some(ELSEWHERE);
    for part in parts(root, &["resource", "aws_ecs_task_definition"])
        .into_iter()
        .filter(here)
    {
        let Some(list) = part.body.get("container_definitions") else {
            continue;
        };
        let mut task = task(&part, part.body, list, &modules);
        task.services = runners
            .iter()
            .filter(|runner| {
                let definition = runner.body.get("task_definition");
                definition.is_some_and(|definition| {
                    references(definition, "aws_ecs_task_definition").any(|name| name == part.name)
                })
            })
            .map(|runner| service(FORM, runner.name, runner.at, runner.body, around))
            .collect();
        task.scheduled_on_spot = starters
            .iter()
            .flat_map(|starter| {
                let started = started_on_spot(FORM, starter.body).into_iter();
                started.map(move |(definition, node)| (definition, (starter.name, node)))
            })
            .filter(|(definition, _)| {
                references(definition, "aws_ecs_task_definition").any(|name| name == part.name)
            })
            .map(|(_, scheduled): (_, Scheduled<'a>)| scheduled)
            .collect();
        all.push(task);
    }
    for part in modules.iter().filter(|part| here(part)) {
        all.extend(of_module(part, &modules, around));
    }
    for task in &mut all {
        task.agent_stop_timeout_s = stop_timeout_s;
        task.short_hops = short_hops.clone();
    }
    // Those of other files are told where they stand.
    let own = instances.into_iter().filter(|(here, _)| *here);
    with_instances(FORM, &mut all, own.map(|(_, instances)| instances).collect());
    all
}

/// The modules that a file calls, each as `name` from where.
pub(super) fn calls(root: &Node<'_>) -> Vec<String> {
    parts(root, &["module"])
        .into_iter()
        .filter(|part| part.body.tag.as_deref() != Some(ELSEWHERE))
        .map(|part| {
            let source = part.body.get("source").and_then(Node::text);
            format!("`{}` from {}", part.name, source.unwrap_or("elsewhere"))
        })
        .collect()
}

const CLOUD_MAP: &str = "aws_service_discovery_service";

const CLUSTER: &str = "aws_ecs_cluster";

const PROVIDER: &str = "aws_ecs_capacity_provider";

/// What starts tasks by the clock or by an event.
const STARTERS: [&str; 2] = ["aws_cloudwatch_event_target", "aws_scheduler_schedule"];

/// What starts instances, and whether it stands in this file.
fn all_instances<'a>(root: &'a Node<'a>) -> Vec<(bool, Instances<'a>)> {
    let mixed: Vec<&str> = parts(root, &["resource", "aws_autoscaling_group"])
        .into_iter()
        .filter_map(|part| referred(mixed_with_spot(FORM, part.body)?, "aws_launch_template"))
        .collect();
    ["aws_launch_template", "aws_launch_configuration"]
        .iter()
        .flat_map(|kind| parts(root, &["resource", kind]))
        .map(|part| {
            let mixed = mixed.contains(&part.name);
            let found = instances(FORM, part.name, part.at, part.body, part.body, mixed);
            (part.body.tag.as_deref() != Some(ELSEWHERE), found)
        })
        .collect()
}

/// `body` holds the fields, `list` the containers: a list of them, a module's map, or the output of a
/// module of containers.
fn task<'a>(
    part: &Part<'a>,
    body: &'a Node<'a>,
    list: &'a Node<'a>,
    modules: &[Part<'a>],
) -> TaskDefinition<'a> {
    let mut task = ecs::task(FORM, part.name.to_owned(), part.at, body, list);
    let module = |node: &'a Node<'a>| {
        let name = referred(node, "module").filter(|_| is_expression(FORM, node))?;
        modules
            .iter()
            .find(|part| part.name == name)
            .filter(|part| is_container_module(part))
    };
    let candidates: Vec<(&'a Node<'a>, Option<&'a Member<'a>>)> = match &list.kind {
        NodeKind::List(items) => items.iter().map(|item| (item, None)).collect(),
        NodeKind::Map(entries) if list.tag.is_none() => {
            entries.iter().map(|entry| (&entry.value, Some(entry))).collect()
        }
        _ => vec![(list, None)],
    };
    task.more_containers = candidates.len() > MAX_CONTAINERS;
    task.containers.clear();
    for (node, entry) in candidates.into_iter().take(MAX_CONTAINERS) {
        let of_module = module(node);
        let body = of_module.map_or(node, |part| part.body);
        if of_module.is_none() && !matches!((&node.kind, &node.tag), (NodeKind::Map(_), None)) {
            task.more_containers = true;
            continue;
        }
        let mut container = ecs::container(FORM, body);
        let key = entry.filter(|_| container.name.text == NAMELESS);
        if let Some(entry) = key {
            container.name = Name {
                text: Cow::Borrowed(&entry.key),
                literal: true,
                node: &entry.value,
            };
        }
        variables_by_name(&mut container, body);
        let source = of_module
            .and_then(|part| part.body.get("source"))
            .and_then(Node::text);
        if entry.is_some() || source.is_some_and(is_of_terraform_aws_modules) {
            defaults_of_module(&mut container, body);
        }
        task.containers.push(container);
    }
    task
}
