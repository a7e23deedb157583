//! A certificate that somebody else puts into files, and replaces whenever he likes: it is read again and again, and taken once
//! both files are whole and belong together.

use std::hash::{Hash, Hasher};
use std::path::Path;

use siphasher::sip::SipHasher24;

use super::pair::{Moment, Pair};
use super::shelf;
use crate::voice;

pub struct Files {
    cert: String,
    key: String,
    /// What the files held when they were taken.
    taken: Option<u64>,
    bad: Option<Bad>,
}

/// What is wrong with the files now.
#[derive(PartialEq)]
struct Bad {
    why: String,
    told: bool,
}

impl Files {
    pub fn new(cert: &str, key: &str) -> Files {
        Files { cert: cert.to_owned(), key: key.to_owned(), taken: None, bad: None }
    }

    /// What is there, if it is new and good. Whoever is just writing it is not complained about before the next look, unless
    /// somebody waits to be told. `shown`: the host has a certificate, be it from elsewhere.
    pub fn look(&mut self, host: &str, shown: bool, at_once: bool) -> Option<Pair> {
        let read = shelf::read(Path::new(&self.cert)).and_then(|cert| Ok((cert, shelf::read(Path::new(&self.key))?)));
        let read = read.map(|pair| (likeness(&pair), pair));
        let why = match read {
            Ok((now, _)) if self.taken == Some(now) => {
                self.bad = None;
                return None;
            }
            Ok((now, (cert, key))) => match Pair::of(&cert, &key) {
                Ok(pair) => {
                    self.tell_taken(host, &pair);
                    (self.taken, self.bad) = (Some(now), None);
                    return Some(pair);
                }
                Err(why) => format!("{} and {}: {why}", self.cert, self.key),
            },
            Err(trouble) => trouble.to_string(),
        };
        let again = self.bad.take().filter(|bad| bad.why == why);
        let told = again.as_ref().is_some_and(|bad| bad.told);
        if !told && (at_once || again.is_some()) {
            let until = match shown {
                false => "no handshake for it until that is mended",
                true => "the certificate of before stays",
            };
            voice::error(&format!("certificate of {host}: {why}; {until}"));
        }
        self.bad = Some(Bad { told: told || at_once || again.is_some(), why });
        None
    }

    fn tell_taken(&self, host: &str, pair: &Pair) {
        if shelf::is_everybodys(Path::new(&self.key)) {
            voice::say(&format!("{} can be read by others, who could pretend to be {host}: `chmod o-r` it", self.key));
        }
        match pair.complaint(host, Moment::now()) {
            Some(complaint) => {
                voice::say(&format!("certificate of {host}: {}: {complaint}; clients will refuse it", self.cert))
            }
            None if self.taken.is_some() || self.bad.is_some() => {
                voice::say(&format!("certificate of {host}: took what {} holds now, until {}", self.cert, pair.until));
            }
            None => {}
        }
    }
}

fn likeness(bytes: &(Vec<u8>, Vec<u8>)) -> u64 {
    let mut hasher = SipHasher24::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
