//! When what was heard of is looked at: at once, unless the same was looked at too often of late. So whoever breaks his own wire
//! again and again has it mended ever more seldom, and nobody else waits for that. Pure: the time comes in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::kernel::ears::Place;
use crate::topology::Name;

/// What may have to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aim {
    Everything,
    Node(Name),
    Rules(Name),
    Wire(Name),
    /// Where nodes may have begun or ended.
    Place(Place),
}

impl Aim {
    fn is_place(&self) -> bool {
        matches!(self, Aim::Place(_))
    }
}

/// So many looks in succession are free, a mend counting double; each second gives one back.
const FREE: f64 = 40.0;
/// The first wait after that; it doubles with every four more.
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(30);
/// However often there is news: looking takes no more than this part of the time.
const SHARE: u32 = 4;

/// How often something was looked at of late.
#[derive(Clone, Copy, Debug)]
struct Record {
    score: f64,
    at: Instant,
    /// Not before.
    next: Instant,
}

impl Record {
    fn score(&self, now: Instant) -> f64 {
        (self.score - now.saturating_duration_since(self.at).as_secs_f64()).max(0.0)
    }
}

/// What is to be looked at, and when.
#[derive(Debug, Default)]
pub struct Patience {
    due: BTreeMap<Aim, Instant>,
    records: BTreeMap<Aim, Record>,
}

impl Patience {
    /// There is news of it.
    pub fn heard(&mut self, aim: Aim, now: Instant) {
        let next = self.records.get(&aim).map_or(now, |record| record.next.max(now));
        self.due.entry(aim).or_insert(next);
    }

    /// It is to be looked at again at that time, even without news; later where it has to wait anyway.
    pub fn again(&mut self, aim: Aim, at: Instant) {
        let at = self.records.get(&aim).map_or(at, |record| record.next.max(at));
        let due = self.due.entry(aim).or_insert(at);
        *due = at.min(*due);
    }

    /// When the next is due; of places alone, while nothing may be mended.
    pub fn until(&self, places_alone: bool) -> Option<Instant> {
        self.due.iter().filter(|(aim, _)| !places_alone || aim.is_place()).map(|(_, at)| *at).min()
    }

    /// What is due but for places, which is not any more.
    pub fn take(&mut self, now: Instant) -> BTreeSet<Aim> {
        let is_due = |aim: &Aim, at: &Instant| *at <= now && !aim.is_place();
        let due: BTreeSet<Aim> =
            self.due.iter().filter(|(aim, at)| is_due(aim, at)).map(|(aim, _)| aim.clone()).collect();
        let all = due.contains(&Aim::Everything);
        self.due.retain(|aim, _| aim.is_place() || !all && !due.contains(aim));
        due
    }

    /// The places among what is due.
    pub fn take_places(&mut self, now: Instant) -> BTreeSet<Place> {
        let is_due = |aim: &Aim, at: &Instant| *at <= now && aim.is_place();
        let due: Vec<Aim> = self.due.iter().filter(|(aim, at)| is_due(aim, at)).map(|(aim, _)| aim.clone()).collect();
        self.due.retain(|aim, _| !due.contains(aim));
        due.into_iter().filter_map(|aim| if let Aim::Place(place) = aim { Some(place) } else { None }).collect()
    }

    /// It was looked into, which took so long: however often there is news of it, that takes a part of the time alone. Many
    /// containers that start at once are nothing to be suspicious of.
    pub fn looked_into(&mut self, aim: Aim, took: Duration, now: Instant) {
        self.records.insert(aim, Record { score: 0.0, at: now, next: now + took * SHARE });
    }

    /// It was looked at, which took so long, and mended or not. Returns the wait before the next look, where it is one that
    /// comes of too many.
    pub fn looked(&mut self, aim: Aim, mended: bool, took: Duration, now: Instant) -> Option<Duration> {
        // What was long ago is nothing to be remembered.
        self.records.retain(|_, record| record.next > now || record.score(now) > 0.0);
        let before = self.records.get(&aim).map_or(0.0, |record| record.score(now));
        let score = before + if mended { 2.0 } else { 1.0 };
        let over = score - FREE;
        let wait = match over > 0.0 {
            true => FIRST.mul_f64(2_f64.powf((over / 4.0).min(20.0))).min(LONGEST),
            false => Duration::ZERO,
        };
        // The score stands still at its largest wait, so that a year of breaking does not take a year to be forgiven.
        let score = score.min(FREE + 40.0);
        let share = if over > -FREE / 2.0 { took * SHARE } else { Duration::ZERO };
        self.records.insert(aim, Record { score, at: now, next: now + wait.max(share) });
        (!wait.is_zero()).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(name: &str) -> Aim {
        Aim::Wire(Name::new(name).unwrap())
    }

    const QUICK: Duration = Duration::from_millis(3);

    /// How often something is mended within a time when it is broken again as soon as it is whole.
    fn mends(patience: &mut Patience, aim: &Aim, start: Instant, length: Duration) -> usize {
        let (mut now, mut count) = (start, 0);
        while now < start + length {
            patience.heard(aim.clone(), now);
            now = patience.until(false).unwrap().max(now);
            assert!(patience.take(now).contains(aim));
            now += QUICK;
            patience.looked(aim.clone(), true, QUICK, now);
            count += 1;
        }
        count
    }

    #[test]
    fn what_is_heard_is_due_at_once_and_once() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        assert_eq!(patience.until(false), None);
        patience.heard(wire("a"), now);
        patience.heard(wire("a"), now);
        patience.heard(wire("b"), now);
        assert_eq!(patience.until(false), Some(now));
        assert_eq!(patience.take(now), BTreeSet::from([wire("a"), wire("b")]));
        assert_eq!((patience.take(now), patience.until(false)), (BTreeSet::new(), None));
    }

    /// The first twenty breaks are mended at once; then ever more seldom, in an hour no more than a few hundred times.
    #[test]
    fn who_breaks_without_end_is_mended_ever_more_seldom() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        let first = mends(&mut patience, &wire("a"), start, Duration::from_millis(200));
        assert!((18..=24).contains(&first), "{first}");
        let next = start + Duration::from_millis(200);
        let later = mends(&mut patience, &wire("a"), next, Duration::from_secs(3600));
        assert!((60..2000).contains(&later), "{later}");
    }

    /// Nobody else waits for him, and he does not wait himself when he has kept quiet for a while.
    #[test]
    fn others_do_not_wait_and_quiet_is_forgiven() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        mends(&mut patience, &wire("a"), start, Duration::from_secs(60));
        let now = start + Duration::from_secs(61);
        patience.heard(wire("a"), now);
        patience.heard(wire("b"), now);
        assert_eq!(patience.take(now), BTreeSet::from([wire("b")]));
        let later = now + Duration::from_secs(120);
        assert_eq!(patience.take(later), BTreeSet::from([wire("a")]));
        patience.looked(wire("a"), true, QUICK, later);
        patience.heard(wire("a"), later);
        assert_eq!(patience.until(false), Some(later));
    }

    /// A place is looked into at once, and then as often as the time that it takes allows, also while nothing may be mended.
    #[test]
    fn places_take_their_share_of_the_time() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        let place = Aim::Place(Place::Namespaces);
        patience.heard(place.clone(), now);
        patience.heard(wire("a"), now);
        assert_eq!(patience.take_places(now), BTreeSet::from([Place::Namespaces]));
        patience.looked_into(place.clone(), QUICK, now);
        patience.heard(place, now);
        assert_eq!((patience.until(false), patience.until(true)), (Some(now), Some(now + QUICK * SHARE)));
        assert_eq!(patience.take_places(now), BTreeSet::new());
        assert_eq!(patience.take(now + QUICK * SHARE), BTreeSet::from([wire("a")]));
        assert_eq!(patience.take_places(now + QUICK * SHARE), BTreeSet::from([Place::Namespaces]));
    }

    /// A look at everything is a look at each.
    #[test]
    fn everything_is_each() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        patience.again(wire("a"), now + Duration::from_secs(9));
        patience.heard(Aim::Everything, now);
        assert_eq!(patience.take(now), BTreeSet::from([Aim::Everything]));
        assert_eq!(patience.until(false), None);
    }
}
