//! The door: takes connections on ports 443 and 80 and hands each to the worker that has the fewest.

use std::net::{self, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, setsockopt, sockopt};
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};

use super::client::Clients;
use super::worker::{Guest, Line, Order};
use crate::trouble::{Context, Trouble};
use crate::voice;

/// Connections in all, if there are descriptors enough: each may need one more to an upstream, or two while it becomes a WebSocket.
const CONNECTIONS: usize = 16_384;
/// A client that sends nothing any more is found out.
const PROBE_AFTER: u32 = 60;
/// How long those that knocked before the door was closed may take to come in.
const KNOCKED: Duration = Duration::from_millis(300);
/// Complaints that could come with every connection come so often.
const COMPLAINS: Duration = Duration::from_secs(60);
/// How often clients are forgotten.
const FORGETS: Duration = Duration::from_secs(30);

/// The sockets of a door, open and listening.
pub struct Door {
    /// Port 443, port 80.
    listeners: [net::TcpListener; 2],
    /// Connections that are let in, and as many to upstreams.
    pub most: usize,
}

impl Door {
    pub fn open() -> Result<Door, Trouble> {
        Ok(Door { listeners: [listen(443)?, listen(80)?], most: most() })
    }

    /// Lets in whoever comes until told to end, and then those that have knocked; `ended` is dropped then.
    pub fn keep(
        self,
        lines: Arc<[Line]>,
        began: Instant,
        end: watch::Receiver<bool>,
        ended: mpsc::Sender<()>,
    ) -> Result<(), Trouble> {
        let run = move || {
            match runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => {
                    if let Err(trouble) = runtime.block_on(self.listen(&lines, began, end)) {
                        voice::error(&trouble.to_string());
                    }
                }
                Err(error) => voice::error(&format!("no event loop: {error}")),
            }
            for line in &*lines {
                let _ = line.orders.send(Order::End);
            }
            drop(ended);
        };
        std::thread::Builder::new().name("door".into()).spawn(run).context("cannot start the proxy")?;
        Ok(())
    }

    async fn listen(self, lines: &[Line], began: Instant, mut end: watch::Receiver<bool>) -> Result<(), Trouble> {
        let [https, http] = self.listeners.map(|listener| TcpListener::from_std(listener).context("cannot listen"));
        let (https, http) = (https?, http?);
        let mut porter = Porter { lines, began, most: self.most, clients: Clients::default(), complained: None };
        let mut forgotten = Instant::now();
        let mut closes: Option<tokio::time::Instant> = None;
        loop {
            let taken = tokio::select! {
                taken = take(&https) => Some((taken, true)),
                taken = take(&http) => Some((taken, false)),
                () = sleep_until(closes.unwrap_or_else(tokio::time::Instant::now)), if closes.is_some() => break,
                // Whoever could tell it is gone: that is the end as well.
                _ = end.wait_for(|end| *end), if closes.is_none() => None,
            };
            match taken {
                None => {
                    closes = Some(tokio::time::Instant::now() + KNOCKED);
                    for listener in [&https, &http] {
                        refuse(listener);
                    }
                }
                Some((Ok((stream, from)), tls)) => porter.admit(stream, from, tls),
                Some((Err(error), _)) => {
                    porter.complain(&format!("cannot take a connection: {error}"));
                    // It may be out of descriptors, and those that are there must have time to end.
                    let _ = timeout(Duration::from_millis(100), end.changed()).await;
                }
            }
            if forgotten.elapsed() > FORGETS {
                forgotten = Instant::now();
                porter.clients.forget(began.elapsed());
            }
        }
        // Whoever has come in meanwhile is not left at the door.
        for (listener, tls) in [(https, true), (http, false)] {
            let listener = listener.into_std().context("cannot close the door")?;
            while let Ok((stream, from)) = listener.accept() {
                // The runtime wants all of its sockets so.
                if stream.set_nonblocking(true).is_ok() {
                    porter.admit(stream, from, tls);
                }
            }
        }
        Ok(())
    }
}

struct Porter<'a> {
    lines: &'a [Line],
    began: Instant,
    most: usize,
    clients: Clients,
    complained: Option<Instant>,
}

impl Porter<'_> {
    fn admit(&mut self, stream: net::TcpStream, from: SocketAddr, tls: bool) {
        let address = from.ip().to_canonical();
        let load = |line: &&Line| line.load.load(Ordering::Relaxed);
        let held: usize = self.lines.iter().map(|line| load(&line)).sum();
        if held >= self.most {
            return self.complain(&format!("there are {held} connections, and no more are taken"));
        }
        let Some(client) = self.clients.at(address, self.began.elapsed()) else {
            return self
                .complain(&format!("{address} has {} connections and gets no more", super::client::CONNECTIONS));
        };
        if let Some(line) = self.lines.iter().min_by_key(load) {
            // A worker that is gone takes nothing, and the connection is closed.
            let _ = line.orders.send(Order::Come(Guest { stream, address, client, tls }));
        }
    }

    fn complain(&mut self, what: &str) {
        if self.complained.is_none_or(|last| last.elapsed() > COMPLAINS) {
            self.complained = Some(Instant::now());
            voice::say(what);
        }
    }
}

async fn take(listener: &TcpListener) -> std::io::Result<(net::TcpStream, SocketAddr)> {
    loop {
        match listener.accept().await {
            Err(error) if is_theirs(&error) => {}
            Ok((stream, from)) => return Ok((stream.into_std()?, from)),
            Err(error) => return Err(error),
        }
    }
}

/// Whether a connection failed before it was taken, which is nobody's trouble but its own.
fn is_theirs(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
        || matches!(error.raw_os_error(), Some(libc::EPROTO | libc::ENETDOWN | libc::EHOSTUNREACH | libc::ENETUNREACH))
}

/// A port of every address, of both families where there is IPv6.
fn listen(port: u16) -> Result<net::TcpListener, Trouble> {
    let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    match bind(v6) {
        Err(nix::Error::EAFNOSUPPORT | nix::Error::EADDRNOTAVAIL) => bind(v4),
        bound => bound,
    }
    .context(format_args!("cannot listen on port {port}"))
}

/// What is set here every connection that is taken has as well.
fn bind(at: SocketAddr) -> nix::Result<net::TcpListener> {
    let family = if at.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(family, SockType::Stream, flags, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
    setsockopt(&socket, sockopt::KeepAlive, &true)?;
    setsockopt(&socket, sockopt::TcpKeepIdle, &PROBE_AFTER)?;
    if at.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
    }
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(at))?;
    socket::listen(&socket, Backlog::MAXALLOWABLE)?;
    Ok(net::TcpListener::from(socket))
}

/// Lets nobody knock any more: whoever begins is not heard, tries again after a second, and finds the next that listens.
/// Those that have begun still come in. Where the kernel keeps filters to root (EPERM), who knocks is let in until the end, and
/// only a handshake that is under way right then fails.
fn refuse(listener: &TcpListener) {
    // Flags of the TCP header: a SYN without an ACK is dropped.
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
    const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut steps = [
        step(LOAD_BYTE, 0, 0, 13),
        step(AND, 0, 0, 0x12),
        step(IF_EQUAL, 0, 1, 0x02),
        step(RETURN, 0, 0, 0),
        step(RETURN, 0, 0, u32::MAX),
    ];
    let program = libc::sock_fprog { len: 5, filter: steps.as_mut_ptr() };
    #[expect(unsafe_code, reason = "no crate of ours has this option")]
    // SAFETY: the program and its steps outlive the call, which copies them.
    unsafe {
        let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
        let fd = listener.as_raw_fd();
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const program).cast(), size);
    }
}

/// How many connections there are descriptors for, after as many as possible were asked for.
fn most() -> usize {
    let wanted = CONNECTIONS as u64 * 3 + 256;
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < wanted
    {
        // Fewer will do.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(wanted), hard);
    }
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    CONNECTIONS.min(usize::try_from(limit.saturating_sub(256) / 3).unwrap_or(CONNECTIONS)).max(64)
}
