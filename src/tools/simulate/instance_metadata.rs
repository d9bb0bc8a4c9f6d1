//! The stand-in's instance metadata: tokens and the items that announce an end.
//!
//! Status codes and shapes as recorded from the metadata mock that AWS publishes (AEMM).

use std::time::Duration;

use hyper::header::{DATE, HeaderValue, SERVER};
use hyper::{HeaderMap, Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::time::Instant;

use super::INSTANCE_ID;
use super::reply::{StandInReply, header, text, with_type};
use crate::core::notice::Action;
use crate::core::watch_items::WatchItem;

/// The longest that a token lives: six hours.
const MAX_TTL: u64 = 21_600;

/// Tokens beyond these push the oldest out.
const MAX_TOKENS: usize = 256;

const REGION: &str = "eu-central-1";

/// The role of the instance profile.
const ROLE: &str = "simulated-role";

/// The lifetime of a role's keys: EC2 renews them well before their six hours are over.
const CREDENTIALS_LIVE: Duration = Duration::from_secs(6 * 3600);

#[derive(Default)]
pub(super) struct PlayedInstanceMetadata {
    /// Whether it answers without a token.
    pub(super) version_1: bool,
    pub(super) spot: Option<(Action, Timestamp)>,
    pub(super) rebalance: Option<Timestamp>,
    pub(super) maintenance: Option<Maintenance>,
    pub(super) autoscaling: Option<String>,
    clock: Clock,
    tokens: Vec<(String, Instant)>,
    made: u64,
}

/// A scheduled event.
pub(super) struct Maintenance {
    code: String,
    state: String,
    not_before: Timestamp,
}

/// The wall clock of the instance, which runs as tokio's does: where that one is paused in a test, no
/// real time passes between an announcement and its being read.
struct Clock {
    began: Instant,
    wall: Timestamp,
}

impl Default for Clock {
    fn default() -> Clock {
        Clock {
            began: Instant::now(),
            wall: Timestamp::now(),
        }
    }
}

impl Clock {
    fn after(&self, left: Duration) -> Timestamp {
        let since = SignedDuration::try_from(self.began.elapsed() + left).unwrap_or(SignedDuration::MAX);
        self.wall.saturating_add(since).unwrap_or(Timestamp::MAX)
    }

    fn now(&self) -> Timestamp {
        self.after(Duration::ZERO)
    }
}

impl PlayedInstanceMetadata {
    pub(super) fn announce_spot(&mut self, action: Action, left: Duration) {
        self.spot = Some((action, self.clock.after(left)));
    }

    pub(super) fn announce_maintenance(&mut self, code: String, state: String, left: Duration) {
        let not_before = self.clock.after(left);
        self.maintenance = Some(Maintenance {
            code,
            state,
            not_before,
        });
    }

    pub(super) fn recommend_rebalance(&mut self) {
        self.rebalance = Some(self.clock.now());
    }

    pub(super) fn withdraw(&mut self) {
        self.spot = None;
        self.rebalance = None;
        self.maintenance = None;
        self.autoscaling = None;
    }

    pub(super) fn expire_tokens(&mut self) {
        self.tokens.clear();
    }

    pub(super) fn tokens_made(&self) -> u64 {
        self.made
    }

    pub(super) fn answer(&mut self, method: &Method, path: &str, headers: &HeaderMap) -> StandInReply {
        let mut reply = self.reply(method, path, headers);
        let date = self.clock.now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        if let Ok(date) = HeaderValue::try_from(date) {
            reply.headers_mut().insert(DATE, date);
        }
        // By which some programs know where they are (jtblin/aws-mock-metadata, issue 3, has an answer of EC2).
        reply
            .headers_mut()
            .insert(SERVER, HeaderValue::from_static("EC2ws"));
        reply
    }

    fn reply(&mut self, method: &Method, path: &str, headers: &HeaderMap) -> StandInReply {
        match (method, path) {
            (&Method::PUT, "/latest/api/token") => return self.new_token(headers),
            (&Method::GET | &Method::HEAD, _) => {}
            _ => return text(StatusCode::METHOD_NOT_ALLOWED, ""),
        }
        if !self.allowed(headers) {
            return page(StatusCode::UNAUTHORIZED, "401 - Unauthorized");
        }
        // With and without a slash at the end it is the same thing.
        match self.item(path.trim_end_matches('/')) {
            // As AEMM has it: what is a JSON document is said to be one.
            Some(body) if body.starts_with(['{', '[']) => with_type(StatusCode::OK, "application/json", body),
            Some(body) => with_type(StatusCode::OK, "text/plain", body),
            None => page(StatusCode::NOT_FOUND, "404 - Not Found"),
        }
    }

    fn new_token(&mut self, headers: &HeaderMap) -> StandInReply {
        let ttl = header(headers, "x-aws-ec2-metadata-token-ttl-seconds").and_then(|ttl| ttl.parse().ok());
        let Some(ttl) = ttl.filter(|ttl| (1..=MAX_TTL).contains(ttl)) else {
            return page(StatusCode::BAD_REQUEST, "400 - Bad Request");
        };
        if self.tokens.len() >= MAX_TOKENS {
            self.tokens.remove(0);
        }
        self.made += 1;
        let token = format!("simulated-token-{}==", self.made);
        self.tokens
            .push((token.clone(), Instant::now() + Duration::from_secs(ttl)));
        let mut reply = with_type(StatusCode::OK, "text/plain", token);
        reply
            .headers_mut()
            .insert("x-aws-ec2-metadata-token-ttl-seconds", ttl.into());
        reply
    }

    fn allowed(&self, headers: &HeaderMap) -> bool {
        match header(headers, "x-aws-ec2-metadata-token") {
            None => self.version_1,
            Some(token) => self
                .tokens
                .iter()
                .any(|(known, until)| known == token && Instant::now() < *until),
        }
    }

    /// `None` is a 404.
    fn item(&self, path: &str) -> Option<String> {
        let item = WatchItem::ALL.into_iter().find(|item| item.path() == path);
        match item {
            Some(WatchItem::Spot) => {
                let (action, time) = self.spot.as_ref()?;
                Some(format!("{:#}", json!({"action": action, "time": seconds(*time)})))
            }
            Some(WatchItem::Rebalance) => Some(json!({"noticeTime": seconds(self.rebalance?)}).to_string()),
            Some(WatchItem::Maintenance) => {
                let events = self.maintenance.iter().map(|event| {
                    json!({
                        "NotBefore": event.not_before.strftime("%-d %b %Y %H:%M:%S GMT").to_string(),
                        "NotAfter": self.clock.after(Duration::from_secs(7200)).strftime("%-d %b %Y %H:%M:%S GMT").to_string(),
                        "Code": event.code,
                        "Description": "scheduled by the stand-in",
                        "EventId": "instance-event-0d59937288b749b32",
                        "State": event.state,
                    })
                });
                Some(format!("{:#}", serde_json::Value::from_iter(events)))
            }
            Some(WatchItem::Autoscaling) => {
                Some(self.autoscaling.clone().unwrap_or_else(|| "InService".to_owned()))
            }
            None => match path {
                "/latest/meta-data/instance-id" => Some(INSTANCE_ID.to_owned()),
                "/latest/meta-data/instance-life-cycle" => Some("spot".to_owned()),
                "/latest/meta-data/placement/region" => Some(REGION.to_owned()),
                "/latest/meta-data/placement/availability-zone" => Some(format!("{REGION}a")),
                "/latest/meta-data/iam/security-credentials" => Some(ROLE.to_owned()),
                "/latest/meta-data/iam/security-credentials/simulated-role" => Some(credentials(&self.clock)),
                "/latest/dynamic/instance-identity/document" => Some(identity_document(&self.clock)),
                _ => None,
            },
        }
    }
}

/// Keys of the instance profile, as the EC2 user guide shows them (*Retrieve security credentials from
/// instance metadata*). They open nothing.
fn credentials(clock: &Clock) -> String {
    let now = seconds(clock.now());
    format!(
        "{:#}",
        json!({
            "Code": "Success",
            "LastUpdated": now,
            "Type": "AWS-HMAC",
            "AccessKeyId": "ASIASIMULATED0000000",
            "SecretAccessKey": "simulated",
            "Token": "simulated",
            "Expiration": seconds(clock.after(CREDENTIALS_LIVE)),
        })
    )
}

/// EC2 user guide, *Instance identity documents*.
fn identity_document(clock: &Clock) -> String {
    format!(
        "{:#}",
        json!({
            "accountId": "111122223333",
            "architecture": "x86_64",
            "availabilityZone": format!("{REGION}a"),
            "imageId": "ami-0123456789abcdef0",
            "instanceId": INSTANCE_ID,
            "instanceType": "c7g.large",
            "pendingTime": seconds(clock.wall),
            "privateIp": "10.0.2.10",
            "region": REGION,
            "version": "2017-09-30",
        })
    )
}

fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// EC2 answers errors with a page for browsers.
fn page(status: StatusCode, title: &str) -> StandInReply {
    let body = format!(
        "<?xml version=\"1.0\"?>\n<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"
    );
    with_type(status, "text/html", body)
}
