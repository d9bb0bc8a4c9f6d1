//! The sidecar's dealings with AWS: what it looks up while all is calm, so that a shutdown needs one
//! call, and what the lifecycle wants asked.
//!
//! All of it runs beside the drain. Nothing waits here; what comes back comes through the mailbox.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use backon::BackoffBuilder;
use tokio::time::sleep;

use crate::core::deadline::{CEILING, StopTimeout};
use crate::core::lifecycle::{AfterDrain, Event};
use crate::core::task::Task;
use crate::core::timeline::{AwsCall, Outcome};
use crate::sidecar::aws::contained::contained;
use crate::sidecar::aws::load_balancing::Target;
use crate::sidecar::aws::{Aws, Failure};
use crate::sidecar::mailbox::{AwsNews, Mailbox, Message};
use crate::sidecar::protection::ProtectionHandle;

use super::Sidecar;

/// The app is told first: making a client takes some milliseconds of the one thread.
const BEHIND_THE_DRAIN: Duration = Duration::from_millis(20);

/// A look-up while all is calm is tried this often; at the notice it is tried again.
const LOOK_UPS: usize = 10;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A task has its `stopCode` within a moment of its SIGTERM; asked for this often, a second apart.
const ASK_WHY: usize = 3;
const ASK_WHY_AGAIN: Duration = Duration::from_secs(1);

/// ECS lets an account read its tasks 100 times at once and 20 times a second (developer guide, *Request
/// throttling for the Amazon ECS API*), and fifty sidecars of one instance may start in the same second,
/// with three reads each. Each look-up begins at a place in this, by chance.
const START_SPREAD: Duration = Duration::from_secs(3);

/// The files that have the policies, in `task-definitions/iam`.
mod policy {
    pub(super) const DEREGISTER: &str = "sidecar-deregister.json";
    pub(super) const DRAIN_INSTANCE: &str = "sidecar-drain-instance.json";
    pub(super) const STOP_TASK: &str = "sidecar-stop-task.json";
    pub(super) const STOP_TIMEOUT: &str = "sidecar-stop-timeout.json";
    pub(super) const WHY: &str = "sidecar-why.json";
}

/// What is known of AWS's side of this task.
#[derive(Default)]
pub(super) struct Cloud {
    /// Missing until the task metadata says which task this is.
    aws: Option<Arc<Aws>>,
    /// Where it is registered, once that is known.
    targets: Option<Vec<Target>>,
    /// Its container instance, once that is known.
    instance: Option<String>,
}

impl Sidecar {
    /// Now that the task is known, begins to look up what a shutdown will need.
    pub(super) fn look_up(&mut self, task: &Task) {
        if self.cloud.aws.is_some() {
            return;
        }
        let network = self.aws_network.clone();
        let Some(aws) = Aws::new(self.config.aws.clone(), network, &task.identity) else {
            return;
        };
        let aws = Arc::new(aws);
        self.cloud.aws = Some(Arc::clone(&aws));
        // The look-ups complain for themselves; stopping the task is asked for at the end only.
        if self.config.policy.after_drain == AfterDrain::StopTask && !self.config.aws.has_credentials {
            tracing::warn!(
                event = "watch",
                watch = "aws",
                message = format!(
                    "PRESTOP_AFTER_DRAIN=stop-task needs ecs:StopTask, but there is no task role and no key in the \
                     environment, only an instance profile may be there; task-definitions/iam/{} has the policy",
                    policy::STOP_TASK
                )
            );
        }
        let (mailbox, aws_policy) = (self.mailbox.clone(), self.config.policy.aws);
        if self.config.stop_timeout_auto {
            let container = task.own_name.clone().unwrap_or_default();
            self.in_a_moment(look_up_stop_timeout(Arc::clone(&aws), container, mailbox.clone()));
        }
        if aws_policy.deregister {
            let budget = self.config.policy.limits.stop_timeout.budget();
            self.in_a_moment(look_up_targets(
                Arc::clone(&aws),
                task.is_bridged(),
                budget,
                mailbox.clone(),
            ));
        }
        if aws_policy.drain_instance {
            self.in_a_moment(look_up_instance(aws, mailbox));
        }
    }

    /// Not all sidecars of an instance at once.
    fn in_a_moment(&mut self, look_up: impl Future<Output = ()> + Send + 'static) {
        let mailbox = self.mailbox.clone();
        self.companions.spawn(async move {
            sleep(START_SPREAD.mul_f64(share())).await;
            if let Err(why) = contained(look_up).await {
                say(&mailbox, in_the_sdk(&why), true).await;
            }
        });
    }

    /// What AWS has said, for the lifecycle; what only concerns the shell is done here.
    pub(super) fn note_aws(&mut self, news: AwsNews) -> Option<Event> {
        match news {
            AwsNews::Ended(call, outcome) => return Some(Event::AwsEnded(call, outcome)),
            AwsNews::Cause(cause) => return Some(Event::Cause(cause)),
            AwsNews::Targets(targets) => self.cloud.targets = Some(targets),
            AwsNews::Instance(instance) => self.cloud.instance = instance,
            AwsNews::StopTimeout(found) => {
                let seconds = found.unwrap_or(StopTimeout::DEFAULT.get()).min(CEILING);
                return StopTimeout::new(seconds).map(Event::StopTimeout);
            }
            AwsNews::Looked { message, trouble } if trouble => {
                tracing::warn!(event = "watch", watch = "aws", message);
            }
            AwsNews::Looked { message, .. } => tracing::info!(event = "watch", watch = "aws", message),
        }
        None
    }

    /// Carries out what the lifecycle wants asked.
    pub(super) fn ask_aws(&mut self, call: AwsCall) {
        let (mailbox, protection, aws) = (
            self.mailbox.clone(),
            self.protection.clone(),
            self.cloud.aws.clone(),
        );
        let (targets, instance) = (self.cloud.targets.clone(), self.cloud.instance.clone());
        let bridged = self.task.as_ref().as_ref().is_some_and(Task::is_bridged);
        let reason = self
            .lifecycle
            .notice()
            .map_or("", |notice| notice.reason.as_str());
        self.companions.spawn(async move {
            if call != AwsCall::Deregister {
                sleep(BEHIND_THE_DRAIN).await;
            }
            let asked = async {
                match (call, aws) {
                    (AwsCall::ReleaseProtection, _) => released(protection).await,
                    (_, None) => {
                        Outcome::Failed("the task metadata has not said which task this is".to_owned())
                    }
                    (AwsCall::Deregister, Some(aws)) => {
                        aws.deregister(targets, bridged, policy::DEREGISTER).await
                    }
                    (AwsCall::DrainInstance, Some(aws)) => {
                        aws.drain_instance(instance.as_deref(), share(), policy::DRAIN_INSTANCE)
                            .await
                    }
                    (AwsCall::StopTask, Some(aws)) => {
                        let reason = format!("ecs-prestop: drained after {reason}");
                        aws.stop_task(&reason, policy::STOP_TASK).await
                    }
                    (AwsCall::Why, Some(aws)) => ask_why(&aws, &mailbox).await,
                }
            };
            let outcome = contained(asked).await;
            let outcome = outcome.unwrap_or_else(|why| Outcome::Failed(in_the_sdk(&why)));
            tell(&mailbox, AwsNews::Ended(call, outcome)).await;
        });
    }
}

fn in_the_sdk(why: &str) -> String {
    format!("the AWS SDK failed on something that it was given, a key or an answer: {why}")
}

async fn released(protection: Option<ProtectionHandle>) -> Outcome {
    match protection {
        Some(protection) => protection.released().await,
        None => Outcome::Done("nothing protects this task".to_owned()),
    }
}

async fn tell(mailbox: &Mailbox, news: AwsNews) {
    // Nobody listens any more where that fails: the sidecar has ended.
    let _ = mailbox.send(Message::Aws(news)).await;
}

async fn say(mailbox: &Mailbox, message: String, trouble: bool) {
    tell(mailbox, AwsNews::Looked { message, trouble }).await;
}

/// Tries until it is known, or cannot become known; complains once.
async fn look_up<T, F>(mailbox: &Mailbox, policy: &str, otherwise: &str, ask: impl Fn() -> F) -> Option<T>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut pauses = backon::ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .with_max_times(LOOK_UPS)
        .with_jitter()
        .build();
    let mut complained = false;
    loop {
        match ask().await {
            Ok(found) => return Some(found),
            Err(why) => {
                if !why.is_early() && !std::mem::replace(&mut complained, true) {
                    say(mailbox, format!("{}; {otherwise}", why.tell(policy)), true).await;
                }
                sleep(pauses.next().filter(|_| why.may_pass())?).await;
            }
        }
    }
}

async fn look_up_stop_timeout(aws: Arc<Aws>, container: String, mailbox: Mailbox) {
    let otherwise = "the stop timeout is taken to be 30 s";
    let found = look_up(&mailbox, policy::STOP_TIMEOUT, otherwise, || {
        aws.stop_timeout_s(&container)
    })
    .await;
    if let Some(seconds) = found {
        let words = seconds.map_or_else(|| "not set, so 30 s".to_owned(), |seconds| format!("{seconds} s"));
        say(
            &mailbox,
            format!("the stop timeout of `{container}` is {words}"),
            false,
        )
        .await;
        let stop_timeout = seconds.map(|seconds| Duration::from_secs(seconds.into()));
        tell(&mailbox, AwsNews::StopTimeout(stop_timeout)).await;
    }
}

async fn look_up_targets(aws: Arc<Aws>, bridged: bool, budget: Duration, mailbox: Mailbox) {
    let otherwise = "the target groups are looked up at the notice";
    let Some(targets) = look_up(&mailbox, policy::DEREGISTER, otherwise, || aws.targets(bridged)).await
    else {
        return;
    };
    let names: Vec<&str> = targets.iter().map(Target::group_name).collect();
    let message = if names.is_empty() {
        "PRESTOP_DEREGISTER has nothing to do: this task is in no target group".to_owned()
    } else {
        format!("target groups to leave at a notice: {}", names.join(", "))
    };
    say(&mailbox, message, names.is_empty()).await;
    tell(&mailbox, AwsNews::Targets(targets.clone())).await;
    for target in &targets {
        let otherwise = "whether its deregistration delay fits is not known";
        let group = &target.group;
        let delay = look_up(&mailbox, policy::DEREGISTER, otherwise, || {
            aws.deregistration_delay(group)
        })
        .await;
        // The first step waits for half of the budget at most.
        if let Some(delay) = delay.filter(|delay| *delay > budget / 2) {
            let message = format!(
                "target group {} keeps connections for {} s, but the drain starts after {} s at the latest: lower its \
                 deregistration delay, or raise the stop timeout",
                target.group_name(),
                delay.as_secs(),
                (budget / 2).as_secs()
            );
            say(&mailbox, message, true).await;
        }
    }
}

async fn look_up_instance(aws: Arc<Aws>, mailbox: Mailbox) {
    let otherwise = "the container instance is looked up at the notice";
    let found = look_up(&mailbox, policy::DRAIN_INSTANCE, otherwise, || aws.instance()).await;
    if let Some(instance) = found {
        let message = match instance.as_deref().and_then(|arn| arn.rsplit('/').next()) {
            Some(id) => format!("container instance to drain at a Spot notice: {id}"),
            None => {
                "PRESTOP_DRAIN_INSTANCE has nothing to do: this task runs on no container instance".to_owned()
            }
        };
        say(&mailbox, message, instance.is_none()).await;
        tell(&mailbox, AwsNews::Instance(instance)).await;
    }
}

async fn ask_why(aws: &Aws, mailbox: &Mailbox) -> Outcome {
    for attempt in 1..=ASK_WHY {
        match aws.cause().await {
            Err(why) => return Outcome::Failed(why.tell(policy::WHY)),
            Ok(cause) if cause.stop_code.is_some() || attempt == ASK_WHY => {
                let words = cause.stopped_reason.clone().or(cause.stop_code.clone());
                tell(mailbox, AwsNews::Cause(cause)).await;
                return Outcome::Done(words.unwrap_or_else(|| "ECS does not say why".to_owned()));
            }
            Ok(_) => sleep(ASK_WHY_AGAIN).await,
        }
    }
    Outcome::Done("ECS does not say why".to_owned())
}

/// A place between 0 and 1, another one in each process.
fn share() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    f64::from(random as u32) / f64::from(u32::MAX)
}
