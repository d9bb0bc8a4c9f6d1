use crate::core::step::Step;
use crate::tools::check::rules::examples::{Example, WEB};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{DocumentForm, SidecarContainer, TaskDefinition};

/// A step that finds nobody.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS031",
    name: "a step is for a container that is not there",
    severity: Severity::Error,
    persona: Persona::Regular,
    compose: true,
    why: "The host of a drain call, and the target of a signal, is the name of a container of the task. A name without \
          dots that is none of them resolves to nothing inside a task, so the step fails and nothing is drained.",
    mend: "Write the name of the container as it stands under `name`.",
    source: "task-definitions/reference.md, Steps",
    example: Example {
        passing: WEB,
        breaking: ("http://app:8080/drain", "http://web:8080/drain"),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    if task.more_containers || task.containers.iter().any(|container| !container.name.literal) {
        return;
    }
    for sidecar in SidecarContainer::all(task) {
        for planned in sidecar.steps.known() {
            let name = match &planned.step {
                Step::Call(call) if is_container_name(call.url.host()) => call.url.host(),
                Step::Signal(signal) => &signal.container,
                Step::Call(_) | Step::Ack | Step::Quiet(_) | Step::Sleep(_) => continue,
            };
            // Compose has names of its own for a service: aliases, container_name, links.
            if task.container(name).is_some() || task.form == DocumentForm::Compose {
                continue;
            }
            let names: Vec<String> = task
                .containers
                .iter()
                .filter(|container| !container.is_sidecar())
                .map(|container| format!("`{}`", container.name.text))
                .collect();
            findings
                .at(
                    super::place(task, &sidecar, planned),
                    format!(
                        "step {} is for `{name}`, which is no container of this task; there is {}",
                        planned.number,
                        names.join(", ")
                    ),
                )
                .label("no such container");
        }
    }
}

/// Whether a host can only be a container: no address, no name for DNS.
fn is_container_name(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_err() && !host.contains('.') && host != "localhost"
}
