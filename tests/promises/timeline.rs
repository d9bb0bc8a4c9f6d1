//! Shutdowns drawn out of logs, in each form in which people have them.

use ecs_prestop::tools::timeline::reading::Found;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::process::{binary, complaints, run};

/// The log of one task up to its end, a line each.
fn log(task: &str, code: u8, used_ms: u64) -> Vec<String> {
    let line = |ms: u64, event: &str, fields: Value| {
        let mut line = json!({
            "timestamp": format!("2026-01-01T00:00:{:02}.{:03}Z", ms / 1000, ms % 1000),
            "level": "info", "event": event, "cluster": "prod", "task": task, "family": "web:7",
        });
        let members = line.as_object_mut().unwrap();
        members.extend(fields.as_object().unwrap().clone());
        members.shift_remove("ms");
        line.to_string()
    };
    let drain = "POST http://app:8080/drain";
    let mut timeline = vec![
        json!({"ms": 0, "event": "notice", "reason": "sigterm", "deadline_in_ms": 29_000}),
        json!({"ms": 10, "event": "step.start", "step": 1, "does": drain}),
    ];
    let mut step = json!({"step": 1, "order": 0, "does": drain, "outcome": "dropped"});
    if code == 0 {
        step["outcome"] = "drained".into();
        step["detail"] = "HTTP 200".into();
        timeline.push(json!({
            "ms": used_ms, "event": "step.end", "step": 1, "outcome": "drained", "detail": "HTTP 200",
            "took_ms": used_ms - 10,
        }));
    }
    let mut lines = vec![line(0, "start", json!({}))];
    for moment in &timeline {
        let event = moment["event"].as_str().unwrap();
        lines.push(line(moment["ms"].as_u64().unwrap(), event, moment.clone()));
    }
    timeline.push(json!({"ms": used_ms, "event": "exit", "code": code, "result": "as told"}));
    lines.push(line(
        used_ms,
        "exit",
        json!({
            "code": code, "result": "as told", "state": "ended", "reasons": ["sigterm"], "budget_ms": 29_000,
            "used_ms": used_ms, "steps": [step], "timeline": timeline,
        }),
    ));
    lines
}

/// What the command makes of a log, which it reads from a file of that name.
fn timeline(name: &str, text: &str, arguments: &[&str]) -> String {
    let file = std::env::temp_dir().join(format!("ecs-prestop-{}-{name}.log", std::process::id()));
    std::fs::write(&file, text).unwrap();
    let output = run(
        &[&["timeline"], arguments, &[file.to_str().unwrap()]].concat(),
        &[("LANG", "C.UTF-8")],
    );
    let _ = std::fs::remove_file(&file);
    assert_eq!(output.status.code(), Some(0), "{}", complaints(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn one_task_is_a_picture_and_its_story() {
    insta::assert_snapshot!(timeline("one", &log("abc", 0, 12_340).join("\n"), &[]));
}

#[test]
fn every_form_in_which_aws_and_docker_print_a_log_is_the_same_shutdown() {
    let lines = log("abc", 0, 1234);
    let each = |form: &dyn Fn(&String) -> String| lines.iter().map(form).collect::<String>();
    let events: Vec<Value> = lines
        .iter()
        .map(|line| json!({"logStreamName": "prestop/abc", "message": line}))
        .collect();
    let wanted = timeline("plain", &lines.join("\n"), &["--format", "json"]);
    for (form, text) in [
        (
            "aws logs tail",
            each(&|line| format!("2026-01-01T00:00:00.1+00:00 prestop/prestop/abc {line}\n")),
        ),
        (
            "docker-compose logs",
            each(&|line| format!("prestop_1  | {line}\n")),
        ),
        (
            "filter-log-events",
            serde_json::to_string_pretty(&json!({"events": events})).unwrap(),
        ),
        (
            "filter-log-events as text",
            each(&|line| format!("EVENTS\t1\t2\t{line}\tprestop/abc\t3\n")),
        ),
        (
            "json-file",
            each(&|line| format!("{}\n", json!({"log": format!("{line}\n"), "stream": "stdout"}))),
        ),
        (
            "others between",
            each(&|line| format!("GET / {{200}}\n{{\"event\":\"order\",\"id\":7}}\n{line}\n{{broken\n")),
        ),
    ] {
        assert_eq!(timeline("form", &text, &["--format", "json"]), wanted, "{form}");
    }
}

#[test]
fn a_log_that_is_cut_off_is_told_as_far_as_it_goes() {
    let mut lines = log("abc", 0, 1234);
    lines.pop();
    let text = timeline("cut", &lines.join("\n"), &[]);
    assert!(
        text.contains("POST app:8080/drain") && text.contains("No exit"),
        "{text}"
    );
}

#[test]
fn mixed_tasks_are_a_fleet_with_the_worst_first() {
    let tasks = (0..20).flat_map(|n| log(&format!("task-{n:02}"), 0, 1000 + 100 * n));
    let mut lines: Vec<String> = tasks.chain(log("late", 3, 29_000)).collect();
    lines.sort();
    let text = timeline("fleet", &lines.join("\n"), &[]);
    assert!(text.lines().nth(1).unwrap().contains("late"), "{text}");
    for sentence in [
        "20 of 21 tasks drained in time.",
        "1 × POST http://app:8080/drain was not done when the deadline came",
    ] {
        assert!(text.contains(sentence), "{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn where_there_is_room_the_ids_of_a_fleet_are_whole() {
    let (one, other) = ("0123456789abcdef0123456789abcdef", "f".repeat(32));
    let lines = [log(one, 0, 1000), log(&other, 3, 29_000)].concat();
    let file = std::env::temp_dir().join(format!("ecs-prestop-{}-wide.log", std::process::id()));
    std::fs::write(&file, lines.join("\n")).unwrap();
    let fleet = |columns: &str| {
        let variables = [("LANG", "C.UTF-8"), ("COLUMNS", columns)];
        let output = run(&["timeline", file.to_str().unwrap()], &variables);
        let text = String::from_utf8(output.stdout).unwrap();
        let most: usize = columns.parse().unwrap();
        assert!(text.lines().all(|line| line.chars().count() <= most), "{text}");
        text
    };
    let (narrow, wide) = (fleet("80"), fleet("160"));
    let _ = std::fs::remove_file(&file);
    assert!(wide.contains(one), "{wide}");
    assert!(!narrow.contains(one) && narrow.contains("012345678…"), "{narrow}");
}

#[test]
fn rehearsals_that_were_written_down_are_drawn_and_given_on_as_they_were() {
    let record =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/.github/rehearsal.json")).unwrap();
    let written: Value = serde_json::from_str(&record).unwrap();
    let two = format!("{written}\n{written}\n");
    let document: Value = serde_json::from_str(&timeline("two", &two, &["--format", "json"])).unwrap();
    assert_eq!(document["rehearsals"], json!([written, written]));
    assert_eq!(document["shutdowns"], json!([]));
    let text = timeline("two", &two, &[]);
    assert_eq!(text.matches("With ecs-prestop").count(), 2, "{text}");
    // Beside a real one they are kept, too.
    let mixed = format!("{written}\n{}", log("abc", 0, 1234).join("\n"));
    let document: Value = serde_json::from_str(&timeline("mixed", &mixed, &["--format", "json"])).unwrap();
    assert_eq!(document["rehearsals"].as_array().unwrap().len(), 1);
    assert_eq!(document["shutdowns"].as_array().unwrap().len(), 1);
}

#[test]
fn a_log_without_a_shutdown_is_2_and_says_what_is_expected() {
    use std::io::Write as _;
    let mut process = binary()
        .arg("timeline")
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    process.stdin.take().unwrap().write_all(b"hello\n{}\n").unwrap();
    let output = process.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        complaints(&output).contains("JSON lines"),
        "{}",
        complaints(&output)
    );
}

#[test]
fn the_picture_is_a_file_of_its_own_and_the_same_each_time() {
    let file = std::env::temp_dir().join(format!("ecs-prestop-{}.svg", std::process::id()));
    let draw = || {
        let log = log("abc", 0, 1234).join("\n");
        timeline("drawn", &log, &["--svg", file.to_str().unwrap()]);
        std::fs::read_to_string(&file).unwrap()
    };
    let (first, second) = (draw(), draw());
    let _ = std::fs::remove_file(&file);
    assert_eq!(first, second);
    for part in ["<title", "<desc", "prefers-color-scheme:dark"] {
        assert!(first.contains(part), "{part} is missing");
    }
    assert!(
        !first.contains("href") && first.len() < 8192,
        "it needs nothing else and is small: {}",
        first.len()
    );
}

proptest! {
    #[test]
    fn no_log_makes_it_fail(text in any::<String>(), at in 0_usize..4000, cut in 0_usize..4000) {
        let mut log = log("abc", 0, 1234).join("\n");
        log.truncate(log.len().saturating_sub(cut));
        log.insert_str(at.min(log.len()), &text);
        let mut found = Found::default();
        found.read(&log);
        found.read(&text);
        for shutdown in found.shutdowns() {
            prop_assert!(!shutdown.report.reasons.is_empty());
        }
    }
}
