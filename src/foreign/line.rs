//! What the owner of a table must add to it, in the words of whatever he keeps it with. Every line lets no more pass than the
//! file does, for wire's own rules stand behind it.

use std::fmt::Write;

use super::packet::{Packet, Probe};
use super::{Chosen, run};
use crate::nft::build::{ICMP, ICMPV6, INVALID, TCP};
use crate::nft::others::Family;
use crate::nft::{Hook, Text};
use crate::rules::Match;
use crate::topology::Device;

/// One line, or a few where there are more ports than one takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    by: By,
    iif: Option<Device>,
    oif: Option<Device>,
    what: What,
}

/// With what its owner keeps a table, and where the line goes.
#[derive(Clone, Debug, PartialEq)]
enum By {
    Firewalld,
    Ufw,
    /// iptables or ip6tables, over nftables.
    Xtables {
        tool: &'static str,
        table: Text,
        chain: Text,
    },
    Nft {
        family: Family,
        table: Text,
        chain: Text,
    },
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    /// What belongs to a connection that has begun.
    Answers,
    Ports {
        protocol: &'static str,
        /// Of the sender, not the receiver.
        source: bool,
        ranges: Vec<(u16, u16)>,
    },
    /// By nft's name and by number; all types where there is none.
    Icmp { ipv4: bool, kind: Option<(String, u8)> },
    /// To firewalld, all that comes in on a device.
    Trust(Device),
    /// To firewalld, that what is handed on there is meant.
    HandOn { protocol: &'static str, from: (u16, u16), to: (u16, u16), address: String },
    /// To firewalld, ports of the host itself, by zone.
    Port { zone: Option<String>, protocol: &'static str, ports: (u16, u16) },
}

/// A multiport match of xtables takes 15 ports, of which a range counts for two (iptables-extensions(8)).
const MULTIPORT: usize = 15;

impl Line {
    /// What lets a packet of a probe pass that a base chain drops, or its answer. Nothing where that cannot be said: a name
    /// that no tool takes, or one of firewalld's own policies.
    pub fn of(chosen: &Chosen, probe: &Probe, packets: &[Packet], place: &str) -> Vec<Line> {
        let Some(packet) = packets.first() else { return Vec::new() };
        let answer = packet.answer;
        // Before conntrack nothing tells an answer but the port that it comes from.
        let source = answer && packet.state == INVALID;
        let ports = if source { packet.source } else { packet.ports };
        let protocol = if probe.protocol == TCP { "tcp" } else { "udp" };
        let what = match (ports, probe.protocol) {
            _ if answer && !source => What::Answers,
            (Some(ports), _) => What::Ports { protocol, source, ranges: vec![ports] },
            (None, ICMP | ICMPV6) => {
                let kind = probe.passage.opening.service.icmp_type.clone().filter(|_| !answer);
                What::Icmp { ipv4: packet.ipv4, kind: kind.map(|kind| (kind, packet.kind)) }
            }
            (None, _) => return Vec::new(),
        };
        let (mut iif, mut oif) = (packet.iif.cloned(), packet.oif.cloned());
        if chosen.base.hook == Hook::Postrouting {
            iif = None;
        }
        if !iif.iter().chain(&oif).all(|device| is_plain(device.as_str())) {
            return Vec::new();
        }
        if chosen.table.family == Family::Inet && &*chosen.table.name == "firewalld" {
            return Line::for_firewalld(chosen, probe, answer, place).into_iter().collect();
        }
        let by = By::of(chosen, packets, &what);
        if let What::Answers = what {
            (iif, oif) = (None, None);
        }
        by.map(|by| Line { by, iif, oif, what }).into_iter().collect()
    }

    fn for_firewalld(chosen: &Chosen, probe: &Probe, answer: bool, place: &str) -> Option<Line> {
        let line = |what| Some(Line { by: By::Firewalld, iif: None, oif: None, what });
        let protocol = if probe.protocol == TCP { "tcp" } else { "udp" };
        let opening = &probe.passage.opening;
        if answer || !matches!(chosen.base.hook, Hook::Input | Hook::Forward) {
            return None;
        }
        if let (Some(from), Some(to), [Match::Is(network)]) = (probe.dialled, probe.ports, &opening.to[..]) {
            return line(What::HandOn { protocol, from, to, address: network.ip().to_string() });
        }
        if let (None, Some(ports)) = (&probe.passage.wire, probe.ports) {
            let zone = place.strip_prefix("filter_IN_").filter(|zone| is_plain(zone)).map(str::to_owned);
            return line(What::Port { zone, protocol, ports });
        }
        line(What::Trust(probe.iif.filter(|_| probe.passage.wire.is_some())?.clone()))
    }

    /// Adds a line to others, or its ports to one of them.
    pub fn join(self, lines: &mut Vec<Line>) {
        if let What::Ports { protocol, source, ranges } = &self.what {
            let way =
                |line: &Line| (line.iif == self.iif, line.oif == self.oif, line.by == self.by) == (true, true, true);
            for line in lines.iter_mut().filter(|line| way(line)) {
                if let What::Ports { protocol: own, source: side, ranges: all } = &mut line.what
                    && (*own, *side) == (*protocol, *source)
                {
                    all.extend(ranges);
                    all.sort_unstable();
                    all.dedup();
                    return;
                }
            }
        }
        if !lines.contains(&self) {
            lines.push(self);
        }
    }

    fn words(&self) -> Vec<String> {
        match &self.by {
            By::Firewalld => self.firewalld(),
            By::Ufw => self.ufw(),
            By::Xtables { tool, table, chain } => self.xtables(tool, table, chain),
            By::Nft { family, table, chain } => {
                let mut line = format!("nft insert rule {} {table} {chain}", family.as_str());
                for (word, device) in [("iifname", &self.iif), ("oifname", &self.oif)] {
                    if let Some(device) = device {
                        let _ = write!(line, " {word} {}", quoted(device.as_str()));
                    }
                }
                vec![format!("{line} {} accept", self.nft())]
            }
        }
    }

    fn nft(&self) -> String {
        match &self.what {
            What::Ports { protocol, source, ranges } => {
                let side = if *source { "sport" } else { "dport" };
                let list = spans(ranges, "-");
                match &list[..] {
                    [one] => format!("{protocol} {side} {one}"),
                    more => format!("{protocol} {side} {{ {} }}", more.join(", ")),
                }
            }
            What::Icmp { ipv4, kind: Some((kind, _)) } => {
                format!("{} type {kind}", if *ipv4 { "icmp" } else { "icmpv6" })
            }
            What::Icmp { ipv4, kind: None } => format!("meta l4proto {}", if *ipv4 { "icmp" } else { "ipv6-icmp" }),
            _ => "ct state established,related".to_owned(),
        }
    }

    fn xtables(&self, tool: &str, table: &str, chain: &str) -> Vec<String> {
        let mut line = tool.to_owned();
        if table != "filter" {
            let _ = write!(line, " -t {table}");
        }
        let _ = write!(line, " -I {chain}");
        for (word, device) in [("-i", &self.iif), ("-o", &self.oif)] {
            if let Some(device) = device {
                let _ = write!(line, " {word} {device}");
            }
        }
        let what = match &self.what {
            What::Ports { protocol, source, ranges } => {
                let side = if *source { "sport" } else { "dport" };
                let one = |ports: &[(u16, u16)]| match &spans(ports, ":")[..] {
                    [one] => format!("-p {protocol} --{side} {one}"),
                    more => format!("-p {protocol} -m multiport --{side}s {}", more.join(",")),
                };
                pieces(ranges).into_iter().map(one).collect()
            }
            What::Icmp { ipv4: true, kind } => {
                vec![kind.as_ref().map_or("-p icmp".to_owned(), |(_, kind)| format!("-p icmp --icmp-type {kind}"))]
            }
            What::Icmp { ipv4: false, kind } => {
                let one = |(_, kind): &(String, u8)| format!("-p ipv6-icmp --icmpv6-type {kind}");
                vec![kind.as_ref().map_or("-p ipv6-icmp".to_owned(), one)]
            }
            _ => vec!["-m conntrack --ctstate RELATED,ESTABLISHED".to_owned()],
        };
        what.into_iter().map(|what| format!("{line} {what} -j ACCEPT")).collect()
    }

    fn ufw(&self) -> Vec<String> {
        let What::Ports { protocol, ranges, .. } = &self.what else { return Vec::new() };
        let way = match (&self.iif, &self.oif) {
            (Some(iif), Some(oif)) => format!("route allow in on {iif} out on {oif}"),
            (Some(iif), None) => format!("allow in on {iif}"),
            (None, Some(oif)) => format!("allow out on {oif}"),
            (None, None) => return Vec::new(),
        };
        let one =
            |ports: &[(u16, u16)]| format!("ufw {way} to any port {} proto {protocol}", spans(ports, ":").join(","));
        pieces(ranges).into_iter().map(one).collect()
    }

    fn firewalld(&self) -> Vec<String> {
        let span = |ports: &(u16, u16)| spans(&[*ports], "-").concat();
        let what = match &self.what {
            What::Trust(device) => format!("--zone=trusted --add-interface={device}"),
            What::HandOn { protocol, from, to, address } => {
                let (from, to) = (span(from), span(to));
                format!("--add-forward-port=port={from}:proto={protocol}:toport={to}:toaddr={address}")
            }
            What::Port { zone, protocol, ports } => {
                let zone = zone.as_ref().map(|zone| format!("--zone={zone} ")).unwrap_or_default();
                format!("{zone}--add-port={}/{protocol}", span(ports))
            }
            _ => return Vec::new(),
        };
        vec![format!("firewall-cmd --permanent {what}")]
    }
}

/// All lines in words, each one command.
pub fn words(lines: &[Line]) -> Vec<String> {
    let (last, first): (Vec<&Line>, Vec<&Line>) = lines.iter().partition(|line| line.what == What::Answers);
    let mut words: Vec<String> = first.into_iter().chain(last).flat_map(Line::words).collect();
    if lines.iter().any(|line| line.by == By::Firewalld) {
        words.push("firewall-cmd --reload".to_owned());
    }
    words
}

impl By {
    fn of(chosen: &Chosen, packets: &[Packet], what: &What) -> Option<By> {
        let Chosen { table, chain, base } = *chosen;
        if !is_plain(&table.name) || !is_plain(chain) {
            return None;
        }
        let (built_in, short) = match base.hook {
            Hook::Prerouting => ("PREROUTING", ""),
            Hook::Input => ("INPUT", "input"),
            Hook::Forward => ("FORWARD", "forward"),
            Hook::Output => ("OUTPUT", "output"),
            Hook::Postrouting => ("POSTROUTING", ""),
            Hook::Other => return None,
        };
        let (tool, ufw) = match table.family {
            Family::Inet => ("", ""),
            Family::Ip => ("iptables", "ufw-user-"),
            Family::Ip6 => ("ip6tables", "ufw6-user-"),
        };
        let own = ["filter", "nat", "mangle", "raw", "security"];
        if tool.is_empty() || chain != built_in || !own.contains(&&*table.name) {
            return Some(By::Nft { family: table.family, table: table.name.clone(), chain: chain.into() });
        }
        // Where a line would stand behind what drops the packet, it is of no use.
        let works = |chain: &str| {
            let lets = |packet| run::with_accept(table, chosen.chain, packet, Some(chain)).lets_pass();
            table.chains.contains_key(chain) && packets.iter().all(lets)
        };
        if matches!(what, What::Ports { .. }) && !short.is_empty() && works(&format!("{ufw}{short}")) {
            return Some(By::Ufw);
        }
        const DOCKER: &str = "DOCKER-USER";
        let place = if base.hook == Hook::Forward && works(DOCKER) { DOCKER } else { chain };
        Some(By::Xtables { tool, table: table.name.clone(), chain: place.into() })
    }
}

/// Ranges of ports by their ends.
fn spans(ranges: &[(u16, u16)], between: &str) -> Vec<String> {
    let one = |&(low, high): &(u16, u16)| if low == high { low.to_string() } else { format!("{low}{between}{high}") };
    ranges.iter().map(one).collect()
}

/// As many ranges as a multiport match takes, again and again.
fn pieces(ranges: &[(u16, u16)]) -> Vec<&[(u16, u16)]> {
    let mut pieces = Vec::new();
    let (mut start, mut room) = (0, MULTIPORT);
    for (place, (low, high)) in ranges.iter().enumerate() {
        let size = 1 + usize::from(low != high);
        if size > room {
            pieces.push(&ranges[start..place]);
            (start, room) = (place, MULTIPORT);
        }
        room -= size;
    }
    pieces.push(&ranges[start..]);
    pieces
}

/// Whether a name means nothing else to a shell or to any of the tools.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '+' | '@');
    name.chars().next().is_some_and(|first| first.is_ascii_alphanumeric() || first == '_') && name.chars().all(plain)
}

/// A device for nft behind a shell, which takes one pair of quotes: nft reads some names without, and others not.
fn quoted(device: &str) -> String {
    let bare = device.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && !device.contains(['+', '@']);
    if bare { format!("\"{device}\"") } else { format!("'\"{device}\"'") }
}
