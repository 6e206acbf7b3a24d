//! The checker: a workload from a seed, trouble from the same seed, and a model that sees both ends.
//!
//! Trouble ends at a set time; then everything must be through within a bound, and quiet.

mod model;
mod plan;
mod tasks;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::nodes::{PORT, SimulatedNodes, place};
use super::{Counts, Simulation, Task};
use crate::broker::host::Host;
use crate::broker::machine::{ClusterOptions, Machine};
use model::Model;
pub use model::Property;
use plan::worlds::World;
use plan::{Plan, Role, SILENT};
use tasks::TaskContext;

/// Everything is through this long after the last trouble: a cluster settles, the longest pause and the longest wait for
/// messages end. To that come the client's own time-outs, for connections that fell silent.
const THROUGH: Duration = Duration::from_secs(60);
/// The longest that consumers ask brokers to wait.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Readers that are not through by then must at least be given something this often.
const STANDSTILL: Duration = Duration::from_secs(5);
/// For how long the world must be quiet, and what counts as quiet, each second.
const QUIET: Duration = Duration::from_secs(10);
const QUIET_REQUESTS: u64 = 4;
/// Requests begun on connections that had ended, in a whole run: this many, and one more for each `TROUBLES` troubles and each
/// `STALE_CONNECTIONS` connections, because some brokers close those that are idle for half a second.
const STALE: u64 = 10;
const TROUBLES: u64 = 3;
const STALE_CONNECTIONS: u64 = 16;
/// Connections to nobody that a program may begin: one for each channel that knows no better address yet.
const TO_NOBODY: u64 = 3;
/// Bytes that reading reserves: up to two blocks, to which comes as much again as there is already.
const MAX_ROOM: usize = 2 << 20;
/// Connections a second that a task may begin to open, whatever goes wrong.
const CONNECTIONS: u64 = 6;

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The hash of everything that happened.
    pub hash: u64,
    /// Virtual time.
    pub time: Duration,
    /// Requests that nodes have answered.
    pub requests: u64,
    /// Records and messages, by outcome.
    pub counts: BTreeMap<&'static str, u64>,
}

fn requests(nodes: &SimulatedNodes, count: usize) -> u64 {
    let mut all = 0;
    nodes.look(&mut |machine: &Machine| all = (0..count).map(|node| machine.stats(node).all_requests()).sum());
    all
}

/// Runs a workload for about this much virtual time.
///
/// # Panics
/// If a property is violated: the text names it, the seed, and the last events.
pub fn run(seed: u64, time: Duration) -> Report {
    run_until(seed, time, None)
}

/// Runs the workload that measures speed: three nodes, twelve partitions, and random trouble.
///
/// # Panics
/// As [`run`].
pub fn run_standard(seed: u64, time: Duration) -> Report {
    run_plan(seed, Plan::of(World::Standard, seed, &[], time), None)
}

/// Runs a workload, and ends with a panic at this moment, to show what happened before it.
///
/// # Panics
/// As [`run`], and then.
pub fn run_until(seed: u64, time: Duration, until: Option<Duration>) -> Report {
    run_plan(seed, Plan::new(seed, &[], time), until)
}

/// Runs a workload and trouble that these bytes decide; once they are used up, their hash decides.
///
/// # Panics
/// As [`run`].
pub fn run_bytes(bytes: &[u8], time: Duration) -> Report {
    let seed = u64::from(crc32fast::hash(bytes));
    run_plan(seed, Plan::new(seed, bytes, time), None)
}

fn run_plan(seed: u64, plan: Plan, until: Option<Duration>) -> Report {
    let plan = Arc::new(plan);
    let sim = Simulation::new(seed);
    if let Some(until) = until {
        sim.set_time_limit(until);
    }
    sim.set_links(&plan.links);
    let _ = sim.client();
    let hosts: Vec<String> = (0..plan.nodes).map(|node| format!("node-{node}")).collect();
    let election = Duration::from_millis(400);
    let cluster = ClusterOptions { name: "simulated".into(), factor: plan.factor, election };
    let nodes = Arc::new(place(&sim, &hosts, plan.options.clone(), (plan.nodes > 1).then_some(cluster)));
    let topics: Vec<String> = (0..plan.partitions.len()).map(|topic| format!("topic-{topic}")).collect();
    for (topic, &count) in topics.iter().zip(&plan.partitions) {
        nodes.act(&mut |machine: &mut Machine, _| {
            machine.create_topic(topic, count, None);
        });
    }
    let model = Arc::new(Model::new(sim.clone(), nodes.clone(), topics, plan.nodes > 1, &plan));
    plan::schedule(&sim, &nodes, &plan, &hosts);
    let (observer, most) = (model.clone(), most_sockets(&plan));
    sim.every(Duration::from_millis(100), move || observer.look_around(most));
    if plan.retention {
        let observer = model.clone();
        sim.every(Duration::from_secs(3), move || observer.take_first());
    }
    let cx = TaskContext {
        sim: sim.clone(),
        model: model.clone(),
        plan: plan.clone(),
        brokers: brokers(&sim, &plan, &hosts),
        task: 0,
        over: Arc::new(AtomicBool::new(false)),
        handles: Arc::default(),
        shared: None,
    };
    let shared = (plan.world == World::Crowd).then(|| cx.client());
    let cx = TaskContext { shared, ..cx };
    let (workers, consumers) = begin(&sim, &cx);
    sim.sleep(plan.work_ends);
    settle(&sim, &cx, &workers);
    be_quiet(&sim, &cx, &nodes);
    cx.over.store(true, Ordering::Relaxed);
    let handles = cx.handles.lock().unwrap_or_else(PoisonError::into_inner).clone();
    handles.iter().for_each(crate::CloseHandle::close);
    workers.into_iter().chain(consumers).for_each(Task::join);
    model.finish();
    if plan.world == World::Backlog {
        model.check_turns(plan.roles.len() - 1);
    }
    let requests = requests(&nodes, plan.nodes);
    let Counts { connections, waits, stale, .. } = sim.counts();
    model.count("stale", stale);
    model.count("connections", connections);
    model.count("waits", waits);
    check_restraint(&sim, &cx, &nodes);
    Report { hash: sim.trace_hash(), time: sim.now(), requests, counts: model.counts() }
}

/// What clients are told of the nodes: their names, or addresses where a node known by both would be asked twice.
fn brokers(sim: &Simulation, plan: &Plan, hosts: &[String]) -> String {
    let name = |host: &String| match plan.world {
        World::Succession => format!("{}:{PORT}", sim.address_of(host)),
        _ => host.clone(),
    };
    hosts.iter().map(name).collect::<Vec<_>>().join(",")
}

/// Every task may have a connection to each node by its name and by its address, and one more while that is found out.
fn most_sockets(plan: &Plan) -> usize {
    plan.roles.len() * (plan.nodes * 3 + 2)
}

/// Whatever happened, there was no storm.
fn check_restraint(sim: &Simulation, cx: &TaskContext, nodes: &SimulatedNodes) {
    let seconds = sim.now().as_secs().max(1) * cx.plan.roles.len() as u64;
    let Counts { connections, stale, .. } = sim.counts();
    // Two answers may be awaited on one connection, of which the end is seen after the first.
    let most = STALE + cx.plan.troubles.len() as u64 / TROUBLES + connections / STALE_CONNECTIONS;
    if stale > most {
        cx.model.violated(Property::Quiet, &format!("{stale} requests were begun on connections that had ended"));
    }
    // A request that kills a node is sent twice, and then reported.
    let (mut deaths, reported) = (0, cx.model.counts().get("deadly").copied().unwrap_or(0));
    nodes.look(&mut |machine: &Machine| deaths = (0..cx.plan.nodes).map(|node| machine.deaths(node)).sum());
    if deaths > 2 * (reported + cx.plan.roles.len() as u64) {
        let text = format!("nodes died {deaths} times of requests, of which {reported} were reported");
        cx.model.violated(Property::Quiet, &text);
    }
    let excess = sim.excess_of_room();
    if excess > MAX_ROOM {
        let text = format!("{excess} bytes of memory beyond twice what was received: a claim alone buys none");
        cx.model.violated(Property::Room, &text);
    }
    let closed = cx.model.counts().get("closed").copied().unwrap_or(0);
    let subscriptions = cx.plan.roles.len() as u64 + closed;
    let nowhere = sim.connects_to_nobody();
    if nowhere > subscriptions * cx.plan.nodes as u64 * TO_NOBODY {
        cx.model.violated(Property::Quiet, &format!("{nowhere} connections to addresses at which nobody is"));
    }
    // Every subscription may need one to each leader.
    if connections > seconds * CONNECTIONS + subscriptions * cx.plan.nodes as u64 {
        let text = format!("{connections} connections in {:?} by {} tasks", sim.now(), cx.plan.roles.len());
        cx.model.violated(Property::Quiet, &text);
    }
}

fn begin(sim: &Simulation, cx: &TaskContext) -> (Vec<Task<()>>, Vec<Task<()>>) {
    let (mut workers, mut consumers) = (Vec::new(), Vec::new());
    for (role, task) in cx.plan.roles.iter().cloned().zip(0..) {
        let cx = TaskContext { task, ..cx.clone() };
        match role {
            Role::Producer { idempotent, places } => {
                let kind = if idempotent { "idempotent" } else { "producer" };
                let name = format!("{kind} {task}");
                workers.push(sim.spawn(&name, move || tasks::produce(&cx, idempotent, &places)));
            }
            Role::Publisher { places, rarely } => {
                workers.push(sim.spawn(&format!("publisher {task}"), move || tasks::publish(&cx, &places, rarely)));
            }
            Role::Consumer { places, restarts } => {
                let name = format!("consumer {task}");
                consumers.push(sim.spawn(&name, move || tasks::consume(&cx, &places, restarts)));
            }
            Role::Mirror { place } => {
                workers.push(sim.spawn(&format!("mirror {task}"), move || tasks::mirror(&cx, place)));
            }
            Role::Reader { places } if cx.plan.world == World::UntilTime => {
                workers.push(sim.spawn(&format!("reader {task}"), move || tasks::read_up_to_a_time(&cx, &places)));
            }
            Role::Reader { places } => {
                workers.push(sim.spawn(&format!("reader {task}"), move || tasks::read_to_the_end(&cx, &places)));
            }
            Role::Administrator => {
                workers.push(sim.spawn(&format!("administrator {task}"), move || tasks::administer(&cx)));
            }
        }
    }
    (workers, consumers)
}

/// Waits until everything is through: all work done, and all of it read.
fn settle(sim: &Simulation, cx: &TaskContext, workers: &[Task<()>]) {
    // Idle connections may have fallen silent too, and are found out one after the other: one more wait for each node.
    let silent = cx.plan.troubles.iter().any(|trouble| trouble.kind == SILENT);
    let waits = if silent { cx.plan.nodes as u32 } else { 0 };
    let again = waits * (LONGEST_WAIT + cx.plan.io_timeout);
    let through = THROUGH + cx.plan.io_timeout + cx.plan.connect_timeout + again;
    let end = cx.plan.trouble_ends + through;
    let wait = |what: &str, done: &dyn Fn() -> Option<String>| {
        let (mut delivered, mut moved) = (0, end);
        while let Some(missing) = done() {
            let (now, counts) = (sim.now(), cx.model.counts());
            let count = ["delivered", "appended"].iter().filter_map(|what| counts.get(what)).sum();
            if count > delivered {
                (delivered, moved) = (count, now);
            }
            // Reading or writing much over a long line, with replicas that lag, may take longer while it makes progress.
            if now > end && (now > moved + STANDSTILL || now > end + 10 * through) {
                cx.model.violated(Property::Progress, &format!("{through:?} after the trouble {what}: {missing}"));
            }
            sim.sleep(Duration::from_millis(100));
        }
    };
    wait("work is not done", &|| {
        let open = workers.iter().filter(|task| !task.is_finished()).count();
        (open > 0).then(|| format!("{open} tasks; {}", cx.model.unsettled()))
    });
    wait("not everything is read", &|| {
        let ends = cx.model.ends();
        let consumers = cx.plan.roles.iter().enumerate();
        let mut all = consumers.flat_map(|(task, role)| match role {
            Role::Consumer { places, .. } => places.iter().map(move |&place| (task, place)).collect(),
            _ => Vec::new(),
        });
        all.find_map(|(task, place)| {
            let (position, end) = (cx.model.position(task, place), ends.get(&place).copied().unwrap_or(0));
            let text = || {
                let (name, story) = (cx.model.name(place), cx.model.story(task, place));
                format!("consumer {task} is at {position} of {name}, which ends with {end}; {story}")
            };
            (position <= end && end > 0).then(text)
        })
    });
}

/// Looks whether a world in which nothing happens is quiet.
fn be_quiet(sim: &Simulation, cx: &TaskContext, nodes: &SimulatedNodes) {
    // While a node still dies of what it is asked for it is not quiet, nor while partitions wait for another leader.
    let is_settled = cx.plan.world != World::Gaps && cx.model.is_led_by_the_living();
    let before = (requests(nodes, cx.plan.nodes), sim.counts().connections);
    sim.sleep(QUIET);
    let after = (requests(nodes, cx.plan.nodes), sim.counts().connections);
    let read = cx.plan.roles.iter().map(|role| if let Role::Consumer { places, .. } = role { places.len() } else { 0 });
    let read = read.sum::<usize>() as u64;
    // Each partition may have a request of its own, and a broker may wait for just 320 ms. Where one has no leader who it is
    // is asked twice a pause.
    let most = QUIET.as_secs() * QUIET_REQUESTS * read * if is_settled { 1 } else { 2 };
    if after.0 - before.0 > most {
        let text = format!("{} requests in {QUIET:?} in which nothing happens", after.0 - before.0);
        cx.model.violated(Property::Quiet, &text);
    }
    // A node that closes idle connections may take one for idle that has just ended a wait, again and again.
    let closed = cx.plan.options.idle_timeout.map_or(0, |time| QUIET.div_duration_f64(time) as u64 * read);
    if is_settled && after.1 - before.1 > 2 * (read + 1) * cx.plan.nodes as u64 + closed {
        let text = format!("{} connections in {QUIET:?} in which nothing happens", after.1 - before.1);
        cx.model.violated(Property::Quiet, &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beside the unit tests, so that these alone kill most planted faults: as many as `SEEDS` says.
    #[test]
    fn a_few_seeds_violate_nothing() {
        let seeds = std::env::var("SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
        for seed in 0..seeds {
            run(seed, Duration::from_secs(30));
        }
    }
}
