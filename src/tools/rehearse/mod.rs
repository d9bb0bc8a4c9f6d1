//! `ecs-prestop rehearse`: plays whole shutdowns on this machine, with real processes and real
//! signals, and shows what happened.
//!
//! Each scenario is played with the sidecar and as it would have gone without it; where a setting of
//! the sidecar makes the difference, also with the sidecar but without that setting. [`record`] is what was
//! seen, as it is drawn and written; `processes` leaves nothing behind.

mod addresses;
pub mod balancer;
mod client;
mod judge;
mod options;
mod output;
mod players;
mod processes;
pub mod record;
mod scenario;
mod screen;
mod seen;
mod stage;

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command, builder::PossibleValuesParser, value_parser};

use crate::tools::colour::ColourChoice;
use crate::tools::picture::svg;
use crate::tools::picture::terminal::Paper;
use crate::tools::say;
use crate::tools::timeline;
use judge::{judge, sentence};
use options::Options;
use record::{Record, RehearsalOutcome};
use scenario::{Cast, SCENARIOS, Scenario};
use screen::Screen;
use stage::{Stage, Stopped};

pub const NAME: &str = "rehearse";

pub fn command() -> Command {
    let names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    let list: Vec<String> = SCENARIOS
        .iter()
        .map(|s| format!("  {:<16} {}", s.name, s.title))
        .collect();
    let own = "Your own app";
    Command::new(NAME)
        .about("Plays a whole shutdown on this machine, with no Docker and no AWS, and shows what happened")
        .after_help(format!(
            "Scenarios:\n{}\n\nPRESTOP_* variables are the settings of the sidecar, but for PRESTOP_LOG and PRESTOP_LOG_FORMAT. Exit code 0: nothing was lost that could \
             be kept; 1: something was, or nothing was tested; 2: wrong command line.",
            list.join("\n")
        ))
        .arg(
            Arg::new("scenario")
                .value_name("SCENARIO")
                .value_parser(PossibleValuesParser::new(names))
                .num_args(0..)
                .hide_possible_values(true)
                .help(format!("which shutdowns, {} if none is named", scenario::DEFAULT)),
        )
        .arg(
            Arg::new("all")
                .long("all")
                .action(ArgAction::SetTrue)
                .conflicts_with_all(["app", "start", "scenario"])
                .help("play every scenario and show a table"),
        )
        .arg(
            Arg::new("list")
                .long("list")
                .action(ArgAction::SetTrue)
                .help("list the scenarios, and where it is written that ECS does so"),
        )
        .arg(
            Arg::new("format")
                .long("format")
                .value_name("FORMAT")
                .value_parser(PossibleValuesParser::new(["text", "json", "junit"]))
                .default_value("text")
                .help("text, json (a document a line for each scenario) or junit"),
        )
        .arg(timeline::svg_argument().help("also write the picture of the last scenario as SVG"))
        .arg(ColourChoice::argument())
        .arg(Arg::new(processes::SUPERVISED).long(processes::SUPERVISED).action(ArgAction::SetTrue).hide(true))
        .next_help_heading(own)
        .arg(
            Arg::new("start")
                .long("start")
                .value_name("COMMAND")
                .help("how your app is started, as a shell would take it"),
        )
        .arg(
            Arg::new("app")
                .long("app")
                .value_name("URL")
                .requires("start")
                .help("where it serves, such as http://127.0.0.1:8080/; none for a worker"),
        )
        .arg(
            Arg::new("drain")
                .long("drain")
                .value_name("STEPS")
                .requires("start")
                .help("PRESTOP_DRAIN for it; `quiet` on the port of its URL unless told otherwise"),
        )
        .arg(
            Arg::new("ready")
                .long("ready")
                .value_name("URL")
                .requires("start")
                .help("what answers once it is up, if not its URL"),
        )
        .arg(
            Arg::new("startup")
                .long("startup")
                .value_name("DURATION")
                .requires("start")
                .help("how long it may take to start, 60s unless told otherwise; a worker gets 5s, and all of it"),
        )
        .next_help_heading("Time")
        .arg(
            Arg::new("scale")
                .long("scale")
                .value_name("N")
                .value_parser(value_parser!(u32).range(1..=60))
                .help("play N seconds of ECS in one; 1 with your own app"),
        )
        .arg(
            Arg::new("stop-timeout")
                .long("stop-timeout")
                .value_name("DURATION")
                .help("PRESTOP_STOP_TIMEOUT, and the stop timeout that is played"),
        )
        .arg(
            Arg::new("settle")
                .long("settle")
                .value_name("DURATION")
                .help("PRESTOP_SETTLE"),
        )
}

/// Plays; exit code 0 only if everything ended as it should.
pub async fn main(matches: &ArgMatches) -> ExitCode {
    if matches.get_flag("list") {
        return list();
    }
    let planned = Options::read(matches).and_then(|options| Ok((options.scenarios(matches)?, options)));
    let (scenarios, options) = match planned {
        Ok(planned) => planned,
        Err(why) => {
            eprintln!("ecs-prestop rehearse: {why}");
            return ExitCode::from(2);
        }
    };
    if !matches.get_flag(processes::SUPERVISED) {
        return processes::supervise().await;
    }
    processes::be_supervised();
    let format = matches.get_one::<String>("format").map_or("text", String::as_str);
    let paper = Paper::of_stdout(ColourChoice::of(matches));
    let screen = Screen::new(paper, format == "text");
    let mut records = Vec::new();
    for (i, scenario) in scenarios.iter().enumerate() {
        let place = (scenarios.len() > 1).then_some((i + 1, scenarios.len()));
        let record = rehearse(scenario, place, &options, &screen).await;
        if format == "json" {
            say(&output::json(&record));
        }
        records.push(record);
    }
    if format == "junit" {
        say(&output::junit(&records));
    }
    if records.len() > 1 {
        screen.table(&records);
    }
    if let (Some(file), Some(record)) = (matches.get_one::<String>("svg"), records.last())
        && let Err(why) = std::fs::write(file, svg::draw(&record.picture()))
    {
        eprintln!("ecs-prestop rehearse: --svg {file}: {why}");
        return ExitCode::FAILURE;
    }
    if records.iter().all(|record| record.outcome.is_well()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn list() -> ExitCode {
    for scenario in &SCENARIOS {
        say(&format!("{:<16} {}", scenario.name, scenario.title));
        say(&format!("{:<16} source: {}", "", scenario.source));
    }
    ExitCode::SUCCESS
}

async fn rehearse(
    scenario: &Scenario,
    place: Option<(usize, usize)>,
    options: &Options,
    screen: &Screen,
) -> Record {
    screen.title(scenario, place, &options.about_time(scenario));
    let stage = Stage {
        scenario,
        options,
        screen,
    };
    let (mut runs, mut said, mut stopped) = (Vec::new(), Vec::new(), None);
    for &cast in scenario.casts() {
        screen.heading(match cast {
            Cast::All => "With ecs-prestop",
            Cast::WithoutDeregister => "The same without PRESTOP_DEREGISTER",
            Cast::WithoutSidecar => "The same without it",
        });
        match stage.play(cast).await {
            Ok((run, app_said)) => {
                if cast == Cast::All {
                    said = app_said;
                }
                runs.push(run);
            }
            Err(why) => {
                stopped = Some(why);
                break;
            }
        }
    }
    let (outcome, words) = match &stopped {
        Some(Stopped { why, .. }) => (RehearsalOutcome::Failed, sentence(why)),
        None => judge(scenario, options, &runs),
    };
    let record = Record {
        schema: record::SCHEMA,
        kind: record::KIND.to_owned(),
        scenario: scenario.name.to_owned(),
        title: scenario.title.to_owned(),
        scale: options.scale(scenario),
        stop_timeout_ms: u64::try_from(options.stop_timeout(scenario).as_millis()).unwrap_or(u64::MAX),
        unit: options.unit(scenario),
        outcome,
        words,
        // Half of a rehearsal compares with nothing.
        runs: if stopped.is_some() { Vec::new() } else { runs },
    };
    match stopped {
        Some(Stopped { said, .. }) => {
            for (whose, lines) in &said {
                screen.last_words(whose, lines.iter().map(String::as_str));
            }
        }
        // What an app of one's own has to say matters where it fails.
        None if !outcome.is_well() => screen.last_words("the app", said.iter().map(String::as_str)),
        None => {}
    }
    screen.verdict(&record);
    record
}
