//! The path of a file says what it may know: imports go down, never up or out.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Where, and what must not be named there. A folder's first rule that a name breaks is told.
/// What lies beside the smallest parts of the shell, and knows them.
const BESIDE: &[&str] = &[
    "sidecar::aws",
    "sidecar::aws_side",
    "sidecar::drain",
    "sidecar::endpoints",
    "sidecar::protection",
    "sidecar::run",
    "sidecar::superseded",
    "sidecar::telemetry",
    "sidecar::watch",
];

const RULES: &[(&str, &[&str], &str)] = &[
    (
        "core",
        &[
            "tokio",
            "hyper",
            "tracing",
            "std::fs",
            "std::process",
            "TcpStream",
            "TcpListener",
        ],
        "the core does no I/O",
    ),
    (
        "core",
        &["Instant::now", "SystemTime", "Timestamp::now", "RandomState"],
        "the core has no clock and no chance: time comes in as a parameter",
    ),
    (
        "core",
        &[
            "crate::config",
            "crate::sidecar",
            "crate::tools",
            "crate::{",
            "super::super::super",
        ],
        "the core knows nothing above it",
    ),
    (
        "config",
        &["crate::sidecar", "crate::tools", "tokio", "aws_credential_types"],
        "settings are read before anything runs",
    ),
    ("sidecar", &["crate::tools"], "the sidecar knows no tool"),
    (
        "sidecar/mailbox",
        BESIDE,
        "the mailbox lies below all that speak through it",
    ),
    (
        "sidecar/status",
        BESIDE,
        "a status is read by all, and reads nobody",
    ),
    ("sidecar/clock", BESIDE, "the clock lies below all"),
    (
        "sidecar/http",
        BESIDE,
        "the HTTP client does not know what a call is for",
    ),
    (
        "sidecar/aws",
        &["sidecar::drain", "sidecar::watch", "sidecar::run"],
        "aws, drain and watch do not know each other",
    ),
    (
        "sidecar/drain",
        &["sidecar::aws", "sidecar::watch", "sidecar::run"],
        "aws, drain and watch do not know each other",
    ),
    (
        "sidecar/watch",
        &["sidecar::aws", "sidecar::drain", "sidecar::run"],
        "aws, drain and watch do not know each other",
    ),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// What breaks a rule in a file at that path below `src`, a line each. Comments and tests may name anything.
fn broken(path: &Path, text: &str) -> Vec<String> {
    let is_test = path.file_name().is_some_and(|name| name == "tests.rs");
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let lines = code.lines().zip(1..).filter(|_| !is_test);
    let mut found = Vec::new();
    for (line, number) in lines.filter(|(line, _)| !line.trim_start().starts_with("//")) {
        for (folder, names, why) in RULES {
            let inside = path.starts_with(folder) || path == Path::new(&format!("{folder}.rs"));
            if let Some(name) = names.iter().find(|name| inside && names_it(line, name)) {
                found.push(format!("src/{}:{number} names {name}: {why}", path.display()));
            }
        }
    }
    found
}

/// As a whole path, so that `tokio` is not found in a longer word.
fn names_it(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let part_of_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let ends_open = name.ends_with(['{', ':']);
        let after = line[at + name.len()..].chars().next();
        !part_of_word(line[..at].chars().next_back()) && (ends_open || !part_of_word(after))
    })
}

#[test]
fn no_file_knows_what_stands_above_or_beside_it() {
    let src = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
    let files = sources(src);
    assert!(files.len() > 50, "{files:?}");
    let broken: Vec<String> = files
        .iter()
        .flat_map(|path| {
            broken(
                path.strip_prefix(src).unwrap(),
                &fs::read_to_string(path).unwrap(),
            )
        })
        .collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn an_import_that_goes_up_and_tokio_in_the_core_are_found() {
    let core = Path::new("core/step.rs");
    for (text, found) in [
        ("use crate::sidecar::http::Network;", 1),
        ("use tokio::time::sleep;\n", 1),
        ("    let now = Instant::now();", 1),
        ("use crate::core::task::Task;\n// tokio is not known here", 0),
        ("#[cfg(test)]\nmod tests {\n    use tokio::time::sleep;\n}", 0),
        ("let tokiosk = 1;", 0),
        ("use crate::{config::Config, core::task::Task};", 1),
    ] {
        assert_eq!(broken(core, text).len(), found, "{text}");
    }
    let aws = Path::new("sidecar/aws/ecs.rs");
    assert_eq!(broken(aws, "use crate::sidecar::drain::Drain;").len(), 1);
    assert_eq!(
        broken(
            Path::new("sidecar/aws_side.rs"),
            "use crate::sidecar::drain::Drain;"
        )
        .len(),
        0
    );
}

/// The name of a type that a line declares; what stands in an `impl` is indented and is not one.
fn declared(line: &str) -> Option<&str> {
    let rest = ["pub ", "pub(super) ", "pub(crate) ", ""]
        .iter()
        .find_map(|visible| line.strip_prefix(visible))?;
    let rest = ["struct ", "enum ", "trait ", "type "]
        .iter()
        .find_map(|word| rest.strip_prefix(word))?;
    rest.split(|c: char| !c.is_alphanumeric()).next()
}

#[test]
fn a_type_name_stands_once_in_the_crate() {
    let src = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in sources(src).iter().filter(|path| !path.ends_with("tests.rs")) {
        let text = fs::read_to_string(path).unwrap();
        for name in text.lines().filter_map(declared) {
            let place = path.strip_prefix(src).unwrap().display().to_string();
            places.entry(name.to_owned()).or_default().push(place);
        }
    }
    assert!(places.contains_key("Lifecycle"), "{places:?}");
    places.retain(|_, files| files.len() > 1);
    assert!(places.is_empty(), "who greps for one finds two: {places:#?}");
}
