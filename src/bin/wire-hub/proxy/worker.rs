//! A thread that serves: connections come to it from the door and stay. What it knows is its own, so nothing in it waits for
//! another thread.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::{self, LocalOptions};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::client::Client;
use super::clock::Clock;
use super::connection;
use super::log::Pen;
use super::plain;
use super::serving::{Own, Serving};
use super::upstream::Pools;
use crate::certs::Certs;
use crate::trouble::{Context, Trouble};

/// Lines of the log are handed over when there are so many bytes of them, or it is time.
const BATCH: usize = 16 << 10;
const EVERY: Duration = Duration::from_millis(100);

/// How long idle connections are still answered on while the proxy ends: a request that is on its way arrives in this time.
const LINGER: Duration = Duration::from_secs(1);
/// How long a request may go on while the proxy ends.
const LAST: Duration = Duration::from_secs(10);

/// What a worker is told.
pub enum Order {
    Come(Guest),
    Serve(Arc<Serving>),
    End,
}

/// A connection that was let in.
pub struct Guest {
    pub stream: TcpStream,
    pub address: IpAddr,
    pub client: Arc<Client>,
    /// By TLS; else only redirects and ACME.
    pub tls: bool,
}

/// What all workers and the door have in common.
#[derive(Clone)]
pub struct Common {
    pub certs: Arc<Certs>,
    pub pen: Pen,
    /// Connections to upstreams that each worker may have.
    pub upstreams: usize,
    /// When the proxy's clock began.
    pub began: Instant,
}

/// How far a proxy has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Serves,
    /// Every answer closes its connection.
    Ends,
    /// Idle connections are closed.
    Closes,
}

pub struct Worker {
    pub certs: Arc<Certs>,
    pub pools: Pools,
    began: Instant,
    serving: RefCell<Own>,
    clock: RefCell<Clock>,
    lines: RefCell<Vec<u8>>,
    pen: Pen,
    phase: watch::Sender<Phase>,
    ends: Cell<bool>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("Worker")
    }
}

/// How a worker is reached.
pub struct Line {
    pub orders: mpsc::UnboundedSender<Order>,
    /// Connections that it has.
    pub load: Arc<AtomicUsize>,
}

/// Starts a worker. It ends when it is told to, or when nobody can tell it any more; `ended` is dropped then.
pub fn start(number: usize, common: Common, serving: Arc<Serving>, ended: mpsc::Sender<()>) -> Result<Line, Trouble> {
    let (orders, taken) = mpsc::unbounded_channel();
    let load = Arc::new(AtomicUsize::new(0));
    let counted = load.clone();
    let run = move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        match runtime {
            Ok(runtime) => runtime.block_on(work(common, serving, taken, counted)),
            Err(error) => crate::voice::error(&format!("no event loop: {error}")),
        }
        drop(ended);
    };
    std::thread::Builder::new().name(format!("proxy-{number}")).spawn(run).context("cannot start the proxy")?;
    Ok(Line { orders, load })
}

async fn work(
    common: Common,
    serving: Arc<Serving>,
    mut orders: mpsc::UnboundedReceiver<Order>,
    load: Arc<AtomicUsize>,
) {
    let worker = Rc::new(Worker {
        certs: common.certs,
        pools: Pools::new(common.upstreams),
        began: common.began,
        serving: RefCell::new(Rc::new(serving)),
        clock: RefCell::default(),
        lines: RefCell::default(),
        pen: common.pen,
        phase: watch::Sender::new(Phase::Serves),
        ends: Cell::new(false),
    });
    let keeper = spawn_local(keep(worker.clone(), load.clone()));
    while let Some(order) = orders.recv().await {
        match order {
            Order::Come(guest) => {
                let (worker, counted) = (worker.clone(), Counted::new(&load));
                spawn_local(async move {
                    if guest.tls {
                        connection::serve(worker, guest, counted).await;
                    } else {
                        plain::serve(worker, guest, counted).await;
                    }
                });
            }
            Order::Serve(serving) => *worker.serving.borrow_mut() = Rc::new(serving),
            Order::End => break,
        }
    }
    // Nobody minds how it ends.
    let _ = timeout(LAST, worker.end(&load)).await;
    keeper.abort();
}

/// Does what must be done now and then.
async fn keep(worker: Rc<Worker>, load: Arc<AtomicUsize>) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut served = false;
    for tick in 0u64.. {
        ticks.tick().await;
        worker.flush();
        if tick % 10 == 0 {
            worker.pools.sweep();
        }
        served |= load.load(Ordering::Relaxed) > 0;
        if tick % 100 == 0 && std::mem::take(&mut served) && load.load(Ordering::Relaxed) == 0 {
            give_back();
        }
    }
}

/// Gives the memory of a busy time back, which the C library would keep.
fn give_back() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "no crate of ours has it")]
    // SAFETY: it may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

impl Worker {
    pub fn serving(&self) -> Own {
        self.serving.borrow().clone()
    }

    /// The time of the proxy's clock.
    pub fn clock(&self, at: Instant) -> Duration {
        at.duration_since(self.began)
    }

    /// Whether connections are to be closed once answered.
    pub fn ends(&self) -> bool {
        self.ends.get()
    }

    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub fn log(&self, write: impl FnOnce(&mut Clock, &mut Vec<u8>)) {
        let mut lines = self.lines.borrow_mut();
        write(&mut self.clock.borrow_mut(), &mut lines);
        if lines.len() >= BATCH {
            let full = std::mem::replace(&mut *lines, Vec::with_capacity(BATCH + BATCH / 4));
            self.pen.write(full);
        }
    }

    fn flush(&self) {
        let mut lines = self.lines.borrow_mut();
        if !lines.is_empty() {
            self.pen.write(std::mem::take(&mut *lines));
        }
    }

    async fn end(&self, load: &AtomicUsize) {
        self.ends.set(true);
        self.phase.send_replace(Phase::Ends);
        let begun = Instant::now();
        while load.load(Ordering::Relaxed) > 0 {
            if begun.elapsed() > LINGER {
                self.phase.send_replace(Phase::Closes);
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Counts as long as it lives.
#[derive(Debug)]
pub struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(load: &Arc<AtomicUsize>) -> Counted {
        load.fetch_add(1, Ordering::Relaxed);
        Counted(load.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
