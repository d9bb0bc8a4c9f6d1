use crate::tools::check::rules::examples::{Example, PLAIN};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::TaskDefinition;

/// The default is a choice that nobody made.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS010",
    name: "the app has no stopTimeout",
    severity: Severity::Warning,
    persona: Persona::Pedantic,
    compose: false,
    why: "Without `stopTimeout` the app is killed 30 s after its SIGTERM, on EC2 after what the agent of that \
          instance was told. Requests and jobs that take longer are cut off, and nobody chose that. A notice of Fargate \
          Spot is a SIGTERM with 120 s to go, of which the app then gets 30.",
    mend: "Set `stopTimeout` to what the app needs at most to finish, in seconds; Fargate takes 2 to 120.",
    source: "Amazon ECS API reference, ContainerDefinition, stopTimeout; Amazon ECS container agent, \
             ECS_CONTAINER_STOP_TIMEOUT; Amazon ECS developer guide, Amazon ECS clusters for Fargate, Fargate Spot termination \
             notices",
    example: Example {
        passing: PLAIN,
        breaking: ("      \"stopTimeout\": 60,\n", ""),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    let drained = task.sidecars().next().is_some();
    let on_fargate_spot =
        task.on_fargate() == Some(true) && task.services.iter().any(|service| service.spot.is_some());
    for app in task.apps() {
        if app.stop_timeout_s.is_absent() {
            let limit = match task.on_fargate() {
                Some(true) => "30 s after SIGTERM",
                _ => "30 s after SIGTERM, or when the agent's own default says",
            };
            let called_on_spot = on_fargate_spot && app.may_be_called();
            let evidence = app
                .finishes()
                .or(called_on_spot.then_some("is called, runs on Fargate Spot, whose notice gives 120 s,"));
            let finding = findings.at(
                app.name.node,
                match evidence {
                    Some(evidence) => format!(
                        "`{}` {evidence} and has no stopTimeout: what it has not finished is cut off {limit}",
                        app.name.text
                    ),
                    None => format!(
                        "`{}` has no stopTimeout: what it has not finished is cut off {limit}",
                        app.name.text
                    ),
                },
            );
            finding.label("no stopTimeout");
            if evidence.is_some() || drained {
                finding.persona(Persona::Regular);
            }
        }
    }
}
