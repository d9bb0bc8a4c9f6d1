//! The preStop hook that Amazon ECS never had.
//!
//! A sidecar container that learns that its task is about to be stopped, tells the main container
//! over HTTP to drain, waits until it has, and sees to it that all of this ends in time. Because it
//! depends on the app (`dependsOn`), ECS stops it first, and the app gets its own SIGTERM only once
//! the sidecar has exited.
//!
//! # The parts
//! The path of a file says what it may know.
//! - [`core`]: decides, without I/O and without a clock
//! - [`config`]: every setting
//! - [`sidecar`]: does what the core commands
//! - [`tools`]: `check` and `add` for task definitions, the stand-in for ECS, the rehearsal, pictures
//!
//! # How a notice flows
//! ```text
//! watch ──Notice──▶ sidecar ──Event──▶ lifecycle ──Command──▶ sidecar ──▶ drain / aws / exit
//!                                         │
//!                                         └──▶ timeline ──▶ telemetry, endpoints
//! ```

pub mod config;
pub mod core;
pub mod sidecar;
pub mod tools;
