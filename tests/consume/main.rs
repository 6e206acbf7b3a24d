//! Consuming: what is read, where it begins and ends, and what is kept of it.

mod checkpoint;
mod close;
mod endless;
mod last_numbers;
mod model;
mod reading;
mod time;
