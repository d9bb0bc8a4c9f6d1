//! The sockets as the kernel of this machine lists them: by `sock_diag`, or by `/proc/net` where that
//! is not to be had.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::neighbours::Neighbours;
use super::sockets::{Inode, List, SocketQuery, Sockets};
use super::{proc_net, sock_diag};

pub(super) const PROC: &str = "/proc";
pub(super) const PROC_NET: &str = "/proc/self/net";
const OWN_DESCRIPTORS: &str = "/proc/self/fd";

/// This machine's kernel.
#[derive(Debug, Default)]
pub struct Kernel {
    /// Why there is no `sock_diag`, once that was seen: it does not come back.
    refused: OnceLock<String>,
}

impl Sockets for Kernel {
    fn list(&self, wanted: SocketQuery) -> io::Result<Box<dyn List>> {
        if self.refused.get().is_none() {
            match sock_diag::list(wanted) {
                Err(why) if is_refusal(&why) => {
                    let _ = self.refused.set(why.to_string());
                }
                list => return list,
            }
        }
        Ok(proc_net::list(&[PROC_NET.into()], wanted))
    }

    fn addresses(&self) -> Vec<IpAddr> {
        proc_net::addresses(Path::new(PROC_NET))
    }

    fn own(&self) -> Vec<Inode> {
        proc_net::own(Path::new(OWN_DESCRIPTORS))
    }

    fn of_other_containers(&self) -> Option<Arc<dyn Sockets>> {
        let neighbours = Neighbours::new(Path::new(PROC));
        neighbours
            .are_seen()
            .then(|| Arc::new(neighbours) as Arc<dyn Sockets>)
    }

    fn weakness(&self) -> Option<String> {
        let why = self.refused.get()?;
        Some(format!(
            "the kernel's sock_diag is not to be had ({why}), so connections are read from /proc/net/tcp, where one that \
             works looks like an idle one: every open connection counts as owing, and `quiet` waits until clients have \
             hung up; allow socket(AF_NETLINK) in the container's seccomp profile"
        ))
    }
}

/// By a seccomp profile, or a kernel built without it. Anything else may pass.
fn is_refusal(why: &io::Error) -> bool {
    use rustix::io::Errno;
    let refusals = [
        Errno::PERM,
        Errno::ACCESS,
        Errno::NOSYS,
        Errno::AFNOSUPPORT,
        Errno::PROTONOSUPPORT,
        Errno::INVAL,
        Errno::NOENT,
        Errno::CONNREFUSED,
    ];
    Errno::from_io_error(why).is_some_and(|errno| refusals.contains(&errno))
}
