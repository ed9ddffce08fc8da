//! Server URLs, and the credentials in them.

use percent_encoding::percent_decode_str;
use serde_json::Value;
use url::Url;

use super::{
    auth::{Auth, secrets_of},
    options::SERVERS,
    reader::Reader,
    values::{as_text, as_texts},
};
use crate::secret::Secret;

impl Reader<'_> {
    pub(super) fn servers(&mut self) -> Vec<Server> {
        let parse = |value: &Value| -> Option<Vec<Server>> {
            let urls = as_texts(value)?;
            let urls: Vec<&str> = urls.iter().map(|url| url.trim()).filter(|url| !url.is_empty()).collect();
            let servers: Vec<Server> = urls.into_iter().map(parse_server).collect::<Option<_>>()?;
            (!servers.is_empty()).then_some(servers)
        };
        for value in self.all_given(&SERVERS) {
            for server in parse(&value).unwrap_or_default() {
                self.secrets.extend(server.auth.iter().flat_map(secrets_of));
            }
            self.secrets.extend(userinfo_as_written(&value));
        }
        let default = || parse(&Value::from(SERVERS.takes.default()));
        let servers = self.read(&SERVERS, parse).or_else(default).unwrap_or_default();
        let with_auth = |server: &Server| {
            let auth = server.auth.as_ref().map_or("", |_| " (with credentials)");
            format!("{}{auth}", server.address)
        };
        self.shown(SERVERS.key, servers.iter().map(with_auth).collect::<Vec<_>>().join(", "));
        servers
    }
}

/// One server to try: its address, and the credentials that its URL carried.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    /// `scheme://host:port`, without credentials.
    pub address: String,
    /// From `user:password@` or `token@` in the URL.
    pub auth: Option<Auth>,
    /// Of a server that another one told us of, by its number: the host name that its certificate must be for.
    pub learnt_for: Option<String>,
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

/// A server URL; the scheme may be left out (`localhost:4222`), and credentials may be percent-encoded.
fn parse_server(text: &str) -> Option<Server> {
    let text = if text.contains("://") { text.to_owned() } else { format!("nats://{text}") };
    let url = Url::parse(&text).ok()?;
    if !matches!(url.scheme(), "nats" | "tls" | "ws" | "wss") || url.host_str().unwrap_or_default().is_empty()
    {
        return None;
    }
    // A `#`, `?` or `/` in a password that is not percent-encoded ends the host early: we would connect to
    // somebody else.
    let websocket = matches!(url.scheme(), "ws" | "wss");
    let tail = url.query().is_some() || url.fragment().is_some() || url.path().contains('@');
    if tail || (!websocket && !matches!(url.path(), "" | "/")) {
        return None;
    }
    let decode = |part: &str| percent_decode_str(part).decode_utf8().ok().map(String::from);
    let auth = match (url.username(), url.password()) {
        ("", None) => None,
        (token, None) => Some(Auth::Token(Secret::new(decode(token)?))),
        (user, Some(password)) => Some(Auth::User(decode(user)?, Secret::new(decode(password)?))),
    };
    Some(Server { address: address_of(&url), auth, learnt_for: None })
}

/// `scheme://host:port` and, for WebSocket, the path.
fn address_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or(4222);
    let path = if matches!(url.scheme(), "ws" | "wss") { url.path().trim_end_matches('/') } else { "" };
    format!("{}://{host}:{port}{path}", url.scheme())
}
