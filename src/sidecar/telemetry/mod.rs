//! Log lines and metrics: what the sidecar tells the outside.
//!
//! It renders what others decided and keeps nothing. Writing can never hold the process up: lines go
//! through [`writer`], which drops them where nobody reads.

mod emf;
pub mod lines;
pub mod metrics;
pub mod writer;

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use tracing::{Level, enabled};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;

use crate::core::lifecycle::{Code, Report};
use crate::core::task::Identity;
use crate::core::timeline::{AwsCall, AwsOutcome, Entry, Outcome, What};

pub use lines::LineFormat;
use lines::{Lines, Members};
use writer::Writer;

/// The log of this process.
#[derive(Clone, Default)]
pub struct Telemetry {
    writer: Option<Writer>,
    lines: Option<Lines>,
    identity: Arc<OnceLock<Identity>>,
    emf: bool,
}

impl Telemetry {
    /// Logs to standard output from now on. Called once.
    pub fn start(format: LineFormat, filter: Targets) -> Telemetry {
        let writer = Writer::start(std::io::stdout());
        let identity = Arc::new(OnceLock::new());
        let lines = Lines::new(format, writer.clone(), Arc::clone(&identity));
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
        let subscriber = tracing_subscriber::registry().with(filter).with(lines.clone());
        // Refused only where one is set already, and then that one is as good.
        let _ = tracing::subscriber::set_global_default(subscriber);
        Telemetry {
            writer: Some(writer),
            lines: Some(lines),
            emf: format == LineFormat::Json { emf: true },
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

    /// Logs what happened, with the time at which it happened; the `exit` line carries the whole report.
    pub fn log(&self, entry: &Entry, report: impl FnOnce() -> Report) {
        let Some(lines) = &self.lines else { return };
        let what = &entry.what;
        let (level, wanted) = match what {
            What::Exit { code, .. } => {
                let level = match code {
                    Code::Drained | Code::Interrupted => Level::INFO,
                    Code::Deadline => Level::WARN,
                    _ => Level::ERROR,
                };
                // The last line is there whatever is filtered out, unless nothing at all is wanted.
                (level, enabled!(target: What::EXIT, Level::INFO))
            }
            What::StepEnd {
                outcome: Outcome::Failed(_),
                ..
            } => (Level::ERROR, enabled!(Level::ERROR)),
            What::StepRetry { .. } | What::Deadline { .. } => (Level::WARN, enabled!(Level::WARN)),
            // The drain goes on without it; why ECS stops the task nobody has asked to know.
            What::AwsEnd {
                call,
                outcome: AwsOutcome::Failed(_),
                ..
            } if *call != AwsCall::Why => (Level::WARN, enabled!(Level::WARN)),
            _ => (Level::INFO, enabled!(Level::INFO)),
        };
        if !wanted {
            return;
        }
        let mut members = Members::default();
        members.add(what);
        let ago = SignedDuration::try_from(entry.at.elapsed()).unwrap_or_default();
        let at = Timestamp::now().saturating_sub(ago).unwrap_or_default();
        if let What::Exit { code } = what {
            let report = report();
            members.add(&report);
            if self.emf {
                members.add(&emf::members(at, *code, &report, self.identity.get()));
            }
        }
        lines.tell(at, level, what.event(), &members);
    }

    /// Writes out what is still queued, as far as somebody reads it before `end`; see [`writer::flush_end`].
    pub fn flush(&self, end: Instant) {
        if let Some(writer) = &self.writer {
            writer.flush(end);
        }
    }
}
