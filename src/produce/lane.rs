//! A partition that a producer publishes to: what is collected, waits and is on its way, in order.

use std::collections::VecDeque;
use std::sync::Arc;

use super::failure::Failure;
use super::options::Options;
use super::patience::{Patience, Verdict};
use crate::error::{Error, Fault, Result};
use crate::net::BrokerAddr;
use crate::net::old::Deadline;
use crate::protocol::bundle::{BundleBuilder, Compression, RawMessage};
use crate::protocol::produce::ProduceCode;
use crate::session::Session as Shared;

/// The order of a partition's records, and what becomes of them.
///
/// Several bundles may be on their way. One that the broker refuses for now is sent again only if none behind it was
/// stored; until that is clear nothing else is sent. One that failed for good takes with it all behind it that is not stored.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) topic: Arc<str>,
    pub(super) partition: u16,
    pub(super) builder: BundleBuilder,
    /// When what is collected has to go.
    pub(super) due: Option<Deadline>,
    /// Sealed, the first to go first.
    pub(super) waiting: VecDeque<Bundle>,
    flying: VecDeque<Flying>,
    /// Where those on their way went.
    pub(super) addr: Option<BrokerAddr>,
    pub(super) patience: Patience,
    /// What became of a bundle that failed for good, until nothing is on its way any more.
    cause: Option<Arc<Error>>,
    sealed: u64,
    /// The last in order of those stored, counted from 1.
    stored: u64,
    /// The next sequence number, for a producer that numbers.
    pub(super) next_seq: Option<u64>,
    /// Whether the high-water mark has to tell what of `waiting` is stored already.
    pub(super) in_doubt: bool,
    pub(super) is_ready: bool,
}

/// Records sealed for sending.
#[derive(Debug)]
pub(super) struct Bundle {
    pub(super) bytes: Vec<u8>,
    pub(super) count: u32,
    /// First and last number, if it has numbers.
    pub(super) range: Option<(u64, u64)>,
    order: u64,
    /// Whether it was sent without a clear answer.
    doubtful: bool,
}

/// A bundle on its way, or back and not stored.
#[derive(Debug)]
struct Flying {
    request_id: u32,
    bundle: Bundle,
    back: Option<Error>,
}

/// What a producer has achieved.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) stored: u64,
    pub(super) failed: u64,
    pub(super) failures: Vec<Failure>,
    /// Memory for bundles to come.
    pub(super) spare: Vec<Vec<u8>>,
}

/// How many buffers to keep.
const SPARE: usize = 16;

impl Ledger {
    fn recycle(&mut self, mut bytes: Vec<u8>) {
        if self.spare.len() < SPARE {
            bytes.clear();
            self.spare.push(bytes);
        }
    }
}

impl Lane {
    pub(super) fn new(topic: Arc<str>, partition: u16) -> Lane {
        Lane {
            topic,
            partition,
            builder: BundleBuilder::new(),
            due: None,
            waiting: VecDeque::new(),
            flying: VecDeque::new(),
            addr: None,
            patience: Patience::default(),
            cause: None,
            sealed: 0,
            stored: 0,
            next_seq: None,
            in_doubt: false,
            is_ready: false,
        }
    }

    /// Appends a record to what is collected, with the next number if the lane has one.
    #[inline]
    pub(super) fn push(&mut self, raw: &RawMessage<'_>) -> Result<()> {
        match self.next_seq {
            None => self.builder.push(raw)?,
            Some(seq) => {
                self.builder.push_at(seq, raw)?;
                self.next_seq = Some(seq + 1);
            }
        }
        Ok(())
    }

    /// Makes a bundle of what is collected.
    pub(super) fn seal(&mut self, options: &Options, ledger: &mut Ledger) -> Result<()> {
        self.due = None;
        let mut bytes = ledger.spare.pop().unwrap_or_default();
        let (count, range) = (self.builder.count(), self.builder.sparse_range());
        options.seal(&mut self.builder, &mut bytes)?;
        self.sealed += 1;
        self.waiting.push_back(Bundle { bytes, count, range, order: self.sealed, doubtful: false });
        Ok(())
    }

    /// Whether nothing is on its way or waits.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.flying.is_empty()
    }

    /// Whether a bundle failed for good and others are still on their way.
    pub(super) fn is_failing(&self) -> bool {
        self.cause.is_some()
    }

    /// Whether its next bundle may be sent now; one at a time if it is numbered.
    pub(super) fn may_send(&self) -> bool {
        !self.waiting.is_empty()
            && self.cause.is_none()
            && self.flying.iter().all(|flying| flying.back.is_none())
            && (self.next_seq.is_none() || self.flying.is_empty())
            && self.patience.pause().is_none()
    }

    /// Records that are neither stored nor failed.
    pub(super) fn pending(&self) -> u64 {
        let sealed = self.waiting.iter().chain(self.flying.iter().map(|flying| &flying.bundle));
        u64::from(self.builder.count()) + sealed.map(|bundle| u64::from(bundle.count)).sum::<u64>()
    }

    /// Notes that the first waiting bundle was sent.
    pub(super) fn sent(&mut self, request_id: u32) {
        if let Some(bundle) = self.waiting.pop_front() {
            self.flying.push_back(Flying { request_id, bundle, back: None });
        }
    }

    /// What a code in this broker's answer means for the bundle that went with the request.
    pub(super) fn judge(&mut self, shared: &Shared, from: &BrokerAddr, request_id: u32, code: ProduceCode) -> Verdict {
        let passing =
            matches!(code, ProduceCode::Redirect(_) | ProduceCode::NoLeader | ProduceCode::InsufficientReplicas);
        // Of several that come back for the same reason only the first counts as trouble.
        if passing && self.flying.iter().any(|flying| flying.back.is_some()) {
            return Verdict::NotYet(Error::broker(&self.topic, self.partition, Fault::NoLeader));
        }
        let bundle = self.flying.iter().find(|flying| flying.request_id == request_id).map(|flying| &flying.bundle);
        let first_seq = bundle.and_then(|bundle| bundle.range).map_or(0, |(first, _)| first);
        self.patience.judge(shared, from, &self.topic, self.partition, first_seq, code)
    }

    /// Takes in what became of the bundle that went with this request.
    pub(super) fn answered(&mut self, shared: &Shared, request_id: u32, verdict: Verdict, ledger: &mut Ledger) {
        let Some(index) = self.flying.iter().position(|flying| flying.request_id == request_id) else { return };
        let numbered = self.next_seq.is_some();
        let flying = &mut self.flying[index];
        match verdict {
            Verdict::Stored => {
                if let Some(flying) = self.flying.remove(index) {
                    self.on_stored(flying.bundle, ledger);
                }
            }
            Verdict::NotYet(e) => flying.back = Some(e),
            // The number is taken: by this very bundle, if an earlier try of it was left in doubt.
            Verdict::Refused(e) | Verdict::Unknown(e)
                if numbered && flying.bundle.doubtful && self.patience.wait(shared) =>
            {
                flying.back = Some(e);
                self.in_doubt = true;
            }
            Verdict::Unknown(e) if numbered && self.patience.wait(shared) => {
                flying.bundle.doubtful = true;
                flying.back = Some(e);
                self.in_doubt = true;
            }
            Verdict::Unknown(e) => {
                let e = Error::unknown(&self.topic, self.partition, e);
                self.fail(index, e, ledger);
            }
            Verdict::Refused(e) if flying.bundle.doubtful => {
                let e = Error::unknown(&self.topic, self.partition, e);
                self.fail(index, e, ledger);
            }
            Verdict::Refused(e) => self.fail(index, e, ledger),
        }
        // Sending again what lies before something stored would change the order.
        while let Some(index) = self.flying.iter().position(|f| f.back.is_some() && f.bundle.order < self.stored) {
            let e = self.flying[index].back.take().unwrap_or_else(|| Error::config("refused"));
            self.fail(index, e, ledger);
        }
        self.settle(ledger);
    }

    fn on_stored(&mut self, bundle: Bundle, ledger: &mut Ledger) {
        ledger.stored += u64::from(bundle.count);
        self.stored = self.stored.max(bundle.order);
        self.patience.reset();
        ledger.recycle(bundle.bytes);
    }

    fn fail(&mut self, index: usize, e: Error, ledger: &mut Ledger) {
        if let Some(flying) = self.flying.remove(index) {
            let e = Arc::new(e);
            self.cause.get_or_insert_with(|| e.clone());
            self.report(&flying.bundle, e, ledger);
        }
    }

    fn report(&self, bundle: &Bundle, e: Arc<Error>, ledger: &mut Ledger) {
        ledger.failed += u64::from(bundle.count);
        ledger.failures.push(Failure::new(self.topic.clone(), self.partition, bundle, e));
    }

    /// Gives up what waits, the first of it for this reason.
    pub(super) fn give_up(&mut self, e: Error, ledger: &mut Ledger) {
        let Some(bundle) = self.waiting.pop_front() else { return };
        let e = if bundle.doubtful { Error::unknown(&self.topic, self.partition, e) } else { e };
        let e = Arc::new(e);
        self.cause.get_or_insert_with(|| e.clone());
        self.report(&bundle, e, ledger);
        self.settle(ledger);
    }

    /// Once every answer is there: takes back what can be sent again, or after a failure reports all that is left.
    fn settle(&mut self, ledger: &mut Ledger) {
        if self.flying.iter().any(|flying| flying.back.is_none()) {
            return;
        }
        self.addr = None;
        let Some(cause) = self.cause.take() else {
            while let Some(flying) = self.flying.pop_back() {
                self.waiting.push_front(flying.bundle);
            }
            return;
        };
        for Flying { bundle, back, .. } in std::mem::take(&mut self.flying) {
            let e = back.unwrap_or_else(|| Error::config("refused"));
            self.report(&bundle, Arc::new(e), ledger);
        }
        if !self.builder.is_empty() {
            // Of no use but to be taken apart again.
            let plain = Options { compression: Compression::None, ..Options::default() };
            let _ = self.seal(&plain, ledger);
        }
        let source = cause;
        for bundle in std::mem::take(&mut self.waiting) {
            let (topic, partition) = (self.topic.to_string(), self.partition);
            self.report(&bundle, Arc::new(Error::NotSent { topic, partition, source: source.clone() }), ledger);
        }
        self.due = None;
        self.next_seq = None;
        self.in_doubt = false;
        self.patience.reset();
    }

    /// Takes in a high-water mark: what lies below it is stored. Whether the rest can be sent.
    pub(super) fn reached(&mut self, high_water_mark: u64, ledger: &mut Ledger) -> bool {
        while let Some((first, last)) = self.waiting.front().and_then(|bundle| bundle.range) {
            if last > high_water_mark {
                return first > high_water_mark;
            }
            if let Some(bundle) = self.waiting.pop_front() {
                self.on_stored(bundle, ledger);
            }
        }
        true
    }
}
