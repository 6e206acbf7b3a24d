//! What can be done to the network, by host names.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use super::Simulation;
use super::conns::{ConnId, HostId, Link, Way};
use super::hosts::Service;
use super::trace::TraceEvent;
use super::world::State;
use crate::protocol::limits::setters;

/// One direction between a client and a server.
///
/// ```
/// use std::time::Duration;
/// use tank_client::Record;
/// use tank_client::simulation::{Direction, Simulation};
///
/// let sim = Simulation::new(1);
/// let broker = sim.broker();
/// broker.create_topic("orders", 1);
/// let client = sim.client().io_timeout(Duration::from_secs(5)).connect(broker.brokers())?;
/// for (direction, arrived) in [(Direction::ToClient, 1), (Direction::ToServer, 1), (Direction::Both, 1)] {
///     client.topics()?;
///     sim.silence("client", direction);
///     let e = client.publish("orders", 0, &[Record::new("tea")]).unwrap_err();
///     assert!(e.is_outcome_unknown());
///     assert_eq!(broker.high_water_mark("orders", 0), arrived);
/// }
/// # Ok::<(), tank_client::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// What clients send.
    ToServer,
    /// What servers send.
    ToClient,
    /// Both.
    Both,
}

impl Direction {
    fn ways(self) -> &'static [Way] {
        match self {
            Direction::ToServer => &[Way::Up],
            Direction::ToClient => &[Way::Down],
            Direction::Both => &[Way::Up, Way::Down],
        }
    }
}

/// How bytes travel from one host to another.
///
/// ```
/// use std::time::Duration;
/// use tank_client::simulation::{LinkSettings, Simulation};
///
/// let sim = Simulation::new(1);
/// let broker = sim.broker();
/// let range = Duration::from_millis(50)..Duration::from_millis(60);
/// let far = LinkSettings::default().latency(range.clone()).bandwidth(1_000_000).fragment_one_in(2);
/// sim.set_links(&far);
/// let client = sim.client().connect(broker.brokers())?;
/// assert!(client.ping()? >= Duration::from_millis(100));
///
/// // A line of its own for one host, and a server that is busy.
/// let near = sim.client_on("beside").connect(broker.brokers())?;
/// sim.set_link("beside", "broker", &LinkSettings::default());
/// near.ping()?; // does not overtake what is still under way
/// assert!(near.ping()? < Duration::from_millis(5));
/// sim.slow_down("broker", range);
/// assert!(near.ping()? >= Duration::from_millis(50));
/// # Ok::<(), tank_client::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "settings do nothing until links get them"]
pub struct LinkSettings {
    latency: Range<Duration>,
    bandwidth: u64,
    fragments: u64,
}

impl Default for LinkSettings {
    fn default() -> LinkSettings {
        let Link { latency, bandwidth, fragments, .. } = Link::default();
        let latency = Duration::from_nanos(latency.start)..Duration::from_nanos(latency.end);
        LinkSettings { latency, bandwidth, fragments }
    }
}

impl LinkSettings {
    setters! {
        /// The latency, chosen at random for each packet; none overtakes another. Default 50 to 500 microseconds.
        latency(range: Range<Duration>) => latency = range;

        /// How many bytes pass in a second, over all connections together; 0 for no limit. Default 125 million.
        bandwidth(bytes_per_second: u64) => bandwidth = bytes_per_second;

        /// Cuts one packet in `n` at some byte, so that it arrives in pieces; 0 for none. Default 16.
        fragment_one_in(n: u64) => fragments = n;
    }

    fn apply(&self, link: &mut Link) {
        link.latency = nanos(&self.latency);
        link.bandwidth = self.bandwidth;
        link.fragments = self.fragments;
    }
}

fn nanos(range: &Range<Duration>) -> Range<u64> {
    range.start.as_nanos() as u64..range.end.as_nanos() as u64
}

impl State {
    #[track_caller]
    fn host_named(&self, name: &str) -> HostId {
        let found = self.hosts.iter().position(|host| host.name == name);
        let Some(found) = found else {
            let known: Vec<&str> = self.hosts.iter().map(|host| host.name.as_str()).collect();
            panic!("no host {name}, but {}", known.join(", "))
        };
        found as HostId
    }

    fn conns_of(&self, host: HostId) -> Vec<ConnId> {
        self.conns.which(|conn| conn.client == host || conn.server == Some(host))
    }
}

/// The network. Hosts are called by their names: `client`, the names given to
/// [`client_on`](Simulation::client_on), `broker`, `node-0`, `node-1` and so on.
impl Simulation {
    #[track_caller]
    fn does(&self, what: impl FnOnce() -> String, act: impl FnOnce(&mut State)) {
        let mut state = self.world.lock();
        state.note(TraceEvent::Does(what()));
        act(&mut state);
    }

    /// Sets all links, also those of hosts that are added later.
    pub fn set_links(&self, settings: &LinkSettings) {
        self.does(
            || format!("links: {settings:?}"),
            |state| {
                settings.apply(&mut state.links.model);
                let hosts = state.hosts.len() as HostId;
                for from in 0..hosts {
                    (0..hosts).for_each(|to| settings.apply(state.links.get(from, to)));
                }
            },
        );
    }

    /// Sets the links between two hosts, both ways.
    ///
    /// # Panics
    /// If there is no such host. The same holds for every method that names one.
    #[track_caller]
    pub fn set_link(&self, one: &str, other: &str, settings: &LinkSettings) {
        self.does(
            || format!("links of {one} and {other}: {settings:?}"),
            |state| {
                let (one, other) = (state.host_named(one), state.host_named(other));
                settings.apply(state.links.get(one, other));
                settings.apply(state.links.get(other, one));
            },
        );
    }

    /// Delays everything a host sends by this long, as if it were overloaded. An empty range ends that.
    #[track_caller]
    pub fn slow_down(&self, host: &str, delay: Range<Duration>) {
        self.does(
            || format!("{host} is slow: {delay:?}"),
            |state| {
                let host = state.host_named(host);
                state.hosts[usize::from(host)].delay = nanos(&delay);
            },
        );
    }

    /// Lets nothing pass between two hosts, until [`rejoin`](Simulation::rejoin). Neither is told. What they send in the
    /// meantime is sent again afterwards, unless the sender's system gives up.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tank_client::Record;
    /// use tank_client::simulation::Simulation;
    ///
    /// let sim = Simulation::new(1);
    /// let broker = sim.broker();
    /// broker.create_topic("orders", 1);
    /// let impatient = sim.client_on("shop").retry_timeout(Duration::ZERO);
    /// let client = impatient.connect(broker.brokers())?;
    /// sim.separate("shop", "broker");
    /// assert!(client.topics().unwrap_err().is_timeout());
    /// sim.rejoin("shop", "broker");
    /// client.topics()?;
    ///
    /// // The request arrives, its answer does not.
    /// sim.separate_one_way("broker", "shop");
    /// let e = client.publish("orders", 0, &[Record::new("tea")]).unwrap_err();
    /// assert!(e.is_outcome_unknown());
    /// assert_eq!(broker.high_water_mark("orders", 0), 1);
    /// # Ok::<(), tank_client::Error>(())
    /// ```
    #[track_caller]
    pub fn separate(&self, one: &str, other: &str) {
        self.block(one, other, true);
        self.block(other, one, true);
    }

    /// Does the same as [`separate`](Simulation::separate), but only for bytes that `from` sends.
    #[track_caller]
    pub fn separate_one_way(&self, from: &str, to: &str) {
        self.block(from, to, true);
    }

    /// Ends a separation, in both directions.
    #[track_caller]
    pub fn rejoin(&self, one: &str, other: &str) {
        self.block(one, other, false);
        self.block(other, one, false);
    }

    #[track_caller]
    fn block(&self, from: &str, to: &str, blocked: bool) {
        self.does(
            || format!("{from} {} {to}", if blocked { "no longer reaches" } else { "reaches" }),
            |state| {
                let (from, to) = (state.host_named(from), state.host_named(to));
                state.set_blocked(from, to, blocked);
            },
        );
    }

    /// Cuts the connections of a host in order: both sides see the end of the stream (FIN).
    ///
    /// ```
    /// use tank_client::simulation::Simulation;
    ///
    /// let sim = Simulation::new(1);
    /// let broker = sim.broker();
    /// let client = sim.client().connect(broker.brokers())?;
    /// sim.cut("broker");
    /// client.topics()?; // notices it, and connects again
    /// sim.reset("broker");
    /// client.topics()?;
    /// assert_eq!(broker.stats().accepted, 3);
    /// # Ok::<(), tank_client::Error>(())
    /// ```
    #[track_caller]
    pub fn cut(&self, host: &str) {
        self.sever(host, false);
    }

    /// Resets the connections of a host, as a restarted firewall does: both sides see a RST.
    #[track_caller]
    pub fn reset(&self, host: &str) {
        self.sever(host, true);
    }

    #[track_caller]
    fn sever(&self, host: &str, abort: bool) {
        self.does(
            || format!("the connections of {host} are {}", if abort { "reset" } else { "cut" }),
            |state| {
                let host = state.host_named(host);
                state.conns_of(host).into_iter().for_each(|id| state.sever(id, abort));
            },
        );
    }

    /// Makes a host's present connections fall silent for ever: bytes sent on them are lost, and neither side is told, not even
    /// by a reset. New ones work.
    #[track_caller]
    pub fn silence(&self, host: &str, direction: Direction) {
        self.does(
            || format!("the connections of {host} fall silent: {direction:?}"),
            |state| {
                let host = state.host_named(host);
                for id in state.conns_of(host) {
                    if let Some(conn) = state.conns.get(id) {
                        direction.ways().iter().for_each(|&way| conn.pipe(way).silent = true);
                    }
                }
            },
        );
    }

    /// Cuts a node off from the other nodes, or ends that; clients still reach it. Its replicas lag, and messages of partitions
    /// that it leads are not confirmed.
    ///
    /// ```
    /// use tank_client::simulation::Simulation;
    /// use tank_client::{ErrorKind, Record};
    ///
    /// let sim = Simulation::new(1);
    /// let cluster = sim.cluster(3);
    /// cluster.create_topic("orders", 1);
    /// let client = sim.client().connect(cluster.brokers())?;
    /// sim.isolate("node-0", true); // the leader: it stores, but no replica confirms
    /// let e = client.publish("orders", 0, &[Record::new("tea")]).unwrap_err();
    /// assert!(e.kind == ErrorKind::OutcomeUnknown);
    /// sim.isolate("node-0", false);
    /// # Ok::<(), tank_client::Error>(())
    /// ```
    ///
    /// # Panics
    /// If it is no broker's host.
    #[track_caller]
    pub fn isolate(&self, host: &str, isolated: bool) {
        self.does(
            || format!("{host} is isolated: {isolated}"),
            |state| {
                let (now, index) = (state.now, usize::from(state.host_named(host)));
                let program = state.hosts[index].program;
                let (program, node) = program.unwrap_or_else(|| panic!("{host} is no broker's host"));
                if let Some(machine) = state.programs[program].machine_mut() {
                    machine.isolate(now, node, isolated);
                }
                state.changed(program);
            },
        );
    }

    /// Cuts a server's power: it falls silent, and forgets its connections.
    ///
    /// ```
    /// use tank_client::simulation::Simulation;
    ///
    /// let sim = Simulation::new(1);
    /// let broker = sim.broker();
    /// let client = sim.client().connect(broker.brokers())?;
    /// sim.power_off("broker");
    /// assert!(client.topics().unwrap_err().is_retryable());
    /// sim.power_on("broker");
    /// broker.restart()?;
    /// client.topics()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn power_off(&self, host: &str) {
        self.does(
            || format!("{host} loses power"),
            |state| {
                let host = state.host_named(host);
                state.power_off(host);
            },
        );
    }

    /// Gives a host its power back. Its broker must then be [restarted](crate::broker::Broker::restart).
    #[track_caller]
    pub fn power_on(&self, host: &str) {
        self.does(
            || format!("{host} has power"),
            |state| {
                let host = state.host_named(host);
                state.power_on(host);
            },
        );
    }

    /// Hands a server's address to another service, or back to the broker. Its connections are reset.
    ///
    /// ```
    /// use tank_client::simulation::{Service, Simulation};
    ///
    /// let sim = Simulation::new(1);
    /// let broker = sim.broker();
    /// for other in [Service::Http, Service::Greeting(b"220 mail.example\r\n".to_vec())] {
    ///     sim.take_over("broker", other);
    ///     let e = sim.client().connect(broker.brokers()).unwrap_err();
    ///     assert!(format!("{e:#}").contains("not a TANK broker"), "{e:#}");
    /// }
    /// sim.take_over("broker", Service::Mute); // the client waits for a greeting
    /// assert!(sim.client().connect(broker.brokers()).unwrap_err().is_timeout());
    /// sim.take_over("broker", None);
    /// sim.client().connect(broker.brokers())?;
    /// # Ok::<(), tank_client::Error>(())
    /// ```
    #[track_caller]
    pub fn take_over(&self, host: &str, service: impl Into<Option<Service>>) {
        let service = service.into();
        self.does(
            || format!("{host}: {service:?}"),
            |state| {
                let host = state.host_named(host);
                if state.hosts[usize::from(host)].service != service {
                    state.conns_of(host).into_iter().for_each(|id| state.sever(id, true));
                    state.hosts[usize::from(host)].service = service.clone();
                }
            },
        );
    }

    /// Limits how many sockets programs on a host may have open: one more fails with EMFILE. `None` for no limit.
    ///
    /// ```
    /// use tank_client::simulation::Simulation;
    ///
    /// let sim = Simulation::new(1);
    /// let broker = sim.broker();
    /// let client = sim.client().connect(broker.brokers())?;
    /// sim.limit_descriptors("client", Some(sim.open_sockets("client")));
    /// let e = sim.client().connect(broker.brokers()).unwrap_err();
    /// assert!(format!("{e:#}").contains("os error 24"), "{e:#}");
    /// client.topics()?; // has its connection
    /// # Ok::<(), tank_client::Error>(())
    /// ```
    #[track_caller]
    pub fn limit_descriptors(&self, host: &str, most: Option<usize>) {
        self.does(
            || format!("{host} may have {most:?} sockets"),
            |state| {
                let host = state.host_named(host);
                state.hosts[usize::from(host)].descriptors = most.unwrap_or(usize::MAX);
            },
        );
    }

    /// Makes a name resolve to these addresses from now on.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tank_client::simulation::Simulation;
    ///
    /// let sim = Simulation::new(1);
    /// let broker = sim.broker();
    /// sim.set_name("tank.example", &[sim.address_of("broker")]);
    /// sim.delay_name("tank.example", Duration::from_secs(3));
    /// sim.client().connect("tank.example")?;
    /// assert!(sim.now() >= Duration::from_secs(3));
    ///
    /// sim.fail_name("tank.example", true);
    /// assert!(sim.client().connect("tank.example").is_err());
    /// # Ok::<(), tank_client::Error>(())
    /// ```
    pub fn set_name(&self, name: &str, addresses: &[IpAddr]) {
        self.does(
            || format!("{name} is {addresses:?}"),
            |state| {
                let entry = state.names.entry(name);
                (entry.addresses, entry.fails) = (addresses.to_vec(), false);
            },
        );
    }

    /// Makes look-ups of a name fail, or work again.
    pub fn fail_name(&self, name: &str, fails: bool) {
        self.does(|| format!("{name} fails: {fails}"), |state| state.names.entry(name).fails = fails);
    }

    /// Makes look-ups of a name take this long, and blocks the caller for that time.
    pub fn delay_name(&self, name: &str, delay: Duration) {
        self.does(|| format!("{name} takes {delay:?}"), |state| state.names.entry(name).delay = delay);
    }

    /// Returns the address of a host.
    #[track_caller]
    pub fn address_of(&self, host: &str) -> IpAddr {
        let state = self.world.lock();
        state.hosts[usize::from(state.host_named(host))].ip
    }

    /// Returns how many sockets programs on a host have open.
    #[track_caller]
    pub fn open_sockets(&self, host: &str) -> usize {
        let state = self.world.lock();
        state.hosts[usize::from(state.host_named(host))].open
    }
}
