use std::collections::BTreeSet;

use crate::tools::check::rules::examples::{Example, PLAIN};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::document::{Node, Span};
use crate::tools::model::{ContainerDefinition, DocumentForm, TaskDefinition, Value};

use super::pid1::{First, Stays};
use super::script::last_command;

/// SIGTERM goes to the shell, and ends there.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS020",
    name: "a shell as PID 1 swallows SIGTERM",
    severity: Severity::Warning,
    persona: Persona::Regular,
    compose: true,
    why: "SIGTERM goes to the first process of the container only. A shell that waits for a command does not hand \
          it on, and as PID 1 it does not even end: the app goes on until SIGKILL. dash, the `sh` of Debian and Ubuntu, \
          stays for every command without `exec`; bash and BusyBox (Alpine) make room for the last command of a list \
          (`a && b`, `a; b`), but not behind a pipe, a here-document or a trap, nor bash for one with a redirection. npm, \
          yarn and pnpm start the app through a shell, `go run`, Maven and Gradle as a child; whether a signal passes \
          depends on their version. An init process does not mend it: then the shell ends, and the app is killed with it.",
    mend: "Start the app itself (`[\"node\", \"server.js\"]`), or begin the script's last command with `exec`: \
           `sh -c \"migrate && exec node server.js\"`. \
           A loop needs a `trap`.",
    source: "Tried with bash 5.2.15, dash 0.5.12 and BusyBox 1.35; pid_namespaces(7); Docker build checks, JSONArgsRecommended; AWS containers blog, Graceful shutdowns with \
             ECS; nodejs/docker-node, Best Practices, CMD; npm/cli #6547",
    example: Example {
        passing: PLAIN,
        breaking: (
            "[\"java\", \"-jar\", \"app.jar\"]",
            "[\"sh\", \"-c\", \"java -jar app.jar | tee log\"]",
        ),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    // Containers of one YAML anchor share their script.
    let mut seen = BTreeSet::new();
    for container in &task.containers {
        if task.ends_early(container) || container.is_one_off() {
            continue;
        }
        let Some((words, first)) = super::first_process(container) else {
            continue;
        };
        let name = &container.name.text;
        let by = super::by_whom(container);
        let of_image = if container.starts.is_some() {
            by.as_str()
        } else {
            ""
        };
        // Not as PID 1 it ends at SIGTERM, and its command is killed as the container goes.
        let under_init = container.init.known() == Some(&true);
        let (word, severity, message, label) = match first {
            First::Shell { shell, script, stays } if under_init && stays != Stays::Perhaps => (
                script,
                Severity::Warning,
                format!(
                    "`{shell}` runs `{name}` under an init process{by}, and ends at SIGTERM: its command is killed with it"
                ),
                "`exec` the last command, or a `trap`",
            ),
            First::Shell {
                shell,
                script,
                stays: Stays::Perhaps,
            } => (
                script,
                Severity::Note,
                format!(
                    "`{name}` starts its app through `{shell} -c`{of_image}: Debian's `sh` keeps SIGTERM from it, Alpine's does not"
                ),
                "`exec` the last command",
            ),
            First::Shell {
                shell,
                script,
                stays: Stays::ForCommand,
            } => (
                script,
                Severity::Warning,
                format!("`{shell}` is the first process of `{name}`{by}, and keeps SIGTERM from its app"),
                "`exec` the last command",
            ),
            First::Shell {
                shell,
                script,
                stays: Stays::InLoop,
            } => (
                script,
                Severity::Warning,
                format!("`{shell}` is the first process of `{name}`{by}, and goes on waiting after SIGTERM"),
                "`trap 'exit 0' TERM` first",
            ),
            First::Runner(runner) => (
                words.first().copied().unwrap_or(runner),
                Severity::Warning,
                format!("`{name}` starts its app through `{runner}`{of_image}: SIGTERM may not reach it"),
                "start the app itself",
            ),
            First::Program(_) => continue,
        };
        let node = place(container, word);
        if seen.insert(node.span) {
            let finding = findings.at(node, message);
            finding.severity(severity).label(label);
            if let Some(span) = before_last_command(word, node) {
                finding.fix_within(node, span, "exec ");
            }
            let on_a_laptop =
                is_for_development(&words) || mounts_its_source(container) || severity == Severity::Note;
            if task.form == DocumentForm::Compose && on_a_laptop {
                finding.persona(Persona::Pedantic);
            }
        }
    }
}

/// The node of a word of entry point or command; the whole where compose splits a text.
fn place<'a>(container: &ContainerDefinition<'a>, word: &str) -> &'a Node<'a> {
    for part in [&container.entry_point, &container.command] {
        if let Value::Known(words, node) = part
            && let Some(index) = words.iter().position(|own| std::ptr::eq(own.as_ref(), word))
        {
            return node.items().get(index).unwrap_or(node);
        }
    }
    let own = container.node.get("build").or(container.image.node());
    own.unwrap_or(container.name.node)
}

/// Where `exec ` has to be written into a script that stands in the file as it is.
fn before_last_command(script: &str, node: &Node<'_>) -> Option<Span> {
    let at = last_command(script)?;
    // Escapes and folded lines would shift the place.
    let inner = node.inner();
    let same = node.text() == Some(script) && inner.end - inner.start == script.len();
    same.then_some(Span {
        start: inner.start + at,
        end: inner.start + at,
    })
}

/// Whether a service of compose runs what stands in the folder that its image is built from, or in that of the file: as
/// one does while one writes it. A folder of data beside it says nothing.
fn mounts_its_source(container: &ContainerDefinition<'_>) -> bool {
    let build = container.node.get("build");
    let context = build.and_then(|build| build.text().or_else(|| build.get("context").and_then(Node::text)));
    let folder = |path: &str| match path.trim_start_matches("./").trim_end_matches('/') {
        "." => String::new(),
        below => below.to_owned(),
    };
    let own = context.map(folder).unwrap_or_default();
    let code = if own.is_empty() {
        "src".to_owned()
    } else {
        format!("{own}/src")
    };
    let volumes = container.node.get("volumes").map_or(&[][..], Node::items);
    volumes.iter().any(|volume| {
        let short = volume.text().and_then(|text| text.split_once(':'));
        let source = short.map(|(source, _)| source);
        let source = source.or_else(|| volume.get("source").and_then(Node::text));
        // Any other is a volume by name, or a folder of the host.
        let beside = source.filter(|source| source.starts_with('.')).map(folder);
        beside.is_some_and(|source| source.is_empty() || source == own || source == code)
    })
}

/// Whether a command is for a laptop, where nobody waits for requests to end.
fn is_for_development(words: &[&str]) -> bool {
    let mut words = words.iter().flat_map(|words| words.split_whitespace());
    words.any(|word| {
        matches!(
            word,
            "air"
                | "CompileDaemon"
                | "dev"
                | "develop"
                | "nodemon"
                | "serve"
                | "storybook"
                | "ts-node-dev"
                | "watch"
                | "watchexec"
                | "--debug"
                | "--reload"
                | "--watch"
        ) || word.starts_with("dev:")
            || word.ends_with(":dev")
            || word.ends_with(":watch")
    })
}
