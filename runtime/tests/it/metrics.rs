//! Counting on several threads and what a scrape makes of it, to the byte.

use std::time::Duration;

use weft_runtime::metrics::{Counter, Family, Format, Gauge, Histogram, Registry};

const REQUESTS: Family<Counter, 2> =
    Family::counter("weft_requests_total", "Requests \"forwarded\",\nby \\ way.", ["route", "status"]);
const OPEN: Family<Gauge, 0> = Family::gauge("weft_connections", "Connections.", []);
const DURATION: Family<Histogram, 1> =
    Family::histogram("weft_duration_seconds", "Durations.", ["route"], &[0.005, 1.0, 2.5]);
const FEW: Family<Counter, 2> = Family::counter("weft_few_total", "Few.", ["a", "b"]).with_series(2);

fn check(registry: &Registry, format: Format, expected: &str) {
    let text = registry.render(format);
    assert_eq!(text, expected, "\n{text}");
}

/// The samples of a family, without its head.
fn samples(registry: &Registry, name: &str) -> Vec<String> {
    let text = registry.render(Format::Prometheus);
    text.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect()
}

#[test]
fn declared_families_are_shown_before_anything_is_counted() {
    let registry = Registry::default();
    registry.declare(&REQUESTS);
    registry.declare(&OPEN);
    check(
        &registry,
        Format::Prometheus,
        r#"# HELP weft_connections Connections.
# TYPE weft_connections gauge
weft_connections 0
# HELP weft_requests_total Requests "forwarded",\nby \\ way.
# TYPE weft_requests_total counter
"#,
    );
    check(&Registry::default(), Format::Prometheus, "");
    check(&Registry::default(), Format::OpenMetrics, "# EOF\n");
}

#[test]
fn openmetrics_names_families_without_total_and_ends_with_eof() {
    let registry = Registry::default();
    let shard = registry.shard();
    shard.series(&REQUESTS, &["/", "200"]).add(u64::MAX);
    shard.series(&DURATION, &["/"]).observe(1.0);
    check(
        &registry,
        Format::OpenMetrics,
        r#"# HELP weft_duration_seconds Durations.
# TYPE weft_duration_seconds histogram
# UNIT weft_duration_seconds seconds
weft_duration_seconds_bucket{route="/",le="0.005"} 0
weft_duration_seconds_bucket{route="/",le="1.0"} 1
weft_duration_seconds_bucket{route="/",le="2.5"} 1
weft_duration_seconds_bucket{route="/",le="+Inf"} 1
weft_duration_seconds_sum{route="/"} 1
weft_duration_seconds_count{route="/"} 1
# HELP weft_requests Requests \"forwarded\",\nby \\ way.
# TYPE weft_requests counter
weft_requests_total{route="/",status="200"} 18446744073709551615
# EOF
"#,
    );
}

#[test]
fn histograms_are_cumulative_and_end_at_infinity() {
    let registry = Registry::default();
    let histogram = registry.shard().series(&DURATION, &["/"]);
    for value in [0.001, 0.005, 0.006, 2.5, 100.0, f64::NAN] {
        histogram.observe(value);
    }
    histogram.observe_duration(Duration::from_millis(500));
    check(
        &registry,
        Format::Prometheus,
        r#"# HELP weft_duration_seconds Durations.
# TYPE weft_duration_seconds histogram
weft_duration_seconds_bucket{route="/",le="0.005"} 2
weft_duration_seconds_bucket{route="/",le="1"} 4
weft_duration_seconds_bucket{route="/",le="2.5"} 5
weft_duration_seconds_bucket{route="/",le="+Inf"} 6
weft_duration_seconds_sum{route="/"} 103.012
weft_duration_seconds_count{route="/"} 6
"#,
    );
}

#[test]
fn label_values_are_escaped() {
    let registry = Registry::default();
    registry.shard().series(&REQUESTS, &["a\"b\\c\nd é", ""]).increment();
    assert_eq!(
        samples(&registry, "weft_requests_total"),
        [r#"weft_requests_total{route="a\"b\\c\nd é",status=""} 1"#]
    );
}

#[test]
fn shards_are_added_up_by_their_labels() {
    let registry = Registry::default();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let shard = registry.shard();
            scope.spawn(move || {
                let counter = shard.series(&REQUESTS, &["/", "200"]);
                let gauge = shard.series(&OPEN, &[]);
                for _ in 0..10_000 {
                    counter.increment();
                    gauge.increment();
                }
                gauge.add(-9_990);
                gauge.decrement();
                shard.series(&REQUESTS, &["/", if worker == 0 { "500" } else { "503" }]).add(worker);
                shard.series(&DURATION, &["/"]).observe(0.25);
            });
        }
    });
    assert_eq!(samples(&registry, "weft_connections"), ["weft_connections 36"]);
    assert_eq!(
        samples(&registry, "weft_requests_total"),
        [
            r#"weft_requests_total{route="/",status="200"} 40000"#,
            r#"weft_requests_total{route="/",status="500"} 0"#,
            r#"weft_requests_total{route="/",status="503"} 6"#,
        ]
    );
    assert_eq!(
        samples(&registry, "weft_duration_seconds_sum"),
        [r#"weft_duration_seconds_sum{route="/"} 1"#]
    );
    assert_eq!(
        samples(&registry, "weft_duration_seconds_count"),
        [r#"weft_duration_seconds_count{route="/"} 4"#]
    );
}

#[test]
fn a_handle_and_its_clones_are_the_same_series() {
    let registry = Registry::default();
    let shard = registry.shard();
    let first = shard.series(&REQUESTS, &["/", "200"]);
    first.increment();
    shard.clone().series(&REQUESTS, &["/", "200"]).increment();
    first.clone().increment();
    assert_eq!(first.value(), 3);
    // Values that run together differently are not the same series.
    shard.series(&REQUESTS, &["/2", "00"]).add(9);
    assert_eq!(first.value(), 3);
}

#[test]
fn what_exceeds_a_family_is_counted_as_overflow_in_all_shards() {
    let registry = Registry::default();
    let (one, two) = (registry.shard(), registry.shard());
    one.series(&FEW, &["1", "1"]).increment();
    two.series(&FEW, &["2", "2"]).increment();
    one.series(&FEW, &["3", "3"]).increment();
    two.series(&FEW, &["4", "4"]).increment();
    two.series(&FEW, &["1", "1"]).increment();
    two.series(&FEW, &["4", "4"]).increment();
    assert_eq!(
        samples(&registry, "weft_few_total"),
        [
            r#"weft_few_total{a="1",b="1"} 2"#,
            r#"weft_few_total{a="2",b="2"} 1"#,
            r#"weft_few_total{a="_overflow",b="_overflow"} 3"#,
        ]
    );
}

#[test]
fn a_name_belongs_to_the_family_that_came_first() {
    const OTHER: Family<Gauge, 1> = Family::gauge("weft_connections", "Other.", ["other"]);
    let registry = Registry::default();
    registry.shard().series(&OPEN, &[]).set(-5);
    registry.shard().series(&OTHER, &["x"]).set(7);
    registry.gauge_from("weft_connections", "Other.", [], || vec![([], 8.0)]);
    check(
        &registry,
        Format::Prometheus,
        "# HELP weft_connections Connections.\n# TYPE weft_connections gauge\nweft_connections -5\n",
    );
}

#[test]
fn a_counter_s_samples_end_in_total_whatever_its_name() {
    const SHORT: Family<Counter, 0> = Family::counter("weft_short", "Short.", []);
    let registry = Registry::default();
    registry.declare(&SHORT);
    check(
        &registry,
        Format::Prometheus,
        "# HELP weft_short_total Short.\n# TYPE weft_short_total counter\nweft_short_total 0\n",
    );
}

#[test]
fn callbacks_are_asked_at_each_scrape() {
    let registry = Registry::default();
    let asked = std::sync::atomic::AtomicU64::new(0);
    registry.counter_from("weft_asked_total", "Asked.", [], move || {
        let before = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        vec![([], before as f64)]
    });
    registry.gauge_from("weft_expiry_seconds", "Expiry.", ["kind"], || {
        vec![(["b".into()], f64::INFINITY), (["a".into()], 0.1), (["b".into()], f64::NEG_INFINITY)]
    });
    registry.gauge_from("weft_nothing", "Nothing.", [], Vec::new);
    assert_eq!(samples(&registry, "weft_asked"), ["weft_asked_total 0"]);
    check(
        &registry,
        Format::OpenMetrics,
        r#"# HELP weft_asked Asked.
# TYPE weft_asked counter
weft_asked_total 1
# HELP weft_expiry_seconds Expiry.
# TYPE weft_expiry_seconds gauge
# UNIT weft_expiry_seconds seconds
weft_expiry_seconds{kind="a"} 0.1
weft_expiry_seconds{kind="b"} -Inf
# HELP weft_nothing Nothing.
# TYPE weft_nothing gauge
# EOF
"#,
    );
}

#[test]
fn the_process_and_its_tasks_are_described() {
    let registry = Registry::new();
    let text = registry.render(Format::Prometheus);
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
        "process_threads",
    ] {
        let sample = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value: f64 = sample.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap();
        assert!(value >= 0.0, "{name} {value}");
    }
    for name in ["weft_tasks", "weft_tasks_started_total", "weft_task_panics_total"] {
        assert!(text.contains(&format!("# TYPE {name} ")), "{text}");
    }
}

#[test]
fn a_counter_whose_name_a_gauge_has_keeps_its_own_in_openmetrics() {
    const OPENED: Family<Counter, 0> =
        Family::counter("weft_connections_total", "Connections that were opened.", []);
    let registry = Registry::default();
    registry.declare(&OPEN);
    registry.shard().series(&OPENED, &[]).increment();
    check(
        &registry,
        Format::OpenMetrics,
        "# HELP weft_connections Connections.
# TYPE weft_connections gauge
weft_connections 0
# HELP weft_connections_total Connections that were opened.
# TYPE weft_connections_total unknown
weft_connections_total 1
# EOF
",
    );
}

#[test]
fn a_family_is_made_of_another_ones_series() {
    const ALL: Family<Histogram, 2> =
        Family::histogram("weft_all", "Everything.", ["route", "status"], &[1.0]).in_views();
    const BY_ROUTE: Family<Histogram, 1> = Family::histogram("weft_seconds", "By route.", ["route"], &[1.0]);
    const FAILED: Family<Counter, 1> = Family::counter("weft_failed_total", "Failed.", ["route"]);
    let registry = Registry::default();
    registry.view(&BY_ROUTE, &ALL, |[route, _]| Some([(*route).to_owned()]));
    registry.view(&FAILED, &ALL, |[route, status]| (*status == "500").then(|| [(*route).to_owned()]));
    for (shard, status) in [(registry.shard(), "200"), (registry.shard(), "500"), (registry.shard(), "500")] {
        shard.series(&ALL, &["/", status]).observe(0.5);
    }
    check(
        &registry,
        Format::Prometheus,
        r#"# HELP weft_failed_total Failed.
# TYPE weft_failed_total counter
weft_failed_total{route="/"} 2
# HELP weft_seconds By route.
# TYPE weft_seconds histogram
weft_seconds_bucket{route="/",le="1"} 3
weft_seconds_bucket{route="/",le="+Inf"} 3
weft_seconds_sum{route="/"} 1.5
weft_seconds_count{route="/"} 3
"#,
    );
}
