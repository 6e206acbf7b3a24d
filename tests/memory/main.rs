//! What is taken of the heap. A process of its own: the allocator counts.

mod growing;
mod holding;
mod slow_caller;

#[global_allocator]
static ALLOCATOR: common::alloc::Counting = common::alloc::Counting;
