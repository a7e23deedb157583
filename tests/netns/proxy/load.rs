//! Reloads and restarts while requests come as fast as they can: none fails.

use serde_json::json;

use super::{ADDRESS, House, site};

/// As many clients as it is told, each asking over one connection after the other and over each for as long as it lasts, with
/// a pause now and then. Says how many requests were answered and which were not.
const CLIENTS: &str = r#"
import http.client, random, socket, ssl, sys, threading, time
context = ssl._create_unverified_context()
end = threading.Event()
good, bad = [], []

class Connection(http.client.HTTPSConnection):
    def connect(self):
        raw = socket.create_connection((sys.argv[1], 443), timeout=20)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = context.wrap_socket(raw, server_hostname="a.example")

def ask():
    connection = Connection("a.example")
    while not end.is_set():
        try:
            connection.request("GET", "/load")
            answer = connection.getresponse()
            answer.read()
            (good if answer.status == 200 else bad).append(answer.status)
            if answer.getheader("Connection") == "close" or random.random() < 0.05:
                connection.close()
                time.sleep(random.random() / 50)
        except Exception as error:
            bad.append(repr(error))
            connection.close()
            connection = Connection("a.example")

threads = [threading.Thread(target=ask) for _ in range(int(sys.argv[2]))]
for thread in threads: thread.start()
print("ready", flush=True)
sys.stdin.readline()
end.set()
for thread in threads: thread.join()
print(len(good), bad)
"#;

#[test]
fn no_request_is_lost_by_reloads_and_restarts() {
    let mut house = House::closed();
    house.upstream(8080);
    let sites = [
        json!([site("a.example", 8080, json!({}))]),
        json!([site("a.example", 8080, json!({ "headers": { "x": "y" } }))]),
    ];
    house.start(&sites[0]);
    house.host.write("/run/clients.py", CLIENTS);
    let mut clients = house.host.start("host", &["python3", "/run/clients.py", ADDRESS, "20"]);
    let mut out = std::io::BufReader::new(clients.0.stdout.take().expect("a pipe"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).expect("a line");
    let h2 =
        ["h2load", "-c", "10", "-m", "5", "-D", "6", &format!("--connect-to={ADDRESS}:443"), "https://a.example/load"];
    std::thread::scope(|scope| {
        let load = scope.spawn(|| house.host.run("host", &h2));
        for number in 0..50 {
            house.serve(&sites[number % 2]);
        }
        let said = load.join().expect("h2load").expect(0).stdout;
        assert!(said.contains(" 0 failed, 0 errored, 0 timeout"), "{said}");
    });
    for number in 0..10 {
        house.stop();
        house.start(&sites[number % 2]);
    }
    drop(clients.0.stdin.take());
    line.clear();
    std::io::BufRead::read_line(&mut out, &mut line).expect("a line");
    let (good, bad) = line.trim().split_once(' ').expect("two words");
    assert_eq!(bad, "[]", "of {good}");
    assert!(good.parse::<u32>().expect("a number") > 1000, "{good}");
}
