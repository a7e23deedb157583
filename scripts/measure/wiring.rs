//! What all variants lay: wires and rules, as a topology file for `wire`, and in the words of `ip` and `nft`.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::host::HOST;
use super::rules;
use crate::{Result, WORK};

/// One thing to lay.
pub struct Wiring {
    pub title: String,
    /// The text of its topology file.
    pub topology: String,
    /// All but the host, a hub first.
    pub nodes: Vec<String>,
    pub wires: Vec<Wire>,
}

/// One wire: `from` has the lower address.
pub struct Wire {
    pub name: String,
    pub from: End,
    pub to: End,
}

pub struct End {
    pub node: String,
    pub device: String,
    pub address: Ipv4Addr,
    /// What leads over it besides the wire's own pair of addresses, in the words of `ip route add`.
    pub routes: Vec<String>,
}

pub const HUB: &str = "edge";
/// What a leaf may open to its hub: where the other end of the traffic listens.
pub const PORT: u16 = 7777;
/// Where every topology file is.
pub const TOPOLOGY: &str = "/run/bench/topology.toml";

pub fn leaf_name(i: usize) -> String {
    format!("leaf-{i:04}")
}

/// One hub, N leaves.
pub fn star(n: usize) -> Wiring {
    Wiring::of(format!("N = {n}"), &[(HUB.into(), 1..=n)])
}

impl Wiring {
    /// Hubs, each with its leaves, by number; no leaf has two.
    pub fn of(title: String, hubs: &[(String, RangeInclusive<usize>)]) -> Wiring {
        let mut wires = Vec::new();
        let mut nodes = Vec::new();
        for (number, (hub, leaves)) in (0..).zip(hubs) {
            nodes.push(hub.clone());
            nodes.extend(leaves.clone().map(leaf_name));
            wires.extend(wires_of(number, hub, leaves.clone()));
        }
        let topology = topology(hubs, &wires);
        Wiring { title, topology, nodes, wires }
    }

    /// The ends that a node has.
    pub fn ends<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a End> {
        self.wires.iter().flat_map(|wire| [&wire.from, &wire.to]).filter(move |end| end.node == node)
    }
}

/// The wires of a hub: one to the host, then one to each leaf. Every second name is too long for a device, as in life.
fn wires_of(number: u32, hub: &str, leaves: RangeInclusive<usize>) -> impl Iterator<Item = Wire> {
    let pair = |base: u32| (Ipv4Addr::from_bits(base), Ipv4Addr::from_bits(base + 1));
    let end = |node: &str, device: &str, address: Ipv4Addr| End {
        node: node.into(),
        device: device.into(),
        address,
        routes: Vec::new(),
    };
    // The far end of each has its default route over it.
    let far = move |node: &str, device: &str, address: Ipv4Addr, via: Ipv4Addr| End {
        routes: vec![format!("default via {via} dev {device} proto 119")],
        ..end(node, device, address)
    };
    let (host, own) = pair(Ipv4Addr::new(192, 168, 96, 0).to_bits() + 2 * number);
    let name = format!("host-{hub}");
    let first = Wire { from: end(HOST, &name, host), to: far(hub, &name, own, host), name };
    let hub = hub.to_owned();
    let rest = leaves.map(move |i| {
        let (near, leaf) = pair(Ipv4Addr::new(172, 16, 0, 0).to_bits() + 2 * i as u32);
        let long = i % 2 == 1;
        let name = if long { format!("pub-leaf-{i:04}-service") } else { format!("pub-{i:04}") };
        let device = if long { format!("pub-leaf-{i:04}-s") } else { name.clone() };
        Wire { name, from: end(&hub, &device, near), to: far(&leaf_name(i), "eth0", leaf, near) }
    });
    std::iter::once(first).chain(rest)
}

/// The same wires as a topology file, with a flow each way over those of the leaves.
fn topology(hubs: &[(String, RangeInclusive<usize>)], wires: &[Wire]) -> String {
    let mut text = String::from("version = 1\nruntime = \"netns\"\n\nwire = [\n");
    for Wire { name, from, to } in wires {
        let (near, device) = (&from.node, &from.device);
        let _ = write!(text, "  {{ name = \"{name}\", ends = [\"{near}\", \"{}\"]", to.node);
        let _ = write!(text, ", subnet = \"{}/31\"", from.address);
        if device != name {
            let _ = write!(text, ", ifname = [\"{device}\", \"{}\"]", to.device);
        }
        if near != HOST {
            let _ = write!(text, ", allow = [\"tcp/80\"], allow-back = [\"tcp/{PORT}\"]");
        }
        text += " },\n";
    }
    text += "]\n\n[host]\nuplinks = [\"eth0\"]\n\n";
    for (hub, _) in hubs {
        let _ = writeln!(text, "[hub.{hub}]\nzone = \"of-{hub}\"\n");
    }
    text += "[module]\n";
    for (hub, leaves) in hubs {
        let names: Vec<String> = leaves.clone().map(|i| format!(", \"{}\"", leaf_name(i))).collect();
        let _ = writeln!(text, "of-{hub} = [\"{hub}\"{}]", names.concat());
    }
    for i in hubs.iter().flat_map(|(_, leaves)| leaves.clone()) {
        // Something to reach the outside for is what gives a leaf its default route.
        let _ = writeln!(text, "\n[node.{}]\negress = [\"tcp/443\"]", leaf_name(i));
    }
    text
}

/// The house of a topology file, with named namespaces for its containers. Its wires are known only by `recorded`.
pub fn house(title: &str, file: &Path, wire: &Path) -> Result<Wiring> {
    let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let mut topology = String::new();
    let mut passed_over = false;
    for line in text.lines() {
        passed_over = if line.starts_with('[') { line == "[podman]" } else { passed_over };
        if !passed_over {
            topology += line;
            topology += if line.starts_with("version") { "\nruntime = \"netns\"\n" } else { "\n" };
        }
    }
    fs::write(TOPOLOGY, &topology)?;
    let nodes = rendered(wire)?.into_iter().map(|(node, _)| node).filter(|node| node != HOST).collect();
    Ok(Wiring { title: title.into(), topology, nodes, wires: Vec::new() })
}

/// The wires of a house that `wire up` has laid, read off the kernel and what `wire audit` says.
pub fn recorded(wire: &Path) -> Result<Vec<Wire>> {
    let seen: Value = serde_json::from_str(&said(Command::new(wire).args(["-f", TOPOLOGY, "audit", "--json"]))?)?;
    let word = |value: &Value, key: &str| value[key].as_str().map(str::to_owned).ok_or(format!("audit: no {key}"));
    let end = |value: &Value| -> Result<End> {
        let (node, device) = (word(value, "node")?, word(value, "ifname")?);
        let mut ip = Command::new("ip");
        if node != HOST {
            ip.args(["-n", &node]);
        }
        // What `ip` lists is what it takes.
        let routes = said(ip.args(["route", "show", "proto", "119", "dev", &device]))?;
        let routes = routes.lines().map(|route| format!("{} dev {device} proto 119", route.trim())).collect();
        Ok(End { node, device, address: word(value, "address")?.parse()?, routes })
    };
    let wires = seen["wires"].as_array().ok_or("audit: no wires")?;
    wires
        .iter()
        .map(|wire| {
            let ends = &wire["ends"];
            Ok(Wire { name: word(wire, "name")?, from: end(&ends[0])?, to: end(&ends[1])? })
        })
        .collect()
}

/// What a program says on its standard output.
pub fn said(command: &mut Command) -> Result<String> {
    let output = command.env_remove("WIRE_TOPOLOGY").output()?;
    if !output.status.success() {
        let program = command.get_program().display();
        return Err(format!("{program}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The rules of each node of the topology file, in nft's words.
fn rendered(wire: &Path) -> Result<Vec<(String, String)>> {
    let text = said(Command::new(wire).args(["-f", TOPOLOGY, "render", "nft"]))?;
    let mut nodes: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("# "), nodes.last_mut()) {
            (Some(node), _) => nodes.push((node.into(), String::new())),
            (None, Some((_, rules))) => {
                rules.push_str(line);
                rules.push('\n');
            }
            (None, None) => return Err("the rules begin without the name of a node".into()),
        }
    }
    Ok(nodes)
}

/// The rules as files for `nft`, and the list of them.
pub fn write_rules(wire: &Path) -> Result<()> {
    let mut list = String::new();
    for (node, text) in rendered(wire)? {
        fs::write(rules::file(&node), text)?;
        list += &node;
        list += "\n";
    }
    Ok(fs::write(format!("{WORK}/rules.list"), list)?)
}

/// The same wires as batches for `ip`, and the script that runs them; then `nft`, started by this program.
pub fn write_batches(wiring: &Wiring) -> Result<()> {
    let mut create = String::new();
    for Wire { from, to, .. } in &wiring.wires {
        let side = |end: &End| {
            let place = if end.node == HOST { String::new() } else { format!(" netns {}", end.node) };
            format!("name {}{place} mtu 1500 group 119 numtxqueues 1 numrxqueues 1", end.device)
        };
        let _ = writeln!(create, "link add {} type veth peer {}", side(from), side(to));
    }
    fs::write(format!("{WORK}/create"), create)?;

    // What follows birth, for each end in its own namespace.
    let mut settle = std::collections::BTreeMap::<&str, String>::new();
    for wire in &wiring.wires {
        for end in [&wire.from, &wire.to] {
            let (text, device) = (settle.entry(&end.node).or_default(), &end.device);
            let _ = writeln!(text, "addr add {}/31 dev {device}\nlink set dev {device} up", end.address);
            if *device != wire.name {
                let _ = writeln!(text, "link property add dev {device} altname {}", wire.name);
            }
            for route in &end.routes {
                let _ = writeln!(text, "route add {route}");
            }
        }
    }
    let mut script = String::from("set -e\nip -batch create\n");
    for (node, text) in settle {
        let _ = match node {
            HOST => writeln!(script, "ip -batch {node}"),
            _ => writeln!(script, "ip -n {node} -batch {node}"),
        };
        fs::write(format!("{WORK}/{node}"), text)?;
    }
    let _ = writeln!(script, "exec '{}' nft 1", std::env::current_exe()?.display());
    Ok(fs::write(format!("{WORK}/batch.sh"), script)?)
}

/// The same as people write it by hand: born on the host, moved, renamed, a command a step. No altname, no MTU.
pub fn write_script(wiring: &Wiring) -> io::Result<()> {
    let inside = |node: &str| if node == HOST { String::new() } else { format!("ip netns exec {node} ") };
    let mut script = String::from("set -e\n");
    for (i, Wire { from, to, .. }) in wiring.wires.iter().enumerate() {
        let peer = format!("tmp-{i}");
        let _ = writeln!(script, "ip link add name {} type veth peer name {peer}", from.device);
        for (end, born) in [(from, &from.device), (to, &peer)] {
            let (node, inside) = (&end.node, inside(&end.node));
            if node != HOST {
                let _ = writeln!(script, "ip link set dev {born} netns {node}");
            }
            if *born != end.device {
                let _ = writeln!(script, "{inside}ip link set dev {born} name {}", end.device);
            }
            let _ = writeln!(script, "{inside}ip addr add {}/31 dev {}", end.address, end.device);
            let _ = writeln!(script, "{inside}ip link set dev {} up", end.device);
            for route in &end.routes {
                let _ = writeln!(script, "{inside}ip route add {route}");
            }
        }
    }
    for node in std::iter::once(HOST).chain(wiring.nodes.iter().map(String::as_str)) {
        let _ = writeln!(script, "{}nft -f {}", inside(node), rules::file(node));
    }
    fs::write(format!("{WORK}/script.sh"), script)
}
