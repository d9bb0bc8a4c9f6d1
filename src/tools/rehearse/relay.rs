//! What the app and the sidecar say while they run, told on the screen as somebody would tell it.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::time::sleep;

use super::screen::{Screen, Who, seconds};

/// The sidecar's log is a millisecond behind what it does; the app's answer is not told before it.
const BEHIND_THE_LOG: Duration = Duration::from_millis(3);

/// Tells what the app says; returns what became of a worker's jobs.
pub(super) async fn app(screen: &Screen, mut lines: Lines) -> Jobs {
    let mut jobs = Jobs::default();
    while let Some(line) = lines.next().await {
        sleep(BEHIND_THE_LOG).await;
        jobs.note(&line);
        if !line.starts_with("serves on") {
            screen.say(Who::App, &line);
        }
    }
    jobs
}

/// Tells what the sidecar logs; returns what its last line says.
pub(super) async fn sidecar(screen: &Screen, mut lines: Lines) -> Account {
    let mut account = Account::default();
    while let Some(line) = lines.next().await {
        let Ok(event) = serde_json::from_str::<Value>(&line) else {
            screen.say(Who::Sidecar, &line);
            continue;
        };
        if let Some(words) = in_plain_words(&event) {
            screen.say(Who::Sidecar, &words);
        }
        if event["event"] == "exit" {
            let span = |name: &str| event[name].as_u64().map(Duration::from_millis);
            (account.budget, account.used) = (span("budget_ms"), span("used_ms"));
        }
    }
    account
}

/// The sidecar's own account of the time.
#[derive(Default)]
pub(super) struct Account {
    pub(super) budget: Option<Duration>,
    pub(super) used: Option<Duration>,
}

/// What a worker says of its jobs.
#[derive(Default)]
pub(super) struct Jobs {
    pub(super) done: u32,
    pub(super) cut_off: u32,
}

impl Jobs {
    fn note(&mut self, line: &str) {
        if line.starts_with("job ") && line.ends_with(" done") {
            self.done += 1;
        }
        if line.contains("1 job cut off") {
            self.cut_off += 1;
        }
    }
}

/// A log line of the sidecar as somebody would tell it; `None` for what needs no telling.
fn in_plain_words(event: &Value) -> Option<String> {
    let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
    let span = |name: &str| seconds(Duration::from_millis(event[name].as_u64().unwrap_or_default()));
    Some(match event["event"].as_str()? {
        "notice" => format!(
            "notice: {}; {} to the deadline",
            text("reason"),
            span("deadline_in_ms")
        ),
        "settle" => format!("lets everybody serve on for {}; /ready says 503", span("for_ms")),
        "step.start" if text("does") == "ack" => "waits until somebody posts to /drained".to_owned(),
        "step.start" => text("does"),
        "step.call" if event["status"] == 202 => "is answered 202: under way".to_owned(),
        "step.retry" => format!("{}; again in {}", text("why"), span("after_ms")),
        "step.end" => format!(
            "{} after {}: {}",
            text("outcome"),
            span("took_ms"),
            text("detail")
        ),
        "aws.start" if text("call") == "deregister" => {
            "asks the load balancer to send nothing more, and waits until it has let go".to_owned()
        }
        "aws.end" => format!(
            "{}: {} after {}: {}",
            text("call"),
            text("outcome"),
            span("took_ms"),
            text("detail")
        ),
        "deadline" => "the deadline has come: leaves, so that the app gets its own SIGTERM".to_owned(),
        "drained" if event["waiting_for_sigterm"] == true => "waits for SIGTERM".to_owned(),
        "watch" if event["level"] == "warn" => text("message"),
        _ => return None,
    })
}

/// The lines of a process, or none at all.
pub(super) struct Lines(Option<tokio::io::Lines<BufReader<Box<dyn AsyncRead + Unpin>>>>);

impl Lines {
    async fn next(&mut self) -> Option<String> {
        self.0.as_mut()?.next_line().await.ok()?
    }
}

pub(super) fn lines<R: AsyncRead + Unpin + 'static>(stdout: Option<R>) -> Lines {
    Lines(stdout.map(|stdout| BufReader::new(Box::new(stdout) as Box<dyn AsyncRead + Unpin>).lines()))
}
