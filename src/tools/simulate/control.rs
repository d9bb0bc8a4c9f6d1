//! `/_simulate/…`: what can be announced, taken back and broken, and in which words.

use hyper::Method;
use serde_json::json;

use super::World;
#[cfg(feature = "laptop")]
use super::deployment::ServiceChange;
use super::faults::Fault;
use super::query::Query;
use crate::core::notice::Action;

/// What changes the answers of AWS's APIs, which the stand-in of the image does not play.
const OF_AWS: &str = if cfg!(feature = "laptop") {
    "service, instance, "
} else {
    ""
};

impl World {
    /// `POST` makes it so, `DELETE` takes it back, `GET` only shows.
    pub(super) fn control(&mut self, method: &Method, what: &str, query: Query<'_>) -> Result<(), String> {
        let on = *method != Method::DELETE;
        if *method == Method::GET {
            return Ok(());
        }
        let metadata = &mut self.instance_metadata;
        match what {
            "spot" => {
                metadata.spot = None;
                if on {
                    let action = query.get("action").unwrap_or("terminate");
                    let action = match action {
                        "terminate" => Action::Terminate,
                        "stop" => Action::Stop,
                        "hibernate" => Action::Hibernate,
                        other => {
                            return Err(format!(
                                "action is `{other}`: allowed is terminate, stop or hibernate"
                            ));
                        }
                    };
                    metadata.announce_spot(action, query.duration("in", 120)?);
                }
            }
            "rebalance" if on => metadata.recommend_rebalance(),
            "rebalance" => metadata.rebalance = None,
            "maintenance" => {
                let state = query.get("state").unwrap_or("active").to_owned();
                if !["active", "completed", "canceled"].contains(&state.as_str()) {
                    return Err(format!(
                        "state is `{state}`: allowed is active, completed or canceled"
                    ));
                }
                let code = query.get("code").unwrap_or("system-reboot").to_owned();
                let left = query.duration("in", 120)?;
                metadata.maintenance = None;
                if on {
                    metadata.announce_maintenance(code, state, left);
                }
            }
            "autoscaling" => {
                let state = query.get("state").unwrap_or("Terminated");
                metadata.autoscaling = on.then(|| state.to_owned());
            }
            "tokens" => metadata.expire_tokens(),
            #[cfg(feature = "laptop")]
            "service" => {
                let change = query.get("change").filter(|_| on).unwrap_or("none");
                self.aws.change = ServiceChange::named(change).ok_or_else(|| {
                    let known = ServiceChange::ALL.map(|(name, _)| name);
                    format!("change is `{change}`: allowed is {}", known.join(", "))
                })?;
            }
            #[cfg(feature = "laptop")]
            "instance" => match query.get("status").filter(|_| on).unwrap_or("ACTIVE") {
                "DRAINING" => self.aws.draining_instance = true,
                "ACTIVE" => self.aws.draining_instance = false,
                other => return Err(format!("status is `{other}`: allowed is ACTIVE or DRAINING")),
            },
            "container" => {
                let name = query.get("name").ok_or("name is missing: which container?")?;
                let known = match (query.get("id"), query.get("status")) {
                    (Some(id), _) => self.definition.set_docker_id(name, id),
                    (None, status) => self.definition.set_status(name, status.unwrap_or("STOPPED")),
                };
                if !known {
                    return Err(format!(
                        "name is `{name}`: the task has {}",
                        self.definition.names().join(", ")
                    ));
                }
            }
            "fault" if on => self.faults.set(Fault::parse(query)?),
            "fault" => self.faults.clear(),
            other => {
                return Err(format!(
                    "`{other}` cannot be simulated: there are spot, rebalance, maintenance, autoscaling, tokens, {OF_AWS}container and fault"
                ));
            }
        }
        Ok(())
    }

    pub(super) fn state(&mut self) -> serde_json::Value {
        json!({
            "containers": self.definition.names(),
            "spot": self.instance_metadata.spot.is_some(),
            "rebalance": self.instance_metadata.rebalance.is_some(),
            "maintenance": self.instance_metadata.maintenance.is_some(),
            "autoscaling": self.instance_metadata.autoscaling,
            "aws": self.aws.state(),
            "protected": self.task_protection.is_on(),
            "faults": self.faults.describe(),
            "requests": self.requests.all(),
        })
    }
}
