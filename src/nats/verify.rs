//! Does a stream still hold what it has acknowledged? An acknowledgement says that a message was written, not that it is on
//! the platter: a power cut of a single server, a restored backup, or a stream made anew take back what was confirmed.

use super::{
    api::{Trouble, about, connect},
    jetstream::StreamInfo,
    link::{Link, close},
    raw::Raw,
};
use crate::{config::Connection, journal::Acknowledged, message::RunId};

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
