//! The stand-in's API of Cloud Map: JSON 1.1, one service by whose name clients find the task.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::aws_api::{AwsApi, Refusal};
use super::definition::{TASK_ADDRESS, TASK_ID};

pub(super) const CLOUD_MAP: &str = "Route53AutoNaming_v20170314.";

const SERVICE_ID: &str = "srv-e4anhexample0004";
const OPERATION_ID: &str = "4yejorelbukcjzpnr6tlmrghsjwpngf4-k98rnaiq";

/// How long Cloud Map takes to change its records.
const TAKES: Duration = Duration::from_secs(2);

/// A service of Cloud Map.
pub(super) struct PlayedName {
    /// Of its record; `None` where it is not in DNS.
    ttl: Option<Duration>,
    /// When the sidecar took the task out.
    left: Option<Instant>,
    /// Whether ECS has taken it out.
    gone: bool,
}

/// As ECS names it.
pub(super) fn registry_arn() -> String {
    format!("arn:aws:servicediscovery:eu-central-1:111122223333:service/{SERVICE_ID}")
}

impl PlayedName {
    pub(super) fn new(ttl: Option<Duration>) -> PlayedName {
        PlayedName {
            ttl,
            left: None,
            gone: false,
        }
    }

    pub(super) fn leave_by_ecs(&mut self) {
        self.gone = true;
    }

    /// Whether it still leads to the task.
    fn is_registered(&self) -> bool {
        !self.gone && self.left.is_none_or(|left| left.elapsed() < TAKES)
    }
}

impl AwsApi {
    pub(super) fn cloud_map(&mut self, operation: &str, input: &Value) -> Result<Value, Refusal> {
        let Some(name) = &mut self.name else {
            return Err(Refusal("ServiceNotFound", "The service doesn't exist."));
        };
        let named = |field: &str| input[field] == SERVICE_ID || input[field] == registry_arn();
        match operation {
            "GetService" if named("Id") => {
                let records = name
                    .ttl
                    .map(|ttl| json!({"DnsRecords": [{"Type": "A", "TTL": ttl.as_secs()}]}));
                Ok(json!({"Service": {"Id": SERVICE_ID, "Name": "web", "DnsConfig": records}}))
            }
            "ListInstances" if named("ServiceId") => {
                let instance = name
                    .is_registered()
                    .then(|| json!({"Id": TASK_ID, "Attributes": {"AWS_INSTANCE_IPV4": TASK_ADDRESS}}));
                Ok(json!({"Instances": instance.into_iter().collect::<Value>()}))
            }
            "DeregisterInstance" if named("ServiceId") => {
                if input["InstanceId"] != TASK_ID || !name.is_registered() {
                    return Err(Refusal("InstanceNotFound", "The instance doesn't exist."));
                }
                if name.left.is_some() {
                    return Err(Refusal(
                        "DuplicateRequest",
                        "The operation is already in progress.",
                    ));
                }
                name.left = Some(Instant::now());
                Ok(json!({"OperationId": OPERATION_ID}))
            }
            "GetOperation" if input["OperationId"] == OPERATION_ID => {
                let status = match name.left {
                    None => return Err(Refusal("OperationNotFound", "The operation doesn't exist.")),
                    Some(left) if left.elapsed() < TAKES => "PENDING",
                    Some(_) => "SUCCESS",
                };
                Ok(json!({"Operation": {"Id": OPERATION_ID, "Status": status}}))
            }
            "GetService" | "ListInstances" | "DeregisterInstance" => {
                Err(Refusal("ServiceNotFound", "The service doesn't exist."))
            }
            "GetOperation" => Err(Refusal("OperationNotFound", "The operation doesn't exist.")),
            _ => Err(Refusal(
                "UnknownOperationException",
                "There is no such operation here.",
            )),
        }
    }
}
