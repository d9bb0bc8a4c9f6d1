//! The stand-in's task protection endpoint: what ECS's agent serves at `ECS_AGENT_URI`.
//!
//! Shapes, codes and status as in the agent's public source (`ecs-agent/tmds/handlers/taskprotection`);
//! limits as ECS has them (ECS API reference, *UpdateTaskProtection*).

use std::time::Duration;

use hyper::{Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::definition::task_arn;
use super::reply::{StandInReply, json_reply, no_such_page, text, too_many_requests};
use super::task_metadata::Allowance;

/// Where nothing else is said: two hours.
const DEFAULT_MINUTES: i64 = 120;

/// 48 hours.
const MAX_MINUTES: i64 = 2880;

/// Whether the task is protected, and until when.
#[derive(Default)]
pub(super) struct TaskProtection {
    on: Option<On>,
    allowance: Allowance,
    /// PUTs that were done, and all that came.
    done: u64,
    asked: u64,
}

struct On {
    until: Instant,
    expires: Timestamp,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Request {
    protection_enabled: Option<bool>,
    expires_in_minutes: Option<i64>,
}

impl TaskProtection {
    pub(super) fn is_on(&self) -> bool {
        self.on.as_ref().is_some_and(|on| Instant::now() < on.until)
    }

    pub(super) fn calls(&self) -> (u64, u64) {
        (self.done, self.asked)
    }

    pub(super) fn answer(
        &mut self,
        method: &Method,
        path: &str,
        names: &[String],
        body: &[u8],
    ) -> StandInReply {
        if !self.allowance.take() {
            return too_many_requests();
        }
        let rest = path.strip_prefix("/api/").and_then(|rest| rest.split_once('/'));
        let Some((name, "task-protection/v1/state")) = rest else {
            return no_such_page();
        };
        let known = names.iter().any(|known| known == name);
        match *method {
            Method::GET if known => self.state(),
            Method::GET => no_such_task(),
            Method::PUT => {
                self.asked += 1;
                self.update(body, known)
            }
            _ => text(StatusCode::METHOD_NOT_ALLOWED, ""),
        }
    }

    /// In the agent's order: what it refuses itself, it refuses before it asks ECS.
    fn update(&mut self, body: &[u8], known: bool) -> StandInReply {
        const INVALID: &str = "InvalidParameterException";
        let bad = StatusCode::BAD_REQUEST;
        let Ok(request) = serde_json::from_slice::<Request>(body) else {
            let why = "UpdateTaskProtection: failed to decode request";
            return agents_error(bad, json!({"Code": INVALID, "Message": why}));
        };
        if !known {
            return no_such_task();
        }
        let Some(enabled) = request.protection_enabled else {
            let why = "Invalid request: does not contain 'ProtectionEnabled' field";
            return agents_error(bad, json!({"Arn": task_arn(), "Code": INVALID, "Message": why}));
        };
        let minutes = request.expires_in_minutes.unwrap_or(DEFAULT_MINUTES);
        if !(1..=MAX_MINUTES).contains(&minutes) {
            return error_reply(bad, INVALID, "expiresInMinutes must be between 1 and 2880.");
        }
        self.done += 1;
        self.on = enabled.then(|| On {
            until: Instant::now() + Duration::from_secs(60) * u32::try_from(minutes).unwrap_or(1),
            expires: Timestamp::now()
                .saturating_add(SignedDuration::from_mins(minutes))
                .unwrap_or(Timestamp::MAX),
        });
        self.state()
    }

    fn state(&self) -> StandInReply {
        let on = self.on.as_ref().filter(|_| self.is_on());
        let expires = on.map(|on| on.expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        let protection = json!({
            "ExpirationDate": expires,
            "ProtectionEnabled": on.is_some(),
            "TaskArn": task_arn(),
        });
        json_reply(StatusCode::OK, &json!({"protection": protection}))
    }
}

/// ECS cannot do it, for a reason that lies with the service or the task.
pub(super) fn failure(reason: &str) -> StandInReply {
    let failure = json!({"Arn": task_arn(), "Detail": "as simulated", "Reason": reason});
    json_reply(StatusCode::OK, &json!({"failure": failure}))
}

/// What ECS calls an error with that status.
pub(super) fn error_code(status: u16) -> &'static str {
    match status {
        403 => "AccessDeniedException",
        404 => "ResourceNotFoundException",
        429 => "ThrottlingException",
        504 => "RequestCanceled",
        500.. => "ServerException",
        _ => "ClientException",
    }
}

/// The error that usually comes with that status.
pub(super) fn error(status: u16) -> StandInReply {
    let code = error_code(status);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    error_reply(status, code, "as simulated")
}

fn no_such_task() -> StandInReply {
    let why = "Failed to find a task for the request";
    let error = json!({"Code": "ResourceNotFoundException", "Message": why});
    agents_error(StatusCode::NOT_FOUND, error)
}

/// What the agent finds without ECS has no request id, and no ARN before the task is found.
fn agents_error(status: StatusCode, error: Value) -> StandInReply {
    json_reply(status, &json!({"error": error}))
}

/// What ECS has answered.
fn error_reply(status: StatusCode, code: &str, message: &str) -> StandInReply {
    let error = json!({"Arn": task_arn(), "Code": code, "Message": message});
    json_reply(
        status,
        &json!({"requestID": "4d7e0c9b-simulated", "error": error}),
    )
}
