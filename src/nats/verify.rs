//! What do streams hold of runs, and is it what they have acknowledged? An acknowledgement says that a message was written, not that it is on
//! the platter: a power cut of a single server, a restored backup, or a stream made anew take back what was confirmed.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::SystemTime,
};

use async_nats::jetstream::consumer::DeliverPolicy;
use futures_util::StreamExt;
use tokio::time::timeout;

use super::{
    api::{Trouble, about, connect, names_for},
    consumer::{self, Form, Order, Reading},
    jetstream::StreamInfo,
    link::{Link, close},
    raw::Raw,
};
use crate::{
    config::Connection,
    journal::Acknowledged,
    message::{MSG_ID, RUN, RunId},
    outbox::Place,
    recovery::Stored,
};

/// Why what these streams have acknowledged of a run is to be looked for, message by message; `None`: it is there, as far as
/// they have not let go of it by their own limits. An error says why they cannot be asked.
pub(crate) async fn doubt(
    connection: &Connection,
    claims: &[Acknowledged],
    run: Option<RunId>,
) -> Result<Option<String>, String> {
    let mut link = connect(connection).await.map_err(|error| error.to_string())?;
    let api = connection.jetstream_api.as_str();
    let mut doubt = Ok(None);
    for claim in claims {
        doubt = of_one(&mut link, api, claim, run).await;
        if !matches!(doubt, Ok(None)) {
            break;
        }
    }
    close(&link.client, &link.gone).await;
    doubt
}

async fn of_one(
    link: &mut Link,
    api: &str,
    claim: &Acknowledged,
    run: Option<RunId>,
) -> Result<Option<String>, String> {
    let name = &claim.name;
    if claim.went_back {
        return Ok(Some(format!(
            "stream {name} lost what it had acknowledged, or was made anew, while the run went on"
        )));
    }
    let info = match about(link, api, name, None).await {
        Ok(info) => info,
        Err(Trouble::NoStream(_)) => {
            return Ok(Some(format!("stream {name}, which had it, is not there any more")));
        }
        Err(trouble) => return Err(trouble.to_string()),
    };
    if let Some(doubt) = by_its_state(claim, &info) {
        return Ok(doubt);
    }
    let number = claim.last_sequence;
    match Raw::at(link, api, name, number).await {
        Ok(Some(raw)) => {
            let found = raw.received().run;
            // Of a run without an identity nothing more can be said.
            let is_other = run.is_some() && found != run;
            Ok(is_other.then(|| {
                format!("stream {name} has another message in the place of the last one ({number})")
            }))
        }
        // Deleted, by somebody who may.
        Ok(None) => Ok(None),
        Err(trouble) => Err(trouble.to_string()),
    }
}

/// What can be said without a look at a message: `None` if nothing can; why there is doubt, or that there is none.
#[expect(clippy::option_option, reason = "nothing to be said is another answer than no doubt")]
fn by_its_state(claim: &Acknowledged, info: &StreamInfo) -> Option<Option<String>> {
    let Acknowledged { name, created, last_sequence, .. } = claim;
    if created.is_some() && info.created.is_some() && *created != info.created {
        return Some(Some(format!("stream {name} was made anew")));
    }
    let (first, last) = (info.state.first_seq, info.state.last_seq);
    if last < *last_sequence {
        return Some(Some(format!(
            "stream {name} ends with message {last}, and had acknowledged {last_sequence}"
        )));
    }
    // Let go, by the stream's own limits.
    (first > *last_sequence).then_some(None)
}

/// What streams hold of some subjects.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Their messages, by id.
    pub(crate) ids: HashMap<String, Stored>,
    /// What was published before this time the streams may have let go, by their own limits.
    pub(crate) horizon: Option<SystemTime>,
}

/// Asks the streams that take these subjects, through the first server that can be reached. Headers alone are read, and of
/// these subjects alone, however large the streams are. `None`: no stream takes them. An error says why they cannot be
/// asked.
pub(crate) async fn held(connection: &Connection, subjects: &[String]) -> Result<Option<Held>, String> {
    let mut link = connect(connection).await.map_err(|error| error.to_string())?;
    let found = ids_of(&mut link, connection, subjects).await;
    close(&link.client, &link.gone).await;
    found
}

async fn ids_of(
    link: &mut Link,
    connection: &Connection,
    subjects: &[String],
) -> Result<Option<Held>, String> {
    /// So many times `connect_timeout` a stream may take for its next message.
    const SILENCE: u32 = 5;
    let api = connection.jetstream_api.as_str();
    let mut held = None;
    let mut known: HashMap<String, StreamInfo> = HashMap::new();
    let mut form = Form::default();
    let mut made = Vec::new();
    for subject in subjects {
        let names = names_for(link, api, subject).await.map_err(|trouble| trouble.to_string())?;
        let Some(name) = names.into_iter().next() else { continue };
        let held = held.get_or_insert_with(Held::default);
        let about = match known.entry(name.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let about = about(link, api, &name, None).await.map_err(|trouble| trouble.to_string())?;
                held.horizon = held.horizon.max(about.horizon(about.now().unwrap_or_else(SystemTime::now)));
                entry.insert(about)
            }
        };
        let Some(config) = &about.config else { continue };
        let created: Option<Arc<str>> = about.created.as_deref().map(Into::into);
        let name: Arc<str> = name.into();
        let transform = config.subject_transform.as_ref();
        let stored = transform.map_or_else(|| subject.clone(), |transform| transform.stored(subject));
        let order = Order { api, stream: config, filters: &[stored], headers_only: true };
        let opened = consumer::open(link, order, &mut form, |_| DeliverPolicy::All).await;
        let Some(reading) = opened.map_err(|trouble| trouble.to_string())?.pop() else { continue };
        let Reading { mut messages, pending: mut left, .. } = reading;
        made.push(reading.name);
        while left > 0 {
            // Where the user may not ask for messages, none come.
            let Ok(next) = timeout(connection.connect_timeout * SILENCE, messages.next()).await else {
                return Err(format!(
                    "stream {name} sends nothing; allow this user to publish to {api}.CONSUMER.MSG.NEXT.{name}.*"
                ));
            };
            let Some(message) = next else { return Err("the connection broke".to_owned()) };
            let message = message.map_err(|error| format!("stream {name}: {error}"))?;
            let info = message.info().map_err(|error| error.to_string())?;
            left = info.pending;
            let (stream, created) = (Arc::clone(&name), created.clone());
            // It was there before.
            let place = Place { stream, created, number: info.stream_sequence, is_repeat: true };
            let header = |name| Some(message.headers.as_ref()?.get(name)?.as_str());
            let Some(id) = header(MSG_ID) else { continue };
            let run = header(RUN).and_then(RunId::parse);
            held.ids.insert(id.to_owned(), Stored { place, run });
        }
    }
    consumer::delete(link, api, made).await;
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(created: &str, first: u64, last: u64) -> StreamInfo {
        let state = format!(r#"{{"first_seq":{first},"last_seq":{last}}}"#);
        serde_json::from_str(&format!(r#"{{"created":"{created}","state":{state}}}"#)).unwrap()
    }

    #[test]
    fn what_a_streams_state_says() {
        let claim =
            Acknowledged { name: "S".into(), created: Some("a".into()), last_sequence: 7, went_back: false };
        let of = |info: &StreamInfo| by_its_state(&claim, info).map(|doubt| doubt.is_some());
        assert_eq!(of(&info("a", 1, 7)), None);
        assert_eq!(of(&info("a", 7, 99)), None);
        assert_eq!(of(&info("a", 8, 99)), Some(false));
        assert_eq!(of(&info("a", 1, 6)), Some(true));
        assert_eq!(of(&info("b", 1, 7)), Some(true));
    }
}
