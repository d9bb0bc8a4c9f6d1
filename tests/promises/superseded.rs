//! A task with a lease is told that ECS wants it gone, and never falsely; nothing of a shutdown changes.
//!
//! The real SDK against the stand-in's API, in memory and under a paused clock.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use ecs_prestop::config::Config;
use ecs_prestop::core::leases::{LeaseAnswer, LeaseName};
use ecs_prestop::core::lifecycle::{Code, Lifecycle};
use ecs_prestop::core::notice::Action;
use ecs_prestop::sidecar::aws::Aws;
use ecs_prestop::sidecar::mailbox;
use ecs_prestop::sidecar::protection::{LeaseAction, ProtectionLoop};
use ecs_prestop::sidecar::status::Status;
use ecs_prestop::sidecar::superseded::{self, Askers};
use ecs_prestop::sidecar::task_metadata::TaskMetadata;
use ecs_prestop::tools::simulate::StandIn;
use ecs_prestop::tools::simulate::faults::{Fault, FaultKind, FaultTarget};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::memory::{AGENT, Does, Log, Play, TMDS, response};

const BUSY: [(&str, &str); 6] = [
    ("PRESTOP_DRAIN", "sleep 1s"),
    ("PRESTOP_PROTECT", "true"),
    ("PRESTOP_BUSY_URL", "http://app:8080/busy"),
    ("AWS_ENDPOINT_URL", "http://169.254.170.9"),
    ("AWS_ACCESS_KEY_ID", "none"),
    ("AWS_SECRET_ACCESS_KEY", "none"),
];

const OWN: &str = "ecs-svc/1000000000000000001";

/// After three looks at least.
const LOOKED: f64 = 140.0;

fn deployment(id: &str, status: &str, running: i32) -> Value {
    json!({"id": id, "status": status, "desiredCount": 1, "runningCount": running, "createdAt": 1_700_001_000})
}

fn replaced(running: i32) -> Value {
    json!({"deployments": [deployment("ecs-svc/2", "PRIMARY", running), deployment(OWN, "ACTIVE", 1)]})
}

/// What ECS says, and by what it is broken.
type Says = (Value, Option<FaultKind>);

/// The app is busy all the time; how often it was told that ECS wants the task gone, and that it does not.
async fn told(first: Says, later: Option<Says>) -> (usize, usize) {
    let log = Log::capture();
    let busy = Does::Answers(response(200, "", ""));
    let played = Play::with(StandIn::sample(), &BUSY, &[busy])
        .play(|director| async move {
            let set = |(says, fault): Says| {
                director.stand_in.service_says(says);
                if let Some(kind) = fault {
                    director.stand_in.break_down(Fault {
                        target: FaultTarget::Aws,
                        kind,
                        lasts: None,
                        requests: None,
                    });
                }
            };
            set(first);
            director.at(LOOKED).await;
            assert!(director.stand_in.protected(), "the lease is renewed");
            later.map(set);
            director.at(2.0 * LOOKED).await;
            assert!(director.stand_in.protected(), "the lease is renewed");
            director.sigterm().await;
        })
        .await;
    assert_eq!(played.code, Code::Drained, "{}", played.details());
    (log.with("holds=true").len(), log.with("holds=false").len())
}

#[tokio::test(start_paused = true)]
async fn a_new_or_forced_deployment_a_service_scaled_to_zero_and_its_deletion_are_told_once() {
    for says in [
        replaced(1),
        json!({"desiredCount": 0, "deployments": [{"id": OWN, "status": "PRIMARY", "desiredCount": 0}]}),
        json!({"status": "DRAINING"}),
        json!({"deployments": [deployment("ecs-svc/2", "PRIMARY", 1)]}),
        json!({"deploymentController": {"type": "EXTERNAL"}, "deployments": [],
               "taskSets": [{"id": OWN, "status": "DRAINING"}]}),
    ] {
        assert_eq!(told((says.clone(), None), None).await, (1, 0), "{says}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rollback_takes_it_back() {
    assert_eq!(told((replaced(1), None), Some((json!({}), None))).await, (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_stuck_deployment_and_strange_answers_are_no_sign() {
    for says in [
        json!({}),
        replaced(0),
        json!({"deployments": []}),
        json!({"deployments": [], "desiredCount": 0}),
        json!({"status": null, "deployments": replaced(1)["deployments"]}),
    ] {
        assert_eq!(told((says.clone(), None), None).await, (0, 0), "{says}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_ecs_that_fails_changes_nothing() {
    for kind in [
        FaultKind::Refuse,
        FaultKind::Hang,
        FaultKind::Slow(Duration::from_secs(2)),
        FaultKind::Status(400),
        FaultKind::Status(403),
        FaultKind::Status(500),
        FaultKind::Garbage,
    ] {
        // Broken from the start, though it is replaced; and broken once it is told, though it was rolled back.
        assert_eq!(told((replaced(1), Some(kind)), None).await, (0, 0), "{kind:?}");
        let rolled_back = Some((json!({}), Some(kind)));
        assert_eq!(told((replaced(1), None), rolled_back).await, (1, 0), "{kind:?}");
    }
    let slow = Some(FaultKind::Slow(Duration::from_millis(300)));
    assert_eq!(told((replaced(1), slow), None).await, (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_spot_notice_drains_as_ever() {
    let busy = Does::Answers(response(200, "", ""));
    let played = Play::with(StandIn::sample(), &BUSY, &[busy])
        .play(|director| async move {
            director.stand_in.service_says(replaced(1));
            director.at(LOOKED).await;
            director
                .stand_in
                .announce_spot(Action::Terminate, Duration::from_secs(120));
            director.at(LOOKED + 30.0).await;
            director.sigterm().await;
        })
        .await;
    assert_eq!(played.code, Code::Drained, "{}", played.details());
}

const DAY: Duration = Duration::from_secs(86_400);

/// More wake-ups than this are a loop that does not wait.
const TOO_MANY: u32 = 10_000;

/// Counts how often a future is woken.
struct Counted<F>(Pin<Box<F>>, Arc<AtomicU32>);

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let before = self.1.fetch_add(1, Ordering::Relaxed);
        assert!(before < TOO_MANY, "it does not wait for anything");
        self.0.as_mut().poll(context)
    }
}

/// A place between 0 and 1, another one at each call.
fn share() -> f64 {
    static LAST: AtomicU32 = AtomicU32::new(1);
    let next = |last: u32| Some(last.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    f64::from(last.unwrap()) / f64::from(u32::MAX)
}

/// The AWS side of the stand-in's task, each with clients of its own.
async fn aws_of<const N: usize>(play: &Play) -> [Arc<Aws>; N] {
    let settings = Config::read(|_| None, BUSY.map(|(k, v)| (k.to_owned(), v.to_owned()))).unwrap();
    let metadata = TaskMetadata::new(play.network(), TMDS.parse().unwrap());
    let task = metadata.read().await.unwrap();
    [(); N].map(|()| Arc::new(Aws::new(settings.aws.clone(), play.network(), &task.identity).unwrap()))
}

/// What a sidecar without a notice shows.
fn calm() -> watch::Sender<Arc<Status>> {
    let policy = Config::read(|_| None, []).unwrap().policy;
    watch::Sender::new(Arc::new(Status {
        identity: Default::default(),
        watches: Vec::new(),
        unhealthy: None,
        report: Lifecycle::new(policy, None).report(),
        protection: None,
        superseded: None,
        notice: None,
        deadline: None,
        task: None,
    }))
}

#[tokio::test(start_paused = true)]
async fn while_nobody_wants_to_know_nothing_wakes_it() {
    let play = Play::new(&[], &[Does::Refuses]);
    let [aws] = aws_of(&play).await;
    let status = calm();
    let (protection, handle) =
        ProtectionLoop::new(play.network(), AGENT.parse().unwrap(), None, status.subscribe());
    tokio::spawn(protection.run());
    let questions = watch::Sender::new(None);
    let (mailbox, _messages) = mailbox::channel();
    let askers = Askers {
        protection: Some(handle.clone()),
        questions: questions.subscribe(),
    };
    let woken = Arc::new(AtomicU32::new(0));
    let watcher = superseded::watch(aws, askers, mailbox, share);
    let watcher = tokio::spawn(Counted(Box::pin(watcher), Arc::clone(&woken)));
    // How often it is woken in a day, and how many calls that brings.
    let day = || async {
        let before = (woken.load(Ordering::Relaxed), play.aws_calls().len());
        sleep(DAY).await;
        let after = (woken.load(Ordering::Relaxed), play.aws_calls().len());
        (after.0 - before.0, after.1 - before.1)
    };
    assert_eq!(day().await, (1, 0), "it is started");
    assert_eq!(day().await, (0, 0), "nothing is to be done");
    questions.send_replace(Some(tokio::time::Instant::now().into_std() + 2 * DAY));
    sleep(Duration::from_secs(100)).await;
    assert!(play.aws_calls().len() > 3, "{:?}", play.aws_calls());
    questions.send_replace(None);
    sleep(Duration::from_secs(100)).await;
    assert_eq!(day().await, (0, 0), "the question is answered");
    let name = LeaseName::parse("job").unwrap();
    let lease = handle.request(name.clone(), LeaseAction::Take(Duration::from_secs(600)));
    assert!(matches!(lease.await, Some(LeaseAnswer::Granted(_))));
    let before = play.aws_calls().len();
    sleep(Duration::from_secs(300)).await;
    assert!(play.aws_calls().len() - before >= 16, "a look every 30 s");
    let given_back = handle.request(name, LeaseAction::GiveBack).await;
    assert_eq!(given_back, Some(LeaseAnswer::GivenBack));
    sleep(Duration::from_secs(100)).await;
    assert_eq!(day().await, (0, 0), "the job is done");
    drop(status);
    let (woken_by_that, calls) = day().await;
    assert!(
        woken_by_that <= 2 && calls == 0,
        "no leases any more: {woken_by_that}"
    );
    drop(questions);
    assert!(tokio::time::timeout(DAY, watcher).await.is_ok(), "nobody can ask");
}

/// ECS lets an account read tasks, instances and services 100 times at once and 20 times a second each
/// (developer guide, *Request throttling for the Amazon ECS API*). This bucket is smaller, and for all of them.
const BURST: f64 = 50.0;
const SUSTAINED: f64 = 20.0;

/// How few tokens were ever left.
fn fewest_tokens(calls: &[f64]) -> f64 {
    let (mut tokens, mut fewest, mut last) = (BURST, BURST, 0.0);
    for at in calls {
        tokens = BURST.min(tokens + (at - last) * SUSTAINED) - 1.0;
        fewest = tokens.min(fewest);
        last = *at;
    }
    fewest
}

#[tokio::test(start_paused = true)]
async fn fifty_sidecars_whose_jobs_begin_together_stay_below_what_ecs_takes() {
    const SIDECARS: usize = 50;
    const LASTS: Duration = Duration::from_secs(300);
    let play = Play::new(&[], &[Does::Refuses]);
    play.stand_in.service_says(replaced(1));
    let questions = watch::Sender::new(None);
    let mut told = Vec::new();
    let mut watchers = tokio::task::JoinSet::new();
    for aws in aws_of::<SIDECARS>(&play).await {
        let (mailbox, messages) = mailbox::channel();
        let askers = Askers {
            protection: None,
            questions: questions.subscribe(),
        };
        watchers.spawn(superseded::watch(aws, askers, mailbox, share));
        told.push(messages);
    }
    sleep(DAY).await;
    questions.send_replace(Some(tokio::time::Instant::now().into_std() + 2 * DAY));
    sleep(LASTS).await;
    for messages in &mut told {
        let mut holds = 0;
        while let Ok(message) = messages.try_recv() {
            holds += u32::from(matches!(message, mailbox::Message::Superseded(Some(_))));
        }
        assert_eq!(holds, 1, "each is told once");
    }
    let mut calls = play.aws_calls();
    calls.sort_by(f64::total_cmp);
    let fewest = fewest_tokens(&calls);
    assert!(fewest > 0.0, "{fewest} tokens were left");
    // One for the task itself; then the instance and the service at each look.
    let looks = LASTS.as_secs() as usize / 30;
    let most = SIDECARS * (1 + 2 * (looks * 11 / 10 + 1));
    assert!(calls.len() <= most, "{} calls, {most} at most", calls.len());
}
