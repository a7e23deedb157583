//! Files with something wrong, each with all that is said of it: place and message, and the hint.

/// A rule, a file that breaks it, and every fault that is told.
pub struct Case {
    pub rule: &'static str,
    pub text: &'static str,
    pub faults: &'static [(&'static str, &'static str)],
}

pub const CASES: &[Case] = &[
    Case {
        rule: "version is missing",
        text: r#"runtime = "podman"
"#,
        faults: &[("1:1: `version` is missing", "add `version = 1`")],
    },
    Case {
        rule: "another version",
        text: "version = 2
nonsense = true
",
        faults: &[("1:11: version 2 is not known to this `wire`", "write `version = 1`, or take a newer `wire`")],
    },
    Case {
        rule: "version as a string",
        text: r#"version = "1"
"#,
        faults: &[("1:11: `version` wants a whole number, not a string", "write `version = 1`")],
    },
    Case {
        rule: "version below a table",
        text: "[podman]
version = 1
",
        faults: &[(
            "2:1: [podman]: unknown key `version`",
            "`version` belongs at the top of the file, above the first [table]",
        )],
    },
    Case {
        rule: "an unknown runtime",
        text: r#"version = 1
runtime = "netn"
"#,
        faults: &[("2:11: `runtime` cannot be `netn`", "did you mean `netns`?")],
    },
    Case {
        rule: "an unknown key, near one",
        text: r#"version = 1
runtim = "netns"
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[("2:1: unknown key `runtim`", "did you mean `runtime`?")],
    },
    Case {
        rule: "a key below the wrong table",
        text: r#"version = 1
[podman]
uplinks = ["eth0"]
runtime = "netns"
mtu = 1400
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            ("3:1: [podman]: unknown key `uplinks`", "`uplinks` belongs below [host]"),
            (
                "4:1: [podman]: unknown key `runtime`",
                "`runtime` belongs at the top of the file, above the first [table]",
            ),
            ("5:1: [podman]: unknown key `mtu`", "`mtu` belongs below [[wire]]"),
        ],
    },
    Case {
        rule: "misplaced in node and wire",
        text: r#"version = 1
[[wire]]
name = "x"
ends = ["a", "b"]
subnet = "10.0.0.0/31"
uplinks = ["eth0"]
zone = "public"
[node.a]
mtu = 1400
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            ("6:1: wire `x`: unknown key `uplinks`", "`uplinks` belongs below [host]"),
            ("7:1: wire `x`: unknown key `zone`", "`zone` belongs below [hub.NAME]"),
            ("9:1: node `a`: unknown key `mtu`", "`mtu` belongs below [[wire]]"),
        ],
    },
    Case {
        rule: "a key in underscores",
        text: r#"version = 1
[[wire]]
name = "x"
ends = ["a", "b"]
subnet = "10.0.0.0/31"
allow_back = ["tcp/80"]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[("6:1: wire `x`: unknown key `allow_back`", "did you mean `allow-back`?")],
    },
    Case {
        rule: "an unknown key, near none",
        text: r#"version = 1
[podman]
frobnicate = 1
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[("3:1: [podman]: unknown key `frobnicate`", "the keys here are `user`")],
    },
    Case {
        rule: "a misspelt required key is one mistake",
        text: r#"version = 1
[[wire]]
nmae = "x"
ends = ["a", "b"]
subnt = "10.0.0.0/31"
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            ("3:1: this wire: unknown key `nmae`", "did you mean `name`?"),
            ("5:1: this wire: unknown key `subnt`", "did you mean `subnet`?"),
        ],
    },
    Case {
        rule: "not TOML: unquoted",
        text: r#"version = 1
[podman]
user = liam
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[("3:8: not TOML: string values must be quoted", r#"put it in quotes: `"liam"`"#)],
    },
    Case {
        rule: "not TOML: a list without an end",
        text: r#"version = 1
wire = [
  { name = "x", ends = ["a", "b"], subnet = "10.0.0.0/31" },

[host]
policy = "all"
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[("5:2: not TOML: what stands above `[host]` has no end", "a `]` or `}` is missing above this line")],
    },
    Case {
        rule: "not TOML: both ways of wires",
        text: r#"version = 1
wire = [ { name = "x", ends = ["a", "b"], subnet = "10.0.0.0/31" } ]
[[wire]]
name = "y"
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[(
            "3:3: not TOML: duplicate key",
            "write all wires in one way: either `wire = [ … ]` once, or [[wire]] for each",
        )],
    },
    Case {
        rule: "not TOML: twice",
        text: r#"version = 1
[podman]
user = "a"
user = "b"
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[("4:1: not TOML: duplicate key", "`user` was written before: keep one of them")],
    },
    Case {
        rule: "wrong types",
        text: r#"runtime = 2020-01-01
wire = ["x", { name = 1, ends = "a", subnet = true, allow = "tcp/80", mtu = "1400", across-zones = "yes" }]
podman = 3
hub = "h"
[module]
m = "a"
[node.a]
egress = [1]
"#,
        faults: &[
            ("1:1: `version` is missing", "add `version = 1`"),
            ("1:11: `runtime` wants a string, not a date", r#"put it in quotes: `"2020-01-01"`"#),
            (
                "2:9: `wire` wants a table, not a string",
                r#"write `wire = [ { name = "web-db", ends = ["web", "db"], subnet = "10.254.0.0/31" } ]`"#,
            ),
            ("2:23: this wire: `name` wants a string, not a number", r#"put it in quotes: `"1"`"#),
            ("2:33: this wire: `ends` wants a list, not a string", r#"write `ends = ["a"]`"#),
            ("2:47: this wire: `subnet` wants a string, not true or false", r#"put it in quotes: `"true"`"#),
            ("2:61: this wire: `allow` wants a list, not a string", r#"write `allow = ["tcp/80"]`"#),
            ("2:77: this wire: `mtu` wants a whole number, not a string", "write `mtu = 1400`"),
            (
                "2:100: this wire: `across-zones` wants true or false, not a string",
                "write `across-zones = true` or `across-zones = false`",
            ),
            ("3:10: `podman` wants a table, not a number", "write `[podman]`"),
            ("4:7: `hub` wants a table, not a string", "write `[hub.NAME]`"),
            ("6:5: module `m`: `m` wants a list, not a string", r#"write `m = ["a"]`"#),
            ("8:11: node `a`: `egress` wants a string, not a number", r#"put it in quotes: `"1"`"#),
        ],
    },
    Case {
        rule: "names",
        text: r#"version = 1
wire = [
  { name = "", ends = ["a", "b"], subnet = "10.0.0.0/31" },
  { name = "größe", ends = ["a", "c"], subnet = "10.0.0.2/31" },
  { name = "-x", ends = ["a", "b"], subnet = "10.0.0.4/31" },
  { name = "eth0", ends = ["a", "b"], subnet = "10.0.0.6/31" },
  { name = "lo", ends = ["a", "b"], subnet = "10.0.0.8/31" },
  { name = "x23456789x123456789x123456789x123456789x123456789x123456789x12345", ends = ["a", "b"], subnet = "10.0.0.10/31" },
  { name = "bell\u0007 \"; flush ruleset", ends = ["a", "b"], subnet = "10.0.0.12/31" },
]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            (
                "3:12: this wire: `` cannot name a wire",
                "a name is 1 to 64 of letters, digits, `.`, `_` and `-`, and begins with a letter or digit",
            ),
            (
                "4:12: wire `größe`: `größe` cannot name a wire",
                "a name is 1 to 64 of letters, digits, `.`, `_` and `-`, and begins with a letter or digit: `gr--e`",
            ),
            (
                "5:12: wire `-x`: `-x` cannot name a wire",
                "a name is 1 to 64 of letters, digits, `.`, `_` and `-`, and begins with a letter or digit: `x`",
            ),
            ("6:12: wire `eth0`: `eth0` is taken and cannot name a wire", "give the wire another name"),
            ("7:12: wire `lo`: `lo` is taken and cannot name a wire", "give the wire another name"),
            (
                "8:12: wire `x23456789x123456789x123456789x123456789x123456789x123456789x12345`: `x23456789x123456789x123456789x123456789x123456789x123456789x12345` cannot name a wire",
                "a name is 1 to 64 of letters, digits, `.`, `_` and `-`, and begins with a letter or digit: `x23456789x123456789x123456789x123456789x123456789x123456789x1234`",
            ),
            (
                r#"9:12: wire `bell\u{7} "; flush ruleset`: `bell\u{7} "; flush ruleset` cannot name a wire"#,
                "a name is 1 to 64 of letters, digits, `.`, `_` and `-`, and begins with a letter or digit: `bell-----flush-ruleset`",
            ),
        ],
    },
    Case {
        rule: "reserved names",
        text: r#"version = 1
[module]
all = ["host", "outside", "eth0"]
[node.host]
[set.default]
"#,
        faults: &[
            ("3:1: [module]: `all` is taken and cannot name a module", "give the module another name"),
            ("3:8: module `all`: `host` is taken and cannot name a node", "what concerns the host stands below [host]"),
            ("3:16: module `all`: `outside` is taken and cannot name a node", "give the node another name"),
            ("4:7: [node]: `host` is taken and cannot name a node", "what concerns the host stands below [host]"),
            ("5:6: [set]: `default` is taken and cannot name a set", "give the set another name"),
        ],
    },
    Case {
        rule: "a wire's name twice",
        text: r#"version = 1
wire = [
  { name = "x", ends = ["a", "b"], subnet = "10.0.0.0/31" },
  { name = "x", ends = ["a", "c"], subnet = "10.0.0.2/31" },
]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[(
            "4:12: wire `x`: the name is already that of the wire in line 3",
            "a wire's name is its identity: give each its own",
        )],
    },
    Case {
        rule: "a node in two modules, and twice in one",
        text: r#"version = 1
[module]
m = ["a", "b"]
n = ["b", "c", "c"]
"#,
        faults: &[
            ("4:6: module `n`: node `b` stands in module `m` already", "keep one of them, here or in line 3"),
            ("4:16: module `n`: node `c` stands in it twice", "keep one of them, here or in line 4"),
        ],
    },
    Case {
        rule: "unknown nodes",
        text: r#"version = 1
wire = [
  { name = "x", ends = ["a", "bb"], subnet = "10.0.0.0/31" },
  { name = "y", ends = ["hots", "nobody"], subnet = "10.0.0.2/31" },
  { name = "z", ends = ["a", "nobody"], subnet = "10.0.0.4/31" },
  { name = "o", ends = ["a", "outside"], subnet = "10.0.0.6/31" },
]
[node.stranger]
[hub.nobody]
zone = "public"
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            ("3:30: wire `x`: no node is called `bb`", "did you mean `b`?"),
            ("4:25: wire `y`: no node is called `hots`", "did you mean `host`?"),
            (
                "4:33: wire `y`: no node is called `nobody`",
                r#"every node stands in a module: add `"nobody"` to one below [module]"#,
            ),
            (
                "6:30: wire `o`: no node is called `outside`",
                "what lies outside is reached by `egress` and `publish`, not by a wire",
            ),
            (
                "8:7: no node is called `stranger`",
                r#"every node stands in a module: add `"stranger"` to one below [module]"#,
            ),
        ],
    },
    Case {
        rule: "the end of a longer name",
        text: r#"version = 1
wire = [ { name = "x", ends = ["darkroom", "web"], subnet = "10.0.0.0/31" } ]
[module]
m = ["lbmt-darkroom", "web"]
"#,
        faults: &[("2:32: wire `x`: no node is called `darkroom`", "did you mean `lbmt-darkroom`?")],
    },
    Case {
        rule: "ends",
        text: r#"version = 1
wire = [
  { name = "x", ends = ["a"], subnet = "10.0.0.0/31" },
  { name = "y", ends = ["a", "a"], subnet = "10.0.0.2/31" },
  { name = "z", ends = ["a", 3], subnet = "10.0.0.4/31" },
  { name = "w", subnet = "10.0.0.6/31" },
]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            ("3:24: wire `x`: `ends` names two nodes, not one", r#"write `ends = ["host", "web"]`"#),
            ("4:30: wire `y`: both ends are in `a`", "a wire joins two namespaces: name another node"),
            ("5:30: wire `z`: `ends` wants a string, not a number", r#"put it in quotes: `"3"`"#),
            ("6:3: wire `w`: `ends` is missing", r#"add `ends = ["web", "db"]`"#),
        ],
    },
    Case {
        rule: "subnets",
        text: r#"version = 1
wire = [
  { name = "a1", ends = ["a", "b"], subnet = "10.0.0.1/31" },
  { name = "a2", ends = ["a", "b"], subnet = "10.0.0.6/30" },
  { name = "a3", ends = ["a", "b"], subnet = "10.0.0.9/29" },
  { name = "a4", ends = ["a", "b"], subnet = "10.0.0.16" },
  { name = "a5", ends = ["a", "b"], subnet = "fd00::/127" },
  { name = "a6", ends = ["a", "b"], subnet = "127.0.0.0/31" },
  { name = "a7", ends = ["a", "b"], subnet = "224.0.0.0/31" },
  { name = "a8", ends = ["a", "b"], subnet = "10.0.0.256/31" },
  { name = "a9", ends = ["a", "b"] },
]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            ("3:46: wire `a1`: subnet `10.0.0.1/31` does not begin at a multiple of 2", "write `10.0.0.0/31`"),
            ("4:46: wire `a2`: subnet `10.0.0.6/30` does not begin at a multiple of 4", "write `10.0.0.4/30`"),
            ("5:46: wire `a3`: subnet `10.0.0.9/29` is neither a /31 nor a /30", "write `10.0.0.8/31`"),
            ("6:46: wire `a4`: subnet `10.0.0.16` has no prefix length", "write `10.0.0.16/31`"),
            (
                "7:46: wire `a5`: `fd00::/127` is no subnet of IPv4",
                "write `172.16.0.0/31`, or leave `subnet` out and run `wire number`",
            ),
            (
                "8:46: wire `a6`: `127.0.0.0/31` is a loopback address",
                "take one of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16",
            ),
            (
                "9:46: wire `a7`: `224.0.0.0/31` is a multicast address",
                "take one of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16",
            ),
            (
                "10:46: wire `a8`: `10.0.0.256/31` is no subnet of IPv4",
                "write `172.16.0.0/31`, or leave `subnet` out and run `wire number`",
            ),
            (
                "11:3: wire `a9`: `subnet` is missing",
                "run `wire number`, which writes the next free /31 into the file, or write one yourself",
            ),
        ],
    },
    Case {
        rule: "subnets of IPv6",
        text: r#"version = 1
wire = [
  { name = "a1", ends = ["a", "b"], subnet = "10.0.0.0/31", subnet6 = "fd00::1/127" },
  { name = "a2", ends = ["a", "b"], subnet = "10.0.0.2/31", subnet6 = "fd00::/64" },
  { name = "a3", ends = ["a", "b"], subnet = "10.0.0.4/31", subnet6 = "fe80::/127" },
  { name = "a4", ends = ["a", "b"], subnet = "10.0.0.6/31", subnet6 = "10.0.0.0/31" },
]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            ("3:71: wire `a1`: subnet6 `fd00::1/127` begins at an odd address", "write `fd00::/127`"),
            ("4:71: wire `a2`: subnet6 `fd00::/64` is no /127", "write `fd00::/127`"),
            ("5:71: wire `a3`: `fe80::/127` is a link-local address", "take one of fd00::/8"),
            ("6:71: wire `a4`: `10.0.0.0/31` is no subnet of IPv6", "write `fd00:1::/127`"),
        ],
    },
    Case {
        rule: "subnets that overlap",
        text: r#"version = 1
wire = [
  { name = "x", ends = ["a", "b"], subnet = "10.0.0.0/31", subnet6 = "fd00::/127" },
  { name = "y", ends = ["a", "b"], subnet = "10.0.0.0/31" },
  { name = "z", ends = ["a", "b"], subnet = "10.0.0.0/30", subnet6 = "fd00::/127" },
]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            (
                "4:45: wire `y`: 10.0.0.0/31 is already taken by wire `x` (line 3)",
                "give each wire a /31 of its own, or leave `subnet` out and run `wire number`",
            ),
            (
                "5:45: wire `z`: 10.0.0.0/30 overlaps 10.0.0.0/31 of wire `x` (line 3)",
                "give each wire a /31 of its own, or leave `subnet` out and run `wire number`",
            ),
            ("5:70: wire `z`: fd00::/127 is already taken by wire `x` (line 3)", "take addresses that nobody else has"),
        ],
    },
    Case {
        rule: "clients that overlap",
        text: r#"version = 1
wire = [ { name = "x", ends = ["h", "a"], subnet = "10.100.0.4/31" } ]
[module]
m = ["h", "a"]
[hub.h]
zone = "private"
clients = { prefix = "10.100.0.0/24", device = "wg0" }
"#,
        faults: &[(
            "7:11: the clients of hub `h`: 10.100.0.0/24 overlaps 10.100.0.4/31 of wire `x` (line 2)",
            "take addresses that nobody else has",
        )],
    },
    Case {
        rule: "mtu",
        text: r#"version = 1
wire = [
  { name = "x", ends = ["a", "b"], subnet = "10.0.0.0/31", mtu = 67 },
  { name = "y", ends = ["a", "b"], subnet = "10.0.0.2/31", mtu = 65536 },
  { name = "z", ends = ["a", "b"], subnet = "10.0.0.4/31", mtu = 1279, subnet6 = "fd00::/127" },
  { name = "w", ends = ["a", "b"], subnet = "10.0.0.6/31", mtu = 68 },
]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            ("3:66: wire `x`: `mtu` is out of range: 67", "it may be 68 to 65535"),
            ("4:66: wire `y`: `mtu` is out of range: 65536", "it may be 68 to 65535"),
            ("5:66: wire `z`: an mtu of 1279 is too small for IPv6", "write 1280 or more, or leave `subnet6` out"),
        ],
    },
    Case {
        rule: "mode",
        text: r#"version = 1
wire = [ { name = "x", ends = ["a", "b"], subnet = "10.0.0.0/31", mode = "Audit" } ]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[("2:74: wire `x`: `mode` cannot be `Audit`", "did you mean `audit`?")],
    },
    Case {
        rule: "devices",
        text: r#"version = 1
wire = [
  { name = "x", ends = ["a", "b"], subnet = "10.0.0.0/31", ifname = ["a-name-that-is-long", "eth 0"] },
  { name = "y", ends = ["a", "b"], subnet = "10.0.0.2/31", ifname = ["lo", "eth0"] },
  { name = "z", ends = ["a", "b"], subnet = "10.0.0.4/31", ifname = ["eth1"] },
]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            (
                "3:70: wire `x`: `a-name-that-is-long` cannot be a device's name",
                "a device's name has 1 to 15 of letters, digits, `.`, `_` and `-`, and begins with a letter or digit",
            ),
            (
                "3:93: wire `x`: `eth 0` cannot be a device's name",
                "a device's name has 1 to 15 of letters, digits, `.`, `_` and `-`, and begins with a letter or digit",
            ),
            ("4:70: wire `y`: `lo` is a name of the kernel's own", "take another device name"),
            ("5:69: wire `z`: `ifname` names two devices, not one", r#"write `ifname = ["web-db", "eth0"]`"#),
        ],
    },
    Case {
        rule: "a device twice in one namespace",
        text: r#"version = 1
wire = [
  { name = "x", ends = ["h", "a"], subnet = "10.0.0.0/31" },
  { name = "y", ends = ["a", "b"], subnet = "10.0.0.2/31", ifname = ["eth0", "eth0"] },
  { name = "z", ends = ["b", "c"], subnet = "10.0.0.4/31", ifname = ["zz", "zz"] },
  { name = "zz", ends = ["b", "c"], subnet = "10.0.0.6/31" },
]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            (
                "4:70: wire `y`: `a` has a device `eth0` already, of wire `x` (line 3)",
                r#"name the wire's two devices: `ifname = ["…", "…"]`"#,
            ),
            (
                "6:12: wire `zz`: `b` has a device `zz` already, of wire `z` (line 5)",
                r#"name the wire's two devices: `ifname = ["…", "…"]`"#,
            ),
        ],
    },
    Case {
        rule: "a host's device that is an uplink",
        text: r#"version = 1
wire = [ { name = "wan", ends = ["host", "a"], subnet = "10.0.0.0/31" } ]
[host]
uplinks = ["wan"]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[(
            "2:19: wire `wan`: its device at the host would be `wan`, which is an uplink",
            r#"name the wire's two devices: `ifname = ["…", "…"]`"#,
        )],
    },
    Case {
        rule: "a tunnel's device that a wire has",
        text: r#"version = 1
wire = [ { name = "wg0", ends = ["h", "a"], subnet = "10.0.0.0/31" } ]
[module]
m = ["h", "a"]
[hub.h]
zone = "private"
clients = { prefix = "10.100.0.0/24", device = "wg0" }
"#,
        faults: &[(
            "7:11: hub `h`: it has a device `wg0` already, of wire `wg0` (line 2)",
            "give the tunnel another device",
        )],
    },
    Case {
        rule: "flows",
        text: r#"version = 1
[[wire]]
name = "x"
ends = ["a", "b"]
subnet = "10.0.0.0/31"
allow = ["tpc/80", "80,443", "tcp", "tcp/", "tcp/0", "tcp/65536", "tcp/90-80", "tcp/80, 443", "tcp/http", "TCP/80", "sctp/80", ""]
allow-back = ["icmp/echo-requst", "icmpv6/redirect", "tcp/2222:22", "tcp/80:", "udp/1-2-3", "icmp/", "tcp/+80"]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            ("6:11: wire `x`: `tpc` is no protocol", "did you mean `tcp`?"),
            ("6:20: wire `x`: flow `80,443` names no protocol", r#"write `"tcp/80,443"`"#),
            ("6:30: wire `x`: `tcp` names no port", r#"write `"tcp/443"`, with the port it means"#),
            (
                "6:42: wire `x`: `` is no port",
                "a port is a number from 1 to 65535, a list `80,443` or a range `8000-8010`",
            ),
            (
                "6:50: wire `x`: `0` is no port",
                "a port is a number from 1 to 65535, a list `80,443` or a range `8000-8010`",
            ),
            (
                "6:59: wire `x`: `65536` is no port",
                "a port is a number from 1 to 65535, a list `80,443` or a range `8000-8010`",
            ),
            ("6:72: wire `x`: the range `90-80` runs backwards", "write `80-90`"),
            ("6:88: wire `x`: ` 443` is no port", "write it without spaces"),
            (
                "6:100: wire `x`: `http` is no port",
                "a port is a number from 1 to 65535, a list `80,443` or a range `8000-8010`",
            ),
            ("6:108: wire `x`: `TCP` is no protocol", "did you mean `tcp`?"),
            ("6:118: wire `x`: `sctp` is no protocol", "a flow is written `tcp/443`, `udp/53`, `icmp` or `icmpv6`"),
            ("6:128: wire `x`: flow `` names no protocol", r#"write `"tcp/443"`"#),
            ("7:21: wire `x`: `icmp` has no type `echo-requst` that a flow may name", "did you mean `echo-request`?"),
            (
                "7:43: wire `x`: `icmpv6` has no type `redirect` that a flow may name",
                "the types are echo-request, echo-reply, destination-unreachable, packet-too-big, time-exceeded, parameter-problem",
            ),
            (
                "7:63: wire `x`: `tcp/2222:22` is handed on to another port, which only `publish` can",
                r#"write `"tcp/2222"`"#,
            ),
            ("7:76: wire `x`: `tcp/80:` is handed on to another port, which only `publish` can", r#"write `"tcp/80"`"#),
            (
                "7:87: wire `x`: `2-3` is no port",
                "a port is a number from 1 to 65535, a list `80,443` or a range `8000-8010`",
            ),
            (
                "7:99: wire `x`: `icmp` has no type `` that a flow may name",
                "the types are echo-request, echo-reply, destination-unreachable, source-quench, time-exceeded, parameter-problem, timestamp-request, timestamp-reply, info-request, info-reply, address-mask-request, address-mask-reply",
            ),
            (
                "7:107: wire `x`: `+80` is no port",
                "a port is a number from 1 to 65535, a list `80,443` or a range `8000-8010`",
            ),
        ],
    },
    Case {
        rule: "flows as tables",
        text: r#"version = 1
[[wire]]
name = "x"
ends = ["a", "b"]
subnet = "10.0.0.0/31"
allow = [
  { flow = "tcp/x" },
  { from = "@players" },
  { flow = "tcp/80", from = "10.0.0.1/24", to = "b" },
  { flow = "tcp/80", from = "@", rate = "ten/minute", log = 1 },
  { flow = "tcp/80", rate = "10/min" },
  { flow = "tcp/80", rate = "10" },
  { flow = "tcp/80", rate = "0/day", burst = 0 },
  { flow = "tcp/80", burst = 3 },
  { flow = "tcp/80", address = "203.0.113.7" },
  { flow = "tcp/80", form = "10.0.0.1" },
]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            (
                "7:17: wire `x`: `x` is no port",
                "a port is a number from 1 to 65535, a list `80,443` or a range `8000-8010`",
            ),
            ("8:3: wire `x`: `flow` is missing", r#"add `flow = "tcp/80"`"#),
            ("8:14: wire `x`: no set is called `players`", "add [set.players]"),
            ("9:29: wire `x`: `10.0.0.1/24` has bits behind its prefix", "write `10.0.0.0/24`, or `10.0.0.1` alone"),
            (
                "9:49: wire `x`: `b` is no address",
                "write an address (`192.0.2.1`), a prefix (`192.0.2.0/24`) or a set (`@banned`)",
            ),
            ("10:29: wire `x`: `` is no name of a set", r#"write `"@banned"`, the name of a [set.banned]"#),
            (
                "10:41: wire `x`: `ten/minute` is no rate",
                "write `10/minute`: a number above 0, and second, minute, hour or day",
            ),
            ("10:61: wire `x`: `log` wants true or false, not a number", "write `log = true` or `log = false`"),
            ("11:29: wire `x`: the rate `10/min` is not per second, minute, hour or day", "write `10/minute`"),
            ("12:29: wire `x`: the rate `10` is not per second, minute, hour or day", "write `10/second`"),
            (
                "13:29: wire `x`: `0/day` is no rate",
                "write `10/minute`: a number above 0, and second, minute, hour or day",
            ),
            ("13:46: wire `x`: `burst` is out of range: 0", "it may be 1 to 4294967295"),
            ("14:30: wire `x`: `burst` without a `rate` says nothing", r#"add `rate = "10/minute"`"#),
            (
                "15:22: wire `x`: unknown key `address`",
                "`address` belongs below [[hub.NAME.wireguard.peer]], or in a `publish` table",
            ),
            ("16:22: wire `x`: unknown key `form`", "did you mean `from`?"),
        ],
    },
    Case {
        rule: "wires without anything to call them by",
        text: r#"version = 1
wire = [
  { subnet = "10.0.0.0/31" },
  { subnet = "10.0.0.0/31" },
  {},
]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            ("3:3: this wire: `ends` is missing", r#"add `ends = ["web", "db"]`"#),
            ("3:3: this wire: `name` is missing", r#"add `name = "web-db"`"#),
            ("4:3: this wire: `ends` is missing", r#"add `ends = ["web", "db"]`"#),
            ("4:3: this wire: `name` is missing", r#"add `name = "web-db"`"#),
            (
                "4:14: this wire: 10.0.0.0/31 is already taken by this wire (line 3)",
                "give each wire a /31 of its own, or leave `subnet` out and run `wire number`",
            ),
            ("5:3: this wire: `ends` is missing", r#"add `ends = ["web", "db"]`"#),
            ("5:3: this wire: `name` is missing", r#"add `name = "web-db"`"#),
            (
                "5:3: this wire: `subnet` is missing",
                "run `wire number`, which writes the next free /31 into the file, or write one yourself",
            ),
        ],
    },
    Case {
        rule: "a place within a string",
        text: r#"version = 1
[[wire]]
name = "x"
ends = ["a", "b"]
subnet = "10.0.0.0/31"
allow = [ "tcp/80", 'tcp/80,x', "tcp\u002f80,y", """tcp/z""" ]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            (
                "6:29: wire `x`: `x` is no port",
                "a port is a number from 1 to 65535, a list `80,443` or a range `8000-8010`",
            ),
            (
                "6:33: wire `x`: `y` is no port",
                "a port is a number from 1 to 65535, a list `80,443` or a range `8000-8010`",
            ),
            (
                "6:50: wire `x`: `z` is no port",
                "a port is a number from 1 to 65535, a list `80,443` or a range `8000-8010`",
            ),
        ],
    },
    Case {
        rule: "sets that nobody knows",
        text: r#"version = 1
wire = [ { name = "x", ends = ["a", "b"], subnet = "10.0.0.0/31", allow = [{ flow = "tcp/80", from = "@playrs" }, { flow = "tcp/81", to = "@others" }] } ]
[set.players]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            ("2:104: wire `x`: no set is called `playrs`", "did you mean `players`?"),
            ("2:141: wire `x`: no set is called `others`", "add [set.others]"),
        ],
    },
    Case {
        rule: "sets",
        text: r#"version = 1
[set.s]
file = "banned"
elements = ["10.0.0.1/8", "10.0.0.0/33", "::1/64", "nobody"]
dns = ["-x", "10.0.0.1", "a..b", "a b"]
interval = "5 minutes"
[set.t]
interval = "5m"
[set.u]
dns = ["a.example.net"]
interval = "0s"
elemnts = []
private = "yes"
[set.v]
private = true
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            ("3:8: set `s`: `banned` is no path from the root", "write the whole path of a file, beginning with `/`"),
            ("4:13: set `s`: `10.0.0.1/8` has bits behind its prefix", "write `10.0.0.0/8`, or `10.0.0.1` alone"),
            (
                "4:27: set `s`: `10.0.0.0/33` is no address",
                "write an address (`192.0.2.1`), a prefix (`192.0.2.0/24`) or a set (`@banned`)",
            ),
            ("4:42: set `s`: `::1/64` has bits behind its prefix", "write `::/64`, or `::1` alone"),
            (
                "4:52: set `s`: `nobody` is no address",
                "write an address (`192.0.2.1`), a prefix (`192.0.2.0/24`) or a set (`@banned`)",
            ),
            ("5:8: set `s`: `-x` is no name of the DNS", "write a name alone, as `blog.example.org`"),
            ("5:14: set `s`: `10.0.0.1` is no name of the DNS", "write a name alone, as `blog.example.org`"),
            ("5:26: set `s`: `a..b` is no name of the DNS", "write a name alone, as `blog.example.org`"),
            ("5:34: set `s`: `a b` is no name of the DNS", "write a name alone, as `blog.example.org`"),
            ("6:12: set `s`: `5 minutes` is no duration", "write `30s`, `5m`, `1h` or `1d`"),
            (
                "8:12: set `t`: `interval` says when names are asked again, and there are none",
                r#"add `dns = ["anna.example.net"]`"#,
            ),
            ("11:12: set `u`: `0s` is no duration", "write `30s`, `5m`, `1h` or `1d`"),
            ("12:1: set `u`: unknown key `elemnts`", "did you mean `elements`?"),
            (
                "13:11: set `u`: `private` wants true or false, not a string",
                "write `private = true` or `private = false`",
            ),
            (
                "15:11: set `v`: `private` says what addresses names may lead to, and there are none",
                r#"add `dns = ["anna.example.net"]`"#,
            ),
        ],
    },
    Case {
        rule: "policy and block",
        text: r#"version = 1
[host]
policy = "al"
block = "banned"
uplinks = ["eth0", "eth*"]
[set.banned]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            ("3:10: [host]: `policy` cannot be `al`", "did you mean `all`?"),
            ("4:9: [host]: `banned` is no set", r#"write `"@banned"`, the name of a [set.banned]"#),
            (
                "5:20: [host]: `eth*` cannot be a device's name",
                "a device's name has 1 to 15 of letters, digits, `.`, `_` and `-`, and begins with a letter or digit",
            ),
        ],
    },
    Case {
        rule: "publish without uplinks",
        text: r#"version = 1
wire = [ { name = "x", ends = ["host", "h"], subnet = "10.0.0.0/31", publish = ["tcp/80"] } ]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[(
            "2:80: wire `x` publishes, but nothing says which devices lead outside",
            r#"write `uplinks = ["eth0"]` below [host], with the devices towards LAN and WAN"#,
        )],
    },
    Case {
        rule: "egress without uplinks",
        text: r#"version = 1
wire = [ { name = "x", ends = ["host", "a"], subnet = "10.0.0.0/31" } ]
[node.a]
egress = ["tcp/443"]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[(
            "4:10: node `a` has egress, but nothing says which devices lead outside",
            r#"write `uplinks = ["eth0"]` below [host], with the devices towards LAN and WAN"#,
        )],
    },
    Case {
        rule: "block without uplinks",
        text: r#"version = 1
[host]
block = "@s"
[set.s]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[(
            "3:9: `block` drops what comes from outside, but nothing says which devices lead outside",
            r#"write `uplinks = ["eth0"]` below [host], with the devices towards LAN and WAN"#,
        )],
    },
    Case {
        rule: "policy without uplinks",
        text: r#"version = 1
[host]
policy = "all"
uplinks = []
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[(
            r#"3:10: `policy = "all"` drops what comes from outside, but nothing says which devices lead outside"#,
            r#"write `uplinks = ["eth0"]` below [host], with the devices towards LAN and WAN"#,
        )],
    },
    Case {
        rule: "publish on a wire of two leaves",
        text: r#"version = 1
wire = [
  { name = "x", ends = ["host", "h"], subnet = "10.0.0.0/31" },
  { name = "y", ends = ["h", "a"], subnet = "10.0.0.2/31", publish = ["tcp/80"] },
  { name = "z", ends = ["b", "a"], subnet = "10.0.0.4/31", publish = ["tcp/81"] },
]
[host]
uplinks = ["eth0"]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            (
                "4:70: wire `y`: `publish` hands on ports of the host, where this wire does not end",
                "move it to wire `x`, which does",
            ),
            (
                "5:70: wire `z`: `publish` hands on ports of the host, where this wire does not end",
                "move it to a wire that does",
            ),
        ],
    },
    Case {
        rule: "publications",
        text: r#"version = 1
wire = [
  { name = "x", ends = ["host", "h"], subnet = "10.0.0.0/31", publish = [
    "icmp", "tcp/80,81:82", "tcp/2222:", "tcp/1-100:65500", "tcp/9:0",
    { flow = "tcp/80", address = "1.2.3.0/24" }, { flow = "tcp/81", on = "eth/0" }, { flow = "tcp/82", to = "10.0.0.1" },
    { flow = "tcp/83", address = "10.0.0.1" }, { flow = "tcp/84", address = "2001:db8::1" },
  ] },
]
[host]
uplinks = ["eth0"]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            ("4:5: wire `x`: `icmp` cannot be published", "only `tcp` and `udp` ports can"),
            (
                "4:39: wire `x`: `` is no port",
                "a port is a number from 1 to 65535, a list `80,443` or a range `8000-8010`",
            ),
            ("4:53: wire `x`: 100 ports from `65500` on end beyond 65535", "begin at a lower port"),
            (
                "4:68: wire `x`: `0` is no port",
                "a port is a number from 1 to 65535, a list `80,443` or a range `8000-8010`",
            ),
            ("5:34: wire `x`: `1.2.3.0/24` is no address", "write one address, as `203.0.113.7`"),
            (
                "5:74: wire `x`: `eth/0` cannot be a device's name",
                "a device's name has 1 to 15 of letters, digits, `.`, `_` and `-`, and begins with a letter or digit",
            ),
            (
                "5:104: wire `x`: unknown key `to`",
                "`to` belongs below [[hub.NAME.site]], or below [[hub.NAME.redirect]], or below [[hub.NAME.forward]], or in a flow's table",
            ),
            (
                "6:5: wire `x`: 10.0.0.1 is no address of the host's own but one of 10.0.0.0/31, wire `x`",
                "name an address that the host has on an uplink",
            ),
            (
                "6:48: wire `x`: 2001:db8::1 is published on a wire without IPv6",
                r#"add `subnet6 = "fd00::/127"` to the wire"#,
            ),
        ],
    },
    Case {
        rule: "a port published twice",
        text: r#"version = 1
wire = [
  { name = "x", ends = ["host", "h"], subnet = "10.0.0.0/31", publish = ["tcp/80-90", "tcp/443", { flow = "udp/53", address = "192.0.2.1" }] },
  { name = "y", ends = ["host", "g"], subnet = "10.0.0.2/31", publish = ["tcp/85", { flow = "tcp/443", address = "192.0.2.1" }, { flow = "udp/53", address = "192.0.2.1" }] },
]
[host]
uplinks = ["eth0"]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            (
                "4:74: wire `y`: tcp/85 of the host is already published by wire `x` (line 3)",
                "publish another port, or another `address`",
            ),
            (
                "4:129: wire `y`: udp/53 of the host is already published by wire `x` (line 3)",
                "publish another port, or another `address`",
            ),
        ],
    },
    Case {
        rule: "a port published twice in the same words is no mistake",
        text: r#"version = 1
wire = [ { name = "x", ends = ["host", "h"], subnet = "10.0.0.0/31", publish = ["tcp/80", "tcp/80", { flow = "tcp/80", address = "192.0.2.1" }] } ]
[host]
uplinks = ["eth0"]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[],
    },
    Case {
        rule: "a port published twice on one wire",
        text: r#"version = 1
wire = [ { name = "x", ends = ["host", "h"], subnet = "10.0.0.0/31", publish = ["tcp/80", "tcp/80:81"] } ]
[host]
uplinks = ["eth0"]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[(
            "2:91: wire `x`: tcp/80 of the host is already published by wire `x` (line 2)",
            "publish another port, or another `address`",
        )],
    },
    Case {
        rule: "shares",
        text: r#"version = 1
wire = [
  { name = "x", ends = ["a", "b"], subnet = "10.0.0.0/31" },
  { name = "y", ends = ["host", "c"], subnet = "10.0.0.2/31" },
]
[node.a]
shares = "b"
[node.c]
shares = "host"
[node.g]
shares = "bb"
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            (
                "3:30: wire `x`: `a` and `b` live in one namespace, that of `b`",
                "a wire joins two namespaces: name another node",
            ),
            (
                "4:33: wire `y`: `host` and `c` live in one namespace, that of `host`",
                "a wire joins two namespaces: name another node",
            ),
            ("11:10: node `g`: a hub has a namespace of its own", "strike `shares`, or [hub.g]"),
            ("11:10: node `g`: no node is called `bb`", "did you mean `b`?"),
        ],
    },
    Case {
        rule: "shares in a circle",
        text: r#"version = 1
[node.a]
shares = "b"
[node.b]
shares = "c"
[node.c]
shares = "b"
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[(
            "5:10: node `b`: `shares` leads back to where it began",
            "one of them must have a namespace of its own",
        )],
    },
    Case {
        rule: "shares with oneself",
        text: r#"version = 1
[node.a]
shares = "a"
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[(
            "3:10: node `a`: `shares` leads back to where it began",
            "one of them must have a namespace of its own",
        )],
    },
    Case {
        rule: "shares contradicts",
        text: r#"version = 1
wire = [ { name = "x", ends = ["host", "b"], subnet = "10.0.0.0/31" } ]
[node.a]
shares = "b"
netns = "a"
owned = true
network = "none"
zones = ["public"]
snat = "192.0.2.1"
[node.h]
shares = "b"
[node.c]
shares = "host"
egress = ["tcp/80"]
[host]
uplinks = ["eth0"]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            (
                "5:9: node `a`: it lives in the namespace of `b`, so `netns` is not its own to say",
                "move `netns` below [node.b], or strike it",
            ),
            (
                "6:9: node `a`: it lives in the namespace of `b`, so `owned` is not its own to say",
                "move `owned` below [node.b], or strike it",
            ),
            (
                "7:11: node `a`: it lives in the namespace of `b`, so `network` is not its own to say",
                "move `network` below [node.b], or strike it",
            ),
            (
                "8:9: node `a`: it lives in the namespace of `b`, so `zones` is not its own to say",
                "move `zones` below [node.b], or strike it",
            ),
            (
                "9:8: node `a`: it lives in the namespace of `b`, so `snat` is not its own to say",
                "move `snat` below [node.b], or strike it",
            ),
            ("11:10: node `h`: a hub has a namespace of its own", "strike `shares`, or [hub.h]"),
            (
                "14:10: node `c`: it lives in the host's namespace, whose own connections need no `egress`",
                "strike `egress`",
            ),
        ],
    },
    Case {
        rule: "homes contradict",
        text: r#"version = 1
[node.a]
netns = "x"
container = "y"
[node.b]
netns = "y"
user = "liam"
[node.c]
netns = "z"
owned = true
[node.g]
user = "liam"
owned = true
[node.h]
netns = "a/b"
user = "a b"
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            ("4:13: node `a`: it is a container or a named namespace, not both", "keep the one that is meant"),
            (
                "7:8: node `b`: `user` says whose container it is, and `netns` that it is none",
                "keep the one that is meant",
            ),
            ("10:9: node `c`: `owned` makes the namespace `c`, and `netns` names `z`", "keep the one that is meant"),
            (
                "12:8: node `g`: a container of `liam` cannot join a namespace that root owns",
                "strike `owned`, or let it be a container of root's",
            ),
            (
                "15:9: node `h`: `a/b` cannot name a namespace",
                "a name is 1 to 64 of letters, digits, `.`, `_` and `-`, and begins with a letter or digit: `a-b`",
            ),
            ("16:8: node `h`: `a b` is no user's name", "write the name that `id` shows, as `liam`"),
        ],
    },
    Case {
        rule: "one home for two",
        text: r#"version = 1
[podman]
user = "liam"
[node.a]
container = "b"
[node.c]
netns = "x"
[node.g]
netns = "x"
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            (
                "6:7: node `c`: the namespace `x` is node `g` already (line 8)",
                "two nodes in one namespace say so by `shares`",
            ),
            (
                "11:21: node `b`: the container `b` of liam is node `a` already (line 4)",
                "two nodes in one namespace say so by `shares`",
            ),
        ],
    },
    Case {
        rule: "network none with a wire",
        text: r#"version = 1
wire = [ { name = "x", ends = ["a", "b"], subnet = "10.0.0.0/31" } ]
[node.a]
network = "none"
[node.b]
network = "bridge"
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            (r#"4:11: node `a`: `network` is "none", but wire `x` ends in it (line 2)"#, "strike one of them"),
            ("6:11: node `b`: `network` cannot be `bridge`", r#"it may be `"none"`"#),
        ],
    },
    Case {
        rule: "egress without a way out",
        text: r#"version = 1
wire = [ { name = "x", ends = ["a", "b"], subnet = "10.0.0.0/31" }, { name = "y", ends = ["h", "c"], subnet = "10.0.0.2/31" } ]
[node.a]
egress = ["tcp/443"]
[node.h]
egress = ["tcp/443"]
[node.c]
egress = [{ flow = "tcp/443", from = "10.0.0.1" }]
[host]
uplinks = ["eth0"]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            (
                "4:10: node `a`: `egress` has no way out, neither a hub wire nor a host wire",
                r#"add a wire with `ends = ["h", "a"]`"#,
            ),
            (
                "6:10: node `h`: `egress` has no way out, as no wire joins the hub and the host",
                r#"add a wire with `ends = ["host", "h"]`"#,
            ),
            (
                "8:11: node `c`: `from` says nothing in `egress`: the node itself is the source",
                "write `to` for whom it may reach",
            ),
        ],
    },
    Case {
        rule: "snat without a host wire",
        text: r#"version = 1
wire = [ { name = "y", ends = ["h", "c"], subnet = "10.0.0.2/31" } ]
[node.c]
snat = "192.0.2.1"
[node.a]
snat = "192.0.2.0/24"
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            ("4:8: node `c`: `snat` needs a wire of its own to the host", r#"add a wire with `ends = ["host", "c"]`"#),
            ("6:8: node `a`: `192.0.2.0/24` is no address", "write one address, as `203.0.113.7`"),
        ],
    },
    Case {
        rule: "two zones unsaid",
        text: r#"version = 1
wire = [
  { name = "x", ends = ["h", "a"], subnet = "10.0.0.0/31" },
  { name = "y", ends = ["g", "a"], subnet = "10.0.0.2/31" },
]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[(
            "4:3: node `a`: its wires lead into the zones `private` and `public`",
            r#"write `zones = ["private", "public"]` below [node.a] if that is meant, else take a wire away"#,
        )],
    },
    Case {
        rule: "zones that do not match",
        text: r#"version = 1
wire = [
  { name = "x", ends = ["h", "a"], subnet = "10.0.0.0/31" },
  { name = "y", ends = ["g", "a"], subnet = "10.0.0.2/31" },
]
[node.a]
zones = ["public", "secret"]
[node.b]
zones = ["public"]
[node.h]
zones = ["public"]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[
            (
                "7:9: node `a`: `zones` says `public` and `secret`, but its hubs serve `private` and `public`",
                r#"write `zones = ["private", "public"]` below [node.a]"#,
            ),
            ("9:9: node `b`: `zones` says `public`, but it has no hub", "strike `zones`"),
            ("11:9: node `h`: a hub has one zone", "strike `zones`, and write `zone` below [hub.h]"),
        ],
    },
    Case {
        rule: "a wire across zones",
        text: r#"version = 1
wire = [
  { name = "x", ends = ["h", "a"], subnet = "10.0.0.0/31" },
  { name = "y", ends = ["g", "b"], subnet = "10.0.0.2/31" },
  { name = "z", ends = ["a", "b"], subnet = "10.0.0.4/31" },
  { name = "w", ends = ["a", "c"], subnet = "10.0.0.6/31" },
]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[(
            "5:3: wire `z`: it joins `a` of zone `public` and `b` of zone `private`",
            "add `across-zones = true` if that is meant",
        )],
    },
    Case {
        rule: "a hub without a zone",
        text: r#"version = 1
[module]
m = ["h"]
[hub.h]
pool = "10.0.0.0/32"
"#,
        faults: &[
            ("4:1: hub `h`: `zone` is missing", r#"add `zone = "public"`"#),
            ("5:8: hub `h`: `10.0.0.0/32` has no room for a /31", "a pool is a prefix, as `10.1.0.0/16`"),
        ],
    },
    Case {
        rule: "clients",
        text: r#"version = 1
[module]
m = ["h", "g", "i"]
[hub.h]
zone = "x"
clients = { prefix = "10.100.0.1/24", device = "wg0" }
[hub.g]
zone = "x"
clients = { prefix = "10.100.0.0/31" }
[hub.i]
zone = "a b"
clients = "10.0.0.0/24"
"#,
        faults: &[
            ("6:22: hub `h`: `10.100.0.1/24` has bits behind its prefix", "write `10.100.0.0/24`"),
            ("9:11: hub `g`: `device` is missing", r#"add `device = "wg0"`"#),
            (
                "9:22: hub `g`: `10.100.0.0/31` has no room for clients",
                "take a prefix of /30 or shorter: the first address is the hub's own",
            ),
            ("11:8: hub `i`: `a b` cannot name a zone", "a zone is one word, as `public` or `private`"),
            (
                "12:11: hub `i`: `clients` wants a table, not a string",
                r#"write `clients = { prefix = "10.100.0.0/24", device = "wg0" }`"#,
            ),
        ],
    },
    Case {
        rule: "wireguard without clients",
        text: r#"version = 1
wire = [
  { name = "host-h", ends = ["host", "h"], subnet = "10.0.0.0/31" },
  { name = "h-a", ends = ["h", "a"], subnet = "10.0.0.2/31", allow = ["tcp/80"] },
  { name = "b-h", ends = ["b", "h"], subnet = "10.0.0.4/31" },
  { name = "g-c", ends = ["g", "c"], subnet = "10.0.0.6/31" },
  { name = "h-c", ends = ["h", "c"], subnet = "10.0.0.8/31" },
]
[host]
uplinks = ["eth0"]
[module]
m = ["h", "g", "a", "b", "c", "d"]
[hub.g]
zone = "public"
[hub.h]
zone = "public"
[hub.h.wireguard]
listen = 51820
private-key = "/k"
"#,
        faults: &[(
            "17:8: hub `h`: the tunnel has no prefix for its clients",
            r#"add `clients = { prefix = "10.100.0.0/24", device = "wg0" }` below [hub.h]"#,
        )],
    },
    Case {
        rule: "wireguard",
        text: r#"version = 1
wire = [
  { name = "host-h", ends = ["host", "h"], subnet = "10.0.0.0/31" },
  { name = "h-a", ends = ["h", "a"], subnet = "10.0.0.2/31", allow = ["tcp/80"] },
  { name = "b-h", ends = ["b", "h"], subnet = "10.0.0.4/31" },
  { name = "g-c", ends = ["g", "c"], subnet = "10.0.0.6/31" },
  { name = "h-c", ends = ["h", "c"], subnet = "10.0.0.8/31" },
]
[host]
uplinks = ["eth0"]
[module]
m = ["h", "g", "a", "b", "c", "d"]
[hub.g]
zone = "public"
[hub.h]
zone = "public"
clients = { prefix = "10.100.0.0/24", device = "wg0" }
[hub.h.wireguard]
listen = 0
endpoint = "home"
private-key = "k"
isolate = 1
[[hub.h.wireguard.peer]]
name = "p"
"#,
        faults: &[
            ("19:10: hub `h`: `listen` is out of range: 0", "it may be 1 to 65535"),
            ("20:12: hub `h`: `home` is no host and port", "write what peers dial, as `home.example.org:51820`"),
            ("21:15: hub `h`: `k` is no path from the root", "write the whole path of a file, beginning with `/`"),
            (
                "22:11: hub `h`: `isolate` wants true or false, not a number",
                "write `isolate = true` or `isolate = false`",
            ),
            ("23:1: peer `p`: `address` is missing", r#"add `address = "10.100.0.2"`"#),
            ("23:1: peer `p`: `allow` is missing", r#"add `allow = ["git-ssh"]`"#),
            (
                "23:1: peer `p`: `public-key` is missing",
                r#"add `public-key = "mLK9Q7KjM5mF1a0bq6oN5gV9VQyZ8tQ2oQxJ0yqF7Xs="`"#,
            ),
        ],
    },
    Case {
        rule: "peers",
        text: r#"version = 1
wire = [
  { name = "host-h", ends = ["host", "h"], subnet = "10.0.0.0/31" },
  { name = "h-a", ends = ["h", "a"], subnet = "10.0.0.2/31", allow = ["tcp/80"] },
  { name = "b-h", ends = ["b", "h"], subnet = "10.0.0.4/31" },
  { name = "g-c", ends = ["g", "c"], subnet = "10.0.0.6/31" },
  { name = "h-c", ends = ["h", "c"], subnet = "10.0.0.8/31" },
]
[host]
uplinks = ["eth0"]
[module]
m = ["h", "g", "a", "b", "c", "d"]
[hub.g]
zone = "public"
[hub.h]
zone = "public"
clients = { prefix = "10.100.0.0/24", device = "wg0" }
[hub.h.wireguard]
listen = 51820
endpoint = "home.example.org:51820"
private-key = "/k"
[[hub.h.wireguard.peer]]
name = "p"
public-key = "mLK9Q7KjM5mF1a0bq6oN5gV9VQyZ8tQ2oQxJ0yqF7Xs="
address = "10.100.0.2"
allow = ["a", "m", "h-a"]
[[hub.h.wireguard.peer]]
name = "p"
public-key = "mLK9Q7KjM5mF1a0bq6oN5gV9VQyZ8tQ2oQxJ0yqF7Xs="
address = "10.100.0.2"
allow = ["aa", "module:n", "nobody", 3]
[[hub.h.wireguard.peer]]
name = "q"
public-key = "xLK9Q7KjM5mF1a0bq6oN5gV9VQyZ8tQ2oQxJ0yqF7Xs"
address = "10.100.0.3"
allow = []
[[hub.h.wireguard.peer]]
name = "r"
public-key = "xLK9Q7KjM5mF1a0bq6oN5gV9VQyZ8tQ2oQxJ0yqF7Xs="
address = "10.100.1.3"
allow = ["*"]
[[hub.h.wireguard.peer]]
name = "s"
public-key = "yLK9Q7KjM5mF1a0bq6oN5gV9VQyZ8tQ2oQxJ0yqF7Xs="
address = "10.100.0.1"
allow = ["*"]
[[hub.h.wireguard.peer]]
name = "t"
public-key = "zLK9Q7KjM5mF1a0bq6oN5gV9VQyZ8tQ2oQxJ0yqF7Xs="
address = "10.100.0.255"
allow = ["*"]
"#,
        faults: &[
            ("28:8: peer `p`: the name is already that of the peer in line 23", "give each peer its own name"),
            ("31:10: peer `p`: no module, node or wire is called `aa`", "did you mean `a`?"),
            (
                "31:16: peer `p`: no module, node or wire is called `n`",
                "name modules, nodes or wires, or `*` for everything",
            ),
            (
                "31:28: peer `p`: no module, node or wire is called `nobody`",
                "name modules, nodes or wires, or `*` for everything",
            ),
            ("31:38: peer `p`: `allow` wants a string, not a number", r#"put it in quotes: `"3"`"#),
            (
                "34:14: peer `q`: `xLK9Q7KjM5mF1a0bq6oN5gV9VQyZ8tQ2oQxJ0yqF7Xs` is no public key",
                "write what `wg pubkey` prints: 44 characters, the last a `=`",
            ),
            (
                "40:11: peer `r`: 10.100.1.3 is not one of its hub's clients, 10.100.0.0/24",
                "take another address of 10.100.0.0/24, the hub's own being 10.100.0.1",
            ),
            (
                "45:11: peer `s`: 10.100.0.1 is the hub's own address",
                "take another address of 10.100.0.0/24, the hub's own being 10.100.0.1",
            ),
            (
                "50:11: peer `t`: 10.100.0.255 stands for all of 10.100.0.0/24",
                "take another address of 10.100.0.0/24, the hub's own being 10.100.0.1",
            ),
        ],
    },
    Case {
        rule: "peers of one key or one address",
        text: r#"version = 1
wire = [
  { name = "host-h", ends = ["host", "h"], subnet = "10.0.0.0/31" },
  { name = "h-a", ends = ["h", "a"], subnet = "10.0.0.2/31", allow = ["tcp/80"] },
  { name = "b-h", ends = ["b", "h"], subnet = "10.0.0.4/31" },
  { name = "g-c", ends = ["g", "c"], subnet = "10.0.0.6/31" },
  { name = "h-c", ends = ["h", "c"], subnet = "10.0.0.8/31" },
]
[host]
uplinks = ["eth0"]
[module]
m = ["h", "g", "a", "b", "c", "d"]
[hub.g]
zone = "public"
[hub.h]
zone = "public"
clients = { prefix = "10.100.0.0/24", device = "wg0" }
[hub.h.wireguard]
listen = 51820
endpoint = "home.example.org:51820"
private-key = "/k"
[[hub.h.wireguard.peer]]
name = "p"
public-key = "mLK9Q7KjM5mF1a0bq6oN5gV9VQyZ8tQ2oQxJ0yqF7Xs="
address = "10.100.0.2"
allow = ["*"]
[[hub.h.wireguard.peer]]
name = "q"
public-key = "mLK9Q7KjM5mF1a0bq6oN5gV9VQyZ8tQ2oQxJ0yqF7Xs="
address = "10.100.0.2"
allow = ["*"]
"#,
        faults: &[
            ("29:14: peer `q`: its public key is that of peer `p`", "make a key pair for each device"),
            ("30:11: peer `q`: 10.100.0.2 is already the address of peer `p`", "take another address"),
        ],
    },
    Case {
        rule: "a narrow thing that cannot be read is not a wide one",
        text: r#"version = 1
wire = [ { name = "x", ends = ["host", "h"], subnet = "10.0.0.0/31", publish = ["tcp/80", { flow = "tcp/80", address = "192.0.2" }] } ]
[host]
uplinks = ["eth0"]
[module]
m = ["h", "g", "a", "b", "c"]
[hub.h]
zone = "public"
[hub.g]
zone = "private"
"#,
        faults: &[("2:120: wire `x`: `192.0.2` is no address", "write one address, as `203.0.113.7`")],
    },
    Case {
        rule: "a peer's allow that is several things",
        text: r#"version = 1
wire = [ { name = "x", ends = ["host", "h"], subnet = "10.0.0.0/31" } ]
[host]
uplinks = ["eth0"]
[module]
x = ["h", "x"]
[hub.h]
zone = "private"
clients = { prefix = "10.100.0.0/24", device = "wg0" }
[hub.h.wireguard]
listen = 51820
endpoint = "home.example.org:51820"
private-key = "/k"
[[hub.h.wireguard.peer]]
name = "p"
public-key = "mLK9Q7KjM5mF1a0bq6oN5gV9VQyZ8tQ2oQxJ0yqF7Xs="
address = "10.100.0.2"
allow = ["x", "node:x"]
"#,
        faults: &[("18:10: peer `p`: `x` is several things", "say which: `module:x`, `node:x` or `wire:x`")],
    },
    Case {
        rule: "sites",
        text: r#"version = 1
wire = [
  { name = "host-h", ends = ["host", "h"], subnet = "10.0.0.0/31" },
  { name = "h-a", ends = ["h", "a"], subnet = "10.0.0.2/31", allow = ["tcp/80"] },
  { name = "b-h", ends = ["b", "h"], subnet = "10.0.0.4/31" },
  { name = "g-c", ends = ["g", "c"], subnet = "10.0.0.6/31" },
  { name = "h-c", ends = ["h", "c"], subnet = "10.0.0.8/31" },
]
[host]
uplinks = ["eth0"]
[module]
m = ["h", "g", "a", "b", "c", "d"]
[hub.g]
zone = "public"
[hub.h]
zone = "public"
[[hub.h.site]]
host = "a.example.org"
to = "a:80"
[[hub.h.site]]
host = "b.example.org"
to = "a:81"
[[hub.h.site]]
host = "c.example.org"
to = "b:80"
[[hub.h.site]]
host = "d.example.org"
to = "d:80"
[[hub.h.site]]
host = "e.example.org"
to = "aa:80"
[[hub.h.site]]
host = "https://f.example.org"
to = "a"
tls = "acm"
path = "photos"
methods = ["get", "P OST"]
headers = { "X Y" = "a", "X-Z" = "a\nb" }
rate = "5"
body = "100 megabytes"
[[hub.h.site]]
host = "A.example.org"
to = "a:80"
[[hub.h.site]]
host = "g.example.org"
to = "a:80"
tls = { cert = "/c" }
"#,
        faults: &[
            (
                "22:6: site `b.example.org`: no flow lets hub `h` reach `a` by tcp/81",
                r#"add `"tcp/81"` to `allow` of wire `h-a` (line 4)"#,
            ),
            (
                "25:6: site `c.example.org`: no flow lets hub `h` reach `b` by tcp/80",
                r#"add `"tcp/80"` to `allow-back` of wire `b-h` (line 5)"#,
            ),
            (
                "28:6: site `d.example.org`: no flow lets hub `h` reach `d` by tcp/80",
                r#"add a wire with `ends = ["h", "d"], allow = ["tcp/80"]`"#,
            ),
            ("31:6: site `e.example.org`: no node is called `aa`", "did you mean `a`?"),
            (
                "33:8: site `https://f.example.org`: `https://f.example.org` is no name of the DNS",
                "write a name alone, as `blog.example.org`",
            ),
            (
                "34:6: site `https://f.example.org`: `a` is no node and port",
                "write `a:80`, with the port it listens on",
            ),
            ("35:7: site `https://f.example.org`: `tls` cannot be `acm`", "did you mean `acme`?"),
            (
                "36:8: site `https://f.example.org`: `photos` is no path of a URL",
                "write the beginning of a URL's path, as `/photos`",
            ),
            ("37:12: site `https://f.example.org`: `get` is no method of HTTP", "write `GET`"),
            ("37:19: site `https://f.example.org`: `P OST` is no method of HTTP", "write `GET`"),
            (
                "38:13: site `https://f.example.org`: `X Y` is no header's name",
                "write letters, digits and `-`, as `X-Frame-Options`",
            ),
            (
                "38:34: site `https://f.example.org`: header `X-Z` has a value of more than ASCII",
                "leave out line breaks, tabs and accents",
            ),
            (
                "39:8: site `https://f.example.org`: the rate `5` is not per second, minute, hour or day",
                "write `5/second`",
            ),
            (
                "40:8: site `https://f.example.org`: `100 megabytes` is no size",
                "write `100MB`, with one of kB, MB, GB, KiB, MiB, GiB",
            ),
            (
                "41:1: hub `h`: `a.example.org` is served twice, first in line 17",
                "keep one of them, or give one a `path`",
            ),
            ("47:7: site `g.example.org`: `key` is missing", r#"add `key = "/etc/wire/blog.key"`"#),
        ],
    },
    Case {
        rule: "sites that are one",
        text: r#"version = 1
wire = [
  { name = "host-h", ends = ["host", "h"], subnet = "10.0.0.0/31" },
  { name = "h-a", ends = ["h", "a"], subnet = "10.0.0.2/31", allow = ["tcp/80"] },
]
[host]
uplinks = ["eth0"]
[module]
m = ["h", "a"]
[hub.h]
zone = "public"
[[hub.h.site]]
host = "a.example.org"
to = "a:80"
path = "/photos"
[[hub.h.site]]
host = "a.example.org"
to = "a:80"
path = "/photos/"
[[hub.h.site]]
host = "b.example.org"
to = "a:80"
[[hub.h.site]]
host = "b.example.org"
to = "a:80"
path = "/"
[[hub.h.site]]
host = "b.example.org"
to = "a:80"
path = "/x"
tls = "acme"
methods = ["GET", "TRACE"]
headers = { "Content-Length" = "5" }
[[hub.h.redirect]]
host = "a.example.org"
to = "https://b.example.org"
"#,
        faults: &[
            (
                "16:1: hub `h`: `a.example.org/photos` is served twice, first in line 12",
                "keep one of them, or give one a `path`",
            ),
            (
                "23:1: hub `h`: `b.example.org` is served twice, first in line 20",
                "keep one of them, or give one a `path`",
            ),
            (
                "27:1: hub `h`: `b.example.org` has another `tls` in line 20",
                "a name has one certificate: write the same `tls` in both",
            ),
            (
                "32:19: site `b.example.org`: `TRACE` is for no site",
                "leave it out: a proxy answers it itself, or not at all",
            ),
            (
                "33:13: site `b.example.org`: header `Content-Length` is the connection's own",
                "leave it out: wire sets it",
            ),
            (
                "34:1: hub `h`: `a.example.org` is a site (line 12), and this redirects all of it",
                "keep one of them: a redirect has no path of its own",
            ),
        ],
    },
    Case {
        rule: "redirects",
        text: r#"version = 1
wire = [
  { name = "host-h", ends = ["host", "h"], subnet = "10.0.0.0/31" },
  { name = "h-a", ends = ["h", "a"], subnet = "10.0.0.2/31", allow = ["tcp/80"] },
  { name = "b-h", ends = ["b", "h"], subnet = "10.0.0.4/31" },
  { name = "g-c", ends = ["g", "c"], subnet = "10.0.0.6/31" },
  { name = "h-c", ends = ["h", "c"], subnet = "10.0.0.8/31" },
]
[host]
uplinks = ["eth0"]
[module]
m = ["h", "g", "a", "b", "c", "d"]
[hub.g]
zone = "public"
[hub.h]
zone = "public"
[[hub.h.redirect]]
host = "www.example.org"
to = "https://blog.example.org/x"
[[hub.h.redirect]]
host = "www.example.org"
to = "blog.example.org"
[[hub.h.redirect]]
host = "w3.example.org"
to = "https://blog.example.org/"
[[hub.h.redirect]]
host = "w3.example.org"
to = "https://blog.example.org"
tls = 3
"#,
        faults: &[
            (
                "19:6: redirect `www.example.org`: `https://blog.example.org/x` is no URL without a path",
                "write scheme and host alone, as `https://blog.example.org`; path and query are kept",
            ),
            (
                "22:6: redirect `www.example.org`: `blog.example.org` is no URL without a path",
                "write scheme and host alone, as `https://blog.example.org`; path and query are kept",
            ),
            (
                "26:1: hub `h`: `w3.example.org` is served twice, first in line 23",
                "keep one of them, or give one a `path`",
            ),
            ("29:7: redirect `w3.example.org`: `tls` wants a table, not a number", r#"write `tls = "acme"`"#),
        ],
    },
    Case {
        rule: "forwards",
        text: r#"version = 1
wire = [
  { name = "host-h", ends = ["host", "h"], subnet = "10.0.0.0/31" },
  { name = "h-a", ends = ["h", "a"], subnet = "10.0.0.2/31", allow = ["tcp/80"] },
  { name = "b-h", ends = ["b", "h"], subnet = "10.0.0.4/31" },
  { name = "g-c", ends = ["g", "c"], subnet = "10.0.0.6/31" },
  { name = "h-c", ends = ["h", "c"], subnet = "10.0.0.8/31" },
]
[host]
uplinks = ["eth0"]
[module]
m = ["h", "g", "a", "b", "c", "d"]
[hub.g]
zone = "public"
[hub.h]
zone = "public"
[[hub.h.forward]]
port = "tcp/25565"
to = "c:25565"
[[hub.h.forward]]
port = "tcp/25566"
to = "d:25565"
[[hub.h.forward]]
port = "tcp/25567"
to = "g:25565"
[[hub.h.forward]]
port = "tcp/25568"
to = "host:25565"
[[hub.h.forward]]
port = "tcp/25569,25570"
to = "a:1"
[[hub.h.forward]]
port = "icmp"
to = "a"
from = "@nobody"
[[hub.h.forward]]
port = "udp/1"
to = "nobody:1"
"#,
        faults: &[
            (
                "19:6: forward `tcp/25565`: replies of `c` leave by its first hub, `g` (line 6), not by `h`",
                "move the wire between `h` and `c` above it, or forward from `g`",
            ),
            ("22:6: forward `tcp/25566`: no wire joins hub `h` and `d`", r#"add a wire with `ends = ["h", "d"]`"#),
            ("25:6: forward `tcp/25567`: `g` is a hub, and a forward ends at a leaf", "name a leaf of this hub"),
            ("28:6: forward `tcp/25568`: `host` is the host, and a forward ends at a leaf", "name a leaf of this hub"),
            (
                "30:8: forward `tcp/25569,25570`: `tcp/25569,25570` is not one port",
                "write one [[hub.NAME.forward]] for each port of tcp or udp",
            ),
            (
                "33:8: forward `icmp`: `icmp` is not one port",
                "write one [[hub.NAME.forward]] for each port of tcp or udp",
            ),
            ("34:6: forward `icmp`: `a` is no node and port", "write `a:80`, with the port it listens on"),
            ("35:10: forward `icmp`: no set is called `nobody`", "add [set.nobody]"),
            (
                "38:6: forward `udp/1`: no node is called `nobody`",
                r#"every node stands in a module: add `"nobody"` to one below [module]"#,
            ),
        ],
    },
    Case {
        rule: "ports of a hub that collide",
        text: r#"version = 1
wire = [
  { name = "host-h", ends = ["host", "h"], subnet = "10.0.0.0/31", publish = ["tcp/80", "tcp/443:444", "udp/51820"] },
  { name = "h-a", ends = ["h", "a"], subnet = "10.0.0.2/31", allow = ["tcp/80"] },
  { name = "b-h", ends = ["b", "h"], subnet = "10.0.0.4/31" },
  { name = "g-c", ends = ["g", "c"], subnet = "10.0.0.6/31" },
  { name = "h-c", ends = ["h", "c"], subnet = "10.0.0.8/31" },
]
[host]
uplinks = ["eth0"]
[module]
m = ["h", "g", "a", "b", "c", "d"]
[hub.g]
zone = "public"
[hub.h]
zone = "public"
clients = { prefix = "10.100.0.0/24", device = "wg0" }
[hub.h.wireguard]
listen = 51820
endpoint = "home.example.org:51820"
private-key = "/k"
[[hub.h.site]]
host = "a.example.org"
to = "a:80"
[[hub.h.forward]]
port = "tcp/80"
to = "a:80"
[[hub.h.forward]]
port = "udp/51820"
to = "a:80"
[[hub.h.redirect]]
host = "b.example.org"
to = "https://a.example.org"
"#,
        faults: &[
            (
                "22:1: hub `h`: tcp/443 of the host is already published by wire `host-h` (line 3)",
                "publish another port, or another `address`",
            ),
            (
                "26:8: forward `tcp/80`: tcp/80 of the host is already published by hub `h` (line 22)",
                "publish another port, or another `address`",
            ),
            (
                "29:8: forward `udp/51820`: udp/51820 of the host is already published by hub `h` (line 19)",
                "publish another port, or another `address`",
            ),
        ],
    },
    Case {
        rule: "nothing to publish on",
        text: r#"version = 1
wire = [
  { name = "host-h", ends = ["host", "g"], subnet = "10.0.0.0/31" },
  { name = "h-a", ends = ["h", "a"], subnet = "10.0.0.2/31", allow = ["tcp/80"] },
  { name = "b-h", ends = ["b", "h"], subnet = "10.0.0.4/31" },
  { name = "g-c", ends = ["g", "c"], subnet = "10.0.0.6/31" },
  { name = "h-c", ends = ["h", "c"], subnet = "10.0.0.8/31" },
]
[host]
uplinks = ["eth0"]
[module]
m = ["h", "g", "a", "b", "c", "d"]
[hub.g]
zone = "public"
[hub.h]
zone = "public"
[[hub.h.forward]]
port = "tcp/80"
to = "a:80"
"#,
        faults: &[(
            "18:8: hub `h`: nothing can be published, as no wire joins it and the host",
            r#"add a wire with `ends = ["host", "h"]`"#,
        )],
    },
    Case {
        rule: "acme",
        text: r#"version = 1
[acme]
contact = "me@example.org"
directory = "http://acme.example.net/dir"
ca = "ca.pem"
"#,
        faults: &[
            (
                "3:11: [acme]: `me@example.org` does not begin with `mailto:`",
                r#"write `contact = "mailto:me@example.org"`"#,
            ),
            (
                "4:13: [acme]: `http://acme.example.net/dir` does not begin with `https://`",
                r#"write `directory = "https://acme.example.net/dir"`"#,
            ),
            ("5:6: [acme]: `ca.pem` is no path from the root", "write the whole path of a file, beginning with `/`"),
        ],
    },
    Case {
        rule: "pools",
        text: r#"version = 1
[pool]
host = "192.168.96.1/20"
direct = "fd00::/64"
hub = "10.0.0.0/16"
"#,
        faults: &[
            ("3:8: [pool]: `192.168.96.1/20` has bits behind its prefix", "write `192.168.96.0/20`"),
            ("4:10: [pool]: `fd00::/64` is not of IPv4", "a pool is a prefix of IPv4, as `10.1.0.0/16`"),
            ("5:1: [pool]: unknown key `hub`", "`hub` belongs at the top of the file, above the first [table]"),
        ],
    },
];
