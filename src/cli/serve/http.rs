//! Connections, and their limits: nobody takes all of them, and nobody keeps one for nothing.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};
use tokio_io_timeout::TimeoutStream;

use super::routes::Peer;

/// Connections at once; who comes then waits.
const CONNECTIONS: usize = 1_000;
/// How long a request may take to come in.
const REQUEST: Duration = Duration::from_secs(10);
/// Whoever takes nothing for so long of what is sent is dropped.
const STUCK: Duration = Duration::from_secs(30);
/// What a request's line and headers may take, in bytes, and how many headers there may be.
const HEAD: usize = 16 << 10;
const HEADERS: usize = 64;

/// Answers requests, for ever.
pub(super) async fn serve(listener: &TcpListener, router: Router) {
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let router = router.clone().layer(axum::Extension(Peer(peer)));
                tokio::spawn(async move {
                    answer(stream, router).await;
                    drop(seat);
                });
            }
            // No descriptor is free, say.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer(stream: TcpStream, router: Router) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(STUCK));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(HEAD)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router));
    // What a client does wrong is its own business.
    let _ = connection.await;
}
