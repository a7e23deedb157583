//! Who takes too long, and who does not wait for them.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{ADDRESS, House, site, wait};

/// Opens connections that send the beginning of a request and nothing more, and says when all have ended and how.
const SLOW: &str = r#"
import socket, ssl, sys, time
context = ssl._create_unverified_context()
held = []
for number in range(int(sys.argv[1])):
    stream = context.wrap_socket(socket.create_connection((sys.argv[2], 443)), server_hostname="a.example")
    stream.sendall(b"GET / HTTP/1.1\r\nHost: a.exam")
    held.append(stream)
print("ready", flush=True)
for stream in held:
    stream.settimeout(30)
    try:
        while stream.recv(1000):
            pass
    except TimeoutError:
        sys.exit("still open")
    except OSError:
        pass
print("closed", flush=True)
"#;

fn house() -> House {
    let mut house = House::closed();
    house.upstream(8080);
    house.start(&json!([site("a.example", 8080, json!({}))]));
    house
}

#[test]
fn slow_clients_hold_up_nobody_and_are_sent_away() {
    let house = house();
    house.host.write("/run/slow.py", SLOW);
    let mut slow = house.host.start("host", &["python3", "/run/slow.py", "200", ADDRESS]);
    let mut out = std::io::BufReader::new(slow.0.stdout.take().expect("a pipe"));
    let mut line = || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut out, &mut line).expect("a line");
        line
    };
    assert_eq!(line(), "ready\n");
    let begun = Instant::now();
    for _ in 0..10 {
        assert_eq!(house.status(&["https://a.example/"]), "200");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // One client has so many connections and no more; another still gets in.
    let mut more = house.host.start("host", &["python3", "/run/slow.py", "100", ADDRESS]);
    wait("it is told", || house.said().contains("198.51.100.1 has 256 connections"));
    assert_eq!(house.status(&["--interface", "198.51.100.9", "https://a.example/"]), "200");
    more.0.kill().expect("it runs");
    assert_eq!(line(), "closed\n");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    wait("they are logged", || house.log().iter().filter(|line| line["status"] == 408).count() >= 200);
}

#[test]
fn an_upstream_that_takes_too_long_is_given_up() {
    let house = house();
    let begun = Instant::now();
    assert_eq!(house.status(&["https://a.example/late"]), "504");
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(29) && took < Duration::from_secs(35), "{took:?}");
}

#[test]
fn an_upstream_that_hears_nothing_is_given_up_sooner() {
    let mut house = House::closed();
    house.host.run("edge", &["nft", "add table inet deaf; add chain inet deaf input { type filter hook input priority 0; }; add rule inet deaf input tcp dport 8080 drop"]).expect(0);
    house.start(&json!([site("a.example", 8080, json!({}))]));
    let begun = Instant::now();
    assert_eq!(house.status(&["https://a.example/"]), "502");
    assert!(
        begun.elapsed() > Duration::from_secs(4) && begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    let again = Instant::now();
    assert_eq!(house.status(&["https://a.example/"]), "502");
    assert!(again.elapsed() < Duration::from_secs(1), "the next need not wait: {:?}", again.elapsed());
}

/// What ends too early is seen to have.
#[test]
fn half_an_answer_is_not_taken_for_a_whole_one() {
    let house = house();
    for protocol in ["--http1.1", "--http2"] {
        assert_ne!(house.curl(&[protocol, "https://a.example/short"]).code, 0);
    }
    assert_eq!(house.status(&["https://a.example/"]), "200");
}

/// One client of HTTP/2 asks for more at a time than there are descriptors: the hub goes on, and hears `wire`.
#[test]
fn many_requests_at_a_time_do_not_use_up_all_descriptors() {
    let mut house = House::closed();
    house.upstream(8080);
    let sites = json!([site("a.example", 8080, json!({}))]);
    house.start_after("ulimit -n 420", &sites);
    let to = format!("--connect-to={ADDRESS}:443");
    let mut many =
        house.host.start("host", &["h2load", "-c", "20", "-m", "100", "-n", "2000", &to, "https://a.example/late"]);
    wait("they are there", || house.all_heard().len() >= 30);
    house.serve(&sites);
    wait("whoever finds no room is told", || house.log().iter().any(|line| line["status"] == 502));
    house.serve(&sites);
    many.0.kill().expect("it runs");
    wait("there is room again", || house.status(&["https://a.example/"]) == "200");
    let said = house.said();
    assert!(!said.contains("descriptors") && !said.contains("open files") && !said.contains("takes no"), "{said}");
}
