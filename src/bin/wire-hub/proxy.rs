//! HTTPS on port 443, redirects and ACME on port 80. The door takes connections, a worker for each core serves them, and the
//! log has a thread of its own.

mod answer;
mod body;
mod client;
mod clock;
mod connection;
mod door;
mod ear;
mod headers;
mod log;
mod plain;
mod record;
mod request;
mod serving;
mod upgrade;
mod upstream;
mod worker;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::available_parallelism;
use std::time::Instant;

use tokio::sync::{mpsc, watch};

use crate::certs::Certs;
use crate::orders;
use crate::trouble::Trouble;
use door::Door;
use serving::Serving;
use worker::{Common, Line, Order};

pub struct Proxy {
    lines: Arc<[Line]>,
    /// What is served now.
    serving: Mutex<Arc<Serving>>,
    end: watch::Sender<bool>,
    /// Nothing is ever said here: it is closed when the last thread has ended.
    ended: mpsc::Receiver<()>,
}

impl Proxy {
    /// Listens, and serves from threads of its own.
    pub fn start(orders: &orders::Proxy, hub: &str, certs: Arc<Certs>) -> Result<Proxy, Trouble> {
        let serving = Arc::new(Serving::new(orders, None)?);
        let door = Door::open()?;
        let began = Instant::now();
        let (alive, ended) = mpsc::channel(1);
        let cores = available_parallelism().map_or(1, usize::from);
        let common =
            Common { certs, pen: log::start(hub, alive.clone())?, upstreams: (door.most / cores).max(16), began };
        let start = |number| worker::start(number, common.clone(), serving.clone(), alive.clone());
        let lines: Arc<[Line]> = (0..cores).map(start).collect::<Result<_, _>>()?;
        let end = watch::Sender::new(false);
        door.keep(lines.clone(), began, end.subscribe(), alive)?;
        Ok(Proxy { lines, serving: Mutex::new(serving), end, ended })
    }

    /// From now on these, without a connection noticing.
    pub fn serve(&self, orders: &orders::Proxy) -> Result<(), Trouble> {
        let mut serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        *serving = Arc::new(Serving::new(orders, Some(&serving))?);
        for line in &*self.lines {
            // One that has ended serves nothing.
            let _ = line.orders.send(Order::Serve(serving.clone()));
        }
        Ok(())
    }

    /// Takes no new connection, and ends when those that are there have been answered, or it takes too long.
    pub async fn drain(mut self) {
        self.end.send_replace(true);
        let _ = self.ended.recv().await;
    }
}
