//! What the kernel tells of one namespace without being asked: links, addresses, routes, settings that it announces, and the
//! generations of its nftables.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use netlink_packet_core::NlasIterator;
use nix::errno::Errno;

use crate::error::{Context, Error};
use crate::kernel::link;
use crate::kernel::netns::Netns;
use crate::kernel::nfnl;
use crate::kernel::socket::{Answer, NETLINK_NETFILTER, NETLINK_ROUTE, Socket};
use crate::kernel::sys;
use crate::topology::Name;

/// `RTNLGRP_*` (linux/rtnetlink.h): links, IPv4 and IPv6 addresses and routes, IPv4 and IPv6 settings.
const ROUTE_GROUPS: [u32; 7] = [1, 5, 7, 9, 11, 24, 25];
/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h).
const RULES_GROUP: u32 = 7;

/// `RTM_*` (linux/rtnetlink.h).
mod rtm {
    pub const NEW_LINK: u16 = 16;
    pub const DEL_LINK: u16 = 17;
    pub const NEW_ADDRESS: u16 = 20;
    pub const DEL_ADDRESS: u16 = 21;
    pub const NEW_ROUTE: u16 = 24;
    pub const DEL_ROUTE: u16 = 25;
    pub const NEW_SETTINGS: u16 = 80;
    pub const DEL_SETTINGS: u16 = 81;
}

/// `RTA_OIF` (linux/rtnetlink.h), after the twelve bytes of a `struct rtmsg`.
const ROUTE_DEVICE: u16 = 4;
const ROUTE_HEADER: usize = 12;
/// `NETCONFA_IFINDEX` (linux/netconf.h), after a `struct netconfmsg`, which is one byte and padding.
const SETTINGS_DEVICE: u16 = 1;
const SETTINGS_HEADER: usize = 4;
/// `NFT_MSG_NEWGEN` of `NFNL_SUBSYS_NFTABLES`, and `NFTA_GEN_ID` (linux/netfilter/nf_tables.h).
const NEW_GENERATION: u16 = u16::from_be_bytes([10, 15]);
const GENERATION: u16 = 1;

/// What has changed in a namespace, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// An end of this wire.
    Wire(Name),
    /// The rules.
    Rules,
    /// Devices that are no wire's, a tunnel's among them, or settings of the whole.
    Whole,
}

/// The devices of a namespace, by index.
type Devices = HashMap<u32, Known>;

struct Known {
    name: String,
    /// What it is of, where it is of ours.
    of: Option<Part>,
}

/// Ears in one namespace. They keep it alive.
pub struct Ear {
    pub netns: Netns,
    /// Of the container that lives in it, where one does: readable when it has ended.
    pub process: Option<OwnedFd>,
    pub route: Socket,
    pub rules: Socket,
    devices: Devices,
    pub cookie: u64,
    /// The state of the rules that somebody has looked at last and found right.
    pub generation: Option<u32>,
}

impl Ear {
    /// Listens from now on.
    pub fn open(netns: Netns, process: Option<OwnedFd>, home: &Netns) -> Result<Ear, Error> {
        let (route, rules) = netns.inside(home, || {
            let route = Socket::listen(NETLINK_ROUTE, &ROUTE_GROUPS)?;
            Ok::<_, Error>((route, Socket::listen(NETLINK_NETFILTER, &[RULES_GROUP])?))
        })??;
        let cookie = sys::netns_cookie(route.as_fd()).context("cannot tell a network namespace from another")?;
        // Asked on a socket that does not listen, where news would come between the answers.
        let asking = netns.inside(home, || Socket::open(NETLINK_ROUTE))??;
        let links = asking.dump(&link::list(), link::seen).unwrap_or_default();
        let known = |seen: link::Seen| (seen.index, Known { of: part_of(&seen), name: seen.name });
        let devices = links.into_iter().map(known).collect();
        Ok(Ear { netns, process, route, rules, devices, cookie, generation: None })
    }

    /// What has been told since; a part may be there more than once.
    pub fn hear_routes(&mut self, heard: &mut Vec<Part>) {
        let Ear { route, devices, .. } = self;
        drain(route, heard, Part::Whole, |answer| part(answer, devices));
    }

    pub fn hear_rules(&mut self, heard: &mut Vec<Part>) {
        let known = self.generation;
        drain(&self.rules, heard, Part::Rules, |(kind, payload)| {
            if kind != NEW_GENERATION {
                return None;
            }
            let (_, attributes) = nfnl::read(payload)?;
            let generation = nfnl::find(attributes, GENERATION).and_then(nfnl::number).map(u32::from_be_bytes);
            // What was looked at since is no news: one's own changes, above all.
            (generation.is_none() || generation != known).then_some(Part::Rules)
        });
    }
}

fn part_of(seen: &link::Seen) -> Option<Part> {
    let wire = seen.alias.strip_prefix(link::ALIAS).and_then(Name::new);
    wire.map(Part::Wire).or_else(|| seen.alias.starts_with(link::TUNNEL).then_some(Part::Whole))
}

/// Reads until there is nothing more. `lost` is what is told where the kernel could not tell all of it (ENOBUFS).
fn drain(socket: &Socket, heard: &mut Vec<Part>, lost: Part, mut part: impl FnMut(Answer) -> Option<Part>) {
    loop {
        match socket.receive(|answer| heard.extend(part(answer))) {
            Ok(()) => {}
            Err(Errno::ENOBUFS) => heard.push(lost.clone()),
            Err(_) => return,
        }
    }
}

/// What a message of rtnetlink is about.
fn part(answer: Answer, devices: &mut Devices) -> Option<Part> {
    let (kind, payload) = answer;
    let index_at_4 = || Some(u32::from_ne_bytes(nfnl::number(payload.get(4..)?)?));
    let attribute = |header: usize, wanted: u16| {
        let attributes = NlasIterator::new(payload.get(header..)?).flatten();
        let value = attributes.filter(|nla| nla.kind() == wanted).map(|nla| nla.value().to_vec()).next()?;
        Some(i32::from_ne_bytes(nfnl::number(&value)?))
    };
    let of = |devices: &Devices, index: u32| devices.get(&index)?.of.clone();
    match kind {
        // A bridge tells of its ports with messages of its own family.
        rtm::NEW_LINK | rtm::DEL_LINK if payload.first() != Some(&(libc::AF_UNSPEC as u8)) => None,
        rtm::NEW_LINK => {
            let seen = link::seen(answer).ok().flatten()?;
            let before = devices.remove(&seen.index);
            let is_new = before.as_ref().is_none_or(|before| before.name != seen.name);
            let part = part_of(&seen).or(before.and_then(|before| before.of));
            devices.insert(seen.index, Known { name: seen.name, of: part.clone() });
            part.or(is_new.then_some(Part::Whole))
        }
        rtm::DEL_LINK => {
            let known = devices.remove(&index_at_4()?);
            Some(known.and_then(|known| known.of).unwrap_or(Part::Whole))
        }
        rtm::NEW_ADDRESS | rtm::DEL_ADDRESS => of(devices, index_at_4()?),
        rtm::NEW_ROUTE | rtm::DEL_ROUTE => of(devices, attribute(ROUTE_HEADER, ROUTE_DEVICE)? as u32),
        rtm::NEW_SETTINGS | rtm::DEL_SETTINGS => {
            let index = attribute(SETTINGS_HEADER, SETTINGS_DEVICE)?;
            // Negative: `all` or `default`.
            match u32::try_from(index) {
                Ok(index) if devices.contains_key(&index) => Some(of(devices, index).unwrap_or(Part::Whole)),
                // Of a device that is being made or is gone: its link is told as well.
                Ok(_) => None,
                Err(_) => Some(Part::Whole),
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(header: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = header.to_vec();
        for (kind, value) in attributes {
            nfnl::add(&mut bytes, *kind, value);
        }
        bytes
    }

    fn link(index: u32, name: &str, alias: &str) -> Vec<u8> {
        let mut header = vec![0; 16];
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        // IFLA_IFNAME, IFLA_IFALIAS (linux/if_link.h).
        let mut attributes: Vec<(u16, &[u8])> = Vec::new();
        if !name.is_empty() {
            attributes.push((3, name.as_bytes()));
        }
        if !alias.is_empty() {
            attributes.push((20, alias.as_bytes()));
        }
        message(&header, &attributes)
    }

    /// An end of a wire is told as the wire, whatever of it has changed; other devices only when they come, go or are renamed.
    #[test]
    fn messages_are_told_by_what_they_are_about() {
        let mut devices = Devices::new();
        let mut part = |kind: u16, payload: &[u8]| super::part((kind, payload), &mut devices);
        let wire = Name::new("priv-git-ssh").unwrap();
        let of_wire = Some(Part::Wire(wire));
        assert_eq!(part(rtm::NEW_LINK, &link(7, "eth0", "")), Some(Part::Whole), "before its alias it is any device");
        assert_eq!(part(rtm::NEW_LINK, &link(7, "eth0", "wire:priv-git-ssh")), of_wire);
        assert_eq!(part(rtm::NEW_LINK, &link(7, "eth1", "")), of_wire, "the alias is gone, the device is not");
        assert_eq!(part(rtm::NEW_LINK, &link(9, "wlan0", "")), Some(Part::Whole));
        assert_eq!(part(rtm::NEW_LINK, &link(9, "wlan0", "")), None, "nothing of it that matters");
        assert_eq!(part(rtm::NEW_LINK, &link(8, "wg0", "wire-tunnel:vpn")), Some(Part::Whole));
        assert_eq!(part(rtm::NEW_LINK, &link(8, "wg0", "wire-tunnel:vpn")), Some(Part::Whole), "whatever of it");
        let mut port = link(9, "of a bridge", "");
        port[0] = libc::AF_BRIDGE as u8;
        assert_eq!(part(rtm::NEW_LINK, &port), None);
        assert_eq!(part(rtm::DEL_LINK, &port), None);
        assert_eq!(part(rtm::NEW_LINK, &link(9, "taken", "")), Some(Part::Whole), "renamed");
        let address = |index: u32| [&[2, 31, 0, 0][..], &index.to_ne_bytes()].concat();
        assert_eq!(part(rtm::DEL_ADDRESS, &address(7)), of_wire);
        assert_eq!(part(rtm::NEW_ADDRESS, &address(9)), None);
        let route = |index: u32| message(&[0; 12], &[(ROUTE_DEVICE, &index.to_ne_bytes())]);
        assert_eq!(part(rtm::DEL_ROUTE, &route(7)), of_wire);
        assert_eq!(part(rtm::NEW_ROUTE, &route(9)), None);
        assert_eq!(part(rtm::NEW_ROUTE, &message(&[0; 12], &[])), None, "a route that leads nowhere");
        let settings = |index: i32| message(&[2, 0, 0, 0], &[(SETTINGS_DEVICE, &index.to_ne_bytes())]);
        assert_eq!(part(rtm::NEW_SETTINGS, &settings(-1)), Some(Part::Whole), "all");
        assert_eq!(part(rtm::NEW_SETTINGS, &settings(7)), of_wire);
        assert_eq!(part(rtm::NEW_SETTINGS, &settings(9)), Some(Part::Whole), "an uplink's forwarding");
        assert_eq!(part(rtm::NEW_SETTINGS, &settings(88)), None);
        assert_eq!(part(rtm::DEL_LINK, &link(7, "", "")), of_wire);
        assert_eq!(part(rtm::DEL_LINK, &link(9, "", "")), Some(Part::Whole));
    }

    /// Whatever is cut off is told as nothing, and nothing panics.
    #[test]
    fn what_is_cut_off_is_nothing() {
        let mut devices = Devices::new();
        let whole = link(7, "eth0", "wire:a");
        for kind in 0..100 {
            for end in 0..whole.len() {
                let _ = part((kind, &whole[..end]), &mut devices);
            }
        }
    }
}
