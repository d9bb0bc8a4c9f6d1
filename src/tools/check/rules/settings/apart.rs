use crate::core::step::Step;
use crate::tools::check::rules::examples::{APART, Example};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{DocumentForm, NetworkMode, SidecarContainer, TaskDefinition};

/// `127.0.0.1` is somebody else there.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS033",
    name: "under bridge networking something cannot be reached",
    severity: Severity::Error,
    persona: Persona::Regular,
    compose: true,
    why: "Under `bridge`, the default on EC2, and under compose each container has an address of its own: loopback is \
          the container itself. A drain call to 127.0.0.1 ends in the sidecar, a worker cannot post to a sidecar \
          that listens on loopback, and the instance metadata's answer needs one more hop.",
    mend: "Name the container in the step's URL, set `PRESTOP_LISTEN=0.0.0.0:9911` where others call the sidecar, and \
           give the instances `HttpPutResponseHopLimit: 2`.",
    source: "Amazon ECS developer guide, Task networking for EC2; Amazon EC2 user guide, Instance metadata options",
    example: Example {
        passing: APART,
        breaking: ("http://worker:8080/stop", "http://localhost:8080/stop"),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    let network = task.network();
    if !matches!(network, NetworkMode::Apart | NetworkMode::None) {
        return;
    }
    for sidecar in SidecarContainer::all(task) {
        for planned in sidecar.steps.known() {
            let place = super::place(task, &sidecar, planned);
            match &planned.step {
                Step::Call(_) if network == NetworkMode::None => {
                    findings.at(
                        place,
                        format!("step {} is a call, but the task has no network", planned.number),
                    );
                }
                Step::Call(call) if is_loopback(call.url.host()) => {
                    findings
                        .at(
                            place,
                            format!(
                                "step {} calls `{}`: under bridge networking that is the sidecar itself",
                                planned.number,
                                call.url.host()
                            ),
                        )
                        .label("write the container's name");
                }
                Step::Ack if listens_on_loopback(&sidecar) => {
                    findings
                        .at(
                            sidecar.place("PRESTOP_LISTEN"),
                            "an `ack` step, but the sidecar listens on loopback only: under bridge networking nobody can post to /drained",
                        )
                        .label("set PRESTOP_LISTEN=0.0.0.0:9911");
                }
                _ => {}
            }
        }
        if let (Some(hops), true) = (task.short_hops.first(), task.form != DocumentForm::Compose) {
            findings
                .at(
                    hops,
                    "the instances answer the metadata service with a hop limit of 1: under bridge networking the sidecar sees no Spot notice",
                )
                .severity(Severity::Warning)
                .label("needs 2");
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn listens_on_loopback(sidecar: &SidecarContainer<'_, '_>) -> bool {
    let listen = sidecar.settings.as_ref().ok().and_then(|config| config.listen);
    !sidecar.is_unknown("PRESTOP_LISTEN") && listen.is_some_and(|address| address.ip().is_loopback())
}
