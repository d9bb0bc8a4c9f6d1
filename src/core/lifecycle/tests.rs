//! The promises about time and order, played in no time at all.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::core::deadline::{FLOOR, Limits, Reserve, StopTimeout};
use crate::core::notice::{Action, LaunchType};
use crate::core::step::parse_steps;
use crate::core::task::{Container, Task};

fn secs(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

fn policy(stop_timeout: u64, reserve: u64, settle: u64) -> Policy {
    Policy {
        limits: Limits {
            stop_timeout: StopTimeout::new(Duration::from_secs(stop_timeout)).unwrap(),
            reserve: Reserve::new(Duration::from_secs(reserve)).unwrap(),
        },
        settle: Duration::from_secs(settle),
        settle_before_quiet: Duration::from_secs(settle),
        after_drain: AfterDrain::Wait,
        aws: AwsPolicy::default(),
    }
}

/// Labels make a plan of any shape.
fn plan(orders: &[i64], step: &str) -> Plan {
    let containers = orders.iter().enumerate().map(|(i, order)| Container {
        name: format!("c{i}"),
        labels: BTreeMap::from([
            ("prestop.drain".to_owned(), step.to_owned()),
            ("prestop.order".to_owned(), order.to_string()),
        ]),
        ..Container::default()
    });
    let task = Task {
        containers: containers.collect(),
        ..Task::default()
    };
    Plan::from_labels(&task).0.unwrap()
}

/// A lifecycle with its own clock.
struct Play {
    lifecycle: Lifecycle,
    t0: Instant,
}

impl Play {
    fn new(policy: Policy, plan: Option<Plan>) -> Play {
        Play {
            lifecycle: Lifecycle::new(policy, plan),
            t0: Instant::now(),
        }
    }

    fn one_call(policy: Policy) -> Play {
        let steps = parse_steps("http://app/drain").unwrap();
        Play::new(policy, Plan::from_setting(&steps))
    }

    /// The commands that an event at second `t` leads to, as words.
    fn on(&mut self, t: f64, event: Event) -> Vec<String> {
        let now = self.t0 + secs(t);
        let commands = self.lifecycle.on(event, now);
        let mut words = Vec::new();
        for command in commands {
            match command {
                Command::ReadLabels => words.push("read labels".to_owned()),
                Command::Start { step, .. } => words.push(format!("start {}", step.number)),
                Command::Aws(call) => words.push(format!("aws {call:?}")),
                Command::DropSteps => {
                    let code = self.lifecycle.ended().unwrap();
                    words.extend(["drop".to_owned(), format!("exit {}", code.number())]);
                }
            }
        }
        words
    }

    fn notice(&mut self, t: f64, reason: Reason, host_ends: Option<f64>) -> Vec<String> {
        let notice = match host_ends.map(|end| self.t0 + secs(end)) {
            None => Notice::new(reason),
            Some(end) if reason == Reason::SpotInterruption => {
                Notice::spot_interruption(Some(Action::Terminate), end)
            }
            Some(end) => Notice::host_ends_at(reason, end),
        };
        self.on(t, Event::Notice(notice))
    }

    fn sigterm(&mut self, t: f64) -> Vec<String> {
        self.notice(t, Reason::Sigterm, None)
    }

    fn drained(&mut self, t: f64, step: usize) -> Vec<String> {
        self.on(t, Event::StepEnded(step, Outcome::Drained("200".to_owned())))
    }

    fn deadline(&self) -> f64 {
        (self.lifecycle.deadline().unwrap() - self.t0).as_secs_f64()
    }

    fn timeout(&self) -> Option<f64> {
        let at = self.lifecycle.next_timeout()?;
        Some((at - self.t0).as_secs_f64())
    }
}

#[test]
fn a_sigterm_starts_the_step_at_once_and_its_end_is_the_end() {
    let mut play = Play::one_call(policy(30, 10, 0));
    assert_eq!(play.timeout(), None);
    assert_eq!(play.sigterm(0.0), ["start 1"]);
    assert_eq!(play.timeout(), Some(29.0));
    assert_eq!(play.drained(3.0, 1), ["drop", "exit 0"]);
}

#[test]
fn at_the_deadline_what_runs_is_dropped_and_the_code_is_3() {
    let mut play = Play::one_call(policy(30, 10, 0));
    play.sigterm(0.0);
    assert_eq!(play.on(28.999, Event::Timeout), [""; 0]);
    assert_eq!(play.on(29.0, Event::Timeout), ["drop", "exit 3"]);
}

fn with_aws(policy: Policy, deregister: bool, drain_instance: bool, ask_why: bool) -> Policy {
    Policy {
        aws: AwsPolicy {
            deregister,
            drain_instance,
            ask_why,
            release_protection: false,
        },
        ..policy
    }
}

fn done(call: AwsCall) -> Event {
    Event::AwsEnded(call, AwsOutcome::Done("done".to_owned()))
}

#[test]
fn the_first_step_waits_until_the_target_groups_have_let_go() {
    let mut play = Play::one_call(with_aws(policy(30, 10, 0), true, false, false));
    assert_eq!(play.sigterm(0.0), ["aws Deregister"]);
    assert_eq!(play.timeout(), Some(14.5));
    assert_eq!(play.on(4.0, done(AwsCall::Deregister)), ["start 1"]);
    assert_eq!(play.drained(5.0, 1), ["drop", "exit 0"]);
}

#[test]
fn target_groups_that_do_not_let_go_hold_the_drain_back_for_half_of_the_time_at_most() {
    let mut play = Play::one_call(with_aws(policy(30, 10, 0), true, false, false));
    play.sigterm(0.0);
    assert_eq!(play.on(14.4, Event::Timeout), [""; 0]);
    assert_eq!(play.on(14.5, Event::Timeout), ["start 1"]);
    // A later and stricter notice leaves less to wait for.
    let mut play = Play::one_call(with_aws(policy(120, 10, 0), true, false, false));
    play.notice(0.0, Reason::Manual, None);
    assert_eq!(play.timeout(), Some(55.0));
    play.notice(1.0, Reason::SpotInterruption, Some(31.0));
    assert_eq!(play.timeout(), Some(11.0));
}

#[test]
fn settling_and_leaving_go_on_side_by_side() {
    let mut play = Play::one_call(with_aws(policy(30, 10, 5), true, false, false));
    play.sigterm(0.0);
    assert_eq!(play.on(2.0, done(AwsCall::Deregister)), [""; 0]);
    assert_eq!(play.timeout(), Some(5.0));
    assert_eq!(play.on(5.0, Event::Timeout), ["start 1"]);
}

#[test]
fn an_instance_is_drained_once_and_only_if_its_host_is_about_to_go() {
    let mut play = Play::one_call(with_aws(policy(30, 10, 0), false, true, false));
    assert_eq!(play.notice(0.0, Reason::Manual, None), ["start 1"]);
    assert_eq!(
        play.notice(1.0, Reason::RebalanceRecommendation, None),
        ["aws DrainInstance"]
    );
    assert_eq!(play.notice(2.0, Reason::SpotInterruption, Some(122.0)), [""; 0]);
}

#[test]
fn it_leaves_after_the_drain_only_when_its_instance_has_been_asked_for() {
    let mut play = Play::one_call(Policy {
        after_drain: AfterDrain::Exit,
        ..with_aws(policy(30, 10, 0), false, true, false)
    });
    play.notice(0.0, Reason::SpotInterruption, Some(120.0));
    assert_eq!(play.drained(1.0, 1), [""; 0]);
    assert_eq!(play.timeout(), Some(110.0));
    assert_eq!(play.on(8.0, done(AwsCall::DrainInstance)), ["drop", "exit 0"]);
}

#[test]
fn the_task_is_stopped_only_when_its_instance_has_been_asked_for() {
    let stops = Policy {
        after_drain: AfterDrain::StopTask,
        ..policy(30, 10, 0)
    };
    let mut play = Play::one_call(with_aws(stops, false, true, false));
    assert_eq!(
        play.notice(0.0, Reason::SpotInterruption, Some(120.0)),
        ["aws DrainInstance", "start 1"]
    );
    assert_eq!(
        play.drained(1.0, 1),
        [""; 0],
        "its SIGTERM would come before the instance's turn"
    );
    assert_eq!(play.on(8.0, done(AwsCall::DrainInstance)), ["aws StopTask"]);
    assert_eq!(play.sigterm(8.2), ["drop", "exit 0"]);
}

#[test]
fn it_leaves_by_itself_only_when_protection_has_ended_or_the_deadline_has_come() {
    let leaves = || {
        let mut policy = Policy {
            after_drain: AfterDrain::Exit,
            ..policy(30, 10, 0)
        };
        policy.aws.release_protection = true;
        let mut play = Play::one_call(policy);
        play.notice(0.0, Reason::Manual, None);
        assert_eq!(play.drained(1.0, 1), ["aws ReleaseProtection"]);
        assert_eq!(play.timeout(), Some(110.0));
        play
    };
    assert_eq!(
        leaves().on(1.2, done(AwsCall::ReleaseProtection)),
        ["drop", "exit 0"]
    );
    assert_eq!(leaves().on(110.0, Event::Timeout), ["drop", "exit 0"]);
    // A task that is being stopped needs none.
    assert_eq!(leaves().sigterm(1.1), ["drop", "exit 0"]);
}

#[test]
fn drained_without_a_sigterm_ecs_is_asked_to_stop_the_task_and_it_stays_until_it_does() {
    let mut play = Play::one_call(Policy {
        after_drain: AfterDrain::StopTask,
        ..policy(30, 10, 0)
    });
    play.notice(0.0, Reason::Manual, None);
    assert_eq!(play.drained(1.0, 1), ["aws StopTask"]);
    assert_eq!(play.on(1.5, done(AwsCall::StopTask)), [""; 0]);
    assert_eq!(play.sigterm(2.0), ["drop", "exit 0"]);
    // After a SIGTERM there is nobody left to ask.
    let mut play = Play::one_call(Policy {
        after_drain: AfterDrain::StopTask,
        ..policy(30, 10, 0)
    });
    play.sigterm(0.0);
    assert_eq!(play.drained(1.0, 1), ["drop", "exit 0"]);
}

fn cause(stop_code: &str, capacity_provider: Option<&str>) -> Event {
    Event::Cause(Cause {
        stop_code: Some(stop_code.into()),
        capacity_provider: capacity_provider.map(Into::into),
        ..Cause::default()
    })
}

#[test]
fn what_ecs_says_of_the_capacity_sharpens_the_deadline_or_takes_an_assumption_back() {
    let sigterm = |play: &mut Play| {
        let end = play.t0 + CEILING;
        play.on(0.0, Event::Notice(Notice::host_may_end_at(Reason::Sigterm, end)))
    };
    // Fargate, capacity unknown: as if it were Spot, until ECS says what it is.
    let with_why = || with_aws(policy(120, 30, 0), false, false, true);
    let mut play = Play::one_call(with_why());
    assert_eq!(sigterm(&mut play), ["aws Why", "start 1"]);
    assert_eq!(play.deadline(), 90.0);
    play.on(1.0, cause("ServiceSchedulerInitiated", Some("FARGATE")));
    assert_eq!(play.deadline(), 119.0);
    let mut play = Play::one_call(with_why());
    sigterm(&mut play);
    play.on(1.0, cause("SpotInterruption", Some("FARGATE_SPOT")));
    assert_eq!(play.deadline(), 90.0);
    // A deployment on Spot: the host stays for now, but nobody promises that it does.
    let mut play = Play::one_call(with_why());
    sigterm(&mut play);
    play.on(1.0, cause("ServiceSchedulerInitiated", Some("FARGATE_SPOT")));
    assert_eq!(play.deadline(), 90.0);
    // Taken for on demand, and then it is Spot after all.
    let mut play = Play::one_call(with_why());
    play.sigterm(0.0);
    assert_eq!(play.deadline(), 119.0);
    play.on(1.0, cause("SpotInterruption", None));
    assert_eq!(play.deadline(), 90.0);
}

#[test]
fn a_stop_timeout_that_ecs_has_said_holds_from_the_next_notice_on() {
    let mut play = Play::one_call(policy(30, 10, 0));
    let learned = Event::StopTimeout(StopTimeout::new(secs(100.0)).unwrap());
    play.on(0.0, learned.clone());
    play.sigterm(1.0);
    assert_eq!(play.deadline(), 100.0);
    let mut play = Play::one_call(policy(30, 10, 0));
    play.sigterm(0.0);
    play.on(1.0, learned);
    assert_eq!(play.deadline(), 29.0);
}

#[test]
fn a_step_that_failed_makes_it_4_and_the_next_one_still_runs() {
    let steps = parse_steps("http://a/, http://b/").unwrap();
    let mut play = Play::new(policy(30, 10, 0), Plan::from_setting(&steps));
    assert_eq!(play.sigterm(0.0), ["start 1"]);
    assert_eq!(
        play.on(1.0, Event::StepEnded(1, Outcome::Failed("404".to_owned()))),
        ["start 2"]
    );
    assert_eq!(play.drained(2.0, 2), ["drop", "exit 4"]);
}

#[test]
fn a_step_done_at_the_very_deadline_is_done_in_time_only_before_it() {
    let mut play = Play::one_call(policy(30, 10, 0));
    play.sigterm(0.0);
    assert_eq!(play.drained(28.999, 1), ["drop", "exit 0"]);
}

#[test]
fn drained_without_sigterm_it_waits_and_leaves_as_soon_as_sigterm_comes() {
    let mut play = Play::one_call(policy(30, 10, 0));
    play.notice(0.0, Reason::RebalanceRecommendation, None);
    assert_eq!(play.drained(2.0, 1), [""; 0]);
    assert_eq!(
        play.timeout(),
        None,
        "no host end is known: it waits as long as the task lives"
    );
    assert_eq!(play.sigterm(4000.0), ["drop", "exit 0"]);
}

#[test]
fn waiting_on_a_host_that_ends_it_leaves_before_the_host_does() {
    let mut play = Play::one_call(policy(30, 10, 0));
    play.notice(0.0, Reason::SpotInterruption, Some(120.0));
    assert_eq!(play.drained(2.0, 1), [""; 0]);
    assert_eq!(play.timeout(), Some(110.0));
    assert_eq!(play.on(110.0, Event::Timeout), ["drop", "exit 0"]);
}

#[test]
fn drained_without_sigterm_it_exits_at_once_where_that_is_set() {
    let mut play = Play::one_call(Policy {
        after_drain: AfterDrain::Exit,
        ..policy(30, 10, 0)
    });
    play.notice(0.0, Reason::Manual, None);
    assert_eq!(play.drained(2.0, 1), ["drop", "exit 0"]);
}

#[test]
fn every_pair_of_notices_merges_to_the_strictest_deadline_and_starts_nothing_twice() {
    let ends = |reason| matches!(reason, Reason::SpotInterruption | Reason::ScheduledMaintenance);
    let own = |reason, at: f64| match reason {
        Reason::Sigterm => at + 29.0,
        reason if ends(reason) => 50.0,
        _ => at + 110.0,
    };
    for first in Reason::ALL {
        for second in Reason::ALL {
            let mut play = Play::one_call(policy(30, 10, 0));
            let end = |reason| ends(reason).then_some(60.0);
            assert_eq!(play.notice(0.0, first, end(first)), ["start 1"], "{first:?}");
            assert_eq!(
                play.notice(5.0, second, end(second)),
                [""; 0],
                "{first:?} then {second:?}"
            );
            let strictest = own(first, 0.0).min(own(second, 5.0));
            assert_eq!(play.deadline(), strictest, "{first:?} then {second:?}");
            let reasons = if first == second { 1 } else { 2 };
            assert_eq!(
                play.lifecycle.notices().len(),
                reasons,
                "{first:?} then {second:?}"
            );
        }
    }
}

#[test]
fn a_hundred_sigterms_are_one() {
    let mut play = Play::one_call(policy(30, 10, 0));
    assert_eq!(play.sigterm(0.0), ["start 1"]);
    for i in 1..100 {
        assert_eq!(play.sigterm(f64::from(i) / 10.0), [""; 0]);
    }
    assert_eq!(play.deadline(), 29.0);
    assert_eq!(
        play.lifecycle.timeline().entries().len(),
        2,
        "notice and step.start"
    );
}

#[test]
fn settling_delays_the_first_step_and_takes_at_most_half_of_the_time() {
    let mut play = Play::one_call(policy(30, 10, 5));
    assert_eq!(play.sigterm(0.0), [""; 0]);
    assert_eq!(play.timeout(), Some(5.0));
    assert_eq!(play.on(5.0, Event::Timeout), ["start 1"]);
    let mut play = Play::one_call(policy(30, 10, 60));
    play.sigterm(0.0);
    assert_eq!(play.timeout(), Some(14.5));
}

#[test]
fn a_notice_during_settle_brings_the_deadline_forward_and_shortens_it() {
    let mut play = Play::one_call(policy(30, 10, 50));
    play.notice(0.0, Reason::RebalanceRecommendation, None);
    assert_eq!(play.timeout(), Some(50.0));
    play.notice(10.0, Reason::SpotInterruption, Some(40.0));
    assert_eq!(play.deadline(), 30.0);
    assert_eq!(play.timeout(), Some(20.0), "half of the 20 s that are left");
    play.notice(12.0, Reason::AutoscalingTermination, None);
    assert_eq!(play.timeout(), Some(20.0), "a laxer notice changes nothing");
}

#[test]
fn equal_orders_go_together_and_lower_ones_before() {
    let mut play = Play::new(policy(30, 10, 0), Some(plan(&[5, -1, 5, 0], "http://x/")));
    assert_eq!(play.sigterm(0.0), ["read labels"]);
    assert_eq!(play.on(0.1, Event::Labels(None)), ["start 1"]);
    assert_eq!(play.drained(1.0, 1), ["start 2"]);
    assert_eq!(play.drained(2.0, 2), ["start 3", "start 4"]);
    assert_eq!(play.drained(3.0, 4), [""; 0]);
    assert_eq!(play.drained(4.0, 3), ["drop", "exit 0"]);
}

#[test]
fn labels_that_are_read_again_delay_the_first_step_by_a_second_at_most() {
    let mut play = Play::new(policy(30, 10, 0), Some(plan(&[0], "http://x/")));
    assert_eq!(play.sigterm(0.0), ["read labels"]);
    assert_eq!(play.timeout(), Some(1.0));
    assert_eq!(play.on(1.0, Event::Timeout), ["start 1"]);
    // A stop timeout of 2 s leaves 1.8 s, and no more than half of that is spent on reading.
    let mut play = Play::new(policy(2, 0, 0), Some(plan(&[0], "http://x/")));
    play.sigterm(0.0);
    assert_eq!(play.timeout(), Some(0.9));
}

#[test]
fn a_label_that_is_read_later_is_added_and_no_step_is_done_twice() {
    let first = || Some(plan(&[0], "http://x/"));
    let both = || Event::Labels(Some(plan(&[0, 3], "http://x/")));
    // At the notice.
    let mut play = Play::new(policy(30, 10, 0), first());
    play.sigterm(0.0);
    assert_eq!(play.on(0.1, both()), ["start 1"]);
    assert_eq!(play.drained(1.0, 1), ["start 2"]);
    assert_eq!(play.drained(2.0, 2), ["drop", "exit 0"]);
    // While its turn is still to come.
    let mut play = Play::new(policy(30, 10, 0), first());
    play.sigterm(0.0);
    play.on(1.0, Event::Timeout);
    assert_eq!(play.on(1.5, both()), [""; 0]);
    assert_eq!(play.drained(2.0, 1), ["start 2"]);
    // After its turn, or once all others have drained.
    let mut play = Play::new(policy(30, 10, 0), Some(plan(&[5], "http://x/")));
    play.notice(0.0, Reason::Manual, None);
    play.on(1.0, Event::Timeout);
    assert_eq!(play.on(1.5, both()), ["start 2"]);
    assert_eq!(play.on(1.6, both()), [""; 0]);
    assert_eq!(play.drained(2.0, 2), [""; 0]);
    assert_eq!(play.drained(2.0, 1), [""; 0], "drained, and waiting");
    assert_eq!(
        play.on(2.5, Event::Labels(Some(plan(&[5, 3, 0], "http://x/")))),
        ["start 3"]
    );
    assert_eq!(play.sigterm(3.0), [""; 0], "the third one runs");
    assert_eq!(play.drained(4.0, 3), ["drop", "exit 0"]);
}

#[test]
fn a_setting_wins_over_every_label() {
    let mut play = Play::one_call(policy(30, 10, 0));
    assert_eq!(
        play.on(0.0, Event::Labels(Some(plan(&[0, 1], "http://x/")))),
        [""; 0]
    );
    assert_eq!(play.sigterm(0.0), ["start 1"]);
    assert_eq!(play.drained(1.0, 1), ["drop", "exit 0"]);
}

#[test]
fn an_ack_is_waited_for_and_may_come_before_its_turn() {
    let steps = parse_steps("ack, http://app/, ack").unwrap();
    let mut play = Play::new(policy(30, 10, 0), Plan::from_setting(&steps));
    assert_eq!(play.sigterm(0.0), [""; 0]);
    assert_eq!(play.on(1.0, Event::Ack(None)), ["start 2"]);
    assert_eq!(
        play.on(1.5, Event::Ack(None)),
        [""; 0],
        "for the third step, which has not begun"
    );
    assert_eq!(play.drained(2.0, 2), ["drop", "exit 0"]);
}

#[test]
fn an_ack_that_names_its_container_fulfils_that_one_only() {
    let mut play = Play::new(policy(30, 10, 0), Some(plan(&[0, 0], "ack")));
    play.sigterm(0.0);
    for _ in 0..3 {
        assert_eq!(play.on(1.0, Event::Ack(Some("c1".to_owned()))), [""; 0]);
        assert_eq!(play.on(1.0, Event::Ack(Some("nobody".to_owned()))), [""; 0]);
    }
    assert_eq!(
        play.on(2.0, Event::Ack(Some("c0".to_owned()))),
        ["drop", "exit 0"]
    );
}

#[test]
fn without_a_plan_labels_are_read_again_and_the_step_starts_as_soon_as_they_are() {
    let mut play = Play::new(policy(30, 10, 0), None);
    assert_eq!(play.sigterm(0.0), ["read labels"]);
    assert_eq!(play.timeout(), Some(29.0));
    assert_eq!(
        play.on(4.0, Event::Labels(Some(plan(&[0], "http://x/")))),
        ["start 1"]
    );

    let mut play = Play::new(policy(30, 10, 0), None);
    play.sigterm(0.0);
    assert_eq!(play.on(29.0, Event::Timeout), ["drop", "exit 3"]);
}

#[test]
fn an_ack_before_the_plan_is_known_is_not_lost() {
    let mut play = Play::new(policy(30, 10, 0), None);
    play.sigterm(0.0);
    assert_eq!(play.on(0.1, Event::Ack(None)), [""; 0]);
    assert_eq!(
        play.on(0.4, Event::Labels(Some(plan(&[0], "ack")))),
        ["drop", "exit 0"]
    );
}

#[test]
fn a_plan_that_comes_while_settling_waits_for_its_end() {
    let mut play = Play::new(policy(30, 10, 3), None);
    play.sigterm(0.0);
    assert_eq!(
        play.on(0.4, Event::Labels(Some(plan(&[0], "http://x/")))),
        [""; 0]
    );
    assert_eq!(play.on(3.0, Event::Timeout), ["start 1"]);
}

#[test]
fn a_second_sigint_exits_at_once_with_130() {
    let mut play = Play::one_call(policy(30, 10, 0));
    play.sigterm(0.0);
    assert_eq!(play.on(0.1, Event::Interrupt), ["drop", "exit 130"]);
    assert_eq!(play.sigterm(0.2), [""; 0], "nothing follows the end");
}

#[test]
fn a_notice_that_comes_too_late_still_starts_the_step() {
    let mut play = Play::one_call(policy(30, 10, 0));
    assert_eq!(play.notice(0.0, Reason::SpotInterruption, Some(3.0)), ["start 1"]);
    assert_eq!(play.deadline(), FLOOR.as_secs_f64());
}

#[test]
fn the_timeline_is_bounded_and_keeps_its_end() {
    let mut play = Play::one_call(policy(30, 10, 0));
    play.sigterm(0.0);
    for _ in 0..10_000 {
        let why = "HTTP 503".to_owned();
        let after = Duration::ZERO;
        play.on(1.0, Event::Progress(1, Progress::Retrying { why, after }));
    }
    play.drained(2.0, 1);
    let report = play.lifecycle.report();
    assert!(report.timeline.len() < 300, "{}", report.timeline.len());
    assert!(report.omitted > 9_000);
    assert!(matches!(
        report.timeline.last().unwrap().what,
        What::Exit { code: Code::Drained }
    ));
    assert_eq!((report.budget_ms, report.used_ms), (Some(29_000), Some(2_000)));
}

/// What can be asked for in a shutdown; stopping the task ends when SIGTERM comes.
const ASKED: [AwsCall; 4] = [
    AwsCall::Deregister,
    AwsCall::DrainInstance,
    AwsCall::Why,
    AwsCall::ReleaseProtection,
];

/// What can happen, at which distance from the one before.
fn happening() -> impl Strategy<Value = (u64, Happening)> {
    let reason = proptest::sample::select(Reason::ALL.to_vec());
    let what = prop_oneof![
        4 => (reason, proptest::option::of(-200_000_i64..200_000)).prop_map(|(r, end)| Happening::Notice(r, end)),
        4 => (1_usize..6, any::<bool>()).prop_map(|(step, ok)| Happening::StepEnded(step, ok)),
        2 => proptest::option::of(0_usize..5).prop_map(Happening::Ack),
        2 => Just(Happening::Timeout),
        1 => Just(Happening::Plan),
        1 => (0_usize..9).prop_map(Happening::Progress),
        1 => (prop::sample::select(ASKED.to_vec()), any::<bool>()).prop_map(|(call, ok)| Happening::AwsEnded(call, ok)),
        1 => prop::sample::select(vec![None, Some("SpotInterruption"), Some("UserInitiated")]).prop_map(Happening::Cause),
    ];
    (0_u64..60_000, what)
}

#[derive(Clone, Debug)]
enum Happening {
    Notice(Reason, Option<i64>),
    StepEnded(usize, bool),
    Ack(Option<usize>),
    Timeout,
    Plan,
    Progress(usize),
    AwsEnded(AwsCall, bool),
    Cause(Option<&'static str>),
}

fn shifted(now: Instant, ms: i64) -> Instant {
    let distance = Duration::from_millis(ms.unsigned_abs());
    if ms < 0 {
        now.checked_sub(distance).unwrap_or(now)
    } else {
        now + distance
    }
}

/// What has been commanded so far.
#[derive(Default)]
struct Seen {
    started: Vec<PlannedStep>,
    ended: Vec<usize>,
}

impl Seen {
    fn ended(&mut self, number: usize) {
        self.ended
            .extend(self.started.iter().map(|s| s.number).filter(|n| *n == number));
    }

    fn check(
        &mut self,
        commands: Vec<Command>,
        lifecycle: &Lifecycle,
        now: Instant,
    ) -> Result<(), TestCaseError> {
        for command in commands {
            let Command::Start { step, .. } = command else {
                continue;
            };
            prop_assert!(
                self.started.iter().all(|s| s.number != step.number),
                "step {} twice",
                step.number
            );
            prop_assert!(
                self.started.iter().all(|s| s.order <= step.order),
                "a higher order went first"
            );
            for earlier in self.started.iter().filter(|s| s.order < step.order) {
                prop_assert!(
                    self.ended.contains(&earlier.number),
                    "order {} had not ended",
                    earlier.order
                );
            }
            prop_assert!(
                lifecycle.deadline().is_some_and(|end| now < end),
                "started at its deadline"
            );
            self.started.push(step);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_promises_hold(
        happenings in vec(happening(), 0..40),
        orders in vec(-2_i64..3, 1..5),
        acks in any::<bool>(),
        known in any::<bool>(),
        (stop_timeout, reserve, settle) in (2_u64..=120, 0_u64..=110, 0_u64..=120),
        after_drain in prop::sample::select(vec![AfterDrain::Wait, AfterDrain::Exit, AfterDrain::StopTask]),
        (deregister, drain_instance, ask_why, release_protection) in any::<(bool, bool, bool, bool)>(),
    ) {
        let policy = Policy {
            after_drain,
            aws: AwsPolicy { deregister, drain_instance, ask_why, release_protection },
            ..policy(stop_timeout, reserve, settle)
        };
        let the_plan = plan(&orders, if acks { "ack" } else { "http://x/" });
        let mut lifecycle = Lifecycle::new(policy, known.then(|| the_plan.clone()));
        let mut now = Instant::now();
        let mut first = None;
        let mut ceiling: Option<Instant> = None;
        let mut last_deadline = None;
        let mut seen = Seen::default();
        // After the arbitrary part a SIGTERM and all timeouts come, so that the end must come, too.
        let closing = [(0, Happening::Notice(Reason::Sigterm, None))];
        let timeouts = std::iter::repeat_n((130_000, Happening::Timeout), 4);
        for (later, happening) in happenings.into_iter().chain(closing).chain(timeouts) {
            let target = now + Duration::from_millis(later);
            // The shell delivers every timeout on its way there, on time.
            let mut timeouts = 0;
            while let Some(due) = lifecycle.next_timeout().filter(|due| *due <= target) {
                now = now.max(due);
                let commands = lifecycle.on(Event::Timeout, now);
                seen.check(commands, &lifecycle, now)?;
                timeouts += 1;
                prop_assert!(timeouts < 20, "a timeout that is due again and again");
            }
            now = target;
            let event = match happening {
                Happening::Notice(reason, end) => {
                    let notice = match end {
                        None => Notice::new(reason),
                        Some(ms) => Notice::host_ends_at(reason, shifted(now, ms)),
                    };
                    if lifecycle.ended().is_none() {
                        first.get_or_insert(now);
                        let own = policy.limits.deadline(&notice, now);
                        ceiling = Some(ceiling.map_or(own, |c: Instant| c.min(own)));
                    }
                    Event::Notice(notice)
                }
                Happening::StepEnded(step, ok) => {
                    seen.ended(step);
                    let outcome = if ok { Outcome::Drained(String::new()) } else { Outcome::Failed(String::new()) };
                    Event::StepEnded(step, outcome)
                }
                Happening::Ack(which) => Event::Ack(which.map(|i| format!("c{i}"))),
                Happening::Timeout => Event::Timeout,
                Happening::AwsEnded(call, ok) => {
                    let outcome = if ok { AwsOutcome::Done(String::new()) } else { AwsOutcome::Failed(String::new()) };
                    Event::AwsEnded(call, outcome)
                }
                Happening::Cause(code) => Event::Cause(Cause {
                    stop_code: code.map(Into::into),
                    launch_type: Some(LaunchType::Fargate),
                    ..Cause::default()
                }),
                Happening::Plan => Event::Labels(Some(the_plan.clone())),
                Happening::Progress(step) => Event::Progress(step, Progress::Called { call: String::new(), status: 503 }),
            };
            let was_over = lifecycle.ended().is_some();
            let commands = lifecycle.on(event, now);
            prop_assert!(!was_over || commands.is_empty(), "something starts after the end");
            seen.check(commands, &lifecycle, now)?;
            // Equal orders go together: all that have the order of a started one have started.
            for step in &seen.started {
                let together = the_plan.steps().iter().filter(|s| s.order == step.order).count();
                prop_assert_eq!(seen.started.iter().filter(|s| s.order == step.order).count(), together);
            }
            if let (Some(first), Some(ceiling), Some(deadline)) = (first, ceiling, lifecycle.deadline()) {
                prop_assert!(deadline <= first + CEILING, "later than 120 s after the first notice");
                prop_assert!(deadline <= ceiling, "later than a notice's own deadline");
                prop_assert!(last_deadline.is_none_or(|last| deadline <= last), "the deadline moved back");
                last_deadline = Some(deadline);
            }
            prop_assert!(lifecycle.timeline().entries().len() <= crate::core::timeline::MAX_ENTRIES + 64);
        }
        prop_assert!(lifecycle.ended().is_some(), "it has not ended");
    }
}

#[test]
fn waits_that_do_not_fit_are_told() {
    let plan = |text| Plan::from_setting(&parse_steps(text).unwrap()).unwrap();
    assert_eq!(policy(30, 10, 5).too_long(&plan("sleep 24s, ack")), None);
    let message = policy(30, 10, 5).too_long(&plan("sleep 20s, sleep 5s")).unwrap();
    assert!(
        message.contains("take 25s after a settle time of 5s, but a SIGTERM leaves 29s"),
        "{message}"
    );
    let message = policy(30, 10, 15).too_long(&plan("quiet")).unwrap();
    assert!(message.contains("only 14.5s of it count"), "{message}");
}
