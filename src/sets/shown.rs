//! A set in words: one element a line, or as JSON.

use std::fmt::Write;

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use super::{Element, Expiry, Origin};
use crate::topology::{Name, Whom};
use crate::voice::duration;

/// An address without its length where it is one alone.
pub fn network(network: IpNetwork) -> String {
    Whom::Network(network).to_string()
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Topology => "topology",
        Origin::File(_) => "file",
        Origin::Dns(_) => "dns",
        Origin::Added => "added",
    }
}

/// One element a line: the address, where it comes from, and how long it stays where that has an end.
pub fn lines(elements: &[Element], now: u64) -> String {
    let width = elements.iter().map(|element| network(element.network).len()).max().unwrap_or(0);
    let mut text = String::new();
    for element in elements {
        let _ = write!(text, "{:width$}  {}", network(element.network), origin(element.origin));
        if let Origin::Dns(name) = element.origin {
            let _ = write!(text, " {name}");
        }
        if let Some(expiry) = element.expiry {
            let _ = write!(text, "  {}", duration(expiry.remaining(now)));
        }
        text.push('\n');
    }
    text
}

pub fn json(set: &Name, elements: &[Element], now: u64) -> Value {
    let element = |element: &Element| {
        let mut value = json!({
            "address": network(element.network),
            "from": origin(element.origin),
            "expires-in": element.expiry.map(|expiry: Expiry| expiry.remaining(now)),
        });
        if let Origin::Dns(name) = element.origin {
            value["name"] = json!(name);
        }
        value
    };
    json!({ "set": set, "elements": elements.iter().map(element).collect::<Value>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_lines_and_objects() {
        let element = |network: &str, origin, expiry: Option<u64>| Element {
            network: network.parse().unwrap(),
            origin,
            expiry: expiry.map(Expiry),
        };
        let elements = [
            element("192.0.2.0/24", Origin::Topology, None),
            element("198.51.100.4/32", Origin::File(Some(3)), None),
            element("198.51.100.4/32", Origin::Added, Some(160)),
            element("2001:db8::1/128", Origin::Dns("anna.example.net"), None),
        ];
        let wanted = "192.0.2.0/24  topology\n\
                      198.51.100.4  file\n\
                      198.51.100.4  added  1m\n\
                      2001:db8::1   dns anna.example.net\n";
        assert_eq!(lines(&elements, 100), wanted);
        let wanted = json!({"set": "players", "elements": [
            {"address": "192.0.2.0/24", "from": "topology", "expires-in": null},
            {"address": "198.51.100.4", "from": "file", "expires-in": null},
            {"address": "198.51.100.4", "from": "added", "expires-in": 60},
            {"address": "2001:db8::1", "from": "dns", "expires-in": null, "name": "anna.example.net"},
        ]});
        assert_eq!(json(&Name::new("players").unwrap(), &elements, 100), wanted);
    }
}
