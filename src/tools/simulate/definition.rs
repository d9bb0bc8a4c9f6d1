//! The task that is pretended: what its definition says, in whichever form, and what has become of it.

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::tools::document;
use crate::tools::model::{self, DeclaredLaunchType, NAMELESS, NoTask, PortMapping, TaskDefinition};
use crate::tools::source::{FileProblem, Source};

use super::task_metadata::Allowance;

pub(super) const CLUSTER: &str = "laptop";
/// The status of a container that ECS has not begun to make, and does not list.
pub(super) const NOT_CREATED: &str = "NONE";

pub(super) const TASK_ID: &str = "5e0c4bf0d1e24d4e8a4f6a5f7f0c9b11";

/// The task's own address under `awsvpc`.
pub(super) const TASK_ADDRESS: &str = "10.0.2.106";

/// The first of the ports that Docker gives to containers that ask for none.
const FIRST_DYNAMIC_PORT: u16 = 32_768;

/// Why a file is no task definition that could be pretended.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// It cannot be read.
    #[error("{0}")]
    Unreadable(FileProblem),
    /// It says too little, or too much.
    #[error("{file}: {why}")]
    Content { file: String, why: String },
}

/// The task that is pretended.
pub struct Definition {
    pub(super) family: String,
    pub(super) revision: String,
    pub(super) network_mode: String,
    pub(super) containers: Vec<PlayedContainer>,
    /// On what it runs, by its file.
    pub(super) launch_type: DeclaredLaunchType,
    /// vCPU and MiB of the task, where they are given.
    pub(super) cpu: Option<f64>,
    pub(super) memory_mib: Option<u64>,
    /// Whether it runs on Fargate Spot; else it runs on what its file says.
    pub(super) fargate_spot: bool,
    /// What ECS wants of the task: `STOPPED` from the moment at which it begins to stop it.
    pub(super) desired_status: &'static str,
    pub(super) started: Timestamp,
    pub(super) allowance: Allowance,
}

/// One port of a container and where it is found from outside.
pub(super) struct OutsidePort<'a> {
    pub(super) container: &'a str,
    pub(super) container_port: u16,
    pub(super) host_port: u16,
}

pub(super) struct PlayedContainer {
    pub(super) name: String,
    pub(super) image: String,
    pub(super) labels: Map<String, Value>,
    pub(super) ports: Vec<PortMapping>,
    pub(super) cpu_units: Option<u64>,
    pub(super) memory_mib: Option<u64>,
    pub(super) stop_timeout: Option<u64>,
    pub(super) status: String,
    pub(super) addresses: Vec<IpAddr>,
    /// Where it is a real container.
    pub(super) id: Option<String>,
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
        let source = Source::new("task-definition.json", value.to_string());
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
            NoTask::Empty => content(model::nothing_in(&root)),
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

    pub(super) fn shares_network(&self) -> bool {
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
