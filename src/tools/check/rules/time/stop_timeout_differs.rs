use crate::core::deadline::CEILING;
use crate::tools::check::rules::examples::{Example, WEB};
use crate::tools::check::rules::seconds;
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{DocumentForm, SidecarContainer, TaskDefinition, Value};

const SETTING: &str = "PRESTOP_STOP_TIMEOUT";

/// The one number that stands in two places.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS014",
    name: "PRESTOP_STOP_TIMEOUT is not the sidecar's stopTimeout",
    severity: Severity::Error,
    persona: Persona::Regular,
    compose: true,
    why: "A container cannot see its own `stopTimeout`, so the sidecar has to be told. Told too much, it is killed in \
          the middle of a drain; told too little, it gives up early. Both are 30 s where nothing is said; compose's \
          `stop_grace_period` is 10 s.",
    mend: "Write the same number of seconds in both places.",
    source: "Amazon ECS API reference, ContainerDefinition, stopTimeout; compose file reference, stop_grace_period",
    example: Example {
        passing: WEB,
        breaking: ("\"value\": \"90s\"", "\"value\": \"100s\""),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for sidecar in SidecarContainer::all(task) {
        let Ok(config) = &sidecar.settings else { continue };
        let Some(given) = task.stop_timeout_s(sidecar.container) else {
            continue;
        };
        if sidecar.is_unknown(SETTING) || sidecar.says(SETTING, "auto") {
            continue;
        }
        let told = config.policy.limits.stop_timeout.get().as_secs_f64();
        // The ceiling: more than 120 s cannot be said, and on EC2 a longer stopTimeout is no mistake.
        let (severity, effect) = match told.total_cmp(&given.min(CEILING.as_secs_f64())) {
            std::cmp::Ordering::Equal => continue,
            std::cmp::Ordering::Greater => (Severity::Error, "it would be killed in the middle of a drain"),
            std::cmp::Ordering::Less => (Severity::Warning, "it would give up before it has to"),
        };
        let name = &sidecar.container.name.text;
        let finding = findings
            .at(
                sidecar.place(SETTING),
                format!(
                    "{SETTING} is {}, the stop timeout of `{name}` is {}: {effect}",
                    seconds(told),
                    seconds(given)
                ),
            )
            .severity(severity);
        if let Some(node) = sidecar.container.stop_timeout_s.node() {
            finding.also(node, "the stop timeout");
        }
        if let Some(Value::Known(_, node)) = sidecar
            .container
            .variable(SETTING)
            .map(|variable| &variable.value)
            && task.form != DocumentForm::Compose
            && given.fract() == 0.0
        {
            finding.fix(node, format!("{}s", given.min(CEILING.as_secs_f64())));
        }
    }
}
