//! Whether SIGTERM and the signals of steps arrive.

pub(super) mod init_process;
mod pid1;
pub mod script;
pub(super) mod shell;
pub(super) mod signal_step;

use crate::tools::model::Container;

/// The first process of a container, told from its words and its image.
fn first_process<'t>(container: &'t Container<'_>) -> Option<(Vec<&'t str>, pid1::First<'t>)> {
    let words = container.arguments()?;
    let sh = container.image.known().and_then(|image| pid1::shell_of(image));
    let first = pid1::first(&words, sh)?;
    Some((words, first))
}

/// The image may have an entry point that stands before the command.
fn unless_entry_point(container: &Container<'_>) -> &'static str {
    if container.entry_point.is_absent() {
        ", unless its image has an entry point"
    } else {
        ""
    }
}
