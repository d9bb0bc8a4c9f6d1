//! The processes that this container sees, and which of them belong to another container.
//!
//! Read from `/proc`, once, as plain data; all that is decided on it is decided here and can be
//! tested on a made-up `/proc`. Knows nothing of signals being sent or of waiting.
//!
//! What tells containers apart (each a fact, none of them a name):
//! - the container's `DockerId` of the task metadata in `/proc/PID/cgroup` or `/proc/PID/mountinfo`.
//!   Seen with Docker on cgroup v1 and v2; the ECS agent on EC2 uses `/ecs/<task>/<DockerId>`.
//! - `ECS_CONTAINER_METADATA_URI_V4` in `/proc/PID/environ`, which is different for each container of
//!   a task, on EC2 and Fargate (ECS developer guide, *task metadata endpoint v4*). Reading it
//!   takes the same uid or `CAP_SYS_PTRACE`, which Fargate allows to add.
//! - where, less this container, those known by the two ways above to be others, and the pause process, only
//!   one is left, it is that one. nginx and everything that sets its process title overwrites its environment.
//!
//! How Fargate lays out its cgroups is not documented; there the second way is the one to rely on.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// More processes than this in one task are not looked at.
const MAX_PROCESSES: usize = 4096;

/// How deep a chain of wrappers is followed: a shell in a shell in an init is three.
const MAX_DEPTH: usize = 16;

/// A task has ten containers; a message names no more processes than that.
const MAX_CANDIDATES: usize = 10;

/// Shells that catch SIGINT for themselves while they wait for a child.
const SHELLS: [&str; 6] = ["sh", "bash", "dash", "ash", "zsh", "ksh"];

const SIGINT: u32 = 2;

/// What stands for a container where only one is left.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Group<'a> {
    Cgroup(&'a str),
    Root(u32),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// In this PID namespace.
    pub pid: u32,
    /// 0 where the parent is outside of the namespace.
    pub parent: u32,
    /// `comm`, for messages.
    pub name: String,
    /// The effective user.
    pub uid: u32,
    /// Clock ticks since boot; with the pid it names a process for good.
    pub started: u64,
    /// Whether it has ended and only waits to be reaped.
    pub ended: bool,
    /// Signals that it handles, as a mask.
    caught: u64,
    /// What names its container: the lines of `cgroup`.
    cgroup: String,
    /// The same from the paths in `mountinfo`.
    mounts: String,
    /// Its `ECS_CONTAINER_METADATA_URI_V4`, where that may be read and is set.
    pub metadata_uri: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Processes {
    own: Process,
    others: Vec<Process>,
}

/// Why it cannot be told which process to signal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unclear {
    /// `/proc` itself.
    #[error("the processes cannot be listed: {0}")]
    Unreadable(String),
    /// No PID namespace in common.
    #[error(
        "no process of container `{0}` is to be seen, nor of any other: set \"pidMode\": \"task\" in the task definition"
    )]
    Alone(String),
    /// Several containers, and no fact that tells which is which.
    #[error(
        "nothing tells which of these is the main process of `{container}`: {candidates}. Neither is its DockerId in \
         their cgroups, nor can their environment be read (that takes the same `user`, or the capability SYS_PTRACE), \
         or they have overwritten it, as nginx does"
    )]
    Ambiguous {
        container: String,
        /// Process id and name of each.
        candidates: String,
    },
    /// The facts are there, and it is not among them.
    #[error("no process of container `{0}` is to be seen: has it ended, and is the name right?")]
    NotThere(String),
    /// A wrapper with several children.
    #[error(
        "the main process {pid} ({name}) does not handle the signal and has {children} children: which one should get it? \
         Start the app with `exec`, so that it is the main process itself"
    )]
    ManyChildren { pid: u32, name: String, children: usize },
}

impl Processes {
    /// Reads `/proc`, or something that looks like it.
    ///
    /// # Errors
    /// Where the folder cannot be listed or this process is not in it.
    pub fn read(root: &Path) -> Result<Processes, Unclear> {
        let unreadable = |why: io::Error| Unclear::Unreadable(why.to_string());
        let own = Process::read(&root.join("self")).map_err(unreadable)?;
        let mut others = Vec::new();
        for folder in folders(root).map_err(unreadable)? {
            match Process::read(&folder) {
                Ok(process) if process.pid != own.pid && !process.ended => others.push(process),
                Ok(_) => {}
                // Ended in this moment, or hidden from us.
                Err(why) if is_gone(&why) || why.kind() == io::ErrorKind::PermissionDenied => {}
                // One that is left out could be the very one that is looked for.
                Err(why) => return Err(unreadable(why)),
            }
        }
        Ok(Processes { own, others })
    }

    /// The metadata URIs of other containers, each once. All containers of a task are told of the same server: what
    /// leads elsewhere belongs to another task, as where several stand-ins run on one machine, and is not asked.
    pub fn metadata_uris(&self) -> Vec<String> {
        let own = self.own.metadata_uri.as_ref();
        let server = |uri: &String| uri.rsplit_once('/').map(|(server, _)| server.to_owned());
        let ours = own.and_then(server);
        let mut uris: Vec<String> = self
            .others
            .iter()
            .filter_map(|process| process.metadata_uri.clone())
            .filter(|uri| Some(uri) != own && (ours.is_none() || server(uri) == ours))
            .collect();
        uris.sort();
        uris.dedup();
        uris
    }

    /// The process of that container which should get the signal.
    ///
    /// `id`: its `DockerId`; `other_ids`: those of the task's other containers; `uri`: its own
    /// metadata URI, where one of [`Processes::metadata_uris`] turned out to be it.
    ///
    /// # Errors
    /// See [`Unclear`].
    pub fn target(
        &self,
        container: &str,
        id: Option<&str>,
        other_ids: &[String],
        uri: Option<&str>,
        signal: u32,
    ) -> Result<&Process, Unclear> {
        let by_id = self.all(|process| id.is_some_and(|id| process.is_of(id)));
        let by_uri = || self.all(|process| uri.is_some() && process.metadata_uri.as_deref() == uri);
        let members = match by_id {
            found if !found.is_empty() => found,
            _ => match by_uri() {
                found if !found.is_empty() => found,
                _ => self.the_only_one_left(container, other_ids, uri)?,
            },
        };
        let main = main_process(&members).ok_or_else(|| Unclear::NotThere(container.to_owned()))?;
        receiver(main, &members, signal)
    }

    /// The processes of the only container that is neither this one nor known as another: what is left once
    /// everything that tells its container is set aside.
    fn the_only_one_left(
        &self,
        container: &str,
        other_ids: &[String],
        uri: Option<&str>,
    ) -> Result<Vec<&Process>, Unclear> {
        let mut foreign = 0;
        let mut groups: BTreeMap<Group<'_>, Vec<&Process>> = BTreeMap::new();
        for root in self.roots() {
            let tree = self.tree(root);
            if tree.iter().any(|process| self.is_own(process)) {
                continue;
            }
            foreign += 1;
            let another = |process: &&Process| {
                let told = process.metadata_uri.as_deref();
                let known = other_ids.iter().any(|id| process.is_of(id));
                known || told.is_some_and(|told| Some(told) != uri) || process.is_pause()
            };
            if tree.iter().any(another) {
                continue;
            }
            // Without cgroups of their own each root stands for itself.
            let group = if root.cgroup == self.own.cgroup {
                Group::Root(root.pid)
            } else {
                Group::Cgroup(&root.cgroup)
            };
            groups.entry(group).or_default().extend(tree);
        }
        let mut left = groups.into_values();
        match (left.next(), left.next()) {
            (Some(only), None) => Ok(only),
            (None, _) if foreign == 0 => Err(Unclear::Alone(container.to_owned())),
            (None, _) => Err(Unclear::NotThere(container.to_owned())),
            (Some(first), Some(second)) => {
                let all = [first, second].into_iter().chain(left);
                let mut named: Vec<&Process> = all.filter_map(|group| main_process(&group)).collect();
                named.sort_by_key(|process| process.pid);
                let named: Vec<String> = named
                    .into_iter()
                    .take(MAX_CANDIDATES)
                    .map(|process| format!("{} ({})", process.pid, process.name))
                    .collect();
                Err(Unclear::Ambiguous {
                    container: container.to_owned(),
                    candidates: named.join(", "),
                })
            }
        }
    }

    /// The processes whose parent is outside of this namespace, or is not to be seen.
    fn roots(&self) -> impl Iterator<Item = &Process> {
        let visible = |pid: u32| self.own.pid == pid || self.others.iter().any(|other| other.pid == pid);
        self.others.iter().filter(move |process| !visible(process.parent))
    }

    fn tree<'a>(&'a self, root: &'a Process) -> Vec<&'a Process> {
        let mut tree = vec![root];
        let mut at = 0;
        while let Some(parent) = tree.get(at).copied() {
            tree.extend(
                self.others
                    .iter()
                    .filter(|process| process.parent == parent.pid && process.pid != root.pid),
            );
            at += 1;
        }
        tree
    }

    /// Whether a process belongs to this container: its own, or a health check that was started in it.
    fn is_own(&self, process: &Process) -> bool {
        let own_uri = self.own.metadata_uri.is_some() && process.metadata_uri == self.own.metadata_uri;
        let same_program = process.cgroup == self.own.cgroup && process.name == self.own.name;
        own_uri || same_program || process.parent == self.own.pid
    }

    fn all(&self, is_member: impl Fn(&Process) -> bool) -> Vec<&Process> {
        self.others.iter().filter(|process| is_member(process)).collect()
    }
}

/// The one that was started first by somebody outside: later ones come from `docker exec`.
fn main_process<'a>(members: &[&'a Process]) -> Option<&'a Process> {
    let inside = |pid: u32| members.iter().any(|process| process.pid == pid);
    let roots = members.iter().filter(|process| !inside(process.parent));
    roots
        .min_by_key(|process| (process.started, process.pid))
        .copied()
}

/// From the main process down through wrappers that would swallow the signal.
fn receiver<'a>(main: &'a Process, members: &[&'a Process], signal: u32) -> Result<&'a Process, Unclear> {
    let mut process = main;
    for _ in 0..MAX_DEPTH {
        if process.handles(signal) {
            return Ok(process);
        }
        let children: Vec<&Process> = members
            .iter()
            .filter(|child| child.parent == process.pid)
            .copied()
            .collect();
        match children.as_slice() {
            [] => return Ok(process),
            [only] => process = only,
            several => {
                return Err(Unclear::ManyChildren {
                    pid: process.pid,
                    name: process.name.clone(),
                    children: several.len(),
                });
            }
        }
    }
    Ok(process)
}

impl Process {
    /// Reads `/proc/PID`.
    ///
    /// # Errors
    /// Where it has ended or is hidden.
    pub fn read(folder: &Path) -> io::Result<Process> {
        let stat = fs::read_to_string(folder.join("stat"))?;
        let status = fs::read_to_string(folder.join("status"))?;
        let field = |name: &str| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_default().trim()
        };
        // pid (comm) state ppid …; comm may contain anything, even parentheses.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let stat: Vec<&str> = after_name.split_whitespace().collect();
        let number = |at: usize| stat.get(at).and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok(Process {
            pid: field("Pid").parse().unwrap_or(0),
            parent: u32::try_from(number(1)).unwrap_or(0),
            name: field("Name").to_owned(),
            uid: field("Uid")
                .split_whitespace()
                .nth(1)
                .and_then(|uid| uid.parse().ok())
                .unwrap_or(0),
            started: number(19),
            // A main thread that has ended shows as a zombie while others still work.
            ended: matches!(stat.first(), Some(&("Z" | "X"))) && field("Threads").parse().unwrap_or(1) <= 1,
            caught: u64::from_str_radix(field("SigCgt"), 16).unwrap_or(0),
            cgroup: fs::read_to_string(folder.join("cgroup")).unwrap_or_default(),
            mounts: fs::read_to_string(folder.join("mountinfo"))
                .map(container_mounts)
                .unwrap_or_default(),
            metadata_uri: fs::read(folder.join("environ"))
                .ok()
                .and_then(|environ| metadata_uri(&environ)),
        })
    }

    /// Whether this process has ended: it is no longer there, or only its remains are, or another one has
    /// got its id. What cannot be read (too many open files) is no end.
    pub fn has_ended(&self, folder: &Path) -> bool {
        match Process::read(folder) {
            Ok(now) => now.ended || now.started != self.started,
            Err(why) => is_gone(&why),
        }
    }

    /// The first process of a shared PID namespace under ECS, and of a pod (agent, `misc/pause-container`).
    fn is_pause(&self) -> bool {
        self.pid == 1 && self.name == "pause"
    }

    fn is_of(&self, id: &str) -> bool {
        !id.is_empty() && (self.cgroup.contains(id) || self.mounts.contains(id))
    }

    /// Whether it would do something about the signal. A shell's own SIGINT handler only waits for
    /// its child.
    fn handles(&self, signal: u32) -> bool {
        let waits = signal == SIGINT && SHELLS.contains(&self.name.as_str());
        self.caught >> (signal - 1) & 1 == 1 && !waits
    }
}

/// The folders of the processes in `/proc`, or in something that looks like it.
pub(super) fn folders(root: &Path) -> io::Result<impl Iterator<Item = PathBuf>> {
    let folders = fs::read_dir(root)?.flatten().filter(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().bytes().all(|b| b.is_ascii_digit())
    });
    Ok(folders.take(MAX_PROCESSES).map(|entry| entry.path()))
}

/// Whether that says that a process is no longer there.
pub(super) fn is_gone(why: &io::Error) -> bool {
    why.kind() == io::ErrorKind::NotFound || why.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

/// The mounts that Docker makes for each container from a folder of its own; under `awsvpc` they are
/// the pause container's, and then nobody's id is in them.
fn container_mounts(mountinfo: String) -> String {
    let lines = mountinfo.lines().filter(|line| line.contains("/containers/"));
    lines.collect::<Vec<_>>().join("\n")
}

fn metadata_uri(environ: &[u8]) -> Option<String> {
    let variables = environ.split(|byte| *byte == 0);
    let value = variables.filter_map(|variable| variable.strip_prefix(b"ECS_CONTAINER_METADATA_URI_V4="));
    value
        .map(|value| String::from_utf8_lossy(value).into_owned())
        .next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIT: u32 = 3;

    fn process(pid: u32, parent: u32, cgroup: &str) -> Process {
        Process {
            pid,
            parent,
            name: format!("p{pid}"),
            started: pid.into(),
            cgroup: cgroup.to_owned(),
            ..Process::default()
        }
    }

    fn catching(signal: u32, process: Process) -> Process {
        Process {
            caught: 1 << (signal - 1),
            ..process
        }
    }

    fn seen(others: Vec<Process>) -> Processes {
        Processes {
            own: process(7, 0, "/ecs/t/own"),
            others,
        }
    }

    fn pid_of(processes: &Processes, id: Option<&str>, uri: Option<&str>) -> Result<u32, Unclear> {
        let others = ["pause".to_owned()];
        processes
            .target("app", id, &others, uri, QUIT)
            .map(|process| process.pid)
    }

    #[test]
    fn a_container_is_found_by_its_id_in_the_cgroup_or_the_mounts() {
        let mut by_mount = process(30, 0, "/");
        by_mount.mounts = "/var/lib/docker/containers/web/hostname".to_owned();
        let all = seen(vec![
            process(1, 0, "/ecs/t/pause"),
            process(20, 0, "/ecs/t/app"),
            by_mount,
        ]);
        assert_eq!(pid_of(&all, Some("app"), None), Ok(20));
        assert_eq!(pid_of(&all, Some("web"), None), Ok(30));
    }

    #[test]
    fn a_container_is_found_by_its_metadata_uri() {
        let mut app = process(20, 0, "/same");
        app.metadata_uri = Some("http://169.254.170.2/v4/one".to_owned());
        let mut other = process(21, 0, "/same");
        other.metadata_uri = Some("http://169.254.170.2/v4/two".to_owned());
        let all = seen(vec![other, app]);
        assert_eq!(all.metadata_uris().len(), 2);
        assert_eq!(
            pid_of(&all, Some("unknown"), Some("http://169.254.170.2/v4/one")),
            Ok(20)
        );
    }

    #[test]
    fn the_only_foreign_container_is_the_one() {
        let all = seen(vec![
            process(1, 0, "/ecs/t/pause"),
            process(20, 0, "/x"),
            process(21, 20, "/x"),
        ]);
        assert_eq!(
            pid_of(&all, None, None),
            Ok(21),
            "its only child, since nobody handles the signal"
        );
    }

    #[test]
    fn nobody_is_asked_but_the_server_that_knows_this_container() {
        let with = |pid: u32, uri: &str| Process {
            metadata_uri: Some(uri.to_owned()),
            ..process(pid, 0, "app")
        };
        let others = || {
            vec![
                with(20, "http://127.0.0.1:1000/v4/app"),
                with(30, "http://127.0.0.1:2000/v4/app"),
            ]
        };
        let mut all = Processes {
            own: with(7, "http://127.0.0.1:2000/v4/prestop"),
            others: others(),
        };
        assert_eq!(all.metadata_uris(), ["http://127.0.0.1:2000/v4/app"]);
        all.own.metadata_uri = None;
        assert_eq!(
            all.metadata_uris().len(),
            2,
            "where there is no own one, each may be it"
        );
    }

    /// One PID namespace, cgroups that tell nothing, and an nginx that has overwritten its environment.
    #[test]
    fn without_cgroups_and_environment_the_only_one_left_is_the_one() {
        let at = |pid, parent, name: &str, uri: Option<&str>| Process {
            name: name.to_owned(),
            metadata_uri: uri.map(str::to_owned),
            ..process(pid, parent, "/")
        };
        let seen = |others: Vec<Process>| Processes {
            own: at(7, 0, "ecs-prestop", Some("http://h/v4/own")),
            others,
        };
        let pause = || at(1, 0, "pause", None);
        let nginx = || catching(QUIT, at(20, 0, "nginx", None));
        let worker = || at(21, 20, "nginx", None);
        let app = || at(30, 0, "node", Some("http://h/v4/app"));
        let health = || at(40, 0, "ecs-prestop", None);
        let target = |all: &Processes| {
            let found = all.target("web", Some("id"), &[], None, QUIT);
            found.map(|process| process.pid)
        };
        assert_eq!(
            target(&seen(vec![pause(), nginx(), worker(), app(), health()])),
            Ok(20)
        );
        assert_eq!(
            target(&seen(vec![pause(), app()])),
            Err(Unclear::NotThere("web".to_owned()))
        );
        let two = seen(vec![pause(), nginx(), worker(), at(50, 0, "php-fpm", None)]);
        let why = target(&two).unwrap_err().to_string();
        assert!(why.contains("20 (nginx), 50 (php-fpm)"), "{why}");
    }

    #[test]
    fn what_cannot_be_told_fails_and_says_why() {
        assert_eq!(
            pid_of(&seen(vec![]), None, None),
            Err(Unclear::Alone("app".to_owned()))
        );
        let sibling = process(8, 7, "/ecs/t/own");
        assert_eq!(
            pid_of(&seen(vec![sibling]), Some("app"), None),
            Err(Unclear::Alone("app".to_owned()))
        );
        let two = seen(vec![process(20, 0, "/x"), process(30, 0, "/y")]);
        let ambiguous = Unclear::Ambiguous {
            container: "app".to_owned(),
            candidates: "20 (p20), 30 (p30)".to_owned(),
        };
        assert_eq!(pid_of(&two, None, None), Err(ambiguous));
        let pause = seen(vec![process(1, 0, "/ecs/t/pause")]);
        assert_eq!(
            pid_of(&pause, Some("app"), None),
            Err(Unclear::NotThere("app".to_owned()))
        );
    }

    #[test]
    fn the_main_process_is_the_oldest_from_outside_and_not_one_of_docker_exec() {
        let mut exec = process(12, 0, "/x");
        exec.started = 99;
        let mut main = process(15, 0, "/x");
        main.started = 50;
        assert_eq!(pid_of(&seen(vec![exec, main]), None, None), Ok(15));
    }

    #[test]
    fn a_wrapper_that_would_swallow_the_signal_is_passed_by() {
        let chain = vec![
            process(20, 0, "/x"),
            process(21, 20, "/x"),
            catching(QUIT, process(22, 21, "/x")),
            process(23, 22, "/x"),
            process(24, 22, "/x"),
        ];
        assert_eq!(pid_of(&seen(chain), None, None), Ok(22));
        let handler = vec![catching(QUIT, process(20, 0, "/x")), process(21, 20, "/x")];
        assert_eq!(pid_of(&seen(handler), None, None), Ok(20));
        let fork = vec![process(20, 0, "/x"), process(21, 20, "/x"), process(22, 20, "/x")];
        assert!(matches!(
            pid_of(&seen(fork), None, None),
            Err(Unclear::ManyChildren { pid: 20, .. })
        ));
    }

    #[test]
    fn a_shell_that_waits_for_its_child_catches_sigint_for_itself_only() {
        let mut shell = catching(SIGINT, process(20, 0, "/x"));
        shell.name = "bash".to_owned();
        let all = seen(vec![shell, process(21, 20, "/x")]);
        assert_eq!(all.target("app", None, &[], None, SIGINT).unwrap().pid, 21);
    }

    #[test]
    fn only_a_process_that_is_gone_or_a_zombie_has_ended() {
        let root = std::env::temp_dir().join(format!("ecs-prestop-proc-{}", std::process::id()));
        let folder = root.join("7");
        fs::create_dir_all(&folder).unwrap();
        let is = |state: &str, started: u64, threads: u32| {
            let numbers = "0 ".repeat(17);
            fs::write(
                folder.join("stat"),
                format!("7 (a) {state} 1 {numbers}{started} 0"),
            )
            .unwrap();
            fs::write(
                folder.join("status"),
                format!("Name:\ta\nPid:\t7\nThreads:\t{threads}\n"),
            )
            .unwrap();
        };
        is("S", 100, 1);
        let process = Process::read(&folder).unwrap();
        assert_eq!(process.started, 100);
        assert!(!process.has_ended(&folder));
        is("Z", 100, 1);
        assert!(process.has_ended(&folder));
        is("Z", 100, 3);
        assert!(!process.has_ended(&folder), "other threads still work");
        is("S", 200, 1);
        assert!(process.has_ended(&folder), "another one has its id");
        // What cannot be read for another reason, as with EMFILE.
        fs::remove_file(folder.join("stat")).unwrap();
        fs::create_dir(folder.join("stat")).unwrap();
        assert!(!process.has_ended(&folder));
        fs::create_dir(root.join("self")).unwrap();
        fs::write(root.join("self/stat"), "1 (me) S 0").unwrap();
        fs::write(root.join("self/status"), "Name:\tme\nPid:\t1\n").unwrap();
        assert!(matches!(Processes::read(&root), Err(Unclear::Unreadable(_))));
        fs::remove_dir_all(&root).unwrap();
        assert!(process.has_ended(&folder));
    }

    #[test]
    fn the_real_proc_can_be_read() {
        let all = Processes::read(Path::new("/proc")).unwrap();
        assert_eq!(all.own.pid, std::process::id());
        assert!(all.own.started > 0 && !all.own.name.is_empty());
    }
}
