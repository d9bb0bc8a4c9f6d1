use crate::tools::check::rules::examples::{Example, TEMPLATE};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{SidecarContainer, TaskDefinition};

/// What a Network Load Balancer takes at least; users report minutes.
const NETWORK_S: f64 = 30.0;

/// Requests come for longer than anybody waits.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS058",
    name: "clients and load balancers look away later than the sidecar drains",
    severity: Severity::Note,
    persona: Persona::Regular,
    compose: false,
    why: "A Network Load Balancer goes on sending for tens of seconds to minutes after a target was taken out, and clients of \
          Cloud Map keep an address for the TTL of its record. A sidecar that starts its drain before that drains an app \
          that is still called.",
    mend: "Raise `PRESTOP_SETTLE` to the TTL, or to 30s and more behind a Network Load Balancer, and the stop timeout with it; \
           or lower the TTL. `PRESTOP_DEREGISTER=true` waits for the TTL by itself, for half of the time at most.",
    source: "aws/containers-roadmap #470, #343; AWS Cloud Map developer guide, DNS record TTL",
    example: Example {
        passing: TEMPLATE,
        breaking: ("      Protocol: HTTP\n", "      Protocol: TCP\n"),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for sidecar in SidecarContainer::all(task) {
        let Some(settle) = sidecar.settle(task).map(|settle| settle.as_secs_f64()) else {
            continue;
        };
        for service in &task.services {
            for group in &service.target_groups {
                if let Some(node) = group
                    .protocol
                    .node()
                    .filter(|_| group.is_network() && settle < NETWORK_S)
                {
                    findings
                        .at(
                            node,
                            format!(
                                "`{}` belongs to a Network Load Balancer, which sends for longer than the {settle} s that the sidecar settles",
                                group.name
                            ),
                        )
                        .also(sidecar.place("PRESTOP_SETTLE"), "drains too early");
                }
            }
            let deregisters = sidecar.says("PRESTOP_DEREGISTER", "true");
            let half = sidecar
                .settings
                .as_ref()
                .map(|config| config.policy.limits.stop_timeout.budget() / 2)
                .ok()
                .filter(|_| deregisters && !sidecar.is_unknown("PRESTOP_STOP_TIMEOUT"));
            let waits = half.map_or(settle, |half| half.as_secs_f64().max(settle));
            if let Some((ttl, node)) = service.dns_ttl_s.filter(|(ttl, _)| *ttl as f64 > waits) {
                let what = if half.is_some() {
                    "goes on to drain after"
                } else {
                    "settles for"
                };
                findings
                    .at(
                        node,
                        format!(
                            "clients keep the address of a task of `{}` for {ttl} s, but the sidecar {what} {waits} s",
                            service.name
                        ),
                    )
                    .label("longer than that");
            }
        }
    }
}
