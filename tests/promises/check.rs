//! `check` finds what it is there to find, nothing else, and says so readably.

use std::fmt::Write;
use std::process::Stdio;

use ecs_prestop::tools::check::output::{self, OutputFormat};
use ecs_prestop::tools::check::{Checked, Persona, RULES, Selection, Severity, check, rules_document};
use ecs_prestop::tools::source::{FileProblem, Source, as_found};
use serde_json::{Value, json};

use crate::process::{binary, complaints, run};

/// What a terminal has at least.
const COLUMNS: usize = 80;

/// All that the rules find, as with `--pedantic`.
fn checked(name: &str, text: &str) -> Checked {
    let selection = Selection {
        persona: Persona::Pedantic,
        ..Selection::default()
    };
    let source = Source::new(name, text.to_owned());
    check(source, &selection).unwrap().unwrap()
}

/// What everybody is told, and how many findings are left out.
fn regular(name: &str, text: &str) -> (Vec<&'static str>, usize) {
    let source = Source::new(name, text.to_owned());
    let file = check(source, &Selection::default()).unwrap().unwrap();
    let ids = file.findings.iter().map(|finding| finding.rule.id).collect();
    (ids, file.pedantic)
}

fn problem(name: &str, text: &str) -> FileProblem {
    let source = Source::new(name, text.to_owned());
    check(source, &Selection::default()).unwrap_err()
}

fn found(name: &str, text: &str) -> Vec<&'static str> {
    let mut ids: Vec<_> = checked(name, text)
        .findings
        .iter()
        .map(|finding| finding.rule.id)
        .collect();
    ids.dedup();
    ids
}

#[test]
fn each_finding_reads_well_in_80_columns() {
    let mut all = String::new();
    for rule in RULES {
        let text = rule.example.failing();
        let name = if text.starts_with('{') {
            "web.json"
        } else {
            "web.yaml"
        };
        let file = checked(name, &text);
        let text = output::text(&[file], &[], false);
        for line in text.lines() {
            assert!(line.chars().count() <= COLUMNS, "{}: {line}", rule.id);
        }
        let finding = text.split("\n\n").next().unwrap();
        writeln!(all, "{finding}\n").unwrap();
    }
    insta::assert_snapshot!(all);
}

#[test]
fn with_colour_it_reads_the_same() {
    let text = RULES[0]
        .example
        .failing()
        .replace("\"stopTimeout\": 25", "\"stopTimeout\": \"25\"");
    let plain = output::text(&[checked("web.json", &text)], &[], false);
    let coloured = output::text(&[checked("web.json", &text)], &[], true);
    insta::assert_snapshot!(coloured.replace('\u{1b}', "␛"));
    let mut without = coloured;
    while let Some(start) = without.find('\u{1b}') {
        let end = start + without[start..].find('m').unwrap();
        without.replace_range(start..=end, "");
    }
    assert_eq!(without, plain);
}

#[test]
fn the_document_of_rules_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/task-definitions/rules.md");
    if std::env::var_os("UPDATE_RULES").is_some() {
        std::fs::write(path, rules_document()).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == rules_document(),
        "task-definitions/rules.md differs from the rules: run this test with UPDATE_RULES=1"
    );
}

#[cfg(feature = "laptop")]
#[test]
fn a_rules_page_is_laid_out_for_the_terminal() {
    use ecs_prestop::tools::check::on_paper;
    use ecs_prestop::tools::picture::terminal::Paper;
    let paper = |width, colour| Paper {
        width,
        colour,
        unicode: true,
    };
    for rule in RULES {
        for width in [80, 200] {
            let plain = on_paper(rule, paper(width, false));
            let (words, example) = plain.split_once("Fails, and passes").unwrap();
            for markdown in ["**", "##", "```"] {
                assert!(!words.contains(markdown), "{}: {plain}", rule.id);
            }
            assert!(!example.contains("```"), "{}: {plain}", rule.id);
            for line in words.lines() {
                assert!(line.chars().count() <= width.min(100), "{}: {line}", rule.id);
            }
        }
    }
    let find = |id: &str| RULES.iter().find(|rule| rule.id == id).unwrap();
    insta::assert_snapshot!(on_paper(find("PS056"), paper(80, false)));
    let coloured = on_paper(find("PS010"), paper(80, true));
    assert!(!coloured.contains('`'), "{coloured}");
    // Colours end with their line.
    for line in coloured.lines() {
        assert_eq!(
            line.matches("\u{1b}[0m").count() * 2,
            line.matches('\u{1b}').count(),
            "{line}"
        );
    }
}

#[test]
fn colours_are_where_they_were_asked_for() {
    let file = Folder::new("colours");
    file.write("a.json", RULES[0].example.failing());
    let (code, always, _) = file.check(&["--color", "always", "a.json"]);
    assert!(code == 1 && always.contains('\u{1b}'), "{always}");
    for arguments in [
        &["a.json"][..],
        &["--color", "never", "a.json"],
        &["--color", "auto", "a.json"],
    ] {
        let (_, plain, _) = file.check(arguments);
        assert!(!plain.contains('\u{1b}'), "{plain}");
    }
    // A page that goes into a file is Markdown.
    let (_, markdown, _) = file.check(&["--explain", "PS001"]);
    assert!(markdown.starts_with("## PS001"), "{markdown}");
}

/// The files that the repository shows to its users.
fn examples() -> Vec<(String, String)> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/task-definitions");
    let files = [directory.to_owned(), format!("{directory}/cloudformation")];
    let entries = files
        .iter()
        .flat_map(|directory| std::fs::read_dir(directory).unwrap());
    let paths = entries.map(|entry| entry.unwrap().path());
    let documents = paths.filter(|path| path.extension().is_some_and(|end| end == "json" || end == "yaml"));
    documents
        .map(|path| {
            (
                path.display().to_string(),
                std::fs::read_to_string(&path).unwrap(),
            )
        })
        .collect()
}

#[test]
fn every_file_in_task_definitions_is_clean() {
    let files = examples();
    assert!(files.len() >= 10, "{}", files.len());
    let (alarms, files): (Vec<_>, Vec<_>) = files
        .into_iter()
        .partition(|(name, _)| name.ends_with("alarms.yaml"));
    for (name, text) in files {
        assert_eq!(found(&name, &text), [""; 0], "{name}");
    }
    assert_eq!(alarms.len(), 1, "they belong to a task that stands elsewhere");
}

/// A way to break a task definition: the rule, and what is done to it. `false` where this file has
/// nothing that could be broken so.
type Breakage = (&'static str, fn(&mut Value) -> bool);

fn containers(task: &mut Value) -> &mut Vec<Value> {
    task["containerDefinitions"].as_array_mut().unwrap()
}

fn sidecar(task: &mut Value) -> Option<&mut Value> {
    containers(task)
        .iter_mut()
        .find(|container| container["name"] == "prestop")
}

/// The container that the first step is for.
fn app(task: &mut Value) -> Option<&mut Value> {
    containers(task).iter_mut().find(|container| {
        ["app", "worker", "nginx", "web"].contains(&container["name"].as_str().unwrap_or(""))
    })
}

fn set(value: Option<&mut Value>, key: &str, new: Value) -> bool {
    let Some(object) = value else { return false };
    object[key] = new;
    true
}

fn remove(value: Option<&mut Value>, key: &str) -> bool {
    value.is_some_and(|object| object.as_object_mut().unwrap().remove(key).is_some())
}

fn setting(task: &mut Value, name: &str, value: &str) -> bool {
    let Some(sidecar) = sidecar(task) else {
        return false;
    };
    let variables = sidecar["environment"].as_array_mut().unwrap();
    variables.retain(|variable| variable["name"] != name);
    variables.push(json!({"name": name, "value": value}));
    true
}

fn drain(task: &mut Value) -> String {
    let Some(sidecar) = sidecar(task) else {
        return String::new();
    };
    let variables = sidecar["environment"].as_array().unwrap();
    let drain = variables
        .iter()
        .find(|variable| variable["name"] == "PRESTOP_DRAIN");
    drain.map_or_else(String::new, |variable| {
        variable["value"].as_str().unwrap().to_owned()
    })
}

const BREAKAGES: &[Breakage] = &[
    ("PS001", |task| remove(sidecar(task), "dependsOn")),
    ("PS001", |task| {
        set(
            sidecar(task),
            "dependsOn",
            json!([{"containerName": "other", "condition": "START"}]),
        );
        containers(task).push(
            json!({"name": "other", "image": "other:1", "essential": false, "memory": 32, "stopTimeout": 2}),
        );
        true
    }),
    ("PS002", |task| {
        let name = app(task).map(|app| app["name"].clone());
        remove(sidecar(task), "dependsOn");
        for container in containers(task) {
            if container["name"] != "prestop" && container["firelensConfiguration"].is_null() {
                container["dependsOn"] = json!([{"containerName": "prestop", "condition": "START"}]);
            }
        }
        name.is_some()
    }),
    ("PS003", |task| {
        let name = app(task).map(|app| app["name"].clone()).unwrap_or_default();
        set(
            app(task),
            "dependsOn",
            json!([{"containerName": name, "condition": "START"}]),
        )
    }),
    ("PS003", |task| {
        let name = app(task).map(|app| app["name"].clone()).unwrap_or_default();
        let others = json!([{"containerName": "helper", "condition": "START"}]);
        containers(task).push(
            json!({"name": "helper", "image": "helper:1", "essential": false, "memory": 32,
            "dependsOn": [{"containerName": name, "condition": "START"}]}),
        );
        set(app(task), "dependsOn", others)
    }),
    ("PS004", |task| {
        set(
            app(task),
            "dependsOn",
            json!([{"containerName": "nobody", "condition": "START"}]),
        )
    }),
    ("PS005", |task| {
        let router = containers(task)
            .iter_mut()
            .find(|container| !container["firelensConfiguration"].is_null());
        let broken = set(
            router,
            "dependsOn",
            json!([{"containerName": "app", "condition": "START"}]),
        );
        remove(app(task), "dependsOn");
        if let Some(sidecar) = sidecar(task) {
            sidecar["dependsOn"]
                .as_array_mut()
                .unwrap()
                .retain(|entry| entry["containerName"] == "app");
            remove(Some(sidecar), "logConfiguration");
        }
        broken
    }),
    ("PS006", |task| {
        containers(task).push(json!({"name": "database", "image": "edoburu/pgbouncer:1", "memory": 32}));
        true
    }),
    ("PS006", |task| {
        let name = app(task).map(|app| app["name"].clone()).unwrap_or_default();
        containers(task).push(
            json!({"name": "mesh", "image": "pgbouncer:1", "memory": 32, "stopTimeout": 2,
            "dependsOn": [{"containerName": name, "condition": "START"}]}),
        );
        true
    }),
    ("PS007", |task| {
        let entry = sidecar(task).map(|sidecar| &mut sidecar["dependsOn"][0]);
        set(entry, "condition", json!("HEALTHY"))
    }),
    ("PS008", |task| {
        containers(task).push(json!({"name": "proxy", "image": "nginx:1", "memory": 32, "stopTimeout": 2}));
        true
    }),
    ("PS008", |task| {
        let name = app(task).map(|app| app["name"].clone()).unwrap_or_default();
        containers(task).push(
            json!({"name": "proxy", "image": "envoy:1", "memory": 32, "stopTimeout": 2,
            "dependsOn": [{"containerName": name, "condition": "START"}]}),
        );
        true
    }),
    ("PS010", |task| {
        // The default of 30 s must fit in for itself.
        setting(task, "PRESTOP_RESERVE", "60s") && remove(app(task), "stopTimeout")
    }),
    ("PS011", |task| set(app(task), "stopTimeout", json!(0))),
    ("PS012", |task| {
        let on_ec2 = task["requiresCompatibilities"] == json!(["EC2"]);
        on_ec2 && set(app(task), "stopTimeout", json!(121))
    }),
    ("PS013", |task| {
        let on_demand = sidecar(task).is_some_and(|sidecar| sidecar.to_string().contains("on-demand"));
        !on_demand && set(app(task), "stopTimeout", json!(119))
    }),
    ("PS014", |task| {
        setting(task, "PRESTOP_SETTLE", "0s") && setting(task, "PRESTOP_STOP_TIMEOUT", "29s")
    }),
    ("PS014", |task| remove(sidecar(task), "stopTimeout")),
    ("PS015", |task| setting(task, "PRESTOP_SETTLE", "70s")),
    ("PS015", |task| {
        setting(task, "PRESTOP_SETTLE", "0s") && setting(task, "PRESTOP_DRAIN", "sleep 60s, sleep 61s")
    }),
    ("PS015", |task| {
        let on_demand = sidecar(task).is_some_and(|sidecar| sidecar.to_string().contains("on-demand"));
        setting(task, "PRESTOP_SETTLE", "0s") && !on_demand && setting(task, "PRESTOP_RESERVE", "110s") && {
            set(sidecar(task), "stopTimeout", json!(5));
            setting(task, "PRESTOP_STOP_TIMEOUT", "5s")
        }
    }),
    ("PS016", |task| {
        set(
            app(task),
            "command",
            json!(["bundle", "exec", "sidekiq", "-t", "300"]),
        )
    }),
    ("PS016", |task| {
        let variables = json!([{"name": "SPRING_LIFECYCLE_TIMEOUT_PER_SHUTDOWN_PHASE", "value": "5m"}]);
        set(app(task), "environment", variables)
    }),
    ("PS016", |task| {
        set(
            app(task),
            "command",
            json!(["nginx", "-g", "worker_shutdown_timeout 150s; daemon off;"]),
        )
    }),
    ("PS020", |task| {
        set(app(task), "command", json!(["sh", "-c", "migrate; app"]))
    }),
    ("PS020", |task| {
        set(app(task), "entryPoint", json!(["/bin/bash", "-lc"]));
        set(app(task), "command", json!(["cd /srv && ./app | tee log"]))
    }),
    ("PS020", |task| set(app(task), "command", json!(["npm", "start"]))),
    ("PS021", |task| {
        task["pidMode"].is_null() && set(app(task), "command", json!(["node", "server.js"]))
    }),
    ("PS021", |task| {
        task["pidMode"].is_null()
            && set(
                app(task),
                "command",
                json!(["sh", "-c", "exec python3 worker.py"]),
            )
    }),
    ("PS022", |task| {
        drain(task).contains("signal") && remove(Some(task), "pidMode")
    }),
    ("PS022", |task| {
        drain(task).contains("signal")
            && set(sidecar(task), "user", json!("100"))
            && set(app(task), "user", json!("101"))
    }),
    ("PS030", |task| setting(task, "PRESTOP_RESERVE", "2h")),
    ("PS030", |task| setting(task, "PRESTOP_STOPTIMEOUT", "90s")),
    ("PS036", |task| {
        task["networkMode"] == "bridge" && {
            remove(Some(task), "pidMode");
            setting(task, "PRESTOP_DRAIN", "quiet")
        }
    }),
    ("PS030", |task| {
        let labelled = containers(task)
            .iter_mut()
            .find(|container| !container["dockerLabels"].is_null());
        labelled.is_some_and(|container| {
            container["dockerLabels"]["prestop.order"] = json!("first");
            true
        })
    }),
    ("PS031", |task| {
        drain(task).contains("http") && setting(task, "PRESTOP_DRAIN", "http://nobody:8080/drain")
    }),
    ("PS032", |task| {
        drain(task).contains("http://app:8080") && setting(task, "PRESTOP_DRAIN", "http://app:8090/drain")
    }),
    ("PS033", |task| {
        task["networkMode"] == "bridge" && setting(task, "PRESTOP_DRAIN", "http://127.0.0.1:8080/drain")
    }),
    ("PS033", |task| {
        task["networkMode"] == "bridge" && setting(task, "PRESTOP_DRAIN", "ack")
    }),
    ("PS034", |task| setting(task, "PRESTOP_DRAIN_TOKEN", "hunter2")),
    ("PS035", |task| {
        drain(task).contains("ack") && setting(task, "PRESTOP_LISTEN", "off")
    }),
    ("PS040", |task| set(sidecar(task), "essential", json!(true))),
    ("PS040", |task| remove(sidecar(task), "essential")),
    ("PS041", |task| remove(sidecar(task), "healthCheck")),
    ("PS041", |task| {
        set(
            sidecar(task),
            "healthCheck",
            json!({"command": ["CMD", "curl", "http://127.0.0.1:9911/healthz"]}),
        )
    }),
    ("PS042", |task| remove(sidecar(task), "readonlyRootFilesystem")),
    ("PS043", |task| set(sidecar(task), "memory", json!(5))),
    ("PS044", |task| {
        setting(task, "PRESTOP_DRAIN_INSTANCE", "true") && {
            remove(Some(task), "taskRoleArn");
            true
        }
    }),
    ("PS044", |task| {
        setting(task, "PRESTOP_AFTER_DRAIN", "stop-task") && {
            remove(Some(task), "taskRoleArn");
            true
        }
    }),
    ("PS045", |task| {
        let restarts = sidecar(task).is_some_and(|sidecar| !sidecar["restartPolicy"].is_null());
        restarts && set(sidecar(task), "restartPolicy", json!({"enabled": true}))
    }),
    ("PS046", |task| {
        task["networkMode"] == "bridge" && set(Some(task), "networkMode", json!("host"))
    }),
    ("PS050", |task| {
        let log = app(task).map(|app| &mut app["logConfiguration"]);
        log.is_some_and(|log| {
            log["logDriver"] == "awslogs" && {
                log["options"]["mode"] = json!("blocking");
                true
            }
        })
    }),
    ("PS060", |task| {
        containers(task).push(json!({"image": "helper:1", "essential": false, "memory": 32}));
        true
    }),
    ("PS060", |task| {
        containers(task)
            .push(json!({"name": "prestop", "image": "helper:1", "essential": false, "memory": 32}));
        true
    }),
    ("PS061", |task| {
        let seconds = app(task).map(|app| app["stopTimeout"].to_string());
        set(app(task), "stopTimeout", json!(seconds))
    }),
    ("PS061", |task| set(app(task), "command", json!("app --serve"))),
    ("PS061", |task| set(Some(task), "cpu", json!(256))),
];

#[test]
fn each_way_to_break_them_is_found_and_nothing_else_is() {
    let mut tried = std::collections::BTreeMap::new();
    for (name, text) in examples().iter().filter(|(name, _)| name.ends_with(".json")) {
        for (number, (rule, damage)) in BREAKAGES.iter().enumerate() {
            let mut task: Value = serde_json::from_str(text).unwrap();
            if damage(&mut task) {
                let broken = serde_json::to_string_pretty(&task).unwrap();
                assert_eq!(
                    found(name, &broken),
                    [*rule],
                    "{name}, breakage {number}:\n{broken}"
                );
                *tried.entry(*rule).or_insert(0) += 1;
            }
        }
    }
    let of_templates = [
        "PS023", "PS051", "PS052", "PS053", "PS054", "PS055", "PS056", "PS057", "PS058", "PS059", "PS062",
    ];
    for rule in RULES {
        assert!(
            tried.contains_key(rule.id) || of_templates.contains(&rule.id),
            "no file of this test can be broken for {}: give it an entry in BREAKAGES or of_templates",
            rule.id
        );
    }
}

#[test]
fn what_is_mostly_right_as_it_is_is_counted_and_shown_only_to_who_asks() {
    let app = |more: &str| {
        format!(
            "{{\"family\": \"a\", \"requiresCompatibilities\": [\"FARGATE\"], \"containerDefinitions\": [\n  {{\"name\": \"app\", \"image\": \"app:1\"{more}}}]}}"
        )
    };
    assert_eq!(regular("a.json", &app("")), (vec![], 1));
    assert_eq!(found("a.json", &app("")), ["PS010"]);
    let node = app(", \"command\": [\"node\", \"x.js\"], \"stopTimeout\": 9");
    assert_eq!(regular("a.json", &node), (vec![], 1));
    assert_eq!(found("a.json", &node), ["PS021"]);
    // A worker, a database: there is something to finish.
    for evidence in [
        ", \"command\": [\"bundle\", \"exec\", \"sidekiq\"]",
        ", \"command\": [\"celery\", \"-A\", \"app\", \"worker\"]",
        ", \"command\": [\"php\", \"artisan\", \"queue:work\"]",
        ", \"command\": [\"./manage.py\", \"qcluster\"]",
    ] {
        let text = app(evidence);
        assert!(regular("a.json", &text).0.contains(&"PS010"), "{text}");
    }
    for (from, to) in [("app:1", "postgres:16"), ("\"app\"", "\"email-worker\"")] {
        let text = app("").replace(from, to);
        assert_eq!(regular("a.json", &text), (vec!["PS010"], 0), "{text}");
    }
    let shown = output::text(
        &[check(Source::new("a.json", app("")), &Selection::default())
            .unwrap()
            .unwrap()],
        &[],
        false,
    );
    assert_eq!(
        shown,
        "nothing found, 1 more with --pedantic, in 1 task definition of 1 file\n"
    );
}

#[test]
fn each_way_to_break_the_template_is_found_and_nothing_else_is() {
    let (name, text) = examples()
        .into_iter()
        .find(|(name, _)| name.ends_with("fargate-spot.yaml"))
        .unwrap();
    for (rule, good, bad) in [
        (
            "PS001",
            "          DependsOn:\n            - ContainerName: app\n              Condition: START\n",
            "",
        ),
        ("PS010", "          StopTimeout: 25\n", ""),
        ("PS011", "StopTimeout: 25", "StopTimeout: 1"),
        ("PS040", "Essential: false", "Essential: true"),
        (
            "PS042",
            "ReadonlyRootFilesystem: true",
            "ReadonlyRootFilesystem: false",
        ),
        ("PS051", "Value: !Ref DeregistrationDelay", "Value: \"121\""),
        (
            "PS051",
            "      TargetGroupAttributes:\n        - Key: deregistration_delay.timeout_seconds\n          Value: !Ref DeregistrationDelay\n",
            "",
        ),
        ("PS053", "MinimumHealthyPercent: 100", "MinimumHealthyPercent: 0"),
        ("PS062", "Value: !Ref DeregistrationDelay", "Value: \"0\""),
        ("PS054", "Value: 0.0.0.0:9911", "Value: 127.0.0.1:9911"),
        (
            "PS056",
            "        - CapacityProvider: FARGATE\n          Base: 1\n          Weight: 0\n",
            "",
        ),
        (
            "PS058",
            "Protocol: HTTP\n      HealthCheckPort",
            "Protocol: TCP\n      HealthCheckPort",
        ),
    ] {
        let broken = text.replacen(good, bad, 1);
        assert_ne!(broken, text, "{rule}: `{good}` is not in {name}");
        assert_eq!(found(&name, &broken), [rule], "{good} -> {bad}");
    }
    // ECS tells the load balancer before SIGTERM there: the sidecar has to serve on meanwhile.
    for (good, bad) in [
        ("HealthCheckPort: \"9911\"", "HealthCheckPort: traffic-port"),
        ("HealthCheckPath: /ready", "HealthCheckPath: /healthz"),
    ] {
        let own = text.replacen(good, bad, 1);
        assert_ne!(own, text);
        assert_eq!(found(&name, &own), [""; 0], "{bad}");
        let broken = own.replacen("Value: 15s", "Value: 0s", 1);
        assert_eq!(found(&name, &broken), ["PS052"], "{bad}");
    }
}

#[test]
fn a_database_that_a_task_is_there_for_is_its_app() {
    let task = |containers: &str| format!("{{\"family\": \"a\", \"containerDefinitions\": [{containers}]}}");
    let database = "{\"name\": \"db\", \"image\": \"postgres:16\", \"stopTimeout\": 60, \"portMappings\": [{\"containerPort\": 5432}]}";
    let exporter = "{\"name\": \"metrics\", \"image\": \"mine:1\", \"stopTimeout\": 5}";
    assert_eq!(
        regular("a.json", &task(&format!("{database}, {exporter}"))).0,
        [""; 0]
    );
    // Beside a called app it is what that one needs; the one that names it is meant.
    let app = |name: &str, host: &str| {
        format!(
            "{{\"name\": \"{name}\", \"image\": \"mine:1\", \"stopTimeout\": 5, \"portMappings\": [{{\"containerPort\": 80}}], \"environment\": [{{\"name\": \"URL\", \"value\": \"{host}\"}}]}}"
        )
    };
    let text = task(&format!(
        "{}, {}, {database}",
        app("web", "http://api"),
        app("api", "postgres://db:5432/x")
    ));
    let findings = checked("a.json", &text).findings;
    assert!(
        findings.iter().any(|finding| finding
            .message
            .contains("`db` is a database, and `api` does not depend on it")),
        "{findings:?}"
    );
    // An observer is told by its name where its image is one's own.
    let observer = "{\"name\": \"datadog-agent\", \"image\": \"mine/agent:1\"}";
    assert_eq!(
        found("a.json", &task(&format!("{}, {observer}", app("web", "")))),
        [""; 0]
    );
    let service = |image: &str| {
        format!(
            "Resources:\n  T:\n    Type: AWS::ECS::TaskDefinition\n    Properties:\n      ContainerDefinitions: [{{Name: a, Image: '{image}', StopTimeout: 60, PortMappings: [{{ContainerPort: 1}}]}}]\n  S:\n    Type: AWS::ECS::Service\n    Properties:\n      TaskDefinition: !Ref T\n      LoadBalancers: [{{ContainerName: a}}]\n      DeploymentConfiguration: {{MinimumHealthyPercent: 0}}\n"
        )
    };
    assert_eq!(found("t.yaml", &service("mine:1")), ["PS053"]);
    assert_eq!(found("t.yaml", &service("mysql:8")), [""; 0]);
    // By a load balancer somebody is sent away; the head of a cluster is looked up, and there is one.
    assert_eq!(regular("t.yaml", &service("mine:1")), (vec!["PS053"], 0));
    let looked_up = service("mine:1").replace(
        "LoadBalancers: [{ContainerName: a}]",
        "ServiceRegistries: [{ContainerName: a}]",
    );
    assert_eq!(regular("t.yaml", &looked_up), (vec![], 1));
}

#[test]
fn a_stop_timeout_of_0_is_none_to_the_agent_and_an_error_on_fargate() {
    let said = |compatible: &str| {
        let text = json!({"family": "a", "requiresCompatibilities": [compatible], "networkMode": "awsvpc", "cpu": "256", "memory": "512",
            "containerDefinitions": [{"name": "app", "image": "a", "stopTimeout": 0}]})
        .to_string();
        let file = checked("a.json", &text);
        let finding = file
            .findings
            .iter()
            .find(|finding| finding.rule.id == "PS011")
            .unwrap();
        (finding.severity, finding.message.clone())
    };
    assert_eq!(
        said("EC2"),
        (
            Severity::Warning,
            "stopTimeout of `app` is 0 s, which the agent takes for none: its own default holds".to_owned()
        )
    );
    assert_eq!(
        said("FARGATE"),
        (
            Severity::Error,
            "stopTimeout of `app` is 0 s; allowed is 2 to 120 s on Fargate".to_owned()
        )
    );
}

#[test]
fn a_template_of_instances_alone_is_checked_too() {
    let template = "Resources:\n  Group:\n    Type: AWS::AutoScaling::LaunchConfiguration\n    Properties:\n      SpotPrice: !If [Spot, '0.1', !Ref AWS::NoValue]\n      UserData: !Sub |\n        echo ECS_CLUSTER=web >>/etc/ecs/ecs.config\n";
    assert_eq!(found("t.yaml", template), ["PS055"]);
    let drained = template.replace(
        "ECS_CLUSTER=web",
        "ECS_CLUSTER=web ECS_ENABLE_SPOT_INSTANCE_DRAINING=true",
    );
    assert_eq!(found("t.yaml", &drained), [""; 0]);
    let on_demand = template.replace("      SpotPrice: !If [Spot, '0.1', !Ref AWS::NoValue]\n", "");
    assert_eq!(found("t.yaml", &on_demand), [""; 0]);
    let no_ecs = template.replace("ECS_CLUSTER=web", "hello");
    assert!(problem("t.yaml", &no_ecs).empty);
}

#[test]
fn an_agent_that_waits_longer_than_a_spot_host_lives_is_found() {
    let template = |market: &str, timeout: &str| {
        format!(
            "Resources:\n  L:\n    Type: AWS::EC2::LaunchTemplate\n    Properties:\n      LaunchTemplateData:\n        \
             InstanceMarketOptions: {{MarketType: {market}}}\n        UserData: 'ECS_CLUSTER=web \
             ECS_ENABLE_SPOT_INSTANCE_DRAINING=true ECS_CONTAINER_STOP_TIMEOUT={timeout}'\n"
        )
    };
    assert_eq!(found("t.yaml", &template("spot", "10m")), ["PS012"]);
    assert_eq!(found("t.yaml", &template("spot", "2m")), [""; 0]);
    assert_eq!(found("t.yaml", &template("capacity-block", "10m")), [""; 0]);
}

#[test]
fn on_fargate_spot_everybody_is_told_of_an_app_without_a_stop_timeout_that_others_call() {
    let template = |provider: &str, ports: &str| {
        format!(
            "Resources:\n  T:\n    Type: AWS::ECS::TaskDefinition\n    Properties:\n      RequiresCompatibilities: [FARGATE]\n      \
             ContainerDefinitions: [{{Name: app, Image: 'app:1'{ports}}}]\n  S:\n    Type: AWS::ECS::Service\n    Properties:\n      \
             TaskDefinition: !Ref T\n      CapacityProviderStrategy: [{{CapacityProvider: {provider}, Weight: 1}}]\n"
        )
    };
    let ports = ", PortMappings: [{ContainerPort: 80}]";
    assert_eq!(
        regular("t.yaml", &template("FARGATE_SPOT", ports)),
        (vec!["PS010"], 0)
    );
    assert_eq!(regular("t.yaml", &template("FARGATE", ports)), (vec![], 1));
    assert_eq!(regular("t.yaml", &template("FARGATE_SPOT", "")), (vec![], 1));
}

#[test]
fn a_service_that_does_not_say_its_capacity_has_that_of_its_cluster() {
    let template = |cluster: &str, service: &str| {
        format!(
            "Resources:\n  T:\n    Type: AWS::ECS::TaskDefinition\n    Properties:\n      RequiresCompatibilities: [FARGATE]\n      \
             ContainerDefinitions: [{{Name: app, Image: 'app:1', StopTimeout: 30, PortMappings: [{{ContainerPort: 80}}]}}]\n  {cluster}\n  \
             S:\n    Type: AWS::ECS::Service\n    Properties:\n      TaskDefinition: !Ref T\n      Cluster: !Ref C\n      \
             ServiceRegistries: [{{RegistryArn: x}}]\n{service}"
        )
    };
    let strategy = "DefaultCapacityProviderStrategy: [{CapacityProvider: FARGATE_SPOT, Weight: 1}]";
    let own = format!("C:\n    Type: AWS::ECS::Cluster\n    Properties: {{{strategy}}}");
    let attached = format!(
        "C:\n    Type: AWS::ECS::Cluster\n  A:\n    Type: AWS::ECS::ClusterCapacityProviderAssociations\n    Properties: {{Cluster: !Ref C, \
         {strategy}}}"
    );
    assert_eq!(found("t.yaml", &template(&own, "")), ["PS056"]);
    assert_eq!(found("t.yaml", &template(&attached, "")), ["PS056"]);
    assert_eq!(
        found("t.yaml", &template(&own, "      LaunchType: FARGATE\n")),
        [""; 0]
    );
    let fargate = "      CapacityProviderStrategy: [{CapacityProvider: FARGATE, Weight: 1}]\n";
    assert_eq!(found("t.yaml", &template(&own, fargate)), [""; 0]);
    let terraform = |service: &str| {
        format!(
            "resource \"aws_ecs_task_definition\" \"t\" {{\n  requires_compatibilities = [\"FARGATE\"]\n  container_definitions = \
             jsonencode([{{ name = \"app\", image = \"app:1\", stopTimeout = 30 }}])\n}}\nresource \"aws_ecs_cluster_capacity_providers\" \
             \"c\" {{\n  cluster_name = aws_ecs_cluster.c.name\n  default_capacity_provider_strategy {{\n    capacity_provider = \
             \"FARGATE_SPOT\"\n    weight = 1\n  }}\n}}\nresource \"aws_ecs_service\" \"s\" {{\n  cluster = aws_ecs_cluster.c.id\n  \
             task_definition = aws_ecs_task_definition.t.arn\n  service_registries {{\n    registry_arn = \"x\"\n  }}\n{service}}}\n"
        )
    };
    assert_eq!(found("main.tf", &terraform("")), ["PS056"]);
    assert_eq!(
        found("main.tf", &terraform("  launch_type = \"FARGATE\"\n")),
        [""; 0]
    );
}

#[test]
fn a_ttl_that_the_sidecar_waits_for_by_itself_is_held_against_half_of_its_time() {
    let template = |deregister: &str, ttl: u32| {
        format!(
            "Resources:\n  T:\n    Type: AWS::ECS::TaskDefinition\n    Properties:\n      RequiresCompatibilities: [FARGATE]\n      \
             NetworkMode: awsvpc\n      TaskRoleArn: r\n      ContainerDefinitions:\n        - {{Name: app, Image: 'app:1', StopTimeout: 30, \
             PortMappings: [{{ContainerPort: 80}}]}}\n        - {{Name: prestop, Image: ecs-prestop, Essential: false, StopTimeout: 60, \
             DependsOn: [{{ContainerName: app, Condition: START}}], Environment: [{{Name: PRESTOP_STOP_TIMEOUT, Value: 60s}}, \
             {{Name: PRESTOP_SETTLE, Value: 5s}}, {{Name: PRESTOP_DEREGISTER, Value: '{deregister}'}}]}}\n  S:\n    \
             Type: AWS::ECS::Service\n    Properties:\n      TaskDefinition: !Ref T\n      LaunchType: FARGATE\n      ServiceRegistries: \
             [{{RegistryArn: !GetAtt F.Arn}}]\n  F:\n    Type: AWS::ServiceDiscovery::Service\n    Properties: {{DnsConfig: \
             {{DnsRecords: [{{Type: A, TTL: {ttl}}}]}}}}\n"
        )
    };
    let told = |deregister: &str, ttl: u32| found("t.yaml", &template(deregister, ttl)).contains(&"PS058");
    assert!(told("false", 20), "the settle time is 5 s");
    assert!(!told("true", 20), "half of the time is 29 s");
    assert!(told("true", 40), "half of the time is 29 s");
}

#[test]
fn a_settle_time_is_of_no_use_where_service_connect_alone_brings_calls() {
    let template = |service: &str, spot: &str| {
        format!(
            "Resources:\n  T:\n    Type: AWS::ECS::TaskDefinition\n    Properties:\n      RequiresCompatibilities: [FARGATE]\n      \
             NetworkMode: awsvpc\n      Memory: 512\n      ContainerDefinitions:\n        - {{Name: app, Image: 'app:1', StopTimeout: 20}}\n        \
             - {{Name: prestop, Image: ecs-prestop, Essential: false, StopTimeout: 90, ReadonlyRootFilesystem: true, \
             DependsOn: [{{ContainerName: app, Condition: START}}], HealthCheck: {{Command: [CMD, /ecs-prestop, health]}}, \
             Environment: [{{Name: PRESTOP_SETTLE, Value: 10s}}, {{Name: PRESTOP_STOP_TIMEOUT, Value: 90s}}, \
             {{Name: PRESTOP_DRAIN, Value: 'http://app/d'}}, {{Name: PRESTOP_RESERVE, Value: 20s}}, {{Name: PRESTOP_CAPACITY, Value: {spot}}}]}}\n  \
             S:\n    Type: AWS::ECS::Service\n    Properties:\n      TaskDefinition: !Ref T\n      {service}\n"
        )
    };
    let connect = "ServiceConnectConfiguration: {Enabled: true, Services: [{PortName: http}]}";
    assert_eq!(found("t.yaml", &template(connect, "spot")), ["PS059"]);
    // Who only calls others by it is not called by it; who is called otherwise, too, needs the time.
    let client = "ServiceConnectConfiguration: {Enabled: true}";
    assert_eq!(found("t.yaml", &template(client, "spot")), [""; 0]);
    let both = format!("{connect}\n      ServiceRegistries: [{{RegistryArn: x}}]");
    assert_eq!(found("t.yaml", &template(&both, "spot")), [""; 0]);
    // On EC2 Spot the notice comes before SIGTERM.
    let on_ec2 = template(connect, "spot").replace("[FARGATE]", "[EC2]");
    assert!(!found("t.yaml", &on_ec2).contains(&"PS059"));
}

#[test]
fn the_agents_own_stop_timeout_is_read_from_user_data() {
    let (name, text) = examples()
        .into_iter()
        .find(|(name, _)| name.ends_with("fargate-spot.yaml"))
        .unwrap();
    // On EC2 it holds where a container has none: told 90 s, the sidecar would have 40.
    let on_ec2 = text
        .replace("[FARGATE]", "[EC2]")
        .replace("CapacityProvider: FARGATE_SPOT", "CapacityProvider: ec2")
        .replace("CapacityProvider: FARGATE", "CapacityProvider: ec2")
        .replacen("          StopTimeout: 90\n", "", 1);
    let with = |user_data: &str| {
        format!(
            "{on_ec2}  Instances:\n    Type: AWS::EC2::LaunchTemplate\n    Properties: {{LaunchTemplateData: {{UserData: '{user_data}'}}}}\n"
        )
    };
    let at = on_ec2.find("\nOutputs:").unwrap_or(on_ec2.len());
    let template = |user_data: &str| {
        let part = with(user_data)[on_ec2.len()..].to_owned();
        format!("{}\n{part}{}", &on_ec2[..at], &on_ec2[at..])
    };
    let said = |text: &str| {
        let findings = checked(&name, text).findings;
        findings
            .iter()
            .find(|finding| finding.rule.id == "PS014")
            .map(|finding| finding.message.clone())
    };
    let message = said(&template("ECS_CLUSTER=web ECS_CONTAINER_STOP_TIMEOUT=40s")).unwrap();
    assert!(
        message.contains("the stop timeout of `prestop` is 40 s"),
        "{message}"
    );
    assert!(said(&template("ECS_CLUSTER=web")).unwrap().contains("is 30 s"));
}

#[test]
fn what_a_template_does_not_tell_is_not_guessed() {
    let (name, text) = examples()
        .into_iter()
        .find(|(name, _)| name.ends_with("fargate-spot.yaml"))
        .unwrap();
    for (good, unknown) in [
        ("StopTimeout: 25", "StopTimeout: !If [Long, 100, !Ref Seconds]"),
        ("StopTimeout: 25", "StopTimeout: {\"Fn::If\": [Long, 100, 1]}"),
        ("Essential: false", "Essential: !Ref Essential"),
        (
            "MinimumHealthyPercent: 100",
            "MinimumHealthyPercent: !Ref Minimum",
        ),
        ("HealthCheckPath: /ready", "HealthCheckPath: !Sub \"/${Path}\""),
    ] {
        let broken = text.replacen(good, unknown, 1);
        assert_ne!(broken, text, "{good}");
        assert_eq!(found(&name, &broken), [""; 0], "{unknown}");
    }
}

#[test]
fn findings_have_a_place_and_a_path_in_every_form() {
    let plain = "{\"containerDefinitions\": [\n  {\"name\": \"ä\", \"image\": \"x\", \"stopTimeout\": 0}\n]}";
    let described = format!("{{\"taskDefinition\": {plain}}}");
    let list = "[\n  {\"name\": \"a\", \"image\": \"x\", \"stopTimeout\": 0}\n]";
    let template = "Resources:\n  T:\n    Type: AWS::ECS::TaskDefinition\n    Properties:\n      ContainerDefinitions:\n      - {Name: a, StopTimeout: 0}\n";
    for (name, text, line, column, path) in [
        ("a.json", plain, 2, 46, "$.containerDefinitions[0].stopTimeout"),
        (
            "b.json",
            &described,
            2,
            46,
            "$.taskDefinition.containerDefinitions[0].stopTimeout",
        ),
        ("c.json", list, 2, 46, "$[0].stopTimeout"),
        (
            "d.yaml",
            template,
            6,
            32,
            "$.Resources.T.Properties.ContainerDefinitions[0].StopTimeout",
        ),
    ] {
        let file = checked(name, text);
        let finding = file
            .findings
            .iter()
            .find(|finding| finding.rule.id == "PS011")
            .unwrap();
        assert_eq!(
            (finding.start.line, finding.start.column),
            (line, column),
            "{name}"
        );
        assert_eq!(finding.path, path);
    }
}

#[test]
fn compose_files_are_checked_where_a_rule_makes_sense_there() {
    let file = "services:\n  app:\n    image: app:1\n    command: sh -c 'migrate && serve'\n  prestop:\n    image: ecs-prestop:1\n    \
                read_only: true\n    environment:\n      - PRESTOP_DRAIN=http://localhost:8080/drain\n";
    let findings = checked("compose.yaml", file).findings;
    let said: Vec<String> = findings
        .iter()
        .map(|finding| format!("{} {}", finding.rule.id, finding.start.line))
        .collect();
    // The loopback of another container, the default of 10 s, no dependency, a shell.
    assert_eq!(said, ["PS020 4", "PS001 6", "PS014 6", "PS033 9"]);
}

#[test]
fn the_own_limit_of_an_app_is_held_against_what_its_container_has() {
    let compose = |service: &str| {
        found(
            "compose.yaml",
            &format!("services:\n  app:\n    image: app:1\n{service}"),
        )
    };
    // Sidekiq takes 25 s by itself, compose gives 10.
    assert_eq!(compose("    command: bundle exec sidekiq\n"), ["PS016"]);
    assert_eq!(compose("    command: bundle exec sidekiq -t 8\n"), [""; 0]);
    assert_eq!(
        compose("    command: bundle exec sidekiq\n    stop_grace_period: 30s\n"),
        [""; 0]
    );
    assert_eq!(compose("    command: gunicorn app:app\n"), [""; 0]);
    assert_eq!(
        compose("    command: gunicorn --graceful-timeout=60 app:app\n"),
        ["PS016"]
    );
    assert_eq!(
        compose("    environment: {GUNICORN_CMD_ARGS: '--graceful-timeout 60'}\n"),
        ["PS016"]
    );
    assert_eq!(
        compose("    environment: {N8N_GRACEFUL_SHUTDOWN_TIMEOUT: 60}\n    stop_grace_period: 70s\n"),
        [""; 0]
    );
    assert_eq!(
        compose("    command: celery -A a worker --time-limit 3600\n"),
        ["PS016"]
    );
    assert_eq!(
        compose("    command: celery -A a worker --time-limit ${LIMIT}\n"),
        [""; 0]
    );
}

#[test]
fn a_comment_silences_a_rule_on_its_line_or_the_next() {
    let template = |comment: &str, above: &str| {
        format!(
            "Resources:\n  T:\n    Type: AWS::ECS::TaskDefinition\n    Properties:\n      ContainerDefinitions:\n{above}      \
             - Name: app {comment}\n        Image: '#1'\n"
        )
    };
    assert_eq!(found("t.yaml", &template("", "")), ["PS010"]);
    assert_eq!(
        found("t.yaml", &template("# ecs-prestop: ignore PS010", "")),
        [""; 0]
    );
    assert_eq!(
        found("t.yaml", &template("# ecs-prestop: ignore PS001,PS010", "")),
        [""; 0]
    );
    assert_eq!(
        found("t.yaml", &template("", "      # ecs-prestop: ignore ps010\n")),
        [""; 0]
    );
    assert_eq!(
        found("t.yaml", &template("# ecs-prestop: ignore PS011", "")),
        ["PS010"]
    );
}

#[test]
fn the_sarif_form_is_what_the_schema_says() {
    let file = checked("task definitions/wéb.json", &RULES[0].example.failing());
    let unreadable = problem("b.json", "{");
    let text = output::document(OutputFormat::Sarif, &[file], &[unreadable]);
    // A crate generated from the schema reads it: every name and type is right.
    let sarif: serde_sarif::sarif::Sarif = serde_json::from_str(&text).unwrap();
    let run = &sarif.runs[0];
    let rules = run.tool.driver.rules.as_ref().unwrap();
    assert_eq!(rules.len(), RULES.len());
    let results = run.results.as_ref().unwrap();
    let ids: Vec<_> = results
        .iter()
        .map(|result| result.rule_id.as_deref().unwrap())
        .collect();
    assert_eq!(ids, ["PS001"]);
    let index = usize::try_from(results[0].rule_index.unwrap()).unwrap();
    assert_eq!(rules[index].id, "PS001");
    let place = results[0].locations.as_ref().unwrap()[0]
        .physical_location
        .as_ref()
        .unwrap();
    let uri = place.artifact_location.as_ref().unwrap().uri.as_deref();
    assert_eq!(uri, Some("task%20definitions/w%C3%A9b.json"));
    // And back: what it does not know would be lost.
    let again: Value = serde_json::from_str(&serde_json::to_string(&sarif).unwrap()).unwrap();
    assert_eq!(again, serde_json::from_str::<Value>(&text).unwrap());
}

#[test]
fn the_github_form_escapes_what_has_a_meaning_there() {
    let text = RULES[0]
        .example
        .failing()
        .replace("\"app\"", "\"a%p\"")
        .replace("//app:", "//a%25p:");
    let file = checked("a,b:c.json", &text);
    let lines = output::document(OutputFormat::Github, &[file], &[problem("x.json", "{")]);
    let first = lines.lines().next().unwrap();
    assert!(first.starts_with("::error file=a%2Cb%3Ac.json,line="), "{first}");
    assert!(
        first.contains(",title=PS001 the sidecar does not depend on the app::"),
        "{first}"
    );
    assert!(first.contains("`a%25p`"), "{first}");
    let last = lines.lines().last().unwrap();
    assert!(
        last.starts_with("::error file=x.json,line=1,col=1::not JSON"),
        "{last}"
    );
}

#[test]
fn exit_codes_are_0_1_and_2() {
    let directory = std::env::temp_dir().join(format!("ecs-prestop-check-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let clean = write("clean.json", RULES[0].example.passing);
    let broken = write("broken.json", &RULES[0].example.failing());
    let unreadable = write("unreadable.json", "{\"containerDefinitions\": [");
    let other = write("tsconfig.json", "{ // comments\n }");
    let exit = |arguments: &[&str]| run(&[&["check"], arguments].concat(), &[]).status.code();
    assert_eq!(exit(&[&clean]), Some(0));
    assert_eq!(exit(&[&broken]), Some(1));
    assert_eq!(exit(&[&broken, "--ignore", "ps001"]), Some(0));
    assert_eq!(exit(&[&RULES[0].id.to_lowercase()]), Some(2));
    assert_eq!(exit(&[&unreadable, &broken]), Some(2));
    assert_eq!(exit(&[&other]), Some(2));
    assert_eq!(exit(&[&directory.display().to_string()]), Some(2));
    std::fs::remove_file(unreadable).unwrap();
    // Somebody else's file in a directory is none of our business.
    assert_eq!(exit(&[&directory.display().to_string()]), Some(1));
    assert_eq!(exit(&[&broken, "--severity", "error"]), Some(1));
    assert_eq!(exit(&["--list"]), Some(0));
    assert_eq!(exit(&["--explain", "PS003"]), Some(0));
    assert_eq!(exit(&["--explain", "PS999"]), Some(2));
    assert_eq!(exit(&["--ignore", "PS999", &clean]), Some(2));
    assert_eq!(exit(&[]), Some(2));
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn what_an_image_starts_is_read_from_its_dockerfile_or_from_what_docker_says() {
    let directory = std::env::temp_dir().join(format!("ecs-prestop-images-{}", std::process::id()));
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let said = |arguments: &[&str]| {
        let output = run(&[&["check", "--format", "github"], arguments].concat(), &[]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let compose = write(
        "web/compose.yaml",
        "services:\n  app:\n    build: {context: app}\n",
    );
    // The shell form, by the shell of its base; the exec form.
    for (dockerfile, part) in [
        (
            "FROM node:20\nCMD node x.js\n",
            "`sh` is the first process of `app` (Dockerfile:2)",
        ),
        ("FROM node:20-alpine\nCMD node x.js\n", ""),
        ("FROM node:20\nCMD [\"node\", \"x.js\"]\n", ""),
        (
            "FROM node:20\n\nCMD [\"yarn\", \"start\"]\n",
            "`app` starts its app through `yarn` (Dockerfile:3)",
        ),
        (
            "FROM golang:1\nCMD [\"go\", \"run\", \".\"]\n",
            "through `go` (Dockerfile:2)",
        ),
        (
            "FROM node:20\nCOPY run.sh /\nENTRYPOINT [\"/run.sh\"]\n",
            "`run.sh` is the first process of `app` (Dockerfile:3)",
        ),
        (
            "FROM node:20\nSTOPSIGNAL SIGKILL\nCMD [\"node\", \"x.js\"]\n",
            "`app` is stopped by SIGKILL (Dockerfile:2)",
        ),
        ("FROM node:20\nSTOPSIGNAL SIGINT\nCMD [\"node\", \"x.js\"]\n", ""),
        (
            "FROM node:20\nENTRYPOINT [\"/exec.sh\"]\nCMD [\"node\", \"x\"]\n",
            "",
        ),
        (
            "FROM node:20\nENTRYPOINT [\"/exec.sh\"]\nCMD [\"npm\", \"start\"]\n",
            "through `npm`",
        ),
    ] {
        write("web/app/run.sh", "#!/bin/sh\nset -e\nmigrate\nnode x.js\n");
        write(
            "web/app/exec.sh",
            "#!/bin/sh\nset -e\nif [ \"$1\" = shell ]; then exec sh; fi\nexec gosu app \"$@\"\n",
        );
        write("web/app/Dockerfile", dockerfile);
        let found = said(&[&compose]);
        assert!(
            found.contains(part) && found.is_empty() == part.is_empty(),
            "{dockerfile}: {found}"
        );
    }
    // What the image's own files tell its server, and the command that names another file.
    for (dockerfile, file, text, part) in [
        (
            "FROM ruby:3\nCOPY . .\nCMD [\"bin/rails\", \"server\"]\n",
            "config/puma.rb",
            "workers 2\nworker_shutdown_timeout 45\n",
            "Puma of `app` takes up to 45 s to finish (worker_shutdown_timeout in config/puma.rb)",
        ),
        (
            "FROM ruby:3\nCOPY . .\nCMD [\"bundle\", \"exec\", \"puma\", \"-C\", \"other.rb\"]\n",
            "config/puma.rb",
            "worker_shutdown_timeout 45\n",
            "",
        ),
        (
            "FROM php:8-fpm\nCOPY docker/supervisord.conf /etc/\nCMD [\"supervisord\", \"-c\", \"/etc/supervisord.conf\"]\n",
            "docker/supervisord.conf",
            "[program:queue]\ncommand=php artisan queue:work\nstopwaitsecs=3600\n",
            "Supervisor of `app` takes up to 3600 s to finish (stopwaitsecs in docker/supervisord.conf)",
        ),
        (
            "FROM python:3\nCOPY supervisor.conf /etc/supervisor/conf.d/supervisord.conf\nCMD [\"supervisord\", \"-c\", \"/etc/supervisor/conf.d/supervisord.conf\"]\n",
            "supervisor.conf",
            "[program:api]\nstopwaitsecs=30\n",
            "Supervisor of `app` takes up to 30 s to finish (stopwaitsecs in supervisor.conf)",
        ),
        (
            "FROM python:3\nCMD [\"gunicorn\", \"--graceful-timeout\", \"90\", \"app:app\"]\n",
            "unused",
            "",
            "Gunicorn of `app` takes up to 90 s to finish (--graceful-timeout)",
        ),
    ] {
        write("web/app/Dockerfile", dockerfile);
        let file = write(&format!("web/app/{file}"), text);
        let found = said(&[&compose]);
        assert!(
            found.contains(part) && found.is_empty() == part.is_empty(),
            "{dockerfile}: {found}"
        );
        std::fs::remove_file(file).unwrap();
    }
    // Beside a task definition, for the one app whose image is one's own, or above a folder of deployment.
    write("Dockerfile", "FROM python:3\nCMD python app.py\n");
    let resource = write(
        "terraform/ecs.tf",
        "resource \"aws_ecs_task_definition\" \"a\" {\n  container_definitions = jsonencode([{ name = \"app\", image = var.image }])\n}\n",
    );
    assert!(said(&[&resource]).contains("(Dockerfile:2)"));
    let task = |image: &str| {
        format!(
            "{{\"family\": \"a\", \"containerDefinitions\": [{{\"name\": \"app\", \"image\": \"{image}\", \"stopTimeout\": 9}}]}}"
        )
    };
    let own = write(".aws/task.json", &task("<IMAGE>"));
    assert!(said(&[&own]).contains("(Dockerfile:2)"));
    let other = write("other.json", &task("nginx"));
    assert_eq!(said(&[&other]), "");
    // And by what Docker says.
    let inspected = write(
        "image.json",
        r#"[{"RepoTags": ["nginx"], "Config": {"Entrypoint": null, "Cmd": ["npm", "start"]}}]"#,
    );
    assert!(said(&[&other, "--image-config", &inspected]).contains("through `npm` (nginx)"));
    assert_eq!(
        run(&["check", &other, "--image-config", &other], &[])
            .status
            .code(),
        Some(2)
    );
    std::fs::remove_dir_all(directory).unwrap();
}

/// The text of a value of a YAML file at the top of the repository.
fn in_yaml(file: &str, path: &[&str]) -> Vec<String> {
    let path_of_file = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path_of_file).unwrap();
    let (root, _) = ecs_prestop::tools::document::parse(file, &text).unwrap();
    let mut nodes = vec![&root];
    for key in path {
        nodes = nodes
            .into_iter()
            .flat_map(|node| {
                if *key == "*" {
                    node.items().iter().collect()
                } else {
                    node.get(key).into_iter().collect::<Vec<_>>()
                }
            })
            .collect();
    }
    nodes
        .into_iter()
        .map(|node| node.word().unwrap().into_owned())
        .collect()
}

/// As the runner does it: each step's script in bash with `-e` and `pipefail`, inputs in its environment.
#[test]
fn the_action_annotates_writes_sarif_and_fails_where_something_is_found() {
    let scripts = in_yaml("action.yml", &["runs", "steps", "*", "run"]);
    let [install, check, result] = scripts.as_slice() else {
        panic!("{scripts:?}")
    };
    assert!(install.starts_with("cargo install"));
    // Every input reaches a script through its environment only.
    assert!(
        scripts.iter().all(|script| !script.contains("${{")),
        "{scripts:?}"
    );
    let folder = Folder::new("action");
    folder.write("tasks/a.json", WORKER);
    folder.write("my tasks/b.json", RULES[0].example.passing);
    let bash = |script: &str, environment: &[(&str, &str)]| {
        std::process::Command::new("bash")
            .args(["--noprofile", "--norc", "-eo", "pipefail", "-c", script])
            .envs(environment.iter().copied())
            .current_dir(&folder.0)
            .output()
            .unwrap()
    };
    let binary = env!("CARGO_BIN_EXE_ecs-prestop");
    for (paths, arguments, code) in [
        ("tasks\nmy tasks", "", "1"),
        ("my tasks", "--pedantic\n--severity\nnote", "0"),
        ("tasks", "--ignore\nPS010", "0"),
        ("none", "", "2"),
    ] {
        folder.write("output", "");
        let output = bash(
            check,
            &[
                ("BINARY", binary),
                ("PATHS", paths),
                ("ARGUMENTS", arguments),
                ("SARIF", "found.sarif"),
                ("GITHUB_OUTPUT", "output"),
            ],
        );
        assert!(output.status.success(), "{}", complaints(&output));
        let annotations = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(
            annotations.contains("::warning file=tasks/a.json,line=2"),
            code == "1",
            "{annotations}"
        );
        assert_eq!(
            folder.read("output"),
            format!("exit-code={code}\n"),
            "{paths} {arguments}"
        );
        let sarif: Value = serde_json::from_str(&folder.read("found.sarif")).unwrap();
        let results = sarif["runs"][0]["results"].as_array().unwrap();
        assert_eq!(results.is_empty(), code != "1");
        assert!(
            results
                .iter()
                .all(|result| result["partialFingerprints"]["ecsPrestop/v1"].is_string())
        );
        assert_eq!(
            bash(result, &[("CODE", code)]).status.code().unwrap().to_string(),
            code
        );
    }
}

#[test]
fn the_hook_is_given_every_file_and_minds_its_own() {
    let entry = &in_yaml(".pre-commit-hooks.yaml", &["*", "entry"])[0];
    let arguments: Vec<&str> = entry.split_whitespace().skip(2).collect();
    assert!(entry.starts_with("ecs-prestop check "));
    let folder = Folder::new("hook");
    folder.write("package.json", "{}");
    folder.write("ci.yaml", "jobs: {{ x }}");
    folder.write("a.json", WORKER);
    let hook = |files: &[&str]| folder.check(&[&arguments[..], files].concat()).0;
    assert_eq!(hook(&["package.json", "ci.yaml"]), 0);
    assert_eq!(hook(&["package.json", "ci.yaml", "a.json"]), 1);
    assert_eq!(hook(&["none.json"]), 2);
}

/// A directory of its own, a way to write files into it, and to run the program in it.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("ecs-prestop-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap()
    }

    /// The exit code, standard output and standard error.
    fn check(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = binary()
            .arg("check")
            .args(arguments)
            .current_dir(&self.0)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code().unwrap(),
            text(&output.stdout),
            text(&output.stderr),
        )
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const WORKER: &str = "{\"family\": \"a\", \"containerDefinitions\": [\n  {\"name\": \"worker\", \"image\": \"a:1\"},\n  {\"name\": \"other-worker\", \"image\": \"a:1\"}\n]}\n";

#[test]
fn a_repository_says_once_what_it_leaves_alone_and_why() {
    let folder = Folder::new("config");
    folder.write("deploy/a.json", WORKER);
    assert_eq!(folder.check(&["deploy"]).0, 1);
    let ignore = |entry: &str| format!("ignore:\n  - {entry}\n");
    for (entry, code) in [
        ("{rule: PS010, reason: short jobs}", 0),
        ("{rule: PS010, file: 'deploy/*.json', reason: short jobs}", 0),
        ("{rule: PS010, file: 'other/*.json', reason: short jobs}", 1),
        (
            "{rule: PS010, path: '$.containerDefinitions[0]', reason: short jobs}",
            1,
        ),
        (
            "{rule: PS010, path: '$.containerDefinitions', reason: short jobs}",
            0,
        ),
        ("{rule: PS011, reason: short jobs}", 1),
        ("{rule: PS010}", 2),
        ("{rule: PS010, reason: ' '}", 2),
        ("{rule: PS999, reason: none}", 2),
        ("{rule: PS010, because: none}", 2),
    ] {
        folder.write(".ecs-prestop.yaml", ignore(entry));
        let (exit, _, error) = folder.check(&["deploy"]);
        assert_eq!(exit, code, "{entry}: {error}");
        assert!(code < 2 || error.contains(".ecs-prestop.yaml:2:"), "{error}");
    }
    let path = folder.check(&["deploy", "--format", "json"]).1;
    assert!(!path.contains("\"fingerprint\": \"\""));
    folder.write("elsewhere.yaml", ignore("{rule: PS010, reason: short jobs}"));
    assert_eq!(folder.check(&["deploy", "--config", "elsewhere.yaml"]).0, 0);
    assert_eq!(folder.check(&["deploy", "--config", "none.yaml"]).0, 2);
}

#[test]
fn a_baseline_tells_only_what_is_new() {
    let folder = Folder::new("baseline");
    folder.write("a.json", WORKER);
    assert_eq!(folder.check(&["a.json", "--write-baseline", "baseline"]).0, 0);
    let (code, shown, _) = folder.check(&["a.json", "--baseline", "baseline"]);
    assert_eq!(
        (code, shown.as_str()),
        (
            0,
            "nothing found, 2 more in the baseline, in 1 task definition of 1 file\n"
        )
    );
    // Lines may move; what is new is told.
    folder.write(
        "a.json",
        WORKER.replace("{\"family\"", "\n\n{\"family\"").replace(
            "\n]}",
            ",\n  {\"name\": \"third-worker\", \"image\": \"a:1\"}\n]}",
        ),
    );
    let (code, shown, _) = folder.check(&["a.json", "--baseline", "baseline"]);
    assert!(
        code == 1 && shown.contains("third-worker") && !shown.contains("other-worker` works"),
        "{shown}"
    );
    assert_eq!(folder.check(&["a.json", "--baseline", "none"]).0, 2);
}

#[test]
fn what_can_be_mended_safely_is_shown_as_a_diff_and_then_written() {
    let folder = Folder::new("fix");
    let text = RULES
        .iter()
        .find(|rule| rule.id == "PS014")
        .unwrap()
        .example
        .failing()
        .replace(
            "\"stopTimeout\": 25",
            "\"stopTimeout\": 1,\n      \"command\": [\"dash\", \"-c\", \"cd /srv && ./app --port 80\"]",
        );
    folder.write("a.json", &text);
    let (code, diff, told) = folder.check(&["a.json", "--fix"]);
    assert_eq!(code, 1);
    for line in [
        "+      \"stopTimeout\": 2,",
        "+        {\"name\": \"PRESTOP_STOP_TIMEOUT\", \"value\": \"90s\"},",
        "\"cd /srv && exec ./app --port 80\"]",
    ] {
        assert!(diff.contains(line), "{line}: {diff}");
    }
    assert!(told.contains("3 can be mended by --in-place, 0 left"), "{told}");
    assert_eq!(folder.read("a.json"), text);
    assert_eq!(folder.check(&["a.json", "--fix", "--in-place"]).0, 0);
    assert_ne!(folder.read("a.json"), text);
    assert_eq!(folder.check(&["a.json"]).0, 0);
    // What is written on two lines or with escapes is left to people.
    let folded =
        "services:\n  app:\n    image: debian\n    command: [sh, -c, \"cd /srv \\\n      && ./app\"]\n";
    folder.write("compose.yaml", folded);
    assert_eq!(folder.check(&["compose.yaml", "--fix"]).1, "");
}

#[test]
fn standard_input_is_a_file_too() {
    let mut child = binary()
        .args(["check", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let text = RULES[0].example.failing();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("<stdin>:"));
}

#[test]
fn whatever_cannot_be_read_is_named_with_its_place_and_what_was_expected() {
    for (name, text, line, part) in [
        ("a.json", "", 1, "empty: expected a task definition"),
        (
            "a.json",
            "{\"containerDefinitions\": [{\"name\": \"a\"",
            1,
            "not JSON: unterminated",
        ),
        ("a.json", "hello", 1, "not JSON"),
        ("a.json", "{\n\"a\": 1,\n}", 2, "not JSON: trailing comma"),
        ("a.json", "{\n\"a\": 1,\n\"a\": 2}", 3, "the key `a` stands twice"),
        ("a.yaml", "a: 1\na: 2", 2, "the key `a` stands twice"),
        ("a.yaml", "a:\n\tb: 1", 2, "not YAML"),
        ("a.yaml", "a: &a [*a]", 1, "alias inside of its own anchor"),
        ("a.yaml", "? [a]\n: b", 1, "a key that is no text"),
        ("a.yaml", "a: 1\n---\nb: 1", 3, "a second YAML document"),
        ("a.json", &"[".repeat(200_000), 1, "nesting depth"),
        ("a.yaml", &"- ".repeat(200_000), 1, "levels deep"),
        (
            "a.json",
            "{\"containerDefinitions\": {}}",
            1,
            "expected a list of containers",
        ),
        (
            "a.json",
            "[1]",
            1,
            "no task definition: expected `containerDefinitions`",
        ),
        (
            "a.jsonnet",
            "{}",
            1,
            "check what `jsonnet FILE` or `ecspresso render taskdef` prints",
        ),
        (
            "manifest.yml",
            "name: web\ntype: Load Balanced Web Service\nimage:\n  port: 80",
            1,
            "`copilot svc package`",
        ),
        (
            "terraform.tfstate",
            "{\"version\": 4, \"terraform_version\": \"1.9.0\", \"lineage\": \"x\", \"resources\": []}",
            1,
            "`terraform show -json`",
        ),
        (
            "ecspresso.yml",
            "region: x\ncluster: a\nservice: b\ntask_definition: t.json",
            1,
            "`ecspresso render taskdef`",
        ),
        (
            "cdk.json",
            "{\"app\": \"node bin/x.js\", \"context\": {}}",
            1,
            "`cdk synth`",
        ),
        (
            "a.json",
            "{\"containerDefinitions\": [\n{{ range .C }}\n]}",
            2,
            "a template, which is not read",
        ),
        (
            "a.json",
            "{\"containerDefinitions\": [{\n\"cpu\": ${cpu}\n}]}",
            2,
            "a placeholder outside of quotes",
        ),
        (
            "a.yaml",
            "services:\n{{- range .Values.services }}\n  a: 1",
            2,
            "a template, which is not read",
        ),
    ] {
        let problem = problem(name, text);
        assert_eq!(problem.at.unwrap().line, line, "{problem}");
        assert!(problem.message.contains(part), "{problem}");
    }
}

#[test]
fn a_file_of_one_long_line_is_shown_in_part_and_with_its_own_column() {
    let text = format!(
        "[{}{{\"name\": \"b\", \"image\": \"b\", \"stopTimeout\": 0}}]",
        " ".repeat(5000)
    );
    let shown = output::text(&[checked("a.json", &text)], &[], false);
    let column = text.rfind("0}").unwrap() + 1;
    assert!(shown.contains(&format!("--> a.json:1:{column}\n")), "{shown}");
    assert!(shown.contains("^ as if it were not there"), "{shown}");
}

/// Nine times nine times nine … of what the first line says.
fn bomb() -> String {
    let mut text = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (name, before) in ('b'..='j').zip('a'..) {
        let nine = vec![format!("*{before}"); 9].join(", ");
        writeln!(text, "{name}: &{name} [{nine}]").unwrap();
    }
    text + "services: {a: *j}\n"
}

#[test]
fn no_file_takes_more_than_256_mib() {
    let directory = std::env::temp_dir().join(format!("ecs-prestop-big-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let many = |item: &str, times: usize| vec![item; times].join(",");
    let files = [
        ("bomb.yaml", bomb().into_bytes(), 2),
        ("hundred-megabytes.json", vec![b' '; 100_000_000], 2),
        ("utf16.json", b"\xff\xfe{\0}\0".to_vec(), 2),
        ("latin1.json", b"{\"a\": \"\xe9\"}".to_vec(), 2),
        ("nul.yaml", vec![0; 1000], 2),
        (
            "containers.json",
            format!("{{\"containerDefinitions\": [{}]}}", many("{}", 300_000)).into_bytes(),
            1,
        ),
        (
            "long-aliases.yaml",
            format!(
                "x: &x \"{}\"\nservices: {{a: {{command: [{}]}}}}",
                "y".repeat(500_000),
                many("*x", 1000)
            )
            .into_bytes(),
            2,
        ),
        (
            "anchors.yaml",
            format!(
                "x: {}{}{}",
                (0..120).map(|n| format!("&a{n} [")).collect::<String>(),
                "a,".repeat(400_000),
                "]".repeat(120)
            )
            .into_bytes(),
            2,
        ),
        (
            "aliases.yaml",
            format!("a: &a [1]\nb: [{}]", many("*a", 300_000)).into_bytes(),
            2,
        ),
        (
            "services.yaml",
            format!("services:\n{}", "  a: {image: x}\n".repeat(2)).into_bytes(),
            2,
        ),
        (
            "bom.json",
            b"\xef\xbb\xbf{\"containerDefinitions\": [{\"name\": \"a\", \"stopTimeout\": 9}]}".to_vec(),
            0,
        ),
    ];
    for (name, bytes, code) in files {
        let path = directory.join(name);
        std::fs::write(&path, bytes).unwrap();
        let limited = format!(
            "ulimit -v 262144; exec {} check {}",
            env!("CARGO_BIN_EXE_ecs-prestop"),
            path.display()
        );
        let output = std::process::Command::new("sh")
            .args(["-c", &limited])
            .output()
            .unwrap();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{name}: {}",
            complaints(&output)
        );
    }
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_bracket_may_stand_as_far_left_as_its_key_as_other_readers_have_it() {
    let template = |command: &str| {
        format!(
            "Resources:\n  Task:\n    Type: AWS::ECS::TaskDefinition\n    Properties:\n      RequiresCompatibilities: [FARGATE]\n      ContainerDefinitions:\n        - Name: app\n          Image: app\n          Command: {command}\n          StopTimeout: 300\n"
        )
    };
    for command in [
        "[\n            \"a\"\n          ]",
        "[\n            a,\n      b\n        ]",
        "[\n          { a: 1\n          },\n]\n          EntryPoint: |\n            {\n            }",
    ] {
        let text = template(command);
        let at = text.find("300").unwrap();
        let source = Source::new("a.yaml", text.clone());
        let (line, column) = (source.position(at).line, source.position(at).column);
        let checked = check(source, &Selection::default()).unwrap().unwrap();
        let found = checked
            .findings
            .iter()
            .find(|finding| finding.rule.id == "PS011")
            .unwrap();
        assert_eq!((found.start.line, found.start.column), (line, column), "{text}");
    }
    // Outside of brackets it means something.
    for text in ["a:\n    b: 1\n  c: 2\n", "a:\n  - b: [\n  ]\n   c: 1\n"] {
        assert!(
            ecs_prestop::tools::document::parse("a.yaml", text).is_err(),
            "{text}"
        );
    }
}

#[test]
fn a_directory_is_looked_through_and_what_is_left_out_is_told() {
    let directory = std::env::temp_dir().join(format!("ecs-prestop-left-{}", std::process::id()));
    let write = |name: &str, text: &[u8]| {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let broken = RULES[0].example.failing();
    write(".aws/task-definition.json", broken.as_bytes());
    for hidden in [
        ".git/a.json",
        ".terraform/modules/a.json",
        "node_modules/a/a.json",
    ] {
        write(hidden, broken.as_bytes());
    }
    write("package-lock.json", &vec![b' '; 2_000_000]);
    write("yarn-lock.json", &vec![b' '; 2_000_000]);
    write("latin1.yaml", b"services: \xe9");
    write("chart/values.yaml", b"services:\n{{- toYaml .Values.x }}\n");
    write(
        "compose.yaml",
        b"include: [other.yaml]\nservices:\n  a:\n    image: a\n",
    );
    let output = run(&["check", "--format", "json", directory.to_str().unwrap()], &[]);
    let shown = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr).replace(directory.to_str().unwrap(), "DIR");
    assert_eq!(output.status.code(), Some(1), "{shown}{told}");
    assert!(shown.contains("\"task_definitions\": 2,"), "{shown}");
    insta::assert_snapshot!(told, @r#"
    ecs-prestop: DIR/compose.yaml: `include` names other files, which are not read: check what `docker compose config` prints
    ecs-prestop: left out: 2 files longer than any task definition, 1 file not UTF-8, 1 file not to be read
      DIR/chart/values.yaml:2:3: not YAML: "-" is only valid inside a block: a template, which is not read: check what it is filled in to (`ecspresso render taskdef`, `helm template`, `ansible`)
    "#);
    // Named, it is a fault; and so is what was meant for ECS.
    let exits = |path: &std::path::Path| run(&["check", path.to_str().unwrap()], &[]).status.code();
    assert_eq!(exits(&directory.join("latin1.yaml")), Some(2));
    write("task.json", b"{\"containerDefinitions\": [");
    assert_eq!(exits(&directory), Some(2));
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_directory_that_cannot_be_read_is_named() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let directory = std::env::temp_dir().join(format!("ecs-prestop-closed-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = binary();
    // Root may read anything.
    if rustix::process::getuid().is_root() {
        command.uid(65532);
    }
    // Copied, since another user may not reach the build directory.
    let output = command.args(["check", &directory.display().to_string()]).output();
    std::fs::remove_dir_all(&directory).unwrap();
    let Ok(output) = output else { return };
    assert_eq!(output.status.code(), Some(2), "{}", complaints(&output));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("cannot read this directory"), "{shown}");
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { failure_persistence: None, cases: 600, ..Default::default() })]

    /// Damaged files and pure noise: an answer, and no panic.
    #[test]
    fn no_text_makes_it_panic(
        name in proptest::sample::select(vec!["a.json", "a.yaml", "a.template"]),
        which in 0..RULES.len(),
        cuts in proptest::collection::vec((0..4000_usize, 0..40_usize, "[\\[\\]{}:,&*!#|> \n\"a0-]{0,6}"), 0..6),
    ) {
        let mut text = RULES[which].example.passing.to_owned();
        for (at, length, new) in cuts {
            let start = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            let end = (start + length).min(text.len());
            let end = (start..=end).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(start);
            text.replace_range(start..end, &new);
        }
        let source = Source::new(name, text);
        let result = check(source, &Selection::default());
        let (files, problems) = match result {
            Ok(file) => (file.into_iter().collect(), Vec::new()),
            Err(problem) => (Vec::new(), vec![problem]),
        };
        proptest::prop_assert!(!output::text(&files, &problems, false).is_empty());
    }
}

#[test]
fn a_file_that_was_read_and_holds_no_task_definition_is_no_clean_one() {
    let mut all = String::new();
    for (name, text) in [
        (
            "master.yaml",
            "Resources:\n  Web:\n    Type: AWS::CloudFormation::Stack\n    Properties:\n      TemplateURL: web.yaml\n",
        ),
        ("bucket.yaml", "Resources:\n  Logs:\n    Type: AWS::S3::Bucket\n"),
        ("compose.yaml", "services: {}\n"),
        ("compose.yaml", "include:\n  - path: api/compose.yaml\n"),
        (
            "plan.json",
            "{\"format_version\": \"1.2\", \"planned_values\": {\"root_module\": {}}}",
        ),
    ] {
        writeln!(all, "{}", problem(name, text)).unwrap();
        let found = as_found(Ok(Source::new(name, text.to_owned()))).unwrap();
        let found = check(found, &Selection::default());
        assert!(matches!(found, Ok(None)), "{name} that nobody named: {found:?}");
    }
    insta::assert_snapshot!(all, @r"
    master.yaml:1:1: no task definition: expected `AWS::ECS::TaskDefinition`; its nested stacks are not read (`Web`): check their templates
    bucket.yaml:1:1: no task definition: expected `AWS::ECS::TaskDefinition`
    compose.yaml:1:1: no task definition: expected a service
    compose.yaml:1:1: no task definition but `include`s of other files: check what `docker compose config` prints
    plan.json:1:1: no task definition: expected `aws_ecs_task_definition`
    ");
}

#[test]
fn a_shell_under_an_init_process_is_told_as_what_it_is() {
    let loop_of = |init: bool| {
        json!({"family": "a", "networkMode": "awsvpc", "containerDefinitions": [{
            "name": "app", "image": "a", "stopTimeout": 60, "linuxParameters": {"initProcessEnabled": init},
            "command": ["sh", "-c", "while true; do php artisan schedule:run; sleep 60; done"]}]})
        .to_string()
    };
    let said = |init| {
        let file = checked("a.json", &loop_of(init));
        let finding = file.findings.iter().find(|finding| finding.rule.id == "PS020");
        finding.map(|finding| finding.message.clone()).unwrap()
    };
    insta::assert_snapshot!(said(true), @"`sh` runs `app` under an init process, unless its image has an entry point, and ends at SIGTERM: its command is killed with it");
    insta::assert_snapshot!(said(false), @"`sh` is the first process of `app`, unless its image has an entry point, and goes on waiting after SIGTERM");
}

#[test]
fn what_ends_by_itself_is_not_told_of_its_shell() {
    let started = |command: &str| {
        let text = format!("services:\n  web:\n    image: node:22\n    command: {command}\n");
        regular("compose.yaml", &text).0
    };
    for command in [
        "sh -c \"npm i && npm run build\"",
        "npm run install-and-build",
        "sh -c \"sleep 3; bundle exec rails db:migrate\"",
        "npm run storybook",
        "yarn",
        "sh -c \"poetry install; poetry run format\"",
    ] {
        assert!(started(command).is_empty(), "{command}: {:?}", started(command));
    }
    for command in [
        "npm start",
        "npm run start",
        "npm run start:build",
        "sh -c \"npm run build && npm run start | tee log\"",
    ] {
        assert_eq!(started(command), ["PS020"], "{command}");
    }
}

#[test]
fn a_service_that_runs_the_source_beside_it_is_for_a_laptop() {
    let told = |rest: &str| {
        let text = format!("services:\n  web:\n    image: node:22\n    command: npm start\n{rest}");
        regular("compose.yaml", &text).0
    };
    for source in [
        "    volumes: [\".:/app\"]\n",
        "    build: ./client\n    volumes: [\"./client:/app\"]\n",
        "    build: {context: ./client/}\n    volumes: [\"/app/node_modules\", \"./client/src:/app/src\"]\n",
        "    build: .\n    volumes: [\"./src:/app/src\"]\n",
        "    volumes: [{type: bind, source: ./, target: /app}]\n",
    ] {
        assert!(told(source).is_empty(), "{source}");
    }
    for data in [
        "    volumes: [\"./data:/data\", \"db:/var/lib\"]\n",
        "    build: ./client\n    volumes: [\"./client/.env:/app/.env\"]\n",
        "    volumes: [\"/app/node_modules\"]\n",
        "    volumes: [\"/:/rootfs:ro\", \"src:/data\"]\n",
        "",
    ] {
        assert_eq!(told(data), ["PS020"], "{data}");
    }
}

#[test]
fn a_file_of_elastic_beanstalk_has_types_of_its_own() {
    let file = |first: &str| {
        format!(
            "{{{first}\"containerDefinitions\": [{{\"name\": \"app\", \"image\": \"app:1\", \"memory\": 128, \
             \"environment\": [{{\"name\": \"PORT\", \"value\": 8080}}]}}]}}"
        )
    };
    assert!(regular("a.json", &file("")).0.contains(&"PS061"));
    let beanstalk = file("\"AWSEBDockerrunVersion\": 2, ");
    assert!(!found("Dockerrun.aws.json", &beanstalk).contains(&"PS061"));
}

#[test]
fn a_task_runner_has_to_outlive_the_app_that_hands_it_code() {
    let text = |depends: &str| {
        format!(
            "{{\"family\": \"n8n\", \"networkMode\": \"awsvpc\", \"containerDefinitions\": [{{\"name\": \"n8n\", \"image\": \"n8nio/n8n:2\", \"stopTimeout\": 60{depends}}}, \
             {{\"name\": \"task-runner\", \"image\": \"n8nio/runners:2\", \"essential\": false}}]}}"
        )
    };
    assert!(regular("a.json", &text("")).0.contains(&"PS006"));
    let depending = ", \"dependsOn\": [{\"containerName\": \"task-runner\", \"condition\": \"START\"}]";
    assert!(!regular("a.json", &text(depending)).0.contains(&"PS006"));
    // It has ended before the app began.
    let first = depending.replace("START", "SUCCESS");
    assert!(!regular("a.json", &text(&first)).0.contains(&"PS006"));
}
