//! What can be broken, for a while or for a number of requests.

use std::time::Duration;

use tokio::time::Instant;

use super::query::Query;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultTarget {
    /// Instance metadata.
    Imds,
    /// Task metadata.
    Tmds,
    Aws,
    /// Task protection.
    Agent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Nobody listens.
    Refuse,
    /// Takes the request and never answers.
    Hang,
    /// Answers rightly, after that long.
    Slow(Duration),
    /// Another status.
    Status(u16),
    /// Something that is not HTTP.
    Garbage,
    /// Tears the connection down.
    Reset,
    /// 3 MB of `[`.
    Huge,
    /// ECS refuses: a 200 with a `failure`. Task protection only.
    Failure,
    /// The call is wrong or goes wrong: that status with an `error`. Of ECS's API with a 400, as it answers, and the code that goes with
    /// the status. Task protection and AWS only.
    Error(u16),
}

/// One thing that is broken.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub target: FaultTarget,
    pub kind: FaultKind,
    /// Until when; for good where it is missing.
    pub lasts: Option<Duration>,
    /// For how many requests; for all where it is missing.
    pub requests: Option<u32>,
}

impl Fault {
    pub(super) fn parse(query: Query<'_>) -> Result<Fault, String> {
        let target = match query.get("target") {
            Some("imds") => FaultTarget::Imds,
            Some("tmds") => FaultTarget::Tmds,
            Some("aws") => FaultTarget::Aws,
            Some("agent") => FaultTarget::Agent,
            other => {
                return Err(format!(
                    "target is `{}`: allowed is imds, tmds, aws or agent",
                    other.unwrap_or_default()
                ));
            }
        };
        let requests = query.number("requests")?;
        let lasts = query.get("for").map(|_| query.duration("for", 0)).transpose()?;
        let kind = match query.get("kind") {
            Some("refuse") if requests.is_some() => {
                return Err(
                    "requests is given: refused connections are not requests, so say `for=10s`".to_owned(),
                );
            }
            Some("refuse") if lasts.is_none() => {
                return Err(
                    "for is missing: while it refuses, it cannot be told to stop, so say `for=10s`"
                        .to_owned(),
                );
            }
            Some("refuse") => FaultKind::Refuse,
            Some("hang") => FaultKind::Hang,
            Some("slow") => FaultKind::Slow(query.duration("delay", 2)?),
            Some("status") => FaultKind::Status(status(query)?),
            Some("failure") if target == FaultTarget::Agent => FaultKind::Failure,
            Some("error") if matches!(target, FaultTarget::Agent | FaultTarget::Aws) => {
                FaultKind::Error(status(query)?)
            }
            Some("garbage") => FaultKind::Garbage,
            Some("reset") => FaultKind::Reset,
            Some("huge") => FaultKind::Huge,
            other => {
                return Err(format!(
                    "kind is `{}`: allowed is refuse, hang, slow, status, garbage, reset or huge, for agent failure or error, and for aws error",
                    other.unwrap_or_default()
                ));
            }
        };
        Ok(Fault {
            target,
            kind,
            lasts,
            requests,
        })
    }
}

fn status(query: Query<'_>) -> Result<u16, String> {
    let code = query.number("status")?.unwrap_or(500);
    let code = u16::try_from(code).ok().filter(|code| (100..=999).contains(code));
    code.ok_or_else(|| "status is not of three digits".to_owned())
}

/// At most one fault for each service.
#[derive(Default)]
pub(super) struct Faults(Vec<Running>);

struct Running {
    fault: Fault,
    until: Option<Instant>,
}

impl Faults {
    pub(super) fn set(&mut self, fault: Fault) {
        self.0.retain(|running| running.fault.target != fault.target);
        self.0.push(Running {
            fault,
            until: fault.lasts.map(|lasts| Instant::now() + lasts),
        });
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// What happens to a request now; counts it.
    pub(super) fn hit(&mut self, target: FaultTarget) -> Option<FaultKind> {
        self.expire();
        let running = self.0.iter_mut().find(|running| running.fault.target == target)?;
        if let Some(requests) = &mut running.fault.requests {
            *requests = requests.saturating_sub(1);
        }
        Some(running.fault.kind)
    }

    /// How long connections to any of these are still refused.
    pub(super) fn refusing(&mut self, targets: &[FaultTarget]) -> Option<Duration> {
        self.expire();
        let mut refusing = self.0.iter().filter(|running| {
            running.fault.kind == FaultKind::Refuse && targets.contains(&running.fault.target)
        });
        let until = refusing.next()?.until;
        Some(until.map_or(Duration::MAX, |until| {
            until.saturating_duration_since(Instant::now())
        }))
    }

    pub(super) fn describe(&self) -> Vec<String> {
        self.0
            .iter()
            .map(|running| format!("{:?}", running.fault))
            .collect()
    }

    /// A count that has come to nothing ends with the next request, so that the last one is hit.
    fn expire(&mut self) {
        let now = Instant::now();
        self.0.retain(|running| {
            running.until.is_none_or(|until| now < until) && running.fault.requests != Some(0)
        });
    }
}
