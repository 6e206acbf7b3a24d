//! Bundles: header and message set, plain and through Snappy; what decodes is encoded again and comes back.

use tank_client::Compression;
use tank_client::Limits;
use tank_client::protocol::bundle::{BundleBuilder, BundleHeader, Codec, Entry, RawMessage};
use tank_client::protocol::cursor::Cursor;
use tank_client::protocol::stream::{Bundle, Good};
use tank_client::protocol::{DecodeError, compress};

use crate::input::Input;

/// The bundle ends where its chunk does, and is not all there.
const CUT: u8 = 1;
/// The message set that follows is plain and shall be compressed before it is decoded.
const PACK: u8 = 2;
/// Limits that small input can pass.
const TIGHT: u8 = 4;

/// Settings `u8`, first number wanted `u64`, highest `u64`, number of a dense bundle's first message `u64`, then the bundle.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let settings = input.u8();
    let (from, to, next) = (input.number::<8>(), input.number::<8>(), input.number::<8>());
    let (messages, message_set) = if settings & TIGHT == 0 { (1 << 20, 256 << 20) } else { (20, 200) };
    let limits = Limits::default().messages(messages).message_set(message_set);
    let mut cursor = Cursor::new(input.0, 0);
    let Ok(header) = BundleHeader::decode(&mut cursor, &limits) else { return };
    let BundleHeader { mut codec, count, sparse, len } = header;
    assert_eq!(len, input.0.len() - cursor.left());
    assert!(count > 0 && count <= messages);
    let Ok((first, last)) = header.range(Some(next), 0) else { return };
    assert!(first > 0 && last < u64::MAX && last - first >= u64::from(count) - 1);
    let cut = settings & CUT != 0;
    let mut set = cursor.rest().to_vec();
    if settings & PACK != 0 && codec == Codec::None {
        let mut packed = Vec::new();
        compress::compress(&mut snap::raw::Encoder::new(), &set, &mut packed);
        (codec, set) = (Codec::Snappy, packed);
    }
    let sparse = sparse.is_some();
    let bundle = Bundle {
        owner: 0,
        bundles: 1,
        codec,
        count,
        first,
        last,
        sparse,
        cut,
        from,
        to,
        set: 0..set.len(),
        at: len as u64,
    };

    let mut plain = vec![0xaa; 3];
    let unpacked = match codec {
        Codec::None => Ok(set.as_slice()),
        Codec::Snappy => compress::decompress(&mut snap::raw::Decoder::new(), &set, &limits, bundle.at, &mut plain)
            .map(|len| &plain[..len]),
    };
    let Ok(unpacked) = unpacked else {
        let most = (set.len() * 22).min(message_set as usize);
        assert!(plain.len() <= most.max(3), "{} bytes reserved for {} packed ones", plain.len(), set.len());
        return;
    };
    assert!(codec == Codec::None || unpacked.len() <= message_set as usize);
    if settings & PACK != 0
        && codec == Codec::Snappy
        && sparse == header.sparse.is_some()
        && header.codec == Codec::None
    {
        assert_eq!(unpacked, cursor.rest(), "what was packed comes back");
    }

    let mut wanted = Vec::new();
    let decoded = bundle.decode(unpacked, 0, &mut wanted, &mut Good::default());
    let mut all = Vec::new();
    let again = Bundle { from: 0, to: u64::MAX, ..bundle.clone() }.decode(unpacked, 0, &mut all, &mut Good::default());
    assert_eq!(decoded, again, "what is wanted does not change what is right");
    check(&all, &bundle, unpacked);
    all.retain(|entry| entry.seq >= from && entry.seq <= to);
    assert_eq!(all, wanted);
    if decoded.is_ok() && !cut {
        come_back(&bundle, unpacked, &limits);
    }
}

fn check(entries: &[Entry], bundle: &Bundle, set: &[u8]) {
    assert!(entries.len() <= bundle.count as usize && entries.len() <= set.len());
    let mut next = bundle.first;
    let mut at = 0;
    for (index, entry) in entries.iter().enumerate() {
        assert!(entry.seq >= next && entry.seq <= bundle.last, "{entry:?} in {bundle:?}");
        assert!(bundle.sparse || entry.seq == next);
        next = entry.seq + 1;
        let begin = entry.key().map_or(entry.payload().start, |key| key.start);
        assert!(begin > at && entry.payload().end <= set.len(), "{entry:?}");
        assert!(entry.key().is_none_or(|key| key.end < entry.payload().start && key.len() <= 255));
        at = entry.payload().end;
        assert!(index != 0 || entry.seq == bundle.first);
        assert!(index + 1 != bundle.count as usize || entry.seq == bundle.last);
    }
}

/// Packs all the messages again, and unpacks them.
fn come_back(bundle: &Bundle, set: &[u8], limits: &Limits) {
    let whole = Bundle { from: 0, to: u64::MAX, ..bundle.clone() };
    let mut entries = Vec::new();
    whole.decode(set, 0, &mut entries, &mut Good::default()).unwrap();
    assert_eq!(entries.len(), bundle.count as usize);
    let message = |entry: &Entry| RawMessage {
        timestamp_ms: entry.timestamp_ms,
        key: entry.key().map(|key| &set[key]),
        payload: &set[entry.payload()],
    };
    for compression in [Compression::None, Compression::Snappy] {
        let mut builder = BundleBuilder::default();
        for entry in &entries {
            let pushed = match bundle.sparse {
                true => builder.push_at(entry.seq, &message(entry)),
                false => builder.push(&message(entry)),
            };
            // The wire has room for more messages than a server should be sent.
            if pushed.is_err() {
                assert!(entries.len() > 65_535);
                return;
            }
        }
        let mut bytes = Vec::new();
        builder.finish(compression, &mut bytes).unwrap();
        let (set_again, entries_again) = decode(&bytes, bundle.first, limits).unwrap();
        assert_eq!(entries_again.len(), entries.len());
        for (a, b) in entries.iter().zip(&entries_again) {
            assert_eq!((a.seq, a.timestamp_ms), (b.seq, b.timestamp_ms));
            assert_eq!(a.key().map(|key| &set[key]), b.key().map(|key| &set_again[key]));
            assert_eq!(set[a.payload()], set_again[b.payload()]);
        }
    }
}

fn decode(bytes: &[u8], next: u64, limits: &Limits) -> Result<(Vec<u8>, Vec<Entry>), DecodeError> {
    // Sharing less than the peer did can make the set longer.
    let limits = limits.clone().message_set(u32::MAX);
    let mut cursor = Cursor::new(bytes, 0);
    let header = BundleHeader::decode(&mut cursor, &limits)?;
    let (first, last) = header.range(Some(next), 0)?;
    let BundleHeader { codec, count, sparse, .. } = header;
    let (set, sparse) = (0..cursor.left(), sparse.is_some());
    let bundle = Bundle {
        owner: 0,
        bundles: 1,
        codec,
        count,
        first,
        last,
        sparse,
        cut: false,
        from: 0,
        to: u64::MAX,
        set,
        at: 0,
    };
    let mut plain = cursor.rest().to_vec();
    if codec == Codec::Snappy {
        plain.clear();
        compress::decompress(&mut snap::raw::Decoder::new(), cursor.rest(), &limits, bundle.at, &mut plain)?;
    }
    let mut entries = Vec::new();
    bundle.decode(&plain, 0, &mut entries, &mut Good::default())?;
    Ok((plain, entries))
}
