//! Each notice: where it comes from, when its host ends, and what is not a notice.

use std::time::Duration;

use ecs_prestop::core::lifecycle::Code;
use ecs_prestop::core::notice::{Action, Reason};
use ecs_prestop::tools::simulate::faults::{Fault, FaultKind, FaultTarget};

use crate::memory::{Does, Play, Played, answer};

const ALL_WATCHED: [(&str, &str); 3] = [
    ("PRESTOP_DRAIN", "http://app:8080/drain"),
    ("PRESTOP_WATCH", "spot,rebalance,maintenance,autoscaling"),
    ("PRESTOP_AFTER_DRAIN", "exit"),
];

fn budget(played: &Played) -> f64 {
    f64::from(u32::try_from(played.ending.report.budget_ms.unwrap()).unwrap()) / 1000.0
}

fn reasons(played: &Played) -> Vec<Reason> {
    played.ending.report.reasons.clone()
}

#[tokio::test(start_paused = true)]
async fn a_spot_interruption_is_seen_within_a_poll_and_the_app_is_told_why() {
    for (action, word) in [
        (Action::Terminate, "terminate"),
        (Action::Stop, "stop"),
        (Action::Hibernate, "hibernate"),
    ] {
        let played = Play::new(&ALL_WATCHED, &[answer(200)])
            .play(|director| async move {
                director.at(30.0).await;
                director.stand_in.announce_spot(action, Duration::from_secs(90));
            })
            .await;
        assert_eq!(
            (played.code, reasons(&played)),
            (Code::Drained, vec![Reason::SpotInterruption])
        );
        assert!((30.0..31.5).contains(&played.ended_at), "{}", played.ended_at);
        // The time in it, and that of the answer, have whole seconds only.
        assert!((78.0..=80.0).contains(&budget(&played)), "{}", budget(&played));
        let body: serde_json::Value = serde_json::from_str(played.requests[0].body()).unwrap();
        assert_eq!(
            (&body["reason"], &body["action"]),
            (&"spot-interruption".into(), &word.into())
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_spot_interruption_further_away_than_two_minutes_is_taken_as_two_minutes() {
    let played = Play::new(&ALL_WATCHED, &[answer(200)])
        .play(|director| async move {
            director
                .stand_in
                .announce_spot(Action::Terminate, Duration::from_secs(3600));
        })
        .await;
    assert_eq!(budget(&played), 110.0);
}

#[tokio::test(start_paused = true)]
async fn a_rebalance_recommendation_and_an_auto_scaling_termination_have_two_minutes() {
    for (reason, at) in [
        (Reason::RebalanceRecommendation, 0),
        (Reason::AutoscalingTermination, 1),
    ] {
        let played = Play::new(&ALL_WATCHED, &[answer(200)])
            .play(|director| async move {
                director.at(10.0).await;
                if at == 0 {
                    director.stand_in.recommend_rebalance();
                } else {
                    director.stand_in.set_lifecycle_state("Terminated");
                }
            })
            .await;
        assert_eq!((reasons(&played), budget(&played)), (vec![reason], 110.0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_maintenance_that_begins_soon_starts_the_drain() {
    let played = Play::new(&ALL_WATCHED, &[answer(200)])
        .play(|director| async move {
            director
                .stand_in
                .announce_maintenance("active", Duration::from_secs(60));
        })
        .await;
    assert_eq!(reasons(&played), [Reason::ScheduledMaintenance]);
    assert!((48.0..=50.0).contains(&budget(&played)), "{}", budget(&played));
}

#[tokio::test(start_paused = true)]
async fn what_is_far_away_called_off_or_healthy_is_no_notice() {
    let played = Play::new(&ALL_WATCHED, &[answer(200)])
        .play(|director| async move {
            director
                .stand_in
                .announce_maintenance("active", Duration::from_secs(7200));
            director.stand_in.set_lifecycle_state("InService");
            director.at(30.0).await;
            director
                .stand_in
                .announce_maintenance("canceled", Duration::from_secs(10));
            director.at(60.0).await;
            director
                .stand_in
                .announce_maintenance("completed", Duration::from_secs(0));
            director.at(90.0).await;
            director.sigterm().await;
        })
        .await;
    assert_eq!(
        reasons(&played),
        [Reason::Sigterm],
        "404, [] and InService are health"
    );
    assert_eq!(played.code, Code::Drained);
}

#[tokio::test(start_paused = true)]
async fn only_what_is_watched_is_a_notice() {
    let settings = [
        ("PRESTOP_DRAIN", "http://app:8080/drain"),
        ("PRESTOP_WATCH", "none"),
    ];
    let played = Play::new(&settings, &[answer(200)])
        .play(|director| async move {
            director
                .stand_in
                .announce_spot(Action::Terminate, Duration::from_secs(120));
            director.stand_in.recommend_rebalance();
            director.at(60.0).await;
            assert_eq!(
                director.stand_in.tokens_made(),
                0,
                "the instance metadata is not even asked"
            );
            director.sigterm().await;
        })
        .await;
    assert_eq!(reasons(&played), [Reason::Sigterm]);
}

#[tokio::test(start_paused = true)]
async fn a_notice_that_is_withdrawn_does_not_undo_the_drain() {
    let settings = [("PRESTOP_DRAIN", "http://app:8080/drain")];
    let played = Play::new(
        &settings,
        &[Does::AnswersAfter(10.0, crate::memory::response(200, "", ""))],
    )
    .play(|director| async move {
        director
            .stand_in
            .announce_spot(Action::Terminate, Duration::from_secs(120));
        director.at(3.0).await;
        director.stand_in.withdraw();
    })
    .await;
    assert_eq!((played.code, played.requests.len()), (Code::Drained, 1));
    assert!(
        (108.0..111.5).contains(&played.ended_at),
        "it leaves before the host: {}",
        played.ended_at
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_that_runs_out_is_replaced_before_its_time_or_after_a_401() {
    let played = Play::new(&[ALL_WATCHED[0], ALL_WATCHED[2]], &[answer(200)])
        .play(|director| async move {
            director.at(100.0).await;
            assert_eq!(director.stand_in.tokens_made(), 1, "one token serves many polls");
            director.stand_in.expire_tokens();
            director.at(200.0).await;
            assert_eq!(director.stand_in.tokens_made(), 2, "a 401 brings another one");
            director.at(40_000.0).await;
            assert_eq!(
                director.stand_in.tokens_made(),
                4,
                "six hours, renewed after 80 % of them"
            );
            director
                .stand_in
                .announce_spot(Action::Terminate, Duration::from_secs(120));
        })
        .await;
    assert_eq!(reasons(&played), [Reason::SpotInterruption]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_metadata_that_comes_back_is_seen_again_within_ten_seconds() {
    for kind in [
        FaultKind::Hang,
        FaultKind::Refuse,
        FaultKind::Status(403),
        FaultKind::Status(503),
        FaultKind::Garbage,
        FaultKind::Huge,
    ] {
        let played = Play::new(&ALL_WATCHED, &[answer(200)])
            .play(|director| async move {
                director.at(10.0).await;
                let lasts = Some(Duration::from_secs(600));
                let (target, requests) = (FaultTarget::Imds, None);
                director.stand_in.break_down(Fault {
                    target,
                    kind,
                    lasts,
                    requests,
                });
                director.at(610.0).await;
                director
                    .stand_in
                    .announce_spot(Action::Terminate, Duration::from_secs(120));
            })
            .await;
        assert_eq!(reasons(&played), [Reason::SpotInterruption], "{kind:?}");
        assert!(played.ended_at < 623.0, "{kind:?}: {}", played.ended_at);
    }
}

#[tokio::test(start_paused = true)]
async fn a_sigterm_on_spot_capacity_knows_that_the_host_ends() {
    for (capacity, seconds) in [("spot", 110.0), ("on-demand", 119.0), ("auto", 119.0)] {
        let settings = [
            ALL_WATCHED[0],
            ("PRESTOP_STOP_TIMEOUT", "120"),
            ("PRESTOP_CAPACITY", capacity),
        ];
        let played = Play::new(&settings, &[Does::Hangs]).sigterm_at_2().await;
        assert_eq!(
            (played.code, budget(&played)),
            (Code::Deadline, seconds),
            "{capacity}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_manual_notice_drains_and_waits_for_sigterm() {
    let played = Play::new(&ALL_WATCHED[..1], &[answer(200)])
        .play(|director| async move {
            director.at(5.0).await;
            director.manual().await;
            director.at(500.0).await;
            director.sigterm().await;
        })
        .await;
    assert_eq!((played.code, played.requests.len()), (Code::Drained, 1));
    assert_eq!(played.ended_at, 500.0);
    assert_eq!(reasons(&played), [Reason::Manual, Reason::Sigterm]);
}
