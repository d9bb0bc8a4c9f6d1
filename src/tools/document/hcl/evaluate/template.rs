//! Texts with expressions in them: what stands in quotes, heredocs, `templatefile`.

use std::borrow::Cow;

use hcl_edit::Span as _;
use hcl_edit::expr::Expression;
use hcl_edit::template::{Directive, Element, Template};

use crate::tools::document::{Member, NodeKind, Span};

use super::super::bounded;
use super::super::rendered::Rendered;
use super::values::pairs;
use super::{BYTES_A_VALUE, Bindings, Context, Evaluated, Evaluator, in_turn};

impl Evaluator<'_> {
    pub(super) fn template_file(&self, name: &str, context: Context<'_>, span: Span) -> Option<Evaluated> {
        let (file, body) = self.templates.get(name)?;
        let there = Context {
            file: *file,
            text: None,
            at: Some(span),
            depth: context.depth,
            scope: None,
        };
        let template = self.node(&body.get_attribute("template")?.value, there);
        let variables = body
            .get_attribute("vars")
            .map(|attribute| self.node(&attribute.value, there))
            .or_else(|| {
                let block = body.get_blocks("vars").next()?;
                Some(super::super::block(self, there, block))
            });
        let entries = variables.as_ref().map_or(&[][..], |node| node.entries());
        self.rendered(template.text()?, entries, there, span)
    }

    /// A template from a text, with these names in it.
    pub(in crate::tools::document::hcl) fn rendered(
        &self,
        text: &str,
        variables: &[Member<'static>],
        context: Context<'_>,
        span: Span,
    ) -> Option<Evaluated> {
        bounded(text).then_some(())?;
        let template = hcl_edit::parser::parse_template(text).ok()?;
        self.with_names(variables, None, &mut |scope| {
            let inside = Context {
                text: Some(text),
                at: Some(span),
                scope,
                ..context
            };
            self.template(&template, inside, span, Escapes::None)
        })
    }

    /// Calls with a scope that has all these names.
    fn with_names(
        &self,
        names: &[Member<'static>],
        outer: Option<&Bindings<'_>>,
        then: &mut dyn FnMut(Option<&Bindings<'_>>) -> Evaluated,
    ) -> Option<Evaluated> {
        /// Nobody gives a template more.
        const MAX_NAMES: usize = 200;
        match names.split_first() {
            None => Some(then(outer)),
            Some(_) if names.len() > MAX_NAMES => None,
            Some((entry, rest)) => {
                let scope = Bindings {
                    name: &entry.key,
                    value: entry.value.clone(),
                    outer,
                };
                self.with_names(rest, Some(&scope), then)
            }
        }
    }

    pub(super) fn template(
        &self,
        template: &Template,
        context: Context<'_>,
        span: Span,
        escapes: Escapes,
    ) -> Evaluated {
        let mut text = Rendered::new(span);
        self.elements(&mut text, template, context, escapes);
        Evaluated::Text(text)
    }

    fn elements(&self, text: &mut Rendered, template: &Template, context: Context<'_>, escapes: Escapes) {
        for element in template.iter() {
            let range = element.span();
            let span = self.place(context, range.clone());
            match element {
                Element::Literal(literal) => match self.raw(context, range) {
                    Some(raw) => self.literal(text, raw, span.start, context, escapes),
                    None => {
                        self.spend(literal.len() / BYTES_A_VALUE);
                        text.push_at(literal, span);
                    }
                },
                Element::Interpolation(interpolation) => {
                    let value = self.value(&interpolation.expr, context);
                    self.push(text, value, span);
                }
                Element::Directive(directive) => {
                    if !self.directive(text, directive, context, escapes) {
                        // In a list of JSON the commas of what it may put in are still needed.
                        let (before, after) = commas(directive);
                        text.push_at(before, span);
                        text.push_hole(self.unknown(context, range, "%{…}"));
                        text.push_at(after, span);
                    }
                }
            }
        }
    }

    pub(in crate::tools::document::hcl) fn push(&self, text: &mut Rendered, value: Evaluated, span: Span) {
        match value {
            Evaluated::Text(inner) => {
                let affordable = self.spend(inner.text.len() / BYTES_A_VALUE);
                if affordable && inner.span == span {
                    text.append(inner);
                } else if affordable {
                    text.append(inner.placed(span));
                }
            }
            Evaluated::Node(mut node) => match (node.tag.is_some(), node.word()) {
                (false, Some(word)) => text.push_at(&word, span),
                _ => {
                    if !matches!(node.kind, NodeKind::List(_) | NodeKind::Map(_)) {
                        node.span = span;
                    }
                    text.push_hole(node);
                }
            },
        }
    }

    fn directive(
        &self,
        text: &mut Rendered,
        directive: &Directive,
        context: Context<'_>,
        escapes: Escapes,
    ) -> bool {
        let context = Context {
            depth: context.depth + 1,
            ..context
        };
        match directive {
            Directive::If(choice) => match self.node(&choice.if_expr.cond_expr, context).kind {
                NodeKind::Bool(true) => self.elements(text, &choice.if_expr.template, context, escapes),
                NodeKind::Bool(false) => {
                    if let Some(other) = &choice.else_expr {
                        self.elements(text, &other.template, context, escapes);
                    }
                }
                _ => return false,
            },
            Directive::For(each) => {
                let intro = &each.for_expr;
                let collection = self.node(&intro.collection_expr, context);
                let Some(pairs) = pairs(&collection) else {
                    return false;
                };
                let key = intro.key_var.as_ref().map(|name| name.as_str());
                for (index, value) in pairs {
                    if !self.spend(1) {
                        return false;
                    }
                    in_turn(context, key, intro.value_var.as_str(), index, value, |context| {
                        self.elements(text, &intro.template, context, escapes);
                    });
                }
            }
        }
        true
    }

    /// A piece of the source, with what its escapes stand for.
    pub(super) fn literal(
        &self,
        text: &mut Rendered,
        raw: &str,
        start: usize,
        context: Context<'_>,
        escapes: Escapes,
    ) {
        self.spend(raw.len() / BYTES_A_VALUE);
        let mut done = 0;
        let mut at = 0;
        while let Some(rest) = raw.get(at..).filter(|rest| !rest.is_empty()) {
            let Some((length, stands_for)) = escape(rest, escapes) else {
                at += rest.chars().next().map_or(1, char::len_utf8);
                continue;
            };
            text.push_along(raw.get(done..at).unwrap_or(""), start + done);
            let span = Span {
                start: start + at,
                end: start + at + length,
            };
            text.push_at(&stands_for, context.at.unwrap_or(span));
            at += length;
            done = at;
        }
        text.push_along(raw.get(done..).unwrap_or(""), start + done);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Escapes {
    /// Those of a text in quotes.
    Quoted,
    /// Only `$${` and `%%{`, as in a heredoc.
    None,
}

/// The length of the escape at the start of a text, and what it stands for.
fn escape(rest: &str, escapes: Escapes) -> Option<(usize, Cow<'static, str>)> {
    if rest.starts_with("$${") {
        return Some((3, Cow::Borrowed("${")));
    }
    if rest.starts_with("%%{") {
        return Some((3, Cow::Borrowed("%{")));
    }
    let escaped = rest.strip_prefix('\\').filter(|_| escapes == Escapes::Quoted)?;
    let first = escaped.chars().next()?;
    let digits = match first {
        'n' => return Some((2, Cow::Borrowed("\n"))),
        'r' => return Some((2, Cow::Borrowed("\r"))),
        't' => return Some((2, Cow::Borrowed("\t"))),
        'u' => 4,
        'U' => 8,
        other => return Some((1 + other.len_utf8(), Cow::Owned(other.to_string()))),
    };
    let code = escaped
        .get(1..=digits)
        .and_then(|code| u32::from_str_radix(code, 16).ok())?;
    let character = char::from_u32(code)?;
    Some((2 + digits, Cow::Owned(character.to_string())))
}

/// Whether what a directive puts in starts with a comma, and ends with one.
fn commas(directive: &Directive) -> (&'static str, &'static str) {
    let template = match directive {
        Directive::If(choice) => &choice.if_expr.template,
        Directive::For(each) => &each.for_expr.template,
    };
    let literal = |element: Option<&Element>| match element {
        Some(Element::Literal(text)) => text.trim().to_owned(),
        _ => String::new(),
    };
    let comma = |there: bool| if there { "," } else { "" };
    (
        comma(literal(template.get(0)).starts_with(',')),
        comma(literal(template.iter().last()).ends_with(',')),
    )
}

/// `"${…}"` is the value itself, not its text.
pub(super) fn only_interpolation(template: &Template) -> Option<&Expression> {
    match template.as_single_element()? {
        Element::Interpolation(interpolation) => Some(&interpolation.expr),
        _ => None,
    }
}
