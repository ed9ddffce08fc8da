//! Which path is what.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use axum::{
    Extension, Form, Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, Query, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Semaphore, broadcast::error::RecvError, mpsc},
    time::timeout,
};

use super::{
    book::{Name, Shared},
    detail,
    guard::{self, Guard, LOGIN},
    list::{self, Wanted},
    metrics::{OLDER, OPEN_METRICS},
    page,
};
use crate::{
    cli::{
        reading::{Next as Then, Told as Heard, beginning_of},
        runs::Listed,
        stop::Stop,
        terminal::{printable, remark},
    },
    message::in_utc,
    nats::Wish,
    runs::{Failure, Printer, Recap, Run, RunKey, Task},
};

/// Those who listen to changes, at once.
const LISTENERS: usize = 500;
/// Those who read what a run printed from a stream, at once: each has a connection to NATS.
const LOGS: usize = 16;
/// A sign of life for who listens while nothing happens.
const ALIVE: Duration = Duration::from_secs(15);

/// What every request has to do with.
#[derive(Clone)]
pub(super) struct App {
    pub(super) shared: Arc<Shared>,
    pub(super) guard: Arc<Guard>,
    listeners: Arc<Semaphore>,
    logs: Arc<Semaphore>,
}

/// Who asks.
#[derive(Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// What pages are made with: name, kind, content.
const STATIC: [(&str, &str, &str); 3] = [
    ("/static/style.css", "text/css; charset=utf-8", include_str!("static/style.css")),
    ("/static/live.js", "text/javascript; charset=utf-8", include_str!("static/live.js")),
    ("/static/icon.svg", "image/svg+xml", include_str!("static/icon.svg")),
];

/// Is this what everybody may see?
pub(super) fn is_static(path: &str) -> bool {
    STATIC.iter().any(|(name, ..)| *name == path)
}

pub(super) fn router(shared: &Arc<Shared>, guard: Guard, verbose: bool) -> Router {
    const BODY: usize = 4 << 10;
    let app = App {
        shared: Arc::clone(shared),
        guard: Arc::new(guard),
        listeners: Arc::new(Semaphore::new(LISTENERS)),
        logs: Arc::new(Semaphore::new(LOGS)),
    };
    let mut router = Router::new()
        .route("/", get(list_page))
        .route("/runs/{subject_id}/{ident}", get(run_page))
        .route("/runs/{subject_id}/{ident}/{run_id}", get(run_page))
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .route("/api/runs", get(runs))
        .route("/api/runs/{subject_id}/{ident}", get(run))
        .route("/api/runs/{subject_id}/{ident}/log", get(log))
        .route("/api/runs/{subject_id}/{ident}/{run_id}", get(run))
        .route("/api/runs/{subject_id}/{ident}/{run_id}/log", get(log))
        .route("/api/events", get(events))
        .route(LOGIN, get(login_form).post(login));
    for (path, kind, content) in STATIC {
        router = router.route(path, get(move || async move { ([(header::CONTENT_TYPE, kind)], content) }));
    }
    let router = router
        .fallback(|| async { (StatusCode::NOT_FOUND, "There is nothing here.\n") })
        .layer(DefaultBodyLimit::max(BODY))
        .layer(middleware::from_fn_with_state(app.clone(), guard::check));
    let router = if verbose { router.layer(middleware::from_fn(told)) } else { router };
    router.with_state(app)
}

/// A line on standard error for a request.
async fn told(Extension(Peer(peer)): Extension<Peer>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    // The query may be somebody's search; the path says enough.
    let what = printable(&format!("{} {}", request.method(), request.uri().path()));
    let response = next.run(request).await;
    let took = began.elapsed().as_secs_f64() * 1e3;
    remark(&format!(
        "{} {peer} {what} {} {took:.1} ms",
        in_utc(SystemTime::now()),
        response.status().as_u16()
    ));
    response
}

async fn list_page(State(App { shared, .. }): State<App>, Query(wanted): Query<Wanted>) -> Response {
    list::page(&shared, &wanted).into_response()
}

/// A run's address. A subject id that nobody knows is a dash.
/// What is wanted of a run.
#[derive(Debug, Default, Deserialize)]
struct After {
    /// Only what was printed after the event with this counter.
    after: Option<u64>,
}

async fn run_page(
    State(App { shared, .. }): State<App>,
    Path(name): Path<Name>,
    Query(after): Query<After>,
) -> Response {
    let book = shared.book();
    match book.find(&name) {
        Some(run) => detail::page(&shared, &book, run, after.after).into_response(),
        None => {
            (StatusCode::NOT_FOUND, page::nothing(&book, &shared, "There is no such run.")).into_response()
        }
    }
}

async fn metrics(State(App { shared, .. }): State<App>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let is_open_metrics = accept.contains("application/openmetrics-text");
    let text = {
        let book = shared.book();
        if book.link().is_ok() && !book.has_caught_up {
            // Half of a history would look as if all of the other half had just happened.
            return (StatusCode::SERVICE_UNAVAILABLE, "Still reading what the stream has kept.\n")
                .into_response();
        }
        book.metrics.text(&book.runs, shared.silent_after, book.link().is_ok(), is_open_metrics)
    };
    ([(header::CONTENT_TYPE, if is_open_metrics { OPEN_METRICS } else { OLDER })], text).into_response()
}

async fn health(State(App { shared, .. }): State<App>) -> Response {
    match shared.book().link() {
        Ok(_) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn runs(State(App { shared, .. }): State<App>, Query(wanted): Query<Wanted>) -> Response {
    let book = shared.book();
    let now = SystemTime::now();
    let runs = wanted.of(&book.runs, &shared, now);
    let listed: Vec<Listed<'_>> = runs.iter().map(|run| Listed::new(run, now, shared.silent_after)).collect();
    Json(listed).into_response()
}

/// A run, for programs: what `runs --json` has, and more. Times in RFC 3339, durations in seconds.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    listed: Listed<'a>,
    play: &'a str,
    task: &'a str,
    task_count: u64,
    expected_tasks: Option<u64>,
    recap: Recap,
    events_missing: u64,
    messages_cut: u64,
    failures: Vec<ToldFailure<'a>>,
    tasks: Vec<ToldTask<'a>>,
}

#[derive(Serialize)]
struct ToldFailure<'a> {
    counter: u64,
    host: &'a str,
    task: &'a str,
    fate: &'static str,
    why: &'a str,
    details: &'a [String],
}

#[derive(Serialize)]
struct ToldTask<'a> {
    name: &'a str,
    began: Option<String>,
    duration: Option<f64>,
    recap: Recap,
}

impl<'a> From<&'a Failure> for ToldFailure<'a> {
    fn from(failure: &'a Failure) -> Self {
        let Failure { counter, host, task, fate, why, details } = failure;
        Self { counter: *counter, host, task, fate: fate.as_str(), why, details }
    }
}

impl<'a> ToldTask<'a> {
    fn new(run: &Run, task: &'a Task, now: SystemTime) -> Self {
        let duration = run.duration_of(task, now).map(|duration| duration.as_secs_f64());
        Self { name: &task.name, began: task.began.map(in_utc), duration, recap: task.recap }
    }
}

async fn run(State(App { shared, .. }): State<App>, Path(name): Path<Name>) -> Response {
    let book = shared.book();
    let Some(run) = book.find(&name) else { return no_run() };
    let now = SystemTime::now();
    Json(Told {
        listed: Listed::new(run, now, shared.silent_after),
        play: &run.play,
        task: &run.task,
        task_count: run.task_count,
        expected_tasks: run.known_tasks,
        recap: run.recap,
        events_missing: run.missing(),
        messages_cut: run.cut,
        failures: run.failures.iter().map(ToldFailure::from).collect(),
        tasks: run.tasks.iter().map(|task| ToldTask::new(run, task, now)).collect(),
    })
    .into_response()
}

fn no_run() -> Response {
    let problem = BTreeMap::from([("error", "there is no such run")]);
    (StatusCode::NOT_FOUND, Json(problem)).into_response()
}

/// All that a run printed: from the stream, or else what is remembered.
async fn log(State(App { shared, logs, .. }): State<App>, Path(name): Path<Name>) -> Response {
    let (run, has_stream) = {
        let book = shared.book();
        let Some(run) = book.find(&name) else { return no_run() };
        (run.clone(), !book.streams.is_empty())
    };
    let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    if run.first_stored.is_none() || !has_stream {
        let text: String = run.output.lines().flat_map(|line| [line, "\n"]).collect();
        return (kind, text).into_response();
    }
    let Ok(seat) = logs.try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "Too many read such a log already.\n").into_response();
    };
    let subjects = shared.source.filters_of(&run, None);
    let wish = Wish { subjects, from: beginning_of(&run), follow: false, before: None };
    let (sender, receiver) = mpsc::channel(16);
    tokio::task::spawn_blocking(move || {
        // Whoever asked may be gone.
        let _ = print(&shared, wish, &run, &sender);
        drop(seat);
    });
    let pieces =
        stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    (kind, Body::from_stream(pieces)).into_response()
}

/// Reads a run from the stream, and hands on what it printed.
fn print(shared: &Shared, wish: Wish, run: &Run, out: &mpsc::Sender<io::Result<Bytes>>) -> Result<(), Stop> {
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    let send = |lines: Vec<String>| {
        let text: String = lines.into_iter().flat_map(|line| [line, "\n".to_owned()]).collect();
        if text.is_empty() { Ok(()) } else { out.blocking_send(Ok(text.into())).map_err(|_| gone()) }
    };
    let heard = shared.source.listen(wish)?;
    let (mut runs, mut printer) = (shared.source.runs(), Printer::default());
    let mut wanted: Option<RunKey> = None;
    let read = shared.source.read(&heard, None, |told| {
        match told {
            Heard::Message(message) => {
                let Some(news) = runs.hear(&message, SystemTime::now()) else { return Ok(Then::More(None)) };
                let is_it = |found: &Run| {
                    found.ident == run.ident
                        && found.subject_id == run.subject_id
                        && (found.identity == run.identity || found.identity.is_none())
                };
                if !runs.get(news.run).is_some_and(is_it) {
                    return Ok(Then::More(None));
                }
                if wanted.is_some_and(|wanted| wanted != news.run) {
                    // An ident was used again.
                    send(printer.skip())?;
                    printer = Printer::default();
                }
                wanted = Some(news.run);
                if let Some(counter) = news.counter {
                    send(printer.take(counter, news.printed))?;
                }
            }
            Heard::CaughtUp => return Ok(Then::Enough(())),
            _ => {}
        }
        Ok(Then::More(None))
    });
    send(printer.skip())?;
    if read.is_err() {
        let broken = Err(io::Error::other("the stream broke off"));
        out.blocking_send(broken).map_err(|_| gone())?;
    }
    Ok(())
}

/// What changes, as it changes: server-sent events, each a run as `/api/runs` has it.
async fn events(State(App { shared, listeners, .. }): State<App>) -> Response {
    let Ok(seat) = listeners.try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "Too many listen already.\n").into_response();
    };
    let hello = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"retry: 2000\n\n"))]);
    let news = stream::unfold((shared.listen(), seat), |(mut news, seat)| async move {
        let next = match timeout(ALIVE, news.recv()).await {
            Ok(Ok(frame)) => frame,
            Err(_) => Bytes::from_static(b": alive\n\n"),
            // Whoever does not keep up comes back, and looks at the whole.
            Ok(Err(RecvError::Lagged(_) | RecvError::Closed)) => return None,
        };
        Some((Ok(next), (news, seat)))
    });
    let body = Body::from_stream(futures_util::StreamExt::chain(hello, news));
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

async fn login_form(State(App { guard, .. }): State<App>) -> Response {
    if guard.has_token() { page::login(false).into_response() } else { Redirect::to("/").into_response() }
}

#[derive(Deserialize)]
struct Shown {
    token: String,
}

async fn login(State(App { guard, .. }): State<App>, Form(Shown { token }): Form<Shown>) -> Response {
    const PAUSE: Duration = Duration::from_millis(500);
    if let Some(cookie) = guard.cookie_for(&token) {
        let mut response = Redirect::to("/").into_response();
        response.headers_mut().insert(header::SET_COOKIE, cookie);
        return response;
    }
    tokio::time::sleep(PAUSE).await;
    let mut response = (StatusCode::UNAUTHORIZED, page::login(true)).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}
