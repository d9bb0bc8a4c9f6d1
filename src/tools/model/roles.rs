//! What a container is there for, as far as its image and settings tell.

use crate::config::{SETTINGS, Setting};

use super::{Container, Task};

/// What an app reaches others through or keeps its data in: without it a drain can finish nothing. By the
/// last part of the image's name. An Envoy is not among them: it may as well stand before the app.
const NEEDED: [(&str, &str); 21] = [
    ("alloydb-auth-proxy", "a database proxy"),
    ("cloud-sql-proxy", "a database proxy"),
    ("cloudsql-proxy", "a database proxy"),
    ("consul-dataplane", "a service mesh's proxy"),
    ("daprd", "the app's Dapr runtime"),
    ("eclipse-mosquitto", "a message broker"),
    ("gce-proxy", "a database proxy"),
    ("kuma-dp", "a service mesh's proxy"),
    ("linkerd-proxy", "a service mesh's proxy"),
    ("mariadb", "a database"),
    ("memcached", "a cache"),
    ("mongo", "a database"),
    ("mysql", "a database"),
    ("nats", "a message broker"),
    ("odyssey", "a database proxy"),
    ("pgbouncer", "a database proxy"),
    ("postgres", "a database"),
    ("proxysql", "a database proxy"),
    ("rabbitmq", "a message broker"),
    ("redis", "a database"),
    ("valkey", "a database"),
];

/// What only watches the app: losing it loses no request. Parts of image names.
const OBSERVERS: [&str; 16] = [
    "aws-for-fluent-bit",
    "aws-otel-collector",
    "aws-xray-daemon",
    "cloudwatch-agent",
    "datadog-agent",
    "datadog/agent",
    "exporter",
    "fluent-bit",
    "fluentd",
    "grafana/agent",
    "grafana/alloy",
    "newrelic",
    "opentelemetry-collector",
    "promtail",
    "statsd",
    "xray-daemon",
];

/// Subcommands of our own image that are no sidecar.
const TOOLS: [&str; 6] = ["sample", "simulate", "rehearse", "health", "check", "add"];

impl<'a> Container<'a> {
    /// Whether this is the ecs-prestop sidecar: by its image, or by a setting that only it has.
    pub fn is_sidecar(&self) -> bool {
        let tool = |word: &str| TOOLS.contains(&word);
        if self
            .command
            .known()
            .and_then(|words| words.first())
            .is_some_and(|word| tool(word))
        {
            return false;
        }
        let set = |setting: &Setting| {
            let name = setting.variable();
            self.variable(&name).is_some() || self.secrets.iter().any(|secret| secret.text == name)
        };
        self.image_name() == Some("ecs-prestop") || SETTINGS.iter().any(set)
    }

    /// What others need it for while they drain, if that is known.
    pub fn needed_as(&self) -> Option<&'static str> {
        let name = self.image_name().unwrap_or(&self.name.text);
        NEEDED
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, what)| *what)
    }

    fn only_observes(&self) -> bool {
        // An image that is an expression says nothing; the name of its container may.
        let image = self.image.known().unwrap_or(&self.name.text);
        self.firelens.is_some() || OBSERVERS.iter().any(|part| image.contains(part))
    }
}

impl<'a> Task<'a> {
    /// The sidecars; one, where all is well.
    pub fn sidecars(&self) -> impl Iterator<Item = &Container<'a>> {
        self.containers.iter().filter(|container| container.is_sidecar())
    }

    /// The containers that do the task's work: essential, and neither sidecar, proxy, database nor
    /// observer. Where none is left, all that are not sidecars or observers.
    pub fn apps(&self) -> impl Iterator<Item = &Container<'a>> {
        let apps = self.workers().filter(|container| {
            container.is_essential() && container.needed_as().is_none() && !self.is_proxy(container)
        });
        let apps: Vec<_> = apps.collect();
        let all = if apps.is_empty() {
            self.workers().collect()
        } else {
            apps
        };
        all.into_iter()
    }

    fn workers(&self) -> impl Iterator<Item = &Container<'a>> {
        self.containers.iter().filter(|container| {
            !container.is_sidecar() && !container.only_observes() && !self.ends_early(container)
        })
    }

    /// Whether it is the task's App Mesh proxy.
    pub fn is_proxy(&self, container: &Container<'_>) -> bool {
        self.proxy.known() == Some(&container.name.text)
    }
}
