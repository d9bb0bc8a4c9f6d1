//! What holds for leases and calls, over arbitrary events and in no time at all.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn secs(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

fn failure() -> AgentAnswer {
    AgentAnswer::Failure {
        reason: "DEPLOYMENT_BLOCKED".to_owned(),
        detail: String::new(),
    }
}

fn error(status: u16, code: &str) -> AgentAnswer {
    AgentAnswer::Error {
        status,
        code: code.to_owned(),
        message: "as told".to_owned(),
    }
}

fn silent() -> AgentAnswer {
    AgentAnswer::Silent("no answer within 2s".to_owned())
}

const AGREED: AgentAnswer = AgentAnswer::Agreed { expires: None };

/// A protection with its own clock; what comes out, as words.
struct Machine {
    protection: Protection,
    t0: Instant,
    last_request: RequestId,
}

impl Machine {
    fn new() -> Machine {
        Machine {
            protection: Protection::default(),
            t0: Instant::now(),
            last_request: 0,
        }
    }

    fn on(&mut self, t: f64, event: LeaseEvent) -> Vec<String> {
        let commands = self.protection.on(event, self.t0 + secs(t));
        commands
            .into_iter()
            .map(|command| match command {
                LeaseCommand::CallAgent(AgentCall::Protect { minutes }) => format!("protect {minutes}"),
                LeaseCommand::CallAgent(AgentCall::Release) => "release".to_owned(),
                LeaseCommand::Answer(request, LeaseAnswer::Granted(grant)) => {
                    format!(
                        "{request} has {} until {}",
                        grant.name.as_str(),
                        (grant.until - self.t0).as_secs_f64()
                    )
                }
                LeaseCommand::Answer(request, answer) => {
                    let words = format!("{answer:?}");
                    format!("{request} {}", words.split(['(', ' ']).next().unwrap_or_default())
                }
            })
            .collect()
    }

    fn take(&mut self, t: f64, name: &str, length: f64) -> Vec<String> {
        self.last_request += 1;
        let (request, name) = (self.last_request, LeaseName::parse(name).unwrap());
        let length = secs(length);
        self.on(
            t,
            LeaseEvent::Take {
                request,
                name,
                length,
            },
        )
    }

    fn give_back(&mut self, t: f64, name: &str) -> Vec<String> {
        self.last_request += 1;
        let (request, name) = (self.last_request, LeaseName::parse(name).unwrap());
        self.on(t, LeaseEvent::GiveBack { request, name })
    }

    fn agent_says(&mut self, t: f64, answer: AgentAnswer) -> Vec<String> {
        self.on(t, LeaseEvent::AgentAnswered(answer))
    }

    fn timeout(&self) -> Option<f64> {
        Some((self.protection.next_timeout()? - self.t0).as_secs_f64())
    }
}

#[test]
fn a_lease_counts_once_ecs_has_agreed_and_its_return_ends_the_protection() {
    let mut machine = Machine::new();
    assert_eq!(machine.take(0.0, "job", 600.0), ["protect 20"]);
    assert_eq!(machine.agent_says(0.2, AGREED), ["1 has job until 600"]);
    assert_eq!(machine.give_back(30.0, "job"), ["2 GivenBack", "release"]);
    assert_eq!(machine.agent_says(30.1, AGREED), [""; 0]);
    assert_eq!(machine.timeout(), None);
    assert_eq!(machine.give_back(31.0, "job"), ["3 Unknown"]);
}

#[test]
fn many_that_ask_together_cost_one_call_and_one_that_asks_later_none() {
    let mut machine = Machine::new();
    assert_eq!(machine.take(0.0, "a", 600.0), ["protect 20"]);
    assert_eq!(machine.take(0.0, "b", 300.0), [""; 0]);
    assert_eq!(machine.take(0.1, "c", 6000.0), [""; 0]);
    assert_eq!(
        machine.agent_says(0.2, AGREED),
        ["1 has a until 600", "2 has b until 300", "protect 60"],
        "c ends after what ECS has agreed to"
    );
    assert_eq!(machine.agent_says(0.4, AGREED), ["3 has c until 6000.1"]);
    assert_eq!(machine.take(10.0, "d", 60.0), ["4 has d until 70"]);
    assert_eq!(machine.timeout(), Some(70.0));
    assert_eq!(machine.give_back(11.0, "d"), ["5 GivenBack"]);
    assert_eq!(machine.timeout(), Some(300.0), "b ends");
    machine.on(300.0, LeaseEvent::Timeout);
    assert_eq!(machine.timeout(), Some(600.0), "a ends");
    machine.on(600.0, LeaseEvent::Timeout);
    assert_eq!(machine.timeout(), Some(2400.2), "a third of the hour is left");
    assert_eq!(machine.on(2400.2, LeaseEvent::Timeout), ["protect 60"]);
}

#[test]
fn a_worker_that_renews_its_lease_all_the_time_costs_a_call_now_and_then() {
    for (length, most) in [(60.0, 61), (600.0, 7), (3000.0, 7), (7200.0, 61)] {
        let mut machine = Machine::new();
        let mut calls = 0;
        for second in 0..3600 {
            let commands = machine.take(second.into(), "job", length);
            if commands[0].starts_with("protect") {
                calls += 1;
                machine.agent_says(second.into(), AGREED);
            }
        }
        assert!(calls <= most, "{calls} calls in an hour for leases of {length} s");
    }
}

#[test]
fn a_lease_that_ends_by_itself_ends_the_protection() {
    let mut machine = Machine::new();
    machine.take(0.0, "job", 30.0);
    machine.agent_says(0.1, AGREED);
    assert_eq!(machine.timeout(), Some(30.0));
    assert_eq!(machine.on(30.0, LeaseEvent::Timeout), ["release"]);
}

#[test]
fn a_refused_lease_is_not_kept_and_who_asks_at_once_again_costs_no_call() {
    for answer in [
        failure(),
        error(400, "AccessDeniedException"),
        AgentAnswer::Status(404),
    ] {
        let mut machine = Machine::new();
        machine.take(0.0, "job", 600.0);
        assert_eq!(machine.agent_says(0.1, answer), ["1 Refused"]);
        assert_eq!(machine.take(0.5, "job", 600.0), ["2 Refused"]);
        assert_eq!(machine.give_back(0.6, "job"), ["3 Unknown"]);
        assert!(machine.protection.state().trouble.is_some());
        assert_eq!(machine.take(1.2, "job", 600.0), ["protect 20"]);
        assert_eq!(machine.agent_says(1.3, AGREED), ["4 has job until 601.2"]);
        assert!(machine.protection.state().trouble.is_none());
    }
}

#[test]
fn what_may_pass_is_tried_three_times_and_then_undone() {
    let transient = [
        silent(),
        AgentAnswer::Garbage(String::new()),
        AgentAnswer::Status(503),
        AgentAnswer::Status(429),
        error(500, "ServerException"),
        error(400, "ThrottlingException"),
    ];
    for answer in transient {
        let mut machine = Machine::new();
        machine.take(0.0, "job", 600.0);
        assert_eq!(machine.agent_says(2.0, answer.clone()), [""; 0]);
        assert_eq!(machine.timeout(), Some(2.5));
        assert_eq!(machine.on(2.5, LeaseEvent::Timeout), ["protect 20"]);
        assert_eq!(machine.agent_says(4.5, answer.clone()), [""; 0]);
        assert_eq!(machine.on(5.5, LeaseEvent::Timeout), ["protect 20"]);
        assert_eq!(
            machine.agent_says(7.5, answer.clone()),
            ["1 Refused", "release"],
            "one of the lost calls may have protected the task"
        );
        assert_eq!(machine.agent_says(7.6, AGREED), [""; 0]);
        assert_eq!(machine.timeout(), Some(67.5), "then it is well again");
        machine.on(67.5, LeaseEvent::Timeout);
        assert!(machine.protection.state().trouble.is_none());
    }
}

#[test]
fn after_a_notice_nothing_new_is_given_and_the_drain_ends_the_protection() {
    let mut machine = Machine::new();
    machine.take(0.0, "a", 600.0);
    machine.agent_says(0.1, AGREED);
    assert_eq!(machine.take(300.0, "b", 90_000.0), ["protect 60"]);
    assert_eq!(machine.agent_says(300.1, AGREED), ["2 has b until 90300"]);
    assert_eq!(machine.take(450.0, "c", 60_000.0), ["protect 60"]);
    assert_eq!(machine.on(450.1, LeaseEvent::Notice), ["3 Stopping"]);
    assert_eq!(machine.take(450.2, "d", 1.0), ["4 Stopping"]);
    assert_eq!(machine.agent_says(450.3, AGREED), [""; 0]);
    assert_eq!(machine.on(460.0, LeaseEvent::Notice), [""; 0]);
    assert_eq!(machine.on(470.0, LeaseEvent::Drained), ["release"]);
    assert_eq!(machine.protection.state().leases, []);
    assert_eq!(machine.on(471.0, LeaseEvent::Notice), [""; 0]);
    assert_eq!(machine.agent_says(472.0, AGREED), [""; 0]);
    assert_eq!(machine.timeout(), None);
}

#[test]
fn a_superseded_task_gets_no_new_lease_and_keeps_and_renews_those_that_it_has() {
    let mut machine = Machine::new();
    machine.take(0.0, "a", 60.0);
    machine.agent_says(0.1, AGREED);
    machine.take(1.0, "b", 7200.0);
    let told = machine.on(1.1, LeaseEvent::Superseded(true));
    assert_eq!(told, ["2 Superseded"]);
    machine.agent_says(1.2, AGREED);
    assert_eq!(machine.take(2.0, "c", 10.0), ["3 Superseded"]);
    let renewed = machine.take(3.0, "a", 60.0);
    assert_eq!(renewed.len(), 1);
    assert!(renewed[0].starts_with("4 has a until"), "{renewed:?}");
    assert!(machine.give_back(4.0, "a").contains(&"release".to_owned()));
    machine.agent_says(4.1, AGREED);
    machine.on(5.0, LeaseEvent::Superseded(false));
    assert!(machine.take(6.0, "c", 10.0)[0].starts_with("protect"));
}

#[test]
fn a_renewal_that_fails_is_tried_again_each_minute_while_the_leases_stay() {
    let mut machine = Machine::new();
    machine.take(0.0, "long", 7200.0);
    machine.agent_says(0.0, AGREED);
    assert_eq!(machine.on(2400.0, LeaseEvent::Timeout), ["protect 60"]);
    assert_eq!(machine.agent_says(2400.0, failure()), [""; 0]);
    assert_eq!(machine.protection.state().leases.len(), 1);
    assert_eq!(machine.timeout(), Some(2460.0));
    assert_eq!(machine.on(2460.0, LeaseEvent::Timeout), ["protect 60"]);
    machine.agent_says(2460.0, failure());
    assert!(machine.protection.state().trouble.is_some());
    assert_eq!(machine.on(2520.0, LeaseEvent::Timeout), ["protect 60"]);
    machine.agent_says(2520.0, AGREED);
    assert!(machine.protection.state().trouble.is_none());
    assert_eq!(machine.timeout(), Some(2520.0 + 2400.0));
}

#[test]
fn a_lease_that_its_worker_never_heard_of_does_not_count_but_a_renewal_does_no_harm() {
    let mut machine = Machine::new();
    let grant = |machine: &mut Machine, t: f64| {
        let request = 9;
        let (name, length) = (LeaseName::parse("job").unwrap(), secs(600.0));
        let now = machine.t0 + secs(t);
        let mut commands = machine.protection.on(
            LeaseEvent::Take {
                request,
                name,
                length,
            },
            now,
        );
        if commands == [LeaseCommand::CallAgent(AgentCall::Protect { minutes: 20 })] {
            commands = machine.protection.on(LeaseEvent::AgentAnswered(AGREED), now);
        }
        match commands.pop() {
            Some(LeaseCommand::Answer(9, LeaseAnswer::Granted(grant))) => grant,
            other => panic!("{other:?}"),
        }
    };
    let first = grant(&mut machine, 0.0);
    let renewed = grant(&mut machine, 1.0);
    assert_eq!(
        machine.on(1.0, LeaseEvent::GrantUnheard(renewed)),
        [""; 0],
        "the old one is still held"
    );
    assert_eq!(
        machine.on(1.0, LeaseEvent::GrantUnheard(first)),
        [""; 0],
        "and it has been renewed since"
    );
    machine.give_back(2.0, "job");
    machine.agent_says(2.0, AGREED);
    let lost = grant(&mut machine, 3.0);
    assert_eq!(machine.on(3.0, LeaseEvent::GrantUnheard(lost)), ["release"]);
}

#[test]
fn there_are_256_leases_and_no_more() {
    let mut machine = Machine::new();
    for i in 0..MAX_LEASES {
        machine.take(0.0, &format!("job-{i}"), 600.0);
    }
    assert_eq!(machine.take(0.0, "one-more", 600.0), ["257 TooMany"]);
    assert_eq!(machine.take(0.0, "job-7", 600.0), [""; 0], "a renewal has room");
    machine.agent_says(0.1, AGREED);
    assert_eq!(machine.take(1.0, "one-more", 600.0), ["259 TooMany"]);
    machine.give_back(2.0, "job-3");
    assert_eq!(machine.take(2.0, "one-more", 60.0), ["261 has one-more until 62"]);
}

#[test]
fn who_gives_back_while_ecs_is_asked_withdraws() {
    let mut machine = Machine::new();
    machine.take(0.0, "job", 600.0);
    assert_eq!(machine.give_back(0.1, "job"), ["1 Withdrawn", "2 GivenBack"]);
    assert_eq!(machine.agent_says(0.2, AGREED), ["release"]);
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
    Superseded(bool),
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
        2 => any::<bool>().prop_map(Act::Superseded),
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
struct PlayedEcs {
    protection: Protection,
    now: Instant,
    protected_until: Option<Instant>,
    /// The call that is under way, from when ECS counts, and when its answer comes.
    under_way: Option<(AgentCall, Instant, Instant)>,
    mood: (Mood, Duration),
    calls: u32,
    /// Events that may each cause a call: requests, ends of leases, notices.
    causes: u32,
    answers: BTreeMap<RequestId, u32>,
    asked: RequestId,
    asked_at: BTreeMap<RequestId, Instant>,
    /// Whether ECS wants the task gone, and whether anything else keeps a lease from being given.
    superseded: bool,
    stopping: bool,
    /// Of requests for a lease: whether it was the renewal of one that runs.
    renewals: BTreeMap<RequestId, bool>,
}

impl PlayedEcs {
    fn next_request(&mut self) -> RequestId {
        self.asked += 1;
        self.asked_at.insert(self.asked, self.now);
        self.asked
    }

    fn feed(&mut self, event: LeaseEvent) {
        for command in self.protection.on(event, self.now) {
            match command {
                LeaseCommand::CallAgent(call) => {
                    assert!(self.under_way.is_none(), "one call at a time");
                    if let AgentCall::Protect { minutes } = call {
                        assert!((1..=MAX_MINUTES).contains(&minutes));
                    }
                    self.calls += 1;
                    let answer = self.now + self.mood.1;
                    // At the one end of the call or the other.
                    let early = self.mood.1.as_millis() % 2 == 1;
                    self.under_way = Some((call, if early { self.now } else { answer }, answer));
                }
                LeaseCommand::Answer(request, answer) => {
                    *self.answers.entry(request).or_default() += 1;
                    let waited = self.now - self.asked_at[&request];
                    assert!(waited <= MAX_WAIT, "an answer after {waited:?}");
                    if answer == LeaseAnswer::Superseded {
                        assert!(
                            self.superseded && !self.stopping,
                            "there is another reason, or none"
                        );
                        assert_eq!(
                            self.renewals.get(&request),
                            Some(&false),
                            "a renewal is never refused"
                        );
                    }
                    if let LeaseAnswer::Granted(grant) = answer {
                        let protected = self.protected_until.is_some_and(|until| self.now < until);
                        assert!(protected, "granted only while ECS protects the task");
                        assert!(
                            self.protected_until >= Some(grant.agreement.until),
                            "and for as long as it is told"
                        );
                        let promised = grant.until.min(self.now + LONG_ENOUGH);
                        assert!(
                            grant.agreement.until >= promised,
                            "and until the lease ends, or for an hour to the minute"
                        );
                    }
                }
            }
        }
        if let Some(next) = self.protection.next_timeout() {
            assert!(next > self.now, "what is due is done at once");
        }
    }

    fn land(&mut self, call: AgentCall, from: Instant) {
        let done = match call {
            AgentCall::Protect { minutes } => Some(from + Duration::from_secs(60) * minutes),
            AgentCall::Release => None,
        };
        let answer = match self.mood.0 {
            Mood::Agrees => AGREED,
            Mood::Refuses => failure(),
            Mood::Denies => error(403, "AccessDeniedException"),
            Mood::Fails => error(500, "ServerException"),
            Mood::Loses => silent(),
        };
        if matches!(self.mood.0, Mood::Agrees | Mood::Loses) {
            self.protected_until = done;
        }
        self.under_way = None;
        self.feed(LeaseEvent::AgentAnswered(answer));
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let answer = self.under_way.map(|(_, _, at)| at);
            let next = [self.protection.next_timeout(), answer]
                .into_iter()
                .flatten()
                .min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = next;
            match self.under_way {
                Some((call, from, at)) if at <= next => self.land(call, from),
                _ => {
                    let leases = self.protection.leases.len();
                    self.feed(LeaseEvent::Timeout);
                    self.causes += u32::from(self.protection.leases.len() < leases);
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
        let mut ecs = PlayedEcs {
            protection: Protection::default(),
            now: start,
            protected_until: None,
            under_way: None,
            mood: (Mood::Agrees, Duration::ZERO),
            calls: 0,
            causes: 0,
            answers: BTreeMap::new(),
            asked: 0,
            asked_at: BTreeMap::new(),
            superseded: false,
            stopping: false,
            renewals: BTreeMap::new(),
        };
        for (act, mood, delay_ms) in acts {
            ecs.mood = (mood, Duration::from_millis(delay_ms.into()));
            let name = |n: u8| LeaseName::parse(&format!("job-{n}")).unwrap();
            ecs.causes += 1;
            match act {
                Act::Take(n, s) => {
                    let (request, length) = (ecs.next_request(), Duration::from_secs(s.into()));
                    let runs = ecs.protection.leases.get(&name(n)).is_some_and(|until| ecs.now < *until);
                    ecs.renewals.insert(request, runs);
                    ecs.feed(LeaseEvent::Take { request, name: name(n), length });
                    let answered = ecs.answers.contains_key(&request);
                    let refused = ecs.superseded && !runs;
                    prop_assert!(answered || !refused, "who may have no lease is told at once");
                }
                Act::GiveBack(n) => {
                    let request = ecs.next_request();
                    ecs.feed(LeaseEvent::GiveBack { request, name: name(n) });
                }
                Act::Pass(s) => ecs.pass(Duration::from_secs(s.into())),
                Act::Superseded(superseded) => {
                    ecs.superseded = superseded;
                    let before = ecs.protection.leases.clone();
                    ecs.feed(LeaseEvent::Superseded(superseded));
                    prop_assert_eq!(&ecs.protection.leases, &before, "no lease that runs is touched");
                }
                Act::Notice => {
                    ecs.stopping = true;
                    ecs.feed(LeaseEvent::Notice);
                }
                Act::Drained => {
                    ecs.stopping = true;
                    ecs.feed(LeaseEvent::Drained);
                }
            }
        }
        ecs.pass(MAX_WAIT);
        prop_assert_eq!(ecs.answers.len() as u64, ecs.asked);
        prop_assert!(ecs.answers.values().all(|answers| *answers == 1));
        // ECS comes to its senses; whoever held a lease gives it back.
        ecs.mood = (Mood::Agrees, Duration::from_millis(100));
        ecs.pass(Duration::from_secs(61));
        for (name, _) in ecs.protection.state().leases {
            let request = ecs.next_request();
            ecs.feed(LeaseEvent::GiveBack { request, name });
            ecs.causes += 1;
        }
        ecs.pass(Duration::from_secs(61));
        let protected = ecs.protected_until.is_some_and(|until| ecs.now < until);
        prop_assert!(!protected, "protected without a lease");
        // Each cause one round of tries, and a round a minute by itself at the most.
        let minutes = u32::try_from((ecs.now - start).as_secs() / 60).unwrap();
        let most = (2 * ecs.causes + minutes + 1) * MAX_TRIES;
        prop_assert!(ecs.calls <= most, "{} calls of {most}", ecs.calls);
    }
}
