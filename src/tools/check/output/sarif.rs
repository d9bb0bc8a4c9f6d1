//! SARIF 2.1.0 (OASIS), for code scanning.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::tools::check::{Checked, Located, RULES, Rule};
use crate::tools::source::FileProblem;

pub(super) fn write(checked: &[Checked], problems: &[FileProblem], out: &mut dyn Write) -> io::Result<()> {
    let results: Vec<Value> = checked
        .iter()
        .flat_map(|file| {
            file.findings
                .iter()
                .map(|finding| result(&file.source.name, finding))
        })
        .collect();
    let unreadable: Vec<Value> = problems.iter().map(notification).collect();
    let document = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "ecs-prestop",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": RULES.iter().map(rule).collect::<Vec<_>>(),
            }},
            // Columns count characters, as in the other forms.
            "columnKind": "unicodeCodePoints",
            "invocations": [{
                "executionSuccessful": problems.is_empty(),
                "toolExecutionNotifications": unreadable,
            }],
            "results": results,
        }],
    });
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}

fn rule(rule: &Rule) -> Value {
    json!({
        "id": rule.id,
        "shortDescription": {"text": rule.name},
        "fullDescription": {"text": rule.why},
        "help": {"text": format!("{}\n\nSource: {}", rule.mend, rule.source)},
        "defaultConfiguration": {"level": rule.severity.as_str()},
    })
}

fn result(file: &str, finding: &Located) -> Value {
    json!({
        "ruleId": finding.rule.id,
        "ruleIndex": RULES.iter().position(|rule| rule.id == finding.rule.id),
        "level": finding.severity.as_str(),
        "message": {"text": finding.message},
        "partialFingerprints": {"ecsPrestop/v1": finding.fingerprint},
        "locations": [{
            "physicalLocation": {
                "artifactLocation": {"uri": uri(file)},
                "region": {
                    "startLine": finding.start.line,
                    "startColumn": finding.start.column,
                    "endLine": finding.end.line,
                    "endColumn": finding.end.column,
                },
            },
            "logicalLocations": [{"fullyQualifiedName": finding.path}],
        }],
    })
}

fn notification(problem: &FileProblem) -> Value {
    let mut place = json!({"artifactLocation": {"uri": uri(&problem.file)}});
    if let (Some(at), Some(place)) = (problem.at, place.as_object_mut()) {
        place.insert(
            "region".to_owned(),
            json!({"startLine": at.line, "startColumn": at.column}),
        );
    }
    json!({
        "level": "error",
        "message": {"text": problem.message},
        "locations": [{"physicalLocation": place}],
    })
}

/// A path as a relative URI reference: what has a meaning there is escaped (RFC 3986, section 3.3).
fn uri(path: &str) -> String {
    let mut uri = String::new();
    for byte in path.trim_start_matches("./").bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                uri.push(char::from(byte))
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}
