use std::sync::Arc;
use std::time::Duration;

use super::super::partition::tests::marks;
use super::super::partition::{Partition, Rules, State};
use super::super::subscription::Subscription;
use super::*;
use crate::error::ErrorKind;
use crate::message::{Message, Names};
use crate::net::{RetryPolicy, parse_brokers};
use crate::protocol::bundle::{BundleBuilder, BundleHeader, Compression, RawMessage};
use crate::protocol::cursor::Cursor;

/// A bundle of these payloads as it travels, without its length.
fn encode(payloads: &[&[u8]], compression: Compression) -> Vec<u8> {
    encode_at(5, payloads, compression)
}

fn encode_at(timestamp_ms: u64, payloads: &[&[u8]], compression: Compression) -> Vec<u8> {
    let (mut builder, mut out) = (BundleBuilder::default(), Vec::new());
    for payload in payloads {
        builder.push(&RawMessage { timestamp_ms, key: None, payload }).unwrap();
    }
    builder.finish(compression, &mut out).unwrap();
    out
}

struct Setting {
    all: Partitions,
    buf: ReadBuf<TopicPartitions>,
    inbox: Inbox,
    next: u64,
}

impl Setting {
    /// One partition, and a read buffer of this many bytes.
    fn new(unit: usize) -> Setting {
        Setting::of(unit, |s| s)
    }

    fn of(unit: usize, what: fn(Subscription) -> Subscription) -> Setting {
        let options = what(Subscription::partition("t", 0)).options;
        let place = Partition::new(0, 1, marks(1, 100), &options);
        let retry = RetryPolicy { timeout: Duration::ZERO, pauses: (Duration::ZERO, Duration::ZERO), seed: 0 };
        let rules = Rules { names: Names::one("t", 0), options, in_cluster: false, bundle_limit: 1 << 28, retry };
        let mut all = Partitions::new(vec![place], &[], rules);
        all.with(0, |partition, _| partition.set_leader(parse_brokers("b:1").unwrap().remove(0)));
        let (buf, inbox) = (ReadBuf::new(unit, all.rules.names.clone()), Inbox::default());
        Setting { all, buf, inbox, next: 1 }
    }

    /// Receives these bundles, as a fetcher does. Returns whether more may be added.
    fn receive(&mut self, bundles: &[Vec<u8>]) -> bool {
        self.inbox.release();
        let new = self.inbox.bundles.len();
        let all = bundles.concat();
        self.buf.room(all.len()).get_mut(..all.len()).unwrap().copy_from_slice(&all);
        self.buf.filled(all.len());
        for bytes in bundles {
            let header = BundleHeader::decode(&mut Cursor::new(bytes, 0), &Limits::default()).unwrap();
            let (first, last) = header.range(Some(self.next), 0).unwrap();
            let set = self.buf.start() + header.len..self.buf.start() + bytes.len();
            let (count, codec) = (header.count, header.codec);
            self.inbox.bundles.push(Bundle {
                owner: 0,
                bundles: 1,
                codec,
                count,
                first,
                last,
                sparse: false,
                cut: false,
                from: 1,
                to: last.max(100),
                set,
                at: 0,
            });
            self.buf.consume(bytes.len());
            self.next = last + 1;
        }
        self.inbox.accept(new, &mut self.all, &self.buf)
    }

    /// The bundles that are not decoded yet.
    fn rest(&mut self) -> &mut [Bundle] {
        let taken = self.inbox.taken;
        &mut self.inbox.bundles[taken..]
    }

    fn decode(&mut self, most: u64) -> u64 {
        self.inbox.decode_next(&mut self.all, &Limits::default(), most)
    }

    fn pop_all(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.inbox.decoded.take_one()).collect()
    }
}

/// How many messages are decoded and not handed out.
fn left(s: &Setting) -> u64 {
    (s.inbox.decoded.entries().len() - s.inbox.decoded.taken().len()) as u64
}

#[test]
fn room_for_the_entries_of_an_outsized_bundle_is_not_kept() {
    let mut s = Setting::new(1 << 20);
    let many: Vec<&[u8]> = vec![b""; 60_000];
    let few = encode(&[b"1", b"2"], Compression::None);
    s.receive(&[encode(&many, Compression::None), few.clone()]);
    assert_eq!((s.decode(u64::MAX), s.pop_all().len()), (60_000, 60_000));
    assert!(s.inbox.decoded.capacity() >= 60_000);
    assert_eq!((s.decode(9), s.pop_all().len()), (2, 2));
    assert!(s.inbox.decoded.capacity() <= 1 << 15);
}

#[test]
fn an_error_comes_after_all_that_came_before_it() {
    let mut s = Setting::new(1 << 10);
    s.receive(&[encode(&[b"1", b"2"], Compression::None), encode(&[b"3"], Compression::Snappy)]);
    s.inbox.fail(Error::new(ErrorKind::Closed));
    s.inbox.fail(Error::config("a later one"));
    assert_eq!((s.decode(9), s.pop_all().len()), (2, 2));
    assert!(s.inbox.take_error().is_none());
    let delivered = s.inbox.delivered().map(|d| (d.index, d.position, d.messages, d.bundles));
    assert_eq!(delivered, Some((0, 3, 2, 1)));
    assert_eq!((s.decode(9), s.inbox.decoded.take_one().map(|message| message.seq())), (1, Some(3)));
    assert!(matches!(s.inbox.take_error(), Some(Error { kind: ErrorKind::Closed, .. })));
    assert!(s.inbox.take_error().is_none(), "once");
}

#[test]
fn a_bad_bundle_ends_what_came_after_it_too() {
    let mut s = Setting::new(1 << 10);
    let mut bad = encode(&[b"3"], Compression::None);
    *bad.last_mut().unwrap() = b'x';
    bad.push(0);
    s.receive(&[encode(&[b"1", b"2"], Compression::None), bad, encode(&[b"4"], Compression::None)]);
    assert_eq!((s.decode(9), s.pop_all().len()), (2, 2));
    assert_eq!((s.decode(9), s.inbox.has_bundles()), (0, false));
    let e = s.inbox.take_error().unwrap();
    assert!(e.kind == ErrorKind::Decode && e.broker() == Some("b:1"), "{e:?}");
}

#[test]
fn a_limit_keeps_back_the_rest() {
    let mut s = Setting::new(1 << 10);
    s.receive(&[encode(&[b"1", b"2", b"3"], Compression::None)]);
    assert_eq!((s.decode(2), s.pop_all().len()), (2, 2));
    assert_eq!(s.inbox.delivered().map(|delivered| delivered.position), Some(3));
}

#[test]
fn a_kept_message_keeps_a_block_of_its_size() {
    let large = vec![7; 900_000];
    for compression in [Compression::None, Compression::Snappy] {
        // The small ones come after a large one, whose memory they must not hold.
        let mut s = Setting::new(2 << 20);
        s.receive(&[encode(&[&large], compression)]);
        s.decode(9);
        s.pop_all();
        s.all.with(0, |partition, _| partition.advance(2));
        s.receive(&[encode(&[b"small"], compression)]);
        s.decode(9);
        let kept = s.pop_all().remove(0);
        let size = kept.block.bytes.len();
        assert!(kept.payload() == b"small" && size <= 1 << 10, "{compression:?}: {size} bytes");
        // One that nobody keeps is used again.
        let at = Arc::as_ptr(&kept.block);
        drop(kept);
        s.receive(&[encode(&[b"another"], compression)]);
        s.decode(9);
        assert_eq!(Arc::as_ptr(&s.inbox.decoded.take_one().unwrap().block), at);
    }
}

#[test]
fn it_tells_how_much_is_left_and_forgets_it() {
    let mut s = Setting::new(1 << 10);
    s.receive(&[encode(&[b"1", b"2", b"3"], Compression::None), encode(&[b"4"], Compression::None)]);
    assert_eq!((s.decode(9), left(&s), s.inbox.delivered()), (3, 3, None));
    s.inbox.decoded.take_one();
    assert_eq!((left(&s), s.inbox.decoded.has_messages(), s.inbox.has_bundles()), (2, true, true));
    assert_eq!(s.inbox.delivered().map(|of| (of.position, of.messages, of.timestamp_ms)), Some((2, 1, 5)));
    assert_eq!(s.inbox.decoded.take_all().map(|batch| batch.len()), Some(2));
    assert_eq!((left(&s), s.inbox.delivered().map(|of| of.position)), (0, Some(4)));
    s.inbox.fail(Error::new(ErrorKind::Closed));
    s.inbox.clear();
    assert!(!s.inbox.has_bundles() && !s.inbox.decoded.has_messages() && !s.inbox.is_error_due());
    assert!(
        s.inbox.delivered().is_none() && s.inbox.decoded.take_one().is_none() && s.inbox.decoded.take_all().is_none()
    );
}

#[test]
fn decoding_begins_before_the_list_grows_large() {
    let mut s = Setting::new(1 << 20);
    let one = encode(&[b"1"], Compression::None);
    assert!(s.receive(&vec![one.clone(); DECODE_AT - 1]));
    let mut s = Setting::new(1 << 20);
    assert!(!s.receive(&vec![one; DECODE_AT]));
}

#[test]
fn nothing_after_the_time_to_stop_at_is_handed_out() {
    use std::time::UNIX_EPOCH;
    // Messages have the time 5: all of them come before 6.
    let mut s = Setting::of(1 << 10, |s| s.stop_at_time(UNIX_EPOCH + Duration::from_millis(6)));
    s.receive(&[encode(&[b"1", b"2"], Compression::None)]);
    assert_eq!((s.decode(9), s.all.all_done()), (2, false));
    // A later bundle that came in before that was known is passed over.
    let mut s = Setting::of(1 << 10, |s| s.stop_at_time(UNIX_EPOCH + Duration::from_millis(5)));
    s.receive(&[encode(&[b"1"], Compression::None), encode_at(4, &[b"2"], Compression::None)]);
    assert_eq!((s.decode(9), s.inbox.has_bundles(), left(&s)), (0, false, 0));
    assert_eq!(s.all.get(0).position(), 1, "nothing was delivered");
}

#[test]
fn the_position_moves_over_numbers_without_messages_once_all_of_a_bundle_is_handed_out() {
    for (most, position) in [(9, 8), (2, 3), (3, 8)] {
        let mut s = Setting::new(1 << 10);
        s.receive(&[encode(&[b"1", b"2", b"3"], Compression::None)]);
        let bundle = &mut s.rest()[0];
        // The numbers 4 to 7 are in the bundle, and no messages.
        bundle.last = 7;
        s.decode(most);
        s.pop_all();
        assert_eq!(s.inbox.delivered().map(|of| of.position), Some(position), "{most}");
    }
}

#[test]
fn an_error_is_due_once_nothing_else_is() {
    let mut s = Setting::new(1 << 10);
    assert!(!s.inbox.is_error_due() && s.inbox.take_error().is_none());
    s.receive(&[encode(&[b"1"], Compression::None)]);
    s.inbox.fail(Error::new(ErrorKind::Closed));
    assert!(!s.inbox.is_error_due() && s.inbox.take_error().is_none(), "a bundle is left");
    s.decode(9);
    assert!(!s.inbox.is_error_due() && s.inbox.take_error().is_none(), "a message is left");
    s.pop_all();
    assert!(s.inbox.is_error_due());
}

#[test]
fn what_is_wanted_ends_a_bundle_that_goes_on() {
    let mut s = Setting::of(1 << 10, |s| s.stop_at_seq(5));
    s.receive(&[encode(&[b"1", b"2", b"3"], Compression::None)]);
    let bundle = &mut s.rest()[0];
    (bundle.last, bundle.to) = (7, 5);
    s.decode(9);
    s.pop_all();
    assert_eq!(s.inbox.delivered().map(|of| of.position), Some(6));
}

#[test]
fn a_buffer_in_which_nothing_is_wanted_is_not_held() {
    let mut s = Setting::new(1 << 10);
    s.all.with(0, |partition, _| partition.set_state(State::Done));
    s.receive(&[encode(&[b"1"], Compression::None)]);
    assert!(!s.inbox.has_bundles() && Arc::strong_count(s.buf.block()) == 1);
}
