//! What went wrong on a host, and what really did: `non-zero return code` helps nobody.

use std::collections::BTreeMap;

use super::{
    Recap,
    payload::{Data, Res},
    status::Status,
    style::without_colors,
};
use crate::{harmless::one_line, message::quoted};

/// What became of a failed result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It counts.
    Failed,
    /// The host could not be reached.
    Unreachable,
    /// The play goes on (`ignore_errors`).
    Ignored,
    /// A `rescue` has dealt with it: known once ansible's recap says so.
    Rescued,
}

impl Fate {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Unreachable => "unreachable",
            Self::Ignored => "ignored",
            Self::Rescued => "rescued",
        }
    }
}

/// Something that went wrong on a host.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// The event's.
    pub(crate) counter: u64,
    pub(crate) host: String,
    pub(crate) task: String,
    pub(crate) fate: Fate,
    /// What happened, in a line.
    pub(crate) why: String,
    /// All that the result says about it, line by line.
    pub(crate) details: Vec<String>,
    /// It is about the run, and no task of it.
    is_of_run: bool,
}

impl Failure {
    /// `printed`: what ansible has printed of it, for want of anything else (`omit_event_data`).
    pub(super) fn new(
        counter: u64,
        data: &Data<'_>,
        result: &Res,
        fate: Fate,
        printed: Option<&str>,
    ) -> Self {
        let printed = printed.filter(|_| data.host.is_none()).map(without_colors);
        let (host, said) = printed.as_deref().and_then(as_printed).unzip();
        let result = said.as_ref().unwrap_or(result);
        let why = Some(why(result)).filter(|why| !why.is_empty());
        Self {
            counter,
            host: one_line(data.host.as_deref().or(host).unwrap_or("?")),
            task: one_line(data.task.as_deref().unwrap_or("?")),
            fate,
            why: why.unwrap_or_else(|| "no reason was told".to_owned()),
            details: details(result),
            is_of_run: false,
        }
    }

    /// Does it count, or was it dealt with?
    pub(crate) fn counts(&self) -> bool {
        matches!(self.fate, Fate::Failed | Fate::Unreachable)
    }
}

// A run failed, and no task did: what its last lines say of that.
impl Failure {
    /// What stands in the place of a host and a task.
    pub(crate) const NO_HOST: &str = "no host";
    const NO_TASK: &str = "no task";

    /// Why a run ended with this status. `lines` is what it printed, the last line first; `task` what it was at, `waiting` for
    /// whom it waited.
    pub(super) fn of_run<'a>(
        status: Status,
        task: &str,
        waiting: Option<String>,
        lines: impl Iterator<Item = &'a str>,
        counter: u64,
    ) -> Self {
        /// So many of its last lines.
        const LOOKED_AT: usize = 200;
        const TOLD: usize = 12;
        let mut last: Vec<String> = lines
            .map(|line| one_line(&without_colors(line)).trim_end().to_owned())
            .filter(|line| !line.is_empty())
            .take(LOOKED_AT)
            .collect();
        last.reverse();
        let telling = telling(&last);
        let told = telling.map_or(last.len().saturating_sub(TOLD), |(begin, at)| {
            // What follows on an error explains it; what led to an exception is before it.
            begin.max((at + 1).saturating_sub(TOLD))
        });
        let line = match telling {
            Some((_, at)) => last.get(at).cloned(),
            None => waiting.or_else(|| last.iter().rfind(|line| !is_progress(line)).cloned()),
        };
        let details: Vec<String> = last.into_iter().skip(told).take(TOLD).collect();
        let at = if task.is_empty() { String::new() } else { format!(" at: {task}") };
        let why = match (status, line) {
            (Status::Timeout, _) => format!("it ran out of time{at}"),
            (Status::Killed, _) => format!("its process was killed{at}"),
            (_, Some(line)) => line,
            (_, None) => format!("it ended without a word{at}"),
        };
        Self {
            counter,
            host: Self::NO_HOST.to_owned(),
            task: Self::NO_TASK.to_owned(),
            fate: Fate::Failed,
            why,
            details,
            is_of_run: true,
        }
    }

    /// Is it about the run, and no task of it?
    pub(crate) fn is_of_run(&self) -> bool {
        self.is_of_run
    }
}

/// Host and result, as ansible prints a failure: `fatal: [web1]: FAILED! => {...}`, `[web1 -> db1]` if it was delegated.
fn as_printed(text: &str) -> Option<(&str, Res)> {
    let (_, rest) = text.split_once("fatal: [")?;
    let (host, rest) = rest.split_once("]: ")?;
    let host = host.split_once(" -> ").map_or(host, |(host, _)| host);
    let (_, json) = rest.split_once(" => ")?;
    let result = serde_json::Deserializer::from_str(json).into_iter::<Res>().next()?.ok()?;
    Some((host, result))
}

/// The last line that says what was wrong: an error that ansible names, or the exception that ends a Python traceback. Where
/// that begins, and which line it is.
fn telling(lines: &[String]) -> Option<(usize, usize)> {
    // As ansible and Python's argparse have it.
    let names_error = |line: &str| ["ERROR", "fatal:", ": error: "].iter().any(|word| line.contains(word));
    let is_ignored = |at: usize| lines.get(at + 1).is_some_and(|next| next == "...ignoring");
    lines.iter().enumerate().rev().find_map(|(at, line)| {
        let begin = if names_error(line) { Some(at) } else { traceback_before(lines.get(..at)?, line) };
        begin.filter(|_| !is_ignored(at)).map(|begin| (begin, at))
    })
}

/// Does a line only say how far it is, or that something went well?
fn is_progress(line: &str) -> bool {
    const BEGINNINGS: [&str; 8] = [
        "PLAY ",
        "TASK [",
        "RUNNING HANDLER [",
        "ok: [",
        "changed: [",
        "skipping: [",
        "included: ",
        "...ignoring",
    ];
    BEGINNINGS.iter().any(|beginning| line.starts_with(beginning))
}

/// Where the traceback begins that this line ends: its frames are indented, the exception is not.
fn traceback_before(before: &[String], line: &str) -> Option<usize> {
    let is_indented = |line: &str| line.starts_with(' ');
    let frames = before.iter().rev().take_while(|line| is_indented(line)).count();
    let begin = before.len().checked_sub(frames + 1)?;
    let is_traceback = frames > 0 && before.get(begin)?.starts_with("Traceback");
    (is_traceback && !is_indented(line)).then_some(begin)
}

/// What a `rescue` has dealt with, and what `ignore_unreachable` has, is known by the numbers of ansible's recap. `last_on`:
/// the counter of the last event on a host.
///
/// What failed on a host and was followed by something there was rescued, or an `always` came: where the numbers do not tell
/// these apart, all of it counts, so that no real failure is hidden.
pub(super) fn find_rescued(
    failures: &mut [Failure],
    recaps: &BTreeMap<String, Recap>,
    last_on: impl Fn(&str) -> Option<u64>,
) {
    failures.sort_by_key(|failure| failure.counter);
    for (host, recap) in recaps {
        let mut of_host: Vec<&mut Failure> =
            failures.iter_mut().filter(|failure| failure.host == *host && failure.counts()).collect();
        if recap.unreachable == 0 {
            let unreachable = of_host.iter_mut().filter(|failure| failure.fate == Fate::Unreachable);
            unreachable.for_each(|failure| failure.fate = Fate::Ignored);
        }
        of_host.retain(|failure| failure.fate == Fate::Failed);
        let rescued = usize::try_from(recap.rescued).unwrap_or(usize::MAX);
        let was_followed = |failure: &Failure| last_on(host) > Some(failure.counter);
        if of_host.iter().filter(|failure| was_followed(failure)).count() > rescued {
            continue;
        }
        of_host.sort_by_key(|failure| !was_followed(failure));
        of_host.into_iter().take(rescued).for_each(|failure| failure.fate = Fate::Rescued);
    }
}

/// What modules say when they have nothing to say: the reason is elsewhere.
const SAYS_NOTHING: [&str; 6] = [
    "non-zero return code",
    "MODULE FAILURE",
    "One or more items failed",
    "All items completed",
    "All items skipped",
    "Failed as requested from task",
];

/// A module has printed something else than a result (ansible-core 2.19 and later): of a crash its last line says why.
const NO_RESULT: &str = "Module result deserialization failed";
const TRACEBACK: &str = "Traceback (most recent call last)";

/// In the place of a traceback (`ansible.module_utils`, ansible-core 2.19 and later).
const NO_TRACEBACK: &str = "(traceback unavailable)";

/// The message, unless it says nothing: then the last line of what was printed. Items that failed are named.
fn why(result: &Res) -> String {
    let items: Vec<String> = failing(result)
        .map(|(item, res)| if item.is_empty() { why(res) } else { format!("{item}: {}", why(res)) })
        .collect();
    if !items.is_empty() {
        return items.join("; ");
    }
    let message = message(result);
    let is_crash =
        message.starts_with(NO_RESULT) && printed(result).iter().any(|(_, text)| text.contains(TRACEBACK));
    let says_something =
        !(message.is_empty() || is_crash || SAYS_NOTHING.iter().any(|nothing| message.starts_with(nothing)));
    let printed = || {
        let texts = printed(result);
        texts.into_iter().find_map(|(_, text)| text.lines().rev().find(|line| !line.trim().is_empty()))
    };
    let rc = result.rc.as_ref().map(|rc| format!(" (rc={rc})")).unwrap_or_default();
    match (says_something, printed()) {
        (false, Some(line)) => one_line(&format!("{}{rc}", line.trim())),
        _ => one_line(&message),
    }
}

/// The items of a loop that failed, with their names.
fn failing(result: &Res) -> impl Iterator<Item = (String, &Res)> {
    let failed = result.results.iter().filter(|item| item.failed == Some(true));
    failed.map(|item| (item.item.as_ref().map(plain).map(|item| one_line(&item)).unwrap_or_default(), item))
}

fn message(result: &Res) -> String {
    let message = result.msg.as_ref().map(plain).filter(|message| !message.is_empty());
    let condition = || result.failed_when_result.filter(|failed| *failed).map(|_| "failed_when".to_owned());
    let all = message.or_else(|| result.reason.clone()).or_else(|| result.censored.clone());
    all.or_else(condition).unwrap_or_default()
}

/// What may tell more, the most telling first.
fn printed(result: &Res) -> Vec<(&'static str, &str)> {
    let Res { stderr, module_stderr, exception, stdout, module_stdout, .. } = result;
    let all = [
        ("stderr", stderr),
        ("module_stderr", module_stderr),
        ("exception", exception),
        ("stdout", stdout),
        ("module_stdout", module_stdout),
    ];
    let given = all.into_iter().filter_map(|(name, text)| Some((name, text.as_deref()?)));
    given.filter(|(_, text)| !text.trim().is_empty() && text.trim() != NO_TRACEBACK).collect()
}

fn details(result: &Res) -> Vec<String> {
    let mut lines: Vec<String> = message(result).lines().map(str::to_owned).collect();
    if let Some(called) = result.cmd.as_ref().and_then(called) {
        lines.extend(called.lines().map(|line| format!("$ {line}")));
    }
    if let Some(rc) = &result.rc {
        lines.push(format!("rc: {rc}"));
    }
    for (name, text) in printed(result) {
        lines.push(format!("{name}:"));
        lines.extend(text.lines().map(|line| format!("  {line}")));
    }
    for (item, res) in failing(result) {
        lines.push(format!("item {item}:"));
        lines.extend(details(res).into_iter().map(|line| format!("  {line}")));
    }
    lines
}

/// A command as a person would type it: a text, or words.
fn called(cmd: &serde_json::Value) -> Option<String> {
    let word = |word: &serde_json::Value| {
        let word = plain(word);
        let is_bare =
            !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || "-_./=:@%+,".contains(c));
        if is_bare { word } else { quoted(&word) }
    };
    match cmd {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Array(words) => Some(words.iter().map(word).collect::<Vec<_>>().join(" ")),
        _ => None,
    }
}

/// A value as text.
pub(super) fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn why_of(result: &Value) -> String {
        why(&serde_json::from_value(result.clone()).unwrap())
    }

    #[test]
    fn why_a_run_failed_though_no_task_did() {
        let told = |text: &str, status| {
            let failure = Failure::of_run(status, "deploy", None, text.lines().rev(), 7);
            (failure.why, failure.details)
        };
        let first = |text: &str| told(text, Status::Failed).0;
        let crash = "TASK [x]\nTraceback (most recent call last):\n  File \"a.py\", line 1, in f\n    g()\nOSError: no space\n";
        assert_eq!(first(crash), "OSError: no space");
        assert_eq!(told(crash, Status::Failed).1.len(), 4);
        // The last one counts, and one that was cut off says nothing.
        let two = format!(
            "{crash}\nDuring handling of the above exception, another exception occurred:\n\n{crash}"
        );
        assert_eq!(first(&two.replace("space\n\n", "room\n\n")), "OSError: no space");
        assert_eq!(
            first(&format!("{crash}Traceback (most recent call last):\n  File \"b.py\"")),
            "OSError: no space"
        );
        // Of a deep one the end is told.
        let deep = crash.replace("    g()\n", &"    g()\n".repeat(50));
        let (why, details) = told(&deep, Status::Killed);
        assert_eq!(why, "its process was killed at: deploy");
        assert_eq!((details.len(), details.last().map(String::as_str)), (12, Some("OSError: no space")));
        // An error that ansible names is explained by what follows.
        let named = "[ERROR]: the role 'x' was not found\nOrigin: site.yml:2\n\n1 - hosts\n  ^ column 3\n";
        assert_eq!(first(named), "[ERROR]: the role 'x' was not found");
        assert_eq!(told(named, Status::Failed).1.len(), 4);
        // Nothing is named: the last word.
        assert_eq!(first("TASK [x]\nSegmentation fault\n"), "Segmentation fault");
        assert_eq!(first(""), "it ended without a word at: deploy");
    }

    #[test]
    fn what_was_called_is_among_the_details() {
        let details_of = |result: Value| details(&serde_json::from_value(result).unwrap());
        let result = json!({"msg": "non-zero return code", "rc": 2, "cmd": ["ls", "-l", "a b", ""]});
        assert_eq!(details_of(result), ["non-zero return code", "$ ls -l 'a b' ''", "rc: 2"]);
        assert_eq!(details_of(json!({"msg": "m", "cmd": "a; b\nc"})), ["m", "$ a; b", "$ c"]);
        assert_eq!(details_of(json!({"msg": "m", "cmd": {"a": 1}})), ["m"]);
    }

    #[test]
    fn what_really_happened() {
        for (result, expected) in [
            (json!({"msg": "no such\u{1b}[2J file", "stderr": "x"}), "no such^[[2J file"),
            (
                json!({"msg": "non-zero return code", "rc": 2, "stderr": "ls: cannot\nls: access\n\n"}),
                "ls: access (rc=2)",
            ),
            (json!({"msg": "non-zero return code", "stderr": " ", "stdout": "only here"}), "only here"),
            (json!({"msg": "non-zero return code", "rc": 1}), "non-zero return code"),
            (
                json!({"msg": "MODULE FAILURE\nSee stdout/stderr", "module_stderr": "Traceback\nKeyError: 'x'\n"}),
                "KeyError: 'x'",
            ),
            (
                json!({"msg": "Module result deserialization failed: No start", "module_stderr": "python3.9: not found\nSee help\n"}),
                "Module result deserialization failed: No start",
            ),
            (
                json!({
                    "msg": "Module result deserialization failed: No start",
                    "module_stderr": "Traceback (most recent call last):\n  File \"m.py\"\nImportError: no yaml\n",
                }),
                "ImportError: no yaml",
            ),
            (json!({"censored": "the output has been hidden"}), "the output has been hidden"),
            (json!({"failed_when_result": true, "changed": false}), "failed_when"),
            (json!({"msg": ["a", 1]}), "[\"a\",1]"),
            (json!({}), ""),
            (
                json!({"msg": "One or more items failed", "results": [
                    {"item": "a", "failed": false},
                    {"item": "b", "failed": true, "msg": "broken"},
                    {"item": {"n": 1}, "failed": true, "msg": "non-zero return code", "stderr": "bad", "rc": 3},
                ]}),
                "b: broken; {\"n\":1}: bad (rc=3)",
            ),
        ] {
            assert_eq!(why_of(&result), expected, "{result}");
        }
    }
}
