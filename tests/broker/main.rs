//! The embedded broker, byte for byte and fault for fault.

mod faults;
mod life;
mod raw;
