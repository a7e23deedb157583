//! Directories of `wire`'s own and the files in them. Nothing there is trusted to be what it was: everything is opened without
//! following links, by what is held open already, its kind, owner and mode are looked at on what was opened, and what is
//! written is written whole and put in place at once, so that a kill leaves the old or the new. It knows nothing of what is
//! kept.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, lstat, mkdirat};
use nix::unistd::{UnlinkatFlags, fsync, geteuid, unlinkat};

use crate::error::{Context, Error};

/// A directory, held open.
pub struct Store {
    directory: OwnedFd,
    path: String,
}

impl Store {
    /// Opens the directory of this path, if it is there.
    pub fn look(path: &str) -> Result<Option<Store>, Error> {
        look(AT_FDCWD, path, path)
    }

    /// Opens it, made with this mode where it is missing.
    pub fn open(path: &str, mode: Mode) -> Result<Store, Error> {
        open(AT_FDCWD, path, path, mode)
    }

    /// Opens a directory in it, if it is there.
    pub fn look_into(&self, name: &str) -> Result<Option<Store>, Error> {
        look(&self.directory, name, &self.path_of(name))
    }

    /// Opens it, made for its owner alone where it is missing.
    pub fn enter(&self, name: &str) -> Result<Store, Error> {
        open(&self.directory, name, &self.path_of(name), Mode::S_IRWXU)
    }

    /// Whether its path still leads to it.
    pub fn is_in_place(&self) -> bool {
        let same = |held: FileStat, now: FileStat| (held.st_dev, held.st_ino) == (now.st_dev, now.st_ino);
        matches!((fstat(&self.directory), lstat(self.path.as_str())), (Ok(held), Ok(now)) if same(held, now))
    }

    pub fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    /// Opens a file in it for a purpose of its own, or tells that there is none.
    pub fn file(&self, name: &str, flags: OFlag) -> Result<Option<OwnedFd>, Error> {
        let path = self.path_of(name);
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let file = match openat(&self.directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR) {
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(refused(&path, errno)),
            Ok(file) => file,
        };
        let stat = fstat(&file).context(format!("cannot look at {path}"))?;
        let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        if kind != SFlag::S_IFREG || stat.st_nlink != 1 {
            return Err(not_own(&path, "it is no plain file"));
        }
        own(&stat, &path)?;
        Ok(Some(file))
    }

    /// The text of a file, if it is there. `most`: no file of that name is ever larger, in bytes.
    pub fn read(&self, name: &str, most: u64) -> Result<Option<String>, Error> {
        let Some(file) = self.file(name, OFlag::O_RDONLY)? else { return Ok(None) };
        let path = self.path_of(name);
        let mut bytes = Vec::new();
        File::from(file).take(most + 1).read_to_end(&mut bytes).context(format!("cannot read {path}"))?;
        if bytes.len() as u64 > most {
            return Err(not_own(&path, "it is larger than wire ever writes it"));
        }
        String::from_utf8(bytes).map(Some).map_err(|_| not_own(&path, "it is no text"))
    }

    /// Puts a file of this text in the place of what has its name, for its owner alone, once it is on the disk.
    pub fn write(&self, name: &str, text: &[u8]) -> Result<(), Error> {
        let tried = || format!("cannot write {}", self.path_of(name));
        let new = format!("{name}.new");
        self.tidy(name);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&self.directory, &*new, flags, Mode::S_IRUSR | Mode::S_IWUSR).context(tried())?;
        let mut file = File::from(file);
        let written = file.write_all(text).and_then(|()| file.sync_all()).context(tried());
        let placed = written.and_then(|()| {
            renameat(&self.directory, &*new, &self.directory, name).context(tried())?;
            fsync(&self.directory).context(tried())
        });
        if placed.is_err() {
            self.tidy(name);
        }
        placed
    }

    /// Removes what a run that was killed has left half written of a file. Whoever else may write it must be kept out.
    pub fn tidy(&self, name: &str) {
        let _ = unlinkat(&self.directory, &*format!("{name}.new"), UnlinkatFlags::NoRemoveDir);
    }

    /// Removes a file, if it is there, and what was left of one.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        self.tidy(name);
        match unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno).context(format!("cannot remove {}", self.path_of(name))),
        }
    }

    /// Says why what a file holds is nothing that `wire` wrote.
    pub fn damaged(&self, name: &str, why: &str) -> Error {
        not_own(&self.path_of(name), why)
    }
}

fn look(base: impl AsFd, name: &str, path: &str) -> Result<Option<Store>, Error> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let directory = match openat(base, name, flags, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno) => return Err(refused(path, errno)),
        Ok(directory) => directory,
    };
    own(&fstat(&directory).context(format!("cannot look at {path}"))?, path)?;
    Ok(Some(Store { directory, path: path.to_owned() }))
}

fn open(base: impl AsFd, name: &str, path: &str, mode: Mode) -> Result<Store, Error> {
    match mkdirat(&base, name, mode) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno).context(format!("cannot make {path}")),
    }
    look(base, name, path)?.ok_or_else(|| Error::failed(format!("{path} went away")))
}

fn own(stat: &FileStat, path: &str) -> Result<(), Error> {
    if stat.st_uid != geteuid().as_raw() {
        return Err(match stat.st_uid {
            0 => Error::failed(format!("{path} is root's alone")).hint("run this as root"),
            _ => not_own(path, "it belongs to somebody else"),
        });
    }
    if stat.st_mode & 0o022 != 0 {
        return Err(not_own(path, "others may write to it"));
    }
    Ok(())
}

fn refused(path: &str, errno: Errno) -> Error {
    match errno {
        Errno::EACCES | Errno::EPERM => {
            Error::failed(format!("cannot open {path}: {}", errno.desc())).hint("run this as root")
        }
        // ELOOP, ENOTDIR, ENXIO, EISDIR: a link or something else has its name.
        errno => not_own(path, errno.desc()),
    }
}

fn not_own(path: &str, why: &str) -> Error {
    Error::failed(format!("{path} is not wire's own: {why}"))
        .hint(format!("see what it is with `ls -ld {path}` and remove it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    /// A directory that goes away with the test.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Place {
            let place = std::env::temp_dir().join(format!("wire-store-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&place);
            fs::create_dir(&place).unwrap();
            Place(place)
        }

        fn path(&self, name: &str) -> String {
            self.0.join(name).to_str().unwrap().to_owned()
        }

        fn store(&self) -> Store {
            Store::open(&self.path("own"), Mode::S_IRWXU).unwrap()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_is_written_is_read_and_is_the_owners_alone() {
        let place = Place::new("write");
        assert!(Store::look(&place.path("own")).unwrap().is_none());
        let store = place.store();
        assert!(store.look_into("sets").unwrap().is_none());
        let sets = store.enter("sets").unwrap();
        assert_eq!(sets.read("a", 100).unwrap(), None);
        for text in ["first", "", "and last"] {
            sets.write("a", text.as_bytes()).unwrap();
            assert_eq!(sets.read("a", 100).unwrap().as_deref(), Some(text));
        }
        let mode = |path: &str| fs::metadata(place.path(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("own"), mode("own/sets"), mode("own/sets/a")), (0o700, 0o700, 0o600));
        assert_eq!(fs::read_dir(place.path("own/sets")).unwrap().count(), 1, "nothing half written is left");
        assert!(sets.read("a", 3).unwrap_err().message.contains("larger"));
        sets.remove("a").unwrap();
        sets.remove("a").unwrap();
        assert_eq!(sets.read("a", 100).unwrap(), None);
    }

    /// A half-written file of a run that was killed is in nobody's way, and a link of that name leads nowhere.
    #[test]
    fn what_a_kill_left_is_written_over() {
        let place = Place::new("kill");
        let store = place.store();
        fs::write(place.path("victim"), "untouched").unwrap();
        symlink(place.path("victim"), place.path("own/a.new")).unwrap();
        store.write("a", b"new").unwrap();
        assert_eq!(store.read("a", 100).unwrap().as_deref(), Some("new"));
        for clean in [Store::tidy as fn(&Store, &str), |store, name| store.remove(name).unwrap()] {
            fs::write(place.path("own/a.new"), "half").unwrap();
            clean(&store, "a");
            assert!(!fs::exists(place.path("own/a.new")).unwrap());
        }
        assert!(!fs::exists(place.path("own/a")).unwrap());
        assert_eq!(fs::read_to_string(place.path("victim")).unwrap(), "untouched");
    }

    /// Threat T42: a link, a pipe, a directory, a second name of a file, a file that others may write.
    #[test]
    fn what_is_planted_is_refused_and_its_target_untouched() {
        let place = Place::new("plant");
        let store = place.store();
        fs::write(place.path("victim"), "untouched").unwrap();
        let plants: [(&str, fn(&Place)); 6] = [
            ("a link", |place| symlink(place.path("victim"), place.path("own/a")).unwrap()),
            ("a link to nothing", |place| symlink(place.path("nothing"), place.path("own/a")).unwrap()),
            ("a pipe", |place| nix::unistd::mkfifo(&*place.path("own/a"), Mode::S_IRWXU).unwrap()),
            ("a directory", |place| fs::create_dir(place.path("own/a")).unwrap()),
            ("a second name", |place| fs::hard_link(place.path("victim"), place.path("own/a")).unwrap()),
            ("a file of everybody's", |place| {
                fs::write(place.path("own/a"), "").unwrap();
                fs::set_permissions(place.path("own/a"), PermissionsExt::from_mode(0o666)).unwrap();
            }),
        ];
        for (what, plant) in plants {
            plant(&place);
            for flags in [OFlag::O_RDONLY, OFlag::O_RDWR | OFlag::O_CREAT] {
                let error = store.file("a", flags).unwrap_err();
                assert!(error.message.starts_with(&place.path("own/a is not wire's own")), "{what}: {error:?}");
            }
            assert_eq!(fs::read_to_string(place.path("victim")).unwrap(), "untouched", "{what}");
            assert!(!fs::exists(place.path("nothing")).unwrap(), "{what}");
            let path = place.path("own/a");
            fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();
        }
        symlink(place.path("own"), place.path("link")).unwrap();
        fs::set_permissions(place.path("own"), PermissionsExt::from_mode(0o777)).unwrap();
        for name in ["link", "own", "victim"] {
            assert!(Store::look(&place.path(name)).is_err_and(|error| error.message.contains("not wire's own")));
        }
    }
}
