use std::time::Duration;

use crate::core::deadline::CEILING;
use crate::core::plan::sleeps;
use crate::tools::check::rules::examples::{Example, WEB};
use crate::tools::check::rules::seconds;
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{Host, SidecarContainer, TaskDefinition};

/// Less than this is no drain.
const LEAST: Duration = Duration::from_secs(5);

/// Time that is spent before it is there.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS015",
    name: "settle time, sleep or reserve eat the budget of the drain",
    severity: Severity::Warning,
    persona: Persona::Regular,
    compose: true,
    why: "A drain has what is left of the stop timeout, or of the 120 s of a Spot notice less PRESTOP_RESERVE, once \
          PRESTOP_SETTLE is over. The settle time is cut to half of that, and a `sleep` ends at the deadline.",
    mend: "Raise the stop timeout, or lower PRESTOP_SETTLE, PRESTOP_RESERVE or the `sleep`.",
    source: "task-definitions/reference.md, When it must be over",
    example: Example {
        passing: WEB,
        breaking: (
            "{\"name\": \"PRESTOP_SETTLE\", \"value\": \"10s\"}",
            "{\"name\": \"PRESTOP_SETTLE\", \"value\": \"60s\"}",
        ),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for sidecar in SidecarContainer::all(task) {
        let Ok(config) = &sidecar.settings else { continue };
        let told = ["PRESTOP_STOP_TIMEOUT", "PRESTOP_RESERVE", "PRESTOP_SETTLE"];
        if told.iter().any(|setting| sidecar.is_unknown(setting)) {
            continue;
        }
        let limits = config.policy.limits;
        let on_sigterm = limits.stop_timeout.budget();
        let on_spot = CEILING.saturating_sub(limits.reserve.get());
        let host_goes = matches!(task.host(), Host::Goes(_) | Host::MayGo);
        let (budget, eater) = if host_goes && on_spot < on_sigterm {
            (on_spot, "PRESTOP_RESERVE")
        } else {
            (on_sigterm, "PRESTOP_STOP_TIMEOUT")
        };
        let Some(settle) = sidecar.settle(task) else {
            continue;
        };
        let sleeps = sleeps(sidecar.steps.known());
        let left = (budget - settle.min(budget / 2)).saturating_sub(sleeps);
        let (place, message) = if settle > budget / 2 {
            (
                "PRESTOP_SETTLE",
                format!(
                    "PRESTOP_SETTLE is {}, but only {} of it count: half of the {} that a drain has",
                    seconds(settle.as_secs_f64()),
                    seconds((budget / 2).as_secs_f64()),
                    seconds(budget.as_secs_f64())
                ),
            )
        } else if !sleeps.is_zero() && budget - settle < sleeps {
            (
                "PRESTOP_DRAIN",
                format!(
                    "the steps sleep for {}, but a drain has {}: they are cut short",
                    seconds(sleeps.as_secs_f64()),
                    seconds((budget - settle).as_secs_f64())
                ),
            )
        } else if sleeps.is_zero() && left < LEAST {
            (
                eater,
                format!("{eater} leaves {} to the drain", seconds(left.as_secs_f64())),
            )
        } else {
            continue;
        };
        findings.at(sidecar.place(place), message);
    }
}
