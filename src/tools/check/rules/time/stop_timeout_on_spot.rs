use crate::tools::check::rules::examples::{APART, Example};
use crate::tools::check::rules::seconds;
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{Host, TaskDefinition};

use super::stops_in_sum::HOST_S;

/// Longer than the host lives.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS012",
    name: "stopTimeout is longer than Spot gives",
    severity: Severity::Warning,
    persona: Persona::Regular,
    compose: false,
    why: "The host of a Spot task is gone 120 s after the notice, whatever the `stopTimeout` says, or the \
          `ECS_CONTAINER_STOP_TIMEOUT` of the agent, which holds where a container has none.",
    mend: "Choose a `stopTimeout` of less than 120, or run this task on demand and say so: \
           `PRESTOP_CAPACITY=on-demand`.",
    source: "Amazon EC2 user guide, Spot Instance interruption notices; Amazon ECS container agent, ECS_CONTAINER_STOP_TIMEOUT",
    example: Example {
        passing: APART,
        breaking: (
            "\"memory\": 256,\n      \"stopTimeout\": 25",
            "\"memory\": 256,\n      \"stopTimeout\": 600",
        ),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for instances in &task.instances {
        if let Some(given) = instances
            .stop_timeout_s
            .filter(|given| instances.spot && *given > HOST_S)
        {
            findings
                .at_span(
                    instances.at,
                    instances.node,
                    format!(
                        "ECS_CONTAINER_STOP_TIMEOUT of `{}` is {}, but a Spot host is gone 120 s after its notice",
                        instances.name,
                        seconds(given)
                    ),
                )
                .label("longer than the host lives");
        }
    }
    let fargate = task.on_fargate() == Some(true);
    if fargate || !matches!(task.host(), Host::Goes(_) | Host::MayGo) {
        return;
    }
    for container in &task.containers {
        if let (Some(given), Some(node)) = (container.stop_timeout_s.known(), container.stop_timeout_s.node())
            && *given > HOST_S
        {
            findings
                .at(
                    node,
                    format!(
                        "stopTimeout of `{}` is {}, but a Spot host is gone 120 s after its notice",
                        container.name.text,
                        seconds(*given)
                    ),
                )
                .label("longer than the host lives");
        }
    }
}
