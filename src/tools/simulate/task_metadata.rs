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

use crate::tools::document;
use crate::tools::model::{self, DeclaredLaunchType, NAMELESS, NoTask, PortMapping, TaskDefinition};
use crate::tools::source::{FileProblem, Source};

use super::{StandInReply, json_reply, text, too_many_requests};

pub(super) const CLUSTER: &str = "laptop";
/// The status of a container that ECS has not begun to make, and does not list.
pub(super) const NOT_CREATED: &str = "NONE";

const TASK_ID: &str = "5e0c4bf0d1e24d4e8a4f6a5f7f0c9b11";

/// The task's own address under `awsvpc`.
pub(super) const TASK_ADDRESS: &str = "10.0.2.106";

/// The first of the ports that Docker gives to containers that ask for none.
const FIRST_DYNAMIC_PORT: u16 = 32_768;

/// The agent's steady rate a second and its burst (`agent/config`, `DefaultTaskMetadataSteadyStateRate`).
const RATE: f64 = 40.0;
const BURST: f64 = 60.0;

/// Why a file is no task definition that could be pretended.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// It cannot be read.
    #[error("{0}")]
    Unreadable(FileProblem),
    /// It says too little, or too much.
    #[error("{file}: {why}")]
    Content {
        /// Which file.
        file: String,
        /// What was expected.
        why: String,
    },
}

/// The task that is pretended.
pub struct Definition {
    pub(super) family: String,
    revision: String,
    network_mode: String,
    containers: Vec<PlayedContainer>,
    /// On what it runs, by its file.
    launch_type: DeclaredLaunchType,
    /// vCPU and MiB of the task, where they are given.
    cpu: Option<f64>,
    memory_mib: Option<u64>,
    /// Whether it runs on Fargate Spot; else it runs on what its file says.
    pub(super) fargate_spot: bool,
    /// What ECS wants of the task: `STOPPED` from the moment at which it begins to stop it.
    pub(super) desired_status: &'static str,
    started: Timestamp,
    allowance: Allowance,
}

/// One port of a container and where it is found from outside.
pub(super) struct OutsidePort<'a> {
    pub(super) container: &'a str,
    pub(super) container_port: u16,
    pub(super) host_port: u16,
}

struct PlayedContainer {
    name: String,
    image: String,
    labels: Map<String, Value>,
    ports: Vec<PortMapping>,
    cpu_units: Option<u64>,
    memory_mib: Option<u64>,
    stop_timeout: Option<u64>,
    status: String,
    addresses: Vec<IpAddr>,
    /// Where it is a real container.
    id: Option<String>,
}

impl Definition {
    /// Reads a file in any form that `check` reads. `task` says which, where there are several in it.
    ///
    /// # Errors
    /// Where it cannot be read, or does not say which containers there are.
    pub fn read(path: &str, task: Option<&str>) -> Result<Definition, DefinitionError> {
        Definition::of_source(&Source::read(path).map_err(DefinitionError::Unreadable)?, task)
    }

    /// The same from parsed JSON.
    ///
    /// # Errors
    /// What was expected.
    pub fn from_value(value: &Value) -> Result<Definition, DefinitionError> {
        let source = Source::new("task-definition.json", value.to_string(), true);
        Definition::of_source(&source, None)
    }

    fn of_source(source: &Source, wanted: Option<&str>) -> Result<Definition, DefinitionError> {
        let content = |why: String| DefinitionError::Content {
            file: source.name.clone(),
            why,
        };
        let unreadable =
            |at: usize, message: String| DefinitionError::Unreadable(source.problem(at, message));
        let (root, _) = document::parse_among(&source.name, &source.text, source)
            .map_err(|why| unreadable(why.at, why.message))?;
        let tasks = model::tasks(&root).map_err(|why| match why {
            NoTask::Foreign { message, at } => unreadable(at, message),
            NoTask::Empty => content("there is no service in it".to_owned()),
        })?;
        let names = || {
            let names: Vec<String> = tasks.iter().map(|task| format!("`{}`", task.name)).collect();
            names.join(", ")
        };
        let mut found = tasks
            .iter()
            .filter(|task| wanted.is_none_or(|wanted| task.name == wanted));
        match (found.next(), found.next()) {
            (Some(task), None) => Definition::of_task(task).map_err(content),
            (Some(_), Some(_)) => Err(content(format!(
                "holds several task definitions: say which of {} with --task",
                names()
            ))),
            (None, _) if tasks.is_empty() => Err(content("there is no task definition in it".to_owned())),
            (None, _) => Err(content(format!(
                "there is no task definition `{}` in it; there is {}",
                wanted.unwrap_or_default(),
                names()
            ))),
        }
    }

    fn of_task(task: &TaskDefinition<'_>) -> Result<Definition, String> {
        if task.containers.is_empty() {
            return Err(match task.more_containers {
                true => format!("the containers of `{}` are not in this file", task.name),
                false => "`containerDefinitions` is empty".to_owned(),
            });
        }
        let launch_type = task.launch_type();
        let containers: Vec<PlayedContainer> = task
            .containers
            .iter()
            .enumerate()
            .map(|(i, container)| match container.name.text.as_ref() {
                NAMELESS => Err(format!("containerDefinitions[{i}] has no `name`")),
                _ => Ok(PlayedContainer::of(task, container)),
            })
            .collect::<Result<_, _>>()?;
        Ok(Definition {
            family: in_path(&task.name),
            revision: task.revision().unwrap_or(1).to_string(),
            network_mode: match task.network_mode.known() {
                Some(mode) => mode.to_string(),
                None if launch_type == DeclaredLaunchType::Ec2 => "bridge".to_owned(),
                // They have no other.
                None => "awsvpc".to_owned(),
            },
            containers,
            launch_type,
            cpu: task.cpu(),
            memory_mib: task.memory_mib.known().copied(),
            fargate_spot: false,
            desired_status: "RUNNING",
            started: Timestamp::now(),
            allowance: Allowance::default(),
        })
    }

    /// A task of `app` and `prestop` that share a network namespace.
    pub fn sample() -> Definition {
        let container = |name: &str| PlayedContainer {
            name: name.to_owned(),
            image: format!("{name}:latest"),
            labels: Map::new(),
            ports: Vec::new(),
            cpu_units: None,
            memory_mib: None,
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
            launch_type: DeclaredLaunchType::Ec2,
            cpu: Some(0.5),
            memory_mib: Some(512),
            fargate_spot: false,
            desired_status: "RUNNING",
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
        match self.launch_type {
            _ if self.fargate_spot => "FARGATE",
            DeclaredLaunchType::Ec2 => "EC2",
            DeclaredLaunchType::Fargate => "FARGATE",
            DeclaredLaunchType::ManagedInstances => "MANAGED_INSTANCES",
        }
    }

    /// Whether it runs on a container instance of the cluster.
    pub(super) fn on_instance(&self) -> bool {
        !self.fargate_spot && self.launch_type != DeclaredLaunchType::Fargate
    }

    /// Whether its containers reach the metadata of an instance: neither on Fargate nor on Managed
    /// Instances.
    pub(super) fn has_instance_metadata(&self) -> bool {
        self.launch_type == DeclaredLaunchType::Ec2
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

    /// All ports of TCP.
    pub(super) fn ports(&self) -> impl Iterator<Item = OutsidePort<'_>> {
        let all = self.containers.iter().flat_map(|container| {
            let ports = container.ports.iter().filter(|port| !port.udp);
            ports.map(|port| (container.name.as_str(), port))
        });
        (FIRST_DYNAMIC_PORT..)
            .zip(all)
            .map(|(dynamic, (container, port))| OutsidePort {
                container,
                container_port: port.container,
                host_port: if self.shares_network() {
                    port.container
                } else {
                    port.host.unwrap_or(dynamic)
                },
            })
    }

    pub(super) fn answer(&mut self, path: &str) -> StandInReply {
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
            json!({
                "ContainerPort": port.container,
                "Protocol": if port.udp { "udp" } else { "tcp" },
                "HostPort": port.host,
            })
        });
        // The agent gives a container without any the least that Linux has.
        let limits = limits(
            Some(container.cpu_units.unwrap_or(2).into()),
            container.memory_mib,
        );
        json!({
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
        })
    }

    fn shares_network(&self) -> bool {
        matches!(self.network_mode.as_str(), "awsvpc" | "host")
    }
}

impl PlayedContainer {
    fn of(task: &TaskDefinition<'_>, container: &model::ContainerDefinition<'_>) -> PlayedContainer {
        PlayedContainer {
            name: in_path(&container.name.text),
            image: container
                .image
                .known()
                .map(ToString::to_string)
                .unwrap_or_default(),
            labels: container
                .labels
                .iter()
                .map(|(label, (text, _))| (label.to_string(), text.as_ref().into()))
                .collect(),
            ports: task.port_mappings(container),
            cpu_units: container.cpu_units(task.form),
            memory_mib: container.memory_mib.known().copied(),
            // Whole seconds, as the API takes them.
            stop_timeout: container.stop_timeout_s.known().map(|seconds| *seconds as u64),
            status: "RUNNING".to_owned(),
            addresses: Vec::new(),
            id: None,
        }
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

/// A name that is an expression, as a part of a path of HTTP.
fn in_path(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    name.chars().map(|c| if plain(c) { c } else { '-' }).collect()
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
