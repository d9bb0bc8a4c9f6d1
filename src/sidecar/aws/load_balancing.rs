//! Elastic Load Balancing: this task's targets, and taking them out of their groups.
//!
//! Under `awsvpc` a target is the task's address and the container's port, under `bridge` and `host`
//! the instance and the host's port (ECS developer guide, *Use load balancing to distribute Amazon ECS
//! service traffic*).

use std::time::Duration;

use aws_sdk_elasticloadbalancingv2::types::{TargetDescription, TargetHealthStateEnum};
use tokio::time::sleep;

use super::ecs::TaskFacts;
use super::failure::persist;
use super::leaving::Departure;
use super::{Aws, Failure};
use crate::core::task::RegisteredTarget;

/// Between two looks at a target that is draining.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Where the target group does not say (user guide, *Deregistration delay*).
const DEFAULT_DELAY: Duration = Duration::from_secs(300);

const DESCRIBE_ATTRIBUTES: &str = "elasticloadbalancing:DescribeTargetGroupAttributes";
const DEREGISTER: &str = "elasticloadbalancing:DeregisterTargets";
const DESCRIBE_HEALTH: &str = "elasticloadbalancing:DescribeTargetHealth";

fn description(target: &RegisteredTarget) -> TargetDescription {
    let builder = TargetDescription::builder().id(&target.id).port(target.port);
    builder.build()
}

impl Aws {
    /// How long a target group keeps the connections of a target that leaves.
    pub(super) async fn deregistration_delay(&self, group: &str) -> Result<Duration, Failure> {
        let call = self.clients().load_balancing.describe_target_group_attributes();
        let answer = call.target_group_arn(group).send().await;
        let answer = answer.map_err(|why| Failure::of(DESCRIBE_ATTRIBUTES, &why))?;
        let mut attributes = answer.attributes().iter();
        let delay =
            attributes.find(|attribute| attribute.key() == Some("deregistration_delay.timeout_seconds"));
        let seconds = delay.and_then(|attribute| attribute.value()?.parse().ok());
        Ok(seconds.map_or(DEFAULT_DELAY, Duration::from_secs))
    }

    /// Takes a target out, and waits until it is as far out as is wanted.
    pub(super) async fn leave_group(
        &self,
        target: &RegisteredTarget,
        until: Departure,
    ) -> Result<(), Failure> {
        let mut asks = None;
        loop {
            let out = persist(|| self.ask_group(target, asks)).await?;
            match asks.replace(until) {
                Some(_) if out => return Ok(()),
                Some(_) => sleep(LOOK_AGAIN).await,
                None => {}
            }
        }
    }

    /// Takes it out, or asks whether it is as far out as that.
    async fn ask_group(&self, target: &RegisteredTarget, asks: Option<Departure>) -> Result<bool, Failure> {
        match asks {
            None => self.take_out(target).await.map(|()| false),
            Some(until) => self.is_out(target, until).await,
        }
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
pub(super) fn place(
    task: &TaskFacts,
    host: Option<&str>,
    (container, port): &(String, i32),
) -> Option<(String, i32)> {
    if let Some(address) = &task.address {
        return Some((address.clone(), *port));
    }
    let bound = task.host_ports.get(&(container.clone(), *port));
    // Under `host` networking there is no binding: both ports are one.
    Some((host?.to_owned(), bound.copied().unwrap_or(*port)))
}
