//! Settings below `/proc/sys/net`, of whatever namespace the calling thread is in.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;

use super::sys;
use crate::state::Setting;

/// How many namespaces one procfs is asked about. The kernel keeps an entry `ipv4` for each of them below one `net` and searches
/// them one by one: after a thousand a look-up takes longer than making the wire.
const NAMESPACES: usize = 64;

/// Where settings are read and written: a procfs of our own, a fresh one now and then, or `/proc` where we may not have one.
#[derive(Default)]
pub struct Sysctls {
    own: Option<OwnedFd>,
    asked: usize,
    refused: bool,
}

/// The settings of one family in one namespace.
pub struct Conf(OwnedFd);

impl Sysctls {
    /// Those of the namespace that the calling thread is in. ENOENT: the kernel does not have the family.
    pub fn conf(&mut self, ipv6: bool) -> Result<Conf, Errno> {
        // The first few are cheaper to find in `/proc` than a procfs is to make and to take down.
        if !self.refused && self.asked >= NAMESPACES && self.asked.is_multiple_of(NAMESPACES) {
            self.own = sys::procfs().ok();
            self.refused = self.own.is_none();
        }
        self.asked += 1;
        let family = if ipv6 { "ipv6" } else { "ipv4" };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let conf = match &self.own {
            Some(own) => openat(own, format!("sys/net/{family}/conf").as_str(), flags, Mode::empty()),
            None => openat(AT_FDCWD, format!("/proc/sys/net/{family}/conf").as_str(), flags, Mode::empty()),
        };
        conf.map(Conf)
    }
}

impl Conf {
    /// `None` where there is no such setting, or no number in it.
    pub fn read(&self, device: &str, setting: Setting) -> Option<i32> {
        let mut text = [0; 32];
        let length = self.open(device, setting, OFlag::O_RDONLY).ok()?.read(&mut text).ok()?;
        std::str::from_utf8(&text[..length]).ok()?.trim().parse().ok()
    }

    pub fn write(&self, device: &str, setting: Setting, value: i32) -> std::io::Result<()> {
        self.open(device, setting, OFlag::O_WRONLY)?.write_all(value.to_string().as_bytes())
    }

    /// The devices, and `all` and `default`, whose setting is `value`.
    pub fn with(&self, setting: Setting, value: i32) -> Vec<String> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let entries = nix::dir::Dir::openat(&self.0, ".", flags, Mode::empty());
        let names = entries.into_iter().flat_map(|directory| directory.into_iter().flatten());
        let names = names.filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
        names.filter(|name| !name.starts_with('.') && self.read(name, setting) == Some(value)).collect()
    }

    fn open(&self, device: &str, setting: Setting, flags: OFlag) -> std::io::Result<File> {
        let path = format!("{device}/{}", setting.key());
        Ok(openat(self.0.as_fd(), path.as_str(), flags | OFlag::O_CLOEXEC, Mode::empty())?.into())
    }
}
