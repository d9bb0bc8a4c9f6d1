//! The stage: ECS's stop order, played with real processes and real signals.
//!
//! The sidecar depends on the app, so it is stopped first: SIGTERM, SIGKILL at its stop timeout.
//! Only when it has ended the same happens to the app.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::balancer;
use super::client::{self, Clients};
use super::relay::{self, lines};
use super::scenario::{Opening, OwnApp, Played, Scenario};
use super::screen::{Screen, Who, seconds};
use crate::core::notice::Action;
use crate::core::url::HttpUrl;
use crate::tools::sample_app::{self, Kind};
use crate::tools::simulate::StandIn;
use crate::tools::simulate::faults::{Fault, Kind as FaultKind, Target};

/// Traffic before the curtain rises.
const CALM: Duration = Duration::from_millis(1000);

/// What an app gets to open its port.
const START_LIMIT: Duration = Duration::from_secs(10);

/// By then the health check has seen that nobody answers.
const CHECK_LIMIT: Duration = Duration::from_secs(5);

/// What a process that has ended said last is shown before its end.
const LAST_WORDS: Duration = Duration::from_millis(20);

/// From the Spot notice to the SIGTERM that the agent sends because of it, on ECS's time.
const AGENT_DELAY_S: u32 = 5;

/// From the end of a task to its deregistration by ECS, on ECS's time: it finds out within seconds.
const ECS_DELAY_S: u32 = 5;

/// The deregistration delay of the target group, on ECS's time: longer than the slow requests, and
/// short of half of the stop timeout.
const DEREGISTRATION_DELAY_S: u32 = 10;
/// A job and the way to its end.
const PROTECTION_LIMIT: Duration = Duration::from_secs(10);

/// How long an app that is told to stop may take here, where nothing else is said.
const APP_STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Who plays besides the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cast {
    /// The sidecar, with all that the scenario needs.
    All,
    /// The sidecar without `PRESTOP_DEREGISTER`.
    WithoutDeregister,
    WithoutSidecar,
}

pub(super) struct Stage<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) own_app: Option<&'a OwnApp>,
    pub(super) screen: &'a Screen,
}

impl Stage<'_> {
    /// Plays the scenario once.
    pub(super) async fn play(&self, cast: Cast) -> Result<Played, String> {
        let stand_in = StandIn::sample();
        let metadata = TcpListener::bind(("127.0.0.1", 0)).await.map_err(in_words)?;
        let metadata_address = metadata.local_addr().map_err(in_words)?;
        let (app_port, sidecar_port) = (free_port().await?, free_port().await?);
        let mut urls = Urls::new(self.own_app, app_port, sidecar_port, self.scenario.slow_request)?;

        let metadata_uri = format!("http://{metadata_address}");
        let mut app = self.start_app(&metadata_uri, app_port, &urls)?;
        let app_lines = lines(app.stdout.take());
        let sends = self.scenario.app.serves();
        if sends {
            await_app(&urls.health).await?;
        }
        let mut balanced = None;
        if self.scenario.opening == Opening::KeepsSending {
            balanced = Some(self.balance(&stand_in, &mut urls).await?);
        }
        let checked = sends && balanced.is_none();
        let with_sidecar = cast != Cast::WithoutSidecar;
        let mut sidecar = None;
        if with_sidecar {
            sidecar = Some(self.start_sidecar(&metadata_uri, app_port, sidecar_port, cast)?);
        }
        let sidecar_lines = lines(sidecar.as_mut().and_then(|child| child.stdout.take()));

        let clients = Clients::default();
        let drama = async {
            let ends = self.drama(&stand_in, &mut app, sidecar.as_mut(), &clients).await;
            // A load balancer goes on sending until it has seen for itself.
            if ends.is_err() || !sends || timeout(CHECK_LIMIT, clients.until_deregistered()).await.is_err() {
                clients.deregister();
            }
            ends
        };
        let traffic = async {
            if sends {
                clients.send(&urls.quick, &urls.slow).await;
            }
        };
        let relay_app = relay::app(self.screen, app_lines);
        let relay_sidecar = relay::sidecar(self.screen, sidecar_lines);
        let play = async { tokio::join!(drama, traffic, relay_app, relay_sidecar) };
        let surroundings = async {
            let health = if with_sidecar { &urls.ready } else { &urls.health };
            let check = async {
                if checked {
                    let told = || {
                        self.screen
                            .say(Who::Client, "the health check fails: no new requests")
                    };
                    clients.check(health, told).await;
                }
            };
            let balance = async {
                if let Some(balanced) = &balanced {
                    balancer::serve(&balanced.listener, &stand_in).await;
                }
            };
            // Only a socket that fails ends it.
            tokio::join!(check, balance, stand_in.serve(metadata)).2
        };
        let (ends, (), jobs, account) = tokio::select! {
            played = play => played,
            served = surroundings => return Err(format!("the stand-in has stopped serving: {served:?}")),
        };
        let (answered, lost) = if sends {
            (clients.answered.get(), clients.lost.get())
        } else {
            (jobs.done, jobs.cut_off)
        };
        let ends = ends?;
        Ok(Played {
            answered,
            lost,
            sidecar_code: ends.sidecar_code,
            app_killed: ends.app_killed,
            budget: account.budget,
            used: account.used,
        })
    }

    /// What happens to the task, up to the end of its last container.
    async fn drama(
        &self,
        stand_in: &StandIn,
        app: &mut Child,
        sidecar: Option<&mut Child>,
        clients: &Clients,
    ) -> Result<Ends, String> {
        let scenario = self.scenario;
        if scenario.app.serves() {
            self.screen.say(
                Who::Client,
                &format!("sends requests; some take {}", seconds(scenario.slow_request)),
            );
        }
        if scenario.opening == Opening::NoInstanceMetadata {
            stand_in.break_down(Fault {
                target: Target::Imds,
                kind: FaultKind::Hang,
                lasts: None,
                requests: None,
            });
        }
        sleep(CALM).await;
        match scenario.opening {
            Opening::Deregistered => {
                if scenario.app.serves() {
                    self.screen
                        .say(Who::Ecs, "takes the task out of the load balancer");
                    clients.deregister();
                }
            }
            Opening::TargetStays => {}
            Opening::KeepsSending => {
                stand_in.task_stops("SpotInterruption", "Your Spot Task was interrupted.");
                let ends = self.stop_task(stand_in, app, sidecar).await;
                sleep(scenario.scaled(ECS_DELAY_S)).await;
                if stand_in.deregister_task() {
                    self.screen
                        .say(Who::Ecs, "takes the task out of the load balancer");
                }
                clients.deregister();
                return ends;
            }
            Opening::ScaleIn => self.scale_in(stand_in).await?,
            Opening::NoInstanceMetadata => {
                clients.deregister();
                sleep(CALM).await;
            }
            Opening::Spot(ahead) => {
                self.announce_spot(stand_in, ahead);
                let delay = AGENT_DELAY_S.min(ahead / 10);
                sleep(scenario.scaled(delay)).await;
            }
            Opening::SpotSilent(ahead) => {
                self.announce_spot(stand_in, ahead);
                return self.host_ends(app, sidecar, scenario.scaled(ahead)).await;
            }
            Opening::AppCrashed => {
                clients.deregister();
                kill(app).await;
                self.screen.say(Who::App, "crashes");
            }
            Opening::AppEnds => {
                clients.deregister();
                let _ = app.wait().await;
                sleep(LAST_WORDS).await;
                stand_in.container_stopped("app");
                self.screen.say(
                    Who::Ecs,
                    "sees that the essential container has ended: stops the rest",
                );
            }
        }
        self.stop_task(stand_in, app, sidecar).await
    }

    /// ECS wants one task less, and this is the one, as soon as it may.
    async fn scale_in(&self, stand_in: &StandIn) -> Result<(), String> {
        if !stand_in.protected() {
            self.screen
                .say(Who::Ecs, "wants one task less; this one is not protected");
            return Ok(());
        }
        self.screen
            .say(Who::Ecs, "wants one task less; this one is protected: waits");
        let unprotected = async {
            while stand_in.protected() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = timeout(PROTECTION_LIMIT, unprotected).await;
        in_time.map_err(|_| "the task stays protected for ever".to_owned())?;
        self.screen.say(Who::Ecs, "the task is protected no longer");
        Ok(())
    }

    fn announce_spot(&self, stand_in: &StandIn, ahead: u32) {
        let left = self.scenario.scaled(ahead);
        stand_in.announce_spot(Action::Terminate, left);
        self.screen.say(
            Who::Ec2,
            &format!("announces: this Spot instance ends in {}", seconds(left)),
        );
    }

    /// ECS's stop order.
    async fn stop_task(
        &self,
        stand_in: &StandIn,
        app: &mut Child,
        sidecar: Option<&mut Child>,
    ) -> Result<Ends, String> {
        let mut ends = Ends::default();
        if let Some(sidecar) = sidecar {
            let stopped = self
                .stop("prestop", sidecar, self.scenario.stop_timeout())
                .await?;
            ends.sidecar_code = stopped;
            stand_in.container_stopped("prestop");
        }
        if app.try_wait().map_err(in_words)?.is_none() {
            ends.app_killed = self.stop("app", app, APP_STOP_TIMEOUT).await?.is_none();
        }
        Ok(ends)
    }

    /// SIGTERM, and SIGKILL at the stop timeout. `None` where that was needed.
    async fn stop(
        &self,
        name: &str,
        child: &mut Child,
        stop_timeout: Duration,
    ) -> Result<Option<i32>, String> {
        if child.try_wait().map_err(in_words)?.is_none() {
            self.screen.say(
                Who::Ecs,
                &format!(
                    "SIGTERM to {name}; SIGKILL would follow in {}",
                    seconds(stop_timeout)
                ),
            );
            signal(child, Signal::TERM);
        }
        if let Ok(status) = timeout(stop_timeout, child.wait()).await {
            let code = status.map_err(in_words)?.code();
            sleep(LAST_WORDS).await;
            if let Some(code) = code {
                self.screen
                    .say(Who::Ecs, &format!("{name} has exited with {code}"));
            }
            // An app without a handler ends by the signal itself, which is no kill.
            return Ok(Some(code.unwrap_or(143)));
        }
        self.screen.say(Who::Ecs, &format!("SIGKILL to {name}"));
        kill(child).await;
        Ok(None)
    }

    /// The host goes away under the task, and no signal is sent before.
    async fn host_ends(
        &self,
        app: &mut Child,
        sidecar: Option<&mut Child>,
        left: Duration,
    ) -> Result<Ends, String> {
        let end = Instant::now() + left;
        let mut ends = Ends::default();
        if let Some(sidecar) = sidecar {
            if let Ok(status) = tokio::time::timeout_at(end, sidecar.wait()).await {
                ends.sidecar_code = status.map_err(in_words)?.code();
                self.screen
                    .say(Who::Ecs, "prestop has exited; nothing else happens");
            } else {
                kill(sidecar).await;
            }
        }
        tokio::time::sleep_until(end).await;
        self.screen.say(Who::Ec2, "the host is gone");
        kill(app).await;
        ends.app_killed = true;
        Ok(ends)
    }

    fn start_app(&self, metadata: &str, port: u16, urls: &Urls) -> Result<Child, String> {
        let exe = std::env::current_exe().map_err(in_words)?;
        let sidecar = urls.ready.with_target("/");
        let sample = format!(
            "'{}' {} --kind {} --listen 127.0.0.1:{port} --sidecar {sidecar}",
            exe.display(),
            sample_app::NAME,
            self.scenario.app.name()
        );
        let script = match self.own_app {
            // exec, as a container's entry point should: so that signals reach the app itself.
            Some(own) => format!("exec {}", own.start),
            // As PID 1 of a container a shell without a handler ignores SIGTERM.
            None if self.scenario.app == Kind::Quits => format!("trap '' TERM; {sample}; exit 0"),
            None => format!("exec {sample}"),
        };
        Command::new("sh")
            .args(["-c", &script])
            .env("ECS_CONTAINER_METADATA_URI_V4", format!("{metadata}/v4/app"))
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            // A group of its own: with its main process a container loses all others.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|why| format!("cannot start the app: {why}"))
    }

    fn start_sidecar(&self, metadata: &str, app_port: u16, port: u16, cast: Cast) -> Result<Child, String> {
        let scenario = self.scenario;
        let drain = match (self.own_app, scenario.app) {
            (Some(own), _) => own.drain.clone(),
            (None, Kind::Worker | Kind::Protected) => "ack".to_owned(),
            (None, Kind::Quits) => "signal QUIT app".to_owned(),
            (None, _) => format!("POST http://app:{app_port}/drain"),
        };
        let mut command = Command::new(std::env::current_exe().map_err(in_words)?);
        command
            .arg("run")
            .env_clear()
            .env("ECS_CONTAINER_METADATA_URI_V4", format!("{metadata}/v4/prestop"))
            .env("ECS_AGENT_URI", format!("{metadata}/api/prestop"))
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata)
            .env("PRESTOP_PROTECT", (scenario.app == Kind::Protected).to_string())
            .env("PRESTOP_DRAIN", drain)
            .env("PRESTOP_LISTEN", format!("127.0.0.1:{port}"))
            .env("PRESTOP_STOP_TIMEOUT", milliseconds(scenario.stop_timeout()))
            .env("PRESTOP_RESERVE", milliseconds(scenario.scaled(10)))
            .env("PRESTOP_SETTLE", milliseconds(scenario.scaled(scenario.settle_s)))
            .env("PRESTOP_POLL_INTERVAL", "200ms")
            .env("PRESTOP_LOG_FORMAT", "json")
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        if scenario.opening == Opening::KeepsSending {
            // The stand-in takes any signature.
            command
                .env("AWS_ENDPOINT_URL", metadata)
                .env("AWS_REGION", "eu-central-1")
                .env("AWS_ACCESS_KEY_ID", "rehearsal")
                .env("AWS_SECRET_ACCESS_KEY", "rehearsal")
                .env("PRESTOP_DEREGISTER", (cast == Cast::All).to_string());
        }
        command
            .spawn()
            .map_err(|why| format!("cannot start the sidecar: {why}"))
    }

    /// Puts the app behind a load balancer, beside another one that stays. The clients go there from
    /// now on.
    async fn balance(&self, stand_in: &StandIn, urls: &mut Urls) -> Result<Balanced, String> {
        let ip = urls.health.ip().unwrap_or(Ipv4Addr::LOCALHOST.into());
        let app = SocketAddr::new(ip, urls.health.port());
        let other = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), free_port().await?);
        let stays = Command::new(std::env::current_exe().map_err(in_words)?)
            .args([sample_app::NAME, "--listen", &other.to_string()])
            .stdout(Stdio::null())
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|why| format!("cannot start the other app: {why}"))?;
        await_app(&at(other, "/healthz")?).await?;
        stand_in.balance(app, other, self.scenario.scaled(DEREGISTRATION_DELAY_S));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(in_words)?;
        let address = listener.local_addr().map_err(in_words)?;
        urls.quick = at(address, urls.quick.target())?;
        urls.slow = at(address, urls.slow.target())?;
        Ok(Balanced {
            listener,
            _stays: stays,
        })
    }
}

/// A load balancer that is not serving yet.
struct Balanced {
    listener: TcpListener,
    /// The other target; ends when dropped.
    _stays: Child,
}

/// How the containers ended.
#[derive(Default)]
struct Ends {
    sidecar_code: Option<i32>,
    app_killed: bool,
}

/// Where everybody is reached.
struct Urls {
    quick: HttpUrl,
    slow: HttpUrl,
    health: HttpUrl,
    ready: HttpUrl,
}

impl Urls {
    fn new(own: Option<&OwnApp>, app_port: u16, sidecar_port: u16, slow: Duration) -> Result<Urls, String> {
        let local = |port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let ready = at(local(sidecar_port), "/ready")?;
        if let Some(own) = own {
            return Ok(Urls {
                quick: own.url.clone(),
                slow: own.url.clone(),
                health: own.url.clone(),
                ready,
            });
        }
        let app = at(local(app_port), "/")?;
        Ok(Urls {
            slow: app.with_target(&format!("/slow/{}", milliseconds(slow))),
            health: app.with_target("/healthz"),
            quick: app,
            ready,
        })
    }
}

impl Kind {
    /// What is done or lost.
    pub(super) fn unit(self) -> &'static str {
        if self.serves() { "requests" } else { "jobs" }
    }
}

/// Waits until it answers.
async fn await_app(url: &HttpUrl) -> Result<(), String> {
    let up = async {
        while !client::ask(url.clone()).await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(START_LIMIT, up).await.map_err(|_| {
        format!(
            "the app does not answer {url} with a 2xx within {} s",
            START_LIMIT.as_secs()
        )
    })
}

/// SIGKILL to a container: its main process and all others.
async fn kill(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let _ = child.wait().await;
}

/// Does nothing to a process that has ended and been waited for.
fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
    if let Some(pid) = pid {
        let _ = kill_process(pid, signal);
    }
}

fn at(address: SocketAddr, target: &str) -> Result<HttpUrl, String> {
    format!("http://{address}{target}").parse().map_err(in_words)
}

/// A port that was free a moment ago.
async fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(in_words)?;
    Ok(listener.local_addr().map_err(in_words)?.port())
}

fn milliseconds(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

fn in_words(why: impl std::fmt::Display) -> String {
    why.to_string()
}
