//! The stand-in's AWS APIs answer as AWS does, and the load balancer in front of its target group
//! keeps sending until it is told otherwise.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use ecs_prestop::tools::rehearse::balancer;
use ecs_prestop::tools::simulate::{Definition, StandIn};
use serde_json::{Value, json};

use crate::process::{PATIENCE, app, await_that, free_address, request};

const ARN: &str = "arn:aws:ecs:eu-central-1:111122223333";
const TASK: &str = "5e0c4bf0d1e24d4e8a4f6a5f7f0c9b11";
const GROUP: &str =
    "arn:aws:elasticloadbalancing:eu-central-1:111122223333:targetgroup/web-8080/6d0ecf831eec9f09";

/// A definition's stand-in, served by a thread of its own.
struct Aws {
    stand_in: StandIn,
    address: SocketAddr,
    balancer: SocketAddr,
}

fn aws(network_mode: &str) -> Aws {
    let definition = json!({"family": "shop", "networkMode": network_mode, "containerDefinitions": [
        {"name": "web", "image": "web:1", "portMappings": [{"containerPort": 8080}]},
        {"name": "prestop", "image": "ecs-prestop:1", "stopTimeout": 90}]});
    let stand_in = StandIn::new(Definition::from_value(&definition).unwrap());
    let [api, front] = [(); 2].map(|()| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    });
    let (address, balancer) = (api.local_addr().unwrap(), front.local_addr().unwrap());
    let served = stand_in.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let [api, front] =
                [api, front].map(|listener| tokio::net::TcpListener::from_std(listener).unwrap());
            tokio::join!(served.serve(api), balancer::serve(&front, &served)).0
        })
    });
    Aws {
        stand_in,
        address,
        balancer,
    }
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

fn get(address: SocketAddr) -> (u16, String) {
    request(address, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
}

impl Aws {
    fn post(&self, headers: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let head =
            format!("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {length}");
        request(self.address, &format!("{head}\r\n\r\n{body}"))
    }

    fn ecs(&self, operation: &str, input: Value) -> (u16, Value) {
        let target = format!("X-Amz-Target: AmazonEC2ContainerServiceV20141113.{operation}\r\n");
        let (status, answer) = self.post(&target, &input.to_string());
        assert!(answer.contains("application/x-amz-json-1.1"), "{answer}");
        (status, serde_json::from_str(body(&answer)).unwrap())
    }

    fn ecs_ok(&self, operation: &str, input: Value) -> Value {
        let (status, answer) = self.ecs(operation, input);
        assert_eq!(status, 200, "{operation}: {answer}");
        answer
    }

    fn elb(&self, action: &str, group: &str, more: &str) -> (u16, String) {
        let group = group.replace(':', "%3A").replace('/', "%2F");
        let form = format!("Action={action}&Version=2015-12-01&TargetGroupArn={group}{more}");
        let (status, answer) = self.post("Content-Type: application/x-www-form-urlencoded\r\n", &form);
        (status, body(&answer).to_owned())
    }

    fn health(&self, group: &str, target: &str) -> String {
        let more = format!("&Targets.member.1.Id={target}");
        let (status, answer) = self.elb("DescribeTargetHealth", group, &more);
        assert_eq!(status, 200, "{answer}");
        let state = answer.split("<State>").nth(1).unwrap();
        state.split('<').next().unwrap().to_owned()
    }
}

#[test]
fn ecs_describes_the_task_its_service_and_its_definition() {
    let aws = aws("awsvpc");
    aws.stand_in
        .balance(free_address(), free_address(), Duration::ZERO);
    let task = &aws.ecs_ok("DescribeTasks", json!({"cluster": "laptop", "tasks": [TASK]}))["tasks"][0];
    for (field, value) in [
        ("taskArn", format!("{ARN}:task/laptop/{TASK}").as_str()),
        ("clusterArn", &format!("{ARN}:cluster/laptop")),
        ("group", "service:shop"),
        ("launchType", "FARGATE"),
        ("capacityProviderName", "FARGATE_SPOT"),
        ("desiredStatus", "RUNNING"),
    ] {
        assert_eq!(task[field], value, "{field}");
    }
    let interface = &task["attachments"][0];
    assert_eq!(interface["type"], "ElasticNetworkInterface");
    assert_eq!(
        interface["details"][0],
        json!({"name": "privateIPv4Address", "value": "10.0.2.106"})
    );
    for absent in ["stopCode", "containerInstanceArn"] {
        assert_eq!(task.get(absent), None, "{absent}");
    }
    let service = aws.ecs_ok(
        "DescribeServices",
        json!({"cluster": format!("{ARN}:cluster/laptop"), "services": ["shop", "other"]}),
    );
    assert_eq!(
        service["failures"],
        json!([{"arn": "other", "reason": "MISSING"}])
    );
    assert_eq!(service["services"][0]["loadBalancers"][0]["containerName"], "app");
    let definition = aws.ecs_ok("DescribeTaskDefinition", json!({"taskDefinition": "shop:1"}));
    assert_eq!(
        definition["taskDefinition"]["containerDefinitions"],
        json!([{"name": "web", "image": "web:1"}, {"name": "prestop", "image": "ecs-prestop:1", "stopTimeout": 90}])
    );
    aws.stand_in
        .task_stops("SpotInterruption", "Your Spot Task was interrupted.");
    let task = &aws.ecs_ok("DescribeTasks", json!({"cluster": "laptop", "tasks": [TASK]}))["tasks"][0];
    assert_eq!(
        (&task["stopCode"], &task["desiredStatus"]),
        (&"SpotInterruption".into(), &"STOPPED".into())
    );
}

#[test]
fn an_instance_can_be_drained_and_its_task_stopped() {
    let aws = aws("bridge");
    let tasks = json!({"cluster": "laptop", "tasks": [TASK]});
    let task = &aws.ecs_ok("DescribeTasks", tasks.clone())["tasks"][0];
    assert_eq!(task.get("attachments"), None);
    assert_eq!(task["containers"][0]["networkBindings"][0]["hostPort"], 32768);
    let arn = &task["containerInstanceArn"];
    let instances = json!({"cluster": "laptop", "containerInstances": [arn]});
    let status = |answer: Value| answer["containerInstances"][0]["status"].clone();
    let described = aws.ecs_ok("DescribeContainerInstances", instances.clone());
    assert_eq!(
        described["containerInstances"][0]["ec2InstanceId"],
        "i-0123456789abcdef0"
    );
    assert_eq!(status(described), "ACTIVE");
    let mut update = instances.clone();
    update["status"] = "DRAINING".into();
    assert_eq!(
        status(aws.ecs_ok("UpdateContainerInstancesState", update)),
        "DRAINING"
    );
    assert_eq!(
        status(aws.ecs_ok("DescribeContainerInstances", instances)),
        "DRAINING"
    );
    aws.ecs_ok(
        "StopTask",
        json!({"cluster": "laptop", "task": TASK, "reason": "drained"}),
    );
    let task = &aws.ecs_ok("DescribeTasks", tasks)["tasks"][0];
    assert_eq!(
        (&task["stopCode"], &task["stoppedReason"]),
        (&"UserInitiated".into(), &"drained".into())
    );
    let deregister = "&Targets.member.1.Id=i-0123456789abcdef0&Targets.member.1.Port=32768";
    assert_eq!(aws.health(GROUP, "i-0123456789abcdef0"), "healthy");
    assert_eq!(aws.elb("DeregisterTargets", GROUP, deregister).0, 200);
    assert_eq!(aws.health(GROUP, "i-0123456789abcdef0"), "draining");
    let (status, answer) = aws.elb("DescribeTargetHealth", GROUP, "&Targets.member.1.Id=i-0");
    assert!(
        status == 400 && answer.contains("<Code>InvalidTarget</Code>"),
        "{answer}"
    );
}

#[test]
fn what_ecs_does_not_know_it_refuses_in_its_own_words() {
    let aws = aws("awsvpc");
    for (operation, input, kind) in [
        (
            "DescribeTasks",
            json!({"tasks": [TASK]}),
            "ClusterNotFoundException",
        ),
        (
            "DescribeTasks",
            json!({"cluster": "laptop"}),
            "InvalidParameterException",
        ),
        (
            "StopTask",
            json!({"cluster": "laptop", "task": "x"}),
            "InvalidParameterException",
        ),
        (
            "DescribeTaskDefinition",
            json!({"taskDefinition": "x"}),
            "ClientException",
        ),
        (
            "UpdateContainerInstancesState",
            json!({"cluster": "laptop"}),
            "InvalidParameterException",
        ),
        ("DeleteCluster", json!({}), "UnknownOperationException"),
    ] {
        let (status, answer) = aws.ecs(operation, input);
        assert_eq!((status, &answer["__type"]), (400, &kind.into()), "{operation}");
    }
    let unknown = aws.ecs_ok("DescribeTasks", json!({"cluster": "laptop", "tasks": ["x"]}));
    assert_eq!(
        unknown,
        json!({"tasks": [], "failures": [{"arn": "x", "reason": "MISSING"}]})
    );
    let (status, answer) = aws.post(
        "X-Amz-Target: AmazonEC2ContainerServiceV20141113.StopTask\r\n",
        "{",
    );
    assert!(
        status == 400 && answer.contains("SerializationException"),
        "{answer}"
    );
    assert_eq!(aws.post("", &"a".repeat(70_000)).0, 413, "bodies are bounded");
}

#[test]
fn a_target_drains_for_the_delay_and_is_unused_then() {
    let aws = aws("awsvpc");
    let ours = "&Targets.member.1.Id=10.0.2.106&Targets.member.1.Port=8080";
    let (_, attributes) = aws.elb("DescribeTargetGroupAttributes", GROUP, "");
    assert!(
        attributes.contains("<Key>deregistration_delay.timeout_seconds</Key><Value>300</Value>"),
        "{attributes}"
    );
    let balance = |delay| {
        let [task, other] = ["127.0.0.1:8080", "127.0.0.1:8081"].map(|address| address.parse().unwrap());
        aws.stand_in.balance(task, other, delay);
    };
    balance(Duration::from_secs(3600));
    let group = &GROUP.replace("web", "app");
    let all = || aws.elb("DescribeTargetHealth", group, "").1;
    assert_eq!(all().matches("<State>healthy</State>").count(), 2);
    let (status, answer) = aws.elb("DeregisterTargets", group, ours);
    assert!(
        status == 200 && answer.contains("<DeregisterTargetsResult>"),
        "{answer}"
    );
    assert!(
        all().contains("<State>draining</State><Reason>Target.DeregistrationInProgress</Reason>"),
        "{}",
        all()
    );
    // The same with a delay that is worth waiting for.
    balance(Duration::from_millis(50));
    assert_eq!(aws.elb("DeregisterTargets", group, ours).0, 200);
    await_that("it is unused", || aws.health(group, "10.0.2.106") == "unused");
    assert!(!all().contains("10.0.2.106"), "{}", all());
    assert_eq!(aws.health(group, "10.0.2.107"), "healthy");
    assert_eq!(
        aws.elb("DeregisterTargets", group, ours).0,
        200,
        "one that is not there is no error"
    );
    for (action, group, more, code) in [
        ("DeregisterTargets", "arn:x", ours, "TargetGroupNotFound"),
        ("DeregisterTargets", group, "", "ValidationError"),
        (
            "DescribeTargetHealth",
            group,
            "&Targets.member.1.Id=%3Cb%3E",
            "ValidationError",
        ),
        ("DeleteTargetGroup", group, "", "InvalidAction"),
    ] {
        let (status, answer) = aws.elb(action, group, more);
        assert_eq!(status, 400, "{answer}");
        assert!(
            answer.starts_with("<ErrorResponse") && answer.contains(&format!("<Code>{code}</Code>")),
            "{answer}"
        );
    }
}

#[test]
fn the_load_balancer_keeps_sending_to_a_target_until_it_is_deregistered() {
    let aws = aws("awsvpc");
    assert_eq!(get(aws.balancer).0, 503, "no target is registered");
    let (task, _) = app(Some("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntask"));
    let (other, _) = app(Some("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother"));
    aws.stand_in.balance(task, other, Duration::ZERO);
    let four = || -> Vec<String> {
        let answers = (0..4).map(|_| get(aws.balancer));
        answers
            .map(|(status, answer)| format!("{status} {}", body(&answer)))
            .collect()
    };
    assert_eq!(four().concat(), "200 other200 task".repeat(2));
    let gone = free_address();
    aws.stand_in.balance(gone, other, Duration::ZERO);
    let answers = four().concat();
    assert_eq!(answers.matches("502 Bad Gateway").count(), 2, "{answers}");
    assert_eq!(answers.matches("200 other").count(), 2, "{answers}");
    let group = GROUP.replace("web-8080", &format!("app-{}", gone.port()));
    let (status, answer) = aws.elb("DeregisterTargets", &group, "&Targets.member.1.Id=10.0.2.106");
    assert_eq!(status, 200, "{answer}");
    assert_eq!(four().concat(), "200 other".repeat(4));
    assert!(
        !aws.stand_in.deregister_task(),
        "ECS finds it already deregistered"
    );
}

#[test]
fn a_request_in_flight_is_left_to_finish_and_a_reset_is_a_502() {
    let aws = aws("awsvpc");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let slow = listener.local_addr().unwrap();
    aws.stand_in.balance(slow, slow, Duration::ZERO);
    let balancer = aws.balancer;
    let accept = || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let read = stream.read(&mut [0; 4096]).unwrap();
        assert!(read > 0);
        stream
    };
    let client = std::thread::spawn(move || get(balancer));
    let mut stream = accept();
    assert!(aws.stand_in.deregister_task());
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
        .unwrap();
    let (status, answer) = client.join().unwrap();
    assert_eq!((status, body(&answer)), (200, "late"));
    let client = std::thread::spawn(move || get(balancer));
    drop(accept());
    assert_eq!(client.join().unwrap().0, 502);
}
