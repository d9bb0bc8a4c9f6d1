//! The one channel: what the rooms of the shell tell the sidecar.
//!
//! It lies below all of them, so that a watcher, a step or an endpoint can speak without knowing
//! who listens.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::core::lifecycle::Progress;
use crate::core::notice::{Cause, Notice};
use crate::core::superseded::Superseded;
use crate::core::task::{Registered, Task};
use crate::core::timeline::{AwsCall, AwsOutcome};

/// Senders wait when it is full; nobody sends faster than the sidecar reads for long.
const CAPACITY: usize = 64;

/// What a part of the shell tells the sidecar.
#[derive(Debug)]
pub enum Message {
    Signal(Signal),
    /// A watcher or an endpoint saw a reason to stop.
    Notice(Notice),
    /// A watcher sees, or has become blind.
    Watch(WatchState),
    /// The task metadata has been read, or could not be.
    Task(Result<Task, String>),
    /// ECS wants this task gone, or no longer.
    Superseded(Option<Superseded>),
    /// Somebody posted to `/drained`, naming a container or not.
    Ack(Option<String>),
    /// AWS has been asked, in a shutdown or while all is calm.
    Aws(AwsNews),
    /// A step has something to tell.
    Progress(usize, Progress),
}

#[derive(Debug)]
pub enum AwsNews {
    /// What was asked for in a shutdown has ended.
    Ended(AwsCall, AwsOutcome),
    /// Why ECS stops the task.
    Cause(Cause),
    /// Where this task is registered, which a shutdown then need not ask for.
    Registered(Vec<Registered>),
    /// The container instance that it runs on, where there is one.
    Instance(Option<String>),
    /// This container's stop timeout; `None` where the task definition has none.
    StopTimeout(Option<Duration>),
    /// How long others keep this task after it has left one of those: the deregistration delay of a target group,
    /// the TTL of a record.
    Lingers { place: Registered, time: Duration },
    /// What came of something that was asked for while all is calm.
    Found(String),
    /// The same, where somebody should do something about it.
    Missed(String),
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
    pub watch: &'static str,
    /// Whether notices would be seen now.
    pub sees: bool,
    /// Whether this is worth a line of the log: a watcher that flaps is told rarely.
    #[serde(skip)]
    pub log: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// The sending end; cheap to clone.
pub type Mailbox = mpsc::Sender<Message>;

pub fn channel() -> (Mailbox, mpsc::Receiver<Message>) {
    mpsc::channel(CAPACITY)
}
