//! Metrics as text: Prometheus 0.0.4 and OpenMetrics 1.0, which differ in little.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::UNIX_EPOCH;

use super::Format;
use super::registry::About;
use super::series::{Exemplar, Kind, Total, Value};

const UNITS: [&str; 3] = ["seconds", "bytes", "ratio"];

pub(super) struct Writer {
    format: Format,
    text: String,
    /// Every family.
    names: BTreeSet<&'static str>,
}

impl Writer {
    pub(super) fn new(format: Format, names: BTreeSet<&'static str>) -> Self {
        Self { format, text: String::with_capacity(16 << 10), names }
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
                Kind::Counter if self.clashes(about) => {
                    self.sample(about.name, "", about, &values, Bucket::NONE, total.value);
                }
                Kind::Counter => {
                    self.sample(base_name(about), "_total", about, &values, Bucket::NONE, total.value)
                }
                Kind::Gauge => self.sample(about.name, "", about, &values, Bucket::NONE, total.value),
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
            Kind::Counter if self.clashes(about) => "unknown",
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // OpenMetrics names a counter's family without the suffix of its samples.
        let suffix = match (about.kind, self.format) {
            (Kind::Counter, Format::Prometheus) => "_total",
            (Kind::Counter, Format::OpenMetrics) if self.clashes(about) => "_total",
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

    /// OpenMetrics would name a counter's family as another one is named. Then it is one whose type is not told, and whose name has
    /// the suffix.
    fn clashes(&self, about: &About) -> bool {
        self.format == Format::OpenMetrics
            && about.kind == Kind::Counter
            && self.names.contains(base_name(about))
    }

    fn histogram(&mut self, about: &About, values: &[&str], total: &Total) {
        let mut cumulative = 0;
        let bounds = about.bounds.iter().copied().chain([f64::INFINITY]);
        for (index, (bound, count)) in bounds.zip(&total.counts).enumerate() {
            cumulative += i128::from(*count);
            let bound = self.bound(bound);
            // The older format has no place for them.
            let exemplar = total.exemplars.get(index).copied().flatten();
            let exemplar = exemplar.filter(|_| self.format == Format::OpenMetrics);
            let bucket = Bucket { bound: Some(&bound), exemplar };
            self.sample(about.name, "_bucket", about, values, bucket, Value::Whole(cumulative));
        }
        self.sample(about.name, "_sum", about, values, Bucket::NONE, total.value);
        self.sample(about.name, "_count", about, values, Bucket::NONE, Value::Whole(cumulative));
    }

    fn sample(
        &mut self,
        name: &str,
        suffix: &str,
        about: &About,
        values: &[&str],
        bucket: Bucket<'_>,
        value: Value,
    ) {
        self.text.push_str(name);
        self.text.push_str(suffix);
        let labels = about.labels.iter().copied().zip(values.iter().copied());
        let mut before = '{';
        for (label, value) in labels.chain(bucket.bound.map(|bound| ("le", bound))) {
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
            Value::Whole(n) => write!(self.text, " {n}"),
            Value::Real(x) => write!(self.text, " {}", number(x)),
        };
        if let Some(exemplar) = bucket.exemplar {
            self.exemplar(&exemplar);
        }
        self.text.push('\n');
    }

    fn exemplar(&mut self, exemplar: &Exemplar) {
        let mut hex = |name, bytes: &[u8]| {
            let _ = write!(self.text, "{name}=\"");
            for byte in bytes {
                let _ = write!(self.text, "{byte:02x}");
            }
            self.text.push('"');
        };
        hex(" # {trace_id", &exemplar.trace);
        hex(",span_id", &exemplar.span);
        let at = exemplar.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let _ = write!(self.text, "}} {} {:.3}", number(exemplar.value.as_secs_f64()), at.as_secs_f64());
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

/// What stands beside a bucket's labels.
#[derive(Clone, Copy)]
struct Bucket<'a> {
    bound: Option<&'a str>,
    exemplar: Option<Exemplar>,
}

impl Bucket<'_> {
    const NONE: Self = Bucket { bound: None, exemplar: None };
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
