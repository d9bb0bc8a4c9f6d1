//! README and the pages that it leads to say what the program does.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::{free_address, is_here, run};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn text_of(page: &str) -> String {
    let path = Path::new(ROOT).join(page);
    std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

fn readme() -> String {
    text_of("README.md")
}

/// What stands between the first fence of that kind and its end.
fn block<'t>(text: &'t str, fence: &str) -> &'t str {
    let inside = text.split(&format!("```{fence}\n")).nth(1).unwrap();
    inside.split("```").next().unwrap()
}

#[test]
fn the_table_of_settings_has_each_with_its_default_and_meaning() {
    let reference = text_of("task-definitions/reference.md");
    for setting in ecs_prestop::config::SETTINGS {
        let row = reference
            .lines()
            .find(|line| line.starts_with(&format!("| `{}` |", setting.variable())));
        let row = row.unwrap_or_else(|| {
            panic!(
                "task-definitions/reference.md has no row of {}: write | `{}` | `DEFAULT` | MEANING |",
                setting.name,
                setting.variable()
            )
        });
        assert!(row.ends_with(&format!("| {} |", setting.meaning)), "{row}");
        assert!(
            setting.default.is_empty() || row.contains(&format!("| `{}` |", setting.default)),
            "{row}"
        );
    }
}

/// The file that the README's first picture is drawn from, and the picture.
const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/.github/rehearsal.json");
const PICTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/.github/rehearsal.svg");

#[test]
fn its_pictures_are_what_the_command_that_it_names_draws() {
    let svg = std::env::temp_dir().join(format!("ecs-prestop-readme-{}.svg", std::process::id()));
    let arguments = ["timeline", RECORD, "--svg", svg.to_str().unwrap()];
    let output = run(&arguments, &[("LANG", "C.UTF-8")]);
    let drawn = std::fs::read_to_string(&svg).unwrap();
    let _ = std::fs::remove_file(&svg);
    let again = "made again by `cargo run -- timeline .github/rehearsal.json --svg .github/rehearsal.svg`";
    assert!(
        drawn == std::fs::read_to_string(PICTURE).unwrap(),
        ".github/rehearsal.svg has to be {again}"
    );
    assert!(readme().contains("`cargo run -- timeline .github/rehearsal.json --svg .github/rehearsal.svg`"));
    let text = String::from_utf8(output.stdout).unwrap();
    let picture = &text[text.find("With ecs-prestop").unwrap()..];
    assert!(
        text_of("task-definitions/rehearse.md").contains(picture),
        "the text of task-definitions/rehearse.md has to be {again}:\n{picture}"
    );
}

/// The commands of the README that a test cannot run: the first is what runs the tests.
const NOT_HERE: [&str; 1] = ["./tests/run"];

#[test]
fn its_commands_run_as_they_stand() {
    if !is_here("python3", &["python3", "--version"]) {
        return;
    }
    // Cargo is building this very test: what it would start is started without it.
    let bin = std::env::temp_dir().join(format!("ecs-prestop-commands-{}", std::process::id()));
    std::fs::create_dir_all(&bin).unwrap();
    let cargo = bin.join("cargo");
    let script = format!(
        "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nexec '{}' \"$@\"\n",
        env!("CARGO_BIN_EXE_ecs-prestop")
    );
    std::fs::write(&cargo, script).unwrap();
    std::fs::set_permissions(&cargo, std::fs::Permissions::from_mode(0o755)).unwrap();
    let readme = readme();
    let outside_fences: String = readme.split("```").step_by(2).collect();
    // A command may go on in the next line, for narrow screens.
    let outside_fences = outside_fences.replace("\\\n", "");
    let commands: Vec<&str> = outside_fences
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .collect();
    assert!(commands.len() >= 5, "{commands:?}");
    // All at once: most of a rehearsal is waiting.
    let started: Vec<_> = commands
        .into_iter()
        .filter(|command| !NOT_HERE.contains(command))
        .map(|command| {
            // Somebody may have an app on 8080 here.
            let command = command.replace("8080", &free_address().port().to_string());
            let child = Command::new("sh")
                .args(["-c", &command])
                .current_dir(ROOT)
                .env_clear()
                .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display()))
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn();
            (command, child.unwrap())
        })
        .collect();
    let ended: Vec<_> = started
        .into_iter()
        .map(|(command, child)| (command, child.wait_with_output().unwrap()))
        .collect();
    let _ = std::fs::remove_dir_all(&bin);
    for (command, output) in ended {
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told);
        assert_eq!(output.status.code(), Some(0), "`{command}`:\n{told}");
    }
}

/// What `add` prints for the task of the pages.
fn added(arguments: &[&str]) -> String {
    let all = [
        "add",
        "task-definitions/without-sidecar/web.json",
        "--to",
        "app",
        "--image",
        "ecs-prestop:dev",
    ];
    let output = Command::new(env!("CARGO_BIN_EXE_ecs-prestop"))
        .current_dir(ROOT)
        .args([&all, arguments].concat())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_add_prints_stands_in_the_pages_as_it_is_and_is_clean() {
    assert_eq!(
        block(&readme(), "diff"),
        added(&["--diff"]),
        "the diff of README.md"
    );
    let whole = added(&[]);
    assert_eq!(
        block(&text_of("task-definitions/adding.md"), "json"),
        whole,
        "adding.md"
    );
    let source = ecs_prestop::tools::source::Source::new("web.json", whole);
    let checked = ecs_prestop::tools::check::check(source, &Default::default());
    assert_eq!(checked.unwrap().unwrap().findings.len(), 0);
}

#[test]
fn its_first_example_is_the_container_and_nothing_else() {
    let container: serde_json::Value = serde_json::from_str(block(&readme(), "json")).unwrap();
    let members: Vec<&String> = container.as_object().unwrap().keys().collect();
    assert_eq!(members, ["name", "image", "essential", "dependsOn"]);
}

#[test]
fn it_is_short_and_says_first_of_load_balancers_that_they_must_be_told() {
    let readme = readme();
    assert!(readme.lines().count() <= 130, "two screens and a little");
    let first = readme.to_lowercase().find("load balancer").unwrap();
    assert!(readme[..first].ends_with("## The "), "{}", &readme[..first]);
    assert!(readme[first..].starts_with("load balancer must be told"));
}

/// Every page for people.
fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    for folder in ["", "docker", "task-definitions", "tests/lab"] {
        let entries = std::fs::read_dir(Path::new(ROOT).join(folder)).unwrap().flatten();
        let paths = entries.map(|entry| entry.path());
        pages.extend(paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    pages
}

/// The anchors of a page, as GitHub makes them of its headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|heading| {
            let words = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = words
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[test]
fn every_link_of_every_page_leads_somewhere() {
    let (mut broken, mut seen) = (Vec::new(), 0);
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.contains(char::is_whitespace) {
                continue;
            }
            seen += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                page.clone()
            } else {
                page.parent().unwrap().join(file)
            };
            let there = target.exists()
                && (anchor.is_empty()
                    || anchors(&std::fs::read_to_string(&target).unwrap()).contains(anchor));
            if !there {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(seen > 20, "{seen}");
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_python_app_of_the_pages_drains_without_a_loss() {
    if !is_here("python3", &["python3", "--version"]) {
        return;
    }
    let page = text_of("task-definitions/app.md");
    let code = block(&page, "python");
    let address = free_address();
    let file = std::env::temp_dir().join(format!("ecs-prestop-readme-{}.py", std::process::id()));
    std::fs::write(&file, code.replace("8080", &address.port().to_string())).unwrap();
    let python = Command::new("sh")
        .args(["-c", "command -v python3"])
        .output()
        .unwrap();
    let start = format!(
        "{} {}",
        String::from_utf8_lossy(&python.stdout).trim(),
        file.display()
    );
    let output = run(
        &[
            "rehearse",
            "stop-task",
            "--scale",
            "5",
            "--drain",
            &format!("POST http://{address}/drain"),
            "--app",
            &format!("http://{address}/"),
            "--start",
            &start,
        ],
        &[
            ("PATH", "/usr/bin:/bin"),
            ("PRESTOP_LISTEN", &free_address().to_string()),
        ],
    );
    let _ = std::fs::remove_file(&file);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}
