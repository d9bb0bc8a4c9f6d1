//! A task with a lease is told that ECS wants it gone, and never falsely; nothing of a shutdown changes.
//!
//! The real SDK against the stand-in's API, in memory and under a paused clock.

use std::time::Duration;

use ecs_prestop::core::lifecycle::Code;
use ecs_prestop::core::notice::Action;
use ecs_prestop::tools::simulate::StandIn;
use ecs_prestop::tools::simulate::faults::{Fault, FaultKind, FaultTarget};
use serde_json::{Value, json};

use crate::memory::{Does, Log, Play, response};

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
