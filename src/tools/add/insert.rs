//! Writes the sidecar's definition into the text, in the style of what stands there.

use crate::tools::document::{Node, NodeKind, Syntax};
use crate::tools::model::{DocumentForm, TaskDefinition};
use crate::tools::source::Source;

use super::tree::{SidecarDefinition, Tree};

/// Lists and objects that fit are written on one line, as people do.
const LINE: usize = 90;

/// The text with the definition behind the last container. `None` where the list is in a form that
/// cannot be added to.
pub(super) fn insert(
    source: &Source,
    syntax: Syntax,
    task: &TaskDefinition<'_>,
    sidecar: &SidecarDefinition,
) -> Option<String> {
    let text = &source.text;
    let list = task.list;
    let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let writer = LayoutWriter { form: task.form };
    let bracket = match list.kind {
        NodeKind::Map(_) => b'{',
        _ => b'[',
    };
    let flow = text.as_bytes().get(list.span.start) == Some(&bracket);
    let (at, part) = match (syntax, flow) {
        (Syntax::Yaml, false) => block(source, &writer, list, sidecar)?,
        _ => bracketed(source, &writer, list, sidecar)?,
    };
    let mut whole = String::with_capacity(text.len() + part.len());
    whole.push_str(&text[..at]);
    whole.push_str(&part.replace('\n', newline));
    whole.push_str(&text[at..]);
    Some(whole)
}

/// `[…, {…}]`, on lines of their own or on one.
pub(super) fn bracketed(
    source: &Source,
    writer: &LayoutWriter,
    list: &Node<'_>,
    sidecar: &SidecarDefinition,
) -> Option<(usize, String)> {
    let text = &source.text;
    let (first, last_end) = match &list.kind {
        NodeKind::List(items) => (items.first()?.span.start, items.last()?.span.end),
        NodeKind::Map(entries) => (entries.first()?.key_span.start, entries.last()?.value.span.end),
        _ => return None,
    };
    // Behind a comma that stands there already: YAML allows one.
    let between = text.get(last_end..list.span.end)?;
    let blanks = between.len() - between.trim_start().len();
    let (last_end, comma) = if between[blanks..].starts_with(',') {
        (last_end + blanks + 1, "")
    } else {
        (last_end, ",")
    };
    let value = |indent: Option<&str>, unit: &str| {
        let body = writer.json(&sidecar.body, indent, unit, 0);
        match list.kind {
            NodeKind::Map(_) => format!("\"{}\": {body}", sidecar.name),
            _ => body,
        }
    };
    let opening = text.get(list.span.start..first)?;
    if !opening.contains('\n') {
        return Some((last_end, format!("{comma} {}", value(None, ""))));
    }
    let indent = indent_at(text, first);
    let unit = unit(text, list, indent);
    Some((
        last_end,
        format!("{comma}\n{indent}{}", value(Some(indent), &unit)),
    ))
}

/// How much deeper a container's fields stand than the container, where that can be seen.
fn unit(text: &str, list: &Node<'_>, indent: &str) -> String {
    let field = list.items().last().and_then(|item| item.entries().last());
    let deeper = field.map(|entry| indent_at(text, entry.key_span.start));
    match deeper
        .and_then(|deeper| deeper.strip_prefix(indent))
        .filter(|unit| !unit.is_empty())
    {
        Some(unit) => unit.to_owned(),
        None if indent.starts_with('\t') => "\t".to_owned(),
        None => "  ".to_owned(),
    }
}

/// `- …` under `- …`, or `name:` under `name:`.
fn block(
    source: &Source,
    writer: &LayoutWriter,
    list: &Node<'_>,
    sidecar: &SidecarDefinition,
) -> Option<(usize, String)> {
    let text = &source.text;
    let end = text.get(..list.span.end)?.trim_end().len();
    let at = end + text.get(end..)?.find('\n').unwrap_or(text.len() - end);
    let at = if text[..at].ends_with('\r') { at - 1 } else { at };
    let part = match &list.kind {
        NodeKind::List(items) => {
            let key = items.first()?.span.start;
            let column = key - line_start(text, key);
            // On the same line, or alone on one above, as old templates have it.
            let dash = text.get(..key)?.rfind('-')?;
            let between = text.get(dash + 1..key)?;
            let indent = indent_at(text, dash);
            if !between.trim().is_empty()
                || indent.len() != dash - line_start(text, dash)
                || column <= indent.len()
            {
                return None;
            }
            let gap = " ".repeat(column - indent.len() - 1);
            let inner = format!("{indent} {gap}");
            format!("\n{indent}-{gap}{}", writer.yaml_fields(&sidecar.body, &inner))
        }
        NodeKind::Map(entries) => {
            let indent = indent_at(text, entries.first()?.key_span.start);
            let inner = format!("{indent}  ");
            let body = writer.yaml_fields(&sidecar.body, &inner);
            // Services are mostly set apart by an empty line.
            let apart = match entries.as_slice() {
                [_, .., last] => text
                    .get(..last.key_span.start)?
                    .trim_end_matches([' ', '\t'])
                    .ends_with("\n\n"),
                _ => false,
            };
            format!(
                "\n{}{indent}{}:\n{inner}{body}",
                if apart { "\n" } else { "" },
                sidecar.name
            )
        }
        _ => return None,
    };
    Some((at, part))
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

/// The blanks at the start of the line of a byte.
pub(super) fn indent_at(text: &str, at: usize) -> &str {
    let line = &text[line_start(text, at)..at];
    &line[..line.len() - line.trim_start().len()]
}

pub(super) struct LayoutWriter {
    pub(super) form: DocumentForm,
}

impl LayoutWriter {
    fn key(&self, name: &str) -> String {
        match self.form {
            DocumentForm::CloudFormation => {
                let (first, rest) = name.split_at(1);
                format!("{}{rest}", first.to_ascii_uppercase())
            }
            _ => name.to_owned(),
        }
    }

    fn entries<'t>(&self, tree: &'t Tree) -> Option<Vec<(String, &'t Tree)>> {
        match tree {
            Tree::Fields(fields) => Some(
                fields
                    .iter()
                    .map(|(name, value)| (self.key(name), value))
                    .collect(),
            ),
            Tree::Pairs(pairs) => Some(pairs.iter().map(|(name, value)| (name.clone(), value)).collect()),
            _ => None,
        }
    }

    /// JSON. `indent` is that of the line on which the value starts; `None` for all on one line.
    fn json(&self, tree: &Tree, indent: Option<&str>, unit: &str, depth: usize) -> String {
        let inline = self.json_line(tree);
        let Some(indent) = indent else { return inline };
        if depth > 0 && inline.len() + indent.len() <= LINE && !inline.contains('\n') {
            return inline;
        }
        let deeper = format!("{indent}{unit}");
        let inner = |tree: &Tree| self.json(tree, Some(&deeper), unit, depth + 1);
        if let Some(entries) = self.entries(tree) {
            let lines: Vec<String> = entries
                .iter()
                .map(|(key, value)| format!("{deeper}{}: {}", quoted(key), inner(value)))
                .collect();
            return format!("{{\n{}\n{indent}}}", lines.join(",\n"));
        }
        match tree {
            Tree::List(items) => {
                let lines: Vec<String> = items
                    .iter()
                    .map(|item| format!("{deeper}{}", inner(item)))
                    .collect();
                format!("[\n{}\n{indent}]", lines.join(",\n"))
            }
            _ => inline,
        }
    }

    fn json_line(&self, tree: &Tree) -> String {
        if let Some(entries) = self.entries(tree) {
            let parts: Vec<String> = entries
                .iter()
                .map(|(key, value)| format!("{}: {}", quoted(key), self.json_line(value)))
                .collect();
            return format!("{{{}}}", parts.join(", "));
        }
        match tree {
            Tree::List(items) => {
                let parts: Vec<String> = items.iter().map(|item| self.json_line(item)).collect();
                format!("[{}]", parts.join(", "))
            }
            Tree::Text(text) => quoted(text),
            Tree::Number(number) => number.to_string(),
            Tree::Flag(flag) => flag.to_string(),
            Tree::Sub(text) => format!("{{\"Fn::Sub\": {}}}", quoted(text)),
            Tree::Word(word) => word.clone(),
            Tree::Tagged(tag, inner) => format!("!{tag} {}", self.json_line(inner)),
            Tree::Fields(_) | Tree::Pairs(_) => String::new(),
        }
    }

    /// The fields of an object, the first without indent, each other on a line with `indent`.
    fn yaml_fields(&self, tree: &Tree, indent: &str) -> String {
        let lines: Vec<String> = self
            .entries(tree)
            .unwrap_or_default()
            .iter()
            .map(|(key, value)| format!("{key}:{}", self.yaml_value(value, indent)))
            .collect();
        lines.join(&format!("\n{indent}"))
    }

    /// What follows a key and its colon.
    fn yaml_value(&self, tree: &Tree, indent: &str) -> String {
        let deeper = format!("{indent}  ");
        if self.entries(tree).is_some() {
            return format!("\n{deeper}{}", self.yaml_fields(tree, &deeper));
        }
        match tree {
            Tree::List(items) if items.iter().any(|item| self.entries(item).is_some()) => {
                let item = |item: &Tree| match self.entries(item) {
                    Some(_) => format!("\n{deeper}- {}", self.yaml_fields(item, &format!("{deeper}  "))),
                    None => format!("\n{deeper}- {}", self.yaml_word(item)),
                };
                items.iter().map(item).collect()
            }
            Tree::List(items) => {
                let words: Vec<String> = items.iter().map(|item| self.yaml_word(item)).collect();
                format!(" [{}]", words.join(", "))
            }
            Tree::Sub(text) => format!(" !Sub {}", quoted(text)),
            _ => format!(" {}", self.yaml_word(tree)),
        }
    }

    fn yaml_word(&self, tree: &Tree) -> String {
        match tree {
            Tree::Text(text) if is_plain(text) => text.clone(),
            _ => self.json_line(tree),
        }
    }
}

pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Whether YAML takes a text for itself without quotes.
fn is_plain(text: &str) -> bool {
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':' | ' ');
    // `90s`: no number to YAML, and better read without quotes.
    let is_seconds = text
        .strip_suffix('s')
        .is_some_and(|number| number.parse::<u32>().is_ok());
    let ambiguous = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    (is_seconds || text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/'))
        && text.chars().all(letters)
        && !text.contains(": ")
        && !text.ends_with([':', ' '])
        && !text.contains("  ")
        && !ambiguous.contains(&text.to_ascii_lowercase().as_str())
}
