//! `quiet` over thousands of short plays by chance, with this machine's kernel and real sockets: HTTP/1.1 in the clear,
//! over TLS, and where `sock_diag` is refused.
//!
//! Every play has a port and a judge of its own; all of them are looked at by one list of the kernel, so that thousands
//! cost no more than one. Each is played against a core that is wrong on purpose, too: plays in which that
//! is never early would show nothing.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::Range;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use ecs_prestop::core::quiet::{Counters, Judge, TcpConnection, TcpState};
use ecs_prestop::core::step::QuietStep;
use ecs_prestop::sidecar::drain::quiet::Kernel;
use ecs_prestop::sidecar::drain::quiet::sockets::{Socket, SocketQuery, Sockets};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::process::{PATIENCE, is_here};
use crate::quiet_sockets::{Chance, NO_NETLINK};

/// How long nothing moves before a play is quiet.
const SILENCE: Duration = Duration::from_millis(100);

/// As often as a step of that silence looks.
const LOOK_EVERY: Duration = Duration::from_millis(25);

const AT_ONCE: u64 = 250;

/// So many plays that a core which is wrong in the rarest way, early in one of sixty, is caught by some.
const SHOWN_BY: u64 = 3 * AT_ONCE;

/// From the last byte of a request to the first of its answer, by the clock of this process.
type Owed = (Instant, Instant);

/// What comes between the kernel and the judge: nothing, or something that a wrong core would make of it.
type Distortion = fn(TcpConnection) -> TcpConnection;

fn as_it_is(connection: TcpConnection) -> TcpConnection {
    connection
}

fn changed(connection: TcpConnection, change: impl FnOnce(Counters) -> Counters) -> TcpConnection {
    TcpConnection {
        traffic: connection.traffic.map(change),
        ..connection
    }
}

/// A core to which the direction of the last byte says nothing.
fn without_direction(connection: TcpConnection) -> TcpConnection {
    changed(connection, |traffic| Counters {
        bytes_in: 0,
        ..traffic
    })
}

/// A core that takes the session tickets of TLS for an answer.
fn without_tickets(connection: TcpConnection) -> TcpConnection {
    changed(connection, |traffic| Counters {
        packets_in: traffic.packets_in + 1000,
        ..traffic
    })
}

/// A core to which an open connection of which nothing is told is idle.
fn open_is_idle(connection: TcpConnection) -> TcpConnection {
    let never = Counters {
        since_in: Duration::from_secs(3600),
        since_out: Duration::from_secs(3600),
        ..Counters::default()
    };
    let open = connection.traffic.is_none() && connection.stage == TcpState::Open;
    TcpConnection {
        traffic: open.then_some(never).or(connection.traffic),
        ..connection
    }
}

/// What the client and the app speak.
#[derive(Clone)]
enum Protocol {
    Plain,
    /// Of both versions, with and without tickets.
    Tls(Vec<(TlsAcceptor, TlsConnector)>),
}

impl Protocol {
    fn tls() -> Protocol {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = made.signing_key.serialize_der();
        let provider = Arc::new(default_provider());
        let ends = [(&TLS12, 0), (&TLS13, 0), (&TLS13, 2), (&TLS13, 2)].map(|(version, tickets)| {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.clone()));
            let mut server = ServerConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(&[version])
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate.clone()], key)
                .unwrap();
            server.send_tls13_tickets = tickets;
            let mut roots = RootCertStore::empty();
            roots.add(certificate.clone()).unwrap();
            let client = ClientConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            (
                TlsAcceptor::from(Arc::new(server)),
                TlsConnector::from(Arc::new(client)),
            )
        });
        Protocol::Tls(ends.into())
    }
}

/// The app's end of a connection, which does not read on at once after the first bytes: session tickets then go out
/// after the request that came with the end of the handshake, and not in the same jiffy.
struct ReadsOnLate {
    stream: TcpStream,
    pause: Duration,
    reads: u32,
    waits: Pin<Box<Sleep>>,
}

impl ReadsOnLate {
    fn new(stream: TcpStream, pause: Duration) -> ReadsOnLate {
        ReadsOnLate {
            stream,
            pause,
            reads: 0,
            waits: Box::pin(sleep(Duration::ZERO)),
        }
    }
}

impl AsyncRead for ReadsOnLate {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.waits.as_mut().poll(context));
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.reads += 1;
        if self.reads == 1 {
            let until = tokio::time::Instant::now() + self.pause;
            self.waits.as_mut().reset(until);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReadsOnLate {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// One request and its answer.
struct Exchange {
    pause: Duration,
    request: usize,
    /// How long it is not read.
    unread: Duration,
    work: Duration,
    answer: usize,
}

impl Exchange {
    fn by(chance: &mut Chance) -> Exchange {
        let mut one_of = |choices: [u64; 4]| choices[chance.below(4) as usize];
        let mut pause = |choices| Duration::from_millis(one_of(choices));
        let (before, unread, work) = (
            pause([0, 0, 5, 70]),
            pause([0, 0, 0, 130]),
            pause([0, 1, 40, 400]),
        );
        Exchange {
            pause: before,
            // As long as a usual head of a request.
            request: 150 + one_of([0, 50, 200, 500]) as usize,
            unread,
            work,
            answer: one_of([10, 10, 3000, 60_000]) as usize,
        }
    }
}

/// Both ends of a connection.
async fn connected(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let address = listener.local_addr().unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (client, accepted) = (client.unwrap(), accepted.unwrap().0);
    client.set_nodelay(true).unwrap();
    accepted.set_nodelay(true).unwrap();
    (client, accepted)
}

/// What a client did: when each request was owed an answer, and when it hung up.
type Course = (Vec<Owed>, Instant);

/// One client and the app's end of its connection: some requests, then idle for a while. `first`: when the first
/// request was sent.
async fn course(
    mut chance: Chance,
    (client, accepted): (TcpStream, TcpStream),
    protocol: Protocol,
    first: Arc<OnceLock<Instant>>,
) -> Course {
    let ends = chance.below(4) as usize;
    let reads_on_after = Duration::from_millis([15, 30, 60, 60][chance.below(4) as usize]);
    // The first bytes of a connection are not read at once, sometimes.
    let late = Duration::from_millis([0, 0, 0, 130][chance.below(4) as usize]);
    let exchanges: Vec<Exchange> = (0..=chance.below(4)).map(|_| Exchange::by(&mut chance)).collect();
    let stays = Duration::from_millis([0, 0, 150, 300][chance.below(4) as usize]);
    let ((asked, hung_up), answered) = match protocol {
        Protocol::Plain => tokio::join!(
            ask(client, &exchanges, stays, &first),
            answer(accepted, &exchanges)
        ),
        Protocol::Tls(all) => {
            let (acceptor, connector) = &all[ends];
            let name = ServerName::try_from("localhost").unwrap();
            // The first request may come with the end of the handshake, before the app has read that.
            let client = async {
                ask(
                    connector.connect(name, client).await.unwrap(),
                    &exchanges,
                    stays,
                    &first,
                )
                .await
            };
            let app = async {
                sleep(late).await;
                let accepted = ReadsOnLate::new(accepted, reads_on_after);
                answer(acceptor.accept(accepted).await.unwrap(), &exchanges).await
            };
            tokio::join!(client, app)
        }
    };
    (asked.into_iter().zip(answered).collect(), hung_up)
}

/// When each request had been sent, and when it hung up.
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    mut client: S,
    exchanges: &[Exchange],
    stays: Duration,
    first: &OnceLock<Instant>,
) -> (Vec<Instant>, Instant) {
    let mut asked = Vec::new();
    for exchange in exchanges {
        sleep(exchange.pause).await;
        client.write_all(&vec![7; exchange.request]).await.unwrap();
        client.flush().await.unwrap();
        asked.push(Instant::now());
        first.get_or_init(Instant::now);
        client.read_exact(&mut vec![0; exchange.answer]).await.unwrap();
    }
    sleep(stays).await;
    (asked, Instant::now())
}

/// When each answer was about to begin.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut app: S, exchanges: &[Exchange]) -> Vec<Instant> {
    let mut answered = Vec::new();
    for exchange in exchanges {
        sleep(exchange.unread).await;
        app.read_exact(&mut vec![0; exchange.request]).await.unwrap();
        sleep(exchange.work).await;
        answered.push(Instant::now());
        app.write_all(&vec![7; exchange.answer]).await.unwrap();
        app.flush().await.unwrap();
    }
    // Until the client has hung up, and for a while after.
    let _ = app.read(&mut [0]).await;
    sleep(Duration::from_millis(30)).await;
    answered
}

/// What came of the plays.
#[derive(Debug, Default, PartialEq)]
struct Score {
    plays: usize,
    /// Plays that were called quiet at all.
    quiet: usize,
    /// Those that were before the client hung up.
    idle: usize,
    /// Those that were while somebody was owed an answer.
    early: Vec<String>,
}

/// Plays that many, and says which were called quiet too early.
async fn play(plays: u64, protocol: Protocol, distort: Distortion, kernel: &Kernel) -> Score {
    let mut score = Score::default();
    for first in (1..=plays).step_by(AT_ONCE as usize) {
        let batch = at_once(first..first + AT_ONCE, &protocol, distort, kernel, &mut score);
        timeout(PATIENCE, batch).await.expect("no batch takes a minute");
    }
    score
}

async fn at_once(
    seeds: Range<u64>,
    protocol: &Protocol,
    distort: Distortion,
    kernel: &Kernel,
    score: &mut Score,
) {
    let step = QuietStep {
        silence: SILENCE,
        ..QuietStep::default()
    };
    let mut watched = BTreeMap::new();
    let mut courses = Vec::new();
    for seed in seeds {
        let mut chance = Chance::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // Some are looked at from the beginning, most from somewhere in the middle.
        let asked = Arc::<OnceLock<Instant>>::default();
        let from_start = chance.below(4) == 0;
        let watch = Watch {
            after: (!from_start).then(|| Arc::clone(&asked)),
            delay: Duration::from_millis(chance.below(500)),
            judge: Judge::new(&step),
            seen: Vec::new(),
            quiet: None,
        };
        watched.insert(port, watch);
        let ends = connected(&listener).await;
        let course = course(chance, ends, protocol.clone(), asked);
        courses.push((seed, port, listener, tokio::spawn(course)));
    }
    while courses.iter().any(|(.., course)| !course.is_finished()) {
        look(&mut watched, distort, kernel);
        sleep(LOOK_EVERY).await;
    }
    for (seed, port, _, course) in courses {
        let (owed, hung_up) = course.await.unwrap();
        score.plays += 1;
        if let Some((looked, told)) = watched[&port].quiet {
            score.quiet += 1;
            score.idle += usize::from(told < hung_up);
            let early = owed
                .iter()
                .position(|(asked, answered)| *asked < looked && *answered > told);
            score.early.extend(early.map(|number| {
                let (asked, answered) = owed[number];
                let (since, after) = (looked - asked, answered - told);
                let seen = &watched[&port].seen;
                format!("seed {seed}, request {number}, asked {since:?} before, answered {after:?} after: {seen:#?}")
            }));
        }
    }
}

/// A play as it is looked at.
struct Watch {
    /// Not before that has happened.
    after: Option<Arc<OnceLock<Instant>>>,
    delay: Duration,
    judge: Judge,
    /// What the latest looks saw, and how long ago the first of them was.
    seen: Vec<(Instant, TcpConnection)>,
    /// When the look that called it quiet began and ended.
    quiet: Option<(Instant, Instant)>,
}

impl Watch {
    fn looks(&self, now: Instant) -> bool {
        let begun = |asked: &Arc<OnceLock<Instant>>| asked.get().is_some_and(|at| *at + self.delay <= now);
        self.quiet.is_none() && self.after.as_ref().is_none_or(begun)
    }
}

fn look(watched: &mut BTreeMap<u16, Watch>, distort: Distortion, kernel: &Kernel) {
    let began = Instant::now();
    let mut list = kernel.list(SocketQuery::Connections(None)).unwrap();
    let mut sockets = Vec::new();
    while list.next(&mut sockets).unwrap() {}
    for socket in &sockets {
        if let Socket::Connection(connection, _) = socket
            && let Some(watch) = watched.get_mut(&connection.local.port())
            && watch.looks(began)
        {
            watch.judge.see(&distort(*connection), Instant::now());
            watch.seen.push((began, *connection));
        }
    }
    for watch in watched.values_mut().filter(|watch| watch.looks(began)) {
        if watch.judge.end_look(began).quiet_at.is_some_and(|at| at <= began) {
            watch.quiet = Some((began, Instant::now()));
        }
    }
}

/// How often that protocol's plays are called early by a core that is wrong in that way.
async fn shows(protocol: &Protocol, wrong: Distortion, kernel: &Kernel) -> usize {
    play(SHOWN_BY, protocol.clone(), wrong, kernel).await.early.len()
}

#[tokio::test]
async fn over_plays_of_http_by_chance_it_is_never_early_and_a_core_without_direction_is() {
    let kernel = Kernel::default();
    let score = play(2000, Protocol::Plain, as_it_is, &kernel).await;
    assert_eq!(
        (score.plays, score.early.len()),
        (2000, 0),
        "{}",
        score.early.join("\n")
    );
    assert!(
        score.idle > 0,
        "a core that waits for the client to hang up is never early, either"
    );
    let wrong = shows(&Protocol::Plain, without_direction, &kernel).await;
    eprintln!("{score:?}; {wrong} of {SHOWN_BY} early without direction");
    assert!(wrong > 0, "the plays show nothing");
}

#[tokio::test]
async fn over_plays_of_tls_by_chance_it_is_never_early_and_a_core_that_takes_tickets_for_an_answer_is() {
    let (kernel, tls) = (Kernel::default(), Protocol::tls());
    let score = play(2000, tls.clone(), as_it_is, &kernel).await;
    assert_eq!(
        (score.plays, score.early.len()),
        (2000, 0),
        "{}",
        score.early.join("\n")
    );
    assert!(
        score.idle > 0,
        "a core that waits for the client to hang up is never early, either"
    );
    let direction = shows(&tls, without_direction, &kernel).await;
    let tickets = shows(&tls, without_tickets, &kernel).await;
    eprintln!(
        "{score:?}; of {SHOWN_BY} early: {direction} without direction, {tickets} without the rule of tickets"
    );
    assert!(direction > 0 && tickets > 0, "the plays show nothing");
}

/// Set where this process is the one to which `sock_diag` is refused.
const REFUSED: &str = "ECS_PRESTOP_TEST_WITHOUT_SOCK_DIAG";

#[tokio::test]
async fn over_the_same_plays_without_sock_diag_it_is_never_early_and_waits_for_whoever_stays() {
    if std::env::var_os(REFUSED).is_none() {
        return play_without_sock_diag();
    }
    for protocol in [Protocol::Plain, Protocol::tls()] {
        let kernel = Kernel::default();
        let score = play(1000, protocol.clone(), as_it_is, &kernel).await;
        assert!(kernel.weakness().is_some(), "sock_diag is there");
        assert_eq!(
            (score.plays, score.early.len()),
            (1000, 0),
            "{}",
            score.early.join("\n")
        );
        assert_eq!(score.idle, 0, "whoever has not hung up is waited for");
        let wrong = shows(&protocol, open_is_idle, &kernel).await;
        eprintln!("{score:?}; {wrong} of {SHOWN_BY} early where an open connection is idle");
        assert!(wrong > 0, "the plays show nothing");
    }
}

/// Runs the test above in a process of its own, by a seccomp filter.
fn play_without_sock_diag() {
    let name =
        "quiet_plays::over_the_same_plays_without_sock_diag_it_is_never_early_and_waits_for_whoever_stays";
    if !is_here("python3", &["python3", "--version"]) {
        return;
    }
    let mut child = Command::new("python3")
        .args(["-c", NO_NETLINK])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(REFUSED, "true")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    eprintln!("{said}");
}
