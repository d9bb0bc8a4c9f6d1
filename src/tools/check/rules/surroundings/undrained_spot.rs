use crate::tools::check::rules::examples::{Example, TEMPLATE};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::TaskDefinition;

/// The host goes, and nobody is told.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS055",
    name: "Spot Instances whose agent does not drain them",
    severity: Severity::Warning,
    persona: Persona::Regular,
    compose: false,
    why: "The ECS agent sets its instance to DRAINING on a Spot notice only where it was told to, and the default is no. \
          Without it the tasks go on serving until the host is gone: no SIGTERM, no deregistration, no replacement two \
          minutes ahead.",
    mend: "Write `ECS_ENABLE_SPOT_INSTANCE_DRAINING=true` into `/etc/ecs/ecs.config` by the user data.",
    source: "Amazon ECS developer guide, Draining Amazon ECS container instances, Spot Instance draining",
    example: Example {
        passing: TEMPLATE,
        breaking: (
            "            echo ECS_ENABLE_SPOT_INSTANCE_DRAINING=true >>/etc/ecs/ecs.config\n",
            "",
        ),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for instances in &task.instances {
        if instances.spot && instances.drains_on_spot == Some(false) {
            findings
                .at_span(
                    instances.at,
                    instances.node,
                    format!(
                        "`{}` can start Spot Instances, and their agent is not told to drain them: tasks get no SIGTERM",
                        instances.name
                    ),
                )
                .label("ends without a word");
        }
    }
}
