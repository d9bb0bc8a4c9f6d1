//! The stand-in's server: connections, who answers a request, and answers that no server should give.

use std::io;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Bytes};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

#[cfg(feature = "laptop")]
use super::World;
use super::faults::{FaultKind, FaultTarget};
use super::query::Query;
use super::reply::{StandInReply, text, with_type};
use super::{StandIn, aws_api, page, task_protection};

/// The largest body that it reads; calls of AWS have a few hundred bytes.
const MAX_BODY: usize = 64 * 1024;

/// More than the containers of a task open.
const MAX_CONNECTIONS: usize = 256;

/// What a huge answer consists of: deep JSON, the worst for a parser that recurses.
const HUGE: usize = 3 * 1024 * 1024;

/// What a server that hangs makes its client wait; longer than any shutdown.
const HANG: Duration = Duration::from_secs(600);

/// A connection that can be torn down without a goodbye.
pub trait Abort: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Closes with a reset where there is such a thing.
    fn abort(self);
}

impl Abort for TcpStream {
    fn abort(self) {
        // Without it the close is a plain one, which is nearly as rude.
        let _ = self.set_zero_linger();
    }
}

impl Abort for DuplexStream {
    fn abort(self) {}
}

/// Instead of an answer.
#[derive(Debug, thiserror::Error)]
enum Break {
    #[error("reset")]
    Reset,
    #[error("garbage")]
    Garbage,
}

impl StandIn {
    /// Serves on a socket. While it refuses connections, the socket is closed.
    ///
    /// # Errors
    /// Where the address cannot be bound again.
    pub async fn serve(&self, listener: TcpListener) -> io::Result<()> {
        let address = listener.local_addr()?;
        let mut listener = Some(listener);
        loop {
            let mut connections = JoinSet::new();
            let refusing = self.refusing.notified();
            tokio::pin!(refusing);
            refusing.as_mut().enable();
            if let Some(wait) = self.refusing_for() {
                listener = None;
                // At most a second, since the fault may be taken back from within.
                sleep(wait.min(Duration::from_secs(1))).await;
                continue;
            }
            let bound = match listener.take() {
                Some(listener) => listener,
                None => TcpListener::bind(address).await?,
            };
            loop {
                tokio::select! {
                    accepted = bound.accept() => {
                        let Ok((stream, _)) = accepted else { continue };
                        while connections.try_join_next().is_some() {}
                        if connections.len() < MAX_CONNECTIONS {
                            let stand_in = self.clone();
                            connections.spawn(async move { stand_in.converse(stream).await });
                        }
                    }
                    () = &mut refusing => {
                        if self.refusing_for().is_some() {
                            break;
                        }
                        refusing.set(self.refusing.notified());
                        refusing.as_mut().enable();
                    }
                }
            }
            // Let the answer to the request that asked for it go out.
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Serves one connection, of whatever kind.
    pub async fn converse(&self, stream: impl Abort) {
        let service = service_fn(|request| self.answer(request));
        let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        let Err(why) = (&mut connection).await else {
            return;
        };
        let mut stream = connection.into_parts().io.into_inner();
        match find_break(&why) {
            Some(Break::Garbage) => {
                let _ = stream
                    .write_all(b"\x00\xffSMTP/9 nonsense \r\n\x01\x02 {[<\r\n\r\n")
                    .await;
                let _ = stream.shutdown().await;
            }
            Some(Break::Reset) => stream.abort(),
            None => {}
        }
    }

    async fn answer<B>(&self, request: Request<B>) -> Result<StandInReply, Break>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        if path == "/" && matches!(method, Method::GET | Method::HEAD) {
            return Ok(with_type(
                StatusCode::OK,
                "text/html; charset=utf-8",
                page::PAGE.to_owned(),
            ));
        }
        let reply = self.reply(request).await;
        if !path.starts_with("/_simulate") {
            let status = reply.as_ref().ok().map(Response::status);
            self.world().requests.add(&method, &path, status);
        }
        reply
    }

    async fn reply<B>(&self, request: Request<B>) -> Result<StandInReply, Break>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
            return Ok(text(StatusCode::PAYLOAD_TOO_LARGE, "too long\n"));
        };
        let body = body.to_bytes();
        let path = head.uri.path();
        let query = Query(head.uri.query().unwrap_or_default());
        if let Some(what) = path.strip_prefix("/_simulate") {
            let reply = self.control(&head.method, what.trim_start_matches('/'), query);
            self.refusing.notify_waiters();
            return Ok(reply);
        }
        let target = if path.starts_with("/latest") {
            FaultTarget::Imds
        } else if path == "/" && head.method == Method::POST {
            FaultTarget::Aws
        } else if path.starts_with("/api/") {
            FaultTarget::Agent
        } else {
            FaultTarget::Tmds
        };
        let fault = self.world().faults.hit(target);
        if let Some(kind) = fault {
            match kind {
                FaultKind::Hang => sleep(HANG).await,
                FaultKind::Slow(delay) => sleep(delay).await,
                FaultKind::Reset | FaultKind::Refuse => return Err(Break::Reset),
                FaultKind::Garbage => return Err(Break::Garbage),
                FaultKind::Huge => return Ok(text(StatusCode::OK, &"[".repeat(HUGE))),
                FaultKind::Status(code) => {
                    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                    return Ok(text(status, "as simulated\n"));
                }
                FaultKind::Failure => return Ok(task_protection::failure("DEPLOYMENT_BLOCKED")),
                FaultKind::Error(code) if target == FaultTarget::Aws => return Ok(aws_api::error(code)),
                FaultKind::Error(code) => return Ok(task_protection::error(code)),
            }
        }
        match target {
            FaultTarget::Imds if !self.world().definition.has_instance_metadata() => Ok(text(
                StatusCode::NOT_FOUND,
                "no instance metadata where this task runs\n",
            )),
            FaultTarget::Imds => Ok(self
                .world()
                .instance_metadata
                .answer(&head.method, path, &head.headers)),
            #[cfg(not(feature = "laptop"))]
            FaultTarget::Aws => Ok(text(
                StatusCode::NOT_IMPLEMENTED,
                "the stand-in of the image plays no APIs of AWS: that of `cargo build` does\n",
            )),
            #[cfg(feature = "laptop")]
            FaultTarget::Aws => {
                let World { definition, aws, .. } = &mut *self.world();
                Ok(aws.answer(definition, &head.headers, &body))
            }
            FaultTarget::Tmds => Ok(self.task_metadata(path).await),
            FaultTarget::Agent => {
                let mut world = self.world();
                let names = world.definition.names();
                Ok(world.task_protection.answer(&head.method, path, &names, &body))
            }
        }
    }

    /// Whatever the method, as the agent does it.
    async fn task_metadata(&self, path: &str) -> StandInReply {
        let unresolved = self.world().definition.unresolved();
        for name in unresolved {
            // Under docker-compose the names of the containers are those of DNS.
            let found = tokio::time::timeout(
                Duration::from_millis(200),
                tokio::net::lookup_host((name.as_str(), 0)),
            );
            if let Ok(Ok(addresses)) = found.await {
                let addresses = addresses.map(|address| address.ip()).collect();
                self.world().definition.resolve(&name, addresses);
            }
        }
        self.world().definition.answer(path)
    }

    fn control(&self, method: &Method, what: &str, query: Query<'_>) -> StandInReply {
        let mut world = self.world();
        match world.control(method, what, query) {
            Ok(()) => with_type(
                StatusCode::OK,
                "application/json",
                format!("{:#}\n", world.state()),
            ),
            Err(why) => text(StatusCode::BAD_REQUEST, &format!("{why}\n")),
        }
    }

    fn refusing_for(&self) -> Option<Duration> {
        self.world().faults.refusing(&[
            FaultTarget::Imds,
            FaultTarget::Tmds,
            FaultTarget::Aws,
            FaultTarget::Agent,
        ])
    }
}

fn find_break(why: &hyper::Error) -> Option<&Break> {
    std::error::Error::source(why)?.downcast_ref()
}
