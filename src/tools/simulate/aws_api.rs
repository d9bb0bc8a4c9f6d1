//! The stand-in's AWS APIs: those calls of ECS, Elastic Load Balancing and Cloud Map that a sidecar may make.
//!
//! ECS and Cloud Map speak JSON 1.1, Elastic Load Balancing v2 the Query protocol with answers in XML; all are
//! `POST /`. Signatures are not checked. There is one cluster with one service, whose one task is that
//! of the definition; the service has a target group for each port mapping, with the task as a target.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use hyper::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::INSTANCE_ID;
use super::cloud_map_api::{CLOUD_MAP, PlayedName};
use super::definition::{Definition, TASK_ADDRESS};
use super::deployment::ServiceChange;
use super::ecs_api::without_nulls;
use super::elb_api::{DELAY, PlayedTarget, PlayedTargetGroup};
use super::reply::{StandInReply, header, with_type};
use super::task_protection::error_code;

/// More names of operations than a sidecar knows are not counted.
const MAX_OPERATIONS: usize = 32;

const ECS: &str = "AmazonEC2ContainerServiceV20141113.";

/// What the APIs know beyond the definition.
pub(super) struct AwsApi {
    pub(super) groups: Vec<PlayedTargetGroup>,
    /// By which others find the task.
    pub(super) name: Option<PlayedName>,
    pub(super) draining_instance: bool,
    /// `stopCode` and `stoppedReason`, once ECS stops the task.
    pub(super) stopped: Option<(String, String)>,
    pub(super) change: ServiceChange,
    /// What `DescribeServices` says instead of that.
    pub(super) service_says: Value,
    /// How often each operation of ECS was called.
    pub(super) calls: BTreeMap<String, u64>,
}

/// An error as AWS names it, and its message.
pub(super) struct Refusal(pub(super) &'static str, pub(super) &'static str);

/// What ECS answers whom it denies, throttles or fails: a 400 with the code of the error, or a 500.
pub(super) fn error(status: u16) -> StandInReply {
    let refusal = json!({"__type": error_code(status), "message": "as simulated"});
    let status = if status >= 500 {
        StatusCode::INTERNAL_SERVER_ERROR
    } else {
        StatusCode::BAD_REQUEST
    };
    with_type(status, "application/x-amz-json-1.1", refusal.to_string())
}

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
            name: None,
            draining_instance: false,
            stopped: None,
            change: ServiceChange::default(),
            service_says: Value::Null,
            calls: BTreeMap::new(),
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
            "calls": self.calls,
            "stop_code": self.stopped.as_ref().map(|(code, _)| code),
        })
    }

    pub(super) fn answer(&mut self, task: &Definition, headers: &HeaderMap, body: &[u8]) -> StandInReply {
        if let Some(target) = header(headers, "x-amz-target") {
            let named = target.strip_prefix(CLOUD_MAP);
            let operation = named.or(target.strip_prefix(ECS)).unwrap_or_default();
            if self.calls.len() < MAX_OPERATIONS || self.calls.contains_key(operation) {
                *self.calls.entry(operation.to_owned()).or_default() += 1;
            }
            let answer = match serde_json::from_slice(body) {
                Ok(input) if named.is_some() => self.cloud_map(operation, &input),
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
        self.answer_query(task, body)
    }
}
