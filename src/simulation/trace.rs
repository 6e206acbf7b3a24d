//! What happened: a hash of everything, and the last events for people.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use super::conns::{ConnId, Way};
use crate::net::Time;

/// How many of the last events a failure shows, unless `EVENTS` says otherwise.
const SHOWN: usize = 60;

/// An event, as small as can be: it is only put into words when something goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TraceEvent {
    Connects {
        conn: ConnId,
        from: u16,
        to: Option<u16>,
        port: u16,
    },
    Accepted(ConnId),
    Connected(ConnId),
    Refused(ConnId),
    Unreachable(ConnId),
    Written {
        conn: ConnId,
        way: Way,
        len: usize,
    },
    Arrives {
        conn: ConnId,
        way: Way,
        len: usize,
        sum: u32,
    },
    Ends {
        conn: ConnId,
        way: Way,
    },
    Resets {
        conn: ConnId,
        way: Way,
    },
    Closes {
        conn: ConnId,
        way: Way,
    },
    Aborts {
        conn: ConnId,
        way: Way,
    },
    Lost {
        conn: ConnId,
        way: Way,
    },
    Turn(u16),
    Action(u32),
    Ticks(u16),
    Resolves {
        delay: Duration,
    },
    /// Something done to a program from outside.
    Acts(u16),
    /// Something done to the network from outside.
    Does(String),
}

#[derive(Debug)]
pub(super) struct Trace {
    kept: usize,
    hash: u64,
    events: u64,
    last: VecDeque<(Time, TraceEvent)>,
}

impl Trace {
    pub(super) fn new(seed: u64) -> Trace {
        let kept = std::env::var("EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(SHOWN);
        Trace { kept, hash: seed ^ 0xcbf2_9ce4_8422_2325, events: 0, last: VecDeque::with_capacity(SHOWN) }
    }

    fn mix(&mut self, n: u64) {
        self.hash = (self.hash ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    pub(super) fn note(&mut self, now: Time, what: TraceEvent) {
        self.events += 1;
        self.mix(now.as_nanos());
        let (kind, a, b) = numbers(&what);
        self.mix(kind << 56 ^ a);
        self.mix(b);
        if self.last.len() >= self.kept {
            self.last.pop_front();
        }
        self.last.push_back((now, what));
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash ^ self.events
    }

    /// The last events, a line each.
    pub(super) fn tell(&self, out: &mut String, name: &dyn Fn(u16) -> String, task: &dyn Fn(u16) -> String) {
        use fmt::Write;
        for (time, what) in &self.last {
            let _ = writeln!(out, "  {:>14.6} s  {}", time.as_nanos() as f64 / 1e9, Line { what, name, task });
        }
    }
}

fn numbers(what: &TraceEvent) -> (u64, u64, u64) {
    let on = |conn: ConnId, way: Way| conn.number() << 1 ^ way as u64;
    match *what {
        TraceEvent::Connects { conn, from, to, port } => {
            (1, conn.number(), u64::from(from) | u64::from(to.unwrap_or(u16::MAX)) << 16 | u64::from(port) << 32)
        }
        TraceEvent::Accepted(conn) => (2, conn.number(), 0),
        TraceEvent::Connected(conn) => (3, conn.number(), 0),
        TraceEvent::Refused(conn) => (4, conn.number(), 0),
        TraceEvent::Unreachable(conn) => (5, conn.number(), 0),
        TraceEvent::Written { conn, way, len } => (6, on(conn, way), len as u64),
        TraceEvent::Arrives { conn, way, len, sum } => (7, on(conn, way), (len as u64) << 32 ^ u64::from(sum)),
        TraceEvent::Ends { conn, way } => (8, on(conn, way), 0),
        TraceEvent::Resets { conn, way } => (9, on(conn, way), 0),
        TraceEvent::Closes { conn, way } => (10, on(conn, way), 0),
        TraceEvent::Aborts { conn, way } => (11, on(conn, way), 0),
        TraceEvent::Lost { conn, way } => (12, on(conn, way), 0),
        TraceEvent::Turn(task) => (13, task.into(), 0),
        TraceEvent::Action(number) => (14, number.into(), 0),
        TraceEvent::Ticks(program) => (15, program.into(), 0),
        TraceEvent::Resolves { delay } => (16, delay.as_nanos() as u64, 0),
        TraceEvent::Acts(program) => (18, program.into(), 0),
        TraceEvent::Does(ref text) => (17, crc32fast::hash(text.as_bytes()).into(), text.len() as u64),
    }
}

struct Line<'a> {
    what: &'a TraceEvent,
    name: &'a dyn Fn(u16) -> String,
    task: &'a dyn Fn(u16) -> String,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = |way: Way| if way == Way::Up { "to the server" } else { "to the client" };
        match self.what {
            TraceEvent::Connects { conn, from, to, port } => {
                let to = to.map_or_else(|| "nowhere".into(), self.name);
                write!(f, "#{conn} {} connects to {to}:{port}", (self.name)(*from))
            }
            TraceEvent::Accepted(conn) => write!(f, "#{conn} is accepted"),
            TraceEvent::Connected(conn) => write!(f, "#{conn} is connected"),
            TraceEvent::Refused(conn) => write!(f, "#{conn} is refused"),
            TraceEvent::Unreachable(conn) => write!(f, "#{conn} gets no answer to its handshake"),
            TraceEvent::Written { conn, way, len } => write!(f, "#{conn} {len} bytes are written {}", to(*way)),
            TraceEvent::Arrives { conn, way, len, .. } => write!(f, "#{conn} {len} bytes arrive {}", to(*way)),
            TraceEvent::Ends { conn, way } => write!(f, "#{conn} FIN arrives {}", to(*way)),
            TraceEvent::Resets { conn, way } => write!(f, "#{conn} RST arrives {}", to(*way)),
            TraceEvent::Closes { conn, way } => write!(f, "#{conn} is closed, FIN {}", to(*way)),
            TraceEvent::Aborts { conn, way } => write!(f, "#{conn} is aborted, RST {}", to(*way)),
            TraceEvent::Lost { conn, way } => write!(f, "#{conn} packets {} are lost", to(*way)),
            TraceEvent::Turn(task) => write!(f, "{} runs", (self.task)(*task)),
            TraceEvent::Action(number) => write!(f, "scheduled action {number}"),
            TraceEvent::Ticks(program) => write!(f, "program {program} wakes"),
            TraceEvent::Resolves { delay } => write!(f, "a name is looked up, which takes {delay:?}"),
            TraceEvent::Acts(program) => write!(f, "program {program} is told something"),
            TraceEvent::Does(text) => f.write_str(text),
        }
    }
}
