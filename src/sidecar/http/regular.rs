//! Asking one server again and again.

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::HeaderMap;
use tokio::time::timeout;

use super::{Ask, Connection, Network, Trouble, Way, text};

/// A server that is asked again and again over one connection, each time for a small answer within
/// a time limit.
pub struct Regular {
    network: Network,
    connection: Option<Connection>,
    limit: Duration,
    max_body: usize,
}

/// A small answer, complete.
#[derive(Clone, Debug)]
pub struct Whole {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Regular {
    /// `limit` is for a whole call, `max_body` for its answer.
    pub fn new(network: Network, limit: Duration, max_body: usize) -> Regular {
        Regular {
            network,
            connection: None,
            limit,
            max_body,
        }
    }

    /// Asks over the kept connection, or a new one where it has gone.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub async fn ask(&mut self, ask: Ask<'_>) -> Result<Whole, Trouble> {
        // Taken out, so that a call that is dropped or fails leaves no half-used connection.
        let kept = self.connection.take();
        let limit = self.limit;
        let (whole, connection) = timeout(limit, self.ask_over(kept, ask))
            .await
            .map_err(|_| Trouble::TimedOut(limit))??;
        self.connection = Some(connection);
        Ok(whole)
    }

    async fn ask_over(&self, kept: Option<Connection>, ask: Ask<'_>) -> Result<(Whole, Connection), Trouble> {
        let mut kept = kept;
        if let Some(connection) = &mut kept
            && connection.sender.ready().await.is_err()
        {
            kept = None;
        }
        let mut connection = match kept {
            Some(connection) => connection,
            None => {
                let way = &mut Way::default();
                let (stream, _) = self.network.stream(ask.url.host(), ask.url.port(), way).await?;
                Connection::open(stream).await?
            }
        };
        let mut response = connection.send(ask).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = text(response.body_mut(), self.max_body).await?;
        let whole = Whole {
            status,
            headers,
            body,
        };
        Ok((whole, connection))
    }
}
