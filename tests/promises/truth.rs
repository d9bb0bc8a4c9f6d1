//! Said drained only if it was: exit 0 means that the app said so, or is gone.
//!
//! Properties over a model of an app that is alive or has exited, behind any answer, address, port and fault. What
//! counts as the app's word is written here a second time, as the contract's table has it.

use ecs_prestop::core::lifecycle::Code;
use ecs_prestop::tools::simulate::StandIn;
use ecs_prestop::tools::simulate::faults::{Fault, FaultKind, FaultTarget};
use proptest::prelude::*;
use proptest::sample::select;

use crate::memory::{Does, Met, Play, Request, response};

/// Where a 202 may say that its state is to be found, and whether that is the same server.
const LOCATIONS: [(&str, bool); 10] = [
    ("", true),
    ("/state/7", true),
    ("../state?from=http://elsewhere/", true),
    ("http://app:8080/state", true),
    ("http://app:81/state", false),
    ("http://app/state", false),
    ("//nobody:8080/state", false),
    ("https://app:8080/state", false),
    ("/with space", false),
    ("http://[", false),
];

/// What an app does with one connection.
fn act() -> impl Strategy<Value = Does> {
    let status = select(vec![200, 204, 302, 403, 404, 410, 408, 429, 500, 503]);
    let accepted = select(LOCATIONS.to_vec()).prop_map(|(location, _)| Does::Answers(accepted(location)));
    prop_oneof![
        2 => status.prop_map(|status| Does::Answers(response(status, "", "x"))),
        4 => accepted,
        2 => select(vec![
            Does::Closes,
            Does::Refuses,
            Does::NeverConnects,
            Does::NoRoute,
            Does::Hangs,
            Does::AnswersAfter(3.0, response(503, "", "")),
            Does::AnswersAndCloses("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc".to_owned()),
            Does::AnswersAndCloses("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab".to_owned()),
            Does::AnswersAndCloses("220 SMTP ready\r\n\r\n".to_owned()),
            Does::AnswersAndCloses("HTTP/1.1 2".to_owned()),
        ]),
    ]
}

fn accepted(location: &str) -> String {
    if location.is_empty() {
        response(202, "", "")
    } else {
        response(202, &format!("Location: {location}\r\n"), "")
    }
}

/// Somebody else, who listens on another port and never speaks for the app.
fn stranger() -> impl Strategy<Value = Does> {
    let status = select(vec![302, 403, 404, 410, 500, 503]);
    prop_oneof![
        3 => status.prop_map(|status| Does::Answers(response(status, "", "x"))),
        2 => select(vec![Does::Refuses, Does::Closes, Does::NeverConnects]),
    ]
}

/// Whether the app said in one of these requests that it has drained.
fn said_so(requests: &[Request], app_port: u16) -> bool {
    let mut may_be_missing = false;
    for request in requests.iter().filter(|request| request.by.port() == app_port) {
        let (Does::Answers(text) | Does::AnswersAfter(_, text)) = &request.does else {
            continue;
        };
        let status: u16 = text[9..12].parse().unwrap();
        match status {
            202 => {
                let usable = |(location, same): &(&str, bool)| *same && *text == accepted(location);
                may_be_missing = LOCATIONS.iter().any(usable);
            }
            200..=299 => return true,
            404 | 410 if may_be_missing => return true,
            _ => {}
        }
    }
    false
}

/// Whether an address and port that gave a 2xx refused afterwards, which is an exit by the contract.
fn refused_after_a_yes(met: &[Met]) -> bool {
    let yes = |does: &Does| match does {
        Does::Answers(text) | Does::AnswersAndCloses(text) => {
            text.starts_with("HTTP/1.1 2") && text.len() > 12
        }
        _ => false,
    };
    met.iter().enumerate().any(|(at, (address, does))| {
        let later = |(other, does): &Met| other == address && matches!(does, Does::Refuses);
        yes(does) && met[at..].iter().any(later)
    })
}

#[derive(Clone, Debug)]
struct Case {
    v4: Vec<Does>,
    v6: Vec<Does>,
    stranger: Vec<Does>,
    exits_at: Option<f64>,
    /// Whether ECS gets to know of the exit.
    told: bool,
    metadata: Option<FaultKind>,
}

fn case() -> impl Strategy<Value = Case> {
    let v6 = prop_oneof![
        2 => Just(vec![Does::Refuses]),
        1 => Just(vec![Does::NoSuchAddress]),
        1 => prop::collection::vec(act(), 1..4),
    ];
    let metadata = select(vec![
        FaultKind::Hang,
        FaultKind::Status(429),
        FaultKind::Refuse,
        FaultKind::Garbage,
    ]);
    (
        prop::collection::vec(act(), 1..6),
        v6,
        prop::collection::vec(stranger(), 1..4),
        prop::option::of(2.0..40.0),
        any::<bool>(),
        prop::option::weighted(0.3, metadata),
    )
        .prop_map(|(v4, v6, stranger, exits_at, told, metadata)| Case {
            v4,
            v6,
            stranger,
            exits_at,
            told,
            metadata,
        })
}

async fn play(case: Case) -> Result<(), TestCaseError> {
    let variables = [("PRESTOP_DRAIN", "POST http://app:8080/drain")];
    let mut play = Play::with(StandIn::sample(), &variables, &[])
        .listens("127.0.0.1:8080", &case.v4)
        .listens("[::1]:8080", &case.v6);
    for address in ["127.0.0.1:80", "127.0.0.1:81"] {
        play = play.listens(address, &case.stranger);
    }
    if let Some(second) = case.exits_at {
        play = play.app_exits_at(second);
    }
    let (exits_at, told, metadata) = (case.exits_at, case.told, case.metadata);
    let played = play
        .play(|director| async move {
            director.at(2.0).await;
            director.sigterm().await;
            director.at(2.5).await;
            if let Some(kind) = metadata {
                let (target, lasts, requests) = (FaultTarget::Tmds, None, None);
                director.stand_in.break_down(Fault {
                    target,
                    kind,
                    lasts,
                    requests,
                });
            }
            if let Some(second) = exits_at.filter(|_| told) {
                director.at(second + 0.5).await;
                director.stand_in.container_stopped("app");
            }
        })
        .await;
    prop_assert!(played.ended_at <= 31.0, "ended at {}", played.ended_at);
    let gone = exits_at.is_some_and(|second| second <= played.ended_at);
    if played.code == Code::Drained && !gone && !refused_after_a_yes(&played.met) {
        prop_assert!(
            said_so(&played.requests, 8080),
            "drained, though the app is alive and never said so: {}",
            played.details()
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn exit_0_means_that_the_app_said_so_or_is_gone(case in case()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(play(case))?;
    }
}

/// The same with the kernel's sockets: an app on a port of its own.
mod sockets {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use ecs_prestop::config::Config;
    use ecs_prestop::sidecar::http::Network;
    use ecs_prestop::sidecar::mailbox::{self, Message, Signal};
    use ecs_prestop::sidecar::run::{self, Networks};
    use ecs_prestop::sidecar::telemetry::Telemetry;
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpSocket, TcpStream};
    use tokio::task::{JoinSet, LocalSet};

    use super::*;

    const PLAYS: usize = 300;

    /// Stop timeouts of 2 s pass while others are played.
    const AT_ONCE: usize = 60;

    /// How long a full accept queue stays full, and an answer is held back.
    const A_WHILE: Duration = Duration::from_millis(400);

    #[derive(Clone, Debug)]
    enum Act {
        Answers(String),
        /// A part of an answer, and then a FIN or a RST.
        BreaksOff(String, bool),
        /// Nobody accepts for a while, and the queue is full.
        IsFull,
        HoldsBack(String),
    }

    fn act() -> impl Strategy<Value = Act> {
        let status = select(vec![200, 403, 404, 410, 429, 503]).prop_map(|status| response(status, "", "x"));
        let accepted = select(LOCATIONS[..4].to_vec()).prop_map(|(location, _)| accepted(location));
        let part = select(vec![
            "",
            "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc",
            "HTTP/1.1 20",
        ]);
        prop_oneof![
            2 => status.clone().prop_map(Act::Answers),
            4 => accepted.prop_map(Act::Answers),
            2 => (part, any::<bool>()).prop_map(|(part, reset)| Act::BreaksOff(part.to_owned(), reset)),
            1 => Just(Act::IsFull),
            1 => status.prop_map(Act::HoldsBack),
        ]
    }

    /// What the app has said, and whether it still is there.
    #[derive(Default)]
    struct App {
        said: Vec<u16>,
        gone: bool,
    }

    /// Listens, and follows the script; its last act stays.
    async fn app(listener: TcpListener, script: Vec<Act>, exit: Option<Duration>, app: Arc<Mutex<App>>) {
        let port = listener.local_addr().unwrap().port();
        let acts = async {
            let mut conversations = JoinSet::new();
            let mut script = script.iter().peekable();
            loop {
                let act = match script.peek() {
                    Some(_) => script.next().unwrap().clone(),
                    None => return std::future::pending::<()>().await,
                };
                let last = script.peek().is_none();
                loop {
                    if matches!(act, Act::IsFull) {
                        // Its own connections are in the queue before the sidecar's, which is dropped then.
                        let fill = (0..3).map(|_| TcpStream::connect(("127.0.0.1", port)));
                        let _fill: Vec<_> = fill
                            .map(|connect| tokio::spawn(tokio::time::timeout(A_WHILE, connect)))
                            .collect();
                        tokio::time::sleep(A_WHILE).await;
                    }
                    let Ok((stream, _)) = listener.accept().await else {
                        return;
                    };
                    conversations.spawn(converse(stream, act.clone(), Arc::clone(&app)));
                    if !last {
                        break;
                    }
                }
            }
        };
        match exit {
            Some(exit) => drop(tokio::time::timeout(exit, acts).await),
            None => acts.await,
        }
        // Listener and connections end with this process of theirs.
        app.lock().unwrap().gone = true;
    }

    async fn converse(mut stream: TcpStream, act: Act, app: Arc<Mutex<App>>) {
        let mut request = [0; 4096];
        if !stream.read(&mut request).await.is_ok_and(|n| n > 0) {
            return;
        }
        let (text, complete) = match &act {
            Act::Answers(text) => (text, true),
            Act::HoldsBack(text) => {
                tokio::time::sleep(A_WHILE).await;
                (text, true)
            }
            Act::BreaksOff(part, reset) => {
                if *reset {
                    stream.set_zero_linger().unwrap();
                }
                (part, false)
            }
            Act::IsFull => return,
        };
        if complete {
            app.lock().unwrap().said.push(text[9..12].parse().unwrap());
        }
        let _ = stream.write_all(text.as_bytes()).await;
    }

    async fn play(script: Vec<Act>, exit: Option<Duration>) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let drain = format!("http://localhost:{}/drain", listener.local_addr().unwrap().port());
        let state = Arc::<Mutex<App>>::default();
        let mut companions = JoinSet::new();
        companions.spawn(app(listener, script.clone(), exit, Arc::clone(&state)));
        let variables = [
            ("PRESTOP_DRAIN", drain.as_str()),
            ("PRESTOP_STOP_TIMEOUT", "2s"),
            ("PRESTOP_WATCH", "none"),
            ("PRESTOP_LISTEN", "off"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::read(|_| None, variables).unwrap();
        let networks = Networks {
            sockets: Arc::new(ecs_prestop::sidecar::drain::quiet::Kernel::default()),
            drain: Network::system(1),
            metadata: Network::system(1),
            aws: Network::system(1),
        };
        let (mailbox, messages) = mailbox::channel();
        mailbox.send(Message::Signal(Signal::Term)).await.unwrap();
        let ending = run::run(config, networks, Telemetry::default(), (mailbox, messages), None).await;
        let state = state.lock().unwrap();
        let done = state
            .said
            .iter()
            .any(|status| (200..300).contains(status) && *status != 202);
        let missing = state
            .said
            .iter()
            .skip_while(|status| **status != 202)
            .any(|status| matches!(status, 404 | 410));
        if ending.code == Code::Drained {
            assert!(
                done || missing || state.gone,
                "drained, though the app is alive and said {:?}: {:?}, {script:?}",
                state.said,
                ending.report.steps
            );
        }
    }

    #[test]
    fn exit_0_means_that_the_app_said_so_or_is_gone_with_real_sockets() {
        let mut runner = TestRunner::deterministic();
        let case = (
            prop::collection::vec(act(), 1..5),
            prop::option::of((0_u64..1500).prop_map(Duration::from_millis)),
        );
        let cases: Vec<_> = (0..PLAYS)
            .map(|_| case.new_tree(&mut runner).unwrap().current())
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        for together in cases.chunks(AT_ONCE) {
            let local = LocalSet::new();
            let mut failed = None;
            runtime.block_on(async {
                let plays: Vec<_> = together
                    .iter()
                    .cloned()
                    .map(|(script, exit)| local.spawn_local(play(script, exit)))
                    .collect();
                local
                    .run_until(async {
                        for play in plays {
                            failed = failed.take().or(play.await.err());
                        }
                    })
                    .await;
            });
            assert!(failed.is_none(), "{failed:?}");
        }
    }
}
