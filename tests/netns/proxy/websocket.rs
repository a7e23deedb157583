//! WebSockets: the only thing that a connection may become.

use std::io::{BufRead, Write};

use serde_json::json;

use super::{ADDRESS, House, site, wait};

/// Opens a WebSocket, and sends each line of standard input over it; says what comes back.
const CLIENT: &str = r#"
import socket, ssl, sys
context = ssl._create_unverified_context()
stream = context.wrap_socket(socket.create_connection((sys.argv[1], 443)), server_hostname="a.example")
stream.sendall(b"GET /socket HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
head = b""
while not head.endswith(b"\r\n\r\n"):
    head += stream.recv(1)
print(head.decode().split("\r\n")[0], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head.decode(), flush=True)
for line in sys.stdin:
    # Bytes as no line of HTTP has them.
    data = b"\x81\n\x00\n" + line.encode()
    stream.sendall(data)
    back = b""
    while len(back) < len(data):
        more = stream.recv(1000)
        if not more:
            sys.exit("closed")
        back += more
    print("same" if back == data else "other", flush=True)
"#;

#[test]
fn a_websocket_lives_through_reloads_and_ends_with_the_proxy() {
    let mut house = House::closed();
    house.upstream(8080);
    let sites = json!([site("a.example", 8080, json!({}))]);
    house.start(&sites);
    house.host.write("/run/websocket.py", CLIENT);
    let mut client = house.host.start("host", &["python3", "/run/websocket.py", ADDRESS]);
    let mut out = std::io::BufReader::new(client.0.stdout.take().expect("a pipe"));
    let mut input = client.0.stdin.take().expect("a pipe");
    let mut line = || {
        let mut line = String::new();
        out.read_line(&mut line).expect("a line");
        line
    };
    assert_eq!(line(), "HTTP/1.1 101 Switching Protocols True\n");
    for _ in 0..5 {
        writeln!(input, "hello").expect("it listens");
        assert_eq!(line(), "same\n");
        house.serve(&sites);
    }
    // Even with its site gone.
    house.serve(&json!([site("b.example", 8080, json!({}))]));
    writeln!(input, "hello").expect("it listens");
    assert_eq!(line(), "same\n");
    house.stop();
    wait("it is logged", || house.log().iter().any(|line| line["status"] == 101 && line["path"] == "/socket"));
}

#[test]
fn nothing_else_is_an_upgrade() {
    let mut house = House::closed();
    house.upstream(8080);
    house.start(&json!([site("a.example", 8080, json!({ "methods": ["GET", "POST"] }))]));
    for (upgrade, method) in [("h2c", "GET"), ("websocket, h2c", "GET"), ("TLS/1.0", "GET"), ("websocket", "POST")] {
        let upgrade = format!("Upgrade: {upgrade}");
        let settings = "HTTP2-Settings: AAMAAABkAAQAAP__";
        let heard = house.heard(&[
            "--http1.1",
            "-X",
            method,
            "-H",
            "Connection: Upgrade, HTTP2-Settings",
            "-H",
            &upgrade,
            "-H",
            settings,
            "https://a.example/",
        ]);
        let headers = heard["headers"].as_object().expect("headers");
        assert!(
            !headers.keys().any(|name| ["upgrade", "connection", "http2-settings"].contains(&&**name)),
            "{headers:?}"
        );
    }
}
