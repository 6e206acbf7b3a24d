//! Status, and discover topology (reference, sections 11 and 10).

use std::net::SocketAddrV4;

use crate::protocol::Limits;
use crate::protocol::cursor::{self, Cursor};
use crate::protocol::error::{DecodeError, EncodeError};
use crate::protocol::field::{Field, field, message};
use crate::protocol::frame::{Kind, Payload};

message! {
    /// Asks for a node's status. It is the cheapest request, and so serves as a probe.
    #[derive(Copy)]
    StatusRequest: Status {
        /// Repeated by the answer.
        request_id: u32 = "request id",
    }
}

message! {
    /// What a node of a cluster adds to its status.
    ClusterStatus {
        /// 0.
        flags: u8 = "cluster flags",
        /// The cluster's name; at most 255 bytes.
        name: String = "cluster name",
        /// How many nodes are available.
        nodes: u32 = "nodes",
    }
}

message! {
    /// What a server says about its logs and itself, unless its version is old.
    #[derive(Copy)]
    LogStatus {
        /// How many partitions are open.
        open_partitions: u32 = "open partitions",
        /// How long opening them took, in milliseconds.
        open_time_ms: u32 = "time spent opening partitions",
        /// When the server started, in seconds since 1970.
        start_time: u32 = "start time",
        /// The major version times 100, plus the minor version. Old versions leave it out.
        version: Option<u32> = "version",
    }
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

impl Payload for StatusResponse {
    const KIND: Kind = Kind::Status;

    fn put_fields(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(&self.request_id.to_le_bytes());
        out.extend_from_slice(&[self.flags, self.cluster.is_some().into()]);
        out.extend_from_slice(&self.topics.to_le_bytes());
        out.extend_from_slice(&self.partitions.to_le_bytes());
        <Option<_>>::put(&self.cluster, "", out)?;
        <Option<_>>::put(&self.log, "", out)
    }

    /// Old versions end early.
    fn take_fields(c: &mut Cursor<'_>, _: &Limits) -> Result<StatusResponse, DecodeError> {
        let (request_id, flags, in_cluster) = (c.u32("request id")?, c.u8("global flags")?, c.flag("cluster flag")?);
        let (topics, partitions) = (c.u32("topics")?, c.u32("partitions")?);
        let cluster = if in_cluster { Some(ClusterStatus::take("", c)?) } else { None };
        Ok(StatusResponse { request_id, flags, topics, partitions, cluster, log: <Option<_> as Field>::take("", c)? })
    }
}

/// The node count of a stand-alone server.
const STAND_ALONE: u16 = u16::MAX;

const NODE_ENDPOINT: u8 = 1;
const NODE_AVAILABLE: u8 = 1 << 1;
const NODE_BLOCKED: u8 = 1 << 2;

message! {
    /// Asks for the nodes of the cluster.
    #[derive(Copy)]
    DiscoverTopologyRequest: DiscoverTopology {
        /// Repeated by the answer.
        request_id: u32 = "request id",
        /// 0.
        flags: u8 = "flags",
    }
}

/// A node of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct NodeInfo {
    /// Its number.
    pub id: u16,
    /// Where it listens. A node that dies keeps it; a node that is shut down properly loses it.
    pub endpoint: Option<SocketAddrV4>,
    /// `true` if the cluster can reach the node.
    pub available: bool,
    /// `true` if the node is kept from leading.
    pub blocked: bool,
    /// The number of partitions it has a copy of.
    pub partitions: u16,
}

/// The nodes of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Topology {
    /// The cluster's name; `None` for a stand-alone broker.
    pub cluster: Option<String>,
    /// The nodes, none for a stand-alone broker. A broker lists them in no particular order,
    /// [`Client::topology`](crate::Client::topology) in that of their numbers.
    pub nodes: Vec<NodeInfo>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoverTopologyResponse {
    /// The request's id.
    pub request_id: u32,
    /// The cluster, whose name has at most 255 bytes, and its nodes.
    pub topology: Topology,
}

impl Payload for DiscoverTopologyResponse {
    const KIND: Kind = Kind::DiscoverTopology;

    fn put_fields(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(&self.request_id.to_le_bytes());
        let Topology { cluster, nodes } = &self.topology;
        let Some(name) = cluster else {
            out.extend_from_slice(&STAND_ALONE.to_le_bytes());
            return EncodeError::check_is("nodes of no cluster", nodes.len() as u64, 0);
        };
        EncodeError::check("nodes in an answer", nodes.len(), 0, u64::from(STAND_ALONE) - 1)?;
        out.extend_from_slice(&u16::try_from(nodes.len()).unwrap_or(STAND_ALONE).to_le_bytes());
        cursor::put_str8(name.as_bytes(), "cluster name, bytes", out)?;
        nodes.iter().for_each(|node| node.put(out));
        Ok(())
    }

    fn take_fields(c: &mut Cursor<'_>, limits: &Limits) -> Result<DiscoverTopologyResponse, DecodeError> {
        let (request_id, count) = (c.u32("request id")?, c.u16("node count")?);
        if count == STAND_ALONE {
            return Ok(DiscoverTopologyResponse { request_id, topology: Topology::default() });
        }
        DecodeError::check("node count", count, limits.nodes, 4)?;
        let cluster = Some(c.name("cluster name")?);
        let topology = Topology { cluster, nodes: c.many(count.into(), NodeInfo::take)? };
        Ok(DiscoverTopologyResponse { request_id, topology })
    }
}

impl NodeInfo {
    fn put(&self, out: &mut Vec<u8>) {
        let flag = |set: bool, flag| if set { flag } else { 0 };
        let reach = flag(self.endpoint.is_some(), NODE_ENDPOINT) | flag(self.available, NODE_AVAILABLE);
        out.extend_from_slice(&self.id.to_le_bytes());
        out.push(reach | flag(self.blocked, NODE_BLOCKED));
        if let Some(endpoint) = self.endpoint {
            cursor::put_endpoint(endpoint, out);
        }
        out.extend_from_slice(&self.partitions.to_le_bytes());
    }

    /// Undefined flags are ignored: if one added a field, the lengths would not match.
    fn take(c: &mut Cursor<'_>) -> Result<NodeInfo, DecodeError> {
        let (id, flags) = (c.u16("node id")?, c.u8("node flags")?);
        Ok(NodeInfo {
            id,
            available: flags & NODE_AVAILABLE != 0,
            blocked: flags & NODE_BLOCKED != 0,
            endpoint: if flags & NODE_ENDPOINT == 0 { None } else { Some(c.endpoint("node endpoint")?) },
            partitions: c.u16("partition count")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::both_ways;
    use super::*;
    use crate::protocol::DecodeFault;

    #[test]
    fn requests_are_read_as_they_were_written() {
        both_ways(&StatusRequest { request_id: 1 }, b"\x01\0\0\0", &[]);
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
                both_ways(&response(log), &payload, &ends);
            }
        }
    }

    #[test]
    fn an_undefined_flag_and_spare_bytes_are_refused() {
        let fault = |payload: &[u8]| StatusResponse::decode(payload).unwrap_err().fault();
        assert_eq!(fault(b"\x01\0\0\0\0\x02\x02\0\0\0\x03\0\0\0"), DecodeFault::Undefined { value: 2 });
        let spare = [b"\x01\0\0\0\0\0\x02\0\0\0\x03\0\0\0".as_slice(), &[0; 17]].concat();
        assert_eq!(fault(&spare), DecodeFault::Spare { extra: 1 });
    }

    #[test]
    fn topologies_are_read_as_they_were_written() {
        let request = DiscoverTopologyRequest { request_id: 1, flags: 0 };
        both_ways(&request, b"\x01\0\0\0\0", &[]);

        let both = |cluster: Option<&str>, nodes, payload: &[u8]| {
            let topology = Topology { cluster: cluster.map(str::to_owned), nodes };
            both_ways(&DiscoverTopologyResponse { request_id: 1, topology }, payload, &[]);
        };
        both(None, vec![], b"\x01\0\0\0\xff\xff");
        both(Some(""), vec![], b"\x01\0\0\0\0\0\0");
        let endpoint = SocketAddrV4::new([10, 20, 30, 40].into(), 11_011);
        let up = NodeInfo { id: 1, available: true, blocked: false, endpoint: Some(endpoint), partitions: 12 };
        let blocked = NodeInfo { id: 700, available: false, blocked: true, endpoint: None, partitions: 0 };
        both(
            Some("m"),
            vec![up, blocked],
            b"\x01\0\0\0\x02\0\x01m\x01\0\x03\x0a\x14\x1e\x28\x03\x2b\x0c\0\xbc\x02\x04\0\0",
        );
    }

    #[test]
    fn counts_are_bounded_and_lone_servers_have_nothing_more_to_say() {
        let decode = |payload: &[u8], most| {
            DiscoverTopologyResponse::decode_within(payload, &Limits::default().nodes(most)).unwrap_err().fault()
        };
        assert_eq!(decode(b"\x01\0\0\0\x02\0\0", 1), DecodeFault::OverLimit { claimed: 2, limit: 1 });
        assert_eq!(decode(b"\x01\0\0\0\x02\0\0", 2), DecodeFault::Short { needed: 2, left: 0 });
        assert_eq!(decode(b"\x01\0\0\0\xff\xff\0", 0), DecodeFault::Spare { extra: 1 });
        let node = NodeInfo { id: 0, available: false, blocked: false, endpoint: None, partitions: 0 };
        let refused = |cluster, nodes| {
            let response = DiscoverTopologyResponse { request_id: 1, topology: Topology { cluster, nodes } };
            response.encode(&mut Vec::new()).unwrap_err().max
        };
        assert_eq!(refused(Some("".into()), vec![node.clone(); 65_535]), 65_534);
        assert_eq!(refused(None, vec![node]), 0);
    }
}
