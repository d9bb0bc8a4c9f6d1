//! What the environment says to every SDK of AWS, and so to this program's AWS side.

use std::fmt;

/// The environment variables that the SDKs have in common (AWS SDKs and Tools reference guide).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AwsSettings {
    /// `AWS_REGION`, or `AWS_DEFAULT_REGION`.
    pub region: Option<String>,
    /// `AWS_ENDPOINT_URL_ECS`, or `AWS_ENDPOINT_URL`.
    pub ecs_endpoint: Option<String>,
    /// `AWS_ENDPOINT_URL_ELASTIC_LOAD_BALANCING_V2`, or `AWS_ENDPOINT_URL`.
    pub load_balancing_endpoint: Option<String>,
    /// `AWS_ENDPOINT_URL_SERVICEDISCOVERY`, or `AWS_ENDPOINT_URL`.
    pub cloud_map_endpoint: Option<String>,
    /// `AWS_USE_FIPS_ENDPOINT`
    pub fips: bool,
    /// `AWS_USE_DUALSTACK_ENDPOINT`
    pub dual_stack: bool,
    pub ca_bundle: Option<String>,
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`.
    pub keys: Option<AwsKeys>,
    /// Whether the environment says where credentials come from: a task role, or keys.
    pub has_credentials: bool,
}

impl AwsSettings {
    /// Reads them; an empty one counts as not given.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> AwsSettings {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let yes = |name: &str| given(name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let endpoint = |service: &str| {
            let own = given(&format!("AWS_ENDPOINT_URL_{service}"));
            let any = own.or_else(|| given("AWS_ENDPOINT_URL"));
            any.filter(|_| !yes("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"))
        };
        let role = [
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        ];
        let keys = given("AWS_ACCESS_KEY_ID").zip(given("AWS_SECRET_ACCESS_KEY"));
        let keys = keys.map(|(id, secret)| AwsKeys {
            id,
            secret,
            session: given("AWS_SESSION_TOKEN"),
        });
        AwsSettings {
            region: given("AWS_REGION").or_else(|| given("AWS_DEFAULT_REGION")),
            ecs_endpoint: endpoint("ECS"),
            load_balancing_endpoint: endpoint("ELASTIC_LOAD_BALANCING_V2"),
            cloud_map_endpoint: endpoint("SERVICEDISCOVERY"),
            fips: yes("AWS_USE_FIPS_ENDPOINT"),
            dual_stack: yes("AWS_USE_DUALSTACK_ENDPOINT"),
            ca_bundle: given("AWS_CA_BUNDLE"),
            has_credentials: keys.is_some() || role.iter().any(|name| given(name).is_some()),
            keys,
        }
    }
}

/// Keys of the environment; hidden where they are printed.
#[derive(Clone, PartialEq, Eq)]
pub struct AwsKeys {
    /// `AWS_ACCESS_KEY_ID`
    pub id: String,
    /// `AWS_SECRET_ACCESS_KEY`
    pub secret: String,
    /// `AWS_SESSION_TOKEN`
    pub session: Option<String>,
}

impl fmt::Debug for AwsKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AwsKeys(…)")
    }
}
