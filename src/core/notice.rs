//! Why the task must stop, and when its host ends.
//!
//! A notice is a fact that a watcher saw; what follows from it is decided in [`crate::core::deadline`] and
//! [`crate::core::lifecycle`].

use std::fmt;
use std::time::Instant;

use serde::de::IntoDeserializer;
use serde::de::value::Error;
use serde::{Deserialize, Serialize};

/// Where a notice comes from. The names are part of the contract with users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// ECS stops the task (or somebody at a terminal presses Ctrl-C).
    Sigterm,
    /// IMDS `spot/instance-action`: EC2 takes the instance back.
    SpotInterruption,
    /// IMDS `events/recommendations/rebalance`: an interruption has become likely.
    RebalanceRecommendation,
    /// IMDS `events/maintenance/scheduled`: AWS will work on the host.
    ScheduledMaintenance,
    /// IMDS `autoscaling/target-lifecycle-state` is `Terminated`.
    AutoscalingTermination,
    /// `POST /drain` on the local endpoint.
    Manual,
}

impl Reason {
    /// Every reason, in the order of the contract.
    pub const ALL: [Reason; 6] = [
        Reason::Sigterm,
        Reason::SpotInterruption,
        Reason::RebalanceRecommendation,
        Reason::ScheduledMaintenance,
        Reason::AutoscalingTermination,
        Reason::Manual,
    ];

    /// The name in logs, headers and endpoints.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Sigterm => "sigterm",
            Reason::SpotInterruption => "spot-interruption",
            Reason::RebalanceRecommendation => "rebalance-recommendation",
            Reason::ScheduledMaintenance => "scheduled-maintenance",
            Reason::AutoscalingTermination => "autoscaling-termination",
            Reason::Manual => "manual",
        }
    }
}

/// What EC2 is going to do with a Spot instance (EC2 user guide, *Spot Instance interruption
/// notices*).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The instance is gone for good.
    Terminate,
    /// It is stopped and may come back.
    Stop,
    /// It is suspended to disk, which begins at once.
    Hibernate,
}

/// One reason to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    pub reason: Reason,
    /// Set by [`Notice::spot_interruption`] only.
    action: Option<Action>,
    /// When the host goes away, as far as that is known.
    pub host_end: HostEnd,
}

/// When the host goes away. Already monotonic: whoever reads a wall-clock time converts it on the spot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostEnd {
    /// Nobody has said that it does.
    Unknown,
    /// Then, if the capacity is Spot, which ECS may know better.
    Assumed(Instant),
    /// Then, by AWS's word.
    Known(Instant),
}

impl HostEnd {
    /// When it goes away at the earliest.
    pub fn at(self) -> Option<Instant> {
        match self {
            HostEnd::Unknown => None,
            HostEnd::Assumed(end) | HostEnd::Known(end) => Some(end),
        }
    }

    /// What is left of it once ECS has said that the host stays.
    pub fn if_host_stays(self) -> HostEnd {
        match self {
            HostEnd::Assumed(_) => HostEnd::Unknown,
            known => known,
        }
    }
}

impl Notice {
    /// A notice that says nothing of the host.
    pub fn new(reason: Reason) -> Notice {
        Notice {
            reason,
            action: None,
            host_end: HostEnd::Unknown,
        }
    }

    /// EC2 takes the instance back, in a way that it may have named.
    pub fn spot_interruption(action: Option<Action>, end: Instant) -> Notice {
        Notice {
            action,
            ..Notice::host_ends_at(Reason::SpotInterruption, end)
        }
    }

    /// What EC2 is going to do with the instance, where this is its notice and says so.
    pub fn action(&self) -> Option<Action> {
        self.action
    }

    pub fn host_may_end_at(reason: Reason, end: Instant) -> Notice {
        Notice {
            host_end: HostEnd::Assumed(end),
            ..Notice::new(reason)
        }
    }

    /// What is left of it once ECS has said that the host stays.
    pub fn if_host_stays(self) -> Notice {
        Notice {
            host_end: self.host_end.if_host_stays(),
            ..self
        }
    }

    /// A notice of a host that ends at a known time.
    pub fn host_ends_at(reason: Reason, end: Instant) -> Notice {
        Notice {
            host_end: HostEnd::Known(end),
            ..Notice::new(reason)
        }
    }
}

/// All notices together, as the app is told of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToldNotice {
    /// The first reason.
    pub reason: Reason,
    /// What EC2 is going to do with the instance, where any notice says so.
    pub action: Option<Action>,
}

/// What ECS says of why it stops a task (API reference, *Task*).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Missing while ECS has not made up its mind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_code: Option<StopCode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped_reason: Option<String>,
    /// Missing where the task was started by launch type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_provider: Option<CapacityProvider>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch_type: Option<LaunchType>,
}

impl Cause {
    /// Whether the host goes away with the task; `None` where ECS does not say.
    pub fn host_goes(&self) -> Option<bool> {
        match (&self.stop_code, &self.capacity_provider, &self.launch_type) {
            (Some(StopCode::SpotInterruption | StopCode::TerminationNotice), ..) => Some(true),
            (_, Some(CapacityProvider::Fargate), _) => Some(false),
            (_, None, Some(LaunchType::Fargate)) => Some(false),
            _ => None,
        }
    }
}

/// `stopCode` of a task (API reference, *Task*).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopCode {
    TaskFailedToStart,
    EssentialContainerExited,
    UserInitiated,
    ServiceSchedulerInitiated,
    SpotInterruption,
    TerminationNotice,
    InfrastructureHealth,
    /// One that came later than this program.
    #[serde(untagged)]
    Other(String),
}

/// What gives the task its capacity (API reference, *CapacityProvider*).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CapacityProvider {
    #[serde(rename = "FARGATE")]
    Fargate,
    #[serde(rename = "FARGATE_SPOT")]
    FargateSpot,
    /// One of the cluster's own.
    #[serde(untagged)]
    Other(String),
}

/// On what a task runs (API reference, *Task*, `launchType`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LaunchType {
    Ec2,
    Fargate,
    External,
    ManagedInstances,
    /// One that came later than this program.
    #[serde(untagged)]
    Other(String),
}

/// Reads the name as ECS gives it, and shows it so.
macro_rules! named_by_ecs {
    ($($kind:ident),+) => {$(
        impl From<&str> for $kind {
            fn from(name: &str) -> $kind {
                let known: Result<$kind, Error> = $kind::deserialize(name.into_deserializer());
                known.unwrap_or_else(|_| $kind::Other(name.to_owned()))
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.serialize(f)
            }
        }
    )+};
}

named_by_ecs!(StopCode, CapacityProvider, LaunchType);
