//! The embedded broker, byte for byte and fault for fault.

mod capture;
mod cluster;
mod faults;
mod life;
mod raw;
mod rules;

#[global_allocator]
static ALLOCATOR: common::alloc::Counting = common::alloc::Counting;
