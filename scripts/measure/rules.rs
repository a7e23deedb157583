//! What netfilter holds in a namespace, for the benchmark: taken away, counted, and copied so that it can be loaded again as
//! it is. And `nft`, which loads the same from files, a process for each namespace.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::host::HOST;
use super::netlink::{Batch, NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, NFTABLES, NLM_F_CREATE, NLM_F_DUMP, Socket};
use crate::{Result, WORK};

const NLM_F_APPEND: u16 = 0x800;
const NFPROTO_INET: u8 = 1;
const NFT_MSG_DELTABLE: u16 = NFTABLES | 2;
const NFT_MSG_GETRULE: u16 = NFTABLES | 7;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;

/// Kinds of things in the order in which they can be made: how they are listed and made, and which attributes of a listing
/// (handles, positions, numbers of users) do not belong into a request.
const TABLE: Kind = Kind { list: NFTABLES | 1, make: NFTABLES, flags: NLM_F_CREATE, not: &[3, 4] };
const CHAIN: Kind = Kind { list: NFTABLES | 4, make: NFTABLES | 3, flags: NLM_F_CREATE, not: &[2, 6] };
const OBJECT: Kind = Kind { list: NFTABLES | 19, make: NFTABLES | 18, flags: NLM_F_CREATE, not: &[5, 6] };
const SET: Kind = Kind { list: NFTABLES | 10, make: NFTABLES | 9, flags: NLM_F_CREATE, not: &[16, 19, 20] };
const ELEMENT: Kind = Kind { list: NFTABLES | 13, make: NFTABLES | 12, flags: NLM_F_CREATE, not: &[] };
const RULE: Kind = Kind { list: NFT_MSG_GETRULE, make: NFTABLES | 6, flags: NLM_F_CREATE | NLM_F_APPEND, not: &[3, 6] };

struct Kind {
    list: u16,
    make: u16,
    flags: u16,
    not: &'static [u16],
}

/// Takes away all tables of the socket's namespace, whosever they are. The kernel tidies up behind the call.
pub fn clear(socket: &Socket) -> Result<()> {
    let mut batch = begin();
    batch.netfilter(NFT_MSG_DELTABLE, 0, 0, 0).end();
    end(&mut batch);
    socket.send(&batch.bytes)
}

/// How many rules there are, of whoever.
pub fn count(socket: &Socket) -> Result<usize> {
    let mut request = Batch::default();
    request.netfilter(NFT_MSG_GETRULE, NLM_F_DUMP, 0, 0).end();
    let mut rules = 0;
    socket.dump(&request, |_| rules += 1)?;
    Ok(rules)
}

/// One batch that makes everything in the tables of family inet once more.
pub fn copy(socket: &Socket) -> Result<Vec<u8>> {
    let mut batch = begin();
    let mut sets = Vec::new();
    for kind in [TABLE, CHAIN, OBJECT, SET] {
        let is_set = kind.make == SET.make;
        for message in list(socket, &kind, |_| {})? {
            kind.again(&mut batch, &message);
            if is_set {
                // A request has a number for each set, by which nothing here refers to it.
                batch.attribute(NFTA_SET_ID, &(sets.len() as u32 + 1).to_be_bytes());
                sets.push(message);
            }
            batch.end();
        }
    }
    for set in sets {
        let table = attributes(&set).next().map(|(_, whole)| whole[4..].to_vec()).unwrap_or_default();
        let name = attributes(&set).find(|(kind, _)| *kind == NFTA_SET_NAME);
        let name = name.map(|(_, whole)| whole[4..].to_vec()).unwrap_or_default();
        let of = |request: &mut Batch| {
            request.attribute(NFTA_SET_ELEM_LIST_TABLE, &table).attribute(NFTA_SET_ELEM_LIST_SET, &name);
        };
        for message in list(socket, &ELEMENT, of)? {
            ELEMENT.again(&mut batch, &message);
            batch.end();
        }
    }
    for message in list(socket, &RULE, |_| {})? {
        RULE.again(&mut batch, &message);
        batch.end();
    }
    end(&mut batch);
    Ok(batch.bytes)
}

fn begin() -> Batch {
    let mut batch = Batch::default();
    batch.netfilter(NFNL_MSG_BATCH_BEGIN, 0, 0, NFTABLES >> 8).end();
    batch
}

fn end(batch: &mut Batch) {
    batch.netfilter(NFNL_MSG_BATCH_END, 0, 0, NFTABLES >> 8).end();
}

fn list(socket: &Socket, kind: &Kind, of: impl Fn(&mut Batch)) -> Result<Vec<Vec<u8>>> {
    let mut request = Batch::default();
    request.netfilter(kind.list, NLM_F_DUMP, NFPROTO_INET, 0);
    of(&mut request);
    request.end();
    let mut found = Vec::new();
    socket.dump(&request, |message| found.push(message.to_vec()))?;
    Ok(found)
}

impl Kind {
    /// What was listed as a request to make it, left open at its end.
    fn again(&self, batch: &mut Batch, listed: &[u8]) {
        batch.netfilter(self.make, self.flags, NFPROTO_INET, 0);
        for (_, whole) in attributes(listed).filter(|(kind, _)| !self.not.contains(kind)) {
            let padding = whole.len().next_multiple_of(4) - whole.len();
            batch.bytes(whole).bytes(&[0; 3][..padding]);
        }
    }
}

/// The attributes of a message behind its four bytes of header: their kinds, and each as a whole but for its padding.
fn attributes(message: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = message.get(4..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & 0x3fff;
        let padded = length.next_multiple_of(4).min(rest.len());
        let whole = rest.get(..length)?;
        rest = &rest[padded..];
        Some((kind, whole))
    })
}

/// `bench nft JOBS`: for each namespace of the list one `nft -f`, so many at once. The program enters the namespaces itself,
/// which is cheaper than `ip netns exec` or `nsenter`.
pub fn nft(jobs: Option<&String>) -> Result<()> {
    let jobs: usize = jobs.ok_or("nft needs a number")?.parse()?;
    let list = fs::read_to_string(format!("{WORK}/rules.list"))?;
    let nodes: Vec<&str> = list.lines().collect();
    let next = AtomicUsize::new(0);
    let home = File::open("/proc/self/ns/net")?;
    let work = || -> std::result::Result<(), String> {
        while let Some(node) = nodes.get(next.fetch_add(1, Ordering::Relaxed)) {
            let load = || -> Result<bool> {
                match *node {
                    HOST => setns(&home, CloneFlags::CLONE_NEWNET)?,
                    name => setns(File::open(format!("/run/netns/{name}"))?, CloneFlags::CLONE_NEWNET)?,
                }
                Ok(Command::new("nft").arg("-f").arg(file(node)).stdin(Stdio::null()).status()?.success())
            };
            match load() {
                Ok(true) => {}
                Ok(false) => return Err(format!("nft could not load the rules of {node}")),
                Err(error) => return Err(format!("nft in {node}: {error}")),
            }
        }
        Ok(())
    };
    let done = thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
    });
    for outcome in done {
        outcome.map_err(|_| "a thread ended in a panic")??;
    }
    Ok(())
}

/// Where the rules of a node are in nft's words.
pub fn file(node: &str) -> String {
    format!("{WORK}/{node}.nft")
}
