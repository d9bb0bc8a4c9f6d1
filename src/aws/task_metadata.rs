//! The task metadata endpoint, version 4 (ECS developer guide, *task metadata endpoint v4*).
//!
//! Asks for this container and for the task, and picks what the sidecar needs out of whatever comes:
//! unknown fields are ignored, fields of a wrong type count as missing. A document without a single
//! known field is refused, so that garbage is not taken for a task without containers.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use crate::http::{Ask, Network, Regular, Trouble};
use crate::task::{Container, Identity, Task};
use crate::url::HttpUrl;

/// One call. The agent answers from memory; a notice must not wait for one that hangs.
const CALL_LIMIT: Duration = Duration::from_millis(500);

/// Ten containers with all their labels are about 30 KiB. Parsed JSON takes many times its text,
/// and the sidecar runs in 6 MB.
const MAX_ANSWER: usize = 256 * 1024;

/// Why the metadata could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TaskMetadataError {
    /// No answer.
    #[error("task metadata at {url}: {why}")]
    Call {
        /// What was asked.
        url: HttpUrl,
        /// What came instead.
        why: Trouble,
    },
    /// 429, 500 and so on.
    #[error("task metadata at {url}: HTTP {status}")]
    Status {
        /// What was asked.
        url: HttpUrl,
        /// What it answered.
        status: u16,
    },
    /// Not the document that ECS documents.
    #[error("task metadata at {url}: {why}")]
    Document {
        /// What was asked.
        url: HttpUrl,
        /// What is wrong with it.
        why: String,
    },
}

/// Reads the task once: two calls over one connection, within a second.
///
/// `uri` is `ECS_CONTAINER_METADATA_URI_V4`: that of this container.
///
/// # Errors
/// Where either call fails; the caller decides whether to try again.
pub async fn read(network: &Network, uri: &HttpUrl) -> Result<Task, TaskMetadataError> {
    let mut server = Regular::new(network.clone(), CALL_LIMIT, MAX_ANSWER);
    let own = document(&mut server, uri).await?;
    let task = document(&mut server, &uri.append("/task")).await?;
    if task.get("TaskARN").is_none() && task.get("Containers").is_none() {
        return Err(TaskMetadataError::Document {
            url: uri.append("/task"),
            why: "neither TaskARN nor Containers is in it".to_owned(),
        });
    }
    Ok(task_of(&own, &task))
}

/// The name of the container whose metadata URI that is.
///
/// # Errors
/// Where it does not answer, or not with a container.
pub async fn container_name(network: &Network, uri: &HttpUrl) -> Result<String, TaskMetadataError> {
    let mut server = Regular::new(network.clone(), CALL_LIMIT, MAX_ANSWER);
    let container = document(&mut server, uri).await?;
    text(&container, "Name").ok_or_else(|| TaskMetadataError::Document {
        url: uri.clone(),
        why: "there is no Name in it".to_owned(),
    })
}

async fn document(server: &mut Regular, url: &HttpUrl) -> Result<Value, TaskMetadataError> {
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
    serde_json::from_str(&answer.body).map_err(|why| TaskMetadataError::Document {
        url: url.clone(),
        why: format!("not JSON: {why}"),
    })
}

fn task_of(own: &Value, task: &Value) -> Task {
    let family = match (text(task, "Family"), text(task, "Revision")) {
        (Some(family), Some(revision)) => Some(format!("{family}:{revision}")),
        (family, _) => family,
    };
    let own_id = text(own, "DockerId");
    let containers = task["Containers"].as_array().map_or(&[][..], Vec::as_slice);
    let internal = |container: &&Value| {
        let own = own_id.is_some() && text(container, "DockerId") == own_id;
        own || container["Type"].as_str().is_some_and(|kind| kind != "NORMAL")
    };
    Task {
        identity: Identity {
            cluster: text(task, "Cluster"),
            task_arn: text(task, "TaskARN"),
            family,
        },
        launch_type: text(task, "LaunchType"),
        containers: containers
            .iter()
            .filter(|container| !internal(container))
            .filter_map(container_of)
            .collect(),
        internal_ids: containers
            .iter()
            .filter(internal)
            .filter_map(|container| text(container, "DockerId"))
            .collect(),
    }
}

/// `None` for one without a name: nothing can refer to it.
fn container_of(container: &Value) -> Option<Container> {
    let networks = container["Networks"].as_array().map_or(&[][..], Vec::as_slice);
    let addresses = |field: &str| -> Vec<IpAddr> {
        networks
            .iter()
            .filter_map(|network| network[field].as_array())
            .flatten()
            .filter_map(|address| address.as_str()?.parse().ok())
            .collect()
    };
    let labels = container["Labels"].as_object();
    Some(Container {
        name: text(container, "Name")?,
        docker_id: text(container, "DockerId"),
        stopped: container["KnownStatus"].as_str() == Some("STOPPED"),
        labels: labels
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect(),
        shares_network: networks
            .iter()
            .any(|network| matches!(network["NetworkMode"].as_str(), Some("awsvpc" | "host"))),
        addresses: [addresses("IPv4Addresses"), addresses("IPv6Addresses")].concat(),
    })
}

fn text(value: &Value, field: &str) -> Option<String> {
    value[field].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn task(document: Value) -> Task {
        task_of(&json!({"DockerId": "me", "Name": "prestop"}), &document)
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
        assert_eq!(
            super::task_of(&json!(3), &json!({"Containers": "none"})).containers,
            []
        );
    }
}
