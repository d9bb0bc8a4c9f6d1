//! What stands around a task definition in a CloudFormation template: services, target groups,
//! instances. Terraform has the same under other names.

use std::collections::BTreeMap;

use crate::tools::document::{Node, Span};

use super::ecs;
use super::fields::{Fields, is_expression, reference, text};
use super::{DocumentForm, TaskDefinition, Text, Value};

const FORM: DocumentForm = DocumentForm::CloudFormation;

/// An `AWS::ECS::Service` that runs the task.
#[derive(Clone, Debug)]
pub struct Service<'a> {
    /// Its logical ID.
    pub name: &'a str,
    /// Where its logical ID stands.
    pub at: Span,
    pub node: &'a Node<'a>,
    /// Where it says that it runs on Fargate Spot, or on managed instances that are Spot.
    pub spot: Option<&'a Node<'a>>,
    /// Whether it says that it runs on Fargate.
    pub on_fargate: bool,
    /// Whether it says that it runs on instances that ECS manages.
    pub on_managed_instances: bool,
    /// Whether it says that all its capacity is on demand.
    pub on_demand: bool,
    /// Whether it says that none of it is.
    pub only_spot: bool,
    /// How long clients keep an address of its tasks, in seconds, and where Cloud Map is told so.
    pub dns_ttl_s: Option<(u64, &'a Node<'a>)>,
    pub desired: Value<'a, u64>,
    /// Whether others call it: by a load balancer, by service discovery or Service Connect.
    pub is_called: bool,
    /// Whether only those call it who look its address up: by Cloud Map, neither by a load balancer nor by
    /// Service Connect.
    pub only_looked_up: bool,
    /// Where it says that others call it by Service Connect, if they call it by nothing else.
    pub only_by_connect: Option<&'a Node<'a>>,
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
    pub node: &'a Node<'a>,
    /// `deregistration_delay.timeout_seconds`
    pub deregistration_delay_s: Value<'a, u64>,
    pub health_path: Value<'a, Text<'a>>,
    /// `HealthCheckPort`; without one, the port of the traffic.
    pub health_port: Value<'a, Text<'a>>,
    pub health_interval_s: Value<'a, u64>,
    pub unhealthy_threshold: Value<'a, u64>,
    pub protocol: Value<'a, Text<'a>>,
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

    /// Whether it belongs to an Application Load Balancer.
    pub fn is_application(&self) -> bool {
        let protocol = self.protocol.known();
        protocol.is_some_and(|protocol| matches!(protocol.as_ref(), "HTTP" | "HTTPS"))
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
    pub at: Span,
    pub node: &'a Node<'a>,
    /// Whether they may be Spot Instances.
    pub spot: bool,
    /// Whether their agent drains them on a Spot notice; `None` where their user data does not tell.
    pub drains_on_spot: Option<bool>,
    /// `ECS_CONTAINER_STOP_TIMEOUT` of their agent, in seconds.
    pub stop_timeout_s: Option<f64>,
}

/// What a capacity provider of the same file offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    Fargate {
        spot: bool,
    },
    /// Instances that ECS manages.
    Managed {
        /// Whether they are Spot; `None` where the file does not tell.
        spot: Option<bool>,
    },
}

impl Offer {
    fn named(name: &str) -> Option<Offer> {
        match name {
            "FARGATE" => Some(Offer::Fargate { spot: false }),
            "FARGATE_SPOT" => Some(Offer::Fargate { spot: true }),
            _ => None,
        }
    }

    /// `None` where that is not known.
    fn is_spot(self) -> Option<bool> {
        match self {
            Offer::Fargate { spot } => Some(spot),
            Offer::Managed { spot } => spot,
        }
    }
}

/// What an `AWS::ECS::CapacityProvider` offers, if it is one of managed instances. They are on demand
/// unless it says otherwise (API reference, InstanceLaunchTemplate, capacityOptionType).
pub(super) fn managed<'a>(form: DocumentForm, properties: &'a Node<'a>) -> Option<Offer> {
    let provider = Fields::of(form, properties).object("managedInstancesProvider")?;
    let kind = provider
        .object("instanceLaunchTemplate")
        .map_or(Value::Absent, |template| template.text("capacityOptionType"));
    let spot = match &kind {
        Value::Absent => Some(false),
        Value::Known(word, _) => Some(word == "SPOT"),
        Value::Unknown(_) => None,
    };
    Some(Offer::Managed { spot })
}

/// How a service finds what it refers to: its target group, the TTL of its service of Cloud Map, its
/// capacity provider, its cluster.
#[derive(Clone, Copy)]
pub(super) struct Around<'f, 'a> {
    pub(super) group: &'f dyn Fn(&'a Node<'a>) -> Option<TargetGroup<'a>>,
    pub(super) ttl: &'f dyn Fn(&'a Node<'a>) -> Option<(u64, &'a Node<'a>)>,
    pub(super) provider: &'f dyn Fn(&'a Node<'a>) -> Option<Offer>,
    /// What says how the tasks of a cluster are placed that do not say it.
    pub(super) cluster: &'f dyn Fn(&'a Node<'a>) -> Option<&'a Node<'a>>,
}

/// A rule or schedule that starts the task on Spot, and where it says so.
pub type Scheduled<'a> = (&'a str, &'a Node<'a>);

pub(super) fn tasks<'a>(resources: &'a Node<'a>) -> Vec<TaskDefinition<'a>> {
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
    let ttls: BTreeMap<&str, (u64, &'a Node<'a>)> = of("AWS::ServiceDiscovery::Service")
        .filter_map(|(entry, properties)| Some((entry.key.as_ref(), longest_ttl(FORM, properties)?)))
        .collect();
    let find_ttl = |arn: &'a Node<'a>| ttls.get(reference(arn)?).copied();
    let providers: Vec<(&str, Option<&str>, Offer)> = of("AWS::ECS::CapacityProvider")
        .filter_map(|(entry, properties)| {
            let name = properties.get("Name").and_then(Node::text);
            Some((entry.key.as_ref(), name, managed(FORM, properties)?))
        })
        .collect();
    let find_provider = |node: &'a Node<'a>| {
        let found = providers.iter().find(|(id, name, _)| {
            reference(node) == Some(*id)
                || (name.is_some() && reference(node).is_none() && node.text() == *name)
        });
        found.map(|(_, _, offer)| *offer)
    };
    let clusters: Vec<(&str, &'a Node<'a>)> = of("AWS::ECS::Cluster")
        .map(|(entry, properties)| (entry.key.as_ref(), properties))
        .chain(
            of("AWS::ECS::ClusterCapacityProviderAssociations").filter_map(|(_, properties)| {
                Some((properties.get("Cluster").and_then(reference)?, properties))
            }),
        )
        .filter(|(_, properties)| properties.get("DefaultCapacityProviderStrategy").is_some())
        .collect();
    let find_cluster = |node: &'a Node<'a>| {
        let found = clusters.iter().find(|(id, _)| reference(node) == Some(*id));
        found.map(|(_, properties)| *properties)
    };
    let around = Around {
        cluster: &find_cluster,
        group: &find,
        ttl: &find_ttl,
        provider: &find_provider,
    };
    let mut services: BTreeMap<&str, Vec<Service<'a>>> = BTreeMap::new();
    for (entry, properties) in of("AWS::ECS::Service").chain(of("AWS::ECS::TaskSet")) {
        if let Some(task) = properties.get("TaskDefinition").and_then(reference) {
            services.entry(task).or_default().push(service(
                FORM,
                &entry.key,
                entry.key_span,
                properties,
                around,
            ));
        }
    }
    let mut scheduled: BTreeMap<&str, Vec<Scheduled<'a>>> = BTreeMap::new();
    for (entry, properties) in of("AWS::Events::Rule").chain(of("AWS::Scheduler::Schedule")) {
        for (definition, node) in started_on_spot(FORM, properties) {
            if let Some(task) = reference(definition) {
                scheduled
                    .entry(task)
                    .or_default()
                    .push((entry.key.as_ref(), node));
            }
        }
    }
    let short_hops: Vec<_> = of("AWS::EC2::LaunchTemplate")
        .filter_map(|(_, properties)| short_hop(FORM, properties))
        .collect();
    let mixed: Vec<&str> = of("AWS::AutoScaling::AutoScalingGroup")
        .filter_map(|(_, properties)| reference(mixed_with_spot(FORM, properties)?))
        .collect();
    let instances: Vec<Instances<'a>> = of("AWS::EC2::LaunchTemplate")
        .chain(of("AWS::AutoScaling::LaunchConfiguration"))
        .map(|(entry, properties)| {
            let mixed = mixed.contains(&entry.key.as_ref());
            self::instances(FORM, &entry.key, entry.key_span, &entry.value, properties, mixed)
        })
        .collect();
    let stop_timeout_s = instances.iter().find_map(|instances| instances.stop_timeout_s);
    let mut tasks: Vec<TaskDefinition<'a>> = of("AWS::ECS::TaskDefinition")
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
    with_instances(FORM, &mut tasks, instances);
    tasks
}

/// Instances are said something of once, also where their tasks stand in another file.
pub(super) fn with_instances<'a>(
    form: DocumentForm,
    tasks: &mut Vec<TaskDefinition<'a>>,
    mut instances: Vec<Instances<'a>>,
) {
    instances.retain(|instances| instances.drains_on_spot.is_some());
    if let (true, Some(first)) = (tasks.is_empty(), instances.first()) {
        let mut task = ecs::task(form, first.name.to_owned(), first.at, first.node, first.node);
        task.containers.clear();
        tasks.push(task);
    }
    if let Some(first) = tasks.first_mut() {
        first.instances = instances;
    }
}

/// The stacks that a template makes of other templates (CloudFormation user guide, *Nested stacks*; SAM).
pub(super) fn nested(resources: &Node<'_>) -> Vec<String> {
    let kinds = ["AWS::CloudFormation::Stack", "AWS::Serverless::Application"];
    let entries = resources.entries().iter();
    entries
        .filter(|entry| {
            let kind = entry.value.get("Type").and_then(Node::text);
            kind.is_some_and(|kind| kinds.contains(&kind))
        })
        .map(|entry| format!("`{}`", entry.key))
        .collect()
}

/// How long clients keep an address, and where a service of Cloud Map says so.
pub(super) fn longest_ttl<'a>(form: DocumentForm, properties: &'a Node<'a>) -> Option<(u64, &'a Node<'a>)> {
    let config = Fields::of(form, properties).object("dnsConfig")?;
    let (records, _) = config.items("dnsRecords");
    let ttls = records.into_iter().filter_map(|record| {
        let ttl = Fields::of(form, record).whole("TTL");
        Some((*ttl.known()?, ttl.node()?))
    });
    ttls.max_by_key(|(seconds, _)| *seconds)
}

/// The task definitions that a rule or a schedule starts on Fargate Spot, and where it says so.
pub(super) fn started_on_spot<'a>(
    form: DocumentForm,
    properties: &'a Node<'a>,
) -> Vec<(&'a Node<'a>, &'a Node<'a>)> {
    let fields = Fields::of(form, properties);
    let (targets, _) = fields.possible_items("targets");
    let target = fields.object("target").map(|target| target.node);
    // In Terraform the target of a rule is a resource of its own.
    let own = (form == DocumentForm::Terraform).then_some(properties);
    targets
        .into_iter()
        .chain(target)
        .chain(own)
        .filter_map(|target| {
            let parameters = Fields::of(form, target).object("ecsParameters")?;
            let definition = parameters.node("taskDefinitionArn")?;
            let (strategy, _) = parameters.items("capacityProviderStrategy");
            let spot = strategy.into_iter().find_map(|item| {
                let provider = Fields::of(form, item).node("capacityProvider")?;
                (provider.text() == Some("FARGATE_SPOT")).then_some(provider)
            });
            Some((definition, spot?))
        })
        .collect()
}

/// What refers to the launch template of a group that has Spot Instances among others.
pub(super) fn mixed_with_spot<'a>(form: DocumentForm, properties: &'a Node<'a>) -> Option<&'a Node<'a>> {
    let policy = Fields::of(form, properties).object("mixedInstancesPolicy")?;
    let share = policy
        .object("instancesDistribution")?
        .whole("onDemandPercentageAboveBaseCapacity");
    share.known().filter(|share| **share < 100)?;
    policy
        .object("launchTemplate")?
        .object("launchTemplateSpecification")?
        .node("launchTemplateId")
}

/// `mixed` tells that a group has Spot Instances of it.
pub(super) fn instances<'a>(
    form: DocumentForm,
    name: &'a str,
    at: Span,
    whole: &'a Node<'a>,
    properties: &'a Node<'a>,
    mixed: bool,
) -> Instances<'a> {
    let fields = Fields::of(form, properties);
    let market = fields
        .object("launchTemplateData")
        .unwrap_or(fields)
        .object("instanceMarketOptions")
        .map_or(Value::Absent, |options| options.text("marketType"));
    let spot =
        market.known().is_some_and(|market| market == "spot") || fields.node("spotPrice").is_some() || mixed;
    // User data, or files of cfn-init.
    let mut text = String::new();
    gather(whole, &mut text);
    let is_of_ecs = text.contains("ECS_CLUSTER");
    Instances {
        name,
        at,
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

pub(super) fn service<'a>(
    form: DocumentForm,
    name: &'a str,
    at: Span,
    node: &'a Node<'a>,
    around: Around<'_, 'a>,
) -> Service<'a> {
    let fields = Fields::of(form, node);
    let launch_type = fields.text("launchType");
    let (strategy, more_strategy) = match fields.node("capacityProviderStrategy") {
        // Without a word of its own it has what its cluster says (API reference, CreateService).
        None if launch_type.is_absent() => fields
            .node("cluster")
            .and_then(around.cluster)
            .map(|cluster| Fields::of(form, cluster).items("defaultCapacityProviderStrategy"))
            .unwrap_or_default(),
        _ => fields.items("capacityProviderStrategy"),
    };
    let providers: Vec<(&'a Node<'a>, Option<Offer>)> = strategy
        .iter()
        .filter(|item| weight(form, item))
        .filter_map(|item| {
            let provider = Fields::of(form, item).text("capacityProvider");
            let known = provider.known().and_then(|name| Offer::named(name));
            let node = provider.node()?;
            Some((node, known.or_else(|| (around.provider)(node))))
        })
        .collect();
    let offers = || providers.iter().filter_map(|(_, offer)| *offer);
    let all_are = |spot: bool| {
        !more_strategy
            && !providers.is_empty()
            && providers
                .iter()
                .all(|(_, offer)| offer.and_then(Offer::is_spot) == Some(spot))
    };
    let on_fargate_by_type = launch_type.known().is_some_and(|word| word == "FARGATE");
    let (balancers, _) = fields.possible_items("loadBalancers");
    let (registries, _) = fields.possible_items("serviceRegistries");
    let by_address = ["loadBalancers", "serviceRegistries"]
        .iter()
        .any(|field| fields.node(field).is_some());
    // Without services of its own a task only calls others by it.
    let connected = fields.object("serviceConnectConfiguration").and_then(|connect| {
        let unknown = is_expression(form, connect.node).then_some(connect.node);
        unknown.or_else(|| connect.node("services"))
    });
    Service {
        name,
        at,
        node,
        spot: providers
            .iter()
            .find(|(_, offer)| offer.and_then(Offer::is_spot) == Some(true))
            .map(|(node, _)| *node),
        on_fargate: on_fargate_by_type || offers().any(|offer| matches!(offer, Offer::Fargate { .. })),
        on_managed_instances: launch_type
            .known()
            .is_some_and(|word| word == "MANAGED_INSTANCES")
            || offers().any(|offer| matches!(offer, Offer::Managed { .. })),
        only_spot: all_are(true),
        dns_ttl_s: registries
            .into_iter()
            .filter_map(|registry| Fields::of(form, registry).node("registryArn"))
            .find_map(around.ttl),
        on_demand: on_fargate_by_type || all_are(false),
        desired: fields.whole("desiredCount"),
        is_called: by_address || connected.is_some(),
        only_looked_up: fields.node("loadBalancers").is_none() && connected.is_none(),
        only_by_connect: connected.filter(|_| !by_address),
        is_daemon: fields
            .text("schedulingStrategy")
            .known()
            .is_some_and(|word| word == "DAEMON"),
        minimum_healthy_percent: fields
            .object("deploymentConfiguration")
            .filter(|_| form != DocumentForm::Terraform)
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
            .filter_map(around.group)
            .collect(),
    }
}

/// A provider without weight and base gets no task.
fn weight(form: DocumentForm, item: &Node<'_>) -> bool {
    let fields = Fields::of(form, item);
    let nothing = |name: &str| fields.whole(name).or_default(0) == Some(0);
    let said = fields.node("weight").is_some() || fields.node("base").is_some();
    !(said && nothing("weight") && nothing("base"))
}

pub(super) fn target_group<'a>(
    form: DocumentForm,
    name: &'a str,
    at: Span,
    node: &'a Node<'a>,
) -> TargetGroup<'a> {
    let fields = Fields::of(form, node);
    let health = fields
        .object("healthCheck")
        .filter(|_| form == DocumentForm::Terraform);
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
            None if form == DocumentForm::Terraform => fields.whole("deregistrationDelay"),
            None if more => Value::Unknown(node),
            None => Value::Absent,
        },
        health_path: health.map_or_else(|| fields.text("healthCheckPath"), |check| check.text("path")),
        health_port: health.map_or_else(|| fields.text("healthCheckPort"), |check| check.text("port")),
        health_interval_s: health.map_or_else(
            || fields.whole("healthCheckIntervalSeconds"),
            |check| check.whole("interval"),
        ),
        unhealthy_threshold: match health.map(|check| check.whole("unhealthyThreshold")) {
            None => fields.whole("unhealthyThresholdCount"),
            // The default of a block that is there (Terraform AWS provider, aws_lb_target_group,
            // health_check), not that of the API.
            Some(Value::Absent) => Value::Known(3, node),
            Some(threshold) => threshold,
        },
        protocol: fields.text("protocol"),
        protocol_version: fields.text("protocolVersion"),
    }
}

/// Where a launch template says that instances answer IMDS with a hop limit of 1.
pub(super) fn short_hop<'a>(form: DocumentForm, properties: &'a Node<'a>) -> Option<&'a Node<'a>> {
    let fields = Fields::of(form, properties);
    let data = fields.object("launchTemplateData").unwrap_or(fields);
    let limit = data.object("metadataOptions")?.whole("httpPutResponseHopLimit");
    limit.known().filter(|hops| **hops < 2)?;
    limit.node()
}
