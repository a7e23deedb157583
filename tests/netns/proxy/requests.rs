//! What passes, what is refused, and what both sides see of each other.

use std::collections::BTreeSet;

use serde_json::json;

use super::{ADDRESS, House, site, wait};

fn house() -> House {
    let mut house = House::closed();
    house.upstream(8080);
    house.upstream(8081);
    let own = json!({ "X-Frame-Options": "ALLOW-ALL", "Referrer-Policy": "", "X-Own": "1" });
    house.start(&json!([
        site("a.example", 8080, json!({})),
        site("a.example", 8081, json!({ "path": "/photos", "methods": ["GET", "PUT"] })),
        site("own.example", 8080, json!({ "headers": own })),
        site("only.example", 8080, json!({ "path": "/only" })),
        site("small.example", 8080, json!({ "body": 1000 })),
        site("slow.example", 8080, json!({ "rate": { "count": 1, "per": 60, "burst": 3 } })),
        site("gone.example", 8089, json!({})),
    ]));
    house
}

#[test]
fn the_upstream_learns_who_asks_and_only_from_the_proxy() {
    let house = house();
    for protocol in ["--http1.1", "--http2"] {
        let spoofed = [
            "X-Forwarded-For: 1.2.3.4",
            "X-Forwarded-Server: evil",
            "X_Forwarded_For: 1.2.3.4",
            "Forwarded: for=1.2.3.4",
            "X-Real-IP: 1.2.3.4",
            "Via: 1.1 evil",
            "TE: trailers",
            "Proxy: http://evil",
        ];
        let mut args = vec![protocol, "--interface", "198.51.100.9", "https://a.example/x?y=z"];
        args.extend(spoofed.iter().flat_map(|header| ["-H", header]));
        if protocol == "--http1.1" {
            args.extend(["-H", "Connection: close, X-Secret", "-H", "X-Secret: 1", "-H", "Keep-Alive: 5"]);
        }
        let heard = house.heard(&args);
        assert_eq!((&heard["method"], &heard["path"]), (&json!("GET"), &json!("/x?y=z")));
        let mut headers = heard["headers"].clone();
        headers.as_object_mut().unwrap().remove("user-agent");
        let wanted = json!({
            "host": "a.example",
            "accept": "*/*",
            "x-forwarded-for": "198.51.100.9",
            "x-forwarded-host": "a.example",
            "x-forwarded-port": "443",
            "x-forwarded-proto": "https",
            "x-real-ip": "198.51.100.9",
        });
        assert_eq!(headers, wanted, "{protocol}");
    }
    // Connections to the upstream are used again, each by the worker that has made it.
    let ports: BTreeSet<String> = (0..8).map(|_| house.heard(&["https://a.example/"])["port"].to_string()).collect();
    assert!(ports.len() < 8, "{ports:?}");
}

#[test]
fn an_answer_has_the_headers_of_its_site() {
    let house = house();
    for protocol in ["--http1.1", "--http2"] {
        let answer =
            |url: &str| house.curl(&[protocol, "-D", "-", "-o", "/dev/null", url]).expect(0).stdout.to_lowercase();
        let usual = answer("https://a.example/chunked");
        for line in [
            "strict-transport-security: max-age=63072000\r",
            "x-content-type-options: nosniff\r",
            // The upstream's own.
            "x-frame-options: sameorigin\r",
            "referrer-policy: strict-origin-when-cross-origin\r",
            "permissions-policy: camera=(), microphone=(), geolocation=()\r",
        ] {
            assert_eq!(usual.matches(line).count(), 1, "{line} in {usual}");
        }
        for name in ["\nserver:", "\nx-hop:"] {
            assert!(!usual.contains(name), "{name} in {usual}");
        }
        let own = answer("https://own.example/");
        assert!(own.contains("x-frame-options: allow-all\r") && own.contains("x-own: 1\r"), "{own}");
        assert!(!own.contains("referrer-policy"), "{own}");
        let refused = answer("https://gone.example/");
        assert!(refused.contains(" 502") && refused.contains("strict-transport-security"), "{refused}");
    }
}

#[test]
fn what_is_not_for_a_site_is_refused() {
    let house = house();
    for protocol in ["--http1.1", "--http2"] {
        let status = |args: &[&str]| house.status(&[&[protocol], args].concat());
        assert_eq!(status(&["https://a.example/"]), "200");
        assert_eq!(status(&["https://A.EXAMPLE:443/"]), "200");
        assert_eq!(status(&["-H", "Host: own.example", "https://a.example/"]), "421");
        assert_eq!(status(&["-H", "Host: a.example:x", "https://a.example/"]), "400");
        assert_eq!(status(&["-X", "DELETE", "https://a.example/"]), "405");
        assert_eq!(status(&["-X", "TRACE", "https://a.example/"]), "405");
        // Whoever has not sent all of it yet hears the answer all the same.
        for _ in 0..20 {
            assert_eq!(status(&["-X", "DELETE", "-d", "x", "https://a.example/"]), "405");
        }
        assert_eq!(status(&["-X", "PUT", "https://a.example/photos/1"]), "200");
        assert_eq!(status(&["-X", "PUT", "https://a.example/photosphere"]), "405");
        assert_eq!(status(&["https://only.example/"]), "404");
        assert_eq!(status(&["https://only.example/only/x"]), "200");
        assert_eq!(status(&["--path-as-is", "https://only.example/only/../x"]), "400");
        assert_eq!(status(&["https://only.example/only/%2e%2e/x"]), "400");
        assert_eq!(status(&["https://gone.example/"]), "502");
        assert_eq!(status(&["https://a.example/broken"]), "502");
        // No name, no handshake.
        assert_eq!(status(&["https://unknown.example/"]), "000");
        assert_eq!(house.curl(&[protocol, &format!("https://{ADDRESS}/")]).code, 35);
    }
    let allow = house.curl(&["-D", "-", "-X", "DELETE", "https://a.example/"]).stdout;
    assert!(allow.contains("allow: GET, HEAD, POST\r"), "{allow}");
    wait("it is told once", || house.said().contains("`web-8089` (127.0.0.1:8089) takes no connection"));
    assert_eq!(house.said().matches("web-8089").count(), 1, "{}", house.said());
}

#[test]
fn an_upstream_that_is_back_is_told_and_used() {
    let mut house = house();
    assert_eq!(house.status(&["https://gone.example/"]), "502");
    house.upstream(8089);
    assert_eq!(house.status(&["https://gone.example/"]), "200");
    assert!(house.said().contains("`web-8089` (127.0.0.1:8089) takes connections again"), "{}", house.said());
}

#[test]
fn a_body_is_as_large_as_its_site_allows() {
    let house = house();
    house.host.sh(
        "head -c 1000 /dev/zero >/run/fits; head -c 1001 /dev/zero >/run/large; head -c 9000000 /dev/zero >/run/9m",
    );
    for protocol in ["--http1.1", "--http2"] {
        let post = |file: &str, besides: &[&str]| {
            let file = format!("@/run/{file}");
            house.status(&[&[protocol, "--data-binary", &file, "https://small.example/"], besides].concat())
        };
        assert_eq!(post("fits", &[]), "200");
        assert_eq!(post("large", &[]), "413");
        let chunked = ["-H", "Content-Length:", "-H", "Transfer-Encoding: chunked"];
        if protocol == "--http1.1" {
            assert_eq!(post("fits", &chunked), "200");
            assert_eq!(post("large", &chunked), "413");
        }
        let whole = house.heard(&[protocol, "--data-binary", "@/run/9m", "https://a.example/"]);
        assert_eq!(whole["body"], 9_000_000);
    }
}

#[test]
fn a_client_that_asks_too_often_waits() {
    let house = house();
    let from = |address: &str| house.status(&["--interface", address, "https://slow.example/"]);
    assert_eq!([(); 4].map(|()| from("198.51.100.1")), ["200", "200", "200", "429"]);
    assert_eq!(from("198.51.100.9"), "200", "another client has its own");
    let told = house.curl(&["-D", "-", "https://slow.example/"]).stdout.to_lowercase();
    assert!(told.contains("retry-after: ") && told.contains("strict-transport-security"), "{told}");
    assert_eq!(house.status(&["https://a.example/"]), "200", "another site has its own");
}

#[test]
fn names_that_moved_are_sent_on_and_so_is_port_80() {
    let house = house();
    let moved =
        |args: &[&str]| house.curl(&[&["-o", "/dev/null", "-w", "%{http_code} %{redirect_url}"], args].concat()).stdout;
    for protocol in ["--http1.1", "--http2"] {
        assert_eq!(moved(&[protocol, "https://www.a.example/x?y=z"]), "308 https://a.example/x?y=z");
        assert_eq!(moved(&[protocol, "-d", "x", "https://www.a.example/"]), "308 https://a.example/");
    }
    assert_eq!(moved(&["http://a.example/x?y=z"]), "308 https://a.example/x?y=z");
    assert_eq!(moved(&["http://www.a.example/"]), "308 https://www.a.example/");
    assert_eq!(moved(&["http://unknown.example/"]), "404 ");
    assert_eq!(moved(&["-X", "TRACE", "http://a.example/"]), "405 ");
    assert_eq!(moved(&["-H", "Host:", "http://a.example/"]), "400 ");
}

#[test]
fn every_request_is_a_line_of_the_log_and_none_can_forge_one() {
    let house = house();
    house.status(&["-A", "\"}\t{\"client\":\"1.2.3.4\",\"x\":\"é\\", "https://a.example/%22,%22?secret=1"]);
    house.status(&["--http1.1", "-A", "plain", "-e", "https://b.example/", "https://a.example/photos/x"]);
    house.status(&["-X", "DELETE", "https://a.example/"]);
    wait("three lines", || house.log().len() == 3);
    let [first, second, third] = <[_; 3]>::try_from(house.log()).unwrap();
    assert_eq!(first["client"], "198.51.100.1");
    assert_eq!(first["path"], "/%22,%22");
    assert_eq!((&first["protocol"], &first["upstream"]), (&json!("HTTP/2.0"), &json!("web-8080")));
    for (key, value) in [
        ("status", json!(200)),
        ("method", json!("GET")),
        ("host", json!("a.example")),
        ("path", json!("/photos/x")),
        ("protocol", json!("HTTP/1.1")),
        ("upstream", json!("web-8081")),
        ("user-agent", json!("plain")),
        ("referer", json!("https://b.example/")),
    ] {
        assert_eq!(second[key], value, "{second}");
    }
    assert!(second["bytes"].as_u64().unwrap() > 100 && second["seconds"].as_f64().unwrap() > 0.0, "{second}");
    assert_eq!((&third["status"], &third["method"]), (&json!(405), &json!("DELETE")));
    assert_eq!(house.host.sh("stat -c %a /var/log/wire/edge.log"), "640\n");

    // Put aside by somebody, it is made anew; grown large, by itself.
    house.host.sh("mv /var/log/wire/edge.log /var/log/wire/aside");
    house.status(&["https://a.example/"]);
    wait("a new file", || house.host.run("host", &["test", "-s", "/var/log/wire/edge.log"]).code == 0);
    assert_eq!(house.log().len(), 1);
    for number in 0..7 {
        house.host.sh("truncate -s 10M /var/log/wire/edge.log; mv /var/log/wire/edge.log /var/log/wire/x; cp /var/log/wire/x /var/log/wire/edge.log");
        // The first is written to the copy, which is found to be too long then.
        let lines = || house.host.sh("ls /var/log/wire").lines().filter(|name| name.starts_with("edge.log.")).count();
        wait("it is put aside", || {
            house.status(&["https://a.example/"]);
            lines() == (number + 1).min(5)
        });
    }
}

#[test]
fn a_full_disk_holds_nobody_up() {
    let house = house();
    house.host.sh("mount -o remount,size=64k /var/log; ! head -c 1M /dev/zero >/var/log/full");
    assert_eq!(house.status(&["https://a.example/"]), "200");
    wait("it is told", || house.said().contains("edge.log cannot be written"));
    assert_eq!(house.status(&["https://a.example/"]), "200");
    house.host.sh("rm /var/log/full");
    wait("it is over", || {
        assert_eq!(house.status(&["https://a.example/"]), "200");
        house.said().contains("edge.log is written again")
    });
}

#[test]
fn new_orders_are_served_at_once() {
    let house = house();
    house.serve(&json!([site("a.example", 8081, json!({ "methods": ["DELETE"] }))]));
    assert_eq!(house.status(&["-X", "DELETE", "https://a.example/"]), "200");
    assert_eq!(house.status(&["https://a.example/"]), "405");
    assert_eq!(house.status(&["https://own.example/"]), "000");
}
