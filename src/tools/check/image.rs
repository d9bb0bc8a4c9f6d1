//! Finds what the images of a task start: by the Dockerfile that compose builds or that stands beside the
//! file, and by what `--image-config` says.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use crate::tools::document::Node;
use crate::tools::model::{
    ContainerDefinition, DocumentForm, ImageConfig, ImageFile, TaskDefinition, of_dockerfile,
};
use crate::tools::source::Source;

use super::rules::own_limit;

/// Longer ones are no Dockerfile and no entry point that somebody wrote.
const MAX_BYTES: u64 = 128 * 1024;

/// Gives each container what its image starts, as far as that is at hand.
pub(super) fn attach(tasks: &mut [TaskDefinition<'_>], source: &Source, images: &[ImageConfig]) {
    let beside = (source.name != "<stdin>").then(|| folder(&source.name));
    for task in tasks {
        let only_app = match task.apps().collect::<Vec<_>>().as_slice() {
            [app] => Some(app.name.text.to_string()),
            _ => None,
        };
        for container in &mut task.containers {
            let is_only_app = only_app.as_deref() == Some(container.name.text.as_ref());
            container.starts = told(container, images, is_only_app).or_else(|| match task.form {
                DocumentForm::Compose => built(container, beside.as_deref()?),
                _ if is_only_app && is_ones_own(container) => beside_the_file(beside.as_deref()?),
                _ => None,
            });
        }
    }
}

fn told(
    container: &ContainerDefinition<'_>,
    images: &[ImageConfig],
    is_only_app: bool,
) -> Option<ImageConfig> {
    let named = images.iter().find(|image| {
        container
            .image
            .known()
            .is_some_and(|name| image.tags.iter().any(|tag| tag == name))
    });
    let only = match images {
        [only] if is_only_app => Some(only),
        _ => None,
    };
    named.or(only).cloned()
}

/// Compose's `build`: a context, or an object with it.
fn built(service: &ContainerDefinition<'_>, folder: &Path) -> Option<ImageConfig> {
    let build = service.node.get("build")?;
    let word = |name: &str| build.get(name).and_then(Node::word).map(Cow::into_owned);
    let context = build
        .text()
        .map(ToOwned::to_owned)
        .or_else(|| word("context"))
        .unwrap_or_else(|| ".".to_owned());
    if context.contains("://") || context.contains('$') {
        return None;
    }
    let file = word("dockerfile").unwrap_or_else(|| "Dockerfile".to_owned());
    dockerfile(&folder.join(context), &file, word("target").as_deref())
}

/// Folders of a repository that hold only how it is deployed.
const OF_DEPLOYMENT: [&str; 8] = [
    ".aws",
    "aws",
    "deploy",
    "deployment",
    "ecs",
    "infra",
    "task-definitions",
    "terraform",
];

/// `Dockerfile` in the same folder, or above one such as `.aws`, which GitHub's workflow has.
fn beside_the_file(folder: &Path) -> Option<ImageConfig> {
    let inner = folder
        .file_name()
        .is_some_and(|name| OF_DEPLOYMENT.iter().any(|known| name == *known));
    let above = inner.then(|| folder.parent().map(Path::to_path_buf)).flatten();
    [Some(folder.to_path_buf()), above]
        .into_iter()
        .flatten()
        .find_map(|folder| dockerfile(&folder, "Dockerfile", None))
}

/// Whether an image is likely the one that is built here: a placeholder, an expression or a private one.
fn is_ones_own(container: &ContainerDefinition<'_>) -> bool {
    match container.image.known() {
        Some(image) => image.contains(".dkr.ecr.") || image.starts_with('<'),
        None => !container.image.is_absent(),
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(name)
        .parent()
        .map(Path::to_path_buf)
        .unwrap_or_default()
}

fn dockerfile(context: &Path, file: &str, target: Option<&str>) -> Option<ImageConfig> {
    let text = read(&context.join(file))?;
    let mut image = of_dockerfile(file, &text, target)?;
    if let Some(name) = image.script_name().map(ToOwned::to_owned) {
        image.script = script(context, &name, &image).map(|text| (name, text));
    }
    image.files = files_of(context, &image);
    Some(image)
}

fn script(context: &Path, name: &str, image: &ImageConfig) -> Option<String> {
    in_context(context, name, image)
        .map(|(_, text)| text)
        .filter(|text| text.starts_with("#!") && text.lines().next().is_some_and(|line| line.contains("sh")))
}

/// The file of this name, found where the Dockerfile copies it from: its path there, and its text.
fn in_context(context: &Path, name: &str, image: &ImageConfig) -> Option<(String, String)> {
    let base = name.rsplit('/').next()?;
    let copied = &image.copied;
    let renamed = image.renamed.iter();
    let renamed = renamed.filter(|(target, _)| target.rsplit('/').next() == Some(base));
    let same = copied
        .iter()
        .find(|source| source.rsplit('/').next() == Some(base));
    let inside = name.trim_start_matches(['/', '.']);
    let folders = copied.iter().map(|source| format!("{source}/{base}"));
    renamed
        .map(|(_, source)| source.clone())
        .chain(same.cloned())
        .chain([inside.to_owned(), base.to_owned()])
        .chain(folders)
        .find_map(|path| {
            let path = path.trim_start_matches('/');
            Some((path.to_owned(), read(&context.join(path))?))
        })
}

/// The files that may tell how long its program goes on: those of the known names, and those that its
/// words name.
fn files_of(context: &Path, image: &ImageConfig) -> Vec<ImageFile> {
    /// As many as a command names.
    const MAX_NAMED: usize = 4;
    let words = image.entry_point.iter().chain(&image.command);
    let named = words.flat_map(|word| word.split_whitespace()).filter(|word| {
        [".conf", ".rb", ".py", ".yml"]
            .iter()
            .any(|ending| word.ends_with(ending))
    });
    let mut names: Vec<&str> = named.take(MAX_NAMED).collect();
    for name in own_limit::files() {
        names.push(name);
    }
    names
        .into_iter()
        .filter_map(|name| {
            let (path, text) = in_context(context, name, image)?;
            Some(ImageFile {
                name: name.rsplit('/').next()?.to_owned(),
                path,
                text,
            })
        })
        .collect()
}

fn read(path: &Path) -> Option<String> {
    let metadata = std::fs::metadata(path).ok()?;
    (metadata.is_file() && metadata.len() <= MAX_BYTES).then_some(())?;
    std::fs::read_to_string(path).ok()
}
