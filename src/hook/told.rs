//! What the OCI runtime tells a hook on its standard input: the state of a container (runtime-spec, "State"). Nobody is
//! waited for without end, and nothing is read without end.

use std::fmt;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Deserialize;

use crate::error::{Context, Error};
use crate::near::shown;

/// All annotations of a container are part of it; more than this is something else.
const LARGEST: usize = 1 << 20;

/// Which container it is about.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Told {
    pub id: String,
    /// 0 where it has ended.
    #[serde(default)]
    pub pid: u32,
    pub bundle: Option<PathBuf>,
}

impl Told {
    /// Reads it to its end, until then.
    pub fn read(until: Instant) -> Result<Told, Error> {
        let stdin = io::stdin();
        Told::of(&all(stdin.as_fd(), stdin.lock(), until)?)
    }

    fn of(text: &[u8]) -> Result<Told, Error> {
        serde_json::from_slice(text).map_err(|error| {
            Error::failed(format!("what came in is not the state of a container: {error}"))
                .hint("this is for the OCI runtime to call; `wire hook install` sees to it")
        })
    }

    /// The id as podman prints it.
    pub fn short(&self) -> impl fmt::Display {
        shown(&self.id.chars().take(12).collect::<String>())
    }
}

fn all(source: impl AsFd, mut reader: impl Read, until: Instant) -> Result<Vec<u8>, Error> {
    let tried = "cannot read the state of the container";
    let mut text = Vec::new();
    let mut chunk = [0; 16 << 10];
    while text.len() <= LARGEST {
        let left = PollTimeout::try_from(until.saturating_duration_since(Instant::now())).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(source.as_fd(), PollFlags::POLLIN)], left) {
            Ok(0) => return Err(Error::failed(format!("{tried}: nobody tells it")).hint("it comes in on stdin")),
            Err(nix::errno::Errno::EINTR) => continue,
            polled => polled.context(tried)?,
        };
        match reader.read(&mut chunk) {
            Ok(0) => return Ok(text),
            Ok(length) => text.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context(tried),
        }
    }
    Err(Error::failed(format!("{tried}: it is larger than any")))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    #[test]
    fn states_of_runtimes_are_understood() {
        let crun = r#"{"ociVersion":"1.0","id":"900eae","pid":68,"root":"/x/merged","bundle":"/x/900eae/userdata",
            "status":"created","annotations":{"io.container.manager":"libpod"}}"#;
        let told = Told::of(crun.as_bytes()).unwrap();
        assert_eq!(told, Told { id: "900eae".into(), pid: 68, bundle: Some("/x/900eae/userdata".into()) });
        let podman = r#"{"ociVersion":"1.0.2-dev","id":"900eae","status":"stopped","bundle":"/x","annotations":null}"#;
        assert_eq!(Told::of(podman.as_bytes()).unwrap().pid, 0);
    }

    #[test]
    fn nonsense_is_no_state() {
        for text in
            ["", "{", "[]", "null", "{}", r#"{"id":7}"#, r#"{"id":"a","pid":-1}"#, r#"{"id":"a","pid":4294967296}"#]
        {
            let error = Told::of(text.as_bytes()).unwrap_err();
            assert!(error.message.starts_with("what came in is not the state of a container"), "{text}: {error}");
            assert!(error.hint.is_some());
        }
        let deep = format!("{{\"id\":\"a\",\"x\":{}", "[".repeat(100_000));
        assert!(Told::of(deep.as_bytes()).is_err(), "nested without end");
        let told = Told::of(br#"{"id":"\u001b[31m\n"}"#).unwrap();
        assert_eq!(told.short().to_string(), "\\u{1b}[31m\\n");
    }

    #[test]
    fn neither_silence_nor_a_flood_holds_it_up() {
        let read = |write: fn(File)| {
            let (out, into) = nix::unistd::pipe().unwrap();
            let (out, into) = (File::from(out), File::from(into));
            let writer = std::thread::spawn(move || write(into));
            let until = Instant::now() + Duration::from_secs(1);
            let read = all(&out, &out, until);
            drop(out);
            writer.join().unwrap();
            read
        };
        assert_eq!(read(|mut pipe| pipe.write_all(b"all of it").unwrap()).unwrap(), b"all of it");
        let flood = read(|mut pipe| while pipe.write_all(&[b' '; 4096]).is_ok() {});
        assert!(flood.unwrap_err().message.ends_with("it is larger than any"));
        let (out, _silent) = nix::unistd::pipe().unwrap();
        let out = File::from(out);
        let error = all(&out, &out, Instant::now() + Duration::from_millis(20)).unwrap_err();
        assert!(error.message.ends_with("nobody tells it"));
    }
}
