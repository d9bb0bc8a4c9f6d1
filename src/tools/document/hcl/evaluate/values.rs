//! What is done with values that are known.

use std::borrow::Cow;

use hcl_edit::expr::BinaryOperator;

use crate::tools::document::{Member, Node, NodeKind};

/// The text of a word that is known to its end.
pub(in crate::tools::document::hcl) fn known_word(node: &Node<'_>) -> Option<String> {
    if node.tag.is_some() {
        return None;
    }
    node.word()
        .filter(|word| !word.contains("${"))
        .map(Cow::into_owned)
}

/// Keys and values of a list or an object.
pub(super) fn pairs(collection: &Node<'static>) -> Option<Vec<(Node<'static>, Node<'static>)>> {
    if collection.tag.is_some() {
        return None;
    }
    let span = collection.span;
    match &collection.kind {
        NodeKind::List(items) => Some(
            items
                .iter()
                .enumerate()
                .map(|(index, item)| {
                    let index = NodeKind::Number(Cow::Owned(index.to_string()));
                    (Node::new(index, span), item.clone())
                })
                .collect(),
        ),
        NodeKind::Map(entries) => Some(
            entries
                .iter()
                .map(|entry| {
                    let key = NodeKind::String(entry.key.clone());
                    (Node::new(key, entry.key_span), entry.value.clone())
                })
                .collect(),
        ),
        _ => None,
    }
}

/// Whether two values are the same, wherever they stand.
pub(super) fn equal(one: &Node<'_>, other: &Node<'_>) -> bool {
    one.tag == other.tag
        && match (&one.kind, &other.kind) {
            (NodeKind::List(a), NodeKind::List(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
            }
            (NodeKind::Map(a), NodeKind::Map(b)) => {
                let same = |(a, b): (&Member<'_>, &Member<'_>)| a.key == b.key && equal(&a.value, &b.value);
                a.len() == b.len() && a.iter().zip(b).all(same)
            }
            (NodeKind::Null, NodeKind::Null) => true,
            _ => one.word().is_some() && one.word() == other.word(),
        }
}

pub(super) fn binary(
    left: &Node<'_>,
    operator: BinaryOperator,
    right: &Node<'_>,
) -> Option<NodeKind<'static>> {
    if let (NodeKind::Bool(a), NodeKind::Bool(b)) = (&left.kind, &right.kind) {
        match operator {
            BinaryOperator::And => return Some(NodeKind::Bool(*a && *b)),
            BinaryOperator::Or => return Some(NodeKind::Bool(*a || *b)),
            _ => {}
        }
    }
    let equal = || Some(known_word(left)? == known_word(right)?);
    let numbers = || -> Option<(f64, f64)> {
        Some((known_word(left)?.parse().ok()?, known_word(right)?.parse().ok()?))
    };
    let number = |value: f64| {
        value
            .is_finite()
            .then(|| NodeKind::Number(Cow::Owned(value.to_string())))
    };
    match operator {
        BinaryOperator::Eq => Some(NodeKind::Bool(equal()?)),
        BinaryOperator::NotEq => Some(NodeKind::Bool(!equal()?)),
        BinaryOperator::Plus => number(numbers().map(|(a, b)| a + b)?),
        BinaryOperator::Minus => number(numbers().map(|(a, b)| a - b)?),
        BinaryOperator::Mul => number(numbers().map(|(a, b)| a * b)?),
        BinaryOperator::Div => number(numbers().map(|(a, b)| a / b)?),
        BinaryOperator::Less => Some(NodeKind::Bool(numbers().map(|(a, b)| a < b)?)),
        BinaryOperator::LessEq => Some(NodeKind::Bool(numbers().map(|(a, b)| a <= b)?)),
        BinaryOperator::Greater => Some(NodeKind::Bool(numbers().map(|(a, b)| a > b)?)),
        BinaryOperator::GreaterEq => Some(NodeKind::Bool(numbers().map(|(a, b)| a >= b)?)),
        _ => None,
    }
}
