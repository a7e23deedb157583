//! Times `wire` against the other ways to lay the same wires and rules, in throw-away namespaces, and prints tables for people.
//!
//! Run it by `scripts/bench`. It is an observer: nothing here is shared with `wire`, which is started as any user would.
//! A house as somebody has it, and one hub with N leaves, a wire from the hub to each leaf and one from the host to the hub,
//! with the rules of all, laid by
//!
//! - `wire up`, a whole process from start to end, its read-back included;
//! - `ip -batch`, one batch for all pairs and one for each namespace, and then `nft -f`, one for each namespace;
//! - a shell script, one `ip` command a step, and `nft -f`;
//! - the floor, this program started as `bench floor N`: bare netlink, the same kernel objects, no checks, no read-back.
//!
//! Then how soon `wire watch` mends the house, `measure/life.rs`, what `wire hook` adds to a container's start and end,
//! `measure/hook.rs`, what passes over the wires: `measure/traffic.rs`, and the proxy of a hub: `measure/proxy.rs`.

// `wait4` is the only way to learn the peak memory of one child, and neither std nor nix has it.
#![expect(
    unsafe_code,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program of its own: bare netlink, and a table for people"
)]

mod measure {
    pub mod floor;
    pub mod hook;
    pub mod host;
    pub mod life;
    pub mod netlink;
    pub mod proxy;
    pub mod rules;
    pub mod traffic;
    pub mod tunnel;
    pub mod wiring;
}

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Instant;

use measure::hook::{self, Hooked};
use measure::host::{Lab, PretendHost};
use measure::life::{self, Life};
use measure::proxy::{LOADS, Proxied};
use measure::rules::{BACK, CHANGE, NEW};
use measure::traffic::{self, BRIDGED, FILTERED, PUBLISHED, Traffic, wired};
use measure::wiring::{self, CHANGED, TOPOLOGY, Wiring};
use measure::{floor, proxy, rules, tunnel};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "\
usage: scripts/bench [--only house,life,hook,stars,traffic,tunnel,proxy] [--n 15,100,1000] [--repeat R] [--slow] [--strict]
                     [--wire PATH] [--hub PATH]

  --only LIST   parts of it: the house of topology/pluto.toml, how soon it is mended there and what a watch costs in a quiet
                minute, N leaves around a hub, what passes over the wires and through the VPN in user
                space, the proxy of a hub beside nginx and Caddy
  --n LIST      how many leaves, each a column (default 15,100,1000; 5000 takes its time)
  --repeat R    rounds for each column (default 15, from 100 leaves on 5, from 1000 on 3), and for the traffic (300)
  --slow        the shell script above 100 leaves too: a minute or more for each round
  --strict      exit 1 if a wanted figure is missed
  --wire PATH   the `wire` to measure (default: the release build beside this program)
  --hub PATH    the `wire-hub` to measure (default: the one beside `wire`)";

/// Where this program keeps its files while it runs, on a tmpfs of its own.
const WORK: &str = "/run/bench";
/// The script is not run above this many leaves unless asked: it takes 50 ms a wire and more.
const SCRIPT_LIMIT: usize = 100;
/// The house that is measured as a whole.
const HOUSE: &str = "pluto";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.first().map(String::as_str) {
        Some("floor") => floor::floor(args.get(1)).map(|()| true),
        Some("nft") => rules::nft(args.get(1), args.get(2)).map(|()| true),
        Some("listen") => traffic::listen(args.get(1)).map(|()| true),
        Some("tunnel-end") => tunnel::end(args.get(1)).map(|()| true),
        Some("talk") => traffic::talk(args.get(1), args.get(2)).map(|()| true),
        _ if args.iter().any(|arg| arg == "--help" || arg == "-h") => {
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
    let binary = Binary::inspect(&options.wire).map_err(|e| format!("{}: {e}", options.wire.display()))?;
    let house = Path::new("topology/pluto.toml").canonicalize();

    let mut columns = Vec::new();
    let mut life = None;
    if options.runs("house") || options.runs("life") {
        // A host of its own: `wire` looks into every namespace that it finds.
        let mut pretend = PretendHost::enter()?;
        let mut wiring = wiring::house(HOUSE, &house?, &options.wire)?;
        pretend.grow(&wiring.nodes)?;
        let once = |verb| run(wire(&options, verb, TOPOLOGY)).map_err(|e| format!("{HOUSE}: {e}"));
        once("up")?;
        wiring.wires = wiring::recorded(&options.wire)?;
        once("down")?;
        if options.runs("house") {
            columns.push(measure(&pretend, &wiring, &options)?);
        }
        if options.runs("life") {
            life = Some(live(&pretend, &wiring, &options)?);
        }
    }
    let hooked = match options.runs("hook") {
        true => Some(hook::measure(&mut PretendHost::enter()?, &options)?),
        false => None,
    };
    let mut pretend = PretendHost::enter()?;
    for &n in options.sizes.iter().filter(|_| options.runs("stars")) {
        let wiring = wiring::star(n);
        pretend.grow(&wiring.nodes)?;
        columns.push(measure(&pretend, &wiring, &options)?);
    }
    let traffic = if options.runs("traffic") { Some(traffic::measure(&mut pretend, &options)?) } else { None };
    let tunnel = match options.runs("tunnel") {
        true => Some(tunnel::measure(&mut PretendHost::enter()?, &options)?),
        false => None,
    };
    let proxied = if options.runs("proxy") { proxy::measure(&PretendHost::enter()?, &options)? } else { Vec::new() };

    if !columns.is_empty() {
        print_times(&columns);
    }
    life.iter().for_each(print_life);
    hooked.iter().for_each(|hooked| print_spans("added by wire hook", hooked));
    traffic.iter().for_each(print_traffic);
    tunnel.iter().for_each(print_tunnel);
    print_proxied(&proxied);
    let met = print_targets(&columns, life.as_ref(), hooked.as_ref(), traffic.as_ref(), &proxied, &binary);
    Ok(met || !options.strict)
}

struct Options {
    only: Vec<String>,
    sizes: Vec<usize>,
    repeat: Option<usize>,
    slow: bool,
    strict: bool,
    wire: PathBuf,
    hub: PathBuf,
}

impl Options {
    fn parse(args: &[String]) -> Result<Options> {
        let beside = std::env::current_exe()?.with_file_name("../wire");
        let mut options = Options {
            only: Vec::new(),
            sizes: vec![15, 100, 1000],
            repeat: None,
            slow: false,
            strict: false,
            wire: beside,
            hub: PathBuf::new(),
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value\n{USAGE}"));
            match arg.as_str() {
                "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
                "--n" => options.sizes = value()?.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?,
                "--repeat" => options.repeat = Some(value()?.parse()?),
                "--slow" => options.slow = true,
                "--strict" => options.strict = true,
                "--wire" => options.wire = PathBuf::from(value()?),
                "--hub" => options.hub = PathBuf::from(value()?).canonicalize()?,
                _ => return Err(format!("unknown argument {arg}\n{USAGE}").into()),
            }
        }
        // Ascending, as the pretend host only grows, and so does what a child inherits of our peak memory.
        options.sizes.sort_unstable();
        options.sizes.dedup();
        let sane = options.sizes.iter().all(|n| (1..=9999).contains(n)) && options.repeat != Some(0);
        // A path that does not exist stays as it is, to be named as the user wrote it.
        options.wire = options.wire.canonicalize().unwrap_or(options.wire);
        if options.hub.as_os_str().is_empty() {
            options.hub = options.wire.with_file_name("wire-hub");
        }
        if let Some(part) = options
            .only
            .iter()
            .find(|part| !["house", "life", "hook", "stars", "traffic", "tunnel", "proxy"].contains(&part.as_str()))
        {
            return Err(format!("there is no part {part}\n{USAGE}").into());
        }
        if sane { Ok(options) } else { Err("1 to 9999 leaves, and at least one round".into()) }
    }

    fn runs(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }

    fn rounds(&self, wiring: &Wiring) -> usize {
        let leaves = wiring.nodes.len() - 1;
        self.repeat.unwrap_or(match leaves {
            ..100 => 15,
            100..1000 => 5,
            1000.. => 3,
        })
    }

    fn tunnel_rounds(&self) -> usize {
        self.repeat.unwrap_or(100)
    }

    fn traffic_rounds(&self) -> usize {
        self.repeat.unwrap_or(300)
    }

    /// Whether a row is measured for a wiring: the house has no floor, and nobody has time for the script.
    fn runs_row(&self, row: Row, wiring: &Wiring) -> bool {
        match row {
            Row::Floor => wiring.title != HOUSE,
            Row::Script => self.slow || wiring.nodes.len() <= SCRIPT_LIMIT + 1,
            _ => true,
        }
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
    Sequence,
    Parallel,
    RulesFloor,
    Rules,
    ChangeSequence,
    ChangeParallel,
    Change,
    Down,
    Batch,
    Script,
    Floor,
}

const ROWS: [(Row, &str); 14] = [
    (Row::Up, "wire up"),
    (Row::Again, "wire up, again"),
    (Row::Audit, "wire audit"),
    (Row::Sequence, "rules: nft -f in turn"),
    (Row::Parallel, "rules: nft -f at once"),
    (Row::RulesFloor, "rules: floor"),
    (Row::Rules, "rules: wire up"),
    (Row::ChangeSequence, "change: nft -f in turn"),
    (Row::ChangeParallel, "change: nft -f at once"),
    (Row::Change, "change: wire up"),
    (Row::Down, "wire down"),
    (Row::Batch, "ip -batch, nft -f"),
    (Row::Script, "shell script, nft -f"),
    (Row::Floor, "floor (bare netlink)"),
];

/// One process from before its start to after its end.
struct Run {
    milliseconds: f64,
    /// Of processors, its children's included.
    busy: f64,
    peak_kib: i64,
}

/// All rounds with one wiring.
struct Column {
    title: String,
    wires: usize,
    /// For each row its runs, one a round; none for what was not run.
    runs: [Vec<Run>; ROWS.len()],
}

impl Column {
    fn runs(&self, row: Row) -> &[Run] {
        &self.runs[row as usize]
    }

    /// Milliseconds of processors.
    fn busy(&self, row: Row) -> Option<f64> {
        median(self.runs(row).iter().map(|run| run.busy).collect())
    }

    fn times(&self, row: Row) -> Vec<f64> {
        self.runs(row).iter().map(|run| run.milliseconds).collect()
    }

    /// The median of the ratios within each round, so that a slow minute of the machine counts for both sides.
    fn ratio(&self, of: Row, to: Row) -> Option<f64> {
        median(self.times(of).iter().zip(self.times(to)).map(|(a, b)| a / b).collect())
    }

    /// The same of what processors had to do, which a busy machine changes less.
    fn busy_ratio(&self, of: Row, to: Row) -> Option<f64> {
        median(self.runs(of).iter().zip(self.runs(to)).map(|(a, b)| a.busy / b.busy).collect())
    }

    fn per_wire(&self, row: Row) -> Option<f64> {
        median(self.times(row)).map(|ms| ms / self.wires as f64)
    }

    fn peak_mib(&self, row: Row) -> Option<f64> {
        self.runs(row).iter().map(|run| run.peak_kib).max().map(|kib| kib as f64 / 1024.0)
    }
}

fn wire(options: &Options, verb: &str, file: &str) -> Command {
    let mut command = Command::new(&options.wire);
    command.args(["-f", file, verb]).env_remove("WIRE_TOPOLOGY").current_dir(WORK);
    command
}

fn measure(pretend: &PretendHost, wiring: &Wiring, options: &Options) -> Result<Column> {
    let title = &wiring.title;
    wiring::write_files(wiring, &options.wire)?;
    wiring::write_batches(wiring)?;
    wiring::write_script(wiring)?;

    let this = std::env::current_exe()?;
    let leaves = (wiring.nodes.len() - 1).to_string();
    let processors = std::thread::available_parallelism()?.to_string();
    let command = |row: Row| {
        let (program, arguments): (&Path, &[&str]) = match row {
            Row::Up | Row::Again | Row::Rules => return wire(options, "up", TOPOLOGY),
            Row::Change => return wire(options, "up", CHANGED),
            Row::Audit => return wire(options, "audit", TOPOLOGY),
            Row::Down => return wire(options, "down", TOPOLOGY),
            Row::Sequence => (&this, &["nft", "1", NEW]),
            Row::Parallel => (&this, &["nft", &processors, NEW]),
            Row::ChangeSequence => (&this, &["nft", "1", CHANGE]),
            Row::ChangeParallel => (&this, &["nft", &processors, BACK]),
            Row::Batch => (Path::new("sh"), &["batch.sh"]),
            Row::Script => (Path::new("sh"), &["script.sh"]),
            Row::RulesFloor => (&this, &["floor", "rules"]),
            Row::Floor => (&this, &["floor", &leaves]),
        };
        let mut command = Command::new(program);
        command.args(arguments).current_dir(WORK);
        command
    };

    // Namespaces number each other on first contact, and it stays so: nobody's first round should pay for that. And what is
    // in the kernel then is what the others have to come to.
    let mut lab = Lab { pretend, wiring, rules: BTreeMap::new() };
    let mut first = || -> Result<()> {
        run(command(Row::Up))?;
        lab.rules = lab.count_rules()?;
        lab.expect_wired()?;
        floor::write_tables(&lab)?;
        run(command(Row::Down))?;
        lab.expect_bare()
    };
    first().map_err(|e| format!("the first `wire up`, {title}: {e}"))?;

    let mut column = Column { title: title.clone(), wires: wiring.wires.len(), runs: Default::default() };
    let rounds = options.rounds(wiring);
    for round in 1..=rounds {
        eprintln!("bench: {title}, round {round} of {rounds}");
        for (row, name) in ROWS.into_iter().filter(|(row, _)| options.runs_row(*row, wiring)) {
            let mut one = || -> Result<()> {
                if matches!(row, Row::Sequence | Row::Parallel | Row::RulesFloor | Row::Rules) {
                    lab.clear_rules()?;
                }
                column.runs[row as usize].push(run(command(row))?);
                match row {
                    Row::Down => {
                        lab.expect_bare()?;
                        pretend.settle();
                        Ok(())
                    }
                    Row::Change => {
                        lab.expect_wired()?;
                        run(command(Row::Again))?;
                        lab.expect_wired()
                    }
                    Row::Batch | Row::Script | Row::Floor => {
                        lab.expect_wired()?;
                        lab.clear()
                    }
                    _ => lab.expect_wired(),
                }
            };
            one().map_err(|error| format!("{name}, {title}: {error}"))?;
        }
    }
    Ok(column)
}

/// What `wire watch` does with a house.
fn live(pretend: &PretendHost, wiring: &Wiring, options: &Options) -> Result<Life> {
    eprintln!("bench: {}, wire watch", wiring.title);
    wiring::write_files(wiring, &options.wire)?;
    let mut lab = Lab { pretend, wiring, rules: BTreeMap::new() };
    run(wire(options, "up", TOPOLOGY))?;
    lab.rules = lab.count_rules()?;
    let life = life::measure(&lab, options, options.repeat.unwrap_or(15))?;
    run(wire(options, "down", TOPOLOGY))?;
    lab.expect_bare()?;
    Ok(life)
}

/// Runs a program to its end; a failure comes back with what it had to say.
fn run(mut command: Command) -> Result<Run> {
    let log = format!("{WORK}/stderr");
    let said = File::create(&log)?;
    command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
    let start = Instant::now();
    let child = command.spawn().map_err(|e| format!("cannot start {}: {e}", command.get_program().display()))?;
    let (status, usage) = wait(child.id())?;
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    if !status.success() {
        let said = fs::read_to_string(&log)?;
        let head: Vec<&str> = said.lines().take(20).collect();
        return Err(format!("{status}\n{}", head.join("\n")).into());
    }
    let spent = |time: libc::timeval| time.tv_sec as f64 * 1e3 + time.tv_usec as f64 / 1e3;
    let busy = spent(usage.ru_utime) + spent(usage.ru_stime);
    // What it had of ours before exec counts too: some 3 MiB.
    Ok(Run { milliseconds, busy, peak_kib: usage.ru_maxrss })
}

/// Waits for one child, and learns what it used.
fn wait(pid: u32) -> io::Result<(ExitStatus, libc::rusage)> {
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which zeros are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to locals that outlive the call.
        if unsafe { libc::wait4(pid.cast_signed(), &raw mut status, 0, &raw mut usage) } >= 0 {
            return Ok((ExitStatus::from_raw(status), usage));
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
    let line = |what: &str, cell: &dyn Fn(&Column) -> Option<String>| {
        print!("{what:22}");
        columns.iter().for_each(|column| print!("{:>26}", cell(column).unwrap_or_else(|| "-".into())));
        println!();
    };
    println!();
    line("ms, median (min-max)", &|column| Some(column.title.clone()));
    for (row, name) in ROWS {
        line(name, &|column| {
            let times = column.times(row);
            let low = times.iter().copied().fold(f64::INFINITY, f64::min);
            let high = times.iter().copied().fold(0.0, f64::max);
            median(times).map(|middle| format!("{} ({}-{})", brief(middle), brief(low), brief(high)))
        });
    }
    for (row, name) in [(Row::Up, "wire up, us a wire"), (Row::Floor, "floor, us a wire")] {
        line(name, &|column| column.per_wire(row).map(|ms| format!("{:.0}", ms * 1e3)));
    }
    println!("\nms of processors, median");
    for (row, name) in ROWS {
        line(name, &|column| column.busy(row).map(brief));
    }
    println!(
        "\nN leaves are N+1 wires, and {HOUSE} is topology/pluto.toml. Each figure is a whole process with its children, from\n\
         before its start to after its end. \"rules\" finds the wires there and no table; \"change\" finds all tables there, and\n\
         a port is another one in each, for `nft` by a file that takes the whole table's place. `nft` gets the text of\n\
         `wire render nft` and starts in its namespace; at once means as many as there are processors. `ip` cannot set\n\
         sysctls, so its two variants leave IPv6, forwarding and the rest at the defaults; the script sets no altname, MTU or\n\
         group either. The shell script is not run above {SCRIPT_LIMIT} leaves unless --slow asks for it: -."
    );
}

/// Something that happened, and how long it took each time.
fn print_spans(title: &str, spans: &[(&str, Vec<f64>)]) {
    println!("\n{title:34}{:>26}", "ms, median (min-max)");
    for (what, times) in spans {
        let low = times.iter().copied().fold(f64::INFINITY, f64::min);
        let high = times.iter().copied().fold(0.0, f64::max);
        let middle = median(times.clone()).map_or("-".into(), brief);
        println!("{what:34}{:>26}", format!("{middle} ({}-{})", brief(low), brief(high)));
    }
}

fn print_life(life: &Life) {
    print_spans("mended by wire watch", &life.mends);
    let idle = &life.idle;
    println!(
        "\n{} s in which nothing happened: {} ms of processors, woken {} times; {} KiB resident, {} descriptors.\n\
         From just before it is broken until the kernel has it back, in {HOUSE}.",
        idle.seconds,
        brief(idle.busy_milliseconds),
        idle.wakes,
        idle.resident_kib,
        idle.descriptors
    );
}

fn print_traffic(traffic: &Traffic) {
    println!("\n{:34}{:>10}{:>16}", "leaf to hub, median", "Gbit/s", "there and back");
    for pair in &traffic.pairs {
        let gigabits = pair.gigabits().map_or("-".into(), |value| format!("{value:.2}"));
        let message = pair.microseconds().map_or("-".into(), |value| format!("{value:.2} us"));
        println!("{:34}{gigabits:>10}{message:>16}", pair.name);
    }
    println!(
        "\nTCP, one connection in bulk and one for messages of 64 bytes. The bridge is podman's default network with netavark's\n\
         rules, and nothing in the containers but their addresses. Without br_netfilter what two containers say to each\n\
         other passes no rule at all."
    );
}

fn print_tunnel(tunnel: &Traffic) {
    let heads = ["Gbit/s there", "of boringtun", "back", "of boringtun", "message"];
    print!("\n{:26}", "VPN client to leaf, median");
    heads.iter().for_each(|head| print!("{head:>14}"));
    println!();
    let shown = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.2}"));
    for pair in &tunnel.pairs {
        let shares = [tunnel.bulk(tunnel::ALONE, &pair.name), tunnel.back(tunnel::ALONE, &pair.name)].map(shown);
        let message = pair.microseconds().map_or("-".into(), |value| format!("{value:.1} us"));
        let [there, back] = [pair.gigabits(), pair.gigabits_back()].map(shown);
        println!("{:26}{there:>14}{:>14}{back:>14}{:>14}{message:>14}", pair.name, shares[0], shares[1]);
    }
}

fn print_proxied(proxied: &[Proxied]) {
    if proxied.is_empty() {
        return;
    }
    print!("\n{:34}", "requests a second (p99, ms)");
    LOADS.iter().for_each(|load| print!("{load:>18}"));
    println!("{:>12}{:>12}", "idle, MiB", "loaded");
    for one in proxied {
        print!("{:34}", one.name);
        for (rates, slowest) in one.rates.iter().zip(&one.slowest) {
            let rate = median(rates.clone()).map_or("-".into(), |rate| format!("{rate:.0}"));
            let slowest = median(slowest.clone()).map_or(String::new(), |ms| format!(" ({})", brief(ms)));
            print!("{:>18}", rate + &slowest);
        }
        println!("{:>12.1}{:>12.1}", one.idle as f64 / 1024.0, one.loaded as f64 / 1024.0);
    }
    println!(
        "\nOne machine for the proxy, its upstream and whoever asks. 64 connections of HTTP/1.1, 16 of HTTP/2 with 10 requests at a\n\
         time; 16 of each with a large body, 4 at a time; 32 that are made anew for every request."
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
fn print_targets(
    columns: &[Column],
    life: Option<&Life>,
    hooked: Option<&Hooked>,
    traffic: Option<&Traffic>,
    proxied: &[Proxied],
    binary: &Binary,
) -> bool {
    let title = |n: usize| format!("N = {n}");
    let at = |title: &str| columns.iter().find(|column| column.title == title);
    let ratio = |title: &str, of: Row, to: Row| at(title).and_then(|column| column.ratio(of, to));
    let busy = |title: &str, of: Row, to: Row| at(title).and_then(|column| column.busy_ratio(of, to));
    let per_wire = |n: usize| at(&title(n)).and_then(|column| column.per_wire(Row::Up));
    let growth = per_wire(1000).zip(per_wire(15)).map(|(many, few)| many / few);
    let peak = |n: usize| at(&title(n)).and_then(|column| column.peak_mib(Row::Up));
    let mend = |place: usize| life.and_then(|life| median(life.mends.get(place)?.1.clone()));
    let hook = |place: usize| hooked.and_then(|hooked| median(hooked.get(place)?.1.clone()));
    let (one, most) = (wired(1), wired(1000));
    let bulk = |of: &str, to: &str| traffic.and_then(|traffic| traffic.bulk(of, to));
    let message = |of: &str, to: &str| traffic.and_then(|traffic| traffic.message(of, to));
    let (hub, others) = (proxied.first(), |place: usize| proxied.get(place));
    let rate = |load: usize, of: usize| proxy::ratio(&others(of)?.rates[load], &hub?.rates[load]);
    let slowest = |load: usize| proxy::ratio(&hub?.slowest[load], &others(1)?.slowest[load]);
    let memory = |what: fn(&Proxied) -> u64| Some(what(hub?) as f64 / what(others(2)?) as f64);
    // What, measured, the most it may be. First what are ratios of two rows.
    let (fifteen, hundred, thousand) = (title(15), title(100), title(1000));
    let rows = [
        ("up / ip -batch, nft -f", HOUSE, Row::Up, Row::Batch, 1.0 / 10.0),
        ("up / ip -batch, nft -f", &fifteen, Row::Up, Row::Batch, 1.0 / 4.0),
        ("up / ip -batch, nft -f", &hundred, Row::Up, Row::Batch, 1.0 / 4.0),
        ("up / shell script, nft -f", &fifteen, Row::Up, Row::Script, 1.0 / 50.0),
        ("up / shell script, nft -f", &hundred, Row::Up, Row::Script, 1.0 / 50.0),
        ("rules: up / nft -f in turn", HOUSE, Row::Rules, Row::Sequence, 1.0 / 10.0),
        ("rules: up / nft -f in turn", &fifteen, Row::Rules, Row::Sequence, 1.0 / 10.0),
        ("rules: up / nft -f in turn", &hundred, Row::Rules, Row::Sequence, 1.0 / 10.0),
        ("rules: up / nft -f in turn", &thousand, Row::Rules, Row::Sequence, 1.0 / 10.0),
        ("rules: up / nft -f at once", HOUSE, Row::Rules, Row::Parallel, 1.0 / 3.0),
        ("rules: up / nft -f at once", &fifteen, Row::Rules, Row::Parallel, 1.0 / 3.0),
        ("rules: up / nft -f at once", &hundred, Row::Rules, Row::Parallel, 1.0 / 3.0),
        ("rules: up / nft -f at once", &thousand, Row::Rules, Row::Parallel, 1.0 / 3.0),
        ("change: up / nft -f in turn", HOUSE, Row::Change, Row::ChangeSequence, 1.0 / 10.0),
        ("change: up / nft -f in turn", &fifteen, Row::Change, Row::ChangeSequence, 1.0 / 10.0),
        ("change: up / nft -f in turn", &hundred, Row::Change, Row::ChangeSequence, 1.0 / 10.0),
        ("change: up / nft -f in turn", &thousand, Row::Change, Row::ChangeSequence, 1.0 / 10.0),
        ("change: up / nft -f at once", HOUSE, Row::Change, Row::ChangeParallel, 1.0 / 3.0),
        ("change: up / nft -f at once", &fifteen, Row::Change, Row::ChangeParallel, 1.0 / 3.0),
        ("change: up / nft -f at once", &hundred, Row::Change, Row::ChangeParallel, 1.0 / 3.0),
        ("change: up / nft -f at once", &thousand, Row::Change, Row::ChangeParallel, 1.0 / 3.0),
        ("up / floor", &thousand, Row::Up, Row::Floor, 1.3),
        ("up again / up", &thousand, Row::Again, Row::Up, 1.0 / 6.0),
        ("down / up", &thousand, Row::Down, Row::Up, 1.0),
    ];
    let figures = [
        ("up, a wire at 1000 / at 15", growth, 1.4),
        ("peak memory of up, MiB, N = 15", peak(15), 8.0),
        ("peak memory of up, MiB, N = 1000", peak(1000), 48.0),
        ("ms to mend flushed rules of a leaf", mend(0), 50.0),
        ("ms to mend flushed rules of the hub", mend(1), 50.0),
        ("ms to mend flushed rules of the host", mend(2), 50.0),
        ("ms to mend a deleted wire", mend(3), 50.0),
        ("ms of the hook for no node", hook(0), 3.0),
        ("wakes of an idle watch in a minute", life.map(|life| life.idle.wakes as f64), 0.0),
        ("memory of a watch, MiB", life.map(|life| life.idle.resident_kib as f64 / 1024.0), 16.0),
        ("bulk, 100 wires in the hub / 1", bulk(&wired(100), &one), 1.05),
        ("bulk, 1000 wires in the hub / 1", bulk(&most, &one), 1.05),
        ("message, 100 wires in the hub / 1", message(&wired(100), &one), 1.05),
        ("message, 1000 wires in the hub / 1", message(&most, &one), 1.05),
        ("bulk, wire / bridge", bulk(&most, BRIDGED), 1.0),
        ("bulk, wire / bridge, br_netfilter", bulk(&most, FILTERED), 1.0),
        ("bulk, wire / bridge, published", bulk(&most, PUBLISHED), 1.0),
        ("message, wire / bridge", message(&most, BRIDGED), 1.0),
        ("message, wire / bridge, br_netfilter", message(&most, FILTERED), 1.0),
        ("message, wire / bridge, published", message(&most, PUBLISHED), 1.0),
        ("h1, 1 KiB: nginx / wire-hub", rate(0, 1), 1.0),
        ("h2, 1 KiB: nginx / wire-hub", rate(1, 1), 1.0),
        ("h1, 1 MiB: nginx / wire-hub", rate(2, 1), 1.0),
        ("h2, 1 MiB: nginx / wire-hub", rate(3, 1), 1.0),
        ("handshakes: nginx / wire-hub", rate(4, 1), 1.0),
        ("h1, 1 KiB, p99: wire-hub / nginx", slowest(0), 1.0),
        ("h1, 1 MiB, p99: wire-hub / nginx", slowest(2), 1.0),
        ("memory of wire-hub / caddy, idle", memory(|one| one.idle), 0.25),
        ("memory of wire-hub / caddy, loaded", memory(|one| one.loaded), 0.25),
        ("size of the program, MiB", Some(binary.bytes as f64 / f64::from(1 << 20)), 3.0),
    ];
    let facts = [
        ("the program is static", binary.is_static),
        ("the program is stripped", binary.is_stripped),
        ("no async runtime is linked", !binary.has_async_runtime),
    ];

    let verdict = |met: Option<bool>| met.map_or("-", |met| if met { "ok" } else { "MISSED" });
    let number = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.3}"));
    let mut all_met = true;
    let mut show = |what: String, measured: Option<f64>, busy: &str, limit: f64| {
        let met = measured.map(|value| value <= limit);
        all_met &= met.unwrap_or(true);
        println!("{what:40}{:>10}{busy:>12}{limit:>10.3}  {}", number(measured), verdict(met));
    };
    println!("\n{:40}{:>10}{:>12}{:>10}", "", "measured", "processors", "at most");
    for (what, title, of, to, limit) in rows {
        show(format!("{what}, {title}"), ratio(title, of, to), &number(busy(title, of, to)), limit);
    }
    for (what, measured, limit) in figures {
        show(what.into(), measured, "", limit);
    }
    for (what, met) in facts {
        all_met &= met;
        println!("{what:72}  {}", verdict(Some(met)));
    }
    if !columns.is_empty() {
        println!(
            "\nRatios are medians of those within a round. What processors did says more where the machine had other work too, but\n\
             not what \"at most\" is about: waiting, and the use of more than one."
        );
    }
    all_met
}
