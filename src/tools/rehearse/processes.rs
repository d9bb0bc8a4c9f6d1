//! Processes that stand for containers, and that nothing of them is left behind.
//!
//! A container that has ended takes all of its processes with it. Here they are ordinary processes, which
//! may fork, leave their group and ignore every signal; so the rehearsal adopts the orphans among its
//! descendants (`PR_SET_CHILD_SUBREAPER`, prctl(2)) and kills whatever is below it in `/proc`.
//!
//! Two processes see to it, so that either may die by whatever there is: the one that the user started
//! ([`supervise`]) waits for the one that plays, and the one that plays notices when the first is gone.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::io::Read as _;
use std::process::{ExitCode, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, waitpid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::sidecar::watch::signals::pipe_of;

/// The hidden flag of the process that plays.
pub(super) const SUPERVISED: &str = "supervised";

/// How long killing may take: a process that the kernel does not let go for longer is told by its number.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Between two looks at what is left.
const KILL_AGAIN: Duration = Duration::from_millis(5);

/// Held while a process is started, and from the end of the supervisor on.
static STARTING: Mutex<()> = Mutex::new(());

/// What is kept of what a process says, to be shown where it fails.
const LAST_LINES: usize = 20;

/// A longer line is cut: it is no line, and must not fill the memory.
const MAX_LINE: usize = 4096;

/// Starts this program once more to play, and ends everything below this process when that one has ended
/// or when a signal comes.
pub(super) async fn supervise() -> ExitCode {
    let signals = [SIGINT, SIGTERM, SIGHUP, SIGQUIT].map(|signal| (signal, pipe_of(signal)));
    adopt_orphans();
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    arguments.push(format!("--{SUPERVISED}").into());
    let player = std::env::current_exe().and_then(|exe| {
        // Its standard input ends when this process does, however that comes.
        Command::new(exe).args(arguments).stdin(Stdio::piped()).spawn()
    });
    let mut player = match player {
        Ok(player) => player,
        Err(why) => {
            eprintln!("ecs-prestop rehearse: cannot start: {why}");
            return ExitCode::FAILURE;
        }
    };
    // Waiting for a child closes its standard input.
    let _open = player.stdin.take();
    let (caught, mut catch) = tokio::sync::mpsc::channel(1);
    for (signal, pipe) in signals {
        let Ok(mut pipe) = pipe.and_then(UnixStream::from_std) else {
            continue;
        };
        let caught = caught.clone();
        tokio::spawn(async move {
            if pipe.read_u8().await.is_ok() {
                let _ = caught.send(signal).await;
            }
        });
    }
    let code = tokio::select! {
        ended = player.wait() => {
            let status = ended.ok();
            let code = status.and_then(|status| status.code());
            if let (None, Some(status)) = (code, status) {
                eprintln!("ecs-prestop rehearse: the rehearsal was ended: {status}");
            }
            code.unwrap_or(1)
        }
        Some(signal) = catch.recv() => 128 + signal,
    };
    let left = end_all_but(&[]);
    if !left.is_empty() {
        eprintln!("ecs-prestop rehearse: cannot end process {}", listed(&left));
    }
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// For the process that plays: adopts orphans, and ends everything when the supervisor is gone.
pub(super) fn be_supervised() {
    adopt_orphans();
    std::thread::spawn(|| {
        // Nothing is ever written to it.
        let _ = std::io::stdin().read(&mut [0]);
        // Held to the end: what is started after the last look would be left behind.
        let _no_more = STARTING.lock();
        end_all_but(&[]);
        std::process::exit(1);
    });
}

/// Starts a process, unless this one is about to end.
pub(super) fn start(command: &mut Command) -> std::io::Result<Child> {
    let _starting = STARTING.lock();
    command.spawn()
}

fn adopt_orphans() {
    // Refused by no kernel since 3.4; without it what leaves its parent is not found, as elsewhere.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_child_subreaper(Some(getpid()));
}

/// Kills every process below this one, except for those and what is below them. Returns what could not be
/// killed.
pub(super) fn end_all_but(spared: &[u32]) -> Vec<u32> {
    let end = Instant::now() + KILL_LIMIT;
    loop {
        let left = below(own_id(), spared);
        if left.is_empty() || Instant::now() >= end {
            return left;
        }
        for id in left {
            let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) else {
                continue;
            };
            let _ = kill_process(pid, Signal::KILL);
            // One of ours that has ended; somebody else's child is no business of ours.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
        std::thread::sleep(KILL_AGAIN);
    }
}

fn own_id() -> u32 {
    std::process::id()
}

/// The processes below one, without those that are spared.
fn below(root: u32, spared: &[u32]) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let Some(id) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process that has ended meanwhile.
        let Ok(stat) = std::fs::read_to_string(process.path().join("stat")) else {
            continue;
        };
        if let Some(parent) = parent_in(&stat) {
            children.entry(parent).or_default().push(id);
        }
    }
    let (mut found, mut next) = (Vec::new(), vec![root]);
    while let Some(parent) = next.pop() {
        for id in children.remove(&parent).unwrap_or_default() {
            if !spared.contains(&id) {
                found.push(id);
                next.push(id);
            }
        }
    }
    found
}

/// The fourth field of /proc/PID/stat (proc(5)); the second is a name in brackets, with any sign in it.
fn parent_in(stat: &str) -> Option<u32> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_whitespace().nth(1)?.parse().ok()
}

fn listed(ids: &[u32]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    ids.join(", ")
}

/// Sends a signal to the main process; nothing to one that has ended and been waited for.
pub(super) fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
    if let Some(pid) = pid {
        let _ = kill_process(pid, signal);
    }
}

/// The last lines that a process wrote.
#[derive(Default)]
pub(super) struct LastLines(VecDeque<String>);

impl LastLines {
    pub(super) fn add(&mut self, line: &str) {
        if self.0.len() >= LAST_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.to_owned());
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

/// Reads lines to the end, and never holds the process up that writes them.
pub(super) async fn each_line(source: Option<impl AsyncRead + Unpin>, mut tell: impl FnMut(&str)) {
    let Some(mut source) = source else { return };
    let (mut chunk, mut line) = ([0_u8; 4096], Vec::new());
    let mut end = |line: &mut Vec<u8>| {
        tell(&String::from_utf8_lossy(line));
        line.clear();
    };
    while let Ok(n @ 1..) = source.read(&mut chunk).await {
        for byte in &chunk[..n] {
            match byte {
                b'\n' => end(&mut line),
                b'\r' => {}
                byte if line.len() < MAX_LINE => line.push(*byte),
                _ => {}
            }
        }
    }
    if !line.is_empty() {
        end(&mut line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parent_in("42 (a) b) (c) S 7 42 42 0"), Some(7));
        assert_eq!(parent_in("42 (sh) R 1 42"), Some(1));
        assert_eq!(parent_in("nonsense"), None);
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_cut() {
        let mut lines = Vec::new();
        let text = format!("one\r\n{}\nlast", "x".repeat(100_000));
        each_line(Some(text.as_bytes()), |line| lines.push(line.to_owned())).await;
        assert_eq!(
            (lines[0].as_str(), lines[1].len(), lines[2].as_str()),
            ("one", MAX_LINE, "last")
        );
    }
}
