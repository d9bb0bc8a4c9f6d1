use crate::tools::check::rules::examples::{Example, WEB};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::TaskDefinition;

/// Its end must not end the app.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS040",
    name: "the sidecar is essential",
    severity: Severity::Warning,
    persona: Persona::Regular,
    compose: false,
    why: "When an essential container ends, ECS stops the whole task. A container is essential unless it says \
          otherwise, so a sidecar that ends, for whatever reason, takes the app with it.",
    mend: "Set `\"essential\": false` on the sidecar.",
    source: "Amazon ECS API reference, ContainerDefinition, essential",
    example: Example {
        passing: WEB,
        breaking: ("      \"essential\": false,\n", ""),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for sidecar in task.sidecars() {
        if sidecar.essential.or_default(true) == Some(true) {
            findings
                .at(
                    sidecar.essential.node().unwrap_or(sidecar.name.node),
                    format!(
                        "`{}` is essential: if it ends, ECS stops the task",
                        sidecar.name.text
                    ),
                )
                .label("needs `\"essential\": false`");
        }
    }
}
