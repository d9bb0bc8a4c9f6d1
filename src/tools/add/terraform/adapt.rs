//! The definition in the words of the file: what the app takes from a variable is taken from it again.

use hcl_edit::parser;

use crate::tools::add::tree::{SidecarDefinition, Tree};
use crate::tools::document::{EXPRESSION, Node, NodeKind};
use crate::tools::model::{ContainerDefinition, TaskDefinition};

/// The language in which the containers are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Terraform,
    /// In a template.
    Json,
}

/// The definition with the app's expressions in place of what they stand for by default.
pub(super) fn adapt(
    text: &str,
    task: &TaskDefinition<'_>,
    app: &ContainerDefinition<'_>,
    sidecar: &SidecarDefinition,
    language: Language,
) -> Tree {
    let Tree::Fields(fields) = &sidecar.body else {
        return sidecar.body.clone();
    };
    let named = |value: &Tree| {
        let Tree::Fields(fields) = value else {
            return value.clone();
        };
        let renamed = fields.iter().map(|(key, value)| {
            let name = match value {
                Tree::Text(name) => Some(name.as_str()),
                Tree::Tagged(_, inner) => match inner.as_ref() {
                    Tree::Text(name) => Some(name.as_str()),
                    _ => None,
                },
                _ => None,
            };
            let container = name
                .filter(|_| *key == "containerName")
                .and_then(|name| task.container(name));
            (
                *key,
                match container {
                    Some(container) => name_again(text, task, container, language),
                    None => escaped(value, language),
                },
            )
        });
        Tree::Fields(renamed.collect())
    };
    let adapted = fields.iter().map(|(key, value)| {
        let value = match (*key, value) {
            ("dependsOn", Tree::List(items)) => Tree::List(items.iter().map(named).collect()),
            ("logConfiguration", _) => match &app.log {
                Some(log) => options(text, task, log.node, "", language),
                None => escaped(value, language),
            },
            _ => escaped(value, language),
        };
        (*key, value)
    });
    Tree::Fields(adapted.collect())
}

/// The name of a container, which may be the key under which it stands.
fn name_again(
    text: &str,
    task: &TaskDefinition<'_>,
    container: &ContainerDefinition<'_>,
    language: Language,
) -> Tree {
    let name = &container.name;
    let entry = task
        .list
        .entries()
        .iter()
        .find(|entry| std::ptr::eq(&entry.value, name.node));
    let key = entry.and_then(|entry| text.get(entry.key_span.start..entry.key_span.end));
    match key {
        Some(key) if key.starts_with(['(', '"']) => Tree::Word(key.to_owned()),
        Some(_) => Tree::text(name.text.as_ref()),
        None => again(text, task, name.node, &name.text, language),
    }
}

/// A node of the app, said again; never so that a line of the log can hold the drain.
fn options(text: &str, task: &TaskDefinition<'_>, node: &Node<'_>, key: &str, language: Language) -> Tree {
    match &node.kind {
        NodeKind::Map(entries) if node.tag.is_none() => {
            let pairs = entries.iter().map(|entry| {
                let value = options(text, task, &entry.value, &entry.key, language);
                (entry.key.to_string(), value)
            });
            Tree::Pairs(pairs.collect())
        }
        NodeKind::List(items) if node.tag.is_none() => {
            let items = items.iter().map(|item| options(text, task, item, "", language));
            Tree::List(items.collect())
        }
        NodeKind::String(word) if key == "mode" && word == "blocking" => Tree::text("non-blocking"),
        _ => match node.word() {
            Some(word) => again(text, task, node, &word, language),
            None => Tree::Word("null".to_owned()),
        },
    }
}

/// A word as it is written there, so that a variable stays one.
fn again(text: &str, task: &TaskDefinition<'_>, node: &Node<'_>, word: &str, language: Language) -> Tree {
    let written = text.get(node.span.start..node.span.end).unwrap_or("");
    let here = match language {
        Language::Terraform => !written.contains('\n') && parser::parse_expr(written).is_ok(),
        // Within the same template a text in quotes means the same.
        Language::Json => {
            task.list.span.start < node.span.start
                && node.span.end < task.list.span.end
                && serde_json::from_str::<serde_json::Value>(written).is_ok()
        }
    };
    let is_expression = node.tag.as_deref() == Some(EXPRESSION);
    match (here, language) {
        (true, _) => Tree::Word(written.to_owned()),
        (false, Language::Json) if is_expression => Tree::Word(format!("\"${{{word}}}\"")),
        (false, Language::Terraform) if is_expression => Tree::Word(word.to_owned()),
        (false, _) => escaped(&Tree::text(word), language),
    }
}

/// Texts that a template would read as expressions.
fn escaped(tree: &Tree, language: Language) -> Tree {
    let of = |tree: &Tree| escaped(tree, language);
    match tree {
        Tree::Text(text) if language == Language::Json => {
            Tree::text(text.replace("${", "$${").replace("%{", "%%{"))
        }
        Tree::List(items) => Tree::List(items.iter().map(of).collect()),
        Tree::Fields(fields) => Tree::Fields(fields.iter().map(|(key, value)| (*key, of(value))).collect()),
        Tree::Pairs(pairs) => Tree::Pairs(
            pairs
                .iter()
                .map(|(key, value)| (key.clone(), of(value)))
                .collect(),
        ),
        other => other.clone(),
    }
}
