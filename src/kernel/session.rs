//! The SSH session that this process was started from: what its environment tells, or that of whoever started it, for what gives
//! root's rights to a command mostly takes the environment away.

use std::fs;
use std::os::unix::ffi::OsStrExt;

use super::process;
use crate::session::Session;

const VARIABLE: &str = "SSH_CONNECTION";
/// Nobody is started by so many in a row.
const ANCESTORS: usize = 64;

/// The session, if there is one and it can be told.
pub fn ssh() -> Option<Session> {
    let own = std::env::var_os(VARIABLE).filter(|value| !value.is_empty());
    match own {
        Some(value) => session(value.as_bytes()),
        None => session(&ancestors()?),
    }
}

fn session(value: &[u8]) -> Option<Session> {
    Session::of(std::str::from_utf8(value).ok()?)
}

/// What the variable is for the nearest ancestor that has it and lets it be read.
fn ancestors() -> Option<Vec<u8>> {
    let mut pid = std::process::id();
    for _ in 0..ANCESTORS {
        pid = process::parent(pid)?;
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let value = |one: &[u8]| Some(one.strip_prefix(VARIABLE.as_bytes())?.strip_prefix(b"=")?.to_vec());
        let found = environment.split(|byte| *byte == 0).find_map(value).filter(|value| !value.is_empty());
        if found.is_some() {
            return found;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// As under doas: the one who is asked for has the variable, the one who asks does not.
    #[test]
    fn an_ancestor_tells() {
        let path = std::env::current_exe().unwrap();
        if std::env::var_os("WIRE_TEST_CHILD").is_some() {
            let session = ssh().expect("the shell has it");
            assert_eq!((session.to.to_string(), session.port), ("192.0.2.2".to_owned(), 22));
            return;
        }
        let script =
            "env -u SSH_CONNECTION WIRE_TEST_CHILD=1 \"$0\" --exact kernel::session::tests::an_ancestor_tells; exit $?";
        let status = Command::new("sh")
            .args(["-c", script])
            .arg(path)
            .env(VARIABLE, "192.0.2.1 50000 192.0.2.2 22")
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
    }
}
