//! Writes the sidecar's definition into a file of Terraform, in the layout of the containers beside it.
//!
//! A name or an option that the app takes from a variable is taken from it here, too: its default is not
//! written out.

use hcl_edit::expr::{Array, Expression, Object, ObjectValueTerminator};
use hcl_edit::structure::{Body, Structure};
use hcl_edit::{Span as _, parser};

use crate::tools::document::{Node, NodeKind, Span, Syntax};
use crate::tools::model::{ContainerDefinition, DocumentForm, TaskDefinition, in_snake_case};
use crate::tools::source::Source;

use super::NotAdded;
use super::insert::{LayoutWriter, bracketed, indent_at, quoted};
use super::tree::{SidecarDefinition, Tree};

mod adapt;
mod layout;

use adapt::{Language, adapt};
use layout::{Style, key_span};

/// Names of terraform-aws-modules/ecs before version 6 that differ by more than the case.
const NAMES_OF_MODULE_5: [(&str, &str); 1] = [("dependsOn", "dependencies")];

/// The text with the definition behind the last container.
pub(super) fn insert(
    source: &Source,
    syntax: Syntax,
    task: &TaskDefinition<'_>,
    app: &ContainerDefinition<'_>,
    sidecar: &SidecarDefinition,
) -> Result<String, NotAdded> {
    if syntax != Syntax::Hcl {
        return Err(NotAdded::because(
            "this is what Terraform or a program wrote: add the sidecar where it is written by hand, in the `.tf` file or \
             the program",
        ));
    }
    let text = source.text.as_str();
    let list = task.list;
    let elsewhere = || NotAdded::because(elsewhere(task));
    let body = parser::parse_body(text).map_err(|_| elsewhere())?;
    let insertions = match find(&body, list.span) {
        Some(Expression::Array(array)) => {
            let style = array
                .iter()
                .filter_map(as_object)
                .last()
                .map(|item| Style::of(text, item));
            let adapted = adapt(text, task, app, sidecar, Language::Terraform);
            in_array(text, array, list.span, &style.unwrap_or_default(), &adapted).ok_or_else(elsewhere)?
        }
        Some(Expression::Object(object)) => {
            let adapted = adapt(text, task, app, sidecar, Language::Terraform);
            vec![in_map(text, object, task, sidecar.name, adapted).ok_or_else(elsewhere)?]
        }
        Some(_) => return Err(elsewhere()),
        None => {
            let inside = |item: &Node<'_>| list.span.start < item.span.start && item.span.end < list.span.end;
            let whole = text.get(list.span.start..list.span.end).unwrap_or("");
            // In a text in quotes each quote of the JSON has a backslash before it.
            let key = list.items().first().and_then(|item| item.entries().first());
            let plain = key.is_some_and(|key| {
                text.get(key.key_span.start..)
                    .is_some_and(|key| key.starts_with('"'))
            });
            if !whole.starts_with('[') || !plain || !list.items().iter().all(inside) {
                return Err(elsewhere());
            }
            let adapted = SidecarDefinition {
                name: sidecar.name,
                body: adapt(text, task, app, sidecar, Language::Json),
            };
            let writer = LayoutWriter {
                form: DocumentForm::Containers,
            };
            vec![bracketed(source, &writer, list, &adapted).ok_or_else(elsewhere)?]
        }
    };
    let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let mut whole = String::with_capacity(text.len() + 2_000);
    let mut done = 0;
    for (at, part) in insertions {
        whole.push_str(text.get(done..at).unwrap_or(""));
        whole.push_str(&part.replace('\n', newline));
        done = at;
    }
    whole.push_str(text.get(done..).unwrap_or(""));
    Ok(whole)
}

fn elsewhere(task: &TaskDefinition<'_>) -> String {
    let name = &task.name;
    match (&task.list.tag, &task.list.kind) {
        (Some(_), NodeKind::String(expression)) => format!(
            "the list of containers of `{name}` is `{expression}`, not written out: make it `jsonencode([…])` with one entry a \
             container first"
        ),
        _ => format!(
            "the containers of `{name}` are not written as a list in this file: add the sidecar where they are, or make it \
             `jsonencode([…])` with one entry a container first"
        ),
    }
}

/// The expression that stands exactly there.
fn find(body: &Body, span: Span) -> Option<&Expression> {
    body.iter().find_map(|structure| match structure {
        Structure::Attribute(attribute) => find_in(&attribute.value, span),
        Structure::Block(block) => find(&block.body, span),
    })
}

fn find_in(expression: &Expression, span: Span) -> Option<&Expression> {
    let range = expression.span()?;
    // A parenthesis is not what stands in it.
    if range == (span.start..span.end) && !matches!(expression, Expression::Parenthesis(_)) {
        return Some(expression);
    }
    if range.end < span.end || span.start < range.start {
        return None;
    }
    match expression {
        Expression::Array(array) => array.iter().find_map(|item| find_in(item, span)),
        Expression::Object(object) => object.iter().find_map(|(_, value)| find_in(value.expr(), span)),
        Expression::Parenthesis(inner) => find_in(inner.inner(), span),
        Expression::FuncCall(call) => call.args.iter().find_map(|arg| find_in(arg, span)),
        Expression::Conditional(choice) => {
            find_in(&choice.true_expr, span).or_else(|| find_in(&choice.false_expr, span))
        }
        Expression::StringTemplate(template) => template
            .iter()
            .find_map(|element| find_in(&element.as_interpolation()?.expr, span)),
        _ => None,
    }
}

fn as_object(item: &Expression) -> Option<&Object> {
    match item {
        Expression::Object(object) => Some(object),
        Expression::Parenthesis(inner) => as_object(inner.inner()),
        _ => None,
    }
}

type Insertion = (usize, String);

/// `[{…}, {…}]`, each on lines of its own or hugged by the brackets.
fn in_array(text: &str, array: &Array, span: Span, style: &Style, body: &Tree) -> Option<Vec<Insertion>> {
    let last = array.iter().last()?;
    let first = array.iter().next()?.span()?.start;
    let end = last.span()?.end;
    let rest = text.get(end..span.end)?;
    let (at, comma, closing) = match rest.find(',').filter(|_| array.trailing_comma()) {
        Some(comma) if rest.get(..comma)?.trim().is_empty() => (end + comma + 1, "", ","),
        // A comment with a comma in it, or one before the comma.
        Some(_) => return None,
        None => (end, ",", ""),
    };
    let whole = text.get(span.start..span.end)?;
    let hugged = !text.get(span.start..first)?.contains('\n');
    if hugged && !whole.contains('\n') && as_object(last).is_some() {
        return Some(vec![(at, format!("{comma} {}{closing}", style.line(body)))]);
    }
    let indent = if hugged {
        indent_at(text, end.checked_sub(1)?)
    } else {
        indent_at(text, first)
    };
    let unit = as_object(last)
        .and_then(|object| key_span(object.iter().last()?.0))
        .map(|key| indent_at(text, key.start))
        .and_then(|deeper| deeper.strip_prefix(indent))
        .filter(|unit| !unit.is_empty())
        .unwrap_or(if indent.starts_with('\t') { "\t" } else { "  " });
    let object = style.object(body, indent, unit);
    if hugged {
        return Some(vec![(at, format!("{comma} {object}{closing}"))]);
    }
    let part = format!("\n{indent}{object}{closing}");
    // A comment behind the last container stays with it.
    let line = text.get(at..span.end)?.lines().next()?;
    Some(if line.trim_start().starts_with(['#', '/']) {
        vec![(at, comma.to_owned()), (at + line.len(), part)]
    } else {
        vec![(at, format!("{comma}{part}"))]
    })
}

/// The map of containers that a module takes.
fn in_map(
    text: &str,
    object: &Object,
    task: &TaskDefinition<'_>,
    name: &str,
    body: Tree,
) -> Option<Insertion> {
    let entries: Vec<_> = object.iter().collect();
    let (key, value) = entries.last()?;
    let end = value.expr().span()?.end;
    let start = key_span(key)?.start;
    let line_start = text.get(..start)?.rfind('\n').map_or(0, |newline| newline + 1);
    // All on one line is nobody's way.
    (text.get(line_start..start)?.trim().is_empty()).then_some(())?;
    let at = match value.terminator() {
        ObjectValueTerminator::Comma => end + text.get(end..)?.find(',')? + 1,
        _ => end,
    };
    let indent = indent_at(text, start);
    let inner = as_object(value.expr());
    let style = inner.map(|object| Style::of(text, object)).unwrap_or_default();
    let own = Style::of(text, object);
    let unit = inner
        .and_then(|object| key_span(object.iter().last()?.0))
        .and_then(|key| indent_at(text, key.start).strip_prefix(indent))
        .filter(|unit| !unit.is_empty())
        .unwrap_or("  ");
    let apart = match entries.as_slice() {
        [.., before, _] => text.get(before.1.expr().span()?.end..start)?.contains("\n\n"),
        _ => true,
    };
    let body = in_names_of_module(task, body);
    Some((
        at,
        format!(
            "\n{}{indent}{}{}{}{}",
            if apart { "\n" } else { "" },
            if own.quoted { quoted(name) } else { name.to_owned() },
            if own.colon { ": " } else { " = " },
            style.object(&body, indent, unit),
            if own.commas && at > end { "," } else { "" },
        ),
    ))
}

/// terraform-aws-modules/ecs took `stop_timeout` before version 6 and takes `stopTimeout` since.
fn in_names_of_module(task: &TaskDefinition<'_>, body: Tree) -> Tree {
    let keys = || {
        task.containers
            .iter()
            .flat_map(|container| container.node.entries())
            .map(|entry| entry.key.as_ref())
    };
    let camel = keys().any(|key| key.contains(|c: char| c.is_ascii_uppercase()));
    let snake = keys().any(|key| {
        matches!(
            key,
            "port_mappings"
                | "readonly_root_filesystem"
                | "memory_reservation"
                | "log_configuration"
                | "health_check"
                | "dependencies"
                | "stop_timeout"
                | "firelens_configuration"
                | "linux_parameters"
        )
    });
    let version = task
        .node
        .get("version")
        .and_then(Node::text)
        .unwrap_or("")
        .trim_start_matches(|c: char| !c.is_ascii_digit());
    let old = !camel && (snake || version.starts_with("5.") || version.starts_with("4."));
    let Tree::Fields(fields) = body else {
        return body;
    };
    let pairs = fields
        .into_iter()
        // Its name is the key; the old module knows no restart policy.
        .filter(|(key, _)| *key != "name" && !(old && *key == "restartPolicy"))
        .map(|(key, value)| {
            let renamed = NAMES_OF_MODULE_5.iter().find(|(api, _)| *api == key);
            let name = match renamed {
                _ if !old => key.to_owned(),
                Some((_, own)) => (*own).to_owned(),
                None => in_snake_case(key),
            };
            (name, value)
        });
    Tree::Pairs(pairs.collect())
}
