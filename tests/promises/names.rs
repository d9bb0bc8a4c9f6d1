//! Where the host of a step leads: containers of the task by their metadata, other names by DNS.

use ecs_prestop::core::lifecycle::Code;
use ecs_prestop::tools::simulate::{Definition, StandIn};
use serde_json::json;

use crate::memory::{Does, Play, answer};

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
