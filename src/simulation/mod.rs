//! A world with a clock and a network of its own, in which ordinary blocking code runs in virtual time (feature `broker`).
//!
//! A test creates a [`Simulation`], puts a broker or a cluster into it, and connects ordinary clients to them. A call that
//! blocks runs the world until it can return: nodes answer, bytes travel, connections break, and the clock jumps from one event
//! to the next. A time-out of a minute takes microseconds, nothing depends on how busy the machine is, and the same seed gives
//! the same run, to the byte.
//!
//! # A consumer, and a fail-over
//!
//! ```
//! use std::time::Duration;
//! use tank_client::simulation::Simulation;
//! use tank_client::{Record, Start, Subscription};
//!
//! let sim = Simulation::new(1);
//! let cluster = sim.cluster(3);
//! cluster.create_topic("orders", 1);
//! let client = sim.client().connect(cluster.brokers())?;
//! client.publish("orders", 0, &[Record::new("tea")])?;
//!
//! // The leader dies after five seconds, which the others notice some 20 seconds later.
//! let nodes = cluster.clone();
//! sim.after(Duration::from_secs(5), move || nodes.node(0).stop());
//! let mut orders = client.subscribe(Subscription::partition("orders", 0).start(Start::Earliest))?;
//! assert_eq!(orders.next().unwrap()?.payload(), b"tea");
//! sim.sleep(Duration::from_secs(10));
//!
//! // Blocks until there is a new leader, in virtual time.
//! client.publish("orders", 0, &[Record::new("milk")])?;
//! assert_eq!(orders.next().unwrap()?.payload(), b"milk");
//! assert!(sim.now() > Duration::from_secs(20));
//! # Ok::<(), tank_client::Error>(())
//! ```
//!
//! # A publisher, and a broker that hangs for a minute
//!
//! ```
//! use std::time::Duration;
//! use tank_client::simulation::Simulation;
//! use tank_client::{ErrorKind, Record};
//!
//! let sim = Simulation::new(2);
//! let broker = sim.broker();
//! broker.create_topic("orders", 1);
//! let client = sim.client().io_timeout(Duration::from_secs(10)).connect(broker.brokers())?;
//! client.topics()?;
//!
//! broker.pause();
//! let hanging = broker.clone();
//! sim.after(Duration::from_secs(60), move || hanging.resume());
//! // The request was sent, so nobody knows whether it was stored. What does the program do then?
//! let e = client.publish("orders", 0, &[Record::new("tea")]).unwrap_err();
//! assert!(e.kind == ErrorKind::OutcomeUnknown);
//! assert_eq!(sim.now().as_secs(), 18); // `io_timeout` and `ack_timeout`
//! // The client has reset the connection, so the broker never executes the request.
//! sim.sleep(Duration::from_secs(60));
//! assert_eq!(broker.high_water_mark("orders", 0), 0);
//! # Ok::<(), tank_client::Error>(())
//! ```
//!
//! # A full day of quiet
//!
//! ```
//! use std::time::Duration;
//! use tank_client::Subscription;
//! use tank_client::simulation::Simulation;
//!
//! let sim = Simulation::new(3);
//! let broker = sim.broker();
//! broker.create_topic("orders", 1);
//! let client = sim.client().connect(broker.brokers())?;
//! let late = broker.clone();
//! sim.after(Duration::from_secs(86_400), move || {
//!     late.append_payloads("orders", 0, &["tea"]);
//! });
//! let mut orders = client.subscribe(Subscription::topic("orders").max_wait(Duration::from_secs(60)))?;
//! assert_eq!(orders.next().unwrap()?.payload(), b"tea");
//! assert!(broker.stats().all_requests() < 2000);
//! # Ok::<(), tank_client::Error>(())
//! ```
//!
//! # Several tasks
//!
//! Programs that do several things at a time use [tasks](Simulation::spawn): threads, of which exactly one runs at any time.
//! The others wait until it blocks. Which one is next depends only on events and the seed. The thread that makes the simulation
//! is the first task. [`Simulation::after`] and [`Simulation::every`] run actions that belong to no task and do not block, such
//! as a [`CloseHandle::close`](crate::CloseHandle::close) or the death of a broker.
//!
//! ```
//! use std::time::Duration;
//! use tank_client::simulation::Simulation;
//!
//! let sim = Simulation::new(4);
//! let broker = sim.broker();
//! broker.create_topic("orders", 1);
//! let client = sim.client().connect(broker.brokers())?;
//! let orders = client.subscribe("orders")?;
//! let handle = orders.close_handle();
//! let reader = sim.spawn("reader", move || orders.map(|order| order.unwrap().seq()).sum::<u64>());
//! for second in 1..4 {
//!     let broker = broker.clone();
//!     sim.after(Duration::from_secs(second), move || {
//!         broker.append_payloads("orders", 0, &["tea"]);
//!     });
//! }
//! sim.after(Duration::from_secs(10), move || handle.close());
//! assert_eq!(reader.join(), 1 + 2 + 3);
//! # Ok::<(), tank_client::Error>(())
//! ```
//!
//! A task must not block in any other way, such as on a channel, or on a mutex that another task holds while it blocks in the
//! network. The simulation would think it is still running, and wait for ever. What needs real threads, files or sockets is
//! tested with the [embedded broker](crate::broker) over real sockets.
//!
//! # What can go wrong
//!
//! | trouble | made by |
//! | --- | --- |
//! | nodes die, hang, refuse, come back | [`Broker::stop`](crate::broker::Broker::stop), `pause`, `refuse_connections`, `restart` and so on |
//! | answers are lost, late, cut, wrong | [`Broker::inject`](crate::broker::Broker::inject) |
//! | leaders move | [`Cluster::set_leader`](crate::broker::Cluster::set_leader), `fail_over`, or by themselves when a node is gone |
//! | nodes do not reach each other | [`isolate`](Simulation::isolate) |
//! | hosts do not reach each other | [`separate`](Simulation::separate), [`separate_one_way`](Simulation::separate_one_way) |
//! | connections end, or fall silent | [`cut`](Simulation::cut), [`reset`](Simulation::reset), [`silence`](Simulation::silence) |
//! | links are long or narrow, or break packets | [`set_links`](Simulation::set_links), [`set_link`](Simulation::set_link) |
//! | a host is slow, or loses power | [`slow_down`](Simulation::slow_down), [`power_off`](Simulation::power_off) |
//! | another service has the address | [`take_over`](Simulation::take_over) |
//! | names change, fail, take long | [`set_name`](Simulation::set_name), [`fail_name`](Simulation::fail_name), [`delay_name`](Simulation::delay_name) |
//! | no descriptors are left | [`limit_descriptors`](Simulation::limit_descriptors) |
//! | the wall clock jumps | [`jump_wall_clock`](Simulation::jump_wall_clock) |
//!
//! # When a test fails
//!
//! A panic in a task ends the world. It is repeated in the main task, with the seed, what each task waits for and since when,
//! and the last events. A world in which all tasks wait and nothing is scheduled, which is a proven hang, ends in the same way,
//! and so does a loop that never pauses. The seed is the whole bug report: run it again and add what you want to see.
//!
//! # The model
//!
//! Bytes arrive in order and once, in packets that may be cut anywhere. Buffers are finite on both sides. A FIN comes after all
//! that was written before it; a reset drops what has not arrived. A request that the broker has not read yet is executed after
//! a FIN and dropped after a reset. Bytes lost in a separation are sent again afterwards, unless the client's system was told
//! to give up ([`tcp_user_timeout`](crate::ClientBuilder::tcp_user_timeout)). Handshakes are retried after 1, 3, 7 and so on
//! seconds. Keep-alive probes are not part of it. Acknowledgements take no time.

#[doc(hidden)]
pub mod checker;
mod conns;
mod faults;
mod hosts;
mod net;
mod nodes;
mod pipe;
mod random;
mod serve;
mod task;
mod trace;
mod wires;
mod world;

#[cfg(test)]
mod tests;

use std::any::Any;
use std::net::{IpAddr, Ipv4Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::net::{Network, Time};
use crate::{Client, ClientBuilder};

pub use faults::{Direction, LinkSettings};
pub use hosts::Service;
pub use world::Counts;

use task::{Ended, WaitFor};
use trace::TraceEvent;
use world::{Action, World};

/// A simulated world, with a clock and a network of its own.
///
/// The thread that creates it is its first task, called `main`. When the value is dropped there, the world ends, and with it
/// all other tasks, whatever they do. Clones are handles for tasks and scheduled actions.
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
    /// Creates a world. All chance in it comes from the seed: the same seed gives the same run.
    pub fn new(seed: u64) -> Simulation {
        Simulation { world: Arc::new(World::new(seed)), owner: true }
    }

    /// Returns the seed it was created with.
    pub fn seed(&self) -> u64 {
        self.world.seed
    }

    /// Returns a builder of clients on the host `client`.
    pub fn client(&self) -> ClientBuilder {
        self.client_on("client")
    }

    /// Returns a builder of clients on the host with this name. The host is created if it does not exist.
    ///
    /// ```
    /// use tank_client::simulation::Simulation;
    ///
    /// let sim = Simulation::new(1);
    /// let broker = sim.broker();
    /// let (shop, office) = (sim.client_on("shop"), sim.client_on("office"));
    /// let (shop, office) = (shop.connect(broker.brokers())?, office.connect(broker.brokers())?);
    /// sim.separate("shop", "broker");
    /// assert!(office.topics().is_ok() && shop.topics().is_err());
    /// # Ok::<(), tank_client::Error>(())
    /// ```
    pub fn client_on(&self, host: &str) -> ClientBuilder {
        Client::builder().on_network(self.network(host))
    }

    fn network(&self, host: &str) -> Arc<dyn Network> {
        let host = self.world.host(host).unwrap_or_else(|| {
            let mut state = self.world.lock();
            let [high, low] = (state.hosts.len() as u16 + 1).to_be_bytes();
            state.add_host(host, IpAddr::V4(Ipv4Addr::new(10, 0, high, low)), 0, None)
        });
        Arc::new(net::Net { world: self.world.clone(), host })
    }

    /// Runs `f` as another task. It begins when this one blocks.
    ///
    /// A task is a thread, and ordinary code; but only one of them runs at any time, and the others wait until it blocks in
    /// the network, in [`sleep`](Simulation::sleep) or in [`Task::join`]. Blocking in any other way blocks the world.
    pub fn spawn<T: Send + 'static>(&self, name: &str, f: impl FnOnce() -> T + Send + 'static) -> Task<T> {
        spawn(&self.world, name, f)
    }

    /// Runs an action after this time, whichever task runs then. An action that blocks panics: [`spawn`](Simulation::spawn) a
    /// task instead.
    pub fn after(&self, delay: Duration, action: impl FnOnce() + Send + 'static) {
        self.world.lock().schedule_action(delay, Action::Once(Box::new(action)));
    }

    /// Runs an action once in each period, until the world ends. As with [`after`](Simulation::after), it must not block.
    ///
    /// # Panics
    /// If the period is zero.
    #[track_caller]
    pub fn every(&self, period: Duration, action: impl FnMut() + Send + 'static) {
        assert!(!period.is_zero(), "a period of zero");
        self.world.lock().schedule_action(period, Action::Every(period, Box::new(action)));
    }

    /// Returns the time since the world began.
    pub fn now(&self) -> Duration {
        self.world.now().since(Time::ZERO)
    }

    /// Returns the time of the wall clock: 2026-01-01 when the world begins, unless it [jumps](Simulation::jump_wall_clock).
    pub fn wall_clock(&self) -> SystemTime {
        let state = self.world.lock();
        net::wall(state.now, state.wall_offset_ms)
    }

    /// Sets the wall clock forward, or back if `milliseconds` is negative. Time-outs don't depend on it.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tank_client::simulation::Simulation;
    ///
    /// let sim = Simulation::new(1);
    /// let before = sim.wall_clock();
    /// sim.jump_wall_clock(3_600_000); // summer time, by mistake
    /// assert_eq!(sim.wall_clock(), before + Duration::from_secs(3_600));
    /// assert_eq!(sim.now(), Duration::ZERO);
    /// ```
    pub fn jump_wall_clock(&self, milliseconds: i64) {
        let mut state = self.world.lock();
        state.note(TraceEvent::Does(format!("the wall clock jumps by {milliseconds} ms")));
        state.wall_offset_ms = state.wall_offset_ms.saturating_add(milliseconds);
    }

    /// Blocks this task for this much virtual time, while other tasks and the world run.
    pub fn sleep(&self, time: Duration) {
        self.world.sleep_until(self.world.now().after(time), WaitFor::Sleep);
    }

    /// Ends the world with a panic if a task still waits after this much virtual time. Default 1,000 days.
    ///
    /// ```should_panic
    /// use std::time::Duration;
    /// use tank_client::simulation::Simulation;
    ///
    /// let sim = Simulation::new(1);
    /// sim.set_time_limit(Duration::from_secs(60));
    /// sim.sleep(Duration::from_secs(61)); // a test that takes too long
    /// ```
    pub fn set_time_limit(&self, limit: Duration) {
        self.world.set_limit(Time::ZERO.after(limit));
    }

    /// Returns a random number below `n`, from the seed, for tests that decide something by chance.
    pub fn random_below(&self, n: u64) -> u64 {
        self.world.lock().choices.below(n)
    }

    /// Returns a hash of everything that has happened so far. Two runs that did the same, to the byte, have the same hash.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tank_client::simulation::Simulation;
    ///
    /// fn run(seed: u64) -> u64 {
    ///     let sim = Simulation::new(seed);
    ///     let cluster = sim.cluster(3);
    ///     let client = sim.client().connect(cluster.brokers()).unwrap();
    ///     // Somebody calls now and then.
    ///     for _ in 0..10 {
    ///         sim.sleep(Duration::from_millis(sim.random_below(1_000)));
    ///         client.topics().unwrap();
    ///     }
    ///     assert_eq!(sim.seed(), seed);
    ///     sim.trace_hash()
    /// }
    /// assert_eq!(run(7), run(7));
    /// assert_ne!(run(7), run(8));
    /// ```
    pub fn trace_hash(&self) -> u64 {
        self.world.lock().trace.hash()
    }

    /// Returns what was counted since the world began.
    pub fn counts(&self) -> Counts {
        self.world.lock().counts
    }

    /// By how many bytes the room that a client has once offered exceeded twice what all had received until then.
    fn excess_of_room(&self) -> usize {
        self.world.lock().excess
    }

    fn connects_to_nobody(&self) -> u64 {
        self.world.lock().to_nobody
    }
}

/// A task of a simulation, from [`Simulation::spawn`].
///
/// ```
/// use std::time::Duration;
/// use tank_client::simulation::{Simulation, Task};
///
/// let sim = Simulation::new(1);
/// let world = sim.clone();
/// let task: Task<u32> = sim.spawn("counts", move || {
///     world.sleep(Duration::from_secs(5));
///     5
/// });
/// assert!(!task.is_finished());
/// assert_eq!(task.join(), 5);
/// assert_eq!(sim.now().as_secs(), 5);
/// ```
#[derive(Debug)]
pub struct Task<T> {
    world: Arc<World>,
    id: u16,
    result: Arc<Mutex<Option<T>>>,
}

impl<T> Task<T> {
    /// Blocks, in virtual time, until the task has returned. Returns what it returned.
    ///
    /// # Panics
    /// If the task panicked. That ends the whole simulation, joined or not.
    pub fn join(self) -> T {
        self.world.join(self.id);
        let result = self.result.lock().unwrap_or_else(PoisonError::into_inner).take();
        result.expect("a task that is done has a result")
    }

    /// Returns whether the task has returned.
    pub fn is_finished(&self) -> bool {
        self.world.lock().tasks.is_done(self.id)
    }
}

fn spawn<T: Send + 'static>(world: &Arc<World>, name: &str, f: impl FnOnce() -> T + Send + 'static) -> Task<T> {
    let id = world.lock().tasks.add(name, None);
    let result = Arc::new(Mutex::new(None));
    let run = {
        let (world, result) = (world.clone(), result.clone());
        move || {
            let done = catch_unwind(AssertUnwindSafe(|| {
                world.first_turn(id);
                let value = f();
                *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
                world.finish(id);
            }));
            if let Err(panic) = done {
                if !panic.is::<Ended>() {
                    world.panicked(id, &text_of(&*panic));
                }
            }
        }
    };
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run).expect("a thread for a task");
    world.keep(thread);
    Task { world: world.clone(), id, result }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked").to_owned()
}
