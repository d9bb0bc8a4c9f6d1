//! Where the TCP sockets of the network namespace are listed: the kernel in production, a script in
//! tests.
//!
//! A list comes piece by piece, so that neither memory nor the one thread is taken by a hundred
//! thousand sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::core::quiet::TcpConnection;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketQuery {
    /// Those that listen.
    Listeners,
    /// Connections whose own end has this port, or all.
    Connections(Option<u16>),
    /// Connections whose other end has this port.
    CallsTo(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// It listens at that address.
    Listener(SocketAddr),
    Connection(TcpConnection, Inode),
}

/// By which `/proc/self/fd` names a socket; 0 where no process has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Inode(pub u64);

/// The sockets of a network namespace.
pub trait Sockets: Send + Sync {
    /// Begins a list.
    ///
    /// # Errors
    /// Where there is no way to list them.
    fn list(&self, wanted: SocketQuery) -> io::Result<Box<dyn List>>;

    /// The addresses of the namespace, as far as they are known; loopback need not be among them.
    fn addresses(&self) -> Vec<IpAddr>;

    /// The sockets of this very process.
    fn own(&self) -> Vec<Inode>;

    /// The sockets of the task's other network namespaces; `None` where no process of another one is in sight.
    fn of_other_containers(&self) -> Option<Arc<dyn Sockets>> {
        None
    }

    /// Why an open connection that works cannot be told from an idle one, where that is so.
    fn weakness(&self) -> Option<String>;
}

pub trait List: Send {
    /// Adds the next sockets; false where there are no more.
    ///
    /// # Errors
    /// Where the list is not complete.
    fn next(&mut self, sockets: &mut Vec<Socket>) -> io::Result<bool>;
}
