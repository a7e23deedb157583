//! The text of a set's file: one address or prefix a line. `#` begins a comment, lines with nothing else are skipped. It reads
//! no file.

use ipnetwork::IpNetwork;

use crate::error::Fault;
use crate::parse;
use crate::topology::Place;

/// The elements with the lines they stand in, from 1, or the first line that is none.
pub fn read(text: &str) -> Result<Vec<(usize, IpNetwork)>, Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = Vec::new();
    for (line, words) in (1..).zip(text.lines()) {
        let word = words.split_once('#').map_or(words, |(word, _)| word).trim();
        if !word.is_empty() {
            let network = parse::element(word).map_err(|fault| Fault { place: Place { line, column: 1 }, ..fault })?;
            lines.push((line, network));
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_addresses_comments_or_nothing() {
        let read = |text| {
            let lines = read(text).map_err(|fault| (fault.place.line, fault.message))?;
            Ok(lines.into_iter().map(|(line, network)| format!("{line} {network}")).collect::<Vec<_>>())
        };
        let table: [(&str, Result<&[&str], (usize, &str)>); 8] = [
            ("", Ok(&[])),
            ("\n\n# nobody\n   \t\n  # nobody either", Ok(&[])),
            ("192.0.2.1", Ok(&["1 192.0.2.1/32"])),
            ("\u{feff}192.0.2.1\r\n\r\n 2001:db8::/32 # a network\r\n", Ok(&["1 192.0.2.1/32", "3 2001:db8::/32"])),
            ("192.0.2.1\n192.0.2.1\n", Ok(&["1 192.0.2.1/32", "2 192.0.2.1/32"])),
            ("192.0.2.1\n\n192.0.2.0/33\nnobody", Err((3, "`192.0.2.0/33` is no address"))),
            ("192.0.2.1 192.0.2.2", Err((1, "`192.0.2.1 192.0.2.2` is no address"))),
            ("#\n192.0.2.1/24", Err((2, "`192.0.2.1/24` has bits behind its prefix"))),
        ];
        for (text, wanted) in table {
            let wanted = wanted.map(|lines| lines.iter().map(|line| line.to_string()).collect());
            assert_eq!(read(text), wanted.map_err(|(line, message)| (line, message.to_owned())), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "(?s).{0,200}") {
            if let Err(fault) = read(&text) {
                prop_assert!((1..=text.lines().count()).contains(&fault.place.line));
                prop_assert!(!fault.message.contains('\n'));
            }
        }

        #[test]
        fn what_is_written_is_read(addresses in prop::collection::vec(any::<std::net::IpAddr>(), 0..20), comment in "[^\n\r]*") {
            let text: String = addresses.iter().map(|address| format!(" {address}\t#{comment}\n\n")).collect();
            let read: Vec<_> = read(&text).unwrap().into_iter().map(|(_, network)| network.ip().to_canonical()).collect();
            prop_assert_eq!(read, addresses.iter().map(|address| address.to_canonical()).collect::<Vec<_>>());
        }
    }
}
