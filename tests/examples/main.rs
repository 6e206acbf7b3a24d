//! The examples as users run them.

mod arguments;
mod read;
mod shared;
