//! The service map: callers to the left of whom they call.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::calls::{Calls, Edge};
use super::html::{Escaped, Millis, encoded};

const WIDTH: usize = 150;
const HEIGHT: usize = 42;
const ACROSS: usize = 250;
const DOWN: usize = 66;
const MARGIN: usize = 12;

/// The map as an SVG image, each service a link to its page.
pub(super) fn draw(edges: &BTreeMap<Edge, Calls>) -> String {
    let places = places(edges);
    let columns = places.values().map(|(column, _)| column + 1).max().unwrap_or_default();
    let rows = places.values().map(|(_, row)| row + 1).max().unwrap_or_default();
    let (width, height) =
        ((columns * ACROSS).saturating_sub(ACROSS - WIDTH) + 2 * MARGIN, rows * DOWN + 2 * MARGIN);
    let mut svg = format!(
        "<div class=\"wide\"><svg class=\"map\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"Service map; the table below says the same\">"
    );
    for ((from, to), calls) in edges {
        if let (Some(from), Some(to)) = (places.get(from.as_str()), places.get(to.as_str())) {
            line(&mut svg, *from, *to, calls);
        }
    }
    for (name, place) in &places {
        let asked: Vec<_> = edges.iter().filter(|((_, to), _)| to == name).map(|(_, calls)| calls).collect();
        box_of(&mut svg, name, *place, &asked);
    }
    svg.push_str("</svg></div>");
    svg
}

fn corner((column, row): (usize, usize)) -> (usize, usize) {
    (MARGIN + column * ACROSS, MARGIN + row * DOWN)
}

fn line(svg: &mut String, from: (usize, usize), to: (usize, usize), calls: &Calls) {
    let ((x1, y1), (x2, y2)) = (corner(from), corner(to));
    let (x1, y1, y2) = (x1 + WIDTH, y1 + HEIGHT / 2, y2 + HEIGHT / 2);
    let bend = (ACROSS - WIDTH) / 2;
    let bad = if calls.failed > 0 { "bad " } else { "" };
    let plain = if calls.plaintext > 0 { "plain" } else { "" };
    // Writing to a String cannot fail.
    let _ = write!(
        svg,
        "<path class=\"{bad}{plain}\" d=\"M{x1} {y1}C{} {y1} {} {y2} {} {y2}\"><title>{} calls, {:.1} % answered well, p99 {}, {}</title></path>\
         <path class=\"head\" d=\"M{x2} {y2}l-8 -4v8z\"></path>",
        x1 + bend,
        x2.saturating_sub(bend),
        x2.saturating_sub(6),
        calls.count,
        calls.success() * 100.0,
        Millis(calls.p99()),
        if calls.plaintext > 0 { "plaintext" } else { "mutual TLS" },
    );
}

fn box_of(svg: &mut String, name: &str, place: (usize, usize), asked: &[&Calls]) {
    let (x, y) = corner(place);
    let (count, failed) = asked.iter().fold((0, 0), |(c, f), calls| (c + calls.count, f + calls.failed));
    let class = match (count, failed) {
        (0, _) => "",
        (_, 0) => "good",
        _ => "bad",
    };
    let below = match (count, failed) {
        (0, _) => "calls only".to_owned(),
        (_, 0) => format!("{count} calls"),
        _ => format!("{count} calls, {failed} failed"),
    };
    let short = name.rsplit('/').next().unwrap_or(name);
    let shown: String = if short.chars().count() > 19 {
        short.chars().take(18).chain(['…']).collect()
    } else {
        short.into()
    };
    let link = match name.split_once('/') {
        Some((namespace, service)) => format!("/services/{}/{}", encoded(namespace), encoded(service)),
        None => "/traces".to_owned(),
    };
    let (left, first, second) = (x + 10, y + 18, y + 34);
    // Writing to a String cannot fail.
    let _ = write!(
        svg,
        "<a href=\"{link}\"><rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"8\"><title>{}</title></rect>\
         <text x=\"{left}\" y=\"{first}\">{}</text><text class=\"sub\" x=\"{left}\" y=\"{second}\">{below}</text></a>",
        Escaped(name),
        Escaped(shown),
    );
}

/// Column and row of each: nobody stands to the left of who calls them, but where calls go round.
fn places(edges: &BTreeMap<Edge, Calls>) -> BTreeMap<&str, (usize, usize)> {
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
    let (mut places, mut columns) = (BTreeMap::new(), BTreeMap::<&str, usize>::new());
    let mut rows: BTreeMap<usize, usize> = BTreeMap::new();
    // Where all that are left wait for one another, the first by name begins.
    while let Some(name) = waiting.iter().min_by_key(|(_, callers)| **callers).map(|(name, _)| *name) {
        waiting.remove(name);
        let column = columns.get(name).copied().unwrap_or_default();
        let row = rows.entry(column).or_default();
        places.insert(name, (column, *row));
        *row += 1;
        for called in calls.get(name).into_iter().flatten() {
            if let Some(callers) = waiting.get_mut(called) {
                *callers -= 1;
                let known = columns.entry(called).or_default();
                *known = (*known).max(column + 1);
            }
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(pairs: &[(&str, &str)]) -> BTreeMap<Edge, Calls> {
        pairs.iter().map(|(from, to)| (((*from).to_owned(), (*to).to_owned()), Calls::default())).collect()
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
    fn circles_end_and_nobody_is_left_out() {
        let edges = edges(&[("a", "b"), ("b", "c"), ("c", "a"), ("d", "d"), ("x", "a")]);
        let columns: Vec<_> = places(&edges).into_iter().map(|(name, (column, _))| (name, column)).collect();
        assert_eq!(columns, [("a", 1), ("b", 2), ("c", 3), ("x", 0)]);
        assert!(draw(&edges).contains(">x</text>"));
        assert_eq!(draw(&BTreeMap::new()).matches("<path").count(), 0);
    }

    #[test]
    fn names_are_escaped() {
        let svg = draw(&edges(&[("a/<script>", "b\"><x")]));
        assert!(!svg.contains("<script>") && !svg.contains("<x"), "{svg}");
    }
}
