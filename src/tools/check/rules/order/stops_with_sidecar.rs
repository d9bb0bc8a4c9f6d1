use crate::tools::check::rules::examples::{Example, WEB};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{ContainerDefinition, NAMELESS, SidecarContainer, TaskDefinition};

use super::needed::stops_too_early;
use super::sidecar_before_app::not_waited_for;

/// While the sidecar drains, everything that the app lives on has to be there.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS008",
    name: "a container stops while the sidecar still drains",
    severity: Severity::Warning,
    persona: Persona::Regular,
    compose: false,
    why: "A container that nobody depends on gets its SIGTERM at the same moment as the sidecar. A proxy in front of \
          the app, a mesh's proxy with the task's network, a database or a worker is then gone while the app still \
          answers: the drain fails at what it was meant to save.",
    mend: "Let the sidecar depend on it, too, with `\"condition\": \"START\"`; `ecs-prestop add` does so for every \
           container that does not end by itself.",
    source: "Amazon ECS container agent, agent/engine/dependencygraph/graph.go, verifyShutdownOrder",
    example: Example {
        passing: WEB,
        breaking: (
            "    {\n      \"name\": \"prestop\",",
            "    {\n      \"name\": \"proxy\",\n      \"image\": \"nginx:1\",\n      \"stopTimeout\": 5\n    },\n    \
             {\n      \"name\": \"prestop\",",
        ),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for sidecar in SidecarContainer::all(task) {
        let own = sidecar.container;
        // Where it does not wait for the app itself, or the app for it, PS001 and PS002 say so.
        let holds = |container: &ContainerDefinition<'a>| task.stops_after(container, own);
        if own.more_dependencies
            || !not_waited_for(task, &sidecar).is_empty()
            || !task.containers.iter().any(holds)
        {
            continue;
        }
        for container in &task.containers {
            let is_fine = container.is_sidecar()
                || [NAMELESS, &own.name.text].contains(&container.name.text.as_ref())
                || task.ends_early(container)
                || holds(container)
                || task.stops_after(own, container);
            // What an app needs and does not hold itself is PS006's, the log router PS005's.
            if is_fine || container.firelens.is_some() || stops_too_early(task, container).is_some() {
                continue;
            }
            let finding = findings.at(
                container.name.node,
                format!(
                    "`{}` gets its SIGTERM together with `{}`, while the app still drains",
                    container.name.text, own.name.text
                ),
            );
            finding.label("nothing waits for the drain");
            if container.only_observes() {
                finding.severity(Severity::Note).persona(Persona::Pedantic);
            }
        }
    }
}
