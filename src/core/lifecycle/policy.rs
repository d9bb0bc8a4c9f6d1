//! What the settings say about the course of a shutdown.

use std::time::Duration;

use serde::Serialize;

use crate::core::deadline::Limits;
use crate::core::plan::Plan;

/// What the settings say about the course of a shutdown.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Stop timeout and reserve.
    pub limits: Limits,
    /// How long to serve on before the first step.
    pub settle: Duration,
    /// The same where the plan has a `quiet` step; another only where the first is not set.
    pub settle_before_quiet: Duration,
    /// What follows a drain that no SIGTERM asked for.
    pub after_drain: AfterDrain,
    /// What AWS is asked for beside the drain.
    pub aws: AwsPolicy,
}

impl Policy {
    /// What of the plan's waits does not fit into what a SIGTERM leaves, in words.
    pub fn too_long(&self, plan: &Plan) -> Option<String> {
        let budget = self.limits.stop_timeout.budget();
        let (settle, sleeps) = (self.settle_of(Some(plan)), plan.sleeps());
        if settle > budget / 2 {
            let half = budget / 2;
            return Some(format!(
                "PRESTOP_SETTLE is {settle:?}, but only {half:?} of it count: half of the {budget:?} that a SIGTERM \
                 leaves; raise the stop timeout, here and in the task definition"
            ));
        }
        (settle + sleeps > budget).then(|| {
            format!(
                "the `sleep` steps take {sleeps:?} after a settle time of {settle:?}, but a SIGTERM leaves {budget:?}: \
                 the deadline would come first; shorten them, or raise the stop timeout, here and in the task definition"
            )
        })
    }

    /// How long to serve on before the first step of that plan.
    pub fn settle_of(&self, plan: Option<&Plan>) -> Duration {
        match plan {
            Some(plan) if plan.quiets().next().is_some() => self.settle_before_quiet,
            _ => self.settle,
        }
    }
}

/// What AWS is asked for beside the drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AwsPolicy {
    /// Take the task out of its target groups before the first step.
    pub deregister: bool,
    /// Set the container instance to DRAINING when its host is about to go.
    pub drain_instance: bool,
    /// Ask ECS why it stops the task.
    pub ask_why: bool,
    /// End the task's protection before the sidecar leaves by itself.
    pub release_protection: bool,
}

/// Once drained with no SIGTERM yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AfterDrain {
    /// Stay until SIGTERM comes, or until the host is about to end.
    Wait,
    Exit,
    /// Ask ECS to stop the task, and stay until it does.
    #[serde(rename = "stop-task")]
    StopTask,
}
