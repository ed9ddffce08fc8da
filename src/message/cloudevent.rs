//! The headers of CloudEvents 1.0 in binary mode, by the rules of its NATS binding (sections 3.1.3.1 and 3.1.3.2):
//! a header `ce-` for each attribute, percent-encoded.

use std::sync::Arc;

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Kind, moment, start_of};

/// What a message says of itself.
#[derive(Debug)]
pub(super) struct CloudEvent<'a> {
    /// The subject id: whose runs these are.
    pub subject_id: &'a str,
    /// The run.
    pub ident: &'a str,
    /// Event or status.
    pub kind: Kind,
    /// The event's name, or the status.
    pub name: &'a str,
    /// The message id.
    pub id: &'a str,
}

/// What must be encoded in a header, besides all that is not ASCII.
const IN_HEADER: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');
/// In a segment of a URI (RFC 3986, `unreserved`).
const IN_URI: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const LONGEST: usize = 256;

impl CloudEvent<'_> {
    /// The given headers and those of the attributes; a header of the user's own replaces ours. `created` is
    /// ansible-runner's.
    pub(super) fn headers(
        &self,
        given: &[(String, String)],
        created: Option<&str>,
    ) -> Arc<[(String, String)]> {
        let name = if self.name.is_empty() { "unknown" } else { self.name };
        let mut attributes = vec![
            ("ce-specversion", "1.0".to_owned()),
            ("ce-id", self.id.to_owned()),
            ("ce-source", format!("/ansible-runner/{}", utf8_percent_encode(short(self.subject_id), IN_URI))),
            ("ce-type", format!("com.ansible.runner.{}.{}", self.kind.as_str(), short(name))),
            ("ce-subject", short(self.ident).to_owned()),
            ("ce-datacontenttype", "application/json".to_owned()),
        ];
        attributes.extend(created.and_then(moment).map(|(text, _)| text).map(|time| ("ce-time", time)));
        // An extension has its own header too, and the binding wants both.
        for (name, value) in given {
            match name.to_ascii_lowercase().as_str() {
                "traceparent" => attributes.push(("ce-traceparent", value.clone())),
                "tracestate" => attributes.push(("ce-tracestate", value.clone())),
                _ => {}
            }
        }
        let own = attributes
            .into_iter()
            .filter(|(name, _)| !given.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)));
        let encoded =
            own.map(|(name, value)| (name.to_owned(), utf8_percent_encode(&value, IN_HEADER).to_string()));
        given.iter().cloned().chain(encoded).collect()
    }
}

fn short(text: &str) -> &str {
    start_of(text, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(
        ident: &str,
        name: &str,
        given: &[(&str, &str)],
        created: Option<&str>,
    ) -> Vec<(String, String)> {
        let given: Vec<_> = given.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let event = CloudEvent { subject_id: "site a/b", ident, kind: Kind::Event, name, id: "id.1" };
        event.headers(&given, created).to_vec()
    }

    fn value(headers: &[(String, String)], name: &str) -> Option<String> {
        headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    #[test]
    fn every_attribute() {
        let created = "2026-11-24T00:47:20.123456+00:00";
        let found = headers("run \"1\" 100% ü", "runner_on_ok", &[("team", "x y")], Some(created));
        for (name, expected) in [
            ("team", "x y"),
            ("ce-specversion", "1.0"),
            ("ce-id", "id.1"),
            ("ce-source", "/ansible-runner/site%2520a%252Fb"),
            ("ce-type", "com.ansible.runner.event.runner_on_ok"),
            ("ce-subject", "run%20%221%22%20100%25%20%C3%BC"),
            ("ce-datacontenttype", "application/json"),
            ("ce-time", created),
        ] {
            assert_eq!(value(&found, name).as_deref(), Some(expected), "{name}");
        }
        assert_eq!(found.len(), 8);
    }

    #[test]
    fn what_is_odd() {
        let found =
            headers(&"ü".repeat(1000), "", &[("CE-Source", "mine"), ("traceparent", "00-1")], Some("soon"));
        assert_eq!(value(&found, "ce-source"), None);
        assert_eq!(value(&found, "ce-type").as_deref(), Some("com.ansible.runner.event.unknown"));
        assert_eq!(value(&found, "ce-time"), None);
        assert_eq!(value(&found, "ce-traceparent").as_deref(), Some("00-1"));
        assert!(value(&found, "ce-subject").unwrap().len() <= 3 * LONGEST);
        let old = headers("r", "n", &[], Some("2020-02-03T04:05:06.000001"));
        assert_eq!(value(&old, "ce-time").as_deref(), Some("2020-02-03T04:05:06.000001Z"));
    }
}
