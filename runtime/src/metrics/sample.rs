//! A series as a value, for who reads metrics within the process.

use super::registry::About;
use super::series::Total;

/// One series of a family, as it stood when it was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    labels: Vec<(&'static str, String)>,
    value: f64,
    buckets: Vec<u64>,
    bounds: &'static [f64],
}

impl Sample {
    pub(super) fn of(about: &About, values: Vec<&str>, total: &Total) -> Self {
        let labels = about.labels.iter().copied().zip(values.into_iter().map(ToOwned::to_owned));
        Self {
            labels: labels.collect(),
            value: total.value.real(),
            buckets: total.counts.clone(),
            bounds: about.bounds,
        }
    }

    /// The value of a label; empty where the family has none of that name.
    pub fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| *label == name).map_or("", |(_, value)| value)
    }

    /// What was counted; of a histogram, the sum.
    pub fn value(&self) -> f64 {
        self.value
    }

    /// Of a histogram, the counts of its buckets, not cumulative: one for each bound, and one for what is above the last.
    pub fn buckets(&self) -> &[u64] {
        &self.buckets
    }

    /// Of a histogram, the upper bounds of its buckets.
    pub fn bounds(&self) -> &'static [f64] {
        self.bounds
    }
}
