//! Real containers on a real engine: the image, the compose files, signals across containers.
//!
//! Needs a Docker Engine, docker-compose and the image `ecs-prestop:dev`, which `tests/run` builds.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use jiff::Timestamp;
use serde_json::Value;

use crate::process::{Process, await_that, binary, free_address, is_here, request};
use crate::quiet_sockets::Chance;

const IMAGE: &str = "ecs-prestop:dev";
const HARDENED: [&str; 7] = [
    "--read-only",
    "--cap-drop",
    "ALL",
    "--security-opt",
    "no-new-privileges",
    "--memory",
    "6m",
];

fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "docker {arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text.trim().to_owned()
}

/// Whether an engine answers, and has the image.
fn engine() -> bool {
    let image = ["docker", "image", "inspect", IMAGE];
    is_here("a Docker Engine with the image of docker/build", &image)
        && is_here("docker-compose", &["docker-compose", "version"])
}

/// A container that is removed when the test ends.
struct Container(String);

impl Container {
    fn run(arguments: &[&str]) -> Container {
        Container(docker(&[&["run", "--detach"], arguments].concat()))
    }

    fn inspect(&self) -> Value {
        let text = docker(&["inspect", &self.0]);
        serde_json::from_str::<Value>(&text).unwrap()[0].take()
    }

    fn exit_code(&self) -> i64 {
        docker(&["wait", &self.0]).parse().unwrap()
    }

    /// Standard output and standard error.
    fn logs(&self) -> String {
        let output = Command::new("docker").args(["logs", &self.0]).output().unwrap();
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }

    fn await_log(&self, part: &str) {
        await_that(&format!("the log has `{part}`"), || self.logs().contains(part));
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new("docker")
            .args(["rm", "--force", "--volumes", &self.0])
            .output();
    }
}

#[test]
fn the_image_is_small_without_root_and_without_a_shell() {
    if !engine() {
        return;
    }
    let image: Value = serde_json::from_str(&docker(&["image", "inspect", IMAGE])).unwrap();
    let config = &image[0]["Config"];
    assert!(
        image[0]["Size"].as_u64().unwrap() <= 8_000_000,
        "{}",
        image[0]["Size"]
    );
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["StopSignal"], "SIGTERM");
    assert_eq!(config["Healthcheck"]["Test"][1], "/ecs-prestop");
    assert_eq!(
        config["Labels"]["org.opencontainers.image.licenses"],
        "Apache-2.0"
    );
    let container = Container(docker(&["create", IMAGE]));
    let listing = Command::new("sh")
        .args(["-c", &format!("docker export {} | tar -t", container.0)])
        .output()
        .unwrap();
    let files = String::from_utf8(listing.stdout).unwrap();
    let own: Vec<&str> = files
        .lines()
        .filter(|file| !file.ends_with('/') && !from_docker(file))
        .collect();
    assert_eq!(own, ["ecs-prestop"], "nothing but the binary");
}

/// What Docker itself puts into every container.
fn from_docker(file: &str) -> bool {
    [".dockerenv", "dev/", "etc/", "proc/", "sys/"]
        .iter()
        .any(|part| file.starts_with(part))
}

#[test]
fn a_hardened_container_becomes_healthy_and_drains_on_a_spot_notice_in_6_mb() {
    if !engine() {
        return;
    }
    let network = format!("ecs-prestop-test-{}", std::process::id());
    docker(&["network", "create", &network]);
    let _network = Network(network.clone());
    let on = ["--network", network.as_str(), "--network-alias"];
    let ecs = Container::run(
        &[
            &on[..],
            &[
                "ecs",
                "--no-healthcheck",
                IMAGE,
                "simulate",
                "--listen",
                "0.0.0.0:51678",
            ],
        ]
        .concat(),
    );
    let app = Container::run(
        &[
            &on[..],
            &[
                "app",
                "--no-healthcheck",
                IMAGE,
                "sample",
                "--listen",
                "0.0.0.0:8080",
            ],
        ]
        .concat(),
    );
    let settings = [
        "--health-interval=1s",
        "--env=PRESTOP_DRAIN=POST http://app.:8080/drain",
        "--env=ECS_CONTAINER_METADATA_URI_V4=http://ecs:51678/v4/prestop",
        "--env=AWS_EC2_METADATA_SERVICE_ENDPOINT=http://ecs:51678",
    ];
    let prestop = Container::run(&[&on[..], &["prestop"], &HARDENED[..], &settings[..], &[IMAGE]].concat());
    await_that("it is healthy", || {
        prestop.inspect()["State"]["Health"]["Status"] == "healthy"
    });

    let address = ecs.inspect()["NetworkSettings"]["Networks"][&network]["IPAddress"].clone();
    let address = format!("{}:51678", address.as_str().unwrap()).parse().unwrap();
    let notice =
        "POST /_simulate/spot?action=terminate&in=120s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(request(address, notice).0, 200);
    prestop.await_log("\"waiting_for_sigterm\":true");
    app.await_log("told to drain");
    println!(
        "peak of the container's cgroup: {} bytes",
        peak(&prestop.inspect()["Id"])
    );
    docker(&["stop", &prestop.0]);
    assert_eq!(prestop.exit_code(), 0, "{}", prestop.logs());
    assert_eq!(prestop.inspect()["State"]["OOMKilled"], false);
}

/// TLS with a certificate authority of one's own, from the image without files, in the least memory that
/// Docker gives.
#[test]
fn aws_is_asked_over_tls_in_6_mb() {
    if !engine() {
        return;
    }
    let app = Container::run(&["--no-healthcheck", IMAGE, "sample", "--listen", "0.0.0.0:8080"]);
    let gateway = app.inspect()["NetworkSettings"]["Gateway"]
        .as_str()
        .unwrap()
        .to_owned();
    let inside = |container: &Container, port: u16| {
        let address = container.inspect()["NetworkSettings"]["IPAddress"].clone();
        format!("{}:{port}", address.as_str().unwrap())
    };
    // On the host: the image's plays no APIs of AWS.
    let stand_in = format!("{gateway}:{}", free_address().port());
    let _ecs = Process::start(binary().args(["simulate", "--listen", &stand_in]));
    await_that("the stand-in listens", || TcpStream::connect(&stand_in).is_ok());
    let (port, authority) = tls::relay(&gateway, stand_in.parse().unwrap());
    let bundle = std::env::temp_dir().join(format!("ecs-prestop-ca-{}.pem", std::process::id()));
    std::fs::write(&bundle, authority).unwrap();
    let settings = [
        format!("--env=PRESTOP_DRAIN=POST http://{}/drain", inside(&app, 8080)),
        "--env=PRESTOP_DRAIN_INSTANCE=true".to_owned(),
        "--env=PRESTOP_STOP_TIMEOUT=20s".to_owned(),
        format!("--env=ECS_CONTAINER_METADATA_URI_V4=http://{stand_in}/v4/prestop"),
        format!("--env=AWS_EC2_METADATA_SERVICE_ENDPOINT=http://{stand_in}"),
        format!("--env=AWS_ENDPOINT_URL=https://{gateway}:{port}"),
        "--env=AWS_CA_BUNDLE=/ca.pem".to_owned(),
        "--env=AWS_ACCESS_KEY_ID=none".to_owned(),
        "--env=AWS_SECRET_ACCESS_KEY=none".to_owned(),
        format!("--volume={}:/ca.pem:ro", bundle.display()),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let prestop = Container::run(&[&HARDENED[..], &settings[..], &[IMAGE]].concat());
    prestop.await_log("container instance to drain at a Spot notice");
    let notice =
        "POST /_simulate/spot?action=terminate&in=120s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(request(stand_in.parse().unwrap(), notice).0, 200);
    prestop.await_log("the container instance is set to DRAINING");
    println!(
        "peak of the container's cgroup with TLS: {} bytes",
        peak(&prestop.inspect()["Id"])
    );
    docker(&["stop", "--time", "20", &prestop.0]);
    assert_eq!(prestop.inspect()["State"]["OOMKilled"], false);
    let _ = std::fs::remove_file(bundle);
}

/// Ends TLS on the host, for a stand-in that speaks none.
mod tls {
    use std::net::{IpAddr, SocketAddr};
    use std::sync::Arc;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use tokio::io::copy_bidirectional;
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::crypto::ring::default_provider;
    use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

    /// Its port, and the certificate of its authority as PEM.
    pub(super) fn relay(host: &str, to: SocketAddr) -> (u16, String) {
        let host: IpAddr = host.parse().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate().unwrap();
        let pem = authority.self_signed(&authority_key).unwrap().pem();
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_string()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (tell, port) = std::sync::mpsc::channel();
        // Ends with the test's process.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind((host, 0)).await.unwrap();
                tell.send(listener.local_addr().unwrap().port()).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let acceptor = acceptor.clone();
                    tokio::spawn(async move {
                        let mut inner = acceptor.accept(stream).await?;
                        let mut outer = TcpStream::connect(to).await?;
                        copy_bidirectional(&mut inner, &mut outer).await
                    });
                }
            });
        });
        (port.recv().unwrap(), pem)
    }
}

/// By cgroup v1 or v2, where the driver puts it.
fn peak(id: &Value) -> String {
    let id = id.as_str().unwrap();
    let places = [
        format!("/sys/fs/cgroup/memory/docker/{id}/memory.max_usage_in_bytes"),
        format!("/sys/fs/cgroup/docker/{id}/memory.peak"),
        format!("/sys/fs/cgroup/system.slice/docker-{id}.scope/memory.peak"),
    ];
    let found = places
        .iter()
        .find_map(|place| std::fs::read_to_string(place).ok());
    found.map_or_else(|| "unknown".to_owned(), |peak| peak.trim().to_owned())
}

struct Network(String);

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["network", "rm", &self.0]).output();
    }
}

#[test]
fn docker_stop_with_a_hung_app_is_over_before_sigkill() {
    if !engine() {
        return;
    }
    let app = Container::run(&[
        "--no-healthcheck",
        IMAGE,
        "sample",
        "--kind",
        "hung",
        "--listen",
        "0.0.0.0:8080",
    ]);
    app.await_log("serves on");
    let shared = format!("--network=container:{}", app.0);
    let settings = [
        "--env=PRESTOP_DRAIN=http://127.0.0.1:8080/drain",
        "--env=PRESTOP_STOP_TIMEOUT=3s",
    ];
    let prestop = Container::run(&[&[shared.as_str()], &settings[..], &[IMAGE]].concat());
    prestop.await_log("\"event\":\"start\"");
    docker(&["stop", "--time", "3", &prestop.0]);
    assert_eq!(prestop.exit_code(), 3, "137 would be SIGKILL: {}", prestop.logs());
    assert!(
        prestop
            .logs()
            .lines()
            .last()
            .unwrap()
            .contains("\"event\":\"exit\"")
    );
}

/// A running compose project under load.
struct Compose {
    files: Vec<String>,
    project: String,
    app: std::net::SocketAddr,
    prestop: std::net::SocketAddr,
    ecs: std::net::SocketAddr,
}

impl Compose {
    fn up(name: &str, files: &[&str]) -> Compose {
        let compose = Compose::of(name, files);
        compose.command(&["up", "-d"]);
        compose.container("prestop").await_log("\"event\":\"start\"");
        compose
    }

    /// Nothing of it runs yet.
    fn of(name: &str, files: &[&str]) -> Compose {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/docker/");
        Compose {
            files: files.iter().map(|file| format!("{folder}{file}")).collect(),
            project: format!("ecs-prestop-{name}-{}", std::process::id()),
            app: free_address(),
            prestop: free_address(),
            ecs: free_address(),
        }
    }

    fn command(&self, arguments: &[&str]) -> String {
        let files = self.files.iter().flat_map(|file| ["-f", file.as_str()]);
        let output = Command::new("docker-compose")
            .args(files)
            .args(["-p", &self.project])
            .args(arguments)
            .env("APP_PORT", self.app.port().to_string())
            .env("PRESTOP_PORT", self.prestop.port().to_string())
            .env("ECS_PORT", self.ecs.port().to_string())
            .env("PRESTOP_SETTLE", "1s")
            .output()
            .unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "docker-compose {arguments:?}: {complaints}"
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Not one that is removed at the end: `down` does that.
    fn container(&self, service: &str) -> std::mem::ManuallyDrop<Container> {
        std::mem::ManuallyDrop::new(Container(self.command(&["ps", "-q", service])))
    }

    /// `docker-compose stop`; then who ended when, and with which code.
    fn stop(&self) -> [(Timestamp, i64); 2] {
        self.command(&["stop"]);
        ["prestop", "app"].map(|service| {
            let state = self.container(service).inspect()["State"].take();
            let end = state["FinishedAt"].as_str().unwrap().parse().unwrap();
            (end, state["ExitCode"].as_i64().unwrap())
        })
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        self.command(&["down", "--volumes", "--timeout", "1"]);
    }
}

/// Clients behind a load balancer that looks at the sidecar's /ready.
struct Load {
    lost: Arc<AtomicU32>,
    answered: Arc<AtomicU32>,
    over: Arc<AtomicBool>,
    clients: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(app: std::net::SocketAddr, prestop: std::net::SocketAddr) -> Load {
        let (lost, answered, over) = (
            Arc::<AtomicU32>::default(),
            Arc::<AtomicU32>::default(),
            Arc::<AtomicBool>::default(),
        );
        let clients = (0..4).map(|client| {
            let (lost, answered, over) = (lost.clone(), answered.clone(), over.clone());
            std::thread::spawn(move || {
                let ask = |address, path: &str| {
                    request(
                        address,
                        &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
                    )
                    .0
                };
                while !over.load(Ordering::Relaxed) && ask(prestop, "/ready") == 200 {
                    let path = if client == 0 { "/" } else { "/slow/1500ms" };
                    let count = if ask(app, path) == 200 { &answered } else { &lost };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let clients = clients.collect();
        Load {
            lost,
            answered,
            over,
            clients,
        }
    }

    fn answered(&self) -> u32 {
        self.answered.load(Ordering::Relaxed)
    }

    /// The requests that were answered and lost.
    fn end(self) -> (u32, u32) {
        self.over.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().unwrap();
        }
        (
            self.answered.load(Ordering::Relaxed),
            self.lost.load(Ordering::Relaxed),
        )
    }
}

fn a_stop_under_load_loses_nothing(name: &str, files: &[&str], told: &str) {
    let compose = Compose::up(name, files);
    await_that("the app serves", || {
        TcpStream::connect(compose.app).is_ok() && request(compose.app, "GET / HTTP/1.0\r\n\r\n").0 == 200
    });
    let load = Load::start(compose.app, compose.prestop);
    // By then the slow ones are in flight, too.
    await_that("the clients have had answers", || load.answered() >= 20);
    let [prestop, app] = compose.stop();
    let (answered, lost) = load.end();
    let logs = compose.container("app").logs() + &compose.container("prestop").logs();
    assert_eq!((prestop.1, app.1), (0, 0), "exit codes: {logs}");
    // An app that ends by a signal of the sidecar ends before it, which its exit code 0 says; then the
    // two times are those of two processes that end at once.
    let by_signal = told.contains("SIGQUIT");
    assert!(
        by_signal || prestop.0 <= app.0,
        "the sidecar ended at {}, the app at {}",
        prestop.0,
        app.0
    );
    assert!(logs.contains(told), "{logs}");
    assert!(
        answered > 0 && lost == 0,
        "{answered} answered, {lost} lost: {logs}"
    );
}

#[test]
fn compose_with_own_addresses_stops_in_ecs_order_and_loses_nothing() {
    if !engine() {
        return;
    }
    a_stop_under_load_loses_nothing("bridge", &["compose.yaml"], "told to drain");
}

#[test]
fn compose_with_one_network_namespace_stops_in_ecs_order_and_loses_nothing() {
    if !engine() {
        return;
    }
    // Its own clients have requests of three seconds in flight, too.
    a_stop_under_load_loses_nothing("awsvpc", &["compose.awsvpc.yaml"], "nobody is owed an answer");
}

/// A file beside this one, from the folder of the compose files.
const PLAIN: &str = "../tests/promises/compose.plain.yaml";

/// Clients of a server that takes as long as it is told: from 5 ms to 5 s.
const CLIENTS: u64 = 24;

/// Clients that go on until they lose a request, or are told: when each answer was there, and how many were lost.
fn ask_until(
    told: &Arc<AtomicBool>,
    app: std::net::SocketAddr,
) -> std::thread::JoinHandle<(Vec<Timestamp>, usize)> {
    let clients: Vec<_> = (1..=CLIENTS)
        .map(|client| {
            let told = Arc::clone(told);
            std::thread::spawn(move || {
                let mut chance = Chance::new(client.wrapping_mul(0x9E37_79B9_7F4A_7C15));
                let mut answers = Vec::new();
                while !told.load(Ordering::Relaxed) {
                    let work = [5, 20, 100, 500, 2000, 5000][chance.below(6) as usize];
                    let asked = format!("GET /{work} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n");
                    let (status, answer) = request(app, &asked);
                    if status != 200 || !answer.ends_with("done") {
                        return (answers, 1);
                    }
                    answers.push(Timestamp::now());
                }
                (answers, 0)
            })
        })
        .collect();
    std::thread::spawn(move || {
        let all = clients.into_iter().map(|client| client.join().unwrap());
        all.fold((Vec::new(), 0), |(mut answers, lost), (more, one)| {
            answers.extend(more);
            (answers, lost + one)
        })
    })
}

/// Stops the plain server under load: when each answer was there, how many of the requests under way were lost, and
/// what the sidecar said.
fn stop_plain_server(name: &str, services: &[&str]) -> (Vec<Timestamp>, usize, String) {
    let compose = Compose::of(name, &[PLAIN]);
    compose.command(&[&["up", "-d"], services].concat());
    let has_sidecar = services.contains(&"prestop");
    let stopped: &[&str] = if has_sidecar {
        &["app", "prestop"]
    } else {
        &["app"]
    };
    await_that("the app serves", || {
        TcpStream::connect(compose.app).is_ok()
            && request(
                compose.app,
                "GET /0 HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n",
            )
            .0 == 200
    });
    let told = Arc::<AtomicBool>::default();
    let clients = ask_until(&told, compose.app);
    // By then the longest are in flight, too.
    std::thread::sleep(std::time::Duration::from_secs(6));
    let log = std::thread::scope(|scope| {
        let stopping = scope.spawn(|| compose.command(&[&["stop"], stopped].concat()));
        if has_sidecar {
            compose.container("prestop").await_log("\"event\":\"notice\"");
            // The balancer looks away a while after the notice.
            std::thread::sleep(std::time::Duration::from_millis(300));
            told.store(true, Ordering::Relaxed);
        }
        stopping.join().unwrap();
        told.store(true, Ordering::Relaxed);
        has_sidecar.then(|| compose.container("prestop").logs())
    });
    let (answers, lost) = clients.join().unwrap();
    (answers, lost, log.unwrap_or_default())
}

#[test]
fn a_plain_server_behind_a_proxy_loses_nothing_with_the_sidecar_and_no_setting_and_loses_without_it() {
    if !engine()
        || !is_here(
            "the images of tests/images",
            &["docker", "image", "inspect", NGINX],
        )
    {
        return;
    }
    let (answers, lost_without, _) = stop_plain_server("alone", &["app", "proxy"]);
    println!(
        "without the sidecar: {} answered, {lost_without} lost",
        answers.len()
    );
    let (answers, lost, log) = stop_plain_server("plain", &["app", "prestop", "proxy"]);
    let exit: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(
        (exit["event"].as_str(), exit["code"].as_i64()),
        (Some("exit"), Some(0)),
        "{log}"
    );
    let ended: Timestamp = exit["timestamp"].as_str().unwrap().parse().unwrap();
    let last = *answers.iter().max().unwrap();
    let after = ended.duration_since(last).as_millis();
    println!(
        "with it: {} answered, {lost} lost; it ended {after} ms after the last answer",
        answers.len()
    );
    assert_eq!(lost, 0, "{log}");
    assert!(after > 0, "it ended {after} ms after the last answer: {log}");
    assert!(
        lost_without > 0,
        "nothing is lost without it, so nothing is shown"
    );
}

#[test]
fn compose_with_one_pid_namespace_stops_in_ecs_order_and_loses_nothing() {
    if !engine() {
        return;
    }
    a_stop_under_load_loses_nothing(
        "signal",
        &["compose.yaml", "compose.signal.yaml"],
        "SIGQUIT: takes no more requests",
    );
}

#[test]
fn compose_with_a_worker_lets_it_finish_its_job() {
    if !engine() {
        return;
    }
    let compose = Compose::up("worker", &["compose.yaml", "compose.worker.yaml"]);
    compose.container("app").await_log("job 1 begins");
    let [prestop, app] = compose.stop();
    let logs = compose.container("app").logs();
    assert_eq!((prestop.1, app.1), (0, 0), "{logs}");
    assert!(prestop.0 <= app.0);
    assert!(
        logs.contains("POST /drained: 204") && logs.contains("no jobs cut off"),
        "{logs}"
    );
}

#[test]
fn a_spot_notice_is_one_request_to_the_stand_in() {
    if !engine() {
        return;
    }
    let compose = Compose::up("spot", &["compose.yaml"]);
    let url = format!("http://{}/_simulate/spot?action=terminate&in=120s", compose.ecs);
    let output = Command::new("curl")
        .args(["-sf", "-X", "POST", &url])
        .output()
        .unwrap();
    assert!(output.status.success());
    let prestop = compose.container("prestop");
    prestop.await_log("spot-interruption");
    prestop.await_log("\"waiting_for_sigterm\":true");
    assert_eq!(compose.stop().map(|(_, code)| code), [0, 0]);
}

/// An image of Debian's nginx and dash, from its packages and nothing else; built by `tests/images`.
const NGINX: &str = "ecs-prestop-test-nginx:dev";

/// A task of real containers with one PID namespace, as with `"pidMode": "task"`: it belongs to the
/// stand-in, which takes the place of the agent's pause container and knows the app's real id.
struct Task {
    ecs: Container,
    app: Container,
}

impl Task {
    fn start(arguments: &[&str]) -> Task {
        let ecs = Container::run(&["--no-healthcheck", IMAGE, "simulate", "--listen", "0.0.0.0:8080"]);
        let pid = format!("--pid=container:{}", ecs.0);
        let app = Container::run(&[&[pid.as_str()], arguments].concat());
        await_that("nginx serves", || TcpStream::connect(address_of(&app)).is_ok());
        let id = app.inspect()["Id"].as_str().unwrap().to_owned();
        let tell = format!(
            "POST /_simulate/container?name=app&id={id} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(request(address_of(&ecs), &tell).0, 200);
        Task { ecs, app }
    }

    fn sidecar(&self, user: &str, more: &[&str]) -> Container {
        let uri = format!(
            "--env=ECS_CONTAINER_METADATA_URI_V4=http://{}/v4/prestop",
            address_of(&self.ecs)
        );
        sidecar_in(&self.ecs, user, &[more, &[&uri]].concat(), "signal QUIT app")
    }
}

fn sidecar_in(owner: &Container, user: &str, more: &[&str], drain: &str) -> Container {
    let pid = format!("--pid=container:{}", owner.0);
    let drain = format!("--env=PRESTOP_DRAIN={drain}");
    let arguments = [pid.as_str(), "--user", user, &drain, "--env=PRESTOP_WATCH=none"];
    let sidecar = Container::run(&[&arguments[..], more, &[IMAGE]].concat());
    sidecar.await_log("\"event\":\"start\"");
    sidecar
}

fn address_of(container: &Container) -> std::net::SocketAddr {
    let ip = container.inspect()["NetworkSettings"]["IPAddress"].clone();
    format!("{}:8080", ip.as_str().unwrap()).parse().unwrap()
}

/// Everything dropped: root signals root's processes without any capability.
const SAME_USER: [&str; 2] = ["--cap-drop", "ALL"];

#[test]
fn signal_quit_to_nginx_lets_a_download_in_flight_complete() {
    if !engine() {
        return;
    }
    let task = Task::start(&[NGINX]);
    let mut download = TcpStream::connect(address_of(&task.app)).unwrap();
    download
        .write_all(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut start = [0; 1024];
    download.read_exact(&mut start).unwrap();
    let address = address_of(&task.app);
    let sidecar = task.sidecar("0", &SAME_USER);
    docker(&["kill", "--signal", "TERM", &sidecar.0]);
    sidecar.await_log("step.start");
    await_that("nginx takes no new connections", || {
        TcpStream::connect(address).is_err()
    });
    let head = String::from_utf8_lossy(&start).find("\r\n\r\n").unwrap() as u64 + 4;
    let rest = std::io::copy(&mut download, &mut std::io::sink()).unwrap();
    assert_eq!(
        1024 - head + rest,
        64 * 1024 * 1024,
        "the download must be complete"
    );
    assert_eq!(sidecar.exit_code(), 0, "{}", sidecar.logs());
    assert_eq!(task.app.exit_code(), 0, "{}", task.app.logs());
}

#[test]
fn a_signal_finds_the_app_behind_sh_c() {
    if !engine() {
        return;
    }
    let script = "/usr/sbin/nginx -g 'daemon off;'; echo nginx has ended with $?; exit 0";
    let task = Task::start(&["--entrypoint", "/bin/sh", NGINX, "-c", script]);
    let sidecar = task.sidecar("0", &SAME_USER);
    docker(&["stop", &sidecar.0]);
    assert_eq!(sidecar.exit_code(), 0, "{}", sidecar.logs());
    assert_eq!(task.app.exit_code(), 0);
    assert!(
        task.app.logs().contains("nginx has ended with 0"),
        "{}",
        task.app.logs()
    );
}

fn fails_with(sidecar: &Container, part: &str) {
    docker(&["stop", &sidecar.0]);
    assert_eq!(sidecar.exit_code(), 4, "{}", sidecar.logs());
    assert!(
        sidecar.logs().contains(part),
        "`{part}` is not in {}",
        sidecar.logs()
    );
}

#[test]
fn a_signal_without_a_shared_pid_namespace_fails_and_says_so() {
    if !engine() {
        return;
    }
    let sidecar = Container::run(&[
        "--env=PRESTOP_DRAIN=signal QUIT nginx",
        "--env=PRESTOP_WATCH=none",
        IMAGE,
    ]);
    sidecar.await_log("\"event\":\"start\"");
    fails_with(&sidecar, "\\\"pidMode\\\": \\\"task\\\"");
}

#[test]
fn a_signal_to_another_user_fails_and_says_what_is_missing() {
    if !engine() {
        return;
    }
    let task = Task::start(&[NGINX]);
    // A user other than root does not get the capability, even where it is added.
    fails_with(
        &task.sidecar("65532", &["--cap-add", "KILL"]),
        "of uid 0 must not be signalled by uid 65532",
    );
    fails_with(&task.sidecar("1234", &[]), "capability KILL");
}

#[test]
fn a_signal_to_a_container_that_the_task_does_not_have_fails_and_names_those_it_has() {
    if !engine() {
        return;
    }
    let task = Task::start(&[NGINX]);
    let uri = format!(
        "--env=ECS_CONTAINER_METADATA_URI_V4=http://{}/v4/prestop",
        address_of(&task.ecs)
    );
    let sidecar = sidecar_in(&task.ecs, "0", &[&uri], "signal QUIT nginx");
    fails_with(&sidecar, "the task has no container `nginx`, only app");
}

#[test]
fn a_signal_that_may_be_for_one_of_two_containers_fails_and_says_so() {
    if !engine() {
        return;
    }
    let task = Task::start(&[NGINX]);
    // Without task metadata nothing tells the app from the owner of the namespace.
    let sidecar = sidecar_in(&task.ecs, "0", &SAME_USER, "signal QUIT nginx");
    fails_with(
        &sidecar,
        "nothing tells which of these is the main process of `nginx`: 1 (ecs-prestop), ",
    );
}

#[test]
fn without_task_metadata_the_only_other_container_is_the_one() {
    if !engine() {
        return;
    }
    let app = Container::run(&[NGINX]);
    await_that("nginx serves", || TcpStream::connect(address_of(&app)).is_ok());
    let sidecar = sidecar_in(&app, "0", &SAME_USER, "signal QUIT nginx");
    docker(&["kill", "--signal", "TERM", &sidecar.0]);
    assert_eq!(app.exit_code(), 0, "{}", app.logs());
}
