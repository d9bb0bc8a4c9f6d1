//! The stand-in's API of ECS: JSON 1.1, one cluster, one service, one task.

use serde_json::{Value, json};

use super::INSTANCE_ID;
use super::aws_api::{AwsApi, Refusal};
use super::cloud_map_api::registry_arn;
use super::definition::{CLUSTER, Definition, TASK_ADDRESS, arn, task_arn};

impl AwsApi {
    pub(super) fn ecs(
        &mut self,
        task: &Definition,
        operation: &str,
        input: &Value,
    ) -> Result<Value, Refusal> {
        let in_cluster = is_named(&input["cluster"], &arn(&format!("cluster/{CLUSTER}")));
        match operation {
            "DescribeTaskDefinition" => {
                let wanted = input["taskDefinition"].as_str().unwrap_or_default();
                if ![task.family.as_str(), &task.name(), &task.arn()].contains(&wanted) {
                    return Err(Refusal("ClientException", "Unable to describe task definition."));
                }
                Ok(json!({"taskDefinition": task.described()}))
            }
            "DescribeTasks"
            | "DescribeServices"
            | "DescribeContainerInstances"
            | "UpdateContainerInstancesState"
            | "StopTask"
                if !in_cluster =>
            {
                Err(Refusal("ClusterNotFoundException", "Cluster not found."))
            }
            "DescribeTasks" => found(input, "tasks", &task_arn(), self.task(task)),
            "DescribeServices" => {
                let service = self.service(task);
                found(input, "services", &arn(&service_of(task)), service)
            }
            "DescribeContainerInstances" => {
                found(input, "containerInstances", &instance_arn(), self.instance())
            }
            "DescribeServiceDeployments" => self.service_deployments(task, input),
            "UpdateContainerInstancesState" => self.set_instance_status(input),
            "StopTask" => self.stop_task(task, input),
            _ => Err(Refusal(
                "UnknownOperationException",
                "There is no such operation here.",
            )),
        }
    }

    fn set_instance_status(&mut self, input: &Value) -> Result<Value, Refusal> {
        let draining = match input["status"].as_str() {
            Some("DRAINING") => true,
            Some("ACTIVE") => false,
            _ => {
                let why = "Container instance status must be one of [ACTIVE, DRAINING].";
                return Err(Refusal("InvalidParameterException", why));
            }
        };
        let mut wanted = input["containerInstances"].as_array().into_iter().flatten();
        if wanted.any(|wanted| is_named(wanted, &instance_arn())) {
            self.draining_instance = draining;
        }
        found(input, "containerInstances", &instance_arn(), self.instance())
    }

    fn service_deployments(&self, task: &Definition, input: &Value) -> Result<Value, Refusal> {
        let arn = service_deployment_arn(task);
        let mut wanted = input["serviceDeploymentArns"].as_array().into_iter().flatten();
        let found = wanted
            .any(|wanted| *wanted == arn)
            .then(|| self.change.service_deployment(&arn));
        Ok(json!({"serviceDeployments": found.flatten().into_iter().collect::<Value>()}))
    }

    fn stop_task(&mut self, task: &Definition, input: &Value) -> Result<Value, Refusal> {
        if !is_named(&input["task"], &task_arn()) {
            let why = "The referenced task was not found.";
            return Err(Refusal("InvalidParameterException", why));
        }
        // The first reason stays.
        if self.stopped.is_none() {
            let reason = input["reason"].as_str().unwrap_or("Task stopped by user");
            self.stop("UserInitiated", reason);
        }
        Ok(json!({"task": self.task(task)}))
    }

    fn task(&self, task: &Definition) -> Value {
        let stopped = self.stopped.as_ref();
        let started_by = self.change.started_by();
        let interface = "f6a4b2d0-7c1e-4a55-9a3c-0e7f1b2c3d4e";
        let containers = task.names().into_iter().map(|name| {
            let bindings = task
                .ports()
                .filter(|port| !task.is_awsvpc() && port.container == name)
                .map(|port| {
                    json!({"bindIP": "0.0.0.0", "containerPort": port.container_port,
                           "hostPort": port.host_port, "protocol": "tcp"})
                })
                .collect::<Value>();
            let interfaces = task
                .is_awsvpc()
                .then(|| json!([{"attachmentId": interface, "privateIpv4Address": TASK_ADDRESS}]));
            json!({"name": name, "lastStatus": "RUNNING", "taskArn": task_arn(),
                   "networkBindings": bindings, "networkInterfaces": interfaces})
        });
        json!({
            "taskArn": task_arn(),
            "clusterArn": arn(&format!("cluster/{CLUSTER}")),
            "taskDefinitionArn": task.arn(),
            "group": match started_by {
                Some(_) => format!("service:{}", task.family),
                None => format!("family:{}", task.family),
            },
            "startedBy": started_by,
            "createdAt": 1_700_000_000,
            "launchType": task.launch_type(),
            "capacityProviderName": task.fargate_spot.then_some("FARGATE_SPOT"),
            "containerInstanceArn": task.on_instance().then(instance_arn),
            "lastStatus": "RUNNING",
            "desiredStatus": if stopped.is_some() { "STOPPED" } else { "RUNNING" },
            "stopCode": stopped.map(|(code, _)| code),
            "stoppedReason": stopped.map(|(_, reason)| reason),
            "attachments": task.is_awsvpc().then(|| json!([{
                "id": interface, "type": "ElasticNetworkInterface", "status": "ATTACHED",
                "details": [{"name": "privateIPv4Address", "value": TASK_ADDRESS}],
            }])),
            "containers": containers.collect::<Value>(),
        })
    }

    fn service(&self, task: &Definition) -> Value {
        let groups = self.groups.iter().map(|group| {
            json!({"targetGroupArn": group.arn(), "containerName": group.container,
                   "containerPort": group.container_port})
        });
        let mut service = json!({
            "serviceArn": arn(&service_of(task)),
            "serviceName": task.family,
            "clusterArn": arn(&format!("cluster/{CLUSTER}")),
            "status": "ACTIVE",
            "taskDefinition": task.arn(),
            "desiredCount": 1,
            "runningCount": 1,
            "loadBalancers": groups.collect::<Value>(),
            "serviceRegistries": self.name.as_ref().map(|_| json!([{"registryArn": registry_arn()}])),
        });
        let changed = self.change.service(&service_deployment_arn(task));
        let says = [&changed, &self.service_says];
        for (field, value) in says.into_iter().filter_map(Value::as_object).flatten() {
            service[field] = value.clone();
        }
        service
    }

    fn instance(&self) -> Value {
        json!({
            "containerInstanceArn": instance_arn(),
            "ec2InstanceId": INSTANCE_ID,
            "status": self.instance_status(),
            "agentConnected": true,
        })
    }

    pub(super) fn instance_status(&self) -> &'static str {
        if self.draining_instance {
            "DRAINING"
        } else {
            "ACTIVE"
        }
    }
}

/// The list that is described: the one thing there is, once for each of its names, and a failure for
/// each other name.
fn found(input: &Value, list: &str, ours: &str, thing: Value) -> Result<Value, Refusal> {
    let wanted = input[list].as_array().filter(|wanted| !wanted.is_empty());
    let wanted = wanted.ok_or(Refusal("InvalidParameterException", "Nothing is named."))?;
    let (known, unknown): (Vec<&Value>, Vec<&Value>) = wanted.iter().partition(|name| is_named(name, ours));
    let things: Value = known.first().map(|_| thing).into_iter().collect();
    let failures = unknown
        .iter()
        .map(|name| json!({"arn": name, "reason": "MISSING"}));
    Ok(json!({list: things, "failures": failures.collect::<Value>()}))
}

/// By its ARN or by the last part of it.
fn is_named(name: &Value, arn: &str) -> bool {
    name.as_str()
        .is_some_and(|name| name == arn || arn.rsplit('/').next() == Some(name))
}

fn instance_arn() -> String {
    arn(&format!(
        "container-instance/{CLUSTER}/1f73d099b9144f2d8dd1bd6fb42a4d8c"
    ))
}

fn service_deployment_arn(task: &Definition) -> String {
    arn(&format!(
        "service-deployment/{CLUSTER}/{}/NCWGC2ZR-taawPAYrIaU5",
        task.family
    ))
}

fn service_of(task: &Definition) -> String {
    format!("service/{CLUSTER}/{}", task.family)
}

/// AWS leaves out what is not there.
pub(super) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, without_nulls(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}
