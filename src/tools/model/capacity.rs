//! Whether the host of a task may go away, as far as its file tells.

use crate::tools::document::Node;

use super::{TaskDefinition, Value};

/// Whether the host goes away two minutes after a notice.
#[derive(Clone, Copy, Debug)]
pub enum Host<'a> {
    /// The file says that it runs on Spot, here.
    Goes(&'a Node<'a>),
    /// It has to be reckoned with: ECS manages the instances, or there is a sidecar whom nobody told
    /// otherwise.
    MayGo,
    /// The file says that it runs on demand.
    Stays,
    /// The file does not say.
    Unknown,
}

impl<'a> TaskDefinition<'a> {
    /// What is known of the host of this task.
    pub fn host(&self) -> Host<'a> {
        if let Some(node) = self.services.iter().find_map(|service| service.spot) {
            return Host::Goes(node);
        }
        let sidecars: Vec<_> = self
            .containers
            .iter()
            .filter(|container| container.is_sidecar())
            .collect();
        let capacity = sidecars
            .iter()
            .find_map(|sidecar| sidecar.variable("PRESTOP_CAPACITY"));
        match capacity.map(|variable| &variable.value) {
            Some(Value::Known(word, node)) if word == "spot" => return Host::Goes(node),
            Some(Value::Known(word, _)) if word == "on-demand" => return Host::Stays,
            Some(Value::Unknown(_)) => return Host::Unknown,
            _ => {}
        }
        if !self.services.is_empty() && self.services.iter().all(|service| service.on_demand) {
            return Host::Stays;
        }
        // Managed instances are on demand, Spot or reserved, as their capacity provider says.
        match sidecars.is_empty() && !self.on_managed_instances() {
            true => Host::Unknown,
            false => Host::MayGo,
        }
    }
}
