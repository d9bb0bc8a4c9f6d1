//! SIGTERM and SIGINT, as messages.

use std::io;

use signal_hook::consts::{SIGINT, SIGTERM};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::sidecar::mailbox::{Mailbox, Message, Signal};

/// The signals of this process from the moment on at which it was made.
#[must_use = "call `watch` on it, or the signals are lost"]
pub struct Signals {
    term: std::os::unix::net::UnixStream,
    int: std::os::unix::net::UnixStream,
}

impl Signals {
    /// Takes the signals over. Called first of all: as PID 1 a process without a handler does not
    /// even notice SIGTERM.
    ///
    /// # Errors
    /// Where the process has no file descriptors left.
    pub fn take() -> io::Result<Signals> {
        Ok(Signals {
            term: pipe_of(SIGTERM)?,
            int: pipe_of(SIGINT)?,
        })
    }

    /// Sends a message for each. A hundred at once may become one.
    ///
    /// # Errors
    /// Where the pipes cannot be watched.
    pub async fn watch(self, mailbox: Mailbox) -> io::Result<()> {
        let mut term = UnixStream::from_std(self.term)?;
        let mut int = UnixStream::from_std(self.int)?;
        loop {
            let (mut terms, mut ints) = ([0; 64], [0; 2]);
            let signal = tokio::select! {
                _ = term.read(&mut terms) => Signal::Term,
                // Two bytes are two SIGINTs: the second one must not be lost.
                n = int.read(&mut ints) => {
                    if n? == ints.len() && mailbox.send(Message::Signal(Signal::Int)).await.is_err() {
                        return Ok(());
                    }
                    Signal::Int
                }
            };
            if mailbox.send(Message::Signal(signal)).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// A socket that gets a byte for each such signal.
pub(crate) fn pipe_of(signal: i32) -> io::Result<std::os::unix::net::UnixStream> {
    let (ours, handlers) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(signal, handlers)?;
    Ok(ours)
}
