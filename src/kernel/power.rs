//! What this process holds of root's power (capabilities(7)): no more than its command needs, and none of it in effect
//! while text is parsed. The bounding set stays, so that a program that is run as root is root.

use std::fmt::Display;

use caps::{CapSet, Capability, CapsHashSet};

use super::{CHANGE, ENTER, FORGE};
use crate::error::{Context, Error};

/// As much as a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// To read what everybody may, or what is the user's own.
    Nothing,
    /// To read the files of sets, wherever they lie.
    Read,
    /// To put another text in the place of a file, be it a trusted user's.
    Replace,
    /// To look into namespaces and to change them, those of other users' containers too.
    Wire,
    /// To send packets there as well, with any header.
    Prove,
    /// To wire a hub, and to leave to the program that serves it what that needs, and no more for good.
    Hub,
    /// To be root of a world of its own, or to run somebody's program there.
    Everything,
}

/// Other users' namespaces are entered by their processes (PTRACE), found by podman's files (DAC) or by asking podman
/// as that user (SETUID, SETGID), who is ended when he does not answer (KILL). RESOURCE: room for the descriptors of
/// many.
const WIRE: [Capability; 8] = [
    ENTER,
    CHANGE,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    Capability::CAP_KILL,
    Capability::CAP_SYS_RESOURCE,
];

impl Power {
    fn needs(self, capability: Capability) -> bool {
        match self {
            Power::Nothing => false,
            Power::Read => capability == Capability::CAP_DAC_OVERRIDE,
            Power::Replace => {
                // The new file becomes the owner's before it gets its mode.
                [Capability::CAP_DAC_OVERRIDE, Capability::CAP_CHOWN, Capability::CAP_FOWNER].contains(&capability)
            }
            Power::Wire => WIRE.contains(&capability),
            Power::Prove => capability == FORGE || WIRE.contains(&capability),
            Power::Hub => {
                [Capability::CAP_NET_BIND_SERVICE, Capability::CAP_SETPCAP].contains(&capability)
                    || WIRE.contains(&capability)
            }
            Power::Everything => true,
        }
    }
}

/// Lets go for good of what is not needed.
pub fn keep(power: Power) -> Result<(), Error> {
    // What is in effect first: it has to be permitted (`cap_capset`, security/commoncap.c).
    for set in [CapSet::Effective, CapSet::Permitted] {
        let held = told(caps::read(None, set))?;
        let kept: CapsHashSet = held.iter().copied().filter(|capability| power.needs(*capability)).collect();
        // Who has nothing to let go of asks for nothing that could be refused.
        if kept != held {
            told(caps::set(None, set, &kept))?;
        }
    }
    Ok(())
}

/// Does something with nothing in effect: in this thread, and in those that it starts meanwhile.
pub fn without<T>(work: impl FnOnce() -> T) -> Result<T, Error> {
    let held = told(caps::read(None, CapSet::Effective))?;
    if held.is_empty() {
        return Ok(work());
    }
    told(caps::clear(None, CapSet::Effective))?;
    let done = work();
    told(caps::set(None, CapSet::Effective, &held))?;
    Ok(done)
}

fn told<T>(done: Result<T, impl Display>) -> Result<T, Error> {
    let done = done.context("wire cannot lay down what it may do as root");
    done.map_err(|error| error.hint("capset(2) is forbidden here: see what confines wire, such as a seccomp filter"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The whole table: of all that root may do, what each of them keeps.
    #[test]
    fn nobody_keeps_more_than_he_needs() {
        let wire = "DAC_OVERRIDE KILL SETGID SETUID NET_ADMIN SYS_PTRACE SYS_ADMIN SYS_RESOURCE";
        for (power, kept) in [
            (Power::Nothing, ""),
            (Power::Read, "DAC_OVERRIDE"),
            (Power::Replace, "CHOWN DAC_OVERRIDE FOWNER"),
            (Power::Wire, wire),
            (Power::Prove, &format!("{wire} NET_RAW")),
            (Power::Hub, &format!("{wire} NET_BIND_SERVICE SETPCAP")),
        ] {
            let names = |capability: Capability| capability.to_string().trim_start_matches("CAP_").to_owned();
            let needs = caps::all().into_iter().filter(|capability| power.needs(*capability)).map(names);
            let kept = kept.split_whitespace().map(str::to_owned);
            assert_eq!(needs.collect::<BTreeSet<String>>(), kept.collect(), "{power:?}");
        }
        assert!(caps::all().into_iter().all(|capability| Power::Everything.needs(capability)));
    }

    /// What is laid down is taken up again; what is let go of never is. Of one thread only, so that no other test is
    /// poorer.
    #[test]
    fn what_is_laid_down_is_taken_up_again() {
        std::thread::spawn(|| {
            let read = |set| caps::read(None, set).unwrap();
            let (effective, permitted) = (read(CapSet::Effective), read(CapSet::Permitted));
            assert_eq!(
                without(|| (read(CapSet::Effective).len(), read(CapSet::Permitted))),
                Ok((0, permitted.clone()))
            );
            assert_eq!(read(CapSet::Effective), effective);
            keep(Power::Everything).unwrap();
            assert_eq!((read(CapSet::Effective), read(CapSet::Permitted)), (effective.clone(), permitted));
            for (power, most) in [(Power::Wire, 8), (Power::Nothing, 0), (Power::Prove, 0)] {
                keep(power).unwrap();
                let held = read(CapSet::Permitted);
                assert!(held.len() <= most && held.iter().all(|capability| power.needs(*capability)), "{held:?}");
                assert!(read(CapSet::Effective).is_subset(&held));
            }
        })
        .join()
        .unwrap();
    }
}
