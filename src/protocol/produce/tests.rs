use super::*;
use crate::protocol::bundle::{BundleBuilder, Compression, RawMessage};

fn bundle(seqs: &[u64]) -> Vec<u8> {
    let mut builder = BundleBuilder::default();
    let message = RawMessage { payload: b"x", ..RawMessage::default() };
    match seqs {
        [] => builder.push(&message).unwrap(),
        seqs => seqs.iter().for_each(|&seq| builder.push_at(seq, &message).unwrap()),
    }
    let mut out = Vec::new();
    builder.finish(Compression::Auto, &mut out).unwrap();
    out
}

fn request(bundle: &[u8]) -> ProduceRequest<'_> {
    let entry = |partition| ProducePartition { partition, first_seq: 0, bundle };
    ProduceRequest {
        client_version: CLIENT_VERSION,
        request_id: 7,
        client_id: "".into(),
        required_acks: 1,
        ack_timeout_ms: 250,
        with_seqnum: false,
        topics: vec![
            ProduceTopic { name: "a".into(), partitions: vec![entry(0), entry(65_534)] },
            ProduceTopic { name: "b".into(), partitions: vec![entry(0)] },
        ],
    }
}

#[test]
fn requests_come_back_as_they_went() {
    let dense = bundle(&[]);
    let sparse = bundle(&[5, 9]);
    let mut numbered = request(&sparse);
    numbered.with_seqnum = true;
    for topic in &mut numbered.topics {
        topic.partitions.iter_mut().for_each(|entry| entry.first_seq = 5);
    }
    let mut appended = request(&dense);
    appended.with_seqnum = true;
    for request in [request(&dense), request(&sparse), numbered, appended] {
        let mut out = Vec::new();
        request.encode(&mut out).unwrap();
        let entries: Vec<_> = request.topics.iter().flat_map(|topic| &topic.partitions).collect();
        let small = entries[0].bundle.len();
        for (small, left_out) in [(0, entries.len()), (small - 1, entries.len()), (small, 0)] {
            let (mut around, places) = request.encode_around(small).unwrap();
            assert_eq!(places.len(), left_out);
            for (&place, entry) in places.iter().zip(&entries).rev() {
                around.splice(place..place, entry.bundle.iter().copied());
            }
            assert_eq!(around, out);
        }
        let kind = Kind::from_id(out[0]).unwrap();
        assert_eq!(ProduceRequest::decode(kind, &out[5..]), Ok(request));
        for end in 5..out.len() {
            assert!(ProduceRequest::decode(kind, &out[5..end]).is_err(), "cut at {end}");
        }
    }
    assert!(ProduceRequest::decode(Kind::Consume, &[]).is_err());
}

#[test]
fn requests_that_harm_a_server_do_not_encode() {
    let good = bundle(&[]);
    let refused = |change: &dyn Fn(&mut ProduceRequest<'_>)| {
        let mut request = request(&good);
        change(&mut request);
        let mut out = vec![1];
        let e = request.encode(&mut out).unwrap_err();
        assert_eq!(out, [1], "nothing is left behind");
        (e.field, e.given)
    };
    let many = |count: u16| {
        let entry = |partition| ProducePartition { partition, first_seq: 0, bundle: &[4, 0] };
        (0..count).map(entry).collect()
    };
    assert_eq!(refused(&|r| r.topics.clear()), ("topics in a request", 0));
    assert_eq!(refused(&|r| r.topics[1].name = "a".into()), ("entries of a topic", 2));
    assert_eq!(refused(&|r| r.topics[0].partitions[1].partition = 0), ("entries of a partition", 2));
    assert_eq!(refused(&|r| r.topics[1].partitions.clear()), ("partitions of a topic", 0));
    assert_eq!(refused(&|r| r.topics[1].partitions = many(256)), ("partitions of a topic", 256));
    assert_eq!(refused(&|r| r.topics = vec![r.topics[0].clone(); 256]), ("topics in a request", 256));
    assert_eq!(refused(&|r| r.topics[0].name = "".into()), ("topic name, bytes", 0));
    assert_eq!(refused(&|r| r.topics[0].name = "x".repeat(256).into()), ("topic name, bytes", 256));
    assert_eq!(refused(&|r| r.client_id = "x".repeat(256).into()), ("client id, bytes", 256));
    assert_eq!(refused(&|r| r.client_version = 255), ("client version, low byte", 255));
    for (bytes, field, given) in [
        (&[][..], "bundle, bytes", 0),
        (&[0, 0, 0], "message count", 0),
        (&[0, 0x80, 0x80, 4], "message count", 65_536),
        (&[0, 0x80], "message count", 1),
        (&[6, 0], "bundle codec", 2),
        (&[0x84, 0], "bundle flags", 0x84),
        (&[0x44, 1], "first sequence number", 1),
        (&[0x44, 0, 0, 0, 0, 0, 0, 0, 0], "sequence number", 0),
        (&[0, 0x80, 0x80, 0x80, 0x80, 0x80, 1], "message count", u64::MAX),
    ] {
        let set = |r: &mut ProduceRequest<'_>| r.topics[0].partitions[0].bundle = bytes;
        assert_eq!(refused(&set), (field, given), "{bytes:x?}");
    }
}

#[test]
fn numbers_are_those_of_the_bundle() {
    let (dense, sparse) = (bundle(&[]), bundle(&[5, 9]));
    for (bytes, with_seqnum, first_seq, ok) in [
        (&dense, false, 0, true),
        (&dense, false, 1, false),
        (&dense, true, 0, true),
        (&dense, true, 1, false),
        (&sparse, false, 0, true),
        (&sparse, true, 5, true),
        (&sparse, true, 0, false),
        (&sparse, true, 6, false),
    ] {
        let mut request = request(bytes);
        request.topics.truncate(1);
        request.topics[0].partitions.truncate(1);
        request.topics[0].partitions[0].first_seq = first_seq;
        request.with_seqnum = with_seqnum;
        assert_eq!(request.encode(&mut Vec::new()).is_ok(), ok, "{with_seqnum} {first_seq}");
    }
}

#[test]
fn a_bundle_of_all_that_a_frame_takes_is_refused_before_it_is_copied() {
    let mut bytes = vec![0; frame::MAX_REQUEST];
    bytes[0] = 4;
    let mut out = Vec::new();
    assert_eq!(request(&bytes).encode(&mut out).unwrap_err().field, "request, bytes");
    assert!(out.is_empty() && out.capacity() < 1024);
}

#[test]
fn answers_have_a_code_for_each_partition_or_topic() {
    use ProduceCode as P;
    let endpoint = SocketAddrV4::new([10, 20, 30, 40].into(), 11_011);
    let table: [(&[usize], &[u8], &[P]); 6] = [
        (&[], &[], &[]),
        (&[1], &[0], &[P::Stored]),
        (&[2, 2], &[0xff, 0, 1], &[P::UnknownTopic, P::UnknownTopic, P::Stored, P::UnknownPartition]),
        (&[1, 2], &[0xfe, 0xfe], &[P::ReadOnly; 3]),
        (&[4], &[2, 3, 4, 10], &[P::SystemError, P::NotConfirmed, P::InsufficientReplicas, P::InvalidSeq]),
        (&[2], &[0xfc, 10, 20, 30, 40, 3, 0x2b, 0xfd], &[P::Redirect(endpoint), P::NoLeader]),
    ];
    for (shape, bytes, codes) in table {
        let payload = [&[7, 0, 0, 0], bytes].concat();
        let response = ProduceResponse { request_id: 7, codes: codes.to_vec() };
        assert_eq!(ProduceResponse::decode(&payload, shape.iter().copied()), Ok(response.clone()));
        let mut out = Vec::new();
        response.encode(shape.iter().copied(), &mut out).unwrap();
        assert_eq!(&out[5..], payload);
    }
}

#[test]
fn answers_that_do_not_fit_their_request() {
    let decode = |bytes: &[u8], shape: &[usize]| {
        let payload = [&[7, 0, 0, 0], bytes].concat();
        ProduceResponse::decode(&payload, shape.iter().copied()).map_err(|e| (e.fault(), e.at()))
    };
    assert_eq!(decode(&[0], &[2]), Err((DecodeFault::Short { needed: 1, left: 0 }, 5)));
    assert_eq!(decode(&[0, 0, 0], &[2]), Err((DecodeFault::Spare { extra: 1 }, 6)));
    assert_eq!(decode(&[0xff, 0], &[2]), Err((DecodeFault::Spare { extra: 1 }, 5)));
    assert_eq!(decode(&[0, 77], &[2]), Err((DecodeFault::Undefined { value: 77 }, 5)));
    assert_eq!(decode(&[0, 0xff], &[2]), Err((DecodeFault::Undefined { value: 0xff }, 5)));
    assert_eq!(decode(&[0, 0xfc, 1], &[2]), Err((DecodeFault::Short { needed: 6, left: 1 }, 6)));
    assert!(ProduceResponse::decode(&[7, 0, 0], []).is_err());

    let refused = |codes: &[ProduceCode], shape: &[usize]| {
        let mut out = vec![1];
        let response = ProduceResponse { request_id: 7, codes: codes.to_vec() };
        assert!(response.encode(shape.iter().copied(), &mut out).is_err());
        assert_eq!(out, [1]);
    };
    refused(&[ProduceCode::Stored], &[2]);
    refused(&[ProduceCode::Stored], &[]);
    refused(&[ProduceCode::UnknownTopic, ProduceCode::Stored], &[2]);
}
