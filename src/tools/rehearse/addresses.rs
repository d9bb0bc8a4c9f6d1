//! Where everybody is reached, and that nobody else is there.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::options::{Listen, Options};
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

/// A port of loopback that nobody else gets: a socket that never listens stays bound to it. A server that sets
/// `SO_REUSEADDR`, as the sidecar and the sample app do, can listen there all the same (ip(7), socket(7)).
pub(super) struct HeldPort {
    pub(super) address: SocketAddr,
    _holder: TcpSocket,
}

impl HeldPort {
    /// Any that is free.
    pub(super) fn any() -> Result<HeldPort, String> {
        HeldPort::at(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)).map_err(in_words)
    }

    /// That very one, unless anybody has it, another rehearsal's holder among them.
    fn at(address: SocketAddr) -> io::Result<HeldPort> {
        let holder = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        holder.bind(address)?;
        // Only now: with it, two holders could be bound to one port.
        holder.set_reuseaddr(true)?;
        Ok(HeldPort {
            address: holder.local_addr()?,
            _holder: holder,
        })
    }
}

/// Where the sidecar of this rehearsal listens, and what keeps the address for it.
pub(super) async fn for_sidecar(options: &Options) -> Result<(SocketAddr, Option<HeldPort>), String> {
    let fixed = match options.listen() {
        Listen::At(address) => address,
        Listen::Any => {
            let held = HeldPort::any()?;
            return Ok((held.address, Some(held)));
        }
        Listen::Preferably(address) => {
            let held = HeldPort::at(address).or_else(|_| HeldPort::any())?;
            return Ok((held.address, Some(held)));
        }
    };
    if options.own.is_some() {
        refuse_if_taken(&fixed.ip().to_string(), fixed.port(), "PRESTOP_LISTEN").await?;
    }
    Ok((fixed, None))
}
