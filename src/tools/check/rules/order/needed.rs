use crate::tools::check::rules::examples::{BESIDES, Example};
use crate::tools::check::{Findings, Rule, Severity};
use crate::tools::model::{Container, Task};

/// A drain that can reach nobody finishes nothing.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS006",
    name: "a proxy or a database that the app needs stops before the app",
    severity: Severity::Warning,
    compose: false,
    why: "Without a dependency all containers get SIGTERM at the same time. A database, its proxy or a \
          service mesh's proxy is gone in a moment, and what the app is still finishing fails.",
    mend: "Let the app depend on it (`HEALTHY` if it has a health check, else `START`): it then stops after the \
           app. What ECS Service Connect adds does so by itself.",
    source: "Amazon ECS developer guide, Example: Container dependency; Amazon ECS container agent, \
             agent/engine/dependencygraph/graph.go, verifyShutdownOrder",
    example: Example {
        passing: BESIDES,
        breaking: (
            "\"condition\": \"START\"},\n        {\"containerName\": \"database\", \"condition\": \"START\"}\n",
            "\"condition\": \"START\"}\n",
        ),
    },
    check,
};

fn check<'a>(task: &Task<'a>, findings: &mut Findings<'a>) {
    for needed in &task.containers {
        let Some(what) = kind(task, needed) else { continue };
        let apps: Vec<&Container<'a>> = task.apps().filter(|app| !std::ptr::eq(*app, needed)).collect();
        if let Some(app) = apps.iter().find(|app| needed.depends_directly_on(&app.name.text)) {
            findings
                .at(
                    needed.name.node,
                    format!(
                        "`{}` is {what} and depends on `{}`, so it stops first",
                        needed.name.text, app.name.text
                    ),
                )
                .label("stops first");
            continue;
        }
        let named = apps
            .iter()
            .any(|app| app.depends_directly_on(&needed.name.text) || app.more_dependencies);
        if let Some(app) = apps.first().filter(|_| !named) {
            findings
                .at(
                    needed.name.node,
                    format!(
                        "`{}` is {what}, and `{}` does not depend on it: both get SIGTERM at the same time",
                        needed.name.text, app.name.text
                    ),
                )
                .label("stops with the app");
        }
    }
}

fn kind(task: &Task<'_>, container: &Container<'_>) -> Option<&'static str> {
    if task.is_proxy(container) {
        return Some("the task's App Mesh proxy");
    }
    container.needed_as()
}
