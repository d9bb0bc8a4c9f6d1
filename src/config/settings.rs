//! The settings of `run`: each is one item with its name, default, bounds, meaning and reader.
//!
//! Help, the table of task-definitions/reference.md and what `check` refuses come from here. A new setting is one item and one
//! field of [`Values`]. A default is read like anything that is given, so that the two cannot differ.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};

use super::{Capacity, LogFormat, PREFIX, duration};
use crate::core::deadline::{CEILING, MAX_RESERVE, MIN_STOP_TIMEOUT, Reserve, StopTimeout};
use crate::core::lifecycle::AfterDrain;
use crate::core::step::{Step, parse_steps};
use crate::core::url::HttpUrl;
use crate::core::watch_items::WatchItem;

/// Only where the bounds of the table are wider than those of the core.
const OUT_OF_BOUNDS: &str = "it is out of bounds";

/// A header line that any server takes.
const MAX_TOKEN: usize = 4096;

/// The one whose value is never told.
pub(super) const SECRET: &str = "DRAIN_TOKEN";

/// A setting as `--help`, task-definitions/reference.md and the checks know it.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Without `PRESTOP_`.
    pub name: &'static str,
    /// As it would be written; empty for none.
    pub default: &'static str,
    pub meaning: &'static str,
    /// Of a duration.
    pub bounds: Option<Bounds>,
    /// Sets the value that a text stands for, or says what is allowed.
    pub(super) read: fn(&Setting, &str, &mut Values) -> Result<(), String>,
}

/// The bounds of a duration, both included.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub least: Duration,
    pub most: Duration,
    /// What could be written, with whatever else may stand there.
    pub examples: &'static str,
}

impl Setting {
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }

    /// The flag, without its dashes.
    pub fn flag(&self) -> String {
        self.name.to_ascii_lowercase().replace('_', "-")
    }

    /// Whether the flag alone means `true`.
    pub fn is_switch(&self) -> bool {
        self.default == "false"
    }

    fn duration(&self, text: &str) -> Result<Duration, String> {
        let read = duration(text);
        let Some(bounds) = self.bounds else {
            return read.ok_or_else(|| "allowed is a duration, such as 30s".to_owned());
        };
        let within = read.filter(|read| (bounds.least..=bounds.most).contains(read));
        within.ok_or_else(|| {
            format!(
                "allowed is a duration of {} to {}, such as {}; a bare number is seconds",
                in_seconds(bounds.least),
                in_seconds(bounds.most),
                bounds.examples
            )
        })
    }
}

/// What the settings are set to, each by itself.
#[derive(Debug)]
pub(super) struct Values {
    pub(super) drain: Vec<Step>,
    /// `None` for `auto`.
    pub(super) stop_timeout: Option<StopTimeout>,
    pub(super) reserve: Reserve,
    /// Missing where the plan decides.
    pub(super) settle: Option<Duration>,
    pub(super) capacity: Capacity,
    pub(super) watch: Vec<WatchItem>,
    pub(super) watch_superseded: bool,
    pub(super) poll_interval: Duration,
    pub(super) after_drain: AfterDrain,
    pub(super) drain_instance: bool,
    pub(super) deregister: bool,
    pub(super) protect: bool,
    pub(super) busy_url: Option<HttpUrl>,
    pub(super) token: Option<Arc<str>>,
    pub(super) listen: Option<SocketAddr>,
    pub(super) ready_url: Option<HttpUrl>,
    pub(super) log: Targets,
    pub(super) log_format: LogFormat,
    pub(super) emf: bool,
}

impl Values {
    /// Before any is read: what has no default stays so.
    pub(super) fn unset() -> Values {
        Values {
            drain: Vec::new(),
            stop_timeout: None,
            reserve: Reserve::DEFAULT,
            settle: None,
            capacity: Capacity::Auto,
            watch: Vec::new(),
            watch_superseded: false,
            poll_interval: Duration::ZERO,
            after_drain: AfterDrain::Wait,
            drain_instance: false,
            deregister: false,
            protect: false,
            busy_url: None,
            token: None,
            listen: None,
            ready_url: None,
            log: Targets::new(),
            log_format: LogFormat::Auto,
            emf: false,
        }
    }
}

/// All of them, in the order of task-definitions/reference.md.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "DRAIN",
        default: "",
        meaning: "the steps, in order, separated by commas: `quiet`, `sleep DURATION`, `[METHOD] URL`, `ack` or `signal NAME CONTAINER [nowait]`; without it the docker labels, else `quiet`",
        bounds: None,
        read: |_, text, values| {
            values.drain = parse_steps(text).map_err(in_words)?;
            Ok(())
        },
    },
    Setting {
        name: "STOP_TIMEOUT",
        default: "30s",
        meaning: "this container's stopTimeout in the task definition; 2s to 120s, or `auto` to ask ECS for it",
        bounds: Some(Bounds {
            least: MIN_STOP_TIMEOUT,
            most: CEILING,
            examples: "30s or 1m30s, or `auto` to ask ECS for it",
        }),
        read: |setting, text, values| {
            values.stop_timeout = match text {
                "auto" => None,
                text => Some(StopTimeout::new(setting.duration(text)?).ok_or(OUT_OF_BOUNDS)?),
            };
            Ok(())
        },
    },
    Setting {
        name: "RESERVE",
        default: "10s",
        meaning: "time left to the app for its own SIGTERM when the host goes away; 0s to 110s",
        bounds: Some(Bounds {
            least: Duration::ZERO,
            most: MAX_RESERVE,
            examples: "20s or 1m30s",
        }),
        read: |setting, text, values| {
            values.reserve = Reserve::new(setting.duration(text)?).ok_or(OUT_OF_BOUNDS)?;
            Ok(())
        },
    },
    Setting {
        name: "SETTLE",
        default: "",
        meaning: "how long to go on serving after a notice before the first step; 0s to 120s, at most half of the time to the deadline; without it 5s on ECS before a `quiet` step, else 0s",
        bounds: Some(Bounds {
            least: Duration::ZERO,
            most: CEILING,
            examples: "5s or 1500ms",
        }),
        read: |setting, text, values| {
            values.settle = Some(setting.duration(text)?);
            Ok(())
        },
    },
    Setting {
        name: "CAPACITY",
        default: "auto",
        meaning: "`auto`, `on-demand` or `spot`: whether a SIGTERM may mean that the host goes away in two minutes",
        bounds: None,
        read: |_, text, values| {
            let choices = [
                ("auto", Capacity::Auto),
                ("on-demand", Capacity::OnDemand),
                ("spot", Capacity::Spot),
            ];
            values.capacity = choice(text, &choices)?;
            Ok(())
        },
    },
    Setting {
        name: "WATCH",
        default: "spot",
        meaning: "what to watch besides signals: any of `spot`, `rebalance`, `maintenance`, `autoscaling`, `superseded`, or `none`; with PRESTOP_PROTECT=true and this not set, `superseded`, too",
        bounds: None,
        read: |_, text, values| {
            (values.watch, values.watch_superseded) = watched(text)?;
            Ok(())
        },
    },
    Setting {
        name: "POLL_INTERVAL",
        default: "1s",
        meaning: "how often the instance metadata is asked; 200ms to 60s",
        bounds: Some(Bounds {
            least: Duration::from_millis(200),
            most: Duration::from_secs(60),
            examples: "500ms or 5s",
        }),
        read: |setting, text, values| {
            values.poll_interval = setting.duration(text)?;
            Ok(())
        },
    },
    Setting {
        name: "AFTER_DRAIN",
        default: "wait",
        meaning: "once drained with no SIGTERM yet: `wait` for it, `exit`, or `stop-task`",
        bounds: None,
        read: |_, text, values| {
            let choices = [
                ("wait", AfterDrain::Wait),
                ("exit", AfterDrain::Exit),
                ("stop-task", AfterDrain::StopTask),
            ];
            values.after_drain = choice(text, &choices)?;
            Ok(())
        },
    },
    Setting {
        name: "DRAIN_INSTANCE",
        default: "false",
        meaning: "on a Spot notice, ask ECS to set this container instance to DRAINING",
        bounds: None,
        read: |_, text, values| {
            values.drain_instance = yes_or_no(text)?;
            Ok(())
        },
    },
    Setting {
        name: "DEREGISTER",
        default: "false",
        meaning: "on a notice, take this task out of its target groups and of Cloud Map, and wait until they stop sending",
        bounds: None,
        read: |_, text, values| {
            values.deregister = yes_or_no(text)?;
            Ok(())
        },
    },
    Setting {
        name: "PROTECT",
        default: "false",
        meaning: "ECS task protection while the app is busy: `true`, by leases on `/protect`",
        bounds: None,
        read: |_, text, values| {
            values.protect = yes_or_no(text)?;
            Ok(())
        },
    },
    Setting {
        name: "BUSY_URL",
        default: "",
        meaning: "asked every 10 s in place of leases: 200 is busy, 204 is not; needs `PRESTOP_PROTECT=true`",
        bounds: None,
        read: |_, text, values| {
            values.busy_url = Some(text.parse().map_err(in_words)?);
            Ok(())
        },
    },
    Setting {
        name: "DRAIN_TOKEN",
        default: "",
        meaning: "sent as a bearer token with each drain call, and required by `POST /drain`; never logged",
        bounds: None,
        read: |_, text, values| {
            values.token = Some(token(text)?);
            Ok(())
        },
    },
    Setting {
        name: "LISTEN",
        default: "127.0.0.1:9911",
        meaning: "address and port of the local endpoints; `off` for none",
        bounds: None,
        read: |_, text, values| {
            values.listen = listen(text)?;
            Ok(())
        },
    },
    Setting {
        name: "READY_URL",
        default: "",
        meaning: "what `/ready` asks the app before it says yes",
        bounds: None,
        read: |_, text, values| {
            values.ready_url = Some(text.parse().map_err(in_words)?);
            Ok(())
        },
    },
    Setting {
        name: "LOG",
        default: "info",
        meaning: "a tracing filter, such as `debug` or `info,hyper=debug`",
        bounds: None,
        read: |_, text, values| {
            values.log = log_filter(text)?;
            Ok(())
        },
    },
    Setting {
        name: "LOG_FORMAT",
        default: "",
        meaning: "`json` or `text`; text on a terminal, else json",
        bounds: None,
        read: |_, text, values| {
            values.log_format = choice(text, &[("json", LogFormat::Json), ("text", LogFormat::Text)])?;
            Ok(())
        },
    },
    Setting {
        name: "METRICS",
        default: "off",
        meaning: "`emf` adds CloudWatch's embedded metric format to the `exit` line of a JSON log: metrics and alarms with nothing installed; or `off`",
        bounds: None,
        read: |_, text, values| {
            values.emf = choice(text, &[("off", false), ("emf", true)])?;
            Ok(())
        },
    },
];

/// The items of the instance metadata, and whether `superseded` is among the words.
fn watched(text: &str) -> Result<(Vec<WatchItem>, bool), String> {
    let mut words: Vec<&str> = text.split(',').map(str::trim).collect();
    if words == ["none"] {
        return Ok((Vec::new(), false));
    }
    let superseded = words.contains(&"superseded");
    words.retain(|word| *word != "superseded");
    let named = |word: &&str| WatchItem::ALL.into_iter().find(|item| item.name() == *word);
    let mut items: Vec<WatchItem> = words.iter().map(named).collect::<Option<_>>().ok_or_else(|| {
        "allowed are `spot`, `rebalance`, `maintenance`, `autoscaling` and `superseded`, separated by commas, or `none` alone".to_owned()
    })?;
    items.dedup();
    Ok((items, superseded))
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

fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let chosen = choices.iter().find(|(word, _)| *word == text);
    chosen.map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("`{word}`")).collect();
        format!("allowed is {}", words.join(" or "))
    })
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    choice(text, &[("false", false), ("true", true)])
}

fn token(text: &str) -> Result<Arc<str>, String> {
    if text.len() <= MAX_TOKEN && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.into());
    }
    Err(format!(
        "allowed are up to {MAX_TOKEN} visible ASCII characters without spaces"
    ))
}

/// `0s` rather than the `0ns` of the standard library.
pub(super) fn in_seconds(duration: Duration) -> String {
    if duration.is_zero() {
        "0s".to_owned()
    } else {
        format!("{duration:?}")
    }
}

pub(super) fn in_words(why: impl fmt::Display) -> String {
    why.to_string()
}
