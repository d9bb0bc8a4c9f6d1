//! The order in which the ECS agent stops the containers of a task, played by a small model of its own:
//! it shares no code with the program, so that both cannot be wrong in the same way.
//!
//! A container gets its signal once every container that names it in `dependsOn`, `links` or `volumesFrom`
//! is stopped, whatever the condition (agent, `agent/engine/dependencygraph/graph.go`,
//! `verifyShutdownOrder`, and `agent/api/task/task.go`, `initializeContainerOrdering`).

use std::collections::BTreeMap;

use ecs_prestop::tools::add::{AddOptions, add};
use ecs_prestop::tools::check::{Persona, Selection, check};
use ecs_prestop::tools::source::Source;
use proptest::prelude::*;
use serde_json::{Value, json};

/// When each container gets its signal and when it is gone, in seconds since the task began to stop.
fn played(containers: &[Value]) -> BTreeMap<String, (u64, u64)> {
    let name = |container: &Value| container["name"].as_str().unwrap().to_owned();
    let list = |container: &Value, field: &str| container[field].as_array().cloned().unwrap_or_default();
    let needs = |container: &Value| -> Vec<String> {
        let ordered = list(container, "dependsOn");
        let ordered = ordered
            .iter()
            .map(|entry| entry["containerName"].as_str().unwrap().to_owned());
        let links = list(container, "links");
        let linked = links
            .iter()
            .map(|link| link.as_str().unwrap().split(':').next().unwrap().to_owned());
        let volumes = list(container, "volumesFrom");
        let volumes = volumes
            .iter()
            .map(|entry| entry["sourceContainer"].as_str().unwrap().to_owned());
        ordered.chain(linked).chain(volumes).collect()
    };
    let ended: Vec<String> = containers
        .iter()
        .flat_map(|container| list(container, "dependsOn"))
        .filter(|entry| ["SUCCESS", "COMPLETE"].contains(&entry["condition"].as_str().unwrap_or("START")))
        .map(|entry| entry["containerName"].as_str().unwrap().to_owned())
        .collect();
    let mut times: BTreeMap<String, (u64, u64)> = ended.into_iter().map(|name| (name, (0, 0))).collect();
    while times.len() < containers.len() {
        let before = times.len();
        for container in containers {
            let own = name(container);
            let dependants = containers.iter().filter(|other| needs(other).contains(&own));
            let gone: Option<Vec<u64>> = dependants
                .map(|other| times.get(&name(other)).map(|(_, gone)| *gone))
                .collect();
            if let (Some(gone), false) = (gone, times.contains_key(&own)) {
                let signal = gone.into_iter().max().unwrap_or(0);
                let stop = container["stopTimeout"].as_u64().unwrap_or(30);
                times.insert(own, (signal, signal + stop));
            }
        }
        assert!(times.len() > before, "a circle: {containers:?}");
    }
    times
}

#[test]
fn the_model_stops_dependants_first_and_the_rest_at_once() {
    let times = played(&[
        json!({"name": "init", "stopTimeout": 9}),
        json!({"name": "db", "stopTimeout": 4}),
        json!({"name": "app", "stopTimeout": 3, "links": ["db:database"], "dependsOn": [{"containerName": "init", "condition": "SUCCESS"}]}),
        json!({"name": "envoy", "stopTimeout": 2}),
        json!({"name": "prestop", "stopTimeout": 1, "dependsOn": [{"containerName": "app", "condition": "START"}]}),
    ]);
    let at = |name: &str| times[name];
    assert_eq!((at("prestop"), at("app"), at("db")), ((0, 1), (1, 4), (4, 8)));
    assert_eq!((at("envoy"), at("init")), ((0, 2), (0, 0)));
}

/// Some containers, each of which may need some of those before it.
fn containers() -> impl Strategy<Value = Vec<Value>> {
    let needs = proptest::collection::vec((0..6_usize, 0..6_usize), 0..4);
    let image = proptest::sample::select(vec![
        "app:1",
        "nginx:1",
        "redis:7",
        "envoy:1",
        "amazon/aws-xray-daemon",
        "php:8-fpm",
    ]);
    proptest::collection::vec((needs, image, 2..12_u64), 1..7).prop_map(|list| {
        let mut containers: Vec<Value> = Vec::new();
        let mut ends = std::collections::BTreeSet::new();
        for (number, (needs, image, stop)) in list.into_iter().enumerate() {
            let mut container = json!({"name": format!("c{number}"), "image": image, "stopTimeout": stop,
                "portMappings": [{"containerPort": 80}], "essential": number == 0});
            for (on, how) in needs {
                if on >= number {
                    continue;
                }
                let name = format!("c{on}");
                match how {
                    // The first is the app: it does not end by itself.
                    0 if on > 0 => {
                        ends.insert(name.clone());
                        push(
                            &mut container,
                            "dependsOn",
                            json!({"containerName": name, "condition": "SUCCESS"}),
                        );
                    }
                    1 => push(&mut container, "links", json!(format!("{name}:alias"))),
                    2 => push(&mut container, "volumesFrom", json!({"sourceContainer": name})),
                    _ => push(
                        &mut container,
                        "dependsOn",
                        json!({"containerName": name, "condition": "START"}),
                    ),
                }
            }
            containers.push(container);
        }
        containers
    })
}

fn push(container: &mut Value, field: &str, entry: Value) {
    match container[field].as_array_mut() {
        Some(list) => list.push(entry),
        None => container[field] = json!([entry]),
    }
}

fn capitalised(value: &Value) -> Value {
    match value {
        Value::Array(list) => list.iter().map(capitalised).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| {
                (
                    format!("{}{}", key[..1].to_uppercase(), &key[1..]),
                    capitalised(value),
                )
            })
            .collect(),
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { failure_persistence: None, cases: 300, ..Default::default() })]

    /// Whatever depends on whatever: with the sidecar that `add` wires in, nobody else gets a signal
    /// before it has gone.
    #[test]
    fn nobody_gets_a_signal_before_the_added_sidecar_has_gone(list in containers(), template in any::<bool>()) {
        let task = json!({"family": "t", "networkMode": "awsvpc", "requiresCompatibilities": ["FARGATE"], "containerDefinitions": list});
        let text = if template {
            json!({"Resources": {"T": {"Type": "AWS::ECS::TaskDefinition", "Properties": capitalised(&task)}}}).to_string()
        } else {
            task.to_string()
        };
        let options = AddOptions {
            to: "c0".to_owned(),
            image: Some("registry.example.com/ecs-prestop:1".to_owned()),
            drain: Some("http://c0/drain".to_owned()),
            capacity: Some("on-demand".to_owned()),
            ..AddOptions::default()
        };
        let done = add(&Source::new("t.json", text.clone()), &options);
        let done = done.map_err(|why| TestCaseError::fail(format!("{why}\n{text}")))?;
        let document: Value = serde_json::from_str(&done.text).unwrap();
        let after: Vec<Value> = if template {
            let list = document["Resources"]["T"]["Properties"]["ContainerDefinitions"].as_array().unwrap();
            list.iter().map(small).collect()
        } else {
            document["containerDefinitions"].as_array().unwrap().clone()
        };
        let times = played(&after);
        let (_, gone) = times["prestop"];
        for (name, (signal, end)) in &times {
            let has_ended = *end == 0;
            prop_assert!(has_ended || name == "prestop" || *signal >= gone, "{name} at {signal}, sidecar until {gone}\n{}", done.text);
        }
    }

    /// And where somebody takes dependencies out again, `check` says so whenever the model shows it.
    #[test]
    fn check_finds_who_stops_too_early(list in containers(), kept in proptest::collection::vec(any::<bool>(), 8)) {
        let mut list = list;
        let depends: Vec<Value> = list.iter().zip(&kept)
            .filter(|(container, kept)| **kept || container["name"] == "c0")
            .map(|(container, _)| json!({"containerName": container["name"], "condition": "START"}))
            .collect();
        list.push(json!({"name": "prestop", "image": "ecs-prestop:1", "essential": false, "stopTimeout": 20, "dependsOn": depends,
            "environment": [{"name": "PRESTOP_DRAIN", "value": "http://c0/drain"}]}));
        let times = played(&list);
        let (_, gone) = times["prestop"];
        let early = times.iter().any(|(name, (signal, end))| name != "prestop" && *end > 0 && *signal < gone);
        let text = json!({"family": "t", "networkMode": "awsvpc", "containerDefinitions": list}).to_string();
        let selection = Selection { persona: Persona::Pedantic, ..Selection::default() };
        let found = check(Source::new("t.json", text.clone()), &selection).unwrap().unwrap();
        let said = found.findings.iter().any(|finding| ["PS001", "PS006", "PS008"].contains(&finding.rule.id));
        prop_assert!(!early || said, "{text}");
    }
}

/// The opposite of `capitalised`.
fn small(value: &Value) -> Value {
    match value {
        Value::Array(list) => list.iter().map(small).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (format!("{}{}", key[..1].to_lowercase(), &key[1..]), small(value)))
            .collect(),
        other => other.clone(),
    }
}
