use crate::core::step::Step;
use crate::tools::check::rules::examples::{Example, WEB};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{SidecarContainer, TaskDefinition, Value};

/// What a check that cannot work would run.
const NOT_IN_THE_IMAGE: [&str; 5] = ["sh", "bash", "curl", "wget", "nc"];

/// A blind sidecar should show.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS041",
    name: "the sidecar has no health check that works",
    severity: Severity::Warning,
    persona: Persona::Regular,
    compose: false,
    why: "ECS does not look at the health check of an image. Without one in the task definition nobody sees that a \
          watcher has gone blind. The image has no shell and no curl: a check that needs them fails for ever.",
    mend: "Set `\"healthCheck\": {\"command\": [\"CMD\", \"/ecs-prestop\", \"health\"]}` on the sidecar.",
    source: "Amazon ECS developer guide, Determine Amazon ECS task health using container health checks",
    example: Example {
        passing: WEB,
        breaking: (
            "[\"CMD\", \"/ecs-prestop\", \"health\"]",
            "[\"CMD-SHELL\", \"curl -f http://localhost:9911/healthz\"]",
        ),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for SidecarContainer {
        container: sidecar,
        settings,
        steps,
    } in SidecarContainer::all(task)
    {
        let name = &sidecar.name.text;
        // The check asks an endpoint, and here there is none.
        let off = settings.is_ok_and(|config| config.listen.is_none());
        // That is PS035's.
        let waits = steps.known().iter().any(|planned| planned.step == Step::Ack);
        match &sidecar.health_check {
            Value::Absent if off => {}
            Value::Absent => {
                findings
                    .at(sidecar.name.node, format!("`{name}` has no health check"))
                    .label("no healthCheck");
            }
            Value::Known(words, node) if needs_more_than_the_image(words) => {
                findings
                    .at(node, format!("the health check of `{name}` needs a shell or a tool that the image does not have"))
                    .label("no such program in the image");
            }
            Value::Known(_, node) if off && !waits => {
                findings
                    .at(
                        node,
                        format!("the health check of `{name}` asks its endpoint, and PRESTOP_LISTEN is off"),
                    )
                    .label("fails for ever");
            }
            Value::Known(..) | Value::Unknown(_) => {}
        }
    }
}

fn needs_more_than_the_image(words: &[std::borrow::Cow<'_, str>]) -> bool {
    let mut words = words.iter().map(AsRef::as_ref);
    let program = match words.next() {
        Some("CMD-SHELL") => return true,
        Some("CMD") => words.next(),
        first => first,
    };
    program.is_some_and(|program| NOT_IN_THE_IMAGE.contains(&program.rsplit('/').next().unwrap_or(program)))
}
