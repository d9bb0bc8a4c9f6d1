//! The time axis that all panels of a picture share.

use super::{Chart, MarkKind, words};

/// A deadline is left out of the axis, and pointed to at its edge, where it comes later than this many
/// times all the rest: the rest would be a stroke.
const FAR: i64 = 3;

/// Of what was before 0 no more than this part of the rest is shown: it is there to compare with.
const BEFORE: i64 = 8;

/// No shutdown takes a day; what a broken log says beyond it is at the edge.
const LONGEST_MS: i64 = 86_400_000;

/// From the first moment that is shown to the last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis {
    /// Never after 0.
    pub from_ms: i64,
    /// Always after `from_ms`.
    pub to_ms: i64,
}

impl Axis {
    /// As long as all panels need.
    pub fn of(picture: &Chart) -> Axis {
        let (mut from, mut to) = (0, 1);
        let mut far = 0;
        for panel in &picture.panels {
            for bar in panel.rows.iter().flat_map(|row| &row.bars) {
                (from, to) = (from.min(bar.from_ms), to.max(bar.to_ms));
            }
            for mark in &panel.marks {
                match mark.kind {
                    MarkKind::Deadline => far = far.max(mark.at_ms),
                    _ => (from, to) = (from.min(mark.at_ms), to.max(mark.at_ms)),
                }
            }
            if let Some(traffic) = &panel.traffic {
                let in_flight = traffic
                    .in_flight
                    .iter()
                    .filter(|(_, n)| *n > 0)
                    .map(|(at, _)| *at);
                for at in in_flight.chain(traffic.lost_ms.iter().flatten().copied()) {
                    (from, to) = (from.min(at), to.max(at));
                }
            }
        }
        if far <= to.saturating_mul(FAR) {
            to = to.max(far);
        }
        to = to.min(LONGEST_MS);
        from = from.max(-(to / BEFORE + 1));
        // Some room, so that what is at the end can be told from the edge.
        to = to.saturating_add((to - from) / 25 + 1);
        Axis {
            from_ms: from,
            to_ms: to,
        }
    }

    /// Where a moment is, from 0 to 1; those outside are at the edge.
    pub fn share(self, at_ms: i64) -> f64 {
        let span = as_f64(self.to_ms - self.from_ms).max(1.0);
        (as_f64(at_ms.saturating_sub(self.from_ms)) / span).clamp(0.0, 1.0)
    }

    pub fn shows(self, at_ms: i64) -> bool {
        (self.from_ms..=self.to_ms).contains(&at_ms)
    }

    /// A tick's name, given all of them: figures of one axis are all milliseconds or all seconds.
    pub fn name(ticks: &[i64], tick: i64) -> String {
        let fine = ticks.get(1).is_some_and(|step| *step < 100);
        match tick.unsigned_abs() {
            0 => "0".to_owned(),
            ms if fine => format!("{ms} ms"),
            ms => words::span(ms),
        }
    }

    /// Round moments from 0 on, no more than so many.
    pub fn ticks(self, at_most: usize) -> Vec<i64> {
        let steps = [1, 2, 5, 10, 20, 50, 100, 200, 500]
            .into_iter()
            .chain([1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600].map(|s| s * 1000));
        let count = |step: i64| usize::try_from(self.to_ms / step + 1).unwrap_or(usize::MAX);
        let last = LONGEST_MS;
        let step = steps
            .into_iter()
            .find(|step| count(*step) <= at_most)
            .unwrap_or(last);
        (0..)
            .map(|i| i * step)
            .take_while(|at| *at <= self.to_ms)
            .take(at_most)
            .collect()
    }
}

/// Milliseconds of a shutdown are far below what a float holds exactly.
#[allow(clippy::cast_precision_loss, reason = "times here are minutes, not millennia")]
pub(super) fn as_f64(n: i64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ticks_are_few_and_on_the_axis(from in -10_000_i64..=0, to in 1_i64..10_000_000, at_most in 2_usize..20) {
            let axis = Axis { from_ms: from, to_ms: to };
            let ticks = axis.ticks(at_most);
            prop_assert!(!ticks.is_empty() && ticks.len() <= at_most);
            prop_assert!(ticks.is_sorted() && ticks.iter().all(|at| axis.shows(*at)));
        }

        #[test]
        fn every_moment_has_its_place(from in -10_000_i64..=0, to in 1_i64..10_000_000, at in any::<i32>()) {
            let share = Axis { from_ms: from, to_ms: to }.share(at.into());
            prop_assert!((0.0..=1.0).contains(&share));
        }
    }
}
