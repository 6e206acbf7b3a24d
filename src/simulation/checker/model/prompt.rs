//! That who reads is soon given something, once nothing is wrong any more.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Model, Property};
use crate::broker::host::Host;
use crate::broker::machine::Machine;
use crate::net::Time;
use crate::simulation::checker::plan::{Place, Plan};

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What is promised, and what excuses delay.
#[derive(Debug)]
pub(super) struct Prompt {
    within: Duration,
    /// When each trouble begins and ends, but for nodes that never return: for those partitions get another leader.
    troubles: Vec<(Duration, Duration)>,
}

impl Prompt {
    pub(super) fn of(plan: &Plan) -> Option<Prompt> {
        let ends = plan.troubles.iter().filter(|_| plan.stays_away.is_none());
        let pause = |lasts: Duration| if lasts.is_zero() { lasts } else { LONGEST_PAUSE };
        let end = |lasts: Duration| lasts + pause(lasts);
        let troubles = ends.map(|trouble| (trouble.begins, trouble.begins + end(trouble.lasts))).collect();
        plan.prompt.map(|within| Prompt { within, troubles })
    }

    /// Since when nothing is wrong, if nothing is.
    fn well_since(&self, now: Duration) -> Option<Time> {
        let begun = self.troubles.iter().filter(|(begin, _)| *begin <= now);
        let last = begun.map(|(_, end)| *end).max().unwrap_or(Duration::ZERO);
        (last <= now).then_some(Time::ZERO.after(last))
    }
}

impl Model {
    /// A subscription that stands.
    pub(in super::super) fn subscribed(&self, consumer: usize) {
        let now = Time::ZERO.after(self.sim.now());
        let mut inner = self.lock();
        let mine = inner.deliveries.iter_mut().filter(|((task, _), _)| *task == consumer);
        mine.for_each(|(_, entry)| entry.stands = Some(now));
    }

    /// Whoever could be given something was given something lately.
    pub(super) fn check_prompt(&self) {
        let Some(prompt) = &self.prompt else { return };
        let now = self.sim.now();
        let Some(well) = prompt.well_since(now) else { return };
        let inner = self.lock();
        let mut given: BTreeMap<usize, Time> = BTreeMap::new();
        let mut waiting: BTreeMap<usize, (Time, Place)> = BTreeMap::new();
        for (&(consumer, place), entry) in &inner.deliveries {
            let last = entry.all.last().map_or(Time::ZERO, |(at, ..)| *at);
            given.entry(consumer).and_modify(|at| *at = last.max(*at)).or_insert(last);
            let next = inner.contents.range((place, entry.position.max(1))..=(place, u64::MAX)).next();
            let appended = next.and_then(|(_, ids)| inner.given.get(*ids.last()? as usize)?.appends.last());
            let led = inner.leaders.get(&place).and_then(|terms| terms.last()).filter(|term| term.leader.is_some());
            let (Some(stands), Some(appended), Some(led)) = (entry.stands, appended, led) else { continue };
            let since = well.max(stands).max(appended.at).max(led.at);
            waiting.entry(consumer).and_modify(|first| *first = (since, place).min(*first)).or_insert((since, place));
        }
        drop(inner);
        let late = |(consumer, (since, _)): &(usize, (Time, Place))| {
            Time::ZERO.after(now).since(given[consumer].max(*since)) > prompt.within
        };
        let found = waiting.into_iter().find(late);
        if let Some((consumer, (since, place))) = found.filter(|_| self.is_led_by_the_living()) {
            let name = self.name(place);
            let text = format!("consumer {consumer} is given nothing, at {now:?}, of {name} since {since:?}");
            self.violated(Property::Progress, &text);
        }
    }

    /// Whether no partition waits for another leader.
    fn is_led_by_the_living(&self) -> bool {
        let mut all = true;
        self.nodes.look(&mut |machine: &Machine| {
            for (topic, count) in machine.topics() {
                let leads = |id| machine.leader(&topic, id).flatten().is_some_and(|node| machine.listens(node));
                all &= (0..count).all(leads);
            }
        });
        all
    }

    /// Since when a record is to be stored.
    pub(in super::super) fn pending_since(&self, id: u32) -> Duration {
        self.lock().given.get(id as usize).map_or(Duration::ZERO, |given| given.since)
    }

    /// Whether a record that the task gave for the same partition after the first of these is in a log.
    pub(in super::super) fn has_later(&self, task: usize, ids: &[u32]) -> bool {
        self.observe();
        let inner = self.lock();
        let Some(&first) = ids.iter().min() else { return false };
        let place = inner.given.get(first as usize).map(|given| given.place);
        let later = inner.given.iter().skip(first as usize + 1);
        later.into_iter().any(|given| given.task == task && Some(given.place) == place && !given.appends.is_empty())
    }

    /// Bytes of the largest bundle of the first topic.
    pub(in super::super) fn largest_bundle(&self) -> u32 {
        let mut most = 0;
        self.nodes.look(&mut |machine: &Machine| most = machine.largest_bundle(&self.topics[0], 0));
        u32::try_from(most).unwrap_or(u32::MAX).max(1)
    }
}
