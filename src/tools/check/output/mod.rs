//! How findings are shown. Knows nothing of rules but their names.

use std::io::{self, Write};

use super::Checked;
use crate::tools::colour::ColourChoice;
use crate::tools::source::FileProblem;

mod github;
mod json;
mod sarif;
mod text;

/// How findings are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// For people: the source with a caret.
    Text,
    Json,
    /// SARIF 2.1.0.
    Sarif,
    /// Workflow commands of GitHub Actions.
    Github,
}

impl OutputFormat {
    /// What `--format` takes.
    pub const NAMES: [&str; 4] = ["text", "json", "sarif", "github"];

    /// The format of this name; `text` for any other.
    pub fn named(name: &str) -> OutputFormat {
        match name {
            "json" => OutputFormat::Json,
            "sarif" => OutputFormat::Sarif,
            "github" => OutputFormat::Github,
            _ => OutputFormat::Text,
        }
    }
}

/// Writes what was found, and what could not be read: in the document itself where the format has a
/// place for it, else on standard error.
///
/// # Errors
/// Those of `out`.
pub fn write(
    format: OutputFormat,
    checked: &[Checked],
    problems: &[FileProblem],
    colour: ColourChoice,
    out: &mut dyn Write,
) -> io::Result<()> {
    match format {
        OutputFormat::Text => text::write(checked, problems, text::Look::of_terminal(colour), out),
        OutputFormat::Json => json::write(checked, problems, out),
        OutputFormat::Sarif => sarif::write(checked, problems, out),
        OutputFormat::Github => github::write(checked, problems, out),
    }
}

/// The text form, as it looks with colour or without, for pages and snapshots.
pub fn text(checked: &[Checked], problems: &[FileProblem], colour: bool) -> String {
    let mut out = Vec::new();
    let look = text::Look {
        colour,
        columns: text::COLUMNS,
    };
    // A vector takes everything.
    let _ = text::write(checked, problems, look, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// Any of the other forms as a text.
pub fn document(format: OutputFormat, checked: &[Checked], problems: &[FileProblem]) -> String {
    let mut out = Vec::new();
    let _ = write(format, checked, problems, ColourChoice::Never, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// Cut at spaces so that no line is longer than `width`; a number stays with its unit.
pub(super) fn folded(text: &str, width: usize) -> String {
    let mut parts: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let unit = word.trim_end_matches([',', ';', ':', '.']);
        match parts.last_mut() {
            Some(number)
                if ["s", "MiB"].contains(&unit) && number.ends_with(|c: char| c.is_ascii_digit()) =>
            {
                number.push(' ');
                number.push_str(word);
            }
            _ => parts.push(word.to_owned()),
        }
    }
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + part.chars().count() <= width => {
                line.push(' ');
                line.push_str(&part);
            }
            _ => lines.push(part),
        }
    }
    lines.join("\n")
}
