//! The addresses of an ACME directory: `/etc/hosts` first, then the name servers of the orders, for a hub's namespace has none of
//! its own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::super::shelf;
use crate::dns::{self, Answer, Kind};
use crate::resolver;
use crate::trouble::{Context, Trouble};

const PORT: u16 = 53;
/// After this the next server is asked, and then all of them once more.
const TRY: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;

/// The addresses of a host, those of IPv4 first.
pub async fn addresses(host: &str, servers: &[IpAddr]) -> Result<Vec<IpAddr>, Trouble> {
    if let Ok(address) = host.trim_matches(['[', ']']).parse() {
        return Ok(vec![address]);
    }
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let known = std::fs::read("/etc/hosts").unwrap_or_default();
    let known = resolver::hosts(&String::from_utf8_lossy(&known), &BTreeSet::from([host.clone()])).remove(&host);
    if let Some(known) = known {
        return Ok(known.into_iter().collect());
    }
    if servers.is_empty() {
        return Err(Trouble(format!("no name server is known that could be asked for {host}")));
    }
    let (four, six) = tokio::join!(one(&host, Kind::A, servers), one(&host, Kind::Aaaa, servers));
    let found: Vec<IpAddr> = [&four, &six].into_iter().flatten().flatten().copied().collect();
    match found.is_empty() {
        false => Ok(found),
        true => four.and(six).and_then(|_| Err(Trouble(format!("{host} has no address")))),
    }
}

async fn one(host: &str, kind: Kind, servers: &[IpAddr]) -> Result<BTreeSet<IpAddr>, Trouble> {
    let mut last = None;
    for server in servers.iter().cycle().take(servers.len() * ROUNDS) {
        match timeout(TRY, ask(host, kind, *server)).await {
            Ok(Ok(Answer::Addresses(addresses))) => return Ok(addresses),
            Ok(Ok(Answer::Nobody)) => {
                return Err(Trouble(format!("there is no {host}, says the name server {server}")));
            }
            Ok(Ok(Answer::Refused(code))) => last = Some(format!("it refuses with code {code}")),
            Ok(Ok(Answer::Cut)) => last = Some("it cuts its answer short".to_owned()),
            Ok(Err(trouble)) => last = Some(trouble.to_string()),
            Err(_) => last = Some("it does not answer".to_owned()),
        }
        last = last.map(|why| format!("cannot ask the name server {server} for {host}: {why}"));
    }
    Err(Trouble(last.unwrap_or_default()))
}

/// Asks a server, by TCP where the answer does not fit.
async fn ask(host: &str, kind: Kind, server: IpAddr) -> Result<Answer, Trouble> {
    // Whoever would forge an answer must guess it, and the port.
    let id = shelf::random() as u16;
    let question = dns::question(id, host, kind).ok_or_else(|| Trouble("that is no name".into()))?;
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let tried = "it cannot be reached";
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await.context(tried)?;
    socket.connect((server, PORT)).await.context(tried)?;
    socket.send(&question).await.context(tried)?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await.context(tried)?;
        match dns::answer(buffer.get(..length).unwrap_or_default(), id, host, kind) {
            Some(Answer::Cut) => break,
            Some(answer) => return Ok(answer),
            None => {}
        }
    }
    let mut stream = TcpStream::connect((server, PORT)).await.context(tried)?;
    let length = u16::try_from(question.len()).unwrap_or_default();
    stream.write_all(&[&length.to_be_bytes()[..], &question].concat()).await.context(tried)?;
    let length = stream.read_u16().await.context(tried)?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await.context(tried)?;
    dns::answer(&answer, id, host, kind).ok_or_else(|| Trouble("it answers something else".into()))
}
