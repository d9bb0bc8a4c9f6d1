use crate::tools::check::rules::examples::{Example, PLAIN};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::document::{Member, Node, NodeKind};
use crate::tools::model::{DocumentForm, TaskDefinition};

/// What the API takes for a field, as far as shutting down depends on it.
#[derive(Clone, Copy)]
enum Type {
    Text,
    Number,
    Flag,
    List,
    Object,
}

const TASK: [(&str, Type); 7] = [
    ("family", Type::Text),
    ("networkMode", Type::Text),
    ("pidMode", Type::Text),
    ("taskRoleArn", Type::Text),
    ("cpu", Type::Text),
    ("memory", Type::Text),
    ("requiresCompatibilities", Type::List),
];

const CONTAINER: [(&str, Type); 19] = [
    ("name", Type::Text),
    ("image", Type::Text),
    ("user", Type::Text),
    ("cpu", Type::Number),
    ("memory", Type::Number),
    ("memoryReservation", Type::Number),
    ("stopTimeout", Type::Number),
    ("startTimeout", Type::Number),
    ("essential", Type::Flag),
    ("readonlyRootFilesystem", Type::Flag),
    ("entryPoint", Type::List),
    ("command", Type::List),
    ("dependsOn", Type::List),
    ("environment", Type::List),
    ("secrets", Type::List),
    ("portMappings", Type::List),
    ("dockerLabels", Type::Object),
    ("healthCheck", Type::Object),
    ("logConfiguration", Type::Object),
];

/// A number in quotes, a list where there should be text.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS061",
    name: "a value of the wrong type",
    severity: Severity::Error,
    persona: Persona::Regular,
    compose: false,
    why: "The ECS API is strict: `\"stopTimeout\": \"30\"` and `{\"value\": 8080}` are refused. CloudFormation is not, so \
          templates are not looked at.",
    mend: "Write the value as the message says.",
    source: "Amazon ECS API reference, RegisterTaskDefinition and ContainerDefinition",
    example: Example {
        passing: PLAIN,
        breaking: ("\"stopTimeout\": 60", "\"stopTimeout\": \"60\""),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    if !matches!(
        task.form,
        DocumentForm::Register | DocumentForm::Describe | DocumentForm::Containers
    ) {
        return;
    }
    // Elastic Beanstalk reads its own file of the same look, and makes a task definition of it.
    if task.node.get("AWSEBDockerrunVersion").is_some() {
        return;
    }
    fields(task.node, &TASK, findings);
    for item in task.list.items() {
        if !matches!(item.kind, NodeKind::Map(_)) {
            wrong(item, "a container", Type::Object, findings);
        }
    }
    for container in &task.containers {
        fields(container.node, &CONTAINER, findings);
        let linux = container.node.get("linuxParameters");
        if let Some(linux) = linux {
            fields(linux, &[("initProcessEnabled", Type::Flag)], findings);
        }
        let list = |name: &str| container.node.get(name).map_or(&[][..], Node::items);
        for variable in list("environment") {
            fields(variable, &[("name", Type::Text), ("value", Type::Text)], findings);
        }
        for port in list("portMappings") {
            fields(
                port,
                &[("containerPort", Type::Number), ("hostPort", Type::Number)],
                findings,
            );
        }
    }
}

fn fields<'a>(node: &'a Node<'a>, types: &[(&str, Type)], findings: &mut Findings<'a>) {
    for (name, kind) in types {
        if let Some(value) = node.get(name) {
            wrong(value, name, *kind, findings);
        }
    }
}

fn wrong<'a>(value: &'a Node<'a>, name: &str, expected: Type, findings: &mut Findings<'a>) {
    let (fits, wanted) = match expected {
        Type::Text => (matches!(value.kind, NodeKind::String(_)), "text in quotes"),
        Type::Number => (
            matches!(value.kind, NodeKind::Number(_)),
            "a number without quotes",
        ),
        Type::Flag => (
            matches!(value.kind, NodeKind::Bool(_)),
            "true or false without quotes",
        ),
        Type::List => (matches!(value.kind, NodeKind::List(_)), "a list"),
        Type::Object => (matches!(value.kind, NodeKind::Map(_)), "an object"),
    };
    // By a tool that stands before the API: placeholders, and what belongs into a template.
    let is_reference = |entry: &Member<'_>| entry.key == "Ref" || entry.key.starts_with("Fn::");
    let filled_in_later = value
        .text()
        .is_some_and(|text| text.contains("${") || text.contains("{{") || text.starts_with('<'))
        || value.entries().iter().any(is_reference);
    if !fits && !matches!(value.kind, NodeKind::Null) && !filled_in_later {
        findings.at(
            value,
            format!("{name} is {}; the API takes {wanted}", value.describe()),
        );
    }
}
