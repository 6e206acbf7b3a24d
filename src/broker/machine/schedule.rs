//! What is to happen later: events in the order of their time, and at the same time in the order they were made.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Conn;
use crate::net::Time;

#[derive(Debug, Clone)]
pub(super) enum Event {
    /// The time of a waiting consume request is over.
    WaitExpires { node: usize, wait: u64 },
    /// The time for a produce request's acknowledgements is over.
    AcksExpire { node: usize, produce: u64 },
    /// A connection that was held back may continue to send.
    MaySend(Conn),
    /// A connection may have been silent for too long.
    CheckSilence(Conn),
    /// The nodes hear of a topic that was created.
    MakeTopic { topic: Arc<str>, partitions: u16 },
    /// A replica's fetch reaches the leader.
    Fetch { topic: Arc<str>, partition: u16, replica: usize },
    /// A replica may have lagged for too long.
    CheckInSync { topic: Arc<str>, partition: u16, replica: usize },
    /// The cluster notices that a node is gone, unless it came back since its `life`.
    FailOver { node: usize, life: u64 },
    /// A node that a request killed comes back, unless it did already.
    Start { node: usize, life: u64 },
}

impl Event {
    /// Whose event it is: it does not happen while that node hangs.
    pub(super) fn node(&self) -> Option<usize> {
        match *self {
            Event::WaitExpires { node, .. } | Event::AcksExpire { node, .. } => Some(node),
            Event::MaySend(conn) | Event::CheckSilence(conn) => Some(conn.node),
            Event::MakeTopic { .. }
            | Event::Fetch { .. }
            | Event::CheckInSync { .. }
            | Event::FailOver { .. }
            | Event::Start { .. } => None,
        }
    }
}

/// Names an event to call it off.
pub(super) type Ticket = (Time, u64);

#[derive(Debug, Default)]
pub(super) struct Schedule {
    events: BTreeMap<Ticket, Event>,
    next: u64,
}

impl Schedule {
    pub(super) fn at(&mut self, time: Time, event: Event) -> Ticket {
        let ticket = (time, self.next);
        self.next += 1;
        self.events.insert(ticket, event);
        ticket
    }

    pub(super) fn cancel(&mut self, ticket: Ticket) {
        self.events.remove(&ticket);
    }

    /// When the next event is due.
    pub(super) fn due(&self) -> Time {
        self.events.first_key_value().map_or(Time::NEVER, |((time, _), _)| *time)
    }

    /// The next event, if it is due.
    pub(super) fn pop(&mut self, now: Time) -> Option<Event> {
        let first = self.events.first_entry().filter(|first| first.key().0 <= now)?;
        Some(first.remove())
    }
}
