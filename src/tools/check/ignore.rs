//! `# ecs-prestop: ignore PS012, PS013`, in formats that have comments: on the line of the finding, or
//! alone on the line above it.

const MARK: &str = "ecs-prestop: ignore ";

/// The lines on which rules are silent.
pub(super) struct Comments<'a> {
    lines: Vec<(usize, &'a str)>,
}

impl<'a> Comments<'a> {
    pub(super) fn of(text: &'a str) -> Comments<'a> {
        if !text.contains(MARK) {
            return Comments { lines: Vec::new() };
        }
        let mut lines = Vec::new();
        for (line, number) in text.lines().zip(1..) {
            let Some((before, rules)) = line.split_once(MARK) else {
                continue;
            };
            if let Some(before) = before.trim_end().strip_suffix('#') {
                let alone = before.trim().is_empty();
                lines.push((if alone { number + 1 } else { number }, rules));
            }
        }
        Comments { lines }
    }

    pub(super) fn silence(&self, rule: &str, line: usize) -> bool {
        self.lines.iter().any(|(at, rules)| {
            *at == line
                && rules
                    .split(|c: char| c == ',' || c.is_whitespace())
                    .any(|word| word.eq_ignore_ascii_case(rule))
        })
    }
}
