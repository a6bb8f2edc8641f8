//! The service map: callers to the left of whom they call.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::calls::{Calls, Edge};
use super::html::{Escaped, Ms, Percent, Rate, encoded, grade};
use crate::telemetry::Tally;

const WIDTH: usize = 168;
const HEIGHT: usize = 58;
/// From one column to the next: what an edge says stands between.
const ACROSS: usize = 306;
const DOWN: usize = 78;
const MARGIN: usize = 12;
/// How wide an edge's corners are.
const ROUND: usize = 8;
/// With more edges than these, what they say stands in the table and where the pointer rests.
const MOST_LABELS: usize = 60;

/// With more columns than these, each stands as near to the left as it can.
const MOST_COLUMNS: usize = 12;

/// Column and row.
type Spot = (usize, usize);

/// The map as an SVG image, each service a link to its page.
pub(super) fn draw(calls: &Calls) -> String {
    let places = places(&calls.edges);
    let columns = places.values().map(|(column, _)| column + 1).max().unwrap_or_default();
    let rows = places.values().map(|(_, row)| row + 1).max().unwrap_or_default();
    let (width, height) = (
        (columns * ACROSS).saturating_sub(ACROSS - WIDTH) + 2 * MARGIN,
        (rows * DOWN).saturating_sub(DOWN - HEIGHT) + 2 * MARGIN,
    );
    let mut svg = format!(
        "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"Service map\"><svg class=\"{}\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"group\" aria-label=\"The table of calls says the same\">",
        if calls.edges.len() > MOST_LABELS { "map many" } else { "map" }
    );
    let mut labels = String::new();
    for ((caller, called), tally) in &calls.edges {
        if let (Some(from), Some(to)) = (places.get(caller.as_str()), places.get(called.as_str())) {
            let calls_others = calls.edges.keys().filter(|(from, _)| from == caller).count() > 1;
            let turn = turn_of(*from, *to, calls_others);
            line(&mut svg, (*from, *to, turn), tally, calls);
            if calls.edges.len() <= MOST_LABELS {
                let height = label_height(*from, *to, turn);
                label(&mut labels, height, *to, &said_of(tally, badges(calls, called), calls));
            }
        }
    }
    // Above all lines, below all boxes.
    svg.push_str(&labels);
    for (name, place) in &places {
        box_of(&mut svg, name, *place, calls);
    }
    svg.push_str("</svg></div>");
    svg
}

fn corner((column, row): Spot) -> (usize, usize) {
    (MARGIN + column * ACROSS, MARGIN + row * DOWN)
}

/// Where an edge leaves its caller's row for that of whom it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// At once: others begin with it, or it comes from further away and runs along the row of its end.
    First,
    /// As late as it can, where others may come together.
    Last,
    /// It leads back.
    Back,
}

fn turn_of(from: Spot, to: Spot, calls_others: bool) -> Turn {
    if to.0 <= from.0 {
        Turn::Back
    } else if calls_others || to.0 > from.0 + 1 {
        Turn::First
    } else {
        Turn::Last
    }
}

/// The way from the right side of one box to just before the left side of another, round its corners.
fn way((x1, y1): Spot, (x2, y2): Spot, turn: Turn) -> String {
    let end = x2.saturating_sub(7);
    let x = match turn {
        Turn::Back => {
            let bend = (ACROSS - WIDTH) / 2;
            return format!("M{x1} {y1}C{} {y1} {} {y2} {end} {y2}", x1 + bend, x2.saturating_sub(bend));
        }
        _ if y1 == y2 => return format!("M{x1} {y1}H{end}"),
        Turn::First => x1 + ROUND,
        Turn::Last => end.saturating_sub(ROUND),
    };
    let (above, below) =
        if y1 < y2 { (y1 + ROUND, y2.saturating_sub(ROUND)) } else { (y1.saturating_sub(ROUND), y2 + ROUND) };
    format!(
        "M{x1} {y1}H{}Q{x} {y1} {x} {above}V{below}Q{x} {y2} {} {y2}H{end}",
        x.saturating_sub(ROUND),
        x + ROUND
    )
}

fn line(svg: &mut String, (from, to, turn): (Spot, Spot, Turn), tally: &Tally, calls: &Calls) {
    let ((x1, y1), (x2, y2)) = (corner(from), corner(to));
    let (x1, y1, y2) = (x1 + WIDTH, y1 + HEIGHT / 2, y2 + HEIGHT / 2);
    let plain = if tally.mtls_rate() < 1.0 { " plain" } else { "" };
    let class = grade(tally.success_rate());
    // Writing to a String cannot fail.
    let _ = write!(
        svg,
        "<path class=\"{class}{plain}\" d=\"{}\"><title>{}, {} succeeded, p99 {}, {} by mutual TLS</title></path>\
         <path class=\"head {class}\" d=\"M{x2} {y2}l-9 -5v10z\"></path>",
        way((x1, y1), (x2, y2), turn),
        Rate(calls.rps(tally)),
        Percent(tally.success_rate()),
        Ms(tally.quantile_ms(0.99)),
        Percent(tally.mtls_rate()),
    );
}

/// How far down an edge says what it has to say: in the row that it has for itself; half way where it leads back.
fn label_height(from: Spot, to: Spot, turn: Turn) -> usize {
    let ((_, y1), (_, y2)) = (corner(from), corner(to));
    let y = match turn {
        Turn::First => y2,
        Turn::Last => y1,
        Turn::Back => usize::midpoint(y1, y2),
    };
    y + HEIGHT / 2
}

/// Which kinds of policy stand before a service, and so before each call to it: `access · limit`.
fn badges(calls: &Calls, service: &str) -> String {
    calls.badges.get(service).into_iter().flatten().copied().collect::<Vec<_>>().join(" · ")
}

/// What an edge says, a line each with its class.
fn said_of(tally: &Tally, badges: String, calls: &Calls) -> [(String, String); 3] {
    let (class, success) = (grade(tally.success_rate()), tally.success_rate());
    let tls = match tally.mtls_rate() {
        1.0.. => "mTLS".to_owned(),
        0.0 => "plaintext".to_owned(),
        share => format!("mTLS {}", Percent(share)),
    };
    let failed = if success < 1.0 { format!(" · {}", Percent(success)) } else { String::new() };
    let warn = if tally.mtls_rate() < 1.0 { " warn" } else { "" };
    let rate = format!("{}<tspan class=\"{class}\">{failed}</tspan>", Rate(calls.rps(tally)));
    [
        (String::new(), rate),
        (format!(" sub{warn}"), format!("p99 {} · {tls}", Ms(tally.quantile_ms(0.99)))),
        (" sub badge".to_owned(), badges),
    ]
}

/// What an edge says, in the middle of its last gap: a line above it, the others below.
fn label(svg: &mut String, y: usize, to: Spot, lines: &[(String, String)]) {
    let x = corner(to).0.saturating_sub((ACROSS - WIDTH) / 2);
    for (y, (class, line)) in [y.saturating_sub(6), y + 15, y + 29].into_iter().zip(lines) {
        if !line.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(svg, "<text class=\"edge{class}\" x=\"{x}\" y=\"{y}\">{line}</text>");
        }
    }
}

fn box_of(svg: &mut String, name: &str, place: Spot, calls: &Calls) {
    let (x, y) = corner(place);
    let asked = calls.of(name);
    let (class, below) = match asked.requests() {
        0 => ("", "calls only".to_owned()),
        _ => (
            grade(asked.success_rate()),
            format!("{} · {}", Rate(calls.rps(&asked)), Percent(asked.success_rate())),
        ),
    };
    let short = name.rsplit('/').next().unwrap_or(name);
    let shown: String = if short.chars().count() > 21 {
        short.chars().take(20).chain(['…']).collect()
    } else {
        short.into()
    };
    let link = match name.split_once('/') {
        Some((namespace, service)) => format!("/services/{}/{}", encoded(namespace), encoded(service)),
        None => format!("/traces?attribute={}", encoded(&format!("weft.source={name}"))),
    };
    // Where each call to it says so already, it does not.
    let says_so = calls.edges.len() <= MOST_LABELS && asked.requests() > 0;
    let words = if says_so { String::new() } else { badges(calls, name) };
    let left = x + 12;
    // Writing to a String cannot fail.
    let _ = write!(
        svg,
        "<a href=\"{link}\"><rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"9\"><title>{}</title></rect>\
         <text x=\"{left}\" y=\"{}\">{}</text><text class=\"sub {class}\" x=\"{left}\" y=\"{}\">{below}</text><text class=\"sub badge\" x=\"{left}\" y=\"{}\">{words}</text></a>",
        Escaped(name),
        y + 19,
        Escaped(shown),
        y + 35,
        y + 50,
    );
}

/// Column and row of each: nobody stands to the left of who calls them, but where calls go round, and each beside its callers.
fn places(edges: &BTreeMap<Edge, Tally>) -> BTreeMap<&str, Spot> {
    let mut calls: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, to) in edges.keys().filter(|(from, to)| from != to) {
        calls.entry(from).or_default().insert(to);
        calls.entry(to).or_default();
    }
    // How many callers of each have no place yet.
    let mut waiting: BTreeMap<&str, usize> = calls.keys().map(|name| (*name, 0)).collect();
    for called in calls.values().flatten() {
        *waiting.entry(called).or_default() += 1;
    }
    let mut columns = BTreeMap::<&str, usize>::new();
    let mut settled: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    // Where all that are left wait for one another, the first by name begins.
    while let Some(name) = waiting.iter().min_by_key(|(_, callers)| **callers).map(|(name, _)| *name) {
        waiting.remove(name);
        let column = columns.get(name).copied().unwrap_or_default();
        settled.entry(column).or_default().push(name);
        for called in calls.get(name).into_iter().flatten() {
            if let Some(callers) = waiting.get_mut(called) {
                *callers -= 1;
                let known = columns.entry(called).or_default();
                *known = (*known).max(column + 1);
            }
        }
    }
    if settled.len() > MOST_COLUMNS {
        settled = by_distance(&calls);
    }
    rows(edges, settled)
}

/// Who is how far from those that nobody calls: where a way through all is long, that is what can be looked at.
fn by_distance<'n>(calls: &BTreeMap<&'n str, BTreeSet<&'n str>>) -> BTreeMap<usize, Vec<&'n str>> {
    let called: BTreeSet<&str> = calls.values().flatten().copied().collect();
    let mut seen = BTreeSet::new();
    let mut columns: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    // Whom nobody of these leads to begins anew: calls go round there.
    let first = calls.keys().filter(|name| !called.contains(*name)).copied().collect();
    let others = calls.keys().map(|name| vec![*name]);
    for mut here in std::iter::once::<Vec<&str>>(first).chain(others) {
        let mut column = 0;
        while !here.is_empty() {
            here.retain(|name| seen.insert(*name));
            let next = here.iter().filter_map(|name| calls.get(name)).flatten().copied().collect();
            columns.entry(column).or_default().append(&mut here);
            (here, column) = (next, column + 1);
        }
    }
    columns.retain(|_, names| !names.is_empty());
    columns
}

/// From left to right, each column in the order of its callers' rows, so that few lines cross.
fn rows<'n>(
    edges: &'n BTreeMap<Edge, Tally>,
    columns: BTreeMap<usize, Vec<&'n str>>,
) -> BTreeMap<&'n str, Spot> {
    let mut callers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in edges.keys() {
        callers.entry(to).or_default().push(from);
    }
    let mut places: BTreeMap<&str, Spot> = BTreeMap::new();
    for (column, mut names) in columns {
        // In thousandths of a row; who has no caller yet stands last.
        let middle = |name: &&str| {
            let rows = callers.get(*name).into_iter().flatten().filter_map(|caller| places.get(caller));
            let (count, sum) = rows.fold((0, 0), |(count, sum), (_, row)| (count + 1, sum + row));
            (sum * 1000).checked_div(count).unwrap_or(usize::MAX)
        };
        names.sort_by_cached_key(|name| (middle(name), *name));
        places.extend(names.into_iter().enumerate().map(|(row, name)| (name, (column, row))));
    }
    places
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use weft_proto::v1::GoldenRow;

    use super::*;

    fn edges(pairs: &[(&str, &str)]) -> BTreeMap<Edge, Tally> {
        let row =
            GoldenRow { requests: 600, failures: 6, buckets: vec![600], mutual: 600, ..Default::default() };
        let tally = Tally::of(&row, &[4_000]);
        pairs.iter().map(|(from, to)| (((*from).to_owned(), (*to).to_owned()), tally.clone())).collect()
    }

    fn calls(pairs: &[(&str, &str)]) -> Calls {
        let badges = BTreeMap::from([("b/orders".to_owned(), BTreeSet::from(["access", "limit"]))]);
        let edges = edges(pairs);
        let asked = edges.iter().map(|((_, to), tally)| (to.clone(), tally.clone())).collect();
        Calls { edges, over: Duration::from_secs(60), asked, badges, ..Calls::default() }
    }

    #[test]
    fn callers_stand_to_the_left_of_whom_they_call() {
        let edges = edges(&[("web", "orders"), ("orders", "stock"), ("web", "stock"), ("job", "orders")]);
        let columns: Vec<_> = places(&edges).into_iter().map(|(name, (column, _))| (name, column)).collect();
        assert_eq!(columns, [("job", 0), ("orders", 1), ("stock", 2), ("web", 0)]);
        let rows: BTreeSet<_> = places(&edges).into_values().collect();
        assert_eq!(rows.len(), 4, "nobody stands on another");
    }

    #[test]
    fn each_stands_beside_its_callers() {
        let edges = edges(&[("a", "z"), ("b", "y"), ("c", "x")]);
        let rows: Vec<_> = places(&edges).into_iter().map(|(name, (_, row))| (name, row)).collect();
        assert_eq!(rows, [("a", 0), ("b", 1), ("c", 2), ("x", 2), ("y", 1), ("z", 0)]);
    }

    #[test]
    fn a_long_way_through_all_is_no_wide_map() {
        let names: Vec<String> = (0..40).map(|number| format!("s{number:02}")).collect();
        let next = names.iter().zip(&names[1..]).map(|(from, to)| (from.as_str(), to.as_str()));
        let leaps = (1..39).map(|to| (names[0].as_str(), names[to].as_str()));
        let edges = edges(&next.chain(leaps).collect::<Vec<_>>());
        let places = places(&edges);
        assert_eq!(places.len(), 40);
        assert_eq!(places.values().map(|(column, _)| column).max(), Some(&2), "{places:?}");
        assert_eq!(places.values().collect::<BTreeSet<_>>().len(), 40, "nobody stands on another");
    }

    #[test]
    fn circles_end_and_nobody_is_left_out() {
        let edges = edges(&[("a", "b"), ("b", "c"), ("c", "a"), ("d", "d"), ("x", "a")]);
        let columns: Vec<_> = places(&edges).into_iter().map(|(name, (column, _))| (name, column)).collect();
        assert_eq!(columns, [("a", 1), ("b", 2), ("c", 3), ("x", 0)]);
        assert!(draw(&calls(&[("x", "a"), ("a", "x")])).contains(">x</text>"));
        assert_eq!(draw(&Calls::default()).matches("<path").count(), 0);
    }

    #[test]
    fn an_edge_says_how_often_how_well_how_fast_and_how_safely() {
        let svg = draw(&calls(&[("a/web", "b/orders")]));
        assert!(
            svg.contains("<title>10.0/s, 99.0 % succeeded, p99 4.0 ms, 100 % by mutual TLS</title>"),
            "{svg}"
        );
        assert!(svg.contains(">10.0/s<tspan class=\"warn\"> · 99.0 %</tspan>"), "{svg}");
        assert!(svg.contains("p99 4.0 ms · mTLS</text>") && svg.contains(">access · limit</text>"), "{svg}");
        assert_eq!(svg.matches("access").count(), 1, "on the call, not once more in the box: {svg}");
        assert!(svg.contains("href=\"/services/b/orders\""), "{svg}");
    }

    #[test]
    fn two_hundred_services_are_drawn_at_once_without_words_on_their_lines() {
        let names: Vec<String> = (0..200).map(|number| format!("shop/service-{number:03}")).collect();
        let next = |from: usize, step: usize| (from * 7 + step * 13) % 200;
        let pairs: Vec<_> = (0..200)
            .flat_map(|from| (1..6).map(move |step| (from, next(from, step))))
            .map(|(from, to)| (names[from].as_str(), names[to].as_str()))
            .collect();
        let calls = calls(&pairs);
        let begun = std::time::Instant::now();
        let svg = draw(&calls);
        eprintln!(
            "{} calls among 200 services: {:?}, {} KiB",
            calls.edges.len(),
            begun.elapsed(),
            svg.len() >> 10
        );
        assert_eq!((svg.matches("<rect").count(), svg.contains("class=\"edge")), (200, false));
    }

    #[test]
    fn edges_that_begin_or_end_together_say_what_they_say_apart() {
        let height = |from: Spot, to: Spot, calls_others| {
            label_height(from, to, turn_of(from, to, calls_others)) - HEIGHT / 2 - MARGIN
        };
        assert_eq!([height((0, 0), (1, 0), true), height((0, 0), (1, 1), true)], [0, DOWN]);
        assert_eq!([height((0, 0), (1, 0), false), height((0, 1), (1, 0), false)], [0, DOWN]);
        assert_eq!(height((0, 0), (2, 1), false), DOWN, "which runs along the row of its end");
        assert_eq!(height((1, 0), (0, 1), true), DOWN / 2);
    }

    #[test]
    fn edges_turn_where_nothing_is_said_and_end_before_their_arrow() {
        assert_eq!(way((0, 20), (100, 20), Turn::First), "M0 20H93");
        let down = "M0 20H0Q8 20 8 28V72Q8 80 16 80H93";
        assert_eq!(way((0, 20), (100, 80), Turn::First), down);
        let up = "M0 80H77Q85 80 85 72V28Q85 20 93 20H93";
        assert_eq!(way((0, 80), (100, 20), Turn::Last), up);
    }

    #[test]
    fn names_are_escaped() {
        let svg = draw(&calls(&[("a/<script>", "b\"><x")]));
        assert!(!svg.contains("<script>") && !svg.contains("<x"), "{svg}");
    }
}
