//! What is done to drain: the grammar of a step.
//!
//! It knows nothing of how a step is carried out, nor of where it comes from; see
//! [`plan`](crate::core::plan) for that.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::core::deadline::CEILING;
use crate::core::duration;
use crate::core::url::{HttpUrl, UrlError};

/// A task definition holds at most 10 containers (ECS developer guide, *service quotas*); more
/// steps than that are a mistake, and each costs memory while it runs.
pub const MAX_STEPS: usize = 32;

/// The `for` of a `quiet` step that has none. Chunks of an answer that come half a second apart are
/// common, a whole second is not.
pub const DEFAULT_SILENCE: Duration = Duration::from_secs(1);

/// A jiffy is up to 10 ms, and a look costs some milliseconds: less could not be told from a pause.
pub const MIN_SILENCE: Duration = Duration::from_millis(100);

/// An app with more ports than that is meant as a whole: `quiet` without a port.
pub const MAX_PORTS: usize = 16;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait until the app owes nobody an answer.
    Quiet(QuietStep),
    /// Serve on for that long.
    Sleep(Duration),
    /// An HTTP drain call.
    Call(Call),
    /// Wait until somebody posts to `/drained`.
    Ack,
    /// Send a signal to a container's main process and wait until it has ended.
    Signal(SignalStep),
}

/// Which connections are waited for, and how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuietStep {
    /// Only silence counts, not the direction of the last byte: for protocols whose clients send
    /// unasked.
    pub moves: bool,
    /// Connections accepted on these ports, from inside the task, too; where it is empty, those from
    /// outside on any port.
    pub ports: Vec<u16>,
    /// How long no byte may have moved.
    pub silence: Duration,
    /// The most that the step takes.
    pub within: Option<Duration>,
}

impl Default for QuietStep {
    /// `quiet`, with nothing behind it.
    fn default() -> QuietStep {
        QuietStep {
            moves: false,
            ports: Vec::new(),
            silence: DEFAULT_SILENCE,
            within: None,
        }
    }
}

/// A signal to the main process of a container; needs a PID namespace in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignalStep {
    pub signal: SignalName,
    /// The container's name.
    pub container: String,
    /// Whether the process is expected to end of it.
    pub waits: bool,
}

/// The signals by which programs are told to end or to finish. SIGKILL and SIGSTOP are no way to
/// drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalName {
    Hup,
    Int,
    Quit,
    Usr1,
    Usr2,
    Term,
    Tstp,
    Winch,
}

impl SignalName {
    const ALL: [(SignalName, &str, u32); 8] = [
        (SignalName::Hup, "HUP", 1),
        (SignalName::Int, "INT", 2),
        (SignalName::Quit, "QUIT", 3),
        (SignalName::Usr1, "USR1", 10),
        (SignalName::Usr2, "USR2", 12),
        (SignalName::Term, "TERM", 15),
        (SignalName::Tstp, "TSTP", 20),
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
            Step::Quiet(step) => step.fmt(f),
            Step::Sleep(length) => write!(f, "sleep {length:?}"),
            Step::Call(Call { method, url }) => write!(f, "{} {url}", method.as_str()),
            Step::Ack => f.write_str("ack"),
            Step::Signal(step) => {
                let nowait = if step.waits { "" } else { " nowait" };
                write!(f, "signal {} {}{nowait}", step.signal.as_str(), step.container)
            }
        }
    }
}

/// As it would be written, without what is the default.
impl fmt::Display for QuietStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("quiet")?;
        if self.moves {
            f.write_str(" moves")?;
        }
        for port in &self.ports {
            write!(f, " :{port}")?;
        }
        if self.silence != DEFAULT_SILENCE {
            write!(f, " for {:?}", self.silence)?;
        }
        self.within
            .map_or(Ok(()), |within| write!(f, " within {within:?}"))
    }
}

/// Why a text is not a step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// Nothing between two commas, or an empty label.
    #[error(
        "a step is empty: write `quiet`, `sleep DURATION`, `[METHOD] URL`, `ack` or `signal NAME CONTAINER`"
    )]
    Empty,
    /// The first word is none of those that start a step.
    #[error(
        "`{0}` is not a step: write `quiet`, `sleep DURATION`, `[METHOD] URL` (http://…), `ack` or `signal NAME \
         CONTAINER`"
    )]
    Unknown(String),
    /// A word that a `quiet` step does not have, or has already.
    #[error(
        "`{0}` has no place there: write `quiet [moves] [:PORT …] [for DURATION] [within DURATION]`, ports separated by \
         spaces, such as `quiet :8080 for 2s within 20s`"
    )]
    Quiet(String),
    #[error(
        "`{0}` is not a port: write `:` and a number of 1 to 65535, such as `:8080`; at most {MAX_PORTS} of them"
    )]
    Port(String),
    /// A duration that is none, or beyond its bounds.
    #[error(
        "`{value}` is not a duration for `{word}`: allowed is {least:?} to {most:?}, such as 90s, 1m30s or 1500ms; a \
         bare number is seconds"
    )]
    Duration {
        word: &'static str,
        value: String,
        least: Duration,
        most: Duration,
    },
    /// A `quiet` step that cannot become quiet.
    #[error(
        "`within {within:?}` is over before `for {silence:?}` can be seen: write a longer `within` or a shorter `for`"
    )]
    TooShort {
        /// What bounds the step.
        within: Duration,
        silence: Duration,
    },
    /// A method that no drain call has.
    #[error("`{0}` is not a method of a drain call: GET, POST, PUT, PATCH or DELETE")]
    Method(String),
    /// A URL that cannot be called.
    #[error("`{url}`: {why}")]
    Url { url: String, why: UrlError },
    /// Words behind a complete step.
    #[error("`{0}` stands behind a complete step: steps are separated by commas (a comma in a URL is %2C)")]
    Trailing(String),
    /// A signal that no drain is asked for by.
    #[error("`{0}` is not a signal to drain by: HUP, INT, QUIT, USR1, USR2, TERM, TSTP or WINCH")]
    Signal(String),
    /// A signal for nobody.
    #[error("`{0}` does not say which container: write `signal NAME CONTAINER [nowait]`")]
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
pub(super) fn parse_step(text: &str, own_host: Option<&str>) -> Result<Step, StepError> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (method, url, rest) = match words.as_slice() {
        [] => return Err(StepError::Empty),
        ["ack"] => return Ok(Step::Ack),
        ["ack", more, ..] => return Err(StepError::Trailing((*more).to_owned())),
        ["quiet", rest @ ..] => return parse_quiet(rest).map(Step::Quiet),
        ["sleep", rest @ ..] => return parse_sleep(rest).map(Step::Sleep),
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

fn parse_quiet(words: &[&str]) -> Result<QuietStep, StepError> {
    let mut step = QuietStep::default();
    let mut silence = None;
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        match word {
            "moves" if !step.moves => step.moves = true,
            "for" if silence.is_none() => {
                silence = Some(parse_duration("for", words.next(), MIN_SILENCE)?);
            }
            "within" if step.within.is_none() => {
                step.within = Some(parse_duration("within", words.next(), MIN_SILENCE)?);
            }
            port if port.starts_with(':') => {
                let number = port[1..].parse().ok().filter(|number| *number != 0);
                let number = number.filter(|_| step.ports.len() < MAX_PORTS);
                step.ports
                    .push(number.ok_or_else(|| StepError::Port(port.to_owned()))?);
            }
            other => return Err(StepError::Quiet(other.to_owned())),
        }
    }
    step.ports.sort_unstable();
    step.ports.dedup();
    step.silence = silence.unwrap_or(DEFAULT_SILENCE);
    match step.within {
        Some(within) if within <= step.silence => Err(StepError::TooShort {
            within,
            silence: step.silence,
        }),
        _ => Ok(step),
    }
}

fn parse_sleep(words: &[&str]) -> Result<Duration, StepError> {
    match words {
        [_, more, ..] => Err(StepError::Trailing((*more).to_owned())),
        words => parse_duration("sleep", words.first().copied(), Duration::from_millis(1)),
    }
}

fn parse_duration(word: &'static str, text: Option<&str>, least: Duration) -> Result<Duration, StepError> {
    let text = text.unwrap_or_default();
    duration::parse(text)
        .filter(|length| (least..=CEILING).contains(length))
        .ok_or_else(|| StepError::Duration {
            word,
            value: text.to_owned(),
            least,
            most: CEILING,
        })
}

fn parse_signal(text: &str, words: &[&str], own_name: Option<&str>) -> Result<SignalStep, StepError> {
    let (words, waits) = match words {
        [words @ .., "nowait"] => (words, false),
        words => (words, true),
    };
    let (name, container) = match (words, own_name) {
        ([name, container], _) => (*name, *container),
        ([name], Some(own)) => (*name, own),
        ([_, _, more, ..], _) => return Err(StepError::Trailing((*more).to_owned())),
        _ => return Err(StepError::NoContainer(text.trim().to_owned())),
    };
    Ok(SignalStep {
        signal: SignalName::parse(name).ok_or_else(|| StepError::Signal(name.to_owned()))?,
        container: container.to_owned(),
        waits,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_separated_by_commas_and_post_is_the_default() {
        let steps = parse_steps("http://app/drain, GET http://app:81/stop ,ack,signal SIGQUIT web").unwrap();
        let texts: Vec<String> = steps.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "POST http://app/drain",
                "GET http://app:81/stop",
                "ack",
                "signal QUIT web"
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
            ("signal QUIT nowait", "which container"),
            ("signal QUIT nginx nowait now", "stands behind a complete step"),
            (":8080/drain", "starts with http://"),
            ("sleep", "`` is not a duration for `sleep`"),
            ("sleep soon", "`soon` is not a duration for `sleep`"),
            ("sleep 0", "1ms to 120s"),
            ("sleep 121s", "1ms to 120s"),
            ("sleep 1s 2s", "`2s` stands behind"),
            ("quiet 8080", "`8080` has no place there: write `quiet [moves]"),
            ("quiet moves moves", "`moves` has no place there"),
            ("quiet for 1s for 2s", "`for` has no place there"),
            ("quiet :0", "`:0` is not a port"),
            ("quiet :http", "`:http` is not a port"),
            ("quiet :65536", "`:65536` is not a port"),
            ("quiet for", "`` is not a duration for `for`"),
            ("quiet for 99ms", "100ms to 120s"),
            ("quiet within 3m", "`3m` is not a duration for `within`"),
            ("quiet within 1s", "write a longer `within` or a shorter `for`"),
            ("quiet for 2s within 2s", "is over before `for 2s`"),
        ] {
            let message = parse_steps(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text:?} gave {message:?}, not {part:?}");
        }
        assert_eq!(parse_steps(&["ack"; 33].join(",")), Err(StepError::TooMany));
    }

    #[test]
    fn quiet_sleep_and_signals_that_are_not_waited_for_read_back_as_they_were_written() {
        for (written, canonical) in [
            ("quiet", "quiet"),
            ("quiet for 1s", "quiet"),
            ("quiet  moves", "quiet moves"),
            ("quiet :8443 :8080 :8080", "quiet :8080 :8443"),
            (
                "quiet within 1m30s for 1500ms :80 moves",
                "quiet moves :80 for 1.5s within 90s",
            ),
            ("sleep 15", "sleep 15s"),
            ("sleep 250ms", "sleep 250ms"),
            ("signal SIGTSTP worker nowait", "signal TSTP worker nowait"),
        ] {
            let step: Step = written.parse().unwrap();
            assert_eq!(step.to_string(), canonical, "{written}");
            assert_eq!(canonical.parse::<Step>().unwrap(), step, "{written}");
        }
        let seventeen = (1..=17)
            .map(|port| format!(":{port}"))
            .collect::<Vec<_>>()
            .join(" ");
        assert_eq!(
            format!("quiet {seventeen}").parse::<Step>(),
            Err(StepError::Port(":17".to_owned()))
        );
    }
}
