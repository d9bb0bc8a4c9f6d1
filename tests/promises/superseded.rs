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
use ecs_prestop::core::notice::{Action, Notice, Reason};
use ecs_prestop::core::superseded::Superseded;
use ecs_prestop::sidecar::aws::Aws;
use ecs_prestop::sidecar::mailbox::{self, Message};
use ecs_prestop::sidecar::protection::{LeaseAction, ProtectionLoop};
use ecs_prestop::sidecar::status::Status;
use ecs_prestop::sidecar::superseded::{self, Askers};
use ecs_prestop::sidecar::task_metadata::TaskMetadata;
use ecs_prestop::tools::simulate::faults::{Fault, FaultKind, FaultTarget};
use ecs_prestop::tools::simulate::{ServiceChange, StandIn};
use proptest::prelude::*;
use rustix::process::Signal;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::memory::{AGENT, Does, Log, Play, TMDS, response};
use crate::process::{PATIENCE, Sidecar, await_that};
use crate::stand_in::simulate;

const BUSY: [(&str, &str); 6] = [
    ("PRESTOP_DRAIN", "sleep 1s"),
    ("PRESTOP_PROTECT", "true"),
    ("PRESTOP_BUSY_URL", "http://app:8080/busy"),
    ("AWS_ENDPOINT_URL", "http://169.254.170.9"),
    ("AWS_ACCESS_KEY_ID", "none"),
    ("AWS_SECRET_ACCESS_KEY", "none"),
];

/// After three looks at least.
const LOOKED: f64 = 140.0;

/// The app is busy all the time; how often it was told that ECS wants the task gone, and that it does not.
async fn told(first: impl Fn(&StandIn), later: impl Fn(&StandIn)) -> (usize, usize) {
    let log = Log::capture();
    let busy = Does::Answers(response(200, "", ""));
    let played = Play::with(StandIn::sample(), &BUSY, &[busy])
        .play(|director| async move {
            first(&director.stand_in);
            director.at(LOOKED).await;
            assert!(director.stand_in.protected(), "the lease is renewed");
            later(&director.stand_in);
            director.at(2.0 * LOOKED).await;
            assert!(director.stand_in.protected(), "the lease is renewed");
            director.sigterm().await;
        })
        .await;
    assert_eq!(played.code, Code::Drained, "{}", played.details());
    (log.with("holds=true").len(), log.with("holds=false").len())
}

fn broken(ecs: &StandIn, kind: FaultKind) {
    ecs.break_down(Fault {
        target: FaultTarget::Aws,
        kind,
        lasts: None,
        requests: None,
    });
}

fn nothing(_: &StandIn) {}

#[tokio::test(start_paused = true)]
async fn whatever_wants_the_task_gone_is_told_once_and_what_does_not_is_not() {
    use ServiceChange as Change;
    for (name, change) in Change::ALL {
        let told = told(|ecs| ecs.change_service(change), nothing).await;
        let expected = match change {
            Change::Forced
            | Change::Revision
            | Change::Replaced
            | Change::ScaledToZero
            | Change::Deleted
            | Change::AfterTheShift
            | Change::TaskSetDrains => 1,
            // A rollback, its own deployment; a new one that does not run, or has failed; blue/green and task sets
            // while both serve; a task of no service; an answer that cannot be.
            Change::None
            | Change::Stuck
            | Change::Failed
            | Change::BeforeTheShift
            | Change::AnotherTaskSet
            | Change::Standalone
            | Change::NothingListed => 0,
        };
        assert_eq!(told, (expected, 0), "{name}");
    }
    assert_eq!(told(|ecs| ecs.drain_instance(true), nothing).await, (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_rollback_takes_it_back_and_an_answer_that_cannot_be_does_not() {
    use ServiceChange as Change;
    let replaced = |ecs: &StandIn| ecs.change_service(Change::Forced);
    // By hand, or by the circuit breaker: the deployment of this task is PRIMARY again.
    let rolled_back = |ecs: &StandIn| ecs.change_service(Change::None);
    assert_eq!(told(replaced, rolled_back).await, (1, 1));
    // The circuit breaker without a rollback.
    let failed = |ecs: &StandIn| ecs.change_service(Change::Failed);
    assert_eq!(told(replaced, failed).await, (1, 1));
    let lies = |ecs: &StandIn| ecs.change_service(Change::NothingListed);
    assert_eq!(told(replaced, lies).await, (1, 0));
    // Blue/green, from before the shift to after it.
    let before = |ecs: &StandIn| ecs.change_service(Change::BeforeTheShift);
    let after = |ecs: &StandIn| ecs.change_service(Change::AfterTheShift);
    assert_eq!(told(before, after).await, (1, 0));
    // An instance may be made ACTIVE again.
    let drains = |ecs: &StandIn| ecs.drain_instance(true);
    let active = |ecs: &StandIn| ecs.drain_instance(false);
    assert_eq!(told(drains, active).await, (1, 1));
}

#[tokio::test(start_paused = true)]
async fn strange_answers_are_no_sign() {
    for says in [
        json!({"deployments": [], "desiredCount": 0}),
        json!({"status": null}),
        json!({"deploymentController": {"type": "SOMETHING_NEW"}}),
        json!({"deploymentConfiguration": {"strategy": "SOMETHING_NEW"}}),
    ] {
        let strange = |ecs: &StandIn| {
            ecs.change_service(ServiceChange::Forced);
            ecs.service_says(says.clone());
        };
        assert_eq!(told(strange, nothing).await, (0, 0), "{says}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_ecs_that_fails_changes_nothing() {
    let replaced = |ecs: &StandIn| ecs.change_service(ServiceChange::Forced);
    for kind in [
        FaultKind::Refuse,
        FaultKind::Hang,
        FaultKind::Slow(Duration::from_secs(2)),
        FaultKind::Status(400),
        FaultKind::Status(403),
        FaultKind::Status(500),
        FaultKind::Error(403),
        FaultKind::Error(429),
        FaultKind::Error(500),
        FaultKind::Garbage,
    ] {
        // Broken from the start, though it is replaced; and broken once it is told, though it was rolled back.
        let broken_first = |ecs: &StandIn| {
            replaced(ecs);
            broken(ecs, kind);
        };
        assert_eq!(told(broken_first, nothing).await, (0, 0), "{kind:?}");
        let rolled_back = |ecs: &StandIn| {
            ecs.change_service(ServiceChange::None);
            broken(ecs, kind);
        };
        assert_eq!(told(replaced, rolled_back).await, (1, 0), "{kind:?}");
    }
    let slow = |ecs: &StandIn| {
        replaced(ecs);
        broken(ecs, FaultKind::Slow(Duration::from_millis(300)));
    };
    assert_eq!(told(slow, nothing).await, (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_look_that_ecs_denies_is_told_once_with_the_policy_that_allows_it() {
    let log = Log::capture();
    let busy = Does::Answers(response(200, "", ""));
    let played = Play::with(StandIn::sample(), &BUSY, &[busy])
        .play(|director| async move {
            broken(&director.stand_in, FaultKind::Error(403));
            director.at(10.0 * LOOKED).await;
            director.sigterm().await;
        })
        .await;
    assert_eq!(played.code, Code::Drained, "{}", played.details());
    let told = log.with("watch=\"superseded\"");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].starts_with("WARN") && told[0].contains("sidecar-superseded.json"),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_spot_notice_drains_as_ever() {
    let busy = Does::Answers(response(200, "", ""));
    let played = Play::with(StandIn::sample(), &BUSY, &[busy])
        .play(|director| async move {
            director.stand_in.change_service(ServiceChange::Forced);
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
    watch::Sender::new(Arc::new(Status::new(Lifecycle::new(policy, None).report())))
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
    play.stand_in.change_service(ServiceChange::Forced);
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
            holds += u32::from(matches!(message, Message::Superseded(Some(_))));
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

/// What may happen to a task, a while after what happened before.
#[derive(Clone, Copy, Debug)]
enum Happens {
    Superseded(bool),
    Sigterm,
    Manual,
    Spot(u64),
    Ack,
}

fn happenings() -> impl Strategy<Value = Vec<(u64, Happens)>> {
    let happens = prop_oneof![
        5 => any::<bool>().prop_map(Happens::Superseded),
        1 => Just(Happens::Sigterm),
        1 => Just(Happens::Manual),
        1 => (1..=130_u64).prop_map(Happens::Spot),
        1 => Just(Happens::Ack),
    ];
    prop::collection::vec((0..40_u64, happens), 1..12)
}

/// What a task under a lease does about them: its end, and everything in between with its time.
fn does(happenings: &[(u64, Happens)], with_superseded: bool) -> String {
    let settings = [
        ("PRESTOP_DRAIN", "ack"),
        ("PRESTOP_PROTECT", "true"),
        ("PRESTOP_WATCH", "none"),
        ("PRESTOP_BUSY_URL", "http://app:8080/busy"),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let busy = Does::Answers(response(200, "", ""));
        let played = Play::with(StandIn::sample(), &settings, &[busy])
            .play(|director| async move {
                // The task is known and the lease is taken.
                director.at(15.0).await;
                for (after, happens) in happenings {
                    sleep(Duration::from_secs(*after)).await;
                    let now = tokio::time::Instant::now().into_std();
                    match happens {
                        Happens::Superseded(_) if !with_superseded => {}
                        Happens::Superseded(holds) => {
                            let why = "a property says so";
                            let holds = holds.then_some(Superseded { since: now, why });
                            director.tell(Message::Superseded(holds)).await;
                        }
                        Happens::Sigterm => director.sigterm().await,
                        Happens::Manual => director.manual().await,
                        Happens::Spot(left) => {
                            let end = now + Duration::from_secs(*left);
                            let notice = Notice::host_ends_at(Reason::SpotInterruption, end);
                            director.tell(Message::Notice(notice)).await;
                        }
                        Happens::Ack => director.tell(Message::Ack(None)).await,
                    }
                }
                // Until then the lease is renewed, whatever ECS wants.
                assert!(director.stand_in.protected() || happenings.iter().any(|(_, h)| ends(h)));
                sleep(Duration::from_secs(600)).await;
                director.sigterm().await;
            })
            .await;
        let report = serde_json::to_string(&played.ending.report).unwrap();
        format!("{:?} at {:.2}: {report}", played.code, played.ended_at)
    })
}

fn ends(happens: &Happens) -> bool {
    !matches!(happens, Happens::Superseded(_) | Happens::Ack)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_starts_no_drain_and_moves_no_deadline_whenever_it_comes_and_goes(happenings in happenings()) {
        prop_assert_eq!(does(&happenings, true), does(&happenings, false));
    }
}

/// How long the job lasts at least: three times the stop timeout.
const JOB: Duration = Duration::from_secs(3 * 4);

/// A worker takes a lease for its job, and then ECS wants the task gone: what the real binary does about it, to its
/// end. One of these lasts two looks.
fn sees_its_job_through(change: &str) {
    let ecs = simulate(&[]);
    let at = ecs.address;
    let mut sidecar = Sidecar::start(&[
        (
            "ECS_CONTAINER_METADATA_URI_V4",
            &format!("http://{at}/v4/prestop"),
        ),
        ("ECS_AGENT_URI", &format!("http://{at}/api/prestop")),
        ("AWS_ENDPOINT_URL", &format!("http://{at}")),
        ("AWS_ACCESS_KEY_ID", "none"),
        ("AWS_SECRET_ACCESS_KEY", "none"),
        ("PRESTOP_PROTECT", "true"),
        ("PRESTOP_WATCH", "superseded"),
        ("PRESTOP_DRAIN", "ack"),
        ("PRESTOP_STOP_TIMEOUT", "4s"),
    ]);
    await_that("it knows its task", || {
        sidecar.get("/status").1.contains("\"task_arn\":\"arn:")
    });
    let looks = || {
        ecs.get("/_simulate/")["aws"]["calls"]["DescribeServices"]
            .as_u64()
            .unwrap_or(0)
    };
    let lease = "/protect/job-7?for=5m";
    assert_eq!(sidecar.ask("PUT", lease).0, 200, "{change}");
    let began = std::time::Instant::now();
    let before = looks();
    assert_eq!(ecs.control(change).0, 200);
    // The job goes on, and somebody waits for the end of its like.
    let told = loop {
        let (status, told) = sidecar.get("/notice?superseded=true&wait=60s");
        if status == 200 {
            break told;
        }
        assert!(began.elapsed() < 3 * PATIENCE, "{change}: nobody was told");
    };
    assert!(told.contains("\"event\":\"superseded\""), "{change}: {told}");
    assert!(looks() - before <= 2, "{change}: told within two looks");
    assert_eq!(
        sidecar.ask("PUT", "/protect/job-8?for=5m").0,
        409,
        "{change}: no new lease"
    );
    assert_eq!(sidecar.ask("PUT", lease).0, 200, "{change}: the job's is renewed");
    assert_eq!(sidecar.get("/notice").0, 204, "{change}: it is no notice");
    assert_eq!(
        sidecar.post("/drained", "").0,
        409,
        "{change}: and nothing is drained"
    );
    assert_eq!(sidecar.get("/ready").0, 200, "{change}: it serves on");
    std::thread::sleep(JOB.saturating_sub(began.elapsed()));
    let protected = || ecs.get("/_simulate/")["protected"] == true;
    assert!(protected(), "{change}: until the job is done");
    assert_eq!(sidecar.ask("DELETE", "/protect/job-7").0, 204, "{change}");
    await_that("the protection has ended", || !protected());
    // Now ECS may stop the task, and the worker, which waits for a notice, drains.
    sidecar.process.signal(Signal::TERM);
    let (status, notice) = sidecar.get("/notice?wait=60s");
    assert!(status == 200 && notice.contains("sigterm"), "{change}: {notice}");
    assert_eq!(sidecar.post("/drained", "").0, 204, "{change}");
    let exit = sidecar.await_event("exit");
    assert_eq!(sidecar.process.wait(), Some(0), "{change}: {exit}");
    assert_eq!(exit["reasons"], json!(["sigterm"]), "{change}: {exit}");
}

#[test]
fn the_real_sidecar_sees_a_job_through_that_is_longer_than_three_stop_timeouts() {
    let plays = [
        "service?change=forced",
        "service?change=revision",
        "service?change=scaled-to-zero",
        "instance?status=DRAINING",
    ]
    .map(|change| std::thread::spawn(|| sees_its_job_through(change)));
    for play in plays {
        play.join().unwrap();
    }
}
