//! Where the host of a step leads: containers of the task by their metadata, other names by DNS.

use ecs_prestop::core::lifecycle::Code;
use std::time::Duration;

use ecs_prestop::tools::simulate::faults::{Fault, FaultKind, FaultTarget};
use ecs_prestop::tools::simulate::{Definition, StandIn};
use serde_json::json;

use crate::memory::{Does, Play, Request, answer, response};

fn task(network_mode: &str, labels: serde_json::Value) -> StandIn {
    let definition = json!({
        "family": "web", "networkMode": network_mode,
        "containerDefinitions": [{"name": "app", "dockerLabels": labels}, {"name": "prestop"}]
    });
    StandIn::new(Definition::from_value(&definition).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_container_that_shares_the_network_is_at_loopback() {
    for mode in ["awsvpc", "host"] {
        let drain = [("PRESTOP_DRAIN", "http://app:8080/drain")];
        let played = Play::with(task(mode, json!({})), &drain, &[answer(200)])
            .sigterm_at_2()
            .await;
        assert_eq!(played.code, Code::Drained, "{mode}");
        assert_eq!(played.lookups, Vec::<String>::new(), "{mode}: DNS is not asked");
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_under_bridge_is_at_its_own_address() {
    for address in ["172.17.0.3", "fd00::3"] {
        let stand_in = task("bridge", json!({}));
        stand_in.container_at("app", address.parse().unwrap());
        stand_in.container_at("prestop", "172.17.0.2".parse().unwrap());
        let drain = [("PRESTOP_DRAIN", "http://app:8080/drain")];
        let played = Play::with(stand_in, &drain, &[answer(200)]).sigterm_at_2().await;
        assert_eq!(played.code, Code::Drained, "{address}");
        assert_eq!(
            played.lookups,
            Vec::<String>::new(),
            "{address}: DNS is not asked"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn any_other_host_goes_through_dns() {
    let drain = [("PRESTOP_DRAIN", "http://db.internal:8080/drain")];
    let played = Play::new(&drain, &[answer(200)])
        .name("db.internal", "10.0.0.7")
        .sigterm_at_2()
        .await;
    assert_eq!(played.code, Code::Drained);
    assert_eq!(played.lookups, ["db.internal"]);
}

#[tokio::test(start_paused = true)]
async fn outside_of_ecs_every_name_goes_through_dns() {
    let drain = [("PRESTOP_DRAIN", "http://app:8080/drain")];
    let play = Play::new(&drain, &[answer(200)])
        .outside_of_ecs()
        .name("app", "172.18.0.2");
    let played = play.sigterm_at_2().await;
    assert_eq!((played.code, played.lookups.len()), (Code::Drained, 1));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_dns_does_not_know_fails_the_step_after_five_seconds() {
    let drain = [("PRESTOP_DRAIN", "http://nowhere:8080/drain")];
    let played = Play::new(&drain, &[answer(200)]).sigterm_at_2().await;
    assert_eq!(played.code, Code::Failed);
    assert!((7.0..7.2).contains(&played.ended_at), "{}", played.ended_at);
    assert!(
        played.details().contains("`nowhere` is not known"),
        "{}",
        played.details()
    );
}

#[tokio::test(start_paused = true)]
async fn a_dns_that_hangs_holds_nothing_up_beyond_the_deadline() {
    let drain = [("PRESTOP_DRAIN", "http://slow-dns:8080/drain")];
    let played = Play::new(&drain, &[answer(200)]).sigterm_at_2().await;
    assert_eq!((played.code, played.ended_at), (Code::Deadline, 31.0));
}

#[tokio::test(start_paused = true)]
async fn a_lookup_that_takes_five_seconds_is_waited_for_and_not_begun_anew() {
    let drain = [("PRESTOP_DRAIN", "http://late-dns:8080/drain")];
    let play = Play::new(&drain, &[answer(200)]).name("late-dns", "10.0.0.7");
    let played = play.sigterm_at_2().await;
    assert_eq!(played.code, Code::Drained, "{}", played.details());
    assert_eq!(played.lookups.len(), 1);
    assert!((7.0..9.1).contains(&played.ended_at), "{}", played.ended_at);
}

#[tokio::test(start_paused = true)]
async fn a_label_of_the_container_is_the_step_where_no_setting_is() {
    let labels = json!({"prestop.drain": "PUT :8080/quit", "prestop.order": "3"});
    let played = Play::with(task("awsvpc", labels.clone()), &[], &[answer(200)])
        .sigterm_at_2()
        .await;
    assert_eq!(played.code, Code::Drained);
    assert_eq!(played.requests[0].line(), "PUT /quit HTTP/1.1");

    let setting = [("PRESTOP_DRAIN", "http://app:8080/setting")];
    let played = Play::with(task("awsvpc", labels), &setting, &[answer(200)])
        .sigterm_at_2()
        .await;
    assert_eq!(
        played.requests[0].line(),
        "POST /setting HTTP/1.1",
        "the setting wins"
    );
}

/// A task of `app` and `worker`, both with a label; ECS has not made the worker yet.
fn half_made(label: &str) -> StandIn {
    let definition = json!({
        "family": "web", "networkMode": "awsvpc",
        "containerDefinitions": [
            {"name": "app", "dockerLabels": {"prestop.drain": "POST :8080/app"}},
            {"name": "worker", "dockerLabels": {"prestop.drain": label, "prestop.order": "1"}},
            {"name": "prestop"}
        ]
    });
    let stand_in = StandIn::new(Definition::from_value(&definition).unwrap());
    stand_in.container_not_created("worker");
    stand_in
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ecs_lists_later_is_drained_too() {
    // While the task starts it is read again, and at the notice in any case.
    for at_notice in [false, true] {
        let played = Play::with(half_made("POST :8080/worker"), &[], &[answer(200)])
            .play(|director| async move {
                director.at(if at_notice { 30.0 } else { 0.5 }).await;
                director.stand_in.container_running("worker");
                director.at(30.0).await;
                director.sigterm().await;
            })
            .await;
        assert_eq!(played.code, Code::Drained, "{}", played.details());
        let lines: Vec<&str> = played.requests.iter().map(Request::line).collect();
        assert_eq!(
            lines,
            ["POST /app HTTP/1.1", "POST /worker HTTP/1.1"],
            "{at_notice}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_metadata_that_does_not_answer_at_the_notice_delays_and_loses_no_drain() {
    for (kind, delay) in [
        (FaultKind::Status(429), 1.0),
        (FaultKind::Hang, 1.0),
        (FaultKind::Refuse, 1.0),
    ] {
        let played = Play::with(half_made("POST :8080/worker"), &[], &[answer(200)])
            .play(|director| async move {
                director.at(30.0).await;
                director.stand_in.break_down(Fault {
                    target: FaultTarget::Tmds,
                    kind,
                    lasts: None,
                    requests: None,
                });
                director.sigterm().await;
            })
            .await;
        assert_eq!(played.code, Code::Drained, "{kind:?}: {}", played.details());
        let told_at = played.requests[0].at;
        assert!((30.0..=30.0 + delay).contains(&told_at), "{kind:?}: {told_at}");
        assert_eq!(played.requests.len(), 1, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_label_that_is_read_during_the_drain_is_still_done() {
    let slow = Does::AnswersAfter(10.0, response(200, "", ""));
    let played = Play::with(half_made("POST :8080/worker"), &[], &[slow, answer(200)])
        .play(|director| async move {
            director.at(30.0).await;
            director.stand_in.break_down(Fault {
                target: FaultTarget::Tmds,
                kind: FaultKind::Status(429),
                lasts: Some(Duration::from_secs(3)),
                requests: None,
            });
            director.stand_in.container_running("worker");
            director.sigterm().await;
        })
        .await;
    assert_eq!(played.code, Code::Drained, "{}", played.details());
    let lines: Vec<&str> = played.requests.iter().map(Request::line).collect();
    assert_eq!(lines, ["POST /app HTTP/1.1", "POST /worker HTTP/1.1"]);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_still_starting_is_not_refused_for_want_of_a_step() {
    let definition = json!({
        "family": "web", "networkMode": "awsvpc",
        "containerDefinitions": [
            {"name": "sidekick"},
            {"name": "app", "dockerLabels": {"prestop.drain": "POST :8080/app"}},
            {"name": "prestop"}
        ]
    });
    let stand_in = StandIn::new(Definition::from_value(&definition).unwrap());
    stand_in.container_not_created("app");
    let played = Play::with(stand_in, &[], &[answer(200)])
        .play(|director| async move {
            director.at(5.0).await;
            director.stand_in.container_running("app");
            director.at(20.0).await;
            director.sigterm().await;
        })
        .await;
    assert_eq!(played.code, Code::Drained, "{:?}", played.ending.complaints);
}

#[tokio::test(start_paused = true)]
async fn a_sigterm_before_the_process_could_see_it_is_told_by_the_task_metadata() {
    let stand_in = task("awsvpc", json!({}));
    stand_in.stopping();
    let drain = [("PRESTOP_DRAIN", "http://app:8080/drain")];
    let played = Play::with(stand_in, &drain, &[answer(200)])
        .play(|director| async move { director.at(3600.0).await })
        .await;
    assert_eq!(played.code, Code::Drained);
    assert!(played.ended_at < 1.0, "{}", played.ended_at);
}

#[tokio::test(start_paused = true)]
async fn names_of_the_metadata_are_looked_up_apart_from_those_of_drain_calls() {
    let variables = [
        ("PRESTOP_DRAIN", "http://db.internal:8080/drain"),
        ("ECS_CONTAINER_METADATA_URI_V4", "http://slow-dns/v4/prestop"),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://slow-dns"),
    ];
    let played = Play::new(&variables, &[answer(200)])
        .name("db.internal", "10.0.0.7")
        .play(|director| async move {
            director.at(60.0).await;
            director.sigterm().await;
        })
        .await;
    assert_eq!(played.code, Code::Drained);
    assert_eq!(
        played.lookups,
        ["db.internal"],
        "in the places of the drain calls"
    );
}

#[tokio::test(start_paused = true)]
async fn with_a_wrong_label_it_refuses_to_start() {
    for (labels, complaint) in [
        (
            json!({"prestop.drain": "https://app/"}),
            "label `prestop.drain` of container `app`",
        ),
        (
            json!({"prestop.drain": "ack", "prestop.order": "x"}),
            "label `prestop.order` of container `app`",
        ),
    ] {
        let played = Play::with(task("awsvpc", labels), &[], &[Does::Refuses])
            .sigterm_at_2()
            .await;
        assert_eq!(played.code, Code::Settings);
        assert!(played.ended_at < 1.0);
        let complaints = played.ending.complaints.join("\n");
        assert!(complaints.contains(complaint), "{complaints}");
    }
}
