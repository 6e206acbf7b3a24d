use super::super::tests::{answer, both_ways};
use super::*;
use crate::protocol::DecodeFault;

fn entry(name: &str, replication_factor: Option<u8>) -> TopicInfo {
    TopicInfo { name: name.into(), enabled: !name.is_empty(), partitions: 0x201, replication_factor }
}

#[test]
fn lists_of_topics_are_read_as_they_were_written() {
    let request = DiscoverTopicsRequest { request_id: 1, flags: 2 };
    both_ways(&request, b"\x01\0\0\0\x02", &[]);

    let both = |cluster, topics, payload: &[u8]| {
        let response = DiscoverTopicsResponse { request_id: 1, cluster, topics };
        both_ways(&response, payload, &[]);
    };
    both(false, vec![], b"\x01\0\0\0\0\0\0\0\0");
    both(false, vec![entry("", None)], b"\x01\0\0\0\x01\0\0\0\0\0\0\x01\x02");
    let topics = vec![entry("ab", Some(3)), entry("", Some(255))];
    both(true, topics, b"\x01\0\0\0\x02\0\0\0\x01\x02ab\x01\x01\x02\x03\0\0\x01\x02\xff");
}

#[test]
fn counts_are_bounded() {
    let decode = |payload: &[u8], most| {
        DiscoverTopicsResponse::decode_within(payload, &Limits::default().topics(most)).unwrap_err()
    };
    let payload = b"\x01\0\0\0\x02\0\0\0\0";
    assert_eq!(decode(payload, 1).fault(), DecodeFault::OverLimit { claimed: 2, limit: 1 });
    assert_eq!(decode(payload, 2).fault(), DecodeFault::Short { needed: 1, left: 0 });
    let e = decode(b"\x01\0\0\0\xff\xff\xff\xff\0", u32::MAX);
    assert_eq!(e.fault(), DecodeFault::Short { needed: 1, left: 0 });
}

#[test]
fn undefined_flags_and_factors_that_do_not_fit_are_refused() {
    let decode = |payload: &[u8]| DiscoverTopicsResponse::decode(payload).unwrap_err();
    assert_eq!(decode(b"\x01\0\0\0\0\0\0\0\x02").fault(), DecodeFault::Undefined { value: 2 });
    assert_eq!(decode(b"\x01\0\0\0\x01\0\0\0\0\0\x03\x01\x02").fault(), DecodeFault::Undefined { value: 3 });
    for (cluster, factor, text) in [(true, None, "0 given, 1 allowed"), (false, Some(1), "1 given, 0 allowed")] {
        let response = DiscoverTopicsResponse { request_id: 1, cluster, topics: vec![entry("a", factor)] };
        let e = response.encode(&mut Vec::new()).unwrap_err();
        assert_eq!(e.to_string(), format!("replication factors of a topic: {text}"));
    }
}

#[test]
fn creations_are_read_as_they_were_written() {
    let request = CreateTopicRequest { request_id: 1, topic: "ab".into(), partitions: 3, config: "x=1\n".into() };
    both_ways(&request, b"\x01\0\0\0\x02ab\x03\0\x04x=1\n", &[]);
    for code in 0..=255u8 {
        let payload = [b"\x01\0\0\0\x02ab".as_slice(), &[code]].concat();
        match CreateTopicResponse::decode(&payload) {
            Ok(response) => {
                assert_eq!(response.code as u8, code);
                assert_eq!(answer(&request, &response), Ok(response.code));
                both_ways(&response, &payload, &[]);
            }
            Err(e) => assert_eq!((e.fault(), e.at()), (DecodeFault::Undefined { value: code.into() }, 7)),
        }
    }
}

#[test]
fn names_that_fit_no_length_are_refused_and_settings_may_be_long() {
    let mut out = Vec::new();
    let mut request = CreateTopicRequest { request_id: 1, topic: "".into(), partitions: 1, config: "".into() };
    assert_eq!(request.encode(&mut out).unwrap_err().field, "topic name, bytes");
    request.topic = "x".repeat(256);
    assert_eq!(request.encode(&mut out).unwrap_err().field, "topic name, bytes");
    assert!(out.is_empty());
    request.topic.pop();
    request.config = "#".repeat(200);
    request.encode(&mut out).unwrap();
    assert_eq!(CreateTopicRequest::decode(&out[5..]), Ok(request));
}

#[test]
fn reloads_are_read_as_they_were_written() {
    let request = ReloadConfRequest { request_id: 1, topic: "ab".into(), partition: 513 };
    both_ways(&request, b"\x01\0\0\0\x02ab\x01\x02", &[]);
    for code in 0..=255u8 {
        let payload = [b"\x01\0\0\0\x02ab\x01\x02".as_slice(), &[code]].concat();
        match ReloadConfResponse::decode(&payload) {
            Ok(response) if code == 1 => assert_eq!(response.code, ReloadConfCode::UnknownTopic),
            Ok(response) => {
                assert_eq!(response.code as u8, code);
                assert_eq!(answer(&request, &response), Ok(response.code));
                both_ways(&response, &payload, &[]);
            }
            Err(e) => assert_eq!((e.fault(), e.at()), (DecodeFault::Undefined { value: code.into() }, 9)),
        }
    }
}

#[test]
fn an_answer_for_another_partition_is_refused() {
    let request = ReloadConfRequest { request_id: 1, topic: "ab".into(), partition: 0 };
    let response =
        ReloadConfResponse { request_id: 1, topic: "ab".into(), partition: 1, code: ReloadConfCode::Reloaded };
    let e = answer(&request, &response).unwrap_err();
    assert_eq!((e.fault(), e.at()), (DecodeFault::Unexpected { found: 1, expected: 0 }, 7));
}
