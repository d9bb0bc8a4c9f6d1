//! What is wrong with a setting, in words that say what to do.

use std::fmt;

use super::PREFIX;

/// A value that cannot be, or a variable that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Out of bounds or not understood.
    #[error("{name} is `{value}`: {allowed}")]
    Value {
        /// The variable or the flag, whichever was given.
        name: String,
        /// As given; hidden for a secret.
        value: String,
        /// What may stand there, or what to do.
        allowed: String,
    },
    /// A misspelt or foreign `PRESTOP_*`.
    #[error("{name} is not a setting of ecs-prestop{}", Nearest(.nearest))]
    Unknown {
        name: String,
        /// The setting that was probably meant.
        nearest: Option<String>,
    },
}

impl Problem {
    /// The variable or the flag.
    pub fn name(&self) -> &str {
        match self {
            Problem::Value { name, .. } | Problem::Unknown { name, .. } => name,
        }
    }
}

struct Nearest<'a>(&'a Option<String>);

impl fmt::Display for Nearest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => write!(f, ": did you mean {name}?"),
            None => f.write_str("; `ecs-prestop run --help` lists them all. Remove it or rename it"),
        }
    }
}

/// The most similar name, where any is similar enough to have been meant.
pub(super) fn nearest(key: &str, names: &[String]) -> Option<String> {
    const SIMILAR: f64 = 0.7;
    let own = |name: &str| name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
    names
        .iter()
        .map(|name| {
            (
                strsim::normalized_damerau_levenshtein(&own(key), &own(name)),
                name,
            )
        })
        .filter(|(likeness, _)| *likeness >= SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name.clone())
}
