use crate::tools::check::rules::examples::{Example, PLAIN};
use crate::tools::check::rules::seconds;
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::document::Node;
use crate::tools::model::{
    ContainerDefinition, DocumentForm, ImageConfig, ImageFile, TaskDefinition, Text, Value,
};

/// What the app was told and what the container was told do not fit.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS016",
    name: "the app takes longer to stop than its container has",
    severity: Severity::Warning,
    persona: Persona::Regular,
    compose: true,
    why: "Servers and workers have a limit of their own for how long they finish what they have after SIGTERM, said by an \
          argument, a variable or a file that the Dockerfile beside copies into the image. Where it is above `stopTimeout` (compose: `stop_grace_period`, 10 s unless said otherwise) the container is killed before \
          that, and what is left is lost: a Sidekiq that is killed pushes no job back.",
    mend: "Raise the stop timeout above the app's own limit by a few seconds, or lower the limit.",
    source: "Gunicorn, Settings, graceful_timeout; Uvicorn, Settings, Timeouts; Hypercorn, Configuring, graceful_timeout; \
             Puma, Puma::DSL, worker_shutdown_timeout and force_shutdown_after; Supervisor, Configuration File, \
             stopwaitsecs; php-fpm, process_control_timeout; Sidekiq wiki, Signals; Celery user guide, Workers; nginx, Core functionality, worker_shutdown_timeout; n8n, \
             Environment variables, N8N_GRACEFUL_SHUTDOWN_TIMEOUT; Spring Boot reference, Graceful shutdown; ASP.NET Core, \
             Web host, Shutdown timeout; Traefik, EntryPoints, graceTimeOut",
    example: Example {
        passing: PLAIN,
        breaking: (
            "[\"java\", \"-jar\", \"app.jar\"]",
            "[\"gunicorn\", \"--graceful-timeout\", \"90\", \"app:app\"]",
        ),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    for container in &task.containers {
        if container.is_sidecar() || task.ends_early(container) || container.is_one_off() {
            continue;
        }
        let (Some(given), Some(own)) = (task.stop_timeout_s(container), own_limit(container)) else {
            continue;
        };
        // Nobody has chosen what a program does by default; only where jobs are lost it is worth a word.
        if own.seconds <= given {
            continue;
        }
        let (what, default) = match (task.form, container.stop_timeout_s.is_absent()) {
            (DocumentForm::Compose, true) => ("the stop_grace_period", ", the default"),
            (DocumentForm::Compose, false) => ("the stop_grace_period", ""),
            (_, true) => ("the stopTimeout", ", the default"),
            (_, false) => ("the stopTimeout", ""),
        };
        let finding = findings.at(
            own.node,
            format!(
                "{} of `{}` takes up to {} to finish ({}), {what} is {}{default}: it is killed before",
                own.program,
                container.name.text,
                seconds(own.seconds),
                own.told_by,
                seconds(given)
            ),
        );
        finding.label("longer than the stop timeout");
        if let Some(node) = container.stop_timeout_s.node() {
            finding.also(node, "the stop timeout");
        }
    }
}

/// How long a program goes on after SIGTERM at most, and where to point.
struct OwnLimit<'a> {
    program: &'static str,
    told_by: String,
    seconds: f64,
    node: &'a Node<'a>,
}

/// How a program is told its limit.
struct Known {
    /// How it is called in a message.
    name: &'static str,
    /// Words of the command by which it is known, two of them where they follow each other; without one
    /// its variables are enough.
    words: &'static [&'static str],
    /// Options with the limit behind them or after `=`.
    options: &'static [&'static str],
    /// Variables that hold it.
    variables: &'static [&'static str],
    /// Files of the build context that may say it, unless the command names another.
    files: &'static [&'static str],
    /// What it is called in them; the first that is there holds.
    keys: &'static [&'static str],
    /// What it is where nothing is said, if work is lost by that.
    default_s: Option<f64>,
    /// What a bare number means.
    unit_s: f64,
}

const KNOWN: [Known; 12] = [
    Known {
        name: "Gunicorn",
        words: &["gunicorn"],
        options: &["--graceful-timeout"],
        variables: &[],
        files: &["gunicorn.conf.py"],
        keys: &["graceful_timeout"],
        default_s: None,
        unit_s: 1.0,
    },
    Known {
        name: "Uvicorn",
        words: &["uvicorn"],
        options: &["--timeout-graceful-shutdown"],
        variables: &["UVICORN_TIMEOUT_GRACEFUL_SHUTDOWN"],
        files: &[],
        keys: &[],
        default_s: None,
        unit_s: 1.0,
    },
    Known {
        name: "Hypercorn",
        words: &["hypercorn"],
        options: &["--graceful-timeout"],
        variables: &[],
        files: &["hypercorn.toml"],
        keys: &["graceful_timeout"],
        default_s: None,
        unit_s: 1.0,
    },
    Known {
        name: "Sidekiq",
        words: &["sidekiq"],
        options: &["-t", "--timeout"],
        variables: &[],
        files: &["config/sidekiq.yml"],
        keys: &["timeout"],
        default_s: Some(25.0),
        unit_s: 1.0,
    },
    // Its warm shutdown waits for the tasks that run, and each may take this long.
    Known {
        name: "Celery",
        words: &["celery"],
        options: &["--time-limit", "--soft-time-limit"],
        variables: &[],
        files: &[],
        keys: &[],
        default_s: None,
        unit_s: 1.0,
    },
    Known {
        name: "nginx",
        words: &["nginx"],
        options: &["worker_shutdown_timeout"],
        variables: &["NGINX_WORKER_SHUTDOWN_TIMEOUT"],
        files: &["nginx.conf"],
        keys: &["worker_shutdown_timeout"],
        default_s: None,
        unit_s: 1.0,
    },
    Known {
        name: "n8n",
        words: &[],
        options: &[],
        variables: &["N8N_GRACEFUL_SHUTDOWN_TIMEOUT"],
        files: &[],
        keys: &[],
        default_s: None,
        unit_s: 1.0,
    },
    Known {
        name: "Spring Boot",
        words: &["java"],
        options: &[
            "--spring.lifecycle.timeout-per-shutdown-phase",
            "-Dspring.lifecycle.timeout-per-shutdown-phase",
        ],
        variables: &[
            "SPRING_LIFECYCLE_TIMEOUT_PER_SHUTDOWN_PHASE",
            "SPRING_LIFECYCLE_TIMEOUTPERSHUTDOWNPHASE",
        ],
        files: &[],
        keys: &[],
        default_s: None,
        unit_s: 0.001,
    },
    Known {
        name: "ASP.NET Core",
        words: &[],
        options: &[],
        variables: &[
            "ASPNETCORE_SHUTDOWNTIMEOUTSECONDS",
            "DOTNET_SHUTDOWNTIMEOUTSECONDS",
        ],
        files: &[],
        keys: &[],
        default_s: None,
        unit_s: 1.0,
    },
    Known {
        name: "php-fpm",
        words: &["php-fpm"],
        options: &[],
        variables: &["PHP_FPM_PROCESS_CONTROL_TIMEOUT", "FPM_PROCESS_CONTROL_TIMEOUT"],
        files: &["php-fpm.conf", "www.conf"],
        keys: &["process_control_timeout"],
        default_s: None,
        unit_s: 1.0,
    },
    // It has no option for it. Rails starts it as its server.
    Known {
        name: "Puma",
        words: &["puma", "rails server", "rails s"],
        options: &[],
        variables: &[],
        files: &["config/puma.rb"],
        keys: &["worker_shutdown_timeout", "force_shutdown_after"],
        default_s: None,
        unit_s: 1.0,
    },
    // What it waits for each of its programs.
    Known {
        name: "Supervisor",
        words: &["supervisord"],
        options: &[],
        variables: &[],
        files: &["supervisord.conf"],
        keys: &["stopwaitsecs"],
        default_s: None,
        unit_s: 1.0,
    },
];

/// Variables that hold arguments.
const ARGUMENT_VARIABLES: [&str; 3] = ["GUNICORN_CMD_ARGS", "JAVA_OPTS", "JAVA_TOOL_OPTIONS"];

fn own_limit<'a>(container: &ContainerDefinition<'a>) -> Option<OwnLimit<'a>> {
    KNOWN.iter().find_map(|known| of_program(known, container))
}

fn of_program<'a>(known: &Known, container: &ContainerDefinition<'a>) -> Option<OwnLimit<'a>> {
    let limit = |told_by: String, seconds: f64, node: &'a Node<'a>| OwnLimit {
        program: known.name,
        told_by,
        seconds,
        node,
    };
    for name in known.variables {
        if let Some(variable) = container.variable(name) {
            let seconds = in_seconds(variable.value.known()?, known.unit_s)?;
            return Some(limit((*name).to_owned(), seconds, variable.node));
        }
    }
    let words = words(container);
    let started = words
        .windows(2)
        .map(|pair| (pair[0], Some(pair[1].0)))
        .chain(words.last().map(|last| (*last, None)))
        .find(|((word, _), next)| known.words.iter().any(|known| runs(known, word, *next)))
        .map(|((_, node), _)| node);
    let held = container.environment.iter().filter(|variable| {
        ARGUMENT_VARIABLES.contains(&variable.name.as_ref())
            && known
                .options
                .iter()
                .any(|option| variable.value.known().is_some_and(|text| text.contains(option)))
    });
    let from_variables: Vec<(&str, &'a Node<'a>)> = held
        .flat_map(|variable| {
            let text = variable.value.known().map_or("", AsRef::as_ref);
            text.split_whitespace().map(|word| (word, variable.node))
        })
        .collect();
    let start = started.or(from_variables.first().map(|(_, node)| *node))?;
    let all: Vec<_> = words.into_iter().chain(from_variables).collect();
    for (index, (word, node)) in all.iter().enumerate() {
        for option in known.options {
            let value = match word.trim_start_matches(['"', '\'']).strip_prefix(option) {
                Some("") => all.get(index + 1).map(|(next, _)| *next),
                Some(rest) => rest.strip_prefix('='),
                None => None,
            };
            if let Some(seconds) = value.and_then(|value| in_seconds(value, known.unit_s)) {
                return Some(limit((*option).to_owned(), seconds, node));
            }
        }
    }
    if let Some((told_by, seconds)) = in_a_file(known, container, &all) {
        return Some(limit(told_by, seconds?, start));
    }
    let default = known.default_s.filter(|_| !container.more_environment)?;
    Some(limit("its default".to_owned(), default, start))
}

/// The words that start it, those of its image where the file has none of its own, and where to point. A
/// word of the list may be a whole script.
fn words<'t, 'a>(container: &'t ContainerDefinition<'a>) -> Vec<(&'t str, &'a Node<'a>)> {
    let own = |part: &'t Value<'a, Vec<Text<'a>>>| {
        let (words, node) = match part {
            Value::Known(words, node) => (words.as_slice(), Some(*node)),
            Value::Absent | Value::Unknown(_) => (&[][..], None),
        };
        words.iter().enumerate().filter_map(move |(index, word)| {
            let node = node?;
            Some((word.as_ref(), node.items().get(index).unwrap_or(node)))
        })
    };
    let image = container
        .starts
        .as_ref()
        .filter(|_| container.entry_point.is_absent());
    let of_image = |words: fn(&'t ImageConfig) -> &'t [String], part: &Value<'a, Vec<Text<'a>>>| {
        let words = image.filter(|_| part.is_absent()).map_or(&[][..], words);
        words.iter().map(|word| (word.as_str(), container.name.node))
    };
    let entry_point =
        own(&container.entry_point).chain(of_image(|image| &image.entry_point, &container.entry_point));
    let command = own(&container.command).chain(of_image(|image| &image.command, &container.command));
    entry_point
        .chain(command)
        .flat_map(|(word, node)| word.split_whitespace().map(move |word| (word, node)))
        .collect()
}

/// Whether a word, or two of them, is what a program is known by.
fn runs(known: &str, word: &str, next: Option<&str>) -> bool {
    let base = word.rsplit('/').next().unwrap_or(word);
    match known.split_once(' ') {
        None => base == known,
        Some((first, second)) => base == first && next == Some(second),
    }
}

/// What a file of the build context says, and of how many seconds; `None` within where that is not told.
fn in_a_file(
    known: &Known,
    container: &ContainerDefinition<'_>,
    words: &[(&str, &Node<'_>)],
) -> Option<(String, Option<f64>)> {
    let image = container.starts.as_ref()?;
    let base = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    // The command names its file behind `-c`, `-C` or `--config`.
    let named = words
        .windows(2)
        .find(|pair| ["-c", "-C", "--config", "--configuration"].contains(&pair[0].0))
        .map(|pair| base(pair[1].0.trim_start_matches("python:")));
    let wanted = |file: &&ImageFile| match &named {
        Some(name) => file.name == *name,
        None => known.files.iter().any(|known| base(known) == file.name),
    };
    let ImageFile { path, text, .. } = image.files.iter().find(wanted)?;
    known.keys.iter().find_map(|key| {
        let values = values_of(text, key, known.unit_s);
        // Those that it waits for may stop together; the longest counts.
        let longest = values.iter().copied().flatten().max_by(f64::total_cmp);
        (!values.is_empty()).then(|| (format!("{key} in {path}"), longest))
    })
}

/// The values that a file of settings has for a name: `name value`, `name = value`, `name: value`,
/// `name(value)`, whatever it is written for.
fn values_of(text: &str, key: &str, unit_s: f64) -> Vec<Option<f64>> {
    /// Deeper ones belong to something else.
    const MAX_INDENT: usize = 8;
    let of_line = |line: &str| {
        let indent = line.len() - line.trim_start().len();
        let rest = line.trim().trim_start_matches(':').strip_prefix(key)?;
        let value = rest.trim_start_matches([' ', '\t', '=', ':', '(']);
        (indent <= MAX_INDENT && value.len() < rest.len()).then_some(())?;
        let value = value.split(['#', ';', ')', ' ']).next().unwrap_or("");
        Some(in_seconds(value, unit_s))
    };
    text.lines().filter_map(of_line).collect()
}

/// The files in which programs are told their limit, for who looks for them in a build context.
pub(in crate::tools::check) fn files() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().flat_map(|known| known.files).copied()
}

/// `30`, `30s`, `1m`, `PT30S`; a bare number is of the program's own unit.
fn in_seconds(text: &str, unit_s: f64) -> Option<f64> {
    let text = text.trim().trim_matches(['"', '\'', ';']).to_ascii_lowercase();
    if let Ok(number) = text.parse::<f64>() {
        return number.is_finite().then_some(number * unit_s);
    }
    let text = text.strip_prefix("pt").unwrap_or(&text);
    for (ending, seconds) in [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)] {
        if let Some(number) = text
            .strip_suffix(ending)
            .and_then(|number| number.parse::<f64>().ok())
        {
            return Some(number * seconds);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{in_seconds, values_of};

    #[test]
    fn settings_are_read_as_each_program_writes_them() {
        for (text, key, values) in [
            (
                "workers 2\nworker_shutdown_timeout 60\n",
                "worker_shutdown_timeout",
                vec![Some(60.0)],
            ),
            (
                "  force_shutdown_after(45) # why\n",
                "force_shutdown_after",
                vec![Some(45.0)],
            ),
            (
                "force_shutdown_after :forever\n",
                "force_shutdown_after",
                vec![None],
            ),
            (
                "# stopwaitsecs=9\nstopwaitsecs = 3600 ; long\nstopwaitsecs=5\n",
                "stopwaitsecs",
                vec![Some(3600.0), Some(5.0)],
            ),
            (":timeout: 30\ntimeouts: 5\n", "timeout", vec![Some(30.0)]),
            (
                "worker_shutdown_timeout 2m;\n",
                "worker_shutdown_timeout",
                vec![Some(120.0)],
            ),
            (
                "graceful_timeout = int(os.environ['T'])\n",
                "graceful_timeout",
                vec![None],
            ),
            ("", "timeout", vec![]),
        ] {
            assert_eq!(values_of(text, key, 1.0), values, "{text}");
        }
    }

    #[test]
    fn durations_are_read_as_each_program_writes_them() {
        for (text, unit_s, seconds) in [
            ("30", 1.0, Some(30.0)),
            ("30000", 0.001, Some(30.0)),
            ("45s", 0.001, Some(45.0)),
            ("PT1M", 0.001, Some(60.0)),
            ("1500ms", 1.0, Some(1.5)),
            ("60s;", 1.0, Some(60.0)),
            ("soon", 1.0, None),
            ("nan", 1.0, None),
        ] {
            assert_eq!(in_seconds(text, unit_s), seconds, "{text}");
        }
    }
}
