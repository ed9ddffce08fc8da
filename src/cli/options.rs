//! What all commands have in common: the plugin's own options, from where the plugin has them.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use clap::{Args, ValueHint};
use serde_json::{Map, Value};

use super::terminal::{complain, printable};
use crate::config::{self, Config, Env, Resolution};

/// Where to connect, and how: as the plugin would, unless it is said here.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Server to connect to instead (nats, tls, ws or wss)
    #[arg(short, long, value_name = "URL")]
    server: Vec<String>,
    /// Context of the nats command to use, by name or path
    #[arg(short, long, value_name = "NAME")]
    context: Option<String>,
    /// ansible-runner's private data directory, for its env/settings
    #[arg(short = 'd', long = "private-data-dir", value_name = "DIR", value_hint = ValueHint::DirPath)]
    folder: Option<PathBuf>,
    /// Any other option of the plugin, such as -o delivery=core
    #[arg(short, long = "option", value_name = "KEY=VALUE", value_parser = pair)]
    option: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Options {
    /// The private data directory, if there is one.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The settings of the private data directory; none without one.
    fn settings(&self) -> Result<Map<String, Value>, String> {
        self.folder().map_or_else(|| Ok(Map::new()), settings_of)
    }

    /// What the plugin would go by here, for runs of `subject_id` if none is set; `None` if that cannot be used, which
    /// was said.
    pub(super) fn config(&self, subject_id: &str) -> Option<Config> {
        let resolution = match self.settings() {
            Ok(settings) => self.resolve(settings, Some(subject_id)),
            Err(problem) => {
                complain(&printable(&problem));
                return None;
            }
        };
        for problem in &resolution.problems {
            // Here nothing is published anyway.
            let problem = problem.strip_suffix(config::NOTHING_IS_PUBLISHED).unwrap_or(problem);
            complain(printable(problem).trim_end_matches([';', ' ']));
        }
        resolution.config
    }

    /// Exactly what the plugin would make of these settings and this process's environment; what is said on the
    /// command line beats both. `subject_id` is used if none is set.
    pub(super) fn resolve(&self, mut settings: Map<String, Value>, subject_id: Option<&str>) -> Resolution {
        let given = self.given();
        if !given.is_empty() {
            let options = settings.entry("nats_options").or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(options) = options {
                options.extend(given.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))));
            }
        }
        let hidden: Vec<&str> = given
            .iter()
            .filter_map(|(key, _)| config::option_of_key(key))
            .flat_map(|opt| opt.env)
            .copied()
            .collect();
        let env = |name: &str| {
            let value = std::env::var_os(name).filter(|_| !hidden.contains(&name));
            value.map(|value| value.to_string_lossy().into_owned()).filter(|value| !value.is_empty())
        };
        let id_is_set = |settings: &Map<String, Value>| {
            env(config::SUBJECT_ID_VARIABLE).is_some()
                || settings.get(config::SUBJECT_ID.key).is_some_and(|id| !config::is_off(id))
        };
        if let Some(id) = subject_id.filter(|_| !id_is_set(&settings)) {
            settings.insert(config::SUBJECT_ID.key.to_owned(), Value::from(id));
        }
        let hostname = || hostname::get().unwrap_or_default().to_string_lossy().into_owned();
        let env = Env { get: &env, names: &Env::names() };
        let mut resolution = config::resolve(&settings, env, &hostname);
        for setting in &mut resolution.settings {
            if given.iter().any(|(key, _)| setting.source == format!("nats_options.{key}")) {
                "the command line".clone_into(&mut setting.source);
            }
        }
        for problem in &mut resolution.problems {
            let named = given.iter().find_map(|(key, _)| {
                let rest = problem.strip_prefix("nats_options.")?.strip_prefix(key.as_str())?;
                // Not one whose name only begins like this.
                rest.starts_with(['=', ':', ' ']).then(|| self.as_given(key, rest))
            });
            if let Some(named) = named {
                *problem = named;
            }
        }
        resolution
    }

    /// What is said of an option, with the name by which it was given here.
    fn as_given(&self, key: &str, rest: &str) -> String {
        let flag = match key {
            "servers" if !self.server.is_empty() => "-s",
            "context" if self.context.is_some() => "-c",
            key => return format!("-o {key}{rest}"),
        };
        rest.strip_prefix('=').map_or_else(|| format!("{flag}{rest}"), |value| format!("{flag} {value}"))
    }

    fn given(&self) -> Vec<(String, String)> {
        let mut given = self.option.clone();
        if !self.server.is_empty() {
            given.push(("servers".to_owned(), self.server.join(",")));
        }
        given.extend(self.context.iter().map(|name| ("context".to_owned(), name.clone())));
        given
    }
}

/// Reads files of a private data directory as a job does: only ansible-runner knows how, and the console script hands it in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readers {
    /// `env/settings`. An error says why it cannot be read, without secrets.
    pub(crate) settings: fn(&Path) -> Result<Map<String, Value>, String>,
    /// What a job was given: `passwords`, `variables` and `key`.
    pub(crate) given: fn(&Path) -> Map<String, Value>,
}

static READERS: OnceLock<Readers> = OnceLock::new();

/// Says how files are read.
pub(super) fn read_with(readers: Readers) {
    // The first word counts: there is one console script in a process.
    let _ = READERS.set(readers);
}

/// What a job in this private data directory was given.
pub(super) fn given_in(folder: &Path) -> Map<String, Value> {
    READERS.get().map_or_else(Map::new, |readers| (readers.given)(folder))
}

/// The settings of a private data directory. None is no error.
pub(super) fn settings_of(folder: &Path) -> Result<Map<String, Value>, String> {
    if !folder.is_dir() {
        return Err(format!("{} is no directory", folder.display()));
    }
    let path = folder.join("env/settings");
    if !path.exists() {
        return Ok(Map::new());
    }
    let fail = |reason: &str| format!("{}: {reason}", path.display());
    if !path.is_file() {
        return Err(fail("not a regular file"));
    }
    let readers = READERS.get().ok_or_else(|| fail("nobody can read it"))?;
    (readers.settings)(folder).map_err(|reason| fail(&reason))
}
