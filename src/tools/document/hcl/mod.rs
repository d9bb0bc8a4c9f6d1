//! Terraform's language as a tree, with what is constant in it worked out.
//!
//! The tree is that of `.tf.json`: `resource`, `data` and `module`, by type and name. A value that
//! depends on what only Terraform knows is a text with the tag [`EXPRESSION`]. A constant word stands
//! where it is used, a constant list or object where it is written; what comes from another file of the
//! module stands at [`ANCHOR`]. Texts of JSON in attributes are read, too.

use std::borrow::Cow;

use hcl_edit::structure::{Block, Body, Structure};
use hcl_edit::{Span as _, parser};

use super::{Member, Node, NodeKind, Span, Unreadable};

mod callers;
mod evaluate;
mod functions;
mod rendered;

use callers::{GivenVariables, given};
use evaluate::{Bindings, Context, Evaluator, Multiplicity};
pub(super) use rendered::{Rendered, json_in};

/// The tag of a value that the file does not tell; its text is the expression.
pub const EXPRESSION: &str = "expression";

/// The tag of a block of another file of the module.
pub const ELSEWHERE: &str = "elsewhere";

/// What another file of the module says is pointed at where this one has its first of these.
const ANCHOR: &str = "aws_ecs_task_definition";

/// hcl-edit looks through all keys of an object for each new one: this bounds what that takes.
const MAX_ASSIGNMENTS: usize = 10_000;

/// Where the text stands among others.
pub trait Beside {
    /// The other files of the module that Terraform reads by itself: `.tf` and `.tfvars`.
    fn module(&self) -> Vec<(String, String)>;

    /// The text of the file at a path from there.
    fn file(&self, path: &str) -> Option<String>;

    /// The modules nearby that may call this one.
    fn callers(&self) -> Vec<Caller> {
        Vec::new()
    }
}

/// A module that may call another by a path.
#[derive(Debug)]
pub struct Caller {
    /// What it would name the other by, such as `./modules/web`.
    pub source: String,
    /// Its files that Terraform reads by itself, by name.
    pub files: Vec<(String, String)>,
}

/// No other files.
pub struct Alone;

impl Beside for Alone {
    fn module(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn file(&self, _: &str) -> Option<String> {
        None
    }
}

struct ModuleFile<'t> {
    text: &'t str,
    body: Body,
    /// `*.tfvars`: its attributes are values of variables.
    sets_variables: bool,
}

pub(super) fn parse(text: &str, beside: &dyn Beside) -> Result<Node<'static>, Unreadable> {
    let own = body(text)?;
    let anchor = anchor(&own);
    let others = match anchor {
        // Nothing in it needs them.
        None => Vec::new(),
        Some(_) => beside.module(),
    };
    let mut files = vec![ModuleFile {
        text,
        body: own,
        sets_variables: false,
    }];
    files.extend(module_files(&others));
    let place = anchor.unwrap_or(Span { start: 0, end: 0 });
    let has_variables = || {
        files
            .iter()
            .any(|file| file.body.blocks().any(|block| block.ident.as_str() == "variable"))
    };
    let given = match anchor {
        Some(place) if has_variables() => given(&beside.callers(), place),
        _ => GivenVariables::new(),
    };
    let evaluator = Evaluator::new(&files, place, beside, given);
    // So that the tree tells whose it is, even if there is nothing in it.
    let mut root = vec![Member {
        key: Cow::Borrowed("resource"),
        key_span: Span { start: 0, end: 0 },
        value: Node::new(NodeKind::Map(Vec::new()), Span { start: 0, end: 0 }),
    }];
    for (index, file) in files.iter().enumerate().filter(|(_, file)| !file.sets_variables) {
        for block in file.body.blocks() {
            if matches!(block.ident.as_str(), "resource" | "data" | "module") {
                let context = Context::of(index);
                insert(&mut root, &evaluator, context, block);
            }
        }
    }
    let span = Span {
        start: 0,
        end: text.len(),
    };
    Ok(Node::new(NodeKind::Map(root), span))
}

/// The value of one expression of `.tf.json`, in which nothing else is known.
pub(super) fn expression(text: &str, place: Span, beside: &dyn Beside) -> Option<Node<'static>> {
    let parsed = bounded(text).then(|| parser::parse_expr(text).ok()).flatten()?;
    let files = [ModuleFile {
        text,
        body: Body::new(),
        sets_variables: false,
    }];
    let evaluator = Evaluator::new(&files, place, beside, GivenVariables::new());
    Some(evaluator.attribute(&parsed, Context::of(0).placed(place)))
}

/// Those that can be read. What is wrong with one is told where it is checked itself.
fn module_files(files: &[(String, String)]) -> impl Iterator<Item = ModuleFile<'_>> {
    files.iter().filter_map(|(name, text)| {
        Some(ModuleFile {
            text,
            body: body(text).ok()?,
            sets_variables: name.ends_with(".tfvars"),
        })
    })
}

fn body(text: &str) -> Result<Body, Unreadable> {
    if !bounded(text) {
        return Err(Unreadable::new(
            0,
            format!("more than {MAX_ASSIGNMENTS} assignments: expected the file of one module"),
        ));
    }
    parser::parse_body(text).map_err(|why| {
        let line = why.location().line().saturating_sub(1);
        let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
        let rest = text.get(start..).unwrap_or("");
        let column = why.location().column().saturating_sub(1);
        let at = start + rest.char_indices().nth(column).map_or(0, |(at, _)| at);
        Unreadable::new(at, format!("not HCL: {}", why.message()))
    })
}

fn bounded(text: &str) -> bool {
    text.bytes().filter(|byte| matches!(byte, b'=' | b':')).count() <= MAX_ASSIGNMENTS
}

fn anchor(body: &Body) -> Option<Span> {
    let of = |wanted: fn(&Block) -> bool| body.blocks().find(|block| wanted(block)).and_then(header);
    of(|block| block.labels.first().is_some_and(|label| label.as_str() == ANCHOR))
        .or_else(|| of(|block| block.ident.as_str() == "module"))
}

/// `resource "type" "name"`
fn header(block: &Block) -> Option<Span> {
    let end = block.labels.last().and_then(hcl_edit::Span::span)?.end;
    let start = block.ident.span()?.start;
    Some(Span { start, end })
}

/// Puts a block where its labels say.
fn insert(root: &mut Vec<Member<'static>>, evaluator: &Evaluator<'_>, context: Context<'_>, block: &Block) {
    let only;
    let context = match evaluator.multiplicity(&block.body, context) {
        Multiplicity::Never => return,
        Multiplicity::Once(name, value) => {
            only = Bindings::of(name, value);
            context.within(&only)
        }
        Multiplicity::Unknown => context,
    };
    let place = |span: Option<std::ops::Range<usize>>| evaluator.place(context, span);
    let mut path = vec![(block.ident.as_str(), place(block.ident.span()))];
    for label in &block.labels {
        path.push((label.as_str(), place(label.span())));
    }
    let mut node = self::block(evaluator, context, block);
    if !context.is_own() {
        node.tag = Some(ELSEWHERE.into());
    }
    let Some(((name, name_span), folders)) = path.split_last() else {
        return;
    };
    let mut entries = root;
    for (key, key_span) in folders {
        let index = entries.iter().position(|entry| entry.key == *key);
        let index = index.unwrap_or_else(|| {
            entries.push(Member {
                key: Cow::Owned((*key).to_owned()),
                key_span: *key_span,
                value: Node::new(NodeKind::Map(Vec::new()), node.span),
            });
            entries.len() - 1
        });
        match entries.get_mut(index).map(|entry| &mut entry.value.kind) {
            Some(NodeKind::Map(inner)) => entries = inner,
            _ => return,
        }
    }
    // Terraform refuses a second one of the same name.
    if folders.len() == block.labels.len() && !entries.iter().any(|entry| entry.key == *name) {
        entries.push(Member {
            key: Cow::Owned((*name).to_owned()),
            key_span: *name_span,
            value: node,
        });
    }
}

/// Attributes by their names; nested blocks by theirs, those that stand more than once as a list.
fn block(evaluator: &Evaluator<'_>, context: Context<'_>, block: &Block) -> Node<'static> {
    let mut entries: Vec<Member<'static>> = Vec::new();
    for structure in &block.body {
        let (key, key_span, value) = match structure {
            Structure::Attribute(attribute) => (
                attribute.key.as_str(),
                attribute.key.span(),
                evaluator.attribute(&attribute.value, context),
            ),
            // How many of them there are, and what is in them, is known to Terraform only.
            Structure::Block(inner) if inner.ident.as_str() == "dynamic" => match inner.labels.first() {
                Some(label) => (
                    label.as_str(),
                    inner.ident.span(),
                    evaluator.unknown(context, inner.span(), "dynamic"),
                ),
                None => continue,
            },
            Structure::Block(inner) => (
                inner.ident.as_str(),
                inner.ident.span(),
                self::block(evaluator, context, inner),
            ),
        };
        match entries.iter_mut().find(|entry| entry.key == key) {
            None => entries.push(Member {
                key: Cow::Owned(key.to_owned()),
                key_span: evaluator.place(context, key_span),
                value,
            }),
            Some(entry) => match &mut entry.value.kind {
                NodeKind::List(list) => list.push(value),
                _ => {
                    let span = entry.value.span;
                    let first = std::mem::replace(&mut entry.value, Node::new(NodeKind::Null, span));
                    entry.value.kind = NodeKind::List(vec![first, value]);
                }
            },
        }
    }
    Node::new(NodeKind::Map(entries), evaluator.place(context, block.span()))
}
