//! The task metadata endpoint, version 4 (ECS developer guide, *task metadata endpoint v4*).
//!
//! Asks for this container and for the task, and picks what the sidecar needs out of whatever comes:
//! unknown fields are ignored, fields of a wrong type count as missing. A document without a single
//! known field is refused, so that garbage is not taken for a task without containers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::core::task::{Container, Identity, Task};
use crate::core::url::HttpUrl;
use crate::sidecar::http::{Ask, Network, Regular, Trouble};

/// One call. The agent answers from memory; both calls of a reading take at most a second, which is
/// the most that the task metadata may delay the first step.
const CALL_LIMIT: Duration = Duration::from_millis(500);

/// Ten containers with all their labels are about 30 KiB. Parsed JSON takes many times its text,
/// and the sidecar runs in 6 MB.
const MAX_ANSWER: usize = 256 * 1024;

/// What a task's `KnownStatus` is before RUNNING (agent, `ecs-agent/api/task/status/taskstatus.go`; Fargate says
/// PROVISIONING, PENDING and ACTIVATING: ECS developer guide, *Task lifecycle*).
const BEFORE_RUNNING: [&str; 6] = [
    "NONE",
    "MANIFEST_PULLED",
    "CREATED",
    "PROVISIONING",
    "PENDING",
    "ACTIVATING",
];

/// Why the metadata could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TaskMetadataError {
    /// No answer.
    #[error("task metadata at {url}: {why}")]
    Call {
        url: HttpUrl,
        /// What came instead.
        why: Trouble,
    },
    /// 429, 500 and so on.
    #[error("task metadata at {url}: HTTP {status}")]
    Status { url: HttpUrl, status: u16 },
    /// Not the document that ECS documents.
    #[error("task metadata at {url}: {why}")]
    Document { url: HttpUrl, why: String },
}

/// The endpoint of this container; cheap to clone.
#[derive(Clone)]
pub struct TaskMetadata {
    network: Network,
    uri: HttpUrl,
}

impl TaskMetadata {
    /// `uri` is `ECS_CONTAINER_METADATA_URI_V4`: that of this container.
    pub fn new(network: Network, uri: HttpUrl) -> TaskMetadata {
        TaskMetadata { network, uri }
    }

    /// Reads the task once: two calls over one connection, within a second.
    ///
    /// # Errors
    /// Where either call fails; the caller decides whether to try again.
    pub async fn read(&self) -> Result<Task, TaskMetadataError> {
        let mut server = self.server();
        let own = document(&mut server, &self.uri).await?;
        let own_id = text_in(&own, |own: RawContainer<'_>| own.docker_id);
        let own_name = text_in(&own, |own: RawContainer<'_>| own.name);
        drop(own);
        let url = self.uri.append("/task");
        let task = document(&mut server, &url).await?;
        let task =
            task_of(own_id.as_deref(), &task).map_err(|why| TaskMetadataError::Document { url, why })?;
        Ok(Task { own_name, ..task })
    }

    /// The name of the container that has this metadata URI; `None` where nobody answers with one.
    pub async fn container_at(&self, uri: &str) -> Option<String> {
        let container = document(&mut self.server(), &uri.parse().ok()?).await.ok()?;
        text_in(&container, |container: RawContainer<'_>| container.name)
    }

    fn server(&self) -> Regular {
        Regular::new(self.network.clone(), CALL_LIMIT, MAX_ANSWER)
    }
}

async fn document(server: &mut Regular, url: &HttpUrl) -> Result<String, TaskMetadataError> {
    let answer = server
        .ask(Ask::get(url))
        .await
        .map_err(|why| TaskMetadataError::Call {
            url: url.clone(),
            why,
        })?;
    if answer.status != 200 {
        return Err(TaskMetadataError::Status {
            url: url.clone(),
            status: answer.status.as_u16(),
        });
    }
    Ok(answer.body)
}

/// The fields that matter, unread: each is read by itself, so that one of a wrong type is as good as
/// missing, and nothing is built of what is unknown.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawTask<'a> {
    #[serde(borrow)]
    cluster: Option<&'a RawValue>,
    #[serde(borrow, rename = "TaskARN")]
    task_arn: Option<&'a RawValue>,
    #[serde(borrow)]
    family: Option<&'a RawValue>,
    #[serde(borrow)]
    revision: Option<&'a RawValue>,
    #[serde(borrow)]
    launch_type: Option<&'a RawValue>,
    #[serde(borrow)]
    known_status: Option<&'a RawValue>,
    #[serde(borrow)]
    desired_status: Option<&'a RawValue>,
    #[serde(borrow)]
    containers: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawContainer<'a> {
    #[serde(borrow)]
    docker_id: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    known_status: Option<&'a RawValue>,
    #[serde(borrow, rename = "Type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    labels: Option<&'a RawValue>,
    #[serde(borrow)]
    networks: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawNetwork<'a> {
    #[serde(borrow, rename = "NetworkMode")]
    mode: Option<&'a RawValue>,
    #[serde(borrow, rename = "IPv4Addresses")]
    v4: Option<&'a RawValue>,
    #[serde(borrow, rename = "IPv6Addresses")]
    v6: Option<&'a RawValue>,
}

fn task_of(own_id: Option<&str>, document: &str) -> Result<Task, String> {
    let task: RawTask<'_> = serde_json::from_str(document).map_err(|why| format!("not a task: {why}"))?;
    if task.task_arn.is_none() && task.containers.is_none() {
        return Err("neither TaskARN nor Containers is in it".to_owned());
    }
    let family = match (text(task.family), text(task.revision)) {
        (Some(family), Some(revision)) => Some(format!("{family}:{revision}")),
        (family, _) => family,
    };
    let mut containers = Vec::new();
    let mut internal_ids = Vec::new();
    let mut on_host_network = false;
    for container in list(task.containers) {
        let Some(container) = value::<RawContainer<'_>>(Some(container)) else {
            continue;
        };
        on_host_network |= list(container.networks).into_iter().any(|network| {
            let network = value::<RawNetwork<'_>>(Some(network));
            network.and_then(|network| text(network.mode)).as_deref() == Some("host")
        });
        let id = text(container.docker_id);
        let own = own_id.is_some() && id.as_deref() == own_id;
        if own || text(container.kind).is_some_and(|kind| kind != "NORMAL") {
            internal_ids.extend(id);
        } else {
            // Nothing can refer to one without a name.
            containers.extend(container_of(&container));
        }
    }
    Ok(Task {
        identity: Identity {
            cluster: text(task.cluster),
            task_arn: text(task.task_arn),
            family,
        },
        launch_type: text(task.launch_type).as_deref().map(Into::into),
        on_host_network,
        own_name: None,
        containers,
        internal_ids,
        starting: text(task.known_status).is_some_and(|status| BEFORE_RUNNING.contains(&status.as_str())),
        stopping: text(task.desired_status).as_deref() == Some("STOPPED"),
    })
}

fn container_of(container: &RawContainer<'_>) -> Option<Container> {
    let networks: Vec<RawNetwork<'_>> = list(container.networks)
        .into_iter()
        .filter_map(|network| value(Some(network)))
        .collect();
    let addresses = |raw: Option<&RawValue>| -> Vec<IpAddr> {
        list(raw)
            .into_iter()
            .filter_map(|address| text(Some(address))?.parse().ok())
            .collect()
    };
    let labels: BTreeMap<String, &RawValue> = value(container.labels).unwrap_or_default();
    Some(Container {
        name: text(container.name)?,
        docker_id: text(container.docker_id),
        stopped: text(container.known_status).as_deref() == Some("STOPPED"),
        labels: labels
            .into_iter()
            .filter_map(|(name, value)| Some((name, text(Some(value))?)))
            .collect(),
        shares_network: networks
            .iter()
            .any(|network| matches!(text(network.mode).as_deref(), Some("awsvpc" | "host"))),
        addresses: networks
            .iter()
            .flat_map(|network| addresses(network.v4))
            .chain(networks.iter().flat_map(|network| addresses(network.v6)))
            .collect(),
    })
}

/// `None` where it is missing or something else.
fn value<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>) -> Option<T> {
    serde_json::from_str(raw?.get()).ok()
}

fn text(raw: Option<&RawValue>) -> Option<String> {
    value(raw)
}

fn list(raw: Option<&RawValue>) -> Vec<&RawValue> {
    value(raw).unwrap_or_default()
}

fn text_in<'a>(document: &'a str, field: fn(RawContainer<'a>) -> Option<&'a RawValue>) -> Option<String> {
    text(field(serde_json::from_str(document).ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn task(document: Value) -> Task {
        task_of(Some("me"), &document.to_string()).unwrap()
    }

    #[test]
    fn a_task_is_read_without_this_container_and_the_agents_own() {
        let task = task(json!({
            "Cluster": "prod", "TaskARN": "arn:aws:ecs:eu-west-1:1:task/prod/abc", "Family": "web",
            "Revision": "7", "LaunchType": "EC2", "SomethingNew": [1],
            "Containers": [
                {"DockerId": "me", "Name": "prestop", "Type": "NORMAL"},
                {"DockerId": "p", "Name": "~internal~ecs~pause", "Type": "CNI_PAUSE"},
                {"DockerId": "a", "Name": "app", "Type": "NORMAL", "KnownStatus": "RUNNING",
                 "Labels": {"prestop.drain": "ack", "number": 3},
                 "Networks": [{"NetworkMode": "bridge", "IPv4Addresses": ["172.17.0.3", "bad"],
                               "IPv6Addresses": ["fd00::3"]}]},
                {"DockerId": "b", "Name": "done", "KnownStatus": "STOPPED",
                 "Networks": [{"NetworkMode": "awsvpc", "IPv4Addresses": ["10.0.0.9"]}]},
            ]
        }));
        assert_eq!(task.identity.task_id(), Some("abc"));
        assert_eq!(task.identity.family.as_deref(), Some("web:7"));
        let names: Vec<&str> = task.containers.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["app", "done"]);
        let app = task.container("app").unwrap();
        assert_eq!(
            app.reached_at(),
            [
                "172.17.0.3".parse::<IpAddr>().unwrap(),
                "fd00::3".parse().unwrap()
            ]
        );
        assert_eq!(app.labels.len(), 1, "a label that is not text counts as missing");
        let done = task.container("done").unwrap();
        assert!(done.stopped);
        assert_eq!(done.reached_at()[0].to_string(), "127.0.0.1");
    }

    #[test]
    fn fields_of_a_wrong_type_count_as_missing() {
        let task = task(json!({
            "Cluster": 1, "TaskARN": [], "Family": {}, "LaunchType": null,
            "Containers": [{"Name": 7}, "text", null, {"Name": "app", "Networks": {"a": 1}, "Labels": [], "Type": 3,
                            "KnownStatus": 5}]
        }));
        assert_eq!(task.identity, Identity::default());
        assert_eq!(task.containers.len(), 1);
        assert_eq!(task.containers[0].reached_at(), Vec::<IpAddr>::new());
        assert_eq!(task_of(None, r#"{"Containers": "none"}"#).unwrap().containers, []);
    }

    #[test]
    fn what_is_no_task_is_refused() {
        for document in [
            "",
            "[]",
            "3",
            "{}",
            "{\"Cluster\": \"x\"}",
            "null",
            &"[".repeat(10_000),
        ] {
            assert!(task_of(None, document).is_err(), "{document:.20}");
        }
    }
}
