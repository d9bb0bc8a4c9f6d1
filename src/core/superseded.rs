//! Whether ECS wants this task gone while it cannot stop it, judged from what its API says.
//!
//! Pure: what ECS says comes in, a verdict comes out. It is no notice: it starts no drain and moves no
//! deadline; while it holds, no new lease is given.

use std::time::Instant;

use jiff::Timestamp;

/// What `DescribeTasks` says of this task once and for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnTask {
    /// Of `service:NAME`; without one the task is standalone.
    pub service: Option<String>,
    /// The id of the deployment or task set that started it.
    pub started_by: Option<String>,
    /// Its container instance, on EC2.
    pub instance: Option<String>,
    /// By ECS's clock.
    pub created: Option<Timestamp>,
}

/// What `DescribeServices` says of the task's service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SeenService {
    /// `ACTIVE`, `DRAINING` or `INACTIVE`.
    pub status: Option<String>,
    /// The tasks that it wants.
    pub desired: i32,
    /// How many tasks may run during a deployment, in percent of those that it wants.
    pub maximum_percent: Option<i32>,
    /// Who replaces tasks.
    pub rollout: Rollout,
    /// Of the ECS controller.
    pub deployments: Vec<SeenDeployment>,
    /// Of the other controllers.
    pub task_sets: Vec<SeenTaskSet>,
    /// Whether the service deployment that is under way cleans up what it has replaced.
    pub cleaning_up: bool,
}

/// Who replaces the tasks of a service, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rollout {
    /// ECS, task by task.
    #[default]
    Rolling,
    /// ECS, by blue/green, linear or canary: the old ones serve until the shift.
    Shifting,
    /// CodeDeploy or somebody else, by task sets.
    TaskSets,
    /// Nobody knows yet.
    Strange,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenDeployment {
    /// What the tasks that it started have in `startedBy`.
    pub id: String,
    /// `PRIMARY`, `ACTIVE` or `INACTIVE`.
    pub status: String,
    pub failed: bool,
    /// By ECS's clock.
    pub created: Option<Timestamp>,
    /// The tasks that it wants.
    pub desired: i32,
    /// The tasks that run.
    pub running: i32,
    /// The tasks that start.
    pub pending: i32,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct SeenTaskSet {
    /// What the tasks that it started have in `startedBy`.
    pub id: String,
    /// `PRIMARY`, `ACTIVE` or `DRAINING`.
    pub status: String,
    /// Its share of the service, in percent, where ECS says it.
    pub scale: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SupersededLook {
    /// ECS wants the task gone, for this reason.
    Yes(&'static str),
    /// ECS wants it to stay.
    No,
    /// Nothing that could be relied on.
    Unclear,
}

/// Since when ECS wants the task gone, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superseded {
    /// The first of the looks that agreed.
    pub since: Instant,
    pub why: &'static str,
}

/// What looks have shown so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct SupersededJudge {
    suspected: Option<Instant>,
    holds: Option<Superseded>,
}

const INSTANCE_DRAINS: &str = "the container instance is DRAINING";
const SERVICE_DRAINS: &str = "the service is DRAINING";
const NO_TASKS_WANTED: &str = "the service wants no tasks";
const NOT_PRIMARY: &str = "a newer deployment replaces that of this task";
const SCALED_TO_ZERO: &str = "the deployment of this task is scaled to 0";
const CLEANED_UP: &str = "the deployment of this task is being cleaned up";
const SET_DRAINS: &str = "the task set of this task is DRAINING or scaled to 0";

impl SupersededJudge {
    /// Takes a look into account: two that agree make it hold, one that says otherwise takes it back, and
    /// an unclear one changes nothing.
    pub fn take(&mut self, look: &SupersededLook, now: Instant) {
        match (look, self.suspected) {
            (SupersededLook::Unclear, _) => {}
            (SupersededLook::No, _) => *self = SupersededJudge::default(),
            (SupersededLook::Yes(_), None) => self.suspected = Some(now),
            (SupersededLook::Yes(why), Some(since)) => {
                self.holds = self.holds.or(Some(Superseded { since, why }));
            }
        }
    }

    pub fn holds(&self) -> Option<Superseded> {
        self.holds
    }
}

/// What one look at the service and the container instance's status means for this task.
pub fn look(task: &OwnTask, service: &SeenService, instance: Option<&str>) -> SupersededLook {
    if task.service.is_none() {
        return SupersededLook::No;
    }
    if instance == Some("DRAINING") {
        return SupersededLook::Yes(INSTANCE_DRAINS);
    }
    match service.status.as_deref() {
        Some("DRAINING") => return SupersededLook::Yes(SERVICE_DRAINS),
        Some("ACTIVE") => {}
        _ => return SupersededLook::Unclear,
    }
    let Some(own) = task.started_by.as_deref() else {
        return SupersededLook::Unclear;
    };
    match service.rollout {
        Rollout::Strange => SupersededLook::Unclear,
        Rollout::TaskSets => by_task_set(own, service),
        Rollout::Rolling | Rollout::Shifting => by_deployment(task, own, service),
    }
}

fn by_task_set(own: &str, service: &SeenService) -> SupersededLook {
    let mut found = service.task_sets.iter().filter(|set| set.id == own);
    let (Some(set), None) = (found.next(), found.next()) else {
        return SupersededLook::Unclear;
    };
    let scaled_to_zero = set.scale.is_some_and(|scale| scale <= 0.0);
    if set.status == "DRAINING" || scaled_to_zero {
        SupersededLook::Yes(SET_DRAINS)
    } else if service.desired == 0 {
        SupersededLook::Yes(NO_TASKS_WANTED)
    } else if matches!(set.status.as_str(), "PRIMARY" | "ACTIVE") {
        SupersededLook::No
    } else {
        SupersededLook::Unclear
    }
}

fn by_deployment(task: &OwnTask, own: &str, service: &SeenService) -> SupersededLook {
    let is_primary = |deployment: &&SeenDeployment| deployment.status == "PRIMARY";
    let mut primaries = service.deployments.iter().filter(is_primary);
    let (Some(primary), None) = (primaries.next(), primaries.next()) else {
        return SupersededLook::Unclear;
    };
    if service.desired == 0 {
        // An answer that lacks the count looks like 0.
        return if primary.desired == 0 && !primary.id.is_empty() {
            SupersededLook::Yes(NO_TASKS_WANTED)
        } else {
            SupersededLook::Unclear
        };
    }
    if primary.id == own {
        return SupersededLook::No;
    }
    let listed = service.deployments.iter().find(|deployment| deployment.id == own);
    let gone = match (listed, primary.created, task.created) {
        (Some(_), _, _) => false,
        (None, Some(primary), Some(task)) if primary > task => true,
        _ => return SupersededLook::Unclear,
    };
    if primary.failed {
        return SupersededLook::No;
    }
    if service.rollout == Rollout::Shifting {
        return match listed {
            Some(listed) if listed.desired == 0 => SupersededLook::Yes(SCALED_TO_ZERO),
            Some(_) if service.cleaning_up => SupersededLook::Yes(CLEANED_UP),
            Some(_) => SupersededLook::No,
            None => SupersededLook::Yes(SCALED_TO_ZERO),
        };
    }
    if primary.running > 0 || !has_room(service, gone) {
        SupersededLook::Yes(NOT_PRIMARY)
    } else {
        SupersededLook::No
    }
}

/// Whether the PRIMARY deployment may start a task beside those of the others. A task whose deployment is
/// not listed any more takes its place, too.
fn has_room(service: &SeenService, own_is_gone: bool) -> bool {
    // ECS's own default (API reference, DeploymentConfiguration).
    let percent = i64::from(service.maximum_percent.unwrap_or(200));
    let most = i64::from(service.desired) * percent / 100;
    let others = service
        .deployments
        .iter()
        .filter(|deployment| deployment.status != "PRIMARY");
    let taken: i64 = others
        .map(|deployment| i64::from(deployment.running) + i64::from(deployment.pending))
        .sum();
    taken + i64::from(own_is_gone) < most
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Option<Timestamp> {
        Some(Timestamp::from_second(second).unwrap())
    }

    fn task() -> OwnTask {
        OwnTask {
            service: Some("web".to_owned()),
            started_by: Some("old".to_owned()),
            instance: None,
            created: at(100),
        }
    }

    fn deployment(id: &str, status: &str, desired: i32, running: i32) -> SeenDeployment {
        SeenDeployment {
            id: id.to_owned(),
            status: status.to_owned(),
            created: at(if id == "old" { 50 } else { 200 }),
            desired,
            running,
            ..SeenDeployment::default()
        }
    }

    fn service(deployments: Vec<SeenDeployment>) -> SeenService {
        SeenService {
            status: Some("ACTIVE".to_owned()),
            desired: 2,
            maximum_percent: Some(200),
            deployments,
            ..SeenService::default()
        }
    }

    fn replaced(running: i32) -> SeenService {
        service(vec![
            deployment("new", "PRIMARY", 2, running),
            deployment("old", "ACTIVE", 2, 2),
        ])
    }

    fn judged(service: &SeenService) -> SupersededLook {
        look(&task(), service, None)
    }

    fn wants_gone(service: &SeenService) -> bool {
        matches!(judged(service), SupersededLook::Yes(_))
    }

    #[test]
    fn its_own_deployment_being_primary_keeps_a_task() {
        let calm = service(vec![deployment("old", "PRIMARY", 2, 2)]);
        assert_eq!(judged(&calm), SupersededLook::No);
    }

    #[test]
    fn a_newer_deployment_supersedes_once_one_of_its_tasks_runs() {
        assert!(wants_gone(&replaced(1)));
        assert_eq!(judged(&replaced(0)), SupersededLook::No);
    }

    #[test]
    fn a_deployment_that_waits_for_room_supersedes_with_nothing_running() {
        let mut full = replaced(0);
        full.maximum_percent = Some(100);
        assert!(wants_gone(&full));
        // Its own pending task takes nobody's room.
        let mut stuck = replaced(0);
        stuck.deployments[0].pending = 2;
        assert_eq!(judged(&stuck), SupersededLook::No);
    }

    #[test]
    fn a_primary_that_has_failed_supersedes_nobody() {
        let mut failed = replaced(1);
        failed.deployments[0].failed = true;
        assert_eq!(judged(&failed), SupersededLook::No);
    }

    #[test]
    fn a_deployment_that_is_gone_counts_only_behind_a_younger_primary() {
        let mut gone = service(vec![deployment("new", "PRIMARY", 2, 1)]);
        assert!(wants_gone(&gone));
        gone.deployments[0].created = at(99);
        assert_eq!(judged(&gone), SupersededLook::Unclear);
        gone.deployments[0].created = None;
        assert_eq!(judged(&gone), SupersededLook::Unclear);
    }

    #[test]
    fn blue_and_green_both_serve_until_the_old_one_is_scaled_to_zero_or_cleaned_up() {
        let mut shifting = replaced(2);
        shifting.rollout = Rollout::Shifting;
        assert_eq!(judged(&shifting), SupersededLook::No);
        let mut cleaned = shifting.clone();
        cleaned.cleaning_up = true;
        assert!(wants_gone(&cleaned));
        shifting.deployments[1].desired = 0;
        assert!(wants_gone(&shifting));
    }

    #[test]
    fn with_another_controller_only_the_own_task_set_counts() {
        let mut sets = replaced(2);
        sets.rollout = Rollout::TaskSets;
        let set = |id: &str, status: &str, scale| SeenTaskSet {
            id: id.to_owned(),
            status: status.to_owned(),
            scale,
        };
        for (status, scale, expected) in [
            ("PRIMARY", Some(100.0), false),
            ("ACTIVE", Some(100.0), false),
            ("ACTIVE", None, false),
            ("DRAINING", Some(100.0), true),
            ("ACTIVE", Some(0.0), true),
        ] {
            sets.task_sets = vec![set("old", status, scale), set("new", "DRAINING", Some(0.0))];
            assert_eq!(wants_gone(&sets), expected, "{status} {scale:?}");
        }
        sets.task_sets.remove(0);
        assert_eq!(judged(&sets), SupersededLook::Unclear);
    }

    #[test]
    fn a_service_that_drains_or_wants_no_tasks_supersedes() {
        let mut ending = service(vec![deployment("old", "PRIMARY", 0, 1)]);
        ending.desired = 0;
        assert_eq!(judged(&ending), SupersededLook::Yes(NO_TASKS_WANTED));
        ending.status = Some("DRAINING".to_owned());
        assert_eq!(judged(&ending), SupersededLook::Yes(SERVICE_DRAINS));
    }

    #[test]
    fn an_instance_that_drains_supersedes() {
        let calm = service(vec![deployment("old", "PRIMARY", 2, 2)]);
        assert_eq!(look(&task(), &calm, Some("ACTIVE")), SupersededLook::No);
        assert_eq!(
            look(&task(), &calm, Some("DRAINING")),
            SupersededLook::Yes(INSTANCE_DRAINS)
        );
    }

    #[test]
    fn a_task_without_a_service_is_never_superseded() {
        let alone = OwnTask {
            service: None,
            ..task()
        };
        assert_eq!(look(&alone, &replaced(2), Some("DRAINING")), SupersededLook::No);
    }

    #[test]
    fn strange_answers_are_unclear() {
        let mut nothing_listed = service(Vec::new());
        assert_eq!(judged(&nothing_listed), SupersededLook::Unclear);
        nothing_listed.desired = 0;
        assert_eq!(judged(&nothing_listed), SupersededLook::Unclear);
        let mut count_missing = replaced(1);
        count_missing.desired = 0;
        assert_eq!(judged(&count_missing), SupersededLook::Unclear);
        let two = service(vec![
            deployment("new", "PRIMARY", 2, 2),
            deployment("old", "PRIMARY", 2, 2),
        ]);
        assert_eq!(judged(&two), SupersededLook::Unclear);
        let mut strange = replaced(1);
        strange.rollout = Rollout::Strange;
        assert_eq!(judged(&strange), SupersededLook::Unclear);
        for status in [None, Some("INACTIVE"), Some("")] {
            strange.status = status.map(ToOwned::to_owned);
            assert_eq!(judged(&strange), SupersededLook::Unclear);
        }
        let nobody = OwnTask {
            started_by: None,
            ..task()
        };
        assert_eq!(look(&nobody, &replaced(1), None), SupersededLook::Unclear);
    }

    #[test]
    fn two_looks_make_it_hold_since_the_first_and_a_rollback_takes_it_back() {
        let start = Instant::now();
        let later = start + Duration::from_secs(30);
        let mut judge = SupersededJudge::default();
        let yes = SupersededLook::Yes(NOT_PRIMARY);
        judge.take(&yes, start);
        assert_eq!(judge.holds(), None);
        judge.take(&SupersededLook::Unclear, start);
        judge.take(&yes, later);
        assert_eq!(judge.holds().unwrap().since, start);
        judge.take(&SupersededLook::Unclear, later);
        assert!(judge.holds().is_some());
        judge.take(&SupersededLook::No, later);
        assert_eq!(judge.holds(), None);
        judge.take(&yes, later);
        assert_eq!(judge.holds(), None);
    }

    proptest! {
        #[test]
        fn it_holds_exactly_after_two_clear_looks_that_agree(looks in prop::collection::vec(0..3_u8, 0..20)) {
            let now = Instant::now();
            let mut judge = SupersededJudge::default();
            for number in &looks {
                let look = match number {
                    0 => SupersededLook::No,
                    1 => SupersededLook::Yes(NOT_PRIMARY),
                    _ => SupersededLook::Unclear,
                };
                judge.take(&look, now);
            }
            let clear: Vec<u8> = looks.into_iter().filter(|number| *number < 2).collect();
            prop_assert_eq!(judge.holds().is_some(), clear.ends_with(&[1, 1]));
        }
    }
}
