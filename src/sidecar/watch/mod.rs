//! Where notices come from: signals, and the items of the instance metadata.
//!
//! A watcher knows nothing of what its notice causes. It never ends the sidecar: one that cannot
//! see says so once, with what to do, and tries again less often.

pub mod instance_metadata;
pub mod items;
pub mod signals;

use std::time::Duration;

use backon::BackoffBuilder as _;
use jiff::Timestamp;
use tokio::time::sleep;

use crate::core::deadline::CEILING;
use crate::core::notice::{HostEnd, Notice};
use crate::sidecar::mailbox::{Mailbox, Message, WatchState};

use instance_metadata::{Blind, InstanceMetadata};
use items::{Item, Sighting};

/// While the instance metadata cannot be asked, tries become this rare at most. A Spot notice is
/// at most 120 s ahead: a longer blind spot would cost more than a twelfth of it.
const MAX_BLIND_PAUSE: Duration = Duration::from_secs(10);

/// Polls go out up to this part of the interval earlier or later, so that the sidecars of one
/// instance do not ask in step.
const JITTER: f64 = 0.1;

/// Asks for the items, one after the other, at each interval; sends at most one notice for each.
/// Returns when all have been seen.
pub async fn instance_metadata(
    mut metadata: InstanceMetadata,
    mut items: Vec<Item>,
    interval: Duration,
    mailbox: Mailbox,
) {
    let mut told: Vec<(Item, Option<String>)> = Vec::new();
    let mut blind_pauses = blind_pauses(interval);
    while !items.is_empty() {
        let mut seen_something = false;
        for item in items.clone() {
            let mut unreachable = false;
            let why = match ask(&mut metadata, item).await {
                Ok(None) => None,
                Ok(Some(notice)) => {
                    items.retain(|other| *other != item);
                    if mailbox.send(Message::Notice(notice)).await.is_err() {
                        return;
                    }
                    None
                }
                Err(why) => {
                    unreachable = why.unreachable();
                    Some(why.to_string())
                }
            };
            seen_something |= why.is_none();
            if tell(&mut told, item, why.clone()) {
                let state = WatchState {
                    watch: item.name(),
                    sees: why.is_none(),
                    why,
                };
                if mailbox.send(Message::Watch(state)).await.is_err() {
                    return;
                }
            }
            if unreachable {
                // The other items would fare no better, each at the cost of a time-out.
                break;
            }
        }
        if !seen_something {
            sleep(blind_pauses.next().unwrap_or(MAX_BLIND_PAUSE).max(interval)).await;
        } else {
            blind_pauses = self::blind_pauses(interval);
            sleep(jittered(interval)).await;
        }
    }
}

/// One question. A document that makes no sense is blindness of this one item.
async fn ask(metadata: &mut InstanceMetadata, item: Item) -> Result<Option<Notice>, Blind> {
    let Some(reading) = metadata.get(item.path()).await? else {
        return Ok(None);
    };
    let now = tokio::time::Instant::now().into_std();
    let aws_now = reading.date.unwrap_or_else(Timestamp::now);
    match item.parse(&reading.body, aws_now) {
        Sighting::Nothing => Ok(None),
        Sighting::Notice { action, host_ends } => Ok(Some(Notice {
            reason: item.reason(),
            action,
            host_end: host_ends.map_or(HostEnd::Unknown, |end| {
                HostEnd::Known(now + until(end, aws_now).min(CEILING))
            }),
        })),
        Sighting::Starting { at: start } => {
            let left = until(start, aws_now);
            Ok((left <= items::MAINTENANCE_LEAD).then(|| Notice::host_ends_at(item.reason(), now + left)))
        }
        Sighting::Senseless(why) => Err(Blind::Senseless {
            path: item.path(),
            why,
        }),
    }
}

/// Whether this is news.
fn tell(told: &mut Vec<(Item, Option<String>)>, item: Item, why: Option<String>) -> bool {
    match told.iter_mut().find(|(other, _)| *other == item) {
        Some((_, last)) if *last == why => false,
        Some((_, last)) => {
            *last = why;
            true
        }
        None => {
            told.push((item, why));
            true
        }
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
