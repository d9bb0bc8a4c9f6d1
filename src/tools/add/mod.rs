//! `add`: the same document with the sidecar wired in.
//!
//! Nothing but the sidecar's own definition is put into the text; every other byte stays. The result is
//! read again and checked: where the sidecar would not be right, `add` refuses and says why.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use similar::TextDiff;

use super::check::{self, Located, Persona, Selection, Severity};
use super::document;
use super::model::{self, ContainerDefinition, DocumentForm, NoTask, TaskDefinition};
use super::source::Source;
use crate::core::step::parse_steps;

mod balancer;
mod compose;
mod definition;
mod image;
mod insert;
mod terraform;
mod tree;

pub const NAME: &str = "add";

/// What the user said besides the file.
#[derive(Clone, Debug, Default)]
pub struct AddOptions {
    /// The container that is to be drained.
    pub to: String,
    /// Which task definition of a template; needed where several have such a container.
    pub task: Option<String>,
    /// The sidecar's image.
    pub image: Option<String>,
    pub drain: Option<String>,
    /// The sidecar's stop timeout in whole seconds.
    pub stop_timeout_s: Option<u64>,
    pub capacity: Option<String>,
    /// `PRESTOP_SETTLE` in whole seconds.
    pub settle_s: Option<u64>,
    pub ready_url: Option<String>,
    pub protect: bool,
}

/// What became of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    pub text: String,
    /// What was done, for the user.
    pub story: String,
}

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAdded {
    /// The file cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// It could not be done right.
    #[error("{0}")]
    NotRight(String),
}

impl NotAdded {
    fn because(why: impl Into<String>) -> NotAdded {
        NotAdded::NotRight(why.into())
    }
}

/// The text of `source` with the sidecar in it.
///
/// # Errors
/// Where the file cannot be read, or the sidecar would not be right in it.
pub fn add(source: &Source, options: &AddOptions) -> Result<Added, NotAdded> {
    let unreadable =
        |at: usize, message: String| NotAdded::Unreadable(source.problem(at, message).to_string());
    let (root, syntax) = document::parse_among(&source.name, &source.text, source)
        .map_err(|why| unreadable(why.at, why.message))?;
    let tasks = model::tasks(&root).map_err(|why| match why {
        NoTask::Foreign { message, at } => unreadable(at, message),
        NoTask::Empty => unreadable(0, model::nothing_in(&root)),
    })?;
    let (task, app) = find(&tasks, options)?;
    if let Some(sidecar) = task.sidecars().next() {
        return already(source, task, sidecar, app, options);
    }
    if task.more_containers && task.form != DocumentForm::Compose {
        return Err(NotAdded::because(format!(
            "the containers of `{}` are not all in this file: it cannot be seen whether a sidecar is among them",
            task.name
        )));
    }
    let (sidecar, story) = if task.form == DocumentForm::Compose {
        compose::definition(task, app, options)?
    } else {
        definition::definition(task, app, options)?
    };
    let text = if task.form == DocumentForm::Terraform {
        terraform::insert(source, syntax, task, app, &sidecar)?
    } else {
        insert::insert(source, syntax, task, &sidecar).ok_or_else(|| {
            NotAdded::because(
                "the list of containers is written in a way that cannot be added to: write one container a line",
            )
        })?
    };
    let rest = verify(source, &text, task, sidecar.name)?;
    Ok(Added {
        text,
        story: format!("{story}{rest}"),
    })
}

/// The task and the container that `--to` names.
fn find<'t, 'a>(
    tasks: &'t [TaskDefinition<'a>],
    options: &AddOptions,
) -> Result<(&'t TaskDefinition<'a>, &'t ContainerDefinition<'a>), NotAdded> {
    let chosen = tasks
        .iter()
        .filter(|task| options.task.as_ref().is_none_or(|name| *name == task.name));
    let is_it = |container: &&ContainerDefinition<'_>| {
        let name = &container.name;
        name.text == options.to || (!name.literal && model::reference(name.node) == Some(&options.to))
    };
    let mut found = chosen
        .clone()
        .filter_map(|task| Some((task, task.containers.iter().find(is_it)?)));
    let names = |list: &mut dyn Iterator<Item = String>| list.collect::<Vec<_>>().join(", ");
    match (found.next(), found.next()) {
        (Some((task, container)), None) => {
            is_the_app(task, container, options)?;
            Ok((task, container))
        }
        (Some((first, _)), Some((second, _))) => Err(NotAdded::because(format!(
            "`{}` and `{}` both have a container `{}`: say which with --task",
            first.name, second.name, options.to
        ))),
        (None, _) => {
            let mut all = tasks.iter().flat_map(|task| {
                task.containers
                    .iter()
                    .map(|container| format!("`{}`", container.name.text))
            });
            Err(NotAdded::because(format!(
                "there is no container `{}`; there is {}",
                options.to,
                names(&mut all)
            )))
        }
    }
}

/// A helper is not drained: the answer names who is.
fn is_the_app(
    task: &TaskDefinition<'_>,
    container: &ContainerDefinition<'_>,
    options: &AddOptions,
) -> Result<(), NotAdded> {
    let is_helper = container.only_observes()
        || task.ends_early(container)
        || container.needed_as().is_some()
        || task.is_proxy(container);
    let apps: Vec<_> = task.apps().collect();
    if apps.is_empty() && options.drain.is_none() {
        return Err(NotAdded::because(format!(
            "`{}` has no container but what watches, feeds or prepares an app: say how `{}` drains by --drain",
            task.name, container.name.text
        )));
    }
    if !is_helper || options.drain.is_some() || apps.iter().any(|app| std::ptr::eq(*app, container)) {
        return Ok(());
    }
    let what = if container.only_observes() {
        "only watches the others"
    } else if task.ends_early(container) {
        "has ended before the task stops"
    } else {
        "is what the app needs, not the app"
    };
    let names: Vec<String> = apps
        .iter()
        .map(|app| format!("`--to {}`", app.name.text))
        .collect();
    Err(NotAdded::because(format!(
        "`{}` {what}: say {}",
        container.name.text,
        names.join(" or ")
    )))
}

/// A sidecar that is there is left as it is.
fn already(
    source: &Source,
    task: &TaskDefinition<'_>,
    sidecar: &ContainerDefinition<'_>,
    app: &ContainerDefinition<'_>,
    options: &AddOptions,
) -> Result<Added, NotAdded> {
    let name = &sidecar.name.text;
    if !sidecar.depends_directly_on(&app.name.text) {
        return Err(NotAdded::because(format!(
            "`{}` has the sidecar `{name}`, but it does not depend on `{}`: add the dependency by hand",
            task.name, app.name.text
        )));
    }
    let says = |variable: &str| {
        sidecar
            .variable(variable)
            .and_then(|variable| variable.value.known())
            .cloned()
    };
    let same_steps = |wish: &str| {
        says("PRESTOP_DRAIN")
            .is_some_and(|there| parse_steps(wish).is_ok_and(|steps| parse_steps(&there) == Ok(steps)))
    };
    let seconds = sidecar.stop_timeout_s.known().copied();
    let differs = [
        (
            "--image",
            options
                .image
                .as_deref()
                .map(|wish| sidecar.image.known().is_some_and(|image| image == wish)),
        ),
        ("--drain", options.drain.as_deref().map(same_steps)),
        (
            "--capacity",
            options
                .capacity
                .as_deref()
                .map(|wish| says("PRESTOP_CAPACITY").is_some_and(|there| there == wish)),
        ),
        (
            "--stop-timeout",
            options.stop_timeout_s.map(|wish| seconds == Some(wish as f64)),
        ),
        (
            "--settle",
            options
                .settle_s
                .map(|wish| says("PRESTOP_SETTLE").is_some_and(|there| there == format!("{wish}s"))),
        ),
        (
            "--ready-url",
            options
                .ready_url
                .as_deref()
                .map(|wish| says("PRESTOP_READY_URL").is_some_and(|there| there == wish)),
        ),
        (
            "--protect",
            options
                .protect
                .then(|| says("PRESTOP_PROTECT").is_some_and(|there| there == "true")),
        ),
    ]
    .into_iter()
    .find(|(_, same)| *same == Some(false));
    if let Some((flag, _)) = differs {
        return Err(NotAdded::because(format!(
            "the sidecar `{name}` is there already, with something else than {flag} says: change it by hand"
        )));
    }
    Ok(Added {
        text: source.text.clone(),
        story: format!("the sidecar `{name}` is there already: nothing changed"),
    })
}

/// Reads the result as `check` does: the sidecar must bring no finding of its own, and the order of the
/// task has to be right. What else is found in it is told.
fn verify(source: &Source, text: &str, task: &TaskDefinition<'_>, name: &str) -> Result<String, NotAdded> {
    if !only_more_by_one(source, text, task, name) {
        return Err(NotAdded::because(
            "this file is written in a way that cannot be added to without changing more of it: write one container a line",
        ));
    }
    let selection = Selection {
        persona: Persona::Pedantic,
        ..Selection::default()
    };
    let found = |text: &str| -> Result<Vec<Located>, NotAdded> {
        let copy = source.with_text(text.to_owned());
        let checked = check::check(copy, &selection).map_err(|why| NotAdded::because(why.to_string()))?;
        Ok(checked.into_iter().flat_map(|checked| checked.findings).collect())
    };
    let before = found(&source.text)?;
    let is_old = |finding: &Located| {
        let same = |old: &Located| old.rule.id == finding.rule.id && old.path == finding.path;
        before.iter().any(same)
    };
    let (old, new): (Vec<_>, Vec<_>) = found(text)?.into_iter().partition(is_old);
    let list = |findings: &[Located]| -> String {
        let one = |finding: &Located| format!("\n  {}: {}", finding.rule.id, finding.message);
        findings.iter().take(MAX_TOLD).map(one).collect()
    };
    // What others would have to change is no fault of the sidecar.
    let (worth_knowing, new): (Vec<_>, Vec<_>) = new
        .into_iter()
        .partition(|finding| finding.severity == Severity::Note);
    if !new.is_empty() {
        return Err(NotAdded::because(format!(
            "the sidecar would not be right in `{}`:{}",
            task.name,
            list(&new)
        )));
    }
    // A task that cannot start or stop in its order gains nothing by a sidecar.
    let (wrong, rest): (Vec<_>, Vec<_>) = old
        .into_iter()
        .partition(|finding| finding.rule.is_about_order() && finding.severity == Severity::Error);
    if !wrong.is_empty() {
        return Err(NotAdded::because(format!(
            "`{}` is not right without the sidecar either; mend this first:{}",
            task.name,
            list(&wrong)
        )));
    }
    let regular: Vec<_> = rest
        .into_iter()
        .filter(|finding| finding.persona == Persona::Regular)
        .collect();
    let mut rest = String::new();
    if !worth_knowing.is_empty() {
        rest.push_str(&format!("\nworth knowing:{}", list(&worth_knowing)));
    }
    if !regular.is_empty() {
        rest.push_str(&format!(
            "\nwhat was found before is found still:{}",
            list(&regular)
        ));
    }
    Ok(rest)
}

/// As many old findings as somebody reads; `check` has them all.
const MAX_TOLD: usize = 5;

/// Whether the new text has the sidecar in that task, and says the same as before everywhere else.
fn only_more_by_one(source: &Source, text: &str, task: &TaskDefinition<'_>, name: &str) -> bool {
    let (Ok((before, _)), Ok((after, _))) = (
        document::parse_among(&source.name, &source.text, source),
        document::parse_among(&source.name, text, source),
    ) else {
        return false;
    };
    let Ok(tasks) = model::tasks(&after) else {
        return false;
    };
    let own = tasks.iter().find(|own| own.name == task.name);
    before.additions(&after) == Some(1) && own.is_some_and(|own| own.container(name).is_some())
}

/// The command line of `add`.
pub fn command() -> Command {
    let option = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    Command::new(NAME)
        .about("Prints a task definition, template or compose file with the sidecar wired in")
        .arg(Arg::new("file").value_name("FILE").required(true).help("The file, or `-` for standard input"))
        .arg(option("to", "CONTAINER", "The container that is to be drained").required(true))
        .arg(option("task", "NAME", "Which task definition of a template, by its logical ID"))
        .arg(option("image", "IMAGE", "The sidecar's image; else `ecs-prestop` in the private registry of the app's image"))
        .arg(option("drain", "STEPS", "PRESTOP_DRAIN; else POST /drain at the container's first port"))
        .arg(
            option("stop-timeout", "DURATION", "The sidecar's stopTimeout, 2s to 120s; else what the app leaves of 120 s, at most 90 s")
                .value_parser(stop_timeout),
        )
        .arg(
            option("capacity", "CAPACITY", "PRESTOP_CAPACITY, where the file does not tell: on-demand or spot")
                .value_parser(["on-demand", "spot"]),
        )
        .arg(
            option("settle", "DURATION", "PRESTOP_SETTLE: how long to serve on before the first step; else what a health check takes to notice")
                .value_parser(settle),
        )
        .arg(option("ready-url", "URL", "PRESTOP_READY_URL, where a health check asks the sidecar; else what the container's own health check asks"))
        .arg(flag("protect", "PRESTOP_PROTECT=true: jobs hold off deployments and scale-in by leases on /protect, for workers"))
        .arg(flag("diff", "Prints what would change instead of the whole document"))
        .arg(flag("in-place", "Writes the file instead of printing it"))
        .after_help("Changes nothing but the sidecar. Exits 0 if it is wired in, 1 if that cannot be done right, 2 if the file cannot be read.")
}

fn stop_timeout(text: &str) -> Result<u64, String> {
    let seconds = crate::config::duration(text).map(|duration| duration.as_secs_f64());
    seconds
        .filter(|seconds| (2.0..=120.0).contains(seconds) && seconds.fract() == 0.0)
        .map(|seconds| seconds as u64)
        .ok_or_else(|| "allowed are whole seconds from 2s to 120s, such as 90s or 1m30s".to_owned())
}

fn settle(text: &str) -> Result<u64, String> {
    let seconds = crate::config::duration(text).map(|duration| duration.as_secs_f64());
    seconds
        .filter(|seconds| (0.0..=60.0).contains(seconds) && seconds.fract() == 0.0)
        .map(|seconds| seconds as u64)
        .ok_or_else(|| {
            "allowed are whole seconds from 0s to 60s, half of the most that a drain has".to_owned()
        })
}

/// Runs `add`.
pub fn main(matches: &ArgMatches) -> ExitCode {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let options = AddOptions {
        to: text("to").unwrap_or_default(),
        task: text("task"),
        image: text("image"),
        drain: text("drain"),
        stop_timeout_s: matches.get_one::<u64>("stop-timeout").copied(),
        capacity: text("capacity"),
        settle_s: matches.get_one::<u64>("settle").copied(),
        ready_url: text("ready-url"),
        protect: matches.get_flag("protect"),
    };
    let path = text("file").unwrap_or_default();
    let done = Source::read(&path)
        .map_err(|problem| NotAdded::Unreadable(problem.to_string()))
        .and_then(|source| {
            let added = add(&source, &options)?;
            deliver(matches, &path, &source, &added)?;
            Ok(added)
        });
    match done {
        Ok(added) => {
            eprintln!("ecs-prestop: {}", added.story);
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("ecs-prestop: {why}");
            ExitCode::from(match why {
                NotAdded::Unreadable(_) => 2,
                NotAdded::NotRight(_) => 1,
            })
        }
    }
}

fn deliver(matches: &ArgMatches, path: &str, source: &Source, added: &Added) -> Result<(), NotAdded> {
    let shown = if matches.get_flag("diff") {
        diff(source, &added.text)
    } else if matches.get_flag("in-place") {
        String::new()
    } else {
        source.with_mark(&added.text)
    };
    let mut out = std::io::stdout().lock();
    match out.write_all(shown.as_bytes()).and_then(|()| out.flush()) {
        Err(why) if why.kind() != std::io::ErrorKind::BrokenPipe => {
            return Err(NotAdded::because(format!("cannot write: {why}")));
        }
        _ => {}
    }
    if matches.get_flag("in-place") && added.text != source.text {
        write_in_place(path, &source.with_mark(&added.text))?;
    }
    Ok(())
}

fn diff(source: &Source, text: &str) -> String {
    let name = source.name.trim_start_matches(['.', '/']);
    TextDiff::from_lines(source.text.as_str(), text)
        .unified_diff()
        .header(&format!("a/{name}"), &format!("b/{name}"))
        .to_string()
}

/// All or nothing: the new text is written beside the file and takes its place in one step.
fn write_in_place(path: &str, text: &str) -> Result<(), NotAdded> {
    if path == "-" {
        return Err(NotAdded::because("--in-place needs a file, not standard input"));
    }
    let cannot = |why: std::io::Error| NotAdded::because(format!("{path}: cannot be written: {why}"));
    // A link stays a link: what it points to is replaced.
    let target = std::fs::canonicalize(Path::new(path)).map_err(cannot)?;
    let mut beside = target.clone().into_os_string();
    beside.push(".ecs-prestop");
    let written = std::fs::metadata(&target)
        .and_then(|metadata| {
            std::fs::write(&beside, text)?;
            std::fs::set_permissions(&beside, metadata.permissions())
        })
        .and_then(|()| std::fs::rename(&beside, &target));
    written.map_err(|why| {
        // What cannot be removed either is named in the message of the first fault.
        let _ = std::fs::remove_file(&beside);
        cannot(why)
    })
}

/// Where a drain call goes unless told otherwise.
fn first_port(container: &ContainerDefinition<'_>) -> Option<u16> {
    container.ports.known().and_then(|ports| ports.first().copied())
}
