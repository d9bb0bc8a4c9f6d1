//! One JSON document: an array of findings, and one of files that could not be read.

use std::io::{self, Write};

use serde_json::json;

use crate::tools::check::{Checked, Located};
use crate::tools::source::FileProblem;

pub(super) fn write(checked: &[Checked], problems: &[FileProblem], out: &mut dyn Write) -> io::Result<()> {
    let findings: Vec<_> = checked
        .iter()
        .flat_map(|file| {
            file.findings
                .iter()
                .map(|finding| in_json(&file.source.name, finding))
        })
        .collect();
    let problems: Vec<_> = problems
        .iter()
        .map(|problem| {
            json!({
                "file": problem.file,
                "line": problem.at.map(|at| at.line),
                "column": problem.at.map(|at| at.column),
                "message": problem.message,
            })
        })
        .collect();
    let document = json!({
        "version": 1,
        "files": checked.len(),
        "task_definitions": checked.iter().map(|file| file.tasks).sum::<usize>(),
        "findings": findings,
        "unreadable": problems,
    });
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}

fn in_json(file: &str, finding: &Located) -> serde_json::Value {
    json!({
        "rule": finding.rule.id,
        "name": finding.rule.name,
        "severity": finding.severity.as_str(),
        "message": finding.message,
        "help": finding.rule.mend,
        "file": file,
        "line": finding.start.line,
        "column": finding.start.column,
        "end_line": finding.end.line,
        "end_column": finding.end.column,
        "path": finding.path,
        "fingerprint": finding.fingerprint,
    })
}
