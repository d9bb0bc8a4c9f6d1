//! Connections in memory, under a paused clock.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::watch;
use tokio::time::Instant;

use super::*;
use crate::core::deadline::{Limits, Reserve, StopTimeout};
use crate::core::lifecycle::{AfterDrain, AwsPolicy, Lifecycle, Policy};
use crate::sidecar::drain::quiet::{ConnectionView, Kernel};
use crate::sidecar::http::Network;
use crate::sidecar::mailbox;
use crate::sidecar::status::Status;
use crate::sidecar::telemetry::Telemetry;

/// Endpoints of a sidecar that watches; the sender keeps them alive.
fn endpoints() -> (Endpoints, watch::Sender<Arc<Status>>) {
    let policy = Policy {
        limits: Limits {
            stop_timeout: StopTimeout::DEFAULT,
            reserve: Reserve::DEFAULT,
        },
        settle: Duration::ZERO,
        settle_before_quiet: Duration::ZERO,
        after_drain: AfterDrain::Wait,
        aws: AwsPolicy::default(),
    };
    let status = watch::Sender::new(Arc::new(Status::new(Lifecycle::new(policy, None).report())));
    let endpoints = Endpoints {
        status: status.subscribe(),
        mailbox: mailbox::channel().0,
        token: None,
        ready_url: None,
        network: Network::system(1),
        protect: None,
        view: ConnectionView::new(Arc::new(Kernel::default()), None),
        telemetry: Telemetry::default(),
        questions: None,
    };
    (endpoints, status)
}

/// One request of a client that keeps its connection; the head of the answer, empty where none came.
async fn ask(stream: &mut DuplexStream, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = [0; 4096];
    let n = stream.read(&mut answer).await.unwrap_or(0);
    String::from_utf8_lossy(&answer[..n]).into_owned()
}

#[tokio::test(start_paused = true)]
async fn every_long_poll_of_a_kept_connection_is_answered() {
    for wait in [1, 7, 19, 21, 30, 45, 60] {
        let (endpoints, _status) = endpoints();
        let server = Arc::new(Server::new(Audience::Loopback, endpoints));
        let start = Instant::now();
        let mut closes = 0;
        let mut kept: Option<DuplexStream> = None;
        while start.elapsed() < Duration::from_secs(600) {
            let mut stream = kept.take().unwrap_or_else(|| {
                let (ours, theirs) = duplex(64 * 1024);
                tokio::spawn(Arc::clone(&server).converse(theirs, server.asking.try_take()));
                ours
            });
            let asked = start.elapsed();
            let answer = ask(&mut stream, &format!("/notice?wait={wait}s")).await;
            let case = format!("wait={wait}s asked at {asked:?}, {closes} connections closed before");
            assert!(answer.starts_with("HTTP/1.1 204"), "{case}: `{answer}`");
            if answer.contains("connection: close") {
                closes += 1;
            } else {
                kept = Some(stream);
            }
        }
        assert!(
            closes <= 10,
            "polls of {wait} s share connections, a minute each: {closes}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_gets_a_place_and_who_has_had_one_for_longest_leaves() {
    const COMERS: usize = 100;
    let places = Arc::new(Places::new(8));
    let (left, mut leavers) = tokio::sync::mpsc::channel(COMERS);
    let mut comers = JoinSet::new();
    for comer in 0..COMERS {
        let (places, left) = (Arc::clone(&places), left.clone());
        comers.spawn(async move {
            let place = places.take().await;
            places.wanted().await;
            drop(place);
            left.send(comer).await.unwrap();
        });
        // Some come one by one, some all at once.
        if comer % 10 < 5 {
            tokio::task::yield_now().await;
        }
    }
    let mut gone = Vec::new();
    while let Ok(Some(comer)) = timeout(HEAD_LIMIT, leavers.recv()).await {
        gone.push(comer);
    }
    let expected: Vec<usize> = (0..COMERS - 8).collect();
    assert_eq!(gone, expected, "all but the last eight have had one, in order");
    assert!(places.try_take().is_none());
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_it_is_told_that_the_task_is_superseded_and_a_plain_question_is_not() {
    let (endpoints, status) = endpoints();
    status.send_modify(|status| {
        Arc::make_mut(status).superseded = Some(crate::sidecar::status::SupersededReport {
            since: "2026-01-01T00:00:00Z".to_owned(),
            why: "the service is DRAINING",
        });
    });
    let waiting = tokio::sync::Semaphore::new(1);
    for (path, expected) in [
        ("/notice?superseded=true", 200),
        ("/notice?superseded=true&wait=60s", 200),
        ("/notice", 204),
        ("/notice?wait=60s", 204),
        ("/ready", 200),
    ] {
        let (head, ()) = hyper::Request::get(path).body(()).unwrap().into_parts();
        let reply = endpoints.answer(head, &waiting).await;
        assert_eq!(reply.status().as_u16(), expected, "{path}");
    }
}
