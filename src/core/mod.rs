//! The core decides. It does no I/O and has no clock: time comes in as a parameter.
//!
//! - [`notice`]: why the task must stop, and when its host ends
//! - [`watch_items`]: what the instance metadata announces
//! - [`deadline`]: the arithmetic of the 120 seconds
//! - [`task`], [`url`], [`duration`]: plain data that the rest speaks of
//! - [`step`], [`plan`]: what is done to drain, and in which order
//! - [`quiet`]: whom the app owes an answer, judged from one look to the next
//! - [`lifecycle`]: the state machine of a shutdown, (event, now) → commands
//! - [`leases`]: the owner of all protection leases, a state machine likewise
//! - [`superseded`]: whether ECS wants this task gone while it cannot stop it
//! - [`timeline`]: what happened and when

pub mod deadline;
pub mod duration;
pub mod leases;
pub mod lifecycle;
pub mod notice;
pub mod plan;
pub mod quiet;
pub mod step;
pub mod superseded;
pub mod task;
pub mod timeline;
pub mod url;
pub mod watch_items;
