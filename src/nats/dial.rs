//! Getting a connection: servers are tried side by side where the first is silent.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use tokio::time::sleep_until;
use url::Url;

use super::{link::Link, pool::Pool};
use crate::{
    config::{Connection, Server},
    error::Error,
};

/// A server that has not answered for this long is not waited for alone (as with RFC 8305's happy eyeballs).
const STAGGER: Duration = Duration::from_millis(500);

/// Attempts to connect, side by side. Whoever drops them ends them.
pub(super) struct Attempts<'a> {
    connection: &'a Connection,
    under_way: FuturesUnordered<LocalBoxFuture<'a, (Server, Result<Link, Error>)>>,
    /// To whom.
    servers: Vec<Server>,
    /// When the last one began.
    began: Option<Instant>,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(connection: &'a Connection) -> Self {
        Self { connection, under_way: FuturesUnordered::new(), servers: Vec::new(), began: None }
    }

    /// The next attempt that succeeds or fails; begins those that are due, but none with a server of `but`. `None`: there is
    /// no server left to try. Whoever does not wait for it may come again.
    pub(super) async fn next(
        &mut self,
        pool: &Pool,
        but: Option<&Server>,
        mut begins: impl FnMut(&Server),
    ) -> Option<(Server, Result<Link, Error>)> {
        loop {
            let busy: Vec<Server> = self.servers.iter().chain(but).cloned().collect();
            let Some((server, not_before)) = pool.next_but(&busy) else {
                return if self.servers.is_empty() { None } else { Some(self.ended().await) };
            };
            let staggered = self.began.filter(|_| !self.servers.is_empty()).map(|began| began + STAGGER);
            let at = not_before.into_iter().chain(staggered).max().unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                ended = self.ended() => return Some(ended),
                () = sleep_until(at.into()) => {
                    begins(&server);
                    self.begin(server);
                }
            }
        }
    }

    pub(super) fn are_under_way(&self) -> bool {
        !self.servers.is_empty()
    }

    fn begin(&mut self, server: Server) {
        self.servers.push(server.clone());
        self.began = Some(Instant::now());
        let connection = self.connection;
        self.under_way.push(Box::pin(async move {
            let link = match threads_for(&server) {
                Ok(()) => Link::open_in_time(connection, &server).await,
                Err(error) => Err(error),
            };
            (server, link)
        }));
    }

    /// The next one that succeeds or fails; never, if there is none.
    async fn ended(&mut self) -> (Server, Result<Link, Error>) {
        match self.under_way.next().await {
            Some((server, link)) => {
                self.servers.retain(|other| *other != server);
                (server, link)
            }
            None => std::future::pending().await,
        }
    }
}

/// A name is looked up by a thread of its own, and the runtime panics if there can be none.
fn threads_for(server: &Server) -> Result<(), Error> {
    let is_name = |url: Url| {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        host.parse::<std::net::IpAddr>().is_err()
    };
    if !Url::parse(&server.address).is_ok_and(is_name) {
        return Ok(());
    }
    let tried = std::thread::Builder::new().spawn(|| {}).map(|thread| drop(thread.join()));
    tried.map_err(|source| Error::LookUp { server: server.address.clone(), source })
}

/// Looks for a server other than this one, for as long as it takes, and gives the pool back with it.
pub(super) async fn look_elsewhere<'a>(
    connection: &Connection,
    pool: &'a mut Pool,
    than: &Server,
) -> (&'a mut Pool, Server, Link) {
    let mut attempts = Attempts::new(connection);
    loop {
        match attempts.next(pool, Some(than), |_| {}).await {
            Some((server, Ok(link))) => return (pool, server, link),
            Some((server, Err(_))) => pool.failed(&server, Instant::now()),
            // Others may be learnt with the next connection.
            None => std::future::pending().await,
        }
    }
}
