//! Looks at the connections again and again, and tells what it sees.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify, watch};
use tokio::time::{sleep, sleep_until};

use super::sockets::{Inode, Socket, SocketQuery, Sockets};
use super::{LastLook, Looks, looked, nobody_listens_because, now};
use crate::core::plan::PlannedStep;
use crate::core::quiet::{Judge, Picture, Ports, TcpConnection, Watched, next_look};
use crate::core::step::QuietStep;
use crate::sidecar::mailbox::{Mailbox, Message, WatchState};

/// A list of one port costs a walk through the kernel's table, one of all ports costs each socket: up
/// to that many ports the walks are cheaper.
const PORTS_BY_THEMSELVES: usize = 4;

/// More sockets than that are no app's: the look is given up rather than the processor.
const MAX_SOCKETS: usize = 1_000_000;

/// How often the picture is told while it changes.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// After a look that failed.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// When an app that has just started is looked for at the latest: JVMs take that long.
const FIRST_LOOKS: [u64; 6] = [1, 1, 3, 5, 10, 10];

/// What `/status` and `/metrics` say is at most that old: whoever asks more often costs nothing.
const FRESH: Duration = Duration::from_secs(1);

/// What is needed to see the app's connections; cheap to clone.
#[derive(Clone)]
pub struct ConnectionView {
    sockets: Arc<dyn Sockets>,
    /// Those to look at in place of these, once the app is known to be in a network namespace of its own.
    others: Arc<OnceLock<Arc<dyn Sockets>>>,
    own_port: Option<u16>,
    latest: Arc<Mutex<Option<(Instant, Picture)>>>,
}

impl ConnectionView {
    /// `own_port`: that of the sidecar's own endpoints.
    pub fn new(sockets: Arc<dyn Sockets>, own_port: Option<u16>) -> ConnectionView {
        ConnectionView {
            sockets,
            others: Arc::default(),
            own_port,
            latest: Arc::default(),
        }
    }

    /// Looks at the network namespaces of the task's other containers from now on, for all clones of this view.
    /// False where none of their processes is in sight.
    pub fn look_at_others(&self) -> bool {
        if self.others.get().is_none()
            && let Some(others) = self.sockets.of_other_containers()
        {
            let _ = self.others.set(others);
        }
        self.others.get().is_some()
    }

    fn sockets(&self) -> &Arc<dyn Sockets> {
        self.others.get().unwrap_or(&self.sockets)
    }

    /// What one look shows, no older than a second. `None` where there can be none.
    pub async fn picture(&self) -> Option<Picture> {
        let mut latest = self.latest.lock().await;
        if let Some((at, picture)) = latest.as_ref()
            && now().saturating_duration_since(*at) < FRESH
        {
            return Some(picture.clone());
        }
        let picture = Observer::new(self.clone(), &QuietStep::default())
            .look(now())
            .await
            .ok()?;
        *latest = Some((now(), picture.clone()));
        Some(picture)
    }
}

/// Begins to look on behalf of that step, until nobody wants to know any more. `heard`: what has
/// listened before.
pub fn observe(
    view: ConnectionView,
    planned: PlannedStep,
    step: QuietStep,
    mailbox: Mailbox,
) -> (Looks, impl Future<Output = ()> + Send) {
    let (sender, seen) = watch::channel(None);
    let again = Arc::new(Notify::new());
    let looks = Looks {
        seen,
        again: Arc::clone(&again),
    };
    let looking = async move {
        let mut observer = Observer::new(view, &step);
        let mut told: Option<(Instant, usize, usize)> = None;
        let mut first = None;
        loop {
            let began = now();
            let next = match observer.look(began).await {
                Ok(picture) => {
                    let first = *first.get_or_insert((began, picture.owing));
                    let news = told.is_none_or(|(at, open, owing)| {
                        (open, owing) != (picture.open, picture.owing)
                            && began.saturating_duration_since(at) >= TELL_EVERY
                    });
                    if news && !observer.scope.heard.is_empty() {
                        told = Some((began, picture.open, picture.owing));
                        let _ = mailbox
                            .send(Message::Progress(planned.number, looked(&picture)))
                            .await;
                    }
                    let now = now();
                    let next = next_look(&step, &picture, now.saturating_duration_since(began), now);
                    sender.send_replace(Some(LastLook {
                        listens: !observer.scope.heard.is_empty(),
                        at: began,
                        picture,
                        first,
                        last_answer: observer.judge.last_answer(),
                        trouble: None,
                    }));
                    next
                }
                Err(why) => {
                    sender.send_modify(|seen| {
                        let blind = LastLook {
                            listens: true,
                            at: began,
                            picture: Picture::default(),
                            first: first.unwrap_or((began, 0)),
                            last_answer: None,
                            trouble: None,
                        };
                        seen.get_or_insert(blind).trouble = Some(why.to_string());
                    });
                    began + TRY_AGAIN
                }
            };
            tokio::select! {
                () = sleep_until(next.into()) => {}
                () = again.notified() => {}
                () = sender.closed() => return,
            }
        }
    };
    (looks, looking)
}

/// Looks after the start whether there is anybody to wait for, and tells that once.
pub async fn announce(view: ConnectionView, steps: Vec<QuietStep>, mailbox: Mailbox) {
    for step in steps {
        let mut observer = Observer::new(view.clone(), &step);
        let mut why = None;
        for pause in FIRST_LOOKS {
            sleep(Duration::from_secs(pause)).await;
            why = match observer.listen().await {
                Err(why) => Some(why.to_string()),
                Ok(()) if observer.scope.heard.is_empty() => Some(format!(
                    "`{step}` would fail now: {}",
                    nobody_listens_because(&step)
                )),
                Ok(()) => None,
            };
            if why.is_none() {
                break;
            }
        }
        let state = WatchState {
            watch: "quiet",
            sees: why.is_none(),
            log: true,
            why: why.or_else(|| view.sockets().weakness()),
        };
        // Without a listener the process is about to end.
        let _ = mailbox.send(Message::Watch(state)).await;
    }
}

struct Observer {
    view: ConnectionView,
    scope: Watched,
    judge: Judge,
    /// The sidecar's own sockets when its own calls were last looked for.
    own: Vec<Inode>,
}

impl Observer {
    fn new(view: ConnectionView, step: &QuietStep) -> Observer {
        Observer {
            scope: Watched {
                ports: step.ports.clone(),
                // There it would be somebody else's.
                own_port: view.own_port.filter(|_| view.others.get().is_none()),
                inside: view.sockets().addresses(),
                own_calls: Vec::new(),
                heard: Ports::default(),
            },
            judge: Judge::new(step),
            view,
            own: Vec::new(),
        }
    }

    async fn look(&mut self, began: Instant) -> io::Result<Picture> {
        self.listen().await?;
        self.find_own_calls().await?;
        let ports = self.scope.heard.first(PORTS_BY_THEMSELVES + 1);
        let lists: Vec<SocketQuery> = if ports.len() > PORTS_BY_THEMSELVES {
            vec![SocketQuery::Connections(None)]
        } else {
            ports
                .into_iter()
                .map(|port| SocketQuery::Connections(Some(port)))
                .collect()
        };
        let sockets = Arc::clone(self.view.sockets());
        for wanted in lists {
            let (scope, judge) = (&self.scope, &mut self.judge);
            let listed = each(sockets.as_ref(), wanted, |socket| {
                if let Socket::Connection(connection, _) = socket
                    && scope.counts(connection.local, connection.peer)
                {
                    judge.see(&connection, now());
                }
            });
            if let Err(why) = listed.await {
                self.judge.drop_look();
                return Err(why);
            }
        }
        Ok(self.judge.end_look(began))
    }

    async fn listen(&mut self) -> io::Result<()> {
        let sockets = Arc::clone(self.view.sockets());
        let scope = &mut self.scope;
        each(sockets.as_ref(), SocketQuery::Listeners, |socket| {
            if let Socket::Listener(address) = socket {
                scope.hear(address);
            }
        })
        .await
    }

    /// The sidecar's own connections to the step's ports: a drain call that is answered only when all
    /// is quiet must not keep it from being so. From inside they count for steps with a port only.
    async fn find_own_calls(&mut self) -> io::Result<()> {
        if self.scope.ports.is_empty() {
            return Ok(());
        }
        let own = self.view.sockets().own();
        if own == self.own {
            return Ok(());
        }
        let mut calls: Vec<SocketAddr> = Vec::new();
        let sockets = Arc::clone(self.view.sockets());
        for port in self.scope.ports.clone() {
            each(sockets.as_ref(), SocketQuery::CallsTo(port), |socket| {
                if let Socket::Connection(TcpConnection { local, .. }, inode) = socket
                    && own.binary_search(&inode).is_ok()
                {
                    calls.push(local);
                }
            })
            .await?;
        }
        (self.own, self.scope.own_calls) = (own, calls);
        Ok(())
    }
}

/// Goes through a list, with a breath for the rest of the sidecar between its pieces.
async fn each(sockets: &dyn Sockets, wanted: SocketQuery, mut what: impl FnMut(Socket)) -> io::Result<()> {
    let mut list = sockets.list(wanted)?;
    let mut piece = Vec::new();
    let mut seen = 0;
    loop {
        let more = list.next(&mut piece)?;
        seen += piece.len();
        piece.drain(..).for_each(&mut what);
        if !more {
            return Ok(());
        }
        if seen > MAX_SOCKETS {
            return Err(io::Error::other(format!("more than {MAX_SOCKETS} sockets")));
        }
        tokio::task::yield_now().await;
    }
}
