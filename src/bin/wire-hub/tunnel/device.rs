//! boringtun on one TUN device, told what to do over its own configuration protocol by a socket that nobody else has.
//!
//! It is used as far as it is sound: one thread, one queue, one socket for all peers (a socket of its own for each would be open
//! to packets of others while it is made). A peer that it has cannot be changed, which would be a panic, but taken out and put in
//! again; and what is set of one peer in a message sticks to the next, so that each has a message of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use boringtun::device::{DeviceConfig, DeviceHandle};

use super::tun;
use crate::orders::{self, PeerSeen, Secret};
use crate::trouble::{Context, Trouble};

/// It answers at once, or its thread has ended.
const PATIENCE: Duration = Duration::from_secs(5);
/// No preshared key: WireGuard mixes in zeros then.
const NONE: [u8; 32] = [0; 32];

pub struct Device {
    name: String,
    listen: u16,
    private_key: Secret,
    /// As they are in force, by their public keys.
    peers: BTreeMap<String, orders::Peer>,
    /// Open a second time, to ask whether the device is still there.
    tun: File,
    /// Closed first: boringtun ends with it.
    socket: Option<UnixStream>,
    handle: DeviceHandle,
}

impl Drop for Device {
    fn drop(&mut self) {
        self.socket = None;
        // The port and the device are free when its thread has ended.
        self.handle.wait();
    }
}

impl Device {
    pub fn start(orders: &orders::Tunnel) -> Result<Device, Trouble> {
        let failed = || format!("cannot serve the tunnel `{}`", orders.device);
        let tun = tun::attach(&orders.device)?;
        let (socket, theirs) = UnixStream::pair().context(failed())?;
        socket.set_read_timeout(Some(PATIENCE)).context(failed())?;
        let config = DeviceConfig {
            n_threads: 1,
            use_connected_socket: false,
            use_multi_queue: false,
            uapi_fd: theirs.into_raw_fd(),
        };
        // A number is a descriptor that is already open, and closed by boringtun.
        let descriptor = tun.try_clone().context(failed())?.into_raw_fd();
        let handle = DeviceHandle::new(&descriptor.to_string(), config).context(failed())?;
        let mut device = Device {
            name: orders.device.clone(),
            listen: orders.listen,
            private_key: orders.private_key.clone(),
            peers: BTreeMap::new(),
            tun,
            socket: Some(socket),
            handle,
        };
        let key = bytes(&orders.private_key.0).ok_or_else(|| Trouble(format!("{}: its key is none", failed())))?;
        device.set(&format!("private_key={}\n", hex(&key)))?;
        device
            .set(&format!("listen_port={}\n", orders.listen))
            .map_err(|_| Trouble(format!("{}: another program has udp/{}", failed(), orders.listen)))?;
        device.change(&orders.peers)?;
        Ok(device)
    }

    pub fn is_attached(&self) -> bool {
        tun::is_attached(&self.tun)
    }

    /// Whether it can go on under these orders, whatever peers they name.
    pub fn serves(&self, orders: &orders::Tunnel) -> bool {
        let same = self.name == orders.device && self.listen == orders.listen && self.private_key == orders.private_key;
        same && self.is_attached()
    }

    /// Takes out and puts in what is not as wanted.
    pub fn change(&mut self, wanted: &[orders::Peer]) -> Result<(), Trouble> {
        let stays = |peer: &orders::Peer| wanted.iter().find(|wanted| wanted.public_key == peer.public_key);
        let same = |a: &orders::Peer, b: &orders::Peer| a.address == b.address && a.preshared_key == b.preshared_key;
        let gone: Vec<String> = (self.peers.values())
            .filter(|peer| stays(peer).is_none_or(|wanted| !same(peer, wanted)))
            .map(|peer| peer.public_key.clone())
            .collect();
        let endpoints: BTreeMap<String, String> = match gone.is_empty() {
            true => BTreeMap::new(),
            false => self.peers()?.into_iter().filter_map(|peer| Some((peer.public_key, peer.endpoint?))).collect(),
        };
        // All of them before any comes, since one may have the address of another now.
        for key in &gone {
            self.set(&format!("public_key={}\nremove=true\n", hex(&public_key(key)?)))?;
            self.peers.remove(key);
        }
        for peer in wanted {
            if !self.peers.contains_key(&peer.public_key) {
                self.add(peer, endpoints.get(&peer.public_key))?;
            }
            self.peers.insert(peer.public_key.clone(), peer.clone());
        }
        Ok(())
    }

    fn add(&mut self, peer: &orders::Peer, endpoint: Option<&String>) -> Result<(), Trouble> {
        let failed = || Trouble(format!("peer `{}`: its preshared key is none", peer.name));
        let preshared = match &peer.preshared_key {
            Some(key) => bytes(&key.0).ok_or_else(failed)?,
            None => NONE,
        };
        let length = if peer.address.is_ipv4() { 32 } else { 128 };
        let mut text = format!("public_key={}\n", hex(&public_key(&peer.public_key)?));
        if let Some(endpoint) = endpoint {
            let _ = writeln!(text, "endpoint={endpoint}");
        }
        let _ = writeln!(text, "preshared_key={}\nallowed_ip={}/{length}", hex(&preshared), peer.address);
        self.set(&text)
    }

    /// What was heard of each peer; of handshakes, how many seconds ago the last one was.
    pub fn peers(&mut self) -> Result<Vec<PeerSeen>, Trouble> {
        let mut seen: Vec<PeerSeen> = Vec::new();
        for line in self.talk("get=1\n\n")? {
            let Some((key, value)) = line.split_once('=') else { continue };
            match (key, seen.last_mut()) {
                ("public_key", _) => seen.push(PeerSeen {
                    public_key: unhex(value).map(|key| STANDARD.encode(key)).unwrap_or_default(),
                    endpoint: None,
                    last_handshake: None,
                    rx_bytes: 0,
                    tx_bytes: 0,
                }),
                ("endpoint", Some(peer)) => peer.endpoint = Some(value.to_owned()),
                ("last_handshake_time_sec", Some(peer)) => peer.last_handshake = value.parse().ok(),
                ("rx_bytes", Some(peer)) => peer.rx_bytes = value.parse().unwrap_or_default(),
                ("tx_bytes", Some(peer)) => peer.tx_bytes = value.parse().unwrap_or_default(),
                _ => {}
            }
        }
        Ok(seen)
    }

    fn set(&mut self, text: &str) -> Result<(), Trouble> {
        self.talk(&format!("set=1\n{text}\n")).map(drop)
    }

    /// Sends one message, and takes the lines of its answer.
    fn talk(&mut self, message: &str) -> Result<Vec<String>, Trouble> {
        let failed = || format!("the tunnel `{}` does not answer", self.name);
        let mut socket = self.socket.as_ref().ok_or_else(|| Trouble(failed()))?;
        // At once: it is read without looking whether there is more.
        socket.write_all(message.as_bytes()).context(failed())?;
        let mut lines = Vec::new();
        let mut code = None;
        for line in BufReader::new(socket).lines() {
            let line = line.context(failed())?;
            match line.strip_prefix("errno=") {
                Some(number) => code = Some(number.to_owned()),
                // The last line of every answer.
                None if line.is_empty() => break,
                None => lines.push(line),
            }
        }
        match code.as_deref() {
            Some("0") => Ok(lines),
            Some(number) => Err(Trouble(format!("the tunnel `{}` refuses a change ({number})", self.name))),
            None => Err(Trouble(failed())),
        }
    }
}

fn public_key(text: &str) -> Result<[u8; 32], Trouble> {
    bytes(text).ok_or_else(|| Trouble(format!("`{text}` is no public key")))
}

fn bytes(base64: &str) -> Option<[u8; 32]> {
    STANDARD.decode(base64).ok()?.try_into().ok()
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}
