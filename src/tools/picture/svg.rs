//! A picture as SVG: one file that needs nothing else, readable on light and on dark, told in its title
//! and description, and the same bytes each time.

use std::fmt::Write as _;

use super::axis::{Axis, as_f64};
use super::terminal::balanced;
use super::{BarKind, Chart, MarkKind, Panel, Row, Tone, Traffic, words};

/// All lengths are those of the view box; it scales to whatever holds it. On the screen of a phone it is still more
/// than half as large.
const WIDTH: f64 = 600.0;
const MARGIN: f64 = 16.0;
const PLOT_X: f64 = 194.0;
const PLOT_WIDTH: f64 = WIDTH - PLOT_X - MARGIN;
const ROW: f64 = 24.0;
const BAR: f64 = 13.0;
const AREA: f64 = 36.0;
const LINE: f64 = 19.0;

/// How wide a character is on average in a wide font, only to keep texts apart: of a name, of a bold text, of a bold
/// name in capitals, and of a figure.
const CHARACTER: f64 = 7.3;
const BOLD: f64 = 8.0;
const CAPITAL: f64 = 10.2;
const FIGURE: f64 = 9.0;

/// Columns of a line of text below the plot.
const COLUMNS: usize = 72;

/// Columns of a line of the title, whose letters are larger.
const TITLE_COLUMNS: usize = 60;

/// Characters of a row's name.
const LABEL: usize = 23;

/// The most ticks whose figures find room beside each other.
const TICKS: usize = 9;

/// Colours that can be told apart on both backgrounds, also by those who see no red or no green. Viewers
/// that know no preferred scheme show the light one.
pub(super) const STYLE: &str = "<style>\
svg{font:14px system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif}\
text{fill:#1f2328;stroke:#fff;stroke-width:3px;paint-order:stroke}.p{fill:#fff}.t{font-size:16px;font-weight:600}.h{font-weight:600}.s{fill:#59636e}\
.n{text-anchor:end}.m{text-anchor:middle}.l{stroke:#d1d9e0}.d{stroke:#59636e;stroke-dasharray:2 3}\
.settle{fill:#8fb8ea}.step{fill:#1a6fd0}.failed,.bad{fill:#c4302b}.aws{fill:#8250df}\
.wait{fill:none;stroke:#59636e;stroke-dasharray:4 3}.app,.good{fill:#1a7f37}.area{fill:#59636e;opacity:.45}\
.x{fill:none;stroke:#c4302b;stroke-width:1.6}.loss{fill:#8a5a00}.r{stroke:#fff;stroke-width:1.5}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3;stroke:#0d1117}.p{fill:#0d1117}.s{fill:#9198a1}.l{stroke:#3d444d}\
.d,.wait{stroke:#9198a1}.settle{fill:#3d5f8f}.step{fill:#4c9bf5}.failed,.bad{fill:#ff6b62}.aws{fill:#b083f0}\
.app,.good{fill:#3fb950}.area{fill:#9198a1}.x{stroke:#ff6b62}.loss{fill:#d9a53a}.r{stroke:#0d1117}}</style>";

/// The whole file.
pub fn draw(picture: &Chart) -> String {
    let mut svg = Drawing {
        axis: Axis::of(picture),
        body: String::new(),
        y: MARGIN,
    };
    svg.head(picture);
    for panel in &picture.panels {
        svg.panel(panel);
    }
    document(
        &picture.title,
        &described(picture),
        WIDTH,
        svg.y + MARGIN - 6.0,
        &svg.body,
    )
}

/// The file around what is drawn.
pub(super) fn document(title: &str, description: &str, width: f64, height: f64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {h}\" width=\"{w}\" height=\"{h}\" role=\"img\" \
         aria-labelledby=\"title description\">\n<title id=\"title\">{}</title>\n<desc id=\"description\">{}</desc>\n\
         {STYLE}\n<rect class=\"p\" width=\"{w}\" height=\"{h}\" rx=\"6\"/>\n{body}</svg>\n",
        escaped(title),
        escaped(description),
        w = short(width),
        h = short(height),
    )
}

/// What the picture shows, for those who do not see it.
fn described(picture: &Chart) -> String {
    let mut text = picture.about.join(" ");
    for panel in &picture.panels {
        let _ = write!(text, " {}:", panel.heading);
        for mark in &panel.marks {
            let _ = write!(text, " {} at {};", mark.kind.words(), moment(mark.at_ms));
        }
        for row in &panel.rows {
            let from = row.bars.first().map_or(0, |bar| bar.from_ms);
            let _ = write!(
                text,
                " {} from {} for {};",
                row.label,
                moment(from),
                words::span(row.lasts_ms())
            );
        }
        if let Some(verdict) = &panel.verdict {
            let _ = write!(text, " {}", verdict.words);
        }
    }
    text.trim().to_owned()
}

fn moment(ms: i64) -> String {
    let sign = if ms < 0 { "-" } else { "" };
    format!("{sign}{}", words::span(ms.unsigned_abs()))
}

struct Drawing {
    axis: Axis,
    body: String,
    /// Where the next line begins.
    y: f64,
}

impl Drawing {
    fn head(&mut self, picture: &Chart) {
        self.y -= 4.0;
        for line in balanced(&picture.title, TITLE_COLUMNS) {
            self.y += LINE;
            self.text(MARGIN, "t", &line);
        }
        for about in &picture.about {
            for line in balanced(about, COLUMNS) {
                self.y += LINE;
                self.text(MARGIN, "s", &line);
            }
        }
        self.y += 8.0;
    }

    fn panel(&mut self, panel: &Panel) {
        self.y += LINE + 6.0;
        self.text(MARGIN, "h", &panel.heading);
        if !panel.marks.is_empty() && MARGIN + width_of(&panel.heading, BOLD) > PLOT_X {
            self.y += LINE;
        }
        let names = self.mark_names(panel);
        let top = self.y + 4.0;
        self.y += 8.0;
        let below = std::mem::take(&mut self.body);
        for row in &panel.rows {
            self.row(row);
        }
        if let Some(traffic) = &panel.traffic {
            self.traffic(traffic);
        }
        let rows = std::mem::replace(&mut self.body, below);
        self.scale(top);
        for mark in &panel.marks {
            let Some(at) = self.x(mark.at_ms) else { continue };
            let class = match mark.kind {
                MarkKind::Sigkill | MarkKind::HostEnd => "x",
                _ => "d",
            };
            let _ = writeln!(
                self.body,
                "<line class=\"{class}\" x1=\"{x}\" x2=\"{x}\" y1=\"{}\" y2=\"{}\"/>",
                short(top - 2.0),
                short(self.y - LINE),
                x = short(at),
            );
        }
        self.body.push_str(&rows);
        self.body.push_str(&names);
        if let Some(verdict) = &panel.verdict {
            let class = match verdict.tone {
                Tone::Good => "good h",
                Tone::Plain => "h",
                Tone::Loss => "loss h",
                Tone::Bad => "bad h",
            };
            for line in balanced(&verdict.words, COLUMNS) {
                self.y += LINE;
                self.text(MARGIN, class, &line);
            }
        }
        self.y += 6.0;
    }

    /// The names of the marks in as many lines as they need; advances below them.
    fn mark_names(&mut self, panel: &Panel) -> String {
        let mut names = String::new();
        let mut taken: Vec<f64> = Vec::new();
        let mut marks: Vec<_> = panel.marks.iter().collect();
        marks.sort_by_key(|mark| mark.at_ms);
        for mark in marks {
            let shown = self.x(mark.at_ms);
            let x = shown.unwrap_or(PLOT_X + PLOT_WIDTH);
            let mut name = mark.kind.words().to_owned();
            if mark.kind == MarkKind::Deadline {
                let arrow = if shown.is_none() { " →" } else { "" };
                name = format!("{name} {}{arrow}", moment(mark.at_ms));
            }
            let class = match mark.kind {
                MarkKind::Deadline => "loss",
                MarkKind::Sigkill | MarkKind::HostEnd => "bad",
                MarkKind::Deregistered | MarkKind::LookedAway => "s",
                MarkKind::Notice(_) | MarkKind::Sigterm => "h",
            };
            let character = if class == "h" { CAPITAL } else { CHARACTER };
            let length = width_of(&name, character) + 8.0;
            let left = x + 4.0 + length > WIDTH - 4.0;
            let (from, to) = if left { (x - length, x) } else { (x, x + length) };
            let line = taken.iter().position(|end| *end <= from).unwrap_or(taken.len());
            if line == taken.len() {
                taken.push(to);
            } else {
                taken[line] = to;
            }
            let y = self.y + LINE * as_f64(i64::try_from(line).unwrap_or(0));
            let anchor = if left { " n" } else { "" };
            let _ = writeln!(
                names,
                "<text class=\"{class}{anchor}\" x=\"{}\" y=\"{}\">{}</text>",
                short(if left { x - 3.0 } else { x + 1.0 }),
                short(y),
                escaped(&name)
            );
        }
        let lines = i64::try_from(taken.len().saturating_sub(1)).unwrap_or(0);
        self.y += LINE * as_f64(lines);
        names
    }

    fn row(&mut self, row: &Row) {
        self.y += ROW;
        let label = super::terminal::shortened(&row.label, LABEL, '…');
        self.label(&label);
        for bar in &row.bars {
            let class = match bar.kind {
                BarKind::Settle => "settle",
                BarKind::Step => "step",
                BarKind::Failed => "failed",
                BarKind::Aws => "aws",
                BarKind::Wait => "wait",
                BarKind::App => "app",
            };
            let (from, to) = (self.at(bar.from_ms), self.at(bar.to_ms));
            let width = (to - from).max(2.5);
            let _ = writeln!(
                self.body,
                "<rect class=\"{class}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{BAR}\" rx=\"2\"/>",
                short(from),
                short(self.y - BAR + 2.0),
                short(width)
            );
            for tick in &bar.ticks {
                let x = self.at(*tick);
                let _ = writeln!(
                    self.body,
                    "<line class=\"r\" x1=\"{x}\" x2=\"{x}\" y1=\"{}\" y2=\"{}\"/>",
                    short(self.y - BAR + 2.0),
                    short(self.y + 2.0),
                    x = short(x)
                );
            }
            if row.bars.len() == 1 {
                self.beside(from, from + width, &words::span(row.lasts_ms()));
            }
        }
    }

    fn traffic(&mut self, traffic: &Traffic) {
        let top = traffic.in_flight.iter().map(|(_, n)| *n).max().unwrap_or(0);
        if top > 0 {
            self.y += AREA + 4.0;
            self.label(&format!("{} {}", traffic.unit, traffic.place));
            let mut path = String::new();
            let floor = self.y + 2.0;
            let mut last = None;
            for (at, n) in &traffic.in_flight {
                let y = floor - AREA * f64::from(*n) / f64::from(top);
                let x = self.at(*at);
                let verb = if last.is_none() {
                    format!("M{} {}", short(x), short(floor))
                } else {
                    format!("H{}", short(x))
                };
                // A step needs no word where nothing changes.
                if last != Some(*n) {
                    let _ = write!(path, "{verb}V{}", short(y));
                }
                last = Some(*n);
            }
            let end = traffic.in_flight.last().map_or(0, |(at, _)| *at);
            let _ = writeln!(
                self.body,
                "<path class=\"area\" d=\"{path}H{}V{}Z\"/>",
                short(self.at(end)),
                short(floor)
            );
        }
        let Some(lost_ms) = &traffic.lost_ms else { return };
        self.y += ROW;
        self.label(&format!("{} lost", traffic.unit));
        let mut places: Vec<(i64, usize)> = Vec::new();
        for at in lost_ms {
            // Those that fall onto one another are one cross, so that the file stays small.
            let place = rounded(self.at(*at) / 3.0);
            match places.iter_mut().find(|(known, _)| *known == place) {
                Some((_, n)) => *n += 1,
                None => places.push((place, 1)),
            }
        }
        let mut path = String::new();
        for (place, _) in &places {
            let (x, y) = (as_f64(*place) * 3.0, self.y - 4.0);
            let _ = write!(path, "M{} {}l6 6m0 -6l-6 6", short(x - 3.0), short(y - 3.0));
        }
        if path.is_empty() {
            let y = self.y;
            self.text_at(PLOT_X, y, "good", "0");
        } else {
            let _ = writeln!(self.body, "<path class=\"x\" d=\"{path}\"/>");
            let last = lost_ms.iter().copied().max().unwrap_or(0);
            let x = self.at(last);
            self.beside(x, x + 4.0, &lost_ms.len().to_string());
        }
    }

    fn scale(&mut self, top: f64) {
        self.y += 10.0;
        let _ = writeln!(
            self.body,
            "<line class=\"l\" x1=\"{PLOT_X}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\"/>",
            short(PLOT_X + PLOT_WIDTH),
            y = short(self.y)
        );
        let floor = self.y;
        self.y += LINE - 3.0;
        let ticks = self.axis.ticks(TICKS);
        for &tick in &ticks {
            let x = self.at(tick);
            let _ = writeln!(
                self.body,
                "<line class=\"l\" x1=\"{x}\" x2=\"{x}\" y1=\"{}\" y2=\"{}\"/>",
                short(top),
                short(floor),
                x = short(x)
            );
            let text = Axis::name(&ticks, tick);
            let y = self.y;
            self.text_at(x, y, "s m", &text);
        }
        self.y += 3.0;
    }

    fn label(&mut self, text: &str) {
        let y = self.y;
        self.text_at(PLOT_X - 10.0, y, "n", text);
    }

    /// A figure right of a bar, left of it where there is no room, or else on it.
    fn beside(&mut self, from: f64, to: f64, text: &str) {
        let needs = 5.0 + width_of(text, FIGURE);
        let (x, class) = if to + needs <= WIDTH {
            (to + 5.0, "s")
        } else if from - needs >= PLOT_X {
            (from - 5.0, "s n")
        } else {
            (to - 5.0, "n")
        };
        let y = self.y;
        self.text_at(x, y, class, text);
    }

    fn text(&mut self, x: f64, class: &str, text: &str) {
        let y = self.y;
        self.text_at(x, y, class, text);
    }

    fn text_at(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let _ = writeln!(
            self.body,
            "<text class=\"{class}\" x=\"{}\" y=\"{}\">{}</text>",
            short(x),
            short(y),
            escaped(text)
        );
    }

    /// `None` for what is off the axis.
    fn x(&self, at_ms: i64) -> Option<f64> {
        self.axis.shows(at_ms).then(|| self.at(at_ms))
    }

    fn at(&self, at_ms: i64) -> f64 {
        PLOT_X + PLOT_WIDTH * self.axis.share(at_ms)
    }
}

fn width_of(text: &str, character: f64) -> f64 {
    character * as_f64(i64::try_from(text.chars().count()).unwrap_or(0))
}

#[allow(clippy::cast_possible_truncation, reason = "a place on the paper")]
fn rounded(x: f64) -> i64 {
    x.round() as i64
}

/// One digit behind the point: finer is not seen.
pub(super) fn short(x: f64) -> String {
    let text = format!("{x:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// Text as XML takes it: no markup, and none of the characters that XML does not have.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\t' | '\n' | '\r' => safe.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}
