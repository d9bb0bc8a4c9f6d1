//! What ECS says of this task, and the plan that the labels of its containers make.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Sidecar;
use crate::core::lifecycle::{Code, Event};
use crate::core::plan::Plan;
use crate::core::task::Task;
use crate::sidecar::aws_side::LookUp;
use crate::sidecar::mailbox::Message;
use crate::sidecar::superseded::Askers;

/// The task metadata is asked again this often at most while it cannot be read.
const LONGEST_READ_PAUSE: Duration = Duration::from_secs(10);
const FIRST_READ_PAUSE: Duration = Duration::from_millis(200);

/// A reading of the task metadata, beside the one before it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TaskReading {
    First,
    /// ECS has made more containers.
    Grown,
    Same,
}

impl Sidecar {
    /// Reads the task metadata until that succeeds and ECS has made all containers.
    pub(super) fn read_task(&mut self) {
        let Some(metadata) = self.metadata.clone() else {
            return;
        };
        let mailbox = self.mailbox.clone();
        self.companions.spawn(async move {
            let mut pause = FIRST_READ_PAUSE;
            loop {
                let read = metadata.read().await.map_err(|why| why.to_string());
                let done = read.as_ref().is_ok_and(|task| !task.starting);
                if mailbox.send(Message::Task(read)).await.is_err() || done {
                    return;
                }
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_READ_PAUSE);
            }
        });
    }

    /// The first answer also decides what is watched, and may bring the plan.
    pub(super) fn note_task(&mut self, read: Result<Task, String>) -> Option<Event> {
        let task = match read {
            Ok(task) => task,
            Err(why) => {
                self.log_start();
                if self.task_trouble.is_none() {
                    tracing::warn!(
                        event = "watch",
                        watch = "task",
                        message = format!("{why}; asking again")
                    );
                }
                self.task_trouble = Some(why);
                self.watch_instance();
                return None;
            }
        };
        self.telemetry.identify(&task.identity);
        self.log_start();
        let reading = match self.task.as_deref() {
            None => TaskReading::First,
            Some(before) if before.names() != task.names() => TaskReading::Grown,
            Some(_) => TaskReading::Same,
        };
        if reading != TaskReading::Same || self.task_trouble.is_some() {
            tracing::info!(
                event = "watch",
                watch = "task",
                message = "task metadata read",
                containers = task.names().join(","),
                launch_type = task
                    .launch_type
                    .as_ref()
                    .map_or_else(|| "unknown".to_owned(), ToString::to_string),
            );
        }
        self.task_trouble = None;
        self.task = Some(Arc::new(task.clone()));
        self.fresh = self.lifecycle.deadline().is_some();
        self.watch_instance();
        let wanted = LookUp {
            policy: *self.lifecycle.policy(),
            stop_timeout: self.config.stop_timeout_auto,
        };
        self.aws_side.look_up(&task, wanted);
        if reading == TaskReading::First {
            if self.config.watch_superseded {
                self.aws_side.watch_superseded(Askers {
                    protection: self.protection.clone(),
                    questions: self.questions.subscribe(),
                });
            }
            self.announce_balancer();
        }
        let labels = self.labels_of(&task, reading);
        if reading == TaskReading::First && task.stopping && self.lifecycle.deadline().is_none() {
            tracing::info!(
                event = "watch",
                watch = "task",
                message =
                    "ECS wants this task STOPPED already: its SIGTERM came before this process could see it"
            );
            labels.into_iter().for_each(|event| self.apply(event));
            return Some(Event::Notice(self.sigterm()));
        }
        labels
    }

    /// What the labels bring, where there is no setting. Before a notice nothing wrong is let pass, but only a
    /// task that is complete can be known to have no step.
    fn labels_of(&mut self, task: &Task, reading: TaskReading) -> Option<Event> {
        if self.config.drain.is_empty() {
            return self.plan_of_labels(task, reading);
        }
        let plan = self.lifecycle.plan()?.clone();
        if self.lifecycle.deadline().is_none() {
            match self.cannot_be_quiet(&plan, task) {
                Some(complaint) => self.refuse(vec![complaint]),
                None => self.announce_plan(Some(&plan)),
            }
        }
        None
    }

    /// Before a notice nothing wrong is let pass, but only a task that is complete can be known to have no label.
    fn plan_of_labels(&mut self, task: &Task, reading: TaskReading) -> Option<Event> {
        let (plan, errors) = Plan::from_labels(task);
        let before_notice = self.lifecycle.deadline().is_none();
        let mut complaints: Vec<String> = errors.iter().map(ToString::to_string).collect();
        // A label that is wrong is no reason to do something else than what it says.
        let complete = !task.starting && (errors.is_empty() || !before_notice);
        let plan = plan.or_else(|| (complete && !self.lifecycle.has_plan()).then(Plan::without_settings));
        if let Some(plan) = &plan {
            complaints.extend(self.cannot_be_quiet(plan, task));
            complaints.extend(self.config.refuses(plan).map(|problem| problem.to_string()));
        }
        if before_notice && !complaints.is_empty() {
            self.refuse(complaints);
            return None;
        }
        if reading != TaskReading::Same {
            // After a notice it is too late to be strict: what can be done is done.
            log_complaints(&complaints);
            self.announce_plan(plan.as_ref());
        }
        Some(Event::Labels(plan))
    }

    /// Why a `quiet` step of that plan would see nothing of the app, or too much, and what to set.
    fn cannot_be_quiet(&self, plan: &Plan, task: &Task) -> Option<String> {
        let apart = task.is_bridged() && !self.view.look_at_others();
        let (planned, _) = plan
            .quiets()
            .find(|(_, step)| apart || (task.on_host_network && step.ports.is_empty()))?;
        let step = &planned.step;
        Some(if apart {
            format!(
                "`{step}` cannot work under bridge networking, where the app's connections are in a network namespace of \
                 its own, unless its processes are in sight: set \"pidMode\": \"task\" in the task definition (every open \
                 connection counts as owing then), or its networkMode to awsvpc, or set PRESTOP_DRAIN to a URL or \
                 `sleep 15s`"
            )
        } else {
            format!(
                "`{step}` cannot work under host networking without a port, since the network namespace is the whole \
                 instance's: set PRESTOP_DRAIN='quiet :PORT' with the port of the app"
            )
        })
    }

    fn refuse(&mut self, complaints: Vec<String>) {
        log_complaints(&complaints);
        self.complaints = complaints;
        self.apply(Event::Refuse(Code::Settings));
    }

    /// A watcher that cannot see now is not dead: it goes on trying, and says so elsewhere.
    pub(super) fn unhealthy(&self) -> Option<String> {
        if self.lifecycle.has_plan() {
            return None;
        }
        let why = self.task_trouble.as_deref()?;
        Some(format!(
            "no step is known yet, since PRESTOP_DRAIN is not set and the labels cannot be read: {why}"
        ))
    }
}

fn log_complaints(complaints: &[String]) {
    for complaint in complaints {
        tracing::error!(event = "watch", watch = "task", message = complaint.as_str());
    }
}
