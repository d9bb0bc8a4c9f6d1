//! What stands around a task definition in a CloudFormation template: services, target groups,
//! instances. Terraform has the same under other names.

use std::collections::BTreeMap;

use crate::tools::document::{Node, Span};

use super::ecs;
use super::fields::{Fields, is_expression, reference, text};
use super::{Form, Task, Text, Value};

const FORM: Form = Form::CloudFormation;

/// An `AWS::ECS::Service` that runs the task.
#[derive(Clone, Debug)]
pub struct Service<'a> {
    /// Its logical ID.
    pub name: &'a str,
    /// Where its logical ID stands.
    pub at: Span,
    /// Its properties.
    pub node: &'a Node<'a>,
    /// Where it says that it runs on Fargate Spot.
    pub spot: Option<&'a Node<'a>>,
    /// Whether it says that it runs on Fargate.
    pub on_fargate: bool,
    /// Whether it says that all its capacity is on demand.
    pub on_demand: bool,
    /// `DesiredCount`
    pub desired: Value<'a, u64>,
    /// Whether others call it: by a load balancer, by service discovery or Service Connect.
    pub is_called: bool,
    /// Whether each instance runs one task.
    pub is_daemon: bool,
    /// `DeploymentConfiguration.MinimumHealthyPercent`
    pub minimum_healthy_percent: Value<'a, u64>,
    /// The target groups of the same template that it registers with.
    pub target_groups: Vec<TargetGroup<'a>>,
}

/// An `AWS::ElasticLoadBalancingV2::TargetGroup`.
#[derive(Clone, Debug)]
pub struct TargetGroup<'a> {
    /// Its logical ID.
    pub name: &'a str,
    /// Where its logical ID stands.
    pub at: Span,
    /// Its properties.
    pub node: &'a Node<'a>,
    /// `deregistration_delay.timeout_seconds`
    pub deregistration_delay_s: Value<'a, u64>,
    /// `HealthCheckPath`
    pub health_path: Value<'a, Text<'a>>,
    /// `HealthCheckPort`; without one, the port of the traffic.
    pub health_port: Value<'a, Text<'a>>,
}

/// Every task definition of a template.
pub(super) fn tasks<'a>(resources: &'a Node<'a>) -> Vec<Task<'a>> {
    let of = |kind: &'static str| {
        resources
            .entries()
            .iter()
            .filter(move |entry| entry.value.get("Type").and_then(Node::text) == Some(kind))
            .filter_map(|entry| Some((entry, entry.value.get("Properties")?)))
    };
    let groups: BTreeMap<&str, TargetGroup<'a>> = of("AWS::ElasticLoadBalancingV2::TargetGroup")
        .map(|(entry, properties)| {
            (
                entry.key.as_ref(),
                target_group(FORM, &entry.key, entry.key_span, properties),
            )
        })
        .collect();
    let find = |arn: &'a Node<'a>| groups.get(reference(arn)?).cloned();
    let mut services: BTreeMap<&str, Vec<Service<'a>>> = BTreeMap::new();
    for (entry, properties) in of("AWS::ECS::Service").chain(of("AWS::ECS::TaskSet")) {
        if let Some(task) = properties.get("TaskDefinition").and_then(reference) {
            services.entry(task).or_default().push(service(
                FORM,
                &entry.key,
                entry.key_span,
                properties,
                find,
            ));
        }
    }
    let short_hops: Vec<_> = of("AWS::EC2::LaunchTemplate")
        .filter_map(|(_, properties)| short_hop(properties))
        .collect();
    of("AWS::ECS::TaskDefinition")
        .filter_map(|(entry, properties)| {
            let list = properties.get("ContainerDefinitions")?;
            let mut task = ecs::task(FORM, entry.key.to_string(), entry.key_span, properties, list);
            task.services = services.remove(entry.key.as_ref()).unwrap_or_default();
            task.short_hops = short_hops.clone();
            Some(task)
        })
        .collect()
}

pub(super) fn service<'a>(
    form: Form,
    name: &'a str,
    at: Span,
    node: &'a Node<'a>,
    group: impl Fn(&'a Node<'a>) -> Option<TargetGroup<'a>>,
) -> Service<'a> {
    let fields = Fields::of(form, node);
    let (strategy, more_strategy) = fields.items("capacityProviderStrategy");
    let providers: Vec<_> = strategy
        .iter()
        .map(|item| {
            (
                Fields::of(form, item).text("capacityProvider"),
                weight(form, item),
            )
        })
        .filter(|(_, weight)| *weight)
        .map(|(provider, _)| provider)
        .collect();
    let named = |word: &str| {
        providers
            .iter()
            .find(|provider| provider.known().is_some_and(|known| known == word))
    };
    let launch_type = fields.text("launchType");
    let on_fargate_by_type = launch_type.known().is_some_and(|word| word == "FARGATE");
    let (balancers, _) = fields.items("loadBalancers");
    Service {
        name,
        at,
        node,
        spot: named("FARGATE_SPOT").and_then(Value::node),
        on_fargate: on_fargate_by_type || named("FARGATE").is_some() || named("FARGATE_SPOT").is_some(),
        on_demand: on_fargate_by_type
            || (!more_strategy
                && !providers.is_empty()
                && providers
                    .iter()
                    .all(|provider| provider.known().is_some_and(|word| word == "FARGATE"))),
        desired: fields.whole("desiredCount"),
        is_called: [
            "loadBalancers",
            "serviceRegistries",
            "serviceConnectConfiguration",
        ]
        .iter()
        .any(|field| fields.node(field).is_some()),
        is_daemon: fields
            .text("schedulingStrategy")
            .known()
            .is_some_and(|word| word == "DAEMON"),
        minimum_healthy_percent: fields
            .object("deploymentConfiguration")
            .filter(|_| form != Form::Terraform)
            .map_or(fields.whole("minimumHealthyPercent"), |deployment| {
                if is_expression(form, deployment.node) {
                    Value::Unknown(deployment.node)
                } else {
                    deployment.whole("minimumHealthyPercent")
                }
            }),
        target_groups: balancers
            .iter()
            .filter_map(|balancer| Fields::of(form, balancer).node("targetGroupArn"))
            .filter_map(group)
            .collect(),
    }
}

/// A provider without weight and base gets no task.
fn weight(form: Form, item: &Node<'_>) -> bool {
    let fields = Fields::of(form, item);
    let nothing = |name: &str| fields.whole(name).or_default(0) == Some(0);
    let said = fields.node("weight").is_some() || fields.node("base").is_some();
    !(said && nothing("weight") && nothing("base"))
}

pub(super) fn target_group<'a>(form: Form, name: &'a str, at: Span, node: &'a Node<'a>) -> TargetGroup<'a> {
    let fields = Fields::of(form, node);
    let health = fields.object("healthCheck").filter(|_| form == Form::Terraform);
    let (attributes, more) = fields.items("targetGroupAttributes");
    let delay = attributes.iter().find(|attribute| {
        attribute.get("Key").and_then(Node::text) == Some("deregistration_delay.timeout_seconds")
    });
    TargetGroup {
        name,
        at,
        node,
        deregistration_delay_s: match delay.and_then(|attribute| attribute.get("Value")) {
            Some(value) => text(form, value).and_then(|word| word.parse().ok()),
            None if form == Form::Terraform => fields.whole("deregistrationDelay"),
            None if more => Value::Unknown(node),
            None => Value::Absent,
        },
        health_path: health.map_or_else(|| fields.text("healthCheckPath"), |check| check.text("path")),
        health_port: health.map_or_else(|| fields.text("healthCheckPort"), |check| check.text("port")),
    }
}

fn short_hop<'a>(properties: &'a Node<'a>) -> Option<&'a Node<'a>> {
    let data = Fields::of(FORM, properties.get("LaunchTemplateData")?);
    let limit = data.object("metadataOptions")?.whole("httpPutResponseHopLimit");
    limit.known().filter(|hops| **hops < 2)?;
    limit.node()
}
