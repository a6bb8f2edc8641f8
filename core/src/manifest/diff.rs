//! What changed between two texts, as a unified diff.

use std::fmt::Write;

const CONTEXT: usize = 3;
/// The most cells of the table that finds common lines; beyond, all between the ends counts as changed.
const MAX_CELLS: usize = 4_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Both,
    Old,
    New,
}

/// The changes from one text to another as hunks with three lines of context; empty where there are none.
pub fn diff(old: &str, new: &str) -> String {
    let old: Vec<&str> = old.lines().collect();
    let new: Vec<&str> = new.lines().collect();
    let lines = compare(&old, &new);
    let mut out = String::new();
    for (first, last) in hunks(&lines) {
        let before = |side: Side| {
            lines.iter().take(first).filter(|(found, _)| *found == side || *found == Side::Both).count()
        };
        let hunk = lines.get(first..last).unwrap_or_default();
        let within =
            |side: Side| hunk.iter().filter(|(found, _)| *found == side || *found == Side::Both).count();
        let (old_range, new_range) =
            (range(before(Side::Old), within(Side::Old)), range(before(Side::New), within(Side::New)));
        // Writing into a String cannot fail.
        let _ = writeln!(out, "@@ -{old_range} +{new_range} @@");
        for (side, line) in hunk {
            let sign = match side {
                Side::Both => ' ',
                Side::Old => '-',
                Side::New => '+',
            };
            let _ = writeln!(out, "{sign}{line}");
        }
    }
    out
}

/// `LINE,COUNT` as diff writes it: an empty range stands behind the line before it.
fn range(before: usize, count: usize) -> String {
    let first = if count == 0 { before } else { before.saturating_add(1) };
    if count == 1 { first.to_string() } else { format!("{first},{count}") }
}

fn compare<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<(Side, &'t str)> {
    let same = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let (head, old) = old.split_at(same);
    let (_, new) = new.split_at(same);
    let same = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
    let (old, tail) = old.split_at(old.len().saturating_sub(same));
    let (new, _) = new.split_at(new.len().saturating_sub(same));
    let both = |line: &&'t str| (Side::Both, *line);
    head.iter().map(both).chain(changed(old, new)).chain(tail.iter().map(both)).collect()
}

/// The middle, by the longest common subsequence.
fn changed<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<(Side, &'t str)> {
    let width = new.len().saturating_add(1);
    let cells = old.len().saturating_add(1).saturating_mul(width);
    if cells > MAX_CELLS {
        let all = |side: Side| move |line: &&'t str| (side, *line);
        return old.iter().map(all(Side::Old)).chain(new.iter().map(all(Side::New))).collect();
    }
    // lengths[row * width + column]: of what is common to the rests from there on.
    let mut lengths = vec![0_u32; cells];
    let at = |lengths: &[u32], row: usize, column: usize| {
        lengths.get(row.saturating_mul(width).saturating_add(column)).copied().unwrap_or_default()
    };
    for (row, old_line) in old.iter().enumerate().rev() {
        for (column, new_line) in new.iter().enumerate().rev() {
            let (down, right) = (row.saturating_add(1), column.saturating_add(1));
            let length = if old_line == new_line {
                at(&lengths, down, right).saturating_add(1)
            } else {
                at(&lengths, down, column).max(at(&lengths, row, right))
            };
            if let Some(cell) = lengths.get_mut(row.saturating_mul(width).saturating_add(column)) {
                *cell = length;
            }
        }
    }
    let mut lines = Vec::new();
    let (mut row, mut column) = (0, 0);
    loop {
        match (old.get(row), new.get(column)) {
            (Some(old_line), Some(new_line)) if old_line == new_line => {
                lines.push((Side::Both, *old_line));
                row = row.saturating_add(1);
                column = column.saturating_add(1);
            }
            (Some(old_line), new_line)
                if new_line.is_none()
                    || at(&lengths, row.saturating_add(1), column)
                        >= at(&lengths, row, column.saturating_add(1)) =>
            {
                lines.push((Side::Old, *old_line));
                row = row.saturating_add(1);
            }
            (_, Some(new_line)) => {
                lines.push((Side::New, *new_line));
                column = column.saturating_add(1);
            }
            (_, None) => return lines,
        }
    }
}

/// First and end of each run of changes with its context.
fn hunks(lines: &[(Side, &str)]) -> Vec<(usize, usize)> {
    let mut hunks: Vec<(usize, usize)> = Vec::new();
    for (index, (side, _)) in lines.iter().enumerate() {
        if *side == Side::Both {
            continue;
        }
        let first = index.saturating_sub(CONTEXT);
        let last = index.saturating_add(CONTEXT).saturating_add(1).min(lines.len());
        match hunks.last_mut() {
            Some((_, end)) if first <= *end => *end = last,
            _ => hunks.push((first, last)),
        }
    }
    hunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_has_no_changes() {
        assert_eq!(diff("a\nb\n", "a\nb\n"), "");
        assert_eq!(diff("", ""), "");
    }

    #[test]
    fn changes_stand_in_hunks_with_context() {
        assert_eq!(diff("a\nb\nc\n", "a\nx\nc\n"), "@@ -1,3 +1,3 @@\n a\n-b\n+x\n c\n");
        assert_eq!(diff("", "a\nb\n"), "@@ -0,0 +1,2 @@\n+a\n+b\n");
        assert_eq!(diff("a\n", ""), "@@ -1 +0,0 @@\n-a\n");
    }

    #[test]
    fn distant_changes_are_separate_hunks() {
        let old: String = (1..=20).map(|line| format!("{line}\n")).collect();
        let new = old.replace("2\n3\n", "3\n").replace("19\n", "x\n");
        assert_eq!(
            diff(&old, &new),
            "@@ -1,5 +1,4 @@\n 1\n-2\n 3\n 4\n 5\n@@ -16,5 +15,5 @@\n 16\n 17\n 18\n-19\n+x\n 20\n"
        );
    }

    #[test]
    fn a_huge_change_is_still_a_change() {
        let old: String = (0..3000).map(|line| format!("a{line}\n")).collect();
        let new: String = (0..3000).map(|line| format!("b{line}\n")).collect();
        let changes = diff(&old, &new);
        assert_eq!(changes.lines().filter(|line| line.starts_with('-')).count(), 3000);
        assert_eq!(changes.lines().filter(|line| line.starts_with('+')).count(), 3000);
    }
}
