//! Values with a notation of their own: durations, ratios, labels.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A share of a whole, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ratio(u32);

/// A text that is no value of its notation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}")]
pub struct ValueError {
    text: String,
    what: &'static str,
}

impl Ratio {
    const WHOLE: u32 = 1_000_000;

    /// The share in millionths, at most a million.
    pub fn per_million(self) -> u32 {
        self.0
    }
}

/// `0.2` or `20%`, from nothing to the whole.
impl FromStr for Ratio {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let error = || ValueError { text: text.into(), what: "ratio from 0 to 1 or from 0% to 100%" };
        let (number, scale) = text.strip_suffix('%').map_or((text, 6), |number| (number, 4));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits =
            |text: &str| !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) {
            return Err(error());
        }
        // Exact: the digits behind the point, cut or filled up to the millionth.
        let millionths: String = fraction.chars().chain(std::iter::repeat('0')).take(scale).collect();
        let value = format!("{whole}{millionths}").parse().map_err(|_| error())?;
        if value <= Self::WHOLE { Ok(Self(value)) } else { Err(error()) }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 10_000, self.0 % 10_000);
        if rest == 0 {
            return write!(f, "{whole}%");
        }
        write!(f, "{whole}.{}%", format!("{rest:04}").trim_end_matches('0'))
    }
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
    fn ratios_are_shares_or_percentages() {
        let check = |text: &str, expected: Option<u32>| {
            assert_eq!(text.parse::<Ratio>().ok().map(Ratio::per_million), expected, "{text:?}");
        };
        check("0.2", Some(200_000));
        check("20%", Some(200_000));
        check("0.29", Some(290_000));
        check("0.1%", Some(1_000));
        check("12.5%", Some(125_000));
        check("1", Some(1_000_000));
        check("100%", Some(1_000_000));
        check("0", Some(0));
        check("0.0000001", Some(0));
        for bad in
            ["", "%", "2", "101%", "100.0001%", "-1", "+1", ".5", "1.", "1e-1", "20 %", "a", "99999999999999"]
        {
            check(bad, None);
        }
        for text in ["20%", "12.5%", "0.1%", "0%", "100%", "0.0001%"] {
            assert_eq!(text.parse::<Ratio>().unwrap().to_string(), text);
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
