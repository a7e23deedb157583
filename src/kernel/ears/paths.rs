//! Changes of files and folders, told by inotify(7): single files, and the folders in which podman and its monitor (conmon)
//! write down the process of a container that starts. What the changes mean is not known here.
//!
//! podman's own stream of events is not used: with a log in a file `podman events` looks into it four times a second (4.3.1),
//! which is late and never sleeps, and it is another process of some 40 MB for every user. The monitor's `pidfile` is there
//! whatever the runtime and the kind of log, and is written before the container's program begins.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use crate::error::{Context, Error};

/// A user's folders can be as many as he likes: what is more than this is not watched.
const MOST: usize = 65_536;

/// Something that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Changed {
    /// This file, by the path it was asked for.
    File(PathBuf),
    /// What runs of the containers below this folder, by the path it was asked for.
    Containers(PathBuf),
    /// More happened than could be told.
    Anything,
}

/// What a folder is watched for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Aim {
    /// A file of this name; the path it was asked for.
    File { name: OsString, asked: PathBuf },
    /// A folder of this name that is yet to come, on the way to what was asked for.
    Way { name: OsString, asked: PathBuf, file: bool },
    /// Folders `DRIVER-containers`, below the folder asked for.
    Drivers(PathBuf),
    /// One folder a container.
    Containers(PathBuf),
    /// In one of those, `userdata`.
    Container(PathBuf),
    /// In that one, `pidfile`.
    Monitor(PathBuf),
}

pub struct Paths {
    inotify: Inotify,
    folders: HashMap<WatchDescriptor, (PathBuf, HashSet<Aim>)>,
}

impl AsFd for Paths {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl Paths {
    pub fn new() -> Result<Paths, Error> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        Ok(Paths { inotify: inotify.context("cannot watch files")?, folders: HashMap::new() })
    }

    /// From now on tells when this file is written, replaced or removed, be it there or yet to come.
    pub fn watch_file(&mut self, path: &Path) {
        self.follow(path, true);
        // Where the path is a link, what it leads to may be written to as well.
        if let Ok(real) = path.canonicalize()
            && let (Some(folder), Some(name)) = (real.parent(), real.file_name())
        {
            self.add(folder, Aim::File { name: name.to_owned(), asked: path.to_owned() });
        }
    }

    /// From now on tells when a container starts that a monitor keeps its files for below this run root of podman's.
    pub fn watch_containers(&mut self, run_root: &Path) {
        self.follow(run_root, false);
    }

    /// What was changed since it was asked last.
    pub fn changed(&mut self) -> HashSet<Changed> {
        let mut changed = HashSet::new();
        loop {
            match self.inotify.read_events() {
                Ok(events) => events.into_iter().for_each(|event| self.take(&event, &mut changed)),
                Err(Errno::EINTR) => {}
                Err(_) => return changed,
            }
        }
    }

    fn take(&mut self, event: &InotifyEvent, changed: &mut HashSet<Changed>) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            changed.insert(Changed::Anything);
            return;
        }
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            // The folder is gone: what was asked for is looked for again from the top.
            let (_, aims) = self.folders.remove(&event.wd).unwrap_or_default();
            for aim in aims {
                match aim {
                    Aim::File { asked, .. } | Aim::Way { asked, file: true, .. } => self.follow(&asked, true),
                    Aim::Drivers(asked) | Aim::Way { asked, file: false, .. } => self.follow(&asked, false),
                    Aim::Containers(_) | Aim::Container(_) | Aim::Monitor(_) => {}
                }
            }
            return;
        }
        let Some((folder, aims)) = self.folders.get(&event.wd) else { return };
        let Some(name) = event.name.as_deref() else { return };
        let (path, aims) = (folder.join(name), aims.clone());
        for aim in aims {
            match aim {
                Aim::File { name: wanted, asked } if wanted == name => {
                    changed.insert(Changed::File(asked));
                }
                Aim::Way { name: wanted, asked, file } if wanted == name => {
                    self.follow(&asked, file);
                    if file && asked.exists() {
                        changed.insert(Changed::File(asked));
                    } else if !file {
                        changed.insert(Changed::Containers(asked));
                    }
                }
                Aim::Monitor(asked) if name == "pidfile" => {
                    changed.insert(Changed::Containers(asked));
                }
                aim => {
                    if self.below(&path, name, &aim)
                        && let Aim::Drivers(asked) | Aim::Containers(asked) | Aim::Container(asked) = aim
                    {
                        // It may have started before it was watched.
                        changed.insert(Changed::Containers(asked));
                    }
                }
            }
        }
    }

    /// Watches what is asked for, or the nearest folder above it that is there.
    fn follow(&mut self, asked: &Path, file: bool) {
        let mut path = asked;
        if !file && self.enter(asked, Aim::Drivers(asked.to_owned())) {
            return;
        }
        while let (Some(folder), Some(name)) = (path.parent(), path.file_name()) {
            let (name, asked) = (name.to_owned(), asked.to_owned());
            let is_itself = file && path == asked;
            let aim = if is_itself { Aim::File { name, asked } } else { Aim::Way { name, asked, file } };
            if self.add(folder, aim) {
                return;
            }
            path = folder;
        }
    }

    /// Watches a folder and all that it leads to.
    fn enter(&mut self, folder: &Path, aim: Aim) -> bool {
        if !self.add(folder, aim.clone()) {
            return false;
        }
        if !matches!(aim, Aim::Monitor(_)) {
            for entry in folder.read_dir().into_iter().flatten().flatten() {
                self.below(&entry.path(), &entry.file_name(), &aim);
            }
        }
        true
    }

    /// Watches a folder that came up in a watched one, if it is of the kind that is looked for there.
    fn below(&mut self, path: &Path, name: &OsStr, aim: &Aim) -> bool {
        let next = match aim {
            Aim::Drivers(asked) if name.to_string_lossy().ends_with("-containers") => Aim::Containers(asked.clone()),
            Aim::Containers(asked) => Aim::Container(asked.clone()),
            Aim::Container(asked) if name == "userdata" => Aim::Monitor(asked.clone()),
            _ => return false,
        };
        self.enter(path, next)
    }

    fn add(&mut self, folder: &Path, aim: Aim) -> bool {
        if self.folders.len() >= MOST {
            return false;
        }
        // A rootless user's folders are his to make links of: they must not lead elsewhere. Above them are root's.
        let own = matches!(aim, Aim::Containers(_) | Aim::Container(_) | Aim::Monitor(_));
        let wanted = match aim {
            Aim::File { .. } => {
                AddWatchFlags::IN_CLOSE_WRITE
                    | AddWatchFlags::IN_MOVED_TO
                    | AddWatchFlags::IN_MOVED_FROM
                    | AddWatchFlags::IN_DELETE
            }
            Aim::Monitor(_) => AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO,
            _ => AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO,
        };
        // Of one folder there is one watch, to which each aim adds its own (inotify.h; nix has no name for it).
        let how = AddWatchFlags::IN_ONLYDIR | AddWatchFlags::from_bits_retain(libc::IN_MASK_ADD);
        let follow = if own { AddWatchFlags::IN_DONT_FOLLOW } else { AddWatchFlags::empty() };
        let Ok(watch) = self.inotify.add_watch(folder, wanted | how | follow) else { return false };
        let known = self.folders.entry(watch).or_insert_with(|| (folder.to_owned(), HashSet::new()));
        known.1.insert(aim);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Place {
            let path = std::env::temp_dir().join(format!("wire-paths-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Place(path)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// However a file comes to be another one, it is told, also where its folder is made only later, or is made again.
    #[test]
    fn a_file_is_told_however_it_changes() {
        let place = Place::new("file");
        let file = place.0.join("etc/wire/topology.toml");
        let folder = file.parent().unwrap();
        let mut paths = Paths::new().unwrap();
        paths.watch_file(&file);
        let told = || HashSet::from([Changed::File(file.clone())]);
        fs::create_dir_all(folder).unwrap();
        let first = paths.changed();
        assert!(first.is_empty() || first == told(), "{first:?}");
        fs::write(&file, "one").unwrap();
        assert_eq!(paths.changed(), told(), "written");
        fs::write(folder.join("new"), "two").unwrap();
        assert_eq!(paths.changed(), HashSet::new(), "another file");
        fs::rename(folder.join("new"), &file).unwrap();
        assert_eq!(paths.changed(), told(), "replaced");
        fs::remove_file(&file).unwrap();
        assert_eq!(paths.changed(), told(), "removed");
        fs::remove_dir_all(place.0.join("etc")).unwrap();
        paths.changed();
        fs::create_dir_all(folder).unwrap();
        paths.changed();
        fs::write(&file, "three").unwrap();
        assert_eq!(paths.changed(), told(), "written anew");
    }

    /// A link is followed: what it leads to counts, and so does the link itself.
    #[test]
    fn a_link_and_what_it_leads_to_are_told() {
        let place = Place::new("link");
        let (link, real, other) = (place.0.join("link"), place.0.join("a/real"), place.0.join("b"));
        fs::create_dir(place.0.join("a")).unwrap();
        fs::write(&real, "").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let mut paths = Paths::new().unwrap();
        paths.watch_file(&link);
        let told = HashSet::from([Changed::File(link.clone())]);
        fs::write(&real, "new").unwrap();
        assert_eq!(paths.changed(), told, "what it leads to");
        std::os::unix::fs::symlink(&other, place.0.join("new")).unwrap();
        fs::rename(place.0.join("new"), &link).unwrap();
        assert_eq!(paths.changed(), told, "the link");
    }

    /// A container that starts is told, whatever of the folders was there before, and also when it was started again.
    #[test]
    fn a_container_that_starts_is_told() {
        let place = Place::new("run");
        let root = place.0.join("run/user/1000/containers");
        let told = HashSet::from([Changed::Containers(root.clone())]);
        for existing in ["", "run/user", "run/user/1000/containers", "run/user/1000/containers/overlay-containers/ab"] {
            let place = &place.0;
            let _ = fs::remove_dir_all(place.join("run"));
            fs::create_dir_all(place.join(existing)).unwrap();
            let mut paths = Paths::new().unwrap();
            paths.watch_containers(&root);
            assert_eq!(paths.changed(), HashSet::new(), "{existing}: nothing has started");
            let monitor = root.join("overlay-containers/ab/userdata");
            fs::create_dir_all(&monitor).unwrap();
            // Folders that come one after the other are entered one after the other.
            let mut seen = paths.changed();
            fs::write(monitor.join("pidfile"), "7").unwrap();
            seen.extend(paths.changed());
            assert_eq!(seen, told, "{existing}: it starts");
            fs::write(monitor.join("conmon.pid"), "6").unwrap();
            assert_eq!(paths.changed(), HashSet::new(), "{existing}: another file");
            fs::write(monitor.join("pidfile"), "8").unwrap();
            assert_eq!(paths.changed(), told, "{existing}: it starts again");
        }
    }

    /// A user's folder that is a link elsewhere is not entered.
    #[test]
    fn links_in_a_users_folders_are_not_followed() {
        let place = Place::new("trap");
        let (root, elsewhere) = (place.0.join("containers"), place.0.join("elsewhere"));
        fs::create_dir_all(elsewhere.join("userdata")).unwrap();
        fs::create_dir_all(root.join("vfs-containers")).unwrap();
        let mut paths = Paths::new().unwrap();
        paths.watch_containers(&root);
        std::os::unix::fs::symlink(&elsewhere, root.join("vfs-containers/ab")).unwrap();
        paths.changed();
        fs::write(elsewhere.join("userdata/pidfile"), "7").unwrap();
        assert_eq!(paths.changed(), HashSet::new());
    }
}
