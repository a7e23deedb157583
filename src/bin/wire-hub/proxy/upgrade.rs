//! WebSockets: a connection to the client and one to the upstream become one.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio::task::spawn_local;

use super::body::Outgoing;
use super::record::Record;
use super::worker::Phase;
use hyper::body::Bytes;

/// The body of the answer that says so. Both sides are joined as soon as it is sent, until one ends or the proxy does.
pub fn start(client: OnUpgrade, upstream: OnUpgrade, record: Record) -> Outgoing {
    // The request is over only when the WebSocket is.
    let told = Record::silent(&record);
    let mut record = record;
    let mut phase = record.talk().worker.phase();
    spawn_local(async move {
        let (Ok(client), Ok(upstream)) = (client.await, upstream.await) else { return };
        let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
        tokio::select! {
            copied = copy_bidirectional(&mut client, &mut upstream) => {
                record.bytes = copied.map_or(0, |(_, down)| down);
            }
            _ = phase.wait_for(|phase| *phase >= Phase::Closes) => {}
        }
        drop(record);
    });
    Outgoing::Own(None::<Bytes>, Box::new(told))
}
