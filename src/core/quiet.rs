//! Whom the app owes an answer, judged from one look at its connections to the next.
//!
//! A look is a list of connections as the kernel describes them: bytes in and out, how long ago, what
//! is queued. The [`Judge`] takes them one by one and keeps only those that owe or moved lately, so
//! that a hundred thousand idle ones cost no memory. It knows nothing of sockets, and has no clock.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::core::step::QuietStep;

/// How many connections are remembered from one look to the next: those beyond are judged by what one
/// look says of them. At most 500 KiB, and more than an app answers at the same time.
pub const MAX_REMEMBERED: usize = 1536;

/// How many of those that owe are named.
pub const MAX_NAMED: usize = 5;

/// The least between two looks: an answer's end shows in its own time, so nothing is gained by more.
const LEAST_PAUSE: Duration = Duration::from_millis(20);

/// Connections that close while they owe end at a look, since nothing is left that would say when; a
/// look each tenth of a second keeps the end of the step as near.
const USUAL_PAUSE: Duration = Duration::from_millis(100);

/// What a look may cost of one processor, as a share: a tenth, and twice that where each needs a second one.
const COST_SHARE: u32 = 10;

/// However much a look costs.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The last bytes of both directions may be of the same jiffy, and nothing tell which came last, where
/// they are older than the first look; nor whether what went out early in a connection was an answer or
/// the session tickets of TLS. For that long the connection counts as owing. It is then an idle one of a
/// balancer, but for a request that came on the heels of an answer, or of a handshake, and takes longer.
pub const UNCLEAR: Duration = Duration::from_secs(10);

/// The longest that Linux holds an acknowledgement back (net/ipv4/tcp_output.c, `tcp_send_delayed_ack`:
/// half a second), and some.
const ACKNOWLEDGED_BY_NOW: Duration = Duration::from_millis(600);

/// An acknowledgement that is younger than the last bytes by less than that may have come with them. The kernel
/// notes the time of the bytes before that of the acknowledgement in the same packet
/// (net/ipv4/tcp_input.c, `tcp_rcv_established`), and a tick between the two makes them differ: by 10 ms where
/// a jiffy is longest, by more where the processor is taken away in that very moment. One that Linux holds
/// back comes 40 ms after the bytes at the least (include/net/tcp.h, `TCP_DELACK_MIN`).
const ACKNOWLEDGED_WITH_BYTES: Duration = Duration::from_millis(30);

/// A look that comes that long after the one before it may be the first thing that happens after a pause of the
/// machine: acknowledgements that were due meanwhile (200 ms after the bytes, `TCP_DELACK_MAX`) go out with the
/// next tick only, and what was sent meanwhile comes in then.
const AFTER_PAUSE: Duration = Duration::from_millis(300);

/// A server of TLS 1.3 sends session tickets unasked as soon as the handshake is done (RFC 8446, section
/// 4.6.1), while the first request lies unread or is worked on: the last byte is then the app's though the
/// answer is due. That is one of the first packets of a connection: ClientHello in up to two, the client's
/// Finished in up to two, and the beginning of a request, which has more only where it is longer.
const FIRST_PACKETS: u64 = 6;

/// The payload of a full packet, at the least MTU of IPv6 and with TCP's timestamps (RFC 8200, section 5).
const FULL_PACKET: u64 = 1208;

/// The least that the client of such a connection has sent: a ClientHello, a Finished, a request.
const LEAST_IN: u64 = 200;

/// The least that its server has: the end of a resumed handshake and a ticket.
const LEAST_OUT: u64 = 300;

/// A first request of which more than that has come in has been read further than to the Finished: Linux
/// offers no larger window to begin with (net/ipv4/tcp_output.c, `tcp_select_initial_window`).
const MOST_IN: u64 = 64 * 1024;

/// A handshake does not rest for that long after the ClientHello, even where two packets in a row are
/// lost (RFC 6298, section 2: a second, then two). A port where a connection does is plain.
const HANDSHAKE_OVER: Duration = Duration::from_secs(3);

/// A server that has read the client's Finished sends its tickets by then: what goes out later is an answer.
const TICKETS_BY_NOW: Duration = Duration::from_secs(1);

/// The last look comes that long before the deadline, so that what it saw is told in time.
const BEFORE_DEADLINE: Duration = Duration::from_millis(100);

/// A TCP connection as one look saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpConnection {
    /// The same at each look, and of no other connection.
    pub id: u64,
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
    pub stage: TcpState,
    /// Bytes that the app has not read.
    pub unread: u32,
    /// Bytes that the app has written and the peer has not acknowledged.
    pub unacknowledged: u32,
    /// What has moved; missing where the kernel does not tell.
    pub traffic: Option<Counters>,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpState {
    /// Both sides may send.
    Open,
    /// The peer sends no more, the app may.
    HalfClosed,
    /// The app sends no more than what is queued.
    Closing,
}

/// What has moved on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// How long ago the last of them came in, in steps of a jiffy; as old as the connection where none has.
    pub since_in: Duration,
    /// The same for those that went out.
    pub since_out: Duration,
    /// How long ago the last acknowledgement came in.
    pub since_ack: Duration,
    /// Packets with data that came in.
    pub packets_in: u32,
    /// Packets without data that came in.
    pub bare_in: u32,
    /// Packets without data that went out.
    pub bare_out: u32,
}

/// What one look showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// Connections that count.
    pub open: usize,
    /// Those of them that owe an answer, or may.
    pub owing: usize,
    /// Those of them of which the kernel does not say whose byte was the last.
    pub unclear: usize,
    /// Some of these, oldest first, at most [`MAX_NAMED`].
    pub named: Vec<Owed>,
    /// When the step is done if nothing moves any more; missing while anybody is owed an answer.
    pub quiet_at: Option<Instant>,
    /// Who moved a byte last.
    pub last_mover: Option<SocketAddr>,
}

impl Picture {
    /// Those that owe without a doubt: what one look alone can count.
    pub fn surely_owing(&self) -> usize {
        self.owing - self.unclear
    }
}

/// Somebody who is owed an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owed {
    /// The client, or the proxy in front of it.
    pub peer: SocketAddr,
    pub for_ms: u64,
}

/// Judges look by look.
#[derive(Debug)]
pub struct Judge {
    /// Whether only silence counts.
    moves: bool,
    silence: Duration,
    /// When the first look began.
    first: Option<Instant>,
    /// When the last one did, and whether it came after a pause.
    latest: Option<(Instant, bool)>,
    /// What the last look left.
    before: HashMap<u64, Memory>,
    /// What this one will leave.
    after: HashMap<u64, Memory>,
    /// Whether this look, or the last, saw connections that there was no room to remember.
    forgot: (bool, bool),
    /// When a byte moved last, on any connection of any look.
    last_move: Option<(Instant, Option<SocketAddr>)>,
    /// When an answer that was owed was complete, for the last time.
    last_answer: Option<Instant>,
    /// Ports where something was seen that cannot be TLS.
    plain: Ports,
    present: Picture,
}

/// What is kept of a connection from one look to the next.
#[derive(Clone, Copy, Debug)]
struct Memory {
    bytes_in: u64,
    bytes_out: u64,
    since_out: Duration,
    bare: Bare,
    /// The same at the last look before the last byte moved, where there was one.
    before_move: Option<Bare>,
    /// What the counters of two looks told where the times of one do not, until a byte moves again.
    counted: Option<Claim>,
    tickets: Tickets,
    verdict: Claim,
    owed_since: Instant,
}

/// Packets without data, in and out.
#[derive(Clone, Copy, Debug)]
struct Bare(u32, u32);

/// What the looks have told of the session tickets that the client of a connection may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tickets {
    /// Nothing has gone out since the last bytes came in, or only what answers the ClientHello.
    Due,
    /// Tickets or an answer have gone out.
    MaybeSent,
    /// Whatever goes out is an answer.
    Past,
}

/// Whether a connection owes an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    Owes,
    Rests,
    /// The last bytes of both directions moved in the same jiffy, or what went out may be session tickets.
    Unclear,
}

impl Tickets {
    /// `direction`: whose byte was the last, whatever lies in a queue: tickets that are not acknowledged yet have
    /// gone out.
    fn first_seen(traffic: &Counters, direction: Claim) -> Tickets {
        if direction == Claim::Rests && traffic.packets_in > 1 {
            Tickets::MaybeSent
        } else {
            Tickets::Due
        }
    }
}

impl Memory {
    fn tickets_since(&self, traffic: &Counters, direction: Claim) -> Tickets {
        let more_in = traffic.bytes_in > self.bytes_in;
        let more_out = traffic.bytes_out > self.bytes_out;
        match (self.tickets, more_in, more_out) {
            (Tickets::Past, ..) => Tickets::Past,
            // The tickets are the first part that goes out, the answer is what follows. They may be several packets
            // one after the other.
            (Tickets::MaybeSent, false, true) if self.since_out >= LEAST_PAUSE => Tickets::Past,
            (Tickets::MaybeSent, false, _) => Tickets::MaybeSent,
            _ => Tickets::first_seen(traffic, direction),
        }
    }

    /// Whose bytes have moved since: those of one side alone leave no doubt.
    fn counted_since(&self, traffic: &Counters) -> Option<Claim> {
        let more_in = traffic.bytes_in > self.bytes_in;
        let more_out = traffic.bytes_out > self.bytes_out;
        match (more_in, more_out) {
            (true, false) => Some(Claim::Owes),
            (false, true) => Some(Claim::Rests),
            (false, false) => self.counted,
            (true, true) => None,
        }
    }
}

impl Judge {
    pub fn new(step: &QuietStep) -> Judge {
        Judge {
            moves: step.moves,
            silence: step.silence,
            first: None,
            latest: None,
            before: HashMap::new(),
            after: HashMap::new(),
            forgot: (false, false),
            last_move: None,
            last_answer: None,
            plain: Ports::default(),
            present: Picture::default(),
        }
    }

    /// Takes the next connection of a look; `now` is no earlier than when the kernel described it.
    pub fn see(&mut self, connection: &TcpConnection, now: Instant) {
        let before = self.before.remove(&connection.id);
        let traffic = connection.traffic.unwrap_or_default();
        let before_move = before.and_then(|before| {
            let moved = (before.bytes_in, before.bytes_out) != (traffic.bytes_in, traffic.bytes_out);
            if moved {
                Some(before.bare)
            } else {
                before.before_move
            }
        });
        let counted = before.and_then(|before| before.counted_since(&traffic));
        let direction = last_byte(&traffic, counted, before_move);
        let by_last_byte = self.verdict(connection, direction);
        let mut tickets = before.map_or_else(
            || Tickets::first_seen(&traffic, direction),
            |before| before.tickets_since(&traffic, direction),
        );
        let read = direction == Claim::Owes && traffic.packets_in > 1 && connection.unread == 0;
        if tickets == Tickets::Due && read && traffic.since_in >= TICKETS_BY_NOW {
            tickets = Tickets::Past;
        }
        if cannot_be_tls(connection) {
            self.plain.insert(connection.local.port());
        }
        let is_young = !self.moves
            && connection.stage != TcpState::Closing
            && may_be_first_of_tls(&traffic)
            && !self.plain.contains(connection.local.port());
        let answered = by_last_byte == Claim::Rests;
        let verdict = if answered && is_young && tickets == Tickets::MaybeSent {
            Claim::Unclear
        } else {
            by_last_byte
        };
        let moved_ago = traffic.since_in.min(traffic.since_out);
        let moved = now
            .checked_sub(moved_ago)
            .filter(|_| connection.traffic.is_some());
        if let Some(moved) = moved {
            self.note_move(moved, connection.peer);
        }
        let unclear_for_long = moved_ago > UNCLEAR.max(self.silence);
        let owes = match verdict {
            Claim::Owes => true,
            Claim::Unclear => !unclear_for_long,
            Claim::Rests => false,
        };
        let owed_before = before.filter(|before| before.verdict != Claim::Rests);
        let owed_since = match owed_before {
            Some(before) => before.owed_since,
            None => now.checked_sub(traffic.since_in).unwrap_or(now),
        };
        self.present.open += 1;
        if owes {
            self.present.owing += 1;
            self.present.unclear += usize::from(verdict == Claim::Unclear);
            self.name(connection.peer, now.saturating_duration_since(owed_since));
        } else if owed_before
            .is_some_and(|before| before.verdict == Claim::Owes || before.bytes_out < traffic.bytes_out)
        {
            self.last_answer = self.last_answer.max(moved.or(Some(now)));
        }
        let remembered_for = if is_young { UNCLEAR } else { ACKNOWLEDGED_BY_NOW };
        if owes || moved_ago <= self.silence.max(remembered_for) {
            if self.after.len() < MAX_REMEMBERED {
                let memory = Memory {
                    bytes_in: traffic.bytes_in,
                    bytes_out: traffic.bytes_out,
                    since_out: traffic.since_out,
                    bare: Bare(traffic.bare_in, traffic.bare_out),
                    before_move,
                    counted,
                    tickets,
                    verdict,
                    owed_since,
                };
                self.after.insert(connection.id, memory);
            } else {
                self.forgot.1 |= owes;
            }
        }
    }

    /// The look is over: every connection there is has been seen. `now` is when it began.
    pub fn end_look(&mut self, now: Instant) -> Picture {
        // Those that are gone have moved a byte since the last look if they owed one then.
        let gone = self.before.values().any(|memory| memory.verdict != Claim::Rests);
        if gone {
            self.last_answer = Some(now);
        }
        if gone || self.forgot.0 {
            self.last_move = self.last_move.max(Some((now, None)));
        }
        self.before = std::mem::take(&mut self.after);
        self.forgot = (self.forgot.1, false);
        // Of two late looks in a row the second counts: where each look takes long, none would.
        let late = self
            .latest
            .is_some_and(|(latest, late)| !late && now.saturating_duration_since(latest) > AFTER_PAUSE);
        let stands_alone = self.latest.is_none() || late;
        self.latest = Some((now, late));
        let first = *self.first.get_or_insert(now);
        let mut picture = std::mem::take(&mut self.present);
        picture.last_mover = self.last_move.and_then(|(_, peer)| peer);
        if picture.owing == 0 {
            let silent = self.last_move.map_or(first, |(moved, _)| moved + self.silence);
            // One look alone may miss a connection whose place in the kernel's table changes meanwhile.
            picture.quiet_at = Some(if stands_alone {
                silent.max(now + LEAST_PAUSE)
            } else {
                silent
            });
        }
        picture
    }

    /// The look has failed midway: what it saw counts for nothing but that it moved.
    pub fn drop_look(&mut self) {
        // A connection that was taken out of the memory is put back as it was seen last.
        for (id, memory) in std::mem::take(&mut self.after) {
            self.before.insert(id, memory);
        }
        self.forgot.0 |= std::mem::take(&mut self.forgot.1);
        self.present = Picture::default();
    }

    /// When an answer that was owed was complete, for the last time.
    pub fn last_answer(&self) -> Option<Instant> {
        self.last_answer
    }

    fn verdict(&self, connection: &TcpConnection, direction: Claim) -> Claim {
        let closing = connection.stage == TcpState::Closing;
        if connection.unacknowledged > 0 || (connection.unread > 0 && !closing) {
            return Claim::Owes;
        }
        match &connection.traffic {
            _ if closing => Claim::Rests,
            None => Claim::Owes,
            Some(_) if self.moves => Claim::Rests,
            Some(_) => direction,
        }
    }

    fn note_move(&mut self, at: Instant, peer: SocketAddr) {
        if self.last_move.is_none_or(|(last, _)| last < at) {
            self.last_move = Some((at, Some(peer)));
        }
    }

    fn name(&mut self, peer: SocketAddr, for_how_long: Duration) {
        let for_ms = crate::core::timeline::millis(for_how_long);
        let named = &mut self.present.named;
        let place = named.partition_point(|owed| owed.for_ms >= for_ms);
        if place < MAX_NAMED {
            named.truncate(MAX_NAMED - 1);
            named.insert(place, Owed { peer, for_ms });
        }
    }
}

/// Whose byte was the last: the peer's is a request, the app's the end of an answer, for all that is
/// known of it.
fn last_byte(traffic: &Counters, counted: Option<Claim>, before_move: Option<Bare>) -> Claim {
    if traffic.bytes_in == 0 {
        return Claim::Rests;
    }
    if traffic.bytes_out == 0 || traffic.since_in < traffic.since_out {
        return Claim::Owes;
    }
    if traffic.since_in > traffic.since_out {
        return Claim::Rests;
    }
    counted.unwrap_or_else(|| same_jiffy(traffic, before_move))
}

/// TCP acknowledges every packet: with the data that goes the other way anyway, or else with a bare
/// packet. Which bare ones there were tells which data came last.
fn same_jiffy(traffic: &Counters, before_move: Option<Bare>) -> Claim {
    // A server does not speak before it is asked: what went out after the only packet is its answer.
    if traffic.packets_in == 1 {
        return Claim::Rests;
    }
    // A request carries the acknowledgement of the answer before it; one that comes by itself later is
    // that of an answer with nothing behind it. Much later it is that of a probe of the connection.
    let younger = traffic.since_in.saturating_sub(traffic.since_ack);
    if (ACKNOWLEDGED_WITH_BYTES..=ACKNOWLEDGED_BY_NOW).contains(&younger) {
        return Claim::Rests;
    }
    if traffic.since_in < ACKNOWLEDGED_BY_NOW {
        return Claim::Unclear;
    }
    // A request that has not been answered has been acknowledged barely by now. Without an earlier look
    // the comparison is with the beginning of the connection.
    let bare_out = before_move.map_or(0, |Bare(_, out)| out);
    if traffic.bare_out == bare_out {
        return Claim::Rests;
    }
    // And an answer with nothing behind it would have been by the peer.
    if before_move.is_some_and(|Bare(came, _)| traffic.bare_in == came) {
        return Claim::Owes;
    }
    Claim::Unclear
}

/// Whether it may be a connection of TLS 1.3 whose first request is not answered though tickets have gone out.
fn may_be_first_of_tls(traffic: &Counters) -> bool {
    let most_packets = FIRST_PACKETS + traffic.bytes_in / FULL_PACKET;
    (2..=most_packets).contains(&traffic.packets_in.into())
        && (LEAST_IN..=MOST_IN).contains(&traffic.bytes_in)
        && traffic.bytes_out >= LEAST_OUT
}

/// Whether it shows that its port is no TLS: a handshake takes two packets of the client one after the other.
fn cannot_be_tls(connection: &TcpConnection) -> bool {
    let Some(traffic) = connection.traffic.filter(|_| connection.stage == TcpState::Open) else {
        return false;
    };
    let rests_after_one = traffic.packets_in == 1 && traffic.since_in >= HANDSHAKE_OVER;
    let too_small = traffic.packets_in > 1 && traffic.bytes_in < LEAST_IN && traffic.bytes_out > 0;
    connection.unread == 0 && (rests_after_one || too_small)
}

/// Which connections count.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The step's ports; empty for all.
    pub ports: Vec<u16>,
    /// The sidecar's own port, which never counts.
    pub own_port: Option<u16>,
    /// The addresses of this network namespace, beside loopback.
    pub inside: Vec<IpAddr>,
    /// The sidecar's own ends of connections to the app.
    pub own_calls: Vec<SocketAddr>,
    /// Every port that was ever seen listening.
    pub heard: Ports,
}

impl Watched {
    pub fn counts(&self, local: SocketAddr, peer: SocketAddr) -> bool {
        let port = local.port();
        if Some(port) == self.own_port || !self.heard.contains(port) {
            return false;
        }
        if self.ports.is_empty() {
            self.is_outside(local.ip(), peer.ip())
        } else {
            self.ports.contains(&port) && !self.own_calls.contains(&peer)
        }
    }

    /// Notes a listener that is the app's.
    pub fn hear(&mut self, address: SocketAddr) {
        let port = address.port();
        let wanted = if self.ports.is_empty() {
            // Nobody from outside gets to loopback: an app's debugger, Docker's resolver.
            !address.ip().to_canonical().is_loopback()
        } else {
            self.ports.contains(&port)
        };
        if wanted && Some(port) != self.own_port {
            self.heard.insert(port);
        }
    }

    fn is_outside(&self, local: IpAddr, peer: IpAddr) -> bool {
        let (local, peer) = (local.to_canonical(), peer.to_canonical());
        !peer.is_loopback() && peer != local && !self.inside.contains(&peer)
    }
}

/// A set of ports, of one size whatever is in it.
#[derive(Clone, Debug)]
pub struct Ports(Box<[u64; 1024]>);

impl Default for Ports {
    fn default() -> Ports {
        Ports(Box::new([0; 1024]))
    }
}

impl Ports {
    pub fn insert(&mut self, port: u16) {
        self.0[usize::from(port / 64)] |= 1 << (port % 64);
    }

    pub fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port / 64)] >> (port % 64) & 1 == 1
    }

    /// Adds all of another set.
    pub fn extend(&mut self, other: &Ports) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0.iter()) {
            *mine |= theirs;
        }
    }

    /// The lowest ones, at most `n`.
    pub fn first(&self, n: usize) -> Vec<u16> {
        (1..=u16::MAX)
            .filter(|port| self.contains(*port))
            .take(n)
            .collect()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

/// When to look again, after a look that took `cost`.
pub fn next_look(step: &QuietStep, picture: &Picture, cost: Duration, now: Instant) -> Instant {
    let affordable = (cost * COST_SHARE).max(USUAL_PAUSE.min(step.silence / 4));
    let pause = now + affordable.clamp(LEAST_PAUSE, LONGEST_PAUSE);
    match picture.quiet_at {
        // The very moment at which it may be over. That may have gone by during the look, which was too early for it.
        Some(quiet_at) if quiet_at + cost > now => pause.min(quiet_at.max(now + LEAST_PAUSE)),
        _ => pause,
    }
}

/// When the step has to be over: by its own `within`, early enough for the steps behind it, or just before the deadline.
pub fn limit(step: &QuietStep, more_behind: bool, started: Instant, deadline: Instant) -> Instant {
    let left = deadline.saturating_duration_since(started);
    let own = match step.within {
        Some(within) => within,
        None if more_behind => left * 3 / 4,
        None => left,
    };
    // Of the last moments the deadline itself may need some to be told.
    started + own.min(left.saturating_sub(BEFORE_DEADLINE.min(left / 4)))
}

#[cfg(test)]
mod tests;
