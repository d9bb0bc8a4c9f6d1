//! The scenarios, as data: what kind of app, what happens to it, and how it should end.

use std::time::Duration;

use crate::core::url::HttpUrl;
use crate::tools::sample_app::Kind;

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Played {
    pub(super) answered: u32,
    pub(super) lost: u32,
    /// `None` where it was killed, or was not there.
    pub(super) sidecar_code: Option<i32>,
    pub(super) app_killed: bool,
    pub(super) budget: Option<Duration>,
    pub(super) used: Option<Duration>,
}

/// Somebody's own app in place of the sample.
pub(super) struct OwnApp {
    pub(super) url: HttpUrl,
    pub(super) start: String,
    pub(super) drain: String,
}

/// One shutdown.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// What a newcomer should know, in one or two sentences.
    pub(super) story: &'static str,
    pub(super) app: Kind,
    pub(super) opening: Opening,
    /// How many seconds of ECS one second here stands for.
    pub(super) scale: u32,
    /// As on ECS, before scaling.
    pub(super) stop_timeout_s: u32,
    pub(super) settle_s: u32,
    /// How long the slow requests take, in real time.
    pub(super) slow_request: Duration,
    /// The sidecar's exit code.
    pub(super) code: i32,
    /// Whether no request may be lost with the sidecar.
    pub(super) lossless: bool,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// The load balancer is told first, then the task is stopped.
    Deregistered,
    /// The task is stopped; the load balancer finds out by its health check.
    TargetStays,
    /// The task is stopped; the load balancer sends to it and to another one, and hears from ECS only
    /// when the task has ended.
    KeepsSending,
    /// A Spot notice that many seconds (of ECS) ahead, then SIGTERM.
    Spot(u32),
    /// A Spot notice, and then nothing until the host is gone.
    SpotSilent(u32),
    /// The service is scaled in: a task that is protected is left alone until it is not.
    ScaleIn,
    /// The instance metadata hangs; the task is stopped.
    NoInstanceMetadata,
    /// The app has crashed, and ECS does not know yet.
    AppCrashed,
    /// The app has done its work and ends; ECS stops the rest.
    AppEnds,
}

const BASE: Scenario = Scenario {
    name: "deploy",
    title: "a new version is deployed",
    story: "ECS takes the task out of the load balancer and stops it. Requests that take long are still in flight.",
    app: Kind::Web,
    opening: Opening::Deregistered,
    scale: 10,
    stop_timeout_s: 30,
    settle_s: 0,
    slow_request: Duration::from_millis(1500),
    code: 0,
    lossless: true,
};

pub(super) const SCENARIOS: [Scenario; 15] = [
    BASE,
    Scenario {
        name: "fargate-spot",
        title: "Fargate Spot takes its capacity back",
        story: "SIGTERM comes while the load balancer still sends requests. It looks at the sidecar's /ready, and \
                PRESTOP_SETTLE gives it the time to look away before the app drains.",
        opening: Opening::TargetStays,
        settle_s: 10,
        ..BASE
    },
    Scenario {
        name: "load-balancer",
        title: "Fargate Spot takes its capacity back behind a load balancer that keeps sending",
        story: "ECS tells the load balancer only once the task has ended. With PRESTOP_DEREGISTER the sidecar tells it \
                at once, and lets the app drain when no more requests come.",
        opening: Opening::KeepsSending,
        scale: 5,
        ..BASE
    },
    Scenario {
        name: "ec2-spot",
        title: "EC2 takes a Spot instance back and ECS stops the task",
        story: "The instance metadata announces it two minutes ahead; the sidecar has drained before SIGTERM comes.",
        opening: Opening::Spot(120),
        settle_s: 10,
        ..BASE
    },
    Scenario {
        name: "ec2-spot-silent",
        title: "EC2 takes a Spot instance back and nobody tells the task",
        story: "Without ECS_ENABLE_SPOT_INSTANCE_DRAINING there is a notice in the instance metadata, and no SIGTERM \
                before the host is gone.",
        opening: Opening::SpotSilent(120),
        scale: 15,
        settle_s: 15,
        ..BASE
    },
    Scenario {
        name: "slow-app",
        title: "the app needs nearly all of its stop timeout",
        story: "It answers 202 and is asked until it says that it is done.",
        app: Kind::Slow,
        ..BASE
    },
    Scenario {
        name: "hung-app",
        title: "the app never finishes",
        story: "The drain call gets no answer. The sidecar leaves before its SIGKILL, so that the app gets its own SIGTERM.",
        app: Kind::Hung,
        code: 3,
        ..BASE
    },
    Scenario {
        name: "dead-app",
        title: "the app has crashed and nobody has noticed",
        story: "Nobody listens any more. The sidecar gives up after 5 s of real time: nothing is left to drain.",
        opening: Opening::AppCrashed,
        scale: 3,
        code: 4,
        lossless: false,
        ..BASE
    },
    Scenario {
        name: "refusing-app",
        title: "the app has no such endpoint",
        story: "It answers 404: a mistake in the settings. The sidecar says so and leaves at once.",
        app: Kind::Refusing,
        code: 4,
        lossless: false,
        ..BASE
    },
    Scenario {
        name: "late-notice",
        title: "the Spot notice comes 20 s before the end",
        story: "The budget is what is left, less the reserve for the app's own SIGTERM.",
        opening: Opening::Spot(20),
        slow_request: Duration::from_millis(500),
        ..BASE
    },
    Scenario {
        name: "no-imds",
        title: "the instance metadata cannot be reached",
        story: "It hangs, as behind a hop limit of 1. The sidecar says so once; SIGTERM still drains the app.",
        opening: Opening::NoInstanceMetadata,
        ..BASE
    },
    Scenario {
        name: "worker",
        title: "a worker without a web server",
        story: "It asks the sidecar for a notice between jobs, finishes the one in hand and posts to /drained (step `ack`).",
        app: Kind::Worker,
        ..BASE
    },
    Scenario {
        name: "protected-worker",
        title: "the service is scaled in while a job is in hand",
        story: "The worker takes a lease for each job, and the sidecar has ECS protect the task (PRESTOP_PROTECT): \
                ECS leaves it alone until the lease is given back.",
        app: Kind::Protected,
        opening: Opening::ScaleIn,
        ..BASE
    },
    Scenario {
        name: "signal",
        title: "the app ends gracefully on SIGQUIT only, behind a shell",
        story: "Its shell would swallow ECS's SIGTERM, so that SIGKILL ends it in the middle of its work. The step \
                `signal QUIT app` finds the process behind the shell.",
        app: Kind::Quits,
        opening: Opening::TargetStays,
        settle_s: 10,
        ..BASE
    },
    Scenario {
        name: "one-off",
        title: "a one-off task ends by itself",
        story: "The app is done and exits. ECS stops the rest, and the sidecar must not hold the task up.",
        app: Kind::OneOff,
        opening: Opening::AppEnds,
        lossless: false,
        ..BASE
    },
];

impl Scenario {
    /// A time of ECS, as long as it takes here.
    pub(super) fn scaled(&self, seconds: u32) -> Duration {
        Duration::from_secs(seconds.into()) / self.scale
    }

    pub(super) fn stop_timeout(&self) -> Duration {
        self.scaled(self.stop_timeout_s)
    }

    /// What did not end as it should; nothing where all is well.
    pub(super) fn complaints(&self, played: &Played, own_app: bool) -> Vec<String> {
        let mut complaints = Vec::new();
        match played.sidecar_code {
            Some(code) if code == self.code => {}
            Some(code) => complaints.push(format!("the sidecar exited with {code}, not {}", self.code)),
            None => complaints.push("the sidecar had to be killed".to_owned()),
        }
        if (self.lossless || own_app) && played.lost > 0 {
            complaints.push(format!("{} were lost", played.lost));
        }
        let host_gone = matches!(self.opening, Opening::SpotSilent(_));
        if played.app_killed && !host_gone {
            complaints.push("the app had to be killed".to_owned());
        }
        let late = played
            .used
            .zip(played.budget)
            .is_some_and(|(used, budget)| used > budget + Duration::from_millis(100));
        if late {
            complaints.push("the sidecar exited after its deadline".to_owned());
        }
        complaints
    }
}
