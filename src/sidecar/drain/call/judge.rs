//! The answers table of the contract, as a pure function of what the calls of a step have shown so far.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::FIRST_PAUSE;
use crate::core::step::Method;
use crate::core::url::HttpUrl;
use crate::sidecar::http::{Trouble, Way};

/// Between two questions of an app that answered 202, where it names no other time.
const POLL_PAUSE: Duration = Duration::from_millis(500);

/// What came of one request.
#[derive(Debug)]
pub(super) enum AppAnswer {
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
pub(super) enum Judgement {
    /// Answered with that status: drained once the body has ended.
    Finished(u16),
    /// The app has exited or says so: drained.
    Drained(String),
    /// The connection ended early, from an address that has said yes: drained if nobody listens there any
    /// more, else the same again.
    AgainUnlessGone(String, SocketAddr),
    /// Nobody listens: drained if ECS knows the container as STOPPED; over after [`super::NOBODY_LIMIT`].
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
pub(super) enum Next {
    /// A URL of the server that gave the 202.
    Here(HttpUrl, Missing),
    /// A URL of a server of which nothing is known yet.
    Elsewhere(HttpUrl),
}

/// What a 404 or 410 means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// Before a 202: the app has no such path.
    Fails,
    /// The drain is done, and its state is no longer to be had.
    Done,
    /// The URL is not the one that the app wanted to be asked.
    SaysNothing,
}

/// What the calls of one step have shown so far.
#[derive(Clone, Debug)]
pub(super) struct Course {
    /// The call as it stands in the plan, for messages.
    pub(super) call: String,
    /// What to ask next.
    pub(super) method: Method,
    pub(super) url: HttpUrl,
    missing: Missing,
    pub(super) contact: Contact,
    /// Set while the server of `url` has never answered for the app: the URL whose `Location` led there, and
    /// who gave that answer.
    home: Option<(HttpUrl, SocketAddr)>,
    /// What the `Host` header said to the server of the plan, in place of its URL's host.
    host: Option<&'static str>,
}

/// How far the server that is asked has been reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contact {
    /// Nobody listened yet.
    Never,
    /// Somebody took a call, without a yes: perhaps an app that is starting, restarting or overloaded.
    Taken,
    /// This address and port gave a 2xx. It alone can say by a refusal that the app has exited.
    Good(SocketAddr),
}

impl Course {
    pub(super) fn new(call: String, method: Method, url: HttpUrl, host: Option<&'static str>) -> Course {
        Course {
            call,
            method,
            url,
            missing: Missing::Fails,
            contact: Contact::Never,
            home: None,
            host,
        }
    }

    /// The answers table of the contract.
    pub(super) fn judge(&self, reply: &AppAnswer) -> Judgement {
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
        let host = self.host.unwrap_or(self.url.host());
        let other = if host == "localhost" {
            "127.0.0.1"
        } else {
            "localhost"
        };
        let write = format!(
            "Write the URL with a host that it knows (such as `{other}` where it shares this network), or let it allow \
             `{host}`"
        );
        let look_at = match code {
            400 | 421 => &*format!(
                "does the app want another Host than `{host}`? {write}. Else look into the app's log"
            ),
            401 => "does the app expect another token than PRESTOP_DRAIN_TOKEN?",
            403 => &*format!(
                "does the app expect another token than PRESTOP_DRAIN_TOKEN, or another Host than `{host}`? {write}"
            ),
            404 | 410 => "is the path right, and does this version of the app have it?",
            405 => "does the app expect another method? Write it before the URL",
            300..=399 => "redirects are not followed: write the final URL",
            _ => "look into the app's log",
        };
        format!("{} was answered {code}: {look_at}", self.call)
    }

    /// Takes up what a reply has shown of the server.
    pub(super) fn note(&mut self, reply: &AppAnswer, peer: Option<SocketAddr>) {
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
    pub(super) fn turn_to(&mut self, next: Next) {
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
    pub(super) fn turn_home(&mut self) {
        if let Some((url, peer)) = self.home.take() {
            (self.url, self.missing, self.contact) = (url, Missing::SaysNothing, Contact::Good(peer));
        }
    }

    /// The way to what is asked now; `app` are the addresses of the call in the plan.
    pub(super) fn way(&self, app: &[IpAddr]) -> Way {
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
                None,
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
    fn a_host_that_the_app_refuses_is_named_with_what_to_write() {
        let told = |code, host| {
            let course = Course {
                host,
                ..course(Contact::Never, false)
            };
            course.failure(code)
        };
        for code in [400, 403, 421] {
            let (by_name, by_loopback) = (told(code, None), told(code, Some("localhost")));
            assert!(
                by_name.contains("another Host than `app`? Write") && by_name.contains("such as `localhost`"),
                "{by_name}"
            );
            assert!(
                by_loopback.contains("another Host than `localhost`?")
                    && by_loopback.contains("such as `127.0.0.1`"),
                "{by_loopback}"
            );
        }
    }
}
