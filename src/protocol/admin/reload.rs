//! Reload configuration (reference, section 12).

use super::{check_id, check_topic};
use crate::protocol::cursor::{self, Cursor};
use crate::protocol::error::{DecodeError, DecodeFault, EncodeError};
use crate::protocol::frame::{self, Kind};

/// Asks a server to reread the configuration file in a partition's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReloadConfRequest {
    /// Repeated by the answer.
    pub request_id: u32,
    /// 1 to 255 bytes.
    pub topic: String,
    /// The partition.
    pub partition: u16,
}

impl ReloadConfRequest {
    /// Appends the request as a frame.
    ///
    /// # Errors
    /// A name of 0 or more than 255 bytes. `out` is then unchanged.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        frame::put_request(Kind::ReloadConf, out, |out| {
            out.extend_from_slice(&self.request_id.to_le_bytes());
            cursor::put_topic(&self.topic, out)?;
            out.extend_from_slice(&self.partition.to_le_bytes());
            Ok(())
        })
    }

    /// Reads a request from a frame's payload.
    ///
    /// # Errors
    /// A payload that ends early or has bytes left over, or a topic name that is not UTF-8.
    pub fn decode(payload: &[u8]) -> Result<ReloadConfRequest, DecodeError> {
        let mut c = Cursor::new(payload, 0);
        let request_id = c.u32("request id")?;
        let topic = c.text("topic name")?.to_owned();
        let partition = c.u16("partition id")?;
        c.finish("reload request")?;
        Ok(ReloadConfRequest { request_id, topic, partition })
    }
}

/// The outcome of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ReloadConfCode {
    /// The file was read and applied.
    Reloaded = 0,
    /// The file is missing, unreadable or empty.
    SystemError = 2,
    /// The file does not parse.
    InvalidConfig = 3,
    /// The topic has no such partition.
    UnknownPartition = 10,
    /// There is no such topic. Also read from code 1, which the C++ client expects for this.
    UnknownTopic = 11,
    /// Not available in a cluster.
    Unsupported = 12,
}

impl ReloadConfCode {
    fn decode(c: &mut Cursor<'_>) -> Result<ReloadConfCode, DecodeError> {
        let at = c.at();
        Ok(match c.u8("reload code")? {
            0 => ReloadConfCode::Reloaded,
            2 => ReloadConfCode::SystemError,
            3 => ReloadConfCode::InvalidConfig,
            10 => ReloadConfCode::UnknownPartition,
            1 | 11 => ReloadConfCode::UnknownTopic,
            12 => ReloadConfCode::Unsupported,
            other => {
                return Err(DecodeError::new("reload code", DecodeFault::Undefined { value: other.into() }, at));
            }
        })
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReloadConfResponse {
    /// The request's id.
    pub request_id: u32,
    /// The request's topic.
    pub topic: String,
    /// The request's partition.
    pub partition: u16,
    /// The outcome.
    pub code: ReloadConfCode,
}

impl ReloadConfResponse {
    /// Appends the answer as a frame.
    ///
    /// # Errors
    /// A name above 255 bytes. `out` is then unchanged.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        frame::put_answer(Kind::ReloadConf, out, |out| {
            out.extend_from_slice(&self.request_id.to_le_bytes());
            cursor::put_str8(self.topic.as_bytes(), "topic name, bytes", out)?;
            out.extend_from_slice(&self.partition.to_le_bytes());
            out.push(self.code as u8);
            Ok(())
        })
    }

    /// Reads an answer from a frame's payload.
    ///
    /// # Errors
    /// A payload that ends early or has bytes left over, or a code that is not defined.
    pub fn decode(payload: &[u8]) -> Result<ReloadConfResponse, DecodeError> {
        let mut c = Cursor::new(payload, 0);
        let request_id = c.u32("request id")?;
        let topic = c.name("topic name")?;
        let partition = c.u16("partition id")?;
        let code = ReloadConfCode::decode(&mut c)?;
        c.finish("reload answer")?;
        Ok(ReloadConfResponse { request_id, topic, partition, code })
    }

    /// Returns `Ok` if this answers `request`.
    ///
    /// # Errors
    /// Another request id, topic or partition.
    pub fn check_answers(&self, request: &ReloadConfRequest) -> Result<(), DecodeError> {
        check_id(self.request_id, request.request_id)?;
        check_topic(&self.topic, &request.topic)?;
        if self.partition != request.partition {
            let (found, expected) = (self.partition.into(), request.partition.into());
            return Err(DecodeError::unexpected("partition id", found, expected, 5 + self.topic.len() as u64));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::both_ways;
    use super::*;

    #[test]
    fn requests_and_answers() {
        let request = ReloadConfRequest { request_id: 1, topic: "ab".into(), partition: 513 };
        let bytes = (Kind::ReloadConf, b"\x01\0\0\0\x02ab\x01\x02".as_slice());
        both_ways(&request, bytes, ReloadConfRequest::encode, ReloadConfRequest::decode, &[]);
        for code in 0..=255u8 {
            let payload = [b"\x01\0\0\0\x02ab\x01\x02".as_slice(), &[code]].concat();
            match ReloadConfResponse::decode(&payload) {
                Ok(response) if code == 1 => assert_eq!(response.code, ReloadConfCode::UnknownTopic),
                Ok(response) => {
                    assert_eq!(response.code as u8, code);
                    assert_eq!(response.check_answers(&request), Ok(()));
                    let bytes = (Kind::ReloadConf, payload.as_slice());
                    both_ways(&response, bytes, ReloadConfResponse::encode, ReloadConfResponse::decode, &[]);
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
        let e = response.check_answers(&request).unwrap_err();
        assert_eq!((e.fault(), e.at()), (DecodeFault::Unexpected { found: 1, expected: 0 }, 7));
    }
}
