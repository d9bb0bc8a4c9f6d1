use crate::tools::check::rules::examples::{Example, WEB};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{SidecarContainer, TaskDefinition, Value};

const SETTING: &str = "PRESTOP_DRAIN_TOKEN";

/// Whoever may describe the task definition can read it.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS034",
    name: "the drain token stands in plain text",
    severity: Severity::Warning,
    persona: Persona::Regular,
    compose: false,
    why: "`environment` is shown to everybody who may call DescribeTaskDefinition, and to the console.",
    mend: "Keep the token in Secrets Manager or Parameter Store and name it under `secrets`; the execution role needs \
           to read it.",
    source: "Amazon ECS developer guide, Pass sensitive data to an Amazon ECS container",
    example: Example {
        passing: WEB,
        breaking: (
            "        {\"name\": \"PRESTOP_SETTLE\", \"value\": \"10s\"}",
            "        {\"name\": \"PRESTOP_SETTLE\", \"value\": \"10s\"},\n        {\"name\": \"PRESTOP_DRAIN_TOKEN\", \
             \"value\": \"hunter2\"}",
        ),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for sidecar in SidecarContainer::all(task) {
        if let Some(variable) = sidecar.container.variable(SETTING)
            && matches!(variable.value, Value::Known(..))
        {
            findings
                .at(
                    sidecar.container.name.node,
                    format!(
                        "{SETTING} of `{}` stands in `environment`",
                        sidecar.container.name.text
                    ),
                )
                .label("use `secrets`");
        }
    }
}
