//! Where a run's messages go: where its record says, unless somebody says otherwise; and whether they are there already.

use serde_json::{Map, Value};

use super::Arguments;
use crate::{
    cli::terminal::{complain, printable},
    config::{Config, Setting},
    nats::{block_on, doubt},
    recovery::Plan,
};

/// Does a stream not have any more what it had acknowledged of these runs? Says why that is to be feared.
pub(super) fn in_doubt(config: &Config, plan: &Plan) -> Result<Option<String>, String> {
    let found = block_on(async {
        for (run, claims) in plan.streams() {
            let found = doubt(&config.connection, claims, run).await;
            if !matches!(found, Ok(None)) {
                return found;
            }
        }
        Ok(None)
    });
    found.map_err(|error| error.to_string())?.map_err(|error| config.hidden(error))
}

/// The options for the runs of a path.
pub(super) struct Destinations<'a> {
    arguments: &'a Arguments,
    settings: Map<String, Value>,
    /// The servers that they name, if they name any.
    servers: Option<Vec<String>>,
}

impl<'a> Destinations<'a> {
    pub(super) fn new(arguments: &'a Arguments, settings: Map<String, Value>) -> Self {
        let resolution = arguments.options.resolve(settings.clone(), Some("replay"));
        let is_named = |setting: &Setting| setting.option == "servers" && setting.source != "default";
        let named = resolution.config.filter(|_| resolution.settings.iter().any(is_named));
        let servers =
            named.map(|config| config.connection.servers.into_iter().map(|server| server.address).collect());
        Self { arguments, settings, servers }
    }

    /// The options for a run: those of the environment and the settings, but for what its record knows, its subject id and
    /// its servers. An error says why it is not to be sent there; what is wrong with the options is said besides.
    pub(super) fn config_for(&self, plan: &Plan) -> Result<Config, String> {
        let fallback = plan.subject_id().or((!plan.needs_subject_id()).then_some("replay"));
        let mut settings = self.settings.clone();
        if let Some(destination) = plan.destination().filter(|_| self.servers.is_none()) {
            let options = settings.entry("nats_options").or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(options) = options {
                options.insert("servers".to_owned(), destination.servers.join(",").into());
            }
        }
        let resolution = self.arguments.options.resolve(settings, fallback);
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

    /// Why a run's messages are not sent to the servers that the options name: its record says others.
    pub(super) fn objection(&self, plan: &Plan) -> Option<String> {
        let theirs = &plan.destination().filter(|_| !self.arguments.elsewhere)?.servers;
        let ours = self.servers.as_ref()?;
        if ours.iter().any(|server| theirs.contains(server)) {
            return None;
        }
        Some(format!(
            "its messages were to go to {}, and the options say {}; nothing is sent (leave `servers` out to send where the \
             record says, or use --elsewhere)",
            theirs.join(", "),
            ours.join(", ")
        ))
    }
}
