//! What is counted: families, and the handles of their series.

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

/// The series that a family may have unless it says otherwise.
const SERIES: usize = 2000;

/// A metric with a name, and a series for each combination of values of its `N` labels.
#[derive(Debug, Clone, Copy)]
pub struct Family<M, const N: usize> {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) labels: [&'static str; N],
    pub(super) bounds: &'static [f64],
    pub(super) series: usize,
    pub(super) shown: Shown,
    metric: PhantomData<fn() -> M>,
}

/// Whether a family is shown as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// It is.
    Itself,
    /// Only what is made of it ([`Registry::view`](super::Registry::view)) is.
    InViews,
}

/// A request that a histogram has counted: OpenMetrics shows one beside each bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exemplar {
    /// Its trace.
    pub trace: [u8; 16],
    /// Its span.
    pub span: [u8; 8],
    /// How long it took.
    pub value: Duration,
    /// When it ended.
    pub at: SystemTime,
}

/// How a family's series behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// They only grow.
    Counter,
    /// They go up and down.
    Gauge,
    /// They count values by size.
    Histogram,
}

/// Grows. Cheap to clone, clones count together.
#[derive(Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

/// Goes up and down. Shards are added up, so each worker counts what is its own.
#[derive(Clone, Default)]
pub struct Gauge(Arc<AtomicI64>);

/// Counts values by size.
#[derive(Clone)]
pub struct Histogram(Arc<Buckets>);

struct Buckets {
    bounds: &'static [f64],
    /// One for each bound and one for what is above; not cumulative.
    counts: Box<[AtomicU64]>,
    /// The bits of an `f64`.
    sum: AtomicU64,
    /// The last exemplar of each bucket, once there is one.
    exemplars: OnceLock<Box<[Mutex<Option<Exemplar>>]>>,
}

/// What a family is made of: [`Counter`], [`Gauge`] or [`Histogram`].
pub trait Metric: Clone + Send + Sync + sealed::Sealed + 'static {
    #[doc(hidden)]
    const KIND: Kind;
    #[doc(hidden)]
    fn new(bounds: &'static [f64]) -> Self;
    #[doc(hidden)]
    fn add_to(&self, total: &mut Total);
}

/// What the shards' series of the same labels add up to.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Total {
    pub(super) value: Value,
    pub(super) counts: Vec<u64>,
    pub(super) exemplars: Vec<Option<Exemplar>>,
}

/// Whole numbers stay whole, however large.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value {
    Whole(i128),
    Real(f64),
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Counter {}
    impl Sealed for super::Gauge {}
    impl Sealed for super::Histogram {}
}

impl<const N: usize> Family<Counter, N> {
    /// A counter; its name ends in `_total`.
    pub const fn counter(name: &'static str, help: &'static str, labels: [&'static str; N]) -> Self {
        Self::new(name, help, labels, &[])
    }
}

impl<const N: usize> Family<Gauge, N> {
    /// A gauge.
    pub const fn gauge(name: &'static str, help: &'static str, labels: [&'static str; N]) -> Self {
        Self::new(name, help, labels, &[])
    }
}

impl<const N: usize> Family<Histogram, N> {
    /// A histogram with the upper bounds of its buckets, ascending; the last, infinite one is added.
    pub const fn histogram(
        name: &'static str,
        help: &'static str,
        labels: [&'static str; N],
        bounds: &'static [f64],
    ) -> Self {
        Self::new(name, help, labels, bounds)
    }
}

impl<M, const N: usize> Family<M, N> {
    const fn new(
        name: &'static str,
        help: &'static str,
        labels: [&'static str; N],
        bounds: &'static [f64],
    ) -> Self {
        Self { name, help, labels, bounds, series: SERIES, shown: Shown::Itself, metric: PhantomData }
    }

    /// The same with another limit of series. What comes after them is counted in one whose labels are all
    /// `_overflow`.
    pub const fn with_series(mut self, series: usize) -> Self {
        self.series = series;
        self
    }

    /// The same, of which only what is made of it is shown.
    pub const fn in_views(mut self) -> Self {
        self.shown = Shown::InViews;
        self
    }
}

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// What this shard has counted.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Gauge {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// One less.
    pub fn decrement(&self) {
        self.add(-1);
    }

    /// So many more, or less.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// So many.
    pub fn set(&self, n: i64) {
        self.0.store(n, Relaxed);
    }

    /// What this shard says.
    pub fn value(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

impl Histogram {
    /// Counts a value. What is no number is not counted.
    pub fn observe(&self, value: f64) {
        if value.is_nan() {
            return;
        }
        let bucket = self.0.bucket(value);
        if let Some(count) = self.0.counts.get(bucket) {
            count.fetch_add(1, Relaxed);
        }
        let _ =
            self.0.sum.fetch_update(Relaxed, Relaxed, |bits| Some((f64::from_bits(bits) + value).to_bits()));
    }

    /// Counts a duration, in seconds.
    pub fn observe_duration(&self, duration: Duration) {
        self.observe(duration.as_secs_f64());
    }

    /// Counts what the exemplar tells of, and keeps it beside its bucket until there is another.
    pub fn observe_exemplar(&self, exemplar: Exemplar) {
        self.observe_duration(exemplar.value);
        let empty = || self.0.counts.iter().map(|_| Mutex::default()).collect();
        let kept = self.0.exemplars.get_or_init(empty);
        if let Some(kept) = kept.get(self.0.bucket(exemplar.value.as_secs_f64())) {
            *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(exemplar);
        }
    }
}

impl Metric for Counter {
    const KIND: Kind = Kind::Counter;

    fn new(_bounds: &'static [f64]) -> Self {
        Self::default()
    }

    fn add_to(&self, total: &mut Total) {
        total.value.add(Value::Whole(self.value().into()));
    }
}

impl Metric for Gauge {
    const KIND: Kind = Kind::Gauge;

    fn new(_bounds: &'static [f64]) -> Self {
        Self::default()
    }

    fn add_to(&self, total: &mut Total) {
        total.value.add(Value::Whole(self.value().into()));
    }
}

impl Metric for Histogram {
    const KIND: Kind = Kind::Histogram;

    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        let (sum, exemplars) = (AtomicU64::new(0f64.to_bits()), OnceLock::new());
        Self(Arc::new(Buckets { bounds, counts, sum, exemplars }))
    }

    fn add_to(&self, total: &mut Total) {
        total.value.add(Value::Real(f64::from_bits(self.0.sum.load(Relaxed))));
        total.counts.resize(self.0.counts.len(), 0);
        for (sum, count) in total.counts.iter_mut().zip(&self.0.counts) {
            *sum += count.load(Relaxed);
        }
        let exemplars = self.0.exemplars.get().into_iter().flatten();
        let found: Vec<_> =
            exemplars.map(|kept| *kept.lock().unwrap_or_else(PoisonError::into_inner)).collect();
        total.keep_newer(&found);
    }
}

impl Buckets {
    fn bucket(&self, value: f64) -> usize {
        self.bounds.partition_point(|bound| *bound < value)
    }
}

impl Total {
    /// Adds what a series of another's labels has.
    pub(super) fn merge(&mut self, other: &Self) {
        self.value.add(other.value);
        self.counts.resize(self.counts.len().max(other.counts.len()), 0);
        for (sum, count) in self.counts.iter_mut().zip(&other.counts) {
            *sum += count;
        }
        self.keep_newer(&other.exemplars);
    }

    /// How often something was counted.
    pub(super) fn count(&self) -> Self {
        let count = self.counts.iter().map(|count| i128::from(*count)).sum();
        Self { value: Value::Whole(count), ..Self::default() }
    }

    fn keep_newer(&mut self, others: &[Option<Exemplar>]) {
        self.exemplars.resize(self.exemplars.len().max(others.len()), None);
        for (kept, other) in self.exemplars.iter_mut().zip(others) {
            if let Some(other) = other
                && kept.is_none_or(|kept| kept.at < other.at)
            {
                *kept = Some(*other);
            }
        }
    }
}

impl Value {
    fn add(&mut self, other: Self) {
        *self = match (*self, other) {
            (Self::Whole(a), Self::Whole(b)) => Self::Whole(a.saturating_add(b)),
            (a, b) => Self::Real(a.real() + b.real()),
        }
    }

    pub(super) fn real(self) -> f64 {
        match self {
            #[expect(clippy::cast_precision_loss, reason = "only what is shown as a real number")]
            Self::Whole(n) => n as f64,
            Self::Real(x) => x,
        }
    }
}

impl From<f64> for Total {
    fn from(value: f64) -> Self {
        Self { value: Value::Real(value), ..Self::default() }
    }
}

impl Default for Value {
    fn default() -> Self {
        Self::Whole(0)
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Counter({})", self.value())
    }
}

impl fmt::Debug for Gauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gauge({})", self.value())
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Histogram").field(&self.0.counts).finish()
    }
}
