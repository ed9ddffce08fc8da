//! The servers of a connection: which one next, and when.
//!
//! The rules are nats-py's: a server that failed is tried again after `reconnect_time_wait`, one that failed
//! more than `max_reconnect_attempts` times in a row is dropped, and the one that was just lost comes last.

use std::time::{Duration, Instant};

use crate::config::{Connection, Server};

/// Servers to try, given and learnt.
#[derive(Debug)]
pub(super) struct Pool {
    /// In the order of trying.
    entries: Vec<Entry>,
    pause: Duration,
    most_failures: Option<u32>,
}

#[derive(Debug)]
struct Entry {
    server: Server,
    failures: u32,
    not_before: Option<Instant>,
}

impl Entry {
    fn new(server: Server) -> Self {
        Self { server, failures: 0, not_before: None }
    }
}

impl Pool {
    /// The given servers, shuffled unless the user forbids it.
    pub(super) fn new(connection: &Connection) -> Self {
        let mut entries: Vec<Entry> = connection.servers.iter().cloned().map(Entry::new).collect();
        if !connection.dont_randomize {
            for end in (1..entries.len()).rev() {
                entries.swap(end, random_below(end + 1));
            }
        }
        Self {
            entries,
            pause: connection.reconnect_time_wait,
            most_failures: connection.max_reconnect_attempts,
        }
    }

    /// The next server and the earliest time to try it (`None`: at once). `None` if all are used up.
    pub(super) fn next(&self) -> Option<(Server, Option<Instant>)> {
        self.next_but(&[])
    }

    /// The same, other than these.
    pub(super) fn next_but(&self, others: &[Server]) -> Option<(Server, Option<Instant>)> {
        // The first of those that may be tried soonest.
        let entries = self.entries.iter().filter(|entry| !others.contains(&entry.server));
        let entry = entries.min_by_key(|entry| entry.not_before)?;
        Some((entry.server.clone(), entry.not_before))
    }

    /// Is there more than one to choose from?
    pub(super) fn has_others(&self) -> bool {
        self.entries.len() > 1
    }

    /// The server could not be reached, or was of no use.
    pub(super) fn failed(&mut self, server: &Server, now: Instant) {
        let Some(mut entry) = self.take(server) else { return };
        entry.failures = entry.failures.saturating_add(1);
        entry.not_before = Some(now + jittered(self.pause));
        if self.most_failures.is_none_or(|most| entry.failures <= most) {
            self.entries.push(entry);
        }
    }

    /// The server worked and is gone: others come first, but nobody has to wait.
    pub(super) fn lost(&mut self, server: &Server) {
        let Some(mut entry) = self.take(server) else { return };
        entry.failures = 0;
        entry.not_before = None;
        self.entries.push(entry);
    }

    /// Adds the servers that `from` told us of (`host:port` each), as far as they make sense. If it was reached
    /// with TLS (`secure`), so must they be. Servers tell each other's IP addresses, and certificates have names:
    /// as in nats.go, the name is that of the server which we knew first.
    pub(super) fn learn(&mut self, from: &Server, urls: &[String], secure: bool) {
        let scheme = from.address.split("://").next().unwrap_or("nats");
        let scheme = if secure && scheme == "nats" { "tls" } else { scheme };
        let name = from.learnt_for.clone().or_else(|| host_name(&from.address)).filter(|_| scheme != "nats");
        for url in urls {
            let address = format!("{scheme}://{url}");
            let known = self.entries.iter().any(|entry| entry.server.address == address);
            if !known && self.entries.len() < MOST && is_plain(&address) {
                let learnt_for = name.clone().filter(|_| host_name(&address).is_none());
                self.entries.push(Entry::new(Server { address, auth: from.auth.clone(), learnt_for }));
            }
        }
    }

    fn take(&mut self, server: &Server) -> Option<Entry> {
        let index = self.entries.iter().position(|entry| entry.server == *server)?;
        Some(self.entries.remove(index))
    }
}

/// The host of a URL, unless it is an IP address.
fn host_name(address: &str) -> Option<String> {
    let url = url::Url::parse(address).ok()?;
    // Of schemes that the URL standard does not know, `url` leaves even numbers as they are.
    let host = url.host_str()?;
    let is_number = host.starts_with('[') || host.parse::<std::net::IpAddr>().is_ok();
    (!is_number).then(|| host.to_owned())
}

/// Larger clusters than this are not told to clients whole; no server shall fill our memory.
const MOST: usize = 128;

/// `scheme://host:port` and nothing else.
fn is_plain(address: &str) -> bool {
    const LONGEST: usize = 300;
    let plain = |url: url::Url| {
        url.username().is_empty()
            && url.password().is_none()
            && matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none()
            && url.port_or_known_default().is_some()
    };
    address.len() <= LONGEST && url::Url::parse(address).is_ok_and(plain)
}

/// A wait and up to a tenth more, so that not all clients of a server come back at the same moment.
fn jittered(pause: Duration) -> Duration {
    let tenths = u32::try_from(random_below(1000)).unwrap_or(0);
    pause + pause * tenths / 10_000
}

fn random_below(bound: usize) -> usize {
    let random = getrandom::u64().unwrap_or(0);
    usize::try_from(random % bound.max(1) as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pool(options: &serde_json::Value) -> Pool {
        let settings = json!({"nats_subject_id": "x", "nats_options": options});
        let env = crate::config::Env { get: &|_| None, names: &[] };
        let resolution = crate::config::resolve(settings.as_object().unwrap(), env, &|| String::new());
        Pool::new(&resolution.config.unwrap().connection)
    }

    fn next(pool: &Pool) -> (String, bool) {
        let (server, when) = pool.next().unwrap();
        (server.address, when.is_some())
    }

    #[test]
    fn each_server_once_then_a_pause() {
        let mut pool = pool(&json!({"servers": "a,b", "dont_randomize": true}));
        for name in ["nats://a:4222", "nats://b:4222"] {
            assert_eq!(next(&pool), (name.to_owned(), false));
            let server = pool.next().unwrap().0;
            pool.failed(&server, Instant::now());
        }
        assert!(next(&pool).1);
        let wait = pool.next().unwrap().1.unwrap() - Instant::now();
        assert!(wait > Duration::from_millis(1900) && wait <= Duration::from_millis(2200), "{wait:?}");
    }

    #[test]
    fn a_lost_server_comes_last_and_at_once() {
        let mut pool = pool(&json!({"servers": ["a", "b"], "dont_randomize": true}));
        let a = pool.next().unwrap().0;
        pool.lost(&a);
        assert_eq!(next(&pool), ("nats://b:4222".to_owned(), false));
        let b = pool.next().unwrap().0;
        pool.failed(&b, Instant::now());
        assert_eq!(next(&pool), ("nats://a:4222".to_owned(), false));
    }

    #[test]
    fn attempts_count_in_a_row_and_per_server() {
        let mut pool = pool(&json!({"servers": "a", "max_reconnect_attempts": 2}));
        let a = pool.next().unwrap().0;
        pool.failed(&a, Instant::now());
        pool.failed(&a, Instant::now());
        pool.lost(&a);
        pool.failed(&a, Instant::now());
        pool.failed(&a, Instant::now());
        assert!(pool.next().is_some());
        pool.failed(&a, Instant::now());
        assert!(pool.next().is_none());
    }

    #[test]
    fn learnt_servers_inherit_scheme_and_credentials() {
        let mut pool = pool(&json!({"servers": "nats://u:p@a"}));
        let a = pool.next().unwrap().0;
        pool.learn(
            &a,
            &["b:1".to_owned(), "a:4222".to_owned(), "b:1".to_owned(), "::bad::".to_owned()],
            false,
        );
        pool.failed(&a, Instant::now());
        let learnt = pool.next().unwrap().0;
        assert_eq!((learnt.address.as_str(), learnt.auth), ("nats://b:1", a.auth.clone()));
        assert_eq!(pool.entries.len(), 2);
    }

    #[test]
    fn what_is_learnt_over_tls_needs_it_and_has_the_first_name() {
        let learnt = |from: &str, secure| {
            let mut pool = pool(&json!({"servers": from}));
            let first = pool.next().unwrap().0;
            pool.learn(&first, &["10.0.0.7:1".to_owned()], secure);
            pool.failed(&first, Instant::now());
            let second = pool.next().unwrap().0;
            pool.learn(&second, &["[::1]:2".to_owned(), "other:3".to_owned()], secure);
            let all = pool.entries.iter().filter(|entry| entry.server.address != first.address);
            all.map(|entry| (entry.server.address.clone(), entry.server.learnt_for.clone()))
                .collect::<Vec<_>>()
        };
        let entry = |address: &str, name: Option<&str>| (address.to_owned(), name.map(str::to_owned));
        let named = [
            entry("tls://10.0.0.7:1", Some("a.example")),
            entry("tls://[::1]:2", Some("a.example")),
            entry("tls://other:3", None),
        ];
        assert_eq!(learnt("nats://a.example", true), named);
        assert_eq!(learnt("tls://a.example", false), named);
        assert_eq!(learnt("nats://a.example", false)[0], entry("nats://10.0.0.7:1", None));
        assert_eq!(learnt("tls://127.0.0.1", true)[0], entry("tls://10.0.0.7:1", None));
    }

    #[test]
    fn a_server_cannot_make_us_learn_just_anything() {
        let mut pool = pool(&json!({"servers": "nats://u:p@a"}));
        let a = pool.next().unwrap().0;
        let odd = ["x:y@evil:1", "evil:1/path", "evil:1?q", "evil:1#f", "evil", "", "@", &"e".repeat(1000)];
        pool.learn(&a, &odd.map(str::to_owned), false);
        assert_eq!(pool.entries.len(), 1);
        pool.learn(&a, &(1..10_000).map(|n| format!("h{n}:1")).collect::<Vec<_>>(), false);
        assert_eq!(pool.entries.len(), MOST);
    }

    #[test]
    fn servers_are_shuffled() {
        let names: Vec<String> = (0..20).map(|n| format!("s{n}")).collect();
        let orders: std::collections::HashSet<String> =
            (0..20).map(|_| next(&pool(&json!({"servers": names}))).0).collect();
        assert!(orders.len() > 1);
    }
}
