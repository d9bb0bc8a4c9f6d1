use crate::task_definition::check::rules::examples::{Example, TEMPLATE};
use crate::task_definition::check::{Findings, Rule, Severity};
use crate::task_definition::model::{Host, Task};

/// Where the target group does not say.
const DEFAULT_S: u64 = 300;

/// What a Spot notice gives.
const SPOT_S: u64 = 120;

/// The load balancer goes on waiting for a task that is gone.
pub(in crate::task_definition::check) const RULE: Rule = Rule {
    id: "PS051",
    name: "the deregistration delay is longer than Spot gives",
    severity: Severity::Warning,
    compose: false,
    why: "A request may run on for as long as the deregistration delay, but a Spot task is gone 120 s after its notice. \
          The default is 300 s.",
    mend: "Set `deregistration_delay.timeout_seconds` to the longest that a request may take, at most 90.",
    source: "Elastic Load Balancing user guide, Deregistration delay; AWS knowledge centre, How do I handle Spot \
             termination notices in AWS Fargate Spot tasks",
    example: Example {
        passing: TEMPLATE,
        breaking: (
            "      TargetGroupAttributes:\n        - {Key: deregistration_delay.timeout_seconds, Value: '60'}\n",
            "",
        ),
    },
    check,
};

fn check<'a>(task: &Task<'a>, findings: &mut Findings<'a>) {
    if !matches!(task.host(), Host::Goes(_)) {
        return;
    }
    for group in task.services.iter().flat_map(|service| &service.target_groups) {
        let Some(delay) = group
            .deregistration_delay_s
            .or_default(DEFAULT_S)
            .filter(|delay| *delay > SPOT_S)
        else {
            continue;
        };
        let default = if group.deregistration_delay_s.is_absent() {
            ", the default"
        } else {
            ""
        };
        let message = format!(
            "`{}` keeps connections for {delay} s{default}, but a Spot task is gone 120 s after its notice",
            group.name
        );
        match group.deregistration_delay_s.node() {
            Some(node) => findings.at(node, message),
            None => findings.at_span(group.at, group.node, message),
        };
    }
}
