//! The modules that many use in place of the resources: those of terraform-aws-modules and of cloudposse.

use std::borrow::Cow;

use crate::tools::document::Node;
use crate::tools::model::fields::{Fields, is_expression, text};
use crate::tools::model::template::{Around, service};
use crate::tools::model::{ContainerDefinition, TaskDefinition, Value, Variable};

use super::{FORM, Part, task};

/// A module that makes a task definition and its service.
pub(super) fn of_module<'a>(
    part: &Part<'a>,
    modules: &[Part<'a>],
    around: Around<'_, 'a>,
) -> Vec<TaskDefinition<'a>> {
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

pub(super) fn is_of_terraform_aws_modules(source: &str) -> bool {
    source.contains("terraform-aws-modules/ecs/aws")
        || source.contains("terraform-aws-modules/terraform-aws-ecs")
}

pub(super) fn is_container_module(part: &Part<'_>) -> bool {
    let source = part.body.get("source").and_then(Node::text).unwrap_or("");
    (source.contains("cloudposse/") && source.contains("ecs-container-definition"))
        || (is_of_terraform_aws_modules(source) && source.contains("//modules/container-definition"))
}

/// cloudposse's `map_environment`.
pub(super) fn variables_by_name<'a>(container: &mut ContainerDefinition<'a>, body: &'a Node<'a>) {
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
pub(super) fn defaults_of_module<'a>(container: &mut ContainerDefinition<'a>, body: &'a Node<'a>) {
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
