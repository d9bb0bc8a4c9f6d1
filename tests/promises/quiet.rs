//! `quiet`, the drain with no code in the app, under a paused clock: the kernel's list of connections
//! follows a script.

use std::sync::Arc;
use std::time::Duration;

use ecs_prestop::config::Config;
use ecs_prestop::core::lifecycle::{Code, StepStatus};
use ecs_prestop::core::plan::Plan;
use ecs_prestop::core::quiet::{Counters, TcpConnection, TcpState};
use ecs_prestop::core::step::parse_steps;
use ecs_prestop::core::timeline::{Sight, What};
use ecs_prestop::sidecar::drain::quiet::sockets::{Inode, List, Socket, SocketQuery, Sockets};
use ecs_prestop::sidecar::drain::quiet::{ConnectionView, announce};
use ecs_prestop::sidecar::mailbox::{self, Message, WatchState};
use ecs_prestop::tools::simulate::{Definition, StandIn};
use serde_json::json;

use crate::memory::{Connections, Play, Played, answer};

const NO_SETTLE: (&str, &str) = ("PRESTOP_SETTLE", "0");

/// A connection from outside that was asked and answered at these seconds of the play, as it is at `now`.
fn connection(id: u64, now: f64, asked: &[f64], answered: &[f64]) -> TcpConnection {
    let so_far = |moments: &[f64]| -> Vec<f64> { moments.iter().copied().filter(|at| *at <= now).collect() };
    let (asked, answered) = (so_far(asked), so_far(answered));
    let since = |moments: &[f64]| Duration::from_secs_f64(now - moments.last().copied().unwrap_or(0.0));
    let traffic = Counters {
        bytes_in: 18 * asked.len() as u64,
        bytes_out: 19 * answered.len() as u64,
        since_in: since(&asked),
        since_out: since(&answered),
        ..Counters::default()
    };
    TcpConnection {
        id,
        local: "10.0.0.5:8080".parse().unwrap(),
        peer: format!("10.0.1.7:{}", 4000 + id).parse().unwrap(),
        stage: TcpState::Open,
        unread: 0,
        unacknowledged: 0,
        traffic: Some(traffic),
    }
}

/// One client, from the beginning to the end of the play.
fn client(asked: &'static [f64], answered: &'static [f64]) -> Connections {
    Arc::new(move |now| vec![connection(1, now, asked, answered)])
}

async fn play(variables: &[(&str, &str)], connections: Connections) -> Played {
    Play::new(variables, &[answer(200)])
        .connections(true, connections)
        .sigterm_at_2()
        .await
}

fn assert_between(value: f64, least: f64, most: f64) {
    assert!(
        (least..=most).contains(&value),
        "{value} is not in {least} to {most}"
    );
}

#[tokio::test(start_paused = true)]
async fn with_no_setting_at_all_the_app_serves_on_for_five_seconds_and_then_until_it_is_quiet() {
    let played = play(&[], client(&[1.0], &[1.5])).await;
    assert_eq!(played.code, Code::Drained);
    assert_eq!(played.first_step_ms(), Some(5000), "the settle time of ECS");
    assert_between(played.ended_at, 7.0, 7.2);
    let details = played.details();
    assert!(details.contains("0 were at the notice"), "{details}");
    assert!(details.contains("1 idle connections are left"), "{details}");
    assert_eq!(played.ending.report.steps[0].does.to_string(), "quiet");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_owed_is_waited_for_and_then_a_second_of_silence() {
    let played = play(&[NO_SETTLE], client(&[1.0, 1.9], &[1.1, 14.25])).await;
    assert_eq!(played.code, Code::Drained);
    assert_between(played.ended_at, 15.25, 15.27);
    let details = played.details();
    assert!(details.contains("1 were at the notice"), "{details}");
    assert!(
        details.contains("until 12.2s after it") || details.contains("until 12.3s after it"),
        "{details}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_silence_may_be_set() {
    let played = play(
        &[NO_SETTLE, ("PRESTOP_DRAIN", "quiet for 3s")],
        client(&[1.9], &[4.0]),
    )
    .await;
    assert_eq!(played.code, Code::Drained);
    assert_between(played.ended_at, 7.0, 7.02);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_while_the_silence_lasts_is_waited_for_too() {
    let connections: Connections = Arc::new(|now| {
        let mut all = vec![connection(1, now, &[1.9], &[3.0])];
        if now >= 3.9 {
            all.push(connection(2, now, &[3.9], &[6.0]));
        }
        all
    });
    let played = play(&[NO_SETTLE], connections).await;
    assert_eq!(played.code, Code::Drained);
    assert_between(played.ended_at, 7.0, 7.02);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_with_its_answer_ends_the_step_a_second_and_a_look_later() {
    let connections: Connections = Arc::new(|now| {
        let open = now < 5.0;
        open.then(|| connection(1, now, &[1.9], &[]))
            .into_iter()
            .collect()
    });
    let played = play(&[NO_SETTLE], connections).await;
    assert_eq!(played.code, Code::Drained);
    assert_between(played.ended_at, 6.0, 6.11);
}

#[tokio::test(start_paused = true)]
async fn what_is_owed_when_its_time_is_over_is_a_failed_step_and_the_next_has_its_turn() {
    let drain = ("PRESTOP_DRAIN", "quiet within 4s, http://app:8080/drain");
    let played = play(&[NO_SETTLE, drain], client(&[1.5], &[])).await;
    assert_eq!(played.code, Code::Failed);
    assert_eq!(played.requests.len(), 1);
    assert_between(played.requests[0].at, 6.0, 6.1);
    let details = played.details();
    assert!(
        details.contains("1 still owed an answer after 4.0s: 10.0.1.7:4001 for 4."),
        "{details}"
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_time_of_its_own_it_leaves_a_quarter_to_the_steps_behind_it() {
    let drain = ("PRESTOP_DRAIN", "quiet, http://app:8080/drain");
    let played = play(&[NO_SETTLE, drain], client(&[1.5], &[])).await;
    assert_eq!(played.code, Code::Failed);
    // 29 s are left at the notice.
    assert_between(played.requests[0].at, 2.0 + 21.75, 2.0 + 21.85);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_names_what_is_owed() {
    let played = play(&[], client(&[1.5], &[])).await;
    assert_eq!(played.code, Code::Deadline);
    assert_between(played.ended_at, 31.0, 31.01);
    let step = &played.ending.report.steps[0];
    assert!(matches!(step.status, StepStatus::Dropped(_)));
    let detail = step.status.detail().unwrap_or_default();
    assert!(
        detail.starts_with("1 still owed an answer: 10.0.1.7:4001 for 29."),
        "{detail}"
    );
}

/// Every half second, answered a few milliseconds later.
fn health_check(now: f64) -> TcpConnection {
    let times = |offset: f64| -> Vec<f64> { (0..400).map(|n| f64::from(n) / 2.0 + offset).collect() };
    connection(9, now, &times(0.0), &times(0.013))
}

#[tokio::test(start_paused = true)]
async fn requests_that_go_on_coming_hold_it_up_until_its_time_is_over_and_are_no_failure() {
    let drain = ("PRESTOP_DRAIN", "quiet within 6s, http://app:8080/drain");
    let played = play(&[NO_SETTLE, drain], Arc::new(|now| vec![health_check(now)])).await;
    assert_eq!(played.code, Code::Drained, "{}", played.details());
    assert_between(played.requests[0].at, 8.0, 8.1);
    let details = played.details();
    assert!(
        details.contains("requests went on coming, the last from 10.0.1.7:4009"),
        "{details}"
    );
}

#[tokio::test(start_paused = true)]
async fn requests_that_go_on_coming_end_an_only_step_before_the_deadline() {
    let played = play(&[], Arc::new(|now| vec![health_check(now)])).await;
    assert_eq!(played.code, Code::Drained, "{}", played.details());
    assert_between(played.ended_at, 30.8, 31.0);
}

#[tokio::test(start_paused = true)]
async fn where_the_kernel_tells_only_that_it_is_open_it_counts_as_owing_and_is_named() {
    let open: Connections = Arc::new(|now| {
        vec![TcpConnection {
            traffic: None,
            ..connection(1, now, &[1.0], &[1.5])
        }]
    });
    for drain in ["quiet within 4s", "quiet moves within 4s"] {
        let played = play(&[NO_SETTLE, ("PRESTOP_DRAIN", drain)], Arc::clone(&open)).await;
        assert_eq!(played.code, Code::Failed, "{drain}");
        assert_between(played.ended_at, 6.0, 6.1);
        let details = played.details();
        assert!(
            details.contains("1 still owed an answer after 4.0s: 10.0.1.7:4001"),
            "{details}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn where_nobody_listens_it_fails_at_once_with_the_likely_reasons() {
    let played = Play::new(&[NO_SETTLE], &[])
        .connections(false, Arc::new(|_| Vec::new()))
        .sigterm_at_2()
        .await;
    assert_eq!(played.code, Code::Failed);
    assert_between(played.ended_at, 2.0, 2.1);
    let details = played.details();
    for reason in ["a worker needs `ack`", "another network namespace", "UDP"] {
        assert!(details.contains(reason), "{details}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_port_that_nobody_listens_on_is_named() {
    let played = play(&[NO_SETTLE, ("PRESTOP_DRAIN", "quiet :9000")], client(&[], &[])).await;
    assert_eq!(played.code, Code::Failed);
    assert!(
        played.details().contains("nobody listens on :9000"),
        "{}",
        played.details()
    );
}

#[tokio::test(start_paused = true)]
async fn where_ecs_knows_the_app_as_stopped_it_is_drained() {
    let play = Play::new(&[NO_SETTLE], &[]).connections(false, Arc::new(|_| Vec::new()));
    let played = play
        .play(|director| async move {
            director.at(1.0).await;
            director.stand_in.container_stopped("app");
            director.at(2.0).await;
            director.sigterm().await;
        })
        .await;
    assert_eq!(played.code, Code::Drained, "{}", played.details());
    assert!(played.details().contains("STOPPED"), "{}", played.details());
}

fn task(network_mode: &str) -> StandIn {
    let definition = json!({
        "family": "web", "networkMode": network_mode,
        "containerDefinitions": [{"name": "app"}, {"name": "prestop"}]
    });
    let stand_in = StandIn::new(Definition::from_value(&definition).unwrap());
    if network_mode == "bridge" {
        stand_in.container_at("app", "172.17.0.3".parse().unwrap());
        stand_in.container_at("prestop", "172.17.0.2".parse().unwrap());
    }
    stand_in
}

#[tokio::test(start_paused = true)]
async fn where_it_cannot_work_it_is_refused_at_start_with_what_to_set() {
    for (mode, drain, says) in [
        ("bridge", None, "set PRESTOP_DRAIN to a URL"),
        ("bridge", None, "set \"pidMode\": \"task\""),
        (
            "bridge",
            Some("quiet :8080"),
            "`quiet :8080` cannot work under bridge networking",
        ),
        ("host", None, "PRESTOP_DRAIN='quiet :PORT'"),
    ] {
        let variables: Vec<(&str, &str)> = drain.map(|drain| ("PRESTOP_DRAIN", drain)).into_iter().collect();
        let played = Play::with(task(mode), &variables, &[]).play(|_| async {}).await;
        assert_eq!(played.code, Code::Settings, "{mode} {drain:?}");
        let complaints = played.ending.complaints.join(" ");
        assert!(complaints.contains(says), "{mode} {drain:?}: {complaints}");
    }
    let drain = [("PRESTOP_DRAIN", "quiet :8080"), NO_SETTLE];
    let played = Play::with(task("host"), &drain, &[]).sigterm_at_2().await;
    assert_eq!(
        played.code,
        Code::Drained,
        "a port is enough under host networking"
    );
}

#[tokio::test(start_paused = true)]
async fn under_bridge_networking_it_works_where_the_processes_of_the_app_are_in_sight() {
    let connections: Connections = Arc::new(|now| {
        let untold = |id| TcpConnection {
            traffic: None,
            ..connection(id, now, &[1.0], &[])
        };
        (now < 9.0).then(|| untold(1)).into_iter().collect()
    });
    let play = |drain: &'static str| {
        let variables = [NO_SETTLE, ("PRESTOP_DRAIN", drain)];
        let play = Play::with(task("bridge"), &variables, &[]).connections(true, Arc::clone(&connections));
        play.processes_in_sight().sigterm_at_2()
    };
    for drain in ["quiet", "quiet :8080"] {
        let played = play(drain).await;
        assert_eq!(
            played.code,
            Code::Drained,
            "{drain}: {:?}",
            played.ending.complaints
        );
        assert_between(played.ended_at, 10.0, 10.2);
    }
}

#[tokio::test(start_paused = true)]
async fn the_settle_time_of_ecs_is_for_plans_with_a_quiet_step_and_only_where_none_is_set() {
    let first_step = |variables: &'static [(&str, &str)], on_ecs: bool| async move {
        let play = Play::new(variables, &[answer(200)]);
        let play = if on_ecs { play } else { play.outside_of_ecs() };
        play.sigterm_at_2().await.first_step_ms().unwrap()
    };
    assert_eq!(
        first_step(&[("PRESTOP_DRAIN", "http://app:8080/drain")], true).await,
        0
    );
    assert_eq!(
        first_step(&[("PRESTOP_DRAIN", "sleep 1s, quiet")], true).await,
        5000
    );
    assert_eq!(first_step(&[("PRESTOP_SETTLE", "2s")], true).await, 2000);
    assert_eq!(first_step(&[], false).await, 0);
}

#[tokio::test(start_paused = true)]
async fn sleep_serves_on_for_that_long() {
    let played = play(&[("PRESTOP_DRAIN", "sleep 15s")], client(&[], &[])).await;
    assert_eq!(played.code, Code::Drained);
    assert_between(played.ended_at, 17.0, 17.01);
}

#[tokio::test(start_paused = true)]
async fn what_it_sees_is_told_from_the_notice_on_while_it_changes() {
    let played = play(&[], client(&[1.9], &[9.0])).await;
    let looks: Vec<(u64, usize, usize)> = played
        .ending
        .report
        .timeline
        .iter()
        .filter_map(|moment| match &moment.what {
            What::StepCall {
                sight: Sight::Connections { open, owing, .. },
                ..
            } => Some((moment.ms, *open, *owing)),
            _ => None,
        })
        .collect();
    assert_eq!(
        looks.first().map(|(ms, open, owing)| (*ms < 10, *open, *owing)),
        Some((true, 1, 1))
    );
    assert_eq!(looks.last().map(|(_, open, owing)| (*open, *owing)), Some((1, 0)));
    assert!(looks.len() == 2, "{looks:?}");
}

/// A namespace where somebody begins to listen at that second, or nobody ever does.
struct ListensAt(Option<u64>, tokio::time::Instant);

impl Sockets for ListensAt {
    fn list(&self, wanted: SocketQuery) -> std::io::Result<Box<dyn List>> {
        let second = self.1.elapsed().as_secs();
        let listens = wanted == SocketQuery::Listeners && self.0.is_some_and(|from| second >= from);
        let listener = Socket::Listener("0.0.0.0:8080".parse().unwrap());
        Ok(Box::new(Listed(listens.then_some(listener))))
    }

    fn addresses(&self) -> Vec<std::net::IpAddr> {
        Vec::new()
    }

    fn own(&self) -> Vec<Inode> {
        Vec::new()
    }

    fn weakness(&self) -> Option<String> {
        None
    }
}

struct Listed(Option<Socket>);

impl List for Listed {
    fn next(&mut self, sockets: &mut Vec<Socket>) -> std::io::Result<bool> {
        sockets.extend(self.0.take());
        Ok(false)
    }
}

/// What is told after the start of a plan, and when.
async fn announced(listens_at: Option<u64>, step: &str) -> (u64, WatchState) {
    let start = tokio::time::Instant::now();
    let view = ConnectionView::new(Arc::new(ListensAt(listens_at, start)), None);
    let plan = Plan::from_setting(&parse_steps(step).unwrap()).unwrap();
    let steps = plan.quiets().map(|(_, step)| step.clone()).collect();
    let (mailbox, mut messages) = mailbox::channel();
    announce(view, steps, mailbox).await;
    match messages.recv().await {
        Some(Message::Watch(state)) => (start.elapsed().as_secs(), state),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn where_nobody_would_be_seen_it_is_a_warning_at_start_once_the_app_had_time_to_come_up() {
    let (after, told) = announced(None, "quiet").await;
    assert_eq!(
        (after, told.watch, told.sees, told.log),
        (30, "quiet", false, true)
    );
    let why = told.why.unwrap();
    for part in [
        "`quiet` would fail now",
        "a worker needs `ack`",
        "another network namespace",
        "UDP",
    ] {
        assert!(why.contains(part), "{why}");
    }
    let (_, told) = announced(Some(0), "quiet :9000").await;
    assert!(told.why.unwrap().contains("nobody listens on :9000"));
    let (after, told) = announced(Some(4), "quiet").await;
    assert_eq!(
        (after, told.sees, told.why),
        (5, true, None),
        "an app that takes four seconds to start"
    );
}

#[tokio::test(start_paused = true)]
async fn a_settle_or_sleep_that_does_not_fit_is_told_at_start() {
    let play = |drain: &'static str, settle: &'static str| {
        let variables = [("PRESTOP_DRAIN", drain), ("PRESTOP_SETTLE", settle)];
        let config = Config::read(|_| None, variables.map(|(k, v)| (k.to_owned(), v.to_owned()))).unwrap();
        let plan = Plan::from_setting(&config.drain).unwrap();
        config.policy.too_long(&plan)
    };
    assert_eq!(play("sleep 5s", "0"), None);
    for (drain, settle) in [("sleep 60s", "0"), ("sleep 20s", "14s"), ("quiet", "25s")] {
        let told = play(drain, settle).unwrap_or_else(|| panic!("{drain} after {settle} fits into 29 s"));
        assert!(told.contains("29"), "{told}");
    }
}
