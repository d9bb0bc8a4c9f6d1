//! The stand-in answers as ECS and EC2 do, for any task definition, and breaks as told.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ecs_prestop::core::url::HttpUrl;
use ecs_prestop::sidecar::http::{Ask, Network};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::time::sleep;

use crate::memory::{Does, Play, TMDS};
use crate::process::{Process, await_that, binary, request};

pub(crate) struct Simulate {
    _process: Process,
    pub(crate) address: SocketAddr,
}

const DEFINITION: &str = r#"{"family": "shop", "networkMode": "awsvpc", "somethingNew": {"a": [1]},
    "containerDefinitions": [
        {"name": "web", "image": "web:1", "dockerLabels": {"prestop.drain": "POST :8080/drain"},
         "portMappings": [{"containerPort": 8080}]},
        {"name": "prestop", "image": "ecs-prestop:1"}]}"#;

pub(crate) fn simulate(more: &[&str]) -> Simulate {
    static FILES: AtomicU32 = AtomicU32::new(0);
    let name = format!("{}.json", FILES.fetch_add(1, Ordering::Relaxed));
    simulate_file(&name, DEFINITION, more)
}

/// The stand-in for what a file of this ending says.
fn simulate_file(name: &str, text: &str, more: &[&str]) -> Simulate {
    let file = std::env::temp_dir().join(format!("ecs-prestop-test-{}-{name}", std::process::id()));
    std::fs::File::create(&file)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let mut command = binary();
    command
        .arg("simulate")
        .args(["--listen", "127.0.0.1:0", "--task-definition"])
        .arg(&file)
        .args(more);
    let mut process = Process::start(command.stdout(Stdio::piped()));
    let first = process.lines().recv().unwrap();
    let address = first.split("http://").nth(1).unwrap().split(". ").next().unwrap();
    let address = address
        .trim_end_matches('.')
        .parse()
        .unwrap_or_else(|_| panic!("no address in {first}"));
    // It has been read by then.
    std::fs::remove_file(&file).unwrap();
    Simulate {
        _process: process,
        address,
    }
}

impl Simulate {
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &str) -> (u16, String) {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        let (status, answer) = request(self.address, &head);
        (
            status,
            answer
                .split_once("\r\n\r\n")
                .map_or(String::new(), |(_, body)| body.to_owned()),
        )
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path, "");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    fn token(&self) -> String {
        let (status, token) = self.ask(
            "PUT",
            "/latest/api/token",
            "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n",
        );
        assert_eq!(status, 200);
        format!("X-aws-ec2-metadata-token: {token}\r\n")
    }

    fn item(&self, path: &str) -> (u16, String) {
        self.ask("GET", &format!("/latest/meta-data/{path}"), &self.token())
    }

    pub(crate) fn control(&self, what: &str) -> (u16, String) {
        self.ask("POST", &format!("/_simulate/{what}"), "")
    }
}

/// What is served of the task: launch type, limits, and for each container its network, its labels, ports
/// and limits.
fn served(ecs: &Simulate, container: &str) -> Value {
    let task = ecs.get(&format!("/v4/{container}/task"));
    let containers = task["Containers"].as_array().unwrap().iter().map(|one| {
        serde_json::json!([
            one["Name"],
            one["Networks"][0]["NetworkMode"],
            one["Labels"]["prestop.drain"],
            one["Ports"],
            one["Limits"]
        ])
    });
    serde_json::json!({
        "LaunchType": task["LaunchType"], "Limits": task["Limits"], "Containers": containers.collect::<Value>()
    })
}

#[test]
fn every_form_is_served_alike() {
    let fargate = serde_json::json!({
        "LaunchType": "FARGATE", "Limits": {"CPU": 0.25, "Memory": 512},
        "Containers": [["web", "awsvpc", "ack", [{"ContainerPort": 80, "Protocol": "tcp", "HostPort": 80}],
                        {"CPU": 128, "Memory": 256}]]
    });
    let register = r#"{"family": "shop", "requiresCompatibilities": ["FARGATE"], "cpu": "256", "memory": "512",
        "containerDefinitions": [{"name": "web", "image": "i", "cpu": 128, "memory": 256,
          "dockerLabels": {"prestop.drain": "ack"}, "portMappings": [{"containerPort": 80}]}]}"#;
    let template = "Resources:\n  Task:\n    Type: AWS::ECS::TaskDefinition\n    Properties:\n      Cpu: .25 vCPU\n      Memory: '512'\n      RequiresCompatibilities: [FARGATE]\n      ContainerDefinitions:\n        - Name: web\n          Image: !Ref Image\n          Cpu: 128\n          Memory: 256\n          DockerLabels: {prestop.drain: ack}\n          PortMappings: [{ContainerPort: 80}]\n  Other:\n    Type: AWS::ECS::TaskDefinition\n    Properties: {ContainerDefinitions: [{Name: a, Image: a}]}\n";
    let terraform = "resource \"aws_ecs_task_definition\" \"web\" {\n  family = \"web\"\n  requires_compatibilities = [\"FARGATE\"]\n  cpu = 256\n  memory = 512\n  container_definitions = jsonencode([{\n    name = \"web\"\n    image = var.image\n    cpu = 128\n    memory = 256\n    dockerLabels = { \"prestop.drain\" = \"ack\" }\n    portMappings = [{ containerPort = 80 }]\n  }])\n}\n";
    for (name, text, more) in [
        ("form.json", register, &[][..]),
        ("form.yaml", template, &["--task", "Task"]),
        ("form.tf", terraform, &[]),
    ] {
        let ecs = simulate_file(name, text, more);
        assert_eq!(served(&ecs, "web"), fargate, "{name}");
        // There is no instance whose metadata could be asked.
        assert_eq!(ecs.ask("PUT", "/latest/api/token", "").0, 404, "{name}");
    }
    let compose = "services:\n  web:\n    image: web\n    ports: ['8000:80', '53:53/udp']\n    labels: {prestop.drain: ack}\n  prestop:\n    image: ecs-prestop\n";
    let ecs = simulate_file("form-compose.yaml", compose, &[]);
    assert_eq!(
        served(&ecs, "prestop"),
        serde_json::json!({
            "LaunchType": "EC2", "Limits": null,
            "Containers": [
                ["web", "bridge", "ack", [
                    {"ContainerPort": 80, "Protocol": "tcp", "HostPort": 8000},
                    {"ContainerPort": 53, "Protocol": "udp", "HostPort": 53}
                ], {"CPU": 2}],
                ["prestop", "bridge", null, null, {"CPU": 2}]
            ]
        })
    );
    assert_eq!(ecs.item("spot/instance-action").0, 404);
}

#[test]
fn several_task_definitions_want_a_name() {
    let text = "Resources:\n  A:\n    Type: AWS::ECS::TaskDefinition\n    Properties: {ContainerDefinitions: [{Name: a, Image: a}]}\n  B:\n    Type: AWS::ECS::TaskDefinition\n    Properties: {ContainerDefinitions: [{Name: a, Image: a}]}\n";
    let file = std::env::temp_dir().join(format!("ecs-prestop-test-{}-two.yaml", std::process::id()));
    std::fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();
    for (more, part) in [
        (
            &[][..],
            "holds several task definitions: say which of `A`, `B` with --task",
        ),
        (
            &["--task", "C"],
            "there is no task definition `C` in it; there is `A`, `B`",
        ),
    ] {
        let output = crate::process::run(&[&["simulate", "--task-definition", path], more].concat(), &[]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(part), "{told}");
    }
    std::fs::remove_file(file).unwrap();
}

#[test]
fn task_metadata_is_that_of_the_file_for_every_container() {
    let ecs = simulate(&[]);
    let own = ecs.get("/v4/prestop");
    assert_eq!(
        (&own["Name"], &own["Type"]),
        (&"prestop".into(), &"NORMAL".into())
    );
    for path in ["/v4/prestop/task", "/v4/web/task", "/v4/web/taskWithTags"] {
        let task = ecs.get(path);
        assert_eq!(
            (&task["Family"], &task["Revision"]),
            (&"shop".into(), &"1".into()),
            "{path}"
        );
        let web = &task["Containers"][0];
        assert_eq!(web["Labels"]["prestop.drain"], "POST :8080/drain");
        assert_eq!(web["Labels"]["com.amazonaws.ecs.container-name"], "web");
        assert_eq!(web["Networks"][0]["NetworkMode"], "awsvpc");
        assert_eq!(web["Ports"][0]["ContainerPort"], 8080);
    }
    assert!(ecs.get("/v4/web/stats").is_object());
    assert!(ecs.get("/v4/web/task/stats").is_object());
    assert_eq!(ecs.ask("GET", "/v4/nobody", "").0, 404);
    assert_eq!(ecs.ask("GET", "/v3/web", "").0, 404);
    assert_eq!(ecs.control("container?name=web&status=STOPPED").0, 200);
    assert_eq!(
        ecs.get("/v4/prestop/task")["Containers"][0]["KnownStatus"],
        "STOPPED"
    );
}

#[test]
fn the_task_metadata_and_the_ecs_api_speak_of_the_same_task() {
    let ecs = simulate(&[]);
    let task = ecs.get("/v4/web/task");
    let input = serde_json::json!({"cluster": task["Cluster"], "tasks": [task["TaskARN"]]}).to_string();
    let (status, answer) = request(
        ecs.address,
        &format!(
            "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\
             X-Amz-Target: AmazonEC2ContainerServiceV20141113.DescribeTasks\r\n\r\n{input}",
            input.len()
        ),
    );
    assert!(status == 200 && answer.contains("\"failures\":[]"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn task_metadata_answers_429_beyond_its_burst_and_40_requests_a_second_after_it() {
    async fn statuses(network: &Network, requests: usize) -> Vec<u16> {
        let url: HttpUrl = TMDS.parse().unwrap();
        let mut statuses = Vec::new();
        for _ in 0..requests {
            let answer = network
                .ask(Ask::get(&url), &mut ecs_prestop::sidecar::http::Way::default())
                .await
                .unwrap();
            statuses.push(answer.status().as_u16());
        }
        statuses
    }
    let network = Play::new(&[], &[Does::Refuses]).network();
    assert_eq!(statuses(&network, 60).await, [200; 60], "the burst");
    assert_eq!(statuses(&network, 1).await, [429]);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(statuses(&network, 40).await, [200; 40]);
    assert_eq!(statuses(&network, 1).await, [429]);
}

#[test]
fn instance_metadata_wants_a_token_and_says_404_while_all_is_well() {
    let ec2 = simulate(&[]);
    assert_eq!(ec2.ask("GET", "/latest/meta-data/instance-id", "").0, 401);
    assert_eq!(
        ec2.ask(
            "GET",
            "/latest/meta-data/instance-id",
            "X-aws-ec2-metadata-token: made-up\r\n"
        )
        .0,
        401
    );
    for ttl in [
        "",
        "X-aws-ec2-metadata-token-ttl-seconds: 0\r\n",
        "X-aws-ec2-metadata-token-ttl-seconds: 21601\r\n",
    ] {
        assert_eq!(ec2.ask("PUT", "/latest/api/token", ttl).0, 400, "{ttl}");
    }
    assert_eq!(ec2.item("instance-id").0, 200);
    let (status, page) = ec2.item("spot/instance-action");
    assert_eq!(status, 404);
    assert!(page.contains("<html"), "{page}");
    assert_eq!(ec2.item("events/recommendations/rebalance").0, 404);
    assert_eq!(ec2.item("events/maintenance/scheduled"), (200, "[]".to_owned()));
    let stale = ec2.token();
    assert_eq!(ec2.control("tokens").0, 200);
    assert_eq!(
        ec2.ask("GET", "/latest/meta-data/instance-id", &stale).0,
        401,
        "tokens can be made to expire"
    );
}

#[test]
fn version_1_of_the_instance_metadata_is_off_unless_asked_for() {
    let ec2 = simulate(&["--imdsv1"]);
    assert_eq!(ec2.ask("GET", "/latest/meta-data/instance-id", "").0, 200);
}

const PROTECTION: &str = "/api/prestop/task-protection/v1/state";

impl Simulate {
    fn protect(&self, path: &str, body: &str) -> (u16, Value) {
        let head = format!("PUT {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        let length = body.len();
        let whole = format!("{head}Content-Length: {length}\r\n\r\n{body}");
        let (status, answer) = request(self.address, &whole);
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, serde_json::from_str(body).unwrap_or_default())
    }
}

#[test]
fn task_protection_is_had_within_ecs_limits_and_ends_when_told() {
    let ecs = simulate(&[]);
    assert_eq!(ecs.get(PROTECTION)["protection"]["ProtectionEnabled"], false);
    for (minutes, body) in [
        (120, r#"{"ProtectionEnabled":true}"#),
        (1, r#"{"ProtectionEnabled":true,"ExpiresInMinutes":1}"#),
        (2880, r#"{"ProtectionEnabled":true,"ExpiresInMinutes":2880}"#),
    ] {
        let before = Timestamp::now();
        let (status, answer) = ecs.protect(PROTECTION, body);
        let after = Timestamp::now();
        let protection = &answer["protection"];
        assert_eq!(
            (status, &protection["ProtectionEnabled"]),
            (200, &true.into()),
            "{answer}"
        );
        let expires: Timestamp = protection["ExpirationDate"].as_str().unwrap().parse().unwrap();
        let from = expires - SignedDuration::from_mins(minutes);
        // It has whole seconds only.
        assert!(
            (before - SignedDuration::from_secs(1)..=after).contains(&from),
            "{answer} between {before} and {after}"
        );
        assert!(
            protection["TaskArn"]
                .as_str()
                .unwrap()
                .starts_with("arn:aws:ecs:")
        );
    }
    assert_eq!(ecs.get("/_simulate/")["protected"], true);
    assert_eq!(ecs.protect(PROTECTION, r#"{"ProtectionEnabled":false}"#).0, 200);
    let state = ecs.get(PROTECTION);
    assert_eq!(state["protection"]["ExpirationDate"], Value::Null);
    for (path, body, status, code) in [
        (PROTECTION, "", 400, "InvalidParameterException"),
        (PROTECTION, "{}", 400, "InvalidParameterException"),
        (
            PROTECTION,
            r#"{"ProtectionEnabled":true,"ExpiresInMinutes":0}"#,
            400,
            "InvalidParameterException",
        ),
        (
            PROTECTION,
            r#"{"ProtectionEnabled":true,"ExpiresInMinutes":2881}"#,
            400,
            "InvalidParameterException",
        ),
        (
            PROTECTION,
            r#"{"ProtectionEnabled":true,"Unknown":1}"#,
            400,
            "InvalidParameterException",
        ),
        (
            "/api/nobody/task-protection/v1/state",
            "{}",
            404,
            "ResourceNotFoundException",
        ),
        // Decoded first.
        (
            "/api/nobody/task-protection/v1/state",
            "nonsense",
            400,
            "InvalidParameterException",
        ),
    ] {
        let (got, answer) = ecs.protect(path, body);
        let (by_ecs, found) = (body.contains("Minutes"), body != "nonsense" && path == PROTECTION);
        let decoded = !body.is_empty() && !body.contains("Unknown");
        assert_eq!(answer.get("requestID").is_some(), by_ecs, "{answer}");
        assert_eq!(answer["error"].get("Arn").is_some(), found && decoded, "{answer}");
        assert_eq!(
            (got, &answer["error"]["Code"]),
            (status, &code.into()),
            "{path} {body}: {answer}"
        );
    }
    assert_eq!(ecs.ask("GET", "/api/prestop/else", "").0, 404);
    assert_eq!(ecs.ask("DELETE", PROTECTION, "").0, 405);
    assert_eq!(ecs.control("fault?target=agent&kind=failure&requests=1").0, 200);
    let (status, answer) = ecs.protect(PROTECTION, r#"{"ProtectionEnabled":true}"#);
    assert_eq!(
        (status, &answer["failure"]["Reason"]),
        (200, &"DEPLOYMENT_BLOCKED".into())
    );
    assert_eq!(
        ecs.control("fault?target=agent&kind=error&status=403&requests=1")
            .0,
        200
    );
    let (status, answer) = ecs.protect(PROTECTION, r#"{"ProtectionEnabled":true}"#);
    assert_eq!(
        (status, &answer["error"]["Code"]),
        (403, &"AccessDeniedException".into())
    );
}

#[test]
fn announcements_appear_and_can_be_taken_back() {
    let ec2 = simulate(&[]);
    assert_eq!(ec2.control("spot?action=stop&in=90s").0, 200);
    let (_, action) = ec2.item("spot/instance-action");
    let action: Value = serde_json::from_str(&action).unwrap();
    assert_eq!(action["action"], "stop");
    assert!(action["time"].as_str().unwrap().ends_with('Z'));
    assert_eq!(ec2.ask("DELETE", "/_simulate/spot", "").0, 200);
    assert_eq!(ec2.item("spot/instance-action").0, 404);
    assert_eq!(ec2.control("rebalance").0, 200);
    assert!(
        ec2.item("events/recommendations/rebalance")
            .1
            .contains("noticeTime")
    );
    assert_eq!(ec2.control("maintenance?in=300s&code=instance-stop").0, 200);
    assert!(ec2.item("events/maintenance/scheduled").1.contains(" GMT"));
    assert_eq!(ec2.control("autoscaling").0, 200);
    assert_eq!(ec2.item("autoscaling/target-lifecycle-state").1, "Terminated");
}

#[test]
fn faults_break_one_service_for_a_number_of_requests() {
    let both = simulate(&[]);
    assert_eq!(
        both.control("fault?target=tmds&kind=status&status=500&requests=2")
            .0,
        200
    );
    assert_eq!(both.item("instance-id").0, 200, "the other service works");
    let statuses: Vec<u16> = (0..3).map(|_| both.ask("GET", "/v4/web", "").0).collect();
    assert_eq!(statuses, [500, 500, 200]);
    for kind in ["garbage", "reset"] {
        assert_eq!(
            both.control(&format!("fault?target=tmds&kind={kind}&requests=1"))
                .0,
            200
        );
        assert_eq!(
            both.ask("GET", "/v4/web", "").0,
            0,
            "{kind}: no HTTP status comes"
        );
    }
    assert_eq!(both.control("fault?target=tmds&kind=huge&requests=1").0, 200);
    assert_eq!(both.ask("GET", "/v4/web", "").1.len(), 3 * 1024 * 1024);
    assert_eq!(both.control("fault?target=tmds&kind=refuse&for=5s").0, 200);
    await_that("it refuses", || TcpStream::connect(both.address).is_err());
    await_that("it is back", || TcpStream::connect(both.address).is_ok());
    assert_eq!(both.ask("GET", "/v4/web", "").0, 200, "it is back");
}

#[test]
fn what_cannot_be_simulated_is_refused_with_what_can() {
    let both = simulate(&[]);
    for (what, part) in [
        ("spot?action=dance", "terminate, stop or hibernate"),
        ("spot?in=soon", "such as 120s"),
        ("weather", "there are spot"),
        ("fault?target=moon&kind=hang", "imds, tmds, aws or agent"),
        ("fault?target=imds&kind=sulk", "refuse, hang, slow"),
        ("fault?target=imds&kind=failure", "for agent failure or error"),
        ("fault?target=imds&kind=refuse", "for=10s"),
        ("container?name=nobody", "web, prestop"),
    ] {
        let (status, body) = both.control(what);
        assert_eq!(status, 400, "{what}");
        assert!(body.contains(part), "{what}: {body}");
    }
}

#[test]
fn what_is_too_often_is_told_as_the_agents_limiter_tells_it() {
    let ecs = simulate(&[]);
    let refused = (0..200)
        .map(|_| {
            let head = "GET /v4/web HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            request(ecs.address, head)
        })
        .find(|(status, _)| *status == 429);
    let (_, answer) = refused.expect("200 requests are too many");
    for part in [
        "x-rate-limit-limit: 40.00\r\n",
        "x-rate-limit-duration: 1\r\n",
        "\r\n\r\nYou have reached maximum request limit.",
    ] {
        assert!(answer.contains(part), "`{part}` is not in {answer}");
    }
}

#[test]
fn instance_metadata_has_what_aws_sdks_ask_first_with_or_without_a_slash_at_the_end() {
    let ec2 = simulate(&[]);
    let header = ec2.token();
    let ask = |path: &str| {
        let (status, body) = ec2.ask("GET", path, &header);
        assert_eq!(status, 200, "{path}");
        body
    };
    assert_eq!(
        ask("/latest/meta-data/placement/availability-zone"),
        "eu-central-1a"
    );
    assert_eq!(
        ask("/latest/meta-data/placement/availability-zone/"),
        "eu-central-1a"
    );
    let role = ask("/latest/meta-data/iam/security-credentials/");
    let keys = ask(&format!("/latest/meta-data/iam/security-credentials/{role}"));
    let keys: Value = serde_json::from_str(&keys).unwrap();
    assert_eq!(
        (&keys["Code"], &keys["Type"]),
        (&"Success".into(), &"AWS-HMAC".into())
    );
    let document: Value = serde_json::from_str(&ask("/latest/dynamic/instance-identity/document")).unwrap();
    assert_eq!(document["region"], "eu-central-1");
    let (status, body) = ec2.ask("HEAD", "/latest/meta-data/instance-id", &header);
    assert_eq!((status, body.as_str()), (200, ""));
}

#[test]
fn its_page_says_what_it_is_and_who_has_asked() {
    let ecs = simulate(&[]);
    let (status, page) = ecs.ask("GET", "/", "");
    assert!(
        status == 200 && page.contains("The stand-in for ECS and EC2"),
        "{page}"
    );
    ecs.ask("GET", "/v4/nobody", "");
    let state = ecs.get("/_simulate/state");
    let last = &state["requests"][0];
    assert_eq!(
        (&last["method"], &last["path"], &last["status"]),
        (&"GET".into(), &"/v4/nobody".into(), &404.into())
    );
}

#[test]
fn task_metadata_has_no_empties_as_the_agent_has_none_and_is_had_by_any_method() {
    fn empties(value: &Value) -> usize {
        match value {
            Value::Object(members) => members.values().map(empties).sum(),
            Value::Array(items) if !items.is_empty() => items.iter().map(empties).sum(),
            Value::Null | Value::Array(_) => 1,
            _ => 0,
        }
    }
    let ecs = simulate(&[]);
    let task = ecs.get("/v4/web/task");
    assert_eq!(empties(&task), 0, "{task}");
    assert_eq!(empties(&ecs.get("/v4/prestop")), 0);
    // That one it always has.
    assert_eq!(task["FaultInjectionEnabled"], false);
    assert_eq!(ecs.ask("POST", "/v4/web/task", "").0, 200);
}

/// Each kind of answer, header by header: what AEMM, EC2 and the agent are known to send. The differences that
/// are left stand in docker/README.md, *Fidelity*.
#[test]
fn its_answers_are_those_of_the_agent_and_of_ec2_header_by_header() {
    let ecs = simulate(&[]);
    let token = ecs.token();
    let ttl = "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n";
    let page = "x-content-type-options: nosniff";
    for (method, path, headers, status, kind, more, body) in [
        (
            "PUT",
            "/latest/api/token",
            ttl,
            200,
            "text/plain",
            "x-aws-ec2-metadata-token-ttl-seconds: 60",
            "",
        ),
        (
            "PUT",
            "/latest/api/token",
            "",
            400,
            "text/html",
            "server: EC2ws",
            "<?xml",
        ),
        (
            "GET",
            "/latest/meta-data/instance-id",
            "",
            401,
            "text/html",
            "server: EC2ws",
            "<?xml",
        ),
        (
            "GET",
            "/latest/meta-data/instance-id",
            &token,
            200,
            "text/plain",
            "server: EC2ws",
            "i-",
        ),
        (
            "GET",
            "/latest/meta-data/spot/instance-action",
            &token,
            404,
            "text/html",
            "date: ",
            "<?xml",
        ),
        (
            "GET",
            "/latest/meta-data/iam/security-credentials/",
            &token,
            200,
            "text/plain",
            "server: EC2ws",
            "simulated-role",
        ),
        (
            "GET",
            "/v4/web",
            "",
            200,
            "application/json",
            "date: ",
            "{\"DockerId\":\"",
        ),
        (
            "GET",
            "/v4/web/task",
            "",
            200,
            "application/json",
            "date: ",
            "{\"Cluster\":\"",
        ),
        (
            "GET",
            "/v4/none",
            "",
            404,
            "application/json",
            "date: ",
            "\"V4 container metadata handler: ",
        ),
        (
            "GET",
            "/v4/none/task",
            "",
            404,
            "application/json",
            "date: ",
            "\"V4 task metadata handler: ",
        ),
        (
            "GET",
            "/v4/none/task/stats",
            "",
            404,
            "application/json",
            "date: ",
            "\"V4 task stats handler: ",
        ),
        (
            "GET",
            "/v4/web/nothing",
            "",
            404,
            "text/plain; charset=utf-8",
            page,
            "404 page not found\n",
        ),
        (
            "GET",
            "/api/web/nothing",
            "",
            404,
            "text/plain; charset=utf-8",
            page,
            "404 page not found\n",
        ),
        (
            "GET",
            "/api/web/task-protection/v1/state",
            "",
            200,
            "application/json",
            "date: ",
            "{\"protection\":{\"ExpirationDate\":null,\"ProtectionEnabled\":false,\"TaskArn\":\"",
        ),
    ] {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        let (found, answer) = request(ecs.address, &head);
        let (head, told) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(found, status, "{method} {path}: {answer}");
        assert!(
            head.contains(&format!("content-type: {kind}\r\n"))
                || head.ends_with(&format!("content-type: {kind}")),
            "{path}: {head}"
        );
        assert!(head.contains(more), "{path}: {head}");
        assert!(told.starts_with(body), "{path}: {told}");
    }
}
