//! The client: connecting and staying connected, time-outs, and the calls that ask one thing.

mod admin;
mod connect;
mod reconnect;
mod strange_answers;
mod timeouts;
mod values;
