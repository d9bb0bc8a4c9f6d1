//! The settings of a sidecar in a file, read by the code that reads them at run time.

use std::time::Duration;

use crate::config::{Config, Problem, SETTLE_BEFORE_QUIET};
use crate::core::plan::{LabelError, Plan, PlannedStep};
use crate::core::step::Step;
use crate::core::task;

use super::{ContainerDefinition, DocumentForm, TaskDefinition, Value};

const SETTLE: &str = "PRESTOP_SETTLE";

/// Nobody has a use for more than one; what a file of hundreds says of each is not told.
const MAX_SIDECARS: usize = 4;

/// A sidecar and what it is set to do.
#[derive(Debug)]
pub struct SidecarContainer<'t, 'a> {
    pub container: &'t ContainerDefinition<'a>,
    /// What `run` would make of its settings, those left out that the file does not tell.
    pub settings: Result<Config, Vec<Problem>>,
    /// What it would do to drain.
    pub steps: Steps,
}

/// What a sidecar would do to drain.
#[derive(Debug)]
pub enum Steps {
    /// These, and what is wrong with labels that are left out.
    Known(Vec<PlannedStep>, Vec<LabelError>),
    /// The file does not say.
    Unknown,
}

impl Steps {
    /// The steps, as far as they are known.
    pub fn known(&self) -> &[PlannedStep] {
        match self {
            Steps::Known(steps, _) => steps,
            Steps::Unknown => &[],
        }
    }
}

impl<'t, 'a> SidecarContainer<'t, 'a> {
    pub fn all(task: &'t TaskDefinition<'a>) -> impl Iterator<Item = SidecarContainer<'t, 'a>> {
        task.sidecars()
            .take(MAX_SIDECARS)
            .map(|container| SidecarContainer::of(task, container))
    }

    fn of(task: &'t TaskDefinition<'a>, container: &'t ContainerDefinition<'a>) -> SidecarContainer<'t, 'a> {
        let settings = Config::read(|name| flag(container, name), environment(container));
        let steps = match &settings {
            Ok(config) => steps(task, container, config),
            Err(_) => Steps::Unknown,
        };
        SidecarContainer {
            container,
            settings,
            steps,
        }
    }

    pub fn waits_for_quiet(&self) -> bool {
        let quiet = |planned: &PlannedStep| matches!(planned.step, Step::Quiet(_));
        self.steps.known().iter().any(quiet)
    }

    /// How long it serves on before its first step; `None` where its settings are wrong or not told. On
    /// ECS it does so before a `quiet` though nobody has said it.
    pub fn settle(&self, task: &TaskDefinition<'_>) -> Option<Duration> {
        let config = self.settings.as_ref().ok()?;
        let is_set = self.container.variable(SETTLE).is_some() || flag(self.container, "settle").is_some();
        let by_itself = !is_set && task.form != DocumentForm::Compose && self.waits_for_quiet();
        match by_itself {
            _ if self.is_unknown(SETTLE) => None,
            true => Some(SETTLE_BEFORE_QUIET),
            false => Some(config.policy.settle),
        }
    }

    /// Whether a setting is there with a value that the file does not tell, or may come from elsewhere.
    pub fn is_unknown(&self, variable: &str) -> bool {
        is_unknown(self.container, variable)
    }

    /// Where to point for a setting: its value, else the sidecar's name.
    pub fn place(&self, variable: &str) -> &'a super::Node<'a> {
        let named = self.container.variable(variable).map(|variable| variable.node);
        let secret = self
            .container
            .secrets
            .iter()
            .find(|secret| secret.text == variable);
        named
            .or(secret.map(|secret| secret.node))
            .unwrap_or(self.container.name.node)
    }

    /// Whether a boolean setting or a word is given exactly so.
    pub fn says(&self, variable: &str, word: &str) -> bool {
        let value = self
            .container
            .variable(variable)
            .and_then(|variable| variable.value.known());
        value.is_some_and(|value| value == word)
    }
}

fn is_unknown(container: &ContainerDefinition<'_>, variable: &str) -> bool {
    match container.variable(variable) {
        Some(variable) => matches!(variable.value, Value::Unknown(_)),
        None => container.more_environment || container.secrets.iter().any(|secret| secret.text == variable),
    }
}

fn environment<'t>(container: &'t ContainerDefinition<'_>) -> impl Iterator<Item = (String, String)> + 't {
    container.environment.iter().filter_map(|variable| {
        let value = variable.value.known()?;
        Some((variable.name.to_string(), value.to_string()))
    })
}

/// A flag among the words of `command`: `--stop-timeout 90s` or `--stop-timeout=90s`.
fn flag(container: &ContainerDefinition<'_>, name: &str) -> Option<String> {
    let words = container.command.known()?;
    let long = format!("--{name}");
    words.iter().enumerate().find_map(|(index, word)| {
        let rest = word.strip_prefix(long.as_str())?;
        let value = match rest.strip_prefix('=') {
            Some(value) => Some(value),
            None if rest.is_empty() => words.get(index + 1).map(AsRef::as_ref),
            None => None,
        };
        value.filter(|value| !value.contains('$')).map(ToOwned::to_owned)
    })
}

fn steps(task: &TaskDefinition<'_>, container: &ContainerDefinition<'_>, config: &Config) -> Steps {
    if let Some(plan) = Plan::from_setting(&config.drain) {
        return Steps::Known(plan.steps().to_vec(), Vec::new());
    }
    if is_unknown(container, "PRESTOP_DRAIN") {
        return Steps::Unknown;
    }
    let (plan, errors) = Plan::from_labels(&as_metadata(task));
    let more = task.more_containers || task.containers.iter().any(|container| container.more_labels);
    match plan {
        Some(plan) => Steps::Known(plan.steps().to_vec(), errors),
        None if more => Steps::Unknown,
        None => Steps::Known(Plan::without_settings().steps().to_vec(), errors),
    }
}

/// The containers with their labels, as the task metadata would show them.
fn as_metadata(task: &TaskDefinition<'_>) -> task::Task {
    let containers = task.containers.iter().map(|container| task::Container {
        name: container.name.text.to_string(),
        labels: container
            .labels
            .iter()
            .map(|(name, (text, _))| (name.to_string(), text.to_string()))
            .collect(),
        ..task::Container::default()
    });
    task::Task {
        containers: containers.collect(),
        ..task::Task::default()
    }
}

/// The settings that need to call AWS, the values that ask for it, and the policies of
/// `task-definitions/iam` that allow it.
const AWS_FEATURES: [(&str, &str, &str); 5] = [
    ("PRESTOP_DEREGISTER", "true", "sidecar-deregister.json"),
    ("PRESTOP_DRAIN_INSTANCE", "true", "sidecar-drain-instance.json"),
    ("PRESTOP_AFTER_DRAIN", "stop-task", "sidecar-stop-task.json"),
    ("PRESTOP_STOP_TIMEOUT", "auto", "sidecar-stop-timeout.json"),
    ("PRESTOP_PROTECT", "true", PROTECT_POLICY),
];

/// What protection takes.
pub const PROTECT_POLICY: &str = "sidecar-protect.json";

/// What it takes to learn that ECS wants the task gone, which is watched together with protection.
pub const SUPERSEDED_POLICY: &str = "sidecar-superseded.json";

impl SidecarContainer<'_, '_> {
    /// Its settings that need the task role, each with the policy that it takes.
    pub fn aws_features(&self) -> Vec<(&'static str, &'static str)> {
        let features = AWS_FEATURES.iter();
        let mut wanted: Vec<_> = features
            .filter(|(variable, word, _)| self.says(variable, word))
            .map(|(variable, _, policy)| (*variable, *policy))
            .collect();
        let watches = match self.container.variable(WATCH) {
            Some(watch) => {
                let words = watch.value.known().map_or("", AsRef::as_ref);
                words.split(',').any(|word| word.trim() == "superseded")
            }
            None => self.says("PRESTOP_PROTECT", "true"),
        };
        if watches {
            wanted.push((WATCH, SUPERSEDED_POLICY));
        }
        wanted
    }
}

const WATCH: &str = "PRESTOP_WATCH";
