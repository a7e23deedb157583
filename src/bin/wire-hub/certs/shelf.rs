//! A directory in which a hub keeps what it has made or been given: for its owner alone, each file written whole and put in place
//! at once, so that a kill leaves the old or the new. It knows nothing of what is kept.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::trouble::{Context, Trouble};

/// No file of a certificate, a key or an account is larger, in bytes.
const LARGEST: u64 = 1 << 20;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    Owner = 0o600,
    Everybody = 0o644,
}

pub struct Shelf {
    path: PathBuf,
}

impl Shelf {
    /// Opens the directory, made where it is missing.
    pub fn open(path: PathBuf) -> Result<Shelf, Trouble> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.context(format!("cannot make {}", path.display()))?;
        Ok(Shelf { path })
    }

    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What a file holds, if it is there.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Trouble> {
        let path = self.path_of(name);
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Ok(about) if !about.is_file() => {
                Err(Trouble(format!("{} is not what wire-hub wrote there", path.display())))
            }
            _ => read(&path).map(Some),
        }
    }

    /// Puts a file in the place of what has its name.
    pub fn put(&self, name: &str, bytes: &[u8], whose: For) -> Result<(), Trouble> {
        self.place(name, bytes, whose, |new, path| fs::rename(new, path))
    }

    /// Puts a file where there is none, and tells what is there from then on: another hub may have been faster.
    pub fn add(&self, name: &str, bytes: &[u8], whose: For) -> Result<Vec<u8>, Trouble> {
        self.place(name, bytes, whose, |new, path| match fs::hard_link(new, path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => fs::remove_file(new),
        })?;
        self.read(name)?.ok_or_else(|| Trouble(format!("{} went away", self.path_of(name).display())))
    }

    /// Removes a file, if it is there.
    pub fn remove(&self, name: &str) {
        let _ = fs::remove_file(self.path_of(name));
    }

    fn place(
        &self,
        name: &str,
        bytes: &[u8],
        whose: For,
        done: impl FnOnce(&Path, &Path) -> std::io::Result<()>,
    ) -> Result<(), Trouble> {
        let path = self.path_of(name);
        let new = self.path_of(&format!("{name}.{:016x}.new", random()));
        let placed = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(whose as u32).open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            done(&new, &path)?;
            File::open(&self.path)?.sync_all()
        };
        let placed = placed();
        if placed.is_err() {
            let _ = fs::remove_file(&new);
        }
        placed.context(format!("cannot write {}", path.display()))
    }
}

/// A number that nobody else has, as the seeds of the standard library's maps are.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// The bytes of a file.
pub fn read(path: &Path) -> Result<Vec<u8>, Trouble> {
    let tried = || format!("cannot read {}", path.display());
    // Whoever puts a pipe there shall not keep anybody waiting.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).context(tried())?;
    if !file.metadata().context(tried())?.is_file() {
        return Err(Trouble(format!("{}: it is no file", tried())));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).context(tried())?;
    if bytes.len() as u64 > LARGEST {
        return Err(Trouble(format!("{}: it is larger than any certificate or key", tried())));
    }
    Ok(bytes)
}

/// Whether others than the owner and his group may read a file.
pub fn is_everybodys(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|about| about.mode() & 0o004 != 0)
}
