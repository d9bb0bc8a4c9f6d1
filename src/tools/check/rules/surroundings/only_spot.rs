use crate::tools::check::rules::examples::{Example, TEMPLATE};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::TaskDefinition;

pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS056",
    name: "a service that others call runs on Spot only",
    severity: Severity::Warning,
    persona: Persona::Regular,
    compose: false,
    why: "Spot capacity can be taken from all tasks of a service within the same minutes, and may not come back for hours. \
          A drain saves the requests in flight; it does not answer the next ones.",
    mend: "Keep a base on demand: `CapacityProviderStrategy: [{CapacityProvider: FARGATE, Base: 1, Weight: 1}, \
           {CapacityProvider: FARGATE_SPOT, Weight: 3}]`.",
    source: "Amazon ECS developer guide, Amazon ECS clusters for Fargate, Fargate Spot termination notices",
    example: Example {
        passing: TEMPLATE,
        breaking: ("        - {CapacityProvider: FARGATE, Base: 1}\n", ""),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for service in &task.services {
        if let Some(node) = service.spot.filter(|_| service.only_spot && service.is_called) {
            findings
                .at(
                    node,
                    format!(
                        "all tasks of `{}` can be interrupted at the same time, and others call it",
                        service.name
                    ),
                )
                .label("no base on demand");
        }
    }
}
