//! What the modules nearby give to the variables of this one, as far as it is constant.

use std::collections::HashMap;

use hcl_edit::expr::Expression;
use hcl_edit::structure::Block;

use crate::tools::document::{Node, NodeKind, Span};

use super::evaluate::{Context, Evaluator};
use super::{Alone, Caller, ModuleFile, module_files};

/// By the name of a variable what every caller gives it; `None` where they differ, or where only Terraform
/// knows: then its default does not hold either.
pub(super) type GivenVariables = HashMap<String, Option<Node<'static>>>;

/// All of it is said to stand at `anchor`.
pub(super) fn given(callers: &[Caller], anchor: Span) -> GivenVariables {
    let calls: Vec<Node<'static>> = callers.iter().flat_map(|caller| calls(caller, anchor)).collect();
    let names = calls.iter().flat_map(Node::entries).map(|entry| &entry.key);
    let of = |name: &str| {
        let mut values = calls.iter().map(|call| call.get(name));
        let first = values.next()??;
        let same = is_known(first) && values.all(|value| value.is_some_and(|value| is_same(value, first)));
        same.then(|| first.clone())
    };
    names.map(|name| (name.to_string(), of(name))).collect()
}

/// The blocks of a module that call this one.
fn calls(caller: &Caller, anchor: Span) -> Vec<Node<'static>> {
    let files: Vec<ModuleFile<'_>> = module_files(&caller.files).collect();
    let evaluator = Evaluator::new(&files, anchor, &Alone, GivenVariables::new());
    let files = files.iter().enumerate().filter(|(_, file)| !file.sets_variables);
    files
        .flat_map(|(index, file)| {
            let calls = file.body.blocks().filter(|block| is_call(block, &caller.source));
            calls.map(move |block| (index, block))
        })
        .map(|(index, block)| super::block(&evaluator, Context::of(index).placed(anchor), block))
        .collect()
}

fn is_call(block: &Block, source: &str) -> bool {
    let named = block
        .body
        .get_attribute("source")
        .map(|attribute| &attribute.value);
    block.ident.as_str() == "module"
        && matches!(named, Some(Expression::String(path)) if path.trim_end_matches('/') == source)
}

fn is_known(node: &Node<'_>) -> bool {
    node.tag.is_none()
        && node.items().iter().all(is_known)
        && node.entries().iter().all(|entry| is_known(&entry.value))
}

fn is_same(one: &Node<'_>, other: &Node<'_>) -> bool {
    let (items, entries) = (one.items(), one.entries());
    is_known(one)
        && match (&one.kind, &other.kind) {
            (NodeKind::List(_), NodeKind::List(others)) => {
                items.len() == others.len() && items.iter().zip(others).all(|(a, b)| is_same(a, b))
            }
            (NodeKind::Map(_), NodeKind::Map(others)) => {
                let pairs = || entries.iter().zip(others);
                entries.len() == others.len()
                    && pairs().all(|(a, b)| a.key == b.key && is_same(&a.value, &b.value))
            }
            _ => one.word() == other.word(),
        }
}
