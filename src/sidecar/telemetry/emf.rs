//! CloudWatch's embedded metric format: members of the `exit` line that CloudWatch Logs makes metrics of, so that
//! an alarm needs nothing installed (CloudWatch user guide, *Specification: Embedded metric format*).

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::core::lifecycle::{Code, Report};
use crate::core::task::Identity;

/// Where the metrics stand in CloudWatch.
const NAMESPACE: &str = "ecs-prestop";

/// What the `exit` line has besides. CloudWatch takes the values from the root of the line, where `_aws` names them.
pub(super) fn members(
    at: Timestamp,
    code: Code,
    report: &Report,
    identity: Option<&Identity>,
) -> Map<String, Value> {
    let mut root = Map::new();
    let mut metrics = Vec::new();
    let mut metric = |name: &str, unit: &str, value: Value| {
        metrics.push(json!({"Name": name, "Unit": unit}));
        root.insert(name.to_owned(), value);
    };
    metric("NotDrained", "Count", u8::from(code != Code::Drained).into());
    if let Some(used) = report.used_ms {
        metric("DrainTime", "Milliseconds", used.into());
        if let Some(budget) = report.budget_ms.filter(|budget| *budget > 0) {
            metric(
                "BudgetUsed",
                "Percent",
                used.saturating_mul(100).div_ceil(budget).into(),
            );
        }
    }
    // A value must not be missing, nor empty: in local mode there is no task to tell of.
    let task =
        identity.and_then(|known| Some((name(known.cluster.as_deref()?), family(known.family.as_deref()?))));
    let mut dimensions = vec!["Outcome", "Reason"];
    root.insert("Outcome".to_owned(), code.words().into());
    let reason = report.reasons.first().map_or("none", |reason| reason.as_str());
    root.insert("Reason".to_owned(), reason.into());
    let mut sets = Vec::new();
    if let Some((cluster, family)) = task {
        root.insert("Cluster".to_owned(), cluster.into());
        root.insert("Family".to_owned(), family.into());
        sets.push(vec!["Cluster", "Family"]);
        dimensions.splice(0..0, ["Cluster", "Family"]);
    }
    sets.push(dimensions);
    root.insert(
        "_aws".to_owned(),
        json!({
            "Timestamp": at.as_millisecond(),
            "CloudWatchMetrics": [{"Namespace": NAMESPACE, "Dimensions": sets, "Metrics": metrics}],
        }),
    );
    root
}

/// Of a cluster that is told as name or as ARN.
fn name(cluster: &str) -> &str {
    cluster.rsplit('/').next().unwrap_or(cluster)
}

/// Without the revision, which each deployment changes and no alarm could follow.
fn family(family: &str) -> &str {
    family.split(':').next().unwrap_or(family)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::lifecycle::ShutdownState;
    use crate::core::notice::Reason;

    /// The units of the API reference, *MetricDatum*, that are used here.
    const UNITS: [&str; 3] = ["Count", "Milliseconds", "Percent"];

    fn report(used_ms: Option<u64>) -> Report {
        Report {
            state: ShutdownState::Ended,
            reasons: used_ms.map(|_| Reason::Sigterm).into_iter().collect(),
            budget_ms: used_ms.map(|_| 28_000),
            used_ms,
            steps: Vec::new(),
            timeline: Vec::new(),
            omitted: 0,
        }
    }

    fn identity() -> Identity {
        Identity {
            cluster: Some("arn:aws:ecs:eu-west-1:1:cluster/prod".to_owned()),
            task_arn: None,
            family: Some("web:7".to_owned()),
        }
    }

    fn at() -> Timestamp {
        "2026-01-01T00:00:00.5Z".parse().unwrap()
    }

    /// The rules of the specification's schema, and that whatever is named stands at the root.
    fn holds(root: &Map<String, Value>) {
        let text = |value: &Value, most: usize| {
            let length = value.as_str().map_or(0, |text| text.chars().count());
            assert!((1..=most).contains(&length), "{value}");
        };
        let aws = root["_aws"].as_object().unwrap();
        assert_eq!(aws.keys().collect::<Vec<_>>(), ["Timestamp", "CloudWatchMetrics"]);
        assert!(aws["Timestamp"].is_u64());
        for directive in aws["CloudWatchMetrics"].as_array().unwrap() {
            let names: Vec<&String> = directive.as_object().unwrap().keys().collect();
            assert_eq!(names, ["Namespace", "Dimensions", "Metrics"]);
            text(&directive["Namespace"], 1024);
            let sets = directive["Dimensions"].as_array().unwrap();
            assert!(!sets.is_empty());
            for set in sets {
                let set = set.as_array().unwrap();
                assert!((1..=30).contains(&set.len()));
                for dimension in set {
                    text(dimension, 250);
                    text(&root[dimension.as_str().unwrap()], 1024);
                }
            }
            let metrics = directive["Metrics"].as_array().unwrap();
            assert!((1..=100).contains(&metrics.len()));
            for metric in metrics {
                text(&metric["Name"], 1024);
                assert!(UNITS.contains(&metric["Unit"].as_str().unwrap()), "{metric}");
                assert!(root[metric["Name"].as_str().unwrap()].is_number(), "{metric}");
            }
        }
    }

    #[test]
    fn it_is_as_the_specification_has_it_whatever_the_end() {
        for code in Code::ALL {
            for used in [None, Some(0), Some(29_000)] {
                for known in [None, Some(identity()), Some(Identity::default())] {
                    holds(&members(at(), code, &report(used), known.as_ref()));
                }
            }
        }
    }

    #[test]
    fn it_tells_the_time_the_budget_and_how_it_ended_of_the_family_whatever_the_revision() {
        let root = members(at(), Code::Drained, &report(Some(7_000)), Some(&identity()));
        for (name, value) in [
            ("NotDrained", json!(0)),
            ("DrainTime", json!(7_000)),
            ("BudgetUsed", json!(25)),
            ("Cluster", json!("prod")),
            ("Family", json!("web")),
            ("Reason", json!("sigterm")),
            ("Outcome", json!(Code::Drained.words())),
        ] {
            assert_eq!(root[name], value, "{name}");
        }
        assert_eq!(root["_aws"]["Timestamp"], 1_767_225_600_500_u64);
        for code in Code::ALL {
            let root = members(at(), code, &report(Some(7_000)), None);
            assert_eq!(root["NotDrained"] == 0, code == Code::Drained, "{code:?}");
        }
        let late = members(at(), Code::Deadline, &report(Some(28_000)), None);
        assert_eq!(
            (&late["NotDrained"], &late["BudgetUsed"]),
            (&json!(1), &json!(100))
        );
    }
}
