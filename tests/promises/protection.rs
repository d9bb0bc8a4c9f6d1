//! Task protection: leases, ECS's agreement, and what happens when it does not agree.

use std::sync::Arc;
use std::time::Duration;

use ecs_prestop::config::Config;
use ecs_prestop::core::leases::{AgentAnswer, LeaseAnswer, LeaseName};
use ecs_prestop::core::lifecycle::{Code, Lifecycle, ShutdownState};
use ecs_prestop::core::notice::{Reason, ToldNotice};
use ecs_prestop::sidecar::mailbox::Message;
use ecs_prestop::sidecar::protection::{LeaseAction, ProtectionHandle, ProtectionLoop};
use ecs_prestop::sidecar::status::Status;
use ecs_prestop::tools::simulate::StandIn;
use ecs_prestop::tools::simulate::faults::{Fault, FaultKind, FaultTarget};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::memory::{AGENT, Does, Play, response};
use crate::process::{Sidecar, await_that, request};
use crate::stand_in::{Simulate, simulate};

const HOUR: Duration = Duration::from_secs(3600);

/// The loop beside a sidecar that only has a status.
struct Scene {
    handle: ProtectionHandle,
    stand_in: StandIn,
    status: watch::Sender<Arc<Status>>,
    start: Instant,
    _loop: JoinSet<()>,
}

impl Scene {
    fn new() -> Scene {
        let play = Play::new(&[], &[Does::Refuses]);
        let policy = Config::read(|_| None, []).unwrap().policy;
        let status = watch::Sender::new(Arc::new(Status::new(Lifecycle::new(policy, None).report())));
        let (protection, handle) =
            ProtectionLoop::new(play.network(), AGENT.parse().unwrap(), None, status.subscribe());
        let mut task = JoinSet::new();
        task.spawn(protection.run());
        Scene {
            handle,
            stand_in: play.stand_in,
            status,
            start: Instant::now(),
            _loop: task,
        }
    }

    async fn take(&self, name: &str, length: Duration) -> LeaseAnswer {
        let name = LeaseName::parse(name).unwrap();
        self.handle
            .request(name, LeaseAction::Take(length))
            .await
            .unwrap()
    }

    async fn give_back(&self, name: &str) -> LeaseAnswer {
        let name = LeaseName::parse(name).unwrap();
        self.handle.request(name, LeaseAction::GiveBack).await.unwrap()
    }

    fn breaks(&self, kind: FaultKind, requests: Option<u32>) {
        let (target, lasts) = (FaultTarget::Agent, None);
        self.stand_in.break_down(Fault {
            target,
            kind,
            lasts,
            requests,
        });
    }

    fn mends(&self) {
        let fault = (FaultTarget::Agent, FaultKind::Status(500));
        self.stand_in.break_down(Fault {
            target: fault.0,
            kind: fault.1,
            lasts: None,
            requests: Some(0),
        });
    }

    fn stop(&self, state: ShutdownState) {
        self.status.send_modify(|status| {
            let status = Arc::make_mut(status);
            status.notice = Some(ToldNotice {
                reason: Reason::Manual,
                action: None,
            });
            status.report.state = state;
        });
    }

    fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}

fn refusal(answer: LeaseAnswer) -> AgentAnswer {
    match answer {
        LeaseAnswer::Refused(said) => said,
        other => panic!("refused, not {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_48_hours_is_protected_to_its_end_by_hours_and_not_beyond() {
    let scene = Scene::new();
    assert!(matches!(
        scene.take("film", 48 * HOUR).await,
        LeaseAnswer::Granted(_)
    ));
    for minute in 0..48 * 60 {
        assert!(scene.stand_in.protected(), "in minute {minute}");
        sleep(HOUR / 60).await;
    }
    sleep(Duration::from_secs(2)).await;
    assert!(!scene.stand_in.protected(), "the lease has ended");
    sleep(HOUR).await;
    let (done, asked) = scene.stand_in.protection_calls();
    assert_eq!(
        (done, asked),
        (72, 72),
        "one in 40 minutes; the last agreement ends with the lease"
    );
    assert!(!scene.handle.report.borrow().protected);
}

#[tokio::test(start_paused = true)]
async fn three_hundred_parallel_workers_are_one_call_and_the_last_one_ends_it() {
    let scene = Arc::new(Scene::new());
    scene.breaks(FaultKind::Slow(Duration::from_millis(300)), None);
    let mut workers = JoinSet::new();
    for i in 0..300 {
        let scene = Arc::clone(&scene);
        workers.spawn(async move {
            let name = format!("job-{i}");
            let answer = scene.take(&name, HOUR).await;
            let granted = matches!(answer, LeaseAnswer::Granted(_));
            assert!(granted || answer == LeaseAnswer::TooMany, "{answer:?}");
            assert!(
                !granted || scene.stand_in.protected(),
                "granted and not protected"
            );
            sleep(Duration::from_secs(60 + i)).await;
            if granted {
                assert!(scene.stand_in.protected(), "while {name} is worked on");
                assert_eq!(scene.give_back(&name).await, LeaseAnswer::GivenBack);
            }
            granted
        });
    }
    let granted = workers.join_all().await.into_iter().filter(|granted| *granted);
    assert_eq!(granted.count(), 256);
    sleep(Duration::from_secs(1)).await;
    assert!(!scene.stand_in.protected());
    assert_eq!(scene.stand_in.protection_calls(), (2, 2));
    assert_eq!(scene.handle.report.borrow().leases, []);
}

#[tokio::test(start_paused = true)]
async fn failure_error_status_silence_and_garbage_are_told_apart_and_in_time() {
    for (kind, outcome, tries) in [
        (FaultKind::Failure, "failure", 1),
        (FaultKind::Error(403), "error", 1),
        (FaultKind::Error(400), "error", 1),
        (FaultKind::Error(500), "error", 3),
        (FaultKind::Status(404), "status", 1),
        (FaultKind::Status(429), "status", 3),
        (FaultKind::Status(503), "status", 3),
        (FaultKind::Hang, "silent", 3),
        (FaultKind::Slow(Duration::from_secs(6)), "silent", 3),
        (FaultKind::Reset, "silent", 3),
        (FaultKind::Refuse, "silent", 3),
        (FaultKind::Garbage, "garbage", 3),
        (FaultKind::Huge, "garbage", 3),
    ] {
        let scene = Scene::new();
        scene.breaks(kind, None);
        let said = refusal(scene.take("job", HOUR).await);
        assert_eq!(said.outcome(), outcome, "{kind:?}: {said}");
        assert!(scene.seconds() <= 16.5, "{kind:?}: after {} s", scene.seconds());
        sleep(Duration::from_millis(1)).await;
        let report = Arc::clone(&scene.handle.report.borrow());
        let calls = report.calls.by_outcome().into_iter();
        let calls = calls
            .filter(|(name, _)| *name == outcome)
            .map(|(_, n)| n)
            .sum::<u64>();
        // The release that follows lost answers may have failed by now, too.
        let expected = if tries == 1 { 1..=1 } else { tries..=tries + 1_u64 };
        assert!(expected.contains(&calls), "{kind:?}: {calls} calls");
        assert!(report.trouble.is_some(), "{kind:?}: the body of /healthz says so");
        assert_eq!(report.leases, [], "{kind:?}: the lease is not kept");
        scene.mends();
        sleep(Duration::from_secs(70)).await;
        assert!(
            !scene.stand_in.protected(),
            "{kind:?}: what was done in secret is undone"
        );
        assert!(
            matches!(scene.take("job", HOUR).await, LeaseAnswer::Granted(_)),
            "{kind:?}: and then it works"
        );
        assert_eq!(scene.handle.report.borrow().trouble, None, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_takes_all_of_its_time_for_ecs_is_waited_for() {
    let scene = Scene::new();
    scene.breaks(FaultKind::Slow(Duration::from_millis(4200)), None);
    let answer = scene.take("job", HOUR).await;
    assert!(matches!(answer, LeaseAnswer::Granted(_)), "{answer:?}");
    assert_eq!(scene.stand_in.protection_calls(), (1, 1), "one call is enough");
}

#[tokio::test(start_paused = true)]
async fn a_long_lease_does_not_count_by_what_ecs_agreed_to_for_a_short_one() {
    for (long, agreed) in [(HOUR / 2, HOUR / 2), (2 * HOUR, HOUR)] {
        let scene = Scene::new();
        assert!(matches!(
            scene.take("short", HOUR / 60).await,
            LeaseAnswer::Granted(_)
        ));
        match scene.take("long", long).await {
            LeaseAnswer::Granted(grant) => {
                let left = grant.agreement.until - scene.start.into_std();
                assert!(
                    left >= agreed,
                    "a lease of {long:?} counts, protected for {left:?}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_bad_answer_is_overcome_before_the_worker_notices() {
    for kind in [
        FaultKind::Status(429),
        FaultKind::Error(500),
        FaultKind::Reset,
        FaultKind::Garbage,
    ] {
        let scene = Scene::new();
        scene.breaks(kind, Some(2));
        assert!(
            matches!(scene.take("job", HOUR).await, LeaseAnswer::Granted(_)),
            "{kind:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_notice_ends_the_giving_of_leases_and_the_drain_ends_the_protection() {
    let scene = Scene::new();
    scene.take("job", HOUR).await;
    scene.stop(ShutdownState::Draining);
    assert_eq!(scene.take("other", HOUR).await, LeaseAnswer::Stopping);
    assert_eq!(scene.take("job", HOUR).await, LeaseAnswer::Stopping);
    sleep(Duration::from_secs(60)).await;
    assert!(scene.stand_in.protected(), "the job is still worked on");
    scene.stop(ShutdownState::Waiting);
    sleep(Duration::from_millis(10)).await;
    assert!(!scene.stand_in.protected(), "drained");
    assert_eq!(scene.take("job", HOUR).await, LeaseAnswer::Stopping);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_goes_away_while_ecs_is_asked_holds_no_lease() {
    let scene = Scene::new();
    scene.breaks(FaultKind::Slow(Duration::from_secs(1)), Some(1));
    let impatient = tokio::time::timeout(Duration::from_millis(500), scene.take("job", HOUR));
    assert!(impatient.await.is_err());
    sleep(Duration::from_secs(2)).await;
    assert!(!scene.stand_in.protected());
    assert_eq!(scene.stand_in.protection_calls(), (2, 2));
}

const BUSY: [(&str, &str); 4] = [
    ("PRESTOP_DRAIN", "ack"),
    ("PRESTOP_WATCH", "none"),
    ("PRESTOP_PROTECT", "true"),
    ("PRESTOP_BUSY_URL", "http://app:8080/busy"),
];

fn says(status: u16) -> Does {
    Does::Answers(response(status, "", ""))
}

#[tokio::test(start_paused = true)]
async fn the_busy_url_protects_the_task_for_49_hours_and_until_the_drain() {
    let stand_in = StandIn::sample();
    let played = Play::with(stand_in.clone(), &BUSY, &[says(200)])
        .play(|director| async move {
            for minute in 1..49 * 60 {
                director.at(60.0 * f64::from(minute)).await;
                assert!(director.stand_in.protected(), "in minute {minute}");
            }
            director.manual().await;
            director.at(49.0 * 3600.0).await;
            assert!(director.stand_in.protected(), "not drained yet");
            director.tell(Message::Ack(None)).await;
            director.at(49.0 * 3600.0 + 1.0).await;
            assert!(!director.stand_in.protected(), "drained");
            director.sigterm().await;
        })
        .await;
    assert_eq!(played.code, Code::Drained);
    assert!(
        played
            .requests
            .iter()
            .all(|request| request.line() == "GET /busy HTTP/1.1")
    );
    let (done, asked) = stand_in.protection_calls();
    assert_eq!(done, asked);
    assert!(done < 1000, "{done} calls in 49 hours: one in three minutes");
}

#[tokio::test(start_paused = true)]
async fn a_busy_url_that_fails_changes_nothing_and_not_busy_gives_back() {
    for broken in [says(500), says(301), Does::Hangs, Does::Closes] {
        let script = [
            says(204),
            says(200),
            broken.clone(),
            broken.clone(),
            broken.clone(),
            says(204),
        ];
        let played = Play::new(&BUSY, &script)
            .play(|director| async move {
                director.at(5.0).await;
                assert!(!director.stand_in.protected(), "not busy");
                for second in [11.0, 21.0, 31.0, 45.0] {
                    director.at(second).await;
                    assert!(director.stand_in.protected(), "{broken:?}: after {second} s");
                }
                director.at(60.0).await;
                assert!(!director.stand_in.protected(), "not busy any more");
                director.sigterm().await;
                director.tell(Message::Ack(None)).await;
            })
            .await;
        assert_eq!(played.code, Code::Drained);
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_hangs_delays_neither_the_drain_nor_its_end() {
    for kind in [
        FaultKind::Hang,
        FaultKind::Refuse,
        FaultKind::Garbage,
        FaultKind::Huge,
        FaultKind::Failure,
    ] {
        let stand_in = StandIn::sample();
        let (target, lasts, requests) = (FaultTarget::Agent, None, None);
        stand_in.break_down(Fault {
            target,
            kind,
            lasts,
            requests,
        });
        let drain = [("PRESTOP_DRAIN", "POST http://app:8080/drain")];
        let settings: Vec<(&str, &str)> = BUSY[1..].iter().chain(&drain).copied().collect();
        let played = Play::with(stand_in, &settings, &[says(200)]).sigterm_at_2().await;
        assert_eq!((played.code, played.ended_at), (Code::Drained, 2.0), "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_that_leaves_by_itself_ends_the_protection_first_or_gives_up_in_time() {
    let settings: Vec<(&str, &str)> = BUSY
        .into_iter()
        .chain([("PRESTOP_AFTER_DRAIN", "exit")])
        .collect();
    for (fault, protected, last_s) in [(None, false, 31.0), (Some(FaultKind::Hang), true, 42.0)] {
        let stand_in = StandIn::sample();
        let played = Play::with(stand_in.clone(), &settings, &[says(200)])
            .play(|director| async move {
                director.at(30.0).await;
                assert!(director.stand_in.protected());
                if let Some(kind) = fault {
                    let (target, lasts, requests) = (FaultTarget::Agent, None, None);
                    director.stand_in.break_down(Fault {
                        target,
                        kind,
                        lasts,
                        requests,
                    });
                }
                director.manual().await;
                director.tell(Message::Ack(None)).await;
            })
            .await;
        assert_eq!(played.code, Code::Drained, "{fault:?}");
        assert!(played.ended_at <= last_s, "{fault:?}: {} s", played.ended_at);
        assert_eq!(stand_in.protected(), protected, "{fault:?}");
    }
}

fn json(answer: &str) -> Value {
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).unwrap_or_else(|why| panic!("{why}: {answer}"))
}

fn protected(ecs: &Simulate) -> bool {
    ecs.get("/_simulate/")["protected"] == true
}

fn beside(ecs: &Simulate) -> Sidecar {
    Sidecar::start(&[
        ("PRESTOP_DRAIN", "ack"),
        ("PRESTOP_DRAIN_TOKEN", "s3cret"),
        ("PRESTOP_PROTECT", "true"),
        ("ECS_AGENT_URI", &format!("http://{}/api/prestop", ecs.address)),
    ])
}

#[test]
fn over_http_a_lease_is_had_renewed_seen_and_given_back() {
    let ecs = simulate(&[]);
    let sidecar = beside(&ecs);
    let before = Timestamp::now();
    let (status, body) = sidecar.ask("PUT", "/protect/job-7?for=10m");
    assert_eq!(status, 200, "{body}");
    let lease = json(&body);
    assert_eq!(lease["name"], "job-7");
    let end = |of: &str| lease[of].as_str().unwrap().parse::<Timestamp>().unwrap();
    let from = end("until") - SignedDuration::from_mins(10);
    // It has whole seconds only.
    assert!(
        (before - SignedDuration::from_secs(1)..=Timestamp::now()).contains(&from),
        "asked at {before}: {body}"
    );
    assert!(end("protected_until") >= end("until"), "{body}");
    assert!(protected(&ecs));
    let state = ecs.get("/api/prestop/task-protection/v1/state");
    assert_eq!(state["protection"]["ProtectionEnabled"], true);
    assert_eq!(sidecar.ask("PUT", "/protect/job-7?for=5m").0, 200, "renewed");
    let report = json(&sidecar.get("/status").1)["protection"].clone();
    assert_eq!(report["protected"], true);
    assert_eq!(report["leases"][0]["name"], "job-7");
    assert_eq!(report["calls"]["agreed"], 1);
    let metrics = sidecar.get("/metrics").1;
    for line in [
        "prestop_protected 1",
        "prestop_protection_leases 1",
        "prestop_protection_calls_total{outcome=\"agreed\"} 1",
        "prestop_protection_calls_total{outcome=\"silent\"} 0",
        "prestop_busy_url_failures_total 0",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    assert_eq!(sidecar.ask("DELETE", "/protect/job-7").0, 204);
    assert_eq!(sidecar.ask("DELETE", "/protect/job-7").0, 404);
    await_that("the protection has ended", || !protected(&ecs));
}

#[test]
fn over_http_what_is_wrong_is_400_what_ecs_refuses_502_and_a_silent_agent_504() {
    let ecs = simulate(&[]);
    let mut sidecar = beside(&ecs);
    let long = format!("/protect/{}?for=1m", "n".repeat(129));
    for path in [
        "/protect/job",
        "/protect/job?for=",
        "/protect/job?for=0s",
        "/protect/job?for=49h",
        "/protect/job?for=soon",
        "/protect/?for=1m",
        "/protect/a/b?for=1m",
        &long,
    ] {
        let (status, body) = sidecar.ask("PUT", path);
        assert_eq!(status, 400, "{path}: {body}");
    }
    let (status, body) = sidecar.ask("POST", "/protect/job?for=1m");
    assert!(status == 405 && body.contains("allow: PUT, DELETE"), "{body}");
    for (fault, status, part) in [
        ("failure", 502, "DEPLOYMENT_BLOCKED"),
        (
            "error&status=403",
            502,
            "task-definitions/iam/sidecar-protect.json",
        ),
        ("status&status=500", 502, "HTTP 500"),
        ("garbage", 502, "makes no sense"),
        ("reset", 504, "does not answer"),
    ] {
        assert_eq!(ecs.control(&format!("fault?target=agent&kind={fault}")).0, 200);
        // The one before holds for a second.
        await_that("ECS is asked again", || {
            let (got, body) = sidecar.ask("PUT", "/protect/job?for=10m");
            got == status && body.contains(part)
        });
        let (code, health) = sidecar.get("/healthz");
        assert!(
            code == 200 && health.contains("protection: task protection fails"),
            "it can drain all the same: {health}"
        );
    }
    assert_eq!(ecs.ask("DELETE", "/_simulate/fault", "").0, 200);
    await_that("all is well again", || {
        sidecar.ask("PUT", "/protect/job?for=10m").0 == 200
    });
    assert_eq!(sidecar.get("/healthz").0, 200);
    assert_eq!(sidecar.post("/drain", "Authorization: Bearer s3cret\r\n").0, 202);
    sidecar.await_event("notice");
    let (status, body) = sidecar.ask("PUT", "/protect/other?for=10m");
    assert!(status == 409 && body.contains("no other job"), "{body}");
    assert!(protected(&ecs), "until it is drained");
    assert_eq!(sidecar.post("/drained", "").0, 204);
    await_that("the protection has ended", || !protected(&ecs));
    assert_eq!(sidecar.stop(), Some(0));
}

#[test]
fn over_http_a_hundred_clients_at_once_are_one_call() {
    let ecs = simulate(&[]);
    assert_eq!(ecs.control("fault?target=agent&kind=slow&delay=500ms").0, 200);
    let sidecar = beside(&ecs);
    let address = sidecar.address;
    let clients: Vec<_> = (0..100)
        .map(|i| {
            let head = format!(
                "PUT /protect/job-{i}?for=10m HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            );
            std::thread::spawn(move || request(address, &head).0)
        })
        .collect();
    let statuses: Vec<u16> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    assert_eq!(statuses, [200; 100]);
    let report = json(&sidecar.get("/status").1)["protection"].clone();
    assert_eq!(
        (
            &report["calls"]["agreed"],
            report["leases"].as_array().unwrap().len()
        ),
        (&1.into(), 100)
    );
}

#[test]
fn over_http_the_257th_lease_is_429() {
    let ecs = simulate(&[]);
    let sidecar = beside(&ecs);
    for i in 0..256 {
        assert_eq!(sidecar.ask("PUT", &format!("/protect/job-{i}?for=10m")).0, 200);
    }
    let (status, body) = sidecar.ask("PUT", "/protect/one-more?for=10m");
    assert!(status == 429 && body.contains("256 leases"), "{body}");
    assert_eq!(sidecar.ask("PUT", "/protect/job-0?for=5m").0, 200, "a renewal");
    assert_eq!(
        json(&sidecar.get("/status").1)["protection"]["calls"]["agreed"],
        1
    );
}

#[test]
fn without_the_setting_or_without_ecs_there_are_no_leases() {
    let sidecar = Sidecar::start(&[("PRESTOP_DRAIN", "ack")]);
    assert_eq!(sidecar.ask("PUT", "/protect/job?for=10m").0, 404);
    assert!(!sidecar.get("/metrics").1.contains("prestop_protected"));
    let mut sidecar = Sidecar::start(&[
        ("PRESTOP_DRAIN", "ack"),
        ("PRESTOP_STOP_TIMEOUT", "2s"),
        ("PRESTOP_PROTECT", "true"),
    ]);
    let (status, body) = sidecar.ask("PUT", "/protect/job?for=10m");
    assert!(status == 404 && body.contains("ECS_AGENT_URI"), "{body}");
    sidecar.stop();
    let said = sidecar
        .events
        .iter()
        .filter(|event| event["watch"] == "protection");
    assert_eq!(said.count(), 1, "said once");
}
