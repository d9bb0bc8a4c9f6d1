//! Each exit code, from the real process; and that it is never late.

use std::io::Write;
use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::process::{NOT_FOUND, OK, Process, Sidecar, app, binary, complaints, free_address, run};

fn drain(address: std::net::SocketAddr) -> String {
    format!("POST http://{address}/drain")
}

/// The shortest whose margin before SIGKILL is a whole second: as long as this machine may let a process
/// wait for its turn.
const STOP_TIMEOUT: &str = "10s";
const SIGKILL: Duration = Duration::from_secs(10);

#[test]
fn drained_in_time_is_0_and_the_last_line_tells_the_whole_story() {
    let (address, requests) = app(Some(OK));
    let mut sidecar = Sidecar::start(&[("PRESTOP_DRAIN", &drain(address))]);
    assert_eq!(sidecar.stop(), Some(0));
    assert!(requests.recv().unwrap().starts_with("POST /drain HTTP/1.1\r\n"));
    let names: Vec<&str> = sidecar
        .events
        .iter()
        .map(|event| event["event"].as_str().unwrap())
        .collect();
    let story = [
        "start",
        "watch",
        "notice",
        "step.start",
        "step.call",
        "step.end",
        "drained",
        "exit",
    ];
    assert_eq!(names, story);
    let exit = sidecar.events.last().unwrap();
    assert_eq!(exit["code"], 0);
    assert_eq!(exit["budget_ms"], 29_000);
    assert_eq!(exit["reasons"][0], "sigterm");
    assert_eq!(exit["steps"][0]["outcome"], "drained");
    let timeline = exit["timeline"].as_array().unwrap();
    assert_eq!(timeline.len(), 6, "from notice to exit: {timeline:?}");
    assert!(timeline.iter().all(|moment| moment["ms"].is_u64()));
    for event in &sidecar.events {
        assert!(
            event["timestamp"].is_string() && event["level"].is_string(),
            "{event}"
        );
    }
}

#[test]
fn a_step_that_failed_for_good_is_4() {
    let (address, _requests) = app(Some(NOT_FOUND));
    let mut sidecar = Sidecar::start(&[("PRESTOP_DRAIN", &drain(address))]);
    assert_eq!(sidecar.stop(), Some(4));
}

#[test]
fn a_hung_app_is_3_and_sigkill_at_the_stop_timeout_comes_too_late() {
    let (address, _requests) = app(None);
    let timeout = ("PRESTOP_STOP_TIMEOUT", STOP_TIMEOUT);
    let mut sidecar = Sidecar::start(&[("PRESTOP_DRAIN", &drain(address)), timeout]);
    let sigkill = Instant::now() + SIGKILL;
    sidecar.process.signal(Signal::TERM);
    let code = sidecar
        .process
        .wait_until(sigkill)
        .expect("SIGKILL would have hit it");
    assert_eq!(code, Some(3));
    sidecar.await_event("deadline");
    sidecar.await_event("exit");
}

#[test]
fn a_full_pipe_that_nobody_reads_does_not_make_it_late() {
    let (address, _requests) = app(None);
    let full = || {
        let (reader, mut pipe) = std::io::pipe().unwrap();
        pipe.write_all(&[b'x'; 65_536]).unwrap();
        (reader, pipe)
    };
    let ((_out, stdout), (_err, stderr)) = (full(), full());
    let mut command = binary();
    command
        .env("PRESTOP_DRAIN", drain(address))
        .env("PRESTOP_STOP_TIMEOUT", STOP_TIMEOUT)
        .env("PRESTOP_LISTEN", "off")
        .env("PRESTOP_LOG", "trace")
        .stdout(stdout)
        .stderr(stderr);
    let mut process = Process::start(&mut command);
    process.await_handlers();
    let sigkill = Instant::now() + SIGKILL;
    process.signal(Signal::TERM);
    let code = process.wait_until(sigkill).expect("SIGKILL would have hit it");
    assert_eq!(code, Some(3));
}

#[test]
fn a_log_whose_reader_has_gone_is_no_reason_to_stop_draining() {
    let (address, requests) = app(Some(OK));
    let (reader, pipe) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = binary();
    command
        .env("PRESTOP_DRAIN", drain(address))
        .env("PRESTOP_LISTEN", "off")
        .stdout(pipe);
    let mut process = Process::start(&mut command);
    process.await_handlers();
    process.signal(Signal::TERM);
    assert_eq!(process.wait(), Some(0));
    assert!(requests.recv().is_ok());
}

#[test]
fn a_second_sigint_is_130_at_once() {
    let (address, _requests) = app(None);
    let mut sidecar = Sidecar::start(&[("PRESTOP_DRAIN", &drain(address))]);
    sidecar.process.signal(Signal::INT);
    let notice = sidecar.await_event("notice");
    assert_eq!(
        notice["reason"], "sigterm",
        "SIGINT is SIGTERM for people at a terminal"
    );
    sidecar.process.signal(Signal::INT);
    assert_eq!(sidecar.process.wait(), Some(130));
}

#[test]
fn sighup_counts_as_sigterm_even_where_it_was_ignored_before() {
    let (address, requests) = app(Some(OK));
    for ignored in ["", "trap '' HUP; "] {
        let script = format!("{ignored}exec {}", env!("CARGO_BIN_EXE_ecs-prestop"));
        let mut command = std::process::Command::new("/bin/sh");
        command
            .args(["-c", &script])
            .env_clear()
            .env("PRESTOP_DRAIN", drain(address))
            .env("PRESTOP_LISTEN", "off")
            .stdout(Stdio::null());
        let mut process = Process::start(&mut command);
        process.await_handlers();
        process.signal(Signal::HUP);
        assert_eq!(process.wait(), Some(0), "`{ignored}`");
        assert_eq!(requests.try_iter().count(), 1, "`{ignored}`");
    }
}

#[test]
fn other_signals_end_nothing_and_are_named_once_each() {
    let (address, requests) = app(Some(OK));
    let mut sidecar = Sidecar::start(&[("PRESTOP_DRAIN", &drain(address))]);
    let others = [
        (Signal::USR1, "SIGUSR1"),
        (Signal::USR2, "SIGUSR2"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::ALARM, "SIGALRM"),
        (Signal::VTALARM, "SIGVTALRM"),
        (Signal::PROF, "SIGPROF"),
        (Signal::IO, "SIGIO"),
        (Signal::XCPU, "SIGXCPU"),
        (Signal::XFSZ, "SIGXFSZ"),
        (Signal::POWER, "SIGPWR"),
        (Signal::STKFLT, "SIGSTKFLT"),
    ];
    let named = |event: &serde_json::Value, name: &str| {
        event["event"] == "watch"
            && event["message"]
                .as_str()
                .is_some_and(|message| message.contains(name))
    };
    for (signal, name) in others {
        sidecar.process.signal(signal);
        while !named(&sidecar.await_event("watch"), name) {}
        sidecar.process.signal(signal);
    }
    assert_eq!(sidecar.stop(), Some(0), "it has drained at SIGTERM, not before");
    assert_eq!(requests.try_iter().count(), 1);
    for (_, name) in others {
        let lines = sidecar.events.iter().filter(|event| named(event, name)).count();
        assert_eq!(lines, 1, "{name}: {:#?}", sidecar.events);
    }
}

#[test]
fn an_exit_that_is_not_0_is_a_warning_or_an_error() {
    let (hangs, _requests) = app(None);
    let (fails, _requests) = app(Some(NOT_FOUND));
    let (well, _requests) = app(Some(OK));
    for (address, code, level) in [(well, 0, "info"), (hangs, 3, "warn"), (fails, 4, "error")] {
        let mut sidecar =
            Sidecar::start(&[("PRESTOP_DRAIN", &drain(address)), ("PRESTOP_STOP_TIMEOUT", "2s")]);
        sidecar.process.signal(Signal::TERM);
        let exit = sidecar.await_event("exit");
        assert_eq!(
            (&exit["code"], &exit["level"]),
            (&code.into(), &level.into()),
            "{exit}"
        );
    }
}

#[test]
fn a_hundred_signals_are_one_drain() {
    let (address, requests) = app(Some(OK));
    let mut sidecar = Sidecar::start(&[("PRESTOP_DRAIN", &drain(address)), ("PRESTOP_SETTLE", "300ms")]);
    for _ in 0..100 {
        sidecar.process.signal(Signal::TERM);
    }
    assert_eq!(sidecar.process.wait(), Some(0));
    assert_eq!(requests.try_iter().count(), 1);
}

#[test]
fn a_sigterm_while_it_starts_is_not_lost() {
    let (address, requests) = app(Some(OK));
    for _ in 0..10 {
        let mut command = binary();
        command
            .env("PRESTOP_DRAIN", drain(address))
            .env("PRESTOP_LISTEN", "off")
            .stdout(Stdio::null());
        let mut process = Process::start(&mut command);
        // At once, while settings are read and watchers started.
        process.await_handlers();
        process.signal(Signal::TERM);
        assert_eq!(process.wait(), Some(0));
        assert_eq!(requests.try_iter().count(), 1);
    }
}

#[test]
fn wrong_settings_are_78_all_at_once_and_before_anything_starts() {
    let output = run(
        &[],
        &[
            ("PRESTOP_STOP_TIMEOUT", "121s"),
            ("PRESTOP_STOPTIMEOUT", "1"),
            ("PRESTOP_DRAIN", "dance"),
        ],
    );
    assert_eq!(output.status.code(), Some(78));
    let complaints = complaints(&output);
    assert_eq!(complaints.lines().count(), 3, "{complaints}");
    assert!(output.stdout.is_empty());
    insta::assert_snapshot!("wrong_settings", complaints);
}

/// The level of the `exit` line, and whether an error before or in it says why.
fn reason_in_log(output: &std::process::Output) -> (String, bool) {
    let log = String::from_utf8_lossy(&output.stdout).into_owned();
    let events: Vec<serde_json::Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let level = events
        .last()
        .map(|exit| exit["level"].as_str().unwrap_or_default().to_owned());
    let reason = events
        .iter()
        .any(|event| event["level"] == "error" && event["message"].is_string());
    (level.unwrap_or_default(), reason)
}

#[test]
fn an_ack_that_nobody_can_send_is_78() {
    let output = run(&[], &[("PRESTOP_DRAIN", "ack"), ("PRESTOP_LISTEN", "off")]);
    assert_eq!(output.status.code(), Some(78));
    assert!(
        complaints(&output).contains("PRESTOP_LISTEN is `off`"),
        "{output:?}"
    );
}

#[test]
fn without_any_step_it_is_quiet() {
    let mut sidecar = Sidecar::start(&[]);
    assert_eq!(sidecar.events[0]["drain"], "quiet");
    sidecar.process.signal(Signal::INT);
    sidecar.process.signal(Signal::INT);
    sidecar.await_event("exit");
    sidecar.process.wait();
}

#[test]
fn a_process_that_is_given_no_file_descriptors_is_a_fault_and_1() {
    let script = format!(
        "ulimit -n 4; exec {} --drain ack",
        env!("CARGO_BIN_EXE_ecs-prestop")
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", complaints(&output));
    assert!(complaints(&output).contains("cannot"), "{}", complaints(&output));
}

#[test]
fn a_listen_address_that_is_taken_is_78() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&[], &[("PRESTOP_DRAIN", "ack"), ("PRESTOP_LISTEN", &address)]);
    assert_eq!(output.status.code(), Some(78));
    let complaints = complaints(&output);
    assert!(
        complaints.contains(&address) && complaints.contains("Choose another port"),
        "{complaints}"
    );
    assert_eq!(reason_in_log(&output), ("error".to_owned(), true), "{output:?}");
}

#[test]
fn an_app_that_is_already_dead_costs_five_seconds_at_most_and_is_4() {
    let gone = free_address();
    let mut sidecar = Sidecar::start(&[("PRESTOP_DRAIN", &drain(gone)), ("PRESTOP_STOP_TIMEOUT", "20s")]);
    assert_eq!(sidecar.stop(), Some(4));
}

#[test]
fn the_exit_line_has_cloudwatch_metrics_where_they_are_wanted_and_only_there() {
    for (metrics, there) in [("emf", true), ("off", false)] {
        let mut sidecar = Sidecar::start(&[("PRESTOP_DRAIN", "sleep 100ms"), ("PRESTOP_METRICS", metrics)]);
        sidecar.process.signal(Signal::TERM);
        let exit = sidecar.await_event("exit");
        assert_eq!(exit.get("_aws").is_some(), there, "{exit}");
        assert_eq!(exit["NotDrained"].as_u64(), there.then_some(0), "{exit}");
        assert!(exit["result"].is_string(), "{exit}");
    }
}
