//! The stand-in's task metadata endpoint v4, made from a task definition.
//!
//! Shapes, status codes and the rate limit are those of the ECS agent (public source,
//! `ecs-agent/tmds/handlers/v4`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use hyper::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{Reply, json_reply, text, too_many_requests};

pub(super) const CLUSTER: &str = "laptop";
const TASK_ID: &str = "5e0c4bf0d1e24d4e8a4f6a5f7f0c9b11";

/// The task's own address under `awsvpc`.
pub(super) const TASK_ADDRESS: &str = "10.0.2.106";

/// The first of the ports that Docker gives to containers that ask for none.
const FIRST_DYNAMIC_PORT: u16 = 32_768;

/// The agent's steady rate a second and its burst (`agent/config`, `DefaultTaskMetadataSteadyStateRate`).
const RATE: f64 = 40.0;
const BURST: f64 = 60.0;

/// A task definition is at most 64 KiB (ECS service quotas); its YAML or wrapped form some more.
const MAX_FILE: u64 = 1024 * 1024;

/// Why a file is no task definition.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// The file itself.
    #[error("{path}: {why}")]
    Read {
        /// Which.
        path: PathBuf,
        /// In the system's words.
        why: std::io::Error,
    },
    /// Its content.
    #[error("{path}: {why}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What was expected.
        why: String,
    },
}

/// The task that is pretended.
pub struct Definition {
    pub(super) family: String,
    revision: String,
    network_mode: String,
    containers: Vec<Container>,
    /// Whether it runs on Fargate Spot; else it runs on an instance.
    pub(super) fargate_spot: bool,
    started: Timestamp,
    allowance: Allowance,
}

/// One port of a container and where it is found from outside.
pub(super) struct PortMapping<'a> {
    pub(super) container: &'a str,
    pub(super) container_port: u16,
    pub(super) host_port: u16,
}

struct Container {
    name: String,
    image: String,
    labels: Map<String, Value>,
    ports: Vec<Value>,
    stop_timeout: Option<u64>,
    status: String,
    addresses: Vec<IpAddr>,
    /// Where it is a real container.
    id: Option<String>,
}

impl Definition {
    /// Reads a file as `register-task-definition` takes it or `describe-task-definition` prints it.
    ///
    /// # Errors
    /// Where it cannot be read or has no containers with names.
    pub fn read(path: impl AsRef<Path>) -> Result<Definition, DefinitionError> {
        let path = path.as_ref();
        let unreadable = |why| DefinitionError::Read {
            path: path.to_owned(),
            why,
        };
        let content = |why: String| DefinitionError::Content {
            path: path.to_owned(),
            why,
        };
        if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_FILE {
            return Err(content(format!(
                "longer than {MAX_FILE} bytes, which no task definition is"
            )));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let value: Value = serde_json::from_str(&text).map_err(|why| content(format!("not JSON: {why}")))?;
        Definition::from_value(&value).map_err(content)
    }

    /// The same from parsed JSON.
    ///
    /// # Errors
    /// What was expected.
    pub fn from_value(value: &Value) -> Result<Definition, String> {
        let value = value.get("taskDefinition").unwrap_or(value);
        let containers = value["containerDefinitions"].as_array().ok_or(
            "expected an object with `containerDefinitions`, as `aws ecs register-task-definition` takes it",
        )?;
        let containers: Vec<Container> = containers
            .iter()
            .enumerate()
            .map(|(i, container)| {
                Container::from_value(container).ok_or(format!("containerDefinitions[{i}] has no `name`"))
            })
            .collect::<Result<_, _>>()?;
        if containers.is_empty() {
            return Err("`containerDefinitions` is empty".to_owned());
        }
        Ok(Definition {
            family: value["family"].as_str().unwrap_or("task").to_owned(),
            revision: value["revision"].as_u64().unwrap_or(1).to_string(),
            network_mode: value["networkMode"].as_str().unwrap_or("bridge").to_owned(),
            containers,
            fargate_spot: false,
            started: Timestamp::now(),
            allowance: Allowance::default(),
        })
    }

    /// A task of `app` and `prestop` that share a network namespace.
    pub fn sample() -> Definition {
        let container = |name: &str| Container {
            name: name.to_owned(),
            image: format!("{name}:latest"),
            labels: Map::new(),
            ports: Vec::new(),
            stop_timeout: None,
            status: "RUNNING".to_owned(),
            addresses: Vec::new(),
            id: None,
        };
        Definition {
            family: "sample".to_owned(),
            revision: "1".to_owned(),
            network_mode: "awsvpc".to_owned(),
            containers: vec![container("app"), container("prestop")],
            fargate_spot: false,
            started: Timestamp::now(),
            allowance: Allowance::default(),
        }
    }

    /// The containers' names.
    pub fn names(&self) -> Vec<String> {
        self.containers
            .iter()
            .map(|container| container.name.clone())
            .collect()
    }

    pub(super) fn set_status(&mut self, name: &str, status: &str) -> bool {
        let container = self
            .containers
            .iter_mut()
            .find(|container| container.name == name);
        container
            .map(|container| status.clone_into(&mut container.status))
            .is_some()
    }

    /// The id of a real container, so that its processes can be told by their cgroups.
    pub(super) fn set_docker_id(&mut self, name: &str, id: &str) -> bool {
        let container = self
            .containers
            .iter_mut()
            .find(|container| container.name == name);
        container
            .map(|container| container.id = Some(id.to_owned()))
            .is_some()
    }

    /// The containers whose addresses matter and are not known yet.
    pub(super) fn unresolved(&self) -> Vec<String> {
        let matters = !self.shares_network();
        let without = self
            .containers
            .iter()
            .filter(|container| matters && container.addresses.is_empty());
        without.map(|container| container.name.clone()).collect()
    }

    pub(super) fn resolve(&mut self, name: &str, addresses: Vec<IpAddr>) {
        if let Some(container) = self
            .containers
            .iter_mut()
            .find(|container| container.name == name)
        {
            container.addresses = addresses;
        }
    }

    pub(super) fn is_awsvpc(&self) -> bool {
        self.network_mode == "awsvpc"
    }

    pub(super) fn launch_type(&self) -> &'static str {
        if self.fargate_spot { "FARGATE" } else { "EC2" }
    }

    /// Family and revision.
    pub(super) fn name(&self) -> String {
        format!("{}:{}", self.family, self.revision)
    }

    pub(super) fn arn(&self) -> String {
        arn(&format!("task-definition/{}", self.name()))
    }

    /// As `DescribeTaskDefinition` answers it, as far as a sidecar looks.
    pub(super) fn described(&self) -> Value {
        let containers = self.containers.iter().map(|container| {
            json!({"name": container.name, "image": container.image, "stopTimeout": container.stop_timeout})
        });
        json!({
            "taskDefinitionArn": self.arn(),
            "family": self.family,
            "revision": self.revision.parse().unwrap_or(1),
            "networkMode": self.network_mode,
            "containerDefinitions": containers.collect::<Value>(),
        })
    }

    /// All port mappings.
    pub(super) fn ports(&self) -> impl Iterator<Item = PortMapping<'_>> {
        let all = self.containers.iter().flat_map(|container| {
            let ports = container.ports.iter();
            ports.map(|port| (container.name.as_str(), port))
        });
        (FIRST_DYNAMIC_PORT..)
            .zip(all)
            .filter_map(|(dynamic, (container, port))| {
                let number = |name: &str| u16::try_from(port[name].as_u64()?).ok().filter(|port| *port > 0);
                let container_port = number("ContainerPort")?;
                let host_port = if self.shares_network() {
                    container_port
                } else {
                    number("HostPort").unwrap_or(dynamic)
                };
                Some(PortMapping {
                    container,
                    container_port,
                    host_port,
                })
            })
    }

    pub(super) fn answer(&mut self, path: &str) -> Reply {
        if !self.allowance.take() {
            return too_many_requests();
        }
        let Some((name, rest)) = path
            .strip_prefix("/v4/")
            .map(|rest| rest.split_once('/').unwrap_or((rest, "")))
        else {
            return text(StatusCode::NOT_FOUND, "404 page not found\n");
        };
        let Some(container) = self.containers.iter().find(|container| container.name == name) else {
            let why = format!("V4 container metadata handler: unable to find container `{name}`");
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
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    fn task(&self) -> Value {
        json!({
            "Cluster": CLUSTER,
            "TaskARN": task_arn(),
            "Family": self.family,
            "Revision": self.revision,
            "DesiredStatus": "RUNNING",
            "KnownStatus": "RUNNING",
            "Limits": {"CPU": 0.5, "Memory": 512},
            "PullStartedAt": self.started.to_string(),
            "PullStoppedAt": self.started.to_string(),
            "AvailabilityZone": "eu-central-1a",
            "LaunchType": self.launch_type(),
            "Containers": self.containers.iter().map(|container| self.container(container)).collect::<Vec<_>>(),
        })
    }

    fn container(&self, container: &Container) -> Value {
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
        json!({
            "DockerId": container.docker_id(),
            "Name": container.name,
            "DockerName": format!("ecs-{}-{}-{}", self.family, self.revision, container.name),
            "Image": container.image,
            "ImageID": format!("sha256:{}", container.docker_id()),
            "Labels": labels,
            "Ports": container.ports,
            "DesiredStatus": "RUNNING",
            "KnownStatus": container.status,
            "Limits": {"CPU": 2},
            "CreatedAt": self.started.to_string(),
            "StartedAt": self.started.to_string(),
            "Type": "NORMAL",
            "ContainerARN": arn(&format!("container/{CLUSTER}/{TASK_ID}/{}", container.name)),
            "Networks": [{"NetworkMode": self.network_mode, "IPv4Addresses": v4, "IPv6Addresses": strings(&v6)}],
            "Snapshotter": "overlayfs",
        })
    }

    fn shares_network(&self) -> bool {
        matches!(self.network_mode.as_str(), "awsvpc" | "host")
    }
}

impl Container {
    fn from_value(value: &Value) -> Option<Container> {
        Some(Container {
            name: value["name"].as_str()?.to_owned(),
            image: value["image"].as_str().unwrap_or_default().to_owned(),
            labels: value["dockerLabels"].as_object().cloned().unwrap_or_default(),
            ports: value["portMappings"].as_array().into_iter().flatten().map(|port| {
                json!({"ContainerPort": port["containerPort"], "Protocol": "tcp", "HostPort": port["hostPort"]})
            }).collect(),
            stop_timeout: value["stopTimeout"].as_u64(),
            status: "RUNNING".to_owned(),
            addresses: Vec::new(),
            id: None,
        })
    }

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

pub(super) fn task_arn() -> String {
    arn(&format!("task/{CLUSTER}/{TASK_ID}"))
}

/// Of a thing of ECS.
pub(super) fn arn(resource: &str) -> String {
    format!("arn:aws:ecs:eu-central-1:111122223333:{resource}")
}

fn strings(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

fn stats() -> Value {
    json!({"read": Timestamp::now().to_string(), "memory_stats": {"usage": 1_000_000}, "cpu_stats": {"online_cpus": 2}})
}
