//! `/proc/net` (proc(5)): the addresses of the namespace, and, where `sock_diag` is not to be had, its
//! TCP sockets, of which it says the state and the queues, but not what has moved.

use std::collections::VecDeque;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::sockets::{Inode, List, Socket, SocketQuery};
use crate::core::quiet::{TcpConnection, TcpState};
use crate::sidecar::drain::processes::is_gone;

/// Lines between two breaths: some 20 KiB.
const LINES: usize = 128;

/// A line of `tcp6` has 160 characters.
const MAX_LINE: u64 = 512;

/// A hundred addresses are some 20 KiB of `fib_trie`.
const MAX_ADDRESSES: u64 = 256 * 1024;

/// The sockets of the namespaces whose files these are.
pub(super) fn list(folders: &[PathBuf], wanted: SocketQuery) -> Box<dyn List> {
    let files = folders
        .iter()
        .flat_map(|folder| ["tcp", "tcp6"].map(|name| folder.join(name)));
    Box::new(Files {
        now: None,
        next: files.collect(),
        wanted,
    })
}

struct Files {
    now: Option<BufReader<File>>,
    next: VecDeque<PathBuf>,
    wanted: SocketQuery,
}

impl List for Files {
    fn next(&mut self, sockets: &mut Vec<Socket>) -> io::Result<bool> {
        let Some(file) = &mut self.now else {
            let Some(path) = self.next.pop_front() else {
                return Ok(false);
            };
            match File::open(path) {
                Ok(file) => self.now = Some(BufReader::new(file)),
                // There is no IPv6, or the process has ended: what it had open counts as moved.
                Err(why) if is_gone(&why) => {}
                Err(why) => return Err(why),
            }
            return Ok(true);
        };
        for _ in 0..LINES {
            let mut line = String::new();
            if file.by_ref().take(MAX_LINE).read_line(&mut line)? == 0 {
                self.now = None;
                return Ok(true);
            }
            sockets.extend(socket(&line).filter(|socket| is_wanted(socket, self.wanted)));
        }
        Ok(true)
    }
}

fn is_wanted(socket: &Socket, wanted: SocketQuery) -> bool {
    match (socket, wanted) {
        (Socket::Listener(_), SocketQuery::Listeners)
        | (Socket::Connection(..), SocketQuery::Connections(None)) => true,
        (Socket::Connection(connection, _), SocketQuery::Connections(Some(port))) => {
            connection.local.port() == port
        }
        (Socket::Connection(connection, _), SocketQuery::CallsTo(port)) => connection.peer.port() == port,
        _ => false,
    }
}

/// `  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 12345 …`
fn socket(line: &str) -> Option<Socket> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (local, peer) = (address(words.next()?)?, address(words.next()?)?);
    let state = words.next()?;
    let (unacknowledged, unread) = words.next()?.split_once(':')?;
    let queue = |text: &str, fin: u32| Some(u32::from_str_radix(text, 16).ok()?.saturating_sub(fin));
    let inode = words.nth(4)?.parse().ok()?;
    // The states of include/net/tcp_states.h. A FIN has a place in the queue as if it were a byte.
    let (stage, fin_in, fin_out) = match state {
        "0A" => return Some(Socket::Listener(local)),
        "01" => (TcpState::Open, 0, 0),
        "08" => (TcpState::HalfClosed, 1, 0),
        "04" => (TcpState::Closing, 0, 1),
        "09" | "0B" => (TcpState::Closing, 1, 1),
        _ => return None,
    };
    let mut id = DefaultHasher::new();
    (local, peer).hash(&mut id);
    let connection = TcpConnection {
        id: id.finish(),
        local,
        peer,
        stage,
        unread: queue(unread, fin_in)?,
        unacknowledged: queue(unacknowledged, fin_out)?,
        traffic: None,
    };
    Some(Socket::Connection(connection, Inode(inode)))
}

/// Each group of eight digits is four bytes in the order of this machine.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let mut bytes = Vec::with_capacity(16);
    for group in ip.as_bytes().chunks(8) {
        let number = u32::from_str_radix(std::str::from_utf8(group).ok()?, 16).ok()?;
        bytes.extend(number.to_ne_bytes());
    }
    let ip = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(octets) => IpAddr::from(Ipv4Addr::from(octets)),
        Err(_) => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?)),
    };
    Some(SocketAddr::new(
        ip.to_canonical(),
        u16::from_str_radix(port, 16).ok()?,
    ))
}

/// The namespace's own addresses: those that the routes call local, and those of its IPv6 interfaces.
pub(super) fn addresses(folder: &Path) -> Vec<IpAddr> {
    let read = |name| {
        let mut text = String::new();
        // What cannot be read is not there: the peer's own address still tells what is inside.
        let _ =
            File::open(folder.join(name)).and_then(|file| file.take(MAX_ADDRESSES).read_to_string(&mut text));
        text
    };
    let mut found = local_routes(&read("fib_trie"));
    found.extend(read("if_inet6").lines().filter_map(interface_address));
    found.sort_unstable();
    found.dedup();
    found
}

/// `|-- 10.0.0.5` and, on the line behind it, `/32 host LOCAL`.
fn local_routes(trie: &str) -> Vec<IpAddr> {
    let mut leaf = None;
    let mut found = Vec::new();
    for line in trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(leaf.map(IpAddr::from));
        }
    }
    found
}

/// `fe80000000000000…  02 40 20 80 eth0`
fn interface_address(line: &str) -> Option<IpAddr> {
    let digits = line
        .split_ascii_whitespace()
        .next()
        .filter(|digits| digits.len() == 32)?;
    let number = u128::from_str_radix(digits, 16).ok()?;
    Some(IpAddr::from(Ipv6Addr::from(number)).to_canonical())
}

/// The sockets that the process of that folder has open.
pub(super) fn own(descriptors: &Path) -> Vec<Inode> {
    let entries = std::fs::read_dir(descriptors).into_iter().flatten().flatten();
    let links = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let mut inodes: Vec<Inode> = links
        .filter_map(|link| {
            let number = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(Inode(number.parse().ok()?))
        })
        .collect();
    inodes.sort_unstable();
    inodes
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const PROC_NET: &str = "/proc/self/net";

    fn all(wanted: SocketQuery) -> Vec<Socket> {
        let mut sockets = Vec::new();
        let mut list = list(&[PROC_NET.into()], wanted);
        while list.next(&mut sockets).unwrap() {}
        sockets
    }

    #[test]
    fn the_sockets_of_this_kernel_are_read_with_what_is_unread() {
        use std::io::Write;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        let (_accepted, peer) = listener.accept().unwrap();
        client.write_all(b"twelve bytes").unwrap();
        assert!(all(SocketQuery::Listeners).contains(&Socket::Listener(address)));
        let connections = all(SocketQuery::Connections(Some(address.port())));
        let [Socket::Connection(connection, inode)] = connections.as_slice() else {
            panic!("{connections:?}");
        };
        assert_eq!((connection.local, connection.peer), (address, peer));
        assert_eq!((connection.unread, connection.unacknowledged), (12, 0));
        assert_eq!((connection.stage, connection.traffic), (TcpState::Open, None));
        assert!(own(Path::new("/proc/self/fd")).contains(inode));
        assert_eq!(all(SocketQuery::CallsTo(address.port())).len(), 1);
    }

    #[test]
    fn lines_of_both_families_are_read_and_nonsense_is_not() {
        let line = |local: &str, state: &str, queues: &str| {
            format!(
                "  1: {local} 0901000A:1092 {state} {queues} 00:00000000 00000000  1000  0 4711 2 0 20 4 30 10 -1"
            )
        };
        let Some(Socket::Connection(connection, inode)) =
            socket(&line("0500000A:1F90", "08", "00000003:00000001"))
        else {
            panic!("not read");
        };
        assert_eq!(connection.local.to_string(), "10.0.0.5:8080");
        assert_eq!(connection.peer.to_string(), "10.0.1.9:4242");
        assert_eq!(
            (connection.unacknowledged, connection.unread),
            (3, 0),
            "the FIN is no byte"
        );
        assert_eq!((connection.stage, inode), (TcpState::HalfClosed, Inode(4711)));
        let mapped = address("0000000000000000FFFF00000500000A:1F90").unwrap();
        assert_eq!(mapped.to_string(), "10.0.0.5:8080");
        let last_ack = socket(&line("0500000A:1F90", "09", "00000001:00000001"));
        assert!(
            matches!(last_ack, Some(Socket::Connection(c, _)) if c.unacknowledged == 0 && c.stage == TcpState::Closing)
        );
        for nonsense in [
            "",
            "  sl  local_address rem_address   st",
            "1: x:y z 01 0:0",
            "1: 0500000A:1F90",
        ] {
            assert_eq!(socket(nonsense), None, "{nonsense}");
        }
        for state in ["06", "05", "02", "03", "07", "ZZ"] {
            assert_eq!(socket(&line("0500000A:1F90", state, "0:0")), None, "{state}");
        }
    }

    #[test]
    fn the_addresses_of_the_namespace_are_those_that_its_routes_call_local() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 10.0.0.5\n        \
                    /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n";
        assert_eq!(local_routes(trie), [IpAddr::from([10, 0, 0, 5])]);
        let six = interface_address("fe800000000000000242acfffe110002 02 40 20 80     eth0");
        assert_eq!(six, "fe80::242:acff:fe11:2".parse().ok());
        assert_eq!(interface_address("nonsense"), None);
        assert!(addresses(Path::new(PROC_NET)).contains(&IpAddr::from([127, 0, 0, 1])));
    }
}
