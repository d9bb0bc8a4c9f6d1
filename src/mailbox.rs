//! The one channel: what the rooms of the shell tell the sidecar.
//!
//! It lies below all of them, so that a watcher, a step or an endpoint can speak without knowing
//! who listens.

use tokio::sync::mpsc;

use crate::lifecycle::Progress;
use crate::notice::Notice;
use crate::task::Task;

/// Senders wait when it is full; nobody sends faster than the sidecar reads for long.
const CAPACITY: usize = 64;

/// What is told.
#[derive(Debug)]
pub enum Message {
    /// A signal came.
    Signal(Signal),
    /// A watcher or an endpoint saw a reason to stop.
    Notice(Notice),
    /// A watcher sees, or has become blind.
    Watch(WatchState),
    /// The task metadata has been read, or could not be.
    Task(Result<Task, String>),
    /// Somebody posted to `/drained`, naming a container or not.
    Ack(Option<String>),
    /// A step has something to tell.
    Progress(usize, Progress),
}

/// The signals that mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: ECS stops the task.
    Term,
    /// SIGINT: the same for people at a terminal; the second one ends the process.
    Int,
}

/// How a watcher is doing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct WatchState {
    /// What is watched, as in `PRESTOP_WATCH`.
    pub watch: &'static str,
    /// Whether notices would be seen now.
    pub sees: bool,
    /// Why not, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// The sending end; cheap to clone.
pub type Mailbox = mpsc::Sender<Message>;

/// A new channel.
pub fn channel() -> (Mailbox, mpsc::Receiver<Message>) {
    mpsc::channel(CAPACITY)
}
