//! `wire peer`: a VPN peer gets its keys and an address, and stands in the file; `wire render wireguard`: what its device is to be
//! told. The private key of a peer is made here, printed once and kept nowhere.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use serde_json::{Value, json};

use crate::cli::PeerVerb;
use crate::error::{Error, Exit, Fault};
use crate::file;
use crate::kernel::keys;
use crate::kernel::power;
use crate::kernel::run::RunDirectory;
use crate::near::{nearest, shown};
use crate::parse::{self, NewPeer};
use crate::render::wireguard::{self, Keys, Member};
use crate::topology::{Allowed, Clients, Hub, Name, Peer, Topology, Wireguard};
use crate::voice::Voice;
use crate::why;

/// The topology file, which a new peer is written into.
pub struct Source<'s> {
    pub file: &'s Path,
    pub trusted: Option<&'s str>,
}

pub fn run(voice: &Voice, source: &Source, topology: &Topology, verb: &PeerVerb) -> Result<Exit, Error> {
    match verb {
        PeerVerb::List => Ok(list(voice, topology)),
        PeerVerb::Add { peer, hub, allow, qr } => add(voice, source, peer, hub.as_deref(), allow, *qr),
    }
}

fn list(voice: &Voice, topology: &Topology) -> Exit {
    if voice.json {
        let peers = why::peers(topology).map(|(hub, peer)| {
            json!({
                "name": peer.name,
                "hub": hub.name,
                "address": peer.address,
                "public-key": peer.public_key,
                "preshared-key": peer.preshared_key,
                "allow": allowed(peer),
            })
        });
        voice.print_json(&json!({ "peers": peers.collect::<Value>() }));
        return Exit::Done;
    }
    let rows: Vec<[String; 4]> = why::peers(topology)
        .map(|(hub, peer)| {
            let allowed = allowed(peer).join(", ");
            let reaches = if allowed.is_empty() { "nothing".to_owned() } else { allowed };
            [peer.name.to_string(), peer.address.to_string(), hub.name.to_string(), reaches]
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let line = |[name, address, hub, reaches]: &[String; 4]| {
        format!("{name:0$}  {address:1$}  {hub:2$}  {reaches}\n", widths[0], widths[1], widths[2])
    };
    voice.print(&rows.iter().map(line).collect::<String>());
    if rows.is_empty() {
        voice.say("there is no peer yet: `wire peer add NAME` makes one");
    }
    Exit::Done
}

/// What a peer may reach, as the file says it.
fn allowed(peer: &Peer) -> Vec<String> {
    let word = |allowed: &Allowed| match allowed {
        Allowed::Everything => "*".to_owned(),
        Allowed::Module(name) | Allowed::Node(name) | Allowed::Wire(name) => name.to_string(),
    };
    peer.allow.iter().map(word).collect()
}

fn add(
    voice: &Voice,
    source: &Source,
    peer: &str,
    hub: Option<&str>,
    allow: &[String],
    qr: bool,
) -> Result<Exit, Error> {
    // Two at once would take the same address, and one of them would be lost.
    let lock = RunDirectory::open()?.lock(|| voice.say("waiting for another run of wire to end"))?;
    let text = file::read(source.file, source.trusted)?;
    let topology = match power::without(|| parse::topology(&text))? {
        Ok(topology) => topology,
        Err(faults) => return Ok(voice.faults(&source.file.display().to_string(), &text, &faults)),
    };
    let (hub, wireguard, clients) = with_tunnel(&topology, hub)?;
    let name = free_name(&topology, peer)?;
    let address = free_address(&hub.name, wireguard, clients)?;
    let preshared_path = beside(&wireguard.private_key, &name)?;
    if fs::symlink_metadata(&preshared_path).is_ok() {
        return Err(Error::invalid(format!("there is a key {preshared_path} already"))
            .hint(format!("`rm {preshared_path}` if no device uses it any more, or take another name")));
    }
    let private = keys::random()?;
    let public = keys::public(&private).ok_or_else(|| Error::failed("no public key can be made"))?;
    let new = NewPeer { name: &name, public_key: &public, preshared_key: &preshared_path, address, allow };
    let (text, topology) = written(source, &text, &hub.name, &new)?;
    let member = Member::find(&topology, &name).ok_or_else(|| Error::failed("the new peer is not in the new file"))?;

    let hub_key = match keys::private(&wireguard.private_key)? {
        Some(key) => key,
        None => keys::make(&wireguard.private_key, &lock)?,
    };
    let hub_public = keys::public(&hub_key).ok_or_else(|| Error::failed("the hub has no public key"))?;
    let preshared = keys::make(&preshared_path, &lock)?;
    if let Err(error) = file::replace(source.file, &text) {
        // Nobody knows it yet.
        let _ = fs::remove_file(&preshared_path);
        return Err(error);
    }
    drop(lock);
    let keys = Keys { private: Some(&private), public: &hub_public, preshared: Some(&preshared) };
    show(voice, &topology, &member, &keys, qr)?;
    voice.say(&format!(
        "peer `{name}` is {address} at hub `{}` and may reach {}; its private key is printed this once and kept nowhere",
        hub.name,
        if allow.is_empty() { "nothing yet: name what in its `allow`".to_owned() } else { allow.join(", ") },
    ));
    voice.say("run `wire up` to let it in");
    Ok(Exit::Done)
}

/// The new text, which a topology was made of, and that.
fn written(source: &Source, text: &str, hub: &Name, new: &NewPeer) -> Result<(String, Topology), Error> {
    power::without(|| parse::add_peer(text, hub, new))?.map_err(|faults: Vec<Fault>| {
        let shown = source.file.display();
        // What it is allowed is all that may be wrong with it; where its table may not stand, the parser says so.
        let fault = faults.into_iter().next().unwrap_or_default();
        let about_it = fault.message.starts_with("peer `");
        let message = match about_it {
            true => fault.message,
            false => format!("the peer cannot be written into {shown}: {}", fault.message),
        };
        let hint = match about_it {
            true => fault.hint,
            false => Some(format!("give the hub a table [hub.{hub}.wireguard] of its own")),
        };
        Error { hint, ..Error::invalid(message) }
    })
}

/// The hub that is meant, with its tunnel.
fn with_tunnel<'t>(topology: &'t Topology, name: Option<&str>) -> Result<(&'t Hub, &'t Wireguard, &'t Clients), Error> {
    let all: Vec<_> = (topology.hubs.values())
        .filter_map(|hub| Some((hub, hub.wireguard.as_ref()?, hub.clients.as_ref()?)))
        .collect();
    let names = || all.iter().map(|(hub, ..)| hub.name.as_str());
    match (name, &all[..]) {
        (None, [one]) => Ok(*one),
        (_, []) => Err(Error::invalid("no hub of the file has a tunnel that wire runs")
            .hint("give one a table [hub.NAME.wireguard], with `listen` and `private-key`")),
        (None, _) => Err(Error::invalid("several hubs have a tunnel")
            .hint(format!("say which: `--hub {}`", names().collect::<Vec<_>>().join("` or `--hub ")))),
        (Some(name), _) => all.iter().find(|(hub, ..)| hub.name.as_str() == name).copied().ok_or_else(|| {
            let hint = match nearest(name, names()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("those with one: {}", names().collect::<Vec<_>>().join(", ")),
            };
            Error::invalid(format!("no hub `{}` has a tunnel that wire runs", shown(name))).hint(hint)
        }),
    }
}

fn free_name(topology: &Topology, text: &str) -> Result<Name, Error> {
    let name = Name::new(text).ok_or_else(|| {
        Error::invalid(format!("`{}` cannot name a peer", shown(text)))
            .hint("a name is 1 to 64 of letters, digits, `.`, `_` and `-`, and begins with a letter or digit")
    })?;
    match why::peers(topology).find(|(_, peer)| peer.name == name) {
        Some((hub, _)) => Err(Error::invalid(format!("hub `{}` has a peer `{name}` already", hub.name))
            .hint("take another name, or strike that one from the file first")),
        None => Ok(name),
    }
}

/// The first address of the clients that nobody has.
fn free_address(hub: &Name, wireguard: &Wireguard, clients: &Clients) -> Result<IpAddr, Error> {
    let prefix = clients.prefix;
    let next = |address: IpAddr| match address {
        IpAddr::V4(ip) => u32::from(ip).checked_add(1).map(|ip| Ipv4Addr::from(ip).into()),
        IpAddr::V6(ip) => u128::from(ip).checked_add(1).map(|ip| Ipv6Addr::from(ip).into()),
    };
    // The first stands for all of them, the second is the hub's own; of IPv4 the last is everybody's.
    let mut addresses = std::iter::successors(next(clients.hub_address()), |address| next(*address))
        .take_while(|address| prefix.contains(*address) && (prefix.is_ipv6() || *address != prefix.broadcast()));
    let taken = |address: &IpAddr| wireguard.peers.iter().any(|peer| peer.address == *address);
    addresses.find(|address| !taken(address)).ok_or_else(|| {
        Error::invalid(format!("hub `{hub}` has no address left in {prefix} for one more peer"))
            .hint("make the `prefix` of its `clients` wider, or strike a peer that is gone from the file")
    })
}

/// Where the key that a peer shares with its hub is: where the hub's own is.
fn beside(key: &str, name: &Name) -> Result<String, Error> {
    let folder = Path::new(key).parent().and_then(Path::to_str);
    let folder = folder.ok_or_else(|| Error::invalid(format!("`{key}` is in no directory")))?;
    Ok(format!("{}/{name}.psk", folder.trim_end_matches('/')))
}

/// `wire render wireguard`.
pub fn render(voice: &Voice, topology: &Topology, name: &str, qr: bool) -> Result<Exit, Error> {
    let member = Name::new(name).and_then(|name| Member::find(topology, &name)).ok_or_else(|| {
        let known = why::peers(topology).map(|(_, peer)| peer.name.as_str());
        let hint = match nearest(name, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "`wire peer list` names them, `wire peer add` makes one".to_owned(),
        };
        Error::invalid(format!("there is no peer `{}`", shown(name))).hint(hint)
    })?;
    let path = &member.wireguard.private_key;
    let key = keys::private(path)?.ok_or_else(|| {
        Error::failed(format!("hub `{}` has no key {path} yet", member.hub.name)).hint("`wire up` makes it")
    })?;
    let public = keys::public(&key).ok_or_else(|| Error::failed("the hub has no public key"))?;
    let preshared = member.peer.preshared_key.as_deref().map(keys::preshared).transpose()?;
    let keys = Keys { private: None, public: &public, preshared: preshared.as_ref() };
    show(voice, topology, &member, &keys, qr)?;
    Ok(Exit::Done)
}

/// Prints a configuration, or the code of it.
fn show(voice: &Voice, topology: &Topology, member: &Member, keys: &Keys, qr: bool) -> Result<(), Error> {
    let text = wireguard::configuration(topology, member, keys);
    if voice.json {
        let told = json!({
            "name": member.peer.name,
            "hub": member.hub.name,
            "address": member.peer.address,
            "public-key": member.peer.public_key,
            "configuration": *text,
        });
        voice.print_json(&told);
    } else if qr {
        voice.print(&wireguard::code(&text, voice.out.0)?);
    } else {
        voice.print(&text);
    }
    if member.wireguard.endpoint.is_none() {
        let warning = Error::failed("the file does not say what peers dial");
        let hint = format!("write `endpoint = \"home.example.org:{}\"` below", member.wireguard.listen);
        voice.warn(&warning.hint(format!("{hint} [hub.{}.wireguard]", member.hub.name)));
    }
    Ok(())
}
