//! The one wait, for any number of channels.

use super::channel::Channel;
use super::network::{Closed, Network, Time};
use crate::error::{Error, Phase, Result};

/// Why a wait has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A channel may have something to do.
    Ready,
    /// The handle was closed.
    Closed,
    /// The time to wait until has come.
    Due,
}

/// Blocks until a channel has something to do, the handle is closed, or `until` has come.
///
/// # Errors
/// The system cannot wait.
pub(crate) fn wait<'a>(
    net: &dyn Network,
    mut channels: impl Iterator<Item = &'a mut Channel>,
    closed: Option<&Closed>,
    until: Time,
) -> Result<Event> {
    // One open channel is what most programs wait for, again and again: that allocates nothing.
    let (first, second) = (channels.next(), channels.next());
    let first = match (first, &second) {
        (Some(only), None) if only.is_up() => {
            let due = until.min(only.due());
            net.poll(only.interest().as_slice(), closed, due).map_err(|e| Error::io(&"the system", Phase::Wait, e))?;
            let now = net.now();
            only.looked(now);
            return Ok(event(closed, now, until));
        }
        (first, _) => first,
    };
    let channels: Vec<&mut Channel> = first.into_iter().chain(second).chain(channels).collect();
    let mut on = Vec::with_capacity(channels.len());
    let mut due = until;
    for channel in &channels {
        channel.interests(&mut on);
        due = due.min(channel.due());
    }
    net.poll(&on, closed, due).map_err(|e| Error::io(&"the system", Phase::Wait, e))?;
    let now = net.now();
    for channel in channels {
        channel.looked(now);
    }
    Ok(event(closed, now, until))
}

fn event(closed: Option<&Closed>, now: Time, until: Time) -> Event {
    match () {
        () if closed.is_some_and(Closed::is_closed) => Event::Closed,
        () if now >= until => Event::Due,
        () => Event::Ready,
    }
}
