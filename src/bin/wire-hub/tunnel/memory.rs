//! Where each peer was heard last, so that a hub that is started anew can ask it for a handshake at once: by itself a device takes
//! 15 seconds to find that its session is gone (REKEY_TIMEOUT and KEEPALIVE_TIMEOUT of WireGuard's paper).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::orders::{LONGEST, SOCKET};

/// By public keys, in base64.
pub type Endpoints = BTreeMap<String, SocketAddr>;

/// The file that `wire hub` has locked for as long as this process runs. It outlives the process, and nobody else reads it.
#[derive(Clone)]
pub struct Memory(Option<Arc<File>>);

impl Memory {
    /// To call before anything else is opened. Who starts `wire-hub` in another way gets one that forgets.
    pub fn inherited() -> Memory {
        const FD: RawFd = SOCKET + 1;
        #[expect(unsafe_code, reason = "a descriptor that a parent left open has no owner until it is taken")]
        // SAFETY: where it is open, which the first call tells, nothing else in this program knows of it.
        let file = unsafe {
            let is_open = libc::fcntl(FD, libc::F_SETFD, libc::FD_CLOEXEC) == 0;
            is_open.then(|| File::from_raw_fd(FD))
        };
        Memory(file.filter(|file| file.metadata().is_ok_and(|file| file.is_file())).map(Arc::new))
    }

    pub fn read(&self) -> Endpoints {
        let text = || {
            let (mut file, mut text) = (self.0.as_deref()?, String::new());
            file.rewind().ok()?;
            file.take(LONGEST).read_to_string(&mut text).ok()?;
            Some(text)
        };
        text().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// What cannot be written is found out again by itself.
    pub fn write(&self, endpoints: &Endpoints) {
        if let (Some(file), Ok(text)) = (&self.0, serde_json::to_vec(endpoints)) {
            let _ = file.write_all_at(&text, 0).and_then(|()| file.set_len(text.len() as u64));
        }
    }
}
