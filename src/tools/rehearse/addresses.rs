//! Where everybody is reached, and that nobody else is there.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::options::Options;
use super::scenario::Scenario;
use super::stage::{in_words, milliseconds};
use crate::core::url::HttpUrl;

/// What a connection to a port of this machine takes at most, where somebody listens.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// Where everybody is reached.
pub(super) struct Urls {
    pub(super) quick: Option<HttpUrl>,
    pub(super) slow: Option<HttpUrl>,
    /// What answers once the app is up.
    pub(super) ready: Option<HttpUrl>,
    pub(super) sidecar_ready: HttpUrl,
    /// The stand-in.
    pub(super) metadata: String,
}

impl Urls {
    pub(super) fn new(
        options: &Options,
        scenario: &Scenario,
        metadata: &str,
        app_port: u16,
        sidecar: SocketAddr,
    ) -> Result<Urls, String> {
        let metadata = metadata.to_owned();
        let sidecar_ready = at(sidecar, "/ready")?;
        if let Some(own) = &options.own {
            return Ok(Urls {
                quick: own.url.clone(),
                slow: None,
                ready: own.ready.clone().or(own.url.clone()),
                sidecar_ready,
                metadata,
            });
        }
        let app = at(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), app_port), "/")?;
        Ok(Urls {
            slow: Some(app.with_target(&format!("/slow/{}", milliseconds(scenario.slow_request)))),
            ready: scenario.app.serves().then(|| app.with_target("/healthz")),
            quick: Some(app),
            sidecar_ready,
            metadata,
        })
    }
}

/// Whoever listens there already would be taken for the app.
pub(super) async fn refuse_if_taken(host: &str, port: u16, what: &str) -> Result<(), String> {
    let connected = timeout(CONNECT_LIMIT, TcpStream::connect((host, port))).await;
    match connected {
        Ok(Ok(_)) => Err(format!(
            "something listens on {host}:{port} already ({what}): end it first, or the rehearsal would speak to it and \
             not to what it starts"
        )),
        _ => Ok(()),
    }
}

pub(super) fn at(address: SocketAddr, target: &str) -> Result<HttpUrl, String> {
    format!("http://{address}{target}").parse().map_err(in_words)
}

/// A port that was free a moment ago.
pub(super) async fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(in_words)?;
    Ok(listener.local_addr().map_err(in_words)?.port())
}
