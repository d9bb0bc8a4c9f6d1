//! `ecs-prestop simulate`: stands in for the ECS agent, the instance metadata service, and what a
//! sidecar needs of the ECS and Elastic Load Balancing APIs.
//!
//! Serves, for every container of a task definition, the task metadata endpoint v4, the agent's task
//! protection and IMDSv2, with their status codes, bodies and limits; `/_simulate/…` changes what they say, down to answers that
//! no server should give.

mod aws_api;
mod control;
pub mod faults;
mod instance_metadata;
mod page;
mod query;
mod task_metadata;
mod task_protection;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::core::notice::Action;
use crate::tools::say;
use aws_api::AwsApi;
use faults::{Fault, FaultKind, FaultTarget, Faults};
use instance_metadata::PlayedInstanceMetadata;
use page::RequestLog;
use query::Query;
pub use task_metadata::{Definition, DefinitionError};
use task_protection::TaskProtection;

/// The subcommand.
pub const NAME: &str = "simulate";

/// The largest body that it reads; calls of AWS have a few hundred bytes.
const MAX_BODY: usize = 64 * 1024;

/// More than the containers of a task open.
const MAX_CONNECTIONS: usize = 256;

/// What a huge answer consists of: deep JSON, the worst for a parser that recurses.
const HUGE: usize = 3 * 1024 * 1024;

/// What a server that hangs makes its client wait; longer than any shutdown.
const HANG: Duration = Duration::from_secs(600);

/// The instance on which the task runs.
const INSTANCE_ID: &str = "i-0123456789abcdef0";

/// The command line.
pub fn command() -> Command {
    Command::new(NAME)
        .about("Stands in for ECS on a laptop: metadata, task protection, and the AWS calls of `run`")
        .arg(
            Arg::new("task-definition")
                .long("task-definition")
                .value_name("FILE")
                .help("a task definition in any form that `check` reads; without one, a task of `app` and `prestop`"),
        )
        .arg(
            Arg::new("task")
                .long("task")
                .value_name("NAME")
                .help("which task definition of a file with several"),
        )
        .arg(
            Arg::new("listen")
                .long("listen")
                .value_name("ADDRESS")
                .value_parser(value_parser!(SocketAddr))
                .default_value("127.0.0.1:51678")
                .help("where it listens"),
        )
        .arg(
            Arg::new("imdsv1")
                .long("imdsv1")
                .action(ArgAction::SetTrue)
                .help("answer the instance metadata without a token, too"),
        )
}

/// Runs until it is stopped by a signal.
pub async fn main(matches: &ArgMatches) -> ExitCode {
    let stand_in = match matches
        .get_one::<String>("task-definition")
        .map(|path| Definition::read(path, matches.get_one::<String>("task").map(String::as_str)))
    {
        None => StandIn::new(Definition::sample()),
        Some(Ok(definition)) => StandIn::new(definition),
        Some(Err(why)) => {
            eprintln!("ecs-prestop simulate: {why}");
            return ExitCode::from(2);
        }
    };
    stand_in.world().instance_metadata.version_1 = matches.get_flag("imdsv1");
    let Some(&address) = matches.get_one::<SocketAddr>("listen") else {
        return ExitCode::from(2);
    };
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(why) => {
            eprintln!("ecs-prestop simulate: --listen {address}: {why}");
            return ExitCode::FAILURE;
        }
    };
    let address = listener.local_addr().unwrap_or(address);
    say(&format!(
        "The stand-in for ECS and EC2 is at http://{address}. For the containers of the task:"
    ));
    for name in stand_in.world().definition.names() {
        say(&format!(
            "  {name}: ECS_CONTAINER_METADATA_URI_V4=http://{address}/v4/{name} ECS_AGENT_URI=http://{address}/api/{name}"
        ));
    }
    say(&format!(
        "  all: AWS_EC2_METADATA_SERVICE_ENDPOINT=http://{address} AWS_ENDPOINT_URL=http://{address} \
         AWS_ACCESS_KEY_ID=none AWS_SECRET_ACCESS_KEY=none"
    ));
    say(&format!(
        "A Spot notice: curl -X POST 'http://{address}/_simulate/spot?action=terminate&in=120s'"
    ));
    let (mailbox, mut messages) = crate::sidecar::mailbox::channel();
    let Ok(signals) = crate::sidecar::watch::signals::Signals::take() else {
        return ExitCode::FAILURE;
    };
    tokio::select! {
        served = stand_in.serve(listener) => {
            if let Err(why) = served {
                eprintln!("ecs-prestop simulate: {why}");
            }
            ExitCode::FAILURE
        }
        _ = signals.watch(mailbox) => ExitCode::FAILURE,
        _ = messages.recv() => ExitCode::SUCCESS,
    }
}

/// The stand-in; a handle that can be cloned.
#[derive(Clone)]
pub struct StandIn {
    world: Arc<Mutex<World>>,
    /// Rung when connections are to be refused from now on.
    refusing: Arc<Notify>,
}

/// What it pretends.
struct World {
    definition: Definition,
    instance_metadata: PlayedInstanceMetadata,
    aws: AwsApi,
    task_protection: TaskProtection,
    faults: Faults,
    requests: RequestLog,
}

/// A connection that can be torn down without a goodbye.
pub trait Abort: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Closes with a reset where there is such a thing.
    fn abort(self);
}

impl Abort for TcpStream {
    fn abort(self) {
        // Without it the close is a plain one, which is nearly as rude.
        let _ = self.set_zero_linger();
    }
}

impl Abort for DuplexStream {
    fn abort(self) {}
}

/// Instead of an answer.
#[derive(Debug, thiserror::Error)]
enum Break {
    #[error("reset")]
    Reset,
    #[error("garbage")]
    Garbage,
}

type StandInReply = Response<Full<Bytes>>;

impl StandIn {
    /// For a task; nothing is announced and nothing is broken.
    pub fn new(definition: Definition) -> StandIn {
        StandIn {
            world: Arc::new(Mutex::new(World {
                aws: AwsApi::new(&definition),
                definition,
                instance_metadata: PlayedInstanceMetadata::default(),
                task_protection: TaskProtection::default(),
                faults: Faults::default(),
                requests: RequestLog::default(),
            })),
            refusing: Arc::default(),
        }
    }

    /// For a task of an `app` and a `prestop` container.
    pub fn sample() -> StandIn {
        StandIn::new(Definition::sample())
    }

    /// EC2 takes the instance back.
    pub fn announce_spot(&self, action: Action, left: Duration) {
        self.world().instance_metadata.announce_spot(action, left);
    }

    /// ECS knows that a container has stopped.
    pub fn container_stopped(&self, name: &str) {
        self.world().definition.set_status(name, "STOPPED");
    }

    /// ECS has not begun to make that container.
    pub fn container_not_created(&self, name: &str) {
        let not_created = task_metadata::NOT_CREATED;
        self.world().definition.set_status(name, not_created);
    }

    /// From now on ECS knows that container as RUNNING.
    pub fn container_running(&self, name: &str) {
        self.world().definition.set_status(name, "RUNNING");
    }

    /// From now on ECS wants the task STOPPED.
    pub fn stopping(&self) {
        self.world().definition.desired_status = "STOPPED";
    }

    /// A container has this address of its own.
    pub fn container_at(&self, name: &str, address: IpAddr) {
        self.world().definition.resolve(name, vec![address]);
    }

    /// AWS plans to work on the host.
    pub fn announce_maintenance(&self, state: &str, left: Duration) {
        let (code, state) = ("system-reboot".to_owned(), state.to_owned());
        self.world()
            .instance_metadata
            .announce_maintenance(code, state, left);
    }

    /// An interruption has become likely.
    pub fn recommend_rebalance(&self) {
        self.world().instance_metadata.recommend_rebalance();
    }

    /// Auto Scaling says what it is about to do.
    pub fn set_lifecycle_state(&self, state: &str) {
        self.world().instance_metadata.autoscaling = Some(state.to_owned());
    }

    /// Whether the task is protected from scale-in and deployments now.
    pub fn protected(&self) -> bool {
        self.world().task_protection.is_on()
    }

    /// How often task protection was changed or prolonged, and how often that was tried.
    pub fn protection_calls(&self) -> (u64, u64) {
        self.world().task_protection.calls()
    }

    /// Whatever was announced is taken back.
    pub fn withdraw(&self) {
        self.world().instance_metadata.withdraw();
    }

    /// The task runs on Fargate Spot, behind a load balancer of this machine that knows another task,
    /// too.
    pub fn balance(&self, task: SocketAddr, other: SocketAddr, delay: Duration) {
        let mut world = self.world();
        world.definition.fargate_spot = true;
        world.aws.balance(task, other, delay);
    }

    /// Where the load balancer sends its next request: to each registered target in turn; `None`
    /// where there is none.
    pub fn route(&self) -> Option<SocketAddr> {
        self.world().aws.route()
    }

    /// From now on `DescribeServices` has these fields in place of its own: what a deployment or a scale-in
    /// would bring.
    pub fn service_says(&self, fields: serde_json::Value) {
        self.world().aws.service_says(fields);
    }

    /// ECS stops the task; code and reason as `DescribeTasks` has them from now on.
    pub fn task_stops(&self, code: &str, reason: &str) {
        self.world().aws.stop(code, reason);
    }

    /// ECS takes the task out of its target groups; whether it was still in one.
    pub fn deregister_task(&self) -> bool {
        let World { definition, aws, .. } = &mut *self.world();
        aws.deregister_task(definition)
    }

    /// All tokens are worthless from now on.
    pub fn expire_tokens(&self) {
        self.world().instance_metadata.expire_tokens();
    }

    /// How many tokens were handed out.
    pub fn tokens_made(&self) -> u64 {
        self.world().instance_metadata.tokens_made()
    }

    /// Breaks a service until told otherwise.
    pub fn break_down(&self, fault: Fault) {
        self.world().faults.set(fault);
        self.refusing.notify_waiters();
    }

    /// Whether connections to a service are refused now; for transports other than TCP.
    pub fn refuses(&self, target: FaultTarget) -> bool {
        self.world().faults.refusing(&[target]).is_some()
    }

    /// Serves on a socket. While it refuses connections, the socket is closed.
    ///
    /// # Errors
    /// Where the address cannot be bound again.
    pub async fn serve(&self, listener: TcpListener) -> io::Result<()> {
        let address = listener.local_addr()?;
        let mut listener = Some(listener);
        loop {
            let mut connections = JoinSet::new();
            let refusing = self.refusing.notified();
            tokio::pin!(refusing);
            refusing.as_mut().enable();
            if let Some(wait) = self.refusing_for() {
                listener = None;
                // At most a second, since the fault may be taken back from within.
                sleep(wait.min(Duration::from_secs(1))).await;
                continue;
            }
            let bound = match listener.take() {
                Some(listener) => listener,
                None => TcpListener::bind(address).await?,
            };
            loop {
                tokio::select! {
                    accepted = bound.accept() => {
                        let Ok((stream, peer)) = accepted else { continue };
                        while connections.try_join_next().is_some() {}
                        if connections.len() < MAX_CONNECTIONS {
                            let stand_in = self.clone();
                            connections.spawn(async move { stand_in.converse(stream, peer.ip()).await });
                        }
                    }
                    () = &mut refusing => {
                        if self.refusing_for().is_some() {
                            break;
                        }
                        refusing.set(self.refusing.notified());
                        refusing.as_mut().enable();
                    }
                }
            }
            // Let the answer to the request that asked for it go out.
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Serves one connection, of whatever kind.
    pub async fn converse(&self, stream: impl Abort, peer: IpAddr) {
        let service = service_fn(|request| self.answer(request, peer));
        let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        let Err(why) = (&mut connection).await else {
            return;
        };
        let mut stream = connection.into_parts().io.into_inner();
        match find_break(&why) {
            Some(Break::Garbage) => {
                let _ = stream
                    .write_all(b"\x00\xffSMTP/9 nonsense \r\n\x01\x02 {[<\r\n\r\n")
                    .await;
                let _ = stream.shutdown().await;
            }
            Some(Break::Reset) => stream.abort(),
            None => {}
        }
    }

    async fn answer<B>(&self, request: Request<B>, peer: IpAddr) -> Result<StandInReply, Break>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        if path == "/" && matches!(method, Method::GET | Method::HEAD) {
            return Ok(with_type(
                StatusCode::OK,
                "text/html; charset=utf-8",
                page::PAGE.to_owned(),
            ));
        }
        let reply = self.reply(request, peer).await;
        if !path.starts_with("/_simulate") {
            let status = reply.as_ref().ok().map(Response::status);
            self.world().requests.add(&method, &path, status);
        }
        reply
    }

    async fn reply<B>(&self, request: Request<B>, peer: IpAddr) -> Result<StandInReply, Break>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
            return Ok(text(StatusCode::PAYLOAD_TOO_LARGE, "too long\n"));
        };
        let body = body.to_bytes();
        let path = head.uri.path();
        let query = Query(head.uri.query().unwrap_or_default());
        if let Some(what) = path.strip_prefix("/_simulate") {
            let reply = self.control(&head.method, what.trim_start_matches('/'), query);
            self.refusing.notify_waiters();
            return Ok(reply);
        }
        let target = if path.starts_with("/latest") {
            FaultTarget::Imds
        } else if path == "/" && head.method == Method::POST {
            FaultTarget::Aws
        } else if path.starts_with("/api/") {
            FaultTarget::Agent
        } else {
            FaultTarget::Tmds
        };
        let fault = self.world().faults.hit(target);
        if let Some(kind) = fault {
            match kind {
                FaultKind::Hang => sleep(HANG).await,
                FaultKind::Slow(delay) => sleep(delay).await,
                FaultKind::Reset | FaultKind::Refuse => return Err(Break::Reset),
                FaultKind::Garbage => return Err(Break::Garbage),
                FaultKind::Huge => return Ok(text(StatusCode::OK, &"[".repeat(HUGE))),
                FaultKind::Status(code) => {
                    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                    return Ok(text(status, "as simulated\n"));
                }
                FaultKind::Failure => return Ok(task_protection::failure("DEPLOYMENT_BLOCKED")),
                FaultKind::Error(code) => return Ok(task_protection::error(code)),
            }
        }
        match target {
            FaultTarget::Imds if !self.world().definition.has_instance_metadata() => Ok(text(
                StatusCode::NOT_FOUND,
                "no instance metadata where this task runs\n",
            )),
            FaultTarget::Imds => Ok(self
                .world()
                .instance_metadata
                .answer(&head.method, path, &head.headers)),
            FaultTarget::Aws => {
                let World { definition, aws, .. } = &mut *self.world();
                Ok(aws.answer(definition, &head.headers, &body))
            }
            FaultTarget::Tmds => Ok(self.task_metadata(&head.method, path, peer).await),
            FaultTarget::Agent => {
                let mut world = self.world();
                let names = world.definition.names();
                Ok(world.task_protection.answer(&head.method, path, &names, &body))
            }
        }
    }

    async fn task_metadata(&self, method: &Method, path: &str, _peer: IpAddr) -> StandInReply {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "");
        }
        let unresolved = self.world().definition.unresolved();
        for name in unresolved {
            // Under docker-compose the names of the containers are those of DNS.
            let found = tokio::time::timeout(
                Duration::from_millis(200),
                tokio::net::lookup_host((name.as_str(), 0)),
            );
            if let Ok(Ok(addresses)) = found.await {
                let addresses = addresses.map(|address| address.ip()).collect();
                self.world().definition.resolve(&name, addresses);
            }
        }
        self.world().definition.answer(path)
    }

    fn control(&self, method: &Method, what: &str, query: Query<'_>) -> StandInReply {
        let mut world = self.world();
        match world.control(method, what, query) {
            Ok(()) => json_reply(StatusCode::OK, &world.state()),
            Err(why) => text(StatusCode::BAD_REQUEST, &format!("{why}\n")),
        }
    }

    fn refusing_for(&self) -> Option<Duration> {
        self.world().faults.refusing(&[
            FaultTarget::Imds,
            FaultTarget::Tmds,
            FaultTarget::Aws,
            FaultTarget::Agent,
        ])
    }

    /// No code panics while it holds the lock; if one did, the data would still be whole.
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find_break(why: &hyper::Error) -> Option<&Break> {
    std::error::Error::source(why)?.downcast_ref()
}

fn text(status: StatusCode, body: &str) -> StandInReply {
    with_type(status, "text/plain; charset=utf-8", body.to_owned())
}

/// What the agent's rate limiter answers (github.com/didip/tollbooth, `limiter.New` and
/// `setResponseHeaders`), but for the caller's port, which nobody reads.
fn too_many_requests() -> StandInReply {
    let mut reply = text(
        StatusCode::TOO_MANY_REQUESTS,
        "You have reached maximum request limit.",
    );
    let headers = reply.headers_mut();
    headers.insert("x-rate-limit-limit", HeaderValue::from_static("40.00"));
    headers.insert("x-rate-limit-duration", HeaderValue::from_static("1"));
    reply
}

fn json_reply(status: StatusCode, body: &serde_json::Value) -> StandInReply {
    with_type(status, "application/json", format!("{body:#}\n"))
}

fn with_type(status: StatusCode, content_type: &'static str, body: String) -> StandInReply {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    let content_type = hyper::header::HeaderValue::from_static(content_type);
    reply.headers_mut().insert(CONTENT_TYPE, content_type);
    reply
}

/// What a request's header says, as text.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
