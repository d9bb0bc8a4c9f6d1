//! Every setting of `run`, checked.
//!
//! Each is an environment variable and a flag of the same name, and one item of `settings`. Everything is
//! read and checked before anything starts; all mistakes are reported together. Whoever holds a [`Config`]
//! need not check it again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tracing_subscriber::filter::Targets;

use crate::core::lifecycle::Policy;
use crate::core::plan::Plan;
use crate::core::step::Step;
use crate::core::url::HttpUrl;
use crate::core::watch_items::WatchItem;

pub mod aws;
mod problem;
mod reader;
mod settings;

pub use crate::core::duration::parse as duration;
pub use problem::Problem;
pub use reader::SETTLE_BEFORE_QUIET;
pub use settings::{Bounds, SETTINGS, Setting};

const PREFIX: &str = "PRESTOP_";

/// Whether a SIGTERM may mean that the host goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// What the task metadata lets conclude: on Fargate and Managed Instances it may, elsewhere IMDS would say so.
    Auto,
    OnDemand,
    Spot,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    Json,
    Text,
}

/// All settings of `run`, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// `PRESTOP_DRAIN`; empty where the labels decide.
    pub drain: Vec<Step>,
    /// Stop timeout, reserve, settle and what follows a drain.
    pub policy: Policy,
    pub capacity: Capacity,
    /// `PRESTOP_WATCH`; empty for `none`, and where `AWS_EC2_METADATA_DISABLED` is set.
    pub watch: Vec<WatchItem>,
    pub watch_superseded: bool,
    pub poll_interval: Duration,
    /// `PRESTOP_DRAIN_TOKEN`
    pub token: Option<Arc<str>>,
    /// `PRESTOP_LISTEN`; `None` for `off`.
    pub listen: Option<SocketAddr>,
    pub ready_url: Option<HttpUrl>,
    pub protect: bool,
    pub busy_url: Option<HttpUrl>,
    /// `ECS_AGENT_URI`: the agent's endpoint for this container; there in ECS mode where `protect` is.
    pub agent: Option<HttpUrl>,
    pub log: Targets,
    pub log_format: LogFormat,
    /// Whether `PRESTOP_METRICS` is `emf`.
    pub emf: bool,
    /// `ECS_CONTAINER_METADATA_URI_V4`; `None` in local mode.
    pub task_metadata: Option<HttpUrl>,
    /// The instance metadata's endpoint.
    pub instance_metadata: HttpUrl,
    /// Whether `PRESTOP_STOP_TIMEOUT` is `auto`: the policy has the default until ECS has said it.
    pub stop_timeout_auto: bool,
    /// What the AWS SDKs read from the environment.
    pub aws: aws::AwsSettings,
}

impl Config {
    /// Reads flags and environment; a flag wins. An empty value counts as not given.
    ///
    /// # Errors
    /// Every mistake there is, in the order of [`SETTINGS`].
    pub fn read(
        flags: impl Fn(&str) -> Option<String>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, Vec<Problem>> {
        let environment: BTreeMap<String, String> =
            environment.into_iter().filter(|(_, v)| !v.is_empty()).collect();
        let mut given = reader::Given {
            problems: unknown(&environment),
            flags: &flags,
            environment: &environment,
        };
        let config = given.config();
        if given.problems.is_empty() {
            Ok(config)
        } else {
            Err(given.problems)
        }
    }
}

impl Config {
    /// What a plan needs and these settings rule out, whether it comes from a setting or from labels.
    pub fn refuses(&self, plan: &Plan) -> Option<Problem> {
        let waits = plan.steps().iter().any(|planned| planned.step == Step::Ack);
        (waits && self.listen.is_none()).then(|| Problem::Value {
            name: format!("{PREFIX}LISTEN"),
            value: "off".to_owned(),
            allowed: "an `ack` step waits for POST /drained, which nobody can send then: leave it out, or drain by a \
                      URL or a signal"
                .to_owned(),
        })
    }
}

fn unknown(environment: &BTreeMap<String, String>) -> Vec<Problem> {
    environment.keys().filter_map(|key| unknown_name(key)).collect()
}

/// What is wrong with the name of a variable: it starts as a setting does and is none.
pub fn unknown_name(name: &str) -> Option<Problem> {
    let names: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
    let foreign = name.starts_with(PREFIX) && !names.iter().any(|known| known == name);
    foreign.then(|| Problem::Unknown {
        name: name.to_owned(),
        nearest: problem::nearest(name, &names),
    })
}

#[cfg(test)]
mod tests;
