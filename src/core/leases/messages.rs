//! What goes into the state machine of task protection, and what comes out of it.
//!
//! Plain data: the endpoints and the busy URL make events, the caller of ECS's agent makes an
//! [`AgentAnswer`], and each request for a lease gets exactly one [`LeaseAnswer`].

use std::fmt;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::{MAX_NAME, RENEW_AT};

/// The name of a lease: visible ASCII without a slash, at most [`MAX_NAME`] characters, so that it fits
/// into the path of a request as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseName(String);

impl LeaseName {
    /// `None` where the text is no such name.
    pub fn parse(text: &str) -> Option<LeaseName> {
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        (visible && (1..=MAX_NAME).contains(&text.len())).then(|| LeaseName(text.to_owned()))
    }

    /// The lease that is taken for the app while `PRESTOP_BUSY_URL` says that it is busy.
    pub fn busy() -> LeaseName {
        LeaseName("busy".to_owned())
    }

    /// The text that was parsed.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The caller's own number for a request, by which it finds out whom to answer.
pub type RequestId = u64;

/// Something that has happened.
#[derive(Clone, Debug)]
pub enum LeaseEvent {
    /// The time that `Protection::next_timeout` named has come.
    Timeout,
    /// A worker asks for a lease, or renews the one of that name.
    Take {
        /// Gets the answer.
        request: RequestId,
        name: LeaseName,
        /// Lengths beyond the allowed ones are taken as the nearest allowed one.
        length: Duration,
    },
    /// A worker gives a lease back.
    GiveBack {
        /// Gets the answer.
        request: RequestId,
        name: LeaseName,
    },
    /// A worker that was granted a lease hung up before it heard of it.
    GrantUnheard(Grant),
    /// The call of ECS's agent that was under way has ended.
    AgentAnswered(AgentAnswer),
    /// ECS wants this task gone, or no longer.
    Superseded(bool),
    /// The sidecar has its first notice.
    Notice,
    Drained,
}

/// Something to be done, in the order in which it is returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseCommand {
    /// Call ECS's agent; the end of the call comes back as [`LeaseEvent::AgentAnswered`].
    CallAgent(AgentCall),
    /// Answer a request. Each request gets exactly one answer.
    Answer(RequestId, LeaseAnswer),
}

/// A call of the agent's task protection endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentCall {
    /// Protect the task from now on.
    Protect {
        /// An hour at most.
        minutes: u32,
    },
    /// End the protection.
    Release,
}

/// What ECS's agent answers to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentAnswer {
    /// ECS has done what it was asked for.
    Agreed {
        /// When the protection ends by ECS's clock; a release has no such time.
        expires: Option<Timestamp>,
    },
    /// A 200 with a `failure`: ECS does not do it, for a reason that lies with the service or the task.
    Failure {
        /// A word for programs, such as `DEPLOYMENT_BLOCKED`.
        reason: String,
        /// A sentence for people; it may be empty.
        detail: String,
    },
    /// An `error`: the call was wrong, or went wrong on its way to ECS.
    Error {
        /// The HTTP status beside it.
        status: u16,
        /// A word for programs, such as `AccessDeniedException`.
        code: String,
        /// A sentence for people.
        message: String,
    },
    /// A status other than 200 whose body says nothing.
    Status(u16),
    /// No answer came in time, or there was no way to the agent.
    Silent(String),
    /// The answer is none that the documentation knows.
    Garbage(String),
}

impl AgentAnswer {
    /// Every outcome of a call, as metrics name it.
    pub const OUTCOMES: [&str; 6] = ["agreed", "failure", "error", "status", "silent", "garbage"];

    /// One of [`AgentAnswer::OUTCOMES`].
    pub fn outcome(&self) -> &'static str {
        AgentAnswer::OUTCOMES[self.index()]
    }

    pub(super) fn index(&self) -> usize {
        match self {
            AgentAnswer::Agreed { .. } => 0,
            AgentAnswer::Failure { .. } => 1,
            AgentAnswer::Error { .. } => 2,
            AgentAnswer::Status(_) => 3,
            AgentAnswer::Silent(_) => 4,
            AgentAnswer::Garbage(_) => 5,
        }
    }

    /// Whether the same call may succeed in a moment. ECS throttles with a 400.
    pub(super) fn is_transient(&self) -> bool {
        let transient = |status: u16| status >= 500 || status == 429;
        match self {
            AgentAnswer::Agreed { .. } | AgentAnswer::Failure { .. } => false,
            AgentAnswer::Error { status, code, .. } => transient(*status) || code.starts_with("Throttling"),
            AgentAnswer::Status(status) => transient(*status),
            AgentAnswer::Silent(_) | AgentAnswer::Garbage(_) => true,
        }
    }

    /// Whether ECS has certainly not done what it was asked for.
    pub(super) fn changed_nothing(&self) -> bool {
        !matches!(self, AgentAnswer::Agreed { .. }) && !self.is_transient()
    }
}

/// A sentence that says what to do about it.
impl fmt::Display for AgentAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AgentAnswer::Agreed { .. } => f.write_str("ECS has agreed"),
            AgentAnswer::Failure { reason, detail } if detail.is_empty() => {
                write!(f, "ECS refuses: {reason}")
            }
            AgentAnswer::Failure { reason, detail } => write!(f, "ECS refuses: {reason} ({detail})"),
            AgentAnswer::Error {
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
            AgentAnswer::Status(status) => write!(f, "ECS's agent answers HTTP {status}"),
            AgentAnswer::Silent(why) => write!(f, "ECS's agent does not answer: {why}"),
            AgentAnswer::Garbage(why) => {
                write!(f, "ECS's agent answers something that makes no sense: {why}")
            }
        }
    }
}

/// What a request for a lease, or its return, is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// ECS protects the task for this lease.
    Granted(Grant),
    /// ECS has not agreed, so there is no lease.
    Refused(AgentAnswer),
    /// After a notice no lease is given.
    Stopping,
    /// ECS wants this task gone: a lease that runs is renewed, but no other is given.
    Superseded,
    /// The task has as many leases as it may have.
    TooMany,
    /// The lease was given back while ECS was still being asked for it.
    Withdrawn,
    /// The lease is over.
    GivenBack,
    /// There is no lease of that name to give back.
    Unknown,
}

/// A lease that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The name by which it is renewed or given back.
    pub name: LeaseName,
    /// When the lease ends by itself.
    pub until: Instant,
    /// What ECS has agreed to so far. Where the lease lasts longer, it is renewed in time.
    pub agreement: Agreement,
    /// Whether the request made this lease, rather than renewed it.
    pub new: bool,
}

/// How long ECS protects the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// Counted from before the call was made. ECS counts from later on, so this is never too long,
    /// whatever the clock of this host says.
    pub until: Instant,
    /// The same end by ECS's clock.
    pub expires: Option<Timestamp>,
    pub(super) length: Duration,
}

impl Agreement {
    /// From when on it is renewed for leases that last longer.
    pub(super) fn renew_at(&self) -> Instant {
        self.until - self.length / RENEW_AT
    }

    /// Whether a lease that ends then may be granted now.
    pub(super) fn covers(&self, end: Instant, now: Instant) -> bool {
        self.until >= end.min(now + super::LONG_ENOUGH)
    }
}
