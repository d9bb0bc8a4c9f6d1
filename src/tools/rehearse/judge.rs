//! What came of a rehearsal, and the words for that.

use super::options::Options;
use super::record::{RehearsalOutcome, Run, Unit};
use super::scenario::{Cast, Opening, Scenario};
use crate::tools::picture::words;

/// From here on what failed may have failed for want of a processor: between the deadline and SIGKILL there is a tenth of
/// the stop timeout, which is scaled, too.
const BUSY: u64 = 100;

/// In more of the time than this the sidecar may have been what waited: the rehearsal itself need not have.
const STARVED: u64 = 50;

/// What the exit may be behind the deadline and still in time: SIGKILL comes later than this.
const LATE: u64 = 500;

/// What came of it, with the words for that: made in one place, so that they cannot differ.
pub(super) fn judge(scenario: &Scenario, options: &Options, runs: &[Run]) -> (RehearsalOutcome, String) {
    let run = |cast| runs.iter().find(|run| run.cast == cast);
    let Some(with) = run(Cast::All) else {
        return (
            RehearsalOutcome::NothingTested,
            "Nothing was tested: nothing was played.".to_owned(),
        );
    };
    let unit = options.unit(scenario);
    let complaints = complaints(scenario, options, with);
    let budget = with
        .report
        .as_ref()
        .map(|report| (report.used_ms, report.budget_ms));
    let budget = match budget {
        Some((Some(used), Some(budget))) => {
            format!(" {} of {} used,", words::span(used), words::span(budget))
        }
        _ => String::new(),
    };
    let exit = with
        .exit_code
        .map_or("killed".to_owned(), |code| format!("exit code {code}"));
    if !complaints.is_empty() {
        let mut words = sentence(&format!("Not as it should: {}", complaints.join("; ")));
        if !ended_by_itself(scenario, options, with) {
            words.push_str(&busy(with, options.scale(scenario)));
        }
        return (RehearsalOutcome::Failed, words);
    }
    if options.counts() && with.at_stake == 0 {
        let why = match options.unit(scenario) {
            Unit::Requests if options.own.is_some() => {
                "no request was in flight when it began, and none came after: your app answers too fast to be caught at \
                it, so give --app a URL of it whose answer takes a second or more"
            }
            Unit::Requests => "no request was in flight when it began, and none came after",
            Unit::Jobs => "no job was in hand when it began",
        };
        return (
            RehearsalOutcome::NothingTested,
            format!("Nothing was tested: {why}."),
        );
    }
    if with.lost > 0 {
        let why = scenario.loses.unwrap_or_default();
        let words = format!(
            "{} lost, as without a drain: {why}.{budget} {exit}.",
            unit.counted(with.lost)
        );
        return (RehearsalOutcome::LostAsExpected, words);
    }
    if !options.counts() {
        return (
            RehearsalOutcome::Passed,
            format!("Drained as it should:{budget} {exit}."),
        );
    }
    let mut compared = format!("Nothing was lost of {};", unit.counted(with.done));
    if let Some(other) = run(Cast::WithoutDeregister) {
        compared = format!("{compared} {} without PRESTOP_DEREGISTER,", other.lost);
    }
    let without = match run(Cast::WithoutSidecar).map_or(0, |run| run.lost) {
        0 => "nothing without the sidecar, either".to_owned(),
        lost => format!("{lost} without the sidecar"),
    };
    (
        RehearsalOutcome::Passed,
        format!("{compared} {without}.{budget} {exit}."),
    )
}

/// What there is to say of the machine where a rehearsal failed.
fn busy(with: &Run, scale: u32) -> String {
    let late_ms = with.late_ms.filter(|late_ms| *late_ms >= BUSY);
    let starved = with.starved_percent.filter(|percent| *percent >= STARVED);
    match (late_ms, starved) {
        (Some(late_ms), _) => {
            let late = words::span(late_ms);
            let known = format!(" This machine was busy: what was due came up to {late} late.");
            if scale == 1 {
                return known;
            }
            let on_ecs = words::span(late_ms * u64::from(scale));
            format!("{known} At --scale {scale} that is {on_ecs} of ECS; try a smaller one.")
        }
        (None, Some(percent)) => {
            let smaller = if scale > 1 { "; try a smaller --scale" } else { "" };
            format!(
                " This machine was busy: in {percent} % of the time something waited for a processor{smaller}."
            )
        }
        (None, None) => String::new(),
    }
}

/// Whether somebody's own app ended while it was still needed: one that has drained may.
fn ended_by_itself(scenario: &Scenario, options: &Options, with: &Run) -> bool {
    let host_gone = matches!(scenario.opening, Opening::SpotSilent(_));
    options.own.is_some() && with.lost > 0 && with.app_stops.is_none() && !host_gone
}

/// What did not end as it should; nothing where all is well.
fn complaints(scenario: &Scenario, options: &Options, with: &Run) -> Vec<String> {
    let mut complaints = Vec::new();
    if ended_by_itself(scenario, options, with) {
        complaints.push("the app ended before its SIGTERM".to_owned());
    }
    let code = if options.own.is_some() { 0 } else { scenario.code };
    match with.exit_code {
        Some(found) if found == code => {}
        Some(found) => {
            let failed = with.report.iter().flat_map(|report| &report.steps);
            let failed = failed.filter_map(|step| step.status.detail().filter(|_| found != 0));
            let why = failed.map(|why| format!(": {why}")).next().unwrap_or_default();
            complaints.push(format!("the sidecar exited with {found}, not {code}{why}"));
        }
        None => complaints.push("the sidecar had to be killed".to_owned()),
    }
    let lossless = scenario.loses.is_none() || options.own.is_some();
    if lossless && with.lost > 0 {
        let all = options.unit(scenario).counted(with.lost + with.done);
        complaints.push(format!("{} of {all} lost", with.lost));
    }
    let host_gone = matches!(scenario.opening, Opening::SpotSilent(_));
    if with.app_killed && !host_gone {
        complaints.push("the app had to be killed: it did not end on its SIGTERM".to_owned());
    }
    let report = with.report.as_ref();
    let late = report.and_then(|report| Some(report.used_ms? > report.budget_ms? + LATE));
    if late == Some(true) {
        complaints.push("the sidecar exited after its deadline".to_owned());
    }
    complaints
}

/// With a capital and a full stop.
pub(super) fn sentence(text: &str) -> String {
    let mut letters = text.trim_end_matches('.').chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    format!("{}{}.", first.unwrap_or_default(), letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(cast: Cast, done: u32, lost: u32, at_stake: u32) -> Run {
        Run {
            cast,
            done,
            lost,
            at_stake,
            exit_code: (cast != Cast::WithoutSidecar).then_some(0),
            app_killed: false,
            app_stops: None,
            marks: Vec::new(),
            in_flight: Vec::new(),
            lost_ms: Vec::new(),
            noticed_ms: None,
            report: None,
            late_ms: None,
            starved_percent: None,
        }
    }

    fn judged(with: Run, without: Run) -> (RehearsalOutcome, String) {
        let options = Options::default();
        let scenario = Scenario::named("stop-task").unwrap();
        judge(scenario, &options, &[with, without])
    }

    #[test]
    fn where_nothing_was_at_stake_that_is_a_failure_with_that_name() {
        let (outcome, words) = judged(run(Cast::All, 40, 0, 0), run(Cast::WithoutSidecar, 40, 0, 3));
        assert_eq!(outcome, RehearsalOutcome::NothingTested);
        assert!(
            !outcome.is_well() && words.starts_with("Nothing was tested"),
            "{words}"
        );
        let (outcome, words) = judged(run(Cast::All, 40, 0, 1), run(Cast::WithoutSidecar, 30, 10, 10));
        assert_eq!(outcome, RehearsalOutcome::Passed);
        assert!(words.contains("10 without the sidecar"), "{words}");
    }

    #[test]
    fn a_failure_on_a_busy_machine_says_that_it_was_busy() {
        let lost = |late_ms| Run {
            late_ms: Some(late_ms),
            ..run(Cast::All, 0, 2, 2)
        };
        let words = judged(lost(400), run(Cast::WithoutSidecar, 0, 2, 2)).1;
        assert!(
            words.contains("busy: what was due came up to 0.4 s late. At --scale 10 that is 4 s"),
            "{words}"
        );
        let words = judged(lost(20), run(Cast::WithoutSidecar, 0, 2, 2)).1;
        assert!(!words.contains("busy"), "{words}");
        // What plays was in time, what is played was not.
        let starved = |percent| Run {
            starved_percent: Some(percent),
            ..lost(20)
        };
        let words = judged(starved(97), run(Cast::WithoutSidecar, 0, 2, 2)).1;
        assert!(
            words.contains("busy: in 97 % of the time something waited"),
            "{words}"
        );
        let words = judged(starved(30), run(Cast::WithoutSidecar, 0, 2, 2)).1;
        assert!(!words.contains("busy"), "{words}");
    }

    #[test]
    fn what_was_lost_with_the_sidecar_is_no_success_even_where_nothing_else_was_at_stake() {
        let (outcome, words) = judged(run(Cast::All, 0, 2, 2), run(Cast::WithoutSidecar, 0, 2, 2));
        assert_eq!(outcome, RehearsalOutcome::Failed);
        assert!(words.contains("2 of 2 requests lost"), "{words}");
    }
}
