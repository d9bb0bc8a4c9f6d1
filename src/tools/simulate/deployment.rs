//! What ECS may be about to do with the service of the task, and what its API says then.
//!
//! Shapes as in the API reference (*Deployment*, *TaskSet*, *ServiceDeployment*). No task is started or stopped
//! by it: there is the one of the definition.

use serde_json::{Value, json};

/// The deployment that has started the task, and the one that replaces it.
const OWN: &str = "ecs-svc/1000000000000000001";
const NEXT: &str = "ecs-svc/1000000000000000002";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceChange {
    /// Nothing, or a rollback has brought the deployment of the task back.
    #[default]
    None,
    /// A forced deployment: a new id for the same revision.
    Forced,
    /// A new revision, one of whose tasks runs.
    Revision,
    /// The deployment of the task is not even listed any more.
    Replaced,
    /// A new revision whose tasks do not come up.
    Stuck,
    /// The circuit breaker has failed it, and rolls nothing back.
    Failed,
    ScaledToZero,
    Deleted,
    /// Blue/green: both run, and the old one serves or may serve again.
    BeforeTheShift,
    /// Blue/green: the old one is cleaned up.
    AfterTheShift,
    /// EXTERNAL or CODE_DEPLOY: there is another task set, and both serve.
    AnotherTaskSet,
    TaskSetDrains,
    /// The task belongs to no service.
    Standalone,
    /// ECS knows of no deployment at all.
    NothingListed,
}

impl ServiceChange {
    pub const ALL: [(&str, ServiceChange); 14] = [
        ("none", ServiceChange::None),
        ("forced", ServiceChange::Forced),
        ("revision", ServiceChange::Revision),
        ("replaced", ServiceChange::Replaced),
        ("stuck", ServiceChange::Stuck),
        ("failed", ServiceChange::Failed),
        ("scaled-to-zero", ServiceChange::ScaledToZero),
        ("deleted", ServiceChange::Deleted),
        ("before-the-shift", ServiceChange::BeforeTheShift),
        ("after-the-shift", ServiceChange::AfterTheShift),
        ("another-task-set", ServiceChange::AnotherTaskSet),
        ("task-set-drains", ServiceChange::TaskSetDrains),
        ("standalone", ServiceChange::Standalone),
        ("nothing-listed", ServiceChange::NothingListed),
    ];

    pub(super) fn named(name: &str) -> Option<ServiceChange> {
        let mut all = ServiceChange::ALL.into_iter();
        all.find_map(|(known, change)| (known == name).then_some(change))
    }

    /// What `DescribeTasks` says of who started the task.
    pub(super) fn started_by(self) -> Option<&'static str> {
        (self != ServiceChange::Standalone).then_some(OWN)
    }

    /// What `DescribeServices` says of it; `service_deployment` is the ARN of the one under way.
    pub(super) fn service(self, service_deployment: &str) -> Value {
        let own = |status: &str, desired: u32| {
            json!({"id": OWN, "status": status, "desiredCount": desired, "runningCount": 1, "pendingCount": 0,
                   "createdAt": 1_699_999_000, "rolloutState": "COMPLETED"})
        };
        let next = |running: u32, state: &str| {
            json!({"id": NEXT, "status": "PRIMARY", "desiredCount": 1, "runningCount": running,
                   "pendingCount": 1 - running, "createdAt": 1_700_001_000, "rolloutState": state})
        };
        let set = |id: &str, status: &str, scale: f64| json!({"id": id, "status": status, "scale": {"value": scale, "unit": "PERCENT"}});
        let shifting = json!({"strategy": "BLUE_GREEN", "maximumPercent": 200, "minimumHealthyPercent": 100});
        let both = json!([next(1, "IN_PROGRESS"), own("ACTIVE", 1)]);
        match self {
            ServiceChange::None => json!({"deployments": [own("PRIMARY", 1)]}),
            ServiceChange::Standalone => json!({"deployments": [next(1, "COMPLETED")]}),
            ServiceChange::Forced => json!({"deployments": both}),
            ServiceChange::Revision => {
                let mut deployments = both;
                deployments[0]["taskDefinition"] = "next:1".into();
                json!({"deployments": deployments})
            }
            ServiceChange::Replaced => json!({"deployments": [next(1, "COMPLETED")]}),
            ServiceChange::Stuck => json!({"deployments": [next(0, "IN_PROGRESS"), own("ACTIVE", 1)]}),
            ServiceChange::Failed => json!({"deployments": [next(1, "FAILED"), own("ACTIVE", 1)]}),
            ServiceChange::ScaledToZero => json!({"desiredCount": 0, "deployments": [own("PRIMARY", 0)]}),
            ServiceChange::Deleted => {
                json!({"status": "DRAINING", "desiredCount": 0, "deployments": [own("PRIMARY", 0)]})
            }
            ServiceChange::BeforeTheShift | ServiceChange::AfterTheShift => json!({
                "deploymentConfiguration": shifting, "deployments": both,
                "currentServiceDeployment": service_deployment,
            }),
            ServiceChange::AnotherTaskSet => json!({
                "deploymentController": {"type": "EXTERNAL"}, "deployments": [],
                "taskSets": [set(OWN, "ACTIVE", 100.0), set(NEXT, "PRIMARY", 100.0)],
            }),
            ServiceChange::TaskSetDrains => json!({
                "deploymentController": {"type": "CODE_DEPLOY"}, "deployments": [],
                "taskSets": [set(NEXT, "PRIMARY", 100.0), set(OWN, "DRAINING", 0.0)],
            }),
            ServiceChange::NothingListed => json!({"deployments": []}),
        }
    }

    /// What `DescribeServiceDeployments` says of the one under way, where there is one.
    pub(super) fn service_deployment(self, arn: &str) -> Option<Value> {
        let stage = match self {
            ServiceChange::BeforeTheShift => "POST_TEST_TRAFFIC_SHIFT",
            ServiceChange::AfterTheShift => "CLEAN_UP",
            _ => return None,
        };
        Some(json!({"serviceDeploymentArn": arn, "status": "IN_PROGRESS", "lifecycleStage": stage}))
    }
}
