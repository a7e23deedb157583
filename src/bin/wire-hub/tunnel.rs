//! WireGuard in user space, on the TUN device that `wire up` has made: taken up again when it is made anew, and changed one peer
//! at a time, so that the others notice nothing.

mod device;
mod memory;
mod peers;
mod tun;
mod udp;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::orders::{self, PeerSeen};
use crate::trouble::Trouble;
use crate::voice;

use device::Device;
use memory::Endpoints;
pub use memory::Memory;

/// How often it is looked after.
const ROUND: Duration = Duration::from_secs(1);
/// In how many rounds the peers are asked for once, so that what was heard of them is known after their sessions have gone.
const ASKED: u32 = 60;

pub struct Tunnel(Arc<Mutex<Kept>>);

struct Kept {
    orders: orders::Tunnel,
    /// None while `wire`'s device is not there.
    device: Option<Device>,
    /// The last handshake of each peer by its public key, in seconds since 1970: boringtun forgets it with the session.
    heard: BTreeMap<String, u64>,
    endpoints: Endpoints,
    memory: Memory,
}

impl Tunnel {
    /// Serves from a thread of its own, looked after by a task of the runtime that it is started in.
    pub fn start(orders: &orders::Tunnel, memory: Memory) -> Result<Tunnel, Trouble> {
        let endpoints = memory.read();
        let device = Some(Device::start(orders, endpoints.clone())?);
        let kept = Kept { orders: orders.clone(), device, heard: BTreeMap::new(), endpoints, memory };
        let kept = Arc::new(Mutex::new(kept));
        tokio::spawn(look_after(Arc::downgrade(&kept)));
        Ok(Tunnel(kept))
    }

    /// From now on these peers; those that stay notice nothing.
    pub fn serve(&self, orders: &orders::Tunnel) -> Result<(), Trouble> {
        locked(&self.0).serve(orders)
    }

    pub fn peers(&self) -> Vec<PeerSeen> {
        locked(&self.0).peers()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        locked(&self.0).remember();
    }
}

fn locked(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    // What is in there is true after every step.
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kept {
    fn serve(&mut self, orders: &orders::Tunnel) -> Result<(), Trouble> {
        self.orders = orders.clone();
        let was_missed = self.device.is_none();
        self.heard.retain(|key, _| orders.peers.iter().any(|peer| peer.public_key == *key));
        self.remember();
        match self.device.take_if(|device| !device.serves(orders)) {
            None if self.device.is_some() => {}
            // The port and the device are free once it is gone.
            gone => drop(gone),
        }
        match &mut self.device {
            Some(device) => device.change(&orders.peers),
            None => {
                self.device = Some(Device::start(orders, self.endpoints.clone())?);
                if was_missed {
                    voice::say(&format!("the tunnel `{}` is there again", orders.device));
                }
                Ok(())
            }
        }
    }

    /// Keeps where peers are, over the end of the device and of this process.
    fn remember(&mut self) {
        if let Some(device) = &self.device {
            self.endpoints = device.endpoints();
            self.memory.write(&self.endpoints);
        }
    }

    fn peers(&mut self) -> Vec<PeerSeen> {
        let mut seen = self.device.as_ref().map(Device::peers).unwrap_or_default();
        for peer in &mut seen {
            let known = self.heard.get(&peer.public_key).copied();
            peer.last_handshake = peer.last_handshake.max(known);
            if let Some(last) = peer.last_handshake {
                self.heard.insert(peer.public_key.clone(), last);
            }
        }
        seen
    }
}

/// Takes the device up again when `wire up` has made it anew. Ends with the tunnel.
async fn look_after(kept: Weak<Mutex<Kept>>) {
    let mut waits = false;
    for round in 1u32.. {
        tokio::time::sleep(ROUND).await;
        let Some(kept) = kept.upgrade() else { return };
        let mut kept = locked(&kept);
        if kept.device.as_ref().is_some_and(Device::is_attached) {
            if round % ASKED == 0 {
                kept.peers();
                kept.remember();
            }
            continue;
        }
        kept.remember();
        kept.device = None;
        match Device::start(&kept.orders, kept.endpoints.clone()) {
            Ok(device) => {
                kept.device = Some(device);
                waits = false;
                voice::say(&format!("the tunnel `{}` is there again", kept.orders.device));
            }
            Err(trouble) if !waits => {
                waits = true;
                voice::error(&format!("{trouble}; run `wire up`"));
            }
            Err(_) => {}
        }
    }
}
