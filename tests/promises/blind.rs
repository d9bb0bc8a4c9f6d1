//! A sidecar that cannot see says so once, with the cure, and wherever somebody looks; and where ECS alone knows
//! whether the host ends, it is prepared for that.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;

use ecs_prestop::core::lifecycle::Code;
use ecs_prestop::tools::simulate::{Definition, StandIn};
use serde_json::{Value, json};

use crate::memory::{Does, Play};
use crate::process::request;
use crate::quiet_sockets::{Inside, Namespace};

/// Where the endpoints of a sidecar in a namespace are reached from outside.
const PORT: u16 = 9911;

fn ip(command: &str) {
    let status = Command::new("ip").args(command.split(' ')).status().unwrap();
    assert!(status.success(), "ip {command}");
}

/// An instance metadata that gives every connection the same answer, from `hops` away at most.
fn metadata(address: Ipv4Addr, answer: &'static str, hops: u32) -> SocketAddr {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            // The hop limit is that of the answer; the connection comes about without it.
            stream.set_ttl(hops).unwrap();
            let _ = stream.write_all(answer.as_bytes());
            held.push(stream);
        }
    });
    address
}

const FORBIDDEN: &str = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
const TOKEN: &str =
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-aws-ec2-metadata-token-ttl-seconds: 21600\r\n\r\ntoken";

/// What a sidecar in the namespace says of its blindness, wherever it does.
fn told(namespace: &Namespace, endpoint: Option<SocketAddr>) -> String {
    let endpoint = endpoint.map(|at| format!("http://{at}"));
    let mut variables = vec![
        ("PRESTOP_DRAIN", "sleep 1s"),
        ("PRESTOP_WATCH", "spot"),
        ("PRESTOP_LISTEN", "0.0.0.0:9911"),
        ("PRESTOP_POLL_INTERVAL", "200ms"),
    ];
    if let Some(endpoint) = &endpoint {
        variables.push(("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint));
    }
    let mut sidecar = Inside::start(namespace, &[], &variables);
    let log = sidecar.await_line("instance metadata");
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of_spot = |line: &&Value| line["event"] == "watch" && line["watch"] == "spot";
    let of_spot: Vec<&Value> = lines.iter().filter(of_spot).collect();
    assert_eq!(of_spot.len(), 1, "said once: {log}");
    assert_eq!(of_spot[0]["level"], "warn", "{log}");
    let why = of_spot[0]["message"].as_str().unwrap().to_owned();
    let get = |path: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nHost: sidecar\r\nConnection: close\r\n\r\n");
        request((namespace.inside, PORT).into(), &head)
    };
    let (status, health) = get("/healthz");
    assert_eq!(status, 200, "it can drain all the same: {health}");
    assert!(health.contains(&format!("blind: spot: {why}")), "{health}");
    let (_, status) = get("/status");
    let (_, status) = status.split_once("\r\n\r\n").unwrap();
    let status: Value = serde_json::from_str(status).unwrap();
    assert_eq!(
        status["watches"][0],
        json!({"watch": "spot", "sees": false, "why": why})
    );
    let (_, metrics) = get("/metrics");
    assert!(
        metrics.contains("prestop_watch_sees{watch=\"spot\"} 0"),
        "{metrics}"
    );
    why
}

#[test]
fn a_blocked_hidden_forbidden_or_missing_instance_metadata_is_told_apart_with_the_cure() {
    let Some(namespace) = Namespace::new() else { return };
    let (name, outside, inside) = (&namespace.name, namespace.outside, namespace.inside);
    let forbidden = told(&namespace, Some(metadata(outside, FORBIDDEN, 64)));
    assert!(
        forbidden.contains("--http-endpoint enabled") && forbidden.contains("403"),
        "{forbidden}"
    );
    let nobody = told(&namespace, Some((outside, 9).into()));
    assert!(
        nobody.contains("connection refused") && nobody.contains("PRESTOP_WATCH=none"),
        "{nobody}"
    );
    // As the agent blocks it.
    ip(&format!("-n {name} route add blackhole 169.254.169.254"));
    let blocked = told(&namespace, None);
    assert!(
        blocked.contains("ECS_AWSVPC_BLOCK_IMDS=false") && blocked.contains("Managed Instances"),
        "{blocked}"
    );
    assert!(!blocked.contains("laptop"), "it is none: {blocked}");
    // Through the host of a bridge an answer with a hop limit of 1 does not come.
    let behind = format!("{name}b");
    let (near, far) = (Ipv4Addr::new(10, 232, 0, 1), Ipv4Addr::new(10, 232, 0, 2));
    let bridge = Namespace {
        name: behind.clone(),
        inside: far,
        outside,
    };
    ip(&format!("netns add {behind}"));
    ip(&format!(
        "-n {name} link add nb type veth peer name fb netns {behind}"
    ));
    ip(&format!("-n {name} addr add {near}/30 dev nb"));
    ip(&format!("-n {name} link set nb up"));
    ip(&format!("-n {behind} addr add {far}/30 dev fb"));
    ip(&format!("-n {behind} link set fb up"));
    ip(&format!("-n {behind} link set lo up"));
    ip(&format!("-n {behind} route add default via {near}"));
    ip(&format!("route add {far}/32 via {inside}"));
    ip(&format!("netns exec {name} sysctl -q -w net.ipv4.ip_forward=1"));
    let hidden = told(&bridge, Some(metadata(outside, TOKEN, 1)));
    assert!(hidden.contains("--http-put-response-hop-limit 2"), "{hidden}");
}

/// When the drain of an app that never finishes is over, in seconds after a SIGTERM.
async fn lasts(launch_type: &str) -> f64 {
    let definition = json!({
        "family": "web", "requiresCompatibilities": [launch_type], "networkMode": "awsvpc",
        "containerDefinitions": [{"name": "app", "portMappings": [{"containerPort": 8080}]}, {"name": "prestop"}]
    });
    let settings = [
        ("PRESTOP_DRAIN", "POST http://app:8080/drain"),
        ("PRESTOP_STOP_TIMEOUT", "120s"),
        ("PRESTOP_RESERVE", "30s"),
    ];
    let stand_in = StandIn::new(Definition::from_value(&definition).unwrap());
    let played = Play::with(stand_in, &settings, &[Does::Hangs])
        .sigterm_at_2()
        .await;
    assert_eq!(played.code, Code::Deadline, "{}", played.details());
    played.ended_at - 2.0
}

#[tokio::test(start_paused = true)]
async fn a_sigterm_on_managed_instances_may_be_spot_as_on_fargate_and_leaves_the_reserve() {
    for (launch_type, expected) in [("EC2", 119.0), ("FARGATE", 90.0), ("MANAGED_INSTANCES", 90.0)] {
        let lasts = lasts(launch_type).await;
        assert!((lasts - expected).abs() < 0.5, "{launch_type}: {lasts} s");
    }
}
