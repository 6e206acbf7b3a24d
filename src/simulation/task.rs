//! Tasks: threads of which exactly one runs at any time.
//!
//! ```text
//!   Ready ── it is given the turn ──> Running ── returns ──> Done
//!     ^                                  │
//!     └── what it waits for ── Waiting <─┘ blocks
//! ```
//!
//! A task that blocks runs the world itself until some task can go on. If that is another one, it hands over the turn: it
//! gives it to the other one and waits for its own.

use std::panic::resume_unwind;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{JoinHandle, ThreadId};

use super::conns::ConnId;
use super::random::Random;
use crate::net::Time;

/// What a task waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitFor {
    /// One of its sockets, or the close handle with this number.
    Sockets {
        waker: Option<u64>,
    },
    Sleep,
    Resolver,
    Task(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Ready,
    Running,
    Waiting { what: WaitFor, since: Time, until: Time },
    Done,
}

#[derive(Debug)]
pub(super) struct TaskState {
    pub(super) name: String,
    stage: Stage,
    /// Counts its waits: what was to end an earlier one ends no later one.
    wait: u64,
    /// The sockets that it waits for, and what of them.
    pub(super) sockets: Vec<(ConnId, bool, bool)>,
    pub(super) turn: Arc<Turn>,
    pub(super) thread: Option<ThreadId>,
}

/// The turn of one task, given by another. It has a lock of its own: whoever is woken shall not wait for the world's at once.
#[derive(Debug, Default)]
pub(super) struct Turn {
    given: Mutex<bool>,
    changed: Condvar,
}

impl Turn {
    pub(super) fn give(&self) {
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }

    pub(super) fn wait(&self) {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        while !std::mem::take(&mut *given) {
            given = self.changed.wait(given).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Tasks {
    all: Vec<TaskState>,
    ready: Vec<u16>,
    pub(super) current: u16,
}

impl Tasks {
    pub(super) fn add(&mut self, name: &str, thread: Option<ThreadId>) -> u16 {
        let id = self.all.len() as u16;
        let stage = if thread.is_some() { Stage::Running } else { Stage::Ready };
        let turn = Arc::default();
        self.all.push(TaskState { name: name.to_owned(), stage, wait: 0, sockets: Vec::new(), turn, thread });
        if thread.is_none() {
            self.ready.push(id);
        }
        id
    }

    pub(super) fn get(&mut self, task: u16) -> &mut TaskState {
        &mut self.all[usize::from(task)]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &TaskState> {
        self.all.iter()
    }

    /// Begins a wait; its number.
    pub(super) fn begin(&mut self, task: u16, what: WaitFor, since: Time, until: Time) -> u64 {
        let task = self.get(task);
        task.stage = Stage::Waiting { what, since, until };
        task.wait += 1;
        task.sockets.clear();
        task.wait
    }

    pub(super) fn is_in(&self, task: u16, wait: u64) -> bool {
        let task = &self.all[usize::from(task)];
        task.wait == wait && matches!(task.stage, Stage::Waiting { .. })
    }

    /// Makes a task that waits ready, if it is still in this wait.
    pub(super) fn wake(&mut self, task: u16, wait: Option<u64>) {
        let entry = self.get(task);
        if matches!(entry.stage, Stage::Waiting { .. }) && wait.is_none_or(|wait| wait == entry.wait) {
            entry.stage = Stage::Ready;
            self.ready.push(task);
        }
    }

    /// Wakes all that wait for this.
    pub(super) fn wake_all(&mut self, wanted: WaitFor) {
        for task in 0..self.all.len() as u16 {
            if matches!(self.get(task).stage, Stage::Waiting { what, .. } if what == wanted) {
                self.wake(task, None);
            }
        }
    }

    /// The first moment at which a task has waited long enough, and which.
    pub(super) fn due(&self) -> (Time, u16) {
        let mut first = (Time::NEVER, 0);
        for (task, id) in self.all.iter().zip(0..) {
            if let Stage::Waiting { until, .. } = task.stage {
                if until < first.0 {
                    first = (until, id);
                }
            }
        }
        first
    }

    pub(super) fn any_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Has a task that began to wait go on at once.
    pub(super) fn resume(&mut self, task: u16) {
        self.get(task).stage = Stage::Running;
    }

    /// Gives the turn to a task that is ready: any of them, for a schedule is as good as another.
    pub(super) fn next(&mut self, random: &mut Random) -> Option<u16> {
        let at = match self.ready.len() {
            0 => return None,
            1 => 0,
            n => random.below(n as u64) as usize,
        };
        let task = self.ready.remove(at);
        self.get(task).stage = Stage::Running;
        self.current = task;
        Some(task)
    }

    pub(super) fn finish(&mut self, task: u16) {
        self.get(task).stage = Stage::Done;
        self.wake_all(WaitFor::Task(task));
    }

    pub(super) fn is_done(&self, task: u16) -> bool {
        self.all[usize::from(task)].stage == Stage::Done
    }

    /// Who waits for what, since when, a line each.
    pub(super) fn tell(&self, out: &mut String, now: Time) {
        use std::fmt::Write;
        let seconds = |time: Time| time.as_nanos() as f64 / 1e9;
        for task in &self.all {
            let _ = write!(out, "  {}: ", task.name);
            let _ = match task.stage {
                Stage::Ready => writeln!(out, "ready"),
                Stage::Running => writeln!(out, "running"),
                Stage::Done => writeln!(out, "done"),
                Stage::Waiting { what, since, until } => {
                    let _ = match what {
                        WaitFor::Sleep => write!(out, "sleeps"),
                        WaitFor::Resolver => write!(out, "waits for the resolver"),
                        WaitFor::Task(other) => write!(out, "waits for task {}", self.all[usize::from(other)].name),
                        WaitFor::Sockets { waker } => {
                            let _ = write!(out, "waits for");
                            for (conn, read, write) in &task.sockets {
                                let what = match (read, write) {
                                    (true, true) => "bytes or room",
                                    (true, false) => "bytes",
                                    _ => "room",
                                };
                                let _ = write!(out, " #{conn} ({what})");
                            }
                            let nothing = if task.sockets.is_empty() { " no connection" } else { "" };
                            write!(out, "{nothing}{}", if waker.is_some() { " or to be closed" } else { "" })
                        }
                    };
                    let _ =
                        write!(out, ", since {:.6} s ({:.6} s ago), ", seconds(since), seconds(now) - seconds(since));
                    match until {
                        Time::NEVER => writeln!(out, "for ever"),
                        until => writeln!(out, "until {:.6} s", seconds(until)),
                    }
                }
            };
        }
    }
}

/// What ends the threads of a world that has ended: no panic of theirs.
pub(super) struct Ended;

/// Ends the thread of a task whose world has ended, without a word.
pub(super) fn end() -> ! {
    resume_unwind(Box::new(Ended))
}

/// The threads of a world's tasks.
pub(super) type Threads = Vec<JoinHandle<()>>;
