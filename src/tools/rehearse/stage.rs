//! The stage: ECS's stop order, played with real processes and real signals.
//!
//! The sidecar depends on the app, so it is stopped first: SIGTERM, SIGKILL at its stop timeout.
//! Only when it has ended the same happens to the app.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::Signal;
use tokio::net::TcpListener;
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout};

use super::addresses::{self, HeldPort, Urls, refuse_if_taken};
use super::balancer;
use super::client::Load;
use super::options::{Options, OwnApp};
use super::players::{Players, ended, has_ended};
use super::processes::{self, each_line};
use super::record::{Run, Unit};
use super::scenario::{Cast, Opening, Scenario};
use super::screen::{Screen, Turn, Who};
use super::seen::Witness;
use crate::core::notice::Action;
use crate::tools::picture::{MarkKind, words};
use crate::tools::simulate::faults::{Fault, FaultKind, FaultTarget};
use crate::tools::simulate::{ServiceChange, StandIn};

/// Traffic before anything happens.
const CALM: Duration = Duration::from_millis(1000);

/// What a worker gets to start, which nobody can see: most interpreters have loaded by then.
const WORKER_STARTS: Duration = Duration::from_secs(5);

/// Between two looks at whether something is there.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// By then the health check has seen that nobody answers.
const CHECK_LIMIT: Duration = Duration::from_secs(5);

/// From the Spot notice to the SIGTERM that the agent sends because of it, on ECS's time.
const AGENT_DELAY_S: u32 = 5;

/// From the end of a task to its deregistration by ECS, on ECS's time: it finds out within seconds.
const ECS_DELAY_S: u32 = 5;

/// From SIGTERM to deregistration where both happen at about the same time, on ECS's time.
const SAME_TIME_S: u32 = 2;

/// The deregistration delay of a target group that somebody has set to fit (the default is 300 s), on ECS's
/// time.
const DEREGISTRATION_DELAY_S: u32 = 30;

/// How long clients go on with an address that they have, on ECS's time: the TTL of its DNS record (Cloud Map
/// developer guide, *Service discovery*; ECS's own examples have 10 s to 60 s).
const TTL_S: u32 = 10;

/// A job and the way to its end.
const PROTECTION_LIMIT: Duration = Duration::from_secs(10);

/// The long job and the way to its end.
const LONG_JOB_LIMIT: Duration = Duration::from_secs(120);

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
        let app_at = HeldPort::any()?;
        let app_port = app_at.address.port();
        let (sidecar_at, _sidecars_own) = addresses::for_sidecar(self.options).await?;
        let mut urls = Urls::new(self.options, self.scenario, &metadata_uri, app_port, sidecar_at)?;
        if let Some(own) = &self.options.own {
            for url in own.url.iter().chain(&own.ready) {
                refuse_if_taken(url.host(), url.port(), "--app").await?;
            }
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
            tokio::join!(stand_in.serve(metadata), self.screen.show(), seen.watch_clock()).0
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
        if scenario.opening == Opening::Superseded {
            // The first look of the sidecar is due within seconds of the lease.
            self.await_job(seen).await?;
        } else {
            players.calm(CALM).await?;
        }
        if self.options.own.is_some() {
            clients.send_at_once().await;
        }
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
                    Ok(())
                };
                // Where it cannot go on, nobody waits for the rest.
                return tokio::try_join!(self.stop_task(seen, stand_in, players), forget)
                    .map(|(ends, ())| ends);
            }
            Opening::Stopped | Opening::NoInstanceMetadata => {
                let late = async {
                    sleep(self.options.scaled(scenario, SAME_TIME_S)).await;
                    if self.options.unit(scenario) == Unit::Requests {
                        deregister("takes the task out of its target group");
                    }
                    Ok(())
                };
                return tokio::try_join!(self.stop_task(seen, stand_in, players), late)
                    .map(|(ends, ())| ends);
            }
            Opening::KeepsSending => {
                stand_in.task_stops("SpotInterruption", "Your Spot Task was interrupted.");
                let ends = self.stop_task(seen, stand_in, players).await?;
                sleep(self.options.scaled(scenario, ECS_DELAY_S)).await;
                if stand_in.deregister_task() {
                    self.screen
                        .say(Who::Ecs, "takes the task out of its target group");
                }
                clients.look_away();
                return Ok(ends);
            }
            Opening::ScaleIn => {
                let wants = ("wants one task less", PROTECTION_LIMIT);
                self.wants_gone(seen, stand_in, wants).await?;
            }
            Opening::Superseded => {
                stand_in.change_service(ServiceChange::Forced);
                let wants = ("deploys a new version", LONG_JOB_LIMIT);
                self.wants_gone(seen, stand_in, wants).await?;
            }
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

    /// ECS wants the task gone, and stops it as soon as it may.
    async fn wants_gone(
        &self,
        seen: &Witness<'_>,
        stand_in: &StandIn,
        (what, limit): (&str, Duration),
    ) -> Result<(), Stopped> {
        if !stand_in.protected() {
            seen.acts(Who::Ecs, &format!("{what}; this one is not protected"), None);
            return Ok(());
        }
        let what = format!("{what}; this one is protected: waits");
        seen.acts(Who::Ecs, &what, None);
        let unprotected = async {
            while stand_in.protected() {
                sleep(LOOK_EVERY).await;
            }
        };
        let in_time = timeout(limit, unprotected).await;
        in_time.map_err(|_| "the task stays protected for ever".to_owned())?;
        self.screen.say(Who::Ecs, "the task is protected no longer");
        Ok(())
    }

    async fn await_job(&self, seen: &Witness<'_>) -> Result<(), Stopped> {
        let begun = async {
            while !seen.job_in_hand() {
                sleep(LOOK_EVERY).await;
            }
        };
        let begun = timeout(PROTECTION_LIMIT, begun).await;
        begun.map_err(|_| "the worker has begun no job".to_owned().into())
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
            let stop = tokio::select! {
                stop = self.stop(seen, "prestop", sidecar, stop_timeout, Some(MarkKind::Sigterm)) => stop?,
                why = self.own_app_fails(players.app) => return Err(why.into()),
            };
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

    /// Somebody's own app ends with an error of its own while the sidecar still lets it serve: whatever answers
    /// from then on is not that app.
    async fn own_app_fails(&self, app: &mut Child) -> String {
        // The sample app tells its end itself.
        if self.options.own.is_some()
            && let Ok(status) = app.wait().await
        {
            let how = format!("app has {}, before its SIGTERM", ended(status));
            self.screen.say_at(Timestamp::now(), Turn::After, Who::Ecs, &how);
            let steps = self.options.setting("PRESTOP_DRAIN").unwrap_or_default();
            // From 128 on it is a signal that a shell tells; a step `signal` may bring any code.
            let by_itself = status.code().is_some_and(|code| (1..128).contains(&code));
            if by_itself && !steps.contains("signal") {
                return format!(
                    "the app {} before its SIGTERM, while it still had to serve",
                    ended(status)
                );
            }
        }
        std::future::pending().await
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
}

#[derive(Default)]
struct Ends {
    sidecar_code: Option<i32>,
    app_killed: bool,
    app_stopped: Option<(Instant, Instant)>,
}

/// Where a run cannot go on nobody else shall: so that all that was written by then is read to its end.
fn all_ended_on_error<T>(played: Result<T, Stopped>) -> Result<T, Stopped> {
    if played.is_err() {
        processes::end_all_but(&[]);
    }
    played
}

pub(super) fn milliseconds(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

pub(super) fn span(duration: Duration) -> String {
    words::span(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

pub(super) fn in_words(why: impl std::fmt::Display) -> String {
    why.to_string()
}
