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

/// As the agent writes it: on one line, with nothing behind it (`ecs-agent/tmds/handlers/utils/helpers.go`).
pub(super) fn json_reply(status: StatusCode, body: &serde_json::Value) -> StandInReply {
    with_type(status, "application/json", body.to_string())
}

/// What no route of the agent fits, as Go's `http.NotFound` has it.
pub(super) fn no_such_page() -> StandInReply {
    let mut reply = text(StatusCode::NOT_FOUND, "404 page not found\n");
    reply
        .headers_mut()
        .insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    reply
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
