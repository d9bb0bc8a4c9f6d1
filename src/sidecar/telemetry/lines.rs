//! A tracing layer that writes the events of the contract: JSON lines for machines, aligned text for
//! people.
//!
//! What happened comes as typed values (`Lines::tell`), everything else as tracing events, whose
//! fields are flat.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::writer::Writer;
use crate::core::task::Identity;
use crate::core::timeline::What;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFormat {
    Json {
        /// With CloudWatch's embedded metrics in the last one.
        emf: bool,
    },
    /// `12:00:00.000 info notice reason=sigterm`
    Text { colour: bool },
}

/// The layer; a handle that can be cloned.
#[derive(Clone)]
pub(super) struct Lines {
    format: LineFormat,
    writer: Writer,
    identity: Arc<OnceLock<Identity>>,
}

impl Lines {
    pub(super) fn new(format: LineFormat, writer: Writer, identity: Arc<OnceLock<Identity>>) -> Lines {
        Lines {
            format,
            writer,
            identity,
        }
    }

    /// Writes one line.
    pub(super) fn tell(&self, at: Timestamp, level: Level, event: &str, members: &Members) {
        let line = match self.format {
            LineFormat::Json { .. } => json(at, level, event, self.identity.get(), members),
            LineFormat::Text { colour } => text(at, level, event, members, colour),
        };
        if event == What::EXIT {
            self.writer.last_line(line);
        } else {
            self.writer.line(line);
        }
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut members = Members::default();
        event.record(&mut members);
        let name = match members.0.get("event") {
            Some(Value::String(name)) => name,
            // From a library, at a level that somebody asked for.
            _ => event.metadata().target(),
        };
        self.tell(Timestamp::now(), *event.metadata().level(), name, &members);
    }
}

fn json(now: Timestamp, level: Level, event: &str, identity: Option<&Identity>, members: &Members) -> String {
    let mut line = Map::new();
    line.insert("timestamp".to_owned(), format!("{now:.3}").into());
    line.insert("level".to_owned(), level.as_str().to_ascii_lowercase().into());
    line.insert("event".to_owned(), event.into());
    // Missing before the task metadata has been read, and in local mode.
    line.insert(
        "cluster".to_owned(),
        identity.and_then(|known| known.cluster.as_deref()).into(),
    );
    line.insert("task".to_owned(), identity.and_then(Identity::task_id).into());
    line.insert(
        "family".to_owned(),
        identity.and_then(|known| known.family.as_deref()).into(),
    );
    let members = members.0.iter().filter(|(name, _)| *name != "event");
    line.extend(members.map(|(name, value)| (name.clone(), value.clone())));
    let mut line = Value::Object(line).to_string();
    line.push('\n');
    line
}

fn text(now: Timestamp, level: Level, event: &str, members: &Members, colour: bool) -> String {
    let (dim, strong, plain) = match (colour, level) {
        (false, _) => ("", "", ""),
        (true, Level::ERROR) => ("\x1b[2m", "\x1b[31m", "\x1b[0m"),
        (true, Level::WARN) => ("\x1b[2m", "\x1b[33m", "\x1b[0m"),
        (true, _) => ("\x1b[2m", "\x1b[36m", "\x1b[0m"),
    };
    let clock = now.strftime("%H:%M:%S%.3f");
    let mut line = format!("{dim}{clock}{plain} {strong}{event:<10}{plain}");
    for (name, value) in &members.0 {
        // People have seen the timeline pass by already.
        if matches!(name.as_str(), "event" | "timeline" | "steps") {
            continue;
        }
        let value = match value {
            Value::String(text) if name == "message" => text.clone(),
            Value::String(text) if text.contains(' ') => format!("{name}={text:?}"),
            Value::String(text) => format!("{name}={text}"),
            other => format!("{name}={other}"),
        };
        let _ = write!(line, " {value}");
    }
    line.push('\n');
    line
}

/// What a line has to tell.
#[derive(Default)]
pub(super) struct Members(Map<String, Value>);

impl Members {
    /// Adds the members of a value that serialises as an object.
    pub(super) fn add(&mut self, value: &impl Serialize) {
        if let Ok(Value::Object(members)) = serde_json::to_value(value) {
            self.0.extend(members);
        }
    }

    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Members {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.insert(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at() -> Timestamp {
        "2026-01-01T00:00:00.5Z".parse().unwrap()
    }

    fn members(value: Value) -> Members {
        Members(value.as_object().unwrap().clone())
    }

    #[test]
    fn a_json_line_starts_with_time_level_and_event_and_names_the_task() {
        let identity = Identity {
            cluster: Some("prod".to_owned()),
            task_arn: Some("arn:aws:ecs:eu-west-1:1:task/prod/abc".to_owned()),
            family: Some("web:7".to_owned()),
        };
        let line = json(
            at(),
            Level::INFO,
            "notice",
            Some(&identity),
            &members(json!({"event": "notice", "reason": "sigterm"})),
        );
        assert_eq!(
            line,
            "{\"timestamp\":\"2026-01-01T00:00:00.500Z\",\"level\":\"info\",\"event\":\"notice\",\
             \"cluster\":\"prod\",\"task\":\"abc\",\"family\":\"web:7\",\"reason\":\"sigterm\"}\n"
        );
    }

    #[test]
    fn a_text_line_is_short_and_coloured_only_when_asked() {
        let fields =
            || members(json!({"event": "step.end", "detail": "HTTP 200", "step": 1, "timeline": [1]}));
        let line = text(at(), Level::INFO, "step.end", &fields(), false);
        assert_eq!(line, "00:00:00.500 step.end   detail=\"HTTP 200\" step=1\n");
        assert!(text(at(), Level::WARN, "step.end", &fields(), true).contains("\x1b[33m"));
    }
}
