//! What a hub says to whoever reads its standard error: the init system's log, or a terminal.

use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

pub fn say(text: &str) {
    // Nobody may be there to hear it.
    let _ = writeln!(std::io::stderr(), "wire-hub: {}", plain(text));
}

/// On one line and without what a terminal would obey: some of the words are those of an ACME directory.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Whoever supervises this process and wants to hear when everybody who comes is served (sd_notify(3)), where one listens. Found
/// before sockets of this machine are given up.
pub struct Supervisor(Option<UnixDatagram>);

impl Supervisor {
    pub fn find() -> Supervisor {
        let path = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty());
        let found = path.and_then(|path| {
            let address = match path.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
                _ => SocketAddr::from_pathname(&path),
            };
            let socket = UnixDatagram::unbound().ok()?;
            socket.connect_addr(&address.ok()?).ok().map(|()| socket)
        });
        Supervisor(found)
    }

    pub fn ready(self) {
        if let Some(socket) = self.0 {
            let _ = socket.send(b"READY=1");
        }
    }
}

pub fn error(text: &str) {
    say(&format!("error: {text}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_one_line() {
        assert_eq!(plain("it says: no\nwire-hub: error: \u{1b}[2J\u{9b}x"), "it says: no wire-hub: error:  [2J x");
    }
}
