//! Tables of others as they are read: those that they really keep, and the matches of xtables as its own tools made them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::super::others::{matches, read, step};
use super::*;
use crate::nft::Verdict;
use crate::nft::others::{Chain, Family, Load, Ports, Step, Table};

/// All that can be judged of a table, and what cannot: the steps that nobody can tell the outcome of, by chain.
fn strange(table: &Table) -> BTreeMap<&str, usize> {
    let is_strange = |step: &&Step| match step {
        Step::Strange | Step::Anything => true,
        Step::Known(expression) => matches!(expression, Expression::Unknown { .. }),
        _ => false,
    };
    let count = |chain: &Chain| chain.rules.iter().flatten().filter(is_strange).count();
    let all = table.chains.iter().map(|(name, chain)| (&**name, count(chain)));
    all.filter(|(_, count)| *count > 0).collect()
}

/// What Docker and the others keep is read to the last step, but for marks, kinds of packets and ways back.
#[test]
fn their_tables_are_understood() {
    alone("others::their_tables_are_understood", || {
        let path = |name: &str| format!("{}/tests/netns/coexist/{name}.nft", env!("CARGO_MANIFEST_DIR"));
        for (name, tables, rules, unclear) in [
            ("docker", 3, 19, &[][..]),
            ("docker-nftables", 1, 11, &[]),
            ("netavark", 1, 18, &[("NETAVARK-HOSTPORT-SETMARK", 1), ("POSTROUTING", 1)]),
            ("firewalld", 1, 33, &[]),
            ("ufw", 1, 66, &[]),
            ("fail2ban", 1, 1, &[]),
            ("mailcow", 1, 6, &[]),
            ("workstation", 1, 7, &[("input", 1)]),
        ] {
            let socket = elsewhere();
            nft("", &["-f", &path(name)]).expect("nft takes them");
            let found = read(&socket).expect("they are read");
            let count = found.iter().flat_map(|table| table.chains.values()).map(|chain| chain.rules.len()).sum();
            assert_eq!((found.len(), count), (tables, rules), "{name}");
            let seen: BTreeMap<&str, usize> = found.iter().flat_map(strange).collect();
            assert_eq!(seen, unclear.iter().copied().collect(), "{name}");
        }
    });
}

/// Only what a packet may come to is read: wire's own table, one that is switched off, one without a base chain and one of a
/// family that no wire has are not.
#[test]
fn only_what_packets_come_to_is_read() {
    alone("others::only_what_packets_come_to_is_read", || {
        let socket = elsewhere();
        assert_eq!(read(&socket), Ok(Vec::new()));
        load(&socket, Some(&broad()));
        assert_eq!(read(&socket), Ok(Vec::new()));
        let hook = "type filter hook input priority 0";
        let rules = format!(
            "table inet off {{ flags dormant; chain c {{ {hook}; drop; }}; }}
             table inet none {{ chain c {{ drop; }}; }}
             table arp wire {{ chain c {{ {hook}; drop; }}; }}
             table ip wire {{
                set s {{ type ipv4_addr; flags interval; elements = {{ 10.0.0.0/8, 192.0.2.1 }}; }}
                set d {{ type ipv4_addr; flags dynamic; elements = {{ 10.0.0.1 }}; }}
                chain c {{ {hook}; policy drop; ip saddr @s accept; iif lo jump o; tcp dport != 10-20 meta mark set 1 reject; }}
                chain o {{ ip saddr {{ 1.2.3.4, 5.6.7.8 }} return; }}
             }}"
        );
        nft(&rules, &["-f", "-"]).expect("nft takes them");
        let [table] = &read(&socket).expect("they are read")[..] else { panic!("one table") };
        assert_eq!((table.family, &*table.name), (Family::Ip, "wire"));
        assert_eq!(table.sets["s"].elements.len(), 2);
        assert!(table.sets["d"].dynamic && table.sets["d"].elements.is_empty());
        let base = table.chains["c"].base.expect("a base chain");
        assert!(base.drop && base.hook == Hook::Input && table.chains["o"].base.is_none());
        let [first, second, third] = &table.chains["c"].rules[..] else { panic!("three rules") };
        assert_eq!(first.last(), Some(&Step::Known(Expression::Verdict(Verdict::Accept))));
        assert_eq!(second[0], Step::Load { what: Load::Iif, to: 1 });
        let range = Step::Range { from: 1, inverted: true, first: Value::port(10), last: Value::port(20) };
        assert!(
            third.contains(&range) && third.contains(&Step::Nothing) && third.last() == Some(&Step::Reject),
            "{third:?}"
        );
        let own = &table.chains["o"].rules[0][1];
        assert!(
            matches!(own, Step::Known(Expression::Lookup { set: Among::Anonymous(set), .. }) if set.elements.len() == 2)
        );
    });
}

/// A set that is too large to be kept is one that nobody knows.
#[test]
fn too_large_a_set_is_not_kept() {
    alone("others::too_large_a_set_is_not_kept", || {
        let socket = elsewhere();
        let chain = "chain c { type filter hook input priority 0; ip saddr @s drop; }";
        nft(&format!("table ip t {{ set s {{ type ipv4_addr; }}; {chain}; }}"), &["-f", "-"]).expect("nft takes it");
        for tens in 0..7_u32 {
            let addresses = (tens * 10_000..(tens + 1) * 10_000).map(|n| Ipv4Addr::from(n * 2).to_string());
            let some = addresses.collect::<Vec<String>>().join(", ");
            nft(&format!("add element ip t s {{ {some} }}"), &["-f", "-"]).expect("nft takes them");
        }
        let found = read(&socket).expect("they are read");
        assert_eq!(found[0].sets["s"].key, [Type::Other]);
    });
}

/// What iptables 1.8.9 makes of matches that nftables has no words for, as the kernel gave it back.
#[test]
fn the_matches_of_xtables_are_understood() {
    let bytes = |text: &str, length: usize| {
        let mut bytes: Vec<u8> =
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect();
        bytes.resize(length, 0);
        bytes
    };
    // Eight addresses and masks, two times, a protocol and four ports stand before what is asked.
    let conntrack = |asked: &str| bytes(&format!("{}{asked}", "00".repeat(146)), 168);
    let states = |bits, inverted| Step::States { bits, inverted };
    let ports = |of, ranges: &[(u16, u16)], inverted| Step::Ports { of, ranges: ranges.to_vec(), inverted };
    let types = |types, inverted| Step::Destination { types, inverted };
    let all = (0, u16::MAX);
    let cases: Vec<(&str, u32, Vec<u8>, Option<Vec<Step>>)> = vec![
        ("conntrack", 3, conntrack("010000000600"), Some(vec![states(6, false)])),
        ("conntrack", 3, conntrack("010001000800"), Some(vec![states(8, true)])),
        ("conntrack", 3, conntrack("010000008000"), Some(vec![states(0x80, false)])),
        ("conntrack", 3, conntrack("012000000800"), Some(vec![states(8, false)])),
        ("conntrack", 3, conntrack("010200000800"), Some(vec![states(8, false), Step::Strange])),
        ("conntrack", 3, conntrack("400000000000"), Some(vec![Step::Strange])),
        ("conntrack", 1, conntrack("010000000600"), None),
        ("conntrack", 3, vec![0; 100], None),
        ("state", 0, bytes("08", 4), Some(vec![states(8, false)])),
        ("comment", 0, bytes("68656c6c6f", 256), Some(vec![Step::Nothing])),
        ("icmp", 0, bytes("0800ff", 8), Some(vec![Step::Icmp { kind: 8, inverted: false }])),
        ("icmp", 0, bytes("ff00ff", 8), Some(vec![Step::Nothing])),
        ("icmp", 0, bytes("030101", 8), Some(vec![Step::Strange])),
        ("icmp6", 0, bytes("8000ff", 8), Some(vec![Step::Icmp { kind: 128, inverted: false }])),
        (
            "multiport",
            1,
            bytes("01045000bb01401f4a1f00000000000000000000000000000000000000000000000001", 48),
            Some(vec![ports(Ports::Destination, &[(80, 80), (443, 443), (8000, 8010)], false)]),
        ),
        (
            "multiport",
            1,
            bytes(
                "000150000000000000000000000000000000000000000000000000000000000000000000000000000000000000000001",
                48,
            ),
            Some(vec![ports(Ports::Source, &[(80, 80)], true)]),
        ),
        ("addrtype", 1, bytes("000004", 8), Some(vec![types(4, false)])),
        ("addrtype", 1, bytes("0000040002", 8), Some(vec![types(4, true)])),
        ("addrtype", 1, bytes("04", 8), Some(vec![Step::Strange])),
        // iptables before 1.8.8 had these, too.
        (
            "tcp",
            0,
            bytes("0000ffff5000500000000000", 12),
            Some(vec![ports(Ports::Source, &[all], false), ports(Ports::Destination, &[(80, 80)], false)]),
        ),
        (
            "tcp",
            0,
            bytes("0000ffff5000600000120202", 12),
            Some(vec![
                ports(Ports::Source, &[all], false),
                ports(Ports::Destination, &[(80, 96)], true),
                Step::Strange,
            ]),
        ),
        (
            "udp",
            0,
            bytes("0000ffff3500350002", 10),
            Some(vec![ports(Ports::Source, &[all], false), ports(Ports::Destination, &[(53, 53)], true)]),
        ),
        ("udp", 0, bytes("0000ffff35003500", 8), None),
        ("recent", 1, vec![0; 200], None),
    ];
    for (name, revision, info, wanted) in cases {
        assert_eq!(matches(name, revision, &info), wanted, "{name} {info:x?}");
    }
}

/// Whatever bytes come in place of an expression, it is read as something.
#[test]
fn any_expression_of_others_can_be_read() {
    use proptest::prelude::*;
    let names = ["meta", "ct", "range", "match", "target", "objref", "reject", "nonsense"];
    let xtables = ["conntrack", "state", "tcp", "udp", "multiport", "addrtype", "icmp", "icmp6"];
    proptest!(|(which in 0..8_usize, revision in 0..4_u32, bytes in prop::collection::vec(any::<u8>(), 0..200))| {
        let _ = (step(names[which], &bytes), matches(xtables[which], revision, &bytes));
    });
}
