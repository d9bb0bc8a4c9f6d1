//! The state machine of a shutdown: an event and the time come in, commands go out.
//!
//! It owns all state that a notice changes and decides everything that the contract promises about
//! time: which deadline holds, when the first step starts, which steps go together, when the process
//! ends and with which code. It does no I/O and has no clock; [`crate::sidecar::run`] carries out what it wants done.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::core::deadline::{CEILING, StopTimeout};
use crate::core::notice::{Cause, HostEnd, Notice, Reason, ToldNotice};
use crate::core::plan::{Plan, PlanSource, PlannedStep};
use crate::core::quiet::Owed;
use crate::core::timeline::{AwsCall, AwsOutcome, Outcome, Timeline, What, millis};

use steps::StepState;

pub use crate::core::timeline::Code;
pub use policy::{AfterDrain, AwsPolicy, Policy};
pub use report::{Report, ShutdownState, StepReport, StepStatus};

/// What the task metadata may delay the first step: its two calls answer from the agent's memory. A reading
/// that takes longer goes on, and what it finds is still done.
const LABELS_LIMIT: Duration = Duration::from_secs(1);

/// What the shell tells the lifecycle.
#[derive(Clone, Debug)]
pub enum Event {
    /// [`Lifecycle::next_timeout`] has come.
    Timeout,
    /// Somebody saw a reason to stop.
    Notice(Notice),
    /// The containers' labels have been read: the plan of them, if there is any.
    Labels(Option<Plan>),
    /// Somebody posted to `/drained`, naming the container or not.
    Ack(Option<String>),
    /// A running step has something to tell.
    Progress(usize, Progress),
    StepEnded(usize, Outcome),
    AwsEnded(AwsCall, AwsOutcome),
    /// ECS has said why it stops the task.
    Cause(Cause),
    /// ECS has said what this container's stop timeout is.
    StopTimeout(StopTimeout),
    /// A second SIGINT.
    Interrupt,
    /// The sidecar cannot do its work, such as with no step anywhere.
    Refuse(Code),
}

/// What a running step tells on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    Called {
        /// Method and URL.
        call: String,
        status: u16,
    },
    /// The app's connections were looked at.
    Looked {
        /// Those that count.
        open: usize,
        /// Those that owe an answer.
        owing: usize,
        /// Some of these, oldest first.
        owed: Vec<Owed>,
    },
    /// A call is made again after a while.
    Retrying {
        /// What came in place of a good answer.
        why: String,
        after: Duration,
    },
}

/// What the lifecycle wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read the labels again: ECS lists containers as it makes them, and there may be more by now.
    ReadLabels,
    /// Start this step. An `ack` is only waited for, by the lifecycle itself, and never commanded.
    Start {
        step: PlannedStep,
        /// Whether others wait behind it, which need time, too.
        more_behind: bool,
    },
    /// Ask AWS for this, beside everything else.
    Aws(AwsCall),
    /// Drop whatever runs: the end has come, with the code that [`Lifecycle::ended`] tells.
    DropSteps,
}

/// One shutdown, from before its first notice to its end.
#[derive(Debug)]
pub struct Lifecycle {
    policy: Policy,
    /// Missing while the labels could not be read.
    plan: Option<Plan>,
    phase: Phase,
    /// Set by the first notice; from then on there is a deadline.
    budget: Option<Budget>,
    /// What became of the steps that do not wait for their turn any more, by number.
    begun: BTreeMap<usize, StepState>,
    /// While the labels are read again: how long the first step waits for that at most.
    reading: Option<Instant>,
    /// Who posted to `/drained` while there was no plan yet.
    early_acks: Vec<Option<String>>,
    /// While the target groups have not let go: how long the first step waits for that at most.
    leaving: Option<Instant>,
    /// What was asked of AWS; each at most once.
    asked: Vec<AskedOfAws>,
    timeline: Timeline,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No notice yet.
    Watching,
    /// A notice is there; the first step starts at `until`, or as soon after as there is a plan.
    Settling { until: Instant },
    /// The steps of this order run.
    Draining { order: i64 },
    /// All steps have ended, SIGTERM has not come.
    Waiting,
    /// Nothing follows.
    Ended(Code),
}

/// The notices seen, merged.
#[derive(Clone, Debug)]
struct Budget {
    first: Instant,
    deadline: Instant,
    /// At most one per reason, in the order in which they came.
    notices: Vec<Notice>,
    /// The deadline if no host ends that was only assumed to.
    if_host_stays: Instant,
}

#[derive(Clone, Copy, Debug)]
struct AskedOfAws {
    call: AwsCall,
    since: Instant,
    answered: bool,
}

impl Lifecycle {
    /// A lifecycle that watches. Without a plan it asks for one at the first notice.
    pub fn new(policy: Policy, plan: Option<Plan>) -> Lifecycle {
        Lifecycle {
            policy,
            plan,
            phase: Phase::Watching,
            budget: None,
            begun: BTreeMap::new(),
            reading: None,
            early_acks: Vec::new(),
            leaving: None,
            asked: Vec::new(),
            timeline: Timeline::default(),
        }
    }

    /// When [`Event::Timeout`] is due; `None` while there is nothing to wait for.
    pub fn next_timeout(&self) -> Option<Instant> {
        let budget = self.budget.as_ref()?;
        match self.phase {
            Phase::Watching | Phase::Ended(_) => None,
            // Without a plan there is nothing to start, and the labels are still being read.
            Phase::Settling { .. } if self.plan.is_none() => Some(budget.deadline),
            Phase::Settling { until } => Some(self.first_step_at(until).min(budget.deadline)),
            Phase::Draining { .. } => Some(budget.deadline),
            Phase::Waiting if self.leaves_by_itself() => Some(budget.deadline),
            Phase::Waiting => budget.host_ends().then_some(budget.deadline),
        }
    }

    /// Takes an event and says what to do about it, in order.
    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Command> {
        let mut commands = Vec::new();
        if matches!(self.phase, Phase::Ended(_)) {
            return commands;
        }
        match event {
            Event::Timeout => {}
            Event::Notice(notice) => self.merge(notice, now, &mut commands),
            Event::Labels(plan) => {
                self.reading = None;
                if let Some(plan) = plan {
                    self.adopt(plan, now, &mut commands);
                }
            }
            Event::Ack(container) => self.acknowledge(container, now),
            Event::Progress(number, progress) => self.note_progress(number, progress, now),
            Event::StepEnded(number, outcome) => self.end_step(number, outcome, now),
            Event::AwsEnded(call, outcome) => self.end_aws(call, outcome, now),
            Event::Cause(cause) => self.learn(cause, now),
            Event::StopTimeout(stop_timeout) => {
                // What a notice has set in motion is not changed any more.
                if self.budget.is_none() {
                    self.policy.limits.stop_timeout = stop_timeout;
                }
            }
            Event::Interrupt => self.exit(Code::Interrupted, now, &mut commands),
            Event::Refuse(code) => self.exit(code, now, &mut commands),
        }
        self.advance(now, &mut commands);
        commands
    }

    /// Goes on as far as the time and the ended steps allow.
    fn advance(&mut self, now: Instant, commands: &mut Vec<Command>) {
        let Some(deadline) = self.budget.as_ref().map(|budget| budget.deadline) else {
            return;
        };
        loop {
            match self.phase {
                Phase::Watching | Phase::Ended(_) => return,
                Phase::Waiting => {
                    let leaves = self.leaves_by_itself() && !self.has_to_be_answered();
                    let over = leaves || self.next_timeout().is_some_and(|end| now >= end);
                    if over || self.sigterm_seen() {
                        self.exit(self.code_of_steps(), now, commands);
                    } else if self.policy.after_drain == AfterDrain::StopTask && !self.has_to_be_answered() {
                        // Not before: the SIGTERM that follows is the end of all calls.
                        self.ask_aws(AwsCall::StopTask, now, commands);
                    }
                    return;
                }
                _ if now >= deadline => return self.reach_deadline(now, commands),
                Phase::Settling { until } if now < self.first_step_at(until) => return,
                Phase::Settling { .. } => match self.next_order() {
                    Some(order) => self.start(order, now, commands),
                    None => return,
                },
                Phase::Draining { .. } if self.any_runs() => return,
                Phase::Draining { .. } => match self.next_order() {
                    Some(order) => self.start(order, now, commands),
                    None => self.finish(now, commands),
                },
            }
        }
    }

    fn merge(&mut self, notice: Notice, now: Instant, commands: &mut Vec<Command>) {
        let own = self.policy.limits.deadline(&notice, now);
        let own_if_host_stays = self.policy.limits.deadline(&notice.if_host_stays(), now);
        let first_notice = self.budget.is_none();
        let budget = self.budget.get_or_insert_with(|| Budget {
            first: now,
            deadline: now + CEILING,
            notices: Vec::new(),
            if_host_stays: now + CEILING,
        });
        let stricter = own < budget.deadline;
        let known = budget.notices.iter().any(|seen| seen.reason == notice.reason);
        budget.deadline = budget.deadline.min(own);
        budget.if_host_stays = budget.if_host_stays.min(own_if_host_stays);
        if !known {
            budget.notices.push(notice);
        }
        let left = budget.deadline.saturating_duration_since(now);
        if known && !stricter {
            return;
        }
        self.timeline.record(
            now,
            What::Notice {
                reason: notice.reason,
                action: notice.action(),
                deadline_in_ms: millis(left),
            },
        );
        if !known {
            if first_notice {
                self.leave_target_groups(now, commands);
            }
            self.ask_aws_about(notice.reason, now, commands);
        }
        let settle = self.settle().min(left / 2);
        for wait in [&mut self.leaving, &mut self.reading].into_iter().flatten() {
            *wait = (*wait).min(now + left / 2);
        }
        if first_notice {
            if !settle.is_zero() {
                let for_ms = millis(settle);
                self.timeline.record(now, What::Settle { for_ms });
            }
            if !self.plan_is_set() {
                self.reading = Some(now + LABELS_LIMIT.min(left / 2));
                commands.push(Command::ReadLabels);
            }
            self.phase = Phase::Settling { until: now + settle };
        } else if let Phase::Settling { until } = &mut self.phase {
            // A stricter deadline leaves less to settle, a later notice never more.
            *until = (*until).min(now + left / 2);
        }
    }

    fn settle(&self) -> Duration {
        self.policy.settle_of(self.plan.as_ref())
    }

    /// The deadline has come first.
    fn reach_deadline(&mut self, now: Instant, commands: &mut Vec<Command>) {
        let unfinished = self.unfinished();
        self.timeline.record(now, What::Deadline { unfinished });
        self.exit(Code::Deadline, now, commands);
    }

    /// All steps have ended.
    fn finish(&mut self, now: Instant, commands: &mut Vec<Command>) {
        let releases = self.leaves_by_itself() && self.policy.aws.release_protection;
        let waiting =
            !self.sigterm_seen() && (!self.leaves_by_itself() || releases || self.has_to_be_answered());
        if self.code_of_steps() == Code::Drained {
            self.timeline.record(now, What::Drained { waiting });
        }
        if waiting {
            self.phase = Phase::Waiting;
            if releases {
                self.ask_aws(AwsCall::ReleaseProtection, now, commands);
            }
        } else {
            self.exit(self.code_of_steps(), now, commands);
        }
    }

    fn exit(&mut self, code: Code, now: Instant, commands: &mut Vec<Command>) {
        self.timeline.record(now, What::Exit { code });
        self.phase = Phase::Ended(code);
        commands.push(Command::DropSteps);
    }

    /// Whether the process ends once drained, without a SIGTERM.
    fn leaves_by_itself(&self) -> bool {
        self.policy.after_drain == AfterDrain::Exit
    }

    /// Whether a call is under way that outlives the task: it takes seconds, and nobody would repeat it.
    fn has_to_be_answered(&self) -> bool {
        self.asked.iter().any(|asked| {
            matches!(asked.call, AwsCall::DrainInstance | AwsCall::ReleaseProtection) && !asked.answered
        })
    }

    /// When the first step may start, if nothing more comes.
    fn first_step_at(&self, settled: Instant) -> Instant {
        let waits = [self.leaving, self.reading];
        waits.into_iter().flatten().fold(settled, Instant::max)
    }

    /// Whether labels have nothing to add.
    fn plan_is_set(&self) -> bool {
        let plan = self.plan.as_ref();
        plan.is_some_and(|plan| plan.source() == PlanSource::Setting)
    }

    fn leave_target_groups(&mut self, now: Instant, commands: &mut Vec<Command>) {
        if !self.policy.aws.deregister {
            return;
        }
        // Never more than half of what there is: the app must be told in time.
        let left = self.deadline().map(|end| end.saturating_duration_since(now));
        self.leaving = left.map(|left| now + left / 2);
        self.ask_aws(AwsCall::Deregister, now, commands);
    }

    fn ask_aws_about(&mut self, reason: Reason, now: Instant, commands: &mut Vec<Command>) {
        let AwsPolicy {
            deregister: _,
            drain_instance,
            ask_why,
            release_protection: _,
        } = self.policy.aws;
        let host_goes = matches!(reason, Reason::SpotInterruption | Reason::RebalanceRecommendation);
        if drain_instance && host_goes {
            self.ask_aws(AwsCall::DrainInstance, now, commands);
        }
        // Of its own notices the sidecar knows more than ECS does.
        if ask_why && reason == Reason::Sigterm {
            self.ask_aws(AwsCall::Why, now, commands);
        }
    }

    fn ask_aws(&mut self, call: AwsCall, now: Instant, commands: &mut Vec<Command>) {
        if self.asked.iter().all(|asked| asked.call != call) {
            self.asked.push(AskedOfAws {
                call,
                since: now,
                answered: false,
            });
            self.timeline.record(now, What::AwsStart { call });
            commands.push(Command::Aws(call));
        }
    }

    fn end_aws(&mut self, call: AwsCall, outcome: AwsOutcome, now: Instant) {
        let Some(asked) = self.asked.iter_mut().find(|asked| asked.call == call) else {
            return;
        };
        asked.answered = true;
        let took = now.saturating_duration_since(asked.since);
        self.timeline.record(
            now,
            What::AwsEnd {
                call,
                outcome,
                took_ms: millis(took),
            },
        );
        if call == AwsCall::Deregister {
            self.leaving = None;
        }
    }

    /// Spot sharpens the deadline; a host that stays takes back what was only assumed of it.
    fn learn(&mut self, cause: Cause, now: Instant) {
        let limits = self.policy.limits;
        let Some(budget) = &mut self.budget else { return };
        match cause.host_goes() {
            Some(true) => {
                let end = budget.first + CEILING;
                let spot = Notice::host_ends_at(Reason::SpotInterruption, end);
                let own = limits.deadline(&spot, now);
                budget.deadline = budget.deadline.min(own);
                budget.if_host_stays = budget.if_host_stays.min(own);
                for notice in &mut budget.notices {
                    notice.host_end = HostEnd::Known(notice.host_end.at().unwrap_or(end));
                }
            }
            Some(false) => {
                for notice in &mut budget.notices {
                    notice.host_end = notice.host_end.if_host_stays();
                }
                budget.deadline = budget.if_host_stays;
            }
            None => {}
        }
        let deadline_in_ms = millis(budget.deadline.saturating_duration_since(now));
        self.timeline.record(
            now,
            What::Cause {
                cause,
                deadline_in_ms,
            },
        );
    }

    fn sigterm_seen(&self) -> bool {
        self.notices()
            .iter()
            .any(|notice| notice.reason == Reason::Sigterm)
    }
}

/// What can be asked of it at any time.
impl Lifecycle {
    /// What holds now; the one place where the stop timeout stands that ECS may have told.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Every reason to stop, once, in the order in which they came.
    pub fn notices(&self) -> &[Notice] {
        self.budget.as_ref().map_or(&[], |budget| &budget.notices)
    }

    /// What the app is told of them.
    pub fn notice(&self) -> Option<ToldNotice> {
        let reason = self.notices().first()?.reason;
        let action = self.notices().iter().find_map(Notice::action);
        Some(ToldNotice { reason, action })
    }

    /// When all must be over; `None` before the first notice.
    pub fn deadline(&self) -> Option<Instant> {
        self.budget.as_ref().map(|budget| budget.deadline)
    }

    /// The plan, once it is known.
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    pub fn has_plan(&self) -> bool {
        self.plan.is_some()
    }

    /// What happened so far.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// The code of the end, once it has come.
    pub fn ended(&self) -> Option<Code> {
        match self.phase {
            Phase::Ended(code) => Some(code),
            _ => None,
        }
    }
}

impl Budget {
    fn host_ends(&self) -> bool {
        self.notices.iter().any(|notice| notice.host_end.at().is_some())
    }
}

mod policy;
mod report;
mod steps;
#[cfg(test)]
mod tests;
