//! The client of the instance metadata service, version 2 (EC2 user guide, *Use the Instance
//! Metadata Service*): a session token, renewed before its time, and one connection that is kept.
//! Each watched item has a client of its own, since a connection on which one hangs answers no other.
//!
//! It lives with its only user. Nothing it returns is fatal: a 404 is the normal answer, everything
//! else that is not 200 is a reason to be blind for a while, in words that say what to do.

use std::time::{Duration, Instant};

use hyper::header::{DATE, HeaderName};
use jiff::Timestamp;

use crate::core::url::HttpUrl;
use crate::sidecar::clock::now;
use crate::sidecar::http::{Ask, Network, Regular, Trouble};

/// A whole call. The service answers in a few milliseconds, or, beyond its hop limit, never.
const CALL_LIMIT: Duration = Duration::from_secs(1);

/// Longer than any item that is read.
const MAX_ANSWER: usize = 64 * 1024;

/// Six hours, the longest that a token may live.
const TOKEN_TTL: &str = "21600";

/// Tokens are renewed when this part of their time is over.
const RENEW_AFTER: f64 = 0.8;

const TTL_HEADER: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");

/// Why nothing can be seen, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Blind {
    /// Packets vanish: the sign of a hop limit of 1.
    #[error(
        "the instance metadata at {url} does not answer within 1 s. In a container under bridge networking its hop limit \
         must be 2 or more: aws ec2 modify-instance-metadata-options --http-put-response-hop-limit 2. \
         Where there is none, such as on Fargate or a laptop, set PRESTOP_WATCH=none"
    )]
    Silent { url: HttpUrl },
    /// Nobody listens.
    #[error(
        "there is no instance metadata at {url}: {why}. On Fargate and laptops that is so: \
         set PRESTOP_WATCH=none to stop asking"
    )]
    Absent { url: HttpUrl, why: Trouble },
    /// The agent has blocked it for this task (amazon-ecs-cni-plugins, `plugins/eni/engine/nsclosure.go`; agent,
    /// `ecs-agent/netlib/platform/cniconf_linux.go`).
    #[error(
        "the instance metadata at {url} is blocked for this task: its route is a black hole, as the ECS agent makes it \
         for awsvpc tasks where ECS_AWSVPC_BLOCK_IMDS=true, and always on Managed Instances. No notice is seen before \
         SIGTERM: set ECS_AWSVPC_BLOCK_IMDS=false on the instances, or, where SIGTERM is enough or this is Managed \
         Instances, PRESTOP_WATCH=none"
    )]
    Blackhole { url: HttpUrl },
    /// Switched off for the instance or blocked for the task.
    #[error(
        "the instance metadata answers 403: it is switched off for this instance \
         (aws ec2 modify-instance-metadata-options --http-endpoint enabled) or blocked for this task \
         (ECS_AWSVPC_BLOCK_IMDS of the ECS agent)"
    )]
    Forbidden,
    /// A token that was just made is refused.
    #[error("the instance metadata answers 401 to a new token")]
    Unauthorized,
    /// 429, 5xx and so on.
    #[error("the instance metadata answers HTTP {0}; asking again")]
    Status(u16),
    /// The connection broke, or what came is not HTTP.
    #[error("the instance metadata cannot be read: {0}; asking again")]
    Broken(Trouble),
    /// An answer that no documentation knows.
    #[error("the instance metadata item {path} makes no sense: {why}; asking again")]
    Senseless { path: &'static str, why: String },
}

/// A 200.
#[derive(Debug)]
pub struct Reading {
    pub body: String,
    /// The service's own clock.
    pub date: Option<Timestamp>,
}

pub struct InstanceMetadata {
    network: Network,
    endpoint: HttpUrl,
    server: Regular,
    token: Option<Token>,
}

struct Token {
    value: String,
    renew_at: Instant,
}

impl InstanceMetadata {
    /// A client that has asked nothing yet.
    pub fn new(network: Network, endpoint: HttpUrl) -> InstanceMetadata {
        InstanceMetadata {
            endpoint,
            server: Regular::new(network.clone(), CALL_LIMIT, MAX_ANSWER),
            network,
            token: None,
        }
    }

    /// Another client of the same service.
    pub fn with_own_connection(&self) -> InstanceMetadata {
        InstanceMetadata::new(self.network.clone(), self.endpoint.clone())
    }

    /// Asks for an item; `None` where there is none (404), which is what health looks like.
    ///
    /// # Errors
    /// See [`Blind`].
    pub async fn get(&mut self, path: &str) -> Result<Option<Reading>, Blind> {
        let url = self.endpoint.append(path);
        for _ in 0..2 {
            let token = self.token().await?;
            let ask = Ask::get(&url).header(TOKEN_HEADER, &token);
            let answer = self.server.ask(ask).await.map_err(|why| self.blind(why))?;
            match answer.status.as_u16() {
                200 => {
                    let date = answer.headers.get(DATE).and_then(|date| date.to_str().ok());
                    return Ok(Some(Reading {
                        date: date.and_then(|date| Some(jiff::fmt::rfc2822::parse(date).ok()?.timestamp())),
                        body: answer.body,
                    }));
                }
                404 => return Ok(None),
                // The token has run out before its time: another one, once.
                401 => self.token = None,
                403 => return Err(Blind::Forbidden),
                other => return Err(Blind::Status(other)),
            }
        }
        Err(Blind::Unauthorized)
    }

    async fn token(&mut self) -> Result<String, Blind> {
        let now = now();
        if let Some(token) = &self.token
            && now < token.renew_at
        {
            return Ok(token.value.clone());
        }
        let url = self.endpoint.append("/latest/api/token");
        let ask = Ask::new("PUT", &url).header(TTL_HEADER, TOKEN_TTL);
        let answer = self.server.ask(ask).await.map_err(|why| self.blind(why))?;
        match answer.status.as_u16() {
            200 => {}
            403 => return Err(Blind::Forbidden),
            other => return Err(Blind::Status(other)),
        }
        let granted = answer.headers.get(TTL_HEADER).and_then(|ttl| ttl.to_str().ok());
        let ttl: u32 = granted.unwrap_or(TOKEN_TTL).parse().unwrap_or(0);
        let value = answer.body.trim().to_owned();
        self.token = Some(Token {
            value: value.clone(),
            renew_at: now + Duration::from_secs(ttl.into()).mul_f64(RENEW_AFTER),
        });
        Ok(value)
    }

    fn blind(&self, why: Trouble) -> Blind {
        let url = self.endpoint.clone();
        match why {
            Trouble::TimedOut(_) | Trouble::ConnectTimeout => Blind::Silent { url },
            why @ (Trouble::Refused | Trouble::NoName(_) | Trouble::Unreachable(_)) => {
                Blind::Absent { url, why }
            }
            Trouble::Blackhole => Blind::Blackhole { url },
            other => Blind::Broken(other),
        }
    }
}
