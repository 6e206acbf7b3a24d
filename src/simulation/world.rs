//! The world: one queue of events, one clock, and whoever blocks runs it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::conns::{ConnId, Conns, HostId, Links, Way};
use super::hosts::{Call, Dns, Host, Program};
use super::random::Random;
use super::task::{self, Tasks, Threads, Turn, WaitFor};
use super::trace::{Trace, TraceEvent};
use crate::net::Time;

/// More calls than this at one moment are a loop that never pauses.
const MAX_WAITS: u32 = 1_000_000;
const MAX_CALLS: u32 = 50_000_000;

const STUCK: &str = "nobody can go on: all tasks wait, and nothing is scheduled";
const TOO_LONG: &str = "the world runs for longer than its time limit";

/// What happens at its time.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    Handshake(ConnId),
    Syn(ConnId),
    SynAck(ConnId),
    Refused(ConnId),
    Packet { conn: ConnId, way: Way, epoch: u32 },
    Reset { conn: ConnId, way: Way },
    Pump { conn: ConnId, way: Way },
    GiveUp { conn: ConnId, epoch: u32 },
    Action(u32),
}

#[derive(Debug)]
struct Scheduled {
    time: Time,
    serial: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> std::cmp::Ordering {
        (self.time, self.serial).cmp(&(other.time, other.serial))
    }
}

/// Something scheduled from outside.
pub(super) enum Action {
    Once(Box<dyn FnOnce() + Send>),
    Every(Duration, Box<dyn FnMut() + Send>),
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Action")
    }
}

/// Everything there is.
#[derive(Debug)]
pub(super) struct State {
    pub(super) now: Time,
    queue: BinaryHeap<Reverse<Scheduled>>,
    serial: u64,
    actions: Vec<Option<Action>>,
    /// Whether an action runs, which must not block.
    acting: bool,
    pub(super) tasks: Tasks,
    threads: Threads,
    pub(super) hosts: Vec<Host>,
    pub(super) links: Links,
    pub(super) conns: Conns,
    pub(super) programs: Vec<Box<dyn Program>>,
    pub(super) calls: BTreeMap<(usize, Call), ConnId>,
    pub(super) names: Dns,
    pub(super) scratch: Vec<u8>,
    pub(super) random: Random,
    pub(super) jitter: Random,
    pub(super) choices: Random,
    pub(super) trace: Trace,
    /// Why the world has ended, if it has.
    failure: Option<String>,
    waits: u32,
    pub(super) calls_now: u32,
    limit: Time,
    pub(super) wall_offset_ms: i64,
    pub(super) counts: Counts,
    /// Connections begun to addresses at which there is no host.
    pub(super) to_nobody: u64,
    /// Bytes that all clients have received, and by how many more than twice as many one has once offered room.
    pub(super) received: usize,
    pub(super) excess: usize,
}

/// What was counted since the world began.
///
/// ```
/// use tank_client::simulation::{Counts, Simulation};
///
/// let sim = Simulation::new(1);
/// let broker = sim.broker();
/// let client = sim.client().connect(broker.brokers())?;
/// client.topics()?;
/// let counts: Counts = sim.counts();
/// assert_eq!((counts.connections, counts.stale), (1, 0));
/// assert!(counts.events > counts.waits);
/// # Ok::<(), tank_client::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Events: packets, turns, calls of programs, actions.
    pub events: u64,
    /// Connections that clients began to open.
    pub connections: u64,
    /// Requests begun on idle connections that had already ended.
    pub stale: u64,
    /// Times that a client blocked, or checked whether it must.
    pub waits: u64,
}

enum Step {
    Ran,
    Act(u32, Action),
    /// Nothing is to come, or only what lies beyond the limit of time.
    Idle(bool),
}

impl State {
    pub(super) fn note(&mut self, what: TraceEvent) {
        self.counts.events += 1;
        self.trace.note(self.now, what);
    }

    pub(super) fn schedule(&mut self, time: Time, event: Event) {
        self.serial += 1;
        self.queue.push(Reverse(Scheduled { time, serial: self.serial, event }));
    }

    pub(super) fn schedule_action(&mut self, delay: Duration, action: Action) {
        self.actions.push(Some(action));
        let at = self.now.after(delay);
        self.schedule(at, Event::Action(self.actions.len() as u32 - 1));
    }

    fn advance(&mut self, to: Time, clock: &AtomicU64) {
        if to > self.now {
            self.now = to;
            clock.store(to.as_nanos(), Ordering::Relaxed);
            (self.waits, self.calls_now) = (0, 0);
        }
    }

    /// Runs the next thing that is due.
    fn step(&mut self, clock: &AtomicU64) -> Step {
        let event = self.queue.peek().map_or(Time::NEVER, |Reverse(entry)| entry.time);
        let (wake, task) = self.tasks.due();
        let mut program = (Time::NEVER, 0);
        for (index, one) in self.programs.iter().enumerate() {
            if one.due() < program.0 {
                program = (one.due(), index);
            }
        }
        let first = event.min(wake).min(program.0);
        if first == Time::NEVER || first > self.limit {
            return Step::Idle(first != Time::NEVER);
        }
        self.advance(first, clock);
        if event == first {
            if let Some(Reverse(entry)) = self.queue.pop() {
                return self.run(entry.event);
            }
        } else if program.0 == first {
            self.note(TraceEvent::Ticks(program.1 as u16));
            let now = self.now;
            self.programs[program.1].tick(now);
            self.carry(program.1);
        } else {
            self.tasks.wake(task, None);
        }
        Step::Ran
    }

    fn run(&mut self, event: Event) -> Step {
        match event {
            Event::Packet { conn, way, epoch } => self.packet(conn, way, epoch),
            Event::Syn(conn) => self.syn(conn),
            Event::SynAck(conn) => self.answered(conn, false),
            Event::Refused(conn) => self.answered(conn, true),
            Event::Handshake(conn) => self.handshake(conn),
            Event::Reset { conn, way } => self.was_reset(conn, way),
            Event::Pump { conn, way } => self.pump(conn, way),
            Event::GiveUp { conn, epoch } => self.give_up(conn, epoch),
            Event::Action(index) => {
                if let Some(action) = self.actions.get_mut(index as usize).and_then(Option::take) {
                    self.note(TraceEvent::Action(index));
                    return Step::Act(index, action);
                }
            }
        }
        Step::Ran
    }

    /// What to say when something goes wrong.
    pub(super) fn report(&self, seed: u64, why: &str) -> String {
        let mut text = format!("{why}\nsimulation of seed {seed}, at {:.6} s", self.now.as_nanos() as f64 / 1e9);
        text.push_str("\ntasks:\n");
        self.tasks.tell(&mut text, self.now);
        text.push_str("last events:\n");
        let host = |host: u16| self.hosts.get(usize::from(host)).map_or_else(String::new, |host| host.name.clone());
        let task = |task: u16| self.tasks.iter().nth(task.into()).map_or_else(String::new, |task| task.name.clone());
        self.trace.tell(&mut text, &host, &task);
        text
    }
}

/// A world, shared by everything in it.
pub(super) struct World {
    pub(super) seed: u64,
    state: Mutex<State>,
    /// The state's clock, to be read without its lock.
    clock: AtomicU64,
    wakers: AtomicU64,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("seed", &self.seed).field("now", &self.now()).finish_non_exhaustive()
    }
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        let mut tasks = Tasks::default();
        tasks.add("main", Some(thread::current().id()));
        let state = State {
            now: Time::ZERO,
            queue: BinaryHeap::new(),
            serial: 0,
            actions: Vec::new(),
            acting: false,
            tasks,
            threads: Vec::new(),
            hosts: Vec::new(),
            links: Links::default(),
            conns: Conns::default(),
            programs: Vec::new(),
            calls: BTreeMap::new(),
            names: Dns::default(),
            scratch: vec![0; 64 << 10],
            random: Random::new(seed, 1),
            jitter: Random::new(seed, 2),
            choices: Random::new(seed, 3),
            trace: Trace::new(seed),
            failure: None,
            waits: 0,
            calls_now: 0,
            limit: Time::ZERO.after(Duration::from_secs(1000 * 86_400)),
            wall_offset_ms: 0,
            counts: Counts::default(),
            to_nobody: 0,
            received: 0,
            excess: 0,
        };
        World { seed, state: Mutex::new(state), clock: AtomicU64::new(0), wakers: AtomicU64::new(0) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Time {
        Time::from_nanos(self.clock.load(Ordering::Relaxed))
    }

    pub(super) fn new_waker(&self) -> u64 {
        self.wakers.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn keep(&self, thread: thread::JoinHandle<()>) {
        self.lock().threads.push(thread);
    }

    /// Ends the world with a panic of this task, and of the main one.
    pub(super) fn fail(&self, mut state: MutexGuard<'_, State>, why: &str) -> ! {
        let text = state.report(self.seed, why);
        state.failure.get_or_insert(text);
        let task = state.tasks.current;
        self.leave(state, task)
    }

    /// Leaves a world that has ended.
    fn leave(&self, state: MutexGuard<'_, State>, task: u16) -> ! {
        let why = state.failure.clone().unwrap_or_default();
        state.tasks.iter().for_each(|task| task.turn.give());
        drop(state);
        if task == 0 { panic!("{why}") } else { task::end() }
    }

    /// The task that calls.
    #[track_caller]
    pub(super) fn me(&self, state: &State) -> u16 {
        let task = state.tasks.current;
        let caller = Location::caller();
        let known = state.tasks.iter().nth(task.into()).and_then(|task| task.thread);
        if known != Some(thread::current().id()) {
            panic!("called from a thread that is no task of the simulation: use Simulation::spawn ({caller})");
        }
        task
    }

    /// Begins a wait that `arm` may find to be over already.
    pub(super) fn wait(&self, what: WaitFor, until: Time, arm: impl FnOnce(&mut State, u16, u64) -> bool) {
        let mut state = self.lock();
        if state.failure.is_some() {
            // A world that has ended; a drop that runs meanwhile gets no second panic.
            if thread::panicking() {
                return;
            }
            let task = state.tasks.iter().position(|task| task.thread == Some(thread::current().id()));
            self.leave(state, task.unwrap_or(0) as u16);
        }
        if state.acting {
            drop(state);
            panic!("a scheduled action must not block: use Simulation::spawn");
        }
        let me = self.me(&state);
        state.counts.waits += 1;
        state.waits += 1;
        if state.waits > MAX_WAITS || state.calls_now > MAX_CALLS {
            self.fail(state, "no progress: a loop that never waits for a later moment");
        }
        let since = state.now;
        let wait = state.tasks.begin(me, what, since, until);
        if arm(&mut state, me, wait) || until <= since {
            // It need not wait; but neither need the others.
            if state.tasks.any_ready() && state.random.one_in(2) {
                state.tasks.wake(me, None);
            } else {
                return state.tasks.resume(me);
            }
        }
        self.block(state, me);
    }

    /// Runs the world until this task has the turn.
    fn block<'a>(&'a self, mut state: MutexGuard<'a, State>, me: u16) {
        loop {
            let State { tasks, random, .. } = &mut *state;
            if let Some(next) = tasks.next(random) {
                if next != me {
                    state.note(TraceEvent::Turn(next));
                    self.hand_over(state, me, next);
                }
                return;
            }
            match state.step(&self.clock) {
                Step::Ran => {}
                Step::Act(index, action) => state = self.act(state, index, action),
                Step::Idle(limit) => self.fail(state, if limit { TOO_LONG } else { STUCK }),
            }
        }
    }

    /// Gives the turn to another task and waits for it to come back.
    fn hand_over(&self, mut state: MutexGuard<'_, State>, me: u16, next: u16) {
        let (next, mine) = (state.tasks.get(next).turn.clone(), state.tasks.get(me).turn.clone());
        drop(state);
        next.give();
        self.have_turn(&mine, me);
    }

    fn have_turn(&self, mine: &Turn, me: u16) {
        mine.wait();
        let state = self.lock();
        if state.failure.is_some() {
            self.leave(state, me);
        }
    }

    /// Runs an action, without the lock: it uses the world.
    fn act<'a>(&'a self, mut state: MutexGuard<'a, State>, index: u32, action: Action) -> MutexGuard<'a, State> {
        state.acting = true;
        drop(state);
        let again = match action {
            Action::Once(act) => {
                act();
                None
            }
            Action::Every(period, mut act) => {
                act();
                Some((period, act))
            }
        };
        let mut state = self.lock();
        state.acting = false;
        if let Some((period, act)) = again {
            state.actions[index as usize] = Some(Action::Every(period, act));
            let at = state.now.after(period);
            state.schedule(at, Event::Action(index));
        }
        state
    }

    /// A task's thread waits for its first turn.
    pub(super) fn first_turn(&self, me: u16) {
        let mut state = self.lock();
        state.tasks.get(me).thread = Some(thread::current().id());
        let turn = state.tasks.get(me).turn.clone();
        drop(state);
        self.have_turn(&turn, me);
    }

    /// A task has returned: the turn goes to another one.
    pub(super) fn finish(&self, me: u16) {
        let mut state = self.lock();
        if state.failure.is_some() {
            return;
        }
        state.tasks.finish(me);
        loop {
            let State { tasks, random, .. } = &mut *state;
            if let Some(next) = tasks.next(random) {
                state.note(TraceEvent::Turn(next));
                return state.tasks.get(next).turn.give();
            }
            match state.step(&self.clock) {
                Step::Ran => {}
                Step::Act(index, action) => state = self.act(state, index, action),
                Step::Idle(limit) => self.fail(state, if limit { TOO_LONG } else { STUCK }),
            }
        }
    }

    /// A task has panicked, which ends the world.
    pub(super) fn panicked(&self, me: u16, text: &str) {
        let mut state = self.lock();
        let name = state.tasks.get(me).name.clone();
        let text = state.report(self.seed, &format!("task {name} panicked: {text}"));
        state.failure.get_or_insert(text);
        state.tasks.iter().for_each(|task| task.turn.give());
    }

    pub(super) fn join(&self, task: u16) {
        self.wait(WaitFor::Task(task), Time::NEVER, |state, _, _| state.tasks.is_done(task));
    }

    pub(super) fn sleep_until(&self, until: Time, what: WaitFor) {
        self.wait(what, until, |_, _, _| false);
    }

    /// Limits the time for which the world runs.
    pub(super) fn set_limit(&self, limit: Time) {
        self.lock().limit = limit;
    }

    /// Ends the world: all its tasks end where they are.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        if thread::panicking() && state.failure.is_none() {
            eprintln!("{}", state.report(self.seed, "the main task panicked"));
        }
        state.failure.get_or_insert_with(|| "the simulation has ended".to_owned());
        state.tasks.iter().for_each(|task| task.turn.give());
        let threads = std::mem::take(&mut state.threads);
        drop(state);
        for thread in threads {
            let _ = thread.join();
        }
        // Actions hold the world, which holds them. Brokers can still be asked what they have.
        let actions = std::mem::take(&mut self.lock().actions);
        drop(actions);
    }

    /// The host that clients are on, made when first asked for.
    pub(super) fn host(&self, name: &str) -> Option<HostId> {
        self.lock().hosts.iter().position(|host| host.name == name).map(|at| at as HostId)
    }
}
