//! AWS Cloud Map: taking this task out of the services by whose names others find it.
//!
//! ECS registers a task under its ID and takes it out at about the time of SIGTERM; `DeregisterInstance` is open to
//! whoever has its permission, and ECS registers a running task only once (hashicorp/terraform-provider-aws #4853 and
//! #46930 show both). `UpdateInstanceCustomHealthStatus` would come too late: Cloud Map waits 30 s before it acts on it
//! (API reference, *HealthCheckCustomConfig*).
//!
//! These are three calls of JSON 1.1 by hand: the SDK signs them, its crate for this service is not in the image.

use std::time::{Duration, SystemTime};

use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_ecs::config::endpoint::{DefaultResolver, Params, ResolveEndpoint};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use aws_smithy_runtime_api::client::identity::Identity;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::clients::TRY_LIMIT;
use super::failure::{FailureKind, of_connection, of_service, of_status, persist};
use super::{Aws, Failure};
use crate::config::aws::AwsSettings;
use crate::core::task::RegisteredName;

/// Between two looks at an operation that is under way: Cloud Map changes records within seconds.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// As IAM names it, and signatures.
const SERVICE: &str = "servicediscovery";

/// The version of the API, as its requests name it.
const TARGET: &str = "Route53AutoNaming_v20170314";

const GET_SERVICE: &str = "servicediscovery:GetService";
const DEREGISTER: &str = "servicediscovery:DeregisterInstance";
const GET_OPERATION: &str = "servicediscovery:GetOperation";

impl Aws {
    /// How long clients keep an address that they got by that name: none where it is not in DNS.
    pub(super) async fn time_to_live(&self, service: &str) -> Result<Duration, Failure> {
        let input = format!(r#"{{"Id":{}}}"#, Value::from(self.id_of(service)));
        let answer = self.cloud_map(GET_SERVICE, &input).await?;
        let found = &answer["Service"];
        if !found.is_object() {
            return Err(Failure::other(GET_SERVICE, "the answer has no service"));
        }
        let mut longest = 0;
        for record in found["DnsConfig"]["DnsRecords"].as_array().into_iter().flatten() {
            longest = longest.max(record["TTL"].as_u64().unwrap_or(0));
        }
        Ok(Duration::from_secs(longest))
    }

    /// Takes this task out, and waits until no client keeps its address any longer. The wait comes even if Cloud Map
    /// refused: at a SIGTERM of its own ECS takes the task out as well.
    pub(super) async fn leave_name(&self, name: &RegisteredName) -> Result<(), Failure> {
        let left = self.take_out_of(&name.service).await;
        let ttl = match name.ttl {
            Some(ttl) => ttl,
            None => match self.time_to_live(&name.service).await {
                Ok(ttl) => ttl,
                Err(why) => return left.and(Err(why)),
            },
        };
        sleep(ttl).await;
        left
    }

    async fn take_out_of(&self, service: &str) -> Result<(), Failure> {
        let task = self.task_arn.rsplit('/').next();
        let mut action = DEREGISTER;
        let mut input = format!(
            r#"{{"ServiceId":{},"InstanceId":{}}}"#,
            Value::from(self.id_of(service)),
            Value::from(task)
        );
        loop {
            let answer = match persist(|| self.cloud_map(action, &input)).await {
                // ECS was faster, or the service is no more.
                Err(why)
                    if matches!(
                        why.code(),
                        Some("InstanceNotFound" | "DuplicateRequest" | "ServiceNotFound")
                    ) =>
                {
                    return Ok(());
                }
                answer => answer?,
            };
            if action == DEREGISTER {
                action = GET_OPERATION;
                input = format!(r#"{{"OperationId":{}}}"#, answer["OperationId"]);
                continue;
            }
            let operation = &answer["Operation"];
            match operation["Status"].as_str() {
                Some("SUCCESS") => return Ok(()),
                Some("SUBMITTED" | "PENDING") => sleep(LOOK_AGAIN).await,
                _ => {
                    let why = operation["ErrorMessage"]
                        .as_str()
                        .unwrap_or("the operation failed");
                    return Err(Failure::other(DEREGISTER, why));
                }
            }
        }
    }

    /// The ID of a service, or its ARN where another account shares it (API reference, *DeregisterInstance*).
    fn id_of<'a>(&self, service: &'a str) -> &'a str {
        let account = |arn: &str| arn.split(':').nth(4).map(ToOwned::to_owned);
        match service.rsplit('/').next() {
            Some(id) if account(service) == account(&self.task_arn) => id,
            _ => service,
        }
    }

    async fn cloud_map(&self, action: &'static str, input: &str) -> Result<Value, Failure> {
        let answer = timeout(TRY_LIMIT, self.exchange(action, input)).await;
        let answer = answer.unwrap_or(Err(FailureKind::TimedOut));
        answer.map_err(|kind| Failure { action, kind })
    }

    async fn exchange(&self, action: &str, body: &str) -> Result<Value, FailureKind> {
        let clients = self.clients();
        let credentials = clients.credentials.provide_credentials().await;
        let identity: Identity = credentials.map_err(|_| FailureKind::NoCredentials)?.into();
        let region = self.region();
        let AwsSettings { fips, dual_stack, .. } = self.settings;
        let url = match &self.settings.cloud_map_endpoint {
            Some(url) => url.clone(),
            None => endpoint(region.as_ref(), fips, dual_stack).await?,
        };
        let target = action.replacen(SERVICE, TARGET, 1).replace(':', ".");
        let headers = [
            ("content-type", "application/x-amz-json-1.1"),
            ("x-amz-target", &target),
        ];
        let params = SigningParams::builder()
            .identity(&identity)
            .region(region.as_ref())
            .name(SERVICE)
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .map_err(own_fault)?;
        let signable = SignableRequest::new(
            "POST",
            &url,
            headers.into_iter(),
            SignableBody::Bytes(body.as_bytes()),
        );
        let signed = sign(signable.map_err(own_fault)?, &params.into()).map_err(own_fault)?;
        let (instructions, _) = signed.into_parts();
        let mut request = HttpRequest::new(SdkBody::from(body));
        request.set_method("POST").map_err(own_fault)?;
        request.set_uri(url).map_err(own_fault)?;
        for (name, value) in headers {
            request
                .headers_mut()
                .try_insert(name, value.to_owned())
                .map_err(own_fault)?;
        }
        for (name, value) in instructions.headers() {
            let (name, value) = (name.to_owned(), value.to_owned());
            request.headers_mut().try_insert(name, value).map_err(own_fault)?;
        }
        let answer = clients.sender.clone().send(request).await;
        let answer = answer.map_err(|why| of_connection(Some(&why)))?;
        let status = answer.status().as_u16();
        let text = answer.into_body().collect().await;
        let text = text
            .map_err(|why| FailureKind::Unreachable(why.to_string()))?
            .to_bytes();
        let Ok(said) = serde_json::from_slice::<Value>(&text) else {
            return Err(of_status(status));
        };
        if (200..300).contains(&status) {
            return Ok(said);
        }
        let code = said["__type"].as_str().and_then(|code| code.rsplit('#').next());
        let message = said["message"].as_str().or(said["Message"].as_str());
        Err(of_service(code, message, status))
    }
}

/// Where Cloud Map is asked: in each partition, with FIPS and dual stack, beside ECS.
///
/// # Errors
/// Where there is no such endpoint.
pub async fn endpoint(region: &str, fips: bool, dual_stack: bool) -> Result<String, FailureKind> {
    let params = Params::builder()
        .region(region)
        .use_fips(fips)
        .use_dual_stack(dual_stack)
        .build()
        .map_err(own_fault)?;
    let of_ecs = DefaultResolver::new().resolve_endpoint(&params).await;
    let of_ecs = of_ecs.map_err(own_fault)?;
    Ok(of_ecs.url().replacen("//ecs", "//servicediscovery", 1))
}

fn own_fault(why: impl std::fmt::Display) -> FailureKind {
    FailureKind::Other(why.to_string())
}
