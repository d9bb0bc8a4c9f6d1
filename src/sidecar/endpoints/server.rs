//! Connections of the local endpoints: how many, how long, and who may ask.
//!
//! Connections, heads and times are bounded: a client that does nothing, or too much, costs a slot for a
//! while and no more.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, ORIGIN};
use hyper::http::uri::Authority;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::Endpoints;
use super::routes::{LONGEST_ANSWER, text};

/// Ten containers of a task with some workers each, long-polling. As many again are served at once
/// and cannot wait, so that health checks and acknowledgements get through.
const MAX_CONNECTIONS: usize = 64;

/// From the connection to the end of the request's head, and between two requests.
pub(super) const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// A connection this old gets its last answer, which says so: a client that long-polls need not connect for
/// each poll, and one that keeps a place without need gives it back.
const KEPT_ALIVE: Duration = Duration::from_secs(60);

/// The whole life of a connection: a request that comes just before it is [`KEPT_ALIVE`] old, with a slow
/// head, a slow body and the longest wait, is still answered.
const CONNECTION_LIMIT: Duration = KEPT_ALIVE
    .saturating_add(HEAD_LIMIT)
    .saturating_add(HEAD_LIMIT)
    .saturating_add(LONGEST_ANSWER);

/// Enough for any header that a proxy adds.
const MAX_HEAD: usize = 16 * 1024;

/// Sent by browsers with each request.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, endpoints: Endpoints) {
    let audience = Audience::of(&listener);
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
            connection(stream, endpoints, audience, slot.is_none()).await;
            drop(slot);
        });
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    endpoints: Endpoints,
    audience: Audience,
    full: bool,
) {
    let opened = Instant::now();
    let service = service_fn(|request| {
        let endpoints = endpoints.clone();
        async move {
            let mut reply = match audience.refuses(&request) {
                Some(why) => text(StatusCode::FORBIDDEN, why),
                None => endpoints.answer(request, full).await,
            };
            if opened.elapsed() >= KEPT_ALIVE {
                reply
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(reply)
        }
    });
    // A client that breaks off or sends nonsense ends its own connection only.
    let limit = if full { HEAD_LIMIT } else { CONNECTION_LIMIT };
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(MAX_HEAD)
        .keep_alive(!full)
        .serve_connection(TokioIo::new(stream), service);
    let _ = timeout(limit, served).await;
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
