//! What the sidecar costs: the time from SIGTERM to the drain request, memory and CPU while nothing
//! happens, the size of the binary. `cargo bench --bench shutdown`, with `-- --quick` for a first look and
//! `-- --binary PATH` to measure the binary of the image in place of cargo's own.
//!
//! Three programs take turns in one run, so that whatever else the machine does meets all of them:
//! `ours`; `minimal` (`benches/minimal.rs`), the least that a Rust program of the same dependencies
//! costs; `shell`, what people write instead. Absolute numbers are those of this machine, the ratios
//! travel. It is a report: a goal that is missed is not a failure.

use std::error::Error;
use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// As cargo builds it for the benchmark: without what `docker/build` does for the image.
const OURS: &str = env!("CARGO_BIN_EXE_ecs-prestop");

/// From readiness to the measurements. Halfway between two polls at 1 s, which would disturb them.
const IDLE: Duration = Duration::from_millis(2500);

/// For whatever should take milliseconds: beyond it, something is broken.
const PATIENCE: Duration = Duration::from_secs(10);

const MINUTE: Duration = Duration::from_secs(60);

/// `USER_HZ`, in which `/proc/PID/stat` counts: 100 on every architecture that Rust runs Linux on.
const TICK: Duration = Duration::from_millis(10);

const MAX_OF_MINIMAL: f64 = 1.5;
const MIN_OF_SHELL: f64 = 10.0;
const MAX_PSS_KIB: f64 = 4096.0;
const MAX_BINARY_MB: f64 = 8.0;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let order = match Order::from_arguments(std::env::args().skip(1)) {
        Ok(Some(order)) => order,
        Ok(None) => {
            println!("shutdown: measures only under `cargo bench --bench shutdown`");
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprintln!("shutdown: {why}");
            return ExitCode::from(2);
        }
    };
    match measure(order) {
        Ok(results) => {
            print!("{}", results.table());
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("shutdown: {why}");
            ExitCode::FAILURE
        }
    }
}

/// What is to be measured.
struct Order {
    effort: Effort,
    ours: PathBuf,
}

impl Order {
    /// `None` without the `--bench` of `cargo bench`: `cargo test --all-targets` starts this too.
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Option<Order>> {
        let mut bench = false;
        let mut order = Order {
            effort: Effort::FULL,
            ours: OURS.into(),
        };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--bench" => bench = true,
                "--quick" => order.effort = Effort::QUICK,
                "--binary" => order.ours = arguments.next().ok_or("`--binary` needs a path")?.into(),
                other => {
                    return Err(
                        format!("`{other}` is not known; there are --quick and --binary PATH").into(),
                    );
                }
            }
        }
        Ok(bench.then_some(order))
    }
}

/// How long it may take.
#[derive(Clone, Copy)]
struct Effort {
    runs: usize,
    cpu: Duration,
}

impl Effort {
    const FULL: Effort = Effort {
        runs: 15,
        cpu: MINUTE,
    };
    const QUICK: Effort = Effort {
        runs: 5,
        cpu: Duration::from_secs(10),
    };
}

fn measure(Order { effort, ours }: Order) -> Result<Results> {
    let bench = Bench {
        ours,
        app: Server::start(Server::APP)?,
        instance_metadata: Server::start(Server::INSTANCE_METADATA)?,
        minimal: build_minimal()?,
    };
    let seconds = effort.cpu.as_secs();
    eprintln!(
        "{} runs of each program, taking turns; then {seconds} s of watching ours idle",
        effort.runs
    );
    let mut results = Results::new(effort);
    for _ in 0..effort.runs {
        for program in Program::ALL {
            let run = bench.run(program).map_err(|why| format!("{program}: {why}"))?;
            results.drain_ms.add(program, run.drain_ms);
            results.pss_kib.add(program, run.pss_kib);
        }
    }
    let cpu_ms = bench.cpu_ms_a_minute(effort.cpu)?;
    results.cpu_ms.add(Program::Ours, cpu_ms);
    for (program, file) in [(Program::Ours, &bench.ours), (Program::Minimal, &bench.minimal)] {
        results.binary_mb.add(program, megabytes(file)?);
    }
    Ok(results)
}

/// Those that take turns.
#[derive(Clone, Copy)]
enum Program {
    Ours,
    Minimal,
    Shell,
}

impl Program {
    const ALL: [Program; 3] = [Program::Ours, Program::Minimal, Program::Shell];
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Program::Ours => "ours",
            Program::Minimal => "minimal",
            Program::Shell => "shell",
        })
    }
}

/// What one life of a program shows.
struct Run {
    drain_ms: f64,
    pss_kib: f64,
}

/// The world that the programs live in.
struct Bench {
    app: Server,
    instance_metadata: Server,
    ours: PathBuf,
    minimal: PathBuf,
}

impl Bench {
    fn run(&self, program: Program) -> Result<Run> {
        self.app.forget();
        let mut running = self.start(program)?;
        sleep(IDLE);
        let pss_kib = running.pss_kib()?;
        let sent = Instant::now();
        running.terminate()?;
        let arrived = self.app.next("POST /drain ")?;
        let status = running.end()?;
        if !status.success() {
            return Err(format!("ended with {status}").into());
        }
        Ok(Run {
            drain_ms: milliseconds(arrived - sent),
            pss_kib,
        })
    }

    fn cpu_ms_a_minute(&self, watched: Duration) -> Result<f64> {
        let running = self.start(Program::Ours)?;
        sleep(IDLE);
        let (since, before) = (Instant::now(), running.cpu()?);
        sleep(watched);
        let used = running.cpu()?.saturating_sub(before);
        Ok(milliseconds(used) * MINUTE.as_secs_f64() / since.elapsed().as_secs_f64())
    }

    /// Returns when the program is ready for SIGTERM.
    fn start(&self, program: Program) -> Result<Running> {
        match program {
            Program::Ours => {
                self.instance_metadata.forget();
                let running = Running::start(self.ours().stdout(Stdio::null()))?;
                self.instance_metadata.next("GET ")?;
                Ok(running)
            }
            Program::Minimal => Running::start_and_hear_ready(&mut self.minimal()),
            Program::Shell => Running::start_and_hear_ready(&mut self.shell()),
        }
    }

    fn ours(&self) -> Command {
        let mut command = Command::new(&self.ours);
        let (app, metadata) = (self.app.port, self.instance_metadata.port);
        command
            .env_clear()
            .env("PRESTOP_DRAIN", format!("POST http://127.0.0.1:{app}/drain"))
            // As in production, but for a port that is free.
            .env("PRESTOP_LISTEN", "127.0.0.1:0")
            .env("PRESTOP_LOG_FORMAT", "json")
            .env(
                "AWS_EC2_METADATA_SERVICE_ENDPOINT",
                format!("http://127.0.0.1:{metadata}"),
            );
        command
    }

    fn minimal(&self) -> Command {
        let mut command = Command::new(&self.minimal);
        command.env_clear().arg(format!("127.0.0.1:{}", self.app.port));
        command
    }

    /// The sleep is in the background, since a shell runs its traps only between two commands.
    fn shell(&self) -> Command {
        let script = format!(
            "trap 'curl -s -X POST http://127.0.0.1:{}/drain; kill $!; exit 0' TERM
            echo ready
            while :; do sleep 60 & wait $!; done",
            self.app.port
        );
        let mut command = Command::new("sh");
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).args(["-c", &script]);
        command
    }
}

/// A program that runs, and does not outlive the benchmark.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Result<Running> {
        let child = command.stdin(Stdio::null()).spawn();
        let child = child.map_err(|why| format!("cannot start {:?}: {why}", command.get_program()))?;
        Ok(Running(child))
    }

    fn start_and_hear_ready(command: &mut Command) -> Result<Running> {
        let mut running = Running::start(command.stdout(Stdio::piped()))?;
        let mut line = String::new();
        if let Some(said) = &mut running.0.stdout {
            // Not more than the line: what follows stays in the pipe, which stays open.
            BufReader::with_capacity(1, said).read_line(&mut line)?;
        }
        match line.trim() {
            "ready" => Ok(running),
            other => Err(format!("said `{other}` in place of `ready`").into()),
        }
    }

    fn terminate(&self) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.0), Signal::TERM)?)
    }

    fn end(&mut self) -> Result<ExitStatus> {
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            sleep(Duration::from_millis(5));
        }
        Err(format!("still runs {PATIENCE:?} after its drain request").into())
    }

    /// Of the program and its children: the shell's sleep is part of its price.
    fn pss_kib(&self) -> Result<f64> {
        let pid = self.0.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let children = children.split_whitespace().map(str::to_owned);
        children.chain([pid.to_string()]).map(|pid| pss_kib(&pid)).sum()
    }

    /// User and system time of all threads.
    fn cpu(&self) -> Result<Duration> {
        let process = PathBuf::from(format!("/proc/{}", self.0.id()));
        match scheduled(&process) {
            Ok(time) => Ok(time),
            Err(_) => ticks(&process),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended, as a rule.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The share of the memory that is this process's: pages that n processes share count as one nth.
fn pss_kib(pid: &str) -> Result<f64> {
    let memory = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let pss = memory.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = pss.and_then(|pss| pss.trim().strip_suffix("kB"));
    Ok(kib.ok_or("no Pss in smaps_rollup")?.trim().parse()?)
}

/// The scheduler's own account, in nanoseconds; where a kernel keeps one.
fn scheduled(process: &Path) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for thread in fs::read_dir(process.join("task"))? {
        let account = fs::read_to_string(thread?.path().join("schedstat"))?;
        let ran = account.split_whitespace().next().ok_or("an empty schedstat")?;
        sum += Duration::from_nanos(ran.parse()?);
    }
    Ok(sum)
}

/// The same to 10 ms (proc_pid_stat(5): `utime` and `stime` are fields 14 and 15).
fn ticks(process: &Path) -> Result<Duration> {
    const FIRST_AFTER_NAME: usize = 3;
    let stat = fs::read_to_string(process.join("stat"))?;
    // The name may hold spaces and parentheses.
    let (_, fields) = stat.rsplit_once(')').ok_or("no name in stat")?;
    let times = fields.split_whitespace().skip(14 - FIRST_AFTER_NAME).take(2);
    let ticks: u32 = times.map(str::parse::<u32>).sum::<std::result::Result<_, _>>()?;
    Ok(TICK * ticks)
}

/// A server for one client at a time: it notes what arrives and when. Without a thread for each
/// connection, whose start would count as latency.
struct Server {
    port: u16,
    requests: Receiver<Request>,
}

/// What is answered to a request line.
type Answers = fn(&str) -> &'static str;

struct Request {
    line: String,
    first_byte: Instant,
}

impl Server {
    const APP: Answers = |_| "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

    /// A healthy Spot instance.
    const INSTANCE_METADATA: Answers = |line| {
        if line.starts_with("PUT /latest/api/token ") {
            "HTTP/1.1 200 OK\r\nX-aws-ec2-metadata-token-ttl-seconds: 21600\r\nContent-Length: 5\r\n\r\ntoken"
        } else {
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        }
    };

    fn start(answers: Answers) -> Result<Server> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let (sender, requests) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away ends its connection, nothing else.
                let _ = converse(stream, answers, &sender);
            }
        });
        Ok(Server { port, requests })
    }

    /// Drops what earlier programs asked for.
    fn forget(&self) {
        while self.requests.try_recv().is_ok() {}
    }

    /// When the first byte of the next request that starts so arrived.
    fn next(&self, start: &str) -> Result<Instant> {
        let since = Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(since.elapsed());
            match self.requests.recv_timeout(left) {
                Ok(request) if request.line.starts_with(start) => return Ok(request.first_byte),
                Ok(_) => {}
                Err(_) => return Err(format!("no `{start}` within {PATIENCE:?}").into()),
            }
        }
    }
}

fn converse(stream: TcpStream, answers: Answers, requests: &Sender<Request>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    while !stream.fill_buf()?.is_empty() {
        let first_byte = Instant::now();
        let line = read_request(&mut stream)?;
        stream.get_mut().write_all(answers(&line).as_bytes())?;
        if requests.send(Request { line, first_byte }).is_err() {
            break;
        }
    }
    Ok(())
}

/// All of it; returns the request line.
fn read_request(stream: &mut impl BufRead) -> io::Result<String> {
    let mut first = String::new();
    stream.read_line(&mut first)?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header)?;
        match header.trim().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().unwrap_or(0);
            }
            Some(_) => {}
            None => break,
        }
    }
    io::copy(&mut stream.take(length), &mut io::sink())?;
    Ok(first)
}

/// Built as the image is, by the cargo that runs this.
fn build_minimal() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--profile", "dist", "--example", "minimal"])
        .arg("--message-format=json")
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err("minimal cannot be built".into());
    }
    let messages = String::from_utf8(output.stdout)?;
    messages
        .lines()
        .find_map(executable_of_minimal)
        .ok_or_else(|| "cargo does not say where minimal is".into())
}

fn executable_of_minimal(message: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let path = message["executable"].as_str()?;
    (message["target"]["name"] == "minimal").then(|| path.into())
}

/// Everything that was measured.
struct Results {
    effort: Effort,
    drain_ms: Metric,
    pss_kib: Metric,
    cpu_ms: Metric,
    binary_mb: Metric,
}

/// The samples of each program; none where there is nothing to compare.
#[derive(Default)]
struct Metric([Vec<f64>; 3]);

impl Metric {
    fn add(&mut self, program: Program, sample: f64) {
        self.0[program as usize].push(sample);
    }

    fn median(&self, program: Program) -> Option<f64> {
        let mut samples = self.0[program as usize].clone();
        samples.sort_by(f64::total_cmp);
        samples.get(samples.len() / 2).copied()
    }

    fn ratio(&self, over: Program, under: Program) -> Option<f64> {
        Some(self.median(over)? / self.median(under)?)
    }

    fn of_minimal(&self) -> Option<f64> {
        self.ratio(Program::Ours, Program::Minimal)
    }

    fn of_shell(&self) -> Option<f64> {
        self.ratio(Program::Shell, Program::Ours)
    }

    /// A second goal has a line of its own, below the first.
    fn row(&self, name: &str, decimals: usize, goals: &[String]) -> String {
        let medians = Program::ALL.map(|program| number(self.median(program), decimals, ""));
        let ratios = [self.of_minimal(), self.of_shell()].map(|ratio| number(ratio, 2, "x"));
        let cells = [&medians[..], &ratios[..]].concat();
        let mut goals = goals.iter();
        let mut row = line(name, &cells, goals.next().map_or("", String::as_str));
        for goal in goals {
            row += &line("", &[], goal);
        }
        row
    }
}

fn line(name: &str, cells: &[String], goal: &str) -> String {
    const WIDTHS: [usize; 5] = [9, 9, 9, 14, 12];
    let mut line = format!("{name:<28}");
    for (column, width) in WIDTHS.into_iter().enumerate() {
        let cell = cells.get(column).map_or("", String::as_str);
        line += &format!("{cell:>width$}");
    }
    line += &format!("   {goal}");
    format!("{}\n", line.trim_end())
}

impl Results {
    fn new(effort: Effort) -> Results {
        Results {
            effort,
            drain_ms: Metric::default(),
            pss_kib: Metric::default(),
            cpu_ms: Metric::default(),
            binary_mb: Metric::default(),
        }
    }

    fn table(&self) -> String {
        let Effort { runs, cpu } = self.effort;
        let ours = |metric: &Metric| metric.median(Program::Ours);
        let mut table = format!("\nMedians of {runs} runs; CPU over {} s\n\n", cpu.as_secs());
        let columns = ["ours", "minimal", "shell", "ours/minimal", "shell/ours"];
        table += &line("", &columns.map(str::to_owned), "goal");
        table += &self.drain_ms.row(
            "SIGTERM to drain request, ms",
            2,
            &[
                at_most(self.drain_ms.of_minimal(), MAX_OF_MINIMAL, " x minimal"),
                at_least(self.drain_ms.of_shell(), MIN_OF_SHELL, " x faster than shell"),
            ],
        );
        table += &self.pss_kib.row(
            "idle memory, PSS KiB",
            0,
            &[at_most(ours(&self.pss_kib), MAX_PSS_KIB, " KiB")],
        );
        table += &self.cpu_ms.row("idle CPU, ms a minute", 1, &[]);
        table += &self.binary_mb.row(
            "binary, MB",
            2,
            &[at_most(ours(&self.binary_mb), MAX_BINARY_MB, " MB")],
        );
        table
    }
}

fn at_most(value: Option<f64>, limit: f64, unit: &str) -> String {
    let met = value.is_some_and(|value| value <= limit);
    format!("at most {limit}{unit}: {}", verdict(met))
}

fn at_least(value: Option<f64>, limit: f64, unit: &str) -> String {
    let met = value.is_some_and(|value| value >= limit);
    format!("at least {limit}{unit}: {}", verdict(met))
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}

fn number(value: Option<f64>, decimals: usize, unit: &str) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}{unit}"))
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn megabytes(file: &Path) -> Result<f64> {
    Ok(fs::metadata(file)?.len() as f64 / 1e6)
}
