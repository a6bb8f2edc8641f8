//! Where families and shards meet.

use std::any::Any;
use std::collections::{BTreeMap, HashMap, HashSet, btree_map};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::sample::Sample;
use super::series::{Family, Histogram, Kind, Metric, Shown, Total};
use super::{Format, process, text};

/// The value of every label of the series that takes what no other may.
const OVERFLOW: &str = "_overflow";
/// Ends each label's value in a series' key: a byte that UTF-8 never holds.
const END: u8 = 0xff;

/// All the metrics of a process. Cheap to clone. The default is an empty one.
///
/// A name belongs to what uses it first; what comes second under that name is counted, reported once and not shown.
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<BTreeMap<&'static str, Entry>>>);

/// One thread's series. Cheap to clone; clones are the same shard.
#[derive(Clone)]
pub struct Shard {
    registry: Registry,
    tables: Arc<Mutex<HashMap<&'static str, Arc<dyn Any + Send + Sync>>>>,
}

#[derive(Clone)]
struct Entry {
    about: Arc<About>,
    source: Source,
}

/// What stands above a family's samples.
pub(super) struct About {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: Vec<&'static str>,
    pub(super) bounds: &'static [f64],
    shown: Shown,
}

#[derive(Clone)]
enum Source {
    Shards { keys: Arc<Keys>, tables: Vec<Arc<dyn Scrape>> },
    Callback(Callback),
    View { of: &'static str, project: Projection },
}

/// The labels' values of what a series is part of.
type Projection = Arc<dyn Fn(&[&str]) -> Option<Vec<String>> + Send + Sync>;

/// What the series of a family add up to, by their keys.
type Totals = BTreeMap<Arc<[u8]>, Total>;

type Callback = Arc<dyn Fn() -> BTreeMap<Vec<String>, Total> + Send + Sync>;

/// The keys of a family's series in all shards, so that the limit is one for all.
struct Keys {
    limit: usize,
    labels: usize,
    known: Mutex<HashSet<Arc<[u8]>>>,
}

/// One shard's series of one family.
struct Table<M> {
    keys: Arc<Keys>,
    series: Mutex<Series<M>>,
}

struct Series<M> {
    by_key: HashMap<Arc<[u8]>, M>,
    key: Vec<u8>,
}

trait Scrape: Send + Sync {
    fn add_to(&self, totals: &mut Totals);
}

impl Registry {
    /// A registry that knows the process (`process_*`) and its tasks (`weft_tasks*`).
    pub fn new() -> Self {
        let registry = Self::default();
        process::register(&registry);
        registry
    }

    /// A shard, for one thread to count in.
    pub fn shard(&self) -> Shard {
        Shard { registry: self.clone(), tables: Arc::default() }
    }

    /// Makes a family known, so that it is shown before anything is counted; one without labels is shown as zero.
    pub fn declare<M: Metric, const N: usize>(&self, family: &Family<M, N>) {
        let shard = self.shard();
        let table = shard.table(family);
        if N == 0 {
            table.get(&[], family.bounds);
        }
    }

    /// A gauge whose series are asked for when somebody scrapes.
    pub fn gauge_from<const N: usize, S>(
        &self,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; N],
        samples: S,
    ) where
        S: Fn() -> Vec<([String; N], f64)> + Send + Sync + 'static,
    {
        self.callback(Kind::Gauge, name, help, labels, samples);
    }

    /// A counter whose series are asked for when somebody scrapes; its name ends in `_total`.
    pub fn counter_from<const N: usize, S>(
        &self,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; N],
        samples: S,
    ) where
        S: Fn() -> Vec<([String; N], f64)> + Send + Sync + 'static,
    {
        self.callback(Kind::Counter, name, help, labels, samples);
    }

    /// A family that is made of another one when somebody scrapes: `project` says under which values a series counts, if
    /// under any. A counter counts how often the other one has observed something.
    pub fn view<M: Metric, const N: usize, const L: usize>(
        &self,
        family: &Family<M, N>,
        of: &Family<Histogram, L>,
        project: fn(&[&str; L]) -> Option<[String; N]>,
    ) {
        self.declare(of);
        let project: Projection = Arc::new(move |values| Some(project(values.try_into().ok()?)?.to_vec()));
        let source = Source::View { of: of.name, project };
        match self.entries().entry(family.name) {
            btree_map::Entry::Vacant(free) => {
                free.insert(Entry { about: Arc::new(About::of(family, of.bounds)), source });
            }
            btree_map::Entry::Occupied(_) => taken(family.name),
        }
    }

    /// Everything, as text, families and series in the order of their names.
    pub fn render(&self, format: Format) -> String {
        // Callbacks may take locks of their own, so none is held while they run.
        let entries: Vec<Entry> = self.entries().values().cloned().collect();
        let mut writer = text::Writer::new(format, entries.iter().map(|entry| entry.about.name).collect());
        let mut viewed: HashMap<&str, Totals> = HashMap::new();
        for Entry { about, source } in &entries {
            match source {
                Source::Shards { .. } if about.shown == Shown::InViews => {}
                Source::Shards { tables, .. } => {
                    let totals = add_up(tables);
                    writer.family(about, totals.iter().map(|(key, total)| (values_of(key), total)));
                }
                Source::View { of, project } => {
                    let totals = viewed.entry(of).or_insert_with(|| totals_of(&entries, of));
                    let samples = projected(totals, about.kind, project);
                    let samples = samples.iter();
                    writer.family(
                        about,
                        samples.map(|(values, total)| (values.iter().map(String::as_str).collect(), total)),
                    );
                }
                Source::Callback(callback) => {
                    let samples = callback();
                    writer.family(
                        about,
                        samples
                            .iter()
                            .map(|(values, total)| (values.iter().map(String::as_str).collect(), total)),
                    );
                }
            }
        }
        writer.finish()
    }

    /// The series of one family, added up over all shards; none where there is no such family.
    pub fn samples(&self, name: &str) -> Vec<Sample> {
        let entries: Vec<Entry> = self.entries().values().cloned().collect();
        let Some(Entry { about, source }) = entries.iter().find(|entry| entry.about.name == name) else {
            return Vec::new();
        };
        let named = |(values, total): (&Vec<String>, &Total)| {
            Sample::of(about, values.iter().map(String::as_str).collect(), total)
        };
        match source {
            Source::Shards { tables, .. } => {
                let totals = add_up(tables);
                totals.iter().map(|(key, total)| Sample::of(about, values_of(key), total)).collect()
            }
            Source::View { of, project } => {
                projected(&totals_of(&entries, of), about.kind, project).iter().map(named).collect()
            }
            Source::Callback(callback) => callback().iter().map(named).collect(),
        }
    }

    fn callback<const N: usize, S>(
        &self,
        kind: Kind,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; N],
        samples: S,
    ) where
        S: Fn() -> Vec<([String; N], f64)> + Send + Sync + 'static,
    {
        let about = About { name, help, kind, labels: labels.to_vec(), bounds: &[], shown: Shown::Itself };
        let about = Arc::new(about);
        let callback: Callback = Arc::new(move || {
            let samples = samples().into_iter();
            samples.map(|(values, value)| (values.to_vec(), Total::from(value))).collect()
        });
        match self.entries().entry(name) {
            btree_map::Entry::Vacant(free) => {
                free.insert(Entry { about, source: Source::Callback(callback) });
            }
            btree_map::Entry::Occupied(_) => taken(name),
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<&'static str, Entry>> {
        lock(&self.0)
    }
}

impl Shard {
    /// The handle of a family's series with these values of its labels: to be kept where it is used often. Past the
    /// family's limit it is the series whose values are all `_overflow`.
    pub fn series<M: Metric, const N: usize>(&self, family: &Family<M, N>, values: &[&str; N]) -> M {
        self.table(family).get(values, family.bounds)
    }

    fn table<M: Metric, const N: usize>(&self, family: &Family<M, N>) -> Arc<Table<M>> {
        let mut tables = lock(&self.tables);
        if let Some(table) = tables.get(family.name).cloned().and_then(|table| table.downcast().ok()) {
            return table;
        }
        let table = self.registry.table(family);
        tables.insert(family.name, table.clone());
        table
    }
}

impl Registry {
    /// A new table for a family, known to the scrape unless the name is taken.
    fn table<M: Metric, const N: usize>(&self, family: &Family<M, N>) -> Arc<Table<M>> {
        let mut entries = self.entries();
        let entry = entries.entry(family.name).or_insert_with(|| Entry {
            about: Arc::new(About::of(family, family.bounds)),
            source: Source::Shards { keys: Arc::new(Keys::new(family.series, N)), tables: Vec::new() },
        });
        let same = entry.about.kind == M::KIND
            && entry.about.labels == family.labels
            && entry.about.bounds == family.bounds;
        match &mut entry.source {
            Source::Shards { keys, tables } if same => {
                let table = Arc::new(Table::new(keys.clone()));
                tables.push(table.clone());
                table
            }
            Source::Shards { .. } | Source::Callback(_) | Source::View { .. } => {
                taken(family.name);
                Arc::new(Table::new(Arc::new(Keys::new(family.series, N))))
            }
        }
    }
}

impl About {
    fn of<M: Metric, const N: usize>(family: &Family<M, N>, bounds: &'static [f64]) -> Self {
        let Family { name, help, labels, shown, .. } = *family;
        Self { name, help, kind: M::KIND, labels: labels.to_vec(), bounds, shown }
    }
}

impl Keys {
    fn new(limit: usize, labels: usize) -> Self {
        Self { limit, labels, known: Mutex::default() }
    }

    /// The key to count under: this one if it is known or there is room, else the overflow's.
    fn admit(&self, key: &[u8]) -> Arc<[u8]> {
        let mut known = lock(&self.known);
        if let Some(key) = known.get(key) {
            return key.clone();
        }
        let key =
            if known.len() < self.limit { key.into() } else { key_of(&vec![OVERFLOW; self.labels]).into() };
        known.insert(Arc::clone(&key));
        key
    }
}

impl<M: Metric> Table<M> {
    fn new(keys: Arc<Keys>) -> Self {
        Self { keys, series: Mutex::new(Series { by_key: HashMap::new(), key: Vec::new() }) }
    }

    fn get(&self, values: &[&str], bounds: &'static [f64]) -> M {
        let mut series = lock(&self.series);
        let Series { by_key, key } = &mut *series;
        key.clear();
        write_key(key, values);
        if let Some(metric) = by_key.get(key.as_slice()) {
            return metric.clone();
        }
        let key = self.keys.admit(key);
        by_key.entry(key).or_insert_with(|| M::new(bounds)).clone()
    }
}

impl<M: Metric> Scrape for Table<M> {
    fn add_to(&self, totals: &mut Totals) {
        for (key, metric) in &lock(&self.series).by_key {
            metric.add_to(totals.entry(key.clone()).or_default());
        }
    }
}

fn add_up(tables: &[Arc<dyn Scrape>]) -> Totals {
    let mut totals = Totals::new();
    tables.iter().for_each(|table| table.add_to(&mut totals));
    totals
}

fn totals_of(entries: &[Entry], name: &str) -> Totals {
    let found = entries.iter().find(|entry| entry.about.name == name);
    match found.map(|entry| &entry.source) {
        Some(Source::Shards { tables, .. }) => add_up(tables),
        _ => Totals::new(),
    }
}

fn projected(totals: &Totals, kind: Kind, project: &Projection) -> BTreeMap<Vec<String>, Total> {
    let mut samples: BTreeMap<Vec<String>, Total> = BTreeMap::new();
    for (key, total) in totals {
        let Some(values) = project(&values_of(key)) else { continue };
        let sample = samples.entry(values).or_default();
        match kind {
            Kind::Histogram => sample.merge(total),
            Kind::Counter | Kind::Gauge => sample.merge(&total.count()),
        }
    }
    samples
}

fn taken(name: &str) {
    tracing::error!(metric = name, "two metrics have this name; the second is not shown");
}

fn write_key(key: &mut Vec<u8>, values: &[&str]) {
    for value in values {
        key.extend_from_slice(value.as_bytes());
        key.push(END);
    }
}

fn key_of(values: &[&str]) -> Vec<u8> {
    let mut key = Vec::new();
    write_key(&mut key, values);
    key
}

fn values_of(key: &[u8]) -> Vec<&str> {
    let ended = key.strip_suffix(&[END]);
    let values = ended.into_iter().flat_map(|values| values.split(|byte| *byte == END));
    values.map(|value| str::from_utf8(value).unwrap_or_default()).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.entries().keys()).finish()
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(lock(&self.tables).keys()).finish()
    }
}
