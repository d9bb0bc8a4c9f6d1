//! Task protection as one state machine: every lease in the task has the same owner, here.
//!
//! Leases and what ECS's agent says come in, calls and answers go out; [`crate::sidecar::protection`] has the
//! hands. It decides when ECS is asked, for how long, and when protection is given up again. At most
//! one call is under way at a time, so that any number of workers that ask together cost one.
//!
//! ECS is asked for an hour at most, however long a lease is: a sidecar that dies leaves a task behind
//! that a deployment has to wait for no longer than that.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// More workers than any task has; a worker that forgets its leases is stopped here.
pub const MAX_LEASES: usize = 256;

/// Enough for a job's id from any queue.
pub const MAX_NAME: usize = 128;

/// Below that the call takes longer than the lease.
pub const MIN_LEASE: Duration = Duration::from_secs(1);

/// ECS's own bound: 2880 minutes (ECS API reference, *UpdateTaskProtection*).
pub const MAX_LEASE: Duration = Duration::from_secs(2880 * 60);

/// The longest that is asked for at once, and so the longest that a task stays protected when its
/// sidecar has died.
const MAX_SLICE_MINUTES: u32 = 60;

/// What ECS counts in.
const MINUTE: Duration = Duration::from_secs(60);

/// A lease that lasts longer than any one agreement counts while ECS has agreed to so much: an hour, to
/// the minute that ECS counts in. So workers that renew long leases all the time cost a call a minute.
const LONG_ENOUGH: Duration = MINUTE.saturating_mul(MAX_SLICE_MINUTES - 1);

/// A renewal is due when this part of what was agreed is left: time enough for a score of tries.
const RENEW_AT: u32 = 3;

/// What one call may take. The agent gives ECS 4 s for it (agent, `ecsCallTimeout` in
/// `ecs-agent/tmds/handlers/taskprotection`), and needs a moment of its own to say that they were in vain.
pub const CALL_LIMIT: Duration = Duration::from_secs(5);

/// Calls until those who wait are told that there is no agreement.
const MAX_TRIES: u32 = 3;

/// Before the second try; doubled before the third.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest that a request waits: all tries and the pauses between them, behind a call that was
/// under way. 21.5 s, less than the 30 s for which SQS hides a message from other workers by default
/// (SQS developer guide, *Amazon SQS visibility timeout*).
pub const MAX_WAIT: Duration = CALL_LIMIT
    .saturating_mul(1 + MAX_TRIES)
    .saturating_add(FIRST_PAUSE.saturating_mul(2_u32.pow(MAX_TRIES - 1) - 1));

/// Between two rounds of tries that nobody waits for.
const ROUND_PAUSE: Duration = Duration::from_secs(60);

/// Whoever asks so soon after a refusal gets the same answer: a worker that asks in a loop must not
/// become a loop of calls.
const REFUSAL_HOLDS: Duration = Duration::from_secs(1);

/// A refusal is a state of health for so long, where nothing that is wanted has failed since.
const REFUSAL_SHOWN: Duration = Duration::from_secs(60);

/// Requests that wait for one call. The endpoints serve fewer clients at once.
const MAX_WAITING: usize = 512;

/// The name of a lease: visible ASCII without a slash, at most [`MAX_NAME`] characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseName(String);

impl LeaseName {
    /// `None` where it is none.
    pub fn parse(text: &str) -> Option<LeaseName> {
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        (visible && (1..=MAX_NAME).contains(&text.len())).then(|| LeaseName(text.to_owned()))
    }

    /// The lease that `PRESTOP_BUSY_URL` takes.
    pub fn busy() -> LeaseName {
        LeaseName("busy".to_owned())
    }

    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who gets an answer; the shell's own number for a request.
pub type Asker = u64;

/// What comes in.
#[derive(Clone, Debug)]
pub enum Event {
    /// [`Protection::next_timeout`] has come.
    Timeout,
    /// Somebody wants a lease, or the one of that name renewed.
    Take {
        /// Who.
        asker: Asker,
        /// Which.
        name: LeaseName,
        /// For how long: [`MIN_LEASE`] to [`MAX_LEASE`], and taken as the nearer one beyond them.
        length: Duration,
    },
    /// Somebody gives a lease back.
    GiveBack {
        /// Who.
        asker: Asker,
        /// Which.
        name: LeaseName,
    },
    /// Whom a lease was granted has gone away without learning of it.
    Unheard(Grant),
    /// The call has ended.
    Said(Said),
    /// The first notice is there.
    Notice,
    /// The drain is over.
    Drained,
}

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Tell ECS's agent. The next event `Said` is about it.
    Call(Call),
    /// Answer a request; each gets exactly one.
    Tell(Asker, Answer),
}

/// A call of the agent's endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Protect the task from now on, for so long.
    Protect {
        /// 1 to 60.
        minutes: u32,
    },
    /// Protect it no longer.
    Release,
}

/// What ECS's agent said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It is so.
    Agreed {
        /// Until when, by ECS's clock; missing for a release.
        expires: Option<Timestamp>,
    },
    /// A 200 with a `failure`: ECS will not, for now.
    Failure {
        /// Such as `DEPLOYMENT_BLOCKED`.
        reason: String,
        /// In ECS's words.
        detail: String,
    },
    /// An `error`: the call itself was wrong, or went wrong.
    Error {
        /// Of HTTP.
        status: u16,
        /// Such as `AccessDeniedException`.
        code: String,
        /// In ECS's words.
        message: String,
    },
    /// Another status, with nothing to read.
    Status(u16),
    /// No answer in time, or no way there.
    Silent(String),
    /// An answer that no documentation knows.
    Garbage(String),
}

impl Said {
    /// Every outcome, as metrics name it.
    pub const OUTCOMES: [&str; 6] = ["agreed", "failure", "error", "status", "silent", "garbage"];

    /// One of [`Said::OUTCOMES`].
    pub fn outcome(&self) -> &'static str {
        Said::OUTCOMES[self.index()]
    }

    fn index(&self) -> usize {
        match self {
            Said::Agreed { .. } => 0,
            Said::Failure { .. } => 1,
            Said::Error { .. } => 2,
            Said::Status(_) => 3,
            Said::Silent(_) => 4,
            Said::Garbage(_) => 5,
        }
    }

    /// Whether the same call may fare better in a moment. Throttling is a 400 at ECS.
    fn passes(&self) -> bool {
        let passing = |status: u16| status >= 500 || status == 429;
        match self {
            Said::Agreed { .. } | Said::Failure { .. } => false,
            Said::Error { status, code, .. } => passing(*status) || code.starts_with("Throttling"),
            Said::Status(status) => passing(*status),
            Said::Silent(_) | Said::Garbage(_) => true,
        }
    }

    /// Whether ECS has certainly not done what it was told.
    fn undone(&self) -> bool {
        !matches!(self, Said::Agreed { .. }) && !self.passes()
    }
}

/// In words that say what to do.
impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Said::Agreed { .. } => f.write_str("ECS has agreed"),
            Said::Failure { reason, detail } if detail.is_empty() => write!(f, "ECS refuses: {reason}"),
            Said::Failure { reason, detail } => write!(f, "ECS refuses: {reason} ({detail})"),
            Said::Error {
                status,
                code,
                message,
            } => {
                write!(f, "ECS's agent answers HTTP {status}, {code}: {message}")?;
                if code.starts_with("AccessDenied") {
                    f.write_str(
                        ". The task role needs ecs:UpdateTaskProtection: see \
                         task-definitions/iam/sidecar-protect.json",
                    )?;
                }
                Ok(())
            }
            Said::Status(status) => write!(f, "ECS's agent answers HTTP {status}"),
            Said::Silent(why) => write!(f, "ECS's agent does not answer: {why}"),
            Said::Garbage(why) => write!(f, "ECS's agent answers something that makes no sense: {why}"),
        }
    }
}

/// What a request learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// ECS protects the task, and the lease counts.
    Granted(Grant),
    /// ECS does not; the lease does not count.
    Refused(Said),
    /// There is a notice: no lease is given any more.
    Stopping,
    /// There are [`MAX_LEASES`] already.
    TooMany,
    /// The lease was given back while ECS was being asked.
    Withdrawn,
    /// The lease is given back.
    GivenBack,
    /// There is no lease of that name.
    Unknown,
}

/// A lease that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Its name.
    pub name: LeaseName,
    /// Its end.
    pub until: Instant,
    /// Until when ECS has agreed so far; renewed before that where the lease lasts longer.
    pub protected: Held,
    /// Whether there was none of that name before.
    pub new: bool,
}

/// What ECS has agreed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Counted from before the call was made: ECS counts from later on, so that this is never too
    /// long, whatever this host's clock says.
    pub until: Instant,
    /// The same as ECS says it, by its own clock.
    pub expires: Option<Timestamp>,
    slice: Duration,
}

impl Held {
    /// From when on it is renewed for leases that last longer.
    fn renew_at(&self) -> Instant {
        self.until - self.slice / RENEW_AT
    }

    /// Whether a lease that ends then may be granted now.
    fn vouches_for(&self, end: Instant, now: Instant) -> bool {
        self.until >= end.min(now + LONG_ENOUGH)
    }
}

/// How it stands.
#[derive(Clone, Debug)]
pub struct State {
    /// What ECS has agreed to.
    pub held: Option<Held>,
    /// Whether ECS may protect the task, for all that is known.
    pub perhaps: bool,
    /// The leases and their ends.
    pub leases: Vec<(LeaseName, Instant)>,
    /// Calls that have ended, in the order of [`Said::OUTCOMES`].
    pub calls: [u64; 6],
    /// Why a protection that is wanted, or was a moment ago, is not there.
    pub trouble: Option<Said>,
}

/// The owner of all leases.
#[derive(Debug, Default)]
pub struct Protection {
    stage: Stage,
    leases: BTreeMap<LeaseName, Instant>,
    waiting: Vec<Waiting>,
    held: Option<Held>,
    /// Until when ECS may protect the task for all that is known: the answer to a call may have been
    /// lost. `None` once it certainly does not.
    perhaps_until: Option<Instant>,
    flight: Option<Flight>,
    round: Option<Round>,
    refusal: Option<Refusal>,
    calls: [u64; 6],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    Stopping,
    Drained,
}

#[derive(Debug)]
struct Waiting {
    asker: Asker,
    name: LeaseName,
    until: Instant,
}

/// The call that is under way.
#[derive(Debug)]
struct Flight {
    call: Call,
    began: Instant,
    /// `perhaps_until` before it.
    before: Option<Instant>,
}

/// Calls of one kind that have failed.
#[derive(Debug)]
struct Round {
    wish: Wish,
    /// 0 between two rounds.
    tries: u32,
    again_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Protect,
    Release,
}

/// The end of a round that was to protect the task.
#[derive(Debug)]
struct Refusal {
    said: Said,
    holds_until: Instant,
    shown_until: Instant,
}

impl Protection {
    /// Takes an event and says what to do about it, in order.
    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Command> {
        let mut commands = Vec::new();
        self.forget_what_is_over(now);
        match event {
            Event::Timeout => {}
            Event::Take { asker, name, length } => {
                let until = now + length.clamp(MIN_LEASE, MAX_LEASE);
                self.take(Waiting { asker, name, until }, &mut commands);
            }
            Event::GiveBack { asker, name } => self.give_back(asker, &name, &mut commands),
            Event::Unheard(grant) => {
                if grant.new && self.leases.get(&grant.name) == Some(&grant.until) {
                    self.leases.remove(&grant.name);
                }
            }
            Event::Said(said) => self.hear(said, now, &mut commands),
            Event::Notice => self.stop(Stage::Stopping, &mut commands),
            Event::Drained => {
                self.stop(Stage::Drained, &mut commands);
                self.leases.clear();
            }
        }
        self.advance(now, &mut commands);
        commands
    }

    /// When something happens by itself. Never in the past of the last event.
    pub fn next_timeout(&self) -> Option<Instant> {
        let call = match (&self.flight, &self.round) {
            (Some(_), _) => None,
            (None, Some(round)) => Some(round.again_at),
            (None, None) => self
                .held
                .filter(|held| self.wanted() > Some(held.until))
                .map(|held| held.renew_at()),
        };
        let lease = self.leases.values().min().copied();
        let held = self.held.map(|held| held.until);
        let refusal = self.refusal.as_ref().map(|refusal| refusal.shown_until);
        [call, lease, held, refusal].into_iter().flatten().min()
    }

    /// How it stands now.
    pub fn state(&self) -> State {
        State {
            held: self.held,
            perhaps: self.perhaps_until.is_some(),
            leases: self
                .leases
                .iter()
                .map(|(name, until)| (name.clone(), *until))
                .collect(),
            calls: self.calls,
            trouble: self.refusal.as_ref().map(|refusal| refusal.said.clone()),
        }
    }

    fn take(&mut self, request: Waiting, commands: &mut Vec<Command>) {
        let answer = if self.stage != Stage::Open {
            Answer::Stopping
        } else if self.waiting.len() >= MAX_WAITING || !self.has_room_for(&request.name) {
            Answer::TooMany
        } else {
            return self.waiting.push(request);
        };
        commands.push(Command::Tell(request.asker, answer));
    }

    fn has_room_for(&self, name: &LeaseName) -> bool {
        let mut names: Vec<&LeaseName> = self.waiting.iter().map(|request| &request.name).collect();
        names.retain(|name| !self.leases.contains_key(*name));
        names.sort_unstable();
        names.dedup();
        self.leases.contains_key(name)
            || names.contains(&name)
            || self.leases.len() + names.len() < MAX_LEASES
    }

    fn give_back(&mut self, asker: Asker, name: &LeaseName, commands: &mut Vec<Command>) {
        let mut known = self.leases.remove(name).is_some();
        self.waiting.retain(|request| {
            let other = request.name != *name;
            if !other {
                known = true;
                commands.push(Command::Tell(request.asker, Answer::Withdrawn));
            }
            other
        });
        let answer = if known { Answer::GivenBack } else { Answer::Unknown };
        commands.push(Command::Tell(asker, answer));
    }

    fn stop(&mut self, stage: Stage, commands: &mut Vec<Command>) {
        if self.stage != Stage::Drained {
            self.stage = stage;
        }
        self.answer_all(&Answer::Stopping, commands);
    }

    fn hear(&mut self, said: Said, now: Instant, commands: &mut Vec<Command>) {
        let Some(flight) = self.flight.take() else {
            return;
        };
        self.calls[said.index()] += 1;
        let wish = flight.call.wish();
        if let Said::Agreed { expires } = said {
            self.round = None;
            match flight.call {
                Call::Protect { minutes } => {
                    let slice = MINUTE * minutes;
                    let until = flight.began + slice;
                    self.held = Some(Held {
                        until,
                        expires,
                        slice,
                    });
                    // ECS has counted from some moment during the call.
                    self.perhaps_until = Some(now + slice);
                    self.refusal = None;
                }
                Call::Release => self.perhaps_until = None,
            }
            return;
        }
        if said.undone() {
            self.perhaps_until = flight.before;
        }
        let tries = 1 + self.round.as_ref().map_or(0, |round| round.tries);
        let again = said.passes() && tries < MAX_TRIES;
        let pause = if again {
            FIRST_PAUSE * 2_u32.pow(tries - 1)
        } else {
            ROUND_PAUSE
        };
        let (tries, again_at) = (if again { tries } else { 0 }, now + pause);
        self.round = Some(Round {
            wish,
            tries,
            again_at,
        });
        if !again && wish == Wish::Protect {
            self.answer_all(&Answer::Refused(said.clone()), commands);
            self.refusal = Some(Refusal {
                said,
                holds_until: now + REFUSAL_HOLDS,
                shown_until: now + REFUSAL_SHOWN,
            });
        }
    }

    /// Answers whoever can be answered, and makes the call that is due.
    fn advance(&mut self, now: Instant, commands: &mut Vec<Command>) {
        self.grant_what_is_covered(now, commands);
        if self.flight.is_some() {
            return;
        }
        let wish = self.wish(now);
        if self.round.as_ref().is_some_and(|round| Some(round.wish) != wish) {
            self.round = None;
        }
        let Some(wish) = wish else { return };
        let between_rounds = self.round.as_ref().is_none_or(|round| round.tries == 0);
        if between_rounds && !self.waiting.is_empty() {
            // The pause between rounds is not for those who wait, unless the answer is known.
            if let Some(refusal) = self.refusal.as_ref().filter(|refusal| now < refusal.holds_until) {
                let said = refusal.said.clone();
                self.answer_all(&Answer::Refused(said), commands);
                return self.advance(now, commands);
            }
        } else if self.round.as_ref().is_some_and(|round| now < round.again_at) {
            return;
        }
        self.call(wish, now, commands);
    }

    fn call(&mut self, wish: Wish, now: Instant, commands: &mut Vec<Command>) {
        let before = self.perhaps_until;
        let call = match wish {
            Wish::Protect => {
                let left = self
                    .wanted()
                    .map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
                // Whoever asks a moment later, or renews a lease while working, needs no call then.
                let times = if self.waiting.is_empty() { 1 } else { 2 };
                // Whole minutes, rounded up.
                let minutes = (left * times).as_nanos().div_ceil(MINUTE.as_nanos());
                let minutes = u32::try_from(minutes)
                    .unwrap_or(u32::MAX)
                    .clamp(1, MAX_SLICE_MINUTES);
                let end = now + MINUTE * minutes;
                self.perhaps_until = before.max(Some(end));
                Call::Protect { minutes }
            }
            Wish::Release => {
                // From now on it cannot be relied upon.
                self.held = None;
                Call::Release
            }
        };
        self.flight = Some(Flight {
            call,
            began: now,
            before,
        });
        commands.push(Command::Call(call));
    }

    fn grant_what_is_covered(&mut self, now: Instant, commands: &mut Vec<Command>) {
        let Some(held) = self.held else { return };
        for request in std::mem::take(&mut self.waiting) {
            if !held.vouches_for(request.until, now) {
                self.waiting.push(request);
                continue;
            }
            // A call may take longer than the shortest lease.
            let until = request.until.max(now + MIN_LEASE);
            let old = self.leases.insert(request.name.clone(), until);
            let grant = Grant {
                name: request.name,
                until,
                protected: held,
                new: old.is_none(),
            };
            commands.push(Command::Tell(request.asker, Answer::Granted(grant)));
        }
    }

    fn answer_all(&mut self, answer: &Answer, commands: &mut Vec<Command>) {
        let told = self
            .waiting
            .drain(..)
            .map(|request| Command::Tell(request.asker, answer.clone()));
        commands.extend(told);
    }

    fn forget_what_is_over(&mut self, now: Instant) {
        self.leases.retain(|_, until| now < *until);
        self.held = self.held.filter(|held| now < held.until);
        // What is under way may still be done.
        if self.flight.is_none() {
            self.perhaps_until = self.perhaps_until.filter(|until| now < *until);
        }
        let failing = self.wish(now) == Some(Wish::Protect);
        if let Some(refusal) = self.refusal.as_mut().filter(|refusal| now >= refusal.shown_until) {
            if failing {
                refusal.shown_until = now + REFUSAL_SHOWN;
            } else {
                self.refusal = None;
            }
        }
    }

    fn wish(&self, now: Instant) -> Option<Wish> {
        let Some(until) = self.wanted() else {
            return self.perhaps_until.map(|_| Wish::Release);
        };
        let enough = self.held.is_some_and(|held| {
            let renewal_due = until > held.until && now >= held.renew_at();
            let waiting = |request: &Waiting| !held.vouches_for(request.until, now);
            !renewal_due && !self.waiting.iter().any(waiting)
        });
        (!enough).then_some(Wish::Protect)
    }

    /// The end of the last lease, given or asked for.
    fn wanted(&self) -> Option<Instant> {
        let waiting = self.waiting.iter().map(|request| request.until);
        self.leases.values().copied().chain(waiting).max()
    }
}

impl Call {
    fn wish(self) -> Wish {
        match self {
            Call::Protect { .. } => Wish::Protect,
            Call::Release => Wish::Release,
        }
    }
}

#[cfg(test)]
mod tests;
