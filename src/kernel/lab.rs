//! A world to throw away: own user, process, mount and network namespaces, in which every node is a named namespace. Nothing
//! of it is ever in the host's own, and all of it is gone with its first process, however that ends.

use std::fs::{self, File};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Command, ExitStatus};

use ipnetwork::IpNetwork;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, getgid, getuid};

use super::netns::Netns;
use super::socket::{Batch, NETLINK_ROUTE, Request, Socket};
use super::sys;
use super::{address, link, route};
use crate::error::{Context, Error};
use crate::prove::world::World;
use crate::state::Route;
use crate::topology::{Name, OUTSIDE, Protocol, Topology};

/// Which of the two processes goes on.
pub enum Side {
    /// Inside, as root of what is there.
    Inside,
    /// Outside, when the inside has ended, with its exit code.
    Outside(u8),
}

/// Divides the process in two: one enters a world of its own, the other waits for its end.
pub fn enter() -> Result<Side, Error> {
    let (user, group) = (getuid(), getgid());
    let own = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID;
    match unshare(own | CloneFlags::CLONE_NEWUSER) {
        Ok(()) => {
            // Without this an unprivileged user may map no group (user_namespaces(7)).
            fs::write("/proc/self/setgroups", "deny").context("cannot enter a user namespace")?;
            fs::write("/proc/self/uid_map", format!("0 {user} 1")).context("cannot enter a user namespace")?;
            fs::write("/proc/self/gid_map", format!("0 {group} 1")).context("cannot enter a user namespace")?;
        }
        Err(_) if user.is_root() => unshare(own).context("cannot make namespaces")?,
        Err(errno) => {
            let message = format!("this system lets users make no namespaces of their own: {}", errno.desc());
            return Err(Error::failed(message).hint("run it as root, or see `sysctl -a` for `unprivileged_userns`"));
        }
    }
    match sys::fork().context("cannot start a process")? {
        ForkResult::Parent { child } => {
            // A key pressed inside is the inside's to answer.
            let keys = SigSet::from_iter([Signal::SIGINT, Signal::SIGQUIT]);
            keys.thread_block().context("cannot wait")?;
            loop {
                match waitpid(child, None) {
                    Ok(WaitStatus::Exited(_, code)) => return Ok(Side::Outside(code as u8)),
                    Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(Side::Outside(128 + signal as u8)),
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno).context("cannot wait"),
                }
            }
        }
        ForkResult::Child => {
            // The first process of a process namespace takes all others in it along.
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("cannot tie the lab to its end")?;
            let nothing = None::<&str>;
            mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
                .context("cannot be private")?;
            mount(Some("wire"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
                .context("cannot mount /run")?;
            fs::create_dir("/run/netns").context("cannot make /run/netns")?;
            Ok(Side::Inside)
        }
    }
}

/// A lab, from inside.
pub struct Lab {
    home: Netns,
    socket: Socket,
}

impl Lab {
    pub fn new() -> Result<Lab, Error> {
        let lab = Lab { home: Netns::own()?, socket: Socket::open(NETLINK_ROUTE)? };
        lab.ask(&lab.socket, vec![link::raise(LOOPBACK)])?;
        Ok(lab)
    }

    /// Makes a named namespace, as `ip netns add` does.
    pub fn namespace(&self, name: &str) -> Result<Netns, Error> {
        let failed = || format!("cannot make namespace {name}");
        let path = format!("/run/netns/{name}");
        File::create_new(&path).context(failed())?;
        let make = || -> Result<Socket, Error> {
            unshare(CloneFlags::CLONE_NEWNET).context(failed())?;
            let nothing = None::<&str>;
            mount(Some("/proc/thread-self/ns/net"), path.as_str(), nothing, MsFlags::MS_BIND, nothing)
                .context(failed())?;
            Socket::open(NETLINK_ROUTE)
        };
        // The thread comes home from the new namespace as from any other.
        let socket = self.home.inside(&self.home, make)??;
        self.ask(&socket, vec![link::raise(LOOPBACK)])?;
        Netns::named(name)?.ok_or_else(|| Error::failed(failed()))
    }

    /// An outside world: one namespace with the far end of every uplink in it, the host's default route over the first, and
    /// routes towards all the house, as a neighbour would add them. Nothing where there is no uplink.
    pub fn outside(&self, topology: &Topology, world: &World) -> Result<Option<Netns>, Error> {
        let Some(first) = world.uplinks.first() else { return Ok(None) };
        let there = self.namespace(OUTSIDE)?;
        let socket = there.inside(&self.home, || Socket::open(NETLINK_ROUTE))??;
        let network = |ip: IpAddr, prefix| IpNetwork::new(ip, prefix).context("an address of the lab");
        let add = |index, ip: IpAddr, prefix| network(ip, prefix).map(|network| address::add(index, &network));
        let way = |index, to, via: IpAddr| route::add(index, &Route { to, via: Some(via), from: None }, false);
        let six = topology.wires.iter().any(|wire| wire.subnet6.is_some());
        for (number, uplink) in world.uplinks.iter().enumerate() {
            let index = FIRST_UPLINK + number as u32;
            let mut ours = vec![
                link::unmarked_pair(uplink.device.as_str(), index, there.as_fd()),
                add(index, uplink.near.into(), 30)?,
            ];
            let mut theirs = vec![add(index, uplink.far.into(), 30)?, link::raise(index)];
            if six {
                ours.push(add(index, uplink.near6.into(), 64)?);
                theirs.push(add(index, uplink.far6.into(), 64)?);
            }
            ours.push(link::raise(index));
            for called in &uplink.called {
                ours.push(add(index, (*called).into(), 32)?);
                theirs.push(way(index, network((*called).into(), 32)?, uplink.near.into()));
            }
            for other in &uplink.others {
                theirs.push(add(index, (*other).into(), 32)?);
            }
            self.ask(&self.socket, ours)?;
            self.ask(&socket, theirs)?;
        }
        let everywhere = network(Ipv4Addr::UNSPECIFIED.into(), 0)?;
        self.ask(&self.socket, vec![way(FIRST_UPLINK, everywhere, first.far.into())])?;
        let subnets = topology.wires.iter().map(|wire| way(FIRST_UPLINK, wire.subnet.into(), first.near.into()));
        let subnets6 = topology.wires.iter().filter_map(|wire| wire.subnet6);
        let subnets6 = subnets6.map(|subnet| way(FIRST_UPLINK, subnet.into(), first.near6.into()));
        self.ask(&socket, subnets.chain(subnets6).collect())?;
        Ok(Some(there))
    }

    fn ask(&self, socket: &Socket, requests: Vec<Request>) -> Result<(), Error> {
        let mut batch = Batch::default();
        for request in &requests {
            batch.push(0, request);
        }
        match socket.send(&mut batch).first() {
            Some((_, refusal)) => Err(Error::failed(format!("cannot build the lab: {refusal}"))),
            None => Ok(()),
        }
    }

    /// Runs a program in a node (`None` for the host) to its end.
    pub fn run(&self, node: Option<&Netns>, program: &[String]) -> Result<u8, Error> {
        let Some((name, arguments)) = program.split_first() else { return Ok(0) };
        let start = || Command::new(name).args(arguments).status();
        let status = node.unwrap_or(&self.home).inside(&self.home, start)?;
        let status = status.context(format!("cannot run `{name}`"))?;
        Ok(code(status))
    }
}

fn code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()) as u8
}

/// The index of the first uplink's device, at either end.
const FIRST_UPLINK: u32 = 1000;

/// The kernel gives every namespace's first device this index (`LOOPBACK_IFINDEX`, net/flow.h).
pub const LOOPBACK: u32 = 1;

/// Somebody who answers on a node's declared ports, with the node's name and the address that asked.
#[derive(Default)]
pub struct Listeners {
    tcp: Vec<(Name, TcpListener)>,
    udp: Vec<(Name, UdpSocket)>,
}

impl Listeners {
    /// One more, of tcp or udp; of other protocols there is nothing to listen to.
    pub fn add(&mut self, lab: &Lab, node: &Name, netns: &Netns, protocol: Protocol, port: u16) -> Result<(), Error> {
        self.add_at(lab, node, netns, Ipv4Addr::UNSPECIFIED, (protocol, port))
    }

    /// One that answers at one address alone: of udp, what is listened to at all addresses is answered by the first.
    pub fn add_at(
        &mut self,
        lab: &Lab,
        node: &Name,
        netns: &Netns,
        address: Ipv4Addr,
        (protocol, port): (Protocol, u16),
    ) -> Result<(), Error> {
        let any = (address, port);
        let cannot = || format!("cannot listen on {protocol}/{port} in {node}");
        match protocol {
            Protocol::Tcp => {
                let listen = || TcpListener::bind(any).and_then(|tcp| tcp.set_nonblocking(true).map(|()| tcp));
                self.tcp.push((node.clone(), netns.inside(&lab.home, listen)?.context(cannot())?));
            }
            Protocol::Udp => {
                let listen = || UdpSocket::bind(any).and_then(|udp| udp.set_nonblocking(true).map(|()| udp));
                self.udp.push((node.clone(), netns.inside(&lab.home, listen)?.context(cannot())?));
            }
            Protocol::Icmp | Protocol::Icmpv6 => {}
        }
        Ok(())
    }

    /// Answers until the lab ends.
    pub fn answer(self) {
        std::thread::spawn(move || {
            loop {
                let tcp = self.tcp.iter().map(|(_, listener)| listener.as_fd());
                let fds = tcp.chain(self.udp.iter().map(|(_, socket)| socket.as_fd()));
                let mut polled: Vec<PollFd> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
                match poll(&mut polled, PollTimeout::NONE) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(_) => return,
                }
                for (node, listener) in &self.tcp {
                    while let Ok((mut stream, from)) = listener.accept() {
                        // Who hangs up first is no concern of a listener's.
                        let _ = stream.write_all(format!("{node} {}\n", from.ip()).as_bytes());
                    }
                }
                for (node, socket) in &self.udp {
                    while let Ok((_, from)) = socket.recv_from(&mut [0; 1500]) {
                        let _ = socket.send_to(format!("{node} {}\n", from.ip()).as_bytes(), from);
                    }
                }
            }
        });
    }
}
