//! `wait`: how a run ends, and nothing else.

use std::time::{Duration, Instant};

use clap::Args;

use super::{
    Exit,
    options::Options,
    reading::{Next, Source, Told, Which},
    stop::Stop,
    terminal::complain,
};
use crate::{message::Kind, nats::Wish};

/// Wait until a run has ended.
///
/// Says nothing. Also for a run that has not begun. Exit status: 0 it was successful, 3 it failed, 4 it was canceled, 5 it
/// ran out of time, 6 it has not ended within --timeout.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The run's ident, or the beginning of its identity
    ident: String,
    /// Of a subject id, where several have runs of that ident
    #[arg(long, value_name = "ID")]
    subject_id: Option<String>,
    /// Not one that is there already: the run of that ident that begins from now on
    #[arg(long)]
    next: bool,
    /// Wait no longer than this
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    options: Options,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Stop> {
    let deadline = arguments.timeout.map(|timeout| Instant::now() + timeout);
    let source = Source::open(&arguments.options)?;
    let Arguments { ident, subject_id, next, .. } = arguments;
    let which = match Which::find(&source, subject_id.as_deref(), ident, *next) {
        Err(Stop::NoStream) => {
            complain("no stream takes what runs publish: whether the run has ended already is not known");
            Which::unknown(subject_id.as_deref(), ident)
        }
        which => which?,
    };
    which.name_others();
    if let Some(run) = which.run().filter(|run| run.is_over()) {
        return Ok(Exit::of_status(run.status()));
    }
    // One that was killed has no last status: that is said where its signs of life are.
    let kinds = [Kind::Status, Kind::Heartbeat].map(Some);
    let subjects = kinds.into_iter().flat_map(|kind| which.filters(&source, kind)).collect();
    let heard = source.listen(Wish { subjects, from: which.start(), follow: true, before: None })?;
    let mut runs = source.runs();
    source.read(&heard, deadline, |told| {
        match told {
            Told::Message(message) if which.may_be(&message) => {
                let news = runs.hear(&message, source.now()).filter(|news| news.is_end);
                let ended = news.and_then(|news| runs.get(news.run)).filter(|run| which.is(run));
                if let Some(run) = ended {
                    return Ok(Next::Enough(Exit::of_status(run.status())));
                }
            }
            Told::Lost(reason) => complain(&reason),
            Told::Nothing => return Err(Stop::TimedOut),
            Told::Message(_) | Told::Connected { .. } | Told::CaughtUp => {}
        }
        Ok(Next::More(deadline))
    })
}
