//! What a hub says to whoever reads its standard error: the init system's log, or a terminal.

use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

pub fn say(text: &str) {
    // Nobody may be there to hear it.
    let _ = writeln!(std::io::stderr(), "wire-hub: {text}");
}

/// Tells whoever supervises it that everybody who comes is served (sd_notify(3)), where one listens.
pub fn ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else { return };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    if let (Ok(address), Ok(socket)) = (address, UnixDatagram::unbound()) {
        let _ = socket.send_to_addr(b"READY=1", &address);
    }
}

pub fn error(text: &str) {
    say(&format!("error: {text}"));
}
