//! The other side of the load balancer: clients that keep sending requests, quick and slow ones, for
//! as long as the target is registered.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::core::url::HttpUrl;
use crate::sidecar::http::{Ask, Network, Way};

/// Between two quick requests, and between two slow ones.
const QUICK_EVERY: Duration = Duration::from_millis(50);
const SLOW_EVERY: Duration = Duration::from_millis(400);

/// Between two health checks, and how many must fail in a row: a load balancer's, scaled down.
const CHECK_EVERY: Duration = Duration::from_millis(200);
const UNHEALTHY_AFTER: u32 = 2;

/// A request that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// The load balancer and the clients behind it. They run as long as it is polled.
#[derive(Clone, Default)]
pub(super) struct Clients {
    pub(super) answered: Rc<Cell<u32>>,
    pub(super) lost: Rc<Cell<u32>>,
    deregistered: Rc<Cell<bool>>,
    in_flight: Rc<RefCell<JoinSet<bool>>>,
}

impl Clients {
    /// From now on no new request is sent; those in flight go on.
    pub(super) fn deregister(&self) {
        self.deregistered.set(true);
    }

    /// Waits until no new requests are sent.
    pub(super) async fn until_deregistered(&self) {
        while !self.deregistered.get() {
            sleep(QUICK_EVERY).await;
        }
    }

    /// Sends until the target is deregistered, then waits for the answers.
    pub(super) async fn send(&self, quick: &HttpUrl, slow: &HttpUrl) {
        let mut next_slow = Instant::now();
        while !self.deregistered.get() {
            self.request(quick);
            if Instant::now() >= next_slow {
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

    /// Checks the target's health and deregisters it when it fails.
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
        if !self.deregistered.get() {
            on_unhealthy();
            self.deregister();
        }
    }

    fn request(&self, url: &HttpUrl) {
        self.in_flight.borrow_mut().spawn(ask(url.clone()));
    }

    fn count(&self) {
        while let Some(done) = self.in_flight.borrow_mut().try_join_next() {
            let cell = if done.unwrap_or(false) {
                &self.answered
            } else {
                &self.lost
            };
            cell.set(cell.get() + 1);
        }
    }
}

/// Whether it was answered with a 2xx, to the end.
pub(super) async fn ask(url: HttpUrl) -> bool {
    let network = Network::system(1);
    let whole = async {
        let answer = network.ask(Ask::get(&url), &mut Way::default()).await.ok()?;
        let good = answer.status().is_success();
        answer.finish().await.ok()?;
        good.then_some(())
    };
    timeout(PATIENCE, whole).await.is_ok_and(|good| good.is_some())
}
