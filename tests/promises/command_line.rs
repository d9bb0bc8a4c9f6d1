//! The command line: what it refuses with 2, what `--help` says, what `health` answers.

use crate::process::{Sidecar, complaints, free_address, run};

#[test]
fn wrong_flags_and_subcommands_are_2_and_say_what_there_is() {
    for (arguments, part) in [
        (&["--stop-timout", "3"][..], "--stop-timeout"),
        (&["rum"], "run"),
        (&["rehearse", "deplo"], "deploy"),
        (&["rehearse", "--app", "http://127.0.0.1:1/"], "--start"),
        (&["rehearse", "--app", "ftp://x", "--start", "true"], "http://"),
        (
            &["rehearse", "hung-app", "--app", "http://x", "--start", "true"],
            "ec2-spot",
        ),
        (
            &["rehearse", "worker", "--app", "http://x", "--start", "true"],
            "sample app",
        ),
        (&["timeline", "/nowhere"], "/nowhere"),
        (&["simulate", "--listen", "here"], "--listen"),
        (
            &["simulate", "--task-definition", "/no/such/file"],
            "/no/such/file",
        ),
    ] {
        let output = run(arguments, &[]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            complaints(&output).contains(part),
            "{arguments:?}: {}",
            complaints(&output)
        );
    }
}

#[test]
fn no_scenario_is_proposed_that_is_far_from_what_was_meant() {
    let output = run(&["rehearse", "spott"], &[]);
    assert_eq!(output.status.code(), Some(2));
    let complaints = complaints(&output);
    assert!(
        !complaints.contains("similar value exists: 'protect"),
        "{complaints}"
    );
}

#[test]
fn a_flag_with_a_wrong_value_is_78_like_its_variable() {
    let output = run(&["--drain", "ack", "--reserve", "2h"], &[]);
    assert_eq!(output.status.code(), Some(78));
    assert!(
        complaints(&output).contains("--reserve is `2h`"),
        "{}",
        complaints(&output)
    );
}

#[test]
fn help_lists_every_setting_with_its_variable_and_default() {
    let output = run(&["run", "--help"], &[]);
    let help = String::from_utf8(output.stdout).unwrap();
    for setting in ecs_prestop::config::SETTINGS {
        assert!(
            help.contains(&format!("--{} ", setting.flag())),
            "{}",
            setting.name
        );
        assert!(
            help.contains(&format!("[{}]", setting.variable())),
            "{}",
            setting.name
        );
    }
}

#[test]
fn health_is_0_beside_a_healthy_sidecar_and_1_with_the_reason_beside_none() {
    let sidecar = Sidecar::start(&[("PRESTOP_DRAIN", "ack")]);
    let listen = sidecar.address.to_string();
    assert_eq!(
        run(&["health"], &[("PRESTOP_LISTEN", &listen)]).status.code(),
        Some(0)
    );
    let everywhere = format!("0.0.0.0:{}", sidecar.address.port());
    assert_eq!(
        run(&["health"], &[("PRESTOP_LISTEN", &everywhere)]).status.code(),
        Some(0)
    );

    let nobody = free_address().to_string();
    let output = run(&["health", "--listen", &nobody], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        complaints(&output).contains("no sidecar answers"),
        "{}",
        complaints(&output)
    );
    let output = run(&["health"], &[("PRESTOP_LISTEN", "off")]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn health_beside_a_process_that_does_not_answer_is_1() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let output = run(&["health"], &[("PRESTOP_LISTEN", &address)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        complaints(&output).contains("does not answer within 1.5 s"),
        "{}",
        complaints(&output)
    );
}
