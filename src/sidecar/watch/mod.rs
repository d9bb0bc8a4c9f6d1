//! Where notices come from: signals, and the items of the instance metadata.
//!
//! A watcher knows nothing of what its notice causes. It never ends the sidecar: one that cannot
//! see says so once, with what to do, and tries again less often.

pub mod instance_metadata;
pub mod signals;

use std::time::Duration;

use backon::BackoffBuilder as _;
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::core::deadline::CEILING;
use crate::core::notice::Notice;
use crate::core::watch_items::{MAINTENANCE_LEAD, Sighting, WatchItem};
use crate::sidecar::clock::now;
use crate::sidecar::mailbox::{Mailbox, Message, WatchState};

use instance_metadata::{Blind, InstanceMetadata};

/// While the instance metadata cannot be asked, tries become this rare at most. A Spot notice is
/// at most 120 s ahead: a longer blind spot would cost more than a twelfth of it.
const MAX_BLIND_PAUSE: Duration = Duration::from_secs(10);

/// A watcher that sees again and is blind again within seconds is told so once, then after these pauses: as
/// long as it flaps, a line in ten minutes says how it is.
const FIRST_SILENCE: Duration = Duration::from_secs(10);
const LONGEST_SILENCE: Duration = Duration::from_secs(600);

/// Polls go out up to this part of the interval earlier or later, so that the sidecars of one
/// instance do not ask in step.
const JITTER: f64 = 0.1;

/// Watches each of the items on its own, so that one that hangs hides no other; returns when nothing
/// more can be seen of any.
pub async fn instance_metadata(
    metadata: InstanceMetadata,
    items: Vec<WatchItem>,
    interval: Duration,
    mailbox: Mailbox,
) {
    let mut watchers = JoinSet::new();
    for item in WatchItem::ALL.into_iter().filter(|item| items.contains(item)) {
        watchers.spawn(watch(
            item,
            metadata.with_own_connection(),
            interval,
            mailbox.clone(),
        ));
    }
    while watchers.join_next().await.is_some() {}
}

/// Asks for an item at each interval; sends a notice, and another one whenever the end has come closer.
/// Returns when the sidecar has gone.
async fn watch(item: WatchItem, mut metadata: InstanceMetadata, interval: Duration, mailbox: Mailbox) {
    let mut announced: Option<Timestamp> = None;
    let mut told: Option<Option<String>> = None;
    let mut lines = Rarely::new();
    let mut blind_pauses = blind_pauses(interval);
    loop {
        let seen = ask(&mut metadata, item).await;
        if let Ok(Some(end)) = &seen
            && announced.is_none_or(|before| end.at < before)
        {
            announced = Some(end.at);
            if mailbox.send(Message::Notice(end.notice)).await.is_err() {
                return;
            }
        }
        let why = seen.err().map(|why| why.to_string());
        let pause = if why.is_some() {
            blind_pauses.next().unwrap_or(MAX_BLIND_PAUSE).max(interval)
        } else {
            blind_pauses = self::blind_pauses(interval);
            jittered(interval)
        };
        let log = lines.has_news(&why);
        if log || told.as_ref() != Some(&why) {
            told = Some(why.clone());
            let state = WatchState {
                watch: item.name(),
                sees: why.is_none(),
                log,
                why,
            };
            if mailbox.send(Message::Watch(state)).await.is_err() {
                return;
            }
        }
        sleep(pause).await;
    }
}

/// Which states of a watcher are worth a line of the log: every change after a calm, and while it flaps the
/// state of the moment, less and less often.
struct Rarely {
    told: Option<Option<String>>,
    /// No line before that.
    next: Instant,
    pause: Duration,
}

impl Rarely {
    fn new() -> Rarely {
        Rarely {
            told: None,
            next: Instant::now(),
            pause: Duration::ZERO,
        }
    }

    fn has_news(&mut self, why: &Option<String>) -> bool {
        let now = Instant::now();
        if self.told.as_ref() == Some(why) || now < self.next {
            return false;
        }
        if now.duration_since(self.next) >= LONGEST_SILENCE {
            self.pause = Duration::ZERO;
        }
        self.told = Some(why.clone());
        self.next = now + self.pause;
        self.pause = (self.pause * 2).clamp(FIRST_SILENCE, LONGEST_SILENCE);
        true
    }
}

struct AnnouncedEnd {
    notice: Notice,
    /// By AWS's clock, to tell whether a later announcement is an earlier end; the end of time where the
    /// item says nothing of it.
    at: Timestamp,
}

/// One question. A document that makes no sense is blindness of this one item.
async fn ask(metadata: &mut InstanceMetadata, item: WatchItem) -> Result<Option<AnnouncedEnd>, Blind> {
    let Some(reading) = metadata.get(item.path()).await? else {
        return Ok(None);
    };
    let now = now();
    let aws_now = reading.date.unwrap_or_else(Timestamp::now);
    match item.parse(&reading.body, aws_now) {
        Sighting::Nothing => Ok(None),
        Sighting::Notice { action, host_ends } => Ok(Some(AnnouncedEnd {
            notice: match host_ends.map(|end| now + until(end, aws_now).min(CEILING)) {
                None => Notice::new(item.reason()),
                Some(end) if item == WatchItem::Spot => Notice::spot_interruption(action, end),
                Some(end) => Notice::host_ends_at(item.reason(), end),
            },
            at: host_ends.unwrap_or(Timestamp::MAX),
        })),
        Sighting::Starting { at } => {
            let left = until(at, aws_now);
            let notice = Notice::host_ends_at(item.reason(), now + left);
            Ok((left <= MAINTENANCE_LEAD).then_some(AnnouncedEnd { notice, at }))
        }
        Sighting::Senseless(why) => Err(Blind::Senseless {
            path: item.path(),
            why,
        }),
    }
}

/// How long until a wall-clock time of AWS, by the clock that AWS sent along with it, since the host's
/// own may be wrong by minutes. Nothing for what is past.
fn until(end: Timestamp, aws_now: Timestamp) -> Duration {
    Duration::try_from(end.duration_since(aws_now)).unwrap_or(Duration::ZERO)
}

fn blind_pauses(interval: Duration) -> impl Iterator<Item = Duration> {
    backon::ExponentialBuilder::default()
        .with_min_delay(interval)
        .with_max_delay(MAX_BLIND_PAUSE)
        .without_max_times()
        .build()
}

fn jittered(interval: Duration) -> Duration {
    // The clock's low digits are random enough to keep sidecars out of step.
    let random = f64::from(Timestamp::now().subsec_nanosecond() % 1000) / 1000.0;
    interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * random)
}

#[cfg(test)]
mod tests;
