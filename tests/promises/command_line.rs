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

#[test]
fn health_has_no_options_but_its_own() {
    let output = run(&["health", "--help"], &[]);
    let help = String::from_utf8(output.stdout).unwrap();
    let flags: Vec<&str> = help
        .split_whitespace()
        .filter(|word| word.starts_with("--"))
        .collect();
    assert_eq!(flags, ["--listen", "--help"], "{help}");
    assert_eq!(run(&["health", "--drain", "ack"], &[]).status.code(), Some(2));
}

#[test]
fn a_flag_that_is_true_or_false_needs_no_value() {
    // Refused for what follows, and so for nothing that stands before.
    for arguments in [
        &["--deregister", "--drain-instance", "--reserve", "2h"][..],
        &["run", "--deregister", "--reserve", "2h"],
        &[
            "run",
            "--deregister=false",
            "--drain-instance",
            "true",
            "--reserve",
            "2h",
        ],
    ] {
        let output = run(arguments, &[]);
        assert_eq!(output.status.code(), Some(78), "{arguments:?}");
        assert_eq!(complaints(&output).lines().count(), 1, "{}", complaints(&output));
    }
    let output = run(&["--deregister=maybe"], &[]);
    assert!(
        complaints(&output).contains("`false` or `true`"),
        "{}",
        complaints(&output)
    );
}

#[test]
fn help_is_as_wide_as_the_terminal() {
    let widest = |columns: &str| {
        let output = run(&["run", "--help"], &[("COLUMNS", columns)]);
        let help = String::from_utf8(output.stdout).unwrap();
        help.lines().map(|line| line.chars().count()).max().unwrap()
    };
    assert!((60..=80).contains(&widest("80")));
    assert!((101..=140).contains(&widest("140")));
}

#[test]
fn completions_know_every_command_and_setting_in_each_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = run(&["completions", shell], &[]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        let script = String::from_utf8(output.stdout).unwrap();
        for word in ["rehearse", "check", "timeline"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        for setting in ecs_prestop::config::SETTINGS {
            assert!(script.contains(&setting.flag()), "{shell}: {}", setting.name);
        }
    }
    assert_eq!(run(&["completions", "csh"], &[]).status.code(), Some(2));
}

#[test]
fn the_manual_has_every_setting_and_a_page_for_each_command() {
    let page = |arguments: &[&str]| {
        let output = run(arguments, &[]);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let all = page(&["man"]);
    for setting in ecs_prestop::config::SETTINGS {
        assert!(all.contains(&setting.variable()), "{}", setting.name);
    }
    for command in ["health", "check", "add", "simulate", "rehearse", "timeline"] {
        assert!(
            all.contains(&format!("ecs\\-prestop\\-{command}(1)")),
            "{command}"
        );
        assert!(page(&["man", command]).starts_with(".ie"), "{command}");
    }
    let output = run(&["man", "chek"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(complaints(&output).contains("check"), "{}", complaints(&output));
}

#[test]
fn each_scenario_of_a_rehearsal_names_where_it_is_written_that_aws_does_so() {
    let output = run(&["rehearse", "--list"], &[]);
    let list = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines.len() >= 36, "{list}");
    for pair in lines.chunks(2) {
        let source = pair[1].trim_start();
        assert!(
            !pair[0].starts_with(' ') && source.starts_with("source: ") && source.len() > 20,
            "{pair:?}"
        );
    }
}

/// What the program writes to a terminal of its own, with these variables.
fn on_a_terminal(command: &str, variables: &[(&str, &str)]) -> Option<String> {
    if !crate::process::is_here("script of util-linux", &["script", "--version"]) {
        return None;
    }
    let command = format!("'{}' {command}", env!("CARGO_BIN_EXE_ecs-prestop"));
    let output = std::process::Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .envs(variables.iter().copied())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn colours_are_where_a_terminal_has_them_and_nobody_has_said_otherwise() {
    const PAINTED: &str = "\u{1b}[";
    let picture = concat!("timeline ", env!("CARGO_MANIFEST_DIR"), "/.github/rehearsal.json");
    // Refused for its port only after its log has begun; so it ends by itself.
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let sidecar = format!("run --listen {} --drain ack", holder.local_addr().unwrap());
    for command in [picture, sidecar.as_str()] {
        for (flag, variables, painted) in [
            ("", &[("TERM", "xterm")][..], true),
            ("--color auto", &[("TERM", "xterm")], true),
            ("", &[("TERM", "dumb")], false),
            ("", &[("TERM", "xterm"), ("NO_COLOR", "1")], false),
            ("--color never", &[("TERM", "xterm")], false),
            ("--color always", &[("TERM", "dumb"), ("NO_COLOR", "1")], true),
        ] {
            let Some(text) = on_a_terminal(&format!("{command} {flag}"), variables) else {
                return;
            };
            assert!(text.len() > 20, "{command} {flag} {variables:?}: {text}");
            assert_eq!(
                text.contains(PAINTED),
                painted,
                "{command} {flag} {variables:?}: {text}"
            );
        }
        // Not a terminal.
        let arguments: Vec<&str> = command.split(' ').chain(["--color", "always"]).collect();
        let output = run(&arguments, &[("PRESTOP_LOG_FORMAT", "text")]);
        assert!(
            String::from_utf8_lossy(&output.stdout).contains(PAINTED),
            "{command}"
        );
        let output = run(
            &arguments[..arguments.len() - 2],
            &[("PRESTOP_LOG_FORMAT", "text"), ("TERM", "xterm")],
        );
        assert!(
            !String::from_utf8_lossy(&output.stdout).contains(PAINTED),
            "{command}"
        );
    }
    assert_eq!(run(&["--color", "sometimes"], &[]).status.code(), Some(2));
}
