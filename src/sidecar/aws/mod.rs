//! What is asked of AWS: task protection by the ECS agent, the ECS API, load balancing, Cloud Map.
//!
//! Each module turns one service's answers into plain data of the core and never lets a strange
//! answer become an error of the drain. The SDK is known in this room only, and no client is made
//! until it is needed.
//! - [`protection`]: the agent's endpoint
//! - [`clients`]: credentials, region, endpoints, limits; [`connector`]: how its calls leave
//! - [`contained`]: what if the SDK panics
//! - [`failure`]: what can come in place of an answer, and what to do about it
//! - [`ecs`], [`load_balancing`], [`cloud_map`]: the calls; [`leaving`]: those of the last two together

pub mod clients;
pub mod cloud_map;
pub mod connector;
pub mod contained;
pub mod ecs;
pub mod failure;
pub mod leaving;
pub mod load_balancing;
pub mod protection;

pub use clients::Aws;
pub use failure::Failure;
