//! Connections to upstreams: kept while they are of use, made when none is left.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::body::Incoming;
use super::serving::Upstream;
use super::worker::Worker;
use crate::voice;

/// How long an upstream may take to take a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// An upstream that did not even refuse is not asked again for so long: every request would wait in vain.
const HOLD: Duration = Duration::from_secs(1);
/// An idle connection is kept for so long, and so many of them for one upstream.
const IDLE: Duration = Duration::from_secs(30);
const KEPT: usize = 64;
/// The head of an answer, and what is read at once of its body.
const HEAD: usize = 32 << 10;

/// Connections to the upstreams of one worker.
pub struct Pools {
    /// Those that are idle; the newest is last, and used first.
    idle: RefCell<HashMap<SocketAddr, Vec<Idle>>>,
    /// How many more there may be. A client of HTTP/2 asks for many things at a time, and must not use up all descriptors.
    room: Rc<Semaphore>,
}

struct Idle {
    sender: SendRequest<Incoming>,
    since: Instant,
}

impl Pools {
    /// For so many connections, idle ones included.
    pub fn new(room: usize) -> Pools {
        Pools { idle: RefCell::default(), room: Rc::new(Semaphore::new(room)) }
    }

    /// Waits until there may be one more; idle ones make room.
    async fn room(&self) -> io::Result<Room> {
        if self.room.available_permits() == 0 {
            self.idle.borrow_mut().clear();
        }
        let permit = timeout(CONNECT, self.room.acquire()).await.map_err(|_| io::ErrorKind::ResourceBusy)?;
        permit.map_err(io::Error::other)?.forget();
        Ok(Room(self.room.clone()))
    }

    fn take(&self, at: SocketAddr) -> Option<Idle> {
        let mut pools = self.idle.borrow_mut();
        let pool = pools.get_mut(&at)?;
        std::iter::from_fn(|| pool.pop()).find(|idle| !idle.sender.is_closed())
    }

    fn put(&self, at: SocketAddr, sender: SendRequest<Incoming>) {
        let mut pools = self.idle.borrow_mut();
        let pool = pools.entry(at).or_default();
        if pool.len() < KEPT {
            pool.push(Idle { sender, since: Instant::now() });
        }
    }

    /// Closes what is of no use any more.
    pub fn sweep(&self) {
        self.idle.borrow_mut().retain(|_, pool| {
            pool.retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < IDLE);
            !pool.is_empty()
        });
    }
}

/// The place that a connection takes up until it is closed.
struct Room(Rc<Semaphore>);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

/// A connection to an upstream while it is used for one request.
#[derive(Debug)]
pub struct Link {
    pub sender: SendRequest<Incoming>,
    /// How long it was idle before; `None` if it is new.
    pub idle: Option<Duration>,
    at: SocketAddr,
}

impl Link {
    /// One that is there, or a new one.
    pub async fn of(worker: &Worker, upstream: &Upstream, new: bool) -> io::Result<Link> {
        while !new && let Some(mut idle) = worker.pools.take(upstream.at) {
            // It may not have come to rest from the request before, which takes no time.
            if idle.sender.is_ready() || idle.sender.ready().await.is_ok() {
                return Ok(Link { sender: idle.sender, idle: Some(idle.since.elapsed()), at: upstream.at });
            }
        }
        let now = u64::try_from(worker.clock(Instant::now()).as_millis()).unwrap_or(u64::MAX).max(1);
        let failed = upstream.failing.load(Ordering::Relaxed);
        if failed > now {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // That there is none is no fault of the upstream's.
        let room = worker.pools.room().await?;
        match connect(upstream.at, room).await {
            Ok(sender) => {
                if failed != 0 && upstream.failing.swap(0, Ordering::Relaxed) != 0 {
                    voice::say(&format!("`{}` ({}) takes connections again", upstream.node, upstream.at));
                }
                Ok(Link { sender, idle: None, at: upstream.at })
            }
            Err(error) => {
                let hold = if error.kind() == io::ErrorKind::TimedOut { HOLD + CONNECT } else { Duration::ZERO };
                let until = now + u64::try_from(hold.as_millis()).unwrap_or(0);
                if upstream.failing.swap(until, Ordering::Relaxed) == 0 {
                    let words = crate::trouble::Trouble(error.to_string());
                    voice::say(&format!(
                        "`{}` ({}) takes no connection: {words}; its sites answer 502",
                        upstream.node, upstream.at
                    ));
                }
                Err(error)
            }
        }
    }

    /// Keeps it for the next request; the answer was heard to its end.
    pub fn keep(self, worker: &Worker) {
        if !self.sender.is_closed() {
            worker.pools.put(self.at, self.sender);
        }
    }
}

async fn connect(at: SocketAddr, room: Room) -> io::Result<SendRequest<Incoming>> {
    let stream = timeout(CONNECT, TcpStream::connect(at)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    stream.set_nodelay(true)?;
    let (sender, connection) =
        http1::Builder::new().max_buf_size(HEAD).handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Its end is seen by whoever uses it.
    spawn_local(async move {
        let _ = connection.with_upgrades().await;
        drop(room);
    });
    Ok(sender)
}

/// A flag of a request that its body and its answer share.
#[derive(Clone, Debug, Default)]
pub struct Flag(Rc<Cell<bool>>);

impl Flag {
    pub fn set(&self) {
        self.0.set(true);
    }

    pub fn is_set(&self) -> bool {
        self.0.get()
    }
}
