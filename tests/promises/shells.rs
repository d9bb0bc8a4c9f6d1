//! What `check` believes of shells (PS020) is what the shells of this machine do.

use std::io::Read;
use std::process::{Command, Stdio};

use ecs_prestop::tools::check::rules::signals::script::{Fate, Shell, fate};

/// Prints the id of the process that it runs in: that of the shell, if the shell has made room for it.
const APP: &str = "/usr/bin/readlink /proc/self";

/// Scripts in which `APP` stands for the app, which would run for long.
const SCRIPTS: [&str; 48] = [
    "APP",
    "A=b APP",
    "APP 2>&1",
    "APP </dev/null",
    "APP > /proc/self/fd/1",
    "true && APP",
    "true; APP",
    "cd / && APP",
    "true\nAPP",
    "true\nAPP\n",
    "APP;",
    "APP # comment",
    "# comment\nAPP",
    "true &&\nAPP",
    "true && \\\n APP",
    "false || APP",
    "set -e; export A=b; APP",
    "set -e; cd / && APP",
    "true; true; true && APP",
    "true; true\ntrue && APP",
    "true;\ntrue && APP",
    "true && true; APP",
    "true && true &&\ntrue && APP",
    "true; false || APP",
    "true &\ntrue && APP",
    "if true; then true; fi; APP",
    "for a in 1; do true; done; APP",
    "if true; then APP; fi",
    "if false; then true; else APP; fi",
    "{ APP; }",
    "( APP )",
    "case a in a) APP;; esac",
    "true | cat; APP",
    "echo x | APP",
    "APP | cat",
    "true && APP | cat",
    "cat <<E >/dev/null\nx\nE\nAPP",
    "APP <<E\nx\nE",
    "true & APP",
    "trap 'exit' TERM; APP",
    "f() { APP; }; f",
    "f() { true; }; f; APP",
    "! APP",
    "time APP",
    "eval APP",
    "true && exec APP",
    "if true; then exec APP; fi",
    "X=$(true; echo \"a; b\"); APP",
];

/// The words that start a shell; the second is a name for the case that the first is not there.
const SHELLS: [(Shell, &[&str]); 4] = [
    (Shell::Bash, &["bash"]),
    (Shell::Bash, &["bash", "--posix"]),
    (Shell::Dash, &["dash"]),
    (Shell::Ash, &["busybox", "sh"]),
];

/// Whether the shell made room for the app; `None` where there is no such shell here.
fn makes_room(words: &[&str], script: &str) -> Option<bool> {
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .args(["-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut printed = String::new();
    child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    let id = child.id().to_string();
    child.wait().unwrap();
    assert!(!printed.trim().is_empty(), "{words:?}: {script} runs no app");
    Some(printed.trim() == id)
}

#[test]
fn each_shell_does_what_check_believes_of_it() {
    let mut tried = 0;
    for (shell, words) in SHELLS {
        for script in SCRIPTS {
            let script = script.replace("APP", APP);
            let Some(room) = makes_room(words, &script) else {
                eprintln!("{} is not installed here: left out", words[0]);
                break;
            };
            tried += 1;
            let believed = match fate(shell, &script) {
                Fate::MakesRoom(said) => {
                    assert_eq!(said.join(" "), APP, "{script}");
                    true
                }
                Fate::StaysForCommand | Fate::StaysInLoop => false,
                // A trap: whoever sets one has thought of it.
                Fate::Unclear => {
                    assert!(script.contains("trap"), "{script}");
                    continue;
                }
            };
            assert_eq!(believed, room, "{words:?} -c {script:?} makes room");
        }
    }
    // Every machine has a shell, though it may not be one of these.
    eprintln!("{tried} scripts tried");
}
