use crate::tools::check::rules::examples::{Example, PLAIN};
use crate::tools::check::rules::seconds;
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::TaskDefinition;

/// What Fargate takes.
const FARGATE_S: std::ops::RangeInclusive<f64> = 2.0..=120.0;

/// The agent's own minimum, on EC2.
const EC2_MIN_S: f64 = 1.0;

/// Refused at registration, or not meant.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS011",
    name: "stopTimeout is out of range",
    severity: Severity::Error,
    persona: Persona::Regular,
    compose: false,
    why: "On Fargate a `stopTimeout` is 2 to 120 seconds; another one is refused. On EC2 it is at least 1; the agent \
          takes 0 for none.",
    mend: "Choose a value in the range. Work that takes longer than 120 s has to be handed on or saved: nothing \
           on Fargate lifts this limit.",
    source: "Amazon ECS API reference, ContainerDefinition, stopTimeout; aws/containers-roadmap #1808; Amazon ECS \
             container agent, agent/engine/docker_task_engine.go, stopContainer",
    example: Example {
        passing: PLAIN,
        breaking: ("\"stopTimeout\": 60", "\"stopTimeout\": 300"),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    let fargate = task.on_fargate() == Some(true);
    for container in &task.containers {
        let (Some(given), Some(node)) = (
            container.stop_timeout_s.known().copied(),
            container.stop_timeout_s.node(),
        ) else {
            continue;
        };
        let allowed = match fargate {
            true if !FARGATE_S.contains(&given) => "2 to 120 s on Fargate",
            false if given < EC2_MIN_S => "at least 1 s",
            _ => continue,
        };
        let nearest = if fargate {
            given.clamp(*FARGATE_S.start(), *FARGATE_S.end())
        } else {
            EC2_MIN_S
        };
        let name = &container.name.text;
        if !fargate && given == 0.0 {
            let message = format!(
                "stopTimeout of `{name}` is 0 s, which the agent takes for none: its own default holds"
            );
            let finding = findings.at(node, message);
            finding
                .severity(Severity::Warning)
                .label("as if it were not there");
            continue;
        }
        findings
            .at(
                node,
                format!(
                    "stopTimeout of `{name}` is {}; allowed is {allowed}",
                    seconds(given)
                ),
            )
            .label("out of range")
            .fix(node, nearest.to_string());
    }
}
