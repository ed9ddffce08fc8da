//! Which path is what.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Instant, SystemTime},
};

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tower_http::{CompressionLevel, compression::CompressionLayer};

use super::{
    api::{Told, told},
    assets,
    book::{Book, Shared},
    guard::{self, Guard, HEALTH},
    http::Peer,
    list,
    live::{self, LISTENERS},
    log::{self, READERS},
    login,
    metrics::{OLDER, OPEN_METRICS},
    name::Name,
    output::{self, Look, Range},
    page,
    part::Known,
    run,
    wanted::Wanted,
};
use crate::{
    cli::terminal::{printable, remark},
    message::in_utc,
};

/// What requests have to do with.
#[derive(Clone)]
struct App {
    shared: Arc<Shared>,
    listeners: Arc<Semaphore>,
    readers: Arc<Semaphore>,
}

pub(super) fn router(shared: &Arc<Shared>, guard: Guard, verbose: bool) -> Router {
    const BODY: usize = 4 << 10;
    let guard = Arc::new(guard);
    let app = App {
        shared: Arc::clone(shared),
        listeners: Arc::new(Semaphore::new(LISTENERS)),
        readers: Arc::new(Semaphore::new(READERS)),
    };
    let mut router = Router::new();
    for name in ["/{subject_id}/{ident}", "/{subject_id}/{ident}/{run_id}"] {
        router = router
            .route(&format!("/runs{name}"), get(run_page))
            .route(&format!("/runs{name}/lines"), get(lines))
            .route(&format!("/api/runs{name}"), get(api_run))
            .route(&format!("/api/runs{name}/log"), get(log_text));
    }
    let router = router
        .route("/", get(list_page))
        .route("/metrics", get(metrics))
        .route(HEALTH, get(health))
        .route("/api/runs", get(api_runs))
        .route("/api/events", get(events))
        .with_state(app)
        .merge(assets::router())
        .merge(login::router(&guard))
        .fallback(|| async { (StatusCode::NOT_FOUND, "There is nothing here.\n") })
        .layer(DefaultBodyLimit::max(BODY))
        .layer(middleware::from_fn_with_state(guard, guard::check))
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest));
    if verbose { router.layer(middleware::from_fn(told_to_us)) } else { router }
}

/// A line on standard error for a request.
async fn told_to_us(Extension(Peer(peer)): Extension<Peer>, request: Request, next: Next) -> Response {
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

async fn list_page(
    State(App { shared, .. }): State<App>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Response {
    list::page(&shared, &wanted, &Known::of(&headers)).into_response()
}

async fn run_page(
    State(App { shared, .. }): State<App>,
    Path(name): Path<Name>,
    Query(look): Query<Look>,
    headers: HeaderMap,
) -> Response {
    let (book, known) = (shared.book(), Known::of(&headers));
    match book.find(&name) {
        Some((run, others)) => run::page(&shared, &book, run, &others, &look, &known).into_response(),
        None => no_page(&book, &shared, &known),
    }
}

/// Some lines of what a run printed.
async fn lines(
    State(App { shared, .. }): State<App>,
    Path(name): Path<Name>,
    Query(range): Query<Range>,
    headers: HeaderMap,
) -> Response {
    let (book, known) = (shared.book(), Known::of(&headers));
    match book.find(&name) {
        Some((run, _)) => output::page(&shared, &book, run, &range, &known).into_response(),
        None => no_page(&book, &shared, &known),
    }
}

fn no_page(book: &Book, shared: &Shared, known: &Known) -> Response {
    let page = page::nothing(book, shared, known, "There is no such run.");
    (StatusCode::NOT_FOUND, page).into_response()
}

async fn metrics(State(App { shared, .. }): State<App>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let is_open_metrics = accept.contains("application/openmetrics-text");
    let text = {
        let book = shared.book();
        if book.link().is_ok() && !book.has_caught_up {
            // Of half a history nobody can say how a playbook ended last.
            return (StatusCode::SERVICE_UNAVAILABLE, "Still reading what the stream has kept.\n")
                .into_response();
        }
        book.metrics.text(
            shared.open(&book),
            shared.as_of(shared.now()),
            shared.silent_after,
            book.link().is_ok(),
            is_open_metrics,
        )
    };
    ([(header::CONTENT_TYPE, if is_open_metrics { OPEN_METRICS } else { OLDER })], text).into_response()
}

/// Whoever asks may be anybody: what is the matter is said to those who may see the page.
async fn health(State(App { shared, .. }): State<App>) -> Response {
    match shared.book().link() {
        Ok(_) => "ok\n".into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "There is no connection to NATS.\n").into_response(),
    }
}

async fn api_runs(State(App { shared, .. }): State<App>, Query(wanted): Query<Wanted>) -> Response {
    let problems = wanted.filter(shared.now()).problems;
    if !problems.is_empty() {
        let problem = BTreeMap::from([("error", problems.join("; "))]);
        return (StatusCode::BAD_REQUEST, Json(problem)).into_response();
    }
    let (book, now) = (shared.book(), shared.now());
    let runs = wanted.of(&book.runs, &shared, now);
    let told: Vec<Told<'_>> = runs.into_iter().map(|run| Told::new(run, &shared, now)).collect();
    Json(told).into_response()
}

async fn api_run(State(App { shared, .. }): State<App>, Path(name): Path<Name>) -> Response {
    let book = shared.book();
    match book.find(&name) {
        Some((run, others)) => Json(told(run, &others, &shared, shared.now())).into_response(),
        None => no_run(),
    }
}

fn no_run() -> Response {
    let problem = BTreeMap::from([("error", "there is no such run")]);
    (StatusCode::NOT_FOUND, Json(problem)).into_response()
}

/// How a text is wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Text {
    /// `always`: with colours, for a terminal.
    color: String,
}

async fn log_text(
    State(App { shared, readers, .. }): State<App>,
    Path(name): Path<Name>,
    Query(text): Query<Text>,
) -> Response {
    let seat = readers.try_acquire_owned().ok();
    log::log(shared, name, text.color == "always", seat).unwrap_or_else(no_run)
}

async fn events(State(App { shared, listeners, .. }): State<App>) -> Response {
    live::events(&shared, listeners.try_acquire_owned().ok())
}
