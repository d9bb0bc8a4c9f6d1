//! Reads the fields of an object, in the casing and with the unknowns of its form.

use std::borrow::Cow;

use crate::tools::document::{Node, NodeKind};

use super::{DocumentForm, Name, Text, Value, terraform};

#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) form: DocumentForm,
    pub(super) node: &'a Node<'a>,
}

impl<'a> Fields<'a> {
    pub(super) fn of(form: DocumentForm, node: &'a Node<'a>) -> Fields<'a> {
        Fields { form, node }
    }

    /// The node of a field. `null` and `AWS::NoValue` are as if it were not there.
    pub(super) fn node(&self, name: &str) -> Option<&'a Node<'a>> {
        // Some templates keep the API's casing: what they say is not overlooked.
        let found = match self.form {
            DocumentForm::CloudFormation => self.node.get(&capitalised(name)).or_else(|| self.node.get(name)),
            DocumentForm::Terraform => terraform::get(self.node, name),
            _ => self.node.get(name),
        };
        found
            .filter(|node| !matches!(node.kind, NodeKind::Null) || node.tag.is_some())
            .filter(|node| !is_no_value(node))
    }

    pub(super) fn object(&self, name: &str) -> Option<Fields<'a>> {
        let node = terraform::only_block(self.form, self.node(name)?);
        Some(Fields::of(self.form, node))
    }

    pub(super) fn text(&self, name: &str) -> Value<'a, Text<'a>> {
        self.node(name)
            .map_or(Value::Absent, |node| text(self.form, node))
    }

    pub(super) fn flag(&self, name: &str) -> Value<'a, bool> {
        self.text(name).and_then(|word| match word.as_ref() {
            "true" | "True" | "TRUE" => Some(true),
            "false" | "False" | "FALSE" => Some(false),
            _ => None,
        })
    }

    pub(super) fn number(&self, name: &str) -> Value<'a, f64> {
        self.text(name)
            .and_then(|word| word.trim().parse().ok().filter(|number: &f64| number.is_finite()))
    }

    pub(super) fn whole(&self, name: &str) -> Value<'a, u64> {
        self.text(name).and_then(|word| word.trim().parse().ok())
    }

    /// The words of a list; unknown as soon as one of them is.
    pub(super) fn words(&self, name: &str) -> Value<'a, Vec<Text<'a>>> {
        let Some(node) = self.node(name) else {
            return Value::Absent;
        };
        words(self.form, node)
    }

    /// The items of a list, and whether it may hold others.
    pub(super) fn items(&self, name: &str) -> (Vec<&'a Node<'a>>, bool) {
        let Some(node) = self.node(name) else {
            return (Vec::new(), false);
        };
        if let Some(blocks) = terraform::blocks(self.form, node) {
            return (blocks, false);
        }
        if is_expression(self.form, node) || !matches!(node.kind, NodeKind::List(_)) {
            return (Vec::new(), true);
        }
        let present = node.items().iter().filter(|item| !is_no_value(item));
        let (unknown, known): (Vec<_>, Vec<_>) = present.partition(|item| is_expression(self.form, item));
        (known, !unknown.is_empty())
    }

    /// As [`Fields::items`], with those that stand behind `!If`: what may be there is not overlooked.
    pub(super) fn possible_items(&self, name: &str) -> (Vec<&'a Node<'a>>, bool) {
        let Some(node) = self.node(name) else {
            return (Vec::new(), false);
        };
        let Some((_, branches)) = branches(self.form, node) else {
            let (mut known, more) = self.items(name);
            for item in node.items() {
                if let Some((_, branches)) = branches_of_item(self.form, item) {
                    known.extend(branches.into_iter().filter(|item| !is_no_value(item)));
                }
            }
            return (known, more);
        };
        let listed = branches.iter().flat_map(|branch| branch.items());
        let known = listed.filter(|item| !is_no_value(item) && !is_expression(self.form, item));
        (known.collect(), true)
    }

    /// A name, which may be an expression: two equal expressions are one name.
    pub(super) fn name(&self, name: &str) -> Option<Name<'a>> {
        // What the AWS CLI's skeleton leaves empty names nobody.
        self.node(name)
            .filter(|node| node.text() != Some(""))
            .map(|node| self::name(self.form, node))
    }
}

pub(super) fn name<'a>(form: DocumentForm, node: &'a Node<'a>) -> Name<'a> {
    match text(form, node) {
        Value::Known(text, _) => Name {
            text,
            literal: true,
            node,
        },
        // What Terraform's language says is short enough to be its own name.
        _ if form == DocumentForm::Terraform && node.text().is_some() => Name {
            text: Cow::Borrowed(node.text().unwrap_or("")),
            literal: false,
            node,
        },
        _ => Name {
            text: Cow::Owned(expression(node)),
            literal: false,
            node,
        },
    }
}

/// The words that start a process. A part that the file does not tell stays in them as a variable, since
/// it is mostly an argument: `sh -c` is a shell whatever its script's port is.
pub(super) fn process_words<'a>(form: DocumentForm, node: &'a Node<'a>) -> Value<'a, Vec<Text<'a>>> {
    if is_expression(form, node) || !matches!(node.kind, NodeKind::List(_)) {
        return Value::Unknown(node);
    }
    let words = node.items().iter().map(|item| process_word(form, item));
    Value::Known(words.collect(), node)
}

pub(super) fn process_word<'a>(form: DocumentForm, node: &'a Node<'a>) -> Text<'a> {
    let substituted = node.tag.as_deref() == Some("Sub");
    match node.word() {
        Some(word) if form == DocumentForm::Compose => Cow::Owned(word.replace("$$", "$")),
        Some(word) if substituted || !is_expression(form, node) => word,
        _ => match function(node) {
            Some(("Fn::Sub", inner)) if inner.text().is_some() => Cow::Borrowed(inner.text().unwrap_or("")),
            _ => Cow::Borrowed(SOMETHING),
        },
    }
}

/// Stands for a word that the file does not tell.
const SOMETHING: &str = "${?}";

pub(super) fn words<'a>(form: DocumentForm, node: &'a Node<'a>) -> Value<'a, Vec<Text<'a>>> {
    if is_expression(form, node) || !matches!(node.kind, NodeKind::List(_)) {
        return Value::Unknown(node);
    }
    let known = node.items().iter().map(|item| match text(form, item) {
        Value::Known(text, _) => Some(text),
        _ => None,
    });
    match known.collect::<Option<Vec<_>>>() {
        Some(words) => Value::Known(words, node),
        None => Value::Unknown(node),
    }
}

/// A word, where the form lets it be known.
pub(super) fn text<'a>(form: DocumentForm, node: &'a Node<'a>) -> Value<'a, Text<'a>> {
    if let Some(inner) = substitution_of_nothing(form, node) {
        return Value::Known(inner, node);
    }
    if is_expression(form, node) {
        return Value::Unknown(node);
    }
    match node.word() {
        Some(word) if form == DocumentForm::Compose && word.contains('$') => compose_text(word, node),
        Some(word) if form != DocumentForm::CloudFormation && is_placeholder(&word) => Value::Unknown(node),
        Some(word) => Value::Known(word, node),
        None => Value::Unknown(node),
    }
}

/// `$$` is a dollar, everything else behind a dollar is a variable (compose file reference,
/// *Interpolation*).
fn compose_text<'a>(word: Text<'a>, node: &'a Node<'a>) -> Value<'a, Text<'a>> {
    let plain = word.replace("$$", "");
    if plain.contains('$') {
        Value::Unknown(node)
    } else {
        Value::Known(Cow::Owned(word.replace("$$", "$")), node)
    }
}

/// What templating tools fill in before ECS sees the file: `${VAR}`, `{{ var }}`, `<IMAGE>`.
fn is_placeholder(word: &str) -> bool {
    word.contains("${") || word.contains("{{") || (word.starts_with('<') && word.ends_with('>'))
}

/// Whether a node is an intrinsic function of CloudFormation, long or short, or an expression that only
/// Terraform knows.
pub(super) fn is_expression(form: DocumentForm, node: &Node<'_>) -> bool {
    match form {
        DocumentForm::CloudFormation => node.tag.is_some() || function(node).is_some(),
        DocumentForm::Terraform => node.tag.is_some(),
        _ => false,
    }
}

/// The name of the condition of an `!If`, and what stands for it and against it.
pub(super) fn branches<'a>(form: DocumentForm, node: &'a Node<'a>) -> Option<(&'a str, [&'a Node<'a>; 2])> {
    if form != DocumentForm::CloudFormation {
        return None;
    }
    let list = match node.tag.as_deref() {
        Some("If") => node,
        _ => match function(node) {
            Some(("Fn::If", inner)) => inner,
            _ => return None,
        },
    };
    match list.items() {
        [condition, yes, no] => Some((condition.text()?, [yes, no])),
        _ => None,
    }
}

/// As [`branches`], for an item of a list, whose branches are items.
fn branches_of_item<'a>(form: DocumentForm, node: &'a Node<'a>) -> Option<(&'a str, [&'a Node<'a>; 2])> {
    branches(form, node).filter(|(_, branches)| branches.iter().all(|branch| branch.items().is_empty()))
}

/// The one entry of `{"Ref": …}` or `{"Fn::Sub": …}`.
fn function<'a>(node: &'a Node<'a>) -> Option<(&'a str, &'a Node<'a>)> {
    match node.entries() {
        [entry] if entry.key == "Ref" || entry.key.starts_with("Fn::") => Some((&entry.key, &entry.value)),
        _ => None,
    }
}

/// `!Sub` without a variable is the text itself.
fn substitution_of_nothing<'a>(form: DocumentForm, node: &'a Node<'a>) -> Option<Text<'a>> {
    if form != DocumentForm::CloudFormation {
        return None;
    }
    let text = match node.tag.as_deref() {
        Some("Sub") => node.text(),
        _ => match function(node) {
            Some(("Fn::Sub", inner)) => inner.text(),
            _ => None,
        },
    }?;
    (!text.contains("${")).then_some(Cow::Borrowed(text))
}

/// The text of a `!Sub`, variables and all.
pub fn substitution<'a>(node: &'a Node<'a>) -> Option<&'a str> {
    match node.tag.as_deref() {
        Some("Sub") => node.text(),
        Some(_) => None,
        None => match function(node) {
            Some(("Fn::Sub", inner)) => inner.text(),
            _ => None,
        },
    }
}

/// What a `!Ref` or `!GetAtt` refers to.
pub fn reference<'a>(node: &'a Node<'a>) -> Option<&'a str> {
    let (function, inner) = match node.tag.as_deref() {
        Some(tag) => (tag, node),
        None => function(node)?,
    };
    match function {
        "Ref" => inner.text(),
        "GetAtt" | "Fn::GetAtt" => match inner.items() {
            [id, ..] => id.text(),
            [] => inner.text().and_then(|path| path.split('.').next()),
        },
        _ => None,
    }
}

pub(super) fn is_no_value(node: &Node<'_>) -> bool {
    reference(node) == Some("AWS::NoValue")
}

/// An expression as text, the same for the same expression.
fn expression(node: &Node<'_>) -> String {
    let mut text = String::new();
    write_expression(node, &mut text);
    text
}

fn write_expression(node: &Node<'_>, text: &mut String) {
    /// Long enough to tell names apart; bounds what a file can make this keep.
    const LONG: usize = 400;
    if text.len() > LONG {
        return;
    }
    if let Some(tag) = &node.tag {
        text.push('!');
        text.push_str(tag);
        text.push(' ');
    }
    match &node.kind {
        NodeKind::List(items) => {
            for item in items {
                write_expression(item, text);
                text.push(',');
            }
        }
        NodeKind::Map(entries) => {
            for entry in entries {
                text.push_str(&entry.key);
                text.push(' ');
                write_expression(&entry.value, text);
            }
        }
        _ => text.push_str(node.word().as_deref().unwrap_or("null")),
    }
}

/// `stopTimeout` is `StopTimeout` in a template.
fn capitalised(name: &str) -> String {
    let mut letters = name.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
