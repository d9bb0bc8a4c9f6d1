//! The stand-in's API of Elastic Load Balancing: the Query protocol with answers in XML, and target groups
//! that let their targets go as slowly as real ones.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hyper::StatusCode;
use tokio::time::Instant;

use super::INSTANCE_ID;
use super::aws_api::{AwsApi, Refusal};
use super::definition::{Definition, arn};
use super::reply::{StandInReply, with_type};

/// The default of `deregistration_delay.timeout_seconds` (ELB API reference, *TargetGroupAttribute*).
pub(super) const DELAY: Duration = Duration::from_secs(300);

/// More targets of one request are not read; a task has a handful.
const MAX_TARGETS: usize = 100;

const ELB_VERSION: &str = "2015-12-01";

pub(super) struct PlayedTargetGroup {
    pub(super) container: String,
    pub(super) container_port: u16,
    pub(super) delay: Duration,
    pub(super) targets: Vec<PlayedTarget>,
    /// How many requests were sent to it.
    pub(super) turn: usize,
}

pub(super) struct PlayedTarget {
    /// An IP address under `awsvpc`, else that of the instance.
    pub(super) id: String,
    pub(super) port: u16,
    /// Once it is deregistered; then it is gone.
    pub(super) draining_until: Option<Instant>,
    /// Where a load balancer of this machine finds it.
    pub(super) at: Option<SocketAddr>,
}

impl AwsApi {
    pub(super) fn answer_query(&mut self, task: &Definition, body: &[u8]) -> StandInReply {
        let form = FormBody::parse(body);
        let action = form.get("Action").unwrap_or_default();
        let (status, answer) = match self.elb(task, action, &form) {
            Ok(result) => (
                StatusCode::OK,
                format!(
                    "<{action}Response xmlns=\"{XMLNS}\"><{action}Result>{result}</{action}Result>\
                     <ResponseMetadata><RequestId>{REQUEST_ID}</RequestId></ResponseMetadata></{action}Response>"
                ),
            ),
            Err(Refusal(code, message)) => (
                StatusCode::BAD_REQUEST,
                format!(
                    "<ErrorResponse xmlns=\"{XMLNS}\"><Error><Type>Sender</Type><Code>{code}</Code>\
                     <Message>{message}</Message></Error><RequestId>{REQUEST_ID}</RequestId></ErrorResponse>"
                ),
            ),
        };
        with_type(status, "text/xml", answer)
    }

    /// What stands in the `Result` of the answer.
    fn elb(&mut self, task: &Definition, action: &str, form: &FormBody<'_>) -> Result<String, Refusal> {
        let known = [
            "DeregisterTargets",
            "DescribeTargetHealth",
            "DescribeTargetGroupAttributes",
        ];
        if !known.contains(&action) || form.get("Version") != Some(ELB_VERSION) {
            return Err(Refusal(
                "InvalidAction",
                "Could not find this operation for this version.",
            ));
        }
        let wanted = form.get("TargetGroupArn").unwrap_or_default();
        let mut groups = self.groups.iter_mut();
        let group = groups.find(|group| group.arn() == wanted);
        let group = group.ok_or(Refusal(
            "TargetGroupNotFound",
            "One or more target groups not found",
        ))?;
        group.expire();
        if action == "DescribeTargetGroupAttributes" {
            let delay = group.delay.as_secs();
            return Ok(format!(
                "<Attributes><member><Key>deregistration_delay.timeout_seconds</Key><Value>{delay}</Value></member>\
                 </Attributes>"
            ));
        }
        let targets = form.targets(task.is_awsvpc())?;
        if action == "DeregisterTargets" {
            if targets.is_empty() {
                return Err(Refusal(
                    "ValidationError",
                    "At least one target must be specified",
                ));
            }
            // One that is not there is no error.
            for (id, port) in targets {
                group.deregister(id, port);
            }
            return Ok(String::new());
        }
        let mut members = String::new();
        if targets.is_empty() {
            for target in &group.targets {
                members += &described(&target.id, Some(target.port), target.health());
            }
        }
        for (id, port) in targets {
            let target = group.targets.iter().find(|target| target.is(id, port));
            members += &match target {
                Some(target) => described(id, Some(target.port), target.health()),
                None => described(id, port, ("unused", Some("Target.NotRegistered"))),
            };
        }
        Ok(format!(
            "<TargetHealthDescriptions>{members}</TargetHealthDescriptions>"
        ))
    }
}

impl PlayedTargetGroup {
    pub(super) fn arn(&self) -> String {
        let ecs = arn(&format!(
            "targetgroup/{}-{}/6d0ecf831eec9f09",
            self.container, self.container_port
        ));
        ecs.replacen(":ecs:", ":elasticloadbalancing:", 1)
    }

    /// Whether that changes anything.
    pub(super) fn deregister(&mut self, id: &str, port: Option<u16>) -> bool {
        let mut changed = false;
        for target in &mut self.targets {
            if target.is(id, port) && target.draining_until.is_none() {
                target.draining_until = Some(Instant::now() + self.delay);
                changed = true;
            }
        }
        changed
    }

    /// A target is shown as draining for the whole delay, even where its last connection has long
    /// ended (Application Load Balancers user guide, *Deregistration delay*).
    pub(super) fn expire(&mut self) {
        let now = Instant::now();
        self.targets
            .retain(|target| target.draining_until.is_none_or(|until| now < until));
    }
}

impl PlayedTarget {
    pub(super) fn new(id: &str, port: u16, at: Option<SocketAddr>) -> PlayedTarget {
        PlayedTarget {
            id: id.to_owned(),
            port,
            draining_until: None,
            at,
        }
    }

    fn is(&self, id: &str, port: Option<u16>) -> bool {
        self.id == id && port.is_none_or(|port| self.port == port)
    }

    /// State and reason.
    pub(super) fn health(&self) -> (&'static str, Option<&'static str>) {
        match self.draining_until {
            None => ("healthy", None),
            Some(_) => ("draining", Some("Target.DeregistrationInProgress")),
        }
    }
}

const XMLNS: &str = "http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/";
const REQUEST_ID: &str = "00000000-0000-4000-8000-000000000000";

/// `id` is an address or the instance's, so that nothing in it needs to be escaped.
fn described(id: &str, port: Option<u16>, (state, reason): (&str, Option<&str>)) -> String {
    let reason = reason.map_or(String::new(), |reason| format!("<Reason>{reason}</Reason>"));
    let port = port.map_or(String::new(), |port| format!("<Port>{port}</Port>"));
    format!(
        "<member><Target><Id>{id}</Id>{port}</Target>\
         <TargetHealth><State>{state}</State>{reason}</TargetHealth></member>"
    )
}

/// A form as the Query protocol sends it.
struct FormBody<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> FormBody<'a> {
    fn parse(body: &'a [u8]) -> FormBody<'a> {
        let body = std::str::from_utf8(body).unwrap_or_default();
        let pairs = body.split('&').filter_map(|pair| pair.split_once('='));
        FormBody(
            pairs
                .map(|(name, value)| (decoded(name), decoded(value)))
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        let pair = self.0.iter().find(|(key, _)| key == name);
        pair.map(|(_, value)| value.as_ref())
    }

    /// Ids that are of the group's kind, and their ports.
    fn targets(&self, by_address: bool) -> Result<Vec<(&str, Option<u16>)>, Refusal> {
        let mut targets = Vec::new();
        for n in 1..=MAX_TARGETS {
            let Some(id) = self.get(&format!("Targets.member.{n}.Id")) else {
                break;
            };
            if by_address && id.parse::<IpAddr>().is_err() {
                return Err(Refusal("ValidationError", "A target is not a valid IP address"));
            }
            if !by_address && id != INSTANCE_ID {
                return Err(Refusal(
                    "InvalidTarget",
                    "A target is not an instance in the VPC of the target group",
                ));
            }
            let port = self.get(&format!("Targets.member.{n}.Port"));
            let port = port.map(str::parse).transpose();
            let port = port.map_err(|_| Refusal("ValidationError", "A port is not from 1 to 65535"))?;
            targets.push((id, port));
        }
        Ok(targets)
    }
}

/// Without `%` and `+`; what is not UTF-8 then is no name that anybody knows.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return text.into();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let code = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        rest = tail;
        bytes.push(match (byte, code) {
            (b'%', Some(code)) => {
                rest = &tail[2..];
                code
            }
            (b'+', _) => b' ',
            _ => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}
