//! The stage: ECS's stop order, played with real processes and real signals.
//!
//! The sidecar depends on the app, so it is stopped first: SIGTERM, SIGKILL at its stop timeout.
//! Only when it has ended the same happens to the app.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::Signal;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::client::{self, Load};
use super::processes::{self, each_line};
use super::record::{Run, Unit};
use super::scenario::{Cast, Opening, Scenario};
use super::screen::{Screen, Turn, Who};
use super::seen::Witness;
use super::{Options, OwnApp, balancer};
use crate::core::notice::Action;
use crate::core::url::HttpUrl;
use crate::tools::picture::{MarkKind, words};
use crate::tools::sample_app::{self, AppKind};
use crate::tools::simulate::StandIn;
use crate::tools::simulate::faults::{Fault, FaultKind, FaultTarget};

/// Traffic before anything happens.
const CALM: Duration = Duration::from_millis(1000);

/// What the sample app and the sidecar get to start, on the busiest machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What a worker gets to start, which nobody can see: most interpreters have loaded by then.
const WORKER_STARTS: Duration = Duration::from_secs(5);

/// Between two looks at whether something is there.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// By then the health check has seen that nobody answers.
const CHECK_LIMIT: Duration = Duration::from_secs(5);

/// What a connection to a port of this machine takes at most, where somebody listens.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// From the Spot notice to the SIGTERM that the agent sends because of it, on ECS's time.
const AGENT_DELAY_S: u32 = 5;

/// From the end of a task to its deregistration by ECS, on ECS's time: it finds out within seconds.
const ECS_DELAY_S: u32 = 5;

/// From SIGTERM to deregistration where both happen at about the same time, on ECS's time.
const SAME_TIME_S: u32 = 2;

/// The deregistration delay of a target group that somebody has set to fit (the default is 300 s), on ECS's
/// time.
const DEREGISTRATION_DELAY_S: u32 = 30;

/// The one of the load balancer that the sidecar tells: longer than the slow requests, and short of half of
/// the stop timeout.
const SHORT_DEREGISTRATION_DELAY_S: u32 = 10;

/// How long clients go on with an address that they have, on ECS's time: the TTL of its DNS record (Cloud Map
/// developer guide, *Service discovery*; ECS's own examples have 10 s to 60 s).
const TTL_S: u32 = 10;

/// The silence that shows that an app is quiet, on ECS's time: the sample's answers never pause.
const SILENCE_S: u32 = 3;

/// A job and the way to its end.
const PROTECTION_LIMIT: Duration = Duration::from_secs(10);

/// Between two things that ECS does, so that they stand one after the other by a clock of milliseconds.
const A_MOMENT: Duration = Duration::from_millis(1);

/// Why a run could not be played, and what those said who should have played.
#[derive(Debug, Default)]
pub(super) struct Stopped {
    pub(super) why: String,
    pub(super) said: Vec<(&'static str, Vec<String>)>,
}

impl From<String> for Stopped {
    fn from(why: String) -> Stopped {
        Stopped {
            why,
            said: Vec::new(),
        }
    }
}

pub(super) struct Stage<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) options: &'a Options,
    pub(super) screen: &'a Screen,
}

/// Ends whatever was started, however the run ends.
struct EndsEverything;

impl Drop for EndsEverything {
    fn drop(&mut self) {
        processes::end_all_but(&[]);
    }
}

impl Stage<'_> {
    /// Plays the scenario once.
    pub(super) async fn play(&self, cast: Cast) -> Result<(Run, Vec<String>), Stopped> {
        let seen = Witness::new(self.screen, self.options.own.is_none());
        let guard = EndsEverything;
        let run = self.play_to(&seen, cast).await;
        drop(guard);
        self.screen.show_all();
        let said = |lines: &std::cell::RefCell<processes::LastLines>| -> Vec<String> {
            lines.borrow().lines().map(str::to_owned).collect()
        };
        let app_said = said(&seen.app_said);
        match run {
            Ok(run) => Ok((run, app_said)),
            Err(mut stopped) => {
                stopped.said = vec![("the app", app_said), ("the sidecar", said(&seen.sidecar_said))];
                Err(stopped)
            }
        }
    }

    async fn play_to(&self, seen: &Witness<'_>, cast: Cast) -> Result<Run, Stopped> {
        let stand_in = StandIn::sample();
        let metadata = TcpListener::bind(("127.0.0.1", 0)).await.map_err(in_words)?;
        let metadata_uri = format!("http://{}", metadata.local_addr().map_err(in_words)?);
        let app_port = free_port().await?;
        let sidecar_at = match self.options.listen() {
            Some(address) => address,
            None => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), free_port().await?),
        };
        let mut urls = Urls::new(self.options, self.scenario, &metadata_uri, app_port, sidecar_at)?;
        if let Some(own) = &self.options.own {
            for url in own.url.iter().chain(&own.ready) {
                refuse_if_taken(url.host(), url.port(), "--app").await?;
            }
            refuse_if_taken(&sidecar_at.ip().to_string(), sidecar_at.port(), "PRESTOP_LISTEN").await?;
        }
        let mut app = self.start_app(&metadata_uri, app_port, sidecar_at)?;
        let (out, err) = (app.stdout.take(), app.stderr.take());
        let app_lines = async {
            tokio::join!(
                each_line(out, |line| seen.app_says(line)),
                each_line(err, |line| seen.app_said.borrow_mut().add(line))
            )
        };
        let clients = Load::default();
        let played = async {
            let ends = self.perform(
                seen,
                &stand_in,
                &mut urls,
                (&mut app, app_port),
                sidecar_at,
                cast,
                &clients,
            );
            let ends = async { all_ended_on_error(ends.await) };
            // The app's pipes end with its last process.
            tokio::join!(ends, app_lines).0
        };
        let surroundings = async {
            // Only a socket that fails ends it.
            tokio::join!(stand_in.serve(metadata), self.screen.show()).0
        };
        let ends = tokio::select! {
            played = played => played?,
            served = surroundings => return Err(format!("the stand-in has stopped serving: {served:?}").into()),
        };
        seen.app_stops.set(ends.app_stopped);
        let counts_requests = self.options.unit(self.scenario) == Unit::Requests;
        let clients = counts_requests.then_some(&clients);
        Ok(seen.run(cast, clients, ends.sidecar_code, ends.app_killed))
    }

    /// From the app's first answer to the end of the last container, with clients beside it.
    #[allow(clippy::too_many_arguments, reason = "everybody who takes part, once")]
    async fn perform(
        &self,
        seen: &Witness<'_>,
        stand_in: &StandIn,
        urls: &mut Urls,
        (app, app_port): (&mut Child, u16),
        sidecar_at: SocketAddr,
        cast: Cast,
        clients: &Load,
    ) -> Result<Ends, Stopped> {
        let metadata_uri = &urls.metadata.clone();
        if let Some(ready) = &urls.ready {
            self.await_app(ready, app).await?;
        }
        let mut balanced = None;
        if self.scenario.opening == Opening::KeepsSending {
            balanced = Some(self.balance(stand_in, urls).await?);
        }
        let mut sidecar = None;
        if cast != Cast::WithoutSidecar {
            sidecar = Some(self.start_sidecar(metadata_uri, app_port, sidecar_at, cast)?);
        }
        let (out, err) = match &mut sidecar {
            Some(child) => (child.stdout.take(), child.stderr.take()),
            None => (None, None),
        };
        let lines = async {
            tokio::join!(
                each_line(out, |line| seen.sidecar_says(line)),
                each_line(err, |line| seen.sidecar_said.borrow_mut().add(line))
            )
        };
        let sends = self.options.unit(self.scenario) == Unit::Requests;
        // What looks away for itself: the health check of a load balancer that nobody tells.
        let checks = matches!(self.scenario.opening, Opening::Spot(_) | Opening::SpotSilent(_));
        let health = if sidecar.is_some() {
            Some(&urls.sidecar_ready)
        } else {
            urls.quick.as_ref()
        };
        let health = health.filter(|_| sends && checks);
        let events = async {
            let mut players = Players {
                app,
                sidecar: sidecar.as_mut(),
                other: balanced.as_ref().and_then(|balanced| balanced.stays.id()),
                one_off: self.scenario.opening == Opening::AppEnds,
            };
            let ends = self.events(seen, stand_in, &mut players, clients).await;
            let ends = all_ended_on_error(ends);
            // A load balancer goes on sending until it has seen for itself.
            let seen_for_itself = timeout(CHECK_LIMIT, clients.until_looked_away());
            if ends.is_err() || !sends || seen_for_itself.await.is_err() {
                clients.look_away();
            }
            ends
        };
        let traffic = async {
            if let Some(quick) = urls.quick.as_ref().filter(|_| sends) {
                clients.send(quick, urls.slow.as_ref()).await;
            }
        };
        let played = async { tokio::join!(events, traffic, lines).0 };
        let surroundings = async {
            let check = async {
                if let Some(health) = health {
                    let what = "the health check fails: no new requests";
                    clients.check(health, || self.screen.say(Who::Client, what)).await;
                }
            };
            let balance = async {
                if let Some(balanced) = &balanced {
                    balancer::serve(&balanced.listener, stand_in).await;
                }
            };
            tokio::join!(check, balance);
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            ends = played => ends,
            never = surroundings => match never {},
        }
    }

    /// What happens to the task, up to the end of its last container.
    async fn events(
        &self,
        seen: &Witness<'_>,
        stand_in: &StandIn,
        players: &mut Players<'_>,
        clients: &Load,
    ) -> Result<Ends, Stopped> {
        let scenario = self.scenario;
        self.await_sidecar(seen, players).await?;
        if self.options.unit(scenario) == Unit::Requests {
            let slow = match self.options.own {
                None => format!("; some take {}", span(scenario.slow_request)),
                Some(_) => String::new(),
            };
            self.screen.say(Who::Client, &format!("sends requests{slow}"));
        }
        if scenario.opening == Opening::NoInstanceMetadata {
            stand_in.break_down(Fault {
                target: FaultTarget::Imds,
                kind: FaultKind::Hang,
                lasts: None,
                requests: None,
            });
            players.calm(CALM).await?;
        }
        let unseen = |own: &&OwnApp| own.url.is_none() && own.ready.is_none();
        if let Some(own) = self.options.own.as_ref().filter(unseen) {
            let startup = own.startup.unwrap_or(WORKER_STARTS);
            self.screen.silence("for the worker to start", startup);
            players.calm(startup).await?;
            self.screen.silence_is_over();
        }
        players.calm(CALM).await?;
        let deregister = |what: &str| {
            seen.acts(Who::Ecs, what, Some(MarkKind::Deregistered));
            clients.look_away();
        };
        match scenario.opening {
            Opening::Deployed => {
                deregister("takes the task out of its target group");
                let delay = self.options.scaled(scenario, DEREGISTRATION_DELAY_S);
                self.screen
                    .silence("to the end of the deregistration delay", delay);
                players.calm(delay).await?;
            }
            Opening::FargateSpot => deregister("takes the task out of its target group"),
            Opening::NamedByDns => {
                seen.acts(Who::Ecs, "takes the task's name out of DNS", None);
                let ttl = self.options.scaled(scenario, TTL_S);
                let forget = async {
                    sleep(ttl).await;
                    if clients.look_away() {
                        self.screen
                            .say(Who::Client, "the DNS record's TTL is over: no new requests");
                    }
                };
                return tokio::join!(self.stop_task(seen, stand_in, players), forget).0;
            }
            Opening::Stopped | Opening::NoInstanceMetadata => {
                let late = async {
                    sleep(self.options.scaled(scenario, SAME_TIME_S)).await;
                    if self.options.unit(scenario) == Unit::Requests {
                        deregister("takes the task out of its target group");
                    }
                };
                return tokio::join!(self.stop_task(seen, stand_in, players), late).0;
            }
            Opening::KeepsSending => {
                stand_in.task_stops("SpotInterruption", "Your Spot Task was interrupted.");
                let ends = self.stop_task(seen, stand_in, players).await;
                sleep(self.options.scaled(scenario, ECS_DELAY_S)).await;
                if stand_in.deregister_task() {
                    self.screen
                        .say(Who::Ecs, "takes the task out of its target group");
                }
                clients.look_away();
                return ends;
            }
            Opening::ScaleIn => self.scale_in(seen, stand_in).await?,
            Opening::Spot(ahead) => {
                self.announce_spot(seen, stand_in, ahead);
                let delay = AGENT_DELAY_S.min(ahead / 10);
                sleep(self.options.scaled(scenario, delay)).await;
            }
            Opening::SpotSilent(ahead) => {
                self.announce_spot(seen, stand_in, ahead);
                return self
                    .host_ends(seen, players, self.options.scaled(scenario, ahead))
                    .await;
            }
            Opening::AppCrashed => {
                clients.look_away();
                seen.begin();
                players.kill_app().await;
                self.screen.say(Who::App, "crashes");
            }
            Opening::AppEnds => {
                clients.look_away();
                // The job is in hand while all is calm.
                seen.begin();
                let _ = players.app.wait().await;
                stand_in.container_stopped("app");
                let what = "sees that the essential container has ended: stops the rest";
                self.screen.say_at(Timestamp::now(), Turn::After, Who::Ecs, what);
                sleep(A_MOMENT).await;
            }
        }
        self.stop_task(seen, stand_in, players).await
    }

    /// ECS wants one task less, and this is the one, as soon as it may.
    async fn scale_in(&self, seen: &Witness<'_>, stand_in: &StandIn) -> Result<(), Stopped> {
        if !stand_in.protected() {
            seen.acts(Who::Ecs, "wants one task less; this one is not protected", None);
            return Ok(());
        }
        seen.acts(
            Who::Ecs,
            "wants one task less; this one is protected: waits",
            None,
        );
        let unprotected = async {
            while stand_in.protected() {
                sleep(LOOK_EVERY).await;
            }
        };
        let in_time = timeout(PROTECTION_LIMIT, unprotected).await;
        in_time.map_err(|_| "the task stays protected for ever".to_owned())?;
        self.screen.say(Who::Ecs, "the task is protected no longer");
        Ok(())
    }

    fn announce_spot(&self, seen: &Witness<'_>, stand_in: &StandIn, ahead: u32) {
        let left = self.options.scaled(self.scenario, ahead);
        stand_in.announce_spot(Action::Terminate, left);
        let what = format!("announces: this Spot instance ends in {}", span(left));
        seen.acts(Who::Ec2, &what, None);
    }

    /// ECS's stop order.
    async fn stop_task(
        &self,
        seen: &Witness<'_>,
        stand_in: &StandIn,
        players: &mut Players<'_>,
    ) -> Result<Ends, Stopped> {
        let mut ends = Ends::default();
        let stop_timeout = self.options.stop_timeout(self.scenario);
        let mut marked = false;
        if let Some(sidecar) = players.sidecar.as_mut() {
            marked = true;
            let stop = self
                .stop(seen, "prestop", sidecar, stop_timeout, Some(MarkKind::Sigterm))
                .await?;
            if stop.is_none() {
                let _ = sidecar.kill().await;
            }
            ends.sidecar_code = stop;
            stand_in.container_stopped("prestop");
            sleep(A_MOMENT).await;
        }
        if !has_ended(players.app) {
            let began = Instant::now();
            let mark = (!marked).then_some(MarkKind::Sigterm);
            let stopped = self.stop(seen, "app", players.app, stop_timeout, mark).await?;
            ends.app_killed = stopped.is_none();
            ends.app_stopped = Some((began, Instant::now()));
        }
        // With its main process a container loses all others.
        players.kill_app().await;
        Ok(ends)
    }

    /// SIGTERM, and at the stop timeout SIGKILL is due: `None` where that is so.
    async fn stop(
        &self,
        seen: &Witness<'_>,
        name: &str,
        child: &mut Child,
        stop_timeout: Duration,
        mark: Option<MarkKind>,
    ) -> Result<Option<i32>, Stopped> {
        if !has_ended(child) {
            let what = format!(
                "SIGTERM to {name}; SIGKILL would follow in {}",
                span(stop_timeout)
            );
            seen.acts(Who::Ecs, &what, mark);
            processes::signal(child, Signal::TERM);
            self.screen.silence("to SIGKILL at the latest", stop_timeout);
        }
        let in_time = timeout(stop_timeout, child.wait()).await;
        self.screen.silence_is_over();
        if let Ok(status) = in_time {
            let status = status.map_err(in_words)?;
            let how = format!("{name} has {}", ended(status));
            self.screen.say_at(Timestamp::now(), Turn::After, Who::Ecs, &how);
            // An app without a handler ends by the signal itself, which is no kill.
            return Ok(Some(status.code().unwrap_or(143)));
        }
        seen.mark(MarkKind::Sigkill);
        self.screen.say(Who::Ecs, &format!("SIGKILL to {name}"));
        Ok(None)
    }

    /// The host goes away under the task, and no signal is sent before.
    async fn host_ends(
        &self,
        seen: &Witness<'_>,
        players: &mut Players<'_>,
        left: Duration,
    ) -> Result<Ends, Stopped> {
        let end = Instant::now() + left;
        let mut ends = Ends::default();
        self.screen.silence("to the end of the host", left);
        if let Some(sidecar) = players.sidecar.as_mut() {
            if let Ok(status) = tokio::time::timeout_at(end, sidecar.wait()).await {
                ends.sidecar_code = status.map_err(in_words)?.code();
                let what = "prestop has exited; nothing else happens";
                self.screen.say_at(Timestamp::now(), Turn::After, Who::Ecs, what);
            } else {
                let _ = sidecar.kill().await;
            }
        }
        tokio::time::sleep_until(end).await;
        seen.acts(Who::Ec2, "the host is gone", Some(MarkKind::HostEnd));
        players.kill_app().await;
        ends.app_killed = true;
        Ok(ends)
    }

    fn start_app(&self, metadata: &str, port: u16, sidecar: SocketAddr) -> Result<Child, Stopped> {
        let exe = std::env::current_exe().map_err(in_words)?;
        let sample = format!(
            "'{}' {} --kind {} --listen 127.0.0.1:{port} --sidecar http://{sidecar}/",
            exe.display(),
            sample_app::NAME,
            self.scenario.app.name()
        );
        let script = match &self.options.own {
            // Several commands stay behind their shell, which as PID 1 of a container would ignore SIGTERM
            // while its commands would not get it.
            Some(own) if is_compound(&own.start) => format!("trap : TERM; {}", own.start),
            // exec, as a container's entry point should: so that signals reach the app itself.
            Some(own) => format!("exec {}", own.start),
            // As PID 1 of a container a shell without a handler ignores SIGTERM.
            None if self.scenario.app == AppKind::Quits => format!("trap '' TERM; {sample}; exit 0"),
            None => format!("exec {sample}"),
        };
        let mut command = Command::new("sh");
        command
            .args(["-c", &script])
            .env("ECS_CONTAINER_METADATA_URI_V4", format!("{metadata}/v4/app"))
            .env(sample_app::TELLS_THE_TIME, "true")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .stdin(Stdio::null())
            // A group of its own: a Ctrl-C is for the rehearsal.
            .process_group(0)
            .kill_on_drop(true);
        processes::start(&mut command).map_err(|why| format!("cannot start the app: {why}").into())
    }

    fn start_sidecar(
        &self,
        metadata: &str,
        app_port: u16,
        listen: SocketAddr,
        cast: Cast,
    ) -> Result<Child, Stopped> {
        let (scenario, options) = (self.scenario, self.options);
        let drain = match scenario.app {
            AppKind::Worker | AppKind::Protected => "ack".to_owned(),
            AppKind::Quits => "signal QUIT app".to_owned(),
            // By its port: here the network namespace is the whole machine's.
            AppKind::NoCode => {
                let silence = milliseconds(options.scaled(scenario, SILENCE_S));
                format!("quiet :{app_port} for {silence}")
            }
            _ => format!("POST http://app:{app_port}/drain"),
        };
        let mut command = Command::new(std::env::current_exe().map_err(in_words)?);
        command
            .arg("run")
            .env_clear()
            .env("ECS_CONTAINER_METADATA_URI_V4", format!("{metadata}/v4/prestop"))
            .env("ECS_AGENT_URI", format!("{metadata}/api/prestop"))
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata)
            .env(
                "PRESTOP_PROTECT",
                (scenario.app == AppKind::Protected).to_string(),
            )
            .env("PRESTOP_DRAIN", options.own_drain().unwrap_or(drain))
            .env(
                "PRESTOP_STOP_TIMEOUT",
                milliseconds(options.stop_timeout(scenario)),
            )
            .env("PRESTOP_RESERVE", milliseconds(options.scaled(scenario, 10)))
            .env("PRESTOP_SETTLE", milliseconds(options.settle(scenario)))
            .env("PRESTOP_POLL_INTERVAL", "200ms")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
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
            .envs(options.settings.iter().cloned())
            .env("PRESTOP_LISTEN", listen.to_string())
            .env("PRESTOP_LOG", "info")
            .env("PRESTOP_LOG_FORMAT", "json");
        processes::start(&mut command).map_err(|why| format!("cannot start the sidecar: {why}").into())
    }

    /// Waits until the app answers, for as long as its main process lives.
    async fn await_app(&self, url: &HttpUrl, app: &mut Child) -> Result<(), Stopped> {
        let own = self.options.own.as_ref();
        let limit = own.and_then(|own| own.startup).unwrap_or(START_LIMIT);
        let up = async {
            while !client::ask(url.clone()).await {
                sleep(LOOK_EVERY).await;
            }
        };
        self.screen.silence("for the app to start", limit);
        let up = timeout(limit, up);
        let answers = tokio::select! {
            up = up => up.is_ok(),
            status = app.wait() => {
                let how = ended(status.map_err(in_words)?);
                return Err(format!("the app's command {how} before the app answered {url}").into());
            }
        };
        self.screen.silence_is_over();
        if answers {
            return Ok(());
        }
        Err(format!(
            "the app does not answer {url} with a 2xx or 3xx within {}: give the URL of something that it answers \
             by --ready, or more time by --startup",
            span(limit)
        )
        .into())
    }

    /// Waits until the sidecar has taken its signals over.
    async fn await_sidecar(&self, seen: &Witness<'_>, players: &mut Players<'_>) -> Result<(), Stopped> {
        if players.sidecar.is_none() {
            return Ok(());
        }
        let end = Instant::now() + START_LIMIT;
        while !seen.sidecar_is_up() {
            if Instant::now() >= end {
                return Err("the sidecar does not start".to_owned().into());
            }
            players.calm(LOOK_EVERY).await?;
        }
        Ok(())
    }

    /// Puts the app behind a load balancer, beside another one that stays. The clients go there from
    /// now on.
    async fn balance(&self, stand_in: &StandIn, urls: &mut Urls) -> Result<Balanced, Stopped> {
        let Some(quick) = urls.quick.clone() else {
            return Err("a load balancer needs --app".to_owned().into());
        };
        let ip = quick.ip().unwrap_or(Ipv4Addr::LOCALHOST.into());
        let app = SocketAddr::new(ip, quick.port());
        let other = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), free_port().await?);
        let mut command = Command::new(std::env::current_exe().map_err(in_words)?);
        command
            .args([sample_app::NAME, "--listen", &other.to_string()])
            .stdout(Stdio::null())
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        let mut stays =
            processes::start(&mut command).map_err(|why| format!("cannot start the other app: {why}"))?;
        self.await_app(&at(other, "/healthz")?, &mut stays).await?;
        let delay = self.options.scaled(self.scenario, SHORT_DEREGISTRATION_DELAY_S);
        stand_in.balance(app, other, delay);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(in_words)?;
        let address = listener.local_addr().map_err(in_words)?;
        urls.quick = Some(at(address, quick.target())?);
        if let Some(slow) = &urls.slow {
            urls.slow = Some(at(address, slow.target())?);
        }
        Ok(Balanced { listener, stays })
    }
}

/// The processes of a run.
struct Players<'a> {
    app: &'a mut Child,
    sidecar: Option<&'a mut Child>,
    /// The load balancer's other target.
    other: Option<u32>,
    /// Whether the app may end at any time.
    one_off: bool,
}

impl Players<'_> {
    /// Waits; nobody has a reason to end meanwhile.
    async fn calm(&mut self, length: Duration) -> Result<(), Stopped> {
        let sidecar = async {
            match &mut self.sidecar {
                Some(sidecar) => sidecar.wait().await,
                None => std::future::pending().await,
            }
        };
        let (who, status) = tokio::select! {
            () = sleep(length) => return Ok(()),
            status = sidecar => ("the sidecar", status),
            status = self.app.wait(), if !self.one_off => ("the app", status),
        };
        let how = ended(status.map_err(in_words)?);
        Err(format!("{who} {how} before anything happened to it").into())
    }

    /// SIGKILL to the app's container: to whatever is left of it.
    async fn kill_app(&mut self) {
        let sidecar = self.sidecar.as_ref().and_then(|sidecar| sidecar.id());
        let spared: Vec<u32> = sidecar.into_iter().chain(self.other).collect();
        processes::end_all_but(&spared);
        // Its status is taken already.
        let _ = self.app.wait().await;
    }
}

/// A load balancer that is not serving yet.
struct Balanced {
    listener: TcpListener,
    /// The other target; ends when dropped.
    stays: Child,
}

/// How the containers ended.
#[derive(Default)]
struct Ends {
    sidecar_code: Option<i32>,
    app_killed: bool,
    app_stopped: Option<(Instant, Instant)>,
}

/// Where everybody is reached.
struct Urls {
    quick: Option<HttpUrl>,
    slow: Option<HttpUrl>,
    /// What answers once the app is up.
    ready: Option<HttpUrl>,
    sidecar_ready: HttpUrl,
    /// The stand-in.
    metadata: String,
}

impl Urls {
    fn new(
        options: &Options,
        scenario: &Scenario,
        metadata: &str,
        app_port: u16,
        sidecar: SocketAddr,
    ) -> Result<Urls, String> {
        let metadata = metadata.to_owned();
        let sidecar_ready = at(sidecar, "/ready")?;
        if let Some(own) = &options.own {
            return Ok(Urls {
                quick: own.url.clone(),
                slow: None,
                ready: own.ready.clone().or(own.url.clone()),
                sidecar_ready,
                metadata,
            });
        }
        let app = at(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), app_port), "/")?;
        Ok(Urls {
            slow: Some(app.with_target(&format!("/slow/{}", milliseconds(scenario.slow_request)))),
            ready: scenario.app.serves().then(|| app.with_target("/healthz")),
            quick: Some(app),
            sidecar_ready,
            metadata,
        })
    }
}

/// Where a run cannot go on nobody else shall: so that all that was written by then is read to its end.
fn all_ended_on_error<T>(played: Result<T, Stopped>) -> Result<T, Stopped> {
    if played.is_err() {
        processes::end_all_but(&[]);
    }
    played
}

/// Whether a shell has to stay for it: more than one command, or one in the background.
fn is_compound(command: &str) -> bool {
    let mut quote = None;
    let mut letters = command.trim_end().chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (None | Some('"'), '\\') => {
                letters.next();
            }
            (None, '\'' | '"') => quote = Some(letter),
            (None, ';' | '&' | '|' | '\n' | '(') => return true,
            (Some(open), close) if open == close => quote = None,
            _ => {}
        }
    }
    false
}

/// Whoever listens there already would be taken for the app.
async fn refuse_if_taken(host: &str, port: u16, what: &str) -> Result<(), String> {
    let connected = timeout(CONNECT_LIMIT, TcpStream::connect((host, port))).await;
    match connected {
        Ok(Ok(_)) => Err(format!(
            "something listens on {host}:{port} already ({what}): end it first, or the rehearsal would speak to it and \
             not to what it starts"
        )),
        _ => Ok(()),
    }
}

/// Whether it needs no SIGTERM any more; killed with the others it has been waited for already.
fn has_ended(child: &mut Child) -> bool {
    !matches!(child.try_wait(), Ok(None))
}

/// How a process ended, as people say it.
fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => status.to_string(),
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

fn span(duration: Duration) -> String {
    words::span(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn in_words(why: impl std::fmt::Display) -> String {
    why.to_string()
}

#[cfg(test)]
mod tests {
    use super::is_compound;

    #[test]
    fn a_shell_stays_for_several_commands_only() {
        for one in [
            "python3 app.py",
            "nginx -g 'daemon off;'",
            "env A=\"x;y\" ./run",
            r"./run a\;b",
            "",
        ] {
            assert!(!is_compound(one), "{one}");
        }
        for several in [
            "cd x && ./run",
            "a; b",
            "a &",
            "a | b",
            "(a)",
            "a\nb",
            "a 'b' ; c",
        ] {
            assert!(is_compound(several), "{several}");
        }
    }
}
