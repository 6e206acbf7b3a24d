//! Publishing: single calls, the producer, and what of both reaches a broker.

mod calls;
mod producer;
mod sent;
mod time;
