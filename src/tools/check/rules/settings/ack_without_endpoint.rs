use crate::core::step::Step;
use crate::tools::check::rules::examples::{APART, Example};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{SidecarContainer, TaskDefinition};

const SETTING: &str = "PRESTOP_LISTEN";

/// It would wait for a post that nobody can make.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS035",
    name: "an ack step without local endpoints",
    severity: Severity::Error,
    persona: Persona::Regular,
    compose: true,
    why: "An `ack` step waits until somebody posts to `/drained`. With `PRESTOP_LISTEN=off` there is no such endpoint, \
          and every drain takes until its deadline.",
    mend: "Take `PRESTOP_LISTEN=off` out, or drain with a call or a signal.",
    source: "task-definitions/reference.md, Local endpoints",
    example: Example {
        passing: APART,
        breaking: ("0.0.0.0:9911", "off"),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for sidecar in SidecarContainer::all(task) {
        let off = sidecar
            .settings
            .as_ref()
            .is_ok_and(|config| config.listen.is_none());
        let waits = sidecar
            .steps
            .known()
            .iter()
            .any(|planned| planned.step == Step::Ack);
        if off && waits && !sidecar.is_unknown(SETTING) {
            findings
                .at(
                    sidecar.place(SETTING),
                    "an `ack` step, but PRESTOP_LISTEN is off: nobody can post to /drained",
                )
                .label("no endpoint");
        }
    }
}
