//! How fast and how far: TCP in bulk and small messages to and fro between two processes of this program, each in a namespace
//! of its own, over wires in hubs of several sizes and over a bridge as podman has it.
//!
//! Everything is there at once, and each round gives every pair a short turn, so that a slow moment of the machine is felt by
//! all; what is compared are the ratios within a round. Where there are two processors, bulk has one for each side. A
//! message's two sides share one, or waking the other would be most of what is measured.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Instant;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::host::PretendHost;
use super::wiring::{PORT, TOPOLOGY, Wiring, leaf_name, said};
use crate::{Options, Result, WORK, median};

/// What one turn of a pair sends in bulk, and how many messages go to and fro.
const BULK: usize = 24 << 20;
const MESSAGES: usize = 150;
/// The size of one message, and of what is written in bulk at once.
const MESSAGE: usize = 64;
const PIECE: usize = 128 << 10;
/// Rounds whose figures nobody takes: neighbours are found, windows open.
const WARM_UP: usize = 8;
/// How many wires are in the hub of each of the wired pairs.
const HUBS: [usize; 3] = [1, 100, 1000];

/// What the pairs had in each round.
pub struct Traffic {
    pub pairs: Vec<Figures>,
}

pub struct Figures {
    pub name: String,
    /// Nanoseconds for `BULK` bytes.
    bulk: Vec<f64>,
    /// The same the other way; empty where nobody has asked.
    back: Vec<f64>,
    /// Nanoseconds to the other side and back, the median of a round's messages.
    message: Vec<f64>,
}

impl Figures {
    pub fn gigabits(&self) -> Option<f64> {
        gigabits(&self.bulk)
    }

    pub fn gigabits_back(&self) -> Option<f64> {
        gigabits(&self.back)
    }

    pub fn microseconds(&self) -> Option<f64> {
        median(self.message.iter().map(|nanoseconds| nanoseconds / 1e3).collect())
    }
}

fn gigabits(times: &[f64]) -> Option<f64> {
    median(times.iter().map(|nanoseconds| (8 * BULK) as f64 / nanoseconds).collect())
}

impl Traffic {
    fn ratio(&self, of: &str, to: &str, what: impl Fn(&Figures) -> &[f64]) -> Option<f64> {
        let find = |name: &str| self.pairs.iter().find(|pair| pair.name == name).map(&what);
        median(find(of)?.iter().zip(find(to)?).map(|(a, b)| a / b).collect())
    }

    /// How much longer the same bytes take.
    pub fn bulk(&self, of: &str, to: &str) -> Option<f64> {
        self.ratio(of, to, |pair| &pair.bulk)
    }

    pub fn back(&self, of: &str, to: &str) -> Option<f64> {
        self.ratio(of, to, |pair| &pair.back)
    }

    /// How much longer a message takes.
    pub fn message(&self, of: &str, to: &str) -> Option<f64> {
        self.ratio(of, to, |pair| &pair.message)
    }
}

pub fn wired(n: usize) -> String {
    format!("wire, {n} in the hub")
}

pub const BARE: &str = "a pair of veths, no rules";
pub const BRIDGED: &str = "podman's bridge";
pub const FILTERED: &str = "podman's bridge, br_netfilter";
pub const PUBLISHED: &str = "podman's bridge, published port";

/// Lays wires and bridges, and lets every pair talk.
pub fn measure(pretend: &mut PretendHost, options: &Options) -> Result<Traffic> {
    let mut next = 1;
    let hubs: Vec<_> = HUBS
        .iter()
        .map(|n| {
            let first = next;
            next += n;
            (format!("edge-{n}"), first..=next - 1)
        })
        .collect();
    let wiring = Wiring::of("traffic".into(), &hubs);
    pretend.grow(&wiring.nodes)?;
    fs::write(TOPOLOGY, &wiring.topology)?;
    said(Command::new(&options.wire).args(["-f", TOPOLOGY, "up"]))?;

    let mut pairs = Vec::new();
    for (hub, leaves) in &hubs {
        let leaf = leaf_name(*leaves.end());
        let wire = wiring.wires.iter().find(|wire| wire.to.node == leaf).ok_or("a leaf without a wire")?;
        let to = SocketAddrV4::new(wire.from.address, PORT);
        pairs.push(Pair::start(pretend, wired(leaves.clone().count()), &leaf, hub, to)?);
    }
    bare(pretend)?;
    pairs.push(Pair::start(pretend, BARE.into(), "bare-1", "bare-2", SocketAddrV4::new(BARE_SERVER, PORT))?);
    let direct = SocketAddrV4::new(BRIDGED_SERVER, PORT);
    bridge(pretend, "pods", false)?;
    pairs.push(Pair::start(pretend, BRIDGED.into(), "pods-1", "pods-2", direct)?);
    let published = SocketAddrV4::new(GATEWAY, PUBLISHED_PORT);
    pairs.push(Pair::start(pretend, PUBLISHED.into(), "pods-1", "pods-2", published)?);
    if bridge(pretend, "filtered", true)? {
        pairs.push(Pair::start(pretend, FILTERED.into(), "filtered-1", "filtered-2", direct)?);
    }

    rounds(pairs, options.traffic_rounds(), "traffic")
}

/// Lets every pair talk in each round.
pub fn rounds(mut pairs: Vec<Pair>, rounds: usize, what: &str) -> Result<Traffic> {
    for round in 0..WARM_UP + rounds {
        if round % 50 == 0 {
            eprintln!("bench: {what}, round {round} of {}", WARM_UP + rounds);
        }
        // Whoever follows a pair that filled the caches should not always be the same.
        let first = round % pairs.len();
        for i in (first..pairs.len()).chain(0..first) {
            let [bulk, back, message] = pairs[i].turn()?;
            if round >= WARM_UP {
                let figures = &mut pairs[i].figures;
                figures.bulk.push(bulk);
                figures.message.push(message);
                figures.back.extend((back > 0.0).then_some(back));
            }
        }
    }
    Ok(Traffic { pairs: pairs.into_iter().map(Pair::end).collect() })
}

const BARE_SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 0);

/// What wires would be without their rules.
fn bare(pretend: &mut PretendHost) -> Result<()> {
    let nodes = ["bare-1".to_owned(), "bare-2".to_owned()];
    pretend.grow(&nodes)?;
    let pair = "link add eth0 netns bare-1 numtxqueues 1 numrxqueues 1 type veth peer name eth0 netns bare-2 numtxqueues 1 \
                numrxqueues 1\n";
    fs::write(format!("{WORK}/bare"), pair)?;
    said(Command::new("ip").args(["-batch", &format!("{WORK}/bare")]))?;
    for (node, address) in [(&nodes[0], Ipv4Addr::new(10, 99, 0, 1)), (&nodes[1], BARE_SERVER)] {
        fs::write(format!("{WORK}/{node}"), format!("addr add {address}/31 dev eth0\nlink set eth0 up\n"))?;
        said(Command::new("ip").args(["-n", node, "-batch", &format!("{WORK}/{node}")]))?;
    }
    Ok(())
}

// ---------------------------------------------------------------------------------------------------------------------
// The bridge

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
const BRIDGED_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
const BRIDGED_SERVER: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 3);
/// The bridge's server listens there too, so that a second pair can have the same two namespaces.
const PUBLISHED_PORT: u16 = 8080;

/// A host with podman's default network and two containers in it. False where the kernel has no such switch for `filtered`.
fn bridge(pretend: &mut PretendHost, host: &str, filtered: bool) -> Result<bool> {
    let (client, server) = (format!("{host}-1"), format!("{host}-2"));
    pretend.grow(&[host.to_owned(), client.clone(), server.clone()])?;
    // Off is a kernel whose module br_netfilter is not loaded, as it is where nothing but podman uses bridges; on is one with
    // Docker or Kubernetes, or with the module built in.
    let switch = "net/bridge/bridge-nf-call-iptables";
    let there = pretend.inside(host, || Ok(fs::exists(format!("/proc/sys/{switch}"))?))?;
    if filtered && !there {
        return Ok(false);
    }
    let mut settings = vec![("net/ipv4/ip_forward", "1")];
    if there {
        settings.push((switch, if filtered { "1" } else { "0" }));
    }
    pretend.inside(host, || {
        Ok(settings.into_iter().try_for_each(|(key, value)| fs::write(format!("/proc/sys/{key}"), value))?)
    })?;
    let mut on_host = format!("link add podman0 type bridge\naddr add {GATEWAY}/16 dev podman0\n");
    for (i, (node, address)) in [(&client, BRIDGED_CLIENT), (&server, BRIDGED_SERVER)].into_iter().enumerate() {
        on_host += &format!("link add veth{i} type veth peer name eth0 netns {node}\n");
        on_host += &format!("link set veth{i} master podman0\nlink set veth{i} up\n");
        let inside = format!(
            "addr add {address}/16 dev eth0\nlink set eth0 up\nroute add default via {GATEWAY} dev eth0 proto static\n"
        );
        fs::write(format!("{WORK}/{node}"), inside)?;
    }
    fs::write(format!("{WORK}/{host}"), on_host + "link set podman0 up\n")?;
    fs::write(format!("{WORK}/{host}.nft"), netavark())?;
    for node in [host, &client, &server] {
        said(Command::new("ip").args(["-n", node, "-batch", &format!("{WORK}/{node}")]))?;
    }
    pretend.inside(host, || said(Command::new("nft").args(["-f", &format!("{WORK}/{host}.nft")])))?;
    Ok(true)
}

/// The table that netavark 1.14 (podman 5) has for its default network and one published port, as `nft list ruleset` shows it.
fn netavark() -> String {
    format!(
        "table inet netavark {{
	chain INPUT {{
		type filter hook input priority filter; policy accept;
		ip saddr 10.88.0.0/16 meta l4proto {{ tcp, udp }} th dport 53 accept
	}}

	chain FORWARD {{
		type filter hook forward priority filter; policy accept;
		ct state invalid drop
		jump NETAVARK-ISOLATION-1
		ip daddr 10.88.0.0/16 ct state established,related accept
		ip saddr 10.88.0.0/16 accept
	}}

	chain POSTROUTING {{
		type nat hook postrouting priority srcnat; policy accept;
		meta mark & 0x00002000 == 0x00002000 masquerade
		ip saddr 10.88.0.0/16 jump nv_2f259bab_10_88_0_0_nm16
	}}

	chain PREROUTING {{
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local jump NETAVARK-HOSTPORT-DNAT
	}}

	chain OUTPUT {{
		type nat hook output priority -100; policy accept;
		fib daddr type local jump NETAVARK-HOSTPORT-DNAT
	}}

	chain NETAVARK-HOSTPORT-DNAT {{
		tcp dport {PUBLISHED_PORT} jump nv_2f259bab_10_88_0_0_nm16_dnat
	}}

	chain NETAVARK-HOSTPORT-SETMARK {{
		meta mark set meta mark | 0x00002000
	}}

	chain NETAVARK-ISOLATION-1 {{
	}}

	chain NETAVARK-ISOLATION-2 {{
	}}

	chain NETAVARK-ISOLATION-3 {{
		oifname \"podman0\" drop
		jump NETAVARK-ISOLATION-2
	}}

	chain nv_2f259bab_10_88_0_0_nm16 {{
		ip daddr 10.88.0.0/16 accept
		ip daddr != 224.0.0.0/4 masquerade
	}}

	chain nv_2f259bab_10_88_0_0_nm16_dnat {{
		ip saddr 10.88.0.0/16 tcp dport {PUBLISHED_PORT} jump NETAVARK-HOSTPORT-SETMARK
		ip saddr 127.0.0.1 tcp dport {PUBLISHED_PORT} jump NETAVARK-HOSTPORT-SETMARK
		tcp dport {PUBLISHED_PORT} dnat ip to {BRIDGED_SERVER}:{PUBLISHED_PORT}
	}}
}}
"
    )
}

// ---------------------------------------------------------------------------------------------------------------------
// The talkers

/// Two processes, one on each side.
pub struct Pair {
    figures: Figures,
    client: Child,
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
    /// It ends with its standard input.
    server: Child,
}

impl Pair {
    pub fn start(pretend: &PretendHost, name: String, from: &str, at: &str, to: SocketAddrV4) -> Result<Pair> {
        Pair::of(pretend, name, from, at, to, "there")
    }

    /// In bulk the other way as well.
    pub fn both(pretend: &PretendHost, name: String, from: &str, at: &str, to: SocketAddrV4) -> Result<Pair> {
        Pair::of(pretend, name, from, at, to, "both")
    }

    fn of(pretend: &PretendHost, name: String, from: &str, at: &str, to: SocketAddrV4, ways: &str) -> Result<Pair> {
        let this = std::env::current_exe()?;
        let start = |place: &str, arguments: &[&str]| {
            pretend.inside(place, || {
                let mut command = Command::new(&this);
                Ok(command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?)
            })
        };
        let mut server = start(at, &["listen", &to.port().to_string()])?;
        let mut ready = String::new();
        BufReader::new(server.stdout.take().ok_or("no output")?).read_line(&mut ready)?;
        let mut client = start(from, &["talk", &to.to_string(), ways])?;
        let ask = client.stdin.take().ok_or("no input")?;
        let mut answer = BufReader::new(client.stdout.take().ok_or("no output")?);
        answer.read_line(&mut ready)?;
        if ready != "ready\nready\n" {
            return Err(format!("{name}: {from} cannot talk to {to} in {at}").into());
        }
        let figures = Figures { name, bulk: Vec::new(), back: Vec::new(), message: Vec::new() };
        Ok(Pair { figures, client, ask, answer, server })
    }

    /// Nanoseconds for the bulk, for the bulk back, and for a message.
    fn turn(&mut self) -> Result<[f64; 3]> {
        self.ask.write_all(b"\n")?;
        let mut line = String::new();
        self.answer.read_line(&mut line)?;
        let times: Vec<f64> = line.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?;
        Ok(times.try_into().map_err(|_| "a talker has ended")?)
    }

    fn end(self) -> Figures {
        let Pair { figures, mut client, ask, server: mut far, .. } = self;
        drop(ask);
        drop(far.stdin.take());
        let _ = (client.wait(), far.wait());
        figures
    }
}

/// Which processor a process is on from now on: the first it may use, or the last.
fn sit(first: bool) -> Result<()> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let mut processors = (0..CpuSet::count()).filter(|i| allowed.is_set(*i).unwrap_or(false));
    let processor = if first { processors.next() } else { processors.next_back() };
    let mut one = CpuSet::new();
    one.set(processor.ok_or("no processor")?)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &one)?)
}

/// `bench listen PORT`: connections of a client for bulk, for bulk back and for messages, until standard input ends.
pub fn listen(port: Option<&String>) -> Result<()> {
    let port: u16 = port.ok_or("listen needs a port")?.parse()?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    println!("ready");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || hear(stream).map_err(|error| error.to_string()));
        }
    });
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// One connection; its first byte says what it is for.
fn hear(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut kind = [0];
    stream.read_exact(&mut kind)?;
    if kind[0] == b'm' {
        sit(true)?;
        let mut message = [0; MESSAGE];
        loop {
            stream.read_exact(&mut message)?;
            stream.write_all(&message)?;
        }
    }
    sit(false)?;
    let mut buffer = vec![0; PIECE];
    if kind[0] == b'f' {
        while stream.read(&mut [0])? > 0 {
            for _ in 0..BULK / PIECE {
                stream.write_all(&buffer)?;
            }
        }
        return Ok(());
    }
    loop {
        let mut left = BULK;
        while left > 0 {
            match stream.read(&mut buffer[..left.min(PIECE)])? {
                0 => return Ok(()),
                read => left -= read,
            }
        }
        stream.write_all(&[0])?;
    }
}

/// `bench talk ADDRESS there|both`: one turn for each line that comes in.
pub fn talk(to: Option<&String>, ways: Option<&String>) -> Result<()> {
    let to: SocketAddrV4 = to.ok_or("talk needs an address")?.parse()?;
    sit(true)?;
    let connect = |kind: u8| -> Result<TcpStream> {
        let mut stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.write_all(&[kind])?;
        Ok(stream)
    };
    let (mut bulk, mut messages) = (connect(b'b')?, connect(b'm')?);
    let mut fetched = ways.filter(|ways| *ways == "both").map(|_| connect(b'f')).transpose()?;
    println!("ready");
    let mut piece = vec![0; PIECE];
    for line in std::io::stdin().lines() {
        line?;
        let start = Instant::now();
        for _ in 0..BULK / PIECE {
            bulk.write_all(&piece)?;
        }
        bulk.read_exact(&mut [0])?;
        let there = start.elapsed().as_nanos();

        let start = Instant::now();
        if let Some(stream) = &mut fetched {
            stream.write_all(&[0])?;
            for _ in 0..BULK / PIECE {
                stream.read_exact(&mut piece)?;
            }
        }
        let back = if fetched.is_some() { start.elapsed().as_nanos() } else { 0 };

        let mut message = [0; MESSAGE];
        let mut times = Vec::with_capacity(MESSAGES);
        for _ in 0..MESSAGES {
            let start = Instant::now();
            messages.write_all(&message)?;
            messages.read_exact(&mut message)?;
            times.push(start.elapsed().as_nanos() as f64);
        }
        println!("{there} {back} {}", median(times).unwrap_or(0.0));
    }
    Ok(())
}
