//! What answers of the DNS mean for a set: which addresses are taken, and that a last good answer stays where there is no new
//! one. Pure; who asks is `ask`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::ask::{Answers, Outcome};
use super::dns::Kind;
use super::kept::{Answer, Kept};
use crate::error::Error;
use crate::topology::Set;

/// Networks that no answer may lead to, what kind of address they hold, and whether `private = true` lets them in (RFC 6890
/// and the registries that it began).
const SPECIAL: [(IpAddr, u8, &str, bool); 15] = [
    (v4(0, 0), 8, "an unspecified", false),
    (v4(10, 0), 8, "a private", true),
    (v4(100, 64), 10, "a shared", true),
    (v4(127, 0), 8, "a loopback", false),
    (v4(169, 254), 16, "a link-local", true),
    (v4(172, 16), 12, "a private", true),
    (v4(192, 168), 16, "a private", true),
    (v4(224, 0), 4, "a multicast", false),
    (v4(240, 0), 4, "a reserved", false),
    // Unspecified, loopback, and IPv4 in the clothes of IPv6.
    (v6(0, 0), 96, "a reserved", false),
    (v6(0, 0xffff), 96, "a reserved", false),
    (v6(0xfc00, 0), 7, "a private", true),
    (v6(0xfe80, 0), 10, "a link-local", true),
    (v6(0xfec0, 0), 10, "a private", true),
    (v6(0xff00, 0), 8, "a multicast", false),
];

const fn v4(a: u8, b: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, 0, 0))
}

const fn v6(first: u16, sixth: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(first, 0, 0, 0, 0, sixth, 0, 0))
}

/// Why an address may not become an element: what kind it is, and whether `private = true` would let it in.
pub fn refusal(address: IpAddr, private: bool) -> Option<(&'static str, bool)> {
    let seen = match address {
        // 64:ff9b::/96 leads to all of IPv4, the private part included (RFC 6052).
        IpAddr::V6(v6) if v6.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0] => {
            Ipv4Addr::from(u128::from(v6) as u32).into()
        }
        _ => address,
    };
    let holds = |(network, length, ..): &&(IpAddr, u8, &str, bool)| {
        IpNetwork::new(*network, *length).is_ok_and(|network| network.contains(seen))
    };
    let (.., kind, curable) = SPECIAL.iter().find(holds)?;
    (!(private && *curable)).then_some((*kind, *curable))
}

/// Takes what was answered for a set's names into what is kept of it, and tells what was not good.
pub fn learn(set: &Set, kept: &mut Kept, answers: &Answers, now: u64) -> Vec<Error> {
    kept.answers.retain(|(name, _), _| set.dns.contains(name));
    let names: BTreeSet<&String> = set.dns.iter().collect();
    let answered = names.into_iter().filter_map(|name| Some((name, answers.get(name)?)));
    answered.flat_map(|(name, outcomes)| learn_one(set, kept, name, outcomes, now)).collect()
}

fn learn_one(set: &Set, kept: &mut Kept, name: &str, outcomes: &[(Kind, Outcome); 2], now: u64) -> Vec<Error> {
    let mut warnings = Vec::new();
    let what = format!("`{name}` of set `{}`", set.name);
    for address in outcomes.iter().flat_map(|(_, outcome)| outcome.iter().flatten()) {
        if let Some((kind, curable)) = refusal(*address, set.private) {
            let warning = Error::failed(format!("{what} leads to {address}, {kind} address, which is refused"));
            warnings.push(match curable {
                true => warning.hint(format!("if that is meant, say `private = true` in [set.{}]", set.name)),
                false => warning.hint("such an address is nobody's in particular; ask whoever runs the name"),
            });
        }
    }
    let good = |outcome: &Outcome| -> BTreeSet<IpAddr> {
        outcome.iter().flatten().filter(|address| refusal(**address, set.private).is_none()).copied().collect()
    };
    let is_answered = outcomes.iter().any(|(_, outcome)| !good(outcome).is_empty());
    // What stays as it was, for want of anything better.
    let mut stays = Vec::new();
    for (kind, outcome) in outcomes {
        let (key, addresses) = ((name.to_owned(), *kind), good(outcome));
        let has_none = outcome.as_ref().is_ok_and(BTreeSet::is_empty);
        if !addresses.is_empty() {
            kept.answers.insert(key, Answer { asked: now, addresses });
        } else if is_answered && has_none {
            // That it has addresses of the other kind alone is an answer too.
            kept.answers.remove(&key);
        } else {
            stays.extend(kept.answers.get(&key).iter().flat_map(|answer| &answer.addresses).map(IpAddr::to_string));
        }
    }
    let mut failures: Vec<&str> =
        outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().err().map(String::as_str)).collect();
    failures.dedup();
    if !is_answered && failures.is_empty() && warnings.is_empty() {
        failures.push("it has no address");
    }
    let remains = match (stays.is_empty(), is_answered) {
        (true, true) => "only a part of its addresses is known".to_owned(),
        (true, false) => "nothing is known of it, so that the set has none of its addresses".to_owned(),
        (false, _) => format!("its last good answer stays: {}", stays.join(", ")),
    };
    let failed = |failure| Error::failed(format!("{what} could not be looked up: {failure}; {remains}"));
    warnings.extend(failures.into_iter().map(failed));
    warnings
}
