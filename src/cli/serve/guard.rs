//! Who gets in, and with what.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
};
use clap::Args;
use subtle::ConstantTimeEq;

use super::{
    assets::is_asset,
    attempts::{Attempts, Way},
    http::Peer,
    url::in_url,
};
use crate::{cli::terminal::complain, config::read_secret, message::nonce, secret::Secret};

/// The cookie of who has shown the token.
const COOKIE: &str = "ansible-runner-nats";
/// A shorter token could be guessed.
const SHORTEST: usize = 16;
/// The form that the token comes in.
pub(super) const LOGIN: &str = "/login";
/// Says no more than whether all is well, so that whoever only looks after that needs no token.
pub(super) const HEALTH: &str = "/healthz";

/// Who may come in.
#[derive(Debug, Args)]
pub(super) struct Access {
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
}

/// The rules, in the order in which they are looked at: the host, the method, the token.
pub(super) struct Guard {
    address: SocketAddr,
    hosts: Vec<String>,
    token: Option<Secret>,
    /// The value of the cookie, new with each start.
    session: String,
    attempts: Mutex<Attempts>,
}

/// What a request has shown of the token.
enum Shown {
    Right,
    Nothing,
    Wrong,
    /// It was not looked at: too many before it were wrong.
    TooSoon(Duration),
}

impl Guard {
    /// An error says which options do not go together.
    pub(super) fn new(listen: SocketAddr, access: &Access) -> Result<Self, String> {
        let Access { allow_remote, token_file, behind_proxy, hosts } = access;
        let is_local = listen.ip().is_loopback();
        if !is_local && !allow_remote {
            return Err(format!(
                "--listen {listen}: others reach this address; say --allow-remote (with --token-file or \
                 --behind-proxy), or listen on 127.0.0.1"
            ));
        }
        if !is_local && token_file.is_none() && !behind_proxy {
            return Err(
                "--allow-remote: say who gets in: --token-file FILE, or --behind-proxy if a proxy sees to that".to_owned()
            );
        }
        let token = match token_file {
            None => None,
            Some(path) => {
                let fail = |problem: &str| format!("--token-file {}: {problem}", path.display());
                let text = read_secret(path).map_err(|error| fail(&error.to_string()))?;
                let token = Secret::new(text.reveal().trim());
                let is_plain = token.reveal().bytes().all(|byte| byte.is_ascii_graphic());
                if token.reveal().len() < SHORTEST || !is_plain {
                    return Err(fail(&format!(
                        "a token has at least {SHORTEST} characters, ASCII without spaces"
                    )));
                }
                Some(token)
            }
        };
        let own = hostname::get().unwrap_or_default().to_string_lossy().into_owned();
        let named = hosts.iter().cloned().chain(["localhost".to_owned(), own]);
        Ok(Self {
            address: listen,
            hosts: named.map(|host| host.to_ascii_lowercase()).collect(),
            token,
            session: format!("{}{}", nonce(), nonce()),
            attempts: Mutex::default(),
        })
    }

    /// Is this one of our own names? Somebody else's may point to our address, and a browser would let that site's
    /// scripts read what we answer (DNS rebinding).
    fn knows(&self, host: &str) -> bool {
        let name = host.strip_suffix(|c: char| c.is_ascii_digit()).map_or(host, |_| {
            host.rsplit_once(':')
                .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
                .map_or(host, |(name, _)| name)
        });
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        match bare.parse::<IpAddr>() {
            // Nobody can make an address point elsewhere. On loopback only loopback's own are right.
            Ok(ip) => ip.is_loopback() || !self.address.ip().is_loopback(),
            Err(_) => self.hosts.iter().any(|known| known == &name.to_ascii_lowercase()),
        }
    }

    /// What these headers show.
    fn shown(&self, headers: &HeaderMap, peer: IpAddr) -> Shown {
        let Some(token) = &self.token else { return Shown::Right };
        let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
        let mut pairs =
            cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        if pairs.any(|(name, value)| name == COOKIE && is_same(value, &self.session)) {
            return Shown::Right;
        }
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        match bearer.and_then(|value| value.split_once(' ')) {
            Some((scheme, given)) if scheme.eq_ignore_ascii_case("bearer") => {
                self.look_at(is_same(given, token.reveal()), peer, Way::Header)
            }
            _ => Shown::Nothing,
        }
    }

    /// A token was shown, unless it comes too soon after wrong ones.
    fn look_at(&self, is_right: bool, peer: IpAddr, way: Way) -> Shown {
        let (mut attempts, now) = (self.attempts(), Instant::now());
        if let Some(wait) = attempts.wait(peer, way, now) {
            return Shown::TooSoon(wait);
        }
        if is_right {
            attempts.right(peer, way);
            return Shown::Right;
        }
        let (times, wait) = attempts.wrong(peer, way, now);
        complain(&format!(
            "a wrong token from {peer}, time {times}: the next one is looked at in {} s",
            wait.as_secs()
        ));
        Shown::Wrong
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is there a form to fill in?
    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// The cookie for who has shown the token; otherwise how long to wait before the next try.
    pub(super) fn cookie_for(&self, given: &str, peer: IpAddr) -> Result<HeaderValue, Duration> {
        const DAY: u32 = 86_400;
        let is_right = self.token.as_ref().is_some_and(|own| is_same(given.trim(), own.reveal()));
        match self.look_at(is_right, peer, Way::Form) {
            Shown::Right => {}
            Shown::TooSoon(wait) => return Err(wait),
            Shown::Nothing | Shown::Wrong => return Err(Duration::ZERO),
        }
        // A link from elsewhere comes with the cookie; nothing but reading is possible anyway.
        let cookie = format!("{COOKIE}={}; Path=/; Max-Age={DAY}; HttpOnly; SameSite=Lax", self.session);
        HeaderValue::from_str(&cookie).map_err(|_| Duration::ZERO)
    }
}

/// Takes as long for one wrong token as for another of its length.
fn is_same(given: &str, own: &str) -> bool {
    given.as_bytes().ct_eq(own.as_bytes()).into()
}

/// Looks at every request before anything else does, and at every answer after.
pub(super) async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let mut response = match refusal(&guard, &request) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    for (name, value) in [
        // Nothing but our own scripts and styles, and nobody else's page around ours.
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
             form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn refusal(guard: &Guard, request: &Request) -> Option<Response> {
    let text = |status: StatusCode, text: &'static str| (status, text).into_response();
    let mut hosts = request.headers().get_all(header::HOST).into_iter();
    let host = hosts.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
    // Of a whole address in the request line the host is what counts (RFC 9112, section 3.2.2).
    let host = request.uri().authority().map_or(host, |authority| authority.as_str());
    if hosts.next().is_some() || !guard.knows(host) {
        return Some(text(
            StatusCode::MISDIRECTED_REQUEST,
            "This is not one of this server's names. --host NAME makes it one.\n",
        ));
    }
    let is_login = guard.has_token() && request.uri().path() == LOGIN;
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let is_form = is_login && *request.method() == Method::POST;
    if !is_read && !is_form {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD.\n");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Some(response);
    }
    let path = request.uri().path();
    if is_login || path == HEALTH || is_asset(path) {
        return None;
    }
    let peer = request.extensions().get::<Peer>().map_or(IpAddr::from([0; 4]), |peer| peer.0.ip());
    match guard.shown(request.headers(), peer) {
        Shown::Right => None,
        Shown::TooSoon(wait) => Some(too_soon(wait, "Too many wrong tokens came from your address.\n")),
        Shown::Nothing | Shown::Wrong => Some(unknown(request)),
    }
}

/// Who has a browser gets the form, and comes back to where it wanted to go.
fn unknown(request: &Request) -> Response {
    let accepts =
        request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accepts.contains("text/html") {
        let wanted = request.uri().path_and_query().map_or("/", |wanted| wanted.as_str());
        return Redirect::to(&format!("{LOGIN}?to={}", in_url(wanted))).into_response();
    }
    let answer = "A token is needed (Authorization: Bearer).\n";
    let mut response = (StatusCode::UNAUTHORIZED, answer).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// An answer to who has to wait.
pub(super) fn too_soon(wait: Duration, content: impl IntoResponse) -> Response {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let headers = [(header::RETRY_AFTER, seconds.to_string())];
    (StatusCode::TOO_MANY_REQUESTS, headers, content).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(listen: &str, hosts: &[&str]) -> Guard {
        Guard {
            address: listen.parse().unwrap(),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            token: Some(Secret::new("a-token-of-enough-length")),
            session: "session".to_owned(),
            attempts: Mutex::default(),
        }
    }

    #[test]
    fn only_our_own_names() {
        let local = guard("127.0.0.1:9464", &["localhost"]);
        for good in ["localhost", "LOCALHOST:9464", "127.0.0.1:9464", "127.1.2.3", "[::1]:80", "[::1]"] {
            assert!(local.knows(good), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "localhost.evil.example:9464",
            "192.0.2.1:9464",
            "[2001:db8::1]",
            "127.0.0.1.nip.io",
            ":",
        ] {
            assert!(!local.knows(bad), "{bad}");
        }
        let remote = guard("0.0.0.0:80", &["runs.example"]);
        assert!(
            remote.knows("192.0.2.1:80") && remote.knows("runs.example") && !remote.knows("evil.example")
        );
    }

    #[test]
    fn only_the_token_or_the_cookie() {
        let guard = guard("127.0.0.1:1", &[]);
        let mut number = 0;
        let mut with = |name: header::HeaderName, value: &str| {
            // Each from an address of its own: none has to wait for another.
            number += 1;
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            matches!(guard.shown(&headers, IpAddr::from([127, 0, 0, number])), Shown::Right)
        };
        assert!(with(header::AUTHORIZATION, "Bearer a-token-of-enough-length"));
        assert!(with(header::AUTHORIZATION, "bearer a-token-of-enough-length"));
        assert!(with(header::COOKIE, "a=b; ansible-runner-nats=session"));
        for (name, value) in [
            (header::AUTHORIZATION, "Bearer a-token-of-enough-lengt"),
            (header::AUTHORIZATION, "Bearer "),
            (header::AUTHORIZATION, "Basic a-token-of-enough-length"),
            (header::AUTHORIZATION, "a-token-of-enough-length"),
            (header::COOKIE, "ansible-runner-nats="),
            (header::COOKIE, "ansible-runner-nats=a-token-of-enough-length"),
            (header::COOKIE, "other=session"),
        ] {
            assert!(!with(name.clone(), value), "{name}: {value}");
        }
        let peer = IpAddr::from([127, 0, 0, 99]);
        assert!(guard.cookie_for("a-token-of-enough-length\n", peer).is_ok());
        assert_eq!(guard.cookie_for("wrong", peer), Err(Duration::ZERO));
        // The right one, too, has to wait now.
        assert!(guard.cookie_for("a-token-of-enough-length", peer).unwrap_err() > Duration::ZERO);
    }
}
