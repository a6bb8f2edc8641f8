//! Values with a notation of their own: durations, labels.

use std::time::Duration;

/// A text that is no value of its notation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}")]
pub struct ValueError {
    text: String,
    what: &'static str,
}

/// Reads a Gateway API duration (GEP-2257): `([0-9]{1,5}(h|m|s|ms)){1,4}`.
pub fn parse_duration(text: &str) -> Result<Duration, ValueError> {
    let error = || ValueError { text: text.into(), what: "duration such as 250ms, 10s or 1h30m" };
    let mut total = Duration::ZERO;
    let mut rest = text;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at_checked(digits).ok_or_else(error)?;
        if digits == 0 || digits > 5 {
            return Err(error());
        }
        let number: u64 = number.parse().map_err(|_| error())?;
        let (unit, after) = if let Some(after) = after.strip_prefix("ms") {
            (Duration::from_millis(1), after)
        } else if let Some(after) = after.strip_prefix('h') {
            (Duration::from_hours(1), after)
        } else if let Some(after) = after.strip_prefix('m') {
            (Duration::from_mins(1), after)
        } else {
            (Duration::from_secs(1), after.strip_prefix('s').ok_or_else(error)?)
        };
        let part =
            u32::try_from(number).ok().and_then(|number| unit.checked_mul(number)).ok_or_else(error)?;
        total = total.saturating_add(part);
        if after.is_empty() {
            return Ok(total);
        }
        rest = after;
    }
    Err(error())
}

/// Whether a text may be a label's key: an optional DNS prefix with `/`, and a name of up to 63.
pub fn is_label_key(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    let prefix_ok = prefix.is_none_or(|prefix| prefix.parse::<crate::model::Name>().is_ok());
    prefix_ok && !name.is_empty() && is_label_value(name)
}

/// Whether a text may be a label's value: up to 63 letters, digits, `-`, `_`, `.`, alphanumeric at both ends.
pub fn is_label_value(text: &str) -> bool {
    let end_ok = |end: Option<char>| end.is_none_or(|c| c.is_ascii_alphanumeric());
    let all_ok = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    text.len() <= 63 && all_ok && end_ok(text.chars().next()) && end_ok(text.chars().next_back())
}

/// Whether a text may be a port's name: a DNS label of up to 63.
pub(super) fn is_port_name(text: &str) -> bool {
    text.len() <= 63 && !text.contains('.') && text.parse::<crate::model::Name>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_the_gateway_api() {
        let check = |text: &str, millis: Option<u64>| {
            assert_eq!(parse_duration(text).ok(), millis.map(Duration::from_millis), "{text:?}");
        };
        check("250ms", Some(250));
        check("10s", Some(10_000));
        check("1h30m", Some(5_400_000));
        check("1h2m3s4ms", Some(3_723_004));
        check("0s", Some(0));
        check("99999h", Some(359_996_400_000));
        for bad in ["", "1", "s", "1.5s", "-1s", "123456s", "1h1m1s1ms1s", "1 s", "1d", "1us", "1sm", "１s"]
        {
            check(bad, None);
        }
    }

    #[test]
    fn labels_are_those_of_kubernetes() {
        for good in ["app", "app.kubernetes.io/name", "A_b.c-d", "0"] {
            assert!(is_label_key(good), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "-a", "a-", "a b", "A.b/c", &"a".repeat(64)] {
            assert!(!is_label_key(bad), "{bad}");
        }
        assert!(
            is_label_value("")
                && is_label_value("v1.2_x-Y")
                && !is_label_value("é")
                && !is_label_value("a:b")
        );
    }
}
