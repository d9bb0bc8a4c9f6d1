use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

const JIFFY: u64 = 4;

fn peer() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 9], 4242))
}

fn app() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 5], 8080))
}

fn step(silence_ms: u64) -> QuietStep {
    QuietStep {
        silence: Duration::from_millis(silence_ms),
        ..QuietStep::default()
    }
}

/// Bytes in and out, and milliseconds since the last of each.
fn open(bytes_in: u64, bytes_out: u64, since_in: u64, since_out: u64) -> TcpConnection {
    TcpConnection {
        id: 1,
        local: app(),
        peer: peer(),
        stage: TcpState::Open,
        unread: 0,
        unacknowledged: 0,
        traffic: Some(Counters {
            bytes_in,
            bytes_out,
            since_in: Duration::from_millis(since_in),
            since_out: Duration::from_millis(since_out),
            since_ack: Duration::from_millis(since_in.min(since_out)),
            packets_in: 2,
            bare_in: 2,
            bare_out: 2,
        }),
    }
}

fn start() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

fn look(judge: &mut Judge, now: Instant, connections: &[TcpConnection]) -> Picture {
    for connection in connections {
        judge.see(connection, now);
    }
    judge.end_look(now)
}

/// Whether a single connection owes at the first look.
fn owes(connection: TcpConnection) -> bool {
    look(&mut Judge::new(&step(1000)), start(), &[connection]).owing == 1
}

#[test]
fn the_direction_of_the_last_byte_decides() {
    assert!(!owes(open(0, 0, 500, 500)), "never used");
    assert!(!owes(open(0, 40, 900, 500)), "a server that greets");
    assert!(!owes(open(18, 19, 2176, 2124)), "idle keep-alive");
    assert!(owes(open(18, 0, 2124, 2176)), "worked on");
    assert!(
        owes(open(18, 0, 2124, 2124)),
        "worked on, sent with the handshake"
    );
    assert!(!owes(open(18, 66, 2124, 124)), "an answer that has begun");
    assert!(owes(open(36, 66, 100, 2124)), "the second request");
}

#[test]
fn bytes_in_a_queue_owe_whoever_sent_last() {
    let rests = open(18, 19, 3000, 2000);
    assert!(owes(TcpConnection { unread: 1, ..rests }));
    assert!(owes(TcpConnection {
        unacknowledged: 1,
        ..rests
    }));
    let half = TcpState::HalfClosed;
    assert!(!owes(TcpConnection { stage: half, ..rests }));
    assert!(owes(TcpConnection {
        stage: half,
        ..open(19, 0, 100, 200)
    }));
}

#[test]
fn a_closing_connection_owes_what_is_queued_and_nothing_else() {
    let closing = TcpConnection {
        stage: TcpState::Closing,
        ..open(18, 0, 100, 200)
    };
    assert!(!owes(closing));
    assert!(!owes(TcpConnection { unread: 7, ..closing }));
    assert!(owes(TcpConnection {
        unacknowledged: 7,
        ..closing
    }));
    assert!(!owes(TcpConnection {
        traffic: None,
        ..closing
    }));
}

#[test]
fn an_open_connection_that_the_kernel_tells_nothing_of_owes() {
    let untold = TcpConnection {
        traffic: None,
        ..open(0, 0, 0, 0)
    };
    assert!(owes(untold));
    assert!(owes(TcpConnection {
        stage: TcpState::HalfClosed,
        ..untold
    }));
}

#[test]
fn with_moves_only_silence_and_queues_count() {
    let moves = QuietStep {
        moves: true,
        ..step(1000)
    };
    let picture = |connection| look(&mut Judge::new(&moves), start(), &[connection]);
    assert_eq!(picture(open(36, 66, 3000, 5000)).owing, 0);
    assert_eq!(
        picture(TcpConnection {
            unread: 9,
            ..open(36, 66, 3000, 5000)
        })
        .owing,
        1
    );
    let now = start();
    let picture = look(&mut Judge::new(&moves), now, &[open(36, 66, 300, 5000)]);
    assert_eq!(picture.quiet_at, Some(now + Duration::from_millis(700)));
}

#[test]
fn within_one_jiffy_the_counters_tell_what_the_times_do_not() {
    let now = start();
    let mut judge = Judge::new(&step(1000));
    assert_eq!(
        look(&mut judge, now, &[open(18, 19, 4, 0)]).owing,
        0,
        "just answered"
    );
    let soon = now + Duration::from_millis(2);
    assert_eq!(
        look(&mut judge, soon, &[open(36, 19, 0, 0)]).owing,
        1,
        "and asked again"
    );
    let later = now + Duration::from_secs(30);
    let picture = look(&mut judge, later, &[open(36, 19, 30_000, 30_000)]);
    assert_eq!(picture.owing, 1, "however long that takes");
    assert_eq!(picture.named[0].for_ms, 30_000 - 2);
    let answered = later + Duration::from_millis(50);
    assert_eq!(look(&mut judge, answered, &[open(36, 38, 30_050, 10)]).owing, 0);
    assert_eq!(judge.last_answer(), Some(answered - Duration::from_millis(10)));
}

#[test]
fn what_was_acknowledged_barely_tells_the_rest() {
    let with = |change: fn(&mut Counters)| {
        let mut connection = open(180, 190, 700, 700);
        change(connection.traffic.as_mut().unwrap());
        owes(connection)
    };
    assert!(with(|_| {}), "nothing tells: it may owe");
    assert!(
        !with(|traffic| traffic.packets_in = 1),
        "a server does not speak first"
    );
    assert!(!with(|traffic| traffic.since_ack = Duration::from_millis(660)));
    assert!(!with(|traffic| traffic.bare_out = 0));
}

#[test]
fn a_tick_between_a_request_and_the_acknowledgement_in_its_packet_is_no_sign_of_rest() {
    let with_ack = |since_ack| {
        let mut connection = open(180, 190, 700, 700);
        connection.traffic.as_mut().unwrap().since_ack = Duration::from_millis(since_ack);
        owes(connection)
    };
    for jiffy in [1, 4, 10] {
        assert!(with_ack(700 - jiffy), "a jiffy of {jiffy} ms");
    }
    assert!(
        !with_ack(660),
        "held back for 40 ms: of an answer with nothing behind it"
    );
    assert!(with_ack(20), "of a probe, long after both");
}

#[test]
fn a_look_after_a_pause_of_the_machine_is_never_enough() {
    // A request on the heels of an answer, and the machine stands still before it is acknowledged barely.
    let asked = |ago, bare_out| {
        let mut connection = open(180, 190, ago, ago);
        connection.traffic.as_mut().unwrap().bare_out = bare_out;
        connection
    };
    let start = start();
    let mut judge = Judge::new(&step(1000));
    assert_eq!(look(&mut judge, start, &[asked(8, 0)]).owing, 1);
    let resumed = start + Duration::from_secs(3);
    let picture = look(&mut judge, resumed, &[asked(3008, 0)]);
    assert!(picture.quiet_at.is_none_or(|at| at > resumed), "{picture:?}");
    let next = next_look(&step(1000), &picture, Duration::ZERO, resumed);
    assert!(next <= resumed + Duration::from_millis(25), "it is not put off");
    assert_eq!(look(&mut judge, next, &[asked(3028, 1)]).owing, 1, "it owes");
}

#[test]
fn a_look_after_a_pause_that_takes_long_is_followed_by_the_one_that_it_needs() {
    let mut judge = Judge::new(&step(1000));
    let ms = Duration::from_millis;
    let idle = [open(100, 300, 9000, 8000)];
    look(&mut judge, start(), &idle);
    // The step's turn, 2 s after the look before it; on a busy machine a look takes 180 ms.
    let turn = start() + ms(2000);
    let picture = look(&mut judge, turn, &idle);
    assert!(
        picture.quiet_at.is_some_and(|at| at > turn),
        "it needs a second look"
    );
    let over = turn + ms(180);
    let second = next_look(&step(1000), &picture, over - turn, over);
    assert!(
        look(&mut judge, second, &idle)
            .quiet_at
            .is_some_and(|at| at <= second)
    );
    assert!(second - turn <= ms(300), "{:?}", second - turn);
}

#[test]
fn looks_that_take_long_each_still_come_to_an_end() {
    let start = start();
    let mut judge = Judge::new(&step(1000));
    let quiet_at = |judge: &mut Judge, seconds| {
        let at = start + Duration::from_secs(seconds);
        look(judge, at, &[]).quiet_at.unwrap() <= at
    };
    assert!(!quiet_at(&mut judge, 0));
    assert!(!quiet_at(&mut judge, 2));
    assert!(quiet_at(&mut judge, 4));
}

#[test]
fn an_answer_that_went_with_the_next_request_was_not_the_last_byte() {
    let at = |bytes_in, bytes_out, ago, bare_in, bare_out| {
        let mut connection = open(bytes_in, bytes_out, ago, ago);
        let traffic = connection.traffic.as_mut().unwrap();
        (traffic.bare_in, traffic.bare_out, traffic.packets_in) = (bare_in, bare_out, 9);
        connection
    };
    let after = |second: TcpConnection| {
        let now = start();
        let mut judge = Judge::new(&step(1000));
        look(&mut judge, now, &[at(100, 100, 0, 5, 3)]);
        look(&mut judge, now + Duration::from_secs(1), &[second]).owing
    };
    assert_eq!(
        after(at(200, 200, 700, 7, 3)),
        0,
        "nothing had to be acknowledged barely"
    );
    assert_eq!(
        after(at(200, 200, 700, 5, 4)),
        1,
        "no answer was acknowledged barely"
    );
    assert_eq!(after(at(200, 200, 700, 7, 4)), 1, "nothing tells");
    assert_eq!(after(at(200, 200, 500, 7, 3)), 1, "it may be acknowledged yet");
}

#[test]
fn a_connection_that_is_gone_moved_its_last_byte_since_the_last_look() {
    let now = start();
    let mut judge = Judge::new(&step(1000));
    look(&mut judge, now, &[open(18, 0, 100, 200)]);
    let gone = now + Duration::from_millis(100);
    let picture = look(&mut judge, gone, &[]);
    assert_eq!((picture.owing, picture.open), (0, 0));
    assert_eq!(picture.quiet_at, Some(gone + Duration::from_secs(1)));
}

#[test]
fn one_look_alone_is_never_enough() {
    let now = start();
    let mut judge = Judge::new(&step(1000));
    let picture = look(&mut judge, now, &[]);
    assert!(picture.quiet_at > Some(now));
    let next = next_look(&step(1000), &picture, Duration::ZERO, now);
    assert!(next > now);
    assert!(
        look(&mut judge, next, &[]).quiet_at <= Some(next),
        "nothing has ever moved"
    );
}

#[test]
fn a_look_that_fails_forgets_nothing() {
    let now = start();
    let mut judge = Judge::new(&step(1000));
    look(&mut judge, now, &[open(18, 0, 100, 200)]);
    judge.see(&open(18, 0, 200, 300), now + Duration::from_millis(100));
    judge.drop_look();
    let gone = now + Duration::from_millis(200);
    assert_eq!(
        look(&mut judge, gone, &[]).quiet_at,
        Some(gone + Duration::from_secs(1))
    );
}

#[test]
fn a_hundred_thousand_connections_are_counted_and_not_kept() {
    let now = start();
    let mut judge = Judge::new(&step(1000));
    let many = |n: u64| {
        (0..n).map(|id| TcpConnection {
            id,
            ..open(18, 0, 100, 200)
        })
    };
    for connection in many(100_000) {
        judge.see(&connection, now);
    }
    let picture = judge.end_look(now);
    assert_eq!((picture.owing, picture.named.len()), (100_000, MAX_NAMED));
    assert_eq!(judge.before.len(), MAX_REMEMBERED);
    // All of them gone, among them many that nobody remembers.
    let gone = now + Duration::from_millis(100);
    assert_eq!(judge.end_look(gone).quiet_at, Some(gone + Duration::from_secs(1)));
}

#[test]
fn looks_are_as_frequent_as_they_can_be_paid_for_and_one_comes_when_it_may_be_over() {
    let now = start();
    let ms = Duration::from_millis;
    let pause = |picture: &Picture, cost| next_look(&step(1000), picture, cost, now) - now;
    let busy = Picture {
        owing: 1,
        ..Picture::default()
    };
    assert_eq!(pause(&busy, ms(1)), ms(100));
    assert_eq!(pause(&busy, ms(30)), ms(300), "a tenth of the time");
    assert_eq!(pause(&busy, ms(900)), ms(2000), "and never longer");
    let soon = Picture {
        quiet_at: Some(now + ms(37)),
        ..Picture::default()
    };
    assert_eq!(pause(&soon, ms(900)), ms(37));
    let meanwhile = Picture {
        quiet_at: Some(now - ms(160)),
        ..Picture::default()
    };
    assert_eq!(
        pause(&meanwhile, ms(180)),
        ms(20),
        "what the look was too early for is seen at once"
    );
    let over = Picture {
        quiet_at: Some(now - ms(37)),
        ..Picture::default()
    };
    assert_eq!(
        pause(&over, ms(1)),
        ms(100),
        "it goes on calmly while the step's turn has not come"
    );
}

#[test]
fn the_time_of_the_step_leaves_some_to_those_behind_it() {
    let started = start();
    let deadline = started + Duration::from_secs(24);
    let limit = |within: Option<u64>, more| {
        let step = QuietStep {
            within: within.map(Duration::from_secs),
            ..QuietStep::default()
        };
        (limit(&step, more, started, deadline) - started).as_millis()
    };
    assert_eq!(limit(Some(10), false), 10_000);
    assert_eq!(limit(Some(10), true), 10_000);
    assert_eq!(limit(None, true), 18_000, "three quarters");
    assert_eq!(
        limit(None, false),
        23_900,
        "all but the moment in which it is told"
    );
    assert_eq!(limit(Some(60), false), 23_900);
}

/// Like [`open`], with so many packets from the client.
fn after_packets(packets_in: u32, connection: TcpConnection) -> TcpConnection {
    let traffic = connection.traffic.map(|traffic| Counters {
        packets_in,
        ..traffic
    });
    TcpConnection {
        traffic,
        ..connection
    }
}

#[test]
fn session_tickets_are_no_answer_to_the_first_request() {
    let (now, ms) = (start(), Duration::from_millis);
    let mut judge = Judge::new(&step(1000));
    // ClientHello, Finished and a request; certificate and tickets.
    let at = |bytes_out, since_in, since_out| after_packets(3, open(700, bytes_out, since_in, since_out));
    let picture = look(&mut judge, now, &[at(1900, 1500, 1490)]);
    assert_eq!(
        (picture.owing, picture.surely_owing()),
        (1, 0),
        "first seen with the tickets out"
    );
    let picture = look(&mut judge, now + ms(100), &[at(1900, 1600, 1590)]);
    assert_eq!(picture.owing, 1);
    let picture = look(&mut judge, now + ms(200), &[at(2100, 1700, 30)]);
    assert_eq!(picture.owing, 0, "the answer");
    assert_eq!(judge.last_answer(), Some(now + ms(170)));
    let picture = look(&mut judge, now + ms(5000), &[at(2100, 6500, 4830)]);
    assert_eq!(
        picture.owing, 0,
        "which is not forgotten while it might be taken for tickets"
    );

    let mut judge = Judge::new(&step(1000));
    look(&mut judge, now, &[at(1400, 10, 20)]);
    let picture = look(&mut judge, now + ms(100), &[at(1900, 110, 90)]);
    assert_eq!(picture.owing, 1, "the tickets went out between two looks");
    let picture = look(&mut judge, now + ms(12_000), &[at(1900, 12_010, 11_990)]);
    assert_eq!(picture.owing, 0, "not for ever");

    let mut judge = Judge::new(&step(1000));
    look(&mut judge, now, &[at(1400, 10, 20)]);
    look(&mut judge, now + ms(1000), &[at(1400, 1010, 1020)]);
    let picture = look(&mut judge, now + ms(1100), &[at(1600, 1110, 20)]);
    assert_eq!(
        picture.owing, 0,
        "a second after the request was read it is the answer"
    );
    let more = |bytes_in| after_packets(4, open(bytes_in, 1900, 30, 20));
    let picture = look(&mut judge, now + ms(1200), &[more(900)]);
    assert_eq!(picture.owing, 0, "and so is that of every later request");

    let mut judge = Judge::new(&step(1000));
    let unread = |connection| TcpConnection {
        unread: 80,
        ..connection
    };
    look(&mut judge, now, &[unread(at(1400, 10, 20))]);
    look(&mut judge, now + ms(2000), &[unread(at(1400, 2010, 2020))]);
    let picture = look(&mut judge, now + ms(2100), &[at(1900, 2110, 20)]);
    assert_eq!(
        picture.owing, 1,
        "a server that has not read the handshake's end is late with its tickets"
    );
}

#[test]
fn session_tickets_that_a_look_finds_unacknowledged_or_half_sent_are_no_answer_either() {
    let now = start();
    let at = |ms| now + Duration::from_millis(ms);
    let with = |bytes_out, since_in, since_out, unacknowledged| TcpConnection {
        unacknowledged,
        ..after_packets(3, open(625, bytes_out, since_in, since_out))
    };
    let mut judge = Judge::new(&step(100));
    let owes = |judge: &mut Judge, ms, connection| look(judge, at(ms), &[connection]).owing == 1;
    assert!(
        owes(&mut judge, 0, with(403, 48, 24, 184)),
        "the client holds its acknowledgement back"
    );
    assert!(owes(&mut judge, 30, with(403, 78, 54, 0)), "acknowledged");
    assert!(owes(&mut judge, 160, with(403, 208, 184, 0)), "and silent");
    assert!(!owes(&mut judge, 200, with(900, 248, 8, 0)), "the answer");
    let mut judge = Judge::new(&step(100));
    assert!(
        owes(&mut judge, 0, with(403, 24, 0, 0)),
        "the first of two tickets"
    );
    assert!(owes(&mut judge, 30, with(587, 54, 28, 0)), "the second");
    assert!(owes(&mut judge, 160, with(587, 184, 158, 0)), "and silent");
}

#[test]
fn where_it_can_be_no_handshake_the_direction_decides_at_once() {
    let looks_like_tls = |packets_in| after_packets(packets_in, open(700, 1900, 1500, 1490));
    assert!(owes(looks_like_tls(3)));
    assert!(!owes(looks_like_tls(20)), "more packets than a first request has");
    assert!(
        !owes(after_packets(3, open(150, 1900, 1500, 1490))),
        "less than a handshake"
    );
    assert!(
        !owes(after_packets(3, open(700, 200, 1500, 1490))),
        "less than an answer to one"
    );
    let mut moves = Judge::new(&QuietStep {
        moves: true,
        ..step(1000)
    });
    assert_eq!(look(&mut moves, start(), &[looks_like_tls(3)]).owing, 0);

    let plain = [
        (
            after_packets(1, open(300, 250, 4000, 3900)),
            "a handshake that rests after one packet",
        ),
        (
            after_packets(2, open(90, 250, 400, 390)),
            "a handshake of 90 bytes",
        ),
    ];
    for (evidence, what) in plain {
        let mut judge = Judge::new(&step(1000));
        let picture = look(
            &mut judge,
            start(),
            &[TcpConnection { id: 2, ..evidence }, looks_like_tls(3)],
        );
        assert_eq!(picture.owing, 0, "there is no {what}");
        let other_port = SocketAddr::from(([10, 0, 0, 5], 8443));
        let elsewhere = TcpConnection {
            local: other_port,
            ..looks_like_tls(3)
        };
        assert_eq!(
            look(&mut judge, start(), &[elsewhere]).owing,
            1,
            "of another port that tells nothing"
        );
    }
}

fn scope(ports: &[u16], listeners: &[&str]) -> Watched {
    let mut scope = Watched {
        ports: ports.to_vec(),
        own_port: Some(9911),
        inside: vec![[10, 0, 0, 5].into(), [172, 17, 0, 2].into()],
        own_calls: vec!["127.0.0.1:50000".parse().unwrap()],
        heard: Ports::default(),
    };
    for listener in listeners {
        scope.hear(listener.parse().unwrap());
    }
    scope
}

#[test]
fn without_a_port_those_from_outside_count_on_any_port_that_listens() {
    let scope = scope(
        &[],
        &["0.0.0.0:8080", "0.0.0.0:9911", "127.0.0.11:40001", "[::1]:6379"],
    );
    let counts = |local: &str, peer: &str| scope.counts(local.parse().unwrap(), peer.parse().unwrap());
    assert!(counts("10.0.0.5:8080", "10.0.0.9:4242"));
    assert!(counts("[::ffff:10.0.0.5]:8080", "[::ffff:10.0.0.9]:4242"));
    assert!(counts("[fd00::5]:8080", "[fd00::9]:4242"));
    for (local, peer) in [
        ("127.0.0.1:8080", "127.0.0.1:4242"),
        ("[::1]:8080", "[::1]:4242"),
        ("[::ffff:127.0.0.1]:8080", "[::ffff:127.0.0.1]:4242"),
        ("10.0.0.5:8080", "10.0.0.5:4242"),
        ("10.0.0.5:8080", "172.17.0.2:4242"),
        ("[::ffff:10.0.0.5]:8080", "[::ffff:172.17.0.2]:4242"),
        ("[fd00::5]:8080", "[fd00::5]:4242"),
    ] {
        assert!(!counts(local, peer), "{peer} is inside");
    }
    assert!(
        !counts("10.0.0.5:9911", "10.0.0.9:4242"),
        "the sidecar's own port"
    );
    assert!(
        !counts("10.0.0.5:50001", "10.0.0.9:443"),
        "the task has opened it"
    );
    assert_eq!(
        scope.heard.first(9),
        [8080],
        "nobody from outside gets to loopback"
    );
}

#[test]
fn with_a_port_those_from_inside_count_but_the_sidecars_own_calls() {
    let scope = scope(&[8080, 6379], &["127.0.0.1:8080", "0.0.0.0:80"]);
    let counts = |local: &str, peer: &str| scope.counts(local.parse().unwrap(), peer.parse().unwrap());
    assert!(counts("127.0.0.1:8080", "127.0.0.1:4242"));
    assert!(counts("10.0.0.5:8080", "10.0.0.9:4242"));
    assert!(!counts("127.0.0.1:8080", "127.0.0.1:50000"), "the sidecar's own");
    assert!(!counts("10.0.0.5:80", "10.0.0.9:4242"), "another port");
    assert!(
        !counts("10.0.0.5:6379", "10.0.0.9:4242"),
        "nobody has ever listened there"
    );
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
    let mut own = scope.clone();
    own.own_port = Some(8080);
    assert!(!own.counts(loopback, peer()));
}

/// One request and its answer in a model of HTTP/1.1 over TCP; in milliseconds.
#[derive(Clone, Debug)]
struct Exchange {
    /// Since the end of the answer before it.
    pause: u64,
    /// Until the first byte of the answer.
    work: u64,
    /// Between its parts; always less than the silence.
    pauses: Vec<u64>,
    /// Whether the client acknowledges each packet at once, or holds that back for 40 ms.
    client_at_once: bool,
    server_at_once: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Packet {
    In,
    Out,
    BareIn,
    BareOut,
}

/// What goes over the wire, and when.
type Packets = Vec<(u64, Packet)>;

/// How long after the client's Finished the tickets of TLS 1.3 go out; none are sent by plain HTTP.
type Tickets = Option<u64>;

/// What goes over the wire, and when each request came and its answer was complete.
fn wire(exchanges: &[Exchange], tickets: Tickets) -> (Packets, Vec<(u64, u64)>) {
    const HELD_BACK: u64 = 40;
    let (mut packets, mut owed, mut now) = (Vec::new(), Vec::new(), 0);
    if let Some(after) = tickets {
        packets.extend([
            (0, Packet::In),
            (0, Packet::Out),
            (1, Packet::In),
            (1 + after, Packet::Out),
        ]);
        packets.push((1 + after + HELD_BACK, Packet::BareIn));
        now = 1;
    }
    for (i, exchange) in exchanges.iter().enumerate() {
        now += exchange.pause;
        let asked = now;
        packets.push((now, Packet::In));
        if exchange.server_at_once {
            packets.push((now, Packet::BareOut));
        } else if exchange.work > HELD_BACK {
            packets.push((now + HELD_BACK, Packet::BareOut));
        }
        now += exchange.work;
        packets.push((now, Packet::Out));
        for pause in &exchange.pauses {
            if exchange.client_at_once || *pause > HELD_BACK {
                packets.push((
                    now + if exchange.client_at_once { 0 } else { HELD_BACK },
                    Packet::BareIn,
                ));
            }
            now += pause;
            packets.push((now, Packet::Out));
        }
        owed.push((asked, now));
        let next = exchanges.get(i + 1).map_or(u64::MAX, |next| next.pause);
        if exchange.client_at_once {
            packets.push((now, Packet::BareIn));
        } else if next > HELD_BACK {
            packets.push((now + HELD_BACK, Packet::BareIn));
        }
    }
    packets.sort_by_key(|(at, _)| *at);
    (packets, owed)
}

/// As the kernel would describe it at that time. `tick`: whether a tick comes between the bytes of a packet and
/// the acknowledgement in it.
fn described(
    packets: &[(u64, Packet)],
    (bytes_in, bytes_out): (u64, u64),
    now: u64,
    tick: bool,
) -> TcpConnection {
    let so_far: Vec<_> = packets.iter().filter(|(at, _)| *at <= now).collect();
    let count = |wanted| so_far.iter().filter(|(_, packet)| *packet == wanted).count();
    let jiffies = |at: u64| now / JIFFY * JIFFY - at / JIFFY * JIFFY;
    let since = |wanted: &[Packet]| {
        let last = so_far.iter().rev().find(|(_, packet)| wanted.contains(packet));
        Duration::from_millis(jiffies(last.map_or(0, |(at, _)| *at)))
    };
    let since_ack = since(&[Packet::In, Packet::BareIn]);
    let with_bytes = so_far
        .iter()
        .rev()
        .find(|(_, packet)| matches!(packet, Packet::In | Packet::BareIn));
    let late = tick && with_bytes.is_some_and(|(_, packet)| *packet == Packet::In);
    let since_ack = since_ack.saturating_sub(Duration::from_millis(if late { JIFFY } else { 0 }));
    let number = |n: usize| u32::try_from(n).unwrap();
    let traffic = Counters {
        bytes_in: bytes_in * u64::from(number(count(Packet::In))),
        bytes_out: bytes_out * u64::from(number(count(Packet::Out))),
        since_in: since(&[Packet::In]),
        since_out: since(&[Packet::Out]),
        since_ack,
        packets_in: number(count(Packet::In)),
        bare_in: number(count(Packet::BareIn)),
        bare_out: number(count(Packet::BareOut)),
    };
    let acknowledged = so_far
        .iter()
        .rev()
        .take_while(|(_, packet)| *packet != Packet::Out)
        .any(|(_, packet)| matches!(packet, Packet::In | Packet::BareIn));
    TcpConnection {
        traffic: Some(traffic),
        unacknowledged: u32::from(bytes_out > 0 && count(Packet::Out) > 0 && !acknowledged),
        ..open(0, 0, 0, 0)
    }
}

fn exchange(silence: u64) -> impl Strategy<Value = Exchange> {
    let pause = prop_oneof![Just(0), 0..3_u64, 0..60_u64, 0..3000_u64];
    let work = prop_oneof![Just(0), 0..3_u64, 0..60_u64, 0..8000_u64];
    let pauses = proptest::collection::vec(0..silence - 2 * JIFFY, 0..3);
    (pause, work, pauses, any::<bool>(), any::<bool>()).prop_map(
        |(pause, work, pauses, client_at_once, server_at_once)| Exchange {
            pause,
            work,
            pauses,
            client_at_once,
            server_at_once,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn quiet_is_never_said_while_an_answer_is_owed_and_always_soon_after_the_last_byte(
        silence in 100..1500_u64,
        first in 0..4000_u64,
        cost in 0..40_u64,
        exchanges in proptest::collection::vec(exchange(100), 1..8),
        tickets in proptest::option::of(0..40_u64),
        large in any::<bool>(),
        tick in any::<bool>(),
    ) {
        let step = step(silence);
        let sizes = if large || tickets.is_some() { (150, 400) } else { (20, 100) };
        let (packets, owed) = wire(&exchanges, tickets);
        let last_byte = owed.last().map_or(0, |(_, complete)| *complete);
        let origin = start();
        let mut judge = Judge::new(&step);
        let mut now = first;
        let mut longest_pause = 0;
        loop {
            let at = origin + Duration::from_millis(now);
            let picture = look(&mut judge, at, &[described(&packets, sizes, now, tick)]);
            if picture.quiet_at.is_some_and(|quiet_at| quiet_at <= at) {
                break;
            }
            let next = next_look(&step, &picture, Duration::from_millis(cost), at);
            // A look never comes before its time, and up to a jiffy after it.
            let next = u64::try_from((next - origin).as_nanos().div_ceil(1_000_000)).unwrap() + now % 3;
            prop_assert!(next > now);
            longest_pause = longest_pause.max(next - now);
            now = next;
            let patience = silence.max(10_000) + 3 * longest_pause + 100;
            prop_assert!(now <= last_byte.max(first) + patience, "not quiet {} ms after the last byte", now - last_byte);
        }
        let early = owed.iter().find(|(asked, complete)| *asked <= now && now < *complete);
        prop_assert_eq!(early, None, "quiet at {}", now);
        let slow = exchanges.last().is_some_and(|last| last.work > 2 * JIFFY || !last.pauses.is_empty() && last.pauses[0] > 2 * JIFFY);
        if slow && sizes.0 == 20 {
            let patience = silence + longest_pause + 2 * JIFFY + 25;
            prop_assert!(now <= last_byte.max(first) + patience, "{} ms after the last byte", now - last_byte);
        }
    }
}
