//! The README says what the program does.

use std::process::Command;

use crate::process::{free_address, is_here, run};

fn readme() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap()
}

#[test]
fn its_table_has_every_setting_with_its_default_and_meaning() {
    let readme = readme();
    for setting in ecs_prestop::config::SETTINGS {
        let row = readme
            .lines()
            .find(|line| line.starts_with(&format!("| `{}` |", setting.variable())));
        let row = row.unwrap_or_else(|| panic!("{} is missing", setting.name));
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
        readme().contains(picture),
        "the README's text has to be {again}:\n{picture}"
    );
}

#[test]
fn its_task_definition_is_clean() {
    let readme = readme();
    let json = readme.split("```json\n{\n  \"family\"").nth(1).unwrap();
    let json = format!("{{\"family\"{}", json.split("```").next().unwrap());
    let source = ecs_prestop::tools::source::Source::new("README.json", json, true);
    let checked = ecs_prestop::tools::check::check(source, &Default::default());
    assert_eq!(checked.unwrap().unwrap().findings.len(), 0);
}

#[test]
fn its_python_app_drains_without_a_loss() {
    let readme = readme();
    if !is_here("python3", &["python3", "--version"]) {
        return;
    }
    let code = readme
        .split("```python\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
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
