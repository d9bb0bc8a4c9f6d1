//! The command line: one subcommand each, nothing else.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Arg, ArgMatches, Command};
use ecs_prestop::config::{Config, LogFormat, SETTINGS};
use ecs_prestop::core::lifecycle::Code;
use ecs_prestop::sidecar::aws::contained::is_contained;
use ecs_prestop::sidecar::drain::quiet::Kernel;
use ecs_prestop::sidecar::http::Network;
use ecs_prestop::sidecar::run::{self, Networks};
use ecs_prestop::sidecar::telemetry::writer::Writer;
use ecs_prestop::sidecar::telemetry::{Format, Telemetry};
use ecs_prestop::sidecar::watch::signals::Signals;
use ecs_prestop::sidecar::{endpoints, mailbox};
use ecs_prestop::tools::{add, check};
use ecs_prestop::tools::{rehearse, sample_app, simulate};
use tokio::net::TcpListener;

/// Names that may be looked up at once: two containers' and the metadata's may be slow together.
const LOOKUPS: usize = 4;

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
        Some((rehearse::NAME, matches)) => on_runtime(rehearse::main(matches)),
        Some((sample_app::NAME, matches)) => on_runtime(sample_app::main(matches)),
        // clap knows no other.
        Some(_) => ExitCode::from(2),
    }
}

fn command_line() -> Command {
    Command::new("ecs-prestop")
        .version(env!("CARGO_PKG_VERSION"))
        .about("The preStop hook that Amazon ECS never had")
        .args_conflicts_with_subcommands(true)
        .args(settings())
        .subcommand(
            Command::new("run")
                .about("The sidecar; what runs without a subcommand")
                .args(settings()),
        )
        .subcommand(
            Command::new("health")
                .about("Exits 0 if the sidecar in this container is healthy, else 1 with the reason")
                .args(settings()),
        )
        .subcommand(check::command())
        .subcommand(add::command())
        .subcommand(simulate::command())
        .subcommand(rehearse::command())
        .subcommand(sample_app::command())
}

fn settings() -> impl Iterator<Item = Arg> {
    SETTINGS.iter().map(|setting| {
        let default = if setting.default.is_empty() {
            String::new()
        } else {
            format!("; default {}", setting.default)
        };
        Arg::new(setting.flag())
            .long(setting.flag())
            .value_name(setting.name)
            .help(format!("{}{default} [{}]", setting.meaning, setting.variable()))
    })
}

/// All settings, or the complaints on standard error and the exit code.
fn config(matches: Option<&ArgMatches>) -> Result<Config, ExitCode> {
    let flag = |name: &str| matches?.get_one::<String>(name).cloned();
    let variables = std::env::vars_os().map(|(name, value)| {
        (
            name.to_string_lossy().into_owned(),
            value.to_string_lossy().into_owned(),
        )
    });
    Config::read(flag, variables).map_err(|problems| refuse(&problems))
}

fn refuse(problems: &[impl ToString]) -> ExitCode {
    for problem in problems {
        complain(&problem.to_string());
    }
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
    let telemetry = Telemetry::start(log_format(&config), config.log.clone());
    exit_with_1_on_panic(telemetry.clone());
    let ending = on_runtime(async move {
        let listener = match config.listen {
            None => None,
            Some(address) => match TcpListener::bind(address).await {
                // Its own lookups: a name that hangs behind /ready must not keep a drain call waiting.
                Ok(listener) => Some((listener, Network::system(1))),
                Err(why) => return Err(listen_problem(address, &why)),
            },
        };
        let (mailbox, messages) = mailbox::channel();
        tokio::spawn(signals.watch(mailbox.clone()));
        let ending = run::run(
            config,
            Networks {
                sockets: Arc::new(Kernel::default()),
                drain: Network::system(LOOKUPS),
                aws: Network::system(AWS_LOOKUPS),
            },
            telemetry.clone(),
            (mailbox, messages),
            listener,
        )
        .await;
        telemetry.flush();
        for complaint in &ending.complaints {
            complain(complaint);
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

fn log_format(config: &Config) -> Format {
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
    let text = match config.log_format {
        LogFormat::Auto => terminal,
        LogFormat::Json => false,
        LogFormat::Text => true,
    };
    if text {
        Format::Text {
            colour: terminal && !config.no_color,
        }
    } else {
        Format::Json
    }
}

/// A panic is a bug; the exit code says so, and the log is written. One of the SDK is a call that failed.
fn exit_with_1_on_panic(telemetry: Telemetry) {
    std::panic::set_hook(Box::new(move |panic| {
        if is_contained() {
            return;
        }
        tracing::error!(event = "exit", code = Code::Fault.number(), result = Code::Fault.words(), message = %panic);
        telemetry.flush();
        std::process::exit(Code::Fault.number().into());
    }));
}

fn health(matches: &ArgMatches) -> ExitCode {
    let Ok(config) = config(Some(matches)) else {
        return ExitCode::FAILURE;
    };
    let Some(listen) = config.listen else {
        return fault("PRESTOP_LISTEN is `off`: there is no endpoint to ask");
    };
    match on_runtime(endpoints::ask_health(listen)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fault(&why),
    }
}

fn fault(why: &str) -> ExitCode {
    complain(why);
    ExitCode::from(Code::Fault.number())
}

/// On standard error, if somebody reads it.
fn complain(what: &str) {
    let stderr = Writer::start(std::io::stderr());
    stderr.last_line(format!("ecs-prestop: {what}\n"));
    stderr.flush();
}

fn on_runtime<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(future),
        Err(why) => {
            complain(&format!("cannot start: {why}"));
            std::process::exit(Code::Fault.number().into())
        }
    }
}
