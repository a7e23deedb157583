//! The process that serves a hub: started in the hub's namespace with as little power as it needs, found again by its socket in
//! `/run/wire/hub`. What it is told is not known here.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{self, Command, Stdio};
use std::time::{Duration, Instant};

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use super::Kernel;
use super::run::{DIRECTORY, RunDirectory};
use super::store::Store;
use super::sys;
use crate::error::{Context, Error};
use crate::hub::orders::{self, Answer, Ask, Orders};
use crate::topology::{Name, Topology};

/// Where the sockets and locks of hubs are, below `/run/wire`.
const HUBS: &str = "hub";
/// The program beside `wire`.
const PROGRAM: &str = "wire-hub";
/// A hub that takes over new orders has read files and asked nobody; longer than this it does not turn.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the lock of a hub may be held by whoever only looks.
const MOMENT: Duration = Duration::from_millis(200);

/// What systemd tells a process that it supervises (sd_notify(3), sd_watchdog_enabled(3)).
const SUPERVISOR: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// The place of the one process that serves a hub, held until that ends.
pub struct Place {
    lock: Flock<OwnedFd>,
    socket: UnixListener,
}

impl Place {
    /// Takes it, if it is free.
    pub fn take(hub: &str) -> Result<Place, Error> {
        // `wire watch` blocks the signals that it reads, and a child inherits that.
        SigSet::all().thread_unblock().context("cannot hear signals")?;
        let store = RunDirectory::open()?.0.enter(HUBS)?;
        let lock = format!("{hub}.lock");
        let path = store.path_of(&lock);
        let file = store.file(&lock, OFlag::O_RDWR | OFlag::O_CREAT)?;
        let file = file.ok_or_else(|| Error::failed(format!("{path} went away")))?;
        let lock = match locked(file) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(Error::failed(format!("hub `{hub}` is served already"))
                    .hint("one is enough: `wire up` tells it what changed, and SIGTERM ends it"));
            }
            Err((_, errno)) => return Err(errno).context(format!("cannot lock {path}")),
        };
        // What is left of one that has ended.
        store.remove(&format!("{hub}.sock"))?;
        let path = socket_of(hub);
        let socket = UnixListener::bind(&path).context(format!("cannot listen on {path}"))?;
        Ok(Place { lock, socket })
    }
}

/// Whoever asks whether the hub is served holds the lock for a moment, too.
fn locked(mut file: OwnedFd) -> Result<Flock<OwnedFd>, (OwnedFd, Errno)> {
    let begun = Instant::now();
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Err((file, Errno::EWOULDBLOCK)) if begun.elapsed() < MOMENT => file,
            locked => return locked,
        };
        std::thread::sleep(MOMENT / 10);
    }
}

fn socket_of(hub: &str) -> String {
    format!("{DIRECTORY}/{HUBS}/{hub}.sock")
}

/// Whether somebody serves it.
pub fn is_served(hub: &str) -> bool {
    let store = RunDirectory::look().ok().flatten().and_then(|run| run.0.look_into(HUBS).ok().flatten());
    let lock = store.and_then(|store| store.file(&format!("{hub}.lock"), OFlag::O_RDWR).ok().flatten());
    lock.is_some_and(|lock| matches!(Flock::lock(lock, FlockArg::LockSharedNonblock), Err((_, Errno::EWOULDBLOCK))))
}

/// All that are served, by the names of their locks.
pub fn served() -> Vec<String> {
    let entries = fs::read_dir(format!("{DIRECTORY}/{HUBS}")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".lock")?.to_owned()));
    names.filter(|name| is_served(name)).collect()
}

/// A `wire hub` that this process has started.
pub struct Child {
    process: process::Child,
    handle: OwnedFd,
}

impl Child {
    /// Starts `wire ARGUMENTS hub NAME`, whose words go where this process's go.
    pub fn start(arguments: &[OsString], hub: &str) -> Result<Child, Error> {
        let tried = || format!("hub `{hub}` cannot be started");
        let mut command = Command::new("/proc/self/exe");
        command.args(arguments).args(["hub", hub]).stdin(Stdio::null()).stdout(Stdio::null());
        // Whoever supervises wants to hear of one process, which is not this.
        for name in SUPERVISOR {
            command.env_remove(name);
        }
        let process = command.spawn().context(tried())?;
        let handle = sys::pidfd_open(process.id()).context(tried())?;
        Ok(Child { process, handle })
    }

    /// What has something to be read when it has ended.
    pub fn end(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// How it ended, if it has.
    pub fn has_ended(&mut self) -> Option<String> {
        let status = self.process.try_wait().ok()??;
        Some(match (status.code(), status.signal()) {
            (Some(0), _) => "has ended".to_owned(),
            (Some(code), _) => format!("has ended with exit code {code}"),
            (None, signal) => format!("was killed by signal {}", signal.unwrap_or_default()),
        })
    }

    /// In good order: what is under way is finished.
    pub fn tell_to_end(&self) {
        let _ = kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM);
    }

    /// Waits for its end, and does not wait for ever.
    pub fn wait(mut self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        let mut watched = [PollFd::new(self.handle.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut watched, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        if !matches!(self.process.try_wait(), Ok(Some(_))) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// What became of a question.
pub enum Asked {
    /// The hub does not run.
    Nobody,
    Answered(Answer),
}

/// Asks the process that serves a hub.
pub fn ask(hub: &str, ask: &Ask) -> Result<Asked, Error> {
    let failed = || format!("hub `{hub}` does not answer");
    let mut stream = match UnixStream::connect(socket_of(hub)) {
        Ok(stream) => stream,
        Err(error) => match Errno::from_raw(error.raw_os_error().unwrap_or_default()) {
            // It never ran, or has ended.
            Errno::ENOENT | Errno::ECONNREFUSED => return Ok(Asked::Nobody),
            Errno::EACCES => return Err(error).context(failed()).map_err(|error| error.hint("run this as root")),
            _ => return Err(error).context(failed()),
        },
    };
    let patience = Some(PATIENCE);
    stream.set_read_timeout(patience).and_then(|()| stream.set_write_timeout(patience)).context(failed())?;
    let mut line = serde_json::to_vec(ask).context(failed())?;
    line.push(b'\n');
    stream.write_all(&line).context(failed())?;
    let mut answer = String::new();
    BufReader::new(stream.take(orders::LONGEST)).read_line(&mut answer).context(failed())?;
    match serde_json::from_str(&answer) {
        Ok(answer) => Ok(Asked::Answered(answer)),
        // It is just ending.
        Err(_) if answer.is_empty() => Ok(Asked::Nobody),
        Err(_) => Ok(Asked::Answered(Answer::Restart("it is of another version of wire".to_owned()))),
    }
}

/// Becomes the process that serves a hub, in the namespace where the hub lives.
pub fn run(topology: &Topology, hub: &Name, place: Place, orders: &Orders) -> Result<Infallible, Error> {
    let program = program()?;
    let tried = || format!("hub `{hub}` cannot be started");
    make_directories()?;
    let netns = Kernel::open(RunDirectory::look()?)?.namespace_of(topology, hub)?;
    let mut file = File::from(memfd_create(c"orders", MFdFlags::MFD_CLOEXEC).context(tried())?);
    serde_json::to_writer(&mut file, orders).context(tried())?;
    file.rewind().context(tried())?;
    setns(&netns, CloneFlags::CLONE_NEWNET).context(format!("cannot enter the namespace of hub `{hub}`"))?;
    let mut command = Command::new(&program);
    command.arg(hub.as_str()).env_clear().stdin(Stdio::from(file)).stdout(Stdio::null()).current_dir("/");
    // Whoever supervises hears when it is ready.
    for name in SUPERVISOR {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    // Out of the way of the numbers that they get.
    let above = |fd: BorrowedFd| fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(orders::SOCKET + 2)).context(tried());
    sys::hand_over(&mut command, [above(place.socket.as_fd())?, above(place.lock.as_fd())?]);
    lay_down().context(tried())?;
    let error = command.exec();
    Err(error).context(format!("cannot run {}", program.display()))
}

/// Lets go of everything but what listens on ports below 1024, for good: root that is started anew gets no more than the bounding
/// set has (capabilities(7)).
fn lay_down() -> Result<(), String> {
    let kept = Capability::CAP_NET_BIND_SERVICE;
    let words = |error: caps::errors::CapsError| error.to_string();
    for capability in caps::read(None, CapSet::Bounding).map_err(words)? {
        if capability != kept {
            caps::drop(None, CapSet::Bounding, capability).map_err(words)?;
        }
    }
    caps::clear(None, CapSet::Inheritable).map_err(words)?;
    prctl::set_no_new_privs().map_err(|errno| errno.to_string())
}

/// The directories that a hub writes to, whose parents it cannot.
fn make_directories() -> Result<(), Error> {
    let state = Store::open(orders::STATE, Mode::S_IRWXU)?;
    state.enter("acme")?;
    state.enter("ca")?;
    // Who reads logs need not be root.
    Store::open(orders::LOGS, Mode::from_bits_truncate(0o755))?;
    Ok(())
}

/// `wire-hub`, which lies where `wire` does.
fn program() -> Result<PathBuf, Error> {
    let own = fs::read_link("/proc/self/exe").context("cannot tell where wire lies")?;
    let program = own.with_file_name(PROGRAM);
    match program.is_file() {
        true => Ok(program),
        false => Err(Error::failed(format!("there is no {}", program.display())).hint(
            "hubs are served by a second program that is installed beside wire: `scripts/install` puts both there",
        )),
    }
}
