//! The functions of Terraform in which task definitions are written; every other is unknown.

use std::borrow::Cow;

use hcl_edit::expr::{Expression, FuncCall};

use crate::tools::document::{Node, NodeKind, Span};

use super::EXPRESSION;
use super::evaluate::{Context, Evaluated, Evaluator, JSON, known_word};
use super::rendered::{Rendered, json_in, place_all};

impl Evaluator<'_> {
    /// What a call gives; `None` where that is not known.
    pub(super) fn call(&self, call: &FuncCall, context: Context<'_>, span: Span) -> Option<Evaluated> {
        if call.name.is_namespaced() || call.args.expand_final() {
            return None;
        }
        let args: Vec<&Expression> = call.args.iter().collect();
        let node = |at: usize| args.get(at).map(|arg| self.node(arg, context));
        let word = |at: usize| node(at).and_then(|node| known_word(&node));
        let text = |text: String| {
            let mut rendered = Rendered::new(span);
            rendered.push_at(&text, span);
            Some(Evaluated::Text(rendered))
        };
        let made = |kind: NodeKind<'static>| Some(Evaluated::Node(Node::new(kind, span)));
        match (call.name.name.as_str(), args.as_slice()) {
            ("jsonencode", [arg]) => {
                let mut value = self.node(arg, context);
                if value.tag.is_some() {
                    return None;
                }
                value.tag = Some(JSON.into());
                Some(Evaluated::Node(value))
            }
            ("jsondecode", [arg]) => match self.value(arg, context) {
                Evaluated::Text(text) => json_in(&text).map(Evaluated::Node),
                Evaluated::Node(mut value) if value.tag.as_deref() == Some(JSON) => {
                    value.tag = None;
                    Some(Evaluated::Node(value))
                }
                Evaluated::Node(_) => None,
            },
            ("tolist" | "toset" | "tomap" | "sensitive" | "nonsensitive" | "one", [arg]) => {
                Some(self.value(arg, context))
            }
            ("tostring", [_]) => text(word(0)?),
            ("tonumber", [_]) => {
                let number = word(0).filter(|word| word.parse::<f64>().is_ok())?;
                made(NodeKind::Number(Cow::Owned(number)))
            }
            ("tobool", [_]) => made(NodeKind::Bool(word(0)?.parse().ok()?)),
            ("concat", _) => {
                // One part that is not known may hold anything: it stays as an item of its own.
                let mut items = Vec::new();
                for arg in &args {
                    match self.node(arg, context) {
                        Node {
                            kind: NodeKind::List(more),
                            tag: None,
                            ..
                        } => items.extend(more),
                        unknown => items.push(unknown_part(self, unknown, arg, context)),
                    }
                }
                made(NodeKind::List(items))
            }
            ("flatten", [_]) => {
                let mut items = Vec::new();
                flatten(list(node(0)?)?, &mut items);
                made(NodeKind::List(items))
            }
            ("compact", [_]) => {
                let mut items = list(node(0)?)?;
                items.retain(|item| !matches!(&item.kind, NodeKind::Null) && item.text() != Some(""));
                made(NodeKind::List(items))
            }
            ("distinct", [_]) => Some(Evaluated::Node(node(0)?)),
            ("merge", _) => {
                let mut entries: Vec<crate::tools::document::Member<'static>> = Vec::new();
                for at in 0..args.len() {
                    let Node {
                        kind: NodeKind::Map(more),
                        tag: None,
                        ..
                    } = node(at)?
                    else {
                        return None;
                    };
                    for entry in more {
                        match entries.iter_mut().find(|known| known.key == entry.key) {
                            Some(known) => *known = entry,
                            None => entries.push(entry),
                        }
                    }
                }
                made(NodeKind::Map(entries))
            }
            ("try" | "coalesce", _) => {
                let first = self.value(args.first()?, context);
                match &first {
                    Evaluated::Node(node) if node.tag.is_some() || matches!(node.kind, NodeKind::Null) => {
                        None
                    }
                    _ => Some(first),
                }
            }
            ("lookup", [_, _, ..]) => {
                let map = node(0).filter(|map| map.tag.is_none() && matches!(map.kind, NodeKind::Map(_)))?;
                match map.get(&word(1)?) {
                    Some(value) => Some(Evaluated::Node(value.clone())),
                    None => Some(self.value(args.get(2)?, context)),
                }
            }
            ("element", [_, _]) => {
                let items = list(node(0)?)?;
                let index = word(1)?.parse::<usize>().ok()?.checked_rem(items.len())?;
                Some(Evaluated::Node(items.into_iter().nth(index)?))
            }
            ("length", [_]) => {
                let node = node(0).filter(|node| node.tag.is_none())?;
                let length = match &node.kind {
                    NodeKind::List(items) if items.iter().all(|item| item.tag.is_none()) => items.len(),
                    NodeKind::Map(entries) => entries.len(),
                    _ => return None,
                };
                made(NodeKind::Number(Cow::Owned(length.to_string())))
            }
            ("values", [_]) => match node(0)? {
                Node {
                    kind: NodeKind::Map(entries),
                    tag: None,
                    ..
                } => made(NodeKind::List(
                    entries.into_iter().map(|entry| entry.value).collect(),
                )),
                _ => None,
            },
            ("keys", [_]) => match node(0)? {
                Node {
                    kind: NodeKind::Map(entries),
                    tag: None,
                    ..
                } => {
                    let keys = entries
                        .into_iter()
                        .map(|entry| Node::new(NodeKind::String(entry.key), entry.key_span));
                    made(NodeKind::List(keys.collect()))
                }
                _ => None,
            },
            ("lower", [_]) => text(word(0)?.to_lowercase()),
            ("upper", [_]) => text(word(0)?.to_uppercase()),
            ("trimspace" | "chomp", [arg]) => match self.value(arg, context) {
                // A document stays where it is written; blanks around it mean nothing.
                Evaluated::Text(text) => Some(Evaluated::Text(text)),
                Evaluated::Node(node) => text(known_word(&node)?.trim().to_owned()),
            },
            ("replace", [_, _, _]) => {
                let (whole, from, to) = (word(0)?, word(1)?, word(2)?);
                // A regular expression.
                if from.is_empty() || (from.len() > 1 && from.starts_with('/') && from.ends_with('/')) {
                    return None;
                }
                text(whole.replace(&from, &to))
            }
            ("split", [_, _]) => {
                let (separator, whole) = (word(0)?, word(1)?);
                (!separator.is_empty()).then_some(())?;
                let parts = whole
                    .split(&separator)
                    .map(|part| Node::new(NodeKind::String(Cow::Owned(part.to_owned())), span));
                made(NodeKind::List(parts.collect()))
            }
            ("join", [_, _]) => {
                let (separator, items) = (word(0)?, list(node(1)?)?);
                let mut joined = Rendered::new(span);
                for (index, item) in items.into_iter().enumerate() {
                    if index > 0 {
                        joined.push_at(&separator, span);
                    }
                    self.push(&mut joined, Evaluated::Node(item), span);
                }
                Some(Evaluated::Text(joined))
            }
            ("format", [_, ..]) => self.format(&word(0)?, args.get(1..)?, context, span),
            ("file", [_]) => {
                let content = self.beside.file(&word(0)?)?;
                text(content)
            }
            ("templatefile", [_, ..]) => {
                let content = self.beside.file(&word(0)?)?;
                let mut variables = node(1)?;
                place_all(&mut variables, span);
                self.rendered(&content, variables.entries(), context, span)
            }
            _ => None,
        }
    }

    /// `%s`, `%d` and `%v`, which is all that names and images take.
    fn format(
        &self,
        form: &str,
        args: &[&Expression],
        context: Context<'_>,
        span: Span,
    ) -> Option<Evaluated> {
        let mut text = Rendered::new(span);
        let mut args = args.iter();
        let mut rest = form;
        while let Some((before, after)) = rest.split_once('%') {
            text.push_at(before, span);
            let verb = after.chars().next()?;
            match verb {
                '%' => text.push_at("%", span),
                's' | 'd' | 'v' => self.push(&mut text, self.value(args.next()?, context), span),
                _ => return None,
            }
            rest = after.get(verb.len_utf8()..)?;
        }
        text.push_at(rest, span);
        Some(Evaluated::Text(text))
    }
}

fn list(node: Node<'static>) -> Option<Vec<Node<'static>>> {
    match node {
        Node {
            kind: NodeKind::List(items),
            tag: None,
            ..
        } => Some(items),
        _ => None,
    }
}

fn flatten(items: Vec<Node<'static>>, flat: &mut Vec<Node<'static>>) {
    for item in items {
        match item {
            Node {
                kind: NodeKind::List(inner),
                tag: None,
                ..
            } => flatten(inner, flat),
            other => flat.push(other),
        }
    }
}

fn unknown_part(
    evaluator: &Evaluator<'_>,
    value: Node<'static>,
    arg: &Expression,
    context: Context<'_>,
) -> Node<'static> {
    use hcl_edit::Span as _;
    match value.tag.as_deref() {
        Some(EXPRESSION) => value,
        _ => evaluator.unknown(context, arg.span(), "…"),
    }
}
