//! Each row of the answers table: what an answer to the drain call leads to.

use ecs_prestop::core::lifecycle::{Code, StepStatus};
use ecs_prestop::tools::simulate::StandIn;

use crate::memory::{Does, Play, Played, Request, answer, response};

const ONE_CALL: [(&str, &str); 1] = [("PRESTOP_DRAIN", "POST http://app:8080/drain")];

/// A SIGTERM at second 2, a stop timeout of 30 s: the deadline is at second 31.
async fn drained_by(script: &[Does]) -> Played {
    Play::new(&ONE_CALL, script).sigterm_at_2().await
}

fn chunked(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
}

#[tokio::test(start_paused = true)]
async fn a_2xx_drains_and_the_sidecar_is_gone_at_once() {
    for status in [200, 201, 204, 299] {
        let played = drained_by(&[answer(status)]).await;
        assert_eq!(played.code, Code::Drained, "{status}");
        assert_eq!(played.requests.len(), 1, "{status}");
        assert!(played.ended_at < 2.1, "{status}: {}", played.ended_at);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_held_back_is_waited_for() {
    let played = drained_by(&[Does::AnswersAfter(25.0, response(200, "", ""))]).await;
    assert_eq!(played.code, Code::Drained);
    assert!((27.0..27.1).contains(&played.ended_at), "{}", played.ended_at);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_streams_progress_is_waited_for_to_its_end() {
    let played = drained_by(&[Does::Streams(chunked("1\r\nx\r\n"), 20.0, "0\r\n\r\n".to_owned())]).await;
    assert_eq!(played.code, Code::Drained);
    assert!((22.0..22.1).contains(&played.ended_at), "{}", played.ended_at);
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_never_ends_is_left_at_the_deadline() {
    for does in [
        Does::Hangs,
        Does::Streams(chunked("1\r\nx\r\n"), 3600.0, String::new()),
    ] {
        let played = drained_by(&[does]).await;
        assert_eq!(played.code, Code::Deadline);
        assert_eq!(played.ended_at, 31.0);
        assert_eq!(played.ending.report.steps[0].status, StepStatus::Dropped(None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_202_is_asked_every_half_second_at_its_own_url_until_another_2xx() {
    let played = drained_by(&[answer(202), answer(202), answer(202), answer(200)]).await;
    assert_eq!(played.code, Code::Drained);
    let lines: Vec<&str> = played.requests.iter().map(Request::line).collect();
    assert_eq!(
        lines,
        [
            "POST /drain HTTP/1.1",
            "GET /drain HTTP/1.1",
            "GET /drain HTTP/1.1",
            "GET /drain HTTP/1.1"
        ]
    );
    let pauses: Vec<f64> = played
        .requests
        .windows(2)
        .map(|pair| pair[1].at - pair[0].at)
        .collect();
    assert!(
        pauses.iter().all(|pause| (0.5..0.52).contains(pause)),
        "{pauses:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_202_is_asked_where_its_location_points_after_its_retry_after() {
    let first = Does::Answers(response(202, "Location: /state/7\r\nRetry-After: 3\r\n", ""));
    let played = drained_by(&[first, answer(200)]).await;
    assert_eq!(played.requests[1].line(), "GET /state/7 HTTP/1.1");
    let pause = played.requests[1].at - played.requests[0].at;
    assert!((3.0..3.1).contains(&pause), "{pause}");
}

#[tokio::test(start_paused = true)]
async fn after_a_202_a_404_or_410_says_that_it_is_done() {
    for status in [404, 410] {
        let played = drained_by(&[answer(202), answer(status)]).await;
        assert_eq!(played.code, Code::Drained, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_202_a_busy_answer_is_asked_again_and_a_403_fails() {
    let played = drained_by(&[answer(202), answer(503), answer(200)]).await;
    assert_eq!(played.code, Code::Drained);
    let played = drained_by(&[answer(202), answer(403)]).await;
    assert_eq!(played.code, Code::Failed);
}

#[tokio::test(start_paused = true)]
async fn refused_after_a_202_means_that_the_app_has_exited() {
    for script in [
        vec![answer(202), Does::Refuses],
        vec![answer(202), Does::Closes, Does::Refuses],
    ] {
        let played = drained_by(&script).await;
        assert_eq!(played.code, Code::Drained);
        assert!(
            played.details().contains("the app has exited"),
            "{}",
            played.details()
        );
    }
}

/// The first part of an answer of a thousand bytes.
fn broken_off() -> Does {
    Does::AnswersAndCloses("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc".to_owned())
}

#[tokio::test(start_paused = true)]
async fn an_app_that_exits_in_the_middle_of_its_answer_has_drained() {
    let played = drained_by(&[broken_off(), Does::Refuses]).await;
    assert_eq!((played.code, played.requests.len()), (Code::Drained, 1));
    assert!(played.ended_at < 2.2, "{}", played.ended_at);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_says_nothing_of_an_app_that_still_listens() {
    let closed_after_202 = vec![answer(202), Does::Closes];
    for script in [vec![broken_off()], closed_after_202] {
        let played = drained_by(&script).await;
        assert_eq!(
            (played.code, played.ended_at),
            (Code::Deadline, 31.0),
            "{}",
            played.details()
        );
    }
    let played = drained_by(&[broken_off(), Does::Hangs, answer(200)]).await;
    assert_eq!(played.code, Code::Drained, "it is asked again");
    assert!(played.details().contains("HTTP 200"), "{}", played.details());
}

#[tokio::test(start_paused = true)]
async fn refused_for_five_seconds_after_a_call_that_was_no_2xx_says_nothing_of_the_app() {
    for does in [Does::Closes, answer(503)] {
        let played = drained_by(&[does, Does::Refuses]).await;
        assert_eq!(played.code, Code::Failed, "{}", played.details());
        assert!((7.0..7.6).contains(&played.ended_at), "{}", played.ended_at);
    }
}

/// Two addresses lead to a container that shares the network: 127.0.0.1 and ::1.
async fn at_two_addresses(v4: &[Does], v6: &[Does]) -> Played {
    Play::new(&ONE_CALL, &[])
        .listens("127.0.0.1:8080", v4)
        .listens("[::1]:8080", v6)
        .sigterm_at_2()
        .await
}

#[tokio::test(start_paused = true)]
async fn a_full_accept_queue_at_one_address_outranks_a_refusal_at_the_other() {
    let full = [Does::NeverConnects];
    for (v4, v6) in [(&full, &[Does::Refuses]), (&[Does::Refuses], &full)] {
        let played = at_two_addresses(v4, v6).await;
        assert_eq!(
            (played.code, played.ended_at),
            (Code::Deadline, 31.0),
            "{}",
            played.details()
        );
    }
    // The same once a call has been taken, and once a 202 has come from the overloaded address.
    let overloaded = [answer(202), Does::NeverConnects, Does::NeverConnects, answer(200)];
    let played = at_two_addresses(&overloaded, &[Does::Refuses]).await;
    assert_eq!((played.code, played.requests.len()), (Code::Drained, 2));
    assert!(played.details().contains("HTTP 200"), "{}", played.details());
}

#[tokio::test(start_paused = true)]
async fn an_address_that_this_host_cannot_use_hides_no_refusal() {
    let no_v6 = [Does::NoSuchAddress];
    let played = at_two_addresses(&[answer(202), Does::Refuses], &no_v6).await;
    assert_eq!(played.code, Code::Drained, "the app has exited after its 202");
    assert!(played.ended_at < 3.0, "{}", played.ended_at);
    let played = at_two_addresses(&[Does::Refuses], &no_v6).await;
    assert_eq!(played.code, Code::Failed, "nobody listens");
    assert!((7.0..7.1).contains(&played.ended_at), "{}", played.ended_at);
}

#[tokio::test(start_paused = true)]
async fn only_the_address_that_gave_a_202_can_have_exited() {
    let second = [answer(202), Does::Refuses];
    let played = at_two_addresses(&[Does::Refuses, answer(503)], &second).await;
    assert_eq!(played.code, Code::Drained);
    assert_eq!(
        played.requests.len(),
        1,
        "the other address is not asked any more"
    );
}

fn accepted(location: &str) -> Does {
    Does::Answers(response(202, &format!("Location: {location}\r\n"), ""))
}

#[tokio::test(start_paused = true)]
async fn a_location_is_resolved_as_rfc_3986_has_it() {
    for (location, asked) in [
        ("../state/7", "GET /state/7 HTTP/1.1"),
        ("./a/./b/../c", "GET /a/c HTTP/1.1"),
        (
            "/state?next=http://app:8080/x",
            "GET /state?next=http://app:8080/x HTTP/1.1",
        ),
        ("?next=http://app/", "GET /drain?next=http://app/ HTTP/1.1"),
        ("/state#part", "GET /state HTTP/1.1"),
    ] {
        let played = drained_by(&[accepted(location), answer(200)]).await;
        assert_eq!(played.requests[1].line(), asked, "{location}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_location_that_cannot_be_used_turns_no_404_into_drained() {
    for location in ["https://app/state", "/with space", "http://[", "mailto:me"] {
        let played = drained_by(&[accepted(location), answer(404)]).await;
        assert_eq!(
            (played.code, played.ended_at),
            (Code::Deadline, 31.0),
            "{location}: {}",
            played.details()
        );
        let played = drained_by(&[accepted(location), answer(404), answer(200)]).await;
        assert_eq!(played.code, Code::Drained, "{location}: the URL itself is asked");
    }
}

#[tokio::test(start_paused = true)]
async fn a_location_on_a_port_where_nobody_listens_says_nothing_of_the_app() {
    for location in ["http://app/state", "http://app:81/state", "//app:81/state"] {
        let played = drained_by(&[accepted(location), answer(202), answer(200)]).await;
        assert_eq!(played.code, Code::Drained, "{location}: {}", played.details());
        assert_eq!(
            played.requests[1].line(),
            "GET /drain HTTP/1.1",
            "{location}: asked again where the 202 came from"
        );
        let played = drained_by(&[accepted(location)]).await;
        assert_eq!(
            (played.code, played.ended_at),
            (Code::Deadline, 31.0),
            "{location}"
        );
        let played = drained_by(&[accepted(location), Does::Refuses]).await;
        assert_eq!(
            played.code,
            Code::Drained,
            "{location}: the app itself has exited"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_404_of_somebody_else_is_not_the_apps() {
    let play =
        Play::new(&ONE_CALL, &[accepted("http://app:81/state")]).listens("127.0.0.1:81", &[answer(404)]);
    let played = play.sigterm_at_2().await;
    assert_eq!(
        (played.code, played.ended_at),
        (Code::Deadline, 31.0),
        "{}",
        played.details()
    );
    // One that has said 202 itself may say that it is done.
    let play = Play::new(&ONE_CALL, &[accepted("http://app:81/state")])
        .listens("127.0.0.1:81", &[answer(202), answer(404)]);
    assert_eq!(play.sigterm_at_2().await.code, Code::Drained);
}

#[tokio::test(start_paused = true)]
async fn the_token_goes_to_the_host_and_port_of_the_url_only_and_is_in_no_line() {
    let variables = [ONE_CALL[0], ("PRESTOP_DRAIN_TOKEN", "s3cret")];
    let play = Play::new(
        &variables,
        &[accepted("http://app:81/s3cret"), accepted("/mine"), answer(200)],
    )
    .listens("127.0.0.1:81", &[answer(503), Does::Refuses]);
    let played = play.sigterm_at_2().await;
    assert_eq!(played.code, Code::Drained);
    for request in &played.requests {
        let foreign = request.header("host").is_some_and(|host| host.ends_with(":81"));
        assert_eq!(request.header("authorization").is_none(), foreign, "{request:?}");
    }
    let echoes = [
        accepted("http://s3cret.example/state"),
        Does::AnswersAndCloses("HTTP/1.1 s3cret\r\n\r\n".to_owned()),
        answer(403),
    ];
    let played = Play::new(&variables, &echoes).sigterm_at_2().await;
    let story = serde_json::to_string(&played.ending.report).unwrap();
    assert!(!story.contains("s3cret"), "{story}");
}

#[tokio::test(start_paused = true)]
async fn an_app_that_is_restarted_in_the_middle_is_told_again() {
    let played = drained_by(&[Does::Closes, Does::Refuses, Does::Refuses, answer(200)]).await;
    assert_eq!((played.code, played.requests.len()), (Code::Drained, 2));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_no_http_is_not_taken_for_an_exit() {
    let nonsense = Does::Streams(chunked("1\r\nx\r\n"), 1.0, "nonsense\r\n".to_owned());
    let played = drained_by(&[nonsense, answer(200)]).await;
    assert_eq!((played.code, played.requests.len()), (Code::Drained, 2));
}

#[tokio::test(start_paused = true)]
async fn a_way_that_is_lost_after_a_202_says_nothing_of_the_app() {
    let played = drained_by(&[answer(202), Does::NoRoute]).await;
    assert_eq!((played.code, played.ended_at), (Code::Deadline, 31.0));
}

#[tokio::test(start_paused = true)]
async fn a_location_on_another_host_gets_no_token_and_a_long_one_is_ignored() {
    let variables = [ONE_CALL[0], ("PRESTOP_DRAIN_TOKEN", "s3cret")];
    let elsewhere = Does::Answers(response(202, "Location: http://10.0.0.9:8080/s3cret\r\n", ""));
    let played = Play::new(&variables, &[elsewhere, answer(200)])
        .sigterm_at_2()
        .await;
    assert_eq!(played.code, Code::Drained);
    assert_eq!(played.requests[1].header("host"), Some("10.0.0.9:8080"));
    assert_eq!(played.requests[1].header("authorization"), None);
    let story = serde_json::to_string(&played.ending.report).unwrap();
    assert!(!story.contains("s3cret"), "{story}");

    let long = format!("Location: /{}\r\nRetry-After: 0\r\n", "x".repeat(8000));
    let played = drained_by(&[Does::Answers(response(202, &long, ""))]).await;
    assert_eq!(played.requests[1].line(), "GET /drain HTTP/1.1");
    assert!(
        played.requests.len() < 300,
        "Retry-After: 0 has a floor: {}",
        played.requests.len()
    );
}

#[tokio::test(start_paused = true)]
async fn a_pause_ends_when_a_stricter_notice_comes() {
    let later = Does::Answers(response(503, "Retry-After: 90\r\n", ""));
    let played = Play::new(&ONE_CALL, &[later, answer(200)])
        .play(|director| async move {
            director.at(2.0).await;
            director.manual().await;
            director.at(10.0).await;
            director.sigterm().await;
        })
        .await;
    assert_eq!((played.code, played.ended_at), (Code::Drained, 10.0));
}

#[tokio::test(start_paused = true)]
async fn busy_and_broken_answers_are_tried_again_with_growing_pauses() {
    for status in [408, 425, 429, 500, 502, 503, 504] {
        let played = drained_by(&[answer(status), answer(status), answer(200)]).await;
        assert_eq!(
            (played.code, played.requests.len()),
            (Code::Drained, 3),
            "{status}"
        );
    }
    let garbage = Does::AnswersAndCloses("SMTP ready\r\n\r\n".to_owned());
    for does in [Does::Closes, Does::NeverConnects, garbage] {
        let played = drained_by(&[does.clone(), answer(200)]).await;
        assert_eq!(played.code, Code::Drained, "{does:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn retries_end_at_the_deadline_and_are_bounded_in_number() {
    let played = drained_by(&[answer(503)]).await;
    assert_eq!((played.code, played.ended_at), (Code::Deadline, 31.0));
    assert!(
        (8..40).contains(&played.requests.len()),
        "{}",
        played.requests.len()
    );
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_honoured_within_the_deadline() {
    let later = |seconds: &str| Does::Answers(response(503, &format!("Retry-After: {seconds}\r\n"), ""));
    let played = drained_by(&[later("7"), answer(200)]).await;
    assert!((9.0..9.1).contains(&played.ended_at), "{}", played.ended_at);
    let played = drained_by(&[later("86400"), answer(200)]).await;
    assert_eq!(played.code, Code::Drained, "asked once more before the deadline");
    assert!(played.ended_at < 31.0);
    let played = drained_by(&[later("99999999999999999999"), later("-7"), answer(200)]).await;
    assert_eq!(played.code, Code::Drained);
}

#[tokio::test(start_paused = true)]
async fn refused_without_any_contact_fails_after_five_seconds() {
    let played = drained_by(&[Does::Refuses]).await;
    assert_eq!(played.code, Code::Failed);
    assert!((7.0..7.1).contains(&played.ended_at), "{}", played.ended_at);
    assert!(played.details().contains("Is the app up"), "{}", played.details());
}

#[tokio::test(start_paused = true)]
async fn refused_by_an_app_that_is_still_starting_is_tried_again() {
    let played = drained_by(&[Does::Refuses, Does::Refuses, answer(200)]).await;
    assert_eq!(played.code, Code::Drained);
}

#[tokio::test(start_paused = true)]
async fn refused_by_a_container_that_ecs_knows_as_stopped_is_drained_at_once() {
    for host in ["app", "127.0.0.1"] {
        let stand_in = StandIn::sample();
        stand_in.container_stopped("app");
        let drain = format!("POST http://{host}:8080/drain");
        let played = Play::with(stand_in, &[("PRESTOP_DRAIN", &drain)], &[Does::Refuses]);
        let played = played.sigterm_at_2().await;
        assert_eq!(played.code, Code::Drained, "{host}");
        assert!(played.ended_at < 2.1, "{host}: {}", played.ended_at);
        assert!(
            played.details().contains("`app` is STOPPED"),
            "{}",
            played.details()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn any_other_4xx_and_every_3xx_fails_the_step_and_says_what_to_look_at() {
    for (status, hint) in [
        (301, "redirects are not followed"),
        (307, "redirects are not followed"),
        (400, "app's log"),
        (401, "PRESTOP_DRAIN_TOKEN"),
        (404, "is the path right"),
        (405, "another method"),
    ] {
        let redirect = Does::Answers(response(status, "Location: http://app:8080/elsewhere\r\n", ""));
        let played = drained_by(&[redirect]).await;
        assert_eq!(
            (played.code, played.requests.len()),
            (Code::Failed, 1),
            "{status}"
        );
        assert!(played.details().contains(hint), "{status}: {}", played.details());
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_step_that_failed_the_next_one_is_done() {
    let steps = [("PRESTOP_DRAIN", "http://app:8080/a, PUT http://app:8080/b")];
    let played = Play::new(&steps, &[answer(404), answer(200)])
        .sigterm_at_2()
        .await;
    assert_eq!(played.code, Code::Failed);
    let lines: Vec<&str> = played.requests.iter().map(Request::line).collect();
    assert_eq!(lines, ["POST /a HTTP/1.1", "PUT /b HTTP/1.1"]);
}

#[tokio::test(start_paused = true)]
async fn endless_heads_and_bodies_neither_grow_nor_hold_the_sidecar() {
    let endless_head = format!("HTTP/1.1 200 OK\r\n{}", "X-A: b\r\n".repeat(100_000));
    let long_body = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(3_000_000));
    for (bytes, code) in [(endless_head, Code::Deadline), (long_body, Code::Drained)] {
        let played = drained_by(&[Does::AnswersAndCloses(bytes)]).await;
        assert_eq!(played.code, code);
        assert!(played.ended_at <= 31.0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_request_tells_why_how_long_and_who() {
    let variables = [ONE_CALL[0], ("PRESTOP_DRAIN_TOKEN", "s3cret")];
    let played = Play::new(&variables, &[answer(503), answer(202), answer(200)])
        .sigterm_at_2()
        .await;
    let first = &played.requests[0];
    assert_eq!(first.line(), "POST /drain HTTP/1.1");
    assert_eq!(
        first.header("host"),
        Some("localhost:8080"),
        "`app` leads to loopback"
    );
    assert_eq!(first.header("content-type"), Some("application/json"));
    assert_eq!(first.header("prestop-reason"), Some("sigterm"));
    assert_eq!(first.header("prestop-seconds-left"), Some("29.0"));
    assert_eq!(first.header("authorization"), Some("Bearer s3cret"));
    let key = first.header("idempotency-key").unwrap();
    assert_eq!(key, "5e0c4bf0d1e24d4e8a4f6a5f7f0c9b11-1");
    let body: serde_json::Value = serde_json::from_str(first.body()).unwrap();
    assert_eq!(body["event"], "drain");
    assert_eq!(body["reason"], "sigterm");
    assert_eq!(body["action"], serde_json::Value::Null);
    assert_eq!(body["seconds_left"], 29.0);
    assert_eq!(body["cluster"], "laptop");
    assert_eq!(body["container"], "app");
    assert!(body["task_arn"].as_str().unwrap().ends_with(&key[..32]));
    assert_eq!(
        body["deadline"].as_str().unwrap().len(),
        "2026-01-01T00:01:50Z".len()
    );
    for again in &played.requests[1..] {
        assert_eq!(
            again.header("idempotency-key"),
            Some(key),
            "the same for each try"
        );
        assert_eq!(again.header("authorization"), Some("Bearer s3cret"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stricter_notice_is_told_with_the_next_try() {
    let played = Play::new(&ONE_CALL, &[answer(503)])
        .play(|director| async move {
            director.at(2.0).await;
            director.manual().await;
            director.at(60.0).await;
            director.sigterm().await;
        })
        .await;
    assert_eq!((played.code, played.ended_at), (Code::Deadline, 89.0));
    let seconds_left =
        |request: &Request| -> f64 { request.header("prestop-seconds-left").unwrap().parse().unwrap() };
    assert_eq!(seconds_left(&played.requests[0]), 110.0);
    let after = played.requests.iter().find(|request| request.at > 60.0).unwrap();
    assert!(seconds_left(after) <= 29.0, "{after:?}");
}
