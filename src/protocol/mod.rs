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
//! What a peer may send, and what is refused (reference, section 18). Each row names the tests that prove it: unit tests by
//! their module, others by their file. `hostile_*` are recordings, each of which the test `golden` refuses.
//!
//! | Input | Accepted | Refused | Tests |
//! | --- | --- | --- | --- |
//! | frame length | up to [`Limits`], read in pieces | above them, from the header alone | `stream::frames_and_headers_are_measured`, `hostile::each_limit_is_held_to_the_unit`, `hostile_frame_len_max` |
//! | message id | the expected answer; a ping before it | any other | `stream::frames_and_headers_are_measured`, `stream::pings_stand_between_frames_and_are_passed_over`, `hostile_unknown_frame_type` |
//! | request id | that of an outstanding request, in any order | any other, or one already answered | `stream::requests_are_answered_in_any_order_and_once`, `hostile_wrong_request_id` |
//! | header length | ends where the last entry ends, up to [`Limits`] | beyond the payload, too short, too long | `stream::frames_and_headers_are_measured`, `hostile_header_len_*` |
//! | any count or length | what the received bytes can hold | anything else, before memory is reserved | `hostile::a_lie_in_every_place_costs_no_more_than_its_bytes`, `hostile::chance_damage_costs_no_more_than_its_bytes`, `hostile_count_huge`, `hostile_topics_count` |
//! | topic name, partition id | as requested, in that order, each once | a different one, one repeated, one missing | `stream::answers_come_in_the_order_of_the_request`, `hostile_other_*`, `hostile_same_partition_twice`, `hostile_too_few_partitions` |
//! | `ff ff` for a partition id | the topic is unknown, no entry follows | | `stream::answers_come_in_the_order_of_the_request`, golden `consume_unknown_topic*` |
//! | `err_flags` | 00, 01, fb, fc, fd, fe, ff | any other | `stream::err_flags_that_nobody_sends`, `hostile_unknown_error_code` |
//! | chunk length | all chunks together make up the rest of the payload | more, less, or a sum that is right only modulo 2^32 | `stream::the_chunks_use_the_payload_up`, `hostile_chunk_len_*`, `hostile_spare_bytes` |
//! | chunk length of a boundary fault | 0 | any other | `stream::a_boundary_fault_has_no_chunk` |
//! | bundle length | past the end of the chunk: its last bundle is cut | 0 | `stream::a_chunk_may_end_inside_its_last_bundle`, `stream::the_last_byte_of_a_chunk_makes_the_difference`, golden `consume_partial_*`, `hostile_bundle_len_zero` |
//! | bundle header | inside the bundle, or cut with its chunk | longer than the bundle | `stream::lengths_and_headers_stay_inside_their_containers`, `bundle::headers_are_read_as_they_were_written`, `hostile_header_past_bundle` |
//! | codec, bit 7 | codec 0 and 1 | codec 2 and 3, bit 7: unsupported | `bundle::headers_that_cannot_be_are_refused`, `hostile_codec_2`, `hostile_flag_bit_7` |
//! | message count | 1 to [`Limits`], in the flags or as a varint | 0, more | `bundle::headers_are_read_as_they_were_written`, `bundle::headers_that_cannot_be_are_refused`, `hostile_count_zero` |
//! | numbers of a dense bundle | continue from the previous bundle | nothing to count from (after `fe`, base 0), 2^64−1 reached | `stream::numbers_go_on_from_bundle_to_bundle`, `stream::a_dense_bundle_needs_a_number_to_count_from`, `hostile_0xfe_without_sparse`, `hostile_base_overflow` |
//! | numbers of a sparse bundle | its own, regardless of the base | 0, 2^64−1, fewer numbers than messages | `bundle::headers_that_cannot_be_are_refused`, `hostile_sparse_overflow`, `hostile_sparse_range_too_small` |
//! | numbers of sparse messages | above the previous one, with room left for those that follow; the last one as in the header | anything else | `bundle::numbers_of_sparse_bundles`, `hostile_sparse_delta_past_last` |
//! | numbers from bundle to bundle | rising, gaps allowed | at or below those of the previous bundle | `stream::numbers_never_run_backwards`, `hostile_sparse_backwards` |
//! | below the wanted number | skipped, undecoded | | `stream::bundles_below_the_wanted_number_are_passed_over`, golden `consume_chunk_begins_early` |
//! | above the high-water mark | skipped with the rest of the chunk, undecoded | | `stream::nothing_above_the_mark_is_reported`, golden `consume_high_water_mark_*` |
//! | compressed set | claims a length that [`Limits`] and Snappy's ratio allow, and has it | anything else, before memory is reserved | `hostile::snappy_bombs_do_not_go_off`, `compress`, `hostile_snappy_*` |
//! | key, payload | inside the message set | past its end, unless the bundle is cut | `bundle::messages_fill_their_set_exactly`, `hostile_key_past_bundle`, `hostile_message_past_bundle`, `hostile_payload_len_max` |
//! | message set | ends with message number `count` | earlier or later; a cut one that has all messages and further bytes | `bundle::messages_fill_their_set_exactly`, `hostile_count_too_big`, `hostile_count_too_small` |
//! | message flags | any; only the lowest three mean something | | `bundle::every_combination_of_dense_message_flags` |
//! | shared time stamp | that of the message before; 0 on the first | | `bundle::a_shared_time_stamp_is_that_of_the_message_before`, golden `consume_timestamps_from_shared` |
//! | varint | up to five bytes, even if fewer would do | a sixth byte, above 2^32−1, past its container | `varint`, `hostile::a_long_varint_in_every_place_is_refused_or_bounded`, `hostile_varint_*` |
//! | ping | an empty one as greeting; before an answer any, up to 1 MiB in total | any other greeting; more than that, or a time-out spent on them | `stream::pings_stand_between_frames_and_are_passed_over`, `endless::pings_before_a_fetched_answer`, `endless::endless_pings_before_an_answer_come_to_an_end`, `endless::pings_before_the_answer_to_a_producer`, `connect::another_service_is_told_by_its_greeting` |
//! | high-water mark, first available | any number, above or below what is sent | a next number to ask for of 2^64−1 | `last_numbers`, `stream::nothing_above_the_mark_is_reported` |
//! | answers about topics, partitions, nodes, status | the request's id and topic; fewer entries than counted for partitions being removed, and in an old version's status; any flags of a node | other ids and topics, undefined codes and flags, bytes missing or left over, counts above [`Limits`] | `admin`, `hostile::a_lie_in_every_place_costs_no_more_than_its_bytes`, `partitions::undefined_reasons_and_marks_that_mean_none` |
//! | names in requests | text of 1 to 255 bytes | bytes that are not UTF-8, which an answer could not repeat | `cursor::text_is_utf_8_and_names_are_shown_as_far_as_they_are`, `broker::names_that_are_not_utf_8_are_hung_up_on` |
//! | produce answer | one code for each partition, or for its topic | bytes missing or left over, unknown codes | `produce`, `hostile_produce_*` |
//! | incomplete input | more is awaited, and no byte is read twice | | `splits`, `golden::a_cut_answer_is_waited_for`, `hostile::work_grows_with_the_bytes_alone` |
//!
//! Anything that needs a clock or a view of several answers (silence, trickling bytes, redirects in circles or to nowhere) is
//! decided where the sockets are, not here.

#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation
)]
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
