//! Asks for the addresses of names: `/etc/hosts` first, then the name servers of the machine, all names at once, by UDP and
//! where an answer does not fit by TCP. It never takes longer than two seconds. A name has either an answer or a reason.
//!
//! Whoever would forge an answer without seeing the question must guess its id and its port, both of which are random, and
//! send it in the name of the server: the socket takes datagrams from no other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use super::dns::{self, Answer, Kind};
use super::resolver;

/// All questions together take no longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// After this the next server is asked, or the same again.
const TRY: Duration = Duration::from_millis(500);
/// Questions under way at once, each on a thread of its own that does nothing but wait.
const AT_ONCE: usize = 128;
const STACK: usize = 128 << 10;

/// The addresses of one kind that a name has, none where it has none; or why they cannot be known.
pub type Outcome = Result<BTreeSet<IpAddr>, String>;
/// By name, what was answered for either kind.
pub type Answers = BTreeMap<String, [(Kind, Outcome); 2]>;

/// Asks for all of them.
pub fn ask(names: BTreeSet<String>) -> Answers {
    if names.is_empty() {
        return Answers::new();
    }
    let text = |path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let index = |device: &str| {
        let path = format!("/sys/class/net/{device}/ifindex");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let known = resolver::hosts(&text("/etc/hosts"), &names);
    let unknown: Vec<&String> = names.iter().filter(|name| !known.contains_key(*name)).collect();
    let servers = resolver::servers(&text("/etc/resolv.conf"), index);
    let mut answers = servers_answers(&unknown, &servers, PATIENCE);
    for (name, addresses) in known {
        let of = |kind| (kind, Ok(addresses.iter().filter(|address| Kind::of(address) == kind).copied().collect()));
        answers.insert(name, Kind::BOTH.map(of));
    }
    answers
}

/// Asks these servers, each question by itself.
fn servers_answers(names: &[&String], servers: &[SocketAddr], patience: Duration) -> Answers {
    let deadline = Instant::now() + patience;
    let questions: Vec<(&str, Kind)> =
        names.iter().flat_map(|name| Kind::BOTH.map(|kind| (name.as_str(), kind))).collect();
    let count = questions.len();
    let queue = Mutex::new(questions.into_iter());
    let told = Mutex::new(BTreeMap::new());
    let work = || {
        // A lock is poisoned by a panic alone, and then the scope below ends in one too.
        while let Some((name, kind)) = queue.lock().ok().and_then(|mut queue| queue.next()) {
            let outcome = one(name, kind, servers, deadline);
            if let Ok(mut told) = told.lock() {
                told.insert((name, kind), outcome);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..count.min(AT_ONCE) {
            // Where there can be no more threads, there are those that there are.
            if thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    let mut told = told.into_inner().unwrap_or_default();
    let mut answers = Answers::new();
    for name in names {
        let mut of =
            |kind| told.remove(&(name.as_str(), kind)).unwrap_or_else(|| Err("it was not asked for".to_owned()));
        answers.insert((*name).clone(), Kind::BOTH.map(|kind| (kind, of(kind))));
    }
    answers
}

/// Asks one server after the other until one says something, or the time is over.
fn one(name: &str, kind: Kind, servers: &[SocketAddr], deadline: Instant) -> Outcome {
    let mut silent = BTreeSet::new();
    let mut reason = None;
    let mut turns = servers.iter().cycle();
    // One who refuses at once is not asked for ever.
    let mut refusals = 0;
    while let Some(server) = turns.next().filter(|_| refusals < 2 * servers.len() && Instant::now() < deadline) {
        let start = Instant::now();
        let said = by_udp(name, kind, *server, deadline.min(start + TRY)).and_then(|answer| match answer {
            Answer::Cut => by_tcp(name, kind, *server, deadline),
            answer => Ok(answer),
        });
        match said {
            Ok(Answer::Addresses(addresses)) => return Ok(addresses),
            Ok(Answer::Nobody) => return Err(format!("{} says that there is no such name", server.ip())),
            Ok(Answer::Cut) => reason = Some(format!("{} cuts its answer short", server.ip())),
            Ok(Answer::Refused(code)) => reason = Some(format!("{} answers {}", server.ip(), words(code))),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                silent.insert(server.ip());
                continue;
            }
            Err(error) => reason = Some(format!("{} cannot be asked: {}", server.ip(), plain(&error))),
        }
        refusals += 1;
    }
    let silent: Vec<String> = silent.iter().map(IpAddr::to_string).collect();
    Err(reason.unwrap_or_else(|| match silent.is_empty() {
        true => "there was no time left for it".to_owned(),
        false => format!("no answer from {}", silent.join(", ")),
    }))
}

fn words(code: u16) -> String {
    match code {
        1 => "FORMERR".to_owned(),
        2 => "SERVFAIL".to_owned(),
        4 => "NOTIMP".to_owned(),
        5 => "REFUSED".to_owned(),
        code => format!("with code {code}"),
    }
}

/// The error's words without the number that the standard library adds.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error ").next().unwrap_or_default().to_owned()
}

fn by_udp(name: &str, kind: Kind, server: SocketAddr, until: Instant) -> io::Result<Answer> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // The kernel picks a free port at random.
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    let id = random()?;
    socket.send(&question(id, name, kind)?)?;
    // More than a server may send that was not told how much we take (RFC 1035, 4.2.1: 512).
    let mut buffer = [0; 4096];
    loop {
        socket.set_read_timeout(Some(left(until)?))?;
        let length = socket.recv(&mut buffer)?;
        if let Some(answer) = buffer.get(..length).and_then(|message| dns::answer(message, id, name, kind)) {
            return Ok(answer);
        }
    }
}

fn by_tcp(name: &str, kind: Kind, server: SocketAddr, until: Instant) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&server, left(until)?)?;
    let id = random()?;
    let question = question(id, name, kind)?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.set_write_timeout(Some(left(until)?))?;
    stream.write_all(&[&length.to_be_bytes()[..], &question].concat())?;
    let mut length = [0; 2];
    read(&mut stream, &mut length, until)?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    read(&mut stream, &mut message, until)?;
    let answer = dns::answer(&message, id, name, kind);
    answer.ok_or_else(|| io::Error::other("it answers something else by TCP"))
}

/// Fills the buffer, however slowly it comes, but not for longer.
fn read(stream: &mut TcpStream, mut buffer: &mut [u8], until: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => buffer = buffer.get_mut(length..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The time that is left, never none, which would mean for ever.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left.max(Duration::from_millis(1))) }
}

fn question(id: u16, name: &str, kind: Kind) -> io::Result<Vec<u8>> {
    dns::question(id, name, kind).ok_or_else(|| io::Error::other("the name is none"))
}

fn random() -> io::Result<u16> {
    let mut bytes = [0; 2];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u16::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server on this machine's loopback that answers as told, and says how it is called.
    fn server(mut answer: impl FnMut(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                for message in answer(&buffer[..length]) {
                    socket.send_to(&message, from).unwrap();
                }
            }
        });
        address
    }

    /// The answer to a question: a response code and, for a question of IPv4, this address.
    fn message(question: &[u8], code: u8, address: [u8; 4]) -> Vec<u8> {
        let mut message = question.to_vec();
        (message[2], message[3]) = (0x81, 0x80 | code);
        if question[question.len() - 3] == 1 {
            message[7] = 1;
            message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            message.extend(address);
        }
        message
    }

    fn asked(servers: &[SocketAddr], patience: u64) -> [(Kind, Outcome); 2] {
        let name = "anna.example.net".to_owned();
        servers_answers(&[&name], servers, Duration::from_millis(patience)).remove(&name).unwrap()
    }

    #[test]
    fn the_next_server_is_asked_where_one_cannot_say() {
        let refuses = server(|question| vec![message(question, 2, [203, 0, 113, 1])]);
        let silent = server(|_| vec![]);
        let good = server(|question| vec![message(question, 0, [203, 0, 113, 5])]);
        // A port that nobody listens on any more.
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let wanted = [(Kind::A, Ok(["203.0.113.5".parse().unwrap()].into())), (Kind::Aaaa, Ok(BTreeSet::new()))];
        assert_eq!(asked(&[refuses, closed, silent, good], 20_000), wanted);
    }

    #[test]
    fn forged_answers_are_passed_over() {
        let forger = server(|question| {
            let forged = |at: usize| {
                let mut forged = message(question, 0, [6, 6, 6, 6]);
                forged[at] ^= 1;
                forged
            };
            // Another id, another name, another kind, a question, and rubbish, before the right one.
            let end = question.len() - 3;
            vec![
                forged(0),
                forged(1),
                forged(14),
                forged(end),
                question.to_vec(),
                vec![7; 5],
                vec![],
                message(question, 0, [203, 0, 113, 5]),
            ]
        });
        assert_eq!(asked(&[forger], 20_000)[0], (Kind::A, Ok(["203.0.113.5".parse().unwrap()].into())));
    }

    /// Nobody who is silent, or refuses for ever, holds up anything.
    #[test]
    fn there_is_an_end_to_patience() {
        let silent = server(|_| vec![]);
        let start = Instant::now();
        assert_eq!(asked(&[silent], 100)[0].1, Err("no answer from 127.0.0.1".to_owned()));
        assert!(start.elapsed() < Duration::from_secs(10));
        let refuses = server(|question| vec![message(question, 5, [0; 4])]);
        assert_eq!(asked(&[refuses], 20_000)[0].1, Err("127.0.0.1 answers REFUSED".to_owned()));
        let nobody = server(|question| vec![message(question, 3, [0; 4])]);
        assert_eq!(asked(&[nobody], 20_000)[1].1, Err("127.0.0.1 says that there is no such name".to_owned()));
        assert_eq!(asked(&[refuses], 0)[0].1, Err("there was no time left for it".to_owned()));
    }

    /// More names than threads, all answered.
    #[test]
    fn many_names_are_asked_at_once() {
        let good = server(|question| vec![message(question, 0, [203, 0, 113, 5])]);
        let names: Vec<String> = (0..200).map(|nth| format!("n{nth}.example.net")).collect();
        let answers = servers_answers(&names.iter().collect::<Vec<_>>(), &[good], Duration::from_secs(20));
        assert_eq!(answers.len(), 200);
        assert!(answers.values().all(|[(_, a), (_, aaaa)]| a.as_ref().is_ok_and(|a| a.len() == 1) && aaaa.is_ok()));
    }
}
