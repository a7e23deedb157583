//! The TUN device that `wire up` has made, taken up by whoever serves it.

use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use tun_rs::{DeviceBuilder, GROTable, SyncDevice, VIRTIO_NET_HDR_LEN};

use crate::trouble::{Context, Trouble};

/// What comes before each packet: the kernel's `struct virtio_net_hdr`.
pub const HEADER: usize = VIRTIO_NET_HDR_LEN;
/// linux/if_tun.h, where glibc and musl have different types for a request.
const TUNGETIFF: u64 = nix::request_code_read!(b'T', 210, size_of::<libc::c_uint>()) as u64;
/// linux/sockios.h.
const SIOCGIFMTU: u64 = 0x8921;
/// The largest packet that is carried.
const MTU: i32 = 1500;
/// The longest row, and how many packets it may have: those of a stream whose packets are tiny, as 128 bytes, still fit.
pub const ROW: usize = 65_535;
const MOST: usize = 512;

/// The kernel's `struct ifreq`, 40 bytes, of which these requests know the name and the first member of the union.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: libc::c_int,
    rest: [u8; 20],
}

impl Request {
    fn new(name: &str) -> Request {
        let mut request = Request { name: [0; libc::IFNAMSIZ], value: 0, rest: [0; 20] };
        // The last byte stays the closing NUL.
        request.name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        request
    }

    fn ask(&mut self, file: &impl AsRawFd, request: u64) -> nix::Result<()> {
        #[expect(unsafe_code, reason = "a request that nix does not know")]
        // SAFETY: each of the requests here reads and writes one ifreq, which is as large as this and outlives the call.
        Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), request as _, &raw mut *self) }).map(drop)
    }
}

/// One open end of the device. Packets of a stream go through it in rows of up to 64 KiB, which the kernel, and every rule on the
/// way, takes for one (linux/virtio_net.h).
pub struct Tun(SyncDevice);

impl Tun {
    pub fn attach(name: &str) -> Result<Tun, Trouble> {
        let failed = || format!("cannot take up the tunnel `{name}`");
        // Who may make devices would make it now. (`if_nametoindex` asks over a socket of this machine, which a hub has given up.)
        let mtu = mtu(name).ok_or_else(|| Trouble(format!("{}: there is no such device", failed())))?;
        if mtu > MTU {
            return Err(Trouble(format!("{}: its MTU is larger than {MTU}", failed())));
        }
        let open = |queues| {
            let device = DeviceBuilder::new().name(name).offload(true).multi_queue(queues).inherit_enable_state();
            device.build_sync()
        };
        // It has to be asked for as it was made.
        let device = open(false).or_else(|error| match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EINVAL) => open(true),
            _ => Err(error),
        });
        let device = device.map_err(|error| {
            let reason = match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EBUSY) => "another program has taken it up".to_owned(),
                Some(Errno::EINVAL) => "it is none of the kind that `wire up` makes".to_owned(),
                Some(Errno::EPERM) => "it belongs to another user".to_owned(),
                _ => error.to_string(),
            };
            Trouble(format!("{}: {reason}", failed()))
        })?;
        device.set_nonblocking(true).context(failed())?;
        Ok(Tun(device))
    }

    /// Whether the device still is what is open.
    pub fn is_attached(&self) -> bool {
        Request::new("").ask(&self.0, TUNGETIFF).is_ok()
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Makes rows of packets.
#[derive(Default)]
pub struct Joiner(GROTable);

impl Joiner {
    /// Hands packets to the kernel, each behind room for its `HEADER`.
    pub fn send(&mut self, packets: &mut [Vec<u8>], tun: &Tun) {
        // A device that is down, or gone, takes none.
        let _ = tun.0.send_multiple(&mut self.0, packets, HEADER);
    }
}

/// Takes rows apart.
pub struct Splitter {
    row: Vec<u8>,
    packets: Vec<Vec<u8>>,
    lengths: Vec<usize>,
}

impl Default for Splitter {
    fn default() -> Splitter {
        Splitter { row: vec![0; HEADER + ROW], packets: vec![vec![0; MTU as usize]; MOST], lengths: vec![0; MOST] }
    }
}

impl Splitter {
    /// The next packets that the kernel has for the device; `None` where it has none.
    pub fn take(&mut self, tun: &Tun) -> Option<impl Iterator<Item = &[u8]>> {
        let taken = tun.0.recv_multiple(&mut self.row, &mut self.packets, &mut self.lengths, 0);
        let count = match taken {
            Ok(count) => count,
            Err(error) if error.raw_os_error().is_none() && error.kind() != ErrorKind::WouldBlock => 0,
            Err(_) => return None,
        };
        Some(self.packets.iter().zip(&self.lengths).take(count).map(|(packet, length)| &packet[..*length]))
    }
}

fn mtu(name: &str) -> Option<i32> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    let mut request = Request::new(name);
    request.ask(&socket, SIOCGIFMTU).ok()?;
    Some(request.value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A packet of one stream, as long as it says, or not quite as it should be.
    fn packet((v6, tcp, length, seq, flags): (bool, bool, usize, u32, u8), faults: &[(usize, u8)]) -> Vec<u8> {
        let mut packet = if v6 { vec![0; 40] } else { vec![0; 20] };
        let head = packet.len();
        packet.resize(head + if tcp { 20 } else { 8 } + length, 7);
        let (total, payload) = ((packet.len() as u16).to_be_bytes(), ((packet.len() - head) as u16).to_be_bytes());
        if v6 {
            (packet[0], packet[6], packet[7]) = (0x60, if tcp { 6 } else { 17 }, 64);
            packet[4..6].copy_from_slice(&payload);
        } else {
            (packet[0], packet[8], packet[9]) = (0x45, 64, if tcp { 6 } else { 17 });
            packet[2..4].copy_from_slice(&total);
        }
        packet[head..head + 4].copy_from_slice(&[0, 1, 0, 2]);
        if tcp {
            packet[head + 4..head + 8].copy_from_slice(&seq.to_be_bytes());
            packet[head + 8..head + 18].copy_from_slice(&[0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0]);
        } else {
            packet[head + 4..head + 6].copy_from_slice(&payload);
            packet[head + 6..head + 8].copy_from_slice(&[0, 0]);
        }
        // All that is right for this is its own sum, which the sender has in his hand.
        let place = head + if tcp { 16 } else { 6 };
        let addresses = if v6 { 8..40 } else { 12..20 };
        let words = packet[addresses].chunks(2).chain(packet[head..].chunks(2));
        let sum = words.map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0))).sum::<u32>();
        let sum = sum + (packet.len() - head) as u32 + if tcp { 6 } else { 17 };
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        packet[place..place + 2].copy_from_slice(&sum.to_be_bytes());
        for (at, byte) in faults {
            let at = at % packet.len();
            packet[at] = *byte;
        }
        packet
    }

    fn joined(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut rows: Vec<Vec<u8>> = packets.iter().map(|packet| [&[0; HEADER], &packet[..]].concat()).collect();
        rows.iter_mut().for_each(|row| row.reserve_exact(ROW));
        // What the device is handed is made by this.
        GROTable::default().apply_gro(&mut rows, HEADER, true).unwrap();
        rows
    }

    #[test]
    fn packets_of_a_stream_become_a_row() {
        let stream: Vec<Vec<u8>> =
            (0..40).map(|number| packet((false, true, 1000, number * 1000, 0x10), &[])).collect();
        let rows = joined(&stream);
        assert_eq!(rows[0].len(), HEADER + 40 + 40 * 1000);
    }

    proptest! {
        /// Whoever dials in may send what he likes: it ends nothing.
        #[test]
        fn no_packet_is_too_odd(
            packets in prop::collection::vec(
                (
                    (any::<bool>(), any::<bool>(), 0usize..1500, (0u32..8).prop_map(|n| n * 500), any::<u8>()),
                    prop::collection::vec((0usize..80, any::<u8>()), 0..3),
                    0usize..2000,
                ),
                1..40,
            ),
        ) {
            let packets: Vec<Vec<u8>> = packets
                .into_iter()
                .map(|(kind, faults, cut)| {
                    let mut packet = packet(kind, &faults);
                    packet.truncate(cut.max(1));
                    packet
                })
                .collect();
            joined(&packets);
        }
    }
}
