//! Where requests carry their tokens.

use super::Flaw;
use crate::model::{TokenPlace, TokenProvider};

/// The tokens that a request carries, each with its place. A place is looked at once, however many providers name it.
#[derive(Debug, Default)]
pub struct Carried<'p> {
    found: Vec<(&'p TokenPlace, Vec<u8>)>,
}

impl<'p> Carried<'p> {
    /// Looks at all places of all providers. `each_value` shows the values of a header.
    pub fn find(
        providers: &'p [TokenProvider],
        query: Option<&str>,
        each_value: impl Fn(&str, &mut dyn FnMut(&[u8])),
    ) -> Self {
        let mut found = Vec::new();
        let mut seen: Vec<&TokenPlace> = Vec::new();
        for place in providers.iter().flat_map(|provider| &provider.places) {
            if seen.contains(&place) {
                continue;
            }
            seen.push(place);
            match place {
                TokenPlace::Header { name, prefix } => each_value(name, &mut |value| {
                    if let Some(token) = behind(value, prefix.as_bytes()) {
                        found.push((place, token.to_vec()));
                    }
                }),
                TokenPlace::Parameter(name) => {
                    let parameters =
                        query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
                    let named = parameters.filter(|(key, _)| *key == name.as_str());
                    found.extend(named.map(|(_, value)| (place, value.as_bytes().to_vec())));
                }
            }
        }
        Self { found }
    }

    /// The token and its place; none where there is none. Of several nobody could say which counts.
    pub fn only(&self) -> Result<Option<(&'p TokenPlace, &str)>, Flaw> {
        match self.found.as_slice() {
            [] => Ok(None),
            [(place, token)] => match str::from_utf8(token) {
                Ok(token) => Ok(Some((place, token))),
                Err(_) => Err(Flaw::Encoding),
            },
            _ => Err(Flaw::Several),
        }
    }
}

/// What stands behind a prefix; nothing, where it does not begin so. A prefix of a word alone is followed by spaces.
fn behind<'v>(value: &'v [u8], prefix: &[u8]) -> Option<&'v [u8]> {
    let (begin, rest) = value.split_at_checked(prefix.len())?;
    begin.eq_ignore_ascii_case(prefix).then(|| rest.trim_ascii())
}

/// A query without the parameters of a name; none where nothing is left of it.
pub fn strip_parameter(query: &str, name: &str) -> Option<String> {
    let is_other = |pair: &&str| pair.split_once('=').map_or(*pair, |(key, _)| key) != name;
    let kept: Vec<&str> = query.split('&').filter(is_other).collect();
    (!kept.is_empty()).then(|| kept.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stands_behind_its_prefix() {
        for (value, expected) in [
            ("Bearer abc", Some("abc")),
            ("bearer   abc ", Some("abc")),
            ("Basic abc", None),
            ("Bearer", None),
            ("Bearerabc", None),
        ] {
            assert_eq!(behind(value.as_bytes(), b"Bearer "), expected.map(str::as_bytes), "{value}");
        }
        assert_eq!(behind(b"abc", b""), Some(&b"abc"[..]));
    }

    #[test]
    fn a_parameter_is_taken_out_of_a_query() {
        assert_eq!(strip_parameter("a=1&access_token=x&b=2", "access_token").as_deref(), Some("a=1&b=2"));
        assert_eq!(strip_parameter("access_token=x", "access_token"), None);
        assert_eq!(strip_parameter("access_token&c", "access_token").as_deref(), Some("c"));
    }
}
