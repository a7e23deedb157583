//! Each on a directory that stands for the machine, with an init system that only writes down what it is told.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use clap::Parser;

use super::*;

struct House {
    root: PathBuf,
    machine: Machine,
    told: Vec<String>,
    /// Services that run, as the init system has it.
    running: BTreeSet<String>,
}

impl House {
    fn new(name: &str, places: &[&str]) -> House {
        let root = std::env::temp_dir().join(format!("wire-service-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).unwrap();
        let house = House { machine: Machine::at(&root), root, told: Vec::new(), running: BTreeSet::new() };
        places.iter().for_each(|place| house.put(place, ""));
        house
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.root.join(&path[1..]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// What the init system would have done, told as it was.
    fn with<T>(&mut self, act: impl FnOnce(&Machine, Run) -> T) -> T {
        let House { machine, root, told, running } = self;
        let touch = |path: String| {
            fs::create_dir_all(root.join(&path[1..]).parent().unwrap()).unwrap();
            fs::write(root.join(&path[1..]), "").unwrap();
        };
        let mut ask = |argv: &[&str]| {
            let words: Vec<&str> = argv.iter().copied().filter(|word| *word != "--quiet").collect();
            let mut success = true;
            match words[..] {
                ["systemctl", "is-active", unit] => success = running.contains(unit.trim_end_matches(".service")),
                ["rc-service", service, "status"] => success = running.contains(service),
                ["systemctl", "enable", unit] => touch(format!("{WANTS}/{unit}")),
                ["systemctl", "disable", unit] => fs::remove_file(root.join(&WANTS[1..]).join(unit)).unwrap(),
                ["rc-update", "delete", service, level] => {
                    fs::remove_file(root.join(format!("etc/runlevels/{level}/{service}"))).unwrap()
                }
                ["rc-update", "add", service, level] => touch(format!("/etc/runlevels/{level}/{service}")),
                ["systemctl", "start", service] | ["rc-service", service, "start"] => {
                    running.insert(service.trim_end_matches(".service").to_owned());
                }
                ["systemctl", "stop", service] | ["rc-service", service, "stop"] => {
                    running.remove(service.trim_end_matches(".service"));
                }
                _ => {}
            }
            if !["is-active", "status"].iter().any(|verb| words.contains(verb)) {
                told.push(words.join(" "));
            }
            Ok(Answer { success, words: String::new() })
        };
        act(machine, &mut ask)
    }

    fn install(&mut self, init: Init, program: &str, options: &Options) -> Result<Vec<String>, Error> {
        let voice = voice();
        self.told.clear();
        let done = self.with(|machine, ask| install(&voice, machine, init, program, options, true, ask))?;
        Ok(done.iter().map(|(verb, what)| format!("{verb} {what}")).collect())
    }

    fn remove(&mut self, init: Init) -> Vec<String> {
        self.told.clear();
        let done = self.with(|machine, ask| remove(machine, init, ask)).unwrap();
        done.iter().map(|(verb, what)| format!("{verb} {what}")).collect()
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(&path[1..])).unwrap()
    }

    /// Every file, without those by which the init system knows what it is told.
    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                match entry.path().is_dir() {
                    true => folders.push(entry.path()),
                    false => found.push(format!("/{}", entry.path().strip_prefix(&self.root).unwrap().display())),
                }
            }
        }
        found.retain(|path| !path.starts_with("/run/") && !path.starts_with(WANTS) && !path.contains("runlevels"));
        found.sort();
        found
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn voice() -> Voice {
    Voice::of(&Cli::parse_from(["wire", "-q", "service", "status"]))
}

const SYSTEMD: &[&str] = &["/run/systemd/system/x"];
const OPENRC: &[&str] = &["/run/openrc/softlevel"];

fn options(topology: &str, user: &str) -> Options {
    Options { topology: Some(topology.into()), trust_owner: Some(user.into()), hubs: Vec::new() }
}

/// Both services are written, enabled and started, in that order; the second time there is nothing to do; and away with them
/// nothing is left, `wire` being stopped only when its file with `wire down` in it is gone.
#[test]
fn systemd_there_and_back() {
    let mut house = House::new("systemd", SYSTEMD);
    let done = house.install(Init::Systemd, "/usr/local/bin/wire", &Options::default()).unwrap();
    let wanted = [
        "write /etc/systemd/system/wire.service",
        "write /etc/systemd/system/wire-watch.service",
        "enable wire",
        "enable wire-watch",
        "start wire",
        "start wire-watch",
    ];
    assert_eq!(done, wanted);
    assert_eq!(house.told[0], "systemctl daemon-reload");
    let unit = house.text("/etc/systemd/system/wire.service");
    assert!(unit.starts_with(MARK) && unit.contains("ExecStart=/usr/local/bin/wire $WIRE_OPTIONS up\n"), "{unit}");
    assert!(!unit.contains(PACKAGED), "{unit}");
    assert_eq!(house.install(Init::Systemd, "/usr/local/bin/wire", &Options::default()).unwrap(), [""; 0]);
    assert_eq!(house.told, [""; 0]);
    let done = house.remove(Init::Systemd);
    let wanted = [
        "stop wire-watch",
        "disable wire-watch",
        "disable wire",
        "delete /etc/systemd/system/wire.service",
        "delete /etc/systemd/system/wire-watch.service",
    ];
    assert_eq!(done, wanted);
    assert_eq!(house.told[3..], ["systemctl daemon-reload", "systemctl stop wire.service"]);
    assert_eq!(house.files(), [""; 0]);
}

/// The same for OpenRC, where `zap` forgets a service without stopping it; on Debian the network is started in `sysinit`.
#[test]
fn openrc_there_and_back() {
    for (name, places, level) in [
        ("alpine", &["/run/openrc/softlevel", "/etc/runlevels/boot/localmount"][..], "boot"),
        ("debian", &["/run/openrc/softlevel", "/etc/runlevels/sysinit/mountall.sh"], "sysinit"),
    ] {
        let mut house = House::new(name, places);
        let done = house.install(Init::Openrc, "/usr/local/bin/wire", &Options::default()).unwrap();
        assert_eq!(done[..2], ["write /etc/init.d/wire", "write /etc/init.d/wire-watch"]);
        let told = [
            &format!("rc-update add wire {level}"),
            "rc-update add wire-watch default",
            "rc-service wire start",
            "rc-service wire-watch start",
        ];
        assert_eq!(house.told, told);
        let script = house.text("/etc/init.d/wire");
        assert!(
            script.starts_with("#!/sbin/openrc-run\n# Written by") && script.contains("command=/usr/local/bin/wire\n")
        );
        let mode = fs::metadata(house.root.join("etc/init.d/wire")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        assert_eq!(house.install(Init::Openrc, "/usr/local/bin/wire", &Options::default()).unwrap(), [""; 0]);
        house.remove(Init::Openrc);
        assert!(
            house.told.contains(&"rc-service wire zap".into()) && !house.told.contains(&"rc-service wire stop".into())
        );
        assert_eq!(house.files(), [""; 0]);
        assert!(SERVICES.iter().all(|service| !Init::Openrc.is_enabled(&house.machine, service)), "{:?}", house.told);
    }
}

/// Units that a package has put there are enabled and neither written, shadowed nor deleted.
#[test]
fn a_package_keeps_its_units() {
    let packaged = ["/usr/lib/systemd/system/wire.service", "/usr/lib/systemd/system/wire-watch.service"];
    let mut house = House::new("packaged", &[SYSTEMD, &packaged].concat());
    assert_eq!(
        house.install(Init::Systemd, PACKAGED, &Options::default()).unwrap()[..2],
        ["enable wire", "enable wire-watch"]
    );
    assert_eq!(house.files(), [packaged[1], packaged[0]]);
    house.remove(Init::Systemd);
    assert_eq!(house.files(), [packaged[1], packaged[0]]);
    // Its file is still there, and stopping it would take the wires down.
    assert!(!house.told.iter().any(|told| told == "systemctl stop wire.service"), "{:?}", house.told);

    let mut house = House::new("packaged-openrc", &[OPENRC, &["/etc/init.d/wire", "/etc/init.d/wire-watch"]].concat());
    house.install(Init::Openrc, PACKAGED, &Options::default()).unwrap();
    house.remove(Init::Openrc);
    assert_eq!(house.files(), ["/etc/init.d/wire", "/etc/init.d/wire-watch"]);
}

/// -f and --trust-owner reach both services, whatever is in their words; without them they are gone again.
#[test]
fn options_are_carried() {
    let mut house = House::new("options", SYSTEMD);
    house.install(Init::Systemd, PACKAGED, &options("/home/li am/100%\"x.toml", "liam")).unwrap();
    for service in SERVICES {
        let text = house.text(&format!("/etc/systemd/system/{service}.service.d/wire.conf"));
        let wanted = "[Unit]\nConditionPathExists=\nConditionPathExists=/home/li am/100%%\"x.toml\n[Service]\n\
             Environment=\"WIRE_TOPOLOGY=/home/li am/100%%\\\"x.toml\"\nEnvironment=\"WIRE_OPTIONS=--trust-owner=liam\"\n";
        assert_eq!(text, format!("{MARK}{wanted}"));
    }
    let done = house.install(Init::Systemd, PACKAGED, &Options::default()).unwrap();
    let gone = [
        "delete /etc/systemd/system/wire.service.d/wire.conf",
        "delete /etc/systemd/system/wire-watch.service.d/wire.conf",
        "reload wire",
        "restart wire-watch",
    ];
    assert_eq!(done, gone);
    assert!(!house.root.join("etc/systemd/system/wire.service.d").exists());

    let mut house = House::new("options-openrc", OPENRC);
    house.install(Init::Openrc, PACKAGED, &options("/home/it's.toml", "liam")).unwrap();
    let text = "WIRE_TOPOLOGY='/home/it'\\''s.toml'\nWIRE_OPTIONS=--trust-owner=liam\n";
    assert_eq!(house.text("/etc/conf.d/wire"), format!("{MARK}{text}"));
    house.put("/etc/conf.d/wire", "rc_ulimit=\n");
    let refused = house.install(Init::Openrc, PACKAGED, &options("/x.toml", "liam")).unwrap_err();
    assert!(refused.message.contains("/etc/conf.d/wire") && refused.hint.is_some(), "{refused:?}");
    house.remove(Init::Openrc);
    assert_eq!(house.files(), ["/etc/conf.d/wire"]);
}

/// Each hub that wire runs has a service, which goes with it: under systemd of one file, under OpenRC of a file each.
#[test]
fn hubs_have_services_of_their_own() {
    let with = |hubs: &[&str]| Options { hubs: hubs.iter().map(|hub| (*hub).into()).collect(), ..Options::default() };
    let mut house = House::new("hubs", SYSTEMD);
    let done = house.install(Init::Systemd, PACKAGED, &with(&["a.b", "vpn-edge"])).unwrap();
    assert!(done.contains(&"write /etc/systemd/system/wire-hub@.service".into()), "{done:?}");
    assert_eq!(done[done.len() - 2..], ["start wire-hub@a.b", "start wire-hub@vpn-edge"]);
    let done = house.install(Init::Systemd, PACKAGED, &with(&["vpn-edge"])).unwrap();
    assert_eq!(done, ["stop wire-hub@a.b", "disable wire-hub@a.b"]);
    let status = house.with(|machine, ask| status(machine, Init::Systemd, ask)).unwrap();
    assert_eq!(
        status.services.iter().map(|service| service.name.as_str()).collect::<Vec<_>>()[2..],
        ["wire-hub@vpn-edge"]
    );
    house.remove(Init::Systemd);
    assert_eq!(house.files(), [""; 0]);
    assert!(house.told.contains(&"systemctl disable wire-hub@vpn-edge.service".into()), "{:?}", house.told);

    let mut house = House::new("hubs-openrc", OPENRC);
    house.install(Init::Openrc, PACKAGED, &with(&["a.b", "vpn-edge"])).unwrap();
    assert!(house.text("/etc/init.d/wire-hub@vpn-edge").contains("hub $hub"));
    let done = house.install(Init::Openrc, PACKAGED, &with(&["vpn-edge"])).unwrap();
    assert_eq!(done[..3], ["stop wire-hub@a.b", "disable wire-hub@a.b", "delete /etc/init.d/wire-hub@a.b"]);
    house.remove(Init::Openrc);
    assert_eq!(house.files(), [""; 0]);
}

/// What the user wrote himself stays, and the rest is done.
#[test]
fn a_users_own_unit_stays() {
    let mut house = House::new("own", SYSTEMD);
    house.put("/etc/systemd/system/wire.service", "[Service]\nExecStart=/opt/mine\n");
    let done = house.install(Init::Systemd, PACKAGED, &Options::default()).unwrap();
    assert_eq!(done[0], "write /etc/systemd/system/wire-watch.service");
    house.remove(Init::Systemd);
    assert_eq!(house.files(), ["/etc/systemd/system/wire.service"]);
}

/// Where there is nobody to be told yet, services are enabled and not started.
#[test]
fn a_machine_that_does_not_run_yet() {
    let mut house = House::new("offline", &[]);
    house.install(Init::Systemd, PACKAGED, &Options::default()).unwrap();
    assert_eq!(house.told, ["systemctl enable wire.service", "systemctl enable wire-watch.service"]);
}

/// All that can be told apart is, and only all of it together is 0.
#[test]
fn how_services_stand() {
    let mut house = House::new("status", SYSTEMD);
    let look = |house: &mut House| house.with(|machine, ask| status(machine, Init::Systemd, ask)).unwrap();
    let before = look(&mut house);
    assert_eq!((before.exit(), before.services[0].file.as_deref()), (Exit::Differs, None));
    house.install(Init::Systemd, PACKAGED, &Options::default()).unwrap();
    assert_eq!(look(&mut house).exit(), Exit::Differs);
    house.put(READY, "4000000000\n");
    assert_eq!(look(&mut house).ready, None);
    house.put(READY, &format!("{}\n", std::process::id()));
    let status = look(&mut house);
    assert_eq!((status.exit(), status.ready), (Exit::Done, Some(std::process::id())));
    let wire = json!({ "name": "wire", "file": "/etc/systemd/system/wire.service", "enabled": true, "running": true });
    assert_eq!(status.json()["services"][0], wire);
    assert!(status.text().contains("ready"), "{}", status.text());
}

/// The init system that runs is asked, else the one that is installed.
#[test]
fn which_init_system() {
    for (places, programs, wanted) in [
        (SYSTEMD, &["rc-update"][..], Some(Init::Systemd)),
        (OPENRC, &["systemctl"], Some(Init::Openrc)),
        (&[], &["rc-update"], Some(Init::Openrc)),
        (&[], &["systemctl", "rc-update"], Some(Init::Systemd)),
        (&[], &[], None),
    ] {
        let house = House::new("which", places);
        assert_eq!(Init::of(&house.machine, |name| programs.contains(&name)), wanted, "{places:?} {programs:?}");
    }
}

/// A program that others could exchange is none to run at boot; nor is one whose directory others may write.
#[test]
fn a_program_of_others_is_refused() {
    assert!(services::trusted(Path::new("/bin/sh").canonicalize().unwrap().as_path()).is_ok());
    let house = House::new("trusted", &["/wire"]);
    let refused = services::trusted(&house.root.join("wire")).unwrap_err();
    assert!(refused.message.contains("at boot") && refused.hint.is_some(), "{refused:?}");
}

/// What an init system makes of the files, where it is here: systemd finds nothing wrong in its own, and a shell none in OpenRC's.
#[test]
fn the_files_are_sound() {
    let house = House::new("sound", &[]);
    let services = Options { hubs: vec!["vpn-edge".into()], ..Options::default() }.services();
    for (_, unit) in Init::Systemd.units("/bin/sh", &services).iter().chain(&Init::Openrc.units("/bin/sh", &services)) {
        house.put(&unit.path, &unit.text);
    }
    for script in ["etc/init.d/wire", "etc/init.d/wire-watch", "etc/init.d/wire-hub@vpn-edge"] {
        let output = Command::new("sh").arg("-n").arg(house.root.join(script)).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let units = SERVICES
        .into_iter()
        .chain(["wire-hub@vpn-edge"])
        .map(|service| house.root.join(format!("etc/systemd/system/{service}.service")));
    match Command::new("systemd-analyze").args(["verify", "--man=no"]).args(units).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        output => {
            let said = String::from_utf8(output.unwrap().stderr).unwrap();
            let about: Vec<&str> = said.lines().filter(|line| line.contains("wire")).collect();
            assert_eq!(about, [""; 0], "{said}");
        }
    }
}
