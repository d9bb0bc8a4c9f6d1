//! Recognises the form of a document and finds the task definitions in it.

use crate::tools::document::{Node, NodeKind, Span};

use super::{DocumentForm, TaskDefinition, Value, compose, ecs, template, terraform};

/// Why a document holds no task definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoTask {
    /// It is of no form that is known here.
    Foreign { message: String, at: usize },
    /// It can be read, and holds none.
    Empty,
}

/// The task definitions of a document, at least one.
///
/// # Errors
/// Where there is none.
pub fn tasks<'a>(root: &'a Node<'a>) -> Result<Vec<TaskDefinition<'a>>, NoTask> {
    let tasks = if let Some(inner) = root
        .get("taskDefinition")
        .filter(|node| node.get("containerDefinitions").is_some())
    {
        vec![of_api(DocumentForm::Describe, inner)?]
    } else if root.get("containerDefinitions").is_some() {
        vec![of_api(DocumentForm::Register, root)?]
    } else if let Some(resources) = root
        .get("Resources")
        .filter(|node| matches!(node.kind, NodeKind::Map(_)))
    {
        template::tasks(resources)
    } else if let Some(tasks) = terraform::tasks(root) {
        tasks
    } else if let Some(services) = root
        .get("services")
        .filter(|node| matches!(node.kind, NodeKind::Map(_)))
    {
        vec![compose::task(root, services, key_span(root, "services"))]
    } else if is_list_of_containers(root) {
        vec![list_of_containers(root)]
    } else {
        return Err(foreign(root));
    };
    if tasks
        .iter()
        .all(|task| task.containers.is_empty() && !task.more_containers && task.form == DocumentForm::Compose)
    {
        return Err(NoTask::Empty);
    }
    Ok(tasks)
}

fn of_api<'a>(form: DocumentForm, node: &'a Node<'a>) -> Result<TaskDefinition<'a>, NoTask> {
    let family = node.get("family").and_then(Node::text);
    let Some(list) = node.get("containerDefinitions") else {
        return Err(foreign(node));
    };
    if !matches!(list.kind, NodeKind::List(_)) {
        return Err(NoTask::Foreign {
            message: format!(
                "containerDefinitions is {}: expected a list of containers",
                list.describe()
            ),
            at: list.span.start,
        });
    }
    let at = match family {
        Some(_) => key_span(node, "family"),
        None => key_span(node, "containerDefinitions"),
    };
    Ok(ecs::task(
        form,
        family.unwrap_or("task").to_owned(),
        at,
        node,
        list,
    ))
}

/// What belongs to the task as a whole stands elsewhere.
fn list_of_containers<'a>(root: &'a Node<'a>) -> TaskDefinition<'a> {
    let task = ecs::task(
        DocumentForm::Containers,
        "containers".to_owned(),
        first_byte(root),
        root,
        root,
    );
    TaskDefinition {
        compatibilities: Value::Unknown(root),
        network_mode: Value::Unknown(root),
        pid_mode: Value::Unknown(root),
        task_role: Value::Unknown(root),
        ..task
    }
}

fn is_list_of_containers(root: &Node<'_>) -> bool {
    root.items()
        .first()
        .is_some_and(|first| first.get("name").is_some() && first.get("image").is_some())
}

fn key_span(node: &Node<'_>, key: &str) -> Span {
    let entry = node.entries().iter().find(|entry| entry.key == key);
    entry.map_or_else(|| first_byte(node), |entry| entry.key_span)
}

fn first_byte(node: &Node<'_>) -> Span {
    Span {
        start: node.span.start,
        end: node.span.start + 1,
    }
}

/// The kinds of manifests of AWS Copilot (its documentation, *Manifest*).
const COPILOT: [&str; 6] = [
    "Backend Service",
    "Load Balanced Web Service",
    "Request-Driven Web Service",
    "Scheduled Job",
    "Static Site",
    "Worker Service",
];

/// What is known here but not read, and what to run first.
fn to_be_made(root: &Node<'_>) -> Option<&'static str> {
    let kind = root.get("type").and_then(Node::text);
    if kind.is_some_and(|kind| COPILOT.contains(&kind)) {
        return Some("a manifest of Copilot: check what `copilot svc package` prints");
    }
    let has = |key: &str| root.get(key).is_some();
    if has("terraform_version") && has("lineage") {
        return Some("a state of Terraform in its own format: check what `terraform show -json` prints");
    }
    if has("task_definition") && (has("cluster") || has("service")) {
        return Some("a configuration of ecspresso: check what `ecspresso render taskdef` prints");
    }
    if has("include") {
        return Some("`include`s of other files: check what `docker compose config` prints");
    }
    if has("app") && has("context") {
        return Some("a configuration of CDK: run `cdk synth` and check the templates in `cdk.out`");
    }
    None
}

/// What a document leaves to other files, in words that say what to run.
pub fn not_read(root: &Node<'_>, tasks: &[TaskDefinition<'_>]) -> Option<String> {
    if tasks.iter().any(|task| task.form == DocumentForm::Compose) && root.get("include").is_some() {
        return Some(
            "`include` names other files, which are not read: check what `docker compose config` prints"
                .to_owned(),
        );
    }
    let unknown: Vec<String> = tasks
        .iter()
        .filter(|task| {
            task.form == DocumentForm::Terraform && task.containers.is_empty() && task.more_containers
        })
        .map(|task| format!("`{}`", task.name))
        .collect();
    let instead = match root.get("planned_values") {
        Some(_) => "once it is applied: check the `.tf` files, or `terraform show -json` afterwards",
        None => "only: check what `terraform show -json` prints of a plan",
    };
    (!unknown.is_empty()).then(|| {
        let names = unknown.join(", ");
        format!("the containers of {names} are known to Terraform {instead}")
    })
}

/// Why a document that was read holds no task definition, in words that say what to check instead.
pub fn nothing_in(root: &Node<'_>) -> String {
    let (expected, what, others) = if root.get("planned_values").or(root.get("values")).is_some() {
        ("`aws_ecs_task_definition`", "", Vec::new())
    } else if let Some(resources) = root.get("Resources") {
        let nested = template::nested(resources);
        ("`AWS::ECS::TaskDefinition`", "its nested stacks", nested)
    } else if root.get("services").is_some() {
        ("a service", "", Vec::new())
    } else {
        let expected = "`aws_ecs_task_definition` or a module that is known to make one";
        (expected, "the modules that it calls", terraform::calls(root))
    };
    if others.is_empty() {
        return format!("no task definition: expected {expected}");
    }
    let more = others.len().saturating_sub(MAX_NAMED);
    let mut names = others.into_iter().take(MAX_NAMED).collect::<Vec<_>>().join(", ");
    if more > 0 {
        names.push_str(&format!(" and {more} more"));
    }
    let instead = match what.starts_with("its") {
        true => "check their templates",
        false => "check the directories of your own, or what `terraform show -json` prints of a plan",
    };
    format!("no task definition: expected {expected}; {what} are not read ({names}): {instead}")
}

/// Whether it calls a module of somebody else that may well make a task definition.
pub fn leaves_tasks_to_modules(root: &Node<'_>) -> bool {
    terraform::calls(root).iter().any(|call| {
        let (_, source) = call.split_once(" from ").unwrap_or_default();
        !source.starts_with('.') && OF_MODULES.iter().any(|word| source.contains(word))
    })
}

/// Words in the source of a module that may well make a task definition.
pub const OF_MODULES: [&str; 2] = ["ecs", "fargate"];

/// Nobody reads more of them in one line.
const MAX_NAMED: usize = 5;

fn foreign(root: &Node<'_>) -> NoTask {
    if let Some(what) = to_be_made(root) {
        return NoTask::Foreign {
            message: format!("no task definition but {what}"),
            at: root.span.start,
        };
    }
    let found = match &root.kind {
        NodeKind::Map(entries) if entries.is_empty() => "an empty object".to_owned(),
        NodeKind::Map(_) if root.get("family").is_some() => {
            "a task definition without its containers".to_owned()
        }
        NodeKind::Map(entries) if entries.iter().any(|entry| entry.value.get("image").is_some()) => {
            "what may be a compose file of version 1, which has no `services`".to_owned()
        }
        NodeKind::Map(_) => "an object without any of them".to_owned(),
        _ => root.describe().to_owned(),
    };
    NoTask::Foreign {
        message: format!(
            "no task definition: expected `containerDefinitions` (ECS), `taskDefinition` (describe-task-definition), \
             `Resources` (CloudFormation), `services` (compose), a list of containers or what Terraform prints, found {found}"
        ),
        at: root.span.start,
    }
}
