//! Tools for a laptop: the stand-in for ECS and EC2, and the rehearsal of whole shutdowns.
//!
//! Nothing outside `main.rs` uses them; they use the sidecar only as its users do, by starting it.

pub mod rehearse;
pub mod sample;
pub mod simulate;
