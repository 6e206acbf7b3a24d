//! Which brokers to ask for which partitions, and the requests that do.

use log::debug;

use super::ConsumeIter;
use crate::consume::leader::Leader;
use crate::consume::tracks::TrackState;
use crate::error::Result;
use crate::net::BrokerAddr;
use crate::protocol::fetch::{FLAG_PREFER_LOCAL, FetchPartition, FetchRequest, FetchTopic, MAX_PARTITIONS};

/// The most bytes to ask for with one request. The answer's length is a 32-bit number that brokers do not guard, and
/// they may send more than was asked for.
const MAX_ASKED: u64 = 1 << 30;

/// How many leaders to know at most of which nothing is wanted now: a broker may name any number of others.
const MAX_REMEMBERED: usize = 256;

impl ConsumeIter {
    /// Asks the leaders for all partitions that are free to be asked for.
    pub(super) fn dispatch(&mut self) -> Result<()> {
        let mut wanted: Vec<(BrokerAddr, Vec<usize>)> = Vec::new();
        for index in 0..self.tracks.tracks.len() {
            if self.tracks.wake(index) != TrackState::Idle {
                continue;
            }
            self.tracks.check_position(index)?;
            let addr = self.broker_for(index);
            match wanted.iter_mut().find(|(leader, _)| *leader == addr) {
                Some((_, partitions)) => partitions.push(index),
                None => wanted.push((addr, vec![index])),
            }
        }
        self.drop_unused_leaders(&wanted);
        for (addr, partitions) in wanted {
            let turn = self.leaders.iter().position(|leader| leader.addr == addr).unwrap_or_else(|| {
                debug!("{addr}: joining the subscription");
                self.leaders.push(Leader::new(addr, &self.shared.config, &self.tracks.sources));
                self.leaders.len() - 1
            });
            let sent = match self.leaders[turn].bring_up(&self.closer) {
                Ok(true) => self.fetch(turn, &partitions),
                Ok(false) => Ok(()),
                Err(e) => Err(e),
            };
            if let Err(e) = sent {
                self.on_failure(turn, e, &partitions)?;
            }
        }
        Ok(())
    }

    /// Asks a leader at once for more of the partitions that it has just answered for, so that it sends while what came
    /// is being handed out.
    pub(super) fn fetch_ahead(&mut self, turn: usize, partitions: &[usize]) {
        let addr = &self.leaders[turn].addr;
        let goes_on =
            |&index: &usize| self.tracks.is_behind(index) && self.tracks.leader(index, &self.shared.book) == *addr;
        let partitions: Vec<usize> = partitions.iter().copied().filter(goes_on).collect();
        if let Err(e) = self.fetch(turn, &partitions) {
            // Learned when there is nothing left to hand out.
            self.leaders[turn].fail_next_read(e);
        }
    }

    /// The broker to ask for a partition: its leader, or while that one is down, another one that may know a successor.
    fn broker_for(&self, index: usize) -> BrokerAddr {
        let cluster = &self.shared.book;
        let leader = self.tracks.leader(index, cluster);
        let is_resting = |addr: &BrokerAddr| self.leaders.iter().any(|known| known.addr == *addr && known.is_resting());
        if !is_resting(&leader) {
            return leader;
        }
        cluster.brokers().into_iter().find(|addr| !is_resting(addr)).unwrap_or(leader)
    }

    /// Drops leaders that nothing is wanted of any more.
    fn drop_unused_leaders(&mut self, wanted: &[(BrokerAddr, Vec<usize>)]) {
        let paused = self.tracks.any_paused();
        for leader in &mut self.leaders {
            leader.set_wanted(wanted.iter().any(|(addr, _)| *addr == leader.addr));
        }
        // The others wait for their partitions, or remember how often they failed.
        let many = self.leaders.len() > MAX_REMEMBERED;
        self.leaders.retain(|leader| leader.is_used() || (!many && (paused || leader.has_failed())));
    }

    /// Sends as many requests for these partitions as it takes.
    fn fetch(&mut self, turn: usize, partitions: &[usize]) -> Result<()> {
        if !partitions.iter().any(|&index| self.tracks.waits_alone(index)) {
            return self.fetch_together(turn, partitions);
        }
        let (alone, together): (Vec<_>, Vec<_>) = partitions.iter().partition(|&&index| self.tracks.waits_alone(index));
        self.fetch_together(turn, &together)?;
        alone.into_iter().try_for_each(|index| self.fetch_together(turn, &[index]))
    }

    fn fetch_together(&mut self, turn: usize, partitions: &[usize]) -> Result<()> {
        let mut rest = partitions;
        while !rest.is_empty() {
            let mut asked = 0;
            let fits = |&&index: &&usize| {
                asked += u64::from(self.tracks.tracks[index].fetch_size);
                asked <= MAX_ASKED
            };
            let count = rest.iter().take(MAX_PARTITIONS).take_while(fits).count().max(1);
            let (now, later) = rest.split_at(count);
            rest = later;
            let (request, slots) = self.request_for(now);
            for &index in now {
                self.tracks.tracks[index].state = TrackState::InFlight;
            }
            self.leaders[turn].send(request, slots, &mut self.request)?;
        }
        Ok(())
    }

    /// A request for these partitions, and which of them its slots are: it names every topic once.
    fn request_for(&mut self, partitions: &[usize]) -> (FetchRequest, Vec<usize>) {
        let options = &self.tracks.options;
        let at_once = self.tracks.must_not_wait(partitions);
        let mut topics: Vec<(FetchTopic, Vec<usize>)> = Vec::new();
        for &index in partitions {
            let (source, track) = (&self.tracks.sources[index], &self.tracks.tracks[index]);
            let wanted =
                FetchPartition { partition: source.partition, seq: track.fetch_from, fetch_size: track.fetch_size };
            match topics.iter_mut().find(|(topic, _)| topic.name == source.topic) {
                Some((topic, slots)) => {
                    topic.partitions.push(wanted);
                    slots.push(index);
                }
                None => {
                    topics.push((FetchTopic { name: source.topic.clone(), partitions: vec![wanted] }, vec![index]));
                }
            }
        }
        let (topics, slots): (Vec<_>, Vec<_>) = topics.into_iter().unzip();
        let request_id = self.next_request_id;
        self.next_request_id = request_id.wrapping_add(1);
        let request = FetchRequest {
            client_version: if options.prefer_local { 3 } else { 2 },
            request_id,
            client_id: self.shared.config.client_id.clone(),
            max_wait_ms: if at_once { 0 } else { options.max_wait_ms() },
            min_bytes: options.min_bytes,
            flags: if options.prefer_local { FLAG_PREFER_LOCAL } else { 0 },
            topics,
        };
        (request, slots.concat())
    }
}
