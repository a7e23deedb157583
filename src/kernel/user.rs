//! The users of this machine, as far as podman keeps files for them. It knows nothing of containers.

use std::ffi::CString;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::unistd::{Gid, Uid};

use crate::error::{Context, Error};

use super::sys::Credentials;

/// Somebody who has containers.
#[derive(Clone, Debug)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: PathBuf,
}

impl User {
    /// Whose containers are asked for: root's where nobody is named. Only root may ask for somebody else's.
    pub fn whose(name: Option<&str>) -> Result<User, Error> {
        let user = match name {
            Some(name) => User::named(name)?,
            None => User { name: "root".into(), uid: 0, gid: 0, home: "/root".into() },
        };
        if user.is_me() || Uid::effective().is_root() {
            return Ok(user);
        }
        let error =
            Error::failed(format!("the containers of `{}` can only be looked up by root or by that user", user.name));
        Err(match nix::unistd::User::from_uid(Uid::effective()) {
            Ok(Some(me)) if name.is_none() => error.hint(format!(
                "run this as root, or put `user = \"{}\"` below [podman] if the containers are yours",
                me.name
            )),
            _ => error.hint("run this as root"),
        })
    }

    fn named(name: &str) -> Result<User, Error> {
        let found = nix::unistd::User::from_name(name).context(format_args!("looking for user `{name}`"))?;
        let user = found.ok_or_else(|| {
            Error::failed(format!("there is no user `{name}` on this machine"))
                .hint("correct `user` below [podman] or in the node's own table")
        })?;
        Ok(User { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw(), home: user.dir })
    }

    /// Whoever has this user id.
    pub fn with_id(uid: u32) -> Result<User, Error> {
        let found = nix::unistd::User::from_uid(Uid::from_raw(uid)).context(format_args!("looking for user {uid}"))?;
        let user = found.ok_or_else(|| Error::failed(format!("there is no user {uid} on this machine")))?;
        Ok(User { name: user.name, uid, gid: user.gid.as_raw(), home: user.dir })
    }

    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Whether `wire` runs as this user.
    pub fn is_me(&self) -> bool {
        Uid::effective().as_raw() == self.uid
    }

    /// The directory that a login makes for this user and the end of the last one takes away, if it is there and the user's own.
    pub fn session(&self) -> Option<PathBuf> {
        let path = PathBuf::from(format!("/run/user/{}", self.uid));
        let own = std::fs::symlink_metadata(&path).is_ok_and(|about| about.is_dir() && about.uid() == self.uid);
        own.then_some(path)
    }

    /// What a program needs to run as this user, with all groups of theirs.
    pub fn credentials(&self) -> Result<Credentials, Error> {
        let tried = format_args!("listing the groups of user `{}`", self.name).to_string();
        let name = CString::new(self.name.as_str()).context(&tried)?;
        let groups = nix::unistd::getgrouplist(&name, Gid::from_raw(self.gid)).context(&tried)?;
        Ok(Credentials { uid: self.uid, gid: self.gid, groups: groups.into_iter().map(Gid::as_raw).collect() })
    }

    /// The name of a user id, for a message; the bare number where nobody has it.
    pub fn name_of(uid: u32) -> String {
        match nix::unistd::User::from_uid(Uid::from_raw(uid)) {
            Ok(Some(user)) => format!("`{}`", user.name),
            _ => uid.to_string(),
        }
    }
}
