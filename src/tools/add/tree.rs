//! The sidecar's definition before it is written in a document's own style.

use crate::tools::document::{Node, NodeKind};
use crate::tools::model::Condition;

/// A value to be written.
#[derive(Clone, Debug)]
pub(super) enum Tree {
    Text(String),
    Number(u64),
    Flag(bool),
    List(Vec<Tree>),
    /// Keys as the API writes them; a template capitalises them.
    Fields(Vec<(&'static str, Tree)>),
    /// Keys that mean something by themselves, written as they are.
    Pairs(Vec<(String, Tree)>),
    /// CloudFormation's `!Sub`.
    Sub(String),
    /// As it is written, without quotes.
    Word(String),
    /// An intrinsic of CloudFormation: `!Ref` and what it is given.
    Tagged(String, Box<Tree>),
}

impl Tree {
    pub(super) fn text(text: impl Into<String>) -> Tree {
        Tree::Text(text.into())
    }

    pub(super) fn texts(texts: &[&str]) -> Tree {
        Tree::List(texts.iter().map(|text| Tree::text(*text)).collect())
    }

    /// What a node of the document says, to be said again: its anchors, comments and style are its own.
    pub(super) fn of(node: &Node<'_>) -> Tree {
        let tree = match &node.kind {
            NodeKind::Null => Tree::Word("null".to_owned()),
            NodeKind::Bool(flag) => Tree::Flag(*flag),
            NodeKind::Number(number) => Tree::Word(number.to_string()),
            NodeKind::String(text) => Tree::text(text.as_ref()),
            NodeKind::List(items) => Tree::List(items.iter().map(Tree::of).collect()),
            NodeKind::Map(entries) => {
                // A field without a value is as if it were not there: it need not be said again.
                let pairs = entries
                    .iter()
                    .filter(|entry| !matches!(entry.value.kind, NodeKind::Null) || entry.value.tag.is_some())
                    .map(|entry| (entry.key.to_string(), Tree::of(&entry.value)));
                Tree::Pairs(pairs.collect())
            }
        };
        match &node.tag {
            Some(tag) => Tree::Tagged(tag.to_string(), Box::new(tree)),
            None => tree,
        }
    }

    /// What is there only under a condition of the template.
    pub(super) fn under(condition: Condition<'_>, tree: Tree) -> Tree {
        let nothing = Tree::Pairs(vec![("Ref".to_owned(), Tree::text("AWS::NoValue"))]);
        let [yes, no] = if condition.holds {
            [tree, nothing]
        } else {
            [nothing, tree]
        };
        let list = Tree::List(vec![Tree::text(condition.name), yes, no]);
        Tree::Pairs(vec![("Fn::If".to_owned(), list)])
    }

    /// `{"name": …, "value": …}`
    pub(super) fn variable(name: &str, value: Tree) -> Tree {
        Tree::Fields(vec![("name", Tree::text(name)), ("value", value)])
    }
}

/// The sidecar: its name and the rest.
#[derive(Clone, Debug)]
pub(super) struct SidecarDefinition {
    pub(super) name: &'static str,
    /// With the name for ECS; without it for compose, where it is the key.
    pub(super) body: Tree,
}
