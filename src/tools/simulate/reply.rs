//! The stand-in's answers, as whole bodies.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Response, StatusCode};

pub(super) type StandInReply = Response<Full<Bytes>>;

pub(super) fn text(status: StatusCode, body: &str) -> StandInReply {
    with_type(status, "text/plain; charset=utf-8", body.to_owned())
}

/// What the agent's rate limiter answers (github.com/didip/tollbooth, `limiter.New` and
/// `setResponseHeaders`), but for the caller's port, which nobody reads.
pub(super) fn too_many_requests() -> StandInReply {
    let mut reply = text(
        StatusCode::TOO_MANY_REQUESTS,
        "You have reached maximum request limit.",
    );
    let headers = reply.headers_mut();
    headers.insert("x-rate-limit-limit", HeaderValue::from_static("40.00"));
    headers.insert("x-rate-limit-duration", HeaderValue::from_static("1"));
    reply
}

pub(super) fn json_reply(status: StatusCode, body: &serde_json::Value) -> StandInReply {
    with_type(status, "application/json", format!("{body:#}\n"))
}

pub(super) fn with_type(status: StatusCode, content_type: &'static str, body: String) -> StandInReply {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    reply.headers_mut().insert(CONTENT_TYPE, content_type);
    reply
}

/// What a request's header says, as text.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
