//! `NETLINK_SOCK_DIAG` (sock_diag(7)): the kernel's own list of TCP sockets, with what has moved on
//! each. No privilege is needed for the sockets of one's own network namespace.
//!
//! The kernel makes the answer while it is read, a piece of at most 32 KiB at a time, of the states
//! and ports that are asked for; nothing here waits for anything.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, IPPROTO_TCP, TCP_CLOSE_WAIT, TCP_CLOSING, TCP_ESTABLISHED, TCP_FIN_WAIT1,
    TCP_LAST_ACK, TCP_LISTEN,
};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket as Netlink, SocketAddr as NetlinkAddress};

use super::sockets::{Inode, List, Socket, SocketQuery};
use crate::core::quiet::{Counters, TcpConnection, TcpState};

/// The most that the kernel puts into one piece (`netlink_dump`, `SKB_WITH_OVERHEAD(32768)`).
const PIECE: usize = 32 * 1024;

/// The alignment of messages in a piece (netlink(7), `NLMSG_ALIGNTO`).
const ALIGNMENT: usize = 4;

/// Begins a list of both families.
pub(super) fn list(wanted: SocketQuery) -> io::Result<Box<dyn List>> {
    let first = Dump::new(AF_INET, wanted)?;
    let mut dumps = Dumps {
        now: Some(first),
        ipv6_is_next: true,
        wanted,
        piece: Vec::with_capacity(PIECE),
        ready: Vec::new(),
    };
    // A kernel without `tcp_diag` says so with the first piece.
    let mut ready = Vec::new();
    dumps.next(&mut ready)?;
    dumps.ready = ready;
    Ok(Box::new(dumps))
}

struct Dumps {
    now: Option<Dump>,
    ipv6_is_next: bool,
    wanted: SocketQuery,
    piece: Vec<u8>,
    ready: Vec<Socket>,
}

impl List for Dumps {
    fn next(&mut self, sockets: &mut Vec<Socket>) -> io::Result<bool> {
        sockets.append(&mut self.ready);
        let Some(dump) = &self.now else { return Ok(false) };
        match dump.next(&mut self.piece, sockets) {
            Ok(true) => return Ok(true),
            // A kernel without IPv6.
            Err(why) if !self.ipv6_is_next && why.kind() == io::ErrorKind::NotFound => {}
            ended => drop(ended?),
        }
        self.now = None;
        if std::mem::take(&mut self.ipv6_is_next) {
            self.now = Some(Dump::new(AF_INET6, self.wanted)?);
        }
        Ok(self.now.is_some())
    }
}

struct Dump(Netlink);

impl Dump {
    fn new(family: u8, wanted: SocketQuery) -> io::Result<Dump> {
        let socket = Netlink::new(NETLINK_SOCK_DIAG)?;
        // What the kernel does not have ready it will never have.
        socket.set_non_blocking(true)?;
        let mut socket_id = if family == AF_INET6 {
            SocketId::new_v6()
        } else {
            SocketId::new_v4()
        };
        let connections = StateFlags::ESTABLISHED
            | StateFlags::FIN_WAIT1
            | StateFlags::CLOSE_WAIT
            | StateFlags::LAST_ACK
            | StateFlags::CLOSING;
        let states = match wanted {
            SocketQuery::Listeners => StateFlags::LISTEN,
            SocketQuery::Connections(port) => {
                socket_id.source_port = port.unwrap_or(0);
                connections
            }
            SocketQuery::CallsTo(port) => {
                socket_id.destination_port = port;
                connections
            }
        };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::INFO,
            states,
            socket_id,
        };
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        socket.send_to(&bytes, &NetlinkAddress::new(0, 0), 0)?;
        Ok(Dump(socket))
    }

    fn next(&self, piece: &mut Vec<u8>, sockets: &mut Vec<Socket>) -> io::Result<bool> {
        piece.clear();
        let length = self.0.recv(piece, 0)?;
        let mut rest = piece.get(..length).unwrap_or_default();
        if rest.is_empty() {
            return Err(bad("an empty answer"));
        }
        while !rest.is_empty() {
            let length = NetlinkBuffer::new_checked(rest)
                .map_err(|why| bad(&why.to_string()))?
                .length();
            let message: NetlinkMessage<SockDiagMessage> =
                NetlinkMessage::deserialize(rest).map_err(|why| bad(&why.to_string()))?;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(false),
                NetlinkPayload::Error(error) => {
                    let code = error.code.map_or(0, |code| code.get().saturating_neg());
                    return Err(io::Error::from_raw_os_error(code));
                }
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    sockets.extend(socket(&response));
                }
                _ => {}
            }
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        }
        Ok(true)
    }
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("sock_diag: {why}"))
}

fn socket(response: &InetResponse) -> Option<Socket> {
    let header = &response.header;
    let address = |ip: IpAddr, port| SocketAddr::new(ip.to_canonical(), port);
    let id = &header.socket_id;
    let local = address(id.source_address, id.source_port);
    if header.state == TCP_LISTEN {
        return Some(Socket::Listener(local));
    }
    // The FIN of either side has a place in the queue as if it were a byte.
    let (stage, fin_in, fin_out) = match header.state {
        TCP_ESTABLISHED => (TcpState::Open, 0, 0),
        TCP_CLOSE_WAIT => (TcpState::HalfClosed, 1, 0),
        TCP_FIN_WAIT1 => (TcpState::Closing, 0, 1),
        TCP_LAST_ACK | TCP_CLOSING => (TcpState::Closing, 1, 1),
        _ => return None,
    };
    let info = response.nlas.iter().find_map(|nla| match nla {
        Nla::TcpInfo(bytes) => Some(bytes.as_slice()),
        _ => None,
    });
    let unacknowledged = header.send_queue.saturating_sub(fin_out);
    let connection = TcpConnection {
        id: u64::from_ne_bytes(id.cookie),
        local,
        peer: address(id.destination_address, id.destination_port),
        stage,
        unread: header.recv_queue.saturating_sub(fin_in),
        unacknowledged,
        traffic: info.and_then(|info| traffic(info, fin_in, unacknowledged)),
    };
    Some(Socket::Connection(connection, Inode(header.inode.into())))
}

/// Reads `struct tcp_info` (include/uapi/linux/tcp.h), which only ever grows at its end.
fn traffic(info: &[u8], fin_in: u32, unacknowledged: u32) -> Option<Counters> {
    let u32_at = |at: usize| Some(u32::from_ne_bytes(info.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_ne_bytes(info.get(at..at + 8)?.try_into().ok()?));
    let ago = |at| Some(Duration::from_millis(u32_at(at)?.into()));
    let (packets_out, packets_in) = (u32_at(136)?, u32_at(140)?);
    let (data_in, data_out) = (u32_at(152)?, u32_at(156)?);
    let acknowledged = u64_at(120)?;
    // Linux 4.19 counts what was sent; before, what was acknowledged and what waits for that.
    let sent = u64_at(200)
        .zip(u64_at(208))
        .map(|(sent, again)| sent.saturating_sub(again));
    Some(Counters {
        bytes_in: u64_at(128)?.saturating_sub(fin_in.into()),
        bytes_out: sent.unwrap_or(acknowledged + u64::from(unacknowledged)),
        since_out: ago(44)?,
        since_in: ago(52)?,
        since_ack: ago(56)?,
        packets_in: data_in,
        bare_in: packets_in.wrapping_sub(data_in),
        bare_out: packets_out.wrapping_sub(data_out),
    })
}
