//! What stands around a task definition in a CloudFormation template: services, target groups,
//! instances.

use std::collections::BTreeMap;

use crate::tools::document::{Entry, Node, Span};

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
    /// `HealthCheckIntervalSeconds`
    pub health_interval_s: Value<'a, u64>,
    /// `UnhealthyThresholdCount`
    pub unhealthy_threshold: Value<'a, u64>,
    /// `Protocol`
    pub protocol: Value<'a, Text<'a>>,
    /// `ProtocolVersion`
    pub protocol_version: Value<'a, Text<'a>>,
}

impl TargetGroup<'_> {
    /// How long a failing health check takes to be noticed, in seconds; `None` where that is not told.
    /// An interval is 30 s and a threshold 2 unless said otherwise (Elastic Load Balancing API reference,
    /// CreateTargetGroup).
    pub fn unhealthy_after_s(&self) -> Option<u64> {
        let interval = self.health_interval_s.or_default(30)?;
        Some(interval.saturating_mul(self.unhealthy_threshold.or_default(2)?))
    }

    /// Whether its clients speak HTTP/2 or gRPC to the app.
    pub fn speaks_http2(&self) -> bool {
        let version = self.protocol_version.known();
        version.is_some_and(|version| matches!(version.as_ref(), "HTTP2" | "GRPC"))
    }

    /// Whether it belongs to a Network Load Balancer.
    pub fn is_network(&self) -> bool {
        let protocol = self.protocol.known();
        protocol.is_some_and(|protocol| matches!(protocol.as_ref(), "TCP" | "TLS" | "UDP" | "TCP_UDP"))
    }
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
        .map(|(entry, properties)| (entry.key.as_ref(), target_group(entry, properties)))
        .collect();
    let mut services: BTreeMap<&str, Vec<Service<'a>>> = BTreeMap::new();
    for (entry, properties) in of("AWS::ECS::Service").chain(of("AWS::ECS::TaskSet")) {
        if let Some(task) = properties.get("TaskDefinition").and_then(reference) {
            services
                .entry(task)
                .or_default()
                .push(service(entry, properties, &groups));
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

fn service<'a>(
    entry: &'a Entry<'a>,
    node: &'a Node<'a>,
    groups: &BTreeMap<&str, TargetGroup<'a>>,
) -> Service<'a> {
    let fields = Fields::of(FORM, node);
    let (strategy, more_strategy) = fields.items("capacityProviderStrategy");
    let providers: Vec<_> = strategy
        .iter()
        .map(|item| (Fields::of(FORM, item).text("capacityProvider"), weight(item)))
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
    let (balancers, _) = fields.possible_items("loadBalancers");
    Service {
        name: &entry.key,
        at: entry.key_span,
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
        minimum_healthy_percent: fields.object("deploymentConfiguration").map_or(
            Value::Absent,
            |deployment| {
                if is_expression(FORM, deployment.node) {
                    Value::Unknown(deployment.node)
                } else {
                    deployment.whole("minimumHealthyPercent")
                }
            },
        ),
        target_groups: balancers
            .iter()
            .filter_map(|balancer| balancer.get("TargetGroupArn"))
            .filter_map(reference)
            .filter_map(|id| groups.get(id))
            .cloned()
            .collect(),
    }
}

/// A provider without weight and base gets no task.
fn weight(item: &Node<'_>) -> bool {
    let fields = Fields::of(FORM, item);
    let nothing = |name: &str| fields.whole(name).or_default(0) == Some(0);
    let said = item.get("Weight").is_some() || item.get("Base").is_some();
    !(said && nothing("weight") && nothing("base"))
}

fn target_group<'a>(entry: &'a Entry<'a>, node: &'a Node<'a>) -> TargetGroup<'a> {
    let fields = Fields::of(FORM, node);
    let (attributes, more) = fields.items("targetGroupAttributes");
    let delay = attributes.iter().find(|attribute| {
        attribute.get("Key").and_then(Node::text) == Some("deregistration_delay.timeout_seconds")
    });
    TargetGroup {
        name: &entry.key,
        at: entry.key_span,
        node,
        deregistration_delay_s: match delay.and_then(|attribute| attribute.get("Value")) {
            Some(value) => text(FORM, value).and_then(|word| word.parse().ok()),
            None if more => Value::Unknown(node),
            None => Value::Absent,
        },
        health_path: fields.text("healthCheckPath"),
        health_port: fields.text("healthCheckPort"),
        health_interval_s: fields.whole("healthCheckIntervalSeconds"),
        unhealthy_threshold: fields.whole("unhealthyThresholdCount"),
        protocol: fields.text("protocol"),
        protocol_version: fields.text("protocolVersion"),
    }
}

fn short_hop<'a>(properties: &'a Node<'a>) -> Option<&'a Node<'a>> {
    let data = Fields::of(FORM, properties.get("LaunchTemplateData")?);
    let limit = data.object("metadataOptions")?.whole("httpPutResponseHopLimit");
    limit.known().filter(|hops| **hops < 2)?;
    limit.node()
}
