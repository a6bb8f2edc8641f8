//! Which of the two text formats a scraper wants, by its Accept header (RFC 9110 section 12.5.1).

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text, 0.0.4: what everything understands.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The format for an Accept header. OpenMetrics has to be asked for by name, and at least as much as plain text.
    pub fn negotiate(accept: Option<&str>) -> Self {
        let (mut plain, mut open) = (0, 0);
        for range in accept.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default();
            let (mut quality, mut version) = (1000, None);
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                let value = value.trim().trim_matches('"');
                match name.trim().to_ascii_lowercase().as_str() {
                    "q" => quality = thousandths(value),
                    "version" => version = Some(value),
                    _ => {}
                }
            }
            match media_type.to_ascii_lowercase().as_str() {
                "application/openmetrics-text" if version.is_none_or(|version| version == "1.0.0") => {
                    open = open.max(quality);
                }
                "text/plain" if version.is_none_or(|version| version == "0.0.4") => {
                    plain = plain.max(quality)
                }
                _ => {}
            }
        }
        if open > 0 && open >= plain { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The Content-Type of what is written.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A weight of `0` to `1` with at most three decimals; anything else weighs nothing.
fn thousandths(weight: &str) -> u16 {
    let (whole, decimals) = weight.split_once('.').unwrap_or((weight, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|b| b.is_ascii_digit()) {
        return 0;
    }
    let decimals = format!("{decimals:0<3}").parse().unwrap_or(0);
    match whole {
        "0" => decimals,
        "1" if decimals == 0 => 1000,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::Format::{self, OpenMetrics, Prometheus};

    fn check(accept: &str, expected: Format) {
        assert_eq!(Format::negotiate(Some(accept)), expected, "{accept:?}");
    }

    #[test]
    fn openmetrics_is_for_those_who_ask_for_it() {
        assert_eq!(Format::negotiate(None), Prometheus);
        check("", Prometheus);
        check("*/*", Prometheus);
        check("text/html, application/xhtml+xml, */*;q=0.8", Prometheus);
        check("application/openmetrics-text", OpenMetrics);
        check("Application/OpenMetrics-Text; Version=1.0.0; charset=utf-8", OpenMetrics);
        check(
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            OpenMetrics,
        );
        check(
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            OpenMetrics,
        );
    }

    #[test]
    fn weights_and_versions_decide() {
        check("application/openmetrics-text;q=0.4, text/plain;q=0.5", Prometheus);
        check("application/openmetrics-text;q=0", Prometheus);
        check("application/openmetrics-text;q=0.001", OpenMetrics);
        check("application/openmetrics-text;q=2", Prometheus);
        check("application/openmetrics-text;q=x", Prometheus);
        check("application/openmetrics-text;version=2.0.0", Prometheus);
        check("application/openmetrics-text;version=\"1.0.0\"", OpenMetrics);
    }
}
