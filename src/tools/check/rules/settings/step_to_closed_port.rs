use crate::core::step::Step;
use crate::tools::check::rules::examples::{Example, WEB};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{SidecarContainer, TaskDefinition};

/// Mostly a port that was changed in one place only.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS032",
    name: "a step calls a port that its container does not list",
    severity: Severity::Warning,
    persona: Persona::Regular,
    compose: false,
    why: "The container has `portMappings`, and the port of the drain call is none of them. If nobody listens there, \
          the step fails 5 s after the notice and nothing is drained.",
    mend: "Write the port on which the app listens, or add it to `portMappings`; a port for administration that is \
           left out on purpose is a reason to `--ignore` this.",
    source: "Amazon ECS API reference, PortMapping; task-definitions/app.md, A drain endpoint",
    example: Example {
        passing: WEB,
        breaking: ("http://app:8080/drain", "http://app:8081/drain"),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for sidecar in SidecarContainer::all(task) {
        for planned in sidecar.steps.known() {
            let Step::Call(call) = &planned.step else { continue };
            let Some(container) = task.container(call.url.host()) else {
                continue;
            };
            let (Some(ports), Some(listed)) = (container.ports.known(), container.ports.node()) else {
                continue;
            };
            if ports.is_empty() || ports.contains(&call.url.port()) {
                continue;
            }
            let known: Vec<String> = ports.iter().map(ToString::to_string).collect();
            findings
                .at(
                    super::place(task, &sidecar, planned),
                    format!(
                        "step {} calls port {} of `{}`, which lists {}",
                        planned.number,
                        call.url.port(),
                        container.name.text,
                        known.join(", ")
                    ),
                )
                .label("another port")
                .also(listed, "its ports");
        }
    }
}
