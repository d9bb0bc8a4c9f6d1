//! What each endpoint answers, and to which methods.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Endpoints;
use crate::config;
use crate::core::leases::{
    self, AgentAnswer, LeaseAnswer, LeaseName, MAX_LEASE, MAX_LEASES, MAX_NAME, MIN_LEASE,
};
use crate::core::notice::{Notice, Reason};
use crate::core::url::HttpUrl;
use crate::sidecar::clock::{now, seconds_left, wall_clock};
use crate::sidecar::http::{Ask, Way};
use crate::sidecar::mailbox::Message;
use crate::sidecar::protection::{LeaseAction, protected_until};
use crate::sidecar::status::Status;
use crate::sidecar::superseded::QUESTION_HOLDS;
use crate::sidecar::telemetry::metrics;

/// The longest that `/notice` makes a client wait.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The longest that an answer takes once the request is there; all others are shorter.
pub(super) const LONGEST_ANSWER: Duration = MAX_WAIT;

/// What `/ready` gives the app to answer: health checks of load balancers time out after 2 s and more.
const READY_LIMIT: Duration = Duration::from_secs(1);

/// Longer than a lease may take, in case that something else is stuck.
const PROTECT_LIMIT: Duration = leases::MAX_WAIT.saturating_add(Duration::from_secs(3));

const _: () = assert!(
    PROTECT_LIMIT.as_secs() < LONGEST_ANSWER.as_secs() && READY_LIMIT.as_secs() < LONGEST_ANSWER.as_secs()
);

pub(super) type Reply = Response<Full<Bytes>>;

impl Endpoints {
    /// `waiting`: the places of those that wait for a notice.
    pub(super) async fn answer(&self, head: Parts, waiting: &Semaphore) -> Reply {
        let path = head.uri.path();
        let query = head.uri.query();
        let allowed = match path {
            "/drained" | "/drain" => [Method::POST].as_slice(),
            "/healthz" | "/ready" | "/notice" | "/status" | "/metrics" => &[Method::GET, Method::HEAD],
            protect if protect.starts_with("/protect/") => &[Method::PUT, Method::DELETE],
            _ => {
                return text(
                    StatusCode::NOT_FOUND,
                    "there are /healthz, /ready, /notice, /status, /metrics, POST /drain, POST /drained and PUT /protect/NAME\n",
                );
            }
        };
        if !allowed.contains(&head.method) {
            let mut reply = text(
                StatusCode::METHOD_NOT_ALLOWED,
                "another method is needed: see Allow\n",
            );
            let names: Vec<&str> = allowed.iter().map(Method::as_str).collect();
            if let Ok(names) = HeaderValue::from_str(&names.join(", ")) {
                reply.headers_mut().insert(ALLOW, names);
            }
            return reply;
        }
        match path {
            "/healthz" => self.healthz(),
            "/ready" => self.ready().await,
            "/notice" => self.notice(query, waiting).await,
            "/status" => self.status().await,
            "/metrics" => self.metrics(head.headers.get(ACCEPT)).await,
            "/drained" => self.drained(query).await,
            "/drain" => self.drain(head.headers.get(AUTHORIZATION)).await,
            protect => self.protect(&head.method, protect, query).await,
        }
    }

    /// Well while it can drain: a watcher that is blind must not get a serving task replaced.
    fn healthz(&self) -> Reply {
        let snapshot = self.snapshot();
        if let Some(why) = &snapshot.unhealthy {
            return text(StatusCode::SERVICE_UNAVAILABLE, &format!("{why}\n"));
        }
        let mut body = "ok\n".to_owned();
        for watch in &snapshot.watches {
            if let Some(why) = &watch.why {
                let _ = writeln!(body, "blind: {}: {why}", watch.watch);
            }
        }
        let protection = snapshot.protection.as_ref();
        if let Some(why) = protection.and_then(|protection| protection.trouble.as_ref()) {
            let _ = writeln!(body, "protection: {why}");
        }
        text(StatusCode::OK, &body)
    }

    async fn ready(&self) -> Reply {
        let snapshot = self.snapshot();
        if let Some(notice) = snapshot.notice {
            let why = format!("stopping: {}\n", notice.reason.as_str());
            return text(StatusCode::SERVICE_UNAVAILABLE, &why);
        }
        let Some(url) = &self.ready_url else {
            return text(StatusCode::OK, "ready\n");
        };
        let known = snapshot
            .task
            .as_deref()
            .and_then(|task| task.container(url.host()));
        let known = known.map_or_else(Vec::new, crate::core::task::Container::reached_at);
        match timeout(
            READY_LIMIT,
            self.network.ask(Ask::get(url), &mut Way::known(&known)),
        )
        .await
        {
            Ok(Ok(answer)) if answer.status().is_success() => text(StatusCode::OK, "ready\n"),
            Ok(Ok(answer)) => unready(url, &format!("HTTP {}", answer.status().as_u16())),
            Ok(Err(why)) => unready(url, &why.to_string()),
            Err(_) => unready(url, "no answer within 1 s"),
        }
    }

    async fn notice(&self, query: Option<&str>, waiting: &Semaphore) -> Reply {
        let wait = match parameter(query, "wait").map(config::duration) {
            None => Duration::ZERO,
            Some(Some(wait)) if wait <= MAX_WAIT => wait,
            Some(_) => {
                return text(
                    StatusCode::BAD_REQUEST,
                    "wait is a duration of at most 60s, such as 30s\n",
                );
            }
        };
        let superseded = parameter(query, "superseded") == Some("true");
        if let Some(questions) = self.questions.as_ref().filter(|_| superseded) {
            let until = now() + wait + QUESTION_HOLDS;
            questions.send_modify(|latest| *latest = (*latest).max(Some(until)));
        }
        let told =
            move |status: &Status| status.notice.is_some() || (superseded && status.superseded.is_some());
        if !wait.is_zero() && !told(&self.status.borrow()) {
            let Ok(_place) = waiting.try_acquire() else {
                return text(StatusCode::SERVICE_UNAVAILABLE, "too many are waiting already\n");
            };
            let mut status = self.status.clone();
            // `wait_for` fails only where the sidecar has gone, and this connection with it.
            let noticed = status.wait_for(|status| told(status));
            let _ = timeout(wait, noticed).await;
        }
        let snapshot = self.snapshot();
        let (Some(notice), Some(deadline)) = (snapshot.notice, snapshot.deadline) else {
            if let Some(found) = snapshot.superseded.as_ref().filter(|_| superseded) {
                let body = json!({"event": "superseded", "since": found.since, "why": found.why});
                return reply(StatusCode::OK, "application/json", format!("{body}\n"));
            }
            return reply(StatusCode::NO_CONTENT, "text/plain", String::new());
        };
        let body = json!({
            "reason": notice.reason,
            "action": notice.action,
            "reasons": snapshot.report.reasons,
            "state": snapshot.report.state,
            "deadline": wall_clock(deadline),
            "seconds_left": seconds_left(deadline),
        });
        reply(StatusCode::OK, "application/json", format!("{body}\n"))
    }

    async fn status(&self) -> Reply {
        let snapshot = self.snapshot();
        let mut body = serde_json::to_value(snapshot.as_ref()).unwrap_or_default();
        body["deadline"] = snapshot.deadline.map(wall_clock).into();
        body["seconds_left"] = snapshot.deadline.map(seconds_left).into();
        body["connections"] = self.view.picture().await.map_or(
            serde_json::Value::Null,
            |picture| json!({"open": picture.open, "owing": picture.surely_owing(), "owed": picture.named}),
        );
        reply(StatusCode::OK, "application/json", format!("{body}\n"))
    }

    async fn metrics(&self, accept: Option<&HeaderValue>) -> Reply {
        let snapshot = self.snapshot();
        let format = metrics::MetricsFormat::accepted(accept.and_then(|accept| accept.to_str().ok()));
        let body = metrics::render(
            &snapshot,
            self.telemetry.dropped(),
            snapshot.deadline.map(seconds_left),
            self.view.picture().await.as_ref(),
            format,
        );
        reply(StatusCode::OK, format.content_type(), body)
    }

    async fn drained(&self, query: Option<&str>) -> Reply {
        let snapshot = self.snapshot();
        if snapshot.notice.is_none() {
            return text(StatusCode::CONFLICT, "there is no notice: go on working\n");
        }
        let container = parameter(query, "container");
        let steps = &snapshot.report.steps;
        if container.is_some()
            && !steps.is_empty()
            && steps.iter().all(|step| step.container.as_deref() != container)
        {
            return text(
                StatusCode::NOT_FOUND,
                "no step is that container's: leave `container` out\n",
            );
        }
        self.tell(
            Message::Ack(container.map(str::to_owned)),
            StatusCode::NO_CONTENT,
            "",
        )
        .await
    }

    async fn drain(&self, authorization: Option<&HeaderValue>) -> Reply {
        let Some(token) = &self.token else {
            return text(
                StatusCode::NOT_FOUND,
                "set PRESTOP_DRAIN_TOKEN to allow manual notices\n",
            );
        };
        let given = authorization.and_then(|value| value.to_str().ok()?.split_once(' '));
        let bearer = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        if !bearer.is_some_and(|(_, given)| same(given.trim().as_bytes(), token.as_bytes())) {
            return text(
                StatusCode::UNAUTHORIZED,
                "Authorization: Bearer with PRESTOP_DRAIN_TOKEN is needed\n",
            );
        }
        let notice = Message::Notice(Notice::new(Reason::Manual));
        self.tell(notice, StatusCode::ACCEPTED, "draining\n").await
    }

    /// A lease, or its return.
    async fn protect(&self, method: &Method, path: &str, query: Option<&str>) -> Reply {
        let Some(protection) = &self.protect else {
            return text(
                StatusCode::NOT_FOUND,
                "there is no task protection: it needs PRESTOP_PROTECT=true and, outside of ECS, ECS_AGENT_URI\n",
            );
        };
        let name = path.strip_prefix("/protect/").and_then(LeaseName::parse);
        let Some(name) = name.filter(|name| !(protection.asks_app && *name == LeaseName::busy())) else {
            let why = format!(
                "a lease has a name of 1 to {MAX_NAME} visible ASCII characters without a slash; `busy` is that of \
                 PRESTOP_BUSY_URL where that is set\n"
            );
            return text(StatusCode::BAD_REQUEST, &why);
        };
        let action = if method == Method::DELETE {
            LeaseAction::GiveBack
        } else {
            let length = parameter(query, "for").and_then(config::duration);
            match length.filter(|length| (MIN_LEASE..=MAX_LEASE).contains(length)) {
                Some(length) => LeaseAction::Take(length),
                None => {
                    return text(
                        StatusCode::BAD_REQUEST,
                        "for is needed: a duration of 1s to 48h, such as PUT /protect/job-7?for=10m\n",
                    );
                }
            }
        };
        match timeout(PROTECT_LIMIT, protection.request(name, action)).await {
            Ok(Some(answer)) => protect_reply(answer),
            Ok(None) => text(StatusCode::SERVICE_UNAVAILABLE, "the sidecar is about to exit\n"),
            Err(_) => text(
                StatusCode::GATEWAY_TIMEOUT,
                "no answer in time: there is no lease\n",
            ),
        }
    }

    async fn tell(&self, message: Message, code: StatusCode, words: &str) -> Reply {
        match self.mailbox.send(message).await {
            Ok(()) => text(code, words),
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "the sidecar is about to exit\n"),
        }
    }

    /// The sidecar's, and how task protection stands.
    fn snapshot(&self) -> Arc<Status> {
        let status = Arc::clone(&self.status.borrow());
        let Some(protection) = &self.protect else {
            return status;
        };
        let protection = Arc::clone(&protection.report.borrow());
        let mut status = Status::clone(&status);
        status.protection = Some(protection);
        Arc::new(status)
    }
}

fn protect_reply(answer: LeaseAnswer) -> Reply {
    match answer {
        LeaseAnswer::Granted(grant) => {
            let body = json!({
                "name": grant.name.as_str(),
                "until": wall_clock(grant.until),
                "protected_until": protected_until(&grant.agreement),
            });
            reply(StatusCode::OK, "application/json", format!("{body}\n"))
        }
        LeaseAnswer::GivenBack => reply(StatusCode::NO_CONTENT, "text/plain", String::new()),
        LeaseAnswer::Unknown => text(StatusCode::NOT_FOUND, "there is no lease of that name\n"),
        LeaseAnswer::Refused(why @ AgentAnswer::Silent(_)) => text(
            StatusCode::GATEWAY_TIMEOUT,
            &format!("{why}: there is no lease\n"),
        ),
        LeaseAnswer::Refused(why) => text(StatusCode::BAD_GATEWAY, &format!("{why}\n")),
        LeaseAnswer::Stopping => text(
            StatusCode::CONFLICT,
            "the task is stopping: no lease is given any more, so take no other job\n",
        ),
        LeaseAnswer::Superseded => text(
            StatusCode::CONFLICT,
            "ECS wants this task gone: no new lease is given, so take no other job; leases that run are renewed\n",
        ),
        LeaseAnswer::Withdrawn => text(
            StatusCode::CONFLICT,
            "the lease was given back while ECS was being asked\n",
        ),
        LeaseAnswer::TooMany => text(
            StatusCode::TOO_MANY_REQUESTS,
            &format!(
                "there are {MAX_LEASES} leases already: give some back, or let several jobs share one\n"
            ),
        ),
    }
}

fn unready(url: &HttpUrl, why: &str) -> Reply {
    text(StatusCode::SERVICE_UNAVAILABLE, &format!("{url}: {why}\n"))
}

/// The value of a query parameter, as it stands.
fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    let pairs = query?.split('&');
    pairs
        .filter_map(|pair| pair.split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

/// Compares in a time that tells nothing of where two tokens differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
}

pub(super) fn text(status: StatusCode, body: &str) -> Reply {
    reply(status, "text/plain; charset=utf-8", body.to_owned())
}

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}
