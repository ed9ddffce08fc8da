//! What is published at all: the options `events` and `omit`.

use std::collections::HashMap;

use wildmatch::WildMatch;

/// The kinds of events that ansible-runner's callback has (its plugin `awx_display`), as docs/schemas describes them: first
/// what nearly every playbook brings.
pub(crate) const KINDS: &[&str] = &[
    "runner_on_ok",
    "runner_on_failed",
    "runner_on_start",
    "runner_on_skipped",
    "playbook_on_start",
    "playbook_on_play_start",
    "playbook_on_task_start",
    "playbook_on_stats",
    "verbose",
    "runner_on_unreachable",
    "runner_item_on_ok",
    "runner_item_on_failed",
    "runner_item_on_skipped",
    "runner_retry",
    "runner_on_no_hosts",
    "runner_on_async_poll",
    "runner_on_async_ok",
    "runner_on_async_failed",
    "runner_on_file_diff",
    "playbook_on_notify",
    "playbook_on_include",
    "playbook_on_no_hosts_matched",
    "playbook_on_no_hosts_remaining",
    "playbook_on_vars_prompt",
    "playbook_on_setup",
    "playbook_on_import_for_host",
    "playbook_on_not_import_for_host",
    "warning",
    "error",
    "debug",
    "deprecated",
    "system_warning",
];

/// A pattern of the option `events` that is a plain name, of a kind that ansible-runner does not have; and the kind
/// that is the nearest, if any is near. It may have new ones.
pub(crate) fn unknown_kind(pattern: &str) -> Option<(&str, Option<&'static str>)> {
    /// No kind has such a name.
    const LONGEST: usize = 64;
    let pattern = pattern.trim();
    let name = pattern.strip_prefix('!').unwrap_or(pattern).trim();
    if name.contains(['*', '?']) || KINDS.contains(&name) {
        return None;
    }
    let distances = KINDS.iter().filter(|_| name.len() <= LONGEST);
    let distances = distances.map(|kind| (strsim::damerau_levenshtein(kind, name), *kind));
    let near = distances.min().filter(|(distance, _)| *distance <= name.len() / 4);
    Some((name, near.map(|(_, kind)| kind)))
}

/// Which events are published, by their names (option `events`).
#[derive(Clone, Debug, Default)]
pub(crate) struct Events {
    /// The patterns as they were given.
    text: String,
    wanted: Vec<WildMatch>,
    unwanted: Vec<WildMatch>,
}

impl Events {
    /// Reads `runner_*,!runner_item_*`; `None` if a pattern is empty or cannot be part of a name.
    pub(crate) fn parse(patterns: &[String]) -> Option<Self> {
        let mut events = Self { text: patterns.join(","), ..Self::default() };
        if patterns.is_empty() {
            return None;
        }
        for pattern in patterns {
            let pattern = pattern.trim();
            let (list, pattern) = match pattern.strip_prefix('!') {
                Some(rest) => (&mut events.unwanted, rest.trim()),
                None => (&mut events.wanted, pattern),
            };
            let fits = |c: char| c.is_ascii_alphanumeric() || "_-*?".contains(c);
            if pattern.is_empty() || !pattern.chars().all(fits) {
                return None;
            }
            list.push(WildMatch::new(pattern));
        }
        Some(events)
    }

    /// Are there events that are not published?
    pub(crate) fn is_selective(&self) -> bool {
        !self.wanted.is_empty() || !self.unwanted.is_empty()
    }

    /// The patterns, comma separated.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Is the event of this name published? One pattern has to match, if there are any, and none of those with `!`.
    pub(crate) fn contains(&self, name: &str) -> bool {
        let any = |patterns: &[WildMatch]| patterns.iter().any(|pattern| pattern.matches(name));
        (self.wanted.is_empty() || any(&self.wanted)) && !any(&self.unwanted)
    }
}

/// Fields that are left out (option `omit`): a tree of their names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Omit {
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    members: HashMap<String, Member>,
}

/// What becomes of a member of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Member {
    /// The member is left out.
    Gone,
    /// Something inside the member is left out: its place in the tree.
    Partly(usize),
}

impl Omit {
    /// Reads dotted paths such as `event_data.res`; `None` if a part of one is empty or looks like a pattern.
    pub(crate) fn parse(paths: &[String]) -> Option<Self> {
        let mut omit = Self { nodes: vec![Node::default()] };
        for path in paths {
            let mut at = 0;
            let mut parts = path.trim().split('.').map(str::trim).peekable();
            while let Some(part) = parts.next() {
                // Not patterns, nor the paths of other tools.
                if part.is_empty() || part.contains(['*', '?', '[', ']', '/', '!', '$']) {
                    return None;
                }
                let is_last = parts.peek().is_none();
                let next = omit.nodes.len();
                let members = &mut omit.nodes.get_mut(at)?.members;
                match members.get(part) {
                    // A path above this one is gone already.
                    Some(Member::Gone) => break,
                    Some(Member::Partly(below)) if !is_last => at = *below,
                    _ if is_last => drop(members.insert(part.to_owned(), Member::Gone)),
                    _ => {
                        members.insert(part.to_owned(), Member::Partly(next));
                        omit.nodes.push(Node::default());
                        at = next;
                    }
                }
            }
        }
        Some(omit)
    }

    /// Where a message begins; `None` if nothing is left out.
    pub(crate) fn root(&self) -> Option<usize> {
        self.nodes.first().is_some_and(|root| !root.members.is_empty()).then_some(0)
    }

    /// What becomes of the member `name` of an object at this place; `None`: it stays as it is.
    pub(crate) fn member(&self, place: usize, name: &str) -> Option<Member> {
        self.nodes.get(place)?.members.get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn texts(list: &str) -> Vec<String> {
        list.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn events_by_name() {
        let selected = |patterns: &str| {
            let events = Events::parse(&texts(patterns)).unwrap();
            let names = ["runner_on_ok", "runner_item_on_ok", "playbook_on_stats", ""];
            names.into_iter().filter(|name| events.contains(name)).collect::<Vec<_>>()
        };
        assert_eq!(selected("runner_*,!runner_item_*"), ["runner_on_ok"]);
        assert_eq!(selected("! runner_item_*"), ["runner_on_ok", "playbook_on_stats", ""]);
        assert_eq!(selected("playbook_on_stats, runner_on_?k"), ["runner_on_ok", "playbook_on_stats"]);
        assert_eq!(selected("*"), ["runner_on_ok", "runner_item_on_ok", "playbook_on_stats", ""]);
        for bad in ["", "a,,b", "!", "runner on", "a.b", "[ab]"] {
            assert!(Events::parse(&texts(bad)).is_none(), "{bad}");
        }
    }

    #[test]
    fn the_kinds_are_those_that_are_described() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas");
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name());
        // What commands say is in a folder of its own.
        let names = files.filter_map(|file| Some(file.to_str()?.strip_suffix(".json")?.to_owned()));
        let described: BTreeSet<String> = names
            .filter(|name| {
                !["all", "card", "common", "event", "heartbeat", "killed", "status"].contains(&name.as_str())
            })
            .collect();
        assert_eq!(described, KINDS.iter().map(|kind| (*kind).to_owned()).collect());
    }

    #[test]
    fn names_that_no_event_has() {
        for (pattern, unknown) in [
            ("runner_on_failled", Some(("runner_on_failled", Some("runner_on_failed")))),
            ("! runner_on_okk ", Some(("runner_on_okk", Some("runner_on_ok")))),
            ("Runner_On_Ok", Some(("Runner_On_Ok", Some("runner_on_ok")))),
            ("playbook_start", Some(("playbook_start", Some("playbook_on_start")))),
            ("task_failed", Some(("task_failed", None))),
            ("x", Some(("x", None))),
            ("runner_on_failed", None),
            ("!verbose", None),
            ("runner_on_failled*", None),
            ("runner_on_failed?", None),
        ] {
            assert_eq!(unknown_kind(pattern), unknown, "{pattern}");
        }
        let long = "x".repeat(1 << 20);
        assert_eq!(unknown_kind(&long), Some((&*long, None)));
    }

    #[test]
    fn fields_by_path() {
        let omit =
            Omit::parse(&texts("event_data.res,stdout,event_data.task_args.x,event_data.res.y")).unwrap();
        let root = omit.root().unwrap();
        assert_eq!(omit.member(root, "stdout"), Some(Member::Gone));
        assert_eq!(omit.member(root, "res"), None);
        let Some(Member::Partly(data)) = omit.member(root, "event_data") else { panic!() };
        assert_eq!(omit.member(data, "res"), Some(Member::Gone));
        let Some(Member::Partly(args)) = omit.member(data, "task_args") else { panic!() };
        assert_eq!(omit.member(args, "x"), Some(Member::Gone));
        // The shorter path wins, whichever comes first.
        let omit = Omit::parse(&texts("a.b.c,a.b,a")).unwrap();
        assert_eq!(omit.member(0, "a"), Some(Member::Gone));
        assert_eq!(Omit::default().root(), None);
        for bad in ["", "a..b", ".a", "a.", "a.*.b", "a[0]", "a/b", "$.a"] {
            assert!(Omit::parse(&texts(bad)).is_none(), "{bad}");
        }
    }
}
