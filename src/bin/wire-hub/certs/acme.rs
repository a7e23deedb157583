//! Certificates of an ACME directory (RFC 8555): each host has a task that keeps its certificate on the disk and shown, gets a
//! new one in time, and after a failure tries again later and later.

mod client;
mod directory;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::pair::{Moment, Pair};
use super::shelf;
use super::shown::Shown;
use crate::orders::{self, Proxy};
use crate::voice;
use directory::{Directory, Failure, Look};

/// After the first failure, and never longer than the second.
const AGAIN: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(12 * 3_600)];
/// Clocks are set and machines sleep: what is due is looked at so often.
const NAP: Duration = Duration::from_secs(600);

pub struct Acme {
    state: PathBuf,
    shown: Arc<Shown>,
    settings: Option<(orders::Acme, Vec<IpAddr>)>,
    directory: Option<Arc<Directory>>,
    tasks: BTreeMap<String, Task>,
}

/// What keeps one host's certificate, until it is dropped.
struct Task {
    handle: AbortHandle,
    /// Told when somebody may have mended what was wrong.
    mended: Arc<Notify>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Acme {
    pub fn new(state: PathBuf, shown: Arc<Shown>) -> Acme {
        Acme { state, shown, settings: None, directory: None, tasks: BTreeMap::new() }
    }

    /// From now on for these hosts. What failed is tried again at once, unless ACME said when.
    pub fn serve(&mut self, hosts: BTreeSet<String>, orders: &Proxy) {
        let settings = Some((orders.acme.clone(), orders.nameservers.clone()));
        if self.settings != settings {
            self.tasks.clear();
            (self.settings, self.directory) = (settings, None);
        }
        self.tasks.retain(|host, _| hosts.contains(host));
        self.tasks.values().for_each(|task| task.mended.notify_waiters());
        for host in hosts {
            if self.tasks.contains_key(&host) {
                continue;
            }
            let directory = match &self.directory {
                Some(directory) => directory.clone(),
                None => match Directory::open(&self.state, &orders.acme, &orders.nameservers, self.shown.clone()) {
                    Ok(directory) => self.directory.insert(Arc::new(directory)).clone(),
                    Err(trouble) => return voice::error(&format!("no certificates from ACME: {trouble}")),
                },
            };
            // What is kept is shown before anybody is served.
            let held = directory.kept(&host);
            if let Some(pair) = &held {
                self.shown.show(&host, pair.key.clone());
            }
            let mended = Arc::new(Notify::new());
            let task = tokio::spawn(keep(directory, self.shown.clone(), host.clone(), held, mended.clone()));
            self.tasks.insert(host, Task { handle: task.abort_handle(), mended });
        }
    }
}

/// Keeps the certificate of a host for ever.
async fn keep(directory: Arc<Directory>, shown: Arc<Shown>, host: String, mut held: Option<Pair>, mended: Arc<Notify>) {
    let mut look = Look::Tls;
    let mut failures = 0;
    loop {
        if let Some(pair) = &held {
            // Not all at the same time.
            let early = Duration::from_secs(shelf::random() % (pair.until.since(pair.from).as_secs() / 30).max(1));
            until(pair.due().before(early)).await;
        }
        let gotten = directory.get(&host, &mut look).await;
        let failure = match gotten {
            Ok(pair) => {
                shown.show(&host, pair.key.clone());
                let late = pair.due() <= Moment::now();
                let told = format!("from {}, until {}", directory.name, pair.until);
                held = Some(pair);
                if !late {
                    voice::say(&format!("certificate of {host}: {told}"));
                    failures = 0;
                    continue;
                }
                Failure { why: format!("it comes {told}, which is too soon by the clock of this machine"), later: None }
            }
            Err(failure) => failure,
        };
        failures += 1;
        let wait = pause(failures, failure.later, Moment::now());
        let meanwhile = match &held {
            Some(pair) if pair.until > Moment::now() => format!("the one that is there holds until {}", pair.until),
            Some(_) => "the one that is there does not hold any more".to_owned(),
            None if shown.has(&host) => "the certificate of before stays".to_owned(),
            None => "no handshake for it until then".to_owned(),
        };
        let why = &failure.why;
        voice::error(&format!("certificate of {host}: {why}; next try in {}; {meanwhile}", words(wait)));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // Whoever has mended something has not made ACME forget how often it was asked.
            () = mended.notified(), if failure.later.is_none() => {}
        }
    }
}

/// Waits for a moment of the clock, however that is set meanwhile.
async fn until(due: Moment) {
    loop {
        let left = due.since(Moment::now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(NAP)).await;
    }
}

/// How long to wait after so many failures in a row: twice as long each time, and as long as ACME wants.
fn pause(failures: u32, later: Option<Moment>, now: Moment) -> Duration {
    let [first, last] = AGAIN;
    let own = first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(last);
    later.map_or(own, |later| own.max(later.since(now)))
}

/// A duration in words, not shorter than it is.
fn words(duration: Duration) -> String {
    let (number, unit) = match duration.as_secs() {
        seconds @ ..120 => (seconds, "second"),
        seconds @ 120..7_200 => (seconds.div_ceil(60), "minute"),
        seconds => (seconds.div_ceil(3_600), "hour"),
    };
    let many = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{many}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_there_is_time() {
        let now = Moment(1_000_000);
        let minutes = |failures, later| pause(failures, later, now).as_secs() / 60;
        let own: Vec<u64> = (1..=12).map(|failures| minutes(failures, None)).collect();
        assert_eq!(own, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 720, 720]);
        assert_eq!(minutes(u32::MAX, None), 720);
        assert_eq!(minutes(1, Some(now.after(Duration::from_secs(7_200)))), 120);
        assert_eq!(minutes(3, Some(Moment(5))), 4, "a time that is over");
    }

    #[test]
    fn a_duration_is_told_in_words() {
        for (seconds, wanted) in
            [(1, "1 second"), (60, "60 seconds"), (120, "2 minutes"), (3_599, "60 minutes"), (43_200, "12 hours")]
        {
            assert_eq!(words(Duration::from_secs(seconds)), wanted);
        }
    }
}
