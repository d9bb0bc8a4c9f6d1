//! The command line: one subcommand each, nothing else.

use std::fmt::Display;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::{Arg, ArgMatches, Command};
use ecs_prestop::config::{Config, LogFormat, SETTINGS};
use ecs_prestop::core::lifecycle::Code;
use ecs_prestop::core::plan::Plan;
use ecs_prestop::core::timeline::What;
use ecs_prestop::sidecar::aws::contained::is_contained;
use ecs_prestop::sidecar::drain::quiet::Kernel;
use ecs_prestop::sidecar::http::Network;
use ecs_prestop::sidecar::run::{self, Networks};
use ecs_prestop::sidecar::telemetry::writer::{Writer, flush_end};
use ecs_prestop::sidecar::telemetry::{LineFormat, Telemetry};
use ecs_prestop::sidecar::watch::signals::Signals;
use ecs_prestop::sidecar::{endpoints, mailbox};
use ecs_prestop::tools::colour::ColourChoice;
use ecs_prestop::tools::{add, check};
#[cfg(feature = "laptop")]
use ecs_prestop::tools::{manual, rehearse, timeline};
use ecs_prestop::tools::{sample_app, simulate};
use tokio::net::TcpListener;

/// Names of drain calls that may be looked up at once: a task has ten containers at most (ECS developer guide,
/// *service quotas*), and one that hangs must not hold up the others.
const DRAIN_LOOKUPS: usize = 10;

/// The task metadata, the instance metadata, the ECS agent and the busy URL.
const METADATA_LOOKUPS: usize = 4;

/// The endpoints of two services, and one more for credentials.
const AWS_LOOKUPS: usize = 3;

fn main() -> ExitCode {
    // As a container starts it: nothing to parse, so the parser's pages are never touched.
    let mut words = std::env::args_os().skip(1);
    let plain = words.next().is_none_or(|word| word == "run") && words.next().is_none();
    if plain {
        return run(None);
    }
    let matches = command_line().get_matches();
    match matches.subcommand() {
        None => run(Some(&matches)),
        Some(("run", matches)) => run(Some(matches)),
        Some(("health", matches)) => health(matches),
        Some((check::NAME, matches)) => check::main(matches),
        Some((add::NAME, matches)) => add::main(matches),
        Some((simulate::NAME, matches)) => on_runtime(simulate::main(matches)),
        #[cfg(feature = "laptop")]
        Some((rehearse::NAME, matches)) => on_runtime(rehearse::main(matches)),
        #[cfg(feature = "laptop")]
        Some((timeline::NAME, matches)) => timeline::main(matches),
        #[cfg(feature = "laptop")]
        Some((manual::COMPLETIONS, matches)) => manual::completions(matches, command_line()),
        #[cfg(feature = "laptop")]
        Some((manual::MAN, matches)) => manual::man(matches, command_line()),
        Some((sample_app::NAME, matches)) => on_runtime(sample_app::main(matches)),
        // clap knows no other.
        Some(_) => ExitCode::from(2),
    }
}

fn command_line() -> Command {
    let command = Command::new("ecs-prestop")
        .version(env!("CARGO_PKG_VERSION"))
        .about("The preStop hook that Amazon ECS never had")
        .args_conflicts_with_subcommands(true)
        .args(settings())
        .arg(ColourChoice::argument())
        .subcommand(
            Command::new("run")
                .about("The sidecar; what runs without a subcommand")
                .args(settings())
                .arg(ColourChoice::argument()),
        )
        .subcommand(
            Command::new("health")
                .about("Exits 0 if the sidecar in this container is healthy, else 1 with the reason")
                .args(settings().filter(|argument| argument.get_id() == "listen")),
        )
        .subcommand(check::command())
        .subcommand(add::command())
        .subcommand(simulate::command())
        .subcommand(sample_app::command());
    #[cfg(feature = "laptop")]
    let command = command
        .subcommand(rehearse::command())
        .subcommand(timeline::command())
        .subcommand(manual::completions_command())
        .subcommand(manual::man_command());
    command
}

fn settings() -> impl Iterator<Item = Arg> {
    SETTINGS.iter().map(|setting| {
        let default = if setting.default.is_empty() {
            String::new()
        } else {
            format!("; default {}", setting.default)
        };
        let argument = Arg::new(setting.flag())
            .long(setting.flag())
            .value_name(setting.name);
        let argument = if setting.is_switch() {
            argument.num_args(0..=1).default_missing_value("true")
        } else {
            argument
        };
        argument.help(format!("{}{default} [{}]", setting.meaning, setting.variable()))
    })
}

/// All settings, or the complaints on standard error and the exit code.
fn config(matches: Option<&ArgMatches>) -> Result<Config, ExitCode> {
    // `health` has a few of them only.
    let flag = |name: &str| matches?.try_get_one::<String>(name).ok()?.cloned();
    let variables = std::env::vars_os().map(|(name, value)| {
        (
            name.to_string_lossy().into_owned(),
            value.to_string_lossy().into_owned(),
        )
    });
    Config::read(flag, variables).map_err(|problems| refuse(&problems))
}

fn refuse(problems: &[impl Display]) -> ExitCode {
    complain_and_flush(problems);
    ExitCode::from(Code::Settings.number())
}

fn run(matches: Option<&ArgMatches>) -> ExitCode {
    // Before anything else: a SIGTERM that comes now must not be lost.
    let signals = match Signals::take() {
        Ok(signals) => signals,
        Err(why) => return fault(&format!("cannot take signals over: {why}")),
    };
    let config = match config(matches) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let colour = matches.map(ColourChoice::of).unwrap_or_default();
    let plan = Plan::from_setting(&config.drain);
    if let Some(problem) = plan.and_then(|plan| config.refuses(&plan)) {
        return refuse(&[problem]);
    }
    let telemetry = Telemetry::start(log_format(&config, colour), config.log.clone());
    exit_with_1_on_panic(telemetry.clone());
    let ending = on_runtime(async move {
        let listener = match config.listen {
            None => None,
            Some(address) => match TcpListener::bind(address).await {
                // Its own lookups: a name that hangs behind /ready must not keep a drain call waiting.
                Ok(listener) => Some((listener, Network::system(1))),
                Err(why) => {
                    let problem = listen_problem(address, &why);
                    log_exit(Code::Settings, &problem);
                    telemetry.flush(flush_end(Instant::now(), None));
                    return Err(problem);
                }
            },
        };
        let (mailbox, messages) = mailbox::channel();
        tokio::spawn(signals.watch(mailbox.clone()));
        let ending = run::run(
            config,
            Networks {
                sockets: Arc::new(Kernel::default()),
                drain: Network::system(DRAIN_LOOKUPS),
                metadata: Network::system(METADATA_LOOKUPS),
                aws: Network::system(AWS_LOOKUPS),
            },
            telemetry.clone(),
            (mailbox, messages),
            listener,
        )
        .await;
        // One limit for both: what the log has used up, standard error has not.
        let end = flush_end(Instant::now(), ending.deadline);
        let stderr = complain(&ending.complaints);
        telemetry.flush(end);
        if let Some(stderr) = stderr {
            stderr.flush(end);
        }
        // Not by returning: a resolver that hangs must not hold the process.
        std::process::exit(ending.code.number().into())
    });
    let Err(problem): Result<std::convert::Infallible, String> = ending;
    refuse(&[problem])
}

fn listen_problem(address: SocketAddr, why: &std::io::Error) -> String {
    format!(
        "PRESTOP_LISTEN is `{address}`: {why}. Choose another port, or `off`; containers that share a network \
         namespace share its ports"
    )
}

fn log_format(config: &Config, colour: ColourChoice) -> LineFormat {
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
    let text = match config.log_format {
        LogFormat::Auto => terminal,
        LogFormat::Json => false,
        LogFormat::Text => true,
    };
    if text {
        LineFormat::Text {
            colour: colour.on_stdout(),
        }
    } else {
        LineFormat::Json { emf: config.emf }
    }
}

/// A panic is a bug; the exit code says so, and the log is written. One of the SDK is a call that failed.
fn exit_with_1_on_panic(telemetry: Telemetry) {
    std::panic::set_hook(Box::new(move |panic| {
        if is_contained() {
            return;
        }
        log_exit(Code::Fault, panic);
        // Soon enough at any time: a panic after the deadline is as late as the exit would have been.
        telemetry.flush(flush_end(Instant::now(), None));
        std::process::exit(Code::Fault.number().into());
    }));
}

/// For ends that no lifecycle has seen.
fn log_exit(code: Code, why: impl Display) {
    tracing::error!(
        target: What::EXIT,
        event = What::EXIT,
        code = code.number(),
        result = code.words(),
        message = %why
    );
}

fn health(matches: &ArgMatches) -> ExitCode {
    let Ok(config) = config(Some(matches)) else {
        return ExitCode::FAILURE;
    };
    let Some(listen) = config.listen else {
        return fault("PRESTOP_LISTEN is `off`: there is no endpoint to ask");
    };
    match on_runtime(endpoints::health::ask(listen)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fault(&why),
    }
}

fn fault(why: &str) -> ExitCode {
    complain_and_flush(&[why]);
    ExitCode::from(Code::Fault.number())
}

fn complain_and_flush(complaints: &[impl Display]) {
    if let Some(stderr) = complain(complaints) {
        stderr.flush(flush_end(Instant::now(), None));
    }
}

/// On standard error, if somebody reads it before it is flushed; `None` where there is nothing to say.
fn complain(complaints: &[impl Display]) -> Option<Writer> {
    if complaints.is_empty() {
        return None;
    }
    let stderr = Writer::start(std::io::stderr());
    for complaint in complaints {
        stderr.last_line(format!("ecs-prestop: {complaint}\n"));
    }
    Some(stderr)
}

fn on_runtime<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(future),
        Err(why) => {
            complain_and_flush(&[format!("cannot start: {why}")]);
            std::process::exit(Code::Fault.number().into())
        }
    }
}
