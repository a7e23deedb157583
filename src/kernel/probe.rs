//! Sends what `prove` asks for, from inside the namespaces that are held open, and says what became of each packet. Nobody's
//! services notice more than a connection that closes again, or an empty datagram. It judges nothing: what ought to be, it does
//! not know, only how long something is worth waiting for.

mod flight;
mod packet;
mod track;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use netlink_packet_route::AddressFamily;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit};

use self::flight::{Flight, Launched, Launcher};
use self::packet::Wiretap;
use self::track::{Sent, Tracker};
use super::socket::Batch;
use super::{Kernel, Open, address, conntrack, nft, route};
use crate::error::{Context, Error};
use crate::prove::{Denials, Doubt, Expected, How, Probe, Seen};
use crate::topology::{Name, OUTSIDE};

/// Silence this long says that nothing comes back: a namespace answers within microseconds.
const SILENCE: Duration = Duration::from_millis(500);
/// What ought to pass is given this long: twice TCP sends its first packet again in that time (RFC 6298: after 1 and 3 s).
const PATIENCE: Duration = Duration::from_millis(3200);
/// When what is no TCP is sent again meanwhile.
const AGAIN: Duration = Duration::from_millis(1000);
/// Descriptors are used for so many probes at once, or fewer where there is less room.
const CROWD: usize = 4096;
/// Descriptors for everything else.
const SPARE: u64 = 64;

impl Kernel {
    /// The addresses of the host that are no wire's: what it is called on its uplinks and by others.
    pub fn addresses_of_host(&self) -> Result<Vec<IpAddr>, Error> {
        let Some(host) = self.open.get(&Name::host()) else { return Ok(Vec::new()) };
        let wires: Vec<u32> = host.ends.values().map(|end| end.index).collect();
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let seen =
                host.socket.dump(&address::list(family), address::seen).context("cannot list the host's addresses")?;
            let others = seen.into_iter().filter(|seen| !wires.contains(&seen.index) && !seen.link_local);
            found.extend(others.map(|seen| seen.address.ip()).filter(|ip| !ip.is_loopback()));
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// What the rules of all namespaces have dropped so far.
    pub fn denials(&self) -> Denials {
        let mut denials = Denials::new();
        for (node, open) in &self.open {
            let table = nft::read(&open.rules.socket).ok().and_then(|seen| seen.table);
            for (name, packets) in table.into_iter().flat_map(|table| table.counters) {
                if let Some(wire) = name.strip_prefix("denied.").and_then(Name::new) {
                    denials.insert((node.clone(), wire), packets);
                }
            }
        }
        denials
    }

    /// Somebody who sends. `greetings`: whoever listens says who he is, as in a lab.
    pub fn prober(&self, greetings: bool) -> Prober<'_> {
        let number = std::process::id() as u16;
        Prober { kernel: self, greetings, elsewhere: HashMap::new(), trackers: HashMap::new(), number }
    }
}

/// Sends probes, and remembers between them what does not change.
pub struct Prober<'a> {
    kernel: &'a Kernel,
    greetings: bool,
    /// Whether the route of a node to an address leads over a device that is no wire.
    elsewhere: HashMap<(Name, IpAddr), bool>,
    trackers: HashMap<Name, Tracker>,
    /// The last number that told a packet from others.
    number: u16,
}

impl Prober<'_> {
    /// What becomes of each.
    pub fn send(&mut self, probes: &[Probe]) -> Vec<Seen> {
        let mut seen = Vec::with_capacity(probes.len());
        for crowd in probes.chunks(self.room()) {
            seen.extend(self.send_at_once(crowd));
        }
        seen
    }

    /// How many probes may be in the air at once.
    fn room(&self) -> usize {
        let most = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let used = 3 * self.kernel.open.len() as u64 + SPARE;
        usize::try_from(most.saturating_sub(used)).unwrap_or(CROWD).clamp(16, CROWD)
    }

    fn send_at_once(&mut self, probes: &[Probe]) -> Vec<Seen> {
        self.find_ways(probes);
        let mut air = match Air::over(probes) {
            Ok(air) => air,
            Err(error) => return vec![Seen::Unknown(Doubt::Trouble(error.to_string())); probes.len()],
        };
        let mut by_node: BTreeMap<&Name, Vec<usize>> = BTreeMap::new();
        for (i, probe) in probes.iter().enumerate() {
            by_node.entry(&probe.from).or_default().push(i);
        }
        for (node, places) in by_node {
            let kernel = self.kernel;
            let Some(open) = kernel.open.get(node) else { continue };
            if let Err(error) = open.netns.inside(&kernel.home, || self.launch(open, &places, &mut air)) {
                places.iter().for_each(|&i| air.land(i, Seen::Unknown(Doubt::Trouble(error.message.clone()))));
            }
        }
        let start = Instant::now();
        air.wait(start + SILENCE, self.greetings);
        self.look_up(&mut air, false);
        for again in 1.. {
            let end = (AGAIN * again).min(PATIENCE);
            air.wait(start + end, self.greetings);
            if end == PATIENCE || air.flights.is_empty() {
                break;
            }
            air.flights.values().for_each(Flight::send_again);
        }
        self.look_up(&mut air, true);
        air.seen.into_iter().map(|seen| seen.unwrap_or(Seen::Unknown(Doubt::Silent))).collect()
    }

    /// Asks for the routes that are not known yet: nothing of all this may leave by an uplink.
    fn find_ways(&mut self, probes: &[Probe]) {
        let mut asked: BTreeMap<&Name, Vec<IpAddr>> = BTreeMap::new();
        for probe in probes.iter().filter(|probe| stays_inside(probe)) {
            if let Entry::Vacant(unknown) = self.elsewhere.entry((probe.from.clone(), probe.address)) {
                unknown.insert(false);
                asked.entry(&probe.from).or_default().push(probe.address);
            }
        }
        for (node, addresses) in asked {
            let Some(open) = self.kernel.open.get(node) else { continue };
            let mut batch = Batch::default();
            for (i, address) in addresses.iter().enumerate() {
                batch.push(i, &route::way(*address));
            }
            // What has no route is refused here and when it is sent alike.
            let elsewhere = &mut self.elsewhere;
            open.socket.exchange(&mut batch, |i, answer| {
                let Some(device) = route::device(answer) else { return };
                if !open.ends.values().any(|end| end.index == device) {
                    elsewhere.insert((node.clone(), addresses[i]), true);
                }
            });
        }
    }

    /// Sends from inside a namespace.
    fn launch(&mut self, open: &Open, places: &[usize], air: &mut Air) {
        let mut launcher = Launcher::new(open, &mut self.number);
        for &i in places {
            let probe = &air.probes[i];
            let known = self.elsewhere.get(&(probe.from.clone(), probe.address));
            if stays_inside(probe) && known == Some(&true) {
                air.land(i, Seen::Unknown(Doubt::Elsewhere));
                continue;
            }
            match launcher.launch(i, probe) {
                Launched::Landed(seen) => air.land(i, seen),
                Launched::Flying(flight) => air.take(i, flight),
                Launched::Put(sent) => drop(air.frames.insert(i, sent)),
            }
        }
        launcher.taps.into_values().for_each(|tap| air.listen(tap));
    }

    /// What did not answer: whether the namespace it was meant for has let it in. What ought to pass is waited for until `last`.
    fn look_up(&mut self, air: &mut Air, last: bool) {
        let connected: Vec<usize> =
            air.flights.iter().filter(|(_, flight)| flight.is_connected()).map(|(i, _)| *i).collect();
        connected.into_iter().for_each(|i| air.land(i, Seen::Pass(None)));
        let mut asked: BTreeMap<&Name, Vec<(usize, Sent)>> = BTreeMap::new();
        let flying = air.flights.iter().map(|(i, flight)| (*i, flight.sent));
        for (i, sent) in flying.chain(air.frames.iter().map(|(i, sent)| (*i, *sent))) {
            asked.entry(&air.probes[i].to).or_default().push((i, sent));
        }
        let mut told: Vec<(usize, bool, bool)> = Vec::new();
        for (node, all) in asked {
            let home = &self.kernel.home;
            let Some(open) = self.kernel.open.get(node) else { continue };
            let tracker = self.trackers.entry(node.clone()).or_default();
            let known = conntrack::knows(&open.rules.socket, &all.iter().map(|(_, sent)| *sent).collect::<Vec<_>>());
            for ((i, (_, tuple)), known) in all.iter().zip(known) {
                told.push((*i, known, known || tracker.tracks(open, home, tuple.destination)));
            }
        }
        for (i, arrived, tracked) in told {
            let probe = &air.probes[i];
            let answers = air.flights.get(&i).is_some_and(Flight::is_answered_always);
            if arrived {
                air.land(i, Seen::Pass(None));
            } else if !last && matches!(probe.expected, Expected::Pass(_)) && probe.may_repeat() {
                continue;
            } else if tracked || answers {
                air.land(i, Seen::Drop);
            } else {
                air.land(i, Seen::Unknown(Doubt::Silent));
            }
        }
    }
}

/// Whether a probe is for an address of the house, from within: then it must not leave by an uplink.
fn stays_inside(probe: &Probe) -> bool {
    let outside = |name: &Name| name.as_str() == OUTSIDE;
    matches!(probe.how, How::Dial(_) | How::Raw(_)) && !outside(&probe.from) && !outside(&probe.to)
}

/// Errors that say: it does not get there. Anything else says that it was not tried.
fn failed(errno: Errno) -> Seen {
    match errno {
        Errno::EPERM
        | Errno::EACCES
        | Errno::ENETUNREACH
        | Errno::EHOSTUNREACH
        | Errno::ENETDOWN
        | Errno::EHOSTDOWN
        | Errno::EADDRNOTAVAIL
        | Errno::EAFNOSUPPORT
        | Errno::ENODEV
        | Errno::ENXIO
        | Errno::EINVAL
        | Errno::ETIMEDOUT
        | Errno::EPROTO
        | Errno::ENOPROTOOPT => Seen::Drop,
        other => Seen::Unknown(Doubt::Trouble(format!("it could not be sent: {}", other.desc()))),
    }
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

/// What is on its way.
struct Air<'p> {
    probes: &'p [Probe],
    epoll: Epoll,
    flights: BTreeMap<usize, Flight>,
    /// Frames put on wires: nothing of them comes back to a socket.
    frames: BTreeMap<usize, Sent>,
    /// Who hears what comes back on the wires that frames were put on.
    taps: Vec<Wiretap>,
    seen: Vec<Option<Seen>>,
}

impl<'p> Air<'p> {
    fn over(probes: &'p [Probe]) -> nix::Result<Air<'p>> {
        Ok(Air {
            probes,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            flights: BTreeMap::new(),
            frames: BTreeMap::new(),
            taps: Vec::new(),
            seen: vec![None; probes.len()],
        })
    }

    /// What became of a probe is known.
    fn land(&mut self, place: usize, seen: Seen) {
        self.flights.remove(&place);
        self.frames.remove(&place);
        self.seen[place].get_or_insert(seen);
    }

    /// Watches what is on its way. Its descriptor leaves the epoll when it is closed.
    fn take(&mut self, place: usize, flight: Flight) {
        match self.epoll.add(&flight, EpollEvent::new(flight.events(), place as u64)) {
            Ok(()) => drop(self.flights.insert(place, flight)),
            Err(errno) => self.land(place, failed(errno)),
        }
    }

    /// Listens to a wire that frames were put on.
    fn listen(&mut self, tap: Wiretap) {
        let place = self.probes.len() + self.taps.len();
        // Without it their answers are not heard, and conntrack alone tells.
        if self.epoll.add(&tap, EpollEvent::new(EpollFlags::EPOLLIN, place as u64)).is_ok() {
            self.taps.push(tap);
        }
    }

    /// Waits until everything has landed or it is time.
    fn wait(&mut self, end: Instant, greetings: bool) {
        let mut events = vec![EpollEvent::empty(); 256];
        while !self.flights.is_empty() || !self.frames.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // Rounded up: else the last millisecond is spent asking.
            let timeout = EpollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(EpollTimeout::ZERO);
            let happened = match self.epoll.wait(&mut events, timeout) {
                Ok(happened) => happened,
                Err(Errno::EINTR) => continue,
                Err(_) => break,
            };
            for event in &events[..happened] {
                let place = event.data() as usize;
                match self.flights.get_mut(&place) {
                    Some(flight) => {
                        if let Some(seen) = flight.look(greetings) {
                            self.land(place, seen);
                        }
                    }
                    None => {
                        let tap = place.checked_sub(self.probes.len()).and_then(|tap| self.taps.get(tap));
                        for place in tap.map(Wiretap::answered).unwrap_or_default() {
                            self.land(place, Seen::Pass(None));
                        }
                    }
                }
            }
        }
    }
}
