use crate::tools::check::rules::examples::{BESIDES, Example};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::{ContainerDefinition, TaskDefinition};

/// The last lines, which are the ones that explain the end, go missing.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS005",
    name: "the log router stops before those that log through it",
    severity: Severity::Warning,
    persona: Persona::Regular,
    compose: false,
    why: "What a container writes after its log router has stopped is lost: the lines of the shutdown itself. \
          ECS adds a START dependency on the router by itself, but not where the router has a dependency of its own.",
    mend: "Let each container with the log driver `awsfirelens`, the sidecar too, depend on the router with \
           `\"condition\": \"START\"`, and let the router depend on none of them.",
    source: "Amazon ECS container agent, agent/api/task/task.go, addFirelensContainerDependency; Amazon ECS \
             developer guide, Send Amazon ECS logs to an AWS service or AWS Partner; aws/containers-roadmap #700",
    example: Example {
        passing: BESIDES,
        breaking: (
            "      \"firelensConfiguration\": {\"type\": \"fluentbit\"}\n    },\n    {\n      \"name\": \"database\",\n      \
             \"image\": \"pgbouncer:1\"\n    },\n    {\n      \"name\": \"app\",\n      \"image\": \"app:1\",\n      \
             \"dependsOn\": [\n        {\"containerName\": \"log-router\", \"condition\": \"START\"},\n",
            "      \"firelensConfiguration\": {\"type\": \"fluentbit\"},\n      \"dependsOn\": [{\"containerName\": \
             \"database\", \"condition\": \"START\"}]\n    },\n    {\n      \"name\": \"database\",\n      \"image\": \
             \"pgbouncer:1\"\n    },\n    {\n      \"name\": \"app\",\n      \"image\": \"app:1\",\n      \"dependsOn\": [\n",
        ),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    let Some(router) = task
        .containers
        .iter()
        .find(|container| container.firelens.is_some())
    else {
        return;
    };
    // Links count for nothing here: what the agent makes of them it makes elsewhere.
    let added_by_ecs = router
        .depends_on
        .iter()
        .all(|dependency| dependency.condition.is_absent());
    for container in task
        .containers
        .iter()
        .filter(|container| logs_through_firelens(container))
    {
        let depends = container.depends_directly_on(&router.name.text);
        if router.depends_directly_on(&container.name.text) {
            findings
                .at(
                    router.name.node,
                    format!(
                        "the log router `{}` depends on `{}`, so it stops first and takes its last lines with it",
                        router.name.text, container.name.text
                    ),
                )
                .severity(Severity::Error)
                .label("stops first");
        } else if !depends && !added_by_ecs && !container.more_dependencies {
            findings
                .at(
                    container.name.node,
                    format!(
                        "`{}` logs through `{}` but does not depend on it, and ECS does not add the dependency, \
                         because the router has one of its own",
                        container.name.text, router.name.text
                    ),
                )
                .also(router.name.node, "stops at the same time");
        }
    }
}

fn logs_through_firelens(container: &ContainerDefinition<'_>) -> bool {
    let driver = container.log.as_ref().and_then(|log| log.driver.known());
    driver.is_some_and(|driver| driver == "awsfirelens")
}
