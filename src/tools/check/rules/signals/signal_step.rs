use crate::core::step::Step;
use crate::tools::check::rules::examples::{APART, Example};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{ContainerDefinition, SidecarContainer, TaskDefinition, Value};

/// The user of our own image (docker/Dockerfile).
const OWN_UID: &str = "65532";

/// A signal needs to see the process and to be allowed to reach it.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS022",
    name: "a signal step cannot reach its container",
    severity: Severity::Error,
    persona: Persona::Regular,
    compose: true,
    why: "A `signal` step needs the processes of the other container in sight, which `pidMode: task` gives, and the \
          right to signal them: the same user, or root with the capability KILL. Without either the step fails, and \
          the app is not drained.",
    mend: "Set `\"pidMode\": \"task\"` (Fargate: Linux, platform 1.4.0), and run the sidecar as the user of that \
           process, or as \"0\".",
    source: "Amazon ECS API reference, RegisterTaskDefinition, pidMode; kill(2); capabilities(7)",
    example: Example {
        passing: APART,
        breaking: ("  \"pidMode\": \"task\",\n", ""),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for sidecar in SidecarContainer::all(task) {
        let place = sidecar.place("PRESTOP_DRAIN");
        for planned in sidecar.steps.known() {
            let Step::Signal(signal) = &planned.step else {
                continue;
            };
            let step = &planned.step;
            if task.pid_mode.is_absent() {
                findings
                    .at(
                        place,
                        format!("`{step}` needs `pidMode: task`: the sidecar does not see that process"),
                    )
                    .label("needs pidMode");
            } else if let Some(target) = task.container(&signal.container) {
                rights(sidecar.container, target, &step.to_string(), findings);
            }
        }
    }
}

fn rights<'a>(
    sidecar: &ContainerDefinition<'a>,
    target: &ContainerDefinition<'a>,
    step: &str,
    findings: &mut Findings<'a>,
) {
    let Some(own) = user(sidecar, Some(OWN_UID)) else {
        return;
    };
    let theirs = user(target, None);
    let node = sidecar.user.node().unwrap_or(sidecar.name.node);
    let said = if own == "0" { "root" } else { own };
    match theirs {
        _ if own == "0" && can_kill(sidecar) => {}
        Some(theirs) if theirs == own => {}
        Some(theirs) => {
            findings
                .at(
                    node,
                    format!(
                        "`{step}`: the sidecar runs as {said}, `{}` as {theirs}, and it may not signal another user's processes",
                        target.name.text
                    ),
                )
                .label("another user");
        }
        // Root signals root without a capability, and most images run as root.
        None if own == "0" => {}
        None => {
            findings
                .at(
                    node,
                    format!(
                        "`{step}`: the sidecar runs as {said}; it may not signal `{}` unless that image runs as {said}, too",
                        target.name.text
                    ),
                )
                .severity(Severity::Note)
                .label("another user?");
        }
    }
}

/// The user without its group; `None` where the image decides or it is a name.
fn user<'t>(container: &'t ContainerDefinition<'_>, image: Option<&'static str>) -> Option<&'t str> {
    match &container.user {
        Value::Absent => image,
        Value::Unknown(_) => None,
        Value::Known(user, _) => match user.split(':').next().unwrap_or("") {
            "root" => Some("0"),
            uid if uid.parse::<u32>().is_ok() => Some(uid),
            _ => None,
        },
    }
}

/// Docker gives root KILL unless it is dropped.
fn can_kill(container: &ContainerDefinition<'_>) -> bool {
    let capabilities = &container.capabilities;
    let named = |list: &[std::borrow::Cow<'_, str>], word: &str| {
        list.iter().any(|name| name.trim_start_matches("CAP_") == word)
    };
    capabilities.unknown
        || named(&capabilities.add, "KILL")
        || named(&capabilities.add, "ALL")
        || !(named(&capabilities.drop, "KILL") || named(&capabilities.drop, "ALL"))
}
