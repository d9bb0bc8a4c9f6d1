//! A page for each rule, for `--explain` and for the document that holds them all.

use similar::TextDiff;

use super::{Persona, RULES, Rule};

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
    let forms = if rule.compose {
        "task definitions, CloudFormation, compose"
    } else {
        "task definitions, CloudFormation"
    };
    let severity = rule.severity.as_str();
    let persona = pedantic(rule, ", with `--pedantic` unless there is evidence");
    format!(
        "## {id}: {name}\n\n{severity}{persona} · {forms}\n\n{}\n\n**Mend:** {}\n\n**Source:** {}\n\nFails, and passes:\n\n```diff\n{}```\n",
        folded(why),
        folded(mend),
        folded(source),
        change(rule)
    )
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
