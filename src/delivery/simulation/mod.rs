//! The machine in a simulated world: a seed makes a schedule of jobs and faults, virtual time lets it happen in a
//! millisecond, and what must hold is held against it.
//!
//! - `script`: what happens when, made from a seed; and made shorter where it fails;
//! - `bus`: servers, streams and subscribers, as a model; `network`: what is between them and us;
//! - `world`: the clock and the jobs; the real machine, the real outbox, real files;
//! - `promises`: what must hold.
//!
//! After each schedule: every accepted message has exactly one fate; what is confirmed has arrived; order is as
//! documented; once all is well, everything is delivered within a bound; memory within its bound; no busy loop.

mod bus;
mod network;
mod promises;
mod script;
mod world;

use std::{
    env,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
};

use self::{
    script::Script,
    world::{Report, World},
};

/// Schedules that failed once, made short.
const KEPT: &str = include_str!("kept.jsonl");

/// For whoever runs it by hand: `make simulate`.
#[expect(clippy::print_stdout, reason = "cargo shows it if it is asked to")]
fn tell(text: &str) {
    println!("{text}");
}

/// Lets a schedule happen. A panic is a failure like any other.
fn simulate(script: &Script, talks: bool) -> Result<Report, (String, Report)> {
    let result = std::panic::catch_unwind(|| World::new(script, talks).run());
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err((format!("panic: {}", text.unwrap_or_default()), Report::default()))
    })
}

/// The shortest schedule found that fails as this one does.
fn shrink(script: &Script) -> Script {
    const TRIES: usize = 3_000;
    let mut shortest = script.clone();
    let mut tries = 0;
    'again: loop {
        for shorter in shortest.shorter() {
            tries += 1;
            if tries > TRIES {
                return shortest;
            }
            if simulate(&shorter, false).is_err() {
                shortest = shorter;
                continue 'again;
            }
        }
        return shortest;
    }
}

/// What happened, line by line.
fn told(script: &Script) -> String {
    let (wrong, report) = match simulate(script, true) {
        Ok(report) => ("nothing".to_owned(), report),
        Err(failed) => failed,
    };
    let lines = report.log.join("\n");
    format!("{}\n{lines}\nwrong: {wrong}", serde_json::to_string(script).unwrap())
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// `SEEDS`: how many schedules; `SEED`: this one alone, told line by line; `FIRST`: the first one.
#[test]
fn every_schedule_holds() {
    const SEEDS: u64 = 2_000;
    if let Some(seed) = number("SEED") {
        let script = Script::of(seed);
        tell(&told(&script));
        if simulate(&script, false).is_err() {
            let short = shrink(&script);
            panic!("shrunk to:\n{}", told(&short));
        }
        return;
    }
    let (first, count) = (number("FIRST").unwrap_or(0), number("SEEDS").unwrap_or(SEEDS));
    let next = AtomicU64::new(first);
    let totals: [AtomicU64; 7] = Default::default();
    let threads = thread::available_parallelism().map_or(1, usize::from).min(8);
    let failed: Vec<(u64, String)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut failed = Vec::new();
                    loop {
                        let seed = next.fetch_add(1, Relaxed);
                        if seed >= first + count || failed.len() > 20 {
                            return failed;
                        }
                        match simulate(&Script::of(seed), false) {
                            Ok(report) => add(&totals, &report),
                            Err((wrong, _)) => failed.push((seed, wrong)),
                        }
                    }
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    let [faults, accepted, stored, routed, kept, unheard, resent] = totals.map(AtomicU64::into_inner);
    tell(&format!(
        "{count} schedules: {faults} faults, {accepted} messages: {stored} stored, {routed} routed, {kept} kept \
         ({unheard} unheard), {resent} sent again"
    ));
    if let Some((seed, wrong)) = failed.first() {
        let all: Vec<String> = failed.iter().map(|(seed, wrong)| format!("{seed}: {wrong:.200}")).collect();
        panic!("{} failed:\n{}\nSEED={seed}: {wrong:.600}", failed.len(), all.join("\n"));
    }
}

fn add(totals: &[AtomicU64; 7], report: &Report) {
    let numbers = [
        report.faults as u64,
        report.accepted,
        report.stored,
        report.routed,
        report.kept,
        report.unheard,
        report.resent,
    ];
    for (total, number) in totals.iter().zip(numbers) {
        total.fetch_add(number, Relaxed);
    }
}

#[test]
fn what_failed_once_holds() {
    for line in KEPT.lines() {
        let script: Script = serde_json::from_str(line).unwrap();
        if let Err((wrong, _)) = simulate(&script, false) {
            panic!("{wrong}\n{}", told(&script));
        }
    }
}
