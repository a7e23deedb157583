//! Whoever supervises this process, told how it goes: systemd's protocol of datagrams (sd_notify(3)), where one is spoken.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use super::pending;

pub struct Supervisor {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants to hear that this process still turns.
    interval: Option<Duration>,
    next: Instant,
}

impl Supervisor {
    /// The one that the environment names, if any. To call only where no other thread runs.
    pub fn of_environment() -> Supervisor {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let address = variable("NOTIFY_SOCKET").and_then(|path| match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok(),
            _ => SocketAddr::from_pathname(&path).ok(),
        });
        let socket = address.and_then(|address| Some((UnixDatagram::unbound().ok()?, address)));
        let meant = variable("WATCHDOG_PID").is_none_or(|pid| pid.to_str() == Some(&std::process::id().to_string()));
        let limit = variable("WATCHDOG_USEC").filter(|_| meant && socket.is_some());
        let limit = limit.and_then(|micros| Some(Duration::from_micros(micros.to_str()?.parse().ok()?)));
        // Twice as often as is asked for, as sd_watchdog_enabled(3) recommends.
        let interval = limit.map(|limit| limit / 2).filter(|interval| !interval.is_zero());
        Supervisor { socket, interval, next: Instant::now() }
    }

    /// Until when it has to hear from us.
    pub fn until(&self) -> Option<Instant> {
        self.interval.map(|_| self.next)
    }

    /// Says that this process turns, where that is due.
    pub fn turns(&mut self) {
        if let Some(interval) = self.interval
            && Instant::now() >= self.next
        {
            self.next = Instant::now() + interval;
            self.say("WATCHDOG=1");
        }
    }

    pub fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={status}"));
    }

    pub fn reloading(&self) {
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", pending::monotonic().as_micros()));
    }

    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// A supervisor that is gone keeps nothing from being done.
    fn say(&self, text: &str) {
        if let Some((socket, address)) = &self.socket {
            let _ = socket.send_to_addr(text.as_bytes(), address);
        }
    }
}
