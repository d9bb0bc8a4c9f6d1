//! A shutdown as people and programs read it: what `/status` and the `exit` line show.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::steps::StepState;
use super::{Lifecycle, Phase};
use crate::core::notice::Reason;
use crate::core::plan::Plan;
use crate::core::step::Step;
use crate::core::timeline::{Moment, Outcome, Sight, What, as_text, millis};

/// A shutdown as people and programs read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub state: ShutdownState,
    /// Every reason, in the order in which they came.
    pub reasons: Vec<Reason>,
    /// From the first notice to the deadline.
    pub budget_ms: Option<u64>,
    /// From the first notice to the end.
    pub used_ms: Option<u64>,
    pub steps: Vec<StepReport>,
    /// Since the first notice.
    pub timeline: Vec<Moment>,
    /// Calls and retries that the timeline had no room for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub omitted: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShutdownState {
    /// No notice yet.
    Watching,
    /// A notice is there, and no step has begun.
    Settling,
    /// Steps run.
    Draining,
    /// All steps have ended, SIGTERM has not come.
    Waiting,
    /// The process is about to exit.
    Ended,
}

impl ShutdownState {
    /// Every state, in the order in which they come.
    pub const ALL: [ShutdownState; 5] = [
        ShutdownState::Watching,
        ShutdownState::Settling,
        ShutdownState::Draining,
        ShutdownState::Waiting,
        ShutdownState::Ended,
    ];

    /// The name in `/status` and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            ShutdownState::Watching => "watching",
            ShutdownState::Settling => "settling",
            ShutdownState::Draining => "draining",
            ShutdownState::Waiting => "waiting",
            ShutdownState::Ended => "ended",
        }
    }
}

/// A step as people and programs read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// Its number in the plan, from 1.
    pub step: usize,
    pub order: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// What it does, written as in `PRESTOP_DRAIN`.
    #[serde(with = "as_text")]
    pub does: Step,
    #[serde(flatten)]
    pub status: StepStatus,
}

/// What became of a step so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "StatusFields", try_from = "StatusFields")]
pub enum StepStatus {
    /// Its turn has not come.
    Pending,
    /// It is under way.
    Running,
    /// The app has drained; how that was seen.
    Drained(String),
    /// It could not be told to; why.
    Failed(String),
    /// The end came while it ran; what was still owed, where that is known.
    Dropped(Option<String>),
    /// The end came before its turn.
    NeverStarted,
}

impl StepStatus {
    /// One of each kind, without its detail.
    pub const KINDS: [StepStatus; 6] = [
        StepStatus::Pending,
        StepStatus::Running,
        StepStatus::Drained(String::new()),
        StepStatus::Failed(String::new()),
        StepStatus::Dropped(None),
        StepStatus::NeverStarted,
    ];

    /// Whether both are of the same kind, whatever their details.
    pub fn is_like(&self, other: &StepStatus) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// The name in `/status` and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            StepStatus::Pending => "pending",
            StepStatus::Running => "running",
            StepStatus::Drained(_) => "drained",
            StepStatus::Failed(_) => "failed",
            StepStatus::Dropped(_) => "dropped",
            StepStatus::NeverStarted => "never started",
        }
    }

    /// How it drained, or why it did not.
    pub fn detail(&self) -> Option<&str> {
        match self {
            StepStatus::Drained(detail) | StepStatus::Failed(detail) => Some(detail),
            StepStatus::Dropped(detail) => detail.as_deref(),
            StepStatus::Pending | StepStatus::Running | StepStatus::NeverStarted => None,
        }
    }
}

/// A status as a line of the log has it.
#[derive(Serialize, Deserialize)]
struct StatusFields {
    outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl From<StepStatus> for StatusFields {
    fn from(status: StepStatus) -> StatusFields {
        StatusFields {
            outcome: status.as_str().to_owned(),
            detail: status.detail().map(ToOwned::to_owned),
        }
    }
}

impl TryFrom<StatusFields> for StepStatus {
    type Error = String;

    fn try_from(fields: StatusFields) -> Result<StepStatus, String> {
        let StatusFields { outcome, detail } = fields;
        let kind = StepStatus::KINDS
            .into_iter()
            .find(|kind| kind.as_str() == outcome);
        match kind {
            Some(StepStatus::Drained(_)) => Ok(StepStatus::Drained(detail.unwrap_or_default())),
            Some(StepStatus::Failed(_)) => Ok(StepStatus::Failed(detail.unwrap_or_default())),
            Some(StepStatus::Dropped(_)) => Ok(StepStatus::Dropped(detail)),
            Some(other) => Ok(other),
            None => Err(format!("`{outcome}` is no outcome of a step")),
        }
    }
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

    fn state(&self) -> ShutdownState {
        match self.phase {
            Phase::Watching => ShutdownState::Watching,
            Phase::Settling { .. } => ShutdownState::Settling,
            Phase::Draining { .. } => ShutdownState::Draining,
            Phase::Waiting => ShutdownState::Waiting,
            Phase::Ended(_) => ShutdownState::Ended,
        }
    }

    /// What the last look of a `quiet` step saw, for the end that comes before its own.
    fn still_owed(&self, number: usize) -> Option<String> {
        let entries = self.timeline.entries().iter().rev();
        let (owing, owed) = entries
            .filter_map(|entry| match &entry.what {
                What::StepCall {
                    step,
                    sight: Sight::Connections { owing, owed, .. },
                } if *step == number => Some((owing, owed)),
                _ => None,
            })
            .next()?;
        if *owing == 0 {
            return Some("nobody was owed an answer any more, but not for long enough".to_owned());
        }
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
            .map(|planned| StepReport {
                step: planned.number,
                order: planned.order,
                container: planned.container.clone(),
                does: planned.step.clone(),
                status: match self.begun.get(&planned.number) {
                    Some(StepState::Ended(Outcome::Drained(how))) => StepStatus::Drained(how.clone()),
                    Some(StepState::Ended(Outcome::Failed(why))) => StepStatus::Failed(why.clone()),
                    Some(StepState::Running(_)) if ended => {
                        StepStatus::Dropped(self.still_owed(planned.number))
                    }
                    Some(StepState::Running(_)) => StepStatus::Running,
                    None | Some(StepState::Acked) if ended => StepStatus::NeverStarted,
                    None | Some(StepState::Acked) => StepStatus::Pending,
                },
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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::core::notice::{Action, Cause};
    use crate::core::quiet::Owed;
    use crate::core::step::parse_steps;
    use crate::core::timeline::{AwsCall, AwsOutcome, Code, What};

    fn step() -> impl Strategy<Value = Step> {
        let texts = "POST http://app:8080/drain?a=1,GET http://[::1]/x,ack,signal QUIT web,signal TERM app nowait,quiet,\
             quiet moves :80 :443 for 1500ms within 1m30s,sleep 5s,sleep 1500ms,sleep 90s";
        select(parse_steps(texts).unwrap())
    }

    fn reason() -> impl Strategy<Value = Reason> {
        select(Reason::ALL.to_vec())
    }

    fn status() -> impl Strategy<Value = StepStatus> {
        (select(StepStatus::KINDS.to_vec()), any::<String>()).prop_map(|(kind, detail)| match kind {
            StepStatus::Drained(_) => StepStatus::Drained(detail),
            StepStatus::Failed(_) => StepStatus::Failed(detail),
            StepStatus::Dropped(_) => StepStatus::Dropped((!detail.is_empty()).then_some(detail)),
            other => other,
        })
    }

    fn cause() -> impl Strategy<Value = Cause> {
        let stop_code = prop_oneof![
            select(vec!["SpotInterruption", "UserInitiated"]).prop_map(str::to_owned),
            any::<String>(),
        ];
        let capacity = prop_oneof![
            select(vec!["FARGATE", "FARGATE_SPOT"]).prop_map(str::to_owned),
            any::<String>(),
        ];
        let launch_type = prop_oneof![
            select(vec!["EC2", "FARGATE", "EXTERNAL", "MANAGED_INSTANCES"]).prop_map(str::to_owned),
            any::<String>(),
        ];
        let words = option::of(any::<String>());
        (
            option::of(stop_code),
            words,
            option::of(capacity),
            option::of(launch_type),
        )
            .prop_map(|(code, stopped_reason, capacity, launch_type)| Cause {
                stop_code: code.as_deref().map(Into::into),
                stopped_reason,
                capacity_provider: capacity.as_deref().map(Into::into),
                launch_type: launch_type.as_deref().map(Into::into),
            })
    }

    fn what() -> impl Strategy<Value = What> {
        let ms = any::<u64>();
        let number = any::<usize>();
        let words = any::<String>();
        let actions = vec![Action::Terminate, Action::Stop, Action::Hibernate];
        let calls = vec![
            AwsCall::Deregister,
            AwsCall::DrainInstance,
            AwsCall::StopTask,
            AwsCall::Why,
            AwsCall::ReleaseProtection,
        ];
        let call = select(calls);
        prop_oneof![
            (reason(), option::of(select(actions)), ms).prop_map(|(reason, action, deadline_in_ms)| {
                What::Notice {
                    reason,
                    action,
                    deadline_in_ms,
                }
            }),
            ms.prop_map(|for_ms| What::Settle { for_ms }),
            (number, step()).prop_map(|(step, does)| What::StepStart { step, does }),
            (number, words, any::<u16>()).prop_map(|(step, call, status)| What::StepCall {
                step,
                sight: Sight::Answer { call, status },
            }),
            (
                number,
                number,
                number,
                vec((any::<std::net::Ipv4Addr>(), any::<u16>(), ms), 0..3)
            )
                .prop_map(|(step, open, owing, owed)| What::StepCall {
                    step,
                    sight: Sight::Connections {
                        open,
                        owing,
                        owed: owed
                            .into_iter()
                            .map(|(ip, port, for_ms)| Owed {
                                peer: (ip, port).into(),
                                for_ms,
                            })
                            .collect(),
                    },
                }),
            (number, words, ms).prop_map(|(step, why, after_ms)| What::StepRetry { step, why, after_ms }),
            (number, any::<bool>(), words, ms).prop_map(|(step, well, detail, took_ms)| What::StepEnd {
                step,
                outcome: if well {
                    Outcome::Drained(detail)
                } else {
                    Outcome::Failed(detail)
                },
                took_ms,
            }),
            number.prop_map(|unfinished| What::Deadline { unfinished }),
            call.clone().prop_map(|call| What::AwsStart { call }),
            (call, any::<bool>(), words, ms).prop_map(|(call, well, detail, took_ms)| What::AwsEnd {
                call,
                outcome: if well {
                    AwsOutcome::Done(detail)
                } else {
                    AwsOutcome::Failed(detail)
                },
                took_ms,
            }),
            (cause(), ms).prop_map(|(cause, deadline_in_ms)| What::Cause {
                cause,
                deadline_in_ms,
            }),
            any::<bool>().prop_map(|waiting| What::Drained { waiting }),
            select(Code::ALL.to_vec()).prop_map(|code| What::Exit { code }),
        ]
    }

    fn step_report() -> impl Strategy<Value = StepReport> {
        let container = option::of(any::<String>());
        (any::<usize>(), any::<i64>(), container, step(), status()).prop_map(
            |(step, order, container, does, status)| StepReport {
                step,
                order,
                container,
                does,
                status,
            },
        )
    }

    fn report() -> impl Strategy<Value = Report> {
        let moment = (any::<u64>(), what()).prop_map(|(ms, what)| Moment { ms, what });
        let ms = option::of(any::<u64>());
        (
            select(ShutdownState::ALL.to_vec()),
            vec(reason(), 0..4),
            (ms.clone(), ms, any::<usize>()),
            vec(step_report(), 0..4),
            vec(moment, 0..8),
        )
            .prop_map(
                |(state, reasons, (budget_ms, used_ms, omitted), steps, timeline)| Report {
                    state,
                    reasons,
                    budget_ms,
                    used_ms,
                    steps,
                    timeline,
                    omitted,
                },
            )
    }

    proptest! {
        #[test]
        fn what_is_told_is_read_back_as_it_was(report in report()) {
            let told = serde_json::to_string(&report).unwrap();
            prop_assert_eq!(serde_json::from_str::<Report>(&told).unwrap(), report, "{}", told);
        }

        #[test]
        fn each_event_is_told_under_its_name(what in what()) {
            prop_assert_eq!(&serde_json::to_value(&what).unwrap()["event"], what.event());
        }
    }

    #[test]
    fn names_in_metrics_are_those_of_the_log() {
        for state in ShutdownState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        for kind in StepStatus::KINDS {
            assert_eq!(serde_json::to_value(&kind).unwrap()["outcome"], kind.as_str());
        }
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
