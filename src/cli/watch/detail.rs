//! The view of one run: what went wrong, its tasks, and what it prints.

use std::time::{Duration, SystemTime};

use ratatui::{
    Frame,
    layout::Rect,
    style::{Color, Style, Stylize},
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{
    list::{fate_style, state_style},
    text::{clipped, width, wrapped},
};
use crate::{
    cli::terminal::first_of,
    message::in_utc,
    runs::{Failure, Run, RunKey, Task, harmless, in_short},
};

/// What is shown of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pane {
    Failures,
    Tasks,
    Output,
}

/// What is shown of one run.
#[derive(Debug)]
pub(super) struct Detail {
    pub(super) run: RunKey,
    pane: Pane,
    /// The first row that is shown of each pane; `None`: the last rows, as they come.
    tops: [Option<usize>; 3],
    /// Rows and height of each pane when it was drawn last.
    sizes: [(usize, usize); 3],
}

impl Detail {
    pub(super) fn new(id: RunKey, run: &Run) -> Self {
        let pane = if run.failures.is_empty() { Pane::Output } else { Pane::Failures };
        Self { run: id, pane, tops: [Some(0), None, None], sizes: [(0, 0); 3] }
    }

    pub(super) fn next_pane(&mut self) {
        self.pane = match self.pane {
            Pane::Failures => Pane::Tasks,
            Pane::Tasks => Pane::Output,
            Pane::Output => Pane::Failures,
        };
    }

    /// Scrolls by so many rows.
    pub(super) fn go(&mut self, by: isize) {
        let place = self.pane as usize;
        let (Some(top), Some((rows, height))) = (self.tops.get_mut(place), self.sizes.get(place)) else {
            return;
        };
        let last = rows.saturating_sub(*height);
        let now = top.unwrap_or(last).min(last);
        let to = now.saturating_add_signed(by).min(last);
        // Who is at the end stays there as more comes.
        *top = Some(to).filter(|to| *to < last || self.pane == Pane::Failures);
    }

    pub(super) fn foot() -> &'static str {
        "Esc back  Tab pane  ↑↓ scroll  ? keys  q back"
    }

    pub(super) fn draw(
        &mut self,
        frame: &mut Frame<'_>,
        area: Rect,
        run: &Run,
        now: SystemTime,
        silent_after: Option<Duration>,
    ) {
        let wide = usize::from(area.width);
        let head = about(run, now, silent_after, wide);
        let used = u16::try_from(head.len()).unwrap_or(0).min(area.height);
        frame.render_widget(Paragraph::new(head), Rect { height: used, ..area });
        let body = Rect { y: area.y + used, height: area.height - used, ..area };
        for (pane, height, y) in self.layout(body, run) {
            let place = Rect { y, height, ..body };
            self.draw_pane(frame, place, pane, run, now);
        }
    }

    /// Panes, their heights and where they begin. Where there is no room for all, only the one that is moved in.
    fn layout(&self, body: Rect, run: &Run) -> Vec<(Pane, u16, u16)> {
        const ENOUGH: u16 = 16;
        if body.height < ENOUGH {
            return vec![(self.pane, body.height, body.y)];
        }
        let share = |rows: usize, part: u16| {
            let most = body.height.checked_div(part).unwrap_or(0);
            u16::try_from(rows + 1).unwrap_or(u16::MAX).min(most).max(2)
        };
        let failures = run.failures.iter().map(|failure| 2 + failure.details.len()).sum();
        let failures = share(failures, if self.pane == Pane::Failures { 2 } else { 3 });
        let tasks = share(run.tasks.len(), if self.pane == Pane::Tasks { 2 } else { 4 });
        let output = body.height.saturating_sub(failures + tasks);
        vec![
            (Pane::Failures, failures, body.y),
            (Pane::Tasks, tasks, body.y + failures),
            (Pane::Output, output, body.y + failures + tasks),
        ]
    }

    fn draw_pane(&mut self, frame: &mut Frame<'_>, area: Rect, pane: Pane, run: &Run, now: SystemTime) {
        let wide = usize::from(area.width);
        let height = usize::from(area.height).saturating_sub(1);
        let top = self.tops.get(pane as usize).copied().flatten();
        let (title, rows, lines) = match pane {
            Pane::Failures => {
                let lines: Vec<Line<'_>> = run.failures.iter().flat_map(|one| failure(one, wide)).collect();
                let rows = lines.len();
                let first = top.unwrap_or(0).min(rows.saturating_sub(height));
                (format!("failures {}", run.failures.len()), rows, window(lines, first, height))
            }
            Pane::Tasks => {
                let rows = run.tasks.len();
                let first = top.unwrap_or(usize::MAX).min(rows.saturating_sub(height));
                let shown = run.tasks.iter().skip(first).take(height);
                (
                    format!("tasks {}", run.task_count),
                    rows,
                    shown.map(|one| task(run, one, now, wide)).collect(),
                )
            }
            Pane::Output => output(run, wide, height, top),
        };
        if let Some(size) = self.sizes.get_mut(pane as usize) {
            *size = (rows, height);
        }
        let mark = if self.pane == pane { " ↑↓" } else { "" };
        let title = format!("─ {title}{mark} ");
        let rule = "─".repeat(wide.saturating_sub(width(&title)));
        let title = Line::from(format!("{title}{rule}"));
        let title = if self.pane == pane { title.bold() } else { title.dim() };
        let all: Vec<Line<'_>> = std::iter::once(title).chain(lines).collect();
        frame.render_widget(Paragraph::new(all), area);
    }
}

fn window(lines: Vec<Line<'_>>, first: usize, height: usize) -> Vec<Line<'_>> {
    lines.into_iter().skip(first).take(height).collect()
}

/// What it is, and how it goes.
fn about(run: &Run, now: SystemTime, silent_after: Option<Duration>, wide: usize) -> Vec<Line<'static>> {
    let state = run.state(now, silent_after);
    let name = if run.subject_id.is_empty() {
        run.ident.clone()
    } else {
        format!("{}  {}", run.subject_id, run.ident)
    };
    let time = run.duration(now).map_or_else(String::new, |time| format!("  {}", in_short(time)));
    let began = run
        .started
        .filter(|_| run.has_beginning())
        .map_or_else(String::new, |when| format!("  since {}", in_utc(when)));
    let ago = |when: SystemTime| in_short(now.duration_since(when).unwrap_or_default());
    let progress = run.progressed.map_or_else(String::new, |when| format!(", last event {} ago", ago(when)));
    let silence = if run.is_over() {
        String::new()
    } else {
        format!("  heard {} ago{progress}", in_short(run.silence(now)))
    };
    let known = run.known_tasks.map_or_else(String::new, |known| format!("/{known}"));
    let room = wide.saturating_sub(width(state.as_str()) + 2);
    let mut lines = vec![
        Line::from(vec![
            Span::styled(state.as_str(), state_style(state)),
            Span::from("  "),
            Span::styled(clipped(&name, room), Style::new().bold()),
        ]),
        Line::from(clipped(&format!("{}{time}{silence}{began}", run.playbook), wide)),
        Line::from(clipped(&format!("task {}{known}  {}", run.task_count, run.recap), wide)),
    ];
    let missing = run.missing();
    if missing > 0 || run.cut > 0 {
        let missing = if missing > 0 { format!("{missing} events missing  ") } else { String::new() };
        let cut = if run.cut > 0 { format!("{} messages were cut to fit", run.cut) } else { String::new() };
        lines.push(Line::from(clipped(&format!("{missing}{cut}"), wide)).fg(Color::Red));
    }
    if !run.is_over() && !run.task.is_empty() {
        lines.push(Line::from(clipped(&format!("at {} · {}", run.play, run.task), wide)));
    }
    let waiting = waiting(run, now);
    if !waiting.is_empty() {
        lines.push(Line::from(clipped(&waiting, wide)).fg(Color::Yellow));
    }
    lines
}

/// For whom it waits, or waited when it ended.
fn waiting(run: &Run, now: SystemTime) -> String {
    /// More hosts are counted.
    const NAMED: usize = 3;
    let all = run.waiting();
    let Some(first) = all.first() else { return String::new() };
    let hosts: Vec<&str> = all.iter().map(|one| one.host).collect();
    let time = first.since.and_then(|since| run.end_or(now).duration_since(since).ok()).map(in_short);
    let time = time.map_or_else(String::new, |time| format!(" for {time}"));
    let word = if run.is_over() { "waited" } else { "waits" };
    format!("{word} for {}{time} at {}", first_of(&hosts, NAMED), first.task)
}

fn failure(failure: &Failure, wide: usize) -> Vec<Line<'static>> {
    const INDENT: usize = 4;
    let Failure { host, task, fate, why, details, .. } = failure;
    let word = fate.as_str();
    let what = clipped(&format!(" {host} · {task}"), wide.saturating_sub(width(word)));
    let mut lines = vec![Line::from(vec![Span::styled(word, fate_style(*fate)), Span::from(what)])];
    let indented = |text: &str| {
        let wrapped = wrapped(&harmless(text), wide.saturating_sub(INDENT));
        wrapped.into_iter().map(|mut line| {
            line.spans.insert(0, Span::from(" ".repeat(INDENT)));
            line
        })
    };
    lines.extend(indented(why).map(Stylize::bold));
    let more = details.iter().filter(|line| line.trim() != why.trim());
    lines.extend(more.flat_map(|line| indented(line)));
    lines
}

fn task(run: &Run, task: &Task, now: SystemTime, wide: usize) -> Line<'static> {
    let time = run.duration_of(task, now).map_or_else(|| "-".to_owned(), in_short);
    let counts: Vec<String> = task
        .recap
        .parts()
        .into_iter()
        .filter(|(_, number)| *number > 0)
        .map(|(name, number)| format!("{name}={number}"))
        .collect();
    let color = match &task.recap {
        recap if recap.failed + recap.unreachable > 0 => Color::Red,
        recap if recap.changed > 0 => Color::Yellow,
        recap if recap.ok > 0 => Color::Green,
        _ => Color::Reset,
    };
    let counts = counts.join(" ");
    let room = wide.saturating_sub(8 + 1 + width(&counts) + 1);
    let name = clipped(&task.name, room);
    let pad = " ".repeat(room.saturating_sub(width(&name)));
    Line::from(vec![
        Span::from(format!("{time:>8} ")),
        Span::from(name),
        Span::from(format!("{pad} ")),
        Span::styled(counts, Style::new().fg(color)),
    ])
}

/// The title, how many lines there are, and those that are shown.
fn output(run: &Run, wide: usize, height: usize, top: Option<usize>) -> (String, usize, Vec<Line<'static>>) {
    let rows = run.output.lines().count();
    let lines = match top {
        Some(top) => {
            let mut lines: Vec<Line<'_>> = Vec::new();
            for text in run.output.lines().skip(top) {
                if lines.len() >= height {
                    break;
                }
                lines.extend(wrapped(text, wide));
            }
            lines.truncate(height);
            lines
        }
        None => {
            let mut lines: Vec<Line<'_>> = Vec::new();
            for text in run.output.lines().rev() {
                if lines.len() >= height {
                    break;
                }
                let mut above = wrapped(text, wide);
                above.append(&mut lines);
                lines = above;
            }
            let first = lines.len().saturating_sub(height);
            lines.split_off(first)
        }
    };
    let title = if run.output.is_cut_off() { "output, the last lines" } else { "output" };
    (title.to_owned(), rows, lines)
}
