//! Programs in the simulated world: what users see of it, and the checker over many seeds.

mod checker;
mod consuming;
mod publishing;
mod reaching;
mod trouble;
mod turns;
mod users;
