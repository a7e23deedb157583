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
use crate::state::Route;
use crate::topology::{Device, Name, OUTSIDE};

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

    /// An outside world: one namespace with the far end of every uplink in it, and the host's default route over the first.
    pub fn outside(&self, uplinks: &[Device]) -> Result<(), Error> {
        if uplinks.is_empty() {
            return Ok(());
        }
        let world = self.namespace(OUTSIDE)?;
        let there = world.inside(&self.home, || Socket::open(NETLINK_ROUTE))??;
        for (number, uplink) in uplinks.iter().enumerate() {
            // From a network that nobody routes (RFC 2544, 198.18.0.0/15), a /30 for each uplink.
            let first = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + 4 * number as u32;
            let address = |last: u32| IpAddr::from(Ipv4Addr::from(first + last));
            let network = |last| IpNetwork::new(address(last), 30).context("an uplink's address");
            let index = 1000 + number as u32;
            let pair = link::unmarked_pair(uplink.as_str(), index, world.as_fd());
            self.ask(&self.socket, vec![pair, address::add(index, &network(1)?), link::raise(index)])?;
            self.ask(&there, vec![address::add(index, &network(2)?), link::raise(index)])?;
            if number == 0 {
                let to = IpNetwork::new(Ipv4Addr::UNSPECIFIED.into(), 0).context("a default route")?;
                self.ask(
                    &self.socket,
                    vec![route::add(index, &Route { to, via: Some(address(2)), from: None }, false)],
                )?;
            }
        }
        Ok(())
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

/// The kernel gives every namespace's first device this index (`LOOPBACK_IFINDEX`, net/flow.h).
const LOOPBACK: u32 = 1;

/// Somebody who answers on a node's declared ports, with the node's name.
#[derive(Default)]
pub struct Listeners {
    tcp: Vec<(Name, TcpListener)>,
    udp: Vec<(Name, UdpSocket)>,
}

impl Listeners {
    pub fn add_tcp(&mut self, lab: &Lab, node: &Name, netns: &Netns, port: u16) -> Result<(), Error> {
        let listen = || {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
            listener.set_nonblocking(true).map(|()| listener)
        };
        let listener = netns.inside(&lab.home, listen)?.context(format!("cannot listen on tcp/{port} in {node}"))?;
        self.tcp.push((node.clone(), listener));
        Ok(())
    }

    pub fn add_udp(&mut self, lab: &Lab, node: &Name, netns: &Netns, port: u16) -> Result<(), Error> {
        let listen = || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
            socket.set_nonblocking(true).map(|()| socket)
        };
        let socket = netns.inside(&lab.home, listen)?.context(format!("cannot listen on udp/{port} in {node}"))?;
        self.udp.push((node.clone(), socket));
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
                    while let Ok((mut stream, _)) = listener.accept() {
                        // Who hangs up first is no concern of a listener's.
                        let _ = stream.write_all(format!("{node}\n").as_bytes());
                    }
                }
                for (node, socket) in &self.udp {
                    while let Ok((_, from)) = socket.recv_from(&mut [0; 1500]) {
                        let _ = socket.send_to(format!("{node}\n").as_bytes(), from);
                    }
                }
            }
        });
    }
}
