//! What settings are taken, what is refused, and in which words.

use std::time::Duration;

use super::settings::in_seconds;
use super::*;
use crate::core::lifecycle::AfterDrain;

fn read(variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Config::read(|_| None, variables).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

/// The one message that a single variable leads to.
fn refused(name: &str, value: &str) -> String {
    let messages = read(&[(name, value)]).expect_err(&format!("{name}={value} must be refused"));
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert!(messages[0].contains(name), "{messages:?}");
    messages[0].clone()
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let config = read(&[]).unwrap();
    assert_eq!(config.drain, []);
    assert_eq!(config.policy.limits.stop_timeout.get(), Duration::from_secs(30));
    assert_eq!(config.policy.limits.reserve.get(), Duration::from_secs(10));
    assert_eq!(config.policy.settle, Duration::ZERO);
    assert_eq!(config.policy.after_drain, AfterDrain::Wait);
    assert_eq!(config.capacity, Capacity::Auto);
    assert_eq!(config.watch, [WatchItem::Spot]);
    assert_eq!(config.poll_interval, Duration::from_secs(1));
    assert_eq!(config.listen.unwrap().to_string(), "127.0.0.1:9911");
    assert_eq!(config.instance_metadata.to_string(), "http://169.254.169.254/");
    assert_eq!(
        (config.token, config.ready_url, config.task_metadata),
        (None, None, None)
    );
    for setting in SETTINGS.iter().filter(|s| !s.default.is_empty()) {
        assert!(
            read(&[(&setting.variable(), setting.default)]).is_ok(),
            "{}",
            setting.name
        );
    }
}

#[test]
fn every_default_is_read_as_if_it_were_given() {
    for setting in SETTINGS {
        let given = read(&[(&setting.variable(), setting.default)]).unwrap();
        assert_eq!(
            format!("{given:?}"),
            format!("{:?}", read(&[]).unwrap()),
            "{}",
            setting.name
        );
    }
}

#[test]
fn every_meaning_tells_the_bounds_that_are_enforced() {
    let bounded: Vec<_> = SETTINGS
        .iter()
        .filter_map(|setting| Some((setting, setting.bounds?)))
        .collect();
    assert_eq!(bounded.len(), 4);
    for (setting, bounds) in bounded {
        let told = format!("{} to {}", in_seconds(bounds.least), in_seconds(bounds.most));
        assert!(setting.meaning.contains(&told), "{}: {told}", setting.name);
        assert!(
            read(&[(&setting.variable(), &in_seconds(bounds.most))]).is_ok(),
            "{}",
            setting.name
        );
        let beyond = in_seconds(bounds.most + Duration::from_millis(1));
        assert!(
            read(&[(&setting.variable(), &beyond)]).is_err(),
            "{}",
            setting.name
        );
    }
}

#[test]
fn every_duration_is_taken_at_its_bounds_and_refused_beyond_them() {
    for (name, least, most, below, above) in [
        ("PRESTOP_STOP_TIMEOUT", "2s", "120s", "1999ms", "121s"),
        ("PRESTOP_RESERVE", "0", "110s", "-1s", "111s"),
        ("PRESTOP_SETTLE", "0s", "2m", "-1", "121"),
        ("PRESTOP_POLL_INTERVAL", "200ms", "60s", "199ms", "61s"),
    ] {
        for value in [least, most] {
            assert!(read(&[(name, value)]).is_ok(), "{name}={value}");
        }
        for value in [below, above, "soon", "1 0", "∞", "1e9", "99999999999999999999"] {
            let message = refused(name, value);
            assert!(message.contains(&format!("`{value}`")), "{message}");
            assert!(message.contains("allowed is a duration of"), "{message}");
        }
    }
}

#[test]
fn durations_read_as_people_write_them() {
    for (text, millis) in [
        ("90s", 90_000),
        ("1m30s", 90_000),
        ("1500ms", 1500),
        ("45", 45_000),
        ("1.5s", 1500),
        ("2h", 7_200_000),
    ] {
        assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
    }
    for text in ["", "s", "PT1S", "-5s", "5 s", "1m ago", "5x"] {
        assert_eq!(duration(text), None, "{text}");
    }
}

#[test]
fn a_message_has_bounds_and_an_example_that_fit_its_variable() {
    let examples = |message: &str| -> Vec<Duration> {
        let (_, examples) = message.split_once("such as ").unwrap_or_default();
        let words = examples.split([' ', ',', ';']);
        words.filter_map(duration).collect()
    };
    for (name, least, most) in [
        ("PRESTOP_STOP_TIMEOUT", "2s", "120s"),
        ("PRESTOP_RESERVE", "0s", "110s"),
        ("PRESTOP_SETTLE", "0s", "120s"),
        ("PRESTOP_POLL_INTERVAL", "200ms", "60s"),
    ] {
        let message = refused(name, "1h");
        assert!(message.contains(&format!("{least} to {most}")), "{message}");
        let examples = examples(&message);
        assert!(!examples.is_empty(), "{message}");
        let bounds = duration(least).unwrap()..=duration(most).unwrap();
        assert!(
            examples.iter().all(|example| bounds.contains(example)),
            "{message}"
        );
        for example in examples {
            let value = format!("{}ms", example.as_millis());
            assert!(read(&[(name, &value)]).is_ok(), "{name}={value}");
        }
    }
    assert!(refused("PRESTOP_STOP_TIMEOUT", "1h").contains("`auto`"));
    assert!(refused("PRESTOP_STOP_TIMEOUT", "Auto").contains("`auto`"));
    assert!(!refused("PRESTOP_RESERVE", "1h").contains("auto"));
}

#[test]
fn an_ack_step_needs_the_local_endpoints() {
    let off = ("PRESTOP_LISTEN", "off");
    let refusal = |variables: &[(&str, &str)]| {
        let config = read(variables).unwrap();
        let refusal = config.refuses(&Plan::from_setting(&config.drain).unwrap());
        refusal.map(|problem| problem.to_string())
    };
    for drain in ["ack", "http://app/, ack"] {
        let message = refusal(&[("PRESTOP_DRAIN", drain), off]).unwrap();
        assert!(
            message.starts_with("PRESTOP_LISTEN is `off`:") && message.contains("/drained"),
            "{message}"
        );
    }
    assert_eq!(refusal(&[("PRESTOP_DRAIN", "http://app/"), off]), None);
    assert_eq!(refusal(&[("PRESTOP_DRAIN", "ack")]), None);
}

#[test]
fn choices_and_lists_name_what_is_allowed() {
    assert!(refused("PRESTOP_CAPACITY", "cheap").contains("`auto` or `on-demand` or `spot`"));
    assert!(refused("PRESTOP_AFTER_DRAIN", "leave").contains("`wait` or `exit`"));
    assert!(refused("PRESTOP_LOG_FORMAT", "xml").contains("`json` or `text`"));
    assert!(refused("PRESTOP_WATCH", "spot,weather").contains("`rebalance`"));
    assert!(refused("PRESTOP_WATCH", "spot,none").contains("`none` alone"));
    assert!(refused("PRESTOP_LISTEN", "9911").contains("127.0.0.1:9911"));
    assert!(refused("PRESTOP_LISTEN", "localhost:9911").contains("`off`"));
    for filter in ["a=b=c", "bogus", "information", "info,bogus"] {
        assert!(refused("PRESTOP_LOG", filter).contains("`info`"));
    }
    assert!(!refused("PRESTOP_DRAIN", "http://me:p4ss@app/").contains("p4ss"));
    assert!(refused("PRESTOP_READY_URL", "https://app/").contains("http://"));
    assert!(refused("PRESTOP_DRAIN", "https://app/").contains("http://"));
    assert!(refused("PRESTOP_PROTECT", "yes").contains("`false` or `true`"));
    assert!(refused("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "ipv5").contains("`IPv4` or `IPv6`"));
    assert!(refused("ECS_CONTAINER_METADATA_URI_V4", "nonsense").contains("http://"));
    let all = read(&[("PRESTOP_WATCH", "rebalance, spot,maintenance,autoscaling")]).unwrap();
    assert_eq!(all.watch.len(), 4);
    assert_eq!(read(&[("PRESTOP_WATCH", "none")]).unwrap().watch, []);
    for (set, expected) in [
        (&[][..], false),
        (&[("PRESTOP_PROTECT", "true")][..], true),
        (
            &[("PRESTOP_PROTECT", "true"), ("PRESTOP_WATCH", "spot")][..],
            false,
        ),
        (&[("PRESTOP_WATCH", "spot, superseded")][..], true),
        (&[("PRESTOP_WATCH", "superseded")][..], true),
    ] {
        assert_eq!(read(set).unwrap().watch_superseded, expected, "{set:?}");
    }
    assert_eq!(read(&[("PRESTOP_LISTEN", "off")]).unwrap().listen, None);
}

#[test]
fn protection_needs_the_agent_where_there_is_one_and_a_busy_url_needs_protection() {
    let protect = ("PRESTOP_PROTECT", "true");
    let in_ecs = ("ECS_CONTAINER_METADATA_URI_V4", "http://169.254.170.2/v4/id");
    let agent = ("ECS_AGENT_URI", "http://169.254.170.2/api/id");
    let busy = ("PRESTOP_BUSY_URL", "http://app:8080/busy");
    let config = read(&[protect, in_ecs, agent, busy]).unwrap();
    assert!(config.protect);
    assert_eq!(config.busy_url.unwrap().to_string(), busy.1);
    assert_eq!(config.agent.unwrap().to_string(), agent.1);
    assert!(read(&[protect]).is_ok(), "on a laptop there is a warning");
    assert_eq!(
        read(&[protect, in_ecs]).unwrap_err(),
        [
            "PRESTOP_PROTECT is `true`: needs the agent's endpoint, which ECS sets in ECS_AGENT_URI (EC2 agent \
          1.65.0, Fargate platform 1.4.0)"
        ]
    );
    assert_eq!(
        read(&[protect, in_ecs, ("ECS_AGENT_URI", "nonsense")])
            .unwrap_err()
            .len(),
        1
    );
    assert!(read(&[in_ecs, ("PRESTOP_PROTECT", "false")]).is_ok());
    let off = ("PRESTOP_LISTEN", "off");
    assert!(read(&[protect, off]).unwrap_err()[0].contains("PRESTOP_BUSY_URL"));
    assert!(read(&[protect, off, busy]).is_ok());
    assert!(refused("PRESTOP_BUSY_URL", busy.1).contains("PRESTOP_PROTECT=true"));
    assert!(read(&[protect, ("PRESTOP_BUSY_URL", "https://app/")]).unwrap_err()[0].contains("http://"));
}

#[test]
fn an_unknown_variable_is_refused_with_the_nearest_name() {
    assert!(refused("PRESTOP_STOPTIMEOUT", "30").contains("did you mean PRESTOP_STOP_TIMEOUT?"));
    assert!(refused("PRESTOP_DRIAN", "ack").contains("did you mean PRESTOP_DRAIN?"));
    assert!(refused("PRESTOP_COLOUR", "1").contains("lists them all"));
}

#[test]
fn a_token_is_never_quoted() {
    let message = refused("PRESTOP_DRAIN_TOKEN", "with space");
    assert!(!message.contains("with space"), "{message}");
    assert!(
        read(&[("PRESTOP_DRAIN_TOKEN", "s3cret")])
            .unwrap()
            .token
            .is_some()
    );
}

#[test]
fn all_mistakes_are_reported_together() {
    let messages = read(&[
        ("PRESTOP_X", "1"),
        ("PRESTOP_RESERVE", "x"),
        ("PRESTOP_LISTEN", "x"),
    ])
    .unwrap_err();
    assert_eq!(messages.len(), 3, "{messages:?}");
}

#[test]
fn a_flag_wins_over_its_variable_and_is_named_in_the_message() {
    let flag = |name: &str| (name == "stop-timeout").then(|| "5m".to_owned());
    let variables = [("PRESTOP_STOP_TIMEOUT".to_owned(), "9s".to_owned())];
    let problems = Config::read(flag, variables).unwrap_err();
    assert!(
        problems[0].to_string().starts_with("--stop-timeout is `5m`"),
        "{problems:?}"
    );
}

#[test]
fn an_empty_variable_counts_as_not_given() {
    assert!(
        read(&[
            ("PRESTOP_STOP_TIMEOUT", ""),
            ("PRESTOP_DRAIN", ""),
            ("PRESTOP_WHAT", "")
        ])
        .is_ok()
    );
}

#[test]
fn the_instance_metadata_is_found_by_the_variables_of_the_aws_sdks() {
    let endpoint = |variables| read(variables).unwrap().instance_metadata.to_string();
    assert_eq!(
        endpoint(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPv6")]),
        "http://[fd00:ec2::254]/"
    );
    assert_eq!(
        endpoint(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://ecs:51678")]),
        "http://ecs:51678/"
    );
    assert_eq!(read(&[("AWS_EC2_METADATA_DISABLED", "true")]).unwrap().watch, []);
}
