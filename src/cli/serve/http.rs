//! Connections, and their limits: nobody takes all of them, and nobody keeps one for nothing.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{Extension, Router, body::Body, http::Request};
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

/// Connections at once. Who comes then takes the seat of the one whose request has been awaited for the longest.
const CONNECTIONS: usize = 1_000;
/// How long a request may take to come in.
const REQUEST: Duration = Duration::from_secs(10);
/// Whoever takes nothing for so long of what is sent is dropped.
const STUCK: Duration = Duration::from_secs(30);
/// What a request's line and headers may take, in bytes, and how many headers there may be.
const HEAD: usize = 16 << 10;
const HEADERS: usize = 64;

/// Who asks.
#[derive(Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// Connections that have no whole request at the moment: the first of them gives its seat to whoever comes.
#[derive(Default)]
struct Waiting {
    next: u64,
    all: BTreeMap<u64, Arc<Place>>,
}

type Room = Arc<Mutex<Waiting>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection's place among them.
struct Place {
    room: Room,
    /// `None`: it has a request.
    number: Mutex<Option<u64>>,
    leave: Notify,
}

impl Place {
    fn wait(self: &Arc<Self>) {
        let mut waiting = lock(&self.room);
        let number = waiting.next;
        waiting.next += 1;
        waiting.all.insert(number, Arc::clone(self));
        *lock(&self.number) = Some(number);
    }

    fn leave_room(&self) {
        let number = lock(&self.number).take();
        if let Some(number) = number {
            lock(&self.room).all.remove(&number);
        }
    }
}

/// A connection has a request, until the last of the answer is taken.
struct Busy(Arc<Place>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.wait();
    }
}

/// Answers requests, for ever.
pub(super) async fn serve(listener: &TcpListener, router: Router) {
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    let room = Room::default();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let Some(seat) = seat(&seats, &room).await else { return };
                let router = router.clone().layer(Extension(Peer(peer)));
                let room = Arc::clone(&room);
                tokio::spawn(async move {
                    answer(stream, router, room).await;
                    drop(seat);
                });
            }
            // No descriptor is free, say.
            Err(_) => {
                make_room(&room);
                sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Whoever has waited for the longest goes.
fn make_room(room: &Room) {
    let first = lock(room).all.pop_first();
    if let Some((_, place)) = first {
        place.leave.notify_one();
    }
}

async fn seat(seats: &Arc<Semaphore>, room: &Room) -> Option<OwnedSemaphorePermit> {
    if let Ok(seat) = Arc::clone(seats).try_acquire_owned() {
        return Some(seat);
    }
    make_room(room);
    Arc::clone(seats).acquire_owned().await.ok()
}

async fn answer(stream: TcpStream, router: Router, room: Room) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(STUCK));
    let place = Arc::new(Place { room, number: Mutex::default(), leave: Notify::new() });
    place.wait();
    let service = service_fn(|request: Request<Incoming>| {
        place.leave_room();
        let busy = Busy(Arc::clone(&place));
        let answer = router.clone().oneshot(request.map(Body::new));
        async move {
            let response = answer.await?;
            Ok::<_, Infallible>(response.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _ = &busy;
                    frame
                }))
            }))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(HEAD)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    tokio::select! {
        // What a client does wrong is its own business.
        _ = connection => {}
        () = place.leave.notified() => {}
    }
    place.leave_room();
}
