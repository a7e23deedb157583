//! Small topologies by feature, made the same way every time. Only text: who runs them is another's business.

/// Topologies for one house, one after the other, each with a name.
pub struct Chain {
    pub feature: &'static str,
    pub cases: Vec<(String, String)>,
}

/// As many cases of a feature share a house.
const CHAIN: usize = 8;

/// Everything there is.
pub fn chains() -> Vec<Chain> {
    let features: [(&str, Vec<(String, String)>); 18] = [
        ("kinds of wires", kinds()),
        ("directions", directions()),
        ("protocols and ports", ports()),
        ("from and to", from_and_to()),
        ("egress", egress()),
        ("snat", snat()),
        ("publish", publish()),
        ("policy", policy()),
        ("block", block()),
        ("IPv6", ipv6()),
        ("several hubs", hubs()),
        ("clients", clients()),
        ("forward", forward()),
        ("audit mode", audit()),
        ("rates", rates()),
        ("sets", sets()),
        ("shared namespaces", shares()),
        ("shapes", shapes()),
    ];
    let mut chains: Vec<Chain> = Vec::new();
    for (feature, cases) in features {
        chains.extend(cases.chunks(CHAIN).map(|cases| Chain { feature, cases: cases.to_vec() }));
    }
    chains.extend(updates().into_iter().map(|cases| Chain { feature: "updates", cases }));
    chains.extend((0..MIXTURES).map(|seed| Chain { feature: "mixtures", cases: mixture(seed) }));
    chains
}

/// A topology on its way to text. Every topology has the same nodes, so that each can follow upon each.
#[derive(Clone, Default)]
struct Draft {
    wires: Vec<String>,
    host: Vec<String>,
    tables: Vec<String>,
}

const NODES: [&str; 6] = ["a", "b", "c", "d", "hub", "vpn"];

/// The zone of each hub.
const PUBLIC: &str = "[hub.hub]\nzone = \"public\"";
const PRIVATE: &str = "[hub.vpn]\nzone = \"private\"";

/// A hub with a tunnel.
const TUNNEL: &str = "[hub.vpn]\nzone = \"private\"\nclients = { prefix = \"10.100.0.0/24\", device = \"wg0\" }";

impl Draft {
    fn new() -> Draft {
        Draft::default()
    }

    /// A wire between two nodes; its name says which, its addresses follow its number.
    fn wire(mut self, first: &str, second: &str, keys: &str) -> Draft {
        let number = self.wires.len();
        let subnet =
            if keys.contains("subnet = ") { String::new() } else { format!(", subnet = \"10.9.{number}.0/31\"") };
        let keys = keys.replace("IPV6", &format!("subnet6 = \"fd09:{number}::/127\""));
        let keys = if keys.is_empty() { keys } else { format!(", {keys}") };
        let name = format!("{first}-{second}");
        let again = self.wires.iter().filter(|line| line.contains(&format!("\"{name}"))).count();
        let name = if again > 0 { format!("{name}-{again}") } else { name };
        self.wires.push(format!("  {{ name = \"{name}\", ends = [\"{first}\", \"{second}\"]{subnet}{keys} }},\n"));
        self
    }

    fn host(mut self, line: &str) -> Draft {
        self.host.push(format!("{line}\n"));
        self
    }

    fn table(mut self, table: &str) -> Draft {
        self.tables.push(format!("\n{table}\n"));
        self
    }

    fn text(&self) -> String {
        let uplinks =
            if self.host.iter().any(|line| line.starts_with("uplinks")) { "" } else { "uplinks = [\"eth0\"]\n" };
        let nodes = NODES.map(|node| format!("\"{node}\"")).join(", ");
        let mut text =
            format!("version = 1\nruntime = \"netns\"\nwire = [\n{}]\n\n[host]\n{uplinks}", self.wires.concat());
        text += &self.host.concat();
        text += &format!("\n[module]\nhouse = [{nodes}]\n");
        text + &self.tables.concat()
    }

    fn case(&self, name: impl Into<String>) -> (String, String) {
        (name.into(), self.text())
    }
}

/// Every pair of kinds of nodes, with flows in no, one, the other and both directions.
fn kinds() -> Vec<(String, String)> {
    let pairs = [("host", "a"), ("host", "hub"), ("hub", "a"), ("a", "b"), ("hub", "vpn")];
    let flows = [
        ("nothing", ""),
        ("there", "allow = [\"tcp/80\"]"),
        ("back", "allow-back = [\"tcp/80\"]"),
        ("both ways", "allow = [\"tcp/80\"], allow-back = [\"udp/53\"]"),
    ];
    let mut cases = Vec::new();
    for (first, second) in pairs {
        for (words, keys) in flows {
            let draft = Draft::new().wire(first, second, keys).wire("c", "d", "").table(PUBLIC).table(PRIVATE);
            cases.push(draft.case(format!("{first} to {second}, {words}")));
        }
    }
    cases
}

/// Flows of four kinds there and four kinds back.
fn directions() -> Vec<(String, String)> {
    let flows = ["", "\"tcp/80\"", "\"udp/53\"", "\"icmp\""];
    let mut cases = Vec::new();
    for there in flows {
        for back in flows {
            let draft = Draft::new().wire("a", "b", &format!("allow = [{there}], allow-back = [{back}]"));
            let draft = draft.wire("b", "c", &format!("allow = [{back}], allow-back = [{there}]"));
            cases.push(draft.case(format!("[{there}] there, [{back}] back")));
        }
    }
    cases
}

/// Every way to write ports, over a direct wire and out of a hub.
fn ports() -> Vec<(String, String)> {
    let many: Vec<_> = (0..30).map(|n| (1000 + 7 * n).to_string()).collect();
    let flows = [
        "\"tcp/80\"".to_owned(),
        "\"udp/80\"".to_owned(),
        "\"tcp/80\", \"udp/80\"".to_owned(),
        "\"tcp/80\", \"udp/81\"".to_owned(),
        "\"icmp\"".to_owned(),
        "\"icmp/echo-request\"".to_owned(),
        "\"icmp/echo-reply\"".to_owned(),
        "\"icmp\", \"tcp/22\"".to_owned(),
        "\"tcp/80,443\"".to_owned(),
        "\"udp/53,123,5353\"".to_owned(),
        "\"tcp/8000-8010\"".to_owned(),
        "\"udp/40000-40100\"".to_owned(),
        "\"tcp/22,8000-8010,9000\"".to_owned(),
        "\"tcp/80-81,82-83\"".to_owned(),
        "\"tcp/80-85\", \"tcp/84-90\"".to_owned(),
        "\"tcp/1\"".to_owned(),
        "\"tcp/65535\"".to_owned(),
        "\"tcp/1-65535\"".to_owned(),
        "\"udp/1-65535\", \"icmp\"".to_owned(),
        format!("\"tcp/{}\"", many.join(",")),
    ];
    let mut cases = Vec::new();
    for flow in flows {
        let direct = Draft::new().wire("a", "b", &format!("allow = [{flow}]"));
        let hub = Draft::new().wire("hub", "a", &format!("allow = [{flow}]")).wire("hub", "b", "").table(PUBLIC);
        cases.push(direct.case(format!("a to b, {flow}")));
        cases.push(hub.case(format!("hub to a, {flow}")));
    }
    cases
}

/// Flows that ask who is asking, or who is asked, there and back.
fn from_and_to() -> Vec<(String, String)> {
    let sets = "[set.near]\nelements = [\"10.9.0.0/24\"]\n\n[set.far]\nelements = [\"10.8.0.0/16\", \"192.0.2.9\"]\n\n\
                [set.empty]\nelements = []";
    let conditions = [
        "from = \"10.9.0.0\"",
        "from = \"10.9.0.1\"",
        "from = \"10.9.0.0/24\"",
        "from = \"10.8.0.0/24\"",
        "from = \"@near\"",
        "from = \"@far\"",
        "from = \"@empty\"",
        "to = \"10.9.0.1\"",
        "to = \"10.9.0.0\"",
        "to = \"10.9.0.0/31\"",
        "to = \"@far\"",
        "from = \"@near\", to = \"@near\"",
    ];
    let mut cases = Vec::new();
    for condition in conditions {
        for key in ["allow", "allow-back"] {
            let keys = format!("{key} = [{{ flow = \"tcp/80\", {condition} }}, \"udp/53\"]");
            let draft = Draft::new().wire("a", "b", &keys).wire("b", "c", "").table(sets);
            cases.push(draft.case(format!("{key} {condition}")));
        }
    }
    cases
}

/// Ways out of a leaf behind a hub, of a leaf with its own wire to the host, and of a hub.
fn egress() -> Vec<(String, String)> {
    let sets = "[set.some]\nelements = [\"198.51.100.0/25\", \"192.168.7.7\"]\n\n[set.empty]\nelements = []";
    let flows = [
        "\"tcp/443\"",
        "\"udp/53\", \"tcp/80,443\"",
        "\"icmp/echo-request\"",
        "{ flow = \"tcp/443\", to = \"192.168.1.1\" }",
        "{ flow = \"tcp/443\", to = \"198.51.100.0/24\" }",
        "{ flow = \"udp/53\", to = \"@some\" }",
        "{ flow = \"udp/53\", to = \"@empty\" }",
        "\"tcp/8000-8010\", { flow = \"icmp\", to = \"10.77.0.0/16\" }, { flow = \"tcp/22\", to = \"100.64.3.4\" }",
    ];
    let mut cases = Vec::new();
    for flow in flows {
        let behind = Draft::new().wire("host", "hub", "").wire("hub", "a", "").wire("hub", "b", "").table(PUBLIC);
        let own = Draft::new().wire("host", "a", "allow = [\"tcp/80\"]").wire("host", "b", "").wire("a", "b", "");
        let hub = Draft::new().wire("host", "hub", "").wire("hub", "a", "allow = [\"tcp/80\"]").table(PUBLIC);
        cases.push(
            behind.table(sets).table(&format!("[node.a]\negress = [{flow}]")).case(format!("behind a hub: {flow}")),
        );
        cases.push(own.table(sets).table(&format!("[node.a]\negress = [{flow}]")).case(format!("at the host: {flow}")));
        cases.push(
            hub.table(sets).table(&format!("[node.hub]\negress = [{flow}]")).case(format!("a hub's own: {flow}")),
        );
    }
    cases
}

/// Source addresses of one's own.
fn snat() -> Vec<(String, String)> {
    let own = || Draft::new().wire("host", "a", "").wire("host", "b", "");
    let with = |node: &str, address: &str, egress: &str| {
        format!("[node.{node}]\negress = [{egress}]\nsnat = \"203.0.113.{address}\"")
    };
    vec![
        own().table(&with("a", "25", "\"tcp/25\"")).case("one node"),
        own().table(&with("a", "25", "\"tcp/25\"")).table("[node.b]\negress = [\"tcp/25\"]").case("one of two"),
        own()
            .table(&with("a", "25", "\"tcp/25\""))
            .table(&with("b", "26", "\"tcp/25\", \"icmp\""))
            .case("two addresses"),
        own().table(&with("a", "25", "\"tcp/25\"")).table(&with("b", "25", "\"udp/53\"")).case("one address for two"),
        own().table(&with("a", "25", "{ flow = \"udp/53\", to = \"192.168.1.1\" }")).case("towards a private address"),
        Draft::new()
            .wire("host", "a", "publish = [{ flow = \"tcp/25\", address = \"203.0.113.25\" }]")
            .table(&with("a", "25", "\"tcp/25\""))
            .case("in and out by one address"),
        Draft::new()
            .wire("host", "hub", "publish = [\"tcp/443\"]")
            .wire("hub", "b", "")
            .table(PUBLIC)
            .table(&with("hub", "25", "\"tcp/443\""))
            .case("a hub's own"),
        Draft::new()
            .wire("host", "hub", "")
            .wire("hub", "a", "allow = [\"tcp/80\"]")
            .wire("host", "a", "publish = [{ flow = \"tcp/25\", address = \"203.0.113.25\" }]")
            .table(PUBLIC)
            .table(&with("a", "25", "\"tcp/25\""))
            .case("a leaf with a hub, which publishes"),
        Draft::new()
            .wire("host", "hub", "")
            .wire("hub", "a", "allow = [\"tcp/80\"]")
            .wire("host", "a", "")
            .table(PUBLIC)
            .table(&with("a", "25", "\"tcp/25\""))
            .case("a leaf with a hub"),
    ]
}

/// Ports of the host that end at a leaf, or at a hub.
fn publish() -> Vec<(String, String)> {
    let sets = "[set.friends]\nelements = [\"198.51.100.4\", \"192.168.7.0/24\"]\n\n[set.empty]\nelements = []";
    let ports = [
        "\"tcp/80\"",
        "\"udp/53\"",
        "\"tcp/53\", \"udp/53\"",
        "\"tcp/80,443,8443\"",
        "\"udp/5000-5010\"",
        "\"tcp/2222:22\"",
        "\"udp/5000-5003:6000\"",
        "\"tcp/80\", \"tcp/8080:80\"",
        "{ flow = \"tcp/25\", address = \"203.0.113.25\" }",
        "{ flow = \"tcp/2525:25\", address = \"203.0.113.25\" }, { flow = \"tcp/25\", address = \"203.0.113.26\" }",
        "{ flow = \"tcp/80\", on = \"eth0\" }",
        "{ flow = \"tcp/80\", from = \"198.51.100.4\" }",
        "{ flow = \"tcp/80\", from = \"198.51.100.0/25\" }, \"udp/80\"",
        "{ flow = \"tcp/25565\", from = \"@friends\" }",
        "{ flow = \"tcp/25565\", from = \"@empty\" }",
        "{ flow = \"tcp/80\", address = \"203.0.113.25\", from = \"@friends\", rate = \"100/second\", burst = 50, log = true }",
    ];
    let mut cases = Vec::new();
    for port in ports {
        let leaf = Draft::new().wire("host", "a", &format!("publish = [{port}]")).wire(
            "host",
            "b",
            "publish = [\"tcp/9000\"]",
        );
        let hub =
            Draft::new().wire("host", "hub", &format!("publish = [{port}]")).wire("hub", "a", "allow = [\"tcp/80\"]");
        cases.push(leaf.table(sets).case(format!("to a leaf: {port}")));
        cases.push(hub.table(PUBLIC).table(sets).case(format!("to a hub: {port}")));
    }
    let two = "uplinks = [\"eth0\", \"tail0\"]";
    for (name, keys) in [
        ("on one of two uplinks", "{ flow = \"tcp/80\", on = \"tail0\" }"),
        (
            "on each uplink another",
            "{ flow = \"tcp/80:8080\", on = \"eth0\" }, { flow = \"tcp/80:8081\", on = \"tail0\" }",
        ),
        ("on both uplinks", "\"tcp/80\", \"udp/53\""),
        ("on the second, to the first's address", "{ flow = \"tcp/80\", on = \"tail0\", address = \"203.0.113.25\" }"),
    ] {
        cases.push(Draft::new().host(two).wire("host", "a", &format!("publish = [{keys}]")).case(name));
    }
    cases
}

/// A host that is policed too.
fn policy() -> Vec<(String, String)> {
    let sets = "[set.home]\nelements = [\"192.168.7.0/24\"]";
    let allows = [
        "",
        "\"tcp/22\"",
        "\"udp/123\", \"tcp/22,80\"",
        "\"icmp\"",
        "\"icmpv6\"",
        "\"icmp/echo-request\", \"icmpv6/echo-request\"",
        "{ flow = \"tcp/22\", from = \"192.168.7.0/24\" }",
        "{ flow = \"tcp/22\", from = \"@home\" }, \"udp/5000-5010\"",
        "{ flow = \"tcp/22\", to = \"192.0.2.2\" }",
        "{ flow = \"tcp/22\", rate = \"100/second\", burst = 100, log = true }",
    ];
    let mut cases = Vec::new();
    for allow in allows {
        let draft = Draft::new().host("policy = \"all\"").host(&format!("allow = [{allow}]"));
        let draft =
            draft.wire("host", "a", "publish = [\"tcp/80\"], allow = [\"tcp/5432\"], allow-back = [\"udp/53\"]");
        cases.push(draft.table(sets).table("[node.a]\negress = [\"tcp/443\"]").case(format!("all, but [{allow}]")));
    }
    cases.push(Draft::new().host("policy = \"all\"").host("allow = [\"tcp/22\"]").case("all, and no wire at all"));
    cases.push(
        Draft::new()
            .host("policy = \"wires\"")
            .host("allow = [\"tcp/22\"]")
            .wire("a", "b", "")
            .case("wires, none at the host"),
    );
    cases
}

/// Sources that nobody hears.
fn block() -> Vec<(String, String)> {
    let banned = "[set.banned]\nelements = [\"198.51.100.66\", \"203.0.113.128/25\", \"2001:db8:bad::/48\"]";
    let draft = || Draft::new().host("block = \"@banned\"").table(banned);
    vec![
        draft().case("no wire at all"),
        draft().wire("host", "a", "publish = [\"tcp/80\"]").case("of what is published"),
        draft().wire("host", "a", "IPV6, publish = [\"tcp/80\"]").case("of what is published by IPv6"),
        draft().wire("host", "a", "").table("[node.a]\negress = [\"tcp/443\"]").case("as an answer"),
        draft().host("policy = \"all\"").host("allow = [\"tcp/22\"]").wire("host", "a", "").case("of a policed host"),
        draft()
            .wire("host", "hub", "publish = [\"tcp/443\"]")
            .wire("hub", "a", "")
            .table(&format!("{PUBLIC}\n\n[[hub.hub.forward]]\nport = \"tcp/25565\"\nto = \"a:25565\""))
            .case("of what is forwarded"),
    ]
}

/// Wires with IPv6 among wires without.
fn ipv6() -> Vec<(String, String)> {
    let mut cases = Vec::new();
    for flow in ["", "\"tcp/80\"", "\"udp/53\"", "\"icmp\"", "\"icmpv6\"", "\"icmpv6/echo-request\", \"tcp/8000-8002\""]
    {
        let direct =
            Draft::new().wire("a", "b", &format!("IPV6, allow = [{flow}]")).wire("b", "c", "allow = [\"tcp/80\"]");
        let hub = Draft::new().wire("hub", "a", &format!("IPV6, allow = [{flow}], allow-back = [\"tcp/443\"]"));
        cases.push(direct.case(format!("a direct wire, [{flow}]")));
        cases.push(hub.wire("hub", "b", "IPV6").table(PUBLIC).case(format!("a hub's wire, [{flow}]")));
    }
    for condition in
        ["from = \"fd09:0::\"", "from = \"fd09:0::1\"", "to = \"fd09:0::1\"", "from = \"@both\"", "from = \"10.9.0.0\""]
    {
        let keys = format!("IPV6, allow = [{{ flow = \"tcp/80\", {condition} }}]");
        let both = "[set.both]\nelements = [\"fd09::/64\", \"10.9.0.0/16\", \"fd09:0::/127\"]";
        cases.push(Draft::new().wire("a", "b", &keys).table(both).case(format!("a flow {condition}")));
    }
    for (name, keys) in [
        ("published", "publish = [\"tcp/80\", \"udp/5000-5001:6000\"]"),
        ("published at an address of IPv6", "publish = [{ flow = \"tcp/80\", address = \"2001:db8:64::10\" }]"),
        ("published at an address of IPv4", "publish = [{ flow = \"tcp/80\", address = \"203.0.113.25\" }]"),
        ("published for a source of IPv6", "publish = [{ flow = \"tcp/80\", from = \"2001:db8:5::/64\" }]"),
        ("from and to the host", "allow = [\"tcp/5432\", \"icmpv6\"], allow-back = [\"udp/53\"]"),
    ] {
        cases.push(Draft::new().wire("host", "a", &format!("IPV6, {keys}")).wire("host", "b", "").case(name));
    }
    let out = "[node.a]\negress = [\"tcp/443\", \"icmpv6\", { flow = \"udp/53\", to = \"fd99::/64\" }]";
    let hub =
        |first: &str, second: &str| Draft::new().wire("host", "hub", first).wire("hub", "a", second).table(PUBLIC);
    cases.push(Draft::new().wire("host", "a", "IPV6").table(out).case("egress"));
    cases.push(hub("IPV6", "IPV6").table(out).case("egress through a hub"));
    cases.push(hub("", "IPV6").table(out).case("egress through a hub whose host wire has none"));
    cases.push(hub("IPV6", "").table(out).case("egress of a leaf whose hub wire has none"));
    cases.push(
        hub("IPV6", "IPV6")
            .host("policy = \"all\"")
            .table("[[hub.hub.forward]]\nport = \"tcp/2222\"\nto = \"a:22\"")
            .case("forwarded"),
    );
    cases
}

/// Two hubs, of one zone or of two.
fn hubs() -> Vec<(String, String)> {
    let two = |draft: Draft| draft.table(PUBLIC).table(PRIVATE);
    let zones = "[node.b]\nzones = [\"private\", \"public\"]";
    let each = || Draft::new().wire("hub", "a", "allow = [\"tcp/80\"]").wire("vpn", "c", "allow = [\"tcp/22\"]");
    let at_host =
        || Draft::new().wire("host", "hub", "publish = [\"tcp/443\"]").wire("host", "vpn", "publish = [\"udp/51820\"]");
    let both = |draft: Draft| {
        draft.wire("hub", "b", "allow = [\"tcp/80\"]").wire("vpn", "b", "allow = [\"tcp/22\"]").table(zones)
    };
    vec![
        two(each()).case("a leaf each"),
        two(both(each())).case("a leaf of both"),
        two(each().wire("a", "c", "allow = [\"tcp/5432\"], across-zones = true")).case("across zones"),
        two(each().wire("hub", "vpn", "allow = [\"tcp/8082\"], allow-back = [\"tcp/9090\"]"))
            .case("wired to each other"),
        two(at_host()).case("at the host, without leaves"),
        two(both(at_host())).case("at the host, with a leaf of both"),
        two(both(at_host())).table("[node.a]").case("with a table that says nothing"),
        two(both(at_host()).wire("hub", "vpn", "allow = [\"udp/53\"]")).case("in a ring"),
        two(at_host().wire("hub", "a", "").wire("vpn", "c", ""))
            .table("[node.a]\negress = [\"tcp/443\"]\n\n[node.c]\negress = [\"udp/53\"]")
            .case("egress by each"),
        two(at_host().wire("hub", "b", "").wire("vpn", "b", ""))
            .table("[node.b]\nzones = [\"private\", \"public\"]\negress = [\"tcp/443\"]")
            .case("egress by the first"),
        two(at_host().wire("vpn", "b", "").wire("hub", "b", ""))
            .table("[node.b]\nzones = [\"private\", \"public\"]\negress = [\"tcp/443\"]")
            .case("egress by the other, which is first now"),
        two(at_host().wire("hub", "a", "").wire("vpn", "c", ""))
            .table("[node.hub]\negress = [\"tcp/443\"]\n\n[node.c]\negress = [\"udp/53\"]")
            .case("egress of one hub, and of the other's leaf"),
        Draft::new()
            .wire("hub", "a", "allow = [\"tcp/80\"]")
            .wire("vpn", "a", "allow = [\"tcp/81\"]")
            .table(PUBLIC)
            .table("[hub.vpn]\nzone = \"public\"")
            .case("of one zone"),
        Draft::new()
            .wire("hub", "a", "allow = [\"tcp/80\"]")
            .wire("hub", "a", "allow = [\"tcp/81\"]")
            .table(PUBLIC)
            .case("one hub, with two wires to a leaf"),
    ]
}

/// Who comes in through a hub's tunnel.
fn clients() -> Vec<(String, String)> {
    let draft = || Draft::new().wire("host", "vpn", "publish = [\"udp/51820\"]").table(TUNNEL);
    let leaf = |flows: &str| draft().wire("vpn", "a", flows).wire("vpn", "b", "");
    let phones = "[set.phones]\nelements = [\"10.100.0.3\", \"10.100.0.16/28\"]";
    vec![
        leaf("").case("no flow"),
        leaf("allow = [\"tcp/22\"]").case("a flow"),
        leaf("allow = [\"tcp/22,80\", \"udp/53\", \"icmp\"]").case("flows"),
        leaf("allow-back = [\"tcp/22\"]").case("a flow to the hub, which is not theirs"),
        leaf("allow = [{ flow = \"tcp/22\", from = \"10.100.0.3\" }, \"tcp/80\"]").case("one of them"),
        leaf("allow = [{ flow = \"tcp/22\", from = \"10.100.0.0/24\" }]").case("them, and not the hub"),
        leaf("allow = [{ flow = \"tcp/22\", from = \"10.9.1.0\" }]").case("the hub, and not them"),
        leaf("allow = [{ flow = \"tcp/22\", from = \"@phones\" }]").table(phones).case("a set of them"),
        leaf("allow = [\"tcp/22\"]").wire("a", "b", "allow = [\"tcp/5432\"]").case("not behind a leaf"),
        leaf("allow = [\"tcp/22\"]").table("[node.a]\negress = [\"tcp/443\"]").case("a leaf with egress"),
        leaf("allow = [\"tcp/22\"]")
            .table("[node.vpn]\negress = [\"tcp/443\"]")
            .case("a hub with egress, which is not theirs"),
        leaf("IPV6, allow = [\"tcp/22\"]").case("a leaf with IPv6"),
        leaf("allow = [\"tcp/22\"], mode = \"audit\"").case("a leaf in audit mode"),
        draft()
            .wire("hub", "b", "allow = [\"tcp/80\"]")
            .wire("vpn", "hub", "allow = [\"tcp/8080\"], allow-back = [\"tcp/9090\"]")
            .table(PUBLIC)
            .case("another hub"),
        Draft::new()
            .wire("vpn", "a", "allow = [\"tcp/22\"]")
            .wire("hub", "b", "allow = [\"tcp/80\"]")
            .table(TUNNEL)
            .table("[hub.hub]\nzone = \"public\"\nclients = { prefix = \"10.101.0.0/24\", device = \"tun1\" }")
            .case("two tunnels"),
        Draft::new()
            .wire("host", "vpn", "publish = [\"udp/51820\"], allow-back = [\"udp/53\"]")
            .wire("vpn", "a", "allow = [\"tcp/22\"]")
            .table(TUNNEL)
            .case("the host"),
    ]
}

/// Ports that a hub hands on.
fn forward() -> Vec<(String, String)> {
    let sets = "[set.players]\nelements = [\"198.51.100.4\", \"192.168.7.0/24\"]";
    let forwards = [
        ("tcp", "port = \"tcp/25565\"\nto = \"a:25565\""),
        ("udp", "port = \"udp/19132\"\nto = \"a:19132\""),
        ("to another port", "port = \"tcp/2222\"\nto = \"a:22\""),
        ("for an address", "port = \"tcp/25565\"\nto = \"a:25565\"\nfrom = \"198.51.100.4\""),
        ("for a set", "port = \"tcp/25565\"\nto = \"a:25565\"\nfrom = \"@players\""),
    ];
    let mut cases = Vec::new();
    for (name, keys) in forwards {
        let draft =
            Draft::new().wire("host", "hub", "publish = [\"tcp/443\"]").wire("hub", "a", "allow = [\"tcp/80\"]");
        let draft = draft.wire("hub", "b", "").table(PUBLIC).table(&format!("[[hub.hub.forward]]\n{keys}")).table(sets);
        cases.push(draft.case(name));
        cases.push(
            draft.host("policy = \"all\"").table("[node.a]\negress = [\"tcp/443\"]").case(format!("{name}, policed")),
        );
    }
    let two = Draft::new().wire("host", "hub", "").wire("hub", "a", "").wire("hub", "b", "").table(PUBLIC);
    let two = two.table("[[hub.hub.forward]]\nport = \"tcp/1000\"\nto = \"a:22\"");
    cases.push(two.table("[[hub.hub.forward]]\nport = \"tcp/1001\"\nto = \"b:22\"").case("two"));
    cases
}

/// Wires that let everything pass.
fn audit() -> Vec<(String, String)> {
    let draft = Draft::new;
    let audited = "mode = \"audit\"";
    let with = |flows: &str| format!("{flows}, mode = \"audit\"");
    let out = "[node.a]\negress = [\"tcp/443\"]";
    vec![
        draft().wire("a", "b", audited).case("a direct wire"),
        draft().wire("a", "b", &with("allow = [\"tcp/80\"]")).case("a direct wire with a flow"),
        draft().wire("a", "b", audited).wire("b", "c", "allow = [\"tcp/80\"]").case("beside one that is not"),
        draft().wire("a", "b", audited).wire("b", "c", audited).case("two in a row"),
        draft().wire("a", "b", &with("IPV6")).case("with IPv6"),
        draft().wire("hub", "a", audited).wire("hub", "b", "allow = [\"tcp/80\"]").table(PUBLIC).case("one of a hub's"),
        draft().wire("host", "a", audited).wire("host", "b", "").case("one of the host's"),
        draft().wire("host", "a", audited).host("policy = \"all\"").case("one of a policed host's"),
        draft().wire("host", "hub", "").wire("hub", "a", audited).table(PUBLIC).table(out).case("half of the way out"),
        draft().wire("host", "hub", audited).wire("hub", "a", "").table(PUBLIC).table(out).case("the other half"),
        draft()
            .wire("host", "hub", audited)
            .wire("hub", "a", audited)
            .table(PUBLIC)
            .table(out)
            .case("all of the way out"),
        draft().wire("host", "a", audited).table(out).case("the only way out"),
        draft().wire("host", "a", &with("publish = [\"tcp/80\"]")).case("one that publishes"),
    ]
}

/// Rates that nobody exceeds by asking everything once. What exceeds them is asked by itself.
fn rates() -> Vec<(String, String)> {
    let rates = [
        "rate = \"100/second\"",
        "rate = \"5/minute\"",
        "rate = \"2/hour\", burst = 12",
        "rate = \"1/day\", burst = 10",
    ];
    let mut cases = Vec::new();
    for rate in rates {
        let flow = format!("{{ flow = \"tcp/80\", {rate} }}");
        let draft = Draft::new().wire("a", "b", &format!("allow = [{flow}, \"tcp/81\"]"));
        cases.push(draft.wire("host", "c", &format!("allow = [{flow}]")).case(format!("a flow, {rate}")));
        let publish = format!("{{ flow = \"tcp/80\", {rate} }}");
        cases
            .push(Draft::new().wire("host", "a", &format!("publish = [{publish}]")).case(format!("published, {rate}")));
    }
    cases
}

/// Sets of every shape, in every place that takes one.
fn sets() -> Vec<(String, String)> {
    let shapes = [
        ("one address", "\"198.51.100.4\""),
        ("two neighbours", "\"198.51.100.4\", \"198.51.100.5\""),
        ("a prefix", "\"198.51.100.0/26\""),
        ("neighbouring prefixes", "\"198.51.100.0/26\", \"198.51.100.64/26\""),
        ("one in the other", "\"198.51.100.0/24\", \"198.51.100.4\""),
        ("the same twice", "\"198.51.100.4\", \"198.51.100.4/32\""),
        ("both families", "\"198.51.100.4\", \"2001:db8:5::/64\", \"2001:db8:6::1\""),
        ("everybody", "\"0.0.0.0/0\""),
        ("nobody", ""),
    ];
    let mut cases = Vec::new();
    for (name, elements) in shapes {
        let publish = "IPV6, publish = [{ flow = \"tcp/80\", from = \"@some\" }, \"tcp/81\"]";
        let draft =
            Draft::new().wire("host", "a", publish).wire("a", "b", "allow = [{ flow = \"tcp/22\", to = \"@some\" }]");
        let out = "[node.a]\negress = [{ flow = \"tcp/443\", to = \"@some\" }]";
        cases.push(draft.table(&format!("[set.some]\nelements = [{elements}]")).table(out).case(name));
    }
    cases
}

/// Nodes that live in another's namespace.
fn shares() -> Vec<(String, String)> {
    let in_ =
        |node: &str, owner: &str, egress: &str| format!("[node.{node}]\nshares = \"{owner}\"\negress = [{egress}]");
    vec![
        Draft::new().wire("b", "c", "allow = [\"tcp/80\"]").table(&in_("b", "a", "")).case("a leaf's"),
        Draft::new()
            .wire("host", "a", "")
            .wire("b", "c", "allow = [\"tcp/80\"]")
            .table(&in_("b", "a", "\"tcp/443\""))
            .table("[node.a]\negress = [\"udp/53\"]")
            .case("a leaf's, with egress of both"),
        Draft::new()
            .wire("host", "hub", "publish = [\"tcp/443\"]")
            .wire("b", "c", "allow = [\"tcp/80\"], allow-back = [\"tcp/9000\"]")
            .table(PUBLIC)
            .table(&in_("b", "hub", "\"tcp/443\""))
            .case("a hub's"),
        Draft::new()
            .wire("b", "c", "allow = [\"tcp/80\"], allow-back = [\"tcp/53\"]")
            .table("[node.b]\nshares = \"host\"")
            .case("the host's"),
        Draft::new()
            .wire("b", "d", "allow = [\"tcp/80\"]")
            .wire("c", "d", "allow = [\"tcp/81\"]")
            .table(&in_("b", "a", ""))
            .table(&in_("c", "b", ""))
            .case("of one that shares"),
        Draft::new()
            .wire("host", "hub", "")
            .wire("hub", "b", "allow = [\"tcp/80\"]")
            .table(&format!("{PUBLIC}\n\n[[hub.hub.forward]]\nport = \"tcp/2222\"\nto = \"b:22\""))
            .table(&in_("b", "a", ""))
            .case("a leaf's, forwarded to"),
    ]
}

/// Wires of other sizes and names.
fn shapes() -> Vec<(String, String)> {
    let flow = "allow = [\"tcp/80\"], allow-back = [\"udp/53\"]";
    vec![
        Draft::new().wire("a", "b", &format!("subnet = \"10.9.77.4/30\", {flow}")).case("a /30"),
        Draft::new()
            .wire("host", "a", &format!("subnet = \"10.9.77.4/30\", {flow}, publish = [\"tcp/443\"]"))
            .case("a /30 at the host"),
        Draft::new().wire("a", "b", &format!("{flow}, mtu = 1280")).case("a small mtu"),
        Draft::new().wire("a", "b", &format!("{flow}, ifname = [\"left\", \"right\"]")).case("devices of other names"),
        Draft::new().wire("a", "b", flow).wire("a", "b", "allow = [\"tcp/81\"]").case("two wires between two"),
        Draft::new().wire("a", "b", flow).wire("b", "c", flow).wire("c", "a", flow).wire("c", "d", flow).case("a ring"),
        Draft::new()
            .wire("hub", "a", flow)
            .wire("hub", "b", flow)
            .wire("hub", "c", flow)
            .wire("hub", "d", flow)
            .table(PUBLIC)
            .case("a star"),
        Draft::new().wire("a", "b", flow).table("[node.c]\nnetwork = \"none\"").case("a node without network"),
        Draft::new().case("nothing at all"),
    ]
}

/// Houses that change, one thing at a time, and back.
fn updates() -> Vec<Vec<(String, String)>> {
    let base = |direct: &str, host: &str, hub: &str| {
        Draft::new().wire("host", "hub", host).wire("hub", "a", hub).wire("a", "b", direct).table(PUBLIC)
    };
    let (direct, host, hub) = ("allow = [\"tcp/5432\"]", "publish = [\"tcp/443\"]", "allow = [\"tcp/80\"]");
    let plain = || base(direct, host, hub);
    let flows = vec![
        plain().case("at first"),
        base("allow = [\"tcp/5432\", \"udp/53\"]", host, hub).case("a flow more"),
        base("allow = [\"udp/53\"]", host, hub).case("the first flow gone"),
        base("allow = [\"udp/53-60\"]", host, hub).case("a range in its place"),
        base("allow-back = [\"udp/53-60\"]", host, hub).case("turned round"),
        base("", host, hub).case("no flow"),
        base("mode = \"audit\"", host, hub).case("audit mode"),
        plain().case("as at first"),
        base(direct, host, "allow = [{ flow = \"tcp/80\", from = \"10.9.1.0\" }]").case("from the hub only"),
        base(direct, host, "allow = [{ flow = \"tcp/80\", from = \"10.9.9.9\" }]").case("from nobody"),
        base(direct, host, hub).case("from all again"),
    ];
    let wires = vec![
        plain().case("at first"),
        plain().wire("b", "c", "allow = [\"tcp/22\"]").case("a wire more"),
        Draft::new().wire("host", "hub", host).wire("hub", "a", hub).table(PUBLIC).case("wires gone"),
        Draft::new().wire("host", "hub", host).table(PUBLIC).case("the hub alone"),
        Draft::new().case("nothing"),
        plain().case("all back"),
        Draft::new()
            .wire("a", "b", direct)
            .wire("hub", "a", hub)
            .wire("host", "hub", host)
            .table(PUBLIC)
            .case("other addresses"),
        plain().wire("host", "b", "publish = [\"tcp/25\"]").case("a second wire to the host"),
        base(&format!("IPV6, {direct}"), &format!("IPV6, {host}"), &format!("IPV6, {hub}")).case("IPv6 comes"),
        plain().case("IPv6 goes"),
        Draft::new()
            .wire("hub", "a", hub)
            .wire("host", "a", host)
            .wire("a", "b", direct)
            .table(PUBLIC)
            .case("the host's wire moves"),
        Draft::new().wire("host", "hub", host).wire("hub", "a", hub).wire("a", "b", direct).case("a hub no more"),
    ];
    let friends = |elements: &str| format!("[set.friends]\nelements = [{elements}]");
    let of_friends = |elements: &str| {
        base(direct, "publish = [{ flow = \"tcp/443\", from = \"@friends\" }]", hub).table(&friends(elements))
    };
    let outside = vec![
        plain().case("at first"),
        base(direct, "publish = [\"tcp/443\", \"tcp/80\"]", hub).case("a port more"),
        base(direct, "publish = [\"tcp/80:8080\"]", hub).case("moved"),
        base(direct, "publish = [{ flow = \"tcp/80\", address = \"203.0.113.25\" }]", hub).case("at an address"),
        base(direct, "", hub).case("nothing published"),
        of_friends("\"198.51.100.4\"").case("for a friend"),
        of_friends("\"198.51.100.4\", \"192.168.7.0/24\"").case("for more friends"),
        of_friends("\"192.168.7.0/24\"").case("for one friend less"),
        of_friends("").case("for nobody"),
        plain().host("policy = \"all\"").case("a policed host"),
        plain().host("policy = \"all\"").host("allow = [\"tcp/22\"]").case("with a service"),
        plain().host("block = \"@friends\"").table(&friends("\"198.51.100.4\"")).case("friends no more"),
        plain().case("as at first"),
    ];
    let egress = |node: &str, flows: &str| format!("[node.{node}]\negress = [{flows}]");
    let ways_out = vec![
        plain().case("at first"),
        plain().table(&egress("a", "\"tcp/443\"")).case("egress"),
        plain().table(&egress("a", "\"tcp/443\", { flow = \"udp/53\", to = \"192.168.1.1\" }")).case("more egress"),
        plain().table(&egress("a", "{ flow = \"udp/53\", to = \"192.168.1.1\" }")).case("less egress"),
        plain().table(&egress("hub", "\"tcp/443\"")).case("another's egress"),
        plain().case("no egress"),
        plain().table("[[hub.hub.forward]]\nport = \"tcp/2222\"\nto = \"a:22\"").case("a forward"),
        plain().table("[[hub.hub.forward]]\nport = \"tcp/2222\"\nto = \"a:2200\"").case("another forward"),
        plain()
            .table("[[hub.hub.forward]]\nport = \"tcp/2222\"\nto = \"a:2200\"\nfrom = \"198.51.100.4\"")
            .case("for one alone"),
        plain().case("as at first"),
    ];
    let tunnel = |flows: &str| Draft::new().wire("host", "vpn", "publish = [\"udp/51820\"]").wire("vpn", "a", flows);
    let tunnels = vec![
        tunnel("allow = [\"tcp/22\"]").table(PRIVATE).case("at first"),
        tunnel("allow = [\"tcp/22\"]").table(TUNNEL).case("clients come"),
        tunnel("allow = [\"tcp/22,80\"]").table(TUNNEL).case("for more"),
        tunnel("allow = [{ flow = \"tcp/22\", from = \"10.100.0.2\" }]").table(TUNNEL).case("one of them"),
        tunnel("").table(TUNNEL).case("for nothing"),
        tunnel("allow = [\"tcp/22\"]").table(TUNNEL).case("for something again"),
        tunnel("allow = [\"tcp/22\"]").table(PRIVATE).case("clients go"),
    ];
    vec![flows, wires, outside, ways_out, tunnels]
}

/// As many houses of everything at once.
const MIXTURES: u64 = 12;

/// Numbers that look like chance and are the same every time (SplitMix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Once in so many.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn one_of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }

    fn flows(&mut self) -> String {
        const FLOWS: [&str; 12] = [
            "\"tcp/80\"",
            "\"tcp/22,443\"",
            "\"udp/53\"",
            "\"udp/6000-6004\"",
            "\"icmp\"",
            "\"icmpv6\"",
            "{ flow = \"tcp/5432\", rate = \"1000/second\", burst = 1000 }",
            "{ flow = \"tcp/8080\", from = \"10.9.0.0/16\" }",
            "{ flow = \"tcp/8081\", from = \"@some\" }",
            "{ flow = \"udp/8082\", to = \"@inner\", log = true }",
            "{ flow = \"tcp/8083\", to = \"fd09::/16\" }",
            "\"tcp/9000-9001\"",
        ];
        let count = self.below(3);
        let mut words: Vec<&str> = Vec::new();
        for _ in 0..count {
            let flow = self.one_of(&FLOWS);
            // Of ICMPv6 where there may be no IPv6 the program would warn.
            if !words.contains(&flow) && !flow.contains("v6") && !flow.contains("fd09") {
                words.push(flow);
            }
        }
        words.join(", ")
    }
}

/// A house of everything, and what becomes of it in three steps.
fn mixture(seed: u64) -> Vec<(String, String)> {
    let mut dice = Dice(seed);
    (0..4).map(|step| mixed(&mut dice).case(format!("seed {seed}, step {step}"))).collect()
}

fn mixed(dice: &mut Dice) -> Draft {
    let mut draft = Draft::new();
    let mut published = 0;
    let mut wire = |draft: Draft, dice: &mut Dice, first: &str, second: &str| {
        let mut keys = Vec::new();
        if dice.once_in(3) {
            keys.push("IPV6".to_owned());
        }
        for key in ["allow", "allow-back"] {
            keys.push(format!("{key} = [{}]", dice.flows()));
        }
        if first == "host" && !dice.once_in(3) {
            published += 10;
            let port = 100 + published;
            keys.push(match dice.below(5) {
                0 => format!("publish = [\"tcp/{port}\"]"),
                1 => format!("publish = [\"udp/{port}-{}:7000\"]", port + 2),
                2 => format!("publish = [{{ flow = \"tcp/{port}\", address = \"203.0.113.25\" }}]"),
                3 => format!("publish = [{{ flow = \"tcp/{port}:80\", from = \"@some\" }}, \"udp/{port}\"]"),
                _ => format!("publish = [\"tcp/{port},{}\"]", port + 5),
            });
        }
        draft.wire(first, second, &keys.join(", "))
    };
    // Each hub may have a wire to the host, each leaf a hub, or both, or a wire to the host.
    let mut zones = [0_u8; 4];
    let mut way_out = [false; 4];
    let at_host = [!dice.once_in(4), !dice.once_in(4)];
    for (number, hub) in ["hub", "vpn"].into_iter().enumerate() {
        if at_host[number] {
            draft = wire(draft, dice, "host", hub);
        }
    }
    for (leaf, name) in NODES[..4].iter().enumerate() {
        for (number, hub) in ["hub", "vpn"].into_iter().enumerate() {
            if dice.once_in(2) {
                draft = wire(draft, dice, hub, name);
                // Its first hub is its way out.
                way_out[leaf] |= zones[leaf] == 0 && at_host[number];
                zones[leaf] |= 1 << number;
            }
        }
        if zones[leaf] == 0 && dice.once_in(2) {
            draft = wire(draft, dice, "host", name);
            way_out[leaf] = true;
        }
    }
    for (first, second) in [(0, 1), (1, 2), (2, 3), (3, 0)] {
        if dice.once_in(3) && (zones[first] == 0 || zones[second] == 0 || zones[first] & zones[second] != 0) {
            draft = wire(draft, dice, NODES[first], NODES[second]);
        }
    }
    for (leaf, name) in NODES[..4].iter().enumerate() {
        let mut keys = Vec::new();
        if zones[leaf] == 3 {
            keys.push("zones = [\"private\", \"public\"]".to_owned());
        }
        if way_out[leaf] && dice.once_in(2) {
            let flow = dice.one_of(&[
                "\"tcp/443\"",
                "\"udp/53\", \"icmp\"",
                "{ flow = \"tcp/22\", to = \"@some\" }",
                "{ flow = \"udp/123\", to = \"192.168.1.1\" }",
            ]);
            keys.push(format!("egress = [{flow}]"));
        }
        if !keys.is_empty() {
            draft = draft.table(&format!("[node.{name}]\n{}", keys.join("\n")));
        }
    }
    if dice.once_in(3) {
        draft = draft.host("policy = \"all\"").host("allow = [\"tcp/22\", \"icmp\"]");
    }
    if dice.once_in(3) {
        draft = draft.host("block = \"@banned\"");
    }
    let tunnel = dice.once_in(2);
    let client = if tunnel { "\"10.100.0.2\", " } else { "" };
    draft
        .table(PUBLIC)
        .table(if tunnel { TUNNEL } else { PRIVATE })
        .table(&format!("[set.some]\nelements = [{client}\"198.51.100.4\", \"192.168.7.0/24\", \"2001:db8:5::/64\"]"))
        .table("[set.inner]\nelements = [\"10.9.0.0/16\", \"fd09::/16\"]")
        .table("[set.banned]\nelements = [\"198.51.100.66\", \"2001:db8:bad::1\"]")
}
