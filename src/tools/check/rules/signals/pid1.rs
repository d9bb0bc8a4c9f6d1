//! What the first process of a container is, told from the words that start it.
//!
//! It reads scripts only as far as it must: which words are commands. What it does not understand, it
//! takes for harmless.

/// What gets SIGTERM when ECS stops a container.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum First<'a> {
    /// A shell that stays while the script's last command runs.
    Shell {
        /// Its name.
        shell: &'a str,
        /// The word that it runs.
        script: &'a str,
        /// How that ends.
        ends: Ends,
    },
    /// `npm`, `yarn` and the like, which start the app through a shell.
    Runner(&'a str),
    /// Anything else.
    Program(&'a str),
}

/// How a script ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// It is one command only: many shells then make room for it by themselves.
    AsOneCommand,
    /// With a command that `exec` could start.
    WithCommand,
    /// With a loop, which only a trap can end.
    WithLoop,
}

const SHELLS: [&str; 7] = ["sh", "bash", "ash", "dash", "zsh", "ksh", "busybox"];

/// They start what `package.json` names through `sh -c`.
const RUNNERS: [&str; 4] = ["npm", "npx", "yarn", "pnpm"];

/// Init processes that hand signals to the whole group, so that a shell before the app is no harm.
const GROUP_INITS: [&str; 2] = ["dumb-init", "s6-svscan"];

/// Init processes that hand signals to their child only.
const INITS: [&str; 3] = ["tini", "docker-init", "catatonit"];

/// Words that may stand before a command.
const LEADING: [&str; 9] = ["then", "else", "do", "{", "(", "!", "if", "elif", "while"];

/// The first process, from the words of entry point and command. `None` where there is nothing to say.
pub(super) fn first<'a>(words: &[&'a str]) -> Option<First<'a>> {
    let (program, rest) = words.split_first()?;
    let name = base_name(program);
    if name == "env" {
        let skip = rest
            .iter()
            .take_while(|word| word.contains('=') || word.starts_with('-'))
            .count();
        return first(&rest[skip..]);
    }
    if GROUP_INITS.contains(&name) {
        return None;
    }
    if INITS.contains(&name) {
        let options = rest.iter().take_while(|word| word.starts_with('-'));
        if options.clone().any(|word| *word == "-g") {
            return None;
        }
        return first(&rest[options.count()..]).filter(|first| !matches!(first, First::Program(_)));
    }
    if SHELLS.contains(&name) {
        let script = script(rest)?;
        return of_script(name, script);
    }
    if RUNNERS.contains(&name) {
        return Some(First::Runner(name));
    }
    Some(First::Program(name))
}

fn base_name(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

/// The word behind `-c`, `-ec`, `-lc` …
fn script<'a>(words: &[&'a str]) -> Option<&'a str> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.strip_prefix('-') {
            Some(options) if options.ends_with('c') && !options.starts_with('-') => {
                return words.next().copied();
            }
            Some("o") => {
                words.next();
            }
            Some(_) => {}
            // busybox sh -c, or a script file: what it does is not known.
            None if *word == "sh" => {}
            None => return None,
        }
    }
    None
}

fn of_script<'a>(shell: &'a str, script: &'a str) -> Option<First<'a>> {
    let commands = commands(script);
    let mut last = None;
    for command in &commands {
        let words: Vec<&str> = command
            .split_whitespace()
            .skip_while(|word| LEADING.contains(word) || is_assignment(word))
            .collect();
        match words.as_slice() {
            [] => {}
            // Whoever traps has thought of it.
            ["trap", ..] => return None,
            ["exec", rest @ ..] => {
                return first(&unquoted(rest)).filter(|first| !matches!(first, First::Shell { .. }));
            }
            ["fi" | "}" | ")" | "esac", ..] => {}
            words => last = words.first().copied(),
        }
    }
    let ends = match last? {
        // It ends by itself: there is no app behind it.
        "exit" | "true" => return None,
        "done" => Ends::WithLoop,
        // What that is, the file does not say: it may be `exec`.
        unknown if unknown.starts_with(['$', '<', '{']) => return None,
        _ if commands.len() == 1 => Ends::AsOneCommand,
        _ => Ends::WithCommand,
    };
    Some(First::Shell { shell, script, ends })
}

fn unquoted<'a>(words: &[&'a str]) -> Vec<&'a str> {
    words.iter().map(|word| word.trim_matches(['"', '\''])).collect()
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

/// The commands of a script, cut where a shell cuts them outside of quotes.
fn commands(script: &str) -> Vec<&str> {
    let mut commands = Vec::new();
    let mut quote = None;
    let mut escaped = false;
    let mut start = 0;
    for (at, c) in script.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (None | Some('"'), '\\') => escaped = true,
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            // `2>&1` and `&>` are no end of a command.
            (None, '&') if script[..at].ends_with('>') || script[at + 1..].starts_with('>') => {}
            (None, ';' | '&' | '|' | '\n') => {
                commands.push(&script[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    commands.push(&script[start..]);
    commands.retain(|command| !command.trim().is_empty() && !command.trim_start().starts_with('#'));
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_that_stays_is_told_from_one_that_makes_room() {
        let shell = |script, ends| {
            Some(First::Shell {
                shell: "sh",
                script,
                ends,
            })
        };
        for (script, ends) in [
            ("node server.js", Ends::AsOneCommand),
            ("node server.js 2>&1", Ends::AsOneCommand),
            ("/bin/sh -c \"echo hi && httpd-foreground\"", Ends::AsOneCommand),
            ("node server.js --port ${PORT}", Ends::AsOneCommand),
            ("cd /app && node server.js", Ends::WithCommand),
            ("cd /app\nnode server.js\n", Ends::WithCommand),
            ("echo 'a && exec b'; node x", Ends::WithCommand),
            ("while true; do beat; sleep 1; done", Ends::WithLoop),
        ] {
            assert_eq!(first(&["/bin/sh", "-c", script]), shell(script, ends), "{script}");
        }
        for (script, other) in [
            (
                "migrate; FLAG=1 exec node server.js",
                Some(First::Program("node")),
            ),
            ("exec npm start", Some(First::Runner("npm"))),
            (
                "if [ -n \"$A\" ]; then exec a; else exec b; fi",
                Some(First::Program("a")),
            ),
            ("trap 'kill $!' TERM; node x & wait", None),
            ("mc mb data; exit 0", None),
            ("migrate && ${?}", None),
        ] {
            assert_eq!(first(&["/bin/sh", "-c", script]), other, "{script}");
        }
    }

    #[test]
    fn what_stands_before_the_shell_is_looked_through() {
        let bash = |script| {
            Some(First::Shell {
                shell: "bash",
                script,
                ends: Ends::WithCommand,
            })
        };
        assert_eq!(first(&["tini", "--", "node", "x"]), None);
        assert_eq!(first(&["dumb-init", "sh", "-c", "a; b"]), None);
        assert_eq!(first(&["/sbin/tini", "--", "bash", "-c", "a; b"]), bash("a; b"));
        assert_eq!(
            first(&["/usr/bin/env", "A=b", "bash", "-ec", "a; b"]),
            bash("a; b")
        );
        assert_eq!(first(&["bash", "-o", "pipefail", "-c", "a | b"]), bash("a | b"));
        assert_eq!(first(&["bash", "start.sh"]), None);
        assert_eq!(first(&["/usr/bin/npm", "start"]), Some(First::Runner("npm")));
    }
}
