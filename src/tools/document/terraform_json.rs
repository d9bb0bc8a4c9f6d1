//! What Terraform writes in JSON: `terraform show -json` of a plan or a state, and `.tf.json`.
//!
//! Both keep lists of containers as JSON in a text. Such a text is read where it is an attribute of a
//! resource; its values stand where they stand in it.

use super::hcl::{self, Beside, Rendered};
use super::{Node, NodeKind, Span};

/// Modules in modules; nobody nests them deeper.
const MAX_MODULES: usize = 32;

pub(super) fn read<'a>(name: &str, text: &'a str, mut root: Node<'a>, beside: &dyn Beside) -> Node<'a> {
    let attributes = Attributes { text, beside };
    if root.get("format_version").is_some() {
        for part in ["planned_values", "values"] {
            if let Some(module) = root.get_mut(part).and_then(|part| part.get_mut("root_module")) {
                attributes.module(module, 0);
            }
        }
    } else if name.ends_with(".tf.json") {
        for kind in ["resource", "data", "module"] {
            if let Some(NodeKind::Map(types)) = root.get_mut(kind).map(|node| &mut node.kind) {
                for entry in types {
                    attributes.bodies(&mut entry.value, 0);
                }
            }
        }
    }
    root
}

struct Attributes<'a, 'b> {
    text: &'a str,
    beside: &'b dyn Beside,
}

impl<'a> Attributes<'a, '_> {
    fn module(&self, module: &mut Node<'a>, depth: usize) {
        if let Some(NodeKind::List(resources)) = module.get_mut("resources").map(|node| &mut node.kind) {
            for resource in resources {
                if let Some(values) = resource.get_mut("values") {
                    self.attributes(values);
                }
            }
        }
        if depth < MAX_MODULES
            && let Some(NodeKind::List(children)) = module.get_mut("child_modules").map(|node| &mut node.kind)
        {
            for child in children {
                self.module(child, depth + 1);
            }
        }
    }

    /// Names above bodies: `{"app": {…}}` or `{"app": [{…}]}`, and for modules the body itself.
    fn bodies(&self, node: &mut Node<'a>, depth: usize) {
        self.attributes(node);
        if depth < 2 {
            match &mut node.kind {
                NodeKind::Map(entries) => {
                    for entry in entries {
                        self.bodies(&mut entry.value, depth + 1);
                    }
                }
                NodeKind::List(items) => items.iter_mut().for_each(|item| self.bodies(item, depth + 1)),
                _ => {}
            }
        }
    }

    fn attributes(&self, body: &mut Node<'a>) {
        let NodeKind::Map(entries) = &mut body.kind else {
            return;
        };
        for entry in entries {
            let Some(word) = entry.value.text() else { continue };
            if let Some(value) = self.in_text(word, entry.value.span) {
                entry.value = value;
            }
        }
    }

    fn in_text(&self, word: &str, span: Span) -> Option<Node<'a>> {
        match word.strip_prefix("${").and_then(|inner| inner.strip_suffix('}')) {
            Some(expression) if !expression.contains("${") => hcl::expression(expression, span, self.beside),
            _ if word.trim_start().starts_with(['[', '{']) => hcl::json_in(&self.unescaped(span)?),
            _ => None,
        }
    }

    /// What a text in JSON says, with the place of each of its bytes.
    fn unescaped(&self, span: Span) -> Option<Rendered> {
        let start = span.start + 1;
        let raw = self.text.get(start..span.end.checked_sub(1)?)?;
        let mut text = Rendered::new(span);
        let mut done = 0;
        while let Some(backslash) = raw.get(done..)?.find('\\').map(|at| done + at) {
            text.push_along(raw.get(done..backslash)?, start + done);
            let escaped = raw.get(backslash + 1..)?.chars().next()?;
            // A character beyond the first plane takes two of them.
            let length = match escaped {
                'u' if raw.get(backslash + 6..backslash + 8) == Some("\\u") => 12,
                'u' => 6,
                other => 1 + other.len_utf8(),
            };
            let escapes = |length: usize| {
                let piece = raw.get(backslash..backslash + length)?;
                let word: String = serde_json::from_str(&format!("\"{piece}\"")).ok()?;
                Some((length, word))
            };
            let (length, word) = escapes(length).or_else(|| escapes(6))?;
            let place = Span {
                start: start + backslash,
                end: start + backslash + length,
            };
            text.push_at(&word, place);
            done = backslash + length;
        }
        text.push_along(raw.get(done..)?, start + done);
        Some(text)
    }
}
