//! [`Request`]: what requests have in common that are answered by one whole frame.

use super::admin::{
    CreateTopicCode, CreateTopicRequest, CreateTopicResponse, DiscoverPartitionsRequest, DiscoverPartitionsResponse,
    DiscoverTopicsRequest, DiscoverTopicsResponse, DiscoverTopologyRequest, DiscoverTopologyResponse, PartitionState,
    ReloadConfCode, ReloadConfRequest, ReloadConfResponse, StatusRequest, StatusResponse, check_id,
};
use super::fetch::{FetchRequest, PartitionAnswer};
use super::frame::Kind;
use super::{DecodeError, EncodeError, Limits, stream};

/// A request that is answered by one frame, which can be held whole.
pub trait Request: Clone {
    /// What the answer says.
    type Answer;
    /// The message id of the answer.
    const ANSWER: Kind;

    /// Sets the id that the answer repeats.
    fn set_request_id(&mut self, id: u32);

    /// Appends the request as a frame, or nothing.
    ///
    /// # Errors
    /// A value that the wire has no room for, or that a server must not be sent.
    fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError>;

    /// Reads the answer from its frame's payload.
    ///
    /// # Errors
    /// Malformed data, more than `limits` allow, or the answer to another request.
    fn read_answer(&self, payload: &[u8], limits: &Limits) -> Result<Self::Answer, DecodeError>;
}

macro_rules! request {
    ($request:ty, $answer:ty, $kind:ident, |$this:ident, $payload:ident, $limits:ident| $read:expr) => {
        impl Request for $request {
            type Answer = $answer;
            const ANSWER: Kind = Kind::$kind;

            fn set_request_id(&mut self, id: u32) {
                self.request_id = id;
            }

            fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
                self.encode(out)
            }

            fn read_answer(&self, $payload: &[u8], $limits: &Limits) -> Result<$answer, DecodeError> {
                let $this = self;
                $read
            }
        }
    };
}

request!(StatusRequest, StatusResponse, Status, |this, payload, _limits| {
    let answer = StatusResponse::decode(payload)?;
    check_id(answer.request_id, this.request_id).map(|()| answer)
});

request!(DiscoverTopicsRequest, DiscoverTopicsResponse, DiscoverTopics, |this, payload, limits| {
    let answer = DiscoverTopicsResponse::decode(payload, limits)?;
    check_id(answer.request_id, this.request_id).map(|()| answer)
});

request!(DiscoverTopologyRequest, DiscoverTopologyResponse, DiscoverTopology, |this, payload, limits| {
    let answer = DiscoverTopologyResponse::decode(payload, limits)?;
    check_id(answer.request_id, this.request_id).map(|()| answer)
});

// `None`: there is no such topic.
request!(DiscoverPartitionsRequest, Option<Vec<PartitionState>>, DiscoverPartitions, |this, payload, _limits| {
    let answer = DiscoverPartitionsResponse::decode(payload)?;
    answer.check_answers(this)?;
    Ok(answer.is_known().then_some(answer.partitions))
});

request!(ReloadConfRequest, ReloadConfCode, ReloadConf, |this, payload, _limits| {
    let answer = ReloadConfResponse::decode(payload)?;
    answer.check_answers(this).map(|()| answer.code)
});

request!(CreateTopicRequest, CreateTopicCode, CreateTopic, |this, payload, _limits| {
    let answer = CreateTopicResponse::decode(payload)?;
    answer.check_answers(this).map(|()| answer.code)
});

// What the broker says of each partition, in the order of `slots`: for questions that no data answers.
request!(FetchRequest, Vec<PartitionAnswer>, Consume, |this, payload, limits| stream::answers(this, payload, limits));
