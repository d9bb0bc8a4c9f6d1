use std::time::Duration;

use crate::tools::check::rules::examples::{Example, TEMPLATE};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{Host, SidecarContainer, TaskDefinition};

/// What a load balancer needs to stop sending once ECS has told it; the sidecar's own default.
const ENOUGH_ON_FARGATE: Duration = Duration::from_secs(5);

/// The load balancer is not told that the task is about to end.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS052",
    name: "the target group's health check stays green while the task drains",
    severity: Severity::Warning,
    persona: Persona::Regular,
    compose: false,
    why: "On Spot a target may stay in its target group until the task has stopped, so the load balancer goes on \
          sending. The sidecar's `/ready` says 503 from the first notice on; a health check of the app itself stays \
          green unless the app is told.",
    mend: "Point the target group's health check at the sidecar: `HealthCheckPort: 9911`, `HealthCheckPath: /ready`, \
           with `PRESTOP_LISTEN=0.0.0.0:9911` and `PRESTOP_READY_URL` for the app's own health. Or let the sidecar take \
           the target out: `PRESTOP_DEREGISTER=true`. On Fargate Spot ECS itself takes it out before SIGTERM since 2023; \
           there it is enough to serve on for a while: `PRESTOP_SETTLE=5s`.",
    source: "AWS knowledge centre, How do I handle Spot termination notices in AWS Fargate Spot tasks; \
             AWS What's New 2023-02, Amazon ECS improves accuracy of service load balancing; aws/containers-roadmap #2673",
    example: Example {
        passing: TEMPLATE,
        breaking: (
            "      HealthCheckPort: '9911'\n      HealthCheckPath: /ready\n",
            "      HealthCheckPath: /healthz\n",
        ),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    if !matches!(task.host(), Host::Goes(_)) {
        return;
    }
    for sidecar in SidecarContainer::all(task) {
        let Ok(config) = &sidecar.settings else { continue };
        let unsure = ["PRESTOP_LISTEN", "PRESTOP_DEREGISTER"]
            .iter()
            .any(|name| sidecar.is_unknown(name));
        if unsure || sidecar.says("PRESTOP_DEREGISTER", "true") {
            continue;
        }
        // There ECS takes the target out before it sends SIGTERM, and somebody has to serve on meanwhile.
        if task.on_fargate() == Some(true)
            && sidecar
                .settle(task)
                .is_none_or(|settle| settle >= ENOUGH_ON_FARGATE)
        {
            continue;
        }
        for group in task.services.iter().flat_map(|service| &service.target_groups) {
            let port = group.health_port.known().and_then(|port| port.parse().ok());
            let own_port = port.is_some() && port == config.listen.map(|listen| listen.port());
            let own_path = group.health_path.known().is_some_and(|path| path == "/ready");
            let unknown = [&group.health_port, &group.health_path]
                .iter()
                .any(|value| value.known().is_none() && value.node().is_some());
            if unknown || (own_port && own_path) {
                continue;
            }
            let message = format!(
                "the health check of `{}` does not ask the sidecar: it stays green while the task drains",
                group.name
            );
            match group.health_path.node() {
                Some(node) => findings.at(node, message),
                None => findings.at_span(group.at, group.node, message),
            };
        }
    }
}
