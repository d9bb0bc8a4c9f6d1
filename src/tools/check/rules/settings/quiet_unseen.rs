use crate::core::step::Step;
use crate::tools::check::rules::examples::{Example, UNSHARED};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{DocumentForm, NetworkMode, SidecarContainer, TaskDefinition};

/// Nothing to wait for, or everything.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS036",
    name: "a quiet step does not see the app's connections",
    severity: Severity::Error,
    persona: Persona::Regular,
    compose: true,
    why: "`quiet`, which is also what a sidecar does without any step, looks at the connections of its own network \
          namespace. Under `bridge` networking that is not the app's, and under `host` it is the whole instance. There \
          the sidecar refuses to start (78). With `pidMode: task` it reads those of the app's namespace under `bridge`, too, \
          and waits until every client has hung up. Under compose it shares the app's namespace only with \
          `network_mode: \"service:app\"`, and else finds nobody listening (4).",
    mend: "Use `awsvpc`; or name the app's port under `host` (`quiet :8080`); or set `pidMode: task` under `bridge`; or take \
           `sleep 15s`, which works everywhere.",
    source: "task-definitions/reference.md, Steps; network_namespaces(7)",
    example: Example {
        passing: UNSHARED,
        breaking: ("sleep 15s", "quiet"),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for sidecar in SidecarContainer::all(task) {
        for planned in sidecar.steps.known() {
            let Step::Quiet(quiet) = &planned.step else {
                continue;
            };
            let place = super::place(task, &sidecar, planned);
            let on_host = task.network_mode.known().is_some_and(|mode| mode == "host");
            let (message, label) = if task.form == DocumentForm::Compose {
                if sidecar.container.node.get("network_mode").is_some() {
                    continue;
                }
                (
                    format!(
                        "`{}` waits for quiet in a network of its own, where nobody listens",
                        sidecar.container.name.text
                    ),
                    "needs `network_mode: \"service:app\"`",
                )
            } else if on_host && quiet.ports.is_empty() {
                (
                    "under host networking `quiet` without a port would wait for the whole instance"
                        .to_owned(),
                    "name the app's port",
                )
            } else if task.network() == NetworkMode::Apart && task.pid_mode.is_absent() {
                (
                    "under bridge networking without `pidMode: task` `quiet` does not see the app's connections"
                        .to_owned(),
                    "needs awsvpc, pidMode, or `sleep`",
                )
            } else {
                continue;
            };
            findings.at(place, message).label(label);
        }
    }
}
