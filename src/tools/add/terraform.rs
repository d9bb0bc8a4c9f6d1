//! Writes the sidecar's definition into a file of Terraform, in the layout of the containers beside it.
//!
//! A name or an option that the app takes from a variable is taken from it here, too: its default is not
//! written out.

use hcl_edit::expr::{Array, Expression, Object, ObjectKey, ObjectValueAssignment, ObjectValueTerminator};
use hcl_edit::structure::{Body, Structure};
use hcl_edit::{Span as _, parser};

use crate::tools::document::{EXPRESSION, Node, NodeKind, Span, Syntax};
use crate::tools::model::{ContainerDefinition, DocumentForm, TaskDefinition, in_snake_case};
use crate::tools::source::Source;

use super::NotAdded;
use super::insert::{LayoutWriter, bracketed, indent_at, quoted};
use super::tree::{SidecarDefinition, Tree};

/// Lists and objects that fit are written on one line, as `terraform fmt` leaves them.
const LINE: usize = 100;

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

/// How the fields of a container are written.
struct Style {
    quoted: bool,
    colon: bool,
    commas: bool,
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
    fn of(text: &str, object: &Object) -> Style {
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

fn key_span(key: &ObjectKey) -> Option<std::ops::Range<usize>> {
    match key {
        ObjectKey::Ident(name) => name.span(),
        ObjectKey::Expression(expression) => expression.span(),
    }
}

/// What is put in, by where.
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
    fn object(&self, tree: &Tree, indent: &str, unit: &str) -> String {
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
    fn line(&self, tree: &Tree) -> String {
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

/// The language in which the containers are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Language {
    Terraform,
    /// In a template.
    Json,
}

/// The definition with the app's expressions in place of what they stand for by default.
fn adapt(
    text: &str,
    task: &TaskDefinition<'_>,
    app: &ContainerDefinition<'_>,
    sidecar: &SidecarDefinition,
    language: Language,
) -> Tree {
    let Tree::Fields(fields) = &sidecar.body else {
        return sidecar.body.clone();
    };
    let named = |value: &Tree| {
        let Tree::Fields(fields) = value else {
            return value.clone();
        };
        let renamed = fields.iter().map(|(key, value)| {
            let name = match value {
                Tree::Text(name) => Some(name.as_str()),
                Tree::Tagged(_, inner) => match inner.as_ref() {
                    Tree::Text(name) => Some(name.as_str()),
                    _ => None,
                },
                _ => None,
            };
            let container = name
                .filter(|_| *key == "containerName")
                .and_then(|name| task.container(name));
            (
                *key,
                match container {
                    Some(container) => name_again(text, task, container, language),
                    None => escaped(value, language),
                },
            )
        });
        Tree::Fields(renamed.collect())
    };
    let adapted = fields.iter().map(|(key, value)| {
        let value = match (*key, value) {
            ("dependsOn", Tree::List(items)) => Tree::List(items.iter().map(named).collect()),
            ("logConfiguration", _) => match &app.log {
                Some(log) => options(text, task, log.node, "", language),
                None => escaped(value, language),
            },
            _ => escaped(value, language),
        };
        (*key, value)
    });
    Tree::Fields(adapted.collect())
}

/// The name of a container, which may be the key under which it stands.
fn name_again(
    text: &str,
    task: &TaskDefinition<'_>,
    container: &ContainerDefinition<'_>,
    language: Language,
) -> Tree {
    let name = &container.name;
    let entry = task
        .list
        .entries()
        .iter()
        .find(|entry| std::ptr::eq(&entry.value, name.node));
    let key = entry.and_then(|entry| text.get(entry.key_span.start..entry.key_span.end));
    match key {
        Some(key) if key.starts_with(['(', '"']) => Tree::Word(key.to_owned()),
        Some(_) => Tree::text(name.text.as_ref()),
        None => again(text, task, name.node, &name.text, language),
    }
}

/// A node of the app, said again; never so that a line of the log can hold the drain.
fn options(text: &str, task: &TaskDefinition<'_>, node: &Node<'_>, key: &str, language: Language) -> Tree {
    match &node.kind {
        NodeKind::Map(entries) if node.tag.is_none() => {
            let pairs = entries.iter().map(|entry| {
                let value = options(text, task, &entry.value, &entry.key, language);
                (entry.key.to_string(), value)
            });
            Tree::Pairs(pairs.collect())
        }
        NodeKind::List(items) if node.tag.is_none() => {
            let items = items.iter().map(|item| options(text, task, item, "", language));
            Tree::List(items.collect())
        }
        NodeKind::String(word) if key == "mode" && word == "blocking" => Tree::text("non-blocking"),
        _ => match node.word() {
            Some(word) => again(text, task, node, &word, language),
            None => Tree::Word("null".to_owned()),
        },
    }
}

/// A word as it is written there, so that a variable stays one.
fn again(text: &str, task: &TaskDefinition<'_>, node: &Node<'_>, word: &str, language: Language) -> Tree {
    let written = text.get(node.span.start..node.span.end).unwrap_or("");
    let here = match language {
        Language::Terraform => !written.contains('\n') && parser::parse_expr(written).is_ok(),
        // Within the same template a text in quotes means the same.
        Language::Json => {
            task.list.span.start < node.span.start
                && node.span.end < task.list.span.end
                && serde_json::from_str::<serde_json::Value>(written).is_ok()
        }
    };
    let is_expression = node.tag.as_deref() == Some(EXPRESSION);
    match (here, language) {
        (true, _) => Tree::Word(written.to_owned()),
        (false, Language::Json) if is_expression => Tree::Word(format!("\"${{{word}}}\"")),
        (false, Language::Terraform) if is_expression => Tree::Word(word.to_owned()),
        (false, _) => escaped(&Tree::text(word), language),
    }
}

/// Texts that a template would read as expressions.
fn escaped(tree: &Tree, language: Language) -> Tree {
    let of = |tree: &Tree| escaped(tree, language);
    match tree {
        Tree::Text(text) if language == Language::Json => {
            Tree::text(text.replace("${", "$${").replace("%{", "%%{"))
        }
        Tree::List(items) => Tree::List(items.iter().map(of).collect()),
        Tree::Fields(fields) => Tree::Fields(fields.iter().map(|(key, value)| (*key, of(value))).collect()),
        Tree::Pairs(pairs) => Tree::Pairs(
            pairs
                .iter()
                .map(|(key, value)| (key.clone(), of(value)))
                .collect(),
        ),
        other => other.clone(),
    }
}
