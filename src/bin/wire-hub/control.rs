//! The socket that `wire` asks over: one line of JSON, one line back.

use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net;
use std::time::Duration;

use nix::unistd::geteuid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::hub::Hub;
use crate::orders::{Answer, LONGEST, SOCKET};
use crate::trouble::{Context, Trouble};

/// Whoever asks does so at once.
const PATIENCE: Duration = Duration::from_secs(5);

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

/// Answers whoever asks, one at a time. Ends only where nobody can ask any more, or nobody is served any more.
pub async fn listen(socket: net::UnixListener, hub: &mut Hub) -> Result<(), Trouble> {
    let socket = UnixListener::from_std(socket).context("cannot listen to wire")?;
    loop {
        let (stream, _) = socket.accept().await.context("cannot hear wire")?;
        // Root, or whoever runs the hub.
        let known = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw());
        if known {
            // One that asks for nothing, or does not listen, is let go of.
            if let Ok(Ok(Answer::Moved)) = timeout(PATIENCE, talk(stream, hub)).await {
                return Err(Trouble("the hub lives in another namespace now; it must be started anew there".into()));
            }
        }
    }
}

async fn talk(stream: UnixStream, hub: &mut Hub) -> std::io::Result<Answer> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(LONGEST)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(ask) => hub.answer(ask),
        Err(_) => Answer::Restart("it is of another version of wire".into()),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    write.write_all(&text).await?;
    Ok(answer)
}
