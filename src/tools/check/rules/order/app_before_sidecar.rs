use crate::tools::check::rules::examples::{Example, WEB};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::TaskDefinition;

/// The arrow the wrong way round.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS002",
    name: "the app depends on the sidecar",
    severity: Severity::Error,
    persona: Persona::Regular,
    compose: true,
    why: "ECS stops a container only after those that depend on it. An app that depends on the sidecar is \
          stopped first, and the sidecar learns of it when there is nothing left to drain.",
    mend: "Turn the dependency round: the sidecar depends on the app, with `\"condition\": \"START\"`.",
    source: "Amazon ECS container agent, agent/engine/dependencygraph/graph.go, verifyShutdownOrder",
    example: Example {
        passing: WEB,
        breaking: (
            "      \"stopTimeout\": 25\n    },\n    {\n      \"name\": \"prestop\",\n      \"image\": \
             \"ecs-prestop:0.1.0\",\n      \"essential\": false,\n      \"dependsOn\": [{\"containerName\": \
             \"app\", \"condition\": \"START\"}],\n",
            "      \"stopTimeout\": 25,\n      \"dependsOn\": [{\"containerName\": \"prestop\", \"condition\": \
             \"START\"}]\n    },\n    {\n      \"name\": \"prestop\",\n      \"image\": \"ecs-prestop:0.1.0\",\n      \
             \"essential\": false,\n",
        ),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for sidecar in task.sidecars() {
        for container in &task.containers {
            for dependency in &container.depends_on {
                let wrong = dependency.on.text == sidecar.name.text && !std::ptr::eq(container, sidecar);
                if wrong {
                    findings
                        .at(
                            dependency.on.node,
                            format!(
                                "`{}` depends on the sidecar `{}`, so it is stopped before the sidecar",
                                container.name.text, sidecar.name.text
                            ),
                        )
                        .label("the wrong way round");
                }
            }
        }
    }
}
