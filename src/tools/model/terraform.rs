//! Finds the task definitions in Terraform: the resource, the modules that many use in its place, and
//! what `terraform show -json` prints of a plan or a state.
//!
//! The names are Terraform's (`stop_timeout`), those of the API stand in lists of containers, and modules
//! have some of their own. Who runs a task, and through which target groups, is told by references.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::tools::document::{ELSEWHERE, Member, Node, NodeKind, Span};

use super::fields::{Fields, is_expression, text};
use super::template::{
    Around, Instances, Offer, Scheduled, TargetGroup, instances, longest_ttl, managed, mixed_with_spot,
    service, short_hop, started_on_spot, target_group, with_instances,
};
use super::{DocumentForm, MAX_CONTAINERS, NAMELESS, Name, TaskDefinition, Value, Variable, ecs};

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
    let around = Around {
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

/// A service of Cloud Map.
const CLOUD_MAP: &str = "aws_service_discovery_service";

/// A capacity provider.
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

/// A module that makes a task definition and its service.
fn of_module<'a>(part: &Part<'a>, modules: &[Part<'a>], around: Around<'_, 'a>) -> Vec<TaskDefinition<'a>> {
    let source = part.body.get("source").and_then(Node::text).unwrap_or("");
    let made = |part: &Part<'a>, list: &'a Node<'a>| {
        let mut task = task(part, part.body, list, modules);
        let mut runner = service(FORM, part.name, part.at, part.body, around);
        let fields = Fields::of(FORM, part.body);
        // What both modules take where nothing is said: Fargate with awsvpc, and a task role of their own.
        if fields.node("launchType").is_none() && fields.node("capacityProviderStrategy").is_none() {
            runner.on_fargate = true;
            runner.on_demand = true;
        }
        if task.compatibilities.is_absent() {
            task.compatibilities = match fields.text("launchType") {
                Value::Absent => Value::Known(vec![Cow::Borrowed("FARGATE")], part.body),
                Value::Known(word, node) => Value::Known(vec![word], node),
                Value::Unknown(node) => Value::Unknown(node),
            };
        }
        if task.network_mode.is_absent() {
            task.network_mode = Value::Known(Cow::Borrowed("awsvpc"), part.body);
        }
        if task.task_role.is_absent() {
            task.task_role = Value::Known((), part.body);
        }
        // Both give the task a size.
        if task.memory_mib.is_absent() {
            task.memory_mib = Value::Unknown(part.body);
        }
        task.services = vec![runner];
        task
    };
    if source.contains("cloudposse/") && source.contains("ecs-alb-service-task") {
        let list = part.body.get("container_definition_json");
        return list.map(|list| made(part, list)).into_iter().collect();
    }
    if !is_of_terraform_aws_modules(source) {
        return Vec::new();
    }
    if source.contains("//modules/service") {
        let list = part.body.get("container_definitions");
        return list.map(|list| made(part, list)).into_iter().collect();
    }
    let services = part.body.get("services").map_or(&[][..], Node::entries);
    services
        .iter()
        .filter_map(|entry| {
            let part = Part {
                name: &entry.key,
                at: entry.key_span,
                body: &entry.value,
            };
            Some(made(&part, entry.value.get("container_definitions")?))
        })
        .collect()
}

fn is_of_terraform_aws_modules(source: &str) -> bool {
    source.contains("terraform-aws-modules/ecs/aws")
        || source.contains("terraform-aws-modules/terraform-aws-ecs")
}

fn is_container_module(part: &Part<'_>) -> bool {
    let source = part.body.get("source").and_then(Node::text).unwrap_or("");
    (source.contains("cloudposse/") && source.contains("ecs-container-definition"))
        || (is_of_terraform_aws_modules(source) && source.contains("//modules/container-definition"))
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

/// cloudposse's `map_environment`.
fn variables_by_name<'a>(container: &mut super::ContainerDefinition<'a>, body: &'a Node<'a>) {
    let Some(map) = body.get("map_environment") else {
        return;
    };
    container.more_environment |= is_expression(FORM, map);
    for entry in map.entries() {
        container.environment.push(Variable {
            name: Cow::Borrowed(&entry.key),
            value: text(FORM, &entry.value),
            node: &entry.value,
        });
    }
}

/// terraform-aws-modules/ecs gives a container 120 s to stop, and some of the rest by its version
/// (modules/container-definition/variables.tf, `stop_timeout`).
fn defaults_of_module<'a>(container: &mut super::ContainerDefinition<'a>, body: &'a Node<'a>) {
    if container.stop_timeout_s.is_absent() {
        container.stop_timeout_s = Value::Known(120.0, body);
    }
    if container.read_only.is_absent() {
        container.read_only = Value::Unknown(body);
    }
    if container.restarts.is_absent() {
        container.restarts = Value::Unknown(body);
    }
}

/// A module of `terraform show -json`, and the part of the configuration that it was made from.
fn of_printed<'a>(
    module: &'a Node<'a>,
    configuration: Option<&'a Node<'a>>,
    all: &mut Vec<TaskDefinition<'a>>,
) {
    /// More than anybody reads findings of.
    const MAX_TASKS: usize = 1_000;
    let resources = module.get("resources").map_or(&[][..], Node::items);
    let of = |kind: &'static str| {
        resources.iter().filter_map(move |resource| {
            let word = |field: &str| resource.get(field).and_then(Node::text);
            (word("type")? == kind && word("mode").unwrap_or("managed") == "managed").then_some(())?;
            let name_entry = resource.entries().iter().find(|entry| entry.key == "name")?;
            let part = Part {
                name: name_entry.value.text()?,
                at: name_entry.value.span,
                body: resource.get("values")?,
            };
            Some((word("address").unwrap_or(""), part))
        })
    };
    let expression = |kind: &str, name: &str, path: &[&str]| {
        let items = configuration
            .and_then(|module| module.get("resources"))
            .map_or(&[][..], Node::items);
        let word = |item: &'a Node<'a>, field: &str| item.get(field).and_then(Node::text);
        let resource = items
            .iter()
            .find(|item| word(item, "type") == Some(kind) && word(item, "name") == Some(name))?;
        let start = resource.get("expressions")?;
        path.iter()
            .try_fold(start, |node, key| only_block(FORM, node).get(key))?
            .get("references")
    };
    let named = |references: Option<&'a Node<'a>>, kind: &'static str| {
        let items = references.map_or(&[][..], Node::items);
        items
            .iter()
            .find_map(move |item| referred(item, kind))
            .unwrap_or("")
    };
    let groups: Vec<(&'a str, TargetGroup<'a>)> = ["aws_lb_target_group", "aws_alb_target_group"]
        .into_iter()
        .flat_map(of)
        .map(|(_, part)| (part.name, target_group(FORM, part.name, part.at, part.body)))
        .collect();
    let offers: Vec<(&'a str, Offer)> = of(PROVIDER)
        .filter_map(|(_, part)| {
            let name = part.body.get("name").and_then(Node::text)?;
            Some((name, managed(FORM, part.body)?))
        })
        .collect();
    let offer_of = |name: &'a Node<'a>| {
        let found = offers.iter().find(|(known, _)| name.text() == Some(*known));
        found.map(|(_, offer)| *offer)
    };
    for (address, part) in of("aws_ecs_task_definition") {
        if all.len() >= MAX_TASKS {
            return;
        }
        // Without it Terraform knows the containers only once it has applied something.
        let list = part.body.get("container_definitions").unwrap_or(part.body);
        let mut task = if std::ptr::eq(list, part.body) {
            let mut task = ecs::task(FORM, String::new(), part.at, part.body, list);
            task.containers.clear();
            task.more_containers = true;
            task
        } else {
            self::task(&part, part.body, list, &[])
        };
        task.name = address.to_owned();
        let own_arn = part.body.get("arn").and_then(Node::text);
        for (_, runner) in of("aws_ecs_service") {
            let arn = runner.body.get("task_definition").and_then(Node::text);
            let by_arn = arn.is_some() && arn == own_arn;
            let by_name = || {
                let references = expression("aws_ecs_service", runner.name, &["task_definition"]);
                named(references, "aws_ecs_task_definition") == part.name
            };
            if by_arn || by_name() {
                let balanced = expression(
                    "aws_ecs_service",
                    runner.name,
                    &["load_balancer", "target_group_arn"],
                );
                let group = ["aws_lb_target_group", "aws_alb_target_group"]
                    .into_iter()
                    .map(|kind| named(balanced, kind))
                    .find(|name| !name.is_empty());
                let find = |arn: &'a Node<'a>| {
                    let is_it = |(name, candidate): &&(&str, TargetGroup<'a>)| {
                        Some(*name) == group
                            || (arn.text().is_some()
                                && candidate.node.get("arn").and_then(Node::text) == arn.text())
                    };
                    groups.iter().find(is_it).map(|(_, group)| group.clone())
                };
                let discovered = expression(
                    "aws_ecs_service",
                    runner.name,
                    &["service_registries", "registry_arn"],
                );
                let registry = named(discovered, CLOUD_MAP);
                let ttl = of(CLOUD_MAP)
                    .find(|(_, part)| part.name == registry)
                    .and_then(|(_, part)| longest_ttl(FORM, part.body));
                let found_ttl = |_: &'a Node<'a>| ttl;
                let around = Around {
                    group: &find,
                    ttl: &found_ttl,
                    provider: &offer_of,
                };
                let mut found = service(FORM, runner.name, runner.at, runner.body, around);
                found.dns_ttl_s = ttl;
                if found.target_groups.is_empty() {
                    // The ARN is not in a plan of what is still to be made.
                    found.target_groups = groups
                        .iter()
                        .filter(|(name, _)| Some(*name) == group)
                        .map(|(_, group)| group.clone())
                        .collect();
                }
                task.services.push(found);
            }
        }
        all.push(task);
    }
    for child in module.get("child_modules").map_or(&[][..], Node::items) {
        let address = child.get("address").and_then(Node::text).unwrap_or("");
        let own = address.rsplit("module.").next().unwrap_or("");
        let name = own.split('[').next().unwrap_or(own);
        let call = configuration.and_then(|module| module.get("module_calls")?.get(name)?.get("module"));
        of_printed(child, call, all);
    }
}
