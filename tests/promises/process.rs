//! The real binary, and small servers to talk to it. What is awaited is bounded by [`PATIENCE`], which
//! is no measure of speed: only a hang reaches it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The binary with a clean environment.
pub(crate) fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ecs-prestop"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// Runs the binary to its end with these arguments and variables.
pub(crate) fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    binary()
        .args(arguments)
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

/// What a process wrote to standard error.
pub(crate) fn complaints(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asks every few milliseconds until it is so.
pub(crate) fn await_that(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A child process that is killed when the test ends.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Process {
        Process(command.spawn().unwrap())
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.0.id().try_into().unwrap()).unwrap(), signal).unwrap();
    }

    /// The exit code; `None` where a signal ended it.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.wait_until(Instant::now() + PATIENCE)
            .expect("the process has not ended in a minute")
    }

    /// The same, or `None` if it still runs at that time.
    pub(crate) fn wait_until(&mut self, end: Instant) -> Option<Option<i32>> {
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return Some(status.code());
            }
            if Instant::now() >= end {
                return None;
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// Waits until the process handles SIGTERM, which it does before anything else.
    pub(crate) fn await_handlers(&self) {
        const SIGTERM: u64 = 1 << 14;
        let status = format!("/proc/{}/status", self.0.id());
        await_that("it handles SIGTERM", || {
            let status = std::fs::read_to_string(&status).unwrap_or_default();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            caught.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).unwrap_or(0) & SIGTERM != 0)
        });
    }

    pub(crate) fn lines(&mut self) -> Receiver<String> {
        let stdout = self.0.stdout.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        lines
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running sidecar whose log is read.
pub(crate) struct Sidecar {
    pub(crate) process: Process,
    lines: Receiver<String>,
    /// Every event seen so far.
    pub(crate) events: Vec<Value>,
    pub(crate) address: SocketAddr,
}

impl Sidecar {
    /// Starts it in local mode with an endpoint of its own, and waits until it has started.
    pub(crate) fn start(variables: &[(&str, &str)]) -> Sidecar {
        let address = free_address();
        let mut command = binary();
        command
            .env("PRESTOP_LISTEN", address.to_string())
            .env("PRESTOP_WATCH", "none")
            .envs(variables.iter().copied())
            .stdout(Stdio::piped());
        let mut process = Process::start(&mut command);
        let lines = process.lines();
        let events = Vec::new();
        let mut sidecar = Sidecar {
            process,
            lines,
            events,
            address,
        };
        sidecar.await_event("start");
        sidecar
    }

    /// Reads the log up to that event.
    pub(crate) fn await_event(&mut self, name: &str) -> Value {
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("no event `{name}` after {:#?}", self.events));
            let event: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
            self.events.push(event.clone());
            if event["event"] == name {
                return event;
            }
        }
    }

    /// SIGTERM, the rest of the log, the exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        self.process.signal(Signal::TERM);
        self.await_event("exit");
        self.process.wait()
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        request(
            self.address,
            &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
        )
    }

    pub(crate) fn ask(&self, method: &str, path: &str) -> (u16, String) {
        request(
            self.address,
            &format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
        )
    }

    pub(crate) fn post(&self, path: &str, headers: &str) -> (u16, String) {
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}");
        request(self.address, &format!("{head}Content-Length: 0\r\n\r\n"))
    }
}

/// Sends these bytes and returns status and the rest of the answer.
pub(crate) fn request(address: SocketAddr, bytes: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // A server may answer and hang up before it has read everything.
    let _ = stream.write_all(bytes.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    (status, answer)
}

/// An address that was free a moment ago.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A server that gives every request the same bytes, or never an answer; sends each request's text.
pub(crate) fn app(answer: Option<&'static str>) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, requests) = channel();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut text = vec![0; 4096];
            let n = stream.read(&mut text).unwrap_or(0);
            let _ = sender.send(String::from_utf8_lossy(&text[..n]).into_owned());
            match answer {
                Some(bytes) => {
                    let _ = stream.write_all(bytes.as_bytes());
                }
                None => held.push(stream),
            }
        }
    });
    (address, requests)
}

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
pub(crate) const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
