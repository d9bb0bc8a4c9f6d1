use crate::tools::check::rules::examples::{BESIDES, Example};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::TaskDefinition;

/// Nobody can be first.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS003",
    name: "containers depend on each other in a circle",
    severity: Severity::Error,
    persona: Persona::Regular,
    compose: true,
    why: "No container of a circle can start before the others, so the task never starts.",
    mend: "Take one of the dependencies out: keep the one whose container has to stop later.",
    source: "Amazon ECS container agent, agent/engine/dependencygraph/graph.go, ValidDependencies",
    example: Example {
        passing: BESIDES,
        breaking: (
            "      \"image\": \"pgbouncer:1\"\n",
            "      \"image\": \"pgbouncer:1\",\n      \"dependsOn\": [{\"containerName\": \"database\", \"condition\": \
             \"START\"}]\n",
        ),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    let Some(circle) = task.circle() else { return };
    let names: Vec<&str> = circle
        .iter()
        .chain(circle.first())
        .map(|container| container.name.text.as_ref())
        .collect();
    if let Some(first) = circle.first() {
        findings
            .at(
                first.name.node,
                format!("a circle of dependencies: {}", names.join(" → ")),
            )
            .label("starts here");
    }
}
