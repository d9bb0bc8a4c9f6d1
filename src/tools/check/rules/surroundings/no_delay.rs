use crate::tools::check::rules::examples::{Example, TEMPLATE};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::TaskDefinition;

/// Whatever the app and the sidecar would have finished.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS062",
    name: "the load balancer drops what is in flight",
    severity: Severity::Warning,
    persona: Persona::Regular,
    compose: false,
    why: "An Application Load Balancer keeps the connections to a target that is taken out for as long as the deregistration \
          delay. With a delay of 0 it closes them at once: each deployment and each scale-in breaks the requests in flight, \
          however long the app or the sidecar would have had for them.",
    mend: "Set `deregistration_delay.timeout_seconds` to the longest that a request may take. A target without connections is \
           let go before that.",
    source: "Elastic Load Balancing user guide, Edit target group attributes, Deregistration delay; Elastic Load Balancing API \
             reference, TargetGroupAttribute",
    example: Example {
        passing: TEMPLATE,
        breaking: (
            "deregistration_delay.timeout_seconds, Value: '60'",
            "deregistration_delay.timeout_seconds, Value: '0'",
        ),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for group in task.services.iter().flat_map(|service| &service.target_groups) {
        let at_once = group.deregistration_delay_s.known() == Some(&0);
        if let (Some(node), true) = (
            group.deregistration_delay_s.node(),
            at_once && group.is_application(),
        ) {
            findings
                .at(
                    node,
                    format!(
                        "`{}` closes the connections to a task as soon as it is taken out: requests in flight are lost",
                        group.name
                    ),
                )
                .label("no time to finish");
        }
    }
}
