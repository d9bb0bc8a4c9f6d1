//! Tools for a laptop: the stand-in for ECS and EC2, and the rehearsal of whole shutdowns.
//!
//! Nothing outside `main.rs` uses them; they use the sidecar only as its users do, by starting it.

use std::io::Write as _;

pub mod rehearse;
pub mod sample;
pub mod simulate;

/// A line on standard output. Somebody who stops reading, as `head` does, is no reason to fail.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
