//! The `quiet` step: waits until the app owes nobody an answer.
//!
//! It looks at the TCP connections of the network namespace, from the notice on, so that the step
//! knows at its turn what has moved; the [core](crate::core::quiet) judges what it sees. It touches
//! nobody's connection.

mod kernel;
mod neighbours;
mod observer;
mod proc_net;
mod sock_diag;
pub mod sockets;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::time::{Instant as Clock, timeout_at};

use super::Drain;
use crate::core::lifecycle::Progress;
use crate::core::plan::PlannedStep;
use crate::core::quiet::{Owed, Picture, limit};
use crate::core::step::QuietStep;
use crate::core::timeline::Outcome;

pub use kernel::Kernel;
pub use observer::{ConnectionView, announce, observe};

/// At the end of its time the step looks for that long for a moment at which nobody is owed an answer.
const LAST_LOOK: Duration = Duration::from_millis(60);

/// What the latest look saw.
#[derive(Clone, Debug)]
pub struct LastLook {
    /// Whether any port that counts has ever been seen listening.
    pub listens: bool,
    /// When the look began.
    pub at: Instant,
    pub picture: Picture,
    /// When the first look began, and how many were owed an answer then.
    pub first: (Instant, usize),
    /// When an answer that was owed was complete, for the last time.
    pub last_answer: Option<Instant>,
    /// Why there could be no look since.
    pub trouble: Option<String>,
}

impl LastLook {
    /// Whether nobody is owed an answer, and has not been for long enough.
    pub fn is_quiet(&self) -> bool {
        let quiet_at = self.picture.quiet_at.filter(|_| self.trouble.is_none());
        quiet_at.is_some_and(|quiet_at| quiet_at <= self.at)
    }
}

/// Where the looks of one step are told, and where one more is asked for.
#[derive(Clone, Debug)]
pub struct Looks {
    seen: watch::Receiver<Option<LastLook>>,
    again: Arc<Notify>,
}

impl Looks {
    /// What the next look sees; `None` where nobody looks any more.
    pub async fn next(&mut self) -> Option<LastLook> {
        loop {
            self.seen.changed().await.ok()?;
            if let Some(seen) = self.seen.borrow_and_update().clone() {
                return Some(seen);
            }
        }
    }
}

/// Waits until it is quiet, or until the step's time is over.
pub(super) async fn carry_out(drain: &Drain, planned: &PlannedStep, step: &QuietStep) -> Outcome {
    let started = now();
    let Some(mut looks) = drain.looks.clone() else {
        return Outcome::Failed(format!("{step}: nobody looks at the connections"));
    };
    looks.again.notify_one();
    loop {
        let deadline = drain.urgency.borrow().deadline;
        let end = limit(step, drain.more_behind, started, deadline);
        let mut urgency = drain.urgency.clone();
        tokio::select! {
            changed = looks.seen.changed() => if changed.is_err() {
                return Outcome::Failed(format!("{step}: nobody looks at the connections any more"));
            },
            // A later notice may bring the end forward.
            _ = urgency.changed() => continue,
            () = tokio::time::sleep_until(end.into()) => {
                return at_the_end(drain, planned, step, looks, started).await;
            }
        }
        let Some(seen) = looks.seen.borrow_and_update().clone() else {
            continue;
        };
        if seen.trouble.is_some() || seen.at < started {
            continue;
        }
        if !seen.listens {
            return nobody_listens(drain, step).await;
        }
        if seen.is_quiet() {
            return Outcome::Drained(format!("nobody is owed an answer; {}", story(&seen)));
        }
    }
}

/// The time is over: one more look tells what is left.
async fn at_the_end(
    drain: &Drain,
    planned: &PlannedStep,
    step: &QuietStep,
    looks: Looks,
    started: Instant,
) -> Outcome {
    let end = now();
    let seen = match last_word(looks, end).await {
        Ok(seen) => seen,
        Err(why) => return Outcome::Failed(format!("{step}: {why}")),
    };
    if !seen.listens {
        return nobody_listens(drain, step).await;
    }
    let picture = &seen.picture;
    if picture.owing == 0 {
        let who = picture
            .last_mover
            .map_or_else(String::new, |peer| format!(", the last from {peer}"));
        return Outcome::Drained(format!(
            "nobody is owed an answer, though requests went on coming{who}: is the load balancer told? {}",
            story(&seen)
        ));
    }
    drain.tell(planned, looked(picture)).await;
    if step.within.is_none() && !drain.more_behind {
        // The deadline itself is next, and tells what was told here.
        std::future::pending::<()>().await;
    }
    let took = end.saturating_duration_since(started);
    Outcome::Failed(format!(
        "{step}: {} still owed an answer after {took:.1?}: {}",
        picture.owing,
        names(&picture.named)
    ))
}

/// The look that tells how the step ends. Where requests go on coming, the end is put where none is under way, if
/// there is such a moment. Where no look comes in time, the last one names who was owed, and says of nobody that he
/// is not.
async fn last_word(mut looks: Looks, end: Instant) -> Result<LastLook, String> {
    let last_moment = Clock::now() + LAST_LOOK;
    let mut seen = looks.seen.borrow().clone();
    loop {
        looks.again.notify_one();
        match timeout_at(last_moment, looks.next()).await {
            Ok(Some(next)) => seen = Some(next),
            Ok(None) | Err(_) => break,
        }
        let rests = |seen: &LastLook| seen.at >= end && seen.trouble.is_none() && seen.picture.owing == 0;
        if seen.as_ref().is_some_and(rests) {
            break;
        }
        let _ = timeout_at(last_moment, tokio::time::sleep(LAST_LOOK / 10)).await;
    }
    let seen = seen.ok_or("the connections could not be looked at in time")?;
    match &seen.trouble {
        Some(why) => Err(format!("the connections cannot be looked at: {why}")),
        None if seen.listens && seen.picture.owing == 0 && seen.at < end => {
            Err("no look at the connections came in time to say that nobody is owed an answer".to_owned())
        }
        None => Ok(seen),
    }
}

/// Nothing can be waited for, which is no proof of anything.
async fn nobody_listens(drain: &Drain, step: &QuietStep) -> Outcome {
    let known = drain.task.as_deref().cloned();
    let task = if drain.fresh {
        known
    } else {
        drain.ask_task().await.or(known)
    };
    let stopped = task.is_some_and(|task| {
        !task.containers.is_empty() && task.containers.iter().all(|container| container.stopped)
    });
    if stopped {
        return Outcome::Drained("ECS knows the other containers as STOPPED".to_owned());
    }
    Outcome::Failed(format!("{step}: {}", nobody_listens_because(step)))
}

/// The likely reasons, with what to do about each.
fn nobody_listens_because(step: &QuietStep) -> String {
    let what = match step.ports.as_slice() {
        [] => "no TCP port of this network namespace is listened on by anybody else".to_owned(),
        ports => {
            let ports: Vec<String> = ports.iter().map(|port| format!(":{port}")).collect();
            format!(
                "nobody listens on {} in this network namespace",
                ports.join(" or ")
            )
        }
    };
    format!(
        "{what}: a worker needs `ack` or `signal NAME CONTAINER`; an app in another network namespace (bridge \
         networking, compose without network_mode: \"service:…\") a URL or `sleep`; UDP and QUIC are not seen"
    )
}

fn story(seen: &LastLook) -> String {
    let (first, owing) = seen.first;
    let last = seen
        .last_answer
        .filter(|_| owing > 0 || seen.last_answer.is_some());
    let last = last.map_or_else(String::new, |last| {
        let after = last.saturating_duration_since(first);
        format!(", the last answer took until {after:.1?} after it")
    });
    format!(
        "{owing} were at the notice{last}; {} idle connections are left",
        seen.picture.open
    )
}

fn names(named: &[Owed]) -> String {
    let names = named
        .iter()
        .map(|Owed { peer, for_ms }| format!("{peer} for {:.1?}", Duration::from_millis(*for_ms)));
    names.collect::<Vec<_>>().join(", ")
}

fn looked(picture: &Picture) -> Progress {
    Progress::Looked {
        open: picture.open,
        owing: picture.owing,
        owed: picture.named.clone(),
    }
}

fn now() -> Instant {
    Clock::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was seen so long ago, with that many who were owed an answer.
    fn seen(ago: Duration, owing: usize) -> LastLook {
        let at = now() - ago;
        LastLook {
            listens: true,
            at,
            picture: Picture {
                open: 3,
                owing,
                quiet_at: (owing == 0).then_some(at),
                ..Picture::default()
            },
            first: (at, 3),
            last_answer: None,
            trouble: None,
        }
    }

    /// The last word where nobody looks any more in time, after that look.
    async fn last_word_after(look: Option<LastLook>) -> Result<usize, String> {
        let (_sender, seen) = watch::channel(look);
        let again = Arc::new(Notify::new());
        let end = now();
        let word = last_word(Looks { seen, again }, end).await;
        assert!(now() <= end + LAST_LOOK + Duration::from_millis(1));
        word.map(|seen| seen.picture.owing)
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_from_before_the_end_says_who_was_owed_and_of_nobody_that_he_is_not() {
        let before = Duration::from_millis(40);
        let nobody = last_word_after(Some(seen(before, 0))).await;
        assert!(
            nobody.clone().is_err_and(|why| why.contains("came in time")),
            "{nobody:?}"
        );
        assert_eq!(last_word_after(Some(seen(before, 2))).await, Ok(2));
        let never = last_word_after(None).await;
        assert!(never.is_err_and(|why| why.contains("could not be looked at")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_is_asked_for_at_the_end_is_believed() {
        let (sender, receiver) = watch::channel(Some(seen(Duration::from_millis(40), 0)));
        let again = Arc::new(Notify::new());
        let asked = Arc::clone(&again);
        tokio::spawn(async move {
            asked.notified().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
            sender.send_replace(Some(seen(Duration::from_millis(2), 0)));
            std::future::pending::<()>().await;
        });
        let word = last_word(
            Looks {
                seen: receiver,
                again,
            },
            now(),
        )
        .await;
        assert_eq!(word.map(|seen| seen.picture.owing), Ok(0));
    }
}
