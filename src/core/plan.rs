//! The plan: which steps are done, in which order.
//!
//! It comes from `PRESTOP_DRAIN` or, without it, from the docker labels `prestop.drain` and
//! `prestop.order` of the task's containers; with neither it is one `quiet`. It knows nothing of how
//! a step is carried out.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::core::step::{MAX_STEPS, QuietStep, Step, StepError, parse_step};
use crate::core::task::{Container, Task};

/// The label that holds a container's own step.
pub const DRAIN_LABEL: &str = "prestop.drain";
/// The label that holds its place: an integer, lower goes first.
pub const ORDER_LABEL: &str = "prestop.order";

/// A step with its place in the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedStep {
    /// From 1, in the order of the plan; part of the idempotency key.
    pub number: usize,
    /// Lower goes first; equal ones go together.
    pub order: i64,
    pub container: Option<String>,
    pub step: Step,
}

impl PlannedStep {
    /// The container that this step is for: the one whose label it is, or whose name it calls.
    pub fn container_in<'a>(&self, task: &'a Task) -> Option<&'a Container> {
        match (&self.container, &self.step) {
            (Some(name), _) => task.container(name),
            (None, Step::Call(call)) => task.container_behind(call.url.host()),
            (None, Step::Signal(step)) => task.container(&step.container),
            (None, Step::Ack | Step::Quiet(_) | Step::Sleep(_)) => None,
        }
    }
}

/// At least one step, sorted by order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    steps: Vec<PlannedStep>,
    source: PlanSource,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanSource {
    /// `PRESTOP_DRAIN`, which wins over everything.
    Setting,
    /// The containers' labels, as far as ECS lists the containers.
    Labels,
    /// Neither; it gives way to labels that are read before it has begun.
    Default,
}

impl Plan {
    /// The plan of `PRESTOP_DRAIN`: one step after the other. `None` without a step.
    pub fn from_setting(steps: &[Step]) -> Option<Plan> {
        let ordered = steps
            .iter()
            .zip(0_i64..)
            .map(|(step, order)| (order, None, step.clone()));
        Plan::numbered(ordered.collect(), PlanSource::Setting)
    }

    /// The plan of the containers' labels, and what is wrong with those that are left out. `None`
    /// without a usable one.
    pub fn from_labels(task: &Task) -> (Option<Plan>, Vec<LabelError>) {
        let mut steps = Vec::new();
        let mut errors = Vec::new();
        for container in &task.containers {
            let Some(text) = container.labels.get(DRAIN_LABEL) else {
                continue;
            };
            let step = parse_step(text, Some(&container.name))
                .map_err(|why| LabelError::new(container, DRAIN_LABEL, why));
            let order = match container.labels.get(ORDER_LABEL) {
                None => Ok(0),
                Some(text) => text
                    .trim()
                    .parse()
                    .map_err(|_| LabelError::new(container, ORDER_LABEL, StepError::Order(text.clone()))),
            };
            match (step, order) {
                (Ok(step), Ok(order)) => steps.push((order, Some(container.name.clone()), step)),
                (step, order) => errors.extend(step.err().into_iter().chain(order.err())),
            }
        }
        steps.sort_by_key(|(order, ..)| *order);
        steps.truncate(MAX_STEPS);
        (Plan::numbered(steps, PlanSource::Labels), errors)
    }

    fn numbered(steps: Vec<(i64, Option<String>, Step)>, source: PlanSource) -> Option<Plan> {
        let planned: Vec<PlannedStep> = steps
            .into_iter()
            .zip(1..)
            .map(|((order, container, step), number)| PlannedStep {
                number,
                order,
                container,
                step,
            })
            .collect();
        (!planned.is_empty()).then_some(Plan {
            steps: planned,
            source,
        })
    }

    /// What is done where nobody says what to do: one `quiet`.
    pub fn without_settings() -> Plan {
        Plan {
            steps: vec![PlannedStep {
                number: 1,
                order: 0,
                container: None,
                step: Step::Quiet(QuietStep::default()),
            }],
            source: PlanSource::Default,
        }
    }

    pub fn quiets(&self) -> impl Iterator<Item = (&PlannedStep, &QuietStep)> {
        self.steps.iter().filter_map(|planned| match &planned.step {
            Step::Quiet(quiet) => Some((planned, quiet)),
            _ => None,
        })
    }

    /// Whether the first thing that is done is to wait by `quiet`, and nothing to the app before.
    pub fn begins_with_quiet(&self) -> bool {
        let first = self.steps.first().map(|planned| planned.order);
        let mut begin = self.steps.iter().filter(|planned| Some(planned.order) == first);
        begin.all(|planned| matches!(planned.step, Step::Quiet(_)))
    }

    /// How long its `sleep` steps take together.
    pub fn sleeps(&self) -> Duration {
        sleeps(&self.steps)
    }

    /// All steps, lower orders first.
    pub fn steps(&self) -> &[PlannedStep] {
        &self.steps
    }

    pub fn source(&self) -> PlanSource {
        self.source
    }

    /// Takes up the steps of containers that have none in this plan yet, and returns those. Their numbers
    /// follow the present ones, which are in keys that apps may have seen.
    pub fn add_from(&mut self, other: Plan) -> Vec<PlannedStep> {
        let mut added = Vec::new();
        for step in other.steps {
            let known = self.steps.iter().any(|own| own.container == step.container);
            if !known && self.steps.len() < MAX_STEPS {
                let number = self.steps.len() + 1;
                added.push(PlannedStep { number, ..step });
                self.steps.extend(added.last().cloned());
            }
        }
        self.steps.sort_by_key(|step| step.order);
        added
    }
}

/// How long the `sleep` steps among these take together: those of one order go at the same time.
pub fn sleeps(steps: &[PlannedStep]) -> Duration {
    let mut longest: BTreeMap<i64, Duration> = BTreeMap::new();
    for planned in steps {
        if let Step::Sleep(length) = planned.step {
            let known = longest.entry(planned.order).or_default();
            *known = length.max(*known);
        }
    }
    longest.values().sum()
}

/// A label that cannot be used, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("label `{label}` of container `{container}`: {why}")]
pub struct LabelError {
    container: String,
    label: &'static str,
    why: StepError,
}

impl LabelError {
    pub fn container(&self) -> &str {
        &self.container
    }

    pub fn label(&self) -> &'static str {
        self.label
    }

    fn new(container: &Container, label: &'static str, why: StepError) -> LabelError {
        LabelError {
            container: container.name.clone(),
            label,
            why,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::step::parse_steps;

    fn texts(plan: &Plan) -> Vec<String> {
        plan.steps()
            .iter()
            .map(|s| format!("{} {} {}", s.number, s.order, s.step))
            .collect()
    }

    fn container(name: &str, labels: &[(&str, &str)]) -> Container {
        Container {
            name: name.to_owned(),
            labels: labels
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            ..Container::default()
        }
    }

    #[test]
    fn labels_make_a_plan_by_their_order_and_may_leave_the_host_out() {
        let task = Task {
            containers: vec![
                container("db", &[(DRAIN_LABEL, "ack"), (ORDER_LABEL, "5")]),
                container("app", &[(DRAIN_LABEL, "POST :8080/drain")]),
                container("web", &[(DRAIN_LABEL, "http://web/quit"), (ORDER_LABEL, " -1 ")]),
                container("log", &[]),
            ],
            ..Task::default()
        };
        let (plan, errors) = Plan::from_labels(&task);
        let plan = plan.unwrap();
        assert_eq!(errors, []);
        assert_eq!(
            texts(&plan),
            [
                "1 -1 POST http://web/quit",
                "2 0 POST http://app:8080/drain",
                "3 5 ack"
            ]
        );
    }

    #[test]
    fn sleeps_of_one_order_go_together_and_others_one_after_the_other() {
        let setting = parse_steps("sleep 3s, ack, sleep 4s").unwrap();
        assert_eq!(
            Plan::from_setting(&setting).unwrap().sleeps(),
            Duration::from_secs(7)
        );
        let task = Task {
            containers: vec![
                container("a", &[(DRAIN_LABEL, "sleep 3s")]),
                container("b", &[(DRAIN_LABEL, "sleep 4s")]),
            ],
            ..Task::default()
        };
        assert_eq!(
            Plan::from_labels(&task).0.unwrap().sleeps(),
            Duration::from_secs(4)
        );
    }

    #[test]
    fn a_plan_begins_with_quiet_where_nothing_is_done_to_the_app_before() {
        for (steps, expected) in [
            ("quiet", true),
            ("quiet :80, signal QUIT app", true),
            ("POST http://app/drain, quiet", false),
            ("ack", false),
        ] {
            let plan = Plan::from_setting(&parse_steps(steps).unwrap()).unwrap();
            assert_eq!(plan.begins_with_quiet(), expected, "{steps}");
        }
        let together = Task {
            containers: vec![
                container("a", &[(DRAIN_LABEL, "quiet")]),
                container("b", &[(DRAIN_LABEL, "POST :80/drain")]),
            ],
            ..Task::default()
        };
        assert!(!Plan::from_labels(&together).0.unwrap().begins_with_quiet());
    }

    #[test]
    fn with_neither_setting_nor_label_the_plan_is_quiet() {
        assert_eq!(texts(&Plan::without_settings()), ["1 0 quiet"]);
    }

    #[test]
    fn a_label_that_is_wrong_is_named_and_the_others_stand() {
        let task = Task {
            containers: vec![
                container("a", &[(DRAIN_LABEL, "POST"), (ORDER_LABEL, "first")]),
                container("b", &[(DRAIN_LABEL, "ack")]),
            ],
            ..Task::default()
        };
        let (plan, errors) = Plan::from_labels(&task);
        assert_eq!(texts(&plan.unwrap()), ["1 0 ack"]);
        let messages: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert!(
            messages[0].contains("label `prestop.drain` of container `a`"),
            "{messages:?}"
        );
        assert!(
            messages[1].contains("label `prestop.order` of container `a`: `first`"),
            "{messages:?}"
        );
    }
}
