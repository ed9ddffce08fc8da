//! Completes the story of runs that were killed: what is in their artifacts, and neither in a stream nor confirmed, is sent
//! by the next run there. Nobody has to call `replay`, which does the same by the same plan.
//!
//! A thread of its own reads the artifacts and asks the stream what it has, so that live messages wait for neither; what it
//! finds goes through the courier's queue, behind everything that is live.

use std::{
    collections::{HashMap, HashSet},
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use super::{
    api::block_on,
    courier::Courier,
    verify::{Held, held},
};
use crate::{
    config::{Config, Delivery},
    files::{self, Use},
    journal::{Folder, Found},
    message::{Message, Values},
    outbox::Run,
    recovery::{Decision, Given, Plan, Sent, Wish},
    report::Level,
};

/// How messages of a run are made again: as those of a run that goes on in the same place.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    /// Its options.
    pub(crate) config: Config,
    /// What it was given, and must not be told.
    pub(crate) values: Option<Arc<Values>>,
}

/// What a courier knows of the runs that are to be completed.
#[derive(Debug, Default)]
pub(super) struct Healer {
    /// By subject id: whoever leaves something out or masks it would not want another one's options to apply.
    recipes: Mutex<HashMap<String, Recipe>>,
    /// A run has begun whose place was not looked at yet.
    is_wanted: AtomicBool,
    is_at_work: AtomicBool,
    /// The folders that were looked at by this process, whatever came of it.
    seen: Mutex<HashSet<PathBuf>>,
}

/// So many runs are completed by one process.
const MOST: usize = 50;
/// Bytes that are handed over at once: what a live message may have to wait for.
const BATCH: usize = 128 << 10;
/// So long a connection may be away before all is left to the next run.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_UP: Duration = Duration::from_millis(20);

impl Healer {
    /// A run begins; `is_due`: what others like it have left is to be looked for.
    pub(super) fn learn(&self, recipe: Recipe, is_due: bool) {
        /// A service may have a subject id a tenant; the last ones must do.
        const MOST: usize = 1_000;
        let mut recipes = lock(&self.recipes);
        if recipes.len() >= MOST {
            recipes.clear();
        }
        recipes.insert(recipe.config.subject_id.clone(), recipe);
        drop(recipes);
        if is_due {
            self.is_wanted.store(true, SeqCst);
        }
    }

    /// How long the end of a process may wait for it.
    pub(super) fn limit(&self) -> Duration {
        lock(&self.recipes).values().map(|recipe| recipe.config.flush_timeout).max().unwrap_or_default()
    }

    /// Is anything still to be done?
    pub(super) fn is_at_work(&self) -> bool {
        self.is_wanted.load(SeqCst) || self.is_at_work.load(SeqCst)
    }

    /// There is a connection: begins, unless somebody is at it.
    pub(super) fn start(courier: &Arc<Courier>) {
        let healer = &courier.healer;
        if !healer.is_wanted.load(SeqCst) || healer.is_at_work.swap(true, SeqCst) {
            return;
        }
        let theirs = Arc::clone(courier);
        let work = move || {
            let Self { is_wanted, is_at_work, .. } = &theirs.healer;
            loop {
                while is_wanted.swap(false, SeqCst) {
                    heal(&theirs);
                }
                is_at_work.store(false, SeqCst);
                // A run may have begun just before that, and have found us at work.
                if !is_wanted.load(SeqCst) || is_at_work.swap(true, SeqCst) {
                    return;
                }
            }
        };
        if thread::Builder::new().name("runner-nats-heal".to_owned()).spawn(work).is_err() {
            healer.is_at_work.store(false, SeqCst);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks through all places of this courier's runs, the newest folders first.
fn heal(courier: &Arc<Courier>) {
    let mut done = 0;
    for site in courier.recovery.sites() {
        for folder in site.folders().into_iter().rev() {
            if done >= MOST || !courier.is_connected() {
                return;
            }
            let killed = site.killed(&folder, courier.recovery.destination());
            let Some(record) = killed.first() else { continue };
            let recipe = lock(&courier.healer.recipes).get(&record.record.subject_id).cloned();
            let Some(recipe) = recipe else { continue };
            if !lock(&courier.healer.seen).insert(record.path.clone()) {
                continue;
            }
            // Nobody else shall do the same at the same time.
            let Some(_locked) = claim(&record.path) else { continue };
            done += 1;
            if let Err(reason) = complete(courier, &recipe, &folder, record) {
                let name = &record.record.runner_ident;
                let text = format!("run {name}, which was killed, is not complete: {reason}");
                courier.notices.warn(&format!("killed {}", folder.display()), text);
            }
        }
    }
}

/// The lock of a record whose run was killed.
fn claim(path: &Path) -> Option<File> {
    /// Whoever only looks at it has it for a moment.
    const TRIES: u32 = 20;
    let file = files::open(path, Use::Read).ok()?;
    for _ in 0..TRIES {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => thread::sleep(LOOK_UP),
            // Not every file system has locks.
            Ok(()) | Err(TryLockError::Error(_)) => return Some(file),
        }
    }
    None
}

/// Sends what is missing of a run. An error says why it is left to people.
fn complete(courier: &Arc<Courier>, recipe: &Recipe, folder: &Path, found: &Found) -> Result<(), String> {
    let record = &found.record;
    let config = &recipe.config;
    let given = Given::Alike(recipe.values.clone());
    let wish = Wish { named: false, all: false, beside_live: true, given };
    let Decision::Send(mut plan) = Plan::of_folder(folder, &wish)? else { return Ok(()) };
    plan.list(config)?;
    let mut is_whole = true;
    let mut held_already = 0;
    if !plan.items.is_empty() {
        match ask(courier, config, &plan)? {
            Some(Held { ids, horizon }) => held_already = plan.leave_out(&ids, horizon).0,
            None => {
                // What was heard of it nobody knows; what is in files surely was not.
                plan.keep_lines();
                is_whole = false;
            }
        }
    }
    let (sent, left) = send(courier, config, folder, &mut plan, is_whole)?;
    if !is_whole {
        return Err("no stream has its messages, so that nobody can tell what was heard; what had come to a file was sent, \
                    and `ansible-runner-nats replay` sends all of it once more"
            .to_owned());
    }
    if let Some(unknown) = plan.bad.first() {
        courier.notices.warn(&format!("killed {}", folder.display()), unknown.clone());
    }
    if left > 0 {
        return Err(format!("{left} messages are left in {}", folder.display()));
    }
    courier.notices.say(
        Level::Info,
        format!(
            "run {}, which was killed (process {} on {}), is complete now: {sent} messages sent, {held_already} were in \
             the stream",
            record.runner_ident, record.pid, record.host
        ),
    );
    Ok(())
}

/// What the stream holds of it; `None`: there is none that could be asked.
fn ask(courier: &Courier, config: &Config, plan: &Plan) -> Result<Option<Held>, String> {
    if courier.connection.delivery == Delivery::Core {
        return Ok(None);
    }
    let found = block_on(held(&config.connection, &plan.subjects())).map_err(|error| error.to_string())?;
    found.map_err(|reason| format!("the stream cannot be asked what it has of it: {reason}"))
}

/// Sends the items of a plan, and in the end that the run was killed. Says how many were confirmed, and how many are left.
fn send(
    courier: &Arc<Courier>,
    config: &Config,
    folder: &Path,
    plan: &mut Plan,
    is_whole: bool,
) -> Result<(u64, u64), String> {
    // What no server takes is kept beside the rest.
    let run =
        Run::unrecorded(&folder.display().to_string(), Folder::of(Some(folder.to_owned())), Duration::ZERO);
    courier.outbox.open(&run);
    let sending = Sending { courier, run: &run };
    let mut composer = plan.composer(config);
    let mut batch = Vec::new();
    let mut size = 0;
    let mut result = Ok(());
    for item in &plan.items {
        let Some(message) = plan.read(item, config, &mut composer) else { continue };
        size += message.size();
        batch.push(message);
        if size >= BATCH {
            size = 0;
            result = sending.hand_over(std::mem::take(&mut batch));
            if result.is_err() {
                break;
            }
        }
    }
    let words = if is_whole { plan.last_words(config, SystemTime::now()) } else { Vec::new() };
    let said = words.len() as u64;
    if result.is_ok() {
        batch.extend(words);
    }
    let result = result.and_then(|()| sending.hand_over(batch));
    courier.outbox.forget(&run);
    let rest = run.spill().close().1.files;
    courier.outbox.close(&run);
    if let Err(reason) = result {
        for path in rest {
            let _ = std::fs::remove_file(path);
        }
        return Err(format!("{reason}; the next run tries again"));
    }
    let refused: u64 = rest.iter().map(|path| crate::journal::count_lines(path)).sum();
    let fates = Sent::of(&run).without(said);
    let left = if is_whole {
        plan.settle(plan.items.len(), &rest, refused, &fates)?
    } else {
        plan.shrink(&rest)?;
        refused
    };
    Ok((fates.stored + fates.routed, left))
}

/// Messages that are handed over little by little.
struct Sending<'a> {
    courier: &'a Arc<Courier>,
    run: &'a Arc<Run>,
}

impl Sending<'_> {
    /// Hands messages over when nothing is live, and waits until they are confirmed. An error says why that will not be.
    fn hand_over(&self, messages: Vec<Message>) -> Result<(), String> {
        let Self { courier, run } = self;
        while courier.outbox.has_live_work() {
            if !courier.is_connected() {
                return Err("the connection is gone".to_owned());
            }
            thread::sleep(LOOK_UP);
        }
        if messages.is_empty() {
            return Ok(());
        }
        courier.outbox.offer(run, messages);
        let mut seen = Instant::now();
        let began = Instant::now();
        while !courier.outbox.wait_settled(run, Instant::now() + LOOK_UP) {
            courier.ensure_started();
            if courier.is_connected() {
                seen = Instant::now();
            }
            if seen.elapsed() > PATIENCE || courier.outbox.is_given_up() {
                return Err("the connection is gone".to_owned());
            }
            if run.is_unheard() && began.elapsed() > PATIENCE {
                return Err("nobody hears it".to_owned());
            }
        }
        Ok(())
    }
}
