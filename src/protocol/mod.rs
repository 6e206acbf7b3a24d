//! The wire format, at a low level: bytes to values and back. No I/O, no clock, no logging, no panics.
//!
//! ```text
//!   wire      bytes <──> values                        this module: pure
//!   machines  values ──> decisions, at a given time    consume, produce, broker::machine: pure
//!   shell     decisions ──> bytes on a socket          net, and one short loop for each kind of call
//! ```
//!
//! The client itself runs on this code. It is public so that tests and fuzz targets can use what users run, and **semver does
//! not cover it**: anything here may change in any release.
//!
//! In comments throughout the crate, "reference" and section numbers mean the [wire reference](mod@reference), a page of these
//! docs from which a client can be written in any language. Each module's first lines say which sections it covers.
//!
//! # Decoding rules
//!
//! What a peer may send, and what is refused (reference, section 18). Every row has tests: `tests/wire/README.md` in the
//! repository lists them.
//!
//! | Input | Accepted | Refused |
//! | --- | --- | --- |
//! | frame length | up to [`Limits`], read in pieces | above them, from the header alone |
//! | message id | the expected answer; a ping before it | any other |
//! | request id | that of an outstanding request, in any order | any other, or one already answered |
//! | header length | ends where the last entry ends, up to [`Limits`] | beyond the payload, too short, too long |
//! | any count or length | what the received bytes can hold | anything else, before memory is reserved |
//! | topic name, partition id | as requested, in that order, each once | a different one, one repeated, one missing |
//! | `ff ff` for a partition id | the topic is unknown, no entry follows | |
//! | `err_flags` | 00, 01, fb, fc, fd, fe, ff | any other |
//! | chunk length | all chunks together make up the rest of the payload | more, less, or a sum that is right only modulo 2^32 |
//! | chunk length of a boundary fault | 0 | any other |
//! | bundle length | past the end of the chunk: its last bundle is cut | 0 |
//! | bundle header | inside the bundle, or cut with its chunk | longer than the bundle |
//! | codec, bit 7 | codec 0 and 1 | codec 2 and 3, bit 7: unsupported |
//! | message count | 1 to [`Limits`], in the flags or as a varint | 0, more |
//! | numbers of a dense bundle | continue from the previous bundle | nothing to count from (after `fe`, base 0), 2^64−1 reached |
//! | numbers of a sparse bundle | its own, regardless of the base | 0, 2^64−1, fewer numbers than messages |
//! | numbers of sparse messages | above the previous one, with room left for those that follow; the last one as in the header | anything else |
//! | numbers from bundle to bundle | rising, gaps allowed | at or below those of the previous bundle |
//! | below the wanted number | skipped, undecoded | |
//! | above the high-water mark | skipped with the rest of the chunk, undecoded | |
//! | compressed set | claims a length that [`Limits`] and Snappy's ratio allow, and has it | anything else, before memory is reserved |
//! | key, payload | inside the message set | past its end, unless the bundle is cut |
//! | message set | ends with message number `count` | earlier or later; a cut one that has all messages and further bytes |
//! | message flags | any; only the lowest three mean something | |
//! | shared time stamp | that of the message before; 0 on the first | |
//! | varint | up to five bytes, even if fewer would do | a sixth byte, above 2^32−1, past its container |
//! | ping | an empty one as greeting; before an answer any, up to 1 MiB in total | any other greeting; more than that, or a time-out spent on them |
//! | high-water mark, first available | any number, above or below what is sent | a next number to ask for of 2^64−1 |
//! | answers about topics, partitions, nodes, status | the request's id and topic; fewer entries than counted for partitions being removed, and in an old version's status; any flags of a node | other ids and topics, undefined codes and flags, bytes missing or left over, counts above [`Limits`] |
//! | names in requests | text of 1 to 255 bytes | bytes that are not UTF-8, which an answer could not repeat |
//! | produce answer | one code for each partition, or for its topic | bytes missing or left over, unknown codes |
//! | incomplete input | more is awaited, and no byte is read twice | |
//!
//! Anything that needs a clock or a view of several answers (silence, trickling bytes, redirects in circles or to nowhere) is
//! decided where the sockets are, not here.

#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![deny(clippy::cast_possible_truncation)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::cast_possible_truncation))]

pub mod admin;
pub mod bundle;
pub(crate) mod chunk;
pub mod compress;
pub mod cursor;
mod error;
pub mod fetch;
mod field;
pub mod frame;
pub(crate) mod kind;
pub(crate) mod limits;
pub mod produce;
pub mod request;
#[doc = include_str!("reference.md")]
pub mod reference {}
mod run;
pub mod stream;
pub mod varint;

pub(crate) use error::texts;
pub use error::{DecodeError, DecodeFault, EncodeError};
pub(crate) use limits::Limits;
