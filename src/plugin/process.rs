//! The couriers of this process, by connection; and what a fork means for them.
//!
//! A forked child has its parent's memory but none of its threads: the parent's couriers are dead in it, and
//! their locks may be held for ever. So they are never touched there: the state carries the process id it
//! was made in, and a child makes its own (Python tells us of each fork: `os.register_at_fork`). The registry
//! itself is lock-free, so that reading it cannot hang.
//!
//! All that is process-wide here, and why a fork does it no harm, whatever the child then closes
//! (`os.closerange`, `daemon.DaemonContext`):
//!
//! | what | why it is safe |
//! | --- | --- |
//! | `PROCESS`, `PID` | no lock; the pid is compared at use, and what belongs to the parent is forgotten, never dropped: its descriptors may be somebody else's by then |
//! | the buffer of the function `encode` | locked only while the GIL is held, and forks that Python knows of hold the GIL |
//! | the cached types of `encode` | `PyOnceLock`: made under the GIL, never changed |
//! | the place of the last panic in `report` | never waited for (`try_lock`) |
//! | the counter of `fault` | an atomic, and in no release |
//! | tokio | built without its feature `signal`, by which all runtimes of a process duplicate one socket pair: the only descriptor of ours that would outlive a runtime. `make lint` keeps it so |
//! | async-nats, rustls, ring | keep their state in the connection; random numbers come from the kernel by system call |
//! | signal handlers | the plugin sets none; those of the command line are in a process of its own |
//!
//! A runtime's own descriptors (epoll, its waker, the socket) live as long as one session, in one thread. In a child
//! they are numbers that nobody uses.

use std::{
    collections::HashMap,
    mem,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;

use crate::{config::Connection, nats::Courier, report::Notice};

/// This process's id: asking the kernel for it costs as much as half a message.
static PID: AtomicU32 = AtomicU32::new(0);

/// The id of this process. A forked child has its own from [`forked`] on.
pub(super) fn id() -> u32 {
    match PID.load(Relaxed) {
        0 => forked(),
        pid => pid,
    }
}

/// To be called in a forked child, before anything else of ours.
pub(super) fn forked() -> u32 {
    let pid = std::process::id();
    // Its parent's other threads are not here.
    INSIDE.store(0, Relaxed);
    PID.store(pid, Relaxed);
    pid
}

/// Calls of ours that are under way, in all threads.
static INSIDE: AtomicUsize = AtomicUsize::new(0);

/// One call that may run Python code, or wait without Python's lock. When the interpreter ends, CPython (before 3.14) ends a
/// daemon thread that wants the lock by unwinding its stack, and unwinding through Rust aborts the process: so the end
/// waits for those that are inside.
#[derive(Debug)]
pub(super) struct Inside(());

impl Inside {
    pub(super) fn enter() -> Self {
        INSIDE.fetch_add(1, Relaxed);
        Self(())
    }

    /// Waits until nobody is inside any more, for a while. To be called without Python's lock.
    pub(super) fn wait_for_all() {
        const LIMIT: Duration = Duration::from_secs(5);
        let began = Instant::now();
        while INSIDE.load(Relaxed) > 0 && began.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // A forked child that was inside itself has begun to count anew.
        let _ = INSIDE.fetch_update(Relaxed, Relaxed, |inside| inside.checked_sub(1));
    }
}

static PROCESS: LazyLock<ArcSwap<Process>> = LazyLock::new(|| ArcSwap::from(Process::new()));

/// The couriers that were made in one process.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    couriers: Mutex<HashMap<Connection, Arc<Courier>>>,
}

impl Process {
    fn new() -> Arc<Self> {
        Arc::new(Self { pid: id(), couriers: Mutex::new(HashMap::new()) })
    }

    /// This process; after a fork, a new one.
    pub(super) fn current() -> Arc<Self> {
        let known = PROCESS.load_full();
        if known.pid == id() {
            return known;
        }
        // The parent's: forgotten, not dropped.
        mem::forget(known);
        let fresh = Self::new();
        mem::forget(PROCESS.swap(Arc::clone(&fresh)));
        fresh
    }

    /// The process id that this state belongs to.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// The courier for this connection, shared by all runs that have the same options.
    pub(super) fn courier(&self, connection: &Connection) -> Arc<Courier> {
        let mut couriers = self.couriers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(courier) = couriers.get(connection) {
            return Arc::clone(courier);
        }
        spend_reserve();
        // One that nobody uses and that holds nothing has had its use.
        couriers.retain(|_, courier| Arc::strong_count(courier) > 1 || !courier.outbox.is_idle());
        let courier = Courier::new(connection.clone());
        couriers.insert(connection.clone(), Arc::clone(&courier));
        keep_reserve();
        courier
    }

    /// The interpreter ends: every run that did not end by itself is ended. They wait together: no run longer
    /// than its `flush_timeout`, counted from this call, so all of them no longer than the longest one.
    /// `interrupted` is asked now and then whether to stop waiting. Returns what is to be told.
    pub(crate) fn shut_down(&self, interrupted: &mut dyn FnMut() -> bool) -> Vec<Notice> {
        let began = Instant::now();
        let couriers: Vec<Arc<Courier>> = {
            let couriers = self.couriers.lock().unwrap_or_else(PoisonError::into_inner);
            couriers.values().cloned().collect()
        };
        let mut notices = Vec::new();
        for courier in &couriers {
            // What earlier runs have left is there still if it is not delivered: nothing is to be kept of it.
            for run in courier.outbox.runs().into_iter().filter(|run| !run.is_of_others()) {
                let (record, error) = courier.finish(&run, began, interrupted);
                let last = record.notice();
                notices.extend(error.map(|error| Notice::new(last.level, error.to_string())));
                notices.push(last);
            }
        }
        for courier in &couriers {
            courier.wait_for_recovery(began, interrupted);
            notices.extend(courier.notices.untold());
        }
        notices
    }
}

/// Memory that is kept for the making of a courier: where none is to be had any more, allocating it would end the job. Only
/// address space, as long as nobody writes to it.
static RESERVE: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Keeps it, if it is to be had: when the library is loaded, and again after it was needed.
pub(crate) fn keep_reserve() {
    const RESERVED: usize = 1 << 20;
    let mut reserve = RESERVE.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = reserve.try_reserve_exact(RESERVED);
}

fn spend_reserve() {
    let reserve = std::mem::take(&mut *RESERVE.lock().unwrap_or_else(PoisonError::into_inner));
    drop(reserve);
}
