//! What kills nodes: a consumer finds it out with two deaths, and skips it.

use std::collections::BTreeMap;

use super::{Model, Property};
use crate::broker::host::Host;
use crate::broker::machine::Machine;
use crate::simulation::checker::plan::Place;

/// The client id of a task, as long as the usual one.
pub(in super::super) fn client_id(task: usize) -> String {
    format!("task {task:06}")
}

impl Model {
    /// How often fetches of a task for a partition have killed a node, by number.
    fn fetch_deaths(&self, task: usize, place: Place) -> BTreeMap<u64, u64> {
        let mut deaths = BTreeMap::new();
        let (client, topic) = (client_id(task), &self.topics[place.topic]);
        self.nodes.look(&mut |machine: &Machine| deaths = machine.fetch_deaths(&client, topic, place.partition));
        deaths
    }

    /// A consumer skips what kills nodes: nothing is asked of it there any more.
    pub(in super::super) fn skips(&self, consumer: usize, place: Place) {
        self.lock().deliveries.entry((consumer, place)).or_default().skips = true;
    }

    /// Whether a fetch of the present subscription for a partition has killed a node.
    pub(in super::super) fn is_deadly(&self, consumer: usize, place: Place) -> bool {
        let deaths = self.fetch_deaths(consumer, place);
        self.lock().deliveries.get(&(consumer, place)).is_some_and(|entry| deaths != entry.deaths)
    }

    /// A subscription to a partition is over, or begins: each number there may have killed two nodes, and one with the last
    /// request of the subscription before it, which a server executes late.
    pub(super) fn check_deaths(&self, consumer: usize, place: Place) {
        let deaths = self.fetch_deaths(consumer, place);
        let mut inner = self.lock();
        let entry = inner.deliveries.entry((consumer, place)).or_default();
        let before = std::mem::replace(&mut entry.deaths, deaths.clone());
        drop(inner);
        let new = |(seq, count): (&u64, &u64)| (*seq, count - before.get(seq).copied().unwrap_or(0));
        if let Some((seq, count)) = deaths.iter().map(new).find(|(_, count)| *count > 3) {
            let name = self.name(place);
            let text = format!("a subscription of consumer {consumer} killed {count} nodes with {seq} of {name}");
            self.violated(Property::Quiet, &text);
        }
    }

    /// A consumer begins, or begins again, at these numbers.
    pub(in super::super) fn begins(&self, consumer: usize, place: Place, position: u64) {
        self.check_deaths(consumer, place);
        let mut inner = self.lock();
        let entry = inner.deliveries.entry((consumer, place)).or_default();
        (entry.position, entry.began) = (position, entry.all.len());
    }
}
