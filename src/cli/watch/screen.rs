//! The terminal: what is shown on it, and what keys do.

use std::{
    io,
    time::{Duration, Instant, SystemTime},
};

use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout},
    style::{Modifier, Style, Stylize},
    widgets::Paragraph,
};

use super::{detail::Detail, help, list::List, text::clipped};
use crate::runs::{RunKey, Runs};

/// What a key asks of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Nothing,
    /// All that is known of this run.
    Run(RunKey),
    Quit,
    /// The same, by Ctrl-C.
    Interrupt,
}

/// A terminal that is given back as it was, whatever happens.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    /// What is known of the connection.
    pub(super) server: String,
    silent_after: Option<Duration>,
    list: List,
    /// The run that is open.
    detail: Option<Detail>,
    help: bool,
    rate: Rate,
}

/// Messages per second.
struct Rate {
    since: Instant,
    counted: u64,
    per_second: f64,
}

impl Screen {
    pub(super) fn open(silent_after: Option<Duration>) -> io::Result<Self> {
        Ok(Self {
            terminal: ratatui::try_init()?,
            server: String::new(),
            silent_after,
            list: List::new(),
            detail: None,
            help: false,
            rate: Rate { since: Instant::now(), counted: 0, per_second: 0.0 },
        })
    }

    /// Waits up to `patience` for keys and handles them.
    pub(super) fn keys(&mut self, runs: &Runs, patience: Duration) -> io::Result<Wanted> {
        let mut wait = patience;
        while event::poll(wait)? {
            wait = Duration::ZERO;
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                let wanted = self.key(key, runs);
                if wanted != Wanted::Nothing {
                    return Ok(wanted);
                }
            }
            // Of a new size the next drawing takes notice.
        }
        Ok(Wanted::Nothing)
    }

    fn key(&mut self, key: KeyEvent, runs: &Runs) -> Wanted {
        const PAGE: isize = 10;
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_control => return Wanted::Interrupt,
            _ if self.help => self.help = false,
            _ if self.list.typing && self.detail.is_none() => self.typed(key.code),
            KeyCode::Char('?') => self.help = true,
            KeyCode::Char('q') | KeyCode::Esc | KeyCode::Backspace if self.detail.is_some() => {
                self.detail = None;
            }
            KeyCode::Char('q') => return Wanted::Quit,
            KeyCode::Esc => self.list.filter.clear(),
            KeyCode::Tab | KeyCode::BackTab => match &mut self.detail {
                Some(detail) => detail.next_pane(),
                None => self.list.next_pane(),
            },
            KeyCode::Down | KeyCode::Char('j') => self.go(1),
            KeyCode::Up | KeyCode::Char('k') => self.go(-1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.go(PAGE),
            KeyCode::PageUp => self.go(-PAGE),
            KeyCode::Home | KeyCode::Char('g') => self.go(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.go(isize::MAX),
            _ if self.detail.is_some() => {}
            KeyCode::Enter => {
                if let Some(id) = self.list.marked()
                    && let Some(run) = runs.get(id)
                {
                    self.detail = Some(Detail::new(id, run));
                    return Wanted::Run(id);
                }
            }
            KeyCode::Char('/') => self.list.typing = true,
            KeyCode::Char('s') => self.list.next_sort(),
            KeyCode::Char('r') => self.list.reverse(),
            _ => {}
        }
        Wanted::Nothing
    }

    fn typed(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.list.typing = false,
            KeyCode::Esc => {
                self.list.typing = false;
                self.list.filter.clear();
            }
            KeyCode::Backspace => drop(self.list.filter.pop()),
            KeyCode::Char(c) => self.list.filter.push(c),
            _ => {}
        }
    }

    fn go(&mut self, by: isize) {
        match &mut self.detail {
            Some(detail) => detail.go(by),
            None => self.list.go(by),
        }
    }

    /// The runs that are on the screen.
    pub(super) fn visible(&self) -> &[RunKey] {
        self.list.visible()
    }

    pub(super) fn draw(&mut self, runs: &Runs, now: SystemTime) -> io::Result<()> {
        self.rate.count(runs.messages);
        let Self { terminal, server, silent_after, list, detail, help, rate } = self;
        terminal.draw(|frame| {
            let parts = [Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)];
            let [top, middle, bottom] = Layout::vertical(parts).areas(frame.area());
            let open = detail.as_mut().and_then(|detail| Some((runs.get(detail.run)?, detail)));
            let foot = match open {
                Some((run, detail)) => {
                    detail.draw(frame, middle, run, now, *silent_after);
                    Detail::foot().to_owned()
                }
                None => {
                    list.draw(frame, middle, runs, now, *silent_after);
                    list.foot()
                }
            };
            let head = list.head(runs, now, *silent_after);
            let head = format!("{head} · {server} · {:.0} messages/s", rate.per_second);
            let head = Paragraph::new(clipped(&head, usize::from(top.width)));
            frame.render_widget(head.style(Style::new().add_modifier(Modifier::REVERSED)), top);
            frame.render_widget(Paragraph::new(clipped(&foot, usize::from(bottom.width))).dim(), bottom);
            if *help {
                help::draw(frame);
            }
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
