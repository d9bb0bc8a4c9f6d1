//! JSON as RFC 8259 has it: no comments, no trailing commas.

use jsonc_parser::ast::{ObjectPropName, Value};
use jsonc_parser::common::{Range, Ranged};
use jsonc_parser::errors::ParseError;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

use super::{MAX_DEPTH, Member, Node, NodeKind, Span, Unreadable, refuse_twice, too_deep};

const STRICT: ParseOptions = ParseOptions {
    allow_comments: false,
    allow_loose_object_property_names: false,
    allow_trailing_commas: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

pub(super) fn parse(text: &str) -> Result<Node<'_>, Unreadable> {
    let parsed = parse_to_ast(text, &CollectOptions::default(), &STRICT)
        .map_err(|why| Unreadable::new(why.range().start, explain(text, &why)))?;
    match parsed.value {
        Some(value) => node(value, 0),
        None => Err(Unreadable::new(0, "not JSON: expected an object")),
    }
}

fn explain(text: &str, why: &ParseError) -> String {
    let hint = if !text.trim_start().starts_with(['{', '[']) {
        ": expected `{` or `[` at the beginning"
    } else {
        ""
    };
    format!("not JSON: {}{hint}", in_lower_case(&why.kind().to_string()))
}

fn in_lower_case(message: &str) -> String {
    let mut letters = message.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

fn node(value: Value<'_>, depth: usize) -> Result<Node<'_>, Unreadable> {
    let span = span(value.range());
    if depth > MAX_DEPTH {
        return Err(too_deep(span.start));
    }
    let kind = match value {
        Value::NullKeyword(_) => NodeKind::Null,
        Value::BooleanLit(literal) => NodeKind::Bool(literal.value),
        Value::NumberLit(literal) => NodeKind::Number(literal.value.into()),
        Value::StringLit(literal) => NodeKind::String(literal.value),
        Value::Array(array) => NodeKind::List(
            array
                .elements
                .into_iter()
                .map(|element| node(element, depth + 1))
                .collect::<Result<_, _>>()?,
        ),
        Value::Object(object) => {
            let mut entries = Vec::with_capacity(object.properties.len());
            for property in object.properties {
                let key_span = self::span(property.name.range());
                let key = match property.name {
                    ObjectPropName::String(literal) => literal.value,
                    ObjectPropName::Word(literal) => literal.value.into(),
                };
                entries.push(Member {
                    key,
                    key_span,
                    value: node(property.value, depth + 1)?,
                });
            }
            refuse_twice(&entries, "object")?;
            NodeKind::Map(entries)
        }
    };
    Ok(Node::new(kind, span))
}

fn span(range: Range) -> Span {
    Span {
        start: range.start,
        end: range.end,
    }
}
