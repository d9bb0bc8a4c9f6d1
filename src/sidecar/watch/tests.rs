//! Watchers before an instance metadata in memory that can fail item by item, under a paused clock.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::instance_metadata::InstanceMetadata;
use crate::core::notice::{Notice, Reason};
use crate::core::watch_items::WatchItem;
use crate::sidecar::http::{Dial, Network, Stream};
use crate::sidecar::mailbox::{self, Message};

/// What an item answers with at that many seconds of the test.
enum Says {
    Body(String),
    Status(u16),
    Hangs,
}

type Script = Arc<dyn Fn(&str, f64) -> Says + Send + Sync>;

#[derive(Clone)]
struct Imds {
    start: Instant,
    says: Script,
}

impl Dial for Imds {
    fn lookup(&self, _: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
        unreachable!("the endpoint is an address")
    }

    fn connect(&self, _: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send>> {
        let (ours, theirs) = duplex(16 * 1024);
        tokio::spawn(self.clone().serve(theirs));
        Box::pin(async move { Ok(Box::new(ours) as Box<dyn Stream>) })
    }
}

impl Imds {
    async fn serve(self, mut stream: DuplexStream) {
        let mut head = [0; 4096];
        while let Ok(n @ 1..) = stream.read(&mut head).await {
            let head = String::from_utf8_lossy(&head[..n]).into_owned();
            let path = head.split(' ').nth(1).unwrap_or_default();
            let says = match path {
                "/latest/api/token" => Says::Body("token".to_owned()),
                item => (self.says)(item, self.start.elapsed().as_secs_f64()),
            };
            let (status, body) = match says {
                Says::Body(body) => (200, body),
                Says::Status(status) => (status, String::new()),
                Says::Hangs => std::future::pending().await,
            };
            let answer = format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// Watches these items; what it tells comes out of the channel.
fn watching(
    items: &[WatchItem],
    interval: Duration,
    says: impl Fn(&str, f64) -> Says + Send + Sync + 'static,
) -> mpsc::Receiver<Message> {
    let (mailbox, messages) = mailbox::channel();
    let network = Network::new(Imds {
        start: Instant::now(),
        says: Arc::new(says),
    });
    let metadata = InstanceMetadata::new(network, "http://169.254.169.254".parse().unwrap());
    tokio::spawn(super::instance_metadata(
        metadata,
        items.to_vec(),
        interval,
        mailbox,
    ));
    messages
}

/// Everything that is told within that many seconds, with when.
async fn told_within(seconds: f64, messages: &mut mpsc::Receiver<Message>) -> Vec<(f64, Message)> {
    let start = Instant::now();
    let mut told = Vec::new();
    let all = async {
        while let Some(message) = messages.recv().await {
            told.push((start.elapsed().as_secs_f64(), message));
        }
    };
    let _ = timeout(Duration::from_secs_f64(seconds), all).await;
    told
}

fn notices(told: &[(f64, Message)]) -> Vec<(f64, Notice)> {
    told.iter()
        .filter_map(|(at, message)| match message {
            Message::Notice(notice) => Some((*at, *notice)),
            _ => None,
        })
        .collect()
}

fn interruption(ends_in: i64) -> Says {
    let time = Timestamp::now() + SignedDuration::from_secs(ends_in);
    let time = time.strftime("%Y-%m-%dT%H:%M:%SZ");
    Says::Body(format!(r#"{{"action":"terminate","time":"{time}"}}"#))
}

#[tokio::test(start_paused = true)]
async fn an_item_that_hangs_blinds_no_other_and_delays_no_spot_notice() {
    for hanging in [
        WatchItem::Rebalance,
        WatchItem::Maintenance,
        WatchItem::Autoscaling,
    ] {
        for order in [[hanging, WatchItem::Spot], [WatchItem::Spot, hanging]] {
            let says = move |path: &str, at| match path {
                path if path == hanging.path() => Says::Hangs,
                path if path == WatchItem::Spot.path() && at >= 10.0 => interruption(120),
                _ => Says::Status(404),
            };
            let mut messages = watching(&order, Duration::from_secs(1), says);
            let told = told_within(60.0, &mut messages).await;
            let notices = notices(&told);
            let reasons: Vec<Reason> = notices.iter().map(|(_, notice)| notice.reason).collect();
            assert_eq!(
                reasons,
                [Reason::SpotInterruption],
                "{hanging:?} hangs, {order:?}"
            );
            let at = notices[0].0;
            assert!(
                (10.0..11.2).contains(&at),
                "{hanging:?} hangs, {order:?}: seen at {at}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_notice_is_told_if_its_time_is_earlier() {
    let start = Timestamp::now();
    let says = move |_: &str, at| {
        let ends_after = match at {
            ..10.0 => 115,
            10.0..20.0 => 118,
            20.0..30.0 => 60,
            _ => 90,
        };
        let time = (start + SignedDuration::from_secs(ends_after)).strftime("%Y-%m-%dT%H:%M:%SZ");
        Says::Body(format!(r#"{{"action":"terminate","time":"{time}"}}"#))
    };
    let mut messages = watching(&[WatchItem::Spot], Duration::from_secs(1), says);
    let told = told_within(60.0, &mut messages).await;
    let notices = notices(&told);
    let ends: Vec<_> = notices.iter().map(|(_, notice)| notice.host_end.at()).collect();
    assert_eq!(ends.len(), 2, "the first, and the earlier one: {notices:?}");
    assert!(ends[1] < ends[0], "{ends:?}");
    assert!((20.0..21.2).contains(&notices[1].0), "{notices:?}");
}

/// What the log gets: when, and whether it sees.
fn lines(told: &[(f64, Message)]) -> Vec<(f64, bool)> {
    told.iter()
        .filter_map(|(at, message)| match message {
            Message::Watch(state) if state.log => Some((*at, state.sees)),
            _ => None,
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_service_that_flaps_is_told_at_once_and_then_rarely_and_its_last_state_is_told() {
    let says = |_: &str, at: f64| match at {
        // Every other answer is one of a service in trouble.
        60.0..3600.0 if ((at * 5.0) as u64).is_multiple_of(2) => Says::Status(503),
        _ => Says::Status(404),
    };
    let mut messages = watching(&[WatchItem::Spot], Duration::from_millis(200), says);
    let told = told_within(3600.0 + 700.0, &mut messages).await;
    let lines = lines(&told);
    assert_eq!(lines[0], (0.0, true));
    assert!(
        !lines[1].1 && lines[1].0 < 62.0,
        "trouble is told at once: {lines:?}"
    );
    assert!(lines.len() < 30, "{} lines in an hour: {lines:?}", lines.len());
    assert!(lines.last().unwrap().1, "that all is well again: {lines:?}");
    let states = told
        .iter()
        .filter(|(_, message)| matches!(message, Message::Watch(_)));
    assert!(states.count() > 100, "/status and /metrics have every change");
}

#[tokio::test(start_paused = true)]
async fn a_change_after_a_long_calm_is_told_at_once() {
    let says = |_: &str, at: f64| match at {
        1000.0..2000.0 | 4000.0..5000.0 => Says::Status(503),
        _ => Says::Status(404),
    };
    let mut messages = watching(&[WatchItem::Spot], Duration::from_secs(1), says);
    let lines = lines(&told_within(7000.0, &mut messages).await);
    let expected = [
        (0.0, true),
        (1000.0, false),
        (2000.0, true),
        (4000.0, false),
        (5000.0, true),
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
    for (line, expected) in lines.iter().zip(expected) {
        let late = line.0 - expected.0;
        assert!(line.1 == expected.1 && (0.0..=11.0).contains(&late), "{lines:?}");
    }
}
