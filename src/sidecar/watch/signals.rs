//! The signals of this process, as messages: SIGTERM, SIGHUP and SIGINT end it, all others it survives.

use std::io;
use std::os::unix::net::UnixStream as Pipe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU, SIGXFSZ,
};
use signal_hook::{flag, low_level};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::sidecar::mailbox::{Mailbox, Message, Signal};

/// What would end a process that has no handler for it (signal(7), *Standard signals*), and is no reason for
/// a sidecar to end with nothing drained. Numbers as on x86-64 and ARM64 where the libraries have no name.
const SURVIVED: [(i32, &str); 11] = [
    (SIGUSR1, "SIGUSR1"),
    (SIGUSR2, "SIGUSR2"),
    (SIGQUIT, "SIGQUIT"),
    (SIGALRM, "SIGALRM"),
    (SIGVTALRM, "SIGVTALRM"),
    (SIGPROF, "SIGPROF"),
    (SIGIO, "SIGIO"),
    (SIGXCPU, "SIGXCPU"),
    (SIGXFSZ, "SIGXFSZ"),
    (30, "SIGPWR"),
    (16, "SIGSTKFLT"),
];

/// The signals of this process from the moment on at which it was made.
#[must_use = "call `watch` on it, or the signals are lost"]
pub struct Signals {
    /// SIGTERM; and SIGHUP, which counts as one even where a parent such as nohup had it ignored.
    term: Pipe,
    int: Pipe,
    survived: Pipe,
    /// Which of [`SURVIVED`] have come since they were last looked at.
    seen: [Arc<AtomicBool>; SURVIVED.len()],
}

impl Signals {
    /// Takes the signals over. Called first of all: as PID 1 a process without a handler does not
    /// even notice SIGTERM.
    ///
    /// # Errors
    /// Where the process has no file descriptors left.
    pub fn take() -> io::Result<Signals> {
        let (term, handler) = pipe()?;
        low_level::pipe::register(SIGTERM, handler.try_clone()?)?;
        low_level::pipe::register(SIGHUP, handler)?;
        let int = pipe_of(SIGINT)?;
        let (survived, handler) = pipe()?;
        let seen: [Arc<AtomicBool>; SURVIVED.len()] = Default::default();
        for ((signal, _), seen) in SURVIVED.iter().zip(&seen) {
            // The flag first, so that it is there when the byte is.
            flag::register(*signal, Arc::clone(seen))?;
            low_level::pipe::register(*signal, handler.try_clone()?)?;
        }
        Ok(Signals {
            term,
            int,
            survived,
            seen,
        })
    }

    /// Sends a message for each that ends the process. A hundred at once may become one.
    ///
    /// # Errors
    /// Where the pipes cannot be watched.
    pub async fn watch(self, mailbox: Mailbox) -> io::Result<()> {
        let mut term = UnixStream::from_std(self.term)?;
        let mut int = UnixStream::from_std(self.int)?;
        let mut survived = UnixStream::from_std(self.survived)?;
        let mut named = [false; SURVIVED.len()];
        loop {
            let (mut terms, mut ints, mut others) = ([0; 64], [0; 2], [0; 64]);
            let signal = tokio::select! {
                n = term.read(&mut terms) => {
                    n?;
                    Signal::Term
                }
                // Two bytes are two SIGINTs: the second one must not be lost.
                n = int.read(&mut ints) => {
                    if n? == ints.len() && mailbox.send(Message::Signal(Signal::Int)).await.is_err() {
                        return Ok(());
                    }
                    Signal::Int
                }
                n = survived.read(&mut others) => {
                    n?;
                    name_new(&self.seen, &mut named);
                    continue;
                }
            };
            if mailbox.send(Message::Signal(signal)).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Says once of each signal that it is ignored.
fn name_new(seen: &[Arc<AtomicBool>], named: &mut [bool]) {
    for (((_, name), seen), named) in SURVIVED.iter().zip(seen).zip(named) {
        if seen.swap(false, Ordering::Relaxed) && !std::mem::replace(named, true) {
            tracing::warn!(
                event = "watch",
                watch = "signals",
                message = format!("{name} is ignored: SIGTERM, SIGHUP and SIGINT are what begins the drain")
            );
        }
    }
}

/// A socket that gets a byte for each such signal.
pub(crate) fn pipe_of(signal: i32) -> io::Result<Pipe> {
    let (ours, handler) = pipe()?;
    low_level::pipe::register(signal, handler)?;
    Ok(ours)
}

fn pipe() -> io::Result<(Pipe, Pipe)> {
    let (ours, handler) = Pipe::pair()?;
    ours.set_nonblocking(true)?;
    Ok((ours, handler))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::mailbox;

    #[tokio::test]
    async fn two_sigints_in_one_read_are_two() {
        let signals = Signals::take().unwrap();
        let (mailbox, mut messages) = mailbox::channel();
        for _ in 0..2 {
            signal_hook::low_level::raise(SIGINT).unwrap();
        }
        tokio::spawn(signals.watch(mailbox));
        for _ in 0..2 {
            let message = messages.recv().await.unwrap();
            assert!(matches!(message, Message::Signal(Signal::Int)), "{message:?}");
        }
    }
}
