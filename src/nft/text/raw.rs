//! What nft has no words for: each expression by its name in the kernel, with what it holds.

use super::words::{become_of_it, clean};
use crate::nft::{Among, Compare, Ct, Element, Expression as E, Header, Key, Limit, Meta, Target, Value, Verdict};

/// An expression that nft has no words for here, by its name in the kernel.
pub(super) fn raw(expression: &E) -> String {
    let text = match expression {
        E::Payload { base, offset, length, .. } => {
            let base = match base {
                Header::Link => "link",
                Header::Network => "network",
                Header::Transport => "transport",
            };
            format!("payload {length} at {base} + {offset}")
        }
        E::Meta { key: Meta::IifName, .. } => "meta iifname".to_owned(),
        E::Meta { key: Meta::OifName, .. } => "meta oifname".to_owned(),
        E::Meta { key: Meta::NfProto, .. } => "meta nfproto".to_owned(),
        E::Meta { key: Meta::L4Proto, .. } => "meta l4proto".to_owned(),
        E::Ct { key: Ct::State, .. } => "ct state".to_owned(),
        E::Ct { key: Ct::Status, .. } => "ct status".to_owned(),
        E::Fib { result, flags, .. } => format!("fib {result} of {flags:#x}"),
        E::Bitwise { mask, xor, .. } => format!("bitwise & {} ^ {}", raw_value(mask), raw_value(xor)),
        E::Compare { how, value, .. } => {
            let how = match how {
                Compare::Equal => "eq",
                Compare::Different => "neq",
                Compare::Less => "lt",
                Compare::AtMost => "lte",
                Compare::Greater => "gt",
                Compare::AtLeast => "gte",
            };
            format!("cmp {how} {}", raw_value(value))
        }
        E::Lookup { set, inverted, .. } => {
            let set = match set {
                Among::Named(name) => format!("@{}", clean(name)),
                Among::Anonymous(set) => {
                    let elements = set.elements.iter().map(|(key, element)| raw_element(key, element));
                    format!("{{ {} }}", elements.collect::<Vec<_>>().join(", "))
                }
            };
            format!("lookup {}{set}", if *inverted { "!= " } else { "" })
        }
        E::Load { value, .. } => format!("immediate {}", raw_value(value)),
        E::Verdict(verdict) => raw_verdict(verdict),
        E::Counter => "counter".to_owned(),
        E::Count(name) => format!("objref {}", clean(name)),
        E::Limit(limit) => raw_limit(limit),
        E::Log { .. } => "log".to_owned(),
        E::Nat { to_source, .. } => format!("nat {}", if *to_source { "source" } else { "destination" }),
        E::Masquerade => "masq".to_owned(),
        E::Update { set, limit, .. } => {
            let limit = limit.as_ref().map(|limit| format!(" {}", raw_limit(limit)));
            format!("dynset @{}{}", clean(set), limit.unwrap_or_default())
        }
        E::Unknown { name, attributes } if attributes.is_empty() => clean(name).into_owned(),
        E::Unknown { name, attributes } => format!("{} {}", clean(name), hex(attributes)),
    };
    format!("[{text}]")
}

fn raw_limit(limit: &Limit) -> String {
    let over = if limit.over { "over " } else { "" };
    format!("limit {over}{} in {} s, burst {}", limit.rate, limit.unit, limit.burst)
}

fn raw_verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Jump(chain) => format!("jump {}", clean(chain)),
        Verdict::Goto(chain) => format!("goto {}", clean(chain)),
        Verdict::Other(number) => format!("verdict {number}"),
        known => become_of_it(known).unwrap_or_default(),
    }
}

pub(super) fn raw_element(key: &Key, element: &Element) -> String {
    let key = match key {
        Key::One(value) => raw_value(value),
        Key::Many(values) => values.iter().map(raw_value).collect::<Vec<_>>().join(" . "),
        Key::Range(first, last) => format!("{}-{}", raw_value(first), raw_value(last)),
    };
    match &element.leads_to {
        None => key,
        Some(Target::Verdict(verdict)) => format!("{key} : {}", raw_verdict(verdict)),
        Some(Target::Value(value)) => format!("{key} : {}", raw_value(value)),
    }
}

/// The bytes of a value; what looks like the name of a device as such.
fn raw_value(value: &Value) -> String {
    let bytes = value.as_bytes();
    let name = std::str::from_utf8(bytes).map(|text| text.trim_end_matches('\0')).unwrap_or_default();
    let device = bytes.len() == 16 && !name.is_empty() && name.len() < 16 && !name.contains(char::is_control);
    if device { format!("\"{}\"", clean(name)) } else { hex(bytes) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}
