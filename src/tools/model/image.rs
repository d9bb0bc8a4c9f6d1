//! What an image starts by itself: from the Dockerfile that makes it, or from `docker image inspect`.
//!
//! Knows nothing of files; what a script says is given to it.

use serde_json::Value as Json;

/// What an image starts unless it is told otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// The names by which it is known; none where it follows from a Dockerfile.
    pub tags: Vec<String>,
    /// `ENTRYPOINT`; empty where there is none.
    pub entry_point: Vec<String>,
    /// `CMD`; empty where there is none.
    pub command: Vec<String>,
    /// `STOPSIGNAL`, and where it stands.
    pub stop_signal: Option<(String, String)>,
    /// The image that its last stage stands on.
    pub base: Option<String>,
    /// Where the words that it starts stand, such as `Dockerfile:12`.
    pub place: String,
    /// The script among those words, and its text, where that is at hand.
    pub script: Option<(String, String)>,
    /// What is copied into it: from where in the build context.
    pub copied: Vec<String>,
    /// Files that are called otherwise in it: their paths there, and in the build context.
    pub renamed: Vec<(String, String)>,
    /// Files that may say how its program runs.
    pub files: Vec<ImageFile>,
}

/// A file of an image, found in the build context.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFile {
    /// The last part of its path in the image.
    pub name: String,
    /// Where it stands in the build context, where it may be called otherwise.
    pub path: String,
    pub text: String,
}

/// One instruction of a Dockerfile with its continuation lines.
struct Instruction {
    line: usize,
    word: String,
    rest: String,
}

/// Reads a Dockerfile: its last stage, or the one called `target`. `name` is how it is called in messages.
/// `None` where there is no such stage.
pub fn of_dockerfile(name: &str, text: &str, target: Option<&str>) -> Option<ImageConfig> {
    let mut stages: Vec<(Option<String>, ImageConfig)> = Vec::new();
    let mut arguments: Vec<(String, String)> = Vec::new();
    let mut shell = vec!["/bin/sh".to_owned(), "-c".to_owned()];
    for Instruction { line, word, rest } in instructions(text) {
        let place = format!("{name}:{line}");
        match word.as_str() {
            "ARG" => {
                if let Some((key, value)) = rest.split_once('=') {
                    arguments.push((key.trim().to_owned(), value.trim().trim_matches('"').to_owned()));
                }
            }
            "FROM" => {
                let words: Vec<&str> = rest
                    .split_whitespace()
                    .filter(|word| !word.starts_with("--"))
                    .collect();
                let base = substituted(words.first().copied().unwrap_or(""), &arguments);
                let known = stages
                    .iter()
                    .find(|(stage, _)| stage.as_deref() == Some(base.as_str()))
                    .map(|(_, image)| image.clone());
                let stage = words
                    .iter()
                    .position(|word| word.eq_ignore_ascii_case("as"))
                    .and_then(|at| words.get(at + 1));
                shell = vec!["/bin/sh".to_owned(), "-c".to_owned()];
                stages.push((
                    stage.map(|stage| (*stage).to_owned()),
                    known.unwrap_or(ImageConfig {
                        base: Some(base),
                        ..ImageConfig::default()
                    }),
                ));
            }
            "STOPSIGNAL" => stages.last_mut()?.1.stop_signal = Some((rest, place)),
            "SHELL" => shell = list(&rest).unwrap_or(shell),
            "ENTRYPOINT" | "CMD" | "COPY" | "ADD" => {
                let (_, image) = stages.last_mut()?;
                let words =
                    || list(&rest).unwrap_or_else(|| shell.iter().cloned().chain([rest.clone()]).collect());
                match word.as_str() {
                    "ENTRYPOINT" => {
                        image.entry_point = words();
                        image.command.clear();
                        image.place = place;
                    }
                    "CMD" => {
                        image.command = words();
                        if image.entry_point.is_empty() {
                            image.place = place;
                        }
                    }
                    _ if rest.contains("--from") => {}
                    _ => {
                        let words: Vec<&str> = rest
                            .split_whitespace()
                            .filter(|word| !word.starts_with("--"))
                            .collect();
                        let sources = words.split_last().map_or(&[][..], |(_, sources)| sources);
                        if let ([source], Some(target)) = (sources, words.last())
                            && !target.ends_with('/')
                        {
                            image.renamed.push(((*target).to_owned(), (*source).to_owned()));
                        }
                        image
                            .copied
                            .extend(sources.iter().map(|source| (*source).to_owned()));
                    }
                }
            }
            _ => {}
        }
    }
    let wanted = match target {
        Some(target) => stages
            .into_iter()
            .find(|(stage, _)| stage.as_deref() == Some(target)),
        None => stages.pop(),
    };
    wanted.map(|(_, image)| image)
}

/// Reads what `docker image inspect` prints.
///
/// # Errors
/// Where it is something else.
pub fn of_inspect(text: &str) -> Result<Vec<ImageConfig>, String> {
    let wrong = "expected what `docker image inspect IMAGE` prints: a list of images with their `Config`";
    let document: Json =
        serde_json::from_str(text).map_err(|why| format!("{wrong}, found no JSON: {why}"))?;
    let words = |value: &Json| -> Vec<String> {
        let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter()
            .filter_map(|word| word.as_str().map(ToOwned::to_owned))
            .collect()
    };
    let one = |image: &Json| {
        let config = image.get("Config")?;
        let tags = words(&image["RepoTags"]);
        let place = tags.first().cloned().unwrap_or_else(|| "the image".to_owned());
        Some(ImageConfig {
            stop_signal: config["StopSignal"]
                .as_str()
                .map(|signal| (signal.to_owned(), place.clone())),
            place,
            tags,
            entry_point: words(&config["Entrypoint"]),
            command: words(&config["Cmd"]),
            ..ImageConfig::default()
        })
    };
    let list = document.as_array().filter(|list| !list.is_empty()).ok_or(wrong)?;
    list.iter()
        .map(one)
        .collect::<Option<_>>()
        .ok_or_else(|| wrong.to_owned())
}

impl ImageConfig {
    /// The words that may name a script: the first, or the first behind a shell or an init.
    pub fn script_name(&self) -> Option<&str> {
        let words = self.entry_point.iter().chain(&self.command).map(String::as_str);
        let mut words = words.skip_while(|word| {
            let name = word.rsplit('/').next().unwrap_or(word);
            word.starts_with('-')
                || matches!(
                    name,
                    "sh" | "bash" | "ash" | "dash" | "tini" | "dumb-init" | "env"
                )
        });
        words.next().filter(|word| !word.contains(char::is_whitespace))
    }
}

fn instructions(text: &str) -> Vec<Instruction> {
    /// More than any Dockerfile has.
    const MAX_INSTRUCTIONS: usize = 1000;
    let mut list: Vec<Instruction> = Vec::new();
    let mut open: Option<Instruction> = None;
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (part, goes_on) = match line.strip_suffix('\\').or_else(|| line.strip_suffix('`')) {
            Some(part) => (part.trim_end(), true),
            None => (line, false),
        };
        let instruction = match open.take() {
            Some(mut before) => {
                before.rest.push(' ');
                before.rest.push_str(part);
                before
            }
            None => {
                let (word, rest) = part.split_once(char::is_whitespace).unwrap_or((part, ""));
                Instruction {
                    line: number,
                    word: word.to_ascii_uppercase(),
                    rest: rest.trim().to_owned(),
                }
            }
        };
        if goes_on {
            open = Some(instruction);
        } else {
            list.push(instruction);
        }
        if list.len() > MAX_INSTRUCTIONS {
            break;
        }
    }
    list.extend(open);
    list
}

/// The exec form; `None` for the shell form.
fn list(rest: &str) -> Option<Vec<String>> {
    serde_json::from_str(rest).ok()
}

fn substituted(text: &str, arguments: &[(String, String)]) -> String {
    let mut text = text.to_owned();
    for (name, value) in arguments {
        text = text
            .replace(&format!("${{{name}}}"), value)
            .replace(&format!("${name}"), value);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn the_last_stage_counts_with_what_it_stands_on() {
        let text = "ARG V=20\nFROM node:${V}-alpine AS base\nENTRYPOINT [\"./run.sh\"]\nFROM base AS dev\nCMD npm run dev\n\
                    FROM base\nCOPY docker/run.sh ./\n# why\nCMD [\"node\", \\\n  \"x.js\"]\n";
        let last = of_dockerfile("Dockerfile", text, None).unwrap();
        assert_eq!(last.base.as_deref(), Some("node:20-alpine"));
        assert_eq!(
            (last.entry_point.clone(), last.command.clone()),
            (words(&["./run.sh"]), words(&["node", "x.js"]))
        );
        assert_eq!(
            (last.script_name(), last.copied.as_slice()),
            (Some("./run.sh"), &words(&["docker/run.sh"])[..])
        );
        let dev = of_dockerfile("Dockerfile", text, Some("dev")).unwrap();
        assert_eq!(dev.command, words(&["/bin/sh", "-c", "npm run dev"]));
        assert_eq!(of_dockerfile("Dockerfile", text, Some("none")), None);
        assert_eq!(of_dockerfile("Dockerfile", "CMD x", None), None);
    }

    #[test]
    fn docker_image_inspect_is_read() {
        let text = r#"[{"RepoTags": ["app:1"], "Config": {"Entrypoint": null, "Cmd": ["npm", "start"]}}]"#;
        let image = &of_inspect(text).unwrap()[0];
        assert_eq!(
            (image.command.clone(), image.tags.clone()),
            (words(&["npm", "start"]), words(&["app:1"]))
        );
        for wrong in ["{}", "[]", "[{}]", "x"] {
            assert!(
                of_inspect(wrong).unwrap_err().contains("docker image inspect"),
                "{wrong}"
            );
        }
    }
}
