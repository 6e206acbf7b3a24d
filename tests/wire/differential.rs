//! The decoder against a second one, as plain as can be: on what servers sent, on what chance makes, and on both
//! damaged, they find the same messages or both refuse.

use common::compare::{Verdict, compare};
use common::generate::{self, Packed, Shape};
use common::rng::{Rng, seeded};
use common::{captures, mutate};
use tank_client::Compression;
use tank_client::protocol::bundle::BundleBuilder;
use tank_client::protocol::fetch::FetchRequest;

/// Requests and the bytes that answer them.
type Case = (Vec<FetchRequest>, Vec<u8>);

fn recorded() -> Vec<Case> {
    captures::consuming().map(|capture| (capture.answered_fetches(), capture.stream())).collect()
}

fn generated(rng: &mut Rng) -> Case {
    let exchange = generate::exchange(rng, Shape::SMALL);
    (vec![exchange.request], exchange.frame)
}

#[test]
fn both_decoders_read_recorded_answers_alike() {
    let verdicts: Vec<Verdict> = recorded().iter().map(|(requests, bytes)| compare(requests, bytes)).collect();
    let count = |verdict| verdicts.iter().filter(|other| **other == verdict).count();
    // All but the hostile ones, one from a confused replica, and four connections that ended.
    assert_eq!([Verdict::Accepted, Verdict::Refused, Verdict::Unfinished].map(count), [148, 38, 4]);
}

#[test]
fn both_decoders_read_generated_answers_alike() {
    seeded(2000, |rng| {
        let (requests, bytes) = generated(rng);
        assert_eq!(compare(&requests, &bytes), Verdict::Accepted);
    });
}

#[test]
fn both_decoders_read_damaged_answers_alike() {
    let recorded: Vec<Case> = recorded().into_iter().filter(|(_, bytes)| (1..5000).contains(&bytes.len())).collect();
    let mut verdicts = [0; 3];
    seeded(20_000, |rng| {
        let (requests, mut bytes) = if rng.one_in(2) { rng.pick(&recorded) } else { generated(rng) };
        let other = &recorded[rng.below(recorded.len())].1;
        for _ in 0..rng.pick(&[1, 1, 1, 2, 5]) {
            mutate::damage(rng, &mut bytes, other);
        }
        if !rng.one_in(4) {
            mutate::mend_lengths(&mut bytes);
        }
        verdicts[compare(&requests, &bytes) as usize] += 1;
    });
    // Damage that is always seen at once, or never, would test little.
    let enough = verdicts.iter().sum::<usize>() < 20_000 || verdicts.iter().all(|count| *count > 500);
    assert!(enough, "{verdicts:?}");
}

/// Damage inside a bundle, around which everything fits; also to what is compressed afterwards.
#[test]
fn both_decoders_read_damaged_bundles_alike() {
    let mut verdicts = [0; 3];
    seeded(10_000, |rng| {
        let sparse = rng.one_in(2);
        let (count, first) = (rng.between(1, 6), rng.pick(&[1, 100, u64::MAX - (1 << 17)]));
        let messages = generate::messages(rng, first, count, 20, sparse);
        let Packed { bytes: mut bundle, ends, .. } =
            generate::pack(&mut BundleBuilder::default(), messages, sparse, Compression::None);
        let other = rng.bytes(40);
        mutate::damage(rng, &mut bundle, &other);
        if rng.one_in(2) && !bundle.is_empty() {
            let header = ends[0].min(bundle.len());
            bundle[0] = bundle[0] & !3 | 1;
            let set = snap::raw::Encoder::new().compress_vec(&bundle[header..]).unwrap();
            bundle.truncate(header);
            bundle.extend_from_slice(&set);
        }
        let mut chunk = Vec::new();
        for _ in 0..rng.pick(&[1, 1, 2]) {
            generate::put_varint(bundle.len() as u64, &mut chunk);
            chunk.extend_from_slice(&bundle);
        }
        if rng.one_in(3) {
            chunk.truncate(rng.between(1, chunk.len()));
        }
        let mark = rng.pick(&[u64::MAX, first + 1, first + count as u64]);
        let (request, bytes) = generate::one_chunk(rng.pick(&[0, first, first + 1]), Some(first), mark, &chunk);
        verdicts[compare(&[request], &bytes) as usize] += 1;
    });
    let enough = verdicts.iter().sum::<usize>() < 10_000 || (verdicts[0] > 1000 && verdicts[1] > 1000);
    assert!(enough && verdicts[2] == 0, "{verdicts:?}");
}
