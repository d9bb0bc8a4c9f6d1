//! What the contract promises, one file per promise.
//!
//! Time is paused wherever no real process is needed: [`memory`] plays the whole sidecar in this
//! process over connections in memory. [`process`] starts the real binary.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on panics"
)]

mod memory;
mod process;

mod add;
mod answers;
mod aws;
mod balancer;
mod blind;
mod caddy;
mod check;
mod command_line;
mod containers;
mod endpoints;
mod exits;
mod faults;
mod house;
mod names;
mod notices;
mod protection;
mod quiet;
mod quiet_plays;
mod quiet_sockets;
mod readme;
mod rehearsals;
mod shells;
mod stand_in;
mod stop_order;
mod superseded;
mod terraform;
mod timeline;
mod truth;
