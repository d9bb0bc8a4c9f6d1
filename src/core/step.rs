//! What is done to drain: the grammar of a step, and the plan made of steps.
//!
//! A plan comes from `PRESTOP_DRAIN` or, without it, from the docker labels `prestop.drain` and
//! `prestop.order` of the task's containers. It knows nothing of how a step is carried out.

use std::fmt;
use std::str::FromStr;

use crate::core::task::{Container, Task};
use crate::core::url::{HttpUrl, UrlError};

/// The label that holds a container's own step.
pub const DRAIN_LABEL: &str = "prestop.drain";
/// The label that holds its place: an integer, lower goes first.
pub const ORDER_LABEL: &str = "prestop.order";

/// A task definition holds at most 10 containers (ECS developer guide, *service quotas*); more
/// steps than that are a mistake, and each costs memory while it runs.
pub const MAX_STEPS: usize = 32;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// An HTTP drain call.
    Call(Call),
    /// Wait until somebody posts to `/drained`.
    Ack,
    /// Send a signal to a container's main process and wait until it has ended.
    Signal(SignalStep),
}

/// A signal to the main process of a container; needs a PID namespace in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignalStep {
    /// Which signal.
    pub signal: SignalName,
    /// The container's name.
    pub container: String,
}

/// The signals by which programs are told to end or to finish. SIGKILL and SIGSTOP are no way to
/// drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum SignalName {
    Hup,
    Int,
    Quit,
    Usr1,
    Usr2,
    Term,
    Winch,
}

impl SignalName {
    const ALL: [(SignalName, &str, u32); 7] = [
        (SignalName::Hup, "HUP", 1),
        (SignalName::Int, "INT", 2),
        (SignalName::Quit, "QUIT", 3),
        (SignalName::Usr1, "USR1", 10),
        (SignalName::Usr2, "USR2", 12),
        (SignalName::Term, "TERM", 15),
        (SignalName::Winch, "WINCH", 28),
    ];

    /// Without `SIG`.
    pub fn as_str(self) -> &'static str {
        SignalName::ALL
            .iter()
            .find(|(signal, ..)| *signal == self)
            .map_or("", |(_, name, _)| name)
    }

    /// Linux's number (signal(7), x86 and ARM).
    pub fn number(self) -> u32 {
        SignalName::ALL
            .iter()
            .find(|(signal, ..)| *signal == self)
            .map_or(0, |(.., number)| *number)
    }

    fn parse(word: &str) -> Option<SignalName> {
        let name = word.strip_prefix("SIG").unwrap_or(word);
        SignalName::ALL
            .iter()
            .find(|(_, known, _)| *known == name)
            .map(|(signal, ..)| *signal)
    }
}

/// An HTTP drain call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// POST unless told otherwise.
    pub method: Method,
    /// Its host may be the name of a container.
    pub url: HttpUrl,
}

/// The methods that a drain call may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    const ALL: [Method; 5] = [
        Method::Get,
        Method::Post,
        Method::Put,
        Method::Patch,
        Method::Delete,
    ];

    /// As it stands in the request line.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
        }
    }

    /// Whether the request tells its story in a body.
    pub fn has_body(self) -> bool {
        !matches!(self, Method::Get | Method::Delete)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Call(Call { method, url }) => write!(f, "{} {url}", method.as_str()),
            Step::Ack => f.write_str("ack"),
            Step::Signal(step) => write!(f, "signal {} {}", step.signal.as_str(), step.container),
        }
    }
}

/// Why a text is not a step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// Nothing between two commas, or an empty label.
    #[error("a step is empty: write `[METHOD] URL`, `ack` or `signal NAME CONTAINER`")]
    Empty,
    /// The first word is none of those that start a step.
    #[error("`{0}` is not a step: write `[METHOD] URL` (http://…), `ack` or `signal NAME CONTAINER`")]
    Unknown(String),
    /// A method that no drain call has.
    #[error("`{0}` is not a method of a drain call: GET, POST, PUT, PATCH or DELETE")]
    Method(String),
    /// A URL that cannot be called.
    #[error("`{url}`: {why}")]
    Url {
        /// As written.
        url: String,
        /// What is wrong with it.
        why: UrlError,
    },
    /// Words behind a complete step.
    #[error("`{0}` stands behind a complete step: steps are separated by commas (a comma in a URL is %2C)")]
    Trailing(String),
    /// A signal that no drain is asked for by.
    #[error("`{0}` is not a signal to drain by: HUP, INT, QUIT, USR1, USR2, TERM or WINCH")]
    Signal(String),
    /// A signal for nobody.
    #[error("`{0}` does not say which container: write `signal NAME CONTAINER`")]
    NoContainer(String),
    /// `prestop.order` is not an integer.
    #[error("`{0}` is not an integer")]
    Order(String),
    /// More than anybody means.
    #[error("more than {MAX_STEPS} steps")]
    TooMany,
}

impl FromStr for Step {
    type Err = StepError;

    fn from_str(text: &str) -> Result<Step, StepError> {
        parse_step(text, None)
    }
}

/// `own_host`: the container whose label this is, which a URL may leave out.
fn parse_step(text: &str, own_host: Option<&str>) -> Result<Step, StepError> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (method, url, rest) = match words.as_slice() {
        [] => return Err(StepError::Empty),
        ["ack"] => return Ok(Step::Ack),
        ["ack", more, ..] => return Err(StepError::Trailing((*more).to_owned())),
        ["signal", rest @ ..] => return parse_signal(text, rest, own_host).map(Step::Signal),
        [url, rest @ ..] if looks_like_url(url) => (Method::Post, *url, rest),
        [method, url, rest @ ..] if looks_like_url(url) => (parse_method(method)?, *url, rest),
        [first, ..] => return Err(StepError::Unknown((*first).to_owned())),
    };
    if let [more, ..] = rest {
        return Err(StepError::Trailing((*more).to_owned()));
    }
    let whole = match own_host {
        Some(host) if url.starts_with(':') => format!("http://{host}{url}"),
        _ => url.to_owned(),
    };
    let url = whole.parse().map_err(|why| StepError::Url {
        // A password is not repeated.
        url: if why == UrlError::UserInfo {
            "http://…@…"
        } else {
            url
        }
        .to_owned(),
        why,
    })?;
    Ok(Step::Call(Call { method, url }))
}

fn parse_signal(text: &str, words: &[&str], own_name: Option<&str>) -> Result<SignalStep, StepError> {
    let (name, container) = match (words, own_name) {
        ([name, container], _) => (*name, *container),
        ([name], Some(own)) => (*name, own),
        ([_, _, more, ..], _) => return Err(StepError::Trailing((*more).to_owned())),
        _ => return Err(StepError::NoContainer(text.trim().to_owned())),
    };
    Ok(SignalStep {
        signal: SignalName::parse(name).ok_or_else(|| StepError::Signal(name.to_owned()))?,
        container: container.to_owned(),
    })
}

fn looks_like_url(word: &str) -> bool {
    word.contains("://") || word.starts_with(':')
}

fn parse_method(word: &str) -> Result<Method, StepError> {
    Method::ALL
        .into_iter()
        .find(|method| method.as_str() == word)
        .ok_or_else(|| StepError::Method(word.to_owned()))
}

/// The steps of `PRESTOP_DRAIN`, in order.
///
/// # Errors
/// The first step that is none.
pub fn parse_steps(text: &str) -> Result<Vec<Step>, StepError> {
    let steps: Vec<Step> = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
    if steps.len() > MAX_STEPS {
        return Err(StepError::TooMany);
    }
    Ok(steps)
}

/// A step with its place in the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedStep {
    /// From 1, in the order of the plan; part of the idempotency key.
    pub number: usize,
    /// Lower goes first; equal ones go together.
    pub order: i64,
    /// The container whose label this is.
    pub container: Option<String>,
    /// What to do.
    pub step: Step,
}

impl PlannedStep {
    /// The container that this step is for: the one whose label it is, or whose name it calls.
    pub fn container_in<'a>(&self, task: &'a Task) -> Option<&'a Container> {
        match (&self.container, &self.step) {
            (Some(name), _) => task.container(name),
            (None, Step::Call(call)) => task.container_behind(call.url.host()),
            (None, Step::Signal(step)) => task.container(&step.container),
            (None, Step::Ack) => None,
        }
    }
}

/// At least one step, sorted by order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    steps: Vec<PlannedStep>,
    source: PlanSource,
}

/// Where a plan comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanSource {
    /// `PRESTOP_DRAIN`, which wins over everything.
    Setting,
    /// The containers' labels, as far as ECS lists the containers.
    Labels,
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

    /// All steps, lower orders first.
    pub fn steps(&self) -> &[PlannedStep] {
        &self.steps
    }

    /// Where it comes from.
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

/// A label that cannot be used, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("label `{label}` of container `{container}`: {why}")]
pub struct LabelError {
    container: String,
    label: &'static str,
    why: StepError,
}

impl LabelError {
    /// Whose label it is.
    pub fn container(&self) -> &str {
        &self.container
    }

    /// Which label.
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
    fn steps_are_separated_by_commas_and_post_is_the_default() {
        let steps = parse_steps("http://app/drain, GET http://app:81/stop ,ack,signal SIGQUIT web").unwrap();
        let plan = Plan::from_setting(&steps).unwrap();
        assert_eq!(
            texts(&plan),
            [
                "1 0 POST http://app/drain",
                "2 1 GET http://app:81/stop",
                "3 2 ack",
                "4 3 signal QUIT web"
            ]
        );
    }

    #[test]
    fn what_is_not_a_step_is_refused_with_what_to_write() {
        for (text, part) in [
            ("", "is empty"),
            ("ack,", "is empty"),
            ("drain", "`drain` is not a step"),
            ("post http://app/", "`post` is not a method"),
            ("POST https://app/", "write http://"),
            ("POST http://app/ now", "`now` stands behind a complete step"),
            ("ack me", "`me` stands behind"),
            ("signal KILL nginx", "`KILL` is not a signal to drain by"),
            ("signal QUIT", "which container"),
            ("signal", "which container"),
            ("signal QUIT nginx now", "`now` stands behind"),
            (":8080/drain", "starts with http://"),
        ] {
            let message = parse_steps(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text:?} gave {message:?}, not {part:?}");
        }
        assert_eq!(parse_steps(&["ack"; 33].join(",")), Err(StepError::TooMany));
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
