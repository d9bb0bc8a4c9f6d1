//! `.ecs-prestop.yaml`: what a repository leaves alone, and why; and the baseline of an old one.

use std::collections::BTreeSet;
use std::path::Path;

use crate::tools::document::{self, Node};
use crate::tools::source::{FileProblem, Source};

use super::{Located, rules};

/// Looked for where `check` is started.
pub(super) const FILE: &str = ".ecs-prestop.yaml";

/// More reasons than anybody keeps an eye on.
const MAX_EXCEPTIONS: usize = 1000;

/// What is left alone.
#[derive(Clone, Debug, Default)]
pub struct Exceptions {
    list: Vec<Exception>,
}

/// One rule that is left alone, with the reason.
#[derive(Clone, Debug)]
struct Exception {
    rule: &'static str,
    /// With `*` for any characters; everywhere without one.
    file: Option<String>,
    /// A JSON path: the value there and what is in it.
    path: Option<String>,
}

impl Exceptions {
    /// Reads the file that is named, or the one that is there.
    ///
    /// # Errors
    /// Where it cannot be read, or says something else than exceptions with their reasons.
    pub(super) fn read(named: Option<&str>) -> Result<Exceptions, FileProblem> {
        let path = match named {
            Some(path) => path,
            None if Path::new(FILE).is_file() => FILE,
            None => return Ok(Exceptions::default()),
        };
        Exceptions::of(&Source::read(path)?)
    }

    /// Reads a text.
    ///
    /// # Errors
    /// Where it says something else than exceptions with their reasons.
    pub fn of(source: &Source) -> Result<Exceptions, FileProblem> {
        let (root, _) =
            document::parse(&source.name, &source.text).map_err(|why| source.problem(why.at, why.message))?;
        let wrong = |node: &Node<'_>, message: &str| source.problem(node.span.start, message.to_owned());
        if let Some(entry) = root.entries().iter().find(|entry| entry.key != "ignore") {
            return Err(source.problem(
                entry.key_span.start,
                format!(
                    "`{}` is no setting: expected `ignore`, a list of exceptions",
                    document::shortened(&entry.key)
                ),
            ));
        }
        let list = root
            .get("ignore")
            .ok_or_else(|| wrong(&root, "expected `ignore`, a list of exceptions"))?;
        let one = |item: &Node<'_>| {
            let known = ["rule", "file", "path", "reason"];
            if let Some(entry) = item
                .entries()
                .iter()
                .find(|entry| !known.contains(&entry.key.as_ref()))
            {
                return Err(source.problem(
                    entry.key_span.start,
                    format!(
                        "`{}` is not known here: expected rule, file, path and reason",
                        document::shortened(&entry.key)
                    ),
                ));
            }
            let word = |name: &str| item.get(name).and_then(Node::text).map(ToOwned::to_owned);
            let rule =
                word("rule").ok_or_else(|| wrong(item, "an exception names its `rule`, such as PS010"))?;
            let rule = rules::find(&rule).map_err(|why| wrong(item, &why))?;
            if word("reason").is_none_or(|reason| reason.trim().is_empty()) {
                return Err(wrong(item, "an exception says why: expected a `reason`"));
            }
            Ok(Exception {
                rule: rule.id,
                file: word("file"),
                path: word("path"),
            })
        };
        let list = list
            .items()
            .iter()
            .take(MAX_EXCEPTIONS)
            .map(one)
            .collect::<Result<_, _>>()?;
        Ok(Exceptions { list })
    }

    /// Whether a finding is left alone.
    pub(super) fn hold(&self, file: &str, finding: &Located) -> bool {
        let file = file.trim_start_matches("./");
        self.list.iter().any(|exception| {
            exception.rule == finding.rule.id
                && exception
                    .file
                    .as_ref()
                    .is_none_or(|pattern| matches(pattern.trim_start_matches("./"), file))
                && exception
                    .path
                    .as_ref()
                    .is_none_or(|path| is_within(&finding.path, path))
        })
    }
}

/// Whether a path is another one or goes on from it.
fn is_within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// `*` stands for any characters.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// The findings that stood in an old repository when `check` came: they are not told again.
#[derive(Clone, Debug, Default)]
pub struct Baseline {
    known: BTreeSet<String>,
}

impl Baseline {
    /// Reads what [`Baseline::write`] has written.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub(super) fn read(path: &str) -> Result<Baseline, FileProblem> {
        let source = Source::read(path)?;
        let known = source.text.lines().filter(|line| !line.starts_with('#'));
        let known = known
            .filter_map(|line| line.split_whitespace().next())
            .map(ToOwned::to_owned);
        Ok(Baseline {
            known: known.collect(),
        })
    }

    /// One finding a line: its fingerprint, and what it is for people.
    pub(super) fn write<'f>(findings: impl Iterator<Item = (&'f str, &'f Located)>) -> String {
        let mut text =
            "# Findings that `ecs-prestop check --baseline` does not tell again. Delete a line to see one.\n"
                .to_owned();
        for (file, finding) in findings {
            text.push_str(&format!(
                "{} {} {file}: {}\n",
                finding.fingerprint, finding.rule.id, finding.message
            ));
        }
        text
    }

    pub(super) fn holds(&self, finding: &Located) -> bool {
        self.known.contains(&finding.fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything_and_paths_hold_what_is_in_them() {
        for (pattern, text, fits) in [
            ("a.json", "a.json", true),
            ("a.json", "b/a.json", false),
            ("*.json", "b/a.json", true),
            ("deploy/*/task*.json", "deploy/a/task-b.json", true),
            ("deploy/*/task*.json", "deploy/task.json", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
        assert!(is_within("$.a[0].b", "$.a[0]") && is_within("$.a", "$.a"));
        assert!(!is_within("$.ab", "$.a") && !is_within("$.a", "$.a[0]"));
    }
}
