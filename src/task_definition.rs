//! Task definitions that shut down well: `check` finds what loses requests, `add` wires the sidecar in.
//!
//! ```text
//! source ──▶ document ──▶ model ──▶ check ──▶ text, JSON, SARIF, GitHub
//!                 │          │
//!                 └──────────┴────▶ add ────▶ the same text with the sidecar in it
//! ```
//! - [`source`]: texts from files, under a bound
//! - [`document`]: JSON and YAML with the place of every value
//! - [`model`]: the task definition in it, whichever form it has
//! - [`check`]: the rules, one a file, and how their findings are shown
//! - [`add`]: the sidecar's own definition, and the edits that put it in
//!
//! Neither knows how a drain works; what a setting or a step may be, both ask `config` and `step`.

pub mod add;
pub mod check;
pub mod document;
pub mod model;
pub mod source;
