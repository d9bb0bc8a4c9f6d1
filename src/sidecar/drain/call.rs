//! The drain call: one HTTP request, and what its answer means.
//!
//! `Course::judge` is the answers table of the contract, as a pure function; the rest of the
//! module sends requests and waits between them.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use backon::BackoffBuilder as _;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, LOCATION, RETRY_AFTER};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::time::{Instant as Clock, sleep};

use crate::core::lifecycle::Progress;
use crate::core::notice::{Action, Reason};
use crate::core::plan::PlannedStep;
use crate::core::step::{Call, Method};
use crate::core::timeline::Outcome;
use crate::core::url::HttpUrl;
use crate::sidecar::http::{Answer, Ask, Trouble};

use super::{Drain, Urgency};

/// Between two questions of an app that answered 202, where it names no other time.
const POLL_PAUSE: Duration = Duration::from_millis(500);

/// How long nobody may listen before the step has failed: an app that is just starting opens its
/// port within a few seconds, and the budget is not spent on one that is not there.
const NOBODY_LIMIT: Duration = Duration::from_secs(5);

/// The first pause after a failed try, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const PRESTOP_REASON: HeaderName = HeaderName::from_static("prestop-reason");
const PRESTOP_SECONDS_LEFT: HeaderName = HeaderName::from_static("prestop-seconds-left");

/// The body of the request.
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

/// What came of one request.
#[derive(Debug)]
enum Reply {
    /// The head of an answer.
    Status {
        code: u16,
        retry_after: Option<Duration>,
        location: Option<String>,
    },
    /// No answer.
    Trouble(Trouble),
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq)]
enum Verdict {
    /// Answered with that status: drained once the body has ended.
    Finished(u16),
    /// The app has exited or says so: drained.
    Drained(String),
    /// Nobody listens, and nobody ever said yes: drained if ECS knows that the container is STOPPED;
    /// over after [`NOBODY_LIMIT`].
    NobodyYet(String),
    /// The same again, unless ECS knows that the container is STOPPED.
    AgainUnlessStopped(String),
    /// Under way: ask there, after that.
    Ask(HttpUrl, Duration),
    /// The same again, after that or with backoff.
    Again(String, Option<Duration>),
    /// For good.
    Failed(String),
}

/// What the calls of one step have shown so far.
#[derive(Clone, Debug)]
struct Course {
    /// The call as it stands in the plan, for messages.
    call: String,
    /// What to ask next.
    method: Method,
    url: HttpUrl,
    /// A 202 came: it is all about the question whether it is done.
    under_way: bool,
    /// How far the app has ever been reached: if it cannot be any more, it has exited.
    contact: Contact,
    /// Whether a `Location` has led to another host.
    foreign: bool,
}

/// How far a call has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Contact {
    /// Nobody listened yet.
    Never,
    /// Somebody took a call, without a yes: perhaps an app that is starting, restarting or
    /// overloaded. Refused for long from now on means that it has exited.
    Taken,
    /// A 2xx came; refused or broken off from now on means that the app has exited.
    Good,
}

impl Course {
    /// The answers table of the contract.
    fn judge(&self, reply: &Reply) -> Verdict {
        match reply {
            Reply::Trouble(trouble) => self.judge_trouble(trouble),
            Reply::Status {
                code,
                retry_after,
                location,
            } => match code {
                202 => {
                    let pause = retry_after.unwrap_or(POLL_PAUSE).max(FIRST_PAUSE);
                    Verdict::Ask(self.poll_url(location.as_deref()), pause)
                }
                code @ 200..=299 => Verdict::Finished(*code),
                404 | 410 if self.under_way => Verdict::Drained(format!("under way, then {code}")),
                408 | 425 | 429 | 500..=599 => Verdict::Again(
                    format!("HTTP {code}"),
                    retry_after.map(|pause| pause.max(FIRST_PAUSE)),
                ),
                300..=499 => Verdict::Failed(self.failure(*code)),
                code => Verdict::Again(format!("HTTP {code}, which answers no drain call"), None),
            },
        }
    }

    fn judge_trouble(&self, trouble: &Trouble) -> Verdict {
        let why = trouble.to_string();
        match (trouble, self.contact) {
            (Trouble::Refused | Trouble::Closed, Contact::Good) => {
                Verdict::Drained(format!("the app has exited: {why}"))
            }
            (Trouble::Refused | Trouble::NoName(_), _) => Verdict::NobodyYet(why),
            // Perhaps the container is gone, and its address with it.
            (Trouble::ConnectTimeout | Trouble::Unreachable(_), _) => Verdict::AgainUnlessStopped(why),
            _ => Verdict::Again(why, None),
        }
    }

    /// Where a 202 says that the state of the drain is to be found.
    fn poll_url(&self, location: Option<&str>) -> HttpUrl {
        location
            .and_then(|location| self.url.join(location).ok())
            .unwrap_or_else(|| self.url.clone())
    }

    fn failure(&self, code: u16) -> String {
        let look_at = match code {
            401 | 403 => "does the app expect another token than PRESTOP_DRAIN_TOKEN?",
            404 | 410 => "is the path right, and does this version of the app have it?",
            405 => "does the app expect another method? Write it before the URL",
            300..=399 => "redirects are not followed: write the final URL",
            _ => "look into the app's log",
        };
        format!("{} was answered {code}: {look_at}", self.call)
    }
}

/// Calls until the table says that it is over.
pub(super) async fn carry_out(drain: &Drain, planned: &PlannedStep, call: &Call) -> Outcome {
    // Since when nobody listens.
    let mut nobody_since: Option<Clock> = None;
    let mut urgency = drain.urgency.clone();
    let mut addresses = addresses(drain, planned, call).await;
    let mut course = Course {
        call: planned.step.to_string(),
        method: call.method,
        url: call.url.clone(),
        under_way: false,
        contact: Contact::Never,
        foreign: false,
    };
    let mut pauses = pauses();
    loop {
        urgency.mark_unchanged();
        let reply = request(drain, planned, &course, &addresses).await;
        let (reply, answer) = match reply {
            Ok(answer) => (reply_of(&answer), Some(answer)),
            Err(trouble) => (Reply::Trouble(trouble), None),
        };
        if let Reply::Status { code, .. } = reply {
            let call = drain.for_the_log(&format!("{} {}", course.method.as_str(), course.url));
            drain.tell(planned, Progress::Called { call, status: code }).await;
        }
        let mut verdict = course.judge(&reply);
        if !matches!(verdict, Verdict::NobodyYet(_)) {
            nobody_since = None;
        }
        course.contact = course.contact.max(reached(&reply));
        if let (Verdict::Finished(code), Some(answer)) = (&verdict, answer) {
            let code = *code;
            verdict = match answer.finish().await {
                Ok(()) => Verdict::Finished(code),
                Err(trouble) => course.judge_trouble(&trouble),
            };
        }
        let pause = match verdict {
            Verdict::Finished(code) => return Outcome::Drained(format!("HTTP {code}")),
            Verdict::Drained(how) => return Outcome::Drained(how),
            Verdict::Failed(why) => return Outcome::Failed(why),
            Verdict::Ask(url, after) => {
                if url.host() != course.url.host() {
                    // Somebody else, of whom nothing is known and who gets no token.
                    (addresses, course.contact, course.foreign) = (Vec::new(), Contact::Never, true);
                }
                (course.method, course.url, course.under_way) = (Method::Get, url, true);
                pauses = self::pauses();
                within_deadline(after, drain)
            }
            Verdict::NobodyYet(why) => {
                if let Some(name) = stopped(drain, planned).await {
                    return Outcome::Drained(format!("container `{name}` is STOPPED"));
                }
                let waited = nobody_since.get_or_insert_with(Clock::now).elapsed();
                if waited >= NOBODY_LIMIT && course.contact == Contact::Never {
                    return Outcome::Failed(nobody(&course.call, &why));
                }
                if waited >= NOBODY_LIMIT {
                    return Outcome::Drained(format!(
                        "the app has exited: {why} for {} s",
                        NOBODY_LIMIT.as_secs()
                    ));
                }
                let pause = pauses.next().unwrap_or(LONGEST_PAUSE).min(NOBODY_LIMIT - waited);
                retry(drain, planned, why, pause).await
            }
            Verdict::AgainUnlessStopped(why) => {
                if let Some(name) = stopped(drain, planned).await {
                    return Outcome::Drained(format!("container `{name}` is STOPPED"));
                }
                let pause = within_deadline(pauses.next().unwrap_or(LONGEST_PAUSE), drain);
                retry(drain, planned, why, pause).await
            }
            Verdict::Again(why, after) => {
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

fn nobody(call: &str, why: &str) -> String {
    format!(
        "{call}: {why} for {} s. Is the app up, is this its port, and does it listen on this address?",
        NOBODY_LIMIT.as_secs()
    )
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

fn reached(reply: &Reply) -> Contact {
    match reply {
        Reply::Status { code: 200..=299, .. } => Contact::Good,
        Reply::Status { .. } | Reply::Trouble(Trouble::Closed | Trouble::NotHttp(_)) => Contact::Taken,
        Reply::Trouble(_) => Contact::Never,
    }
}

/// Where the host of the URL is reached, if it is a container of the task; empty for DNS.
async fn addresses(drain: &Drain, planned: &PlannedStep, call: &Call) -> Vec<IpAddr> {
    let named = |task: &crate::core::task::Task| {
        let container = planned.container_in(task)?;
        Some((container.shares_network, container.reached_at()))
    };
    if call.url.ip().is_some() {
        return Vec::new();
    }
    let known = drain.task.as_ref().as_ref().and_then(named);
    match known {
        // Loopback does not change; a container that was restarted has another address.
        Some((shared, addresses)) if shared || drain.fresh => addresses,
        None if drain.task.is_some() => Vec::new(),
        known => {
            let fresh = (drain.ask_task)().await;
            fresh
                .as_ref()
                .and_then(named)
                .or(known)
                .map_or_else(Vec::new, |(_, addresses)| addresses)
        }
    }
}

/// The step's container, where ECS says that it has stopped.
async fn stopped(drain: &Drain, planned: &PlannedStep) -> Option<String> {
    let task = (drain.ask_task)().await?;
    let container = planned.container_in(&task)?;
    container.stopped.then(|| container.name.clone())
}

async fn request(
    drain: &Drain,
    planned: &PlannedStep,
    course: &Course,
    known: &[IpAddr],
) -> Result<Answer, Trouble> {
    let urgency = *drain.urgency.borrow();
    // Tenths are enough for people, and for programs that plan ahead.
    let seconds_left = (left(&urgency).as_secs_f64() * 10.0).floor() / 10.0;
    let mut ask = Ask::new(course.method.as_str(), &course.url)
        .header(IDEMPOTENCY_KEY, &format!("{}-{}", drain.key, planned.number))
        .header(PRESTOP_REASON, urgency.notice.reason.as_str())
        .header(PRESTOP_SECONDS_LEFT, &format!("{seconds_left:.1}"));
    if let Some(token) = &drain.token
        && !course.foreign
    {
        ask = ask.header(AUTHORIZATION, &format!("Bearer {token}"));
    }
    if course.method.has_body() {
        ask = ask.header(CONTENT_TYPE, "application/json");
        ask.body = body(drain, planned, &urgency, seconds_left);
    }
    drain.network.ask(ask, known).await
}

fn body(drain: &Drain, planned: &PlannedStep, urgency: &Urgency, seconds_left: f64) -> String {
    let identity = drain.identity();
    let container = drain
        .task
        .as_ref()
        .as_ref()
        .and_then(|task| planned.container_in(task));
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

/// A monotonic time as this host's clock would show it, to the second.
pub(crate) fn wall_clock(at: Instant) -> String {
    let left = at.saturating_duration_since(Clock::now().into_std());
    let left = SignedDuration::try_from(left).unwrap_or(SignedDuration::ZERO);
    let then = Timestamp::now().saturating_add(left).unwrap_or(Timestamp::MAX);
    then.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn reply_of(answer: &Answer) -> Reply {
    Reply::Status {
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

    fn course(contact: Contact, under_way: bool) -> Course {
        Course {
            call: "POST http://app/drain".to_owned(),
            method: Method::Post,
            url: "http://app/drain".parse().unwrap(),
            under_way,
            contact,
            foreign: false,
        }
    }

    fn status(code: u16) -> Reply {
        Reply::Status {
            code,
            retry_after: None,
            location: None,
        }
    }

    fn nobody() -> Reply {
        Reply::Trouble(Trouble::Refused)
    }

    #[test]
    fn every_2xx_but_202_is_drained_once_its_body_has_ended() {
        for code in (200..300).filter(|code| *code != 202) {
            assert_eq!(
                course(Contact::Never, false).judge(&status(code)),
                Verdict::Finished(code),
                "{code}"
            );
            assert_eq!(
                course(Contact::Good, true).judge(&status(code)),
                Verdict::Finished(code),
                "{code}"
            );
        }
    }

    #[test]
    fn a_202_is_followed_where_its_location_points_after_its_retry_after() {
        let reply = |location: Option<&str>, retry_after| Reply::Status {
            code: 202,
            retry_after,
            location: location.map(str::to_owned),
        };
        let ask = |reply| match course(Contact::Never, false).judge(&reply) {
            Verdict::Ask(url, after) => (url.to_string(), after),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            ask(reply(None, None)),
            ("http://app/drain".to_owned(), POLL_PAUSE)
        );
        let second = Some(Duration::from_secs(1));
        assert_eq!(
            ask(reply(Some("/d/7"), second)),
            ("http://app/d/7".to_owned(), Duration::from_secs(1))
        );
        let unusable = reply(Some("https://x/"), None);
        assert_eq!(
            ask(unusable).0,
            "http://app/drain",
            "a Location that cannot be asked is as good as none"
        );
    }

    #[test]
    fn a_404_or_410_says_that_it_is_done_after_a_202_and_fails_the_step_before() {
        for code in [404, 410] {
            assert!(matches!(
                course(Contact::Good, true).judge(&status(code)),
                Verdict::Drained(_)
            ));
            assert!(matches!(
                course(Contact::Taken, false).judge(&status(code)),
                Verdict::Failed(_)
            ));
        }
    }

    #[test]
    fn refused_or_closed_after_a_2xx_means_that_the_app_has_exited() {
        for under_way in [false, true] {
            for trouble in [Trouble::Refused, Trouble::Closed] {
                let verdict = course(Contact::Good, under_way).judge(&Reply::Trouble(trouble));
                assert!(matches!(verdict, Verdict::Drained(_)), "{verdict:?}");
            }
        }
        let overloaded = course(Contact::Taken, false).judge(&Reply::Trouble(Trouble::Closed));
        assert!(matches!(overloaded, Verdict::Again(..)), "{overloaded:?}");
    }

    #[test]
    fn trouble_on_this_side_or_on_the_way_says_nothing_of_the_app() {
        for contact in [Contact::Never, Contact::Taken, Contact::Good] {
            for trouble in [
                Trouble::ConnectTimeout,
                Trouble::Unreachable("no route".to_owned()),
            ] {
                let verdict = course(contact, true).judge(&Reply::Trouble(trouble));
                assert!(matches!(verdict, Verdict::AgainUnlessStopped(_)), "{verdict:?}");
            }
            let nonsense = course(contact, true).judge(&Reply::Trouble(Trouble::NotHttp("x".to_owned())));
            assert!(matches!(nonsense, Verdict::Again(..)), "{nonsense:?}");
        }
    }

    #[test]
    fn busy_and_broken_answers_are_tried_again() {
        for code in [408, 425, 429, 500, 502, 503, 599] {
            let reply = Reply::Status {
                code,
                retry_after: Some(Duration::from_secs(3)),
                location: None,
            };
            let again = Verdict::Again(format!("HTTP {code}"), Some(Duration::from_secs(3)));
            assert_eq!(course(Contact::Never, false).judge(&reply), again);
            assert_eq!(course(Contact::Good, true).judge(&reply), again);
        }
        for trouble in [Trouble::Closed, Trouble::NotHttp("x".to_owned())] {
            let verdict = course(Contact::Never, false).judge(&Reply::Trouble(trouble));
            assert!(matches!(verdict, Verdict::Again(_, None)), "{verdict:?}");
        }
    }

    #[test]
    fn refused_without_any_contact_waits_for_the_app_to_start() {
        assert!(matches!(
            course(Contact::Never, false).judge(&nobody()),
            Verdict::NobodyYet(_)
        ));
    }

    #[test]
    fn every_other_answer_fails_the_step_and_says_what_to_look_at() {
        let tried_again = [408, 425, 429];
        let others = (300..500).filter(|code| !tried_again.contains(code));
        for code in others {
            match course(Contact::Never, false).judge(&status(code)) {
                Verdict::Failed(why) => assert!(why.contains(&code.to_string()), "{why}"),
                other => panic!("{code} gave {other:?}"),
            }
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_nothing_else() {
        assert_eq!(retry_after("120"), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        for bad in ["", "-1", "soon", "1.5", "99999999999999999999999"] {
            assert_eq!(retry_after(bad), None, "{bad}");
        }
    }
}
