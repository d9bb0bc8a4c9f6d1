//! The preStop hook that Amazon ECS never had.
//!
//! A sidecar container that learns that its task is about to be stopped, tells the main container
//! over HTTP to drain, waits until it has, and sees to it that all of this ends in time. Because it
//! depends on the app (`dependsOn`), ECS stops it first, and the app gets its own SIGTERM only once
//! the sidecar has exited.
//!
//! # The parts
//! A pure core decides. It does no I/O and has no clock; time comes in as a parameter.
//! - [`notice`]: why the task must stop, and when its host ends
//! - [`deadline`]: the arithmetic of the 120 seconds
//! - [`task`], [`url`]: plain data that the rest speaks of
//! - [`step`]: what is done to drain; the plan
//! - [`lifecycle`]: the state machine, (event, now) → commands
//! - [`protection`]: the owner of all protection leases, a state machine likewise
//! - [`timeline`]: what happened and when
//!
//! A thin shell does.
//! - [`sidecar`]: feeds the lifecycle and carries out its commands; [`mailbox`]: its one channel
//! - [`watch`]: where notices come from
//! - [`drain`]: how a step is done
//! - [`aws`]: what is asked of AWS
//! - [`protect`]: task protection at work, beside the sidecar
//! - [`http`]: the one small HTTP client
//! - [`endpoints`], [`status`], [`telemetry`]: what others may see
//! - [`config`]: every setting
//!
//! Tools stand around it: [`task_definition`], which checks task definitions and wires the sidecar in, and
//! [`local`], the stand-in for ECS and the rehearsal.
//!
//! # How a notice flows
//! ```text
//! watch ──Notice──▶ sidecar ──Event──▶ lifecycle ──Command──▶ sidecar ──▶ drain / aws / exit
//!                                         │
//!                                         └──▶ timeline ──▶ telemetry, endpoints
//! ```

pub mod deadline;
pub mod lifecycle;
pub mod notice;
pub mod protection;
pub mod step;
pub mod task;
pub mod timeline;
pub mod url;

pub mod aws;
pub mod config;
pub mod drain;
pub mod endpoints;
pub mod http;
pub mod mailbox;
pub mod protect;
pub mod sidecar;
pub mod status;
pub mod telemetry;
pub mod watch;

pub mod local;
pub mod task_definition;
