//! The Prometheus text of `/metrics`, made from a status snapshot: nothing is counted twice.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::core::lifecycle::{ShutdownState, StepStatus};
use crate::core::notice::Reason;
use crate::core::quiet::Picture;
use crate::core::timeline::{Sight, What};
use crate::sidecar::status::Status;

/// Renders the text. `dropped`: log lines that nobody read in time; `seconds_left`: to the deadline.
/// `connections`: what a look at the app's connections shows, where there can be one.
pub fn render(
    status: &Status,
    dropped: u64,
    seconds_left: Option<f64>,
    connections: Option<&Picture>,
) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot {
        status: status.clone(),
        dropped,
        seconds_left,
        connections: connections.map(|picture| (picture.open, picture.surely_owing())),
    }));
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Snapshot {
    status: Status,
    dropped: u64,
    seconds_left: Option<f64>,
    /// Those that count for `quiet`, and those of them that owe an answer.
    connections: Option<(usize, usize)>,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let report = &self.status.report;
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        gauges(
            &mut encoder,
            "prestop_build_info",
            "The version that runs.",
            [(version, 1.0)],
        )?;
        let states =
            ShutdownState::ALL.map(|state| ([("state", state.as_str())], truth(report.state == state)));
        gauges(&mut encoder, "prestop_state", "1 for the present state.", states)?;
        let notices = Reason::ALL.map(|reason| {
            (
                [("reason", reason.as_str())],
                truth(report.reasons.contains(&reason)),
            )
        });
        gauges(
            &mut encoder,
            "prestop_notice",
            "1 for each reason to stop that was seen.",
            notices,
        )?;
        let watches = self
            .status
            .watches
            .iter()
            .map(|w| ([("watch", w.watch)], truth(w.sees)));
        gauges(
            &mut encoder,
            "prestop_watch_sees",
            "1 where a notice would be seen now.",
            watches,
        )?;
        let healthy = Some(truth(self.status.unhealthy.is_none()));
        gauge(&mut encoder, "prestop_healthy", "What /healthz says.", healthy)?;
        let help = "Seconds to the deadline; missing before a notice.";
        gauge(&mut encoder, "prestop_deadline_seconds", help, self.seconds_left)?;
        if let Some((open, owing)) = self.connections {
            let help = "Connections from outside of the task to ports of the app.";
            gauge(&mut encoder, "prestop_connections", help, Some(count(open)))?;
            let help = "Those of them on which the app owes an answer.";
            gauge(
                &mut encoder,
                "prestop_connections_owing",
                help,
                Some(count(owing)),
            )?;
        }
        let outcomes = StepStatus::KINDS.map(|kind| {
            let steps = report.steps.iter().filter(|step| step.status.is_like(&kind));
            ([("outcome", kind.as_str())], count(steps.count()))
        });
        gauges(
            &mut encoder,
            "prestop_steps",
            "Steps of the plan by what became of them.",
            outcomes,
        )?;
        let calls = |wanted: fn(&What) -> bool| {
            u64::try_from(
                report
                    .timeline
                    .iter()
                    .filter(|moment| wanted(&moment.what))
                    .count(),
            )
            .unwrap_or(u64::MAX)
        };
        let answered = calls(|what| {
            matches!(
                what,
                What::StepCall {
                    sight: Sight::Answer { .. },
                    ..
                }
            )
        });
        counter(
            &mut encoder,
            "prestop_drain_calls_answered",
            "Drain calls that got an HTTP answer.",
            answered,
        )?;
        let retried = calls(|what| matches!(what, What::StepRetry { .. }));
        counter(
            &mut encoder,
            "prestop_drain_calls_retried",
            "Drain calls that were made again.",
            retried,
        )?;
        if let Some(protection) = &self.status.protection {
            let protected = Some(truth(protection.protected));
            let help = "1 while ECS protects this task from scale-in and deployments.";
            gauge(&mut encoder, "prestop_protected", help, protected)?;
            let leases = Some(count(protection.leases.len()));
            gauge(
                &mut encoder,
                "prestop_protection_leases",
                "Leases that count.",
                leases,
            )?;
            let help = "Calls of ECS's task protection endpoint by how they ended.";
            let mut calls =
                encoder.encode_descriptor("prestop_protection_calls", help, None, MetricType::Counter)?;
            for (outcome, n) in protection.calls.by_outcome() {
                ConstCounter::new(n).encode(calls.encode_family(&[("outcome", outcome)])?)?;
            }
            let help = "Answers of PRESTOP_BUSY_URL that were neither 200 nor 204, or did not come.";
            let failures = protection.busy_url_failures;
            counter(&mut encoder, "prestop_busy_url_failures", help, failures)?;
        }
        counter(
            &mut encoder,
            "prestop_log_lines_dropped",
            "Log lines that nobody read in time.",
            self.dropped,
        )
    }
}

fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = ([(&'static str, &'static str); 1], f64)>,
) -> Result<(), fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: Option<f64>,
) -> Result<(), fmt::Error> {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    value.map_or(Ok(()), |value| ConstGauge::new(value).encode(metric))
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> Result<(), fmt::Error> {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    ConstCounter::new(value).encode(metric)
}

fn truth(yes: bool) -> f64 {
    if yes { 1.0 } else { 0.0 }
}

/// Small numbers only: exact.
fn count(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::INFINITY, f64::from)
}
