//! Where the sidecar's image comes from.

use crate::tools::document::Node;
use crate::tools::model::{self, ContainerDefinition};

use super::tree::Tree;
use super::{AddOptions, NotAdded};

/// The sidecar's image, as it is written and as it is told.
pub(super) struct SidecarImage {
    pub(super) tree: Tree,
    pub(super) words: String,
}

/// What everybody may push to: an image of this name there is not ours.
const PUBLIC: [&str; 11] = [
    "docker.elastic.co",
    "docker.io",
    "gcr.io",
    "ghcr.io",
    "lscr.io",
    "mcr.microsoft.com",
    "nvcr.io",
    "public.ecr.aws",
    "quay.io",
    "registry.gitlab.com",
    "registry.k8s.io",
];

/// What `--image` says, else `ecs-prestop` in the app's own registry. A bare name would be pulled from a
/// public library, where anybody may put one.
pub(super) fn image(app: &ContainerDefinition<'_>, options: &AddOptions) -> Result<SidecarImage, NotAdded> {
    if let Some(image) = &options.image {
        return Ok(SidecarImage {
            tree: Tree::text(image),
            words: image.clone(),
        });
    }
    let own = concat!("ecs-prestop:", env!("CARGO_PKG_VERSION"));
    let node = app.image.node();
    let substituted = node.and_then(model::substitution);
    let text = substituted
        .or(app.image.known().map(AsRef::as_ref))
        .or(node.and_then(Node::text));
    let registry = text
        .and_then(|image| image.split_once('/'))
        .map(|(registry, _)| registry);
    match registry.filter(|registry| is_private(registry)) {
        Some(registry) => {
            let image = format!("{registry}/{own}");
            Ok(SidecarImage {
                tree: if substituted.is_some() {
                    Tree::Sub(image.clone())
                } else {
                    Tree::text(image.as_str())
                },
                words: image,
            })
        }
        None => Err(NotAdded::because(format!(
            "where the sidecar's image is cannot be told from that of `{}`: push what `docker/build` makes to a registry of \
             yours, and say --image REGISTRY/{own}",
            app.name.text
        ))),
    }
}

/// Whether the first part of an image's name is a registry of one's own (Docker reference, *docker image
/// tag*: a host has a dot or a port).
fn is_private(registry: &str) -> bool {
    (registry.contains(['.', ':']) || registry.contains(".dkr.ecr."))
        && !PUBLIC.contains(&registry)
        && !registry.starts_with("localhost")
}
