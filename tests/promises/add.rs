//! `add` wires the sidecar in, and changes nothing else.

use ecs_prestop::tools::add::{AddOptions, Added, NotAdded, add};
use ecs_prestop::tools::check::{Selection, check};
use ecs_prestop::tools::source::Source;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::process::run;

fn options(to: &str) -> AddOptions {
    AddOptions {
        to: to.to_owned(),
        image: Some("registry.example.com/ecs-prestop:1".to_owned()),
        ..AddOptions::default()
    }
}

fn added(name: &str, text: &str, options: &AddOptions) -> Result<Added, NotAdded> {
    add(&Source::new(name, text.to_owned()), options)
}

fn refusal(name: &str, text: &str, options: &AddOptions) -> String {
    added(name, text, options).unwrap_err().to_string()
}

fn findings(name: &str, text: &str) -> Vec<String> {
    let source = Source::new(name, text.to_owned());
    let checked = check(source, &Selection::default()).unwrap().unwrap();
    let one =
        |finding: &ecs_prestop::tools::check::Located| format!("{} {}", finding.rule.id, finding.message);
    checked.findings.iter().map(one).collect()
}

/// What was put in, given that nothing else changed.
fn inserted<'t>(before: &str, after: &'t str) -> &'t str {
    let common = before
        .bytes()
        .zip(after.bytes())
        .take_while(|(a, b)| a == b)
        .count();
    let tail = before.len() - common;
    assert!(
        after.ends_with(&before[common..]),
        "more than one place changed:\n{after}"
    );
    &after[common..after.len() - tail]
}

const PLAIN: &str = r#"{
  "family": "web",
  "requiresCompatibilities": ["FARGATE"],
  "networkMode": "awsvpc",
  "cpu": "256",
  "memory": "512",
  "containerDefinitions": [
    {
      "name": "app",
      "image": "111122223333.dkr.ecr.eu-central-1.amazonaws.com/app:1",
      "portMappings": [{"containerPort": 8080}],
      "stopTimeout": 25,
      "logConfiguration": {
        "logDriver": "awslogs",
        "options": {
          "awslogs-group": "web"
        }
      }
    }
  ]
}
"#;

const TEMPLATE: &str = r#"# Comments stay.
Resources:
  Task:
    Type: AWS::ECS::TaskDefinition
    Properties:
      RequiresCompatibilities: [FARGATE]
      NetworkMode: awsvpc
      Cpu: "256"
      Memory: "512"
      ContainerDefinitions:
        # The app.
        - Name: app
          Image: !Sub "${AWS::AccountId}.dkr.ecr.${AWS::Region}.amazonaws.com/app:1"  # built elsewhere
          PortMappings:
            - ContainerPort: !Ref Port
          StopTimeout: 25
          LogConfiguration:
            LogDriver: awslogs
            Options:
              awslogs-group: !Ref LogGroup   # its group
              mode: non-blocking
        # No more containers.
  Service:
    Type: AWS::ECS::Service
    Properties:
      TaskDefinition: !Ref Task
      CapacityProviderStrategy: [{CapacityProvider: FARGATE_SPOT, Weight: 1}]
"#;

const COMPOSE: &str = "services:\n  app:\n    image: app:1\n    ports: [\"80:8080\"]\n    networks: [inner]\n\n  db:\n    image: postgres\n\nnetworks:\n  inner: {}\n";

/// As it stands in the result, for people to read.
fn shown(name: &str, text: &str, options: &AddOptions) -> String {
    let added = added(name, text, options).unwrap();
    format!("{}\n---{}", added.story, inserted(text, &added.text))
}

#[test]
fn each_form_gets_the_sidecar_in_its_own_style() {
    let described = format!("{{\n\"taskDefinition\": {},\n\"tags\": []\n}}", PLAIN.trim());
    let list = r#"[{"name":"app","image":"app:1","portMappings":[{"containerPort":80}],"stopTimeout":9}]"#;
    let tabs = PLAIN.replace("  ", "\t");
    let all = [
        shown("plain.json", PLAIN, &options("app")),
        shown("described.json", &described, &options("app")),
        shown("tabs.json", &tabs, &options("app")),
        shown("list.json", list, &options("app")),
        shown("template.yaml", TEMPLATE, &options("app")),
        shown("compose.yaml", COMPOSE, &options("app")),
    ];
    insta::assert_snapshot!(all.join("\n\n"));
}

#[test]
fn adding_twice_is_adding_once() {
    for (name, text) in [
        ("plain.json", PLAIN),
        ("template.yaml", TEMPLATE),
        ("compose.yaml", COMPOSE),
    ] {
        let once = added(name, text, &options("app")).unwrap();
        let twice = added(name, &once.text, &options("app")).unwrap();
        assert_eq!(twice.text, once.text);
        assert!(twice.story.contains("nothing changed"), "{}", twice.story);
        let other = AddOptions {
            drain: Some("ack".to_owned()),
            ..options("app")
        };
        let why = refusal(name, &once.text, &other);
        assert!(why.contains("something else than --drain says"), "{why}");
    }
}

#[test]
fn what_it_prints_is_clean() {
    for (name, text) in [
        ("plain.json", PLAIN),
        ("template.yaml", TEMPLATE),
        ("compose.yaml", COMPOSE),
    ] {
        assert_eq!(findings(name, text), [""; 0], "{name} before");
        let text = added(name, text, &options("app")).unwrap().text;
        assert_eq!(findings(name, &text), [""; 0], "{name}");
    }
}

/// The sidecar that was added to a JSON document.
fn sidecar(text: &str, options: &AddOptions) -> Value {
    let task: Value = serde_json::from_str(&added("a.json", text, options).unwrap().text).unwrap();
    let list = task["containerDefinitions"].as_array().unwrap();
    list.iter()
        .find(|container| container["name"] == "prestop")
        .unwrap()
        .clone()
}

fn setting(sidecar: &Value, name: &str) -> Option<String> {
    let list = sidecar["environment"].as_array().unwrap();
    let variable = list.iter().find(|variable| variable["name"] == name)?;
    Some(variable["value"].as_str().unwrap().to_owned())
}

#[test]
fn its_settings_follow_from_the_task() {
    // Spot gives 120 s: what the app keeps for itself is not the drain's.
    let long = PLAIN.replace("25", "70");
    let added = sidecar(&long, &options("app"));
    assert_eq!(added["stopTimeout"], 50);
    assert_eq!(setting(&added, "PRESTOP_RESERVE").as_deref(), Some("70s"));
    // On demand nothing is kept back.
    let on_demand = AddOptions {
        capacity: Some("on-demand".to_owned()),
        ..options("app")
    };
    let added = sidecar(&long, &on_demand);
    assert_eq!(added["stopTimeout"], 90);
    assert_eq!(setting(&added, "PRESTOP_RESERVE"), None);
    // The log router must outlive the sidecar; whoever blocks does not make the sidecar block.
    let router = PLAIN
        .replace("\"awslogs\"", "\"awsfirelens\"")
        .replace("    {\n      \"name\": \"app\"", "    {\"name\": \"logs\", \"image\": \"fluent-bit\", \"stopTimeout\": 5, \"firelensConfiguration\": {\"type\": \"fluentbit\"}},\n    {\n      \"dependsOn\": [{\"containerName\": \"logs\", \"condition\": \"START\"}],\n      \"name\": \"app\"");
    let added = sidecar(&router, &options("app"));
    assert_eq!(added["dependsOn"][0]["containerName"], "logs");
    assert_eq!(setting(&added, "PRESTOP_RESERVE").as_deref(), Some("30s"));
    let blocking = PLAIN.replace(
        "\"awslogs-group\": \"web\"",
        "\"awslogs-group\": \"web\", \"mode\": \"blocking\"",
    );
    let added = sidecar(&blocking, &options("app"));
    assert_eq!(
        added["logConfiguration"]["options"],
        json!({"awslogs-group": "web", "mode": "non-blocking"})
    );
    // On EC2 each container has its own memory, and old agents know no restart policy.
    let bridge = PLAIN
        .replace("FARGATE", "EC2")
        .replace("awsvpc", "bridge")
        .replace("  \"memory\": \"512\",\n", "");
    let ack = AddOptions {
        drain: Some("ack".to_owned()),
        ..options("app")
    };
    let added = sidecar(&bridge, &ack);
    assert_eq!(
        (&added["memory"], &added["restartPolicy"]),
        (&json!(32), &Value::Null)
    );
    assert_eq!(setting(&added, "PRESTOP_LISTEN").as_deref(), Some("0.0.0.0:9911"));
    // A signal needs the rights of the one who gets it.
    let shared = PLAIN
        .replace("\"cpu\"", "\"pidMode\": \"task\",\n  \"cpu\"")
        .replace("\"image\"", "\"user\": \"101\",\n      \"image\"");
    let quit = AddOptions {
        drain: Some("signal QUIT app".to_owned()),
        stop_timeout_s: Some(60),
        image: Some("mine:7".to_owned()),
        ..options("app")
    };
    let added = sidecar(&shared, &quit);
    assert_eq!(
        (&added["user"], &added["stopTimeout"], &added["image"]),
        (&json!("101"), &json!(60), &json!("mine:7"))
    );
}

#[test]
fn where_it_cannot_be_right_it_refuses_and_says_why() {
    let full = |count: usize| {
        let list: Vec<Value> = (0..count)
            .map(|number| json!({"name": format!("c{number}"), "image": "x", "stopTimeout": 2}))
            .collect();
        json!({"family": "full", "containerDefinitions": list}).to_string()
    };
    let with = |drain: &str| AddOptions {
        drain: Some(drain.to_owned()),
        ..options("app")
    };
    for (text, options, part) in [
        (
            PLAIN.to_owned(),
            options("web"),
            "there is no container `web`; there is `app`",
        ),
        (
            PLAIN.replace("\"portMappings\": [{\"containerPort\": 8080}],", ""),
            options("app"),
            "no container lists a port",
        ),
        (
            PLAIN.replace("25", "115"),
            options("app"),
            "leaves nothing of the 120 s",
        ),
        (PLAIN.to_owned(), with("drain"), "`drain` is not a step"),
        (PLAIN.to_owned(), with("signal QUIT app"), "needs `pidMode: task`"),
        (PLAIN.to_owned(), with("http://web:8080/drain"), "PS031"),
        (PLAIN.to_owned(), with("http://app:8081/drain"), "PS032"),
        (
            PLAIN.replace(
                "\"cpu\"",
                "\"runtimePlatform\": {\"operatingSystemFamily\": \"WINDOWS_SERVER_2022_CORE\"}, \"cpu\"",
            ),
            options("app"),
            "Windows",
        ),
        (full(10), options("c0"), "10 containers"),
        (
            "{\"containerDefinitions\": [".to_owned(),
            options("app"),
            "not JSON",
        ),
        (
            PLAIN.replace("\"name\": \"app\"", "\"name\": \"prestop\""),
            options("prestop"),
            "",
        ),
    ] {
        match added("a.json", &text, &options) {
            Err(why) => assert!(why.to_string().contains(part), "{part}: {why}"),
            Ok(added) => assert!(part.is_empty(), "{part} was done: {}", added.text),
        }
    }
    let two = TEMPLATE.replace("  Service:", "  Other:\n    Type: AWS::ECS::TaskDefinition\n    Properties:\n      ContainerDefinitions: [{Name: app, Image: x}]\n  Service:");
    let why = refusal("t.yaml", &two, &options("app"));
    assert!(
        why.contains("`Task` and `Other` both have a container `app`"),
        "{why}"
    );
    let said = AddOptions {
        task: Some("Task".to_owned()),
        ..options("app")
    };
    assert!(added("t.yaml", &two, &said).is_ok());
}

#[test]
fn in_place_and_diff_are_what_they_say() {
    let path = std::env::temp_dir().join(format!("ecs-prestop-add-{}.json", std::process::id()));
    let file = path.display().to_string();
    let marked = format!("\u{feff}{}", PLAIN.replace('\n', "\r\n"));
    std::fs::write(&path, &marked).unwrap();
    let diff = run(&["add", &file, "--to", "app", "--diff"], &[]);
    assert_eq!(diff.status.code(), Some(0));
    let diff = String::from_utf8_lossy(&diff.stdout).into_owned();
    assert!(
        diff.starts_with("--- a/") && diff.contains("+      \"name\": \"prestop\","),
        "{diff}"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), marked);
    let printed = run(&["add", &file, "--to", "app"], &[]).stdout;
    let silent = run(&["add", &file, "--to", "app", "--in-place"], &[]);
    assert_eq!((silent.status.code(), silent.stdout), (Some(0), Vec::new()));
    let written = std::fs::read_to_string(&path).unwrap();
    assert_eq!(written.as_bytes(), printed);
    // The mark and the line ends of the file are those of what was put in.
    assert!(written.starts_with('\u{feff}'));
    assert_eq!(written.matches('\n').count(), written.matches("\r\n").count());
    std::fs::remove_file(&path).unwrap();
    assert_eq!(run(&["add", &file, "--to", "app"], &[]).status.code(), Some(2));
    assert_eq!(run(&["add", &file], &[]).status.code(), Some(2));
    assert_eq!(
        run(&["add", &file, "--to", "app", "--stop-timeout", "3h"], &[])
            .status
            .code(),
        Some(2)
    );
}

#[test]
fn the_drain_is_what_is_known_to_work() {
    let drained = |text: &str| setting(&sidecar(text, &options("app")), "PRESTOP_DRAIN").unwrap();
    assert_eq!(drained(PLAIN), "quiet");
    let port = |more: &str| {
        PLAIN.replace(
            "{\"containerPort\": 8080}",
            &format!("{{\"containerPort\": 8080, {more}}}"),
        )
    };
    assert_eq!(drained(&port("\"appProtocol\": \"grpc\"")), "quiet moves");
    assert_eq!(drained(&port("\"appProtocol\": \"http\"")), "quiet");
    let on_ec2 = PLAIN.replace("FARGATE", "EC2");
    assert_eq!(drained(&on_ec2.replace("awsvpc", "bridge")), "sleep 15s");
    assert_eq!(drained(&on_ec2.replace("awsvpc", "host")), "quiet :8080");
    let shared = PLAIN.replace("\"cpu\"", "\"pidMode\": \"task\",\n  \"cpu\"");
    assert_eq!(
        drained(&shared.replace("FARGATE", "EC2").replace("awsvpc", "bridge")),
        "sleep 15s",
        "whose connections the sidecar does not see, with a PID namespace in common or without"
    );
    // Each has its own way to finish; nothing that speaks FastCGI, MySQL or Redis gets HTTP or a look.
    let image = |text: &str, image: &str| {
        text.replace("111122223333.dkr.ecr.eu-central-1.amazonaws.com/app:1", image)
    };
    for (own, apart, together) in [
        ("nginx:1.27", "quiet", "quiet, signal QUIT app"),
        ("php:8.3-fpm", "quiet", "quiet, signal QUIT app"),
        ("httpd:2.4", "quiet", "quiet, signal WINCH app"),
        ("redis:7", "sleep 5s", "signal TERM app"),
        ("mysql:8", "sleep 5s", "signal TERM app"),
        ("postgres:16", "sleep 5s", "signal INT app"),
    ] {
        assert_eq!(drained(&image(PLAIN, own)), apart, "{own}");
        assert_eq!(drained(&image(&shared, own)), together, "{own}");
    }
    let template = BALANCED.replace(
        "HealthCheckPath: /health\n",
        "HealthCheckPath: /health\n      ProtocolVersion: GRPC\n",
    );
    assert!(
        added("t.yaml", &template, &options("app"))
            .unwrap()
            .text
            .contains("Value: quiet moves")
    );
    let labelled = PLAIN.replace(
        "\"image\"",
        "\"dockerLabels\": {\"prestop.drain\": \"POST :8080/stop\"}, \"image\"",
    );
    assert_eq!(
        setting(&sidecar(&labelled, &options("app")), "PRESTOP_DRAIN"),
        None
    );
}

#[test]
fn settle_is_written_where_somebody_says_it() {
    let settled = AddOptions {
        settle_s: Some(20),
        ..options("app")
    };
    assert_eq!(
        setting(&sidecar(PLAIN, &settled), "PRESTOP_SETTLE").as_deref(),
        Some("20s")
    );
    assert_eq!(setting(&sidecar(PLAIN, &options("app")), "PRESTOP_SETTLE"), None);
    let long = AddOptions {
        settle_s: Some(60),
        ..options("app")
    };
    assert!(refusal("a.json", PLAIN, &long).contains("PS015"));
}

#[test]
fn in_compose_it_looks_from_within_the_network_of_the_app() {
    let one = |service: &str| {
        let text = format!("services:\n  app:\n    {service}\n");
        added("compose.yaml", &text, &options("app")).map(|done| inserted(&text, &done.text).to_owned())
    };
    let part = one("image: app:1").unwrap();
    assert!(
        part.contains("PRESTOP_DRAIN: quiet") && part.contains("network_mode: service:app"),
        "{part}"
    );
    let part = one("image: redis:7").unwrap();
    assert!(
        part.contains("PRESTOP_DRAIN: sleep 5s") && !part.contains("network_mode"),
        "{part}"
    );
    let part = one("{image: app:1, network_mode: host, ports: ['8080']}").unwrap();
    assert!(
        part.contains("PRESTOP_DRAIN: quiet :8080") && part.contains("network_mode: host"),
        "{part}"
    );
    let why = one("{image: app:1, command: [bundle, exec, sidekiq]}")
        .unwrap_err()
        .to_string();
    assert!(
        why.contains("works on jobs") && why.contains("--drain ack"),
        "{why}"
    );
}

#[test]
fn the_image_is_taken_from_a_private_registry_or_asked_for() {
    let image = |image: &str| -> Result<Value, NotAdded> {
        let text = PLAIN.replace("111122223333.dkr.ecr.eu-central-1.amazonaws.com/app:1", image);
        let asked = AddOptions {
            image: None,
            ..options("app")
        };
        let done = added("a.json", &text, &asked)?;
        let task: Value = serde_json::from_str(&done.text).unwrap();
        Ok(task["containerDefinitions"][1]["image"].clone())
    };
    let version = env!("CARGO_PKG_VERSION");
    for (own, registry) in [
        (
            "111122223333.dkr.ecr.eu-central-1.amazonaws.com/team/app:1",
            "111122223333.dkr.ecr.eu-central-1.amazonaws.com",
        ),
        ("registry.example.com:5000/app", "registry.example.com:5000"),
        (
            "<ACCOUNT>.dkr.ecr.eu-west-1.amazonaws.com/app",
            "<ACCOUNT>.dkr.ecr.eu-west-1.amazonaws.com",
        ),
    ] {
        assert_eq!(image(own).unwrap(), format!("{registry}/ecs-prestop:{version}"));
    }
    for public in [
        "app:1",
        "team/app:1",
        "ghcr.io/team/app",
        "public.ecr.aws/nginx/nginx:1",
        "docker.io/app",
        "<IMAGE>",
    ] {
        let why = image(public).unwrap_err().to_string();
        assert!(
            why.contains("say --image REGISTRY/ecs-prestop:"),
            "{public}: {why}"
        );
    }
    // In a template it may be put together; compose gets what docker/build makes.
    let asked = AddOptions {
        image: None,
        ..options("app")
    };
    let done = added("t.yaml", TEMPLATE, &asked).unwrap().text;
    assert!(
        done.contains("Image: !Sub \"${AWS::AccountId}.dkr.ecr.${AWS::Region}.amazonaws.com/ecs-prestop:"),
        "{done}"
    );
    assert!(
        added("compose.yaml", COMPOSE, &asked)
            .unwrap()
            .text
            .contains("image: ecs-prestop:dev")
    );
}

#[test]
fn a_helper_is_answered_with_the_name_of_the_app() {
    let beside = |container: &str| {
        PLAIN.replace(
            "\"containerDefinitions\": [",
            &format!("\"containerDefinitions\": [{container},"),
        )
    };
    for (container, name, part) in [
        (
            "{\"name\": \"logs\", \"image\": \"fluent-bit\", \"firelensConfiguration\": {\"type\": \"fluentbit\"}}",
            "logs",
            "`logs` only watches the others: say `--to app`",
        ),
        (
            "{\"name\": \"datadog\", \"image\": \"mine:1\"}",
            "datadog",
            "only watches",
        ),
        (
            "{\"name\": \"cache\", \"image\": \"redis:7\"}",
            "cache",
            "is what the app needs, not the app: say `--to app`",
        ),
    ] {
        let why = refusal("a.json", &beside(container), &options(name));
        assert!(why.contains(part), "{why}");
    }
    let init = PLAIN.replace("\"containerDefinitions\": [", "\"containerDefinitions\": [{\"name\": \"migrate\", \"image\": \"app:1\", \"essential\": false},")
        .replace("\"stopTimeout\": 25", "\"stopTimeout\": 25, \"dependsOn\": [{\"containerName\": \"migrate\", \"condition\": \"SUCCESS\"}]");
    let why = refusal("a.json", &init, &options("migrate"));
    assert!(
        why.contains("`migrate` has ended before the task stops: say `--to app`"),
        "{why}"
    );
    let story = added("a.json", &init, &options("app")).unwrap().story;
    assert!(
        story.contains("it does not depend on `migrate`, which has ended by then"),
        "{story}"
    );
}

const BALANCED: &str = "Resources:
  Task:
    Type: AWS::ECS::TaskDefinition
    Properties:
      RequiresCompatibilities: [FARGATE]
      NetworkMode: awsvpc
      Cpu: 256
      Memory: 512
      TaskRoleArn: !GetAtt Role.Arn
      ContainerDefinitions:
        - Name: app
          Image: app:1
          PortMappings: [{ContainerPort: 8080}]
          StopTimeout: 20
          HealthCheck: {Command: [CMD-SHELL, 'curl -f http://localhost:8080/health || exit 1']}
  TargetGroup:
    Type: AWS::ElasticLoadBalancingV2::TargetGroup
    Properties:
      HealthCheckPath: /health
      HealthCheckIntervalSeconds: 10
      TargetGroupAttributes: [{Key: deregistration_delay.timeout_seconds, Value: 30}]
  Service:
    Type: AWS::ECS::Service
    Properties:
      TaskDefinition: !Ref Task
      CapacityProviderStrategy: [{CapacityProvider: FARGATE, Base: 1}, {CapacityProvider: FARGATE_SPOT, Weight: 1}]
      LoadBalancers: [{ContainerName: app, ContainerPort: 8080, TargetGroupArn: !Ref TargetGroup}]
";

#[test]
fn on_spot_the_load_balancer_is_told_and_the_story_says_how() {
    let with_role = added("t.yaml", BALANCED, &options("app")).unwrap();
    let part = inserted(BALANCED, &with_role.text);
    assert!(
        part.contains("- Name: PRESTOP_DEREGISTER\n              Value: \"true\""),
        "{part}"
    );
    assert!(
        with_role.story.contains("iam/sidecar-deregister.json"),
        "{}",
        with_role.story
    );
    // Without a role on Fargate, ECS does it before SIGTERM.
    let without = BALANCED.replace("      TaskRoleArn: !GetAtt Role.Arn\n", "");
    let done = added("t.yaml", &without, &options("app")).unwrap();
    let part = inserted(&without, &done.text);
    assert!(
        part.contains("- Name: PRESTOP_SETTLE\n              Value: 5s") && !part.contains("DEREGISTER"),
        "{part}"
    );
    assert!(
        done.story
            .contains("ECS takes the task out of `TargetGroup` before SIGTERM"),
        "{}",
        done.story
    );
    // A health check of its own asks the sidecar, which must be in its reach.
    let asking = BALANCED.replace(
        "HealthCheckPath: /health",
        "HealthCheckPath: /ready\n      HealthCheckPort: 9911",
    );
    let done = added("t.yaml", &asking, &options("app")).unwrap();
    let part = inserted(&asking, &done.text);
    for (name, value) in [
        ("LISTEN", "0.0.0.0:9911"),
        ("READY_URL", "http://app:8080/health"),
        ("SETTLE", "20s"),
    ] {
        let line = format!("- Name: PRESTOP_{name}\n              Value: ");
        let rest = &part[part.find(&line).unwrap_or_else(|| panic!("{name}: {part}")) + line.len()..];
        assert!(rest.trim_start_matches('"').starts_with(value), "{name}: {rest}");
    }
    assert_eq!(findings("t.yaml", &done.text), [""; 0]);
    // On EC2 nobody tells it: the refusal says both ways on.
    let on_ec2 = without.replace("FARGATE_SPOT", "mine").replace("FARGATE", "EC2");
    let spot = AddOptions {
        capacity: Some("spot".to_owned()),
        ..options("app")
    };
    let why = refusal("t.yaml", &on_ec2, &spot);
    assert!(
        why.contains("sidecar-deregister.json") && why.contains("HealthCheckPort 9911"),
        "{why}"
    );
}

#[test]
fn it_serves_on_for_as_long_as_others_take_to_look_away() {
    let role = BALANCED.replace("FARGATE_SPOT", "FARGATE");
    let network = role.replace("HealthCheckPath: /health\n", "Protocol: TCP\n");
    assert_ne!(network, role);
    let done = added("t.yaml", &network, &options("app")).unwrap();
    assert!(
        done.text
            .contains("- Name: PRESTOP_SETTLE\n              Value: 30s"),
        "{}",
        done.text
    );
    assert!(
        done.story
            .contains("`TargetGroup` belongs to a Network Load Balancer"),
        "{}",
        done.story
    );
    let discovered = |ttl: &str| {
        format!(
            "{role}  Found:\n    Type: AWS::ServiceDiscovery::Service\n    Properties: {{DnsConfig: {{DnsRecords: [{{Type: A, TTL: {ttl}}}]}}}}\n  \
             Also:\n    Type: AWS::ECS::Service\n    Properties: {{TaskDefinition: !Ref Task, LaunchType: FARGATE, ServiceRegistries: \
             [{{RegistryArn: !GetAtt Found.Arn}}]}}\n"
        )
    };
    let settle = |ttl: &str| {
        let done = added("t.yaml", &discovered(ttl), &options("app")).unwrap();
        let line = done
            .text
            .lines()
            .skip_while(|line| !line.contains("PRESTOP_SETTLE"))
            .nth(1);
        (line.unwrap_or("").trim().to_owned(), done.story)
    };
    assert_eq!(settle("10").0, "Value: 10s");
    assert_eq!(settle("5").0, "");
    // On Spot instances nobody else takes the task out of Cloud Map before they go.
    let on_ec2 = discovered("10")
        .replace("RequiresCompatibilities: [FARGATE]", "RequiresCompatibilities: [EC2]")
        .replace("LaunchType: FARGATE", "LaunchType: EC2")
        .replace(
            "CapacityProviderStrategy: [{CapacityProvider: FARGATE, Base: 1}, {CapacityProvider: FARGATE, Weight: 1}]",
            "LaunchType: EC2",
        );
    let on_spot = AddOptions {
        capacity: Some("spot".to_owned()),
        ..options("app")
    };
    let done = added("t.yaml", &on_ec2, &on_spot).unwrap();
    assert!(done.text.contains("PRESTOP_DEREGISTER"), "{}", done.text);
    assert!(done.story.contains("sidecar-cloud-map.json"), "{}", done.story);
    // On Fargate ECS does, and the sidecar waits for the TTL.
    let done = added("t.yaml", &discovered("10"), &options("app")).unwrap();
    assert!(!done.story.contains("sidecar-cloud-map.json"), "{}", done.story);
    // Half of the time is the most; that it is too little is told and refuses nothing.
    let (most, story) = settle("300");
    assert!(
        most.ends_with("44s") && story.contains("worth knowing:\n  PS058"),
        "{most} {story}"
    );
}

#[test]
fn a_task_without_an_app_is_answered_with_what_to_say() {
    let router = "{\"family\": \"t\", \"containerDefinitions\": [{\"name\": \"log-router\", \"image\": \"fluent-bit:3\"}]}";
    let why = refusal("t.json", router, &options("log-router"));
    assert!(why.contains("--drain"), "{why}");
}

#[test]
fn on_demand_is_read_from_the_file() {
    let long = BALANCED.replace("StopTimeout: 20", "StopTimeout: 120");
    let why = refusal("t.yaml", &long, &options("app"));
    assert!(
        why.contains("leaves nothing of the 120 s of a Spot notice"),
        "{why}"
    );
    for capacity in [
        "LaunchType: FARGATE",
        "CapacityProviderStrategy: [{CapacityProvider: FARGATE, Weight: 1}]",
    ] {
        let text = long.replace(
            "CapacityProviderStrategy: [{CapacityProvider: FARGATE, Base: 1}, {CapacityProvider: FARGATE_SPOT, Weight: 1}]",
            capacity,
        );
        let done = added("t.yaml", &text, &options("app")).unwrap();
        let part = inserted(&text, &done.text);
        assert!(
            part.contains("Value: on-demand") && part.contains("StopTimeout: 90"),
            "{part}"
        );
    }
}

#[test]
fn protection_is_asked_for_with_the_policies_that_it_takes() {
    let protect = AddOptions {
        protect: true,
        drain: Some("ack".to_owned()),
        ..options("app")
    };
    let refused = refusal("task.json", PLAIN, &protect);
    let with_role = PLAIN.replace(
        "  \"cpu\"",
        "  \"taskRoleArn\": \"arn:aws:iam::111122223333:role/web\",\n  \"cpu\"",
    );
    let done = added("task.json", &with_role, &protect).unwrap();
    for policy in ["sidecar-protect.json", "sidecar-superseded.json"] {
        let path = format!("task-definitions/iam/{policy}");
        assert!(
            std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
                .join(&path)
                .is_file()
        );
        assert!(
            refused.contains(&path) && done.story.contains(&path),
            "{refused}\n{}",
            done.story
        );
    }
    let container = sidecar(&with_role, &protect);
    assert_eq!(setting(&container, "PRESTOP_PROTECT").as_deref(), Some("true"));
    assert_eq!(findings("task.json", &done.text), [""; 0]);
    assert_eq!(added("task.json", &done.text, &protect).unwrap().text, done.text);
    let without = done
        .text
        .replace("  \"taskRoleArn\": \"arn:aws:iam::111122223333:role/web\",\n", "");
    let message = "PS044 PRESTOP_PROTECT needs a task role, and the task has none: it takes sidecar-protect.json and \
                   sidecar-superseded.json";
    assert_eq!(findings("task.json", &without), [message]);
    let compose = "services:\n  app:\n    image: app:1\n";
    assert!(refusal("compose.yaml", compose, &protect).contains("ECS"));
}

#[test]
fn managed_instances_may_be_spot_until_their_capacity_provider_says_otherwise() {
    let managed = PLAIN
        .replace("FARGATE", "MANAGED_INSTANCES")
        .replace("  \"networkMode\": \"awsvpc\",\n", "");
    let done = added("task.json", &managed, &options("app")).unwrap();
    assert!(
        done.story.contains("managed instances may be Spot"),
        "{}",
        done.story
    );
    let container = sidecar(&managed, &options("app"));
    // Without a word they have awsvpc, so `quiet` sees the app.
    assert_eq!(setting(&container, "PRESTOP_DRAIN").as_deref(), Some("quiet"));
    assert_eq!(setting(&container, "PRESTOP_CAPACITY"), None);
    assert_eq!(container["restartPolicy"]["enabled"], true);
    // Two minutes are shared with those that stop after it.
    let slow = managed.replace("\"stopTimeout\": 25", "\"stopTimeout\": 60");
    assert_eq!(sidecar(&slow, &options("app"))["stopTimeout"], 60);
    let template = |kind: &str| {
        let managed = TEMPLATE
            .replace("CapacityProvider: FARGATE_SPOT", "CapacityProvider: !Ref Managed")
            .replace("FARGATE", "MANAGED_INSTANCES");
        format!(
            "{managed}  Managed:\n    Type: AWS::ECS::CapacityProvider\n    Properties:\n      ManagedInstancesProvider:\n        \
             InstanceLaunchTemplate: {{CapacityOptionType: {kind}}}\n"
        )
    };
    let capacity = |kind: &str| {
        let done = added("t.yaml", &template(kind), &options("app")).unwrap();
        let line = done
            .text
            .lines()
            .skip_while(|line| !line.contains("PRESTOP_CAPACITY"));
        line.take(2).collect::<Vec<_>>().join(" ")
    };
    assert!(
        capacity("ON_DEMAND").contains("on-demand"),
        "{}",
        capacity("ON_DEMAND")
    );
    assert!(capacity("SPOT").contains("spot"), "{}", capacity("SPOT"));
    assert_eq!(capacity("!Ref Kind"), "");
}

#[test]
fn containers_under_a_condition_are_depended_on_under_it() {
    for conditional in [
        "        - !If [Traced, {Name: envoy, Image: envoy:1, StopTimeout: 5}, !Ref AWS::NoValue]\n",
        "        - Fn::If: [Traced, {Name: envoy, Image: envoy:1, StopTimeout: 5}, {Ref: AWS::NoValue}]\n",
        "        - !If [Plain, !Ref AWS::NoValue, {Name: envoy, Image: envoy:1, StopTimeout: 5}]\n",
    ] {
        let text = TEMPLATE.replace("        # No more containers.\n", conditional);
        let done = added("t.yaml", &text, &options("app")).unwrap();
        let part = inserted(&text, &done.text);
        assert!(
            part.contains("- Fn::If:") && part.contains("ContainerName: envoy"),
            "{part}"
        );
        assert_eq!(findings("t.yaml", &done.text), findings("t.yaml", &text));
    }
}

#[test]
fn what_was_wrong_before_is_told_and_a_wrong_order_refused() {
    let blocking = PLAIN.replace(
        "\"awslogs-group\": \"web\"",
        "\"awslogs-group\": \"web\", \"mode\": \"blocking\"",
    );
    let story = added("a.json", &blocking, &options("app")).unwrap().story;
    assert!(
        story.contains("what was found before is found still:\n  PS050"),
        "{story}"
    );
    let circle = PLAIN.replace(
        "\"stopTimeout\": 25",
        "\"stopTimeout\": 25, \"dependsOn\": [{\"containerName\": \"app\", \"condition\": \"START\"}]",
    );
    let why = refusal("a.json", &circle, &options("app"));
    assert!(why.contains("mend this first:\n  PS003"), "{why}");
}

#[test]
fn a_null_is_left_alone_and_not_copied() {
    let text = PLAIN.replace("\"logDriver\"", "\"secretOptions\": null, \"logDriver\"");
    let added = sidecar(&text, &options("app"));
    assert_eq!(
        added["logConfiguration"],
        json!({"logDriver": "awslogs", "options": {"awslogs-group": "web"}})
    );
}

#[test]
fn under_host_networking_no_port_of_the_instance_is_taken() {
    let host = PLAIN.replace("FARGATE", "EC2").replace("awsvpc", "host");
    let added = sidecar(&host, &options("app"));
    assert_eq!(setting(&added, "PRESTOP_LISTEN").as_deref(), Some("off"));
    assert_eq!(added["healthCheck"], Value::Null);
}

#[test]
fn in_compose_it_depends_on_whom_it_may() {
    let text = "services:\n  app:\n    image: app:1\n    ports: [\"80:8080\"]\n    depends_on:\n      migrate: {condition: service_completed_successfully}\n  migrate:\n    image: app:1\n  proxy:\n    image: nginx\n  tools:\n    image: adminer\n    profiles: [debug]\n";
    let done = added("compose.yaml", text, &options("app")).unwrap();
    let part = inserted(text, &done.text);
    assert!(
        part.contains("depends_on: [app, proxy]") && part.contains("PRESTOP_WATCH: none"),
        "{part}"
    );
    assert!(
        done.story.contains("`migrate`, which has ended by then")
            && done.story.contains("`tools`, which runs only where its profile"),
        "{}",
        done.story
    );
}

/// Fields that nobody here knows, in any order around those that matter.
fn extras() -> impl Strategy<Value = Vec<(String, Value)>> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[ -~äß€]{0,12}".prop_map(Value::from),
        Just(Value::Null),
    ];
    let value = leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map("[a-z]{1,6}", inner, 0..3).prop_map(|map| json!(map)),
        ]
    });
    proptest::collection::btree_map("x[a-z]{1,8}", value, 0..4).prop_map(|map| map.into_iter().collect())
}

/// A task with some containers, the last one of which may be the app.
fn task() -> impl Strategy<Value = Value> {
    let container = (extras(), 2..40_u64);
    (
        extras(),
        proptest::collection::vec(container, 1..4),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(fields, list, fargate, app_first)| {
            let mut containers: Vec<Value> = list
                .into_iter()
                .zip(0..)
                .map(|((fields, stop), number)| {
                    let mut object = serde_json::Map::from_iter(fields);
                    let name = if number == 0 {
                        "app".to_owned()
                    } else {
                        format!("c{number}")
                    };
                    object.insert("name".to_owned(), name.into());
                    object.insert("image".to_owned(), "app:1".into());
                    object.insert("stopTimeout".to_owned(), stop.into());
                    object.insert("portMappings".to_owned(), json!([{"containerPort": 80}]));
                    object.into()
                })
                .collect();
            if !app_first {
                containers.reverse();
            }
            let mut object = serde_json::Map::from_iter(fields);
            object.insert("family".to_owned(), "web".into());
            object.insert("containerDefinitions".to_owned(), containers.into());
            if fargate {
                object.insert("requiresCompatibilities".to_owned(), json!(["FARGATE"]));
            }
            object.into()
        })
}

/// JSON as different tools write it.
fn written(task: &Value, style: usize) -> String {
    match style {
        0 => task.to_string(),
        1 => serde_json::to_string_pretty(task).unwrap() + "\n",
        indent => {
            let blanks = if indent == 2 {
                "\t".to_owned()
            } else {
                " ".repeat(indent)
            };
            let mut text = Vec::new();
            let formatter = serde_json::ser::PrettyFormatter::with_indent(blanks.as_bytes());
            let mut writer = serde_json::Serializer::with_formatter(&mut text, formatter);
            serde::Serialize::serialize(task, &mut writer).unwrap();
            String::from_utf8(text).unwrap()
        }
    }
}

/// The same as a template with block lists, comments between and intrinsics within.
fn as_template(task: &Value, indent: usize, comment: &str) -> String {
    let pad = " ".repeat(indent);
    let mut text = format!(
        "Resources:\n  Task: # {comment}\n    Type: AWS::ECS::TaskDefinition\n    Properties:\n      ContainerDefinitions:\n"
    );
    for container in task["containerDefinitions"].as_array().unwrap() {
        let mut dash = "- ";
        for (key, value) in container.as_object().unwrap() {
            let key = format!("{}{}", key[..1].to_uppercase(), &key[1..]);
            let value = value.to_string().replace("containerPort", "ContainerPort");
            text.push_str(&format!("      {pad}{dash}{key}: {value} # {comment}\n"));
            dash = "  ";
        }
        text.push_str(&format!(
            "      {pad}  Tag: !Sub \"${{AWS::Region}}\"\n      # {comment}\n"
        ));
    }
    text + "Outputs: {}\n"
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { failure_persistence: None, cases: 200, ..Default::default() })]

    /// One place of the text changes; what is read from the rest stays what it was; it works once.
    #[test]
    fn it_changes_nothing_that_it_need_not(task in task(), style in 0..6_usize, indent in 0..5_usize, comment in "[ -~]{0,20}") {
        let template = as_template(&task, indent, &comment);
        for (name, text) in [("a.json", written(&task, style)), ("a.yaml", template)] {
            let before = findings(name, &text);
            let result = match added(name, &text, &options("app")) {
                Ok(added) => added.text,
                Err(why) => return Err(TestCaseError::fail(format!("{why}\n{text}"))),
            };
            let part = inserted(&text, &result);
            prop_assert!(part.contains("prestop"), "{result}");
            prop_assert_eq!(&findings(name, &result), &before);
            prop_assert_eq!(&added(name, &result, &options("app")).unwrap().text, &result);
            if name == "a.json" {
                let mut after: Value = serde_json::from_str(&result).unwrap();
                let list = after["containerDefinitions"].as_array_mut().unwrap();
                let sidecar = list.pop().unwrap();
                prop_assert_eq!(&sidecar["name"], "prestop");
                prop_assert_eq!(&after, &task);
            }
        }
    }
}

/// Layouts in which a careless hand would put the sidecar into a comment, another object or another
/// task: it is added and nothing else changed, or refused.
#[test]
fn odd_layouts_are_added_to_rightly_or_refused() {
    let head =
        "Resources:\n  T:\n    Type: AWS::ECS::TaskDefinition\n    Properties:\n      ContainerDefinitions:";
    let container = "{Name: app, Image: x, StopTimeout: 20, PortMappings: [{ContainerPort: 80}]}";
    let cases = [
        (format!("{head}\n      - {container} # the app, alone\n"), true),
        (format!("{head}\n        -\n          Name: app\n          PortMappings: [{{ContainerPort: 80}}]\n          StopTimeout: 20\n"), true),
        (format!("{head} [{container},]\n"), true),
        (format!("{head} [\n        {container}, # one\n      ]\n"), true),
        (format!("{head}\n        - Name: app\n          PortMappings: [{{ContainerPort: 80}}]\n          StopTimeout: 20\n          LogConfiguration:\n            LogDriver: awslogs\n            Options:\n              a: !Join\n                - '-'\n                - - b\n                  - c\n              awslogs-datetime-format: |2-\n                  two\n              mode: blocking\n"), true),
        (format!("{head}\n        - &app\n          Name: app\n          PortMappings: [{{ContainerPort: 80}}]\n          StopTimeout: 20\n"), true),
        ("services:\n  app:\n    image: a\n    ports: [\"80:80\"]\n    networks: &n\n      inner:\n\nnetworks:\n  inner:\n".to_owned(), true),
        ("x: &w {db: {image: a}}\nservices: {<<: *w, app: {image: a, ports: ['80:80']}}\n".to_owned(), false),
        (format!("Shared: &list\n  - {container}\n{head} *list\n"), false),
    ];
    for (text, possible) in cases {
        match added("t.yaml", &text, &options("app")) {
            Ok(done) => {
                assert!(possible, "{}", done.text);
                assert_eq!(findings("t.yaml", &done.text), findings("t.yaml", &text));
                assert_eq!(
                    added("t.yaml", &done.text, &options("app")).unwrap().text,
                    done.text
                );
                assert!(!done.text.contains("# the app, alone,"), "{}", done.text);
            }
            Err(why) => assert!(!possible, "{why}\n{text}"),
        }
    }
}
