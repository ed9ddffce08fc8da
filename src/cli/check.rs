//! `check`: what the plugin would do, and whether it would get through.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Serialize;
use serde_json::Map;

use super::{
    Exit,
    options::{Options, settings_of},
    terminal::{Tone, json_text, printable, stdout},
};
use crate::{
    config::{AUTH, Config, Setting},
    files,
    nats::{Aim, Finding, State, block_on, probe},
};

/// Connect as a job would, try what it would do, and say what works and what does not.
///
/// Reads the environment and, if a private data directory is given, its env/settings, by the same code as the
/// plugin. Nothing is left in anybody's stream. Exit status: 0 a job's messages would be delivered (with --reading:
/// runs can be read), 1 there is a problem.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// ansible-runner's private data directory
    private_data_dir: Option<PathBuf>,
    /// Try what runs, logs, wait, watch and serve do, instead of what a job does
    #[arg(long)]
    reading: bool,
    /// With --reading: only runs of this subject id
    #[arg(long, value_name = "ID", requires = "reading")]
    subject_id: Option<String>,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Show all options, not only those that are set
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    options: Options,
}

#[derive(Serialize)]
struct Report {
    /// Does everything work?
    ok: bool,
    options: Vec<Setting>,
    problems: Vec<String>,
    /// What is odd, but works.
    notes: Vec<String>,
    servers: Vec<Probed>,
}

#[derive(Serialize)]
struct Probed {
    server: String,
    steps: Vec<Finding>,
}

/// For what would be published, if no subject id is set.
const NO_SUBJECT_ID: &str = "RUNNER_NATS_SUBJECT_ID (or nats_subject_id) is not set: nothing is published";

pub(super) fn run(arguments: &Arguments) -> io::Result<Exit> {
    let mut problems = Vec::new();
    let folder = arguments.private_data_dir.as_deref().or(arguments.options.folder());
    let settings = match folder.map(settings_of).transpose() {
        Ok(settings) => settings.unwrap_or_default(),
        Err(problem) => {
            problems.push(problem);
            Map::new()
        }
    };
    let mut resolution = arguments.options.resolve(settings.clone(), None);
    if resolution.config.is_none() && resolution.problems.is_empty() {
        if !arguments.reading {
            problems.push(NO_SUBJECT_ID.to_owned());
        }
        resolution = arguments.options.resolve(settings, Some("check"));
    }
    problems.extend(resolution.problems);
    let mut notes: Vec<String> = several_ways(&resolution.settings).into_iter().collect();
    if let Some(config) = resolution.config.as_ref().filter(|_| !arguments.reading) {
        match spool(config, folder) {
            Some(Remark::Note(text)) => notes.push(config.hidden(text)),
            Some(Remark::Problem(text)) => problems.push(config.hidden(text)),
            None => {}
        }
    }
    let mut report = Report {
        ok: problems.is_empty(),
        options: resolution.settings,
        problems,
        notes,
        servers: Vec::new(),
    };
    let mut show = Show { silent: arguments.json, all: arguments.verbose };
    show.options(&report)?;
    if let Some(config) = &resolution.config {
        let aim = if arguments.reading {
            Aim::Read(config.subject.filters(arguments.subject_id.as_deref(), None, None))
        } else {
            Aim::Publish
        };
        probe_all(config, &aim, &mut report, &mut show)?;
    }
    if arguments.json {
        let json = json_text(&report)?;
        stdout(|out| writeln!(out, "{json}"))?;
    } else {
        let verdict =
            if report.ok { Tone::Good.paint("all is well") } else { Tone::Bad.paint("there are problems") };
        stdout(|out| writeln!(out, "\n{verdict}"))?;
    }
    Ok(if report.ok { Exit::Success } else { Exit::Problem })
}

/// Ways to authenticate that contradict each other.
fn several_ways(settings: &[Setting]) -> Option<String> {
    let is_set =
        |way: &&str| settings.iter().any(|setting| setting.option == *way && setting.source != "default");
    // A password is the user's.
    let ways = AUTH.iter().map(|opt| opt.key).filter(|way| *way != "password");
    let set: Vec<&str> = ways.filter(is_set).collect();
    let (used, others) = set.split_first()?;
    (!others.is_empty()).then(|| format!("{used} is used; {} is left aside", others.join(", ")))
}

enum Remark {
    Note(String),
    Problem(String),
}

/// Can what is not delivered be kept? In the spool, or where a run turns to without it: its artifact directory, of
/// which we know nothing but where ansible-runner usually makes it.
fn spool(config: &Config, private_data_dir: Option<&Path>) -> Option<Remark> {
    let fails =
        |folder: &Path| try_to_write(folder).err().map(|error| format!("{}: {error}", folder.display()));
    let artifacts = private_data_dir.map(|folder| folder.join("artifacts"));
    let no_artifacts = artifacts.as_deref().map(fails);
    let no_spool = config.spill_dir.as_deref().map(fails);
    match (no_spool, no_artifacts) {
        (Some(Some(spool)), Some(None)) => Some(Remark::Note(format!(
            "spill_dir cannot be written, runs use their artifact directory instead: {spool}"
        ))),
        (Some(Some(spool)), Some(Some(artifacts))) => Some(Remark::Problem(format!(
            "what is not delivered cannot be kept: spill_dir cannot be written: {spool}; nor the artifacts: {artifacts}"
        ))),
        (Some(Some(spool)), None) => Some(Remark::Problem(format!("spill_dir cannot be written: {spool}"))),
        (None, Some(Some(artifacts))) => {
            Some(Remark::Problem(format!("what is not delivered cannot be kept: {artifacts}")))
        }
        (None | Some(None), _) => config.spill_dir.as_deref().and_then(open_to_others).map(Remark::Problem),
    }
}

/// Who else could put something into a spool, or put another one in its place: files of others are left alone there, but
/// nobody should have to rely on that.
fn open_to_others(spool: &Path) -> Option<String> {
    const BY_ALL: u32 = 0o002;
    const BY_GROUP: u32 = 0o020;
    const STICKY: u32 = 0o1000;
    let whole = fs::canonicalize(spool).ok()?;
    whole.ancestors().find_map(|folder| {
        let about = fs::metadata(folder).ok()?;
        let mode = about.mode();
        let place = || format!("{} (mode {:o})", folder.display(), mode & 0o7777);
        if !files::is_ours(&about) {
            return Some(format!(
                "spill_dir {}: {} belongs to user {}, who can put something else in its place; make it this user's own",
                spool.display(),
                place(),
                about.uid()
            ));
        }
        // Many users have a group of their own.
        let by_group = mode & BY_GROUP != 0 && !files::is_of_our_group(&about);
        // In a folder for everybody (/tmp) nobody can take away what is another's.
        let is_open = (mode & BY_ALL != 0 || by_group) && (folder == whole || mode & STICKY == 0);
        is_open.then(|| {
            format!(
                "spill_dir {}: others can write to {}; give each user a spool of his own (chmod 700)",
                spool.display(),
                place()
            )
        })
    })
}

/// Makes a file in a folder, which is made too if need be, and takes away again what it made.
fn try_to_write(folder: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = folder.ancestors().take_while(|path| !path.exists()).collect();
    let written = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).and_then(|()| {
        let probe = folder.join(format!(".nats-check-{}", std::process::id()));
        fs::File::create_new(&probe)?;
        fs::remove_file(&probe)
    });
    for made in missing {
        // The deepest first. One that somebody else has begun to use stays.
        let _ = fs::remove_dir(made);
    }
    written
}

fn probe_all(config: &Config, aim: &Aim, report: &mut Report, show: &mut Show) -> io::Result<()> {
    for server in &config.connection.servers {
        show.line(&format!("\n{}", Tone::Strong.paint(&server.address)))?;
        let mut steps: Vec<Finding> = Vec::new();
        let mut shown = Ok(());
        block_on(probe(config, server, aim, &mut |mut finding| {
            finding.text = printable(&config.hidden(finding.text));
            if shown.is_ok() {
                shown = show.finding(&finding);
            }
            steps.push(finding);
        }))?;
        shown?;
        report.ok &= steps.iter().all(|finding| finding.state != State::Problem);
        report.servers.push(Probed { server: server.address.clone(), steps });
    }
    Ok(())
}

/// Text as it comes, unless it is JSON in the end.
struct Show {
    silent: bool,
    /// Options that nobody has set, too.
    all: bool,
}

impl Show {
    fn line(&mut self, text: &str) -> io::Result<()> {
        if self.silent { Ok(()) } else { stdout(|out| writeln!(out, "{text}")) }
    }

    fn options(&mut self, report: &Report) -> io::Result<()> {
        let all = self.all;
        let (set, defaults): (Vec<_>, Vec<_>) =
            report.options.iter().partition(|setting| setting.source != "default");
        for Setting { option, value, source } in set.into_iter().chain(defaults.into_iter().filter(|_| all)) {
            let value = printable(if value.is_empty() { "-" } else { value });
            let line = format!("{option:22} {value:40} {}", printable(source));
            self.line(&if source == "default" { Tone::Faint.paint(line.trim_end()) } else { line })?;
        }
        for note in &report.notes {
            self.line(&format!("{} {}", Tone::Odd.paint("note   "), printable(note)))?;
        }
        for problem in &report.problems {
            self.line(&format!("{} {}", Tone::Bad.paint("problem"), printable(problem)))?;
        }
        Ok(())
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        let word = match finding.state {
            State::Ok => Tone::Good.paint("ok     "),
            State::Note => Tone::Odd.paint("note   "),
            State::Problem => Tone::Bad.paint("problem"),
        };
        self.line(&format!("{word} {:10} {}", finding.step, finding.text))
    }
}
