//! What a container is there for, as far as its image and settings tell.

use crate::config::{SETTINGS, Setting};

use super::{ContainerDefinition, TaskDefinition};

/// What an app reaches others through or keeps its data in: without it a drain can finish nothing. By the
/// last part of the image's name, or its last two. An Envoy is not among them: it may as well stand before the app.
const NEEDED: [(&str, &str); 22] = [
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
    ("n8nio/runners", "n8n's task runner"),
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

/// The names under which they run where the image is somebody's own build.
const OBSERVER_NAMES: [&str; 14] = [
    "adot",
    "cloudwatch",
    "cwagent",
    "datadog",
    "firelens",
    "fluentbit",
    "log-router",
    "logrouter",
    "log_router",
    "newrelic",
    "otel",
    "promtail",
    "splunk",
    "xray",
];

/// Words of a command that start a process which takes jobs from a queue.
const WORKERS: [&str; 23] = [
    "arq",
    "celery",
    "celeryd",
    "consume",
    "consumer",
    "delayed_job",
    "dramatiq",
    "faktory-worker",
    "good_job",
    "horizon",
    "huey_consumer",
    "jobs:work",
    "messenger:consume",
    "qcluster",
    "queue:listen",
    "queue:work",
    "que",
    "resque",
    "resque:work",
    "rq",
    "shoryuken",
    "sidekiq",
    "solid_queue:start",
];

/// Parts of a container's name that say the same.
const WORKER_NAMES: [&str; 7] = [
    "celery",
    "consumer",
    "consumers",
    "sidekiq",
    "worker",
    "workers",
    "queue",
];

/// Parts of a container's name, and words of its command, behind which it ends by itself.
const ONE_OFF: [&str; 24] = [
    "--help",
    "--version",
    "bootstrap",
    "build",
    "builder",
    "collectstatic",
    "composer",
    "ci",
    "format",
    "init",
    "install",
    "lint",
    "migrate",
    "migration",
    "migrations",
    "migrator",
    "restore",
    "seed",
    "seeder",
    "setup",
    "studio",
    "test",
    "tests",
    "upgrade",
];

/// A command with more words does something else besides.
const SHORT: usize = 4;

/// What speaks something else than requests and answers: no `quiet` is to be read from its connections.
const NO_REQUESTS: [&str; 12] = [
    "eclipse-mosquitto",
    "kafka",
    "mariadb",
    "memcached",
    "mongo",
    "mysql",
    "nats",
    "postgres",
    "rabbitmq",
    "redis",
    "valkey",
    "zookeeper",
];

/// Subcommands of our own image that are no sidecar.
const TOOLS: [&str; 6] = ["sample", "simulate", "rehearse", "health", "check", "add"];

/// The words of the last command where a shell runs several.
fn last_command(words: Vec<&str>) -> Vec<&str> {
    let mut parts = words
        .last()
        .map_or("", |last| last.trim())
        .rsplit([';', '&', '\n']);
    match parts.next() {
        Some(last) if last.contains(char::is_whitespace) => last.split_whitespace().collect(),
        _ => words,
    }
}

impl<'a> ContainerDefinition<'a> {
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
        let image = self.image.known().map_or("", AsRef::as_ref);
        // A last part that says too little stands with the one before it.
        let is = |known: &str| known == name || (known.contains('/') && image.contains(known));
        NEEDED.iter().find(|(known, _)| is(known)).map(|(_, what)| *what)
    }

    /// Whether it only watches the others: losing it loses no request.
    pub fn only_observes(&self) -> bool {
        // An image that is an expression or somebody's own says nothing; the name of its container may.
        let named = |text: &str, parts: &[&str]| parts.iter().any(|part| text.contains(part));
        let name = self.name.text.to_ascii_lowercase();
        self.firelens.is_some()
            || self.image.known().is_some_and(|image| named(image, &OBSERVERS))
            || named(&name, &OBSERVERS)
            || named(&name, &OBSERVER_NAMES)
    }

    /// Whether it takes jobs, told by its command or its name.
    pub fn is_worker(&self) -> bool {
        let words = self.arguments().unwrap_or_default();
        // Celery's scheduler starts jobs and works on none.
        let schedules = |word: &str| matches!(word, "beat" | "scheduler" | "flower");
        let named = |word: &str| self.name.text.split(['-', '_', '.']).any(|part| part == word);
        if words.iter().any(|word| schedules(word)) || named("beat") || named("scheduler") || named("flower")
        {
            return false;
        }
        let worker = |word: &str| {
            let base = word.rsplit('/').next().unwrap_or(word);
            let stem = base.split('.').next().unwrap_or(base);
            WORKERS.contains(&base) || WORKER_NAMES.contains(&stem)
        };
        words
            .iter()
            .flat_map(|words| words.split_whitespace())
            .any(worker)
            || self
                .name
                .text
                .split(['-', '_', '.'])
                .any(|part| WORKER_NAMES.iter().any(|known| part.eq_ignore_ascii_case(known)))
    }

    /// Whether it is there for a while only, told by its name or its command: there is nothing to finish.
    pub fn is_one_off(&self) -> bool {
        let known = |word: &str| ONE_OFF.iter().any(|known| word.eq_ignore_ascii_case(known));
        let by_name = self.name.text.split(['-', '_', '.', ' ']).any(known);
        let words = last_command(self.arguments().unwrap_or_default());
        // `npm run install-and-build`, `rails db:migrate`
        let of_script = |at: usize, word: &str| {
            let named = at > 0 && words[at - 1] == "run";
            let mut parts = word.split(|c| c == ':' || (named && c == '-'));
            parts.any(known)
                && !word
                    .split([':', '-'])
                    .any(|part| matches!(part, "dev" | "serve" | "start" | "watch"))
        };
        by_name || (words.len() <= SHORT && words.iter().enumerate().any(|(at, word)| of_script(at, word)))
    }

    /// Whether it keeps data or messages: a database, a cache, a broker.
    pub fn keeps_data(&self) -> bool {
        let name = self.image_name().unwrap_or(&self.name.text);
        NO_REQUESTS.contains(&name)
    }

    /// Whether it lists a port on which others may call it.
    pub fn may_be_called(&self) -> bool {
        match self.ports.known() {
            Some(ports) => !ports.is_empty(),
            None => !self.ports.is_absent(),
        }
    }

    /// What has something to finish, if that is known.
    pub fn finishes(&self) -> Option<&'static str> {
        if self.keeps_data() {
            Some("keeps data")
        } else if self.is_worker() {
            Some("works on jobs")
        } else {
            None
        }
    }

    /// Whether a variable, an argument or a link of this container names another, or the local port on
    /// which such a thing listens.
    pub fn mentions(&self, other: &ContainerDefinition<'_>) -> bool {
        let name = other.name.text.as_ref();
        let port = NEEDED_PORTS
            .iter()
            .find(|(image, _)| other.image_name() == Some(image))
            .map(|(_, port)| *port);
        let says = |text: &str| {
            let host = |host: &str| {
                text.split(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c))
                    .any(|word| word == host)
            };
            host(name)
                || (port.is_some_and(|port| text.contains(port)) && (host("localhost") || host("127.0.0.1")))
        };
        let values = self
            .environment
            .iter()
            .filter_map(|variable| variable.value.known());
        let words = self.arguments().unwrap_or_default();
        values.map(AsRef::as_ref).chain(words).any(says)
    }
}

/// The ports on which they listen unless told otherwise.
const NEEDED_PORTS: [(&str, &str); 9] = [
    ("mariadb", ":3306"),
    ("memcached", ":11211"),
    ("mongo", ":27017"),
    ("mysql", ":3306"),
    ("nats", ":4222"),
    ("postgres", ":5432"),
    ("rabbitmq", ":5672"),
    ("redis", ":6379"),
    ("valkey", ":6379"),
];

impl<'a> TaskDefinition<'a> {
    pub fn sidecars(&self) -> impl Iterator<Item = &ContainerDefinition<'a>> {
        self.containers.iter().filter(|container| container.is_sidecar())
    }

    /// The containers that do the task's work: essential, and neither sidecar, proxy, database nor
    /// observer. Where none is left, all that are not sidecars or observers.
    pub fn apps(&self) -> impl Iterator<Item = &ContainerDefinition<'a>> {
        let apps = self.workers().filter(|container| {
            container.is_essential() && container.needed_as().is_none() && !self.is_proxy(container)
        });
        let apps: Vec<_> = apps.collect();
        // What others are to reach is the app, be it a database, unless one beside it says that it needs it.
        let is_called =
            |container: &&ContainerDefinition<'_>| container.keeps_data() && container.may_be_called();
        let needs_it =
            |app: &ContainerDefinition<'_>| self.workers().filter(is_called).any(|data| app.mentions(data));
        let is_for_a_database = !apps.is_empty()
            && !apps
                .iter()
                .any(|app| app.may_be_called() || app.is_worker() || needs_it(app))
            && self.workers().any(|container| is_called(&container));
        let all = if is_for_a_database {
            self.workers().filter(is_called).collect()
        } else if apps.is_empty() {
            self.workers().collect()
        } else {
            apps
        };
        all.into_iter()
    }

    fn workers(&self) -> impl Iterator<Item = &ContainerDefinition<'a>> {
        self.containers.iter().filter(|container| {
            !container.is_sidecar() && !container.only_observes() && !self.ends_early(container)
        })
    }

    /// Whether it is the task's App Mesh proxy.
    pub fn is_proxy(&self, container: &ContainerDefinition<'_>) -> bool {
        self.proxy.known() == Some(&container.name.text)
    }
}
