use crate::tools::check::rules::examples::{Example, WEB};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::TaskDefinition;

/// Exit codes of a sidecar that has done what it could.
const DONE: [i64; 3] = [0, 3, 4];

/// Drained is done.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS045",
    name: "the sidecar is restarted after it has drained",
    severity: Severity::Warning,
    persona: Persona::Regular,
    compose: false,
    why: "With a restart policy ECS starts a sidecar again that has drained before the task is stopped, as after a Spot \
          notice with `PRESTOP_AFTER_DRAIN=exit`. It then finds the same notice and drains again.",
    mend: "Set `\"ignoredExitCodes\": [0, 3, 4, 78]`: drained, deadline, a step failed, wrong settings.",
    source: "Amazon ECS developer guide, Restart individual containers in Amazon ECS tasks with container restart \
             policies",
    example: Example {
        passing: WEB,
        breaking: (
            "\"ignoredExitCodes\": [0, 3, 4, 78]",
            "\"ignoredExitCodes\": [78]",
        ),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for sidecar in task.sidecars() {
        let (Some(ignored), Some(node)) = (sidecar.restarts.known(), sidecar.restarts.node()) else {
            continue;
        };
        let missing: Vec<String> = DONE
            .iter()
            .filter(|code| !ignored.contains(code))
            .map(ToString::to_string)
            .collect();
        if !missing.is_empty() {
            findings
                .at(
                    node,
                    format!(
                        "`{}` is restarted after it has ended with {}",
                        sidecar.name.text,
                        missing.join(", ")
                    ),
                )
                .label("restarted after a drain");
        }
    }
}
