//! Messages of the DNS (RFC 1035): one question for the addresses of a name, and what an answer to exactly that question
//! says. It sends nothing. Whoever answers may be hostile: nothing is read that is not there, and whatever is not an answer to
//! the question is no answer.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

/// Which addresses a name is asked for; the numbers of RFC 1035 and RFC 3596.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    A = 1,
    Aaaa = 28,
}

impl Kind {
    pub const BOTH: [Kind; 2] = [Kind::A, Kind::Aaaa];

    pub fn named(word: &str) -> Option<Kind> {
        Kind::BOTH.into_iter().find(|kind| kind.to_string() == word)
    }

    pub fn of(address: &IpAddr) -> Kind {
        if address.is_ipv4() { Kind::A } else { Kind::Aaaa }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Kind::A => "A",
            Kind::Aaaa => "AAAA",
        })
    }
}

/// An alias record (CNAME).
const ALIAS: u16 = 5;
/// The internet (class IN).
const INTERNET: u16 = 1;
/// Flags: this is an answer, it is cut short, recursion is wanted; and which kind of question it is.
const ANSWER: u16 = 1 << 15;
const CUT: u16 = 1 << 9;
const RECURSE: u16 = 1 << 8;
const OPCODE: u16 = 0b1111 << 11;
/// Octets of a name at most (RFC 1035, 2.3.4).
const LONGEST: usize = 255;
/// Aliases that lead to aliases; nobody needs as many.
const ALIASES: usize = 16;

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// All of them; none where the name has no address of this kind.
    Addresses(BTreeSet<IpAddr>),
    /// There is no such name.
    Nobody,
    /// It does not fit: ask by TCP.
    Cut,
    /// It cannot or will not say, by its response code.
    Refused(u16),
}

/// The message that asks. `None` where the name is none.
pub fn question(id: u16, name: &str, kind: Kind) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    for number in [id, RECURSE, 1, 0, 0, 0] {
        message.extend(number.to_be_bytes());
    }
    message.extend(wire_form(name)?);
    for number in [kind as u16, INTERNET] {
        message.extend(number.to_be_bytes());
    }
    Some(message)
}

/// A name as messages have it, in small letters: each label behind its length.
fn wire_form(name: &str) -> Option<Vec<u8>> {
    let mut form = Vec::new();
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        form.push(length);
        form.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    form.push(0);
    (form.len() <= LONGEST).then_some(form)
}

/// What a message says, if it is an answer to this question.
pub fn answer(message: &[u8], id: u16, name: &str, kind: Kind) -> Option<Answer> {
    let mut reader = Reader { message, at: 0 };
    let [theirs, flags, questions, answers, _, _] = reader.numbers()?;
    let asked = wire_form(name)?;
    if theirs != id || flags & ANSWER == 0 || flags & OPCODE != 0 || questions != 1 {
        return None;
    }
    if reader.name()? != asked || reader.numbers()? != [kind as u16, INTERNET] {
        return None;
    }
    match flags & 0b1111 {
        _ if flags & CUT != 0 => return Some(Answer::Cut),
        0 => {}
        3 => return Some(Answer::Nobody),
        code => return Some(Answer::Refused(code)),
    }
    let mut aliases = Vec::new();
    let mut addresses = Vec::new();
    for _ in 0..answers {
        let owner = reader.name()?;
        let [of, class, _, _, length] = reader.numbers()?;
        let mut data = Reader { message, at: reader.at };
        reader.skip(length.into())?;
        match of {
            _ if class != INTERNET => {}
            ALIAS => aliases.push((owner, data.name()?)),
            of if of == kind as u16 => addresses.push((owner, data.address(kind, length)?)),
            _ => {}
        }
    }
    // Whatever else the answer tells of, only the name that was asked for counts, and where it leads.
    let mut found = asked;
    for _ in 0..ALIASES {
        match aliases.iter().find(|(owner, _)| *owner == found) {
            Some((_, to)) => found = to.clone(),
            None => break,
        }
    }
    let of_it = addresses.into_iter().filter(|(owner, _)| *owner == found);
    Some(Answer::Addresses(of_it.map(|(_, address)| address).collect()))
}

/// A place in a message.
struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn skip(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let skipped = self.message.get(self.at..end)?;
        self.at = end;
        Some(skipped)
    }

    fn byte(&mut self) -> Option<u8> {
        self.skip(1)?.first().copied()
    }

    /// So many numbers of two octets.
    fn numbers<const N: usize>(&mut self) -> Option<[u16; N]> {
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = u16::from_be_bytes(self.skip(2)?.try_into().ok()?);
        }
        Some(numbers)
    }

    /// A name in small letters. A part of it may stand further up in the message, never further down: with that, and with a
    /// limit to its length, it has an end.
    fn name(&mut self) -> Option<Vec<u8>> {
        let mut name = Vec::new();
        let mut reader = Reader { message: self.message, at: self.at };
        let mut behind = None;
        while name.len() <= LONGEST {
            let start = reader.at;
            match reader.byte()? {
                0 => {
                    name.push(0);
                    self.at = behind.unwrap_or(reader.at);
                    return Some(name).filter(|name| name.len() <= LONGEST);
                }
                length @ 1..64 => {
                    name.push(length);
                    name.extend(reader.skip(length.into())?.iter().map(u8::to_ascii_lowercase));
                }
                high @ 0b1100_0000.. => {
                    let to = usize::from(high & 0b0011_1111) << 8 | usize::from(reader.byte()?);
                    behind.get_or_insert(reader.at);
                    reader.at = Some(to).filter(|to| *to < start)?;
                }
                _ => return None,
            }
        }
        None
    }

    fn address(&mut self, kind: Kind, length: u16) -> Option<IpAddr> {
        let bytes = self.skip(length.into())?;
        match kind {
            Kind::A => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
            Kind::Aaaa => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAME: &str = "anna.example.net";

    /// An answer to the question for `NAME` with id 7: flags, and records as owner, type and data.
    fn message(flags: u16, kind: Kind, records: &[(&[u8], u16, &[u8])]) -> Vec<u8> {
        let mut message = question(7, NAME, kind).unwrap();
        message[2..4].copy_from_slice(&(ANSWER | flags).to_be_bytes());
        message[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
        for (owner, of, data) in records {
            message.extend(*owner);
            message.extend(of.to_be_bytes());
            message.extend(INTERNET.to_be_bytes());
            message.extend([0, 0, 0, 60]);
            message.extend((data.len() as u16).to_be_bytes());
            message.extend(*data);
        }
        message
    }

    /// The name of the question, told by where it stands.
    const SAME: &[u8] = &[0xc0, 12];

    fn addresses(list: &[&str]) -> Option<Answer> {
        Some(Answer::Addresses(list.iter().map(|address| address.parse().unwrap()).collect()))
    }

    #[test]
    fn a_question_is_as_the_standard_has_it() {
        let wanted = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x04anna\x07example\x03net\0\0\x1c\0\x01";
        assert_eq!(question(0x1234, "Anna.Example.net", Kind::Aaaa).unwrap(), wanted);
        let long = ["a"; 128].join(".");
        for name in ["", ".", "a..b", &"a".repeat(64), &long] {
            assert_eq!(question(1, name, Kind::A), None, "{name}");
        }
        assert!(question(1, &["a"; 127].join("."), Kind::A).is_some());
    }

    #[test]
    fn an_answer_is_one_to_the_question() {
        let record = (SAME, 1, &[203, 0, 113, 5][..]);
        let good = message(0, Kind::A, &[record]);
        assert_eq!(answer(&good, 7, NAME, Kind::A), addresses(&["203.0.113.5"]));
        assert_eq!(answer(&good, 7, "ANNA.example.NET", Kind::A), addresses(&["203.0.113.5"]));
        for (id, name, kind) in [(8, NAME, Kind::A), (7, "bert.example.net", Kind::A), (7, NAME, Kind::Aaaa)] {
            assert_eq!(answer(&good, id, name, kind), None, "{id} {name} {kind}");
        }
        let asked = question(7, NAME, Kind::A).unwrap();
        assert_eq!(answer(&asked, 7, NAME, Kind::A), None, "a question is no answer");
        for end in 0..good.len() {
            assert_eq!(answer(&good[..end], 7, NAME, Kind::A), None, "cut at {end}");
        }
        let mut two = good.clone();
        two[5] = 2;
        assert_eq!(answer(&two, 7, NAME, Kind::A), None, "two questions");
        assert_eq!(answer(&message(OPCODE, Kind::A, &[record]), 7, NAME, Kind::A), None, "another kind of question");
    }

    #[test]
    fn what_a_server_says_is_told_apart() {
        let record = (SAME, 1, &[203, 0, 113, 5][..]);
        for (flags, wanted) in [
            (0, addresses(&["203.0.113.5"])),
            (CUT, Some(Answer::Cut)),
            (3, Some(Answer::Nobody)),
            (2, Some(Answer::Refused(2))),
            (5, Some(Answer::Refused(5))),
        ] {
            assert_eq!(answer(&message(flags, Kind::A, &[record]), 7, NAME, Kind::A), wanted, "{flags}");
        }
        assert_eq!(answer(&message(0, Kind::A, &[]), 7, NAME, Kind::A), addresses(&[]));
        let six = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let both = [(SAME, 28, &six[..]), record];
        assert_eq!(answer(&message(0, Kind::Aaaa, &both), 7, NAME, Kind::Aaaa), addresses(&["2001:db8::1"]));
        let short = (SAME, 28, &six[..4]);
        assert_eq!(answer(&message(0, Kind::Aaaa, &[short]), 7, NAME, Kind::Aaaa), None, "four octets are no IPv6");
    }

    /// An alias is followed within the answer, in any order of records; what leads nowhere or in circles has no address.
    #[test]
    fn aliases_are_followed() {
        let (www, cdn): (&[u8], &[u8]) = (b"\x03WWW\xc0\x11", b"\x03cdn\x03org\0");
        let at = |owner, last: u8| (owner, 1, vec![203, 0, 113, last]);
        let alias = |owner, to: &[u8]| (owner, ALIAS, to.to_vec());
        let told = |records: &[(&[u8], u16, Vec<u8>)]| {
            let records: Vec<_> = records.iter().map(|(owner, of, data)| (*owner, *of, &data[..])).collect();
            answer(&message(0, Kind::A, &records), 7, NAME, Kind::A)
        };
        let to_cdn = addresses(&["203.0.113.3"]);
        assert_eq!(told(&[alias(SAME, www), alias(www, cdn), at(cdn, 3)]), to_cdn);
        assert_eq!(told(&[at(cdn, 3), alias(www, cdn), alias(SAME, www)]), to_cdn);
        assert_eq!(
            told(&[alias(SAME, cdn), at(cdn, 3), at(www, 2), at(SAME, 1)]),
            to_cdn,
            "the name's own is the alias"
        );
        assert_eq!(told(&[at(cdn, 3)]), addresses(&[]), "an address of somebody else");
        assert_eq!(told(&[alias(SAME, www), alias(www, SAME), at(cdn, 3)]), addresses(&[]));
    }

    #[test]
    fn names_that_have_no_end_are_none() {
        let tail = |bytes: &[u8]| {
            let mut message = message(0, Kind::A, &[]);
            message[7] = 1;
            let at = message.len() as u8;
            message.extend(bytes.iter().map(|byte| if *byte == b'@' { at } else { *byte }));
            message.extend([0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4]);
            answer(&message, 7, NAME, Kind::A)
        };
        assert_eq!(tail(b"\xc0\x0c"), addresses(&["1.2.3.4"]), "a tail that is right");
        for bytes in [&b"\xc0@"[..], b"\x01a\xc0@", b"\xc0\xff", b"\xff\xff", b"\x40", b"\x80\x0c", b"\x3f"] {
            assert_eq!(tail(bytes), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_message_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert_eq!(answer(&bytes, 7, NAME, Kind::A).filter(|_| bytes.len() < 12), None);
            let mut begun = message(0, Kind::A, &[]);
            begun[7] = 9;
            begun.extend(bytes);
            answer(&begun, 7, NAME, Kind::A);
        }

        /// A changed octet may change what is said, and is never the ruin of whoever reads it.
        #[test]
        fn a_changed_message_is_survived(at in 0usize..80, to in any::<u8>()) {
            let alias = (SAME, ALIAS, &b"\x03www\xc0\x11"[..]);
            let mut message = message(0, Kind::A, &[alias, (b"\xc0\x2e", 1, &[203, 0, 113, 5])]);
            prop_assert_eq!(answer(&message, 7, NAME, Kind::A), addresses(&["203.0.113.5"]));
            let at = at % message.len();
            message[at] = to;
            if let Some(Answer::Addresses(addresses)) = answer(&message, 7, NAME, Kind::A) {
                prop_assert!(addresses.len() <= 1);
            }
        }
    }
}
