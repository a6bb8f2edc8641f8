//! "Did you mean ...?"

/// The candidate nearest to a word, where one is near enough to be meant.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let word: Vec<char> = word.chars().take(64).flat_map(char::to_lowercase).collect();
    let limit = (word.len() / 3).clamp(1, 4);
    let distances = candidates.into_iter().map(|candidate| {
        let letters: Vec<char> = candidate.chars().flat_map(char::to_lowercase).collect();
        (distance(&word, &letters), candidate)
    });
    distances.filter(|(distance, _)| *distance <= limit).min_by_key(|(distance, _)| *distance).map(|(_, c)| c)
}

/// How many letters must be inserted, left out, replaced or swapped with their neighbour.
fn distance(left: &[char], right: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    let mut left_before = None;
    for (row, l) in left.iter().enumerate() {
        let mut current = Vec::with_capacity(last.len());
        let mut diagonal = row;
        let mut leftmost = row.saturating_add(1);
        current.push(leftmost);
        let mut right_before = None;
        for (column, r) in right.iter().enumerate() {
            let above = last.get(column.saturating_add(1)).copied().unwrap_or(usize::MAX);
            let mut cost = diagonal.saturating_add(usize::from(l != r));
            cost = cost.min(above.saturating_add(1)).min(leftmost.saturating_add(1));
            if right_before == Some(l) && left_before == Some(r) {
                let swapped = column.checked_sub(1).and_then(|column| before.get(column)).copied();
                cost = cost.min(swapped.unwrap_or(usize::MAX).saturating_add(1));
            }
            current.push(cost);
            (diagonal, leftmost, right_before) = (above, cost, Some(r));
        }
        before = std::mem::replace(&mut last, current);
        left_before = Some(l);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(word: &str, expected: Option<&str>) {
        let candidates = ["Service", "Namespace", "MeshConfig", "Workload", "port", "ports", "targetPort"];
        assert_eq!(nearest(word, candidates), expected, "{word}");
    }

    #[test]
    fn a_near_word_is_suggested_and_a_far_one_is_not() {
        check("Servce", Some("Service"));
        check("service", Some("Service"));
        check("Sevrice", Some("Service"));
        check("prots", Some("ports"));
        check("port", Some("port"));
        check("target_port", Some("targetPort"));
        check("Gateway", None);
        check("", None);
        check("x", None);
    }

    #[test]
    fn a_swap_of_neighbours_counts_once() {
        let letters = |text: &str| text.chars().collect::<Vec<_>>();
        assert_eq!(distance(&letters("abcd"), &letters("abdc")), 1);
        assert_eq!(distance(&letters("kitten"), &letters("sitting")), 3);
        assert_eq!(distance(&letters(""), &letters("abc")), 3);
        assert_eq!(distance(&letters("abc"), &letters("")), 3);
    }
}
