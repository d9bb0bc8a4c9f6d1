//! The text of `/metrics`, made from a status snapshot: nothing is counted twice.
//!
//! OpenMetrics 1.0, or the text format 0.0.4 of Prometheus for whoever asks for that alone.

use std::fmt::{self, Write as _};

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsFormat {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' own, version 0.0.4.
    Prometheus,
}

impl MetricsFormat {
    /// What an `Accept` header asks for (RFC 9110, section 12.5.1): Prometheus' where it is preferred,
    /// OpenMetrics otherwise.
    pub fn accepted(accept: Option<&str>) -> MetricsFormat {
        let weight = |kinds: [&str; 3]| {
            let ranges = accept.unwrap_or("*/*").split(',');
            let weights = ranges.filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let kind = parts.next()?;
                // The first that fits is the closest.
                let closeness = kinds.iter().position(|known| known.eq_ignore_ascii_case(kind))?;
                let weight = parts.find_map(|part| part.strip_prefix("q=")).unwrap_or("1");
                Some((closeness, weight.parse::<f64>().unwrap_or(0.0)))
            });
            let closest = weights.fold(
                None,
                |best: Option<(usize, f64)>, (closeness, weight)| match best {
                    Some((before, _)) if before < closeness => best,
                    Some((before, most)) if before == closeness => Some((before, weight.max(most))),
                    _ => Some((closeness, weight)),
                },
            );
            closest.map_or(0.0, |(_, weight)| weight)
        };
        let open_metrics = weight(["application/openmetrics-text", "application/*", "*/*"]);
        let prometheus = weight(["text/plain", "text/*", "*/*"]);
        if prometheus > open_metrics {
            MetricsFormat::Prometheus
        } else {
            MetricsFormat::OpenMetrics
        }
    }

    /// The header of the answer.
    pub fn content_type(self) -> &'static str {
        match self {
            MetricsFormat::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            MetricsFormat::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Renders the text. `dropped`: log lines that nobody read in time; `seconds_left`: to the deadline.
/// `connections`: what a look at the app's connections shows, where there can be one.
pub fn render(
    status: &Status,
    dropped: u64,
    seconds_left: Option<f64>,
    connections: Option<&Picture>,
    format: MetricsFormat,
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
    match format {
        MetricsFormat::OpenMetrics => text,
        MetricsFormat::Prometheus => prometheus(&text),
    }
}

/// The same for Prometheus: its counters are named as their samples are, with `_total` (Prometheus
/// documentation, *Exposition formats*), and nothing says where the text ends.
fn prometheus(open_metrics: &str) -> String {
    let declared = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    let counters: Vec<&str> = declared
        .filter_map(|declared| declared.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines().filter(|line| *line != "# EOF") {
        let metadata = ["# HELP ", "# TYPE "].into_iter().find_map(|kind| {
            let (name, rest) = line.strip_prefix(kind)?.split_once(' ')?;
            counters.contains(&name).then_some((kind, name, rest))
        });
        // Writing to a String does not fail.
        let _ = match metadata {
            Some((kind, name, rest)) => writeln!(text, "{kind}{name}_total {rest}"),
            None => writeln!(text, "{line}"),
        };
    }
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
        let superseded = Some(truth(self.status.superseded.is_some()));
        let help = "1 while ECS wants this task gone and no new lease is given.";
        gauge(&mut encoder, "prestop_superseded", help, superseded)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_text_is_for_whoever_prefers_it() {
        for (accept, format) in [
            (None, MetricsFormat::OpenMetrics),
            (Some("*/*"), MetricsFormat::OpenMetrics),
            (Some("text/plain"), MetricsFormat::Prometheus),
            (Some("text/plain;version=0.0.4"), MetricsFormat::Prometheus),
            (Some("text/*, application/json"), MetricsFormat::Prometheus),
            (Some("text/plain;q=0.5, */*;q=0.8"), MetricsFormat::OpenMetrics),
            (Some("*/*;q=0.1, text/plain"), MetricsFormat::Prometheus),
            (
                Some("Application/OpenMetrics-Text; version=1.0.0"),
                MetricsFormat::OpenMetrics,
            ),
            (
                Some("application/openmetrics-text;q=0, */*"),
                MetricsFormat::Prometheus,
            ),
            // Prometheus 3 itself.
            (
                Some(
                    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                     application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                ),
                MetricsFormat::OpenMetrics,
            ),
            (Some("application/json"), MetricsFormat::OpenMetrics),
            (Some(";;q=,,"), MetricsFormat::OpenMetrics),
        ] {
            assert_eq!(MetricsFormat::accepted(accept), format, "{accept:?}");
        }
    }

    #[test]
    fn a_counter_of_prometheus_is_named_as_its_sample_is() {
        let open_metrics =
            "# HELP a Words.\n# TYPE a counter\na_total 3\n# HELP ab Words.\n# TYPE ab gauge\nab 1\n# EOF\n";
        assert_eq!(
            prometheus(open_metrics),
            "# HELP a_total Words.\n# TYPE a_total counter\na_total 3\n# HELP ab Words.\n# TYPE ab gauge\nab 1\n"
        );
    }
}
