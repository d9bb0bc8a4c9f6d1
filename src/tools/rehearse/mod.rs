//! `ecs-prestop rehearse`: plays whole shutdowns on this machine, with real processes and real
//! signals, and shows what happened.
//!
//! Each scenario is played with the sidecar and as it would have gone without it; where a setting of
//! the sidecar makes the difference, also with the sidecar but without that setting. [`record`] is what was
//! seen, as it is drawn and written; `processes` leaves nothing behind.

pub mod balancer;
mod client;
mod output;
mod processes;
pub mod record;
mod scenario;
mod screen;
mod seen;
mod stage;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, builder::PossibleValuesParser, value_parser};

use crate::config;
use crate::core::url::HttpUrl;
use crate::tools::picture::svg;
use crate::tools::picture::terminal::Paper;
use crate::tools::picture::words;
use crate::tools::say;
use crate::tools::timeline;
use record::{Record, RehearsalOutcome, Run, Unit};
use scenario::{Cast, Opening, SCENARIOS, Scenario};
use screen::Screen;
use stage::{Stage, Stopped};

/// The subcommand.
pub const NAME: &str = "rehearse";

/// Where a sidecar listens unless told otherwise; somebody's own worker expects it there.
const SIDECAR: &str = "127.0.0.1:9911";

/// A stop timeout that cannot be read, such as `auto`, is ECS's default.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// What the exit may be behind the deadline and still in time: SIGKILL comes later than this.
const LATE: u64 = 500;

/// The command line.
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
        .arg(timeline::colour_argument())
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
    let paper = Paper::of_stdout(timeline::colour_choice(matches));
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
        if !scenario.source.is_empty() {
            say(&format!("{:<16} source: {}", "", scenario.source));
        }
    }
    ExitCode::SUCCESS
}

/// How all scenarios are played.
struct Options {
    own: Option<OwnApp>,
    scale: Option<u32>,
    /// Settings of the sidecar that somebody has made, by the names of their variables.
    settings: Vec<(String, String)>,
}

/// Somebody's own app in place of the sample.
struct OwnApp {
    start: String,
    /// Missing for a worker.
    url: Option<HttpUrl>,
    ready: Option<HttpUrl>,
    startup: Option<Duration>,
}

impl Options {
    fn read(matches: &ArgMatches) -> Result<Options, String> {
        let text = |name: &str| matches.get_one::<String>(name).cloned();
        let url = |name: &str| -> Result<Option<HttpUrl>, String> {
            text(name)
                .map(|url| url.parse().map_err(|why| format!("--{name} is `{url}`: {why}")))
                .transpose()
        };
        let duration = |name: &str| -> Result<Option<Duration>, String> {
            let Some(text) = text(name) else { return Ok(None) };
            let read = config::duration(&text);
            read.map(Some)
                .ok_or_else(|| format!("--{name} is `{text}`: write a duration such as 30s"))
        };
        let mut settings: Vec<(String, String)> = std::env::vars()
            .filter(|(name, _)| name.starts_with("PRESTOP_"))
            .collect();
        for (flag, variable) in [
            ("drain", "PRESTOP_DRAIN"),
            ("stop-timeout", "PRESTOP_STOP_TIMEOUT"),
            ("settle", "PRESTOP_SETTLE"),
        ] {
            if let Some(value) = text(flag) {
                settings.retain(|(name, _)| name != variable);
                settings.push((variable.to_owned(), value));
            }
        }
        // Here, with the flag's name, and not by the sidecar in the middle of a play.
        duration("stop-timeout")?;
        duration("settle")?;
        let own = match text("start") {
            None => None,
            Some(start) => Some(OwnApp {
                start,
                url: url("app")?,
                ready: url("ready")?,
                startup: duration("startup")?,
            }),
        };
        let options = Options {
            own,
            scale: matches.get_one("scale").copied(),
            settings,
        };
        let is_worker = options.own.as_ref().is_some_and(|own| own.url.is_none());
        if is_worker && options.setting("PRESTOP_DRAIN").is_none() {
            return Err(
                "--start without --app is a worker: say by --drain how it is drained, `ack` if it posts to /drained or \
                 `signal NAME app`; or where it serves, by --app"
                    .to_owned(),
            );
        }
        Ok(options)
    }

    /// What is to be played.
    fn scenarios(&self, matches: &ArgMatches) -> Result<Vec<&'static Scenario>, String> {
        if matches.get_flag("all") {
            return Ok(SCENARIOS.iter().collect());
        }
        let named: Vec<&str> = matches
            .get_many::<String>("scenario")
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        let default = match &self.own {
            Some(own) if own.url.is_none() => "stop-task",
            _ => scenario::DEFAULT,
        };
        let named = if named.is_empty() { vec![default] } else { named };
        let scenarios: Vec<&Scenario> = named.into_iter().filter_map(Scenario::named).collect();
        let misfit = scenarios.iter().find(|scenario| !self.fits(scenario));
        match misfit {
            Some(scenario) => {
                let others = SCENARIOS.iter().filter(|scenario| self.fits(scenario));
                let others: Vec<&str> = others.map(|scenario| scenario.name).collect();
                Err(format!(
                    "`{}` is about what the sample app does: with yours there are {}",
                    scenario.name,
                    others.join(", ")
                ))
            }
            None => Ok(scenarios),
        }
    }

    fn fits(&self, scenario: &Scenario) -> bool {
        match &self.own {
            None => true,
            // Those are about the balancer.
            Some(own) if own.url.is_none() => {
                scenario.fits_any_app()
                    && !matches!(
                        scenario.opening,
                        Opening::KeepsSending | Opening::NamedByDns | Opening::Deployed
                    )
            }
            Some(_) => scenario.fits_any_app(),
        }
    }

    fn setting(&self, variable: &str) -> Option<&str> {
        let setting = self.settings.iter().find(|(name, _)| name == variable);
        setting.map(|(_, value)| value.as_str())
    }

    /// Where the sidecar listens, unless that is of no matter.
    fn listen(&self) -> Option<SocketAddr> {
        let asked = self
            .setting("PRESTOP_LISTEN")
            .and_then(|address| address.parse().ok());
        asked.or_else(|| self.own.as_ref().and_then(|_| SIDECAR.parse().ok()))
    }

    /// How somebody's own app is drained, unless a setting says it.
    fn own_drain(&self) -> Option<String> {
        let url = self.own.as_ref()?.url.as_ref()?;
        Some(format!("quiet :{}", url.port()))
    }

    fn unit(&self, scenario: &Scenario) -> Unit {
        match &self.own {
            None => scenario.unit(),
            Some(own) if own.url.is_some() => Unit::Requests,
            Some(_) => Unit::Jobs,
        }
    }

    /// Whether what is lost is seen: of somebody's own worker only its end is.
    fn counts(&self) -> bool {
        self.own.as_ref().is_none_or(|own| own.url.is_some())
    }

    fn scale(&self, scenario: &Scenario) -> u32 {
        let usual = if self.own.is_some() { 1 } else { scenario.scale };
        self.scale.unwrap_or(usual)
    }

    /// A time of ECS, as long as it takes here.
    fn scaled(&self, scenario: &Scenario, seconds: u32) -> Duration {
        Duration::from_secs(seconds.into()) / self.scale(scenario)
    }

    fn stop_timeout(&self, scenario: &Scenario) -> Duration {
        match self.setting("PRESTOP_STOP_TIMEOUT") {
            Some(set) => config::duration(set).unwrap_or(STOP_TIMEOUT),
            None => self.scaled(scenario, scenario.stop_timeout_s),
        }
    }

    fn settle(&self, scenario: &Scenario) -> Duration {
        let set = self.setting("PRESTOP_SETTLE").and_then(config::duration);
        set.unwrap_or_else(|| self.scaled(scenario, scenario.settle_s))
    }

    /// What a reader has to know of the time.
    fn about_time(&self, scenario: &Scenario) -> String {
        let span = |duration: Duration| words::span(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        let (scale, stop_timeout) = (self.scale(scenario), span(self.stop_timeout(scenario)));
        let settle = match self.settle(scenario) {
            Duration::ZERO => String::new(),
            settle => format!(", PRESTOP_SETTLE {}", span(settle)),
        };
        let time = if scale == 1 {
            "Time is that of ECS".to_owned()
        } else {
            format!("One second here is {scale} of ECS")
        };
        format!("{time}: the stop timeout is {stop_timeout}{settle}.")
    }
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

/// What came of it, with the words for that: made in one place, so that they cannot differ.
fn judge(scenario: &Scenario, options: &Options, runs: &[Run]) -> (RehearsalOutcome, String) {
    let run = |cast| runs.iter().find(|run| run.cast == cast);
    let Some(with) = run(Cast::All) else {
        return (
            RehearsalOutcome::NothingTested,
            "Nothing was tested: nothing was played.".to_owned(),
        );
    };
    let unit = options.unit(scenario);
    let complaints = complaints(scenario, options, with);
    let budget = with
        .report
        .as_ref()
        .map(|report| (report.used_ms, report.budget_ms));
    let budget = match budget {
        Some((Some(used), Some(budget))) => {
            format!(" {} of {} used,", words::span(used), words::span(budget))
        }
        _ => String::new(),
    };
    let exit = with
        .exit_code
        .map_or("killed".to_owned(), |code| format!("exit code {code}"));
    if !complaints.is_empty() {
        return (
            RehearsalOutcome::Failed,
            sentence(&format!("Not as it should: {}", complaints.join("; "))),
        );
    }
    if options.counts() && with.at_stake == 0 {
        let why = match options.unit(scenario) {
            Unit::Requests if options.own.is_some() => {
                "no request was in flight when it began, and none came after: your app answers too fast to be caught at \
                it, so give --app a URL of it whose answer takes a second or more"
            }
            Unit::Requests => "no request was in flight when it began, and none came after",
            Unit::Jobs => "no job was in hand when it began",
        };
        return (
            RehearsalOutcome::NothingTested,
            format!("Nothing was tested: {why}."),
        );
    }
    if with.lost > 0 {
        let why = scenario.loses.unwrap_or_default();
        let words = format!(
            "{} lost, as without a drain: {why}.{budget} {exit}.",
            unit.counted(with.lost)
        );
        return (RehearsalOutcome::LostAsExpected, words);
    }
    if !options.counts() {
        return (
            RehearsalOutcome::Passed,
            format!("Drained as it should:{budget} {exit}."),
        );
    }
    let mut compared = format!("Nothing was lost of {};", unit.counted(with.done));
    if let Some(other) = run(Cast::WithoutDeregister) {
        compared = format!("{compared} {} without PRESTOP_DEREGISTER,", other.lost);
    }
    let without = match run(Cast::WithoutSidecar).map_or(0, |run| run.lost) {
        0 => "nothing without the sidecar, either".to_owned(),
        lost => format!("{lost} without the sidecar"),
    };
    (
        RehearsalOutcome::Passed,
        format!("{compared} {without}.{budget} {exit}."),
    )
}

/// What did not end as it should; nothing where all is well.
fn complaints(scenario: &Scenario, options: &Options, with: &Run) -> Vec<String> {
    let mut complaints = Vec::new();
    let code = if options.own.is_some() { 0 } else { scenario.code };
    match with.exit_code {
        Some(found) if found == code => {}
        Some(found) => {
            let failed = with.report.iter().flat_map(|report| &report.steps);
            let failed = failed.filter_map(|step| step.status.detail().filter(|_| found != 0));
            let why = failed.map(|why| format!(": {why}")).next().unwrap_or_default();
            complaints.push(format!("the sidecar exited with {found}, not {code}{why}"));
        }
        None => complaints.push("the sidecar had to be killed".to_owned()),
    }
    let lossless = scenario.loses.is_none() || options.own.is_some();
    if lossless && with.lost > 0 {
        let all = options.unit(scenario).counted(with.lost + with.done);
        complaints.push(format!("{} of {all} lost", with.lost));
    }
    let host_gone = matches!(scenario.opening, Opening::SpotSilent(_));
    if with.app_killed && !host_gone {
        complaints.push("the app had to be killed: it did not end on its SIGTERM".to_owned());
    }
    let report = with.report.as_ref();
    let late = report.and_then(|report| Some(report.used_ms? > report.budget_ms? + LATE));
    if late == Some(true) {
        complaints.push("the sidecar exited after its deadline".to_owned());
    }
    complaints
}

/// With a capital and a full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.trim_end_matches('.').chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    format!("{}{}.", first.unwrap_or_default(), letters.as_str())
}
