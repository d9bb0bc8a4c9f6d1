//! The whole sidecar in this process, under a paused clock: its app, the task metadata and the
//! instance metadata are in memory, so that hours pass in milliseconds and nothing depends on the
//! machine.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ecs_prestop::config::Config;
use ecs_prestop::core::lifecycle::Code;
use ecs_prestop::core::notice::{Notice, Reason};
use ecs_prestop::core::quiet::TcpConnection;
use ecs_prestop::core::timeline::What;
use ecs_prestop::sidecar::drain::quiet::sockets::{Inode, List, Socket, SocketQuery, Sockets};
use ecs_prestop::sidecar::http::{Dial, Network, Stream};
use ecs_prestop::sidecar::mailbox::{self, Mailbox, Message, Signal};
use ecs_prestop::sidecar::run::{self, Ending};
use ecs_prestop::sidecar::telemetry::Telemetry;
use ecs_prestop::tools::simulate::StandIn;
use ecs_prestop::tools::simulate::faults::FaultTarget;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, sleep};

const IMDS: &str = "http://169.254.169.254";
pub(crate) const TMDS: &str = "http://169.254.170.2/v4/prestop";
pub(crate) const AGENT: &str = "http://169.254.170.3/api/prestop";

/// What the app does with one connection.
#[derive(Clone, Debug)]
pub(crate) enum Does {
    /// Sends these bytes once the request is there.
    Answers(String),
    /// The same after some seconds.
    AnswersAfter(f64, String),
    /// Sends the first part, waits, sends the second.
    Streams(String, f64, String),
    /// Sends these bytes and hangs up.
    AnswersAndCloses(String),
    /// Takes the request and hangs up.
    Closes,
    /// Takes the request and never says anything.
    Hangs,
    /// Is not listening.
    Refuses,
    /// Cannot be reached: no route.
    NoRoute,
    /// Does not even finish the handshake.
    NeverConnects,
    /// This host has no such address: a namespace without IPv6.
    NoSuchAddress,
}

/// An answer with a body.
pub(crate) fn answer(status: u16) -> Does {
    Does::Answers(response(status, "", "x"))
}

/// The bytes of an answer; `headers` end in `\r\n` each.
pub(crate) fn response(status: u16, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} Some Reason\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

/// The TCP connections of the app as the kernel would list them at that second of the play.
pub(crate) type Connections = Arc<dyn Fn(f64) -> Vec<TcpConnection> + Send + Sync>;

/// A request that the app got.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Seconds since the play began.
    pub(crate) at: f64,
    /// The whole text.
    pub(crate) text: String,
    /// Where it came in.
    pub(crate) by: SocketAddr,
    /// What was done about it.
    pub(crate) does: Does,
}

impl Request {
    pub(crate) fn line(&self) -> &str {
        self.text.lines().next().unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.text.lines().filter_map(|line| line.split_once(": "));
        lines.find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
    }

    pub(crate) fn body(&self) -> &str {
        self.text.split_once("\r\n\r\n").map_or("", |(_, body)| body)
    }
}

/// A play: settings, an app that follows a script, a stand-in that can be broken.
pub(crate) struct Play {
    variables: Vec<(String, String)>,
    pub(crate) stand_in: StandIn,
    world: World,
}

/// How it ended.
pub(crate) struct Played {
    pub(crate) code: Code,
    pub(crate) ending: Ending,
    /// Seconds since the play began.
    pub(crate) ended_at: f64,
    pub(crate) requests: Vec<Request>,
    pub(crate) met: Vec<Met>,
    /// Of drain calls.
    pub(crate) lookups: Vec<String>,
    /// Of everything else.
    pub(crate) other_lookups: Vec<String>,
}

impl Played {
    /// The details of the steps' ends, as text.
    pub(crate) fn details(&self) -> String {
        let details = self
            .ending
            .report
            .steps
            .iter()
            .filter_map(|step| step.status.detail());
        details.collect::<Vec<_>>().join("; ")
    }

    /// Milliseconds from the first notice to the first step's start.
    pub(crate) fn first_step_ms(&self) -> Option<u64> {
        let mut timeline = self.ending.report.timeline.iter();
        timeline
            .find(|moment| matches!(moment.what, What::StepStart { .. }))
            .map(|moment| moment.ms)
    }
}

/// An address and what happened there to one connection.
pub(crate) type Met = (SocketAddr, Does);

/// An address and what happens there.
type Listener = (SocketAddr, VecDeque<Does>);

#[derive(Clone)]
struct World {
    start: Instant,
    stand_in: StandIn,
    /// Port 8080 of every address that has no script of its own. The last entry stays.
    script: Arc<Mutex<VecDeque<Does>>>,
    /// Addresses with a script of their own; the last entry of each stays.
    scripts: Arc<Mutex<Vec<Listener>>>,
    requests: Arc<Mutex<Vec<Request>>>,
    /// What each connection met.
    met: Arc<Mutex<Vec<Met>>>,
    lookups: Arc<Mutex<Vec<String>>>,
    /// The second from which on the app is gone from port 8080, connections and all.
    exits_at: Option<f64>,
    names: Arc<Mutex<Vec<(String, IpAddr)>>>,
    /// When AWS was called, in seconds of the play: a connection a call.
    aws_calls: Arc<Mutex<Vec<f64>>>,
    /// Where the app listens, if anywhere.
    listens: Option<SocketAddr>,
    connections: Connections,
    /// Whether those are of a container in a network namespace of its own whose processes are in sight.
    in_sight: bool,
}

impl Play {
    /// A task of `app` (at loopback, port 8080) and `prestop`; `variables` beside those of ECS.
    pub(crate) fn new(variables: &[(&str, &str)], script: &[Does]) -> Play {
        Play::with(StandIn::sample(), variables, script)
    }

    /// The same with another task.
    pub(crate) fn with(stand_in: StandIn, variables: &[(&str, &str)], script: &[Does]) -> Play {
        let ecs = [
            ("ECS_CONTAINER_METADATA_URI_V4", TMDS),
            ("ECS_AGENT_URI", AGENT),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", IMDS),
        ];
        let all = ecs.iter().chain(variables);
        Play {
            variables: all.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            stand_in: stand_in.clone(),
            world: World {
                start: Instant::now(),
                stand_in,
                script: Arc::new(Mutex::new(script.iter().cloned().collect())),
                scripts: Arc::default(),
                requests: Arc::default(),
                met: Arc::default(),
                lookups: Arc::default(),
                exits_at: None,
                names: Arc::default(),
                aws_calls: Arc::default(),
                listens: Some(SocketAddr::from(([0, 0, 0, 0], 8080))),
                connections: Arc::new(|_| Vec::new()),
                in_sight: false,
            },
        }
    }

    /// The processes of the other containers are in sight, as with `pidMode: task`.
    pub(crate) fn processes_in_sight(mut self) -> Play {
        self.world.in_sight = true;
        self
    }

    /// Without `ECS_CONTAINER_METADATA_URI_V4`.
    pub(crate) fn outside_of_ecs(mut self) -> Play {
        self.variables.retain(|(name, _)| !name.starts_with("ECS_"));
        self
    }

    /// A name that DNS knows.
    pub(crate) fn name(self, name: &str, address: &str) -> Play {
        self.world
            .names
            .lock()
            .unwrap()
            .push((name.to_owned(), address.parse().unwrap()));
        self
    }

    /// The app exits at that second.
    pub(crate) fn app_exits_at(mut self, second: f64) -> Play {
        self.world.exits_at = Some(second);
        self
    }

    /// What listens at an address, where it is not the script of the app.
    pub(crate) fn listens(self, address: &str, script: &[Does]) -> Play {
        let script = script.iter().cloned().collect();
        self.world
            .scripts
            .lock()
            .unwrap()
            .push((address.parse().unwrap(), script));
        self
    }

    /// With these connections, or with nobody who listens.
    pub(crate) fn connections(mut self, listens: bool, connections: Connections) -> Play {
        self.world.listens = self.world.listens.filter(|_| listens);
        self.world.connections = connections;
        self
    }

    /// The way to the app and the stand-in, for a part of the sidecar that is played by itself.
    pub(crate) fn network(&self) -> Network {
        Network::new(self.world.clone())
    }

    /// When AWS has been called so far, in seconds of the play.
    pub(crate) fn aws_calls(&self) -> Vec<f64> {
        self.world.aws_calls.lock().unwrap().clone()
    }

    /// Plays while `acts` does what it does with the mailbox, to the sidecar's end.
    pub(crate) async fn play<F: Future<Output = ()>>(self, acts: impl FnOnce(Director) -> F) -> Played {
        let config = Config::read(|_| None, self.variables).unwrap_or_else(|why| panic!("{why:?}"));
        let (mailbox, messages) = mailbox::channel();
        let director = Director {
            mailbox: mailbox.clone(),
            start: self.world.start,
            stand_in: self.stand_in,
        };
        let others = World {
            lookups: Arc::default(),
            ..self.world.clone()
        };
        let networks = run::Networks {
            drain: Network::new(self.world.clone()),
            metadata: Network::new(others.clone()),
            aws: Network::new(others.clone()),
            sockets: Arc::new(self.world.clone()),
        };
        let run = run::run(config, networks, Telemetry::default(), (mailbox, messages), None);
        let acts = async {
            acts(director).await;
            std::future::pending::<()>().await;
        };
        let ending = tokio::select! {
            ending = run => ending,
            () = acts => unreachable!("it is pending"),
            () = sleep(Duration::from_secs(3 * 86_400)) => panic!("the sidecar has not ended within three days"),
        };
        let requests = self.world.requests.lock().unwrap().clone();
        let lookups = self.world.lookups.lock().unwrap().clone();
        let other_lookups = others.lookups.lock().unwrap().clone();
        Played {
            code: ending.code,
            ending,
            ended_at: self.world.start.elapsed().as_secs_f64(),
            requests,
            met: self.world.met.lock().unwrap().clone(),
            lookups,
            other_lookups,
        }
    }

    /// With nothing but a SIGTERM after two seconds.
    pub(crate) async fn sigterm_at_2(self) -> Played {
        self.play(|director| async move {
            director.at(2.0).await;
            director.sigterm().await;
        })
        .await
    }
}

/// Makes things happen.
pub(crate) struct Director {
    mailbox: Mailbox,
    start: Instant,
    pub(crate) stand_in: StandIn,
}

impl Director {
    /// Waits until that second of the play.
    pub(crate) async fn at(&self, second: f64) {
        tokio::time::sleep_until(self.start + Duration::from_secs_f64(second)).await;
    }

    pub(crate) async fn tell(&self, message: Message) {
        // The sidecar may have ended by then.
        let _ = self.mailbox.send(message).await;
    }

    pub(crate) async fn sigterm(&self) {
        self.tell(Message::Signal(Signal::Term)).await;
    }

    pub(crate) async fn manual(&self) {
        self.tell(Message::Notice(Notice::new(Reason::Manual))).await;
    }
}

impl Dial for World {
    fn lookup(&self, host: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
        self.lookups.lock().unwrap().push(host.clone());
        let names = self.names.lock().unwrap();
        let found: Vec<IpAddr> = names
            .iter()
            .filter(|(name, _)| *name == host)
            .map(|(_, ip)| *ip)
            .collect();
        Box::pin(async move {
            if host == "slow-dns" {
                sleep(Duration::from_secs(3600)).await;
            }
            if host == "late-dns" {
                // The first name server is dead: libc asks the second one after its 5 s.
                sleep(Duration::from_secs(5)).await;
            }
            if found.is_empty() {
                Err(io::Error::other("no such name"))
            } else {
                Ok(found)
            }
        })
    }

    fn connect(
        &self,
        address: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send>> {
        let world = self.clone();
        Box::pin(async move { world.accept(address).await })
    }
}

impl Sockets for World {
    fn list(&self, wanted: SocketQuery) -> io::Result<Box<dyn List>> {
        let second = self.start.elapsed().as_secs_f64();
        let sockets = match wanted {
            SocketQuery::Listeners => self.listens.map(Socket::Listener).into_iter().collect(),
            _ => (self.connections)(second)
                .into_iter()
                .map(|connection| Socket::Connection(connection, Inode(0)))
                .collect(),
        };
        Ok(Box::new(Listed(sockets)))
    }

    fn addresses(&self) -> Vec<IpAddr> {
        vec![[10, 0, 0, 5].into()]
    }

    fn own(&self) -> Vec<Inode> {
        Vec::new()
    }

    fn of_other_containers(&self) -> Option<Arc<dyn Sockets>> {
        self.in_sight.then(|| Arc::new(self.clone()) as Arc<dyn Sockets>)
    }

    fn weakness(&self) -> Option<String> {
        None
    }
}

struct Listed(Vec<Socket>);

impl List for Listed {
    fn next(&mut self, sockets: &mut Vec<Socket>) -> io::Result<bool> {
        sockets.append(&mut self.0);
        Ok(false)
    }
}

impl World {
    async fn accept(self, address: SocketAddr) -> io::Result<Box<dyn Stream>> {
        let refused = || Err(io::Error::from(io::ErrorKind::ConnectionRefused));
        let target = match address.ip().to_string().as_str() {
            "169.254.169.254" => Some(FaultTarget::Imds),
            "169.254.170.2" => Some(FaultTarget::Tmds),
            "169.254.170.9" => Some(FaultTarget::Aws),
            "169.254.170.3" => Some(FaultTarget::Agent),
            _ => None,
        };
        let (ours, theirs) = duplex(64 * 1024);
        if let Some(target) = target {
            if target == FaultTarget::Aws {
                let at = self.start.elapsed().as_secs_f64();
                self.aws_calls.lock().unwrap().push(at);
            }
            if self.stand_in.refuses(target) {
                return refused();
            }
            let stand_in = self.stand_in.clone();
            tokio::spawn(async move { stand_in.converse(theirs).await });
            return Ok(Box::new(ours));
        }
        let act = self.next_act(address);
        self.met
            .lock()
            .unwrap()
            .push((address, act.clone().unwrap_or(Does::Refuses)));
        match act {
            None | Some(Does::Refuses) => refused(),
            Some(Does::NoSuchAddress) => Err(io::ErrorKind::AddrNotAvailable.into()),
            Some(Does::NoRoute) => Err(io::ErrorKind::HostUnreachable.into()),
            Some(Does::NeverConnects) => std::future::pending().await,
            Some(does) => {
                let exit = self.exits_at.filter(|_| address.port() == 8080);
                let exit = exit.map(|second| self.start + Duration::from_secs_f64(second));
                tokio::spawn(async move {
                    let conversation = self.converse(theirs, address, does);
                    match exit {
                        Some(exit) => drop(tokio::time::timeout_at(exit, conversation).await),
                        None => conversation.await,
                    }
                });
                Ok(Box::new(ours))
            }
        }
    }

    fn next_act(&self, address: SocketAddr) -> Option<Does> {
        let gone = |second| self.start.elapsed().as_secs_f64() >= second;
        if address.port() == 8080 && self.exits_at.is_some_and(gone) {
            return Some(Does::Refuses);
        }
        let mut scripts = self.scripts.lock().unwrap();
        let mut app = self.script.lock().unwrap();
        let script = match scripts.iter_mut().find(|(own, _)| *own == address) {
            Some((_, script)) => script,
            None if address.port() == 8080 => &mut *app,
            None => return None,
        };
        if script.len() > 1 {
            script.pop_front()
        } else {
            script.front().cloned()
        }
    }

    async fn converse(self, mut stream: DuplexStream, by: SocketAddr, does: Does) {
        let Some(text) = read_request(&mut stream).await else {
            return;
        };
        let at = self.start.elapsed().as_secs_f64();
        self.requests.lock().unwrap().push(Request {
            at,
            text,
            by,
            does: does.clone(),
        });
        match does {
            Does::Answers(bytes) => send(&mut stream, &bytes).await,
            Does::AnswersAfter(seconds, bytes) => {
                sleep(Duration::from_secs_f64(seconds)).await;
                send(&mut stream, &bytes).await;
            }
            Does::Streams(first, seconds, second) => {
                send(&mut stream, &first).await;
                sleep(Duration::from_secs_f64(seconds)).await;
                send(&mut stream, &second).await;
            }
            Does::AnswersAndCloses(bytes) => return send(&mut stream, &bytes).await,
            Does::Closes | Does::Refuses | Does::NoRoute | Does::NeverConnects | Does::NoSuchAddress => {
                return;
            }
            Does::Hangs => {}
        }
        // Open until the other side has enough.
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await.is_ok_and(|n| n > 0) {}
    }
}

async fn send(stream: &mut DuplexStream, bytes: &str) {
    // The other side may have gone away.
    let _ = stream.write_all(bytes.as_bytes()).await;
}

async fn read_request(stream: &mut DuplexStream) -> Option<String> {
    let mut text = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let n = stream.read(&mut chunk).await.ok().filter(|n| *n > 0)?;
        text.extend_from_slice(&chunk[..n]);
        let so_far = String::from_utf8_lossy(&text);
        let Some((head, body)) = so_far.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .filter_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length: ")
                    .map(str::to_owned)
            })
            .find_map(|length| length.parse::<usize>().ok());
        if body.len() >= length.unwrap_or(0) {
            return Some(so_far.into_owned());
        }
    }
}

/// What is logged in this thread while it lives, as text, a line each.
pub(crate) struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Log {
    pub(crate) fn capture() -> Log {
        use tracing_subscriber::layer::SubscriberExt as _;
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let subscriber = tracing_subscriber::registry().with(Capture(Arc::clone(&lines)));
        Log {
            lines,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    /// The lines with that text in them.
    pub(crate) fn with(&self, text: &str) -> Vec<String> {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter(|line| line.contains(text)).cloned().collect()
    }
}

struct Capture(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Capture {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct Line(String);
        impl tracing::field::Visit for Line {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0.push_str(&format!(" {field}={value:?}"));
            }
        }
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
}
