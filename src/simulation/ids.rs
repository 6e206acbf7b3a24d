//! What hosts, connections and their directions are called by, and the links between hosts: values that everything here uses.

use std::fmt;
use std::ops::Range;

use crate::net::Time;

/// A host, by number.
pub(super) type HostId = u16;

/// The direction of a stream: up to the server, or down to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Up,
    Down,
}

/// A connection: where it is kept, and its serial number, which no other one ever has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConnId {
    pub(super) slot: u32,
    pub(super) serial: u32,
}

impl ConnId {
    pub(super) fn number(self) -> u64 {
        u64::from(self.slot) | u64::from(self.serial) << 32
    }

    pub(super) fn from_number(number: u64) -> ConnId {
        ConnId { slot: number as u32, serial: (number >> 32) as u32 }
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.serial)
    }
}

/// A link from one host to another.
#[derive(Debug, Clone)]
pub(super) struct Link {
    /// Nanoseconds on the way, chosen for each packet.
    pub(super) latency: Range<u64>,
    /// Bytes a second; 0 for no limit.
    pub(super) bandwidth: u64,
    /// One packet in this many is cut in two; 0 for none.
    pub(super) fragments: u64,
    pub(super) blocked: bool,
    pub(super) blocked_since: Time,
    /// When it is free for the next packet, and when the last one arrives.
    pub(super) free_at: Time,
    pub(super) last: Time,
}

impl Default for Link {
    fn default() -> Link {
        Link {
            latency: 50_000..500_000,
            bandwidth: 125_000_000,
            fragments: 16,
            blocked: false,
            blocked_since: Time::ZERO,
            free_at: Time::ZERO,
            last: Time::ZERO,
        }
    }
}

/// All links, from each host to each.
#[derive(Debug, Default)]
pub(super) struct Links {
    from: Vec<Vec<Link>>,
    /// What new ones begin with.
    pub(super) model: Link,
}

impl Links {
    pub(super) fn get(&mut self, from: HostId, to: HostId) -> &mut Link {
        let model = &self.model;
        let most = usize::from(from.max(to)) + 1;
        if self.from.len() < most {
            self.from.resize_with(most, Vec::new);
        }
        let row = &mut self.from[usize::from(from)];
        if row.len() < most {
            row.resize_with(most, || model.clone());
        }
        &mut row[usize::from(to)]
    }
}
