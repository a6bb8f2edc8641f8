//! A share of a whole.

use std::fmt;
use std::str::FromStr;

/// A share of a whole, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Ratio(u32);

/// A text that is no ratio.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no ratio from 0 to 1 or from 0% to 100%")]
pub struct RatioError(String);

impl Ratio {
    /// The whole.
    pub const WHOLE: Self = Self(1_000_000);
    /// Nothing of it.
    pub const NONE: Self = Self(0);

    /// So many millionths; the whole at most.
    pub const fn from_millionths(millionths: u32) -> Self {
        if millionths > Self::WHOLE.0 { Self::WHOLE } else { Self(millionths) }
    }

    /// So many hundredths; the whole at most.
    pub const fn percent(percent: u32) -> Self {
        Self::from_millionths(percent.saturating_mul(10_000))
    }

    /// The share in millionths, at most a million.
    pub const fn per_million(self) -> u32 {
        self.0
    }

    /// Such a share of this one.
    #[expect(clippy::cast_possible_truncation, reason = "less than either")]
    pub const fn of(self, share: Self) -> Self {
        Self((self.0 as u64 * share.0 as u64 / Self::WHOLE.0 as u64) as u32)
    }

    /// The share as a number from 0 to 1.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / f64::from(Self::WHOLE.0)
    }

    /// Whether this time it is within the share.
    pub fn strikes(self, rng: &mut fastrand::Rng) -> bool {
        // Without a draw where there is no doubt: what is off costs nothing.
        self.0 > 0 && (self == Self::WHOLE || rng.u32(..Self::WHOLE.0) < self.0)
    }
}

/// `0.2` or `20%`, from nothing to the whole.
impl FromStr for Ratio {
    type Err = RatioError;

    fn from_str(text: &str) -> Result<Self, RatioError> {
        let error = || RatioError(text.into());
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
        if value <= Self::WHOLE.0 { Ok(Self(value)) } else { Err(error()) }
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_share_strikes_as_often_as_it_says() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut strikes = |ratio: Ratio| (0..100_000).filter(|_| ratio.strikes(&mut rng)).count();
        assert_eq!((strikes(Ratio::NONE), strikes(Ratio::WHOLE)), (0, 100_000));
        assert!((9_500..10_500).contains(&strikes(Ratio::percent(10))));
    }
}
