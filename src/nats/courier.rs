//! The background thread: outbox → sessions, one after the other, until there is nothing left to do.

use std::{
    io::ErrorKind,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use async_nats::ServerInfo;
use tokio::runtime::{Builder, Runtime};

use super::{
    dial::Attempts,
    driver::{Around, Driver},
    healer::{Healer, Recipe},
    link::Link,
    pool::Pool,
    streams::Streams,
};
use crate::{
    config::{Auth, Connection, Server, secrets_of},
    delivery::{End, Machine, Terms, Why},
    error::Error,
    fault,
    journal::{Destination, Record},
    message::Message,
    outbox::{Outbox, Run},
    recovery::Recovery,
    report::{self, Level, Notices},
};

/// What all runs with the same connection options share.
#[derive(Debug)]
pub(crate) struct Courier {
    pub(super) connection: Connection,
    /// The messages to deliver.
    pub outbox: Outbox,
    /// What earlier runs have left in files.
    pub(super) recovery: Recovery,
    /// What is known of runs that were killed.
    pub(super) healer: Healer,
    /// What the background has to say.
    pub notices: Notices,
    contact: Mutex<Contact>,
    /// What an earlier thread of ours has come to know, while there is none.
    machine: Mutex<Option<Machine>>,
}

/// Whether there is a server, and what became of the attempts to reach one.
#[derive(Debug, Default)]
struct Contact {
    connected: bool,
    /// Name and address of the last server.
    server: Option<String>,
    /// Attempts that failed, and why the last one did.
    failures: usize,
    reason: String,
}

/// What the thread does after a session.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Another session.
    Again,
    /// Nothing left to do.
    Rest,
    /// There is something to do, but no server left to try.
    GiveUp,
}

/// What one session leaves to the next.
struct State {
    pool: Pool,
    /// What delivers: it outlives the connections.
    machine: Machine,
    /// What is known of the streams that acknowledge.
    streams: Streams,
    /// There was a session before.
    connected_before: bool,
    /// What the session was at when it panicked the last time.
    panicked_at: Option<u64>,
}

impl Courier {
    /// A courier without a thread: the first message starts it.
    pub(crate) fn new(connection: Connection) -> Arc<Self> {
        let outbox = Outbox::new(connection.pending_size);
        let recovery = Recovery::new(destination_of(&connection));
        let notices = Notices::new(connection.masks());
        Arc::new(Self {
            connection,
            outbox,
            recovery,
            healer: Healer::default(),
            notices,
            contact: Mutex::new(Contact::default()),
            machine: Mutex::default(),
        })
    }

    /// A run begins. With a recipe what others like it have left is taken up, too.
    pub(crate) fn open(self: &Arc<Self>, run: &Arc<Run>, recipe: Option<Recipe>) {
        self.outbox.open(run);
        if let Some(recipe) = recipe {
            let is_due = self.recovery.learn(run);
            self.healer.learn(recipe, is_due);
            if self.is_connected() {
                Healer::start(self);
            }
        }
        if let Some(server) = &self.contact().server {
            run.meets(server);
        }
    }

    /// Takes a message on: see [`Outbox::push`].
    pub(crate) fn accept(
        self: &Arc<Self>,
        run: &Arc<Run>,
        message: Message,
        essential: bool,
    ) -> Result<(), Error> {
        let pushed = self.outbox.push(run, message, essential);
        self.ensure_started();
        pushed
    }

    /// Makes sure that somebody delivers.
    pub(crate) fn ensure_started(self: &Arc<Self>) {
        if !self.outbox.begin_service() {
            return;
        }
        let courier = Arc::clone(self);
        let enough = if self.outbox.has_memory() { Ok(()) } else { Err(ErrorKind::OutOfMemory.into()) };
        let started = enough.and_then(|()| fault::error_at("courier.thread")).and_then(|()| {
            thread::Builder::new().name("runner-nats".to_owned()).spawn(move || courier.run())
        });
        if let Err(error) = started {
            self.outbox.fail_service();
            self.failed_to_start(error);
        }
    }

    /// Waits until the first message of a run is confirmed. If it is not (no server can be reached, a permission, no
    /// stream, no room in it), the run is withdrawn, and an error says why. `interrupted` is asked now and then whether
    /// to stop waiting.
    pub(crate) fn require(
        self: &Arc<Self>,
        run: &Run,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<(), String> {
        const LOOK_UP: Duration = Duration::from_millis(50);
        let servers = self.connection.servers.len();
        let each = self.connection.connect_timeout + self.connection.reconnect_time_wait * 2;
        let connecting = each.saturating_mul(u32::try_from(servers).unwrap_or(u32::MAX));
        let deadline = Instant::now() + connecting + run.flush_timeout;
        let enough = self.contact().failures + servers;
        let (_, seen) = self.notices.start();
        loop {
            self.ensure_started();
            let confirmed = run.is_confirmed();
            if confirmed == Some(true) {
                return Ok(());
            }
            let unreachable = {
                let contact = self.contact();
                let given_up = contact.failures >= enough || self.outbox.is_given_up();
                (!contact.connected && given_up).then(|| contact.reason.clone())
            };
            // No lock is held here: a signal handler may end another run of this connection.
            if confirmed.is_none() && unreachable.is_none() && Instant::now() < deadline && !interrupted() {
                let _ = self.outbox.wait_settled(run, Instant::now() + LOOK_UP);
                continue;
            }
            self.outbox.withdraw(run);
            let reason = unreachable.unwrap_or_else(|| self.why_not(run, seen));
            // It is an exception's text.
            self.notices.were_told(self.notices.start().1);
            return Err(reason);
        }
    }

    /// Why a message was not confirmed, as far as the background said so after notice number `seen`.
    fn why_not(&self, run: &Run, seen: u64) -> String {
        let mut said = self.notices.since(seen).0.into_iter().filter(|notice| notice.level >= Level::Warning);
        let problem = || self.notices.start().0;
        said.next_back().or_else(problem).map_or_else(
            || format!("the first message was not confirmed within {:?} (flush_timeout)", run.flush_timeout),
            |notice| notice.text,
        )
    }

    /// The end of a run: waits until all is confirmed, at most `flush_timeout` from `began` on; the rest goes to
    /// disk. `interrupted` is asked now and then whether to stop waiting.
    pub(crate) fn finish(
        self: &Arc<Self>,
        run: &Run,
        began: Instant,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> (Record, Option<Error>) {
        const LOOK_UP: Duration = Duration::from_millis(100);
        let deadline = began + run.flush_timeout;
        let patience = began + UNHEARD;
        loop {
            // A thread that could not be started may be possible now.
            self.ensure_started();
            let until = deadline.min(Instant::now() + LOOK_UP);
            if self.outbox.wait_settled(run, until) || Instant::now() >= deadline || interrupted() {
                break;
            }
            if self.outbox.is_given_up() || (run.is_unheard() && Instant::now() >= patience) {
                break;
            }
        }
        let waited = began.elapsed();
        let mut leftovers = self.outbox.settle(run);
        self.outbox.close(run);
        let error = leftovers.error.take().or_else(|| run.complaint());
        let problem =
            error.as_ref().map(ToString::to_string).or_else(|| self.notices.start().0.map(|it| it.text));
        let record = run.ended(&leftovers, problem, waited);
        run.end_record(&record);
        (record, error)
    }

    /// Is there a connection?
    pub(super) fn is_connected(&self) -> bool {
        self.contact().connected
    }

    /// The process ends: what earlier runs have left is completed as far as the time goes that the end of a run may take.
    pub(crate) fn wait_for_recovery(&self, began: Instant, interrupted: &mut dyn FnMut() -> bool) {
        const LOOK_UP: Duration = Duration::from_millis(5);
        let deadline = began + self.healer.limit();
        while (self.healer.is_at_work() || self.recovery.is_at_work())
            && self.is_connected()
            && Instant::now() < deadline
            && !interrupted()
        {
            thread::sleep(LOOK_UP);
        }
    }

    fn run(self: &Arc<Self>) {
        let mut opened = self.outbox.opened();
        let mut state = self.fresh_state();
        loop {
            // A bug must cost a session, not the messages of all runs.
            let next = catch_unwind(AssertUnwindSafe(|| self.one_session(&mut state)));
            self.contact().connected = false;
            match next.unwrap_or_else(|_| self.after_panic(&mut state)) {
                Next::Again => {}
                // Should the next thread have begun already, it begins without that.
                Next::Rest => return self.keep(state.machine),
                Next::GiveUp if self.outbox.give_up(opened) => return self.keep(state.machine),
                Next::GiveUp => {
                    opened = self.outbox.opened();
                    self.keep(state.machine);
                    state = self.fresh_state();
                }
            }
        }
    }

    fn fresh_state(&self) -> State {
        State {
            pool: Pool::new(&self.connection),
            machine: self.kept().take().unwrap_or_else(|| Machine::new(Terms::of(&self.connection))),
            streams: Streams::default(),
            connected_before: false,
            panicked_at: None,
        }
    }

    fn after_panic(&self, state: &mut State) -> Next {
        let at = state.machine.after_panic();
        if let Some(seq) = at.filter(|_| at == state.panicked_at) {
            // Twice at the same message: it must not hold up all others.
            self.notices.warn("poison", "a message that we cannot handle is kept on disk".to_owned());
            if let Err(error) = self.outbox.reject(seq, "a message that we cannot handle") {
                self.notices.warn(&error.cause(), error.to_string());
            }
        }
        state.panicked_at = at;
        let text = "internal error in the background thread; starting it anew";
        self.notices.problem(text, format!("{text}: {}", report::last_panic()));
        self.failed(text.to_owned());
        thread::sleep(Duration::from_secs(1));
        Next::Again
    }

    fn one_session(self: &Arc<Self>, state: &mut State) -> Next {
        if !self.outbox.has_memory() {
            // The libraries would abort the job; and there is none to say so with.
            thread::sleep(Duration::from_secs(1));
            return if self.outbox.end_service() { Next::Rest } else { Next::Again };
        }
        let runtime = match fault::error_at("courier.runtime").and_then(|()| runtime()) {
            Ok(runtime) => runtime,
            Err(error) => {
                self.failed_to_start(error);
                thread::sleep(Duration::from_secs(1));
                return if self.outbox.end_service() { Next::Rest } else { Next::Again };
            }
        };
        let next = runtime.block_on(self.deliver(state));
        // async-nats' task and whatever it still holds end here, without waiting for a name look-up.
        runtime.shutdown_background();
        next
    }

    async fn deliver(self: &Arc<Self>, state: &mut State) -> Next {
        fault::panic_at("courier.run");
        let mut found = None;
        loop {
            self.recovery.put_back(&self.outbox);
            self.begin_records();
            let (server, link) = match found.take() {
                Some(found) => found,
                None => match self.dial(state).await {
                    Ok(dialled) => dialled,
                    Err(next) => return next,
                },
            };
            let next;
            (next, found) = self.session(state, &server, link).await;
            if next != Next::Again || found.is_none() {
                return next;
            }
        }
    }

    /// Connects to the first server that answers; otherwise says what comes next.
    async fn dial(&self, state: &mut State) -> Result<(Server, Link), Next> {
        const LOOK_UP: Duration = Duration::from_millis(100);
        let mut attempts = Attempts::new(&self.connection);
        loop {
            if self.outbox.end_service() {
                return Err(Next::Rest);
            }
            self.begin_records();
            let next = attempts.next(&state.pool, None, |server| self.begins(server));
            let Ok(tried) = tokio::time::timeout(LOOK_UP, next).await else { continue };
            match tried {
                Some((server, Ok(link))) => return Ok((server, link)),
                Some((server, Err(error))) => {
                    let next = self.not_connected(state, &server, &error);
                    if next != Next::Again && !attempts.are_under_way() {
                        return Err(next);
                    }
                }
                None => {
                    let text = "no server left to try (max_reconnect_attempts); messages are kept on disk";
                    self.notices.problem(text, text.to_owned());
                    return Err(Next::GiveUp);
                }
            }
        }
    }

    /// A server is tried.
    fn begins(&self, server: &Server) {
        self.step(|| format!("connecting to {}", server.address));
        let auth = self.connection.auth.as_ref().or(server.auth.as_ref());
        if let Some(auth) = auth.filter(|auth| auth.is_file()) {
            // It may have been renewed, and the server may repeat it.
            self.notices.learn(secrets_of(auth));
        }
    }

    /// Delivers through a connection, until that ends. Says what comes next, and which connection is there for it already.
    async fn session(
        self: &Arc<Self>,
        state: &mut State,
        server: &Server,
        link: Link,
    ) -> (Next, Option<(Server, Link)>) {
        let info = link.client.server_info();
        state.pool.learn(server, &info.connect_urls, info.tls_required);
        let has_others = state.pool.has_others();
        let around = Around {
            outbox: &self.outbox,
            recovery: &self.recovery,
            notices: &self.notices,
            api: self.connection.jetstream_api.as_str(),
        };
        let (machine, streams) = (&mut state.machine, &mut state.streams);
        let mut driver = match Driver::begin(link, has_others, machine, streams, around).await {
            Ok(driver) => driver,
            Err(End { why, .. }) => {
                let address = server.address.clone();
                let error = match why {
                    Why::NoHello => {
                        Error::ConnectTimeout { server: address, timeout: self.connection.connect_timeout }
                    }
                    Why::Lost(reason) | Why::Elsewhere(reason) => Error::Connect { server: address, reason },
                    // Not before it is connected.
                    Why::Idle | Why::LameDuck | Why::Oversize { .. } => {
                        Error::Connect { server: address, reason: "the connection broke".to_owned() }
                    }
                };
                return (self.not_connected(state, server, &error), None);
            }
        };
        state.connected_before = true;
        self.connected(server, &info);
        Healer::start(self);
        let (end, found) = driver.serve(&self.connection, &mut state.pool, server).await;
        (self.after(state, server, end), found)
    }

    fn begin_records(&self) {
        for error in self.outbox.begin_records() {
            self.notices.warn(&error.cause(), error.to_string());
        }
    }

    fn not_connected(&self, state: &mut State, server: &Server, error: &Error) -> Next {
        state.pool.failed(server, Instant::now());
        let text = format!("cannot connect to {error}");
        self.failed(text.clone());
        self.notices.problem(&error.cause(), text);
        if self.outbox.end_service() {
            return Next::Rest;
        }
        // Every server gets its first chance; then "no reconnect" is meant.
        let untried = state.pool.next().is_some_and(|(_, not_before)| not_before.is_none());
        if !self.connection.allow_reconnect && (state.connected_before || !untried) {
            return Next::GiveUp;
        }
        Next::Again
    }

    fn connected(&self, server: &Server, info: &ServerInfo) {
        let name = self.notices.hide(format!("{} at {}", info.server_name, server.address));
        if self.notices.mended() {
            self.notices.say(Level::Info, format!("connected to {name}"));
        } else {
            self.step(|| format!("connected to {name}, version {}", info.version));
        }
        self.outbox.runs().iter().for_each(|run| run.meets(&name));
        let mut contact = self.contact();
        contact.connected = true;
        contact.server = Some(name);
        drop(contact);
    }

    fn after(&self, state: &mut State, server: &Server, End { why, is_useless }: End) -> Next {
        if is_useless {
            state.pool.failed(server, Instant::now());
        } else {
            state.pool.lost(server);
        }
        let broke = matches!(why, Why::Lost(_) | Why::Oversize { .. });
        let address = &server.address;
        match why {
            Why::Idle => self.step(|| format!("disconnected from {address}: nothing left to do")),
            Why::Elsewhere(reason) => self.step(|| format!("leaving {address}: {reason}")),
            Why::LameDuck => self.step(|| format!("{address} is shutting down, leaving it")),
            Why::Oversize { size, limit } => self.notices.warn("payload", format!(
                "{address} does not take a message of {size} bytes, whatever its max_payload is (it may be a limit \
                 of the account's): messages are cut to {limit} bytes from now on",
            )),
            Why::Lost(reason) => {
                let text = format!("connection to {address} lost: {reason}");
                self.notices.problem(&format!("lost {address}"), text);
            }
            // Said when it was not connected.
            Why::NoHello => {}
        }
        if self.outbox.end_service() {
            Next::Rest
        } else if self.connection.allow_reconnect || !broke {
            Next::Again
        } else {
            Next::GiveUp
        }
    }

    fn failed_to_start(&self, error: std::io::Error) {
        let error = Error::Thread(error);
        self.failed(error.to_string());
        self.notices.problem(&error.cause(), error.to_string());
    }

    fn failed(&self, reason: String) {
        let mut contact = self.contact();
        contact.failures += 1;
        contact.reason = self.notices.hide(reason);
        drop(contact);
    }

    /// What it has come to know is for the next thread.
    fn keep(&self, machine: Machine) {
        *self.kept() = Some(machine);
    }

    fn kept(&self) -> MutexGuard<'_, Option<Machine>> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn contact(&self) -> MutexGuard<'_, Contact> {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A step of the connection: for those who asked for it.
    fn step(&self, text: impl FnOnce() -> String) {
        if self.connection.verbose {
            self.notices.say(Level::Info, text());
        }
    }
}

/// The end of a run waits no longer than this for somebody to hear what nobody hears.
const UNHEARD: Duration = Duration::from_secs(1);

/// Where messages of this connection go: what a spool's files are sent by.
pub(crate) fn destination_of(connection: &Connection) -> Destination {
    let login = |auth: &Auth| auth.to_string();
    Destination {
        servers: connection.servers.iter().map(|server| server.address.clone()).collect(),
        login: connection
            .auth
            .as_ref()
            .or_else(|| connection.servers.iter().find_map(|server| server.auth.as_ref()))
            .map(login),
    }
}

/// One thread, which is ours; a name look-up may take a second one for as long as it lasts.
fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .thread_keep_alive(Duration::from_millis(10))
        .build()
}
