//! What happened: a hash of everything, and the last events for people.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use super::conns::{ConnId, Way};
use crate::net::Time;

/// How many of the last events a failure shows, unless `EVENTS` says otherwise.
const KEPT: usize = 60;

/// An event, as small as can be: it is only put into words when something goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
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
    last: VecDeque<(Time, What)>,
}

impl Trace {
    pub(super) fn new(seed: u64) -> Trace {
        let kept = std::env::var("EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(KEPT);
        Trace { kept, hash: seed ^ 0xcbf2_9ce4_8422_2325, events: 0, last: VecDeque::with_capacity(KEPT) }
    }

    fn mix(&mut self, n: u64) {
        self.hash = (self.hash ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    pub(super) fn note(&mut self, now: Time, what: What) {
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

fn numbers(what: &What) -> (u64, u64, u64) {
    let on = |conn: ConnId, way: Way| conn.number() << 1 ^ way as u64;
    match *what {
        What::Connects { conn, from, to, port } => {
            (1, conn.number(), u64::from(from) | u64::from(to.unwrap_or(u16::MAX)) << 16 | u64::from(port) << 32)
        }
        What::Accepted(conn) => (2, conn.number(), 0),
        What::Connected(conn) => (3, conn.number(), 0),
        What::Refused(conn) => (4, conn.number(), 0),
        What::Unreachable(conn) => (5, conn.number(), 0),
        What::Written { conn, way, len } => (6, on(conn, way), len as u64),
        What::Arrives { conn, way, len, sum } => (7, on(conn, way), (len as u64) << 32 ^ u64::from(sum)),
        What::Ends { conn, way } => (8, on(conn, way), 0),
        What::Resets { conn, way } => (9, on(conn, way), 0),
        What::Closes { conn, way } => (10, on(conn, way), 0),
        What::Aborts { conn, way } => (11, on(conn, way), 0),
        What::Lost { conn, way } => (12, on(conn, way), 0),
        What::Turn(task) => (13, task.into(), 0),
        What::Action(number) => (14, number.into(), 0),
        What::Ticks(program) => (15, program.into(), 0),
        What::Resolves { delay } => (16, delay.as_nanos() as u64, 0),
        What::Acts(program) => (18, program.into(), 0),
        What::Does(ref text) => (17, crc32fast::hash(text.as_bytes()).into(), text.len() as u64),
    }
}

struct Line<'a> {
    what: &'a What,
    name: &'a dyn Fn(u16) -> String,
    task: &'a dyn Fn(u16) -> String,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = |way: Way| if way == Way::Up { "to the server" } else { "to the client" };
        match self.what {
            What::Connects { conn, from, to, port } => {
                let to = to.map_or_else(|| "nowhere".into(), self.name);
                write!(f, "#{conn} {} connects to {to}:{port}", (self.name)(*from))
            }
            What::Accepted(conn) => write!(f, "#{conn} is accepted"),
            What::Connected(conn) => write!(f, "#{conn} is connected"),
            What::Refused(conn) => write!(f, "#{conn} is refused"),
            What::Unreachable(conn) => write!(f, "#{conn} gets no answer to its handshake"),
            What::Written { conn, way, len } => write!(f, "#{conn} {len} bytes are written {}", to(*way)),
            What::Arrives { conn, way, len, .. } => write!(f, "#{conn} {len} bytes arrive {}", to(*way)),
            What::Ends { conn, way } => write!(f, "#{conn} FIN arrives {}", to(*way)),
            What::Resets { conn, way } => write!(f, "#{conn} RST arrives {}", to(*way)),
            What::Closes { conn, way } => write!(f, "#{conn} is closed, FIN {}", to(*way)),
            What::Aborts { conn, way } => write!(f, "#{conn} is aborted, RST {}", to(*way)),
            What::Lost { conn, way } => write!(f, "#{conn} packets {} are lost", to(*way)),
            What::Turn(task) => write!(f, "{} runs", (self.task)(*task)),
            What::Action(number) => write!(f, "scheduled action {number}"),
            What::Ticks(program) => write!(f, "program {program} wakes"),
            What::Resolves { delay } => write!(f, "a name is looked up, which takes {delay:?}"),
            What::Acts(program) => write!(f, "program {program} is told something"),
            What::Does(text) => f.write_str(text),
        }
    }
}
