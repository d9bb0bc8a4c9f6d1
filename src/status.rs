//! The state of the sidecar as others may see it: what `/status`, `/metrics` and `/ready` answer from.
//!
//! A snapshot, made anew by the sidecar at each change. Nobody writes to it.

use std::time::Instant;

use serde::Serialize;

use crate::lifecycle::Report;
use crate::mailbox::WatchState;
use crate::notice::Notice;
use crate::task::{Identity, Task};

/// One snapshot.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Who this task is.
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
    pub protection: Option<std::sync::Arc<crate::protect::Report>>,
    /// The first notice.
    #[serde(skip)]
    pub notice: Option<Notice>,
    /// When all must be over.
    #[serde(skip)]
    pub deadline: Option<Instant>,
    /// What is known of the task.
    #[serde(skip)]
    pub task: std::sync::Arc<Option<Task>>,
}
