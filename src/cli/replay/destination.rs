//! Where a run's messages go: where its record says, unless somebody says otherwise; and whether they are there already.

use serde_json::{Map, Value};

use super::Arguments;
use crate::{
    cli::terminal::{complain, printable},
    config::{Config, Setting},
    nats::doubt,
    recovery::Plan,
};

/// Does a stream not have any more what it had acknowledged of these runs? Says why that is to be feared.
pub(super) fn in_doubt(config: &Config, plan: &Plan) -> Result<Option<String>, String> {
    let runtime = runtime()?;
    let mut found = Ok(None);
    for (run, claims) in plan.streams() {
        found =
            runtime.block_on(doubt(&config.connection, claims, run)).map_err(|error| config.hidden(error));
        if !matches!(found, Ok(None)) {
            break;
        }
    }
    runtime.shutdown_background();
    found
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())
}

/// Do the options lead to where the record says? They do if they name no server: then its own are taken.
pub(super) fn may_go(arguments: &Arguments, settings: &Map<String, Value>, plan: &Plan) -> bool {
    let Some(destination) = plan.destination().filter(|_| !arguments.elsewhere) else { return true };
    match named_servers(arguments, settings) {
        Some(servers) => servers.iter().any(|server| destination.servers.contains(server)),
        None => true,
    }
}

pub(super) fn elsewhere(
    arguments: &Arguments,
    settings: &Map<String, Value>,
    plan: &Plan,
) -> Result<String, String> {
    let theirs = plan.destination().ok_or("there is no record")?.servers.join(", ");
    let ours = named_servers(arguments, settings).unwrap_or_default().join(", ");
    Ok(format!(
        "its messages were to go to {theirs}, and the options say {ours}; nothing is sent (leave `servers` out to send \
         where the record says, or use --elsewhere)"
    ))
}

/// The servers that the options name, if they name any.
fn named_servers(arguments: &Arguments, settings: &Map<String, Value>) -> Option<Vec<String>> {
    let resolution = arguments.options.resolve(settings.clone(), Some("replay"));
    let is_named = |setting: &Setting| setting.option == "servers" && setting.source != "default";
    resolution.settings.iter().any(is_named).then_some(())?;
    let servers = resolution.config?.connection.servers;
    Some(servers.into_iter().map(|server| server.address).collect())
}

/// The options for a run: those of the environment and the settings, but for its subject id, which the record knows.
pub(super) fn config_for(
    arguments: &Arguments,
    settings: &Map<String, Value>,
    plan: &Plan,
) -> Result<Config, String> {
    let fallback = plan.subject_id().or((!plan.needs_subject_id()).then_some("replay"));
    let mut settings = settings.clone();
    let servers = plan.destination().filter(|_| named_servers(arguments, &settings).is_none());
    if let Some(destination) = servers {
        let options = settings.entry("nats_options").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(options) = options {
            options.insert("servers".to_owned(), destination.servers.join(",").into());
        }
    }
    let resolution = arguments.options.resolve(settings, fallback);
    for problem in &resolution.problems {
        complain(&printable(problem));
    }
    let Some(mut config) = resolution.config else {
        return Err(if resolution.problems.is_empty() {
            "the run's subject id is needed (RUNNER_NATS_SUBJECT_ID, or nats_subject_id in env/settings)"
        } else {
            "the options are wrong"
        }
        .to_owned());
    };
    if let Some(id) = plan.subject_id() {
        id.clone_into(&mut config.subject_id);
    }
    Ok(config)
}
