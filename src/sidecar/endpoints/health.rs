//! The client of `/healthz`: what `ecs-prestop health` does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::time::timeout;

use crate::core::url::HttpUrl;
use crate::sidecar::http::{Ask, Network, Way};

/// An ECS health check is given 5 s by default; a sidecar that needs two is not healthy.
const LIMIT: Duration = Duration::from_millis(1500);

/// Longer than any reason.
const MAX_ANSWER: usize = 4 * 1024;

/// Asks the sidecar of this container how it is.
///
/// # Errors
/// The reason in words.
pub async fn ask(listen: SocketAddr) -> Result<(), String> {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let address = SocketAddr::new(ip, listen.port());
    let url: HttpUrl = format!("http://{address}/healthz")
        .parse()
        .map_err(|why| format!("{address}: {why}"))?;
    timeout(LIMIT, async {
        let answer = Network::system(1).ask(Ask::get(&url), &mut Way::default()).await;
        let answer = answer.map_err(|why| format!("no sidecar answers at {address}: {why}"))?;
        let status = answer.status();
        let body = answer.text(MAX_ANSWER).await.map_err(|why| why.to_string())?;
        if status.is_success() {
            Ok(())
        } else {
            Err(body.trim().to_owned())
        }
    })
    .await
    .unwrap_or_else(|_| Err(format!("the sidecar at {address} does not answer within 1.5 s")))
}
