use crate::config::unknown_name;
use crate::tools::check::rules::examples::{Example, WEB};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{SidecarContainer, Steps, TaskDefinition};

/// What `run` would say at start, said before the deployment.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS030",
    name: "the sidecar would refuse its settings",
    severity: Severity::Error,
    persona: Persona::Regular,
    compose: true,
    why: "The sidecar checks all its settings before it starts, and exits with 78 when one is unknown, out of bounds \
          or missing. A label that cannot be used is left out, and its container is not drained.",
    mend: "Do as the message says; `ecs-prestop run --help` lists every setting with its bounds.",
    source: "task-definitions/reference.md, Settings",
    example: Example {
        passing: WEB,
        breaking: (
            "PRESTOP_CAPACITY\", \"value\": \"spot\"",
            "PRESTOP_CAPACITY\", \"value\": \"cheap\"",
        ),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for sidecar in SidecarContainer::all(task) {
        for problem in sidecar.settings.as_ref().err().into_iter().flatten() {
            findings.at(sidecar.place(problem.name()), problem.to_string());
        }
        for secret in &sidecar.container.secrets {
            if let Some(problem) = unknown_name(&secret.text) {
                findings.at(secret.node, problem.to_string());
            }
        }
        let labels = match &sidecar.steps {
            Steps::Known(_, labels) => labels.as_slice(),
            Steps::Unknown => &[],
        };
        for error in labels {
            let container = task.container(error.container());
            let label = container.and_then(|container| container.labels.get(error.label()));
            let node = label.map_or(sidecar.container.name.node, |(_, node)| node);
            findings.at(node, error.to_string());
        }
    }
}
