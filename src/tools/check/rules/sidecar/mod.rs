//! The sidecar's container.

pub(super) mod essential;
pub(super) mod health_check;
pub(super) mod host_port;
pub(super) mod memory;
pub(super) mod restarts;
pub(super) mod task_role;
pub(super) mod writable_root;
