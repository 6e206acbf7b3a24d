//! What subscriptions and producers still run on, until they run on channels.

mod backoff;
mod clock;
mod connection;
mod dial;
mod pool;
mod wait;

pub(crate) use backoff::Backoff;
pub(crate) use clock::{Deadline, Stopwatch, sleep};
pub(crate) use connection::Connection;
pub(crate) use dial::Dial;
pub(crate) use pool::Pool;
pub(crate) use wait::{Interest, wait};

use crate::protocol::{DecodeError, DecodeFault, frame};

/// Refuses an answer to another request.
pub(crate) fn check_request_id(payload: &[u8], expected: u32) -> Result<(), DecodeError> {
    let found = frame::request_id(payload)?;
    if found == expected {
        return Ok(());
    }
    let fault = DecodeFault::Unexpected { found: found.into(), expected: expected.into() };
    Err(DecodeError::new("request id", fault, 0))
}
