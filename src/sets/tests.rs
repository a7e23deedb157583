//! What sets hold and what is learnt of them, without any file, disk or network.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::ask::Outcome;
use super::dns::Kind;
use super::kept::{Answer, LastFile, Term};
use super::*;
use crate::topology::Place;
use proptest::prelude::*;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn network(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn addresses(list: &[&str]) -> BTreeSet<IpAddr> {
    list.iter().map(|address| address.parse().unwrap()).collect()
}

/// A set with one element of its own, a file and two names.
fn players() -> Set {
    Set {
        name: name("players"),
        elements: vec![network("192.0.2.0/24")],
        file: Some("/srv/players".to_owned()),
        dns: vec!["anna.example.net".to_owned(), "bert.example.net".to_owned()],
        interval: Some(300),
        private: false,
        place: Place { line: 9, column: 1 },
    }
}

fn answer(kept: &mut Kept, name: &str, kind: dns::Kind, asked: u64, list: &[&str]) {
    kept.answers.insert((name.to_owned(), kind), Answer { asked, addresses: addresses(list) });
}

fn told(warnings: &[Error]) -> Vec<&str> {
    warnings.iter().map(|warning| warning.message.as_str()).collect()
}

const ANNA: &str = "anna.example.net";
const A: dns::Kind = dns::Kind::A;
const AAAA: dns::Kind = dns::Kind::Aaaa;

/// The contents are everything known, each once, with the latest end of all its reasons; what has ended is not there.
#[test]
fn contents_are_all_that_is_known() {
    let set = players();
    let mut kept = Kept::default();
    let term = |until| Some(Term { until, length: 1000 });
    kept.added = [
        (network("198.51.100.1/32"), None),
        (network("198.51.100.2/32"), term(1060)),
        (network("198.51.100.3/32"), term(1000)),
        (network("198.51.100.4/32"), term(999)),
        (network("203.0.113.5/32"), term(1060)),
        (network("2001:db8::/32"), term(1001)),
    ]
    .into();
    answer(&mut kept, ANNA, A, 7, &["203.0.113.5", "203.0.113.6", "10.0.0.1"]);
    answer(&mut kept, ANNA, AAAA, 7, &["2001:db8::5", "fe80::1"]);
    let line = |number, text| Line { number: Some(number), network: network(text) };
    let lines = vec![line(1, "203.0.113.6/32"), line(4, "192.0.2.7/32")];
    let source = Source { set: &set, kept, lines };
    let contents: Vec<String> = (source.contents(1000).elements.into_iter())
        .map(|(network, expiry)| format!("{network} {:?}", expiry.map(|expiry| expiry.remaining(1000))))
        .collect();
    let wanted = [
        "192.0.2.0/24 None",
        "192.0.2.7/32 None",
        "198.51.100.1/32 None",
        "198.51.100.2/32 Some(60)",
        "203.0.113.5/32 None",
        "203.0.113.6/32 None",
        "2001:db8::/32 Some(1)",
        "2001:db8::5/128 None",
    ];
    assert_eq!(contents, wanted);
    let reasons: Vec<_> = (source.elements(1000).iter())
        .filter(|element| element.network == network("203.0.113.6/32"))
        .map(|element| element.origin)
        .collect();
    assert_eq!(reasons, [Origin::File(Some(1)), Origin::Dns(ANNA)]);
}

#[test]
fn a_set_of_nothing_holds_nobody() {
    let set = Set { elements: vec![], ..players() };
    let source = Source { set: &set, kept: Kept::default(), lines: vec![] };
    assert_eq!(source.contents(1000), Contents::default());
}

#[test]
fn an_answer_replaces_the_last_one() {
    let (set, mut kept) = (Set { dns: vec![ANNA.to_owned()], ..players() }, Kept::default());
    answer(&mut kept, ANNA, A, 7, &["203.0.113.5"]);
    answer(&mut kept, ANNA, AAAA, 7, &["2001:db8::5"]);
    answer(&mut kept, "struck.example.net", A, 7, &["203.0.113.9"]);
    let answers = [(ANNA.to_owned(), [(A, Ok(addresses(&["203.0.113.6"]))), (AAAA, Ok(addresses(&[])))])].into();
    assert_eq!(learn(&set, &mut kept, &answers, 1000), []);
    let mut wanted = Kept::default();
    answer(&mut wanted, ANNA, A, 1000, &["203.0.113.6"]);
    assert_eq!(kept, wanted, "the name that was struck is forgotten");
}

/// Whatever goes wrong, the last good answer of that kind stays, and it is told what went wrong and what stays.
#[test]
fn the_last_good_answer_stays() {
    let set = Set { dns: vec![ANNA.to_owned()], ..players() };
    let fails = || Err("no answer from 192.0.2.53".to_owned());
    let good = |list| Ok(addresses(list));
    let table: [([Outcome; 2], &[&str], &[&str], &[&str]); 7] = [
        (
            [fails(), fails()],
            &["203.0.113.5"],
            &["2001:db8::5"],
            &["`anna.example.net` of set `players` could not be looked up: no answer from 192.0.2.53; its last good \
               answer stays: 203.0.113.5, 2001:db8::5"],
        ),
        (
            [good(&["203.0.113.6"]), fails()],
            &["203.0.113.6"],
            &["2001:db8::5"],
            &["`anna.example.net` of set `players` could not be looked up: no answer from 192.0.2.53; its last good \
               answer stays: 2001:db8::5"],
        ),
        (
            [good(&[]), fails()],
            &["203.0.113.5"],
            &["2001:db8::5"],
            &["`anna.example.net` of set `players` could not be looked up: no answer from 192.0.2.53; its last good \
               answer stays: 203.0.113.5, 2001:db8::5"],
        ),
        (
            [good(&[]), good(&[])],
            &["203.0.113.5"],
            &["2001:db8::5"],
            &["`anna.example.net` of set `players` could not be looked up: it has no address; its last good answer \
               stays: 203.0.113.5, 2001:db8::5"],
        ),
        (
            [good(&["10.0.0.1"]), good(&[])],
            &["203.0.113.5"],
            &["2001:db8::5"],
            &["`anna.example.net` of set `players` leads to 10.0.0.1, a private address, which is refused"],
        ),
        (
            [good(&["127.0.0.1", "203.0.113.6"]), good(&["fd00::1"])],
            &["203.0.113.6"],
            &["2001:db8::5"],
            &[
                "`anna.example.net` of set `players` leads to 127.0.0.1, a loopback address, which is refused",
                "`anna.example.net` of set `players` leads to fd00::1, a private address, which is refused",
            ],
        ),
        ([good(&["203.0.113.6"]), good(&["2001:db8::6"])], &["203.0.113.6"], &["2001:db8::6"], &[]),
    ];
    for ([a, aaaa], v4, v6, wanted) in table {
        let mut kept = Kept::default();
        answer(&mut kept, ANNA, A, 7, &["203.0.113.5"]);
        answer(&mut kept, ANNA, AAAA, 7, &["2001:db8::5"]);
        let answers = [(ANNA.to_owned(), [(A, a), (AAAA, aaaa)])].into();
        // In the same second as the good answer, too.
        assert_eq!(told(&learn(&set, &mut kept.clone(), &answers, 7)), wanted);
        assert_eq!(told(&learn(&set, &mut kept, &answers, 1000)), wanted);
        for (kind, wanted) in [(A, v4), (AAAA, v6)] {
            assert_eq!(kept.answers[&(ANNA.to_owned(), kind)].addresses, addresses(wanted), "{answers:?}");
        }
    }
}

/// What nobody ever answered for is nobody, and said so.
#[test]
fn a_name_that_was_never_answered_for_is_nobody() {
    let set = Set { dns: vec![ANNA.to_owned()], elements: vec![], ..players() };
    let mut kept = Kept::default();
    let answers = [(ANNA.to_owned(), Kind::BOTH.map(|kind| (kind, Err("no answer from ::1".to_owned()))))].into();
    let wanted = "`anna.example.net` of set `players` could not be looked up: no answer from ::1; nothing is known of it, \
                  so that the set has none of its addresses";
    assert_eq!(told(&learn(&set, &mut kept, &answers, 1000)), [wanted]);
    assert_eq!(Source { set: &set, kept, lines: vec![] }.contents(1000), Contents::default());
    let answers =
        [(ANNA.to_owned(), [(A, Ok(addresses(&["203.0.113.6"]))), (AAAA, Err("SERVFAIL".to_owned()))])].into();
    let wanted =
        "`anna.example.net` of set `players` could not be looked up: SERVFAIL; only a part of its addresses is known";
    assert_eq!(told(&learn(&set, &mut Kept::default(), &answers, 1000)), [wanted]);
}

/// Which answers are refused, and which of those `private = true` lets in.
#[test]
fn private_answers_are_refused_unless_allowed() {
    let table = [
        ("203.0.113.5", true, true),
        ("9.255.255.255", true, true),
        ("10.0.0.0", false, true),
        ("10.255.255.255", false, true),
        ("100.63.255.255", true, true),
        ("100.64.0.1", false, true),
        ("100.127.255.255", false, true),
        ("127.0.0.1", false, false),
        ("169.254.169.254", false, true),
        ("172.15.255.255", true, true),
        ("172.31.0.1", false, true),
        ("192.168.1.1", false, true),
        ("0.0.0.0", false, false),
        ("224.0.0.1", false, false),
        ("255.255.255.255", false, false),
        ("2001:db8::1", true, true),
        ("::", false, false),
        ("::1", false, false),
        ("::ffff:203.0.113.5", false, false),
        ("64:ff9b::10.0.0.1", false, true),
        ("64:ff9b::127.0.0.1", false, false),
        ("64:ff9b::203.0.113.5", true, true),
        ("fbff::1", true, true),
        ("fc00::1", false, true),
        ("fd00::1", false, true),
        ("fe7f::1", true, true),
        ("fe80::1", false, true),
        ("fec0::1", false, true),
        ("ff02::1", false, false),
    ];
    for (address, plain, private) in table {
        let address: IpAddr = address.parse().unwrap();
        let taken = [false, true].map(|private| refusal(address, private).is_none());
        assert_eq!(taken, [plain, private], "{address}");
    }
    let set = Set { private: true, dns: vec![ANNA.to_owned()], elements: vec![], ..players() };
    let mut kept = Kept::default();
    let answers = [(ANNA.to_owned(), [(A, Ok(addresses(&["10.0.0.1"]))), (AAAA, Ok(addresses(&[])))])].into();
    assert_eq!(learn(&set, &mut kept, &answers, 1000), []);
    let source = Source { set: &set, kept: kept.clone(), lines: vec![] };
    assert_eq!(source.contents(1000).elements.len(), 1);
    let strict = Set { private: false, ..set.clone() };
    let source = Source { set: &strict, kept, lines: vec![] };
    assert_eq!(source.contents(1000), Contents::default(), "what was taken is refused once the set says so no more");
}

/// The last good lines of a file stand in for it without their numbers.
#[test]
fn last_good_lines_are_elements() {
    let set = players();
    let lines = vec![Line { number: Some(3), network: network("203.0.113.7/32") }];
    let last = LastFile::of("/srv/players", &lines);
    let source = Source { set: &set, kept: Kept::default(), lines: last.lines() };
    assert!(source.elements(0).iter().any(|element| element.origin == Origin::File(None)));
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let address = prop_oneof![Just("203.0.113.1"), Just("203.0.113.2"), Just("10.0.0.1"), Just("::1")];
    let list = prop::collection::btree_set(address.prop_map(|address| address.parse().unwrap()), 0..3);
    prop_oneof![list.prop_map(Ok), Just(Err("no answer".to_owned()))]
}

proptest! {
    /// Whatever is answered, in whatever order: a set holds only addresses that some answer gave and that are public, never
    /// fewer than one once it had one, and whoever is told nothing has all of the newest answer.
    #[test]
    fn answers_never_widen_nor_empty_a_set(rounds in prop::collection::vec((outcome(), outcome()), 1..6)) {
        let set = Set { dns: vec![ANNA.to_owned()], elements: vec![], file: None, ..players() };
        let mut source = Source { set: &set, kept: Kept::default(), lines: vec![] };
        let mut ever: BTreeSet<IpAddr> = BTreeSet::new();
        for (now, (a, aaaa)) in (1..).zip(rounds) {
            let had = source.contents(now).elements.len();
            let given: BTreeSet<IpAddr> = a.iter().chain(&aaaa).flatten().copied().collect();
            let is_whole = a.is_ok() && aaaa.is_ok();
            ever.extend(&given);
            let answers = [(ANNA.to_owned(), [(A, a), (AAAA, aaaa)])].into();
            let warnings = learn(&set, &mut source.kept, &answers, now);
            let holds: BTreeSet<IpAddr> = source.contents(now).elements.keys().map(|network| network.ip()).collect();
            prop_assert!(holds.is_subset(&ever));
            prop_assert!(holds.iter().all(|address| address.to_string().starts_with("203.")));
            prop_assert!(had == 0 || !holds.is_empty());
            if warnings.is_empty() {
                prop_assert!(is_whole);
                prop_assert_eq!(holds, given);
            }
        }
    }
}
