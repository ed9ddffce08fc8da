//! `watch`: what runs are doing, live.

mod jobs;
mod screen;

use std::{
    io::{self, IsTerminal},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    thread,
    time::{Duration, SystemTime},
};

use clap::Args;
use serde_json::{Map, Value};

use self::{
    jobs::{Jobs, News},
    screen::Screen,
};
use super::{
    Exit,
    options::Options,
    terminal::{Tone, complain, printable, stdout},
};
use crate::nats::{From, Heard, listen};

/// Show what runs are doing, live.
///
/// A screen of all runs on a terminal; one line per message elsewhere or with --plain. Survives restarts of the
/// server, and says so. Keys: arrows scroll, s sorts, r reverses, / filters, Esc clears the filter, q quits.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// What to listen to
    #[arg(default_value = "pub.ansible.runner.>")]
    subject: String,
    /// First what a stream has kept, from its beginning
    #[arg(long)]
    from_stream: bool,
    /// First what a stream has kept of this time, such as 1h or 90s
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// One line per message, also on a terminal
    #[arg(long, conflicts_with = "json")]
    plain: bool,
    /// The messages as they are, one per line
    #[arg(long)]
    json: bool,
    /// Stop when this many runs have ended
    #[arg(long, value_name = "N")]
    runs: Option<u64>,
    #[command(flatten)]
    options: Options,
}

/// More than this much waits for the screen only if the terminal does not read.
const WAITING: usize = 100_000;

pub(super) fn run(arguments: &Arguments) -> io::Result<Exit> {
    let resolution = arguments.options.resolve(Map::<String, Value>::new(), Some("watch"));
    for problem in &resolution.problems {
        complain(&printable(problem));
    }
    let Some(config) = resolution.config else { return Ok(Exit::Problem) };
    let from = match (arguments.since, arguments.from_stream) {
        (Some(age), _) => From::Since(SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)),
        (None, true) => From::First,
        (None, false) => From::Now,
    };
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let (sender, heard) = sync_channel(WAITING);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (connection, masks) = (config.connection, config.redaction.masks);
    let subject = arguments.subject.clone();
    // The thread ends with the process, or when nobody wants to know any more.
    thread::Builder::new().name("listen".to_owned()).spawn(move || {
        runtime.block_on(listen(&connection, &subject, from, sender));
        runtime.shutdown_background();
    })?;
    let hide = |text: String| printable(&masks.hidden(text));
    let mut watch = Watch { arguments, heard, interrupted, jobs: Jobs::default(), ended: 0 };
    if !arguments.plain && !arguments.json && io::stdout().is_terminal() {
        watch.on_screen(&hide)
    } else {
        watch.in_lines(&hide)
    }
}

struct Watch<'a> {
    arguments: &'a Arguments,
    heard: Receiver<Heard>,
    interrupted: Arc<AtomicBool>,
    jobs: Jobs,
    ended: u64,
}

impl Watch<'_> {
    fn in_lines(&mut self, hide: &dyn Fn(String) -> String) -> io::Result<Exit> {
        const LOOK_UP: Duration = Duration::from_millis(100);
        while !self.interrupted.load(Relaxed) && !self.has_seen_enough() {
            match self.heard.recv_timeout(LOOK_UP) {
                Ok(Heard::Connected(server)) => {
                    complain(&format!(
                        "connected to {}, listening to {}",
                        hide(server),
                        self.arguments.subject
                    ));
                }
                Ok(Heard::Lost(reason)) => complain(&hide(reason)),
                Ok(Heard::Message { id, payload }) => {
                    let news = self.hear(id.as_deref(), &payload);
                    if self.arguments.json {
                        let text = String::from_utf8_lossy(&payload);
                        stdout(|out| writeln!(out, "{}", text.replace(['\r', '\n'], " ")))?;
                    } else if let Some(news) = news {
                        stdout(|out| writeln!(out, "{}", line(&news)))?;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(Exit::Problem),
            }
        }
        Ok(if self.interrupted.load(Relaxed) { Exit::Interrupted } else { Exit::Success })
    }

    fn on_screen(&mut self, hide: &dyn Fn(String) -> String) -> io::Result<Exit> {
        /// As often as anybody can see.
        const FRAME: Duration = Duration::from_millis(100);
        let mut screen = Screen::open()?;
        let mut server = "connecting".to_owned();
        while !self.interrupted.load(Relaxed) && !self.has_seen_enough() {
            // All that has come, but no longer than a frame takes: keys must work under any load.
            let began = std::time::Instant::now();
            while began.elapsed() < FRAME {
                match self.heard.try_recv() {
                    Ok(Heard::Connected(name)) => server = format!("connected to {}", hide(name)),
                    Ok(Heard::Lost(reason)) => server = hide(reason),
                    Ok(Heard::Message { id, payload }) => {
                        self.hear(id.as_deref(), &payload);
                    }
                    Err(_) => break,
                }
            }
            screen.draw(&self.jobs, &server, SystemTime::now())?;
            if !screen.keys(FRAME)? {
                break;
            }
        }
        Ok(Exit::Success)
    }

    fn hear(&mut self, id: Option<&str>, payload: &[u8]) -> Option<News> {
        let news = self.jobs.hear(id, payload, SystemTime::now());
        self.ended += u64::from(news.as_ref().is_some_and(|news| news.is_end));
        news
    }

    fn has_seen_enough(&self) -> bool {
        self.arguments.runs.is_some_and(|runs| self.ended >= runs)
    }
}

fn line(news: &News) -> String {
    let tone = match news.word.as_str() {
        "failed" | "unreachable" | "timeout" | "error" | "canceled" => Tone::Bad,
        "ok" | "successful" => Tone::Good,
        "PLAY" | "TASK" | "RECAP" | "starting" | "running" => Tone::Strong,
        _ => Tone::Faint,
    };
    if news.text.is_empty() {
        return format!("{} {}", news.ident, tone.paint(&news.word));
    }
    format!("{} {} {}", news.ident, tone.paint(&format!("{:12}", news.word)), news.text)
}
