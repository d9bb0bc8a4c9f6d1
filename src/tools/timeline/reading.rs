//! Shutdowns in whatever people have in hand: the container's log, what `aws logs` prints in each of its
//! forms, lines of others between, several tasks mixed.
//!
//! The `exit` line carries the whole report. Where a task has none, since it was killed or the log is cut,
//! the report is put together from its other lines.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::core::lifecycle::{Code, Report, ShutdownState, StepReport, StepStatus};
use crate::core::timeline::{MAX_ENTRIES, Moment, Outcome, What};
use crate::tools::picture::code_of;
use crate::tools::rehearse::record::{self, Record};

/// Logs in strings in documents in lines: nobody wraps deeper.
const MAX_DEPTH: usize = 6;

/// Complaints beyond these only repeat themselves.
const MAX_TROUBLES: usize = 10;

/// One task's shutdown.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// The task's id; missing in local mode.
    pub task: Option<String>,
    /// Name or ARN of its cluster.
    pub cluster: Option<String>,
    /// Its task definition.
    pub family: Option<String>,
    /// When its first notice came, as the log has it.
    pub began: Option<String>,
    /// How it ended, if that is known.
    pub code: Option<Code>,
    pub report: Report,
}

impl Shutdown {
    /// By which people know the task.
    pub fn name(&self) -> String {
        self.task.clone().unwrap_or_else(|| "local".to_owned())
    }
}

/// What was found so far.
#[derive(Default)]
pub struct Found {
    /// Those that have ended, and those of which there are only lines yet.
    stories: Vec<Story>,
    /// The place in `stories` of the last one of each task.
    last: HashMap<String, usize>,
    /// Rehearsals that were written down.
    pub rehearsals: Vec<Record>,
    /// Lines of the sidecar that make no sense.
    pub troubles: Vec<String>,
}

/// The lines of one process.
#[derive(Default)]
struct Story {
    task: Option<String>,
    cluster: Option<String>,
    family: Option<String>,
    /// The first notice.
    first: Option<Timestamp>,
    moments: Vec<(Timestamp, What)>,
    /// From the `exit` line.
    report: Option<Report>,
    code: Option<Code>,
}

impl Found {
    pub fn read(&mut self, text: &str) {
        self.text(text, 0);
    }

    /// All shutdowns, in the order in which they appear.
    pub fn shutdowns(&self) -> Vec<Shutdown> {
        let stories = self.stories.iter();
        stories.filter_map(Story::shutdown).collect()
    }

    fn text(&mut self, text: &str, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        // A document over several lines, such as `filter-log-events` prints, or one line.
        if text.trim_start().starts_with(['{', '['])
            && let Ok(document) = serde_json::from_str::<Value>(text)
        {
            return self.value(&document, depth);
        }
        for line in text.lines() {
            let Some(start) = line.find('{') else { continue };
            // Whatever follows the object is of no interest.
            let mut values = serde_json::Deserializer::from_str(&line[start..]).into_iter::<Value>();
            if let Some(Ok(value)) = values.next() {
                self.value(&value, depth);
            }
        }
    }

    fn value(&mut self, value: &Value, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        match value {
            Value::Object(members) if members.get("kind").is_some_and(|kind| kind == record::KIND) => {
                match serde_json::from_value(value.clone()) {
                    Ok(rehearsal) => self.rehearsals.push(rehearsal),
                    Err(why) => self.complain(format!("a rehearsal cannot be read: {why}")),
                }
            }
            Value::Object(members) if members.get("event").is_some_and(Value::is_string) => self.line(value),
            Value::Object(members) => members.values().for_each(|member| self.value(member, depth + 1)),
            Value::Array(items) => items.iter().for_each(|item| self.value(item, depth + 1)),
            Value::String(text) if text.contains("\"event\"") => self.text(text, depth + 1),
            _ => {}
        }
    }

    /// A line of the sidecar, or of somebody who also has an `event`.
    fn line(&mut self, line: &Value) {
        let text = |name: &str| line[name].as_str().map(ToOwned::to_owned);
        let Some(at) = text("timestamp").and_then(|at| at.parse::<Timestamp>().ok()) else {
            return;
        };
        let event = line["event"].as_str().unwrap_or_default();
        let task = text("task");
        let key = task.clone().unwrap_or_default();
        let known = self.last.get(&key).copied();
        // Lines of the same millisecond may stand in any order.
        let later = known.is_some_and(|i| self.stories[i].moments.iter().all(|(known, _)| at > *known));
        let ended = later && known.is_some_and(|i| self.stories[i].code.is_some());
        if event == "start" {
            // The same name again, as a local one has, is another process.
            if later {
                self.last.remove(&key);
            }
            return;
        }
        // `watch` lines, and those of others.
        let Ok(what) = serde_json::from_value::<What>(line.clone()) else {
            return;
        };
        let i = match known.filter(|_| !ended) {
            Some(i) => i,
            None => {
                self.stories.push(Story::default());
                self.last.insert(key, self.stories.len() - 1);
                self.stories.len() - 1
            }
        };
        let mut trouble = None;
        let story = &mut self.stories[i];
        story.task = story.task.take().or(task);
        story.cluster = story.cluster.take().or(text("cluster"));
        story.family = story.family.take().or(text("family"));
        if let What::Notice { .. } = what {
            story.first = Some(story.first.map_or(at, |first| first.min(at)));
        }
        if let What::Exit { code } = what {
            story.code = Some(code);
            if line.get("timeline").is_some() {
                match serde_json::from_value(line.clone()) {
                    Ok(report) => story.report = Some(report),
                    Err(why) => trouble = Some(format!("the exit line of {at} cannot be read: {why}")),
                }
            }
        }
        if story.moments.len() < MAX_ENTRIES {
            story.moments.push((at, what));
        }
        if let Some(trouble) = trouble {
            self.complain(trouble);
        }
    }

    fn complain(&mut self, trouble: String) {
        if self.troubles.len() < MAX_TROUBLES {
            self.troubles.push(trouble);
        }
    }
}

impl Story {
    /// `None` where the task was never told to stop.
    fn shutdown(&self) -> Option<Shutdown> {
        let report = match &self.report {
            Some(report) => report.clone(),
            None => self.put_together()?,
        };
        // Refused settings and the like have an end, and no shutdown.
        if report.reasons.is_empty() {
            return None;
        }
        Some(Shutdown {
            task: self.task.clone(),
            cluster: self.cluster.clone(),
            family: self.family.clone(),
            began: self.first.map(|at| format!("{at:.3}")),
            code: code_of(&report).or(self.code),
            report,
        })
    }

    /// As far as the lines go.
    fn put_together(&self) -> Option<Report> {
        let first = self.first?;
        let since = |at: Timestamp| u64::try_from(at.duration_since(first).as_millis()).unwrap_or(0);
        let mut moments: Vec<&(Timestamp, What)> = self.moments.iter().collect();
        moments.sort_by_key(|(at, _)| *at);
        let mut report = Report {
            state: ShutdownState::Draining,
            reasons: Vec::new(),
            budget_ms: None,
            used_ms: None,
            steps: Vec::new(),
            timeline: Vec::new(),
            omitted: 0,
        };
        for (at, what) in moments {
            let ms = since(*at);
            match what {
                What::Notice {
                    reason,
                    deadline_in_ms,
                    ..
                } => {
                    if !report.reasons.contains(reason) {
                        report.reasons.push(*reason);
                    }
                    let deadline = ms.saturating_add(*deadline_in_ms);
                    report.budget_ms = Some(report.budget_ms.map_or(deadline, |known| known.min(deadline)));
                }
                What::Cause { deadline_in_ms, .. } => {
                    report.budget_ms = Some(ms.saturating_add(*deadline_in_ms))
                }
                What::StepStart { step, does } => report.steps.push(StepReport {
                    step: *step,
                    order: 0,
                    container: None,
                    does: does.clone(),
                    status: StepStatus::Running,
                }),
                What::StepEnd { step, outcome, .. } => {
                    for known in report.steps.iter_mut().filter(|known| known.step == *step) {
                        known.status = match outcome {
                            Outcome::Drained(how) => StepStatus::Drained(how.clone()),
                            Outcome::Failed(why) => StepStatus::Failed(why.clone()),
                        };
                    }
                }
                What::Exit { .. } => {
                    report.state = ShutdownState::Ended;
                    report.used_ms = Some(ms);
                }
                _ => {}
            }
            report.timeline.push(Moment {
                ms,
                what: what.clone(),
            });
        }
        Some(report)
    }
}
