//! The scenarios, as data: what kind of app, what happens to it, and how it should end.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::record::Unit;
use crate::tools::sample_app::AppKind;

/// Who plays besides the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cast {
    /// The sidecar, with all that the scenario needs.
    All,
    /// The sidecar without `PRESTOP_DEREGISTER`.
    WithoutDeregister,
    /// The app alone.
    WithoutSidecar,
}

pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// What a newcomer should know, in one or two sentences.
    pub(super) story: &'static str,
    /// Where it is written that ECS or EC2 does so, or, where it is about the app, that it is stopped so.
    pub(super) source: &'static str,
    pub(super) app: AppKind,
    pub(super) opening: Opening,
    /// How many seconds of ECS one second here stands for, with the sample app.
    pub(super) scale: u32,
    /// As on ECS, before scaling.
    pub(super) stop_timeout_s: u32,
    pub(super) settle_s: u32,
    /// How long the slow requests take, in real time.
    pub(super) slow_request: Duration,
    /// The sidecar's exit code.
    pub(super) code: i32,
    /// Whether requests or jobs are lost even with the sidecar, and why.
    pub(super) loses: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// ECS takes the task out of its target group, waits for the deregistration delay, and stops it.
    Deployed,
    /// ECS stops the task and takes its name out of DNS; clients go on for as long as they know the
    /// address.
    NamedByDns,
    /// The task is stopped, and taken out of its target group a moment later.
    Stopped,
    /// It is taken out of its target group and stopped at once.
    FargateSpot,
    /// The task is stopped; the load balancer sends to it and to another one, and hears from ECS only
    /// when the task has ended.
    KeepsSending,
    /// A Spot notice that many seconds (of ECS) ahead, then SIGTERM.
    Spot(u32),
    /// A Spot notice, and then nothing until the host is gone.
    SpotSilent(u32),
    /// The service is scaled in: a task that is protected is left alone until it is not.
    ScaleIn,
    /// A new version is deployed: a task that is protected is left alone until it is not, which ECS does not tell it.
    Superseded,
    /// The instance metadata hangs; the task is stopped.
    NoInstanceMetadata,
    /// The app has crashed, and ECS does not know yet.
    AppCrashed,
    /// The app has done its work and ends; ECS stops the rest.
    AppEnds,
}

/// Played where no scenario is named: it needs no special capacity, and loses most.
pub(super) const DEFAULT: &str = "no-balancer";

/// The app that has no part in its own drain.
const APP: AppKind = AppKind::NoCode;

const BASE: Scenario = Scenario {
    name: "deploy",
    title: "a new version is deployed behind an Application Load Balancer",
    story: "ECS takes the task out of its target group, waits until the deregistration delay is over, and only then \
            sends SIGTERM. As long as that delay is longer than the longest request nothing is lost, with or without \
            a sidecar.",
    source: "ECS developer guide, Optimize load balancer connection draining parameters for Amazon ECS",
    app: APP,
    opening: Opening::Deployed,
    scale: 10,
    stop_timeout_s: 30,
    settle_s: 5,
    slow_request: Duration::from_millis(1000),
    code: 0,
    loses: None,
};

/// A task that is stopped at once, for what is about the app.
const STOPPED: Scenario = Scenario {
    opening: Opening::Stopped,
    source: "ECS API reference, StopTask",
    ..BASE
};

pub(super) const SCENARIOS: [Scenario; 19] = [
    Scenario {
        name: DEFAULT,
        title: "a new version is deployed, with no Application Load Balancer in front",
        story: "Clients find the task by Cloud Map. ECS takes its name out of DNS and sends SIGTERM at once, but they \
                know its address until the record's TTL is over. So it is behind a Network Load Balancer, which goes \
                on sending for a while. PRESTOP_SETTLE is longer than that.",
        source: "containers-roadmap issues 343 and 1639 (Cloud Map), 470 (NLB)",
        opening: Opening::NamedByDns,
        settle_s: 12,
        ..BASE
    },
    BASE,
    Scenario {
        name: "stop-task",
        title: "somebody stops the task by hand",
        story: "StopTask sends SIGTERM while the load balancer still sends requests; ECS takes the task out of its \
                target group at about the same time.",
        source: "ECS API reference, StopTask; containers-roadmap issues 576 and 708",
        ..STOPPED
    },
    Scenario {
        name: "fargate-spot",
        title: "Fargate Spot takes its capacity back",
        story: "ECS takes the task out of its target group and sends SIGTERM, and waits for nothing in between: \
                requests in flight end with the app.",
        source: "ECS developer guide, Fargate Spot termination notices; AWS what's new, February 2023",
        opening: Opening::FargateSpot,
        ..BASE
    },
    Scenario {
        name: "load-balancer",
        title: "Fargate Spot takes its capacity back, and the load balancer hears nothing of it",
        story: "ECS tells the load balancer only once the task has ended. With PRESTOP_DEREGISTER the sidecar tells it \
                at once, and lets the app drain when no more requests come.",
        source: "AWS knowledge centre, Fargate Spot tasks; containers-roadmap issue 2673",
        opening: Opening::KeepsSending,
        scale: 5,
        settle_s: 0,
        ..BASE
    },
    Scenario {
        name: "ec2-spot",
        title: "EC2 takes a Spot instance back and ECS stops the task",
        story: "The instance metadata announces it two minutes ahead; the sidecar has drained before SIGTERM comes. \
                The load balancer looks away because /ready says 503.",
        source: "ECS developer guide, Managed Spot Instance draining",
        opening: Opening::Spot(120),
        settle_s: 10,
        ..BASE
    },
    Scenario {
        name: "ec2-spot-silent",
        title: "EC2 takes a Spot instance back and nobody tells the task",
        story: "Without ECS_ENABLE_SPOT_INSTANCE_DRAINING there is a notice in the instance metadata, and no SIGTERM \
                before the host is gone.",
        source: "ECS developer guide, Managed Spot Instance draining",
        opening: Opening::SpotSilent(120),
        scale: 15,
        settle_s: 15,
        ..BASE
    },
    Scenario {
        name: "drain-endpoint",
        title: "the app drains itself when it is asked",
        story: "It answers POST /drain once no request is in flight. That is exact, where the sidecar otherwise has to \
                watch the app's connections for a second of silence.",
        app: AppKind::Web,
        ..STOPPED
    },
    Scenario {
        name: "slow-app",
        title: "the app needs nearly all of its stop timeout",
        story: "It answers 202 and is asked until it says that it is done.",
        app: AppKind::Slow,
        ..STOPPED
    },
    Scenario {
        name: "hung-app",
        title: "the app never finishes",
        story: "The drain call gets no answer. The sidecar leaves before its SIGKILL, so that the app gets its own SIGTERM.",
        app: AppKind::Hung,
        code: 3,
        ..STOPPED
    },
    Scenario {
        name: "dead-app",
        title: "the app has crashed and nobody has noticed",
        story: "Nobody listens any more. The sidecar gives up after 5 s of real time: nothing is left to drain.",
        source: "kernel: a connection to a port on which nobody listens is refused, tcp(7)",
        app: AppKind::Web,
        opening: Opening::AppCrashed,
        scale: 3,
        code: 4,
        loses: Some("what an app has in hand when it crashes nobody can save"),
        ..STOPPED
    },
    Scenario {
        name: "refusing-app",
        title: "the app has no such endpoint",
        source: "RFC 9110, 404 Not Found; ECS API reference, StopTask",
        story: "It answers 404: a mistake in the settings. The sidecar says so and leaves at once.",
        app: AppKind::Refusing,
        code: 4,
        loses: Some("an app that is told to drain by a wrong URL does not drain"),
        ..STOPPED
    },
    Scenario {
        name: "late-notice",
        title: "the Spot notice comes 20 s before the end",
        story: "The budget is what is left, less the reserve for the app's own SIGTERM.",
        source: "EC2 user guide, Spot Instance interruption notices (no notice is promised)",
        opening: Opening::Spot(20),
        settle_s: 0,
        slow_request: Duration::from_millis(500),
        ..BASE
    },
    Scenario {
        name: "no-imds",
        title: "the instance metadata cannot be reached",
        story: "It hangs, as behind a hop limit of 1. The sidecar says so once; SIGTERM still drains the app.",
        source: "EC2 user guide, Instance metadata options (hop limit); ECS API reference, StopTask",
        opening: Opening::NoInstanceMetadata,
        ..STOPPED
    },
    Scenario {
        name: "worker",
        title: "a worker without a web server",
        story: "It asks the sidecar for a notice between jobs, finishes the one in hand and posts to /drained (step `ack`).",
        app: AppKind::Worker,
        settle_s: 0,
        ..STOPPED
    },
    Scenario {
        name: "protected-worker",
        title: "the service is scaled in while a job is in hand",
        story: "The worker takes a lease for each job, and the sidecar has ECS protect the task (PRESTOP_PROTECT): \
                ECS leaves it alone until the lease is given back.",
        source: "ECS developer guide, Protect your Amazon ECS tasks from being terminated by scale-in events",
        app: AppKind::Protected,
        opening: Opening::ScaleIn,
        settle_s: 0,
        ..STOPPED
    },
    Scenario {
        name: "superseded",
        title: "a new version is deployed while a job longer than any stop timeout is in hand",
        story: "A worker that only has its task protected is never told that ECS waits for it, and takes job after job. \
                The sidecar asks ECS, gives no other lease, and sees the job through. It takes 50 s: ECS is asked every \
                30 s of real time, and the job lasts longer than two looks.",
        source: "ECS developer guide, Protect your Amazon ECS tasks from being terminated by scale-in events; \
                 containers-roadmap issue 256",
        app: AppKind::LongJob,
        opening: Opening::Superseded,
        stop_timeout_s: 120,
        settle_s: 0,
        ..STOPPED
    },
    Scenario {
        name: "signal",
        title: "the app ends gracefully on SIGQUIT only, behind a shell",
        source: "kernel: the first process of a PID namespace gets no signal that it does not handle, \
                 pid_namespaces(7); ECS API reference, StopTask",
        story: "Its shell swallows ECS's SIGTERM, so that the app runs on to its SIGKILL, and the deployment waits for \
                that. The step `signal QUIT app` finds the process behind the shell.",
        app: AppKind::Quits,
        ..STOPPED
    },
    Scenario {
        name: "one-off",
        title: "a one-off task ends by itself",
        story: "The app is done and exits. ECS stops the rest, and the sidecar must not hold the task up.",
        source: "ECS API reference, ContainerDefinition, essential",
        app: AppKind::OneOff,
        opening: Opening::AppEnds,
        settle_s: 0,
        ..STOPPED
    },
];

impl Scenario {
    pub(super) fn named(name: &str) -> Option<&'static Scenario> {
        SCENARIOS.iter().find(|scenario| scenario.name == name)
    }

    /// Whether it can be played with somebody's own app: it is about what happens to the app, not about
    /// what the app does.
    pub(super) fn fits_any_app(&self) -> bool {
        self.app == APP && self.name != "drain-endpoint" && self.opening != Opening::AppCrashed
    }

    /// What the sample app's work is counted in.
    pub(super) fn unit(&self) -> Unit {
        if self.app.serves() {
            Unit::Requests
        } else {
            Unit::Jobs
        }
    }

    /// The ways in which it is played.
    pub(super) fn casts(&self) -> &'static [Cast] {
        if self.opening == Opening::KeepsSending {
            &[Cast::All, Cast::WithoutDeregister, Cast::WithoutSidecar]
        } else {
            &[Cast::All, Cast::WithoutSidecar]
        }
    }
}
