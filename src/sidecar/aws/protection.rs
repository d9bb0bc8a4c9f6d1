//! The task protection endpoint of ECS's agent (ECS developer guide, *Task scale-in protection
//! endpoint*; bodies as in the agent's public source, `ecs-agent/tmds/handlers/taskprotection`).
//!
//! One PUT, one answer told apart. It does not try again and keeps nothing: [`crate::core::leases`]
//! decides what follows.

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::core::leases::{Call, Said};
use crate::core::url::HttpUrl;
use crate::sidecar::http::{Ask, Network, Regular, Trouble};

/// One call. The agent asks ECS in turn, which takes a few hundred milliseconds.
const CALL_LIMIT: Duration = Duration::from_secs(2);

/// An answer has an ARN, a date and a sentence.
const MAX_ANSWER: usize = 16 * 1024;

/// What is kept of a text of the answer, to be shown to people.
const MAX_TEXT: usize = 300;

/// Tells the agent at `ECS_AGENT_URI`, once.
pub async fn tell(network: &Network, agent: &HttpUrl, call: Call) -> Said {
    let url = agent.append("/task-protection/v1/state");
    let (enabled, body) = match call {
        Call::Protect { minutes } => (
            true,
            json!({"ProtectionEnabled": true, "ExpiresInMinutes": minutes}),
        ),
        Call::Release => (false, json!({"ProtectionEnabled": false})),
    };
    let mut ask = Ask::new("PUT", &url).header(CONTENT_TYPE, "application/json");
    ask.body = body.to_string();
    // A connection of its own: calls are minutes apart.
    match Regular::new(network.clone(), CALL_LIMIT, MAX_ANSWER)
        .ask(ask)
        .await
    {
        Ok(answer) => said(answer.status, &answer.body, enabled),
        Err(why @ (Trouble::NotHttp(_) | Trouble::TooLarge(_))) => Said::Garbage(why.to_string()),
        Err(why) => Said::Silent(why.to_string()),
    }
}

fn said(status: StatusCode, body: &str, enabled: bool) -> Said {
    let document: Option<Value> = serde_json::from_str(body).ok();
    let part = |name: &str| document.as_ref()?.get(name).filter(|part| part.is_object());
    let text = |part: &Value, name: &str| shortened(part[name].as_str().unwrap_or_default());
    if let Some(error) = part("error") {
        return Said::Error {
            status: status.as_u16(),
            code: text(error, "Code"),
            message: text(error, "Message"),
        };
    }
    if status != StatusCode::OK {
        return Said::Status(status.as_u16());
    }
    if let Some(failure) = part("failure") {
        return Said::Failure {
            reason: text(failure, "Reason"),
            detail: text(failure, "Detail"),
        };
    }
    match part("protection") {
        Some(protection) if protection["ProtectionEnabled"] == enabled => Said::Agreed {
            expires: protection["ExpirationDate"]
                .as_str()
                .and_then(|date| date.parse::<Timestamp>().ok()),
        },
        Some(_) => Said::Garbage(format!(
            "it was told ProtectionEnabled {enabled} and answers otherwise"
        )),
        None => Said::Garbage("there is neither protection nor failure nor error in it".to_owned()),
    }
}

fn shortened(text: &str) -> String {
    let printable = text.chars().filter(|c| !c.is_control());
    printable.take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGREED: &str =
        r#"{"protection":{"ExpirationDate":"2026-01-01T01:00:00Z","ProtectionEnabled":true,"TaskArn":"a"}}"#;

    fn outcome(status: u16, body: &str) -> &'static str {
        said(StatusCode::from_u16(status).unwrap(), body, true).outcome()
    }

    #[test]
    fn agreement_failure_error_status_and_garbage_are_told_apart() {
        let expires = Some("2026-01-01T01:00:00Z".parse().unwrap());
        assert_eq!(said(StatusCode::OK, AGREED, true), Said::Agreed { expires });
        let failure = r#"{"failure":{"Arn":"a","Reason":"DEPLOYMENT_BLOCKED","Detail":null}}"#;
        let refused = Said::Failure {
            reason: "DEPLOYMENT_BLOCKED".to_owned(),
            detail: String::new(),
        };
        assert_eq!(said(StatusCode::OK, failure, true), refused);
        assert_eq!(refused.to_string(), "ECS refuses: DEPLOYMENT_BLOCKED");
        let denied =
            r#"{"requestID":"r","error":{"Arn":"a","Code":"AccessDeniedException","Message":"no\nway"}}"#;
        let denied = said(StatusCode::BAD_REQUEST, denied, true);
        assert!(
            denied
                .to_string()
                .contains("ecs:UpdateTaskProtection: see task-definitions/iam/sidecar-protect.json"),
            "{denied}"
        );
        assert_eq!(
            outcome(500, r#"{"error":{"Code":"ServerException","Message":"x"}}"#),
            "error"
        );
        assert_eq!(outcome(429, ""), "status");
        assert_eq!(outcome(503, "<html>"), "status");
        assert_eq!(outcome(500, AGREED), "status", "an agreement is a 200");
        for body in [
            "",
            "[]",
            "3",
            "{}",
            "{\"protection\":3}",
            "{\"protection\":{}}",
            &"[".repeat(10_000),
        ] {
            assert_eq!(outcome(200, body), "garbage", "{body:.20}");
        }
        let off = AGREED.replace("true", "false");
        assert_eq!(outcome(200, &off), "garbage", "the task is not protected then");
    }

    #[test]
    fn a_strange_date_is_left_out_and_long_texts_are_cut() {
        let date = AGREED.replace("2026-01-01T01:00:00Z", "soon");
        assert_eq!(said(StatusCode::OK, &date, true), Said::Agreed { expires: None });
        let long = format!(r#"{{"failure":{{"Reason":"{}"}}}}"#, "R".repeat(5000));
        let Said::Failure { reason, .. } = said(StatusCode::OK, &long, true) else {
            panic!("a failure");
        };
        assert_eq!(reason.len(), MAX_TEXT);
    }
}
