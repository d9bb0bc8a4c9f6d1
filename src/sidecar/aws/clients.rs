//! The clients of the SDK: whose credentials, which region and endpoint, and how long a call may take.
//!
//! As aws-config does it for containers, without its files and single sign-on, which no container has.

use std::sync::OnceLock;
use std::time::Duration;

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_ecs::config::{BehaviorVersion, IdentityCache, StalledStreamProtectionConfig};
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_async::time::SystemTimeSource;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::SdkConfig;
use aws_types::region::Region;

use super::connector::{self, Sender};
use crate::config::aws::{AwsKeys, AwsSettings};
use crate::core::task::Identity;
use crate::sidecar::http::Network;

/// Connecting, with TLS: an endpoint in the same region answers in a few milliseconds.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// One try.
pub(super) const TRY_LIMIT: Duration = Duration::from_secs(2);

/// A call with all its tries. The least stop timeout is 2 s, and the deadline cuts everything short.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// Loading credentials: the agent's endpoint is on the host.
const CREDENTIALS_LIMIT: Duration = Duration::from_secs(2);

const TRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What this task may ask of AWS. Its clients are made at the first call.
pub struct Aws {
    pub(super) settings: AwsSettings,
    network: Network,
    /// The cluster, as the task metadata names it.
    pub(super) cluster: String,
    pub(super) task_arn: String,
    /// `web:7`
    pub(super) family: Option<String>,
    clients: OnceLock<AwsClients>,
}

pub(super) struct AwsClients {
    pub(super) ecs: aws_sdk_ecs::Client,
    pub(super) load_balancing: aws_sdk_elasticloadbalancingv2::Client,
    /// For Cloud Map, whose few calls no client of the SDK makes.
    pub(super) sender: Sender,
    pub(super) credentials: SharedCredentialsProvider,
}

impl Aws {
    /// `None` where the task metadata does not say which task this is.
    pub fn new(settings: AwsSettings, network: Network, identity: &Identity) -> Option<Aws> {
        Some(Aws {
            settings,
            network,
            cluster: identity.cluster.clone()?,
            task_arn: identity.task_arn.clone()?,
            family: identity.family.clone(),
            clients: OnceLock::new(),
        })
    }

    pub(super) fn clients(&self) -> &AwsClients {
        self.clients.get_or_init(|| self.make_clients())
    }

    /// `arn:aws:ecs:REGION:…`, where no variable says it.
    pub(super) fn region(&self) -> Region {
        let of_arn = self.task_arn.split(':').nth(3).unwrap_or_default();
        Region::new(self.settings.region.clone().unwrap_or_else(|| of_arn.to_owned()))
    }

    fn make_clients(&self) -> AwsClients {
        let sender = connector::sender(self.network.clone(), self.settings.ca_bundle.clone());
        let http = connector::http_client(sender.clone());
        let region = self.region();
        let provider = ProviderConfig::without_region()
            .with_region(Some(region.clone()))
            .with_http_client(http.clone())
            .with_sleep_impl(TokioSleep::new());
        let credentials = match &self.settings.keys {
            Some(AwsKeys { id, secret, session }) => SharedCredentialsProvider::new(Credentials::new(
                id,
                secret,
                session.clone(),
                None,
                "environment",
            )),
            None => SharedCredentialsProvider::new(
                CredentialsProviderChain::first_try(
                    "task role",
                    EcsCredentialsProvider::builder().configure(&provider).build(),
                )
                .or_else(
                    "instance profile",
                    ImdsCredentialsProvider::builder().configure(&provider).build(),
                ),
            ),
        };
        let mut config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(region)
            .credentials_provider(credentials.clone())
            .sleep_impl(TokioSleep::new())
            .time_source(SystemTimeSource::new())
            .retry_config(
                RetryConfig::standard()
                    .with_max_attempts(TRIES)
                    .with_initial_backoff(FIRST_PAUSE)
                    .with_max_backoff(LONGEST_PAUSE),
            )
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(CONNECT_LIMIT)
                    .operation_attempt_timeout(TRY_LIMIT)
                    .operation_timeout(CALL_LIMIT)
                    .build(),
            )
            // Answers are small, and each try has its limit.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .identity_cache(IdentityCache::lazy().load_timeout(CREDENTIALS_LIMIT).build())
            .http_client(http);
        config.set_use_fips(Some(self.settings.fips));
        config.set_use_dual_stack(Some(self.settings.dual_stack));
        let config = config.build();
        let mut ecs = aws_sdk_ecs::config::Builder::from(&config);
        ecs.set_endpoint_url(self.settings.ecs_endpoint.clone());
        let mut load_balancing = aws_sdk_elasticloadbalancingv2::config::Builder::from(&config);
        load_balancing.set_endpoint_url(self.settings.load_balancing_endpoint.clone());
        AwsClients {
            ecs: aws_sdk_ecs::Client::from_conf(ecs.build()),
            load_balancing: aws_sdk_elasticloadbalancingv2::Client::from_conf(load_balancing.build()),
            sender,
            credentials,
        }
    }
}
