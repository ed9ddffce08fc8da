//! `serve`: a window for people and machines: pages with live runs, an API, metrics. Read-only, over what NATS has anyway.
//!
//! - here: the command line, and what is started;
//! - `book`: what all of it tells of: the runs, the metrics, whether there is a connection;
//! - `metrics`: for Prometheus;
//! - `http`: connections and their limits; `guard`: who gets in; `routes`: which path is what;
//! - `list`, `detail`, `plot`, `page`, `colors`: HTML; `static/`: the style and the scripts.

mod book;
mod colors;
mod detail;
mod guard;
mod http;
mod list;
mod metrics;
mod page;
mod plot;
mod routes;

pub(super) use self::page::lasting_address_of;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{Arc, mpsc::Receiver},
    thread,
    time::{Duration, Instant},
};

use clap::Args;

use self::{
    book::{Book, Shared},
    guard::Guard,
};
use super::{
    Exit,
    options::Options,
    reading::{Next, Source, Told},
    stop::Stop,
    terminal::{complain, remark},
};
use crate::nats::{Heard, Start, Wish};

/// Serve a page with live runs, and metrics for Prometheus.
///
/// Reads what a stream has kept (without one: what comes from now on) and changes nothing. Only this host gets in, unless
/// --allow-remote is given. Paths: / the runs, /runs/… one run, /metrics, /api/runs, /api/events,
/// /healthz; see docs/serve.md. Ctrl-C or SIGTERM ends it. Exit status: 0, or 1 if it cannot begin or the server refuses us.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9464")]
    listen: SocketAddr,
    /// How far to look back
    #[arg(long, value_name = "AGE", default_value = "24h", value_parser = humantime::parse_duration)]
    since: Duration,
    /// A run that has said nothing for so long is silent [default: 60s, or two of its heartbeats]
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    silent_after: Option<Duration>,
    /// Listen on an address that others reach; needs --token-file or --behind-proxy
    #[arg(long)]
    allow_remote: bool,
    /// Let in only who has the token in this file (at least 16 characters)
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A proxy in front of it lets in only who may come in
    #[arg(long, conflicts_with = "token_file")]
    behind_proxy: bool,
    /// A name by which people reach it, besides this host's own and its addresses
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
    /// One line per request on standard error
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    options: Options,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Stop> {
    let guard = Guard::new(arguments).map_err(Stop::Problem)?;
    let bound = TcpListener::bind(arguments.listen);
    let listener = bound.map_err(|error| Stop::Problem(format!("--listen {}: {error}", arguments.listen)))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let source = Source::open(&arguments.options)?;
    let shared = Arc::new(Shared::new(source, arguments.silent_after, arguments.since));
    remark(&format!("serving on http://{address}/"));
    let reader = {
        let shared = Arc::clone(&shared);
        thread::Builder::new().name("read".to_owned()).spawn(move || read(&shared))?
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let until = async {
        const LOOK_UP: Duration = Duration::from_millis(50);
        while !shared.source.is_interrupted() && !reader.is_finished() {
            tokio::time::sleep(LOOK_UP).await;
        }
    };
    let verbose = arguments.verbose;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let router = routes::router(&shared, guard, verbose);
        tokio::select! {
            () = http::serve(&listener, router) => {}
            () = shared.announce() => {}
            () = until => {}
        }
        Ok::<_, io::Error>(())
    })?;
    // Whoever still reads does not hold us up.
    runtime.shutdown_background();
    if shared.source.is_interrupted() {
        return Ok(Exit::Success);
    }
    reader.join().unwrap_or(Err(Stop::Said))
}

/// Reads what runs say, until the server refuses us for good.
fn read(shared: &Shared) -> Result<Exit, Stop> {
    let subjects = shared.source.filters(None, None, None);
    let wish = |from| Wish { subjects: subjects.clone(), from, follow: true, before: None };
    let heard = shared.source.listen(wish(Start::Ago(shared.since)))?;
    match follow(shared, &heard) {
        Err(Stop::NoStream) => {
            complain(
                "no stream takes what runs publish: runs are known from now on (`ansible-runner-nats stream create`)",
            );
            let heard = shared.source.listen(wish(Start::Now))?;
            shared.book().has_caught_up = true;
            follow(shared, &heard)
        }
        ended => ended,
    }
}

fn follow(shared: &Shared, heard: &Receiver<Heard>) -> Result<Exit, Stop> {
    const PROGRESS: Duration = Duration::from_secs(2);
    let (began, mut said) = (Instant::now(), Instant::now());
    shared.source.read(heard, None, |told| {
        let mut book = shared.book();
        match told {
            Told::Connected { server, streams } => {
                let from = if streams.is_empty() {
                    String::new()
                } else {
                    format!(", stream {}", streams.join(", "))
                };
                remark(&format!("connected to {server}{from}"));
                book.connected(server, streams);
            }
            Told::Message(message) => {
                book.hear(&message);
                if !book.has_caught_up && said.elapsed() > PROGRESS {
                    said = Instant::now();
                    remark(&format!("{} messages read so far", book.runs.messages));
                }
            }
            Told::CaughtUp => {
                book.has_caught_up = true;
                let Book { runs, .. } = &*book;
                let (messages, count) = (runs.messages, runs.all().count());
                remark(&format!(
                    "{messages} messages of {count} runs read in {:.1} s",
                    began.elapsed().as_secs_f64()
                ));
            }
            Told::Lost(reason) => {
                complain(&reason);
                book.lost(reason);
            }
            Told::Nothing => {}
        }
        Ok(Next::More(None))
    })
}
