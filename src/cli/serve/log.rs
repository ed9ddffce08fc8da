//! All that a run printed, as text, from the stream.

use std::{
    io,
    sync::{Arc, mpsc::sync_channel},
};

use axum::{
    body::{Body, Bytes},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{book::Shared, name::Name};
use crate::{
    cli::{
        reading::{Next, Told, beginning_of},
        stop::Stop,
    },
    message::RunId,
    nats::Wish,
    runs::{Printer, Run, RunKey, without_colors},
};

/// Those who read a run from a stream, at once: each has a connection to NATS.
pub(super) const READERS: usize = 16;
/// Messages that wait for a reader who is slow, and pieces of text. The stream has the others.
const WAITING: usize = 64;
const PIECES: usize = 16;

/// What a text is sent to.
struct Out {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    is_colored: bool,
    is_empty: bool,
}

/// Which run is read.
struct Read {
    name: Name,
    identity: Option<RunId>,
    wish: Wish,
}

/// `None`: there is no such run. `seat`: one of [`READERS`], if there is one.
pub(super) fn log(
    shared: Arc<Shared>,
    name: Name,
    is_colored: bool,
    seat: Option<OwnedSemaphorePermit>,
) -> Option<Response> {
    let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    let read = {
        let book = shared.book();
        let (run, _) = book.find(&name)?;
        if run.first_stored.is_none() || book.streams.is_empty() || book.link().is_err() {
            return Some((kind, remembered(run, is_colored)).into_response());
        }
        let subjects = shared.source.filters_of(run, None);
        let wish = Wish { subjects, from: beginning_of(run), follow: false, before: None };
        Read { name, identity: run.identity, wish }
    };
    let Some(seat) = seat else {
        return Some(
            (StatusCode::SERVICE_UNAVAILABLE, "Too many read such a log already.\n").into_response(),
        );
    };
    let (pieces, receiver) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        // Whoever asked may be gone.
        let _ = print(&shared, &read, Out { pieces, is_colored, is_empty: true });
        drop(seat);
    });
    let pieces =
        stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    // Whoever compresses it asks once more behind its end.
    Some((kind, Body::from_stream(pieces.fuse())).into_response())
}

/// What is still known of it without a stream.
fn remembered(run: &Run, is_colored: bool) -> String {
    let text: String = run.output.lines().flat_map(|line| [line, "\n"]).collect();
    if is_colored { text } else { without_colors(&text) }
}

impl Out {
    fn send(&mut self, lines: Vec<String>) -> io::Result<()> {
        let text: String = lines.into_iter().flat_map(|line| [line, "\n".to_owned()]).collect();
        if text.is_empty() {
            return Ok(());
        }
        self.is_empty = false;
        self.hand_on(Ok(if self.is_colored { text } else { without_colors(&text) }.into()))
    }

    fn hand_on(&self, piece: io::Result<Bytes>) -> io::Result<()> {
        self.pieces.blocking_send(piece).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

/// Reads a run from the stream, and hands on what it printed.
fn print(shared: &Shared, read: &Read, mut out: Out) -> Result<(), Stop> {
    let Read { name, identity, wish } = read;
    let (sender, heard) = sync_channel(WAITING);
    shared.source.listen_to(wish.clone(), sender)?;
    let (mut runs, mut printer) = (shared.source.runs(), Printer::default());
    let mut wanted: Option<RunKey> = None;
    let read = shared.source.read(&heard, None, |told| {
        let message = match told {
            Told::Message(message) => message,
            Told::CaughtUp => return Ok(Next::Enough(())),
            _ => return Ok(Next::More(None)),
        };
        let Some(news) = runs.hear(&message, shared.now()) else { return Ok(Next::More(None)) };
        runs.forget_output(news.run);
        let is_it = |found: &Run| {
            found.ident == name.ident
                && found.subject_id == name.subject_id()
                && (found.identity == *identity || found.identity.is_none())
        };
        if !runs.get(news.run).is_some_and(is_it) {
            return Ok(Next::More(None));
        }
        if wanted.is_some_and(|wanted| wanted != news.run) {
            // An ident was used again.
            out.send(printer.skip())?;
            printer = Printer::default();
        }
        wanted = Some(news.run);
        if let Some(counter) = news.counter {
            out.send(printer.take(counter, news.printed))?;
        }
        Ok(Next::More(None))
    });
    out.send(printer.skip())?;
    if read.is_err() {
        out.hand_on(Err(io::Error::other("the stream broke off")))?;
    } else if out.is_empty {
        // The stream has let go of it.
        let text = shared.book().find(name).map(|(run, _)| remembered(run, out.is_colored));
        out.hand_on(Ok(text.unwrap_or_default().into()))?;
    }
    Ok(())
}
