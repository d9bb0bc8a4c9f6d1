//! The URLs that the sidecar calls: plain HTTP, a host, a port, a path.
//!
//! Parsed once, at the edge; whoever holds an [`HttpUrl`] can dial it without further checks. Knows
//! nothing of what the host's name means: a container of the task or a name for DNS.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use fluent_uri::pct_enc::EStr;
use fluent_uri::{Uri, UriRef};

/// Many servers take no longer ones; it also bounds what a `Location` can make the sidecar keep.
const MAX_LENGTH: usize = 2048;

/// An `http` URL with a host, a port and a path that is never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl {
    host: String,
    port: u16,
    target: String,
}

/// Why a text is not such a URL, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// TLS inside the task would need certificates for loopback.
    #[error("https is not spoken here: the call stays inside the task, so write http://")]
    Https,
    /// Another scheme, or none.
    #[error("a URL starts with http://")]
    NotHttp,
    /// A password in a URL ends up in logs.
    #[error("user and password do not belong in the URL: use PRESTOP_DRAIN_TOKEN")]
    UserInfo,
    /// Nothing to dial.
    #[error("the host is missing")]
    NoHost,
    /// Longer than anybody writes, or sends in good faith.
    #[error("longer than {MAX_LENGTH} characters")]
    TooLong,
    /// Not a URL at all.
    #[error("not a valid URL: {0}")]
    Invalid(String),
}

impl HttpUrl {
    /// The host as DNS or the task knows it; an IPv6 address has no brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 80 where the text named none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query, as they stand in the request line.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The host, where it is an address already.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// What the `Host` header says.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The same server, another path (which starts with a slash).
    pub fn with_target(&self, target: &str) -> HttpUrl {
        HttpUrl {
            target: target.to_owned(),
            ..self.clone()
        }
    }

    /// This URL with `suffix` behind its path, as in `$ECS_CONTAINER_METADATA_URI_V4/task`.
    pub fn append(&self, suffix: &str) -> HttpUrl {
        self.with_target(&format!("{}{suffix}", self.target.trim_end_matches('/')))
    }

    /// Resolves a reference, such as a `Location` header, against this URL (RFC 3986, section 5).
    ///
    /// # Errors
    /// Where it leads away from plain HTTP or cannot be parsed.
    pub fn join(&self, reference: &str) -> Result<HttpUrl, UrlError> {
        if reference.len() > MAX_LENGTH {
            return Err(UrlError::TooLong);
        }
        let invalid = |why: &dyn fmt::Display| UrlError::Invalid(why.to_string());
        let base = self.to_string();
        let base = Uri::parse(base.as_str()).map_err(|why| invalid(&why))?;
        let reference = UriRef::parse(reference).map_err(|why| invalid(&why))?;
        let whole = reference.resolve_against(&base).map_err(|why| invalid(&why))?;
        whole.as_str().parse()
    }

    /// Whether both are the same server, as far as a URL tells.
    pub fn same_server(&self, other: &HttpUrl) -> bool {
        self.host.eq_ignore_ascii_case(&other.host) && self.port == other.port
    }
}

impl FromStr for HttpUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<HttpUrl, UrlError> {
        if text.len() > MAX_LENGTH {
            return Err(UrlError::TooLong);
        }
        let lower = text.get(..8).unwrap_or(text).to_ascii_lowercase();
        if lower.starts_with("https://") {
            return Err(UrlError::Https);
        }
        if !lower.starts_with("http://") {
            return Err(UrlError::NotHttp);
        }
        let uri = Uri::parse(text).map_err(|why| UrlError::Invalid(why.to_string()))?;
        let authority = uri.authority().ok_or(UrlError::NoHost)?;
        if authority.has_userinfo() {
            return Err(UrlError::UserInfo);
        }
        let host = authority.host().trim_matches(['[', ']']);
        if host.is_empty() {
            return Err(UrlError::NoHost);
        }
        let port = match authority.port().map(EStr::as_str) {
            None | Some("") => 80,
            Some(digits) => match digits.parse() {
                Ok(port) if port > 0 => port,
                _ => {
                    return Err(UrlError::Invalid(format!(
                        "`{digits}` is no port from 1 to 65535"
                    )));
                }
            },
        };
        let path = Some(uri.path().as_str())
            .filter(|path| !path.is_empty())
            .unwrap_or("/");
        Ok(HttpUrl {
            host: host.to_owned(),
            port,
            target: match uri.query() {
                Some(query) => format!("{path}?{}", query.as_str()),
                None => path.to_owned(),
            },
        })
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, target, .. } = self;
        match (self.host.contains(':'), port) {
            (true, 80) => write!(f, "http://[{}]{target}", self.host),
            (false, 80) => write!(f, "http://{}{target}", self.host),
            _ => write!(f, "http://{}{target}", self.authority()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> HttpUrl {
        text.parse().unwrap()
    }

    #[test]
    fn a_url_is_taken_apart_and_printed_back() {
        for text in [
            "http://app/",
            "http://app:8080/drain?now=1",
            "http://[::1]:8080/x",
            "http://my_app-1/y",
        ] {
            assert_eq!(url(text).to_string(), text);
        }
        assert_eq!(url("http://app").target(), "/");
        assert_eq!(url("http://app").port(), 80);
        assert_eq!(
            url("http://[fd00:ec2::254]").ip().unwrap().to_string(),
            "fd00:ec2::254"
        );
    }

    #[test]
    fn what_cannot_be_called_is_refused_with_a_reason() {
        for (text, why) in [
            ("https://app/drain", UrlError::Https),
            ("HTTPS://app/drain", UrlError::Https),
            ("ftp://app/", UrlError::NotHttp),
            ("app:8080/drain", UrlError::NotHttp),
            ("http://me:secret@app/", UrlError::UserInfo),
        ] {
            assert_eq!(text.parse::<HttpUrl>(), Err(why), "{text}");
        }
        for text in [
            "http://",
            "http:///drain",
            "http://app:0/",
            "http://app:99999/",
            "http://a b/",
            "http://:80/",
        ] {
            assert!(text.parse::<HttpUrl>().is_err(), "{text} must not parse");
        }
    }

    #[test]
    fn a_location_is_resolved_against_the_url_that_was_asked() {
        let base = url("http://app:8080/v1/drain?x=1");
        for (reference, whole) in [
            ("/status/7", "http://app:8080/status/7"),
            ("status", "http://app:8080/v1/status"),
            ("?id=7", "http://app:8080/v1/drain?id=7"),
            ("http://other:9/z", "http://other:9/z"),
            ("//other/z", "http://other/z"),
            ("", "http://app:8080/v1/drain?x=1"),
            ("/z?next=http://b/", "http://app:8080/z?next=http://b/"),
        ] {
            assert_eq!(base.join(reference).unwrap().to_string(), whole, "{reference}");
        }
        assert_eq!(base.join("https://elsewhere/"), Err(UrlError::Https));
        for bad in ["/with space", "mailto:me", "http:g", "http://[", "//", "http://"] {
            assert!(base.join(bad).is_err(), "{bad}");
        }
        assert_eq!(base.join(&"x".repeat(MAX_LENGTH + 1)), Err(UrlError::TooLong));
    }

    /// The examples of RFC 3986, sections 5.4.1 and 5.4.2, without the fragments, which no request carries.
    #[test]
    fn references_are_resolved_as_rfc_3986_shows_it() {
        let base = url("http://a/b/c/d;p?q");
        for (reference, whole) in [
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g", "http://g/"),
            ("?y", "http://a/b/c/d;p?y"),
            ("g?y", "http://a/b/c/g?y"),
            ("#s", "http://a/b/c/d;p?q"),
            ("g#s", "http://a/b/c/g"),
            ("g?y#s", "http://a/b/c/g?y"),
            (";x", "http://a/b/c/;x"),
            ("g;x", "http://a/b/c/g;x"),
            ("g;x?y#s", "http://a/b/c/g;x?y"),
            ("", "http://a/b/c/d;p?q"),
            (".", "http://a/b/c/"),
            ("./", "http://a/b/c/"),
            ("..", "http://a/b/"),
            ("../", "http://a/b/"),
            ("../g", "http://a/b/g"),
            ("../..", "http://a/"),
            ("../../", "http://a/"),
            ("../../g", "http://a/g"),
            ("../../../g", "http://a/g"),
            ("../../../../g", "http://a/g"),
            ("/./g", "http://a/g"),
            ("/../g", "http://a/g"),
            ("g.", "http://a/b/c/g."),
            (".g", "http://a/b/c/.g"),
            ("g..", "http://a/b/c/g.."),
            ("..g", "http://a/b/c/..g"),
            ("./../g", "http://a/b/g"),
            ("./g/.", "http://a/b/c/g/"),
            ("g/./h", "http://a/b/c/g/h"),
            ("g/../h", "http://a/b/c/h"),
            ("g;x=1/./y", "http://a/b/c/g;x=1/y"),
            ("g;x=1/../y", "http://a/b/c/y"),
            ("g?y/./x", "http://a/b/c/g?y/./x"),
            ("g?y/../x", "http://a/b/c/g?y/../x"),
        ] {
            assert_eq!(base.join(reference).unwrap().to_string(), whole, "{reference}");
        }
        assert!(base.join("g:h").is_err(), "another scheme");
    }
}
