//! The topology file as text: opened once, its owner checked on what was opened, read whole. What it says is `parse`'s.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{AccessFlags, User, access, geteuid};

use crate::error::{Context, Error};
use crate::kernel;

/// No topology is larger; whatever is, is something else.
const LARGEST: u64 = 64 << 20;

/// Reads the file. Whoever may write it decides what root does, so as root it must be root's alone, or a trusted user's.
pub fn read(path: &Path, trusted: Option<&str>) -> Result<String, Error> {
    let shown = path.display();
    if kernel::is_privileged() && !geteuid().is_root() {
        // The capabilities that wire was given are not the user's: what he may not read he is not shown.
        access(path, AccessFlags::R_OK)
            .map_err(|errno| Error::invalid(format!("cannot open {shown}: {}", errno.desc())))?;
    }
    // A pipe that nobody writes to must not hang the program before its owner is looked at.
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::invalid(format!("there is no topology file {shown}"))
            .hint("name one with `-f FILE` or in $WIRE_TOPOLOGY"),
        _ => Error::invalid(format!("cannot open {shown}: {error}")),
    })?;
    let about = file.metadata().context(format!("cannot look at {shown}"))?;
    if about.is_dir() {
        return Err(Error::invalid(format!("{shown} is a directory")).hint("name the file in it with `-f FILE`"));
    }
    if geteuid().is_root() {
        owned(path, about.uid(), about.mode(), trusted)?;
    } else if kernel::is_privileged() {
        // Whoever runs a `wire` with file capabilities may not say whom to trust.
        owned(path, about.uid(), about.mode(), None)?;
    }
    if !about.is_file() && !about.file_type().is_fifo() {
        return Err(Error::invalid(format!("{shown} is no file")).hint("name a topology file with `-f FILE`"));
    }
    if !about.is_file() {
        wait_for_writer(&file).context(format!("cannot read {shown}"))?;
    }
    text(path, file)
}

/// The text of a file that decides nothing, whoever it belongs to; none where it cannot be read.
pub fn glance(path: &Path) -> Option<String> {
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    text(path, file).ok()
}

/// Puts a file of `wire`'s own in its place at once, for everybody to read; the folder must be there. Tells whether it was not so
/// already.
pub fn put(path: &Path, text: &str) -> Result<bool, Error> {
    if fs::symlink_metadata(path).is_ok_and(|about| about.is_file()) && glance(path).is_some_and(|now| now == text) {
        return Ok(false);
    }
    let failed = || format!("cannot write {}", path.display());
    // Whoever reads all files of the folder takes none that begins with a dot and ends with a number.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written.context(failed())?;
    Ok(true)
}

/// A pipe that was opened without waiting: its writer may be yet to come. The same descriptor goes on, since the path may lead to
/// another file by now.
fn wait_for_writer(pipe: &File) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(pipe, FcntlArg::F_GETFL)?);
    fcntl(pipe, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
    Ok(())
}

fn text(path: &Path, file: File) -> Result<String, Error> {
    let shown = path.display();
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).context(format!("cannot read {shown}"))?;
    if bytes.len() as u64 > LARGEST {
        return Err(Error::invalid(format!("{shown} is larger than any topology")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|&&b| b == b'\n').count();
        Error::invalid(format!("{shown}:{line} is not UTF-8 text"))
    })
}

fn owned(path: &Path, owner: u32, mode: u32, trusted: Option<&str>) -> Result<(), Error> {
    let shown = path.display();
    let trusted = match trusted {
        None => None,
        Some(name) => match User::from_name(name).context(format!("cannot look up user {name}"))? {
            Some(user) => Some(user.uid.as_raw()),
            None => return Err(Error::invalid(format!("--trust-owner: there is no user `{name}`"))),
        },
    };
    if owner != 0 && Some(owner) != trusted {
        let name = User::from_uid(owner.into()).ok().flatten().map_or_else(|| owner.to_string(), |user| user.name);
        return Err(Error::invalid(format!("{shown} belongs to {name}, who would decide what root does"))
            .hint(format!("`chown root {shown}`, or `--trust-owner {name}`")));
    }
    if mode & 0o022 != 0 {
        return Err(Error::invalid(format!("{shown} can be written by others, who would decide what root does"))
            .hint(format!("`chmod go-w {shown}`")));
    }
    Ok(())
}

/// Puts a new text in the place of the file at once, with the owner and mode of the old.
pub fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let failed = || format!("cannot write {}", path.display());
    // A link stays a link: what it leads to is replaced.
    let path = path.canonicalize().context(failed())?;
    let about = fs::metadata(&path).context(failed())?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".wire-{}", std::process::id()));
    let new = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        if geteuid().is_root() {
            fchown(&file, Some(about.uid()), Some(about.gid()))?;
        }
        file.set_permissions(Permissions::from_mode(about.mode() & 0o7777))?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written.context(failed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_whole_and_everybodys_to_read() {
        let folder = std::env::temp_dir().join(format!("wire-put-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("a.json");
        assert_eq!([put(&path, "one"), put(&path, "one"), put(&path, "two")], [Ok(true), Ok(false), Ok(true)]);
        assert_eq!(glance(&path).as_deref(), Some("two"));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
        // A link is replaced, and not followed.
        std::os::unix::fs::symlink(&path, folder.join("b.json")).unwrap();
        assert_eq!(put(&folder.join("b.json"), "two"), Ok(true));
        assert!(fs::symlink_metadata(folder.join("b.json")).unwrap().is_file());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "nothing else is left");
        assert!(put(&folder.join("none/c.json"), "").is_err());
        assert!(glance(&folder).is_none(), "a folder");
        fs::remove_dir_all(&folder).unwrap();
    }

    /// A pipe is read to its end although nobody writes to it yet when it is opened, and is opened once: what its path leads to
    /// afterwards does not matter.
    #[test]
    fn a_pipe_is_waited_for_and_opened_once() {
        let path = std::env::temp_dir().join(format!("wire-pipe-{}", std::process::id()));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let other = path.clone();
        let writer = std::thread::spawn(move || {
            // Opening for writing waits for the reader.
            let mut pipe = fs::OpenOptions::new().write(true).open(&other).unwrap();
            fs::remove_file(&other).unwrap();
            fs::write(&other, "another file").unwrap();
            pipe.write_all(b"the right one").unwrap();
        });
        let read = read(&path, None);
        writer.join().unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(read, Ok("the right one".to_owned()));
    }
}
