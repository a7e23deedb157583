//! Keys of WireGuard tunnels in files, as `wg genkey` and `wg genpsk` write them: 32 bytes in base64, one line. What is read is
//! looked at first, on what was opened: no link, a plain file, root's or ours, nobody else's to read. A hub's own key is made where
//! it is missing; peers' are their owners'. Nothing here says a key.

use std::ffi::CString;
use std::fs::{DirBuilder, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::{UnlinkatFlags, fsync, geteuid, linkat, unlinkat};
use x25519_dalek::{X25519_BASEPOINT_BYTES, x25519};
use zeroize::Zeroizing;

use super::run::Lock;
use super::sys;
use crate::error::{Context, Error};
use crate::hub::orders::Secret;

#[cfg(test)]
mod tests;

/// A key is 44 characters and the end of its line; whatever is larger is something else.
const LARGEST: u64 = 4096;

/// A hub's own key, if there is a file of it, as WireGuard uses it: of three bytes some bits are set, whatever the file has.
pub fn private(path: &str) -> Result<Option<Secret>, Error> {
    let Some(mut key) = read(path)? else { return Ok(None) };
    clamp(&mut key);
    Ok(Some(secret(&key)))
}

/// The key that a peer shares with its hub.
pub fn preshared(path: &str) -> Result<Secret, Error> {
    let key = read(path)?.ok_or_else(|| {
        Error::failed(format!("there is no preshared key {path}"))
            .hint(format!("`umask 077; wg genpsk > {path}`, and give the peer the same"))
    })?;
    if *key == [0; 32] {
        // That means none to WireGuard.
        return Err(Error::failed(format!("{path} holds zeroes and no key")).hint("`wg genpsk` makes one"));
    }
    Ok(secret(&key))
}

/// A private key that is nobody's yet.
pub fn random() -> Result<Secret, Error> {
    let mut key = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *key).context("the kernel has no random numbers")?;
    clamp(&mut key);
    Ok(secret(&key))
}

/// Makes a hub's own key, or one that a peer shares with it. Whoever is killed meanwhile leaves a whole key or none.
pub fn make(path: &str, _lock: &Lock) -> Result<Secret, Error> {
    let key = random()?;
    put(Path::new(path), &key)
        .map_err(|error| Error { message: format!("cannot make the key {path}: {}", error.message), ..error })?;
    Ok(key)
}

/// The public key of a private one, in base64.
pub fn public(private: &Secret) -> Option<String> {
    let key = bytes(private)?;
    Some(STANDARD.encode(x25519(*key, X25519_BASEPOINT_BYTES)))
}

/// The 32 bytes of a key in base64.
pub fn bytes(key: &Secret) -> Option<Zeroizing<[u8; 32]>> {
    decode(key.0.as_bytes())
}

/// The same the other way round.
pub fn secret(key: &[u8; 32]) -> Secret {
    Secret(STANDARD.encode(key))
}

fn decode(text: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let decoded = Zeroizing::new(STANDARD.decode(text).ok()?);
    <[u8; 32]>::try_from(&decoded[..]).ok().map(Zeroizing::new)
}

/// What X25519 does to every private key (RFC 7748, section 5): the kernel gives back what it has made of one.
fn clamp(key: &mut [u8; 32]) {
    key[0] &= 0xf8;
    key[31] = key[31] & 0x7f | 0x40;
}

fn read(path: &str) -> Result<Option<Zeroizing<[u8; 32]>>, Error> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = match openat(AT_FDCWD, path, flags, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(None),
        Err(Errno::ELOOP) => {
            return Err(
                Error::failed(format!("the key {path} is a link")).hint("name the file itself that it leads to")
            );
        }
        file => file.context(format!("cannot open the key {path}"))?,
    };
    own(path, &fstat(&file).context(format!("cannot look at the key {path}"))?)?;
    let mut text = Zeroizing::new(Vec::with_capacity(LARGEST as usize + 1));
    File::from(file).take(LARGEST + 1).read_to_end(&mut text).context(format!("cannot read the key {path}"))?;
    let key = decode(text.trim_ascii()).ok_or_else(|| {
        Error::failed(format!("{path} holds no key: it is to be 32 bytes in base64, on one line"))
            .hint("`wg genkey` and `wg genpsk` write such a line")
    })?;
    Ok(Some(key))
}

/// Whoever may read it may be the hub; whoever may write it says who may.
fn own(path: &str, stat: &FileStat) -> Result<(), Error> {
    if SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) != SFlag::S_IFREG {
        return Err(Error::failed(format!("the key {path} is no plain file")).hint("name a file that holds the key"));
    }
    if stat.st_uid != 0 && stat.st_uid != geteuid().as_raw() {
        return Err(Error::failed(format!("the key {path} belongs to somebody else"))
            .hint(format!("`chown root {path}; chmod 600 {path}`; a key that others knew is better made anew")));
    }
    if stat.st_mode & 0o077 != 0 {
        return Err(Error::failed(format!("the key {path} is not its owner's alone"))
            .hint(format!("`chmod 600 {path}`; a key that others knew is better made anew")));
    }
    Ok(())
}

/// A file of its owner's alone in a directory that is root's or ours, on the disk before it has its name.
fn put(path: &Path, key: &Secret) -> Result<(), Error> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::failed("that is no file's name"));
    };
    let folder = directory(folder)?;
    let cannot = |_| Error::failed("that is no file's name");
    let new = CString::new([b".", name.as_bytes(), b".new"].concat()).map_err(cannot)?;
    let name = CString::new(name.as_bytes()).map_err(cannot)?;
    // What a run that was killed has left; whoever has the lock is alone.
    let tidy = || {
        let _ = unlinkat(&folder, &*new, UnlinkatFlags::NoRemoveDir);
    };
    tidy();
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(&folder, &*new, flags, Mode::S_IRUSR | Mode::S_IWUSR).context("no new file")?;
    let line = Zeroizing::new(format!("{}\n", key.0));
    let mut file = File::from(file);
    let written = file.write_all(line.as_bytes()).and_then(|()| file.sync_all()).context("it cannot be written");
    // A key that is there by now is not replaced: peers may know it.
    let placed = written.and_then(|()| {
        match sys::rename_new(folder.as_fd(), &new, &name) {
            Err(Errno::EINVAL | Errno::ENOSYS) => linkat(&folder, &*new, &folder, &*name, AtFlags::empty()),
            renamed => renamed,
        }
        .context("it cannot be put in its place")
    });
    tidy();
    placed?;
    fsync(&folder).context("its directory cannot be written")
}

fn directory(path: &Path) -> Result<OwnedFd, Error> {
    let shown = path.display();
    DirBuilder::new().recursive(true).mode(0o700).create(path).context(format!("no directory {shown}"))?;
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = openat(AT_FDCWD, path, flags, Mode::empty()).context(format!("cannot open {shown}"))?;
    let stat = fstat(&directory).context(format!("cannot look at {shown}"))?;
    if (stat.st_uid != 0 && stat.st_uid != geteuid().as_raw()) || stat.st_mode & 0o022 != 0 {
        return Err(Error::failed(format!("others may write to {shown}"))
            .hint(format!("`chown root {shown}; chmod 700 {shown}`, or name another `private-key`")));
    }
    Ok(directory)
}
