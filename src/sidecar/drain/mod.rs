//! How a step is done.
//!
//! A step knows the notice it serves and its deadline as an `Instant`, and reports what it sees on
//! the way. It has no time limit of its own: at the deadline its future is dropped. An `ack` needs
//! no hands; the lifecycle itself waits for it.

pub mod call;
pub mod processes;
pub mod quiet;
pub mod signal;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use crate::core::lifecycle::Progress;
use crate::core::notice::ToldNotice;
use crate::core::plan::PlannedStep;
use crate::core::step::Step;
use crate::core::task::{Identity, Task};
use crate::core::timeline::Outcome;
use crate::sidecar::http::Network;
use crate::sidecar::mailbox::{Mailbox, Message};
use crate::sidecar::task_metadata::TaskMetadata;

/// The most of a call that a log line quotes: a `Location` may be long, and each is kept for the end.
const MAX_LOGGED: usize = 200;

/// What the app is told with each call; it changes when a later notice brings the deadline forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Urgency {
    /// All notices together.
    pub notice: ToldNotice,
    /// When all must be over.
    pub deadline: Instant,
}

/// What every step of a shutdown shares.
#[derive(Clone)]
pub struct Drain {
    pub network: Network,
    /// The present notice and deadline.
    pub urgency: watch::Receiver<Urgency>,
    /// What is known of the task, which may be nothing.
    pub task: Option<Arc<Task>>,
    /// Whether it was read after the notice, so that asking again would only cost time.
    pub fresh: bool,
    /// For what must be fresh; missing outside of ECS.
    pub metadata: Option<TaskMetadata>,
    /// For a `quiet` step: what is seen of the app's connections.
    pub looks: Option<quiet::Looks>,
    /// Whether steps wait behind this one, which need time, too.
    pub more_behind: bool,
    /// The first part of the idempotency key: the task's id, or one that this process made up.
    pub key: Arc<str>,
    /// Goes with each call as a bearer token.
    pub token: Option<Arc<str>>,
    /// Where progress is told.
    pub mailbox: Mailbox,
}

impl Drain {
    /// Does a step, however long it takes.
    pub async fn carry_out(self, planned: PlannedStep) -> Outcome {
        let outcome = match &planned.step {
            Step::Call(call) => call::carry_out(&self, &planned, call).await,
            // At the deadline it is dropped like any other.
            Step::Sleep(length) => {
                tokio::time::sleep(*length).await;
                Outcome::Drained(format!("{length:?} have passed"))
            }
            Step::Quiet(step) => quiet::carry_out(&self, &planned, step).await,
            Step::Signal(step) => signal::carry_out(&self, &planned, step).await,
            Step::Ack => Outcome::Failed("an ack is waited for, not carried out".to_owned()),
        };
        match outcome {
            Outcome::Drained(how) => Outcome::Drained(self.masked(&how)),
            Outcome::Failed(why) => Outcome::Failed(self.masked(&why)),
        }
    }

    /// The one way out for what a server made up: short enough, and without the token.
    async fn tell(&self, step: &PlannedStep, progress: Progress) {
        let shown = |text: String| self.masked(&text).chars().take(MAX_LOGGED).collect();
        let progress = match progress {
            Progress::Called { call, status } => Progress::Called {
                call: shown(call),
                status,
            },
            Progress::Retrying { why, after } => Progress::Retrying {
                why: shown(why),
                after,
            },
            looked @ Progress::Looked { .. } => looked,
        };
        // Without a listener the process is about to end.
        let _ = self.mailbox.send(Message::Progress(step.number, progress)).await;
    }

    fn masked(&self, text: &str) -> String {
        match self.token.as_deref().filter(|token| !token.is_empty()) {
            Some(token) => text.replace(token, "…").replace(&percent_encoded(token), "…"),
            None => text.to_owned(),
        }
    }

    /// The present state of the task; `None` where ECS does not answer in time.
    async fn ask_task(&self) -> Option<Task> {
        self.metadata.as_ref()?.read().await.ok()
    }

    fn identity(&self) -> Identity {
        self.task
            .as_ref()
            .map_or_else(Identity::default, |task| task.identity.clone())
    }
}

/// As a URL shows it (RFC 3986, section 2.3: what is not unreserved is encoded).
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
