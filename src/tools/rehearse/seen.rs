//! What is seen of one run, on one clock, until it becomes a [`Run`].

use std::cell::{Cell, RefCell};
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::client::{Load, Sent};
use super::processes::LastLines;
use super::record::Run;
use super::scenario::Cast;
use super::screen::{Screen, Turn, Who};
use crate::core::lifecycle::Report;
use crate::core::timeline::What;
use crate::tools::picture::{MarkKind, words};

/// Between two looks at the clock.
const CLOCK_EVERY: Duration = Duration::from_millis(20);

/// What is in flight is told at this grain.
const GRAIN_MS: i64 = 20;

/// Everything that one run has shown so far.
pub(super) struct Witness<'a> {
    screen: &'a Screen,
    /// The same moment by both clocks.
    base: (Instant, Timestamp),
    /// How long something had waited for a processor by then.
    starved: Option<Duration>,
    zero: Cell<Option<Instant>>,
    marks: RefCell<Vec<(Instant, MarkKind)>>,
    pub(super) app_stops: Cell<Option<(Instant, Instant)>>,
    noticed: Cell<Option<Timestamp>>,
    /// The longest that something which was due was late.
    late: Cell<Duration>,
    report: RefCell<Option<Report>>,
    sidecar_is_up: Cell<bool>,
    /// When the job in hand began, and those that have ended.
    job: Cell<Option<Instant>>,
    jobs: RefCell<Vec<Sent>>,
    /// Whether the app's lines are its own story, with their time in front.
    sample: bool,
    pub(super) app_said: RefCell<LastLines>,
    pub(super) sidecar_said: RefCell<LastLines>,
}

impl<'a> Witness<'a> {
    pub(super) fn new(screen: &'a Screen, sample: bool) -> Witness<'a> {
        Witness {
            screen,
            base: (Instant::now(), Timestamp::now()),
            starved: starved(),
            zero: Cell::default(),
            marks: RefCell::default(),
            app_stops: Cell::default(),
            noticed: Cell::default(),
            late: Cell::default(),
            report: RefCell::default(),
            sidecar_is_up: Cell::default(),
            job: Cell::default(),
            jobs: RefCell::default(),
            sample,
            app_said: RefCell::default(),
            sidecar_said: RefCell::default(),
        }
    }

    /// ECS or EC2 begins, unless it has.
    pub(super) fn begin(&self) {
        if self.zero.get().is_none() {
            self.zero.set(Some(Instant::now()));
        }
    }

    pub(super) fn mark(&self, kind: MarkKind) {
        self.marks.borrow_mut().push((Instant::now(), kind));
    }

    /// Something that ECS or EC2 does, and perhaps a mark in the picture.
    pub(super) fn acts(&self, who: Who, what: &str, kind: Option<MarkKind>) {
        self.begin();
        self.screen.say(who, what);
        if let Some(kind) = kind {
            self.mark(kind);
        }
    }

    /// Looks how late this process is woken: the others on this machine are no faster. For as long as it is polled.
    pub(super) async fn watch_clock(&self) {
        loop {
            let due = Instant::now() + CLOCK_EVERY;
            sleep_until(due).await;
            self.late.set(self.late.get().max(due.elapsed()));
        }
    }

    pub(super) fn sidecar_is_up(&self) -> bool {
        self.sidecar_is_up.get()
    }

    /// Whether a job has begun and not ended.
    pub(super) fn job_in_hand(&self) -> bool {
        self.job.get().is_some()
    }

    pub(super) fn app_says(&self, line: &str) {
        if !self.sample {
            self.app_said.borrow_mut().add(line);
            return;
        }
        let stamped = line
            .split_once(' ')
            .and_then(|(at, rest)| Some((at.parse().ok()?, rest)));
        let Some((at, line)) = stamped else {
            return self.app_said.borrow_mut().add(line);
        };
        self.note_job(at, line);
        if !line.starts_with("serves on") {
            self.screen.say_at(at, Turn::Work, Who::App, line);
        }
    }

    fn note_job(&self, at: Timestamp, line: &str) {
        let at = self.instant(at);
        let end = |answered| {
            if let Some(began) = self.job.take() {
                self.jobs.borrow_mut().push(Sent {
                    began,
                    ended: at,
                    answered,
                });
            }
        };
        if !line.starts_with("job ") {
            if line.contains("1 job cut off") {
                end(false);
            }
        } else if line.ends_with(" done") {
            end(true);
        } else if line.ends_with(" begins") {
            self.job.set(Some(at));
        }
    }

    /// A line of the sidecar's log.
    pub(super) fn sidecar_says(&self, line: &str) {
        #[derive(Deserialize)]
        struct Line {
            timestamp: Timestamp,
            level: String,
            event: String,
            message: Option<String>,
        }
        let value: Option<Value> = serde_json::from_str(line).ok();
        let known = value.as_ref().and_then(|value| Line::deserialize(value).ok());
        let (Some(value), Some(known)) = (value, known) else {
            self.sidecar_said.borrow_mut().add(line);
            return self
                .screen
                .say_at(Timestamp::now(), Turn::End, Who::Sidecar, line);
        };
        if known.event == "start" {
            self.sidecar_is_up.set(true);
        }
        if known.event == "superseded" {
            let message = known.message.unwrap_or_default();
            let told = format!("superseded: {message}; no other lease");
            return self
                .screen
                .say_at(known.timestamp, Turn::Begin, Who::Sidecar, &told);
        }
        let Ok(what) = serde_json::from_value::<What>(value.clone()) else {
            if let Some(message) = known.message.filter(|_| known.level != "info") {
                self.sidecar_said.borrow_mut().add(&message);
                self.screen
                    .say_at(known.timestamp, Turn::Begin, Who::Sidecar, &message);
            }
            return;
        };
        match &what {
            What::Notice { .. } if self.noticed.get().is_none() => self.noticed.set(Some(known.timestamp)),
            What::Exit { .. } => *self.report.borrow_mut() = serde_json::from_value(value).ok(),
            _ => {}
        }
        let turn = match &what {
            What::StepCall { .. }
            | What::StepRetry { .. }
            | What::StepEnd { .. }
            | What::AwsEnd { .. }
            | What::Drained { .. }
            | What::Exit { .. } => Turn::End,
            _ => Turn::Begin,
        };
        if let Some(told) = words::of(&what) {
            self.screen.say_at(known.timestamp, turn, Who::Sidecar, &told);
        }
    }

    pub(super) fn run(
        &self,
        cast: Cast,
        clients: Option<&Load>,
        exit_code: Option<i32>,
        app_killed: bool,
    ) -> Run {
        let zero = self.zero.get().unwrap_or(self.base.0);
        let on_axis = |at: Instant| signed_ms(at, zero);
        let sent = match clients {
            Some(clients) => {
                let away = clients
                    .looked_away()
                    .map(|at| (on_axis(at), MarkKind::LookedAway));
                let mut marks = self.marks.borrow_mut();
                let told = marks.iter().any(|(_, kind)| *kind == MarkKind::Deregistered);
                if let Some((at, kind)) = away.filter(|_| !told) {
                    let at = zero + Duration::from_millis(u64::try_from(at).unwrap_or(0));
                    marks.push((at, kind));
                }
                clients.sent()
            }
            None => {
                let mut jobs = self.jobs.borrow().clone();
                // One that nobody has told the end of was cut off with the app.
                jobs.extend(self.job.get().map(|began| Sent {
                    began,
                    ended: Instant::now(),
                    answered: false,
                }));
                jobs
            }
        };
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let lost: Vec<&Sent> = sent.iter().filter(|one| !one.answered).collect();
        let mut lost_ms: Vec<i64> = lost.iter().map(|one| on_axis(one.ended)).collect();
        lost_ms.sort_unstable();
        Run {
            cast,
            done: count(sent.len() - lost.len()),
            lost: count(lost.len()),
            at_stake: count(sent.iter().filter(|one| one.ended >= zero).count()),
            exit_code,
            app_killed,
            app_stops: self
                .app_stops
                .get()
                .map(|(from, to)| (on_axis(from), on_axis(to))),
            marks: self
                .marks
                .borrow()
                .iter()
                .map(|(at, kind)| (on_axis(*at), *kind))
                .collect(),
            in_flight: in_flight(&sent, on_axis),
            lost_ms,
            noticed_ms: self.noticed.get().map(|at| on_axis(self.instant(at))),
            report: self.report.borrow().clone(),
            late_ms: u64::try_from(self.late.get().as_millis()).ok(),
            starved_percent: self.starved_percent(),
        }
    }

    fn starved_percent(&self) -> Option<u64> {
        let starved = starved()?.checked_sub(self.starved?)?.as_millis();
        let percent = (starved * 100).checked_div(self.base.0.elapsed().as_millis())?;
        u64::try_from(percent.min(100)).ok()
    }

    fn instant(&self, at: Timestamp) -> Instant {
        let since = at.duration_since(self.base.1);
        match Duration::try_from(since) {
            Ok(after) => self.base.0 + after,
            Err(_) => self
                .base
                .0
                .checked_sub(since.unsigned_abs())
                .unwrap_or(self.base.0),
        }
    }
}

fn signed_ms(at: Instant, zero: Instant) -> i64 {
    let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    match at.checked_duration_since(zero) {
        Some(after) => ms(after),
        None => -ms(zero.duration_since(at)),
    }
}

/// The most that were in flight in each grain of time, where that changes.
fn in_flight(sent: &[Sent], on_axis: impl Fn(Instant) -> i64) -> Vec<(i64, u32)> {
    let grains = |one: &Sent| {
        let grain = |at| on_axis(at).div_euclid(GRAIN_MS);
        (grain(one.began), grain(one.ended))
    };
    let first = sent.iter().map(|one| grains(one).0).min().unwrap_or(0);
    let last = sent.iter().map(|one| grains(one).1).max().unwrap_or(0);
    let length = usize::try_from(last - first + 1).unwrap_or(0);
    let mut most = vec![0_u32; length];
    for one in sent {
        let (from, to) = grains(one);
        let place = |grain: i64| usize::try_from(grain - first).unwrap_or(0);
        for n in &mut most[place(from)..=place(to)] {
            *n += 1;
        }
    }
    let mut changes: Vec<(i64, u32)> = Vec::new();
    for (n, grain) in most.into_iter().chain([0]).zip(first..) {
        if changes.last().is_none_or(|(_, known)| *known != n) {
            changes.push((grain * GRAIN_MS, n));
        }
    }
    changes
}

/// For how long since the machine started something has waited for a processor: pressure stall information, which not every
/// kernel has (kernel: Documentation/accounting/psi.rst).
fn starved() -> Option<Duration> {
    let pressure = std::fs::read_to_string("/proc/pressure/cpu").ok()?;
    let some = pressure.lines().find(|line| line.starts_with("some "))?;
    let total = some.rsplit_once("total=")?.1.trim().parse().ok()?;
    Some(Duration::from_micros(total))
}
