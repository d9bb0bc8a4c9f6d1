use crate::tools::check::rules::examples::{BESIDES, Example};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{ContainerDefinition, TaskDefinition};

/// A start that is waited for in vain.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS007",
    name: "a dependency whose condition is never met",
    severity: Severity::Error,
    persona: Persona::Regular,
    compose: false,
    why: "COMPLETE and SUCCESS wait for the end of a container, and the end of an essential one ends the task: ECS \
          refuses such a task definition. HEALTHY waits for a health check in the task definition; where there is \
          none, the container never starts.",
    mend: "A sidecar depends on its app with `\"condition\": \"START\"`. For HEALTHY, give the other container a \
           `healthCheck`.",
    source: "Amazon ECS API reference, ContainerDependency, condition; Amazon ECS developer guide, Container dependency",
    example: Example {
        passing: BESIDES,
        breaking: (
            "{\"containerName\": \"database\", \"condition\": \"START\"}",
            "{\"containerName\": \"database\", \"condition\": \"HEALTHY\"}",
        ),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for container in &task.containers {
        for dependency in &container.depends_on {
            let (Some(condition), Some(node)) = (dependency.condition.known(), dependency.condition.node())
            else {
                continue;
            };
            let Some(other) = task.container(&dependency.on.text) else {
                continue;
            };
            if let Some(why) = never(condition, other) {
                findings
                    .at(
                        node,
                        format!(
                            "`{}` waits until `{}` is {condition}, {why}",
                            container.name.text, other.name.text
                        ),
                    )
                    .label("never met");
            }
        }
    }
}

fn never(condition: &str, other: &ContainerDefinition<'_>) -> Option<&'static str> {
    let essential = other.essential.or_default(true) == Some(true);
    match condition {
        "COMPLETE" | "SUCCESS" if essential => Some("but the end of an essential container ends the task"),
        "HEALTHY" if other.health_check.is_absent() => Some("but that has no health check here"),
        _ => None,
    }
}
