//! Why the task must stop, and when its host ends.
//!
//! A notice is a fact that a watcher saw; what follows from it is decided in [`crate::core::deadline`] and
//! [`crate::core::lifecycle`].

use std::time::Instant;

use serde::Serialize;

/// Where a notice comes from. The names are part of the contract with users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
    /// Where it comes from.
    pub reason: Reason,
    /// Only with [`Reason::SpotInterruption`].
    pub action: Option<Action>,
    /// When the host goes away, where that is known. Already monotonic: whoever reads a wall-clock
    /// time converts it on the spot.
    pub host_ends: Option<Instant>,
    /// Whether that is assumed only, because the capacity may be Spot; ECS may know better.
    pub assumed: bool,
}

/// What ECS says of why it stops a task (API reference, *Task*).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// `SpotInterruption`, `ServiceSchedulerInitiated`, `UserInitiated` and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_code: Option<String>,
    /// In words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped_reason: Option<String>,
    /// `FARGATE`, `FARGATE_SPOT`, or one of the cluster's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_provider: Option<String>,
    /// `EC2`, `FARGATE` and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch_type: Option<String>,
}

impl Cause {
    /// Whether the host goes away with the task; `None` where ECS does not say.
    pub fn host_goes(&self) -> Option<bool> {
        let capacity = self.capacity_provider.as_deref();
        match (self.stop_code.as_deref(), capacity) {
            (Some("SpotInterruption" | "TerminationNotice"), _) => Some(true),
            (_, Some("FARGATE")) => Some(false),
            (_, None) if self.launch_type.as_deref() == Some("FARGATE") => Some(false),
            _ => None,
        }
    }
}

impl Notice {
    /// A notice that says nothing of the host.
    pub fn new(reason: Reason) -> Notice {
        Notice {
            reason,
            action: None,
            host_ends: None,
            assumed: false,
        }
    }

    /// A notice whose host may end at that time.
    pub fn host_may_end_at(reason: Reason, end: Instant) -> Notice {
        Notice {
            assumed: true,
            ..Notice::host_ends_at(reason, end)
        }
    }

    /// A notice of a host that ends at a known time.
    pub fn host_ends_at(reason: Reason, end: Instant) -> Notice {
        Notice {
            host_ends: Some(end),
            ..Notice::new(reason)
        }
    }
}
