//! How long `check` takes for 1,000 files of 200 lines in one call, beside `jq . FILES`, which only reads
//! and prints them (the floor), and cfn-lint on the templates among them. Medians, taking turns.
//!
//! ```text
//! cargo bench --bench check
//! ```
//! What is not installed is left out and said so. cfn-lint gets a few of the templates, and its time is
//! told for each; it is looked for in the environment that `tests/run` makes, then on the PATH.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on panics"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const FILES: usize = 1000;
const LINES: usize = 200;
const ROUNDS: usize = 5;
/// It takes about a second for each.
const LINTED: usize = 10;
const MOST_TIMES_JQ: f64 = 2.0;
const LEAST_TIMES_CFN_LINT: f64 = 100.0;

fn main() {
    let directory = std::env::temp_dir().join(format!("ecs-prestop-bench-check-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let files = write_files(&directory);
    let own = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ecs-prestop"));
        command.arg("check").args(&files);
        command
    };
    let jq = || {
        let mut command = Command::new("jq");
        command.arg(".").args(&files);
        command
    };
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.extend(time(own()));
        floor.extend(time(jq()));
    }
    let ours = median(ours).expect("check runs");
    println!("{FILES} files of {LINES} lines, median of {ROUNDS}:");
    println!("  ecs-prestop check  {:7.1} ms", ms(ours));
    match median(floor) {
        None => println!("  jq                 not installed"),
        Some(floor) => {
            println!("  jq .               {:7.1} ms", ms(floor));
            let ratio = ours.as_secs_f64() / floor.as_secs_f64();
            verdict(
                ratio <= MOST_TIMES_JQ,
                &format!("{ratio:.2} times jq, at most {MOST_TIMES_JQ} wanted"),
            );
        }
    }
    let templates: Vec<_> = files
        .iter()
        .filter(|file| is_template(file))
        .take(LINTED)
        .collect();
    let lint = time({
        let mut command = Command::new(cfn_lint());
        command.args(&templates);
        command
    });
    match lint {
        None => println!("  cfn-lint           not installed"),
        Some(lint) => {
            let each = lint / LINTED as u32;
            println!(
                "  cfn-lint           {:7.1} ms for each of {LINTED} templates, which is one call",
                ms(each)
            );
            let ratio = each.as_secs_f64() * FILES as f64 / ours.as_secs_f64();
            verdict(
                ratio >= LEAST_TIMES_CFN_LINT,
                &format!(
                    "{ratio:.0} times ahead of cfn-lint for each file, at least {LEAST_TIMES_CFN_LINT} wanted"
                ),
            );
        }
    }
    fs::remove_dir_all(directory).unwrap();
}

fn verdict(met: bool, what: &str) {
    println!("  {}: {what}", if met { "met" } else { "NOT MET" });
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn median(mut times: Vec<Duration>) -> Option<Duration> {
    times.sort();
    times.get(times.len() / 2).copied()
}

/// `None` where there is no such program.
fn time(mut command: Command) -> Option<Duration> {
    let start = Instant::now();
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .ok()?;
    Some(start.elapsed())
}

fn cfn_lint() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/task-definitions-venv/bin/cfn-lint");
    if own.exists() {
        own
    } else {
        PathBuf::from("cfn-lint")
    }
}

fn is_template(file: &Path) -> bool {
    file.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("template"))
}

/// Half of them task definitions as the API takes them, half of them templates.
fn write_files(directory: &Path) -> Vec<PathBuf> {
    (0..FILES)
        .map(|number| {
            let (name, document) = if number % 2 == 0 {
                ("task", task(number))
            } else {
                ("template", template(number))
            };
            let path = directory.join(format!("{name}-{number}.json"));
            let text = serde_json::to_string_pretty(&document).unwrap();
            assert!(
                text.lines().count().abs_diff(LINES) < 8,
                "{}",
                text.lines().count()
            );
            fs::write(&path, text).unwrap();
            path
        })
        .collect()
}

fn task(number: usize) -> Value {
    let variables: Vec<Value> = (0..37)
        .map(|index| json!({"name": format!("VARIABLE_{index}"), "value": format!("value {index} of {number}")}))
        .collect();
    json!({
        "family": format!("web-{number}"),
        "requiresCompatibilities": ["FARGATE"],
        "networkMode": "awsvpc",
        "cpu": "256",
        "memory": "512",
        "containerDefinitions": [
            {"name": "app", "image": "app:1", "stopTimeout": 25, "portMappings": [{"containerPort": 8080}], "environment": variables},
            {"name": "prestop", "image": "ecs-prestop:1", "essential": false, "stopTimeout": 90,
             "dependsOn": [{"containerName": "app", "condition": "START"}],
             "environment": [
                {"name": "PRESTOP_DRAIN", "value": "http://app:8080/drain"},
                {"name": "PRESTOP_STOP_TIMEOUT", "value": "90s"},
             ],
             "healthCheck": {"command": ["CMD", "/ecs-prestop", "health"]},
             "readonlyRootFilesystem": true},
        ],
    })
}

fn template(number: usize) -> Value {
    let variables: Vec<Value> = (0..30)
        .map(|index| json!({"Name": format!("VARIABLE_{index}"), "Value": {"Ref": "AWS::Region"}}))
        .collect();
    json!({"Resources": {"Task": {
        "Type": "AWS::ECS::TaskDefinition",
        "Properties": {
            "Family": format!("web-{number}"),
            "ContainerDefinitions": [{"Name": "app", "Image": "app:1", "StopTimeout": 25, "Memory": 128, "Environment": variables}],
        },
    }}})
}
