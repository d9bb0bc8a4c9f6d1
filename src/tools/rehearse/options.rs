//! How scenarios are played: what the command line and the environment say.

use std::net::SocketAddr;
use std::time::Duration;

use clap::ArgMatches;

use super::record::Unit;
use super::scenario::{self, Opening, SCENARIOS, Scenario};
use crate::config;
use crate::core::url::HttpUrl;
use crate::tools::picture::words;

/// Where a sidecar listens unless told otherwise; somebody's own worker expects it there.
const SIDECAR: &str = "127.0.0.1:9911";

/// A stop timeout that cannot be read, such as `auto`, is ECS's default.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// How all scenarios are played.
pub(super) struct Options {
    pub(super) own: Option<OwnApp>,
    pub(super) scale: Option<u32>,
    /// Settings of the sidecar that somebody has made, by the names of their variables.
    pub(super) settings: Vec<(String, String)>,
}

/// Somebody's own app in place of the sample.
pub(super) struct OwnApp {
    pub(super) start: String,
    /// Missing for a worker.
    pub(super) url: Option<HttpUrl>,
    pub(super) ready: Option<HttpUrl>,
    pub(super) startup: Option<Duration>,
}

impl Options {
    pub(super) fn read(matches: &ArgMatches) -> Result<Options, String> {
        let text = |name: &str| matches.get_one::<String>(name).cloned();
        let url = |name: &str| -> Result<Option<HttpUrl>, String> {
            text(name)
                .map(|url| url.parse().map_err(|why| format!("--{name} is `{url}`: {why}")))
                .transpose()
        };
        let duration = |name: &str| -> Result<Option<Duration>, String> {
            let Some(text) = text(name) else { return Ok(None) };
            let read = config::duration(&text);
            read.map(Some)
                .ok_or_else(|| format!("--{name} is `{text}`: write a duration such as 30s"))
        };
        let mut settings: Vec<(String, String)> = std::env::vars()
            .filter(|(name, _)| name.starts_with("PRESTOP_"))
            .collect();
        for (flag, variable) in [
            ("drain", "PRESTOP_DRAIN"),
            ("stop-timeout", "PRESTOP_STOP_TIMEOUT"),
            ("settle", "PRESTOP_SETTLE"),
        ] {
            if let Some(value) = text(flag) {
                settings.retain(|(name, _)| name != variable);
                settings.push((variable.to_owned(), value));
            }
        }
        // Here, with the flag's name, and not by the sidecar in the middle of a play.
        duration("stop-timeout")?;
        duration("settle")?;
        let own = match text("start") {
            None => None,
            Some(start) => Some(OwnApp {
                start,
                url: url("app")?,
                ready: url("ready")?,
                startup: duration("startup")?,
            }),
        };
        let options = Options {
            own,
            scale: matches.get_one("scale").copied(),
            settings,
        };
        let is_worker = options.own.as_ref().is_some_and(|own| own.url.is_none());
        if is_worker && options.setting("PRESTOP_DRAIN").is_none() {
            return Err(
                "--start without --app is a worker: say by --drain how it is drained, `ack` if it posts to /drained or \
                 `signal NAME app`; or where it serves, by --app"
                    .to_owned(),
            );
        }
        Ok(options)
    }

    /// What is to be played.
    pub(super) fn scenarios(&self, matches: &ArgMatches) -> Result<Vec<&'static Scenario>, String> {
        if matches.get_flag("all") {
            return Ok(SCENARIOS.iter().collect());
        }
        let named: Vec<&str> = matches
            .get_many::<String>("scenario")
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        let default = match &self.own {
            Some(own) if own.url.is_none() => "stop-task",
            _ => scenario::DEFAULT,
        };
        let named = if named.is_empty() { vec![default] } else { named };
        let scenarios: Vec<&Scenario> = named.into_iter().filter_map(Scenario::named).collect();
        let misfit = scenarios.iter().find(|scenario| !self.fits(scenario));
        match misfit {
            Some(scenario) => {
                let others = SCENARIOS.iter().filter(|scenario| self.fits(scenario));
                let others: Vec<&str> = others.map(|scenario| scenario.name).collect();
                Err(format!(
                    "`{}` is about what the sample app does: with yours there are {}",
                    scenario.name,
                    others.join(", ")
                ))
            }
            None => Ok(scenarios),
        }
    }

    fn fits(&self, scenario: &Scenario) -> bool {
        match &self.own {
            None => true,
            // Those are about the balancer.
            Some(own) if own.url.is_none() => {
                scenario.fits_any_app()
                    && !matches!(
                        scenario.opening,
                        Opening::KeepsSending | Opening::NamedByDns | Opening::Deployed
                    )
            }
            Some(_) => scenario.fits_any_app(),
        }
    }

    pub(super) fn setting(&self, variable: &str) -> Option<&str> {
        let setting = self.settings.iter().find(|(name, _)| name == variable);
        setting.map(|(_, value)| value.as_str())
    }

    /// Where the sidecar listens, unless that is of no matter.
    pub(super) fn listen(&self) -> Option<SocketAddr> {
        let asked = self
            .setting("PRESTOP_LISTEN")
            .and_then(|address| address.parse().ok());
        asked.or_else(|| self.own.as_ref().and_then(|_| SIDECAR.parse().ok()))
    }

    /// How somebody's own app is drained, unless a setting says it.
    pub(super) fn own_drain(&self) -> Option<String> {
        let url = self.own.as_ref()?.url.as_ref()?;
        Some(format!("quiet :{}", url.port()))
    }

    pub(super) fn unit(&self, scenario: &Scenario) -> Unit {
        match &self.own {
            None => scenario.unit(),
            Some(own) if own.url.is_some() => Unit::Requests,
            Some(_) => Unit::Jobs,
        }
    }

    /// Whether what is lost is seen: of somebody's own worker only its end is.
    pub(super) fn counts(&self) -> bool {
        self.own.as_ref().is_none_or(|own| own.url.is_some())
    }

    pub(super) fn scale(&self, scenario: &Scenario) -> u32 {
        let usual = if self.own.is_some() { 1 } else { scenario.scale };
        self.scale.unwrap_or(usual)
    }

    /// A time of ECS, as long as it takes here.
    pub(super) fn scaled(&self, scenario: &Scenario, seconds: u32) -> Duration {
        Duration::from_secs(seconds.into()) / self.scale(scenario)
    }

    pub(super) fn stop_timeout(&self, scenario: &Scenario) -> Duration {
        match self.setting("PRESTOP_STOP_TIMEOUT") {
            Some(set) => config::duration(set).unwrap_or(STOP_TIMEOUT),
            None => self.scaled(scenario, scenario.stop_timeout_s),
        }
    }

    pub(super) fn settle(&self, scenario: &Scenario) -> Duration {
        let set = self.setting("PRESTOP_SETTLE").and_then(config::duration);
        set.unwrap_or_else(|| self.scaled(scenario, scenario.settle_s))
    }

    /// What a reader has to know of the time.
    pub(super) fn about_time(&self, scenario: &Scenario) -> String {
        let span = |duration: Duration| words::span(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        let (scale, stop_timeout) = (self.scale(scenario), span(self.stop_timeout(scenario)));
        let settle = match self.settle(scenario) {
            Duration::ZERO => String::new(),
            settle => format!(", PRESTOP_SETTLE {}", span(settle)),
        };
        let time = if scale == 1 {
            "Time is that of ECS".to_owned()
        } else {
            format!("One second here is {scale} of ECS")
        };
        format!("{time}: the stop timeout is {stop_timeout}{settle}.")
    }
}
