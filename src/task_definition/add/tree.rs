//! The sidecar's definition before it is written in a document's own style.

use crate::task_definition::document::Node;

/// A value to be written.
#[derive(Clone, Debug)]
pub(super) enum Tree<'a> {
    Text(String),
    Number(u64),
    Flag(bool),
    List(Vec<Tree<'a>>),
    /// Keys as the API writes them; a template capitalises them.
    Fields(Vec<(&'static str, Tree<'a>)>),
    /// Keys that mean something by themselves, written as they are.
    Pairs(Vec<(String, Tree<'a>)>),
    /// CloudFormation's `!Sub`.
    Sub(String),
    /// What stands in the document already, to be repeated.
    Copy(&'a Node<'a>),
}

impl<'a> Tree<'a> {
    pub(super) fn text(text: impl Into<String>) -> Tree<'a> {
        Tree::Text(text.into())
    }

    pub(super) fn texts(texts: &[&str]) -> Tree<'a> {
        Tree::List(texts.iter().map(|text| Tree::text(*text)).collect())
    }

    /// `{"name": …, "value": …}`
    pub(super) fn variable(name: &str, value: Tree<'a>) -> Tree<'a> {
        Tree::Fields(vec![("name", Tree::text(name)), ("value", value)])
    }
}

/// The sidecar: its name and the rest.
#[derive(Clone, Debug)]
pub(super) struct Definition<'a> {
    pub(super) name: &'static str,
    /// With the name for ECS; without it for compose, where it is the key.
    pub(super) body: Tree<'a>,
}
