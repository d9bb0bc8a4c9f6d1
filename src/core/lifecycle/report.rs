//! A shutdown as people and programs read it: what `/status` and the `exit` line show.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Lifecycle, Phase, StepState};
use crate::core::notice::Reason;
use crate::core::plan::Plan;
use crate::core::timeline::{Moment, Outcome, What, millis};

/// A shutdown as people and programs read it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `watching`, `settling`, `draining`, `waiting` or `ended`.
    pub state: &'static str,
    /// Every reason, in the order in which they came.
    pub reasons: Vec<Reason>,
    /// From the first notice to the deadline.
    pub budget_ms: Option<u64>,
    /// From the first notice to the end.
    pub used_ms: Option<u64>,
    /// What became of each step.
    pub steps: Vec<StepReport>,
    /// Since the first notice.
    pub timeline: Vec<Moment>,
    /// Calls and retries that the timeline had no room for.
    #[serde(skip_serializing_if = "is_zero")]
    pub omitted: usize,
}

/// A step as people and programs read it.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    /// Its number in the plan, from 1.
    pub step: usize,
    /// Its order.
    pub order: i64,
    /// The container whose label it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// As text.
    pub does: String,
    /// `pending`, `running`, `drained`, `failed`, `dropped` or `never started`.
    pub outcome: &'static str,
    /// How or why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Lifecycle {
    /// The whole story for `/status` and the `exit` line.
    pub fn report(&self) -> Report {
        let first = self.budget.as_ref().map(|budget| budget.first);
        let since_first = |at: Instant| first.map_or(0, |first| millis(at.saturating_duration_since(first)));
        let last = self.timeline.entries().last();
        Report {
            state: self.state(),
            reasons: self.notices().iter().map(|notice| notice.reason).collect(),
            budget_ms: self.deadline().map(since_first),
            used_ms: self.ended().and(last).map(|entry| since_first(entry.at)),
            steps: self.step_reports(),
            omitted: self.timeline.omitted(),
            timeline: self
                .timeline
                .entries()
                .iter()
                .map(|entry| Moment {
                    ms: since_first(entry.at),
                    what: entry.what.clone(),
                })
                .collect(),
        }
    }

    fn state(&self) -> &'static str {
        match self.phase {
            Phase::Watching => "watching",
            Phase::Settling { .. } => "settling",
            Phase::Draining { .. } => "draining",
            Phase::Waiting => "waiting",
            Phase::Ended(_) => "ended",
        }
    }

    /// What the last look of a `quiet` step saw, for the end that comes before its own.
    fn still_owed(&self, number: usize) -> Option<String> {
        let entries = self.timeline.entries().iter().rev();
        let (owing, owed) = entries
            .filter_map(|entry| match &entry.what {
                What::StepLook {
                    step, owing, owed, ..
                } if *step == number => Some((owing, owed)),
                _ => None,
            })
            .next()?;
        let names = owed
            .iter()
            .map(|owed| format!("{} for {:.1?}", owed.peer, Duration::from_millis(owed.for_ms)));
        let names: Vec<String> = names.collect();
        Some(format!("{owing} still owed an answer: {}", names.join(", ")))
    }

    fn step_reports(&self) -> Vec<StepReport> {
        let ended = self.ended().is_some();
        let steps = self.plan.iter().flat_map(Plan::steps);
        steps
            .map(|planned| {
                let (outcome, detail) = match &self.steps[planned.number - 1] {
                    StepState::Ended(Outcome::Drained(how) | Outcome::Done(how)) => {
                        ("drained", Some(how.clone()))
                    }
                    StepState::Ended(Outcome::Failed(why)) => ("failed", Some(why.clone())),
                    StepState::Running(_) if ended => ("dropped", self.still_owed(planned.number)),
                    StepState::Running(_) => ("running", None),
                    StepState::Pending | StepState::Acked if ended => ("never started", None),
                    StepState::Pending | StepState::Acked => ("pending", None),
                };
                StepReport {
                    step: planned.number,
                    order: planned.order,
                    container: planned.container.clone(),
                    does: planned.step.to_string(),
                    outcome,
                    detail,
                }
            })
            .collect()
    }
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_zero(n: &usize) -> bool {
    *n == 0
}
