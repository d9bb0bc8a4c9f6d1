//! Task definitions that shut down well: `check` finds what loses requests.
//!
//! ```text
//! source ──▶ document ──▶ model ──▶ check ──▶ text, JSON, SARIF, GitHub
//! ```
//! - [`source`]: texts from files, under a bound
//! - [`document`]: JSON and YAML with the place of every value
//! - [`model`]: the task definition in it, whichever form it has
//! - [`check`]: the rules, one a file, and how their findings are shown
//!
//! It does not know how a drain works; what a setting or a step may be, it asks `config` and `step`.

pub mod check;
pub mod document;
pub mod model;
pub mod source;
