//! Trouble, as it is scheduled: each kind begins, and each is over when its time has come.

use std::sync::Arc;
use std::time::Duration;

use super::plan::{NO_DESCRIPTORS, Plan, SILENT, SLOW, SLOW_NAME, Trouble, fault, times};
use crate::broker::host::Host;
use crate::broker::machine::Machine;
use crate::net::Time;
use crate::simulation::nodes::Nodes;
use crate::simulation::{Direction, Service, Simulation};

/// The host that clients are on.
pub(super) const CLIENT: &str = "client";

fn act(nodes: &Nodes, mut act: impl FnMut(&mut Machine, Time)) {
    nodes.act(&mut |machine, now| act(machine, now));
}

pub(super) fn schedule(sim: &Simulation, nodes: &Arc<Nodes>, plan: &Plan, hosts: &[String]) {
    let look_up = plan.look_up;
    hosts.iter().for_each(|host| sim.delay_name(host, look_up));
    for trouble in &plan.troubles {
        let (begin, end) = (trouble.clone(), trouble.clone());
        let (world, machine, names) = (sim.clone(), nodes.clone(), hosts.to_vec());
        sim.after(trouble.begins, move || begins(&world, &machine, &begin, &names, look_up));
        let (world, machine, names) = (sim.clone(), nodes.clone(), hosts.to_vec());
        sim.after(trouble.begins + trouble.lasts, move || ends(&world, &machine, &end, &names, look_up));
    }
    let (world, machine, names, away) = (sim.clone(), nodes.clone(), hosts.to_vec(), plan.stays_away);
    sim.after(plan.trouble_ends, move || heal(&world, &machine, &names, away));
}

fn begins(sim: &Simulation, nodes: &Nodes, trouble: &Trouble, hosts: &[String], look_up: Duration) {
    let (node, host) = (trouble.node, hosts[trouble.node].as_str());
    match trouble.kind {
        0 | 1 => act(nodes, |machine, now| machine.kill(now, node)),
        2 => act(nodes, |machine, now| machine.stop_in_order(now, node)),
        3 | 4 => act(nodes, |machine, now| machine.pause(now, node)),
        5 => act(nodes, |machine, now| machine.isolate(now, node, true)),
        6 => sim.separate(CLIENT, host),
        7 => sim.separate_one_way(CLIENT, host),
        8 => sim.separate_one_way(host, CLIENT),
        9 => sim.cut(host),
        10 => sim.reset(host),
        SILENT => sim.silence(host, Direction::ToClient),
        12 => sim.slow_down(host, Duration::ZERO..Duration::from_millis(trouble.number % 2000)),
        13 => {
            let services = [Service::Http, Service::Mute, Service::Greeting(b"220 mail.example ESMTP\r\n".to_vec())];
            sim.take_over(host, services[trouble.number as usize % 3].clone());
        }
        14 => sim.jump_wall_clock((trouble.number % 7_200_000) as i64 - 3_600_000),
        15 => act(nodes, |machine, _| machine.refuse(node)),
        16 => act(nodes, |machine, now| machine.disconnect_all(now, node)),
        SLOW_NAME => sim.delay_name(host, look_up.max(SLOW)),
        23 => sim.fail_name(host, true),
        NO_DESCRIPTORS => sim.limit_descriptors(CLIENT, Some(sim.open_sockets(CLIENT) + (trouble.number % 3) as usize)),
        _ => act(nodes, |machine, _| machine.inject(node, fault(trouble.number), times(trouble.number))),
    }
}

fn ends(sim: &Simulation, nodes: &Nodes, trouble: &Trouble, hosts: &[String], look_up: Duration) {
    let (node, host) = (trouble.node, hosts[trouble.node].as_str());
    match trouble.kind {
        0..=2 | 15 => act(nodes, |machine, now| machine.start(now, node)),
        3 | 4 => act(nodes, |machine, now| machine.resume(now, node)),
        5 => act(nodes, |machine, now| machine.isolate(now, node, false)),
        6..=8 => sim.rejoin(CLIENT, host),
        12 => sim.slow_down(host, Duration::ZERO..Duration::ZERO),
        13 => sim.take_over(host, None),
        SLOW_NAME => sim.delay_name(host, look_up),
        23 => sim.fail_name(host, false),
        NO_DESCRIPTORS => sim.limit_descriptors(CLIENT, None),
        17.. => act(nodes, |machine, _| {
            machine.clear_faults(node);
            machine.release(node);
        }),
        _ => {}
    }
}

/// Ends all trouble, whatever overlapped, but that of a node that stays away.
fn heal(sim: &Simulation, nodes: &Nodes, hosts: &[String], away: Option<usize>) {
    sim.limit_descriptors(CLIENT, None);
    for (node, host) in hosts.iter().enumerate() {
        sim.rejoin(CLIENT, host);
        sim.slow_down(host, Duration::ZERO..Duration::ZERO);
        sim.take_over(host, None);
        sim.fail_name(host, false);
        act(nodes, |machine, now| {
            machine.resume(now, node);
            if Some(node) != away {
                machine.start(now, node);
            }
            machine.isolate(now, node, false);
            machine.clear_faults(node);
            machine.release(node);
        });
    }
}
