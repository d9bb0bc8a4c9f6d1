use std::collections::BTreeSet;

use crate::core::step::Step;
use crate::tools::check::rules::examples::{Example, WEB};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{SidecarContainer, TaskDefinition};

/// The whole trick of the sidecar is to be stopped first.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS001",
    name: "the sidecar does not depend on the app",
    severity: Severity::Error,
    persona: Persona::Regular,
    compose: true,
    why: "ECS stops a container only after those that depend on it. Without the dependency the app gets its \
          SIGTERM together with the sidecar, and there is nothing left to drain. A dependency does not reach \
          further than one step: the sidecar must name each container that it drains.",
    mend: "Give the sidecar a `dependsOn` with `\"condition\": \"START\"` for each container that its steps are for.",
    source: "Amazon ECS container agent, agent/engine/dependencygraph/graph.go, verifyShutdownOrder; \
             Amazon ECS developer guide, Container dependency: \"for container shutdown it is reversed\"",
    example: Example {
        passing: WEB,
        breaking: (
            "      \"dependsOn\": [{\"containerName\": \"app\", \"condition\": \"START\"}],\n",
            "",
        ),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for sidecar in SidecarContainer::all(task) {
        for name in not_waited_for(task, &sidecar) {
            findings
                .at(
                    sidecar.container.name.node,
                    format!(
                        "`{}` does not depend on `{name}`: both get SIGTERM at the same time",
                        sidecar.container.name.text
                    ),
                )
                .label("stops together with the app");
        }
    }
}

/// Whom a sidecar drains without depending on them.
pub(super) fn not_waited_for<'t>(
    task: &'t TaskDefinition<'_>,
    sidecar: &SidecarContainer<'t, '_>,
) -> Vec<&'t str> {
    let own = sidecar.container;
    if own.more_dependencies {
        return Vec::new();
    }
    let mut needed = drained(task, sidecar);
    // Who is drained by an `ack` is not said: it must be one of them.
    let named = task.apps().any(|app| own.depends_directly_on(&app.name.text));
    if needed.is_empty() && !named && !task.more_containers {
        needed.extend(task.apps().map(|app| app.name.text.as_ref()));
    }
    let turned_round = |name: &str| {
        task.container(name)
            .is_some_and(|app| app.depends_directly_on(&own.name.text))
    };
    needed
        .into_iter()
        .filter(|name| !own.depends_directly_on(name) && !turned_round(name))
        .collect()
}

fn drained<'t>(task: &'t TaskDefinition<'_>, sidecar: &SidecarContainer<'_, '_>) -> BTreeSet<&'t str> {
    let names = sidecar
        .steps
        .known()
        .iter()
        .filter_map(|step| match (&step.container, &step.step) {
            (Some(container), _) => Some(container.as_str()),
            (None, Step::Call(call)) => Some(call.url.host()),
            (None, Step::Signal(signal)) => Some(signal.container.as_str()),
            (None, Step::Ack | Step::Quiet(_) | Step::Sleep(_)) => None,
        });
    let own = sidecar.container.name.text.as_ref();
    names
        .filter_map(|name| task.container(name))
        .map(|container| container.name.text.as_ref())
        .filter(|name| *name != own)
        .collect()
}
