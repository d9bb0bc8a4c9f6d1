//! The order in which a task's containers stop, and how long that may take.
//!
//! A container that is to stop waits until each container that depends on it has stopped, whatever the
//! condition; then it has its stop timeout (agent, `dependencygraph/graph.go`, `verifyShutdownOrder`).

use super::compose::DEFAULT_GRACE;
use super::{ContainerDefinition, DocumentForm, TaskDefinition};

/// Where no `stopTimeout` is set (API reference, *ContainerDefinition*; on EC2 the agent's
/// `ECS_CONTAINER_STOP_TIMEOUT`, of which this is the default).
const DEFAULT_STOP_TIMEOUT_S: f64 = 30.0;

impl<'a> TaskDefinition<'a> {
    /// Those that directly depend on a container: they stop before it.
    pub fn dependants<'t>(&'t self, name: &'t str) -> impl Iterator<Item = &'t ContainerDefinition<'a>> {
        self.containers
            .iter()
            .filter(move |container| container.depends_directly_on(name))
    }

    /// Containers that depend on themselves, directly or by others: the names along one such circle.
    pub fn circle(&self) -> Option<Vec<&ContainerDefinition<'a>>> {
        let mut done = vec![false; self.containers.len()];
        for start in 0..self.containers.len() {
            let mut path = Vec::new();
            if let Some(circle) = self.circle_from(start, &mut path, &mut done) {
                return Some(circle.into_iter().map(|index| &self.containers[index]).collect());
            }
        }
        None
    }

    fn circle_from(&self, at: usize, path: &mut Vec<usize>, done: &mut [bool]) -> Option<Vec<usize>> {
        if let Some(first) = path.iter().position(|seen| *seen == at) {
            return Some(path[first..].to_vec());
        }
        if done[at] {
            return None;
        }
        path.push(at);
        for dependency in &self.containers[at].depends_on {
            let next = self
                .containers
                .iter()
                .position(|container| container.name.text == dependency.on.text);
            if let Some(circle) = next.and_then(|next| self.circle_from(next, path, done)) {
                return Some(circle);
            }
        }
        path.pop();
        done[at] = true;
        None
    }

    /// The stop timeout that holds for a container, in seconds; `None` where the file does not say.
    pub fn stop_timeout_s(&self, container: &ContainerDefinition<'a>) -> Option<f64> {
        let default = match self.form {
            DocumentForm::Compose => DEFAULT_GRACE.as_secs_f64(),
            _ if self.on_fargate() == Some(true) => DEFAULT_STOP_TIMEOUT_S,
            _ => self.agent_stop_timeout_s.unwrap_or(DEFAULT_STOP_TIMEOUT_S),
        };
        container.stop_timeout_s.or_default(default)
    }

    /// Whether a container has done its work before the task is stopped: others wait for its end.
    pub fn ends_early(&self, container: &ContainerDefinition<'a>) -> bool {
        self.containers.iter().any(|other| {
            other.depends_on.iter().any(|dependency| {
                dependency.on.text == container.name.text
                    && dependency
                        .condition
                        .known()
                        .is_some_and(|word| matches!(word.as_ref(), "COMPLETE" | "SUCCESS"))
            })
        })
    }

    /// Whether a container gets its signal only after another has stopped: because the other depends on
    /// it, or one that itself waits for the other does. One that has ended by then holds nobody.
    pub fn stops_after(&self, container: &ContainerDefinition<'a>, first: &ContainerDefinition<'a>) -> bool {
        let mut waiting = vec![container.name.text.as_ref()];
        let mut seen: Vec<&str> = Vec::new();
        while let Some(name) = waiting.pop() {
            if seen.contains(&name) {
                continue;
            }
            seen.push(name);
            for dependant in self.dependants(name) {
                if std::ptr::eq(dependant, first) {
                    return true;
                }
                if !self.ends_early(dependant) {
                    waiting.push(&dependant.name.text);
                }
            }
        }
        false
    }

    /// The longest chain of containers that stop one after another, first one first, and its seconds.
    /// What is unknown counts nothing, so the sum is what it takes at least.
    pub fn longest_stop(&self) -> (Vec<&ContainerDefinition<'a>>, f64) {
        let ends = self.stop_ends();
        let last = (0..ends.len()).max_by(|a, b| ends[*a].seconds.total_cmp(&ends[*b].seconds));
        last.map_or_else(Default::default, |last| {
            (self.chain_to(last, &ends), ends[last].seconds)
        })
    }

    /// For each container, when it has stopped.
    fn stop_ends(&self) -> Vec<End> {
        let mut ends = vec![None; self.containers.len()];
        for index in 0..self.containers.len() {
            self.stop_end(index, &mut ends);
        }
        ends.into_iter().map(Option::unwrap_or_default).collect()
    }

    fn stop_end(&self, index: usize, ends: &mut [Option<End>]) -> End {
        if let Some(end) = ends[index] {
            return end;
        }
        // Stands while its dependants are looked at, so that a circle, which is another rule's finding,
        // comes to an end.
        ends[index] = Some(End::default());
        let container = &self.containers[index];
        let mut before = End::default();
        for (other, dependant) in self.containers.iter().enumerate() {
            if dependant.depends_directly_on(&container.name.text) {
                let end = self.stop_end(other, ends);
                if before.after.is_none() || end.seconds > before.seconds {
                    before = End {
                        seconds: end.seconds,
                        after: Some(other),
                    };
                }
            }
        }
        let own = if self.ends_early(container) {
            0.0
        } else {
            self.stop_timeout_s(container).unwrap_or(0.0)
        };
        let end = End {
            seconds: before.seconds + own,
            after: before.after,
        };
        ends[index] = Some(end);
        end
    }

    fn chain_to(&self, last: usize, ends: &[End]) -> Vec<&ContainerDefinition<'a>> {
        let mut chain = Vec::new();
        let mut at = Some(last);
        while let Some(index) = at.filter(|_| chain.len() < ends.len()) {
            chain.push(&self.containers[index]);
            at = ends[index].after;
        }
        chain.reverse();
        chain
    }
}

/// When a container has stopped.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    /// Since the task began to stop.
    seconds: f64,
    /// The container that it waited for longest.
    after: Option<usize>,
}
