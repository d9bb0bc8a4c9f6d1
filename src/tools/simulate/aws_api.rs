//! The stand-in's AWS APIs: those calls of ECS and Elastic Load Balancing that a sidecar may make.
//!
//! ECS speaks JSON 1.1, Elastic Load Balancing v2 the Query protocol with answers in XML; both are
//! `POST /`. Signatures are not checked. There is one cluster with one service, whose one task is that
//! of the definition; the service has a target group for each port mapping, with the task as a target.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hyper::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::task_metadata::{CLUSTER, Definition, TASK_ADDRESS, arn, task_arn};
use super::{INSTANCE_ID, StandInReply, header, with_type};

/// The default of `deregistration_delay.timeout_seconds` (ELB API reference, *TargetGroupAttribute*).
const DELAY: Duration = Duration::from_secs(300);

/// More targets of one request are not read; a task has a handful.
const MAX_TARGETS: usize = 100;

const ECS: &str = "AmazonEC2ContainerServiceV20141113.";
const ELB_VERSION: &str = "2015-12-01";

/// What both APIs know beyond the definition.
pub(super) struct AwsApi {
    groups: Vec<PlayedTargetGroup>,
    draining_instance: bool,
    /// `stopCode` and `stoppedReason`, once ECS stops the task.
    stopped: Option<(String, String)>,
    /// What `DescribeServices` says instead of what it said at first.
    service_says: Value,
}

struct PlayedTargetGroup {
    container: String,
    container_port: u16,
    delay: Duration,
    targets: Vec<PlayedTarget>,
    /// How many requests were sent to it.
    turn: usize,
}

struct PlayedTarget {
    /// An IP address under `awsvpc`, else that of the instance.
    id: String,
    port: u16,
    /// Once it is deregistered; then it is gone.
    draining_until: Option<Instant>,
    /// Where a load balancer of this machine finds it.
    at: Option<SocketAddr>,
}

/// An error as AWS names it, and its message.
struct Refusal(&'static str, &'static str);

impl AwsApi {
    pub(super) fn new(task: &Definition) -> AwsApi {
        let id = if task.is_awsvpc() {
            TASK_ADDRESS
        } else {
            INSTANCE_ID
        };
        let groups = task.ports().map(|port| PlayedTargetGroup {
            container: port.container.to_owned(),
            container_port: port.container_port,
            delay: DELAY,
            targets: vec![PlayedTarget::new(id, port.host_port, None)],
            turn: 0,
        });
        AwsApi {
            groups: groups.collect(),
            draining_instance: false,
            stopped: None,
            service_says: Value::Null,
        }
    }

    /// One target group: the task's container `app`, and another task that stays.
    pub(super) fn balance(&mut self, task: SocketAddr, other: SocketAddr, delay: Duration) {
        let port = task.port();
        self.groups = vec![PlayedTargetGroup {
            container: "app".to_owned(),
            container_port: port,
            delay,
            targets: vec![
                PlayedTarget::new(TASK_ADDRESS, port, Some(task)),
                PlayedTarget::new("10.0.2.107", port, Some(other)),
            ],
            turn: 0,
        }];
    }

    /// Whose turn it is; `None` where no target is registered.
    pub(super) fn route(&mut self) -> Option<SocketAddr> {
        let group = self.groups.first_mut()?;
        let registered = group.targets.iter().filter(|t| t.draining_until.is_none());
        let registered: Vec<SocketAddr> = registered.filter_map(|target| target.at).collect();
        group.turn = group.turn.wrapping_add(1);
        registered.get(group.turn.checked_rem(registered.len())?).copied()
    }

    /// From now on `DescribeServices` has these fields in place of its own.
    pub(super) fn service_says(&mut self, fields: Value) {
        self.service_says = fields;
    }

    /// ECS stops the task.
    pub(super) fn stop(&mut self, code: &str, reason: &str) {
        self.stopped = Some((code.to_owned(), reason.to_owned()));
    }

    /// ECS's own deregistration of the task; whether it was still registered anywhere.
    pub(super) fn deregister_task(&mut self, task: &Definition) -> bool {
        let id = if task.is_awsvpc() {
            TASK_ADDRESS
        } else {
            INSTANCE_ID
        };
        let mut was_registered = false;
        for group in &mut self.groups {
            was_registered |= group.deregister(id, None);
        }
        was_registered
    }

    pub(super) fn state(&mut self) -> Value {
        let groups = self.groups.iter_mut().map(|group| {
            group.expire();
            let targets = group
                .targets
                .iter()
                .map(|target| json!({"id": target.id, "port": target.port, "state": target.health().0}));
            json!({"arn": group.arn(), "targets": targets.collect::<Value>()})
        });
        json!({
            "target_groups": groups.collect::<Value>(),
            "container_instance": self.instance_status(),
            "stop_code": self.stopped.as_ref().map(|(code, _)| code),
        })
    }

    pub(super) fn answer(&mut self, task: &Definition, headers: &HeaderMap, body: &[u8]) -> StandInReply {
        if let Some(target) = header(headers, "x-amz-target") {
            let operation = target.strip_prefix(ECS).unwrap_or_default();
            let answer = match serde_json::from_slice(body) {
                Ok(input) => self.ecs(task, operation, &input),
                Err(_) => Err(Refusal("SerializationException", "The body is not JSON.")),
            };
            let (status, answer) = match answer {
                Ok(answer) => (StatusCode::OK, without_nulls(answer)),
                Err(Refusal(code, message)) => (
                    StatusCode::BAD_REQUEST,
                    json!({"__type": code, "message": message}),
                ),
            };
            return with_type(status, "application/x-amz-json-1.1", answer.to_string());
        }
        let form = FormBody::parse(body);
        let action = form.get("Action").unwrap_or_default();
        let (status, answer) = match self.elb(task, action, &form) {
            Ok(result) => (
                StatusCode::OK,
                format!(
                    "<{action}Response xmlns=\"{XMLNS}\"><{action}Result>{result}</{action}Result>\
                     <ResponseMetadata><RequestId>{REQUEST_ID}</RequestId></ResponseMetadata></{action}Response>"
                ),
            ),
            Err(Refusal(code, message)) => (
                StatusCode::BAD_REQUEST,
                format!(
                    "<ErrorResponse xmlns=\"{XMLNS}\"><Error><Type>Sender</Type><Code>{code}</Code>\
                     <Message>{message}</Message></Error><RequestId>{REQUEST_ID}</RequestId></ErrorResponse>"
                ),
            ),
        };
        with_type(status, "text/xml", answer)
    }

    fn ecs(&mut self, task: &Definition, operation: &str, input: &Value) -> Result<Value, Refusal> {
        let in_cluster = is_named(&input["cluster"], &arn(&format!("cluster/{CLUSTER}")));
        match operation {
            "DescribeTaskDefinition" => {
                let wanted = input["taskDefinition"].as_str().unwrap_or_default();
                if ![task.family.as_str(), &task.name(), &task.arn()].contains(&wanted) {
                    return Err(Refusal("ClientException", "Unable to describe task definition."));
                }
                Ok(json!({"taskDefinition": task.described()}))
            }
            "DescribeTasks"
            | "DescribeServices"
            | "DescribeContainerInstances"
            | "UpdateContainerInstancesState"
            | "StopTask"
                if !in_cluster =>
            {
                Err(Refusal("ClusterNotFoundException", "Cluster not found."))
            }
            "DescribeTasks" => found(input, "tasks", &task_arn(), self.task(task)),
            "DescribeServices" => {
                let service = self.service(task);
                found(input, "services", &arn(&service_of(task)), service)
            }
            "DescribeContainerInstances" => {
                found(input, "containerInstances", &instance_arn(), self.instance())
            }
            "UpdateContainerInstancesState" => self.set_instance_status(input),
            "StopTask" => self.stop_task(task, input),
            _ => Err(Refusal(
                "UnknownOperationException",
                "There is no such operation here.",
            )),
        }
    }

    fn set_instance_status(&mut self, input: &Value) -> Result<Value, Refusal> {
        let draining = match input["status"].as_str() {
            Some("DRAINING") => true,
            Some("ACTIVE") => false,
            _ => {
                let why = "Container instance status must be one of [ACTIVE, DRAINING].";
                return Err(Refusal("InvalidParameterException", why));
            }
        };
        let mut wanted = input["containerInstances"].as_array().into_iter().flatten();
        if wanted.any(|wanted| is_named(wanted, &instance_arn())) {
            self.draining_instance = draining;
        }
        found(input, "containerInstances", &instance_arn(), self.instance())
    }

    fn stop_task(&mut self, task: &Definition, input: &Value) -> Result<Value, Refusal> {
        if !is_named(&input["task"], &task_arn()) {
            let why = "The referenced task was not found.";
            return Err(Refusal("InvalidParameterException", why));
        }
        // The first reason stays.
        if self.stopped.is_none() {
            let reason = input["reason"].as_str().unwrap_or("Task stopped by user");
            self.stop("UserInitiated", reason);
        }
        Ok(json!({"task": self.task(task)}))
    }

    fn task(&self, task: &Definition) -> Value {
        let stopped = self.stopped.as_ref();
        let interface = "f6a4b2d0-7c1e-4a55-9a3c-0e7f1b2c3d4e";
        let containers = task.names().into_iter().map(|name| {
            let bindings = task
                .ports()
                .filter(|port| !task.is_awsvpc() && port.container == name)
                .map(|port| {
                    json!({"bindIP": "0.0.0.0", "containerPort": port.container_port,
                           "hostPort": port.host_port, "protocol": "tcp"})
                })
                .collect::<Value>();
            let interfaces = task
                .is_awsvpc()
                .then(|| json!([{"attachmentId": interface, "privateIpv4Address": TASK_ADDRESS}]));
            json!({"name": name, "lastStatus": "RUNNING", "taskArn": task_arn(),
                   "networkBindings": bindings, "networkInterfaces": interfaces})
        });
        json!({
            "taskArn": task_arn(),
            "clusterArn": arn(&format!("cluster/{CLUSTER}")),
            "taskDefinitionArn": task.arn(),
            "group": format!("service:{}", task.family),
            "startedBy": DEPLOYMENT,
            "createdAt": 1_700_000_000,
            "launchType": task.launch_type(),
            "capacityProviderName": task.fargate_spot.then_some("FARGATE_SPOT"),
            "containerInstanceArn": task.on_instance().then(instance_arn),
            "lastStatus": "RUNNING",
            "desiredStatus": if stopped.is_some() { "STOPPED" } else { "RUNNING" },
            "stopCode": stopped.map(|(code, _)| code),
            "stoppedReason": stopped.map(|(_, reason)| reason),
            "attachments": task.is_awsvpc().then(|| json!([{
                "id": interface, "type": "ElasticNetworkInterface", "status": "ATTACHED",
                "details": [{"name": "privateIPv4Address", "value": TASK_ADDRESS}],
            }])),
            "containers": containers.collect::<Value>(),
        })
    }

    fn service(&self, task: &Definition) -> Value {
        let groups = self.groups.iter().map(|group| {
            json!({"targetGroupArn": group.arn(), "containerName": group.container,
                   "containerPort": group.container_port})
        });
        let mut service = json!({
            "serviceArn": arn(&service_of(task)),
            "serviceName": task.family,
            "clusterArn": arn(&format!("cluster/{CLUSTER}")),
            "status": "ACTIVE",
            "taskDefinition": task.arn(),
            "desiredCount": 1,
            "runningCount": 1,
            "deployments": [{"id": DEPLOYMENT, "status": "PRIMARY", "desiredCount": 1, "runningCount": 1,
                             "createdAt": 1_699_999_000, "rolloutState": "COMPLETED"}],
            "loadBalancers": groups.collect::<Value>(),
        });
        for (field, value) in self.service_says.as_object().into_iter().flatten() {
            service[field] = value.clone();
        }
        service
    }

    fn instance(&self) -> Value {
        json!({
            "containerInstanceArn": instance_arn(),
            "ec2InstanceId": INSTANCE_ID,
            "status": self.instance_status(),
            "agentConnected": true,
        })
    }

    fn instance_status(&self) -> &'static str {
        if self.draining_instance {
            "DRAINING"
        } else {
            "ACTIVE"
        }
    }

    /// What stands in the `Result` of the answer.
    fn elb(&mut self, task: &Definition, action: &str, form: &FormBody<'_>) -> Result<String, Refusal> {
        let known = [
            "DeregisterTargets",
            "DescribeTargetHealth",
            "DescribeTargetGroupAttributes",
        ];
        if !known.contains(&action) || form.get("Version") != Some(ELB_VERSION) {
            return Err(Refusal(
                "InvalidAction",
                "Could not find this operation for this version.",
            ));
        }
        let wanted = form.get("TargetGroupArn").unwrap_or_default();
        let mut groups = self.groups.iter_mut();
        let group = groups.find(|group| group.arn() == wanted);
        let group = group.ok_or(Refusal(
            "TargetGroupNotFound",
            "One or more target groups not found",
        ))?;
        group.expire();
        if action == "DescribeTargetGroupAttributes" {
            let delay = group.delay.as_secs();
            return Ok(format!(
                "<Attributes><member><Key>deregistration_delay.timeout_seconds</Key><Value>{delay}</Value></member>\
                 </Attributes>"
            ));
        }
        let targets = form.targets(task.is_awsvpc())?;
        if action == "DeregisterTargets" {
            if targets.is_empty() {
                return Err(Refusal(
                    "ValidationError",
                    "At least one target must be specified",
                ));
            }
            // One that is not there is no error.
            for (id, port) in targets {
                group.deregister(id, port);
            }
            return Ok(String::new());
        }
        let mut members = String::new();
        if targets.is_empty() {
            for target in &group.targets {
                members += &described(&target.id, Some(target.port), target.health());
            }
        }
        for (id, port) in targets {
            let target = group.targets.iter().find(|target| target.is(id, port));
            members += &match target {
                Some(target) => described(id, Some(target.port), target.health()),
                None => described(id, port, ("unused", Some("Target.NotRegistered"))),
            };
        }
        Ok(format!(
            "<TargetHealthDescriptions>{members}</TargetHealthDescriptions>"
        ))
    }
}

impl PlayedTargetGroup {
    fn arn(&self) -> String {
        let ecs = arn(&format!(
            "targetgroup/{}-{}/6d0ecf831eec9f09",
            self.container, self.container_port
        ));
        ecs.replacen(":ecs:", ":elasticloadbalancing:", 1)
    }

    /// Whether that changes anything.
    fn deregister(&mut self, id: &str, port: Option<u16>) -> bool {
        let mut changed = false;
        for target in &mut self.targets {
            if target.is(id, port) && target.draining_until.is_none() {
                target.draining_until = Some(Instant::now() + self.delay);
                changed = true;
            }
        }
        changed
    }

    /// A target is shown as draining for the whole delay, even where its last connection has long
    /// ended (Application Load Balancers user guide, *Deregistration delay*).
    fn expire(&mut self) {
        let now = Instant::now();
        self.targets
            .retain(|target| target.draining_until.is_none_or(|until| now < until));
    }
}

impl PlayedTarget {
    fn new(id: &str, port: u16, at: Option<SocketAddr>) -> PlayedTarget {
        PlayedTarget {
            id: id.to_owned(),
            port,
            draining_until: None,
            at,
        }
    }

    fn is(&self, id: &str, port: Option<u16>) -> bool {
        self.id == id && port.is_none_or(|port| self.port == port)
    }

    /// State and reason.
    fn health(&self) -> (&'static str, Option<&'static str>) {
        match self.draining_until {
            None => ("healthy", None),
            Some(_) => ("draining", Some("Target.DeregistrationInProgress")),
        }
    }
}

const XMLNS: &str = "http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/";
const REQUEST_ID: &str = "00000000-0000-4000-8000-000000000000";

/// `id` is an address or the instance's, so that nothing in it needs to be escaped.
fn described(id: &str, port: Option<u16>, (state, reason): (&str, Option<&str>)) -> String {
    let reason = reason.map_or(String::new(), |reason| format!("<Reason>{reason}</Reason>"));
    let port = port.map_or(String::new(), |port| format!("<Port>{port}</Port>"));
    format!(
        "<member><Target><Id>{id}</Id>{port}</Target>\
         <TargetHealth><State>{state}</State>{reason}</TargetHealth></member>"
    )
}

/// A form as the Query protocol sends it.
struct FormBody<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> FormBody<'a> {
    fn parse(body: &'a [u8]) -> FormBody<'a> {
        let body = std::str::from_utf8(body).unwrap_or_default();
        let pairs = body.split('&').filter_map(|pair| pair.split_once('='));
        FormBody(
            pairs
                .map(|(name, value)| (decoded(name), decoded(value)))
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        let pair = self.0.iter().find(|(key, _)| key == name);
        pair.map(|(_, value)| value.as_ref())
    }

    /// Ids that are of the group's kind, and their ports.
    fn targets(&self, by_address: bool) -> Result<Vec<(&str, Option<u16>)>, Refusal> {
        let mut targets = Vec::new();
        for n in 1..=MAX_TARGETS {
            let Some(id) = self.get(&format!("Targets.member.{n}.Id")) else {
                break;
            };
            if by_address && id.parse::<IpAddr>().is_err() {
                return Err(Refusal("ValidationError", "A target is not a valid IP address"));
            }
            if !by_address && id != INSTANCE_ID {
                return Err(Refusal(
                    "InvalidTarget",
                    "A target is not an instance in the VPC of the target group",
                ));
            }
            let port = self.get(&format!("Targets.member.{n}.Port"));
            let port = port.map(str::parse).transpose();
            let port = port.map_err(|_| Refusal("ValidationError", "A port is not from 1 to 65535"))?;
            targets.push((id, port));
        }
        Ok(targets)
    }
}

/// Without `%` and `+`; what is not UTF-8 then is no name that anybody knows.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return text.into();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let code = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        rest = tail;
        bytes.push(match (byte, code) {
            (b'%', Some(code)) => {
                rest = &tail[2..];
                code
            }
            (b'+', _) => b' ',
            _ => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}

/// The deployment that has started the task.
const DEPLOYMENT: &str = "ecs-svc/1000000000000000001";

/// The list that is described: the one thing there is, once for each of its names, and a failure for
/// each other name.
fn found(input: &Value, list: &str, ours: &str, thing: Value) -> Result<Value, Refusal> {
    let wanted = input[list].as_array().filter(|wanted| !wanted.is_empty());
    let wanted = wanted.ok_or(Refusal("InvalidParameterException", "Nothing is named."))?;
    let (known, unknown): (Vec<&Value>, Vec<&Value>) = wanted.iter().partition(|name| is_named(name, ours));
    let things: Value = known.first().map(|_| thing).into_iter().collect();
    let failures = unknown
        .iter()
        .map(|name| json!({"arn": name, "reason": "MISSING"}));
    Ok(json!({list: things, "failures": failures.collect::<Value>()}))
}

/// By its ARN or by the last part of it.
fn is_named(name: &Value, arn: &str) -> bool {
    name.as_str()
        .is_some_and(|name| name == arn || arn.rsplit('/').next() == Some(name))
}

fn instance_arn() -> String {
    arn(&format!(
        "container-instance/{CLUSTER}/1f73d099b9144f2d8dd1bd6fb42a4d8c"
    ))
}

fn service_of(task: &Definition) -> String {
    format!("service/{CLUSTER}/{}", task.family)
}

/// AWS leaves out what is not there.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, without_nulls(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}
