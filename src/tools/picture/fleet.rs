//! A fleet: many shutdowns, one row each, and what they have in common.

use std::fmt::Write as _;

use serde::Serialize;

use super::svg::{document, escaped, short};
use super::terminal::{Ink, Paper, shortened};
use super::{Tone, axis::as_f64, words};

/// One task's shutdown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FleetTask {
    /// By which people know it.
    pub task: String,
    /// Why it had to stop.
    pub reason: String,
    /// What came of it, in a few words.
    pub outcome: String,
    pub used_ms: Option<u64>,
    pub budget_ms: Option<u64>,
    /// What went wrong, with what to look at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    #[serde(skip)]
    pub tone: Tone,
}

impl FleetTask {
    /// Percent of its budget.
    pub fn used_percent(&self) -> Option<u64> {
        match (self.used_ms, self.budget_ms) {
            (Some(used), Some(budget)) if budget > 0 => Some(used.saturating_mul(100) / budget),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub tasks: usize,
    /// How many drained in time.
    pub drained: usize,
    /// Percent of the budget: the half used no more than this, nine of ten, all.
    pub used_percent: Option<[u64; 3]>,
    /// How many used up to a tenth of their budget, up to two, and so on; the last: more than all of it.
    pub used_tenths: [usize; 11],
    /// What went wrong how often, the most frequent first.
    pub failures: Vec<(String, usize)>,
    /// The one that took longest.
    pub slowest: Option<(String, u64)>,
}

/// Sorts the worst first, and sums up.
pub fn sum_up(members: &mut [FleetTask]) -> Summary {
    members.sort_by(|a, b| {
        let percent = |member: &FleetTask| std::cmp::Reverse(member.used_percent());
        let used = |member: &FleetTask| std::cmp::Reverse(member.used_ms);
        (a.tone, percent(a), used(a), &a.task).cmp(&(b.tone, percent(b), used(b), &b.task))
    });
    let mut percents: Vec<u64> = members.iter().filter_map(FleetTask::used_percent).collect();
    percents.sort_unstable();
    let mut used_tenths = [0; 11];
    for percent in &percents {
        let tenth = usize::try_from(percent.saturating_sub(1) / 10).unwrap_or(10);
        used_tenths[tenth.min(10)] += 1;
    }
    let mut failures: Vec<(String, usize)> = Vec::new();
    for why in members.iter().filter_map(|member| member.why.as_ref()) {
        match failures.iter_mut().find(|(known, _)| known == why) {
            Some((_, n)) => *n += 1,
            None => failures.push((why.clone(), 1)),
        }
    }
    failures.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let slowest = members
        .iter()
        .filter_map(|member| Some((member.used_ms?, &member.task)))
        .max_by_key(|(used, _)| *used);
    Summary {
        tasks: members.len(),
        drained: members.iter().filter(|member| member.tone == Tone::Good).count(),
        used_percent: rank(&percents, 50)
            .zip(rank(&percents, 90))
            .zip(percents.last())
            .map(|((half, most), all)| [half, most, *all]),
        used_tenths,
        failures,
        slowest: slowest.map(|(used, task)| (task.clone(), used)),
    }
}

/// The value that so many percent are not above (nearest rank).
fn rank(sorted: &[u64], percent: usize) -> Option<u64> {
    let place = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(place - 1).copied()
}

impl Summary {
    pub fn sentences(&self) -> Vec<(Tone, String)> {
        let all = self.drained == self.tasks;
        let mut lines = vec![(
            if all { Tone::Good } else { Tone::Bad },
            format!("{} of {} tasks drained in time.", self.drained, self.tasks),
        )];
        if let Some([half, most, all]) = self.used_percent {
            lines.push((
                Tone::Plain,
                format!("Budget used: half of them {half} % or less, nine of ten {most} %, at most {all} %."),
            ));
        }
        if let Some((task, used)) = &self.slowest {
            lines.push((Tone::Plain, format!("Slowest: {task}, {}.", words::span(*used))));
        }
        for (why, n) in &self.failures {
            lines.push((Tone::Bad, format!("{n} \u{d7} {why}")));
        }
        lines
    }
}

/// A row each, the worst first, then the sentences.
pub fn draw(members: &[FleetTask], summary: &Summary, paper: &Paper) -> Vec<String> {
    // Where there is room, an id as a whole can be copied from here.
    const LEAST_TASK: usize = 10;
    const MOST_TASK: usize = 36;
    const BAR: usize = 60;
    const REASON: usize = 15;
    const OUTCOME: usize = 12;
    const SPAN: usize = 17;
    let beside = 2 + 1 + REASON + 1 + OUTCOME + 1 + SPAN + 2;
    let longest = members.iter().map(|member| member.task.chars().count()).max();
    let room = paper.width.saturating_sub(beside + BAR);
    let task_width = longest.unwrap_or(0).min(room).clamp(LEAST_TASK, MOST_TASK);
    let width = (paper.width - beside - task_width).min(BAR);
    let head = format!(
        "  {:<task_width$} {:<REASON$} {:<OUTCOME$} {:>SPAN$}  {}",
        "task", "reason", "outcome", "used of budget", ""
    );
    let mut lines = vec![paper.paint(Ink::Strong, head.trim_end())];
    let ellipsis = if paper.unicode { '…' } else { '~' };
    let (full, rest) = if paper.unicode { ("█", "·") } else { ("#", ".") };
    for member in members {
        let spans = match (member.used_ms, member.budget_ms) {
            (Some(used), Some(budget)) => format!("{} of {}", words::span(used), words::span(budget)),
            _ => "unknown".to_owned(),
        };
        let bar = member.used_percent().map_or(String::new(), |percent| {
            let filled = usize::try_from(percent).unwrap_or(100).min(100) * width;
            let filled = filled.div_ceil(100);
            let filled_bar = paper.paint(member.tone.into(), &full.repeat(filled));
            format!(
                "{filled_bar}{}",
                paper.paint(Ink::Dim, &rest.repeat(width - filled))
            )
        });
        let task = shortened(&member.task, task_width, ellipsis);
        let reason = shortened(&member.reason, REASON, ellipsis);
        let outcome = format!("{:<OUTCOME$}", shortened(&member.outcome, OUTCOME, ellipsis));
        let outcome = paper.paint(member.tone.into(), &outcome);
        let line = format!("  {task:<task_width$} {reason:<REASON$} {outcome} {spans:>SPAN$}  {bar}");
        lines.push(line.trim_end().to_owned());
    }
    lines.push(String::new());
    lines.extend(distribution(summary, paper));
    for (tone, sentence) in summary.sentences() {
        let sentence = if paper.unicode {
            sentence
        } else {
            sentence.replace('\u{d7}', "x")
        };
        for (line, text) in super::terminal::wrapped(&sentence, paper.width - 4)
            .iter()
            .enumerate()
        {
            let indent = if line == 0 { "  " } else { "    " };
            lines.push(format!("{indent}{}", paper.paint(tone.into(), text)));
        }
    }
    lines
}

fn distribution(summary: &Summary, paper: &Paper) -> Vec<String> {
    let most = summary.used_tenths.iter().copied().max().unwrap_or(0);
    if most == 0 {
        return Vec::new();
    }
    let width = paper.width.saturating_sub(30).min(50);
    let full = if paper.unicode { "█" } else { "#" };
    let mut lines = vec![paper.paint(Ink::Strong, "  budget used   tasks")];
    let last = summary.used_tenths.iter().rposition(|n| *n > 0).unwrap_or(0);
    for (tenth, n) in summary.used_tenths.iter().enumerate().take(last + 1) {
        let name = if tenth == 10 {
            "above 100 %".to_owned()
        } else {
            format!("to {:>3} %", (tenth + 1) * 10)
        };
        let bar = full.repeat((n * width).div_ceil(most));
        lines.push(
            format!("  {name:<12} {n:>6}  {}", paper.paint(Ink::Step, &bar))
                .trim_end()
                .to_owned(),
        );
    }
    lines.push(String::new());
    lines
}

pub fn draw_svg(members: &[FleetTask], summary: &Summary) -> String {
    const WIDTH: f64 = 760.0;
    const BAR_X: f64 = 400.0;
    const BAR_WIDTH: f64 = 340.0;
    const COLUMNS: usize = 104;
    // Many rows are thin, so that a fleet is seen at once.
    let row = if members.len() > 60 { 11.0 } else { 18.0 };
    // A row has more to say than one of a single shutdown.
    let mut body = "<g font-size=\"12\">\n".to_owned();
    let mut y = 30.0;
    let _ = writeln!(
        body,
        "<text class=\"t\" x=\"16\" y=\"{}\">{} shutdowns</text>",
        short(y),
        members.len()
    );
    for (tone, sentence) in summary.sentences() {
        let class = match tone {
            Tone::Good => "good h",
            Tone::Bad => "bad",
            Tone::Loss => "loss",
            Tone::Plain => "s",
        };
        for (line, text) in super::terminal::wrapped(&sentence, COLUMNS).iter().enumerate() {
            y += 17.0;
            let x = if line == 0 { 16 } else { 28 };
            let _ = writeln!(
                body,
                "<text class=\"{class}\" x=\"{x}\" y=\"{}\">{}</text>",
                short(y),
                escaped(text)
            );
        }
    }
    y += 24.0;
    for (x, class, name) in [
        (16.0, "h", "task"),
        (130.0, "h", "reason"),
        (230.0, "h", "outcome"),
        (390.0, "h n", "used"),
    ] {
        let _ = writeln!(
            body,
            "<text class=\"{class}\" x=\"{x}\" y=\"{}\">{name}</text>",
            short(y)
        );
    }
    let top = y + 6.0;
    y += 6.0;
    let _ = writeln!(body, "<g font-size=\"{}\">", short(row - 1.0_f64.min(row / 2.0)));
    let mut rows = String::new();
    for member in members {
        y += row;
        let class = match member.tone {
            Tone::Good | Tone::Plain => "step",
            Tone::Loss => "loss",
            Tone::Bad => "failed",
        };
        let spans = match (member.used_ms, member.budget_ms) {
            (Some(used), Some(budget)) => format!("{} of {}", words::span(used), words::span(budget)),
            _ => "unknown".to_owned(),
        };
        for (x, class, text) in [
            (16.0, "", shortened(&member.task, 15, '…')),
            (130.0, "s", shortened(&member.reason, 15, '…')),
            (
                230.0,
                if member.tone == Tone::Bad { "bad" } else { "s" },
                shortened(&member.outcome, 16, '…'),
            ),
            (390.0, "s n", spans),
        ] {
            let _ = writeln!(
                rows,
                "<text class=\"{class}\" x=\"{x}\" y=\"{}\">{}</text>",
                short(y),
                escaped(&text)
            );
        }
        let Some(share) = member.used_percent() else {
            continue;
        };
        let length = BAR_WIDTH * as_f64(i64::try_from(share.min(100)).unwrap_or(100)) / 100.0;
        let _ = writeln!(
            rows,
            "<rect class=\"{class}\" x=\"{BAR_X}\" y=\"{}\" width=\"{}\" height=\"{}\"/>",
            short(y - row * 0.75),
            short(length.max(1.0)),
            short(row * 0.7)
        );
    }
    for quarter in 0..=4 {
        let x = short(BAR_X + BAR_WIDTH * f64::from(quarter) / 4.0);
        let _ = writeln!(
            body,
            "<line class=\"l\" x1=\"{x}\" x2=\"{x}\" y1=\"{}\" y2=\"{}\"/>",
            short(top),
            short(y + 4.0)
        );
        let _ = writeln!(
            body,
            "<text class=\"s m\" x=\"{x}\" y=\"{}\">{} %</text>",
            short(y + 18.0),
            quarter * 25
        );
    }
    body.push_str(&rows);
    body.push_str("</g>\n</g>\n");
    let description: Vec<String> = summary
        .sentences()
        .into_iter()
        .map(|(_, sentence)| sentence)
        .collect();
    let title = format!("{} shutdowns, the worst first", members.len());
    document(&title, &description.join(" "), WIDTH, y + 30.0, &body)
}
