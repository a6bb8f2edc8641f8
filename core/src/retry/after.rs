//! What an endpoint asks of whoever would try again: `Retry-After` (RFC 9110 section 10.2.3) and gRPC's
//! `grpc-retry-pushback-ms` (gRFC A6).

use std::time::Duration;

/// What an endpoint asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pushback {
    /// Nothing.
    #[default]
    None,
    /// To be left alone for so long.
    After(Duration),
    /// Not to be tried again.
    Never,
}

/// Reads `Retry-After`: seconds, or a date, of which `now` (Unix time) is taken off.
pub fn retry_after(value: &[u8], now: Duration) -> Pushback {
    let Ok(text) = std::str::from_utf8(value) else { return Pushback::None };
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Pushback::After(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text);
    match date.ok().and_then(|date| u64::try_from(date.as_second()).ok()) {
        Some(seconds) => Pushback::After(Duration::from_secs(seconds).saturating_sub(now)),
        None => Pushback::None,
    }
}

/// Reads `grpc-retry-pushback-ms`; what is no number of milliseconds asks for no further try.
pub fn pushback(value: &[u8]) -> Pushback {
    let digits = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse().ok());
    number.map_or(Pushback::Never, |milliseconds| Pushback::After(Duration::from_millis(milliseconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_says_when_in_seconds_or_by_a_date() {
        let at = Duration::from_secs(1_445_412_480); // 2015-10-21 07:28:00
        let seconds = |seconds| Pushback::After(Duration::from_secs(seconds));
        for (value, expected) in [
            ("0", seconds(0)),
            ("120", seconds(120)),
            ("99999999999999999999999", seconds(u64::MAX)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", seconds(0)),
            ("Wed, 21 Oct 2015 07:28:30 GMT", seconds(30)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", seconds(0)),
            ("", Pushback::None),
            ("-1", Pushback::None),
            ("1.5", Pushback::None),
            ("soon", Pushback::None),
        ] {
            assert_eq!(retry_after(value.as_bytes(), at), expected, "{value:?}");
        }
        assert_eq!(retry_after(&[0xff], at), Pushback::None);
    }

    #[test]
    fn a_server_of_grpc_says_when_or_never() {
        assert_eq!(pushback(b"250"), Pushback::After(Duration::from_millis(250)));
        for never in [&b"-1"[..], b"", b"x", b"99999999999999999999999"] {
            assert_eq!(pushback(never), Pushback::Never);
        }
    }
}
