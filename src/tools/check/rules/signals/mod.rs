//! Whether SIGTERM and the signals of steps arrive.

pub(super) mod init_process;
mod pid1;
pub mod script;
pub(super) mod shell;
pub(super) mod signal_step;
pub(super) mod stop_signal;

use crate::tools::model::ContainerDefinition;

/// The first process of a container, told from its words and its image.
fn first_process<'t>(container: &'t ContainerDefinition<'_>) -> Option<(Vec<&'t str>, pid1::First<'t>)> {
    let words = container.arguments()?;
    let base = container.starts.as_ref().and_then(|image| image.base.as_deref());
    let image = container.image.known().map(AsRef::as_ref);
    let sh = base.and_then(pid1::shell_of).or(image.and_then(pid1::shell_of));
    let script = container.starts.as_ref().and_then(|image| image.script.as_ref());
    let first = match script {
        Some((name, text)) if words.contains(&name.as_str()) => {
            pid1::first_behind_script(&words, name, text, sh)?
        }
        _ => pid1::first(&words, sh)?,
    };
    Some((words, first))
}

/// Where the words of the first process come from, if not from the file itself: the image may have an
/// entry point that stands before the command, and a Dockerfile tells.
fn by_whom(container: &ContainerDefinition<'_>) -> String {
    match &container.starts {
        Some(image)
            if !image.place.is_empty()
                && container.entry_point.is_absent()
                && (container.command.is_absent() || !image.entry_point.is_empty()) =>
        {
            format!(" ({})", image.place)
        }
        None if container.entry_point.is_absent() => ", unless its image has an entry point".to_owned(),
        _ => String::new(),
    }
}
