//! The items of the instance metadata that announce an end: where each stands and what its answers
//! mean (EC2 user guide, *Instance metadata categories* and *Spot Instance interruption notices*).
//!
//! Pure: text in, sighting out.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::core::notice::{Action, Reason};

/// A scheduled maintenance may be announced weeks ahead; the drain starts this long before it.
pub const MAINTENANCE_LEAD: Duration = Duration::from_secs(120);

/// A host that is still there so long after its maintenance was due to begin is not waiting for it:
/// a task that starts on it now must not drain at once.
const SURVIVED: SignedDuration = SignedDuration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WatchItem {
    /// `spot/instance-action`
    Spot,
    /// `events/recommendations/rebalance`
    Rebalance,
    /// `events/maintenance/scheduled`
    Maintenance,
    /// `autoscaling/target-lifecycle-state`
    Autoscaling,
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq)]
pub enum Sighting {
    Nothing,
    /// The end is announced.
    Notice {
        /// For Spot, where it is one that EC2 documents.
        action: Option<Action>,
        /// By AWS's clock.
        host_ends: Option<Timestamp>,
    },
    /// The end is announced for later, or has just begun.
    Starting {
        /// By AWS's clock.
        at: Timestamp,
    },
    /// No such answer is documented.
    Senseless(String),
}

impl WatchItem {
    /// Every item, in the order of the contract.
    pub const ALL: [WatchItem; 4] = [
        WatchItem::Spot,
        WatchItem::Rebalance,
        WatchItem::Maintenance,
        WatchItem::Autoscaling,
    ];

    /// As in `PRESTOP_WATCH`.
    pub fn name(self) -> &'static str {
        match self {
            WatchItem::Spot => "spot",
            WatchItem::Rebalance => "rebalance",
            WatchItem::Maintenance => "maintenance",
            WatchItem::Autoscaling => "autoscaling",
        }
    }

    /// Below the endpoint.
    pub fn path(self) -> &'static str {
        match self {
            WatchItem::Spot => "/latest/meta-data/spot/instance-action",
            WatchItem::Rebalance => "/latest/meta-data/events/recommendations/rebalance",
            WatchItem::Maintenance => "/latest/meta-data/events/maintenance/scheduled",
            WatchItem::Autoscaling => "/latest/meta-data/autoscaling/target-lifecycle-state",
        }
    }

    /// The notice that it leads to.
    pub fn reason(self) -> Reason {
        match self {
            WatchItem::Spot => Reason::SpotInterruption,
            WatchItem::Rebalance => Reason::RebalanceRecommendation,
            WatchItem::Maintenance => Reason::ScheduledMaintenance,
            WatchItem::Autoscaling => Reason::AutoscalingTermination,
        }
    }

    /// What a 200 with this body means at that time of AWS's clock.
    pub fn parse(self, body: &str, now: Timestamp) -> Sighting {
        match self {
            WatchItem::Spot => with_json(body, spot),
            WatchItem::Rebalance => with_json(body, rebalance),
            WatchItem::Maintenance => with_json(body, |events| maintenance(events, now)),
            WatchItem::Autoscaling => autoscaling(body),
        }
    }
}

fn with_json(body: &str, parse: impl Fn(&Value) -> Sighting) -> Sighting {
    match serde_json::from_str(body) {
        Ok(value) => parse(&value),
        Err(why) => Sighting::Senseless(format!("not JSON: {why}")),
    }
}

/// The item is there only while an interruption is (EC2 user guide, *Spot Instance interruption
/// notices*), so that any object is one: with an action that nobody knows yet, at worst two minutes away.
fn spot(value: &Value) -> Sighting {
    if !value.is_object() {
        return Sighting::Senseless("not a JSON object".to_owned());
    }
    let action = match value["action"].as_str() {
        Some("terminate") => Some(Action::Terminate),
        Some("stop") => Some(Action::Stop),
        Some("hibernate") => Some(Action::Hibernate),
        _ => None,
    };
    let announced = value["time"]
        .as_str()
        .and_then(|time| time.parse::<Timestamp>().ok());
    let host_ends = announced.unwrap_or(match action {
        // Hibernation begins at once.
        Some(Action::Hibernate) => Timestamp::MIN,
        _ => Timestamp::MAX,
    });
    Sighting::Notice {
        action,
        host_ends: Some(host_ends),
    }
}

fn rebalance(value: &Value) -> Sighting {
    let time = value["noticeTime"].as_str().map(str::parse::<Timestamp>);
    if matches!(time, Some(Ok(_))) {
        Sighting::Notice {
            action: None,
            host_ends: None,
        }
    } else {
        Sighting::Senseless("there is no noticeTime that is a time in it".to_owned())
    }
}

/// The earliest event that is neither over nor called off.
fn maintenance(value: &Value, now: Timestamp) -> Sighting {
    let Some(events) = value.as_array() else {
        return Sighting::Senseless("not a list of events".to_owned());
    };
    let mut unreadable = None;
    let mut earliest: Option<Timestamp> = None;
    for event in events {
        let state = event["State"].as_str().unwrap_or_default().to_ascii_lowercase();
        if matches!(state.as_str(), "completed" | "canceled") {
            continue;
        }
        let not_before = event["NotBefore"].as_str().unwrap_or_default();
        match jiff::fmt::rfc2822::parse(not_before) {
            // This host has lived through it, whatever the state still says.
            Ok(time) if now.duration_since(time.timestamp()) > SURVIVED => {}
            Ok(time) => {
                let at = time.timestamp();
                earliest = Some(earliest.map_or(at, |earliest| earliest.min(at)));
            }
            Err(_) => unreadable = Some(format!("`{}` is no NotBefore", shortened(not_before))),
        }
    }
    match (earliest, unreadable) {
        (Some(at), _) => Sighting::Starting { at },
        (None, Some(why)) => Sighting::Senseless(why),
        (None, None) => Sighting::Nothing,
    }
}

fn autoscaling(body: &str) -> Sighting {
    match body.trim() {
        "Terminated" => Sighting::Notice {
            action: None,
            host_ends: None,
        },
        state if state.len() < 64 && state.chars().all(|c| c.is_ascii_alphabetic() || c == ':') => {
            Sighting::Nothing
        }
        other => Sighting::Senseless(format!("`{}` is no lifecycle state", shortened(other))),
    }
}

/// What is quoted of a strange answer.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The day of the maintenance in these tests.
    const NOW: &str = "2019-01-21T08:00:00Z";

    fn parse(item: WatchItem, body: &str) -> Sighting {
        item.parse(body, NOW.parse().unwrap())
    }

    fn notice(item: WatchItem, body: &str) -> (Option<Action>, Option<String>) {
        match parse(item, body) {
            Sighting::Notice { action, host_ends } => (action, host_ends.map(|t| t.to_string())),
            other => panic!("{body} gave {other:?}"),
        }
    }

    #[test]
    fn a_spot_interruption_says_what_and_when() {
        for (word, action) in [
            ("terminate", Action::Terminate),
            ("stop", Action::Stop),
            ("hibernate", Action::Hibernate),
        ] {
            let body = format!("{{\n \"action\": \"{word}\",\n \"time\": \"2026-11-23T21:06:17Z\"\n}}");
            assert_eq!(
                notice(WatchItem::Spot, &body),
                (Some(action), Some("2026-11-23T21:06:17Z".to_owned()))
            );
        }
    }

    #[test]
    fn an_interruption_without_a_readable_time_is_two_minutes_away_and_a_hibernation_is_now() {
        for time in ["", ",\"time\":7", ",\"time\":\"soon\""] {
            let (_, end) = notice(WatchItem::Spot, &format!("{{\"action\":\"stop\"{time}}}"));
            assert_eq!(end, Some(Timestamp::MAX.to_string()));
            let (_, end) = notice(WatchItem::Spot, &format!("{{\"action\":\"hibernate\"{time}}}"));
            assert_eq!(end, Some(Timestamp::MIN.to_string()));
        }
    }

    #[test]
    fn any_object_of_the_spot_item_is_a_notice_whatever_its_action() {
        for body in [
            "{}",
            r#"{"action":"dance","time":"2026-11-23T21:06:17Z"}"#,
            r#"{"action":null}"#,
            r#"{"action":["stop"],"time":7}"#,
            r#"{"Action":"terminate"}"#,
        ] {
            let (action, end) = notice(WatchItem::Spot, body);
            assert_eq!(action, None, "{body}");
            let known = body.contains("2026").then_some("2026-11-23T21:06:17Z".to_owned());
            assert_eq!(end, known.or(Some(Timestamp::MAX.to_string())), "{body}");
        }
    }

    #[test]
    fn garbage_is_never_a_notice() {
        let deep = "[".repeat(60_000);
        for item in WatchItem::ALL {
            for body in [
                "<html>404</html>",
                "",
                "{",
                "3",
                "[7]",
                "\"terminate\"",
                "[null]",
                "\u{0}\u{1}",
                &deep,
            ] {
                let sighting = parse(item, body);
                let harmless = matches!(sighting, Sighting::Senseless(_))
                    || (item == WatchItem::Autoscaling && body.is_empty() && sighting == Sighting::Nothing);
                assert!(harmless, "{item:?} of {body:.20?} gave {sighting:?}");
            }
        }
    }

    #[test]
    fn a_rebalance_recommendation_says_nothing_of_the_end() {
        assert!(matches!(
            parse(WatchItem::Rebalance, r#"{"noticeTime":""}"#),
            Sighting::Senseless(_)
        ));
        assert_eq!(
            notice(WatchItem::Rebalance, r#"{"noticeTime":"2026-11-23T21:06:17Z"}"#),
            (None, None)
        );
    }

    #[test]
    fn the_earliest_maintenance_that_still_stands_counts() {
        let event = |not_before: &str, state: &str| {
            format!(r#"{{"NotBefore":"{not_before}","Code":"system-reboot","State":"{state}"}}"#)
        };
        assert_eq!(parse(WatchItem::Maintenance, "[]"), Sighting::Nothing);
        let over = event("21 Jan 2019 09:00:43 GMT", "completed");
        let off = event("21 Jan 2019 09:17:23 GMT", "canceled");
        assert_eq!(
            parse(WatchItem::Maintenance, &format!("[{over},{off}]")),
            Sighting::Nothing
        );
        let late = event("22 Jan 2019 09:00:43 GMT", "active");
        let early = event("21 Jan 2019 10:00:43 GMT", "active");
        assert_eq!(
            parse(WatchItem::Maintenance, &format!("[{over},{late},{early}]")),
            Sighting::Starting {
                at: "2019-01-21T10:00:43Z".parse().unwrap()
            }
        );
        let survived = event("21 Jan 2019 07:00:00 GMT", "active");
        assert_eq!(
            parse(WatchItem::Maintenance, &format!("[{survived}]")),
            Sighting::Nothing
        );
        let shouted = event("22 Jan 2019 09:00:43 GMT", "Completed");
        assert_eq!(
            parse(WatchItem::Maintenance, &format!("[{shouted}]")),
            Sighting::Nothing
        );
        let bad = event("whenever", "active");
        assert!(matches!(
            parse(WatchItem::Maintenance, &format!("[{bad}]")),
            Sighting::Senseless(_)
        ));
        assert!(matches!(
            parse(WatchItem::Maintenance, &format!("[{bad},{late}]")),
            Sighting::Starting { .. }
        ));
    }

    #[test]
    fn only_terminated_is_an_end_of_an_auto_scaling_instance() {
        assert_eq!(notice(WatchItem::Autoscaling, "Terminated\n"), (None, None));
        for state in ["InService", "Standby", "Warmed:Stopped", "Detached"] {
            assert_eq!(parse(WatchItem::Autoscaling, state), Sighting::Nothing);
        }
    }
}
