//! Sets of whole numbers as the kernel keeps them: bounds, each the start of an interval or the first number after it.

/// An interval of numbers, both ends in it. Ports and addresses are such numbers.
pub(super) type Interval = (u128, u128);

/// One element of a kernel's interval set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bound {
    pub(super) number: u128,
    /// Whether intervals start here; else one ended just before. An end sorts before a start at the same number.
    pub(super) start: bool,
}

/// The same numbers in as few intervals as possible, in order: the kernel refuses intervals that overlap.
pub(super) fn merge(intervals: impl IntoIterator<Item = Interval>) -> Vec<Interval> {
    let mut sorted: Vec<Interval> = intervals.into_iter().collect();
    sorted.sort_unstable();
    let mut merged: Vec<Interval> = Vec::with_capacity(sorted.len());
    for (first, last) in sorted {
        match merged.last_mut() {
            Some(previous) if first <= previous.1.saturating_add(1) => previous.1 = previous.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// The elements for intervals that are merged already. One that reaches `max` has no end.
pub(super) fn bounds(intervals: &[Interval], max: u128) -> Vec<Bound> {
    let mut bounds = Vec::with_capacity(intervals.len() * 2);
    for (first, last) in intervals {
        bounds.push(Bound { number: *first, start: true });
        if *last < max {
            bounds.push(Bound { number: last + 1, start: false });
        }
    }
    bounds
}

/// The intervals that elements stand for, in whatever order they come.
pub(super) fn from_bounds(mut bounds: Vec<Bound>, max: u128) -> Vec<Interval> {
    bounds.sort_unstable();
    let mut intervals = Vec::new();
    let mut open = None;
    for bound in bounds {
        if let Some(first) = open.take() {
            let before = bound.number.saturating_sub(1);
            intervals.push((first, if bound.start { before.max(first) } else { before }));
        }
        if bound.start {
            open = Some(bound.number);
        }
    }
    intervals.extend(open.map(|first| (first, max)));
    merge(intervals)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u128 = 65_535;

    fn check(intervals: &[Interval], expected: &[Interval]) {
        let merged = merge(intervals.to_vec());
        assert_eq!(merged, expected, "{intervals:?}");
        let mut elements = bounds(&merged, MAX);
        elements.reverse();
        assert_eq!(from_bounds(elements, MAX), expected, "there and back: {intervals:?}");
    }

    #[test]
    fn intervals_that_touch_become_one() {
        check(&[], &[]);
        check(&[(25, 25)], &[(25, 25)]);
        check(&[(8000, 8080), (25, 25)], &[(25, 25), (8000, 8080)]);
        check(&[(1, 5), (3, 9)], &[(1, 9)]);
        check(&[(1, 9), (3, 5)], &[(1, 9)]);
        check(&[(1, 2), (3, 4)], &[(1, 4)]);
        check(&[(7, 7), (7, 7)], &[(7, 7)]);
    }

    #[test]
    fn an_interval_up_to_the_last_number_has_no_end() {
        check(&[(0, MAX)], &[(0, MAX)]);
        check(&[(5, 6), (100, MAX)], &[(5, 6), (100, MAX)]);
        assert_eq!(merge([(0, u128::MAX), (u128::MAX, u128::MAX)]), [(0, u128::MAX)]);
    }
}
