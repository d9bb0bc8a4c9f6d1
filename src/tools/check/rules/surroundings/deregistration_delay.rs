use crate::tools::check::rules::examples::{Example, TEMPLATE};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{Host, SidecarContainer, TaskDefinition};

/// Where the target group does not say.
const DEFAULT_S: u64 = 300;

/// What a Spot notice gives.
const SPOT_S: u64 = 120;

/// The load balancer goes on waiting for a task that is gone.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS051",
    name: "the deregistration delay is longer than Spot gives",
    severity: Severity::Warning,
    persona: Persona::Regular,
    compose: false,
    why: "A request may run on for as long as the deregistration delay, but a Spot task is gone 120 s after its notice. \
          The default is 300 s. A sidecar that deregisters the task waits for half of its own time at most.",
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

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    let Some((limit_s, why)) = limit(task) else { return };
    for group in task.services.iter().flat_map(|service| &service.target_groups) {
        let Some(delay) = group
            .deregistration_delay_s
            .or_default(DEFAULT_S)
            .filter(|delay| *delay > limit_s)
        else {
            continue;
        };
        let default = if group.deregistration_delay_s.is_absent() {
            ", the default"
        } else {
            ""
        };
        let message = format!(
            "`{}` keeps connections for {delay} s{default}, but {why}",
            group.name
        );
        match group.deregistration_delay_s.node() {
            Some(node) => findings.at(node, message),
            None => findings.at_span(group.at, group.node, message),
        };
    }
}

/// How long a delay may be, in seconds, and why.
fn limit(task: &TaskDefinition<'_>) -> Option<(u64, String)> {
    let deregisters = SidecarContainer::all(task).find(|sidecar| sidecar.says("PRESTOP_DEREGISTER", "true"));
    if let Some(sidecar) = deregisters
        // Before a `quiet` it waits only until its targets are `draining`.
        && !sidecar.waits_for_quiet()
        && !sidecar.is_unknown("PRESTOP_STOP_TIMEOUT")
        && let Ok(config) = &sidecar.settings
    {
        // The first step waits for half of the time at most.
        let half_s = (config.policy.limits.stop_timeout.budget() / 2).as_secs();
        return Some((
            half_s,
            format!("the sidecar goes on to drain after {half_s} s at the latest"),
        ));
    }
    let spot = matches!(task.host(), Host::Goes(_));
    spot.then(|| (SPOT_S, "a Spot task is gone 120 s after its notice".to_owned()))
}
