use std::time::Duration;

use crate::tools::check::rules::examples::{CONNECTED, Example};
use crate::tools::check::rules::seconds;
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{Host, SidecarContainer, TaskDefinition};

const SETTING: &str = "PRESTOP_SETTLE";

/// Nobody new gets in anyway.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS059",
    name: "a settle time behind Service Connect",
    severity: Severity::Note,
    persona: Persona::Pedantic,
    compose: false,
    why: "With the first SIGTERM of a task the ECS agent tells the proxy of Service Connect to take no new connections; \
          those that are open go on. `PRESTOP_SETTLE` waits for others to look away, and here they have: it only takes time \
          from the drain. It is of use where a notice comes before SIGTERM, as on EC2 Spot.",
    mend: "Set `PRESTOP_SETTLE=0s`, and wait for the open connections by a `quiet :PORT` step on the app's own port.",
    source: "Amazon ECS container agent, agent/engine/docker_task_engine.go and agent/engine/serviceconnect/manager_linux.go, \
             drain_listeners?inboundonly (on Fargate assumed to be the same)",
    example: Example {
        passing: CONNECTED,
        breaking: (
            "{Name: PRESTOP_SETTLE, Value: 0s}",
            "{Name: PRESTOP_SETTLE, Value: 10s}",
        ),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    let told_before_sigterm = matches!(task.host(), Host::Goes(_)) && task.on_fargate() != Some(true);
    if told_before_sigterm {
        return;
    }
    for sidecar in SidecarContainer::all(task) {
        // Five seconds that nobody has asked for are no mistake of theirs.
        let said = sidecar.container.variable(SETTING).is_some();
        let Some(settle) = sidecar
            .settle(task)
            .filter(|settle| said && *settle > Duration::ZERO)
        else {
            continue;
        };
        for service in &task.services {
            if let Some(connect) = service.only_by_connect {
                findings
                    .at(
                        sidecar.place(SETTING),
                        format!(
                            "`{}` is called by Service Connect only, which lets nobody new in from SIGTERM on: these {} are taken \
                             from the drain",
                            service.name,
                            seconds(settle.as_secs_f64())
                        ),
                    )
                    .label("waits for nothing")
                    .also(connect, "called by Service Connect");
            }
        }
    }
}
