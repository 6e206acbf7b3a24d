//! Clusters: who leads, who redirects, who is gone, and what of it callers notice.

mod bootstrap;
mod chaos;
mod deadly;
mod fail_over;
mod leaders;
mod publishing;
mod real;
mod several;
mod support;
