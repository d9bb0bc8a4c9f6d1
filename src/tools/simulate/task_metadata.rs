//! The stand-in's task metadata endpoint v4, made from a task definition.
//!
//! Shapes, status codes and the rate limit are those of the ECS agent (public source,
//! `ecs-agent/tmds/handlers/v4`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use hyper::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::definition::{
    CLUSTER, Definition, NOT_CREATED, PlayedContainer, TASK_ADDRESS, TASK_ID, arn, task_arn,
};
use super::reply::{StandInReply, json_reply, no_such_page, too_many_requests};

/// The agent's steady rate a second and its burst (`agent/config`, `DefaultTaskMetadataSteadyStateRate`).
const RATE: f64 = 40.0;
const BURST: f64 = 60.0;

impl Definition {
    pub(super) fn answer(&mut self, path: &str) -> StandInReply {
        if !self.allowance.take() {
            return too_many_requests();
        }
        let Some((name, rest)) = path
            .strip_prefix("/v4/")
            .map(|rest| rest.split_once('/').unwrap_or((rest, "")))
        else {
            return no_such_page();
        };
        let Some(container) = self.containers.iter().find(|container| container.name == name) else {
            let asked = match rest.trim_end_matches('/') {
                "" => "container metadata",
                "task" | "taskWithTags" => "task metadata",
                "stats" => "container stats",
                "task/stats" => "task stats",
                _ => return no_such_page(),
            };
            let why = format!("V4 {asked} handler: unable to find container `{name}`");
            return json_reply(StatusCode::NOT_FOUND, &json!(why));
        };
        match rest.trim_end_matches('/') {
            "" => json_reply(StatusCode::OK, &self.container(container)),
            "task" => json_reply(StatusCode::OK, &self.task()),
            "taskWithTags" => {
                let mut task = self.task();
                task["TaskTags"] = json!({"from": "simulate"});
                json_reply(StatusCode::OK, &task)
            }
            "stats" => json_reply(StatusCode::OK, &stats()),
            "task/stats" => {
                let stats = self
                    .containers
                    .iter()
                    .map(|container| (container.docker_id(), stats()));
                json_reply(StatusCode::OK, &Value::Object(stats.collect()))
            }
            _ => no_such_page(),
        }
    }

    fn task(&self) -> Value {
        let mut task = json!({
            "Cluster": CLUSTER,
            "TaskARN": task_arn(),
            "Family": self.family,
            "Revision": self.revision,
            "DesiredStatus": self.desired_status,
            "KnownStatus": self.known_status(),
            "PullStartedAt": self.started.to_string(),
            "PullStoppedAt": self.started.to_string(),
            "AvailabilityZone": "eu-central-1a",
            "LaunchType": self.launch_type(),
            "FaultInjectionEnabled": false,
            "Containers": self.created().map(|container| self.container(container)).collect::<Vec<_>>(),
        });
        // Without a limit of the task there is no such field.
        if let Some(limits) = limits(self.cpu.map(Value::from), self.memory_mib) {
            task["Limits"] = limits;
        }
        task
    }

    /// ECS lists a container once the agent has begun to make it.
    fn created(&self) -> impl Iterator<Item = &PlayedContainer> {
        self.containers
            .iter()
            .filter(|container| container.status != NOT_CREATED)
    }

    /// That of the container that is furthest behind.
    fn known_status(&self) -> &str {
        let behind = self
            .containers
            .iter()
            .find(|container| !matches!(container.status.as_str(), "RUNNING" | "STOPPED"));
        behind.map_or("RUNNING", |container| &container.status)
    }

    fn container(&self, container: &PlayedContainer) -> Value {
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = container.addresses.iter().partition(|ip| ip.is_ipv4());
        let v4 = if self.shares_network() {
            vec![TASK_ADDRESS.to_owned()]
        } else {
            strings(&v4)
        };
        let mut labels: BTreeMap<String, Value> = [
            ("com.amazonaws.ecs.cluster", CLUSTER.to_owned()),
            ("com.amazonaws.ecs.container-name", container.name.clone()),
            ("com.amazonaws.ecs.task-arn", task_arn()),
            ("com.amazonaws.ecs.task-definition-family", self.family.clone()),
            ("com.amazonaws.ecs.task-definition-version", self.revision.clone()),
        ]
        .map(|(label, value)| (label.to_owned(), value.into()))
        .into();
        labels.extend(container.labels.clone());
        let ports = container.ports.iter().map(|port| {
            // With an interface of its own a task has the ports of its containers.
            let host = if self.shares_network() {
                Some(port.container)
            } else {
                port.host
            };
            json!({
                "ContainerPort": port.container,
                "Protocol": if port.udp { "udp" } else { "tcp" },
                "HostPort": host,
            })
        });
        // The agent gives a container without any the least that Linux has.
        let limits = limits(
            Some(container.cpu_units.unwrap_or(2).into()),
            container.memory_mib,
        );
        without_empties(json!({
            "DockerId": container.docker_id(),
            "Name": container.name,
            "DockerName": format!("ecs-{}-{}-{}", self.family, self.revision, container.name),
            "Image": container.image,
            "ImageID": format!("sha256:{}", container.docker_id()),
            "Labels": labels,
            "Ports": ports.collect::<Value>(),
            "DesiredStatus": "RUNNING",
            "KnownStatus": container.status,
            "Limits": limits,
            "CreatedAt": self.started.to_string(),
            "StartedAt": self.started.to_string(),
            "Type": "NORMAL",
            "ContainerARN": arn(&format!("container/{CLUSTER}/{TASK_ID}/{}", container.name)),
            "Networks": [{"NetworkMode": self.network_mode, "IPv4Addresses": v4, "IPv6Addresses": strings(&v6)}],
            "Snapshotter": "overlayfs",
        }))
    }
}

impl PlayedContainer {
    /// Made up where it is not a real container: as long as Docker's, and the same at each start.
    fn docker_id(&self) -> String {
        if let Some(id) = &self.id {
            return id.clone();
        }
        let hex: String = self.name.bytes().map(|byte| format!("{byte:02x}")).collect();
        format!("{hex:0<64.64}")
    }
}

/// A token bucket: the agent's limit, assumed to be shared by all callers.
pub(super) struct Allowance {
    left: f64,
    at: Instant,
}

impl Default for Allowance {
    fn default() -> Allowance {
        Allowance {
            left: BURST,
            at: Instant::now(),
        }
    }
}

impl Allowance {
    pub(super) fn take(&mut self) -> bool {
        let now = Instant::now();
        self.left = (self.left + now.duration_since(self.at).as_secs_f64() * RATE).min(BURST);
        self.at = now;
        let enough = self.left >= 1.0;
        if enough {
            self.left -= 1.0;
        }
        enough
    }
}

/// As the agent has it (`omitempty`).
fn without_empties(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let members = members
                .into_iter()
                .map(|(name, member)| (name, without_empties(member)));
            let is_empty = |member: &Value| member.is_null() || member.as_array().is_some_and(Vec::is_empty);
            Value::Object(members.filter(|(_, member)| !is_empty(member)).collect())
        }
        Value::Array(items) => items.into_iter().map(without_empties).collect(),
        other => other,
    }
}

fn limits(cpu: Option<Value>, memory_mib: Option<u64>) -> Option<Value> {
    let mut limits = Map::new();
    limits.extend(cpu.map(|cpu| ("CPU".to_owned(), cpu)));
    limits.extend(memory_mib.map(|memory| ("Memory".to_owned(), memory.into())));
    (!limits.is_empty()).then_some(Value::Object(limits))
}

fn strings(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

fn stats() -> Value {
    json!({"read": Timestamp::now().to_string(), "memory_stats": {"usage": 1_000_000}, "cpu_stats": {"online_cpus": 2}})
}
