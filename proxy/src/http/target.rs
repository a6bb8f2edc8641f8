//! One meaning for what a request asks for, before anything is ruled of it: a host that is named once, and the path in
//! the form that everyone after us reads alike.

use http::Method;
use http::header::HOST;
use weft_core::host::{Host, same_host};
use weft_core::path::{Path, PathError};

use super::head::{Fields, Head};
use crate::failure::ErrorCode;

/// Checks what a request is for and gives its path its normal form.
pub fn settle(head: &mut impl Head) -> Result<(), ErrorCode> {
    settle_host(head)?;
    settle_path(head)
}

/// The target's authority and the `Host` field name one host between them, and neither names two (RFC 9112 section 3.2,
/// RFC 9113 section 8.3.1).
fn settle_host(head: &impl Head) -> Result<(), ErrorCode> {
    let host = {
        let mut hosts = head.fields().all(&HOST);
        let host = hosts.next().map(parse_host).transpose()?;
        if hosts.next().is_some() {
            return Err(ErrorCode::BadRequest);
        }
        host
    };
    let authority = head.target_authority().map(|text| parse_host(text.as_bytes())).transpose()?;
    let names_port = authority.as_ref().is_some_and(|authority| authority.port().is_some());
    if *head.method() == Method::CONNECT && head.target().is_none() && !names_port {
        return Err(ErrorCode::BadRequest);
    }
    match (&authority, &host) {
        (Some(authority), Some(host)) if !same_host(authority, host) => Err(ErrorCode::BadRequest),
        (None, None) if head.must_name_host() => Err(ErrorCode::BadRequest),
        _ => Ok(()),
    }
}

fn settle_path(head: &mut impl Head) -> Result<(), ErrorCode> {
    let settled = match head.target() {
        None if *head.method() == Method::CONNECT => return Ok(()),
        None => return Err(ErrorCode::BadRequest),
        Some("*") if *head.method() == Method::OPTIONS => return Ok(()),
        Some(target) => match Path::parse(target.as_bytes()) {
            Ok(path) if path.is_as_received() => return Ok(()),
            Ok(path) => path.forwarded().to_vec(),
            Err(PathError::TooLong) => return Err(ErrorCode::HeaderTooLarge),
            Err(_) => return Err(ErrorCode::BadRequest),
        },
    };
    head.set_target(&settled)
}

fn parse_host(text: &[u8]) -> Result<Host<'_>, ErrorCode> {
    Host::parse(text).map_err(|_| ErrorCode::BadRequest)
}

#[cfg(test)]
mod tests {
    use http::{Request, Version, request};

    use super::*;

    fn head(version: Version, method: &str, uri: &str, hosts: &[&str]) -> request::Parts {
        let mut builder = Request::builder().version(version).method(method).uri(uri);
        for host in hosts {
            builder = builder.header(HOST, *host);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn check(version: Version, method: &str, uri: &str, hosts: &[&str], expected: Result<&str, ErrorCode>) {
        let mut head = head(version, method, uri, hosts);
        let settled = settle(&mut head).map(|()| head.target().unwrap_or_default());
        assert_eq!(settled, expected, "{version:?} {method} {uri} {hosts:?}");
    }

    #[test]
    fn a_request_has_one_host() {
        let (http1, http2) = (Version::HTTP_11, Version::HTTP_2);
        let bad = Err(ErrorCode::BadRequest);
        check(http1, "GET", "/a", &["orders"], Ok("/a"));
        check(http1, "GET", "/a", &[], bad);
        check(Version::HTTP_10, "GET", "/a", &[], Ok("/a"));
        check(http1, "GET", "/a", &["orders", "orders"], bad);
        check(http1, "GET", "/a", &["a b"], bad);
        check(http1, "GET", "/a", &[""], bad);
        check(http1, "GET", "http://orders/a", &["ORDERS.:80"], Ok("/a"));
        check(http1, "GET", "http://orders/a", &["payments"], bad);
        check(http1, "GET", "http://u@orders/a", &["orders"], bad);
        check(http2, "GET", "http://orders/a", &[], Ok("/a"));
        check(http2, "GET", "http://orders/a", &["payments"], bad);
        check(http2, "GET", "/a", &["orders"], Ok("/a"));
        check(http2, "GET", "/a", &[], bad);
        check(http1, "CONNECT", "db:5432", &["db:5432"], Ok(""));
        check(http1, "CONNECT", "db:5432", &["other:5432"], bad);
        check(http1, "CONNECT", "db", &["db"], bad);
        check(http2, "CONNECT", "db:5432", &[], Ok(""));
        check(http2, "CONNECT", "http://orders/chat", &[], Ok("/chat"));
    }

    #[test]
    fn a_path_has_its_normal_form() {
        let http = |method: &str, uri: &str, expected| check(Version::HTTP_11, method, uri, &["a"], expected);
        http("GET", "/a/../b%7e?c=%7e", Ok("/b~?c=%7e"));
        http("GET", "http://a/./b", Ok("/b"));
        http("OPTIONS", "*", Ok("*"));
        http("GET", "a", Err(ErrorCode::BadRequest));
        http("GET", "*", Err(ErrorCode::BadRequest));
        http("GET", "/..", Err(ErrorCode::BadRequest));
        http("GET", "/a%2F..", Err(ErrorCode::BadRequest));
        http("GET", &format!("/{}", "a".repeat(32 * 1024)), Err(ErrorCode::HeaderTooLarge));
    }
}
