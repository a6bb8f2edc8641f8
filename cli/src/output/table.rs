//! Aligned columns.

/// Lines of cells as text, each column as wide as its widest cell, two spaces between.
pub(crate) fn align(lines: impl IntoIterator<Item = Vec<String>>) -> String {
    let lines: Vec<Vec<String>> = lines.into_iter().collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            lines.iter().filter_map(|line| line.get(column)).map(|cell| width(cell)).max().unwrap_or(0)
        })
        .collect();
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
