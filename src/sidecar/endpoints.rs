//! The local endpoints: how containers of the task and their health checks talk to the sidecar.
//!
//! They answer from the latest status snapshot and pass what they are told on to the mailbox; they
//! decide nothing. Connections, heads, bodies and times are bounded: a client that does nothing, or
//! too much, costs a slot for a while and no more.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::config;
use crate::core::leases::{Answer, LeaseName, MAX_LEASE, MAX_LEASES, MAX_NAME, MIN_LEASE, Said};
use crate::core::notice::{Notice, Reason};
use crate::core::url::HttpUrl;
use crate::sidecar::drain::call::wall_clock;
use crate::sidecar::drain::quiet::Sight;
use crate::sidecar::http::{Ask, Network};
use crate::sidecar::mailbox::{Mailbox, Message};
use crate::sidecar::protection::{Desk, What, protected_until};
use crate::sidecar::status::Status;
use crate::sidecar::telemetry::{Telemetry, metrics};

/// Ten containers of a task with some workers each, long-polling. As many again are served at once
/// and cannot wait, so that health checks and acknowledgements get through.
const MAX_CONNECTIONS: usize = 64;

/// From the connection to the end of the request's head, and between two requests.
const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// The whole life of a connection: longer than the longest `/notice?wait`.
const CONNECTION_LIMIT: Duration = Duration::from_secs(90);

/// Enough for any header that a proxy adds.
const MAX_HEAD: usize = 16 * 1024;

/// No endpoint needs a body; a short one is read and forgotten.
const MAX_BODY: usize = 4 * 1024;

/// The longest that `/notice` makes a client wait.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// What `/ready` gives the app to answer: health checks of load balancers time out after 2 s and more.
const READY_LIMIT: Duration = Duration::from_secs(1);

/// Longer than all tries of a lease together, in case that something else is stuck.
const PROTECT_LIMIT: Duration = Duration::from_secs(15);

/// What the endpoints know and whom they tell.
#[derive(Clone)]
pub struct Endpoints {
    /// The latest snapshot.
    pub status: watch::Receiver<Arc<Status>>,
    /// Where manual notices and acknowledgements go.
    pub mailbox: Mailbox,
    /// Required by `POST /drain`.
    pub token: Option<Arc<str>>,
    /// What `/ready` asks the app.
    pub ready_url: Option<HttpUrl>,
    /// How it asks.
    pub network: Network,
    /// Where leases are had, if anywhere.
    pub protect: Option<Desk>,
    /// For the connections that owe an answer.
    pub sight: Sight,
    /// For the count of dropped lines.
    pub telemetry: Telemetry,
}

type Reply = Response<Full<Bytes>>;

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, endpoints: Endpoints) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors: some are given back as connections end.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        let slot = Arc::clone(&slots).try_acquire_owned().ok();
        if slot.is_none() && connections.len() >= 2 * MAX_CONNECTIONS {
            continue;
        }
        let endpoints = endpoints.clone();
        connections.spawn(async move {
            let full = slot.is_none();
            let limit = if full { HEAD_LIMIT } else { CONNECTION_LIMIT };
            let _ = timeout(limit, connection(stream, endpoints, full)).await;
            drop(slot);
        });
    }
}

async fn connection(stream: TcpStream, endpoints: Endpoints, full: bool) {
    let service = service_fn(|request| {
        let endpoints = endpoints.clone();
        async move { Ok::<_, Infallible>(endpoints.answer(request, full).await) }
    });
    // A client that breaks off or sends nonsense ends its own connection only.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(MAX_HEAD)
        .keep_alive(!full)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl Endpoints {
    async fn answer(&self, request: Request<Incoming>, full: bool) -> Reply {
        let (head, body) = request.into_parts();
        let body = Limited::new(body, MAX_BODY).collect();
        match timeout(HEAD_LIMIT, body).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return text(StatusCode::PAYLOAD_TOO_LARGE, "no endpoint needs a body\n"),
            Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the body did not arrive\n"),
        }
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
            "/notice" if full => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many connections are waiting\n",
            ),
            "/notice" => self.notice(query).await,
            "/status" => self.status().await,
            "/metrics" => self.metrics().await,
            "/drained" => self.drained(query).await,
            "/drain" => self.drain(head.headers.get(AUTHORIZATION)).await,
            protect => self.protect(&head.method, protect, query).await,
        }
    }

    fn healthz(&self) -> Reply {
        match &self.snapshot().unhealthy {
            None => text(StatusCode::OK, "ok\n"),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("{why}\n")),
        }
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
            .as_ref()
            .as_ref()
            .and_then(|task| task.container(url.host()));
        let known = known.map_or_else(Vec::new, crate::core::task::Container::reached_at);
        match timeout(READY_LIMIT, self.network.ask(Ask::get(url), &known)).await {
            Ok(Ok(answer)) if answer.status().is_success() => text(StatusCode::OK, "ready\n"),
            Ok(Ok(answer)) => unready(url, &format!("HTTP {}", answer.status().as_u16())),
            Ok(Err(why)) => unready(url, &why.to_string()),
            Err(_) => unready(url, "no answer within 1 s"),
        }
    }

    async fn notice(&self, query: Option<&str>) -> Reply {
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
        let mut status = self.status.clone();
        // `wait_for` fails only where the sidecar has gone, and this connection with it.
        let noticed = status.wait_for(|status| status.notice.is_some());
        let _ = timeout(wait, noticed).await;
        let snapshot = self.snapshot();
        let (Some(notice), Some(deadline)) = (snapshot.notice, snapshot.deadline) else {
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
        body["connections"] = self.sight.picture().await.map_or(
            serde_json::Value::Null,
            |picture| json!({"open": picture.open, "owing": picture.surely_owing(), "owed": picture.named}),
        );
        reply(StatusCode::OK, "application/json", format!("{body}\n"))
    }

    async fn metrics(&self) -> Reply {
        let snapshot = self.snapshot();
        let body = metrics::render(
            &snapshot,
            self.telemetry.dropped(),
            snapshot.deadline.map(seconds_left),
            self.sight.picture().await.as_ref(),
        );
        reply(
            StatusCode::OK,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            body,
        )
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
        let Some(desk) = &self.protect else {
            return text(
                StatusCode::NOT_FOUND,
                "there is no task protection: it needs PRESTOP_PROTECT=true and, outside of ECS, ECS_AGENT_URI\n",
            );
        };
        let name = path.strip_prefix("/protect/").and_then(LeaseName::parse);
        let Some(name) = name.filter(|name| !(desk.asks_app && *name == LeaseName::busy())) else {
            let why = format!(
                "a lease has a name of 1 to {MAX_NAME} visible ASCII characters without a slash; `busy` is that of \
                 PRESTOP_BUSY_URL where that is set\n"
            );
            return text(StatusCode::BAD_REQUEST, &why);
        };
        let what = if method == Method::DELETE {
            What::GiveBack
        } else {
            let length = parameter(query, "for").and_then(config::duration);
            match length.filter(|length| (MIN_LEASE..=MAX_LEASE).contains(length)) {
                Some(length) => What::Take(length),
                None => {
                    return text(
                        StatusCode::BAD_REQUEST,
                        "for is needed: a duration of 1s to 48h, such as PUT /protect/job-7?for=10m\n",
                    );
                }
            }
        };
        match timeout(PROTECT_LIMIT, desk.ask(name, what)).await {
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
        let Some(desk) = &self.protect else {
            return status;
        };
        let protection = Arc::clone(&desk.report.borrow());
        let mut status = Status::clone(&status);
        status.unhealthy = status.unhealthy.or_else(|| protection.trouble.clone());
        status.protection = Some(protection);
        Arc::new(status)
    }
}

fn protect_reply(answer: Answer) -> Reply {
    match answer {
        Answer::Granted(grant) => {
            let body = json!({
                "name": grant.name.as_str(),
                "until": wall_clock(grant.until),
                "protected_until": protected_until(&grant.protected),
            });
            reply(StatusCode::OK, "application/json", format!("{body}\n"))
        }
        Answer::GivenBack => reply(StatusCode::NO_CONTENT, "text/plain", String::new()),
        Answer::Unknown => text(StatusCode::NOT_FOUND, "there is no lease of that name\n"),
        Answer::Refused(Said::Silent(why)) => text(
            StatusCode::GATEWAY_TIMEOUT,
            &format!("{}: there is no lease\n", Said::Silent(why)),
        ),
        Answer::Refused(said) => text(StatusCode::BAD_GATEWAY, &format!("{said}\n")),
        Answer::Stopping => text(
            StatusCode::CONFLICT,
            "the task is stopping: no lease is given any more, so take no other job\n",
        ),
        Answer::Withdrawn => text(
            StatusCode::CONFLICT,
            "the lease was given back while ECS was being asked\n",
        ),
        Answer::TooMany => text(
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

fn seconds_left(deadline: Instant) -> f64 {
    let now = tokio::time::Instant::now().into_std();
    let left = deadline.saturating_duration_since(now).as_secs_f64();
    (left * 10.0).floor() / 10.0
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

fn text(status: StatusCode, body: &str) -> Reply {
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

/// Asks the sidecar of this container how it is: what `ecs-prestop health` does.
///
/// # Errors
/// The reason in words.
pub async fn ask_health(listen: SocketAddr) -> Result<(), String> {
    /// An ECS health check is given 5 s by default; a sidecar that needs two is not healthy.
    const LIMIT: Duration = Duration::from_millis(1500);
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    let address = SocketAddr::new(ip, listen.port());
    let url: HttpUrl = format!("http://{address}/healthz")
        .parse()
        .map_err(|why| format!("{address}: {why}"))?;
    timeout(LIMIT, async {
        let answer = Network::system(1).ask(Ask::get(&url), &[]).await;
        let answer = answer.map_err(|why| format!("no sidecar answers at {address}: {why}"))?;
        let status = answer.status();
        let body = answer.text(MAX_BODY).await.map_err(|why| why.to_string())?;
        if status.is_success() {
            Ok(())
        } else {
            Err(body.trim().to_owned())
        }
    })
    .await
    .unwrap_or_else(|_| Err(format!("the sidecar at {address} does not answer within 1.5 s")))
}
