//! Contexts of the `nats` command line: `~/.config/nats/context/NAME.json`.
//!
//! The rules are those of the package natscontext of jsm.go: which fields there are, where the files are, `~` and
//! variables in paths, and secrets as `env://NAME` or `file://PATH`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::credentials::{self, Auth};
use crate::secret::{Secret, looks_secret, shown_path};

/// The environment.
#[derive(Clone, Copy)]
pub(crate) struct Env<'a> {
    /// Looks a variable up.
    pub(crate) get: &'a dyn Fn(&str) -> Option<String>,
    /// The variables that there are, as far as they may be meant for us.
    pub(crate) names: &'a [String],
}

impl Env<'_> {
    /// The value of a variable, be it empty.
    pub(super) fn get(self, name: &str) -> Option<String> {
        (self.get)(name)
    }

    /// The names of this process's variables.
    pub(crate) fn names() -> Vec<String> {
        let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
        names.filter(|name| name.to_ascii_uppercase().starts_with("RUNNER_")).collect()
    }
}

/// What a context says, in terms of our options.
#[derive(Debug, Default)]
pub(super) struct Context {
    /// How the user calls it.
    pub name: String,
    /// Our options' keys, the context's fields, and their values.
    pub options: Vec<(&'static str, &'static str, Value)>,
    /// How to authenticate, and the field that says so.
    pub auth: Option<(&'static str, Auth)>,
    /// All that must not be seen, chosen or not.
    pub secrets: Vec<Secret>,
    /// Fields that have a value and no meaning here.
    pub not_served: Vec<String>,
}

/// The context's fields that are options of ours, as they are.
const PLAIN: &[(&str, &str)] = &[
    ("servers", "url"),
    ("inbox_prefix", "inbox_prefix"),
    ("tls_handshake_first", "tls_first"),
    ("jetstream_domain", "jetstream_domain"),
    ("jetstream_api_prefix", "jetstream_api_prefix"),
];

/// The same, with a path as their value.
const PATHS: &[(&str, &str)] = &[("tls_ca", "ca"), ("tls_cert", "cert"), ("tls_key", "key")];

/// They have nothing to do with publishing.
const OF_NO_CONCERN: &[&str] = &["name", "description", "color_scheme", "jetstream_event_prefix"];

const AUTH: &[&str] = &["user", "password", "token", "creds", "nkey", "user_jwt", "user_seed"];

/// They say who we are or whom we trust, in ways that we have not: to go on without them would not be meant.
const REFUSED: &[&str] =
    &["nsc", "windows_cert_store", "windows_cert_match_by", "windows_cert_match", "windows_ca_certs_match"];

impl Context {
    /// Reads the context of this name, or in this file; its way to authenticate if `with_auth`. An error says what
    /// cannot be used, without secrets.
    pub(super) fn load(name: &str, env: Env<'_>, with_auth: bool) -> Result<Self, String> {
        let path = path_of(name, env)?;
        let text = credentials::read(&path).map_err(|error| {
            let known = known(&path);
            let known = if known.is_empty() { known } else { format!("; there are {known}") };
            format!("cannot read {}: {error}{known}", path.display())
        })?;
        let fields: Map<String, Value> = serde_json::from_str(text.reveal())
            // Where, not what: the text has secrets in it.
            .map_err(|error| format!("{} is no JSON object (line {})", path.display(), error.line()))?;
        // Go's JSON does not care for the case of names.
        let fields = fields.into_iter().map(|(field, value)| (field.to_lowercase(), value)).collect();
        Self::of(name, &fields, env, with_auth)
    }

    fn of(name: &str, fields: &Map<String, Value>, env: Env<'_>, with_auth: bool) -> Result<Self, String> {
        let mut context = Self { name: name.to_owned(), secrets: secrets(fields, env), ..Self::default() };
        if let Some(field) =
            REFUSED.iter().find(|field| fields.get(**field).is_some_and(|value| !is_empty(value)))
        {
            return Err(format!("{field} cannot be used here"));
        }
        for (key, field) in PLAIN {
            if let Some(value) = fields.get(*field).filter(|value| !is_empty(value)) {
                context.options.push((key, field, value.clone()));
            }
        }
        for (key, field) in PATHS {
            if let Some(value) = text(fields, field)? {
                context.options.push((key, field, Value::from(path_in(field, value, env)?)));
            }
        }
        if with_auth {
            context.auth = way_of(fields, env)?;
        }
        let served = |name: &str| {
            PLAIN.iter().chain(PATHS).any(|(_, field)| *field == name)
                || AUTH.contains(&name)
                || OF_NO_CONCERN.contains(&name)
        };
        context.not_served = fields
            .iter()
            .filter(|(name, value)| !served(name) && !is_empty(value))
            .map(|(name, _)| name.clone())
            .collect();
        Ok(context)
    }
}

/// In natscontext's order.
fn way_of(fields: &Map<String, Value>, env: Env<'_>) -> Result<Option<(&'static str, Auth)>, String> {
    if let Some(user) = text(fields, "user")? {
        let password = secret("password", text(fields, "password")?.unwrap_or_default(), env)?;
        return Ok(Some(("user", Auth::User(user.to_owned(), password))));
    }
    if let Some(creds) = text(fields, "creds")? {
        return Ok(Some((
            "creds",
            match Reference::of("creds", creds)? {
                Reference::Env(variable) => Auth::Creds(variable_of("creds", variable, env)?),
                Reference::File(path) | Reference::Plain(path) => {
                    Auth::CredsFile(path_in("creds", path, env)?.into())
                }
            },
        )));
    }
    if let Some(nkey) = text(fields, "nkey")? {
        return Ok(Some((
            "nkey",
            match Reference::of("nkey", nkey)? {
                Reference::Env(variable) => {
                    let seed = credentials::seed_in(&variable_of("nkey", variable, env)?);
                    Auth::Seed(seed.ok_or("nkey: no nkey seed (SU...) in it")?)
                }
                Reference::File(path) | Reference::Plain(path) => {
                    Auth::SeedFile(path_in("nkey", path, env)?.into())
                }
            },
        )));
    }
    match (text(fields, "user_jwt")?, text(fields, "user_seed")?) {
        (None, None) => {}
        (Some(jwt), Some(seed)) => {
            let (jwt, seed) = (secret("user_jwt", jwt, env)?, secret("user_seed", seed, env)?);
            let creds = format!("{}\n{}\n", jwt.reveal(), seed.reveal());
            return Ok(Some(("user_jwt", Auth::Creds(Secret::new(creds)))));
        }
        _ => return Err("user_jwt and user_seed: expected both".to_owned()),
    }
    let token = text(fields, "token")?.map(|token| secret("token", token, env)).transpose()?;
    Ok(token.map(|token| ("token", Auth::Token(token))))
}

/// What of a context must not be seen, as far as it can be read.
fn secrets(fields: &Map<String, Value>, env: Env<'_>) -> Vec<Secret> {
    let literal = ["password", "token", "user_jwt", "user_seed"].into_iter();
    let literal = literal.filter_map(|field| secret(field, text(fields, field).ok()??, env).ok());
    let files = ["creds", "nkey", "key"].into_iter().flat_map(|field| {
        let value = text(fields, field).ok().flatten().unwrap_or_default();
        match Reference::of(field, value) {
            Ok(Reference::Env(variable)) => {
                let text = variable_of(field, variable, env).ok().into_iter();
                text.flat_map(|text| credentials::secrets_of(&Auth::Creds(text))).collect()
            }
            Ok(Reference::File(path) | Reference::Plain(path)) => path_in(field, path, env)
                .map(|path| credentials::lines_of(Path::new(&path)))
                .unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    });
    literal.chain(files).collect()
}

/// Where a secret is.
enum Reference<'a> {
    Env(&'a str),
    File(&'a str),
    Plain(&'a str),
}

impl<'a> Reference<'a> {
    fn of(field: &str, value: &'a str) -> Result<Self, String> {
        let after = |scheme: &str| {
            let (start, rest) = value.split_at_checked(scheme.len())?;
            start.eq_ignore_ascii_case(scheme).then_some(rest)
        };
        if let Some(variable) = after("env://") {
            return Ok(Self::Env(variable));
        }
        if let Some(path) = after("file://") {
            return Ok(Self::File(path));
        }
        match ["op://", "nsc://", "data:"].into_iter().find(|scheme| after(scheme).is_some()) {
            Some(scheme) => Err(format!("{field}: {scheme} cannot be read here; use env:// or file://")),
            None => Ok(Self::Plain(value)),
        }
    }
}

fn secret(field: &str, value: &str, env: Env<'_>) -> Result<Secret, String> {
    Ok(match Reference::of(field, value)? {
        Reference::Plain(text) => Secret::new(text),
        Reference::Env(variable) => variable_of(field, variable, env)?,
        Reference::File(path) => {
            let path = path_in(field, path, env)?;
            let text = credentials::read(Path::new(&path))
                .map_err(|error| format!("{field}: cannot read {}: {error}", shown_path(&path)))?;
            Secret::new(text.reveal().trim_end_matches(['\r', '\n']))
        }
    })
}

fn variable_of(field: &str, variable: &str, env: Env<'_>) -> Result<Secret, String> {
    let value = env.get(variable).filter(|value| !value.is_empty());
    value.map(Secret::new).ok_or_else(|| format!("{field}: the variable {variable} is not set"))
}

/// A path with `~`, `$NAME` and `${NAME}` in it.
fn path_in(field: &str, path: &str, env: Env<'_>) -> Result<String, String> {
    let (start, rest) = path.split_at_checked("file://".len()).unwrap_or((path, ""));
    let path = if start.eq_ignore_ascii_case("file://") { rest } else { path };
    if looks_secret(path) && !path.contains("${") {
        return Err(format!("{field}: expected a path, not its content"));
    }
    let lookup = |name: &str| env.get(name).map(Some).ok_or("not set");
    shellexpand::full_with_context(path, || env.get("HOME"), lookup)
        .map(std::borrow::Cow::into_owned)
        .map_err(|error| format!("{field}: the variable {} is not set", error.var_name))
}

/// A name, or the path of a file.
fn path_of(name: &str, env: Env<'_>) -> Result<PathBuf, String> {
    if name.contains('/') || Path::new(name).extension().is_some_and(|ending| ending == "json") {
        return Ok(path_in("context", name, env)?.into());
    }
    if name.contains(['\\', '\0']) || name.contains("..") {
        return Err("no name of a context".to_owned());
    }
    let set = |name: &str| env.get(name).filter(|value| !value.is_empty());
    let config = set("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| Some(Path::new(&set("HOME")?).join(".config")));
    let config = config.ok_or("neither XDG_CONFIG_HOME nor HOME is set")?;
    Ok(config.join("nats/context").join(format!("{name}.json")))
}

/// The names of the contexts beside this one.
fn known(path: &Path) -> String {
    const MOST: usize = 20;
    let files = path.parent().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    let names = files.filter_map(|file| Some(file.file_name().to_str()?.strip_suffix(".json")?.to_owned()));
    let mut names: Vec<String> = names.take(MOST).collect();
    names.sort();
    names.join(", ")
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn text<'a>(fields: &'a Map<String, Value>, field: &str) -> Result<Option<&'a str>, String> {
    match fields.get(field) {
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
        None | Some(Value::Null | Value::String(_)) => Ok(None),
        Some(_) => Err(format!("{field}: expected text")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn context(fields: &Value) -> Result<Context, String> {
        let env = |name: &str| match name {
            "HOME" => Some("/home/me".to_owned()),
            "DIR" => Some("/keys".to_owned()),
            "PW" => Some("from-env".to_owned()),
            _ => None,
        };
        Context::of("prod", fields.as_object().unwrap(), Env { get: &env, names: &[] }, true)
    }

    fn auth(fields: &Value) -> Auth {
        context(fields).unwrap().auth.unwrap().1
    }

    #[test]
    fn every_field_that_we_serve() {
        let fields = json!({
            "description": "ours", "url": "nats://a,nats://b", "ca": "~/ca.pem", "cert": "$DIR/c.pem",
            "key": "file://${DIR}/k.pem", "inbox_prefix": "_IN", "tls_first": true, "jetstream_domain": "hub",
            "jetstream_api_prefix": "", "jetstream_event_prefix": "x", "color_scheme": "dark",
            "socks_proxy": "socks5://p", "nsc": "", "windows_ca_certs_match": [], "future": 7});
        let context = context(&fields).unwrap();
        let value =
            |key: &str| context.options.iter().find(|(k, ..)| *k == key).map(|(_, _, value)| value.clone());
        assert_eq!(value("servers"), Some(json!("nats://a,nats://b")));
        assert_eq!(value("tls_ca"), Some(json!("/home/me/ca.pem")));
        assert_eq!(value("tls_cert"), Some(json!("/keys/c.pem")));
        assert_eq!(value("tls_key"), Some(json!("/keys/k.pem")));
        assert_eq!(value("tls_handshake_first"), Some(json!(true)));
        assert_eq!(value("jetstream_domain"), Some(json!("hub")));
        assert_eq!(value("jetstream_api_prefix"), None);
        assert_eq!(context.not_served, ["socks_proxy", "future"]);
        assert!(context.auth.is_none());
    }

    #[test]
    fn ways_to_authenticate_in_natscontexts_order() {
        let all = json!({"user": "u", "password": "p", "creds": "/c", "nkey": "/n", "token": "t"});
        assert_eq!(auth(&all), Auth::User("u".to_owned(), Secret::new("p")));
        assert_eq!(auth(&json!({"creds": "~/c", "nkey": "/n"})), Auth::CredsFile("/home/me/c".into()));
        assert_eq!(auth(&json!({"nkey": "file://$DIR/n", "token": "t"})), Auth::SeedFile("/keys/n".into()));
        assert_eq!(auth(&json!({"token": "ENV://PW"})), Auth::Token(Secret::new("from-env")));
        assert_eq!(auth(&json!({"creds": "env://PW"})), Auth::Creds(Secret::new("from-env")));
        assert_eq!(
            auth(&json!({"token": "https://is-a-token"})),
            Auth::Token(Secret::new("https://is-a-token"))
        );
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        fs::write(&file, "in-file\n").unwrap();
        let token = json!({"token": format!("file://{}", file.display())});
        assert_eq!(auth(&token), Auth::Token(Secret::new("in-file")));
    }

    #[test]
    fn what_cannot_be_used_is_named_without_the_secret() {
        for (fields, expected) in [
            (json!({"password": 7, "user": "u"}), "password: expected text"),
            (
                json!({"token": "op://vault/canary"}),
                "token: op:// cannot be read here; use env:// or file://",
            ),
            (json!({"token": "env://UNSET"}), "token: the variable UNSET is not set"),
            (json!({"creds": "$UNSET/x"}), "creds: the variable UNSET is not set"),
            (json!({"nsc": "a/b/c"}), "nsc cannot be used here"),
            (json!({"user_jwt": "canary"}), "user_jwt and user_seed: expected both"),
            (json!({"creds": "-----BEGIN canary"}), "creds: expected a path, not its content"),
            (json!({"key": "-----BEGIN canary"}), "key: expected a path, not its content"),
        ] {
            assert_eq!(context(&fields).unwrap_err(), expected);
        }
    }

    #[test]
    fn names_and_paths() {
        let path = |name: &str, vars: &[(&str, &str)]| {
            let env = |name: &str| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned());
            path_of(name, Env { get: &env, names: &[] }).map(|path| path.display().to_string())
        };
        assert_eq!(path("prod", &[("HOME", "/h")]).unwrap(), "/h/.config/nats/context/prod.json");
        assert_eq!(path("prod", &[("XDG_CONFIG_HOME", "/x")]).unwrap(), "/x/nats/context/prod.json");
        assert_eq!(path("~/p.json", &[("HOME", "/h")]).unwrap(), "/h/p.json");
        assert!(path("prod", &[]).is_err() && path("..", &[("HOME", "/h")]).is_err());
    }
}
