//! The embedded broker, byte for byte and fault for fault.

mod captures;
mod cluster;
mod faults;
mod golden;
mod life;
mod raw;
mod rules;
