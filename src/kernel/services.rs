//! The machine as its init system has it: files that are put in place whole or taken away, programs that are run to their end,
//! and the program file that a service would start. It decides nothing, and knows no init system.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::unistd::geteuid;

use super::program;
use crate::error::{Context, Error};

/// Starting waits for the service; the longest of them gives up after two minutes by itself.
const LIMIT: Duration = Duration::from_secs(150);
/// No file of a service is larger.
const LARGEST: u64 = 1 << 20;

pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Where files are looked for and put.
pub struct Machine {
    root: PathBuf,
}

impl Machine {
    pub fn here() -> Machine {
        Machine { root: "/".into() }
    }

    #[cfg(test)]
    pub fn at(root: &Path) -> Machine {
        Machine { root: root.into() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Whether something has this path, be it a link that leads nowhere from here.
    pub fn has(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// The names in a directory; none where there is no such directory.
    pub fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// The text of a file, if it is there and is one.
    pub fn read(&self, path: &str) -> Result<Option<String>, Error> {
        let place = self.path(path);
        match fs::metadata(&place) {
            Ok(about) if about.is_file() && about.len() <= LARGEST => {}
            Ok(_) => return Err(Error::failed(format!("{path} is no file of a service"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(format!("cannot look at {path}")),
        }
        fs::read_to_string(&place).map(Some).context(format!("cannot read {path}"))
    }

    /// Puts a file of this text in place at once, with its directory where that is missing.
    pub fn write(&self, path: &str, text: &str, mode: u32) -> Result<(), Error> {
        let place = self.path(path);
        let folder = place.parent().unwrap_or(&self.root);
        let mut name = place.file_name().unwrap_or_default().to_owned();
        name.push(format!(".new-{}", std::process::id()));
        let new = folder.join(name);
        let write = || -> io::Result<()> {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
            file.write_all(text.as_bytes())?;
            // Whatever the umask: init systems run as root, but `status` is for everybody.
            file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
            file.sync_all()?;
            fs::rename(&new, &place)
        };
        let written = write();
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written.context(format!("cannot write {path}"))
    }

    /// Deletes a file, and its directory where nothing is left in that and it is of that file alone.
    pub fn delete(&self, path: &str) -> Result<(), Error> {
        let place = self.path(path);
        fs::remove_file(&place).context(format!("cannot delete {path}"))?;
        if let Some(folder) = place.parent()
            && folder.extension().is_some_and(|kind| kind == "d")
        {
            // It fails where something else is in it, which is meant.
            let _ = fs::remove_dir(folder);
        }
        Ok(())
    }
}

/// What a program of the init system answered.
pub struct Answer {
    pub success: bool,
    /// All that it said, to be shown to whoever asked for it.
    pub words: String,
}

/// Runs a program of the init system to its end.
pub fn run(argv: &[&str]) -> Result<Answer, Error> {
    let [name, rest @ ..] = argv else { return Err(Error::failed("there is no program to run")) };
    let path = std::env::var_os("PATH").filter(|path| !path.is_empty()).unwrap_or_else(|| program::PATH.into());
    let found = program::along(&path, name).or_else(|| program::along(program::PATH.as_ref(), name));
    let found = found.ok_or_else(|| Error::failed(format!("there is no program `{name}`")))?;
    let mut command = Command::new(found);
    command.args(rest).env("LC_ALL", "C").current_dir("/");
    let output = program::output(command, None, LIMIT).context(format!("cannot run `{}`", argv.join(" ")))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let words = [text(&output.stdout), text(&output.stderr)].join("\n").trim().to_owned();
    Ok(Answer { success: output.status.success(), words })
}

/// Whether there is a program of this name.
pub fn is_there(name: &str) -> bool {
    program::along(program::PATH.as_ref(), name).is_some()
}

/// The file that this program was started from, if nobody but root can put another in its place.
pub fn own_program() -> Result<PathBuf, Error> {
    let path = std::env::current_exe().and_then(fs::canonicalize).context("cannot tell which file wire runs from")?;
    trusted(&path)?;
    Ok(path)
}

/// Refuses a path that somebody else than root could change, be it by the directories that lead there.
pub fn trusted(path: &Path) -> Result<(), Error> {
    for part in path.ancestors() {
        let shown = part.display();
        let about = part.symlink_metadata().context(format!("cannot look at {shown}"))?;
        let mode = about.mode();
        let why = match () {
            () if about.uid() != 0 => "does not belong to root",
            () if mode & 0o002 != 0 || mode & 0o020 != 0 && about.gid() != 0 => "can be written by others",
            () => continue,
        };
        let sentence = format!("{shown} {why}, who would decide what root runs at boot");
        return Err(Error::failed(sentence).hint(format!(
            "install wire where only root may write: `install -m 755 {} /usr/local/bin/wire`",
            path.display()
        )));
    }
    Ok(())
}

/// The pid in a text, if that process lives.
pub fn alive(text: &str) -> Option<u32> {
    let pid: u32 = text.trim().parse().ok().filter(|pid| *pid > 1)?;
    Path::new(&format!("/proc/{pid}")).exists().then_some(pid)
}
