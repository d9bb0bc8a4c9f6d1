//! Reads flags and environment: each setting by its own reader, then what must go together.

use std::collections::BTreeMap;
use std::time::Duration;

use super::aws::AwsSettings;
use super::settings::{SECRET, SETTINGS, Setting, Values, in_words};
use super::{Config, Problem};
use crate::core::deadline::{Limits, StopTimeout};
use crate::core::lifecycle::{AwsPolicy, Policy};
use crate::core::url::HttpUrl;

/// Where IMDS is on every instance (EC2 user guide, *Use the Instance Metadata Service*).
const IMDS_IPV4: &str = "http://169.254.169.254";
/// The same over IPv6, on Nitro instances.
const IMDS_IPV6: &str = "http://[fd00:ec2::254]";

/// The versions are those of the changelog of the agent and of the developer guide, *Task scale-in
/// protection endpoint*.
const NEEDS_AGENT: &str = "needs the agent's endpoint, which ECS sets in ECS_AGENT_URI (EC2 agent 1.65.0, Fargate \
                           platform 1.4.0)";

const NEEDS_A_WAY: &str = "nobody can say that the app is busy: PRESTOP_LISTEN is `off`, so there is no `/protect`; set \
                           PRESTOP_BUSY_URL, or let PRESTOP_LISTEN be";

/// What was given, and what is wrong with it so far.
pub(super) struct Given<'a> {
    pub(super) problems: Vec<Problem>,
    pub(super) flags: &'a dyn Fn(&str) -> Option<String>,
    pub(super) environment: &'a BTreeMap<String, String>,
}

/// Load balancers take a moment to look away, and one second of silence proves nothing before that.
pub const SETTLE_BEFORE_QUIET: Duration = Duration::from_secs(5);

impl Given<'_> {
    /// Defaults stand wherever a problem was noted: the caller throws the whole away.
    pub(super) fn config(&mut self) -> Config {
        let values = self.values();
        let aws = AwsSettings::read(|name| self.environment.get(name).cloned());
        let agent = self.standard_url("ECS_AGENT_URI");
        let on_ecs = self.environment.contains_key("ECS_CONTAINER_METADATA_URI_V4");
        self.refuse_protection(&values, agent.is_some());
        Config {
            drain: values.drain,
            policy: Policy {
                limits: Limits {
                    stop_timeout: values.stop_timeout.unwrap_or(StopTimeout::DEFAULT),
                    reserve: values.reserve,
                },
                settle: values.settle.unwrap_or_default(),
                settle_before_quiet: values.settle.unwrap_or(if on_ecs {
                    SETTLE_BEFORE_QUIET
                } else {
                    Duration::ZERO
                }),
                after_drain: values.after_drain,
                aws: AwsPolicy {
                    deregister: values.deregister,
                    drain_instance: values.drain_instance,
                    // Only where a role may allow it: what nobody asked for must not complain.
                    ask_why: aws.has_credentials,
                    release_protection: values.protect && agent.is_some(),
                },
            },
            aws,
            stop_timeout_auto: values.stop_timeout.is_none(),
            capacity: values.capacity,
            watch: if self.instance_metadata_disabled() {
                Vec::new()
            } else {
                values.watch
            },
            watch_superseded: if self.given("WATCH").is_some() {
                values.watch_superseded
            } else {
                values.protect
            },
            poll_interval: values.poll_interval,
            token: values.token,
            listen: values.listen,
            ready_url: values.ready_url,
            protect: values.protect,
            busy_url: values.busy_url,
            agent,
            log: values.log,
            log_format: values.log_format,
            emf: values.emf,
            task_metadata: self.standard_url("ECS_CONTAINER_METADATA_URI_V4"),
            instance_metadata: self.instance_metadata(),
        }
    }

    fn values(&mut self) -> Values {
        let mut values = Values::unset();
        for setting in SETTINGS {
            if !setting.default.is_empty()
                && let Err(allowed) = (setting.read)(setting, setting.default, &mut values)
            {
                let (name, value) = (setting.variable(), setting.default.to_owned());
                self.problems.push(Problem::Value { name, value, allowed });
            }
            let Some((name, value)) = self.given(setting.name) else {
                continue;
            };
            if let Err(allowed) = (setting.read)(setting, &value, &mut values) {
                let secret = setting.name == SECRET || value.contains('@');
                let value = if secret { "(hidden)".to_owned() } else { value };
                self.problems.push(Problem::Value { name, value, allowed });
            }
        }
        values
    }

    /// The flag or variable and what it is set to; a flag wins.
    fn given(&self, name: &str) -> Option<(String, String)> {
        let setting: &Setting = SETTINGS.iter().find(|setting| setting.name == name)?;
        if let Some(value) = (self.flags)(&setting.flag()) {
            return Some((format!("--{}", setting.flag()), value));
        }
        let variable = setting.variable();
        let value = self.environment.get(&variable)?.clone();
        Some((variable, value))
    }

    /// In local mode there is no agent; whoever asks for a lease there is told so.
    fn refuse_protection(&mut self, values: &Values, agent: bool) {
        let in_ecs = self.environment.contains_key("ECS_CONTAINER_METADATA_URI_V4");
        if values.protect && in_ecs && !agent && !self.environment.contains_key("ECS_AGENT_URI") {
            self.refuse("PROTECT", NEEDS_AGENT);
        }
        if values.protect && values.listen.is_none() && self.given("BUSY_URL").is_none() {
            self.refuse("PROTECT", NEEDS_A_WAY);
        }
        if values.busy_url.is_some() && !values.protect {
            self.refuse(
                "BUSY_URL",
                "it is asked only with PRESTOP_PROTECT=true: set that, too",
            );
        }
    }

    /// Refuses a value that would do by itself.
    fn refuse(&mut self, name: &str, why: &str) {
        if let Some((name, value)) = self.given(name) {
            let allowed = why.to_owned();
            self.problems.push(Problem::Value { name, value, allowed });
        }
    }

    fn standard_url(&mut self, name: &str) -> Option<HttpUrl> {
        let value = self.environment.get(name)?;
        match value.parse() {
            Ok(url) => Some(url),
            Err(why) => {
                self.problems.push(Problem::Value {
                    name: name.to_owned(),
                    value: value.clone(),
                    allowed: in_words(why),
                });
                None
            }
        }
    }

    /// As the AWS SDKs read these variables (AWS SDKs and Tools reference guide, *IMDS credential
    /// provider*).
    fn instance_metadata(&mut self) -> HttpUrl {
        const MODE: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE";
        if let Some(url) = self.standard_url("AWS_EC2_METADATA_SERVICE_ENDPOINT") {
            return url;
        }
        let mode = self.environment.get(MODE);
        let endpoint = match mode.map(|mode| mode.to_ascii_lowercase()).as_deref() {
            None | Some("ipv4") => IMDS_IPV4,
            Some("ipv6") => IMDS_IPV6,
            Some(_) => {
                self.problems.push(Problem::Value {
                    name: MODE.to_owned(),
                    value: mode.cloned().unwrap_or_default(),
                    allowed: "allowed is `IPv4` or `IPv6`".to_owned(),
                });
                IMDS_IPV4
            }
        };
        #[allow(
            clippy::expect_used,
            reason = "two constants of this module, parsed in a test"
        )]
        endpoint.parse().expect("a constant URL parses")
    }

    fn instance_metadata_disabled(&self) -> bool {
        let disabled = self.environment.get("AWS_EC2_METADATA_DISABLED");
        disabled.is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }
}
