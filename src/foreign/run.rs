//! Runs a packet through a chain as the kernel does (net/netfilter/nf_tables_core.c), as far as that can be told: what a rule
//! that cannot be judged may do is one of the things that may become of the packet.

use std::collections::BTreeMap;

use super::packet::{Byte, Packet, known, unknown};
use crate::nft::others::{Load, Ports, Step, Table};
use crate::nft::{Among, Compare, Ct, Element, Expression, Key, Meta, Set, Target, Text, VERDICT, Value, Verdict};

/// Where something becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub chain: Text,
    /// Which rule, from 1; none for the policy.
    pub rule: Option<usize>,
    /// Whether all packets that come to it go no further.
    sure: bool,
}

/// What may become of a packet in a chain.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    pub passes: bool,
    /// Nobody can tell.
    pub unknown: bool,
    /// It comes to the end of the chain.
    pub falls: bool,
    pub drops: Option<Place>,
    pub translates: Option<Place>,
}

impl Outcome {
    /// Where the packet is dropped, if nothing else can become of it.
    pub fn dropped(self) -> Option<Place> {
        self.drops.filter(|_| !self.passes && !self.unknown && !self.falls && self.translates.is_none())
    }

    /// Where the packet gets another address, if nothing else can become of it.
    pub fn translated(self) -> Option<Place> {
        self.translates.filter(|_| !self.passes && !self.unknown && !self.falls && self.drops.is_none())
    }

    /// Whether the packet passes for certain.
    pub fn lets_pass(&self) -> bool {
        self.passes && !self.unknown && !self.falls && self.drops.is_none() && self.translates.is_none()
    }

    fn anything() -> Outcome {
        Outcome { unknown: true, falls: true, ..Outcome::default() }
    }

    fn take(&mut self, other: Outcome, sure: bool) {
        self.passes |= other.passes;
        self.unknown |= other.unknown;
        // A place where it ends for certain tells more than one where it may.
        let better = |own: &mut Option<Place>, other: Option<Place>| {
            if let Some(mut other) = other {
                other.sure &= sure;
                if own.as_ref().is_none_or(|own| !own.sure && other.sure) {
                    *own = Some(other);
                }
            }
        };
        better(&mut self.drops, other.drops);
        better(&mut self.translates, other.translates);
    }

    fn note(&mut self, end: &End, chain: &Text, rule: Option<usize>, sure: bool) {
        let place = Some(Place { chain: chain.clone(), rule, sure });
        let other = match end {
            End::Drop => Outcome { drops: place, ..Outcome::default() },
            _ => Outcome { translates: place, ..Outcome::default() },
        };
        self.take(other, sure);
    }
}

/// What becomes of a packet in a base chain.
pub fn base(table: &Table, chain: &str, packet: &Packet) -> Outcome {
    with_accept(table, chain, packet, None)
}

/// The same, if another chain began with a rule that lets the packet pass.
pub fn with_accept(table: &Table, chain: &str, packet: &Packet, accepting: Option<&str>) -> Outcome {
    let mut run = Run { table, packet, known: BTreeMap::new() };
    if let Some((name, _)) = accepting.and_then(|name| table.chains.get_key_value(name)) {
        run.known.insert(name, Outcome { passes: true, ..Outcome::default() });
    }
    let Some((name, value)) = table.chains.get_key_value(chain) else { return Outcome::anything() };
    let mut outcome = run.chain(name, 0);
    if outcome.falls {
        outcome.falls = false;
        match value.base {
            Some(base) if base.drop => outcome.note(&End::Drop, name, None, true),
            _ => outcome.passes = true,
        }
    }
    outcome
}

/// The kernel lets no chain jump deeper (`NFT_JUMP_STACK_SIZE`, net/netfilter/nf_tables.h).
const DEEPEST: usize = 16;

struct Run<'r> {
    table: &'r Table,
    packet: &'r Packet<'r>,
    /// What becomes of the packet in a chain is asked once.
    known: BTreeMap<&'r Text, Outcome>,
}

/// How a rule may end.
enum End<'r> {
    Verdict(&'r Verdict),
    Drop,
    Translate,
    Anything,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    No,
    Perhaps,
    Yes,
}

impl Holds {
    fn of(holds: bool) -> Holds {
        if holds { Holds::Yes } else { Holds::No }
    }

    fn not(self, inverted: bool) -> Holds {
        match self {
            Holds::No if inverted => Holds::Yes,
            Holds::Yes if inverted => Holds::No,
            same => same,
        }
    }
}

/// What a rule may come to: its ends, each with whether that is certain, and whether the next rule may have its turn.
#[derive(Default)]
struct Ended<'r> {
    ends: Vec<(End<'r>, bool)>,
    goes_on: bool,
}

impl<'r> Run<'r> {
    fn chain(&mut self, name: &'r Text, depth: usize) -> Outcome {
        if let Some(known) = self.known.get(name) {
            return known.clone();
        }
        let Some(chain) = self.table.chains.get(name).filter(|_| depth <= DEEPEST) else { return Outcome::anything() };
        let mut outcome = Outcome::default();
        let mut goes_on = true;
        for (number, rule) in (1..).zip(&chain.rules) {
            let ended = self.rule(rule);
            goes_on = ended.goes_on;
            for (end, sure) in ended.ends {
                let jump = match end {
                    End::Verdict(Verdict::Accept) => {
                        outcome.passes = true;
                        continue;
                    }
                    End::Verdict(Verdict::Return) => {
                        outcome.falls = true;
                        continue;
                    }
                    End::Verdict(Verdict::Drop) | End::Drop => {
                        outcome.note(&End::Drop, name, Some(number), sure);
                        continue;
                    }
                    End::Translate => {
                        outcome.note(&End::Translate, name, Some(number), sure);
                        continue;
                    }
                    End::Verdict(Verdict::Other(_)) | End::Anything => {
                        (outcome.unknown, goes_on) = (true, true);
                        continue;
                    }
                    End::Verdict(Verdict::Jump(to)) => (to, true),
                    End::Verdict(Verdict::Goto(to)) => (to, false),
                };
                let (to, comes_back) = jump;
                let beyond = self.chain(to, depth + 1);
                goes_on |= beyond.falls && comes_back;
                outcome.falls |= beyond.falls && !comes_back;
                outcome.take(beyond, sure);
            }
            if !goes_on {
                break;
            }
        }
        outcome.falls |= goes_on;
        self.known.insert(name, outcome.clone());
        outcome
    }

    fn rule(&self, steps: &'r [Step]) -> Ended<'r> {
        let mut registers = Registers::default();
        let mut ended = Ended::default();
        let mut sure = true;
        for step in steps {
            let holds = match step {
                Step::Known(Expression::Verdict(verdict)) => {
                    ended.ends.push((End::Verdict(verdict), sure));
                    ended.goes_on |= !sure;
                    return ended;
                }
                Step::Known(Expression::Lookup { set, from, inverted: false, to: Some(VERDICT) }) => {
                    self.verdicts(set, *from, &registers, sure, &mut ended);
                    return ended;
                }
                Step::Known(Expression::Nat { .. } | Expression::Masquerade) | Step::Translate => {
                    ended.ends.push((End::Translate, sure));
                    ended.goes_on |= !sure;
                    return ended;
                }
                Step::Reject => {
                    ended.ends.push((End::Drop, sure));
                    ended.goes_on |= !sure;
                    return ended;
                }
                Step::Anything => {
                    ended.ends.push((End::Anything, false));
                    ended.goes_on = true;
                    return ended;
                }
                Step::Known(expression) => self.expression(expression, &mut registers),
                step => self.other(step, &mut registers),
            };
            match holds {
                Holds::Yes => {}
                Holds::Perhaps => sure = false,
                Holds::No => {
                    ended.goes_on = true;
                    return ended;
                }
            }
        }
        ended.goes_on = true;
        ended
    }

    /// Where a map of verdicts may lead.
    fn verdicts(&self, set: &'r Among, from: u8, registers: &Registers, sure: bool, ended: &mut Ended<'r>) {
        let Some(set) = self.set(set) else {
            ended.ends.push((End::Anything, false));
            ended.goes_on = true;
            return;
        };
        for (holds, element) in found(set, from, registers) {
            let Some(Target::Verdict(verdict)) = &element.leads_to else { continue };
            let certain = sure && holds == Holds::Yes;
            ended.ends.push((End::Verdict(verdict), certain));
            if holds == Holds::Yes {
                ended.goes_on |= !certain;
                return;
            }
        }
        ended.goes_on = true;
    }

    /// A set whose elements are known and stay.
    fn set(&self, set: &'r Among) -> Option<&'r Set> {
        let set = match set {
            Among::Named(name) => self.table.sets.get(name)?,
            Among::Anonymous(set) => set,
        };
        (!set.dynamic && !set.key.contains(&crate::nft::Type::Other)).then_some(set)
    }

    fn expression(&self, expression: &'r Expression, registers: &mut Registers) -> Holds {
        let packet = self.packet;
        match expression {
            Expression::Payload { base, offset, length, to } => match packet.payload(*base, *offset, *length) {
                Some(bytes) => registers.put(*to, &bytes),
                None => return registers.lose(),
            },
            Expression::Meta { key, to } => match key {
                Meta::IifName => registers.put(*to, &Packet::name(packet.iif)),
                Meta::OifName => registers.put(*to, &Packet::name(packet.oif)),
                Meta::NfProto => registers.put(*to, &known(&[packet.family()])),
                Meta::L4Proto => registers.put(*to, &known(&[packet.protocol])),
            },
            Expression::Ct { key: Ct::State, to } => registers.put(*to, &known(&packet.state.to_ne_bytes())),
            Expression::Ct { key: Ct::Status, to } => registers.put(*to, &packet.status()),
            Expression::Fib { result, flags, to } => registers.put(*to, &self.fib(*result, *flags)),
            Expression::Bitwise { from, to, mask, xor } => {
                let bytes = registers.read(*from, mask.as_bytes().len());
                let with = mask.as_bytes().iter().zip(xor.as_bytes());
                let bytes = bytes
                    .into_iter()
                    .zip(with)
                    .map(|((value, known), (mask, xor))| ((value & mask) ^ xor, known | !mask));
                registers.put(*to, &bytes.collect::<Vec<Byte>>());
            }
            Expression::Compare { from, how, value } => {
                return compare(&registers.read(*from, value.as_bytes().len()), *how, value);
            }
            Expression::Lookup { set, from, inverted, to } => {
                let Some(set) = self.set(set) else { return registers.lose() };
                let found: Vec<_> = found(set, *from, registers).collect();
                let holds = found.last().map_or(Holds::No, |(holds, _)| *holds);
                if let Some(to) = to {
                    match (&found[..], holds) {
                        ([(_, Element { leads_to: Some(Target::Value(value)), .. })], Holds::Yes) => {
                            registers.put(*to, &known(value.as_bytes()));
                        }
                        _ => drop(registers.lose()),
                    }
                }
                return holds.not(*inverted);
            }
            Expression::Load { to, value } => registers.put(*to, &known(value.as_bytes())),
            Expression::Counter | Expression::Count(_) | Expression::Log { .. } => {}
            Expression::Limit(_) | Expression::Update { .. } => return Holds::Perhaps,
            Expression::Unknown { .. } | Expression::Verdict(_) | Expression::Nat { .. } | Expression::Masquerade => {
                return registers.lose();
            }
        }
        Holds::Yes
    }

    fn other(&self, step: &Step, registers: &mut Registers) -> Holds {
        let packet = self.packet;
        match step {
            Step::Load { what, to } => {
                let bytes = match what {
                    Load::Iif => packet.index(packet.iif),
                    Load::Oif => packet.index(packet.oif),
                    Load::EtherType => known(&packet.ether_type().to_be_bytes()),
                    Load::Dialled => packet.dialled.map_or_else(|| unknown(2), |port| known(&port.to_be_bytes())),
                    Load::Direction => known(&[u8::from(packet.answer)]),
                };
                registers.put(*to, &bytes);
                Holds::Yes
            }
            Step::Range { from, inverted, first, last } => {
                between(&registers.read(*from, first.as_bytes().len()), first, last).not(*inverted)
            }
            Step::States { bits, inverted } => {
                // xtables says of a connection's translation, too, among its states (XT_CONNTRACK_STATE_DNAT).
                const DNAT: u32 = 0x80;
                const SNAT: u32 = 0x40;
                let handed_on = if packet.handed_on == Some(true) { DNAT } else { 0 };
                match (packet.state | handed_on) & bits {
                    0 if bits & SNAT != 0 || bits & DNAT != 0 && packet.handed_on.is_none() => Holds::Perhaps,
                    common => Holds::of(common != 0).not(*inverted),
                }
            }
            Step::Ports { of, ranges, inverted } => {
                let within = |ports: Option<(u16, u16)>| match ports {
                    Some((port, _)) => Holds::of(ranges.iter().any(|(low, high)| *low <= port && port <= *high)),
                    None if ranges.contains(&(0, u16::MAX)) => Holds::Yes,
                    None => Holds::Perhaps,
                };
                let holds = match of {
                    Ports::Source => within(packet.source),
                    Ports::Destination => within(packet.ports),
                    Ports::Either => match (within(packet.source), within(packet.ports)) {
                        (Holds::Yes, _) | (_, Holds::Yes) => Holds::Yes,
                        (Holds::No, Holds::No) => Holds::No,
                        _ => Holds::Perhaps,
                    },
                };
                holds.not(*inverted)
            }
            Step::Destination { types, inverted } => match packet.local {
                Some(local) => Holds::of(types & (1 << address_type(local)) != 0).not(*inverted),
                None => Holds::Perhaps,
            },
            Step::Icmp { kind, inverted } => Holds::of(packet.kind == *kind).not(*inverted),
            Step::Nothing => Holds::Yes,
            _ => registers.lose(),
        }
    }

    /// Of what `fib` tells, the type of the destination (`NFT_FIB_RESULT_ADDRTYPE` and `NFTA_FIB_F_DADDR`,
    /// linux/netfilter/nf_tables.h).
    fn fib(&self, result: u32, flags: u32) -> Vec<Byte> {
        const ADDRTYPE: u32 = 3;
        const DESTINATION: u32 = 2;
        match self.packet.local {
            Some(local) if (result, flags) == (ADDRTYPE, DESTINATION) => known(&address_type(local).to_ne_bytes()),
            _ => unknown(4),
        }
    }
}

/// `RTN_LOCAL` or `RTN_UNICAST` (linux/rtnetlink.h).
fn address_type(local: bool) -> u32 {
    if local { 2 } else { 1 }
}

/// The elements that a key may be found at: up to the first where it is for certain.
fn found<'s>(set: &'s Set, from: u8, registers: &Registers) -> impl Iterator<Item = (Holds, &'s Element)> {
    let length: usize = match &set.key[..] {
        [one] => one.length(),
        parts => parts.iter().map(|part| part.length().next_multiple_of(4)).sum(),
    };
    let bytes = registers.read(from, length);
    let mut certain = false;
    let judged = set.elements.iter().map(move |(key, element)| {
        let holds = match key {
            Key::One(value) => compare(&bytes, Compare::Equal, value),
            Key::Range(first, last) => between(&bytes, first, last),
            Key::Many(values) => {
                let mut place = 0;
                let mut holds = Holds::Yes;
                for value in values {
                    let length = value.as_bytes().len();
                    let part = bytes
                        .get(place..place + length)
                        .map_or(Holds::Perhaps, |part| compare(part, Compare::Equal, value));
                    holds = match (holds, part) {
                        (Holds::No, _) | (_, Holds::No) => Holds::No,
                        (Holds::Yes, Holds::Yes) => Holds::Yes,
                        _ => Holds::Perhaps,
                    };
                    place += length.next_multiple_of(4);
                }
                holds
            }
        };
        (holds, element)
    });
    judged.filter(|(holds, _)| *holds != Holds::No).take_while(move |(holds, _)| {
        let before = certain;
        certain = *holds == Holds::Yes;
        !before
    })
}

fn compare(bytes: &[Byte], how: Compare, value: &Value) -> Holds {
    let value = value.as_bytes();
    let equal = || {
        let differs = bytes.iter().zip(value).any(|((byte, known), value)| (byte ^ value) & known != 0);
        match differs {
            true => Holds::No,
            false if bytes.len() == value.len() && bytes.iter().all(|(_, known)| *known == 0xff) => Holds::Yes,
            false => Holds::Perhaps,
        }
    };
    let order = match how {
        Compare::Equal => return equal(),
        Compare::Different => return equal().not(true),
        _ => whole(bytes).map(|bytes| bytes.as_slice().cmp(value)),
    };
    let Some(order) = order else { return Holds::Perhaps };
    Holds::of(match how {
        Compare::Less => order.is_lt(),
        Compare::AtMost => order.is_le(),
        Compare::Greater => order.is_gt(),
        _ => order.is_ge(),
    })
}

fn between(bytes: &[Byte], first: &Value, last: &Value) -> Holds {
    match whole(bytes) {
        Some(bytes) => Holds::of(first.as_bytes() <= &bytes[..] && &bytes[..] <= last.as_bytes()),
        None => Holds::Perhaps,
    }
}

/// Bytes that are known to the last bit.
fn whole(bytes: &[Byte]) -> Option<Vec<u8>> {
    bytes.iter().map(|(byte, known)| (*known == 0xff).then_some(*byte)).collect()
}

/// The sixteen registers of four bytes each, which are four of sixteen under other numbers.
struct Registers([Byte; 64]);

impl Default for Registers {
    fn default() -> Registers {
        Registers([(0, 0); 64])
    }
}

impl Registers {
    /// Where a register begins (`NFT_REG_1` to `NFT_REG_4`, `NFT_REG32_00` and on, linux/netfilter/nf_tables.h).
    fn place(register: u8) -> usize {
        match register {
            0..=7 => usize::from(register.saturating_sub(1)) * 16,
            _ => usize::from(register - 8) * 4,
        }
    }

    /// What is not a multiple of four bytes long is filled up with zeros, as the kernel does it.
    fn put(&mut self, register: u8, bytes: &[Byte]) {
        let place = Registers::place(register);
        let filled = bytes.iter().copied().chain(std::iter::repeat((0, 0xff)));
        if let Some(room) = self.0.get_mut(place..place + bytes.len().next_multiple_of(4)) {
            room.iter_mut().zip(filled).for_each(|(own, byte)| *own = byte);
        }
    }

    fn read(&self, register: u8, length: usize) -> Vec<Byte> {
        let place = Registers::place(register);
        self.0.get(place..place + length).map_or_else(|| unknown(length), <[Byte]>::to_vec)
    }

    /// Nothing is known any more.
    fn lose(&mut self) -> Holds {
        *self = Registers::default();
        Holds::Perhaps
    }
}
