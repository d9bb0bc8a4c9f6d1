//! What `terraform show -json` prints of a plan or a state.

use crate::tools::document::Node;
use crate::tools::model::template::{
    Around, Offer, TargetGroup, longest_ttl, managed, service, target_group,
};
use crate::tools::model::{TaskDefinition, ecs};

use super::{CLOUD_MAP, FORM, PROVIDER, Part, only_block, referred};

/// A module of `terraform show -json`, and the part of the configuration that it was made from.
pub(super) fn of_printed<'a>(
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
            super::task(&part, part.body, list, &[])
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
                    cluster: &|_| None,
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
