//! The arithmetic of the 120 seconds: when a notice says that everything must be over.
//!
//! Pure functions of a notice, the settings and `now`. Merging several notices is the lifecycle's
//! matter; the ceiling holds for each of them here and for all of them there.

use std::time::{Duration, Instant};

use crate::core::notice::{Notice, Reason};

/// No shutdown takes longer, whatever is set: a Spot host is gone two minutes after its notice, and
/// 120 s is the largest `stopTimeout` that Fargate takes (ECS API reference, *ContainerDefinition*).
pub const CEILING: Duration = Duration::from_secs(120);

/// The least that a notice leaves, even one that comes too late or is read with a clock that is
/// minutes ahead: enough to tell the app once.
pub const FLOOR: Duration = Duration::from_secs(1);

/// The least stop timeout of the contract; Fargate's own minimum.
pub const MIN_STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// The most that may be kept back for the app's own SIGTERM.
pub const MAX_RESERVE: Duration = Duration::from_secs(110);

/// The most of the stop timeout that is kept back to write the outcome and exit before SIGKILL.
const MAX_MARGIN: Duration = Duration::from_secs(1);

/// A `stopTimeout` of 2 s to 120 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopTimeout(Duration);

impl StopTimeout {
    /// ECS's own default.
    pub const DEFAULT: StopTimeout = StopTimeout(Duration::from_secs(30));

    /// `None` where the duration is outside of the bounds.
    pub fn new(duration: Duration) -> Option<StopTimeout> {
        (MIN_STOP_TIMEOUT..=CEILING)
            .contains(&duration)
            .then_some(StopTimeout(duration))
    }

    /// As set in the task definition.
    pub fn get(self) -> Duration {
        self.0
    }

    /// How long before SIGKILL the sidecar is gone: a tenth, and at most a second.
    pub fn margin(self) -> Duration {
        (self.0 / 10).min(MAX_MARGIN)
    }

    /// What a SIGTERM leaves to a drain.
    pub fn budget(self) -> Duration {
        self.0 - self.margin()
    }
}

/// Time left to the app when the host goes away: 0 s to 110 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserve(Duration);

impl Reserve {
    /// Enough for most apps to close their connections.
    pub const DEFAULT: Reserve = Reserve(Duration::from_secs(10));

    /// `None` where the duration is outside of the bounds.
    pub fn new(duration: Duration) -> Option<Reserve> {
        (duration <= MAX_RESERVE).then_some(Reserve(duration))
    }

    pub fn get(self) -> Duration {
        self.0
    }
}

/// What the settings say about time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From SIGTERM to SIGKILL of this container.
    pub stop_timeout: StopTimeout,
    /// From the end of the drain to the end of the host.
    pub reserve: Reserve,
}

impl Limits {
    /// When everything must be over because of this notice alone, `now` being when it was seen.
    ///
    /// Never later than [`CEILING`] from now.
    pub fn deadline(&self, notice: &Notice, now: Instant) -> Instant {
        let by_stop_timeout = now + self.stop_timeout.budget();
        match (notice.reason, notice.host_end.at()) {
            (Reason::Sigterm, None) => by_stop_timeout,
            (Reason::Sigterm, Some(end)) => by_stop_timeout.min(self.before_host_ends(end, now)),
            (_, Some(end)) => self.before_host_ends(end, now),
            (_, None) => now + (CEILING - self.reserve.get()),
        }
    }

    fn before_host_ends(&self, end: Instant, now: Instant) -> Instant {
        let left = end.saturating_duration_since(now).min(CEILING);
        now + left.saturating_sub(self.reserve.get()).max(FLOOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(stop_timeout: f64, reserve: u64) -> Limits {
        Limits {
            stop_timeout: StopTimeout::new(Duration::from_secs_f64(stop_timeout)).unwrap(),
            reserve: Reserve::new(Duration::from_secs(reserve)).unwrap(),
        }
    }

    fn seconds(limits: Limits, reason: Reason, host_ends_in: Option<f64>) -> f64 {
        let now = Instant::now() + Duration::from_secs(1000);
        let notice = match host_ends_in {
            None => Notice::new(reason),
            Some(s) if s < 0.0 => Notice::host_ends_at(reason, now - Duration::from_secs_f64(-s)),
            Some(s) => Notice::host_ends_at(reason, now + Duration::from_secs_f64(s)),
        };
        (limits.deadline(&notice, now) - now).as_secs_f64()
    }

    #[test]
    fn sigterm_leaves_the_stop_timeout_less_a_tenth_and_at_most_a_second() {
        for (stop_timeout, left) in [(2.0, 1.8), (5.0, 4.5), (10.0, 9.0), (30.0, 29.0), (120.0, 119.0)] {
            assert_eq!(seconds(limits(stop_timeout, 10), Reason::Sigterm, None), left);
        }
    }

    #[test]
    fn sigterm_on_spot_ends_by_the_stricter_of_stop_timeout_and_host() {
        assert_eq!(seconds(limits(30.0, 10), Reason::Sigterm, Some(120.0)), 29.0);
        assert_eq!(seconds(limits(120.0, 10), Reason::Sigterm, Some(120.0)), 110.0);
    }

    #[test]
    fn a_host_that_ends_leaves_its_time_less_the_reserve() {
        assert_eq!(
            seconds(limits(30.0, 10), Reason::SpotInterruption, Some(120.0)),
            110.0
        );
        assert_eq!(
            seconds(limits(30.0, 0), Reason::SpotInterruption, Some(20.0)),
            20.0
        );
        assert_eq!(
            seconds(limits(30.0, 10), Reason::ScheduledMaintenance, Some(20.0)),
            10.0
        );
    }

    #[test]
    fn an_unknown_end_leaves_two_minutes_less_the_reserve() {
        for reason in [
            Reason::RebalanceRecommendation,
            Reason::AutoscalingTermination,
            Reason::Manual,
        ] {
            assert_eq!(seconds(limits(30.0, 10), reason, None), 110.0);
            assert_eq!(seconds(limits(30.0, 110), reason, None), 10.0);
        }
    }

    #[test]
    fn a_clock_that_is_wrong_neither_extends_the_budget_nor_loses_it() {
        assert_eq!(
            seconds(limits(30.0, 10), Reason::SpotInterruption, Some(900.0)),
            110.0
        );
        assert_eq!(
            seconds(limits(30.0, 10), Reason::SpotInterruption, Some(-900.0)),
            1.0
        );
    }

    #[test]
    fn a_reserve_longer_than_what_is_left_still_lets_the_app_be_told() {
        assert_eq!(
            seconds(limits(30.0, 10), Reason::SpotInterruption, Some(8.0)),
            1.0
        );
    }

    #[test]
    fn no_stop_timeout_or_reserve_exists_outside_of_its_bounds() {
        for bad in [0, 1, 121, 3600] {
            assert_eq!(StopTimeout::new(Duration::from_secs(bad)), None);
        }
        assert_eq!(StopTimeout::new(Duration::from_millis(1999)), None);
        assert_eq!(Reserve::new(Duration::from_millis(110_001)), None);
    }
}
