//! Connections of the local endpoints: how many, how long, and who may ask.
//!
//! Connections, heads, bodies and times are bounded. A client that has not asked has a place only as long
//! as no later one wants it, so that none that is slow keeps a health check out.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, ORIGIN};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::Endpoints;
use super::routes::{LONGEST_ANSWER, Reply, text};

/// Connections that have sent nothing yet, which cost next to nothing: more than a task has clients.
const MAX_ARRIVED: usize = 128;

/// Connections that have begun to ask, or may ask again. hyper's buffers take some 22 kB for each, and the
/// smallest container has 6 MB.
const MAX_ASKING: usize = 16;

/// Ten containers of a task with some workers each, long-polling.
const MAX_WAITING: usize = 64;

/// As many again are answered, so that health checks, acknowledgements and leases get through, of which a
/// hundred may be asked for at once.
const MAX_ANSWERED: usize = 2 * MAX_WAITING;

/// From the connection to the first byte, from there to the end of the request's head, from there to the end of
/// its body, and between two requests.
const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// A connection this old gets its last answer, which says so: a client that long-polls need not connect for
/// each poll, and one that keeps a place without need gives it back.
const KEPT_ALIVE: Duration = Duration::from_secs(60);

/// The whole life of a connection: a request that comes just before it is [`KEPT_ALIVE`] old, with a slow
/// head, a slow body and the longest wait, is still answered.
const CONNECTION_LIMIT: Duration = KEPT_ALIVE
    .saturating_add(HEAD_LIMIT)
    .saturating_add(HEAD_LIMIT)
    .saturating_add(LONGEST_ANSWER);

/// Enough for any header that a proxy adds, and the least that hyper takes.
const MAX_HEAD: usize = 8 * 1024;

/// No endpoint needs a body; a short one is read and forgotten.
const MAX_BODY: usize = 4 * 1024;

/// Sent by browsers with each request.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, endpoints: Endpoints) {
    let server = Arc::new(Server::new(Audience::of(&listener), endpoints));
    let arrived = Arc::new(Places::new(MAX_ARRIVED));
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors: some are given back as connections end.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        let place = arrived.take().await;
        let (server, arrived) = (Arc::clone(&server), Arc::clone(&arrived));
        connections.spawn(async move {
            let begins = tokio::select! {
                biased;
                ready = stream.readable() => ready.is_ok(),
                () = arrived.wanted() => false,
                () = sleep(HEAD_LIMIT) => false,
            };
            if begins {
                let asking = server.asking.take().await;
                drop(place);
                // In a box, so that those that have only arrived do not take its room.
                Box::pin(server.converse(stream, asking)).await;
            }
        });
    }
}

/// Places that whoever has had one for longest leaves to the next who comes when all are taken.
struct Places {
    free: Arc<Semaphore>,
    wanted: Notify,
    /// Of those who come one after the other, so that each makes one leave.
    turn: tokio::sync::Mutex<()>,
}

impl Places {
    fn new(number: usize) -> Places {
        Places {
            free: Arc::new(Semaphore::new(number)),
            wanted: Notify::new(),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    /// A place, as soon as somebody has left theirs where that is needed. There always is one: `None` is for
    /// the compiler.
    async fn take(&self) -> Option<OwnedSemaphorePermit> {
        if let Some(place) = self.try_take() {
            return Some(place);
        }
        let _turn = self.turn.lock().await;
        if let Some(place) = self.try_take() {
            return Some(place);
        }
        self.wanted.notify_one();
        let place = Arc::clone(&self.free).acquire_owned().await.ok();
        // Where somebody has left without being told, tokio keeps the wish: it must not meet a later one.
        tokio::select! {
            biased;
            () = self.wanted.notified() => {}
            () = std::future::ready(()) => {}
        }
        place
    }

    fn try_take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_owned().ok()
    }

    /// Waits until it is one's turn to leave; who has waited longest is the first.
    fn wanted(&self) -> Notified<'_> {
        self.wanted.notified()
    }
}

/// What all connections have in common.
struct Server {
    audience: Audience,
    endpoints: Endpoints,
    asking: Places,
    answered: Semaphore,
    waiting: Semaphore,
}

impl Server {
    fn new(audience: Audience, endpoints: Endpoints) -> Server {
        Server {
            audience,
            endpoints,
            asking: Places::new(MAX_ASKING),
            answered: Semaphore::new(MAX_ANSWERED),
            waiting: Semaphore::new(MAX_WAITING),
        }
    }

    async fn converse(
        self: Arc<Server>,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        asking: Option<OwnedSemaphorePermit>,
    ) {
        let opened = Instant::now();
        let asking = Asking(Mutex::new(asking));
        let service = service_fn(|request| {
            let (server, asking) = (&self, &asking);
            async move {
                let head = match server.admit(request).await {
                    Ok(head) => head,
                    Err(refusal) => return Ok::<_, Infallible>(closing(refusal)),
                };
                // Never closed, so that there always is one in the end.
                let _answered = server.answered.acquire().await;
                asking.set(None);
                let reply = server.endpoints.answer(head, &server.waiting).await;
                let again = server.asking.try_take();
                let last = again.is_none() || opened.elapsed() >= KEPT_ALIVE;
                asking.set(again);
                Ok(if last { closing(reply) } else { reply })
            }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_LIMIT)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        let (mut served, mut wanted) = (pin!(served), pin!(self.asking.wanted()));
        let over = poll_fn(|context| {
            // A client that breaks off or sends nonsense ends its own connection only.
            if served.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            if asking.has_place() {
                return wanted.as_mut().poll(context);
            }
            // Out of the queue, and at its end again once there is an answer.
            wanted.set(self.asking.wanted());
            Poll::Pending
        });
        let _ = timeout(CONNECTION_LIMIT, over).await;
    }

    /// The head of a request that may be answered; its body is there, and forgotten.
    async fn admit(&self, request: Request<Incoming>) -> Result<Parts, Reply> {
        if let Some(why) = self.audience.refuses(&request) {
            return Err(text(StatusCode::FORBIDDEN, why));
        }
        let (head, body) = request.into_parts();
        match timeout(HEAD_LIMIT, Limited::new(body, MAX_BODY).collect()).await {
            Ok(Ok(_)) => Ok(head),
            Ok(Err(_)) => Err(text(StatusCode::PAYLOAD_TOO_LARGE, "no endpoint needs a body\n")),
            Err(_) => Err(text(StatusCode::REQUEST_TIMEOUT, "the body did not arrive\n")),
        }
    }
}

/// The place of a connection while it may ask; it has none while a request is answered. The lock is held for
/// no time.
struct Asking(Mutex<Option<OwnedSemaphorePermit>>);

impl Asking {
    fn set(&self, place: Option<OwnedSemaphorePermit>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }

    fn has_place(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

fn closing(mut reply: Reply) -> Reply {
    let close = HeaderValue::from_static("close");
    reply.headers_mut().insert(CONNECTION, close);
    reply
}

/// Who may ask: nobody who speaks for a web page, which may reach this port in somebody's browser (Fetch
/// standard, *`Origin` header*; Fetch Metadata, *The `Sec-Fetch-Site` HTTP Request Header*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    /// Processes of this network namespace, which know it by a name of loopback: any other name is one that
    /// a web page has turned to this address.
    Loopback,
    /// Others as well, by whatever name leads here.
    Everybody,
}

impl Audience {
    fn of(listener: &TcpListener) -> Audience {
        match listener.local_addr() {
            Ok(address) if address.ip().to_canonical().is_loopback() => Audience::Loopback,
            _ => Audience::Everybody,
        }
    }

    fn refuses<B>(self, request: &Request<B>) -> Option<&'static str> {
        let headers = request.headers();
        // `none` is a person who has typed the address into a browser.
        let from_page = headers.get_all(SEC_FETCH_SITE).iter().any(|site| site != "none");
        if from_page || headers.contains_key(ORIGIN) {
            return Some("web pages may not ask here: leave Origin and Sec-Fetch-Site out\n");
        }
        let foreign = |host: &HeaderValue| !host.to_str().is_ok_and(is_loopback);
        let foreign = self == Audience::Loopback && headers.get_all(HOST).iter().any(foreign);
        foreign
            .then_some("this endpoint is on loopback: ask for localhost or 127.0.0.1, not for another host\n")
    }
}

/// Whether a `Host` is loopback by its form alone: an address, or a name that leads nowhere else (RFC 6761,
/// section 6.3).
fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    if host.contains('@') {
        return false;
    }
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    match name.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => {
            let name = name.to_ascii_lowercase();
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
    }
}

#[cfg(test)]
mod tests;
