//! What AWS is asked for neither delays nor spoils the drain, whatever AWS answers.
//!
//! The real SDK against the stand-in's APIs, in memory and under a paused clock; `tests/python` plays the
//! same against moto with the real binary.

use std::sync::Arc;
use std::time::Duration;

use ecs_prestop::core::lifecycle::Code;
use ecs_prestop::core::notice::Action;
use ecs_prestop::core::timeline::{AwsCall, AwsOutcome, What};
use ecs_prestop::sidecar::aws::cloud_map::endpoint;
use ecs_prestop::tools::simulate::faults::{Fault, FaultKind, FaultTarget};
use ecs_prestop::tools::simulate::{Definition, StandIn};

use serde_json::json;

use crate::memory::{Does, Log, Play, Played, answer, response};

const KINDS: [FaultKind; 9] = [
    FaultKind::Refuse,
    FaultKind::Hang,
    FaultKind::Slow(Duration::from_secs(2)),
    FaultKind::Slow(Duration::from_millis(300)),
    FaultKind::Status(403),
    FaultKind::Status(500),
    FaultKind::Garbage,
    FaultKind::Reset,
    FaultKind::Huge,
];

const FEATURES: [(&str, &str); 5] = [
    ("PRESTOP_DEREGISTER", "true"),
    ("PRESTOP_DRAIN_INSTANCE", "true"),
    ("PRESTOP_AFTER_DRAIN", "stop-task"),
    ("PRESTOP_STOP_TIMEOUT", "auto"),
    PROTECT,
];

/// Asked of ECS's agent, which fails in its own ways.
const PROTECT: (&str, &str) = ("PRESTOP_PROTECT", "true");

/// What a drain may start later than it would without AWS.
const LATER_MS: u64 = 50;

/// How long the target group keeps connections.
const DELAY: Duration = Duration::from_secs(4);

/// Half of what a Spot notice leaves beside the reserve.
const HALF_MS: u64 = 55_000;

fn task_at_an_address() -> StandIn {
    let definition = json!({
        "family": "web", "networkMode": "awsvpc",
        "containerDefinitions": [{"name": "app", "portMappings": [{"containerPort": 8080}]}, {"name": "prestop"}]
    });
    StandIn::new(Definition::from_value(&definition).unwrap())
}

/// Puts it into a target group, with another task.
fn balance(stand_in: &StandIn) {
    let (task, other) = ("10.0.2.106:8080", "10.0.2.107:8080");
    stand_in.balance(task.parse().unwrap(), other.parse().unwrap(), DELAY);
}

/// SIGTERM or a Spot notice comes at 30, SIGTERM at 100 in any case; the app takes 3 s, or says at once
/// that it is busy.
async fn play(feature: (&str, &str), fault: Option<FaultKind>, by_sigterm: bool) -> Played {
    let settings = [
        ("PRESTOP_DRAIN", "POST http://app:8080/drain"),
        ("AWS_ENDPOINT_URL", "http://169.254.170.9"),
        ("AWS_ACCESS_KEY_ID", "none"),
        ("AWS_SECRET_ACCESS_KEY", "none"),
        feature,
    ];
    let busy_url = ("PRESTOP_BUSY_URL", "http://app:8080/busy");
    let protects = feature == PROTECT;
    let settings: Vec<(&str, &str)> = settings.into_iter().chain(protects.then_some(busy_url)).collect();
    let (target, app) = if protects {
        (FaultTarget::Agent, answer(200))
    } else {
        (FaultTarget::Aws, Does::AnswersAfter(3.0, response(200, "", "")))
    };
    let stand_in = task_at_an_address();
    if feature.0 == "PRESTOP_DEREGISTER" && fault.is_none() {
        balance(&stand_in);
    }
    Play::with(stand_in, &settings, &[app])
        .play(|director| async move {
            if let Some(kind) = fault {
                director.stand_in.break_down(Fault {
                    target,
                    kind,
                    lasts: None,
                    requests: None,
                });
            }
            director.at(30.0).await;
            if by_sigterm {
                director.sigterm().await;
            } else {
                director
                    .stand_in
                    .announce_spot(Action::Terminate, Duration::from_secs(120));
            }
            director.at(100.0).await;
            director.sigterm().await;
        })
        .await
}

fn ends(played: &Played) -> Vec<(AwsCall, AwsOutcome)> {
    let timeline = played.ending.report.timeline.iter();
    let ends = timeline.filter_map(|moment| match &moment.what {
        What::AwsEnd { call, outcome, .. } => Some((*call, outcome.clone())),
        _ => None,
    });
    ends.collect()
}

#[tokio::test(start_paused = true)]
async fn no_fault_of_aws_delays_or_spoils_a_drain() {
    let mut table = String::new();
    for feature in FEATURES {
        for fault in KINDS.map(Some).into_iter().chain([None]) {
            for by_sigterm in [true, false] {
                let played = play(feature, fault, by_sigterm).await;
                let case = format!("{} {fault:?}, SIGTERM: {by_sigterm}", feature.0);
                assert_eq!(played.code, Code::Drained, "{case}: {}", played.details());
                let drains = played
                    .requests
                    .iter()
                    .filter(|asked| asked.line().starts_with("POST"));
                assert_eq!(drains.count(), 1, "{case}: told once");
                let first_ms = played.first_step_ms().unwrap();
                let budget_ms = played.ending.report.budget_ms.unwrap();
                // Deregistration is there to be waited for, for half of the time at most.
                let limit = match feature.0 {
                    "PRESTOP_DEREGISTER" if by_sigterm => budget_ms / 2,
                    "PRESTOP_DEREGISTER" => HALF_MS,
                    _ => LATER_MS,
                };
                assert!(
                    first_ms <= limit,
                    "{case}: told after {first_ms} ms of {budget_ms}"
                );
                let used_ms = played.ending.report.used_ms.unwrap();
                assert!(used_ms <= budget_ms, "{case}: {used_ms} ms of {budget_ms}");
                table.push_str(&format!(
                    "{case}: first step after {first_ms} ms, end after {used_ms} ms\n"
                ));
            }
        }
    }
    println!("{table}");
}

#[tokio::test(start_paused = true)]
async fn each_feature_does_what_it_says_where_aws_answers() {
    let played = play(FEATURES[0], None, true).await;
    let [(AwsCall::Why, _), (AwsCall::Deregister, AwsOutcome::Done(how))] = &ends(&played)[..] else {
        panic!("{:?}", ends(&played));
    };
    assert_eq!(how, "1 target group has let go");
    // Only then the app is told.
    assert!(played.first_step_ms().unwrap() > 0);
    let played = play(FEATURES[1], None, false).await;
    let done = AwsOutcome::Done("the container instance is set to DRAINING".to_owned());
    assert!(
        ends(&played).contains(&(AwsCall::DrainInstance, done)),
        "{:?}",
        ends(&played)
    );
    let played = play(FEATURES[2], None, false).await;
    let done = AwsOutcome::Done("ECS stops this task".to_owned());
    assert!(
        ends(&played).contains(&(AwsCall::StopTask, done)),
        "{:?}",
        ends(&played)
    );
}

#[tokio::test(start_paused = true)]
async fn before_a_quiet_step_targets_need_only_be_draining_and_before_a_call_they_are_gone() {
    let settings = [
        ("AWS_ENDPOINT_URL", "http://169.254.170.9"),
        ("AWS_ACCESS_KEY_ID", "none"),
        ("AWS_SECRET_ACCESS_KEY", "none"),
        ("PRESTOP_DEREGISTER", "true"),
        ("PRESTOP_SETTLE", "3s"),
    ];
    let stand_in = task_at_an_address();
    let (task, other) = ("10.0.2.106:8080", "10.0.2.107:8080");
    stand_in.balance(
        task.parse().unwrap(),
        other.parse().unwrap(),
        Duration::from_secs(300),
    );
    let play = Play::with(stand_in, &settings, &[]).connections(true, Arc::new(|_| Vec::new()));
    let played = play.sigterm_at_2().await;
    assert_eq!(played.code, Code::Drained, "{}", played.details());
    let done = AwsOutcome::Done("1 target group has nothing new for this task".to_owned());
    assert!(
        ends(&played).contains(&(AwsCall::Deregister, done)),
        "{:?}",
        ends(&played)
    );
    assert_eq!(
        played.first_step_ms(),
        Some(3000),
        "at the end of the settle time"
    );
    let stand_in = task_at_an_address();
    balance(&stand_in);
    let call_first = ("PRESTOP_DRAIN", "POST http://app:8080/drain, quiet");
    let settings: Vec<_> = settings.into_iter().chain([call_first]).collect();
    let play = Play::with(stand_in, &settings, &[answer(200)]).connections(true, Arc::new(|_| Vec::new()));
    let played = play.sigterm_at_2().await;
    let done = AwsOutcome::Done("1 target group has let go".to_owned());
    assert!(
        ends(&played).contains(&(AwsCall::Deregister, done)),
        "{:?}",
        ends(&played)
    );
    assert!(played.first_step_ms() >= Some(4000), "{}", played.details());
}

#[tokio::test(start_paused = true)]
async fn what_aws_refuses_is_told_with_what_to_do() {
    for (kind, part) in [
        (FaultKind::Refuse, "AWS cannot be reached"),
        (FaultKind::Hang, "AWS did not answer in time"),
        (FaultKind::Status(500), "HTTP 500"),
    ] {
        let played = play(FEATURES[1], Some(kind), false).await;
        let ends = ends(&played);
        let told = ends.iter().filter_map(|(call, outcome)| match (call, outcome) {
            (AwsCall::DrainInstance, AwsOutcome::Failed(why)) => Some(why.as_str()),
            _ => None,
        });
        let told: Vec<&str> = told.collect();
        assert_eq!(told.len(), 1, "{ends:?}");
        assert!(
            told[0].starts_with("ecs:DescribeTasks") && told[0].contains(part),
            "{}",
            told[0]
        );
    }
}

/// SIGTERM at 30 for a task that others find by a name, and what becomes of its deregistration.
async fn play_named(
    ttl: Option<Duration>,
    at_10: impl FnOnce(&StandIn) + Send + 'static,
) -> (Played, AwsOutcome) {
    let settings = [
        ("PRESTOP_DRAIN", "POST http://app:8080/drain"),
        ("PRESTOP_STOP_TIMEOUT", "60s"),
        ("AWS_ENDPOINT_URL", "http://169.254.170.9"),
        ("AWS_ACCESS_KEY_ID", "none"),
        ("AWS_SECRET_ACCESS_KEY", "none"),
        ("PRESTOP_DEREGISTER", "true"),
    ];
    let stand_in = task_at_an_address();
    stand_in.service_says(json!({"loadBalancers": []}));
    stand_in.find_by_name(ttl);
    let played = Play::with(stand_in, &settings, &[answer(200)])
        .play(|director| async move {
            director.at(10.0).await;
            at_10(&director.stand_in);
            director.at(30.0).await;
            director.sigterm().await;
        })
        .await;
    assert_eq!(played.code, Code::Drained, "{}", played.details());
    let mut ends = ends(&played).into_iter();
    let (_, outcome) = ends.find(|(call, _)| *call == AwsCall::Deregister).unwrap();
    (played, outcome)
}

/// How long clients keep an address.
const TTL: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn a_task_that_others_find_by_name_serves_on_until_no_client_has_its_address() {
    let done = AwsOutcome::Done("no answer of Cloud Map that leads here is still valid".to_owned());
    let (played, outcome) = play_named(Some(TTL), |_| {}).await;
    assert_eq!(outcome, done);
    // Cloud Map takes 2 s to change its record, and the TTL begins then.
    let first_ms = played.first_step_ms().unwrap();
    assert!((12_000..12_500).contains(&first_ms), "{}", played.details());
    // Where ECS was faster, clients may still have got the address a moment ago.
    let (played, outcome) = play_named(Some(TTL), StandIn::deregister_name).await;
    assert_eq!(outcome, done);
    let first_ms = played.first_step_ms().unwrap();
    assert!((10_000..10_500).contains(&first_ms), "{}", played.details());
    // Who asks Cloud Map itself keeps nothing that a TTL tells of.
    let (played, outcome) = play_named(None, |_| {}).await;
    assert_eq!(outcome, done);
    let first_ms = played.first_step_ms().unwrap();
    assert!((2_000..2_500).contains(&first_ms), "{}", played.details());
}

#[tokio::test(start_paused = true)]
async fn a_ttl_that_does_not_fit_is_said_at_start_and_takes_half_of_the_time() {
    let log = Log::capture();
    let stand_in = task_at_an_address();
    stand_in.find_by_name(Some(Duration::from_secs(300)));
    let settings = [
        ("PRESTOP_DRAIN", "POST http://app:8080/drain"),
        ("PRESTOP_STOP_TIMEOUT", "60s"),
        ("AWS_ENDPOINT_URL", "http://169.254.170.9"),
        ("AWS_ACCESS_KEY_ID", "none"),
        ("AWS_SECRET_ACCESS_KEY", "none"),
        ("PRESTOP_DEREGISTER", "true"),
    ];
    let played = Play::with(stand_in, &settings, &[answer(200)])
        .play(|director| async move {
            director.at(30.0).await;
            director.sigterm().await;
        })
        .await;
    assert_eq!(played.code, Code::Drained, "{}", played.details());
    assert_eq!(played.first_step_ms(), Some(29_500), "{}", played.details());
    let said = log.with("clients keep an answer of Cloud Map's srv-e4anhexample0004 for 300 s");
    assert_eq!(said.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_cloud_map_refuses_is_told_and_the_ttl_is_waited_for_all_the_same() {
    for (kind, told) in [
        (
            FaultKind::Error(403),
            "servicediscovery:DeregisterInstance is denied: grant it to the task role; \
             task-definitions/iam/sidecar-cloud-map.json has it",
        ),
        (
            FaultKind::Error(429),
            "servicediscovery:DeregisterInstance: AWS throttles the calls of this account",
        ),
        (
            FaultKind::Hang,
            "servicediscovery:DeregisterInstance: AWS did not answer in time",
        ),
        (
            FaultKind::Refuse,
            "servicediscovery:DeregisterInstance: AWS cannot be reached",
        ),
        (
            FaultKind::Reset,
            "servicediscovery:DeregisterInstance: AWS cannot be reached",
        ),
        (
            FaultKind::Garbage,
            "servicediscovery:DeregisterInstance: AWS cannot be reached",
        ),
        (FaultKind::Huge, "servicediscovery:DeregisterInstance"),
        (
            FaultKind::Error(500),
            "servicediscovery:DeregisterInstance: ServerException: as simulated",
        ),
    ] {
        let broken = move |stand_in: &StandIn| {
            stand_in.break_down(Fault {
                target: FaultTarget::Aws,
                kind,
                lasts: None,
                requests: None,
            });
        };
        let (played, outcome) = play_named(Some(TTL), broken).await;
        let AwsOutcome::Failed(why) = outcome else {
            panic!("{kind:?}: {outcome:?}")
        };
        assert!(why.starts_with(told), "{kind:?}: {why}");
        let first_ms = played.first_step_ms().unwrap();
        // What is asked again is asked for 5 s and a try more.
        assert!(
            (10_000..17_500).contains(&first_ms),
            "{kind:?}: {}",
            played.details()
        );
    }
}

/// The names that are looked up by a task in eu-central-1, with these variables.
async fn hosts(variables: &[(&str, &str)]) -> Vec<String> {
    let feature = [
        ("PRESTOP_DRAIN", "POST http://app:8080/drain"),
        ("PRESTOP_DEREGISTER", "true"),
        ("AWS_ACCESS_KEY_ID", "none"),
        ("AWS_SECRET_ACCESS_KEY", "none"),
    ];
    let all: Vec<(&str, &str)> = feature.iter().chain(variables).copied().collect();
    let stand_in = task_at_an_address();
    balance(&stand_in);
    stand_in.find_by_name(Some(TTL));
    let mut hosts = Play::with(stand_in, &all, &[answer(200)])
        .sigterm_at_2()
        .await
        .other_lookups;
    hosts.retain(|host| host.contains("amazonaws") || host.ends_with("api.aws"));
    hosts.sort_unstable();
    hosts.dedup();
    hosts
}

#[tokio::test(start_paused = true)]
async fn the_endpoints_are_those_of_the_region_with_fips_and_dual_stack_where_wanted() {
    let (fips, dual_stack) = (
        ("AWS_USE_FIPS_ENDPOINT", "true"),
        ("AWS_USE_DUALSTACK_ENDPOINT", "true"),
    );
    let region = ("AWS_REGION", "us-east-1");
    let ecs = ("AWS_ENDPOINT_URL_ECS", "http://169.254.170.9");
    let balancing = (
        "AWS_ENDPOINT_URL_ELASTIC_LOAD_BALANCING_V2",
        "http://169.254.170.9",
    );
    let cloud_map = ("AWS_ENDPOINT_URL_SERVICEDISCOVERY", "http://169.254.170.9");
    for (variables, host) in [
        (&[][..], "ecs.eu-central-1.amazonaws.com"),
        (&[region], "ecs.us-east-1.amazonaws.com"),
        (&[region, fips], "ecs-fips.us-east-1.amazonaws.com"),
        (&[dual_stack], "ecs.eu-central-1.api.aws"),
        (&[region, fips, dual_stack], "ecs-fips.us-east-1.api.aws"),
        (
            &[ecs, cloud_map],
            "elasticloadbalancing.eu-central-1.amazonaws.com",
        ),
        (&[ecs, balancing], "servicediscovery.eu-central-1.amazonaws.com"),
        (
            &[ecs, balancing, ("AWS_REGION", "cn-north-1")],
            "servicediscovery.cn-north-1.amazonaws.com.cn",
        ),
    ] {
        assert_eq!(hosts(variables).await, [host], "{variables:?}");
    }
    for (region, fips, dual_stack, url) in [
        (
            "us-east-1",
            true,
            false,
            "https://servicediscovery-fips.us-east-1.amazonaws.com",
        ),
        (
            "us-east-1",
            true,
            true,
            "https://servicediscovery-fips.us-east-1.api.aws",
        ),
        (
            "eu-central-1",
            false,
            true,
            "https://servicediscovery.eu-central-1.api.aws",
        ),
    ] {
        assert_eq!(endpoint(region, fips, dual_stack).await.unwrap(), url);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_timeout_that_ecs_tells_is_the_only_one_that_anything_is_held_against() {
    // A delay of 30 s fits into half of 119 s, and not into half of 29 s.
    for (stop_timeout, warned) in [(120, 0), (30, 1)] {
        let log = Log::capture();
        let definition = json!({
            "family": "web", "networkMode": "awsvpc",
            "containerDefinitions": [
                {"name": "app", "portMappings": [{"containerPort": 8080}]},
                {"name": "prestop", "stopTimeout": stop_timeout}
            ]
        });
        let stand_in = StandIn::new(Definition::from_value(&definition).unwrap());
        let (task, other) = ("10.0.2.106:8080", "10.0.2.107:8080");
        stand_in.balance(
            task.parse().unwrap(),
            other.parse().unwrap(),
            Duration::from_secs(30),
        );
        let settings = [
            ("PRESTOP_DRAIN", "POST http://app:8080/drain"),
            ("PRESTOP_STOP_TIMEOUT", "auto"),
            ("PRESTOP_DEREGISTER", "true"),
            ("AWS_ENDPOINT_URL", "http://169.254.170.9"),
            ("AWS_ACCESS_KEY_ID", "none"),
            ("AWS_SECRET_ACCESS_KEY", "none"),
        ];
        let played = Play::with(stand_in, &settings, &[answer(200)])
            .play(|director| async move {
                director.at(60.0).await;
                director.sigterm().await;
            })
            .await;
        assert_eq!(played.code, Code::Drained);
        assert_eq!(
            log.with("keeps connections for 30 s").len(),
            warned,
            "{stop_timeout} s"
        );
        assert_eq!(log.with("stop_timeout_ms").len(), 0, "it is not known at start");
        assert_eq!(
            log.with(&format!("the stop timeout of `prestop` is {stop_timeout} s"))
                .len(),
            1
        );
    }
}
