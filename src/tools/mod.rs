//! Tools around the sidecar. Nothing of it knows them; they use it only as its users do, by starting it.
//!
//! ```text
//! source ──▶ document ──▶ model ──▶ check ──▶ text, JSON, SARIF, GitHub
//!                 │          │
//!                 └──────────┴────▶ add ────▶ the same text with the sidecar in it
//! ```
//! - [`source`]: texts from files, under a bound
//! - [`document`]: JSON, YAML and Terraform's language with the place of every value
//! - [`model`]: the task definition in it, whichever form it has
//! - [`check`]: the rules, one a file, and how their findings are shown
//! - [`add`]: the sidecar's own definition, and the edits that put it in
//! - [`colour`]: whether what is shown may have colours
//! - [`simulate`]: the stand-in for ECS and EC2
//! - [`rehearse`]: whole shutdowns on a laptop; [`sample_app`]: the app in them
//! - [`picture`]: shutdowns drawn for the terminal and as SVG; [`timeline`]: out of the sidecar's log
//!
//! None of them knows how a drain works; what a setting or a step may be, they ask `config` and `core::step`.

use std::io::Write as _;

pub mod add;
pub mod check;
pub mod colour;
pub mod document;
#[cfg(feature = "laptop")]
pub mod manual;
pub mod model;
#[cfg(feature = "laptop")]
pub mod picture;
#[cfg(feature = "laptop")]
pub mod rehearse;
pub mod sample_app;
pub mod simulate;
pub mod source;
#[cfg(feature = "laptop")]
pub mod timeline;

/// A line on standard output. Somebody who stops reading, as `head` does, is no reason to fail.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
