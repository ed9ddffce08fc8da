//! The form that the token comes in.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Form, Router,
    extract::{Query, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use maud::{Markup, html};
use serde::Deserialize;
use tower_http::timeout::RequestBodyTimeoutLayer;

use super::{
    guard::{Guard, LOGIN, too_soon},
    http::Peer,
    page::bare,
    url::is_local,
};

/// How long a filled-in form may take to come in.
const SLOWEST: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Wanted {
    /// Where to go from here.
    #[serde(default)]
    to: String,
}

#[derive(Deserialize)]
struct Filled {
    token: String,
    #[serde(default)]
    to: String,
}

pub(super) fn router(guard: &Arc<Guard>) -> Router {
    let routes = Router::new().route(LOGIN, get(empty).post(filled));
    routes.layer(RequestBodyTimeoutLayer::new(SLOWEST)).with_state(Arc::clone(guard))
}

/// Only a path of ours: nobody is led elsewhere by a link to this form.
fn local(to: &str) -> &str {
    if is_local(to) { to } else { "/" }
}

async fn empty(State(guard): State<Arc<Guard>>, Query(Wanted { to }): Query<Wanted>) -> Response {
    if !guard.has_token() {
        return Redirect::to(local(&to)).into_response();
    }
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], form(&to, None)).into_response()
}

async fn filled(
    State(guard): State<Arc<Guard>>,
    Extension(Peer(peer)): Extension<Peer>,
    Form(Filled { token, to }): Form<Filled>,
) -> Response {
    match guard.cookie_for(&token, peer.ip()) {
        Ok(cookie) => {
            let mut response = Redirect::to(local(&to)).into_response();
            response.headers_mut().insert(header::SET_COOKIE, cookie);
            response
        }
        Err(Duration::ZERO) => {
            let mut response =
                (StatusCode::UNAUTHORIZED, form(&to, Some("That is not the token."))).into_response();
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
        Err(wait) => {
            let problem = format!("Too many wrong tokens: try again in {} s.", wait.as_secs() + 1);
            too_soon(wait, form(&to, Some(&problem)))
        }
    }
}

fn form(to: &str, problem: Option<&str>) -> Markup {
    let form = html! {
        h1 { "Who are you?" }
        form.bar method="post" action=(LOGIN) {
            @if let Some(problem) = problem { p role="alert" { (problem) } }
            input type="hidden" name="to" value=(local(to));
            label { "Token " input type="password" name="token" autocomplete="current-password" required autofocus; }
            button { "Enter" }
        }
    };
    bare("Token", &form)
}
