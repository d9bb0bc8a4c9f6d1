//! How the SDK's calls leave: over our own connections, with TLS where the endpoint wants it.
//!
//! The roots are in the binary, since the image has no files; `AWS_CA_BUNDLE` takes their place, as
//! in every SDK. One connection a call: a shutdown makes a few dozen at most.

use std::io::Read as _;
use std::sync::{Arc, OnceLock};

use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
    http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use http_body_util::Limited;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::sidecar::http::{Network, Stream, Trouble, Way};

/// The longest answer that is asked for, a service with all its events, is some 100 KiB.
/// Parsed it takes many times its text.
const MAX_ANSWER: usize = 256 * 1024;

/// All authorities that Debian trusts, as PEM, are some 220 KB.
const MAX_BUNDLE: u64 = 1024 * 1024;

/// The head of an answer.
const MAX_HEAD: usize = 16 * 1024;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What calls of AWS are sent with.
///
/// `ca_bundle`: the file that `AWS_CA_BUNDLE` names.
pub(super) fn sender(network: Network, ca_bundle: Option<String>) -> Sender {
    Sender {
        network,
        ca_bundle,
        tls: Arc::new(OnceLock::new()),
        settings: None,
    }
}

/// What the SDK's clients send by.
pub(super) fn http_client(sender: Sender) -> SharedHttpClient {
    http_client_fn(move |settings, _| {
        SharedHttpConnector::new(Sender {
            settings: Some(settings.clone()),
            ..sender.clone()
        })
    })
}

#[derive(Clone)]
pub(super) struct Sender {
    network: Network,
    ca_bundle: Option<String>,
    /// Made at the first call over TLS: reading the roots takes memory.
    tls: Arc<OnceLock<Result<TlsConnector, String>>>,
    settings: Option<HttpConnectorSettings>,
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sender")
    }
}

impl HttpConnector for Sender {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let sender = self.clone();
        HttpConnectorFuture::new(async move { sender.send(request).await })
    }
}

impl Sender {
    pub(super) async fn send(self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let mut request = request
            .try_into_http1x()
            .map_err(|why| ConnectorError::user(why.into()))?;
        let uri = request.uri().clone();
        let Some(authority) = uri.authority() else {
            return Err(ConnectorError::user("the endpoint has no host".into()));
        };
        let host = authority.host().trim_matches(['[', ']']);
        let secure = uri.scheme_str() == Some("https");
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let connect_limit = self
            .settings
            .as_ref()
            .and_then(HttpConnectorSettings::connect_timeout);
        let stream = match connect_limit {
            None => self.connect(host, port, secure).await?,
            Some(limit) => timeout(limit, self.connect(host, port, secure))
                .await
                .map_err(|over| ConnectorError::timeout(over.into()))??,
        };
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        // Dropped with the call's own future, so that an abandoned call leaves nothing behind.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        // As it was signed: without the scheme's own port.
        let usual = authority.port_u16() == Some(if secure { 443 } else { 80 });
        let signed = if usual {
            authority.host()
        } else {
            authority.as_str()
        };
        if let Ok(host) = HeaderValue::from_str(signed) {
            request.headers_mut().entry(HOST).or_insert(host);
        }
        request
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        *request.uri_mut() = target.parse().map_err(broken)?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let response = response.map(|body| {
            SdkBody::from_body_1_x(Held {
                body: Limited::new(body, MAX_ANSWER),
                _driver: driver,
            })
        });
        HttpResponse::try_from(response).map_err(broken)
    }

    async fn connect(&self, host: &str, port: u16, secure: bool) -> Result<Box<dyn Stream>, ConnectorError> {
        let (stream, _) = self
            .network
            .stream(host, port, &mut Way::default())
            .await
            .map_err(|why| match why {
                Trouble::ConnectTimeout | Trouble::SlowName(_) | Trouble::TimedOut(_) => {
                    ConnectorError::timeout(why.into())
                }
                other => ConnectorError::io(other.into()),
            })?;
        if !secure {
            return Ok(stream);
        }
        let tls = self.tls.get_or_init(|| tls(self.ca_bundle.as_deref()));
        let tls = tls
            .as_ref()
            .map_err(|why| ConnectorError::user(why.clone().into()))?;
        let name = ServerName::try_from(host.to_owned()).map_err(|why| ConnectorError::user(why.into()))?;
        let stream = tls.connect(name, stream).await.map_err(broken)?;
        Ok(Box::new(stream))
    }
}

fn broken(why: impl Into<BoxError>) -> ConnectorError {
    ConnectorError::io(why.into())
}

fn tls(ca_bundle: Option<&str>) -> Result<TlsConnector, String> {
    let roots = match ca_bundle {
        None => RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => roots_in(path).map_err(|why| {
            format!("AWS_CA_BUNDLE is `{path}`: {why}; expected a file of PEM certificates")
        })?,
    };
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|why| why.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn roots_in(path: &str) -> Result<RootCertStore, String> {
    let in_words = |why: std::io::Error| why.to_string();
    // Asked before it is opened: a pipe would hold the one thread until somebody writes.
    if !std::fs::metadata(path).map_err(in_words)?.is_file() {
        return Err("it is no file".to_owned());
    }
    let mut pem = Vec::new();
    let file = std::fs::File::open(path).map_err(in_words)?;
    file.take(MAX_BUNDLE + 1)
        .read_to_end(&mut pem)
        .map_err(in_words)?;
    if pem.len() as u64 > MAX_BUNDLE {
        return Err(format!("it has more than {MAX_BUNDLE} bytes"));
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|why| why.to_string())?;
        roots.add(certificate).map_err(|why| why.to_string())?;
    }
    if roots.is_empty() {
        return Err("there is no certificate in it".to_owned());
    }
    Ok(roots)
}

/// A body that keeps its connection for as long as it is read.
struct Held<B> {
    body: Limited<B>,
    _driver: JoinSet<Result<(), hyper::Error>>,
}

impl<B> hyper::body::Body for Held<B>
where
    B: hyper::body::Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<B::Data>, BoxError>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_that_is_no_file_of_certificates_is_told_and_holds_nothing_up() {
        let folder = std::env::temp_dir().join(format!("ecs-prestop-bundles-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = folder.join(name);
            std::fs::write(&path, content).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let empty = file("empty.pem", b"");
        let other = file("other.pem", b"not a certificate");
        let broken = file(
            "broken.pem",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        );
        let large = file("large.pem", &[b'x'; 1024 * 1024 + 1]);
        for (path, why) in [
            (empty.as_str(), "no certificate in it"),
            (&other, "no certificate in it"),
            (&broken, ""),
            (&large, "more than 1048576 bytes"),
            ("/dev/zero", "no file"),
            ("/nowhere/ca.pem", "No such file"),
        ] {
            let Err(told) = tls(Some(path)) else {
                panic!("{path} is taken")
            };
            assert!(told.contains("AWS_CA_BUNDLE") && told.contains(path), "{told}");
            assert!(told.contains(why), "{told}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
