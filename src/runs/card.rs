//! Who runs what where, as the first message of a run says (`docs/schemas/card.json`).

use serde::{Deserialize, Serialize};

use crate::harmless::one_line;

/// Who runs a run with what, beside its actor and its host (`docs/schemas/card.json`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Card {
    pub(crate) pid: Option<u64>,
    pub(crate) user: Option<String>,
    /// The commit of the project's folder.
    pub(crate) revision: Option<String>,
    pub(crate) ansible_runner: Option<String>,
    pub(crate) python: Option<String>,
    pub(crate) plugin: Option<String>,
}

impl Card {
    /// Actor, host and the rest of a card; what is not known is left out.
    pub(super) fn read(card: &str) -> (Option<String>, Option<String>, Self) {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Whole {
            actor: Option<String>,
            host: Option<String>,
            #[serde(flatten)]
            rest: Card,
        }
        let Whole { actor, host, rest } = serde_json::from_str(card).unwrap_or_default();
        let shown = |text: Option<String>| text.map(|text| one_line(&text));
        let card = Self {
            pid: rest.pid,
            user: shown(rest.user),
            revision: shown(rest.revision),
            ansible_runner: shown(rest.ansible_runner),
            python: shown(rest.python),
            plugin: shown(rest.plugin),
        };
        (shown(actor), shown(host), card)
    }
}
