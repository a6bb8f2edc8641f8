//! Aligned columns, and text that fits into a terminal's width.

/// Columns are not cut shorter than this.
const LEAST: usize = 8;

/// Lines of cells as text, each column as wide as its widest cell, two spaces between.
pub(crate) fn align(lines: impl IntoIterator<Item = Vec<String>>) -> String {
    let lines: Vec<Vec<String>> = lines.into_iter().collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    let widths = widths(&lines, columns);
    let mut text = String::new();
    for line in &lines {
        let mut row = String::new();
        for (cell, column) in line.iter().zip(&widths) {
            row.push_str(cell);
            row.extend(std::iter::repeat_n(' ', column - width(cell) + 2));
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

/// The same, no line longer than there is room: what is longest loses its middle.
pub(crate) fn align_within(room: Option<usize>, lines: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut lines: Vec<Vec<String>> = lines.into_iter().collect();
    let Some(room) = room else { return align(lines) };
    let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    let mut widths: Vec<usize> =
        widths(&lines, columns).into_iter().map(|width| width.min(room.max(LEAST))).collect();
    let room = room.saturating_sub(2 * columns.saturating_sub(1));
    while widths.iter().sum::<usize>() > room {
        match widths.iter_mut().max() {
            Some(widest) if *widest > LEAST => *widest -= 1,
            _ => break,
        }
    }
    for line in &mut lines {
        for (cell, width) in line.iter_mut().zip(&widths) {
            *cell = shorten(cell, *width);
        }
    }
    align(lines)
}

/// Aligned as far as there is room. Where there is not enough, cells from the one numbered `kept` on are one text, folded.
pub(crate) fn align_or_fold(room: Option<usize>, kept: usize, lines: Vec<Vec<String>>) -> String {
    let aligned = align(lines.iter().cloned());
    let Some(room) = room.filter(|room| aligned.lines().any(|line| width(line) > *room)) else {
        return aligned;
    };
    let indent: usize = widths(&lines, kept).into_iter().map(|width| width + 2).sum();
    let folded = lines.into_iter().flat_map(|mut line| {
        let rest = line.split_off(kept.min(line.len()));
        let rest: Vec<String> = rest.into_iter().filter(|cell| !cell.is_empty()).collect();
        let mut folded = fold(&rest.join("  "), room.saturating_sub(indent)).into_iter();
        line.extend(folded.next());
        let blank = vec![String::new(); kept];
        std::iter::once(line).chain(folded.map(move |more| blank.iter().cloned().chain([more]).collect()))
    });
    align(folded)
}

/// A paragraph, its lines after the first set in by two.
pub(crate) fn paragraph(room: Option<usize>, text: &str) -> String {
    let lines = match room {
        Some(room) if width(text) > room => fold(text, room.saturating_sub(2)),
        _ => vec![text.to_owned()],
    };
    lines.join("\n  ") + "\n"
}

/// A text that lacks its middle where it is too long: names differ at their ends.
pub(crate) fn shorten(text: &str, room: usize) -> String {
    let length = width(text);
    if length <= room {
        return text.to_owned();
    }
    let kept = room.saturating_sub(1);
    let tail = kept / 2;
    let head: String = text.chars().take(kept - tail).collect();
    let tail: String = text.chars().skip(length - tail).collect();
    format!("{head}…{tail}")
}

/// Lines that end between words; a word that is longer than a line is cut.
fn fold(text: &str, room: usize) -> Vec<String> {
    let room = room.max(LEAST);
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        while let Some(line) = lines.last_mut() {
            let taken = width(line) + usize::from(!line.is_empty());
            if taken + word.len() <= room {
                if !line.is_empty() {
                    line.push(' ');
                }
                line.extend(&word);
                break;
            }
            if line.is_empty() {
                line.extend(word.drain(..room));
            }
            lines.push(String::new());
        }
    }
    lines.iter().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect()
}

fn widths(lines: &[Vec<String>], columns: usize) -> Vec<usize> {
    let widest =
        |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| width(cell)).max();
    (0..columns).map(|column| widest(column).unwrap_or(0)).collect()
}

/// Characters that take a column: everything but escape sequences, which colour a cell.
fn width(cell: &str) -> usize {
    let mut escaped = false;
    cell.chars()
        .filter(|&character| {
            if escaped {
                escaped = !character.is_ascii_alphabetic();
                return false;
            }
            escaped = character == '\u{1b}';
            !escaped
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[&[&str]], expected: &str) {
        let lines = lines.iter().map(|line| line.iter().map(|&cell| cell.to_owned()).collect());
        assert_eq!(align(lines), expected);
    }

    #[test]
    fn where_there_is_less_room_the_longest_cells_lose_their_middle() {
        let lines =
            || [vec!["spiffe://mesh.local/ns/a/sa/web".to_owned(), "in 3h".to_owned(), "x".to_owned()]];
        assert_eq!(align_within(None, lines()), align(lines()));
        assert_eq!(align_within(Some(30), lines()), "spiffe://m…/a/sa/web  in 3h  x\n");
        assert_eq!(align_within(Some(3), lines()), "spif…web  in 3h  x\n", "something is told");
    }

    #[test]
    fn what_does_not_fit_is_folded_between_words() {
        let lines = || vec![vec!["access".to_owned(), "denied by a rule".to_owned(), "p.yaml:3".to_owned()]];
        assert_eq!(align_or_fold(Some(80), 1, lines()), "access  denied by a rule  p.yaml:3\n");
        assert_eq!(
            align_or_fold(Some(20), 1, lines()),
            "access  denied by a\n        rule\n        p.yaml:3\n"
        );
        assert_eq!(paragraph(None, "a longer text"), "a longer text\n");
        assert_eq!(paragraph(Some(12), "a longer text"), "a longer\n  text\n");
        assert_eq!(fold("0123456789ab", 8), ["01234567", "89ab"]);
    }

    #[test]
    fn columns_align_and_lines_end_at_their_last_cell() {
        check(&[], "");
        check(&[&["A", "B"], &["long", "x"], &["y", ""]], "A     B\nlong  x\ny\n");
        check(&[&["é", "1"], &["ab", "2"]], "é   1\nab  2\n");
        check(
            &[&["\u{1b}[31mred\u{1b}[0m", "1"], &["green", "2"]],
            "\u{1b}[31mred\u{1b}[0m    1\ngreen  2\n",
        );
    }
}
