//! The traces on disk: batches one after the other in files of a few megabytes; the oldest files go.
//!
//! A record is its length (4 bytes, little-endian) and an OTLP request. What a crash cut off is left out.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use crate::metrics::Metrics;

/// A segment that has grown beyond this is closed.
const SEGMENT_BYTES: u64 = 8 << 20;
/// Segments that are kept.
const KEPT: usize = 8;
/// Batches that wait to be written.
const QUEUE: usize = 256;
/// Batches written together.
const TOGETHER: usize = 64;

/// The traces' directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the trace directory {0}")]
pub struct SegmentError(PathBuf, #[source] io::Error);

/// Takes batches to be written.
#[derive(Debug)]
pub(super) struct Writer(mpsc::Sender<Bytes>);

/// Writes until the [`Writer`] is dropped.
#[derive(Debug)]
pub(crate) struct Task {
    queue: mpsc::Receiver<Bytes>,
    segments: Segments,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Segments {
    directory: PathBuf,
    open: Option<(File, u64)>,
}

/// Every batch on disk, oldest first.
pub(super) async fn read(directory: &Path) -> Result<Vec<Bytes>, SegmentError> {
    let directory = directory.to_owned();
    let failed = directory.clone();
    let read = move || -> io::Result<Vec<Bytes>> {
        DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let mut batches = Vec::new();
        for (_, path) in list(&directory)? {
            let mut rest = Bytes::from(fs::read(path)?);
            while let Ok(length) = rest.try_get_u32_le() {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                if length > rest.len() {
                    break;
                }
                batches.push(rest.split_to(length));
            }
        }
        Ok(batches)
    };
    let read = tokio::task::spawn_blocking(read).await.unwrap_or_else(|e| Err(io::Error::other(e)));
    read.map_err(|error| SegmentError(failed, error))
}

/// A writer into `directory`, and the task that does the writing.
pub(super) fn writer(directory: &Path, metrics: Arc<Metrics>) -> (Writer, Task) {
    let (sender, queue) = mpsc::channel(QUEUE);
    let segments = Segments { directory: directory.to_owned(), open: None };
    (Writer(sender), Task { queue, segments, metrics })
}

impl Writer {
    /// Has a batch written; false where too many wait already.
    pub(super) fn append(&self, batch: Bytes) -> bool {
        self.0.try_send(batch).is_ok()
    }
}

impl Task {
    /// Writes what comes, until no more can come.
    pub(crate) async fn run(mut self) {
        let mut batches = Vec::with_capacity(TOGETHER);
        while self.queue.recv_many(&mut batches, TOGETHER).await > 0 {
            let written = std::mem::take(&mut batches);
            let mut segments = self.segments;
            let write = tokio::task::spawn_blocking(move || {
                let result = segments.append(&written);
                (segments, result)
            });
            let Ok((segments, result)) = write.await else { return };
            self.segments = segments;
            if let Err(error) = result {
                self.metrics.spans_unwritten.increment();
                tracing::warn!(%error, "cannot write traces down");
            }
        }
    }
}

impl Segments {
    fn append(&mut self, batches: &[Bytes]) -> io::Result<()> {
        let (mut file, size) = match self.open.take() {
            Some((file, size)) if size < SEGMENT_BYTES => (file, size),
            _ => self.start()?,
        };
        let mut buffer = Vec::new();
        for batch in batches {
            let Ok(length) = u32::try_from(batch.len()) else { continue };
            buffer.extend_from_slice(&length.to_le_bytes());
            buffer.extend_from_slice(batch);
        }
        file.write_all(&buffer)?;
        self.open = Some((file, size + buffer.len() as u64));
        Ok(())
    }

    fn start(&self) -> io::Result<(File, u64)> {
        let present = list(&self.directory)?;
        let next = present.last().map_or(0, |(number, _)| *number) + 1;
        for (_, old) in present.iter().take((present.len() + 1).saturating_sub(KEPT)) {
            fs::remove_file(old)?;
        }
        let path = self.directory.join(format!("{next:012}.otlp"));
        let file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(path)?;
        Ok((file, 0))
    }
}

/// The segments in a directory, oldest first.
fn list(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name =
            path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".otlp"));
        if let Some(number) = name.and_then(|name| name.parse().ok()) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn batches_are_read_back_in_order_and_a_cut_off_one_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("traces");
        assert_eq!(read(&home).await.unwrap(), Vec::<Bytes>::new());
        for text in ["one", "two"] {
            let (writer, task) = writer(&home, Metrics::new());
            assert!(writer.append(Bytes::from(text)));
            drop(writer);
            task.run().await;
        }
        assert_eq!(read(&home).await.unwrap(), ["one", "two"]);
        let (_, last) = list(&home).unwrap().pop().unwrap();
        let mut file = OpenOptions::new().append(true).open(last).unwrap();
        file.write_all(&[9, 0, 0, 0, b'x']).unwrap();
        assert_eq!(read(&home).await.unwrap(), ["one", "two"]);
    }

    #[test]
    fn the_oldest_segments_go() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..KEPT + 3 {
            let mut segments = Segments { directory: dir.path().to_owned(), open: None };
            segments.append(&[Bytes::from_static(b"x")]).unwrap();
        }
        let numbers: Vec<u64> = list(dir.path()).unwrap().iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, (4..=11).collect::<Vec<_>>());
    }
}
