//! nfnetlink: the header that all of netfilter's messages share, and attributes as bytes, both directions side by side.

use super::socket::Request;

/// The parts of netfilter that a message is for: `NFNL_SUBSYS_*` (linux/netfilter/nfnetlink.h).
pub const CTNETLINK: u8 = 1;
pub const ULOG: u8 = 4;

/// `NLA_F_NESTED`, and what of an attribute's kind is not its kind: `NLA_TYPE_MASK` (linux/netlink.h).
pub const NESTED: u16 = 0x8000;
const KIND: u16 = 0x3fff;
/// `struct nlattr` (linux/netlink.h) and `struct nfgenmsg` (linux/netfilter/nfnetlink.h) are both four bytes long.
const HEADER: usize = 4;

/// A message: which part it is for, which of that part's kinds it is, and `struct nfgenmsg` in front of its attributes: the
/// family (`AF_*`), a version that is always 0 (`NFNETLINK_V0`) and a number that is the subsystem's own.
pub fn request(subsystem: u8, kind: u8, flags: u16, family: u8, resource: u16, attributes: &[u8]) -> Request {
    let [high, low] = resource.to_be_bytes();
    let mut message = vec![family, 0, high, low];
    message.extend_from_slice(attributes);
    Request { kind: u16::from_be_bytes([subsystem, kind]), flags, message }
}

/// A message's family and its attributes.
pub fn read(payload: &[u8]) -> Option<(u8, &[u8])> {
    Some((*payload.first()?, payload.get(HEADER..)?))
}

/// Adds an attribute.
pub fn add(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend_from_slice(&((HEADER + value.len()) as u16).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// The attributes in turn, each with its kind, up to the end or to the first that is cut off.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u16::from_ne_bytes(number(bytes)?);
        let kind = u16::from_ne_bytes(number(bytes.get(2..)?)?);
        let value = bytes.get(HEADER..usize::from(length))?;
        bytes = bytes.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
        Some((kind & KIND, value))
    })
}

/// The attribute of a kind.
pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(known, _)| *known == kind).map(|(_, value)| value)
}

/// The first bytes of a value, for the `from_be_bytes` and the like of whatever number they are.
pub fn number<const N: usize>(value: &[u8]) -> Option<[u8; N]> {
    value.get(..N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was put in comes out again, whatever the lengths.
    #[test]
    fn attributes_go_both_ways() {
        let values: Vec<Vec<u8>> = (0..9).map(|length| vec![length; usize::from(length)]).collect();
        let mut bytes = Vec::new();
        for (kind, value) in (1..).zip(&values) {
            add(&mut bytes, kind | NESTED, value);
        }
        assert_eq!(bytes.len() % 4, 0);
        let read: Vec<_> = attributes(&bytes).map(|(kind, value)| (kind, value.to_vec())).collect();
        assert_eq!(read, (1..).zip(values).collect::<Vec<_>>());
        assert_eq!(find(&bytes, 5), Some(&[4; 4][..]));
        assert_eq!(find(&bytes, 99), None);
    }

    /// Whatever is cut off or lies about its length ends the list and nothing else.
    #[test]
    fn cut_off_attributes_end_the_list() {
        let mut bytes = Vec::new();
        add(&mut bytes, 1, &[7; 6]);
        add(&mut bytes, 2, &[8; 2]);
        for length in 0..bytes.len() {
            let whole = attributes(&bytes[..length]).count();
            assert_eq!(whole, usize::from(length >= 10) + usize::from(length >= 18), "{length}");
        }
        for length in [0_u16, 1, 3, 400, u16::MAX] {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend([0; 10]);
            assert_eq!(attributes(&bytes).count(), 0, "{length}");
        }
        assert_eq!(read(&[2, 0, 0]), None);
        assert_eq!(number::<4>(&[1, 2, 3]), None);
    }
}
