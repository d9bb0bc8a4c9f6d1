//! The drain call: one HTTP request, and what its answer means.
//!
//! It is sent here, again and again; what to do about what comes of it is judged in `judge` beside it.

mod judge;

use std::net::IpAddr;
use std::time::Duration;

use backon::BackoffBuilder as _;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, LOCATION, RETRY_AFTER};
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::{Instant as Clock, sleep, timeout};

use crate::core::lifecycle::Progress;
use crate::core::notice::{Action, Reason};
use crate::core::plan::PlannedStep;
use crate::core::step::Call;
use crate::core::timeline::Outcome;
use crate::sidecar::clock::{seconds_left, wall_clock};
use crate::sidecar::http::{Answer, Ask};

use self::judge::{AppAnswer, Contact, Course, Judgement};
use super::{Drain, MAX_LOGGED, Urgency};

/// How long nobody may listen before the step has failed: an app that is just starting opens its
/// port within a few seconds, and the budget is not spent on one that is not there.
const NOBODY_LIMIT: Duration = Duration::from_secs(5);

/// The first pause after a failed try, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What is read of an answer that fails the step, to show it, and how long that may take: most errors say
/// in their first line what is wrong.
const MAX_BODY: usize = 4096;
const BODY_LIMIT: Duration = Duration::from_millis(500);

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const PRESTOP_REASON: HeaderName = HeaderName::from_static("prestop-reason");
const PRESTOP_SECONDS_LEFT: HeaderName = HeaderName::from_static("prestop-seconds-left");

#[derive(Serialize)]
struct Body<'a> {
    event: &'static str,
    reason: Reason,
    action: Option<Action>,
    deadline: String,
    seconds_left: f64,
    cluster: Option<&'a str>,
    task_arn: Option<&'a str>,
    container: Option<&'a str>,
}

/// Calls until the table says that it is over.
pub(super) async fn carry_out(drain: &Drain, planned: &PlannedStep, call: &Call) -> Outcome {
    // Since when nobody listens.
    let mut nobody_since: Option<Clock> = None;
    let mut urgency = drain.urgency.clone();
    let server = server(drain, planned, call).await;
    let mut course = Course::new(
        planned.step.to_string(),
        call.method,
        call.url.clone(),
        server.host,
    );
    let mut way = course.way(&server.addresses);
    let mut pauses = pauses();
    loop {
        urgency.mark_unchanged();
        let ask = request(drain, planned, call, &course, &server);
        let (reply, answer) = match drain.network.ask(ask, &mut way).await {
            Ok(answer) => (reply_of(&answer), Some(answer)),
            Err(trouble) => (AppAnswer::Trouble(trouble), None),
        };
        if let AppAnswer::Status { code, .. } = reply {
            let call = format!("{} {}", course.method.as_str(), course.url);
            drain.tell(planned, Progress::Called { call, status: code }).await;
        }
        let mut verdict = course.judge(&reply);
        if !matches!(verdict, Judgement::NobodyYet(_)) {
            nobody_since = None;
        }
        course.note(&reply, answer.as_ref().map(Answer::peer));
        if let Contact::Good(peer) = course.contact {
            way.pin(peer.ip());
        }
        match (&verdict, answer) {
            (Judgement::Finished(_), Some(answer)) => {
                if let Err(trouble) = answer.finish().await {
                    verdict = course.judge(&AppAnswer::Trouble(trouble));
                }
            }
            (Judgement::Failed(why), Some(answer)) => {
                verdict = Judgement::Failed(format!("{why}{}", what_it_said(answer).await));
            }
            _ => {}
        }
        let pause = match verdict {
            Judgement::Finished(code) => return Outcome::Drained(format!("HTTP {code}")),
            Judgement::Drained(how) => return Outcome::Drained(how),
            Judgement::Failed(why) => return Outcome::Failed(why),
            Judgement::Ask(next, after) => {
                course.turn_to(next);
                way = course.way(&server.addresses);
                pauses = self::pauses();
                within_deadline(after, drain)
            }
            Judgement::Home(why) => {
                course.turn_home();
                way = course.way(&server.addresses);
                let pause = within_deadline(pauses.next().unwrap_or(LONGEST_PAUSE), drain);
                retry(drain, planned, why, pause).await
            }
            Judgement::NobodyYet(why) => {
                if let Some(name) = stopped(drain, planned).await {
                    return Outcome::Drained(format!("container `{name}` is STOPPED"));
                }
                let waited = nobody_since.get_or_insert_with(Clock::now).elapsed();
                if waited >= NOBODY_LIMIT {
                    return Outcome::Failed(nobody(&course, &why));
                }
                let pause = pauses.next().unwrap_or(LONGEST_PAUSE).min(NOBODY_LIMIT - waited);
                retry(drain, planned, why, pause).await
            }
            Judgement::AgainUnlessGone(why, address) if drain.network.refuses(address).await => {
                return Outcome::Drained(format!("the app has exited: {why}"));
            }
            Judgement::AgainUnlessGone(why, _) | Judgement::AgainUnlessStopped(why) => {
                if let Some(name) = stopped(drain, planned).await {
                    return Outcome::Drained(format!("container `{name}` is STOPPED"));
                }
                let pause = within_deadline(pauses.next().unwrap_or(LONGEST_PAUSE), drain);
                retry(drain, planned, why, pause).await
            }
            Judgement::Again(why, after) => {
                let pause = after.or_else(|| pauses.next()).unwrap_or(LONGEST_PAUSE);
                let pause = within_deadline(pause, drain);
                retry(drain, planned, why, pause).await
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            // A stricter deadline: the app hears of it now.
            Ok(()) = urgency.changed() => {}
        }
    }
}

/// What an answer that fails the step says in its body, as far as it says it at once.
async fn what_it_said(answer: Answer) -> String {
    match timeout(BODY_LIMIT, answer.text(MAX_BODY)).await {
        Ok(Ok(body)) if !body.trim().is_empty() => {
            let body: String = body.trim().chars().take(MAX_LOGGED).collect();
            format!(" (it says: {body})")
        }
        _ => String::new(),
    }
}

fn nobody(course: &Course, why: &str) -> String {
    let (call, limit) = (&course.call, NOBODY_LIMIT.as_secs());
    match course.contact {
        Contact::Never => format!(
            "{call}: {why} for {limit} s. Is the app up, is this its port, and does it listen on this address?"
        ),
        _ => format!(
            "{call}: {why} for {limit} s, from an app that took a call and never said 2xx. Whether it has drained is not \
             known: does it exit in the middle of a call? Let it answer 202 before"
        ),
    }
}

async fn retry(drain: &Drain, planned: &PlannedStep, why: String, after: Duration) -> Duration {
    drain.tell(planned, Progress::Retrying { why, after }).await;
    after
}

/// Exponential, each with up to as much again at random.
fn pauses() -> impl Iterator<Item = Duration> {
    backon::ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .with_jitter()
        .build()
}

/// A pause that an app asks for is honoured as long as another call fits before the deadline.
fn within_deadline(pause: Duration, drain: &Drain) -> Duration {
    let left = left(&drain.urgency.borrow());
    if pause < left { pause } else { left / 2 }
}

fn left(urgency: &Urgency) -> Duration {
    urgency
        .deadline
        .saturating_duration_since(Clock::now().into_std())
}

/// Where the URL of the plan leads.
struct AppServer {
    /// Empty for DNS.
    addresses: Vec<IpAddr>,
    /// What the `Host` header says in place of the URL's own host.
    host: Option<&'static str>,
}

async fn server(drain: &Drain, planned: &PlannedStep, call: &Call) -> AppServer {
    let named = |task: &crate::core::task::Task| {
        let container = planned.container_in(task)?;
        Some((container.shares_network, container.reached_at()))
    };
    let elsewhere = AppServer {
        addresses: Vec::new(),
        host: None,
    };
    if call.url.ip().is_some() || call.url.host() == "localhost" {
        return elsewhere;
    }
    let known = drain.task.as_deref().and_then(named);
    let found = match known {
        // Loopback does not change; a container that was restarted has another address.
        Some((shared, _)) if shared || drain.fresh => known,
        None if drain.task.is_some() => None,
        known => {
            let fresh = drain.ask_task().await;
            fresh.as_ref().and_then(named).or(known)
        }
    };
    found.map_or(elsewhere, |(shared, addresses)| AppServer {
        addresses,
        // A name of the task definition is none that an app checks its `Host` against (Django's ALLOWED_HOSTS,
        // Caddy's admin endpoint); where it leads to loopback, most of them know that name.
        host: shared.then_some("localhost"),
    })
}

/// The step's container, where ECS says that it has stopped.
async fn stopped(drain: &Drain, planned: &PlannedStep) -> Option<String> {
    let task = drain.ask_task().await?;
    let container = planned.container_in(&task)?;
    container.stopped.then(|| container.name.clone())
}

fn request<'a>(
    drain: &Drain,
    planned: &PlannedStep,
    call: &Call,
    course: &'a Course,
    server: &AppServer,
) -> Ask<'a> {
    let urgency = *drain.urgency.borrow();
    // Tenths are enough for people, and for programs that plan ahead.
    let seconds_left = seconds_left(urgency.deadline);
    let mut ask = Ask::new(course.method.as_str(), &course.url)
        .header(IDEMPOTENCY_KEY, &format!("{}-{}", drain.key, planned.number))
        .header(PRESTOP_REASON, urgency.notice.reason.as_str())
        .header(PRESTOP_SECONDS_LEFT, &format!("{seconds_left:.1}"));
    if course.url.same_server(&call.url) {
        if let Some(host) = server.host {
            ask = ask.header(HOST, &format!("{host}:{}", course.url.port()));
        }
        if let Some(token) = &drain.token {
            ask = ask.header(AUTHORIZATION, &format!("Bearer {token}"));
        }
    }
    if course.method.has_body() {
        ask = ask.header(CONTENT_TYPE, "application/json");
        ask.body = body(drain, planned, &urgency, seconds_left);
    }
    ask
}

fn body(drain: &Drain, planned: &PlannedStep, urgency: &Urgency, seconds_left: f64) -> String {
    let identity = drain.identity();
    let container = drain.task.as_deref().and_then(|task| planned.container_in(task));
    let body = Body {
        event: "drain",
        reason: urgency.notice.reason,
        action: urgency.notice.action,
        deadline: wall_clock(urgency.deadline),
        seconds_left,
        cluster: identity.cluster.as_deref(),
        task_arn: identity.task_arn.as_deref(),
        container: container
            .map(|container| container.name.as_str())
            .or(planned.container.as_deref()),
    };
    serde_json::to_string(&body).unwrap_or_default()
}

fn reply_of(answer: &Answer) -> AppAnswer {
    AppAnswer::Status {
        code: answer.status().as_u16(),
        retry_after: answer.header(RETRY_AFTER).and_then(retry_after),
        location: answer.header(LOCATION).map(str::to_owned),
    }
}

/// Seconds or a date (RFC 9110, *Retry-After*); anything else counts as missing.
fn retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Some(Duration::try_from(date.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_and_nothing_else() {
        assert_eq!(retry_after("120"), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        for bad in ["", "-1", "soon", "1.5", "99999999999999999999999"] {
            assert_eq!(retry_after(bad), None, "{bad}");
        }
    }
}
