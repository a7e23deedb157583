//! Requests that are not what they seem: each is refused, logged, and never heard by an upstream.

use serde_json::json;

use super::{House, site, wait};

fn house() -> House {
    let mut house = House::closed();
    house.upstream(8080);
    house.start(&json!([site("a.example", 8080, json!({ "methods": ["GET", "HEAD", "POST"] }))]));
    house
}

/// What a second request would ask for that is hidden in the body or the head of a first.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a.example\r\n\r\n";

fn post(headers: &str, body: &str) -> String {
    format!("POST /first HTTP/1.1\r\nHost: a.example\r\n{headers}\r\n\r\n{body}")
}

#[test]
fn a_request_is_never_two_and_a_broken_one_is_none() {
    let house = house();
    let chunked = "Transfer-Encoding: chunked";
    let cases: Vec<(&str, String, &str)> = vec![
        ("CL and TE", post(&format!("Content-Length: 6\r\n{chunked}"), &format!("0\r\n\r\n{HIDDEN}")), "400"),
        ("TE and CL", post(&format!("{chunked}\r\nContent-Length: 6"), &format!("0\r\n\r\n{HIDDEN}")), "400"),
        ("two CL", post("Content-Length: 0\r\nContent-Length: 5", HIDDEN), "400"),
        ("two equal CL", post("Content-Length: 5\r\nContent-Length: 5", "hello"), "400"),
        ("CL list", post("Content-Length: 5, 5", "hello"), "400"),
        ("CL +5", post("Content-Length: +5", "hello"), "400"),
        ("CL -1", post("Content-Length: -1", "hello"), "400"),
        ("CL hex", post("Content-Length: 0x5", "hello"), "400"),
        ("CL too large", post("Content-Length: 99999999999999999999", "hello"), "400"),
        ("TE xchunked", post("Transfer-Encoding: xchunked", &format!("0\r\n\r\n{HIDDEN}")), "400"),
        ("TE identity", post("Transfer-Encoding: identity", HIDDEN), "400"),
        ("TE twice", post(&format!("{chunked}\r\n{chunked}"), "0\r\n\r\n"), "400"),
        ("TE list", post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"), "400"),
        ("TE with VT", post("Transfer-Encoding:\u{b}chunked", &format!("0\r\n\r\n{HIDDEN}")), "400"),
        ("TE with a space before the colon", post("Transfer-Encoding : chunked", &format!("0\r\n\r\n{HIDDEN}")), "400"),
        ("TE in HTTP/1.0", post(chunked, "0\r\n\r\n").replace("HTTP/1.1", "HTTP/1.0"), "400"),
        ("folded", post("X: a\r\n Transfer-Encoding: chunked", ""), "400"),
        ("folded TE", post("Transfer-Encoding:\r\n chunked", &format!("0\r\n\r\n{HIDDEN}")), "400"),
        ("bare LF", post("X: a\nContent-Length: 5", "hello"), "400"),
        ("bare LF at the end", format!("GET /first HTTP/1.1\r\nHost: a.example\n\n{HIDDEN}"), "400"),
        ("bare CR", post("X: a\rContent-Length: 5", "hello"), "400"),
        ("NUL in a value", post("X: a\0b", ""), "400"),
        ("NUL in a name", post("X\0Y: a", ""), "400"),
        ("no colon", post("nonsense", ""), "400"),
        ("a name with a space", post("X Y: a", ""), "400"),
        ("an empty name", post(": a", ""), "400"),
        ("chunk size with a sign", post(chunked, "+5\r\nhello\r\n0\r\n\r\n"), "400"),
        ("chunk size 0x", post(chunked, "0x5\r\nhello\r\n0\r\n\r\n"), "400"),
        ("chunk size too large", post(chunked, "fffffffffffffffff\r\nhello\r\n0\r\n\r\n"), "400"),
        ("chunk with bare LF", post(chunked, "5\nhello\n0\n\n"), "400"),
        ("chunk too long", post(chunked, "5\r\nhello!\r\n0\r\n\r\n"), "400"),
        ("chunk without a size", post(chunked, &format!("\r\n{HIDDEN}")), "400"),
        ("no host", "GET /first HTTP/1.1\r\n\r\n".into(), "400"),
        ("two hosts", post("Host: a.example", ""), "400"),
        ("another host in the URL", "GET https://b.example/first HTTP/1.1\r\nHost: a.example\r\n\r\n".into(), "400"),
        ("a host with a path", "GET / HTTP/1.1\r\nHost: a.example/x\r\n\r\n".into(), "400"),
        ("a host with a user", "GET / HTTP/1.1\r\nHost: u@a.example\r\n\r\n".into(), "400"),
        ("another host", "GET / HTTP/1.1\r\nHost: b.example\r\n\r\n".into(), "421"),
        ("CONNECT", "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n".into(), "405"),
        ("TRACE", "TRACE / HTTP/1.1\r\nHost: a.example\r\n\r\n".into(), "405"),
        ("no HTTP", "\u{1}\u{2}nonsense\r\n\r\n".into(), "400"),
        ("HTTP/0.9", "GET /first\r\n\r\n".into(), "400"),
        ("HTTP/3.0", "GET /first HTTP/3.0\r\nHost: a.example\r\n\r\n".into(), "400"),
        ("a space in the path", "GET /first second HTTP/1.1\r\nHost: a.example\r\n\r\n".into(), "400"),
        ("a head too large", post(&format!("X: {}", "a".repeat(40_000)), ""), "431"),
        ("too many headers", post(&"X: a\r\n".repeat(150), ""), "431"),
        ("a body too large", post("Content-Length: 20000000", "hello"), "413"),
    ];
    let sent: Vec<_> = cases.iter().map(|(_, text, _)| text.clone().into_bytes()).collect();
    let answers = house.raw(&sent, "http/1.1");
    assert_eq!(answers.len(), cases.len());
    for ((name, _, status), (end, answer)) in cases.iter().zip(&answers) {
        let answer = String::from_utf8_lossy(answer);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) || answer.starts_with(&format!("HTTP/1.0 {status} ")),
            "{name}: {end} {answer:?}"
        );
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{name}: {answer:?}");
        // What somebody has seen to be asked too much of is answered as sites do.
        let told = |header: &str| answer.to_lowercase().contains(&format!("\r\n{header}: "));
        assert!(*status != "405" || told("allow"), "{name}: {answer:?}");
        assert!(
            !matches!(*status, "405" | "421") || told("strict-transport-security") && told("x-content-type-options"),
            "{name}: {answer:?}"
        );
    }
    // Each is logged, as what it was.
    wait("all are logged", || house.log().len() >= cases.len());
    let log = house.log();
    for (name, _, status) in &cases {
        let of = |status: &str| cases.iter().filter(|case| case.2 == status).count();
        let logged =
            log.iter().filter(|line| line["status"].as_u64().is_some_and(|code| code.to_string() == *status)).count();
        assert_eq!(logged, of(status), "{name}: {status} of {log:#?}");
    }
    let heard = house.all_heard();
    assert!(heard.iter().all(|one| one["path"] != "/hidden"), "{heard:?}");
    let whole: Vec<_> = heard.iter().filter(|one| one["path"] == "/first").collect();
    assert!(whole.is_empty(), "{whole:?}");
}

/// What is odd and yet has one meaning passes, in a form that has no other.
#[test]
fn what_is_odd_but_clear_passes_plainly() {
    let house = house();
    let answers = house.raw(
        &[
            post("Transfer-Encoding: chunked", "5;a=b\r\nhello\r\n0\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n").into_bytes(),
            format!("{}{HIDDEN}", post("Content-Length: 5", "hello")).into_bytes(),
            b"GET /old HTTP/1.0\r\nHost: a.example\r\n\r\n".to_vec(),
            b"GET https://a.example/whole HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n".to_vec(),
        ],
        "http/1.1",
    );
    let counts: Vec<_> =
        answers.iter().map(|(_, answer)| String::from_utf8_lossy(answer).matches(" 200 OK").count()).collect();
    assert_eq!(counts, [1, 2, 1, 1], "{answers:?}");
    let heard = house.all_heard();
    let paths: Vec<_> = heard.iter().map(|one| one["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/first", "/first", "/hidden", "/old", "/whole"]);
    assert!(heard.iter().all(|one| one["headers"]["x-forwarded-for"] == "198.51.100.1"), "{heard:?}");
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Headers without compression, each by its length.
fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| {
        assert!(text.len() < 127);
        [&[text.len() as u8], text.as_bytes()].concat()
    };
    headers.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

#[test]
fn http_2_is_no_way_around() {
    let house = house();
    let head = [(":method", "GET"), (":scheme", "https"), (":authority", "a.example"), (":path", "/first")];
    let with = |more: &[(&str, &str)]| block(&[&head[..], more].concat());
    let without = |name: &str| block(&head.iter().filter(|one| one.0 != name).copied().collect::<Vec<_>>());
    let instead =
        |name: &str, value: &'static str| block(&head.map(|one| if one.0 == name { (one.0, value) } else { one }));
    let cases = [
        ("a name in upper case", with(&[("X-Upper", "a")])),
        ("CR LF in a value", with(&[("x", "a\r\nx-forwarded-for: 1.2.3.4")])),
        ("LF in a name", with(&[("x\ny", "a")])),
        ("NUL in a value", with(&[("x", "a\0")])),
        ("connection", with(&[("connection", "close")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("upgrade", with(&[("upgrade", "websocket")])),
        ("te", with(&[("te", "gzip")])),
        ("a late pseudo-header", with(&[("x", "a"), (":path", "/hidden")])),
        ("two paths", with(&[(":path", "/hidden")])),
        ("an unknown pseudo-header", with(&[(":x", "a")])),
        ("a status", with(&[(":status", "200")])),
        ("another host", with(&[("host", "b.example")])),
        ("two hosts", with(&[("host", "a.example"), ("host", "a.example")])),
        ("no method", without(":method")),
        ("no path", without(":path")),
        ("no scheme", without(":scheme")),
        ("no authority", without(":authority")),
        ("an empty path", instead(":path", "")),
        ("CR LF in the path", instead(":path", "/first HTTP/1.1\r\nx: y")),
        ("a space in the path", instead(":path", "/first second")),
        ("CR LF in the method", instead(":method", "GET / HTTP/1.1\r\nx: y")),
        ("CR LF in the authority", instead(":authority", "a.example\r\nx: y")),
        ("a user in the authority", instead(":authority", "u@a.example")),
        ("another authority", instead(":authority", "b.example")),
        ("CONNECT", block(&[(":method", "CONNECT"), (":authority", "a.example")])),
        ("extended CONNECT", block(&[&[(":method", "CONNECT"), (":protocol", "websocket")], &head[1..]].concat())),
        ("a length that is not so", with(&[("content-length", "5")])),
    ];
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[])].concat();
    // The end of the headers, and of the stream.
    let sent: Vec<_> = cases.iter().map(|(_, block)| [&preface[..], &frame(1, 5, 1, block)].concat()).collect();
    for ((name, _), (end, answer)) in cases.iter().zip(house.raw(&sent, "h2")) {
        let mut rest = &answer[..];
        let mut refused = end != "open";
        while rest.len() >= 9 {
            let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
            // A stream or the connection is ended, or the answer is no success: indexed `:status` 400, 404, or another by name.
            refused |= matches!(rest[3], 3 | 7) || rest[3] == 1 && matches!(rest[9], 0x8c | 0x8d | 0x48 | 0x08);
            rest = &rest[(9 + length).min(rest.len())..];
        }
        assert!(refused, "{name}: {end} {answer:?}");
    }
    // Whoever resets what it has just begun, again and again, is sent away.
    let mut rapid = preface.clone();
    for number in 0..2000 {
        rapid.extend(frame(1, 5, 2 * number + 1, &with(&[])));
        rapid.extend(frame(3, 0, 2 * number + 1, &[0, 0, 0, 8]));
    }
    let heard = house.all_heard();
    assert!(heard.is_empty(), "{heard:?}");
    let (end, _) = &house.raw(&[rapid], "h2")[0];
    assert_ne!(end, "open", "it goes on");
    assert!(house.all_heard().len() < 1000);
    assert_eq!(house.status(&["--http2", "https://a.example/"]), "200");
}

/// Some upstreams take no POST that does not say how long it is.
#[test]
fn a_post_of_nothing_says_so() {
    let house = house();
    for version in ["--http1.1", "--http2"] {
        let heard = house.heard(&[version, "-X", "POST", "-H", "Content-Length:", "https://a.example/"]);
        assert_eq!((&heard["method"], &heard["headers"]["content-length"]), (&json!("POST"), &json!("0")), "{heard}");
        let heard = house.heard(&[version, "https://a.example/"]);
        assert_eq!(heard["headers"]["content-length"], json!(null), "{heard}");
    }
}
