//! The network without a broker: an echo server, and tasks that talk to it through the seam.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::hosts::{Call, End, Program, Pull, Service};
use super::{Direction, LinkSettings, Simulation};
use crate::config::Config;
use crate::net::{Closed, Interest, Network, Socket, Time};

/// Greets with a `!`, sends back what it is sent, and notes how connections end.
#[derive(Debug, Default)]
struct Echo {
    calls: BTreeMap<Call, (Vec<u8>, bool)>,
    ready: Vec<Call>,
    last: u64,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    paused: bool,
    refuses: bool,
    heard: Vec<u8>,
    ends: Vec<End>,
}

impl Program for Echo {
    fn listens(&self, _: usize) -> bool {
        !self.shared.lock().unwrap().refuses
    }

    fn accepts(&self, _: usize) -> bool {
        !self.shared.lock().unwrap().paused
    }

    fn accept(&mut self, _: Time, node: usize, _: IpAddr) -> Option<Call> {
        self.last += 1;
        let call = Call { node, id: self.last };
        self.calls.insert(call, (b"!".to_vec(), false));
        self.ready.push(call);
        Some(call)
    }

    fn reads(&self, _: Call) -> bool {
        !self.shared.lock().unwrap().paused
    }

    fn handle(&mut self, _: Time, call: Call, bytes: &[u8]) {
        self.shared.lock().unwrap().heard.extend_from_slice(bytes);
        self.calls.get_mut(&call).unwrap().0.extend_from_slice(bytes);
        self.ready.push(call);
    }

    fn ended(&mut self, _: Time, call: Call, how: End) {
        self.shared.lock().unwrap().ends.push(how);
        if how == End::Fin {
            self.calls.get_mut(&call).unwrap().1 = true;
            self.ready.push(call);
        } else {
            self.calls.remove(&call);
        }
    }

    fn ready(&mut self) -> Option<Call> {
        self.ready.pop()
    }

    fn pull(&mut self, _: Time, call: Call, room: &mut [u8]) -> Pull {
        let Some((bytes, ended)) = self.calls.get_mut(&call) else { return Pull::Nothing };
        let n = bytes.len().min(room.len());
        room[..n].copy_from_slice(&bytes[..n]);
        bytes.drain(..n);
        match (n, *ended) {
            (0, true) => Pull::Close,
            (0, false) => Pull::Nothing,
            _ => Pull::Bytes(n),
        }
    }

    fn tick(&mut self, _: Time) {}

    fn due(&self) -> Time {
        Time::NEVER
    }

    fn killed(&mut self, _: Time, _: usize) {
        self.calls.clear();
    }
}

struct World {
    sim: Simulation,
    net: Arc<dyn Network>,
    echo: Arc<Mutex<Shared>>,
    to: SocketAddr,
}

fn world(seed: u64) -> World {
    let sim = Simulation::new(seed);
    let echo = Echo::default();
    let shared = echo.shared.clone();
    let ip = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1));
    let mut state = sim.world.lock();
    state.programs.push(Box::new(echo));
    state.add_host("echo", ip, 7, Some((0, 0)));
    drop(state);
    sim.set_name("echo", &[ip]);
    let net = sim.network("client");
    World { sim, net, echo: shared, to: SocketAddr::new(ip, 7) }
}

fn after(net: &dyn Network, time: Duration) -> Time {
    net.now().after(time)
}

fn wait(net: &dyn Network, socket: &dyn Socket, write: bool, time: Duration) {
    net.poll(&mut [Interest { socket, read: !write, write, ready: &mut false }], None, after(net, time)).unwrap();
}

fn dial(world: &World) -> io::Result<Box<dyn Socket>> {
    let socket = world.net.connect(world.to, &Config { tcp_user_timeout: None, ..Config::default() })?;
    wait(&*world.net, &*socket, true, Duration::from_secs(200));
    socket.finish_connect()?;
    Ok(socket)
}

/// Reads this many bytes, or up to the end. Returns how the stream ended otherwise.
fn read(net: &dyn Network, socket: &dyn Socket, n: usize, time: Duration) -> io::Result<Vec<u8>> {
    let (mut bytes, mut room, until) = (Vec::new(), [0; 1000], after(net, time));
    while bytes.len() < n {
        let most = room.len().min(n - bytes.len());
        match socket.read(&mut room[..most]) {
            Ok(0) => return Ok(bytes),
            Ok(n) => bytes.extend_from_slice(&room[..n]),
            Err(e) if e.kind() == ErrorKind::WouldBlock && net.now() < until => {
                net.poll(&mut [Interest { socket, read: true, write: false, ready: &mut false }], None, until)?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(bytes)
}

fn write(net: &dyn Network, socket: &dyn Socket, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == ErrorKind::WouldBlock => wait(net, socket, true, Duration::from_secs(1000)),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

const LONG: Duration = Duration::from_secs(3600);

#[test]
fn bytes_come_back_in_order_and_time_passes() {
    let w = world(1);
    let socket = dial(&w).unwrap();
    assert_eq!(read(&*w.net, &*socket, 1, LONG).unwrap(), b"!");
    let text: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
    write(&*w.net, &*socket, &text).unwrap();
    assert_eq!(read(&*w.net, &*socket, text.len(), LONG).unwrap(), text);
    let now = w.sim.now();
    // Six ways of at most half a millisecond, and 600,000 bytes at a gigabit, in many packets.
    assert!(now > Duration::from_millis(3) && now < Duration::from_millis(60), "{now:?}");
    drop(socket);
    w.sim.sleep(Duration::from_secs(1));
    assert_eq!(w.echo.lock().unwrap().ends, [End::Fin]);
    assert_eq!(w.sim.open_sockets("client"), 0);
}

#[test]
fn a_poll_ends_when_its_time_has_come_and_not_before() {
    let w = world(1);
    let socket = dial(&w).unwrap();
    read(&*w.net, &*socket, 1, LONG).unwrap();
    let before = w.sim.now();
    wait(&*w.net, &*socket, false, Duration::from_secs(86_400));
    assert_eq!(w.sim.now() - before, Duration::from_secs(86_400));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let w = world(seed);
        let tasks: Vec<_> = (0..3)
            .map(|n| {
                let (net, to) = (w.net.clone(), w.to);
                w.sim.spawn(&format!("task {n}"), move || {
                    let socket = net.connect(to, &Config { tcp_user_timeout: None, ..Config::default() }).unwrap();
                    wait(&*net, &*socket, true, LONG);
                    write(&*net, &*socket, &[n; 5000]).unwrap();
                    read(&*net, &*socket, 5001, LONG).unwrap().len()
                })
            })
            .collect();
        assert_eq!(tasks.into_iter().map(super::Task::join).sum::<usize>(), 15_003);
        (w.sim.trace_hash(), w.sim.now(), w.sim.counts())
    };
    for seed in 0..50 {
        assert_eq!(run(seed), run(seed));
    }
    assert_ne!(run(1).0, run(2).0);
}

#[test]
fn connecting_fails_as_it_does_on_real_networks() {
    let w = world(1);
    w.echo.lock().unwrap().refuses = true;
    assert_eq!(dial(&w).err().unwrap().kind(), ErrorKind::ConnectionRefused);
    w.echo.lock().unwrap().refuses = false;
    let began = w.sim.now();
    w.sim.power_off("echo");
    assert_eq!(dial(&w).err().unwrap().kind(), ErrorKind::TimedOut);
    assert_eq!(w.sim.now() - began, Duration::from_secs(127));
    w.sim.power_on("echo");
    w.sim.separate("client", "echo");
    let sim = w.sim.clone();
    w.sim.after(Duration::from_secs(10), move || sim.rejoin("client", "echo"));
    let began = w.sim.now();
    assert!(dial(&w).is_ok());
    assert_eq!((w.sim.now() - began).as_secs(), 15, "the first handshake after the network came back");
    w.sim.limit_descriptors("client", Some(0));
    assert_eq!(dial(&w).err().unwrap().raw_os_error(), Some(24));
    assert_eq!(w.sim.open_sockets("client"), 0);
}

#[test]
fn connections_end_as_they_do_on_real_networks() {
    let w = world(1);
    let cut = dial(&w).unwrap();
    w.sim.cut("echo");
    assert_eq!(read(&*w.net, &*cut, 100, LONG).unwrap(), b"!");
    assert_eq!(read(&*w.net, &*cut, 100, LONG).unwrap(), b"");
    // Writing on is answered by a reset.
    write(&*w.net, &*cut, b"more").unwrap();
    w.sim.sleep(Duration::from_secs(1));
    assert_eq!(cut.write(b"more").unwrap_err().kind(), ErrorKind::ConnectionReset);

    let reset = dial(&w).unwrap();
    w.sim.reset("echo");
    w.sim.sleep(Duration::from_secs(1));
    assert_eq!(read(&*w.net, &*reset, 100, LONG).unwrap_err().kind(), ErrorKind::ConnectionReset);

    let silent = dial(&w).unwrap();
    read(&*w.net, &*silent, 1, LONG).unwrap();
    w.sim.silence("echo", Direction::ToClient);
    write(&*w.net, &*silent, b"unheard").unwrap();
    assert_eq!(read(&*w.net, &*silent, 1, LONG).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(w.echo.lock().unwrap().heard.ends_with(b"unheard"));

    let lost = dial(&w).unwrap();
    read(&*w.net, &*lost, 1, LONG).unwrap();
    w.sim.power_off("echo");
    w.sim.power_on("echo");
    write(&*w.net, &*lost, b"who are you").unwrap();
    assert_eq!(read(&*w.net, &*lost, 1, LONG).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn what_is_sent_over_a_separation_arrives_after_it() {
    let w = world(1);
    let socket = dial(&w).unwrap();
    read(&*w.net, &*socket, 1, LONG).unwrap();
    write(&*w.net, &*socket, b"before").unwrap();
    w.sim.separate("client", "echo");
    write(&*w.net, &*socket, b" after").unwrap();
    let sim = w.sim.clone();
    w.sim.after(Duration::from_secs(100), move || sim.rejoin("client", "echo"));
    assert_eq!(read(&*w.net, &*socket, 12, LONG).unwrap(), b"before after");
    assert!(w.sim.now() > Duration::from_secs(100));
}

#[test]
fn a_system_gives_up_when_it_was_told_to() {
    let w = world(1);
    let options = Config { tcp_user_timeout: Some(Duration::from_secs(60)), ..Config::default() };
    let socket = w.net.connect(w.to, &options).unwrap();
    read(&*w.net, &*socket, 1, LONG).unwrap();
    w.sim.separate("client", "echo");
    write(&*w.net, &*socket, b"hello").unwrap();
    let began = w.sim.now();
    assert_eq!(read(&*w.net, &*socket, 1, LONG).unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(w.sim.now() - began, Duration::from_secs(60));
}

#[test]
fn an_unread_request_is_executed_after_a_fin_and_dropped_after_a_reset() {
    for abort in [false, true] {
        let w = world(1);
        let socket = dial(&w).unwrap();
        read(&*w.net, &*socket, 1, LONG).unwrap();
        w.echo.lock().unwrap().paused = true;
        write(&*w.net, &*socket, b"request").unwrap();
        if abort {
            socket.abort()
        } else {
            drop(socket)
        }
        w.sim.sleep(Duration::from_secs(1));
        assert!(w.echo.lock().unwrap().heard.is_empty());
        w.echo.lock().unwrap().paused = false;
        w.sim.world.lock().changed(0);
        w.sim.sleep(Duration::from_secs(1));
        let echo = w.echo.lock().unwrap();
        let expected = if abort { (b"".as_slice(), End::Reset) } else { (b"request".as_slice(), End::Fin) };
        assert_eq!((echo.heard.as_slice(), echo.ends[0]), expected);
    }
}

#[test]
fn buffers_are_finite_when_nobody_reads() {
    let w = world(1);
    let socket = dial(&w).unwrap();
    read(&*w.net, &*socket, 1, LONG).unwrap();
    w.echo.lock().unwrap().paused = true;
    let (block, mut taken) = (vec![7; 100_000], 0);
    loop {
        match socket.write(&block) {
            Ok(n) => taken += n,
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::WouldBlock);
                let before = w.sim.now();
                wait(&*w.net, &*socket, true, Duration::from_secs(1));
                if w.sim.now() - before == Duration::from_secs(1) {
                    break;
                }
            }
        }
    }
    assert_eq!(taken, (256 << 10) + (512 << 10));
    w.echo.lock().unwrap().paused = false;
    w.sim.world.lock().changed(0);
    assert_eq!(read(&*w.net, &*socket, taken, LONG).unwrap().len(), taken);
}

#[test]
fn bandwidth_is_shared_and_latency_kept() {
    let w = world(1);
    let slow = LinkSettings::default().bandwidth(10_000).latency(Duration::from_secs(1)..Duration::from_secs(1));
    w.sim.set_link("client", "echo", &slow);
    let socket = dial(&w).unwrap();
    assert_eq!(w.sim.now(), Duration::from_secs(2));
    read(&*w.net, &*socket, 1, LONG).unwrap();
    write(&*w.net, &*socket, &[0; 20_000]).unwrap();
    read(&*w.net, &*socket, 20_000, LONG).unwrap();
    let took = w.sim.now().as_secs();
    assert!((6..=9).contains(&took), "{took}");
}

#[test]
fn an_address_is_taken_over_by_other_services() {
    let w = world(1);
    let answers = |service: Service| {
        w.sim.take_over("echo", service);
        let socket = dial(&w).unwrap();
        write(&*w.net, &*socket, b"hello").unwrap();
        read(&*w.net, &*socket, 100, Duration::from_secs(60))
    };
    assert!(answers(Service::Http).unwrap().starts_with(b"HTTP/1.1 400"));
    assert_eq!(answers(Service::Mute).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(answers(Service::Greeting(b"220 mail".to_vec())).unwrap_err().kind(), ErrorKind::WouldBlock);
    w.sim.take_over("echo", None);
    let socket = dial(&w).unwrap();
    write(&*w.net, &*socket, b"hello").unwrap();
    assert_eq!(read(&*w.net, &*socket, 6, LONG).unwrap(), b"!hello");
}

#[test]
fn names_change_take_time_and_fail() {
    let w = world(1);
    assert_eq!(w.net.resolve("Echo", 7).unwrap(), [w.to]);
    assert_eq!(w.net.resolve("10.9.9.9", 7).unwrap(), ["10.9.9.9:7".parse().unwrap()]);
    assert!(w.net.resolve("nobody", 7).is_err());
    w.sim.delay_name("echo", Duration::from_secs(12));
    w.sim.fail_name("echo", true);
    let sim = w.sim.clone();
    w.sim.after(Duration::from_secs(5), move || sim.set_name("echo", &["10.0.0.9".parse().unwrap()]));
    assert_eq!(w.net.resolve("echo", 7).unwrap(), ["10.0.0.9:7".parse().unwrap()]);
    assert_eq!(w.sim.now(), Duration::from_secs(12));
}

#[test]
fn closing_wakes_whoever_waits() {
    let w = world(1);
    let closed = Arc::new(Closed::default());
    let (net, flag) = (w.net.clone(), closed.clone());
    let task = w.sim.spawn("waiter", move || {
        net.poll(&mut [], Some(&flag), Time::NEVER).unwrap();
        net.poll(&mut [], Some(&flag), Time::NEVER).unwrap();
        net.now().since(Time::ZERO)
    });
    w.sim.after(Duration::from_secs(3), move || closed.close());
    assert_eq!(task.join(), Duration::from_secs(3));
}

#[test]
fn the_wall_clock_jumps_alone() {
    let w = world(1);
    let before = w.sim.wall_clock();
    w.sim.sleep(Duration::from_secs(10));
    w.sim.jump_wall_clock(-3_600_000);
    assert_eq!(before.duration_since(w.net.wall()).unwrap(), Duration::from_secs(3590));
    assert_eq!(w.sim.now(), Duration::from_secs(10));
}

#[test]
fn actions_come_in_their_order_and_again() {
    let sim = Simulation::new(7);
    let seen = Arc::new(Mutex::new(Vec::new()));
    for (delay, name) in [(3, "c"), (1, "a"), (1, "b")] {
        let seen = seen.clone();
        sim.after(Duration::from_secs(delay), move || seen.lock().unwrap().push(name));
    }
    let again = seen.clone();
    sim.every(Duration::from_secs(2), move || again.lock().unwrap().push("."));
    sim.sleep(Duration::from_millis(6500));
    assert_eq!(*seen.lock().unwrap(), ["a", "b", ".", "c", ".", "."]);
    assert_eq!(panic_of(|| Simulation::new(7).every(Duration::ZERO, || {})), "a period of zero");
}

fn panic_of(f: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let panic = std::panic::catch_unwind(f).unwrap_err();
    panic.downcast_ref::<String>().cloned().unwrap_or_else(|| (*panic.downcast_ref::<&str>().unwrap()).to_owned())
}

#[test]
fn a_world_in_which_nobody_can_go_on_says_so() {
    let text = panic_of(|| {
        let w = world(11);
        let socket = dial(&w).unwrap();
        read(&*w.net, &*socket, 1, LONG).unwrap();
        let sim = w.sim.clone();
        let sleeper = w.sim.spawn("sleeper", move || sim.sleep(Duration::from_secs(5)));
        let net = w.net.clone();
        w.sim.spawn("second", move || net.poll(&mut [], None, Time::NEVER));
        sleeper.join();
        wait(&*w.net, &*socket, false, Duration::MAX);
    });
    for part in [
        "nobody can go on",
        "seed 11",
        "main: waits for #1 (bytes), since 5.0",
        "sleeper: done",
        "second: waits for no",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(text.contains("#1 1 bytes arrive to the client"), "{text}");
}

#[test]
fn a_loop_without_a_pause_is_found() {
    let text = panic_of(|| {
        let w = world(1);
        let now = w.net.now();
        loop {
            w.net.poll(&mut [], None, now).unwrap();
        }
    });
    assert!(text.contains("no progress"), "{text}");
}

#[test]
fn a_panic_in_a_task_ends_the_world_and_is_told_in_main() {
    let text = panic_of(|| {
        let sim = Simulation::new(77);
        let other = sim.clone();
        sim.spawn("innocent", move || other.sleep(LONG));
        let other = sim.clone();
        sim.spawn("culprit", move || {
            other.sleep(Duration::from_secs(1));
            panic!("oh no");
        });
        sim.sleep(LONG);
    });
    assert!(text.contains("task culprit panicked: oh no") && text.contains("seed 77"), "{text}");
}

#[test]
fn an_action_must_not_block() {
    let text = panic_of(|| {
        let sim = Simulation::new(1);
        let other = sim.clone();
        sim.after(Duration::from_secs(1), move || other.sleep(LONG));
        sim.sleep(LONG);
    });
    assert!(text.contains("spawn"), "{text}");
}

#[test]
fn tasks_that_are_left_end_with_the_world() {
    let sim = Simulation::new(1);
    let other = sim.clone();
    let dropped = Arc::new(());
    let kept = dropped.clone();
    sim.spawn("left", move || {
        let _kept = kept;
        other.sleep(LONG);
    });
    sim.sleep(Duration::from_secs(1));
    assert_eq!(Arc::strong_count(&dropped), 2);
    drop(sim);
    assert_eq!(Arc::strong_count(&dropped), 1);
}

/// The network alone: `cargo test --release --lib -- --ignored --nocapture exchanges`.
#[test]
#[ignore = "a measurement"]
fn exchanges_a_second() {
    let w = world(1);
    let socket = dial(&w).unwrap();
    read(&*w.net, &*socket, 1, LONG).unwrap();
    let began = std::time::Instant::now();
    let n = 1_000_000;
    for _ in 0..n {
        write(&*w.net, &*socket, &[1; 100]).unwrap();
        read(&*w.net, &*socket, 100, LONG).unwrap();
    }
    println!("{:.0} a second", f64::from(n) / began.elapsed().as_secs_f64());
}

mod with_a_broker {
    use super::super::nodes::{SimulatedNodes, place};
    use super::*;
    use crate::broker::host::Host;
    use crate::broker::machine::{Behaviour, ClusterOptions, Machine, Options};

    fn cluster(sim: &Simulation, n: usize) -> SimulatedNodes {
        let names: Vec<String> = (0..n).map(|node| format!("node-{node}")).collect();
        let options = Options { behaviour: Behaviour::worst(sim.seed()), ..Options::default() };
        let cluster = ClusterOptions { name: "simulated".into(), factor: n, election: Duration::from_millis(400) };
        place(sim, &names, options, Some(cluster))
    }

    fn create(nodes: &SimulatedNodes, topic: &str, partitions: u16) {
        nodes.act(&mut |machine: &mut Machine, _| assert!(machine.create_topic(topic, partitions, None)));
    }

    #[test]
    fn a_client_asks_a_cluster_whose_nodes_die_and_hang() {
        let sim = Simulation::new(5);
        let nodes = Arc::new(cluster(&sim, 3));
        create(&nodes, "orders", 6);
        let client = sim.client().connect("node-0,node-1,node-2").unwrap();
        assert_eq!(client.topics().unwrap().len(), 1);
        assert!(sim.now() < Duration::from_millis(50), "{:?}", sim.now());
        let asked = nodes.clone();
        sim.after(Duration::from_secs(1), move || asked.act(&mut |machine, now| machine.kill(now, 0)));
        let asked = nodes.clone();
        sim.after(Duration::from_secs(30), move || asked.act(&mut |machine, now| machine.pause(now, 1)));
        for second in 0..100 {
            let found = client.partitions("orders");
            assert!(found.is_ok(), "{second}: {found:?}");
            assert!(client.status().is_ok());
            sim.sleep(Duration::from_secs(1));
        }
    }

    /// A client and a broker: `cargo test --release --lib -- --ignored --nocapture requests_a_second`.
    #[test]
    #[ignore = "a measurement"]
    fn requests_a_second() {
        let sim = Simulation::new(5);
        let nodes = cluster(&sim, 3);
        create(&nodes, "orders", 12);
        let client = sim.client().connect("node-0").unwrap();
        let began = std::time::Instant::now();
        let n = 200_000;
        for _ in 0..n {
            client.status().unwrap();
        }
        println!("{:.0} a second", f64::from(n) / began.elapsed().as_secs_f64());
    }
}
