//! `ecs-prestop timeline`: draws shutdowns out of the sidecar's log, one or a fleet's.
//!
//! [`reading`] finds the shutdowns in whatever people have in hand; [`crate::tools::picture`] draws them.

pub mod reading;

use std::io::Read as _;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command, builder::PossibleValuesParser};
use serde::Serialize;
use serde_json::json;

use crate::core::lifecycle::{Code, Report, StepStatus};
use crate::core::notice::StopCode;
use crate::core::timeline::What;
use crate::tools::colour::ColourChoice;
use crate::tools::picture::fleet::{FleetTask, Summary};
use crate::tools::picture::terminal::{Ink, Paper, wrapped};
use crate::tools::picture::{Chart, Panel, Tone, Verdict, fleet, svg, terminal, words};
use crate::tools::rehearse::record::Record;
use crate::tools::say;
use reading::{Found, Shutdown};

pub const NAME: &str = "timeline";

/// A day of a large fleet; more is a mistake, and would have to be held in memory.
const MAX_LOG: u64 = 256 * 1024 * 1024;

/// The version of what `--format json` writes; raised where a reader would have to change.
const SCHEMA: u32 = 1;

pub fn command() -> Command {
    Command::new(NAME)
        .about("Draws shutdowns out of the sidecar's log: one task's, or a whole fleet's")
        .arg(
            Arg::new("log")
                .value_name("LOG")
                .num_args(0..)
                .help("files; `-` or none is standard input"),
        )
        .arg(svg_argument())
        .arg(
            Arg::new("format")
                .long("format")
                .value_name("FORMAT")
                .value_parser(PossibleValuesParser::new(["text", "json"]))
                .default_value("text")
                .help("text, or json for programs"),
        )
        .arg(ColourChoice::argument())
        .after_help(
            "LOG is what `docker logs` or `aws logs tail` prints, or `aws logs filter-log-events` as JSON or text. \
             Other lines between are skipped, several tasks may be mixed. `rehearse --format json` is read as well, and drawn where nothing else is there. \
             The log must be JSON (PRESTOP_LOG_FORMAT=json, the default in containers): text lines do not carry the \
             timeline.",
        )
}

/// `--svg FILE`, for everything that draws.
pub fn svg_argument() -> Arg {
    Arg::new("svg")
        .long("svg")
        .value_name("FILE")
        .help("also write the picture as SVG")
}

/// Exit code 0 if there was a shutdown to draw, 1 if the picture could not be written, 2 if not.
pub fn main(matches: &ArgMatches) -> ExitCode {
    let names: Vec<&String> = matches.get_many("log").into_iter().flatten().collect();
    let dash = "-".to_owned();
    let names = if names.is_empty() { vec![&dash] } else { names };
    let mut found = Found::default();
    for name in names {
        match text_of(name) {
            Ok(text) => found.read(&text),
            Err(why) => return complain(&format!("{name}: {why}")),
        }
    }
    for trouble in &found.troubles {
        eprintln!("ecs-prestop timeline: {trouble}");
    }
    let (shutdowns, rehearsals) = (found.shutdowns(), found.rehearsals);
    if !shutdowns.is_empty() && !rehearsals.is_empty() {
        eprintln!(
            "ecs-prestop timeline: rehearsals stand between real shutdowns ({}), and are not drawn: they are in a \
             --format json",
            rehearsals.len()
        );
    }
    let paper = Paper::of_stdout(ColourChoice::of(matches));
    let as_json = matches
        .get_one::<String>("format")
        .is_some_and(|format| format == "json");
    let drawn = match (&shutdowns[..], &rehearsals[..]) {
        ([], []) => {
            return complain(
                "no shutdown in it. Is it the log of ecs-prestop, as JSON lines, up to its end? A task that was never \
                 told to stop has none",
            );
        }
        ([], [.., last]) => {
            let pictures = rehearsals
                .iter()
                .map(|one| terminal::draw(&one.picture(), &paper));
            let blank = String::new();
            Drawn {
                lines: pictures.collect::<Vec<_>>().join(&blank),
                svg: svg::draw(&last.picture()),
            }
        }
        ([one], _) => {
            let picture = picture(one);
            drawn(&picture, &story(one, &paper), &paper)
        }
        (many, _) => {
            let mut members: Vec<FleetTask> = many.iter().map(member).collect();
            let summary = fleet::sum_up(&mut members);
            Drawn {
                lines: fleet::draw(&members, &summary, &paper),
                svg: fleet::draw_svg(&members, &summary),
            }
        }
    };
    if let Some(file) = matches.get_one::<String>("svg")
        && let Err(why) = std::fs::write(file, &drawn.svg)
    {
        eprintln!("ecs-prestop timeline: --svg {file}: {why}");
        return ExitCode::FAILURE;
    }
    if as_json {
        say(&document(&shutdowns, &rehearsals));
    } else {
        for line in &drawn.lines {
            say(line);
        }
    }
    ExitCode::SUCCESS
}

struct Drawn {
    lines: Vec<String>,
    svg: String,
}

fn drawn(picture: &Chart, story: &[String], paper: &Paper) -> Drawn {
    let mut lines = terminal::draw(picture, paper);
    lines.extend_from_slice(story);
    Drawn {
        lines,
        svg: svg::draw(picture),
    }
}

fn complain(why: &str) -> ExitCode {
    eprintln!("ecs-prestop timeline: {why}");
    ExitCode::from(2)
}

/// What is not UTF-8 is replaced: it stands in other people's lines.
fn text_of(name: &str) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = match name {
        "-" => std::io::stdin().take(MAX_LOG + 1).read_to_end(&mut bytes),
        file => std::fs::File::open(file).and_then(|file| file.take(MAX_LOG + 1).read_to_end(&mut bytes)),
    };
    read.map_err(|why| why.to_string())?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_LOG {
        return Err(format!(
            "longer than {} MiB: cut it to the hours of interest",
            MAX_LOG >> 20
        ));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a fleet's row says of it.
fn member(shutdown: &Shutdown) -> FleetTask {
    let report = &shutdown.report;
    let (tone, outcome) = match shutdown.code {
        Some(Code::Drained) => (Tone::Good, "drained"),
        Some(Code::Deadline) => (Tone::Bad, "deadline"),
        Some(Code::Failed) => (Tone::Bad, "step failed"),
        Some(Code::Fault) => (Tone::Bad, "fault"),
        Some(Code::Settings) => (Tone::Bad, "refused"),
        Some(Code::Interrupted) => (Tone::Bad, "interrupted"),
        None => (Tone::Bad, "no end"),
    };
    let first = report
        .reasons
        .first()
        .map_or("none", |reason| words::reason(*reason));
    FleetTask {
        task: shutdown.name(),
        reason: stop_code(report).map_or_else(|| first.to_owned(), |code| words::stop_code(&code)),
        outcome: outcome.to_owned(),
        used_ms: report.used_ms,
        budget_ms: report.budget_ms,
        why: trouble(shutdown),
        tone,
    }
}

/// ECS's own code, where it has said why.
fn stop_code(report: &Report) -> Option<StopCode> {
    report.timeline.iter().find_map(|moment| match &moment.what {
        What::Cause { cause, .. } => cause.stop_code.clone(),
        _ => None,
    })
}

/// Why it did not drain in time; `None` where it did.
fn trouble(shutdown: &Shutdown) -> Option<String> {
    let steps = &shutdown.report.steps;
    match shutdown.code {
        Some(Code::Drained) => None,
        None => Some("its log has no end: it was killed, or the log is cut off".to_owned()),
        Some(code) => {
            let told = steps.iter().find_map(|step| match &step.status {
                StepStatus::Failed(why) => Some(why.clone()),
                StepStatus::Dropped(owed) => {
                    let owed = owed.as_ref().map_or(String::new(), |owed| format!(": {owed}"));
                    Some(format!("{} was not done when the deadline came{owed}", step.does))
                }
                _ => None,
            });
            Some(told.unwrap_or_else(|| code.words().to_owned()))
        }
    }
}

fn picture(shutdown: &Shutdown) -> Chart {
    let report = &shutdown.report;
    let who = [&shutdown.family, &shutdown.cluster].into_iter().flatten();
    let who: Vec<&str> = who.map(String::as_str).collect();
    let mut about = Vec::new();
    if !who.is_empty() {
        about.push(who.join(", "));
    }
    if let Some(started) = &shutdown.began {
        about.push(format!("0 is the first notice, at {started}."));
    }
    let mut panel = Panel {
        heading: format!("task {}", shutdown.name()),
        verdict: Some(verdict(shutdown)),
        ..Panel::default()
    };
    panel.draw_report(report, 0);
    Chart {
        title: format!("The end of task {}", shutdown.name()),
        about,
        panels: vec![panel],
    }
}

fn verdict(shutdown: &Shutdown) -> Verdict {
    let report = &shutdown.report;
    let spans = match (report.used_ms, report.budget_ms) {
        (Some(used), Some(budget)) => format!(", {} of {} used", words::span(used), words::span(budget)),
        _ => String::new(),
    };
    match (shutdown.code, trouble(shutdown)) {
        (None, why) => Verdict {
            tone: Tone::Bad,
            words: format!("No exit: {}.", why.unwrap_or_default()),
        },
        (Some(Code::Drained), _) => Verdict {
            tone: Tone::Good,
            words: format!("Drained{spans}."),
        },
        (Some(code), why) => Verdict {
            tone: Tone::Bad,
            words: format!(
                "Exit code {}{spans}: {}.",
                code.number(),
                why.unwrap_or_default().trim_end_matches('.')
            ),
        },
    }
}

/// What happened, a line each.
fn story(shutdown: &Shutdown, paper: &Paper) -> Vec<String> {
    const WORDS_AT: usize = 13;
    let mut lines = vec![String::new()];
    for moment in &shutdown.report.timeline {
        let Some(told) = words::of(&moment.what) else {
            continue;
        };
        let at = std::time::Duration::from_millis(moment.ms).as_secs_f64();
        for (i, line) in wrapped(&told, paper.width - WORDS_AT).iter().enumerate() {
            if i == 0 {
                let clock = paper.paint(Ink::Dim, &format!("{at:>8.3} s"));
                lines.push(format!("{clock}   {line}"));
            } else {
                lines.push(format!("{:WORDS_AT$}{line}", ""));
            }
        }
    }
    if shutdown.report.omitted > 0 {
        lines.push(format!(
            "{:WORDS_AT$}and {} more calls",
            "", shutdown.report.omitted
        ));
    }
    lines
}

/// `--format json`: every shutdown with its report, what all have in common, and rehearsals as they were written.
fn document(shutdowns: &[Shutdown], rehearsals: &[Record]) -> String {
    #[derive(Serialize)]
    struct One<'a> {
        #[serde(flatten)]
        member: FleetTask,
        cluster: &'a Option<String>,
        family: &'a Option<String>,
        began: &'a Option<String>,
        code: Option<u8>,
        report: &'a Report,
    }
    let mut members: Vec<FleetTask> = shutdowns.iter().map(member).collect();
    let tasks: Vec<One<'_>> = shutdowns
        .iter()
        .zip(members.clone())
        .map(|(shutdown, member)| One {
            member,
            cluster: &shutdown.cluster,
            family: &shutdown.family,
            began: &shutdown.began,
            code: shutdown.code.map(Code::number),
            report: &shutdown.report,
        })
        .collect();
    let summary: Summary = fleet::sum_up(&mut members);
    json!({"schema": SCHEMA, "kind": "timeline", "summary": summary, "shutdowns": tasks, "rehearsals": rehearsals})
    .to_string()
}

impl Record {
    /// The picture of a rehearsal that was written down.
    pub fn picture(&self) -> Chart {
        Chart {
            title: self.headline(),
            about: self.about(),
            panels: self.runs.iter().map(|run| run.panel(self)).collect(),
        }
    }
}
