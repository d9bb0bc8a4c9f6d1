//! `completions` and `man`: made from the definitions that help is made from, so that the three cannot differ.

use std::io::Write;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;
use clap_mangen::Man;

/// The subcommand that writes completions.
pub const COMPLETIONS: &str = "completions";

/// The subcommand that writes manual pages.
pub const MAN: &str = "man";

/// `completions` as the command line knows it.
pub fn completions_command() -> Command {
    Command::new(COMPLETIONS)
        .about("Writes the completions of a shell to standard output")
        .arg(
            Arg::new("shell")
                .value_name("SHELL")
                .required(true)
                .value_parser(value_parser!(Shell)),
        )
        .after_help("Example: source <(ecs-prestop completions bash)")
}

/// `man` as the command line knows it.
pub fn man_command() -> Command {
    Command::new(MAN)
        .about("Writes the manual page, or that of one command, to standard output")
        .arg(
            Arg::new("of")
                .value_name("COMMAND")
                .help("whose page; without it that of ecs-prestop itself"),
        )
        .after_help("Example: ecs-prestop man rehearse | man -l -")
}

/// Writes the completions for `command_line`.
pub fn completions(matches: &ArgMatches, mut command_line: Command) -> ExitCode {
    let Some(&shell) = matches.get_one::<Shell>("shell") else {
        return ExitCode::from(2);
    };
    let name = command_line.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command_line, name, &mut script);
    write(&script)
}

/// Writes the page of `command_line`, or of one of its commands.
pub fn man(matches: &ArgMatches, mut command_line: Command) -> ExitCode {
    command_line = command_line.disable_help_subcommand(true);
    // Gives each subcommand its whole name, `ecs-prestop check`.
    command_line.build();
    let command = match matches.get_one::<String>("of") {
        None => command_line,
        Some(name) => match command_line.find_subcommand(name) {
            Some(command) => command.clone(),
            None => {
                let names: Vec<&str> = command_line.get_subcommands().map(Command::get_name).collect();
                eprintln!(
                    "ecs-prestop: there is no command `{name}`, but {}",
                    names.join(", ")
                );
                return ExitCode::from(2);
            }
        },
    };
    let mut page = Vec::new();
    match Man::new(command).render(&mut page) {
        Ok(()) => write(&page),
        Err(why) => {
            eprintln!("ecs-prestop: cannot make the page: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Whoever stops reading, such as `head`, has seen enough.
fn write(text: &[u8]) -> ExitCode {
    match std::io::stdout().write_all(text) {
        Err(why) if why.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("ecs-prestop: {why}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
