//! Metrics as text: Prometheus 0.0.4 and OpenMetrics 1.0, which differ in little.

use std::fmt::Write as _;

use super::Format;
use super::registry::About;
use super::series::{Kind, Total, Value};

const UNITS: [&str; 3] = ["seconds", "bytes", "ratio"];

pub(super) struct Writer {
    format: Format,
    text: String,
}

impl Writer {
    pub(super) fn new(format: Format) -> Self {
        Self { format, text: String::with_capacity(16 << 10) }
    }

    /// One family, whose samples are all here and in order.
    pub(super) fn family<'a>(
        &mut self,
        about: &About,
        series: impl Iterator<Item = (Vec<&'a str>, &'a Total)>,
    ) {
        self.head(about);
        for (values, total) in series {
            match about.kind {
                Kind::Counter => self.sample(base_name(about), "_total", about, &values, None, total.value),
                Kind::Gauge => self.sample(about.name, "", about, &values, None, total.value),
                Kind::Histogram => self.histogram(about, &values, total),
            }
        }
    }

    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn head(&mut self, about: &About) {
        let kind = match about.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // OpenMetrics names a counter's family without the suffix of its samples.
        let suffix = match (about.kind, self.format) {
            (Kind::Counter, Format::Prometheus) => "_total",
            (Kind::Counter | Kind::Gauge | Kind::Histogram, _) => "",
        };
        let name = base_name(about);
        let _ = write!(self.text, "# HELP {name}{suffix} ");
        self.escape(about.help, self.format == Format::OpenMetrics);
        let _ = write!(self.text, "\n# TYPE {name}{suffix} {kind}\n");
        let unit = UNITS.iter().find(|unit| name.strip_suffix(*unit).is_some_and(|rest| rest.ends_with('_')));
        if let (Format::OpenMetrics, Some(unit)) = (self.format, unit) {
            let _ = writeln!(self.text, "# UNIT {name} {unit}");
        }
    }

    fn histogram(&mut self, about: &About, values: &[&str], total: &Total) {
        let mut cumulative = 0;
        let bounds = about.bounds.iter().copied().chain([f64::INFINITY]);
        for (bound, count) in bounds.zip(&total.counts) {
            cumulative += i128::from(*count);
            let bound = self.bound(bound);
            self.sample(about.name, "_bucket", about, values, Some(&bound), Value::Whole(cumulative));
        }
        self.sample(about.name, "_sum", about, values, None, total.value);
        self.sample(about.name, "_count", about, values, None, Value::Whole(cumulative));
    }

    fn sample(
        &mut self,
        name: &str,
        suffix: &str,
        about: &About,
        values: &[&str],
        bound: Option<&str>,
        value: Value,
    ) {
        self.text.push_str(name);
        self.text.push_str(suffix);
        let labels = about.labels.iter().copied().zip(values.iter().copied());
        let mut before = '{';
        for (label, value) in labels.chain(bound.map(|bound| ("le", bound))) {
            self.text.push(before);
            before = ',';
            self.text.push_str(label);
            self.text.push_str("=\"");
            self.escape(value, true);
            self.text.push('"');
        }
        if before == ',' {
            self.text.push('}');
        }
        let _ = match value {
            Value::Whole(n) => writeln!(self.text, " {n}"),
            Value::Real(x) => writeln!(self.text, " {}", number(x)),
        };
    }

    fn escape(&mut self, text: &str, quotes: bool) {
        for character in text.chars() {
            match character {
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '"' if quotes => self.text.push_str("\\\""),
                other => self.text.push(other),
            }
        }
    }

    /// OpenMetrics writes whole bounds with a decimal.
    fn bound(&self, bound: f64) -> String {
        match self.format {
            Format::OpenMetrics if bound.is_finite() => format!("{bound:?}"),
            Format::OpenMetrics | Format::Prometheus => number(bound),
        }
    }
}

fn base_name(about: &About) -> &'static str {
    match about.kind {
        Kind::Counter => about.name.strip_suffix("_total").unwrap_or(about.name),
        Kind::Gauge | Kind::Histogram => about.name,
    }
}

fn number(x: f64) -> String {
    if x == f64::INFINITY {
        "+Inf".into()
    } else if x == f64::NEG_INFINITY {
        "-Inf".into()
    } else {
        x.to_string()
    }
}
