//! What an expression says, as far as it is constant: locals, defaults of variables, templates.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;

use hcl_edit::expr::{Expression, ForExpr, Object, ObjectKey, Traversal, TraversalOperator, UnaryOperator};
use hcl_edit::structure::{BlockLabel, Body};
use hcl_edit::{Decorated, Span as _};

use crate::tools::document::{MAX_VALUES, Member, Node, NodeKind, Span};

use super::rendered::{Rendered, json_in};
use super::{Beside, EXPRESSION, GivenVariables, ModuleFile};

mod template;
mod values;

use template::{Escapes, only_interpolation};
pub(super) use values::known_word;
use values::{binary, equal, pairs};

/// The tag of a text that is the JSON of what the node holds.
pub(super) const JSON: &str = "json";

/// References lead no deeper than this; a circle of locals ends here.
const MAX_DEPTH: usize = 160;

/// Long enough to tell two expressions apart.
const MAX_EXPRESSION: usize = 400;

/// What a text takes of the budget of values.
const BYTES_A_VALUE: usize = 64;

/// What an expression comes to.
pub(super) enum Evaluated {
    Node(Node<'static>),
    /// A word that knows where its parts stand.
    Text(Rendered),
}

impl Evaluated {
    pub(super) fn into_node(self) -> Node<'static> {
        match self {
            Evaluated::Node(node) => node,
            Evaluated::Text(text) => text.into_node(),
        }
    }
}

/// Where an expression stands.
#[derive(Clone, Copy)]
pub(super) struct Context<'c> {
    file: usize,
    /// The text in which its spans count, where it is not the file's.
    text: Option<&'c str>,
    /// Where all of it is said to stand, in place of its spans.
    at: Option<Span>,
    depth: usize,
    scope: Option<&'c Bindings<'c>>,
}

impl<'c> Context<'c> {
    pub(super) fn of(file: usize) -> Context<'c> {
        Context {
            file,
            text: None,
            at: None,
            depth: 0,
            scope: None,
        }
    }

    /// Whether it is the file that is read, and no other of its module.
    pub(super) fn is_own(&self) -> bool {
        self.file == 0
    }

    pub(super) fn placed(self, at: Span) -> Context<'c> {
        Context { at: Some(at), ..self }
    }

    pub(super) fn within(self, scope: &'c Bindings<'c>) -> Context<'c> {
        Context {
            scope: Some(scope),
            ..self
        }
    }
}

/// How often a block is there, as far as its module tells.
pub(super) enum Multiplicity {
    Never,
    /// `count.index` or `each.key` and `each.value` are known: the name, and what it holds.
    Once(&'static str, Node<'static>),
    Unknown,
}

/// Names that a `for` or a call of `templatefile` brings.
pub(super) struct Bindings<'c> {
    name: &'c str,
    value: Node<'static>,
    outer: Option<&'c Bindings<'c>>,
}

impl<'c> Bindings<'c> {
    pub(super) fn of(name: &'c str, value: Node<'static>) -> Bindings<'c> {
        Bindings {
            name,
            value,
            outer: None,
        }
    }
}

/// Works out expressions of one module.
pub(super) struct Evaluator<'m> {
    files: &'m [ModuleFile<'m>],
    anchor: Span,
    pub(super) beside: &'m dyn Beside,
    locals: HashMap<&'m str, (usize, &'m Expression)>,
    defaults: HashMap<&'m str, (usize, &'m Expression)>,
    settings: HashMap<&'m str, (usize, &'m Expression)>,
    templates: HashMap<&'m str, (usize, &'m Body)>,
    given: GivenVariables,
    left: Cell<usize>,
    /// Whether a default is no answer, since a caller may say something else.
    without_defaults: Cell<bool>,
}

impl<'m> Evaluator<'m> {
    pub(super) fn new(
        files: &'m [ModuleFile<'m>],
        anchor: Span,
        beside: &'m dyn Beside,
        given: GivenVariables,
    ) -> Evaluator<'m> {
        let mut evaluator = Evaluator {
            files,
            anchor,
            beside,
            locals: HashMap::new(),
            defaults: HashMap::new(),
            settings: HashMap::new(),
            templates: HashMap::new(),
            given,
            left: Cell::new(MAX_VALUES),
            without_defaults: Cell::new(false),
        };
        for (index, file) in files.iter().enumerate() {
            if file.sets_variables {
                for attribute in file.body.attributes() {
                    let setting = (index, &attribute.value);
                    evaluator.settings.insert(attribute.key.as_str(), setting);
                }
                continue;
            }
            for block in file.body.blocks() {
                let label = |at: usize| block.labels.get(at).map(BlockLabel::as_str);
                match (block.ident.as_str(), label(0), label(1)) {
                    ("locals", ..) => {
                        for attribute in block.body.attributes() {
                            let local = (index, &attribute.value);
                            evaluator.locals.entry(attribute.key.as_str()).or_insert(local);
                        }
                    }
                    ("variable", Some(name), _) => {
                        if let Some(default) = block.body.get_attribute("default") {
                            evaluator.defaults.entry(name).or_insert((index, &default.value));
                        }
                    }
                    ("data", Some("template_file"), Some(name)) => {
                        evaluator.templates.insert(name, (index, &block.body));
                    }
                    _ => {}
                }
            }
        }
        evaluator
    }

    pub(super) fn place(&self, context: Context<'_>, range: Option<Range<usize>>) -> Span {
        match (context.at, range) {
            (Some(at), _) => at,
            (None, Some(range)) if context.file == 0 => Span {
                start: range.start,
                end: range.end,
            },
            (None, _) => self.anchor,
        }
    }

    /// The value of an attribute; JSON in it is read.
    pub(super) fn attribute(&self, expression: &Expression, context: Context<'_>) -> Node<'static> {
        let mut node = match self.value(expression, context) {
            Evaluated::Text(text) => match json_in(&text) {
                Some(node) => node,
                None => text.into_node(),
            },
            Evaluated::Node(node) => node,
        };
        if node.tag.as_deref() == Some(JSON) {
            node.tag = None;
        }
        node
    }

    /// How often a block is there by its `count` or `for_each`. That there is none of it is believed only
    /// without defaults: what is off by default is there for somebody.
    pub(super) fn multiplicity(&self, body: &Body, context: Context<'_>) -> Multiplicity {
        let span = self.place(context, None);
        let held = |names: [&'static str; 2], values: [Node<'static>; 2]| {
            let entries = names.into_iter().zip(values).map(|(name, value)| Member {
                key: Cow::Borrowed(name),
                key_span: span,
                value,
            });
            Node::new(NodeKind::Map(entries.collect()), span)
        };
        let argument = |name: &str| body.get_attribute(name).map(|attribute| &attribute.value);
        if let Some(count) = argument("count") {
            let zero = matches!(&self.firmly(count, context).kind, NodeKind::Number(number) if number == "0");
            let node = self.node(count, context);
            return match &node.kind {
                _ if zero => Multiplicity::Never,
                NodeKind::Number(number) if number == "1" => {
                    let index = Node::new(NodeKind::Number(Cow::Borrowed("0")), span);
                    Multiplicity::Once("count", held(["index", ""], [index.clone(), index]))
                }
                _ => Multiplicity::Unknown,
            };
        }
        if let Some(each) = argument("for_each") {
            let none = pairs(&self.firmly(each, context)).is_some_and(|pairs| pairs.is_empty());
            let node = self.node(each, context);
            // The keys of a set are its values.
            let is_set = matches!(node.kind, NodeKind::List(_));
            return match pairs(&node).unwrap_or_default().as_slice() {
                _ if none => Multiplicity::Never,
                [(_, value)] if is_set => {
                    Multiplicity::Once("each", held(["key", "value"], [value.clone(), value.clone()]))
                }
                [(key, value)] => {
                    Multiplicity::Once("each", held(["key", "value"], [key.clone(), value.clone()]))
                }
                _ => Multiplicity::Unknown,
            };
        }
        Multiplicity::Unknown
    }

    /// The value that holds whatever a caller says.
    fn firmly(&self, expression: &Expression, context: Context<'_>) -> Node<'static> {
        self.without_defaults.set(true);
        let node = self.node(expression, context);
        self.without_defaults.set(false);
        node
    }

    /// What only Terraform knows.
    pub(super) fn unknown(
        &self,
        context: Context<'_>,
        range: Option<Range<usize>>,
        otherwise: &str,
    ) -> Node<'static> {
        let text = context
            .text
            .or_else(|| self.files.get(context.file).map(|file| file.text))
            .unwrap_or("");
        let raw = range
            .clone()
            .and_then(|range| text.get(range))
            .unwrap_or(otherwise);
        let end = raw
            .char_indices()
            .nth(MAX_EXPRESSION)
            .map_or(raw.len(), |(at, _)| at);
        Node {
            kind: NodeKind::String(Cow::Owned(raw[..end].to_owned())),
            span: self.place(context, range),
            tag: Some(EXPRESSION.into()),
        }
    }

    /// Whether there is anything left of the budget.
    fn spend(&self, values: usize) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(values));
        left > values
    }

    pub(super) fn node(&self, expression: &Expression, context: Context<'_>) -> Node<'static> {
        self.value(expression, context).into_node()
    }

    pub(super) fn value(&self, expression: &Expression, context: Context<'_>) -> Evaluated {
        let unknown = || Evaluated::Node(self.unknown(context, expression.span(), "…"));
        let context = Context {
            depth: context.depth + 1,
            ..context
        };
        if context.depth > MAX_DEPTH || !self.spend(1) {
            return unknown();
        }
        let span = self.place(context, expression.span());
        let node = |kind| Evaluated::Node(Node::new(kind, span));
        match expression {
            Expression::Null(_) => node(NodeKind::Null),
            Expression::Bool(flag) => node(NodeKind::Bool(*flag.value())),
            Expression::Number(number) => node(NodeKind::Number(Cow::Owned(number.value().to_string()))),
            Expression::String(word) => {
                let raw = self.raw(context, expression.span()).filter(|raw| raw.len() >= 2);
                let mut text = Rendered::new(span);
                match raw.and_then(|raw| raw.get(1..raw.len() - 1)) {
                    Some(raw) => self.literal(&mut text, raw, span.start + 1, context, Escapes::Quoted),
                    None => text.push_at(word.value(), span),
                }
                Evaluated::Text(text)
            }
            Expression::Array(array) => {
                let items = array.iter().map(|item| self.node(item, context));
                node(NodeKind::List(items.collect()))
            }
            Expression::Object(object) => self.object(object, context).map_or_else(unknown, node),
            Expression::StringTemplate(template) => match only_interpolation(template) {
                Some(inner) => self.here(self.value(inner, context), span),
                None => self.template(template, context, span, Escapes::Quoted),
            },
            Expression::HeredocTemplate(heredoc) => {
                self.template(&heredoc.template, context, span, Escapes::None)
            }
            Expression::Parenthesis(inner) => self.value(inner.inner(), context),
            Expression::Variable(name) => match lookup(context.scope, name.as_str()) {
                Some(value) => self.here(Evaluated::Node(value.clone()), span),
                None => unknown(),
            },
            Expression::Traversal(traversal) => self
                .traversal(traversal, context, span)
                .map_or_else(unknown, |value| self.here(value, span)),
            Expression::Conditional(choice) => match self.node(&choice.cond_expr, context).kind {
                NodeKind::Bool(true) => self.value(&choice.true_expr, context),
                NodeKind::Bool(false) => self.value(&choice.false_expr, context),
                _ => self
                    .whichever(&choice.true_expr, &choice.false_expr, context)
                    .map_or_else(unknown, |mut items| {
                        items.push(self.unknown(context, expression.span(), "…"));
                        node(NodeKind::List(items))
                    }),
            },
            Expression::FuncCall(call) => self.call(call, context, span).unwrap_or_else(unknown),
            Expression::UnaryOp(operation) => {
                let inner = self.node(&operation.expr, context);
                match (operation.operator.value(), &inner.kind) {
                    (UnaryOperator::Not, NodeKind::Bool(flag)) => node(NodeKind::Bool(!flag)),
                    (UnaryOperator::Neg, NodeKind::Number(number)) => {
                        node(NodeKind::Number(Cow::Owned(format!("-{number}"))))
                    }
                    _ => unknown(),
                }
            }
            Expression::BinaryOp(operation) => {
                let left = self.node(&operation.lhs_expr, context);
                let right = self.node(&operation.rhs_expr, context);
                binary(&left, *operation.operator.value(), &right).map_or_else(unknown, node)
            }
            Expression::ForExpr(each) => self.for_each(each, context, span).map_or_else(unknown, node),
        }
    }

    /// The containers that a list has whatever a condition says.
    fn whichever(
        &self,
        one: &Expression,
        other: &Expression,
        context: Context<'_>,
    ) -> Option<Vec<Node<'static>>> {
        let list = |expression| {
            let node = match self.value(expression, context) {
                Evaluated::Node(node) => node,
                Evaluated::Text(text) => json_in(&text)?,
            };
            match node.kind {
                NodeKind::List(items) if node.tag.is_none() => Some(items),
                _ => None,
            }
        };
        let (mut items, other) = (list(one)?, list(other)?);
        items.retain(|item| item.get("image").is_some() && other.iter().any(|other| equal(item, other)));
        (!items.is_empty()).then_some(items)
    }

    /// A word stands where it is used, not where it is defined.
    fn here(&self, value: Evaluated, span: Span) -> Evaluated {
        match value {
            Evaluated::Node(mut node) => {
                if !matches!(node.kind, NodeKind::List(_) | NodeKind::Map(_)) {
                    node.span = span;
                }
                Evaluated::Node(node)
            }
            // A whole document in a local stays where it is written.
            Evaluated::Text(text) if text.text.contains('\n') => Evaluated::Text(text),
            Evaluated::Text(text) => Evaluated::Text(text.placed(span)),
        }
    }

    fn raw(&self, context: Context<'_>, range: Option<Range<usize>>) -> Option<&'m str> {
        if context.text.is_some() || context.at.is_some() {
            return None;
        }
        self.files.get(context.file)?.text.get(range?)
    }

    fn object(&self, object: &Object, context: Context<'_>) -> Option<NodeKind<'static>> {
        let mut entries: Vec<Member<'static>> = Vec::with_capacity(object.len());
        for (key, value) in object.iter() {
            let (name, key_range) = match key {
                ObjectKey::Ident(name) => (name.as_str().to_owned(), name.span()),
                ObjectKey::Expression(expression) => {
                    let node = self.node(expression, context);
                    (known_word(&node)?, expression.span())
                }
            };
            let entry = Member {
                key: Cow::Owned(name),
                key_span: self.place(context, key_range),
                value: self.node(value.expr(), context),
            };
            match entries.iter_mut().find(|known| known.key == entry.key) {
                Some(known) => *known = entry,
                None => entries.push(entry),
            }
        }
        Some(NodeKind::Map(entries))
    }

    fn traversal(&self, traversal: &Traversal, context: Context<'_>, span: Span) -> Option<Evaluated> {
        let operators = &traversal.operators;
        let attribute = |at: usize| match operators.get(at).map(Decorated::value) {
            Some(TraversalOperator::GetAttr(name)) => Some(name.as_str()),
            _ => None,
        };
        let (value, rest) = match &traversal.expr {
            Expression::Variable(name) => match (name.as_str(), lookup(context.scope, name.as_str())) {
                (_, Some(value)) => (Evaluated::Node(value.clone()), 0),
                ("var", None) => (self.variable(attribute(0)?, context, span)?, 1),
                ("local", None) => {
                    let (file, expression) = self.locals.get(attribute(0)?)?;
                    (self.elsewhere(*file, expression, context, span), 1)
                }
                ("path", None) if matches!(attribute(0), Some("module" | "root")) => {
                    let mut text = Rendered::new(span);
                    text.push_at(".", span);
                    (Evaluated::Text(text), 1)
                }
                ("data", None) if attribute(0) == Some("template_file") => {
                    let last = operators.len().checked_sub(1)?;
                    (attribute(last)? == "rendered").then_some(())?;
                    (self.template_file(attribute(1)?, context, span)?, operators.len())
                }
                _ => return None,
            },
            other => (self.value(other, context), 0),
        };
        let mut value = value;
        for operator in operators.get(rest..)? {
            let node = value.into_node();
            let next = match operator.value() {
                TraversalOperator::GetAttr(name) => node.get(name.as_str()),
                TraversalOperator::LegacyIndex(index) => node.items().get(usize::try_from(**index).ok()?),
                TraversalOperator::Index(index) => {
                    let index = self.node(index, context);
                    match &index.kind {
                        NodeKind::Number(number) => node.items().get(number.parse::<usize>().ok()?),
                        NodeKind::String(key) => node.get(key),
                        _ => None,
                    }
                }
                TraversalOperator::AttrSplat(_) | TraversalOperator::FullSplat(_) => None,
            };
            value = Evaluated::Node(next?.clone());
        }
        Some(value)
    }

    /// What is set in a `.tfvars`, what a module nearby gives, else the default. A default that is empty is
    /// a place for what a caller gives.
    fn variable(&self, name: &str, context: Context<'_>, span: Span) -> Option<Evaluated> {
        if let Some((file, expression)) = self.settings.get(name) {
            return Some(self.elsewhere(*file, expression, context, span));
        }
        if let Some(given) = self.given.get(name) {
            return given.clone().map(Evaluated::Node);
        }
        let (file, expression) = self.defaults.get(name).filter(|_| !self.without_defaults.get())?;
        let value = self.elsewhere(*file, expression, context, span);
        let empty = match &value {
            Evaluated::Text(text) => text.text.is_empty(),
            Evaluated::Node(node) => match &node.kind {
                NodeKind::Null => true,
                NodeKind::List(items) => items.is_empty(),
                NodeKind::Map(entries) => entries.is_empty(),
                _ => false,
            },
        };
        (!empty).then_some(value)
    }

    /// An expression of another place in the module.
    fn elsewhere(
        &self,
        file: usize,
        expression: &Expression,
        context: Context<'_>,
        used_at: Span,
    ) -> Evaluated {
        let outside = file != 0 || context.at.is_some();
        let there = Context {
            file,
            text: None,
            at: outside.then_some(used_at),
            depth: context.depth,
            scope: None,
        };
        self.value(expression, there)
    }

    fn for_each(&self, each: &ForExpr, context: Context<'_>, span: Span) -> Option<NodeKind<'static>> {
        let collection = self.node(&each.intro.collection_expr, context);
        let key = each.intro.key_var.as_ref().map(|name| name.as_str());
        let name = each.intro.value_var.as_str();
        let mut items = Vec::new();
        let mut entries: Vec<Member<'static>> = Vec::new();
        if each.grouping {
            return None;
        }
        for (index, value) in pairs(&collection)? {
            let mut known = true;
            in_turn(context, key, name, index, value, |context| {
                if let Some(condition) = &each.cond {
                    match self.node(&condition.expr, context).kind {
                        NodeKind::Bool(true) => {}
                        NodeKind::Bool(false) => return,
                        _ => {
                            known = false;
                            return;
                        }
                    }
                }
                let value = self.node(&each.value_expr, context);
                match &each.key_expr {
                    None => items.push(value),
                    Some(key) => match known_word(&self.node(key, context)) {
                        Some(key) if !entries.iter().any(|entry| entry.key == key) => entries.push(Member {
                            key: Cow::Owned(key),
                            key_span: span,
                            value,
                        }),
                        _ => known = false,
                    },
                }
            });
            if !known || !self.spend(1) {
                return None;
            }
        }
        Some(match each.key_expr {
            None => NodeKind::List(items),
            Some(_) => NodeKind::Map(entries),
        })
    }
}

fn lookup<'c>(mut scope: Option<&'c Bindings<'c>>, name: &str) -> Option<&'c Node<'static>> {
    while let Some(inner) = scope {
        if inner.name == name {
            return Some(&inner.value);
        }
        scope = inner.outer;
    }
    None
}

/// Calls with the two names of a `for` set.
fn in_turn(
    context: Context<'_>,
    key: Option<&str>,
    name: &str,
    index: Node<'static>,
    value: Node<'static>,
    then: impl FnOnce(Context<'_>),
) {
    let scope = Bindings {
        name: key.unwrap_or(""),
        value: index,
        outer: context.scope,
    };
    let scope = Bindings {
        name,
        value,
        outer: Some(&scope),
    };
    then(Context {
        scope: Some(&scope),
        ..context
    });
}
