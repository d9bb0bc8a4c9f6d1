//! A load balancer: sends each request to the next of its registered targets, whether that still
//! lives or not, until it is told otherwise by deregistration.
//!
//! The targets are those of the stand-in's target group. Requests in flight are left to finish, and
//! what a target does not answer is answered as an Application Load Balancer does.

use std::convert::Infallible;
use std::net::SocketAddr;

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, client, server};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::tools::simulate::StandIn;

/// More than the clients of a rehearsal open.
const MAX_CONNECTIONS: usize = 256;

type BalancerReply = Response<Either<Incoming, Full<Bytes>>>;

/// Serves for as long as it is polled.
pub async fn serve(listener: &TcpListener, targets: &StandIn) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        while connections.try_join_next().is_some() {}
        if connections.len() < MAX_CONNECTIONS {
            let targets = targets.clone();
            connections.spawn(async move {
                let service = service_fn(|request| forward(&targets, request));
                // The client has hung up.
                let _ = server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    }
}

async fn forward(targets: &StandIn, request: Request<Incoming>) -> Result<BalancerReply, Infallible> {
    let Some(target) = targets.route() else {
        return Ok(failed(StatusCode::SERVICE_UNAVAILABLE));
    };
    let answer = ask(target, request).await;
    Ok(answer.unwrap_or_else(|| failed(StatusCode::BAD_GATEWAY)))
}

/// `None` where the target refuses, resets or talks nonsense before the head of its answer is there;
/// afterwards the client's connection breaks off with the target's.
async fn ask(target: SocketAddr, mut request: Request<Incoming>) -> Option<BalancerReply> {
    let stream = TcpStream::connect(target).await.ok()?;
    let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    // Ends with the answer, or with whoever waits for it.
    tokio::spawn(connection);
    let close = HeaderValue::from_static("close");
    request.headers_mut().insert(CONNECTION, close);
    let mut answer = sender.send_request(request).await.ok()?;
    answer.headers_mut().remove(CONNECTION);
    Some(answer.map(Either::Left))
}

fn failed(status: StatusCode) -> BalancerReply {
    let mut reply = Response::new(Either::Right(Full::new(Bytes::from(format!("{status}\n")))));
    *reply.status_mut() = status;
    reply
}
