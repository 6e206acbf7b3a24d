//! Clusters: who leads, who redirects, who is gone, and what of it callers notice.

#[path = "../common/mod.rs"]
mod common;

mod bootstrap;
mod leaders;
mod several;
mod support;
