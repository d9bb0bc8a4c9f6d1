//! Whatever breaks, and whenever: the drain happens and ends by its deadline.
//!
//! The whole product of services, faults and moments, under a paused clock.

use std::time::Duration;

use ecs_prestop::core::lifecycle::Code;
use ecs_prestop::tools::simulate::faults::{Fault, FaultKind, FaultTarget};
use ecs_prestop::tools::simulate::{Definition, StandIn};
use serde_json::json;

use crate::memory::{Does, Play, Played, answer, response};

const KINDS: [FaultKind; 11] = [
    FaultKind::Refuse,
    FaultKind::Hang,
    FaultKind::Slow(Duration::from_secs(2)),
    FaultKind::Slow(Duration::from_millis(300)),
    FaultKind::Status(401),
    FaultKind::Status(403),
    FaultKind::Status(429),
    FaultKind::Status(500),
    FaultKind::Garbage,
    FaultKind::Reset,
    FaultKind::Huge,
];

/// When it breaks: second of the play. SIGTERM or a manual notice comes at 30, settling takes 5 s,
/// the app takes 3 s.
const MOMENTS: [(&str, f64); 5] = [
    ("from the start", 0.0),
    ("while watching", 20.0),
    ("while settling", 32.0),
    ("during the step", 36.0),
    ("while waiting", 45.0),
];

const SETTLE_MS: u64 = 5000;

fn task(network_mode: &str) -> StandIn {
    let definition = json!({
        "family": "web", "networkMode": network_mode,
        "containerDefinitions": [
            {"name": "app", "dockerLabels": {"prestop.drain": "POST :8080/drain"}}, {"name": "prestop"}
        ]
    });
    let stand_in = StandIn::new(Definition::from_value(&definition).unwrap());
    stand_in.container_at("app", "172.17.0.3".parse().unwrap());
    stand_in.container_at("prestop", "172.17.0.2".parse().unwrap());
    stand_in
}

async fn play(
    settings: &[(&str, &str)],
    stand_in: StandIn,
    fault: (FaultTarget, FaultKind, f64),
    sigterm_first: bool,
) -> Played {
    let (target, kind, when) = fault;
    let app = Does::AnswersAfter(3.0, response(200, "", ""));
    Play::with(stand_in, settings, &[app])
        .name("app", "172.17.0.3")
        .play(|director| async move {
            let (lasts, requests) = (None, None);
            let break_down = async {
                director.at(when).await;
                director.stand_in.break_down(Fault {
                    target,
                    kind,
                    lasts,
                    requests,
                });
            };
            let notices = async {
                director.at(30.0).await;
                if sigterm_first {
                    director.sigterm().await;
                } else {
                    director.manual().await;
                }
                director.at(60.0).await;
                director.sigterm().await;
            };
            tokio::join!(break_down, notices);
        })
        .await
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_set_happens_in_time_whatever_breaks_and_whenever() {
    let mut cases = 0;
    for target in [FaultTarget::Imds, FaultTarget::Tmds] {
        for kind in KINDS {
            for (moment, when) in MOMENTS {
                for mode in ["awsvpc", "bridge"] {
                    for sigterm_first in [true, false] {
                        let settings = [
                            ("PRESTOP_DRAIN", "POST http://app:8080/drain"),
                            ("PRESTOP_SETTLE", "5s"),
                            ("PRESTOP_WATCH", "spot,rebalance,maintenance,autoscaling"),
                        ];
                        let played = play(&settings, task(mode), (target, kind, when), sigterm_first).await;
                        let case =
                            format!("{target:?} {kind:?} {moment}, {mode}, SIGTERM first: {sigterm_first}");
                        assert_eq!(played.code, Code::Drained, "{case}: {}", played.details());
                        assert_eq!(played.requests.len(), 1, "{case}: told once");
                        let told_at = played.requests[0].at;
                        assert!((35.0..=36.0).contains(&told_at), "{case}: told at {told_at}");
                        let end = if sigterm_first { 38.0..=39.1 } else { 60.0..=60.0 };
                        assert!(
                            end.contains(&played.ended_at),
                            "{case}: ended at {}",
                            played.ended_at
                        );
                        cases += 1;
                    }
                }
            }
        }
    }
    assert_eq!(cases, 2 * 11 * 5 * 2 * 2);
}

#[tokio::test(start_paused = true)]
async fn steps_from_labels_need_the_task_metadata_once_and_are_waited_for_until_the_deadline() {
    for target in [FaultTarget::Imds, FaultTarget::Tmds] {
        for kind in KINDS {
            for (moment, when) in MOMENTS {
                let settings = [("PRESTOP_SETTLE", "5s")];
                let played = play(&settings, task("bridge"), (target, kind, when), true).await;
                let case = format!("{target:?} {kind:?} {moment}: {}", played.details());
                let slow_but_in_time = kind == FaultKind::Slow(Duration::from_millis(300));
                let known = target == FaultTarget::Imds || when > 0.0 || slow_but_in_time;
                assert_eq!(
                    played.code,
                    if known { Code::Drained } else { Code::Deadline },
                    "{case}"
                );
                if let Some(first) = played.first_step_ms() {
                    assert!(
                        (SETTLE_MS..=SETTLE_MS + 1000).contains(&first),
                        "{case}: after {first} ms"
                    );
                }
                assert!(played.ended_at <= 59.0, "{case}: ended at {}", played.ended_at);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_some_requests_only_is_overcome() {
    for kind in [
        FaultKind::Status(500),
        FaultKind::Status(429),
        FaultKind::Garbage,
        FaultKind::Reset,
        FaultKind::Huge,
    ] {
        let stand_in = task("awsvpc");
        let (target, lasts) = (FaultTarget::Tmds, None);
        stand_in.break_down(Fault {
            target,
            kind,
            lasts,
            requests: Some(3),
        });
        let played = Play::with(stand_in, &[], &[answer(200)])
            .play(|director| async move {
                director.at(10.0).await;
                director.sigterm().await;
            })
            .await;
        assert_eq!(
            played.code,
            Code::Drained,
            "{kind:?}: the labels are read by then"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_rate_limit_of_the_task_metadata_is_lived_with() {
    let stand_in = task("awsvpc");
    let (target, lasts, requests) = (FaultTarget::Tmds, Some(Duration::from_secs(60)), None);
    let kind = FaultKind::Status(429);
    stand_in.break_down(Fault {
        target,
        kind,
        lasts,
        requests,
    });
    let played = Play::with(stand_in, &[], &[answer(200)])
        .play(|director| async move {
            director.at(90.0).await;
            director.sigterm().await;
        })
        .await;
    assert_eq!(played.code, Code::Drained);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_notices_of_every_kind_in_one_moment_are_one_drain() {
    let settings = [("PRESTOP_DRAIN", "POST http://app:8080/drain")];
    let app = Does::AnswersAfter(3.0, response(200, "", ""));
    let played = Play::new(&settings, &[app])
        .play(|director| async move {
            director.at(5.0).await;
            for _ in 0..100 {
                director.sigterm().await;
                director.manual().await;
            }
        })
        .await;
    assert_eq!((played.code, played.requests.len()), (Code::Drained, 1));
}
