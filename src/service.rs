//! `wire service`: which files and which words of the init system make `wire up` run at boot, and `wire watch` and the hubs that
//! wire runs stay. The files themselves stand in `scripts/service`, for packages too; what is a package's or the user's own is left as it is.

use std::path::Path;

use serde_json::{Value, json};

use crate::cli::{Cli, ServiceVerb};
use crate::error::{Context, Error, Exit};
use crate::file;
use crate::kernel::services::{self, Answer, Machine};
use crate::parse;
use crate::voice::Voice;

#[cfg(test)]
mod tests;

/// What is known by its mark may be changed and deleted.
const MARK: &str = "# Written by `wire service install`; `wire service remove` deletes it.\n";
/// Where `wire` is in the files as a package has them.
const PACKAGED: &str = "/usr/bin/wire";
/// What `wire watch` makes when it is ready, with its pid in it.
const READY: &str = "/run/wire/ready";
const SERVICES: [&str; 2] = ["wire", "wire-watch"];
const UNITS: [&str; 2] =
    [include_str!("../scripts/service/wire.service"), include_str!("../scripts/service/wire-watch.service")];
const SCRIPTS: [&str; 2] =
    [include_str!("../scripts/service/wire.initd"), include_str!("../scripts/service/wire-watch.initd")];
/// The service of a hub is named after it.
const HUB: &str = "wire-hub@";
const HUB_UNIT: &str = include_str!("../scripts/service/wire-hub@.service");
const HUB_SCRIPT: &str = include_str!("../scripts/service/wire-hub.initd");
/// Where packages put units.
const PACKAGES: [&str; 2] = ["/usr/lib/systemd/system", "/lib/systemd/system"];
const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Init {
    Systemd,
    Openrc,
}

/// What a service is to be given beside its unit.
#[derive(Debug, Default)]
struct Options {
    /// Another topology file than the usual.
    topology: Option<String>,
    trust_owner: Option<String>,
    /// The hubs that are to run.
    hubs: Vec<String>,
}

impl Options {
    /// All services, in the order in which they are started.
    fn services(&self) -> Vec<String> {
        SERVICES.map(str::to_owned).into_iter().chain(self.hubs.iter().map(|hub| format!("{HUB}{hub}"))).collect()
    }
}

/// A file that is to be there.
#[derive(Debug, PartialEq)]
struct Wanted {
    path: String,
    text: String,
    mode: u32,
}

/// What was done, as a verb and what it was done to.
type Done = Vec<(&'static str, String)>;

/// What asks the init system; the tests' own is no program.
type Run<'a> = &'a mut dyn FnMut(&[&str]) -> Result<Answer, Error>;

pub fn run(voice: &Voice, cli: &Cli, verb: &ServiceVerb) -> Result<u8, Error> {
    if !services::is_root() {
        return Err(Error::failed("only root may ask for the services of this machine").hint("run this as root"));
    }
    let machine = Machine::here();
    let init = Init::of(&machine, services::is_there).ok_or_else(|| {
        Error::failed("there is no init system here that wire knows: neither systemd nor OpenRC")
            .hint("have yours run `wire up` before the network is up, and keep `wire watch` running")
    })?;
    let mut ask = services::run;
    match verb {
        ServiceVerb::Install => {
            let topology = cli.topology();
            let mut options = Options::of(cli)?;
            // What root would run at every boot has to be right now, if it is there.
            let is_there = topology.exists();
            if is_there {
                let text = file::read(&topology, cli.trust_owner.as_deref())?;
                let parsed = match parse::topology(&text) {
                    Ok(parsed) => parsed,
                    Err(faults) => return Ok(voice.faults(&topology.display().to_string(), &text, &faults) as u8),
                };
                let run = parsed.hubs.values().filter(|hub| hub.is_run());
                options.hubs = run.map(|hub| hub.name.to_string()).collect();
            }
            let program = program_text(&services::own_program()?)?;
            let done = install(voice, &machine, init, &program, &options, is_there, &mut ask)?;
            said(voice, init, &done);
            if !init.runs(&machine) {
                voice
                    .say(&format!("{} does not run here: it starts them when this machine boots with it", init.name()));
            }
            if !is_there {
                voice.say(&format!(
                    "there is no topology file {} yet: write it, then run `wire service install` again, or reboot",
                    topology.display()
                ));
            }
        }
        ServiceVerb::Remove => {
            let done = remove(&machine, init, &mut ask)?;
            said(voice, init, &done);
            voice.say("the wires stay as they are; `wire down` takes them away");
        }
        ServiceVerb::Status => {
            let status = status(&machine, init, &mut ask)?;
            if voice.json {
                voice.print_json(&status.json());
            } else {
                voice.print(&status.text());
            }
            return Ok(status.exit() as u8);
        }
    }
    Ok(Exit::Done as u8)
}

fn said(voice: &Voice, init: Init, done: &Done) {
    if voice.json {
        let done = done.iter().map(|(action, subject)| json!({ "action": action, "subject": subject }));
        voice.print_json(&json!({ "init": init.name(), "done": done.collect::<Value>() }));
        return;
    }
    voice.print(&done.iter().map(|(action, subject)| format!("{action} {subject}\n")).collect::<String>());
    if done.is_empty() {
        voice.say("service: nothing to do");
    }
}

impl Init {
    /// The one that runs; where none does, as in a directory that is to become a machine, the one that is installed.
    fn of(machine: &Machine, is_there: impl Fn(&str) -> bool) -> Option<Init> {
        match () {
            () if machine.has("/run/systemd/system") => Some(Init::Systemd),
            () if machine.has("/run/openrc/softlevel") => Some(Init::Openrc),
            () if is_there("systemctl") => Some(Init::Systemd),
            () if is_there("rc-update") => Some(Init::Openrc),
            () => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Init::Systemd => "systemd",
            Init::Openrc => "openrc",
        }
    }

    /// Whether it runs this machine now, so that services can be started and stopped.
    fn runs(self, machine: &Machine) -> bool {
        machine.has(match self {
            Init::Systemd => "/run/systemd/system",
            Init::Openrc => "/run/openrc/softlevel",
        })
    }

    /// Where the file of a service is that is put there by hand.
    fn own_place(self, service: &str) -> String {
        match self {
            // One file for all hubs.
            Init::Systemd if service.starts_with(HUB) => format!("/etc/systemd/system/{HUB}.service"),
            Init::Systemd => format!("/etc/systemd/system/{service}.service"),
            Init::Openrc => format!("/etc/init.d/{service}"),
        }
    }

    /// The file of a service, whoever has put it there.
    fn place(self, machine: &Machine, service: &str) -> Option<String> {
        let packaged = match self {
            Init::Systemd => PACKAGES.map(|folder| format!("{folder}/{}.service", file_of(service))).to_vec(),
            Init::Openrc => Vec::new(),
        };
        std::iter::once(self.own_place(service)).chain(packaged).find(|path| machine.has(path))
    }

    /// The files of these services, started from this program.
    fn units(self, program: &str, services: &[String]) -> Vec<(String, Wanted)> {
        let unit = |service: &str, text: &str| match self {
            Init::Systemd => {
                let text = text.replace(PACKAGED, program);
                Wanted { path: self.own_place(service), text: format!("{MARK}{text}"), mode: 0o644 }
            }
            Init::Openrc => {
                let text = text.replace(PACKAGED, program);
                let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
                Wanted { path: self.own_place(service), text: format!("{first}\n{MARK}{rest}"), mode: 0o755 }
            }
        };
        let (texts, hub) = match self {
            Init::Systemd => (UNITS, HUB_UNIT),
            Init::Openrc => (SCRIPTS, HUB_SCRIPT),
        };
        let text = |service: &str| {
            SERVICES.iter().zip(texts).find(|(name, _)| **name == service).map_or(hub, |(_, text)| text)
        };
        let mut units: Vec<(String, Wanted)> =
            services.iter().map(|service| (service.clone(), unit(service, text(service)))).collect();
        units.dedup_by(|one, other| one.1.path == other.1.path);
        units
    }

    /// The services of hubs that are there, whether the file still speaks of them or not.
    fn hubs(self, machine: &Machine) -> Vec<String> {
        let names = match self {
            Init::Systemd => machine.names(WANTS),
            Init::Openrc => machine.names("/etc/init.d"),
        };
        let service = |name: String| Some(name.strip_suffix(".service").unwrap_or(&name).to_owned());
        names.into_iter().filter(|name| name.starts_with(HUB)).filter_map(service).collect()
    }

    /// Where what was given on the command line is kept.
    fn option_places(self) -> Vec<String> {
        match self {
            Init::Systemd => {
                let files = SERVICES.into_iter().chain([HUB]);
                files.map(|file| format!("/etc/systemd/system/{file}.service.d/wire.conf")).collect()
            }
            Init::Openrc => vec!["/etc/conf.d/wire".into()],
        }
    }

    /// The files that carry what was given on the command line.
    fn options(self, options: &Options) -> Vec<Wanted> {
        let Options { topology, trust_owner, hubs } = options;
        if topology.is_none() && trust_owner.is_none() {
            return Vec::new();
        }
        let mut text = String::from(MARK);
        let trust = trust_owner.as_ref().map(|user| format!("--trust-owner={user}"));
        match self {
            Init::Systemd => {
                if let Some(path) = topology {
                    text += &format!("[Unit]\nConditionPathExists=\nConditionPathExists={}\n", path.replace('%', "%%"));
                }
                text += "[Service]\n";
                let variables = [("WIRE_TOPOLOGY", topology), ("WIRE_OPTIONS", &trust)];
                for (name, value) in variables.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
                    text += &format!("Environment=\"{name}={}\"\n", for_systemd(value));
                }
            }
            Init::Openrc => {
                let variables = [("WIRE_TOPOLOGY", topology), ("WIRE_OPTIONS", &trust)];
                for (name, value) in variables.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
                    text += &format!("{name}={}\n", for_shell(value));
                }
            }
        }
        let wanted = |path| Wanted { path, text: text.clone(), mode: 0o644 };
        let needed = |path: &String| !hubs.is_empty() || !path.contains(HUB);
        self.option_places().into_iter().filter(needed).map(wanted).collect()
    }

    /// Where OpenRC is to start it: `wire` with the local file systems, which is where the network is started as well; Debian
    /// does both in `sysinit`, Alpine in `boot`.
    fn level(machine: &Machine, service: &str) -> &'static str {
        match service {
            "wire" if machine.has("/etc/runlevels/sysinit/mountall.sh") => "sysinit",
            "wire" => "boot",
            _ => "default",
        }
    }

    fn is_enabled(self, machine: &Machine, service: &str) -> bool {
        match self {
            Init::Systemd => machine.has(&format!("{WANTS}/{service}.service")),
            Init::Openrc => !levels(machine, service).is_empty(),
        }
    }

    fn is_running(self, machine: &Machine, service: &str, ask: Run) -> Result<bool, Error> {
        match self {
            _ if !self.runs(machine) => Ok(false),
            Init::Systemd => Ok(ask(&["systemctl", "is-active", "--quiet", &format!("{service}.service")])?.success),
            Init::Openrc => Ok(ask(&["rc-service", "--quiet", service, "status"])?.success),
        }
    }

    /// Tells it what to do with a service. `verb` is one of enable, disable, start, stop and restart.
    fn tell(self, machine: &Machine, verb: &'static str, service: &str, ask: Run) -> Result<(), Error> {
        let unit = format!("{service}.service");
        let argv = match (self, verb) {
            (Init::Systemd, _) => vec!["systemctl", "--quiet", verb, &unit],
            (Init::Openrc, "enable") => vec!["rc-update", "--quiet", "add", service, Init::level(machine, service)],
            (Init::Openrc, "disable") => {
                // With `--all` it fails because of those it was never in.
                let levels = levels(machine, service);
                return levels
                    .iter()
                    .try_for_each(|level| expect(&["rc-update", "--quiet", "delete", service, level], ask));
            }
            (Init::Openrc, _) => vec!["rc-service", "--quiet", service, verb],
        };
        expect(&argv, ask)
    }
}

/// What the file of a service is called by systemd.
fn file_of(service: &str) -> &str {
    if service.starts_with(HUB) { HUB } else { service }
}

/// The runlevels of OpenRC that a service is in.
fn levels(machine: &Machine, service: &str) -> Vec<String> {
    let mut levels = machine.names("/etc/runlevels");
    levels.retain(|level| machine.has(&format!("/etc/runlevels/{level}/{service}")));
    levels
}

fn expect(argv: &[&str], ask: Run) -> Result<(), Error> {
    let answer = ask(argv)?;
    if answer.success {
        return Ok(());
    }
    let why = if answer.words.is_empty() { "it failed" } else { &answer.words };
    Err(Error::failed(format!("`{}`: {why}", argv.join(" "))).hint("put that right, then run this again"))
}

impl Options {
    fn of(cli: &Cli) -> Result<Options, Error> {
        let path = cli.topology();
        let topology = match cli.names_topology() {
            false => None,
            true => {
                let path =
                    text_of(&std::path::absolute(&path).context("cannot tell the whole path of the topology file")?)?;
                if path.ends_with([' ', '\\']) {
                    return Err(Error::invalid(format!("`{path}` ends in what an init system would not keep"))
                        .hint("give the topology file another name"));
                }
                Some(path)
            }
        };
        let trust_owner = cli.trust_owner.clone();
        if let Some(user) = trust_owner.as_deref().filter(|user| user.contains(|c: char| !is_plain(c))) {
            return Err(Error::invalid(format!(
                "--trust-owner: `{user}` is no user name that an init system would keep"
            )));
        }
        Ok(Options { topology, trust_owner, hubs: Vec::new() })
    }
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-".contains(c)
}

/// A path as text that can stand in one line.
fn text_of(path: &Path) -> Result<String, Error> {
    match path.to_str() {
        Some(text) if !text.contains(char::is_control) => Ok(text.to_owned()),
        _ => Err(Error::invalid(format!("`{}` cannot stand in the file of a service", path.display()))
            .hint("give it a name of plain letters")),
    }
}

/// The path of a program, as one word of a unit or a shell's.
fn program_text(path: &Path) -> Result<String, Error> {
    match path.to_str() {
        Some(text) if text.chars().all(|c| is_plain(c) || c == '/') => Ok(text.to_owned()),
        _ => Err(Error::failed(format!("`{}` cannot stand in the file of a service", path.display()))
            .hint("install wire as `/usr/local/bin/wire`")),
    }
}

/// As it stands in a quoted word of a unit.
fn for_systemd(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%")
}

/// As one word of a shell's.
fn for_shell(text: &str) -> String {
    match text.chars().all(|c| is_plain(c) || c == '/' || c == '=') {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// Whether a text is of `install`'s own writing.
fn is_own(text: &str) -> bool {
    text.lines().take(2).any(|line| line == MARK.trim_end())
}

fn install(
    voice: &Voice,
    machine: &Machine,
    init: Init,
    program: &str,
    options: &Options,
    start: bool,
    ask: Run,
) -> Result<Done, Error> {
    let mut done = Done::new();
    let services = options.services();
    let options = init.options(options);
    for wanted in &options {
        if machine.read(&wanted.path)?.is_some_and(|text| !is_own(&text)) {
            return Err(Error::failed(format!(
                "{} is not of wire's writing, so -f and --trust-owner cannot be kept there",
                wanted.path
            ))
            .hint("set WIRE_TOPOLOGY and WIRE_OPTIONS in it yourself, or take it away"));
        }
    }
    // A hub that the file has no more.
    for gone in init.hubs(machine).into_iter().filter(|service| !services.contains(service)) {
        forget(machine, init, &gone, &mut done, ask)?;
    }
    let packaged = |service: &str| {
        let file = file_of(service);
        init == Init::Systemd && PACKAGES.iter().any(|folder| machine.has(&format!("{folder}/{file}.service")))
    };
    let (packaged, units): (Vec<_>, Vec<_>) =
        init.units(program, &services).into_iter().partition(|(service, _)| packaged(service));
    let mut kept: Vec<String> = packaged.into_iter().map(|(_, unit)| unit.path).collect();
    let mut wanted: Vec<Wanted> = units.into_iter().map(|(_, unit)| unit).collect();
    wanted.extend(options);
    for file in &wanted {
        match machine.read(&file.path)? {
            Some(text) if text == file.text => {}
            Some(text) if !is_own(&text) => kept.push(file.path.clone()),
            _ => {
                machine.write(&file.path, &file.text, file.mode)?;
                done.push(("write", file.path.clone()));
            }
        }
    }
    // What an earlier `install` wrote and this one does not want: a package has brought units, or the options are gone.
    for path in own_places(machine, init).into_iter().filter(|path| !wanted.iter().any(|file| file.path == *path)) {
        if machine.read(&path)?.is_some_and(|text| is_own(&text)) {
            machine.delete(&path)?;
            done.push(("delete", path));
        }
    }
    if program != PACKAGED && !kept.is_empty() {
        voice.say(&format!("the services that are there run {PACKAGED}, or what they say, not {program}"));
    }
    // What goes with a hub that is no more changes nothing for the others.
    let changed = done.iter().any(|(verb, path)| *verb == "write" || *verb == "delete" && !path.contains(HUB));
    if changed && init == Init::Systemd && init.runs(machine) {
        expect(&["systemctl", "daemon-reload"], ask)?;
    }
    for service in &services {
        if !init.is_enabled(machine, service) {
            init.tell(machine, "enable", service, ask)?;
            done.push(("enable", service.clone()));
        }
    }
    if !start || !init.runs(machine) {
        return Ok(done);
    }
    for service in &services {
        let verb = match init.is_running(machine, service, ask)? {
            false => "start",
            // Other options, or another program: what runs has to know. `wire up` has nothing to forget, so it runs once more.
            true if changed && service == SERVICES[0] => "reload",
            true if changed => "restart",
            true => continue,
        };
        init.tell(machine, verb, service, ask)?;
        done.push((verb, service.clone()));
    }
    Ok(done)
}

/// Every file that an `install` may have written.
fn own_places(machine: &Machine, init: Init) -> Vec<String> {
    let hubs = init.hubs(machine);
    let services = SERVICES.into_iter().chain([HUB]).chain(hubs.iter().map(String::as_str));
    let mut places: Vec<String> = services.map(|service| init.own_place(service)).chain(init.option_places()).collect();
    let mut seen = std::collections::BTreeSet::new();
    places.retain(|place| seen.insert(place.clone()));
    places
}

/// Stops the service of a hub and starts it no more.
fn forget(machine: &Machine, init: Init, service: &str, done: &mut Done, ask: Run) -> Result<(), Error> {
    if init.is_running(machine, service, ask)? {
        init.tell(machine, "stop", service, ask)?;
        done.push(("stop", service.into()));
    }
    if init.is_enabled(machine, service) {
        init.tell(machine, "disable", service, ask)?;
        done.push(("disable", service.into()));
    }
    Ok(())
}

fn remove(machine: &Machine, init: Init, ask: Run) -> Result<Done, Error> {
    let mut done = Done::new();
    let places = own_places(machine, init);
    for service in init.hubs(machine) {
        forget(machine, init, &service, &mut done, ask)?;
    }
    if init.is_running(machine, "wire-watch", ask)? {
        init.tell(machine, "stop", "wire-watch", ask)?;
        done.push(("stop", "wire-watch".into()));
    }
    for service in SERVICES.into_iter().rev() {
        if init.is_enabled(machine, service) {
            init.tell(machine, "disable", service, ask)?;
            done.push(("disable", service.into()));
        }
    }
    let ran = init.is_running(machine, "wire", ask)?;
    let mut own = Vec::new();
    for path in places {
        if machine.read(&path)?.is_some_and(|text| is_own(&text)) {
            own.push(path);
        }
    }
    let unit_goes = own.contains(&init.own_place("wire"));
    // What is stopped takes the wires down; what is only forgotten leaves them.
    if init == Init::Openrc && ran && unit_goes {
        init.tell(machine, "zap", "wire", ask)?;
    }
    for path in own {
        machine.delete(&path)?;
        done.push(("delete", path));
    }
    if init == Init::Systemd && init.runs(machine) && done.iter().any(|(verb, _)| *verb == "delete") {
        expect(&["systemctl", "daemon-reload"], ask)?;
        // Without its file it has no `wire down` to run any more.
        if ran && unit_goes {
            init.tell(machine, "stop", "wire", ask)?;
        }
    }
    Ok(done)
}

/// How a service stands.
#[derive(Debug, PartialEq)]
struct Standing {
    name: String,
    file: Option<String>,
    enabled: bool,
    running: bool,
}

#[derive(Debug, PartialEq)]
struct Status {
    init: Init,
    services: Vec<Standing>,
    /// The pid of a `wire watch` that has wired all it found and follows what comes.
    ready: Option<u32>,
}

fn status(machine: &Machine, init: Init, ask: Run) -> Result<Status, Error> {
    let mut standing = |name: String| -> Result<Standing, Error> {
        let running = init.is_running(machine, &name, ask)?;
        let (file, enabled) = (init.place(machine, &name), init.is_enabled(machine, &name));
        Ok(Standing { name, file, enabled, running })
    };
    let hubs = init.hubs(machine);
    let services = SERVICES
        .map(str::to_owned)
        .into_iter()
        .chain(hubs)
        .map(&mut standing)
        .collect::<Result<Vec<Standing>, Error>>()?;
    let ready = machine.read(READY)?.as_deref().and_then(services::alive);
    Ok(Status { init, services, ready })
}

impl Status {
    fn exit(&self) -> Exit {
        let stands = |service: &Standing| service.file.is_some() && service.enabled && service.running;
        if self.services.iter().all(stands) && self.ready.is_some() { Exit::Done } else { Exit::Differs }
    }

    fn json(&self) -> Value {
        let services = self.services.iter().map(|service| {
            let Standing { name, file, enabled, running } = service;
            json!({ "name": name, "file": file, "enabled": enabled, "running": running })
        });
        json!({ "init": self.init.name(), "services": services.collect::<Value>(), "ready": self.ready.is_some(), "pid": self.ready })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let width = self.services.iter().map(|service| service.name.len()).max().unwrap_or_default();
        for service in &self.services {
            let file = service.file.as_deref().unwrap_or("not installed");
            let enabled = if service.enabled { "enabled" } else { "not enabled" };
            let running = match (service.running, service.name.as_str(), self.ready) {
                (true, name, _) if name.starts_with(HUB) => "running".into(),
                (true, "wire-watch", Some(pid)) => format!("ready, process {pid}"),
                (true, "wire-watch", None) => "running, not ready".into(),
                (true, ..) => "done".into(),
                (false, "wire-watch", Some(pid)) => format!("not running; `wire watch` runs otherwise, process {pid}"),
                (false, ..) => "not running".into(),
            };
            text += &format!("{:<width$}  {enabled}  {running}  {file}\n", service.name);
        }
        text
    }
}
