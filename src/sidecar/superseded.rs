//! The watcher that asks ECS whether it wants this task gone, while a lease runs or somebody waits for it.
//!
//! What its answers mean, [`crate::core::superseded`] judges.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;

use crate::core::superseded::{OwnTask, SupersededJudge, SupersededLook, look};
use crate::sidecar::aws::contained::contained;
use crate::sidecar::aws::{Aws, Failure};
use crate::sidecar::clock::now;
use crate::sidecar::mailbox::{Mailbox, Message, WatchState};
use crate::sidecar::protection::ProtectionHandle;

/// Between two looks. Fifty tasks of one service then make four calls a second at most, where ECS takes
/// twenty (developer guide, *Request throttling for the Amazon ECS API*).
const INTERVAL: Duration = Duration::from_secs(30);

/// Jobs of many tasks may begin at the same moment, and an account may read 100 times at once and 20 times a
/// second (same section): the first look of each is at a place in this, by chance.
const FIRST_LOOK_SPREAD: Duration = Duration::from_secs(10);

/// A question keeps the watcher looking for two looks and their jitter after it.
pub const QUESTION_HOLDS: Duration = Duration::from_secs(80);

const POLICY: &str = "sidecar-superseded.json";
const WATCH: &str = "superseded";

/// Who wants to know.
pub struct Askers {
    /// Where leases run, if anywhere.
    pub protection: Option<ProtectionHandle>,
    /// Until when somebody waits at the endpoint.
    pub questions: watch::Receiver<Option<Instant>>,
}

impl Askers {
    fn any(&self) -> bool {
        let leases = self.protection.as_ref();
        leases.is_some_and(|protection| !protection.report.borrow().leases.is_empty())
            || self.questions.borrow().is_some_and(|until| now() < until)
    }

    /// Waits until somebody wants to know, without a look at the clock; `false` once nobody ever will.
    async fn somebody(&mut self) -> bool {
        while !self.any() {
            let Askers {
                protection,
                questions,
            } = self;
            let leases = async {
                match protection {
                    Some(protection) => protection.report.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                asked = questions.changed() => if asked.is_err() {
                    return false;
                },
                leases = leases => if leases.is_err() {
                    // A sender that is gone would answer at once, for ever.
                    self.protection = None;
                },
            }
        }
        true
    }
}

/// Looks until nobody listens any more. `share` gives a place between 0 and 1, by chance.
pub async fn watch(aws: Arc<Aws>, mut askers: Askers, mailbox: Mailbox, share: fn() -> f64) {
    let mut judge = SupersededJudge::default();
    let mut own: Option<OwnTask> = None;
    let mut trouble: Option<Option<String>> = None;
    let mut idle = true;
    loop {
        // While it holds, only a look can take it back.
        idle |= !askers.any();
        if std::mem::take(&mut idle) && judge.holds().is_none() {
            tokio::select! {
                wanted = askers.somebody() => if !wanted {
                    return;
                },
                () = mailbox.closed() => return,
            }
            sleep(FIRST_LOOK_SPREAD.mul_f64(share())).await;
        }
        let before = judge.holds();
        let looked = match contained(ask(&aws, &mut own)).await {
            Ok(Ok(look)) => Ok(look),
            Ok(Err(why)) => Err(why.tell(POLICY)),
            Err(why) => Err(format!("the AWS SDK failed on an answer: {why}")),
        };
        let why = looked.as_ref().err().cloned();
        judge.take(&looked.unwrap_or(SupersededLook::Unclear), now());
        if judge.holds() != before && mailbox.send(Message::Superseded(judge.holds())).await.is_err() {
            return;
        }
        if trouble.as_ref() != Some(&why) {
            let state = WatchState {
                watch: WATCH,
                sees: why.is_none(),
                log: true,
                why: why.clone(),
            };
            trouble = Some(why);
            if mailbox.send(Message::Watch(state)).await.is_err() {
                return;
            }
        }
        sleep(INTERVAL.mul_f64(0.9 + 0.2 * share())).await;
    }
}

async fn ask(aws: &Aws, own: &mut Option<OwnTask>) -> Result<SupersededLook, Failure> {
    let task = match own {
        Some(task) => task,
        None => own.insert(aws.own_task().await?),
    };
    let Some(name) = &task.service else {
        return Ok(SupersededLook::No);
    };
    let status = match &task.instance {
        Some(instance) => aws.instance_status(instance).await?,
        None => None,
    };
    let service = aws.seen_service(name).await?;
    Ok(look(task, &service, status.as_deref()))
}
