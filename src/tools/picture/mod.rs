//! Pictures of shutdowns: laid out once from what is typed, drawn for the terminal and as SVG.
//!
//! A [`Chart`] has one panel a run, all on one time axis. It knows nothing of where its runs come from:
//! the rehearsal and `timeline` make them, with [`Panel::draw_report`] for what the sidecar tells.

pub mod axis;
pub mod fleet;
pub mod svg;
pub mod terminal;
pub mod words;

use serde::{Deserialize, Serialize};

use crate::core::lifecycle::{Report, StepStatus};
use crate::core::notice::Reason;
use crate::core::step::Step;
use crate::core::timeline::{AwsOutcome, Code, Sight, What};

/// Runs above each other on one time axis.
#[derive(Debug)]
pub struct Chart {
    pub title: String,
    /// Lines of explanation below the title.
    pub about: Vec<String>,
    /// From top to bottom.
    pub panels: Vec<Panel>,
}

#[derive(Debug, Default)]
pub struct Panel {
    pub heading: String,
    pub verdict: Option<Verdict>,
    /// From top to bottom.
    pub rows: Vec<Row>,
    /// What happened at one moment.
    pub marks: Vec<Mark>,
    /// What was at stake, if that was measured.
    pub traffic: Option<Traffic>,
}

/// What came of a run, and how that is to be taken. The tone and the words are made together, so that
/// they cannot differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub tone: Tone,
    pub words: String,
}

/// How something is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tone {
    /// Something is broken.
    Bad,
    /// A loss that this was about to show.
    Loss,
    /// Nothing to remark.
    Plain,
    /// As wanted.
    Good,
}

/// One line of bars.
#[derive(Debug)]
pub struct Row {
    pub label: String,
    /// In the order in which they began.
    pub bars: Vec<Bar>,
}

/// Something that lasted. Times are milliseconds on the axis, which begins at 0 and may be reached from
/// before.
#[derive(Debug)]
pub struct Bar {
    pub from_ms: i64,
    pub to_ms: i64,
    pub kind: BarKind,
    /// Moments within, such as tries that were made again.
    pub ticks: Vec<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// Serving on before the first step.
    Settle,
    Step,
    /// A step or a call of AWS that failed, or was cut off.
    Failed,
    Aws,
    /// Drained, with no SIGTERM yet.
    Wait,
    /// The app on its own, between its SIGTERM and its end.
    App,
}

/// Something that happened at one moment.
#[derive(Debug)]
pub struct Mark {
    /// When, on the axis.
    pub at_ms: i64,
    pub kind: MarkKind,
}

/// What happened at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MarkKind {
    /// The first sight of a reason to stop.
    Notice(Reason),
    /// ECS or EC2 has begun; the load balancer or DNS names the task no longer.
    Deregistered,
    LookedAway,
    /// The sidecar or, without it, the app is told to stop.
    Sigterm,
    /// The sidecar is gone by then.
    Deadline,
    /// What still runs is killed.
    Sigkill,
    HostEnd,
}

impl MarkKind {
    /// As people know it.
    pub fn words(self) -> &'static str {
        match self {
            MarkKind::Notice(Reason::Sigterm) | MarkKind::Sigterm => "SIGTERM",
            MarkKind::Notice(Reason::SpotInterruption) => "Spot notice",
            MarkKind::Notice(Reason::RebalanceRecommendation) => "rebalance",
            MarkKind::Notice(Reason::ScheduledMaintenance) => "maintenance",
            MarkKind::Notice(Reason::AutoscalingTermination) => "Auto Scaling",
            MarkKind::Notice(Reason::Manual) => "POST /drain",
            MarkKind::Deregistered => "deregistered",
            MarkKind::LookedAway => "clients gone",
            MarkKind::Deadline => "deadline",
            MarkKind::Sigkill => "SIGKILL",
            MarkKind::HostEnd => "host gone",
        }
    }
}

/// What was at stake: requests or jobs.
#[derive(Debug, Default)]
pub struct Traffic {
    /// `requests` or `jobs`.
    pub unit: &'static str,
    /// Where they are meanwhile: `in flight` or `in hand`.
    pub place: &'static str,
    /// The most that were in flight in each slice of time.
    pub in_flight: Vec<(i64, u32)>,
    pub lost_ms: Option<Vec<i64>>,
}

impl Panel {
    /// Adds what the sidecar tells. `zero_ms`: where its first notice stands on the axis.
    pub fn draw_report(&mut self, report: &Report, zero_ms: i64) {
        let at = |ms: u64| zero_ms.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX));
        let end = at(report.timeline.last().map_or(0, |moment| moment.ms));
        let mut rows = Vec::new();
        let mut open: Vec<(usize, usize)> = Vec::new();
        let mut owes: Vec<(i64, u32)> = Vec::new();
        for moment in &report.timeline {
            let now = at(moment.ms);
            match &moment.what {
                What::Notice { reason, .. } => {
                    let kind = MarkKind::Notice(*reason);
                    if self.marks.iter().all(|mark| mark.kind != kind) {
                        self.marks.push(Mark { at_ms: now, kind });
                    }
                }
                What::Settle { for_ms } => {
                    let starts = report
                        .timeline
                        .iter()
                        .find_map(|later| matches!(later.what, What::StepStart { .. }).then(|| at(later.ms)));
                    let planned = now.saturating_add(i64::try_from(*for_ms).unwrap_or(i64::MAX));
                    rows.push(Row::single(
                        "settle",
                        now,
                        planned.min(starts.unwrap_or(end)),
                        BarKind::Settle,
                    ));
                }
                What::StepStart { step, does } => {
                    open.push((*step, rows.len()));
                    rows.push(Row::single(&short_name(does), now, end, BarKind::Failed));
                }
                What::StepRetry { step, .. } => {
                    if let Some((_, row)) = open.iter().find(|(number, _)| number == step) {
                        rows[*row].bars[0].ticks.push(now);
                    }
                }
                What::StepEnd { step, .. } => {
                    if let Some((_, row)) = open.iter().find(|(number, _)| number == step) {
                        let bar = &mut rows[*row].bars[0];
                        bar.to_ms = now;
                        let drained = report
                            .steps
                            .iter()
                            .any(|of| of.step == *step && matches!(of.status, StepStatus::Drained(_)));
                        if drained {
                            bar.kind = BarKind::Step;
                        }
                    }
                }
                What::AwsEnd {
                    call,
                    outcome,
                    took_ms,
                } => {
                    let from = now.saturating_sub(i64::try_from(*took_ms).unwrap_or(i64::MAX));
                    let kind = match outcome {
                        AwsOutcome::Done(_) => BarKind::Aws,
                        AwsOutcome::Failed(_) => BarKind::Failed,
                    };
                    rows.push(Row::single(words::aws_call(*call), from, now, kind));
                }
                What::Drained { waiting: true } => {
                    rows.push(Row::single("drained, waits", now, end, BarKind::Wait));
                }
                What::StepCall {
                    sight: Sight::Connections { owing, .. },
                    ..
                } => owes.push((now, u32::try_from(*owing).unwrap_or(u32::MAX))),
                What::StepCall { .. }
                | What::AwsStart { .. }
                | What::Deadline { .. }
                | What::Cause { .. }
                | What::Drained { waiting: false }
                | What::Exit { .. } => {}
            }
        }
        self.rows.extend(rows);
        // What clients saw says more than what the kernel did.
        if self.traffic.is_none() && owes.iter().any(|(_, n)| *n > 0) {
            owes.push((end, 0));
            self.traffic = Some(Traffic {
                unit: "connections",
                place: "owing",
                in_flight: owes,
                lost_ms: None,
            });
        }
        if let Some(budget) = report.budget_ms {
            self.marks.push(Mark {
                at_ms: at(budget),
                kind: MarkKind::Deadline,
            });
        }
    }
}

impl Row {
    pub fn single(label: &str, from_ms: i64, to_ms: i64, kind: BarKind) -> Row {
        Row {
            label: label.to_owned(),
            bars: vec![Bar {
                from_ms,
                to_ms: to_ms.max(from_ms),
                kind,
                ticks: Vec::new(),
            }],
        }
    }

    /// How long its bars last together.
    pub fn lasts_ms(&self) -> u64 {
        let lengths = self.bars.iter().map(|bar| bar.to_ms.abs_diff(bar.from_ms));
        lengths.fold(0, u64::saturating_add)
    }
}

/// What a step does, short enough for the margin: that calls are HTTP goes without saying.
fn short_name(does: &Step) -> String {
    does.to_string().replacen("http://", "", 1)
}

/// The code of the end, where it has come.
pub fn code_of(report: &Report) -> Option<Code> {
    report.timeline.iter().rev().find_map(|moment| match moment.what {
        What::Exit { code } => Some(code),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::terminal::{LEAST_WIDTH, Paper};
    use super::*;

    /// Whatever a log may say, near and far.
    fn ms() -> impl Strategy<Value = i64> {
        prop_oneof![8 => -5000_i64..200_000, 1 => any::<i64>()]
    }

    fn row() -> impl Strategy<Value = Row> {
        let kinds = vec![
            BarKind::Settle,
            BarKind::Step,
            BarKind::Failed,
            BarKind::Aws,
            BarKind::Wait,
            BarKind::App,
        ];
        (any::<String>(), ms(), ms(), select(kinds), vec(ms(), 0..4)).prop_map(
            |(label, from, to, kind, ticks)| {
                let mut row = Row::single(&label, from, to, kind);
                row.bars[0].ticks = ticks;
                row
            },
        )
    }

    fn mark() -> impl Strategy<Value = Mark> {
        let kinds = vec![
            MarkKind::Notice(Reason::Sigterm),
            MarkKind::Deregistered,
            MarkKind::LookedAway,
            MarkKind::Sigterm,
            MarkKind::Deadline,
            MarkKind::Sigkill,
            MarkKind::HostEnd,
        ];
        (ms(), select(kinds)).prop_map(|(at_ms, kind)| Mark { at_ms, kind })
    }

    fn traffic() -> impl Strategy<Value = Traffic> {
        let in_flight = vec((ms(), 0_u32..500), 0..20);
        (in_flight, option::of(vec(ms(), 0..20))).prop_map(|(mut in_flight, lost_ms)| {
            in_flight.sort_unstable();
            Traffic {
                unit: "requests",
                place: "in flight",
                in_flight,
                lost_ms,
            }
        })
    }

    fn panel() -> impl Strategy<Value = Panel> {
        (vec(row(), 0..5), vec(mark(), 0..8), option::of(traffic())).prop_map(|(rows, marks, traffic)| {
            Panel {
                heading: "a run".to_owned(),
                verdict: None,
                rows,
                marks,
                traffic,
            }
        })
    }

    #[test]
    fn a_heading_that_reaches_into_the_plot_stands_above_the_names_of_the_marks() {
        let below = |heading: &str| {
            let panel = Panel {
                heading: heading.to_owned(),
                marks: vec![Mark {
                    at_ms: 0,
                    kind: MarkKind::Sigterm,
                }],
                rows: vec![Row::single("settle", 0, 1000, BarKind::Settle)],
                ..Panel::default()
            };
            let chart = Chart {
                title: String::new(),
                about: Vec::new(),
                panels: vec![panel],
            };
            let file = svg::draw(&chart);
            let y = |text: &str| -> f64 {
                let line = file
                    .lines()
                    .find(|line| line.ends_with(&format!(">{text}</text>")));
                let y = line.and_then(|line| line.split("y=\"").nth(1)?.split('"').next());
                y.unwrap_or_else(|| panic!("no `{text}` in {file}"))
                    .parse()
                    .unwrap()
            };
            y("SIGTERM") - y(heading)
        };
        assert!(below("Without it") < 1.0);
        assert!(below("With ecs-prestop, but without PRESTOP_DEREGISTER") > 10.0);
    }

    #[test]
    fn the_last_line_is_no_forlorn_word() {
        let text =
            "Nothing was lost of 40 requests; 33 without the sidecar. 2.1 s of 2.7 s used, exit code 0.";
        assert_eq!(terminal::wrapped(text, 85)[1], "code 0.");
        let lines = terminal::balanced(text, 85);
        assert!(lines.len() == 2 && lines[1].len() >= 28, "{lines:?}");
        assert_eq!(terminal::balanced("one line", 80), ["one line"]);
        let word = "x".repeat(100);
        assert_eq!(terminal::balanced(&word, 80), [word]);
    }

    #[test]
    fn the_shortest_shutdown_has_a_scale() {
        let chart = Chart {
            title: String::new(),
            about: Vec::new(),
            panels: vec![Panel {
                rows: vec![Row::single("ack", 0, 12, BarKind::Step)],
                ..Panel::default()
            }],
        };
        let paper = Paper {
            width: LEAST_WIDTH,
            colour: false,
            unicode: true,
        };
        let drawn = terminal::draw(&chart, &paper).join("\n");
        assert!(drawn.contains("5 ms") && drawn.contains("10 ms"), "{drawn}");
    }

    proptest! {
        #[test]
        fn whatever_happened_the_rows_fit_the_paper_and_the_file_is_xml(
            panels in vec(panel(), 0..3), width in LEAST_WIDTH..200_usize, unicode in any::<bool>(),
        ) {
            let chart = Chart { title: "A <title> & more".to_owned(), about: Vec::new(), panels };
            let paper = Paper { width, colour: false, unicode };
            for line in terminal::draw(&chart, &paper) {
                prop_assert!(line.chars().count() <= width, "{}", line);
                prop_assert!(!line.contains('\n'), "{:?}", line);
            }
            let file = svg::draw(&chart);
            prop_assert!(!file.contains("NaN") && !file.contains("inf\""));
            prop_assert!(file.contains("A &lt;title&gt; &amp; more"));
            prop_assert!(!file.chars().any(|c| c.is_control() && c != '\n'));
        }
    }
}
