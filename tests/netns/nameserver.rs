//! A name server of our own: a text says what it answers, and how badly. It is this very test binary once more, in a namespace
//! of the pretend host, so that it needs no program that machines may lack.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};

use crate::host::{Host, Running};

/// Names the zone to the server that is started.
const VARIABLE: &str = "WIRE_TEST_ZONE";
const TEST: &str = "nameserver::the_server_answers_as_its_zone_says";
/// The zone as the pretend host sees it: `NAME A|AAAA|CNAME DATA`, one a line; a line of one word says how it behaves:
/// `SERVFAIL`, `SILENT`, `FORGED` (wrong answers come first), `TRUNCATED` (by UDP nothing fits). No other name is there.
const ZONE: &str = "/run/zone";
/// Where it listens: the host's far end.
const ADDRESS: &str = "192.0.2.1:53";

/// The server, as long as the value lives.
pub struct NameServer<'a> {
    host: &'a Host,
    _running: Running,
}

impl NameServer<'_> {
    /// Starts it beyond the uplink, and makes it the host's.
    pub fn start(host: &Host) -> NameServer<'_> {
        host.write("/run/resolv.conf", "nameserver 192.0.2.1\n");
        host.write("/run/hosts", "127.0.0.1 localhost\n");
        host.write(ZONE, "");
        host.sh("mount --bind /run/resolv.conf /etc/resolv.conf; mount --bind /run/hosts /etc/hosts");
        let program = std::env::current_exe().expect("a program");
        let variable = format!("{VARIABLE}={ZONE}");
        let argv = ["env", &variable, program.to_str().expect("UTF-8"), "--exact", TEST, "--nocapture"];
        let mut running = host.start("lan", &argv);
        let said = BufReader::new(running.0.stdout.as_mut().expect("a pipe")).lines().map_while(Result::ok);
        assert!(said.into_iter().any(|line| line.ends_with("ready")), "the name server does not start");
        NameServer { host, _running: running }
    }

    /// From now on it answers so.
    pub fn zone(&self, text: &str) {
        self.host.write(ZONE, text);
    }
}

/// Answers for ever.
fn serve(zone: PathBuf, udp: UdpSocket, tcp: TcpListener) {
    let forger = UdpSocket::bind((udp.local_addr().expect("an address").ip(), 0)).expect("a port");
    let of_tcp = zone.clone();
    std::thread::spawn(move || tcp.incoming().flatten().try_for_each(|stream| by_tcp(&of_tcp, stream)));
    let mut buffer = [0; 512];
    while let Ok((length, from)) = udp.recv_from(&mut buffer) {
        let zone = std::fs::read_to_string(&zone).expect("a zone");
        let question = &buffer[..length];
        let behaves = |word| zone.lines().any(|line| line == word);
        if behaves("SILENT") {
            continue;
        }
        if behaves("FORGED") {
            let forged = answer("anna.example.net A 203.0.113.66\nanna.example.net AAAA 2001:db8::66", question);
            forger.send_to(&forged, from).expect("sent");
            for octet in [0, 1, 14] {
                let mut forged = forged.clone();
                forged[octet] ^= 1;
                udp.send_to(&forged, from).expect("sent");
            }
        }
        let mut answer = answer(&zone, question);
        if behaves("TRUNCATED") {
            answer.truncate(question.len());
            (answer[2], answer[7]) = (answer[2] | 2, 0);
        }
        // Whoever asked may have had enough by now.
        let _ = udp.send_to(&answer, from);
    }
}

fn by_tcp(zone: &Path, mut stream: TcpStream) -> std::io::Result<()> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut question = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut question)?;
    let answer = answer(&std::fs::read_to_string(zone)?, &question);
    let length = (answer.len() as u16).to_be_bytes();
    // In two parts, as a slow network would bring it.
    stream.write_all(&length)?;
    stream.write_all(&answer)
}

/// The answer of a zone to a question (RFC 1035): all records of the name, or a code for why there is none.
fn answer(zone: &str, question: &[u8]) -> Vec<u8> {
    let mut name = Vec::new();
    let mut at = 12;
    while question[at] != 0 {
        let end = at + 1 + usize::from(question[at]);
        name.push(String::from_utf8_lossy(&question[at + 1..end]).to_lowercase());
        at = end;
    }
    let (name, kind) = (name.join("."), question[at + 2]);
    let mut answer = question[..at + 5].to_vec();
    let records: Vec<Vec<&str>> = zone.lines().map(|line| line.split(' ').collect()).collect();
    let of = |name: &str| records.iter().filter(|words| words.len() == 3 && words[0] == name).collect::<Vec<_>>();
    let code = if zone.lines().any(|line| line == "SERVFAIL") {
        2
    } else if of(&name).is_empty() {
        3
    } else {
        0
    };
    (answer[2], answer[3]) = (0x81, 0x80 | code);
    // Whatever stood behind the question is not there any more.
    answer[6..12].fill(0);
    let mut owners = vec![name];
    let mut count = 0;
    while let Some(owner) = owners.pop().filter(|_| code == 0) {
        for words in of(&owner) {
            let (of, data) = match words[1] {
                "CNAME" => {
                    owners.push(words[2].to_owned());
                    (5, labels(words[2]))
                }
                word => match words[2].parse().expect("an address") {
                    IpAddr::V4(v4) if word == "A" => (1, v4.octets().to_vec()),
                    IpAddr::V6(v6) if word == "AAAA" => (28, v6.octets().to_vec()),
                    _ => panic!("{words:?}"),
                },
            };
            if of != 5 && of != kind {
                continue;
            }
            answer.extend(labels(&owner));
            answer.extend([0, of, 0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
            answer.extend(data);
            count += 1;
        }
    }
    answer[7] = count;
    answer
}

fn labels(name: &str) -> Vec<u8> {
    let labels = name.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
    labels.chain([0]).collect()
}

/// The server answers from its zone, by UDP and by TCP, and nothing but what stands there. With a zone in its environment this
/// is the server that the other tests start.
#[test]
fn the_server_answers_as_its_zone_says() {
    let bind = |address: SocketAddr| {
        (UdpSocket::bind(address).expect("a free port"), TcpListener::bind(address).expect("a free port"))
    };
    if let Some(zone) = std::env::var_os(VARIABLE) {
        let (udp, tcp) = bind(ADDRESS.parse().expect("an address"));
        std::io::stdout().write_all(b"ready\n").expect("a reader");
        return serve(zone.into(), udp, tcp);
    }
    let zone = std::env::temp_dir().join(format!("wire-zone-{}", std::process::id()));
    std::fs::write(&zone, "www.example.net CNAME anna.example.net\nanna.example.net A 203.0.113.5\nTRUNCATED")
        .expect("a file");
    let (udp, tcp) =
        (UdpSocket::bind("127.0.0.1:0").expect("a port"), TcpListener::bind("127.0.0.1:0").expect("a port"));
    let (by_udp, by_tcp) = (udp.local_addr().expect("an address"), tcp.local_addr().expect("an address"));
    let served = zone.clone();
    std::thread::spawn(move || serve(served, udp, tcp));

    let head = |flags: [u8; 2], count| [7, 9, flags[0], flags[1], 0, 1, 0, count, 0, 0, 0, 0];
    let question = |name| [&head([1, 0], 0)[..], &labels(name), &[0, 1, 0, 1]].concat();
    let ask = |name| {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        socket.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("a limit");
        socket.send_to(&question(name), by_udp).expect("sent");
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).expect("an answer");
        buffer[..length].to_vec()
    };
    let www = question("www.example.net");
    assert_eq!(ask("www.example.net"), [&head([0x83, 0x80], 0), &www[12..]].concat(), "truncated");
    let mut stream = TcpStream::connect(by_tcp).expect("a server");
    stream.write_all(&[&[0, www.len() as u8][..], &www].concat()).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let alias =
        [&labels("www.example.net")[..], &[0, 5, 0, 1, 0, 0, 0, 60, 0, 18], &labels("anna.example.net")].concat();
    let address = [&labels("anna.example.net")[..], &[0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 5]].concat();
    assert_eq!(answer[2..], [&head([0x81, 0x80], 2), &www[12..], &alias, &address].concat());

    std::fs::write(&zone, "anna.example.net A 203.0.113.5").expect("a file");
    assert_eq!(ask("bert.example.net")[3], 0x83, "nobody");
    assert_eq!(ask("Anna.Example.net")[7], 1);
    std::fs::write(&zone, "SERVFAIL").expect("a file");
    assert_eq!(ask("anna.example.net")[3], 0x82);
    std::fs::remove_file(&zone).expect("a file");
}
