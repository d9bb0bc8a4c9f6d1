//! What the first process of a container is, told from the words that start it.
//!
//! What it does not understand, it takes for harmless.

use super::script::{Fate, Shell, fate};

/// What gets SIGTERM when ECS stops a container.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum First<'a> {
    /// A shell that stays while the script's last command runs.
    Shell {
        shell: &'a str,
        /// The word that it runs.
        script: &'a str,
        stays: Stays,
    },
    /// `npm`, `yarn` and the like, which start the app through a shell or as a child.
    Runner(&'a str),
    /// Anything else.
    Program(&'a str),
}

/// Why a shell stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stays {
    /// Some shells make room for this script's last command, and which one this is the file does not say.
    Perhaps,
    /// For a command that `exec` could start.
    ForCommand,
    /// In a loop, or waiting for others, which only a trap can end.
    InLoop,
}

const SHELLS: [&str; 7] = ["sh", "bash", "ash", "dash", "zsh", "ksh", "busybox"];

/// They start the app through `sh -c`, or as a child that they may not hand signals to.
const RUNNERS: [&str; 9] = [
    "gradle", "gradlew", "mvn", "mvnw", "nodemon", "npm", "npx", "pnpm", "yarn",
];

/// Init processes that hand signals to the whole group, so that a shell before the app is no harm.
const GROUP_INITS: [&str; 2] = ["dumb-init", "s6-svscan"];

/// Init processes that hand signals to their child only.
const INITS: [&str; 3] = ["tini", "docker-init", "catatonit"];

/// The first process, from the words of entry point and command; `sh` is what goes by that name in the
/// image. `None` where there is nothing to say.
pub(super) fn first<'a>(words: &[&'a str], sh: Option<Shell>) -> Option<First<'a>> {
    let (program, rest) = words.split_first()?;
    let name = base_name(program);
    if name == "env" {
        let skip = rest
            .iter()
            .take_while(|word| word.contains('=') || word.starts_with('-'))
            .count();
        return first(&rest[skip..], sh);
    }
    if GROUP_INITS.contains(&name) {
        return None;
    }
    // They take another user's rights and make room for what stands behind the name.
    if matches!(name, "gosu" | "su-exec") {
        return first(rest.get(1..).unwrap_or_default(), sh);
    }
    if INITS.contains(&name) {
        let options = rest.iter().take_while(|word| word.starts_with('-'));
        if options.clone().any(|word| *word == "-g") {
            return None;
        }
        return first(&rest[options.count()..], sh).filter(|first| !matches!(first, First::Program(_)));
    }
    if SHELLS.contains(&name) {
        let script = script(rest)?;
        let shell = match name {
            "bash" => Some(Shell::Bash),
            "dash" => Some(Shell::Dash),
            "ash" | "busybox" => Some(Shell::Ash),
            "sh" => sh,
            _ => None,
        };
        return of_script(name, script, shell, sh);
    }
    let runs_go = name == "go" && rest.first() == Some(&"run");
    // Alone they install what an app needs, or print their help.
    let starts_something = !rest.is_empty() || name == "nodemon";
    if (RUNNERS.contains(&name) && starts_something) || runs_go {
        return Some(First::Runner(name));
    }
    Some(First::Program(name))
}

/// The first process where one of the words is a script whose text is at hand. The kernel starts a shell for
/// it, and that one stays for every command without `exec`.
pub(super) fn first_behind_script<'a>(
    words: &[&'a str],
    name: &'a str,
    text: &'a str,
    sh: Option<Shell>,
) -> Option<First<'a>> {
    if words
        .first()
        .is_some_and(|word| GROUP_INITS.contains(&base_name(word)))
    {
        return None;
    }
    let at = words.iter().position(|word| *word == name)?;
    let rest = &words[at + 1..];
    let shell = |stays| {
        Some(First::Shell {
            shell: base_name(name),
            script: name,
            stays,
        })
    };
    match fate(Shell::Dash, text) {
        // `exec "$@"` is what stands behind the script.
        Fate::MakesRoom(words)
            if words
                .iter()
                .any(|word| word.contains("$@") || word.contains("$*")) =>
        {
            let before: Vec<&str> = words
                .into_iter()
                .take_while(|word| !word.contains(['@', '*']))
                .collect();
            first(
                &unquoted(&before)
                    .into_iter()
                    .chain(rest.iter().copied())
                    .collect::<Vec<_>>(),
                sh,
            )
        }
        Fate::MakesRoom(words) => first(&unquoted(&words), sh),
        Fate::StaysForCommand => shell(Stays::ForCommand),
        Fate::StaysInLoop => shell(Stays::InLoop),
        Fate::Unclear => None,
    }
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

/// What a script leaves as the first process; `shell` runs it, `sh` goes by that name.
fn of_script<'a>(
    name: &'a str,
    script: &'a str,
    shell: Option<Shell>,
    sh: Option<Shell>,
) -> Option<First<'a>> {
    let stays = |stays| {
        Some(First::Shell {
            shell: name,
            script,
            stays,
        })
    };
    let runs = |words: Vec<&'a str>| first(&unquoted(&words), sh);
    let one = |fate: Fate<'a>| match fate {
        Fate::MakesRoom(words) => runs(words),
        Fate::StaysForCommand => stays(Stays::ForCommand),
        Fate::StaysInLoop => stays(Stays::InLoop),
        Fate::Unclear => None,
    };
    if let Some(shell) = shell {
        return one(fate(shell, script));
    }
    let fates = Shell::ALL.map(|shell| fate(shell, script));
    let room = fates.iter().find(|fate| matches!(fate, Fate::MakesRoom(_)));
    match room {
        Some(room) if fates.iter().any(|fate| fate != room) => match one(room.clone()) {
            // Wrong whatever the shell is.
            Some(wrong @ (First::Runner(_) | First::Shell { .. })) => Some(wrong),
            _ => stays(Stays::Perhaps),
        },
        _ => fates.into_iter().next().and_then(one),
    }
}

fn unquoted<'a>(words: &[&'a str]) -> Vec<&'a str> {
    words.iter().map(|word| word.trim_matches(['"', '\''])).collect()
}

/// Words of a tag, or names of images, behind which `sh` is Debian's or Ubuntu's.
const DEBIAN: [&str; 13] = [
    "bionic", "bookworm", "bullseye", "buster", "debian", "focal", "jammy", "noble", "sid", "slim",
    "stretch", "trixie", "ubuntu",
];

/// Official images that are Debian or Ubuntu unless their tag says otherwise (Docker Official Images,
/// their Dockerfiles).
const DEBIAN_BY_DEFAULT: [&str; 24] = [
    "buildpack-deps",
    "eclipse-temurin",
    "elixir",
    "erlang",
    "golang",
    "gradle",
    "haproxy",
    "httpd",
    "mariadb",
    "maven",
    "memcached",
    "mongo",
    "nginx",
    "node",
    "perl",
    "php",
    "postgres",
    "python",
    "rabbitmq",
    "redis",
    "ruby",
    "rust",
    "tomcat",
    "wordpress",
];

/// Tags and names with a bash of 5.1 or later for `sh`.
const RED_HAT: [&str; 6] = [
    "al2023",
    "amazonlinux:2023",
    "fedora",
    "rockylinux:9",
    "almalinux:9",
    "ubi9",
];

/// What goes by the name of `sh` in an image, as far as its name tells.
pub(super) fn shell_of(image: &str) -> Option<Shell> {
    let image = image.split('@').next().unwrap_or(image);
    let (path, last) = image.rsplit_once('/').unwrap_or(("", image));
    let is_official = matches!(
        path,
        "" | "library" | "docker.io/library" | "public.ecr.aws/docker/library"
    );
    let (name, tag) = last.split_once(':').unwrap_or((last, ""));
    let mut words = last.split(['-', ':', '.', '_']);
    if last.contains("alpine") || matches!(name, "busybox" | "docker") && is_official {
        Some(Shell::Ash)
    } else if RED_HAT
        .iter()
        .any(|known| last.starts_with(known) || tag.contains(known))
    {
        Some(Shell::Bash)
    } else if words.any(|word| DEBIAN.contains(&word))
        || (is_official && DEBIAN_BY_DEFAULT.contains(&name) && !tag.contains("windows"))
    {
        Some(Shell::Dash)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_that_stays_is_told_from_one_that_makes_room() {
        let stays = |script, stays| {
            Some(First::Shell {
                shell: "sh",
                script,
                stays,
            })
        };
        let (dash, alpine) = (Some(Shell::Dash), Some(Shell::Ash));
        let list = "cd /app && node server.js --port ${PORT}";
        assert_eq!(
            first(&["/bin/sh", "-c", list], dash),
            stays(list, Stays::ForCommand)
        );
        assert_eq!(
            first(&["/bin/sh", "-c", list], alpine),
            Some(First::Program("node"))
        );
        assert_eq!(first(&["/bin/sh", "-c", list], None), stays(list, Stays::Perhaps));
        assert_eq!(
            first(&["/bin/bash", "-c", list], dash),
            Some(First::Program("node"))
        );
        for (script, why) in [
            ("node x | tee log", Stays::ForCommand),
            ("while true; do beat; sleep 1; done", Stays::InLoop),
            ("a & b & wait", Stays::InLoop),
        ] {
            for sh in [None, dash, alpine] {
                assert_eq!(first(&["sh", "-c", script], sh), stays(script, why), "{script}");
            }
        }
        for (script, other) in [
            (
                "migrate; FLAG=1 exec node server.js",
                Some(First::Program("node")),
            ),
            ("exec npm start", Some(First::Runner("npm"))),
            ("cd /app && npm start", Some(First::Runner("npm"))),
            (
                "if [ -n \"$A\" ]; then exec a; else exec b; fi",
                Some(First::Program("b")),
            ),
            ("trap 'kill $!' TERM; node x & wait", None),
            ("mc mb data; exit 0", None),
            ("migrate && ${?}", None),
            ("exec $0 $@", Some(First::Program("$0"))),
        ] {
            assert_eq!(first(&["/bin/sh", "-c", script], None), other, "{script}");
        }
        let nested = "/bin/sh -c \"echo hi && httpd-foreground\"";
        assert_eq!(
            first(&["bash", "-c", nested], dash),
            Some(First::Shell {
                shell: "sh",
                script: "echo hi && httpd-foreground",
                stays: Stays::ForCommand
            })
        );
    }

    #[test]
    fn what_stands_before_the_shell_is_looked_through() {
        let dash = |script| {
            Some(First::Shell {
                shell: "dash",
                script,
                stays: Stays::ForCommand,
            })
        };
        assert_eq!(first(&["tini", "--", "node", "x"], None), None);
        assert_eq!(first(&["dumb-init", "sh", "-c", "a; b"], None), None);
        assert_eq!(
            first(&["/sbin/tini", "--", "dash", "-c", "a; b"], None),
            dash("a; b")
        );
        assert_eq!(
            first(&["/usr/bin/env", "A=b", "dash", "-ec", "a; b"], None),
            dash("a; b")
        );
        assert_eq!(
            first(&["dash", "-o", "pipefail", "-c", "a | b"], None),
            dash("a | b")
        );
        assert_eq!(first(&["bash", "start.sh"], None), None);
        assert_eq!(
            first(&["/usr/bin/npm", "start"], None),
            Some(First::Runner("npm"))
        );
        assert_eq!(first(&["go", "run", "."], None), Some(First::Runner("go")));
        assert_eq!(first(&["go", "version"], None), Some(First::Program("go")));
    }

    #[test]
    fn the_shell_follows_from_the_image_where_its_name_tells() {
        for (image, shell) in [
            ("node:20-alpine", Some(Shell::Ash)),
            ("node:20", Some(Shell::Dash)),
            ("team/app:1.2-slim", Some(Shell::Dash)),
            (
                "public.ecr.aws/docker/library/python:3.12-slim-bookworm",
                Some(Shell::Dash),
            ),
            ("ubuntu:24.04", Some(Shell::Dash)),
            ("amazonlinux:2023", Some(Shell::Bash)),
            ("amazonlinux:2", None),
            ("team/node:20", None),
            ("111122223333.dkr.ecr.eu-west-1.amazonaws.com/python:1", None),
        ] {
            assert_eq!(shell_of(image), shell, "{image}");
        }
    }
}
