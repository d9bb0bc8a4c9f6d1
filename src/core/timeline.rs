//! What happened and when: the record that the log, `/status` and the `exit` line are made of.
//!
//! Each entry becomes one log line; the `exit` line repeats them all in milliseconds since the first
//! notice, and tools read them back from there. Bounded, since an app that answers 503 for two minutes
//! would otherwise fill it.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::core::notice::{Action, Cause, Reason};
use crate::core::quiet::Owed;
use crate::core::step::Step;

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
    pub at: Instant,
    pub what: What,
}

/// What can happen; the names of the variants are those of the log's events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event")]
pub enum What {
    /// A reason to stop was seen, or seen again with a stricter end.
    #[serde(rename = "notice")]
    Notice {
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
    #[serde(rename = "step.start")]
    StepStart {
        /// Its number in the plan.
        step: usize,
        /// Which is written as in `PRESTOP_DRAIN`: `POST http://app:8080/drain`.
        #[serde(with = "as_text")]
        does: Step,
    },
    /// A call of the step was answered, or a `quiet` step has looked.
    #[serde(rename = "step.call")]
    StepCall {
        /// Its number in the plan.
        step: usize,
        #[serde(flatten)]
        sight: Sight,
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
    #[serde(rename = "step.end")]
    StepEnd {
        /// Its number in the plan.
        step: usize,
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
    AwsStart { call: AwsCall },
    /// That has ended.
    #[serde(rename = "aws.end")]
    AwsEnd {
        call: AwsCall,
        #[serde(flatten)]
        outcome: AwsOutcome,
        /// From its start.
        took_ms: u64,
    },
    /// ECS has said why it stops the task.
    #[serde(rename = "cause")]
    Cause {
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
    #[serde(rename = "exit")]
    Exit {
        #[serde(flatten)]
        code: Code,
    },
}

/// What can be asked of AWS in a shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AwsCall {
    /// Take this task out of its target groups and of Cloud Map, and wait until they have let go.
    Deregister,
    /// Set the container instance to DRAINING.
    DrainInstance,
    StopTask,
    /// Ask why it is stopped.
    Why,
    ReleaseProtection,
}

/// What a running step saw of the app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Sight {
    Answer {
        /// Method and URL of this very call.
        call: String,
        status: u16,
    },
    /// Another picture of the app's connections.
    Connections {
        /// Those that count.
        open: usize,
        /// Those of them that owe an answer.
        owing: usize,
        /// Some of these, oldest first.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        owed: Vec<Owed>,
    },
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "detail", rename_all = "lowercase")]
pub enum Outcome {
    /// The app has drained; how that was seen.
    Drained(String),
    /// It could not be told to, for good; why, and what to look at.
    Failed(String),
}

/// How a call of AWS ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "detail", rename_all = "lowercase")]
pub enum AwsOutcome {
    /// AWS has done what it was asked for; what that was.
    Done(String),
    /// It has not; why, and what to look at.
    Failed(String),
}

/// The exit codes of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "CodeFields", try_from = "CodeFields")]
pub enum Code {
    /// Every step was done in time.
    Drained,
    /// A fault of the sidecar itself.
    Fault,
    /// The deadline came first.
    Deadline,
    /// A step failed for good.
    Failed,
    /// Wrong settings (`EX_CONFIG` of sysexits.h).
    Settings,
    /// A second SIGINT (128 + 2, as a shell has it).
    Interrupted,
}

impl Code {
    /// Every code, in the order of their numbers.
    pub const ALL: [Code; 6] = [
        Code::Drained,
        Code::Fault,
        Code::Deadline,
        Code::Failed,
        Code::Settings,
        Code::Interrupted,
    ];

    /// The number that the process exits with.
    pub fn number(self) -> u8 {
        match self {
            Code::Drained => 0,
            Code::Fault => 1,
            Code::Deadline => 3,
            Code::Failed => 4,
            Code::Settings => 78,
            Code::Interrupted => 130,
        }
    }

    pub fn words(self) -> &'static str {
        match self {
            Code::Drained => "drained",
            Code::Fault => "fault of the sidecar",
            Code::Deadline => "the deadline came first",
            Code::Failed => "a step failed",
            Code::Settings => "wrong settings",
            Code::Interrupted => "interrupted",
        }
    }
}

/// A code as a line of the log has it.
#[derive(Serialize, Deserialize)]
struct CodeFields {
    code: u8,
    /// The number says it all to whoever reads this back.
    #[serde(skip_deserializing)]
    result: &'static str,
}

impl From<Code> for CodeFields {
    fn from(code: Code) -> CodeFields {
        CodeFields {
            code: code.number(),
            result: code.words(),
        }
    }
}

impl TryFrom<CodeFields> for Code {
    type Error = String;

    fn try_from(fields: CodeFields) -> Result<Code, String> {
        let number = fields.code;
        let code = Code::ALL.into_iter().find(|code| code.number() == number);
        code.ok_or_else(|| format!("{number} is no exit code of the sidecar"))
    }
}

impl What {
    /// The event of the last line.
    pub const EXIT: &str = "exit";

    pub fn event(&self) -> &'static str {
        match self {
            What::Notice { .. } => "notice",
            What::Settle { .. } => "settle",
            What::StepStart { .. } => "step.start",
            What::StepCall { .. } => "step.call",
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
        matches!(self, What::StepCall { .. } | What::StepRetry { .. })
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Since the first notice.
    pub ms: u64,
    #[serde(flatten)]
    pub what: What,
}

/// Whole milliseconds; a duration here is never longer than a process lives.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Values that are written as people write them in the settings.
pub(crate) mod as_text {
    use std::borrow::Cow;
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}
