//! The sidecar's dealings with AWS: what it looks up while all is calm, so that a shutdown needs one
//! call, and what the lifecycle wants asked.
//!
//! All of it runs beside the drain. Nothing waits here; what comes back comes through the mailbox.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use backon::BackoffBuilder;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::config::aws::AwsSettings;
use crate::core::deadline::{CEILING, Limits, StopTimeout};
use crate::core::lifecycle::{AfterDrain, AwsPolicy, Event, Policy};
use crate::core::task::{Registered, Task};
use crate::core::timeline::{AwsCall, AwsOutcome};
use crate::sidecar::aws::contained::contained;
use crate::sidecar::aws::leaving::{Departure, LeavingPolicies, NOWHERE};
use crate::sidecar::aws::{Aws, Failure};
use crate::sidecar::http::Network;
use crate::sidecar::mailbox::{AwsNews, Mailbox, Message};
use crate::sidecar::protection::ProtectionHandle;
use crate::sidecar::superseded::{self, Askers};

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
    use super::LeavingPolicies;

    pub(super) const LEAVE: LeavingPolicies = LeavingPolicies {
        groups: "sidecar-deregister.json",
        names: "sidecar-cloud-map.json",
    };
    pub(super) const DRAIN_INSTANCE: &str = "sidecar-drain-instance.json";
    pub(super) const STOP_TASK: &str = "sidecar-stop-task.json";
    pub(super) const STOP_TIMEOUT: &str = "sidecar-stop-timeout.json";
    pub(super) const WHY: &str = "sidecar-why.json";
}

/// What is known of AWS's side of this task, and who asks.
pub struct AwsSide {
    settings: AwsSettings,
    network: Network,
    mailbox: Mailbox,
    /// Missing until the task metadata says which task this is.
    aws: Option<Arc<Aws>>,
    /// Where it is registered, once that is known.
    places: Option<Vec<Registered>>,
    /// Its container instance, once that is known.
    instance: Option<String>,
    /// What has been asked and has not ended; dropping it drops them.
    calls: JoinSet<()>,
}

#[derive(Clone, Copy, Debug)]
pub struct LookUp {
    /// What the lifecycle may ask for at a notice.
    pub policy: Policy,
    /// Whether the stop timeout is to be looked up.
    pub stop_timeout: bool,
}

/// What goes with a call that the lifecycle wants.
pub struct Circumstances {
    /// Why the task must stop.
    pub reason: &'static str,
    /// Whether its containers are behind ports of the host.
    pub bridged: bool,
    /// What a deregistration waits for.
    pub departure: Departure,
    /// Where protection is given back.
    pub protection: Option<ProtectionHandle>,
}

impl AwsSide {
    /// Has asked nothing yet.
    pub fn new(settings: AwsSettings, network: Network, mailbox: Mailbox) -> AwsSide {
        AwsSide {
            settings,
            network,
            mailbox,
            aws: None,
            places: None,
            instance: None,
            calls: JoinSet::new(),
        }
    }

    /// Now that the task is known, begins to look up what a shutdown will need; once.
    pub fn look_up(&mut self, task: &Task, wanted: LookUp) {
        if self.aws.is_some() {
            return;
        }
        let Some(aws) = Aws::new(self.settings.clone(), self.network.clone(), &task.identity) else {
            return;
        };
        let aws = Arc::new(aws);
        self.aws = Some(Arc::clone(&aws));
        // The look-ups complain for themselves; stopping the task is asked for at the end only.
        if wanted.policy.after_drain == AfterDrain::StopTask && !self.settings.has_credentials {
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
        let AwsPolicy {
            deregister,
            drain_instance,
            ..
        } = wanted.policy.aws;
        let (mailbox, container) = (self.mailbox.clone(), task.own_name.clone().unwrap_or_default());
        let (sdk, bridged) = (Arc::clone(&aws), task.is_bridged());
        if wanted.stop_timeout || deregister {
            self.in_a_moment(async move {
                // First, since whether the deregistration delays fit depends on it.
                if wanted.stop_timeout {
                    look_up_stop_timeout(&sdk, &container, &mailbox).await;
                }
                if deregister {
                    look_up_places(&sdk, bridged, &mailbox).await;
                }
            });
        }
        if drain_instance {
            self.in_a_moment(look_up_instance(aws, self.mailbox.clone()));
        }
    }

    /// Begins to watch whether ECS wants this task gone.
    pub fn watch_superseded(&mut self, askers: Askers) {
        if let Some(aws) = self.aws.clone() {
            self.calls
                .spawn(superseded::watch(aws, askers, self.mailbox.clone(), share));
        }
    }

    /// Not all sidecars of an instance at once.
    fn in_a_moment(&mut self, look_up: impl Future<Output = ()> + Send + 'static) {
        let mailbox = self.mailbox.clone();
        self.calls.spawn(async move {
            sleep(START_SPREAD.mul_f64(share())).await;
            if let Err(why) = contained(look_up).await {
                tell(&mailbox, AwsNews::Missed(in_the_sdk(&why))).await;
            }
        });
    }

    /// What AWS has said, for the lifecycle, whose present limits are given; what only concerns the shell is
    /// done here.
    pub fn note(&mut self, news: AwsNews, limits: Limits) -> Option<Event> {
        match news {
            AwsNews::Ended(call, outcome) => return Some(Event::AwsEnded(call, outcome)),
            AwsNews::Cause(cause) => return Some(Event::Cause(cause)),
            AwsNews::Registered(places) => self.places = Some(places),
            AwsNews::Instance(instance) => self.instance = instance,
            AwsNews::StopTimeout(found) => {
                let seconds = found.unwrap_or(StopTimeout::DEFAULT.get()).min(CEILING);
                return StopTimeout::new(seconds).map(Event::StopTimeout);
            }
            AwsNews::Lingers { place, time } => {
                // The first step waits for half of the budget at most.
                let limit = limits.stop_timeout.budget() / 2;
                if time > limit {
                    let name = place.name();
                    let (who, what) = match &place {
                        Registered::Target(_) => (
                            format!("target group {name} keeps connections"),
                            "deregistration delay",
                        ),
                        Registered::Name(_) => {
                            (format!("clients keep an answer of Cloud Map's {name}"), "TTL")
                        }
                    };
                    tracing::warn!(
                        event = "watch",
                        watch = "aws",
                        message = format!(
                            "{who} for {} s, but the drain starts after {} s at the latest: \
                             lower its {what}, or raise the stop timeout",
                            time.as_secs(),
                            limit.as_secs()
                        )
                    );
                }
                let known = self.places.iter_mut().flatten().find(|known| **known == place);
                if let Some(Registered::Name(name)) = known {
                    name.ttl = Some(time);
                }
            }
            AwsNews::Found(message) => tracing::info!(event = "watch", watch = "aws", message),
            AwsNews::Missed(message) => tracing::warn!(event = "watch", watch = "aws", message),
        }
        None
    }

    /// Carries out what the lifecycle wants asked.
    pub fn ask(&mut self, call: AwsCall, circumstances: Circumstances) {
        let Circumstances {
            reason,
            bridged,
            departure,
            protection,
        } = circumstances;
        let (mailbox, aws) = (self.mailbox.clone(), self.aws.clone());
        let (places, instance) = (self.places.clone(), self.instance.clone());
        self.calls.spawn(async move {
            if call != AwsCall::Deregister {
                sleep(BEHIND_THE_DRAIN).await;
            }
            let asked = async {
                match (call, aws) {
                    (AwsCall::ReleaseProtection, _) => released(protection).await,
                    (_, None) => {
                        AwsOutcome::Failed("the task metadata has not said which task this is".to_owned())
                    }
                    (AwsCall::Deregister, Some(aws)) => {
                        aws.deregister(places, bridged, departure, policy::LEAVE).await
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
            let outcome = outcome.unwrap_or_else(|why| AwsOutcome::Failed(in_the_sdk(&why)));
            tell(&mailbox, AwsNews::Ended(call, outcome)).await;
        });
    }
}

fn in_the_sdk(why: &str) -> String {
    format!("the AWS SDK failed on something that it was given, a key or an answer: {why}")
}

async fn released(protection: Option<ProtectionHandle>) -> AwsOutcome {
    match protection {
        Some(protection) => protection.released().await,
        None => AwsOutcome::Done("nothing protects this task".to_owned()),
    }
}

async fn tell(mailbox: &Mailbox, news: AwsNews) {
    // Nobody listens any more where that fails: the sidecar has ended.
    let _ = mailbox.send(Message::Aws(news)).await;
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
                    let why = format!("{}; {otherwise}", why.tell(policy));
                    tell(mailbox, AwsNews::Missed(why)).await;
                }
                sleep(pauses.next().filter(|_| why.may_pass())?).await;
            }
        }
    }
}

async fn look_up_stop_timeout(aws: &Aws, container: &str, mailbox: &Mailbox) {
    let otherwise = "the stop timeout is taken to be 30 s";
    let found = look_up(mailbox, policy::STOP_TIMEOUT, otherwise, || {
        aws.stop_timeout_s(container)
    })
    .await;
    if let Some(seconds) = found {
        let words = seconds.map_or_else(|| "not set, so 30 s".to_owned(), |seconds| format!("{seconds} s"));
        let message = format!("the stop timeout of `{container}` is {words}");
        tell(mailbox, AwsNews::Found(message)).await;
        let stop_timeout = seconds.map(|seconds| Duration::from_secs(seconds.into()));
        tell(mailbox, AwsNews::StopTimeout(stop_timeout)).await;
    }
}

async fn look_up_places(aws: &Aws, bridged: bool, mailbox: &Mailbox) {
    let otherwise = "where the task is registered is looked up at the notice";
    let asked = look_up(mailbox, policy::LEAVE.groups, otherwise, || {
        aws.registered(bridged)
    });
    let Some(places) = asked.await else { return };
    let names: Vec<&str> = places.iter().map(Registered::name).collect();
    let news = if names.is_empty() {
        AwsNews::Missed(format!("PRESTOP_DEREGISTER has nothing to do: {NOWHERE}"))
    } else {
        AwsNews::Found(format!("to leave at a notice: {}", names.join(", ")))
    };
    tell(mailbox, news).await;
    tell(mailbox, AwsNews::Registered(places.clone())).await;
    for place in places {
        let otherwise = "whether there is time for its deregistration delay or TTL is not known";
        let asked = look_up(mailbox, policy::LEAVE.of(&place), otherwise, || {
            aws.lingers(&place)
        });
        if let Some(time) = asked.await {
            tell(mailbox, AwsNews::Lingers { place, time }).await;
        }
    }
}

async fn look_up_instance(aws: Arc<Aws>, mailbox: Mailbox) {
    let otherwise = "the container instance is looked up at the notice";
    let found = look_up(&mailbox, policy::DRAIN_INSTANCE, otherwise, || aws.instance()).await;
    if let Some(instance) = found {
        let news = match instance.as_deref().and_then(|arn| arn.rsplit('/').next()) {
            Some(id) => AwsNews::Found(format!("container instance to drain at a Spot notice: {id}")),
            None => AwsNews::Missed(
                "PRESTOP_DRAIN_INSTANCE has nothing to do: this task runs on no container instance"
                    .to_owned(),
            ),
        };
        tell(&mailbox, news).await;
        tell(&mailbox, AwsNews::Instance(instance)).await;
    }
}

async fn ask_why(aws: &Aws, mailbox: &Mailbox) -> AwsOutcome {
    for attempt in 1..=ASK_WHY {
        match aws.cause().await {
            Err(why) => return AwsOutcome::Failed(why.tell(policy::WHY)),
            Ok(cause) if cause.stop_code.is_some() || attempt == ASK_WHY => {
                let words = cause
                    .stopped_reason
                    .clone()
                    .or(cause.stop_code.as_ref().map(ToString::to_string));
                tell(mailbox, AwsNews::Cause(cause)).await;
                return AwsOutcome::Done(words.unwrap_or_else(|| "ECS does not say why".to_owned()));
            }
            Ok(_) => sleep(ASK_WHY_AGAIN).await,
        }
    }
    AwsOutcome::Done("ECS does not say why".to_owned())
}

/// A place between 0 and 1, another one in each process.
fn share() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    f64::from(random as u32) / f64::from(u32::MAX)
}
