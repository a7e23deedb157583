//! The door of the daemon: a socket at which the hooks of users without root's rights ask for what they cannot do
//! themselves. One packet each way. Who asks is said by the kernel (`SO_PEERCRED`); whatever else is in the packet is
//! that user's claim, and for others to judge. Nobody is waited for, neither those who say nothing nor those who ask
//! without end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen, recv, send,
    socket, sockopt::PeerCredentials,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::{Context, Error};

const PATH: &str = "/run/wire.sock";
/// A packet is never larger; what is cut off is no JSON.
const LARGEST: usize = 4096;
/// So many are inside at once, and so many of one user.
const MOST: usize = 64;
const MOST_OF_ONE: usize = 16;
/// Whoever has come in and says nothing for so long is sent away.
const PATIENCE: Duration = Duration::from_secs(2);
/// One user's requests are taken up in a burst, and then at this pace.
const PACE: Duration = Duration::from_millis(125);
const BURST: u32 = 16;
/// How soon whoever was not let in knocks again.
const AGAIN: Duration = Duration::from_millis(20);

/// What a hook asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub stage: Stage,
    pub id: String,
    /// 0 where the container has ended.
    pub pid: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    CreateRuntime,
    Poststop,
}

/// The daemon's side.
///
/// Its loop waits for it to be readable, until `due` at the latest, and then takes the `guests` that are to be answered.
pub struct Door {
    listener: UnixListener,
    /// Of the listener and of everybody inside who has said nothing yet.
    epoll: Epoll,
    path: PathBuf,
    /// The number of the socket's file, to know it again.
    inode: u64,
    welcome: BTreeSet<u32>,
    inside: Vec<Visitor>,
    pace: BTreeMap<u32, Instant>,
}

/// Somebody who has come in.
struct Visitor {
    socket: OwnedFd,
    uid: u32,
    since: Instant,
    /// What they have said.
    request: Option<Request>,
}

/// Somebody who has asked and waits for the answer.
pub struct Guest {
    socket: OwnedFd,
    /// As the kernel knows it.
    pub uid: u32,
    pub request: Request,
}

impl Guest {
    /// Tells how it went. Whoever has gone meanwhile is not missed.
    pub fn answer(self, how: Result<(), &str>) {
        let answer = match how {
            Ok(()) => json!({ "done": true }),
            Err(error) => json!({ "error": error.chars().take(LARGEST / 8).collect::<String>() }),
        };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let _ = send(self.socket.as_raw_fd(), answer.to_string().as_bytes(), flags);
    }
}

impl Door {
    /// Opens it for these users. A socket that a killed daemon left is replaced.
    pub fn open(welcome: BTreeSet<u32>) -> Result<Door, Error> {
        Door::at(Path::new(PATH), welcome)
    }

    fn at(path: &Path, welcome: BTreeSet<u32>) -> Result<Door, Error> {
        let tried = format!("cannot open {}", path.display());
        if fs::symlink_metadata(path).is_ok_and(|about| !about.file_type().is_socket()) {
            return Err(Error::failed(format!("{tried}: there is something else of that name")).hint(format!(
                "see what it is with `ls -ld {}`, remove it, and start `wire watch` again",
                path.display()
            )));
        }
        // It gets its name when it is ready: nobody ever finds it missing, or closed to them.
        let new = path.with_extension("sock.new");
        let _ = fs::remove_file(&new);
        let listener = seqpacket(SockFlag::SOCK_NONBLOCK).context(&tried)?;
        bind(listener.as_raw_fd(), &UnixAddr::new(&new).context(&tried)?).context(&tried)?;
        let ready = || -> io::Result<u64> {
            fs::set_permissions(&new, fs::Permissions::from_mode(0o666))?;
            listen(&listener, Backlog::MAXALLOWABLE)?;
            let inode = fs::symlink_metadata(&new)?.ino();
            fs::rename(&new, path)?;
            Ok(inode)
        };
        let inode = ready().inspect_err(|_| drop(fs::remove_file(&new))).context(&tried)?;
        let listener = UnixListener::from(listener);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context(&tried)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, 0)).context(&tried)?;
        let (inside, pace) = (Vec::new(), BTreeMap::new());
        Ok(Door { listener, epoll, path: path.to_owned(), inode, welcome, inside, pace })
    }

    /// Who may come in from now on.
    pub fn welcome(&mut self, users: BTreeSet<u32>) {
        self.inside.retain(|visitor| users.contains(&visitor.uid));
        self.pace.retain(|uid, _| users.contains(uid));
        self.welcome = users;
    }

    /// When to look in at the latest, though nothing can be read.
    pub fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        let of = |visitor: &Visitor| match visitor.request {
            None => visitor.since + PATIENCE,
            Some(_) => self.turn(visitor.uid, now),
        };
        self.inside.iter().map(of).min()
    }

    /// When a user's next request may be taken up.
    fn turn(&self, uid: u32, now: Instant) -> Instant {
        self.pace.get(&uid).and_then(|paced| paced.checked_sub(PACE * (BURST - 1))).map_or(now, |turn| turn.max(now))
    }

    /// Lets in who is at the door, sends away who says nothing, and gives back who is to be answered now: few of each
    /// user at a time, and none that would have to be waited for.
    pub fn guests(&mut self) -> Vec<Guest> {
        self.let_in();
        let now = Instant::now();
        self.inside.retain_mut(|visitor| {
            let silent = visitor.request.is_none();
            let stays = !silent || visitor.listen(now);
            if silent && visitor.request.is_some() {
                // Whatever else they say, or that they go, is no news.
                let _ = self.epoll.delete(&visitor.socket);
            }
            stays
        });
        let mut guests = Vec::new();
        let mut waiting = Vec::new();
        for visitor in std::mem::take(&mut self.inside) {
            let may = visitor.request.is_some() && self.turn(visitor.uid, now) <= now;
            let Visitor { socket, uid, since, request } = visitor;
            match request {
                Some(request) if may => {
                    let paced = self.pace.entry(uid).or_insert(now);
                    *paced = (*paced).max(now) + PACE;
                    guests.push(Guest { socket, uid, request });
                }
                request => waiting.push(Visitor { socket, uid, since, request }),
            }
        }
        self.inside = waiting;
        guests
    }

    fn let_in(&mut self) {
        // A queue without end is no reason to stay here.
        for _ in 0..MOST {
            let Ok((socket, _)) = self.listener.accept() else { return };
            let Ok(peer) = getsockopt(&socket, PeerCredentials) else { continue };
            let uid = peer.uid();
            if !self.welcome.contains(&uid) {
                continue;
            }
            let mut visitor = Visitor { socket: socket.into(), uid, since: Instant::now(), request: None };
            // Who has something to say has said it before it was let in, and takes the place of who has not.
            if !visitor.listen(visitor.since) {
                continue;
            }
            let speaks = visitor.request.is_some();
            let own = self.inside.iter().filter(|visitor| visitor.uid == uid).count();
            let has_room = match (own < MOST_OF_ONE, self.inside.len() < MOST) {
                (true, true) => true,
                (false, _) => speaks && self.send_away(|visitor| visitor.uid == uid),
                (_, false) => speaks && self.send_away(|_| true),
            };
            let heard = |visitor: &Visitor| {
                let silent = visitor.request.is_none();
                !silent || self.epoll.add(&visitor.socket, EpollEvent::new(EpollFlags::EPOLLIN, 0)).is_ok()
            };
            if has_room && heard(&visitor) {
                self.inside.push(visitor);
            }
        }
    }

    /// Sends away the first of these that has said nothing.
    fn send_away(&mut self, of: impl Fn(&Visitor) -> bool) -> bool {
        let silent = self.inside.iter().position(|visitor| visitor.request.is_none() && of(visitor));
        silent.map(|silent| self.inside.remove(silent)).is_some()
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // Somebody else may have replaced it.
        if fs::symlink_metadata(&self.path).is_ok_and(|about| about.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Visitor {
    /// Hears what was said, if anything was. Whether they may stay.
    fn listen(&mut self, now: Instant) -> bool {
        let mut packet = [0; LARGEST];
        match recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN | Errno::EINTR) => now < self.since + PATIENCE,
            Err(_) | Ok(0) => false,
            Ok(length) => {
                self.request = serde_json::from_slice(&packet[..length]).ok();
                self.request.is_some()
            }
        }
    }
}

/// What a hook is told.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Done(bool),
    Error(String),
}

/// The hook's side: asks, and waits for the answer until then. `patient`: waits for somebody to open the door, too.
pub fn ask(request: &Request, until: Instant, patient: bool) -> Result<(), Error> {
    ask_at(Path::new(PATH), request, until, patient)
}

fn ask_at(path: &Path, request: &Request, until: Instant, patient: bool) -> Result<(), Error> {
    let packet = serde_json::to_vec(request).context("cannot ask `wire watch`")?;
    loop {
        let (why, stays) = match answer(path, &packet, until) {
            Ok(Answer::Done(true)) => return Ok(()),
            Ok(Answer::Error(error)) => return Err(Error::failed(error)),
            Ok(Answer::Done(false)) | Err(Errno::EPROTO) => ("`wire watch` gave no answer", false),
            Err(Errno::ENOENT | Errno::ECONNREFUSED) => ("`wire watch`, which has to wire it, does not run", !patient),
            Err(Errno::ETIMEDOUT) => ("`wire watch` did not answer in time", true),
            Err(Errno::EACCES | Errno::EPERM) => ("`wire watch` cannot be asked: permission denied", true),
            // Its queue is full.
            Err(_) => ("`wire watch` has too much to do", false),
        };
        if stays || Instant::now() + AGAIN > until {
            return Err(Error::failed(why).hint(format!("see whether it runs, and {} is there", path.display())));
        }
        thread::sleep(AGAIN);
    }
}

fn answer(path: &Path, packet: &[u8], until: Instant) -> Result<Answer, Errno> {
    let socket = knock(path)?;
    send(socket.as_raw_fd(), packet, MsgFlags::MSG_NOSIGNAL)?;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], left) {
            Ok(0) => return Err(Errno::ETIMEDOUT),
            Err(Errno::EINTR) => continue,
            polled => polled?,
        };
        let mut answer = [0; LARGEST];
        let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
        // Nothing at all: it was closed. Only an answer is one.
        return serde_json::from_slice(&answer[..length]).map_err(|_| Errno::EPROTO);
    }
}

/// Comes in, without waiting where that takes a while.
fn knock(path: &Path) -> Result<OwnedFd, Errno> {
    let socket = seqpacket(SockFlag::SOCK_NONBLOCK)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

fn seqpacket(flags: SockFlag) -> nix::Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::SeqPacket, flags | SockFlag::SOCK_CLOEXEC, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A door of its own for one test, which lets in whoever runs it.
    fn door(test: &str) -> (Door, PathBuf) {
        let path = std::env::temp_dir().join(format!("wire-door-{test}-{}.sock", std::process::id()));
        (Door::at(&path, BTreeSet::from([me()])).unwrap(), path)
    }

    fn me() -> u32 {
        nix::unistd::Uid::effective().as_raw()
    }

    fn request(pid: u32) -> Request {
        Request { stage: Stage::CreateRuntime, id: "900eae".into(), pid }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    fn say(socket: &OwnedFd, packet: &[u8]) {
        send(socket.as_raw_fd(), packet, MsgFlags::MSG_NOSIGNAL).unwrap();
    }

    /// Waits as the daemon does, until somebody has asked.
    fn next(door: &mut Door) -> Vec<Guest> {
        let end = soon();
        loop {
            let guests = door.guests();
            if !guests.is_empty() {
                return guests;
            }
            assert!(Instant::now() < end, "nobody comes");
            let due = door.due().unwrap_or(end).saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(door.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::try_from(due).unwrap()).unwrap();
        }
    }

    #[test]
    fn what_is_asked_is_answered() {
        let (mut door, path) = door("answer");
        let asked = thread::scope(|scope| {
            let asks =
                scope.spawn(|| (1..=2).map(|pid| ask_at(&path, &request(pid), soon(), false)).collect::<Vec<_>>());
            for (pid, how) in [(1, Ok(())), (2, Err("no such node"))] {
                let guest = next(&mut door).pop().unwrap();
                assert_eq!((guest.uid, &guest.request), (me(), &request(pid)));
                guest.answer(how);
            }
            asks.join().unwrap()
        });
        assert_eq!(asked, [Ok(()), Err(Error::failed("no such node"))]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        drop(door);
        assert!(!path.exists());
    }

    #[test]
    fn nobody_at_home_is_told_at_once_or_waited_for() {
        let (door, path) = door("home");
        drop(door);
        let start = Instant::now();
        let error = ask_at(&path, &request(1), soon(), false).unwrap_err();
        assert_eq!(error.message, "`wire watch`, which has to wire it, does not run");
        assert!(start.elapsed() < Duration::from_secs(5));
        let until = Instant::now() + Duration::from_millis(100);
        ask_at(&path, &request(1), until, true).unwrap_err();
        assert!(Instant::now() + AGAIN >= until, "not patient");
        // One that never answers does not hold it up either.
        let door = Door::at(&path, BTreeSet::from([me()])).unwrap();
        let error = ask_at(&path, &request(1), Instant::now() + Duration::from_millis(50), false).unwrap_err();
        assert_eq!(error.message, "`wire watch` did not answer in time");
        drop(door);
    }

    #[test]
    fn silence_and_nonsense_are_sent_away() {
        let (mut door, path) = door("silent");
        let late = knock(&path).unwrap();
        door.guests();
        for packet in [&b"{"[..], &[b' '; LARGEST + 1], br#"{"stage":"createRuntime","id":"a","pid":1,"x":1}"#, b""] {
            say(&knock(&path).unwrap(), packet);
        }
        assert_eq!(door.guests().len(), 0);
        assert_eq!(door.inside.len(), 1, "only who has said nothing yet");
        say(&late, b"nonsense");
        assert_eq!(door.guests().len(), 0);
        assert!(door.inside.is_empty());
        let silent: Vec<OwnedFd> = (0..3 * MOST_OF_ONE).map(|_| knock(&path).unwrap()).collect();
        assert_eq!(door.guests().len(), 0);
        assert!(door.inside.len() <= MOST_OF_ONE, "{} inside", door.inside.len());
        // Whoever asks is heard among them.
        let asks = knock(&path).unwrap();
        say(&asks, &serde_json::to_vec(&request(7)).unwrap());
        assert_eq!(next(&mut door)[0].request.pid, 7);
        door.inside.iter_mut().for_each(|visitor| visitor.since -= PATIENCE);
        assert!(door.due().unwrap() <= Instant::now());
        assert_eq!(door.guests().len(), 0);
        assert!(door.inside.is_empty(), "they are sent away in the end");
        drop(silent);
    }

    #[test]
    fn a_flood_is_taken_up_at_a_pace() {
        let (mut door, path) = door("flood");
        let asks = |pid| {
            let socket = knock(&path).unwrap();
            say(&socket, &serde_json::to_vec(&request(pid)).unwrap());
            socket
        };
        let first: Vec<OwnedFd> = (0..MOST_OF_ONE as u32).map(asks).collect();
        assert_eq!(door.guests().len(), BURST as usize);
        let second: Vec<OwnedFd> = (0..2 * MOST as u32).map(asks).collect();
        let start = Instant::now();
        let mut answered = 0;
        while start.elapsed() < 4 * PACE {
            answered += door.guests().len();
            assert!(door.inside.len() <= MOST_OF_ONE);
            thread::sleep(Duration::from_millis(1));
        }
        assert!((1..=6).contains(&answered), "{answered} in four paces");
        drop((first, second));
    }

    #[test]
    fn only_who_is_welcome_comes_in() {
        let (mut door, path) = door("welcome");
        let inside = knock(&path).unwrap();
        door.guests();
        assert_eq!(door.inside.len(), 1);
        door.welcome(BTreeSet::from([me() + 1]));
        assert!(door.inside.is_empty());
        say(&knock(&path).unwrap(), &serde_json::to_vec(&request(1)).unwrap());
        assert_eq!(door.guests().len(), 0);
        assert!(door.inside.is_empty());
        drop(inside);
    }

    #[test]
    fn what_a_kill_left_is_replaced() {
        let (door, path) = door("kill");
        let second = Door::at(&path, BTreeSet::new()).unwrap();
        drop(door);
        assert!(path.exists(), "the second one's is not the first one's to remove");
        drop(second);
        assert!(!path.exists());
        fs::write(&path, "").unwrap();
        assert!(Door::at(&path, BTreeSet::new()).is_err(), "something else");
        fs::remove_file(&path).unwrap();
    }

    /// Nobody who has asked and waits, or has gone, keeps the daemon awake.
    #[test]
    fn it_is_quiet_where_nothing_is_to_be_heard() {
        let (mut door, path) = door("quiet");
        let is_readable =
            |door: &Door| poll(&mut [PollFd::new(door.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() > 0;
        assert!(!is_readable(&door));
        let silent = knock(&path).unwrap();
        assert!(is_readable(&door));
        door.guests();
        assert!(!is_readable(&door), "it was let in");
        say(&silent, &serde_json::to_vec(&request(1)).unwrap());
        assert!(is_readable(&door));
        // Its turn is not yet.
        door.pace.insert(me(), Instant::now() + 2 * BURST * PACE);
        assert_eq!(door.guests().len(), 0);
        drop(silent);
        assert!(!is_readable(&door));
        assert!(door.due().unwrap() > Instant::now());
    }
}
