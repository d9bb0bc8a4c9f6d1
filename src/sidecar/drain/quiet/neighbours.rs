//! The sockets of the task's other containers where each has a network namespace of its own: `bridge`
//! networking with `pidMode: task`, so that their processes are in sight.
//!
//! `/proc/PID/net` shows the namespace of that process to whoever sees the process, with no privilege; entering
//! it to ask `sock_diag` would take `CAP_SYS_ADMIN`.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::proc_net;
use super::sockets::{Inode, List, SocketQuery, Sockets};
use crate::sidecar::drain::processes::{folders, is_gone};

/// Those of every process that is in sight, but for this one's namespace.
#[derive(Debug)]
pub(super) struct Neighbours {
    proc: PathBuf,
}

impl Neighbours {
    /// `proc`: where procfs is mounted.
    pub(super) fn new(proc: &Path) -> Neighbours {
        Neighbours {
            proc: proc.to_owned(),
        }
    }

    /// Whether a process of another namespace is in sight: under `pidMode: task` the first is ECS's own.
    pub(super) fn are_seen(&self) -> bool {
        self.namespaces().is_ok_and(|folders| !folders.is_empty())
    }

    fn own(&self) -> PathBuf {
        self.proc.join("self/net")
    }

    /// A folder for each other namespace, by any of its processes.
    fn namespaces(&self) -> io::Result<Vec<PathBuf>> {
        // Each namespace has files of its own behind these names.
        let inode = |net: &Path| fs::metadata(net.join("tcp")).map(|file| file.ino());
        let mut known = HashSet::from([inode(&self.own())?]);
        let mut found = Vec::new();
        for net in folders(&self.proc)?.map(|folder| folder.join("net")) {
            match inode(&net) {
                Ok(inode) if known.insert(inode) => found.push(net),
                Ok(_) => {}
                // A process that has ended meanwhile has no files.
                Err(why) if is_gone(&why) => {}
                // What cannot be read may be the very one that owes.
                Err(why) => return Err(why),
            }
        }
        Ok(found)
    }
}

impl Sockets for Neighbours {
    fn list(&self, wanted: SocketQuery) -> io::Result<Box<dyn List>> {
        let folders = match wanted {
            // Those are this process's own, and start here.
            SocketQuery::CallsTo(_) => vec![self.own()],
            SocketQuery::Listeners | SocketQuery::Connections(_) => self.namespaces()?,
        };
        Ok(proc_net::list(&folders, wanted))
    }

    fn addresses(&self) -> Vec<IpAddr> {
        // The task is inside, whichever of its containers calls another.
        let mut folders = self.namespaces().unwrap_or_default();
        folders.push(self.own());
        folders
            .iter()
            .flat_map(|folder| proc_net::addresses(folder))
            .collect()
    }

    fn own(&self) -> Vec<Inode> {
        proc_net::own(&self.proc.join("self/fd"))
    }

    fn weakness(&self) -> Option<String> {
        Some(
            "under bridge networking the app's connections are read from /proc/PID/net/tcp, where one that works looks \
             like an idle one: every open connection counts as owing, and `quiet` waits until clients have hung up; \
             awsvpc networking shows more"
                .to_owned(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::sockets::Socket;
    use super::*;

    fn listeners(neighbours: &Neighbours) -> Vec<String> {
        let mut sockets = Vec::new();
        let mut list = neighbours.list(SocketQuery::Listeners).unwrap();
        while list.next(&mut sockets).unwrap() {}
        let text = |socket: &Socket| match socket {
            Socket::Listener(address) => address.to_string(),
            Socket::Connection(..) => String::new(),
        };
        sockets.iter().map(text).collect()
    }

    #[test]
    fn each_other_namespace_is_read_once_and_ones_own_is_not() {
        let proc = std::env::temp_dir().join(format!("ecs-prestop-nets-{}", std::process::id()));
        let net = |process: &str| proc.join(process).join("net");
        let listener = |port: &str| {
            let line = format!("0: 00000000:{port} 00000000:0000 0A 00000000:00000000 00:0 0 0 0 4711\n");
            format!("  sl  local_address\n{line}")
        };
        for process in ["self", "1", "20", "21", "30", "net"] {
            fs::create_dir_all(net(process)).unwrap();
        }
        let neighbours = Neighbours::new(&proc);
        fs::write(net("self").join("tcp"), listener("26B7")).unwrap();
        fs::hard_link(net("self").join("tcp"), net("1").join("tcp")).unwrap();
        assert!(!neighbours.are_seen(), "only processes of this namespace");
        assert_eq!(listeners(&neighbours), Vec::<String>::new());
        fs::write(net("20").join("tcp"), listener("1F90")).unwrap();
        fs::hard_link(net("20").join("tcp"), net("21").join("tcp")).unwrap();
        fs::write(net("30").join("tcp"), listener("0050")).unwrap();
        assert!(neighbours.are_seen());
        let mut seen = listeners(&neighbours);
        seen.sort();
        assert_eq!(seen, ["0.0.0.0:80", "0.0.0.0:8080"]);
        // The first process of an app has ended, and another one of it has not.
        fs::remove_dir_all(proc.join("20")).unwrap();
        assert!(listeners(&neighbours).contains(&"0.0.0.0:8080".to_owned()));
        // Not gone, and not to be read.
        fs::create_dir_all(proc.join("40")).unwrap();
        fs::write(proc.join("40/net"), "").unwrap();
        let trouble = neighbours.list(SocketQuery::Listeners).err();
        assert!(trouble.is_some(), "what cannot be read is not taken for nothing");
        fs::remove_dir_all(&proc).unwrap();
    }
}
