//! Texts from files, directories and standard input, under a bound; lines and columns in them.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use super::document::MAX_BYTES;

/// Deeper than any repository keeps its task definitions.
const MAX_DIRECTORY_DEPTH: usize = 16;

/// More files than this are a mistake: somebody named the wrong directory.
const MAX_FILES: usize = 10_000;

/// Directories that hold other people's files.
const FOREIGN: [&str; 6] = [".git", ".terraform", ".venv", "node_modules", "target", "vendor"];

/// A text, its name, and where its lines start.
#[derive(Debug)]
pub struct Source {
    /// The path as it was given, or `<stdin>`.
    pub name: String,
    /// Without a byte order mark.
    pub text: String,
    /// Whether the user named this file, or it was found in a directory that the user named.
    pub named: bool,
    /// Whether the file starts with a byte order mark.
    marked: bool,
    lines: Vec<usize>,
}

/// A file that cannot be read, in words that say what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    /// The path as it was given.
    pub file: String,
    /// Line and column, where it has one.
    pub at: Option<Position>,
    /// What is wrong and what was expected.
    pub message: String,
    /// Whether it is somebody else's file in a directory, which is no fault.
    pub foreign: bool,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some(Position { line, column }) => write!(f, "{}:{line}:{column}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

/// A place for people: both start at 1, columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

impl Source {
    /// A text that is there already.
    pub fn new(name: impl Into<String>, text: String, named: bool) -> Source {
        let lines = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Source {
            name: name.into(),
            text,
            named,
            marked: false,
            lines,
        }
    }

    /// Reads a file, or standard input for `-`.
    ///
    /// # Errors
    /// Where it cannot be read, is too long, or is not UTF-8.
    pub fn read(path: &str) -> Result<Source, FileProblem> {
        Source::read_as(path, true)
    }

    fn read_as(path: &str, named: bool) -> Result<Source, FileProblem> {
        let name = if path == "-" { "<stdin>" } else { path };
        let problem = |message: String| FileProblem {
            file: name.to_owned(),
            at: None,
            message,
            foreign: !named,
        };
        let bytes = bytes(path).map_err(problem)?;
        let marked = bytes.starts_with(MARK);
        let text = text(bytes).map_err(problem)?;
        Ok(Source {
            marked,
            ..Source::new(name, text, named)
        })
    }

    /// A new text for the same file: with a byte order mark where it had one.
    pub fn with_mark(&self, text: &str) -> String {
        format!("{}{text}", if self.marked { "\u{feff}" } else { "" })
    }

    /// Where a byte stands.
    pub fn position(&self, at: usize) -> Position {
        let line = self.lines.partition_point(|start| *start <= at).max(1);
        let start = self.lines[line - 1];
        let before = self.text.get(start..at.min(self.text.len())).unwrap_or("");
        Position {
            line,
            column: before.chars().count() + 1,
        }
    }

    /// A line by its number, without its end.
    pub fn line(&self, line: usize) -> &str {
        let start = line.checked_sub(1).and_then(|index| self.lines.get(index));
        let rest = start.and_then(|start| self.text.get(*start..)).unwrap_or("");
        rest.lines().next().unwrap_or("")
    }

    /// A problem at a byte of this text.
    pub fn problem(&self, at: usize, message: String) -> FileProblem {
        FileProblem {
            file: self.name.clone(),
            at: Some(self.position(at)),
            message,
            foreign: false,
        }
    }
}

/// Every source that `paths` name, in their order: files as they are, directories with what they
/// hold, by name. A problem with one does not keep the others back.
pub fn each(paths: &[String], mut visit: impl FnMut(Result<Source, FileProblem>)) {
    for path in paths {
        if path != "-" && Path::new(path).is_dir() {
            let mut files = Vec::new();
            match walk(Path::new(path), 0, &mut files) {
                Ok(()) if files.len() > MAX_FILES => visit(Err(FileProblem {
                    file: path.clone(),
                    at: None,
                    message: format!(
                        "holds more than {MAX_FILES} JSON and YAML files: name the directory of the task definitions"
                    ),
                    foreign: false,
                })),
                walked => {
                    for file in files {
                        visit(Source::read_as(&file, false));
                    }
                    if let Err(problem) = walked {
                        visit(Err(problem));
                    }
                }
            }
        } else {
            visit(Source::read(path));
        }
    }
}

/// A source, or the problem with one, as if it had been found in a directory that somebody named. A file
/// that is not there stays a fault.
pub fn as_found(source: Result<Source, FileProblem>) -> Result<Source, FileProblem> {
    source
        .map(|source| Source {
            named: false,
            ..source
        })
        .map_err(|problem| FileProblem {
            foreign: Path::new(&problem.file).is_file(),
            ..problem
        })
}

fn walk(directory: &Path, depth: usize, files: &mut Vec<String>) -> Result<(), FileProblem> {
    let problem = |why: std::io::Error| FileProblem {
        file: directory.display().to_string(),
        at: None,
        message: format!("cannot read this directory: {why}"),
        foreign: false,
    };
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory).map_err(problem)? {
        entries.push(entry.map_err(problem)?);
        if entries.len() + files.len() > MAX_FILES * 2 {
            break;
        }
    }
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        // Neither follows links: a link to a parent would never end.
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            if depth < MAX_DIRECTORY_DEPTH && !FOREIGN.contains(&name.as_str()) {
                walk(&entry.path(), depth + 1, files)?;
            }
        } else if kind.is_file() && is_document(&name) {
            files.push(entry.path().display().to_string());
        }
        if files.len() > MAX_FILES {
            return Ok(());
        }
    }
    Ok(())
}

fn is_document(name: &str) -> bool {
    [".json", ".yaml", ".yml", ".template"]
        .iter()
        .any(|ending| name.ends_with(ending))
}

fn bytes(path: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let cannot = |why: std::io::Error| format!("cannot be read: {why}");
    let read = if path == "-" {
        std::io::stdin()
            .lock()
            .take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
    } else {
        let metadata = fs::metadata(path).map_err(cannot)?;
        if metadata.is_file() && metadata.len() > MAX_BYTES {
            return Err(too_long());
        }
        File::open(path)
            .map_err(cannot)?
            .take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
    };
    read.map_err(cannot)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(too_long());
    }
    Ok(bytes)
}

fn too_long() -> String {
    format!(
        "longer than {} KiB: expected a task definition (at most 64 KiB) or a template (at most 1 MB)",
        MAX_BYTES / 1024
    )
}

/// The byte order mark in UTF-8.
const MARK: &[u8] = "\u{feff}".as_bytes();

/// UTF-8, with or without a byte order mark.
fn text(mut bytes: Vec<u8>) -> Result<String, String> {
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        return Err("is UTF-16: expected UTF-8; `iconv -f UTF-16 -t UTF-8` converts it".to_owned());
    }
    if bytes.starts_with(MARK) {
        bytes.drain(..MARK.len());
    }
    String::from_utf8(bytes).map_err(|why| {
        let line = why.as_bytes()[..why.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1;
        format!("is not UTF-8 in line {line}: expected a task definition in JSON or YAML")
    })
}
