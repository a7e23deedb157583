//! What the machine says of its own names: `/etc/resolv.conf` and `/etc/hosts`, as texts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

/// The DNS, of old.
const PORT: u16 = 53;
/// As many name servers are asked, as of resolv.conf(5).
const SERVERS: usize = 3;

/// The name servers of an `/etc/resolv.conf`; this machine's own where there is none. `index` is the number of a device, for
/// link-local servers.
pub fn servers(text: &str, index: impl Fn(&str) -> Option<u32>) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        match address.split_once('%') {
            None => Some(SocketAddr::new(address.parse().ok()?, PORT)),
            Some((address, device)) => {
                let scope = device.parse().ok().or_else(|| index(device))?;
                Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, scope).into())
            }
        }
    };
    let servers: Vec<_> = text.lines().filter_map(server).take(SERVERS).collect();
    if servers.is_empty() { vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT)] } else { servers }
}

/// The addresses that an `/etc/hosts` gives these names. Names are in small letters.
pub fn hosts(text: &str, names: &BTreeSet<String>) -> BTreeMap<String, BTreeSet<IpAddr>> {
    let mut found: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else { continue };
        for name in words.map(str::to_ascii_lowercase).filter(|name| names.contains(name)) {
            found.entry(name).or_default().insert(address);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_those_of_the_file() {
        let index = |device: &str| (device == "eth0").then_some(7);
        let table: [(&str, &[&str]); 5] = [
            ("", &["127.0.0.1:53"]),
            ("search example.net\nnameserver\nnameserver x\n#nameserver 9.9.9.9\n", &["127.0.0.1:53"]),
            ("nameserver 192.0.2.53 # first\n\tnameserver\t2001:db8::53\r\n", &["192.0.2.53:53", "[2001:db8::53]:53"]),
            (
                "nameserver fe80::1%eth0\nnameserver fe80::1%none\nnameserver fe80::1%3",
                &["[fe80::1%7]:53", "[fe80::1%3]:53"],
            ),
            (
                "nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4",
                &["1.1.1.1:53", "1.1.1.2:53", "1.1.1.3:53"],
            ),
        ];
        for (text, wanted) in table {
            let servers: Vec<_> = servers(text, index).iter().map(SocketAddr::to_string).collect();
            assert_eq!(servers, wanted, "{text}");
        }
    }

    #[test]
    fn hosts_are_found_by_any_of_their_names() {
        let text = "# 192.0.2.9 anna.example.net\n192.0.2.1 Anna.Example.NET anna # her own\n2001:db8::1\tanna.example.net\n\nx anna\n192.0.2.2 bert";
        let names = ["anna.example.net", "bert", "carl"].map(str::to_owned).into();
        let found = hosts(text, &names);
        let shown: Vec<_> = found.iter().map(|(name, addresses)| format!("{name} {addresses:?}")).collect();
        assert_eq!(shown, ["anna.example.net {192.0.2.1, 2001:db8::1}", "bert {192.0.2.2}"]);
    }
}
