//! What the sidecar tells at its start: the settings that hold, and what of them cannot come out well.

use super::Sidecar;
use crate::config::Config;
use crate::core::plan::Plan;
use crate::core::step::QuietStep;
use crate::core::timeline::millis;
use crate::sidecar::drain::quiet;

impl Sidecar {
    pub(super) fn log_start(&mut self) {
        if std::mem::replace(&mut self.log_started, true) {
            return;
        }
        let Config {
            watch,
            stop_timeout_auto,
            ..
        } = &self.config;
        let policy = self.lifecycle.policy();
        let steps: Vec<String> = self.lifecycle.plan().map_or_else(Vec::new, |plan| {
            plan.steps()
                .iter()
                .map(|planned| planned.step.to_string())
                .collect()
        });
        let items = watch.iter().map(|item| item.name());
        let watch: Vec<&str> = items
            .chain(self.config.watch_superseded.then_some("superseded"))
            .collect();
        let listen = self
            .config
            .listen
            .map_or_else(|| "off".to_owned(), |address| address.to_string());
        let local = self.metadata.is_none();
        tracing::info!(
            event = "start",
            version = env!("CARGO_PKG_VERSION"),
            mode = if local { "local" } else { "ecs" },
            drain = if steps.is_empty() {
                "from docker labels".to_owned()
            } else {
                steps.join(", ")
            },
            // Not known yet where ECS is asked for it; the answer has a line of its own.
            stop_timeout_ms = (!stop_timeout_auto).then(|| millis(policy.limits.stop_timeout.get())),
            stop_timeout = stop_timeout_auto.then_some("auto"),
            reserve_ms = millis(policy.limits.reserve.get()),
            settle_ms = millis(policy.settle_of(self.lifecycle.plan())),
            watch = if watch.is_empty() {
                "signals only".to_owned()
            } else {
                watch.join(",")
            },
            listen,
        );
        if local {
            tracing::info!(
                event = "watch",
                watch = "task",
                message =
                    "ECS_CONTAINER_METADATA_URI_V4 is not set: running in local mode, without task metadata"
            );
            if self.config.protect && self.config.agent.is_none() {
                tracing::warn!(
                    event = "watch",
                    watch = "protection",
                    message = "PRESTOP_PROTECT is true and ECS_AGENT_URI is not set: there is nobody to ask for protection"
                );
            }
        }
    }

    /// Says what of the plan does not fit and, soon after the start, whether a `quiet` step would see anybody.
    pub(super) fn announce_plan(&mut self, plan: Option<&Plan>) {
        let too_long = plan.and_then(|plan| self.lifecycle.policy().too_long(plan));
        if let Some(message) = too_long.filter(|_| !self.config.stop_timeout_auto) {
            tracing::warn!(event = "watch", watch = "time", message);
        }
        let steps: Vec<QuietStep> = plan
            .into_iter()
            .flat_map(Plan::quiets)
            .map(|(_, step)| step.clone())
            .collect();
        if !steps.is_empty() {
            let announced = quiet::announce(self.view.clone(), steps, self.mailbox.clone());
            self.companions.spawn(announced);
        }
    }

    /// Says who tells a load balancer to look away: where nobody does, waiting gains nothing.
    pub(super) fn announce_balancer(&self) {
        let policy = self.lifecycle.policy();
        let asks_ready = self.config.ready_url.is_some()
            || self
                .config
                .listen
                .is_some_and(|address| !address.ip().is_loopback());
        let message = if policy.aws.deregister {
            "PRESTOP_DEREGISTER takes this task out of its load balancer and of Cloud Map at a notice"
        } else if asks_ready {
            "a load balancer looks away where its health check asks /ready; PRESTOP_SETTLE has to last until it does"
        } else {
            "nothing here tells a load balancer to look away. ECS does before its SIGTERM in deployments, at scale-in \
             and on Fargate Spot; for EC2 Spot and StopTask set PRESTOP_DEREGISTER=true, or let the health check ask \
             /ready"
        };
        tracing::info!(event = "watch", watch = "load-balancer", message);
    }
}
