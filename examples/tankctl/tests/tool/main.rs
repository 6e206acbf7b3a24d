//! The tool as users run it.

mod admin;
mod arguments;
mod bench;
mod consume;
mod doctor;
mod mirror;
mod pipes;
mod publish;
mod replay;
mod segments;
mod support;
mod terminal;
mod upstream;
