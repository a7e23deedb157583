//! `wire hook install` and `remove`: the files that have podman run the hook, where podman reads them. What is not
//! wire's is neither written over nor taken away.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User, geteuid};
use serde_json::{Value, json};

use super::conf;
use crate::cli::{Cli, HookTerms};
use crate::error::{Context, Error, Exit};
use crate::file;
use crate::voice::Voice;

/// One file for each stage: their options are not the same.
const FILES: [(&str, &str); 2] = [("wire.json", "createRuntime"), ("wire-poststop.json", "poststop")];
/// Where podman looks when nothing is configured, and then only for root's containers.
const BUILT_IN: &str = "/usr/share/containers/oci/hooks.d";
const SYSTEM: [&str; 2] = ["/usr/share/containers/containers.conf", "/etc/containers/containers.conf"];
const SYSTEM_DROP_INS: &str = "/etc/containers/containers.conf.d";
const DROP_IN: &str = "wire.conf";
/// What the runtime gives the hook beyond what that waits for, in seconds.
const SLACK: u64 = 5;

/// Where the hooks of whoever runs this belong.
struct Place {
    folder: PathBuf,
    /// A file of the user's that names the folder, and what it says.
    drop_in: Option<(PathBuf, String)>,
}

impl Place {
    fn find() -> Result<Place, Error> {
        let system = conf::hooks_dirs(system_files().iter().map(String::as_str));
        if geteuid().is_root() {
            let folder = system.and_then(|dirs| dirs.last().cloned()).unwrap_or_else(|| BUILT_IN.into());
            return Ok(Place { folder, drop_in: None });
        }
        let own = config_home()?.join("containers");
        let drop_ins = own.join("containers.conf.d");
        let texts = [file::glance(&own.join("containers.conf"))].into_iter().flatten().chain(texts_in(&drop_ins));
        let texts: Vec<String> = texts.filter(|text| !text.starts_with(conf::OURS)).collect();
        if let Some(folder) = conf::hooks_dirs(texts.iter().map(String::as_str)).and_then(|dirs| dirs.last().cloned()) {
            return Ok(Place { folder, drop_in: None });
        }
        let folder = own.join("oci/hooks.d");
        let text = conf::drop_in(&system.unwrap_or_default(), &folder);
        Ok(Place { folder, drop_in: Some((drop_ins.join(DROP_IN), text)) })
    }

    /// Where `wire` may have written something, by this configuration or by another.
    fn all() -> Result<(Vec<PathBuf>, Option<PathBuf>), Error> {
        let place = Place::find()?;
        let mut folders = vec![place.folder];
        let mut drop_in = None;
        if geteuid().is_root() {
            folders.push(BUILT_IN.into());
        } else {
            let own = config_home()?.join("containers");
            folders.push(own.join("oci/hooks.d"));
            drop_in = Some(own.join("containers.conf.d").join(DROP_IN));
        }
        folders.dedup();
        Ok((folders, drop_in))
    }
}

fn system_files() -> Vec<String> {
    SYSTEM.iter().filter_map(|path| file::glance(Path::new(path))).chain(texts_in(Path::new(SYSTEM_DROP_INS))).collect()
}

/// The files of a folder of drop-ins, in the order in which podman reads them.
fn texts_in(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "conf")).collect();
    paths.sort();
    paths.iter().filter_map(|path| file::glance(path)).collect()
}

fn config_home() -> Result<PathBuf, Error> {
    let said = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(path) = said("XDG_CONFIG_HOME").or_else(|| Some(said("HOME")?.join(".config"))) {
        return Ok(path);
    }
    let me = User::from_uid(geteuid()).context("looking for your home")?;
    me.map(|me| me.dir.join(".config")).ok_or_else(|| Error::failed("there is no user with your id on this machine"))
}

pub fn install(voice: &Voice, cli: &Cli, terms: &HookTerms, wait: u64) -> Result<Exit, Error> {
    let program = program()?;
    let place = Place::find()?;
    let options = options(cli)?;
    make_folder(&place.folder)?;
    trusted(&place.folder, "the folder of podman's hooks")?;
    let mut files: Vec<(PathBuf, String)> = Vec::new();
    for (name, stage) in FILES {
        let path = place.folder.join(name);
        refuse_others(&path, is_own_hook)?;
        files.push((path, hook(&program, stage, &options, terms, wait)));
    }
    if let Some((path, text)) = place.drop_in {
        refuse_others(&path, |text| text.starts_with(conf::OURS))?;
        make_folder(path.parent().unwrap_or(Path::new("/")))?;
        files.push((path, text));
    }
    let (mut installed, mut unchanged) = (Vec::new(), Vec::new());
    for (path, text) in files {
        let list = if file::put(&path, &text)? { &mut installed } else { &mut unchanged };
        list.push(path.display().to_string());
    }
    if voice.json {
        voice.print_json(&json!({ "installed": installed, "unchanged": unchanged }));
        return Ok(Exit::Done);
    }
    voice.print(&installed.iter().map(|path| format!("{path}\n")).collect::<String>());
    voice.say(match installed.is_empty() {
        true => "podman runs the hook already",
        false => "podman runs the hook from now on, whenever it starts a container",
    });
    let topology = cli.topology();
    if geteuid().is_root() && !topology.exists() {
        let topology = topology.display();
        voice.say(&format!("there is no topology file {topology} yet: until it is there, containers start as ever"));
    }
    if !geteuid().is_root() {
        voice.say("what it wires is done by `wire watch`, run by root");
    }
    Ok(Exit::Done)
}

pub fn remove(voice: &Voice) -> Result<Exit, Error> {
    let (folders, drop_in) = Place::all()?;
    let hooks = folders.iter().flat_map(|folder| FILES.map(|(name, _)| folder.join(name)));
    let own_hooks = hooks.filter(|path| file::glance(path).is_some_and(|text| is_own_hook(&text)));
    let own_drop_in = drop_in.filter(|path| file::glance(path).is_some_and(|text| text.starts_with(conf::OURS)));
    // The hooks last: a folder that is named may be empty, and one that is not named is not read.
    let mut removed = Vec::new();
    for path in own_drop_in.into_iter().chain(own_hooks) {
        match fs::remove_file(&path) {
            Ok(()) => removed.push(path.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context(format!("cannot remove {}", path.display())),
        }
    }
    if voice.json {
        voice.print_json(&json!({ "removed": removed }));
        return Ok(Exit::Done);
    }
    voice.print(&removed.iter().map(|path| format!("{path}\n")).collect::<String>());
    voice.say(if removed.is_empty() { "there is no hook of wire's" } else { "podman runs the hook no more" });
    Ok(Exit::Done)
}

/// One file as podman reads it (oci-hooks(5), version 1.0.0).
fn hook(program: &Path, stage: &str, options: &[String], terms: &HookTerms, wait: u64) -> String {
    let mut args: Vec<&str> = vec!["wire", "hook", stage, "--wait", &terms.wait];
    // What has ended cannot be kept from it.
    if terms.strict && stage != "poststop" {
        args.push("--strict");
    }
    args.extend(options.iter().map(String::as_str));
    let hook = json!({
        "version": "1.0.0",
        "hook": { "path": program, "args": args, "timeout": wait + SLACK },
        "when": { "always": true },
        "stages": [stage],
    });
    format!("{hook:#}\n")
}

/// Whether a file of hooks is one that `wire` wrote.
fn is_own_hook(text: &str) -> bool {
    let hook: Value = serde_json::from_str(text).unwrap_or_default();
    let args = &hook["hook"]["args"];
    args[0] == "wire" && args[1] == "hook"
}

/// What the hook has to be told of the topology: it runs with nothing in its environment, and anywhere.
fn options(cli: &Cli) -> Result<Vec<String>, Error> {
    let mut options = Vec::new();
    if cli.names_topology() {
        let path = std::path::absolute(cli.topology()).context("cannot tell where the topology is")?;
        let path = path.to_str().ok_or_else(|| Error::invalid(format!("{} is no text", path.display())))?.to_owned();
        options.extend(["-f".to_owned(), path]);
    }
    if let Some(user) = &cli.trust_owner {
        options.extend(["--trust-owner".to_owned(), user.clone()]);
    }
    Ok(options)
}

/// This program, if nobody else can put another in its place.
fn program() -> Result<PathBuf, Error> {
    let path = std::env::current_exe().context("cannot tell where this program is")?;
    let about = fs::metadata(&path).context(format!("cannot look at {}", path.display()))?;
    if !about.is_file() {
        return Err(Error::failed(format!("{} is no program", path.display())));
    }
    trusted(&path, "the program that podman would run")?;
    Ok(path)
}

/// Refuses what somebody else could change: a path, by itself or by a folder above it.
fn trusted(path: &Path, what: &str) -> Result<(), Error> {
    let real = path.canonicalize().context(format!("cannot look at {}", path.display()))?;
    for part in real.ancestors() {
        let about = fs::metadata(part).context(format!("cannot look at {}", part.display()))?;
        let mine = about.uid() == 0 || about.uid() == geteuid().as_raw();
        if mine && about.mode() & 0o022 == 0 {
            continue;
        }
        let whose = match mine {
            true => "can be written by others".to_owned(),
            false => format!("belongs to {}", name_of(about.uid())),
        };
        // A folder such as /tmp is everybody's on purpose.
        let is_everybodys = mine && about.mode() & 0o1000 != 0;
        let part = part.display();
        let hint = match is_everybodys {
            true => format!("put it where nobody else may write: {part} is there for everybody"),
            false => format!("`chown root {part}` and `chmod go-w {part}`, or put it elsewhere"),
        };
        return Err(Error::failed(format!("{what} is {}, but {part} {whose}", real.display())).hint(hint));
    }
    Ok(())
}

fn name_of(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

fn make_folder(path: &Path) -> Result<(), Error> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
    made.context(format!("cannot make {}", path.display()))
}

/// Refuses to write over what somebody else wrote.
fn refuse_others(path: &Path, is_own: impl Fn(&str) -> bool) -> Result<(), Error> {
    let taken = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error).context(format!("cannot look at {}", path.display())),
        Ok(about) => !about.is_file() || !file::glance(path).is_some_and(|text| is_own(&text)),
    };
    match taken {
        true => Err(Error::failed(format!("{} is not wire's", path.display())).hint("rename it, then run this again")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_is_known_again() {
        let terms = HookTerms { wait: "1m".into(), strict: true };
        let options = ["-f".to_owned(), "/etc/a \"b\".toml".to_owned()];
        let text = hook(Path::new("/usr/bin/wire"), "createRuntime", &options, &terms, 60);
        let said: Value = serde_json::from_str(&text).unwrap();
        let args = json!(["wire", "hook", "createRuntime", "--wait", "1m", "--strict", "-f", "/etc/a \"b\".toml"]);
        let hook_said = json!({ "path": "/usr/bin/wire", "args": args, "timeout": 65 });
        let wanted = json!({
            "version": "1.0.0", "hook": hook_said, "when": { "always": true }, "stages": ["createRuntime"]
        });
        assert_eq!(said, wanted);
        assert!(is_own_hook(&text));
        assert!(!hook(Path::new("/usr/bin/wire"), "poststop", &[], &terms, 60).contains("--strict"));
        for text in ["", "{}", "[1]", r#"{"hook":{"args":["nvidia"]}}"#, r#"{"hook":{"args":["wire","up"]}}"#] {
            assert!(!is_own_hook(text), "{text}");
        }
    }

    #[test]
    fn what_others_may_change_is_no_program() {
        let folder = std::env::temp_dir().join(format!("wire-trusted-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        // The temporary folder is everybody's.
        let refused = trusted(&folder, "it").unwrap_err();
        fs::remove_dir(&folder).unwrap();
        assert!(refused.message.ends_with("can be written by others"), "{}", refused.message);
        assert!(refused.hint.is_some_and(|hint| !hint.contains("chmod")), "the folder stays everybody's");
        assert_eq!(trusted(Path::new("/"), "it"), Ok(()));
    }
}
