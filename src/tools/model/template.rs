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
    /// Whether it says that none of it is.
    pub only_spot: bool,
    /// How long clients keep an address of its tasks, in seconds, and where Cloud Map is told so.
    pub dns_ttl_s: Option<(u64, &'a Node<'a>)>,
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

/// What starts instances of a cluster: a launch template or a launch configuration.
#[derive(Clone, Debug)]
pub struct Instances<'a> {
    /// Its logical ID.
    pub name: &'a str,
    /// Where that stands.
    pub at: Span,
    /// Its properties.
    pub node: &'a Node<'a>,
    /// Whether they may be Spot Instances.
    pub spot: bool,
    /// Whether their agent drains them on a Spot notice; `None` where their user data does not tell.
    pub drains_on_spot: Option<bool>,
    /// `ECS_CONTAINER_STOP_TIMEOUT` of their agent, in seconds.
    pub stop_timeout_s: Option<f64>,
}

/// A rule or schedule that starts the task on Spot, and where it says so.
pub type Scheduled<'a> = (&'a str, &'a Node<'a>);

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
    let ttls: BTreeMap<&str, (u64, &'a Node<'a>)> = of("AWS::ServiceDiscovery::Service")
        .filter_map(|(entry, properties)| Some((entry.key.as_ref(), longest_ttl(properties)?)))
        .collect();
    let mut services: BTreeMap<&str, Vec<Service<'a>>> = BTreeMap::new();
    for (entry, properties) in of("AWS::ECS::Service").chain(of("AWS::ECS::TaskSet")) {
        if let Some(task) = properties.get("TaskDefinition").and_then(reference) {
            let mut service = service(entry, properties, &groups);
            let (registries, _) = Fields::of(FORM, properties).possible_items("serviceRegistries");
            service.dns_ttl_s = registries
                .into_iter()
                .filter_map(|registry| reference(registry.get("RegistryArn")?))
                .find_map(|id| ttls.get(id).copied());
            services.entry(task).or_default().push(service);
        }
    }
    let mut scheduled: BTreeMap<&str, Vec<Scheduled<'a>>> = BTreeMap::new();
    for (entry, properties) in of("AWS::Events::Rule").chain(of("AWS::Scheduler::Schedule")) {
        for (task, node) in started_on_spot(properties) {
            scheduled
                .entry(task)
                .or_default()
                .push((entry.key.as_ref(), node));
        }
    }
    let short_hops: Vec<_> = of("AWS::EC2::LaunchTemplate")
        .filter_map(|(_, properties)| short_hop(properties))
        .collect();
    let mixed: Vec<&str> = of("AWS::AutoScaling::AutoScalingGroup")
        .filter_map(|(_, properties)| mixed_with_spot(properties))
        .collect();
    let mut instances: Vec<Instances<'a>> = of("AWS::EC2::LaunchTemplate")
        .chain(of("AWS::AutoScaling::LaunchConfiguration"))
        .map(|(entry, properties)| self::instances(entry, properties, &mixed))
        .collect();
    let stop_timeout_s = instances.iter().find_map(|instances| instances.stop_timeout_s);
    let mut tasks: Vec<Task<'a>> = of("AWS::ECS::TaskDefinition")
        .filter_map(|(entry, properties)| {
            let list = properties.get("ContainerDefinitions")?;
            let mut task = ecs::task(FORM, entry.key.to_string(), entry.key_span, properties, list);
            task.services = services.remove(entry.key.as_ref()).unwrap_or_default();
            task.scheduled_on_spot = scheduled.remove(entry.key.as_ref()).unwrap_or_default();
            task.short_hops = short_hops.clone();
            task.agent_stop_timeout_s = stop_timeout_s;
            Some(task)
        })
        .collect();
    // Instances are said something of once, also where their tasks stand in another template.
    instances.retain(|instances| instances.drains_on_spot.is_some());
    if let (true, Some(first)) = (tasks.is_empty(), instances.first()) {
        tasks.push(ecs::task(
            FORM,
            first.name.to_owned(),
            first.at,
            first.node,
            first.node,
        ));
    }
    if let Some(first) = tasks.first_mut() {
        first.instances = instances;
    }
    tasks
}

fn longest_ttl<'a>(properties: &'a Node<'a>) -> Option<(u64, &'a Node<'a>)> {
    let config = Fields::of(FORM, properties).object("dnsConfig")?;
    let (records, _) = config.items("dnsRecords");
    let ttls = records.into_iter().filter_map(|record| {
        let ttl = record.get("TTL")?;
        Some((ttl.word()?.parse().ok()?, ttl))
    });
    ttls.max_by_key(|(seconds, _)| *seconds)
}

/// The task definitions that a rule or a schedule starts on Fargate Spot.
fn started_on_spot<'a>(properties: &'a Node<'a>) -> Vec<(&'a str, &'a Node<'a>)> {
    let targets = properties.get("Targets").map_or(&[][..], Node::items).iter();
    targets
        .chain(properties.get("Target"))
        .filter_map(|target| {
            let parameters = target.get("EcsParameters")?;
            let task = reference(parameters.get("TaskDefinitionArn")?)?;
            let strategy = parameters.get("CapacityProviderStrategy")?;
            let spot = strategy.items().iter().find_map(|item| {
                let provider = item.get("CapacityProvider").or(item.get("capacityProvider"))?;
                (provider.text() == Some("FARGATE_SPOT")).then_some(provider)
            });
            Some((task, spot?))
        })
        .collect()
}

/// The launch template of a group that has Spot Instances among others.
fn mixed_with_spot<'a>(properties: &'a Node<'a>) -> Option<&'a str> {
    let policy = properties.get("MixedInstancesPolicy")?;
    let share = policy
        .get("InstancesDistribution")?
        .get("OnDemandPercentageAboveBaseCapacity")?;
    share.word()?.parse::<u64>().ok().filter(|share| *share < 100)?;
    let template = policy.get("LaunchTemplate")?.get("LaunchTemplateSpecification")?;
    reference(template.get("LaunchTemplateId")?)
}

fn instances<'a>(entry: &'a Entry<'a>, properties: &'a Node<'a>, mixed: &[&str]) -> Instances<'a> {
    let data = properties.get("LaunchTemplateData").unwrap_or(properties);
    let market = data
        .get("InstanceMarketOptions")
        .and_then(|options| options.get("MarketType"));
    let spot = market.is_some_and(|market| market.text() == Some("spot"))
        || Fields::of(FORM, properties).node("spotPrice").is_some()
        || mixed.contains(&entry.key.as_ref());
    // User data, or files of cfn-init.
    let mut text = String::new();
    gather(&entry.value, &mut text);
    let is_of_ecs = text.contains("ECS_CLUSTER");
    Instances {
        name: &entry.key,
        at: entry.key_span,
        node: properties,
        spot,
        // `NAME=true`, or PowerShell's `SetEnvironmentVariable("NAME", "true", …)`.
        drains_on_spot: is_of_ecs.then(|| {
            text.split("ECS_ENABLE_SPOT_INSTANCE_DRAINING")
                .skip(1)
                .any(|rest| {
                    rest.trim_start_matches(['=', '"', '\'', ',', ' ', '$'])
                        .starts_with("true")
                })
        }),
        stop_timeout_s: text
            .split_once("ECS_CONTAINER_STOP_TIMEOUT=")
            .and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_alphanumeric()).next())
            .and_then(crate::config::duration)
            .map(|timeout| timeout.as_secs_f64()),
    }
}

/// All words of a value, one a line.
fn gather(node: &Node<'_>, text: &mut String) {
    text.push_str(node.word().as_deref().unwrap_or(""));
    text.push('\n');
    for item in node.items() {
        gather(item, text);
    }
    for entry in node.entries() {
        text.push_str(&entry.key);
        gather(&entry.value, text);
    }
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
        only_spot: !more_strategy
            && !providers.is_empty()
            && providers
                .iter()
                .all(|provider| provider.known().is_some_and(|word| word == "FARGATE_SPOT")),
        dns_ttl_s: None,
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
