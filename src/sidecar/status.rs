//! The state of the sidecar as others may see it: what `/status`, `/metrics` and `/ready` answer from.
//!
//! A snapshot, made anew by the sidecar at each change. Nobody writes to it.

use std::sync::Arc;
use std::time::Instant;

use serde::{Serialize, Serializer};

use crate::core::leases::AgentAnswer;
use crate::core::lifecycle::Report;
use crate::core::notice::ToldNotice;
use crate::core::task::{Identity, Task};
use crate::sidecar::mailbox::WatchState;

#[derive(Clone, Debug, Serialize)]
pub struct Status {
    #[serde(flatten)]
    pub identity: Identity,
    /// How the watchers are doing.
    pub watches: Vec<WatchState>,
    /// Why the sidecar could not do its work now, if it could not.
    pub unhealthy: Option<String>,
    /// State, reasons, budget, steps and timeline.
    #[serde(flatten)]
    pub report: Report,
    /// How task protection stands, where it is wanted; filled in by the endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protection: Option<Arc<ProtectionReport>>,
    /// Since when ECS wants this task gone, and why, where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub superseded: Option<SupersededReport>,
    /// The first notice.
    #[serde(skip)]
    pub notice: Option<ToldNotice>,
    /// When all must be over.
    #[serde(skip)]
    pub deadline: Option<Instant>,
    #[serde(skip)]
    pub task: Option<Arc<Task>>,
}

impl Status {
    /// Of a sidecar that has seen nothing yet.
    pub fn new(report: Report) -> Status {
        Status {
            identity: Identity::default(),
            watches: Vec::new(),
            unhealthy: None,
            report,
            protection: None,
            superseded: None,
            notice: None,
            deadline: None,
            task: None,
        }
    }
}

/// That ECS wants this task gone, as people read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SupersededReport {
    /// By the clock of this host.
    pub since: String,
    pub why: &'static str,
}

/// The state of task protection, as `/status` and `/metrics` tell it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProtectionReport {
    /// Whether ECS has agreed, and the agreement lasts.
    pub protected: bool,
    /// Whether ECS may protect the task: `false` only where it certainly does not.
    #[serde(skip)]
    pub may_be_protected: bool,
    /// The end of the protection by ECS's clock.
    pub protected_until: Option<String>,
    pub leases: Vec<LeaseReport>,
    /// Calls of ECS's agent that have ended.
    pub calls: CallCounts,
    /// Answers of the busy URL that were neither 200 nor 204, and those that did not come.
    pub busy_url_failures: u64,
    /// Why a protection that is wanted is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// A lease as people read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeaseReport {
    /// The name that the worker gave it.
    pub name: String,
    /// When it ends by itself, by the clock of this host.
    pub until: String,
}

/// How often a call has had each outcome, in the order of [`AgentAnswer::OUTCOMES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallCounts(pub [u64; 6]);

impl CallCounts {
    pub fn by_outcome(self) -> [(&'static str, u64); 6] {
        std::array::from_fn(|i| (AgentAnswer::OUTCOMES[i], self.0[i]))
    }
}

impl Serialize for CallCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.by_outcome())
    }
}
