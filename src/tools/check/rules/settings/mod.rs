//! The sidecar's settings and steps.

pub(super) mod ack_without_endpoint;
pub(super) mod apart;
pub(super) mod invalid;
pub(super) mod quiet_unseen;
pub(super) mod step_to_closed_port;
pub(super) mod step_to_nobody;
pub(super) mod token_in_plain_text;

use crate::core::plan::{DRAIN_LABEL, PlannedStep};
use crate::tools::document::Node;
use crate::tools::model::{SidecarContainer, TaskDefinition};

/// Where a step is written: the setting, or the label of its container.
fn place<'a>(
    task: &TaskDefinition<'a>,
    sidecar: &SidecarContainer<'_, 'a>,
    planned: &PlannedStep,
) -> &'a Node<'a> {
    let owner = planned.container.as_deref().and_then(|name| task.container(name));
    let label = owner.and_then(|container| container.labels.get(DRAIN_LABEL));
    label.map_or_else(|| sidecar.place("PRESTOP_DRAIN"), |(_, node)| node)
}
