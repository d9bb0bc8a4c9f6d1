use std::collections::BTreeSet;

use crate::tools::check::rules::examples::{Example, PLAIN};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{NAMELESS, TaskDefinition};

/// Everything else here goes by names.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS060",
    name: "a container without a name, or with another's",
    severity: Severity::Error,
    persona: Persona::Regular,
    compose: false,
    why: "ECS refuses a task definition in which a container has no name or two have the same. Dependencies, steps and \
          signals find their container by it.",
    mend: "Give each container a name of its own.",
    source: "Amazon ECS API reference, ContainerDefinition, name",
    example: Example {
        passing: PLAIN,
        breaking: ("      \"name\": \"app\",\n", ""),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    let mut seen = BTreeSet::new();
    for container in &task.containers {
        let name = container.name.text.as_ref();
        if name == NAMELESS || name.is_empty() {
            findings
                .at(container.node, "a container without a name")
                .label("no name");
        } else if container.condition.is_none() && !seen.insert(name) {
            findings
                .at(
                    container.name.node,
                    format!("a second container with the name `{name}`"),
                )
                .label("the same name");
        }
    }
}
