//! The floor: the kernel objects that `wire up` makes, made as fast as one thread can by somebody who looks at nothing.

use std::fs::{self, File};
use std::io;

use nix::fcntl::{OFlag, openat};
use nix::sched::{CloneFlags, setns};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;

use super::host::{HOST, Lab};
use super::netlink::{
    AF_INET, Batch, IFA_ADDRESS, IFA_LOCAL, IFA_PROTO, IFLA_AF_SPEC, IFLA_ALT_IFNAME, IFLA_IFALIAS, IFLA_INET_CONF,
    IFLA_PROP_LIST, MAIN, NEW, NLA_F_NESTED, PROTOCOL, RTA_GATEWAY, RTA_OIF, RTM_NEWADDR, RTM_NEWLINKPROP,
    RTM_NEWROUTE, RTM_SETLINK, RTN_UNICAST, Socket, netfilter_socket, route_socket,
};
use super::rules;
use super::wiring::{End, HUB, Wire, leaf_name, star};
use crate::Result;

/// Per-device IPv4 settings by the kernel's IPV4_DEVCONF numbers.
const IPV4_CONF: [(u16, u32); 9] = [
    (1, 0),  // forwarding
    (3, 0),  // proxy_arp
    (4, 0),  // accept_redirects
    (6, 0),  // send_redirects
    (8, 1),  // rp_filter
    (9, 0),  // accept_source_route
    (18, 2), // arp_announce
    (19, 2), // arp_ignore
    (26, 0), // route_localnet
];

/// Where the rules lie ready, as the kernel takes them.
const TABLES: &str = "/run/bench/tables";

/// Lays the rules of all nodes ready for `floor`, as they are in the kernel now: each behind a line with name and length.
pub fn write_tables(lab: &Lab) -> Result<()> {
    let mut bytes = Vec::new();
    for node in lab.nodes() {
        let table = rules::copy(lab.pretend.filter(node)?)?;
        bytes.extend_from_slice(format!("{node} {}\n", table.len()).as_bytes());
        bytes.extend(table);
    }
    Ok(fs::write(TABLES, bytes)?)
}

/// `bench floor rules`, or `bench floor N`: those and N leaves' wires. All from messages that need no answer.
pub fn floor(what: Option<&String>) -> Result<()> {
    let what = what.ok_or("floor needs N")?;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let host = File::open("/proc/self/ns/net")?;
    // The sockets stay open, as those of `wire` do.
    let _sockets = load_tables(&host)?;
    if what == "rules" { Ok(()) } else { lay_wires(&host, &star(what.parse()?).wires) }
}

fn load_tables(host: &File) -> Result<Vec<Socket>> {
    let tables = fs::read(TABLES)?;
    let mut rest = tables.as_slice();
    let mut sockets = Vec::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or("the rules are cut short")?;
        let (node, length) = str::from_utf8(&rest[..end])?.split_once(' ').ok_or("rules of nobody")?;
        let (table, behind) = rest[end + 1..].split_at_checked(length.parse()?).ok_or("the rules are cut short")?;
        rest = behind;
        match node {
            HOST => setns(host, CloneFlags::CLONE_NEWNET)?,
            name => setns(File::open(format!("/run/netns/{name}"))?, CloneFlags::CLONE_NEWNET)?,
        }
        let socket = netfilter_socket()?;
        socket.send(table)?;
        sockets.push(socket);
    }
    setns(host, CloneFlags::CLONE_NEWNET)?;
    Ok(sockets)
}

/// The pairs, then what follows birth.
fn lay_wires(host: &File, wires: &[Wire]) -> Result<()> {
    let hub = File::open(format!("/run/netns/{HUB}"))?;
    let leaves =
        (1..wires.len()).map(|i| File::open(format!("/run/netns/{}", leaf_name(i)))).collect::<io::Result<Vec<_>>>()?;

    // Explicit indexes, so that all later messages can be written without asking the kernel.
    let ends: Vec<(u32, &Wire)> = (1000..).zip(wires).collect();

    let mut batch = Batch::default();
    for ((index, wire), leaf) in ends.iter().zip(std::iter::once(&hub).chain(&leaves)) {
        let from = if *index == 1000 { host } else { &hub };
        batch.pair(*index, (&wire.from.device, from), (&wire.to.device, leaf));
    }
    route_socket()?.carry_out(&batch)?;

    settle_ends(&[(ends[0].0, ends[0].1, &wires[0].from)], &mut batch)?;
    setns(&hub, CloneFlags::CLONE_NEWNET)?;
    let mut in_hub = vec![(ends[0].0, ends[0].1, &wires[0].to)];
    in_hub.extend(ends[1..].iter().map(|(index, wire)| (*index, *wire, &wire.from)));
    settle_ends(&in_hub, &mut batch)?;
    for ((index, wire), leaf) in ends[1..].iter().zip(&leaves) {
        setns(leaf, CloneFlags::CLONE_NEWNET)?;
        settle_ends(&[(*index, *wire, &wire.to)], &mut batch)?;
    }
    Ok(())
}

/// All that follows birth, for the ends in the namespace this thread is in: one write each, and one batch.
fn settle_ends(ends: &[(u32, &Wire, &End)], batch: &mut Batch) -> Result<()> {
    // The path leads through this thread's namespace, and looking it up is most of the cost of the write.
    let conf = File::open("/proc/sys/net/ipv6/conf")?;
    batch.clear();
    for (index, wire, end) in ends {
        let path = format!("{}/disable_ipv6", end.device);
        let switch = openat(&conf, path.as_str(), OFlag::O_WRONLY, Mode::empty())?;
        nix::unistd::write(&switch, b"1")?;

        batch.message(RTM_SETLINK, 0).link(*index, true);
        batch.text(IFLA_IFALIAS, &wire.name);
        batch.nest(IFLA_AF_SPEC).nest(AF_INET.into()).nest(IFLA_INET_CONF);
        for (key, value) in IPV4_CONF {
            batch.u32(key, value);
        }
        batch.close().close().close().end();

        if end.device != wire.name {
            batch.message(RTM_NEWLINKPROP, NEW).link(*index, false);
            batch.nest(IFLA_PROP_LIST | NLA_F_NESTED);
            batch.text(IFLA_ALT_IFNAME, &wire.name).close().end();
        }

        let address = end.address.octets();
        batch.message(RTM_NEWADDR, NEW).bytes(&[AF_INET, 31, 0, 0]);
        batch.bytes(&index.to_ne_bytes());
        batch.attribute(IFA_LOCAL, &address);
        batch.attribute(IFA_ADDRESS, &address);
        batch.attribute(IFA_PROTO, &[PROTOCOL]).end();

        if end.address == wire.to.address {
            batch.message(RTM_NEWROUTE, NEW);
            batch.bytes(&[AF_INET, 0, 0, 0]).bytes(&[MAIN, PROTOCOL, 0, RTN_UNICAST]).bytes(&[0; 4]);
            batch.attribute(RTA_GATEWAY, &wire.from.address.octets());
            batch.u32(RTA_OIF, *index).end();
        }
    }
    route_socket()?.carry_out(batch)
}
