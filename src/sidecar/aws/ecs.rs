//! The ECS API: what this task is, why it stops, its container instance.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_ecs::types::{
    AdvancedConfiguration, Attachment, Container, ContainerInstanceStatus, Deployment,
    DeploymentRolloutState, DeploymentStrategy, NetworkInterface, Service, ServiceDeploymentLifecycleStage,
    ServiceDeploymentStatus, Task as EcsTask, TaskDefinition, TaskSet,
};
use aws_smithy_types::DateTime;
use jiff::Timestamp;
use tokio::time::sleep;

use super::failure::persist;
use super::{Aws, Failure};
use crate::core::notice::Cause;
use crate::core::superseded::{OwnTask, Rollout, SeenDeployment, SeenService, SeenTaskSet};
use crate::core::timeline::AwsOutcome;

/// Over which the sidecars of one instance spread their asking. Fifty of them then make five calls a
/// second, where ECS takes twenty (developer guide, *Request throttling for the Amazon ECS API*), and
/// whoever asks after the first has set the state sees that and sets nothing.
const SPREAD: Duration = Duration::from_secs(10);

pub(super) const DESCRIBE_TASKS: &str = "ecs:DescribeTasks";
const DESCRIBE_SERVICES: &str = "ecs:DescribeServices";
const DESCRIBE_SERVICE_DEPLOYMENTS: &str = "ecs:DescribeServiceDeployments";
const DESCRIBE_INSTANCES: &str = "ecs:DescribeContainerInstances";
const DESCRIBE_TASK_DEFINITION: &str = "ecs:DescribeTaskDefinition";
const UPDATE_INSTANCES: &str = "ecs:UpdateContainerInstancesState";
const STOP_TASK: &str = "ecs:StopTask";

/// What `DescribeTasks` says of this task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TaskFacts {
    /// Of `service:NAME`.
    pub(super) service: Option<String>,
    /// The task set that started it.
    pub(super) started_by: Option<String>,
    /// Its container instance, on EC2.
    pub(super) instance: Option<String>,
    /// By ECS's clock.
    pub(super) created: Option<Timestamp>,
    /// Its own address, under `awsvpc`.
    pub(super) address: Option<String>,
    /// The host's port of a container's port, under `bridge`.
    pub(super) host_ports: BTreeMap<(String, i32), i32>,
    /// Why it stops, if it does.
    pub(super) cause: Cause,
}

/// Where a service registers its tasks.
pub(super) struct Registrations {
    pub(super) groups: Vec<Registration>,
    /// The ARNs of services of Cloud Map.
    pub(super) names: Vec<String>,
}

/// A target group in which a container of the service is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registration {
    pub(super) group: String,
    pub(super) container: String,
    pub(super) port: i32,
}

impl Aws {
    /// What ECS knows of this task.
    pub(super) async fn describe_task(&self) -> Result<TaskFacts, Failure> {
        let call = self
            .clients()
            .ecs
            .describe_tasks()
            .cluster(&self.cluster)
            .tasks(&self.task_arn);
        let answer = call
            .send()
            .await
            .map_err(|why| Failure::of(DESCRIBE_TASKS, &why))?;
        let task = answer.tasks().first();
        task.map(facts_of)
            .ok_or_else(|| Failure::other(DESCRIBE_TASKS, format!("ECS knows no task {}", self.task_arn)))
    }

    /// Why ECS stops this task.
    ///
    /// # Errors
    /// Where ECS cannot be asked.
    pub async fn cause(&self) -> Result<Cause, Failure> {
        Ok(self.describe_task().await?.cause)
    }

    /// The container instance that this task runs on; `None` on Fargate.
    ///
    /// # Errors
    /// Where ECS cannot be asked.
    pub async fn instance(&self) -> Result<Option<String>, Failure> {
        Ok(self.describe_task().await?.instance)
    }

    /// The stop timeout of a container in this task's definition, in seconds; `None` where it has none.
    ///
    /// # Errors
    /// Where ECS cannot be asked.
    pub async fn stop_timeout_s(&self, container: &str) -> Result<Option<u32>, Failure> {
        let family = self.family.as_deref().unwrap_or_default();
        let call = self
            .clients()
            .ecs
            .describe_task_definition()
            .task_definition(family);
        let answer = call
            .send()
            .await
            .map_err(|why| Failure::of(DESCRIBE_TASK_DEFINITION, &why))?;
        let containers = answer
            .task_definition()
            .map(TaskDefinition::container_definitions)
            .unwrap_or_default();
        let own = containers.iter().find(|own| own.name() == Some(container));
        let own = own.ok_or_else(|| {
            Failure::other(
                DESCRIBE_TASK_DEFINITION,
                format!("`{family}` has no container `{container}`"),
            )
        })?;
        Ok(own.stop_timeout().and_then(|seconds| u32::try_from(seconds).ok()))
    }

    /// The target groups of a service and its names in Cloud Map, those of this task's own task set included.
    pub(super) async fn registrations(
        &self,
        service: &str,
        task: &TaskFacts,
    ) -> Result<Registrations, Failure> {
        let service = self.describe_service(service).await?;
        let mut sets = service.task_sets().iter();
        let own_set = sets.find(|set| set.id() == task.started_by.as_deref());
        let balancers = own_set
            .map(TaskSet::load_balancers)
            .unwrap_or_default()
            .iter()
            .chain(service.load_balancers());
        let mut registrations: Vec<Registration> = Vec::new();
        for balancer in balancers {
            // A classic load balancer has no target group; a blue/green deployment uses two in turn, and to leave
            // one in which the task is not does no harm.
            let advanced = balancer.advanced_configuration();
            let other = advanced.and_then(AdvancedConfiguration::alternate_target_group_arn);
            for group in balancer.target_group_arn().into_iter().chain(other) {
                let registration = Registration {
                    group: group.to_owned(),
                    container: balancer.container_name().unwrap_or_default().to_owned(),
                    port: balancer.container_port().unwrap_or_default(),
                };
                if !registrations.contains(&registration) {
                    registrations.push(registration);
                }
            }
        }
        let registries = own_set
            .map(TaskSet::service_registries)
            .unwrap_or_default()
            .iter()
            .chain(service.service_registries());
        let mut names: Vec<String> = Vec::new();
        for name in registries.filter_map(|registry| registry.registry_arn()) {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        Ok(Registrations {
            groups: registrations,
            names,
        })
    }

    pub(super) async fn ec2_instance(&self, instance: &str) -> Result<Option<String>, Failure> {
        Ok(self.describe_instance(instance).await?.1)
    }

    /// What of this task decides whether it is superseded.
    ///
    /// # Errors
    /// Where ECS cannot be asked.
    pub async fn own_task(&self) -> Result<OwnTask, Failure> {
        let facts = self.describe_task().await?;
        Ok(OwnTask {
            service: facts.service,
            started_by: facts.started_by,
            instance: facts.instance,
            created: facts.created,
        })
    }

    /// The status of a container instance.
    ///
    /// # Errors
    /// Where ECS cannot be asked.
    pub async fn instance_status(&self, instance: &str) -> Result<Option<String>, Failure> {
        Ok(self.describe_instance(instance).await?.0)
    }

    /// What of a service decides whether its tasks are superseded.
    ///
    /// # Errors
    /// Where ECS cannot be asked.
    pub async fn seen_service(&self, name: &str) -> Result<SeenService, Failure> {
        let service = self.describe_service(name).await?;
        let mut seen = seen_in(&service);
        let under_way = service.current_service_deployment();
        if let (Rollout::Shifting, Some(under_way)) = (seen.rollout, under_way) {
            seen.cleaning_up = self.cleans_up(under_way).await?;
        }
        Ok(seen)
    }

    async fn describe_service(&self, name: &str) -> Result<Service, Failure> {
        let call = self.clients().ecs.describe_services();
        let answer = call.cluster(&self.cluster).services(name).send().await;
        let answer = answer.map_err(|why| Failure::of(DESCRIBE_SERVICES, &why))?;
        let found = answer.services.unwrap_or_default().into_iter().next();
        found.ok_or_else(|| Failure::other(DESCRIBE_SERVICES, format!("ECS knows no service `{name}`")))
    }

    /// Whether a service deployment that goes forward cleans up what it has replaced.
    async fn cleans_up(&self, deployment: &str) -> Result<bool, Failure> {
        let call = self.clients().ecs.describe_service_deployments();
        let answer = call
            .service_deployment_arns(deployment)
            .send()
            .await
            .map_err(|why| Failure::of(DESCRIBE_SERVICE_DEPLOYMENTS, &why))?;
        let found = answer.service_deployments().first();
        Ok(found.is_some_and(|found| {
            found.lifecycle_stage() == Some(&ServiceDeploymentLifecycleStage::CleanUp)
                && found.status() == Some(&ServiceDeploymentStatus::InProgress)
        }))
    }

    /// Its status, and its EC2 instance.
    async fn describe_instance(&self, instance: &str) -> Result<(Option<String>, Option<String>), Failure> {
        let call = self.clients().ecs.describe_container_instances();
        let call = call.cluster(&self.cluster).container_instances(instance);
        let answer = call
            .send()
            .await
            .map_err(|why| Failure::of(DESCRIBE_INSTANCES, &why))?;
        let found = answer.container_instances().first();
        found
            .map(|found| {
                (
                    found.status().map(ToOwned::to_owned),
                    found.ec2_instance_id().map(ToOwned::to_owned),
                )
            })
            .ok_or_else(|| {
                Failure::other(
                    DESCRIBE_INSTANCES,
                    format!("ECS knows no container instance {instance}"),
                )
            })
    }

    /// Sets the container instance to DRAINING, unless it is already: once for all tasks that run on
    /// it, as far as they can see each other. `share` of 0 to 1 is this sidecar's place among them.
    pub async fn drain_instance(&self, instance: Option<&str>, share: f64, policy: &str) -> AwsOutcome {
        match self.try_drain_instance(instance, share).await {
            Ok(what) => AwsOutcome::Done(what.to_owned()),
            Err(why) => AwsOutcome::Failed(why.tell(policy)),
        }
    }

    async fn try_drain_instance(&self, known: Option<&str>, share: f64) -> Result<&'static str, Failure> {
        sleep(SPREAD.mul_f64(share)).await;
        let asked = match known {
            Some(_) => None,
            None => self.instance().await?,
        };
        let Some(instance) = known.or(asked.as_deref()) else {
            return Ok("this task runs on no container instance");
        };
        if persist(|| self.describe_instance(instance)).await?.0.as_deref() == Some("DRAINING") {
            return Ok("the container instance is DRAINING already");
        }
        persist(|| self.set_draining(instance)).await?;
        Ok("the container instance is set to DRAINING")
    }

    async fn set_draining(&self, instance: &str) -> Result<(), Failure> {
        let call = self.clients().ecs.update_container_instances_state();
        let call = call
            .cluster(&self.cluster)
            .container_instances(instance)
            .status(ContainerInstanceStatus::Draining);
        let answer = call
            .send()
            .await
            .map_err(|why| Failure::of(UPDATE_INSTANCES, &why))?;
        match answer.failures().first() {
            None => Ok(()),
            Some(failure) => Err(Failure::other(
                UPDATE_INSTANCES,
                failure.reason().unwrap_or("refused without a reason"),
            )),
        }
    }

    /// Asks ECS to stop this task.
    pub async fn stop_task(&self, reason: &str, policy: &str) -> AwsOutcome {
        let stopped = persist(|| async {
            let call = self.clients().ecs.stop_task();
            let call = call.cluster(&self.cluster).task(&self.task_arn).reason(reason);
            call.send().await.map_err(|why| Failure::of(STOP_TASK, &why))
        });
        match stopped.await {
            Ok(_) => AwsOutcome::Done("ECS stops this task".to_owned()),
            Err(why) => AwsOutcome::Failed(why.tell(policy)),
        }
    }
}

fn time_of(time: Option<&DateTime>) -> Option<Timestamp> {
    let time = time?;
    Timestamp::new(time.secs(), time.subsec_nanos().try_into().ok()?).ok()
}

fn seen_in(service: &Service) -> SeenService {
    let configuration = service.deployment_configuration();
    let controller = service
        .deployment_controller()
        .map_or("ECS", |controller| controller.r#type().as_str());
    let strategy = configuration
        .and_then(|configuration| configuration.strategy())
        .map_or("ROLLING", DeploymentStrategy::as_str);
    SeenService {
        status: service.status().map(ToOwned::to_owned),
        desired: service.desired_count(),
        maximum_percent: configuration.and_then(aws_sdk_ecs::types::DeploymentConfiguration::maximum_percent),
        rollout: match (controller, strategy) {
            ("CODE_DEPLOY" | "EXTERNAL", _) => Rollout::TaskSets,
            ("ECS", "ROLLING") => Rollout::Rolling,
            ("ECS", "BLUE_GREEN" | "LINEAR" | "CANARY") => Rollout::Shifting,
            _ => Rollout::Strange,
        },
        deployments: service.deployments().iter().map(seen_deployment).collect(),
        task_sets: service.task_sets().iter().map(seen_task_set).collect(),
        cleaning_up: false,
    }
}

fn seen_deployment(deployment: &Deployment) -> SeenDeployment {
    SeenDeployment {
        id: deployment.id().unwrap_or_default().to_owned(),
        status: deployment.status().unwrap_or_default().to_owned(),
        failed: deployment.rollout_state() == Some(&DeploymentRolloutState::Failed),
        created: time_of(deployment.created_at()),
        desired: deployment.desired_count(),
        running: deployment.running_count(),
        pending: deployment.pending_count(),
    }
}

fn seen_task_set(set: &TaskSet) -> SeenTaskSet {
    SeenTaskSet {
        id: set.id().unwrap_or_default().to_owned(),
        status: set.status().unwrap_or_default().to_owned(),
        scale: set.scale().map(aws_sdk_ecs::types::Scale::value),
    }
}

fn facts_of(task: &EcsTask) -> TaskFacts {
    let details = task
        .attachments()
        .iter()
        .filter(|attachment| attachment.r#type() == Some("ElasticNetworkInterface"))
        .flat_map(Attachment::details);
    let addresses = details.filter(|detail| detail.name() == Some("privateIPv4Address"));
    let interfaces = task.containers().iter().flat_map(Container::network_interfaces);
    let v6 = interfaces.filter_map(NetworkInterface::ipv6_address);
    let mut host_ports = BTreeMap::new();
    for container in task.containers() {
        for binding in container.network_bindings() {
            if let (Some(name), Some(port), Some(host)) =
                (container.name(), binding.container_port(), binding.host_port())
            {
                host_ports.insert((name.to_owned(), port), host);
            }
        }
    }
    TaskFacts {
        service: task
            .group()
            .and_then(|group| group.strip_prefix("service:"))
            .map(ToOwned::to_owned),
        started_by: task.started_by().map(ToOwned::to_owned),
        instance: task.container_instance_arn().map(ToOwned::to_owned),
        created: time_of(task.created_at()),
        // A task without IPv4 is registered by its IPv6 address.
        address: addresses
            .filter_map(|detail| detail.value())
            .chain(v6)
            .next()
            .map(ToOwned::to_owned),
        host_ports,
        cause: Cause {
            stop_code: task.stop_code().map(|code| code.as_str().into()),
            stopped_reason: task.stopped_reason().map(ToOwned::to_owned),
            capacity_provider: task.capacity_provider_name().map(Into::into),
            launch_type: task.launch_type().map(|kind| kind.as_str().into()),
        },
    }
}
