//! Workflow commands, which GitHub Actions turns into annotations (GitHub documentation, *Workflow
//! commands for GitHub Actions*).

use std::io::{self, Write};

use crate::tools::check::{Checked, Severity};
use crate::tools::source::FileProblem;

pub(super) fn write(checked: &[Checked], problems: &[FileProblem], out: &mut dyn Write) -> io::Result<()> {
    for file in checked {
        for finding in &file.findings {
            let command = match finding.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Note => "notice",
            };
            writeln!(
                out,
                "::{command} file={},line={},endLine={},col={},endColumn={},title={}::{}",
                property(&file.source.name),
                finding.start.line,
                finding.end.line,
                finding.start.column,
                finding.end.column,
                property(&format!("{} {}", finding.rule.id, finding.rule.name)),
                data(&format!("{}. {}", finding.message, finding.rule.mend)),
            )?;
        }
    }
    for problem in problems {
        let at = problem
            .at
            .map_or_else(String::new, |at| format!(",line={},col={}", at.line, at.column));
        writeln!(
            out,
            "::error file={}{at}::{}",
            property(&problem.file),
            data(&problem.message)
        )?;
    }
    Ok(())
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
