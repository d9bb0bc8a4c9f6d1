//! The sample apps of rehearsals and compose files: a web server and a worker.
//!
//! Ordinary programs: on SIGTERM they end at once, with whatever they have in hand. What they do
//! better they do because they are asked to drain.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::{
    Arg, ArgMatches, Command, ValueEnum, builder::EnumValueParser, builder::PossibleValue, value_parser,
};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderValue, LOCATION, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use signal_hook::consts::SIGQUIT;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::config;
use crate::core::url::HttpUrl;
use crate::sidecar::http::{Ask, Network, Way};
use crate::sidecar::mailbox;
use crate::sidecar::watch::signals::{Signals, pipe_of};

/// The subcommand, which `--help` does not show.
pub const NAME: &str = "sample";

/// How long a job of the worker and a slow request take, unless told otherwise.
const JOB: Duration = Duration::from_millis(1200);

/// The long job: longer than the sidecar takes for a first look, 10 s, and a second one, 33 s.
const LONG_JOB: Duration = Duration::from_secs(46);

/// What the protected worker waits for the next message of its queue.
const NEXT_MESSAGE: Duration = Duration::from_millis(400);

/// So many clients call at the same time.
const CLIENTS: usize = 4;

/// How long it waits for its sidecar at first.
const SIDECAR_STARTS: Duration = Duration::from_millis(500);

/// Set where each line begins with its time, so that a rehearsal can tell it among the lines of others.
pub(crate) const TELLS_THE_TIME: &str = "ECS_PRESTOP_SAMPLE_TELLS_THE_TIME";

/// The longest that a request may ask to be made wait.
const LONGEST_REQUEST: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppKind {
    /// Answers `POST /drain` once no request is in flight.
    Web,
    /// Answers it with 202 at once, and is done after a while.
    Slow,
    /// Takes it and never answers.
    Hung,
    /// Has no such path.
    Refusing,
    /// Knows nothing of draining either, as most apps; nothing asks it to.
    NoCode,
    /// Has no server: asks the sidecar for a notice and acknowledges.
    Worker,
    /// The same, and has its task protected while it works.
    Protected,
    /// The same with jobs that no stop timeout is long enough for.
    LongJob,
    /// Has no server: does one job and ends.
    OneOff,
    /// Has no such path either; finishes and ends on SIGQUIT, as nginx does.
    Quits,
    /// No app, but those who call one: clients behind a load balancer that asks the sidecar's `/ready`.
    Clients,
}

impl ValueEnum for AppKind {
    fn value_variants<'a>() -> &'a [AppKind] {
        &[
            AppKind::Web,
            AppKind::Slow,
            AppKind::Hung,
            AppKind::Refusing,
            AppKind::NoCode,
            AppKind::Worker,
            AppKind::Protected,
            AppKind::LongJob,
            AppKind::OneOff,
            AppKind::Quits,
            AppKind::Clients,
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

impl AppKind {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            AppKind::Web => "web",
            AppKind::Slow => "slow",
            AppKind::Hung => "hung",
            AppKind::Refusing => "refusing",
            AppKind::NoCode => "no-code",
            AppKind::Worker => "worker",
            AppKind::Protected => "protected",
            AppKind::LongJob => "long-job",
            AppKind::OneOff => "one-off",
            AppKind::Quits => "quits",
            AppKind::Clients => "clients",
        }
    }
}

impl AppKind {
    /// Whether it answers requests.
    pub fn serves(self) -> bool {
        !matches!(
            self,
            AppKind::Worker | AppKind::Protected | AppKind::LongJob | AppKind::OneOff | AppKind::Clients
        )
    }
}

pub fn command() -> Command {
    Command::new(NAME)
        .hide(true)
        .about("A sample app, for rehearsals and compose files")
        .arg(
            Arg::new("kind")
                .long("kind")
                .value_parser(EnumValueParser::<AppKind>::new())
                .default_value("web"),
        )
        .arg(
            Arg::new("listen")
                .long("listen")
                .value_parser(value_parser!(SocketAddr))
                .default_value("127.0.0.1:8080"),
        )
        .arg(
            Arg::new("sidecar")
                .long("sidecar")
                .default_value("http://127.0.0.1:9911"),
        )
        .arg(
            Arg::new("call")
                .long("call")
                .default_value("http://127.0.0.1:8080/slow/3s"),
        )
}

/// Runs until SIGTERM.
pub async fn main(matches: &ArgMatches) -> ExitCode {
    let (Some(&kind), Some(&listen), Some(sidecar), Some(call)) = (
        matches.get_one::<AppKind>("kind"),
        matches.get_one::<SocketAddr>("listen"),
        matches.get_one::<String>("sidecar"),
        matches.get_one::<String>("call"),
    ) else {
        return ExitCode::from(2);
    };
    let in_hand = Arc::<AtomicUsize>::default();
    let Ok(signals) = Signals::take() else {
        return ExitCode::FAILURE;
    };
    let (mailbox, mut messages) = mailbox::channel();
    tokio::spawn(signals.watch(mailbox));
    let work = async {
        match kind {
            AppKind::Worker => worker(sidecar, &in_hand).await,
            AppKind::Protected => protected_worker(sidecar, &in_hand, JOB).await,
            AppKind::Clients => clients(call, sidecar).await,
            AppKind::LongJob => protected_worker(sidecar, &in_hand, LONG_JOB).await,
            AppKind::OneOff => {
                do_job(1, &in_hand, JOB).await;
                Ok(())
            }
            _ => App::new(kind, Arc::clone(&in_hand)).serve(listen).await,
        }
    };
    tokio::select! {
        worked = work => match worked {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("{why}");
                ExitCode::FAILURE
            }
        },
        _ = messages.recv() => {
            if kind == AppKind::Clients {
                return ExitCode::SUCCESS;
            }
            let things = counted(in_hand.load(Ordering::Relaxed), if kind.serves() { "request" } else { "job" });
            say(&format!("SIGTERM: ends, {things} cut off"));
            ExitCode::SUCCESS
        }
    }
}

fn say(line: &str) {
    if std::env::var_os(TELLS_THE_TIME).is_some() {
        crate::tools::say(&format!("{} {line}", jiff::Timestamp::now()));
    } else {
        crate::tools::say(line);
    }
}

/// `no requests`, `1 request`, `2 requests`
fn counted(n: usize, thing: &str) -> String {
    match n {
        0 => format!("no {thing}s"),
        1 => format!("1 {thing}"),
        n => format!("{n} {thing}s"),
    }
}

#[derive(Clone)]
struct App {
    kind: AppKind,
    in_flight: Arc<AtomicUsize>,
    done_one: Arc<Notify>,
    /// When the first `POST /drain` came.
    draining_since: Arc<std::sync::OnceLock<Instant>>,
}

impl App {
    fn new(kind: AppKind, in_flight: Arc<AtomicUsize>) -> App {
        App {
            kind,
            in_flight,
            done_one: Arc::default(),
            draining_since: Arc::default(),
        }
    }

    /// Returns where it cannot, and after a SIGQUIT where that is its way to end.
    async fn serve(self, listen: SocketAddr) -> Result<(), String> {
        let listener = match TcpListener::bind(listen).await {
            Ok(listener) => listener,
            Err(why) => return Err(format!("cannot listen on {listen}: {why}")),
        };
        let address = listener.local_addr().unwrap_or(listen);
        say(&format!("serves on {address}"));
        let quit = pipe_of(SIGQUIT).and_then(UnixStream::from_std);
        let mut quit = quit.map_err(|why| format!("cannot take SIGQUIT over: {why}"))?;
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    if let Ok((stream, _)) = accepted {
                        tokio::spawn(self.clone().converse(stream));
                    }
                }
                _ = quit.read_u8(), if self.kind == AppKind::Quits => break,
            }
        }
        drop(listener);
        let in_flight = counted(self.in_flight.load(Ordering::Relaxed), "request");
        say(&format!("SIGQUIT: takes no more requests, finishes {in_flight}"));
        self.until_idle().await;
        Ok(())
    }

    async fn until_idle(&self) {
        while self.in_flight.load(Ordering::Relaxed) > 0 {
            self.done_one.notified().await;
        }
    }

    async fn converse(self, stream: TcpStream) {
        let service = service_fn(|request| {
            let app = self.clone();
            async move { Ok::<_, Infallible>(app.answer(request).await) }
        });
        let _ = http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (_, "/drain" | "/drain/state")
                if matches!(self.kind, AppKind::Refusing | AppKind::NoCode | AppKind::Quits) =>
            {
                reply(StatusCode::NOT_FOUND, "not found\n")
            }
            (&Method::POST, "/drain") => self.drain().await,
            (_, "/drain/state") => self.drain_state().await,
            (_, "/healthz") => reply(StatusCode::OK, "ok\n"),
            (_, path) => {
                let work = path
                    .strip_prefix("/slow")
                    .map_or(Duration::from_millis(5), |length| {
                        config::duration(length.trim_matches('/'))
                            .unwrap_or(JOB)
                            .min(LONGEST_REQUEST)
                    });
                let _guard = InFlight::new(self);
                sleep(work).await;
                reply(StatusCode::OK, "hello\n")
            }
        }
    }

    async fn drain(&self) -> Response<Full<Bytes>> {
        let since = *self.draining_since.get_or_init(Instant::now);
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        say(&format!(
            "told to drain: {} in flight",
            counted(in_flight, "request")
        ));
        match self.kind {
            AppKind::Hung => {
                sleep(LONGEST_REQUEST).await;
                reply(StatusCode::OK, "")
            }
            AppKind::Slow => {
                let mut reply = reply(StatusCode::ACCEPTED, "draining\n");
                reply
                    .headers_mut()
                    .insert(LOCATION, HeaderValue::from_static("/drain/state"));
                reply
            }
            _ => {
                self.until_idle().await;
                say(&format!("drained after {:.1} s", since.elapsed().as_secs_f64()));
                reply(StatusCode::OK, "drained\n")
            }
        }
    }

    async fn drain_state(&self) -> Response<Full<Bytes>> {
        let since = self.draining_since.get().map(Instant::elapsed);
        if since.is_some_and(|since| since >= JOB) && self.in_flight.load(Ordering::Relaxed) == 0 {
            say("drained");
            return reply(StatusCode::OK, "drained\n");
        }
        let mut reply = reply(StatusCode::ACCEPTED, "draining\n");
        reply
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static("1"));
        reply
    }
}

/// Counts a request for as long as it lives, even if its client goes away.
struct InFlight<'a>(&'a App);

impl InFlight<'_> {
    fn new(app: &App) -> InFlight<'_> {
        app.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(app)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.done_one.notify_one();
    }
}

/// One job after the other until there is a notice; then the one in hand, and an acknowledgement.
async fn worker(sidecar: &str, in_hand: &AtomicUsize) -> Result<(), String> {
    let sidecar = base(sidecar)?;
    let notice = sidecar.append("/notice");
    let network = Network::system(1);
    for job in 1.. {
        do_job(job, in_hand, JOB).await;
        if status(&network, Ask::get(&notice)).await == Some(StatusCode::OK) {
            break;
        }
    }
    acknowledge(&network, &sidecar).await
}

/// The same with a lease for each job, and a pause between jobs in which the task may be stopped.
async fn protected_worker(sidecar: &str, in_hand: &AtomicUsize, length: Duration) -> Result<(), String> {
    let sidecar = base(sidecar)?;
    let notice = sidecar.append(&format!("/notice?wait={}ms", NEXT_MESSAGE.as_millis()));
    let network = Network::system(1);
    for job in 1.. {
        let lease = sidecar.append(&format!("/protect/job-{job}?for=10m"));
        match lease_for(&network, &lease).await {
            Some(StatusCode::OK) => say(&format!("has a lease for job {job}")),
            Some(StatusCode::CONFLICT) => {
                say("gets no other lease: takes no other job");
                await_notice(&network, &sidecar).await;
                break;
            }
            _ => say(&format!("has no lease for job {job}")),
        }
        do_job(job, in_hand, length).await;
        if status(&network, Ask::new("DELETE", &lease)).await == Some(StatusCode::NO_CONTENT) {
            say("has given the lease back");
        }
        match status(&network, Ask::get(&notice)).await {
            Some(StatusCode::OK) => break,
            Some(_) => {}
            None => sleep(NEXT_MESSAGE).await,
        }
    }
    acknowledge(&network, &sidecar).await
}

/// Where ECS only wants the task gone, the notice comes when it may stop it.
async fn await_notice(network: &Network, sidecar: &HttpUrl) {
    let notice = sidecar.append("/notice?wait=10s");
    while status(network, Ask::get(&notice)).await == Some(StatusCode::NO_CONTENT) {}
}

/// The sidecar starts after the app.
async fn lease_for(network: &Network, lease: &HttpUrl) -> Option<StatusCode> {
    let end = Instant::now() + SIDECAR_STARTS;
    loop {
        let status = status(network, Ask::new("PUT", lease)).await;
        if status.is_some() || Instant::now() >= end {
            return status;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

fn base(sidecar: &str) -> Result<HttpUrl, String> {
    sidecar
        .parse()
        .map_err(|why| format!("--sidecar is `{sidecar}`: {why}"))
}

async fn status(network: &Network, ask: Ask<'_>) -> Option<StatusCode> {
    Some(network.ask(ask, &mut Way::default()).await.ok()?.status())
}

async fn acknowledge(network: &Network, sidecar: &HttpUrl) -> Result<(), String> {
    say("a notice is there: takes no other job");
    let told = network
        .ask(Ask::new("POST", &sidecar.append("/drained")), &mut Way::default())
        .await;
    match told {
        Ok(answer) => say(&format!("POST /drained: {}", answer.status().as_u16())),
        Err(why) => say(&format!("POST /drained: {why}")),
    }
    std::future::pending().await
}

/// Four clients one request after the other, until the load balancer looks away; then says what was lost.
async fn clients(call: &str, sidecar: &str) -> Result<(), String> {
    let call: HttpUrl = call.parse().map_err(|why| format!("--call is `{call}`: {why}"))?;
    let ready = base(sidecar)?.append("/ready");
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (call, ready) = (call.clone(), ready.clone());
        clients.spawn(async move {
            let network = Network::system(1);
            let is_up = async || status(&network, Ask::get(&ready)).await == Some(StatusCode::OK);
            while !is_up().await {
                sleep(SIDECAR_STARTS).await;
            }
            let (mut answered, mut lost) = (0, 0);
            while is_up().await {
                let complete = match network.ask(Ask::get(&call), &mut Way::default()).await {
                    Ok(answer) => answer.finish().await.is_ok(),
                    Err(_) => false,
                };
                answered += u32::from(complete);
                // The app itself may still be starting.
                lost += u32::from(!complete && answered > 0);
            }
            say("told to look away: sends no more requests");
            (answered, lost)
        });
    }
    let (mut answered, mut lost) = (0, 0);
    while let Some(Ok((more, less))) = clients.join_next().await {
        answered += more;
        lost += less;
    }
    say(&format!("{answered} requests were answered, {lost} lost"));
    std::future::pending().await
}

async fn do_job(number: u32, in_hand: &AtomicUsize, length: Duration) {
    say(&format!("job {number} begins"));
    in_hand.store(1, Ordering::Relaxed);
    sleep(length).await;
    in_hand.store(0, Ordering::Relaxed);
    say(&format!("job {number} done"));
}

fn reply(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *reply.status_mut() = status;
    reply
}
