//! Server URLs, and the credentials in them.

use percent_encoding::percent_decode_str;
use serde_json::Value;
use url::Url;

use super::{
    credentials::{Auth, secrets_of},
    model::Server,
    options::SERVERS,
    reader::Reader,
    values::{as_text, as_texts},
};
use crate::secret::Secret;

impl Reader<'_> {
    pub(super) fn servers(&mut self) -> Vec<Server> {
        let parse_or_reason = |value: &Value| -> Result<Vec<Server>, &'static str> {
            let urls = as_texts(value).ok_or("no text")?;
            let urls = urls.iter().map(|url| url.trim()).filter(|url| !url.is_empty());
            let servers: Vec<Server> = urls.map(parse_server).collect::<Result<_, _>>()?;
            if servers.is_empty() { Err("none given") } else { Ok(servers) }
        };
        let parse = |value: &Value| parse_or_reason(value).ok();
        for value in self.all_given(&SERVERS) {
            for server in parse(&value).unwrap_or_default() {
                self.secrets.extend(server.auth.iter().flat_map(secrets_of));
            }
            self.secrets.extend(userinfo_as_written(&value));
        }
        let default = || parse(&Value::from(SERVERS.takes.default()));
        let reason = self.raw(&SERVERS).and_then(|(_, value)| parse_or_reason(&value).err());
        let expected = SERVERS.takes.expected();
        let expected = reason.map_or_else(|| expected.clone(), |reason| format!("{expected} ({reason})"));
        let servers = self.read_as(&SERVERS, &expected, parse).or_else(default).unwrap_or_default();
        let with_auth = |server: &Server| {
            let auth = server.auth.as_ref().map_or("", |_| " (with credentials)");
            format!("{}{auth}", server.address)
        };
        self.shown(SERVERS.key, servers.iter().map(with_auth).collect::<Vec<_>>().join(", "));
        servers
    }
}

/// Passwords and tokens of server URLs as they were written, percent-encoded or not.
fn userinfo_as_written(value: &Value) -> Vec<Secret> {
    // Of a list, whatever is a text.
    let urls: Vec<String> = match value {
        Value::Array(urls) => urls.iter().filter_map(as_text).collect(),
        other => as_texts(other).unwrap_or_default(),
    };
    let secret = |url: &String| {
        let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
        let (userinfo, _) = rest.rsplit_once('@')?;
        Some(Secret::new(userinfo.split_once(':').map_or(userinfo, |(_, password)| password)))
    };
    urls.iter().filter_map(secret).collect()
}

/// A server URL; the scheme may be left out (`localhost:4222`), and credentials may be percent-encoded. An error says why
/// it cannot be used, and nothing of it.
fn parse_server(text: &str) -> Result<Server, &'static str> {
    let text = if text.contains("://") { text.to_owned() } else { format!("nats://{text}") };
    let url = Url::parse(&text).map_err(|_| "no URL")?;
    if !matches!(url.scheme(), "nats" | "tls" | "ws" | "wss") {
        return Err("another scheme");
    }
    if url.host_str().unwrap_or_default().is_empty() {
        return Err("no host");
    }
    // A `#`, `?` or `/` in a password that is not percent-encoded ends the host early: we would connect to
    // somebody else.
    if url.query().is_some() || url.fragment().is_some() || url.path().contains('@') {
        return Err(
            "neither a query nor a fragment can be sent; in a password write %3F for ?, %23 for #, %2F for /",
        );
    }
    let websocket = matches!(url.scheme(), "ws" | "wss");
    if !websocket && !matches!(url.path(), "" | "/") {
        return Err("a path is for ws:// and wss:// alone; in a password write %2F for /");
    }
    let decode = |part: &str| {
        percent_decode_str(part).decode_utf8().map(String::from).map_err(|_| "credentials that are no text")
    };
    let auth = match (url.username(), url.password()) {
        ("", None) => None,
        (token, None) => Some(Auth::Token(Secret::new(decode(token)?))),
        (user, Some(password)) => Some(Auth::User(decode(user)?, Secret::new(decode(password)?))),
    };
    Ok(Server { address: address_of(&url), auth, learnt_for: None })
}

/// `scheme://host:port` and, for WebSocket, the path.
fn address_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or(4222);
    // A proxy may take `/nats/` for another place than `/nats`.
    let path = Some(url.path()).filter(|path| matches!(url.scheme(), "ws" | "wss") && *path != "/");
    let path = path.unwrap_or_default();
    format!("{}://{host}:{port}{path}", url.scheme())
}
