//! What was seen of a rehearsal, as it is drawn, written down and read back.
//!
//! The schema is versioned: a field that changes its meaning or goes raises [`SCHEMA`].

use serde::{Deserialize, Serialize};

use super::scenario::Cast;
use crate::core::lifecycle::Report;
use crate::tools::picture::{BarKind, Mark, MarkKind, Panel, Row, Tone, Traffic, Verdict, words};

/// What tells such a document from others.
pub const KIND: &str = "rehearsal";

/// The version of the document.
pub const SCHEMA: u32 = 1;

/// One scenario, played all ways.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: u32,
    /// [`KIND`].
    pub kind: String,
    pub scenario: String,
    pub title: String,
    /// How many seconds of ECS one second was.
    pub scale: u32,
    /// The sidecar's stop timeout as it was played.
    pub stop_timeout_ms: u64,
    pub unit: Unit,
    pub outcome: RehearsalOutcome,
    pub words: String,
    /// One for each way in which it was played, the one with the sidecar first.
    pub runs: Vec<Run>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Of clients.
    Requests,
    /// Of a worker.
    Jobs,
}

impl Unit {
    /// `1 job`, `2 jobs`
    pub fn counted(self, n: u32) -> String {
        let name = self.name();
        format!("{n} {}", if n == 1 { name.trim_end_matches('s') } else { name })
    }

    pub fn name(self) -> &'static str {
        match self {
            Unit::Requests => "requests",
            Unit::Jobs => "jobs",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RehearsalOutcome {
    /// Nothing was lost, and all ended as it should.
    Passed,
    /// It lost what nothing could have saved, as the scenario is there to show.
    LostAsExpected,
    /// Something was lost, late, killed or broken.
    Failed,
    /// Nothing was at stake.
    NothingTested,
}

impl RehearsalOutcome {
    /// Whether the exit code is 0.
    pub fn is_well(self) -> bool {
        matches!(self, RehearsalOutcome::Passed | RehearsalOutcome::LostAsExpected)
    }

    pub fn tone(self) -> Tone {
        match self {
            RehearsalOutcome::Passed => Tone::Good,
            RehearsalOutcome::LostAsExpected => Tone::Loss,
            RehearsalOutcome::Failed | RehearsalOutcome::NothingTested => Tone::Bad,
        }
    }
}

/// One run. Times are milliseconds since ECS or EC2 began; before that they are negative.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Who played besides the app.
    pub cast: Cast,
    /// Answered, or done.
    pub done: u32,
    /// Not answered, or cut off.
    pub lost: u32,
    /// In hand when it began, or later.
    pub at_stake: u32,
    /// The sidecar's exit code; missing where it was killed, or was not there.
    pub exit_code: Option<i32>,
    pub app_killed: bool,
    /// The app on its own: from its SIGTERM to its end.
    pub app_stops: Option<(i64, i64)>,
    /// What happened around the containers.
    pub marks: Vec<(i64, MarkKind)>,
    /// The most that were in hand, from each moment at which that changed.
    pub in_flight: Vec<(i64, u32)>,
    pub lost_ms: Vec<i64>,
    /// Where the sidecar's first notice stands on this axis.
    pub noticed_ms: Option<i64>,
    /// What the sidecar told on its last line.
    pub report: Option<Report>,
    /// How late the machine was at most with what was due; older documents do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_ms: Option<u64>,
    /// In how much of the time something on the machine waited for a processor, in percent, where the kernel says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starved_percent: Option<u64>,
}

impl Record {
    /// One line that says what this is.
    pub fn headline(&self) -> String {
        format!("{}: {}", self.scenario, self.title)
    }

    /// What has to be known to read the picture.
    pub fn about(&self) -> Vec<String> {
        let zero = "0 is when ECS or EC2 begins.";
        vec![if self.scale == 1 {
            format!(
                "{zero} The stop timeout is {}.",
                words::span(self.stop_timeout_ms)
            )
        } else {
            format!(
                "{zero} 1 s here is {} s on ECS: the stop timeout of {} is {}.",
                self.scale,
                words::span(self.stop_timeout_ms * u64::from(self.scale)),
                words::span(self.stop_timeout_ms)
            )
        }]
    }

    /// The run with the sidecar and all that it needs.
    pub fn with(&self) -> Option<&Run> {
        self.run(Cast::All)
    }

    pub fn run(&self, cast: Cast) -> Option<&Run> {
        self.runs.iter().find(|run| run.cast == cast)
    }

    /// The verdict as it is shown everywhere.
    pub fn verdict(&self) -> Verdict {
        Verdict {
            tone: self.outcome.tone(),
            words: self.words.clone(),
        }
    }
}

impl Run {
    pub fn panel(&self, record: &Record) -> Panel {
        let heading = match self.cast {
            Cast::All => "With ecs-prestop",
            Cast::WithoutDeregister => "With ecs-prestop, but without PRESTOP_DEREGISTER",
            Cast::WithoutSidecar => "Without it",
        };
        let mut panel = Panel {
            heading: heading.to_owned(),
            marks: self
                .marks
                .iter()
                .map(|(at_ms, kind)| Mark {
                    at_ms: *at_ms,
                    kind: *kind,
                })
                .collect(),
            ..Panel::default()
        };
        if let (Some(report), Some(noticed)) = (&self.report, self.noticed_ms) {
            panel.draw_report(report, noticed);
            // The sidecar's own word for the SIGTERM stands a millisecond beside ECS's.
            panel
                .marks
                .retain(|mark| mark.kind != MarkKind::Notice(crate::core::notice::Reason::Sigterm));
        }
        if let Some((from, to)) = self.app_stops {
            let label = if self.app_killed {
                "app, until SIGKILL"
            } else {
                "app after SIGTERM"
            };
            let kind = if self.app_killed {
                BarKind::Failed
            } else {
                BarKind::App
            };
            panel.rows.push(Row::single(label, from, to, kind));
        }
        if self.done + self.lost > 0 {
            panel.traffic = Some(Traffic {
                unit: record.unit.name(),
                place: match record.unit {
                    Unit::Requests => "in flight",
                    Unit::Jobs => "in hand",
                },
                in_flight: self.in_flight.clone(),
                lost_ms: Some(self.lost_ms.clone()),
            });
        }
        let lost = format!(
            "{} of {} lost",
            self.lost,
            record.unit.counted(self.lost + self.done)
        );
        panel.verdict = Some(match (self.cast, record.unit) {
            (Cast::All, _) => record.verdict(),
            _ if self.lost > 0 => Verdict {
                tone: Tone::Loss,
                words: format!("{lost}."),
            },
            _ if self.done == 0 => Verdict {
                tone: Tone::Plain,
                words: format!("What became of its {} is not seen from here.", record.unit.name()),
            },
            _ if self.app_killed => Verdict {
                tone: Tone::Loss,
                words: format!(
                    "{} done, none lost; the app had to be killed.",
                    record.unit.counted(self.done)
                ),
            },
            _ => Verdict {
                tone: Tone::Plain,
                words: format!("{} done, none lost.", record.unit.counted(self.done)),
            },
        });
        panel
    }
}
