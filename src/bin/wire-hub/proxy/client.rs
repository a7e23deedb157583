//! What is kept of a client: how many connections it has, and how fast it asks.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::orders::Rate;

/// Connections of one client at a time.
pub const CONNECTIONS: usize = 256;
/// More are forgotten as soon as they have no connection.
const REMEMBERED: usize = 1 << 16;

/// One IPv4 address, or the /64 that somebody has of IPv6. Each of its connections holds it.
#[derive(Debug, Default)]
pub struct Client {
    /// By site, when its requests so far are all paid for, in nanoseconds of the proxy's clock.
    paid: Mutex<Vec<(u64, u64)>>,
}

impl Client {
    /// Whether one more request is within the rate; else how long until it is.
    pub fn admits(&self, site: u64, rate: Rate, now: Duration) -> Result<(), Duration> {
        let now = nanos(now);
        let each = u64::from(rate.per) * 1_000_000_000 / u64::from(rate.count.max(1));
        let ahead = each.saturating_mul(u64::from(rate.burst.max(1)));
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = match paid.iter().position(|(of, _)| *of == site) {
            Some(slot) => slot,
            None => {
                paid.push((site, now));
                paid.len() - 1
            }
        };
        let until = paid[slot].1.max(now).saturating_add(each);
        match (until - now).checked_sub(ahead) {
            None | Some(0) => {
                paid[slot].1 = until;
                Ok(())
            }
            Some(early) => Err(Duration::from_nanos(early)),
        }
    }

    /// Whether nothing is lost when it is forgotten.
    fn rests(&self, now: Duration) -> bool {
        let paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        paid.iter().all(|(_, until)| *until <= nanos(now))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// All clients that have connections, or had some a moment ago.
#[derive(Debug, Default)]
pub struct Clients(HashMap<IpAddr, Arc<Client>>);

impl Clients {
    /// The client behind an address; `None` if it has all the connections that it may have.
    pub fn at(&mut self, address: IpAddr, now: Duration) -> Option<Arc<Client>> {
        if self.0.len() >= REMEMBERED {
            self.forget(now);
        }
        let client = self.0.entry(household(address)).or_default();
        // The map holds one.
        (Arc::strong_count(client) <= CONNECTIONS).then(|| client.clone())
    }

    /// Lets go of those that have no connection and owe nothing, and if those are too few, of those that owe.
    pub fn forget(&mut self, now: Duration) {
        self.0.retain(|_, client| Arc::strong_count(client) > 1 || !client.rests(now));
        if self.0.len() >= REMEMBERED {
            self.0.retain(|_, client| Arc::strong_count(client) > 1);
        }
    }
}

fn household(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_one_at_a_time() {
        let client = Client::default();
        let rate = Rate { count: 10, per: 1, burst: 3 };
        let at = Duration::from_millis;
        assert!((0..3).all(|_| client.admits(1, rate, at(0)).is_ok()));
        assert_eq!(client.admits(1, rate, at(0)), Err(at(100)));
        assert_eq!(client.admits(1, rate, at(40)), Err(at(60)));
        assert!(client.admits(2, rate, at(0)).is_ok(), "another site has its own");
        assert!(client.admits(1, rate, at(100)).is_ok());
        assert!(client.admits(1, rate, at(100)).is_err());
        assert!(!client.rests(at(300)) && client.rests(at(400)));
    }

    #[test]
    fn a_client_has_so_many_connections_and_an_ipv6_client_is_a_64() {
        let mut clients = Clients::default();
        let now = Duration::ZERO;
        let address = |text: &str| text.parse().unwrap();
        let held: Vec<_> = (0..CONNECTIONS).map(|_| clients.at(address("2001:db8::1"), now).unwrap()).collect();
        assert!(clients.at(address("2001:db8::ffff:1"), now).is_none());
        assert!(clients.at(address("2001:db8:0:1::1"), now).is_some());
        assert!(clients.at(address("192.0.2.1"), now).is_some());
        drop(held);
        assert!(clients.at(address("2001:db8::1"), now).is_some());
        clients.forget(now);
        assert!(clients.0.is_empty());
    }
}
