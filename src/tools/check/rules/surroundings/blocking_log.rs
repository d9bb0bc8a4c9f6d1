use crate::tools::check::rules::examples::{Example, PLAIN};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{TaskDefinition, Value};

/// A log line must not hold a request.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS050",
    name: "awslogs in blocking mode",
    severity: Severity::Warning,
    persona: Persona::Regular,
    compose: false,
    why: "In blocking mode a container that writes a line waits until CloudWatch has taken it. While CloudWatch cannot \
          be reached the app stands still, also in the middle of a drain. Without a `mode` ECS has chosen non-blocking \
          since 25 June 2025, unless the account says otherwise.",
    mend: "Set `\"mode\": \"non-blocking\"` and a `max-buffer-size`, or leave `mode` out.",
    source: "Amazon ECS API reference, LogConfiguration, options, mode; account setting defaultLogDriverMode",
    example: Example {
        passing: PLAIN,
        breaking: ("\"non-blocking\"", "\"blocking\""),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for container in &task.containers {
        let Some(log) = &container.log else { continue };
        let awslogs = log.driver.known().is_some_and(|driver| driver == "awslogs");
        if let Value::Known(mode, node) = &log.mode
            && awslogs
            && mode == "blocking"
        {
            findings
                .at(
                    node,
                    format!(
                        "`{}` stands still while CloudWatch Logs cannot be reached",
                        container.name.text
                    ),
                )
                .label("blocking");
        }
    }
}
