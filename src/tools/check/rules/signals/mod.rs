//! Whether SIGTERM and the signals of steps arrive.

pub(super) mod init_process;
mod pid1;
pub(super) mod shell;
pub(super) mod signal_step;

use crate::tools::model::Container;

/// The image may have an entry point that stands before the command.
fn unless_entry_point(container: &Container<'_>) -> &'static str {
    if container.entry_point.is_absent() {
        ", unless its image has an entry point"
    } else {
        ""
    }
}
