use crate::tools::check::rules::examples::{BESIDES, Example};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{TaskDefinition, Value};

/// A misspelt name, mostly.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS004",
    name: "a dependency on a container that is not there",
    severity: Severity::Error,
    persona: Persona::Regular,
    compose: false,
    why: "ECS refuses the task definition: `Cannot depend on container + 'x' because it does not exist`.",
    mend: "Name a container of this task definition.",
    source: "Amazon ECS API reference, ContainerDependency, containerName",
    example: Example {
        passing: BESIDES,
        breaking: (
            "\"containerName\": \"log-router\"",
            "\"containerName\": \"log-ruoter\"",
        ),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    if task.more_containers {
        return;
    }
    if let Value::Known(proxy, node) = &task.proxy
        && task.container(proxy).is_none()
    {
        findings
            .at(
                node,
                format!("the proxy configuration names `{proxy}`, which is no container of this task"),
            )
            .label("no such container");
    }
    for container in &task.containers {
        for dependency in &container.depends_on {
            let unsure = !dependency.on.literal || task.containers.iter().any(|other| !other.name.literal);
            if !unsure && task.container(&dependency.on.text).is_none() {
                findings
                    .at(
                        dependency.on.node,
                        format!(
                            "`{}` depends on `{}`, which is no container of this task",
                            container.name.text, dependency.on.text
                        ),
                    )
                    .label("no such container");
            }
        }
    }
}
