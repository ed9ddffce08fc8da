//! Parts of a page, each with a version: whoever has a part already is not sent it again.

use std::collections::HashMap;

use axum::http::HeaderMap;
use maud::{Markup, PreEscaped, html};

use super::fingerprint::fingerprint;

/// The header in which `static/live.js` says what it has: `id=version`, with spaces between.
const HEADER: &str = "known-parts";

/// The parts that whoever asks has already.
pub(super) struct Known(Option<HashMap<String, String>>);

impl Known {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(HEADER).map(|value| value.to_str().unwrap_or_default());
        Self(given.map(|given| {
            let pairs = given.split(' ').filter_map(|pair| pair.split_once('='));
            pairs.map(|(id, version)| (id.to_owned(), version.to_owned())).collect()
        }))
    }

    /// Is it a page that is there already, and only to be brought up to date?
    pub(super) fn is_update(&self) -> bool {
        self.0.is_some()
    }

    /// The version of a part, and its content, which is left out if it is known.
    fn versioned(&self, id: &str, content: Markup) -> (String, bool, Markup) {
        let version = fingerprint(&content.0);
        let known = self.0.as_ref().and_then(|known| known.get(id));
        let is_same = known.is_some_and(|known| *known == version);
        (version, is_same, if is_same { PreEscaped(String::new()) } else { content })
    }

    /// A part. Its id is ours, and needs no escape in a header.
    pub(super) fn part(&self, id: &str, class: &str, content: Markup) -> Markup {
        let (version, is_same, content) = self.versioned(id, content);
        html! { div id=(id) class=(class) data-version=(version) data-same[is_same] { (content) } }
    }

    /// A part of which a new page has more than an update brings: its version is that of the update.
    pub(super) fn part_with_more(&self, id: &str, update: Markup, more: impl FnOnce() -> Markup) -> Markup {
        if self.is_update() {
            return self.part(id, "", update);
        }
        let version = fingerprint(&update.0);
        html! { div id=(id) data-version=(version) { (more()) } }
    }

    /// A part that is a row of a table.
    pub(super) fn row(&self, id: &str, content: Markup) -> Markup {
        let (version, is_same, content) = self.versioned(id, content);
        html! { tr id=(id) data-version=(version) data-same[is_same] { (content) } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(value: &str) -> Known {
        Known::of(&HeaderMap::from_iter([(HEADER.parse().unwrap(), value.parse().unwrap())]))
    }

    #[test]
    fn what_is_known_is_left_out_and_what_has_changed_is_not() {
        let content = || html! { "<b>" };
        let whole = Known::of(&HeaderMap::new());
        assert!(!whole.is_update());
        let version = fingerprint("&lt;b&gt;");
        let full = format!(r#"<div id="a" class="x" data-version="{version}">&lt;b&gt;</div>"#);
        assert_eq!(whole.part("a", "x", content()).0, full);
        for other in ["", "a=0123", "b=1 c", &format!("b={version}")] {
            assert!(known(other).is_update());
            assert_eq!(known(other).part("a", "x", content()).0, full, "{other}");
        }
        let same = known(&format!("b=1 a={version}"));
        assert_eq!(
            same.part("a", "x", content()).0,
            format!(r#"<div id="a" class="x" data-version="{version}" data-same></div>"#)
        );
        // What an update does not bring is of no account.
        let first = whole.part_with_more("a", content(), || html! { "more" });
        assert_eq!(first.0, format!(r#"<div id="a" data-version="{version}">more</div>"#));
        assert!(same.part_with_more("a", content(), || html! { "more" }).0.contains("data-same"));
        assert_eq!(
            same.row("a", content()).0,
            format!(r#"<tr id="a" data-version="{version}" data-same></tr>"#)
        );
    }
}
