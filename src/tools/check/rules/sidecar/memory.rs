use crate::tools::check::rules::examples::{Example, WEB};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::TaskDefinition;

/// The least that Docker accepts; the sidecar's own peak in a drain is below it.
const LEAST_MIB: u64 = 6;

/// Refused by Docker, or killed by the kernel.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS043",
    name: "the sidecar's memory limit is too low",
    severity: Severity::Error,
    persona: Persona::Regular,
    compose: false,
    why: "Docker starts no container with less than 6 MiB, which is also what the sidecar needs at its peak.",
    mend: "Set `\"memory\": 32` on the sidecar, or leave it out on Fargate.",
    source: "Amazon ECS API reference, ContainerDefinition, memory: \"don't specify less than 6 MiB\"",
    example: Example {
        passing: WEB,
        breaking: ("\"memory\": 32", "\"memory\": 4"),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for sidecar in task.sidecars() {
        if let (Some(limit), Some(node)) = (sidecar.memory_mib.known(), sidecar.memory_mib.node())
            && *limit < LEAST_MIB
        {
            findings
                .at(
                    node,
                    format!(
                        "`{}` has {limit} MiB of memory; it needs {LEAST_MIB}",
                        sidecar.name.text
                    ),
                )
                .label("too little");
        }
    }
}
