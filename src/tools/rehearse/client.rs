//! The other side of the load balancer: clients that keep sending requests, quick and slow ones, until
//! they are told to look away.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep, timeout};

use crate::core::url::HttpUrl;
use crate::sidecar::http::{Ask, Network, Way};

/// Between two quick requests, and between two slow ones.
const QUICK_EVERY: Duration = Duration::from_millis(50);
const SLOW_EVERY: Duration = Duration::from_millis(400);

/// How many requests leave in the very moment before something happens to an app whose answers may take a millisecond:
/// so that it has some in flight when it does. More would not fit into the queue of a server that lets five
/// connections wait, as Python's do, and would come a second late.
const AT_ONCE: usize = 3;

/// Between two health checks, and how many must fail in a row: a load balancer's, scaled down.
const CHECK_EVERY: Duration = Duration::from_millis(200);
const UNHEALTHY_AFTER: u32 = 2;

/// A request that takes longer is lost: longer than any shutdown.
const PATIENCE: Duration = Duration::from_secs(150);

/// An app that hangs for two minutes keeps no more than these waiting.
const MOST_AT_ONCE: usize = 512;

/// One request, from its first byte to its last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) began: Instant,
    pub(super) ended: Instant,
    pub(super) answered: bool,
}

/// The load balancer and the clients behind it. They run as long as it is polled.
#[derive(Clone, Default)]
pub(super) struct Load {
    looked_away: Rc<Cell<Option<Instant>>>,
    in_flight: Rc<RefCell<JoinSet<Sent>>>,
    sent: Rc<RefCell<Vec<Sent>>>,
    /// What the quick requests ask for.
    quick: Rc<RefCell<Option<HttpUrl>>>,
}

impl Load {
    /// From now on no new request is sent; those in flight go on. Whether that is news.
    pub(super) fn look_away(&self) -> bool {
        let news = self.looked_away.get().is_none();
        if news {
            self.looked_away.set(Some(Instant::now()));
        }
        news
    }

    pub(super) fn looked_away(&self) -> Option<Instant> {
        self.looked_away.get()
    }

    /// How many requests have no answer yet.
    pub(super) fn waiting(&self) -> usize {
        self.in_flight.borrow().len()
    }

    /// Several requests leave now; whoever goes on after this without waiting finds them under way.
    pub(super) async fn send_at_once(&self) {
        let quick = self.quick.borrow().clone();
        for url in quick.iter().cycle().take(AT_ONCE) {
            self.request(url);
        }
        // All tasks are of one thread: each has its turn, and opens its connection in it.
        yield_now().await;
    }

    /// Waits until no new requests are sent.
    pub(super) async fn until_looked_away(&self) {
        while self.looked_away.get().is_none() {
            sleep(QUICK_EVERY).await;
        }
    }

    /// Sends until the clients have looked away, then waits for the answers.
    pub(super) async fn send(&self, quick: &HttpUrl, slow: Option<&HttpUrl>) {
        let mut next_slow = Instant::now();
        *self.quick.borrow_mut() = Some(quick.clone());
        while self.looked_away.get().is_none() {
            self.request(quick);
            if let Some(slow) = slow
                && Instant::now() >= next_slow
            {
                next_slow += SLOW_EVERY;
                self.request(slow);
            }
            self.count();
            sleep(QUICK_EVERY).await;
        }
        loop {
            self.count();
            if self.in_flight.borrow().is_empty() {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Checks the target's health and looks away when it fails.
    pub(super) async fn check(&self, health: &HttpUrl, on_unhealthy: impl FnOnce()) {
        let mut failed = 0;
        while failed < UNHEALTHY_AFTER {
            sleep(CHECK_EVERY).await;
            if ask(health.clone()).await {
                failed = 0;
            } else {
                failed += 1;
            }
        }
        if self.look_away() {
            on_unhealthy();
        }
    }

    /// All requests that have ended.
    pub(super) fn sent(&self) -> Vec<Sent> {
        self.count();
        self.sent.borrow().clone()
    }

    fn request(&self, url: &HttpUrl) {
        if self.waiting() >= MOST_AT_ONCE {
            return;
        }
        let url = url.clone();
        self.in_flight.borrow_mut().spawn(async move {
            let began = Instant::now();
            let answered = ask(url).await;
            Sent {
                began,
                ended: Instant::now(),
                answered,
            }
        });
    }

    fn count(&self) {
        while let Some(done) = self.in_flight.borrow_mut().try_join_next() {
            self.sent.borrow_mut().extend(done);
        }
    }
}

/// Whether it was answered to the end, and not with an error.
pub(super) async fn ask(url: HttpUrl) -> bool {
    let network = Network::system(1);
    let whole = async {
        let answer = network.ask(Ask::get(&url), &mut Way::default()).await.ok()?;
        let status = answer.status();
        let good = !status.is_client_error() && !status.is_server_error();
        answer.finish().await.ok()?;
        good.then_some(())
    };
    timeout(PATIENCE, whole).await.is_ok_and(|good| good.is_some())
}
