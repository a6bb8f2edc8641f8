//! The one normal form of a request's path: what is forwarded, what routes compare, what policies decide on.
//!
//! Servers read one spelling differently: `%2F` is a separator to one and data to another, `;x` is a parameter to one
//! and part of a name to another. So a path has a form to forward, in which no two servers disagree about dots, and
//! two forms to decide on; any spelling of a path has the same [`Path::matched`] form
//! ([decision 5](../../../docs/decisions/0005-one-form-of-a-path.md)).

use std::borrow::Cow;

/// The longest request target that is read.
pub const MAX_TARGET: usize = 32 * 1024;

/// A request's path and query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path<'a> {
    forwarded: Cow<'a, [u8]>,
    literal: Cow<'a, str>,
    matched: Cow<'a, str>,
    query: Option<&'a [u8]>,
}

/// Why a request target is none that the mesh forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It is longer than [`MAX_TARGET`].
    #[error("the request target is longer than {MAX_TARGET} bytes")]
    TooLong,
    /// A path begins with a slash (RFC 9112 section 3.2.1).
    #[error("the path does not begin with '/'")]
    NotRooted,
    /// A control character or a space, or an encoded NUL, at which a C string would end.
    #[error("the request target holds a control character or a space")]
    ControlCharacter,
    /// A `%` without two hexadecimal digits (RFC 3986 section 2.1): servers differ about what it means.
    #[error("the path holds a '%' without two hexadecimal digits")]
    BadEscape,
    /// A `#`: fragments are never sent (RFC 9112 section 3.2).
    #[error("the request target holds a fragment")]
    Fragment,
    /// More `..` than there are segments before them.
    #[error("the path leads above its root")]
    AboveRoot,
    /// A `..` that is one only to servers that decode separators or parameters first, or a parameter that ends
    /// at a separator for those alone.
    #[error("the path means different things to different servers")]
    Ambiguous,
}

impl<'a> Path<'a> {
    /// Reads an origin-form request target, or the `:path` of HTTP/2. Allocates only where the path is not in
    /// its normal form.
    ///
    /// # Errors
    /// The path has no one meaning: the request is answered with 400.
    pub fn parse(target: &'a [u8]) -> Result<Self, PathError> {
        if target.len() > MAX_TARGET {
            return Err(PathError::TooLong);
        }
        if target.first() != Some(&b'/') {
            return Err(PathError::NotRooted);
        }
        let mut parts = target.splitn(2, |byte| *byte == b'?');
        let (path, query) = (parts.next().unwrap_or_default(), parts.next());
        query.unwrap_or_default().iter().try_for_each(|byte| printable(*byte))?;
        match std::str::from_utf8(path) {
            Ok(text) if is_plain(path) => {
                Ok(Self { forwarded: target.into(), literal: text.into(), matched: text.into(), query })
            }
            _ => Self::rewrite(target, path, query),
        }
    }

    /// Reads what follows the host in an absolute target without a path, which is then `/` (RFC 9112 section 3.2.1).
    pub(crate) fn of_query(query: &'a [u8]) -> Result<Self, PathError> {
        let path = Path::parse(b"/")?;
        query.iter().try_for_each(|byte| printable(*byte))?;
        let forwarded = Cow::Owned([b"/", query].concat());
        Ok(Self { forwarded, literal: path.literal, matched: path.matched, query: query.get(1..) })
    }

    /// What is sent on: dot segments are resolved, what need not be encoded is not, the rest is as it came; the
    /// query is what it was, byte for byte.
    pub fn forwarded(&self) -> &[u8] {
        &self.forwarded
    }

    /// Whether [`Self::forwarded`] is what was parsed.
    pub fn is_as_received(&self) -> bool {
        matches!(self.forwarded, Cow::Borrowed(_))
    }

    /// The path that routes compare, and that a rule which denies compares: separators are separators however they
    /// are spelled, runs of them are one, parameters are gone. Whatever a server makes of the forwarded path, its
    /// own normal form is this.
    pub fn matched(&self) -> &str {
        &self.matched
    }

    /// The path to a server for which encoded separators and parameters are data. A rule that allows must match
    /// this as well as [`Self::matched`], for to that server it is another path. Mostly the two are the same.
    pub fn literal(&self) -> &str {
        &self.literal
    }

    /// What follows the `?`, as it was sent.
    pub fn query(&self) -> Option<&'a [u8]> {
        self.query
    }

    fn rewrite(target: &'a [u8], path: &'a [u8], query: Option<&'a [u8]>) -> Result<Self, PathError> {
        let mut forwarded = resolve(&decode_unreserved(path)?)?;
        let literal = keep_or(path, encode_plainly(&forwarded));
        let matched = keep_or(path, merge(&literal)?);
        let forwarded = if forwarded == path {
            Cow::Borrowed(target)
        } else {
            if let Some(query) = query {
                forwarded.push(b'?');
                forwarded.extend_from_slice(query);
            }
            Cow::Owned(forwarded)
        };
        Ok(Self { forwarded, literal, matched, query })
    }
}

/// The original where nothing has changed.
fn keep_or(original: &[u8], text: String) -> Cow<'_, str> {
    match std::str::from_utf8(original) {
        Ok(original) if original == text => Cow::Borrowed(original),
        _ => Cow::Owned(text),
    }
}

/// Whether every form of a path is the path itself. Says no too often, never yes wrongly.
fn is_plain(path: &[u8]) -> bool {
    let mut before = 0;
    path.iter().all(|&byte| {
        let plain = match byte {
            b'/' | b'.' => before != b'/',
            byte => is_path_character(byte) && byte != b';',
        };
        before = byte;
        plain
    })
}

fn printable(byte: u8) -> Result<(), PathError> {
    match byte {
        0..=b' ' | 0x7f => Err(PathError::ControlCharacter),
        b'#' => Err(PathError::Fragment),
        _ => Ok(()),
    }
}

/// RFC 3986 section 2.3: encoded or not, these are the same.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What may stand in a segment as it is (RFC 3986 section 3.3, `pchar`).
fn is_path_character(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
        || matches!(byte, b':' | b'@')
}

/// RFC 3986 sections 6.2.2.1 and 6.2.2.2: hexadecimal digits in upper case, no escape that need not be one.
fn decode_unreserved(path: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.iter().copied();
    while let Some(byte) = bytes.next() {
        printable(byte)?;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        match (bytes.next().and_then(digit), bytes.next().and_then(digit)) {
            (Some(0), Some(0)) => return Err(PathError::ControlCharacter),
            (Some(high), Some(low)) => match high << 4 | low {
                byte if is_unreserved(byte) => decoded.push(byte),
                byte => escape(byte, &mut decoded),
            },
            _ => return Err(PathError::BadEscape),
        }
    }
    Ok(decoded)
}

/// Removes dot segments, with the parameters that some servers take off before they look (RFC 3986 section 5.2.4).
fn resolve(path: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut resolved = Vec::with_capacity(path.len());
    let mut segments = path.split(|byte| *byte == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        match name {
            b"." => {}
            b".." => {
                let parent = resolved.iter().rposition(|byte| *byte == b'/').ok_or(PathError::AboveRoot)?;
                resolved.truncate(parent);
            }
            _ => {
                resolved.push(b'/');
                resolved.extend_from_slice(segment);
                continue;
            }
        }
        if segments.peek().is_none() {
            resolved.push(b'/');
        }
    }
    Ok(resolved)
}

/// Makes one spelling of the many that a server decodes to the same bytes: what may stand in a segment as it is does,
/// all else is encoded. What separates stays as it is.
fn encode_plainly(path: &[u8]) -> String {
    let mut plain = Vec::with_capacity(path.len());
    let mut bytes = path.iter().copied();
    while let Some(byte) = bytes.next() {
        let (byte, escaped) = match byte {
            b'%' => {
                let digits = (bytes.next().and_then(digit), bytes.next().and_then(digit));
                let (Some(high), Some(low)) = digits else { continue };
                (high << 4 | low, true)
            }
            byte => (byte, false),
        };
        let kept = if escaped {
            is_path_character(byte) && byte != b';'
        } else {
            byte == b'/' || is_path_character(byte)
        };
        if kept {
            plain.push(byte);
        } else {
            escape(byte, &mut plain);
        }
    }
    plain.into_iter().map(char::from).collect()
}

/// Reads every separator as one, takes parameters off, and makes one separator of many.
fn merge(literal: &str) -> Result<String, PathError> {
    let mut merged = String::with_capacity(literal.len());
    let mut ends_open = false;
    for segment in literal.split('/').skip(1) {
        let mut pieces = Pieces(Some(segment)).peekable();
        while let Some(piece) = pieces.next() {
            let name = name_of(piece);
            let parameter_holds_separator = name.len() < piece.len() && pieces.peek().is_some();
            if name == ".." || parameter_holds_separator {
                return Err(PathError::Ambiguous);
            }
            ends_open = matches!(name, "" | ".");
            if !ends_open {
                merged.push('/');
                merged.push_str(name);
            }
        }
    }
    if ends_open {
        merged.push('/');
    }
    Ok(merged)
}

/// A segment without its parameters. To a server that decodes first, an encoded `;` begins some too.
fn name_of(piece: &str) -> &str {
    let name = piece.split(';').next().unwrap_or_default();
    name.split("%3B").next().unwrap_or_default()
}

/// A segment, split where some servers see a separator.
struct Pieces<'a>(Option<&'a str>);

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.0?;
        let split = rest.split_once("%2F");
        let split = match rest.split_once("%5C") {
            Some(other) if split.is_none_or(|(piece, _)| other.0.len() < piece.len()) => Some(other),
            _ => split,
        };
        self.0 = split.map(|(_, rest)| rest);
        Some(split.map_or(rest, |(piece, _)| piece))
    }
}

fn digit(hex: u8) -> Option<u8> {
    char::from(hex).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

fn escape(byte: u8, text: &mut Vec<u8>) {
    let digit = |value: u8| if value < 10 { b'0' + value } else { b'A' + value - 10 };
    text.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is forwarded, matched and taken literally. An empty expectation is the form before it.
    fn check(target: &str, forwarded: &str, matched: &str, literal: &str) {
        let path = Path::parse(target.as_bytes()).unwrap_or_else(|error| panic!("{target}: {error}"));
        let forwarded = if forwarded.is_empty() { target } else { forwarded };
        let without_query = forwarded.split('?').next().unwrap();
        let matched = if matched.is_empty() { without_query } else { matched };
        let literal = if literal.is_empty() { matched } else { literal };
        assert_eq!(String::from_utf8_lossy(path.forwarded()), forwarded, "{target} forwarded");
        assert_eq!(path.matched(), matched, "{target} matched");
        assert_eq!(path.literal(), literal, "{target} literal");
        assert_eq!(path.is_as_received(), forwarded == target, "{target}");
    }

    fn refused(target: &[u8], expected: PathError) {
        assert_eq!(Path::parse(target).err(), Some(expected), "{}", String::from_utf8_lossy(target));
    }

    #[test]
    fn a_path_in_its_normal_form_is_borrowed() {
        for target in [
            "/",
            "/orders/17",
            "/a.b/c..d/...",
            "/a/!$&'()*+,=:@~-_",
            "/x?a=%2e%2e/..;//%zz|",
            "/.well-known/x",
            "/...",
        ] {
            check(target, "", "", "");
            let path = Path::parse(target.as_bytes()).unwrap();
            assert!(
                matches!(path.matched, Cow::Borrowed(_)) && matches!(path.literal, Cow::Borrowed(_)),
                "{target}"
            );
        }
    }

    #[test]
    fn dot_segments_are_resolved_however_they_are_spelled() {
        check("/a/./b", "/a/b", "", "");
        check("/a/../b", "/b", "", "");
        check("/a/%2e%2E/b", "/b", "", "");
        check("/a/.%2e/b?x=/../", "/b?x=/../", "", "");
        check("/user/..;foo=bar/admin", "/admin", "", "");
        check("/user/.;foo=bar/admin", "/user/admin", "", "");
        check("/a/b/..", "/a/", "", "");
        check("/a/b/.", "/a/b/", "", "");
        check("/a/..", "/", "", "");
        check("/a//../b", "/a/b", "", "");
        check("/./a", "/a", "", "");
        check("//..", "/", "", "");
        check("/a/.../b", "", "", "");
    }

    #[test]
    fn escapes_have_one_spelling() {
        check("/%61%7eb", "/a~b", "", "");
        check("/%c3%a9", "/%C3%A9", "", "");
        check("/a%21b%40", "", "/a!b@", "");
        check("/a|b\"^`{}<>", "", "/a%7Cb%22%5E%60%7B%7D%3C%3E", "");
        check("/é", "", "/%C3%A9", "");
        check("/a%20b%0a%3f%23", "/a%20b%0A%3F%23", "", "");
        // Data stays data: what is encoded twice is a percent sign, and these two bytes are no dot.
        check("/%252e%252e%252fx", "", "", "");
        check("/%c0%ae%c0%ae/x", "/%C0%AE%C0%AE/x", "", "");
    }

    #[test]
    fn separators_that_may_be_data_are_forwarded_and_matched_as_separators() {
        check(
            "/api/queues/%2f/orders",
            "/api/queues/%2F/orders",
            "/api/queues/orders",
            "/api/queues/%2F/orders",
        );
        check("/@scope%2Fname", "", "/@scope/name", "/@scope%2Fname");
        check("/bucket//key", "", "/bucket/key", "/bucket//key");
        check("//", "", "/", "//");
        check("/a\\b%5cc", "/a\\b%5Cc", "/a/b/c", "/a%5Cb%5Cc");
        check("/a%2F.%2Fb", "", "/a/b", "/a%2F.%2Fb");
        check("/a%2F", "", "/a/", "/a%2F");
        check("/a%2F.", "", "/a/", "/a%2F.");
    }

    #[test]
    fn parameters_are_forwarded_and_not_matched() {
        check("/admin;x=y", "", "/admin", "/admin;x=y");
        check("/admin;x=y/b;/c", "", "/admin/b/c", "/admin;x=y/b;/c");
        check("/admin%3Bx", "", "/admin", "/admin%3Bx");
        check("/;x/admin", "", "/admin", "/;x/admin");
        check("/admin/;x", "", "/admin/", "/admin/;x");
        check("/.%3Bx/a", "", "/a", "/.%3Bx/a");
    }

    #[test]
    fn what_has_no_one_meaning_is_refused() {
        use PathError::{AboveRoot, Ambiguous, BadEscape, ControlCharacter, Fragment, NotRooted, TooLong};
        for target in ["/..", "/../a", "/a/../../b", "/%2e%2e/a", "/..;x/a", "/./.."] {
            refused(target.as_bytes(), AboveRoot);
        }
        for target in ["/%", "/%4", "/%zz", "/a%2", "/%u0041", "/%%32%65", "/% 41", "/%+1"] {
            refused(target.as_bytes(), BadEscape);
        }
        for target in ["/a#b", "/#", "/a?b#c"] {
            refused(target.as_bytes(), Fragment);
        }
        for target in [&b"/a b"[..], b"/\0", b"/a?\r", b"/\x7f", b"/a\n", b"/%00", b"/a?b c", b"/\t"] {
            refused(target, ControlCharacter);
        }
        for target in ["", "a", "*", "?a", "http://a/", "%2Fa"] {
            refused(target.as_bytes(), NotRooted);
        }
        let hidden = [
            "/a/..%2Fb",
            "/a%2F..",
            "/a%2F../b",
            "/a\\..\\b",
            "/a%5c..%5cb",
            "/a/%2F../b",
            "/..%3Bx/a",
            "/a/..\\b",
        ];
        let parameters = ["/a;x%2Fb", "/a%3Bx%2Fb", "/a;\\b", "/a;%2F..%2Fb", "/a%2F..;x"];
        for target in hidden.iter().chain(&parameters) {
            refused(target.as_bytes(), Ambiguous);
        }
        refused(format!("/{}", "a".repeat(MAX_TARGET)).as_bytes(), TooLong);
        assert!(Path::parse(format!("/{}", "a".repeat(MAX_TARGET - 1)).as_bytes()).is_ok());
    }

    /// The table of Istio's normalisation test: every escape there is, within a segment.
    #[test]
    fn every_escape_is_decoded_or_kept_as_its_class_says() {
        for byte in 1..=u8::MAX {
            let (upper, lower) = (format!("/a%{byte:02X}b"), format!("/a%{byte:02x}b"));
            let forwarded =
                if is_unreserved(byte) { format!("/a{}b", char::from(byte)) } else { upper.clone() };
            let matched = match byte {
                b'/' | b'\\' => "/a/b".to_owned(),
                b';' => "/a".to_owned(),
                byte if is_path_character(byte) => format!("/a{}b", char::from(byte)),
                _ => upper.clone(),
            };
            for target in [&upper, &lower] {
                let path = Path::parse(target.as_bytes()).unwrap();
                assert_eq!(path.forwarded(), forwarded.as_bytes(), "{target}");
                assert_eq!(path.matched(), matched, "{target}");
            }
        }
        refused(b"/a%00b", PathError::ControlCharacter);
    }

    /// And every byte there is, as it is.
    #[test]
    fn every_byte_is_forwarded_as_it_is_or_refused() {
        for byte in 0..=u8::MAX {
            let target = [b'/', b'a', byte, b'b'];
            let path = Path::parse(&target);
            match byte {
                0..=b' ' | 0x7f | b'#' | b'%' => assert!(path.is_err(), "{byte:#x}"),
                _ => {
                    let path = path.unwrap();
                    assert!(path.is_as_received(), "{byte:#x}");
                    let escaped = format!("/a%{byte:02X}b");
                    let same = Path::parse(escaped.as_bytes()).unwrap();
                    if byte != b'?' {
                        assert_eq!(path.matched(), same.matched(), "{byte:#x} and its escape are one path");
                    }
                }
            }
        }
    }
}
