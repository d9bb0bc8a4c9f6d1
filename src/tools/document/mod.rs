//! A text in JSON, YAML or Terraform's language as a tree whose every value knows where it stands.
//!
//! Knows nothing of ECS. Whatever comes in, building the tree ends soon and in little memory: the
//! text, the depth and the number of values are bounded, and so is what YAML's aliases can repeat.

use std::borrow::Cow;
use std::collections::HashSet;

mod hcl;
mod json;
mod terraform_json;
mod yaml;

pub use hcl::{Alone, Beside, Caller, ELSEWHERE, EXPRESSION};

/// A task definition has at most 64 KiB (developer guide, *Service quotas*), a CloudFormation
/// template 1 MB (user guide, *Understand CloudFormation quotas*), which is the larger.
pub const MAX_BYTES: u64 = 1 << 20;

/// Nobody nests templates so deep by hand or by machine, and the stack holds it with ease.
const MAX_DEPTH: usize = 128;

/// More than a text of [`MAX_BYTES`] that means something; what aliases repeat is counted, too.
const MAX_VALUES: usize = 250_000;

/// A range of bytes in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The byte behind the last one.
    pub end: usize,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Node<'a> {
    pub kind: NodeKind<'a>,
    /// From its first byte to behind its last one.
    pub span: Span,
    /// YAML's `!Ref` and the like, without the exclamation mark.
    pub tag: Option<Box<str>>,
}

#[derive(Clone, Debug)]
pub enum NodeKind<'a> {
    Null,
    Bool(bool),
    Number(Cow<'a, str>),
    String(Cow<'a, str>),
    List(Vec<Node<'a>>),
    Map(Vec<Member<'a>>),
}

/// A key and its value.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// The key's text.
    pub key: Cow<'a, str>,
    pub key_span: Span,
    pub value: Node<'a>,
}

/// Why a text is not a document, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// What is wrong and what was expected.
    pub message: String,
    pub at: usize,
}

impl Unreadable {
    fn new(at: usize, message: impl Into<String>) -> Unreadable {
        Unreadable {
            message: message.into(),
            at,
        }
    }
}

/// The language of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    Json,
    Yaml,
    Hcl,
}

impl Syntax {
    /// By the name of the file, else by how its text starts: all JSON that people write is YAML, but its
    /// errors are better told in its own terms.
    fn of(name: &str, text: &str) -> Syntax {
        let starts_as_json = text.trim_start().starts_with(['{', '[']);
        match name.rsplit('.').next() {
            Some("json") => Syntax::Json,
            Some("yaml" | "yml") => Syntax::Yaml,
            Some("tf" | "tofu") => Syntax::Hcl,
            _ if starts_as_json => Syntax::Json,
            _ if starts_a_block(text) => Syntax::Hcl,
            _ => Syntax::Yaml,
        }
    }
}

/// Whether a line starts a block of Terraform: `resource "…`.
fn starts_a_block(text: &str) -> bool {
    const BLOCKS: [&str; 5] = ["resource \"", "module \"", "variable \"", "data \"", "locals {"];
    text.lines()
        .any(|line| BLOCKS.iter().any(|block| line.starts_with(block)))
}

/// Reads the text of the file `name`, and nothing beside it.
///
/// # Errors
/// Where it is in none of the languages of this module, or goes beyond its bounds.
pub fn parse<'a>(name: &str, text: &'a str) -> Result<(Node<'a>, Syntax), Unreadable> {
    parse_among(name, text, &Alone)
}

/// Reads the text of the file `name`. A file of Terraform takes from those beside it what it refers to.
///
/// # Errors
/// Where it is in none of the languages of this module, or goes beyond its bounds.
pub fn parse_among<'a>(
    name: &str,
    text: &'a str,
    beside: &dyn Beside,
) -> Result<(Node<'a>, Syntax), Unreadable> {
    if text.trim().is_empty() {
        return Err(Unreadable::new(
            0,
            "the file is empty: expected a task definition in JSON, YAML or Terraform's language",
        ));
    }
    if name.ends_with(".jsonnet") || name.ends_with(".libsonnet") {
        return Err(Unreadable::new(
            0,
            "this is Jsonnet, which is not read: check what `jsonnet FILE` or `ecspresso render taskdef` prints",
        ));
    }
    let syntax = Syntax::of(name, text);
    let root = match syntax {
        Syntax::Json => json::parse(text).map(|root| terraform_json::read(name, text, root, beside)),
        Syntax::Yaml => yaml::parse(text),
        Syntax::Hcl => hcl::parse(text, beside),
    };
    match root {
        Ok(root) => Ok((root, syntax)),
        Err(why) => Err(Unreadable {
            message: format!("{}{}", why.message, template_hint(text, why.at)),
            ..why
        }),
    }
}

/// What to run first, where the line that cannot be read is a template's.
fn template_hint(text: &str, at: usize) -> &'static str {
    let start = text
        .get(..at)
        .and_then(|before| before.rfind('\n'))
        .map_or(0, |newline| newline + 1);
    let line = text
        .get(start..)
        .and_then(|rest| rest.lines().next())
        .unwrap_or("");
    if line.contains("{{") || line.contains("{%") {
        ": a template, which is not read: check what it is filled in to (`ecspresso render taskdef`, `helm template`, \
         `ansible`)"
    } else if line.contains("${") {
        ": a placeholder outside of quotes: check what the template is filled in to, or the `.tf` file that calls \
         `templatefile`"
    } else if line.contains("<%") {
        ": a template, which is not read: check what it is filled in to"
    } else {
        ""
    }
}

impl<'a> Node<'a> {
    fn new(kind: NodeKind<'a>, span: Span) -> Node<'a> {
        Node {
            kind,
            span,
            tag: None,
        }
    }

    /// The entries of a map; none of anything else.
    pub fn entries(&self) -> &[Member<'a>] {
        match &self.kind {
            NodeKind::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; none of anything else.
    pub fn items(&self) -> &[Node<'a>] {
        match &self.kind {
            NodeKind::List(items) => items,
            _ => &[],
        }
    }

    /// A map's value under `key`.
    pub fn get(&self, key: &str) -> Option<&Node<'a>> {
        self.entries()
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.value)
    }

    fn get_mut(&mut self, key: &str) -> Option<&mut Node<'a>> {
        match &mut self.kind {
            NodeKind::Map(entries) => entries
                .iter_mut()
                .find(|entry| entry.key == key)
                .map(|entry| &mut entry.value),
            _ => None,
        }
    }

    /// Its bytes without the quotes of a string.
    pub fn inner(&self) -> Span {
        let word = self.word().map_or(0, |word| word.len());
        let length = self.span.end - self.span.start;
        let quotes = usize::from(matches!(self.kind, NodeKind::String(_)) && length == word + 2);
        Span {
            start: self.span.start + quotes,
            end: self.span.end - quotes,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            NodeKind::String(text) => Some(text),
            _ => None,
        }
    }

    /// The text of anything that is one word: a string, a number, `true`.
    pub fn word(&self) -> Option<Cow<'_, str>> {
        match &self.kind {
            NodeKind::String(text) | NodeKind::Number(text) => Some(Cow::Borrowed(text)),
            NodeKind::Bool(value) => Some(Cow::Borrowed(if *value { "true" } else { "false" })),
            _ => None,
        }
    }

    /// How many values `new` has at the end of some list or object that this one has not. `None` where
    /// anything else differs.
    pub fn additions(&self, new: &Node<'_>) -> Option<usize> {
        let more = |old: usize, new: usize| new.checked_sub(old).filter(|more| *more <= 1);
        let counts: Vec<Option<usize>> = match (&self.kind, &new.kind) {
            _ if self.tag != new.tag => return None,
            (NodeKind::Null, NodeKind::Null) => Vec::new(),
            (NodeKind::Bool(a), NodeKind::Bool(b)) if a == b => Vec::new(),
            (NodeKind::Number(a), NodeKind::Number(b)) | (NodeKind::String(a), NodeKind::String(b))
                if a == b =>
            {
                Vec::new()
            }
            (NodeKind::List(a), NodeKind::List(b)) => {
                let inner = a.iter().zip(b).map(|(a, b)| a.additions(b));
                inner.chain([more(a.len(), b.len())]).collect()
            }
            (NodeKind::Map(a), NodeKind::Map(b)) => {
                let inner = a
                    .iter()
                    .zip(b)
                    .map(|(a, b)| (a.key == b.key).then(|| a.value.additions(&b.value))?);
                inner.chain([more(a.len(), b.len())]).collect()
            }
            _ => return None,
        };
        counts.into_iter().sum()
    }

    /// The same in other places, and with other values for some of its texts.
    fn rebuilt(
        &self,
        place: &dyn Fn(Span) -> Span,
        instead: &dyn Fn(&str) -> Option<Node<'static>>,
    ) -> Node<'static> {
        let of = |node: &Node<'_>| node.rebuilt(place, instead);
        let kind = match &self.kind {
            NodeKind::Null => NodeKind::Null,
            NodeKind::Bool(flag) => NodeKind::Bool(*flag),
            NodeKind::Number(number) => NodeKind::Number(Cow::Owned(number.to_string())),
            NodeKind::String(word) => match instead(word) {
                Some(value) => return value,
                None => NodeKind::String(Cow::Owned(word.to_string())),
            },
            NodeKind::List(items) => NodeKind::List(items.iter().map(of).collect()),
            NodeKind::Map(entries) => NodeKind::Map(
                entries
                    .iter()
                    .map(|entry| Member {
                        key: Cow::Owned(entry.key.to_string()),
                        key_span: place(entry.key_span),
                        value: of(&entry.value),
                    })
                    .collect(),
            ),
        };
        Node {
            kind,
            span: place(self.span),
            tag: self.tag.clone(),
        }
    }

    pub fn describe(&self) -> &'static str {
        match self.kind {
            NodeKind::Null => "null",
            NodeKind::Bool(_) => "a boolean",
            NodeKind::Number(_) => "a number",
            NodeKind::String(_) => "text",
            NodeKind::List(_) => "a list",
            NodeKind::Map(_) => "an object",
        }
    }

    /// The JSON path from this node to `target`, which is found by identity.
    pub fn path_to(&self, target: &Node<'_>) -> Option<String> {
        if std::ptr::eq(
            std::ptr::from_ref(self).cast::<()>(),
            std::ptr::from_ref(target).cast(),
        ) {
            return Some(String::new());
        }
        for (index, item) in self.items().iter().enumerate() {
            if let Some(rest) = item.path_to(target) {
                return Some(format!("[{index}]{rest}"));
            }
        }
        for entry in self.entries() {
            if let Some(rest) = entry.value.path_to(target) {
                return Some(format!("{}{rest}", member(&entry.key)));
            }
        }
        None
    }
}

/// `.name`, or `['na me']` as RFC 9535 writes it.
fn member(key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !key.is_empty() && !key.starts_with(|c: char| c.is_ascii_digit()) && key.chars().all(plain) {
        format!(".{key}")
    } else {
        format!("['{}']", key.replace('\\', "\\\\").replace('\'', "\\'"))
    }
}

/// A key that stands twice: readers differ in which of the two they take.
fn refuse_twice(entries: &[Member<'_>], what: &str) -> Result<(), Unreadable> {
    let mut seen = HashSet::with_capacity(entries.len());
    for entry in entries {
        if !seen.insert(entry.key.as_ref()) {
            return Err(Unreadable::new(
                entry.key_span.start,
                format!(
                    "the key `{}` stands twice in one {what}: expected each key once",
                    shortened(&entry.key)
                ),
            ));
        }
    }
    Ok(())
}

/// What comes from a file is quoted in part only.
pub fn shortened(text: &str) -> Cow<'_, str> {
    const LONG: usize = 60;
    match text.char_indices().nth(LONG) {
        None => Cow::Borrowed(text),
        Some((at, _)) => Cow::Owned(format!("{}…", &text[..at])),
    }
}

fn too_deep(at: usize) -> Unreadable {
    Unreadable::new(at, format!("nested more than {MAX_DEPTH} levels deep"))
}
