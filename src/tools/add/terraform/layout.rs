//! How a definition is laid out in Terraform's language: as the containers beside it.

use hcl_edit::Span as _;
use hcl_edit::expr::{Object, ObjectKey, ObjectValueAssignment, ObjectValueTerminator};

use crate::tools::add::insert::quoted;
use crate::tools::add::tree::Tree;

/// Lists and objects that fit are written on one line, as `terraform fmt` leaves them.
const LINE: usize = 100;

/// How the fields of a container are written.
pub(super) struct Style {
    pub(super) quoted: bool,
    pub(super) colon: bool,
    pub(super) commas: bool,
    aligned: bool,
}

impl Default for Style {
    fn default() -> Style {
        Style {
            quoted: false,
            colon: false,
            commas: false,
            aligned: true,
        }
    }
}

impl Style {
    pub(super) fn of(text: &str, object: &Object) -> Style {
        let entries: Vec<_> = object.iter().collect();
        let most = |wanted: &dyn Fn(&(&ObjectKey, &hcl_edit::expr::ObjectValue)) -> bool| {
            entries.iter().filter(|entry| wanted(entry)).count() * 2 > entries.len()
        };
        let gap = |(key, value): &(&ObjectKey, &hcl_edit::expr::ObjectValue)| {
            let start = key_span(key)?.end;
            let range = value.expr().span()?;
            let between = text.get(start..range.start)?;
            // What takes several lines is not aligned with anything.
            (!text.get(range)?.contains('\n')).then_some(())?;
            Some((key_span(key)?.len(), between.find(['=', ':'])?))
        };
        // Two keys of different length with one blank behind both.
        let ragged = entries
            .windows(2)
            .any(|pair| match (gap(&pair[0]), gap(&pair[1])) {
                (Some((one, 1)), Some((two, 1))) => one != two,
                _ => false,
            });
        Style {
            quoted: most(&|(key, _)| key.is_expr()),
            colon: most(&|(_, value)| value.assignment() == ObjectValueAssignment::Colon),
            commas: most(&|(_, value)| value.terminator() == ObjectValueTerminator::Comma),
            aligned: !ragged,
        }
    }
}

pub(super) fn key_span(key: &ObjectKey) -> Option<std::ops::Range<usize>> {
    match key {
        ObjectKey::Ident(name) => name.span(),
        ObjectKey::Expression(expression) => expression.span(),
    }
}

impl Style {
    fn key(&self, key: &str) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let is_name = key.starts_with(|c: char| c.is_ascii_alphabetic()) && key.chars().all(plain);
        if self.quoted || !is_name {
            text_of(key)
        } else {
            key.to_owned()
        }
    }

    /// An object on lines of its own; `indent` is that of the line on which it starts.
    pub(super) fn object(&self, tree: &Tree, indent: &str, unit: &str) -> String {
        let deeper = format!("{indent}{unit}");
        let lines: Vec<(String, String)> = entries(tree)
            .into_iter()
            .map(|(key, value)| (self.key(&key), self.value(value, &deeper, unit)))
            .collect();
        let mut text = "{\n".to_owned();
        for (index, (key, value)) in lines.iter().enumerate() {
            let pad = if self.aligned && !self.colon {
                alignment(&lines, index).saturating_sub(key.len())
            } else {
                0
            };
            let between = match self.colon {
                true => ": ".to_owned(),
                false => format!("{} = ", " ".repeat(pad)),
            };
            let comma = if self.commas && index + 1 < lines.len() {
                ","
            } else {
                ""
            };
            text.push_str(&format!("{deeper}{key}{between}{value}{comma}\n"));
        }
        text.push_str(indent);
        text.push('}');
        text
    }

    fn value(&self, tree: &Tree, indent: &str, unit: &str) -> String {
        if !entries(tree).is_empty() {
            return self.object(tree, indent, unit);
        }
        let line = self.line(tree);
        match tree {
            Tree::List(items)
                if line.len() + indent.len() > LINE || items.iter().any(|item| !entries(item).is_empty()) =>
            {
                let deeper = format!("{indent}{unit}");
                let lines: Vec<String> = items
                    .iter()
                    .map(|item| format!("{deeper}{}", self.line(item)))
                    .collect();
                format!("[\n{}\n{indent}]", lines.join(",\n"))
            }
            _ => line,
        }
    }

    /// All on one line.
    pub(super) fn line(&self, tree: &Tree) -> String {
        let fields = entries(tree);
        if !fields.is_empty() {
            let between = if self.colon { ": " } else { " = " };
            let parts: Vec<String> = fields
                .into_iter()
                .map(|(key, value)| format!("{}{between}{}", self.key(&key), self.line(value)))
                .collect();
            return format!("{{ {} }}", parts.join(", "));
        }
        match tree {
            Tree::List(items) => {
                let parts: Vec<String> = items.iter().map(|item| self.line(item)).collect();
                format!("[{}]", parts.join(", "))
            }
            Tree::Text(text) | Tree::Sub(text) => text_of(text),
            Tree::Number(number) => number.to_string(),
            Tree::Flag(flag) => flag.to_string(),
            Tree::Word(word) => word.clone(),
            Tree::Tagged(_, inner) => match inner.as_ref() {
                Tree::Text(expression) => expression.clone(),
                other => self.line(other),
            },
            Tree::Fields(_) | Tree::Pairs(_) => "{}".to_owned(),
        }
    }
}

/// `terraform fmt` aligns what follows on lines of their own, up to one that takes several lines.
fn alignment(lines: &[(String, String)], index: usize) -> usize {
    let alone = |line: &(String, String)| line.1.contains('\n');
    if lines.get(index).is_none_or(alone) {
        return 0;
    }
    let before = lines[..index].iter().rev().take_while(|line| !alone(line));
    let after = lines[index..].iter().take_while(|line| !alone(line));
    before.chain(after).map(|(key, _)| key.len()).max().unwrap_or(0)
}

fn entries(tree: &Tree) -> Vec<(String, &Tree)> {
    match tree {
        Tree::Fields(fields) => fields
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value))
            .collect(),
        Tree::Pairs(pairs) => pairs.iter().map(|(key, value)| (key.clone(), value)).collect(),
        _ => Vec::new(),
    }
}

/// A text in quotes that says nothing but itself.
fn text_of(text: &str) -> String {
    quoted(text).replace("${", "$${").replace("%{", "%%{")
}
