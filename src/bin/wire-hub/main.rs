//! `wire-hub`: serves one hub, as `wire hub NAME` tells it. It is started in the hub's namespace with its orders on standard input
//! and two descriptors, the socket that `wire` asks it over and a locked file, and lets go of what it does not need before it serves
//! anybody. The tunnel and the proxy have threads of their own; the first thread listens to `wire` and keeps the certificates.

mod certs;
mod control;
#[expect(dead_code, reason = "`wire` asks for more")]
#[path = "../../sets/dns.rs"]
mod dns;
mod guard;
mod hub;
#[path = "../../hub/orders.rs"]
mod orders;
mod proxy;
#[cfg_attr(not(test), expect(dead_code, reason = "`wire` asks for more"))]
#[path = "../../sets/resolver.rs"]
mod resolver;
mod trouble;
mod tunnel;
mod voice;

use std::fs::File;
use std::io::Read;
use std::process::ExitCode;

use nix::unistd::dup2_stdin;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

use hub::Hub;
use orders::{LONGEST, Orders};
use trouble::{Context, Trouble};
use tunnel::Memory;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            voice::error(&trouble.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Trouble> {
    let memory = Memory::inherited();
    let orders = read()?;
    let socket = control::inherited()?;
    let supervisor = voice::Supervisor::find();
    // Threads inherit it, so there are none before.
    let guard = guard::confine(&orders)?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context("no event loop")?;
    runtime.block_on(async {
        let mut ended = signal(SignalKind::terminate()).context("cannot hear SIGTERM")?;
        let mut stopped = signal(SignalKind::interrupt()).context("cannot hear SIGINT")?;
        let mut hub = Hub::start(orders, guard, memory)?;
        supervisor.ready();
        tokio::select! {
            listened = control::listen(socket, &mut hub) => listened?,
            _ = ended.recv() => {}
            _ = stopped.recv() => {}
        }
        let is_lost = hub.is_lost();
        hub.drain().await;
        match is_lost {
            true => Err(Trouble("the hub has another namespace than this process; start it anew".to_owned())),
            false => Ok(()),
        }
    })
}

/// The orders, which come on standard input; nothing else tells what to serve.
fn read() -> Result<Orders, Trouble> {
    let mut text = String::new();
    std::io::stdin().lock().take(LONGEST).read_to_string(&mut text).context("cannot read its orders")?;
    // They hold keys, and must not lie there to be read again.
    let nothing = File::open("/dev/null").and_then(|null| Ok(dup2_stdin(null)?));
    nothing.context("cannot let go of its orders")?;
    serde_json::from_str(&text).map_err(|_| Trouble("wire-hub is started by `wire hub NAME`, and has no orders".into()))
}
