//! A world with a clock and a network of its own, in which ordinary blocking code runs in virtual time.

#![allow(dead_code)]

#[doc(hidden)]
pub mod checker;
mod faults;
mod host;
mod names;
mod net;
mod nodes;
mod pipe;
mod random;
mod task;
mod trace;
mod wires;
mod world;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::net::{Network, Time};
use crate::{Client, ClientBuilder};

pub use faults::{Direction, LinkSettings};
pub use host::Service;
pub use task::Task;
pub use world::Counts;

use task::For;
use trace::What;
use world::{Action, World};

/// A simulated world. See the [module's page](self).
///
/// The thread that makes it is its first task, called `main`; when the value is dropped there, the world ends, and with it
/// all other tasks, wherever they are. Clones are handles for tasks and scheduled actions to use.
#[derive(Debug)]
pub struct Simulation {
    world: Arc<World>,
    owner: bool,
}

impl Clone for Simulation {
    fn clone(&self) -> Simulation {
        Simulation { world: self.world.clone(), owner: false }
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        if self.owner {
            self.world.end();
        }
    }
}

impl Simulation {
    /// A new world. Everything that is left to chance in it depends on the seed: the same seed gives the same run.
    pub fn new(seed: u64) -> Simulation {
        Simulation { world: Arc::new(World::new(seed)), owner: true }
    }

    /// The seed it was made with.
    pub fn seed(&self) -> u64 {
        self.world.seed
    }

    /// A builder of clients on the host `client`.
    pub fn client(&self) -> ClientBuilder {
        self.client_on("client")
    }

    /// A builder of clients on a host of this name, which is made when it is first named.
    pub fn client_on(&self, host: &str) -> ClientBuilder {
        Client::builder().on_network(self.network(host))
    }

    fn network(&self, host: &str) -> Arc<dyn Network> {
        let host = self.world.host(host).unwrap_or_else(|| {
            let mut state = self.world.lock();
            let last = state.hosts.len() as u8 + 1;
            state.add_host(host, IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), 0, None)
        });
        Arc::new(net::Net { world: self.world.clone(), host })
    }

    /// Runs `f` as another task. It begins when this one blocks.
    ///
    /// A task is a thread, and ordinary code; but only one of them runs at any time, and the others wait until it blocks in
    /// the network, in [`sleep`](Simulation::sleep) or in [`Task::join`]. Blocking in any other way blocks the world.
    pub fn spawn<T: Send + 'static>(&self, name: &str, f: impl FnOnce() -> T + Send + 'static) -> Task<T> {
        task::spawn(&self.world, name, f)
    }

    /// Does something after this time, whoever runs then. It must not block, or it panics: for that there is
    /// [`spawn`](Simulation::spawn).
    pub fn after(&self, delay: Duration, action: impl FnOnce() + Send + 'static) {
        self.world.lock().schedule_action(delay, Action::Once(Box::new(action)));
    }

    /// Does something each time this much time has passed, for as long as the world lasts. As with
    /// [`after`](Simulation::after), it must not block.
    pub fn every(&self, period: Duration, action: impl FnMut() + Send + 'static) {
        let period = period.max(Duration::from_nanos(1));
        self.world.lock().schedule_action(period, Action::Every(period, Box::new(action)));
    }

    /// The time since the world began.
    pub fn now(&self) -> Duration {
        self.world.now().since(Time::ZERO)
    }

    /// The time of the wall clock: 2026-01-01 when the world begins, unless it [jumps](Simulation::set_wall_clock).
    pub fn wall_clock(&self) -> SystemTime {
        let state = self.world.lock();
        net::wall(state.now, state.wall_offset_ms)
    }

    /// Sets the wall clock forward, or back if `milliseconds` is negative. Time-outs don't depend on it.
    pub fn jump_wall_clock(&self, milliseconds: i64) {
        let mut state = self.world.lock();
        state.note(What::Does(format!("the wall clock jumps by {milliseconds} ms")));
        state.wall_offset_ms = state.wall_offset_ms.saturating_add(milliseconds);
    }

    /// Blocks this task for this much virtual time: others run, and so does the world.
    pub fn sleep(&self, time: Duration) {
        self.world.sleep_until(self.world.now().after(time), For::Sleep);
    }

    /// Ends the world with a panic when it is this old and still waits for something. Default 1,000 days.
    pub fn set_time_limit(&self, limit: Duration) {
        self.world.set_limit(Time::ZERO.after(limit));
    }

    /// A random number below `n`, for tests that decide something by chance.
    pub fn random_below(&self, n: u64) -> u64 {
        self.world.lock().choices.below(n)
    }

    /// A hash of everything that has happened so far. Two runs that did the same, to the byte, have the same one.
    pub fn trace_hash(&self) -> u64 {
        self.world.lock().trace.hash()
    }

    /// What was counted since the world began.
    pub fn counts(&self) -> Counts {
        self.world.lock().counts
    }
}
