//! `wire up --confirm`: a change that is undone again unless somebody says in time that it is good. Whoever undoes it is left
//! behind before anything is changed, so that not even a kill in the midst of the change leaves it there for ever.

use std::path::PathBuf;
use std::time::Duration;

use crate::apply;
use crate::error::{Error, Exit};
use crate::kernel::behind::{self, Word};
use crate::kernel::pending::{Held, Pending, Undone, now};
use crate::kernel::run::{Lock, RunDirectory};
use crate::parse;
use crate::plan::Change;
use crate::report::Report;
use crate::rules::Rules;
use crate::state::State;
use crate::target::Scope;
use crate::undo::Undo;
use crate::voice::{Voice, count, duration};

/// A change waits no longer than a day.
const LONGEST: u64 = 86400;
/// How often whoever waits looks whether the change was confirmed.
const LOOK: Duration = Duration::from_secs(1);
/// How often what could not even be looked at is tried again.
const TRIES: usize = 5;

/// The seconds that a change waits for its confirmation, from the command line.
pub fn term(word: &str) -> Result<u64, Error> {
    let seconds = parse::duration(word)
        .map_err(|fault| Error { hint: fault.hint, ..Error::invalid(format!("--confirm: {}", fault.message)) })?;
    if seconds > LONGEST {
        return Err(Error::invalid(format!("--confirm: {} is too long", duration(seconds)))
            .hint("a change waits for a day at most: `1d`"));
    }
    Ok(seconds)
}

/// Refuses a second change that would wait: the first would be undone in the midst of it.
pub fn none_pending(_lock: &Lock) -> Result<(), Error> {
    match RunDirectory::open()?.pending()? {
        Some((pending, true)) => {
            let left = duration(pending.seconds());
            Err(Error::failed(format!("another change waits for confirmation, for {left} yet"))
                .hint(format!("`wire confirm` keeps it; or wait {left} until it is undone")))
        }
        _ => Ok(()),
    }
}

/// The file that is there while a change waits.
pub fn file() -> PathBuf {
    RunDirectory::pending_file()
}

/// How long a change waits yet, where one does and somebody would undo it.
pub fn waits(_lock: &Lock) -> Result<Option<Duration>, Error> {
    let pending = RunDirectory::open()?.pending()?;
    Ok(pending.and_then(|(pending, is_waited_for)| is_waited_for.then(|| pending.left())))
}

/// Says of a change that waits what will become of what was done now.
pub fn remind(voice: &Voice, _lock: &Lock) {
    // What could not be read is told by whoever needs it.
    let pending = RunDirectory::open().and_then(|run| run.pending());
    if let Ok(Some((pending, true))) = pending {
        let left = duration(pending.seconds());
        let warning = Error::failed(format!("a change waits for confirmation and is undone in {left}"));
        voice.warn(&warning.hint("`wire confirm` keeps it"));
    }
}

/// Leaves somebody behind who undoes these changes of what was seen after so many seconds, unless they are confirmed.
pub fn arm(
    voice: &Voice,
    rules: &Rules,
    scope: &Scope,
    (seen, changes): (&State, &[Change]),
    term: u64,
    lock: &Lock,
) -> Result<Pending, Error> {
    let run = RunDirectory::open()?;
    let undo = Undo::of(seen, changes);
    let pending = Pending { made: now(), term };
    run.put_pending(&pending, lock)?;
    let stays = behind::stay(&mut |word| wait(voice, rules, scope, &undo, &pending, word));
    if let Err(error) = stays {
        run.drop_pending(lock)?;
        let message = format!("{}; nothing was changed", error.message);
        return Err(Error { message, ..error });
    }
    Ok(pending)
}

/// The life of the one who was left behind.
fn wait(voice: &Voice, rules: &Rules, scope: &Scope, undo: &Undo, pending: &Pending, word: Word) {
    let held = RunDirectory::open().and_then(|run| Ok((run.hold_pending()?, run)));
    let (held, run): (Held, RunDirectory) = match held {
        Ok(held) => held,
        Err(error) => return word.cannot(&error),
    };
    word.ready();
    while !held.is_gone() {
        let left = pending.left();
        if left.is_zero() {
            let Ok(lock) = run.lock(|| {}) else { return };
            if !held.is_gone() {
                let undone = undone(voice, rules, scope, undo, pending, &lock);
                // Nobody is there to be told that it cannot be written.
                let _ = run.put_undone(&undone, &lock);
                let _ = run.drop_pending(&lock);
            }
            return;
        }
        std::thread::sleep(left.min(LOOK));
    }
}

fn undone(voice: &Voice, rules: &Rules, scope: &Scope, undo: &Undo, pending: &Pending, lock: &Lock) -> Undone {
    let elapsed = now().saturating_sub(pending.made) / 1000;
    let want = |seen: &State| undo.wanted(seen, elapsed);
    let mut tries = 0;
    let done = loop {
        tries += 1;
        match apply::back(voice, rules, scope, (undo.devices(), undo.unmade()), lock, &want) {
            Err(_) if tries < TRIES => std::thread::sleep(LOOK),
            done => break done,
        }
    };
    let (changes, failed) = match done {
        Ok(Report { done, failed, findings, .. }) => {
            let blocked = findings.into_iter().filter(|finding| finding.blocks);
            let blocked = blocked.filter(|finding| finding.wire.as_ref().is_some_and(|wire| undo.is_about(wire)));
            let failed = failed.into_iter().map(|(change, error)| format!("{change}: {error}"));
            (done.len(), failed.chain(blocked.map(|finding| finding.message)).collect())
        }
        Err(error) => (0, vec![error.message]),
    };
    Undone { at: now(), term: pending.term, changes, failed }
}

/// `wire confirm`: the change that waits stays.
pub fn run(voice: &Voice) -> Result<Exit, Error> {
    let nothing = || Error::failed("no change waits for confirmation");
    let Some(run) = RunDirectory::look()? else { return Err(nothing()) };
    let lock = run.lock(|| voice.say("waiting for another run of wire to end"))?;
    let Some((pending, is_waited_for)) = run.pending()? else {
        return Err(run.undone()?.map_or_else(nothing, |undone| refusal(&undone)));
    };
    run.drop_pending(&lock)?;
    if !is_waited_for {
        let warning = Error::failed("whoever was to undo the change had ended before");
        voice.warn(&warning.hint("`wire audit` tells whether all of it is as the file says"));
    }
    if voice.json {
        voice.print_json(&serde_json::json!({ "confirmed": true, "left": pending.seconds() }));
    } else {
        voice.say("confirmed: the change stays");
    }
    Ok(Exit::Done)
}

/// Why there is nothing to confirm any more.
fn refusal(undone: &Undone) -> Error {
    let ago = duration(now().saturating_sub(undone.at) / 1000);
    let waited = duration(undone.term);
    let message = format!("nobody confirmed the change within {waited}: it was undone {ago} ago");
    if undone.failed.is_empty() {
        return Error::failed(format!("{message} ({})", count(undone.changes, "change")))
            .hint("`wire up` makes it again");
    }
    Error::failed(format!("{message}, but for this: {}", undone.failed.join("; ")))
        .hint("`wire plan` tells where the kernel is not as the file says")
}
