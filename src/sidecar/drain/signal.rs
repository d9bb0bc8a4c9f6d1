//! A signal to the main process of another container, for apps whose graceful signal is not SIGTERM
//! or whose shell would swallow it.
//!
//! The step is done when the process that got the signal has ended; with `nowait`, when it has got it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tokio::time::sleep;

use super::Drain;
use super::processes::{Process, Processes};
use crate::core::plan::PlannedStep;
use crate::core::step::{SignalName, SignalStep};
use crate::core::task::Task;
use crate::core::timeline::Outcome;

/// How often it is looked whether the process still runs: a file of `/proc` each time.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A task has at most ten containers; more URIs come from something else.
const MAX_URIS: usize = 16;

/// The capability to signal processes of other users (capabilities(7)).
const CAP_KILL: u32 = 5;

const PROC: &str = "/proc";

/// Signals, and waits for the end.
pub(super) async fn carry_out(drain: &Drain, planned: &PlannedStep, step: &SignalStep) -> Outcome {
    let processes = match Processes::read(Path::new(PROC)) {
        Ok(processes) => processes,
        Err(why) => return Outcome::Failed(format!("{}: {why}", planned.step)),
    };
    let task = drain.task.as_deref();
    let container = &step.container;
    if let Some(task) = task
        && task.container(container).is_none()
    {
        let names: Vec<&str> = task
            .containers
            .iter()
            .map(|container| container.name.as_str())
            .collect();
        let why = format!(
            "the task has no container `{container}`, only {}",
            names.join(", ")
        );
        return Outcome::Failed(format!("{}: {why}", planned.step));
    }
    let id = task.and_then(|task| task.container(container)?.docker_id.as_deref());
    let uri = match id {
        Some(_) => uri_of(drain, &processes, container).await,
        None => None,
    };
    let other_ids = task.map_or_else(Vec::new, |task| other_ids(task, container));
    let target = match processes.target(container, id, &other_ids, uri.as_deref(), step.signal.number()) {
        Ok(target) => target,
        Err(why) => return Outcome::Failed(format!("{}: {why}", planned.step)),
    };
    let Some(pid) = i32::try_from(target.pid).ok().and_then(Pid::from_raw) else {
        return Outcome::Failed(format!("{}: {} is no process id", planned.step, target.pid));
    };
    match kill_process(pid, number_of(step.signal)) {
        Ok(()) if step.waits => {}
        Ok(()) => return Outcome::Drained(format!("process {} ({}) has got it", target.pid, target.name)),
        Err(Errno::SRCH) => return Outcome::Drained("the process had ended already".to_owned()),
        Err(why) => return Outcome::Failed(format!("{}: {}", planned.step, forbidden(target, why))),
    }
    let folder = PathBuf::from(PROC).join(target.pid.to_string());
    while !target.has_ended(&folder) {
        sleep(LOOK_EVERY).await;
    }
    Outcome::Drained(format!("process {} ({}) has ended", target.pid, target.name))
}

/// The metadata URI of that container, by asking those that processes have in their environment.
async fn uri_of(drain: &Drain, processes: &Processes, container: &str) -> Option<String> {
    let metadata = drain.metadata.as_ref()?;
    for uri in processes.metadata_uris().into_iter().take(MAX_URIS) {
        if metadata.container_at(&uri).await.as_deref() == Some(container) {
            return Some(uri);
        }
    }
    None
}

fn other_ids(task: &Task, container: &str) -> Vec<String> {
    let others = task.containers.iter().filter(|other| other.name != container);
    let ids = others.filter_map(|other| other.docker_id.clone());
    ids.chain(task.internal_ids.iter().cloned()).collect()
}

fn number_of(signal: SignalName) -> Signal {
    match signal {
        SignalName::Hup => Signal::HUP,
        SignalName::Int => Signal::INT,
        SignalName::Quit => Signal::QUIT,
        SignalName::Usr1 => Signal::USR1,
        SignalName::Usr2 => Signal::USR2,
        SignalName::Term => Signal::TERM,
        SignalName::Tstp => Signal::TSTP,
        SignalName::Winch => Signal::WINCH,
    }
}

/// EPERM has several causes, each with its own cure.
fn forbidden(target: &Process, why: Errno) -> String {
    let who = format!("process {} ({}) of uid {}", target.pid, target.name, target.uid);
    if why != Errno::PERM {
        return format!("{who} cannot be signalled: {why}");
    }
    let own = geteuid().as_raw();
    if own == target.uid || may_kill() {
        return format!(
            "{who} must not be signalled, though uid {own} might: a security profile (AppArmor, SELinux) or a user \
             namespace forbids it"
        );
    }
    format!(
        "{who} must not be signalled by uid {own}: run the sidecar as the same `user`, or as `user` 0 with the \
         capability KILL (a user other than 0 does not get added capabilities)"
    )
}

fn may_kill() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> CAP_KILL & 1 == 1)
}
