//! Runs another program to its end without trusting it: a limit in time, a limit in size, no terminal, no orphans. It knows
//! neither what is run nor what the output means.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::sys::{self, Credentials};

/// Where programs are found when nothing says so, as in an init script.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// More than this is not an answer.
const OUTPUT_MAX: usize = 16 << 20;

/// The first file of a name along a path like `$PATH`; only absolute directories count.
pub fn along(path: &OsStr, name: &str) -> Option<PathBuf> {
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|p| p.is_file())
}

/// How a program ended and what it wrote.
#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// Runs a program, as somebody else where told, and ends it with its children when it takes longer than `limit` or writes
/// more than 16 MiB.
pub fn output(mut command: Command, credentials: Option<Credentials>, limit: Duration) -> io::Result<Output> {
    let deadline = Instant::now() + limit;
    sys::detach(&mut command, credentials);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut running = Running(child);
    let mut stdout = Stream::new(running.0.stdout.take().map(OwnedFd::from))?;
    let mut stderr = Stream::new(running.0.stderr.take().map(OwnedFd::from))?;
    let ended = sys::pidfd_open(running.0.id())?;
    loop {
        // The end of the program counts, not of its pipes: a child left behind (podman's pause process) may hold those.
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut watched = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        watched.extend(stdout.open().into_iter().chain(stderr.open()));
        match poll(&mut watched, wait) {
            Err(nix::errno::Errno::EINTR) => continue,
            answer => answer?,
        };
        let is_over = watched[0].any().unwrap_or(true);
        stdout.drain()?;
        stderr.drain()?;
        if is_over {
            return Ok(Output { status: running.0.wait()?, stdout: stdout.text, stderr: stderr.text });
        }
        if stdout.text.len() + stderr.text.len() > OUTPUT_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it writes without end"));
        }
        if left.is_zero() {
            let message = format!("it gave no answer within {} s", limit.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
    }
}

/// A program in a session of its own, which is ended with all of its children if it has not been waited for.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _ = killpg(Pid::from_raw(self.0.id() as i32), Signal::SIGKILL);
            let _ = self.0.wait();
        }
    }
}

/// One end of a pipe that is read as far as there is something.
struct Stream {
    pipe: Option<File>,
    text: Vec<u8>,
}

impl Stream {
    fn new(pipe: Option<OwnedFd>) -> io::Result<Stream> {
        let pipe = pipe.map(File::from);
        if let Some(pipe) = &pipe {
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Stream { pipe, text: Vec::new() })
    }

    fn open(&self) -> Option<PollFd<'_>> {
        self.pipe.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN))
    }

    fn drain(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        let mut chunk = [0; 16 << 10];
        while self.text.len() <= OUTPUT_MAX {
            match pipe.read(&mut chunk) {
                Ok(0) => {
                    self.pipe = None;
                    break;
                }
                Ok(count) => self.text.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration) -> io::Result<Output> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        output(command, None, limit)
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn both_streams_come_whole() {
        let seen = sh("head -c 300000 /dev/zero; echo why >&2; exit 3", LONG).unwrap();
        assert_eq!((seen.status.code(), seen.stdout.len(), &seen.stderr[..]), (Some(3), 300_000, &b"why\n"[..]));
    }

    #[test]
    fn a_child_left_behind_with_the_pipes_holds_nobody_up() {
        let begun = Instant::now();
        let seen = sh("sleep 15 & echo $!", LONG).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(10));
        let left = String::from_utf8(seen.stdout).unwrap().trim().parse().unwrap();
        nix::sys::signal::kill(Pid::from_raw(left), Signal::SIGKILL).unwrap();
    }

    #[test]
    fn what_hangs_is_ended() {
        let seen = sh("trap '' TERM; sleep 1000", Duration::from_millis(200)).unwrap_err();
        assert_eq!(seen.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn what_never_stops_writing_is_ended() {
        let seen = sh("cat /dev/zero", LONG).unwrap_err();
        assert_eq!(seen.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn programs_are_found_along_absolute_folders_only() {
        assert_eq!(along(OsStr::new("/nowhere:/bin"), "sh"), Some("/bin/sh".into()));
        assert_eq!(along(OsStr::new(".:bin:"), "sh"), None);
    }
}
