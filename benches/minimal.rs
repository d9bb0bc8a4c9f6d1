//! The yardstick of `benches/shutdown.rs`: the smallest program of the same dependencies that does the
//! one thing which matters, a POST to `/drain` once SIGTERM comes.
//!
//! `minimal ADDRESS:PORT`

use std::error::Error;
use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;

use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use signal_hook::consts::SIGTERM;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpStream, UnixStream};

fn main() -> Result<(), Box<dyn Error>> {
    let term = sigterm()?;
    let app = std::env::args().nth(1).ok_or("usage: minimal ADDRESS:PORT")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let mut term = UnixStream::from_std(term)?;
        println!("ready");
        term.read_u8().await?;
        drain(&app).await
    })
}

/// A pipe that becomes readable when SIGTERM comes.
fn sigterm() -> io::Result<StdUnixStream> {
    let (ours, handlers) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(SIGTERM, handlers)?;
    Ok(ours)
}

async fn drain(app: &str) -> Result<(), Box<dyn Error>> {
    let stream = TcpStream::connect(app).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::post("/drain")
        .header(HOST, app)
        .body(Empty::<Bytes>::new())?;
    sender.send_request(request).await?;
    Ok(())
}
