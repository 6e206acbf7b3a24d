//! Discover topics, create topic, reload configuration (reference, sections 9, 7 and 12).

use crate::protocol::Limits;
use crate::protocol::cursor::{self, Cursor};
use crate::protocol::error::{DecodeError, EncodeError};
use crate::protocol::field::{Field, Settings, TopicName, codes, field, message};
use crate::protocol::frame::{Kind, Payload};

message! {
    /// Asks for all topics.
    #[derive(Copy)]
    DiscoverTopicsRequest: DiscoverTopics {
        /// Repeated by the answer.
        request_id: u32 = "request id",
        /// 0.
        flags: u8 = "flags",
    }
}

/// A topic.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TopicInfo {
    /// Its name, of at most 255 bytes.
    pub name: String,
    /// How many partitions it has; their ids count from 0.
    pub partitions: u16,
    /// `true` if the topic is enabled; a disabled one cannot be used.
    pub enabled: bool,
    /// On how many nodes each partition has a copy; `None` from a stand-alone broker.
    pub replication_factor: Option<u8>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoverTopicsResponse {
    /// The request's id.
    pub request_id: u32,
    /// `true` if the server is part of a cluster.
    pub cluster: bool,
    /// In no particular order.
    pub topics: Vec<TopicInfo>,
}

impl Payload for DiscoverTopicsResponse {
    const KIND: Kind = Kind::DiscoverTopics;

    fn put_fields(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(&self.request_id.to_le_bytes());
        out.extend_from_slice(&u32::try_from(self.topics.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.push(self.cluster.into());
        for topic in &self.topics {
            cursor::put_str8(topic.name.as_bytes(), "topic name, bytes", out)?;
            out.push(topic.enabled.into());
            out.extend_from_slice(&topic.partitions.to_le_bytes());
            // In a cluster each topic has one, elsewhere none.
            let has_factor = topic.replication_factor.is_some();
            EncodeError::check_is("replication factors of a topic", has_factor.into(), self.cluster.into())?;
            out.extend(topic.replication_factor);
        }
        Ok(())
    }

    fn take_fields(c: &mut Cursor<'_>, limits: &Limits) -> Result<DiscoverTopicsResponse, DecodeError> {
        let (request_id, count) = (c.u32("request id")?, c.u32("topic count")?);
        DecodeError::check("topic count", count, limits.topics, 4)?;
        let cluster = c.flag("cluster flag")?;
        let topics = c.many(count, |c| {
            Ok(TopicInfo {
                name: c.name("topic name")?,
                enabled: c.flag("enabled flag")?,
                partitions: c.u16("partition count")?,
                replication_factor: if cluster { Some(c.u8("replication factor")?) } else { None },
            })
        })?;
        Ok(DiscoverTopicsResponse { request_id, cluster, topics })
    }
}

message! {
    /// Asks a server to create a topic.
    CreateTopicRequest: CreateTopic {
        /// Repeated by the answer.
        request_id: u32 = "request id",
        /// 1 to 255 bytes here. Servers accept fewer names (reference, section 7.2).
        topic: String as TopicName = "topic name",
        /// How many partitions, at least 1. A cluster creates at most 64 (reference, section 7.1).
        partitions: u16 = "partition count",
        /// The configuration: lines of `key=value`, possibly none. A cluster ignores it.
        config: String as Settings = "configuration",
    }
}

codes! {
    /// The outcome of the request.
    CreateTopicCode {
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
}

message! {
    /// The answer.
    CreateTopicResponse: CreateTopic {
        /// The request's id.
        request_id: u32 = "request id",
        /// The request's topic.
        topic: String = "topic name",
        /// The outcome.
        code: CreateTopicCode = "create topic code",
    }
}

message! {
    /// Asks a server to reread the configuration file in a partition's folder.
    ReloadConfRequest: ReloadConf {
        /// Repeated by the answer.
        request_id: u32 = "request id",
        /// 1 to 255 bytes.
        topic: String as TopicName = "topic name",
        /// The partition.
        partition: u16 = "partition id",
    }
}

codes! {
    /// The outcome of the request.
    ReloadConfCode {
        /// The file was read and applied.
        Reloaded = 0,
        /// The file is missing, unreadable or empty.
        SystemError = 2,
        /// The file does not parse.
        InvalidConfig = 3,
        /// The topic has no such partition.
        UnknownPartition = 10,
        /// There is no such topic. Also read from code 1, which the C++ client expects for this.
        UnknownTopic = 11 | 1,
        /// Not available in a cluster.
        Unsupported = 12,
    }
}

message! {
    /// The answer.
    ReloadConfResponse: ReloadConf {
        /// The request's id.
        request_id: u32 = "request id",
        /// The request's topic.
        topic: String = "topic name",
        /// The request's partition.
        partition: u16 = "partition id",
        /// The outcome.
        code: ReloadConfCode = "reload code",
    }
}

#[cfg(test)]
mod tests;
