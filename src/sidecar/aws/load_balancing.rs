//! Elastic Load Balancing: this task's targets, and taking them out of their groups.
//!
//! Under `awsvpc` a target is the task's address and the container's port, under `bridge` and `host`
//! the instance and the host's port (ECS developer guide, *Use load balancing to distribute Amazon ECS
//! service traffic*).

use std::time::Duration;

use aws_sdk_elasticloadbalancingv2::types::{TargetDescription, TargetHealthStateEnum};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::contained::contained;
use super::ecs::{DESCRIBE_TASKS, Registration, TaskFacts};
use super::failure::persist;
use super::{Aws, Failure};
use crate::core::task::RegisteredTarget;
use crate::core::timeline::AwsOutcome;

/// Between two looks at a target that is draining.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Where the target group does not say (user guide, *Deregistration delay*).
const DEFAULT_DELAY: Duration = Duration::from_secs(300);

/// A service has at most 5 target groups (ECS developer guide, *Service quotas*); more answers than
/// this are not followed.
const MAX_TARGETS: usize = 16;

const DESCRIBE_ATTRIBUTES: &str = "elasticloadbalancing:DescribeTargetGroupAttributes";
const DEREGISTER: &str = "elasticloadbalancing:DeregisterTargets";
const DESCRIBE_HEALTH: &str = "elasticloadbalancing:DescribeTargetHealth";

/// How far out of its target group a target has to be before the first step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It gets no new requests (`draining`): what it still owes, `quiet` waits for.
    Draining,
    /// The group has let go of it, after its deregistration delay.
    Unused,
}

fn description(target: &RegisteredTarget) -> TargetDescription {
    let builder = TargetDescription::builder().id(&target.id).port(target.port);
    builder.build()
}

impl Aws {
    /// Where this task is registered. None for a task of no service, or of one without load balancer.
    ///
    /// `bridged`: its containers have ports of the host, which ECS learns some time after the start.
    ///
    /// # Errors
    /// Where ECS cannot be asked.
    pub async fn targets(&self, bridged: bool) -> Result<Vec<RegisteredTarget>, Failure> {
        let task = self.describe_task().await?;
        let Some(service) = &task.service else {
            return Ok(Vec::new());
        };
        let registrations = self.registrations(service, &task).await?;
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
        let targets = registrations.into_iter().filter_map(|registration| {
            let of_container = (registration.container, registration.port);
            let (id, port) = place(&task, host.as_deref(), &of_container)?;
            Some(RegisteredTarget {
                group: registration.group,
                id,
                port,
            })
        });
        Ok(targets.take(MAX_TARGETS).collect())
    }

    /// How long a target group keeps the connections of a target that leaves.
    ///
    /// # Errors
    /// Where it cannot be asked.
    pub async fn deregistration_delay(&self, group: &str) -> Result<Duration, Failure> {
        let call = self.clients().load_balancing.describe_target_group_attributes();
        let answer = call.target_group_arn(group).send().await;
        let answer = answer.map_err(|why| Failure::of(DESCRIBE_ATTRIBUTES, &why))?;
        let mut attributes = answer.attributes().iter();
        let delay =
            attributes.find(|attribute| attribute.key() == Some("deregistration_delay.timeout_seconds"));
        let seconds = delay.and_then(|attribute| attribute.value()?.parse().ok());
        Ok(seconds.map_or(DEFAULT_DELAY, Duration::from_secs))
    }

    /// Takes this task out of all its groups at once, and waits until it is as far out of them as is wanted.
    pub async fn deregister(
        self: std::sync::Arc<Aws>,
        known: Option<Vec<RegisteredTarget>>,
        bridged: bool,
        until: Departure,
        policy: &'static str,
    ) -> AwsOutcome {
        let targets = match known {
            Some(targets) => targets,
            None => match self.targets(bridged).await {
                Ok(targets) => targets,
                Err(why) => return AwsOutcome::Failed(why.tell(policy)),
            },
        };
        if targets.is_empty() {
            return AwsOutcome::Done("this task is in no target group".to_owned());
        }
        let count = targets.len();
        let mut leaving = JoinSet::new();
        for target in targets {
            let aws = std::sync::Arc::clone(&self);
            leaving.spawn(contained(async move { aws.leave(&target, until).await }));
        }
        let mut troubles = Vec::new();
        while let Some(left) = leaving.join_next().await {
            match left {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(why))) => troubles.push(why.tell(policy)),
                Ok(Err(panic)) => troubles.push(format!("{DEREGISTER}: {panic}")),
                Err(why) => troubles.push(format!("{DEREGISTER}: {why}")),
            }
        }
        troubles.dedup();
        if troubles.is_empty() {
            let groups = if count == 1 {
                "target group has"
            } else {
                "target groups have"
            };
            AwsOutcome::Done(match until {
                Departure::Draining => format!("{count} {groups} nothing new for this task"),
                Departure::Unused => format!("{count} {groups} let go"),
            })
        } else {
            AwsOutcome::Failed(troubles.join("; "))
        }
    }

    async fn leave(&self, target: &RegisteredTarget, until: Departure) -> Result<(), Failure> {
        persist(|| self.take_out(target)).await?;
        while !persist(|| self.is_out(target, until)).await? {
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    async fn take_out(&self, target: &RegisteredTarget) -> Result<(), Failure> {
        let client = &self.clients().load_balancing;
        let call = client.deregister_targets().target_group_arn(&target.group);
        match call.targets(description(target)).send().await {
            Ok(_) => Ok(()),
            Err(why) => {
                let failure = Failure::of(DEREGISTER, &why);
                if is_gone(&failure) { Ok(()) } else { Err(failure) }
            }
        }
    }

    /// As far as that, or known no more. In the first moment it may still be shown as healthy.
    async fn is_out(&self, target: &RegisteredTarget, until: Departure) -> Result<bool, Failure> {
        let client = &self.clients().load_balancing;
        let call = client.describe_target_health().target_group_arn(&target.group);
        let answer = match call.targets(description(target)).send().await {
            Ok(answer) => answer,
            Err(why) => {
                let failure = Failure::of(DESCRIBE_HEALTH, &why);
                return if is_gone(&failure) { Ok(true) } else { Err(failure) };
            }
        };
        let states = answer.target_health_descriptions().iter();
        let mut states = states.filter_map(|one| one.target_health()?.state());
        Ok(states.all(|state| match state {
            TargetHealthStateEnum::Unused => true,
            TargetHealthStateEnum::Draining | TargetHealthStateEnum::UnhealthyDraining => {
                until == Departure::Draining
            }
            _ => false,
        }))
    }
}

/// ECS was faster, or the group is no more.
fn is_gone(failure: &Failure) -> bool {
    matches!(
        failure.code(),
        Some(
            "InvalidTarget"
                | "InvalidTargetException"
                | "TargetGroupNotFound"
                | "TargetGroupNotFoundException"
        )
    )
}

/// The target that a container's port is.
fn place(task: &TaskFacts, host: Option<&str>, (container, port): &(String, i32)) -> Option<(String, i32)> {
    if let Some(address) = &task.address {
        return Some((address.clone(), *port));
    }
    let bound = task.host_ports.get(&(container.clone(), *port));
    // Under `host` networking there is no binding: both ports are one.
    Some((host?.to_owned(), bound.copied().unwrap_or(*port)))
}
