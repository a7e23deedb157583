//! Reads the file of a set. Another program may write it and own it, as `fail2ban` would, but it is one that the topology
//! names: a link is not followed, nothing but a plain file is read, and not everybody may write it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use ipnetwork::IpNetwork;

use super::lines;
use crate::error::{Context, Error};

/// Room for a million addresses; whatever is larger is something else.
const LARGEST: u64 = 16 << 20;

/// An element with its line, where that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    pub number: Option<usize>,
    pub network: IpNetwork,
}

/// The elements of a file, or nothing where there is no file. The error names the file, and the line where it is one.
pub fn read(path: &str) -> Result<Option<Vec<Line>>, Error> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Err(Error::failed(format!("{path} is a link")).hint("name the file itself that it leads to"));
        }
        file => file.context(format!("cannot open {path}"))?,
    };
    let about = file.metadata().context(format!("cannot look at {path}"))?;
    if !about.is_file() {
        return Err(Error::failed(format!("{path} is no plain file")).hint("name a file with one address a line"));
    }
    if about.mode() & 0o002 != 0 {
        let error = Error::failed(format!("{path} can be written by everybody, who would decide who is in the set"));
        return Err(error.hint(format!("`chmod o-w {path}`")));
    }
    let text = text(path, file)?;
    let lines = lines::read(&text).map_err(|fault| {
        let message = format!("{path}:{}: {}", fault.place.line, fault.message);
        Error { hint: fault.hint, ..Error::failed(message) }
    })?;
    Ok(Some(lines.into_iter().map(|(number, network)| Line { number: Some(number), network }).collect()))
}

fn text(path: &str, file: File) -> Result<String, Error> {
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).context(format!("cannot read {path}"))?;
    if bytes.len() as u64 > LARGEST {
        return Err(
            Error::failed(format!("{path} is larger than 16 MiB")).hint("prefixes hold many addresses in a line")
        );
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|&&b| b == b'\n').count();
        Error::failed(format!("{path}:{line}: this is no text"))
    })
}
