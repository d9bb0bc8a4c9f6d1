//! `quiet` over this machine's kernel and real sockets: each moment in the life of a connection, and
//! thousands of short plays by chance.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use ecs_prestop::core::plan::Plan;
use ecs_prestop::core::step::parse_steps;
use ecs_prestop::sidecar::drain::quiet::sockets::{Inode, List, SocketQuery, Sockets};
use ecs_prestop::sidecar::drain::quiet::{ConnectionView, Kernel, LastLook, Looks, observe};
use ecs_prestop::sidecar::mailbox;
use ecs_prestop::tools::simulate::{Definition, StandIn};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use crate::process::{PATIENCE, Process, await_that, binary, is_here};

/// The kernel, as another process would see it: this one plays clients and app as well.
#[derive(Default)]
struct FromOutside(Kernel);

impl Sockets for FromOutside {
    fn list(&self, wanted: SocketQuery) -> io::Result<Box<dyn List>> {
        self.0.list(wanted)
    }

    fn addresses(&self) -> Vec<IpAddr> {
        self.0.addresses()
    }

    fn own(&self) -> Vec<Inode> {
        Vec::new()
    }

    fn weakness(&self) -> Option<String> {
        self.0.weakness()
    }
}

fn watch(sockets: impl Sockets + 'static, step: &str, own_port: Option<u16>) -> Looks {
    let plan = Plan::from_setting(&parse_steps(step).unwrap()).unwrap();
    let (planned, quiet) = plan.quiets().next().unwrap();
    let (mailbox, mut messages) = mailbox::channel();
    tokio::spawn(async move { while messages.recv().await.is_some() {} });
    let sight = ConnectionView::new(Arc::new(sockets), own_port);
    let (looks, looking) = observe(sight, planned.clone(), quiet.clone(), mailbox);
    tokio::spawn(looking);
    looks
}

fn watch_port(port: u16) -> Looks {
    watch(FromOutside::default(), &format!("quiet :{port} for 100ms"), None)
}

/// What the next look sees.
async fn next(looks: &mut Looks) -> LastLook {
    let seen = timeout(PATIENCE, looks.next())
        .await
        .expect("no look within a minute");
    let seen = seen.expect("nobody looks any more");
    assert_eq!(seen.trouble, None);
    seen
}

/// It owes, and goes on owing: several looks agree.
async fn assert_owes(port: u16, how_many: usize, when: &str) {
    let mut looks = watch_port(port);
    for _ in 0..8 {
        let seen = next(&mut looks).await;
        assert_eq!(seen.picture.owing, how_many, "{when}: {seen:?}");
        assert!(!seen.is_quiet(), "{when}");
    }
}

/// It becomes quiet, with that many connections left.
async fn assert_becomes_quiet(port: u16, left: usize, when: &str) {
    let mut looks = watch_port(port);
    let end = Instant::now() + PATIENCE;
    loop {
        let seen = next(&mut looks).await;
        if seen.is_quiet() {
            assert_eq!(seen.picture.open, left, "{when}: {seen:?}");
            return;
        }
        assert!(Instant::now() < end, "{when}: {seen:?}");
    }
}

struct App {
    listener: TcpListener,
    port: u16,
}

impl App {
    fn at(address: &str) -> App {
        let listener = TcpListener::bind(address).unwrap();
        let port = listener.local_addr().unwrap().port();
        App { listener, port }
    }

    fn new() -> App {
        App::at("127.0.0.1:0")
    }

    fn client(&self) -> TcpStream {
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        client.set_nodelay(true).unwrap();
        client
    }

    fn accept(&self) -> TcpStream {
        let (accepted, _) = self.listener.accept().unwrap();
        accepted.set_nodelay(true).unwrap();
        accepted
    }
}

/// Sends a few bytes one way and waits until they are there.
fn send(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"some bytes").unwrap();
    to.read_exact(&mut [0; 10]).unwrap();
}

#[tokio::test]
async fn a_connection_that_was_never_used_owes_nothing() {
    let app = App::new();
    let _client = app.client();
    assert_becomes_quiet(app.port, 1, "not accepted").await;
    let _accepted = app.accept();
    assert_becomes_quiet(app.port, 1, "accepted").await;
}

#[tokio::test]
async fn an_app_that_nobody_has_ever_called_is_quiet() {
    let app = App::new();
    assert_becomes_quiet(app.port, 0, "no connection at all").await;
}

#[tokio::test]
async fn a_request_owes_from_its_first_byte_to_the_end_of_its_answer() {
    let app = App::new();
    let mut client = app.client();
    client.write_all(b"some bytes").unwrap();
    assert_owes(app.port, 1, "in the listener's queue").await;
    let mut accepted = app.accept();
    assert_owes(app.port, 1, "accepted and not read").await;
    accepted.read_exact(&mut [0; 10]).unwrap();
    assert_owes(app.port, 1, "worked on").await;
    send(&mut accepted, &mut client);
    assert_becomes_quiet(app.port, 1, "answered").await;
    client.write_all(b"some bytes").unwrap();
    accepted.read_exact(&mut [0; 10]).unwrap();
    assert_owes(app.port, 1, "the second request").await;
}

#[tokio::test]
async fn a_client_that_has_half_closed_is_owed_its_answer_and_one_that_hung_up_is_not() {
    let app = App::new();
    let mut client = app.client();
    client.write_all(b"some bytes").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_owes(app.port, 1, "half-closed, not accepted").await;
    let mut accepted = app.accept();
    accepted.read_exact(&mut [0; 10]).unwrap();
    assert_owes(app.port, 1, "half-closed, worked on").await;
    accepted.write_all(b"some bytes").unwrap();
    client.read_exact(&mut [0; 10]).unwrap();
    assert_becomes_quiet(app.port, 1, "answered, but not closed by the app").await;
}

#[tokio::test]
async fn a_connection_that_the_client_has_closed_without_a_request_owes_nothing() {
    let app = App::new();
    drop(app.client());
    assert_becomes_quiet(app.port, 1, "not accepted").await;
    let (mut client, mut accepted) = (app.client(), app.accept());
    drop(accepted.read(&mut [0; 10]));
    let mut accepted = app.accept();
    send(&mut client, &mut accepted);
    send(&mut accepted, &mut client);
    drop(client);
    assert_becomes_quiet(app.port, 2, "the app has not noticed the end").await;
}

#[tokio::test]
async fn an_answer_owes_until_a_slow_reader_has_it_even_where_the_app_has_closed() {
    let app = App::new();
    let mut client = app.client();
    let mut accepted = app.accept();
    send(&mut client, &mut accepted);
    accepted.set_nonblocking(true).unwrap();
    // As much as the buffers of both sides take.
    while accepted.write(&[7; 65_536]).is_ok() {}
    assert_owes(app.port, 1, "the client does not read").await;
    drop(accepted);
    assert_owes(app.port, 1, "and the app has closed").await;
    let reader = std::thread::spawn(move || client.read_to_end(&mut Vec::new()));
    assert_becomes_quiet(app.port, 0, "the client has read all").await;
    reader.join().unwrap().unwrap();
}

#[tokio::test]
async fn an_app_that_has_closed_its_side_owes_nothing_more() {
    let app = App::new();
    let (mut client, mut accepted) = (app.client(), app.accept());
    send(&mut client, &mut accepted);
    send(&mut accepted, &mut client);
    drop(accepted);
    assert_becomes_quiet(app.port, 0, "the client has not closed").await;
}

#[tokio::test]
async fn an_app_that_stops_listening_is_still_waited_for() {
    let App { listener, port } = App::new();
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    send(&mut client, &mut accepted);
    let mut looks = watch_port(port);
    assert_eq!(next(&mut looks).await.picture.owing, 1);
    drop(listener);
    for _ in 0..5 {
        let seen = next(&mut looks).await;
        assert!(seen.listens && seen.picture.owing == 1, "{seen:?}");
    }
    send(&mut accepted, &mut client);
    while !next(&mut looks).await.is_quiet() {}
}

#[tokio::test]
async fn a_request_on_the_heels_of_an_answer_owes_however_many_came_before() {
    for exchanges in [1, 2, 3, 5, 20] {
        for size in [10, 20_000] {
            let app = App::new();
            let mut pairs: Vec<_> = (0..20).map(|_| (app.client(), app.accept())).collect();
            let mut answer = vec![0; size];
            for (client, accepted) in &mut pairs {
                for _ in 0..exchanges {
                    send(client, accepted);
                    accepted.write_all(&answer).unwrap();
                    client.read_exact(&mut answer).unwrap();
                }
                send(client, accepted);
            }
            let when = format!("{exchanges} exchanges of {size} bytes");
            assert_owes(app.port, 20, &when).await;
            for (client, accepted) in &mut pairs {
                send(accepted, client);
            }
        }
    }
}

/// Writes so many bytes one way and waits until they are there.
fn send_bytes(from: &mut TcpStream, to: &mut TcpStream, bytes: usize) {
    from.write_all(&vec![7; bytes]).unwrap();
    to.read_exact(&mut vec![0; bytes]).unwrap();
}

#[tokio::test]
async fn the_session_tickets_of_tls_are_no_answer_to_the_request_that_came_with_the_handshakes_end() {
    let app = App::new();
    let (mut client, mut accepted) = (app.client(), app.accept());
    // As TLS 1.3 has it: ClientHello, certificate, Finished with the request behind it, tickets.
    send_bytes(&mut client, &mut accepted, 517);
    send_bytes(&mut accepted, &mut client, 1400);
    send_bytes(&mut client, &mut accepted, 80);
    send_bytes(&mut client, &mut accepted, 200);
    sleep(Duration::from_millis(15)).await;
    send_bytes(&mut accepted, &mut client, 510);
    sleep(Duration::from_millis(300)).await;
    let mut looks = watch_port(app.port);
    for _ in 0..8 {
        let seen = next(&mut looks).await;
        assert_eq!(seen.picture.owing, 1, "{seen:?}");
    }
    send_bytes(&mut accepted, &mut client, 300);
    while !next(&mut looks).await.is_quiet() {}
}

#[tokio::test]
async fn idle_connections_of_a_balancer_owe_nothing_however_fast_the_answers_were() {
    let ports: Vec<(App, Vec<_>)> = [(1, 10), (2, 10), (20, 10), (2, 20_000), (20, 200_000)]
        .into_iter()
        .map(|(exchanges, size)| {
            let app = App::new();
            let mut pairs: Vec<_> = (0..10).map(|_| (app.client(), app.accept())).collect();
            for (client, accepted) in &mut pairs {
                for _ in 0..exchanges {
                    send(client, accepted);
                    let mut other = accepted.try_clone().unwrap();
                    let writer = std::thread::spawn(move || other.write_all(&vec![0; size]));
                    client.read_exact(&mut vec![0; size]).unwrap();
                    writer.join().unwrap().unwrap();
                }
            }
            (app, pairs)
        })
        .collect();
    for (app, _) in &ports {
        assert_becomes_quiet(app.port, 10, "idle").await;
    }
}

#[tokio::test]
async fn both_families_count_and_so_do_clients_of_ipv4_at_a_socket_of_ipv6() {
    let Ok(listener) = TcpListener::bind("[::]:0") else {
        eprintln!("stepped aside: there is no IPv6 here");
        return;
    };
    let port = listener.local_addr().unwrap().port();
    let mut pairs = Vec::new();
    for address in ["127.0.0.1", "::1"] {
        let address: IpAddr = address.parse().unwrap();
        let mut client = TcpStream::connect((address, port)).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        send(&mut client, &mut accepted);
        pairs.push((client, accepted));
    }
    assert_owes(port, 2, "one of each").await;
}

#[tokio::test]
async fn the_sidecars_own_port_and_calls_never_count() {
    let app = App::new();
    let (mut client, mut accepted) = (app.client(), app.accept());
    send(&mut client, &mut accepted);
    // To the kernel itself this process is the sidecar: the client is its own call.
    let step = format!("quiet :{} for 100ms", app.port);
    let seen = next(&mut watch(Kernel::default(), &step, None)).await;
    assert_eq!((seen.listens, seen.picture.open), (true, 0), "{seen:?}");
    let seen = next(&mut watch(FromOutside::default(), &step, Some(app.port))).await;
    assert_eq!((seen.listens, seen.picture.open), (false, 0), "{seen:?}");
}

#[tokio::test]
async fn connections_from_inside_count_for_a_port_only() {
    let app = App::at("0.0.0.0:0");
    let (mut client, mut accepted) = (app.client(), app.accept());
    send(&mut client, &mut accepted);
    assert_owes(app.port, 1, "with a port").await;
    let seen = next(&mut watch(FromOutside::default(), "quiet", None)).await;
    let named: Vec<SocketAddr> = seen.picture.named.iter().map(|owed| owed.peer).collect();
    assert!(!named.contains(&client.local_addr().unwrap()), "{seen:?}");
}

/// One client's course, drawn from a seed: nothing of it depends on the machine but how long it takes.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Chance {
        Chance(seed.max(1))
    }

    /// Less than `n` (xorshift: no more is needed here).
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// From the last byte of a request to the first of its answer, by the clock of this process.
type Owed = (Instant, Instant);

/// A client and the app's end of its connection: some requests, then idle or gone.
async fn course(seed: u64, listener: Arc<Mutex<tokio::net::TcpListener>>) -> Vec<Owed> {
    let mut chance = Chance(seed);
    // One after the other, so that both ends are of one connection.
    let listener = listener.lock().await;
    let address = listener.local_addr().unwrap();
    let (client, accepted) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
    let (mut client, mut accepted) = (client.unwrap(), accepted.unwrap().0);
    drop(listener);
    client.set_nodelay(true).unwrap();
    accepted.set_nodelay(true).unwrap();
    let mut owed = Vec::new();
    for _ in 0..=chance.below(4) {
        sleep(Duration::from_millis([0, 0, 5, 70][chance.below(4) as usize])).await;
        client.write_all(b"some bytes").await.unwrap();
        let asked = Instant::now();
        // Sometimes it is not read for a while.
        sleep(Duration::from_millis([0, 0, 0, 130][chance.below(4) as usize])).await;
        accepted.read_exact(&mut [0; 10]).await.unwrap();
        sleep(Duration::from_millis([0, 1, 40, 300][chance.below(4) as usize])).await;
        let size = [10, 3000, 60_000][chance.below(3) as usize];
        owed.push((asked, Instant::now()));
        accepted.write_all(&vec![0; size]).await.unwrap();
        client.read_exact(&mut vec![0; size]).await.unwrap();
    }
    if chance.below(2) == 0 {
        drop(client);
        sleep(Duration::from_millis(chance.below(50))).await;
    } else {
        sleep(Duration::from_secs(1)).await;
    }
    owed
}

/// Plays until the step would end, and returns whom it forgot.
async fn random_play(seed: u64) -> Option<String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let listener = Arc::new(Mutex::new(listener));
    let clients = 1 + seed % 3;
    let courses: Vec<_> = (0..clients)
        .map(|n| {
            let seed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (n + 1);
            tokio::spawn(course(seed, Arc::clone(&listener)))
        })
        .collect();
    sleep(Duration::from_millis(seed % 97)).await;
    let mut looks = watch_port(port);
    let quiet = loop {
        let seen = next(&mut looks).await;
        if seen.is_quiet() {
            break seen;
        }
    };
    let told = Instant::now();
    for course in courses {
        for (asked, answered) in course.await.unwrap() {
            if asked < quiet.at && answered > told {
                return Some(format!(
                    "seed {seed}: {quiet:?}, asked {:?} before",
                    quiet.at - asked
                ));
            }
        }
    }
    None
}

#[tokio::test]
async fn over_two_thousand_plays_by_chance_it_is_never_early() {
    const PLAYS: u64 = 2100;
    const AT_ONCE: u64 = 350;
    for first in (1..=PLAYS).step_by(AT_ONCE as usize) {
        let plays: Vec<_> = (first..first + AT_ONCE)
            .map(|seed| tokio::spawn(random_play(seed)))
            .collect();
        for play in plays {
            assert_eq!(play.await.unwrap(), None);
        }
    }
}

/// A network namespace with a way to it from here.
pub(crate) struct Namespace {
    pub(crate) name: String,
    pub(crate) inside: Ipv4Addr,
    /// This side of the way.
    pub(crate) outside: Ipv4Addr,
}

impl Namespace {
    /// `None` where this user may not make one.
    pub(crate) fn new() -> Option<Namespace> {
        Namespace::numbered(0)
    }

    /// The same of several in one test, fewer than four.
    fn numbered(number: u32) -> Option<Namespace> {
        let id = std::process::id() << 2 | number;
        let (name, here, there) = (format!("quiet{id}"), format!("qh{id}"), format!("qt{id}"));
        let [high, low] = [(id >> 6) as u8, (id << 2) as u8];
        let (outside, inside) = (
            Ipv4Addr::new(10, 231, high, low + 1),
            Ipv4Addr::new(10, 231, high, low + 2),
        );
        let namespace = Namespace {
            name,
            inside,
            outside,
        };
        let name = &namespace.name;
        for command in [
            format!("ip netns add {name}"),
            format!("ip link add {here} type veth peer name {there} netns {name}"),
            format!("ip addr add {outside}/30 dev {here}"),
            format!("ip link set {here} up"),
            format!("ip -n {name} addr add {inside}/30 dev {there}"),
            format!("ip -n {name} link set {there} up"),
            format!("ip -n {name} link set lo up"),
        ] {
            let mut words = command.split(' ');
            let status = Command::new(words.next()?)
                .args(words)
                .stderr(Stdio::null())
                .status();
            if !status.is_ok_and(|status| status.success()) {
                eprintln!("stepped aside: `{command}` is not possible here");
                return None;
            }
        }
        Some(namespace)
    }

    fn listen(&self) -> TcpListener {
        self.within(|| TcpListener::bind("0.0.0.0:0").unwrap())
    }

    /// Does that in the namespace: what it opens stays there.
    fn within<T: Send + 'static>(&self, what: impl FnOnce() -> T + Send + 'static) -> T {
        let path = format!("/run/netns/{}", self.name);
        let thread = std::thread::spawn(move || {
            let file = std::fs::File::open(path).unwrap();
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            what()
        });
        thread.join().unwrap()
    }

    /// What the sidecar's endpoint answers.
    fn get(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        self.within(move || {
            let mut answer = String::new();
            let mut stream = TcpStream::connect("127.0.0.1:9911").unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream.read_to_string(&mut answer).unwrap();
            answer
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// The real sidecar in a namespace, with its log.
pub(crate) struct Inside {
    process: Process,
    lines: Receiver<String>,
    told: Vec<String>,
}

impl Inside {
    /// Starts it in the namespace, behind the words of `wrapper`, which run it.
    pub(crate) fn start(namespace: &Namespace, wrapper: &[&str], variables: &[(&str, &str)]) -> Inside {
        let here = ["ip", "netns", "exec", &namespace.name];
        Inside::behind(&[&here, wrapper].concat(), variables)
    }

    fn behind(words: &[&str], variables: &[(&str, &str)]) -> Inside {
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .arg(binary().get_program())
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("PRESTOP_WATCH", "none")
            .envs(variables.iter().copied())
            .stdout(Stdio::piped());
        let mut process = Process::start(&mut command);
        if !words.contains(&"unshare") {
            process.await_handlers();
        }
        let lines = process.lines();
        Inside {
            process,
            lines,
            told: Vec::new(),
        }
    }

    /// Signals the sidecar where a wrapper waits for it as its child.
    fn signal_child(&self, signal: Signal) {
        let id = self.process.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        let child = children.trim().parse().ok().and_then(Pid::from_raw).unwrap();
        kill_process(child, signal).unwrap();
    }

    /// Waits until its log has that, and returns all of it so far.
    pub(crate) fn await_line(&mut self, what: &str) -> String {
        await_that(what, || {
            self.told.extend(self.lines.try_iter());
            self.told.iter().any(|line| line.contains(what))
        });
        self.told.join("\n")
    }

    /// It does not end while somebody is owed an answer: for longer than the silence that it waits for.
    fn assert_waits(&mut self) {
        let ended = self
            .process
            .wait_until(Instant::now() + Duration::from_millis(1500));
        assert!(ended.is_none(), "it is owed an answer");
    }
}

#[test]
fn with_no_setting_the_real_sidecar_waits_for_a_client_from_outside_and_says_what_it_saw() {
    let Some(namespace) = Namespace::new() else { return };
    let listener = namespace.listen();
    let port = listener.local_addr().unwrap().port();
    let mut sidecar = Inside::start(&namespace, &[], &[]);
    let mut client = TcpStream::connect((namespace.inside, port)).unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    send(&mut client, &mut accepted);
    sidecar.process.signal(Signal::TERM);
    sidecar.await_line("\"event\":\"step.call\"");
    sidecar.assert_waits();
    send(&mut accepted, &mut client);
    let told = sidecar.await_line("\"event\":\"exit\"");
    assert_eq!(sidecar.process.wait(), Some(0), "{told}");
    let peer = client.local_addr().unwrap();
    assert!(told.contains(&format!("\"peer\":\"{peer}\"")), "{told}");
    assert!(told.contains("1 were at the notice"), "{told}");
    assert!(told.contains("1 idle connections are left"), "{told}");
}

/// Forbids `socket(AF_NETLINK, …)` to the program that it becomes, as a strict seccomp profile does.
pub(crate) const NO_NETLINK: &str = r#"
import ctypes, os, platform, struct, sys
EPERM, AF_NETLINK = 1, 16
SOCKET = {"x86_64": 41, "aarch64": 198}[platform.machine()]
PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS = 22, 2, 38
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
REFUSE, ALLOW = 0x00050000 | EPERM, 0x7FFF0000
program = b"".join(struct.pack("HBBI", *line) for line in [
    (LOAD, 0, 0, 0),
    (JUMP_IF_EQUAL, 0, 3, SOCKET),
    (LOAD, 0, 0, 16),
    (JUMP_IF_EQUAL, 0, 1, AF_NETLINK),
    (RETURN, 0, 0, REFUSE),
    (RETURN, 0, 0, ALLOW),
])
code = ctypes.create_string_buffer(program, len(program))
filter = ctypes.create_string_buffer(struct.pack("HP", len(program) // 8, ctypes.addressof(code)))
prctl = ctypes.CDLL(None, use_errno=True).prctl
for arguments in [(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(filter), 0, 0)]:
    if prctl(*map(ctypes.c_ulong, arguments)):
        sys.exit(os.strerror(ctypes.get_errno()))
os.execv(sys.argv[1], sys.argv[1:])
"#;

#[test]
fn where_sock_diag_is_refused_a_request_is_waited_for_and_so_is_whoever_has_not_hung_up() {
    let Some(namespace) = Namespace::new() else { return };
    if !is_here("python3", &["python3", "--version"]) {
        return;
    }
    let listener = namespace.listen();
    let port = listener.local_addr().unwrap().port();
    let mut sidecar = Inside::start(&namespace, &["python3", "-c", NO_NETLINK], &[]);
    let weakness = "every open connection counts as owing";
    let told = sidecar.await_line(weakness);
    assert!(told.contains("Operation not permitted"), "{told}");
    let mut client = TcpStream::connect((namespace.inside, port)).unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    send(&mut client, &mut accepted);
    sidecar.process.signal(Signal::TERM);
    let told = sidecar.await_line("\"event\":\"step.call\"");
    assert!(told.contains(&client.local_addr().unwrap().to_string()), "{told}");
    sidecar.assert_waits();
    send(&mut accepted, &mut client);
    // Whether it is answered is not to be seen.
    sidecar.assert_waits();
    drop((client, accepted));
    let told = sidecar.await_line("\"event\":\"exit\"");
    assert_eq!(sidecar.process.wait(), Some(0), "{told}");
    assert_eq!(told.matches(weakness).count(), 1, "once: {told}");
    assert!(told.contains("0 idle connections are left"), "{told}");
}

#[test]
fn status_and_metrics_say_how_many_connections_owe_and_to_whom_before_any_notice() {
    let Some(namespace) = Namespace::new() else { return };
    let listener = namespace.listen();
    let port = listener.local_addr().unwrap().port();
    let mut sidecar = Inside::start(&namespace, &[], &[]);
    sidecar.await_line("\"event\":\"start\"");
    let mut idle = TcpStream::connect((namespace.inside, port)).unwrap();
    let (mut accepted_idle, _) = listener.accept().unwrap();
    send(&mut idle, &mut accepted_idle);
    send(&mut accepted_idle, &mut idle);
    let mut client = TcpStream::connect((namespace.inside, port)).unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    send(&mut client, &mut accepted);
    let connections = |answer: &str| {
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        serde_json::from_str::<serde_json::Value>(body).unwrap()["connections"].take()
    };
    // A picture is up to a second old.
    await_that("one of two connections owes", || {
        let seen = connections(&namespace.get("/status"));
        (&seen["open"], &seen["owing"]) == (&json!(2), &json!(1))
            && seen["owed"][0]["peer"] == json!(client.local_addr().unwrap())
    });
    let metrics = namespace.get("/metrics");
    for line in ["prestop_connections 2.0", "prestop_connections_owing 1.0"] {
        assert!(metrics.lines().any(|told| told == line), "{line}: {metrics}");
    }
    send(&mut accepted, &mut client);
    await_that("nobody is owed an answer", || {
        connections(&namespace.get("/status"))["owing"] == json!(0)
    });
    let metrics = namespace.get("/metrics");
    assert!(
        metrics
            .lines()
            .any(|told| told == "prestop_connections_owing 0.0"),
        "{metrics}"
    );
    drop(sidecar);
}

/// An app that is quieted by SIGTSTP and goes on, as Sidekiq does, and the sidecar, which gets its SIGTERM once it
/// handles that.
const QUIETED: &str = r#"
sh -c 'trap "echo quieted" TSTP; echo ready; while :; do sleep 0.05; done' & app=$!
until grep -Eq 'SigCgt:.*[8-9a-f][0-9a-f]{4}$' /proc/$app/status; do sleep 0.02; done
"$1" & sidecar=$!
until grep -Eq 'SigCgt:.*[4-7c-f][0-9a-f]{3}$' /proc/$sidecar/status; do sleep 0.02; done
kill -TERM $sidecar
wait $sidecar
echo "the sidecar ended with $?"
kill -0 $app && echo "the app runs on"
wait $app
"#;

#[test]
fn a_signal_that_is_not_waited_for_reaches_the_app_which_runs_on() {
    let words = [
        "unshare",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-c",
        QUIETED,
        "sh",
    ];
    let drain = [
        ("PRESTOP_DRAIN", "signal TSTP app nowait"),
        ("PRESTOP_LISTEN", "off"),
    ];
    let probe = [&words[..5], &["true"]].concat();
    if !is_here("the right to make PID namespaces", &probe) {
        return;
    }
    let mut all = Inside::behind(&words, &drain);
    all.await_line("the app runs on");
    let told = all.await_line("quieted");
    assert!(told.contains("the sidecar ended with 0"), "{told}");
    assert!(told.contains("(sh) has got it"), "{told}");
}

/// The processes of a task under `pidMode: task`: one in the app's network namespace, and the sidecar in this one.
const BRIDGED: &str = r#"
ip netns exec "$1" sleep 600 &
until grep -q sleep /proc/$!/comm; do sleep 0.01; done
exec "$2"
"#;

/// What ECS tells of a task under bridge networking, by that listener, until the test ends.
fn tell_bridged_task(app: IpAddr, listener: TcpListener) {
    let definition = json!({
        "family": "web", "networkMode": "bridge", "pidMode": "task",
        "containerDefinitions": [{"name": "app"}, {"name": "prestop"}]
    });
    let stand_in = StandIn::new(Definition::from_value(&definition).unwrap());
    stand_in.container_at("app", app);
    stand_in.container_at("prestop", "172.17.0.2".parse().unwrap());
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            stand_in.serve(listener).await
        })
    });
}

#[test]
fn under_bridge_networking_the_real_sidecar_sees_the_app_by_its_processes_and_waits_until_clients_hung_up() {
    let (Some(own), Some(namespace)) = (Namespace::numbered(1), Namespace::numbered(2)) else {
        return;
    };
    let listener = namespace.listen();
    let port = listener.local_addr().unwrap().port();
    let metadata = own.listen();
    let uri = format!(
        "http://127.0.0.1:{}/v4/prestop",
        metadata.local_addr().unwrap().port()
    );
    tell_bridged_task(namespace.inside.into(), metadata);
    let variables = [
        ("ECS_CONTAINER_METADATA_URI_V4", uri.as_str()),
        ("PRESTOP_SETTLE", "0"),
        ("PRESTOP_LISTEN", "off"),
    ];
    // Without pidMode: no process but its own.
    let netns = ["ip", "netns", "exec", &own.name];
    let pidns = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let apart = [&netns[..], &pidns].concat();
    let mut refused = Inside::behind(&apart, &variables);
    let told = refused.await_line("pidMode");
    assert_eq!(refused.process.wait(), Some(78), "{told}");
    let together = [&apart[..], &["sh", "-c", BRIDGED, "sh", &namespace.name]].concat();
    let mut sidecar = Inside::behind(&together, &variables);
    sidecar.await_line("every open connection counts as owing");
    let mut client = TcpStream::connect((namespace.inside, port)).unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    send(&mut client, &mut accepted);
    sidecar.signal_child(Signal::TERM);
    let told = sidecar.await_line("\"event\":\"step.call\"");
    assert!(told.contains(&client.local_addr().unwrap().to_string()), "{told}");
    sidecar.assert_waits();
    send(&mut accepted, &mut client);
    drop((client, accepted));
    let told = sidecar.await_line("\"event\":\"exit\"");
    assert_eq!(sidecar.process.wait(), Some(0), "{told}");
    assert!(told.contains("1 were at the notice"), "{told}");
}
