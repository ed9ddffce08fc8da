//! Filters: which subjects to listen to, for readers of what runs publish.
//!
//! Subject ids and idents keep their dots (as 0.4.0 does), so that each may be any number of tokens, and NATS has no
//! wildcard for "one or more tokens" but at the end. So there is a filter for each number of tokens, up to
//! [`MOST_TOKENS`]; filters of different lengths never overlap.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Kind,
    subject::{Part, Template, tokens},
};

/// Subject ids and idents of more tokens than this are found only by their whole name.
const MOST_TOKENS: usize = 6;

/// What stands for one token that may be anything, while a filter is put together.
const ANY: char = '\u{0}';

impl Template {
    /// The filters that match all messages of this subject id, ident and kind; `None` stands for any.
    pub(crate) fn filters(
        &self,
        subject_id: Option<&str>,
        ident: Option<&str>,
        kind: Option<Kind>,
    ) -> Vec<String> {
        let counts = |part: &Part, given: Option<&str>| {
            let is_open = given.is_none() && self.parts().contains(part);
            1..=if is_open { MOST_TOKENS } else { 1 }
        };
        let mut filters = BTreeSet::new();
        for ids in counts(&Part::SubjectId, subject_id) {
            for idents in counts(&Part::Ident, ident) {
                filters.insert(self.filter((subject_id, ids), (ident, idents), kind));
            }
        }
        simplified(filters)
    }

    /// One filter; what is not given is so many tokens.
    fn filter(
        &self,
        (subject_id, ids): (Option<&str>, usize),
        (ident, idents): (Option<&str>, usize),
        kind: Option<Kind>,
    ) -> String {
        let any = |count: usize| vec![ANY.to_string(); count].join(".");
        let mut text = String::new();
        for part in self.parts() {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::SubjectId => text.push_str(&subject_id.map_or_else(|| any(ids), tokens)),
                Part::Ident => text.push_str(&ident.map_or_else(|| any(idents), tokens)),
                Part::Kind => text.push_str(kind.map_or("\0", Kind::as_str)),
                Part::Name => text.push(ANY),
            }
        }
        // A wildcard is a whole token.
        let token = |token| if str::contains(token, ANY) { "*" } else { token };
        text.split('.').map(token).collect::<Vec<_>>().join(".")
    }
}

/// Where all filters go on with nothing but wildcards after the same beginning, one with `>` does it.
fn simplified(filters: BTreeSet<String>) -> Vec<String> {
    let open: Option<BTreeSet<&str>> = filters
        .iter()
        .map(|filter| {
            let start = filter.trim_end_matches(".*");
            (start.len() < filter.len() && !start.contains('*')).then_some(start)
        })
        .collect();
    match open {
        Some(starts) if filters.len() > 1 && starts.len() == 1 => {
            starts.into_iter().map(|start| format!("{start}.>")).collect()
        }
        _ => filters.into_iter().collect(),
    }
}

/// Does every subject that matches `narrow` match `wide`, too?
pub(crate) fn covers(wide: &str, narrow: &str) -> bool {
    let (mut wide, mut narrow) = (wide.split('.'), narrow.split('.'));
    loop {
        match (wide.next(), narrow.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(same), Some(token)) if same == token => {}
            _ => return false,
        }
    }
}

/// Is there a subject that matches both?
pub(crate) fn overlap(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        match (one.next(), other.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
            (Some("*"), Some(_)) | (Some(_), Some("*")) => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

/// A filter that covers all of these.
pub(crate) fn common_beginning(filters: &[String]) -> String {
    let [first, others @ ..] = filters else { return ">".to_owned() };
    if others.is_empty() {
        return first.clone();
    }
    let tokens: Vec<&str> = first.split('.').collect();
    let is_shared = |count: &usize| {
        let shared = tokens.get(..*count).unwrap_or_default();
        others.iter().all(|other| other.split('.').take(*count).eq(shared.iter().copied()))
    };
    let count = (0..tokens.len()).rev().find(is_shared).unwrap_or(0);
    let mut start = tokens.get(..count).unwrap_or_default().to_vec();
    start.push(">");
    start.join(".")
}

/// No more filters than `most` that cover all of these, and as little else as that allows: where they differ, a `*` stands.
pub(crate) fn merged(filters: &[String], most: usize) -> Vec<String> {
    if filters.len() <= most {
        return filters.to_vec();
    }
    let mut by_length: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for filter in filters {
        let tokens: Vec<&str> = filter.split('.').collect();
        let merged = by_length.entry(tokens.len()).or_insert_with(|| tokens.clone());
        for (token, other) in merged.iter_mut().zip(tokens) {
            if *token != other {
                *token = "*";
            }
        }
    }
    // What has no end could overlap with others.
    if by_length.len() > most || filters.iter().any(|filter| filter.ends_with('>')) {
        return vec![common_beginning(filters)];
    }
    by_length.into_values().map(|tokens| tokens.join(".")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(
        template: &str,
        subject_id: Option<&str>,
        ident: Option<&str>,
        kind: Option<Kind>,
    ) -> Vec<String> {
        Template::parse(template).unwrap().filters(subject_id, ident, kind)
    }

    #[test]
    fn the_default_subject() {
        let all = |id, ident, kind| Template::default().filters(id, ident, kind);
        assert_eq!(all(None, None, None), ["pub.ansible.runner.>"]);
        assert_eq!(all(Some("a.b"), None, None), ["pub.ansible.runner.a.b.>"]);
        assert_eq!(all(Some("a"), Some("r 1"), None), ["pub.ansible.runner.a.r_1.*"]);
        assert_eq!(all(Some("a"), Some("r"), Some(Kind::Event)), ["pub.ansible.runner.a.r.event"]);
        let of_run = all(None, Some("r.1"), None);
        assert_eq!(of_run.len(), MOST_TOKENS);
        assert!(of_run.contains(&"pub.ansible.runner.*.*.r.1.*".to_owned()));
        let statuses = all(None, None, Some(Kind::Status));
        assert_eq!(statuses.len(), 2 * MOST_TOKENS - 1);
        assert!(statuses.contains(&"pub.ansible.runner.*.*.status".to_owned()));
        for (one, other) in statuses.iter().flat_map(|one| statuses.iter().map(move |other| (one, other))) {
            assert_eq!(overlap(one, other), one == other);
        }
    }

    #[test]
    fn other_templates() {
        let named = "runs.{kind}.site-{subject_id}.{runner_ident}.{name}";
        assert_eq!(filters(named, Some("x"), Some("r"), Some(Kind::Status)), ["runs.status.site-x.r.*"]);
        assert!(filters(named, None, Some("r"), None).contains(&"runs.*.*.*.r.*".to_owned()));
        assert_eq!(filters("runs.{kind}", None, None, None), ["runs.*"]);
        assert_eq!(filters("runs", None, None, None), ["runs"]);
        // A filter matches what is published.
        let subject = Template::parse(named).unwrap().subject("a.b", "r", Kind::Event, "runner_on_ok");
        assert!(filters(named, None, None, None).iter().any(|filter| covers(filter, &subject)));
    }

    #[test]
    fn wildcards() {
        for (wide, narrow, is_covered, is_shared) in [
            ("a.>", "a.b.c", true, true),
            ("a.>", "a.>", true, true),
            ("a.>", "a", false, false),
            ("a.*", "a.>", false, true),
            ("a.*.c", "a.b.*", false, true),
            ("a.b", "a.b", true, true),
            ("a.b", "a.c", false, false),
            (">", "x", true, true),
            ("a.*", "a.*", true, true),
            ("a.*", "a.b.c", false, false),
        ] {
            assert_eq!(
                (covers(wide, narrow), overlap(wide, narrow)),
                (is_covered, is_shared),
                "{wide} {narrow}"
            );
            assert_eq!(overlap(narrow, wide), is_shared);
        }
    }

    #[test]
    fn what_filters_have_in_common() {
        let common =
            |filters: &[&str]| common_beginning(&filters.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(common(&["a.b.>"]), "a.b.>");
        assert_eq!(common(&["a.b.*.x", "a.b.*.*.x"]), "a.b.*.>");
        assert_eq!(common(&["a.b", "c"]), ">");
        assert_eq!(common(&["a.b", "a.b.c"]), "a.>");
    }

    #[test]
    fn few_filters_for_many() {
        let merged = |filters: &[&str], most: usize| {
            merged(&filters.iter().map(ToString::to_string).collect::<Vec<_>>(), most)
        };
        assert_eq!(merged(&["a.b.*", "a.c.*"], 2), ["a.b.*", "a.c.*"]);
        assert_eq!(merged(&["a.b.x", "a.c.x", "a.c.d.x"], 2), ["a.*.x", "a.c.d.x"]);
        assert_eq!(merged(&["a.b", "a.b.c", "a.b.c.d"], 2), ["a.>"]);
        assert_eq!(merged(&["a.b.>", "a.c.>", "a.d"], 2), ["a.>"]);
        // A tenant's filters stay the tenant's.
        let of_runs: Vec<String> = (0..500).map(|run| format!("pub.site-a.r{run}.*")).collect();
        assert_eq!(super::merged(&of_runs, 16), ["pub.site-a.*.*"]);
    }
}
