//! Many packets at once: one process of the pretend host with a thread for each place, which answers there and asks from
//! there. The process is this test binary over again, so that nothing else must be built or installed.
//!
//! What is expected to be dropped goes first: nothing has passed yet that a reply could be taken for. Half a second of
//! silence is then a drop. What is expected to pass goes second and is repeated until it does, or for some seconds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use crate::host::Host;

/// A namespace that takes part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Site {
    /// As answers name it.
    pub name: String,
    /// Below `/run/netns`; none for the host.
    pub netns: Option<String>,
    pub addresses: Vec<Address>,
    /// The ports that are answered on, both by TCP and by UDP.
    pub ports: Vec<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    pub ip: IpAddr,
    /// The index of the device of a link-local address, else 0.
    pub scope: u32,
}

impl Address {
    fn with(self, port: u16) -> SocketAddr {
        match self.ip {
            IpAddr::V4(ip) => (ip, port).into(),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, self.scope).into(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Tcp,
    Udp,
    Echo,
    /// A protocol of this number.
    Raw(u8),
}

/// One thing to send.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Probe {
    /// A site, by its place in the list.
    pub site: usize,
    pub source: Option<IpAddr>,
    pub to: Address,
    pub kind: Kind,
    /// 0 where there are none.
    pub port: u16,
    /// Whether an answer is expected: then it is asked again until there is one.
    pub passes: bool,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seen {
    /// Somebody answered: who, on which port, and whom he took us for. An echo says nothing of that.
    Answer {
        site: String,
        port: u16,
        source: IpAddr,
    },
    Echoed,
    /// A kernel answered that nobody listens: the packet arrived.
    Refused,
    Silence,
    /// It did not leave its namespace.
    Unsent(String),
    /// It could not be tried.
    Broken(String),
}

#[derive(Serialize, Deserialize)]
struct Task {
    sites: Vec<Site>,
    probes: Vec<Probe>,
}

/// As long without an answer is a drop.
const SILENCE: Duration = Duration::from_millis(500);

/// As long is waited for what should pass.
const PATIENCE: Duration = Duration::from_secs(4);

/// Between two askings of what has no memory of its own.
const AGAIN: Duration = Duration::from_millis(200);

/// As many probes are sent before answers are looked for.
const BURST: usize = 32;

/// The variable that makes this binary an agent.
const AGENT: &str = "WIRE_TEST_AGENT";

/// Sends everything and says what became of each.
pub fn send(host: &Host, sites: &[Site], probes: &[Probe]) -> Vec<Seen> {
    let binary = std::env::current_exe().expect("the test binary has a path");
    let argv = [binary.to_str().expect("a path in UTF-8"), "prober::agent", "--exact", "--nocapture"];
    let mut command = host.command("host", &argv);
    command.env(AGENT, "1").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut agent = command.spawn().expect("nsenter starts");
    let task = serde_json::to_vec(&Task { sites: sites.to_vec(), probes: probes.to_vec() }).expect("a task is JSON");
    agent.stdin.take().expect("a pipe").write_all(&task).expect("the agent listens");
    let output = agent.wait_with_output().expect("the agent ends");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the agent failed\n{stdout}\n{stderr}");
    let answer = stdout.lines().find(|line| line.starts_with('['));
    let answer = answer.unwrap_or_else(|| panic!("the agent says nothing\n{stdout}\n{stderr}"));
    serde_json::from_str(answer).expect("the agent speaks JSON")
}

/// Not a test in itself but where the agent begins; run as a test, it asks itself over loopback.
#[test]
fn agent() {
    if std::env::var_os(AGENT).is_some() {
        let mut task = Vec::new();
        std::io::stdin().read_to_end(&mut task).expect("a task");
        let seen = work(&serde_json::from_slice(&task).expect("a task is JSON"));
        println!("\n{}", serde_json::to_string(&seen).expect("an answer is JSON"));
        return;
    }
    let host = Host::new();
    let here = |ip: &str| Address { ip: ip.parse().expect("an address"), scope: 0 };
    let sites = [
        Site { name: "host".into(), netns: None, addresses: vec![here("192.0.2.2")], ports: vec![80] },
        Site { name: "lan".into(), netns: Some("lan".into()), addresses: vec![here("192.0.2.1")], ports: vec![80, 81] },
    ];
    let probe = |kind, port, passes| Probe { site: 0, source: None, to: here("192.0.2.1"), kind, port, passes };
    let probes = [
        probe(Kind::Tcp, 80, true),
        probe(Kind::Tcp, 81, false),
        probe(Kind::Tcp, 82, true),
        probe(Kind::Udp, 80, true),
        probe(Kind::Udp, 81, false),
        probe(Kind::Echo, 0, true),
        probe(Kind::Raw(253), 0, true),
        probe(Kind::Raw(252), 0, false),
        Probe { source: Some("198.51.100.1".parse().expect("an address")), ..probe(Kind::Udp, 80, true) },
    ];
    let answer = |port| Seen::Answer { site: "lan".into(), port, source: here("192.0.2.2").ip };
    let closed = "table inet closed { chain input { type filter hook input priority 0; tcp dport 81 drop; udp dport 81 drop; \
                  meta l4proto 252 drop; }; }";
    let mut seen = send(&host, &sites, &probes);
    let unbound = seen.pop();
    assert!(matches!(&unbound, Some(Seen::Broken(_))), "{unbound:?}");
    let (open, echoed) = (answer(80), Seen::Echoed);
    let odd = answer(0);
    assert_eq!(seen, [&open, &answer(81), &Seen::Refused, &open, &answer(81), &echoed, &odd, &odd].map(Seen::clone));
    host.run("lan", &["nft", closed]).expect(0);
    seen = send(&host, &sites, &probes);
    seen.pop();
    let silent = &Seen::Silence;
    assert_eq!(seen, [&open, silent, &Seen::Refused, &open, silent, &echoed, &odd, silent].map(Seen::clone));
    // What is denied on its way out does not leave, or, by TCP, does not say so.
    host.run("host", &["nft", &closed.replace("input", "output")]).expect(0);
    seen = send(&host, &sites, &probes);
    seen.pop();
    let unsent = Seen::Unsent("Operation not permitted".into());
    assert_eq!(seen, [&open, silent, &Seen::Refused, &open, &unsent, &echoed, &odd, &unsent].map(Seen::clone));
}

/// Does a task: a thread lives at every site until all are done.
fn work(task: &Task) -> Vec<Seen> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("the limit can be reached");
    let raw: BTreeSet<u8> = task.probes.iter().filter_map(|probe| probe.kind.raw()).collect();
    let of_site = |site: &Site| site.ports.len() + site.addresses.len() * (site.ports.len() + raw.len()) + 64;
    let servers: usize = task.sites.iter().map(of_site).sum();
    let spare = usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(servers);
    let shared = Shared {
        nonce: format!("{}-{}", std::process::id(), SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos()),
        at_once: (spare / task.sites.len()).clamp(8, 2000),
        arrived: [const { AtomicUsize::new(0) }; 3],
        sites: task.sites.len(),
        raw,
        lost: AtomicBool::new(false),
    };
    let mut seen = vec![Seen::Broken("nobody asked".to_owned()); task.probes.len()];
    std::thread::scope(|scope| {
        let live = |number: usize| {
            let shared = &shared;
            let own: Vec<_> = task.probes.iter().enumerate().filter(|(_, probe)| probe.site == number).collect();
            scope.spawn(move || {
                let _alarm = Alarm(&shared.lost);
                Life::new(&task.sites[number], shared).live(own)
            })
        };
        let lives: Vec<_> = (0..task.sites.len()).map(live).collect();
        for life in lives {
            for (number, what) in life.join().expect("a site lives to its end") {
                seen[number] = what;
            }
        }
    });
    seen
}

impl Kind {
    fn raw(self) -> Option<u8> {
        match self {
            Kind::Raw(number) => Some(number),
            _ => None,
        }
    }
}

/// What the sites know of each other.
struct Shared {
    /// Tells this run's packets from another's.
    nonce: String,
    /// Connections that one site tries at once.
    at_once: usize,
    /// How many sites have opened their ports, have done with what should be dropped, and with what should pass.
    arrived: [AtomicUsize; 3],
    sites: usize,
    raw: BTreeSet<u8>,
    /// A site has failed, so nobody need wait for it.
    lost: AtomicBool,
}

/// Tells the other sites where one fails.
struct Alarm<'a>(&'a AtomicBool);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

/// One site.
struct Life<'a> {
    site: &'a Site,
    shared: &'a Shared,
    listeners: Vec<TcpListener>,
    /// Each with its port, raw ones with 0.
    answerers: Vec<(UdpSocket, u16)>,
    /// By kind and source, what single packets leave by.
    sockets: BTreeMap<String, (UdpSocket, Kind)>,
    waiting: VecDeque<(usize, &'a Probe)>,
    /// Connections on their way.
    flights: Vec<Flight>,
    /// Single packets that no answer has come to.
    packets: BTreeMap<usize, Packet<'a>>,
    seen: BTreeMap<usize, Seen>,
}

struct Flight {
    number: usize,
    stream: TcpStream,
    connected: bool,
    until: Instant,
}

struct Packet<'a> {
    probe: &'a Probe,
    socket: String,
    until: Instant,
    again: Instant,
}

impl<'a> Life<'a> {
    /// Enters the namespace and opens its ports.
    fn new(site: &'a Site, shared: &'a Shared) -> Life<'a> {
        if let Some(netns) = &site.netns {
            let path = format!("/run/netns/{netns}");
            setns(std::fs::File::open(&path).expect(&path), CloneFlags::CLONE_NEWNET).expect(&path);
        }
        let name = &site.name;
        let mut answerers = Vec::new();
        for &address in &site.addresses {
            for &port in &site.ports {
                let socket = UdpSocket::bind(address.with(port));
                answerers.push((socket.unwrap_or_else(|e| panic!("{}:udp/{port} at {name}: {e}", address.ip)), port));
            }
            for &number in &shared.raw {
                let socket = packets(Kind::Raw(number), address.ip.is_ipv4(), Some(address));
                answerers.push((socket.unwrap_or_else(|e| panic!("{} at {name}: {e}", address.ip)), 0));
            }
        }
        answerers.iter().for_each(|(socket, _)| socket.set_nonblocking(true).expect("a socket need not block"));
        let listener = |port: &u16| listener(*port).unwrap_or_else(|e| panic!("tcp/{port} at {name}: {e}"));
        Life {
            site,
            shared,
            listeners: site.ports.iter().map(listener).collect(),
            answerers,
            sockets: BTreeMap::new(),
            waiting: VecDeque::new(),
            flights: Vec::new(),
            packets: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    fn live(mut self, probes: Vec<(usize, &'a Probe)>) -> BTreeMap<usize, Seen> {
        self.meet(0);
        for (half, passes) in [(1, false), (2, true)] {
            self.waiting = probes.iter().filter(|(_, probe)| probe.passes == passes).copied().collect();
            while !(self.waiting.is_empty() && self.flights.is_empty() && self.packets.is_empty()) {
                self.begin();
                self.turn();
            }
            self.meet(half);
        }
        self.seen
    }

    /// Answers until every site has come so far.
    fn meet(&mut self, half: usize) {
        self.shared.arrived[half].fetch_add(1, Ordering::SeqCst);
        while self.shared.arrived[half].load(Ordering::SeqCst) < self.shared.sites {
            self.turn();
            assert!(!self.shared.lost.load(Ordering::SeqCst), "another site failed");
        }
    }

    /// Sends the next few.
    fn begin(&mut self) {
        for _ in 0..BURST {
            let Some(&(number, probe)) = self.waiting.front() else { return };
            if probe.kind == Kind::Tcp && self.flights.len() >= self.shared.at_once {
                return;
            }
            self.waiting.pop_front();
            let now = Instant::now();
            let until = now + if probe.passes { PATIENCE } else { SILENCE };
            if probe.kind == Kind::Tcp {
                match connect(probe) {
                    Ok(stream) => self.flights.push(Flight { number, stream, connected: false, until }),
                    Err(seen) => drop(self.seen.insert(number, seen)),
                }
                continue;
            }
            let key = format!("{:?} {} {:?}", probe.kind, probe.to.ip.is_ipv4(), probe.source);
            if !self.sockets.contains_key(&key) {
                let source = probe.source.map(|ip| Address { ip, scope: 0 });
                match packets(probe.kind, probe.to.ip.is_ipv4(), source) {
                    Ok(socket) => drop(self.sockets.insert(key.clone(), (socket, probe.kind))),
                    Err(error) => {
                        self.seen.insert(number, Seen::Broken(words(&error)));
                        continue;
                    }
                }
            }
            self.packets.insert(number, Packet { probe, socket: key, until, again: now + AGAIN });
            self.send(number);
        }
    }

    /// Sends one packet.
    fn send(&mut self, number: usize) {
        let packet = &self.packets[&number];
        let (socket, kind) = &self.sockets[&packet.socket];
        let question = format!("Q {} {number}", self.shared.nonce);
        let payload = match kind {
            Kind::Echo => echo(packet.probe.to.ip.is_ipv4(), number as u16, &question),
            _ => question.into_bytes(),
        };
        match socket.send_to(&payload, packet.probe.to.with(packet.probe.port)) {
            Ok(_) => {}
            Err(error) if matches!(error.raw_os_error(), Some(nix::libc::EAGAIN | nix::libc::ENOBUFS)) => {}
            Err(error) => {
                self.seen.insert(number, Seen::Unsent(words(&error)));
                self.packets.remove(&number);
            }
        }
    }

    /// Waits a moment for anything to happen, and does what is due.
    fn turn(&mut self) {
        let patience = if self.waiting.is_empty() { PollTimeout::from(10u8) } else { PollTimeout::ZERO };
        let ready = self.poll(patience);
        let (listening, rest) = ready.split_at(self.listeners.len());
        let (answering, rest) = rest.split_at(self.answerers.len());
        let (asking, flying) = rest.split_at(self.sockets.len());
        for (listener, _) in self.listeners.iter().zip(listening).filter(|(_, ready)| **ready) {
            self.accept(listener);
        }
        for ((socket, port), _) in self.answerers.iter().zip(answering).filter(|(_, ready)| **ready) {
            self.answer(socket, *port);
        }
        let mut heard = Vec::new();
        for ((socket, kind), _) in self.sockets.values().zip(asking).filter(|(_, ready)| **ready) {
            self.hear(socket, *kind, &mut heard);
        }
        for (number, seen) in heard {
            self.packets.remove(&number);
            self.seen.insert(number, seen);
        }
        let now = Instant::now();
        let mut left = Vec::new();
        for (mut flight, ready) in std::mem::take(&mut self.flights).into_iter().zip(flying) {
            let seen = if *ready { flight.look() } else { None };
            let late = (now >= flight.until).then_some(if flight.connected { Seen::Refused } else { Seen::Silence });
            match seen.or(late) {
                Some(seen) => drop(self.seen.insert(flight.number, seen)),
                None => left.push(flight),
            }
        }
        self.flights = left;
        let due: Vec<_> = self.packets.iter().filter(|(_, packet)| now >= packet.again).map(|(n, _)| *n).collect();
        for number in due {
            let Some(packet) = self.packets.get_mut(&number) else { continue };
            packet.again = now + AGAIN;
            if now >= packet.until {
                self.packets.remove(&number);
                self.seen.entry(number).or_insert(Seen::Silence);
            } else {
                self.send(number);
            }
        }
    }

    /// Which sockets have something to say: listeners, answerers, those that asked, connections on their way.
    fn poll(&self, patience: PollTimeout) -> Vec<bool> {
        let reading = self.listeners.iter().map(AsFd::as_fd);
        let reading = reading.chain(self.answerers.iter().map(|(socket, _)| socket.as_fd()));
        let reading = reading.chain(self.sockets.values().map(|(socket, _)| socket.as_fd()));
        let reading = reading.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let flying = self.flights.iter().map(|flight| {
            let wanted = if flight.connected { PollFlags::POLLIN } else { PollFlags::POLLOUT };
            PollFd::new(flight.stream.as_fd(), wanted)
        });
        let mut polled: Vec<PollFd> = reading.chain(flying).collect();
        match poll(&mut polled, patience) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => panic!("poll: {errno}"),
        }
        polled.iter().map(|fd| fd.any().unwrap_or_default()).collect()
    }

    fn accept(&self, listener: &TcpListener) {
        while let Ok((mut stream, peer)) = listener.accept() {
            let port = stream.local_addr().map_or(0, |address| address.port());
            // Who hangs up first is no concern of ours.
            let _ = stream.write_all(format!("{port} {} {}\n", peer.ip().to_canonical(), self.site.name).as_bytes());
        }
    }

    fn answer(&self, socket: &UdpSocket, port: u16) {
        let mut buffer = [0; 1500];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let packet = String::from_utf8_lossy(body(&buffer[..length], port == 0 && peer.is_ipv4())).into_owned();
            if let Some(question) = packet.strip_prefix("Q ") {
                let answer = format!("A {question} {port} {} {}", peer.ip(), self.site.name);
                let _ = socket.send_to(answer.as_bytes(), peer);
            }
        }
    }

    /// Reads the answers to single packets.
    fn hear(&self, socket: &UdpSocket, kind: Kind, heard: &mut Vec<(usize, Seen)>) {
        let mut buffer = [0; 1500];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let body = body(&buffer[..length], kind != Kind::Udp && peer.is_ipv4());
            let seen = match kind {
                Kind::Echo => {
                    let reply = if peer.is_ipv4() { 0 } else { 129 };
                    let text = body.get(8..).filter(|_| body[0] == reply).map(String::from_utf8_lossy);
                    let number = text.and_then(|text| Some(text.strip_prefix("Q ")?.to_owned()));
                    number.and_then(|text| Some((self.number(&text)?, Seen::Echoed)))
                }
                _ => String::from_utf8_lossy(body).strip_prefix("A ").and_then(|text| {
                    let (question, answer) = text.split_at(text.match_indices(' ').nth(1)?.0);
                    Some((self.number(question)?, identity(answer)?))
                }),
            };
            heard.extend(seen);
        }
    }

    /// The number of a probe of this run.
    fn number(&self, question: &str) -> Option<usize> {
        question.strip_prefix(&self.shared.nonce)?.trim().parse().ok()
    }
}

impl Flight {
    /// What has become of a connection, if it is decided.
    fn look(&mut self) -> Option<Seen> {
        if !self.connected {
            return match self.stream.take_error() {
                Ok(None) => {
                    self.connected = true;
                    None
                }
                Ok(Some(error)) | Err(error) => Some(refusal(&error)),
            };
        }
        let mut line = [0; 256];
        match self.stream.read(&mut line) {
            Ok(length) => Some(identity(&String::from_utf8_lossy(&line[..length])).unwrap_or(Seen::Refused)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(_) => Some(Seen::Refused),
        }
    }
}

/// Begins a connection.
fn connect(probe: &Probe) -> Result<TcpStream, Seen> {
    let broken = |error| Seen::Broken(words(&error));
    let domain = if probe.to.ip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP)).map_err(broken)?;
    if let Some(source) = probe.source {
        socket.bind(&SocketAddr::from((source, 0)).into()).map_err(broken)?;
    }
    match socket.connect(&probe.to.with(probe.port).into()) {
        Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => match refusal(&error) {
            Seen::Silence => Err(Seen::Unsent(words(&error))),
            refused => Err(refused),
        },
        _ => Ok(socket.into()),
    }
}

/// A failed connection: either somebody said that nobody listens, or the packet got lost on its way.
fn refusal(error: &std::io::Error) -> Seen {
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Seen::Refused,
        _ => Seen::Silence,
    }
}

/// A socket for single packets.
fn packets(kind: Kind, ipv4: bool, source: Option<Address>) -> std::io::Result<UdpSocket> {
    let domain = if ipv4 { Domain::IPV4 } else { Domain::IPV6 };
    let (of, protocol) = match kind {
        Kind::Tcp | Kind::Udp => (Type::DGRAM, Protocol::UDP),
        Kind::Echo if ipv4 => (Type::RAW, Protocol::ICMPV4),
        Kind::Echo => (Type::RAW, Protocol::ICMPV6),
        Kind::Raw(number) => (Type::RAW, Protocol::from(i32::from(number))),
    };
    let socket = Socket::new(domain, of.nonblocking(), Some(protocol))?;
    if let Some(source) = source {
        socket.bind(&source.with(0).into())?;
    }
    Ok(socket.into())
}

/// A port of both families.
fn listener(port: u16) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// An echo request. Of IPv6 the kernel adds the checksum.
fn echo(ipv4: bool, sequence: u16, words: &str) -> Vec<u8> {
    let identifier = std::process::id() as u16;
    let mut packet = vec![if ipv4 { 8 } else { 128 }, 0, 0, 0];
    packet.extend(identifier.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend(words.as_bytes());
    if ipv4 {
        let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        let sum: u32 = packet.chunks(2).map(word).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
        packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    packet
}

/// What is in a packet; a raw socket of IPv4 gives its header as well.
fn body(packet: &[u8], with_header: bool) -> &[u8] {
    let header = if with_header { packet.first().map_or(0, |first| usize::from(first & 15) * 4) } else { 0 };
    packet.get(header..).unwrap_or_default()
}

/// `PORT SOURCE SITE`, as those answer who are asked.
fn identity(text: &str) -> Option<Seen> {
    let mut words = text.split_whitespace();
    let (port, source) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some(Seen::Answer { port, source, site: words.next()?.to_owned() })
}

/// An error in the kernel's words.
fn words(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}
