//! The clocks of the shell: what time it is, and a deadline as others are told of it.
//!
//! Deadlines travel as [`Instant`]; they become text and seconds here, at the moment of telling.

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

/// By tokio's clock, which tests can pause.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A monotonic time as this host's clock would show it, to the second.
pub fn wall_clock(at: Instant) -> String {
    let left = SignedDuration::try_from(at.saturating_duration_since(now())).unwrap_or(SignedDuration::ZERO);
    let then = Timestamp::now().saturating_add(left).unwrap_or(Timestamp::MAX);
    then.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// To a tenth, and never more than there are.
pub fn seconds_left(deadline: Instant) -> f64 {
    let left = deadline.saturating_duration_since(now()).as_secs_f64();
    (left * 10.0).floor() / 10.0
}
