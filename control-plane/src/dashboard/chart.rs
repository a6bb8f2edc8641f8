//! Charts over time, as SVG: lines of one unit, oldest to the left, a gap where nothing is known.

use std::fmt::Write as _;
use std::time::Duration;

use super::html::Escaped;

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 150.0;
/// Of the plot within the image.
const LEFT: f64 = 46.0;
const RIGHT: f64 = 6.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 20.0;

/// One line.
pub(super) struct Line {
    pub(super) name: &'static str,
    /// How it is drawn: `l0`, `l1`, `l2` or `failed`.
    pub(super) class: &'static str,
    pub(super) points: Vec<Option<f64>>,
}

/// Lines of one unit.
pub(super) struct Chart<'a> {
    pub(super) title: &'a str,
    pub(super) lines: Vec<Line>,
    pub(super) show: fn(f64) -> String,
    /// What the scale reaches at least, and at most.
    pub(super) scale: (f64, f64),
    pub(super) lasts: Duration,
}

impl Chart<'_> {
    /// The image with its legend, which says the newest of each line.
    pub(super) fn draw(&self) -> String {
        let most = self.lines.iter().flat_map(|line| &line.points).flatten().copied().fold(0.0, f64::max);
        let top = round_up(most.max(self.scale.0)).min(self.scale.1);
        let newest = |line: &Line| line.points.iter().rev().find_map(|point| *point);
        let mut legend = String::new();
        let mut spoken = Vec::new();
        for line in &self.lines {
            let value = newest(line).map_or_else(|| "none".to_owned(), self.show);
            // Writing to a String cannot fail.
            let _ = write!(legend, "<span class=\"{}\">{} <b>{value}</b></span>", line.class, line.name);
            spoken.push(format!("{} {value}", line.name));
        }
        format!(
            "<figure class=\"chart\"><figcaption>{0}<span class=\"legend\">{legend}</span></figcaption>\
             <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{0} over {1}; newest: {2}; highest {3}\">{4}{5}</svg></figure>",
            Escaped(self.title),
            ago(self.lasts),
            spoken.join(", "),
            (self.show)(most),
            self.axes(top),
            self.lines.iter().map(|line| path(line, top)).collect::<String>(),
        )
    }

    fn axes(&self, top: f64) -> String {
        let mut axes = String::new();
        for part in [0.0, 0.5, 1.0] {
            let y = height(top * part, top);
            // Writing to a String cannot fail.
            let _ = write!(
                axes,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{}\"></path><text class=\"y\" x=\"{}\" y=\"{:.1}\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 5.0,
                y + 3.5,
                (self.show)(top * part),
            );
        }
        let y = HEIGHT - 5.0;
        let _ = write!(
            axes,
            "<text x=\"{LEFT}\" y=\"{y}\">{} ago</text><text class=\"y\" x=\"{}\" y=\"{y}\">now</text>",
            ago(self.lasts),
            WIDTH - RIGHT,
        );
        axes
    }
}

fn path(line: &Line, top: f64) -> String {
    let points = &line.points;
    let step = (WIDTH - LEFT - RIGHT) / real(points.len().saturating_sub(1).max(1));
    let (mut path, mut pen) = (String::new(), 'M');
    for (number, point) in points.iter().enumerate() {
        let Some(value) = point.filter(|value| value.is_finite()) else {
            pen = 'M';
            continue;
        };
        let x = LEFT + step * real(number);
        let _ = write!(path, "{pen}{x:.1} {:.1}", height(value, top));
        // A point between two gaps is seen all the same.
        if pen == 'M' && points.get(number + 1).is_none_or(Option::is_none) {
            path.push_str("h1");
        }
        pen = 'L';
    }
    format!("<path class=\"line {}\" d=\"{path}\"></path>", line.class)
}

fn height(value: f64, top: f64) -> f64 {
    let share = if top > 0.0 { (value / top).clamp(0.0, 1.0) } else { 0.0 };
    HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
}

/// The next of 1, 2, 4 and 10 times a power of ten, so that half of it is round too.
fn round_up(value: f64) -> f64 {
    if !(value > 0.0 && value.is_finite()) {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 4.0, 10.0].map(|times| times * power).into_iter().find(|top| *top >= value).unwrap_or(value)
}

fn ago(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds >= 7_200 => format!("{} h", seconds / 3_600),
        seconds => format!("{} min", seconds / 60),
    }
}

fn real(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: &[Option<f64>]) -> String {
        let lines = vec![Line { name: "all", class: "l0", points: points.to_vec() }];
        let show = |value: f64| format!("{value:.0}");
        Chart { title: "Requests <a>", lines, show, scale: (0.0, f64::MAX), lasts: Duration::from_mins(10) }
            .draw()
    }

    #[test]
    fn a_line_has_gaps_where_nothing_is_known() {
        let svg = chart(&[None, Some(0.0), Some(30.0), None, Some(40.0)]);
        assert!(svg.contains("d=\"M123.0 130.0L200.0 38.5M354.0 8.0h1\""), "{svg}");
        assert!(svg.contains("Requests &lt;a&gt; over 10 min; newest: all 40; highest 40"), "{svg}");
        assert!(
            svg.contains(">40</text>") && svg.contains(">20</text>") && svg.contains("10 min ago"),
            "{svg}"
        );
    }

    #[test]
    fn nothing_and_nonsense_are_drawn_too() {
        for points in [&[][..], &[None], &[Some(0.0)], &[Some(f64::NAN), Some(f64::INFINITY)]] {
            let svg = chart(points);
            assert!(svg.contains("</svg>") && !svg.contains("NaN"), "{svg}");
        }
        assert!(chart(&[None]).contains("newest: all none"));
    }

    #[test]
    fn the_scale_ends_at_a_round_number() {
        for (value, top) in [(0.0, 1.0), (0.7, 1.0), (1.0, 1.0), (1.1, 2.0), (31.0, 40.0), (41.0, 100.0)] {
            assert!((round_up(value) - top).abs() < 1e-9, "{value}: {}", round_up(value));
        }
    }
}
