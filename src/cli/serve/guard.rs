//! Who gets in, and with what.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use subtle::ConstantTimeEq;

use super::{Arguments, page, routes::App};
use crate::{config::read_secret, message::nonce, secret::Secret};

/// The cookie of who has shown the token.
const COOKIE: &str = "ansible-runner-nats";
/// A shorter token could be guessed.
const SHORTEST: usize = 16;
/// The form that the token comes in.
pub(super) const LOGIN: &str = "/login";

/// The rules, in the order in which they are looked at: the host, the method, the token.
pub(super) struct Guard {
    address: SocketAddr,
    hosts: Vec<String>,
    token: Option<Secret>,
    /// The value of the cookie, new with each start.
    session: String,
}

impl Guard {
    /// An error says which options do not go together.
    pub(super) fn new(arguments: &Arguments) -> Result<Self, String> {
        let Arguments { listen, allow_remote, token_file, behind_proxy, hosts, .. } = arguments;
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
            address: *listen,
            hosts: named.map(|host| host.to_ascii_lowercase()).collect(),
            token,
            session: format!("{}{}", nonce(), nonce()),
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

    /// May this request come in?
    fn lets_in(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = bearer.and_then(|value| value.split_once(' '));
        if bearer.is_some_and(|(scheme, given)| {
            scheme.eq_ignore_ascii_case("bearer") && is_same(given, token.reveal())
        }) {
            return true;
        }
        let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
        let mut pairs =
            cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.any(|(name, value)| name == COOKIE && is_same(value, &self.session))
    }

    /// Is there a form to fill in?
    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// The cookie for who has shown the token.
    pub(super) fn cookie_for(&self, token: &str) -> Option<HeaderValue> {
        const DAY: u32 = 86_400;
        let is_right = self.token.as_ref().is_some_and(|own| is_same(token.trim(), own.reveal()));
        let cookie = format!("{COOKIE}={}; Path=/; Max-Age={DAY}; HttpOnly; SameSite=Strict", self.session);
        HeaderValue::from_str(&cookie).ok().filter(|_| is_right)
    }
}

/// Takes as long for one wrong token as for another of its length.
fn is_same(given: &str, own: &str) -> bool {
    given.as_bytes().ct_eq(own.as_bytes()).into()
}

/// Looks at every request before anything else does, and at every answer after.
pub(super) async fn check(State(app): State<App>, request: Request, next: Next) -> Response {
    let mut response = match refusal(&app.guard, &request) {
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
    if is_login || guard.lets_in(request.headers()) || super::routes::is_static(request.uri().path()) {
        return None;
    }
    let accepts =
        request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let mut response = if accepts.contains("text/html") {
        (StatusCode::UNAUTHORIZED, page::login(false)).into_response()
    } else {
        text(StatusCode::UNAUTHORIZED, "A token is needed (Authorization: Bearer).\n")
    };
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    Some(response)
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
        let with = |name: header::HeaderName, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            guard.lets_in(&headers)
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
        assert!(guard.cookie_for("wrong").is_none());
        assert!(guard.cookie_for("a-token-of-enough-length\n").is_some());
    }
}
