//! What programs print, line by line, each behind the name of its program.

use std::thread::{self, JoinHandle};

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::sync::mpsc;
use weft_runtime::task;

use crate::output::{self, Stream};

/// The longest line that is printed in one piece.
const MAX_LINE: u64 = 16 * 1024;
/// Lines that may wait for a slow reader; then the programs wait.
const QUEUE: usize = 256;
/// Foreground colours (ECMA-48, 8.3.117) that can be read on black and on white.
const COLOURS: [&str; 6] = ["36", "33", "32", "35", "34", "31"];

/// Prints lines, on a thread of its own: a terminal that is stopped must not stop us.
#[derive(Debug)]
pub(super) struct Printer {
    lines: mpsc::Sender<(Stream, Vec<u8>)>,
    thread: JoinHandle<()>,
}

/// What stands before each line of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prefix {
    title: String,
    width: usize,
    colour: usize,
}

impl Printer {
    pub(super) fn start() -> anyhow::Result<Self> {
        let (lines, mut queue) = mpsc::channel::<(Stream, Vec<u8>)>(QUEUE);
        let print = move || {
            while let Some((stream, line)) = queue.blocking_recv() {
                output::write(stream, &line);
            }
        };
        let thread = thread::Builder::new()
            .name("printer".to_owned())
            .spawn(print)
            .context("cannot start a thread")?;
        Ok(Self { lines, thread })
    }

    /// Prints what comes from a program until it ends.
    pub(super) fn follow(
        &self,
        from: impl AsyncRead + Send + Unpin + 'static,
        to: Stream,
        prefix: &Prefix,
    ) -> tokio::task::JoinHandle<()> {
        let (lines, prefix) = (self.lines.clone(), prefix.rendered(output::colours_on(to)));
        task::spawn("output", async move {
            let mut from = BufReader::new(from);
            loop {
                let mut line = prefix.clone().into_bytes();
                let read = (&mut from).take(MAX_LINE).read_until(b'\n', &mut line).await;
                if read.is_err() || line.len() == prefix.len() {
                    return;
                }
                if line.last() != Some(&b'\n') {
                    line.push(b'\n');
                }
                if lines.send((to, line)).await.is_err() {
                    return;
                }
            }
        })
    }

    /// Prints what is left.
    pub(super) fn end(self) {
        drop(self.lines);
        // It ends when nothing is left; a panic in it has been told.
        let _ = self.thread.join();
    }
}

impl Prefix {
    /// The prefix of the program at an index, as wide as the widest.
    pub(super) fn new(title: &str, width: usize, index: usize) -> Self {
        Self { title: title.to_owned(), width, colour: index }
    }

    fn rendered(&self, coloured: bool) -> String {
        let Self { title, width, colour } = self;
        let text = format!("{title:width$} |");
        match COLOURS.get(colour.checked_rem(COLOURS.len()).unwrap_or_default()) {
            Some(colour) if coloured => format!("\x1b[{colour}m{text}\x1b[0m "),
            _ => format!("{text} "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_come_whole_and_behind_their_programs_name() {
        let (lines, mut queue) = mpsc::channel(16);
        let printer = Printer { lines, thread: thread::spawn(|| {}) };
        let long = "x".repeat(usize::try_from(MAX_LINE).unwrap() + 1);
        let text = format!("one\n\n{long}\nno end");
        let prefix = Prefix::new("web", 5, 0);
        printer.follow(std::io::Cursor::new(text.into_bytes()), Stream::Out, &prefix).await.unwrap();
        printer.end();
        let mut told = Vec::new();
        while let Some((_, line)) = queue.recv().await {
            told.push(String::from_utf8(line).unwrap());
        }
        assert_eq!(told[0], "web   | one\n");
        assert_eq!(told[1], "web   | \n");
        assert_eq!(told[2].len() + told[3].len(), long.len() + 2 * "web   | \n".len());
        assert_eq!(told[4], "web   | no end\n");
    }

    #[test]
    fn colours_are_for_those_who_want_them() {
        assert_eq!(Prefix::new("a", 1, 7).rendered(false), "a | ");
        assert_eq!(Prefix::new("a", 1, 7).rendered(true), "\x1b[33ma |\x1b[0m ");
    }
}
