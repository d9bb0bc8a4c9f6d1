//! What is known of this ECS task: its identity and its containers.
//!
//! Plain data. The shell reads it from the task metadata endpoint; plans, calls and log lines use it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use serde::Serialize;

use crate::core::notice::LaunchType;

/// Who this task is; every field is missing in local mode.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Name or ARN of the cluster, as ECS gives it.
    pub cluster: Option<String>,
    pub task_arn: Option<String>,
    /// The family and revision of its task definition, as in `web:7`.
    pub family: Option<String>,
}

impl Identity {
    /// The last part of the ARN, by which people and log groups know a task.
    pub fn task_id(&self) -> Option<&str> {
        self.task_arn.as_deref()?.rsplit('/').next()
    }
}

/// One answer of the task metadata endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Task {
    pub identity: Identity,
    pub launch_type: Option<LaunchType>,
    /// Whether its network namespace is the instance's.
    pub on_host_network: bool,
    /// This container's name in the task definition.
    pub own_name: Option<String>,
    /// The user's containers other than this one; the agent's own (pause containers) are left out.
    pub containers: Vec<Container>,
    /// The `DockerId`s of this container and of the agent's own.
    pub internal_ids: Vec<String>,
    /// Whether ECS is still making containers: there may be more of them, with labels, than are listed.
    pub starting: bool,
    /// Whether ECS wants the task to be STOPPED.
    pub stopping: bool,
}

/// Where this task is registered, so that others send to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registered {
    /// With a load balancer.
    Target(RegisteredTarget),
    /// In Cloud Map.
    Name(RegisteredName),
}

impl Registered {
    /// As people name it.
    pub fn name(&self) -> &str {
        match self {
            Registered::Target(target) => target.group_name(),
            Registered::Name(name) => name.service.rsplit('/').next().unwrap_or_default(),
        }
    }
}

/// One registration of this task with a service of Cloud Map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredName {
    /// The ARN of that service.
    pub service: String,
    /// How long clients keep an address that they got by it, once that is known.
    pub ttl: Option<Duration>,
}

/// One registration of this task with a load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredTarget {
    /// The ARN of the target group.
    pub group: String,
    /// An address, or an EC2 instance.
    pub id: String,
    pub port: i32,
}

impl RegisteredTarget {
    /// The group's name, for people.
    pub fn group_name(&self) -> &str {
        self.group.split('/').nth(1).unwrap_or(&self.group)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// Its name in the task definition.
    pub name: String,
    /// Its id in the container runtime, which its cgroup may bear.
    pub docker_id: Option<String>,
    /// Whether ECS knows it as STOPPED.
    pub stopped: bool,
    pub labels: BTreeMap<String, String>,
    /// Whether it shares this container's network namespace (`awsvpc`, `host`).
    pub shares_network: bool,
    /// Its own addresses, for `bridge`.
    pub addresses: Vec<IpAddr>,
}

impl Task {
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The names of the containers, as ECS lists them.
    pub fn names(&self) -> Vec<&str> {
        self.containers
            .iter()
            .map(|container| container.name.as_str())
            .collect()
    }

    /// The container that a call to `host` reaches: the one of that name, or the only one there is
    /// where the host is loopback.
    pub fn container_behind(&self, host: &str) -> Option<&Container> {
        let loopback = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        match self.containers.as_slice() {
            [only] if loopback && only.shares_network => Some(only),
            _ => self.container(host),
        }
    }

    /// Whether its containers have network namespaces of their own, behind ports of the host.
    pub fn is_bridged(&self) -> bool {
        let mut containers = self.containers.iter();
        containers.any(|container| !container.shares_network && !container.addresses.is_empty())
    }

    /// Whether ECS runs this task where the capacity may be Spot and only ECS says so: on Fargate and on Managed
    /// Instances, which are on demand, reserved or Spot (ECS developer guide, *Amazon ECS Managed Instances*).
    pub fn may_be_spot(&self) -> bool {
        self.on_fargate() || self.launch_type == Some(LaunchType::ManagedInstances)
    }

    /// Whether ECS runs this task on Fargate, where there is no instance metadata.
    pub fn on_fargate(&self) -> bool {
        self.launch_type == Some(LaunchType::Fargate)
    }
}

impl Container {
    /// Where its ports are reached from here: loopback, both families, where the network namespace
    /// is shared; its own addresses otherwise. Empty where neither is known.
    pub fn reached_at(&self) -> Vec<IpAddr> {
        if self.shares_network {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        } else {
            self.addresses.clone()
        }
    }
}
