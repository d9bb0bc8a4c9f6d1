//! The steps of a shutdown: the plan as it grows, whose turn it is, and what became of each.

use std::time::Instant;

use super::{Command, Lifecycle, Phase, Progress};
use crate::core::plan::{Plan, PlanSource, PlannedStep};
use crate::core::step::{MAX_STEPS, Step};
use crate::core::timeline::{Code, Outcome, Sight, What, millis};

/// What became of a step whose turn has come, or that was acknowledged before. One that waits has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StepState {
    /// Posted to `/drained` before its turn came.
    Acked,
    Running(Instant),
    Ended(Outcome),
}

impl Lifecycle {
    fn begin_with(&mut self, plan: Plan, now: Instant) {
        let before = self.settle();
        self.plan = Some(plan);
        if let (Phase::Settling { until }, Some(budget)) = (&mut self.phase, &self.budget) {
            // Only now is it known whether there is a `quiet` step.
            let most = budget.deadline.saturating_duration_since(budget.first) / 2;
            let settle = self.policy.settle_of(self.plan.as_ref()).min(most);
            if settle > before {
                *until = budget.first + settle;
                let for_ms = millis(until.saturating_duration_since(now));
                self.timeline.record(now, What::Settle { for_ms });
            }
        }
        for container in std::mem::take(&mut self.early_acks) {
            self.acknowledge(container, now);
        }
    }

    /// The first plan, or what a later reading adds to it.
    pub(super) fn adopt(&mut self, plan: Plan, now: Instant, commands: &mut Vec<Command>) {
        let nothing_begun = self.begun.is_empty();
        let known = match &mut self.plan {
            Some(known) if known.source() != PlanSource::Default || !nothing_begun => known,
            _ => return self.begin_with(plan, now),
        };
        if known.source() == PlanSource::Setting {
            return;
        }
        let added = known.add_from(plan);
        match self.phase {
            // Their turn would have been by now.
            Phase::Draining { order } => {
                for step in added.into_iter().filter(|step| step.order <= order) {
                    self.start_step(step, now, commands);
                }
            }
            Phase::Waiting if !added.is_empty() => {
                let order = added.iter().map(|step| step.order).max().unwrap_or_default();
                self.phase = Phase::Draining { order };
                for step in added {
                    self.start_step(step, now, commands);
                }
            }
            _ => {}
        }
    }

    pub(super) fn start(&mut self, order: i64, now: Instant, commands: &mut Vec<Command>) {
        self.phase = Phase::Draining { order };
        let Some(plan) = &self.plan else { return };
        let group = plan.steps().iter();
        let group = group.filter(|step| step.order == order && self.awaits_its_turn(step));
        let group: Vec<PlannedStep> = group.cloned().collect();
        for step in group {
            self.start_step(step, now, commands);
        }
    }

    fn start_step(&mut self, step: PlannedStep, now: Instant, commands: &mut Vec<Command>) {
        let before = self.begun.insert(step.number, StepState::Running(now));
        let acked = before == Some(StepState::Acked);
        self.timeline.record(
            now,
            What::StepStart {
                step: step.number,
                does: step.step.clone(),
            },
        );
        match step.step {
            Step::Ack if acked => self.end_step(step.number, acknowledged(), now),
            Step::Ack => {}
            Step::Quiet(_) | Step::Sleep(_) | Step::Call(_) | Step::Signal(_) => {
                let more_behind = self.next_order().is_some();
                commands.push(Command::Start { step, more_behind });
            }
        }
    }

    pub(super) fn end_step(&mut self, number: usize, outcome: Outcome, now: Instant) {
        let Some(StepState::Running(since)) = self.begun.get(&number) else {
            return;
        };
        let took_ms = millis(now.saturating_duration_since(*since));
        self.begun.insert(number, StepState::Ended(outcome.clone()));
        let what = What::StepEnd {
            step: number,
            outcome,
            took_ms,
        };
        self.timeline.record(now, what);
    }

    /// The ack step of that container, or the first that nobody has acknowledged yet.
    pub(super) fn acknowledge(&mut self, container: Option<String>, now: Instant) {
        let Some(plan) = &self.plan else {
            if self.early_acks.len() < MAX_STEPS {
                self.early_acks.push(container);
            }
            return;
        };
        let awaited = plan.steps().iter().find(|step| {
            step.step == Step::Ack
                && (container.is_none() || step.container == container)
                && matches!(self.begun.get(&step.number), None | Some(StepState::Running(_)))
        });
        let Some(number) = awaited.map(|step| step.number) else {
            return;
        };
        match self.begun.get(&number) {
            Some(_) => self.end_step(number, acknowledged(), now),
            None => drop(self.begun.insert(number, StepState::Acked)),
        }
    }

    pub(super) fn note_progress(&mut self, step: usize, progress: Progress, now: Instant) {
        let what = match progress {
            Progress::Looked { open, owing, owed } => What::StepCall {
                step,
                sight: Sight::Connections { open, owing, owed },
            },
            Progress::Called { call, status } => What::StepCall {
                step,
                sight: Sight::Answer { call, status },
            },
            Progress::Retrying { why, after } => What::StepRetry {
                step,
                why,
                after_ms: millis(after),
            },
        };
        self.timeline.record(now, what);
    }

    pub(super) fn any_runs(&self) -> bool {
        let mut begun = self.begun.values();
        begun.any(|state| matches!(state, StepState::Running(_)))
    }

    /// The lowest order with a step that has not started.
    pub(super) fn next_order(&self) -> Option<i64> {
        let steps = self.plan.iter().flat_map(Plan::steps);
        let waiting = steps.filter(|step| self.awaits_its_turn(step));
        waiting.map(|step| step.order).min()
    }

    fn awaits_its_turn(&self, step: &PlannedStep) -> bool {
        matches!(self.begun.get(&step.number), None | Some(StepState::Acked))
    }

    /// How many steps of the plan have not ended.
    pub(super) fn unfinished(&self) -> usize {
        let steps = self.plan.iter().flat_map(Plan::steps);
        let ended = |step: &PlannedStep| matches!(self.begun.get(&step.number), Some(StepState::Ended(_)));
        steps.filter(|step| !ended(step)).count()
    }

    pub(super) fn code_of_steps(&self) -> Code {
        let failed = |state: &StepState| matches!(state, StepState::Ended(Outcome::Failed(_)));
        if self.begun.values().any(failed) {
            Code::Failed
        } else {
            Code::Drained
        }
    }
}

fn acknowledged() -> Outcome {
    Outcome::Drained("acknowledged by POST /drained".to_owned())
}
