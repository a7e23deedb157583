//! Whatever a table is, nft reads its text, and says the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nft_says_what_it_was_told(choices in prop::collection::vec(any::<u32>(), 0..600)) {
        let text = super::super::table(&Maker { choices: choices.into_iter() }.table());
        let listed = listed(&text).map_err(TestCaseError::fail)?;
        let (told, said) = (bare_of_families(&canonical(&text)), bare_of_families(&canonical(&listed)));
        let differ = told.lines().zip(said.lines()).find(|(told, said)| told != said);
        prop_assert!(told == said, "{:#?}\n{}", differ, text);
    }
}

/// Without the words that nft leaves out where other words imply them, though not always as they were told.
fn bare_of_families(text: &str) -> String {
    let bare = |line: &str| {
        let mut words: Vec<&str> = line.trim().split(' ').collect();
        let implied = |pair: &[&str]| pair[0] == "meta" && matches!(pair[1], "nfproto" | "l4proto");
        while let Some(at) = words.windows(2).position(implied) {
            words.drain(at..(at + 3).min(words.len()));
        }
        words.join(" ") + "\n"
    };
    text.lines().map(bare).collect()
}

/// The table that these choices make, as far as nft has words for it.
pub(crate) fn sayable(choices: Vec<u32>) -> Table {
    let mut table = Maker { choices: choices.into_iter() }.table();
    let text = |quoted: String| Text::from(quoted.trim_matches('"'));
    for chain in table.chains.values_mut() {
        chain.rules.retain(|rule| line(rule).1);
        for rule in &mut chain.rules {
            rule.comment = rule.comment.as_ref().map(|comment| text(quoted(comment, &[], COMMENT_MAX)));
            for expression in &mut rule.expressions {
                if let E::Log { prefix, .. } = expression {
                    *prefix = text(quoted(prefix, &['$'], PREFIX_MAX));
                }
            }
        }
    }
    for set in table.sets.values_mut() {
        let all = std::mem::take(&mut set.elements);
        set.elements = all.into_iter().filter(|(key, value)| element(set, key, value).is_some()).collect();
    }
    table.counters.values_mut().for_each(|count| *count = 0);
    table
}

/// Makes a table by choices; where they run out the plainest is taken, so that a failure shrinks to a small one.
struct Maker {
    choices: std::vec::IntoIter<u32>,
}

impl Maker {
    fn below(&mut self, limit: u32) -> u32 {
        self.choices.next().unwrap_or(0) % limit
    }

    fn often(&mut self) -> bool {
        self.below(4) > 0
    }

    fn one_of<T: Clone>(&mut self, among: &[T]) -> T {
        among[self.below(among.len() as u32) as usize].clone()
    }

    /// What hostile hands write into a comment, or name a device.
    fn words(&mut self, most: u32) -> String {
        const PARTS: [&str; 20] = [
            "a", "eth", "0", "-", "*", "\\", "\"", "$", "#", ";", "{", "}", "'", ",", "@", "ü", "\u{1}", "\u{85}",
            "\u{202e}", ".",
        ];
        (0..=self.below(most)).map(|_| self.one_of(&PARTS)).collect()
    }

    /// A name that the kernel takes (`dev_valid_name`, net/core/dev.c).
    fn device(&mut self) -> String {
        let mut name = self.words(8);
        while name.len() > 15 {
            name.pop();
        }
        name
    }

    /// A name that a topology file may give.
    fn name(&mut self) -> String {
        const LETTERS: &[u8] = b"a9Z.-_";
        let first = self.one_of(b"a9Z") as char;
        (0..self.below(9))
            .map(|_| self.one_of(LETTERS) as char)
            .fold(first.to_string(), |name, c| name + &c.to_string())
    }

    fn way(&mut self) -> Way {
        self.one_of(&[Way::In, Way::Out])
    }

    fn side(&mut self) -> Side {
        self.one_of(&[Side::Source, Side::Destination])
    }

    fn address(&mut self) -> IpAddr {
        if self.often() {
            return Ipv4Addr::from(self.below(u32::MAX)).into();
        }
        // Not among the first 2^96 addresses, some of which nft writes with a part in decimals.
        let parts = [self.below(u32::MAX) | 0x2000_0000, self.below(2), self.below(u32::MAX), self.below(2)];
        Ipv6Addr::from(parts.iter().fold(0, |all, part| all << 32 | u128::from(*part))).into()
    }

    fn network(&mut self) -> IpNetwork {
        let address = self.address();
        let prefix = self.below(if address.is_ipv4() { 33 } else { 129 });
        IpNetwork::new(address, prefix as u8).unwrap()
    }

    fn port(&mut self) -> u16 {
        self.below(65536) as u16
    }

    fn limit(&mut self) -> Limit {
        let unit = self.one_of(&[1, 60, 3600, 86400, 604_800, 7]);
        Limit { rate: self.below(50).into(), unit, burst: self.below(9), over: !self.often() }
    }

    fn step(&mut self, rule: Rule) -> Rule {
        match self.below(20) {
            0 => rule.counted(),
            1 => rule.device(self.way(), &self.device()),
            2 => {
                let devices: Vec<Value> =
                    (0..3).map(|_| Value::device(&self.device())).chain([Value::device("lo")]).collect();
                rule.devices(self.way(), among(Type::IfName, devices), !self.often())
            }
            3 => {
                let how = self.one_of(&[Compare::Equal, Compare::Different]);
                rule.address(self.side(), how, &self.network())
            }
            4 => rule.address_in(self.side(), true, Among::Named(text("set.x")), !self.often()),
            5 => rule.address_in(self.side(), false, Among::Named(text("set6.x")), !self.often()),
            6 => {
                let (one, other) = (self.port(), self.port());
                rule.ports(self.one_of(&[TCP, UDP]), (one.min(other), one.max(other)))
            }
            7 => {
                let ports = [self.port(), self.port(), 0, 1];
                rule.ports_in(self.one_of(&[TCP, UDP]), &ports)
            }
            8 => rule.protocol(self.one_of(&[TCP, UDP, ICMP, ICMPV6, 254])),
            9 => rule.icmp_type(self.one_of(&[ICMP, ICMPV6]), self.below(256) as u8),
            10 => rule.icmp_types(self.one_of(&[ICMP, ICMPV6]), &[1, 3, self.below(256) as u8]),
            11 => rule.by_a_neighbour(),
            12 => rule.state(self.one_of(&[1, 2, 4, 8, 14, 0x40, 0x4f, 0x80])),
            13 => rule.by_state([(1, Verdict::Drop), (self.one_of(&[2, 4, 8, 6]), Verdict::Jump(text("related")))]),
            14 => rule.handed_on(),
            15 => rule.not_for_this_host(),
            16 => rule.limit(self.limit()),
            17 => rule.limit_each("rate.1", true, self.limit()),
            18 if self.often() => rule.record("would.x", false),
            18 => rule.protocols(&[TCP, UDP], true).record("would.x", true),
            _ => rule.log(self.words(90)),
        }
    }

    fn end(&mut self, rule: Rule) -> Rule {
        match self.below(11) {
            0 => rule.accept(),
            1 => rule.drop(),
            2 => rule.verdict(Verdict::Return),
            3 => rule.verdict(Verdict::Other(3)),
            4 => rule.jump("related"),
            5 => rule.goto("denied.x"),
            6 => rule.masquerade(),
            7 => rule.dispatch(Way::In, "input"),
            8 => {
                let port = self.often().then(|| self.port());
                rule.dnat(self.address(), port)
            }
            9 => rule.snat(self.address()),
            _ => rule.count("denied.x"),
        }
    }

    fn rule(&mut self) -> Rule {
        let mut rule = Rule::new();
        for _ in 0..self.below(5) {
            rule = self.step(rule);
        }
        rule = self.end(rule);
        if self.below(3) == 1 { rule.comment(self.words(100)) } else { rule }
    }

    fn table(&mut self) -> Table {
        let mut table = everything();
        table.counters.insert(text("denied.x"), 0);
        for (to, from) in [("set.x", "set.office"), ("set6.x", "set6.office"), ("would.x", "would.9lives")] {
            table.sets.insert(text(to), table.sets[from].clone());
        }
        table.chains.insert(text("denied.x"), Chain::default());
        table.chains.insert(text("in.9lives"), Chain::of((0..=self.below(12)).map(|_| self.rule())));
        for _ in 0..self.below(4) {
            let name = self.name();
            table.counters.insert(text(&format!("denied.{name}")), 0);
            table.sets.insert(text(&format!("set.{name}")), Set { key: vec![Type::Ipv4], ..Set::default() });
            table.chains.insert(text(&format!("through.{name}")), Chain::of([self.rule()]));
            let doors =
                doors(&[(&self.device(), Verdict::Goto(text(&format!("through.{name}")))), ("lo", Verdict::Drop)]);
            table.sets.insert(text(&format!("{}.{name}", self.one_of(&["doors", "all", "ip", "th"]))), doors);
        }
        table
    }
}
