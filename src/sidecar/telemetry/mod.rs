//! Log lines and metrics: what the sidecar tells the outside.
//!
//! It renders what others decided and keeps nothing. Writing can never hold the process up: lines go
//! through [`writer`], which drops them where nobody reads.

pub mod lines;
pub mod metrics;
pub mod writer;

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;

use crate::core::lifecycle::{Code, Report};
use crate::core::task::Identity;
use crate::core::timeline::{AwsCall, Outcome, What};

pub use lines::Format;
use writer::Writer;

/// The log of this process.
#[derive(Clone, Default)]
pub struct Telemetry {
    writer: Option<Writer>,
    identity: Arc<OnceLock<Identity>>,
}

impl Telemetry {
    /// Logs to standard output from now on. Called once.
    pub fn start(format: Format, filter: Targets) -> Telemetry {
        let writer = Writer::start(std::io::stdout());
        let identity = Arc::new(OnceLock::new());
        let lines = lines::Lines::new(format, writer.clone(), Arc::clone(&identity));
        // The last line is there whatever is filtered out, unless nothing at all is wanted.
        let silent = filter.default_level() == Some(LevelFilter::OFF);
        let filter = if silent {
            filter
        } else {
            filter.with_target(What::EXIT, LevelFilter::INFO)
        };
        // What the SDK says of its connections is told in our own words; whoever wants to hear it names a
        // longer target, such as `aws_smithy_runtime=debug`.
        let filter = filter.with_target("aws_", LevelFilter::OFF);
        let subscriber = tracing_subscriber::registry().with(filter).with(lines);
        // Refused only where one is set already, and then that one is as good.
        let _ = tracing::subscriber::set_global_default(subscriber);
        Telemetry {
            writer: Some(writer),
            identity,
        }
    }

    /// What each line says of the task from now on; the first one stays.
    pub fn identify(&self, identity: &Identity) {
        let _ = self.identity.set(identity.clone());
    }

    /// How many lines nobody read in time.
    pub fn dropped(&self) -> u64 {
        self.writer.as_ref().map_or(0, Writer::dropped)
    }

    /// Logs what happened; the `exit` line carries the whole report.
    pub fn log(&self, what: &What, report: impl FnOnce() -> Report) {
        let fields = serde_json::to_string(what).unwrap_or_default();
        match what {
            What::Exit { code, .. } => {
                let report = serde_json::to_string(&report()).unwrap_or_default();
                if [Code::Drained, Code::Interrupted]
                    .map(Code::number)
                    .contains(code)
                {
                    tracing::info!(target: What::EXIT, event = What::EXIT, fields, report);
                } else if *code == Code::Deadline.number() {
                    tracing::warn!(target: What::EXIT, event = What::EXIT, fields, report);
                } else {
                    tracing::error!(target: What::EXIT, event = What::EXIT, fields, report);
                }
            }
            What::StepRetry { .. } | What::Deadline { .. } => {
                tracing::warn!(event = what.event(), fields)
            }
            What::StepEnd {
                outcome: Outcome::Failed(_),
                ..
            } => tracing::error!(event = what.event(), fields),
            // The drain goes on without it; why ECS stops the task nobody has asked to know.
            What::AwsEnd {
                call,
                outcome: Outcome::Failed(_),
                ..
            } if *call != AwsCall::Why => tracing::warn!(event = what.event(), fields),
            _ => tracing::info!(event = what.event(), fields),
        }
    }

    /// Writes out what is still queued, as far as somebody reads it before `end`; see [`writer::flush_end`].
    pub fn flush(&self, end: Instant) {
        if let Some(writer) = &self.writer {
            writer.flush(end);
        }
    }
}
