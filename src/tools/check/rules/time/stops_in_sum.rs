use crate::core::deadline::Reserve;
use crate::tools::check::rules::examples::{Example, WEB};
use crate::tools::check::rules::seconds;
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{ContainerDefinition, Host, SidecarContainer, TaskDefinition};

/// What is left of a Spot host after its notice (EC2 user guide, *Spot Instance interruption notices*).
pub(super) const HOST_S: f64 = 120.0;

/// One after another takes longer than each.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS013",
    name: "containers that stop one after another take longer than the host lives",
    severity: Severity::Warning,
    persona: Persona::Regular,
    compose: false,
    why: "Containers that depend on each other stop one after another, and their stop timeouts add up. The host of a \
          Spot task is gone 120 s after the notice: those that stop last never get their share. A sidecar that \
          knows of the end leaves PRESTOP_RESERVE to those after it, and counts with 120 s less that.",
    mend: "Lower the stop timeouts to 120 s in sum, or raise PRESTOP_RESERVE to the sum of those that stop after \
           the sidecar. If the task never runs on Spot, say so: `PRESTOP_CAPACITY=on-demand`.",
    source: "Amazon ECS container agent, agent/engine/dependencygraph/graph.go, verifyShutdownOrder; Amazon EC2 \
             user guide, Spot Instance interruption notices",
    example: Example {
        passing: WEB,
        breaking: ("\"stopTimeout\": 25", "\"stopTimeout\": 60"),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    let may_go = match task.host() {
        Host::Goes(_) => "",
        Host::MayGo => ", if this is Spot",
        Host::Stays | Host::Unknown => return,
    };
    let (chain, sum) = task.longest_stop();
    // One that is too long by itself is PS011's or PS012's.
    let one_too_long = |container: &&ContainerDefinition<'_>| {
        task.stop_timeout_s(container).unwrap_or(0.0) - saved_by_reserve(task, container) > HOST_S
    };
    if chain.iter().any(one_too_long) {
        return;
    }
    let saved: f64 = chain
        .iter()
        .map(|container| saved_by_reserve(task, container))
        .sum();
    let (Some(last), true) = (chain.last().filter(|_| chain.len() > 1), sum - saved > HOST_S) else {
        return;
    };
    let parts: Vec<String> = chain
        .iter()
        .map(|container| {
            let own = task.stop_timeout_s(container).unwrap_or(0.0) - saved_by_reserve(task, container);
            format!("{} {}", container.name.text, seconds(own))
        })
        .collect();
    let node = last.stop_timeout_s.node().unwrap_or(last.name.node);
    let finding = findings
        .at(
            node,
            format!(
                "the stops of {} take {}, but the host is gone 120 s after its notice{may_go}",
                parts.join(", then "),
                seconds(sum - saved)
            ),
        )
        .label("stops last");
    if let Some(first) = chain.first() {
        finding.also(
            first.stop_timeout_s.node().unwrap_or(first.name.node),
            "stops first",
        );
    }
}

/// What a sidecar's stop timeout has beyond the reserve that it keeps.
fn saved_by_reserve(task: &TaskDefinition<'_>, container: &ContainerDefinition<'_>) -> f64 {
    let sidecar = SidecarContainer::all(task).find(|sidecar| std::ptr::eq(sidecar.container, container));
    let Some(sidecar) = sidecar else { return 0.0 };
    let reserve = match &sidecar.settings {
        Ok(config) => config.policy.limits.reserve,
        Err(_) => Reserve::DEFAULT,
    };
    let own = task.stop_timeout_s(container).unwrap_or(0.0);
    (own - (HOST_S - reserve.get().as_secs_f64())).max(0.0)
}
