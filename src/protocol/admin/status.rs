//! Status (reference, section 11).

use super::bool8;
use crate::protocol::cursor::{self, Cursor};
use crate::protocol::error::{DecodeError, EncodeError};
use crate::protocol::frame::{self, Kind};

/// Asks for a node's status. It is the cheapest request, and so serves as a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusRequest {
    /// Repeated by the answer.
    pub request_id: u32,
}

impl StatusRequest {
    /// Appends the request as a frame.
    ///
    /// # Errors
    /// None.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        frame::put_request(Kind::Status, out, |out| {
            out.extend_from_slice(&self.request_id.to_le_bytes());
            Ok(())
        })
    }

    /// Reads a request from a frame's payload.
    ///
    /// # Errors
    /// A payload that ends early or has bytes left over.
    pub fn decode(payload: &[u8]) -> Result<StatusRequest, DecodeError> {
        let mut c = Cursor::new(payload, 0);
        let request_id = c.u32("request id")?;
        c.finish("status request")?;
        Ok(StatusRequest { request_id })
    }
}

/// What a node of a cluster adds to its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterStatus {
    /// 0.
    pub flags: u8,
    /// The cluster's name; at most 255 bytes.
    pub name: String,
    /// How many nodes are available.
    pub nodes: u32,
}

/// What a server says about its logs and itself, unless its version is old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogStatus {
    /// How many partitions are open.
    pub open_partitions: u32,
    /// How long opening them took, in milliseconds.
    pub open_time_ms: u32,
    /// When the server started, in seconds since 1970.
    pub start_time: u32,
    /// The major version times 100, plus the minor version. Old versions leave it out.
    pub version: Option<u32>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusResponse {
    /// The request's id.
    pub request_id: u32,
    /// 0.
    pub flags: u8,
    /// How many topics there are.
    pub topics: u32,
    /// How many partitions these have in total.
    pub partitions: u32,
    /// The cluster, unless the server is stand-alone.
    pub cluster: Option<ClusterStatus>,
    /// The rest. Old versions leave it out.
    pub log: Option<LogStatus>,
}

impl StatusResponse {
    /// Appends the answer as a frame.
    ///
    /// # Errors
    /// A cluster name above 255 bytes. `out` is then unchanged.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        frame::put_answer(Kind::Status, out, |out| {
            out.extend_from_slice(&self.request_id.to_le_bytes());
            out.extend_from_slice(&[self.flags, self.cluster.is_some().into()]);
            out.extend_from_slice(&self.topics.to_le_bytes());
            out.extend_from_slice(&self.partitions.to_le_bytes());
            if let Some(cluster) = &self.cluster {
                out.push(cluster.flags);
                cursor::put_str8(cluster.name.as_bytes(), "cluster name, bytes", out)?;
                out.extend_from_slice(&cluster.nodes.to_le_bytes());
            }
            if let Some(log) = &self.log {
                for number in [Some(log.open_partitions), Some(log.open_time_ms), Some(log.start_time), log.version] {
                    out.extend(number.iter().flat_map(|number| number.to_le_bytes()));
                }
            }
            Ok(())
        })
    }

    /// Reads an answer from a frame's payload.
    ///
    /// # Errors
    /// A payload that ends early, except where old versions end, or has bytes left over; a cluster flag that is not 0 or 1.
    pub fn decode(payload: &[u8]) -> Result<StatusResponse, DecodeError> {
        let mut c = Cursor::new(payload, 0);
        let request_id = c.u32("request id")?;
        let flags = c.u8("global flags")?;
        let in_cluster = bool8(&mut c, "cluster flag")?;
        let topics = c.u32("topics")?;
        let partitions = c.u32("partitions")?;
        let cluster = match in_cluster {
            false => None,
            true => Some(ClusterStatus {
                flags: c.u8("cluster flags")?,
                name: c.name("cluster name")?,
                nodes: c.u32("nodes")?,
            }),
        };
        let log = match c.left() {
            0 => None,
            _ => Some(LogStatus {
                open_partitions: c.u32("open partitions")?,
                open_time_ms: c.u32("time spent opening partitions")?,
                start_time: c.u32("start time")?,
                version: if c.left() == 0 { None } else { Some(c.u32("version")?) },
            }),
        };
        c.finish("status answer")?;
        Ok(StatusResponse { request_id, flags, topics, partitions, cluster, log })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::both_ways;
    use super::*;
    use crate::protocol::DecodeFault;

    #[test]
    fn requests() {
        let bytes = (Kind::Status, b"\x01\0\0\0".as_slice());
        both_ways(&StatusRequest { request_id: 1 }, bytes, StatusRequest::encode, StatusRequest::decode, &[]);
    }

    #[test]
    fn answers_of_all_versions() {
        let log = LogStatus { open_partitions: 4, open_time_ms: 5, start_time: 6, version: Some(400) };
        let cluster = ClusterStatus { flags: 0, name: "m".into(), nodes: 3 };
        let tail = b"\x04\0\0\0\x05\0\0\0\x06\0\0\0\x90\x01\0\0";
        for (cluster, head) in [
            (None, b"\x01\0\0\0\0\0\x02\0\0\0\x03\0\0\0".as_slice()),
            (Some(cluster), b"\x01\0\0\0\0\x01\x02\0\0\0\x03\0\0\0\0\x01m\x03\0\0\0"),
        ] {
            let response = |log| StatusResponse {
                request_id: 1,
                flags: 0,
                topics: 2,
                partitions: 3,
                cluster: cluster.clone(),
                log,
            };
            for (log, tail) in
                [(Some(log), tail.as_slice()), (Some(LogStatus { version: None, ..log }), &tail[..12]), (None, &[])]
            {
                let payload = [head, tail].concat();
                let ends = [head.len(), head.len() + 12];
                let bytes = (Kind::Status, payload.as_slice());
                both_ways(&response(log), bytes, StatusResponse::encode, StatusResponse::decode, &ends);
            }
        }
    }

    #[test]
    fn an_undefined_cluster_flag_or_spare_bytes() {
        let fault = |payload: &[u8]| StatusResponse::decode(payload).unwrap_err().fault();
        assert_eq!(fault(b"\x01\0\0\0\0\x02\x02\0\0\0\x03\0\0\0"), DecodeFault::Undefined { value: 2 });
        let spare = [b"\x01\0\0\0\0\0\x02\0\0\0\x03\0\0\0".as_slice(), &[0; 17]].concat();
        assert_eq!(fault(&spare), DecodeFault::Spare { extra: 1 });
    }
}
