//! Texts from files, directories and standard input, under a bound; lines and columns in them.
//!
//! A directory holds other things than task definitions: what is too long or no text is left out of it
//! and counted, while a file that somebody named is an error then.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::document::{Beside, Caller, MAX_BYTES};

/// Deeper than any repository keeps its task definitions.
const MAX_DIRECTORY_DEPTH: usize = 16;

/// More files than this are a mistake: somebody named the wrong directory.
const MAX_FILES: usize = 10_000;

/// Directories that hold other people's files, or copies.
const FOREIGN: [&str; 10] = [
    ".aws-sam",
    ".git",
    ".hg",
    ".svn",
    ".terraform",
    ".terragrunt-cache",
    ".venv",
    "node_modules",
    "target",
    "vendor",
];

/// Files of one module of Terraform; what they hold together.
const MAX_MODULE_FILES: usize = 200;
const MAX_MODULE_BYTES: usize = 4 << 20;

/// Directories in which somebody who calls a module is looked for.
const MAX_CALLERS: usize = 64;

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
    /// Where it stands, for what it refers to; `None` for a text that is in no file.
    path: Option<PathBuf>,
}

/// What was found in directories and not read.
#[derive(Debug, Default)]
pub struct LeftOut {
    /// Files longer than any task definition.
    pub too_long: usize,
    /// Files that are not UTF-8.
    pub no_text: usize,
    /// Files that cannot be opened.
    pub closed: usize,
    /// Files of Terraform that leave their tasks to modules of others.
    pub of_modules: usize,
    /// Files that may hold a task definition, and why that cannot be told.
    pub unclear: Vec<FileProblem>,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Nobody reads more of them.
        const SHOWN: usize = 20;
        let files = |count: usize| if count == 1 { "1 file" } else { "files" };
        let mut reasons = Vec::new();
        for (count, why) in [
            (self.too_long, "longer than any task definition"),
            (self.no_text, "not UTF-8"),
            (self.closed, "not to be opened"),
            (
                self.of_modules,
                "with calls of modules only (check what `terraform show -json` prints of a plan)",
            ),
            (self.unclear.len(), "not to be read"),
        ] {
            match count {
                0 => {}
                1 => reasons.push(format!("{} {why}", files(1))),
                _ => reasons.push(format!("{count} {} {why}", files(count))),
            }
        }
        write!(f, "left out: {}", reasons.join(", "))?;
        for problem in self.unclear.iter().take(SHOWN) {
            write!(f, "\n  {problem}")?;
        }
        match self.unclear.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

impl LeftOut {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.too_long + self.no_text + self.closed + self.of_modules + self.unclear.len() == 0
    }
}

/// Why there is no text in a file.
enum NoText {
    TooLong,
    NotUtf8(String),
    Closed(std::io::Error),
}

impl NoText {
    fn message(self) -> String {
        match self {
            NoText::TooLong => format!(
                "longer than {} KiB: expected a task definition (at most 64 KiB) or a template (at most 1 MB); of a long plan of \
                 Terraform, `jq '{{format_version, planned_values, configuration}}'` leaves what is read",
                MAX_BYTES / 1024
            ),
            NoText::NotUtf8(why) => why,
            NoText::Closed(why) => format!("cannot be read: {why}"),
        }
    }
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
    /// Whether it was read, and holds no task definition.
    pub empty: bool,
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
    /// A text that is there already, of a file that somebody named.
    pub fn new(name: impl Into<String>, text: String) -> Source {
        let lines = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Source {
            name: name.into(),
            text,
            named: true,
            marked: false,
            lines,
            path: None,
        }
    }

    /// Another text in the place of this one.
    pub fn with_text(&self, text: String) -> Source {
        Source {
            named: self.named,
            path: self.path.clone(),
            ..Source::new(&self.name, text)
        }
    }

    /// Reads a file, or standard input for `-`.
    ///
    /// # Errors
    /// Where it cannot be read, is too long, or is not UTF-8.
    pub fn read(path: &str) -> Result<Source, FileProblem> {
        let name = if path == "-" { "<stdin>" } else { path };
        Source::try_read(path).map_err(|why| FileProblem {
            file: name.to_owned(),
            at: None,
            message: why.message(),
            foreign: false,
            empty: false,
        })
    }

    fn try_read(path: &str) -> Result<Source, NoText> {
        let name = if path == "-" { "<stdin>" } else { path };
        let bytes = bytes(path)?;
        let marked = bytes.starts_with(MARK);
        let text = text(bytes).map_err(NoText::NotUtf8)?;
        Ok(Source {
            marked,
            path: (path != "-").then(|| PathBuf::from(path)),
            ..Source::new(name, text)
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
            empty: false,
        }
    }
}

impl Beside for Source {
    fn module(&self) -> Vec<(String, String)> {
        let own = self.path.as_ref().and_then(|path| path.file_name());
        self.directory()
            .map_or_else(Vec::new, |directory| module_of(&directory, own))
    }

    fn file(&self, path: &str) -> Option<String> {
        if Path::new(path).is_absolute() {
            return None;
        }
        let path = self.directory()?.join(path);
        text_of(&path)
    }

    fn callers(&self) -> Vec<Caller> {
        let own = self
            .directory()
            .and_then(|directory| fs::canonicalize(directory).ok());
        let candidates = own.as_deref().map(possible_callers).unwrap_or_default();
        candidates
            .into_iter()
            .take(MAX_CALLERS)
            .filter_map(|(directory, source)| {
                let files = module_of(&directory, None);
                let named = files.iter().any(|(_, text)| text.contains(&source));
                named.then_some(Caller { source, files })
            })
            .collect()
    }
}

fn text_of(path: &Path) -> Option<String> {
    fs::metadata(path).ok()?.is_file().then_some(())?;
    text(bytes(path.to_str()?).ok()?).ok()
}

/// The files of a directory that Terraform reads by itself, but for one.
fn module_of(directory: &Path, but: Option<&OsStr>) -> Vec<(String, String)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .take(MAX_FILES)
        .filter(|entry| Some(entry.file_name().as_os_str()) != but)
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| {
            let read_by_itself = name == "terraform.tfvars" || name.ends_with(".auto.tfvars");
            read_by_itself || name.ends_with(".tf") || name.ends_with(".tofu")
        })
        .collect();
    names.sort();
    names.truncate(MAX_MODULE_FILES);
    let mut left = MAX_MODULE_BYTES;
    let mut files = Vec::new();
    for name in names {
        if let Some(text) = text_of(&directory.join(&name))
            && text.len() <= left
        {
            left -= text.len();
            files.push((name, text));
        }
    }
    files
}

/// The directories from which a module is called where people keep them apart, and what it is named by
/// there: the one above, the root of `modules/NAME`, and what stands beside `modules`, such as
/// `environments/prod`.
fn possible_callers(own: &Path) -> Vec<(PathBuf, String)> {
    let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
    let (Some(own_name), Some(parent)) = (name(own), own.parent()) else {
        return Vec::new();
    };
    let mut found = vec![(parent.to_owned(), format!("./{own_name}"))];
    let (Some(folder), Some(above)) = (name(parent), parent.parent()) else {
        return found;
    };
    found.push((above.to_owned(), format!("./{folder}/{own_name}")));
    if !folder.contains("module") {
        return found;
    }
    for sibling in directories(parent) {
        found.push((sibling, format!("../{own_name}")));
    }
    for beside in directories(above) {
        for inner in directories(&beside) {
            found.push((inner, format!("../../{folder}/{own_name}")));
        }
        found.push((beside, format!("../{folder}/{own_name}")));
    }
    found
}

/// Those of a directory that are its own, by name.
fn directories(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let own = entries.take(MAX_FILES).filter(|entry| {
        let name = entry.file_name();
        entry.file_type().is_ok_and(|kind| kind.is_dir()) && !FOREIGN.iter().any(|known| name == *known)
    });
    let mut paths: Vec<PathBuf> = own.map(|entry| entry.path()).collect();
    paths.sort();
    paths.truncate(MAX_CALLERS);
    paths
}

impl Source {
    fn directory(&self) -> Option<PathBuf> {
        let parent = self.path.as_ref()?.parent()?;
        Some(if parent.as_os_str().is_empty() {
            PathBuf::from(".")
        } else {
            parent.to_owned()
        })
    }
}

/// Every source that `paths` name, in their order: files as they are, directories with what they
/// hold, by name. A problem with one does not keep the others back.
pub fn each(paths: &[String], mut visit: impl FnMut(Result<Source, FileProblem>)) -> LeftOut {
    let mut left_out = LeftOut::default();
    for path in paths {
        if path != "-" && Path::new(path).is_dir() {
            let mut files = Vec::new();
            match walk(Path::new(path), 0, &mut files) {
                Ok(()) if files.len() > MAX_FILES => visit(Err(FileProblem {
                    file: path.clone(),
                    at: None,
                    message: format!(
                        "holds more than {MAX_FILES} files in JSON, YAML or Terraform's language: name the directory of the task definitions"
                    ),
                    foreign: false,
                    empty: false,
                })),
                walked => {
                    for file in files {
                        match Source::try_read(&file) {
                            Ok(source) => visit(Ok(Source {
                                named: false,
                                ..source
                            })),
                            Err(NoText::TooLong) => left_out.too_long += 1,
                            Err(NoText::NotUtf8(_)) => left_out.no_text += 1,
                            Err(NoText::Closed(_)) => left_out.closed += 1,
                        }
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
    left_out
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
        empty: false,
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
    [".json", ".yaml", ".yml", ".template", ".tf", ".tofu"]
        .iter()
        .any(|ending| name.ends_with(ending))
}

fn bytes(path: &str) -> Result<Vec<u8>, NoText> {
    let mut bytes = Vec::new();
    let read = if path == "-" {
        std::io::stdin()
            .lock()
            .take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
    } else {
        let metadata = fs::metadata(path).map_err(NoText::Closed)?;
        if metadata.is_file() && metadata.len() > MAX_BYTES {
            return Err(NoText::TooLong);
        }
        File::open(path)
            .map_err(NoText::Closed)?
            .take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
    };
    read.map_err(NoText::Closed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(NoText::TooLong);
    }
    Ok(bytes)
}

/// The byte order mark in UTF-8.
const MARK: &[u8] = "\u{feff}".as_bytes();

/// UTF-8, with or without a byte order mark.
fn text(mut bytes: Vec<u8>) -> Result<String, String> {
    if bytes.starts_with(b"PK") {
        return Err("is an archive, as `terraform plan -out` writes it: check what `terraform show -json FILE` prints".to_owned());
    }
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
