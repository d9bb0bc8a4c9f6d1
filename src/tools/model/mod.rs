//! A task definition as the rules see it, whichever form it came in.
//!
//! What a file cannot tell is [`Value::Unknown`] and never guessed: an intrinsic of CloudFormation, a
//! variable of compose, a placeholder of a template. Each value carries the node that it was read from.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::document::{Node, Span};

mod capacity;
mod compose;
mod ecs;
mod fields;
mod forms;
mod image;
mod placed;
mod roles;
mod sidecar;
mod stops;
mod template;
mod terraform;

pub use capacity::Host;
pub use fields::{reference, substitution};
pub use forms::{NoTask, OF_MODULES, leaves_tasks_to_modules, not_read, nothing_in, tasks};
pub use image::{ImageConfig, ImageFile, of_dockerfile, of_inspect};
pub use placed::{DeclaredLaunchType, PortMapping};
pub use sidecar::{PROTECT_POLICY, SUPERSEDED_POLICY, SidecarContainer, Steps};
pub use template::{Instances, Offer, Scheduled, Service, TargetGroup};
pub use terraform::in_snake_case;

/// More containers than any task may have: 10 (developer guide, *Service quotas*). What stands behind
/// them is not looked at, so that no file can make the rules slow.
pub const MAX_CONTAINERS: usize = 64;

/// What stands for the name of a container that has none.
pub const NAMELESS: &str = "(no name)";

/// What a field holds.
#[derive(Clone, Debug)]
pub enum Value<'a, T> {
    /// It is not there, so its default holds.
    Absent,
    /// It is there, but this file does not say what it is.
    Unknown(&'a Node<'a>),
    Known(T, &'a Node<'a>),
}

impl<'a, T> Value<'a, T> {
    pub fn known(&self) -> Option<&T> {
        match self {
            Value::Known(value, _) => Some(value),
            Value::Absent | Value::Unknown(_) => None,
        }
    }

    /// The value or its default; `None` where it is unknown.
    pub fn or_default(&self, default: T) -> Option<T>
    where
        T: Copy,
    {
        match self {
            Value::Known(value, _) => Some(*value),
            Value::Absent => Some(default),
            Value::Unknown(_) => None,
        }
    }

    /// Where it stands, if it does.
    pub fn node(&self) -> Option<&'a Node<'a>> {
        match self {
            Value::Known(_, node) | Value::Unknown(node) => Some(node),
            Value::Absent => None,
        }
    }

    /// Whether the default holds.
    pub fn is_absent(&self) -> bool {
        matches!(self, Value::Absent)
    }

    fn and_then<U>(self, convert: impl FnOnce(T) -> Option<U>) -> Value<'a, U> {
        match self {
            Value::Absent => Value::Absent,
            Value::Unknown(node) => Value::Unknown(node),
            Value::Known(value, node) => match convert(value) {
                Some(value) => Value::Known(value, node),
                None => Value::Unknown(node),
            },
        }
    }
}

/// A word from the file.
pub type Text<'a> = Cow<'a, str>;

/// The forms in which people have task definitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentForm {
    /// What `register-task-definition` takes.
    Register,
    /// What `describe-task-definition` prints.
    Describe,
    /// Only the list of containers, as Terraform takes it.
    Containers,
    /// `AWS::ECS::TaskDefinition` in a template.
    CloudFormation,
    /// The services of a compose file.
    Compose,
    /// `aws_ecs_task_definition`, or a module that makes one: in Terraform's language, or as
    /// `terraform show -json` prints it.
    Terraform,
}

#[derive(Debug)]
pub struct TaskDefinition<'a> {
    pub form: DocumentForm,
    /// The family, the logical ID of a template, or the name in Terraform.
    pub name: String,
    /// The object that holds the fields; in a template its properties.
    pub node: &'a Node<'a>,
    /// Where to point for what concerns the whole task.
    pub at: Span,
    /// The list of containers, or compose's `services`.
    pub list: &'a Node<'a>,
    pub containers: Vec<ContainerDefinition<'a>>,
    /// Whether the list may hold containers that this file does not tell.
    pub more_containers: bool,
    pub compatibilities: Value<'a, Vec<Text<'a>>>,
    pub network_mode: Value<'a, Text<'a>>,
    pub pid_mode: Value<'a, Text<'a>>,
    pub task_role: Value<'a, ()>,
    /// `memory` of the task, in MiB.
    pub memory_mib: Value<'a, u64>,
    /// `runtimePlatform.operatingSystemFamily`
    pub system: Value<'a, Text<'a>>,
    /// The App Mesh proxy: `proxyConfiguration.containerName`.
    pub proxy: Value<'a, Text<'a>>,
    /// The services that run it, where the template has them.
    pub services: Vec<Service<'a>>,
    /// The instances of the template that answer IMDS with a hop limit of 1.
    pub short_hops: Vec<&'a Node<'a>>,
    /// What starts the instances of the template; only the first of its tasks has them.
    pub instances: Vec<Instances<'a>>,
    /// `ECS_CONTAINER_STOP_TIMEOUT` of those instances.
    pub agent_stop_timeout_s: Option<f64>,
    /// What starts it on Spot by the clock or by an event.
    pub scheduled_on_spot: Vec<Scheduled<'a>>,
}

/// A container, or a service of compose.
#[derive(Debug)]
pub struct ContainerDefinition<'a> {
    pub node: &'a Node<'a>,
    /// The condition of a template under which it is there; `None` where it always is.
    pub condition: Option<Condition<'a>>,
    /// Its name; equal expressions are equal names.
    pub name: Name<'a>,
    pub image: Value<'a, Text<'a>>,
    pub essential: Value<'a, bool>,
    pub depends_on: Vec<Dependency<'a>>,
    /// Whether it may depend on more than this file tells.
    pub more_dependencies: bool,
    /// `stopTimeout` in seconds.
    pub stop_timeout_s: Value<'a, f64>,
    /// What its image starts by itself, where that is at hand.
    pub starts: Option<ImageConfig>,
    pub entry_point: Value<'a, Vec<Text<'a>>>,
    pub command: Value<'a, Vec<Text<'a>>>,
    pub environment: Vec<Variable<'a>>,
    /// Whether variables may come from elsewhere: a file, an expression.
    pub more_environment: bool,
    /// `secrets`: names and where they stand.
    pub secrets: Vec<Name<'a>>,
    /// `portMappings`: what the container listens on.
    pub ports: Value<'a, Vec<u16>>,
    /// Whether a port of `portMappings` says `appProtocol: http2` or `grpc`.
    pub speaks_http2: bool,
    pub log: Option<Log<'a>>,
    /// `firelensConfiguration`: this is the log router.
    pub firelens: Option<&'a Node<'a>>,
    /// `healthCheck.command`
    pub health_check: Value<'a, Vec<Text<'a>>>,
    /// `linuxParameters.initProcessEnabled`
    pub init: Value<'a, bool>,
    /// `linuxParameters.capabilities`
    pub capabilities: Capabilities<'a>,
    pub user: Value<'a, Text<'a>>,
    pub read_only: Value<'a, bool>,
    /// `memory`: the hard limit in MiB.
    pub memory_mib: Value<'a, u64>,
    /// `dockerLabels` whose values are known.
    pub labels: BTreeMap<Text<'a>, (Text<'a>, &'a Node<'a>)>,
    /// Whether it may have more labels than this file tells.
    pub more_labels: bool,
    /// `restartPolicy`: whether it is enabled, and the exit codes that are left alone.
    pub restarts: Value<'a, Vec<i64>>,
}

/// A condition of a template, and whether it has to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition<'a> {
    /// Its name under `Conditions`.
    pub name: &'a str,
    /// `false` behind the second branch of an `!If`.
    pub holds: bool,
}

#[derive(Clone, Debug)]
pub struct Name<'a> {
    /// As written, or the expression that makes it.
    pub text: Text<'a>,
    /// Whether `text` is the name and no expression.
    pub literal: bool,
    pub node: &'a Node<'a>,
}

/// One entry of `dependsOn`.
#[derive(Clone, Debug)]
pub struct Dependency<'a> {
    pub on: Name<'a>,
    /// `condition`; compose's words are turned into those of ECS.
    pub condition: Value<'a, Text<'a>>,
}

/// One entry of `environment`.
#[derive(Debug)]
pub struct Variable<'a> {
    pub name: Text<'a>,
    pub value: Value<'a, Text<'a>>,
    /// Where to point: the value, or the entry without one.
    pub node: &'a Node<'a>,
}

#[derive(Debug)]
pub struct Log<'a> {
    pub node: &'a Node<'a>,
    pub driver: Value<'a, Text<'a>>,
    /// `options.mode`
    pub mode: Value<'a, Text<'a>>,
}

/// `linuxParameters.capabilities`, as far as they are known.
#[derive(Debug, Default)]
pub struct Capabilities<'a> {
    pub add: Vec<Text<'a>>,
    pub drop: Vec<Text<'a>>,
    /// Whether there may be others.
    pub unknown: bool,
}

/// How containers find each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkMode {
    /// All containers of the task share one loopback: `awsvpc` and `host`.
    Shared,
    /// Each has its own address: `bridge`, and compose.
    Apart,
    None,
    /// The file does not say.
    Unknown,
}

impl<'a> TaskDefinition<'a> {
    pub fn container(&self, name: &str) -> Option<&ContainerDefinition<'a>> {
        self.containers
            .iter()
            .find(|container| container.name.text == name)
    }

    /// Whether it runs on Fargate; `None` where the file does not say.
    pub fn on_fargate(&self) -> Option<bool> {
        let listed = self
            .compatibilities
            .known()
            .map(|list| list.iter().any(|word| word == "FARGATE"));
        let started = self.services.iter().any(|service| service.on_fargate);
        match (listed, self.network_mode.known().map(AsRef::as_ref)) {
            (Some(true), _) => Some(true),
            _ if started => Some(true),
            (Some(false), _) | (None, Some("bridge" | "host" | "none")) => Some(false),
            (None, _) => None,
        }
    }

    /// Whether the file says that it runs on instances that ECS manages.
    pub fn on_managed_instances(&self) -> bool {
        let listed = self
            .compatibilities
            .known()
            .is_some_and(|list| list.iter().any(|word| word == "MANAGED_INSTANCES"));
        listed || self.services.iter().any(|service| service.on_managed_instances)
    }

    /// How its containers find each other.
    pub fn network(&self) -> NetworkMode {
        match &self.network_mode {
            Value::Unknown(_) => NetworkMode::Unknown,
            Value::Known(mode, _) => match mode.as_ref() {
                "awsvpc" | "host" => NetworkMode::Shared,
                "bridge" | "default" => NetworkMode::Apart,
                "none" => NetworkMode::None,
                _ => NetworkMode::Unknown,
            },
            // Fargate has no other than awsvpc, and without a word Linux on EC2 has bridge (API
            // reference, RegisterTaskDefinition, networkMode).
            Value::Absent => match self.on_fargate() {
                Some(true) => NetworkMode::Shared,
                // They have awsvpc and host (developer guide, task definition
                // parameters for Amazon ECS Managed Instances, networkMode).
                _ if self.on_managed_instances() => NetworkMode::Shared,
                _ => NetworkMode::Apart,
            },
        }
    }

    /// Whether its containers run Windows.
    pub fn on_windows(&self) -> bool {
        self.system
            .known()
            .is_some_and(|system| system.starts_with("WINDOWS"))
    }
}

impl<'a> ContainerDefinition<'a> {
    pub fn depends_directly_on(&self, name: &str) -> bool {
        self.depends_on
            .iter()
            .any(|dependency| dependency.on.text == name)
    }

    pub fn variable(&self, name: &str) -> Option<&Variable<'a>> {
        self.environment.iter().find(|variable| variable.name == name)
    }

    /// Whether it is essential; so it is without a word (API reference, *ContainerDefinition*).
    pub fn is_essential(&self) -> bool {
        self.essential.or_default(true).unwrap_or(true)
    }

    /// The last part of the image's name, without registry, tag and digest.
    pub fn image_name(&self) -> Option<&str> {
        let image = self.image.known()?;
        let without_digest = image.split('@').next().unwrap_or(image);
        let last = without_digest.rsplit('/').next().unwrap_or(without_digest);
        Some(last.split(':').next().unwrap_or(last))
    }

    /// What its first process is started as: entry point and command together, its image's where the file
    /// has none of its own. `None` where either is unknown, or the image decides and is not at hand.
    pub fn arguments(&self) -> Option<Vec<&str>> {
        let mut words: Vec<&str> = Vec::new();
        // An entry point of the file's own leaves nothing of the image's (Docker Engine API, Entrypoint).
        let image = self.starts.as_ref().filter(|_| self.entry_point.is_absent());
        for (part, by_image) in [
            (&self.entry_point, image.map(|image| &image.entry_point)),
            (&self.command, image.map(|image| &image.command)),
        ] {
            match (part, by_image) {
                (Value::Absent, Some(by_image)) => words.extend(by_image.iter().map(String::as_str)),
                (Value::Absent, None) => {}
                (Value::Unknown(_), _) => return None,
                (Value::Known(list, _), _) => words.extend(list.iter().map(AsRef::as_ref)),
            }
        }
        (!words.is_empty()).then_some(words)
    }
}
