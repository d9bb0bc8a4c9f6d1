use crate::tools::check::rules::examples::{Example, WEB};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{SidecarContainer, TaskDefinition};

/// Calls to AWS need somebody to make them as.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS044",
    name: "a setting needs AWS, but the task has no role",
    severity: Severity::Error,
    persona: Persona::Regular,
    compose: false,
    why: "Settings that ask AWS for something use the credentials of the task role. Without one those calls are \
          refused, and the sidecar drains without them.",
    mend: "Give the task a `taskRoleArn` with the policies that `task-definitions/iam` has for each setting: with \
           `PRESTOP_PROTECT` that is `sidecar-superseded.json` besides `sidecar-protect.json`, so that a protected task learns \
           that ECS wants it gone.",
    source: "Amazon ECS developer guide, Amazon ECS task IAM role",
    example: Example {
        passing: WEB,
        breaking: ("  \"taskRoleArn\": \"arn:aws:iam::111122223333:role/web\",\n", ""),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    if !task.task_role.is_absent() {
        return;
    }
    for sidecar in SidecarContainer::all(task) {
        let features = sidecar.aws_features();
        if let Some((setting, _)) = features.first() {
            let policies: Vec<&str> = features.iter().map(|(_, policy)| *policy).collect();
            findings
                .at(
                    sidecar.place(setting),
                    format!(
                        "{setting} needs a task role, and the task has none: it takes {}",
                        policies.join(" and ")
                    ),
                )
                .label("no taskRoleArn");
        }
    }
}
