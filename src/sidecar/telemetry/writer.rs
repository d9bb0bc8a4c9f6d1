//! Writes lines to a pipe that perhaps nobody reads, without ever waiting for it.
//!
//! A thread of its own does the writing, since a write to a full pipe blocks and cannot be taken
//! back. The queue between is bounded; what does not fit is dropped and counted.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// A busy shutdown writes some dozens of lines; these bound the memory of a log driver that hangs.
const QUEUE: usize = 512;

/// How long the exit waits for the last lines of all writers together: a quarter of the least margin (0.2 s,
/// see [`crate::core::deadline`]), so that a full pipe cannot make it late: the rest is for a busy machine,
/// which wakes the process late before it and after it. A pipe that is read takes them at once.
const FLUSH_LIMIT: Duration = Duration::from_millis(50);

/// How long it waits where the deadline is further away. A task with a quarter of a processor runs for 25 ms of each
/// 100, and on a machine that is busy otherwise the thread that writes may wait for longer. For a pipe that nobody
/// reads the app gets its SIGTERM that much later.
const FLUSH_WITH_TIME: Duration = Duration::from_millis(500);

/// Until when the exit may wait for its last lines. Near the deadline it comes out of the margin that follows the deadline: a
/// process that is woken late has less of it, or nothing.
pub fn flush_end(now: Instant, deadline: Option<Instant>) -> Instant {
    deadline.map_or(now + FLUSH_LIMIT, |deadline| {
        (now + FLUSH_WITH_TIME).min(deadline + FLUSH_LIMIT)
    })
}

/// Lines are short but for the last one, which carries the whole timeline.
const STACK: usize = 64 * 1024;

/// The queue's end for those who log; cheap to clone.
#[derive(Clone)]
pub struct Writer {
    lines: Sender<Queued>,
    queued: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
}

enum Queued {
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
        if self.lines.send(Queued::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many lines were lost.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until what is queued has been written, and not beyond `end`.
    pub fn flush(&self, end: Instant) {
        let (flushed, done) = channel();
        if self.lines.send(Queued::Flushed(flushed)).is_ok() {
            let _ = done.recv_timeout(end.saturating_duration_since(Instant::now()));
        }
    }
}

fn write_all(queue: &Receiver<Queued>, queued: &AtomicUsize, mut out: impl Write) {
    while let Ok(item) = queue.recv() {
        match item {
            // A reader that has gone away is no reason to stop draining.
            Queued::Line(line) => {
                let _ = out.write_all(line.as_bytes());
                let _ = out.flush();
                queued.fetch_sub(1, Ordering::Relaxed);
            }
            Queued::Flushed(done) => {
                let _ = done.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;
    use crate::core::deadline::{MIN_STOP_TIMEOUT, StopTimeout};

    #[test]
    fn the_flush_comes_out_of_the_margin_of_the_least_stop_timeout_and_not_on_top() {
        let start = Instant::now();
        let least = StopTimeout::new(MIN_STOP_TIMEOUT).unwrap();
        let deadline = start + least.budget();
        let sigkill = start + MIN_STOP_TIMEOUT;
        for woken_late in [0, 30, 49, 50, 100, 150, 199] {
            let now = deadline + Duration::from_millis(woken_late);
            let waits = flush_end(now, Some(deadline)).saturating_duration_since(now);
            let left = (sigkill - now).saturating_sub(Duration::from_millis(150));
            assert!(waits <= left, "woken {woken_late} ms late, it waits {waits:?}");
        }
        let early = flush_end(start, Some(deadline));
        assert_eq!(early, start + FLUSH_WITH_TIME, "long before the deadline");
        assert_eq!(flush_end(start, None), start + FLUSH_LIMIT, "where there is none");
    }

    #[test]
    fn a_flush_whose_time_is_over_waits_for_nobody() {
        let (_reader, mut pipe) = std::io::pipe().unwrap();
        pipe.write_all(&[b'x'; 65_536]).unwrap();
        let writer = Writer::start(pipe);
        writer.line("a line for which there is no room\n".to_owned());
        let now = Instant::now();
        for _ in 0..10_000 {
            writer.flush(now);
        }
        // Each would have waited for as long as it may.
        assert!(now.elapsed() < 100 * FLUSH_LIMIT);
    }

    #[test]
    fn a_pipe_that_nobody_reads_loses_lines_but_holds_nothing_up_and_keeps_the_last_one() {
        let (reader, pipe) = std::io::pipe().unwrap();
        let writer = Writer::start(pipe);
        for _ in 0..100_000 {
            writer.line("a line that nobody reads yet\n".to_owned());
        }
        assert!(writer.dropped() > 0, "the queue must be bounded");
        writer.last_line("the end\n".to_owned());
        writer.flush(flush_end(Instant::now(), None));
        drop(writer);
        let last = BufReader::new(reader).lines().last().unwrap().unwrap();
        assert_eq!(last, "the end");
    }
}
