//! Asks podman itself for a user's containers: over its REST socket where it listens, else by its program. What it answers for
//! a rootless user is that user's word and no more. It neither opens namespaces nor remembers anything.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket};
use serde::{Deserialize, Deserializer};

use crate::error::{Context, Error};
use crate::kernel::program;
use crate::kernel::user::User;

/// A socket that is there and silent must not hold `wire` up for long: the program is still to come.
const SOCKET_LIMIT: Duration = Duration::from_secs(5);
const PROGRAM_LIMIT: Duration = Duration::from_secs(20);
const ANSWER_MAX: usize = 16 << 20;

/// A container as podman lists it: `podman ps --format json` and `/libpod/containers/json` agree from 4.0 to 5.x.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "PascalCase")]
pub struct Container {
    pub id: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub names: Vec<String>,
    /// 0 where nothing runs.
    #[serde(default)]
    pub pid: u32,
    /// `running`, `exited`, `created`, …
    #[serde(default)]
    pub state: String,
    /// Seconds since 1970; far below 0 for never.
    #[serde(default)]
    pub started_at: Option<i64>,
    #[serde(default)]
    pub exit_code: i32,
}

fn null_is_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// All containers of a user, running or not, or `None` where there is no podman to ask.
pub fn containers(user: &User) -> Result<Option<Vec<Container>>, Error> {
    match by_socket(user) {
        Some(containers) => Ok(Some(containers)),
        None => by_program(user),
    }
}

/// The first way; whatever goes wrong here, the program has the last word.
fn by_socket(user: &User) -> Option<Vec<Container>> {
    let session = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| user.is_me() && !user.is_root()).map(PathBuf::from);
    let usual = if user.is_root() { "/run".into() } else { format!("/run/user/{}", user.uid).into() };
    let socket = session.unwrap_or(usual).join("podman/podman.sock");
    let answer = request(&socket, user.uid, "/v4.0.0/libpod/containers/json?all=true").ok()?;
    serde_json::from_slice(body(&answer)?).ok()
}

/// What the server on a socket answers to a GET, head and body. In HTTP/1.0, where an answer ends with the connection and is
/// never chunked (RFC 9112, section 6.1), so that nothing is left to decode; podman's server keeps to that.
fn request(path: &Path, owner: u32, target: &str) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + SOCKET_LIMIT;
    let mut stream = UnixStream::from(socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?);
    // Before connecting, which waits as long as the server's queue is full.
    stream.set_write_timeout(Some(SOCKET_LIMIT))?;
    connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
    if getsockopt(&stream, PeerCredentials)?.uid() != owner {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    stream.write_all(format!("GET {target} HTTP/1.0\r\nHost: podman\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0; 64 << 10];
    while answer.len() <= ANSWER_MAX {
        // One time limit for all of it, or a byte now and then would do to keep us.
        let left = deadline.saturating_duration_since(Instant::now());
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(answer),
            Ok(count) => answer.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::FileTooLarge.into())
}

/// The body of an answer that says 200.
fn body(answer: &[u8]) -> Option<&[u8]> {
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let status = answer[..head].split(|&c| c == b' ').nth(1)?;
    (answer.starts_with(b"HTTP/1.") && status == b"200").then_some(&answer[head + 4..])
}

/// The second way. `None`: there is no such program.
fn by_program(user: &User) -> Result<Option<Vec<Container>>, Error> {
    let path = std::env::var_os("PATH").filter(|path| !path.is_empty()).unwrap_or_else(|| program::PATH.into());
    let Some(podman) = program::along(&path, "podman") else {
        return Ok(None);
    };
    let mut command = Command::new(podman);
    command.args(["ps", "--all", "--format", "json"]).env("LANG", "C").current_dir("/");
    let mut credentials = None;
    if user.is_me() {
        command.env("PATH", path);
    } else {
        // Nothing of root's own may steer what another user's podman does, nor be read by it.
        command.env_clear().env("PATH", program::PATH).env("LANG", "C");
        command.env("HOME", &user.home).env("USER", &user.name).env("LOGNAME", &user.name);
        if let Some(session) = user.session() {
            command.env("XDG_RUNTIME_DIR", session);
        }
        credentials = Some(user.credentials()?);
    }
    let tried = format!("asking podman for the containers of `{}`", user.name);
    let output = program::output(command, credentials, PROGRAM_LIMIT).context(&tried)?;
    if !output.status.success() {
        let error = Error::failed(format!("{tried}: {}", last_words(&output.stderr)));
        return Err(error.hint(format!("see what `podman ps` says when `{}` runs it", user.name)));
    }
    serde_json::from_slice(&output.stdout).map(Some).context(&tried)
}

/// The last line a program has complained with, fit for a terminal.
fn last_words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it failed and did not say why");
    line.chars().filter(|c| !c.is_control()).take(400).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// podman 4.3.1.
    const FOUR: &str = r#"[{"AutoRemove":false,"Command":["sleep","10000"],"CreatedAt":"14 seconds ago","Exited":false,
        "ExitedAt":-62135596800,"ExitCode":0,"Id":"e712","Image":"localhost/x:1","ImageID":"4660","IsInfra":false,
        "Labels":null,"Mounts":[],"Names":["a"],"Namespaces":{},"Networks":[],"Pid":7893,"Pod":"","PodName":"","Ports":null,
        "Size":null,"StartedAt":1795173259,"State":"running","Status":"Up 14 seconds ago","Created":1795173259},
        {"Exited":true,"ExitedAt":1795173273,"ExitCode":3,"Id":"cacc","Names":["d"],"Pid":0,"StartedAt":1795173273,
        "State":"exited","Status":"Exited (3) Less than a second ago"},
        {"Id":"0c56","Names":null,"Pid":0,"StartedAt":-62135596800,"State":"created"}]"#;
    /// podman 5.4.
    const FIVE: &str = r#"[{"AutoRemove":false,"CIDFile":"","Command":["sleep","10000"],"CreatedAt":"2 minutes ago",
        "Exited":false,"ExitedAt":-62135596800,"ExitCode":0,"ExposedPorts":null,"Id":"e712","Image":"localhost/x:1",
        "ImageID":"4660","IsInfra":false,"Labels":{"x":"y"},"Mounts":[],"Names":["a"],"Namespaces":{},"Networks":["podman"],
        "Pid":7893,"Pod":"","PodName":"","Ports":null,"Restarts":0,"Size":null,"StartedAt":1795173259,"State":"running",
        "Status":"Up 2 minutes","Created":1795173259}]"#;

    fn running() -> Container {
        Container {
            id: "e712".into(),
            names: vec!["a".into()],
            pid: 7893,
            state: "running".into(),
            started_at: Some(1795173259),
            exit_code: 0,
        }
    }

    #[test]
    fn podman_4_and_5_are_understood() {
        let four: Vec<Container> = serde_json::from_str(FOUR).unwrap();
        let stopped = Container {
            id: "cacc".into(),
            names: vec!["d".into()],
            pid: 0,
            state: "exited".into(),
            started_at: Some(1795173273),
            exit_code: 3,
        };
        let created = Container {
            id: "0c56".into(),
            names: vec![],
            pid: 0,
            state: "created".into(),
            started_at: Some(-62135596800),
            exit_code: 0,
        };
        assert_eq!(four, [running(), stopped, created]);
        assert_eq!(serde_json::from_str::<Vec<Container>>(FIVE).unwrap(), [running()]);
        assert_eq!(serde_json::from_str::<Vec<Container>>("[]").unwrap(), []);
    }

    #[test]
    fn only_a_200_has_a_body() {
        assert_eq!(body(b"HTTP/1.0 200 OK\r\nServer: Libpod\r\n\r\n[]"), Some(&b"[]"[..]));
        assert_eq!(body(b"HTTP/1.0 404 Not Found\r\n\r\n[]"), None);
        assert_eq!(body(b"HTTP/1.0 200 OK\r\n"), None);
        assert_eq!(body(b"SSH-2.0 200 \r\n\r\n[]"), None);
        assert_eq!(body(b""), None);
    }

    #[test]
    fn a_socket_of_somebody_elses_is_not_talked_to() {
        let path = std::env::temp_dir().join(format!("wire-ask-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = [0; 1024];
                // Nothing comes from a client that turned away.
                if stream.read(&mut asked).unwrap() > 0 {
                    stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n[]").unwrap();
                }
            }
        });
        let me = nix::unistd::Uid::effective().as_raw();
        let refused = request(&path, me ^ 1, "/").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(body(&request(&path, me, "/").unwrap()), Some(&b"[]"[..]));
        server.join().unwrap();
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn complaints_are_one_line_without_control_characters() {
        assert_eq!(last_words(b"level=warning\nError: no \x1b[31mway\n\n"), "Error: no [31mway");
        assert_eq!(last_words(b""), "it failed and did not say why");
    }
}
