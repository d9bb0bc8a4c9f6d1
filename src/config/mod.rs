//! Every setting of `run`: its name, default, bounds and message.
//!
//! Each is an environment variable and a flag of the same name. Everything is read and checked
//! before anything starts; all mistakes are reported together. Whoever holds a [`Config`] need not
//! check it again.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::core::deadline::{CEILING, Limits, MAX_RESERVE, MIN_STOP_TIMEOUT, Reserve, StopTimeout};
use crate::core::lifecycle::{AfterDrain, AwsPolicy, Policy};
use crate::core::step::{Step, parse_steps};
use crate::core::url::HttpUrl;
use crate::sidecar::aws;
use crate::sidecar::watch::items::Item;

mod problem;

pub use crate::core::duration::parse as duration;
pub use problem::Problem;

const PREFIX: &str = "PRESTOP_";

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

/// Load balancers take a moment to look away, and one second of silence proves nothing before that.
pub const SETTLE_BEFORE_QUIET: Duration = Duration::from_secs(5);

/// A header line that any server takes.
const MAX_TOKEN: usize = 4096;

/// A setting as `--help`, the README and the checks know it.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Without `PRESTOP_`.
    pub name: &'static str,
    /// As it would be written; empty for none.
    pub default: &'static str,
    /// What it means and what it may be.
    pub meaning: &'static str,
}

impl Setting {
    /// The environment variable.
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }

    /// The flag, without its dashes.
    pub fn flag(&self) -> String {
        self.name.to_ascii_lowercase().replace('_', "-")
    }
}

/// All of them, in the order of the README.
pub const SETTINGS: [Setting; 17] = {
    const fn setting(name: &'static str, default: &'static str, meaning: &'static str) -> Setting {
        Setting {
            name,
            default,
            meaning,
        }
    }
    [
        setting(
            "DRAIN",
            "quiet",
            "the steps, in order, separated by commas: `quiet`, `sleep DURATION`, `[METHOD] URL`, `ack` or `signal NAME CONTAINER [nowait]`; without it the docker labels, else `quiet`",
        ),
        setting(
            "STOP_TIMEOUT",
            "30s",
            "this container's stopTimeout in the task definition; 2s to 120s, or `auto` to ask ECS for it",
        ),
        setting(
            "RESERVE",
            "10s",
            "time left to the app for its own SIGTERM when the host goes away; 0s to 110s",
        ),
        setting(
            "SETTLE",
            "0s",
            "how long to go on serving after a notice before the first step; 0s to 120s, at most half of the time to the deadline; 5s where it is not set, on ECS, before a `quiet` step",
        ),
        setting(
            "CAPACITY",
            "auto",
            "`auto`, `on-demand` or `spot`: whether a SIGTERM may mean that the host goes away in two minutes",
        ),
        setting(
            "WATCH",
            "spot",
            "what to watch besides signals: any of `spot`, `rebalance`, `maintenance`, `autoscaling`, or `none`",
        ),
        setting(
            "POLL_INTERVAL",
            "1s",
            "how often the instance metadata is asked; 200ms to 60s",
        ),
        setting(
            "AFTER_DRAIN",
            "wait",
            "once drained with no SIGTERM yet: `wait` for it, `exit`, or `stop-task`",
        ),
        setting(
            "DRAIN_INSTANCE",
            "false",
            "on a Spot notice, ask ECS to set this container instance to DRAINING",
        ),
        setting(
            "DEREGISTER",
            "false",
            "on a notice, take this task out of its load balancer target groups, and wait until they stop sending",
        ),
        setting(
            "PROTECT",
            "false",
            "ECS task protection while the app is busy: `true`, by leases on `/protect`",
        ),
        setting(
            "BUSY_URL",
            "",
            "asked every 10 s in place of leases: 200 is busy, 204 is not; needs `PRESTOP_PROTECT=true`",
        ),
        setting(
            "DRAIN_TOKEN",
            "",
            "sent as a bearer token with each drain call, and required by `POST /drain`; never logged",
        ),
        setting(
            "LISTEN",
            "127.0.0.1:9911",
            "address and port of the local endpoints; `off` for none",
        ),
        setting("READY_URL", "", "what `/ready` asks the app before it says yes"),
        setting(
            "LOG",
            "info",
            "a tracing filter, such as `debug` or `info,hyper=debug`",
        ),
        setting(
            "LOG_FORMAT",
            "",
            "`json` or `text`; text on a terminal, else json",
        ),
    ]
};

/// Whether a SIGTERM may mean that the host goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// What the task metadata lets conclude: on Fargate it may, elsewhere IMDS would say so.
    Auto,
    /// It does not.
    OnDemand,
    /// It does.
    Spot,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// JSON lines.
    Json,
    /// Text for people.
    Text,
}

/// All settings of `run`, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// `PRESTOP_DRAIN`; empty where the labels decide.
    pub drain: Vec<Step>,
    /// Stop timeout, reserve, settle and what follows a drain.
    pub policy: Policy,
    /// `PRESTOP_CAPACITY`
    pub capacity: Capacity,
    /// `PRESTOP_WATCH`; empty for `none`, and where `AWS_EC2_METADATA_DISABLED` is set.
    pub watch: Vec<Item>,
    /// `PRESTOP_POLL_INTERVAL`
    pub poll_interval: Duration,
    /// `PRESTOP_DRAIN_TOKEN`
    pub token: Option<Arc<str>>,
    /// `PRESTOP_LISTEN`; `None` for `off`.
    pub listen: Option<SocketAddr>,
    /// `PRESTOP_READY_URL`
    pub ready_url: Option<HttpUrl>,
    /// `PRESTOP_PROTECT`
    pub protect: bool,
    /// `PRESTOP_BUSY_URL`
    pub busy_url: Option<HttpUrl>,
    /// `ECS_AGENT_URI`: the agent's endpoint for this container; there in ECS mode where `protect` is.
    pub agent: Option<HttpUrl>,
    /// `PRESTOP_LOG`
    pub log: Targets,
    /// `PRESTOP_LOG_FORMAT`
    pub log_format: LogFormat,
    /// Whether `NO_COLOR` is set (no-color.org).
    pub no_color: bool,
    /// `ECS_CONTAINER_METADATA_URI_V4`; `None` in local mode.
    pub task_metadata: Option<HttpUrl>,
    /// The instance metadata's endpoint.
    pub instance_metadata: HttpUrl,
    /// Whether `PRESTOP_STOP_TIMEOUT` is `auto`: the policy has the default until ECS has said it.
    pub stop_timeout_auto: bool,
    /// What the AWS SDKs read from the environment.
    pub aws: aws::clients::Settings,
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
        let mut given = Given {
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

/// What was given, and what is wrong with it so far.
struct Given<'a> {
    problems: Vec<Problem>,
    flags: &'a dyn Fn(&str) -> Option<String>,
    environment: &'a BTreeMap<String, String>,
}

impl Given<'_> {
    /// A placeholder stands wherever a problem was noted: the caller throws the whole away.
    fn config(&mut self) -> Config {
        let drain = self.parse("DRAIN", Vec::new(), |text| {
            parse_steps(text).map_err(|why| why.to_string())
        });
        let (stop_timeout, stop_timeout_auto) = self.stop_timeout();
        let aws = aws::clients::Settings::read(|name| self.environment.get(name).cloned());
        let reserve = self.duration("RESERVE", 10, Duration::ZERO..=MAX_RESERVE);
        let settle = self.duration("SETTLE", 0, Duration::ZERO..=CEILING);
        let on_ecs = self.environment.contains_key("ECS_CONTAINER_METADATA_URI_V4");
        let settle_before_quiet = match self.value("SETTLE") {
            None if on_ecs => SETTLE_BEFORE_QUIET,
            _ => settle,
        };
        let capacity = self.choice(
            "CAPACITY",
            Capacity::Auto,
            &[
                ("auto", Capacity::Auto),
                ("on-demand", Capacity::OnDemand),
                ("spot", Capacity::Spot),
            ],
        );
        let watch = self.parse("WATCH", vec![Item::Spot], watched);
        let poll_interval = self.duration(
            "POLL_INTERVAL",
            1,
            Duration::from_millis(200)..=Duration::from_secs(60),
        );
        let after_drain = self.after_drain();
        let drain_instance = self.yes_or_no("DRAIN_INSTANCE");
        let deregister = self.yes_or_no("DEREGISTER");
        let agent = self.standard_url("ECS_AGENT_URI");
        let listen = self.parse("LISTEN", Some(DEFAULT_LISTEN), listen);
        let protect = self.protect(agent.is_some(), listen.is_some());
        let busy_url = self.busy_url(protect);
        Config {
            drain,
            policy: Policy {
                limits: Limits {
                    stop_timeout,
                    reserve: Reserve::new(reserve).unwrap_or(Reserve::DEFAULT),
                },
                settle,
                settle_before_quiet,
                after_drain,
                aws: AwsPolicy {
                    deregister,
                    drain_instance,
                    // Only where a role may allow it: what nobody asked for must not complain.
                    ask_why: aws.has_credentials,
                    release_protection: protect && agent.is_some(),
                },
            },
            aws,
            stop_timeout_auto,
            capacity,
            watch: if self.instance_metadata_disabled() {
                Vec::new()
            } else {
                watch
            },
            poll_interval,
            token: self.token(),
            listen,
            ready_url: self.parse("READY_URL", None, |text| text.parse().map(Some).map_err(in_words)),
            protect,
            busy_url,
            agent,
            log: self.parse(
                "LOG",
                Targets::new().with_default(tracing::Level::INFO),
                log_filter,
            ),
            log_format: self.choice(
                "LOG_FORMAT",
                LogFormat::Auto,
                &[("json", LogFormat::Json), ("text", LogFormat::Text)],
            ),
            no_color: self.environment.contains_key("NO_COLOR"),
            task_metadata: self.standard_url("ECS_CONTAINER_METADATA_URI_V4"),
            instance_metadata: self.instance_metadata(),
        }
    }

    fn value(&self, name: &str) -> Option<(String, String)> {
        let setting = SETTINGS.iter().find(|setting| setting.name == name)?;
        if let Some(value) = (self.flags)(&setting.flag()) {
            return Some((format!("--{}", setting.flag()), value));
        }
        let variable = setting.variable();
        let value = self.environment.get(&variable)?.clone();
        Some((variable, value))
    }

    fn parse<T>(&mut self, name: &str, default: T, parse: impl FnOnce(&str) -> Result<T, String>) -> T {
        let Some((name, value)) = self.value(name) else {
            return default;
        };
        parse(&value).unwrap_or_else(|allowed| {
            let value = if value.contains('@') {
                "(hidden)".to_owned()
            } else {
                value
            };
            self.problems.push(Problem::Value { name, value, allowed });
            default
        })
    }

    fn duration(&mut self, name: &str, default_s: u64, bounds: RangeInclusive<Duration>) -> Duration {
        self.parse(name, Duration::from_secs(default_s), |text| {
            duration(text).filter(|duration| bounds.contains(duration)).ok_or_else(|| {
                format!(
                    "allowed is a duration of {} to {}, such as 90s, 1m30s or 1500ms; a bare number is seconds",
                    in_seconds(*bounds.start()),
                    in_seconds(*bounds.end())
                )
            })
        })
    }

    fn choice<T: Copy>(&mut self, name: &str, default: T, choices: &[(&str, T)]) -> T {
        self.parse(name, default, |text| {
            let chosen = choices.iter().find(|(word, _)| *word == text);
            chosen.map(|(_, value)| *value).ok_or_else(|| {
                let words: Vec<String> = choices.iter().map(|(word, _)| format!("`{word}`")).collect();
                format!("allowed is {}", words.join(" or "))
            })
        })
    }

    fn yes_or_no(&mut self, name: &str) -> bool {
        self.choice(name, false, &[("false", false), ("true", true)])
    }

    /// The stop timeout, or ECS's default and that it is to be asked for.
    fn stop_timeout(&mut self) -> (StopTimeout, bool) {
        let given = self.value("STOP_TIMEOUT");
        if given.is_some_and(|(_, value)| value == "auto") {
            return (StopTimeout::DEFAULT, true);
        }
        let given = self.duration("STOP_TIMEOUT", 30, MIN_STOP_TIMEOUT..=CEILING);
        (StopTimeout::new(given).unwrap_or(StopTimeout::DEFAULT), false)
    }

    fn after_drain(&mut self) -> AfterDrain {
        self.choice(
            "AFTER_DRAIN",
            AfterDrain::Wait,
            &[
                ("wait", AfterDrain::Wait),
                ("exit", AfterDrain::Exit),
                ("stop-task", AfterDrain::StopTask),
            ],
        )
    }

    /// In local mode there is no agent; whoever asks for a lease there is told so.
    fn protect(&mut self, agent: bool, listens: bool) -> bool {
        let protect = self.choice("PROTECT", false, &[("false", false), ("true", true)]);
        let in_ecs = self.environment.contains_key("ECS_CONTAINER_METADATA_URI_V4");
        if protect && in_ecs && !agent && !self.environment.contains_key("ECS_AGENT_URI") {
            self.refuse("PROTECT", NEEDS_AGENT);
        }
        if protect && !listens && self.value("BUSY_URL").is_none() {
            self.refuse("PROTECT", NEEDS_A_WAY);
        }
        protect
    }

    fn busy_url(&mut self, protect: bool) -> Option<HttpUrl> {
        let url = self.parse("BUSY_URL", None, |text| text.parse().map(Some).map_err(in_words));
        if url.is_some() && !protect {
            self.refuse(
                "BUSY_URL",
                "it is asked only with PRESTOP_PROTECT=true: set that, too",
            );
        }
        url
    }

    /// Refuses a value that would do by itself.
    fn refuse(&mut self, name: &str, why: &str) {
        if let Some((name, value)) = self.value(name) {
            let allowed = why.to_owned();
            self.problems.push(Problem::Value { name, value, allowed });
        }
    }

    /// Never quotes it.
    fn token(&mut self) -> Option<Arc<str>> {
        let (name, token) = self.value("DRAIN_TOKEN")?;
        if token.len() <= MAX_TOKEN && token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Some(token.into());
        }
        self.problems.push(Problem::Value {
            name,
            value: "(hidden)".to_owned(),
            allowed: format!("allowed are up to {MAX_TOKEN} visible ASCII characters without spaces"),
        });
        None
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

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9911);

fn watched(text: &str) -> Result<Vec<Item>, String> {
    let words: Vec<&str> = text.split(',').map(str::trim).collect();
    if words == ["none"] {
        return Ok(Vec::new());
    }
    let named = |word: &&str| Item::ALL.into_iter().find(|item| item.name() == *word);
    let mut items: Vec<Item> = words.iter().map(named).collect::<Option<_>>().ok_or_else(|| {
        "allowed are `spot`, `rebalance`, `maintenance` and `autoscaling`, separated by commas, or `none` alone".to_owned()
    })?;
    items.dedup();
    Ok(items)
}

fn listen(text: &str) -> Result<Option<SocketAddr>, String> {
    match text {
        "off" => Ok(None),
        address => address.parse().map(Some).map_err(|_| {
            "allowed is an address and a port, such as 127.0.0.1:9911, 0.0.0.0:9911 or [::1]:9911, or `off`".to_owned()
        }),
    }
}

fn log_filter(text: &str) -> Result<Targets, String> {
    let parts = text.split(',').map(str::trim);
    let bare: Vec<&str> = parts.filter(|part| !part.contains('=')).collect();
    // The parser takes any other word for the name of a part, and would then log nothing at all.
    let sensible = bare.iter().all(|word| word.parse::<LevelFilter>().is_ok());
    text.parse().ok().filter(|_| sensible).ok_or_else(|| {
        "allowed is a level (`error`, `warn`, `info`, `debug`, `trace`, `off`), or levels for parts, such as \
         `info,hyper=debug`"
            .to_owned()
    })
}

/// `0s` rather than the `0ns` of the standard library.
fn in_seconds(duration: Duration) -> String {
    if duration.is_zero() {
        "0s".to_owned()
    } else {
        format!("{duration:?}")
    }
}

fn in_words(why: impl fmt::Display) -> String {
    why.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Config::read(|_| None, variables)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    /// The one message that a single variable leads to.
    fn refused(name: &str, value: &str) -> String {
        let messages = read(&[(name, value)]).expect_err(&format!("{name}={value} must be refused"));
        assert_eq!(messages.len(), 1, "{messages:?}");
        assert!(messages[0].contains(name), "{messages:?}");
        messages[0].clone()
    }

    #[test]
    fn the_defaults_are_those_of_the_contract() {
        let config = read(&[]).unwrap();
        assert_eq!(config.drain, []);
        assert_eq!(config.policy.limits.stop_timeout.get(), Duration::from_secs(30));
        assert_eq!(config.policy.limits.reserve.get(), Duration::from_secs(10));
        assert_eq!(config.policy.settle, Duration::ZERO);
        assert_eq!(config.policy.after_drain, AfterDrain::Wait);
        assert_eq!(config.capacity, Capacity::Auto);
        assert_eq!(config.watch, [Item::Spot]);
        assert_eq!(config.poll_interval, Duration::from_secs(1));
        assert_eq!(config.listen.unwrap().to_string(), "127.0.0.1:9911");
        assert_eq!(config.instance_metadata.to_string(), "http://169.254.169.254/");
        assert_eq!(
            (config.token, config.ready_url, config.task_metadata),
            (None, None, None)
        );
        for setting in SETTINGS.iter().filter(|s| !s.default.is_empty()) {
            assert!(
                read(&[(&setting.variable(), setting.default)]).is_ok(),
                "{}",
                setting.name
            );
        }
    }

    #[test]
    fn every_duration_is_taken_at_its_bounds_and_refused_beyond_them() {
        for (name, least, most, below, above) in [
            ("PRESTOP_STOP_TIMEOUT", "2s", "120s", "1999ms", "121s"),
            ("PRESTOP_RESERVE", "0", "110s", "-1s", "111s"),
            ("PRESTOP_SETTLE", "0s", "2m", "-1", "121"),
            ("PRESTOP_POLL_INTERVAL", "200ms", "60s", "199ms", "61s"),
        ] {
            for value in [least, most] {
                assert!(read(&[(name, value)]).is_ok(), "{name}={value}");
            }
            for value in [below, above, "soon", "1 0", "∞", "1e9", "99999999999999999999"] {
                let message = refused(name, value);
                assert!(message.contains(&format!("`{value}`")), "{message}");
                assert!(message.contains("allowed is a duration of"), "{message}");
            }
        }
    }

    #[test]
    fn durations_read_as_people_write_them() {
        for (text, millis) in [
            ("90s", 90_000),
            ("1m30s", 90_000),
            ("1500ms", 1500),
            ("45", 45_000),
            ("1.5s", 1500),
            ("2h", 7_200_000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "PT1S", "-5s", "5 s", "1m ago", "5x"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn choices_and_lists_name_what_is_allowed() {
        assert!(refused("PRESTOP_CAPACITY", "cheap").contains("`auto` or `on-demand` or `spot`"));
        assert!(refused("PRESTOP_AFTER_DRAIN", "leave").contains("`wait` or `exit`"));
        assert!(refused("PRESTOP_LOG_FORMAT", "xml").contains("`json` or `text`"));
        assert!(refused("PRESTOP_WATCH", "spot,weather").contains("`rebalance`"));
        assert!(refused("PRESTOP_WATCH", "spot,none").contains("`none` alone"));
        assert!(refused("PRESTOP_LISTEN", "9911").contains("127.0.0.1:9911"));
        assert!(refused("PRESTOP_LISTEN", "localhost:9911").contains("`off`"));
        for filter in ["a=b=c", "bogus", "information", "info,bogus"] {
            assert!(refused("PRESTOP_LOG", filter).contains("`info`"));
        }
        assert!(!refused("PRESTOP_DRAIN", "http://me:p4ss@app/").contains("p4ss"));
        assert!(refused("PRESTOP_READY_URL", "https://app/").contains("http://"));
        assert!(refused("PRESTOP_DRAIN", "https://app/").contains("http://"));
        assert!(refused("PRESTOP_PROTECT", "yes").contains("`false` or `true`"));
        assert!(refused("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "ipv5").contains("`IPv4` or `IPv6`"));
        assert!(refused("ECS_CONTAINER_METADATA_URI_V4", "nonsense").contains("http://"));
        let all = read(&[("PRESTOP_WATCH", "rebalance, spot,maintenance,autoscaling")]).unwrap();
        assert_eq!(all.watch.len(), 4);
        assert_eq!(read(&[("PRESTOP_WATCH", "none")]).unwrap().watch, []);
        assert_eq!(read(&[("PRESTOP_LISTEN", "off")]).unwrap().listen, None);
    }

    #[test]
    fn protection_needs_the_agent_where_there_is_one_and_a_busy_url_needs_protection() {
        let protect = ("PRESTOP_PROTECT", "true");
        let in_ecs = ("ECS_CONTAINER_METADATA_URI_V4", "http://169.254.170.2/v4/id");
        let agent = ("ECS_AGENT_URI", "http://169.254.170.2/api/id");
        let busy = ("PRESTOP_BUSY_URL", "http://app:8080/busy");
        let config = read(&[protect, in_ecs, agent, busy]).unwrap();
        assert!(config.protect);
        assert_eq!(config.busy_url.unwrap().to_string(), busy.1);
        assert_eq!(config.agent.unwrap().to_string(), agent.1);
        assert!(read(&[protect]).is_ok(), "on a laptop there is a warning");
        assert_eq!(
            read(&[protect, in_ecs]).unwrap_err(),
            [
                "PRESTOP_PROTECT is `true`: needs the agent's endpoint, which ECS sets in ECS_AGENT_URI (EC2 agent \
              1.65.0, Fargate platform 1.4.0)"
            ]
        );
        assert_eq!(
            read(&[protect, in_ecs, ("ECS_AGENT_URI", "nonsense")])
                .unwrap_err()
                .len(),
            1
        );
        assert!(read(&[in_ecs, ("PRESTOP_PROTECT", "false")]).is_ok());
        let off = ("PRESTOP_LISTEN", "off");
        assert!(read(&[protect, off]).unwrap_err()[0].contains("PRESTOP_BUSY_URL"));
        assert!(read(&[protect, off, busy]).is_ok());
        assert!(refused("PRESTOP_BUSY_URL", busy.1).contains("PRESTOP_PROTECT=true"));
        assert!(read(&[protect, ("PRESTOP_BUSY_URL", "https://app/")]).unwrap_err()[0].contains("http://"));
    }

    #[test]
    fn an_unknown_variable_is_refused_with_the_nearest_name() {
        assert!(refused("PRESTOP_STOPTIMEOUT", "30").contains("did you mean PRESTOP_STOP_TIMEOUT?"));
        assert!(refused("PRESTOP_DRIAN", "ack").contains("did you mean PRESTOP_DRAIN?"));
        assert!(refused("PRESTOP_COLOUR", "1").contains("lists them all"));
    }

    #[test]
    fn a_token_is_never_quoted() {
        let message = refused("PRESTOP_DRAIN_TOKEN", "with space");
        assert!(!message.contains("with space"), "{message}");
        assert!(
            read(&[("PRESTOP_DRAIN_TOKEN", "s3cret")])
                .unwrap()
                .token
                .is_some()
        );
    }

    #[test]
    fn all_mistakes_are_reported_together() {
        let messages = read(&[
            ("PRESTOP_X", "1"),
            ("PRESTOP_RESERVE", "x"),
            ("PRESTOP_LISTEN", "x"),
        ])
        .unwrap_err();
        assert_eq!(messages.len(), 3, "{messages:?}");
    }

    #[test]
    fn a_flag_wins_over_its_variable_and_is_named_in_the_message() {
        let flag = |name: &str| (name == "stop-timeout").then(|| "5m".to_owned());
        let variables = [("PRESTOP_STOP_TIMEOUT".to_owned(), "9s".to_owned())];
        let problems = Config::read(flag, variables).unwrap_err();
        assert!(
            problems[0].to_string().starts_with("--stop-timeout is `5m`"),
            "{problems:?}"
        );
    }

    #[test]
    fn an_empty_variable_counts_as_not_given() {
        assert!(
            read(&[
                ("PRESTOP_STOP_TIMEOUT", ""),
                ("PRESTOP_DRAIN", ""),
                ("PRESTOP_WHAT", "")
            ])
            .is_ok()
        );
    }

    #[test]
    fn the_instance_metadata_is_found_by_the_variables_of_the_aws_sdks() {
        let endpoint = |variables| read(variables).unwrap().instance_metadata.to_string();
        assert_eq!(
            endpoint(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPv6")]),
            "http://[fd00:ec2::254]/"
        );
        assert_eq!(
            endpoint(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://ecs:51678")]),
            "http://ecs:51678/"
        );
        assert_eq!(read(&[("AWS_EC2_METADATA_DISABLED", "true")]).unwrap().watch, []);
    }
}
