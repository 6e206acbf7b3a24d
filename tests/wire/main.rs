//! The wire: what servers sent, what they never send, and what encoders and decoders make of each other.

mod differential;
mod golden;
mod hostile;
mod mutation;
mod regressions;
mod roundtrip;
mod splits;

#[global_allocator]
static ALLOCATOR: common::alloc::Counting = common::alloc::Counting;
