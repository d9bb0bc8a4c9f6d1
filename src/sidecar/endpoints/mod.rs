//! The local endpoints: how containers of the task and their health checks talk to the sidecar.
//!
//! They answer from the latest status snapshot and pass what they are told on to the mailbox; they
//! decide nothing. `server` bounds what clients can cost and who may ask, `routes` answers, [`health`]
//! is the client of `ecs-prestop health`.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use crate::core::url::HttpUrl;
use crate::sidecar::drain::quiet::ConnectionView;
use crate::sidecar::http::Network;
use crate::sidecar::mailbox::Mailbox;
use crate::sidecar::protection::ProtectionHandle;
use crate::sidecar::status::Status;
use crate::sidecar::telemetry::Telemetry;

pub mod health;
mod routes;
mod server;

pub use server::serve;

/// What the endpoints know and whom they tell.
#[derive(Clone)]
pub struct Endpoints {
    /// The latest snapshot.
    pub status: watch::Receiver<Arc<Status>>,
    /// Where manual notices and acknowledgements go.
    pub mailbox: Mailbox,
    /// Required by `POST /drain`.
    pub token: Option<Arc<str>>,
    /// What `/ready` asks the app.
    pub ready_url: Option<HttpUrl>,
    pub network: Network,
    /// Where leases are had, if anywhere.
    pub protect: Option<ProtectionHandle>,
    /// For the connections that owe an answer.
    pub view: ConnectionView,
    /// For the count of dropped lines.
    pub telemetry: Telemetry,
    /// Where it is told until when somebody waits for `superseded`; missing where that is not watched.
    pub questions: Option<watch::Sender<Option<Instant>>>,
}
