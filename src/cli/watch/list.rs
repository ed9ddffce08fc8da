//! The view of all runs: a table, and below it what went wrong, grouped by run.

use std::{
    cmp::Reverse,
    ops::Range,
    time::{Duration, SystemTime},
};

use ratatui::{
    Frame,
    layout::{Alignment, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{
    columns::{GAP, Need, fit},
    text::{clipped, width},
};
use crate::runs::{Failure, Fate, Run, RunKey, Runs, Status, in_short};

/// In which order runs are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Newest,
    State,
    Failed,
    Ident,
    Duration,
}

impl Sort {
    const ALL: [Self; 5] = [Self::Newest, Self::State, Self::Failed, Self::Ident, Self::Duration];

    fn name(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::State => "state",
            Self::Failed => "failed",
            Self::Ident => "ident",
            Self::Duration => "duration",
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Self::ALL.get((at + 1) % Self::ALL.len()).copied().unwrap_or(Self::Newest)
    }
}

/// Which of the two is moved in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pane {
    Runs,
    Failures,
}

/// What is shown of all runs.
#[derive(Debug)]
pub(super) struct List {
    sort: Sort,
    reversed: bool,
    pub(super) filter: String,
    /// The filter is being typed.
    pub(super) typing: bool,
    pane: Pane,
    /// The run that is marked, and its place.
    marked: Option<RunKey>,
    at: usize,
    failure_at: usize,
    /// What was drawn last, in its order.
    shown: Vec<RunKey>,
    /// Those of them that there was room for.
    visible: Range<usize>,
    shown_failures: Vec<RunKey>,
}

/// Failures of one run that are shown here, fewer where there is little room for the others'. All of them are where the
/// run is opened.
const FAILURES_OF_A_RUN: usize = 5;

impl List {
    pub(super) fn new() -> Self {
        Self {
            sort: Sort::Newest,
            reversed: false,
            filter: String::new(),
            typing: false,
            pane: Pane::Runs,
            marked: None,
            at: 0,
            failure_at: 0,
            shown: Vec::new(),
            visible: 0..0,
            shown_failures: Vec::new(),
        }
    }

    /// The run that Enter opens.
    pub(super) fn marked(&self) -> Option<RunKey> {
        match self.pane {
            Pane::Runs => self.marked.or_else(|| self.shown.get(self.at).copied()),
            Pane::Failures => self.shown_failures.get(self.failure_at).copied(),
        }
    }

    /// The runs that are on the screen.
    pub(super) fn visible(&self) -> &[RunKey] {
        self.shown.get(self.visible.clone()).unwrap_or_default()
    }

    pub(super) fn next_sort(&mut self) {
        self.sort = self.sort.next();
    }

    pub(super) fn reverse(&mut self) {
        self.reversed = !self.reversed;
    }

    pub(super) fn next_pane(&mut self) {
        self.pane = match self.pane {
            Pane::Runs if !self.shown_failures.is_empty() => Pane::Failures,
            _ => Pane::Runs,
        };
    }

    /// Moves the mark by so many rows.
    pub(super) fn go(&mut self, by: isize) {
        let (at, count) = match self.pane {
            Pane::Runs => (&mut self.at, self.shown.len()),
            Pane::Failures => (&mut self.failure_at, self.shown_failures.len()),
        };
        *at = at.saturating_add_signed(by).min(count.saturating_sub(1));
        if self.pane == Pane::Runs {
            // At the top the mark stays at the top, whatever comes; elsewhere it stays with its run.
            self.marked = self.shown.get(self.at).copied().filter(|_| self.at > 0);
        }
    }

    pub(super) fn draw(
        &mut self,
        frame: &mut Frame<'_>,
        area: Rect,
        runs: &Runs,
        now: SystemTime,
        silent_after: Option<Duration>,
    ) {
        let shown = self.arranged(runs, now, silent_after);
        self.shown = shown.iter().map(|(id, _)| *id).collect();
        let place = self.marked.and_then(|id| self.shown.iter().position(|shown| *shown == id));
        self.at = place.unwrap_or(self.at).min(shown.len().saturating_sub(1));
        let third = usize::from(area.height / 3);
        let failures = grouped(&shown, &self.filter, third, |run| run.state(now, silent_after));
        self.shown_failures = failures.iter().map(|row| row.run).collect();
        self.failure_at = self.failure_at.min(failures.len().saturating_sub(1));
        if failures.is_empty() {
            self.pane = Pane::Runs;
        }
        // A third for failures, if there are any; the table keeps its head and two rows.
        let height = usize::from(area.height);
        let wanted = if failures.is_empty() { 0 } else { failures.len() + 1 };
        let below =
            wanted.min(third).max(wanted.min(if height < 7 { 2 } else { 3 })).min(height.saturating_sub(3));
        let below = u16::try_from(below).unwrap_or(0);
        let above = Rect { height: area.height - below, ..area };
        let rows = usize::from(above.height).saturating_sub(1);
        let first = self.at.saturating_sub(rows.saturating_sub(1));
        self.visible = first..(first + rows).min(shown.len());
        let table = Table { now, silent_after, is_focused: self.pane == Pane::Runs };
        table.draw(frame, above, &shown, self.visible.clone(), self.at);
        let place = Rect { y: area.y + above.height, height: below, ..area };
        draw_failures(frame, place, &failures, self.failure_at, self.pane == Pane::Failures);
    }

    /// What the first line says of the runs, and the last line of the keys.
    pub(super) fn head(&self, runs: &Runs, now: SystemTime, silent_after: Option<Duration>) -> String {
        let of = |state: Status| {
            let id = |id: &RunKey| runs.get(*id).is_some_and(|run| run.state(now, silent_after) == state);
            self.shown.iter().filter(|run| id(run)).count()
        };
        let open = of(Status::Running) + of(Status::Starting);
        let silent = of(Status::Silent);
        let silent = if silent > 0 { format!(", {silent} silent") } else { String::new() };
        format!(
            "{} run{}, {open} running{silent}",
            self.shown.len(),
            if self.shown.len() == 1 { "" } else { "s" }
        )
    }

    pub(super) fn foot(&self) -> String {
        if self.typing {
            return format!("filter: {}_   Enter keeps it, Esc clears it", self.filter);
        }
        let filter =
            if self.filter.is_empty() { String::new() } else { format!("  filter: {}", self.filter) };
        format!("q quit  ? keys  Enter open  / filter  s sort ({}){filter}", self.sort.name())
    }

    fn arranged<'a>(
        &self,
        runs: &'a Runs,
        now: SystemTime,
        silent_after: Option<Duration>,
    ) -> Vec<(RunKey, &'a Run)> {
        let filter = self.filter.to_lowercase();
        let mut shown: Vec<(RunKey, &Run)> =
            runs.all().filter(|(_, run)| matches(run, &filter, now, silent_after)).collect();
        // The newest first, wherever nothing else decides.
        shown.sort_by_key(|(id, run)| (Reverse(run.started), Reverse(*id)));
        match self.sort {
            Sort::Newest => {}
            Sort::State => shown.sort_by_key(|(_, run)| (run.is_over(), run.state(now, silent_after))),
            Sort::Failed => {
                shown.sort_by_key(|(_, run)| Reverse(run.recap.failed + run.recap.unreachable));
            }
            Sort::Ident => shown.sort_by_key(|(_, run)| (run.subject_id.as_str(), run.ident.as_str())),
            Sort::Duration => shown.sort_by_key(|(_, run)| Reverse(run.duration(now))),
        }
        if self.reversed {
            shown.reverse();
        }
        shown
    }
}

fn matches(run: &Run, filter: &str, now: SystemTime, silent_after: Option<Duration>) -> bool {
    if filter.is_empty() {
        return true;
    }
    let state = run.state(now, silent_after).as_str();
    let texts = [&run.subject_id, &run.ident, &run.playbook, &run.play, &run.task].map(String::as_str);
    let contains = |text: &str| text.to_lowercase().contains(filter);
    texts.into_iter().chain([state]).any(contains)
        || run.failures.iter().any(|failure| is_about(failure, filter))
}

fn is_about(failure: &Failure, filter: &str) -> bool {
    let texts = [&failure.host, &failure.task, &failure.why].map(String::as_str);
    texts.into_iter().chain([failure.fate.as_str()]).any(|text| text.to_lowercase().contains(filter))
}

pub(super) fn state_style(state: Status) -> Style {
    match state {
        Status::Successful => Style::new().fg(Color::Green),
        Status::Running | Status::Starting => Style::new().bold(),
        Status::Silent => Style::new().fg(Color::Yellow).bold(),
        _ => Style::new().fg(Color::Red),
    }
}

/// The table of runs.
struct Table {
    now: SystemTime,
    silent_after: Option<Duration>,
    is_focused: bool,
}

/// What a column shows of a run.
struct Cell {
    text: String,
    style: Style,
    /// Where all cells of a column are, it is not shown.
    is_empty: bool,
}

impl Cell {
    fn text(text: &str) -> Self {
        Self { text: text.to_owned(), style: Style::new(), is_empty: text.is_empty() }
    }

    fn number(number: u64, color: Color) -> Self {
        let style = if number > 0 { Style::new().fg(color) } else { Style::new().dim() };
        Self { text: number.to_string(), style, is_empty: number == 0 }
    }
}

/// A column's head, its rank, the least of it that makes sense (`None`: all of it), whether it stands on the right, and
/// whether it is shown where there is nothing in it.
type Head = (&'static str, usize, Option<usize>, bool, bool);

const COLUMNS: [Head; 16] = [
    ("subject id", 2, Some(6), false, false),
    ("ident", 0, Some(14), false, true),
    ("state", 1, None, false, true),
    ("playbook", 9, Some(8), false, false),
    ("task", 7, Some(10), false, true),
    ("tasks", 8, None, true, true),
    ("ok", 10, None, true, true),
    ("changed", 6, None, true, true),
    ("failed", 3, None, true, true),
    ("unreach", 4, None, true, false),
    ("skipped", 13, None, true, false),
    ("rescued", 14, None, true, false),
    ("ignored", 15, None, true, false),
    ("missing", 12, None, true, false),
    ("time", 5, None, true, true),
    ("heard", 11, None, true, true),
];

impl Table {
    fn cells(&self, run: &Run) -> [Cell; COLUMNS.len()] {
        let state = run.state(self.now, self.silent_after);
        let tasks =
            run.known_tasks.map_or(run.task_count.to_string(), |known| format!("{}/{known}", run.task_count));
        let recap = &run.recap;
        // Of whom no event was heard nobody knows.
        let is_known = run.has_events();
        let tasks = if is_known { tasks } else { String::new() };
        let number = |number, color| if is_known { Cell::number(number, color) } else { Cell::text("") };
        let age = |time: Option<Duration>| time.map_or_else(|| "-".to_owned(), in_short);
        [
            Cell::text(&run.subject_id),
            Cell::text(&run.ident),
            Cell { style: state_style(state), ..Cell::text(state.as_str()) },
            Cell::text(&run.playbook),
            Cell::text(&run.task),
            Cell::text(&tasks),
            number(recap.ok, Color::Green),
            number(recap.changed, Color::Yellow),
            number(recap.failed, Color::Red),
            number(recap.unreachable, Color::Red),
            number(recap.skipped, Color::Cyan),
            number(recap.rescued, Color::Magenta),
            number(recap.ignored, Color::Magenta),
            Cell::number(run.missing(), Color::Red),
            Cell::text(&age(run.duration(self.now))),
            Cell::text(&if run.is_over() { "-".to_owned() } else { in_short(run.silence(self.now)) }),
        ]
    }

    fn draw(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        runs: &[(RunKey, &Run)],
        visible: Range<usize>,
        at: usize,
    ) {
        let first = visible.start;
        let visible = runs.get(visible).unwrap_or_default().iter();
        let cells: Vec<[Cell; COLUMNS.len()]> = visible.map(|(_, run)| self.cells(run)).collect();
        let has_several_ids = runs.windows(2).any(|pair| match pair {
            [(_, one), (_, other)] => one.subject_id != other.subject_id,
            _ => false,
        });
        let needs: Vec<Option<Need>> = COLUMNS
            .iter()
            .enumerate()
            .map(|(place, (name, rank, least, _, always))| {
                let column = || cells.iter().filter_map(|row| row.get(place));
                let is_shown = *always || column().any(|cell| !cell.is_empty);
                let whole = column().map(|cell| width(&cell.text)).max().unwrap_or(0).max(width(name));
                let need = Need { rank: *rank, least: least.unwrap_or(whole), whole };
                // Of one subject id nobody needs to be told.
                Some(need).filter(|_| is_shown && (place > 0 || has_several_ids))
            })
            .collect();
        let widths = fit(&needs, usize::from(area.width));
        let line = |cell: &dyn Fn(usize) -> Option<(String, Style)>| {
            let mut spans: Vec<Span<'static>> = Vec::new();
            for (place, (.., is_right, _)) in COLUMNS.iter().enumerate() {
                let Some(Some(wide)) = widths.get(place) else { continue };
                let Some((text, style)) = cell(place) else { continue };
                let text = clipped(&text, *wide);
                let pad = " ".repeat(wide.saturating_sub(width(&text)));
                if !spans.is_empty() {
                    spans.push(Span::from(" ".repeat(GAP)));
                }
                let text = Span::styled(text, style);
                if *is_right {
                    spans.extend([Span::from(pad), text]);
                } else {
                    spans.extend([text, Span::from(pad)]);
                }
            }
            Line::from(spans)
        };
        let head =
            line(&|place| COLUMNS.get(place).map(|(name, ..)| ((*name).to_owned(), Style::new().bold())));
        let mut lines = vec![head];
        for (number, row) in cells.iter().enumerate() {
            let line = line(&|place| row.get(place).map(|cell| (cell.text.clone(), cell.style)));
            let is_marked = first + number == at && self.is_focused;
            lines.push(if is_marked {
                line.style(Style::new().add_modifier(Modifier::REVERSED))
            } else {
                line
            });
        }
        frame.render_widget(Paragraph::new(lines), area);
    }
}

/// A row of what went wrong.
struct Row<'a> {
    run: RunKey,
    what: What<'a>,
}

enum What<'a> {
    Run(&'a Run),
    Failure(&'a Failure),
    More(usize),
}

/// What went wrong, by run: each run has a head, and its last failures below it.
fn grouped<'a>(
    runs: &[(RunKey, &'a Run)],
    filter: &str,
    room: usize,
    state: impl Fn(&Run) -> Status,
) -> Vec<Row<'a>> {
    let filter = filter.to_lowercase();
    let with_failures = runs.iter().filter(|(_, run)| !run.failures.is_empty()).count();
    // A head, the failures, and what says that there are more.
    let each = (room / with_failures.max(1)).saturating_sub(2).clamp(1, FAILURES_OF_A_RUN);
    let mut rows = Vec::new();
    for (id, run) in runs {
        let named = [&run.subject_id, &run.ident, &run.playbook, &run.play, &run.task].map(String::as_str);
        let is_run_wanted =
            named.into_iter().chain([state(run).as_str()]).any(|text| text.to_lowercase().contains(&filter));
        let wanted: Vec<&Failure> =
            run.failures.iter().filter(|failure| is_run_wanted || is_about(failure, &filter)).collect();
        if wanted.is_empty() {
            continue;
        }
        let row = |what| Row { run: *id, what };
        rows.push(row(What::Run(run)));
        rows.extend(wanted.iter().rev().take(each).map(|failure| row(What::Failure(failure))));
        let more = wanted.len().saturating_sub(each);
        if more > 0 {
            rows.push(row(What::More(more)));
        }
    }
    rows
}

pub(super) fn fate_style(fate: Fate) -> Style {
    match fate {
        Fate::Failed | Fate::Unreachable => Style::new().fg(Color::Red),
        Fate::Ignored | Fate::Rescued => Style::new().fg(Color::Magenta),
    }
}

fn draw_failures(frame: &mut Frame<'_>, area: Rect, rows: &[Row<'_>], at: usize, is_focused: bool) {
    let Some(room) = usize::from(area.height).checked_sub(1) else { return };
    let first = at.saturating_sub(room.saturating_sub(1));
    let title = if is_focused { "─ failures ↑↓ " } else { "─ failures " };
    let rule = "─".repeat(usize::from(area.width).saturating_sub(width(title)));
    let mut lines = vec![Line::from(format!("{title}{rule}")).alignment(Alignment::Left).dim()];
    for (number, row) in rows.iter().enumerate().skip(first).take(room) {
        let line = match &row.what {
            What::Run(run) => {
                let name =
                    if run.playbook.is_empty() { String::new() } else { format!(" · {}", run.playbook) };
                Line::from(format!("{}{name}", run.ident)).bold()
            }
            What::Failure(failure) => {
                let Failure { host, task, why, fate, .. } = failure;
                let text = format!(" {host} · {task} · {why}");
                let word = format!("  {}", fate.as_str());
                let text = clipped(&text, usize::from(area.width).saturating_sub(width(&word)));
                Line::from(vec![Span::styled(word, fate_style(*fate)), Span::from(text)])
            }
            What::More(count) => Line::from(format!(
                "  {count} earlier {}: Enter shows them",
                if *count == 1 { "one" } else { "ones" }
            ))
            .dim(),
        };
        let is_marked = is_focused && number == at;
        lines.push(if is_marked { line.style(Style::new().add_modifier(Modifier::REVERSED)) } else { line });
    }
    frame.render_widget(Paragraph::new(lines), area);
}
