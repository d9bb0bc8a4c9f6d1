//! A text that was put together from a template, and where each part of it stands; JSON in such a text.

use std::borrow::Cow;

use crate::tools::document::{Node, NodeKind, Span, json};

use super::EXPRESSION;

/// Stands in JSON for a value that is put in its place after parsing: a character that nobody writes.
const HOLE: char = '\u{e000}';

/// The text of a template.
#[derive(Clone, Debug)]
pub(in crate::tools::document) struct Rendered {
    /// With `${…}` for each part that is not known.
    pub(super) text: String,
    /// From where on in `text` what stands where in the source, in order.
    places: Vec<(usize, Place)>,
    /// The parts that are no plain word, by where they start in `text`.
    holes: Vec<Hole>,
    pub(super) span: Span,
}

/// Where a part of a text stands.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Byte by byte from here on.
    Along(usize),
    At(Span),
}

#[derive(Clone, Debug)]
struct Hole {
    at: usize,
    end: usize,
    value: Node<'static>,
}

impl Rendered {
    pub(in crate::tools::document) fn new(span: Span) -> Rendered {
        Rendered {
            text: String::new(),
            places: Vec::new(),
            holes: Vec::new(),
            span,
        }
    }

    /// A piece of the source as it is.
    pub(in crate::tools::document) fn push_along(&mut self, text: &str, start: usize) {
        self.places.push((self.text.len(), Place::Along(start)));
        self.text.push_str(text);
    }

    /// A piece that stands somewhere as a whole: what an escape or a known variable stands for.
    pub(in crate::tools::document) fn push_at(&mut self, text: &str, span: Span) {
        self.places.push((self.text.len(), Place::At(span)));
        self.text.push_str(text);
    }

    /// What is no plain word: not known, or the JSON of a value.
    pub(super) fn push_hole(&mut self, value: Node<'static>) {
        let at = self.text.len();
        self.places.push((at, Place::At(value.span)));
        let raw = match (value.tag.as_deref(), &value.kind) {
            (Some(EXPRESSION), NodeKind::String(raw)) => raw.as_ref(),
            _ => "?",
        };
        // Quotes in it would end the text of JSON in which it may come to stand.
        let raw = raw.replace('"', "'").replace(['\\', '\n', '\r'], " ");
        self.text.push_str(&format!("${{{raw}}}"));
        self.holes.push(Hole {
            at,
            end: self.text.len(),
            value,
        });
    }

    pub(super) fn append(&mut self, other: Rendered) {
        let by = self.text.len();
        self.places
            .extend(other.places.into_iter().map(|(at, place)| (at + by, place)));
        self.holes.extend(other.holes.into_iter().map(|hole| Hole {
            at: hole.at + by,
            end: hole.end + by,
            ..hole
        }));
        self.text.push_str(&other.text);
    }

    /// All of it stands in one place.
    pub(super) fn placed(mut self, span: Span) -> Rendered {
        self.places = vec![(0, Place::At(span))];
        for hole in &mut self.holes {
            place_all(&mut hole.value, span);
        }
        self.span = span;
        self
    }

    pub(super) fn into_node(self) -> Node<'static> {
        Node::new(NodeKind::String(Cow::Owned(self.text)), self.span)
    }

    fn source(&self, at: usize, is_end: bool) -> usize {
        let probe = if is_end { at.saturating_sub(1) } else { at };
        let index = self.places.partition_point(|(start, _)| *start <= probe);
        match index.checked_sub(1).and_then(|index| self.places.get(index)) {
            Some((start, Place::Along(source))) => source + (at - start),
            Some((_, Place::At(span))) if is_end => span.end,
            Some((_, Place::At(span))) => span.start,
            None => self.span.start,
        }
    }
}

/// The value of a text that is a list or an object in JSON; `None` for any other text.
pub(in crate::tools::document) fn json_in(rendered: &Rendered) -> Option<Node<'static>> {
    if !rendered.text.trim_start().starts_with(['[', '{']) {
        return None;
    }
    let (text, holes) = with_holes(rendered)?;
    let root = json::parse(&text.text).ok()?;
    Some(own(&root, &text, &holes))
}

/// The same text with something that JSON takes in place of each hole.
fn with_holes(rendered: &Rendered) -> Option<(Rendered, Vec<Node<'static>>)> {
    if rendered.holes.is_empty() {
        return Some((rendered.clone(), Vec::new()));
    }
    let mut text = Rendered::new(rendered.span);
    let mut values = Vec::new();
    let mut quoted = false;
    let mut done = 0;
    let copy = |text: &mut Rendered, from: usize, to: usize| {
        // Each place that the piece goes through keeps its own.
        let mut at = from;
        while at < to {
            let next = rendered.places.partition_point(|(start, _)| *start <= at);
            let end = rendered
                .places
                .get(next)
                .map_or(to, |(start, _)| (*start).min(to));
            let piece = rendered.text.get(at..end)?;
            match next.checked_sub(1).and_then(|index| rendered.places.get(index)) {
                Some((start, Place::Along(source))) => text.push_along(piece, source + (at - start)),
                Some((_, Place::At(span))) => text.push_at(piece, *span),
                None => text.push_at(piece, rendered.span),
            }
            at = end;
        }
        Some(())
    };
    for hole in &rendered.holes {
        let before = rendered.text.get(done..hole.at)?;
        quoted ^= quotes(before);
        copy(&mut text, done, hole.at)?;
        done = hole.end;
        let raw = rendered.text.get(hole.at..hole.end)?;
        if quoted {
            let escaped = serde_json::Value::from(raw).to_string();
            text.push_at(escaped.trim_matches('"'), hole.value.span);
        } else {
            // Behind a whole value stands what brings its own comma, or is nothing: `${more ? ", ${b}" : ""}`.
            let behind = text.text.trim_end().ends_with(['"', ']', '}']);
            let comma = if behind { ", " } else { "" };
            text.push_at(
                &format!("{comma}\"{HOLE}{}{HOLE}\"", values.len()),
                hole.value.span,
            );
            values.push(hole.value.clone());
        }
    }
    copy(&mut text, done, rendered.text.len())?;
    Some((text, values))
}

/// Whether a piece of JSON leaves or enters a text: an odd number of quotes that no backslash escapes.
fn quotes(piece: &str) -> bool {
    let mut odd = false;
    let mut bytes = piece.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'"' => odd = !odd,
            _ => {}
        }
    }
    odd
}

/// A tree of its own, in the places of the source.
fn own(node: &Node<'_>, text: &Rendered, holes: &[Node<'static>]) -> Node<'static> {
    let place = |span: Span| {
        let start = text.source(span.start, false);
        Span {
            start,
            end: text.source(span.end, true).max(start),
        }
    };
    node.rebuilt(&place, &|word| hole(word, holes))
}

fn hole(word: &str, holes: &[Node<'static>]) -> Option<Node<'static>> {
    let index = word.strip_prefix(HOLE)?.strip_suffix(HOLE)?;
    let mut value = holes.get(index.parse::<usize>().ok()?)?.clone();
    if value.tag.as_deref() == Some(super::evaluate::JSON) {
        value.tag = None;
    }
    Some(value)
}

/// Moves a value to one place.
pub(super) fn place_all(node: &mut Node<'static>, span: Span) {
    node.span = span;
    match &mut node.kind {
        NodeKind::List(items) => items.iter_mut().for_each(|item| place_all(item, span)),
        NodeKind::Map(entries) => {
            for entry in entries {
                entry.key_span = span;
                place_all(&mut entry.value, span);
            }
        }
        _ => {}
    }
}
