//! The promises about leases and calls, over arbitrary events and in no time at all.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn secs(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

fn failure() -> Said {
    Said::Failure {
        reason: "DEPLOYMENT_BLOCKED".to_owned(),
        detail: String::new(),
    }
}

fn error(status: u16, code: &str) -> Said {
    Said::Error {
        status,
        code: code.to_owned(),
        message: "as told".to_owned(),
    }
}

fn silent() -> Said {
    Said::Silent("no answer within 2s".to_owned())
}

const AGREED: Said = Said::Agreed { expires: None };

/// A protection with its own clock; what comes out, as words.
struct Play {
    protection: Protection,
    t0: Instant,
    asker: Asker,
}

impl Play {
    fn new() -> Play {
        Play {
            protection: Protection::default(),
            t0: Instant::now(),
            asker: 0,
        }
    }

    fn on(&mut self, t: f64, event: Event) -> Vec<String> {
        let commands = self.protection.on(event, self.t0 + secs(t));
        commands
            .into_iter()
            .map(|command| match command {
                Command::Call(Call::Protect { minutes }) => format!("protect {minutes}"),
                Command::Call(Call::Release) => "release".to_owned(),
                Command::Tell(asker, Answer::Granted(grant)) => {
                    format!(
                        "{asker} has {} until {}",
                        grant.name.as_str(),
                        (grant.until - self.t0).as_secs_f64()
                    )
                }
                Command::Tell(asker, answer) => {
                    let words = format!("{answer:?}");
                    format!("{asker} {}", words.split(['(', ' ']).next().unwrap_or_default())
                }
            })
            .collect()
    }

    fn take(&mut self, t: f64, name: &str, length: f64) -> Vec<String> {
        self.asker += 1;
        let (asker, name, length) = (self.asker, LeaseName::parse(name).unwrap(), secs(length));
        self.on(t, Event::Take { asker, name, length })
    }

    fn give_back(&mut self, t: f64, name: &str) -> Vec<String> {
        self.asker += 1;
        let (asker, name) = (self.asker, LeaseName::parse(name).unwrap());
        self.on(t, Event::GiveBack { asker, name })
    }

    fn said(&mut self, t: f64, said: Said) -> Vec<String> {
        self.on(t, Event::Said(said))
    }

    fn timeout(&self) -> Option<f64> {
        Some((self.protection.next_timeout()? - self.t0).as_secs_f64())
    }
}

#[test]
fn a_lease_counts_once_ecs_has_agreed_and_its_return_ends_the_protection() {
    let mut play = Play::new();
    assert_eq!(play.take(0.0, "job", 600.0), ["protect 20"]);
    assert_eq!(play.said(0.2, AGREED), ["1 has job until 600"]);
    assert_eq!(play.give_back(30.0, "job"), ["2 GivenBack", "release"]);
    assert_eq!(play.said(30.1, AGREED), [""; 0]);
    assert_eq!(play.timeout(), None);
    assert_eq!(play.give_back(31.0, "job"), ["3 Unknown"]);
}

#[test]
fn many_that_ask_together_cost_one_call_and_one_that_asks_later_none() {
    let mut play = Play::new();
    assert_eq!(play.take(0.0, "a", 600.0), ["protect 20"]);
    assert_eq!(play.take(0.0, "b", 300.0), [""; 0]);
    assert_eq!(play.take(0.1, "c", 6000.0), [""; 0]);
    assert_eq!(
        play.said(0.2, AGREED),
        ["1 has a until 600", "2 has b until 300", "protect 60"],
        "c ends after what ECS has agreed to"
    );
    assert_eq!(play.said(0.4, AGREED), ["3 has c until 6000.1"]);
    assert_eq!(play.take(10.0, "d", 60.0), ["4 has d until 70"]);
    assert_eq!(play.timeout(), Some(70.0));
    assert_eq!(play.give_back(11.0, "d"), ["5 GivenBack"]);
    assert_eq!(play.timeout(), Some(300.0), "b ends");
    play.on(300.0, Event::Timeout);
    assert_eq!(play.timeout(), Some(600.0), "a ends");
    play.on(600.0, Event::Timeout);
    assert_eq!(play.timeout(), Some(2400.2), "a third of the hour is left");
    assert_eq!(play.on(2400.2, Event::Timeout), ["protect 60"]);
}

#[test]
fn a_worker_that_renews_its_lease_all_the_time_costs_a_call_now_and_then() {
    for (length, most) in [(60.0, 61), (600.0, 7), (3000.0, 7), (7200.0, 61)] {
        let mut play = Play::new();
        let mut calls = 0;
        for second in 0..3600 {
            let said = play.take(second.into(), "job", length);
            if said[0].starts_with("protect") {
                calls += 1;
                play.said(second.into(), AGREED);
            }
        }
        assert!(calls <= most, "{calls} calls in an hour for leases of {length} s");
    }
}

#[test]
fn a_lease_that_ends_by_itself_ends_the_protection() {
    let mut play = Play::new();
    play.take(0.0, "job", 30.0);
    play.said(0.1, AGREED);
    assert_eq!(play.timeout(), Some(30.0));
    assert_eq!(play.on(30.0, Event::Timeout), ["release"]);
}

#[test]
fn a_refused_lease_is_not_kept_and_who_asks_at_once_again_costs_no_call() {
    for said in [failure(), error(400, "AccessDeniedException"), Said::Status(404)] {
        let mut play = Play::new();
        play.take(0.0, "job", 600.0);
        assert_eq!(play.said(0.1, said), ["1 Refused"]);
        assert_eq!(play.take(0.5, "job", 600.0), ["2 Refused"]);
        assert_eq!(play.give_back(0.6, "job"), ["3 Unknown"]);
        assert!(play.protection.state().trouble.is_some());
        assert_eq!(play.take(1.2, "job", 600.0), ["protect 20"]);
        assert_eq!(play.said(1.3, AGREED), ["4 has job until 601.2"]);
        assert!(play.protection.state().trouble.is_none());
    }
}

#[test]
fn what_may_pass_is_tried_three_times_and_then_undone() {
    let passing = [
        silent(),
        Said::Garbage(String::new()),
        Said::Status(503),
        Said::Status(429),
        error(500, "ServerException"),
        error(400, "ThrottlingException"),
    ];
    for said in passing {
        let mut play = Play::new();
        play.take(0.0, "job", 600.0);
        assert_eq!(play.said(2.0, said.clone()), [""; 0]);
        assert_eq!(play.timeout(), Some(2.5));
        assert_eq!(play.on(2.5, Event::Timeout), ["protect 20"]);
        assert_eq!(play.said(4.5, said.clone()), [""; 0]);
        assert_eq!(play.on(5.5, Event::Timeout), ["protect 20"]);
        assert_eq!(
            play.said(7.5, said.clone()),
            ["1 Refused", "release"],
            "one of the lost calls may have protected the task"
        );
        assert_eq!(play.said(7.6, AGREED), [""; 0]);
        assert_eq!(play.timeout(), Some(67.5), "then it is well again");
        play.on(67.5, Event::Timeout);
        assert!(play.protection.state().trouble.is_none());
    }
}

#[test]
fn after_a_notice_nothing_new_is_given_and_the_drain_ends_the_protection() {
    let mut play = Play::new();
    play.take(0.0, "a", 600.0);
    play.said(0.1, AGREED);
    assert_eq!(play.take(300.0, "b", 90_000.0), ["protect 60"]);
    assert_eq!(play.said(300.1, AGREED), ["2 has b until 90300"]);
    assert_eq!(play.take(450.0, "c", 60_000.0), ["protect 60"]);
    assert_eq!(play.on(450.1, Event::Notice), ["3 Stopping"]);
    assert_eq!(play.take(450.2, "d", 1.0), ["4 Stopping"]);
    assert_eq!(play.said(450.3, AGREED), [""; 0]);
    assert_eq!(play.on(460.0, Event::Notice), [""; 0]);
    assert_eq!(play.on(470.0, Event::Drained), ["release"]);
    assert_eq!(play.protection.state().leases, []);
    assert_eq!(play.on(471.0, Event::Notice), [""; 0]);
    assert_eq!(play.said(472.0, AGREED), [""; 0]);
    assert_eq!(play.timeout(), None);
}

#[test]
fn a_renewal_that_fails_is_tried_again_each_minute_while_the_leases_stay() {
    let mut play = Play::new();
    play.take(0.0, "long", 7200.0);
    play.said(0.0, AGREED);
    assert_eq!(play.on(2400.0, Event::Timeout), ["protect 60"]);
    assert_eq!(play.said(2400.0, failure()), [""; 0]);
    assert_eq!(play.protection.state().leases.len(), 1);
    assert_eq!(play.timeout(), Some(2460.0));
    assert_eq!(play.on(2460.0, Event::Timeout), ["protect 60"]);
    play.said(2460.0, failure());
    assert!(play.protection.state().trouble.is_some());
    assert_eq!(play.on(2520.0, Event::Timeout), ["protect 60"]);
    play.said(2520.0, AGREED);
    assert!(play.protection.state().trouble.is_none());
    assert_eq!(play.timeout(), Some(2520.0 + 2400.0));
}

#[test]
fn a_lease_that_its_worker_never_heard_of_does_not_count_but_a_renewal_does_no_harm() {
    let mut play = Play::new();
    let grant = |play: &mut Play, t: f64| {
        let asker = 9;
        let (name, length) = (LeaseName::parse("job").unwrap(), secs(600.0));
        let now = play.t0 + secs(t);
        let mut commands = play.protection.on(Event::Take { asker, name, length }, now);
        if commands == [Command::Call(Call::Protect { minutes: 20 })] {
            commands = play.protection.on(Event::Said(AGREED), now);
        }
        match commands.pop() {
            Some(Command::Tell(9, Answer::Granted(grant))) => grant,
            other => panic!("{other:?}"),
        }
    };
    let first = grant(&mut play, 0.0);
    let renewed = grant(&mut play, 1.0);
    assert_eq!(
        play.on(1.0, Event::Unheard(renewed)),
        [""; 0],
        "the old one is still held"
    );
    assert_eq!(
        play.on(1.0, Event::Unheard(first)),
        [""; 0],
        "and it has been renewed since"
    );
    play.give_back(2.0, "job");
    play.said(2.0, AGREED);
    let lost = grant(&mut play, 3.0);
    assert_eq!(play.on(3.0, Event::Unheard(lost)), ["release"]);
}

#[test]
fn there_are_256_leases_and_no_more() {
    let mut play = Play::new();
    for i in 0..MAX_LEASES {
        play.take(0.0, &format!("job-{i}"), 600.0);
    }
    assert_eq!(play.take(0.0, "one-more", 600.0), ["257 TooMany"]);
    assert_eq!(play.take(0.0, "job-7", 600.0), [""; 0], "a renewal has room");
    play.said(0.1, AGREED);
    assert_eq!(play.take(1.0, "one-more", 600.0), ["259 TooMany"]);
    play.give_back(2.0, "job-3");
    assert_eq!(play.take(2.0, "one-more", 60.0), ["261 has one-more until 62"]);
}

#[test]
fn who_gives_back_while_ecs_is_asked_withdraws() {
    let mut play = Play::new();
    play.take(0.0, "job", 600.0);
    assert_eq!(play.give_back(0.1, "job"), ["1 Withdrawn", "2 GivenBack"]);
    assert_eq!(play.said(0.2, AGREED), ["release"]);
}

#[test]
fn names_are_visible_ascii_without_a_slash() {
    for name in ["job", "a", "~!%2F:.", &"n".repeat(MAX_NAME)] {
        assert!(LeaseName::parse(name).is_some(), "{name}");
    }
    for name in ["", "a b", "a/b", "ä", "a\n", &"n".repeat(MAX_NAME + 1)] {
        assert!(LeaseName::parse(name).is_none(), "{name}");
    }
}

/// What may happen next.
#[derive(Clone, Debug)]
enum Act {
    Take(u8, u32),
    GiveBack(u8),
    Pass(u32),
    Notice,
    Drained,
}

/// How ECS answers a call.
#[derive(Clone, Copy, Debug)]
enum Mood {
    Agrees,
    Refuses,
    Denies,
    Fails,
    /// Does as told, and the answer is lost.
    Loses,
}

fn acts() -> impl Strategy<Value = Vec<(Act, Mood, u16)>> {
    let act = prop_oneof![
        8 => (0..6_u8, prop_oneof![1..90_u32, 1..200_000_u32]).prop_map(|(name, s)| Act::Take(name, s)),
        5 => (0..6_u8).prop_map(Act::GiveBack),
        6 => prop_oneof![0..5_u32, 0..100_u32, 0..4000_u32].prop_map(Act::Pass),
        1 => Just(Act::Notice),
        1 => Just(Act::Drained),
    ];
    let mood = prop_oneof![
        6 => Just(Mood::Agrees),
        1 => Just(Mood::Refuses),
        1 => Just(Mood::Denies),
        1 => Just(Mood::Fails),
        2 => Just(Mood::Loses),
    ];
    vec((act, mood, 0..=CALL_LIMIT.as_millis() as u16), 0..60)
}

/// ECS and its agent, beside a protection whose timeouts are kept to the moment.
struct World {
    play: Protection,
    now: Instant,
    protected_until: Option<Instant>,
    /// The call that is under way, from when ECS counts, and when its answer comes.
    flight: Option<(Call, Instant, Instant)>,
    mood: (Mood, Duration),
    calls: u32,
    /// Events that may each cause a call: requests, ends of leases, notices.
    causes: u32,
    answers: BTreeMap<Asker, u32>,
    asked: Asker,
    asked_at: BTreeMap<Asker, Instant>,
}

impl World {
    fn asker(&mut self) -> Asker {
        self.asked += 1;
        self.asked_at.insert(self.asked, self.now);
        self.asked
    }

    fn feed(&mut self, event: Event) {
        for command in self.play.on(event, self.now) {
            match command {
                Command::Call(call) => {
                    assert!(self.flight.is_none(), "one call at a time");
                    if let Call::Protect { minutes } = call {
                        assert!((1..=MAX_SLICE_MINUTES).contains(&minutes));
                    }
                    self.calls += 1;
                    let answer = self.now + self.mood.1;
                    // At the one end of the call or the other.
                    let early = self.mood.1.as_millis() % 2 == 1;
                    self.flight = Some((call, if early { self.now } else { answer }, answer));
                }
                Command::Tell(asker, answer) => {
                    *self.answers.entry(asker).or_default() += 1;
                    let waited = self.now - self.asked_at[&asker];
                    assert!(waited <= MAX_WAIT, "an answer after {waited:?}");
                    if let Answer::Granted(grant) = answer {
                        let protected = self.protected_until.is_some_and(|until| self.now < until);
                        assert!(protected, "granted only while ECS protects the task");
                        assert!(
                            self.protected_until >= Some(grant.protected.until),
                            "and for as long as it is told"
                        );
                        let promised = grant.until.min(self.now + LONG_ENOUGH);
                        assert!(
                            grant.protected.until >= promised,
                            "and until the lease ends, or for an hour to the minute"
                        );
                    }
                }
            }
        }
        if let Some(next) = self.play.next_timeout() {
            assert!(next > self.now, "what is due is done at once");
        }
    }

    fn land(&mut self, call: Call, from: Instant) {
        let done = match call {
            Call::Protect { minutes } => Some(from + Duration::from_secs(60) * minutes),
            Call::Release => None,
        };
        let said = match self.mood.0 {
            Mood::Agrees => AGREED,
            Mood::Refuses => failure(),
            Mood::Denies => error(403, "AccessDeniedException"),
            Mood::Fails => error(500, "ServerException"),
            Mood::Loses => silent(),
        };
        if matches!(self.mood.0, Mood::Agrees | Mood::Loses) {
            self.protected_until = done;
        }
        self.flight = None;
        self.feed(Event::Said(said));
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let answer = self.flight.map(|(_, _, at)| at);
            let next = [self.play.next_timeout(), answer].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = next;
            match self.flight {
                Some((call, from, at)) if at <= next => self.land(call, from),
                _ => {
                    let leases = self.play.leases.len();
                    self.feed(Event::Timeout);
                    self.causes += u32::from(self.play.leases.len() < leases);
                }
            }
        }
        self.now = end;
    }
}

proptest! {
    #[test]
    fn every_request_is_answered_once_calls_are_bounded_and_no_protection_outlives_its_leases(acts in acts()) {
        let start = Instant::now();
        let mut world = World {
            play: Protection::default(),
            now: start,
            protected_until: None,
            flight: None,
            mood: (Mood::Agrees, Duration::ZERO),
            calls: 0,
            causes: 0,
            answers: BTreeMap::new(),
            asked: 0,
            asked_at: BTreeMap::new(),
        };
        for (act, mood, delay_ms) in acts {
            world.mood = (mood, Duration::from_millis(delay_ms.into()));
            let name = |n: u8| LeaseName::parse(&format!("job-{n}")).unwrap();
            world.causes += 1;
            match act {
                Act::Take(n, s) => {
                    let (asker, length) = (world.asker(), Duration::from_secs(s.into()));
                    world.feed(Event::Take { asker, name: name(n), length });
                }
                Act::GiveBack(n) => {
                    let asker = world.asker();
                    world.feed(Event::GiveBack { asker, name: name(n) });
                }
                Act::Pass(s) => world.pass(Duration::from_secs(s.into())),
                Act::Notice => world.feed(Event::Notice),
                Act::Drained => world.feed(Event::Drained),
            }
        }
        world.pass(MAX_WAIT);
        prop_assert_eq!(world.answers.len() as u64, world.asked);
        prop_assert!(world.answers.values().all(|answers| *answers == 1));
        // ECS comes to its senses; whoever held a lease gives it back.
        world.mood = (Mood::Agrees, Duration::from_millis(100));
        world.pass(Duration::from_secs(61));
        for (name, _) in world.play.state().leases {
            let asker = world.asker();
            world.feed(Event::GiveBack { asker, name });
            world.causes += 1;
        }
        world.pass(Duration::from_secs(61));
        let protected = world.protected_until.is_some_and(|until| world.now < until);
        prop_assert!(!protected, "protected without a lease");
        // Each cause one round of tries, and a round a minute by itself at the most.
        let minutes = u32::try_from((world.now - start).as_secs() / 60).unwrap();
        let most = (2 * world.causes + minutes + 1) * MAX_TRIES;
        prop_assert!(world.calls <= most, "{} calls of {most}", world.calls);
    }
}
