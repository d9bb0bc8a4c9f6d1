//! The rehearsal, as people run it.

use crate::process::{free_address, run};

fn rehearse(arguments: &[&str]) -> String {
    let output = run(&[&["rehearse"], arguments].concat(), &[("PATH", "/usr/bin:/bin")]);
    let text = String::from_utf8(output.stdout).unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}{complaints}");
    text
}

#[test]
fn a_deployment_loses_nothing_with_the_sidecar_and_something_without() {
    let text = rehearse(&[]);
    let verdict = text.lines().find(|line| line.starts_with("Verdict:")).unwrap();
    assert!(
        verdict.contains(" 0 lost") && verdict.contains("exit code 0"),
        "{text}"
    );
    assert!(!verdict.ends_with("without it 0 lost"), "{text}");
    let at = |part: &str| {
        text.find(part)
            .unwrap_or_else(|| panic!("`{part}` is not in {text}"))
    };
    // Only what one speaker says has an order: the lines of two processes come as they are read.
    let ecs = [
        "SIGTERM to prestop",
        "prestop has exited with 0",
        "SIGTERM to app",
    ]
    .map(at);
    assert!(ecs.is_sorted(), "{text}");
    let sidecar = ["notice: sigterm", "POST http://app:", ": HTTP 200"].map(at);
    assert!(sidecar.is_sorted(), "{text}");
    at("told to drain");
    assert!(!text.contains('\u{1b}'), "no colours outside of a terminal");
    assert!(
        text.lines()
            .filter(|line| !line.starts_with("Verdict:"))
            .all(|line| line.chars().count() <= 80),
        "{text}"
    );
}

#[test]
fn behind_a_load_balancer_nothing_is_lost_once_it_is_told_to_look_away() {
    let text = rehearse(&["load-balancer"]);
    let lost = text
        .lines()
        .find(|line| line.trim_start().starts_with("lost: 0 with PRESTOP_DEREGISTER"));
    assert!(lost.is_some_and(|line| !line.contains(", 0 with")), "{text}");
}

#[test]
fn a_worker_finishes_the_job_in_hand() {
    assert!(rehearse(&["worker"]).contains("acknowledged by POST /drained"));
}

#[test]
fn a_protected_job_is_waited_for_and_one_without_the_sidecar_is_cut_off() {
    let text = rehearse(&["protected-worker"]);
    assert!(text.contains("this one is protected: waits"), "{text}");
    assert!(
        text.contains(" 0 lost") && text.contains("without it 1 lost"),
        "{text}"
    );
}

#[test]
fn a_hung_app_gets_its_own_sigterm() {
    let text = rehearse(&["hung-app"]);
    assert!(
        text.contains("prestop has exited with 3") && !text.contains("SIGKILL to"),
        "{text}"
    );
}

#[test]
fn somebodys_own_app_is_rehearsed_in_place_of_the_sample() {
    let address = free_address();
    let start = format!("{} sample --listen {address}", env!("CARGO_BIN_EXE_ecs-prestop"));
    let text = rehearse(&["--app", &format!("http://{address}/"), "--start", &start]);
    assert!(text.contains(&format!("POST http://{address}/drain")), "{text}");
}
