use crate::tools::check::rules::examples::{BESIDES, Example};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{ContainerDefinition, TaskDefinition};

/// A drain that can reach nobody finishes nothing.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS006",
    name: "a proxy or a database that the app needs stops before the app",
    severity: Severity::Warning,
    persona: Persona::Regular,
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

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for needed in &task.containers {
        if let Some((message, label)) = stops_too_early(task, needed) {
            findings.at(needed.name.node, message).label(label);
        }
    }
}

/// What is wrong with the end of a container that an app needs, and the same in short.
pub(super) fn stops_too_early(
    task: &TaskDefinition<'_>,
    needed: &ContainerDefinition<'_>,
) -> Option<(String, &'static str)> {
    // An init container of the same image has ended by then.
    let what = kind(task, needed).filter(|_| !task.ends_early(needed))?;
    let apps: Vec<&ContainerDefinition<'_>> = task.apps().collect();
    // A database that the task is there for is needed by nobody in it.
    if apps.iter().any(|app| std::ptr::eq(*app, needed)) {
        return None;
    }
    let name = &needed.name.text;
    if let Some(app) = apps.iter().find(|app| needed.depends_directly_on(&app.name.text)) {
        let message = format!(
            "`{name}` is {what} and depends on `{}`, so it stops first",
            app.name.text
        );
        return Some((message, "stops first"));
    }
    let named = apps
        .iter()
        .any(|app| app.depends_directly_on(name) || app.more_dependencies);
    if named || apps.is_empty() {
        return None;
    }
    let mentioning = apps.iter().find(|app| app.mentions(needed));
    let who = match (mentioning, apps.as_slice()) {
        (Some(app), _) | (None, [app]) => Some(app),
        (None, _) => None,
    };
    let message = match who {
        Some(app) => format!(
            "`{name}` is {what}, and `{}` does not depend on it: both get SIGTERM at the same time",
            app.name.text
        ),
        None => format!("`{name}` is {what}, and no app depends on it: all get SIGTERM at the same time"),
    };
    Some((message, "stops with the app"))
}

fn kind(task: &TaskDefinition<'_>, container: &ContainerDefinition<'_>) -> Option<&'static str> {
    if task.is_proxy(container) {
        return Some("the task's App Mesh proxy");
    }
    container.needed_as()
}
