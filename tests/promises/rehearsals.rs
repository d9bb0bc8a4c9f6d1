//! The rehearsal, as people run it: what it shows can be believed, and nothing of it is left behind.

use std::net::{SocketAddr, TcpListener};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use ecs_prestop::tools::rehearse::record::{Record, RehearsalOutcome};
use rustix::process::Signal;

use crate::process::{Process, binary, complaints, free_address, run};

const PATH: (&str, &str) = ("PATH", "/usr/local/bin:/usr/bin:/bin");

/// Runs it with a sidecar that listens where no other rehearsal's does. A rehearsal that failed and says that this machine
/// was too busy is played again with more time: how fast the machine is, is no matter of these tests.
fn rehearse(arguments: &[&str]) -> Output {
    let play = |arguments: &[&str]| {
        let listen = free_address().to_string();
        run(
            &[&["rehearse"], arguments].concat(),
            &[PATH, ("PRESTOP_LISTEN", &listen)],
        )
    };
    let first = play(arguments);
    let told = String::from_utf8_lossy(&first.stdout).replace("\n  ", " ");
    if first.status.code() != Some(1) || !told.contains("This machine was busy") {
        return first;
    }
    eprintln!("once more with more time: {told}");
    let scale = arguments.iter().position(|argument| *argument == "--scale");
    let others: Vec<&str> = match scale {
        Some(at) => [&arguments[..at], &arguments[at + 2..]].concat(),
        None => arguments.to_vec(),
    };
    play(&[&others[..], &["--scale", "2"]].concat())
}

/// Told in words; the exit code is 0.
fn told(arguments: &[&str]) -> String {
    let output = rehearse(arguments);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}{}", complaints(&output));
    text
}

/// Written down, with the exit code.
fn recorded(arguments: &[&str]) -> (Record, Option<i32>) {
    let output = rehearse(&[&["--format", "json"], arguments].concat());
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let record =
        serde_json::from_str(&text).unwrap_or_else(|why| panic!("{why}: {text}{}", complaints(&output)));
    (record, output.status.code())
}

fn lost(record: &Record) -> Vec<u32> {
    record.runs.iter().map(|run| run.lost).collect()
}

/// A sample app at an address of its own, in place of somebody's.
fn own(address: &str) -> String {
    format!(
        "'{}' sample --listen {address}",
        env!("CARGO_BIN_EXE_ecs-prestop")
    )
}

#[test]
fn without_a_balancer_nothing_is_lost_with_the_sidecar_and_something_without() {
    let (record, code) = recorded(&[]);
    assert_eq!(
        (record.outcome, code),
        (RehearsalOutcome::Passed, Some(0)),
        "{}",
        record.words
    );
    assert!(matches!(lost(&record)[..], [0, (1..)]), "{:?}", lost(&record));
    let with = record.with().unwrap();
    assert_eq!(with.exit_code, Some(0));
    assert!(with.report.as_ref().unwrap().used_ms <= with.report.as_ref().unwrap().budget_ms);
}

#[test]
fn what_is_shown_stands_in_the_order_in_which_it_happened_and_within_80_columns() {
    let text = told(&["drain-endpoint"]);
    let order: Vec<usize> = [
        "SIGTERM to prestop",
        "notice: sigterm",
        "POST http://app:",
        "told to drain",
        "prestop has exited with 0",
        "SIGTERM to app",
    ]
    .map(|part| {
        text.find(part)
            .unwrap_or_else(|| panic!("`{part}` is not in {text}"))
    })
    .to_vec();
    assert!(order.is_sorted(), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours outside of a terminal");
    assert!(
        text.is_ascii(),
        "nothing but ASCII where the locale is not said to have more: {text}"
    );
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn behind_a_load_balancer_nothing_is_lost_once_it_is_told_to_look_away() {
    let (record, _) = recorded(&["load-balancer"]);
    assert!(
        matches!(lost(&record)[..], [0, (1..), (1..)]),
        "{:?}",
        lost(&record)
    );
}

#[test]
fn a_deployment_behind_a_load_balancer_loses_nothing_either_way_and_says_so() {
    let (record, code) = recorded(&["deploy"]);
    assert_eq!((lost(&record), code), (vec![0, 0], Some(0)), "{}", record.words);
    assert!(
        record.words.contains("nothing without the sidecar, either"),
        "{}",
        record.words
    );
}

#[test]
fn a_worker_finishes_the_job_in_hand() {
    assert!(told(&["worker"]).contains("acknowledged by POST /drained"));
}

#[test]
fn a_protected_job_is_waited_for_and_one_without_the_sidecar_is_cut_off() {
    let text = told(&["protected-worker"]);
    assert!(text.contains("this one is protected: waits"), "{text}");
    assert!(text.contains("1 without the sidecar"), "{text}");
}

#[test]
fn a_hung_app_gets_its_own_sigterm() {
    let text = told(&["hung-app"]);
    assert!(
        text.contains("prestop has exited with 3") && !text.contains("SIGKILL to"),
        "{text}"
    );
}

#[test]
fn what_nothing_can_save_is_lost_as_without_and_called_so() {
    let (record, code) = recorded(&["refusing-app"]);
    assert_eq!(
        (record.outcome, code),
        (RehearsalOutcome::LostAsExpected, Some(0)),
        "{}",
        record.words
    );
    assert!(
        record.words.contains("lost, as without a drain"),
        "{}",
        record.words
    );
}

#[test]
fn somebodys_own_app_is_rehearsed_at_its_own_time() {
    let address = free_address().to_string();
    let arguments = [
        "stop-task",
        "--app",
        &format!("http://{address}/slow/1s"),
        "--start",
        &own(&address),
    ];
    let (record, code) = recorded(&[&arguments[..], &["--settle", "3s", "--stop-timeout", "20s"]].concat());
    assert_eq!(
        (record.outcome, code, record.scale),
        (RehearsalOutcome::Passed, Some(0), 1),
        "{}",
        record.words
    );
    assert_eq!(record.stop_timeout_ms, 20_000);
    assert!(matches!(lost(&record)[..], [0, (1..)]), "{:?}", lost(&record));
}

#[test]
fn what_listens_already_is_not_taken_for_the_app() {
    let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = foreign.local_addr().unwrap().to_string();
    let (record, code) = recorded(&["--app", &format!("http://{address}/"), "--start", "sleep 60"]);
    assert_eq!((record.outcome, code), (RehearsalOutcome::Failed, Some(1)));
    assert!(
        record.words.contains(&format!("listens on {address} already")),
        "{}",
        record.words
    );
}

#[test]
fn a_command_that_ends_is_noticed_at_once_with_its_status_and_its_last_lines() {
    let url = format!("http://{}/", free_address());
    let start = "echo no such database >&2; exit 3";
    let output = rehearse(&["--app", &url, "--start", start]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("app's command exited with 3 before the app") && text.contains("no such database"),
        "{text}"
    );
}

#[test]
fn an_app_that_ends_while_it_still_has_to_serve_is_called_so() {
    let ends = |last: &str| {
        let address = free_address().to_string();
        let url = format!("http://{address}/");
        // Clients go on for 10 s after SIGTERM, and the sidecar lets the app serve them.
        let start = format!("{} & sleep 4; kill -KILL $!; echo no disk; {last}", own(&address));
        let output = rehearse(&["no-balancer", "--scale", "1", "--app", &url, "--start", &start]);
        let text = String::from_utf8_lossy(&output.stdout).replace("\n  ", " ");
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.contains("no disk") && !text.contains("This machine was busy"),
            "{text}"
        );
        text
    };
    // By itself: at once, since what answers from then on is not that app.
    let text = ends("exit 9");
    let told = "The app exited with 9 before its SIGTERM, while it still had to serve.";
    assert!(
        text.contains(told) && !text.contains("DNS record's TTL"),
        "{text}"
    );
    // Killed, as for want of memory.
    let text = ends("kill -KILL $$");
    for told in [
        "app has ended by signal 9, before its SIGTERM",
        "Not as it should: the app ended before its SIGTERM;",
    ] {
        assert!(text.contains(told), "`{told}` is missing in:\n{text}");
    }
}

#[test]
fn a_worker_of_ones_own_has_to_say_how_it_is_drained() {
    let output = rehearse(&["--start", "sleep 60"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(complaints(&output).contains("`ack`"), "{}", complaints(&output));
}

#[test]
fn a_worker_of_ones_own_is_drained_by_a_signal_and_needs_no_url() {
    let (record, code) = recorded(&[
        "--start",
        "sleep 600",
        "--drain",
        "signal TERM app",
        "--scale",
        "4",
    ]);
    assert_eq!(
        (record.outcome, code),
        (RehearsalOutcome::Passed, Some(0)),
        "{}",
        record.words
    );
}

#[test]
fn an_app_that_answers_at_once_is_caught_with_a_request_in_flight() {
    let address = free_address().to_string();
    // Not asked any more when SIGTERM comes, and answers within a millisecond.
    let url = format!("http://{address}/healthz");
    let arguments = [
        "fargate-spot",
        "--scale",
        "10",
        "--app",
        &url,
        "--start",
        &own(&address),
    ];
    let (record, code) = recorded(&arguments);
    assert_eq!(
        (record.outcome, code),
        (RehearsalOutcome::Passed, Some(0)),
        "{}",
        record.words
    );
    assert!(record.with().unwrap().at_stake > 0, "{}", record.words);
}

#[test]
fn apps_of_ones_own_are_rehearsed_beside_each_other() {
    let rehearsals: Vec<(String, Process)> = (0..3)
        .map(|_| {
            let address = free_address().to_string();
            let url = format!("http://{address}/slow/1s");
            let mut command = binary();
            command
                .args(["rehearse", "stop-task", "--scale", "3", "--format", "json"])
                .args(["--app", &url, "--start", &own(&address)])
                .envs([PATH])
                .stdout(Stdio::piped());
            (address, Process::start(&mut command))
        })
        .collect();
    for (address, mut process) in rehearsals {
        let lines: Vec<String> = process.lines().iter().collect();
        assert_eq!(process.wait(), Some(0), "{lines:?}");
        let record: Record = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(record.outcome, RehearsalOutcome::Passed, "{}", record.words);
        assert!(TcpListener::bind(&address).is_ok(), "the port is free");
    }
}

#[test]
fn a_signal_step_finds_the_app_of_its_own_rehearsal_among_those_of_others() {
    let started: Vec<Process> = (0..4)
        .map(|_| {
            let mut command = binary();
            command
                .args(["rehearse", "signal", "--format", "json", "--scale", "4"])
                .envs([PATH])
                .stdout(Stdio::piped());
            Process::start(&mut command)
        })
        .collect();
    for mut process in started {
        let lines: Vec<String> = process.lines().iter().collect();
        assert_eq!(process.wait(), Some(0), "{lines:?}");
        let record: Record = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(record.outcome, RehearsalOutcome::Passed, "{}", record.words);
    }
}

#[test]
fn a_worker_that_acknowledges_finds_its_sidecar_or_the_rehearsal_is_refused() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = elsewhere.local_addr().unwrap().to_string();
    let output = run(
        &["rehearse", "--start", "sleep 60", "--drain", "ack"],
        &[PATH, ("PRESTOP_LISTEN", &address)],
    );
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.replace("\n  ", " ")
            .contains(&format!("listens on {address} already")),
        "{text}"
    );
}

#[test]
fn what_the_sidecar_would_refuse_is_said_before_anything_is_started() {
    let url = "http://127.0.0.1:1/";
    for (arguments, part) in [
        (
            &["--app", url, "--start", "touch /nowhere/x", "--scale", "20"][..],
            "--scale 20 makes 1.5 s of the stop timeout of 30 s, and the sidecar takes none below 2 s: --scale 15 at \
             most",
        ),
        (&["--all", "--scale", "60"], "--scale 15 at most"),
        (&["--stop-timeout", "3m"], "--stop-timeout is `3m`"),
        (&["--start", "sleep 60", "--drain", "quit"], "--drain is `quit`"),
    ] {
        let output = rehearse(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            complaints(&output).contains(part),
            "{arguments:?}: {}",
            complaints(&output)
        );
    }
}

#[test]
fn several_scenarios_are_one_call_and_each_has_its_document() {
    let output = rehearse(&["--format", "json", "one-off", "worker"]);
    let names: Vec<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Record>(line).unwrap().scenario)
        .collect();
    assert_eq!(names, ["one-off", "worker"]);
    let output = rehearse(&["--format", "junit", "one-off"]);
    let xml = String::from_utf8(output.stdout).unwrap();
    assert!(
        xml.contains("tests=\"1\" failures=\"0\"") && xml.contains("name=\"one-off\""),
        "{xml}"
    );
}

/// The processes of this machine with that variable in their environment.
fn marked(mark: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let marked = processes.filter(|process| {
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == mark.as_bytes())
    });
    marked
        .map(|process| process.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Starts a rehearsal, interrupts it after a while, and says what of it is left.
fn interrupted(arguments: &[&str], after: Duration, signal: Signal) -> Vec<String> {
    interrupted_at(arguments, after, signal, free_address())
}

fn interrupted_at(arguments: &[&str], after: Duration, signal: Signal, listen: SocketAddr) -> Vec<String> {
    let mark = format!(
        "REHEARSED_BY={}-{}-{}",
        std::process::id(),
        after.as_micros(),
        signal.as_raw()
    );
    let (name, value) = mark.split_once('=').unwrap();
    let listen = listen.to_string();
    let mut command = binary();
    command
        .arg("rehearse")
        .args(arguments)
        .envs([PATH, (name, value), ("PRESTOP_LISTEN", &listen)]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = Process::start(&mut command);
    std::thread::sleep(after);
    process.signal(signal);
    process.wait();
    // Nobody can wait for what a killed supervisor leaves to its player.
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let left = marked(&mark);
        if left.is_empty() || Instant::now() >= end {
            return left;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn whoever_interrupts_it_nothing_is_left_behind() {
    let address = free_address().to_string();
    let url = format!("http://{address}/");
    let start = own(&address);
    // Leaves its session, and ignores whatever can be ignored.
    let stubborn = format!("trap '' TERM INT HUP; setsid sleep 500 & {start} & while :; do sleep 400; done");
    for (signal, after) in [
        (Signal::INT, 300),
        (Signal::TERM, 900),
        (Signal::HUP, 1700),
        (Signal::KILL, 1200),
    ] {
        for start in [&start, &stubborn] {
            let left = interrupted(
                &["--app", &url, "--start", start],
                Duration::from_millis(after),
                signal,
            );
            assert_eq!(left, Vec::<String>::new(), "after {signal:?} to `{start}`");
            assert!(
                TcpListener::bind(&address).is_ok(),
                "the port is free after {signal:?}"
            );
        }
    }
}

/// How often the test interrupts; `REHEARSALS_INTERRUPTED=100` does it a hundred times.
const INTERRUPTED: u32 = 12;

/// Numbers that look random and are the same each time (Steele and others, *SplitMix*).
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % most
    }
}

#[test]
fn interrupted_at_any_moment_of_any_scenario_it_leaves_neither_processes_nor_ports() {
    let listed = run(&["rehearse", "--list"], &[]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    let names: Vec<&str> = listed
        .lines()
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let times = std::env::var("REHEARSALS_INTERRUPTED")
        .ok()
        .and_then(|n| n.parse().ok());
    let mut chance = Chance(17);
    for _ in 0..times.unwrap_or(INTERRUPTED) {
        let pick = |chance: &mut Chance, n: usize| usize::try_from(chance.below(n as u64)).unwrap();
        let scenario = names[pick(&mut chance, names.len())];
        let signals = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::KILL];
        let signal = signals[pick(&mut chance, signals.len())];
        let after = Duration::from_millis(chance.below(8000));
        let told = format!("{signal:?} after {after:?} of {scenario}");
        if std::env::var_os("REHEARSALS_INTERRUPTED").is_some() {
            eprintln!("{told}");
        }
        let listen = free_address();
        let left = interrupted_at(&[scenario], after, signal, listen);
        assert_eq!(left, Vec::<String>::new(), "{told}");
        assert!(
            TcpListener::bind(listen).is_ok(),
            "the sidecar's port is taken: {told}"
        );
    }
}

#[test]
fn a_shell_that_forks_neither_hangs_the_rehearsal_nor_outlives_it() {
    let address = free_address().to_string();
    let start = format!("sleep 700 & {} & wait", own(&address));
    let arguments = [
        "stop-task",
        "--scale",
        "10",
        "--app",
        &format!("http://{address}/"),
        "--start",
        &start,
    ];
    let (record, _) = recorded(&arguments);
    assert!(record.with().is_some(), "{}", record.words);
    assert!(TcpListener::bind(&address).is_ok(), "the port is free");
}

#[test]
fn a_job_longer_than_any_stop_timeout_is_seen_through_in_a_deployment_and_cut_off_without_the_sidecar() {
    let (record, code) = recorded(&["superseded"]);
    assert_eq!(
        (record.outcome, code),
        (RehearsalOutcome::Passed, Some(0)),
        "{}",
        record.words
    );
    assert_eq!(lost(&record), [0, 1], "{}", record.words);
}
