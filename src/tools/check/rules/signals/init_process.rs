use crate::tools::check::rules::examples::{Example, PLAIN};
use crate::tools::check::{Findings, Persona, Rule, Severity};
use crate::tools::model::TaskDefinition;

use super::pid1::First;

/// Programs that leave SIGTERM to the kernel's default unless the program asks for it.
const LEAVE_IT: [&str; 8] = ["node", "nodejs", "deno", "php", "perl", "python", "tail", "sleep"];

/// For PID 1 the default is to ignore it.
pub(in crate::tools::check) const RULE: Rule = Rule {
    id: "PS021",
    name: "PID 1 neither handles SIGTERM nor reaps children by itself",
    severity: Severity::Note,
    persona: Persona::Pedantic,
    compose: true,
    why: "The kernel drops a signal to PID 1 that has no handler. A Node.js, Python, PHP or Perl program without a \
          SIGTERM handler, which anywhere else would end at once, then runs on until SIGKILL; and nobody reaps the \
          children that it leaves.",
    mend: "Set `linuxParameters.initProcessEnabled` to true (compose: `init: true`), or handle SIGTERM in the program \
           and `--ignore` this note.",
    source: "pid_namespaces(7); nodejs/docker-node, Best Practices, Handling Kernel Signals; Amazon ECS API reference, \
             LinuxParameters, initProcessEnabled",
    example: Example {
        passing: PLAIN,
        breaking: ("[\"java\", \"-jar\", \"app.jar\"]", "[\"node\", \"server.js\"]"),
    },
    check,
};

fn check<'a>(task: &TaskDefinition<'a>, findings: &mut Findings<'a>) {
    // In a namespace that others share, another process is PID 1.
    if task.on_windows() || !task.pid_mode.is_absent() {
        return;
    }
    for container in &task.containers {
        if task.ends_early(container) || container.init.or_default(false) != Some(false) {
            continue;
        }
        let Some((_, First::Program(program))) = super::first_process(container) else {
            continue;
        };
        let versionless = program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
        if LEAVE_IT.contains(&versionless) {
            let node = container.entry_point.node().or(container.command.node());
            let finding = findings.at(
                node.unwrap_or(container.name.node),
                format!(
                    "`{program}` is PID 1 of `{}`{}: without a handler of its own it ignores SIGTERM",
                    container.name.text,
                    super::by_whom(container)
                ),
            );
            finding.label("no init process before it");
            if let Some(node) = container.init.node() {
                finding.fix(node, "true");
            }
        }
    }
}
