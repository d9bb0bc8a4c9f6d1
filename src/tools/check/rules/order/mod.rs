//! The order in which containers stop.

pub(super) mod app_before_sidecar;
pub(super) mod circle;
pub(super) mod condition;
pub(super) mod log_router;
pub(super) mod needed;
pub(super) mod sidecar_before_app;
pub(super) mod stops_with_sidecar;
pub(super) mod unknown_dependency;
