//! Somebody who stays behind when this run of `wire` has ended, and its terminal with it. What there is to do then is not known
//! here.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::sys;
use crate::error::{Context, Error};

/// What is said when everything is ready; anything else is the reason why it is not.
const READY: &str = "ready";

/// The way to whoever waits to hear that somebody has stayed.
pub struct Word(File);

impl Word {
    pub fn ready(mut self) {
        // Nobody may be there to hear it any more.
        let _ = self.0.write_all(READY.as_bytes());
    }

    pub fn cannot(mut self, error: &Error) {
        let _ = self.0.write_all(error.message.as_bytes());
    }
}

/// Leaves a process behind that does `work`, and comes back when that has said that it is ready. A process has no lock and no
/// namespace of this one's. Only while no other thread runs.
pub fn stay(work: &mut dyn FnMut(Word)) -> Result<(), Error> {
    let tried = "nobody could be left behind to undo it";
    let (heard, said) = pipe2(OFlag::O_CLOEXEC).context(tried)?;
    sys::leave_behind(said.as_fd(), &mut |said| work(Word(said))).context(tried)?;
    drop(said);
    let mut word = String::new();
    File::from(heard).read_to_string(&mut word).context(tried)?;
    match word.as_str() {
        READY => Ok(()),
        "" => Err(Error::failed(format!("{tried}: it ended at once"))),
        reason => Err(Error::failed(format!("{tried}: {reason}"))),
    }
}
