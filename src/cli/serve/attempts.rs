//! Who shows wrong tokens waits, each time for longer: guessing is slow, and says so.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// After the first wrong token; each further one doubles it.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// Whoever has shown none for so long begins anew.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// So many addresses are known.
const MOST: usize = 10_000;

/// How a token is shown: a scraper with an old token is not to lock out the people at its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Way {
    Form,
    Header,
}

#[derive(Debug)]
struct Wrong {
    times: u32,
    /// No other token is looked at before then.
    until: Instant,
}

/// Wrong tokens, by where they came from.
#[derive(Debug, Default)]
pub(super) struct Attempts(HashMap<(IpAddr, Way), Wrong>);

impl Attempts {
    /// How long this one has to wait before a token is looked at. `None`: not at all.
    pub(super) fn wait(&self, peer: IpAddr, way: Way, now: Instant) -> Option<Duration> {
        let wrong = self.0.get(&(network(peer), way))?;
        wrong.until.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }

    /// A token was wrong. How often in a row that was so, and how long the next one has to wait.
    pub(super) fn wrong(&mut self, peer: IpAddr, way: Way, now: Instant) -> (u32, Duration) {
        self.0.retain(|_, wrong| now.saturating_duration_since(wrong.until) < FORGOTTEN);
        let key = (network(peer), way);
        if self.0.len() >= MOST && !self.0.contains_key(&key) {
            let soonest = self.0.iter().min_by_key(|(_, wrong)| wrong.until).map(|(key, _)| *key);
            soonest.map(|key| self.0.remove(&key));
        }
        let wrong = self.0.entry(key).or_insert(Wrong { times: 0, until: now });
        let wait = FIRST.saturating_mul(1 << wrong.times.min(16)).min(LONGEST);
        wrong.times = wrong.times.saturating_add(1);
        wrong.until = now + wait;
        (wrong.times, wait)
    }

    /// A token was right.
    pub(super) fn right(&mut self, peer: IpAddr, way: Way) {
        self.0.remove(&(network(peer), way));
    }
}

/// Of IPv6 everybody has a whole network of addresses.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn each_wrong_token_waits_for_longer_and_a_right_one_forgives() {
        let (mut attempts, mut now) = (Attempts::default(), Instant::now());
        assert_eq!(attempts.wait(ONE, Way::Form, now), None);
        for (times, seconds) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 32), (7, 60), (8, 60)] {
            let wait = Duration::from_secs(seconds);
            assert_eq!(attempts.wrong(ONE, Way::Form, now), (times, wait));
            assert_eq!(attempts.wait(ONE, Way::Form, now), Some(wait));
            now += wait;
            assert_eq!(attempts.wait(ONE, Way::Form, now), None);
        }
        attempts.right(ONE, Way::Form);
        assert_eq!(attempts.wrong(ONE, Way::Form, now), (1, FIRST));
        now += FORGOTTEN * 2;
        assert_eq!(attempts.wrong(ONE, Way::Form, now), (1, FIRST));
    }

    #[test]
    fn others_and_other_ways_do_not_wait() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        attempts.wrong(ONE, Way::Header, now);
        assert_eq!(attempts.wait(ONE, Way::Form, now), None);
        assert_eq!(attempts.wait("192.0.2.1".parse().unwrap(), Way::Header, now), None);
        // One network.
        attempts.wrong("2001:db8::1".parse().unwrap(), Way::Form, now);
        assert!(attempts.wait("2001:db8::2".parse().unwrap(), Way::Form, now).is_some());
        assert!(attempts.wait("2001:db8:1::1".parse().unwrap(), Way::Form, now).is_none());
        assert!(attempts.wait("::ffff:127.0.0.1".parse().unwrap(), Way::Header, now).is_some());
    }

    #[test]
    fn it_stays_small() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for address in 0..20_000_u32 {
            attempts.wrong(std::net::Ipv4Addr::from_bits(address).into(), Way::Form, now);
        }
        assert!(attempts.0.len() <= MOST);
    }
}
