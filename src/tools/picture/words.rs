//! What happens in a shutdown, in the words of somebody who tells it.

use std::time::Duration;

use crate::core::notice::{Reason, StopCode};
use crate::core::step::Step;
use crate::core::timeline::{AwsCall, AwsOutcome, Outcome, Sight, What};

/// One thing that the sidecar tells; `None` for what needs no telling.
pub fn of(what: &What) -> Option<String> {
    Some(match what {
        What::Notice {
            reason,
            deadline_in_ms,
            ..
        } => format!(
            "notice: {}; {} to the deadline",
            reason.as_str(),
            span(*deadline_in_ms)
        ),
        What::Settle { for_ms } => {
            format!("lets everybody serve on for {}; /ready says 503", span(*for_ms))
        }
        What::StepStart { does: Step::Ack, .. } => "waits until somebody posts to /drained".to_owned(),
        What::StepStart { does, .. } => does.to_string(),
        What::StepCall {
            sight: Sight::Answer { status: 202, .. },
            ..
        } => "is answered 202: under way".to_owned(),
        What::StepCall {
            sight: Sight::Connections { open, owing, .. },
            ..
        } => match owing {
            0 => format!("owes nobody an answer; {} open", counted(*open, "connection")),
            owing => format!("owes an answer to {owing} of {}", counted(*open, "connection")),
        },
        What::StepRetry { why, after_ms, .. } => format!("{why}; again in {}", span(*after_ms)),
        What::StepEnd { outcome, took_ms, .. } => match outcome {
            Outcome::Drained(how) => format!("drained after {}: {how}", span(*took_ms)),
            Outcome::Failed(why) => format!("failed after {}: {why}", span(*took_ms)),
        },
        What::AwsStart {
            call: AwsCall::Deregister,
        } => "asks the load balancer to send nothing more, and waits until it has let go".to_owned(),
        What::AwsEnd {
            call,
            outcome,
            took_ms,
        } => match outcome {
            AwsOutcome::Done(how) => format!("{}: done after {}: {how}", aws_call(*call), span(*took_ms)),
            AwsOutcome::Failed(why) => format!("{}: failed after {}: {why}", aws_call(*call), span(*took_ms)),
        },
        What::Deadline { .. } => {
            "the deadline has come: leaves, so that the app gets its own SIGTERM".to_owned()
        }
        What::Drained { waiting: true } => "waits for SIGTERM".to_owned(),
        What::Cause {
            cause,
            deadline_in_ms,
        } => {
            let code = cause.stop_code.as_ref().map(ToString::to_string);
            let why = cause.stopped_reason.clone().or(code).unwrap_or_default();
            format!("ECS says why: {why}; {} to the deadline", span(*deadline_in_ms))
        }
        What::StepCall { .. }
        | What::AwsStart { .. }
        | What::Drained { waiting: false }
        | What::Exit { .. } => {
            return None;
        }
    })
}

/// `1 connection`, `2 connections`
fn counted(n: usize, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

/// What is asked of AWS, in two words.
pub fn aws_call(call: AwsCall) -> &'static str {
    match call {
        AwsCall::Deregister => "deregister",
        AwsCall::DrainInstance => "drain instance",
        AwsCall::StopTask => "stop task",
        AwsCall::Why => "ask why",
        AwsCall::ReleaseProtection => "release protection",
    }
}

/// Why a task was stopped, in two words.
pub fn reason(reason: Reason) -> &'static str {
    super::MarkKind::Notice(reason).words()
}

/// What ECS's code for a stop means, in two words.
pub fn stop_code(code: &StopCode) -> String {
    let words = match code {
        StopCode::TaskFailedToStart => "did not start",
        StopCode::EssentialContainerExited => "container exit",
        StopCode::UserInitiated => "StopTask",
        StopCode::ServiceSchedulerInitiated => "service",
        StopCode::SpotInterruption => "Spot",
        StopCode::TerminationNotice => "termination",
        StopCode::InfrastructureHealth => "host health",
        StopCode::Other(other) => other,
    };
    words.to_owned()
}

/// `1.5 s`, `12 ms`: two digits are what anybody reads.
pub fn span(ms: u64) -> String {
    match ms {
        0 => "0 s".to_owned(),
        // No shutdown: a clock or a log is wrong.
        86_400_000.. => "> 1 day".to_owned(),
        1..100 => format!("{ms} ms"),
        _ if ms.is_multiple_of(1000) => format!("{} s", ms / 1000),
        100..100_000 => format!("{:.1} s", Duration::from_millis(ms).as_secs_f64()),
        _ => format!("{:.0} s", Duration::from_millis(ms).as_secs_f64()),
    }
}
