//! What a rehearsal shows: calm, aligned, coloured only on a terminal.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::Duration;

use tokio::time::Instant;

use super::Rehearsal;
use super::scenario::Scenario;
use crate::tools::say;

/// Who says something, and in which colour.
#[derive(Clone, Copy, Debug)]
pub(super) enum Who {
    Ecs,
    Ec2,
    Sidecar,
    App,
    Client,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Who::Ecs => "ECS",
            Who::Ec2 => "EC2",
            Who::Sidecar => "prestop",
            Who::App => "app",
            Who::Client => "client",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Who::Ecs | Who::Ec2 => "\x1b[35m",
            Who::Sidecar => "\x1b[36m",
            Who::App => "\x1b[32m",
            Who::Client => "\x1b[34m",
        }
    }
}

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const GOOD: &str = "\x1b[32m";
const BAD: &str = "\x1b[31m";

/// Where the words of a line begin, behind time and name.
const WORDS_AT: usize = 22;

pub(super) struct Screen {
    colour: bool,
    /// The first moment of what is played now.
    start: Cell<Instant>,
}

impl Screen {
    pub(super) fn new() -> Screen {
        let colour =
            std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Screen {
            colour,
            start: Cell::new(Instant::now()),
        }
    }

    pub(super) fn title(&self, scenario: &Scenario) {
        say("");
        say(&format!(
            "{}: {}",
            self.paint(BOLD, &format!("rehearse {}", scenario.name)),
            scenario.title
        ));
        for line in wrapped(scenario.story, 76) {
            say(&format!("  {}", self.paint(DIM, &line)));
        }
        let scale = format!(
            "Time is 1:{}: the stop timeout of {} s is {} here.",
            scenario.scale,
            scenario.stop_timeout_s,
            seconds(scenario.stop_timeout())
        );
        say(&format!("  {}", self.paint(DIM, &scale)));
    }

    pub(super) fn heading(&self, text: &str) {
        say("");
        say(&self.paint(BOLD, text));
        self.start.set(Instant::now());
    }

    pub(super) fn say(&self, who: Who, what: &str) {
        let at = self.start.get().elapsed().as_secs_f64();
        let name = self.paint(who.colour(), &format!("{:<8}", who.name()));
        let mut lines = wrapped(what, 80 - WORDS_AT).into_iter();
        say(&format!(
            "  {at:>6.2} s  {name} {}",
            lines.next().unwrap_or_default()
        ));
        for line in lines {
            say(&format!("{:WORDS_AT$}{line}", ""));
        }
    }

    pub(super) fn verdict(&self, scenario: &Scenario, rehearsal: &Rehearsal) {
        let Rehearsal {
            with,
            without_deregister,
            without,
            complaints,
        } = rehearsal;
        say("");
        let exit = with
            .sidecar_code
            .map_or("killed".to_owned(), |code| format!("exit code {code}"));
        let budget = match (with.used, with.budget) {
            (Some(used), Some(budget)) => {
                format!(", {} of {} used", seconds(used), seconds(budget))
            }
            _ => String::new(),
        };
        let unit = scenario.app.unit();
        say(&format!(
            "{} with ecs-prestop {} {unit} done and {} lost{budget}, {exit}; without it {} lost",
            self.paint(BOLD, "Verdict:"),
            with.answered,
            with.lost,
            without.lost,
        ));
        if let Some(played) = without_deregister {
            say(&format!(
                "         lost: {} with PRESTOP_DEREGISTER, {} with the sidecar alone, {} without it",
                with.lost, played.lost, without.lost
            ));
        }
        if complaints.is_empty() {
            say(&format!(
                "         {}",
                self.paint(GOOD, "It ended as it should.")
            ));
        }
        for complaint in complaints {
            say(&format!(
                "         {}",
                self.paint(BAD, &format!("Not as it should: {complaint}."))
            ));
        }
    }

    pub(super) fn table(&self, rows: &[(&str, Rehearsal)]) {
        say("");
        let head = format!(
            "{:<16} {:>4}  {:>14}  {:>6} {:>6}  {:>12}  ended",
            "scenario", "exit", "budget used", "done", "lost", "lost without"
        );
        say(&self.paint(BOLD, &head));
        for (
            name,
            Rehearsal {
                with,
                without,
                complaints,
                ..
            },
        ) in rows
        {
            let exit = with
                .sidecar_code
                .map_or("kill".to_owned(), |code| code.to_string());
            let budget = match (with.used, with.budget) {
                (Some(used), Some(budget)) => format!("{} of {}", seconds(used), seconds(budget)),
                _ => "none".to_owned(),
            };
            let ended = if complaints.is_empty() {
                self.paint(GOOD, "as it should")
            } else {
                self.paint(BAD, &complaints.join("; "))
            };
            say(&format!(
                "{name:<16} {exit:>4}  {budget:>14}  {:>6} {:>6}  {:>12}  {ended}",
                with.answered, with.lost, without.lost
            ));
        }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour {
            format!("{colour}{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Two digits are what a rehearsal can promise.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// Lines of at most `width` columns.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
