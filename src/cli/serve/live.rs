//! What changes, as it changes: server-sent events.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use tokio::{
    sync::{OwnedSemaphorePermit, broadcast::error::RecvError},
    time::timeout,
};

use super::book::Shared;

/// Those who listen, at once.
pub(super) const LISTENERS: usize = 500;
/// A sign of life for who listens while nothing happens.
const ALIVE: Duration = Duration::from_secs(15);

/// Each event is a run as `/api/runs` has it. `seat`: one of [`LISTENERS`], if there is one.
pub(super) fn events(shared: &Shared, seat: Option<OwnedSemaphorePermit>) -> Response {
    let Some(seat) = seat else {
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
    // Whoever compresses it asks once more behind its end.
    let body = Body::from_stream(hello.chain(news).fuse());
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}
