//! The drain call: one HTTP request, and what its answer means.
//!
//! `Course::judge` is the answers table of the contract, as a pure function; the rest of the
//! module sends requests and waits between them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use backon::BackoffBuilder as _;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, LOCATION, RETRY_AFTER};
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::{Instant as Clock, sleep, timeout};

use crate::core::lifecycle::Progress;
use crate::core::notice::{Action, Reason};
use crate::core::plan::PlannedStep;
use crate::core::step::{Call, Method};
use crate::core::timeline::Outcome;
use crate::core::url::HttpUrl;
use crate::sidecar::clock::{seconds_left, wall_clock};
use crate::sidecar::http::{Answer, Ask, Trouble, Way};

use super::{Drain, MAX_LOGGED, Urgency};

/// Between two questions of an app that answered 202, where it names no other time.
const POLL_PAUSE: Duration = Duration::from_millis(500);

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
enum AppAnswer {
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
enum Judgement {
    /// Answered with that status: drained once the body has ended.
    Finished(u16),
    /// The app has exited or says so: drained.
    Drained(String),
    /// The connection ended early, from an address that has said yes: drained if nobody listens there any
    /// more, else the same again.
    AgainUnlessGone(String, SocketAddr),
    /// Nobody listens: drained if ECS knows the container as STOPPED; over after [`NOBODY_LIMIT`].
    NobodyYet(String),
    /// The same again, unless ECS knows the container as STOPPED.
    AgainUnlessStopped(String),
    /// Under way: ask that, after a while.
    Ask(Next, Duration),
    /// Back to the URL whose `Location` led to somebody who does not answer for the app.
    Home(String),
    /// The same again, after that or with backoff.
    Again(String, Option<Duration>),
    /// For good.
    Failed(String),
}

/// What is asked next while the drain is under way.
#[derive(Clone, Debug, PartialEq)]
enum Next {
    /// A URL of the server that gave the 202.
    Here(HttpUrl, Missing),
    /// A URL of a server of which nothing is known yet.
    Elsewhere(HttpUrl),
}

/// What a 404 or 410 means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    /// Before a 202: the app has no such path.
    Fails,
    /// The drain is done, and its state is no longer to be had.
    Done,
    /// The URL is not the one that the app wanted to be asked.
    SaysNothing,
}

/// What the calls of one step have shown so far.
#[derive(Clone, Debug)]
struct Course {
    /// The call as it stands in the plan, for messages.
    call: String,
    /// What to ask next.
    method: Method,
    url: HttpUrl,
    missing: Missing,
    contact: Contact,
    /// Set while the server of `url` has never answered for the app: the URL whose `Location` led there, and
    /// who gave that answer.
    home: Option<(HttpUrl, SocketAddr)>,
}

/// How far the server that is asked has been reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contact {
    /// Nobody listened yet.
    Never,
    /// Somebody took a call, without a yes: perhaps an app that is starting, restarting or overloaded.
    Taken,
    /// This address and port gave a 2xx. It alone can say by a refusal that the app has exited.
    Good(SocketAddr),
}

impl Course {
    fn new(call: String, method: Method, url: HttpUrl) -> Course {
        Course {
            call,
            method,
            url,
            missing: Missing::Fails,
            contact: Contact::Never,
            home: None,
        }
    }

    /// The answers table of the contract.
    fn judge(&self, reply: &AppAnswer) -> Judgement {
        let verdict = match reply {
            AppAnswer::Trouble(trouble) => self.judge_trouble(trouble),
            AppAnswer::Status {
                code,
                retry_after,
                location,
            } => self.judge_status(*code, *retry_after, location.as_deref()),
        };
        match verdict {
            Judgement::Finished(_) | Judgement::Ask(..) => verdict,
            // Its lookup goes on.
            _ if matches!(reply, AppAnswer::Trouble(Trouble::SlowName(_))) => verdict,
            _ if self.home.is_some() => Judgement::Home(format!("{}: {}", self.url, reply.in_words())),
            _ => verdict,
        }
    }

    fn judge_status(&self, code: u16, retry_after: Option<Duration>, location: Option<&str>) -> Judgement {
        let pause = retry_after.map(|pause| pause.max(FIRST_PAUSE));
        match code {
            202 => Judgement::Ask(self.next(location), pause.unwrap_or(POLL_PAUSE)),
            200..=299 => Judgement::Finished(code),
            404 | 410 if self.missing == Missing::Done => {
                Judgement::Drained(format!("under way, then {code}"))
            }
            404 | 410 if self.missing == Missing::SaysNothing => Judgement::Again(
                format!("HTTP {code}, but the Location of the 202 could not be asked"),
                pause,
            ),
            408 | 425 | 429 | 500..=599 => Judgement::Again(format!("HTTP {code}"), pause),
            300..=499 => Judgement::Failed(self.failure(code)),
            _ => Judgement::Again(format!("HTTP {code}, which answers no drain call"), None),
        }
    }

    fn judge_trouble(&self, trouble: &Trouble) -> Judgement {
        let why = trouble.to_string();
        match (trouble, self.contact) {
            (Trouble::Refused, Contact::Good(_)) => Judgement::Drained(format!("the app has exited: {why}")),
            (Trouble::Closed, Contact::Good(address)) => Judgement::AgainUnlessGone(why, address),
            (Trouble::Refused | Trouble::NoName(_), _) => Judgement::NobodyYet(why),
            // Perhaps the container is gone, and its address with it.
            (Trouble::ConnectTimeout | Trouble::Unreachable(_) | Trouble::Blackhole, _) => {
                Judgement::AgainUnlessStopped(why)
            }
            _ => Judgement::Again(why, None),
        }
    }

    /// Where a 202 says that the state of the drain is to be found.
    fn next(&self, location: Option<&str>) -> Next {
        match location.map(|location| self.url.join(location)) {
            None => Next::Here(self.url.clone(), Missing::Done),
            Some(Ok(url)) if url.same_server(&self.url) => Next::Here(url, Missing::Done),
            Some(Ok(url)) => Next::Elsewhere(url),
            Some(Err(_)) => Next::Here(self.url.clone(), Missing::SaysNothing),
        }
    }

    fn failure(&self, code: u16) -> String {
        let look_at = match code {
            400 | 421 => {
                "does the app check the Host header? It is the URL's own, and `localhost` where the host is a container that \
                 shares this network; write the host that the app knows. Else look into the app's log"
            }
            401 => "does the app expect another token than PRESTOP_DRAIN_TOKEN?",
            403 => {
                "does the app expect another token than PRESTOP_DRAIN_TOKEN, or another Host than the URL's?"
            }
            404 | 410 => "is the path right, and does this version of the app have it?",
            405 => "does the app expect another method? Write it before the URL",
            300..=399 => "redirects are not followed: write the final URL",
            _ => "look into the app's log",
        };
        format!("{} was answered {code}: {look_at}", self.call)
    }

    /// Takes up what a reply has shown of the server.
    fn note(&mut self, reply: &AppAnswer, peer: Option<SocketAddr>) {
        self.contact = match (reply, peer) {
            (AppAnswer::Status { code: 200..=299, .. }, Some(peer)) => Contact::Good(peer),
            (AppAnswer::Status { .. } | AppAnswer::Trouble(Trouble::Closed | Trouble::NotHttp(_)), _)
                if self.contact == Contact::Never =>
            {
                Contact::Taken
            }
            _ => self.contact,
        };
    }

    /// Asks that from now on.
    fn turn_to(&mut self, next: Next) {
        self.method = Method::Get;
        match (next, self.contact) {
            (Next::Elsewhere(url), Contact::Good(peer)) => {
                self.home = Some((std::mem::replace(&mut self.url, url), peer));
                self.contact = Contact::Never;
            }
            (Next::Here(url, missing), _) => {
                (self.url, self.missing, self.home) = (url, missing, None);
            }
            // A 202 that nobody gave.
            (Next::Elsewhere(_), _) => {}
        }
    }

    /// Asks again where the 202 came from.
    fn turn_home(&mut self) {
        if let Some((url, peer)) = self.home.take() {
            (self.url, self.missing, self.contact) = (url, Missing::SaysNothing, Contact::Good(peer));
        }
    }

    /// The way to what is asked now; `app` are the addresses of the call in the plan.
    fn way(&self, app: &[IpAddr]) -> Way {
        match (self.contact, &self.home) {
            (Contact::Good(peer), _) => Way::known(&[peer.ip()]),
            (_, None) => Way::known(app),
            (_, Some((url, _))) if url.host().eq_ignore_ascii_case(self.url.host()) => Way::known(app),
            (_, Some(_)) => Way::default(),
        }
    }
}

impl AppAnswer {
    fn in_words(&self) -> String {
        match self {
            AppAnswer::Status { code, .. } => format!("HTTP {code}"),
            AppAnswer::Trouble(trouble) => trouble.to_string(),
        }
    }
}

/// Calls until the table says that it is over.
pub(super) async fn carry_out(drain: &Drain, planned: &PlannedStep, call: &Call) -> Outcome {
    // Since when nobody listens.
    let mut nobody_since: Option<Clock> = None;
    let mut urgency = drain.urgency.clone();
    let server = server(drain, planned, call).await;
    let mut course = Course::new(planned.step.to_string(), call.method, call.url.clone());
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
            "{call}: {why} for {limit} s, from an app that took a call and never said 2xx. Whether it has drained is not              known: does it exit in the middle of a call? Let it answer 202 before"
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

    fn good() -> Contact {
        Contact::Good("127.0.0.1:80".parse().unwrap())
    }

    fn course(contact: Contact, under_way: bool) -> Course {
        Course {
            missing: if under_way { Missing::Done } else { Missing::Fails },
            contact,
            ..Course::new(
                "POST http://app/drain".to_owned(),
                Method::Post,
                "http://app/drain".parse().unwrap(),
            )
        }
    }

    fn status(code: u16) -> AppAnswer {
        AppAnswer::Status {
            code,
            retry_after: None,
            location: None,
        }
    }

    fn nobody() -> AppAnswer {
        AppAnswer::Trouble(Trouble::Refused)
    }

    #[test]
    fn every_2xx_but_202_is_drained_once_its_body_has_ended() {
        for code in (200..300).filter(|code| *code != 202) {
            assert_eq!(
                course(Contact::Never, false).judge(&status(code)),
                Judgement::Finished(code),
                "{code}"
            );
            assert_eq!(
                course(good(), true).judge(&status(code)),
                Judgement::Finished(code),
                "{code}"
            );
        }
    }

    #[test]
    fn a_202_is_followed_where_its_location_points_after_its_retry_after() {
        let reply = |location: Option<&str>, retry_after| AppAnswer::Status {
            code: 202,
            retry_after,
            location: location.map(str::to_owned),
        };
        let ask = |reply| match course(Contact::Never, false).judge(&reply) {
            Judgement::Ask(Next::Here(url, missing), after) => (url.to_string(), missing, after),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            ask(reply(None, None)),
            ("http://app/drain".to_owned(), Missing::Done, POLL_PAUSE)
        );
        let second = Some(Duration::from_secs(1));
        assert_eq!(
            ask(reply(Some("/d/7"), second)),
            ("http://app/d/7".to_owned(), Missing::Done, Duration::from_secs(1))
        );
        let unusable = reply(Some("https://x/"), None);
        assert_eq!(
            ask(unusable),
            ("http://app/drain".to_owned(), Missing::SaysNothing, POLL_PAUSE),
            "the URL itself is asked, and its 404 says nothing"
        );
    }

    #[test]
    fn a_404_or_410_says_that_it_is_done_after_a_202_and_fails_the_step_before() {
        for code in [404, 410] {
            assert!(matches!(
                course(good(), true).judge(&status(code)),
                Judgement::Drained(_)
            ));
            assert!(matches!(
                course(Contact::Taken, false).judge(&status(code)),
                Judgement::Failed(_)
            ));
        }
    }

    #[test]
    fn refused_after_a_2xx_means_that_the_app_has_exited_and_closed_that_it_is_to_be_seen() {
        for under_way in [false, true] {
            let verdict = |trouble| course(good(), under_way).judge(&AppAnswer::Trouble(trouble));
            assert!(matches!(verdict(Trouble::Refused), Judgement::Drained(_)));
            assert!(matches!(verdict(Trouble::Closed), Judgement::AgainUnlessGone(..)));
        }
        let overloaded = course(Contact::Taken, false).judge(&AppAnswer::Trouble(Trouble::Closed));
        assert!(matches!(overloaded, Judgement::Again(..)), "{overloaded:?}");
    }

    #[test]
    fn trouble_on_this_side_or_on_the_way_says_nothing_of_the_app() {
        for contact in [Contact::Never, Contact::Taken, good()] {
            for trouble in [
                Trouble::ConnectTimeout,
                Trouble::Unreachable("no route".to_owned()),
            ] {
                let verdict = course(contact, true).judge(&AppAnswer::Trouble(trouble));
                assert!(matches!(verdict, Judgement::AgainUnlessStopped(_)), "{verdict:?}");
            }
            let nonsense = course(contact, true).judge(&AppAnswer::Trouble(Trouble::NotHttp("x".to_owned())));
            assert!(matches!(nonsense, Judgement::Again(..)), "{nonsense:?}");
        }
    }

    #[test]
    fn busy_and_broken_answers_are_tried_again() {
        for code in [408, 425, 429, 500, 502, 503, 599] {
            let reply = AppAnswer::Status {
                code,
                retry_after: Some(Duration::from_secs(3)),
                location: None,
            };
            let again = Judgement::Again(format!("HTTP {code}"), Some(Duration::from_secs(3)));
            assert_eq!(course(Contact::Never, false).judge(&reply), again);
            assert_eq!(course(good(), true).judge(&reply), again);
        }
        for trouble in [Trouble::Closed, Trouble::NotHttp("x".to_owned())] {
            let verdict = course(Contact::Never, false).judge(&AppAnswer::Trouble(trouble));
            assert!(matches!(verdict, Judgement::Again(_, None)), "{verdict:?}");
        }
    }

    #[test]
    fn refused_without_any_contact_waits_for_the_app_to_start() {
        assert!(matches!(
            course(Contact::Never, false).judge(&nobody()),
            Judgement::NobodyYet(_)
        ));
    }

    #[test]
    fn every_other_answer_fails_the_step_and_says_what_to_look_at() {
        let tried_again = [408, 425, 429];
        let others = (300..500).filter(|code| !tried_again.contains(code));
        for code in others {
            match course(Contact::Never, false).judge(&status(code)) {
                Judgement::Failed(why) => assert!(why.contains(&code.to_string()), "{why}"),
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
