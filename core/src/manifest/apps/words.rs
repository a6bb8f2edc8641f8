//! A command line -> its words, as a shell splits it, of which nothing else is done: no variables, no patterns.

/// A quote that is never closed, or a backslash with nothing behind it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is open at the end")]
pub(super) struct Open(&'static str);

/// Splits at blanks that are not quoted (POSIX shell command language, 2.2).
pub(super) fn split(line: &str) -> Result<Vec<String>, Open> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\\' => word.get_or_insert_default().push(letters.next().ok_or(Open("a backslash"))?),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next().ok_or(Open("a quote"))? {
                        '\'' => break,
                        other => word.push(other),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next().ok_or(Open("a quote"))? {
                        '"' => break,
                        '\\' => match letters.next().ok_or(Open("a quote"))? {
                            escaped @ ('"' | '\\' | '$' | '`') => word.push(escaped),
                            other => word.extend(['\\', other]),
                        },
                        other => word.push(other),
                    }
                }
            }
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_a_shell() {
        let check = |line: &str, expected: &[&str]| assert_eq!(split(line).unwrap(), expected, "{line}");
        check("python3 -m  http.server\t8000", &["python3", "-m", "http.server", "8000"]);
        check(r#"sh -c 'echo "a b"'"#, &["sh", "-c", "echo \"a b\""]);
        check(r#"a"b c"d e\ f "" \"g "\$h \i""#, &["ab cd", "e f", "", "\"g", "$h \\i"]);
        check("", &[]);
        for open in ["'a", "\"a", "a\\", "\"a\\"] {
            assert!(split(open).is_err(), "{open}");
        }
    }
}
