//! How fast a scan may go: a rate that is set, and giving way to others.
//!
//! Others are seen in the disk's own counters, not felt through a scheduler: most schedulers ignore I/O priorities. While
//! somebody else uses the disk, one small request is made at a time, and after it a pause that is a multiple of the time
//! that it took. When nobody does, the scan goes at full speed.
//!
//! Invariants:
//! - time is handed in, so that everything here can be tested without waiting;
//! - over any time the bytes admitted are at most the rate times that time, and one burst;
//! - while others are at work the scan has at most one part in [`SHARE`] of the disk's time, but for reads that take
//!   seconds by themselves.

use crate::units::Sectors;
use std::time::Duration;

/// The part of the disk's time that a scan takes while others use it: one in so many.
pub const SHARE: u32 = 100;

/// The largest request while others use the disk: they wait for it no longer than for one of their own.
const SMALL: Sectors = Sectors(256);

/// How often the counters are looked at.
const SAMPLE_EVERY: Duration = Duration::from_millis(20);

/// How often the scan pauses until nothing of its own is in flight, to see whether anything else is: where others were
/// seen lately, and where they were not.
const LISTEN_OFTEN: Duration = Duration::from_millis(250);
const LISTEN_SELDOM: Duration = Duration::from_secs(1);

/// How long nobody else must have used the disk before the scan goes at full speed again. Doubled when that was too
/// early, up to the longest.
const QUIET: Duration = Duration::from_secs(1);
const LONGEST_QUIET: Duration = Duration::from_secs(30);

/// No pause is longer: a read of a bad sector can take many seconds by itself.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// For this time after others were seen requests are smaller and one at a time, also while nobody is there: who comes back
/// does not wait long.
const WARY: Duration = Duration::from_secs(30);
const WARY_CHUNK: Sectors = Sectors(1024);

/// A pause is looked at anew after this time, so that an idle disk is not left idle.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// How a scan behaves towards others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    /// As fast as it can.
    None,
    /// A small share of the disk's time while others use it.
    GiveWay,
    /// Nothing at all while others use it.
    IdleOnly,
}

/// Whether others use the disk.
pub trait Others {
    /// Whether anybody else has used the disk since the last call. `own` is what the scan has read so far, and
    /// `in_flight` what it has asked for and not got yet.
    fn seen(&mut self, own: Sectors, in_flight: Sectors) -> bool;
    /// Whether they can be told from the scan only while it has nothing in flight.
    fn needs_quiet(&self) -> bool;
}

/// Nobody to give way to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Others for Alone {
    fn seen(&mut self, _own: Sectors, _in_flight: Sectors) -> bool {
        false
    }
    fn needs_quiet(&self) -> bool {
        false
    }
}

/// Whether a request may be made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Yes, of at most so many sectors.
    Go(Sectors),
    /// Ask again after this time.
    Wait(Duration),
}

/// Decides when requests are made.
pub struct Pacer<'a> {
    /// Bytes in a second; none for no limit.
    rate: Option<u64>,
    manners: Manners,
    others: &'a mut (dyn Others + Send),
    chunk: Sectors,
    depth: u32,
    /// Bytes that may be read now; less than none after a large request.
    tokens: f64,
    counted: Duration,
    sampled: Option<Duration>,
    listened: Duration,
    /// What is seen is of the scan itself, or may be.
    away: bool,
    stale: bool,
    /// When others were last seen.
    met: Option<Duration>,
    busy_until: Duration,
    quiet: Duration,
    /// When the disk was last taken for idle, if it was since.
    resumed: Option<Duration>,
    /// Not before this time while others are at work.
    pause_until: Duration,
    own: Sectors,
    in_flight: Sectors,
    requests: u32,
}

impl std::fmt::Debug for Pacer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pacer({:?}, rate {:?})", self.manners, self.rate)
    }
}

impl<'a> Pacer<'a> {
    /// A pacer for requests of up to `chunk` sectors, `depth` of them at a time. `rate` is in bytes a second.
    pub fn new(
        rate: Option<u64>,
        manners: Manners,
        others: &'a mut (dyn Others + Send),
        chunk: Sectors,
        depth: u32,
    ) -> Pacer<'a> {
        Pacer {
            rate,
            manners,
            others,
            chunk,
            depth,
            tokens: 0.0,
            counted: Duration::ZERO,
            sampled: None,
            listened: Duration::ZERO,
            away: false,
            stale: false,
            met: None,
            busy_until: Duration::ZERO,
            quiet: QUIET,
            resumed: None,
            pause_until: Duration::ZERO,
            own: Sectors::ZERO,
            in_flight: Sectors::ZERO,
            requests: 0,
        }
    }

    /// The most requests in flight.
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// How the scan behaves towards others.
    pub fn manners(&self) -> Manners {
        self.manners
    }

    /// Whether others use the disk, as far as was seen.
    pub fn gives_way(&self, now: Duration) -> bool {
        self.manners != Manners::None && now < self.busy_until
    }

    /// Whether a request may be made at `now` (time since the scan began).
    pub fn admit(&mut self, now: Duration) -> Admission {
        self.look(now);
        if self.listens(now) && self.requests > 0 {
            return Admission::Wait(Duration::from_millis(1));
        }
        let mut limit = self.chunk;
        let mut depth = self.depth;
        if self.met.is_some_and(|at| now < at.saturating_add(WARY)) {
            (limit, depth) = (limit.min(WARY_CHUNK), 1);
        }
        if self.gives_way(now) {
            (limit, depth) = (limit.min(SMALL), 1);
            let until = match self.manners {
                Manners::IdleOnly => self.busy_until,
                _ => self.pause_until,
            };
            if now < until {
                return Admission::Wait(until.saturating_sub(now).min(LONGEST_WAIT));
            }
        }
        if self.requests >= depth {
            return Admission::Wait(LONGEST_WAIT.min(SAMPLE_EVERY));
        }
        match self.rate_wait(now) {
            Some(wait) => Admission::Wait(wait),
            None => Admission::Go(limit),
        }
    }

    /// Whether it is time to have nothing in flight for a moment.
    fn listens(&self, now: Duration) -> bool {
        let lately = self.met.is_some_and(|at| now < at.saturating_add(WARY));
        let every = if lately { LISTEN_OFTEN } else { LISTEN_SELDOM };
        self.manners != Manners::None && self.others.needs_quiet() && now >= self.listened.saturating_add(every)
    }

    /// Whether the moment has come that [`Self::admit`] waits for with all requests: nothing is in flight.
    pub fn hears(&self, now: Duration) -> bool {
        self.requests == 0 && self.listens(now)
    }

    /// Takes note that a request of this length was made.
    pub fn begin(&mut self, len: Sectors) {
        self.tokens -= bytes(len);
        self.requests = self.requests.saturating_add(1);
        self.in_flight = Sectors(self.in_flight.0.saturating_add(len.0));
    }

    /// Takes note that it has ended at `now`, after the time that it took.
    pub fn end(&mut self, now: Duration, len: Sectors, took: Duration) {
        self.requests = self.requests.saturating_sub(1);
        self.in_flight = self.in_flight.saturating_sub(len);
        self.own = Sectors(self.own.0.saturating_add(len.0));
        let pause = took.saturating_mul(SHARE - 1).min(LONGEST_PAUSE);
        self.pause_until = now.saturating_add(pause);
    }

    /// Takes note of sectors that the scan has read beside its requests.
    pub fn counts(&mut self, len: Sectors) {
        self.own = Sectors(self.own.0.saturating_add(len.0));
    }

    /// Takes note that this many of the sectors asked for do not show in the disk's counters.
    pub fn discounts(&mut self, len: Sectors) {
        self.own = self.own.saturating_sub(len);
    }

    /// Begins or ends a time in which what is seen is of the scan itself.
    pub fn look_away(&mut self, away: bool) {
        self.away = away;
        self.stale = true;
    }

    /// Looks at the counters, now and then.
    fn look(&mut self, now: Duration) {
        let due = self.sampled.is_none_or(|at| now >= at.saturating_add(SAMPLE_EVERY));
        let heard = self.requests == 0 && self.listens(now);
        if self.manners == Manners::None || !(due || heard) {
            return;
        }
        if self.requests == 0 {
            self.listened = now;
        }
        let first = self.sampled.is_none();
        self.sampled = Some(now);
        let was_busy = now < self.busy_until;
        // The first look has nothing to compare with: who is there is taken for being at work.
        let seen = self.others.seen(self.own, self.in_flight);
        if std::mem::replace(&mut self.stale, self.away) {
            return;
        }
        if seen {
            self.met = Some(now);
            if !was_busy && !first {
                let soon = self.resumed.is_some_and(|at| now < at.saturating_add(self.quiet));
                self.quiet =
                    if soon { self.quiet.saturating_mul(2).min(LONGEST_QUIET) } else { (self.quiet / 2).max(QUIET) };
            }
            self.busy_until = now.saturating_add(self.quiet);
            self.resumed = None;
        } else if !was_busy && self.resumed.is_none() {
            self.resumed = Some(now);
        }
    }

    /// How long the rate asks to wait.
    fn rate_wait(&mut self, now: Duration) -> Option<Duration> {
        let rate = self.rate? as f64;
        let passed = now.saturating_sub(self.counted).as_secs_f64();
        self.counted = now;
        // A burst of a tenth of a second, so that a pause is not made up for.
        self.tokens = (self.tokens + passed * rate).min(rate / 10.0);
        if self.tokens >= 0.0 {
            return None;
        }
        let wait = Duration::try_from_secs_f64(-self.tokens / rate).unwrap_or(LONGEST_WAIT);
        Some(wait.clamp(Duration::from_millis(1), LONGEST_WAIT))
    }
}

/// Bytes of a length, for the token bucket; more sectors than a float can tell apart are never asked for at once.
fn bytes(len: Sectors) -> f64 {
    len.to_bytes().map_or(f64::MAX, |b| b.0 as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHUNK: Sectors = Sectors(2048);

    /// Others that are at work in the given times.
    struct Script {
        busy: Vec<(u64, u64)>,
        now: std::sync::Arc<std::sync::atomic::AtomicU64>,
    }

    impl Others for Script {
        fn seen(&mut self, _own: Sectors, _in_flight: Sectors) -> bool {
            let now = self.now.load(std::sync::atomic::Ordering::SeqCst);
            self.busy.iter().any(|(from, to)| (*from..*to).contains(&now))
        }
        fn needs_quiet(&self) -> bool {
            true
        }
    }

    /// Runs for so many milliseconds on a disk that reads `speed` sectors in a millisecond, one request at a time.
    /// Bytes and disk time used in each 100 ms.
    fn simulate(rate: Option<u64>, manners: Manners, busy: Vec<(u64, u64)>, until: u64, speed: u64) -> Vec<(u64, u64)> {
        let clock = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let mut others = Script { busy, now: clock.clone() };
        let mut pacer = Pacer::new(rate, manners, &mut others, CHUNK, 4);
        let mut used = vec![(0, 0); (until / 100 + 1) as usize];
        let mut now = 0;
        while now < until {
            clock.store(now, std::sync::atomic::Ordering::SeqCst);
            match pacer.admit(Duration::from_millis(now)) {
                Admission::Wait(wait) => now += (wait.as_millis() as u64).max(1),
                Admission::Go(limit) => {
                    pacer.begin(limit);
                    let took = (limit.0 / speed).max(1);
                    let slot = &mut used[(now / 100) as usize];
                    *slot = (slot.0 + limit.0 * 512, slot.1 + took);
                    now += took;
                    pacer.end(Duration::from_millis(now), limit, Duration::from_millis(took));
                }
            }
        }
        used
    }

    #[test]
    fn an_idle_disk_is_used_fully() {
        let used = simulate(None, Manners::GiveWay, vec![], 10_000, 200);
        let time: u64 = used.iter().map(|u| u.1).sum();
        assert!(time > 9_900, "{time} ms of 10,000");
    }

    #[test]
    fn others_get_nearly_all_of_a_busy_disk() {
        let used = simulate(None, Manners::GiveWay, vec![(0, 60_000)], 60_000, 50);
        let time: u64 = used.iter().map(|u| u.1).sum();
        assert!(time <= 60_000 / u64::from(SHARE) + 100 && time > 300, "{time} ms of 60,000");
        let used = simulate(None, Manners::IdleOnly, vec![(0, 60_000)], 60_000, 50);
        assert_eq!(used.iter().map(|u| u.1).sum::<u64>(), 0);
    }

    #[test]
    fn it_speeds_up_when_the_others_have_gone_and_slows_down_when_they_come_back() {
        let used = simulate(None, Manners::GiveWay, vec![(0, 5_000), (10_000, 15_000)], 20_000, 100);
        let time = |from: usize, to: usize| used[from..to].iter().map(|u| u.1).sum::<u64>();
        assert!(time(0, 50) < 150, "{}", time(0, 50));
        assert!(time(62, 100) > 3_700, "{}", time(62, 100));
        assert!(time(101, 150) < 150, "{}", time(101, 150));
        assert!(time(175, 200) > 2_300, "{}", time(175, 200));
    }

    #[test]
    fn whoever_comes_back_every_other_second_is_left_alone_for_longer() {
        let busy = (0..60).map(|n| (n * 1_500, n * 1_500 + 30)).collect();
        let used = simulate(None, Manners::GiveWay, busy, 90_000, 100);
        let late: u64 = used[450..900].iter().map(|u| u.1).sum();
        assert!(late < 2_000, "{late} ms of 45,000");
    }

    #[test]
    fn without_manners_nobody_is_looked_at() {
        let used = simulate(None, Manners::None, vec![(0, 10_000)], 10_000, 100);
        assert!(used.iter().map(|u| u.1).sum::<u64>() > 9_900);
    }

    proptest! {
        #[test]
        fn the_rate_is_kept(rate in 1u64..500, speed in 1u64..2000) {
            let rate = rate << 20;
            let used = simulate(Some(rate), Manners::None, vec![], 20_000, speed);
            let bytes: u64 = used.iter().map(|u| u.0).sum();
            prop_assert!(bytes <= rate * 20 + rate / 10 + CHUNK.0 * 512, "{bytes} bytes at {rate} a second");
            let possible = (speed * 512 * 1000 * 20).min(rate * 20);
            prop_assert!(bytes >= possible / 10 * 8, "{bytes} of {possible}");
        }
    }
}
