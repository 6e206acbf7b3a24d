//! Create topic (reference, section 7).

use super::{check_id, check_topic};
use crate::protocol::cursor::{self, Cursor};
use crate::protocol::error::{DecodeError, DecodeFault, EncodeError};
use crate::protocol::frame::{self, Kind};
use crate::protocol::varint;

/// Asks a server to create a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateTopicRequest {
    /// Repeated by the answer.
    pub request_id: u32,
    /// 1 to 255 bytes here. Servers accept fewer names (reference, section 7.2).
    pub topic: String,
    /// How many partitions, at least 1. A cluster creates at most 64 (reference, section 7.1).
    pub partitions: u16,
    /// The configuration: lines of `key=value`, possibly none. A cluster ignores it.
    pub config: String,
}

impl CreateTopicRequest {
    /// Appends the request as a frame.
    ///
    /// # Errors
    /// A name of 0 or more than 255 bytes, or more than 256 MiB in total. `out` is then unchanged.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        frame::put_request(Kind::CreateTopic, out, |out| {
            out.extend_from_slice(&self.request_id.to_le_bytes());
            cursor::put_topic(&self.topic, out)?;
            out.extend_from_slice(&self.partitions.to_le_bytes());
            let max = frame::MAX_REQUEST as u64;
            EncodeError::check("configuration, bytes", self.config.len(), 0, max)?;
            varint::encode(u32::try_from(self.config.len()).unwrap_or(u32::MAX), out);
            out.extend_from_slice(self.config.as_bytes());
            Ok(())
        })
    }

    /// Reads a request from a frame's payload.
    ///
    /// # Errors
    /// A payload that ends early or has bytes left over, or a topic name that is not UTF-8.
    pub fn decode(payload: &[u8]) -> Result<CreateTopicRequest, DecodeError> {
        let mut c = Cursor::new(payload, 0);
        let request_id = c.u32("request id")?;
        let topic = c.text("topic name")?.to_owned();
        let partitions = c.u16("partition count")?;
        let len = c.varint("configuration length")?;
        let config = String::from_utf8_lossy(c.bytes(len as usize, "configuration")?).into_owned();
        c.finish("create topic request")?;
        Ok(CreateTopicRequest { request_id, topic, partitions, config })
    }
}

/// The outcome of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CreateTopicCode {
    /// The topic was created. In a cluster the nodes may not know it yet.
    Created = 0,
    /// The topic exists already.
    Exists = 1,
    /// The server could not create it.
    SystemError = 2,
    /// The configuration does not parse.
    InvalidConfig = 4,
    /// The server is read-only.
    ReadOnly = 5,
    /// The name is not allowed, or the number of partitions is 0.
    InvalidRequest = 10,
    /// Not supported by the server. No known server sends this.
    Unsupported = 11,
}

impl CreateTopicCode {
    fn decode(c: &mut Cursor<'_>) -> Result<CreateTopicCode, DecodeError> {
        let at = c.at();
        Ok(match c.u8("create topic code")? {
            0 => CreateTopicCode::Created,
            1 => CreateTopicCode::Exists,
            2 => CreateTopicCode::SystemError,
            4 => CreateTopicCode::InvalidConfig,
            5 => CreateTopicCode::ReadOnly,
            10 => CreateTopicCode::InvalidRequest,
            11 => CreateTopicCode::Unsupported,
            other => {
                let fault = DecodeFault::Undefined { value: other.into() };
                return Err(DecodeError::new("create topic code", fault, at));
            }
        })
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateTopicResponse {
    /// The request's id.
    pub request_id: u32,
    /// The request's topic.
    pub topic: String,
    /// The outcome.
    pub code: CreateTopicCode,
}

impl CreateTopicResponse {
    /// Appends the answer as a frame.
    ///
    /// # Errors
    /// A name above 255 bytes. `out` is then unchanged.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        frame::put_answer(Kind::CreateTopic, out, |out| {
            out.extend_from_slice(&self.request_id.to_le_bytes());
            cursor::put_str8(self.topic.as_bytes(), "topic name, bytes", out)?;
            out.push(self.code as u8);
            Ok(())
        })
    }

    /// Reads an answer from a frame's payload.
    ///
    /// # Errors
    /// A payload that ends early or has bytes left over, or a code that is not defined.
    pub fn decode(payload: &[u8]) -> Result<CreateTopicResponse, DecodeError> {
        let mut c = Cursor::new(payload, 0);
        let request_id = c.u32("request id")?;
        let topic = c.name("topic name")?;
        let code = CreateTopicCode::decode(&mut c)?;
        c.finish("create topic answer")?;
        Ok(CreateTopicResponse { request_id, topic, code })
    }

    /// Returns `Ok` if this answers `request`.
    ///
    /// # Errors
    /// Another request id or topic.
    pub fn check_answers(&self, request: &CreateTopicRequest) -> Result<(), DecodeError> {
        check_id(self.request_id, request.request_id)?;
        check_topic(&self.topic, &request.topic)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::both_ways;
    use super::*;

    #[test]
    fn requests_and_answers() {
        let request = CreateTopicRequest { request_id: 1, topic: "ab".into(), partitions: 3, config: "x=1\n".into() };
        let bytes = b"\x01\0\0\0\x02ab\x03\0\x04x=1\n";
        both_ways(&request, (Kind::CreateTopic, bytes), CreateTopicRequest::encode, CreateTopicRequest::decode, &[]);
        for code in 0..=255u8 {
            let payload = [b"\x01\0\0\0\x02ab".as_slice(), &[code]].concat();
            match CreateTopicResponse::decode(&payload) {
                Ok(response) => {
                    assert_eq!(response.code as u8, code);
                    assert_eq!(response.check_answers(&request), Ok(()));
                    let bytes = (Kind::CreateTopic, payload.as_slice());
                    both_ways(&response, bytes, CreateTopicResponse::encode, CreateTopicResponse::decode, &[]);
                }
                Err(e) => assert_eq!((e.fault(), e.at()), (DecodeFault::Undefined { value: code.into() }, 7)),
            }
        }
    }

    #[test]
    fn lengths() {
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
}
