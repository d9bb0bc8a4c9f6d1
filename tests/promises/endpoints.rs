//! Each local endpoint, asked over real connections; and what clients cannot do to it.

use std::io::Write;
use std::net::TcpStream;

use serde_json::Value;

use crate::process::{NOT_FOUND, OK, PATIENCE, Sidecar, app, free_address, request};

fn json(answer: &str) -> Value {
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).unwrap_or_else(|why| panic!("{why}: {answer}"))
}

fn with_token() -> Sidecar {
    Sidecar::start(&[("PRESTOP_DRAIN", "ack"), ("PRESTOP_DRAIN_TOKEN", "s3cret")])
}

/// The scheme is case-insensitive (RFC 9110).
const TOKEN: &str = "Authorization: bearer s3cret\r\n";

#[test]
fn before_a_notice_all_is_well() {
    let sidecar = with_token();
    assert_eq!(sidecar.get("/healthz").0, 200);
    assert_eq!(sidecar.get("/ready").0, 200);
    assert_eq!(sidecar.get("/notice").0, 204);
    assert_eq!(sidecar.get("/notice?wait=10ms").0, 204);
    assert_eq!(sidecar.post("/drained", "").0, 409);
    let (status, body) = sidecar.get("/status");
    let state = json(&body);
    assert_eq!(status, 200);
    assert_eq!(
        (&state["state"], &state["deadline"]),
        (&"watching".into(), &Value::Null)
    );
    assert_eq!(state["steps"][0]["outcome"], "pending");
}

#[test]
fn a_blind_watcher_is_told_by_a_health_check_that_is_still_well() {
    let nobody = format!("http://{}", free_address());
    let mut sidecar = Sidecar::start(&[
        ("PRESTOP_DRAIN", "ack"),
        ("PRESTOP_WATCH", "spot"),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &nobody),
    ]);
    while sidecar.await_event("watch")["watch"] != "spot" {}
    let (status, body) = sidecar.get("/healthz");
    assert_eq!(status, 200, "a serving task must not be replaced for it: {body}");
    let told = body.lines().last().unwrap_or_default();
    assert!(
        told.starts_with("blind: spot: there is no instance metadata at"),
        "{body}"
    );
}

#[test]
fn a_manual_notice_needs_the_token_and_turns_everything() {
    let mut sidecar = with_token();
    assert_eq!(sidecar.post("/drain", "").0, 401);
    assert_eq!(sidecar.post("/drain", "Authorization: Bearer wrong!\r\n").0, 401);
    assert_eq!(sidecar.post("/drain", "Authorization: Basic s3cret\r\n").0, 401);
    assert_eq!(sidecar.get("/ready").0, 200, "nothing has happened yet");
    assert_eq!(sidecar.post("/drain", TOKEN).0, 202);
    sidecar.await_event("notice");
    assert_eq!(sidecar.get("/ready").0, 503);
    assert_eq!(sidecar.get("/healthz").0, 200, "draining is no illness");
    let (status, body) = sidecar.get("/notice");
    let notice = json(&body);
    assert_eq!((status, &notice["reason"]), (200, &"manual".into()));
    assert!(notice["seconds_left"].as_f64().unwrap() > 60.0, "{notice}");
    assert_eq!(sidecar.post("/drained?container=nobody", "").0, 404);
    assert_eq!(sidecar.post("/drained", "").0, 204);
    sidecar.await_event("drained");
    assert_eq!(json(&sidecar.get("/status").1)["state"], "waiting");
    assert_eq!(sidecar.stop(), Some(0));
    let log = format!("{:?}", sidecar.events);
    assert!(!log.contains("s3cret"), "the token must not be logged: {log}");
}

#[test]
fn without_a_token_there_is_no_manual_notice() {
    let sidecar = Sidecar::start(&[("PRESTOP_DRAIN", "ack")]);
    assert_eq!(sidecar.post("/drain", "").0, 404);
    assert_eq!(sidecar.post("/drain", TOKEN).0, 404);
}

#[test]
fn a_client_that_waits_for_a_notice_gets_it_as_soon_as_it_is_there() {
    let mut sidecar = with_token();
    let address = sidecar.address;
    let waiting = std::thread::spawn(move || {
        request(
            address,
            "GET /notice?wait=60s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        )
    });
    assert_eq!(sidecar.post("/drain", TOKEN).0, 202);
    sidecar.await_event("notice");
    let (status, body) = waiting.join().unwrap();
    assert_eq!((status, &json(&body)["reason"]), (200, &"manual".into()));
}

#[test]
fn ready_asks_the_app_where_that_is_set() {
    let (yes, _requests) = app(Some(OK));
    let (no, _requests) = app(Some(NOT_FOUND));
    for (url, status) in [(yes, 200), (no, 503), (free_address(), 503)] {
        let url = format!("http://{url}/healthz");
        let sidecar = Sidecar::start(&[("PRESTOP_DRAIN", "ack"), ("PRESTOP_READY_URL", &url)]);
        assert_eq!(sidecar.get("/ready").0, status, "{url}");
    }
}

#[test]
fn metrics_are_prometheus_text() {
    let sidecar = with_token();
    let (status, text) = sidecar.get("/metrics");
    assert_eq!(status, 200);
    for line in [
        "# TYPE prestop_state gauge",
        "prestop_state{state=\"watching\"} 1",
        "prestop_state{state=\"draining\"} 0",
        "prestop_notice{reason=\"spot-interruption\"} 0",
        "prestop_steps{outcome=\"pending\"} 1",
        "prestop_healthy 1",
        "prestop_log_lines_dropped_total 0",
        "# EOF",
    ] {
        assert!(
            text.lines().any(|l| l.starts_with(line)),
            "`{line}` is not in {text}"
        );
    }
}

#[test]
fn metrics_come_in_the_format_that_is_asked_for() {
    let sidecar = with_token();
    let ask = |accept: &str| {
        let head = format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{accept}\r\n");
        request(sidecar.address, &head).1
    };
    let open_metrics = ask("");
    assert!(
        open_metrics.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{open_metrics}"
    );
    let prometheus = ask("Accept: text/plain\r\n");
    assert!(
        prometheus.contains("content-type: text/plain; version=0.0.4"),
        "{prometheus}"
    );
    assert!(!prometheus.contains("# EOF"), "{prometheus}");
    let (_, body) = prometheus.split_once("\r\n\r\n").unwrap();
    let samples: Vec<&str> = body.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(samples.len() > 10, "{body}");
    for sample in samples {
        let name = sample.split(['{', ' ']).next().unwrap();
        assert!(
            body.contains(&format!("# TYPE {name} ")),
            "`{name}` has a type of its own: {body}"
        );
    }
}

#[test]
fn what_is_asked_wrongly_is_answered_with_what_is_right() {
    let sidecar = with_token();
    for (path, status, part) in [
        ("/", 404, "/healthz"),
        ("/drained", 405, "allow: POST"),
        ("/notice?wait=61s", 400, "at most 60s"),
        ("/notice?wait=long", 400, "such as 30s"),
        ("/protect/job", 405, "allow: PUT, DELETE"),
    ] {
        let (got, body) = sidecar.get(path);
        assert_eq!(got, status, "{path}: {body}");
        assert!(body.contains(part), "{path}: {body}");
    }
    assert_eq!(sidecar.post("/status", "").0, 405);
}

#[test]
fn nonsense_long_heads_and_long_bodies_are_refused_and_forgotten() {
    let sidecar = with_token();
    let long_head = format!(
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n\r\n",
        "a".repeat(100_000)
    );
    assert_eq!(request(sidecar.address, &long_head).0, 431);
    let long_body = format!(
        "POST /drained HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n{}",
        "b".repeat(100_000)
    );
    assert_eq!(request(sidecar.address, &long_body).0, 413);
    assert_eq!(request(sidecar.address, "\u{0}\u{1} nonsense\r\n\r\n").0, 400);
    assert_eq!(sidecar.get("/healthz").0, 200);
}

#[test]
fn more_clients_than_may_wait_are_turned_away_and_health_and_drain_go_on() {
    let (address, requests) = app(Some(OK));
    let mut sidecar = Sidecar::start(&[("PRESTOP_DRAIN", &format!("http://{address}/"))]);
    let wait = "GET /notice?wait=60s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let held: Vec<TcpStream> = (0..64)
        .map(|_| {
            let mut stream = TcpStream::connect(sidecar.address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(wait.as_bytes()).unwrap();
            stream
        })
        .collect();
    assert_eq!(sidecar.get("/notice?wait=60s").0, 503, "64 wait already");
    assert_eq!(sidecar.get("/healthz").0, 200, "a health check gets through");
    assert_eq!(sidecar.stop(), Some(0));
    assert_eq!(requests.try_iter().count(), 1);
    drop(held);
}

/// Every endpoint, with what it answers to somebody who may ask.
const EVERY: [(&str, &str, u16); 8] = [
    ("GET", "/healthz", 200),
    ("GET", "/ready", 200),
    ("GET", "/notice", 204),
    ("GET", "/status", 200),
    ("GET", "/metrics", 200),
    ("POST", "/drained", 409),
    ("POST", "/drain", 202),
    ("PUT", "/protect/job?for=10m", 404),
];

fn ask_as(address: std::net::SocketAddr, (method, path): (&str, &str), headers: &str) -> u16 {
    let head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n{TOKEN}{headers}");
    request(address, &format!("{head}Content-Length: 0\r\n\r\n")).0
}

#[test]
fn a_web_page_is_refused_by_every_endpoint() {
    let sidecar = with_token();
    for headers in [
        "Host: localhost\r\nOrigin: https://evil.example\r\n",
        "Host: localhost\r\nOrigin: null\r\n",
        "Host: localhost\r\nSec-Fetch-Site: cross-site\r\n",
        "Host: localhost\r\nSec-Fetch-Site: same-origin\r\n",
        // A name of the page's own that leads to loopback.
        "Host: evil.example:9911\r\n",
        "Host: localhost\r\nHost: evil.example\r\n",
        "Host: localhost.evil.example\r\n",
        "Host: 127.0.0.1.evil.example\r\n",
        "Host: evil.example:80@localhost\r\n",
        "Host: \r\n",
    ] {
        for (method, path, _) in EVERY {
            assert_eq!(
                ask_as(sidecar.address, (method, path), headers),
                403,
                "{method} {path} with {headers}"
            );
        }
    }
    assert_eq!(sidecar.get("/ready").0, 200, "no notice has come of it");
}

#[test]
fn whoever_is_no_web_page_may_ask_by_every_name_of_loopback() {
    for headers in [
        "",
        "Host: localhost\r\n",
        "Host: LOCALHOST:9911\r\n",
        "Host: app.localhost\r\n",
        "Host: 127.0.0.1:9911\r\n",
        "Host: 127.1.2.3\r\n",
        "Host: [::1]:9911\r\n",
        // Typed into a browser.
        "Host: localhost\r\nSec-Fetch-Site: none\r\n",
    ] {
        let sidecar = with_token();
        for (method, path, status) in EVERY {
            assert_eq!(
                ask_as(sidecar.address, (method, path), headers),
                status,
                "{method} {path} with {headers}"
            );
        }
    }
}

#[test]
fn a_listener_for_others_answers_to_any_name_but_to_no_web_page() {
    let mut everywhere = free_address();
    everywhere.set_ip([0, 0, 0, 0].into());
    let listen = everywhere.to_string();
    let _sidecar = Sidecar::start(&[("PRESTOP_DRAIN", "ack"), ("PRESTOP_LISTEN", &listen)]);
    let address = std::net::SocketAddr::new([127, 0, 0, 1].into(), everywhere.port());
    let by_name = "Host: prestop:9911\r\n";
    assert_eq!(ask_as(address, ("GET", "/notice"), by_name), 204);
    let page = format!("{by_name}Origin: http://prestop:9911\r\n");
    assert_eq!(ask_as(address, ("GET", "/notice"), &page), 403);
}

/// What its heap and stacks hold in memory.
fn anonymous_kb(sidecar: &Sidecar) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", sidecar.process.id())).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:"));
    let kb = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kb.unwrap().parse().unwrap()
}

#[test]
fn a_thousand_slow_connections_take_little_memory_and_no_place_from_a_health_check() {
    let sidecar = Sidecar::start(&[("PRESTOP_DRAIN", "ack")]);
    let listen = sidecar.address.to_string();
    let healthy = || {
        let health = crate::process::run(&["health"], &[("PRESTOP_LISTEN", &listen)]);
        (health.status.code(), crate::process::complaints(&health))
    };
    assert_eq!(healthy(), (Some(0), String::new()));
    let before = anonymous_kb(&sidecar);
    // Some are refused as too long, some are never complete.
    let heads = [15, 7].map(|kb| {
        let long = "a".repeat(kb * 1024);
        format!("GET /notice HTTP/1.1\r\nHost: localhost\r\nX: {long}")
    });
    let mut slow = Vec::new();
    for i in 0..1000 {
        let mut stream = TcpStream::connect(sidecar.address).unwrap();
        // It may have been dropped already, in favour of a later one.
        let _ = stream.write_all(heads[i % 2].as_bytes());
        slow.push(stream);
        if i % 250 == 249 {
            assert_eq!(healthy(), (Some(0), String::new()), "beside {i} slow connections");
        }
    }
    let more = anonymous_kb(&sidecar).saturating_sub(before);
    assert!(
        more < 1000,
        "a thousand slow connections have made it {more} kB larger"
    );
    assert_eq!(sidecar.get("/notice").0, 204);
}
