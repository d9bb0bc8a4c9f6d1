//! `check`: reads files, runs the rules over every task definition in them, shows what they found.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::colour::ColourChoice;
use super::document::{self, Syntax};
use super::model::{self, DocumentForm, ImageConfig, NoTask};
use super::source::{self, FileProblem, LeftOut, Source};

mod finding;
mod fix;
mod ignore;
mod image;
pub mod output;
mod pages;
pub mod rules;
mod settings;

pub use finding::{Edit, Finding, Findings, Located};
use output::OutputFormat;
#[cfg(feature = "laptop")]
pub use pages::on_paper;
pub use pages::{document as rules_document, page};
pub use rules::{RULES, Rule};
pub use settings::{Baseline, Exceptions};

pub const NAME: &str = "check";

/// Nobody reads more of one file, and each takes a walk through the tree to find its path.
const MAX_FINDINGS: usize = 200;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; often right as it is.
    Note,
    /// Loses work in some shutdowns.
    Warning,
    /// Cannot work, or loses work in every shutdown.
    Error,
}

impl Severity {
    /// As it is written everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// Who wants to be told of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persona {
    /// Everybody: somebody would act on it.
    Regular,
    /// Who asks for all that is true, by `--pedantic`.
    Pedantic,
}

/// One file, and what the rules found in it.
#[derive(Debug)]
pub struct Checked {
    pub source: Source,
    /// How many task definitions it holds.
    pub tasks: usize,
    /// By their place in the file.
    pub findings: Vec<Located>,
    /// Findings beyond the bound, which are not kept.
    pub more: usize,
    /// What the file leaves to others, in words that say what to run.
    pub not_read: Option<String>,
    /// Findings that only `--pedantic` shows.
    pub pedantic: usize,
    /// Findings that stand in the baseline.
    pub known: usize,
}

/// What to leave out.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Rules that were switched off.
    pub ignored: Vec<&'static str>,
    /// The lowest severity that is shown.
    pub severity: Severity,
    /// Whose findings are shown.
    pub persona: Persona,
    /// What is known of images besides.
    pub images: Vec<ImageConfig>,
    /// What the repository leaves alone.
    pub exceptions: Exceptions,
    /// What it had before.
    pub baseline: Baseline,
}

impl Default for Selection {
    fn default() -> Selection {
        Selection {
            ignored: Vec::new(),
            severity: Severity::Note,
            persona: Persona::Regular,
            images: Vec::new(),
            exceptions: Exceptions::default(),
            baseline: Baseline::default(),
        }
    }
}

/// Checks one text. `None` for a file that nobody named and that holds no task definition.
///
/// # Errors
/// Where it cannot be read as any form of a task definition.
pub fn check(source: Source, selection: &Selection) -> Result<Option<Checked>, FileProblem> {
    if !source.named && !may_hold_tasks(&source.text) {
        return Ok(None);
    }
    let (root, syntax) = match document::parse_among(&source.name, &source.text, &source) {
        Ok(read) => read,
        Err(why) => {
            return Err(FileProblem {
                foreign: !source.named && !is_of_ecs(&source.text),
                ..source.problem(why.at, why.message)
            });
        }
    };
    let mut tasks = match model::tasks(&root) {
        Ok(tasks) => tasks,
        Err(NoTask::Foreign { .. }) if !source.named => return Ok(None),
        Err(NoTask::Foreign { message, at }) => return Err(source.problem(at, message)),
        Err(NoTask::Empty) => Vec::new(),
    };
    if tasks.is_empty() {
        // Nothing was tested, which must not look like nothing found.
        let empty = FileProblem {
            foreign: !source.named,
            empty: true,
            ..source.problem(root.span.start, model::nothing_in(&root))
        };
        let told = source.named || model::leaves_tasks_to_modules(&root);
        return if told { Err(empty) } else { Ok(None) };
    }
    image::attach(&mut tasks, &source, &selection.images);
    let mut all = Vec::new();
    for task in &tasks {
        for rule in RULES {
            if rule.applies_to(task.form) && !selection.ignored.contains(&rule.id) {
                let mut findings = Findings::new(rule);
                (rule.check)(task, &mut findings);
                all.extend(findings.into_iter());
            }
        }
    }
    let comments = ignore::Comments::of(&source.text);
    all.retain(|finding| {
        finding.severity >= selection.severity
            && !comments.silence(finding.rule.id, source.position(finding.span.start).line)
    });
    let found = all.len();
    all.retain(|finding| selection.persona == Persona::Pedantic || finding.persona == Persona::Regular);
    let pedantic = found - all.len();
    all.sort_by_key(|finding| (finding.span, finding.rule.id));
    let more = all.len().saturating_sub(MAX_FINDINGS);
    all.truncate(MAX_FINDINGS);
    let mut findings: Vec<Located> = all
        .into_iter()
        .map(|finding| finding.locate(&source, &root))
        .collect();
    // What Terraform or a program has written is mended where it is made.
    if syntax != Syntax::Hcl && tasks.iter().any(|task| task.form == DocumentForm::Terraform) {
        findings.iter_mut().for_each(|finding| finding.fix = None);
    }
    let not_read = model::not_read(&root, &tasks);
    findings.retain(|finding| !selection.exceptions.hold(&source.name, finding));
    number_equal_ones(&mut findings);
    let before = findings.len();
    findings.retain(|finding| !selection.baseline.holds(finding));
    let known = before - findings.len();
    let tasks = tasks
        .iter()
        .filter(|task| task.more_containers || !task.containers.is_empty())
        .count();
    Ok(Some(Checked {
        source,
        tasks,
        findings,
        more,
        not_read,
        pedantic,
        known,
    }))
}

/// Findings of one file that read the same differ in which of them they are.
fn number_equal_ones(findings: &mut [Located]) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for finding in findings {
        let count = seen.entry(finding.fingerprint.clone()).or_default();
        *count += 1;
        finding.fingerprint = format!("{}:{count}", finding.fingerprint);
    }
}

/// A cheap look that spares a directory's other files.
fn may_hold_tasks(text: &str) -> bool {
    let has = |word: &&str| text.contains(*word);
    is_of_ecs(text)
        || ["services", "container_definition", "ECS_CLUSTER"]
            .iter()
            .any(&has)
        || (has(&"module \"") && model::OF_MODULES.iter().any(has))
}

/// Whether a text that cannot be read was meant for ECS: it is told though nobody named its file.
fn is_of_ecs(text: &str) -> bool {
    [
        "containerDefinitions",
        "AWS::ECS::TaskDefinition",
        "aws_ecs_task_definition",
    ]
    .iter()
    .any(|word| text.contains(word))
}

/// The command line of `check`.
pub fn command() -> Command {
    Command::new(NAME)
        .about("Finds what loses work when a task definition is stopped, with the sidecar or without")
        .arg(
            Arg::new("files")
                .value_name("FILE")
                .num_args(1..)
                .required_unless_present_any(["list", "explain"])
                .help("Task definitions, CloudFormation templates, Terraform (.tf, or what `terraform show -json` prints) or compose files; directories; `-` for standard input"),
        )
        .arg(
            Arg::new("format")
                .long("format")
                .value_name("FORMAT")
                .value_parser(OutputFormat::NAMES)
                .default_value("text")
                .help("text, json, sarif (2.1.0) or github (annotations of a workflow)"),
        )
        .arg(
            Arg::new("severity")
                .long("severity")
                .value_name("SEVERITY")
                .value_parser(["note", "warning", "error"])
                .default_value("note")
                .help("The least that is shown: note, warning or error"),
        )
        .arg(
            Arg::new("pedantic")
                .long("pedantic")
                .action(ArgAction::SetTrue)
                .help("Shows also what is true but mostly right as it is"),
        )
        .arg(
            Arg::new("ignore")
                .long("ignore")
                .value_name("RULE")
                .action(ArgAction::Append)
                .value_delimiter(',')
                .value_parser(|text: &str| rules::find(text).map(|rule| rule.id))
                .help("Leaves a rule out, such as PS012; in YAML `# ecs-prestop: ignore PS012` does so on a line"),
        )
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .help("What this repository leaves alone, and why; else .ecs-prestop.yaml, if it is there"),
        )
        .arg(
            Arg::new("baseline")
                .long("baseline")
                .value_name("FILE")
                .help("Does not tell again what stands in it"),
        )
        .arg(
            Arg::new("write-baseline")
                .long("write-baseline")
                .value_name("FILE")
                .help("Writes what is found now to be told no more"),
        )
        .arg(
            Arg::new("skip-others")
                .long("skip-others")
                .action(ArgAction::SetTrue)
                .help("Leaves out files that hold no task definition, as in a directory: for hooks that name every file"),
        )
        .arg(
            Arg::new("fix")
                .long("fix")
                .action(ArgAction::SetTrue)
                .help("Prints what would mend the findings that can be mended safely, as a diff"),
        )
        .arg(
            Arg::new("in-place")
                .long("in-place")
                .action(ArgAction::SetTrue)
                .requires("fix")
                .help("With --fix: writes the files instead"),
        )
        .arg(
            Arg::new("image-config")
                .long("image-config")
                .value_name("FILE")
                .action(ArgAction::Append)
                .help("What `docker image inspect IMAGE` prints: what the image starts, for containers that do not say it"),
        )
        .arg(
            Arg::new("list")
                .long("list")
                .action(ArgAction::SetTrue)
                .help("Lists the rules"),
        )
        .arg(
            Arg::new("explain")
                .long("explain")
                .value_name("RULE")
                .value_parser(|text: &str| rules::find(text).map(|rule| rule.id))
                .help("Prints a rule's page, such as PS003; in Markdown where it goes to a file"),
        )
        .arg(ColourChoice::argument())
        .after_help("Exits 0 if there is nothing to find, 1 with findings, 2 if a file cannot be read.")
}

/// A rule's page, laid out where somebody looks at it.
#[cfg(feature = "laptop")]
fn explained(rule: &Rule, colour: ColourChoice) -> String {
    use std::io::IsTerminal as _;

    use super::picture::terminal::Paper;

    if std::io::stdout().is_terminal() || colour == ColourChoice::Always {
        on_paper(rule, Paper::of_stdout(colour))
    } else {
        page(rule)
    }
}

/// The image has no terminal.
#[cfg(not(feature = "laptop"))]
fn explained(rule: &Rule, _: ColourChoice) -> String {
    page(rule)
}

/// Runs `check`.
pub fn main(matches: &ArgMatches) -> ExitCode {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let shown = if matches.get_flag("list") {
        out.write_all(pages::list().as_bytes())
            .map(|()| ExitCode::SUCCESS)
    } else if let Some(id) = matches.get_one::<&'static str>("explain") {
        let page = rules::find(id).map(|rule| explained(rule, ColourChoice::of(matches)));
        let page = page.unwrap_or_default();
        out.write_all(page.as_bytes()).map(|()| ExitCode::SUCCESS)
    } else {
        files(matches, &mut out)
    };
    // A reader that has seen enough (`| head`) is no fault.
    match shown.and_then(|code| out.flush().map(|()| code)) {
        Ok(code) => code,
        Err(why) if why.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::from(1),
        Err(why) => {
            eprintln!("ecs-prestop: cannot write: {why}");
            ExitCode::from(2)
        }
    }
}

fn files(matches: &ArgMatches, out: &mut dyn Write) -> std::io::Result<ExitCode> {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let read = Exceptions::read(text("config")).and_then(|exceptions| {
        let baseline = text("baseline").map(Baseline::read).transpose()?;
        Ok((exceptions, baseline.unwrap_or_default()))
    });
    let (exceptions, baseline) = match read {
        Ok(read) => read,
        Err(problem) => {
            eprintln!("ecs-prestop: {problem}");
            return Ok(ExitCode::from(2));
        }
    };
    let mut images = Vec::new();
    for path in matches.get_many::<String>("image-config").into_iter().flatten() {
        let read = Source::read(path)
            .and_then(|source| model::of_inspect(&source.text).map_err(|message| source.problem(0, message)));
        match read {
            Ok(list) => images.extend(list),
            Err(problem) => {
                eprintln!("ecs-prestop: --image-config: {problem}");
                return Ok(ExitCode::from(2));
            }
        }
    }
    let selection = Selection {
        exceptions,
        baseline,
        images,
        ignored: matches
            .get_many::<&'static str>("ignore")
            .map(|ids| ids.copied().collect())
            .unwrap_or_default(),
        severity: match matches.get_one::<String>("severity").map(String::as_str) {
            Some("error") => Severity::Error,
            Some("warning") => Severity::Warning,
            _ => Severity::Note,
        },
        persona: if matches.get_flag("pedantic") {
            Persona::Pedantic
        } else {
            Persona::Regular
        },
    };
    let paths: Vec<String> = matches
        .get_many::<String>("files")
        .map(|paths| paths.cloned().collect())
        .unwrap_or_default();
    let mut checked = Vec::new();
    let mut problems = Vec::new();
    let mut unclear = Vec::new();
    let mut of_modules = 0;
    let skips = matches.get_flag("skip-others");
    let mut left_out = source::each(&paths, |source| {
        let source = if skips { source::as_found(source) } else { source };
        match source.and_then(|source| check(source, &selection)) {
            Ok(Some(file)) => checked.push(file.without_text_if_clean()),
            Ok(None) => {}
            Err(problem) if problem.empty && problem.foreign => of_modules += 1,
            Err(problem) if problem.foreign => unclear.push(problem),
            Err(problem) => problems.push(problem),
        }
    });
    left_out.unclear = unclear;
    left_out.of_modules = of_modules;
    // `*.tf` names a module's other files, too: its task definitions were tested.
    let tested: BTreeSet<PathBuf> = checked
        .iter()
        .filter_map(|file| module_of(&file.source.name))
        .collect();
    problems.retain(|problem| {
        !problem.empty || module_of(&problem.file).is_none_or(|module| !tested.contains(&module))
    });
    if let Some(path) = text("write-baseline") {
        let found = checked.iter().flat_map(|file| {
            file.findings
                .iter()
                .map(|finding| (file.source.name.as_str(), finding))
        });
        if let Err(why) = std::fs::write(path, Baseline::write(found)) {
            eprintln!("ecs-prestop: {path}: cannot be written: {why}");
            return Ok(ExitCode::from(2));
        }
        tell_not_read(&checked, &left_out);
        return Ok(ExitCode::SUCCESS);
    }
    if matches.get_flag("fix") {
        tell_not_read(&checked, &left_out);
        return fix::fix(&checked, &problems, &selection, matches.get_flag("in-place"), out);
    }
    let format = OutputFormat::named(matches.get_one::<String>("format").map_or("text", String::as_str));
    output::write(format, &checked, &problems, ColourChoice::of(matches), out)?;
    out.flush()?;
    tell_not_read(&checked, &left_out);
    if problems.is_empty() && checked.is_empty() && !skips {
        eprintln!("ecs-prestop: no task definition in {}", paths.join(", "));
        return Ok(ExitCode::from(2));
    }
    Ok(if !problems.is_empty() {
        ExitCode::from(2)
    } else if checked.iter().any(|file| !file.findings.is_empty()) {
        ExitCode::from(1)
    } else {
        ExitCode::SUCCESS
    })
}

/// The directory whose files Terraform reads together, of one of them.
fn module_of(name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    let of_terraform = path
        .extension()
        .is_some_and(|ending| ending == "tf" || ending == "tofu");
    path.parent().filter(|_| of_terraform).map(Path::to_owned)
}

/// What the files leave to others, and the files that were left out.
fn tell_not_read(checked: &[Checked], left_out: &LeftOut) {
    for file in checked {
        if let Some(what) = &file.not_read {
            eprintln!("ecs-prestop: {}: {what}", file.source.name);
        }
    }
    if !left_out.is_empty() {
        eprintln!("ecs-prestop: {left_out}");
    }
}

impl Checked {
    /// Thousands of clean files need not stay in memory until all are shown.
    fn without_text_if_clean(mut self) -> Checked {
        if self.findings.is_empty() {
            self.source = self.source.with_text(String::new());
        }
        self
    }
}
