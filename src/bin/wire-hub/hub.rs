//! What runs in a hub, and how new orders change it.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use crate::certs::Certs;
use crate::guard::Guard;
use crate::orders::{Answer, Ask, Orders};
use crate::proxy::Proxy;
use crate::trouble::Trouble;
use crate::tunnel::Tunnel;

pub struct Hub {
    orders: Orders,
    guard: Guard,
    /// The namespace that it lives in.
    namespace: u64,
    is_lost: bool,
    tunnel: Option<Tunnel>,
    proxy: Option<(Proxy, Arc<Certs>)>,
}

impl Hub {
    pub fn start(orders: Orders, guard: Guard) -> Result<Hub, Trouble> {
        let tunnel = orders.tunnel.as_ref().map(Tunnel::start).transpose()?;
        let proxy = orders.proxy.as_ref().map(|proxy| started(proxy, &orders.hub)).transpose()?;
        Ok(Hub { orders, guard, namespace: namespace(), is_lost: false, tunnel, proxy })
    }

    /// Whether the hub has another namespace by now, so that what is served here reaches nobody.
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    pub fn answer(&mut self, ask: Ask) -> Answer {
        match ask {
            Ask::Likeness => Answer::Likeness(self.orders.likeness()),
            Ask::Peers => Answer::Peers(self.tunnel.as_ref().map(Tunnel::peers).unwrap_or_default()),
            Ask::Serve(orders)
                if orders.namespace != self.namespace && orders.namespace != 0 && self.namespace != 0 =>
            {
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
            (None, Some(wanted)) => self.tunnel = Some(Tunnel::start(wanted)?),
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

/// What tells the namespace of this process from every other one; 0 where the kernel (before 5.14) cannot.
fn namespace() -> u64 {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)) else { return 0 };
    let (mut cookie, mut length) = (0u64, size_of::<u64>() as libc::socklen_t);
    #[expect(unsafe_code, reason = "no crate of ours has this option")]
    // SAFETY: the number is writable for that many bytes, and both outlive the call.
    let code = unsafe {
        let fd = socket.as_raw_fd();
        libc::getsockopt(fd, libc::SOL_SOCKET, SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut length)
    };
    if code == 0 { cookie } else { 0 }
}

fn started(orders: &crate::orders::Proxy, hub: &str) -> Result<(Proxy, Arc<Certs>), Trouble> {
    let certs = Certs::start(orders)?;
    Ok((Proxy::start(orders, hub, certs.clone())?, certs))
}
