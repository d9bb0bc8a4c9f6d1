//! What stands around the containers: logs, services, target groups, and the file itself.

pub(super) mod blocking_log;
pub(super) mod deregistration_delay;
pub(super) mod green_health_check;
pub(super) mod loopback_health_check;
pub(super) mod minimum_healthy;
pub(super) mod names;
pub(super) mod types;
