use crate::tools::check::rules::examples::{COMPOSE, Example};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::TaskDefinition;

/// Words for a signal that no program can answer.
const AT_ONCE: [&str; 6] = ["9", "KILL", "SIGKILL", "19", "STOP", "SIGSTOP"];

/// The end without a warning.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS023",
    name: "the image is stopped by a signal that no program can answer",
    severity: Severity::Error,
    persona: Persona::Regular,
    compose: true,
    why: "A container gets the `STOPSIGNAL` of its image in place of SIGTERM: on EC2 always, on Fargate since December \
          2025. SIGKILL ends it in the middle of what it does, SIGSTOP leaves it standing until it is killed.",
    mend: "Take the `STOPSIGNAL` out, or name the one on which the program finishes what it has, such as SIGQUIT for nginx. \
           In compose it is `stop_signal`.",
    source: "Dockerfile reference, STOPSIGNAL; AWS What's New 2025-12, Amazon ECS supports custom container stop signals on \
             AWS Fargate",
    example: Example {
        passing: COMPOSE,
        breaking: ("stop_signal: SIGQUIT", "stop_signal: SIGKILL"),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for container in &task.containers {
        let own = container
            .node
            .get("stop_signal")
            .and_then(|node| Some((node.word()?, node)));
        let name = &container.name.text;
        if let Some((signal, node)) = own.filter(|(signal, _)| AT_ONCE.contains(&signal.as_ref())) {
            findings.at(
                node,
                format!("`{name}` is stopped by {signal}, which no program can answer"),
            );
        }
        let image = container
            .starts
            .as_ref()
            .and_then(|image| image.stop_signal.as_ref());
        if let Some((signal, place)) = image.filter(|(signal, _)| AT_ONCE.contains(&signal.as_str())) {
            let node = container.node.get("build").or(container.image.node());
            findings.at(
                node.unwrap_or(container.name.node),
                format!("`{name}` is stopped by {signal} ({place}), which no program can answer"),
            );
        }
    }
}
