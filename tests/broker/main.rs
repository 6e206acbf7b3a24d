//! The embedded broker, byte for byte and fault for fault.

mod captures;
mod faults;
mod golden;
mod life;
mod raw;
