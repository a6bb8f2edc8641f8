//! A request's target, in the four forms of HTTP/1.1 (RFC 9112 section 3.2).

use crate::host::{Host, HostError};
use crate::path::{MAX_TARGET, Path, PathError};

/// What a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target<'a> {
    /// `/path?query`.
    Origin(Path<'a>),
    /// `http://host/path?query`. The host goes before the `Host` field, which must agree.
    Absolute {
        /// Whom it is for.
        host: Host<'a>,
        /// The host and port as they were written: what `Host` is to say to the next hop (RFC 9112 section 3.2.2).
        authority: &'a [u8],
        /// What of it; none for the server as a whole (`OPTIONS http://host`).
        path: Option<Path<'a>>,
    },
    /// `host:port`, of CONNECT alone.
    Authority(Host<'a>),
    /// `*`, of OPTIONS alone.
    Server,
}

/// Why a target is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// What is wrong with the path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// What is wrong with the host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// CONNECT names a host and a port, and nothing but them (RFC 9110 section 9.3.6).
    #[error("CONNECT without a port")]
    NoPort,
    /// An absolute target of another scheme than http and https.
    #[error("the target's scheme is not http")]
    UnknownScheme,
}

impl<'a> Target<'a> {
    /// Reads the target of a request with this method.
    ///
    /// # Errors
    /// It has no one meaning: the request is answered with 400.
    pub fn parse(method: &[u8], target: &'a [u8]) -> Result<Self, TargetError> {
        if target.len() > MAX_TARGET {
            return Err(PathError::TooLong.into());
        }
        if method == b"CONNECT" {
            let host = Host::parse(target)?;
            return if host.port().is_some() { Ok(Self::Authority(host)) } else { Err(TargetError::NoPort) };
        }
        match target {
            [b'/', ..] => Ok(Self::Origin(Path::parse(target)?)),
            b"*" if method == b"OPTIONS" => Ok(Self::Server),
            _ => Self::absolute(method, target),
        }
    }

    fn absolute(method: &[u8], target: &'a [u8]) -> Result<Self, TargetError> {
        let scheme = target
            .iter()
            .position(|byte| *byte == b':')
            .filter(|at| target.get(at + 1..at + 3) == Some(b"//"));
        let Some((scheme, rest)) = scheme.and_then(|at| target.split_at_checked(at)) else {
            return Err(PathError::NotRooted.into());
        };
        if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
            return Err(TargetError::UnknownScheme);
        }
        let rest = rest.get(3..).unwrap_or_default();
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end).unwrap_or_default();
        let path = match path {
            b"" if method == b"OPTIONS" => None,
            b"" => Some(Path::parse(b"/")?),
            [b'?', ..] => Some(Path::of_query(path)?),
            path => Some(Path::parse(path)?),
        };
        Ok(Self::Absolute { host: Host::parse(authority)?, authority, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn absolute(method: &str, target: &str) -> (String, Option<String>) {
        match Target::parse(method.as_bytes(), target.as_bytes()) {
            Ok(Target::Absolute { host, authority, path }) => {
                assert_eq!(Host::parse(authority).unwrap(), host);
                (
                    host.name().to_owned(),
                    path.map(|path| String::from_utf8(path.forwarded().to_vec()).unwrap()),
                )
            }
            other => panic!("{target}: {other:?}"),
        }
    }

    #[test]
    fn each_form_is_read() {
        assert!(matches!(Target::parse(b"GET", b"/a"), Ok(Target::Origin(path)) if path.matched() == "/a"));
        assert!(
            matches!(Target::parse(b"GET", b"//host/a"), Ok(Target::Origin(path)) if path.matched() == "/host/a")
        );
        assert_eq!(Target::parse(b"OPTIONS", b"*"), Ok(Target::Server));
        assert!(
            matches!(Target::parse(b"CONNECT", b"Db:5432"), Ok(Target::Authority(host)) if host.name() == "db")
        );
        assert_eq!(absolute("GET", "http://Orders:80/a/../b?c"), ("orders".into(), Some("/b?c".into())));
        assert_eq!(absolute("GET", "HTTP://orders"), ("orders".into(), Some("/".into())));
        assert_eq!(absolute("GET", "https://[::1]:1?a=b"), ("[::1]".into(), Some("/?a=b".into())));
        assert_eq!(absolute("OPTIONS", "http://orders"), ("orders".into(), None));
    }

    #[test]
    fn a_form_that_the_method_does_not_have_is_refused() {
        let refused = |method: &str, target: &str, expected: TargetError| {
            assert_eq!(
                Target::parse(method.as_bytes(), target.as_bytes()),
                Err(expected),
                "{method} {target}"
            );
        };
        for target in ["*", "a", "", "orders:80", "mailto:a", "?a", "http:/a", "http:a"] {
            refused("GET", target, PathError::NotRooted.into());
        }
        refused("OPTIONS", "**", PathError::NotRooted.into());
        refused("CONNECT", "db", TargetError::NoPort);
        refused("CONNECT", "/a", HostError::Invalid.into());
        refused("CONNECT", "*", HostError::Invalid.into());
        refused("CONNECT", "http://db:1/", HostError::BadPort.into());
        refused("GET", "ftp://a/", TargetError::UnknownScheme);
        refused("GET", "http://", HostError::Empty.into());
        refused("GET", "http:///a", HostError::Empty.into());
        refused("GET", "http://a@b/", HostError::Invalid.into());
        refused("GET", "http://a/..", PathError::AboveRoot.into());
        refused("GET", "http://a#b", PathError::NotRooted.into());
        refused("GET", &format!("http://{}", "a".repeat(MAX_TARGET)), PathError::TooLong.into());
    }
}
