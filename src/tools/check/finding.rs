//! What a rule found, first where the tree has it, then where people look for it.

use crate::tools::document::{Node, Span};
use crate::tools::source::{Position, Source};

use super::{Persona, Rule, Severity};

/// Something that a rule found.
#[derive(Debug)]
pub struct Finding<'a> {
    pub rule: &'static Rule,
    /// The rule's, unless this one matters less or more.
    pub severity: Severity,
    /// The rule's, unless there is a reason to tell everybody or only some.
    pub persona: Persona,
    /// What is wrong here, with names and values.
    pub message: String,
    pub span: Span,
    node: &'a Node<'a>,
    label: &'static str,
    also: Vec<(Span, String)>,
    fix: Option<Mend>,
}

/// A finding with its place in the file; knows nothing of the tree any more.
#[derive(Debug)]
pub struct Located {
    pub rule: &'static Rule,
    /// How much it matters.
    pub severity: Severity,
    pub persona: Persona,
    /// What is wrong here.
    pub message: String,
    /// What to point at, within one line.
    pub span: Span,
    pub start: Position,
    /// The character behind its end.
    pub end: Position,
    /// The JSON path of the value.
    pub path: String,
    /// What stands beside the caret.
    pub label: &'static str,
    /// Other places that belong to it.
    pub also: Vec<(Span, String)>,
    /// The same for the same finding, wherever its line moves.
    pub fingerprint: String,
    /// What would mend it, if that is safe.
    pub fix: Option<Edit>,
}

/// A piece of the text, and what is to stand there instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// What is replaced; empty where something is put in.
    pub span: Span,
    pub text: String,
}

/// An edit, and what has to stand around it as it is written.
#[derive(Debug)]
struct Mend {
    edit: Edit,
    written: (Span, String),
}

/// The findings of one rule in one task definition.
#[derive(Debug)]
pub struct Findings<'a> {
    rule: &'static Rule,
    list: Vec<Finding<'a>>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(rule: &'static Rule) -> Findings<'a> {
        Findings {
            rule,
            list: Vec::new(),
        }
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = Finding<'a>> {
        self.list.into_iter()
    }

    pub fn at(&mut self, node: &'a Node<'a>, message: impl Into<String>) -> &mut Finding<'a> {
        self.at_span(node.span, node, message)
    }

    /// A finding at a part of the text that belongs to a value, such as its key.
    pub fn at_span(
        &mut self,
        span: Span,
        node: &'a Node<'a>,
        message: impl Into<String>,
    ) -> &mut Finding<'a> {
        let index = self.list.len();
        self.list.push(Finding {
            rule: self.rule,
            severity: self.rule.severity,
            persona: self.rule.persona,
            message: message.into(),
            span,
            node,
            label: "",
            also: Vec::new(),
            fix: None,
        });
        &mut self.list[index]
    }
}

impl<'a> Finding<'a> {
    /// Matters less or more than its rule says.
    pub fn severity(&mut self, severity: Severity) -> &mut Finding<'a> {
        self.severity = severity;
        self
    }

    /// For others than the rule says.
    pub fn persona(&mut self, persona: Persona) -> &mut Finding<'a> {
        self.persona = persona;
        self
    }

    /// What stands beside the caret.
    pub fn label(&mut self, label: &'static str) -> &mut Finding<'a> {
        self.label = label;
        self
    }

    /// Another place that belongs to it.
    pub fn also(&mut self, node: &Node<'_>, label: impl Into<String>) -> &mut Finding<'a> {
        self.also.push((node.span, label.into()));
        self
    }

    /// What mends it without any doubt: `text` in place of a word.
    pub fn fix(&mut self, node: &Node<'_>, text: impl Into<String>) -> &mut Finding<'a> {
        self.fix_within(node, node.inner(), text)
    }

    /// As [`Finding::fix`], in place of a part of the word. Nothing is mended where the file has something
    /// else at the place of the word than the word: a variable that stands for it, or what is said
    /// elsewhere.
    pub fn fix_within(&mut self, node: &Node<'_>, span: Span, text: impl Into<String>) -> &mut Finding<'a> {
        self.fix = node.word().map(|word| Mend {
            edit: Edit {
                span,
                text: text.into(),
            },
            written: (node.inner(), word.into_owned()),
        });
        self
    }

    pub(super) fn locate(self, source: &Source, root: &Node<'a>) -> Located {
        let span = first_line(self.span, &source.text);
        Located {
            rule: self.rule,
            severity: self.severity,
            persona: self.persona,
            fingerprint: fingerprint(&[self.rule.id, source.name.trim_start_matches("./"), &self.message]),
            fix: self.fix.and_then(|mend| {
                let (span, word) = mend.written;
                (source.text.get(span.start..span.end) == Some(word.as_str())).then_some(mend.edit)
            }),
            message: self.message,
            span,
            start: source.position(span.start),
            end: source.position(span.end),
            path: format!("${}", root.path_to(self.node).unwrap_or_default()),
            label: self.label,
            also: self
                .also
                .into_iter()
                .map(|(span, label)| (first_line(span, &source.text), label))
                .collect(),
        }
    }
}

/// FNV-1a with 64 bits (draft-eastlake-fnv): short, and the same in every version.
fn fingerprint(parts: &[&str]) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.join("\0").bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:016x}")
}

/// A caret under a whole object says less than one under its beginning.
fn first_line(span: Span, text: &str) -> Span {
    let whole = text.get(span.start..span.end).unwrap_or("");
    let line = whole.lines().next().unwrap_or("").trim_end();
    Span {
        start: span.start,
        end: span.start + line.len(),
    }
}
