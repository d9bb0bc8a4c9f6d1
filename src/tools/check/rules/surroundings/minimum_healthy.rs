use crate::tools::check::rules::examples::{Example, TEMPLATE};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{ContainerDefinition, TaskDefinition};

/// A gap in every deployment.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS053",
    name: "a deployment stops all tasks before it starts new ones",
    severity: Severity::Warning,
    persona: Persona::Regular,
    compose: false,
    why: "`MinimumHealthyPercent` is what must go on running during a deployment, as a share of the desired count and \
          rounded up. At 0 all tasks may be stopped before a new one runs, however well each of them drains.",
    mend: "Set it to 100 with a `MaximumPercent` of 200, unless two versions must never run side by side.",
    source: "Amazon ECS API reference, DeploymentConfiguration, minimumHealthyPercent",
    example: Example {
        passing: TEMPLATE,
        breaking: ("MinimumHealthyPercent: 100", "MinimumHealthyPercent: 0"),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    // Two databases on the same data are worse than a gap.
    if task.apps().all(ContainerDefinition::keeps_data) {
        return;
    }
    for service in &task.services {
        // A daemon cannot have two tasks on one instance.
        let none = service.minimum_healthy_percent.known() == Some(&0) && !service.is_daemon;
        // A worker's queue waits; whoever calls a service does not.
        let called = service.desired.known() != Some(&0) && service.is_called;
        if let (Some(node), true) = (service.minimum_healthy_percent.node(), none && called) {
            let finding = findings.at(
                node,
                format!(
                    "a deployment of `{}` may stop all tasks before it starts a new one",
                    service.name
                ),
            );
            finding.label("nothing has to stay");
            // The head of a cluster of workers: one at a time is meant.
            if service.only_looked_up {
                finding.persona(Persona::Pedantic);
            }
        }
    }
}
