//! The stand-in's task protection endpoint: what ECS's agent serves at `ECS_AGENT_URI`.
//!
//! Shapes, codes and status as in the agent's public source (`ecs-agent/tmds/handlers/taskprotection`);
//! limits as ECS has them (ECS API reference, *UpdateTaskProtection*).

use std::time::Duration;

use hyper::{Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::json;
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
        if !names.iter().any(|known| known == name) {
            let why = "Failed to find a task for the request";
            return error_reply(StatusCode::NOT_FOUND, "ResourceNotFoundException", why);
        }
        match *method {
            Method::GET => self.state(),
            Method::PUT => {
                self.asked += 1;
                self.update(body)
            }
            _ => text(StatusCode::METHOD_NOT_ALLOWED, ""),
        }
    }

    fn update(&mut self, body: &[u8]) -> StandInReply {
        let invalid = |why: &str| error_reply(StatusCode::BAD_REQUEST, "InvalidParameterException", why);
        let Ok(request) = serde_json::from_slice::<Request>(body) else {
            return invalid("UpdateTaskProtection: failed to decode request");
        };
        let Some(enabled) = request.protection_enabled else {
            return invalid("Invalid request: does not contain 'ProtectionEnabled' field");
        };
        let minutes = request.expires_in_minutes.unwrap_or(DEFAULT_MINUTES);
        if !(1..=MAX_MINUTES).contains(&minutes) {
            return invalid("expiresInMinutes must be between 1 and 2880.");
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

/// The error that usually comes with that status.
pub(super) fn error(status: u16) -> StandInReply {
    let code = match status {
        403 => "AccessDeniedException",
        404 => "ResourceNotFoundException",
        429 => "ThrottlingException",
        504 => "RequestCanceled",
        500.. => "ServerException",
        _ => "ClientException",
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    error_reply(status, code, "as simulated")
}

fn error_reply(status: StatusCode, code: &str, message: &str) -> StandInReply {
    let error = json!({"Arn": task_arn(), "Code": code, "Message": message});
    json_reply(
        status,
        &json!({"requestID": "4d7e0c9b-simulated", "error": error}),
    )
}
