//! How long a gRPC call may take, as its caller says it in `grpc-timeout` and as the next hop is told what is left of it.

use std::time::Duration;

/// Digits that a value may have (gRPC over HTTP/2, "Timeout").
const DIGITS: usize = 8;

/// The units, the finest first, with what one of them holds in nanoseconds.
const UNITS: [(u8, u64); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60 * 1_000_000_000),
    (b'H', 3_600 * 1_000_000_000),
];

/// What the caller allows. None where it is not written as gRPC writes it: it then says nothing.
pub fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0_u64, |amount, digit| 10 * amount + u64::from(digit - b'0'));
    let (_, nanoseconds) = UNITS.iter().find(|(name, _)| name == unit)?;
    // Eight digits of hours are more than 64 bits of nanoseconds hold.
    Some(Duration::from_nanos(*nanoseconds).saturating_mul(u32::try_from(amount).unwrap_or(u32::MAX)))
}

/// `allowed` as gRPC writes it: in the finest unit that has room for it, never more than it is.
pub fn write(allowed: Duration) -> String {
    const MOST: u128 = 10_u128.pow(8) - 1;
    for (unit, nanoseconds) in UNITS {
        let amount = allowed.as_nanos() / u128::from(nanoseconds);
        if amount <= MOST {
            return format!("{amount}{}", char::from(unit));
        }
    }
    format!("{MOST}H")
}

/// What is left of `allowed` after `spent`; none: the call is late already.
pub fn left(allowed: Duration, spent: Duration) -> Option<Duration> {
    allowed.checked_sub(spent).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_every_unit() {
        for (value, expected) in [
            ("1n", Duration::from_nanos(1)),
            ("20u", Duration::from_micros(20)),
            ("300m", Duration::from_millis(300)),
            ("4S", Duration::from_secs(4)),
            ("5M", Duration::from_secs(5 * 60)),
            ("6H", Duration::from_secs(6 * 3600)),
            ("0S", Duration::ZERO),
            ("00000001S", Duration::from_secs(1)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(parse(value.as_bytes()), Some(expected), "{value}");
        }
    }

    #[test]
    fn what_grpc_would_not_write_says_nothing() {
        for value in [
            "",
            "S",
            "5",
            "5s",
            "5h",
            "-5S",
            "+5S",
            "5.0S",
            " 5S",
            "5S ",
            "5 S",
            "123456789S",
            "0x5S",
            "\u{ff15}S",
        ] {
            assert_eq!(parse(value.as_bytes()), None, "{value:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_is_never_more() {
        let mut nanoseconds = 1_u64;
        while nanoseconds < u64::MAX / 7 {
            let allowed = Duration::from_nanos(nanoseconds);
            let read = parse(write(allowed).as_bytes()).unwrap();
            // No coarser than one part in a hundred thousand.
            assert!(read <= allowed && allowed - read <= allowed / 100_000, "{allowed:?} {read:?}");
            nanoseconds = nanoseconds * 7 + 3;
        }
        assert_eq!(write(Duration::from_millis(100)), "100000u");
        assert_eq!(write(Duration::from_secs(30)), "30000000u");
        assert_eq!(write(Duration::ZERO), "0n");
        assert_eq!(write(Duration::MAX), "99999999H");
    }

    #[test]
    fn time_spent_is_taken_off() {
        let second = Duration::from_secs(1);
        assert_eq!(left(second, second / 4), Some(second * 3 / 4));
        assert_eq!(left(second, second), None);
        assert_eq!(left(second, second * 2), None);
        assert_eq!(left(Duration::ZERO, Duration::ZERO), None);
    }
}
