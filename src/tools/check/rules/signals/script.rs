//! What becomes of the shell of `sh -c SCRIPT` once it runs the script's last command: whether it makes
//! room for that command (`exec`), or stays as PID 1 and keeps its signals.
//!
//! Tried with bash 5.2, dash 0.5.12 and the ash of BusyBox 1.35 (`tests/promises/shells.rs` tries it
//! again): bash and ash make room for the last simple command of a list, dash for none without `exec`. In bash
//! `a; b && c` on one line is a list within a list, for which it stays. A script is read only as far as that
//! takes: its commands, and what stands between them.

/// A shell, as far as it differs in this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// `sh` of Fedora, Amazon Linux and Red Hat, and `bash` everywhere; 5.1 and later.
    Bash,
    /// `sh` of Debian and Ubuntu.
    Dash,
    /// `sh` of Alpine: BusyBox.
    Ash,
}

impl Shell {
    pub const ALL: [Shell; 3] = [Shell::Bash, Shell::Dash, Shell::Ash];
}

/// What a shell does with the last command of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate<'a> {
    /// The words of the command that takes its place.
    MakesRoom(Vec<&'a str>),
    StaysForCommand,
    /// It stays in a loop, or waits for what it has put into the background.
    StaysInLoop,
    /// Nothing to say: it ends by itself, has a trap, or cannot be read.
    Unclear,
}

/// What becomes of a shell that runs this script.
pub fn fate<'a>(shell: Shell, script: &'a str) -> Fate<'a> {
    let script = Script::read(script);
    if script.traps {
        return Fate::Unclear;
    }
    // Mostly at the end; one in a branch before it is for a special case.
    if let Some(words) = script.simple.iter().rfind(|words| words[0] == "exec") {
        let rest = words.get(1..).unwrap_or_default();
        return match rest {
            // It only redirects the shell itself.
            [] => Fate::Unclear,
            rest => Fate::MakesRoom(rest.to_vec()),
        };
    }
    let Some(last) = script.elements.last() else {
        return Fate::Unclear;
    };
    let Some(first) = last.words.first().copied() else {
        return Fate::Unclear;
    };
    match last.kind {
        ElementKind::Loop => return Fate::StaysInLoop,
        _ if first == "wait" => return Fate::StaysInLoop,
        // Nothing behind it that runs for long.
        _ if ENDING.contains(&first) => return Fate::Unclear,
        // What that is, the file does not say: it may be `exec`.
        _ if first.starts_with(['$', '`']) || first.starts_with("\"$") => return Fate::Unclear,
        _ => {}
    }
    let is_function = script.functions.contains(&first) || first == "eval";
    let stays = last.piped || last.negated || last.in_background || last.fed || is_function;
    let makes_room = match shell {
        Shell::Dash => false,
        Shell::Bash => {
            last.kind == ElementKind::Simple
                && !last.redirected
                && !last.behind_background
                && !last.in_a_mixed_list
                && !stays
        }
        Shell::Ash => !script.ends_with_newline && !stays,
    };
    if makes_room {
        Fate::MakesRoom(last.words.clone())
    } else {
        Fate::StaysForCommand
    }
}

/// Where the last command of a script starts, if `exec` can stand before it.
pub fn last_command(text: &str) -> Option<usize> {
    let script = Script::read(text);
    let last = script.elements.last()?;
    let first = *last.words.first()?;
    let can = last.kind == ElementKind::Simple
        && !last.piped
        && !last.negated
        && !last.in_background
        && !script.traps
        && !script.functions.contains(&first)
        && !ENDING.contains(&first)
        && !["exec", "eval", "wait", "while"].contains(&first);
    // The words are parts of the text.
    can.then(|| first.as_ptr() as usize - text.as_ptr() as usize)
}

/// Last commands behind which no app runs.
const ENDING: [&str; 8] = ["exit", "true", ":", "echo", "false", "return", "cd", "export"];

/// Words that open something which a later word closes.
const OPENING: [(&str, &str); 7] = [
    ("if", "fi"),
    ("case", "esac"),
    ("for", "done"),
    ("while", "done"),
    ("until", "done"),
    ("{", "}"),
    ("(", ")"),
];

/// Words that stand before a command and are none.
const LEADING: [&str; 8] = ["then", "else", "elif", "do", "if", "while", "until", "{"];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ElementKind {
    #[default]
    Simple,
    Loop,
    Compound,
}

/// A command at the top of a script.
#[derive(Clone, Debug, Default)]
struct Element<'a> {
    kind: ElementKind,
    /// Those of the command, or of the last one inside of it.
    words: Vec<&'a str>,
    redirected: bool,
    /// By a here-document.
    fed: bool,
    piped: bool,
    negated: bool,
    in_background: bool,
    /// Behind a command that was put into the background.
    behind_background: bool,
    /// `a; b && c` on one line, which bash takes for a list within a list.
    in_a_mixed_list: bool,
}

#[derive(Debug, Default)]
struct Script<'a> {
    elements: Vec<Element<'a>>,
    /// Each command anywhere.
    simple: Vec<Vec<&'a str>>,
    functions: Vec<&'a str>,
    traps: bool,
    ends_with_newline: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ScriptToken<'a> {
    Word(&'a str),
    /// `;`, `&`, `&&`, `||`, `|`, `(`, `)`, `;;` or a line's end.
    Between(&'a str),
    /// A redirection, whose target is the next word; `true` for a here-document.
    Redirection(bool),
}

impl<'a> Script<'a> {
    fn read(text: &'a str) -> Script<'a> {
        let mut script = Script {
            ends_with_newline: text.ends_with('\n'),
            ..Script::default()
        };
        let mut open: Vec<&str> = Vec::new();
        let mut element = Element::default();
        let mut words: Vec<&'a str> = Vec::new();
        let mut tokens = ScriptTokens::of(text).peekable();
        let mut before = "\n";
        let mut semicolon_on_line = false;
        while let Some(token) = tokens.next() {
            match token {
                ScriptToken::Redirection(fed) => {
                    tokens.next_if(|next| matches!(next, ScriptToken::Word(_)));
                    // What is inside of something open is not redirected itself.
                    element.redirected |= open.is_empty();
                    element.fed |= fed && open.is_empty();
                }
                ScriptToken::Word(word) if words.is_empty() => {
                    let closes = open.last().is_some_and(|closing| *closing == word);
                    if closes {
                        open.pop();
                    } else if let Some((_, closing)) = OPENING.iter().find(|(opening, _)| *opening == word) {
                        if open.is_empty() {
                            element.kind = if *closing == "done" {
                                ElementKind::Loop
                            } else {
                                ElementKind::Compound
                            };
                        }
                        open.push(closing);
                        if matches!(word, "case" | "for") {
                            // Up to `in` or `do` these are no command.
                            words.push("#");
                        }
                    } else if word == "!" || word == "time" {
                        element.negated = true;
                    } else if !LEADING.contains(&word) && !is_assignment(word) {
                        words.push(word);
                    }
                }
                ScriptToken::Word("in") if words[0] == "#" => words.clear(),
                ScriptToken::Word(word) => words.push(word),
                ScriptToken::Between("(") if words.len() == 1 && words[0] != "#" => {
                    // `name() { …; }`
                    script.functions.push(words[0]);
                    words.clear();
                    tokens.next_if(|next| *next == ScriptToken::Between(")"));
                }
                ScriptToken::Between("(") => {
                    if open.is_empty() {
                        element.kind = ElementKind::Compound;
                    }
                    open.push(")");
                }
                ScriptToken::Between(between) => {
                    if !words.is_empty() && words[0] != "#" {
                        script.traps |= words[0] == "trap";
                        element.words = std::mem::take(&mut words);
                        script.simple.push(element.words.clone());
                    }
                    // A pattern of `case` ends with a bracket that nothing has opened.
                    words.clear();
                    if between == ")" && open.last() == Some(&")") {
                        open.pop();
                        continue;
                    }
                    if !open.is_empty() {
                        continue;
                    }
                    if element.words.is_empty() && element.kind == ElementKind::Simple {
                        // Behind `&&` a line goes on in the next.
                        semicolon_on_line &= between != "\n" || matches!(before, "&&" | "||");
                        continue;
                    }
                    if between == "|" {
                        element.piped = true;
                        continue;
                    }
                    element.in_background = between == "&";
                    element.behind_background = before == "&";
                    element.in_a_mixed_list = semicolon_on_line && matches!(before, "&&" | "||");
                    semicolon_on_line =
                        between != "\n" && (semicolon_on_line || matches!(between, ";" | "&"));
                    before = between;
                    script.elements.push(std::mem::take(&mut element));
                }
            }
        }
        script
    }
}

/// Cuts a text where a shell does. A line's end is added at the end.
struct ScriptTokens<'a> {
    text: &'a str,
    at: usize,
    /// The delimiters of here-documents that start at the next line.
    documents: Vec<&'a str>,
    awaits_delimiter: bool,
    ended: bool,
}

impl<'a> ScriptTokens<'a> {
    fn of(text: &'a str) -> ScriptTokens<'a> {
        ScriptTokens {
            text,
            at: 0,
            documents: Vec::new(),
            awaits_delimiter: false,
            ended: false,
        }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Steps over the lines of the here-documents that were announced.
    fn skip_documents(&mut self) {
        for delimiter in std::mem::take(&mut self.documents) {
            let delimiter = delimiter.trim_matches(['"', '\'', '\\']);
            loop {
                let rest = self.rest();
                let line = rest.split('\n').next().unwrap_or(rest);
                self.at += (line.len() + 1).min(rest.len());
                if line.trim_start_matches('\t') == delimiter || self.rest().is_empty() {
                    break;
                }
            }
        }
    }
}

impl<'a> Iterator for ScriptTokens<'a> {
    type Item = ScriptToken<'a>;

    fn next(&mut self) -> Option<ScriptToken<'a>> {
        loop {
            let rest = self.rest();
            let blanks = rest.len() - rest.trim_start_matches([' ', '\t', '\r']).len();
            self.at += blanks;
            let rest = self.rest();
            if rest.starts_with("\\\n") {
                self.at += 2;
            } else if rest.starts_with('#') {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else {
                break;
            }
        }
        let rest = self.rest();
        if rest.is_empty() {
            return (!std::mem::replace(&mut self.ended, true)).then_some(ScriptToken::Between("\n"));
        }
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        for sign in [
            "&>>", "&>", "<<<", "<<-", "<<", ">>", ">&", "<&", ">|", "<>", ">", "<",
        ] {
            if rest[digits..].starts_with(sign) && (digits == 0 || !sign.starts_with('&')) {
                self.at += digits + sign.len();
                let fed = matches!(sign, "<<" | "<<-");
                self.awaits_delimiter = fed;
                return Some(ScriptToken::Redirection(fed));
            }
        }
        for sign in [";;", "&&", "||", "|&", ";", "&", "|", "(", ")", "\n"] {
            if rest.starts_with(sign) {
                self.at += sign.len();
                if sign == "\n" {
                    self.skip_documents();
                }
                let between = if sign == "|&" { "|" } else { sign };
                return Some(ScriptToken::Between(between));
            }
        }
        let length = word_length(rest);
        self.at += length;
        let word = &rest[..length];
        if std::mem::take(&mut self.awaits_delimiter) {
            self.documents.push(word);
        }
        Some(ScriptToken::Word(word))
    }
}

/// The length of the word at the start of a text, with its quotes and substitutions.
fn word_length(text: &str) -> usize {
    let mut quote = None;
    let mut depth = 0_usize;
    let mut characters = text.char_indices().peekable();
    while let Some((at, c)) = characters.next() {
        match (quote, c) {
            (None | Some('"'), '\\') => {
                characters.next();
            }
            (None, '"' | '\'' | '`') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            (_, '$') if quote != Some('\'') => {
                let opens = characters.next_if(|(_, next)| matches!(next, '(' | '{'));
                depth += usize::from(opens.is_some());
            }
            (_, '(') if depth > 0 => depth += 1,
            (_, ')' | '}') if depth > 0 => depth -= 1,
            (None, ' ' | '\t' | '\r' | '\n' | ';' | '&' | '|' | '(' | ')' | '<' | '>') if depth == 0 => {
                return at;
            }
            _ => {}
        }
    }
    text.len()
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}
