use crate::tools::check::rules::examples::{Example, WEB};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::TaskDefinition;

/// It writes no file.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS042",
    name: "the sidecar's root file system is writable",
    severity: Severity::Note,
    persona: Persona::Pedantic,
    compose: true,
    why: "The sidecar writes no file. A root file system that nobody can write to is one thing less to think of.",
    mend: "Set `\"readonlyRootFilesystem\": true` on the sidecar (compose: `read_only: true`).",
    source: "AWS Security Hub, control ECS.5",
    example: Example {
        passing: WEB,
        breaking: ("      \"readonlyRootFilesystem\": true,\n", ""),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for sidecar in task.sidecars() {
        if sidecar.read_only.or_default(false) == Some(false) {
            findings
                .at(
                    sidecar.read_only.node().unwrap_or(sidecar.name.node),
                    format!("`{}` has a writable root file system", sidecar.name.text),
                )
                .label("can be read-only");
        }
    }
}
