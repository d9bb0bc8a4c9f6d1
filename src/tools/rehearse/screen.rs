//! What a rehearsal shows while it plays: who does what, in the order in which it happened.
//!
//! Several processes tell it, and nobody knows whose line is read first. Each line has the time at which
//! the thing happened, by the one clock of this machine, and is held back until all that happened before
//! has arrived.

use std::cell::{Cell, RefCell};
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use super::record::Record;
use super::scenario::Scenario;
use crate::tools::picture::terminal::{self, Ink, Paper, wrapped};
use crate::tools::picture::words;
use crate::tools::say;

/// How long a line is held back: on a terminal somebody waits for it, elsewhere a busy machine may take its
/// time.
const HELD_BACK: Duration = Duration::from_millis(300);
const HELD_BACK_IN_A_FILE: Duration = Duration::from_secs(2);

/// Between two looks at what may be shown.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A silence that is shorter needs no countdown.
const SILENCE: Duration = Duration::from_secs(2);

/// Where the words of a line begin, behind time and name.
const WORDS_AT: usize = 21;

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

    fn ink(self) -> Ink {
        match self {
            Who::Ecs | Who::Ec2 => Ink::Aws,
            Who::Sidecar => Ink::Step,
            Who::App => Ink::App,
            Who::Client => Ink::Settle,
        }
    }
}

/// What comes first of what happened in the same millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Turn {
    /// What ECS, EC2 and the clients do.
    Cause,
    Begin,
    /// What the app does.
    Work,
    /// What the sidecar sees ended.
    End,
    /// What ECS sees of ends.
    After,
}

struct Told {
    at_ms: i64,
    turn: Turn,
    who: Who,
    words: String,
}

/// What standard output shows.
pub(super) struct Screen {
    paper: Paper,
    /// Whether it is told at all, or only written down.
    tells: bool,
    terminal: bool,
    /// The first moment of what is played now.
    start: Cell<Timestamp>,
    held: RefCell<Vec<Told>>,
    /// What is waited for, and until when.
    silence: RefCell<Option<(&'static str, Instant)>>,
    counting: Cell<bool>,
}

impl Screen {
    pub(super) fn new(paper: Paper, tells: bool) -> Screen {
        Screen {
            paper,
            tells,
            terminal: std::io::stdout().is_terminal(),
            start: Cell::new(Timestamp::now()),
            held: RefCell::default(),
            silence: RefCell::default(),
            counting: Cell::new(false),
        }
    }

    pub(super) fn title(&self, scenario: &Scenario, place: Option<(usize, usize)>, about_time: &str) {
        let place = place.map_or(String::new(), |(n, of)| format!(" ({n} of {of})"));
        let title = format!("rehearse {}{place}: {}", scenario.name, scenario.title);
        self.line("");
        for line in wrapped(&title, self.paper.width) {
            self.line(&self.paper.paint(Ink::Strong, &line));
        }
        let mut about = vec![scenario.story.to_owned()];
        about.push(format!("Source: {}.", scenario.source));
        about.push(about_time.to_owned());
        for line in about
            .iter()
            .flat_map(|text| wrapped(text, self.paper.width.min(100) - 2))
        {
            self.line(&format!("  {}", self.paper.paint(Ink::Dim, &line)));
        }
    }

    pub(super) fn heading(&self, text: &str) {
        self.line("");
        self.line(&self.paper.paint(Ink::Strong, text));
        self.start.set(Timestamp::now());
    }

    /// Something happens now.
    pub(super) fn say(&self, who: Who, what: &str) {
        self.say_at(Timestamp::now(), Turn::Cause, who, what);
    }

    /// Something happened at that time.
    pub(super) fn say_at(&self, at: Timestamp, turn: Turn, who: Who, what: &str) {
        if self.tells {
            self.held.borrow_mut().push(Told {
                at_ms: at.as_millisecond(),
                turn,
                who,
                words: what.to_owned(),
            });
        }
    }

    /// From now to then nothing happens but that.
    pub(super) fn silence(&self, what: &'static str, length: Duration) {
        *self.silence.borrow_mut() = (length >= SILENCE).then(|| (what, Instant::now() + length));
    }

    /// Something has happened, and the next thing is soon.
    pub(super) fn silence_is_over(&self) {
        *self.silence.borrow_mut() = None;
    }

    /// Shows what is due, for as long as it is polled.
    pub(super) async fn show(&self) {
        let hold = if self.terminal {
            HELD_BACK
        } else {
            HELD_BACK_IN_A_FILE
        };
        let hold = i64::try_from(hold.as_millis()).unwrap_or(i64::MAX);
        loop {
            sleep(LOOK_EVERY).await;
            self.show_until(Timestamp::now().as_millisecond() - hold);
            self.count_down();
        }
    }

    pub(super) fn show_all(&self) {
        self.show_until(i64::MAX);
        self.silence_is_over();
    }

    fn show_until(&self, end_ms: i64) {
        let mut held = self.held.borrow_mut();
        held.sort_by_key(|told| (told.at_ms, told.turn));
        let due = held.partition_point(|told| told.at_ms <= end_ms);
        for told in held.drain(..due) {
            self.tell(&told);
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "milliseconds of a rehearsal")]
    fn tell(&self, told: &Told) {
        let at = (told.at_ms - self.start.get().as_millisecond()) as f64 / 1000.0;
        let name = self
            .paper
            .paint(told.who.ink(), &format!("{:<8}", told.who.name()));
        let mut lines = wrapped(&told.words, self.paper.width - WORDS_AT).into_iter();
        self.line(&format!(
            "  {at:>6.2} s  {name} {}",
            lines.next().unwrap_or_default()
        ));
        for line in lines {
            self.line(&format!("{:WORDS_AT$}{line}", ""));
        }
    }

    /// On a terminal, how long the silence still lasts.
    fn count_down(&self) {
        let silence = self.silence.borrow();
        let Some((what, end)) = &*silence else { return };
        let left = end.saturating_duration_since(Instant::now()).as_secs();
        if self.terminal && self.tells && left > 0 {
            let text = format!("{:WORDS_AT$}{left} s {what}", "");
            let _ = write!(
                std::io::stdout(),
                "\r\x1b[2K{}",
                self.paper.paint(Ink::Dim, &text)
            );
            let _ = std::io::stdout().flush();
            self.counting.set(true);
        }
    }

    /// What came of it: both runs on one axis.
    pub(super) fn verdict(&self, record: &Record) {
        self.line("");
        let mut picture = record.picture();
        // Both stand above already.
        picture.title = String::new();
        picture.about = vec!["0 is when ECS or EC2 begins.".to_owned()];
        for line in terminal::draw(&picture, &self.paper) {
            self.line(&line);
        }
        if picture.panels.is_empty() {
            for line in terminal::verdict(&record.verdict(), &self.paper) {
                self.line(&line);
            }
        }
    }

    /// The last lines of something that failed.
    pub(super) fn last_words<'a>(&self, whose: &str, lines: impl Iterator<Item = &'a str>) {
        let mut lines = lines.peekable();
        if lines.peek().is_some() {
            self.line("");
            self.line(&self.paper.paint(Ink::Strong, &format!("What {whose} wrote last")));
        }
        for line in lines {
            self.line(&format!("  {}", self.paper.paint(Ink::Dim, &printable(line))));
        }
    }

    /// What was played, a line each.
    pub(super) fn table(&self, records: &[Record]) {
        self.line("");
        let head = format!(
            "{:<16} {:>4}  {:>15}  {:>5} {:>5} {:>8}  ended",
            "scenario", "exit", "budget used", "done", "lost", "without"
        );
        self.line(&self.paper.paint(Ink::Strong, &head));
        for record in records {
            let with = record.with();
            let without = record.run(super::scenario::Cast::WithoutSidecar);
            let figure = |n: Option<u32>| n.map_or("-".to_owned(), |n| n.to_string());
            let exit = with
                .and_then(|run| run.exit_code)
                .map_or("-".to_owned(), |code| code.to_string());
            let report = with.and_then(|run| run.report.as_ref());
            let budget = match report.map(|report| (report.used_ms, report.budget_ms)) {
                Some((Some(used), Some(budget))) => {
                    format!("{} of {}", words::span(used), words::span(budget))
                }
                _ => "none".to_owned(),
            };
            let ended = match record.outcome {
                super::record::RehearsalOutcome::Passed => "well",
                super::record::RehearsalOutcome::LostAsExpected => "lost, as without",
                super::record::RehearsalOutcome::Failed => "FAILED",
                super::record::RehearsalOutcome::NothingTested => "NOTHING TESTED",
            };
            self.line(&format!(
                "{:<16} {exit:>4}  {budget:>15}  {:>5} {:>5} {:>8}  {}",
                record.scenario,
                figure(with.map(|run| run.done)),
                figure(with.map(|run| run.lost)),
                figure(without.map(|run| run.lost)),
                self.paper.paint(record.outcome.tone().into(), ended)
            ));
        }
        let well = records.iter().filter(|record| record.outcome.is_well()).count();
        self.line("");
        self.line(&format!("{well} of {} ended as they should.", records.len()));
    }

    fn line(&self, line: &str) {
        if self.tells {
            if self.counting.replace(false) {
                let _ = write!(std::io::stdout(), "\r\x1b[2K");
            }
            say(line);
        }
    }
}

/// What somebody's app writes may hold anything; a terminal gets no commands of it.
fn printable(line: &str) -> String {
    line.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
