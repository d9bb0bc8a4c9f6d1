//! Where others find this task, and how it is taken out of there: target groups, Cloud Map.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::contained::contained;
use super::ecs::{DESCRIBE_TASKS, Registration, Registrations};
use super::{Aws, Failure, load_balancing};
use crate::core::task::{Registered, RegisteredName, RegisteredTarget};
use crate::core::timeline::AwsOutcome;

/// A service has at most 5 target groups (ECS developer guide, *Service quotas*) and one service of Cloud Map (API
/// reference, *CreateService*); more answers than this are not followed.
const MAX_PLACES: usize = 16;

/// What is said of a task that nobody finds by anything.
pub const NOWHERE: &str = "this task is in no target group and in no service of Cloud Map";

/// How far out of its target group a target has to be before the first step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It gets no new requests (`draining`): what it still owes, `quiet` waits for.
    Draining,
    /// The group has let go of it, after its deregistration delay.
    Unused,
}

/// The files of the policies that it takes, in `task-definitions/iam`.
#[derive(Clone, Copy, Debug)]
pub struct LeavingPolicies {
    /// For target groups, and to look up where a task is registered.
    pub groups: &'static str,
    /// For Cloud Map.
    pub names: &'static str,
}

impl LeavingPolicies {
    /// That of a place.
    pub fn of(&self, place: &Registered) -> &'static str {
        match place {
            Registered::Target(_) => self.groups,
            Registered::Name(_) => self.names,
        }
    }
}

impl Aws {
    /// Where this task is registered. Nowhere for a task of no service, or of one that nobody calls.
    ///
    /// `bridged`: its containers have ports of the host, which ECS learns some time after the start.
    ///
    /// # Errors
    /// Where ECS cannot be asked.
    pub async fn registered(&self, bridged: bool) -> Result<Vec<Registered>, Failure> {
        let task = self.describe_task().await?;
        let Some(service) = &task.service else {
            return Ok(Vec::new());
        };
        let Registrations {
            groups: registrations,
            names,
        } = self.registrations(service, &task).await?;
        let host = match (&task.address, &task.instance) {
            (None, Some(instance)) if !registrations.is_empty() => self.ec2_instance(instance).await?,
            _ => None,
        };
        let bound = |at: &Registration| task.host_ports.contains_key(&(at.container.clone(), at.port));
        if bridged && task.address.is_none() && !registrations.iter().all(bound) {
            return Err(Failure::early(
                DESCRIBE_TASKS,
                "ECS does not know the ports of the host yet",
            ));
        }
        let mut places = Vec::new();
        for registration in registrations {
            let of_container = (registration.container, registration.port);
            if let Some((id, port)) = load_balancing::place(&task, host.as_deref(), &of_container) {
                let group = registration.group;
                places.push(Registered::Target(RegisteredTarget { group, id, port }));
            }
        }
        for service in names {
            places.push(Registered::Name(RegisteredName { service, ttl: None }));
        }
        places.truncate(MAX_PLACES);
        Ok(places)
    }

    /// How long others keep this task once it has left that place.
    ///
    /// # Errors
    /// Where it cannot be asked.
    pub async fn lingers(&self, place: &Registered) -> Result<Duration, Failure> {
        match place {
            Registered::Target(target) => self.deregistration_delay(&target.group).await,
            Registered::Name(name) => self.time_to_live(&name.service).await,
        }
    }

    /// Takes this task out of all its places at once, and waits until it is as far out of them as is wanted.
    pub async fn deregister(
        self: Arc<Aws>,
        known: Option<Vec<Registered>>,
        bridged: bool,
        until: Departure,
        policies: LeavingPolicies,
    ) -> AwsOutcome {
        let places = match known {
            Some(places) => places,
            None => match self.registered(bridged).await {
                Ok(places) => places,
                Err(why) => return AwsOutcome::Failed(why.tell(policies.groups)),
            },
        };
        let count = |wanted: fn(&&Registered) -> bool| places.iter().filter(wanted).count();
        let left = told(
            count(|place| matches!(place, Registered::Target(_))),
            count(|place| matches!(place, Registered::Name(_))),
            until,
        );
        let mut leaving = JoinSet::new();
        for place in places {
            let aws = Arc::clone(&self);
            leaving.spawn(async move {
                let left = contained(async {
                    match &place {
                        Registered::Target(target) => aws.leave_group(target, until).await,
                        Registered::Name(name) => aws.leave_name(name).await,
                    }
                });
                match left.await {
                    Ok(left) => left.map_err(|why| why.tell(policies.of(&place))),
                    Err(panic) => Err(format!("{}: {panic}", place.name())),
                }
            });
        }
        let mut troubles = Vec::new();
        while let Some(left) = leaving.join_next().await {
            match left {
                Ok(Ok(())) => {}
                Ok(Err(why)) => troubles.push(why),
                Err(why) => troubles.push(why.to_string()),
            }
        }
        troubles.dedup();
        if troubles.is_empty() {
            AwsOutcome::Done(left)
        } else {
            AwsOutcome::Failed(troubles.join("; "))
        }
    }
}

/// What is said once it has left.
fn told(groups: usize, names: usize, until: Departure) -> String {
    let mut parts = Vec::new();
    if groups > 0 {
        let have = if groups == 1 {
            "target group has"
        } else {
            "target groups have"
        };
        parts.push(match until {
            Departure::Draining => format!("{groups} {have} nothing new for this task"),
            Departure::Unused => format!("{groups} {have} let go"),
        });
    }
    if names > 0 {
        parts.push("no answer of Cloud Map that leads here is still valid".to_owned());
    }
    if parts.is_empty() {
        return NOWHERE.to_owned();
    }
    parts.join("; ")
}
