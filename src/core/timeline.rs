//! What happened and when: the record that the log, `/status` and the `exit` line are made of.
//!
//! Each entry becomes one log line; the `exit` line repeats them all in milliseconds since the first
//! notice. Bounded, since an app that answers 503 for two minutes would otherwise fill it.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::core::notice::{Action, Cause, Reason};
use crate::core::quiet::Owed;

/// More than a plan of the largest size needs; what an endless retry adds beyond it is counted.
pub const MAX_ENTRIES: usize = 256;

/// The entries since the first notice.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    entries: Vec<Entry>,
    omitted: usize,
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When.
    pub at: Instant,
    /// What.
    pub what: What,
}

/// What can happen; the names of the variants are those of the log's events.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event")]
pub enum What {
    /// A reason to stop was seen, or seen again with a stricter end.
    #[serde(rename = "notice")]
    Notice {
        /// Why.
        reason: Reason,
        /// What EC2 will do, for a Spot interruption.
        #[serde(skip_serializing_if = "Option::is_none")]
        action: Option<Action>,
        /// From this notice to the deadline that now holds.
        deadline_in_ms: u64,
    },
    /// Serving goes on for a while before the first step.
    #[serde(rename = "settle")]
    Settle {
        /// How long, as far as the deadline allows.
        for_ms: u64,
    },
    /// A step begins.
    #[serde(rename = "step.start")]
    StepStart {
        /// Its number in the plan.
        step: usize,
        /// As text: `POST http://app:8080/drain`.
        does: String,
    },
    /// A call of the step was answered.
    #[serde(rename = "step.call")]
    StepCall {
        /// Its number in the plan.
        step: usize,
        /// Method and URL of this very call.
        call: String,
        /// The HTTP status.
        status: u16,
    },
    /// A `quiet` step sees another picture of the app's connections.
    #[serde(rename = "step.call")]
    StepLook {
        /// Its number in the plan.
        step: usize,
        /// Connections that count.
        open: usize,
        /// Those of them that owe an answer.
        owing: usize,
        /// Some of these, oldest first.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        owed: Vec<Owed>,
    },
    /// A call did not succeed and is made again.
    #[serde(rename = "step.retry")]
    StepRetry {
        /// Its number in the plan.
        step: usize,
        /// What came in place of an answer.
        why: String,
        /// When the next one is made.
        after_ms: u64,
    },
    /// A step has ended.
    #[serde(rename = "step.end")]
    StepEnd {
        /// Its number in the plan.
        step: usize,
        /// How.
        #[serde(flatten)]
        outcome: Outcome,
        /// From its start.
        took_ms: u64,
    },
    /// The deadline came before all steps were done.
    #[serde(rename = "deadline")]
    Deadline {
        /// How many steps were running or never started.
        unfinished: usize,
    },
    /// AWS is asked for something.
    #[serde(rename = "aws.start")]
    AwsStart {
        /// For what.
        call: AwsCall,
    },
    /// That has ended.
    #[serde(rename = "aws.end")]
    AwsEnd {
        /// What was asked for.
        call: AwsCall,
        /// How.
        #[serde(flatten)]
        outcome: Outcome,
        /// From its start.
        took_ms: u64,
    },
    /// ECS has said why it stops the task.
    #[serde(rename = "cause")]
    Cause {
        /// What it said.
        #[serde(flatten)]
        cause: Cause,
        /// From now to the deadline that now holds.
        deadline_in_ms: u64,
    },
    /// Every step has ended in time.
    #[serde(rename = "drained")]
    Drained {
        /// Whether the process stays until SIGTERM.
        #[serde(rename = "waiting_for_sigterm")]
        waiting: bool,
    },
    /// The end.
    #[serde(rename = "exit")]
    Exit {
        /// The exit code.
        code: u8,
        /// The exit code in words.
        result: &'static str,
    },
}

/// What can be asked of AWS in a shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AwsCall {
    /// Take this task out of its target groups, and wait until they have let go.
    Deregister,
    /// Set the container instance to DRAINING.
    DrainInstance,
    /// Stop this task.
    StopTask,
    /// Ask why it is stopped.
    Why,
    /// End its protection.
    ReleaseProtection,
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", content = "detail", rename_all = "lowercase")]
pub enum Outcome {
    /// The app has drained; how that was seen.
    Drained(String),
    /// AWS has done what it was asked for; what that was.
    Done(String),
    /// It could not be told to, for good; why, and what to look at.
    Failed(String),
}

impl What {
    /// The event of the last line.
    pub const EXIT: &str = "exit";

    /// The name of the event.
    pub fn event(&self) -> &'static str {
        match self {
            What::Notice { .. } => "notice",
            What::Settle { .. } => "settle",
            What::StepStart { .. } => "step.start",
            What::StepCall { .. } | What::StepLook { .. } => "step.call",
            What::StepRetry { .. } => "step.retry",
            What::StepEnd { .. } => "step.end",
            What::Deadline { .. } => "deadline",
            What::AwsStart { .. } => "aws.start",
            What::AwsEnd { .. } => "aws.end",
            What::Cause { .. } => "cause",
            What::Drained { .. } => "drained",
            What::Exit { .. } => What::EXIT,
        }
    }

    /// What only repeats itself and may be left out when the record is full.
    fn repeats(&self) -> bool {
        matches!(
            self,
            What::StepCall { .. } | What::StepLook { .. } | What::StepRetry { .. }
        )
    }
}

impl Timeline {
    /// Adds what happened.
    pub fn record(&mut self, at: Instant, what: What) {
        if self.entries.len() >= MAX_ENTRIES && what.repeats() {
            self.omitted += 1;
        } else {
            self.entries.push(Entry { at, what });
        }
    }

    /// All entries, oldest first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How many calls and retries were left out.
    pub fn omitted(&self) -> usize {
        self.omitted
    }
}

/// An entry as `exit` and `/status` show it.
#[derive(Clone, Debug, Serialize)]
pub struct Moment {
    /// Since the first notice.
    pub ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// Whole milliseconds; a duration here is never longer than a process lives.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
