//! Task protection as one state machine, which owns every lease of the task.
//!
//! Requests for leases and what ECS's agent says come in; calls and answers go out, and
//! [`crate::sidecar::protection`] carries them out. The machine decides when ECS is asked, for how long,
//! and when the protection ends. At most one call is under way at a time, so that any number of workers
//! that ask together cost one.
//!
//! ECS is asked for an hour at most, however long a lease is: a deployment waits for a task whose sidecar
//! has died no longer than that.

mod messages;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub use messages::{
    AgentAnswer, AgentCall, Agreement, Grant, LeaseAnswer, LeaseCommand, LeaseEvent, LeaseName, RequestId,
};

/// More workers than any task has, so that a worker that forgets its leases does not grow the sidecar.
pub const MAX_LEASES: usize = 256;

/// Room for a job's id from any queue.
pub const MAX_NAME: usize = 128;

/// A shorter lease would be over before ECS has answered.
pub const MIN_LEASE: Duration = Duration::from_secs(1);

/// ECS's own bound: 2880 minutes (ECS API reference, *UpdateTaskProtection*).
pub const MAX_LEASE: Duration = Duration::from_secs(2880 * 60);

/// The longest protection that one call asks for, and so the longest that a task stays protected after
/// its sidecar has died.
const MAX_MINUTES: u32 = 60;

/// ECS counts a protection in minutes.
const MINUTE: Duration = Duration::from_secs(60);

/// A lease that lasts longer than any one agreement counts while ECS has agreed to this much: an hour, to
/// the minute that ECS counts in. So workers that renew long leases all the time cost a call a minute.
const LONG_ENOUGH: Duration = MINUTE.saturating_mul(MAX_MINUTES - 1);

/// A renewal is due when this part of what was agreed is left, which is time for a score of tries.
const RENEW_AT: u32 = 3;

/// What one call may take. The agent gives ECS 4 s (agent, `ecsCallTimeout` in
/// `ecs-agent/tmds/handlers/taskprotection`), and needs a moment of its own to say that they were in vain.
pub const CALL_LIMIT: Duration = Duration::from_secs(5);

/// Calls until those who wait are told that there is no agreement.
const MAX_TRIES: u32 = 3;

/// The pause before the second try; it is doubled before the third.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest that a request waits: all tries and the pauses between them, behind a call that was
/// under way. That is 21.5 s, less than the 30 s for which SQS hides a message from other workers by
/// default (SQS developer guide, *Amazon SQS visibility timeout*).
pub const MAX_WAIT: Duration = CALL_LIMIT
    .saturating_mul(1 + MAX_TRIES)
    .saturating_add(FIRST_PAUSE.saturating_mul(2_u32.pow(MAX_TRIES - 1) - 1));

/// The pause between two rounds of tries that nobody waits for.
const ROUND_PAUSE: Duration = Duration::from_secs(60);

/// Whoever asks this soon after a refusal gets the same answer, so that a worker that asks in a loop
/// does not become a loop of calls.
const REFUSAL_HOLDS: Duration = Duration::from_secs(1);

/// How long a refusal is told as trouble once nothing is wanted any more, for people who look after the
/// worker was refused.
const REFUSAL_SHOWN: Duration = Duration::from_secs(60);

/// Requests that wait for one call. The endpoints serve fewer clients at once.
const MAX_PENDING: usize = 512;

/// The state as others see it.
#[derive(Clone, Debug)]
pub struct ProtectionState {
    /// While it lasts, the task is protected.
    pub agreement: Option<Agreement>,
    /// Whether ECS may protect the task: `false` only where it certainly does not.
    pub may_be_protected: bool,
    pub leases: Vec<(LeaseName, Instant)>,
    /// How many calls have ended, in the order of [`AgentAnswer::OUTCOMES`].
    pub calls: [u64; 6],
    /// Why a protection that is wanted, or was a moment ago, is not there.
    pub trouble: Option<AgentAnswer>,
}

/// The state machine.
#[derive(Debug, Default)]
pub struct Protection {
    phase: ShutdownPhase,
    /// ECS wants this task gone: leases that run are renewed, and no other is given.
    superseded: bool,
    leases: BTreeMap<LeaseName, Instant>,
    pending: Vec<PendingRequest>,
    agreement: Option<Agreement>,
    /// ECS may protect the task until then, since the answer to a call may have been lost. `None` where
    /// it certainly does not.
    may_be_protected_until: Option<Instant>,
    under_way: Option<CallUnderWay>,
    retries: Option<Retries>,
    refusal: Option<FailedRound>,
    calls: [u64; 6],
}

/// How far the shutdown has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ShutdownPhase {
    #[default]
    Serving,
    Stopping,
    Drained,
}

/// A request for a lease that waits for ECS.
#[derive(Debug)]
struct PendingRequest {
    id: RequestId,
    name: LeaseName,
    until: Instant,
}

#[derive(Debug)]
struct CallUnderWay {
    call: AgentCall,
    began: Instant,
    /// `may_be_protected_until` as it was before the call.
    before: Option<Instant>,
}

/// What is known of calls for one goal that have failed.
#[derive(Debug)]
struct Retries {
    goal: Goal,
    /// 0 between two rounds of tries.
    tries: u32,
    again_at: Instant,
}

/// What a call is to bring about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    Protect,
    Release,
}

/// A round of tries to protect the task that has failed.
#[derive(Debug)]
struct FailedRound {
    answer: AgentAnswer,
    holds_until: Instant,
    shown_until: Instant,
}

impl Protection {
    /// Takes an event and returns what to do about it.
    pub fn on(&mut self, event: LeaseEvent, now: Instant) -> Vec<LeaseCommand> {
        let mut commands = Vec::new();
        self.forget_ended(now);
        match event {
            LeaseEvent::Timeout => {}
            LeaseEvent::Take {
                request: id,
                name,
                length,
            } => {
                let until = now + length.clamp(MIN_LEASE, MAX_LEASE);
                self.take(PendingRequest { id, name, until }, &mut commands);
            }
            LeaseEvent::GiveBack { request, name } => self.give_back(request, &name, &mut commands),
            LeaseEvent::GrantUnheard(grant) => {
                if grant.new && self.leases.get(&grant.name) == Some(&grant.until) {
                    self.leases.remove(&grant.name);
                }
            }
            LeaseEvent::AgentAnswered(answer) => self.call_ended(answer, now, &mut commands),
            LeaseEvent::Superseded(superseded) => self.supersede(superseded, &mut commands),
            LeaseEvent::Notice => self.stop(ShutdownPhase::Stopping, &mut commands),
            LeaseEvent::Drained => {
                self.stop(ShutdownPhase::Drained, &mut commands);
                self.leases.clear();
            }
        }
        self.advance(now, &mut commands);
        commands
    }

    /// When the machine wants a [`LeaseEvent::Timeout`]: always later than the last event.
    pub fn next_timeout(&self) -> Option<Instant> {
        let call = match (&self.under_way, &self.retries) {
            (Some(_), _) => None,
            (None, Some(retries)) => Some(retries.again_at),
            (None, None) => self
                .agreement
                .filter(|agreement| self.wanted_until() > Some(agreement.until))
                .map(|agreement| agreement.renew_at()),
        };
        let lease = self.leases.values().min().copied();
        let agreement = self.agreement.map(|agreement| agreement.until);
        let refusal = self.refusal.as_ref().map(|refusal| refusal.shown_until);
        [call, lease, agreement, refusal].into_iter().flatten().min()
    }

    /// A snapshot for reports.
    pub fn state(&self) -> ProtectionState {
        ProtectionState {
            agreement: self.agreement,
            may_be_protected: self.may_be_protected_until.is_some(),
            leases: self
                .leases
                .iter()
                .map(|(name, until)| (name.clone(), *until))
                .collect(),
            calls: self.calls,
            trouble: self.refusal.as_ref().map(|refusal| refusal.answer.clone()),
        }
    }

    fn take(&mut self, request: PendingRequest, commands: &mut Vec<LeaseCommand>) {
        let answer = if self.phase != ShutdownPhase::Serving {
            LeaseAnswer::Stopping
        } else if self.superseded && !self.leases.contains_key(&request.name) {
            LeaseAnswer::Superseded
        } else if self.pending.len() >= MAX_PENDING || !self.has_room_for(&request.name) {
            LeaseAnswer::TooMany
        } else {
            return self.pending.push(request);
        };
        commands.push(LeaseCommand::Answer(request.id, answer));
    }

    fn has_room_for(&self, name: &LeaseName) -> bool {
        let mut names: Vec<&LeaseName> = self.pending.iter().map(|request| &request.name).collect();
        names.retain(|name| !self.leases.contains_key(*name));
        names.sort_unstable();
        names.dedup();
        self.leases.contains_key(name)
            || names.contains(&name)
            || self.leases.len() + names.len() < MAX_LEASES
    }

    fn give_back(&mut self, id: RequestId, name: &LeaseName, commands: &mut Vec<LeaseCommand>) {
        let mut known = self.leases.remove(name).is_some();
        self.pending.retain(|request| {
            let other = request.name != *name;
            if !other {
                known = true;
                commands.push(LeaseCommand::Answer(request.id, LeaseAnswer::Withdrawn));
            }
            other
        });
        let answer = if known {
            LeaseAnswer::GivenBack
        } else {
            LeaseAnswer::Unknown
        };
        commands.push(LeaseCommand::Answer(id, answer));
    }

    /// Who waits for a new lease is told so; a renewal goes on waiting for ECS.
    fn supersede(&mut self, superseded: bool, commands: &mut Vec<LeaseCommand>) {
        self.superseded = superseded;
        if superseded {
            self.pending.retain(|request| {
                let renewal = self.leases.contains_key(&request.name);
                if !renewal {
                    commands.push(LeaseCommand::Answer(request.id, LeaseAnswer::Superseded));
                }
                renewal
            });
        }
    }

    fn stop(&mut self, phase: ShutdownPhase, commands: &mut Vec<LeaseCommand>) {
        if self.phase != ShutdownPhase::Drained {
            self.phase = phase;
        }
        self.answer_all(&LeaseAnswer::Stopping, commands);
    }

    fn call_ended(&mut self, answer: AgentAnswer, now: Instant, commands: &mut Vec<LeaseCommand>) {
        let Some(ended) = self.under_way.take() else {
            return;
        };
        self.calls[answer.index()] += 1;
        let goal = ended.call.goal();
        if let AgentAnswer::Agreed { expires } = answer {
            self.retries = None;
            match ended.call {
                AgentCall::Protect { minutes } => {
                    let length = MINUTE * minutes;
                    let until = ended.began + length;
                    self.agreement = Some(Agreement {
                        until,
                        expires,
                        length,
                    });
                    // ECS counts from some moment during the call.
                    self.may_be_protected_until = Some(now + length);
                    self.refusal = None;
                }
                AgentCall::Release => self.may_be_protected_until = None,
            }
            return;
        }
        if answer.changed_nothing() {
            self.may_be_protected_until = ended.before;
        }
        let tries = 1 + self.retries.as_ref().map_or(0, |retries| retries.tries);
        let again = answer.is_transient() && tries < MAX_TRIES;
        let pause = if again {
            FIRST_PAUSE * 2_u32.pow(tries - 1)
        } else {
            ROUND_PAUSE
        };
        let (tries, again_at) = (if again { tries } else { 0 }, now + pause);
        self.retries = Some(Retries {
            goal,
            tries,
            again_at,
        });
        if !again && goal == Goal::Protect {
            self.answer_all(&LeaseAnswer::Refused(answer.clone()), commands);
            self.refusal = Some(FailedRound {
                answer,
                holds_until: now + REFUSAL_HOLDS,
                shown_until: now + REFUSAL_SHOWN,
            });
        }
    }

    /// Answers the requests that can be answered, and makes the call that is due.
    fn advance(&mut self, now: Instant, commands: &mut Vec<LeaseCommand>) {
        self.grant_covered_requests(now, commands);
        if self.under_way.is_some() {
            return;
        }
        let goal = self.goal(now);
        if self
            .retries
            .as_ref()
            .is_some_and(|retries| Some(retries.goal) != goal)
        {
            self.retries = None;
        }
        let Some(goal) = goal else { return };
        let between_rounds = self.retries.as_ref().is_none_or(|retries| retries.tries == 0);
        if between_rounds && !self.pending.is_empty() {
            // A request does not wait for the next round, but it gets an answer that is already known.
            if let Some(refusal) = self.refusal.as_ref().filter(|refusal| now < refusal.holds_until) {
                let answer = refusal.answer.clone();
                self.answer_all(&LeaseAnswer::Refused(answer), commands);
                return self.advance(now, commands);
            }
        } else if self
            .retries
            .as_ref()
            .is_some_and(|retries| now < retries.again_at)
        {
            return;
        }
        self.call(goal, now, commands);
    }

    fn call(&mut self, goal: Goal, now: Instant, commands: &mut Vec<LeaseCommand>) {
        let before = self.may_be_protected_until;
        let call = match goal {
            Goal::Protect => {
                let left = self
                    .wanted_until()
                    .map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
                // Twice as long, so that a worker that asks a moment later, or renews its lease while it
                // works, needs no call.
                let times = if self.pending.is_empty() { 1 } else { 2 };
                // Whole minutes, rounded up.
                let minutes = (left * times).as_nanos().div_ceil(MINUTE.as_nanos());
                let minutes = u32::try_from(minutes).unwrap_or(u32::MAX).clamp(1, MAX_MINUTES);
                let end = now + MINUTE * minutes;
                self.may_be_protected_until = before.max(Some(end));
                AgentCall::Protect { minutes }
            }
            Goal::Release => {
                // The call may take effect at any time from now on.
                self.agreement = None;
                AgentCall::Release
            }
        };
        self.under_way = Some(CallUnderWay {
            call,
            began: now,
            before,
        });
        commands.push(LeaseCommand::CallAgent(call));
    }

    fn grant_covered_requests(&mut self, now: Instant, commands: &mut Vec<LeaseCommand>) {
        let Some(agreement) = self.agreement else { return };
        for request in std::mem::take(&mut self.pending) {
            if !agreement.covers(request.until, now) {
                self.pending.push(request);
                continue;
            }
            // A call may take longer than the shortest lease.
            let until = request.until.max(now + MIN_LEASE);
            let old = self.leases.insert(request.name.clone(), until);
            let grant = Grant {
                name: request.name,
                until,
                agreement,
                new: old.is_none(),
            };
            commands.push(LeaseCommand::Answer(request.id, LeaseAnswer::Granted(grant)));
        }
    }

    fn answer_all(&mut self, answer: &LeaseAnswer, commands: &mut Vec<LeaseCommand>) {
        let answers = self
            .pending
            .drain(..)
            .map(|request| LeaseCommand::Answer(request.id, answer.clone()));
        commands.extend(answers);
    }

    fn forget_ended(&mut self, now: Instant) {
        self.leases.retain(|_, until| now < *until);
        self.agreement = self.agreement.filter(|agreement| now < agreement.until);
        // A call that is under way may still take effect.
        if self.under_way.is_none() {
            self.may_be_protected_until = self.may_be_protected_until.filter(|until| now < *until);
        }
        let failing = self.goal(now) == Some(Goal::Protect);
        if let Some(refusal) = self.refusal.as_mut().filter(|refusal| now >= refusal.shown_until) {
            if failing {
                refusal.shown_until = now + REFUSAL_SHOWN;
            } else {
                self.refusal = None;
            }
        }
    }

    fn goal(&self, now: Instant) -> Option<Goal> {
        let Some(until) = self.wanted_until() else {
            return self.may_be_protected_until.map(|_| Goal::Release);
        };
        let enough = self.agreement.is_some_and(|agreement| {
            let renewal_due = until > agreement.until && now >= agreement.renew_at();
            let uncovered = |request: &PendingRequest| !agreement.covers(request.until, now);
            !renewal_due && !self.pending.iter().any(uncovered)
        });
        (!enough).then_some(Goal::Protect)
    }

    /// The latest end of all leases, those that are asked for included.
    fn wanted_until(&self) -> Option<Instant> {
        let pending = self.pending.iter().map(|request| request.until);
        self.leases.values().copied().chain(pending).max()
    }
}

impl AgentCall {
    fn goal(self) -> Goal {
        match self {
            AgentCall::Protect { .. } => Goal::Protect,
            AgentCall::Release => Goal::Release,
        }
    }
}

#[cfg(test)]
mod tests;
