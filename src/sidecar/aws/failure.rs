//! What can come in place of an answer of AWS, in words that say what to do.

use std::error::Error;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_runtime::retries::classifiers::THROTTLING_ERRORS;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::{ConnectorError, SdkError};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use tokio::time::{Instant, sleep};

/// What an error's message says is quoted up to here: it comes from outside.
const MAX_MESSAGE: usize = 300;

/// A call that did not succeed, after all its tries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// As IAM writes it: `ecs:StopTask`.
    pub action: &'static str,
    pub kind: FailureKind,
}

/// What came in place of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The role may not do that. Nothing changes until somebody grants it.
    Denied,
    /// There is no role, or its credentials cannot be had.
    NoCredentials,
    /// The account makes more calls than AWS takes.
    Throttled,
    /// No answer in time.
    TimedOut,
    /// No connection, or it broke off.
    Unreachable(String),
    /// The service's own error: its code and message.
    Refused(String, String),
    /// Not known yet; nothing is wrong.
    Early(&'static str),
    /// Anything else, such as an answer that is none.
    Other(String),
}

/// What a call that fails quickly may cost beyond its own tries. One that hangs has used it up by then.
const PATIENCE: Duration = Duration::from_secs(5);

/// The codes of ECS and Elastic Load Balancing that mean a fault of theirs.
const SERVER_FAULTS: [&str; 3] = ["ServerException", "InternalFailure", "ServiceUnavailable"];

/// Between two rounds of a call's own tries.
const PAUSE: Duration = Duration::from_secs(1);

/// Asks again where that may help, for a while.
pub(super) async fn persist<T, F>(ask: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let until = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Err(why) if why.is_passing() && Instant::now() + PAUSE < until => sleep(PAUSE).await,
            answer => return answer,
        }
    }
}

impl Failure {
    /// Only what depends on the operation's own error is compiled once for each: a dozen of them are in the image.
    pub(super) fn of<E>(action: &'static str, error: &SdkError<E, HttpResponse>) -> Failure
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let kind = match error {
            SdkError::TimeoutError(_) => FailureKind::TimedOut,
            SdkError::DispatchFailure(failure) => of_connection(failure.as_connector_error()),
            SdkError::ServiceError(refused) => {
                let said = refused.err().meta();
                of_service(said.code(), said.message(), refused.raw().status().as_u16())
            }
            SdkError::ResponseError(answer) => of_status(answer.raw().status().as_u16()),
            other => of_cause(other),
        };
        Failure { action, kind }
    }

    pub(super) fn other(action: &'static str, why: impl Into<String>) -> Failure {
        Failure {
            action,
            kind: FailureKind::Other(why.into()),
        }
    }

    pub(super) fn early(action: &'static str, why: &'static str) -> Failure {
        let kind = FailureKind::Early(why);
        Failure { action, kind }
    }

    /// Whether there is nothing to complain of.
    pub fn is_early(&self) -> bool {
        matches!(self.kind, FailureKind::Early(_))
    }

    /// Whether trying again later can help.
    pub fn may_pass(&self) -> bool {
        !matches!(self.kind, FailureKind::Denied)
    }

    /// Whether it may be over in a second.
    fn is_passing(&self) -> bool {
        match &self.kind {
            FailureKind::Denied | FailureKind::NoCredentials | FailureKind::Early(_) => false,
            FailureKind::Refused(code, _) => SERVER_FAULTS.contains(&code.as_str()),
            FailureKind::Throttled
            | FailureKind::TimedOut
            | FailureKind::Unreachable(_)
            | FailureKind::Other(_) => true,
        }
    }

    /// The code of the service's own error.
    pub(super) fn code(&self) -> Option<&str> {
        match &self.kind {
            FailureKind::Refused(code, _) => Some(code),
            _ => None,
        }
    }

    /// In words, with the file that has the policy for this feature.
    pub fn tell(&self, policy: &str) -> String {
        let Failure { action, kind } = self;
        let file = format!("task-definitions/iam/{policy}");
        match kind {
            FailureKind::Denied => format!("{action} is denied: grant it to the task role; {file} has it"),
            FailureKind::NoCredentials => {
                format!(
                    "{action}: there are no credentials; give the task a role with {file} (an instance profile is out \
                     of reach under bridge networking where the hop limit is 1)"
                )
            }
            FailureKind::Throttled => format!("{action}: AWS throttles the calls of this account"),
            FailureKind::TimedOut => format!("{action}: AWS did not answer in time"),
            FailureKind::Unreachable(why) => format!(
                "{action}: AWS cannot be reached ({why}); does the subnet have a way to its endpoint?"
            ),
            FailureKind::Refused(code, message) => format!("{action}: {code}: {message}"),
            FailureKind::Early(why) => format!("{action}: {why}"),
            FailureKind::Other(why) => format!("{action}: {why}"),
        }
    }
}

/// What kept a request from being answered at all.
pub(super) fn of_connection(error: Option<&ConnectorError>) -> FailureKind {
    let causes = chain(error.map(|error| error as _));
    let root = causes.last().map(ToString::to_string).unwrap_or_default();
    match () {
        () if causes.iter().any(|cause| is_of_credentials(*cause)) => FailureKind::NoCredentials,
        () if error.is_some_and(ConnectorError::is_timeout) => FailureKind::TimedOut,
        // Something on this side, such as AWS_CA_BUNDLE.
        () if error.is_some_and(ConnectorError::is_user) => FailureKind::Other(shortened(&root)),
        () => FailureKind::Unreachable(shortened(&root)),
    }
}

/// The error of the SDK's own time-out for credentials has no public type.
fn is_of_credentials(cause: &(dyn Error + 'static)) -> bool {
    cause.is::<CredentialsError>() || cause.to_string().starts_with("identity resolver timed out")
}

/// What a service says, with the status of its answer.
pub(super) fn of_service(code: Option<&str>, message: Option<&str>, status: u16) -> FailureKind {
    match code {
        // ECS and Elastic Load Balancing name it differently.
        Some("AccessDeniedException" | "AccessDenied" | "UnauthorizedOperation") => FailureKind::Denied,
        Some(code) if THROTTLING_ERRORS.contains(&code) => FailureKind::Throttled,
        _ if status == 429 => FailureKind::Throttled,
        Some(code) => FailureKind::Refused(shortened(code), shortened(message.unwrap_or("no message"))),
        None => of_status(status),
    }
}

/// An answer that cannot be read.
pub(super) fn of_status(status: u16) -> FailureKind {
    FailureKind::Other(match status {
        200..300 => "the answer is not what AWS answers".to_owned(),
        _ => format!("HTTP {status}"),
    })
}

fn of_cause(error: &(dyn Error + 'static)) -> FailureKind {
    let causes = chain(Some(error));
    FailureKind::Other(shortened(
        &causes.last().map(ToString::to_string).unwrap_or_default(),
    ))
}

/// An error and what is behind it, the innermost last.
fn chain<'a>(first: Option<&'a (dyn Error + 'static)>) -> Vec<&'a (dyn Error + 'static)> {
    let mut causes = Vec::new();
    let mut next = first;
    while let Some(cause) = next {
        causes.push(cause);
        next = cause.source();
    }
    causes
}

fn shortened(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(MAX_MESSAGE)
        .collect()
}
