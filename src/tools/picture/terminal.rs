//! A picture in the terminal: each row begins with its name and its figure as text, so that it can be
//! read aloud from top to bottom; the bars come after.

use super::axis::Axis;
use super::{BarKind, Chart, MarkKind, Panel, Row, Tone, Traffic, Verdict, words};
use crate::tools::colour::ColourChoice;

/// Narrower than this nobody's terminal is.
pub const LEAST_WIDTH: usize = 80;

/// Wider than this the eye loses the row.
const MOST_WIDTH: usize = 200;

/// Columns of a row's name and of its figure.
const LABEL: usize = 22;
const FIGURE: usize = 7;

/// Where the plot begins: indent, name, figure, two blanks.
const PLOT_AT: usize = 2 + LABEL + 1 + FIGURE + 2;

/// Columns between two ticks of the axis.
const TICK_EVERY: usize = 9;

/// Lines for the names of the marks; what finds no room there is told in the rows.
const MARK_LINES: usize = 3;

/// What a terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paper {
    /// Columns.
    pub width: usize,
    pub colour: bool,
    /// Whether it has more than ASCII.
    pub unicode: bool,
}

impl Paper {
    /// What standard output is.
    pub fn of_stdout(choice: ColourChoice) -> Paper {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let dumb = variable("TERM").as_deref() == Some("dumb");
        let locale = variable("LC_ALL").or(variable("LC_CTYPE")).or(variable("LANG"));
        let utf8 = locale.is_some_and(|name| {
            let name = name.to_ascii_lowercase();
            name.contains("utf-8") || name.contains("utf8")
        });
        let asked = variable("COLUMNS").and_then(|columns| columns.parse().ok());
        let width = asked.or_else(|| {
            let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
            size.map(|size| usize::from(size.ws_col))
                .filter(|columns| *columns > 0)
        });
        Paper {
            width: width.unwrap_or(LEAST_WIDTH).clamp(LEAST_WIDTH, MOST_WIDTH),
            colour: choice.on_stdout(),
            unicode: utf8 && !dumb,
        }
    }

    /// The text in a colour, where there may be any.
    pub fn paint(&self, ink: Ink, text: &str) -> String {
        match ink.code() {
            Some(code) if self.colour && !text.is_empty() => format!("\x1b[{code}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }
}

/// Colours by what they mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// The terminal's own.
    Plain,
    Strong,
    /// What stands behind.
    Dim,
    /// As wanted.
    Good,
    /// A loss that was to be shown.
    Loss,
    /// Broken, lost.
    Bad,
    /// Serving on.
    Settle,
    Step,
    Aws,
    /// The app on its own.
    App,
}

impl Ink {
    fn code(self) -> Option<&'static str> {
        match self {
            Ink::Plain => None,
            Ink::Strong => Some("1"),
            Ink::Dim => Some("2"),
            Ink::Good | Ink::App => Some("32"),
            Ink::Loss => Some("33"),
            Ink::Bad => Some("31"),
            Ink::Settle => Some("34"),
            Ink::Step => Some("36"),
            Ink::Aws => Some("35"),
        }
    }
}

impl From<Tone> for Ink {
    fn from(tone: Tone) -> Ink {
        match tone {
            Tone::Good => Ink::Good,
            Tone::Plain => Ink::Plain,
            Tone::Loss => Ink::Loss,
            Tone::Bad => Ink::Bad,
        }
    }
}

pub fn draw(picture: &Chart, paper: &Paper) -> Vec<String> {
    let mut lines = Vec::new();
    if !picture.title.is_empty() {
        for line in balanced(&picture.title, paper.width) {
            lines.push(paper.paint(Ink::Strong, &line));
        }
    }
    for about in &picture.about {
        for line in balanced(about, paper.width - 2) {
            lines.push(format!("  {}", paper.paint(Ink::Dim, &line)));
        }
    }
    let axis = Axis::of(picture);
    let plot = Plot {
        axis,
        width: paper.width - PLOT_AT,
        paper,
    };
    for panel in &picture.panels {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        plot.panel(panel, &mut lines);
    }
    lines
}

/// The verdict of a run as lines that hang below their first.
pub fn verdict(verdict: &Verdict, paper: &Paper) -> Vec<String> {
    let lines = balanced(&verdict.words, paper.width - 2);
    lines
        .iter()
        .map(|line| format!("  {}", paper.paint(verdict.tone.into(), line)))
        .collect()
}

struct Plot<'a> {
    axis: Axis,
    width: usize,
    paper: &'a Paper,
}

#[derive(Clone, Copy)]
struct Cell {
    sign: char,
    ink: Ink,
}

const EMPTY: Cell = Cell {
    sign: ' ',
    ink: Ink::Plain,
};

impl Plot<'_> {
    fn panel(&self, panel: &Panel, lines: &mut Vec<String>) {
        lines.push(self.paper.paint(Ink::Strong, &panel.heading));
        self.marks(panel, lines);
        for row in &panel.rows {
            lines.push(self.row(panel, row));
        }
        if let Some(traffic) = &panel.traffic {
            self.traffic(panel, traffic, lines);
        }
        self.scale(lines);
        if let Some(judged) = &panel.verdict {
            lines.extend(verdict(judged, self.paper));
        }
    }

    /// The names of the marks, each beside its place.
    fn marks(&self, panel: &Panel, lines: &mut Vec<String>) {
        let mut rows: Vec<Vec<Cell>> = Vec::new();
        let mut marks: Vec<_> = panel.marks.iter().collect();
        marks.sort_by_key(|mark| mark.at_ms);
        for mark in marks {
            let (pointer, column) = if self.axis.shows(mark.at_ms) {
                (self.sign('▼', 'v'), self.column(mark.at_ms))
            } else {
                (self.sign('▶', '>'), self.width - 1)
            };
            let mut name = mark.kind.words().to_owned();
            if matches!(mark.kind, MarkKind::Deadline) {
                let ms = u64::try_from(mark.at_ms).unwrap_or_default();
                name = format!("{name} {}", words::span(ms));
            }
            let length = name.chars().count();
            let behind = column + 2 + length <= self.width;
            let start = if behind {
                column
            } else {
                column.saturating_sub(length + 1)
            };
            let text: Vec<char> = if behind {
                format!("{pointer} {name}").chars().collect()
            } else {
                format!("{name} {pointer}").chars().collect()
            };
            let end = (start + text.len() + 1).min(self.width);
            let room = rows.iter().position(|row| {
                row[start.saturating_sub(1)..end]
                    .iter()
                    .all(|cell| cell.sign == ' ')
            });
            let line = match room {
                Some(line) => line,
                None if rows.len() < MARK_LINES => {
                    rows.push(vec![EMPTY; self.width]);
                    rows.len() - 1
                }
                None => continue,
            };
            let ink = mark_ink(mark.kind);
            for (cell, sign) in rows[line][start..].iter_mut().zip(text) {
                *cell = Cell { sign, ink };
            }
        }
        for row in rows {
            lines.push(self.line("", "", &row));
        }
    }

    fn row(&self, panel: &Panel, row: &Row) -> String {
        let mut cells = self.guides(panel);
        for bar in &row.bars {
            let (sign, ink) = match bar.kind {
                BarKind::Settle => (self.sign('░', '.'), Ink::Settle),
                BarKind::Step => (self.sign('█', '#'), Ink::Step),
                BarKind::Failed => (self.sign('█', '!'), Ink::Bad),
                BarKind::Aws => (self.sign('▓', '+'), Ink::Aws),
                BarKind::Wait => (self.sign('─', '-'), Ink::Dim),
                BarKind::App => (self.sign('▒', '='), Ink::App),
            };
            let (from, to) = (self.column(bar.from_ms), self.column(bar.to_ms));
            for cell in &mut cells[from..=to.max(from + 1) - 1] {
                *cell = Cell { sign, ink };
            }
            for tick in &bar.ticks {
                let sign = self.sign('↻', '/');
                cells[self.column(*tick)] = Cell { sign, ink };
            }
        }
        self.line(&row.label, &words::span(row.lasts_ms()), &cells)
    }

    fn traffic(&self, panel: &Panel, traffic: &Traffic, lines: &mut Vec<String>) {
        const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let mut most = vec![0_u32; self.width];
        for (place, (at, n)) in traffic.in_flight.iter().enumerate() {
            // It holds until the next change.
            let until = traffic.in_flight.get(place + 1).map_or(*at, |(until, _)| *until);
            if until < self.axis.from_ms {
                continue;
            }
            let (from, to) = (self.column(*at), self.column(until));
            for column in &mut most[from..=to.max(from + 1) - 1] {
                *column = (*column).max(*n);
            }
        }
        let top = most.iter().copied().max().unwrap_or(0);
        if top > 0 {
            let mut cells = self.guides(panel);
            for (cell, n) in cells.iter_mut().zip(&most).filter(|(_, n)| **n > 0) {
                let level = (*n as usize * LEVELS.len())
                    .div_ceil(top as usize)
                    .clamp(1, LEVELS.len());
                let digit = char::from_digit((*n).min(9), 10).unwrap_or('9');
                *cell = Cell {
                    sign: self.sign(LEVELS[level - 1], digit),
                    ink: Ink::Dim,
                };
            }
            lines.push(self.line(
                &format!("{} {}", traffic.unit, traffic.place),
                &format!("max {top}"),
                &cells,
            ));
        }
        let Some(lost_ms) = &traffic.lost_ms else { return };
        let mut cells = self.guides(panel);
        for at in lost_ms {
            cells[self.column(*at)] = Cell {
                sign: self.sign('×', 'x'),
                ink: Ink::Bad,
            };
        }
        let lost = lost_ms.len();
        lines.push(self.line(&format!("{} lost", traffic.unit), &lost.to_string(), &cells));
    }

    /// The axis itself.
    fn scale(&self, lines: &mut Vec<String>) {
        let mut rule = vec![
            Cell {
                sign: self.sign('─', '-'),
                ink: Ink::Dim
            };
            self.width
        ];
        let mut figures = vec![EMPTY; self.width];
        let ticks = self.axis.ticks((self.width / TICK_EVERY).max(2));
        for &tick in &ticks {
            let column = self.column(tick);
            rule[column].sign = self.sign('┴', '+');
            let text = Axis::name(&ticks, tick);
            if column + text.chars().count() <= self.width {
                for (cell, sign) in figures[column..].iter_mut().zip(text.chars()) {
                    *cell = Cell { sign, ink: Ink::Dim };
                }
            }
        }
        lines.push(self.line("", "", &rule));
        lines.push(self.line("", "", &figures));
    }

    /// An empty row with the marks' lines in it.
    fn guides(&self, panel: &Panel) -> Vec<Cell> {
        let mut cells = vec![EMPTY; self.width];
        for mark in panel.marks.iter().filter(|mark| self.axis.shows(mark.at_ms)) {
            cells[self.column(mark.at_ms)] = Cell {
                sign: self.sign('┊', ':'),
                ink: mark_ink(mark.kind),
            };
        }
        cells
    }

    fn line(&self, label: &str, figure: &str, cells: &[Cell]) -> String {
        let label = shortened(label, LABEL, self.sign('…', '~'));
        let mut line = format!("  {label:<LABEL$} {figure:>FIGURE$}  ");
        let mut run = String::new();
        let mut ink = Ink::Plain;
        for cell in cells {
            if cell.ink != ink {
                line.push_str(&self.paper.paint(ink, &run));
                run.clear();
                ink = cell.ink;
            }
            run.push(cell.sign);
        }
        let run = run.trim_end();
        line.push_str(&self.paper.paint(ink, run));
        line.trim_end().to_owned()
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of the width, which is small and not negative"
    )]
    fn column(&self, at_ms: i64) -> usize {
        let last = self.width - 1;
        let exact = self.axis.share(at_ms) * super::axis::as_f64(i64::try_from(last).unwrap_or(0));
        (exact.round() as usize).min(last)
    }

    fn sign(&self, unicode: char, ascii: char) -> char {
        if self.paper.unicode { unicode } else { ascii }
    }
}

fn mark_ink(kind: MarkKind) -> Ink {
    match kind {
        MarkKind::Deadline => Ink::Loss,
        MarkKind::Sigkill | MarkKind::HostEnd => Ink::Bad,
        MarkKind::Deregistered | MarkKind::LookedAway => Ink::Dim,
        MarkKind::Notice(_) | MarkKind::Sigterm => Ink::Plain,
    }
}

/// No longer than so many characters.
pub fn shortened(text: &str, most: usize, ellipsis: char) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most.saturating_sub(1)).collect();
    short.push(ellipsis);
    short
}

/// As [`wrapped`], in as many lines, but the last is no forlorn word where the others can spare some.
pub fn balanced(text: &str, width: usize) -> Vec<String> {
    let lines = wrapped(text, width);
    let enough = |lines: &[String]| lines.last().is_none_or(|last| last.chars().count() >= width / 3);
    (1..=width)
        .rev()
        .map(|narrow| wrapped(text, narrow))
        .take_while(|narrow| narrow.len() == lines.len())
        .find(|narrow| enough(narrow))
        .unwrap_or(lines)
}

/// Lines of at most `width` columns; a longer word has a line of its own.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let unit = word.trim_end_matches(['.', ',', ';', ':', ')']);
        match words.last_mut() {
            // A figure and its unit stay together.
            Some(figure) if matches!(unit, "s" | "ms" | "%") => *figure = format!("{figure} {word}"),
            _ => words.push(word.to_owned()),
        }
    }
    let mut lines = vec![String::new()];
    for word in &words {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.clone()),
        }
    }
    lines
}
