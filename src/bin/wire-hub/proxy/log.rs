//! The access log: a file that a thread of its own writes, so that no request waits for a disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tokio::sync::mpsc;

use crate::orders::LOGS;
use crate::trouble::{Context, Trouble};
use crate::voice;

/// A file that is longer is put aside.
const LONGEST: u64 = 10_000_000;
/// Files put aside that are kept: `.1` is the newest.
const KEPT: u32 = 5;
/// Batches that wait for the disk.
const WAITING: usize = 64;

/// Takes batches of lines and never waits.
#[derive(Clone, Debug)]
pub struct Pen {
    batches: SyncSender<Vec<u8>>,
    lost: Arc<AtomicU64>,
}

impl Pen {
    pub fn write(&self, lines: Vec<u8>) {
        if let Err(refused) = self.batches.try_send(lines) {
            use std::sync::mpsc::TrySendError::{Disconnected, Full};
            let (Full(lines) | Disconnected(lines)) = refused;
            self.lost.fetch_add(count(&lines), Ordering::Relaxed);
        }
    }
}

/// Starts the log of a hub. It ends when every pen has; `ended` is dropped then.
pub fn start(hub: &str, ended: mpsc::Sender<()>) -> Result<Pen, Trouble> {
    let (batches, written) = sync_channel(WAITING);
    let lost = Arc::new(AtomicU64::new(0));
    let mut log = Log { path: Path::new(LOGS).join(format!("{hub}.log")), file: None, long: 0, fails: false };
    // Made now, so that whoever reads it finds it.
    log.tell(0, &Ok(()));
    let counted = lost.clone();
    let write = move || {
        log.keep(&written, &counted);
        drop(ended);
    };
    std::thread::Builder::new().name("log".into()).spawn(write).context("cannot start the log")?;
    Ok(Pen { batches, lost })
}

struct Log {
    path: PathBuf,
    file: Option<File>,
    long: u64,
    fails: bool,
}

impl Log {
    fn keep(&mut self, batches: &Receiver<Vec<u8>>, lost: &AtomicU64) {
        if let Err(error) = self.open() {
            self.tell(0, &Err(error));
        }
        while let Ok(lines) = batches.recv() {
            let written = self.write(&lines);
            if written.is_err() {
                lost.fetch_add(count(&lines), Ordering::Relaxed);
                self.file = None;
            }
            let lost = if written.is_ok() { lost.swap(0, Ordering::Relaxed) } else { 0 };
            self.tell(lost, &written);
        }
    }

    /// Says once what is wrong, and once that it is over.
    fn tell(&mut self, lost: u64, written: &io::Result<()>) {
        let path = self.path.display();
        match written {
            Err(error) if !self.fails => {
                voice::error(&format!("{path} cannot be written: {error}; requests are not logged"))
            }
            Ok(()) if lost > 0 => voice::say(&format!("{path} is written again; {lost} lines are missing")),
            _ => {}
        }
        self.fails = written.is_err();
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.long >= LONGEST {
            self.put_aside()?;
        } else if !self.is_there() {
            self.file = None;
        }
        if self.file.is_none() {
            self.open()?;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(lines)?;
        self.long += lines.len() as u64;
        Ok(())
    }

    fn open(&mut self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(&self.path)?;
        self.long = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Whether the file is still the one that has its name: others may put it aside too.
    fn is_there(&self) -> bool {
        let same = |file: &File| Ok::<_, io::Error>(file.metadata()?.ino() == fs::symlink_metadata(&self.path)?.ino());
        self.file.as_ref().is_some_and(|file| same(file).unwrap_or(false))
    }

    fn put_aside(&mut self) -> io::Result<()> {
        self.file = None;
        let numbered = |number| PathBuf::from(format!("{}.{number}", self.path.display()));
        for number in (1..KEPT).rev() {
            match fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        match fs::rename(&self.path, numbered(1)) {
            // Somebody else has put it aside this moment.
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_that_somebody_else_has_put_aside_is_begun_anew() {
        let place = std::env::temp_dir().join(format!("wire-hub-log-{}", std::process::id()));
        fs::create_dir_all(&place).unwrap();
        let mut log = Log { path: place.join("edge.log"), file: None, long: 0, fails: false };
        log.write(b"one\n").unwrap();
        log.long = LONGEST;
        fs::rename(&log.path, place.join("taken")).unwrap();
        log.write(b"two\n").unwrap();
        assert_eq!(fs::read_to_string(&log.path).unwrap(), "two\n");
        log.long = LONGEST;
        log.write(b"three\n").unwrap();
        assert_eq!(fs::read_to_string(place.join("edge.log.1")).unwrap(), "two\n");
        fs::remove_dir_all(&place).unwrap();
    }
}
