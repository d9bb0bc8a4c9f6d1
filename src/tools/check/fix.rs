//! `check --fix`: what can be mended without any doubt, as a diff, or in place.

use std::io::Write;
use std::process::ExitCode;

use similar::TextDiff;

use super::{Checked, Edit, Selection, check};
use crate::tools::source::FileProblem;

/// Prints or writes what mends the findings that can be mended. Exits 1 where something is left to mend,
/// by it or by hand.
///
/// # Errors
/// Those of `out`.
pub(super) fn fix(
    checked: &[Checked],
    problems: &[FileProblem],
    selection: &Selection,
    in_place: bool,
    out: &mut dyn Write,
) -> std::io::Result<ExitCode> {
    for problem in problems {
        eprintln!("ecs-prestop: {problem}");
    }
    let (mut mended, mut left) = (0, 0);
    for file in checked {
        let text = mend(file, selection);
        let fixed = file
            .findings
            .iter()
            .filter(|finding| finding.fix.is_some())
            .count();
        if text == file.source.text {
            left += file.findings.len();
            continue;
        }
        mended += fixed;
        left += file.findings.len() - fixed;
        if in_place {
            if file.source.name == "<stdin>" {
                eprintln!("ecs-prestop: --in-place needs a file, not standard input");
                return Ok(ExitCode::from(2));
            }
            std::fs::write(&file.source.name, file.source.with_mark(&text))?;
        } else {
            let name = file.source.name.trim_start_matches(['.', '/']);
            let diff = TextDiff::from_lines(file.source.text.as_str(), &text);
            let shown = diff
                .unified_diff()
                .header(&format!("a/{name}"), &format!("b/{name}"))
                .to_string();
            out.write_all(shown.as_bytes())?;
        }
    }
    let done = if in_place {
        "mended"
    } else {
        "can be mended by --in-place"
    };
    eprintln!("ecs-prestop: {mended} {done}, {left} left to do by hand");
    Ok(ExitCode::from(match (problems.is_empty(), in_place) {
        (false, _) => 2,
        (true, true) if left == 0 => 0,
        (true, false) if left + mended == 0 => 0,
        _ => 1,
    }))
}

/// The text with all edits, or as it was if the result would not be better.
fn mend(file: &Checked, selection: &Selection) -> String {
    let mut edits: Vec<&Edit> = file
        .findings
        .iter()
        .filter_map(|finding| finding.fix.as_ref())
        .collect();
    edits.sort_by_key(|edit| std::cmp::Reverse(edit.span));
    edits.dedup();
    let mut text = file.source.text.clone();
    let mut before = text.len();
    for edit in edits {
        // Two that touch each other are not both made.
        if edit.span.end <= before && text.is_char_boundary(edit.span.start) {
            text.replace_range(edit.span.start..edit.span.end, &edit.text);
            before = edit.span.start;
        }
    }
    let again = check(file.source.with_text(text.clone()), selection);
    let is_better = again.is_ok_and(|again| {
        again.is_some_and(|again| again.tasks == file.tasks && again.findings.len() < file.findings.len())
    });
    if is_better { text } else { file.source.text.clone() }
}
