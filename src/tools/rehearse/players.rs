//! The processes of a rehearsal: how the app, the sidecar and a second target are started, and waited for.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::addresses::{HeldPort, Urls, at};
use super::client;
use super::processes;
use super::scenario::{Cast, Opening};
use super::seen::Witness;
use super::stage::{LOOK_EVERY, Stage, Stopped, in_words, span};
use crate::core::url::HttpUrl;
use crate::tools::sample_app::{self, AppKind};
use crate::tools::simulate::StandIn;

/// What the sample app and the sidecar get to start, on the busiest machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The one of the load balancer that the sidecar tells: longer than the slow requests, and short of half of
/// the stop timeout.
const SHORT_DEREGISTRATION_DELAY_S: u32 = 10;

impl Stage<'_> {
    pub(super) fn start_app(&self, metadata: &str, port: u16, sidecar: SocketAddr) -> Result<Child, Stopped> {
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

    pub(super) fn start_sidecar(
        &self,
        metadata: &str,
        app_port: u16,
        listen: SocketAddr,
        cast: Cast,
    ) -> Result<Child, Stopped> {
        let mut command = Command::new(std::env::current_exe().map_err(in_words)?);
        command
            .arg("run")
            .env_clear()
            .env("ECS_CONTAINER_METADATA_URI_V4", format!("{metadata}/v4/prestop"))
            .env("ECS_AGENT_URI", format!("{metadata}/api/prestop"))
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        if matches!(self.scenario.opening, Opening::KeepsSending | Opening::Superseded) {
            // The stand-in takes any signature.
            command
                .env("AWS_ENDPOINT_URL", metadata)
                .env("AWS_REGION", "eu-central-1")
                .env("AWS_ACCESS_KEY_ID", "rehearsal")
                .env("AWS_SECRET_ACCESS_KEY", "rehearsal");
        }
        command.envs(
            self.options
                .sidecar_settings(self.scenario, cast, app_port, listen),
        );
        processes::start(&mut command).map_err(|why| format!("cannot start the sidecar: {why}").into())
    }

    /// Waits until the app answers, for as long as its main process lives.
    pub(super) async fn await_app(&self, url: &HttpUrl, app: &mut Child) -> Result<(), Stopped> {
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
    pub(super) async fn await_sidecar(
        &self,
        seen: &Witness<'_>,
        players: &mut Players<'_>,
    ) -> Result<(), Stopped> {
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
    pub(super) async fn balance(&self, stand_in: &StandIn, urls: &mut Urls) -> Result<Balanced, Stopped> {
        let Some(quick) = urls.quick.clone() else {
            return Err("a load balancer needs --app".to_owned().into());
        };
        let ip = quick.ip().unwrap_or(Ipv4Addr::LOCALHOST.into());
        let app = SocketAddr::new(ip, quick.port());
        let held = HeldPort::any()?;
        let other = held.address;
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
        Ok(Balanced {
            listener,
            stays,
            _held: held,
        })
    }
}

/// The processes of a run.
pub(super) struct Players<'a> {
    pub(super) app: &'a mut Child,
    pub(super) sidecar: Option<&'a mut Child>,
    /// The load balancer's other target.
    pub(super) other: Option<u32>,
    /// Whether the app may end at any time.
    pub(super) one_off: bool,
}

impl Players<'_> {
    /// Waits; nobody has a reason to end meanwhile.
    pub(super) async fn calm(&mut self, length: Duration) -> Result<(), Stopped> {
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
    pub(super) async fn kill_app(&mut self) {
        let sidecar = self.sidecar.as_ref().and_then(|sidecar| sidecar.id());
        let spared: Vec<u32> = sidecar.into_iter().chain(self.other).collect();
        processes::end_all_but(&spared);
        // Its status is taken already.
        let _ = self.app.wait().await;
    }
}

/// A load balancer that is not serving yet.
pub(super) struct Balanced {
    pub(super) listener: TcpListener,
    /// The other target; ends when dropped.
    pub(super) stays: Child,
    _held: HeldPort,
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

/// Whether it needs no SIGTERM any more; killed with the others it has been waited for already.
pub(super) fn has_ended(child: &mut Child) -> bool {
    !matches!(child.try_wait(), Ok(None))
}

/// How a process ended, as people say it.
pub(super) fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => status.to_string(),
    }
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
