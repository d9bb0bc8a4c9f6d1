//! For people: what is wrong, where, and what to do, with the lines of the file.

use std::io::{self, Write};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::folded;
use crate::tools::check::{Checked, Located, Severity};
use crate::tools::colour::ColourChoice;
use crate::tools::document::Span;
use crate::tools::source::FileProblem;

/// What a terminal has at least, and what is drawn for.
pub(super) const COLUMNS: usize = 80;

/// Carets leave room for what stands beside them.
const MAX_CARETS: usize = 28;

/// As many as show that something is meant.
const MIN_CARETS: usize = 4;

/// The line's number and what sets it apart.
const GUTTER: usize = 6;

/// More of a file than this is not shown of one finding; a minified file is one line.
const MAX_EXCERPT: usize = 4096;

#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) colour: bool,
    pub(super) columns: usize,
}

impl Look {
    /// Of standard output.
    pub(super) fn of_terminal(choice: ColourChoice) -> Look {
        Look {
            colour: choice.on_stdout(),
            columns: COLUMNS,
        }
    }
}

pub(super) fn write(
    checked: &[Checked],
    problems: &[FileProblem],
    look: Look,
    out: &mut dyn Write,
) -> io::Result<()> {
    let renderer = if look.colour {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let renderer = renderer.term_width(look.columns);
    for file in checked {
        for finding in &file.findings {
            writeln!(
                out,
                "{}\n",
                renderer.render(&[group(file, finding, look.columns)])
            )?;
        }
        if file.more > 0 {
            writeln!(
                out,
                "{}: {} more findings are not shown\n",
                file.source.name, file.more
            )?;
        }
    }
    for problem in problems {
        let message = folded(&problem.to_string(), look.columns - "error: ".len());
        writeln!(
            out,
            "{}\n",
            renderer.render(&[Group::with_title(Level::ERROR.primary_title(message))])
        )?;
    }
    writeln!(out, "{}", summary(checked, problems))
}

fn group<'a>(file: &'a Checked, finding: &'a Located, columns: usize) -> Group<'a> {
    let level = match finding.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    let title = format!("{}[{}]: ", finding.severity.as_str(), finding.rule.id);
    let excerpt = Excerpt::of(file, finding);
    let annotate = |kind: AnnotationKind, span: Span, label: &'a str| {
        let (span, label) = fitting(file, span, label, columns);
        let annotation = kind.span(span.start - excerpt.from..span.end - excerpt.from);
        if label.is_empty() {
            annotation
        } else {
            annotation.label(label)
        }
    };
    let also = finding.also.iter().filter(|(span, _)| excerpt.holds(*span));
    let snippet = Snippet::source(excerpt.text)
        .line_start(excerpt.line)
        .annotation(annotate(AnnotationKind::Primary, finding.span, finding.label))
        .annotations(also.map(|(span, label)| annotate(AnnotationKind::Context, *span, label)));
    let help = folded(finding.rule.mend, columns - "   = help: ".len() - 2);
    let group = level
        .primary_title(folded(&finding.message, columns - title.len()))
        .id(finding.rule.id);
    let group = if excerpt.starts_a_line {
        group.element(snippet.path(&file.source.name))
    } else {
        // Its own column would be that of the excerpt.
        let place = Origin::path(&file.source.name)
            .line(finding.start.line)
            .char_column(finding.start.column);
        group.element(place).element(snippet)
    };
    group.element(Level::HELP.message(help))
}

/// The part of a file that is shown: whole lines, unless they are too long for that.
struct Excerpt<'a> {
    text: &'a str,
    from: usize,
    line: usize,
    starts_a_line: bool,
}

impl<'a> Excerpt<'a> {
    fn of(file: &'a Checked, finding: &Located) -> Excerpt<'a> {
        let text = &file.source.text;
        let spans = || finding.also.iter().map(|(span, _)| *span).chain([finding.span]);
        let start = spans().map(|span| span.start).min().unwrap_or(0);
        let end = spans().map(|span| span.end).max().unwrap_or(0);
        let lines = |start: usize, end: usize| {
            let from = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
            let to = text[end..].find('\n').map_or(text.len(), |newline| end + newline);
            (from, to)
        };
        let near = |at: usize| (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let (from, to) = [lines(start, end), lines(finding.span.start, finding.span.end)]
            .into_iter()
            .find(|(from, to)| to - from <= MAX_EXCERPT)
            .unwrap_or_else(|| {
                let end = (finding.span.end + MAX_EXCERPT / 2).min(text.len());
                (
                    near(finding.span.start.saturating_sub(MAX_EXCERPT / 2)),
                    near(end),
                )
            });
        Excerpt {
            text: &text[from..to],
            from,
            line: file.source.position(from).line,
            starts_a_line: from == 0 || text[..from].ends_with('\n'),
        }
    }

    fn holds(&self, span: Span) -> bool {
        span.start >= self.from && span.end <= self.from + self.text.len()
    }
}

/// Only so much of a span and its label as there is room for.
fn fitting<'a>(file: &Checked, span: Span, label: &'a str, columns: usize) -> (Span, &'a str) {
    let text = file.source.text.get(span.start..span.end).unwrap_or("");
    let place = file.source.position(span.start);
    // A line that is too long is moved until the carets stand about in the middle.
    let moved = file.source.line(place.line).len() > columns;
    let column = if moved {
        place.column.min(columns / 2)
    } else {
        place.column
    };
    let before = column + GUTTER;
    let room = columns.saturating_sub(before + label.len());
    let carets = room.clamp(MIN_CARETS, MAX_CARETS);
    let length = text.char_indices().nth(carets).map_or(text.len(), |(at, _)| at);
    let span = Span {
        end: span.start + length,
        ..span
    };
    (span, if room < MIN_CARETS { "" } else { label })
}

fn summary(checked: &[Checked], problems: &[FileProblem]) -> String {
    let tasks: usize = checked.iter().map(|file| file.tasks).sum();
    let findings: Vec<&Located> = checked.iter().flat_map(|file| &file.findings).collect();
    let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let mut parts = Vec::new();
    for severity in [Severity::Error, Severity::Warning, Severity::Note] {
        let count = findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count();
        if count > 0 {
            parts.push(counted(count, severity.as_str()));
        }
    }
    let mut found = if parts.is_empty() {
        "nothing found".to_owned()
    } else {
        parts.join(", ")
    };
    let pedantic: usize = checked.iter().map(|file| file.pedantic).sum();
    let known: usize = checked.iter().map(|file| file.known).sum();
    if pedantic > 0 {
        found.push_str(&format!(", {pedantic} more with --pedantic"));
    }
    if known > 0 {
        found.push_str(&format!(", {known} more in the baseline"));
    }
    if pedantic + known > 0 {
        found.push(',');
    }
    let mut line = format!(
        "{found} in {} of {}",
        counted(tasks, "task definition"),
        counted(checked.len(), "file")
    );
    if !problems.is_empty() {
        line.push_str(&format!(
            "; {} could not be read",
            counted(problems.len(), "file")
        ));
    }
    if let Some(first) = findings.first() {
        line.push_str(&format!(
            "\n`ecs-prestop check --explain {}` tells more",
            first.rule.id
        ));
    }
    line
}
