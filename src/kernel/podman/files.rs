//! What podman's storage and the OCI runtime have written down of one user's containers: names, ids, pids. Much faster than
//! asking podman, and only that: everything found here still has to be proven, and what is not found is asked for. It writes
//! nothing, and takes a rootless user's files for what they are, somebody else's claims.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::de::DeTable;

use crate::kernel::process::Identity;
use crate::kernel::starting::Notes;
use crate::kernel::user::User;
use crate::topology::Name;

/// A few hundred containers take some hundred kilobytes.
const FILE_MAX: u64 = 8 << 20;

/// There are not even so many storage drivers.
const DRIVERS: usize = 16;

/// One user's files, their names read at once, their processes when asked for.
pub struct Files {
    uid: u32,
    places: Places,
    /// Whether there was a list of containers at all.
    pub exist: bool,
    /// Several ids of one name where a storage of another driver was left behind.
    containers: Vec<Container>,
    /// Those that are being started, of which nobody else has written anything down yet.
    starting: Notes,
}

struct Container {
    name: String,
    id: String,
    /// `DRIVER-containers`, the same below the storage and below the run root.
    folder: PathBuf,
}

/// Below which folders the monitors of a user's containers write down what runs.
pub fn run_roots(user: &User) -> Vec<PathBuf> {
    Places::of(user).run_roots
}

impl Files {
    pub fn of(user: &User) -> Files {
        let places = Places::of(user);
        // They are root's alone to read. Where they cannot be, whoever starts a container has not come this far.
        let starting = Notes::look().unwrap_or_default();
        let mut files = Files { uid: user.uid, places, exist: false, containers: Vec::new(), starting };
        let stores = files.places.graph_roots.iter().map(|root| (root, "containers.json"));
        // Containers run with `--rm` may be listed where a reboot forgets them.
        let volatile = files.places.run_roots.iter().map(|root| (root, "volatile-containers.json"));
        // However many a user makes, reading them takes no longer.
        let mut left = FILE_MAX;
        for (root, list) in stores.chain(volatile) {
            for folder in container_folders(root) {
                let Ok(text) = read_most(&root.join(&folder).join(list), user.uid, left) else { continue };
                left -= text.len() as u64;
                let Ok(records) = serde_json::from_slice::<Vec<Record>>(&text) else { continue };
                files.exist = true;
                files.containers.extend(records.into_iter().flat_map(|record| record.containers(&folder)));
            }
        }
        files
    }

    /// The names of all containers, running or not.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let mut names: Vec<_> = self.containers.iter().map(|container| &*container.name).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter()
    }

    /// The names that the container of an id has.
    pub fn names_of(&self, id: &str) -> Vec<String> {
        self.containers.iter().filter(|known| known.id == id).map(|known| known.name.clone()).collect()
    }

    /// Whether the container of an id is to have a network namespace of its own, made for it, as far as its configuration tells.
    pub fn is_apart(&self, id: &str) -> bool {
        let folders = self.containers.iter().filter(|known| known.id == id).map(|known| &known.folder);
        let mut paths = folders.flat_map(|folder| {
            let of = |root: &PathBuf| root.join(folder).join(id).join("userdata/config.json");
            self.places.graph_roots.iter().map(of).collect::<Vec<PathBuf>>()
        });
        let config: Option<Config> = paths.find_map(|path| read_json(&path, self.uid));
        config
            .is_some_and(|config| config.linux.namespaces.iter().any(|one| one.kind == "network" && one.path.is_none()))
    }

    /// The pids that are said to be a container's, with what would prove it.
    pub fn processes(&self, container: &str) -> impl Iterator<Item = (u32, Identity)> {
        let meant = self.containers.iter().filter(move |known| known.name == container).take(DRIVERS);
        meant.flat_map(|container| {
            let starting = self.starting.process(self.uid, &container.id);
            self.of_runtimes(&container.id).chain(self.of_monitor(container)).chain(starting)
        })
    }

    fn of_runtimes(&self, id: &str) -> impl Iterator<Item = (u32, Identity)> {
        self.places.runtimes.iter().filter_map(move |root| {
            let crun = || Some(read_json::<Crun>(&root.join("crun").join(id).join("status"), self.uid)?.process());
            let runc = || Some(read_json::<Runc>(&root.join("runc").join(id).join("state.json"), self.uid)?.process());
            crun().or_else(runc)
        })
    }

    /// Whatever the runtime, podman has the monitor (conmon) write the pid down.
    fn of_monitor(&self, container: &Container) -> impl Iterator<Item = (u32, Identity)> {
        self.places.run_roots.iter().filter_map(|root| {
            let path = root.join(&container.folder).join(&container.id).join("userdata/pidfile");
            let pid = str::from_utf8(&read(&path, self.uid).ok()?).ok()?.trim().parse().ok()?;
            Some((pid, Identity::Container { id: container.id.clone(), started: None }))
        })
    }
}

/// Where a user's podman keeps things: by default, by configuration, and by what it falls back to without a login session.
struct Places {
    graph_roots: Vec<PathBuf>,
    run_roots: Vec<PathBuf>,
    /// The OCI runtimes' state is in a folder of the runtime's name below these.
    runtimes: Vec<PathBuf>,
}

impl Places {
    fn of(user: &User) -> Places {
        let mut graph_roots = Vec::new();
        let mut run_roots = Vec::new();
        let system = ["/etc/containers/storage.conf", "/usr/share/containers/storage.conf"];
        let system = system.iter().find_map(|path| Storage::read(Path::new(path), 0)).unwrap_or_default();
        if user.is_root() {
            graph_roots.extend(system.graphroot.map(PathBuf::from));
            graph_roots.push("/var/lib/containers/storage".into());
            run_roots.extend(system.runroot.map(PathBuf::from));
            run_roots.push("/run/containers/storage".into());
            return Places { graph_roots, run_roots, runtimes: vec!["/run".into()] };
        }
        let uid = user.uid;
        let own = Storage::read(&user.home.join(".config/containers/storage.conf"), uid).unwrap_or_default();
        graph_roots.extend(own.graphroot.map(|path| expand(&path, user)));
        graph_roots.extend(system.rootless_storage_path.map(|path| expand(&path, user)));
        graph_roots.push(user.home.join(".local/share/containers/storage"));
        let session = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| user.is_me()).map(PathBuf::from);
        let mut runtimes: Vec<PathBuf> = session.into_iter().collect();
        runtimes.push(format!("/run/user/{uid}").into());
        runtimes.push(format!("/tmp/podman-run-{uid}").into());
        runtimes.dedup();
        run_roots.extend(own.runroot.map(|path| expand(&path, user)));
        run_roots.extend(runtimes.iter().map(|runtime| runtime.join("containers")));
        run_roots.push(format!("/tmp/containers-user-{uid}/containers").into());
        Places { graph_roots, run_roots, runtimes }
    }
}

/// containers-storage.conf(5) lets one path of the system's file stand for all users.
fn expand(path: &str, user: &User) -> PathBuf {
    let home = user.home.to_string_lossy();
    path.replace("$HOME", &home).replace("$UID", &user.uid.to_string()).replace("$USER", &user.name).into()
}

/// What a containers-storage.conf(5) says of places.
#[derive(Default)]
struct Storage {
    graphroot: Option<String>,
    runroot: Option<String>,
    rootless_storage_path: Option<String>,
}

impl Storage {
    fn read(path: &Path, owner: u32) -> Option<Storage> {
        let text = String::from_utf8(read(path, owner).ok()?).ok()?;
        let file = DeTable::parse(&text).ok()?;
        let storage = file.get_ref().get("storage")?.get_ref();
        let path = |key: &str| Some(storage.get(key)?.get_ref().as_str()?.to_owned());
        Some(Storage {
            graphroot: path("graphroot"),
            runroot: path("runroot"),
            rootless_storage_path: path("rootless_storage_path"),
        })
    }
}

/// One storage driver's folder each: `overlay-containers`, `vfs-containers`.
fn container_folders(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = root.read_dir() else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    let folders = names.filter(|name| name.to_string_lossy().ends_with("-containers")).map(PathBuf::from);
    folders.take(DRIVERS).collect()
}

/// A container in `containers.json`.
#[derive(Deserialize)]
struct Record {
    id: String,
    names: Option<Vec<String>>,
}

impl Record {
    fn containers(self, folder: &Path) -> impl Iterator<Item = Container> {
        // The id becomes part of a path, the name of a message.
        let is_id = !self.id.is_empty() && self.id.bytes().all(|c| c.is_ascii_hexdigit());
        let names = self.names.unwrap_or_default().into_iter().filter(move |name| is_id && Name::new(name).is_some());
        names.map(move |name| Container { name, id: self.id.clone(), folder: folder.into() })
    }
}

/// `config.json` of a container (runtime-spec, config-linux).
#[derive(Deserialize)]
struct Config {
    linux: Linux,
}

#[derive(Deserialize)]
struct Linux {
    namespaces: Vec<ConfiguredNamespace>,
}

#[derive(Deserialize)]
struct ConfiguredNamespace {
    #[serde(rename = "type")]
    kind: String,
    path: Option<String>,
}

/// The names that the list of containers next to a container's own folder has for its id: for somebody who is told of the folder
/// and is to know nothing else.
pub fn names_beside(bundle: &Path, id: &str) -> Vec<String> {
    let own = nix::unistd::Uid::effective().as_raw();
    // The folder is DRIVER-containers/ID/userdata.
    let list = bundle.parent().and_then(Path::parent).map(|folder| folder.join("containers.json"));
    let records: Vec<Record> = list.and_then(|list| read_json(&list, own)).unwrap_or_default();
    let meant = records.into_iter().filter(|record| record.id == id);
    meant.flat_map(|record| record.containers(Path::new(""))).map(|container| container.name).collect()
}

/// `status` of crun.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Crun {
    pid: u32,
    process_start_time: u64,
}

impl Crun {
    fn process(self) -> (u32, Identity) {
        (self.pid, Identity::Born(self.process_start_time))
    }
}

/// `state.json` of runc.
#[derive(Deserialize)]
struct Runc {
    init_process_pid: u32,
    init_process_start: u64,
}

impl Runc {
    fn process(self) -> (u32, Identity) {
        (self.init_process_pid, Identity::Born(self.init_process_start))
    }
}

fn read_json<T: DeserializeOwned>(path: &Path, owner: u32) -> Option<T> {
    serde_json::from_slice(&read(path, owner).ok()?).ok()
}

/// The content of a regular file of that owner. Root reads users' files here, so none of their links, devices and pipes may
/// lead elsewhere or keep it waiting; what a linked folder leads to still has to be theirs.
fn read(path: &Path, owner: u32) -> io::Result<Vec<u8>> {
    read_most(path, owner, FILE_MAX)
}

fn read_most(path: &Path, owner: u32, most: u64) -> io::Result<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let about = file.metadata()?;
    if !about.is_file() || about.uid() != owner || about.len() > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut content = Vec::with_capacity(about.len() as usize);
    file.take(most).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const ID: &str = "e712d298a691d74020babfb89096cd4b0a828296ebc12bc621d9b5bed0b944ed";

    /// A folder of its own for one test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("wire-files-{test}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn write(&self, path: &str, content: &str) -> PathBuf {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn me() -> u32 {
        nix::unistd::Uid::effective().as_raw()
    }

    /// A user whose session and storage are both below the folder.
    fn files(folder: &Folder, list: &str) -> Files {
        folder.write("graph/overlay-containers/containers.json", list);
        let user = User { name: "anna".into(), uid: me(), gid: 0, home: folder.0.clone() };
        let mut files = Files::of(&User { uid: me() ^ 1, ..user });
        assert!(!files.exist, "nothing of anybody else's is read");
        files.uid = me();
        files.places = Places {
            graph_roots: vec![folder.0.join("graph")],
            run_roots: vec![folder.0.join("run")],
            runtimes: vec![folder.0.join("runtime")],
        };
        let records: Vec<Record> = serde_json::from_str(list).unwrap();
        let overlay = Path::new("overlay-containers");
        files.containers = records.into_iter().flat_map(|record| record.containers(overlay)).collect();
        files
    }

    #[test]
    fn crun_runc_and_the_monitor_know_the_process() {
        let folder = Folder::new("status");
        let files = files(&folder, &format!(r#"[{{"id":"{ID}","names":["git-ssh"],"image":"x","flags":{{}}}}]"#));
        assert_eq!(files.names().collect::<Vec<_>>(), ["git-ssh"]);
        assert_eq!(files.processes("git-ssh").next(), None);

        folder.write(&format!("run/overlay-containers/{ID}/userdata/pidfile"), "7893");
        let by_monitor = (7893, Identity::Container { id: ID.into(), started: None });
        assert_eq!(files.processes("git-ssh").collect::<Vec<_>>(), vec![by_monitor.clone()]);

        let runc = r#"{"id":"x","init_process_pid":7893,"init_process_start":103282,"created":"2026-11-20T11:14:19Z"}"#;
        let path = folder.write(&format!("runtime/runc/{ID}/state.json"), runc);
        let by_runtime = (7893, Identity::Born(103282));
        assert_eq!(files.processes("git-ssh").collect::<Vec<_>>(), [by_runtime.clone(), by_monitor.clone()]);
        fs::remove_file(path).unwrap();

        let crun =
            r#"{"pid": 7893, "process-start-time": 103282, "cgroup-path": "", "owner": "root", "detached": true}"#;
        folder.write(&format!("runtime/crun/{ID}/status"), crun);
        assert_eq!(files.processes("git-ssh").collect::<Vec<_>>(), [by_runtime, by_monitor]);
        assert_eq!(files.processes("git").next(), None);
    }

    /// What a hook has noted is told last, and of that user's container alone.
    #[test]
    fn a_note_tells_of_one_that_starts() {
        let folder = Folder::new("note");
        let mut files = files(&folder, &format!(r#"[{{"id":"{ID}","names":["git-ssh"]}}]"#));
        let note =
            |uid: u32| serde_json::from_str(&format!(r#"{{"{uid}/{ID}":{{"pid":7893,"born":103282}}}}"#)).unwrap();
        files.starting = note(me() ^ 1);
        assert_eq!(files.processes("git-ssh").next(), None);
        files.starting = note(me());
        assert_eq!(files.processes("git-ssh").collect::<Vec<_>>(), [(7893, Identity::Born(103282))]);
        folder.write(&format!("runtime/crun/{ID}/status"), r#"{"pid": 7894, "process-start-time": 1}"#);
        assert_eq!(files.processes("git-ssh").next(), Some((7894, Identity::Born(1))));
    }

    #[test]
    fn a_configuration_tells_whose_the_namespace_is() {
        let folder = Folder::new("config");
        let files = files(&folder, &format!(r#"[{{"id":"{ID}","names":["a","also-a"]}},{{"id":"77","names":["b"]}}]"#));
        assert_eq!(files.names_of(ID), ["a", "also-a"]);
        assert!(files.names_of("78").is_empty());
        let config = format!("graph/overlay-containers/{ID}/userdata/config.json");
        for (namespaces, apart) in [
            (r#"{"type":"pid"},{"type":"network"}"#, true),
            (r#"{"type":"network","path":"/proc/7893/ns/net"}"#, false),
            (r#"{"type":"pid"}"#, false),
        ] {
            folder.write(&config, &format!(r#"{{"ociVersion":"1.0","linux":{{"namespaces":[{namespaces}]}}}}"#));
            assert_eq!(files.is_apart(ID), apart, "{namespaces}");
        }
        folder.write(&config, "{");
        assert!(!files.is_apart(ID) && !files.is_apart("78"), "nobody knows");
        let bundle = folder.0.join(format!("graph/overlay-containers/{ID}/userdata"));
        assert_eq!(names_beside(&bundle, ID), ["a", "also-a"]);
        assert!(names_beside(Path::new("/"), ID).is_empty() && names_beside(&bundle, "78").is_empty());
    }

    #[test]
    fn nonsense_is_no_process() {
        let folder = Folder::new("nonsense");
        let files = files(&folder, &format!(r#"[{{"id":"{ID}","names":["a"]}}]"#));
        for status in [
            "",
            "[]",
            "{",
            r#"{"pid": -1, "process-start-time": 1}"#,
            r#"{"pid": "7", "process-start-time": 1}"#,
            r#"{"pid": 4294967296, "process-start-time": 1}"#,
            r#"{"pid": 7}"#,
        ] {
            folder.write(&format!("runtime/crun/{ID}/status"), status);
            assert_eq!(files.processes("a").next(), None, "{status}");
        }
    }

    #[test]
    fn names_and_ids_that_are_none_are_left_out() {
        let folder = Folder::new("names");
        let list = format!(
            r#"[{{"id":"{ID}","names":["a","\u001b[31m","../x"]}},{{"id":"../../etc","names":["b"]}},{{"id":"","names":["c"]}},
                {{"id":"{ID}","names":null}},{{"id":"{ID}"}}]"#
        );
        assert_eq!(files(&folder, &list).names().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn only_a_regular_file_of_its_owner_is_read() {
        let folder = Folder::new("read");
        let file = folder.write("file", "text");
        assert_eq!(read(&file, me()).unwrap(), b"text");
        assert!(read(&file, me() ^ 1).is_err(), "somebody else's");
        symlink(&file, folder.0.join("link")).unwrap();
        assert!(read(&folder.0.join("link"), me()).is_err(), "a link");
        assert!(read(&folder.0, me()).is_err(), "a folder");
        let pipe = folder.0.join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read(&pipe, me()).is_err(), "a pipe that nobody writes to");
        File::options().write(true).open(&file).unwrap().set_len(FILE_MAX + 1).unwrap();
        assert!(read(&file, me()).is_err(), "too long");
    }

    #[test]
    fn storage_may_be_elsewhere() {
        let folder = Folder::new("storage");
        let text =
            "[storage]\ndriver = \"overlay\"\ngraphroot = \"/data/podman\"\n[storage.options]\nmount_program = \"x\"\n";
        let path = folder.write("storage.conf", text);
        let storage = Storage::read(&path, me()).unwrap();
        assert_eq!((storage.graphroot, storage.runroot), (Some("/data/podman".to_owned()), None));
        let user = User { name: "anna".into(), uid: 1001, gid: 1001, home: "/home/anna".into() };
        assert_eq!(expand("$HOME/x", &user), Path::new("/home/anna/x"));
        assert_eq!(expand("/data/$USER/$UID", &user), Path::new("/data/anna/1001"));
    }
}
