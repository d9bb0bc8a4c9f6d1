//! A page for each rule, for `--explain` and for the document that holds them all.

use similar::TextDiff;

use super::{Persona, RULES, Rule};
#[cfg(feature = "laptop")]
use crate::tools::check::Severity;
#[cfg(feature = "laptop")]
use crate::tools::picture::terminal::{Ink, Paper, wrapped};

/// Every rule on a line.
pub(super) fn list() -> String {
    RULES
        .iter()
        .map(|rule| {
            let persona = pedantic(rule, " (--pedantic)");
            format!(
                "{}  {:<7}  {}{persona}\n",
                rule.id,
                rule.severity.as_str(),
                rule.name
            )
        })
        .collect()
}

/// One rule's page, in Markdown.
pub fn page(rule: &Rule) -> String {
    let Rule {
        id,
        name,
        why,
        mend,
        source,
        ..
    } = rule;
    let about = about(rule);
    format!(
        "## {id}: {name}\n\n{about}\n\n{}\n\n**Mend:** {}\n\n**Source:** {}\n\nFails, and passes:\n\n```diff\n{}```\n",
        folded(why),
        folded(mend),
        folded(source),
        change(rule)
    )
}

/// How much it matters, to whom, and in which forms.
fn about(rule: &Rule) -> String {
    let forms = if rule.compose {
        "task definitions, CloudFormation, Terraform, compose"
    } else {
        "task definitions, CloudFormation, Terraform"
    };
    let persona = pedantic(rule, ", with `--pedantic` unless there is evidence");
    format!("{}{persona} · {forms}", rule.severity.as_str())
}

/// One rule's page for the terminal: nothing of it is written in Markdown but names between backticks,
/// which a colour replaces where there is one.
#[cfg(feature = "laptop")]
pub fn on_paper(rule: &Rule, paper: Paper) -> String {
    /// Longer lines are hard to read.
    const MOST: usize = 100;
    let width = paper.width.min(MOST);
    let ink = match rule.severity {
        Severity::Error => Ink::Bad,
        Severity::Warning => Ink::Loss,
        Severity::Note => Ink::Good,
    };
    let dot = if paper.unicode { "·" } else { "|" };
    let mut text = format!(
        "{}\n{}\n",
        lines(&format!("{}: {}", rule.id, rule.name), width, 0, |line| paper
            .paint(Ink::Strong, line)),
        lines(
            &about(rule).replace('·', dot).replace('`', ""),
            width,
            0,
            |line| paper.paint(ink, line)
        )
    );
    for (title, words) in [("", rule.why), ("Mend", rule.mend), ("Source", rule.source)] {
        let indent = if title.is_empty() { 0 } else { 2 };
        if !title.is_empty() {
            text.push_str(&format!("\n{}", paper.paint(Ink::Strong, title)));
        }
        let folded = lines(words, width, indent, ToOwned::to_owned);
        text.push_str(&format!("\n{}\n", names(&folded, paper)));
    }
    text.push_str(&format!("\n{}\n", paper.paint(Ink::Strong, "Fails, and passes")));
    for line in change(rule).lines() {
        let ink = match line.as_bytes().first() {
            Some(b'-') => Ink::Bad,
            Some(b'+') => Ink::Good,
            _ => Ink::Dim,
        };
        text.push_str(&format!("  {}\n", paper.paint(ink, line)));
    }
    text
}

#[cfg(feature = "laptop")]
fn lines(text: &str, width: usize, indent: usize, paint: impl Fn(&str) -> String) -> String {
    let lines = wrapped(text, width - indent);
    let lines: Vec<String> = lines
        .iter()
        .map(|line| format!("{}{}", " ".repeat(indent), paint(line)))
        .collect();
    lines.join("\n")
}

/// What stands between backticks, in a colour of its own; it may go on in the next line.
#[cfg(feature = "laptop")]
fn names(text: &str, paper: Paper) -> String {
    if !paper.colour {
        return text.to_owned();
    }
    let parts = text.split('`').enumerate();
    parts
        .map(|(number, part)| match number % 2 {
            0 => part.to_owned(),
            _ => {
                let lines: Vec<String> = part
                    .split('\n')
                    .map(|line| paper.paint(Ink::Step, line))
                    .collect();
                lines.join("\n")
            }
        })
        .collect()
}

fn pedantic(rule: &Rule, words: &'static str) -> &'static str {
    match rule.persona {
        Persona::Regular => "",
        Persona::Pedantic => words,
    }
}

/// All pages, one after the other.
pub fn document() -> String {
    let mut text = "# What `ecs-prestop check` looks for\n\nThe same pages as `ecs-prestop check --explain PS001` \
                    and so on; a test keeps them equal. A rule says nothing about what a file does not tell.\n\n\
                    | rule | severity | |\n|---|---|---|\n"
        .to_owned();
    for rule in RULES {
        text.push_str(&format!(
            "| {} | {} | {} |\n",
            rule.id,
            format_args!("{}{}", rule.severity.as_str(), pedantic(rule, ", pedantic")),
            rule.name
        ));
    }
    for rule in RULES {
        text.push('\n');
        text.push_str(&page(rule));
    }
    text
}

/// What turns the failing example into the passing one.
fn change(rule: &Rule) -> String {
    let failing = rule.example.failing();
    let diff = TextDiff::from_lines(failing.as_str(), rule.example.passing);
    let mut hunks = diff.unified_diff();
    hunks.context_radius(2);
    hunks
        .iter_hunks()
        .map(|hunk| hunk.to_string())
        .collect::<String>()
        .lines()
        .filter(|line| !line.starts_with("@@"))
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

fn folded(text: &str) -> String {
    super::output::folded(text, 100)
}
