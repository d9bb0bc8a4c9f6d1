//! Whether what is shown may have colours: `--color`, `NO_COLOR` (no-color.org), `TERM`.

use std::io::IsTerminal;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches};

/// Whether there may be colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ColourChoice {
    /// Where standard output is a terminal that has them, and NO_COLOR is not set.
    #[default]
    Auto,
    Always,
    Never,
}

impl ColourChoice {
    /// `--color WHEN`, for everything that draws.
    pub fn argument() -> Arg {
        Arg::new("color")
            .long("color")
            .value_name("WHEN")
            .value_parser(PossibleValuesParser::new(["auto", "always", "never"]))
            .default_value("auto")
            .help("auto: on a terminal, unless NO_COLOR is set or TERM is dumb")
    }

    /// What `--color` says.
    pub fn of(matches: &ArgMatches) -> ColourChoice {
        match matches.get_one::<String>("color").map(String::as_str) {
            Some("always") => ColourChoice::Always,
            Some("never") => ColourChoice::Never,
            _ => ColourChoice::Auto,
        }
    }

    /// Whether standard output gets them.
    pub fn on_stdout(self) -> bool {
        self.on(std::io::stdout().is_terminal(), |name| std::env::var(name).ok())
    }

    fn on(self, terminal: bool, variable: impl Fn(&str) -> Option<String>) -> bool {
        match self {
            ColourChoice::Auto => {
                terminal
                    && variable("TERM").as_deref() != Some("dumb")
                    && variable("NO_COLOR").is_none_or(|value| value.is_empty())
            }
            ColourChoice::Always => true,
            ColourChoice::Never => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ColourChoice::{self, Always, Auto, Never};

    #[test]
    fn a_terminal_gets_colours_unless_it_or_its_user_has_said_otherwise() {
        let on = |choice: ColourChoice, terminal: bool, name: &str, value: &str| {
            choice.on(terminal, |asked| (asked == name).then(|| value.to_owned()))
        };
        assert!(on(Auto, true, "TERM", "xterm") && on(Auto, true, "NO_COLOR", ""));
        assert!(!on(Auto, false, "TERM", "xterm"));
        assert!(!on(Auto, true, "TERM", "dumb"));
        assert!(!on(Auto, true, "NO_COLOR", "1"));
        assert!(on(Always, false, "NO_COLOR", "1") && on(Always, true, "TERM", "dumb"));
        assert!(!on(Never, true, "TERM", "xterm"));
    }
}
