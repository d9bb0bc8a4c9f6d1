use crate::tools::check::rules::examples::{Example, TEMPLATE};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{SidecarContainer, TaskDefinition};

/// A target that is never healthy.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS054",
    name: "a health check asks a sidecar that listens on loopback only",
    severity: Severity::Error,
    persona: Persona::Regular,
    compose: false,
    why: "A load balancer asks from outside of the task. A sidecar without `PRESTOP_LISTEN` listens on 127.0.0.1:9911, \
          where nobody outside can reach it: the target never becomes healthy, and the service never gets stable.",
    mend: "Set `PRESTOP_LISTEN=0.0.0.0:9911`, and allow that port in the security group of the task.",
    source: "task-definitions/reference.md, Local endpoints; Elastic Load Balancing user guide, Health checks for target groups",
    example: Example {
        passing: TEMPLATE,
        breaking: ("'0.0.0.0:9911'", "'127.0.0.1:9911'"),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for sidecar in SidecarContainer::all(task) {
        let Some(listen) = sidecar.settings.as_ref().ok().and_then(|config| config.listen) else {
            continue;
        };
        if sidecar.is_unknown("PRESTOP_LISTEN") || !listen.ip().is_loopback() {
            continue;
        }
        for group in task.services.iter().flat_map(|service| &service.target_groups) {
            if let Some(node) = group.health_port.node()
                && group.health_port.known().and_then(|port| port.parse().ok()) == Some(listen.port())
            {
                findings
                    .at(
                        node,
                        format!(
                            "the health check of `{}` asks port {}, on which the sidecar listens for its own task only",
                            group.name,
                            listen.port()
                        ),
                    )
                    .label("out of reach from outside")
                    .also(sidecar.place("PRESTOP_LISTEN"), "listens on loopback");
            }
        }
    }
}
