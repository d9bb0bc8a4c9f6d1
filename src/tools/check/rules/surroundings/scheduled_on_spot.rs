use crate::tools::check::rules::examples::{Example, TEMPLATE};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::TaskDefinition;

/// Nobody starts it again.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS057",
    name: "a task that is started once runs on Spot",
    severity: Severity::Warning,
    persona: Persona::Regular,
    compose: false,
    why: "A service replaces a task that Spot has taken. A rule or a schedule does not: the work is not done, and nobody is \
          told before the next time.",
    mend: "Run it on FARGATE, or start it from something that tries again, such as Step Functions or AWS Batch, and let it \
           save how far it is.",
    source: "Amazon ECS developer guide, Fargate Spot termination notices; Amazon EventBridge user guide, ECS targets",
    example: Example {
        passing: TEMPLATE,
        breaking: (
            "[{CapacityProvider: FARGATE, Weight: 1}]",
            "[{CapacityProvider: FARGATE_SPOT, Weight: 1}]",
        ),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for (name, node) in &task.scheduled_on_spot {
        findings
            .at(
                node,
                format!(
                    "`{name}` starts `{}` on Spot, and nobody starts it again if it is interrupted",
                    task.name
                ),
            )
            .label("taken without a second try");
    }
}
