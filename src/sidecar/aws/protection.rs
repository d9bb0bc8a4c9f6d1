//! The task protection endpoint of ECS's agent (ECS developer guide, *Task scale-in protection
//! endpoint*; bodies as in the agent's public source, `ecs-agent/tmds/handlers/taskprotection`).
//!
//! Makes one call and interprets its answer. It does not try again and keeps nothing:
//! [`crate::core::leases`] decides what follows.

use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::core::leases::{AgentAnswer, AgentCall, CALL_LIMIT};
use crate::core::url::HttpUrl;
use crate::sidecar::http::{Ask, Network, Regular, Trouble};

/// How much earlier than asked for a protection may end by the clock of this host. No host whose calls
/// AWS accepts is wrong by that much.
const MAX_CLOCK_ERROR: SignedDuration = SignedDuration::from_mins(30);

/// Room for what an answer has: an ARN, a date and a sentence.
const MAX_ANSWER: usize = 16 * 1024;

/// How much of a text of the answer is kept, to be shown to people.
const MAX_TEXT: usize = 300;

/// Calls the agent, whose URL is `ECS_AGENT_URI`, once.
pub async fn call_agent(network: &Network, agent: &HttpUrl, call: AgentCall) -> AgentAnswer {
    let url = agent.append("/task-protection/v1/state");
    let body = match call {
        AgentCall::Protect { minutes } => json!({"ProtectionEnabled": true, "ExpiresInMinutes": minutes}),
        AgentCall::Release => json!({"ProtectionEnabled": false}),
    };
    let mut ask = Ask::new("PUT", &url).header(CONTENT_TYPE, "application/json");
    ask.body = body.to_string();
    // A connection of its own: calls are minutes apart.
    match Regular::new(network.clone(), CALL_LIMIT, MAX_ANSWER)
        .ask(ask)
        .await
    {
        Ok(answer) => interpret(answer.status, &answer.body, call, Timestamp::now()),
        Err(why @ (Trouble::NotHttp(_) | Trouble::TooLarge(_))) => AgentAnswer::Garbage(why.to_string()),
        Err(why) => AgentAnswer::Silent(why.to_string()),
    }
}

fn interpret(status: StatusCode, body: &str, call: AgentCall, now: Timestamp) -> AgentAnswer {
    let enabled = matches!(call, AgentCall::Protect { .. });
    let document: Option<Value> = serde_json::from_str(body).ok();
    let part = |name: &str| document.as_ref()?.get(name).filter(|part| part.is_object());
    let text = |part: &Value, name: &str| shortened(part[name].as_str().unwrap_or_default());
    if let Some(error) = part("error") {
        return AgentAnswer::Error {
            status: status.as_u16(),
            code: text(error, "Code"),
            message: text(error, "Message"),
        };
    }
    if status != StatusCode::OK {
        return AgentAnswer::Status(status.as_u16());
    }
    if let Some(failure) = part("failure") {
        return AgentAnswer::Failure {
            reason: text(failure, "Reason"),
            detail: text(failure, "Detail"),
        };
    }
    match part("protection") {
        Some(protection) if protection["ProtectionEnabled"] == enabled => {
            let date = protection["ExpirationDate"].as_str();
            agreed(date.and_then(|date| date.parse().ok()), call, now)
        }
        Some(_) => AgentAnswer::Garbage(format!(
            "it was told ProtectionEnabled {enabled} and answers otherwise"
        )),
        None => AgentAnswer::Garbage("there is neither protection nor failure nor error in it".to_owned()),
    }
}

/// An agreement to much less than was asked for is none.
fn agreed(expires: Option<Timestamp>, call: AgentCall, now: Timestamp) -> AgentAnswer {
    match (call, expires) {
        (AgentCall::Protect { minutes }, Some(end))
            if end.duration_since(now) + MAX_CLOCK_ERROR < SignedDuration::from_mins(minutes.into()) =>
        {
            AgentAnswer::Garbage(format!(
                "it was asked for {minutes} minutes of protection and has agreed until {end}"
            ))
        }
        _ => AgentAnswer::Agreed { expires },
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

    const HOUR: AgentCall = AgentCall::Protect { minutes: 60 };

    /// What a call for an hour hears, made at midnight.
    fn heard(status: StatusCode, body: &str) -> AgentAnswer {
        interpret(status, body, HOUR, "2026-01-01T00:00:00Z".parse().unwrap())
    }

    fn outcome(status: u16, body: &str) -> &'static str {
        heard(StatusCode::from_u16(status).unwrap(), body).outcome()
    }

    #[test]
    fn agreement_failure_error_status_and_garbage_are_told_apart() {
        let expires = Some("2026-01-01T01:00:00Z".parse().unwrap());
        assert_eq!(heard(StatusCode::OK, AGREED), AgentAnswer::Agreed { expires });
        let failure = r#"{"failure":{"Arn":"a","Reason":"DEPLOYMENT_BLOCKED","Detail":null}}"#;
        let refused = AgentAnswer::Failure {
            reason: "DEPLOYMENT_BLOCKED".to_owned(),
            detail: String::new(),
        };
        assert_eq!(heard(StatusCode::OK, failure), refused);
        assert_eq!(refused.to_string(), "ECS refuses: DEPLOYMENT_BLOCKED");
        let denied =
            r#"{"requestID":"r","error":{"Arn":"a","Code":"AccessDeniedException","Message":"no\nway"}}"#;
        let denied = heard(StatusCode::BAD_REQUEST, denied);
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
    fn who_agrees_to_a_minute_of_an_hour_has_not_agreed_but_a_clock_may_be_wrong() {
        for (end, outcome) in [
            ("00:01:00", "garbage"),
            ("00:29:59", "garbage"),
            ("00:30:00", "agreed"),
            ("09:00:00", "agreed"),
        ] {
            assert_eq!(
                super::tests::outcome(200, &AGREED.replace("01:00:00", end)),
                outcome,
                "until {end}"
            );
        }
    }

    #[test]
    fn a_strange_date_is_left_out_and_long_texts_are_cut() {
        let date = AGREED.replace("2026-01-01T01:00:00Z", "soon");
        assert_eq!(
            heard(StatusCode::OK, &date),
            AgentAnswer::Agreed { expires: None }
        );
        let long = format!(r#"{{"failure":{{"Reason":"{}"}}}}"#, "R".repeat(5000));
        let AgentAnswer::Failure { reason, .. } = heard(StatusCode::OK, &long) else {
            panic!("a failure");
        };
        assert_eq!(reason.len(), MAX_TEXT);
    }
}
