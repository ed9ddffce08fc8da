//! The screen of `watch`: a table of runs, and the last failures.

use std::{
    cmp::Reverse,
    io,
    time::{Duration, Instant, SystemTime},
};

use ratatui::{
    DefaultTerminal, Frame,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row, Table, TableState},
};

use super::jobs::{Job, Jobs};

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

/// A terminal that is given back as it was, whatever happens.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    sort: Sort,
    reversed: bool,
    filter: String,
    /// The filter is being typed.
    typing: bool,
    table: TableState,
    /// Runs shown at last.
    shown: usize,
    rate: Rate,
}

/// Messages per second.
struct Rate {
    since: Instant,
    counted: u64,
    per_second: f64,
}

impl Screen {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            terminal: ratatui::try_init()?,
            sort: Sort::Newest,
            reversed: false,
            filter: String::new(),
            typing: false,
            table: TableState::default().with_selected(0),
            shown: 0,
            rate: Rate { since: Instant::now(), counted: 0, per_second: 0.0 },
        })
    }

    /// Waits up to `patience` for keys and handles them; `false` if the user has seen enough.
    pub(super) fn keys(&mut self, patience: Duration) -> io::Result<bool> {
        let mut wait = patience;
        while event::poll(wait)? {
            wait = Duration::ZERO;
            match event::read()? {
                Event::Key(key) if key.kind == KeyEventKind::Press && !self.key(key) => return Ok(false),
                // The next drawing sees the new size.
                _ => {}
            }
        }
        Ok(true)
    }

    fn key(&mut self, key: KeyEvent) -> bool {
        const PAGE: usize = 10;
        let at = self.table.selected().unwrap_or(0);
        let last = self.shown.saturating_sub(1);
        let mut go = |to: usize| self.table.select(Some(to.min(last)));
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace if self.typing => drop(self.filter.pop()),
            KeyCode::Char(c) if self.typing => self.filter.push(c),
            KeyCode::Char('q') => return false,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Down | KeyCode::Char('j') => go(at + 1),
            KeyCode::Up | KeyCode::Char('k') => go(at.saturating_sub(1)),
            KeyCode::PageDown | KeyCode::Char(' ') => go(at + PAGE),
            KeyCode::PageUp => go(at.saturating_sub(PAGE)),
            KeyCode::Home | KeyCode::Char('g') => go(0),
            KeyCode::End | KeyCode::Char('G') => go(last),
            _ => {}
        }
        true
    }

    pub(super) fn draw(&mut self, jobs: &Jobs, server: &str, now: SystemTime) -> io::Result<()> {
        self.rate.count(jobs.messages);
        let mut shown: Vec<&Job> = jobs.all().filter(|job| matches(job, &self.filter)).collect();
        sort(&mut shown, self.sort, now);
        if self.reversed {
            shown.reverse();
        }
        self.shown = shown.len();
        let Self { terminal, table, filter, typing, rate, sort, .. } = self;
        if let Some(at) = table.selected().filter(|at| *at >= shown.len()) {
            table.select(Some(at.min(shown.len().saturating_sub(1))));
        }
        let head = format!(
            "{} runs, {} running · {:.0} messages/s · {server}",
            shown.len(),
            shown.iter().filter(|job| job.ended.is_none()).count(),
            rate.per_second
        );
        let foot = if *typing {
            format!("filter: {filter}_   Enter keeps it, Esc clears it")
        } else {
            let filtered = if filter.is_empty() { String::new() } else { format!("   filter: {filter}") };
            format!("q quit  ↑↓ scroll  s sort ({})  r reverse  / filter{filtered}", sort.name())
        };
        terminal.draw(|frame| {
            // A third for failures, if there are any.
            let failures =
                u16::try_from(jobs.failures.len()).unwrap_or(u16::MAX).min(frame.area().height / 3);
            let failures = if failures == 0 { 0 } else { failures + 1 };
            let parts = [
                Constraint::Length(1),
                Constraint::Min(3),
                Constraint::Length(failures),
                Constraint::Length(1),
            ];
            let [top, middle, below, bottom] = Layout::vertical(parts).areas(frame.area());
            frame.render_widget(
                Paragraph::new(head).style(Style::new().add_modifier(Modifier::REVERSED)),
                top,
            );
            runs(frame, middle, &shown, table, now);
            last_failures(frame, below, jobs);
            frame.render_widget(Paragraph::new(foot).dim(), bottom);
        })?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = ratatui::try_restore();
    }
}

impl Rate {
    fn count(&mut self, messages: u64) {
        let passed = self.since.elapsed().as_secs_f64();
        if passed >= 1.0 {
            let more = u32::try_from(messages.saturating_sub(self.counted)).unwrap_or(u32::MAX);
            self.per_second = f64::from(more) / passed;
            self.counted = messages;
            self.since = Instant::now();
        }
    }
}

fn matches(job: &Job, filter: &str) -> bool {
    let filter = filter.to_lowercase();
    let texts = [&job.subject_id, &job.ident, &job.playbook, &job.play, &job.task, &job.status];
    texts.into_iter().any(|text| text.to_lowercase().contains(&filter))
}

fn sort(jobs: &mut [&Job], by: Sort, now: SystemTime) {
    // The newest first, wherever nothing else decides.
    jobs.sort_by(|a, b| b.started.cmp(&a.started).then_with(|| a.ident.cmp(&b.ident)));
    match by {
        Sort::Newest => {}
        Sort::State => jobs.sort_by_key(|job| (job.ended.is_some(), job.status.clone())),
        Sort::Failed => jobs.sort_by_key(|job| Reverse(job.recap.failed + job.recap.unreachable)),
        Sort::Ident => jobs.sort_by_key(|job| (job.subject_id.clone(), job.ident.clone())),
        Sort::Duration => jobs.sort_by_key(|job| Reverse(job.duration(now))),
    }
}

fn runs(frame: &mut Frame<'_>, area: Rect, jobs: &[&Job], state: &mut TableState, now: SystemTime) {
    let wide = area.width >= 120;
    let mut names =
        vec!["ident", "state", "task", "tasks", "ok", "chg", "fail", "unr", "skip", "time", "lost"];
    let mut widths = vec![
        Constraint::Min(12),
        Constraint::Length(10),
        Constraint::Fill(2),
        Constraint::Length(7),
        Constraint::Length(5),
        Constraint::Length(4),
        Constraint::Length(4),
        Constraint::Length(4),
        Constraint::Length(4),
        Constraint::Length(7),
        Constraint::Length(4),
    ];
    if wide {
        names.splice(0..0, ["id"]);
        names.splice(3..3, ["playbook", "play"]);
        widths.splice(0..0, [Constraint::Min(8)]);
        widths.splice(3..3, [Constraint::Fill(1), Constraint::Fill(1)]);
    }
    let rows = jobs.iter().map(|job| {
        let tasks = job.known_tasks.map_or(job.tasks.to_string(), |known| format!("{}/{known}", job.tasks));
        let number = |number: u64, color: Color| {
            let style = if number > 0 { Style::new().fg(color) } else { Style::new().dim() };
            Cell::from(Line::from(Span::styled(number.to_string(), style)).right_aligned())
        };
        let mut cells = vec![
            Cell::from(job.ident.clone()),
            Cell::from(Span::styled(job.status.clone(), state_style(job))),
            Cell::from(job.task.clone()),
            Cell::from(Line::from(tasks).right_aligned()),
            number(job.recap.ok, Color::Green),
            number(job.recap.changed, Color::Yellow),
            number(job.recap.failed, Color::Red),
            number(job.recap.unreachable, Color::Red),
            number(job.recap.skipped, Color::Cyan),
            Cell::from(Line::from(in_short(job.duration(now))).right_aligned()),
            number(job.missing() as u64, Color::Red),
        ];
        if wide {
            cells.splice(0..0, [Cell::from(job.subject_id.clone())]);
            cells.splice(3..3, [Cell::from(job.playbook.clone()), Cell::from(job.play.clone())]);
        }
        Row::new(cells)
    });
    let table = Table::new(rows, widths)
        .header(Row::new(names).style(Style::new().bold()))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, state);
}

fn state_style(job: &Job) -> Style {
    match job.status.as_str() {
        "successful" => Style::new().fg(Color::Green),
        "running" | "starting" => Style::new().bold(),
        _ => Style::new().fg(Color::Red),
    }
}

fn last_failures(frame: &mut Frame<'_>, area: Rect, jobs: &Jobs) {
    let Some(room) = usize::from(area.height).checked_sub(1) else { return };
    let mut lines = vec![Line::from("failures, the last one first").bold()];
    lines.extend(jobs.failures.iter().rev().take(room).map(|failure| {
        let text = format!(" {} · {} · {} · {}", failure.ident, failure.host, failure.task, failure.why);
        Line::from(vec![Span::styled(failure.word, Style::new().fg(Color::Red)), Span::from(text)])
    }));
    frame.render_widget(Paragraph::new(lines), area);
}

/// `59s`, `12m03s`, `3h04m`.
fn in_short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}
