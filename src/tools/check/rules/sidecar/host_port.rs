use crate::tools::check::rules::examples::{APART, Example};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{SidecarContainer, TaskDefinition};

/// One port for all the tasks of an instance.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS046",
    name: "under host networking the sidecars of two tasks want the same port",
    severity: Severity::Error,
    persona: Persona::Regular,
    compose: false,
    why: "Under `host` networking all tasks of an instance share its ports. ECS places tasks by the ports that they \
          list, and the sidecar's is not among them: the sidecar of a second task on the instance finds the port taken \
          and exits with 78.",
    mend: "Set `PRESTOP_LISTEN=off` and take the health check out, or list the port under the sidecar's `portMappings`, \
           so that ECS places no second task there.",
    source: "Amazon ECS API reference, PortMapping, hostPort; Amazon ECS developer guide, Host network mode",
    example: Example {
        passing: APART,
        breaking: ("\"networkMode\": \"bridge\"", "\"networkMode\": \"host\""),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    let on_host = task.network_mode.known().is_some_and(|mode| mode == "host");
    let alone = !task.services.is_empty() && task.services.iter().all(|service| service.is_daemon);
    if !on_host || alone {
        return;
    }
    for sidecar in SidecarContainer::all(task) {
        let Some(listen) = sidecar.settings.as_ref().ok().and_then(|config| config.listen) else {
            continue;
        };
        let ports = &sidecar.container.ports;
        let listed = match ports.known() {
            Some(ports) => ports.contains(&listen.port()),
            None => !ports.is_absent(),
        };
        if !listed && !sidecar.is_unknown("PRESTOP_LISTEN") && listen.port() != 0 {
            findings
                .at(
                    sidecar.place("PRESTOP_LISTEN"),
                    format!(
                        "port {} of the instance is taken by the first task's `{}`: that of a second one exits with 78",
                        listen.port(),
                        sidecar.container.name.text
                    ),
                )
                .label("one port for all tasks");
        }
    }
}
