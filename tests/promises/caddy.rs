//! A server that nobody here wrote: Caddy, which stops gracefully on `POST /stop`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::process::{PATIENCE, Process, Sidecar, await_that, free_address, is_here};

/// More than what fits into the socket buffers of both ends, so that the download is truly in flight.
const LENGTH: u64 = 64 * 1024 * 1024;

#[test]
fn a_download_in_flight_completes_while_caddy_is_drained() {
    if !is_here("caddy", &["caddy", "version"]) {
        return;
    }
    let folder = std::env::temp_dir().join(format!("ecs-prestop-caddy-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::File::create(folder.join("large"))
        .unwrap()
        .set_len(LENGTH)
        .unwrap();
    let (admin, site) = (free_address(), free_address());
    let config = serde_json::json!({
        "admin": {"listen": admin.to_string(), "config": {"persist": false}},
        "apps": {"http": {"servers": {"files": {
            "listen": [site.to_string()],
            "automatic_https": {"disable": true},
            "routes": [{"handle": [{"handler": "file_server", "root": folder}]}]
        }}}}
    });
    let file = folder.join("caddy.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let mut command = Command::new("caddy");
    command.args(["run", "--config"]).arg(&file).env("HOME", &folder);
    let mut caddy = Process::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
    await_that("Caddy serves (is it installed?)", || {
        TcpStream::connect(site).is_ok()
    });

    let mut download = TcpStream::connect(site).unwrap();
    download.set_read_timeout(Some(PATIENCE)).unwrap();
    download
        .write_all(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut start = [0; 1024];
    download.read_exact(&mut start).unwrap();

    let mut sidecar = Sidecar::start(&[("PRESTOP_DRAIN", &format!("POST http://{admin}/stop"))]);
    sidecar.process.signal(Signal::TERM);
    sidecar.await_event("step.start");
    // It takes no new connections, and the call is held until the download is complete.
    await_that("Caddy takes no new connections", || {
        TcpStream::connect(site).is_err()
    });
    let head = String::from_utf8_lossy(&start).find("\r\n\r\n").unwrap() + 4;
    let rest = std::io::copy(&mut download, &mut std::io::sink()).unwrap();
    assert_eq!(1024 - head as u64 + rest, LENGTH, "the download must be complete");
    sidecar.await_event("exit");
    assert_eq!(sidecar.process.wait(), Some(0));
    assert_eq!(caddy.wait(), Some(0));
    let _ = std::fs::remove_dir_all(&folder);
}
