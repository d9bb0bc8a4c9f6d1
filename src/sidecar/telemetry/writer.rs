//! Writes lines to a pipe that perhaps nobody reads, without ever waiting for it.
//!
//! A thread of its own does the writing, since a write to a full pipe blocks and cannot be taken
//! back. The queue between is bounded; what does not fit is dropped and counted.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// A busy shutdown writes some dozens of lines; these bound the memory of a log driver that hangs.
const QUEUE: usize = 512;

/// How long the exit waits for the last lines: half of the least margin (0.2 s, see
/// [`crate::core::deadline`]), so that a full pipe cannot make it late.
pub const FLUSH_LIMIT: Duration = Duration::from_millis(100);

/// Lines are short but for the last one, which carries the whole timeline.
const STACK: usize = 64 * 1024;

/// The queue's end for those who log; cheap to clone.
#[derive(Clone)]
pub struct Writer {
    lines: Sender<Item>,
    queued: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
}

enum Item {
    Line(String),
    Flushed(Sender<()>),
}

impl Writer {
    /// Starts the thread. Where the system gives none, lines are dropped and counted.
    pub fn start(out: impl Write + Send + 'static) -> Writer {
        let (lines, queue) = channel();
        let queued = Arc::<AtomicUsize>::default();
        let written = Arc::clone(&queued);
        let thread = std::thread::Builder::new()
            .name("log".to_owned())
            .stack_size(STACK);
        let _ = thread.spawn(move || write_all(&queue, &written, out));
        Writer {
            lines,
            queued,
            dropped: Arc::default(),
        }
    }

    /// Queues a line, or counts it as dropped.
    pub fn line(&self, line: String) {
        if self.queued.load(Ordering::Relaxed) < QUEUE {
            self.last_line(line);
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Queues a line even where there is no room: the one that must not be missing.
    pub fn last_line(&self, line: String) {
        self.queued.fetch_add(1, Ordering::Relaxed);
        if self.lines.send(Item::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many lines were lost.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until what is queued has been written, and no longer than [`FLUSH_LIMIT`].
    pub fn flush(&self) {
        let (flushed, done) = channel();
        if self.lines.send(Item::Flushed(flushed)).is_ok() {
            let _ = done.recv_timeout(FLUSH_LIMIT);
        }
    }
}

fn write_all(queue: &Receiver<Item>, queued: &AtomicUsize, mut out: impl Write) {
    while let Ok(item) = queue.recv() {
        match item {
            // A reader that has gone away is no reason to stop draining.
            Item::Line(line) => {
                let _ = out.write_all(line.as_bytes());
                let _ = out.flush();
                queued.fetch_sub(1, Ordering::Relaxed);
            }
            Item::Flushed(done) => {
                let _ = done.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    #[test]
    fn a_pipe_that_nobody_reads_loses_lines_but_holds_nothing_up_and_keeps_the_last_one() {
        let (reader, pipe) = std::io::pipe().unwrap();
        let writer = Writer::start(pipe);
        for _ in 0..100_000 {
            writer.line("a line that nobody reads yet\n".to_owned());
        }
        assert!(writer.dropped() > 0, "the queue must be bounded");
        writer.last_line("the end\n".to_owned());
        writer.flush();
        drop(writer);
        let last = BufReader::new(reader).lines().last().unwrap().unwrap();
        assert_eq!(last, "the end");
    }
}
