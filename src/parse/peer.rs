//! `wire peer add`: writes a peer into the text, below those that are there, and touches nothing else of it.

use std::net::IpAddr;

use crate::error::Fault;
use crate::topology::{Name, Topology};

use super::draft::NextPeer;
use super::{read, topology};

/// A peer as it is to stand in the file.
pub struct NewPeer<'a> {
    pub name: &'a Name,
    pub public_key: &'a str,
    /// A path.
    pub preshared_key: &'a str,
    pub address: IpAddr,
    pub allow: &'a [String],
}

/// The text with the peer in it, and the topology that it is.
pub fn add_peer(text: &str, hub: &Name, peer: &NewPeer) -> Result<(String, Topology), Vec<Fault>> {
    let added = read(text, |_, draft| {
        let hub = draft.hubs.iter().find(|known| known.name.it == *hub)?;
        let (at, words) = insertion(text, &hub.name.it, hub.next_peer?, peer);
        let (before, after) = text.split_at_checked(at)?;
        Some([before, &words, after].concat())
    })?;
    let topology = topology(&added)?;
    Ok((added, topology))
}

fn insertion(text: &str, hub: &Name, next: NextPeer, peer: &NewPeer) -> (usize, String) {
    let keys = keys(peer);
    let entry = || format!("{{ {} }}", keys.join(", "));
    match next {
        NextPeer::Entry(at) => (at, format!(", {}", entry())),
        NextPeer::First(at) => (at, entry()),
        NextPeer::Key(at) => (at, format!(", peer = [{}]", entry())),
        NextPeer::Table(at) => {
            let (before, after) = text.split_at_checked(at).unwrap_or((text, ""));
            let line = &after[..after.find('\n').unwrap_or(after.len())];
            let line = line.strip_suffix('\r').unwrap_or(line);
            let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
            let lines = [format!("[[hub.{}.wireguard.peer]]", key(hub))].into_iter().chain(keys);
            let table: String = lines.map(|line| format!("{newline}{line}")).collect();
            // The last line of a text may lack its end.
            let end = if after.contains('\n') { "" } else { newline };
            (before.len() + line.len(), format!("{newline}{table}{end}"))
        }
    }
}

fn keys(peer: &NewPeer) -> Vec<String> {
    let allow: Vec<String> = peer.allow.iter().map(|word| quoted(word)).collect();
    vec![
        format!("name = {}", quoted(peer.name.as_str())),
        format!("public-key = {}", quoted(peer.public_key)),
        format!("preshared-key = {}", quoted(peer.preshared_key)),
        format!("address = {}", quoted(&peer.address.to_string())),
        format!("allow = [{}]", allow.join(", ")),
    ]
}

/// A name as a key of TOML: bare keys have no dots.
fn key(name: &Name) -> String {
    if name.as_str().contains('.') { quoted(name.as_str()) } else { name.to_string() }
}

/// A string of TOML, whatever is in it.
fn quoted(text: &str) -> String {
    let escaped = text.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = r#"version = 1
runtime = "netns"
wire = [
  { name = "host-vpn", ends = ["host", "vpn"], subnet = "192.168.101.0/31" },
  { name = "vpn-git", ends = ["vpn", "git"], subnet = "10.1.1.0/31", allow = ["tcp/22"] },
]
[host]
uplinks = ["eth0"]
[module]
all-of-it = ["vpn", "git"]
"#;
    const KEY: &str = "mLK9Q7KjM5mF1a0bq6oN5gV9VQyZ8tQ2oQxJ0yqF7Xs=";

    fn added(text: &str) -> Result<String, Vec<Fault>> {
        let (hub, name) = (Name::new("vpn").unwrap(), Name::new("laptop").unwrap());
        let allow = ["git".to_owned()];
        let address = "10.100.0.2".parse().unwrap();
        let preshared_key = "/k/a\"b.psk";
        let peer = NewPeer { name: &name, public_key: KEY, preshared_key, address, allow: &allow };
        add_peer(text, &hub, &peer).map(|(text, _)| text)
    }

    /// However the hub is written, and wherever: what was there stays, line by line.
    #[test]
    fn a_peer_is_written_as_its_hub_is() {
        let clients = "zone = \"private\"\nclients = { prefix = \"10.100.0.0/24\", device = \"wg0\" }\n";
        let tunnel = "listen = 51820\nprivate-key = \"/k/vpn\"  # the hub's own\n";
        let other = "{ name = \"phone\", public-key = \"gLK9Q7KjM5mF1a0bq6oN5gV9VQyZ8tQ2oQxJ0yqF7Xs=\", address = \"10.100.0.3\", allow = [] }";
        let table = other.trim_matches(['{', '}']).trim().split(", ").collect::<Vec<_>>().join("\n");
        let words = format!(
            "name = \"laptop\", public-key = \"{KEY}\", preshared-key = \"/k/a\\\"b.psk\", address = \"10.100.0.2\", allow = [\"git\"]"
        );
        let lines = format!("[[hub.vpn.wireguard.peer]]\n{}\n", words.replace(", ", "\n"));
        let inline = tunnel.replace('\n', ", ").replace("  # the hub's own, ", "");
        for (before, after, wanted) in [
            // Below its table, or the last of its peers, with what follows them left alone.
            (
                format!("[hub.vpn]\n{clients}\n[hub.vpn.wireguard]\n{tunnel}"),
                "\n# rest\n[pool]\n".to_owned(),
                format!("\n{lines}"),
            ),
            (
                format!(
                    "[hub.vpn]\n{clients}[hub.vpn.wireguard]\n{tunnel}[[hub.vpn.wireguard.peer]]\n{table} # so far\n"
                ),
                "\n# of the pool\n[pool]\n".to_owned(),
                format!("\n{lines}"),
            ),
            // Lists of tables of one line.
            (
                format!("[hub.vpn]\n{clients}[hub.vpn.wireguard]\n{tunnel}peer = [\n  {other}"),
                ",\n]\n".to_owned(),
                format!(", {{ {words} }}"),
            ),
            (
                format!("[hub.vpn]\n{clients}[hub.vpn.wireguard]\n{tunnel}peer = ["),
                "]\n".to_owned(),
                format!("{{ {words} }}"),
            ),
            (
                format!("[hub.vpn]\n{clients}wireguard = {{ {inline}"),
                " }\n".to_owned(),
                format!(", peer = [{{ {words} }}]"),
            ),
        ] {
            let (before, after) = (format!("{HEAD}{before}"), after);
            assert_eq!(added(&format!("{before}{after}")), Ok(format!("{before}{wanted}{after}")), "{before}{after}");
            if wanted.starts_with('\n') {
                // Other ends of lines, and none at all at the end of the text.
                let windows = |text: &str| text.replace('\n', "\r\n");
                let text = windows(&format!("{before}{after}"));
                assert_eq!(added(&text), Ok(windows(&format!("{before}{wanted}{after}"))));
                assert_eq!(added(before.trim_end_matches('\n')), Ok(format!("{before}{wanted}")));
            }
        }
    }

    /// Below keys with dots a table may follow; where there is no such hub, nothing is written.
    #[test]
    fn a_tunnel_of_keys_with_dots_has_peers_too() {
        let dotted = format!(
            "{HEAD}[hub.vpn]\nzone = \"private\"\nclients = {{ prefix = \"10.100.0.0/24\", device = \"wg0\" }}\n\
             wireguard.listen = 51820\nwireguard.private-key = \"/k/vpn\"\n"
        );
        assert!(added(&dotted).is_ok_and(|text| text.starts_with(&format!("{dotted}\n[[hub.vpn.wireguard.peer]]\n"))));
        assert!(added(HEAD).is_err());
    }
}
