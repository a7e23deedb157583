//! The socket that `wire` asks over: one line of JSON, one line back.

use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net;
use std::time::Duration;

use nix::unistd::geteuid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

use crate::hub::Hub;
use crate::orders::{Answer, LONGEST, SOCKET};
use crate::trouble::{Context, Trouble};

/// Whoever asks does so at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// After this it is listened again.
const AGAIN: Duration = Duration::from_millis(100);

/// The socket that `wire hub` has left open for it.
pub fn inherited() -> Result<net::UnixListener, Trouble> {
    nix::sys::socket::getsockname::<nix::sys::socket::UnixAddr>(SOCKET)
        .map_err(|_| Trouble("wire-hub is started by `wire hub NAME`, and has no socket".into()))?;
    #[expect(unsafe_code, reason = "a descriptor that a parent left open has no owner until it is taken")]
    // SAFETY: it is open, a socket, and nothing else in this program knows of it.
    let fd = unsafe { OwnedFd::from_raw_fd(SOCKET) };
    let socket = net::UnixListener::from(fd);
    socket.set_nonblocking(true).context("cannot listen to wire")?;
    Ok(socket)
}

/// Answers whoever asks, one at a time, until the hub is to be started anew.
pub async fn listen(socket: net::UnixListener, hub: &mut Hub) -> Result<(), Trouble> {
    let socket = UnixListener::from_std(socket).context("cannot listen to wire")?;
    loop {
        // It may be out of descriptors: clients are served all the same, and `wire` asks again.
        let Ok((stream, _)) = socket.accept().await else {
            sleep(AGAIN).await;
            continue;
        };
        // Root, or whoever runs the hub.
        let known = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw());
        if known {
            // One that asks for nothing, or does not listen, is let go of.
            let _ = timeout(PATIENCE, talk(stream, hub)).await;
        }
        if hub.is_lost() {
            return Ok(());
        }
    }
}

async fn talk(stream: UnixStream, hub: &mut Hub) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(LONGEST)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(ask) => hub.answer(ask),
        Err(_) => Answer::Restart("it is of another version of wire".into()),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    write.write_all(&text).await
}
