//! Discover partitions (reference, section 8).

use std::net::SocketAddrV4;

use crate::protocol::Limits;
use crate::protocol::cursor::{self, Cursor};
use crate::protocol::error::{DecodeError, EncodeError};
use crate::protocol::field::{Field, Partitions, TopicName, field, message};
use crate::protocol::frame::{Kind, NO_LEADER, Payload, REDIRECT, SYSTEM_ERROR};

/// The value of both numbers if a reason follows instead of marks.
const NO_MARK: u64 = u64::MAX;

message! {
    /// Asks for the marks of a topic's partitions.
    DiscoverPartitionsRequest: DiscoverPartitions {
        /// Repeated by the answer.
        request_id: u32 = "request id",
        /// 1 to 255 bytes.
        topic: String as TopicName = "topic name",
        /// Empty (the short form) for all partitions.
        ///
        /// With a list (the long form), the answer has exactly these, in this order. **A number that the topic does not have
        /// kills the node** (reference, section 19): list only numbers that the same node counted in its answer to the short
        /// form, and only in a cluster. A stand-alone server answers [`NoLeader`](PartitionState::NoLeader) for each.
        partitions: Vec<u16> as Partitions = "partition id",
    }
}

/// What a server says about a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionState {
    /// The server leads the partition.
    Marks {
        /// The first sequence number still there; 0 if there never was a message.
        first_available: u64,
        /// The last sequence number assigned, or in a cluster the last one committed; 0 if there never was a message.
        high_water_mark: u64,
    },
    /// The server could not open the partition.
    SystemError,
    /// Another node leads the partition. An unspecified address or port 0 means that none does.
    Redirect(SocketAddrV4),
    /// No node leads the partition now.
    NoLeader,
}

impl PartitionState {
    fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let (first, last, reason) = match *self {
            PartitionState::Marks { first_available, high_water_mark } => (first_available, high_water_mark, None),
            PartitionState::SystemError => (NO_MARK, NO_MARK, Some(SYSTEM_ERROR)),
            PartitionState::Redirect(_) => (NO_MARK, NO_MARK, Some(REDIRECT)),
            PartitionState::NoLeader => (NO_MARK, NO_MARK, Some(NO_LEADER)),
        };
        if reason.is_none() && first == NO_MARK && last == NO_MARK {
            return Err(EncodeError { field: "high-water mark", given: last, min: 0, max: NO_MARK - 1 });
        }
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&last.to_le_bytes());
        out.extend(reason);
        if let PartitionState::Redirect(endpoint) = self {
            cursor::put_endpoint(*endpoint, out);
        }
        Ok(())
    }

    fn take(c: &mut Cursor<'_>) -> Result<PartitionState, DecodeError> {
        let (first_available, high_water_mark) = (c.u64("first available seq")?, c.u64("high-water mark")?);
        if first_available != NO_MARK || high_water_mark != NO_MARK {
            return Ok(PartitionState::Marks { first_available, high_water_mark });
        }
        let at = c.at();
        Ok(match c.u8("reason")? {
            SYSTEM_ERROR => PartitionState::SystemError,
            REDIRECT => PartitionState::Redirect(c.endpoint("leader endpoint")?),
            NO_LEADER => PartitionState::NoLeader,
            other => return Err(DecodeError::undefined("reason", other, at)),
        })
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoverPartitionsResponse {
    /// The request's id.
    pub request_id: u32,
    /// The request's topic.
    pub topic: String,
    /// How many partitions the server counts; 0 if it does not know the topic.
    pub count: u16,
    /// The state of each partition from 0 on, or of each one listed, in that order. Fewer than `count` while a cluster is
    /// removing partitions; then it is uncertain which ones.
    pub partitions: Vec<PartitionState>,
}

impl Payload for DiscoverPartitionsResponse {
    const KIND: Kind = Kind::DiscoverPartitions;

    fn put_fields(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        EncodeError::check("partitions of a topic", self.partitions.len(), 0, self.count.into())?;
        out.extend_from_slice(&self.request_id.to_le_bytes());
        cursor::put_str8(self.topic.as_bytes(), "topic name, bytes", out)?;
        out.extend_from_slice(&self.count.to_le_bytes());
        self.partitions.iter().try_for_each(|state| state.put(out))
    }

    fn take_fields(c: &mut Cursor<'_>, _: &Limits) -> Result<DiscoverPartitionsResponse, DecodeError> {
        let (request_id, topic, count) = (c.u32("request id")?, c.name("topic name")?, c.u16("partition count")?);
        // A cluster that is removing partitions may count some that do not follow.
        let following = (0..count).map_while(|_| (c.left() > 0).then(|| PartitionState::take(c)));
        let partitions = following.collect::<Result<_, _>>()?;
        Ok(DiscoverPartitionsResponse { request_id, topic, count, partitions })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{answer, both_ways};
    use super::*;
    use crate::protocol::DecodeFault;

    const HEAD: &[u8] = b"\x01\0\0\0\x02ab";

    fn request(partitions: &[u16]) -> DiscoverPartitionsRequest {
        DiscoverPartitionsRequest { request_id: 1, topic: "ab".into(), partitions: partitions.to_vec() }
    }

    #[test]
    fn requests_are_read_as_they_were_written() {
        let both = |request, payload: &[u8], ends: &[usize]| {
            both_ways(&request, payload, ends);
        };
        both(request(&[]), HEAD, &[]);
        both(request(&[5, 0x201]), b"\x01\0\0\0\x02ab\x05\0\x01\x02", &[7, 9]);
        assert!(request(&vec![0; 65_535]).encode(&mut Vec::new()).is_ok());
        assert!(request(&vec![0; 65_536]).encode(&mut Vec::new()).is_err());
    }

    #[test]
    fn answers_are_read_as_they_were_written() {
        let endpoint = SocketAddrV4::new([10, 20, 30, 40].into(), 11_011);
        let partitions = vec![
            PartitionState::Marks { first_available: 3, high_water_mark: u64::MAX },
            PartitionState::Redirect(endpoint),
            PartitionState::NoLeader,
            PartitionState::SystemError,
        ];
        let response = DiscoverPartitionsResponse { request_id: 1, topic: "ab".into(), count: 4, partitions };
        let payload = [
            HEAD,
            &[4, 0],
            &[3, 0, 0, 0, 0, 0, 0, 0],
            &[0xff; 8],
            &[0xff; 16],
            &[0xfc, 10, 20, 30, 40, 3, 0x2b],
            &[0xff; 16],
            &[0xfd],
            &[0xff; 16],
            &[0xfb],
        ]
        .concat();
        // Fewer entries than the count says are legal.
        let ends = [9, 25, 48, 65];
        both_ways(&response, &payload, &ends);
        assert_eq!(DiscoverPartitionsResponse::decode(&payload[..48]).map(|r| r.partitions.len()), Ok(2));
        assert_eq!(answer(&request(&[]), &response), Ok(Some(response.partitions.clone())));
        assert_eq!(answer(&request(&[0, 1, 2, 3]), &response), Ok(Some(response.partitions.clone())));
        let e = answer(&request(&[0]), &response).unwrap_err();
        assert_eq!((e.fault(), e.at()), (DecodeFault::Unexpected { found: 4, expected: 1 }, 7));
    }

    #[test]
    fn a_count_of_none_is_an_unknown_topic() {
        let payload = [HEAD, &[0, 0]].concat();
        let response = DiscoverPartitionsResponse::decode(&payload).unwrap();
        assert_eq!((response.count, response.partitions.as_slice()), (0, &[][..]));
        assert_eq!(answer(&request(&[3]), &response), Ok(None));
        let spare = DiscoverPartitionsResponse::decode(&[&payload, &[0; 16][..]].concat()).unwrap_err();
        assert_eq!(spare.fault(), DecodeFault::Spare { extra: 16 });
    }

    #[test]
    fn undefined_reasons_and_marks_that_mean_none() {
        let payload = [HEAD, &[1, 0], &[0xff; 16], &[0xfe]].concat();
        let e = DiscoverPartitionsResponse::decode(&payload).unwrap_err();
        assert_eq!((e.fault(), e.at()), (DecodeFault::Undefined { value: 0xfe }, 25));
        let none = PartitionState::Marks { first_available: u64::MAX, high_water_mark: u64::MAX };
        for (count, partitions) in [(1, vec![none]), (0, vec![PartitionState::NoLeader])] {
            let response = DiscoverPartitionsResponse { request_id: 1, topic: "ab".into(), count, partitions };
            let mut out = Vec::new();
            assert!(response.encode(&mut out).is_err());
            assert!(out.is_empty());
        }
    }
}
