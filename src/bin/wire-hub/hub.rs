//! What runs in a hub, and how new orders change it.

use std::sync::Arc;

use crate::certs::Certs;
use crate::guard::Guard;
use crate::orders::{Answer, Ask, Orders};
use crate::proxy::Proxy;
use crate::trouble::Trouble;
use crate::tunnel::{Memory, Tunnel};

pub struct Hub {
    orders: Orders,
    guard: Guard,
    memory: Memory,
    is_lost: bool,
    tunnel: Option<Tunnel>,
    proxy: Option<(Proxy, Arc<Certs>)>,
}

impl Hub {
    pub fn start(orders: Orders, guard: Guard, memory: Memory) -> Result<Hub, Trouble> {
        let start = |tunnel| Tunnel::start(tunnel, memory.clone());
        let tunnel = orders.tunnel.as_ref().map(start).transpose()?;
        let proxy = orders.proxy.as_ref().map(|proxy| started(proxy, &orders.hub)).transpose()?;
        Ok(Hub { orders, guard, memory, is_lost: false, tunnel, proxy })
    }

    /// Whether the hub has another namespace by now, so that what is served here reaches nobody.
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    pub fn answer(&mut self, ask: Ask) -> Answer {
        match ask {
            Ask::Likeness => Answer::Likeness(self.orders.likeness()),
            Ask::Peers => Answer::Peers(self.tunnel.as_ref().map(Tunnel::peers).unwrap_or_default()),
            // A namespace cannot be changed for another without the power to do so, which it has not.
            Ask::Serve(orders) if orders.namespace != self.orders.namespace => {
                self.is_lost = true;
                Answer::Moved
            }
            Ask::Serve(orders) => match self.guard.allows(&orders) {
                Err(reason) => Answer::Restart(reason),
                Ok(()) => match self.serve(*orders) {
                    Ok(()) => Answer::Done,
                    Err(trouble) => Answer::Failed(trouble.to_string()),
                },
            },
        }
    }

    /// Takes over what changed. Where one part fails, what it served before goes on.
    fn serve(&mut self, orders: Orders) -> Result<(), Trouble> {
        match (&self.tunnel, &orders.tunnel) {
            (Some(tunnel), Some(wanted)) => tunnel.serve(wanted)?,
            (None, Some(wanted)) => self.tunnel = Some(Tunnel::start(wanted, self.memory.clone())?),
            (_, None) => self.tunnel = None,
        }
        match (&self.proxy, &orders.proxy) {
            (Some((proxy, certs)), Some(wanted)) => {
                certs.serve(wanted)?;
                proxy.serve(wanted)?;
            }
            (None, Some(wanted)) => self.proxy = Some(started(wanted, &orders.hub)?),
            (_, None) => {
                if let Some((proxy, _)) = self.proxy.take() {
                    tokio::spawn(proxy.drain());
                }
            }
        }
        self.orders = orders;
        Ok(())
    }

    /// Ends what is under way in good order.
    pub async fn drain(self) {
        if let Some((proxy, _)) = self.proxy {
            proxy.drain().await;
        }
    }
}

fn started(orders: &crate::orders::Proxy, hub: &str) -> Result<(Proxy, Arc<Certs>), Trouble> {
    let certs = Certs::start(orders)?;
    Ok((Proxy::start(orders, hub, certs.clone())?, certs))
}
