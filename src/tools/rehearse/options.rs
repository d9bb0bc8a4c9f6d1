//! How scenarios are played: what the command line and the environment say.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::ArgMatches;

use super::record::Unit;
use super::scenario::{self, Cast, Opening, SCENARIOS, Scenario};
use super::stage::{milliseconds, span};
use crate::config::{self, Config};
use crate::core::deadline::MIN_STOP_TIMEOUT;
use crate::core::plan::Plan;
use crate::core::url::HttpUrl;
use crate::tools::sample_app::AppKind;

/// Where a sidecar listens unless told otherwise; somebody's own worker expects it there.
const SIDECAR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9911);

/// The silence that shows that an app is quiet, on ECS's time: the sample's answers never pause.
const SILENCE_S: u32 = 3;

/// What the sidecar of a rehearsal has of ECS, for checking its settings: nobody is asked there.
const ON_ECS: [(&str, &str); 2] = [
    ("ECS_CONTAINER_METADATA_URI_V4", "http://127.0.0.1:1/v4/prestop"),
    ("ECS_AGENT_URI", "http://127.0.0.1:1/api/prestop"),
];

/// A stop timeout that cannot be read, such as `auto`, is ECS's default.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) enum Listen {
    At(SocketAddr),
    /// There, or elsewhere while another rehearsal has it.
    Preferably(SocketAddr),
    /// Nobody has to know.
    Any,
}

/// How all scenarios are played.
#[derive(Default)]
pub(super) struct Options {
    pub(super) own: Option<OwnApp>,
    pub(super) scale: Option<u32>,
    /// Settings of the sidecar that somebody has made, by the names of their variables.
    pub(super) settings: Vec<(String, String)>,
    /// Those of them that are flags of `rehearse`, by the flags' names.
    flags: Vec<(&'static str, String)>,
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
        let mut flags = Vec::new();
        for (flag, variable) in [
            ("drain", "PRESTOP_DRAIN"),
            ("stop-timeout", "PRESTOP_STOP_TIMEOUT"),
            ("settle", "PRESTOP_SETTLE"),
        ] {
            if let Some(value) = text(flag) {
                settings.retain(|(name, _)| name != variable);
                settings.push((variable.to_owned(), value.clone()));
                flags.push((flag, value));
            }
        }
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
            flags,
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

    pub(super) fn scenarios(&self, matches: &ArgMatches) -> Result<Vec<&'static Scenario>, String> {
        if matches.get_flag("all") {
            let all: Vec<&Scenario> = SCENARIOS.iter().collect();
            for scenario in &all {
                self.refuse(scenario)?;
            }
            return Ok(all);
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
            None => {
                for scenario in &scenarios {
                    self.refuse(scenario)?;
                }
                Ok(scenarios)
            }
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

    pub(super) fn listen(&self) -> Listen {
        let asked = self.setting("PRESTOP_LISTEN");
        if let Some(address) = asked.and_then(|address| address.parse().ok()) {
            return Listen::At(address);
        }
        match &self.own {
            None => Listen::Any,
            Some(_) if self.app_calls_sidecar() => Listen::At(SIDECAR),
            Some(_) => Listen::Preferably(SIDECAR),
        }
    }

    /// Whether somebody's own app has to find the sidecar: it acknowledges, or takes leases.
    fn app_calls_sidecar(&self) -> bool {
        let steps = self.setting("PRESTOP_DRAIN").unwrap_or_default();
        let acknowledges = steps.split(',').any(|step| step.trim() == "ack");
        acknowledges || self.setting("PRESTOP_PROTECT").is_some_and(|set| set == "true")
    }

    /// Every `PRESTOP_*` of the sidecar: the scenario's, then what somebody has set.
    pub(super) fn sidecar_settings(
        &self,
        scenario: &Scenario,
        cast: Cast,
        app_port: u16,
        listen: SocketAddr,
    ) -> Vec<(String, String)> {
        let drain = match scenario.app {
            AppKind::Worker | AppKind::Protected | AppKind::LongJob => "ack".to_owned(),
            AppKind::Quits => "signal QUIT app".to_owned(),
            // By its port: here the network namespace is the whole machine's.
            AppKind::NoCode => {
                let silence = milliseconds(self.scaled(scenario, SILENCE_S));
                format!("quiet :{app_port} for {silence}")
            }
            _ => format!("POST http://app:{app_port}/drain"),
        };
        let mut settings = vec![
            (
                "PRESTOP_PROTECT",
                matches!(scenario.app, AppKind::Protected | AppKind::LongJob).to_string(),
            ),
            ("PRESTOP_DRAIN", self.own_drain().unwrap_or(drain)),
            ("PRESTOP_STOP_TIMEOUT", milliseconds(self.stop_timeout(scenario))),
            ("PRESTOP_RESERVE", milliseconds(self.scaled(scenario, 10))),
            ("PRESTOP_SETTLE", milliseconds(self.settle(scenario))),
            ("PRESTOP_POLL_INTERVAL", "200ms".to_owned()),
        ];
        if scenario.opening == Opening::KeepsSending {
            settings.push(("PRESTOP_DEREGISTER", (cast == Cast::All).to_string()));
        }
        let mut settings: Vec<(String, String)> = settings
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        settings.extend(self.settings.iter().cloned());
        for (name, value) in [
            ("PRESTOP_LISTEN", listen.to_string()),
            ("PRESTOP_LOG", "info".to_owned()),
            ("PRESTOP_LOG_FORMAT", "json".to_owned()),
        ] {
            settings.push((name.to_owned(), value));
        }
        settings
    }

    /// What the sidecar would refuse, said before anything is started and in the words of the command line.
    fn refuse(&self, scenario: &Scenario) -> Result<(), String> {
        let stop_timeout = self.stop_timeout(scenario);
        if self.setting("PRESTOP_STOP_TIMEOUT").is_none() && stop_timeout < MIN_STOP_TIMEOUT {
            let (scale, seconds) = (self.scale(scenario), scenario.stop_timeout_s);
            let most = Duration::from_secs(seconds.into()).as_millis() / MIN_STOP_TIMEOUT.as_millis();
            return Err(format!(
                "--scale {scale} makes {} of the stop timeout of {seconds} s, and the sidecar takes none below {}: \
                 --scale {most} at most, or say --stop-timeout",
                span(stop_timeout),
                span(MIN_STOP_TIMEOUT)
            ));
        }
        let mut settings = self.sidecar_settings(scenario, Cast::All, 1, SIDECAR);
        settings.extend(ON_ECS.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let flag = |name: &str| {
            let flag = self.flags.iter().find(|(flag, _)| *flag == name);
            flag.map(|(_, value)| value.clone())
        };
        match Config::read(flag, settings) {
            Ok(config) => {
                let refused = Plan::from_setting(&config.drain).and_then(|plan| config.refuses(&plan));
                refused.map_or(Ok(()), |problem| Err(problem.to_string()))
            }
            Err(problems) => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                Err(problems.join("\n"))
            }
        }
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
