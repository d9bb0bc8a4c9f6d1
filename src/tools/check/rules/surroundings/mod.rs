//! What stands around the containers: logs, services, target groups, and the file itself.

pub(super) mod blocking_log;
pub(super) mod deregistration_delay;
pub(super) mod green_health_check;
pub(super) mod loopback_health_check;
pub(super) mod minimum_healthy;
pub(super) mod names;
pub(super) mod no_delay;
pub(super) mod only_spot;
pub(super) mod scheduled_on_spot;
pub(super) mod settle_behind_connect;
pub(super) mod slow_to_look_away;
pub(super) mod types;
pub(super) mod undrained_spot;
