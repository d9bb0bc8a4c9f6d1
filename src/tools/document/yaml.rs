//! YAML with anchors, aliases, merge keys and the tags of CloudFormation.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::{MAX_DEPTH, MAX_VALUES, Member, Node, NodeKind, Span, Unreadable, refuse_twice, too_deep};

/// Lines that stand too far left in a flow collection are tried as often as this.
const MAX_TRIES: usize = 16;

/// The parser wants what stands in brackets further right than the key before it, as YAML 1.2 has it
/// (section 7.4, *Flow Collection Styles*). Nobody else does: not PyYAML, nor cfn-lint, nor compose.
/// Where that is all that is wrong, such lines are read as if they stood there.
pub(super) fn parse(text: &str) -> Result<Node<'_>, Unreadable> {
    let refused = match strict(text) {
        Ok(root) => return Ok(root),
        Err(refused) => refused,
    };
    let mut padded = Padded::default();
    padded.pad(text, refused.at);
    for _ in 0..MAX_TRIES {
        let moved = padded.text(text);
        match strict(&moved) {
            Ok(root) => {
                // Elsewhere than in brackets an indentation means something.
                if padded.keep_within_brackets(&root, &moved) {
                    continue;
                }
                let place = |span: Span| Span {
                    start: padded.source(span.start),
                    end: padded.source(span.end),
                };
                return Ok(root.rebuilt(&place, &|_| None));
            }
            Err(why) => {
                if !padded.pad(text, padded.source(why.at)) {
                    break;
                }
            }
        }
    }
    Err(refused)
}

/// Blanks that are put before some lines.
#[derive(Default)]
struct Padded {
    /// Where a line starts, and how many.
    lines: BTreeMap<usize, usize>,
    /// Lines that stay where they are.
    left: HashSet<usize>,
}

impl Padded {
    /// Moves the line that starts at `at` but for its blanks, and at first all that start with a closing
    /// bracket. Whether there is anything to move.
    fn pad(&mut self, text: &str, at: usize) -> bool {
        let closing_too = self.lines.is_empty() && self.left.is_empty();
        let before = self.lines.len();
        let mut line_start = 0;
        // How far the line before is indented, the dashes of its items included.
        let mut indent = 0;
        for line in text.split_inclusive('\n') {
            let blanks = line.len() - line.trim_start_matches(' ').len();
            let content = line.trim_start_matches([' ', '-']);
            let moves = line_start + blanks == at || (closing_too && content.starts_with([']', '}']));
            let known = self.lines.get(&line_start).copied();
            if moves && known.is_none() && !self.left.contains(&line_start) && blanks <= indent {
                self.lines.insert(line_start, indent + 2 - blanks);
            }
            if !content.trim().is_empty() {
                indent = line.len() - content.len() + self.lines.get(&line_start).copied().unwrap_or(0);
            }
            line_start += line.len();
        }
        self.lines.len() > before
    }

    /// Forgets the lines that are in no flow collection of the moved text; whether there were any.
    fn keep_within_brackets(&mut self, root: &Node<'_>, moved: &str) -> bool {
        let mut flows = Vec::new();
        flow_collections(root, moved, &mut flows);
        let mut before = 0;
        let starts: Vec<(usize, usize)> = self
            .lines
            .iter()
            .map(|(start, blanks)| {
                before += blanks;
                (*start, start + before)
            })
            .collect();
        for (start, content) in &starts {
            let within = |flow: &Span| flow.start < *content && *content < flow.end;
            if !flows.iter().any(within) {
                self.lines.remove(start);
                self.left.insert(*start);
            }
        }
        self.lines.len() < starts.len()
    }

    fn text(&self, text: &str) -> String {
        let mut moved = String::with_capacity(text.len() + self.lines.values().sum::<usize>());
        let mut done = 0;
        for (start, blanks) in &self.lines {
            moved.push_str(text.get(done..*start).unwrap_or(""));
            moved.extend(std::iter::repeat_n(' ', *blanks));
            done = *start;
        }
        moved.push_str(text.get(done..).unwrap_or(""));
        moved
    }

    /// Where a byte of the moved text stands.
    fn source(&self, at: usize) -> usize {
        let mut before = 0;
        for (start, blanks) in &self.lines {
            if start + before >= at {
                break;
            }
            before += (*blanks).min(at - start - before);
        }
        at - before
    }
}

fn flow_collections(node: &Node<'_>, text: &str, all: &mut Vec<Span>) {
    if text
        .get(node.span.start..)
        .is_some_and(|rest| rest.starts_with(['[', '{']))
    {
        all.push(node.span);
    }
    node.items()
        .iter()
        .for_each(|item| flow_collections(item, text, all));
    node.entries()
        .iter()
        .for_each(|entry| flow_collections(&entry.value, text, all));
}

fn strict(text: &str) -> Result<Node<'_>, Unreadable> {
    let mut reader = Reader {
        text,
        offsets: Offsets::of(text),
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        values: 0,
    };
    let root = reader.document()?;
    Ok(root.unwrap_or_else(|| Node::new(NodeKind::Null, Span { start: 0, end: 0 })))
}

/// The parser counts characters, everybody else bytes.
enum Offsets {
    Same,
    Of(Vec<usize>),
}

impl Offsets {
    fn of(text: &str) -> Offsets {
        if text.is_ascii() {
            return Offsets::Same;
        }
        Offsets::Of(
            text.char_indices()
                .map(|(at, _)| at)
                .chain([text.len()])
                .collect(),
        )
    }

    fn at(&self, marker: Marker, text: &str) -> usize {
        match self {
            Offsets::Same => marker.index().min(text.len()),
            Offsets::Of(offsets) => offsets.get(marker.index()).copied().unwrap_or(text.len()),
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    offsets: Offsets,
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    /// What an alias stands for, and how many values that is.
    anchors: HashMap<usize, (Node<'a>, usize)>,
    values: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Unreadable> {
        match self.parser.next_event() {
            None => Ok((
                Event::StreamEnd,
                Span {
                    start: self.text.len(),
                    end: self.text.len(),
                },
            )),
            Some(Ok((event, span))) => {
                let start = self.offsets.at(span.start, self.text);
                let end = self.offsets.at(span.end, self.text).max(start);
                Ok((event, Span { start, end }))
            }
            Some(Err(why)) => Err(Unreadable::new(
                self.offsets.at(*why.marker(), self.text),
                format!("not YAML: {}", why.info()),
            )),
        }
    }

    /// The first document, and there must be no second one.
    fn document(&mut self) -> Result<Option<Node<'a>>, Unreadable> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(root),
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                _ if root.is_some() => {
                    return Err(Unreadable::new(
                        span.start,
                        "a second YAML document: expected one in a file",
                    ));
                }
                event => root = Some(self.node(event, span, 0)?),
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node<'a>, Unreadable> {
        if depth > MAX_DEPTH {
            return Err(too_deep(span.start));
        }
        let before = self.values;
        self.count(weight(&event), span.start)?;
        let (anchor, node) = match event {
            Event::Alias(anchor) => return self.alias(anchor, span),
            Event::Scalar(text, style, anchor, tag) => {
                let kind = if style == ScalarStyle::Plain && tag.is_none() {
                    plain(text)
                } else {
                    NodeKind::String(text)
                };
                (
                    anchor,
                    Node {
                        kind,
                        span,
                        tag: own(tag),
                    },
                )
            }
            Event::SequenceStart(anchor, tag) => {
                let (items, end) = self.sequence(span, depth)?;
                (
                    anchor,
                    Node {
                        kind: NodeKind::List(items),
                        span: Span { end, ..span },
                        tag: own(tag),
                    },
                )
            }
            Event::MappingStart(anchor, tag) => {
                let (entries, end) = self.mapping(span, depth)?;
                (
                    anchor,
                    Node {
                        kind: NodeKind::Map(entries),
                        span: Span { end, ..span },
                        tag: own(tag),
                    },
                )
            }
            _ => return Err(Unreadable::new(span.start, "not YAML: expected a value")),
        };
        if anchor != 0 {
            let size = self.values - before;
            // What is kept for aliases takes as much again.
            self.count(size, span.start)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        Ok(node)
    }

    /// Repeats what stands at the anchor; where it stands stays what it was.
    fn alias(&mut self, anchor: usize, span: Span) -> Result<Node<'a>, Unreadable> {
        let Some((_, size)) = self.anchors.get(&anchor) else {
            return Err(Unreadable::new(
                span.start,
                "not YAML: an alias inside of its own anchor",
            ));
        };
        self.count(*size, span.start)?;
        let node = self.anchors.get(&anchor).map(|(node, _)| node.clone());
        node.ok_or_else(|| Unreadable::new(span.start, "not YAML: an alias without an anchor"))
    }

    fn count(&mut self, more: usize, at: usize) -> Result<(), Unreadable> {
        self.values = self.values.saturating_add(more);
        if self.values > MAX_VALUES {
            return Err(Unreadable::new(
                at,
                format!("more than {MAX_VALUES} values, those that aliases repeat included"),
            ));
        }
        Ok(())
    }

    fn sequence(&mut self, start: Span, depth: usize) -> Result<(Vec<Node<'a>>, usize), Unreadable> {
        let mut items = Vec::new();
        let mut end = start.end;
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok((items, self.end_of(span, end)));
            }
            let aliased = matches!(event, Event::Alias(_));
            let item = self.node(event, span, depth + 1)?;
            end = end.max(if aliased { span.end } else { item.span.end });
            items.push(item);
        }
    }

    fn mapping(&mut self, start: Span, depth: usize) -> Result<(Vec<Member<'a>>, usize), Unreadable> {
        let mut entries = Vec::new();
        let mut merged = Vec::new();
        let mut end = start.end;
        loop {
            let (event, key_span) = self.next()?;
            let key = match event {
                Event::MappingEnd => {
                    end = self.end_of(key_span, end);
                    break;
                }
                Event::Scalar(key, ..) => key,
                _ => {
                    return Err(Unreadable::new(
                        key_span.start,
                        "a key that is no text: expected a name",
                    ));
                }
            };
            let (event, span) = self.next()?;
            let aliased = matches!(event, Event::Alias(_));
            let value = self.node(event, span, depth + 1)?;
            end = end.max(if aliased { span.end } else { value.span.end });
            if key == "<<" {
                merged.push(value);
            } else {
                entries.push(Member { key, key_span, value });
            }
        }
        refuse_twice(&entries, "mapping")?;
        merge(&mut entries, merged);
        Ok((entries, end))
    }

    /// A flow collection ends with its bracket; a block one, whose end is known only from what
    /// follows, with its last value.
    fn end_of(&self, closing: Span, last: usize) -> usize {
        let bracket = self.text.as_bytes().get(closing.start);
        if matches!(bracket, Some(b']' | b'}')) && closing.end > closing.start {
            closing.end
        } else {
            last
        }
    }
}

/// What a value counts: a long text as much as the values that would take its place.
fn weight(event: &Event<'_>) -> usize {
    match event {
        Event::Scalar(text, ..) => 1 + text.len() / BYTES_A_VALUE,
        _ => 1,
    }
}

/// What a value takes in memory, about.
const BYTES_A_VALUE: usize = 64;

/// `<<`: a mapping, or a list of them; what is written out wins (yaml.org, *Merge Key Language-Independent
/// Type*).
fn merge<'a>(entries: &mut Vec<Member<'a>>, merged: Vec<Node<'a>>) {
    let mut known: HashSet<String> = entries.iter().map(|entry| entry.key.to_string()).collect();
    let mut take = |mapping: Node<'a>| {
        if let NodeKind::Map(more) = mapping.kind {
            entries.extend(
                more.into_iter()
                    .filter(|entry| known.insert(entry.key.to_string())),
            );
        }
    };
    for node in merged {
        match node.kind {
            NodeKind::List(items) => items.into_iter().for_each(&mut take),
            _ => take(node),
        }
    }
}

/// The core schema of YAML 1.2, with the words that people still write for booleans.
fn plain(text: Cow<'_, str>) -> NodeKind<'_> {
    match text.as_ref() {
        "" | "~" | "null" | "Null" | "NULL" => NodeKind::Null,
        "true" | "True" | "TRUE" => NodeKind::Bool(true),
        "false" | "False" | "FALSE" => NodeKind::Bool(false),
        number if is_number(number) => NodeKind::Number(text),
        _ => NodeKind::String(text),
    }
}

fn is_number(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'))
        && text.contains(|c: char| c.is_ascii_digit())
        && text.parse::<f64>().is_ok()
}

fn own(tag: Option<Cow<'_, Tag>>) -> Option<Box<str>> {
    tag.filter(|tag| tag.handle == "!")
        .map(|tag| tag.suffix.as_str().into())
}
