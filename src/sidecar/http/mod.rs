//! The one small HTTP client that metadata and drain calls share, with its limits.
//!
//! HTTP/1.1 without TLS, since every server it talks to is inside the task or on the host's
//! link-local addresses. It does not follow redirects, does not pool, and tells apart the ways in
//! which a call can fail, because the contract gives each of them a meaning. It knows nothing of
//! what a call is for.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::core::url::HttpUrl;

pub use regular::{Regular, Whole};

/// Finding the address and connecting. A container of the task answers within a millisecond; two
/// seconds are for a slow DNS server and leave room for another try within the least stop timeout.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// The head of an answer: more than any server sends, and a bound for one that never stops.
const MAX_HEAD: usize = 16 * 1024;

/// More addresses of one name are not tried.
const MAX_ADDRESSES: usize = 8;

/// A connected stream, real or in memory.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Names and connections: the system's in production, in-memory ones under a paused clock.
pub trait Dial: Send + Sync {
    /// Looks a name up.
    fn lookup(&self, host: String) -> Later<io::Result<Vec<IpAddr>>>;
    fn connect(&self, address: SocketAddr) -> Later<io::Result<Box<dyn Stream>>>;
}

/// The network as calls see it; cheap to clone.
#[derive(Clone)]
pub struct Network(Arc<dyn Dial>);

/// What can come in place of an answer.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Nobody listens on that port.
    #[error("connection refused")]
    Refused,
    /// DNS knows no such name, or does not answer.
    #[error("{0}")]
    NoName(String),
    /// DNS has not answered yet; the lookup goes on.
    #[error("the name `{0}` is still being looked up")]
    SlowName(String),
    /// No way there, or no means to go: no route, no file descriptors.
    #[error("cannot connect ({0})")]
    Unreachable(String),
    /// The route there is a black hole, which nobody has by chance.
    #[error("its route is a black hole")]
    Blackhole,
    /// No connection within [`CONNECT_LIMIT`].
    #[error("no connection within {} s", CONNECT_LIMIT.as_secs())]
    ConnectTimeout,
    /// The connection ended before the answer did.
    #[error("the connection was closed before the answer was complete")]
    Closed,
    /// What came is not HTTP/1.1, or its head is too large.
    #[error("the answer is not HTTP ({0})")]
    NotHttp(String),
    /// The body exceeds what the caller reads.
    #[error("the answer is longer than {0} bytes")]
    TooLarge(usize),
    /// The caller's own limit has passed.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

/// A request that is about to be sent.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// As it stands in the request line.
    pub method: &'static str,
    pub url: &'a HttpUrl,
    /// What goes with it; `Host` is added where it is not among them.
    pub headers: HeaderMap,
    /// Empty for none.
    pub body: String,
}

impl<'a> Ask<'a> {
    /// A GET without headers.
    pub fn get(url: &'a HttpUrl) -> Ask<'a> {
        Ask::new("GET", url)
    }

    /// Another method.
    pub fn new(method: &'static str, url: &'a HttpUrl) -> Ask<'a> {
        Ask {
            method,
            url,
            headers: HeaderMap::new(),
            body: String::new(),
        }
    }

    /// With a header. A value that no header can hold is left out: it can only come from outside.
    pub fn header(mut self, name: HeaderName, value: &str) -> Ask<'a> {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }
}

/// The way to one server, kept for as long as it is asked: a name that takes longer to look up than one call
/// waits for it is not looked up anew by the next.
#[derive(Default)]
pub struct Way {
    /// The addresses of the host; empty where DNS is asked.
    known: Vec<IpAddr>,
    lookup: Option<Later<io::Result<Vec<IpAddr>>>>,
}

impl Way {
    /// The way to a host whose addresses the caller knows; with none DNS is asked.
    pub fn known(addresses: &[IpAddr]) -> Way {
        Way {
            known: addresses.to_vec(),
            lookup: None,
        }
    }

    /// From now on only that address is asked.
    pub fn pin(&mut self, address: IpAddr) {
        *self = Way::known(&[address]);
    }
}

/// The head of an answer has arrived; its body may still be coming.
pub struct Answer {
    response: Response<Incoming>,
    peer: SocketAddr,
    /// Holds the connection until the body has ended.
    _connection: Connection,
}

impl Answer {
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// A header as text, where it is there and is text.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The body, complete.
    ///
    /// # Errors
    /// Where it is longer than `limit` bytes or breaks off.
    pub async fn text(mut self, limit: usize) -> Result<String, Trouble> {
        text(self.response.body_mut(), limit).await
    }

    /// Waits until the body has ended, however long that takes, and keeps none of it.
    ///
    /// # Errors
    /// Where it breaks off.
    pub async fn finish(mut self) -> Result<(), Trouble> {
        while chunk(self.response.body_mut()).await?.is_some() {}
        Ok(())
    }
}

async fn text(body: &mut Incoming, limit: usize) -> Result<String, Trouble> {
    let mut kept = Vec::new();
    while let Some(chunk) = chunk(body).await? {
        if kept.len() + chunk.len() > limit {
            return Err(Trouble::TooLarge(limit));
        }
        kept.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8_lossy(&kept).into_owned())
}

async fn chunk(body: &mut Incoming) -> Result<Option<Bytes>, Trouble> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|why| trouble(&why))?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

impl Network {
    /// Sockets and the system's resolver.
    ///
    /// `lookups`: how many names may be looked up at once. A resolver that hangs holds a thread for
    /// each, and not more.
    pub fn system(lookups: usize) -> Network {
        let lookups = Arc::new(Semaphore::new(lookups));
        Network(Arc::new(System { lookups }))
    }

    /// Another one, for tests.
    pub fn new(dial: impl Dial + 'static) -> Network {
        Network(Arc::new(dial))
    }

    /// Connects, asks, and returns once the head of the answer is there. There is no time limit
    /// after connecting: dropping the future ends the call.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub async fn ask(&self, ask: Ask<'_>, way: &mut Way) -> Result<Answer, Trouble> {
        let (stream, peer) = self.stream(ask.url.host(), ask.url.port(), way).await?;
        let mut connection = Connection::open(stream).await?;
        let ask = ask.header(CONNECTION, "close");
        let response = connection.send(ask).await?;
        Ok(Answer {
            response,
            peer,
            _connection: connection,
        })
    }

    /// Connects to a host, and tells by which of its addresses.
    ///
    /// # Errors
    /// See [`Trouble`]. With several addresses [`Trouble::Refused`] means that each refused which this host
    /// can use: an app with a full accept queue at 127.0.0.1 is not refusing because nobody listens at ::1.
    pub async fn stream(
        &self,
        host: &str,
        port: u16,
        way: &mut Way,
    ) -> Result<(Box<dyn Stream>, SocketAddr), Trouble> {
        let addresses = self.addresses(host, way).await?;
        // One that swallows packets must not use up the time of the next.
        let share = CONNECT_LIMIT / u32::try_from(addresses.len().max(1)).unwrap_or(1);
        let mut failed = Failed::NoAddress;
        for ip in addresses {
            let address = SocketAddr::new(ip, port);
            failed = failed.max(match timeout(share, self.0.connect(address)).await {
                Ok(Ok(stream)) => return Ok((stream, address)),
                Ok(Err(why)) => Failed::of(&why),
                Err(_) => Failed::Silent,
            });
        }
        Err(failed.trouble(host))
    }

    /// Whether that address refuses connections: nobody listens there any more.
    pub async fn refuses(&self, address: SocketAddr) -> bool {
        let connected = timeout(CONNECT_LIMIT, self.0.connect(address)).await;
        matches!(connected, Ok(Err(why)) if matches!(Failed::of(&why), Failed::Refused))
    }

    async fn addresses(&self, host: &str, way: &mut Way) -> Result<Vec<IpAddr>, Trouble> {
        if !way.known.is_empty() {
            return Ok(way.known.clone());
        }
        if let Ok(ip) = host.parse() {
            return Ok(vec![ip]);
        }
        if host == "localhost" {
            // Never anything else (RFC 6761), so that no resolver can delay it.
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let lookup = way.lookup.get_or_insert_with(|| self.0.lookup(host.to_owned()));
        let Ok(found) = timeout(CONNECT_LIMIT, lookup).await else {
            return Err(Trouble::SlowName(host.to_owned()));
        };
        way.lookup = None;
        let mut found =
            found.map_err(|why| Trouble::NoName(format!("the name `{host}` is not known: {why}")))?;
        found.truncate(MAX_ADDRESSES);
        Ok(found)
    }
}

/// Why no address of a host could be connected to. Of several the greatest counts: whoever may be there
/// outranks those who are not.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Failed {
    /// The name has none.
    NoAddress,
    /// This host has no way to use such an address, as in a namespace without IPv6.
    Unusable(String),
    Refused,
    /// Blocked by its route.
    Blackhole,
    /// No way there, or no means to go.
    Unreachable(String),
    /// Taken, and reset at once.
    Reset,
    /// The time is over; a full accept queue looks like this.
    Silent,
}

impl Failed {
    fn of(why: &io::Error) -> Failed {
        match why.kind() {
            io::ErrorKind::TimedOut => Failed::Silent,
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Failed::Reset,
            io::ErrorKind::ConnectionRefused => Failed::Refused,
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::NetworkUnreachable => {
                Failed::Unusable(why.to_string())
            }
            _ if why.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) => {
                Failed::Unusable(why.to_string())
            }
            // ip-route(8): packets are dropped, and local senders get EINVAL.
            _ if why.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => Failed::Blackhole,
            _ => Failed::Unreachable(why.to_string()),
        }
    }

    fn trouble(self, host: &str) -> Trouble {
        match self {
            Failed::NoAddress => Trouble::NoName(format!("the name `{host}` has no address")),
            Failed::Unusable(why) | Failed::Unreachable(why) => Trouble::Unreachable(why),
            Failed::Refused => Trouble::Refused,
            Failed::Blackhole => Trouble::Blackhole,
            Failed::Reset => Trouble::Closed,
            Failed::Silent => Trouble::ConnectTimeout,
        }
    }
}

/// A connection that serves one call after the other.
struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    /// Drives the connection; aborted when dropped.
    _driver: JoinSet<()>,
}

impl Connection {
    async fn open(stream: Box<dyn Stream>) -> Result<Connection, Trouble> {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|why| trouble(&why))?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // Its errors reach the caller through the sender and the body.
            let _ = connection.await;
        });
        Ok(Connection {
            sender,
            _driver: driver,
        })
    }

    async fn send(&mut self, ask: Ask<'_>) -> Result<Response<Incoming>, Trouble> {
        let mut request = Request::new(Full::new(Bytes::from(ask.body)));
        *request.method_mut() = ask
            .method
            .parse()
            .map_err(|_| Trouble::NotHttp(ask.method.to_owned()))?;
        *request.uri_mut() = ask
            .url
            .target()
            .parse()
            .map_err(|_| Trouble::NotHttp(ask.url.to_string()))?;
        *request.headers_mut() = ask.headers;
        if let Ok(host) = HeaderValue::from_str(&ask.url.authority()) {
            request.headers_mut().entry(HOST).or_insert(host);
        }
        self.sender
            .send_request(request)
            .await
            .map_err(|why| trouble(&why))
    }
}

struct System {
    lookups: Arc<Semaphore>,
}

impl Dial for System {
    /// In a thread of its own, since the system's resolver blocks; it holds its place until it is
    /// done, even where nobody waits for it any more.
    fn lookup(&self, host: String) -> Later<io::Result<Vec<IpAddr>>> {
        let lookups = Arc::clone(&self.lookups);
        Box::pin(async move {
            let place = lookups.acquire_owned().await.map_err(io::Error::other)?;
            let (found, answer) = oneshot::channel();
            std::thread::Builder::new()
                .name("lookup".to_owned())
                .spawn(move || {
                    let addresses = (host.as_str(), 0).to_socket_addrs();
                    // Nobody waits any more where that fails.
                    let _ = found.send(addresses.map(|all| all.map(|address| address.ip()).collect()));
                    drop(place);
                })?;
            answer.await.map_err(io::Error::other)?
        })
    }

    fn connect(&self, address: SocketAddr) -> Later<io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

fn trouble(why: &hyper::Error) -> Trouble {
    let cause = std::error::Error::source(why).and_then(|cause| cause.downcast_ref::<io::Error>());
    // What a decoder of chunks says of nonsense.
    let nonsense = cause.is_some_and(|cause| {
        matches!(
            cause.kind(),
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData
        )
    });
    if why.is_parse() || why.is_user() || nonsense {
        Trouble::NotHttp(cause.map_or_else(|| why.to_string(), ToString::to_string))
    } else {
        Trouble::Closed
    }
}

mod regular;
