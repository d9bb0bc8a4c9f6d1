//! `ecs-prestop rehearse`: plays whole shutdowns on this machine, with real processes and real
//! signals, and shows what happened.
//!
//! Each scenario is played with the sidecar and as it would have gone without it; where a setting of
//! the sidecar makes the difference, also with the sidecar but without that setting.

pub mod balancer;
mod client;
mod relay;
mod scenario;
mod screen;
mod stage;

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command, builder::PossibleValuesParser};

use crate::core::url::HttpUrl;
use scenario::{Opening, OwnApp, Played, SCENARIOS, Scenario};
use screen::Screen;
use stage::{Cast, Stage};

/// The subcommand.
pub const NAME: &str = "rehearse";

/// The command line.
pub fn command() -> Command {
    let names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    let list: Vec<String> = SCENARIOS
        .iter()
        .map(|s| format!("  {:<16} {}", s.name, s.title))
        .collect();
    Command::new(NAME)
        .about("Plays a whole shutdown on this machine, with no Docker and no AWS, and shows what happened")
        .after_help(format!("Scenarios:\n{}", list.join("\n")))
        .arg(
            Arg::new("scenario")
                .value_name("SCENARIO")
                .value_parser(PossibleValuesParser::new(names))
                .hide_possible_values(true)
                .default_value("deploy")
                .help("which shutdown"),
        )
        .arg(
            Arg::new("all")
                .long("all")
                .action(ArgAction::SetTrue)
                .conflicts_with("app")
                .help("play every scenario and show a table"),
        )
        .arg(
            Arg::new("app")
                .long("app")
                .value_name("URL")
                .requires("start")
                .help("rehearse your own app: where it serves, such as http://127.0.0.1:8080/"),
        )
        .arg(
            Arg::new("start")
                .long("start")
                .value_name("COMMAND")
                .requires("app")
                .help("how your app is started, as a shell would take it"),
        )
        .arg(
            Arg::new("drain")
                .long("drain")
                .value_name("STEPS")
                .requires("app")
                .help("PRESTOP_DRAIN for your app; POST /drain of its URL unless told otherwise"),
        )
}

/// Plays; exit code 0 only if everything ended as it should.
pub async fn main(matches: &ArgMatches) -> ExitCode {
    let own_app = match own_app(matches) {
        Ok(own_app) => own_app,
        Err(why) => {
            eprintln!("ecs-prestop rehearse: {why}");
            return ExitCode::from(2);
        }
    };
    let screen = Screen::new();
    if matches.get_flag("all") {
        return play_all(&screen).await;
    }
    let wanted = matches
        .get_one::<String>("scenario")
        .map_or("deploy", String::as_str);
    let Some(scenario) = SCENARIOS.iter().find(|scenario| scenario.name == wanted) else {
        return ExitCode::from(2);
    };
    match rehearse(scenario, own_app.as_ref(), &screen).await {
        Ok(rehearsal) if rehearsal.complaints.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("ecs-prestop rehearse: {why}");
            ExitCode::FAILURE
        }
    }
}

fn own_app(matches: &ArgMatches) -> Result<Option<OwnApp>, String> {
    let (Some(url), Some(start)) = (
        matches.get_one::<String>("app"),
        matches.get_one::<String>("start"),
    ) else {
        return Ok(None);
    };
    let url: HttpUrl = url.parse().map_err(|why| format!("--app is `{url}`: {why}"))?;
    let steps = matches.get_one::<String>("drain").cloned();
    Ok(Some(OwnApp {
        drain: steps.unwrap_or_else(|| format!("POST {}", url.with_target("/drain"))),
        start: start.clone(),
        url,
    }))
}

/// A scenario, played all ways.
struct Rehearsal {
    with: Played,
    /// With the sidecar, but without `PRESTOP_DEREGISTER`, where the scenario is about that.
    without_deregister: Option<Played>,
    without: Played,
    /// What did not end as it should.
    complaints: Vec<String>,
}

async fn rehearse(
    scenario: &Scenario,
    own_app: Option<&OwnApp>,
    screen: &Screen,
) -> Result<Rehearsal, String> {
    screen.title(scenario);
    let stage = Stage {
        scenario,
        own_app,
        screen,
    };
    screen.heading("With ecs-prestop");
    let with = stage.play(Cast::All).await?;
    let mut without_deregister = None;
    if scenario.opening == Opening::KeepsSending {
        screen.heading("The same without PRESTOP_DEREGISTER");
        without_deregister = Some(stage.play(Cast::WithoutDeregister).await?);
    }
    screen.heading("The same without it");
    let without = stage.play(Cast::WithoutSidecar).await?;
    let complaints = scenario.complaints(&with, own_app.is_some());
    let rehearsal = Rehearsal {
        with,
        without_deregister,
        without,
        complaints,
    };
    screen.verdict(scenario, &rehearsal);
    Ok(rehearsal)
}

async fn play_all(screen: &Screen) -> ExitCode {
    let mut rows = Vec::new();
    let mut all_well = true;
    for scenario in &SCENARIOS {
        match rehearse(scenario, None, screen).await {
            Ok(rehearsal) => {
                all_well &= rehearsal.complaints.is_empty();
                rows.push((scenario.name, rehearsal));
            }
            Err(why) => {
                eprintln!("ecs-prestop rehearse: {}: {why}", scenario.name);
                all_well = false;
            }
        }
    }
    screen.table(&rows);
    if all_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
