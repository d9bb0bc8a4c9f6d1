//! How a step is done.
//!
//! A step knows the notice it serves and its deadline as an `Instant`, and reports what it sees on
//! the way. It has no time limit of its own: at the deadline its future is dropped. An `ack` needs
//! no hands; the lifecycle itself waits for it.

pub mod call;
pub mod processes;
pub mod quiet;
pub mod signal;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use crate::core::lifecycle::Progress;
use crate::core::notice::Notice;
use crate::core::plan::PlannedStep;
use crate::core::step::Step;
use crate::core::task::{Identity, Task};
use crate::core::timeline::Outcome;
use crate::sidecar::http::Network;
use crate::sidecar::mailbox::{Mailbox, Message};

/// The most of a call that a log line quotes: a `Location` may be long, and each is kept for the end.
const MAX_LOGGED: usize = 200;

/// What the app is told with each call; it changes when a later notice brings the deadline forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Urgency {
    /// The first notice.
    pub notice: Notice,
    /// When all must be over.
    pub deadline: Instant,
}

/// Asks ECS for the present state of the task; `None` where it does not answer in time.
pub type AskTask = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Option<Task>> + Send>> + Send + Sync>;

/// Asks which container a metadata URI belongs to; `None` where nobody answers.
pub type ContainerAt =
    Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = Option<String>> + Send>> + Send + Sync>;

/// What every step of a shutdown shares.
#[derive(Clone)]
pub struct Drain {
    /// How it calls.
    pub network: Network,
    /// The present notice and deadline.
    pub urgency: watch::Receiver<Urgency>,
    /// What is known of the task, which may be nothing.
    pub task: Arc<Option<Task>>,
    /// Whether it was read after the notice, so that asking again would only cost time.
    pub fresh: bool,
    /// For what must be fresh.
    pub ask_task: AskTask,
    /// For signal steps.
    pub container_at: ContainerAt,
    /// For a `quiet` step: what is seen of the app's connections.
    pub looks: Option<quiet::Looks>,
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
        match &planned.step {
            Step::Call(call) => call::carry_out(&self, &planned, call).await,
            // At the deadline it is dropped like any other.
            Step::Sleep(length) => {
                tokio::time::sleep(*length).await;
                Outcome::Drained(format!("{length:?} have passed"))
            }
            Step::Quiet(step) => quiet::carry_out(&self, &planned, step).await,
            Step::Signal(step) => signal::carry_out(&self, &planned, step).await,
            Step::Ack => Outcome::Failed("an ack is waited for, not carried out".to_owned()),
        }
    }

    async fn tell(&self, step: &PlannedStep, progress: Progress) {
        // Without a listener the process is about to end.
        let _ = self.mailbox.send(Message::Progress(step.number, progress)).await;
    }

    /// What a server made up, short enough and without the token.
    fn for_the_log(&self, text: &str) -> String {
        let text = match &self.token {
            Some(token) => text.replace(token.as_ref(), "…"),
            None => text.to_owned(),
        };
        text.chars().take(MAX_LOGGED).collect()
    }

    fn identity(&self) -> Identity {
        self.task
            .as_ref()
            .as_ref()
            .map_or_else(Identity::default, |task| task.identity.clone())
    }
}
