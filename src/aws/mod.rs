//! What is asked of AWS: the task metadata and the task protection endpoint of the ECS agent.
//!
//! Each module turns one service's answers into plain data of the core and never lets a strange
//! answer become an error of the drain.

pub mod protection;
pub mod task_metadata;
