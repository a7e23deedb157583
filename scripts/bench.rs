//! Times `wire` against the other ways to lay the same wires, in throw-away namespaces, and prints tables for people.
//!
//! Run it by `scripts/bench`. It is an observer: nothing here is shared with `wire`, which is started as any user would.
//! One hub, N leaves, a wire from the hub to each leaf and one from the host to the hub, laid by
//!
//! - `wire up`, a whole process from start to end, its read-back included;
//! - `ip -batch`, one batch for all pairs and one for each namespace;
//! - a shell script, one `ip` command a step;
//! - the floor, this program started as `bench floor N`: bare netlink, the same kernel objects, no checks, no read-back.

// `wait4` is the only way to learn the peak memory of one child, and neither std nor nix has it.
#![allow(unsafe_code)]

use std::error::Error;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use nix::sys::stat::Mode;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "\
usage: scripts/bench [--n 15,100,1000] [--repeat R] [--slow] [--strict] [--wire PATH]

  --n LIST      how many leaves, each a column (default 15,100,1000; 5000 takes its time)
  --repeat R    rounds for each column (default 5, from 1000 leaves on 3)
  --slow        the shell script above 100 leaves too: a minute or more for each round
  --strict      exit 1 if a wanted figure is missed
  --wire PATH   the `wire` to measure (default: the release build beside this program)";

/// Where this program keeps its files while it runs, on a tmpfs of its own.
const WORK: &str = "/run/bench";
/// The script is not run above this many leaves unless asked: it takes 50 ms a wire and more.
const SCRIPT_LIMIT: usize = 100;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.first().map(String::as_str) {
        Some("floor") => floor(args.get(1)).map(|()| true),
        Some("--help" | "-h") => {
            println!("{USAGE}");
            Ok(true)
        }
        _ => bench(&args),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Everything from the command line to the tables; false if `--strict` has something to complain about.
fn bench(args: &[String]) -> Result<bool> {
    let options = Options::parse(args)?;
    let binary = if options.wire.exists() { Some(Binary::inspect(&options.wire)?) } else { None };
    if binary.is_none() {
        eprintln!("bench: no {}, so only the other variants run", options.wire.display());
    }

    let mut pretend = PretendHost::enter()?;
    let mut columns = Vec::new();
    for &n in &options.sizes {
        pretend.grow(n)?;
        columns.push(measure(&pretend, n, &options, binary.is_some())?);
    }

    print_times(&columns);
    let met = print_targets(&columns, binary.as_ref());
    Ok(met || !options.strict)
}

struct Options {
    sizes: Vec<usize>,
    repeat: Option<usize>,
    slow: bool,
    strict: bool,
    wire: PathBuf,
}

impl Options {
    fn parse(args: &[String]) -> Result<Options> {
        let beside = std::env::current_exe()?.with_file_name("../wire");
        let mut options =
            Options { sizes: vec![15, 100, 1000], repeat: None, slow: false, strict: false, wire: beside };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value\n{USAGE}"));
            match arg.as_str() {
                "--n" => options.sizes = value()?.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?,
                "--repeat" => options.repeat = Some(value()?.parse()?),
                "--slow" => options.slow = true,
                "--strict" => options.strict = true,
                "--wire" => options.wire = PathBuf::from(value()?),
                _ => return Err(format!("unknown argument {arg}\n{USAGE}").into()),
            }
        }
        // Ascending, as the pretend host only grows, and so does what a child inherits of our peak memory.
        options.sizes.sort_unstable();
        options.sizes.dedup();
        let sane = options.sizes.iter().all(|n| (1..=9999).contains(n)) && options.repeat != Some(0);
        // A path that does not exist stays as it is, to be named as the user wrote it.
        options.wire = options.wire.canonicalize().unwrap_or(options.wire);
        if sane { Ok(options) } else { Err("1 to 9999 leaves, and at least one round".into()) }
    }

    fn rounds(&self, n: usize) -> usize {
        self.repeat.unwrap_or(if n < 1000 { 5 } else { 3 })
    }

    fn runs_script(&self, n: usize) -> bool {
        self.slow || n <= SCRIPT_LIMIT
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The wiring that every variant lays

/// One wire: `from` has the lower address, and `to` its default route over it.
struct Wire {
    name: String,
    from: End,
    to: End,
}

struct End {
    /// None is the host.
    node: Option<String>,
    device: String,
    address: Ipv4Addr,
}

const HUB: &str = "edge";

/// The wires for N leaves: `host-edge`, then one for each leaf. Every second name is too long for a device, as in life.
fn wires(n: usize) -> Vec<Wire> {
    let pair = |base: u32| (Ipv4Addr::from_bits(base), Ipv4Addr::from_bits(base + 1));
    let (host, hub) = pair(Ipv4Addr::new(192, 168, 96, 0).to_bits());
    let first = Wire {
        name: "host-edge".into(),
        from: End { node: None, device: "host-edge".into(), address: host },
        to: End { node: Some(HUB.into()), device: "host-edge".into(), address: hub },
    };
    let rest = (1..=n as u32).map(|i| {
        let (hub, leaf) = pair(Ipv4Addr::new(172, 16, 0, 0).to_bits() + 2 * i);
        let long = i % 2 == 1;
        let name = if long { format!("pub-leaf-{i:04}-service") } else { format!("pub-{i:04}") };
        let device = if long { format!("pub-leaf-~{i:04}") } else { name.clone() };
        Wire {
            name,
            from: End { node: Some(HUB.into()), device, address: hub },
            to: End { node: Some(leaf_name(i as usize)), device: "eth0".into(), address: leaf },
        }
    });
    std::iter::once(first).chain(rest).collect()
}

fn leaf_name(i: usize) -> String {
    format!("leaf-{i:04}")
}

/// The same wires as a topology file.
fn topology(n: usize) -> String {
    let mut text = String::from("version = 1\nruntime = \"netns\"\n\nwire = [\n");
    for wire in wires(n) {
        let node = |end: &End| end.node.clone().unwrap_or_else(|| "host".into());
        let (name, from, to, subnet) = (&wire.name, node(&wire.from), node(&wire.to), wire.from.address);
        let _ = writeln!(text, "  {{ name = \"{name}\", ends = [\"{from}\", \"{to}\"], subnet = \"{subnet}/31\" }},");
    }
    text += "]\n\n[host]\nuplinks = [\"eth0\"]\n\n[pool]\nhost = \"192.168.96.0/20\"\n\n";
    let _ = writeln!(text, "[hub.{HUB}]\nzone = \"public\"\npool = \"172.16.0.0/16\"\n\n[module]\nbench = [\"{HUB}\",");
    for i in 1..=n {
        let _ = writeln!(text, "  \"{}\",", leaf_name(i));
    }
    text += "]\n";
    for i in 1..=n {
        // Something to reach the outside for is what gives a leaf its default route.
        let _ = writeln!(text, "\n[node.{}]\negress = [\"tcp/443\"]", leaf_name(i));
    }
    text
}

/// The same wires as batches for `ip`, and the script that runs them.
fn write_batches(n: usize) -> io::Result<()> {
    let wires = wires(n);
    let mut create = String::new();
    for Wire { from, to, .. } in &wires {
        let side = |end: &End| {
            let place = end.node.as_ref().map(|node| format!(" netns {node}")).unwrap_or_default();
            format!("name {}{place} mtu 1500 group 119 numtxqueues 1 numrxqueues 1", end.device)
        };
        let _ = writeln!(create, "link add {} type veth peer {}", side(from), side(to));
    }

    // What follows birth, for one end, in its own namespace.
    let settle = |wire: &Wire, end: &End| {
        let device = &end.device;
        let mut text = format!("addr add {}/31 dev {device}\nlink set dev {device} up\n", end.address);
        if *device != wire.name {
            let _ = writeln!(text, "link property add dev {device} altname {}", wire.name);
        }
        if end.address == wire.to.address {
            let _ = writeln!(text, "route add default via {} dev {device} proto 119", wire.from.address);
        }
        text
    };
    let (host, hub) = (settle(&wires[0], &wires[0].from), settle(&wires[0], &wires[0].to));
    let hub = wires[1..].iter().fold(hub, |text, wire| text + &settle(wire, &wire.from));

    let mut script = String::from("set -e\nip -batch create\nip -batch host\n");
    fs::write(format!("{WORK}/create"), create)?;
    fs::write(format!("{WORK}/host"), host)?;
    for (node, text) in std::iter::once((HUB.to_string(), hub))
        .chain(wires[1..].iter().zip(1..).map(|(wire, i)| (leaf_name(i), settle(wire, &wire.to))))
    {
        let _ = writeln!(script, "ip -n {node} -batch {node}");
        fs::write(format!("{WORK}/{node}"), text)?;
    }
    fs::write(format!("{WORK}/batch.sh"), script)
}

/// The same wires as people write them by hand: born on the host, moved, renamed, a command a step. No altname, no MTU.
fn write_script(n: usize) -> io::Result<()> {
    let mut script = String::from("set -e\n");
    for (i, Wire { from, to, .. }) in wires(n).iter().enumerate() {
        let peer = format!("tmp-{i}");
        let _ = writeln!(script, "ip link add name {} type veth peer name {peer}", from.device);
        for (end, born) in [(from, &from.device), (to, &peer)] {
            let mut inside = String::new();
            if let Some(node) = &end.node {
                inside = format!("ip netns exec {node} ");
                let _ = writeln!(script, "ip link set dev {born} netns {node}");
            }
            if *born != end.device {
                let _ = writeln!(script, "{inside}ip link set dev {born} name {}", end.device);
            }
            let _ = writeln!(script, "{inside}ip addr add {}/31 dev {}", end.address, end.device);
            let _ = writeln!(script, "{inside}ip link set dev {} up", end.device);
        }
        let node = to.node.as_deref().unwrap_or_default();
        let _ = writeln!(script, "ip netns exec {node} ip route add default via {}", from.address);
    }
    fs::write(format!("{WORK}/script.sh"), script)
}

// ---------------------------------------------------------------------------------------------------------------------
// The pretend host

/// Own network and mount namespaces with a tmpfs on /run: nothing of the real host is touched, and all dies with us.
struct PretendHost {
    host: File,
    hub: File,
    leaves: Vec<File>,
}

impl PretendHost {
    fn enter() -> Result<PretendHost> {
        let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
        let own = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
        match unshare(own) {
            Err(Errno::EPERM) => {
                unshare(own | CloneFlags::CLONE_NEWUSER)
                    .map_err(|e| format!("neither root nor a user namespace to be had: {e}"))?;
                fs::write("/proc/self/setgroups", "deny")?;
                fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
                fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
            }
            outcome => outcome?,
        }
        let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
        mount(none, "/", none, private, none)?;
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
        fs::create_dir(WORK)?;
        fs::create_dir("/run/netns")?;

        let host = File::open("/proc/self/ns/net")?;
        let uplink = Namespace::make("uplink", &host)?;
        let hub = Namespace::make(HUB, &host)?;
        // The index is one that no kernel gives out by itself, however many devices it puts into a new namespace.
        const UPLINK: u32 = 500;
        // An uplink for the topology to name. It leads nowhere, and a veth is there where dummy devices are not.
        let mut batch = Batch::default();
        batch.pair(UPLINK, ("eth0", &host), ("eth0", &uplink));
        batch.message(RTM_NEWLINK, 0).link(1, true).end();
        batch.message(RTM_NEWLINK, 0).link(UPLINK, true).end();
        route_socket()?.carry_out(&batch)?;
        Ok(PretendHost { host, hub, leaves: Vec::new() })
    }

    /// Makes the leaves that are not there yet.
    fn grow(&mut self, n: usize) -> Result<()> {
        for i in self.leaves.len() + 1..=n {
            self.leaves.push(Namespace::make(&leaf_name(i), &self.host)?);
        }
        Ok(())
    }

    /// A socket that speaks for another namespace: it stays in the one it was made in.
    fn socket_in(&self, place: &File) -> Result<Socket> {
        setns(place, CloneFlags::CLONE_NEWNET)?;
        let socket = route_socket();
        setns(&self.host, CloneFlags::CLONE_NEWNET)?;
        socket
    }

    /// Leaves enough to trust the rest: the first, one in the middle, the last.
    fn samples(&self) -> [&File; 3] {
        [&self.leaves[0], &self.leaves[self.leaves.len() / 2], &self.leaves[self.leaves.len() - 1]]
    }

    /// Did a variant do the work? Every hub end is up, and the hub and some leaves have their default routes.
    fn expect_wired(&self) -> Result<()> {
        let mut hub = self.socket_in(&self.hub)?;
        let up = hub.veths()?.iter().filter(|link| link.up).count();
        if up != self.leaves.len() + 1 {
            return Err(format!("{up} of {} wires are up in the hub", self.leaves.len() + 1).into());
        }
        if !hub.has_default_route()? {
            return Err("the hub has no default route".into());
        }
        for leaf in self.samples() {
            let mut leaf = self.socket_in(leaf)?;
            if !leaf.has_default_route()? || !leaf.veths()?.iter().all(|link| link.up) {
                return Err("a leaf has no default route, or its device is down".into());
            }
        }
        Ok(())
    }

    fn expect_bare(&self) -> Result<()> {
        let left = self.socket_in(&self.hub)?.veths()?.len() + self.socket_in(&self.host)?.veths()?.len() - 1;
        if left != 0 {
            return Err(format!("{left} devices are left in the hub and on the host").into());
        }
        for leaf in self.samples() {
            if !self.socket_in(leaf)?.veths()?.is_empty() {
                return Err("a leaf still has its device".into());
            }
        }
        Ok(())
    }

    /// Removes all wires, whoever laid them, in one go: all have an end in the hub.
    fn clear(&self) -> Result<()> {
        const DOOMED: u32 = 0x0bad_cab1;
        let mut hub = self.socket_in(&self.hub)?;
        let mut batch = Batch::default();
        for link in hub.veths()? {
            batch.message(RTM_SETLINK, 0).link(link.index, link.up);
            batch.u32(IFLA_GROUP, DOOMED).end();
        }
        batch.message(RTM_DELLINK, 0).link(0, false);
        batch.u32(IFLA_GROUP, DOOMED).end();
        hub.carry_out(&batch)?;
        self.expect_bare()?;
        self.settle();
        Ok(())
    }

    /// The kernel frees devices after the call that removed them; the next variant should not pay for that.
    fn settle(&self) {
        sleep(Duration::from_micros(20_000 + 200 * self.leaves.len() as u64));
    }
}

struct Namespace;

impl Namespace {
    /// Makes a named namespace as `ip netns add` does, its loopback up.
    fn make(name: &str, host: &File) -> Result<File> {
        let path = format!("/run/netns/{name}");
        File::create(&path)?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(Some("/proc/self/ns/net"), path.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        let mut batch = Batch::default();
        batch.message(RTM_NEWLINK, 0).link(1, true).end();
        route_socket()?.carry_out(&batch)?;
        setns(host, CloneFlags::CLONE_NEWNET)?;
        Ok(File::open(&path)?)
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Measuring

/// The rows of the table. The order is the order within a round.
#[derive(Clone, Copy, PartialEq)]
enum Row {
    Up,
    Again,
    Audit,
    Down,
    Batch,
    Script,
    Floor,
}

const ROWS: [(Row, &str); 7] = [
    (Row::Up, "wire up"),
    (Row::Again, "wire up, again"),
    (Row::Audit, "wire audit"),
    (Row::Down, "wire down"),
    (Row::Batch, "ip -batch"),
    (Row::Script, "shell script"),
    (Row::Floor, "floor (bare netlink)"),
];

/// One process from before its start to after its end.
struct Run {
    milliseconds: f64,
    peak_kib: i64,
}

/// All rounds with N leaves.
struct Column {
    n: usize,
    /// For each row its runs, one a round; none for what was not run.
    runs: [Vec<Run>; 7],
}

impl Column {
    fn runs(&self, row: Row) -> &[Run] {
        &self.runs[row as usize]
    }

    fn times(&self, row: Row) -> Vec<f64> {
        self.runs(row).iter().map(|run| run.milliseconds).collect()
    }

    /// The median of the ratios within each round, so that a slow minute of the machine counts for both sides.
    fn ratio(&self, of: Row, to: Row) -> Option<f64> {
        median(self.times(of).iter().zip(self.times(to)).map(|(a, b)| a / b).collect())
    }

    fn per_wire(&self, row: Row) -> Option<f64> {
        median(self.times(row)).map(|ms| ms / (self.n + 1) as f64)
    }

    fn peak_mib(&self, row: Row) -> Option<f64> {
        self.runs(row).iter().map(|run| run.peak_kib).max().map(|kib| kib as f64 / 1024.0)
    }
}

fn measure(pretend: &PretendHost, n: usize, options: &Options, with_wire: bool) -> Result<Column> {
    let file = format!("{WORK}/topology.toml");
    fs::write(&file, topology(n))?;
    write_batches(n)?;
    write_script(n)?;

    let this = std::env::current_exe()?;
    let command = |row: Row| {
        let (program, arguments): (&Path, &[&str]) = match row {
            Row::Up | Row::Again => (&options.wire, &["-f", &file, "up"]),
            Row::Audit => (&options.wire, &["-f", &file, "audit"]),
            Row::Down => (&options.wire, &["-f", &file, "down"]),
            Row::Batch => (Path::new("sh"), &["batch.sh"]),
            Row::Script => (Path::new("sh"), &["script.sh"]),
            Row::Floor => (&this, &["floor", &n.to_string()]),
        };
        let mut command = Command::new(program);
        command.args(arguments).env_remove("WIRE_TOPOLOGY").current_dir(WORK);
        command
    };

    // Namespaces number each other on first contact, and it stays so: nobody's first round should pay for that.
    run(command(Row::Floor)).and_then(|_| pretend.expect_wired()).map_err(|e| format!("floor, N = {n}: {e}"))?;
    pretend.clear()?;

    let mut column = Column { n, runs: Default::default() };
    let rounds = options.rounds(n);
    for round in 1..=rounds {
        eprintln!("bench: N = {n}, round {round} of {rounds}");
        for (row, name) in ROWS {
            let is_wire = matches!(row, Row::Up | Row::Again | Row::Audit | Row::Down);
            if is_wire && !with_wire || row == Row::Script && !options.runs_script(n) {
                continue;
            }
            let mut one = || -> Result<()> {
                column.runs[row as usize].push(run(command(row))?);
                match row {
                    Row::Up | Row::Again | Row::Audit => pretend.expect_wired()?,
                    Row::Down => {
                        pretend.expect_bare()?;
                        pretend.settle();
                    }
                    Row::Batch | Row::Script | Row::Floor => {
                        pretend.expect_wired()?;
                        pretend.clear()?;
                    }
                }
                Ok(())
            };
            one().map_err(|error| format!("{name}, N = {n}: {error}"))?;
        }
    }
    Ok(column)
}

/// Runs a program to its end; a failure comes back with what it had to say.
fn run(mut command: Command) -> Result<Run> {
    let log = format!("{WORK}/stderr");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
    let start = Instant::now();
    let child = command.spawn().map_err(|e| format!("cannot start {}: {e}", command.get_program().display()))?;
    let (status, peak_kib) = wait(child.id())?;
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    if !status.success() {
        let said = fs::read_to_string(&log)?;
        let head: Vec<&str> = said.lines().take(20).collect();
        return Err(format!("{status}\n{}", head.join("\n")).into());
    }
    Ok(Run { milliseconds, peak_kib })
}

/// Waits for one child, and learns its own peak memory. (What it had of ours before exec counts too: some 3 MiB.)
fn wait(pid: u32) -> io::Result<(ExitStatus, i64)> {
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which zeros are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to locals that outlive the call.
        if unsafe { libc::wait4(pid.cast_signed(), &raw mut status, 0, &raw mut usage) } >= 0 {
            return Ok((ExitStatus::from_raw(status), usage.ru_maxrss));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 0 => Some(f64::midpoint(values[middle - 1], values[middle])),
        _ => Some(values[middle]),
    }
}

/// What can be read off the program itself.
struct Binary {
    bytes: u64,
    is_static: bool,
    is_stripped: bool,
    has_async_runtime: bool,
}

impl Binary {
    fn inspect(path: &Path) -> Result<Binary> {
        const PT_INTERP: u32 = 3;
        const SHT_SYMTAB: u32 = 2;
        // Panic messages name the source they come from, also in a stripped program. (What the dependency tree says is
        // about the package, and another program of it may well need a runtime.)
        const RUNTIMES: [&[u8]; 4] = [b"/tokio-", b"/tokio/src/", b"/async-executor-", b"/async-executor/src/"];
        let mut elf = Vec::new();
        File::open(path)?.read_to_end(&mut elf)?;
        if elf.get(..5) != Some(b"\x7fELF\x02") {
            return Err(format!("{} is not a 64-bit ELF program", path.display()).into());
        }
        let number = |at: usize, len: usize| -> Option<usize> {
            let mut bytes = [0; 8];
            bytes[..len].copy_from_slice(elf.get(at..at + len)?);
            Some(u64::from_ne_bytes(bytes) as usize)
        };
        // A table of the file header: where it starts, the size of an entry, how many there are; and the entries' types.
        let types = |offset: usize, sizes: usize, kind: usize| -> Option<Vec<u32>> {
            let (start, size, count) = (number(offset, 8)?, number(sizes, 2)?, number(sizes + 2, 2)?);
            (0..count).map(|i| number(start + i * size + kind, 4).map(|word| word as u32)).collect()
        };
        let segments = types(32, 54, 0).ok_or("the program headers are cut short")?;
        let sections = types(40, 58, 4).ok_or("the section headers are cut short")?;
        Ok(Binary {
            bytes: elf.len() as u64,
            is_static: !segments.contains(&PT_INTERP),
            is_stripped: !sections.contains(&SHT_SYMTAB),
            has_async_runtime: RUNTIMES.iter().any(|mark| elf.windows(mark.len()).any(|window| window == *mark)),
        })
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The tables

fn print_times(columns: &[Column]) {
    print!("\n{:22}", "ms, median (min-max)");
    for column in columns {
        print!("{:>26}", format!("N = {}", column.n));
    }
    println!();
    for (row, name) in ROWS {
        print!("{name:22}");
        for column in columns {
            let times = column.times(row);
            let low = times.iter().copied().fold(f64::INFINITY, f64::min);
            let high = times.iter().copied().fold(0.0, f64::max);
            let cell = median(times).map(|middle| format!("{} ({}-{})", brief(middle), brief(low), brief(high)));
            print!("{:>26}", cell.unwrap_or_else(|| "-".into()));
        }
        println!();
    }
    print!("{:22}", "wire up, us a wire");
    for column in columns {
        print!("{:>26}", column.per_wire(Row::Up).map_or("-".into(), |ms| format!("{:.0}", ms * 1e3)));
    }
    print!("\n{:22}", "floor, us a wire");
    for column in columns {
        print!("{:>26}", column.per_wire(Row::Floor).map_or("-".into(), |ms| format!("{:.0}", ms * 1e3)));
    }
    println!(
        "\n\nN leaves are N+1 wires. Each figure is a whole process, from before its start to after its end. `ip` cannot set\n\
         sysctls, so its two variants leave IPv6 and the rest at the defaults; the script sets no altname, MTU or group\n\
         either. The shell script is not run above {SCRIPT_LIMIT} leaves unless --slow asks for it: -."
    );
}

/// Three digits that matter, whatever the size.
fn brief(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.2}"),
        ms if ms < 100.0 => format!("{ms:.1}"),
        ms => format!("{ms:.0}"),
    }
}

/// Prints what is wanted beside what was measured; false if something was missed.
fn print_targets(columns: &[Column], binary: Option<&Binary>) -> bool {
    let at = |n: usize| columns.iter().find(move |column| column.n == n);
    let ratio = |n: usize, of: Row, to: Row| at(n).and_then(|column| column.ratio(of, to));
    let growth = at(1000).and_then(|c| c.per_wire(Row::Up)).zip(at(15).and_then(|c| c.per_wire(Row::Up)));
    let peak = |n: usize| at(n).and_then(|column| column.peak_mib(Row::Up));
    // What, measured, the most it may be.
    let figures = [
        ("up / ip -batch, N = 15", ratio(15, Row::Up, Row::Batch), 1.0 / 4.0),
        ("up / ip -batch, N = 100", ratio(100, Row::Up, Row::Batch), 1.0 / 4.0),
        ("up / shell script, N = 15", ratio(15, Row::Up, Row::Script), 1.0 / 50.0),
        ("up / shell script, N = 100", ratio(100, Row::Up, Row::Script), 1.0 / 50.0),
        ("up / floor, N = 1000", ratio(1000, Row::Up, Row::Floor), 1.3),
        ("up again / up, N = 1000", ratio(1000, Row::Again, Row::Up), 1.0 / 6.0),
        ("down / up, N = 1000", ratio(1000, Row::Down, Row::Up), 1.0),
        ("up, a wire at 1000 / at 15", growth.map(|(many, few)| many / few), 1.4),
        ("peak memory of up, MiB, N = 15", peak(15), 8.0),
        ("peak memory of up, MiB, N = 1000", peak(1000), 48.0),
        ("size of the program, MiB", binary.map(|binary| binary.bytes as f64 / f64::from(1 << 20)), 3.0),
    ];
    let facts = [
        ("the program is static", binary.map(|binary| binary.is_static)),
        ("the program is stripped", binary.map(|binary| binary.is_stripped)),
        ("no async runtime is linked", binary.map(|binary| !binary.has_async_runtime)),
    ];

    let verdict = |met: Option<bool>| met.map_or("-", |met| if met { "ok" } else { "MISSED" });
    println!("\n{:34}{:>10}{:>10}", "", "measured", "at most");
    for (what, measured, limit) in figures {
        let shown = measured.map_or("-".into(), |value| format!("{value:.3}"));
        println!("{what:34}{shown:>10}{limit:>10.3}  {}", verdict(measured.map(|value| value <= limit)));
    }
    for (what, met) in facts {
        println!("{what:54}  {}", verdict(met));
    }
    figures.iter().all(|(_, measured, limit)| measured.is_none_or(|value| value <= *limit))
        && facts.iter().all(|(_, met)| met.unwrap_or(true))
}

// ---------------------------------------------------------------------------------------------------------------------
// The floor

/// Makes the kernel objects that `wire up` makes, as fast as one thread can, and looks at nothing.
fn floor(n: Option<&String>) -> Result<()> {
    let wires = wires(n.ok_or("floor needs N")?.parse()?);
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;

    let host = File::open("/proc/self/ns/net")?;
    let hub = File::open(format!("/run/netns/{HUB}"))?;
    let leaves =
        (1..wires.len()).map(|i| File::open(format!("/run/netns/{}", leaf_name(i)))).collect::<io::Result<Vec<_>>>()?;

    // Explicit indexes, so that all later messages can be written without asking the kernel.
    let ends: Vec<(u32, &Wire)> = (1000..).zip(&wires).collect();

    let mut batch = Batch::default();
    for ((index, wire), leaf) in ends.iter().zip(std::iter::once(&hub).chain(&leaves)) {
        let from = if *index == 1000 { &host } else { &hub };
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

// ---------------------------------------------------------------------------------------------------------------------
// Bare netlink

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
/// To be made, and not to be there yet.
const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWLINKPROP: u16 = 108;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET_CONF: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_PROTO: u16 = 11;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
/// The main routing table.
const MAIN: u8 = 254;
const AF_INET: u8 = libc::AF_INET as u8;
const RTN_UNICAST: u8 = 1;
/// Who made an address or a route: any number that nobody else uses.
const PROTOCOL: u8 = 119;
const GROUP: u32 = 119;

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

/// One end of a pair at its birth: its device's name and its namespace.
type Birth<'a> = (&'a str, &'a File);

/// Messages for one socket, one after the other.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Where each message starts, for a socket to send as many at a time as it can.
    starts: Vec<usize>,
    /// Where each attribute that is still open starts.
    open: Vec<usize>,
}

impl Batch {
    fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
    }

    /// Opens a message; what follows up to `end` is its body.
    fn message(&mut self, kind: u16, flags: u16) -> &mut Batch {
        self.starts.push(self.bytes.len());
        self.bytes(&[0; 4]).bytes(&kind.to_ne_bytes()).bytes(&(NLM_F_REQUEST | flags).to_ne_bytes()).bytes(&[0; 8])
    }

    fn end(&mut self) {
        if let Some(&start) = self.starts.last() {
            let length = (self.bytes.len() - start) as u32;
            self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Batch {
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn link(&mut self, index: u32, up: bool) -> &mut Batch {
        let up = u32::from(up) * libc::IFF_UP as u32;
        self.bytes(&[0; 4]).bytes(&index.to_ne_bytes()).bytes(&up.to_ne_bytes()).bytes(&up.to_ne_bytes())
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Batch {
        self.nest(kind).bytes(value).close()
    }

    fn text(&mut self, kind: u16, value: &str) -> &mut Batch {
        self.nest(kind).bytes(value.as_bytes()).bytes(&[0]).close()
    }

    fn u32(&mut self, kind: u16, value: u32) -> &mut Batch {
        self.attribute(kind, &value.to_ne_bytes())
    }

    fn nest(&mut self, kind: u16) -> &mut Batch {
        self.open.push(self.bytes.len());
        self.bytes(&[0; 2]).bytes(&kind.to_ne_bytes())
    }

    /// Ends the attribute opened last: its length, and padding up to the next multiple of four.
    fn close(&mut self) -> &mut Batch {
        if let Some(start) = self.open.pop() {
            let length = (self.bytes.len() - start) as u16;
            self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
            self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        }
        self
    }

    /// A veth pair born with both ends in their places, under the same index in both.
    fn pair(&mut self, index: u32, outer: Birth<'_>, peer: Birth<'_>) {
        self.message(RTM_NEWLINK, NEW).birth(index, outer, 2);
        self.nest(IFLA_LINKINFO).text(IFLA_INFO_KIND, "veth");
        self.nest(IFLA_INFO_DATA).nest(VETH_INFO_PEER).birth(index, peer, 6);
        self.close().close().close().end();
    }

    /// One end of a pair; the first byte of its address tells it from the other.
    fn birth(&mut self, index: u32, (device, place): Birth<'_>, first: u8) {
        let [a, b, c, d] = index.to_be_bytes();
        self.link(index, false).text(IFLA_IFNAME, device);
        self.u32(IFLA_NET_NS_FD, place.as_raw_fd() as u32);
        self.attribute(IFLA_ADDRESS, &[first, 119, a, b, c, d]);
        self.u32(IFLA_MTU, 1500).u32(IFLA_GROUP, GROUP);
        self.u32(IFLA_NUM_TX_QUEUES, 1).u32(IFLA_NUM_RX_QUEUES, 1);
    }
}

struct Socket {
    fd: OwnedFd,
}

fn route_socket() -> Result<Socket> {
    let kind = (AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute);
    Ok(Socket { fd: socket(kind.0, kind.1, kind.2, kind.3)? })
}

struct Link {
    index: u32,
    up: bool,
}

impl Socket {
    /// Sends a batch. The kernel handles it inside the call, and without asking for replies only errors come back.
    fn carry_out(&mut self, batch: &Batch) -> Result<()> {
        // A socket takes about 200 kB at once, and raising that is not for everybody.
        const AT_ONCE: usize = 128 << 10;
        let mut from = 0;
        while from < batch.bytes.len() {
            let after = batch.starts.partition_point(|start| *start <= from + AT_ONCE);
            let to = match batch.starts.get(after) {
                Some(_) => batch.starts[after - 1],
                None => batch.bytes.len(),
            };
            send(self.fd.as_raw_fd(), &batch.bytes[from..to], MsgFlags::empty())?;
            let mut buffer = [0; 4096];
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => {
                    let code = i32::from_ne_bytes(buffer[16..20].try_into()?);
                    let kind = u16::from_ne_bytes(buffer[24..26].try_into()?);
                    return Err(format!("the kernel refused message {kind}: {}", Errno::from_raw(-code)).into());
                }
            }
            from = to;
        }
        Ok(())
    }

    /// Asks for a list, and hands over each message of it without its header.
    fn dump(&mut self, request: &Batch, mut each: impl FnMut(&[u8])) -> Result<()> {
        send(self.fd.as_raw_fd(), &request.bytes, MsgFlags::empty())?;
        let mut buffer = vec![0; 32 << 10];
        loop {
            let length = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..length];
            while rest.len() >= 16 {
                let length = u32::from_ne_bytes(rest[..4].try_into()?) as usize;
                match u16::from_ne_bytes(rest[4..6].try_into()?) {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return Err("the kernel refused to list".into()),
                    _ => each(&rest[16..length]),
                }
                rest = &rest[length.next_multiple_of(4).min(rest.len())..];
            }
        }
    }

    /// The wires' ends here; what else a kernel puts into each namespace (tunl0, sit0) is none of ours.
    fn veths(&mut self) -> Result<Vec<Link>> {
        let mut request = Batch::default();
        request.message(RTM_GETLINK, NLM_F_DUMP).link(0, false).end();
        let mut links = Vec::new();
        self.dump(&request, |message| {
            let (Some(index), Some(flags)) = (word(message, 4), word(message, 8)) else {
                return;
            };
            // The link's kind; nothing else in the message reads like it.
            if message.windows(5).any(|window| window == b"veth\0") {
                links.push(Link { index, up: flags & libc::IFF_UP as u32 != 0 });
            }
        })?;
        Ok(links)
    }

    fn has_default_route(&mut self) -> Result<bool> {
        let mut request = Batch::default();
        request.message(RTM_GETROUTE, NLM_F_DUMP).bytes(&[AF_INET, 0, 0, 0]).bytes(&[0; 8]).end();
        let mut found = false;
        self.dump(&request, |route| found |= route[1] == 0 && route[4] == MAIN)?;
        Ok(found)
    }
}

/// A 32-bit number of a message.
fn word(message: &[u8], at: usize) -> Option<u32> {
    message.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}
