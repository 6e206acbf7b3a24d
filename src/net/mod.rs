//! The shell: what carries bytes, and waits.
//!
//! ```text
//!        iterator      producer      session.call
//!            └────────────┼────────────┘
//!                    channels::wait          the one wait, for any number of them
//!                         │
//!                      Channel               one connection: down, dialing, up
//!                         │
//!   machines above  ──────┼──────────────────────────────────────────────────────
//!                      Network               the seam: now, resolve, connect, poll
//!                     ┌───┴───┐
//!                  System   simulation
//! ```
//!
//! Only [`Network::poll`] blocks. Everything else answers two questions: *what next?* and *by when?*

mod addr;
mod book;
mod buffer;
mod channel;
mod channels;
mod dial;
mod network;
mod retry;
#[cfg(test)]
pub(crate) mod scripted;
mod settings;
mod system;

pub(crate) use addr::{BrokerAddr, parse_brokers};
pub(crate) use book::{AddressBook, Refusal};
pub(crate) use buffer::{Block, ReadBuf};
pub(crate) use channel::{Channel, LookUp, Piece};
pub(crate) use channels::{AnswerReader, Pool, wait};
pub(crate) use network::{Closed, Network, Time, locked};
#[cfg(feature = "broker")]
pub(crate) use network::{Handle, Interest, Socket, Waker};
pub(crate) use retry::{HEALTHY_AFTER, RetryPolicy, RetryState};
pub(crate) use settings::ChannelSettings;
pub(crate) use system::System;
#[cfg(feature = "broker")]
pub(crate) use system::{PairSocket, rounded_up, socket_pair};
