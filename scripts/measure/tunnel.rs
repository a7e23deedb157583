//! The VPN in user space: TCP from a client through its tunnel, the host and the hub to a leaf and back, over `wire-hub` with the rules of
//! all in force, and over the same path without a rule: `wire-hub`, boringtun alone and wireguard-go. Every client is boringtun.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{IntoRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use boringtun::device::{DeviceConfig, DeviceHandle};
use boringtun::x25519::{PublicKey, StaticSecret};

use super::host::PretendHost;
use super::traffic::{Pair, Traffic, rounds};
use super::wiring::{PORT, said};
use crate::{Options, Result, WORK};

pub const RULED: &str = "wire-hub, rules in force";
pub const FREE: &str = "wire-hub, no rules";
pub const ALONE: &str = "boringtun, no rules";
pub const GO: &str = "wireguard-go, no rules";

const LISTEN: u16 = 51820;
/// What is dialled: the host's address for its hub's, where rules hand it on.
const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const LEAF: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 2);

const FILE: &str = r#"
version = 1
runtime = "netns"
wire = [
  { name = "host-vpn", ends = ["host", "vpn"], subnet = "192.168.101.0/31" },
  { name = "vpn-leaf", ends = ["vpn", "leaf"], subnet = "10.1.1.0/31", allow = ["tcp/PORT"] },
]
[host]
uplinks = ["eth0"]
[module]
all-of-it = ["vpn", "leaf"]
[hub.vpn]
zone = "private"
clients = { prefix = "10.100.0.0/24", device = "wg0" }
[hub.vpn.wireguard]
listen = 51820
private-key = "/run/bench/keys/vpn"
[[hub.vpn.wireguard.peer]]
name = "client"
public-key = "KEY"
address = "10.100.0.2"
allow = ["leaf"]
"#;

/// A path as `wire` lays it, without a rule: HOST, HUB and LEAF stand for the namespaces, CLIENT for the one outside.
const BARE: &str = r"
ip link add eth0 netns HOST type veth peer name eth0 netns CLIENT
ip -n HOST address add 192.0.2.2/24 dev eth0
ip link add host-vpn netns HOST numtxqueues 1 numrxqueues 1 type veth peer name host-vpn netns HUB numtxqueues 1 numrxqueues 1
ip -n HOST address add 192.168.101.0/31 dev host-vpn
ip -n HUB address add 192.168.101.1/31 dev host-vpn
ip link add vpn-leaf netns HUB numtxqueues 1 numrxqueues 1 type veth peer name eth0 netns LEAF numtxqueues 1 numrxqueues 1
ip -n HUB address add 10.1.1.0/31 dev vpn-leaf
ip -n LEAF address add 10.1.1.1/31 dev eth0
for at in 'HOST eth0' 'HOST host-vpn' 'HUB host-vpn' 'HUB vpn-leaf' 'LEAF eth0'; do set -- $at; ip -n $1 link set $2 up; done
ip -n HUB route add default via 192.168.101.0
ip -n LEAF route add 10.100.0.0/24 via 10.1.1.0
for at in HOST HUB; do nsenter --net=/run/netns/$at sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'; done
ip -n CLIENT address add 192.0.2.1/24 dev eth0
ip -n CLIENT link set eth0 up
ip -n CLIENT route add 192.168.101.0/31 via 192.0.2.2
";

/// Whoever serves a tunnel; it ends with the value.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Keys {
    private: [u8; 32],
    public: [u8; 32],
}

fn keys(number: u8) -> Keys {
    // They guard nothing.
    let private = StaticSecret::from([number; 32]);
    Keys { public: *PublicKey::from(&private).as_bytes(), private: private.to_bytes() }
}

pub fn measure(pretend: &mut PretendHost, options: &Options) -> Result<Traffic> {
    let (hub, client) = (keys(1), keys(2));
    let program = options.wire.with_file_name("wire-hub");
    let mut serving = Vec::new();
    let mut pairs = Vec::new();
    for (number, name) in [RULED, FREE, ALONE, GO].into_iter().enumerate() {
        let (vpn, outside, dialled) = match name {
            RULED => {
                pretend.grow(&["vpn".to_owned(), "leaf".to_owned()])?;
                script(
                    "ip address add 192.0.2.2/24 dev eth0; ip -n uplink address add 192.0.2.1/24 dev eth0; ip -n uplink link set eth0 up",
                )?;
                fs::create_dir_all(format!("{WORK}/keys"))?;
                fs::set_permissions(format!("{WORK}/keys"), std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
                let file = format!("{WORK}/vpn.toml");
                let text = FILE.replace("PORT", &PORT.to_string()).replace("KEY", &base64(&client.public));
                fs::write(&file, text)?;
                said(Command::new(&options.wire).args(["-f", &file, "up"]))?;
                ("vpn".to_owned(), "uplink".to_owned(), HOST_ADDRESS)
            }
            _ => {
                let names = ["host", "vpn", "leaf", "client"].map(|node| format!("{node}-{number}"));
                pretend.grow(&names)?;
                let roles = ["HOST", "HUB", "LEAF", "CLIENT"].iter().zip(&names);
                script(&roles.fold(BARE.to_owned(), |text, (role, name)| text.replace(role, name)))?;
                let [_, vpn, _, client] = names;
                (vpn, client, Ipv4Addr::new(192, 168, 101, 1))
            }
        };
        let up = |place: &str, address: &str| {
            script(&format!(
                "ip -n {place} address add {address} dev wg0 2>/dev/null || true; ip -n {place} link set wg0 mtu 1420 up"
            ))
        };
        serving.push(match name {
            RULED | FREE => {
                let tun =
                    format!("ip -n {vpn} link show dev wg0 >/dev/null 2>&1 || ip -n {vpn} tuntap add dev wg0 mode tun");
                script(&tun)?;
                up(&vpn, "10.100.0.1/24")?;
                wire_hub(pretend, &program, &vpn, &hub, &client)?
            }
            ALONE => {
                let running = boringtun(pretend, &vpn, &hub, &client, None, CLIENT)?;
                up(&vpn, "10.100.0.1/24")?;
                running
            }
            _ => {
                let running = wireguard_go(pretend, &vpn, &hub, &client)?;
                up(&vpn, "10.100.0.1/24")?;
                running
            }
        });
        serving.push(boringtun(pretend, &outside, &client, &hub, Some(dialled), LEAF)?);
        up(&outside, &format!("{CLIENT}/32"))?;
        script(&format!("ip -n {outside} route add {LEAF} dev wg0"))?;
        let leaf = vpn.replace("vpn", "leaf");
        pairs.push(Pair::both(pretend, name.to_owned(), &outside, &leaf, SocketAddrV4::new(LEAF, PORT))?);
    }
    let traffic = rounds(pairs, options.tunnel_rounds(), "tunnel")?;
    drop(serving);
    Ok(traffic)
}

fn script(text: &str) -> Result<()> {
    said(Command::new("sh").args(["-ec", text])).map(drop)
}

/// The hub program as `wire hub` starts it: orders on standard input, a socket that is listened on as its third descriptor.
fn wire_hub(pretend: &PretendHost, program: &Path, place: &str, hub: &Keys, client: &Keys) -> Result<Serving> {
    let orders = serde_json::json!({
        "hub": place,
        "tunnel": {
            "device": "wg0",
            "listen": LISTEN,
            "private-key": base64(&hub.private),
            "peers": [{ "name": "client", "public-key": base64(&client.public), "preshared-key": null, "address": CLIENT }],
        },
        "proxy": null,
    });
    let (file, path) = (format!("{WORK}/{place}.json"), format!("{WORK}/{place}.sock"));
    fs::write(&file, orders.to_string())?;
    let socket = UnixListener::bind(&path)?;
    let start = "exec 3<&0 <\"$0\"; exec \"$1\"";
    let child = pretend.inside(place, || {
        let mut command = Command::new("sh");
        command.args(["-c", start, &file]).arg(program).stdin(Stdio::from(OwnedFd::from(socket)));
        Ok(command.spawn()?)
    })?;
    let running = Serving(child);
    // It answers when it serves.
    let mut stream = UnixStream::connect(&path)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"\"likeness\"\n")?;
    let mut answer = [0; 1];
    stream.read_exact(&mut answer).map_err(|_| format!("{} does not serve", program.display()))?;
    Ok(running)
}

/// This program as one end of a tunnel.
fn boringtun(
    pretend: &PretendHost,
    place: &str,
    own: &Keys,
    peer: &Keys,
    endpoint: Option<Ipv4Addr>,
    address: Ipv4Addr,
) -> Result<Serving> {
    let endpoint = endpoint.map(|endpoint| format!("endpoint={endpoint}:{LISTEN}\npersistent_keepalive_interval=1\n"));
    let conf = format!(
        "private_key={}\nlisten_port={LISTEN}\npublic_key={}\n{}preshared_key={}\nallowed_ip={address}/32\n",
        hex(&own.private),
        hex(&peer.public),
        endpoint.unwrap_or_default(),
        hex(&[0; 32]),
    );
    let this = std::env::current_exe()?;
    let child = pretend.inside(place, || Ok(Command::new(&this).args(["tunnel-end", &conf]).spawn()?))?;
    let running = Serving(child);
    appears(place)?;
    Ok(running)
}

/// `bench tunnel-end CONF`: boringtun on a device of its own, until it is killed.
pub fn end(conf: Option<&String>) -> Result<()> {
    let conf = conf.ok_or("tunnel-end needs its configuration")?;
    let (mut socket, theirs) = UnixStream::pair()?;
    let config = DeviceConfig {
        n_threads: 1,
        use_connected_socket: true,
        use_multi_queue: false,
        uapi_fd: theirs.into_raw_fd(),
    };
    let mut device = DeviceHandle::new("wg0", config).map_err(|error| error.to_string())?;
    socket.write_all(format!("set=1\n{conf}\n").as_bytes())?;
    device.wait();
    Ok(())
}

fn wireguard_go(pretend: &PretendHost, place: &str, own: &Keys, peer: &Keys) -> Result<Serving> {
    let missing = |error| format!("wireguard-go (Debian and Alpine: wireguard-go, wireguard-tools): {error}");
    let child = pretend.inside(place, || {
        let mut command = Command::new("wireguard-go");
        Ok(command.arg("wg0").env("WG_PROCESS_FOREGROUND", "1").spawn().map_err(missing)?)
    })?;
    let running = Serving(child);
    appears(place)?;
    let file = format!("{WORK}/{place}.conf");
    let conf = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = {LISTEN}\n[Peer]\nPublicKey = {}\nAllowedIPs = {CLIENT}/32\n",
        base64(&own.private),
        base64(&peer.public)
    );
    fs::write(&file, conf)?;
    let start = Instant::now();
    while !Path::new("/run/wireguard/wg0.sock").exists() && start.elapsed() < Duration::from_secs(5) {
        sleep(Duration::from_millis(5));
    }
    said(Command::new("wg").args(["setconf", "wg0", &file]))?;
    Ok(running)
}

/// Waits until a node has its tunnel's device.
fn appears(place: &str) -> Result<()> {
    let start = Instant::now();
    let there = || Command::new("ip").args(["-n", place, "link", "show", "dev", "wg0"]).output();
    while !there()?.status.success() {
        if start.elapsed() > Duration::from_secs(5) {
            return Err(format!("no tunnel appears in {place}").into());
        }
        sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn base64(bytes: &[u8; 32]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
