//! `serve`: a window for people and machines: pages with live runs, an API, metrics. Read-only, over what NATS has anyway.
//!
//! - here: the command line, and what is started;
//! - `book`: what all of it tells of: the runs, the metrics, whether there is a connection;
//! - `metrics`: for Prometheus;
//! - `http`: connections and their limits; `guard`, `attempts`: who gets in; `login`: the form;
//! - `routes`: which path is what; `name`, `url`, `wanted`: what addresses mean;
//! - `list`, `plot`: the page of all runs; `run`, `why`, `matrix`, `output`: that of one; `view`: what of a run they show;
//! - `page`, `part`, `colors`: what pages are made of; `assets`, `static/`: their style and scripts, by `fingerprint`;
//! - `live`: what changes, as it changes; `api`, `log`: for programs.

mod api;
mod assets;
mod attempts;
mod book;
mod colors;
mod fingerprint;
mod guard;
mod http;
mod list;
mod live;
mod log;
mod login;
mod matrix;
mod metrics;
mod name;
mod output;
mod page;
mod part;
mod plot;
mod routes;
mod run;
mod url;
mod view;
mod wanted;
mod why;

pub(super) use self::name::address_of;

use std::{
    collections::HashSet,
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, mpsc::Receiver},
    thread,
    time::{Duration, Instant},
};

use clap::Args;

use self::{
    book::{Book, Shared},
    guard::{Access, Guard},
};
use super::{
    Exit,
    options::Options,
    reading::{Next, Source, Told},
    runs::unknown_beginnings,
    stop::Stop,
    terminal::{complain, remark},
};
use crate::{
    message::{Received, RunId},
    nats::{Heard, Start, Wish},
};

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
    #[command(flatten)]
    access: Access,
    /// One line per request on standard error
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    options: Options,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Stop> {
    let guard = Guard::new(arguments.listen, &arguments.access).map_err(Stop::Problem)?;
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
fn read(shared: &Arc<Shared>) -> Result<Exit, Stop> {
    let subjects = shared.source.filters(None, None, None);
    let wish = |from| Wish { subjects: subjects.clone(), from, follow: true, before: None };
    let heard = shared.source.listen(wish(Start::Ago(shared.since)))?;
    match follow(shared, &heard) {
        Err(Stop::NoStream) => {
            complain(
                "no stream takes what runs publish: runs are known from now on (`ansible-runner-nats stream create`)",
            );
            let heard = shared.source.listen(wish(Start::Now))?;
            shared.book().caught_up();
            follow(shared, &heard)
        }
        ended => ended,
    }
}

fn follow(shared: &Arc<Shared>, heard: &Receiver<Heard>) -> Result<Exit, Stop> {
    const PROGRESS: Duration = Duration::from_secs(2);
    /// Several may be heard of at once.
    const LATER: Duration = Duration::from_millis(300);
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
                shared.set_deaf(false);
            }
            Told::Message(message) => {
                book.hear(&message, shared.now());
                if !book.has_caught_up && said.elapsed() > PROGRESS {
                    said = Instant::now();
                    remark(&format!("{} messages read so far", book.runs.messages));
                }
            }
            Told::CaughtUp => {
                book.caught_up();
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
                shared.set_deaf(true);
            }
            Told::Nothing => {
                // Beside what is live: a stream may let us wait for another consumer.
                let runs = book.take_incomplete();
                let subjects = unknown_beginnings(&shared.source, &book.runs);
                let shared = Arc::clone(shared);
                let look = move || look_up_beginnings(&shared, &runs, subjects);
                thread::Builder::new().name("beginnings".to_owned()).spawn(look)?;
            }
        }
        let is_due = book.has_caught_up && book.is_incomplete && !book.streams.is_empty();
        Ok(Next::More(is_due.then(|| Instant::now() + LATER)))
    })
}

/// What is heard of in its midst has begun before: its first words are asked for. Where that cannot be, nobody knows.
fn look_up_beginnings(shared: &Shared, runs: &HashSet<RunId>, subjects: Vec<String>) {
    let complete = |message: &Received| {
        if message.run.is_some_and(|run| runs.contains(&run)) {
            shared.book().complete(message, shared.now());
        }
        Ok(())
    };
    if let Err(Stop::Problem(problem)) = shared.source.history(subjects, Start::First, complete) {
        complain(&problem);
    }
}
